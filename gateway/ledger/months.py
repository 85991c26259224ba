"""Months side by side: what was charged in each, whether it is closed, and if not, what keeps it open."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import case, func, select

from gateway.ledger.closing import LATE_HOLDS_MS
from gateway.ledger.database import Database
from gateway.ledger.periods import month_bounds_ms
from gateway.ledger.queries import closed_key
from gateway.ledger.schema import holds, meta, month_charges, usage_daily

__all__ = ["Month", "MonthState", "months_before", "months_shown"]

MonthState = Literal["not_begun", "running", "held_open", "closable", "closed"]
"""Still to come; not over yet; over, with calls of it still open; over, and nobody closed it; closed."""


_SUMS = ("calls", "charge_nano_usd", "cost_nano_usd")


class Month(NamedTuple):
    """One month's sums, over all creators who have a charge in it."""

    month: str
    state: MonthState
    closed_at: int | None
    """Milliseconds since 1970."""
    open_calls: int
    """Holds of calls admitted in it. It cannot be closed before they have ended."""
    calls: int
    charge_nano_usd: int
    cost_nano_usd: int


def months_before(last: str, count: int) -> list[str]:
    """`count` months up to `last` (`YYYY-MM`), the newest first; fewer where the calendar begins."""
    found, first = [last], date.fromisoformat(f"{last}-01")
    while len(found) < count and first > date.min:
        first = (first - timedelta(days=1)).replace(day=1)
        found.append(first.isoformat()[:7])
    return found


async def months_shown(database: Database, months: Sequence[str], now_ms: int) -> list[Month]:
    """Each of `months`, in their order. Closed ones stand as they were written, the others are summed as of now."""
    closings = await _closings(database, months)
    written = await _written(database, [month for month in months if month in closings])
    summed = await _summed(database, [month for month in months if month not in closings])
    held = await _open_calls(database, [month for month in months if month not in closings])
    found = []
    for month in months:
        sums = (written if month in closings else summed).get(month, {})
        state = _state(month, closings.get(month), held.get(month, 0), now_ms)
        amounts = (int(sums.get(name) or 0) for name in _SUMS)
        found.append(Month(month, state, closings.get(month), held.get(month, 0), *amounts))
    return found


def _state(month: str, closed_at: int | None, open_calls: int, now_ms: int) -> MonthState:
    if closed_at is not None:
        return "closed"
    begins_ms, ends_ms = month_bounds_ms(month)
    if now_ms < begins_ms:
        return "not_begun"
    if now_ms < ends_ms + LATE_HOLDS_MS:
        return "running"
    return "held_open" if open_calls else "closable"


async def _closings(database: Database, months: Sequence[str]) -> dict[str, int]:
    keys = {closed_key(month): month for month in months}
    rows = await database.fetch_all(select(meta).where(meta.c.key.in_(list(keys))))
    return {keys[row["key"]]: int(row["value"]) for row in rows}


async def _written(database: Database, months: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    if not months:
        return {}
    there = month_charges.c
    query = select(
        there.month,
        func.sum(there.calls).label("calls"),
        func.sum(there.charge_nano_usd).label("charge_nano_usd"),
        func.sum(there.cost_nano_usd).label("cost_nano_usd"),
    ).where(there.month.in_(months))
    return {row["month"]: row for row in await database.fetch_all(query.group_by(there.month))}


async def _summed(database: Database, months: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """What `gateway.ledger.queries.month_sums` comes to over all creators."""
    if not months:
        return {}
    days = usage_daily.c
    query = (
        select(
            days.period_day,
            func.sum(days.calls).label("calls"),
            func.sum(case((days.payer == "quota", days.charge_nano_usd), else_=0)).label("charge_nano_usd"),
            func.sum(days.cost_nano_usd).label("cost_nano_usd"),
        )
        .where(days.period_day.between(f"{min(months)}-01", f"{max(months)}-31"))
        .group_by(days.period_day)  # as the rows lie: nothing has to be sorted
    )
    found: dict[str, dict[str, int]] = {}
    for row in await database.fetch_all(query):
        sums = found.setdefault(row["period_day"][:7], dict.fromkeys(_SUMS, 0))
        for name in _SUMS:
            sums[name] += int(row[name])
    return found


async def _open_calls(database: Database, months: Sequence[str]) -> Mapping[str, int]:
    if not months:
        return {}
    admitted = holds.c.admitted_at
    sums = []
    for month in months:
        start, end = month_bounds_ms(month)
        sums.append(func.sum(case(((admitted >= start) & (admitted < end), 1), else_=0)).label(month))
    row = await database.fetch_one(select(*sums))
    return {month: int((row or {}).get(month) or 0) for month in months}
