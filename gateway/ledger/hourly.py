"""What was posted in each hour: `usage_hourly`, summed from the entries in the background.

A cursor in `meta` says up to which entry that was done. Sums and cursor move in one transaction, and entries are only
ever added above the largest id, so that each is counted once, whatever dies in between. Entries come in the order of
`created_at`: as soon as one of an hour is summed, every hour before it is whole.

An entry of a call counts by its kind `usage`: as a call if it is the final one, with its cost always. A creator who sends
ever new features must not make as many rows: beyond 200 of them an hour the row says `other`.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    and_,
    bindparam,
    case,
    delete,
    distinct,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
)

from gateway.ledger.database import Database
from gateway.ledger.ids import id_floor
from gateway.ledger.periods import instant, ms_of, now_ms
from gateway.ledger.rollups import NAMES_MAX, OTHER
from gateway.ledger.schema import entries, meta, usage_hourly
from gateway.ledger.statements import Prepared, Row, upsert, upsert_adding
from gateway.ledger.transactions import Transactions

__all__ = [
    "ALL_FEATURES",
    "HOUR_MS",
    "HourSums",
    "KeySums",
    "busy",
    "busy_in_all",
    "calls_by_hour",
    "cursor",
    "fill",
    "history",
    "history_by_key",
    "hour_of",
    "hour_start_ms",
    "purge",
]

HOUR_MS = 3_600_000
ALL_FEATURES = "*"
"""In the place of a feature: all of a creator's together. No caller can name one so."""
_CURSOR = "usage_hourly_cursor"
_ROWS_A_BATCH = 500
_BATCHES_MAX = 200
_CREATORS_A_QUERY = 64
_PURGED_AT_ONCE = 2_000
_PURGES_MAX = 10

# Compiled once where calls wait for it: to compile these anew for every batch takes as long as to run them.
_READ_CURSOR = Prepared(select(meta.c.value).where(meta.c.key == _CURSOR))
_MOVED = upsert(meta).values(key=_CURSOR, value=bindparam("last"))
_MOVE_CURSOR = Prepared(_MOVED.on_conflict_do_update(index_elements=["key"], set_={"value": _MOVED.excluded.value}))
_BATCH = (
    select(entries.c.id)
    .where(entries.c.id > bindparam("start"), entries.c.id < bindparam("below"))
    .order_by(entries.c.id)
    .limit(bindparam("batch_rows"))
    .subquery()
)
_TAKE = Prepared(select(func.max(_BATCH.c.id).label("last"), func.count().label("taken")).select_from(_BATCH))
# In the order of posting, so that the features that get rows of their own are always the same.
_SUM = Prepared(
    select(
        (entries.c.created_at // HOUR_MS).label("hour_number"),
        entries.c.creator,
        entries.c.feature,
        entries.c.key_id,
        func.sum(case((entries.c.final.is_(true()), 1), else_=0)).label("calls"),
        func.sum(entries.c.cost_nano_usd).label("cost_nano_usd"),
    )
    .where(entries.c.id > bindparam("start"), entries.c.id <= bindparam("last"), entries.c.kind == "usage")
    .group_by("hour_number", entries.c.creator, entries.c.feature, entries.c.key_id)
    .order_by(func.min(entries.c.id))
)
_CREATOR_NAMES = tuple(f"creator_{n}" for n in range(_CREATORS_A_QUERY))
_COUNT_FEATURES = Prepared(
    select(usage_hourly.c.creator, func.count(distinct(usage_hourly.c.feature)).label("features"))
    .where(usage_hourly.c.hour == bindparam("hour"), usage_hourly.c.creator.in_([*map(bindparam, _CREATOR_NAMES)]))
    .group_by(usage_hourly.c.creator)
)
_FEATURES = Prepared(
    select(usage_hourly.c.feature)
    .where(usage_hourly.c.hour == bindparam("hour"), usage_hourly.c.creator == bindparam("creator"))
    .distinct()
)
_ABOVE_ALL_IDS = "g"
"""Ids are hexadecimal."""

_KEY = ("hour", "creator", "feature", "key_id")
_SUMS = ("calls", "cost_nano_usd")
_ADD = upsert_adding(usage_hourly, _KEY, _SUMS)

_KeyRow = tuple[str, str, str, str]
"""(hour, creator, feature, key_id)."""


class HourSums(NamedTuple):
    """One creator's hour of one feature, all keys together."""

    creator: str
    feature: str
    """Empty for calls that named none; `other` where there were too many names; `ALL_FEATURES`."""
    calls: int
    cost_nano_usd: int


class KeySums(NamedTuple):
    """What one virtual key had in one hour, of one creator and feature."""

    key_id: str
    hour: str
    calls: int
    cost_nano_usd: int


def hour_of(at_ms: int) -> str:
    """`2026-05-31T23`, UTC."""
    return instant(at_ms).strftime("%Y-%m-%dT%H")


def hour_start_ms(hour: str) -> int:
    """The first instant of what `hour_of` returned."""
    return ms_of(datetime.fromisoformat(f"{hour}:00+00:00"))


# Filling


async def fill(
    database: Database,
    *,
    first_ms: int = 0,
    behind_ms: int = 0,
    batch_rows: int = _ROWS_A_BATCH,
    batches_max: int = _BATCHES_MAX,
) -> int:
    """Sums what was posted since the last time, and returns how many entries that were; ends when it has caught up.

    Entries from before `first_ms` are left out for good: what nobody will look at of an old ledger. `behind_ms` leaves
    the youngest to the next time, where several writers may post below an id that was seen. One transaction for every
    `batch_rows` entries, at most `batches_max` of them a call. Raises `StoreError`: what was summed before stays so.
    """
    below = id_floor(max(0, now_ms() + database.clock_ahead_ms - behind_ms)) if behind_ms > 0 else _ABOVE_ALL_IDS
    fill_some = partial(_fill_batch, first_ms=first_ms, below=below, batch_rows=batch_rows)
    total = 0
    for _ in range(batches_max):
        if not await _has_news(database, first_ms):
            break
        # What a power cut takes is summed again: the cursor goes with the sums, so that no call need wait for a disk.
        done = await database.ledger.run(fill_some, is_durable=False)
        total += done
        if done < batch_rows:
            break
    return total


async def cursor(database: Database) -> str:
    """The id of the last entry that is summed; empty before the first."""
    row = await database.fetch_one(select(meta.c.value).where(meta.c.key == _CURSOR))
    return "" if row is None else str(row["value"])


async def _has_news(database: Database, first_ms: int) -> bool:
    """Asked of a reader, so that a gateway nobody calls writes nothing."""
    newest = await database.fetch_one(select(func.max(entries.c.id).label("id")))
    if newest is None or newest["id"] is None:
        return False
    return bool(newest["id"] > _later_of(await cursor(database), first_ms))


def _later_of(cursor: str, first_ms: int) -> str:
    """Where a batch begins: after an id, or a text below every id that matters."""
    return max(cursor, id_floor(max(0, first_ms)))


def _fill_batch(transactions: Transactions, *, first_ms: int, below: str, batch_rows: int) -> int:
    """Runs inside a transaction of its own. Returns how many entries it took in."""
    transactions.lock("usage-hourly")  # of two processes that do this, one goes on where the other ended
    known = transactions.rows(_READ_CURSOR)
    start = _later_of(known[0]["value"] if known else "", first_ms)
    ((last, taken),) = (
        row.values() for row in transactions.rows(_TAKE, start=start, below=below, batch_rows=batch_rows)
    )
    if not taken:
        return 0
    sums = transactions.rows(_SUM, start=start, last=last)
    transactions.insert(_ADD, _folded(transactions, sums))
    transactions.count(_MOVE_CURSOR, last=last)
    return int(taken)


def _folded(transactions: Transactions, sums: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Rows of `usage_hourly` to be added out of those of `_SUM`, features beyond the bound replaced by `other`."""
    hours = {number: hour_of(number * HOUR_MS) for number in {row["hour_number"] for row in sums}}
    keys = [(hours[row["hour_number"]], row["creator"], row["feature"], row["key_id"]) for row in sums]
    names = _names_to_watch(transactions, keys)
    added: dict[_KeyRow, tuple[int, int]] = {}
    for key, more in zip(keys, sums, strict=True):
        hour, creator, feature, key_id = key
        if not _has_place(names.get((hour, creator)), feature):
            key = (hour, creator, OTHER, key_id)
        calls, cost = added.get(key, (0, 0))
        added[key] = (calls + more["calls"], cost + more["cost_nano_usd"])
    return [(*key, *sums) for key, sums in added.items()]


def _has_place(known: set[str] | None, feature: str) -> bool:
    """Whether `feature` has rows of its own; from now on it has, if there is a place left."""
    if known is None or feature in known or feature in ("", OTHER):
        return True
    if len(known) >= NAMES_MAX:
        return False
    known.add(feature)
    return True


def _names_to_watch(transactions: Transactions, keys: Iterable[_KeyRow]) -> dict[tuple[str, str], set[str]]:
    """(hour, creator) -> its features, for those whose new ones could take it above the bound: hardly ever any."""
    named: dict[str, dict[str, set[str]]] = {}
    for hour, creator, feature, _ in keys:
        named.setdefault(hour, {}).setdefault(creator, set()).add(feature)
    found: dict[tuple[str, str], set[str]] = {}
    for hour, creators in named.items():
        counts = _feature_counts(transactions, hour, sorted(creators))
        for creator, features in creators.items():
            if counts.get(creator, 0) + len(features) > NAMES_MAX:
                found[hour, creator] = _features(transactions, hour, creator)
    return found


def _feature_counts(transactions: Transactions, hour: str, creators: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for start in range(0, len(creators), _CREATORS_A_QUERY):
        some = creators[start : start + _CREATORS_A_QUERY]
        # Always as many names, or each number of them would be a statement of its own.
        names = dict(zip(_CREATOR_NAMES, [*some, *[some[0]] * (_CREATORS_A_QUERY - len(some))], strict=True))
        for row in transactions.rows(_COUNT_FEATURES, hour=hour, **names):
            counts[row["creator"]] = row["features"]
    return counts


def _features(transactions: Transactions, hour: str, creator: str) -> set[str]:
    """Without those that take no place: no name, and the word `other`."""
    return {row["feature"] for row in transactions.rows(_FEATURES, hour=hour, creator=creator)} - {"", OTHER}


# Reading


async def busy(
    database: Database,
    hour: str,
    *,
    calls_above: int,
    cost_above_nano_usd: int,
    after: tuple[str, str] = ("", ""),
    limit: int,
) -> list[HourSums]:
    """Up to `limit` sums of `hour` with more calls or more cost than that, sorted by creator and feature.

    `after` is (creator, feature) of the last one seen; creators are never empty, so that the default is before them all.
    """
    table = usage_hourly.c
    calls, cost = func.sum(table.calls), func.sum(table.cost_nano_usd)
    query = (
        select(table.creator, table.feature, calls.label("calls"), cost.label("cost_nano_usd"))
        .where(table.hour == hour, tuple_(table.creator, table.feature) > tuple_(*map(literal, after)))
        .group_by(table.creator, table.feature)
        .having(or_(calls > calls_above, cost > cost_above_nano_usd))
        .order_by(table.creator, table.feature)
        .limit(limit)
    )
    return [HourSums(**row) for row in await database.fetch_all(query)]


async def busy_in_all(
    database: Database, hour: str, *, calls_above: int, cost_above_nano_usd: int, after: str = "", limit: int
) -> list[HourSums]:
    """As `busy`, of creators with several features in that hour: all of these together. `after` is the last creator seen."""
    table = usage_hourly.c
    calls, cost = func.sum(table.calls), func.sum(table.cost_nano_usd)
    query = (
        select(table.creator, calls.label("calls"), cost.label("cost_nano_usd"))
        .where(table.hour == hour, table.creator > after)
        .group_by(table.creator)
        .having(
            and_(func.count(distinct(table.feature)) > 1, or_(calls > calls_above, cost > cost_above_nano_usd)),
        )
        .order_by(table.creator)
        .limit(limit)
    )
    return [HourSums(feature=ALL_FEATURES, **row) for row in await database.fetch_all(query)]


async def history(
    database: Database, creator: str, feature: str, *, from_hour: str, before_hour: str
) -> list[tuple[int, int]]:
    """Calls and cost (nano-dollars) of each hour that had a call, of those from `from_hour` on and before `before_hour`."""
    table = usage_hourly.c
    calls = func.sum(table.calls)
    query = (
        select(calls.label("calls"), func.sum(table.cost_nano_usd).label("cost_nano_usd"))
        .where(*_is_of(creator, feature), table.hour >= from_hour, table.hour < before_hour)
        .group_by(table.hour)
        .having(calls > 0)
    )
    return [(row["calls"], row["cost_nano_usd"]) for row in await database.fetch_all(query)]


async def calls_by_hour(database: Database, creator: str, *, from_hour: str, before_hour: str) -> list[int]:
    """All calls of `creator`, whatever their feature, in each hour that had any."""
    table = usage_hourly.c
    calls = func.sum(table.calls)
    query = (
        select(calls.label("calls"))
        .where(table.creator == creator, table.hour >= from_hour, table.hour < before_hour)
        .group_by(table.hour)
        .having(calls > 0)
    )
    return [row["calls"] for row in await database.fetch_all(query)]


async def history_by_key(
    database: Database, creator: str, feature: str, *, from_hour: str, to_hour: str
) -> list[KeySums]:
    """What each virtual key had in each hour from `from_hour` to `to_hour`, both included."""
    table = usage_hourly.c
    calls, cost = func.sum(table.calls), func.sum(table.cost_nano_usd)
    query = (
        select(table.key_id, table.hour, calls.label("calls"), cost.label("cost_nano_usd"))
        .where(*_is_of(creator, feature), table.hour >= from_hour, table.hour <= to_hour)
        .group_by(table.key_id, table.hour)
    )
    return [KeySums(**row) for row in await database.fetch_all(query)]


def _is_of(creator: str, feature: str) -> list[ColumnElement[bool]]:
    is_creators = usage_hourly.c.creator == creator
    return [is_creators] if feature == ALL_FEATURES else [is_creators, usage_hourly.c.feature == feature]


async def purge(database: Database, before_hour: str) -> int:
    """Deletes hours before `before_hour`, the oldest first, and returns how many rows that were: 0 when none are left.

    At most 20 000 rows a call, in short transactions: ask again for the rest.
    """
    key = [usage_hourly.c[name] for name in _KEY]
    old = select(*key).where(usage_hourly.c.hour < before_hour).order_by(*key).limit(_PURGED_AT_ONCE)
    statement = delete(usage_hourly).where(tuple_(*key).in_(old))

    def purge_some(transactions: Transactions) -> int:
        return transactions.count(statement)

    total = 0
    for _ in range(_PURGES_MAX):
        if (
            await database.fetch_one(select(usage_hourly.c.hour).where(usage_hourly.c.hour < before_hour).limit(1))
            is None
        ):
            break
        total += await database.run(purge_some)
    return total
