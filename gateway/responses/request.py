"""A response request: read once, checked, priced like the chat it may become, and written for the provider.

A model whose row lists `responses` is asked natively: the body travels on as it came. One that lists only `chat` is
bridged: the same input as a chat completion (`chat_body`), the answer turned back while it comes (`from_chat`).

What a call continues is fetched before it is priced:
- a previous response that the same provider keeps is passed on by its id; the tokens of its context are known;
- one that the gateway keeps, and every conversation, is put in front of the input as items;
- one that another provider keeps cannot be continued: 400.
Of the caller's `item_reference`s those to items the gateway has become these items, those to a provider's own pass.

Fields: openai-python 3.52.0 (2026-11-16), `types/responses/response_create_params.py`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import orjson
import structlog

from gateway.cache.base import Kind
from gateway.catalog import Model, Price, ProviderRow
from gateway.chat import ChatRequest
from gateway.chat_metering import Report, meter_chat
from gateway.errors import DO_NOT_RETRY, RequestError, StoreError
from gateway.metering import Metered
from gateway.model_request import Answered, Estimate, Outgoing, PlainRequest
from gateway.providers.translated import Translator
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
from gateway.responses.chat_body import chat_body, input_items
from gateway.responses.from_chat import FromChat
from gateway.responses.ids import checked_id, is_id, new_id
from gateway.responses.measuring import MeasuredChat, measure_items
from gateway.responses.metering import as_chat_usage, from_responses, output_estimate
from gateway.responses.relay import ResponsesRelay
from gateway.responses.state import NOTHING_BEFORE, Before, KeptResponse, ResponseStore
from gateway.structured import StructuredOutput
from gateway.usage import Usage
from policies.types import Account

_log = structlog.get_logger()

__all__ = ["ResponsesRequest", "read_responses_request"]

_TOKENS_MAX = 2**63 - 1
_REFERENCES_MAX = 500
_ITEMS_MAX = 10_000
_PARTS_MAX = 50_000
"""Of all items together. Each of a small size, more of them would keep every other call waiting."""

_KNOWN = frozenset(
    """
    model input instructions stream stream_options store background previous_response_id conversation prompt include
    max_output_tokens max_tool_calls metadata temperature top_p top_logprobs tools tool_choice parallel_tool_calls text
    reasoning truncation user safety_identifier prompt_cache_key prompt_cache_retention prompt_cache_options service_tier
    moderation context_management access_programs image
    """.split()
)
_NO_INPUT = _KNOWN - frozenset({"instructions", "tools", "text", "prompt"})
"""Fields that no model reads, or that are measured by themselves (`input`)."""
_FREE_TOOLS = frozenset({"function", "custom", "local_shell", "apply_patch"})
"""Tools that the caller runs. All others are run and billed by a provider."""
_WITHOUT_IDS = frozenset(
    {"message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"}
)
"""Items that need no id to be sent again."""


@dataclass(slots=True)
class ResponsesRequest(PlainRequest):
    """The fields the gateway itself reads (`ModelRequest`); `body` is everything, ready to be sent on."""

    body: dict[str, Any]
    model: str
    store: ResponseStore
    chat: MeasuredChat
    """How much goes in and may come out: its arithmetic is that of chat."""
    keeps: bool = True
    """The caller's `store`."""
    previous_id: str = ""
    conversation_id: str = ""
    references: Sequence[str] = ()
    """Ids of earlier items that the input names."""
    thoughts: Sequence[str] = ()
    """Ids of reasoning in the input whose content only its provider has."""
    known_thoughts: Mapping[str, str] = field(default_factory=dict)
    """Those that are the creator's own, and the provider that keeps each."""
    response_id: str = ""
    """Of a bridged response; a native one bears its provider's."""
    created_at: int = 0
    is_streaming: bool = False
    before: Before = NOTHING_BEFORE
    elsewhere: frozenset[str] = frozenset()
    """Providers that keep something of what this call needs: none but these can serve it."""
    asked: dict[str, Any] = field(default_factory=dict)
    """`body`, for what is still needed of it once that was let go of."""
    own_items: Sequence[dict[str, Any]] | None = None
    """The input in full form, once it was needed."""
    source: FromChat | None = None
    """What turns the chat's answer into a response, where the call is bridged."""

    endpoint: ClassVar[str] = "responses"
    path: ClassVar[str] = "/responses"

    @property
    def needs(self) -> frozenset[str]:
        asked, found = self.asked, set()
        if asked.get("tools"):
            found.add("tools")
        text = asked.get("text")
        wanted = text.get("format") if isinstance(text, dict) else None
        if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
            found.add("json_schema")
        if self.chat.has_images:
            found.add("vision")
        if self.chat.has_audio_input:
            found.add("audio")
        return frozenset(found)

    @property
    def cache_kind(self) -> Kind | Literal[""]:
        """Only where nothing is kept, continued or referred to."""
        return "" if self.keeps_state else "chat"

    @property
    def has_tools(self) -> bool:
        return bool(self.asked.get("tools"))

    @property
    def keeps_state(self) -> bool:
        return bool(self.keeps or self.previous_id or self.conversation_id or self.references or self.thoughts)

    def serves(self, model: Model) -> bool:
        return not model.endpoints.isdisjoint(("responses", "chat"))

    def fits(self, model: Model) -> bool:
        room = model.context_tokens_max
        has_room = room is None or self.chat.input_tokens_estimate <= room
        return has_room and self.needs <= model.capabilities and self._is_kept_within_reach(model)

    def variant(self, model: Model) -> str:
        return self.chat.variant(model)

    def worst_case(self, model: Model, price: Price) -> int:
        return self.chat.worst_case(model, price)

    def estimate(self, model: Model, price: Price) -> Estimate:
        return self.chat.estimate(model, price)

    def unfinished_usage(self, model: Model) -> Usage:
        return self.chat.unfinished_usage(model)

    def clamp(self, model: Model, price: Price, nano_usd: int) -> int | None:
        return self.chat.clamp(model, price, nano_usd)

    # What leaves

    def outgoing(self, model: Model, row: ProviderRow) -> Outgoing:
        """Natively or as chat. Raises `RequestError` where `model` has no way to what an earlier response left."""
        if not self._is_kept_within_reach(model):
            raise RequestError(
                f"The model `{self.model}` cannot continue this: another provider keeps what came before.",
                code="previous_response_elsewhere",
                param="previous_response_id" if self.before.provider else "input",
            )
        return self._native(model, row) if _is_native(model) else self._bridged(model, row)

    def translator(self, model: Model) -> Translator | None:
        self.source = None
        if not _is_native(model):
            self.source = FromChat(self.response_id, self.created_at, self.asked, self.model, new_id)
        return self.source

    def checked(self, model: Model) -> ChatRequest | None:
        return None if _is_native(model) else self.chat.checked(model)

    def relay(self, content_type: str, model: Model, row: ProviderRow, guard: Guard) -> Relay | None:
        return ResponsesRelay(guard, self.chat, model, row) if content_type.startswith("text/event-stream") else None

    def _native(self, model: Model, row: ProviderRow) -> Outgoing:
        if self.conversation_id:
            self._own_items()  # what the conversation cannot take is told before it costs anything
        body = {**self.asked, "model": model.upstream_model}
        body.pop("conversation", None)
        if isinstance(body.get("input"), list):
            body["input"] = [item for item in body["input"] if not self._is_strange(item, model)]
        if not self.before.provider:
            body.pop("previous_response_id", None)
            if self.before.items:
                body["input"] = [*_portable(self.before.items), *_as_list(body.get("input"))]
        bound, cap = self.chat.max_tokens, model.output_tokens_max
        if bound is not None and cap is not None and bound > cap:
            body["max_output_tokens"] = cap
        elif bound is None and self.chat.clamped_to is not None:
            body["max_output_tokens"] = self.chat.clamped_to
        for name in row.drop_fields:
            body.pop(name, None)
        return Outgoing(self.path, dump_body(body), is_streaming=self.is_streaming)

    def _is_strange(self, item: Any, model: Model) -> bool:
        """Reasoning that the provider of `model` does not keep for this creator, if it keeps it at all."""
        return _is_unsealed(item) and self.known_thoughts.get(str(item.get("id"))) != model.provider

    def _bridged(self, model: Model, row: ProviderRow) -> Outgoing:
        body = chat_body(self.asked, [*self.before.items, *self._own_items()])
        if row.stream_usage != "inject":
            body.pop("stream_options", None)
        if row.max_tokens_field != "max_completion_tokens" and "max_completion_tokens" in body:
            body[row.max_tokens_field] = body.pop("max_completion_tokens")
        return replace(self.chat, body=body).outgoing(model, row)

    def _own_items(self) -> Sequence[dict[str, Any]]:
        if self.own_items is None:
            given = self.asked.get("input")
            self.own_items = [] if given is None else input_items(given, new_id)
            dump_body(self.own_items)  # they will be kept: refused now if they are nested too deeply for that
        return self.own_items

    def _is_kept_within_reach(self, model: Model) -> bool:
        return not self.elsewhere or (_is_native(model) and self.elsewhere == {model.provider})

    # What came back

    def meter(self, answer: Mapping[str, Any], model: Model, row: ProviderRow) -> Metered | None:
        is_answer = isinstance(answer.get("output"), list)
        if not is_answer and answer.get("usage") is None:
            return None
        report = Report(as_chat_usage(answer.get("usage")), answer.get("service_tier"))
        metered = meter_chat(self.chat, model, row, report, lambda: output_estimate(answer))
        return metered if is_answer else metered._replace(is_answer=False)

    def meter_unanswered(self, model: Model) -> Metered:
        return self.chat.meter_unanswered(model)

    # State

    async def load(self, account: Account) -> None:
        """Fetch what is continued or referred to, and add it to the figures. Raises `RequestError` where it is not there."""
        try:
            if self.previous_id:
                self.before = await self.store.before(account, self.previous_id)
            elif self.conversation_id:
                self.before = Before(await self.store.conversations.context(account, self.conversation_id))
            kept_by = {self.before.provider} - {""}
            self.chat.put_in_front(self.before.context_tokens)
            measure_items(self.chat, self.before.items, are_kept=True)
            if self.references:
                kept_by |= await self._resolve_references(account)
            if self.thoughts:
                await self._find_thoughts(account)
        except orjson.JSONEncodeError:
            raise too_deep() from None
        self.elsewhere = frozenset(kept_by)

    async def keep(self, answered: Answered) -> bytes | None:
        """What a later call may ask for: the response if `store` says so, and the conversation's new items."""
        relay = answered.relay
        answer = answered.answer if not isinstance(relay, ResponsesRelay) else relay.response
        if answer is None and self.source is not None:
            answer = self.source.answer  # a stream made of a checked answer went through no relay
        if answer is None or not is_id(answer.get("id")):
            return None
        kept = self._kept(answer, answered.model) if self.keeps else None
        items: list[dict[str, Any]] = []
        if self.conversation_id:
            said = [item for item in _output_items(answer) if isinstance(item.get("type"), str)]
            items = [*self._own_items(), *input_items(said, new_id)]
        if kept is not None or items:
            try:
                await self.store.keep(answered.account, kept, self.conversation_id, items)
            except orjson.JSONEncodeError:
                # Nested more deeply than can be written again. It was answered and is owed: the client gets it all the same.
                _log.warning("response_not_kept", request_id=answered.request_id)
            except StoreError as error:
                if self.conversation_id:
                    # Silently it would miss a turn. It is paid for: an SDK must not do it all again.
                    error.headers.update(DO_NOT_RETRY)
                    raise
                _log.warning("response_not_kept", request_id=answered.request_id, error=error.message)
        return None

    async def _resolve_references(self, account: Account) -> set[str]:
        """Put the items the gateway has in place of their references; the providers that keep the others."""
        found = await self.store.referred(account, self.references)
        items: list[Any] = []
        contexts: dict[str, int] = {}
        providers: set[str] = set()
        for item in self.asked["input"]:
            if not _is_reference(item):
                items.append(item)
                continue
            referred = found.get(item["id"])
            if referred is None:
                raise RequestError(f"Item with id '{item['id']}' not found.", code="item_not_found", param="input")
            if referred.item is None:
                contexts[referred.response_id] = referred.context_tokens
                providers.add(referred.provider)
                items.append(item)
            else:
                measure_items(self.chat, [referred.item], are_kept=True)
                items.append(referred.item)
        if contexts and self.conversation_id:
            raise wrong("input", "must hold no `item_reference` beside a `conversation`: send the items themselves")
        self.chat.put_in_front(sum(contexts.values()))
        self.asked["input"] = items
        return providers

    async def _find_thoughts(self, account: Account) -> None:
        """Whose the reasoning is, and how much of it is read again. It is no fault to name what is not there: models that
        are asked over chat read none of it."""
        found = await self.store.referred(account, self.thoughts)
        known = {item_id: each for item_id, each in found.items() if each.provider}
        self.known_thoughts = {item_id: each.provider for item_id, each in known.items()}
        self.chat.put_in_front(sum({each.response_id: each.reasoning_tokens for each in known.values()}.values()))

    def _kept(self, answer: Mapping[str, Any], model: Model) -> KeptResponse:
        is_native = _is_native(model)
        ids = [{"id": item["id"]} for item in _output_items(answer) if is_id(item.get("id"))]
        status = answer.get("status")
        return KeptResponse(
            id=str(answer["id"]),
            model=model.name,
            provider=model.provider if is_native else "",
            status=status if isinstance(status, str) else "completed",
            previous_id=self.previous_id,
            conversation_id=self.conversation_id,
            context_tokens=self._context_tokens(answer, model),
            body={"output": ids, "reasoning_tokens": self._reasoning_tokens(answer)} if is_native else answer,
            input=() if is_native else self._own_items(),
        )

    def _reasoning_tokens(self, answer: Mapping[str, Any]) -> int:
        """What of the answer is read again by the ids of its reasoning."""
        usage = from_responses(answer.get("usage"), context_tokens_max=None, output_tokens_max=None)
        return 0 if usage is None else usage.reasoning

    def _context_tokens(self, answer: Mapping[str, Any], model: Model) -> int:
        room, cap = model.context_tokens_max, model.output_tokens_max
        usage = from_responses(answer.get("usage"), context_tokens_max=room, output_tokens_max=cap)
        if usage is None:
            return self.chat.input_tokens_estimate + output_estimate(answer)
        return usage.input_tokens + usage.output_tokens


def read_responses_request(raw: bytes, store: ResponseStore) -> ResponsesRequest:
    """Parse and check a body. Raises `RequestError` saying what to change."""
    body = parse_body(raw)
    refuse_steering(body, _KNOWN)
    model = read_required_text(body, "model")
    _refuse_unsupported(body)
    _refuse_unpriced_features(body)
    previous_id, conversation_id = _continued(body)
    given = body.get("input")
    if given is None and not previous_id and not conversation_id:
        raise wrong("input", "is required", code="missing_required_parameter")
    if given is not None and not isinstance(given, str | list):
        raise wrong("input", "must be a string or an array of objects")
    chat = MeasuredChat({}, model, 1)
    try:
        items = _as_list(given)
        _refuse_too_many(items)
        measure_items(chat, items)
        chat.text_bytes += sum(len(orjson.dumps(body[name])) for name in body.keys() - _NO_INPUT)
    except orjson.JSONEncodeError:
        raise too_deep() from None
    chat.is_streaming = read_boolean(body, "stream")
    chat.max_tokens = read_integer(body, "max_output_tokens", 1, _TOKENS_MAX)
    chat.service_tier = read_short_text(body, "service_tier")
    wanted = read_object(read_object(body, "text"), "format")
    if wanted.get("type") == "json_schema" and wanted.get("schema") is not None:
        chat.structured = StructuredOutput(wanted.get("schema"), "text.format")
    read_object(body, "stream_options")
    read_object(body, "metadata")
    return ResponsesRequest(
        body,
        model,
        store,
        chat,
        keeps=body.get("store") is None or read_boolean(body, "store"),
        previous_id=previous_id,
        conversation_id=conversation_id,
        references=_references(items),
        thoughts=_thoughts(items),
        response_id=new_id("resp"),
        created_at=int(time.time()),
        is_streaming=chat.is_streaming,
        asked=body,
    )


def _refuse_too_many(items: Sequence[Any]) -> None:
    lists = (value for item in items if isinstance(item, dict) for value in (item.get("content"), item.get("output")))
    if len(items) > _ITEMS_MAX or sum(len(value) for value in lists if isinstance(value, list)) > _PARTS_MAX:
        raise RequestError(
            f"`input` must hold at most {_ITEMS_MAX} items, and these at most {_PARTS_MAX} parts.",
            status=413,
            code="request_too_large",
            param="input",
        )


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    if read_boolean(body, "background"):
        raise _unsupported("background", "the answer is given in this call or not at all")
    if body.get("prompt") is not None:
        raise _unsupported("prompt", "it names a template kept elsewhere; send its text as `instructions` and `input`")
    if body.get("access_programs") is not None:
        raise _unsupported("access_programs", "it belongs to the account of this gateway's operator")
    caching = read_object(body, "prompt_cache_options")
    if caching.get("comparison_response_id") is not None:
        raise _unsupported("prompt_cache_options.comparison_response_id", "it names a response kept elsewhere")


def _refuse_unpriced_features(body: Mapping[str, Any]) -> None:
    """Paid extras of a provider that no price row covers."""
    tools = body.get("tools")
    if tools is not None:
        if not isinstance(tools, list):
            raise wrong("tools", "must be an array")
        for tool in tools:
            if not isinstance(tool, dict) or not isinstance(tool.get("type"), str) or tool["type"] not in _FREE_TOOLS:
                raise unpriced_feature("tools[].type")
    for name in ("moderation", "context_management"):
        if body.get(name):  # a second model's work, or a summary beside the answer
            raise unpriced_feature(name)
    if read_object(body, "reasoning").get("mode") not in (None, "standard"):
        raise unpriced_feature("reasoning.mode")
    if read_object(body, "prompt_cache_options").get("ttl") not in (None, "30m"):
        raise unpriced_feature("prompt_cache_options.ttl")


def _continued(body: Mapping[str, Any]) -> tuple[str, str]:
    """Ids of the previous response and of the conversation; empty for none."""
    previous, conversation = body.get("previous_response_id"), body.get("conversation")
    if previous is not None and conversation is not None:
        raise RequestError(
            "`previous_response_id` and `conversation` exclude each other; send one of them.",
            code="mutually_exclusive_parameters",
            param="previous_response_id",
        )
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
        return "", checked_id(conversation, "conversation.id")
    return (
        "" if previous is None else checked_id(previous, "previous_response_id"),
        "" if conversation is None else checked_id(conversation, "conversation"),
    )


def _references(items: Sequence[Any]) -> Sequence[str]:
    ids = [checked_id(item.get("id"), "input[].id") for item in items if _is_reference(item)]
    if len(ids) > _REFERENCES_MAX:
        raise wrong("input", f"must hold at most {_REFERENCES_MAX} references")
    return ids


def _thoughts(items: Sequence[Any]) -> Sequence[str]:
    ids = [item["id"] for item in items if _is_unsealed(item) and is_id(item.get("id"))]
    if len(ids) > _REFERENCES_MAX:
        raise wrong("input", f"must hold at most {_REFERENCES_MAX} items of reasoning without `encrypted_content`")
    return ids


def _is_reference(item: Any) -> bool:
    """To OpenAI the `type` of a reference may be null or missing; only a message may lack its own, and has a `role`."""
    if not isinstance(item, dict):
        return False
    kind = item.get("type")
    return kind == "item_reference" or (kind is None and item.get("role") is None)


def _is_unsealed(item: Any) -> bool:
    """Reasoning without its content: its provider looks it up by the id."""
    is_reasoning = isinstance(item, dict) and item.get("type") == "reasoning"
    return is_reasoning and not item.get("encrypted_content") and item.get("id") is not None


def _is_native(model: Model) -> bool:
    return "responses" in model.endpoints


def _as_list(given: Any) -> list[Any]:
    """An input as items, as short as they may be written."""
    if given is None:
        return []
    return [{"role": "user", "content": given}] if isinstance(given, str) else list(given)


def _output_items(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    output = answer.get("output")
    return [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []


def _portable(items: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Earlier items for a provider that has never seen them: without the ids and states it did not give out.

    Reasoning can only be read by its provider, and only where it is sent along encrypted; without that it is left out.
    """
    portable = []
    for item in items:
        if item.get("type") == "reasoning":
            if item.get("encrypted_content"):
                portable.append(item)
        elif item.get("type") in _WITHOUT_IDS:
            portable.append({name: value for name, value in item.items() if name not in ("id", "status")})
        else:
            portable.append(item)
    return portable


def _unsupported(field_name: str, why: str) -> RequestError:
    return RequestError(f"`{field_name}` is not supported: {why}.", code="unsupported_parameter", param=field_name)
