"""Entries of months long closed are dropped; what stands for them stays (`gateway.ledger.dropped`).

Goes from the oldest month to the newest that is old enough, and ends at the first that is not closed. For each:
1. what can be dropped of all that was posted in it is counted; that is also all a dry run does;
2. each month that these calls belong to, mostly this one, is vouched for before anything of it goes: its entries and its
   rollups have the same sums, and a checksum of the rollups is written down;
3. the entries go, each together with its share of the sums that take its place, in one transaction or many;
4. the month is marked as gone through.

A process that ends in the middle leaves sums and entries that agree; the next one goes on. Whoever reads sums, charges and
balances sees no difference, as none of them is made from these entries.
"""

from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import structlog
from sqlalchemy import func, select, update

from gateway.ledger.closing import closed_at
from gateway.ledger.database import Database
from gateway.ledger.dropped import RollupsChecksum, droppable, posted_in, rollups_in_order, row_of
from gateway.ledger.ids import id_floor, ms_in
from gateway.ledger.periods import month_bounds_ms, now_ms, period_of
from gateway.ledger.schema import dropped_months, entries
from gateway.ledger.statements import upsert
from gateway.ledger.transactions import Transactions

__all__ = ["DueMonth", "drop_old_months", "months_to_drop"]

_log = structlog.get_logger()

_CLOCKS_DIFFER_MS = 3_600_000
"""Nothing is posted before it was admitted, nor after its month was closed; but several machines have several clocks."""
_GROUP = ("period_day", "creator", "kind", "payer")
_GROUPED = ("cost_nano_usd", "charge_nano_usd", "payer_amount")


class DueMonth(NamedTuple):
    """A month whose entries are old enough to be dropped."""

    month: str
    """`YYYY-MM`, of posting."""
    entries: int
    """How many can be dropped."""
    obstacle: str = ""
    """Why they are not; then nothing is dropped of later months either. Empty: nothing is in the way."""


async def months_to_drop(database: Database, months: int, now: datetime) -> AsyncIterator[DueMonth]:
    """Every month older than the last `months` whole ones that has something to drop, the oldest first; changes nothing.

    Months that were gone through before are left out; 0 `months` keeps everything. Raises `StoreError`.
    """
    for month in await _months_due(database, months, now):
        due, _ = await _survey(database, month)
        if due is not None:
            yield due
            if due.obstacle:
                return


async def drop_old_months(database: Database, months: int, now: datetime) -> list[DueMonth]:
    """Drops what `months_to_drop` yields; returns that, with how many entries were really dropped.

    Reads in the background and writes in short transactions, so that calls go on. Two processes may try at once. Raises
    `StoreError`; what was done until then stays done.
    """
    found: list[DueMonth] = []
    for month in await _months_due(database, months, now):
        due, belongs_to = await _survey(database, month)
        if due is None:
            await database.run(partial(_sweep, month))
            continue
        if not due.obstacle:
            due = await _drop(database, due, belongs_to)
        found.append(due)
        if due.obstacle:
            _log.warning("months_not_dropped", month=due.month, entries=due.entries, reason=due.obstacle)
            break
        _log.info("month_dropped", month=due.month, entries=due.entries)
    return found


async def _drop(database: Database, due: DueMonth, belongs_to: list[str]) -> DueMonth:
    for month in belongs_to:
        if not await _vouch(database, month):
            return due._replace(obstacle=f"{month} differs from its entries: run `gateway ledger verify`")
    dropped = await database.drop_posted(due.month)
    await database.run(partial(_sweep, due.month))
    return due._replace(entries=dropped)


# What is there


async def _months_due(database: Database, months: int, now: datetime) -> list[str]:
    """Months that are old enough, from the first with entries on, without those that were gone through."""
    if months <= 0:
        return []
    last = _number(now.astimezone(UTC).strftime("%Y-%m")) - months - 1
    oldest = await database.fetch_one(select(entries.c.id).order_by(entries.c.id).limit(1))
    if oldest is None:
        return []
    first = _number(period_of(ms_in(oldest["id"]))[1])
    query = select(dropped_months.c.month).where(dropped_months.c.swept_at.is_not(None))
    swept = {row["month"] for row in await database.fetch_all(query)}
    return [month for month in map(_month, range(first, last + 1)) if month not in swept]


async def _survey(database: Database, month: str) -> tuple[DueMonth | None, list[str]]:
    """What was posted in `month` and can be dropped, and the months it belongs to; None when there is nothing."""
    query = (
        select(entries.c.period_month, func.count().label("entries"))
        .where(*posted_in(month), *droppable(), entries.c.period_month <= month)
        .group_by(entries.c.period_month)
        .order_by(entries.c.period_month)
    )
    counted = {row["period_month"]: row["entries"] async for rows in database.stream(query) for row in rows}
    if not counted:
        return None, []
    due = DueMonth(month, sum(counted.values()))
    for each in sorted({*counted, month}):
        if await closed_at(database, each) is None:
            return due._replace(obstacle=f"{each} is not closed: run `gateway ledger close {each}`"), []
    return due, list(counted)


async def _vouch(database: Database, month: str) -> bool:
    """Whether the rollups of a closed month are the sums of its entries; if so they have their checksum from now on.

    Of a month whose entries were dropped in part this was found out before.
    """
    if await _has_row(database, month):
        return True
    checksum, rolled_up = await _rolled_up(database, month)
    if rolled_up != await _posted(database, month):
        return await _has_row(database, month)  # another process was quicker, and has dropped some
    row = {"month": month, "rollups_sha256": checksum, "begun_at": now_ms()}
    await database.write(upsert(dropped_months).values(row).on_conflict_do_nothing())
    return True


async def _has_row(database: Database, month: str) -> bool:
    return await database.fetch_one(select(dropped_months.c.month).where(dropped_months.c.month == month)) is not None


async def _rolled_up(database: Database, month: str) -> tuple[str, dict[tuple[Any, ...], list[int]]]:
    """The checksum of a month's rollups, and their sums by day, creator, kind and payer."""
    checksum = RollupsChecksum()
    sums: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * (1 + len(_GROUPED)))
    async for rows in database.stream(rollups_in_order(month)):
        for row in rows:
            checksum.add(row_of(row))
            total = sums[tuple(row[name] for name in _GROUP)]
            for index, name in enumerate(("attempts", *_GROUPED)):
                total[index] += row[name]
    return checksum.hexdigest(), dict(sums)


async def _posted(database: Database, month: str) -> dict[tuple[Any, ...], list[int]]:
    """The same sums out of the entries."""
    start_ms, end_ms = month_bounds_ms(month)
    last_ms = await closed_at(database, month) or end_ms
    keys = [entries.c[name] for name in _GROUP]
    query = (
        select(*keys, func.count().label("attempts"), *(func.sum(entries.c[name]).label(name) for name in _GROUPED))
        .where(
            entries.c.id >= id_floor(start_ms - _CLOCKS_DIFFER_MS),
            entries.c.id < id_floor(last_ms + _CLOCKS_DIFFER_MS),
            entries.c.period_month == month,
        )
        .group_by(*keys)
    )
    return {
        tuple(row[name] for name in _GROUP): [row[name] for name in ("attempts", *_GROUPED)]
        async for rows in database.stream(query)
        for row in rows
    }


def _sweep(month: str, transactions: Transactions) -> None:
    """A month of which nothing is left to drop. One that never had a call of its own to drop has no row, and needs none."""
    is_gone_through = update(dropped_months).where(dropped_months.c.month == month, dropped_months.c.swept_at.is_(None))
    transactions.count(is_gone_through.values(swept_at=now_ms()))


# Months


def _number(month: str) -> int:
    return int(month[:4]) * 12 + int(month[5:]) - 1


def _month(number: int) -> str:
    return f"{number // 12:04d}-{number % 12 + 1:02d}"
