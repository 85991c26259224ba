"""One chat completion from top to bottom.

1. authenticate the virtual key          5. admit: take every limit, or none
2. read and check the body               6. forward, once the hold is durable
3. resolve the model                     7. relay, the stream's terminal event held back
4. estimate the worst case               8. meter, settle (durable), and only then send the last byte

Up to step 5 nothing is owed and errors simply leave. From the hold on, `_end` runs exactly once for each call, whatever
happens: it books the entry, ends the hold and corrects the counters. What the client still has to be told comes after.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import structlog

from gateway.answers import (
    ERROR_BYTES_MAX,
    denied,
    limit_headers,
    provider_refusal,
    redact_bytes,
    refused,
    upstream_failed,
    upstream_headers,
    upstream_invalid,
    upstream_request_id,
)
from gateway.attribution import client_request_id, read_labels
from gateway.auth import Authenticator
from gateway.calls import Call, Calls
from gateway.catalog import Catalog, Model, ProviderRow
from gateway.chat import CONTEXT_TOKENS_DEFAULT, OUTPUT_TOKENS_DEFAULT, ChatRequest, read_chat_request
from gateway.config import Settings
from gateway.counters.base import CounterStore, LimitState, Refused
from gateway.errors import DO_NOT_RETRY, GatewayError, NotFound, RequestError, StoreError, error_body
from gateway.ledger.records import Attribution, Entry, Hold, Ledger, Outcome, Route
from gateway.logs import log_request
from gateway.metering import NOTHING, Ending, Metered, estimated, reported
from gateway.metrics import Metrics
from gateway.pricing import UnpricedUsage, cost_nano_usd, usd, worst_case_nano_usd
from gateway.providers.base import Deadlines, Exchange, FailureKind, Provider, UpstreamFailure, UpstreamRequest
from gateway.pump import Pump
from gateway.responder import Header, Responder
from gateway.streaming import SseRelay, text_bytes
from gateway.usage import Usage, from_chat
from policies import decide
from policies import types as policy_types

_log = structlog.get_logger()

_JSON: Header = (b"content-type", b"application/json")
_SSE: Sequence[Header] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_ORPHAN_OUTPUT_TOKENS = 1_000
_STALLED_S = 1.0
"""How much later than the exchange's own total deadline a call is ended whose client does not read."""

_FAILED_OUTCOMES: Mapping[FailureKind, Outcome] = {
    "unreachable": "upstream_unreachable",
    "died": "upstream_died",
    "first_byte_timeout": "upstream_timeout",
    "idle_timeout": "upstream_timeout",
    "total_timeout": "upstream_timeout",
    "invalid": "upstream_invalid",
}


@dataclass(slots=True)
class Admitted:
    """What step 5 leaves for the rest of the story."""

    request: ChatRequest
    model: Model
    provider: Provider
    row: ProviderRow
    hold: Hold
    states: Sequence[LimitState]
    body: bytes
    """What the provider is sent; let go of once it is."""
    upstream_request_id: str = ""
    status: int = 0


class Pipeline:
    """Lifetime: the process. Holds no state of a call."""

    def __init__(
        self,
        *,
        settings: Settings,
        catalog: Catalog,
        providers: Mapping[str, Provider],
        provider_keys: Mapping[str, str],
        authenticator: Authenticator,
        counters: CounterStore,
        ledger: Ledger,
        calls: Calls,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._providers = providers
        self._provider_keys = provider_keys
        self._authenticator = authenticator
        self._counters = counters
        self._ledger = ledger
        self._calls = calls
        self._metrics = metrics
        self._deadlines = Deadlines(
            settings.connect_timeout_s,
            settings.first_byte_timeout_s,
            settings.idle_timeout_s,
            settings.total_timeout_s,
        )
        self._buffered_bytes = 0

    async def chat_completion(
        self,
        headers: list[Header],
        read_body: Callable[[], Awaitable[bytes]],
        responder: Responder,
    ) -> None:
        """Answer one `POST /v1/chat/completions`. Raises nothing but cancellation."""
        call = Call("chat")
        try:
            self._calls.enter(call)
            await self._serve(call, headers, read_body, responder)
        except GatewayError as error:
            await self._answer_error(call, error, responder)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("call_failed", request_id=call.request_id)
            await self._answer_error(call, _internal_error(), responder)
        finally:
            self._calls.leave(call)

    async def _serve(
        self,
        call: Call,
        headers: list[Header],
        read_body: Callable[[], Awaitable[bytes]],
        responder: Responder,
    ) -> None:
        account = await self._authenticator.authenticate(headers)
        call.creator, call.key_id = account.creator, account.key_id
        request = read_chat_request(await read_body())
        model = self._resolve(request.model)
        admitted = await self._admit(call, account, dict(headers), request, model)
        ending = await self._forward(call, admitted, responder)
        if ending is not None and ending.error is not None:
            raise ending.error

    # Step 3

    def _resolve(self, name: str) -> Model:
        model = self._catalog.models.get(name)
        if model is None or not model.active:
            shown = name if len(name) <= 100 and name.isprintable() else "named in the request"
            reason = "is not in this gateway's catalog" if model is None else "is switched off on this gateway"
            raise NotFound(f"The model `{shown}` {reason}.", code="model_not_found", param="model")
        if "chat" not in model.endpoints:
            raise RequestError(
                f"The model `{name}` does not take chat completions.", code="endpoint_not_supported", param="model"
            )
        return model

    # Steps 4 and 5

    async def _admit(
        self,
        call: Call,
        account: policy_types.Account,
        headers: Mapping[bytes, bytes],
        request: ChatRequest,
        model: Model,
    ) -> Admitted:
        """Take every limit the call must fit into, or raise `PolicyDenied` with nothing taken."""
        self._calls.refuse_if_cut()
        row = self._catalog.providers[model.provider]
        labels = read_labels(headers, request.body)
        body = request.upstream_body(model, row.stream_usage)
        # One instant for the policies' periods, the hold and the entry: a call belongs to one month only.
        now = call.admitted_at = datetime.now(UTC)
        hold = self._estimate(call, account, labels, client_request_id(headers), request, model)
        decision = decide(
            policy_types.Call("chat", request.model, model.name, model.provider, model.tier, hold.amount_nano_usd),
            account,
            now,
        )
        if isinstance(decision, policy_types.Deny):
            self._count_refusal(account.creator, decision.code)
            raise denied(decision)
        taken = await self._counters.take(call.request_id, decision)
        if isinstance(taken, Refused):
            self._count_refusal(account.creator, taken.state.limit.refusal.code)
            error = refused(taken, now.timestamp())
            error.headers.update((name.decode(), value.decode()) for name, value in limit_headers([taken.state]))
            raise error
        request.body = {}  # it is in `body` now, and need not be kept twice
        return Admitted(request, model, self._providers[model.provider], row, hold, taken.states, body)

    def _estimate(
        self,
        call: Call,
        account: policy_types.Account,
        labels: tuple[str, str, str, str],
        client_id: str,
        request: ChatRequest,
        model: Model,
    ) -> Hold:
        """The worst case as a hold, and what is booked if this process dies. Raises `RequestError` if unpriced."""
        price = model.price
        if (request.has_audio_input and price.audio_input is None) or (
            request.wants_audio_output and price.audio_output is None
        ):
            raise _unpriced(model)
        orphan = Usage(uncached_input=request.input_tokens_estimate, text_output=_ORPHAN_OUTPUT_TOKENS)
        try:
            amount = worst_case_nano_usd(
                price,
                input_tokens=request.input_tokens_max(model),
                output_tokens=request.output_tokens_max(model),
                text_only=request.is_text_only,
            )
            orphan_cost = min(amount, cost_nano_usd(orphan, price))
        except UnpricedUsage:
            raise _unpriced(model) from None
        attribution = Attribution(
            call.request_id,
            account.account_id,
            account.creator,
            account.key_id,
            *labels,
            "chat",
            request.model,
            client_id,
            call.admitted_at,
        )
        route = Route(model.name, model.provider, price.version)
        return Hold(attribution, route, amount, orphan, orphan_cost)

    def _count_refusal(self, creator: str, code: str) -> None:
        self._ledger.count_refusal(creator, code)
        self._metrics.refused("chat", code)

    # Step 6

    async def _forward(self, call: Call, admitted: Admitted, responder: Responder) -> Ending | None:
        """Dial, relay and settle. Whatever happens, the hold ends exactly once.

        Returns how the call ended when the client is still owed an error, None when it has had its answer.
        """
        call.deadline_at = time.monotonic() + self._deadlines.total_s + _STALLED_S
        exchange: Exchange | None = None
        try:
            # From here on the hold is on its way to the ledger, and a settle must follow it.
            call.hold = self._ledger.begin_hold(admitted.hold)
            call.allow_interrupts()
            if admitted.request.is_streaming:
                self._watch_stream(call, admitted.row, responder)
            exchange = await admitted.provider.open(self._upstream_request(call, admitted), call.hold)
            admitted.body = b""  # a stream may last for minutes
            admitted.upstream_request_id = upstream_request_id(exchange.headers)
            if exchange.status >= 300:
                return await self._relay_refusal(call, admitted, exchange, responder)
            if exchange.headers.get("content-type", "").lower().startswith("text/event-stream"):
                return await self._relay_stream(call, admitted, exchange, responder)
            return await self._relay_whole(call, admitted, exchange, responder)
        except StoreError:
            if not call.is_ended:
                # The hold did not become durable, so nothing was dialled.
                await self._counters.release(call.request_id)
            raise
        except UpstreamFailure as failure:
            ending = _failed(admitted, failure)
            _log_failure(call, admitted, failure)
        except asyncio.CancelledError:
            if call.is_ended:
                raise
            ending = _interrupted(call, admitted)
            if call.hold is not None:
                call.hold.add_done_callback(_look_at)  # nobody waits for it any more
            if not call.absorb_interrupt():
                await self._end(call, admitted, ending)
                raise
        except Exception:
            if not call.is_ended:
                metered = _input_only(admitted) if call.is_dialled else NOTHING
                await self._end(call, admitted, Ending(metered, "internal_error", _internal_error()))
            raise
        finally:
            call.forbid_interrupts()
            if exchange is not None:
                exchange.close()
        await self._end(call, admitted, ending)
        return ending

    def _upstream_request(self, call: Call, admitted: Admitted) -> UpstreamRequest:
        return UpstreamRequest(
            "/chat/completions", admitted.body, admitted.request.is_streaming, self._deadlines, call.request_id
        )

    # Step 7: three shapes of an answer

    async def _relay_refusal(
        self, call: Call, admitted: Admitted, exchange: Exchange, responder: Responder
    ) -> Ending | None:
        """The provider said no: it costs nothing, and passes through without its secrets."""
        try:
            body = await self._read_whole(exchange, ERROR_BYTES_MAX)
        except UpstreamFailure:
            body = b""  # its status says enough
        except asyncio.CancelledError:
            if not call.absorb_interrupt():
                await self._end(call, admitted, Ending(NOTHING, "upstream_refused"))
                raise
            body = b""
        key = self._provider_keys.get(admitted.row.name, "")
        error, answer = provider_refusal(exchange.status, exchange.headers, body, key)
        call.forbid_interrupts()
        admitted.status = error.status
        await self._end(call, admitted, Ending(NOTHING, "upstream_refused", error))
        headers = [*self._answer_headers(call, admitted), _JSON]
        headers.extend(upstream_headers(exchange.headers))
        headers.extend((name.encode(), value.encode("latin-1")) for name, value in error.headers.items())
        await responder.send(error.status, headers, answer)
        return None

    async def _relay_whole(
        self, call: Call, admitted: Admitted, exchange: Exchange, responder: Responder
    ) -> Ending | None:
        """A JSON answer: read whole, metered, booked, then sent as it came."""
        answer = await self._read_whole(exchange, self._settings.answer_bytes_max)
        call.first_byte_at = time.monotonic()
        call.forbid_interrupts()
        parsed = _parse_answer(answer)
        if parsed is None:
            ending = Ending(_input_only(admitted), "upstream_invalid", upstream_invalid())
            await self._end(call, admitted, ending)
            return ending
        metered = _meter(admitted, parsed.get("usage"), lambda: _output_estimate(parsed))
        outcome: Outcome = "client_gone" if responder.is_gone else "ok"
        if parsed.get("choices") is None:
            ending = Ending(metered, "upstream_invalid", upstream_invalid())
            await self._end(call, admitted, ending)
            return ending
        admitted.status = 200
        cost = await self._end(call, admitted, Ending(metered, outcome))
        headers = self._answer_headers(call, admitted)
        headers.extend(upstream_headers(exchange.headers))
        headers.append((b"x-gateway-cost-usd", usd(cost).encode()))
        headers.append(_JSON)
        await responder.send(200, headers, answer)
        return None

    async def _relay_stream(
        self, call: Call, admitted: Admitted, exchange: Exchange, responder: Responder
    ) -> Ending | None:
        """Events as they came; the terminal one only after the settle."""
        request = admitted.request
        key = self._provider_keys.get(admitted.row.name, "")
        relay = SseRelay(
            strip_usage=admitted.row.stream_usage == "inject" and not request.wants_usage,
            event_bytes_max=self._settings.stream_event_bytes_max,
            redact=lambda event: redact_bytes(event, key),
            secret=key.encode("latin-1"),
            choices=request.answers,
        )
        answer_headers = [*self._answer_headers(call, admitted), *upstream_headers(exchange.headers), *_SSE]
        broken: UpstreamFailure | None = None
        try:
            await Pump(call, relay, responder, answer_headers, bytes_max=self._settings.stream_bytes_max).run(exchange)
        except UpstreamFailure as failure:
            broken = failure
            _log_failure(call, admitted, failure)
        except asyncio.CancelledError:
            if not call.absorb_interrupt():
                await self._end(call, admitted, self._stream_ending(call, relay, admitted, broken, responder))
                raise
        except Exception:
            # What was relayed is owed, whatever broke.
            ending = self._stream_ending(call, relay, admitted, broken, responder)
            await self._end(call, admitted, ending._replace(outcome="internal_error", error=_internal_error()))
            raise
        call.forbid_interrupts()
        exchange.close()
        rest = relay.finish()
        ending = self._stream_ending(call, relay, admitted, broken, responder)
        admitted.status = 200 if ending.error is None or responder.is_started else ending.error.status
        await self._end(call, admitted, ending)
        if responder.is_stalled and call.interrupted_by in ("total_timeout", "drain"):
            # It was interrupted because it does not read, and will not read our last words either.
            responder.abort()
            return None
        if ending.error is not None and not responder.is_started:
            return ending
        if not responder.is_started:
            responder.start(200, answer_headers)
        if ending.error is not None:
            rest = b"data: " + ending.error.body() + b"\n\n"
        await responder.end(rest + relay.held_back())
        return None

    def _watch_stream(self, call: Call, row: ProviderRow, responder: Responder) -> None:
        """A client that left: read on for the grace, in case the usage is about to come, then stop paying."""
        grace_s = self._settings.gone_grace_s if row.gone_grace_s is None else row.gone_grace_s

        def left() -> None:
            asyncio.get_running_loop().call_later(grace_s, call.interrupt, "client_gone")

        responder.on_gone(left)

    def _stream_ending(
        self,
        call: Call,
        relay: SseRelay,
        admitted: Admitted,
        broken: UpstreamFailure | None,
        responder: Responder,
    ) -> Ending:
        is_complete = relay.is_complete
        metered = _meter(admitted, relay.usage, relay.output_tokens_estimate, is_partial=not is_complete)
        if responder.is_gone:
            return Ending(metered, "client_gone")
        if is_complete:
            return Ending(metered, "ok")
        if relay.has_error_event:
            return Ending(metered, "upstream_error")
        if call.interrupted_by == "drain" or (call.interrupted_by is None and broken is None and call.is_cancelled):
            return Ending(metered, "aborted", _draining())
        if call.interrupted_by == "total_timeout":
            broken = UpstreamFailure("total_timeout", "the client read too slowly", is_sent=True, is_fully_sent=True)
        if broken is None:
            broken = UpstreamFailure("died", "the stream ended unfinished", is_sent=True, is_fully_sent=True)
        return Ending(metered, _FAILED_OUTCOMES[broken.kind], upstream_failed(broken))

    async def _read_whole(self, exchange: Exchange, bytes_max: int) -> bytes:
        """The whole body, bounded for itself and for all that the process buffers together."""
        parts: list[bytes] = []
        size = 0
        try:
            while data := await exchange.read():
                size += len(data)
                self._buffered_bytes += len(data)
                if size > bytes_max or self._buffered_bytes > self._settings.answers_bytes_max:
                    raise UpstreamFailure("invalid", "an answer above the bound", is_sent=True, is_fully_sent=True)
                parts.append(data)
        finally:
            self._buffered_bytes -= size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # Step 8

    async def _end(self, call: Call, admitted: Admitted, ending: Ending) -> int:
        """Book the call, durably, and give the rest of its hold back. Returns the cost in nano-dollars."""
        call.is_ended = True
        metered = ending.metered
        cost = metered.cost_nano_usd
        flags = metered.flags
        if cost > admitted.hold.amount_nano_usd:
            flags = (*flags, "over_hold")
        if not admitted.status and ending.error is not None:
            admitted.status = ending.error.status
        # In the order of the fields: names would double the price of the tuple.
        entry = Entry(
            admitted.hold.attribution,
            admitted.hold.route,
            1,  # attempt
            True,  # final
            "usage",
            metered.usage,
            metered.source,
            cost,
            cost,  # charge
            cost,  # payer_amount
            ending.outcome,
            ",".join(flags),
            (ending.error.code or "") if ending.error is not None else "",
            admitted.status,
            False,  # cached
            admitted.request.is_streaming,
            call.elapsed_ms(),
            call.ttft_ms(),
            admitted.upstream_request_id,
            "",  # free_attempts
            "",  # downgrade_reason
        )
        try:
            await self._ledger.settle(call.request_id, (entry,))
        except StoreError as error:
            # The writer keeps the entry and posts it as soon as it can; the client must not get its last byte now.
            error.headers.update(DO_NOT_RETRY)
            raise
        finally:
            await self._counters.settle(call.request_id, {"nano_usd": cost})
            self._metrics.finished(entry, time.monotonic() - call.started_at)
            _log_finished(entry)
        return cost

    # Answers

    def _answer_headers(self, call: Call, admitted: Admitted) -> list[Header]:
        return [
            (b"x-request-id", call.request_id.encode()),
            (b"x-gateway-model", admitted.model.name.encode("latin-1", "replace")),
            (b"x-gateway-provider", admitted.model.provider.encode("latin-1", "replace")),
            *limit_headers(admitted.states),
        ]

    async def _answer_error(self, call: Call, error: GatewayError, responder: Responder) -> None:
        """An error as JSON, or as the stream's last event where a status has already left."""
        if not call.is_ended:
            self._metrics.rejected("chat", error.code or "")
            log_request(
                "request_rejected",
                {
                    "request_id": call.request_id,
                    "creator": call.creator,
                    "key_id": call.key_id,
                    "endpoint": call.endpoint,
                    "status": error.status,
                    "code": error.code,
                    "latency_ms": call.elapsed_ms(),
                },
            )
        if responder.is_started:
            await responder.end(b"data: " + error_body(error.message, error.type, error.code) + b"\n\n")
            return
        headers: list[Header] = [(b"x-request-id", call.request_id.encode()), _JSON]
        headers.extend((name.encode(), value.encode("latin-1")) for name, value in error.headers.items())
        await responder.send(error.status, headers, error.body())


def _meter(
    admitted: Admitted, usage: object, estimate_output: Callable[[], int], *, is_partial: bool = False
) -> Metered:
    """By the provider's report where there is one that can be true, else by the written rule.

    A report from the middle of a broken stream may be older than what followed it, so the words that were relayed count
    if they are more.
    """
    believed = None if usage is None else _believe(admitted, usage)
    if believed is not None and is_partial:
        missing = estimate_output() - believed.output_tokens
        if missing > 0:
            believed = believed._replace(text_output=believed.text_output + missing)
        return reported(believed, admitted.model.price, "provider_partial")
    if believed is not None and (any(believed) or not estimate_output()):
        return reported(believed, admitted.model.price)
    # No report, one that cannot be true, or one of nothing at all for an answer that says something.
    return _estimate_of(admitted, estimate_output(), was_reported=usage is not None)


def _believe(admitted: Admitted, usage: object) -> Usage | None:
    """The provider's report in buckets, or None if it cannot be true."""
    model = admitted.model
    return from_chat(
        usage,
        context_tokens_max=model.context_tokens_max or CONTEXT_TOKENS_DEFAULT,
        output_tokens_max=model.output_tokens_max or OUTPUT_TOKENS_DEFAULT,
        choices=admitted.request.choices,
        unlisted_is_reasoning=admitted.row.unlisted_is_reasoning,
    )


def _output_estimate(parsed: Mapping[str, object]) -> int:
    return -(-sum(text_bytes(choice.get("message")) for choice in _choices(parsed)) // 4)


def _estimate_of(admitted: Admitted, output_tokens: int, *, was_reported: bool) -> Metered:
    flags = ("usage_refused",) if was_reported else ()
    return estimated(admitted.request.input_tokens_estimate, output_tokens, admitted.model.price, *flags)


def _input_only(admitted: Admitted) -> Metered:
    return _estimate_of(admitted, 0, was_reported=False)


def _failed(admitted: Admitted, failure: UpstreamFailure) -> Ending:
    """A call that got no answer to relay: the input is owed once the request was fully sent."""
    metered = _input_only(admitted) if failure.is_fully_sent else NOTHING
    return Ending(metered, _FAILED_OUTCOMES[failure.kind], upstream_failed(failure))


def _interrupted(call: Call, admitted: Admitted) -> Ending:
    metered = _input_only(admitted) if call.is_dialled else NOTHING
    if call.interrupted_by == "total_timeout":
        late = UpstreamFailure("total_timeout", "the call took too long", is_sent=True, is_fully_sent=True)
        return Ending(metered, "upstream_timeout", upstream_failed(late))
    if call.interrupted_by == "client_gone":
        return Ending(metered, "client_gone")
    return Ending(metered, "aborted", _draining())


def _parse_answer(answer: bytes) -> dict[str, object] | None:
    try:
        parsed = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _choices(parsed: Mapping[str, object]) -> list[dict[str, object]]:
    choices = parsed.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _unpriced(model: Model) -> RequestError:
    return RequestError(
        f"The model `{model.name}` has no price for what this request asks, so it is refused.",
        code="unpriced_model",
        param="model",
    )


def _internal_error() -> GatewayError:
    return GatewayError("The gateway failed; the error is in its log.", headers=DO_NOT_RETRY)


def _draining() -> StoreError:
    return StoreError(
        "The gateway shut down before the answer was complete.", code="shutting_down", headers=DO_NOT_RETRY
    )


def _look_at(hold: "asyncio.Future[None]") -> None:
    """An error that is not looked at would be logged as forgotten."""
    if not hold.cancelled():
        hold.exception()


def _log_failure(call: Call, admitted: Admitted, failure: UpstreamFailure) -> None:
    """What the operator needs and the caller is not told: whether it was DNS, TLS, a reset or a bound."""
    _log.warning(
        "upstream_failed",
        request_id=call.request_id,
        provider=admitted.row.name,
        kind=failure.kind,
        detail=failure.detail,
        is_sent=failure.is_sent,
        is_fully_sent=failure.is_fully_sent,
    )


def _log_finished(entry: Entry) -> None:
    attribution, usage = entry.attribution, entry.usage
    log_request(
        "request_finished",
        {
            "request_id": attribution.request_id,
            "client_request_id": attribution.client_request_id,
            "creator": attribution.creator,
            "key_id": attribution.key_id,
            "feature": attribution.feature,
            "agent": attribution.agent,
            "endpoint": attribution.endpoint,
            "requested_model": attribution.requested_model,
            "served_model": entry.route.served_model,
            "provider": entry.route.provider,
            "is_streaming": entry.is_streaming,
            "status": entry.status,
            "outcome": entry.outcome,
            "error": entry.error,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "usage_source": entry.usage_source,
            "cost_nano_usd": entry.cost_nano_usd,
            "flags": entry.flags,
            "latency_ms": entry.latency_ms,
            "ttft_ms": entry.ttft_ms,
        },
    )
