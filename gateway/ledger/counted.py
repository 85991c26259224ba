"""What was used up to now, by creator and by virtual keys with limits of their own: what counters are filled from.

A start waits for these answers, so none of them walks through the entries: money comes from the daily sums, balances and
refunds from partial indexes, and the last hour and day are ranges of ids, which carry the instant of posting.
"""

from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Select, Table, case, func, literal, or_, select, true, union_all

from gateway.decision import decision_json
from gateway.ledger.database import Database
from gateway.ledger.ids import id_floor
from gateway.ledger.late_settles import LATE_SETTLE
from gateway.ledger.periods import ms_of
from gateway.ledger.schema import IS_CREDITS, creators, entries, holds, throttles, usage_daily, virtual_keys
from gateway.usage import Usage

__all__ = [
    "MonthUse",
    "NewestDecision",
    "OpenCallRow",
    "WindowUse",
    "credits_used",
    "ended_among",
    "free_images_of_day",
    "month_use",
    "newest_decisions",
    "open_among",
    "open_call_rows",
    "own_limits",
    "throttled_creators",
    "window_use",
]

_STREAM_ROWS = 5_000
_DECISIONS = 50
"""Enough to find one that a budget had a say in, and little enough to read for every creator it sent elsewhere."""
_IDS_AT_ONCE = 500
_NONE = ""
_TOKENS = tuple(name for name in Usage._fields if name != "pieces")

_LIMITS_ID = func.coalesce(virtual_keys.c.limits_id, virtual_keys.c.id)
"""Under which key's id a key's own limits are counted: a rotated key goes on with those of its predecessor."""


class MonthUse(NamedTuple):
    """Calls admitted in one month. `key_id` is empty for those of all keys without overrides."""

    creator: str
    key_id: str
    charge_nano_usd: int
    """What the quota paid, less refunds made in the same month."""
    cost_nano_usd: int
    was_downgraded: bool
    """Some call was served by another model than it asked for."""


class NewestDecision(NamedTuple):
    """How one call was decided."""

    entry_id: str
    """Larger than those of earlier entries."""
    key_id: str
    downgrade_reason: str
    """The limit that sent it to another model; empty if none did."""
    decision: str
    """As of `gateway.decision`."""


class OpenCallRow(NamedTuple):
    """A call that has not ended, as its hold says."""

    request_id: str
    creator: str
    key_id: str
    """Under which the key's own limits are counted; empty for a key without."""
    admitted_at: int
    """Unix time in milliseconds."""
    decision: str
    """As of `gateway.decision`."""


class WindowUse(NamedTuple):
    """Calls admitted within one step of time."""

    creator: str
    key_id: str
    """Empty for all keys without overrides."""
    provider: str
    """Empty for all providers that were not asked for."""
    starts_at: int
    """Unix time of the step's first instant, in seconds."""
    calls: int
    tokens: int


async def month_use(database: Database, month: str) -> list[MonthUse]:
    """What calls of `YYYY-MM` cost and what the quota paid, by creator and key."""
    key_id = _limited(usage_daily.c.key_id)
    is_quota = usage_daily.c.payer == "quota"
    query = (
        select(
            usage_daily.c.creator,
            key_id.label("key"),
            func.sum(case((is_quota, usage_daily.c.charge_nano_usd), else_=0)).label("charge"),
            func.sum(usage_daily.c.cost_nano_usd).label("cost"),
            func.max(case((usage_daily.c.requested_model != usage_daily.c.served_model, 1), else_=0)).label("moved"),
        )
        .where(usage_daily.c.period_day.between(f"{month}-01", f"{month}-31"), usage_daily.c.kind == "usage")
        .group_by(usage_daily.c.creator, "key")
    )
    charged, cost = [
        {(row["owner"], row["key"]): row["amount"] for row in await database.fetch_all(query_of_corrections)}
        for query_of_corrections in (
            _corrections("quota", "period_month", month, "charge_nano_usd"),
            _corrections(None, "period_month", month, "cost_nano_usd"),
        )
    ]
    return [
        MonthUse(
            row["creator"],
            row["key"],
            max(0, row["charge"] + charged.get((row["creator"], row["key"]), 0)),
            max(0, row["cost"] + cost.get((row["creator"], row["key"]), 0)),
            bool(row["moved"]),
        )
        for row in await database.fetch_all(query)
    ]


async def newest_decisions(database: Database, creator: str, month: str) -> list[NewestDecision]:
    """The last calls of a creator that were admitted in `YYYY-MM`, the newest first: not all of them."""
    first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    query = (
        select(entries.c.id, entries.c.key_id, entries.c.downgrade_reason, entries.c.decision)
        .where(
            entries.c.creator == creator,
            # Nothing is posted before it was admitted, so earlier ids need not be looked at.
            entries.c.id >= id_floor(ms_of(first)),
            entries.c.period_month == month,
            entries.c.kind == "usage",
        )
        .order_by(entries.c.id.desc())
        .limit(_DECISIONS)
    )
    return [NewestDecision(*row.values()) for row in await database.fetch_all(query)]


async def ended_among(database: Database, request_ids: Collection[str]) -> frozenset[str]:
    """Those whose calls have ended, and are among what was used."""
    found: set[str] = set()
    wanted = list(request_ids)
    for start in range(0, len(wanted), _IDS_AT_ONCE):
        some = wanted[start : start + _IDS_AT_ONCE]
        query = select(entries.c.request_id).where(entries.c.request_id.in_(some), entries.c.kind == "usage")
        found.update(row["request_id"] for row in await database.fetch_all(query.distinct()))
    return frozenset(found)


async def open_call_rows(database: Database) -> list[OpenCallRow]:
    """Every call that is open, of every process."""
    found = [holds.c.id, holds.c.creator, _limited(holds.c.key_id).label("key"), holds.c.admitted_at, holds.c.decision]
    return [OpenCallRow(*row.values()) for row in await database.fetch_all(select(*found))]


async def open_among(database: Database, hold_ids: Collection[str]) -> frozenset[str]:
    """Those that are held here: recorded, and not ended."""
    found: set[str] = set()
    wanted = list(hold_ids)
    for start in range(0, len(wanted), _IDS_AT_ONCE):
        query = select(holds.c.id).where(holds.c.id.in_(wanted[start : start + _IDS_AT_ONCE]))
        found.update(row["id"] for row in await database.fetch_all(query))
    return frozenset(found)


async def free_images_of_day(database: Database, day: str) -> dict[str, int]:
    """Free images that calls admitted on `YYYY-MM-DD` took, less those given back on the same day, by creator."""
    query = (
        select(usage_daily.c.creator, func.sum(usage_daily.c.payer_amount).label("images"))
        .where(usage_daily.c.period_day == day, usage_daily.c.payer == "free_images", usage_daily.c.kind == "usage")
        .group_by(usage_daily.c.creator)
    )
    images = {row["creator"]: row["images"] for row in await database.fetch_all(query)}
    for row in await database.fetch_all(_corrections("free_images", "period_day", day, "payer_amount")):
        images[row["owner"]] = max(0, images.get(row["owner"], 0) + row["amount"])
    return images


async def credits_used(database: Database) -> list[tuple[str, str, int]]:
    """Payer, creator, and the credits that are gone of all that were ever granted: spent, expired, and not given back."""
    query = (
        select(usage_daily.c.payer, usage_daily.c.creator, func.sum(usage_daily.c.payer_amount).label("units"))
        .where(IS_CREDITS, usage_daily.c.kind != "grant")
        .group_by(usage_daily.c.payer, usage_daily.c.creator)
    )
    return [(row["payer"], row["creator"], row["units"]) for row in await database.fetch_all(query)]


async def window_use(
    database: Database,
    *,
    since_s: float,
    step_s: int,
    providers: Collection[str] = (),
    creators_only: Collection[str] | None = None,
    with_open: bool = False,
) -> AsyncIterator[list[WindowUse]]:
    """Calls admitted since then (Unix time), in steps of `step_s` seconds, cache hits included; a list at a time.

    `providers` are told apart from each other and from all others. Tokens are those of every attempt; a hit has none.
    `creators_only` None means all. `with_open`: calls that have not ended, too, each a line of its own, with the tokens
    that it was expected to use; all as of one instant, so that a call that ends meanwhile is there once.
    """
    query = _window_query(since_s, step_s, providers, creators_only)
    if with_open:
        query = select(union_all(query, _open_query(since_s, step_s, providers, creators_only)).subquery())
    async for rows in database.stream(query, chunk_rows=_STREAM_ROWS):
        yield [_window_use(*row.values()) for row in rows]


def _window_use(
    creator: str, key_id: str, provider: str, starts_at: int, calls: int, tokens: int, decision: str
) -> WindowUse:
    estimated = (decision_json(decision) or {}).get("estimate", {}).get("input_and_output_tokens", 0)
    return WindowUse(creator, key_id, provider, starts_at, calls, tokens + estimated)


async def own_limits(database: Database) -> tuple[dict[str, str], dict[str, str]]:
    """The overrides (JSON) of every creator, and of every virtual key, that has any."""
    of_creators = select(creators.c.id, creators.c.overrides).where(creators.c.overrides != "{}")
    of_keys = select(virtual_keys.c.id, virtual_keys.c.overrides).where(virtual_keys.c.overrides != "{}")
    found = [await database.fetch_all(query) for query in (of_creators, of_keys)]
    by_creator, by_key = ({row["id"]: row["overrides"] for row in rows} for rows in found)
    return by_creator, by_key


async def throttled_creators(database: Database, now_s: float) -> list[str]:
    """Whom a throttle slows down at `now_s` (Unix time)."""
    query = select(throttles.c.creator).where(throttles.c.until_at > int(now_s * 1000))
    return [row["creator"] for row in await database.fetch_all(query)]


def _window_query(
    since_s: float, step_s: int, providers: Collection[str], creators_only: Collection[str] | None
) -> Select[Any]:
    since_ms = int(since_s * 1000)
    tokens = case((entries.c.cached.is_(true()), 0), else_=sum((entries.c[name] for name in _TOKENS), literal(0)))
    found: list[ColumnElement[Any]] = [
        *_whose(entries, step_s, providers),
        func.sum(case((entries.c.final.is_(true()), 1), else_=0)).label("calls"),
        func.sum(tokens).label("tokens"),
        literal(_NONE).label("decision"),
    ]
    return (
        select(*found)
        .where(
            # Nothing is posted before it was admitted, so earlier ids need not be looked at.
            entries.c.id >= id_floor(since_ms),
            entries.c.admitted_at >= since_ms,
            entries.c.kind == "usage",
            *_of(entries, creators_only),
        )
        .group_by("owner", "key", "towards", "starts_at")
    )


def _open_query(
    since_s: float, step_s: int, providers: Collection[str], creators_only: Collection[str] | None
) -> Select[Any]:
    """As `_window_query`, a row for each call that is open; its tokens stand in its decision."""
    found = [*_whose(holds, step_s, providers), literal(1), literal(0), holds.c.decision]
    return select(*found).where(holds.c.admitted_at >= int(since_s * 1000), *_of(holds, creators_only))


def _whose(table: Table, step_s: int, providers: Collection[str]) -> list[ColumnElement[Any]]:
    """On whose windows a row counts, and when."""
    provider: ColumnElement[str] = literal(_NONE)
    if providers:
        provider = case((table.c.provider.in_(sorted(providers)), table.c.provider), else_=_NONE)
    return [
        _unindexed(table.c.creator).label("owner"),
        _limited(table.c.key_id).label("key"),
        provider.label("towards"),
        (table.c.admitted_at // (step_s * 1000) * step_s).label("starts_at"),
    ]


def _of(table: Table, creators_only: Collection[str] | None) -> list[ColumnElement[bool]]:
    return [] if creators_only is None else [table.c.creator.in_(sorted(creators_only))]


def _corrections(
    payer: str | None,
    period: Literal["period_day", "period_month"],
    value: str,
    amount: Literal["cost_nano_usd", "charge_nano_usd", "payer_amount"],
) -> Select[Any]:
    """Sums of refunds and late settles that were booked in a period for calls of the same period: those of an earlier one
    have left it. None: whoever paid."""
    corrected = entries.alias("corrected")
    found: list[ColumnElement[Any]] = [
        _unindexed(entries.c.creator).label("owner"),
        _limited(entries.c.key_id).label("key"),
        func.sum(entries.c[amount]).label("amount"),
    ]
    return (
        select(*found)
        .join_from(entries, corrected, corrected.c.id == entries.c.corrects)
        .where(
            entries.c.corrects.is_not(None),
            or_(entries.c.kind == "refund", entries.c.flags == LATE_SETTLE),
            *([] if payer is None else [entries.c.payer == payer]),
            entries.c[period] == value,
            corrected.c[period] == value,
        )
        .group_by("owner", "key")
    )


def _limited(key_id: ColumnElement[str]) -> ColumnElement[str]:
    is_own = (virtual_keys.c.id == key_id) & (virtual_keys.c.overrides != "{}")
    return func.coalesce(select(_LIMITS_ID).where(is_own).scalar_subquery(), _NONE)


def _unindexed(column: ColumnElement[str]) -> ColumnElement[str]:
    """`column`, but so that no index is walked for its order: SQLite would take that for cheaper than sorting a few rows."""
    return func.coalesce(column, _NONE)
