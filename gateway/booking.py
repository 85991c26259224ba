"""How an ended call is written down: its ledger entries, the end of its hold, the counters' actual figures, one log line."""

import time
from collections.abc import Sequence

from gateway.admission import Admitted, Course, attribution_of
from gateway.cache.base import CachedAnswer
from gateway.calls import Call
from gateway.counters.base import CounterStore, Taken
from gateway.decision import decision_text
from gateway.errors import DO_NOT_RETRY, StoreError
from gateway.ledger.records import Entry, Hold, Ledger, Route
from gateway.logs import log_request
from gateway.metering import Ending
from gateway.metrics import Metrics
from gateway.notices.signals import Signals
from gateway.settlement import Settlement, settle, total_actuals
from gateway.tasks import look_at
from gateway.telemetry import Telemetry
from gateway.usage import NO_USAGE

__all__ = ["Booking"]


class Booking:
    """Lifetime: the process. Holds no state of a call."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        counters: CounterStore,
        metrics: Metrics,
        signals: Signals,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._ledger = ledger
        self._counters = counters
        self._metrics = metrics
        self._signals = signals
        self._telemetry = telemetry

    async def end(self, call: Call, admitted: Admitted, ending: Ending) -> int:
        """Book the call, durably, and give the rest of its hold back. Returns its cost in nano-dollars, over all attempts."""
        call.is_ended = True
        owed = settle(admitted, ending, has_begun=call.first_byte_at is not None)
        entry = self._entry(call, admitted, ending, owed, is_final=True)
        entries: Sequence[Entry] = (entry,)
        cost, actuals = owed.cost_nano_usd, owed.actuals
        if admitted.paid:
            entries = (*(earlier for earlier, _ in admitted.paid), entry)
            settlements = [*(earlier for _, earlier in admitted.paid), owed]
            cost = sum(each.cost_nano_usd for each in settlements)
            actuals = total_actuals(settlements)
        frees = ""
        # An error that a stream told itself, as its provider sent it, is none of ours; a failure all the same.
        if call.claim is not None and ending.outcome != "ok" and not any(entry.takes_something for entry in entries):
            frees, call.claim.is_freed = call.claim.reservation.id, True
        try:
            await self._ledger.settle(call.request_id, entries, frees=frees)
        except StoreError as error:
            # The writer keeps the entry and posts it as soon as it can; the client must not get its last byte now.
            error.headers.update(DO_NOT_RETRY)
            raise
        finally:
            await self._counters.settle(call.request_id, actuals)
            for earlier, _ in admitted.paid:
                self._metrics.spent(earlier)
            self._note(call, entries, owed)
        return cost

    async def hit(self, call: Call, course: Course, kept: CachedAnswer, taken: Taken) -> None:
        """Book a call that a kept answer serves. Raises `StoreError`, `Conflict`: then nothing is booked."""
        model = course.offer.model
        route = Route(model.name, model.provider, model.price.version)
        decision = decision_text(taken.states, (0, 0, 0, 0, 0), overruled=course.overruled)
        reservation = None if call.claim is None else call.claim.reservation
        attribution = attribution_of(call, course)
        hold = Hold(attribution, route, 0, NO_USAGE, 0, decision=decision, reservation=reservation)
        entry = Entry(
            attribution=attribution,
            route=route,
            attempt=1,
            final=True,
            kind="usage",
            usage=NO_USAGE,
            usage_source="none",
            cost_nano_usd=0,
            charge_nano_usd=0,
            payer_amount=0,
            outcome="ok",
            flags="",
            error="",
            status=200,
            cached=True,
            is_streaming=kept.is_streaming,
            latency_ms=call.elapsed_ms(),
            ttft_ms=call.ttft_ms(),
            upstream_request_id="",
            free_attempts="",
            downgrade_reason="",
            decision=decision,
            saved_nano_usd=kept.cost_nano_usd,
        )
        try:
            durable = self._ledger.begin_hold(hold)
            durable.add_done_callback(look_at)
            # Together in one batch: whatever happens in between, the hold is of nothing.
            await self._ledger.settle(call.request_id, (entry,))
            await durable
        finally:
            await self._counters.settle(call.request_id, {})
        call.is_ended = True
        self._note(call, (entry,), Settlement(0, 0, 0, (), {}, 0, 0))

    def _note(self, call: Call, entries: Sequence[Entry], owed: Settlement) -> None:
        entry = entries[-1]
        self._metrics.finished(entry, time.monotonic() - call.started_at)
        if call.account is not None:
            self._signals.finished(call.account, entry)
        if self._telemetry is not None:
            self._telemetry.finished(call, entries)
        _log_finished(entry, owed)

    def _entry(self, call: Call, admitted: Admitted, ending: Ending, owed: Settlement, *, is_final: bool) -> Entry:
        metered, hold = ending.metered, admitted.hold
        if is_final and not admitted.status and ending.error is not None:
            admitted.status = ending.error.status
        # In the order of the fields: names would double the price of the tuple.
        return Entry(
            hold.attribution,
            admitted.route,
            len(admitted.paid) + 1,  # attempt
            is_final,
            "usage",
            metered.usage,
            metered.source,
            owed.cost_nano_usd,
            owed.charge_nano_usd,
            owed.payer_amount,
            ending.outcome,
            ",".join(owed.flags),
            (ending.error.code or "") if ending.error is not None else "",
            admitted.status if is_final else 0,
            False,  # cached
            admitted.request.is_streaming,
            call.elapsed_ms(),
            call.ttft_ms(),
            admitted.upstream_request_id,
            admitted.attempts.free_attempts() if is_final else "",
            hold.downgrade_reason,
            metered.variant,
            hold.charge_price_version if admitted.route is hold.route else _charge_price_version(admitted),
            hold.decision,
        )

    def keep_attempt(self, call: Call, admitted: Admitted, ending: Ending) -> None:
        """An attempt that cost something and will be followed by another: booked with the call's end."""
        owed = settle(admitted, ending, has_begun=False)
        admitted.paid.append((self._entry(call, admitted, ending, owed, is_final=False), owed))


def _charge_price_version(admitted: Admitted) -> str:
    """Of what the creator owes, where that is another price than the catalog's; see `Hold`."""
    is_own = admitted.charge_price is not admitted.model.price and admitted.route.payer == "quota"
    return admitted.charge_price.version if is_own else ""


def _log_finished(entry: Entry, owed: Settlement) -> None:
    attribution = entry.attribution
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
            "input_tokens": owed.input_tokens,
            "output_tokens": owed.output_tokens,
            "usage_source": entry.usage_source,
            "cost_nano_usd": entry.cost_nano_usd,
            "payer": entry.route.payer,
            "payer_amount": entry.payer_amount,
            "downgrade_reason": entry.downgrade_reason,
            "flags": entry.flags,
            "cached": entry.cached,
            "saved_nano_usd": entry.saved_nano_usd,
            "latency_ms": entry.latency_ms,
            "ttft_ms": entry.ttft_ms,
        },
    )
