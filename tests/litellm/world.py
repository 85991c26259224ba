"""A gateway process in litellm's environment, the catalog of its models, and what their providers send, byte for byte.

Three dialects that the gateway does not speak: Amazon's Bedrock (Converse, 2023-09-30 API: JSON, streams framed as
`application/vnd.amazon.eventstream`), Mistral (chat completions of its own flavour, 2026-11) and Cohere (v2 chat and embed).
"""

import json
import struct
import subprocess
from pathlib import Path
from typing import Any
from zlib import crc32

from tests.clients.environments import python_of
from tests.rig import wire
from tests.rig.catalog import PLANS
from tests.rig.environment import REPOSITORY
from tests.rig.gateway import Gateway
from tests.rig.upstream import Upstream

NOVA, MISTRAL, COHERE, COHERE_EMBED, CANVAS = "nova-pro", "mistral-large", "command-a", "embed-4", "nova-canvas"
NOBODY = "nobody-1"

_PROVIDER = """
[providers.{name}]
dialect = "litellm"
litellm_provider = "{library}"
base_url = "{base_url}"
api_key_env = "RIG_PROVIDER_KEY"
"""
_CHAT_MODEL = """
[models."{name}"]
provider = "{provider}"
upstream_model = "{upstream}"
endpoints = ["chat"]
input_usd_per_mtok = 0.80
cached_input_usd_per_mtok = 0.20
cache_write_usd_per_mtok = 1.00
output_usd_per_mtok = 3.20
context_tokens_max = 300000
output_tokens_max = 5000
capabilities = ["tools", "json_schema", "vision"]
"""
"""The figures of every cost in these tests: 800, 200, 1 000 and 3 200 nano-dollars a token."""
_OTHER_MODELS = f"""
[models."{COHERE_EMBED}"]
provider = "cohere-embed"
upstream_model = "embed-v4.0"
endpoints = ["embeddings"]
input_usd_per_mtok = 0.12
context_tokens_max = 128000

[models."{CANVAS}"]
provider = "bedrock"
upstream_model = "amazon.nova-canvas-v1:0"
endpoints = ["images"]
image_default = "1024x1024/standard"

[models."{CANVAS}".image_usd]
"1024x1024/standard" = 0.04
"""


def models(upstream: Upstream) -> str:
    """The rows these tests add to the rig's catalog."""
    root = f"http://127.0.0.1:{upstream.port}"
    providers = [
        ("bedrock", "bedrock", root),
        ("mistral", "mistral", f"{root}/v1"),
        ("cohere", "cohere", f"{root}/v2/chat"),
        ("nobody", "nobody-has-heard-of-it", root),
        ("cohere-embed", "cohere", f"{root}/v2/embed"),
    ]
    rows = [_PROVIDER.format(name=name, library=library, base_url=url) for name, library, url in providers]
    chats = [
        (NOVA, "bedrock", "amazon.nova-pro-v1:0"),
        (MISTRAL, "mistral", "mistral-large-latest"),
        (COHERE, "cohere", "command-a-03-2025"),
        (NOBODY, "nobody", "nobody-1"),
    ]
    rows += [_CHAT_MODEL.format(name=name, provider=provider, upstream=model) for name, provider, model in chats]
    return "\n".join([*rows, _OTHER_MODELS])


class LibraryGateway(Gateway):
    """The rig's gateway, run by the Python that has litellm."""

    def __init__(self, folder: Path, upstream: Upstream, **options: Any) -> None:
        super().__init__(folder, upstream, models=models(upstream), plans=PLANS, **options)

    @property
    def environment(self) -> dict[str, str]:
        """Keys and hosts of the same providers, as they may lie around on an operator's machine: none may be used."""
        elsewhere = {
            "AWS_BEARER_TOKEN_BEDROCK": "stray-canary-key",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "MISTRAL_API_KEY": "stray-canary-key",
            "COHERE_API_KEY": "stray-canary-key",
            "OPENAI_ORG_ID": "stray-canary-organization",
            "MISTRAL_API_BASE": "http://127.0.0.1:9",
            "COHERE_API_BASE": "http://127.0.0.1:9",
            "PYTHONPATH": str(REPOSITORY),
        }
        return {**super().environment, **elsewhere}

    def launch(self) -> None:
        assert self.process is None, "the gateway is already running"
        with (self.folder / "stdout").open("ab") as stdout, (self.folder / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                [str(python_of("litellm")), "-m", "gateway", "serve"],
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )


# Bedrock


def converse(content: list[dict[str, Any]], usage: dict[str, int], stop: str = "end_turn") -> dict[str, Any]:
    return {
        "metrics": {"latencyMs": 551},
        "output": {"message": {"content": content, "role": "assistant"}},
        "stopReason": stop,
        "usage": usage,
    }


def bedrock_event(type: str, payload: dict[str, Any], *, kind: str = "event") -> bytes:
    """One message of AWS's event stream encoding: lengths, headers and two checksums around the payload."""
    named = {":event-type" if kind == "event" else ":exception-type": type}
    named |= {":content-type": "application/json", ":message-type": kind}
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in named.items()
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", 12 + len(headers) + len(body) + 4, len(headers))
    message = prelude + struct.pack("!I", crc32(prelude)) + headers + body
    return message + struct.pack("!I", crc32(message))


BEDROCK_STREAM_HEAD = wire.head(
    200,
    [
        ("content-type", "application/vnd.amazon.eventstream"),
        ("transfer-encoding", "chunked"),
        ("x-amzn-requestid", "amzn-request-1"),
    ],
)


def bedrock_text(*pieces: str) -> list[bytes]:
    """A role and the pieces of an answer."""
    deltas = [
        bedrock_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}}) for piece in pieces
    ]
    return [bedrock_event("messageStart", {"role": "assistant"}), *deltas]


def bedrock_end(usage: dict[str, int], stop: str = "end_turn") -> list[bytes]:
    return [
        bedrock_event("contentBlockStop", {"contentBlockIndex": 0}),
        bedrock_event("messageStop", {"stopReason": stop}),
        bedrock_event("metadata", {"usage": usage, "metrics": {"latencyMs": 551}}),
    ]


# Cohere


def cohere(content: str, *, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    counts = {"input_tokens": input_tokens, "output_tokens": output_tokens}
    return {
        "id": "c14c80c3-18eb-4519-9460-6c92edd8cfb4",
        "finish_reason": "COMPLETE",
        "message": {"role": "assistant", "content": [{"type": "text", "text": content}]},
        "usage": {"billed_units": counts, "tokens": counts},
    }
