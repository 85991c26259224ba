"""A Messages request: read once, checked, bounded, and written for whoever serves it. Pure.

A model whose row lists `messages` gets the request as it came, less what is refused, with the upstream's model name. Any
other chat model gets it as a chat completion (`chat_body`), and its answer is told as a message (`FromChat`). What a call
may cost is one computation for both, that of `ChatRequest`: the same input and the same bound make the same hold.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import orjson

from gateway.cache.base import Kind
from gateway.catalog import Model, Price, ProviderRow
from gateway.chat import ChatRequest
from gateway.chat_metering import Report as ChatReport
from gateway.chat_metering import meter_chat
from gateway.errors import RequestError
from gateway.messages.chat_body import chat_body, wanted_schema
from gateway.messages.content import asked_speed, check_features, measure
from gateway.messages.from_chat import FromChat
from gateway.messages.metering import Report, meter_message
from gateway.messages.relay import BridgedRelay, MessagesRelay
from gateway.metering import Metered
from gateway.model_request import Estimate, Outgoing, PlainRequest
from gateway.providers.translated import Translator
from gateway.relay import Guard, Relay
from gateway.request_fields import (
    dump_body,
    parse_body,
    read_boolean,
    read_integer,
    read_required_text,
    refuse_steering,
    too_deep,
    unpriced_feature,
    wrong,
)
from gateway.streaming import utf8_bytes
from gateway.structured import StructuredOutput
from gateway.usage import Usage

__all__ = ["MessagesRequest", "beta_header", "read_count_request", "read_messages_request"]

_KNOWN = frozenset(
    """
    model messages max_tokens stream system metadata stop_sequences temperature top_k top_p tools tool_choice thinking
    service_tier output_config output_format cache_control context_management diagnostics speed inference_geo
    """.split()
)
_MAX_TOKENS_MOST = 2**63 - 1
_STOP_SEQUENCES_MAX = 1_024

_BETA = re.compile(
    r"(?:claude-code|interleaved-thinking|fine-grained-tool-streaming|context-management|prompt-caching|prompt-caching-scope"
    r"|model-context-window-exceeded|structured-outputs|token-efficient-tools|output-128k|effort|task-budgets|pdfs"
    r"|computer-use|thinking-token-count|thinking-display-updates|redact-thinking|adaptive-thinking|tool-examples"
    r"|token-counting|cache-diagnosis)-\d{4}-\d{2}-\d{2}"
)
"""Betas that change how an answer is made, not what it costs, what it may reach or who pays. Left out are among others
those for files, skills, containers, MCP, longer caches, fast mode, longer contexts, compaction and user profiles."""
_BETAS_MAX = 32


@dataclass(slots=True)
class MessagesRequest(PlainRequest):
    """The fields the gateway itself reads (`ModelRequest`); `body` is everything, ready to be changed and sent on."""

    body: dict[str, Any]
    model: str
    chat: ChatRequest
    """What the money is computed from: sizes and bounds of this request. Its own body is empty."""
    is_streaming: bool = False
    max_tokens: int = 1
    keeps_an_hour: bool = False
    """Something is to be cached for an hour, which no row has a price for."""
    likely_part_tokens: int = 0
    """What images and documents most likely are, where `chat.part_tokens` is their dearest case."""
    betas: str = ""
    """What of the client's `anthropic-beta` its provider may hear."""
    _needs: frozenset[str] = frozenset()
    _stop_sequences: tuple[str, ...] = ()
    _wants_thinking: bool = False
    _has_unsigned: bool = False
    _source: FromChat | None = field(default=None, repr=False)
    """Makes the message that is being answered from a chat; None where the provider answers in messages."""

    endpoint: ClassVar[str] = "messages"
    path: ClassVar[str] = "/messages"

    @property
    def needs(self) -> frozenset[str]:
        return self._needs

    @property
    def cache_kind(self) -> Kind | Literal[""]:
        return "chat"

    @property
    def has_tools(self) -> bool:
        return "tools" in self._needs

    @property
    def input_tokens_likely(self) -> int:
        """What `count_tokens` answers: a token per four bytes of text, and the usual size of everything else."""
        return self.chat.input_tokens_estimate + self.likely_part_tokens

    def serves(self, model: Model) -> bool:
        return _is_native(model) or "chat" in model.endpoints

    def fits(self, model: Model) -> bool:
        room = model.context_tokens_max
        if not self._needs <= model.capabilities or (room is not None and self.chat.input_tokens_estimate > room):
            return False
        return _is_native(model) or self._can_be_told(model)

    def variant(self, model: Model) -> str:
        return self.chat.variant(model)

    def worst_case(self, model: Model, price: Price) -> int:
        self._refuse_unpriced(model, price)
        return self.chat.worst_case(model, price)

    def estimate(self, model: Model, price: Price) -> Estimate:
        self._refuse_unpriced(model, price)
        return self.chat.estimate(model, price)

    def unfinished_usage(self, model: Model) -> Usage:
        return self.chat.unfinished_usage(model)

    def clamp(self, model: Model, price: Price, nano_usd: int) -> int | None:
        """The output always has a bound of the caller's, which is admitted whole or not at all."""
        return None

    def outgoing(self, model: Model, row: ProviderRow) -> Outgoing:
        if not _is_native(model):
            return self._bridged(model, row)
        body = {**self.body, "model": model.upstream_model}
        cap = model.output_tokens_max
        if cap is not None and self.max_tokens > cap:
            body["max_tokens"] = cap
        # What else stands there is for the books: Anthropic knows one key and refuses others.
        body.pop("metadata", None)
        if (user_id := _user_id(self.body)) is not None:
            body["metadata"] = {"user_id": user_id}
        if self._has_unsigned:
            body["messages"] = [_without_unsigned(message) for message in body["messages"]]
        headers = (("anthropic-beta", self.betas),) if self.betas else ()
        return Outgoing(self.path, dump_body(body), headers=headers, is_streaming=self.is_streaming)

    def translator(self, model: Model) -> Translator | None:
        self._source = None
        if not _is_native(model):
            self._source = FromChat(
                model.name,
                wants_thinking=self._wants_thinking,
                stop_sequences=self._stop_sequences,
                input_tokens_estimate=self.chat.input_tokens_estimate,
            )
        return self._source

    def checked(self, model: Model) -> ChatRequest | None:
        return None if _is_native(model) else self.chat.checked(model)

    def relay(self, content_type: str, model: Model, row: ProviderRow, guard: Guard) -> Relay | None:
        if not content_type.startswith("text/event-stream"):
            return None
        if self._source is not None:
            return BridgedRelay(guard, self.chat, model, row, self._source)
        return MessagesRelay(guard, self.chat, model)

    def meter(self, answer: Mapping[str, Any], model: Model, row: ProviderRow) -> Metered | None:
        is_answer = answer.get("type") == "message" and isinstance(answer.get("content"), list)
        source = self._source
        usage = answer.get("usage") if source is None else source.usage
        if usage is None and not is_answer:
            return None
        if source is None:
            metered = meter_message(self.chat, model, Report(usage), lambda: _output_estimate(answer))
        else:
            report = ChatReport(usage, source.service_tier)
            metered = meter_chat(self.chat, model, row, report, source.output_estimate)
        return metered if is_answer else metered._replace(is_answer=False)

    def meter_unanswered(self, model: Model) -> Metered:
        return self.chat.meter_unanswered(model)

    def _refuse_unpriced(self, model: Model, price: Price) -> None:
        if self.keeps_an_hour and _is_native(model):
            raise unpriced_feature("cache_control.ttl")
        # A chat has no word for it, so that only Anthropic itself can be paid for speed.
        if (speed := self.chat.service_tier) and not (_is_native(model) and price.knows_tier(speed)):
            raise unpriced_feature("speed")

    def _bridged(self, model: Model, row: ProviderRow) -> Outgoing:
        if self.max_tokens == 0:
            raise wrong(
                "max_tokens", "must be at least 1 for this model: only Anthropic fills a cache and says nothing"
            )
        body = chat_body(self.body, is_reasoning="reasoning" in model.capabilities)
        body[row.max_tokens_field] = self.max_tokens
        return replace(self.chat, body=body).outgoing(model, row)

    def _can_be_told(self, model: Model) -> bool:
        try:
            chat_body(self.body, is_reasoning="reasoning" in model.capabilities)
        except RequestError:
            return False
        return self.max_tokens > 0


def read_messages_request(raw: bytes) -> MessagesRequest:
    """Parse and check a body. Raises `RequestError` saying what to change."""
    body = parse_body(raw)
    refuse_steering(body, _KNOWN)
    if body.get("max_tokens") is None:
        raise wrong("max_tokens", "is required", code="missing_required_parameter")
    return _read(body)


def read_count_request(raw: bytes) -> MessagesRequest:
    """The body of `count_tokens`: the same without a bound of the output. Raises `RequestError`."""
    body = parse_body(raw)
    refuse_steering(body, _KNOWN)
    body["max_tokens"] = 1
    return _read(body)


def beta_header(values: Iterable[bytes]) -> str:
    """What of `anthropic-beta` headers may travel on: known betas, each once, joined by commas."""
    found: dict[str, None] = {}
    for value in values:
        for name in value.decode("latin-1").split(","):
            if len(found) < _BETAS_MAX and _BETA.fullmatch(name.strip()):
                found[name.strip()] = None
    return ",".join(found)


def _read(body: dict[str, Any]) -> MessagesRequest:
    model = read_required_text(body, "model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "is required and must be a non-empty array", code="missing_required_parameter")
    check_features(body)
    try:
        content = measure(body)
    except orjson.JSONEncodeError:
        raise too_deep() from None
    max_tokens = read_integer(body, "max_tokens", 0, _MAX_TOKENS_MOST) or 0
    chat = ChatRequest(
        body={},
        model=model,
        message_count=len(messages) + 1,
        text_bytes=content.text_bytes,
        part_tokens=content.part_tokens,
        is_streaming=read_boolean(body, "stream"),
        max_tokens=max(1, max_tokens),
        has_images=content.has_images,
        service_tier=asked_speed(body),
    )
    with suppress(RequestError):  # what a chat cannot say is refused where it would have to; Anthropic may know more
        if (schema := wanted_schema(body)) is not None:
            chat.structured = StructuredOutput(schema, "output_config.format")
    return MessagesRequest(
        body,
        model,
        chat,
        is_streaming=chat.is_streaming,
        max_tokens=max_tokens,
        keeps_an_hour=content.keeps_an_hour,
        likely_part_tokens=content.likely_part_tokens,
        _needs=_needs(body, content.has_images),
        _stop_sequences=_read_stop_sequences(body),
        _wants_thinking=_asks_for_thinking(body),
        _has_unsigned=content.has_unsigned,
    )


def _is_native(model: Model) -> bool:
    return "messages" in model.endpoints


def _needs(body: Mapping[str, Any], has_images: bool) -> frozenset[str]:
    config = body.get("output_config")
    found = {
        "tools": bool(body.get("tools")),
        "json_schema": bool(body.get("output_format") or (isinstance(config, dict) and config.get("format"))),
        "vision": has_images,
    }
    return frozenset(name for name, is_needed in found.items() if is_needed)


def _read_stop_sequences(body: Mapping[str, Any]) -> tuple[str, ...]:
    found = body.get("stop_sequences")
    if found is None:
        return ()
    if (
        not isinstance(found, list)
        or len(found) > _STOP_SEQUENCES_MAX
        or not all(isinstance(one, str) for one in found)
    ):
        raise wrong("stop_sequences", f"must be an array of at most {_STOP_SEQUENCES_MAX} strings")
    return tuple(found)


def _asks_for_thinking(body: Mapping[str, Any]) -> bool:
    """Whoever did not ask expects the first block to be the answer."""
    thinking = body.get("thinking")
    if not isinstance(thinking, dict):
        return False
    return thinking.get("type") not in (None, "disabled") and thinking.get("display") != "omitted"


def _without_unsigned(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The turn without what another model thought in it: a client hands back whatever a bridge has told it."""
    content = message["content"]
    if not isinstance(content, list):
        return message
    return {**message, "content": [one for one in content if one["type"] != "thinking" or one.get("signature")]}


def _user_id(body: Mapping[str, Any]) -> str | None:
    metadata = body.get("metadata")
    user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
    return user_id if isinstance(user_id, str) else None


def _output_estimate(answer: Mapping[str, Any]) -> int:
    """Output tokens of a whole message by the written rule."""
    content = answer.get("content")
    return (
        -(-sum(_said_bytes(block) for block in content if isinstance(block, dict)) // 4)
        if isinstance(content, list)
        else 0
    )


def _said_bytes(block: Mapping[str, Any]) -> int:
    words = sum(utf8_bytes(text) for name in ("text", "thinking", "name") if isinstance(text := block.get(name), str))
    return words + (len(orjson.dumps(block["input"])) if block.get("input") else 0)
