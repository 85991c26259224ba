"""OpenAI's messages -> Gemini's `systemInstruction` and `contents`. Pure; raises `RequestError` for what it cannot say.

- `system` and `developer` messages become the system instruction, in their order; where there is nothing else, they are
  what the user says, because Gemini wants contents.
- Neighbours of one kind are joined: Gemini wants the answers to parallel calls in one content.
- A tool's answer names its function, which OpenAI's does not: it is found by `tool_call_id` in the messages before it.
- Thought signatures come back where Google's own OpenAI endpoint puts them: `extra_content.google.thought_signature` on
  a tool call, or on the message for its text (ai.google.dev/gemini-api/docs/thought-signatures). Models from Gemini 3 on
  refuse a call without one. Calls that no such model made, and calls of clients that lose unknown fields, get the word
  the same page gives for that case.
- Nothing is fetched. Images by https are handed over as URLs, which Google reads itself (docs/file-input-methods,
  January 2026), declared as images whatever they are: a film behind one would cost more than an image may. URLs of
  Google's own file store belong to whoever has the provider key, and YouTube's are films: both are refused.
"""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from gateway.errors import RequestError
from gateway.request_fields import wrong

__all__ = ["Contents", "contents_of"]

NO_SIGNATURE: Final = "skip_thought_signature_validator"
_DATA_URL: Final = re.compile(
    r"data:([a-z0-9.+-]{1,64}/[a-z0-9.+-]{1,64})(?:;[a-z0-9=._-]{1,64}){0,8}?;base64,", re.IGNORECASE
)
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_AUDIO: Final = {name: f"audio/{name}" for name in ("wav", "mp3", "aiff", "aac", "ogg", "flac")}
_IMAGE_NAMES: Final = {
    ".png": "image/png",
    ".webp": "image/webp",
    ".heic": "image/heic",
    ".heif": "image/heif",
}
_IMAGE_UNNAMED: Final = "image/jpeg"
_FILMS: Final = ("youtube.com", "youtu.be")
_PUBLIC_STORE: Final = "storage.googleapis.com"
_KINDS: Final = {"user": "user", "assistant": "model", "tool": "user"}

Part = dict[str, Any]


class Contents:
    """What is said, in Gemini's shape."""

    __slots__ = ("contents", "system")

    def __init__(self) -> None:
        self.system: list[Part] = []
        self.contents: list[dict[str, Any]] = []


def contents_of(messages: object, *, wants_signatures: bool) -> Contents:
    """The conversation. `wants_signatures`: the model refuses calls without one. Raises `RequestError`."""
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "is required and must be a non-empty array", code="missing_required_parameter")
    found = Contents()
    names: dict[str, str] = {}
    last = ""
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise wrong(where, "must be an object")
        role = message.get("role")
        if role in ("system", "developer"):
            found.system += _texts(message.get("content"), where)
            continue
        if not isinstance(role, str) or role not in _KINDS:
            raise wrong(f"{where}.role", f"must be one of system, developer, {', '.join(_KINDS)} for this model")
        parts = _parts_of(message, role, where, names, wants_signatures)
        if not parts:
            continue
        if role == last:
            found.contents[-1]["parts"] += parts
        else:
            found.contents.append({"role": _KINDS[role], "parts": parts})
        last = role
    if not found.contents:
        found.contents.append({"role": "user", "parts": found.system or [{"text": ""}]})
        found.system = []
    return found


def _parts_of(
    message: Mapping[str, Any], role: str, where: str, names: dict[str, str], wants_signatures: bool
) -> list[Part]:
    if role == "user":
        return _user_parts(message.get("content"), where)
    if role == "assistant":
        return _assistant_parts(message, where, names, wants_signatures)
    return [_tool_answer(message, where, names)]


def _texts(content: object, where: str) -> list[Part]:
    """Parts of a content that can only be text: empty ones say nothing, and Gemini refuses some of them."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"text": content}] if content else []
    if not isinstance(content, list):
        raise wrong(f"{where}.content", "must be a string or an array of parts")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(kind) if kind in ("text", "refusal") else None
        if not isinstance(text, str):
            raise wrong(f"{where}.content", "must hold text parts only, for this role and this model")
        if text:
            texts.append({"text": text})
    return texts


def _user_parts(content: object, where: str) -> list[Part]:
    if isinstance(content, list):
        return [_user_part(part, f"{where}.content[{number}]") for number, part in enumerate(content)]
    return _texts(content, where) or [{"text": ""}]


def _user_part(part: object, where: str) -> Part:
    if not isinstance(part, dict):
        raise wrong(where, "must be an object with a `type`")
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise wrong(f"{where}.text", "must be a string")
        return {"text": part["text"]}
    if kind not in ("image_url", "input_audio", "file"):
        raise wrong(f"{where}.type", "must be one of text, image_url, input_audio and file for this model")
    inner = part.get(kind)  # what it holds stands under its own name
    where = f"{where}.{kind}"
    if not isinstance(inner, dict):
        raise wrong(where, "must be an object")
    if kind == "image_url":
        return _image(inner.get("url"), f"{where}.url")
    return _audio(inner, where) if kind == "input_audio" else _file(inner, where)


def _image(url: object, where: str) -> Part:
    if not isinstance(url, str):
        raise wrong(where, "must be a string")
    if url[:5].lower() == "data:":
        return _inline(url, where, ("image/",))
    try:
        split = urlsplit(url)
        host = (split.hostname or "").rstrip(".").lower()
    except ValueError:
        raise wrong(where, "is no URL") from None
    if split.scheme != "https" or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise wrong(where, "must be a data: URL in base64 or an https: URL for this model")
    is_own_store = host.endswith("googleapis.com") and host != _PUBLIC_STORE
    if is_own_store or any(host == film or host.endswith(f".{film}") for film in _FILMS):
        raise wrong(where, "must be the URL of a public image")
    name = split.path.lower()
    mime = next((mime for ending, mime in _IMAGE_NAMES.items() if name.endswith(ending)), _IMAGE_UNNAMED)
    return {"fileData": {"mimeType": mime, "fileUri": url}}


def _audio(audio: Mapping[str, Any], where: str) -> Part:
    kind, data = audio.get("format"), audio.get("data")
    if not isinstance(kind, str) or kind not in _AUDIO:
        raise wrong(f"{where}.format", f"must be one of {', '.join(_AUDIO)} for this model")
    if not isinstance(data, str):
        raise wrong(f"{where}.data", "must be a string of base64")
    return {"inlineData": {"mimeType": _AUDIO[kind], "data": _checked(data, f"{where}.data")}}


def _file(file: Mapping[str, Any], where: str) -> Part:
    if file.get("file_id") is not None:
        raise wrong(f"{where}.file_id", "is not known to this model's provider; send `file_data`")
    data = file.get("file_data")
    if not isinstance(data, str):
        raise wrong(f"{where}.file_data", "must be a data: URL in base64")
    return _inline(data, f"{where}.file_data", ("application/pdf", "text/", "image/"))


def _inline(url: str, where: str, kinds: tuple[str, ...]) -> Part:
    found = _DATA_URL.match(url)
    if found is None:
        raise wrong(where, "must be a data: URL with a media type, in base64")
    mime = found[1].lower()
    # A film in the place of an image would cost more than the image was held for.
    if not mime.startswith(kinds):
        raise wrong(where, f"must be of the type {' or '.join(kinds)}... for this model")
    return {"inlineData": {"mimeType": mime, "data": _checked(url[found.end() :], where)}}


def _checked(data: str, where: str) -> str:
    """Without decoding it, which would keep everybody waiting: it may be many megabytes."""
    if not data:
        raise wrong(where, "is empty")
    rest = data.encode("ascii", "replace").translate(None, _BASE64)
    if len(data) % 4 or rest not in (b"", b"=", b"==") or not data.endswith(rest.decode()):
        raise wrong(where, "is no valid base64")
    return data


def _assistant_parts(
    message: Mapping[str, Any], where: str, names: dict[str, str], wants_signatures: bool
) -> list[Part]:
    for field in ("function_call", "audio"):
        if message.get(field) is not None:
            raise wrong(f"{where}.{field}", "is not supported by this model", code="unsupported_parameter")
    parts = _texts(message.get("content"), where) + _texts(message.get("refusal"), where)
    if signature := _signature(message):
        if not parts:
            parts.append({"text": ""})
        parts[-1]["thoughtSignature"] = signature
    calls = message.get("tool_calls")
    if calls is None:
        return parts
    if not isinstance(calls, list):
        raise wrong(f"{where}.tool_calls", "must be an array")
    called = [_call(call, f"{where}.tool_calls[{number}]", names) for number, call in enumerate(calls)]
    if wants_signatures and called and not any("thoughtSignature" in part for part in called):
        called[0]["thoughtSignature"] = NO_SIGNATURE
    return parts + called


def _call(call: object, where: str, names: dict[str, str]) -> Part:
    function = call.get("function") if isinstance(call, dict) and call.get("type", "function") == "function" else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise wrong(where, "must be an object of the type function")
    call_id, name = call.get("id"), function.get("name")
    if not isinstance(call_id, str) or not call_id:
        raise wrong(f"{where}.id", "must be a non-empty string")
    if not isinstance(name, str) or not name:
        raise wrong(f"{where}.function.name", "must be a non-empty string")
    names[call_id] = name
    part: Part = {"functionCall": {"id": call_id, "name": name, "args": _arguments(function, where)}}
    if signature := _signature(call):
        part["thoughtSignature"] = signature
    return part


def _arguments(function: Mapping[str, Any], where: str) -> dict[str, Any]:
    written = function.get("arguments")
    try:
        # Some clients send an empty string for a function without parameters.
        arguments = orjson.loads(written or "{}") if isinstance(written, str) or written is None else written
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise wrong(f"{where}.function.arguments", "must be a JSON object as a string")
    return arguments


def _signature(said: Mapping[str, Any]) -> str:
    extra = said.get("extra_content")
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""


def _tool_answer(message: Mapping[str, Any], where: str, names: Mapping[str, str]) -> Part:
    call_id = message.get("tool_call_id")
    if not isinstance(call_id, str) or call_id not in names:
        raise RequestError(
            f"`{where}.tool_call_id` must be the id of a tool call in an earlier message.",
            code="invalid_value",
            param=f"{where}.tool_call_id",
        )
    text = "".join(part["text"] for part in _texts(message.get("content"), where))
    # Always under `output`: a result that has an `error` of its own would otherwise be read as a failed call.
    return {"functionResponse": {"id": call_id, "name": names[call_id], "response": {"output": _result(text)}}}


def _result(text: str) -> Any:
    if text[:1] not in ("{", "["):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
