"""What one creator may ask the ledger about itself, and what explains one of its entries.

Every query names the creator first and reads an index that begins with it: what others do costs it nothing. None of them
reads `decision`, which is for the admin.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Select, func, select

from gateway.catalog import Price
from gateway.errors import StoreError
from gateway.ledger.database import Database
from gateway.ledger.queries import CostFilter, EntryFilter, costs, entry_page, month_sums, sums_of_month
from gateway.ledger.schema import ENTRY_FACTS, IS_CREDITS_ENTRY, credit_grants, entries, price_rows, usage_daily
from gateway.ledger.statements import Row
from gateway.pricing import price_from_json

__all__ = [
    "CREATOR_GROUPS",
    "USAGE_ROWS_MAX",
    "MonthSums",
    "call_of_creator",
    "calls_of_creator",
    "corrections_of",
    "credit_history",
    "downgraded_calls_of_month",
    "grants_of_creator",
    "month_of_creator",
    "own_calls",
    "price_of_version",
    "usage_of_creator",
]

CREATOR_GROUPS = ("day", "model", "feature")
"""What a creator's usage can be grouped by, of all that `gateway.ledger.queries.GROUPS` has."""
USAGE_ROWS_MAX = 5_000
"""Thirteen years of days; a year of days by fourteen models."""


class MonthSums(NamedTuple):
    """One creator's month, failed calls included."""

    cost_nano_usd: int
    """At the catalog's price, whoever paid."""
    charge_nano_usd: int
    """What is owed: by calls that the quota paid, with the refunds and adjustments booked in this month."""
    calls: int
    corrected_nano_usd: int = 0
    """The part of the charge that refunds and adjustments are; below 0 where they gave back."""


async def usage_of_creator(
    database: Database, creator: str, group_by: Sequence[str], *, from_day: str, to_day: str
) -> list[Row]:
    """Sums of the creator's calls, a row for each combination of `group_by`, sorted by it.

    `group_by`: names of `CREATOR_GROUPS`, none for one row in all. Days are those of admission in UTC, `YYYY-MM-DD`;
    `to_day` is the first that is no longer meant. Raises `RequestError` when there are too many rows.
    """
    wanted = CostFilter(from_day=from_day, to_day=to_day, equal={"creator": creator, "kind": "usage"})
    rows = await costs(database, wanted, group_by, groups_max=USAGE_ROWS_MAX)
    return [row for row in rows if row["attempts"] is not None]  # a sum over no rows is a row of nulls


async def month_of_creator(database: Database, creator: str, month: str) -> MonthSums:
    """What the creator's calls cost and what it owes for `YYYY-MM`, up to now: the figures of its row among all charges."""
    rows = await database.fetch_all(sums_of_month(month).where(usage_daily.c.creator == creator))
    corrections = (row["charge_nano_usd"] for row in rows if row["payer"] == "quota" and row["kind"] != "usage")
    found = month_sums(month, rows)
    if not found:
        return MonthSums(0, 0, 0)
    (sums,) = found
    return MonthSums(sums["cost_nano_usd"], sums["charge_nano_usd"], sums["calls"], sum(corrections))


async def downgraded_calls_of_month(database: Database, creator: str, month: str) -> int:
    """How many of the creator's calls of `YYYY-MM` another model served than the one asked for."""
    query = select(func.coalesce(func.sum(usage_daily.c.calls), 0).label("calls")).where(
        usage_daily.c.creator == creator,
        usage_daily.c.period_day.between(f"{month}-01", f"{month}-31"),
        usage_daily.c.requested_model != usage_daily.c.served_model,
    )
    (row,) = await database.fetch_all(query)
    return int(row["calls"])


async def calls_of_creator(
    database: Database,
    creator: str,
    *,
    limit: int,
    before: str | None = None,
    from_ms: int | None = None,
    to_ms: int | None = None,
    model: str | None = None,
    feature: str | None = None,
) -> list[Row]:
    """Up to `limit` entries of the creator's calls posted before the entry with the id `before`, the newest first.

    A call whose earlier attempts cost something has an entry for each of them. Filters as of `own_calls`.
    """
    wanted = own_calls(creator, from_ms=from_ms, to_ms=to_ms, model=model, feature=feature)
    return await entry_page(database, wanted, limit=limit, before=before)


def own_calls(
    creator: str,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
    model: str | None = None,
    feature: str | None = None,
) -> EntryFilter:
    """The entries of one creator's calls. `from_ms` and `to_ms` (the first instant no longer meant) are about when an entry
    was posted, `model` is the requested or the served one."""
    equal = {"creator": creator, "kind": "usage"}
    if feature is not None:
        equal["feature"] = feature
    return EntryFilter(from_ms, to_ms, model, equal)


async def call_of_creator(database: Database, creator: str, request_id: str) -> list[Row]:
    """Every entry of one call, in the order of its attempts; empty if there is none or it is somebody else's."""
    query = (
        select(*ENTRY_FACTS)
        .where(entries.c.request_id == request_id, entries.c.creator == creator, entries.c.kind == "usage")
        .order_by(entries.c.attempt)
    )
    return await database.fetch_all(query)


async def credit_history(database: Database, creator: str, *, limit: int, before: str | None = None) -> list[Row]:
    """Up to `limit` entries that gave or took credits, posted before the one with the id `before`, the newest first.

    Calls, grants, refunds, adjustments and expiries; `payer` tells credits from promotional ones, and a grant's row has
    `expires_at` (milliseconds; None: never, or no grant). What an entry did to the balance is `-payer_amount`.
    """
    query: Select[Any] = (
        select(*ENTRY_FACTS, credit_grants.c.expires_at)
        .join_from(entries, credit_grants, credit_grants.c.entry_id == entries.c.id, isouter=True)
        .where(entries.c.creator == creator, IS_CREDITS_ENTRY)
    )
    if before is not None:
        query = query.where(entries.c.id < before)
    return await database.fetch_all(query.order_by(entries.c.id.desc()).limit(limit))


async def grants_of_creator(database: Database, creator: str) -> list[Row]:
    """Every grant of credits, the oldest first: rows of `credit_grants`, expired ones too."""
    query = select(credit_grants).where(credit_grants.c.creator == creator).order_by(credit_grants.c.entry_id)
    return await database.fetch_all(query)


async def corrections_of(database: Database, entry_id: str) -> list[Row]:
    """The entries that correct the one with the id `entry_id`, the oldest first."""
    query = select(*ENTRY_FACTS).where(entries.c.corrects == entry_id).order_by(entries.c.id)
    return await database.fetch_all(query)


async def price_of_version(database: Database, model: str, version: str) -> Price | None:
    """The price row that entries of `model` name by `version`; None if none was kept. Raises `StoreError`."""
    query = select(price_rows.c.row).where(price_rows.c.model == model, price_rows.c.version == version)
    row = await database.fetch_one(query)
    if row is None:
        return None
    try:
        return price_from_json(row["row"])
    except ValueError as exc:
        raise StoreError(f"The price row {version} of {model} cannot be read.") from exc
