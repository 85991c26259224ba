"""The output of an answer as it grows: what a chat model says goes in, the items of a response and their events come out.

Chat has one message with several fields; a response has items in a row: reasoning, messages, calls. Each item is opened
when its first word comes and closed when something else begins, in the order of OpenAI's own streams: the item added, its
part added, deltas, the part done, the item done. Only a call whose arguments are no complete JSON yet is left open when the
next one begins, as chat may come back to it.

A model's reasoning, which chat providers call `reasoning_content`, is told as a reasoning item's summary: the form that the
OpenAI SDKs, openai-agents, the Vercel AI SDK and LangChain show.

Source: openai 3.52, `types/responses/response_*_event.py`, and streams of OpenAI's recorded 2025-11 to 2026-08.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from gateway.providers.translated import Untranslatable

__all__ = ["OutputItems"]

_OPEN_CALLS_MAX = 128
"""Calls that are all unfinished: each is looked at whenever something else begins."""
Emit = Callable[[str, dict[str, Any]], None]


class OutputItems:
    """Lifetime: one answer. `emit` is told each event's type and fields; `new_id` makes ids, given their kind."""

    def __init__(self, new_id: Callable[[str], str], emit: Emit) -> None:
        self._new_id = new_id
        self._emit = emit
        self._items: list[dict[str, Any] | None] = []
        """By their index in the output; None while one is open."""
        self._text: _Message | _Reasoning | None = None
        """The item that words go to now."""
        self._calls: dict[int, _Call] = {}
        """By chat's index; the latest one where a provider uses an index twice."""
        self._open_calls: list[_Call] = []
        self._call_ids: set[str] = set()

    def reason(self, text: str) -> None:
        """The model thought `text`."""
        if text:
            if not isinstance(self._text, _Reasoning):
                self._close_what_is_whole()
                self._text = _Reasoning(self._place(), self._new_id("rs"))
            self._text.add(text)

    def say(self, text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> None:
        """The model said `text`; `logprobs` are those of its tokens, in chat's form."""
        if text or logprobs:
            self._message().add("output_text", text, [_logprob(token) for token in logprobs])

    def refuse(self, text: str) -> None:
        if text:
            self._message().add("refusal", text, [])

    def call(self, delta: Mapping[str, Any], position: int) -> None:
        """A piece of a tool call; `position` counts where the piece itself has no index. Raises `Untranslatable`."""
        index = delta.get("index")
        key = index if type(index) is int else position
        call = self._calls.get(key)
        if call is None or call.is_another(delta):
            self._close_what_is_whole()
            call = self._calls[key] = _Call(self._place, self._new_id, self._call_ids)
            self._open_calls.append(call)
            if len(self._open_calls) > _OPEN_CALLS_MAX:
                raise Untranslatable("too many tool calls at once")
        call.add(delta)

    def close(self, status: str) -> list[dict[str, Any]]:
        """The answer is over: `completed` or `incomplete`. Returns its items. Raises `Untranslatable`."""
        if status == "completed" and self._says_nothing:
            # Chat always answers with a message. One without words is told too: agents wait for a message or a call.
            self._message().add("output_text", "", [])
        if self._text is not None:
            self._text.close(status)
            self._text = None
        for call in self._open_calls:
            call.close(status)
        self._open_calls.clear()
        return [item for item in self._items if item is not None]

    @property
    def _says_nothing(self) -> bool:
        if self._calls or isinstance(self._text, _Message):
            return False
        return all(item is None or item["type"] != "message" for item in self._items)

    def _message(self) -> "_Message":
        if not isinstance(self._text, _Message):
            self._close_what_is_whole()
            self._text = _Message(self._place(), self._new_id("msg"))
        return self._text

    def _close_what_is_whole(self) -> None:
        if self._text is not None:
            self._text.close("completed")
            self._text = None
        whole = [call for call in self._open_calls if call.is_whole]
        self._open_calls = [call for call in self._open_calls if not call.is_whole]
        for call in whole:
            call.close("completed")

    def _place(self) -> "_Place":
        self._items.append(None)
        return _Place(self._items, len(self._items) - 1, self._emit)


class _Place:
    """Where an item stands in the output."""

    def __init__(self, items: list[dict[str, Any] | None], index: int, emit: Emit) -> None:
        self._items = items
        self._index = index
        self._emit = emit

    def added(self, item: dict[str, Any]) -> None:
        self._emit("response.output_item.added", {"output_index": self._index, "item": item})

    def tell(self, type: str, item_id: str, fields: dict[str, Any]) -> None:
        self._emit(type, {"item_id": item_id, "output_index": self._index, **fields})

    def done(self, item: dict[str, Any]) -> None:
        self._items[self._index] = item
        self._emit("response.output_item.done", {"output_index": self._index, "item": item})


class _Reasoning:
    def __init__(self, place: _Place, id: str) -> None:
        self._place = place
        self._id = id
        self._said: list[str] = []
        place.added({"id": id, "type": "reasoning", "summary": []})
        self._tell("response.reasoning_summary_part.added", {"part": {"type": "summary_text", "text": ""}})

    def add(self, text: str) -> None:
        self._said.append(text)
        self._tell("response.reasoning_summary_text.delta", {"delta": text})

    def close(self, status: str) -> None:
        text = "".join(self._said)
        part = {"type": "summary_text", "text": text}
        self._tell("response.reasoning_summary_text.done", {"text": text})
        self._tell("response.reasoning_summary_part.done", {"part": part})
        self._place.done({"id": self._id, "type": "reasoning", "summary": [part]})

    def _tell(self, type: str, fields: dict[str, Any]) -> None:
        self._place.tell(type, self._id, {"summary_index": 0, **fields})


class _Message:
    def __init__(self, place: _Place, id: str) -> None:
        self._place = place
        self._id = id
        self._content: list[dict[str, Any]] = []
        """The parts that are done."""
        self._kind = ""
        """Of the part that is open; empty where none is."""
        self._said: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        place.added(self._item("in_progress"))

    def add(self, kind: str, text: str, logprobs: list[dict[str, Any]]) -> None:
        """`kind` is that of the part: `output_text` or `refusal`."""
        if self._kind != kind:
            self._close_part()
            self._kind = kind
            self._tell("response.content_part.added", {"part": self._part()})
        self._said.append(text)
        self._logprobs += logprobs
        if kind == "refusal":
            self._tell("response.refusal.delta", {"delta": text})
        elif text or logprobs:
            self._tell("response.output_text.delta", {"delta": text, "logprobs": [_short(one) for one in logprobs]})

    def close(self, status: str) -> None:
        self._close_part()
        self._place.done(self._item(status))

    def _close_part(self) -> None:
        if not self._kind:
            return
        part = self._part()
        if self._kind == "refusal":
            self._tell("response.refusal.done", {"refusal": part["refusal"]})
        else:
            logprobs = [_short(one) for one in self._logprobs]
            self._tell("response.output_text.done", {"text": part["text"], "logprobs": logprobs})
        self._tell("response.content_part.done", {"part": part})
        self._content.append(part)
        self._kind, self._said, self._logprobs = "", [], []

    def _part(self) -> dict[str, Any]:
        text = "".join(self._said)
        if self._kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs}

    def _item(self, status: str) -> dict[str, Any]:
        content = list(self._content)
        return {"id": self._id, "type": "message", "status": status, "role": "assistant", "content": content}

    def _tell(self, type: str, fields: dict[str, Any]) -> None:
        self._place.tell(type, self._id, {"content_index": len(self._content), **fields})


class _Call:
    """A call of a function or a custom tool. It is told from the moment its name is known."""

    def __init__(self, place: Callable[[], _Place], new_id: Callable[[str], str], call_ids: set[str]) -> None:
        """`call_ids` are those already given out: no two calls of an answer may share one."""
        self._make_place = place
        self._new_id = new_id
        self._call_ids = call_ids
        self._given_id = ""
        self._is_custom = False
        self._place: _Place | None = None
        self._id = self._call_id = self._name = ""
        self._said: list[str] = []
        self._looked_at = 0
        """How many pieces had been said when it was last looked at."""
        self._was_whole = False
        self._is_closed = False

    def is_another(self, delta: Mapping[str, Any]) -> bool:
        """Some servers give each call of an answer index 0, and only the id tells them apart."""
        given = delta.get("id")
        return bool(self._given_id and isinstance(given, str) and given and given != self._given_id and _named(delta))

    @property
    def is_whole(self) -> bool:
        """Nothing can follow that would make sense."""
        if self._place is None or self._is_custom:
            return self._place is not None
        if self._looked_at != len(self._said):
            # Asked whenever something else begins: only what was said since can have made it whole.
            self._looked_at, self._was_whole = len(self._said), _is_object(self._said)
        return self._was_whole

    def add(self, delta: Mapping[str, Any]) -> None:
        if not self._given_id and isinstance(given := delta.get("id"), str):
            self._given_id = given
        self._is_custom |= delta.get("type") == "custom" or isinstance(delta.get("custom"), dict)
        tool = delta.get("custom" if self._is_custom else "function")
        text = tool.get("input" if self._is_custom else "arguments") if isinstance(tool, dict) else None
        if self._is_closed:
            if isinstance(text, str) and text.strip():
                raise Untranslatable("a tool call went on after the next one had begun")
            return
        if self._place is None and (name := _named(delta)):
            self._open(name)
        if isinstance(text, str) and text:
            self._said.append(text)
            if self._place is not None:
                self._tell("delta", {"delta": text})

    def close(self, status: str) -> None:
        if self._place is None:
            raise Untranslatable("a tool call without a name")
        if self._is_custom:
            self._tell("done", {"input": "".join(self._said)})
        else:
            self._tell("done", {"arguments": "".join(self._said), "name": self._name})
        self._place.done(self._item(status))
        self._is_closed = True

    def _open(self, name: str) -> None:
        self._name = name
        self._id = self._new_id("ctc" if self._is_custom else "fc")
        is_free = self._given_id and self._given_id not in self._call_ids
        self._call_id = self._given_id if is_free else self._new_id("call")
        self._call_ids.add(self._call_id)
        self._place = self._make_place()
        early, self._said = "".join(self._said), []
        self._place.added(self._item("in_progress"))
        if early:
            self._said.append(early)
            self._tell("delta", {"delta": early})

    def _item(self, status: str) -> dict[str, Any]:
        item = {"id": self._id, "status": status, "call_id": self._call_id, "name": self._name}
        if self._is_custom:
            return {"type": "custom_tool_call", **item, "input": "".join(self._said)}
        return {"type": "function_call", **item, "arguments": "".join(self._said)}

    def _tell(self, what: str, fields: dict[str, Any]) -> None:
        if self._place is not None:
            kind = "custom_tool_call_input" if self._is_custom else "function_call_arguments"
            self._place.tell(f"response.{kind}.{what}", self._id, fields)


def _is_object(pieces: Sequence[str]) -> bool:
    if not pieces[-1].rstrip().endswith("}") and pieces[-1].strip():
        return False
    try:
        return isinstance(orjson.loads("".join(pieces)), dict)
    except orjson.JSONDecodeError:
        return False


def _named(delta: Mapping[str, Any]) -> str:
    """The tool's name, if this piece of a call says it."""
    for kind in ("function", "custom"):
        tool = delta.get(kind)
        if isinstance(tool, dict) and isinstance(name := tool.get("name"), str):
            return name
    return ""


def _logprob(token: Mapping[str, Any]) -> dict[str, Any]:
    """A token's log probability with its bytes, which chat may leave out and a response has always."""
    top = token.get("top_logprobs")
    others = [_plain_logprob(other) for other in top if isinstance(other, dict)] if isinstance(top, list) else []
    return {**_plain_logprob(token), "top_logprobs": others}


def _plain_logprob(token: Mapping[str, Any]) -> dict[str, Any]:
    text = token["token"] if isinstance(token.get("token"), str) else ""
    given = token.get("bytes")
    return {
        "token": text,
        "bytes": given if isinstance(given, list) else list(text.encode("utf-8", "replace")),
        "logprob": token.get("logprob", 0.0),
    }


def _short(logprob: Mapping[str, Any]) -> dict[str, Any]:
    """As the events of a text tell it: without bytes."""
    others = [{"token": other["token"], "logprob": other["logprob"]} for other in logprob["top_logprobs"]]
    return {"token": logprob["token"], "logprob": logprob["logprob"], "top_logprobs": others}
