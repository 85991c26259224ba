"""How an ended call is written down: its ledger entries, the end of its hold, the counters' actual figures, one log line."""

import time
from collections.abc import Sequence

from gateway.admission import Admitted
from gateway.calls import Call
from gateway.counters.base import CounterStore
from gateway.errors import DO_NOT_RETRY, StoreError
from gateway.ledger.records import Entry, Ledger
from gateway.logs import log_request
from gateway.metering import Ending
from gateway.metrics import Metrics
from gateway.settlement import Settlement, settle, total_actuals

__all__ = ["Booking"]


class Booking:
    """Lifetime: the process. Holds no state of a call."""

    def __init__(self, *, ledger: Ledger, counters: CounterStore, metrics: Metrics) -> None:
        self._ledger = ledger
        self._counters = counters
        self._metrics = metrics

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
        try:
            await self._ledger.settle(call.request_id, entries)
        except StoreError as error:
            # The writer keeps the entry and posts it as soon as it can; the client must not get its last byte now.
            error.headers.update(DO_NOT_RETRY)
            raise
        finally:
            await self._counters.settle(call.request_id, actuals)
            for earlier, _ in admitted.paid:
                self._metrics.spent(earlier)
            self._metrics.finished(entry, time.monotonic() - call.started_at)
            _log_finished(entry, owed)
        return cost

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
            "latency_ms": entry.latency_ms,
            "ttft_ms": entry.ttft_ms,
        },
    )
