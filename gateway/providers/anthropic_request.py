"""OpenAI's chat completion bodies -> bodies of Anthropic's Messages API. Pure; raises `RequestError` for what cannot be said.

Field names are those of the Python package anthropic 2.11.0 (`types/message_create_params.py`), read 2026-11-21. Every
field of the caller is translated, known to be harmless and left out, or refused by name.

- Left out: what only says who asks, what steers OpenAI's caches, hints (`verbosity`, `prediction`), and sampling that
  Anthropic does not have (`seed`, penalties), which its own endpoint for OpenAI's clients ignores as well. The user's name
  stays here.
- `response_format` json_schema is `output_config.format`, which Anthropic enforces. `json_object` exists nowhere: it
  becomes an instruction, as OpenAI asks its callers to write one anyway, promises no schema, and a refusal would break
  clients whose answer, in practice, parses.
- `cache_control` on parts, messages and tools travels on, for five minutes; an hour is refused as unpriced.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.errors import RequestError
from gateway.providers.anthropic_messages import cache_mark, said_in
from gateway.providers.anthropic_schema import adapt
from gateway.providers.anthropic_thinking import output_tokens_default, takes_sampling, thinking_for
from gateway.request_fields import (
    read_boolean,
    read_integer,
    read_object,
    read_required_text,
    read_short_text,
    wrong,
)

__all__ = ["messages_body"]

_TRANSLATED: Final = frozenset(
    """
    model messages stream stream_options max_tokens max_completion_tokens stop temperature top_p tools tool_choice
    parallel_tool_calls response_format reasoning_effort service_tier
    """.split()
)
_HARMLESS: Final = frozenset(
    """
    user metadata store safety_identifier prompt_cache_key prompt_cache_retention prediction seed verbosity
    frequency_penalty presence_penalty
    """.split()
)
_ORDINARY: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "functions": ([],),
}
"""Values that ask for nothing, of fields Anthropic has no word for."""
_TIERS: Final = {"auto": "", "default": "standard_only", "standard": "standard_only", "flex": "standard_only"}
"""Empty: not said. Anthropic has no cheaper tier a caller can ask for; OpenAI's flex falls back in the same way."""
_CHOICES: Final = {"auto": "auto", "none": "none", "required": "any"}
_TOKENS_MAX: Final = 2**63 - 1
_JSON_ONLY: Final = "Answer with one valid JSON object and nothing else: no words around it, no code fence."


def messages_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of `POST /messages` for a chat completion. Raises `RequestError`."""
    _refuse_unknown(body)
    model = read_required_text(body, "model")
    said = said_in(body.get("messages"))
    effort = read_short_text(body, "reasoning_effort") or None
    max_tokens = _max_tokens(body) or output_tokens_default(effort)
    translated: dict[str, Any] = {"model": model, "max_tokens": max_tokens, "messages": said.messages}

    system = [*said.system, *_instruction(body)]
    if system:
        translated["system"] = system
    if tools := _tools(body.get("tools")):
        translated["tools"] = tools
    choice = _tool_choice(body, has_tools=bool(tools))
    if choice:
        translated["tool_choice"] = choice
    if stops := _stops(body.get("stop")):
        translated["stop_sequences"] = stops

    thinking = thinking_for(
        model,
        effort,
        max_tokens=max_tokens,
        is_between_tools=said.is_between_tools,
        has_forced_tool=choice.get("type") in ("any", "tool"),
    )
    if thinking.thinking is not None:
        translated["thinking"] = thinking.thinking
    if config := _format(body) | ({"effort": thinking.effort} if thinking.effort else {}):
        translated["output_config"] = config
    sampling = _sampling(body)
    if takes_sampling(model) and thinking.thinking is None:
        translated.update(sampling)
    if tier := _tier(body):
        translated["service_tier"] = tier
    if read_boolean(body, "stream"):
        translated["stream"] = True
    return translated


def _refuse_unknown(body: Mapping[str, Any]) -> None:
    for field in body.keys() - _TRANSLATED - _HARMLESS:
        value = body[field]
        if value is not None and not any(type(value) is type(one) and value == one for one in _ORDINARY.get(field, ())):
            raise _unsupported(field)


def _unsupported(field: str, what: str = "is not supported by this model") -> RequestError:
    shown = field if len(field) <= 64 and field.isprintable() else "a field"
    return RequestError(f"`{shown}` {what}.", code="unsupported_parameter", param=shown)


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    """The newer name wins, as OpenAI's own models know no other."""
    old = read_integer(body, "max_tokens", 1, _TOKENS_MAX)
    return read_integer(body, "max_completion_tokens", 1, _TOKENS_MAX) or old


def _sampling(body: Mapping[str, Any]) -> dict[str, float]:
    """Temperature, from 0 to 1, else top_p: since 4.5 models take only one of them."""
    numbers: dict[str, float] = {}
    for field, most in (("temperature", 2), ("top_p", 1)):
        value = body.get(field)
        if value is None:
            continue
        if type(value) not in (int, float) or not 0 <= value <= most:
            raise wrong(field, f"must be a number from 0 to {most}")
        numbers.setdefault("temperature" if field == "temperature" else "top_p", min(value, 1))
    if len(numbers) > 1:
        del numbers["top_p"]
    return numbers


def _stops(stop: object) -> list[str]:
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) and one.strip() for one in stops):
        raise wrong("stop", "must be a string or an array of strings; for this model none may be blank")
    return stops


def _tier(body: Mapping[str, Any]) -> str:
    tier = read_short_text(body, "service_tier")
    if tier == "priority":
        return "auto"  # Anthropic's name for priority capacity where the account has any; the answer says what it was
    return _TIERS.get(tier, "")


# Tools


def _tools(tools: object) -> list[dict[str, Any]]:
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise wrong("tools", "must be an array")
    return [_tool(tool, f"tools[{at}]") for at, tool in enumerate(tools)]


def _tool(tool: object, where: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(function, dict):
        raise _unsupported("tools", "must hold functions only, for this model")
    name, description, schema = function.get("name"), function.get("description"), function.get("parameters")
    if not isinstance(name, str) or not name:
        raise wrong(f"{where}.function.name", "is required and must be a non-empty string")
    if schema is not None and not isinstance(schema, dict):
        raise wrong(f"{where}.function.parameters", "must be an object")
    schema = {"type": "object", "properties": {}, **(schema or {})}
    translated: dict[str, Any] = {"name": name}
    if isinstance(description, str) and description:
        translated["description"] = description
    if read_boolean(function, "strict", f"{where}.function.strict"):
        translated["strict"] = True
        schema = adapt(schema, f"{where}.function.parameters")
    translated["input_schema"] = schema
    if mark := cache_mark(tool, where) or cache_mark(function, where):
        translated["cache_control"] = mark
    return translated


def _tool_choice(body: Mapping[str, Any], *, has_tools: bool) -> dict[str, Any]:
    wanted = body.get("tool_choice")
    is_single = body.get("parallel_tool_calls") is not None and not read_boolean(body, "parallel_tool_calls")
    choice = _wanted_tool(wanted)
    if not has_tools:
        if choice.get("type") in ("any", "tool"):
            raise wrong("tool_choice", "needs `tools`")
        return {}
    if is_single and choice.get("type") != "none":
        return {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    return choice


def _wanted_tool(wanted: object) -> dict[str, Any]:
    if wanted is None:
        return {}
    if isinstance(wanted, str) and wanted in _CHOICES:
        return {"type": _CHOICES[wanted]}
    function = wanted.get("function") if isinstance(wanted, dict) and wanted.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise wrong("tool_choice", "must be auto, none, required or a named function, for this model")
    return {"type": "tool", "name": function["name"]}


# What the answer looks like


def _format(body: Mapping[str, Any]) -> dict[str, Any]:
    wanted = read_object(body, "response_format")
    if wanted.get("type", "text") != "json_schema":
        return {}
    schema = read_object(wanted, "json_schema").get("schema")
    field = "response_format.json_schema.schema"
    if not isinstance(schema, dict):
        raise wrong(field, "is required and must be an object")
    return {"format": {"type": "json_schema", "schema": adapt(schema, field)}}


def _instruction(body: Mapping[str, Any]) -> list[dict[str, str]]:
    kind = read_object(body, "response_format").get("type", "text")
    if kind not in ("text", "json_object", "json_schema"):
        raise wrong("response_format.type", "must be one of text, json_object and json_schema for this model")
    return [{"type": "text", "text": _JSON_ONLY}] if kind == "json_object" else []
