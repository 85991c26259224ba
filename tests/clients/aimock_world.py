"""The mock provider of others (npm `@copilotkit/aimock` 1.43.0) as upstream: what it says, and the catalog rows in front of it.

Each model stands for one of its dialects. A prompt that begins with a fixture's word gets that fixture's answer.
"""

from collections.abc import Sequence
from typing import Any

from tests.clients.world import PRICE_LINES
from tests.clients.world import rows as rows_of

TOKENS_IN, TOKENS_OUT = 3, 17
TEXT = "Ulm's minster has the tallest steeple of all – 161 metres."
ARGUMENTS = '{"city":"Ulm"}'
CALL_ID = "call_minster01"
CUT_AFTER = 3

OPENAI, ANTHROPIC, GEMINI, NATIVE, EMBED = "aim-chat", "aim-claude", "aim-gemini", "aim-native", "aim-embed"
MEDIA = ("image", "speech", "transcribe")
CHAT_MODELS = (OPENAI, ANTHROPIC, GEMINI)

_USAGE: dict[str, dict[str, int]] = {
    OPENAI: {"prompt_tokens": TOKENS_IN, "completion_tokens": TOKENS_OUT},
    ANTHROPIC: {"input_tokens": TOKENS_IN, "output_tokens": TOKENS_OUT},
    NATIVE: {"input_tokens": TOKENS_IN, "output_tokens": TOKENS_OUT},
    GEMINI: {"promptTokenCount": TOKENS_IN, "candidatesTokenCount": TOKENS_OUT},
}
_FIXED: dict[str, dict[str, object]] = {
    OPENAI: {"id": "chatcmpl-aimock", "created": 1_790_000_000},
    ANTHROPIC: {"id": "msg_aimock01"},
    NATIVE: {"id": "resp_aimock0123456789", "created": 1_790_000_000},
    GEMINI: {},
}


def fixtures() -> list[dict[str, Any]]:
    return [
        *(fixture for model in (*CHAT_MODELS, NATIVE) for fixture in _fixtures(model)),
        {"match": {"inputText": "embed"}, "response": {"embedding": [0.5, -0.25, 0.125]}},
        {"match": {"userMessage": "paint", "endpoint": "image"}, "response": {"image": {"b64Json": "cGl4ZWw="}}},
        {
            "match": {"userMessage": "paint", "endpoint": "fal"},
            "response": {"json": {"images": [_picture(), _picture()], "seed": 7}},
        },
        {"match": {"userMessage": "say", "endpoint": "speech"}, "response": {"audio": "c291bmQ=", "format": "mp3"}},
        {"match": {"endpoint": "transcription"}, "response": {"transcription": {"text": "silence"}}},
    ]


def _picture() -> dict[str, Any]:
    """As fal answers with `sync_mode`: the image itself, in a data: URL."""
    return {"url": "data:image/png;base64,cGl4ZWw=", "width": 1024, "height": 1024, "content_type": "image/png"}


def _fixtures(model: str) -> list[dict[str, Any]]:
    always = {"usage": _USAGE[model], **_FIXED[model]}
    text = {"content": TEXT, **always}
    calls: dict[str, Any] = {"toolCalls": [{"name": "weather", "arguments": ARGUMENTS, "id": CALL_ID}], **always}
    if model == GEMINI:
        calls["finishReason"] = "stop"  # what Google says with a call; the mock has a word of its own, FUNCTION_CALL

    def fixture(word: str, response: dict[str, Any], match: Sequence[tuple[str, object]] = (), **more: object) -> Any:
        return {"match": {"userMessage": word, "model": model, **dict(match)}, "response": response, **more}

    def error(status: int, code: str, **more: object) -> dict[str, Any]:
        return {"error": {"message": f"Refused: {code}", "type": code, "code": code}, "status": status, **more}

    return [
        fixture("tell", text),
        fixture("cut", text, truncateAfterChunks=CUT_AFTER),
        fixture("tool", calls, [("hasToolResult", False)]),
        fixture("tool", text, [("hasToolResult", True)]),
        fixture("wrong", error(400, "invalid_request_error")),
        fixture("broken", error(500, "api_error")),
        fixture("busy", error(429, "rate_limit_error", retryAfter=1), [("sequenceIndex", 0)]),
        fixture("busy", text),
    ]


def rows(url: str) -> str:
    """Providers at `url` and their models, 2.50 and 10 USD a million tokens."""
    return "\n".join(
        [
            _provider("openai", f"{url}/v1"),
            _provider(
                "anthropic",
                f"{url}/v1",
                'auth_header = "x-api-key"\nheaders = { anthropic-version = "2023-06-01" }',
            ),
            _provider("gemini", f"{url}/v1beta", 'auth_header = "x-goog-api-key"'),
            _model(OPENAI, "openai", '["chat"]'),
            _model(NATIVE, "openai", '["responses"]'),
            _model(ANTHROPIC, "anthropic", '["chat", "messages"]'),
            _model(GEMINI, "gemini", '["chat"]'),
            _model(EMBED, "openai", '["embeddings"]'),
            # The mock tells fal's services apart by this header.
            _provider("fal", f"{url}/fal", 'headers = { x-fal-target-host = "fal.run" }'),
            rows_of({"aim-fal": ('["images"]', PRICE_LINES["kit-image"][1])}, "aimock-fal"),
            rows_of({f"aim-{name}": PRICE_LINES[f"kit-{name}"] for name in MEDIA}, "aimock-openai"),
        ]
    )


def _provider(dialect: str, base_url: str, lines: str = "") -> str:
    return (
        f'[providers.aimock-{dialect}]\ndialect = "{dialect}"\nbase_url = "{base_url}"\n'
        f'api_key_env = "RIG_PROVIDER_KEY"\n{lines}\n'
    )


def _model(name: str, dialect: str, endpoints: str) -> str:
    return f"""
[models."{name}"]
provider = "aimock-{dialect}"
endpoints = {endpoints}
input_usd_per_mtok = 2.5
output_usd_per_mtok = 10
context_tokens_max = 128000
output_tokens_max = 4096
capabilities = ["tools", "json_schema"]
"""
