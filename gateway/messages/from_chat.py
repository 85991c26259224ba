"""A chat completion told as a message: whole, or chunk by chunk as events. Pure, one answer each.

1. reasoning becomes a thinking block, if the caller asked for thinking: without a signature, which only Anthropic could
   give, so `signature` is empty (the anthropic package takes it, and no bridge sends it upstream again);
2. what is said becomes a text block, also a refusal; each tool call a block of its own;
3. blocks follow one another: a call that begins while another one is unfinished waits for the end of the stream;
4. the stream ends with `message_delta` and `message_stop` when the chat ended: with `[DONE]`, or with its body after a
   finish_reason. One that breaks off gets neither.

What the provider reported is kept as it was (`usage`, `service_tier`): the call is priced by that, never by what is shown.
Source: the event and message types of the anthropic package 2.11.0, read 2026-11-21.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any
from uuid import uuid4

import orjson

from gateway.chat_metering import output_estimate
from gateway.event_relay import event
from gateway.messages.blocks import Blocks
from gateway.messages.errors import error_type
from gateway.providers.translated import Untranslatable
from gateway.streaming import last_boundary, parse_payload, payload_of, split_events, text_bytes
from gateway.usage import from_chat

__all__ = ["FromChat"]

_EVENT_BYTES_MAX = 16 * 2**20
"""Larger than that no single chunk of a chat is."""
_DONE_WORD = b"[DONE]"
_USAGE_WORD = b'"completion_tokens"'
_NO_ID_CHARS = re.compile(r"[^A-Za-z0-9_-]")
_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_UNREADABLE = "INVALID_JSON"
"""The key under which Anthropic's guide to fine-grained tool streaming puts arguments that are no JSON object."""


class FromChat:
    """The `Translator`."""

    def __init__(
        self,
        model: str,
        *,
        wants_thinking: bool = False,
        stop_sequences: Collection[str] = (),
        input_tokens_estimate: int = 0,
    ) -> None:
        """`model` is what the answer names; `input_tokens_estimate` what its beginning reports, until the provider does."""
        self._model = model
        self._wants_thinking = wants_thinking
        self._stop_sequences = frozenset(stop_sequences)
        self._input_tokens_estimate = input_tokens_estimate
        self._id = ""
        self._tail = bytearray()
        self._has_begun = False
        self._is_over = False
        self._blocks = Blocks()
        self._is_refusal = False
        self._finish: dict[str, Any] | None = None
        """The choice that named a finish_reason."""
        self._deltas = 0
        self._said_bytes = 0
        self.usage: Any = None
        """The last usage object the chat reported, unjudged; None when there was none."""
        self.service_tier: Any = None
        """The last one that was named."""

    def output_estimate(self) -> int:
        """Output tokens of what the chat said so far, by the written rule."""
        return max(self._deltas, -(-self._said_bytes // 4))

    def whole(self, body: bytes) -> bytes:
        """The message. A body without one passes as it came: it is no answer, and who meters it will see."""
        answer = parse_payload(body)
        if answer is None:
            raise Untranslatable("a chat completion that is no JSON object")
        self.usage, self.service_tier = answer.get("usage"), answer.get("service_tier")
        self._said_bytes = 4 * output_estimate(answer)
        self._name(answer)
        choices = answer.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = choice.get("message") if isinstance(choice, dict) else None
        content = self._content(message) if isinstance(message, dict) else None
        if content is None or not isinstance(choice, dict) or not isinstance(message, dict):
            return body
        self._is_refusal = bool(message.get("refusal"))
        reason, sequence = self._stop(choice)
        told = self._message(content, self._usage_shown())
        return orjson.dumps({**told, "stop_reason": reason, "stop_sequence": sequence})

    def refusal(self, status: int, body: bytes) -> bytes:
        """Anthropic's envelope. The provider's own code and type stay beside, for who decides whether the caller or the
        operator has to look after it."""
        parsed = parse_payload(body)
        error = parsed.get("error") if parsed is not None else None
        said = error if isinstance(error, dict) else {}
        code = said.get("type") if said.get("type") == "insufficient_quota" else said.get("code")
        message = said.get("message")
        told = {"type": error_type(status), "message": message if isinstance(message, str) else "", "code": code}
        if said.get("param") is not None:
            told["param"] = said["param"]
        return orjson.dumps({"type": "error", "error": told})

    def feed(self, data: bytes) -> bytes:
        tail = self._tail
        tail += data
        cut = last_boundary(tail, max(0, len(tail) - len(data) - 3))
        if not cut:
            if len(tail) > _EVENT_BYTES_MAX:
                raise Untranslatable("an event above the bound")
            return b""
        block = bytes(tail[:cut])
        del tail[:cut]
        return self._take(block)

    def finish(self) -> bytes:
        rest = bytes(self._tail)
        self._tail.clear()
        told = self._take(rest) if rest else b""
        return told + self._close() if self._finish is not None and not self._is_over else told

    def _take(self, block: bytes) -> bytes:
        told: list[bytes] = []
        for one in split_events(block):
            payload = payload_of(one)
            if payload.startswith(_DONE_WORD):
                told.append(b"" if self._is_over else self._close())
            elif (chunk := parse_payload(payload)) is not None:
                told.append(self._chunk(chunk))
            elif _USAGE_WORD in payload:
                self.usage = {}  # a report with numbers that are none: it says nothing, and is refused
        return b"".join(told)

    def _chunk(self, chunk: dict[str, Any]) -> bytes:
        if isinstance(usage := chunk.get("usage"), dict):
            self.usage = usage
        self.service_tier = chunk.get("service_tier") or self.service_tier
        if self._is_over:
            return b""
        if error := chunk.get("error"):
            self._is_over = True
            return self._error(error)
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return b""
        # Azure's first chunk has no choices, and no id either.
        begun = self._begin(chunk) if choices and not self._has_begun else b""
        return begun + b"".join(self._choice(one) for one in choices if isinstance(one, dict))

    def _begin(self, chunk: Mapping[str, Any]) -> bytes:
        self._has_begun = True
        self._name(chunk)
        usage = {"input_tokens": self._input_tokens_estimate, "output_tokens": 0}
        message = {**self._message([], usage), "stop_reason": None, "stop_sequence": None}
        return event("message_start", {"message": message})

    def _choice(self, choice: dict[str, Any]) -> bytes:
        if choice.get("index") not in (None, 0):
            return b""
        told = b""
        delta = choice.get("delta")
        if isinstance(delta, dict):
            if said := text_bytes(delta):
                self._deltas += 1
                self._said_bytes += said
            told = self._delta(delta)
            self._is_refusal = self._is_refusal or bool(delta.get("refusal"))
        if choice.get("finish_reason"):
            self._finish = choice
        return told

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        blocks = self._blocks
        told = [blocks.words("text", text) for text in _texts(delta)]
        if self._wants_thinking and (thought := _thought(delta)):
            told.insert(0, blocks.words("thinking", thought))
        calls = delta.get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict):
                told.append(blocks.call(call, position))
        return b"".join(told)

    def _close(self) -> bytes:
        """The end of a chat that said all it had to say."""
        self._is_over = True
        begun = b"" if self._has_begun else self._begin({})
        rest = self._blocks.close()
        reason, sequence = self._stop(self._finish or {})
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        ended = event("message_delta", {"delta": delta, "usage": self._usage_shown()})
        return begun + rest + ended + event("message_stop", {})

    def _error(self, error: object) -> bytes:
        said = error if isinstance(error, dict) else {}
        code = said.get("code")
        status = code if type(code) is int else 500
        message = said.get("message") if isinstance(said.get("message"), str) else error
        told = {"type": error_type(status), "message": message if isinstance(message, str) else "The provider failed."}
        return event("error", {"error": told})

    # Parts of a message

    def _name(self, answer: Mapping[str, Any]) -> None:
        given = answer.get("id")
        known = _NO_ID_CHARS.sub("", given)[:64] if isinstance(given, str) else ""
        self._id = f"msg_{known or uuid4().hex}"

    def _message(self, content: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        head = {"id": self._id, "type": "message", "role": "assistant", "model": self._model}
        return {**head, "content": content, "usage": usage}

    def _content(self, message: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """The blocks of a whole answer; None where a call of a tool says not which."""
        content: list[dict[str, Any]] = []
        if self._wants_thinking and (thought := _thought(message)):
            content.append({"type": "thinking", "thinking": thought, "signature": ""})
        content.extend({"type": "text", "text": text} for text in _texts(message))
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                return None
            tool = self._blocks.new_tool(call.get("id"), function["name"])
            content.append({**tool.block(), "input": _input(function.get("arguments"))})
        return content

    def _stop(self, choice: Mapping[str, Any]) -> tuple[str, str | None]:
        """Why it stopped, and at which of the caller's sequences, where the server says so (vLLM does)."""
        finish = choice.get("finish_reason")
        reason = _STOPS.get(finish, "end_turn") if isinstance(finish, str) else "end_turn"
        sequence = choice.get("stop_reason")
        if reason == "end_turn" and isinstance(sequence, str) and sequence in self._stop_sequences:
            return "stop_sequence", sequence
        if reason == "end_turn" and self._blocks.tools_count:
            return "tool_use", None  # some servers say `stop` although they call a tool
        return "refusal" if self._is_refusal and reason == "end_turn" else reason, None

    def _usage_shown(self) -> dict[str, Any]:
        """What the caller is told: the report where it makes sense, else the estimate of the output."""
        told = from_chat(
            self.usage, context_tokens_max=None, output_tokens_max=None, choices=1, unlisted_is_reasoning=True
        )
        if told is None:
            return {"input_tokens": self._input_tokens_estimate, "output_tokens": self.output_estimate()}
        shown: dict[str, Any] = {
            "input_tokens": told.input_tokens - told.cached_input - told.cache_write,
            "cache_creation_input_tokens": told.cache_write,
            "cache_read_input_tokens": told.cached_input,
            "output_tokens": told.output_tokens,
        }
        if told.reasoning:
            shown["output_tokens_details"] = {"thinking_tokens": told.reasoning}
        return shown


def _thought(said: Mapping[str, Any]) -> str:
    """DeepSeek's and vLLM's word for it, or OpenRouter's and Groq's."""
    return _text(said.get("reasoning_content")) or _text(said.get("reasoning"))


def _texts(message: Mapping[str, Any]) -> list[str]:
    return [text for name in ("content", "refusal") if (text := _text(message.get(name)))]


def _text(value: object) -> str:
    """A text, or that of all the text parts in an array."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else ()
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _input(arguments: object) -> dict[str, Any]:
    if not isinstance(arguments, str) or not arguments.strip():
        return {}
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {_UNREADABLE: arguments}
