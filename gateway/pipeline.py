"""One call from top to bottom, whatever its endpoint.

1. authenticate the virtual key          5. admit: take every limit, or none
2. read and check the body               6. forward, once the hold is durable
3. resolve the model                     7. relay, the stream's terminal event held back
4. estimate the worst case               8. meter, settle (durable), and only then send the last byte

A call that was answered before may end between 4 and 5 (`gateway.repeats`). Up to step 5 nothing is owed and errors simply
leave. From the hold on, `Booking.end` runs exactly once for each call, whatever happens: it books the entry, ends the hold
and corrects the counters. What the client still has to be told comes after.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import orjson
import structlog
from starlette.types import Receive

from gateway.addresses import Networks, client_address
from gateway.admission import Admission, Admitted
from gateway.answers import (
    ERROR_BYTES_MAX,
    denied,
    limit_headers,
    parse_answer,
    provider_refusal,
    redact_bytes,
    upstream_headers,
    upstream_invalid,
    upstream_request_id,
)
from gateway.auth import CREATOR_HEADER_BYTES, Authenticator
from gateway.body_hash import BodyHash
from gateway.booking import Booking
from gateway.cache.responses import ResponseCache
from gateway.calls import OPENAI_SHAPE, Call, Calls, ClientShape
from gateway.catalog import ProviderRow
from gateway.chat import ChatRequest
from gateway.checked_answers import CheckedAnswers
from gateway.config import Settings
from gateway.counters.base import CounterStore
from gateway.dialling import Dialler, log_failure
from gateway.endings import internal_error, of_failure, of_interrupt, of_stream, schema_mismatch, unanswered
from gateway.errors import DO_NOT_RETRY, GatewayError, RequestError, StoreError
from gateway.ledger.faults import Conflict
from gateway.ledger.records import Ledger, Outcome
from gateway.logs import log_request
from gateway.metering import NOTHING, Ending
from gateway.metrics import Metrics
from gateway.model_request import NOTHING_OUTGOING, Answered, ModelRequest
from gateway.notices.signals import Signals
from gateway.pricing import usd
from gateway.providers.base import Deadlines, Exchange, UpstreamFailure
from gateway.providers.translated import Untranslatable
from gateway.pump import Pump
from gateway.relay import EVENT_STREAM, Guard, Relay
from gateway.repeats import IDEMPOTENCY_KEY, Repeats, cache_header
from gateway.responder import Header, Responder
from gateway.routing import Deployments
from gateway.schema_checker import SchemaChecker
from gateway.structured import as_stream
from gateway.tasks import look_at
from gateway.telemetry import Telemetry
from policies.access import address_refusal
from policies.types import Account

_log = structlog.get_logger()

_JSON: Header = (b"content-type", b"application/json")
_BODY_AT_ONCE_S = 1.0
_STALLED_S = 1.0
"""How much later than the exchange's own total deadline a call is ended whose client does not read."""


class Pipeline:
    """Lifetime: the process. Holds no state of a call."""

    def __init__(
        self,
        *,
        settings: Settings,
        admission: Admission,
        deployments: Deployments,
        provider_keys: Mapping[str, str],
        authenticator: Authenticator,
        counters: CounterStore,
        ledger: Ledger,
        booking: Booking,
        cache: ResponseCache,
        repeats: Repeats,
        signals: Signals,
        calls: Calls,
        metrics: Metrics,
        schema_checker: SchemaChecker,
        trusted_proxies: Networks = (),
        telemetry: Telemetry | None = None,
    ) -> None:
        self._settings = settings
        self._admission = admission
        self._provider_keys = provider_keys
        self._authenticator = authenticator
        self._counters = counters
        self._ledger = ledger
        self._calls = calls
        self._metrics = metrics
        self._booking = booking
        self._cache = cache
        self._repeats = repeats
        self._signals = signals
        self._dialler = Dialler(
            admission=admission,
            deployments=deployments,
            metrics=metrics,
            deadlines=Deadlines(
                settings.connect_timeout_s,
                settings.first_byte_timeout_s,
                settings.idle_timeout_s,
                settings.total_timeout_s,
            ),
            answer_bytes_max=settings.answer_bytes_max,
        )
        self._checked_answers = CheckedAnswers(
            dialler=self._dialler, booking=self._booking, checker=schema_checker, read_answer=self._read_answer
        )
        self._trusted_proxies = trusted_proxies
        self._telemetry = telemetry
        self._buffered_bytes = 0

    async def serve(
        self,
        endpoint: str,
        read_request: Callable[[], Awaitable[ModelRequest]],
        headers: list[Header],
        responder: Responder,
        peer: str = "",
        shape: ClientShape = OPENAI_SHAPE,
        fingerprint: Callable[[], str] = str,
    ) -> None:
        """Answer one `POST` of an endpoint; `peer` is the address it came from. Raises nothing but cancellation.

        `read_request` reads the body, and raises `RequestError`; `shape` is what this endpoint's clients look for.
        `fingerprint` tells, once the body was read, what a call with the same `Idempotency-Key` must have in common with it.
        """
        call = Call(endpoint, shape)
        if self._telemetry is not None:
            call.trace_parent = dict(headers).get(b"traceparent", b"").decode("latin-1")
        try:
            self._calls.enter(call)
            await self._serve(call, read_request, headers, responder, peer, fingerprint)
        except StoreError as error:
            await self._answer_error(call, error, responder)
        except GatewayError as error:
            await self._answer_error(call, error, call.recorder or responder)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("call_failed", request_id=call.request_id)
            # What was paid for and went wrong is what a repetition hears, too.
            await self._answer_error(call, internal_error(), call.recorder or responder)
        finally:
            self._calls.leave(call)
            if call.claim is not None or call.recorder is not None:
                self._repeats.leave(call)

    def body_hash(self, receive: Receive, content_type: bytes) -> BodyHash:
        """What reads the body of a call with an `Idempotency-Key`, for its fingerprint."""
        return self._repeats.body_hash(receive, content_type)

    async def _serve(
        self,
        call: Call,
        read_request: Callable[[], Awaitable[ModelRequest]],
        headers: list[Header],
        responder: Responder,
        peer: str,
        fingerprint: Callable[[], str],
    ) -> None:
        account, address = await self._authenticate(call, headers, peer)
        generation = self._authenticator.generation
        request = await read_request()
        if self._authenticator.generation != generation or time.monotonic() - call.started_at > _BODY_AT_ONCE_S:
            # A body may take its time; what was revoked, changed or has expired meanwhile counts.
            call.account = None
            account, address = await self._authenticate(call, headers, peer)
        by_name = dict(headers)
        if account.scopes or CREATOR_HEADER_BYTES in by_name:
            self._admission.require_model(request)  # before a creator is brought along for nothing
            account = await self._authenticator.resolve_creator(account, headers, request.body.get("user"))
            call.account, call.creator = account, account.creator
            address = address or client_address(peer, headers, self._trusted_proxies)
        if request.keeps_state:
            await request.load(account)
        self._calls.refuse_if_cut()
        course = await self._admission.begin(call, account, by_name, request, address)
        course.cache_wish = self._cache.wish(account, by_name, request)
        if course.cache_wish or IDEMPOTENCY_KEY in by_name:
            goes_on_with = await self._repeats.begin(call, course, headers, fingerprint(), responder)
            if goes_on_with is None:
                return
            responder = goes_on_with
        admitted = await self._admission.admit(call, course)
        ending = await self._forward(call, admitted, responder)
        if ending is not None and ending.error is not None:
            await self._answer_error(call, ending.error, responder, self._answer_headers(call, admitted))

    async def _authenticate(self, call: Call, headers: list[Header], peer: str) -> tuple[Account, str]:
        """Whose key it is, and from where it is used, as far as anybody wants to know. Nothing else is told before."""
        account = await self._authenticator.authenticate(headers)
        call.creator, call.key_id = account.creator, account.key_id
        address = ""
        if account.plan.addresses is not None:
            address = client_address(peer, headers, self._trusted_proxies)
            if (deny := address_refusal(account, address)) is not None:
                raise denied(deny)
        call.account = account
        return account, address

    # Step 6

    async def _forward(self, call: Call, admitted: Admitted, responder: Responder) -> Ending | None:
        """Dial, relay and settle. Whatever happens, the hold ends exactly once.

        Returns how the call ended when the client is still owed an error, None when it has had its answer.
        """
        call.deadline_at = time.monotonic() + self._settings.total_timeout_s + _STALLED_S
        exchange: Exchange | None = None
        try:
            # From here on the hold is on its way to the ledger, and a settle must follow it.
            call.hold = self._ledger.begin_hold(admitted.hold)
            call.allow_interrupts()
            if admitted.request.is_streaming:
                self._watch_stream(call, admitted.row, responder)
            exchange = await self._dialler.dial(call, admitted, call.hold, responder)
            if admitted.cache_wish:
                self._repeats.note_sent(call, admitted)
            admitted.outgoing = NOTHING_OUTGOING  # a stream may last for minutes
            admitted.upstream_request_id = upstream_request_id(exchange.headers, self._key(admitted))
            if exchange.status >= 300:
                return await self._relay_refusal(call, admitted, exchange, responder)
            if (chat := admitted.request.checked(admitted.model)) is not None:
                return await self._relay_checked(call, admitted, chat, exchange, responder)
            content_type = exchange.headers.get("content-type", "").lower()
            key = self._key(admitted)
            guard = Guard(
                self._settings.stream_event_bytes_max, lambda data: redact_bytes(data, key), key.encode("latin-1")
            )
            relay = admitted.request.relay(content_type, admitted.model, admitted.row, guard)
            if relay is not None:
                return await self._relay_stream(call, admitted, relay, exchange, responder)
            return await self._relay_whole(call, admitted, content_type, exchange, responder)
        except StoreError as error:
            if call.is_ended:
                error.headers.update(DO_NOT_RETRY)  # it is paid for
            else:
                # The hold did not become durable, so nothing was dialled.
                await self._counters.release(call.request_id)
            raise
        except Conflict:
            if call.is_ended:
                raise
            # Another process has reserved the same key: this hold is not in the ledger, and nothing was dialled.
            await self._counters.release(call.request_id)
            raise self._repeats.taken() from None
        except RequestError as error:
            if call.is_ended:
                raise internal_error() from error
            # A provider of another dialect cannot say this; it has not been asked.
            ending = Ending(NOTHING, "upstream_refused", error)
        except UpstreamFailure as failure:
            if call.is_ended:
                raise internal_error() from failure
            if exchange is not None:  # else the dialler has noted it
                self._dialler.note_failure(admitted, failure)
            ending = of_failure(admitted, failure)
            if responder.is_gone and not failure.is_sent:
                ending = ending._replace(outcome="client_gone")
            log_failure(call, admitted, failure)
        except asyncio.CancelledError:
            if call.is_ended:
                raise
            ending = of_interrupt(call, admitted)
            if call.hold is not None:
                call.hold.add_done_callback(look_at)  # nobody waits for it any more
            if not call.absorb_interrupt():
                await self._booking.end(call, admitted, ending)
                raise
        except Exception:
            if not call.is_ended:
                metered = unanswered(admitted) if call.is_dialled else NOTHING
                await self._booking.end(call, admitted, Ending(metered, "internal_error", internal_error()))
            raise
        finally:
            call.forbid_interrupts()
            if exchange is not None:
                exchange.close()
        await self._booking.end(call, admitted, ending)
        return ending

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
                await self._booking.end(call, admitted, Ending(NOTHING, "upstream_refused"))
                raise
            body = b""
        key = self._key(admitted)
        error, answer = provider_refusal(exchange.status, exchange.headers, body, key)
        if error.code == "provider_unavailable":
            _log.error("provider_unavailable", provider=admitted.row.name, upstream_status=exchange.status)
        call.forbid_interrupts()
        admitted.status = error.status
        if admitted.paid:
            admitted.upstream_request_id = upstream_request_id(exchange.headers, key)
            error.headers.update(DO_NOT_RETRY)  # an SDK would pay for the first attempt again
        await self._booking.end(call, admitted, Ending(NOTHING, "upstream_refused", error))
        headers = [*self._answer_headers(call, admitted), _JSON]
        headers.extend(upstream_headers(exchange.headers, self._key(admitted)))
        headers.extend((name.encode(), value.encode("latin-1")) for name, value in error.headers.items())
        body = answer if call.shape is OPENAI_SHAPE else call.shape.error(error)
        await responder.send(error.status, headers, body)
        return None

    async def _relay_whole(
        self, call: Call, admitted: Admitted, content_type: str, exchange: Exchange, responder: Responder
    ) -> Ending | None:
        """An answer read whole, metered, booked, then sent as it came."""
        body = await self._read_answer(admitted, exchange)
        self._dialler.note_success(admitted)
        call.first_byte_at = time.monotonic()
        call.forbid_interrupts()
        request, model = admitted.request, admitted.model
        parsed = parse_answer(body)
        if parsed is not None:
            metered, head = request.meter(parsed, model, admitted.row), _JSON
        else:
            metered, head = (
                request.meter_other(body, content_type, model),
                (b"content-type", content_type.encode("latin-1")),
            )
        if metered is None or not metered.is_answer:
            ending = Ending(metered or unanswered(admitted), "upstream_invalid", upstream_invalid())
            await self._booking.end(call, admitted, ending)
            return ending
        outcome: Outcome = "client_gone" if responder.is_gone else "ok"
        admitted.status = 200
        if parsed is not None and (rendered := request.rendered(parsed, model)) is not None:
            body, shown_type = rendered
            head = (b"content-type", shown_type.encode())
        ending = Ending(metered, outcome)
        cost = await self._booking.end(call, admitted, ending)
        if admitted.cache_key:
            await self._repeats.keep_whole(call, admitted, ending, cost, body, parsed, head[1])
        if request.keeps_state:
            body = await request.keep(_answered(call, admitted, cost, body, parsed)) or body
        headers = self._answer_headers(call, admitted)
        headers.extend(upstream_headers(exchange.headers, self._key(admitted)))
        headers.append((b"x-gateway-cost-usd", usd(cost).encode()))
        headers.append(head)
        await responder.send(200, headers, body)
        return None

    async def _relay_checked(
        self, call: Call, admitted: Admitted, chat: ChatRequest, exchange: Exchange, responder: Responder
    ) -> Ending | None:
        """A chat completion that has to match a schema its provider does not enforce: checked, and mended once."""
        request, model = admitted.request, admitted.model
        parsed, metered, flaw, answered_by, refusal = await self._checked_answers.read(
            call, admitted, chat, exchange, responder
        )
        if refusal is not None:
            try:
                return await self._relay_refusal(call, admitted, refusal, responder)
            finally:
                refusal.close()
        call.first_byte_at = time.monotonic()
        call.forbid_interrupts()
        if parsed is None or flaw is not None:
            error = upstream_invalid() if parsed is None else schema_mismatch()
            ending = Ending(metered, "client_gone" if responder.is_gone else "upstream_invalid", error)
            await self._booking.end(call, admitted, ending)
            return ending
        translator = request.translator(model)
        try:
            if request.is_streaming:
                body = as_stream(parsed, with_usage=chat.wants_usage or translator is not None)
                body = body if translator is None else translator.feed(body) + translator.finish()
            else:
                body = orjson.dumps(parsed) if translator is None else translator.whole(orjson.dumps(parsed))
        except Untranslatable:
            ending = Ending(metered, "upstream_invalid", upstream_invalid())
            await self._booking.end(call, admitted, ending)
            return ending
        admitted.status = 200
        outcome: Outcome = "client_gone" if responder.is_gone else "ok"
        ending = Ending(metered, outcome)
        cost = await self._booking.end(call, admitted, ending)
        answer = None if request.is_streaming else parsed if translator is None else parse_answer(body)
        if admitted.cache_key and not request.is_streaming:
            await self._repeats.keep_whole(call, admitted, ending, cost, body, answer, _JSON[1])
        if request.keeps_state:
            body = await request.keep(_answered(call, admitted, cost, body, answer)) or body
        headers = [*self._answer_headers(call, admitted), *upstream_headers(answered_by, self._key(admitted))]
        if request.is_streaming:
            responder.start(200, [*headers, *EVENT_STREAM])
            await self._repeats.keep_stream(call, admitted, ending, cost, responder, body)
            await responder.end(body)
        else:
            headers.append((b"x-gateway-cost-usd", usd(cost).encode()))
            headers.append(_JSON)
            await responder.send(200, headers, body)
        return None

    async def _relay_stream(
        self, call: Call, admitted: Admitted, relay: Relay, exchange: Exchange, responder: Responder
    ) -> Ending | None:
        """Pieces as they came; what ends the answer only after the settle."""
        answer_headers = [
            *self._answer_headers(call, admitted),
            *upstream_headers(exchange.headers, self._key(admitted)),
            *relay.head,
        ]
        broken: UpstreamFailure | None = None
        has_ended = False
        try:
            await Pump(call, relay, responder, answer_headers, bytes_max=self._settings.stream_bytes_max).run(exchange)
            has_ended = True
        except UpstreamFailure as failure:
            broken = failure
            self._dialler.note_failure(admitted, failure)
            log_failure(call, admitted, failure)
        except asyncio.CancelledError:
            if not call.absorb_interrupt():
                await self._booking.end(call, admitted, of_stream(call, relay, broken, is_gone=responder.is_gone))
                raise
        except Exception:
            # What was relayed is owed, whatever broke.
            ending = of_stream(call, relay, broken, is_gone=responder.is_gone)
            await self._booking.end(call, admitted, ending._replace(outcome="internal_error", error=internal_error()))
            raise
        call.forbid_interrupts()
        exchange.close()
        if has_ended:
            self._dialler.note_success(admitted)
        rest = relay.finish(is_cut=not has_ended and not relay.is_done)
        ending = of_stream(call, relay, broken, is_gone=responder.is_gone)
        admitted.status = 200 if ending.error is None or responder.is_started else ending.error.status
        cost = await self._booking.end(call, admitted, ending)
        if responder.is_stalled and call.interrupted_by in ("total_timeout", "drain"):
            # It was interrupted because it does not read, and will not read our last words either.
            responder.abort()
            return None
        if ending.error is not None and not responder.is_started:
            return ending
        if admitted.request.keeps_state and relay.is_complete:
            await admitted.request.keep(_answered(call, admitted, cost, relay=relay))
        if not responder.is_started:
            responder.start(200, answer_headers)
        if ending.error is not None:
            last = relay.error_event(ending.error)
            if last is None:
                responder.abort()  # nothing but a broken body can tell
                return None
            rest = last
        rest += relay.held_back()
        if admitted.cache_key:
            await self._repeats.keep_stream(call, admitted, ending, cost, responder, rest)
        await responder.end(rest)
        return None

    def _watch_stream(self, call: Call, row: ProviderRow, responder: Responder) -> None:
        """A client that left: read on for the grace, in case the usage is about to come, then stop paying."""
        grace_s = self._settings.gone_grace_s if row.gone_grace_s is None else row.gone_grace_s

        def left() -> None:
            asyncio.get_running_loop().call_later(grace_s, call.interrupt, "client_gone")

        responder.on_gone(left)

    def _key(self, admitted: Admitted) -> str:
        """What must never reach a client; empty for a provider without a key."""
        return self._provider_keys.get(admitted.row.name, "")

    async def _read_answer(self, admitted: Admitted, exchange: Exchange) -> bytes:
        """A whole answer; without the provider's key, should it quote that."""
        body = await self._read_whole(exchange, self._settings.answer_bytes_max)
        key = self._key(admitted)
        if admitted.paid:  # a repair has an id of its own
            admitted.upstream_request_id = upstream_request_id(exchange.headers, key)
        return redact_bytes(body, key) if key and key.encode("latin-1") in body else body

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

    # Answers

    def _answer_headers(self, call: Call, admitted: Admitted) -> list[Header]:
        headers = [
            *((name, call.request_id.encode()) for name in call.shape.request_id_headers),
            (b"x-gateway-model", admitted.model.name.encode("latin-1", "replace")),
            (b"x-gateway-provider", admitted.model.provider.encode("latin-1", "replace")),
            *limit_headers(admitted.states),
        ]
        hold = admitted.hold
        if hold.downgrade_reason:
            headers.append(
                (b"x-gateway-downgraded-from", hold.attribution.requested_model.encode("latin-1", "replace"))
            )
            headers.append((b"x-gateway-downgrade-reason", hold.downgrade_reason.encode("latin-1", "replace")))
        if admitted.clamped_to is not None:
            headers.append((b"x-gateway-clamped-max-tokens", b"%d" % admitted.clamped_to))
        if admitted.attempts.made > 1:
            headers.append((b"x-gateway-attempts", b"%d" % admitted.attempts.made))
        if admitted.cache_wish and (shown := cache_header(admitted)) is not None:
            headers.append(shown)
        if hold.route.payer != "quota":
            headers.append((b"x-gateway-payer", hold.route.payer.encode()))
        return headers

    async def _answer_error(
        self, call: Call, error: GatewayError, responder: Responder, known: Sequence[Header] = ()
    ) -> None:
        """An error as JSON, or as the stream's last event where a status has already left.

        `known` are the headers of an admitted call, its request id among them.
        """
        if not call.is_ended:
            if error.code == "insufficient_quota" and call.account is not None:
                self._signals.refused(call.account, error.metadata or {})
            self._metrics.rejected(call.endpoint, error.code or "")
            if self._telemetry is not None:
                self._telemetry.rejected(call, error.code or "", error.status)
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
            await responder.end(call.shape.error_event(error))
            return
        headers: list[Header] = [*known, _JSON]
        if not known:
            headers.extend((name, call.request_id.encode()) for name in call.shape.request_id_headers)
            if call.account is not None and not isinstance(error, StoreError):  # nobody waits twice for a store
                with suppress(StoreError):
                    headers.extend(await self._admission.window_headers(call.account))
        headers.extend((name.encode(), value.encode("latin-1")) for name, value in error.headers.items())
        await responder.send(error.status, headers, call.shape.error(error))


def _answered(
    call: Call,
    admitted: Admitted,
    cost_nano_usd: int,
    body: bytes = b"",
    answer: Mapping[str, object] | None = None,
    relay: Relay | None = None,
) -> Answered:
    assert call.account is not None  # noqa: S101 -- nobody is admitted without one
    return Answered(call.request_id, call.account, admitted.model, body, answer, relay, cost_nano_usd)
