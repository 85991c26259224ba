"""OpenAI's request -> arguments for litellm, field by field. Pure; knows nothing of the library.

Nothing is passed on that is not named here. litellm takes its settings, keys and hosts as arguments beside OpenAI's
fields, so an unknown field is refused (400), at every level: of the body, of a message, of a content part, of a tool. What
only hints at how OpenAI itself should keep or bill a call is left out.

litellm would fetch the address of a picture or a file to send its bytes on. The gateway fetches nothing that a client
names, so content has to hold its bytes itself: `data:` URLs and base64.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from gateway.errors import RequestError
from gateway.providers.base import UpstreamRequest
from gateway.request_fields import read_boolean, read_object, read_required_text, wrong

__all__ = ["Asked", "asked_of", "fitted"]


class Asked(NamedTuple):
    """One call of the library."""

    endpoint: str
    """`chat`, `embeddings` or `images`."""
    model: str
    """As the catalog says."""
    arguments: dict[str, Any]
    """Without model, key, host and deadlines."""
    wants_usage_event: bool = False
    is_base64: bool = False
    """Vectors are to come as base64."""


_CHAT_FIELDS = frozenset(
    """
    temperature top_p n stop max_tokens max_completion_tokens presence_penalty frequency_penalty logit_bias logprobs
    top_logprobs tools tool_choice parallel_tool_calls response_format reasoning_effort verbosity seed
    """.split()
)
_HINTS = frozenset({"seed", "verbosity", "parallel_tool_calls"})
"""Passed to providers that know them, and left out for the others: OpenAI promises no result for them."""
_LEFT_OUT = frozenset(
    """
    user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention prediction
    """.split()
)
"""Concern nobody but OpenAI, or what the gateway itself has seen to (the tier's price)."""
_EMBEDDING_FIELDS = frozenset({"input", "dimensions"})
_IMAGE_FIELDS = frozenset("prompt n size quality style response_format".split())
_NO_SAY: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "stream": (False,),
    "modalities": (["text"],),
    "logit_bias": ({},),
    "tools": ([],),
}
"""What says no more than the field's absence."""
_BASE64_CHARS_OUT = (":", "?", "%", "\\")
"""What addresses have and base64 has not."""


def asked_of(request: UpstreamRequest) -> Asked:
    """What the library is to be called with. Raises `RequestError` for what it cannot be asked."""
    read = {"/chat/completions": _chat, "/embeddings": _embeddings, "/images/generations": _images}.get(request.path)
    if read is None or request.method != "POST" or request.content_type != "application/json":
        raise RequestError(
            "This model's provider does not have this endpoint.", code="unsupported_endpoint", param="model"
        )
    body: dict[str, Any] = orjson.loads(request.body)
    said = {name: value for name, value in body.items() if value is not None and value not in _NO_SAY.get(name, ())}
    return read(said)


def fitted(asked: Asked, supported: frozenset[str]) -> dict[str, Any]:
    """The arguments that this model's provider can be given: `supported` is what the library says of it.

    Raises `RequestError` naming a field that would be lost and matters.
    """
    arguments = dict(asked.arguments)
    for one, other in (("max_completion_tokens", "max_tokens"), ("max_tokens", "max_completion_tokens")):
        # Two names for one thing; the bound must arrive, whichever of them the provider has.
        if one in arguments and one not in supported and other in supported:
            arguments.setdefault(other, arguments.pop(one))
    for name in arguments.keys() - supported - _ALWAYS:
        if name not in _HINTS:
            raise _not_here(name)
        del arguments[name]
    return arguments


_ALWAYS = frozenset({"messages", "stream", "input", "prompt"})


def _chat(body: dict[str, Any]) -> Asked:
    _refuse_unknown(body, _CHAT_FIELDS | {"model", "messages", "stream", "stream_options"})
    arguments = _chosen(body, _CHAT_FIELDS)
    arguments["messages"] = [_message(message, index) for index, message in enumerate(_array(body, "messages"))]
    if "tools" in body:
        arguments["tools"] = [_tool(tool, index) for index, tool in enumerate(_array(body, "tools"))]
    for name, read in (
        ("tool_choice", _tool_choice),
        ("response_format", _response_format),
        ("reasoning_effort", _text),
    ):
        if name in arguments:
            arguments[name] = read(arguments[name], name)
    if read_boolean(body, "stream"):
        arguments["stream"] = True
    wants_usage = read_boolean(read_object(body, "stream_options"), "include_usage", "stream_options.include_usage")
    return Asked("chat", read_required_text(body, "model"), arguments, wants_usage)


def _embeddings(body: dict[str, Any]) -> Asked:
    _refuse_unknown(body, _EMBEDDING_FIELDS | {"model", "encoding_format"})
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise wrong("input", "must be text or an array of texts for this model; token arrays are not known to it")
    arguments = {**_chosen(body, _EMBEDDING_FIELDS), "input": texts}
    is_base64 = body.get("encoding_format") == "base64"
    return Asked("embeddings", read_required_text(body, "model"), arguments, is_base64=is_base64)


def _images(body: dict[str, Any]) -> Asked:
    _refuse_unknown(body, _IMAGE_FIELDS | {"model"})
    return Asked("images", read_required_text(body, "model"), _chosen(body, _IMAGE_FIELDS))


def _chosen(body: Mapping[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    return {name: body[name] for name in fields & body.keys()}


def _refuse_unknown(body: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in body.keys() - known - _LEFT_OUT:
        raise _not_here(name if len(name) <= 64 and name.isprintable() else "this field")


def _not_here(name: str) -> RequestError:
    return RequestError(
        f"`{name}` is not something this model's provider can be asked for.", code="unsupported_parameter", param=name
    )


def _array(body: Mapping[str, Any], field: str) -> list[Any]:
    value = body.get(field)
    if not isinstance(value, list):
        raise wrong(field, "must be an array")
    return value


# Messages


def _message(message: object, index: int) -> dict[str, Any]:
    where = f"messages[{index}]"
    if not isinstance(message, dict):
        raise wrong(where, "must be an object")
    role = message.get("role")
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant", "tool"):
        raise wrong(f"{where}.role", "must be system, developer, user, assistant or tool for this model")
    told: dict[str, Any] = {"role": role, "content": _content(message.get("content"), where)}
    for name, value in message.items():
        if name in ("role", "content") or value is None or name in _OUTPUT_ONLY:
            continue
        if name == "name" or (name == "tool_call_id" and role == "tool"):
            told[name] = _text(value, f"{where}.{name}")
        elif name == "tool_calls" and role == "assistant":
            if value != []:
                told[name] = [_tool_call(call, f"{where}.{name}[{at}]") for at, call in enumerate(_list(value, where))]
        else:
            raise _not_here(f"{where}.{name}" if len(name) <= 64 and name.isprintable() else where)
    return told


_OUTPUT_ONLY = frozenset({"refusal", "annotations", "reasoning_content", "reasoning"})
"""What clients send back of an answer, and no provider reads."""


def _tool_call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or call.get("type", "function") != "function":
        raise wrong(where, "must be a function call")
    return {
        "id": _text(call.get("id"), f"{where}.id"),
        "type": "function",
        "function": {
            "name": _text(function.get("name"), f"{where}.function.name"),
            "arguments": _text(function.get("arguments"), f"{where}.function.arguments"),
        },
    }


def _content(content: object, where: str) -> str | list[dict[str, Any]] | None:
    if content is None or isinstance(content, str):
        return content
    parts = _list(content, f"{where}.content")
    return [_part(part, f"{where}.content[{index}]") for index, part in enumerate(parts)]


def _part(part: object, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    read = _PARTS.get(kind) if isinstance(kind, str) else None
    if read is None or not isinstance(part, dict):
        raise wrong(f"{where}.type", f"must be one of {', '.join(_PARTS)} for this model")
    return read(part, where)


def _text_part(part: dict[str, Any], where: str) -> dict[str, Any]:
    told: dict[str, Any] = {"type": "text", "text": _text(part.get("text"), f"{where}.text")}
    if part.get("cache_control") is not None:
        told["cache_control"] = {"type": "ephemeral"}
    return told


def _image_part(part: dict[str, Any], where: str) -> dict[str, Any]:
    image = part.get("image_url")
    given = image if isinstance(image, dict) else {"url": image}
    told = {"url": _data_url(given.get("url"), f"{where}.image_url")}
    if given.get("detail") is not None:
        told["detail"] = _text(given["detail"], f"{where}.image_url.detail")
    return {"type": "image_url", "image_url": told}


def _audio_part(part: dict[str, Any], where: str) -> dict[str, Any]:
    audio = read_object(part, "input_audio")
    data = _text(audio.get("data"), f"{where}.input_audio.data")
    if not data.isascii() or any(char in data for char in _BASE64_CHARS_OUT):
        raise wrong(f"{where}.input_audio.data", "must be base64")
    return {
        "type": "input_audio",
        "input_audio": {"data": data, "format": _text(audio.get("format"), f"{where}.input_audio.format")},
    }


def _file_part(part: dict[str, Any], where: str) -> dict[str, Any]:
    file = read_object(part, "file")
    told = {"file_data": _data_url(file.get("file_data"), f"{where}.file.file_data")}
    if file.get("filename") is not None:
        told["filename"] = _text(file["filename"], f"{where}.file.filename")
    return {"type": "file", "file": told}


_PARTS: Mapping[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
    "text": _text_part,
    "image_url": _image_part,
    "input_audio": _audio_part,
    "file": _file_part,
}


def _data_url(value: object, where: str) -> str:
    head, comma, _ = value.partition(",") if isinstance(value, str) else ("", "", "")
    if not isinstance(value, str) or not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise wrong(where, "must be a data: URL with base64 for this model; nothing is fetched for it")
    return value


# Tools


def _tool(tool: object, index: int) -> dict[str, Any]:
    where = f"tools[{index}]"
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(function, dict):
        raise wrong(where, "must be a function for this model")
    if unknown := (tool.keys() - {"type", "function"}) or (function.keys() - _FUNCTION_FIELDS):
        name = min(unknown)
        raise _not_here(f"{where}.{name}" if len(name) <= 64 and name.isprintable() else where)
    told = {name: value for name, value in function.items() if value is not None}
    _text(told.get("name"), f"{where}.function.name")
    return {"type": "function", "function": told}


_FUNCTION_FIELDS = frozenset({"name", "description", "parameters", "strict"})


def _tool_choice(value: object, where: str) -> str | dict[str, Any]:
    if isinstance(value, str):
        return value
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(value, dict) or value.get("type") != "function" or not isinstance(function, dict):
        raise wrong(where, "must be none, auto, required or a function")
    return {"type": "function", "function": {"name": _text(function.get("name"), f"{where}.function.name")}}


def _response_format(value: object, where: str) -> dict[str, Any]:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or kind not in ("text", "json_object", "json_schema"):
        raise wrong(where, "must be of the type text, json_object or json_schema")
    if kind != "json_schema":
        return {"type": kind}
    return {"type": kind, "json_schema": dict(read_object(value, "json_schema"))}


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise wrong(where, "must be an array")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise wrong(where, "must be a string")
    return value
