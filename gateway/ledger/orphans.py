"""Holds whose call is dead: booked at what the call has probably cost, so that no money is lost and no hold stays.

Every committed hold counts as dialled. It books `orphan_cost_nano_usd`, which its hold brought along: at most the amount
held, the price of the input estimate and 1 000 output tokens.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Select, select

from gateway.errors import StoreError
from gateway.ledger.database import Database
from gateway.ledger.periods import instant, now_ms
from gateway.ledger.records import Entry
from gateway.ledger.rows import attribution_of_hold, orphan_usage_of_hold, route_of
from gateway.ledger.schema import holds
from gateway.ledger.transactions import ORPHANS_LOCK, Transactions

__all__ = ["book_orphans"]

_SLICE = 4_000
"""Holds ended in one transaction; calls that settle meanwhile wait for it."""


async def book_orphans(
    database: Database,
    *,
    older_than_s: float = 0,
    instance_id: str | None = None,
    not_of: Select[tuple[str]] | None = None,
    is_alive: Callable[[str], bool] = lambda request_id: False,
) -> list[dict[str, Any]]:
    """End every open hold that fits, and book it. Returns request_id, creator, cost_nano_usd, admitted_at and `actuals` of each: what it
    took by unit, for the counters.

    At the start of a gateway with a database of its own that is every hold. `older_than_s` counts from when the hold was
    written; `instance_id` looks at the holds of one process only, `not_of` at those of processes whose ids this does not
    read; a hold whose call `is_alive` is left alone, however old it is. A hold that its call ends at the same moment is
    booked once, by whoever came first. Raises `StoreError` if it fails before any was booked; else the next time does the
    rest.
    """
    latest_ms = now_ms() + database.clock_ahead_ms - int(older_than_s * 1000)
    after = ""
    booked: list[dict[str, Any]] = []
    while True:
        query = select(holds).where(holds.c.id > after)
        if older_than_s > 0:  # else whatever is there, also what a clock set back since says is to come
            query = query.where(holds.c.created_at <= latest_ms)
        if instance_id is not None:
            query = query.where(holds.c.instance_id == instance_id)
        if not_of is not None:
            query = query.where(holds.c.instance_id.not_in(not_of))
        try:
            rows = await database.fetch_all(query.order_by(holds.c.id).limit(_SLICE))
            dead = [row for row in rows if not is_alive(row["id"])]
            if dead:
                booked += await database.run(partial(_book, dead))
        except StoreError:
            if not booked:
                raise
            return booked  # whose counters have to hear of it
        if not rows:
            return booked
        after = rows[-1]["id"]


def _book(dead: list[dict[str, Any]], transactions: Transactions) -> list[dict[str, Any]]:
    transactions.lock(ORPHANS_LOCK)
    ended = transactions.end_holds([row["id"] for row in dead])
    booked = [row for row in dead if row["id"] in ended]
    transactions.post(_crashed(row) for row in booked)
    return [
        {
            "request_id": row["id"],
            "creator": row["creator"],
            "cost_nano_usd": row["orphan_cost_nano_usd"],
            "admitted_at": row["admitted_at"],
            "actuals": _actuals(row),
        }
        for row in booked
    ]


def _actuals(row: dict[str, Any]) -> dict[str, int]:
    usage = orphan_usage_of_hold(row)
    taken = {"nano_usd": _charge(row), "cost_nano_usd": row["orphan_cost_nano_usd"], "image": 0, "credit": 0}
    return {**taken, "token": usage.input_tokens + usage.output_tokens}


def _charge(row: dict[str, Any]) -> int:
    """Images and credits are taken only on success, and money only where the quota pays."""
    return int(row["orphan_charge_nano_usd"]) if row["payer"] == "quota" else 0


def _crashed(row: dict[str, Any]) -> Entry:
    charge = _charge(row)
    return Entry(
        attribution=attribution_of_hold(row, instant(row["admitted_at"])),
        route=route_of(row),
        attempt=1,
        final=True,
        kind="usage",
        usage=orphan_usage_of_hold(row),
        usage_source="estimated",
        cost_nano_usd=row["orphan_cost_nano_usd"],
        charge_nano_usd=charge,
        payer_amount=charge,
        outcome="crashed",
        flags="",
        error="crashed",
        status=0,
        cached=False,
        is_streaming=False,
        latency_ms=0,
        ttft_ms=None,
        upstream_request_id="",
        free_attempts="",
        downgrade_reason=row["downgrade_reason"],
        charge_price_version=row["charge_price_version"],
        decision=row["decision"],
    )
