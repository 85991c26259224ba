"""The mock provider's answers in shapes of their own: OpenAI's Responses and Anthropic's Messages, in as few words as do.

Both repeat what the user said last, as the mock's chat does, whole or as the events their clients expect.
"""

from collections.abc import Iterator
from typing import Any

from gateway.event_relay import event
from gateway.providers.mock_answers import CREATED_AT, Reply, json_reply, stream_reply, tokens_of, words_of

_RESPONSE_ID, _ITEM_ID, _MESSAGE_ID = "resp_mock", "msg_mock_item", "msg_mock"


def response(body: dict[str, Any]) -> Reply:
    """What `POST /responses` is answered."""
    words, is_cut = _bounded(_last_words(body.get("input")), body.get("max_output_tokens"))
    text = "".join(words).strip()
    whole = _response(body, text, is_cut=is_cut)
    return stream_reply(list(_response_events(body, words, whole))) if body.get("stream") else json_reply(whole)


def message(body: dict[str, Any]) -> Reply:
    """What Anthropic's `POST /messages` is answered."""
    words, is_cut = _bounded(_last_words(body["messages"]), body.get("max_tokens"))
    text = "".join(words).strip()
    usage = {"input_tokens": _input_tokens(body["messages"]), "output_tokens": tokens_of(text)}
    whole = {
        "id": _MESSAGE_ID,
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": text}],
        "stop_reason": "max_tokens" if is_cut else "end_turn",
        "stop_sequence": None,
        "usage": {**usage, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
    }
    return stream_reply(list(_message_events(words, whole))) if body.get("stream") else json_reply(whole)


def counted(body: dict[str, Any]) -> Reply:
    """What Anthropic's `POST /messages/count_tokens` is answered."""
    return json_reply({"input_tokens": _input_tokens(body["messages"])})


def _response(body: dict[str, Any], text: str, *, is_cut: bool) -> dict[str, Any]:
    read, written = _input_tokens(body.get("input")), tokens_of(text)
    status = "incomplete" if is_cut else "completed"
    return {
        "id": _RESPONSE_ID,
        "object": "response",
        "created_at": CREATED_AT,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": body["model"],
        "output": [_item(text, status)],
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "store": body.get("store", True),
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + written,
        },
    }


def _item(text: str, status: str) -> dict[str, Any]:
    return {"id": _ITEM_ID, "type": "message", "role": "assistant", "status": status, "content": [_part(text)]}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response_events(body: dict[str, Any], words: list[str], whole: dict[str, Any]) -> Iterator[bytes]:
    begun = {**whole, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    text = "".join(words).strip()
    place = {"item_id": _ITEM_ID, "output_index": 0, "content_index": 0}
    deltas = [*words[:-1], words[-1].rstrip()]
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        ("response.output_item.added", {"output_index": 0, "item": {**_item("", "in_progress"), "content": []}}),
        ("response.content_part.added", {**place, "part": _part("")}),
        *(("response.output_text.delta", {**place, "delta": delta, "logprobs": []}) for delta in deltas),
        ("response.output_text.done", {**place, "text": text, "logprobs": []}),
        ("response.content_part.done", {**place, "part": _part(text)}),
        ("response.output_item.done", {"output_index": 0, "item": whole["output"][0]}),
        (f"response.{whole['status']}", {"response": whole}),
    ]
    for number, (kind, fields) in enumerate(events):
        yield event(kind, {"sequence_number": number, **fields})


def _message_events(words: list[str], whole: dict[str, Any]) -> Iterator[bytes]:
    begun = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    yield event("message_start", {"message": begun})
    yield event("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}})
    for word in [*words[:-1], words[-1].rstrip()]:
        yield event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}})
    yield event("content_block_stop", {"index": 0})
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield event("message_delta", {"delta": ended, "usage": {"output_tokens": whole["usage"]["output_tokens"]}})
    yield event("message_stop", {})


def _bounded(said: str, limit: int | None) -> tuple[list[str], bool]:
    """The words of the answer, and whether there would have been more."""
    words = words_of(said)
    is_cut = limit is not None and len(words) > limit
    return words[:limit] if is_cut else words, is_cut


def _input_tokens(value: Any) -> int:
    items = value if isinstance(value, list) else [{"content": value}]
    return sum(tokens_of(_text(item)) for item in items)


def _last_words(value: Any) -> str:
    if not isinstance(value, list):
        return value if isinstance(value, str) else ""
    return next((_text(item) for item in reversed(value) if isinstance(item, dict) and item.get("role") == "user"), "")


def _text(item: Any) -> str:
    content = item.get("content") if isinstance(item, dict) else None
    if isinstance(content, list):
        return " ".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return content if isinstance(content, str) else ""
