"""What the tests of the Python clients share: a gateway with a model for every endpoint, and a process full of clients."""

import itertools
import json
import queue
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.clients.environments import python_of
from tests.rig import catalog
from tests.rig.environment import REPOSITORY, inherited
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Script, Upstream
from tests.rig.waiting import PATIENCE_S, eventually

_ANSWER_WITHIN_S = 60.0
"""Bound on hanging. The first answer takes longest: a process imports its libraries meanwhile, and some of them lazily."""
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NOWHERE = "http://127.0.0.1:9"
"""A proxy that leads to nobody: a client that wants to talk to its maker cannot."""

_ROWS = """
[models."rig-completions"]
provider = "rig"
endpoints = ["completions"]
input_usd_per_mtok = 1.50
output_usd_per_mtok = 2.00
context_tokens_max = 4096
output_tokens_max = 4096

[models."rig-embed"]
provider = "rig"
endpoints = ["embeddings"]
input_usd_per_mtok = 0.13
context_tokens_max = 8192

[models."rig-image"]
provider = "rig"
endpoints = ["images", "image_edits", "image_variations"]
image_usd = { "1024x1024/standard" = 0.04, "1024x1024/hd" = 0.08 }
image_default = "1024x1024/standard"

[models."rig-image-tokens"]
provider = "rig"
endpoints = ["images", "image_edits"]
input_usd_per_mtok = 5
image_input_usd_per_mtok = 8
image_output_usd_per_mtok = 30
image_output_tokens_max = 6240

[models."rig-speech"]
provider = "rig"
endpoints = ["speech"]
speech_usd_per_mchar = 15

[models."rig-speech-tokens"]
provider = "rig"
endpoints = ["speech"]
input_usd_per_mtok = 0.60
audio_output_usd_per_mtok = 12

[models."rig-listen"]
provider = "rig"
endpoints = ["transcriptions", "translations"]
audio_usd_per_second = 0.0001

[models."rig-listen-tokens"]
provider = "rig"
endpoints = ["transcriptions"]
input_usd_per_mtok = 2.50
audio_input_usd_per_mtok = 6
output_usd_per_mtok = 10
context_tokens_max = 16000
output_tokens_max = 2000

[models."rig-moderation"]
provider = "rig"
endpoints = ["moderations"]
input_usd_per_mtok = 0
"""

_NATIVE = """
[models."{name}"]
provider = "{provider}"
upstream_model = "upstream-native"
endpoints = ["{endpoint}"]
input_usd_per_mtok = 2.50
cached_input_usd_per_mtok = 0.3125
output_usd_per_mtok = 10.00
reasoning_usd_per_mtok = 12.34567
context_tokens_max = 128000
output_tokens_max = 16384
capabilities = ["tools", "json_schema"]
"""
"""At the prices of `rig-chat`."""

_ANTHROPIC = """
[providers.rig-anthropic]
dialect = "anthropic"
base_url = "{base_url}"
api_key_env = "RIG_PROVIDER_KEY"
auth_header = "x-api-key"
headers = {{ anthropic-version = "2023-06-01" }}
"""


class Paid(NamedTuple):
    """What a ledger entry must say. Tokens are OpenAI's inclusive totals."""

    endpoint: str
    model: str
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int
    source: str = "provider"


def chat_paid(
    input_tokens: int,
    output_tokens: int,
    *,
    cached: int = 0,
    reasoning: int = 0,
    endpoint: str = "chat",
    model: str = "rig-chat",
) -> Paid:
    """An entry at the prices of `rig-chat`."""
    cost = catalog.cost_nano_usd(input_tokens, output_tokens, cached=cached, reasoning=reasoning)
    return Paid(endpoint, model, input_tokens, output_tokens, cost)


@dataclass(frozen=True)
class Played:
    """What came of a scenario."""

    value: Any
    key: Key
    gateway: Gateway

    @property
    def entries(self) -> list[dict[str, Any]]:
        """This key's part of the ledger, oldest first."""
        return sorted(self.gateway.entries(creator=self.key.creator), key=lambda entry: str(entry["id"]))

    def assert_paid(self, *expected: Paid) -> None:
        """The ledger has exactly these entries, in any order, each of an attempt that went well."""
        eventually(lambda: len(self.entries) >= len(expected), f"{len(expected)} entries")
        entries = self.entries
        found = [
            Paid(
                entry["endpoint"],
                entry["served_model"],
                entry["input_tokens"],
                entry["output_tokens"],
                entry["cost_nano_usd"],
                entry["usage_source"],
            )
            for entry in entries
        ]
        assert sorted(found) == sorted(expected), entries
        assert {entry["outcome"] for entry in entries} <= {"ok"}, entries
        assert all(entry["charge_nano_usd"] == entry["cost_nano_usd"] and not entry["flags"] for entry in entries)

    def assert_free(self) -> None:
        """Nothing was paid, whether or not there is an entry that says so."""
        assert [entry["cost_nano_usd"] for entry in self.entries if entry["cost_nano_usd"]] == []


class Clients:
    """One process of a client environment; scenarios are played in it one after the other."""

    def __init__(self, family: str, scenarios: str, gateway: Gateway) -> None:
        self._gateway = gateway
        self._stderr = gateway.folder / f"{family}-{scenarios}.stderr"
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [str(python_of(family)), "-m", f"tests.clients.python.{scenarios}"],
                cwd=REPOSITORY,
                env=_environment(gateway),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def play(self, scenario: str, script: Script | None = None, *, key: Key | None = None, **fields: object) -> Played:
        """Plays `scenario` with a key of its own. Raises `AssertionError` with the client's traceback where it fails."""
        key = key or self._gateway.new_key()
        order = {"scenario": scenario, "key": key.key, "marker": script.marker if script else "", **fields}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._next()
        assert "value" in answer, f"{scenario}:\n{answer['failed']}"
        return Played(answer["value"], key, self._gateway)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join(PATIENCE_S)
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _next(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=_ANSWER_WITHIN_S)
        except queue.Empty:
            line = ""
        assert line, f"the client hangs or has ended: {self._stderr.read_text()}"
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def served(upstream: Upstream, folder: Path, *clients: tuple[str, str]) -> Iterator[tuple[Gateway, list[Clients]]]:
    """A gateway with these models, and a process for each family and its scenarios. All must be well at the end."""
    gateway = Gateway(folder, upstream, models=rows(upstream.base_url))
    processes: list[Clients] = []
    try:
        # The slow part of both is their imports, so they start side by side.
        processes += [Clients(family, scenarios, gateway) for family, scenarios in clients]
        yield gateway.start(), processes
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        for process in processes:
            process.close()
        gateway.close()


def rows(base_url: str) -> str:
    """Catalog rows for what the rig's own catalog has no model of."""
    return "\n".join(
        [
            _ROWS,
            _ANTHROPIC.format(base_url=base_url),
            _NATIVE.format(name="rig-responses", provider="rig", endpoint="responses"),
            _NATIVE.format(name="rig-messages", provider="rig-anthropic", endpoint="messages"),
        ]
    )


def _environment(gateway: Gateway) -> dict[str, str]:
    certificates = gateway.folder / "no-certificates"
    certificates.mkdir(exist_ok=True)
    proxies = dict.fromkeys(itertools.chain(*((name, name.upper()) for name in _PROXIES)), _NOWHERE)
    return {
        **{name: value for name, value in inherited().items() if name != "SSL_CERT_FILE"},
        # Read anew for each client that is made, which takes longer than its call; nothing here speaks TLS.
        "SSL_CERT_DIR": str(certificates),
        **proxies,
        "no_proxy": "127.0.0.1",
        "NO_PROXY": "127.0.0.1",
        "OPENAI_BASE_URL": f"{gateway.url}/v1",
        "ANTHROPIC_BASE_URL": gateway.url,
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "LANGSMITH_TRACING": "false",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
