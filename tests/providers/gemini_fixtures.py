"""The bodies in `tests/fixtures/gemini`, and translators for them."""

from pathlib import Path
from typing import Any

import orjson

from gateway.providers.gemini_answer import Asked, ChatTranslator

_FOLDER = Path(__file__).parent.parent / "fixtures" / "gemini"
STREAMS = sorted(path.name for path in _FOLDER.glob("*.sse"))
ASKED = Asked("gemini-3.5-flash", "req-1", 1_700_000_000, has_usage_event=True)


def fixture(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()


def whole(name: str, **how: Any) -> dict[str, Any]:
    """The chat completion that a whole answer becomes."""
    return dict(orjson.loads(ChatTranslator(ASKED._replace(**how)).whole(fixture(name))))


def streamed(data: bytes, **how: Any) -> bytes:
    """What a stream becomes."""
    translator = ChatTranslator(ASKED._replace(**how))
    return translator.feed(data) + translator.finish()


def chunks(translated: bytes) -> list[Any]:
    """The messages of a translated stream; `[DONE]` as the text it is."""
    payloads = [event.removeprefix(b"data: ") for event in translated.split(b"\n\n") if event]
    return ["[DONE]" if payload == b"[DONE]" else orjson.loads(payload) for payload in payloads]
