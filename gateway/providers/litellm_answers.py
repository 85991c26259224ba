"""litellm's answers, chunks and exceptions -> OpenAI's bytes. Pure; knows the library's objects by their attributes only.

Exact usage or none: litellm counts tokens itself where a provider reports none, and closes every stream with a
`finish_reason` of its own. Neither reaches the client: a made-up number would be billed, and a broken stream would look
whole.
"""

import re
import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from gateway.errors import error_body
from gateway.providers.translated import Untranslatable

__all__ = ["DONE", "KINDS", "Kind", "chat_answer", "chunk_event", "embeddings_answer", "error_bytes", "images_answer"]
__all__ += ["kind_of", "usage_event", "usage_of"]

DONE = b"data: [DONE]\n\n"
_MESSAGE_CHARS_MAX = 4_000


class Kind(NamedTuple):
    """What an exception means to a client of OpenAI's API."""

    status: int
    """Where the provider's own is not known."""
    type: str
    code: str


_OWN_FAULT = Kind(500, "server_error", "internal_error")
KINDS: Mapping[str, Kind] = {
    "APIConnectionError": Kind(502, "server_error", "provider_unreachable"),
    "APIError": Kind(500, "server_error", "upstream_error"),
    "APIResponseValidationError": Kind(502, "server_error", "upstream_invalid"),
    "AuthenticationError": Kind(401, "authentication_error", "invalid_api_key"),
    "BadGatewayError": Kind(502, "server_error", "upstream_error"),
    "BadRequestError": Kind(400, "invalid_request_error", "invalid_value"),
    "ContentPolicyViolationError": Kind(400, "invalid_request_error", "content_policy_violation"),
    "ContextWindowExceededError": Kind(400, "invalid_request_error", "context_length_exceeded"),
    "ImageFetchError": Kind(400, "invalid_request_error", "invalid_image"),
    "InternalServerError": Kind(500, "server_error", "internal_error"),
    "InvalidRequestError": Kind(400, "invalid_request_error", "invalid_value"),
    "JSONSchemaValidationError": Kind(502, "server_error", "upstream_invalid"),
    "LiteLLMUnknownProvider": Kind(500, "server_error", "provider_unavailable"),
    "MidStreamFallbackError": Kind(503, "server_error", "upstream_error"),
    "NotFoundError": Kind(404, "invalid_request_error", "model_not_found"),
    "PaymentRequiredError": Kind(402, "insufficient_quota", "insufficient_quota"),
    "PermissionDeniedError": Kind(403, "permission_error", "permission_denied"),
    "RateLimitError": Kind(429, "rate_limit_error", "rate_limit_exceeded"),
    "RejectedRequestError": Kind(400, "invalid_request_error", "invalid_value"),
    "ServiceUnavailableError": Kind(503, "server_error", "overloaded"),
    "Timeout": Kind(504, "server_error", "upstream_timeout"),
    "UnprocessableEntityError": Kind(422, "invalid_request_error", "invalid_value"),
    "UnsupportedParamsError": Kind(400, "invalid_request_error", "unsupported_parameter"),
    # What only litellm's own proxy, its callbacks and its mocks raise: should one come, it is our fault.
    **dict.fromkeys(
        """
        BlockedPiiEntityError BudgetExceededError GuardrailRaisedException MockException ModelNotMappedError
        ModifyResponseException OpenAIError SensitiveDataRouteException VectorStoreSearchError
        """.split(),
        _OWN_FAULT,
    ),
}
"""By the class's name: every exception of `litellm.exceptions` as of 1.106.2."""

_NAMES = re.compile(r"^(?:(?:litellm\.)?[A-Za-z0-9_]+(?:Error|Exception|Timeout)(?::| -) ?)+")


def kind_of(exc: BaseException) -> Kind:
    """Of the class itself, or of the nearest one above it that is known; a broken stream is what broke it."""
    inner = getattr(exc, "original_exception", None)
    if type(exc).__name__ == "MidStreamFallbackError" and isinstance(inner, BaseException):
        return kind_of(inner)
    return next((KINDS[each.__name__] for each in type(exc).__mro__ if each.__name__ in KINDS), _OWN_FAULT)


def error_bytes(exc: BaseException, secret: str) -> bytes:
    """OpenAI's envelope; `secret` is the provider key."""
    kind = kind_of(exc)
    return error_body(message_of(exc, secret), kind.type, kind.code, "model" if kind.status == 404 else None)


def message_of(exc: BaseException, secret: str) -> str:
    """What the provider said, without the names litellm puts before it, without the key."""
    text = getattr(exc, "message", None)
    text = text if isinstance(text, str) and text else str(exc)
    text = _NAMES.sub("", text).strip()
    text = _said_in_json(text) or text or "The provider refused the request and did not say why."
    return (text.replace(secret, "[redacted]") if secret else text)[:_MESSAGE_CHARS_MAX]


def _said_in_json(text: str) -> str | None:
    """The message inside the provider's JSON, which litellm quotes behind words of its own."""
    try:
        parsed = orjson.loads(text[text.find("{") : text.rfind("}") + 1])
    except orjson.JSONDecodeError:
        return None
    inner = parsed.get("error") if isinstance(parsed, dict) else None
    for place in (inner, parsed):
        if isinstance(place, dict):
            for name in ("message", "Message", "detail"):
                if isinstance(place.get(name), str) and place[name]:
                    return str(place[name])
    return inner if isinstance(inner, str) and inner else None


# Usage


def usage_of(usage: Any) -> dict[str, Any] | None:
    """OpenAI's usage object with its inclusive totals; None where the provider reported none.

    With its token counter switched off, litellm writes 0 for what it would have counted itself. A prompt of no tokens
    does not exist, so a 0 there is no report.
    """
    prompt, completion = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    if not prompt or completion is None:
        return None
    told: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    total = getattr(usage, "total_tokens", None)
    told["total_tokens"] = prompt + completion if total is None else total
    details = getattr(usage, "prompt_tokens_details", None)
    read = {
        "cached_tokens": _count(details, "cached_tokens"),
        "cache_write_tokens": _count(details, "cache_creation_tokens") or _count(usage, "cache_creation_input_tokens"),
        "audio_tokens": _count(details, "audio_tokens"),
        "image_tokens": _count(details, "image_tokens"),
    }
    details = getattr(usage, "completion_tokens_details", None)
    made = {name: _count(details, name) for name in ("reasoning_tokens", "audio_tokens", "image_tokens")}
    told["prompt_tokens_details"] = {"cached_tokens": 0} | {name: count for name, count in read.items() if count}
    told["completion_tokens_details"] = {"reasoning_tokens": 0} | {name: count for name, count in made.items() if count}
    return told


def _count(parts: Any, name: str) -> Any:
    """As it was reported: whether it can be true is judged where it is billed."""
    return getattr(parts, name, None) or 0


# Chat


def chat_answer(answer: Any, *, model: str, answer_id: str) -> bytes:
    """A whole chat completion. Raises `Untranslatable`."""
    choices = [_choice(choice, index) for index, choice in enumerate(getattr(answer, "choices", None) or ())]
    if not choices:
        raise Untranslatable("no choice in the library's answer")
    told: dict[str, Any] = {
        "id": answer_id,
        "object": "chat.completion",
        "created": _created(answer),
        "model": model,
        "choices": choices,
    }
    usage = usage_of(getattr(answer, "usage", None))
    if usage is not None and (usage["completion_tokens"] or not any(map(_says_something, choices))):
        told["usage"] = usage
    return orjson.dumps(told)


def _says_something(choice: Mapping[str, Any]) -> bool:
    return bool(choice["message"].get("content") or choice["message"].get("tool_calls"))


def _choice(choice: Any, index: int) -> dict[str, Any]:
    message = getattr(choice, "message", None)
    told: dict[str, Any] = {"role": "assistant", "content": getattr(message, "content", None), "refusal": None}
    if calls := getattr(message, "tool_calls", None):
        told["tool_calls"] = [_tool_call(call) for call in calls]
    if thought := getattr(message, "reasoning_content", None):
        told["reasoning_content"] = thought
    return {
        "index": _index(choice, index),
        "message": told,
        "logprobs": _plain(getattr(choice, "logprobs", None)),
        "finish_reason": getattr(choice, "finish_reason", None) or "stop",
    }


def _tool_call(call: Any) -> dict[str, Any]:
    function = call.function
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": function.name, "arguments": function.arguments or "{}"},
    }


def chunk_event(chunk: Any, *, model: str, answer_id: str, created: int, is_finish_real: bool) -> bytes:
    """One event of a stream, empty where the chunk says nothing. Usage has an event of its own at the end.

    `is_finish_real` is false where the provider has not said why its answer ended, so that nobody else may.
    """
    choices = [_delta_of(choice, index, is_finish_real) for index, choice in enumerate(getattr(chunk, "choices", ()))]
    choices = [choice for choice in choices if choice["delta"] or choice["finish_reason"]]
    return _event(answer_id, created, model, {"choices": choices}) if choices else b""


def usage_event(usage: Mapping[str, Any], *, model: str, answer_id: str, created: int) -> bytes:
    """The event that `stream_options.include_usage` asks for."""
    return _event(answer_id, created, model, {"choices": [], "usage": usage})


def _event(answer_id: str, created: int, model: str, fields: Mapping[str, Any]) -> bytes:
    head = {"id": answer_id, "object": "chat.completion.chunk", "created": created, "model": model}
    return b"data: " + orjson.dumps({**head, **fields}) + b"\n\n"


def _delta_of(choice: Any, index: int, is_finish_real: bool) -> dict[str, Any]:
    delta = getattr(choice, "delta", None)
    told: dict[str, Any] = {}
    for name in ("role", "content", "reasoning_content", "refusal"):
        if (value := getattr(delta, name, None)) is not None:
            told[name] = value
    if told.get("content") == "" and "role" not in told:
        del told["content"]
    if calls := getattr(delta, "tool_calls", None):
        told["tool_calls"] = [_call_piece(call, at) for at, call in enumerate(calls)]
    return {
        "index": _index(choice, index),
        "delta": told,
        "logprobs": _plain(getattr(choice, "logprobs", None)),
        "finish_reason": getattr(choice, "finish_reason", None) if is_finish_real else None,
    }


def _call_piece(call: Any, at: int) -> dict[str, Any]:
    function = getattr(call, "function", None)
    told: dict[str, Any] = {"index": _index(call, at)}
    if getattr(call, "id", None):
        told.update(id=call.id, type="function")
    said = {name: getattr(function, name, None) for name in ("name", "arguments")}
    told["function"] = {name: value for name, value in said.items() if value is not None}
    return told


def _index(item: Any, otherwise: int) -> int:
    index = getattr(item, "index", None)
    return index if type(index) is int else otherwise


def _created(answer: Any) -> int:
    created = getattr(answer, "created", None)
    return created if type(created) is int else 0


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value


# Vectors and pictures


def embeddings_answer(answer: Any, *, model: str, count: int, is_base64: bool) -> bytes:
    """The vectors of `count` texts. Raises `Untranslatable`."""
    found = getattr(answer, "data", None) or ()
    if len(found) != count:
        raise Untranslatable("another number of vectors than of texts")
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(_field(item, "embedding"), is_base64)}
        for index, item in enumerate(found)
    ]
    told: dict[str, Any] = {"object": "list", "data": data, "model": model}
    if prompt := getattr(getattr(answer, "usage", None), "prompt_tokens", None):
        told["usage"] = {"prompt_tokens": prompt, "total_tokens": prompt}
    return orjson.dumps(told)


def _vector(values: object, is_base64: bool) -> str | list[float]:
    if isinstance(values, str):
        floats = array("f", b64decode(values))
        if sys.byteorder == "big":
            floats.byteswap()
        values = list(floats)
    if not isinstance(values, list) or not values or not all(type(value) in (int, float) for value in values):
        raise Untranslatable("a vector that is no array of numbers")
    if not is_base64:
        return values
    try:
        packed = array("f", values)
    except OverflowError:
        raise Untranslatable("a vector with numbers beyond its type") from None
    if sys.byteorder == "big":
        packed.byteswap()
    return b64encode(packed.tobytes()).decode()


def images_answer(answer: Any) -> bytes:
    """The pictures that came. Raises `Untranslatable`."""
    data = [_picture(item) for item in _iterable(getattr(answer, "data", None))]
    if not data:
        raise Untranslatable("no picture in the library's answer")
    told: dict[str, Any] = {"created": _created(answer), "data": data}
    usage = getattr(answer, "usage", None)
    if getattr(usage, "input_tokens", None) and getattr(usage, "output_tokens", None):
        told["usage"] = _plain(usage)
    return orjson.dumps(told)


def _picture(item: Any) -> dict[str, Any]:
    told = {name: _field(item, name) for name in ("b64_json", "url", "revised_prompt")}
    picture = {name: value for name, value in told.items() if value is not None}
    if not picture.keys() & {"b64_json", "url"}:
        raise Untranslatable("a picture without bytes or an address")
    return picture


def _iterable(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else ()


def _field(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, dict) else getattr(item, name, None)
