"""A Responses request -> the chat completion request that asks for the same. Pure.

Every field of the Responses API is translated, left out because an answer is as good without it, or refused. What the
gateway does itself (`store`, `previous_response_id`, `conversation`, `metadata`) is left out here: the caller has turned
it into items by now. Fields nobody knows are refused, as OpenAI does, since what they mean would silently be lost.

Fields: openai 3.52, `types/responses/response_create_params.py` and `types/chat/completion_create_params.py`, read 2026-10.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.request_fields import read_boolean, read_integer, read_object, wrong
from gateway.responses.chat_messages import chat_messages, unsupported

__all__ = ["chat_body", "input_items"]

_AS_THEY_ARE = (
    "model",
    "temperature",
    "top_p",
    "service_tier",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
)
_TRANSLATED = frozenset(
    """
    input instructions tools tool_choice parallel_tool_calls text reasoning max_output_tokens top_logprobs include stream
    """.split()
)
_LEFT_OUT = frozenset(
    """
    store previous_response_id conversation metadata truncation stream_options max_tool_calls access_programs image
    prompt_cache_options
    """.split()
)
"""Kept by the gateway itself (the first four), about built-in tools, which are refused, or hints that change no answer."""
_REFUSED = {
    "background": "is not possible: the answer is given in this call or not at all",
    "prompt": "names a template stored elsewhere: send its text as `instructions` and `input`",
    "context_management": "is not done for this model: shorten the input instead",
    "moderation": "is not done for this model: call the moderations endpoint",
}
_INCLUDABLE = frozenset(
    """
    file_search_call.results web_search_call.results web_search_call.action.sources message.input_image.image_url
    computer_call_output.output.image_url code_interpreter_call.outputs reasoning.encrypted_content
    message.output_text.logprobs
    """.split()
)
_TOKENS_MAX = 2**63 - 1
_LOGPROBS_MAX = 20
_FIELD_CHARS_MAX = 64
_TOOL_MODES = frozenset({"auto", "none", "required"})


def chat_body(body: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The chat completion request for a Responses `body` whose whole input is `items`: what earlier responses or the
    conversation hold first, then what this call's own `input` adds.

    Usage is always asked for in streams. Raises `RequestError`, naming the place: `input[3].type`, `tools[0].name`.
    """
    _refuse_unsupported(body)
    instructions = body.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise wrong("instructions", "must be a string")
    own = body.get("input")
    earlier = len(items) - (len(own) if isinstance(own, list) else own is not None)
    chat = {field: body[field] for field in _AS_THEY_ARE if body.get(field) is not None}
    chat["messages"] = chat_messages(instructions, items, earlier=earlier)
    chat |= _tools(body)
    chat |= _text_settings(read_object(body, "text"))
    chat |= _reasoning(read_object(body, "reasoning"))
    chat |= _logprobs(body)
    if (most := read_integer(body, "max_output_tokens", 1, _TOKENS_MAX)) is not None:
        chat["max_completion_tokens"] = most
    if read_boolean(body, "stream"):
        chat["stream"] = True
        chat["stream_options"] = {"include_usage": True}
    return chat


def input_items(input: object, new_id: Callable[[str], str]) -> list[dict[str, Any]]:
    """`input` as items in their full form, the way a response's input items are listed: each with an id and a type.

    A string is one message of the user. Ids that the caller sent stay; others come from `new_id`, which is given the kind
    of id (`msg`, `fc`, `rs` ...) and returns it whole: `msg_…`. Raises `RequestError`.
    """
    items = [{"role": "user", "content": input}] if isinstance(input, str) else input
    if not isinstance(items, list):
        raise wrong("input", "must be a string or an array of items")
    return [_full_item(item, f"input[{index}]", new_id) for index, item in enumerate(items)]


_ID_KINDS = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}
_WITHOUT_STATUS = frozenset({"reasoning", "item_reference"})


def _full_item(item: object, place: str, new_id: Callable[[str], str]) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise wrong(place, "must be an object")
    full = {"type": "message", **item} if item.get("type") is None and "role" in item else dict(item)
    kind = full.get("type")
    if not isinstance(kind, str):
        raise wrong(f"{place}.type", "must name a kind of item")
    if not (isinstance(full.get("id"), str) and full["id"]):
        full["id"] = new_id(_ID_KINDS.get(kind, "item"))
    if kind == "message" and isinstance(full.get("content"), str):
        full["content"] = [_full_text(full["content"], full.get("role"))]
    if kind not in _WITHOUT_STATUS and full.get("status") is None:
        full["status"] = "completed"
    return full


def _full_text(text: str, role: object) -> dict[str, Any]:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": "input_text", "text": text}


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    for field, value in body.items():
        if value is None or field in _TRANSLATED or field in _LEFT_OUT or field in _AS_THEY_ARE:
            continue
        if field in _REFUSED:
            if value is False:
                continue
            raise unsupported(field, _REFUSED[field])
        shown = field if len(field) <= _FIELD_CHARS_MAX and field.isprintable() else "this field"
        raise unsupported(shown, "is not known here")
    if read_object(body, "prompt_cache_options").get("prewarm"):
        raise unsupported("prompt_cache_options.prewarm", "is not possible with this model")


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    """`tools`, `tool_choice` and `parallel_tool_calls`; chat takes none of them without a tool."""
    declared = body.get("tools")
    if declared is not None and not isinstance(declared, list):
        raise wrong("tools", "must be an array")
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(declared or [])]
    choice = body.get("tool_choice")
    if not tools:
        if choice not in (None, "auto", "none"):
            raise wrong("tool_choice", "needs `tools` to choose from")
        return {}
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        # Said so that every server understands: offer those tools and no others.
        tools, choice = _allowed(tools, choice)
    chat: dict[str, Any] = {"tools": tools}
    if choice is not None:
        chat["tool_choice"] = _tool_choice(choice)
    if body.get("parallel_tool_calls") is not None:
        chat["parallel_tool_calls"] = read_boolean(body, "parallel_tool_calls")
    return chat


def _tool(tool: object, place: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise wrong(place, "must be an object")
    kind = tool.get("type")
    if kind not in ("function", "custom"):
        raise unsupported(f"{place}.type", "must be function or custom: this model has no built-in tools")
    if not isinstance(tool.get("name"), str) or not tool["name"]:
        raise wrong(f"{place}.name", "is required and must be a non-empty string", code="missing_required_parameter")
    if kind == "function":
        fields = ("name", "description", "parameters", "strict")
        return {"type": kind, kind: {field: tool[field] for field in fields if tool.get(field) is not None}}
    custom = {field: tool[field] for field in ("name", "description") if tool.get(field) is not None}
    if tool.get("format") is not None:
        custom["format"] = _custom_format(tool["format"], f"{place}.format")
    return {"type": kind, kind: custom}


def _custom_format(format: object, place: str) -> dict[str, Any]:
    """A grammar lies one level deeper in chat."""
    if not isinstance(format, dict) or format.get("type") not in ("text", "grammar"):
        raise wrong(place, "must be an object of type text or grammar")
    if format["type"] == "text":
        return {"type": "text"}
    grammar = {field: format[field] for field in ("syntax", "definition") if field in format}
    return {"type": "grammar", "grammar": grammar}


def _allowed(tools: list[dict[str, Any]], choice: Mapping[str, Any]) -> tuple[list[dict[str, Any]], object]:
    allowed = choice.get("tools")
    if not isinstance(allowed, list) or choice.get("mode") not in ("auto", "required"):
        raise wrong("tool_choice", "must have `mode` auto or required, and `tools`")
    by_name = {(tool["type"], tool[tool["type"]]["name"]): tool for tool in tools}
    chosen = []
    for index, tool in enumerate(allowed):
        key = (str(tool.get("type")), str(tool.get("name"))) if isinstance(tool, dict) else ("", "")
        if key not in by_name:
            raise wrong(f"tool_choice.tools[{index}]", "must be one of `tools`, named once")
        chosen.append(by_name.pop(key))
    if not chosen:
        raise wrong("tool_choice.tools", "must not be empty")
    return chosen, choice["mode"]


def _tool_choice(choice: object) -> str | dict[str, Any]:
    if isinstance(choice, str) and choice in _TOOL_MODES:
        return choice
    if (
        isinstance(choice, dict)
        and choice.get("type") in ("function", "custom")
        and isinstance(choice.get("name"), str)
    ):
        return {"type": choice["type"], choice["type"]: {"name": choice["name"]}}
    raise wrong(
        "tool_choice", "must be auto, none, required, or an object naming a function, a custom tool or allowed_tools"
    )


def _text_settings(text: Mapping[str, Any]) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    if text.get("format") is not None:
        chat |= _response_format(text["format"])
    return chat


def _response_format(format: object) -> dict[str, Any]:
    if not isinstance(format, dict):
        raise wrong("text.format", "must be an object")
    kind = format.get("type")
    if kind == "text":
        return {}  # what chat answers in anyway, and not every server knows the word
    if kind == "json_object":
        return {"response_format": {"type": kind}}
    if kind != "json_schema":
        raise wrong("text.format.type", "must be text, json_object or json_schema")
    for field, expected in (("name", str), ("schema", dict)):
        if not isinstance(format.get(field), expected):
            raise wrong(f"text.format.{field}", "is required", code="missing_required_parameter")
    fields = ("name", "description", "schema", "strict")
    json_schema = {field: format[field] for field in fields if format.get(field) is not None}
    return {"response_format": {"type": kind, kind: json_schema}}


def _reasoning(reasoning: Mapping[str, Any]) -> dict[str, Any]:
    if reasoning.get("mode") not in (None, "standard"):
        raise unsupported("reasoning.mode", "must be standard with this model")
    effort = reasoning.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


def _logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    included = body.get("include")
    if included is not None and not isinstance(included, list):
        raise wrong("include", "must be an array")
    for index, name in enumerate(included or []):
        if not isinstance(name, str) or name not in _INCLUDABLE:
            raise wrong(f"include[{index}]", "is nothing that can be included")
    most = read_integer(body, "top_logprobs", 0, _LOGPROBS_MAX)
    if not most and "message.output_text.logprobs" not in (included or []):
        return {}
    return {"logprobs": True, "top_logprobs": most} if most else {"logprobs": True}
