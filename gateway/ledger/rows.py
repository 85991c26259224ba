"""Records flattened into rows of the tables, in the order of `HOLD_COLUMNS` and `ENTRY_COLUMNS`.

Runs once for each hold and each entry. Booleans become integers here: the sqlite3 module is slow to adapt them.
"""

from collections.abc import Mapping
from datetime import datetime
from operator import itemgetter
from typing import Any

from gateway.ledger.periods import ms_of, period_of
from gateway.ledger.records import Attribution, Entry, Hold, Route
from gateway.usage import Usage

__all__ = ["attribution_of_hold", "entry_row", "hold_row", "orphan_usage_of_hold", "reservation_row", "route_of"]

_ADMITTED_AT = Attribution._fields.index("admitted_at")  # the last one, as `request_id` is the first
_LABELS = itemgetter(*Attribution._fields[1:_ADMITTED_AT])
_ROUTE = itemgetter(*Route._fields)
_ORPHAN_USAGE = itemgetter(*(f"orphan_{name}" for name in Usage._fields))


def hold_row(hold: Hold, instance_id: str, now_ms: int) -> tuple[Any, ...]:
    attribution = hold.attribution
    return (
        attribution.request_id,
        instance_id,
        *attribution[1:_ADMITTED_AT],
        ms_of(attribution.admitted_at),
        *hold.route,
        hold.amount_nano_usd,
        *hold.orphan_usage,
        hold.orphan_cost_nano_usd,
        now_ms,
        hold.orphan_charge_nano_usd,
        hold.charge_price_version,
        hold.downgrade_reason,
        hold.decision,
    )


def entry_row(entry: Entry, id: str, created_at: int, corrects: str | None = None) -> tuple[Any, ...]:
    """A call is in the period of its admission; what corrects an entry is in the period of its own instant."""
    attribution = entry.attribution
    admitted_at = ms_of(attribution.admitted_at)
    return (
        id,
        *attribution[:_ADMITTED_AT],
        admitted_at,
        *entry.route,
        entry.attempt,
        1 if entry.final else 0,
        entry.kind,
        *entry.usage,
        entry.usage_source,
        entry.cost_nano_usd,
        entry.charge_nano_usd,
        entry.payer_amount,
        entry.outcome,
        entry.flags,
        entry.error,
        entry.status,
        1 if entry.cached else 0,
        1 if entry.is_streaming else 0,
        entry.latency_ms,
        entry.ttft_ms,
        entry.upstream_request_id,
        entry.free_attempts,
        entry.downgrade_reason,
        *period_of(admitted_at),
        created_at,
        corrects,
        entry.variant,
        entry.charge_price_version,
        entry.decision,
        entry.saved_nano_usd,
    )


def reservation_row(hold: Hold, now_ms: int) -> tuple[Any, ...]:
    """In the order of the table's columns; only of a hold that has a reservation."""
    attribution, reservation = hold.attribution, hold.reservation
    assert reservation is not None  # noqa: S101 -- the caller looked
    return (
        reservation.id,
        reservation.fingerprint,
        attribution.request_id,
        attribution.account_id,
        attribution.creator,
        now_ms,
        ms_of(reservation.expires_at),
        "open",
        0,  # status
        0,  # size_bytes
        None,  # answer
    )


def attribution_of_hold(row: Mapping[str, Any], admitted_at: datetime) -> Attribution:
    """`admitted_at` is the caller's to make: the row has milliseconds."""
    return Attribution._make((row["id"], *_LABELS(row), admitted_at))


def route_of(row: Mapping[str, Any]) -> Route:
    return Route._make(_ROUTE(row))


def orphan_usage_of_hold(row: Mapping[str, Any]) -> Usage:
    return Usage._make(_ORPHAN_USAGE(row))
