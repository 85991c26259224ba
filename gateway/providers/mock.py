"""A provider inside the gateway: deterministic answers in OpenAI's shape, for first runs, tests of apps, and demos.

The upstream model's name says how it behaves:

    ...error-503...   answers that status with an error body (any status from 400 to 599)
    ...tools...       calls the first function of `tools`, if there is one
    ...reasoning...   spends reasoning tokens before it answers
    ...die...         breaks the connection in the middle of its answer
    ...slow...        200 ms to the first byte, 50 ms between the pieces
    ...f20d10n64...   20 ms to the first byte, 10 ms between the pieces, 64 pieces

Everything else repeats what the user said last. A token is four bytes, rounded up. This module is chat; all other
endpoints are `gateway.providers.mock_endpoints`, where names may say more (`mock_images`, `mock_audio`). Statuses, deaths
and delays are the same for all.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import orjson

from gateway.catalog import ProviderRow
from gateway.config import Settings
from gateway.providers.base import Deadlines, Exchange, FailureKind, UpstreamFailure, UpstreamRequest
from gateway.providers.mock_answers import Reply, json_reply, words_of
from gateway.providers.mock_endpoints import read_fields, reply

CHAT_PATH = "/chat/completions"

_TIMING = re.compile(r"f(\d{1,6})d(\d{1,6})n(\d{1,6})")
_ERROR = re.compile(r"error-([45]\d\d)")
_REASONING_TOKENS = 64
_WORDS = ("The", "quick", "brown", "fox", "jumps", "over", "the", "lazy")


class MockProvider:
    def __init__(self, row: ProviderRow, api_key: str, settings: Settings) -> None:
        self.name = row.name

    async def open(self, request: UpstreamRequest, gate: Awaitable[None]) -> Exchange:
        await gate
        request.on_dial()
        body, files = await read_fields(request)
        model: str = body.get("model", "")
        if status := _ERROR.search(model):
            return _refusal(int(status[1]), request.deadlines)
        await asyncio.sleep(_first_byte_s(model))
        if request.path == CHAT_PATH and body.get("stream"):
            script = _Script.of(body)
            wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            pieces = _paced(_events(script, wants_usage), script.between_s, script.dies_after)
            return _Answer(200, "text/event-stream; charset=utf-8", pieces, request.deadlines)
        answer = _completed(body) if request.path == CHAT_PATH else reply(request.path, body, files)
        if answer is None:
            return _refusal(404, request.deadlines, "The mock has nothing at this path.")
        count = len(answer.pieces)
        if "die" in model and count == 1:
            raise UpstreamFailure("died", "a mock that dies", is_sent=True, is_fully_sent=True)
        pieces = _paced(iter(answer.pieces), _between_s(model), count // 2 if "die" in model else None)
        return _Answer(200, answer.content_type, pieces, request.deadlines)

    async def close(self) -> None:
        """Nothing is held."""


def _first_byte_s(model: str) -> float:
    if timing := _TIMING.search(model):
        return int(timing[1]) / 1000
    return 0.2 if "slow" in model else 0.0


def _between_s(model: str) -> float:
    if timing := _TIMING.search(model):
        return int(timing[2]) / 1000
    return 0.05 if "slow" in model else 0.0


class _Script(NamedTuple):
    """What a chat completion will be answered, and at which pace."""

    model: str
    words: list[str]
    tool: str | None
    prompt_tokens: int
    reasoning_tokens: int
    choices: int
    between_s: float
    is_cut: bool
    service_tier: str | None = None
    """As asked for: a mock serves any."""

    @classmethod
    def of(cls, body: dict[str, Any]) -> "_Script":
        model = body["model"]
        said = _last_user_text(body["messages"])
        words = words_of(said)
        if timing := _TIMING.search(model):
            words = [f"{_WORDS[i % len(_WORDS)]} " for i in range(int(timing[3]))]
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        is_cut = limit is not None and len(words) > limit
        return cls(
            model=model,
            words=words[:limit] if is_cut else words,
            tool=_first_function(body.get("tools")) if "tools" in model else None,
            prompt_tokens=-(-sum(len(_text(message).encode()) for message in body["messages"]) // 4),
            reasoning_tokens=_REASONING_TOKENS if "reasoning" in model else 0,
            choices=body.get("n") or 1,
            between_s=_between_s(model),
            is_cut=is_cut,
            service_tier=body.get("service_tier"),
        )

    @property
    def dies_after(self) -> int | None:
        """Events after which the stream breaks; None: it does not."""
        return len(self.words) // 2 if "die" in self.model else None

    @property
    def tier(self) -> dict[str, str]:
        return {} if self.service_tier is None else {"service_tier": self.service_tier}

    @property
    def finish_reason(self) -> str:
        if self.tool:
            return "tool_calls"
        return "length" if self.is_cut else "stop"

    @property
    def usage(self) -> dict[str, Any]:
        each = 8 if self.tool else -(-sum(len(word.encode()) for word in self.words) // 4)
        completion = each * self.choices + self.reasoning_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }

    def call(self) -> dict[str, Any]:
        return {"id": "call_mock", "type": "function", "function": {"name": self.tool, "arguments": "{}"}}


class _Answer:
    """An `Exchange` over an iterator of our own, with the same deadlines as a real one."""

    def __init__(self, status: int, content_type: str, pieces: AsyncIterator[bytes], deadlines: Deadlines) -> None:
        self.status = status
        self.headers = {"content-type": content_type, "x-request-id": "mock"}
        self._pieces = pieces
        self._deadlines = deadlines
        self._ends_at = time.monotonic() + deadlines.total_s

    async def read(self) -> bytes:
        left = self._ends_at - time.monotonic()
        try:
            async with asyncio.timeout(min(left, self._deadlines.idle_s)):
                return await anext(self._pieces, b"")
        except TimeoutError:
            kind: FailureKind = "total_timeout" if left <= self._deadlines.idle_s else "idle_timeout"
            raise UpstreamFailure(kind, "a mock that is too slow", is_sent=True, is_fully_sent=True) from None

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        while data := await self.read():
            if not take(data):
                return False
        return True

    def close(self) -> None:
        """The iterator is dropped with its exchange; it holds nothing."""


async def _paced(pieces: Iterator[bytes], between_s: float, dies_after: int | None) -> AsyncIterator[bytes]:
    for number, piece in enumerate(pieces):
        if number and between_s:
            await asyncio.sleep(between_s)
        if dies_after is not None and number > dies_after:
            raise UpstreamFailure("died", "a mock that dies", is_sent=True, is_fully_sent=True)
        yield piece


def _completed(body: dict[str, Any]) -> Reply:
    return json_reply(_completion(_Script.of(body)))


def _completion(script: _Script) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(script.words).strip(), "refusal": None}
    if script.tool:
        message |= {"content": None, "tool_calls": [script.call()]}
    return {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": script.model,
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": script.finish_reason}
            for index in range(script.choices)
        ],
        "usage": script.usage,
        **script.tier,
    }


def _events(script: _Script, wants_usage: bool) -> Iterator[bytes]:
    usage = {"usage": None} if wants_usage else {}

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choices = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            for index in range(script.choices)
        ]
        return _event(script, {"choices": choices, **usage})

    if script.tool:
        yield chunk({"role": "assistant", "content": None, "tool_calls": [{"index": 0, **script.call()}]})
    else:
        for number, word in enumerate(script.words):
            yield chunk({"role": "assistant", "content": word} if number == 0 else {"content": word})
    yield chunk({}, script.finish_reason)
    if wants_usage:
        yield _event(script, {"choices": [], "usage": script.usage})
    yield b"data: [DONE]\n\n"


def _event(script: _Script, fields: dict[str, Any]) -> bytes:
    head = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": script.model}
    return b"data: " + orjson.dumps(head | script.tier | fields) + b"\n\n"


def _refusal(status: int, deadlines: Deadlines, message: str = "") -> _Answer:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    error = {
        "message": message or f"The mock answers {status}, as its name says.",
        "type": kind,
        "param": None,
        "code": "mock_error",
    }
    pieces = _paced(iter([orjson.dumps({"error": error})]), 0.0, None)
    return _Answer(status, "application/json", pieces, deadlines)


def _first_function(tools: Any) -> str | None:
    for tool in tools if isinstance(tools, list) else []:
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            return str(function["name"])
    return None


def _last_user_text(messages: list[Any]) -> str:
    return next((_text(message) for message in reversed(messages) if message.get("role") == "user"), "")


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(part["text"] for part in content if isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""
