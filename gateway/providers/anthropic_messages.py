"""OpenAI's messages -> Anthropic's `system` and `messages`. Pure; raises `RequestError` for what cannot be said.

    system, developer    all of them, in their order, into `system`: where they stood in the talk is lost
    user                 text, images and files as blocks
    assistant            text and refusals as text; `tool_calls` as `tool_use`. Reasoning is left out: without its signature,
                         which OpenAI's shape has no place for, Anthropic would refuse it
    tool                 `tool_result` in a user turn

Neighbours of one role become one turn, so all results of one round stand together, as Anthropic demands. Nothing is
fetched: a data URL is taken apart, an https URL travels on for Anthropic to look up.

Blocks are those of the Python package anthropic 2.11.0 (`types/*_block_param.py`), read 2026-11-21.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from gateway.errors import RequestError
from gateway.request_fields import unpriced_feature, wrong

__all__ = ["Said", "cache_mark", "said_in"]

_Block = dict[str, Any]

_IMAGES: Final = {
    "image/jpeg": "image/jpeg",
    "image/jpg": "image/jpeg",
    "image/png": "image/png",
    "image/gif": "image/gif",
    "image/webp": "image/webp",
}
_TEXT_CHARS_MAX: Final = 8 * 2**20
"""Of a text in base64, which is decoded while everybody waits; a million tokens are some six."""
_DATA_HEAD_CHARS_MAX: Final = 512
_NOT_OF_AN_ID: Final = re.compile(r"[^A-Za-z0-9_-]")


class Said(NamedTuple):
    system: list[_Block]
    messages: list[_Block]

    @property
    def is_between_tools(self) -> bool:
        """The last turn brings results of tools, so the model goes on with a turn it has begun."""
        return bool(self.messages) and any(block["type"] == "tool_result" for block in self.messages[-1]["content"])


def said_in(messages: object) -> Said:
    """What `messages` of a chat completion say. Raises `RequestError` that names the message and the part."""
    if not isinstance(messages, list):
        raise wrong("messages", "must be an array")
    said = Said([], [])
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise _fault(where, "must be an object")
        role = message.get("role")
        read = _ROLES.get(role) if isinstance(role, str) else None
        if read is None:
            raise _fault(f"{where}.role", "must be one of system, developer, user, assistant and tool for this model")
        turn, blocks = read(message, where)
        if blocks and (mark := cache_mark(message, where)):
            blocks[-1].setdefault("cache_control", mark)
        if turn == "system":
            said.system.extend(blocks)
        elif said.messages and said.messages[-1]["role"] == turn:
            said.messages[-1]["content"].extend(blocks)
        elif blocks:
            said.messages.append({"role": turn, "content": blocks})
    if not said.messages:
        raise wrong("messages", "must hold at least one message of a user with content")
    return said


def cache_mark(holder: Mapping[str, Any], where: str) -> dict[str, str] | None:
    """The `cache_control` of a part, message or tool, which keeps what stands before it for five minutes.

    Raises `RequestError`; also for an hour, whose writes cost more than the catalog's price for them says.
    """
    mark = holder.get("cache_control")
    if mark is None:
        return None
    if not isinstance(mark, dict) or mark.get("type") != "ephemeral":
        raise _fault(f"{where}.cache_control", 'must be {"type": "ephemeral"}')
    if mark.get("ttl") not in (None, "5m"):
        raise unpriced_feature("cache_control.ttl")
    return {"type": "ephemeral"}


# Roles


def _system(message: dict[str, Any], where: str) -> tuple[str, list[_Block]]:
    return "system", _blocks(message.get("content"), f"{where}.content", _TEXTS)


def _user(message: dict[str, Any], where: str) -> tuple[str, list[_Block]]:
    blocks = _blocks(message.get("content"), f"{where}.content", _USER_PARTS)
    if not blocks:
        raise _fault(f"{where}.content", "must not be empty")
    return "user", blocks


def _assistant(message: dict[str, Any], where: str) -> tuple[str, list[_Block]]:
    for field in ("function_call", "audio"):
        if message.get(field) is not None:
            raise _unsupported(f"{where}.{field}")
    content = message.get("content")
    blocks = [] if content is None else _blocks(content, f"{where}.content", _TEXTS)
    if content is None and isinstance(refusal := message.get("refusal"), str):
        blocks = _text_blocks(refusal)
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise _fault(f"{where}.tool_calls", "must be an array")
    blocks.extend(_tool_use(call, f"{where}.tool_calls[{at}]") for at, call in enumerate(calls or ()))
    return "assistant", blocks


def _tool(message: dict[str, Any], where: str) -> tuple[str, list[_Block]]:
    call_id = message.get("tool_call_id")
    if not isinstance(call_id, str) or not call_id:
        raise _fault(f"{where}.tool_call_id", "is required and must be a non-empty string")
    result: _Block = {"type": "tool_result", "tool_use_id": _id(call_id)}
    content = message.get("content")
    if blocks := [] if content is None else _blocks(content, f"{where}.content", _RESULT_PARTS):
        result["content"] = blocks
    return "user", [result]


_ROLES: Final[Mapping[str, Callable[[dict[str, Any], str], tuple[str, list[_Block]]]]] = {
    "system": _system,
    "developer": _system,
    "user": _user,
    "assistant": _assistant,
    "tool": _tool,
}


def _tool_use(call: object, where: str) -> _Block:
    if not isinstance(call, dict):
        raise _fault(where, "must be an object")
    if call.get("type", "function") != "function":
        raise _unsupported(f"{where}.type")
    function, call_id = call.get("function"), call.get("id")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _fault(f"{where}.function", "must be an object with a name")
    if not isinstance(call_id, str) or not call_id:
        raise _fault(f"{where}.id", "is required and must be a non-empty string")
    used: _Block = {
        "type": "tool_use",
        "id": _id(call_id),
        "name": function["name"],
        "input": _arguments(function.get("arguments"), f"{where}.function.arguments"),
    }
    if mark := cache_mark(call, where):
        used["cache_control"] = mark
    return used


def _arguments(arguments: object, where: str) -> dict[str, Any]:
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return {}
    try:
        parsed = orjson.loads(arguments) if isinstance(arguments, str) else None
    except orjson.JSONDecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        raise _fault(where, "must be a string that holds a JSON object")
    return parsed


def _id(call_id: str) -> str:
    """Ids that other providers made may have characters Anthropic refuses; the same one becomes the same everywhere."""
    return _NOT_OF_AN_ID.sub("_", call_id)


# Parts


def _blocks(content: object, where: str, parts: "_Parts") -> list[_Block]:
    if isinstance(content, str):
        return _text_blocks(content)
    if not isinstance(content, list):
        raise _fault(where, "must be a string or an array of parts")
    blocks: list[_Block] = []
    for at, part in enumerate(content):
        here = f"{where}[{at}]"
        kind = part.get("type") if isinstance(part, dict) else None
        read = parts.get(kind) if isinstance(kind, str) else None
        if read is None:
            raise _unsupported(f"{here}.type") if isinstance(kind, str) else _fault(here, "must have a `type`")
        made = read(part, here)
        if made and (mark := cache_mark(part, here)):
            made[-1]["cache_control"] = mark
        blocks.extend(made)
    return blocks


def _text_blocks(text: str) -> list[_Block]:
    """None for an empty text, which OpenAI takes and Anthropic refuses."""
    return [{"type": "text", "text": text}] if text else []


def _text(part: dict[str, Any], where: str) -> list[_Block]:
    if not isinstance(part.get("text"), str):
        raise _fault(f"{where}.text", "must be a string")
    return _text_blocks(part["text"])


def _refusal(part: dict[str, Any], where: str) -> list[_Block]:
    if not isinstance(part.get("refusal"), str):
        raise _fault(f"{where}.refusal", "must be a string")
    return _text_blocks(part["refusal"])


def _image(part: dict[str, Any], where: str) -> list[_Block]:
    where = f"{where}.image_url.url"
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str):
        raise _fault(where, "must be a string")
    if url[:8].lower() == "https://":
        return [{"type": "image", "source": {"type": "url", "url": url}}]
    media_type, data = _data_url(url, where, "must be an https URL or a data URL")
    if media_type not in _IMAGES:
        raise _fault(where, "must be a JPEG, PNG, GIF or WebP image for this model")
    return [{"type": "image", "source": {"type": "base64", "media_type": _IMAGES[media_type], "data": data}}]


def _file(part: dict[str, Any], where: str) -> list[_Block]:
    file = part.get("file")
    if not isinstance(file, dict) or not isinstance(file.get("file_data"), str):
        # A file_id names a file of another provider's account.
        raise _fault(f"{where}.file.file_data", "is required for this model and must be a data URL")
    where = f"{where}.file.file_data"
    media_type, data = _data_url(file["file_data"], where, "must be a data URL")
    if media_type == "application/pdf":
        source = {"type": "base64", "media_type": media_type, "data": data}
    elif media_type == "text/plain":
        source = {"type": "text", "media_type": media_type, "data": _plain_text(data, where)}
    else:
        raise _fault(where, "must be a PDF or plain text for this model")
    document: _Block = {"type": "document", "source": source}
    if isinstance(name := file.get("filename"), str) and name:
        document["title"] = name
    return [document]


def _data_url(url: str, where: str, otherwise: str) -> tuple[str, str]:
    """Media type and base64 of a data URL. The URL may be megabytes long and is never repeated."""
    head, comma, data = url.partition(",")
    if not comma or len(head) > _DATA_HEAD_CHARS_MAX or head[:5].lower() != "data:":
        raise _fault(where, otherwise)
    media_type, *parameters = head[5:].lower().split(";")
    if "base64" not in parameters or not data:
        raise _fault(where, "must hold base64")
    return media_type.strip(), data


def _plain_text(data: str, where: str) -> str:
    if len(data) > _TEXT_CHARS_MAX:
        raise RequestError(
            f"`{where}` is longer than the context of any model.", code="context_length_exceeded", param="messages"
        )
    try:
        text = base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise _fault(where, "must be base64 of UTF-8 text") from None
    if not text:
        raise _fault(where, "must not be empty")
    return text


_Parts = Mapping[str, Callable[[dict[str, Any], str], list[_Block]]]
_TEXTS: Final[_Parts] = {"text": _text, "refusal": _refusal}
_USER_PARTS: Final[_Parts] = {"text": _text, "image_url": _image, "file": _file}
_RESULT_PARTS: Final[_Parts] = {"text": _text, "image_url": _image}


def _fault(where: str, what: str) -> RequestError:
    return RequestError(f"`{where}` {what}.", code="invalid_value", param="messages")


def _unsupported(where: str) -> RequestError:
    return RequestError(
        f"`{where}` asks for something this model does not support.", code="unsupported_parameter", param="messages"
    )
