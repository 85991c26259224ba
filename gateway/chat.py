"""A chat completion request: read once, checked, bounded, and written again for the provider. Pure.

What is sent on is always a fresh dump of what was checked, never the caller's bytes: duplicate keys have collapsed to
the last, and integers outside 64 bits have become floats. Unknown fields travel on; fields that could steer the
upstream, the payer or the books are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.catalog import Model, StreamUsage
from gateway.errors import RequestError
from gateway.streaming import utf8_bytes

CHOICES_MAX = 128
MODEL_NAME_CHARS_MAX = 200
OUTPUT_TOKENS_DEFAULT = 16_384
"""Taken as a model's cap where the catalog names none."""
CONTEXT_TOKENS_DEFAULT = 2_000_000
"""Likewise for the context: beyond any model of today, so that it bounds hostile usage only."""

# What one part may cost in tokens, where it cannot be read off its size. Dearest cases: a high-detail image on
# gpt-4o-mini (2 833 + 8 tiles of 5 667, OpenAI's vision guide), a 100-page PDF at 1 500 tokens a page, an hour of audio
# at 32 tokens a second (Gemini's audio guide).
_PART_TOKENS = {
    "image_url": 50_000,
    "input_image": 50_000,
    "file": 150_000,
    "input_audio": 115_200,
    "video_url": 300_000,
}
_TOKENS_MAX = 2**63 - 1
_LARGE_BODY_BYTES = 2**20
_VALUES_MAX = 1_000_000
"""Objects, arrays and commas in a large body; the longest prompts of today have a tenth of it."""
_TEXT_PART = frozenset({"type", "text"})
_MESSAGE_TOKENS = 8
"""Framing of one message: role and separators."""

_STEERING = frozenset(
    """
    api_base base_url api_key api_version api_type azure azure_ad_token azure_ad_token_provider callbacks client
    custom_llm_provider custom_pricing default_headers deployment_id extra_body extra_headers extra_query fallbacks
    headers hf_model_name input_cost_per_token input_cost_per_second litellm_call_id litellm_logging_obj
    litellm_metadata litellm_params logger_fn max_retries mock_delay mock_response mock_timeout mock_tool_calls model_info model_list
    no-log no_log num_retries organization output_cost_per_token output_cost_per_second project proxy
    proxy_server_request region_name secret_fields shared_session ssl_verify timeout use_litellm_proxy user_config
    user_api_key context_window_fallback_dict success_callback failure_callback preset_cache_key
    """.split()
)
_STEERING_PREFIXES = ("aws_", "vertex_", "azure_", "watsonx_", "litellm_", "sagemaker_", "oci_")
_KNOWN = frozenset(
    """
    model messages stream stream_options max_tokens max_completion_tokens n temperature top_p stop tools tool_choice
    parallel_tool_calls response_format seed user metadata frequency_penalty presence_penalty logit_bias logprobs
    top_logprobs reasoning_effort service_tier store prediction modalities audio functions function_call verbosity
    web_search_options safety_identifier prompt_cache_key prompt_cache_retention
    """.split()
)
_PLAIN = frozenset(
    """
    model messages stream max_tokens max_completion_tokens temperature top_p stop seed user metadata store
    frequency_penalty presence_penalty logit_bias logprobs top_logprobs reasoning_effort verbosity
    parallel_tool_calls safety_identifier prompt_cache_key prompt_cache_retention
    """.split()
)
"""Fields that are neither input nor looked at beyond the first ones."""
_NO_INPUT = _PLAIN | frozenset(
    "stream_options n best_of modalities audio web_search_options service_tier tool_choice".split()
)
_FREE_TOOLS = frozenset({"function", "custom"})
_FREE_SERVICE_TIERS = frozenset({"auto", "default", "flex"})


@dataclass(slots=True)
class ChatRequest:
    """The fields the gateway itself reads; `body` is everything, ready to be changed and sent on."""

    body: dict[str, Any]
    model: str
    message_count: int
    text_bytes: int = 0
    """UTF-8 bytes of messages, tools and schemas; base64 parts are not text."""
    part_tokens: int = 0
    """The dearest case of every part that is no text."""
    is_streaming: bool = False
    wants_usage: bool = False
    max_tokens: int | None = None
    """The caller's explicit bound; None when there was none."""
    answers: int = 1
    """`n`: how many choices the answer has."""
    choices: int = 1
    """How many answers the provider works on: `n`, or `best_of` where a server of this dialect knows it."""
    has_audio_input: bool = False
    wants_audio_output: bool = False

    @property
    def is_text_only(self) -> bool:
        """Neither images nor sound go in, and no sound comes out."""
        return not self.part_tokens and not self.wants_audio_output

    @property
    def input_tokens_estimate(self) -> int:
        """What the input most likely is, where nobody reports it: a token per four bytes."""
        return -(-self.text_bytes // 4)

    def input_tokens_max(self, model: Model) -> int:
        """A bound no tokenizer passes: a token per byte, framing, and the dearest case of every other part."""
        bound = self.text_bytes + _MESSAGE_TOKENS * (self.message_count + 1) + self.part_tokens
        return min(bound, model.context_tokens_max or CONTEXT_TOKENS_DEFAULT)

    def output_tokens_max(self, model: Model) -> int:
        """What the model may answer at most, over all choices."""
        cap = model.output_tokens_max or OUTPUT_TOKENS_DEFAULT
        return min(self.max_tokens or cap, cap) * self.choices

    def upstream_body(self, model: Model, stream_usage: StreamUsage) -> bytes:
        """The request as the provider gets it: its own model name, usage asked for, an excessive bound lowered."""
        body = self.body
        body["model"] = model.upstream_model
        cap = model.output_tokens_max
        if self.max_tokens is not None and cap is not None and self.max_tokens > cap:
            for field in ("max_tokens", "max_completion_tokens"):
                if body.get(field) is not None:
                    body[field] = min(body[field], cap)
        if self.is_streaming and stream_usage == "inject" and not self.wants_usage:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        try:
            return orjson.dumps(body)
        except orjson.JSONEncodeError:
            raise _too_deep() from None


def read_chat_request(raw: bytes) -> ChatRequest:
    """Parse and check a body. Raises `RequestError` saying what to change."""
    if len(raw) > _LARGE_BODY_BYTES and sum(map(raw.count, b"{[,")) > _VALUES_MAX:
        # A few bytes of JSON can become a hundred of memory, and the event loop would stand still meanwhile.
        raise RequestError("The body holds too many values.", status=413, code="request_too_large")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise RequestError(
            f"The body is not valid JSON: {exc.msg} (position {exc.pos}).", code="invalid_json"
        ) from None
    if not isinstance(body, dict):
        raise _wrong("body", "must be a JSON object")
    _refuse_steering(body)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _wrong("model", "is required and must be a string", code="missing_required_parameter")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "is required and must be a non-empty array", code="missing_required_parameter")
    try:
        request = ChatRequest(body, model, len(messages))
        _measure(request, messages)
        # Most requests have nothing else; one look at the keys tells.
        if not _PLAIN.issuperset(body):
            _read_other_fields(request)
    except orjson.JSONEncodeError:
        raise _too_deep() from None
    request.is_streaming = _boolean(body, "stream")
    request.max_tokens = _max_tokens(body)
    return request


def _read_other_fields(request: ChatRequest) -> None:
    body = request.body
    _refuse_unpriced_features(body)
    request.wants_usage = _boolean(_object(body, "stream_options"), "include_usage", "stream_options.include_usage")
    request.answers = _integer(body, "n", 1, CHOICES_MAX) or 1
    request.choices = max(request.answers, _integer(body, "best_of", 1, CHOICES_MAX) or 1)
    request.wants_audio_output = body.get("modalities") not in (None, ["text"]) or body.get("audio") is not None
    # Tools, schemas, and whatever a provider may take for input that we do not know.
    for field in body.keys() - _NO_INPUT:
        request.text_bytes += len(orjson.dumps(body[field]))


def _refuse_steering(body: Mapping[str, Any]) -> None:
    if _KNOWN.issuperset(body):
        return
    for field in body.keys() - _KNOWN:
        if field in _STEERING or field.startswith(_STEERING_PREFIXES):
            shown = field if len(field) <= 64 and field.isprintable() else "this field"
            raise RequestError(
                f"The field `{shown}` is not accepted: host, key, payer and logging are the gateway's.",
                code="unsupported_parameter",
                param=shown,
            )


def _refuse_unpriced_features(body: Mapping[str, Any]) -> None:
    """Paid extras of a provider that no price row covers."""
    tools = body.get("tools")
    if tools is not None:
        if not isinstance(tools, list):
            raise _wrong("tools", "must be an array")
        for tool in tools:
            if not isinstance(tool, dict) or not isinstance(tool.get("type"), str) or tool["type"] not in _FREE_TOOLS:
                raise _unpriced("tools[].type")
    if body.get("web_search_options") is not None:
        raise _unpriced("web_search_options")
    tier = body.get("service_tier")
    if tier is not None and (not isinstance(tier, str) or tier not in _FREE_SERVICE_TIERS):
        raise _unpriced("service_tier")


def _measure(request: ChatRequest, messages: list[Any]) -> None:
    """UTF-8 bytes of all text in messages, and the dearest case of every part that is none."""
    text = 0
    for message in messages:
        if not isinstance(message, dict):
            raise _wrong("messages", "must hold objects")
        for key, value in message.items():
            if type(value) is str:
                if key != "role":
                    text += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
            elif type(value) is list and key == "content":
                for part in value:
                    _measure_part(request, part)
            elif value is not None:
                text += len(orjson.dumps(value))
    request.text_bytes += text


def _measure_part(request: ChatRequest, part: object) -> None:
    if not isinstance(part, dict):
        raise _wrong("messages[].content", "must hold objects with a `type`")
    kind = part.get("type")
    if isinstance(kind, str) and kind in _PART_TOKENS:
        request.part_tokens += _PART_TOKENS[kind]
        request.has_audio_input |= kind == "input_audio"
    elif part.keys() == _TEXT_PART and isinstance(part["text"], str):
        request.text_bytes += utf8_bytes(part["text"])
    else:
        request.text_bytes += len(orjson.dumps(part))


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    """The larger of two, for a server that heeds the other one."""
    old = _integer(body, "max_tokens", 1, _TOKENS_MAX)
    new = _integer(body, "max_completion_tokens", 1, _TOKENS_MAX)
    return new if old is None else old if new is None else max(old, new)


def _integer(body: Mapping[str, Any], field: str, least: int, most: int) -> int | None:
    value = body.get(field)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise _wrong(field, f"must be an integer from {least} to {most}")
    return value


def _boolean(body: Mapping[str, Any], field: str, name: str | None = None) -> bool:
    value = body.get(field)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _wrong(name or field, "must be true or false")
    return value


def _object(body: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = body.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(field, "must be an object")
    return value


def _wrong(field: str, what: str, *, code: str = "invalid_value") -> RequestError:
    return RequestError(f"`{field}` {what}.", code=code, param=field)


def _too_deep() -> RequestError:
    return RequestError("The body is nested too deeply.", code="invalid_json")


def _unpriced(field: str) -> RequestError:
    return RequestError(
        f"`{field}` asks for something the catalog has no price for, so it is refused.",
        code="unpriced_feature",
        param=field,
    )
