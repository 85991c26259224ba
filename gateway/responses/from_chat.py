"""A chat model's answer -> a response, whole or as a stream of events. Pure; one object for one answer.

1. Chat chunks are cut out of the bytes as they come, in any split.
2. The first one opens the response: `response.created`, `response.in_progress`.
3. What each says becomes output items and their events (`output_items`); usage, tier and finish_reason are noted.
4. `[DONE]`, or the end of the body behind a finish_reason, closes it: `response.completed` or `response.incomplete`, with
   the whole Response object. A stream that breaks off before has no such event: nothing is made up.

An error inside the stream becomes an `error` event and is the last one. It has its fields twice, as OpenAI documents them
(side by side) and as OpenAI sends them (under `error`): clients look for one or the other.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from gateway.event_relay import event
from gateway.providers.translated import Untranslatable
from gateway.responses.output_items import OutputItems
from gateway.responses.response_object import response_object, response_usage
from gateway.streaming import last_boundary, parse_payload, payload_of, split_events

__all__ = ["FromChat", "error_fields"]

_ANSWER_BYTES_MAX = 64 * 2**20
_DONE_WORD = b"[DONE]"
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""By finish_reason: why a response is incomplete. Any other one completes it."""
_FAILED = "error"
"""The finish_reason of an answer that broke in the provider's hands (OpenRouter's word for it)."""


class FromChat:
    """A `Translator`. `answer` is the final Response object, None until there is one."""

    def __init__(
        self,
        response_id: str,
        created_at: int,
        request: Mapping[str, Any],
        model: str,
        new_id: Callable[[str], str],
        *,
        answer_bytes_max: int = _ANSWER_BYTES_MAX,
    ) -> None:
        """`request` is the body of the Responses call, checked. `model` is the name the caller knows. `created_at` is in
        Unix seconds. `new_id` makes an id, given its kind: `msg` -> `msg_…`. `answer_bytes_max` bounds what a stream may
        bring, all of which is kept for its last event."""
        self.answer: dict[str, Any] | None = None
        self._response = response_object(response_id, created_at, request, model)
        self._items = OutputItems(new_id, self._emit)
        self._bytes_left = answer_bytes_max
        self._tail = bytearray()
        self._events: list[bytes] = []
        self._sequence_number = 0
        self._is_told = True
        """Whether events are wanted at all."""
        self._has_begun = False
        self._has_ended = False
        self._finish_reason: str | None = None
        self._usage: object = None
        self._tier: str | None = None

    def whole(self, body: bytes) -> bytes:
        """The Response object of a chat completion. Raises `Untranslatable`."""
        self._is_told = False
        completion = parse_payload(body)
        choices = completion.get("choices") if completion else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        if completion is None or not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise Untranslatable("a chat completion without a message")
        self._note(completion)
        self._take_choice(choice, choice["message"])
        if self._finish_reason == _FAILED:
            raise Untranslatable("a chat completion that failed")
        return orjson.dumps(self._close())

    def refusal(self, status: int, body: bytes) -> bytes:
        """`body` as it is: both APIs have OpenAI's envelope for errors."""
        return body

    def feed(self, data: bytes) -> bytes:
        """The events that `data` completes. Raises `Untranslatable`."""
        if self._has_ended:
            return b""
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise Untranslatable("a stream above the bound")
        tail = self._tail
        tail += data
        cut = last_boundary(tail, max(0, len(tail) - len(data) - 3))
        if not cut:
            return b""
        block = bytes(tail[:cut])
        del tail[:cut]
        for one in split_events(block):
            self._take_payload(payload_of(one), is_last=False)
        return self._told()

    def finish(self) -> bytes:
        """The last events, if the answer is complete. Half an event at the end of a broken stream is dropped."""
        for one in split_events(bytes(self._tail)):
            self._take_payload(payload_of(one), is_last=True)
        self._tail.clear()
        if not self._has_ended and self._finish_reason not in (None, _FAILED):
            self._end()
        return self._told()

    def _take_payload(self, payload: bytes, *, is_last: bool) -> None:
        if self._has_ended or not payload:
            return
        if payload.startswith(_DONE_WORD):
            if self._has_begun and self._finish_reason != _FAILED:
                self._end()
            self._has_ended = True
            return
        chunk = parse_payload(payload)
        if chunk is not None:
            self._take_chunk(chunk)
        elif not is_last and self._finish_reason is None:
            # Behind the finish_reason only numbers are lost, which JSON cannot say (NaN).
            raise Untranslatable("an event that is no JSON object")

    def _take_chunk(self, chunk: Mapping[str, Any]) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._emit("response.created", {"response": self._response})
            self._emit("response.in_progress", {"response": self._response})
        if error := chunk.get("error"):
            self._emit("error", error_fields(error))
            self._has_ended = True
            return
        self._note(chunk)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("index", 0) == 0:
                delta = choice.get("delta")
                self._take_choice(choice, delta if isinstance(delta, dict) else {})

    def _note(self, message: Mapping[str, Any]) -> None:
        """What a completion or a chunk says about the whole answer."""
        if isinstance(usage := message.get("usage"), dict):
            self._usage = usage
        if isinstance(tier := message.get("service_tier"), str):
            self._tier = tier

    def _take_choice(self, choice: Mapping[str, Any], said: Mapping[str, Any]) -> None:
        """`said` is its message or delta."""
        items = self._items
        for text in _texts(said.get("reasoning_content") or said.get("reasoning"), "thinking"):
            items.reason(text)
        content = said.get("content")
        if isinstance(content, list):
            for text in _texts(content, "thinking"):
                items.reason(text)
        logprobs = _logprobs(choice)
        for text in _texts(content, "text"):
            items.say(text, logprobs)
            logprobs = []
        for text in _texts(said.get("refusal"), "refusal"):
            items.refuse(text)
        calls = said.get("tool_calls")
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict):
                items.call(call, position)
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self._finish_reason = reason

    def _end(self) -> None:
        response = self._close()
        self._emit(f"response.{response['status']}", {"response": response})
        self._has_ended = True

    def _close(self) -> dict[str, Any]:
        why = _INCOMPLETE.get(self._finish_reason or "")
        status = "incomplete" if why else "completed"
        self.answer = self._response | {
            "status": status,
            "incomplete_details": {"reason": why} if why else None,
            "output": self._items.close(status),
            "usage": response_usage(self._usage),
            # What served it, never what was asked for: prices depend on it.
            "service_tier": self._tier,
        }
        return self.answer

    def _emit(self, type: str, fields: dict[str, Any]) -> None:
        if self._is_told:
            self._events.append(event(type, {"sequence_number": self._sequence_number, **fields}))
            self._sequence_number += 1

    def _told(self) -> bytes:
        told = b"".join(self._events)
        self._events.clear()
        return told


def error_fields(error: object) -> dict[str, Any]:
    """The fields of an `error` event but its sequence number: those of OpenAI's envelope, beside each other and nested."""
    known = error if isinstance(error, Mapping) else {"message": str(error)}
    message = known.get("message")
    code = known.get("code") or known.get("type") or "server_error"
    fields = {
        "code": code if isinstance(code, str) else str(code),
        "message": message if isinstance(message, str) and message else "The model's provider reported an error.",
        "param": known.get("param"),
    }
    return {**fields, "error": {"type": known.get("type") or "server_error", **fields}}


def _texts(said: object, kind: str) -> Iterable[str]:
    """`said`, or what its parts of this kind say, where it is a list of parts (Mistral's form)."""
    if isinstance(said, str):
        yield said
    elif isinstance(said, list):
        for part in said:
            if isinstance(part, dict) and part.get("type") == kind:
                inner = part.get(kind)
                yield from (inner,) if isinstance(inner, str) else _texts(inner, "text")


def _logprobs(choice: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [token for token in tokens if isinstance(token, dict)] if isinstance(tokens, list) else []
