"""A chat completion request: read once, checked, bounded, and written again for the provider. Pure.

What is sent on is always a fresh dump of what was checked, never the caller's bytes: duplicate keys have collapsed to
the last, and integers outside 64 bits have become floats. Unknown fields travel on; fields that could steer the
upstream, the payer or the books are refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import orjson

from gateway.cache.base import Kind
from gateway.catalog import Model, Price, ProviderRow
from gateway.chat_metering import CONTEXT_TOKENS_DEFAULT, OUTPUT_TOKENS_DEFAULT, Report, meter_chat, output_estimate
from gateway.errors import RequestError
from gateway.metering import Metered, estimated
from gateway.model_request import OUTPUT_TOKENS_EXPECTED, OUTPUT_TOKENS_LEAST, Estimate, Outgoing, PlainRequest
from gateway.pricing import UnpricedUsage, cost_nano_usd, worst_case_nano_usd
from gateway.relay import Guard, Relay
from gateway.request_fields import (
    dump_body,
    parse_body,
    read_boolean,
    read_integer,
    read_object,
    read_required_text,
    read_short_text,
    refuse_steering,
    too_deep,
    unpriced_feature,
    wrong,
)
from gateway.streaming import SseRelay, utf8_bytes
from gateway.structured import REPAIR_TOKENS_MAX, StructuredOutput
from gateway.usage import Usage

CHOICES_MAX = 128
# A NamedTuple's own constructor takes twice as long as the tuple's.
_made = tuple.__new__
MODEL_NAME_CHARS_MAX = 200

# What one part may cost in tokens, where it cannot be read off its size. Dearest cases: a high-detail image on
# gpt-4o-mini (2 833 + 8 tiles of 5 667, OpenAI's vision guide), a 100-page PDF at 1 500 tokens a page, an hour of audio
# at 32 tokens a second (Gemini's audio guide).
PART_TOKENS = {
    "image_url": 50_000,
    "input_image": 50_000,
    "file": 150_000,
    "input_audio": 115_200,
    "video_url": 300_000,
}
_IMAGE_PARTS = frozenset({"image_url", "input_image"})
_TOKENS_MAX = 2**63 - 1
_TEXT_PART = frozenset({"type", "text"})
MESSAGE_TOKENS = 8
"""Framing of one message: role and separators."""

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
OTHER_BOUNDS = frozenset({"max_new_tokens", "n_predict", "num_predict"})
"""How some servers say `max_tokens`: a call would be held by the one and answered by the other."""
_PARTS_MAX = 50_000
"""Of all messages together, and as many messages: more would keep every other call waiting."""
_TEXT_FILE = re.compile(r"data:(?!application/pdf|image/|audio/|video/)", re.IGNORECASE)
"""A file in base64 that may be words and nothing else."""
_BASE_TIERS = frozenset({"", "auto", "default", "standard", "flex"})
"""Never dearer than the base rate: a row without a table for them is right, or bills a little much."""


@dataclass(slots=True)
class ChatRequest(PlainRequest):
    """The fields the gateway itself reads (`ModelRequest`); `body` is everything, ready to be changed and sent on."""

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
    clamped_to: int | None = None
    """Our bound, where the hold had to shrink and the caller gave none."""
    answers: int = 1
    """`n`: how many choices the answer has."""
    choices: int = 1
    """How many answers the provider works on: `n`, or `best_of` where a server of this dialect knows it."""
    has_audio_input: bool = False
    has_images: bool = False
    wants_audio_output: bool = False
    service_tier: str = ""
    """Asked for by name; empty where the caller left it to the provider."""
    structured: StructuredOutput | None = None
    """The schema the answer has to match, if there is one."""
    is_stored: bool = False
    """The provider is to keep the answer under its id (`store`)."""

    endpoint: ClassVar[str] = "chat"
    path: ClassVar[str] = "/chat/completions"

    @property
    def is_text_only(self) -> bool:
        """Neither images nor sound go in, and no sound comes out."""
        return not self.part_tokens and not self.wants_audio_output

    @property
    def input_tokens_estimate(self) -> int:
        """What the input most likely is, where nobody reports it: a token per four bytes."""
        return -(-self.text_bytes // 4)

    @property
    def needs(self) -> frozenset[str]:
        body = self.body
        found = set()
        if body.get("tools") or body.get("functions"):
            found.add("tools")
        response_format = body.get("response_format")
        if isinstance(response_format, dict) and response_format.get("type") == "json_schema":
            found.add("json_schema")
        if self.has_images:
            found.add("vision")
        if self.has_audio_input or self.wants_audio_output:
            found.add("audio")
        return frozenset(found)

    @property
    def cache_kind(self) -> Kind | Literal[""]:
        """An answer that the provider keeps has an id for one caller to come back with."""
        return "" if self.is_stored else "chat"

    @property
    def has_tools(self) -> bool:
        return bool(self.body.get("tools") or self.body.get("functions"))

    def fits(self, model: Model) -> bool:
        room = model.context_tokens_max
        return self.needs <= model.capabilities and (room is None or self.input_tokens_estimate <= room)

    def variant(self, model: Model) -> str:
        tier = self.service_tier
        return tier if tier and model.price.knows_tier(tier) else ""

    def input_tokens_max(self, model: Model) -> int:
        """A bound no tokenizer passes: a token per byte, framing, and the dearest case of every other part."""
        bound = self.text_bytes + MESSAGE_TOKENS * (self.message_count + 1) + self.part_tokens
        return min(bound, model.context_tokens_max or CONTEXT_TOKENS_DEFAULT)

    def output_tokens_max(self, model: Model) -> int:
        """What the model may answer at most, over all choices."""
        cap = model.output_tokens_max or OUTPUT_TOKENS_DEFAULT
        return min(self.max_tokens or self.clamped_to or cap, cap) * self.choices

    def checked(self, model: Model) -> "ChatRequest | None":
        """Itself, where the gateway has to see to it that the answer of `model` matches the schema."""
        return self if self.structured is not None and "json_schema" not in model.capabilities else None

    def worst_case(self, model: Model, price: Price) -> int:
        self._refuse_unpriced(price)
        if self.checked(model) is not None:
            return self._bound_of_two(model, price)
        return self._bound(price, self.input_tokens_max(model), self.output_tokens_max(model))

    def estimate(self, model: Model, price: Price) -> Estimate:
        if self.has_audio_input or self.wants_audio_output or self.service_tier:
            self._refuse_unpriced(price)
        cap = model.output_tokens_max or OUTPUT_TOKENS_DEFAULT
        choices, bound = self.choices, self.max_tokens
        likely_input = -(-self.text_bytes // 4)
        likely_output = min(bound or OUTPUT_TOKENS_EXPECTED, cap) * choices
        usage = _made(Usage, (likely_input, 0, 0, 0, 0, likely_output, 0, 0, 0, 0))
        tier = self.service_tier if self.service_tier and price.knows_tier(self.service_tier) else ""
        expected = cost_nano_usd(usage, price, tier)
        if self.structured is not None and self.checked(model) is not None:
            return Estimate(self._bound_of_two(model, price), None, expected, likely_input + likely_output)
        input_most = self.input_tokens_max(model)
        smallest = None
        if bound is None and cap > OUTPUT_TOKENS_LEAST:
            smallest = self._bound(price, input_most, OUTPUT_TOKENS_LEAST * choices)
        worst = self._bound(price, input_most, self.output_tokens_max(model))
        return _made(Estimate, (worst, smallest, expected, likely_input + likely_output))

    def _refuse_unpriced(self, price: Price) -> None:
        if (self.has_audio_input and price.audio_input is None) or (
            self.wants_audio_output and price.audio_output is None
        ):
            raise UnpricedUsage("audio", price.version)
        if self.service_tier not in _BASE_TIERS and not price.knows_tier(self.service_tier):
            raise unpriced_feature("service_tier")

    def unfinished_usage(self, model: Model) -> Usage:
        return _made(Usage, (-(-self.text_bytes // 4), 0, 0, 0, 0, OUTPUT_TOKENS_EXPECTED, 0, 0, 0, 0))

    def clamp(self, model: Model, price: Price, nano_usd: int) -> int | None:
        """The largest bound that `nano_usd` pays for, found by halving: the price may have steps."""
        input_most = self.input_tokens_max(model)
        least, most = OUTPUT_TOKENS_LEAST, model.output_tokens_max or OUTPUT_TOKENS_DEFAULT
        if self._bound(price, input_most, most * self.choices) <= nano_usd:
            return None
        while least < most:
            middle = (least + most + 1) // 2
            if self._bound(price, input_most, middle * self.choices) <= nano_usd:
                least = middle
            else:
                most = middle - 1
        if self.clamped_to is None or least < self.clamped_to:
            self.clamped_to = least
        return self.clamped_to

    def _bound_of_two(self, model: Model, price: Price) -> int:
        """A checked answer and its repair, which reads the first answer and what was wrong with it."""
        assert self.structured is not None  # noqa: S101 -- only asked where it is
        room = model.context_tokens_max or CONTEXT_TOKENS_DEFAULT
        output_tokens = self.output_tokens_max(model)
        first = min(self.input_tokens_max(model) + self.structured.instruction_bytes + MESSAGE_TOKENS, room)
        second = min(first + output_tokens + REPAIR_TOKENS_MAX, room)
        return self._bound(price, first, output_tokens) + self._bound(price, second, output_tokens)

    def _bound(self, price: Price, input_tokens: int, output_tokens: int) -> int:
        return worst_case_nano_usd(
            price,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            text_only=not self.part_tokens and not self.wants_audio_output,
            service_tier=self.service_tier,
        )

    def outgoing(self, model: Model, row: ProviderRow) -> Outgoing:
        """With the provider's own model name, usage asked for, an excessive bound lowered."""
        body = {**self.body, "model": model.upstream_model}  # a downgrade writes it again, for another provider
        cap = model.output_tokens_max
        if self.max_tokens is not None and cap is not None and self.max_tokens > cap:
            for field in ("max_tokens", "max_completion_tokens"):
                if body.get(field) is not None:
                    body[field] = min(body[field], cap)
        elif self.clamped_to is not None:
            body[row.max_tokens_field] = self.clamped_to
        if row.stream_usage == "never":
            body.pop("stream_options", None)  # SDKs send it by themselves; such a provider would refuse it
        if self.is_streaming and row.stream_usage == "inject" and not self.wants_usage:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        for field in row.drop_fields:
            body.pop(field, None)
        if self.structured is not None and self.checked(model) is not None:
            body = self.structured.instruct(body)
            for field in ("stream", "stream_options"):
                body.pop(field, None)  # it is checked before the client sees any of it
            return Outgoing(self.path, dump_body(body))
        return _made(Outgoing, (self.path, dump_body(body), "application/json", (), self.is_streaming))

    def relay(self, content_type: str, model: Model, row: ProviderRow, guard: Guard) -> Relay | None:
        return ChatRelay(guard, self, model, row) if content_type.startswith("text/event-stream") else None

    def meter(self, answer: Mapping[str, Any], model: Model, row: ProviderRow) -> Metered | None:
        if answer.get("choices") is None and answer.get("usage") is None:
            return None
        report = Report(answer.get("usage"), answer.get("service_tier"))
        metered = meter_chat(self, model, row, report, lambda: output_estimate(answer))
        return metered if answer.get("choices") is not None else metered._replace(is_answer=False)

    def meter_unanswered(self, model: Model) -> Metered:
        return estimated(self.input_tokens_estimate, 0, model.price, asked=self.variant(model))


class ChatRelay(SseRelay):
    """Chunks of a chat completion, metered by what they report or, broken off, by what they said."""

    __slots__ = ("_model", "_request", "_row")

    def __init__(self, guard: Guard, request: ChatRequest, model: Model, row: ProviderRow) -> None:
        is_ours = row.stream_usage == "inject" and not request.wants_usage
        super().__init__(guard, strip_usage=is_ours, choices=request.answers)
        self._request = request
        self._model = model
        self._row = row

    def metered(self, *, is_partial: bool) -> Metered:
        tier = self.reported_tier() if self._model.price.service_tiers else self.service_tier
        return meter_chat(
            self._request,
            self._model,
            self._row,
            Report(self.usage, tier),
            self.output_tokens_estimate,
            is_partial=is_partial,
        )


def read_chat_request(raw: bytes) -> ChatRequest:
    """Parse and check a body. Raises `RequestError` saying what to change."""
    body = parse_body(raw)
    refuse_steering(body, _KNOWN)
    model = read_required_text(body, "model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "is required and must be a non-empty array", code="missing_required_parameter")
    try:
        request = ChatRequest(body, model, len(messages))
        _measure(request, messages)
        # Most requests have nothing else; one look at the keys tells.
        if not _PLAIN.issuperset(body):
            _read_other_fields(request)
    except orjson.JSONEncodeError:
        raise too_deep() from None
    request.is_streaming = read_boolean(body, "stream")
    request.is_stored = bool(body.get("store"))
    request.max_tokens = _max_tokens(body)
    return request


def _read_other_fields(request: ChatRequest) -> None:
    body = request.body
    _refuse_unpriced_features(body)
    request.wants_usage = read_boolean(
        read_object(body, "stream_options"), "include_usage", "stream_options.include_usage"
    )
    request.answers = read_integer(body, "n", 1, CHOICES_MAX) or 1
    request.choices = max(request.answers, read_integer(body, "best_of", 1, CHOICES_MAX) or 1)
    request.service_tier = read_short_text(body, "service_tier")
    request.wants_audio_output = body.get("modalities") not in (None, ["text"]) or body.get("audio") is not None
    # Tools, schemas, and whatever a provider may take for input that we do not know.
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type") == "json_schema":
        request.structured = StructuredOutput(read_object(response_format, "json_schema").get("schema"))
    for field in body.keys() - _NO_INPUT:
        request.text_bytes += len(orjson.dumps(body[field]))


def _refuse_unpriced_features(body: Mapping[str, Any]) -> None:
    """Paid extras of a provider that no price row covers."""
    tools = body.get("tools")
    if tools is not None:
        if not isinstance(tools, list):
            raise wrong("tools", "must be an array")
        for tool in tools:
            if not isinstance(tool, dict) or not isinstance(tool.get("type"), str) or tool["type"] not in _FREE_TOOLS:
                raise unpriced_feature("tools[].type")
    if body.get("web_search_options") is not None:
        raise unpriced_feature("web_search_options")
    for field in OTHER_BOUNDS.intersection(body):
        if body[field] is not None:
            raise unpriced_feature(field)


def _measure(request: ChatRequest, messages: list[Any]) -> None:
    """UTF-8 bytes of all text in messages, and the dearest case of every part that is none."""
    text = 0
    if len(messages) > _PARTS_MAX:
        raise _too_many_parts()
    parts = 0
    for message in messages:
        if not isinstance(message, dict):
            raise wrong("messages", "must hold objects")
        for key, value in message.items():
            if type(value) is str:
                if key != "role":
                    text += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
            elif type(value) is list and key == "content":
                parts += len(value)
                if parts > _PARTS_MAX:
                    raise _too_many_parts()
                for part in value:
                    _measure_part(request, part)
            elif value is not None:
                if key == "audio" and isinstance(value, dict) and value.get("id") is not None:
                    raise _kept_elsewhere("messages[].audio.id")
                text += len(orjson.dumps(value))
    request.text_bytes += text


def _measure_part(request: ChatRequest, part: object) -> None:
    if not isinstance(part, dict):
        raise wrong("messages[].content", "must hold objects with a `type`")
    kind = part.get("type")
    if isinstance(kind, str) and kind in PART_TOKENS:
        request.part_tokens += PART_TOKENS[kind]
        if kind == "file":
            _measure_file(request, part.get("file"))
        request.has_audio_input |= kind == "input_audio"
        request.has_images |= kind in _IMAGE_PARTS
    elif part.keys() == _TEXT_PART and isinstance(part["text"], str):
        request.text_bytes += utf8_bytes(part["text"])
    else:
        request.text_bytes += len(orjson.dumps(part))


def _measure_file(request: ChatRequest, file: object) -> None:
    """A file of words is as many tokens as it has bytes, where that is more than the dearest document."""
    if not isinstance(file, dict):
        return
    if file.get("file_id") is not None:
        raise _kept_elsewhere("messages[].content[].file.file_id")
    data = file.get("file_data")
    if isinstance(data, str) and _TEXT_FILE.match(data):
        request.part_tokens += max(0, len(data) * 3 // 4 - PART_TOKENS["file"])


def _kept_elsewhere(param: str) -> RequestError:
    return RequestError(
        f"`{param}` names something kept by the provider; send the thing itself.",
        code="unsupported_parameter",
        param=param,
    )


def _too_many_parts() -> RequestError:
    return RequestError(
        f"`messages` holds more than {_PARTS_MAX} messages or parts.",
        status=413,
        code="request_too_large",
        param="messages",
    )


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    """The larger of two, for a server that heeds the other one."""
    old = read_integer(body, "max_tokens", 1, _TOKENS_MAX)
    new = read_integer(body, "max_completion_tokens", 1, _TOKENS_MAX)
    return new if old is None else old if new is None else max(old, new)
