"""Questions to the ledger: entries page by page, sums by any rollup key, charges by month."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Select, case, func, or_, select

from gateway.errors import RequestError
from gateway.ledger.database import Database
from gateway.ledger.ids import id_floor
from gateway.ledger.schema import (
    ENTRY_FACTS,
    USAGE_DAILY_KEY,
    USAGE_DAILY_SUMS,
    entries,
    meta,
    month_charges,
    usage_daily,
)
from gateway.ledger.statements import Row
from gateway.usage import PIECE_NAMES, PIECES_OF_ENDPOINT

__all__ = [
    "COST_SUMS",
    "GROUPS",
    "CostFilter",
    "EntryFilter",
    "charges_of_month",
    "closed_key",
    "costs",
    "entries_newest_first",
    "entries_of_request",
    "entry_page",
    "month_sums",
    "sums_of_month",
]

_EXPORT_PAGE_ROWS = 64
"""Turned into Python's values at once, while calls wait: a millisecond."""
_MONTH_KEY = (usage_daily.c.creator, usage_daily.c.payer, usage_daily.c.kind)
_CONSUMED = frozenset({"usage", "refund", "adjustment"})
"""Kinds whose amounts were consumed by the creator or given back of that: no grants, and no credits that expired."""
GROUPS_MAX = 100_000
COST_SUMS = (*USAGE_DAILY_SUMS, *PIECE_NAMES)
"""The sums that `costs` has: `pieces` also by what they are, as images and seconds make no sum."""

_MONTH = func.substr(usage_daily.c.period_day, 1, 7)
GROUPS: Mapping[str, ColumnElement[Any]] = {
    **{name: usage_daily.c[name] for name in USAGE_DAILY_KEY},
    "day": usage_daily.c.period_day,
    "month": _MONTH,
    "model": usage_daily.c.served_model,
}
"""What costs can be grouped by."""
_CREATOR_KEY = (usage_daily.c.period_day, usage_daily.c.account_id, usage_daily.c.creator)
_CREATOR_GROUPS = frozenset({"day", "period_day", "month", "account_id", "creator"})


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries are meant; None and the empty mapping leave all in. Instants are milliseconds, on `created_at`."""

    from_ms: int | None = None
    to_ms: int | None = None
    """The first instant that is no longer meant."""
    model: str | None = None
    """The requested or the served one."""
    equal: Mapping[str, Any] = field(default_factory=dict)
    """Column -> value."""

    def conditions(self, *, before: str | None = None, least: str | None = None) -> list[ColumnElement[bool]]:
        """For entries with an id below `before` and not below `least`, where these are given."""
        found = [entries.c[name] == value for name, value in self.equal.items()]
        # `created_at` is the instant inside the id, so a range of time is a range of the primary key. One bound at each
        # end: of two SQLite would go by the first, and walk from there.
        lower = [least] if self.from_ms is None else [least, id_floor(self.from_ms)]
        upper = [before] if self.to_ms is None else [before, id_floor(self.to_ms)]
        if from_id := max((bound for bound in lower if bound is not None), default=None):
            found.append(entries.c.id >= from_id)
        if to_id := min((bound for bound in upper if bound is not None), default=None):
            found.append(entries.c.id < to_id)
        if self.model is not None:
            found.append(or_(entries.c.requested_model == self.model, entries.c.served_model == self.model))
        return found


async def entry_page(
    database: Database, wanted: EntryFilter, *, limit: int, before: str | None, least: str | None = None
) -> list[Row]:
    """Up to `limit` entries posted before the one with the id `before`, the newest first; without their `decision`.

    `least` is the smallest id that is still meant.
    """
    query = select(*ENTRY_FACTS).where(*wanted.conditions(before=before, least=least))
    return await database.fetch_all(query.order_by(entries.c.id.desc()).limit(limit))


async def entries_newest_first(database: Database, wanted: EntryFilter) -> AsyncIterator[list[Row]]:
    """Every entry there is at the beginning, in lists.

    Each list is a query of its own: entries never change and new ones come at the other end, so the lists fit together,
    and however slowly they are taken, no transaction stays open.
    """
    before: str | None = None
    while True:
        rows = await entry_page(database, wanted, limit=_EXPORT_PAGE_ROWS, before=before)
        if rows:
            yield rows
        if len(rows) < _EXPORT_PAGE_ROWS:
            return
        before = rows[-1]["id"]


async def entries_of_request(database: Database, request_id: str) -> list[Row]:
    """Every attempt of one call, in their order, each with its `decision`."""
    query = select(entries).where(entries.c.request_id == request_id).order_by(entries.c.attempt)
    return await database.fetch_all(query)


@dataclass(frozen=True, slots=True)
class CostFilter:
    """Which rollups are meant: days as `YYYY-MM-DD` of the calls' admission, and the values of rollup keys."""

    from_day: str | None = None
    to_day: str | None = None
    """The first day that is no longer meant."""
    model: str | None = None
    equal: Mapping[str, Any] = field(default_factory=dict)

    def conditions(self) -> list[ColumnElement[bool]]:
        found = [GROUPS[name] == value for name, value in self.equal.items()]
        if self.from_day is not None:
            found.append(usage_daily.c.period_day >= self.from_day)
        if self.to_day is not None:
            found.append(usage_daily.c.period_day < self.to_day)
        if self.model is not None:
            found.append(or_(usage_daily.c.requested_model == self.model, usage_daily.c.served_model == self.model))
        return found


async def costs(
    database: Database,
    wanted: CostFilter,
    group_by: Sequence[str],
    *,
    sums: Sequence[str] = COST_SUMS,
    groups_max: int = GROUPS_MAX,
) -> list[Row]:
    """Sums from the rollups, a row for each combination of `group_by` (keys of `GROUPS`), sorted by it.

    `sums` are those of `COST_SUMS` that are wanted: a few are found in half the time of all.
    Raises `RequestError` when there are more than `groups_max` combinations.
    """
    wide: Select[Any] | None = None
    if "creator" in group_by and _CREATOR_GROUPS.issuperset(group_by):
        # In the order of the table's own key, so that nothing has to be sorted but the sums of each creator and day.
        wide = select(*_CREATOR_KEY, *_summed(sums)).where(*wanted.conditions()).group_by(*_CREATOR_KEY)
    if wide is None:
        keys = [_scanned(name).label(name) for name in group_by]
        query = select(*keys, *_summed(sums)).where(*wanted.conditions())
    else:
        table = wide.subquery()
        columns = {**table.c, "day": table.c.period_day, "month": func.substr(table.c.period_day, 1, 7)}
        keys = [columns[name].label(name) for name in group_by]
        query = select(*keys, *(func.sum(table.c[name]).label(name) for name in sums))
    rows = await database.fetch_all(query.group_by(*keys).order_by(*keys).limit(groups_max + 1))
    if len(rows) > groups_max:
        raise RequestError(f"That makes more than {groups_max} rows: ask for a shorter range or fewer groups.")
    return rows


def _scanned(name: str) -> ColumnElement[Any]:
    """The group, without the index of creators: to fetch each row by way of it takes ten times as long as to read the days."""
    return GROUPS[name].concat("") if name == "creator" else GROUPS[name]


def _summed(sums: Sequence[str]) -> list[ColumnElement[Any]]:
    return [func.sum(_pieces(name) if name in PIECE_NAMES else usage_daily.c[name]).label(name) for name in sums]


def _pieces(name: str) -> ColumnElement[int]:
    """The pieces of a rollup row if they are these, else 0."""
    endpoint = usage_daily.c.endpoint
    named = sorted(other for other, pieces in PIECES_OF_ENDPOINT.items() if pieces == name)
    are_these = endpoint.in_(named) if named else endpoint.not_in(sorted(PIECES_OF_ENDPOINT))
    return case((are_these, usage_daily.c.pieces), else_=0)


async def charges_of_month(database: Database, month: str) -> tuple[list[Row], int | None]:
    """A row for each creator with usage in `YYYY-MM`, and when the month was closed (milliseconds).

    Of a closed month what was written then; else, with None, the sums as of now.
    """
    row = await database.fetch_one(select(meta.c.value).where(meta.c.key == closed_key(month)))
    if row is None:
        return month_sums(month, await database.fetch_all(sums_of_month(month))), None
    query = select(month_charges).where(month_charges.c.month == month).order_by(month_charges.c.creator)
    charges = [{**charge, "units": orjson.loads(charge["units"])} for charge in await database.fetch_all(query)]
    return charges, int(row["value"])


def closed_key(month: str) -> str:
    """The key in `meta` whose value is when the month was closed: one without any usage has no other row."""
    return f"month_closed:{month}"


def sums_of_month(month: str) -> Select[Any]:
    """Sums by creator, payer and kind, for `month_sums`."""
    sums = [
        func.sum(usage_daily.c[name]).label(name)
        for name in ("calls", "cost_nano_usd", "charge_nano_usd", "payer_amount")
    ]
    return (
        select(*_MONTH_KEY, *sums)
        .where(usage_daily.c.period_day.between(f"{month}-01", f"{month}-31"))
        .group_by(*_MONTH_KEY)
        .order_by(*_MONTH_KEY)
    )


def month_sums(month: str, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows of `month_charges` but for `closed_at`, out of sums by creator, payer and kind.

    Only what the quota paid is charged in money, whatever it is for; what was consumed, less what was given back of it,
    appears in `units` by payer. A creator who was only granted something, or lost it, has no row.
    """
    found: dict[str, Row] = {}
    for row in rows:
        is_consumed = row["kind"] in _CONSUMED
        if not is_consumed and not row["charge_nano_usd"] and not row["cost_nano_usd"]:
            continue
        creator = row["creator"]
        total = found.setdefault(
            creator,
            {"creator": creator, "month": month, "charge_nano_usd": 0, "cost_nano_usd": 0, "calls": 0, "units": {}},
        )
        if row["payer"] == "quota":
            total["charge_nano_usd"] += row["charge_nano_usd"]
        total["cost_nano_usd"] += row["cost_nano_usd"]
        total["calls"] += row["calls"]
        if is_consumed:
            total["units"][row["payer"]] = total["units"].get(row["payer"], 0) + row["payer_amount"]
    return list(found.values())
