"""OpenAI's chat completion bodies -> bodies of `generateContent`. Pure; raises `RequestError` for what cannot be said.

Field names are those of google-genai 3.4.0 (`_GenerateContentConfig_to_mldev` and what it calls), read 2026-11-21.
Every field of the caller is either translated, known to be harmless and left out, or refused by name: what changes the
meaning of a call must not vanish on the way.

Thinking, by `reasoning_effort` (ai.google.dev/gemini-api/docs/openai, read 2026-11-21):

    effort    Gemini 3 and later   its Pro models   before Gemini 3
    none      refused              refused          budget 0
    minimal   MINIMAL              LOW              1 024 tokens
    low       LOW                  LOW              1 024
    medium    MEDIUM               MEDIUM           8 192
    high      HIGH                 HIGH             24 576
    xhigh     XHIGH                XHIGH            24 576

Whoever names an effort also gets the thoughts, which cost the same told or untold.
"""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from gateway.errors import RequestError
from gateway.providers.gemini_messages import contents_of
from gateway.providers.gemini_schema import adapt
from gateway.request_fields import read_boolean, read_integer, read_object, read_short_text, wrong

__all__ = ["chat_body", "is_single_call", "model_name", "model_path", "refuse_unknown", "unsupported"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_BEFORE_3: Final = re.compile(r"gemini-[12]\b")
_TRANSLATED: Final = frozenset(
    """
    model messages stream stream_options max_tokens max_completion_tokens n temperature top_p top_k stop seed
    frequency_penalty presence_penalty tools tool_choice parallel_tool_calls response_format reasoning_effort logprobs
    top_logprobs service_tier modalities
    """.split()
)
_HARMLESS: Final = frozenset(
    """
    user metadata store safety_identifier prompt_cache_key prompt_cache_retention prediction
    """.split()
)
_ORDINARY: Final[Mapping[str, tuple[Any, ...]]] = {"verbosity": ("medium",), "logit_bias": ({},), "best_of": (1,)}
"""Values that ask for nothing, of fields that Gemini has no word for."""
_LEVELS: Final = {name: name.upper() for name in ("minimal", "low", "medium", "high", "xhigh")}
_BUDGETS: Final = {"none": 0, "minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576, "xhigh": 24_576}
_TIERS: Final = {"default": "standard", "standard": "standard", "flex": "flex", "priority": "priority"}
_NUMBERS: Final = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
}
_MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
_TOKENS_MAX: Final = 2**31 - 1
"""Google's counts have 32 bits."""
_CHOICES_MAX: Final = 128
_LOGPROBS_MAX: Final = 20


def model_name(body: Mapping[str, Any]) -> str:
    """The model, which becomes a part of the path. Raises `RequestError` for one that is more than a name."""
    name = body.get("model")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise wrong("model", "must be a plain name: letters, digits, dots, dashes and underscores")
    return name


def model_path(model: str, method: str) -> str:
    """Below the base URL: `/models/NAME:METHOD`."""
    return f"/models/{quote(model, safe='')}:{method}"


def chat_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of `generateContent` or `streamGenerateContent`. Raises `RequestError`."""
    refuse_unknown(body, _TRANSLATED | _HARMLESS, _ORDINARY)
    model = model_name(body)
    wants_signatures = model.startswith("gemini-") and not _BEFORE_3.match(model)
    said = contents_of(body.get("messages"), wants_signatures=wants_signatures)
    translated: dict[str, Any] = {"contents": said.contents}
    if said.system:
        translated["systemInstruction"] = {"parts": said.system}
    if declarations := _declarations(body.get("tools")):
        translated["tools"] = [{"functionDeclarations": declarations}]
    if calling := _calling(body, has_tools=bool(declarations)):
        translated["toolConfig"] = {"functionCallingConfig": calling}
    if config := _generation(body):
        translated["generationConfig"] = config
    if tier := _tier(body):
        translated["serviceTier"] = tier
    return translated


def is_single_call(body: Mapping[str, Any]) -> bool:
    """Whether the caller wants at most one tool call an answer, which Gemini cannot be told."""
    return body.get("parallel_tool_calls") is False


def refuse_unknown(
    body: Mapping[str, Any], known: frozenset[str], ordinary: Mapping[str, tuple[Any, ...]] | None = None
) -> None:
    """Raises `RequestError` for a field outside `known`, unless it is null or has one of its `ordinary` values."""
    for field in body.keys() - known:
        value = body[field]
        if value is not None and value not in (ordinary or {}).get(field, ()):
            raise unsupported(field)


def unsupported(field: str, what: str = "is not supported by this model") -> RequestError:
    """For what OpenAI has and Gemini has not."""
    shown = field if len(field) <= 64 and field.isprintable() else "a field"
    return RequestError(f"`{shown}` {what}.", code="unsupported_parameter", param=shown)


def _generation(body: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for field, name in _NUMBERS.items():
        if (number := body.get(field)) is not None:
            if type(number) not in (int, float):
                raise wrong(field, "must be a number")
            config[name] = number
    limits = [read_integer(body, field, 1, 2**63 - 1) for field in ("max_completion_tokens", "max_tokens")]
    if limit := limits[0] or limits[1]:
        config["maxOutputTokens"] = min(limit, _TOKENS_MAX)
    if (choices := read_integer(body, "n", 1, _CHOICES_MAX)) and choices > 1:
        config["candidateCount"] = choices
    if (seed := read_integer(body, "seed", -(2**63), 2**64 - 1)) is not None:
        # OpenAI's seeds have 64 bits. The same one still means the same answer.
        config["seed"] = seed % 2**31
    if stops := _stops(body.get("stop")):
        config["stopSequences"] = stops
    return config | _format(body) | _logprobs(body) | _modalities(body) | _thinking(body)


def _stops(stop: object) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise wrong("stop", "must be a string or an array of strings")
    return stops


def _format(body: Mapping[str, Any]) -> dict[str, Any]:
    wanted = read_object(body, "response_format")
    kind = wanted.get("type", "text")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"responseMimeType": "application/json"}
    if kind != "json_schema":
        raise wrong("response_format.type", "must be one of text, json_object and json_schema for this model")
    schema = read_object(wanted, "json_schema").get("schema")
    if not isinstance(schema, dict):
        raise wrong("response_format.json_schema.schema", "is required and must be an object")
    return {"responseMimeType": "application/json", "responseJsonSchema": adapt(schema)}


def _logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    most = read_integer(body, "top_logprobs", 0, _LOGPROBS_MAX)
    if not read_boolean(body, "logprobs"):
        return {}
    return {"responseLogprobs": True} | ({"logprobs": most} if most else {})


def _modalities(body: Mapping[str, Any]) -> dict[str, Any]:
    wanted = body.get("modalities")
    if wanted is None or wanted == ["text"]:
        return {}
    if not isinstance(wanted, list) or not all(one in ("text", "image") for one in wanted):
        raise wrong("modalities", "may hold text and image for this model", code="unsupported_parameter")
    return {"responseModalities": [one.upper() for one in wanted]} if wanted else {}


def _thinking(body: Mapping[str, Any]) -> dict[str, Any]:
    effort = read_short_text(body, "reasoning_effort")
    if not effort:
        return {}
    model = model_name(body)
    if effort not in _BUDGETS:
        raise wrong("reasoning_effort", f"must be one of {', '.join(_BUDGETS)}")
    if _BEFORE_3.match(model):
        budget = _BUDGETS[effort]
        return {"thinkingConfig": {"thinkingBudget": budget} | ({"includeThoughts": True} if budget else {})}
    if effort == "none":
        raise wrong("reasoning_effort", "cannot be `none` for this model, which always thinks; `minimal` is the least")
    if effort == "minimal" and "pro" in model.split("-"):
        effort = "low"
    return {"thinkingConfig": {"thinkingLevel": _LEVELS[effort], "includeThoughts": True}}


def _tier(body: Mapping[str, Any]) -> str:
    wanted = read_short_text(body, "service_tier")
    if wanted in ("", "auto"):
        return ""
    if wanted not in _TIERS:
        raise wrong("service_tier", f"must be one of auto, {', '.join(_TIERS)} for this model")
    return _TIERS[wanted]


def _declarations(tools: object) -> list[dict[str, Any]]:
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise wrong("tools", "must be an array")
    return [_declaration(tool, f"tools[{number}]") for number, tool in enumerate(tools)]


def _declaration(tool: object, where: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict):
        raise unsupported(f"{where}.type", "must be `function` for this model")
    name, description = function.get("name"), function.get("description")
    if not isinstance(name, str) or not name:
        raise wrong(f"{where}.function.name", "must be a non-empty string")
    declared: dict[str, Any] = {"name": name}
    if isinstance(description, str) and description:
        declared["description"] = description
    if parameters := read_object(function, "parameters"):
        declared["parametersJsonSchema"] = adapt(parameters)
    return declared


def _calling(body: Mapping[str, Any], *, has_tools: bool) -> dict[str, Any]:
    """`VALIDATED` keeps the model to the schemas, and leaves it the choice: what `strict` means."""
    choice = body.get("tool_choice")
    read_boolean(body, "parallel_tool_calls")
    if not has_tools:
        if choice not in (None, "none", "auto"):
            raise wrong("tool_choice", "needs `tools`")
        return {}
    free = "VALIDATED" if any(tool["function"].get("strict") is True for tool in body["tools"]) else "AUTO"
    if choice is None:
        return {"mode": free} if free != "AUTO" else {}
    if isinstance(choice, str) and choice in _MODES:
        return {"mode": free if choice == "auto" else _MODES[choice]}
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"mode": "ANY", "allowedFunctionNames": _names([choice])}
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = read_object(choice, "allowed_tools")
        mode = "ANY" if allowed.get("mode") == "required" else "VALIDATED"
        return {"mode": mode, "allowedFunctionNames": _names(allowed.get("tools"))}
    raise wrong("tool_choice", "must be auto, none, required, or name functions")


def _names(choices: object) -> list[str]:
    found = choices if isinstance(choices, list) else []
    functions = [choice.get("function") if isinstance(choice, dict) else None for choice in found]
    names = [function.get("name") if isinstance(function, dict) else None for function in functions]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise wrong("tool_choice", 'must name functions: `{"type": "function", "function": {"name": ...}}`')
    return [str(name) for name in names]
