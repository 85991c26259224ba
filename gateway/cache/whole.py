"""Whether an answer is all that was asked for, so that somebody else may get it as well. Pure; nothing here raises.

A provider's success says little: answers are cut by a bound, filtered, or broken in their middle, and come with status 200
all the same. Whole is
- a chat or completion with every choice asked for, each ended by itself or with a call of tools;
- a message that ended its turn, at a stop sequence, or with a call of tools;
- a response that says it is completed;
- vectors, as many as there were inputs; images, as many as were asked for, each with its bytes: one that only points to
  them is gone when its URL is.

A recorded stream is judged by its events, after its end and by the same rules. One that reports an error anywhere is not
whole, nor is one with an event that nobody can read.

Sources: openai-python 3.52.0 (2026-11-16), `types/chat/chat_completion.py`, `types/responses/response.py`,
`types/image_gen_completed_event.py`; anthropic 2.11.0, `types/stop_reason.py`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from gateway.chat import ChatRequest
from gateway.completions import CompletionRequest
from gateway.embeddings import EmbeddingsRequest
from gateway.images import ImageRequest
from gateway.messages.request import MessagesRequest
from gateway.model_request import ModelRequest
from gateway.responses.request import ResponsesRequest
from gateway.streaming import parse_payload, payload_of, split_events

__all__ = ["is_whole", "is_whole_stream"]

_ENDS = frozenset({"stop", "tool_calls", "function_call"})
"""`finish_reason` of a choice. Not `length`, nor `content_filter`."""
_STOPS = frozenset({"end_turn", "stop_sequence", "tool_use"})
"""`stop_reason` of a message. Not `max_tokens`, `pause_turn` or `refusal`."""
_UNFINISHED_RESPONSES = ("response.failed", "response.incomplete")
_IMAGE_COMPLETED = "image_generation.completed"
_DONE_WORD = b"[DONE]"
_ERROR_EVENT = re.compile(rb"(?:\A|[\r\n])event: ?error[ \t]*(?:[\r\n]|\Z)")
"""The line of an event whose data need not say that it is an error. Within JSON there are no line ends."""
_LINES_MAX = 500_000
"""Of a stream. Tokens come in far fewer; only noise has so many in the bytes that are kept of one answer."""


def is_whole(request: ModelRequest, answer: Mapping[str, Any]) -> bool:
    """Whether a JSON answer is all that `request` asked for."""
    if answer.get("error"):
        return False
    match request:
        case ChatRequest():
            return _are_ended(answer.get("choices"), request.answers, "message", dict)
        case CompletionRequest():
            return _are_ended(answer.get("choices"), request.answers, "text", str)
        case MessagesRequest():
            is_message = answer.get("type") == "message" and isinstance(answer.get("content"), list)
            return is_message and _is_one_of(answer.get("stop_reason"), _STOPS)
        case ResponsesRequest():
            return _is_completed(answer)
        case EmbeddingsRequest():
            return _are_all(answer.get("data"), len(request.inputs), _has_vector)
        case ImageRequest():
            return _are_all(answer.get("data"), request.images, _has_bytes)
    return False


def is_whole_stream(request: ModelRequest, body: bytes) -> bool:
    """The same of a stream, recorded from its first byte to its last."""
    if body.count(b"\n") + body.count(b"\r") > _LINES_MAX or _ERROR_EVENT.search(body):
        return False
    messages: list[dict[str, Any]] = []
    for message in _data(body):
        if message is None or message.get("error") or message.get("type") == "error":
            return False
        messages.append(message)
    match request:
        case ChatRequest() | CompletionRequest():
            return _have_all_ended(messages, request.answers)
        case MessagesRequest():
            return _is_ended_message(messages)
        case ResponsesRequest():
            return _is_completed_stream(messages)
        case ImageRequest():
            return _are_drawn(messages, request.images)
    return False


# Whole answers


def _are_ended(choices: object, wanted: int, said_in: str, said_as: type) -> bool:
    return (
        isinstance(choices, list)
        and len(choices) == wanted
        and all(
            isinstance(choice, dict)
            and not choice.get("error")
            and isinstance(choice.get(said_in), said_as)
            and _is_one_of(choice.get("finish_reason"), _ENDS)
            for choice in choices
        )
    )


def _is_completed(response: Mapping[str, Any]) -> bool:
    is_well = response.get("status") == "completed" and not response.get("error")
    return is_well and isinstance(response.get("output"), list)


def _are_all(data: object, wanted: int, is_there: Callable[[object], bool]) -> bool:
    return isinstance(data, list) and len(data) == wanted and all(map(is_there, data))


def _has_vector(entry: object) -> bool:
    """As numbers or in base64; what they are is the provider's business."""
    vector = entry.get("embedding") if isinstance(entry, dict) else None
    return isinstance(vector, list | str) and bool(vector)


def _has_bytes(entry: object) -> bool:
    if not isinstance(entry, dict) or entry.get("url"):
        return False
    encoded = entry.get("b64_json")
    return isinstance(encoded, str) and bool(encoded)


def _is_one_of(word: object, words: frozenset[str]) -> bool:
    return isinstance(word, str) and word in words


# Streams


def _data(body: bytes) -> Iterator[dict[str, Any] | None]:
    """What the events say, in their order; None for one that is no JSON object. Comments and `[DONE]` say nothing."""
    for event in split_events(body):
        payload = payload_of(event)
        if payload and not payload.startswith(_DONE_WORD):
            yield parse_payload(payload)


def _have_all_ended(messages: Iterable[Mapping[str, Any]], wanted: int) -> bool:
    """Each of the choices asked for has ended, and well; with that, `[DONE]` need not follow."""
    ended: set[int] = set()
    for message in messages:
        choices = message.get("choices")
        if choices is None:
            continue
        if not isinstance(choices, list):
            return False
        for choice in choices:
            if not isinstance(choice, dict) or choice.get("error"):
                return False
            index, reason = choice.get("index", 0), choice.get("finish_reason")
            if type(index) is not int or not 0 <= index < wanted:
                return False
            if reason and not _is_one_of(reason, _ENDS):
                return False
            if reason:
                ended.add(index)
    return len(ended) == wanted


def _is_ended_message(messages: Iterable[Mapping[str, Any]]) -> bool:
    stop: object = None
    seen: list[object] = []
    for message in messages:
        seen.append(message.get("type"))
        delta = message.get("delta")
        if seen[-1] == "message_delta" and isinstance(delta, dict) and delta.get("stop_reason") is not None:
            stop = delta["stop_reason"]
    return "message_start" in seen and "message_stop" in seen and _is_one_of(stop, _STOPS)


def _is_completed_stream(messages: Iterable[Mapping[str, Any]]) -> bool:
    completed = 0
    for message in messages:
        kind = message.get("type")
        if kind in _UNFINISHED_RESPONSES:
            return False
        if kind == "response.completed":
            response = message.get("response")
            if not isinstance(response, dict) or not _is_completed(response):
                return False
            completed += 1
    return completed == 1


def _are_drawn(messages: Iterable[Mapping[str, Any]], wanted: int) -> bool:
    """The images themselves; partial ones may be as many as they are, but none may only point elsewhere."""
    drawn = 0
    for message in messages:
        if message.get("url"):
            return False
        if message.get("type") == _IMAGE_COMPLETED:
            if not _has_bytes(message):
                return False
            drawn += 1
    return drawn == wanted
