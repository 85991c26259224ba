"""What an OpenAI-dialect provider sends, as exact bytes, so that tests compare byte for byte."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

DONE = b"data: [DONE]\n\n"
LAST_CHUNK = b"0\r\n\r\n"
COMPLETION_ID = "chatcmpl-rig"
CREATED = 1_790_000_000

Headers = Iterable[tuple[str, str]]


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def usage(prompt: int, completion: int, *, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    """OpenAI's usage object with its inclusive totals."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
    }


def completion(
    content: str | None = "Hello!",
    *,
    usage: object = None,
    model: str = "upstream-chat",
    finish: str = "stop",
    **message: object,
) -> dict[str, Any]:
    """A non-streamed chat completion; without `usage` the field is missing."""
    answer: dict[str, Any] = {
        "id": COMPLETION_ID,
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "logprobs": None,
                "finish_reason": finish,
            }
        ],
    }
    if usage is not None:
        answer["usage"] = usage
    return answer


def chunk(
    content: str | None = None,
    *,
    finish: str | None = None,
    index: int = 0,
    extra: Mapping[str, object] | None = None,
    **delta: object,
) -> dict[str, Any]:
    """One chunk of a chat stream; `extra` adds top-level fields (`usage`)."""
    if content is not None:
        delta = {"content": content, **delta}
    return {
        "id": COMPLETION_ID,
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": "upstream-chat",
        "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}],
        **(extra or {}),
    }


def usage_chunk(numbers: object) -> dict[str, Any]:
    """The chunk that `stream_options.include_usage` asks for: no choices, only the usage."""
    return {**chunk(), "choices": [], "usage": numbers}


def event(data: object) -> bytes:
    """One server-sent event; bytes and strings are taken as they are."""
    payload = data.encode() if isinstance(data, str) else data if isinstance(data, bytes) else compact(data)
    return b"data: " + payload + b"\n\n"


def text_events(*contents: str, finish: str | None = "stop") -> list[bytes]:
    """The usual stream: a role, the contents one by one, a finish reason. No usage, no `[DONE]`."""
    events = [event(chunk("", role="assistant")), *(event(chunk(text)) for text in contents)]
    return [*events, event(chunk(finish=finish))] if finish else events


def head(status: int = 200, headers: Headers = (), reason: str = "Rig") -> bytes:
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def reply(body: object, status: int = 200, headers: Headers = (), content_type: str = "application/json") -> bytes:
    """A whole answer with its length; what is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else compact(body)
    fixed = [("content-type", content_type), ("content-length", str(len(data)))]
    return head(status, [*fixed, *headers]) + data


def stream_head(headers: Headers = (), status: int = 200) -> bytes:
    """The head of a chunked event stream."""
    return head(status, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked"), *headers])


def framed(data: bytes) -> bytes:
    """One chunk of HTTP/1.1's chunked coding."""
    return b"%x\r\n" % len(data) + data + b"\r\n"
