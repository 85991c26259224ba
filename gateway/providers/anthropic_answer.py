"""Anthropic's messages and their streams -> OpenAI's chat completions and chunks. Pure.

A stream, event by event (platform.claude.com/docs/en/build-with-claude/streaming, and `types/raw_*_event.py` of
anthropic 2.11.0, both read 2026-11-21):

    message_start          the first chunk, with the role; id and model for all; input tokens are noted
    content_block_start    of a tool: a call with id and name
    content_block_delta    words, thoughts, pieces of arguments; signatures and citations have no place
    content_block_stop     of a tool without arguments: `{}`
    message_delta          the finish reason, and, where it was asked for, the usage
    message_stop           `[DONE]`
    error                  the usage as far as it is known, then the error; nothing follows
    ping, and whatever is new: nothing

Anthropic counts input beside what its cache read and wrote; OpenAI's prompt is the sum. Its output includes thinking,
as OpenAI's does. Counts in a `message_delta` are totals and replace earlier ones.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from gateway.providers.anthropic_errors import envelope, refusal
from gateway.providers.translated import Untranslatable
from gateway.streaming import last_boundary, parse_payload, payload_of, split_events

__all__ = ["Asked", "ChatTranslator", "chat_usage"]

_FINISH: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_TIERS: Final = {"standard": "default", "priority": "priority", "batch": "batch"}
_COUNTED: Final = frozenset(
    """
    input_tokens cache_read_input_tokens cache_creation_input_tokens output_tokens output_tokens_details service_tier
    """.split()
)
_UNBELIEVABLE: Final = {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}
"""For counts that are none: a report that `gateway.usage` refuses, so that the call is estimated and flagged."""


class Asked(NamedTuple):
    """What an answer is told with that is not in it."""

    created: int
    """Unix seconds."""
    has_usage_event: bool
    """The caller of this provider asked for `stream_options.include_usage`."""
    event_bytes_max: int
    """The largest event of a stream."""


def chat_usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Anthropic's usage in OpenAI's inclusive shape."""
    details = usage.get("output_tokens_details")
    thinking = _count(details.get("thinking_tokens") if isinstance(details, dict) else None, 0)
    read, written = (_count(usage.get(f"cache_{what}_input_tokens"), 0) for what in ("read", "creation"))
    fresh, output = (_count(usage.get(f"{what}_tokens"), None) for what in ("input", "output"))
    if fresh is None or output is None or read is None or written is None or thinking is None:
        return dict(_UNBELIEVABLE)
    prompt = fresh + read + written
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": thinking},
    }


def _count(value: object, absent: int | None) -> int | None:
    """A count; `absent` where there is none, None where there is something else."""
    if value is None:
        return absent
    return value if type(value) is int and value >= 0 else None


class ChatTranslator:
    """Lifetime: one answer. A `Translator`."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._tail = bytearray()
        self._head: dict[str, Any] = {}
        """What all chunks share; empty until `message_start`."""
        self._usage: dict[str, Any] = {}
        self._told_usage: dict[str, Any] | None = None
        self._calls: dict[int, _Call] = {}
        """Tool calls by the index of their block."""
        self._is_finished = False
        self._is_over = False
        self._fault: Untranslatable | None = None

    def whole(self, body: bytes) -> bytes:
        message = parse_payload(body)
        if message is None or message.get("type") != "message":
            raise Untranslatable("an answer that is no message")
        content, reason = message.get("content"), message.get("stop_reason")
        if not isinstance(content, list) or not isinstance(reason, str):
            raise Untranslatable("a message without content or stop reason")
        usage = message.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        choice = {
            "index": 0,
            "message": _message(content),
            "logprobs": None,
            "finish_reason": _FINISH.get(reason, "stop"),
        }
        completion = {
            **_shared(message, "chat.completion", self._asked.created),
            "choices": [choice],
            "usage": chat_usage(usage),
            **_tier(usage),
        }
        return orjson.dumps(completion)

    def refusal(self, status: int, body: bytes) -> bytes:
        return refusal(status, body)

    def feed(self, data: bytes) -> bytes:
        if self._fault is not None:
            raise self._fault
        tail = self._tail
        tail += data
        cut = last_boundary(tail, max(0, len(tail) - len(data) - 3))
        if not cut:
            if len(tail) > self._asked.event_bytes_max:
                raise Untranslatable("an event above the bound")
            return b""
        block = bytes(tail[:cut])
        del tail[:cut]
        told = bytearray()
        try:
            for event in split_events(block):
                told += self._told(payload_of(event))
        except Untranslatable as fault:
            if not told:
                raise
            self._fault = fault  # what came before it is told first, however the bytes were split
        return bytes(told)

    def finish(self) -> bytes:
        """A last event without its blank line counts if it is whole. What was consumed is told, whatever is missing."""
        if self._fault is not None:
            raise self._fault
        last = payload_of(bytes(self._tail))
        self._tail.clear()
        told = self._told(last) if parse_payload(last) is not None else b""
        return told if self._is_over else told + self._usage_event()

    # Events

    def _told(self, payload: bytes) -> bytes:
        if self._is_over or not payload:
            return b""
        event = parse_payload(payload)
        if event is None:
            raise Untranslatable("an event that is no JSON object")
        kind = event.get("type")
        tell = _TELLERS.get(kind) if isinstance(kind, str) else None
        if tell is None:
            return b""
        if not self._head and kind not in ("message_start", "error"):
            raise Untranslatable("an event before the message began")
        return tell(self, event)

    def _start(self, event: dict[str, Any]) -> bytes:
        message = event.get("message")
        if self._head or not isinstance(message, dict):
            raise Untranslatable("a message that begins twice, or not at all")
        self._head = _shared(message, "chat.completion.chunk", self._asked.created)
        self._note(message.get("usage"))
        return self._delta({"role": "assistant", "content": "", "refusal": None})

    def _block_start(self, event: dict[str, Any]) -> bytes:
        block = event.get("content_block")
        if not isinstance(block, dict):
            return b""
        if block.get("type") != "tool_use":
            return self._said(_text(block.get("text")), _text(block.get("thinking")))
        initial = block.get("input")
        call = _Call(len(self._calls), orjson.dumps(initial).decode() if initial else "")
        self._calls[_index(event)] = call
        function = {"name": _text(block.get("name")), "arguments": call.arguments}
        told = {"index": call.index, "id": _text(block.get("id")), "type": "function", "function": function}
        return self._delta({"tool_calls": [told]})

    def _block_delta(self, event: dict[str, Any]) -> bytes:
        delta = event.get("delta")
        if not isinstance(delta, dict):
            return b""
        if delta.get("type") != "input_json_delta":
            return self._said(_text(delta.get("text")), _text(delta.get("thinking")))
        call, piece = self._calls.get(_index(event)), _text(delta.get("partial_json"))
        if call is None or not piece:
            return b""  # of a tool that Anthropic runs itself
        call.arguments = piece
        return self._arguments(call)

    def _block_stop(self, event: dict[str, Any]) -> bytes:
        call = self._calls.get(_index(event))
        if call is None or call.arguments:
            return b""
        # A call without arguments has no pieces here, and an empty object in a whole answer. Clients parse what they get.
        call.arguments = "{}"
        return self._arguments(call)

    def _message_delta(self, event: dict[str, Any]) -> bytes:
        self._note(event.get("usage"))
        delta = event.get("delta")
        reason = delta.get("stop_reason") if isinstance(delta, dict) else None
        if isinstance(reason, str) and not self._is_finished:
            self._is_finished = True
            return self._chunk([_choice({}, _FINISH.get(reason, "stop"))]) + self._usage_event()
        return self._usage_event() if self._is_finished else b""

    def _message_stop(self, event: dict[str, Any]) -> bytes:
        if not self._is_finished:
            raise Untranslatable("a message that ends without a stop reason")
        self._is_over = True
        return b"data: [DONE]\n\n"

    def _error(self, event: dict[str, Any]) -> bytes:
        told = self._usage_event()
        self._is_over = True
        return told + b"data: " + envelope(event) + b"\n\n"

    # Chunks

    def _said(self, text: str, thinking: str) -> bytes:
        """Words or thoughts; nothing for the empty ones that open a block."""
        if text:
            return self._delta({"content": text})
        return self._delta({"reasoning_content": thinking}) if thinking else b""

    def _arguments(self, call: "_Call") -> bytes:
        return self._delta({"tool_calls": [{"index": call.index, "function": {"arguments": call.arguments}}]})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._chunk([_choice(delta, None)])

    def _usage_event(self) -> bytes:
        """Once for each report that differs from the last one told."""
        if not self._asked.has_usage_event or not self._usage or self._usage == self._told_usage:
            return b""
        self._told_usage = dict(self._usage)
        return self._chunk([], usage=chat_usage(self._usage), **_tier(self._usage))

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: %s\n\n" % orjson.dumps({**self._head, "choices": choices, **more})

    def _note(self, usage: object) -> None:
        """Counts that are there replace earlier ones."""
        if isinstance(usage, dict):
            known = {name: value for name, value in usage.items() if name in _COUNTED and value is not None}
            self._usage.update(known)


class _Call:
    """A tool call being streamed. `arguments` is the last piece of them; empty until there is one."""

    __slots__ = ("arguments", "index")

    def __init__(self, index: int, arguments: str) -> None:
        self.index = index
        self.arguments = arguments


_TELLERS: Final = {
    "message_start": ChatTranslator._start,
    "content_block_start": ChatTranslator._block_start,
    "content_block_delta": ChatTranslator._block_delta,
    "content_block_stop": ChatTranslator._block_stop,
    "message_delta": ChatTranslator._message_delta,
    "message_stop": ChatTranslator._message_stop,
    "error": ChatTranslator._error,
}


def _message(content: list[Any]) -> dict[str, Any]:
    """The blocks of a whole answer as one message."""
    blocks = [block for block in content if isinstance(block, dict)]
    text = "".join(_text(block.get("text")) for block in blocks if block.get("type") == "text")
    thinking = "".join(_text(block.get("thinking")) for block in blocks if block.get("type") == "thinking")
    calls = [_tool_call(block) for block in blocks if block.get("type") == "tool_use"]
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
    if thinking:
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_call(block: dict[str, Any]) -> dict[str, Any]:
    arguments = orjson.dumps(block.get("input") or {}).decode()
    function = {"name": _text(block.get("name")), "arguments": arguments}
    return {"id": _text(block.get("id")), "type": "function", "function": function}


def _shared(message: Mapping[str, Any], object: str, created: int) -> dict[str, Any]:
    return {
        "id": _text(message.get("id")),
        "object": object,
        "created": created,
        "model": _text(message.get("model")),
    }


def _choice(delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _tier(usage: Mapping[str, Any]) -> dict[str, str]:
    tier = usage.get("service_tier")
    return {"service_tier": _TIERS.get(tier, tier)} if isinstance(tier, str) else {}


def _index(event: Mapping[str, Any]) -> int:
    index = event.get("index")
    return index if type(index) is int else -1


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
