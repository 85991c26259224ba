"""The input items of the Responses API -> the messages of a chat completion. Pure.

Items are finer than messages: a model's text, each of its tool calls and each tool's output are items of their own. Chat
wants them gathered: what the assistant said and called in one turn is one message, directly followed by one `tool` message
for each call. Whatever cannot be said in chat and would be missed is refused, naming its place; reasoning is left out, as
chat models either take none or take only their own.

Shapes: openai 3.52, `types/responses/response_input_item_param.py` and `types/chat/chat_completion_message_param.py`,
read 2026-10.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.errors import RequestError
from gateway.request_fields import wrong

__all__ = ["chat_messages", "unsupported"]

_TEXT_PARTS = ("input_text", "output_text", "text")
_ROLES = {"user": "user", "system": "system", "developer": "system"}
"""`system` is the name every chat model knows; OpenAI's own take the two for the same."""
_CALLS = frozenset({"function_call", "custom_tool_call"})
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})
_SHOWN_CHARS_MAX = 64


def chat_messages(
    instructions: str | None, items: Sequence[Mapping[str, Any]], *, earlier: int = 0
) -> list[dict[str, Any]]:
    """The messages that say what `instructions` and `items` say.

    The first `earlier` items come from former responses or a conversation; faults in the others are named `input[0]`,
    `input[1]` ... as the caller counts them. Raises `RequestError`.
    """
    transcript = _Transcript()
    if instructions:
        transcript.messages.append({"role": "system", "content": instructions})
    for index, item in enumerate(items):
        transcript.add(item, f"input[{index - earlier}]" if index >= earlier else "input")
    transcript.end_turn()
    return transcript.messages


def unsupported(field: str, what: str) -> RequestError:
    """For what OpenAI's Responses API has and a chat completion has not."""
    return RequestError(f"`{field}` {what}.", code="unsupported_parameter", param=field)


class _Transcript:
    """Messages as they are gathered from items."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._assistant: dict[str, Any] | None = None
        """The message of the assistant's turn that is still going on."""
        self._shown: list[dict[str, Any]] = []
        """Images and files that tools returned, until the last of the `tool` messages in a row is written."""
        self._call_ids: set[str] = set()

    def add(self, item: object, place: str) -> None:
        if not isinstance(item, Mapping):
            raise wrong(place, "must be an object")
        kind = item.get("type")
        if kind is None and "role" in item:
            kind = "message"
        if not isinstance(kind, str):
            raise wrong(f"{place}.type", "must name a kind of item")
        if kind == "message":
            self._add_message(item, place)
        elif kind in _CALLS:
            self._add_call(item, place)
        elif kind in _OUTPUTS:
            self._add_output(item, place)
        elif kind == "item_reference":
            raise wrong(place, "refers to an item that is not kept here: send the item itself")
        elif kind != "reasoning":
            shown = f"`{kind}`" if kind.isprintable() and len(kind) <= _SHOWN_CHARS_MAX else "unknown"
            raise unsupported(f"{place}.type", f"is {shown}, which this model cannot be given")

    def end_turn(self) -> None:
        """Nobody adds to the assistant's message any more, and the tools' images are shown."""
        self._assistant = None
        if self._shown:
            self.messages.append({"role": "user", "content": self._shown})
            self._shown = []

    def _add_message(self, item: Mapping[str, Any], place: str) -> None:
        role = item.get("role")
        if role == "assistant":
            self._add_assistant_text(_said(item.get("content"), f"{place}.content"))
        elif isinstance(role, str) and role in _ROLES:
            self.end_turn()
            content = _content(item.get("content"), f"{place}.content", is_text_only=role != "user")
            self.messages.append({"role": _ROLES[role], "content": content})
        else:
            raise wrong(f"{place}.role", "must be user, assistant, system or developer")

    def _add_assistant_text(self, text: str) -> None:
        if not text:
            return  # it said nothing, and several providers refuse a message that says nothing
        if self._assistant is None or "tool_calls" not in self._assistant:
            self._begin_assistant(text)
        else:
            # Between calls and their outputs no other message may stand.
            before = self._assistant["content"]
            self._assistant["content"] = f"{before}\n\n{text}" if before else text

    def _begin_assistant(self, text: str | None) -> dict[str, Any]:
        self.end_turn()
        self._assistant = {"role": "assistant", "content": text}
        self.messages.append(self._assistant)
        return self._assistant

    def _add_call(self, item: Mapping[str, Any], place: str) -> None:
        call_id, name = _text(item, "call_id", place), _text(item, "name", place)
        call: dict[str, Any]
        if item["type"] == "function_call":
            arguments = _text(item, "arguments", place, may_be_empty=True)
            call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        else:
            custom = {"name": name, "input": _text(item, "input", place, may_be_empty=True)}
            call = {"id": call_id, "type": "custom", "custom": custom}
        message = self._assistant or self._begin_assistant(None)
        message.setdefault("tool_calls", []).append(call)
        self._call_ids.add(call_id)

    def _add_output(self, item: Mapping[str, Any], place: str) -> None:
        call_id = _text(item, "call_id", place)
        if call_id not in self._call_ids:
            raise wrong(f"{place}.call_id", "belongs to no tool call before it")
        self._assistant = None
        texts, shown = _output(item.get("output"), f"{place}.output")
        if shown:
            self._shown += [{"type": "text", "text": f"Output of tool call {call_id}:"}, *shown]
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": texts})


def _said(content: object, place: str) -> str:
    """What an assistant's message says, as one text. A refusal is said like anything else."""
    if isinstance(content, str):
        return content
    said = []
    for part, at in _parts(content, place):
        kind = part.get("type")
        if kind == "refusal":
            said.append(_text(part, "refusal", at, may_be_empty=True))
        elif kind in _TEXT_PARTS:
            said.append(_text(part, "text", at, may_be_empty=True))
        else:
            raise wrong(f"{at}.type", "must be output_text or refusal in what the assistant said")
    return "".join(said)


def _content(content: object, place: str, *, is_text_only: bool) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    parts = [_part(part, at) for part, at in _parts(content, place)]
    if is_text_only and any(part["type"] != "text" for part in parts):
        raise wrong(place, "must be text: only users can send anything else")
    return _plain(parts)


def _output(output: object, place: str) -> tuple[str | list[dict[str, Any]], list[dict[str, Any]]]:
    """What a tool returned: its text, and what only a user's message can carry in chat."""
    if isinstance(output, str):
        return output, []
    parts = [_part(part, at) for part, at in _parts(output, place)]
    texts = [part for part in parts if part["type"] == "text"]
    shown = [part for part in parts if part["type"] != "text"]
    if shown and not texts:
        return "The output is in the next message of the user.", shown
    return _plain(texts), shown


def _plain(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A single text as a string: more servers take that than a list."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _parts(content: object, place: str) -> list[tuple[Mapping[str, Any], str]]:
    """The parts of a list, each with its own place."""
    if not isinstance(content, list):
        raise wrong(place, "must be a string or an array of parts")
    placed = [(part, f"{place}[{index}]") for index, part in enumerate(content)]
    for part, at in placed:
        if not isinstance(part, dict):
            raise wrong(at, "must be an object")
    return placed


def _part(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    """One part of what goes in, in chat's words. The gateway keeps no files, and chat takes none by their URL."""
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": _text(part, "text", place, may_be_empty=True)}
        case "input_image":
            _refuse_stored_file(part, place)
            image = {"url": _text(part, "image_url", place)}
            if part.get("detail") is not None:
                image["detail"] = _text(part, "detail", place)
            return {"type": "image_url", "image_url": image}
        case "input_file":
            _refuse_stored_file(part, place)
            if part.get("file_url") is not None:
                raise unsupported(f"{place}.file_url", "cannot be read by this model: send `file_data`")
            file = {"file_data": _text(part, "file_data", place)}
            if part.get("filename") is not None:
                file["filename"] = _text(part, "filename", place)
            return {"type": "file", "file": file}
        case "input_audio":
            audio = part.get("input_audio")
            if not isinstance(audio, Mapping):
                raise wrong(f"{place}.input_audio", "must be an object with `data` and `format`")
            at = f"{place}.input_audio"
            return {
                "type": "input_audio",
                "input_audio": {"data": _text(audio, "data", at), "format": _text(audio, "format", at)},
            }
    raise wrong(f"{place}.type", "must be input_text, input_image, input_file or input_audio")


def _refuse_stored_file(part: Mapping[str, Any], place: str) -> None:
    if part.get("file_id") is not None:
        raise unsupported(f"{place}.file_id", "names a stored file, and none is kept here: send the content itself")


def _text(fields: Mapping[str, Any], field: str, place: str, *, may_be_empty: bool = False) -> str:
    value = fields.get(field)
    if not isinstance(value, str) or not (value or may_be_empty):
        raise wrong(f"{place}.{field}", "must be a string" if may_be_empty else "must be a non-empty string")
    return value
