"""What the ledger says about many creators at once, and about refusals: sums of a month, days of a few.

Whoever is not deleted is listed, with or without calls. Lists of all creators are read in pieces, between which calls
have their turn.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Select, case, cast, func, select

from gateway.ledger.database import Database
from gateway.ledger.schema import creators, refusals_daily, usage_daily
from gateway.ledger.statements import Row

__all__ = ["CreatorSums", "creators_listed", "daily_costs", "last_days", "refusals_of_creator", "sums_by_creator"]

_CHUNK_ROWS = 500
"""Turned into Python's values at once, in about a millisecond."""
_LISTED = (creators.c.id, creators.c.name, creators.c.plan, creators.c.overrides, creators.c.is_active)


class CreatorSums(NamedTuple):
    """One creator's month so far; the figures of `gateway.ledger.creator_queries.MonthSums`."""

    cost_nano_usd: int = 0
    charge_nano_usd: int = 0
    calls: int = 0


async def creators_listed(database: Database, plan: str | None = None) -> list[Row]:
    """`id`, `name`, `plan`, `overrides` (JSON text) and `is_active` of every creator, or of those on `plan`; in no order."""
    query = select(*_LISTED).where(creators.c.deleted_at.is_(None))
    if plan is not None:
        query = query.where(creators.c.plan == plan)
    return await _all(database, query)


async def sums_by_creator(database: Database, month: str) -> Mapping[str, CreatorSums]:
    """Cost, charge and calls of `YYYY-MM` for every creator who has any: one walk through the month's rollups."""
    days = usage_daily.c
    by_quota = case((days.payer == "quota", days.charge_nano_usd), else_=0)
    query = (
        select(
            days.creator,
            func.sum(days.cost_nano_usd).label("cost"),
            func.sum(by_quota).label("charge"),
            func.sum(days.calls).label("calls"),
        )
        .where(days.period_day.between(f"{month}-01", f"{month}-31"))
        .group_by(days.creator)
    )
    rows = await _all(database, query)
    return {row["creator"]: CreatorSums(int(row["cost"]), int(row["charge"]), int(row["calls"])) for row in rows}


async def last_days(database: Database, named: Sequence[str]) -> Mapping[str, str]:
    """The last day (`YYYY-MM-DD`, UTC, of admission) on which something of each creator was booked; none for the others."""
    days = usage_daily.c
    query = select(days.creator, func.max(days.period_day).label("day")).where(days.creator.in_(named))
    return {row["creator"]: row["day"] for row in await database.fetch_all(query.group_by(days.creator))}


async def daily_costs(database: Database, named: Sequence[str], month: str) -> Mapping[str, Mapping[str, int]]:
    """Creator -> day -> nano-dollars at the catalog's price, for days of `YYYY-MM` that cost something."""
    days = usage_daily.c
    query = (
        select(days.creator, days.period_day, func.sum(days.cost_nano_usd).label("cost"))
        .where(days.creator.in_(named), days.period_day.between(f"{month}-01", f"{month}-31"))
        .group_by(days.creator, days.period_day)
    )
    found: dict[str, dict[str, int]] = {}
    for row in await database.fetch_all(query):
        found.setdefault(row["creator"], {})[row["period_day"]] = int(row["cost"])
    return found


async def refusals_of_creator(database: Database, creator: str, *, from_day: str, to_day: str) -> list[Row]:
    """`day`, `reason` and `count` of the creator's refused calls, by day and reason; `to_day` is no longer meant.

    A refusal is in the table within about a second.
    """
    there = refusals_daily.c
    query = (
        select(there.day, there.reason, there.count)
        .where(there.creator == creator, there.day >= from_day, there.day < to_day)
        .order_by(there.day, there.reason)
    )
    return await database.fetch_all(query)


async def refusals_summed(
    database: Database, equal: Mapping[str, str], *, from_day: str, to_day: str, limit: int | None
) -> list[Row]:
    """`creator`, `reason` and `count`, the most first; `equal` narrows by either, `limit` None is all of them."""
    there = refusals_daily.c
    # A whole number on every store, and told by it: of all creators there may be too many rows to go through here at once.
    count = cast(func.sum(there.count), BigInteger)
    query = (
        select(there.creator, there.reason, count.label("count"))
        .where(*_refused(equal, from_day, to_day))
        .group_by(there.creator, there.reason)
        .order_by(count.desc(), there.creator, there.reason)
    )
    return await _all(database, query if limit is None else query.limit(limit))


async def refusals_by_reason(database: Database, equal: Mapping[str, str], *, from_day: str, to_day: str) -> list[Row]:
    """`reason` and `count`, the most first."""
    there, count = refusals_daily.c, func.sum(refusals_daily.c.count)
    query = select(there.reason, count.label("count")).where(*_refused(equal, from_day, to_day))
    rows = await database.fetch_all(query.group_by(there.reason).order_by(count.desc(), there.reason))
    return [{**row, "count": int(row["count"])} for row in rows]


def _refused(equal: Mapping[str, str], from_day: str, to_day: str) -> list[ColumnElement[bool]]:
    there = refusals_daily.c
    return [*(there[name] == value for name, value in equal.items()), there.day >= from_day, there.day < to_day]


async def _all(database: Database, query: Select[Any]) -> list[Row]:
    found: list[Row] = []
    async for rows in database.stream(query, chunk_rows=_CHUNK_ROWS):
        found += rows
    return found
