"""Hours out of the usual, and creators who are slowed down because of one: the SQL of `anomalies` and `throttles`.

An anomaly is recorded first, and acted upon afterwards; what the action did is noted in its `details`. One without is
open: whoever died in between left it, and the next look acts upon it again.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import orjson
from sqlalchemy import Select, func, insert, select, update

from gateway.ledger.database import Database
from gateway.ledger.ids import EntryIds
from gateway.ledger.periods import rfc3339
from gateway.ledger.postings import rows_of
from gateway.ledger.schema import anomalies, throttles, virtual_keys
from gateway.ledger.statements import Row
from gateway.ledger.transactions import Transactions
from policies.types import AnomalyAction

__all__ = [
    "METRICS",
    "OPEN_AT_ONCE",
    "Anomaly",
    "Finding",
    "Metric",
    "Throttle",
    "anomaly_page",
    "ended_throttles",
    "is_recorded",
    "note_done",
    "open_anomalies",
    "owners_of_keys",
    "record",
    "throttle_of",
    "throttle_page",
]

Metric = Literal["calls", "cost_nano_usd"]
METRICS: tuple[Metric, ...] = ("calls", "cost_nano_usd")

_OPEN = "{}"
"""The `details` of an anomaly that nothing was done about yet."""
OPEN_AT_ONCE = 500


class Finding(NamedTuple):
    """What was out of the usual. `value` to `threshold` are in the unit of `metric`."""

    creator: str
    feature: str
    metric: Metric
    hour: str
    """`YYYY-MM-DDTHH`, UTC."""
    value: int
    median: int
    deviation: int
    often: int
    """The 95th percentile."""
    threshold: int
    hours: int
    """How many hours the median is of."""
    action: AnomalyAction
    """What the creator's plan says is to be done."""


class Anomaly(NamedTuple):
    """A finding as it was recorded."""

    id: str
    finding: Finding
    details: Mapping[str, Any]
    """What the action did; empty until it is done."""
    created_at: int
    """Milliseconds since 1970."""


class Throttle(NamedTuple):
    creator: str
    requests_per_minute: int
    until_at: int
    """Milliseconds since 1970."""
    anomaly_id: str


async def record(database: Database, finding: Finding, at_ms: int) -> str | None:
    """The id of the new anomaly; None if there was one of this creator, feature, metric and hour."""

    def insert_new(transactions: Transactions) -> str | None:
        transactions.lock("anomalies")
        if rows_of(transactions, _same(finding.creator, finding.feature, finding.metric, finding.hour)):
            return None
        last = rows_of(transactions, select(func.max(anomalies.c.id).label("id")))[0]["id"]
        new_id, _ = EntryIds(last).next(at_ms)
        rows_of(transactions, insert(anomalies).values(id=new_id, details=_OPEN, created_at=at_ms, **finding._asdict()))
        return new_id

    return await database.run(insert_new)


async def is_recorded(database: Database, *, creator: str, feature: str | None, metric: Metric, hour: str) -> bool:
    """`feature` None: whichever."""
    return await database.fetch_one(_same(creator, feature, metric, hour)) is not None


async def open_anomalies(database: Database) -> list[Anomaly]:
    """Anomalies that are not known to have been acted upon, the oldest first; up to 500."""
    query = select(anomalies).where(anomalies.c.details == _OPEN).order_by(anomalies.c.id).limit(OPEN_AT_ONCE)
    return [_anomaly(row) for row in await database.fetch_all(query)]


async def note_done(database: Database, id: str, details: Mapping[str, Any], at_ms: int) -> None:
    """Notes what was done about an anomaly; from then on it is not open."""
    text = orjson.dumps({**details, "done_at": rfc3339(at_ms)}).decode()
    await database.write(update(anomalies).where(anomalies.c.id == id).values(details=text))


async def anomaly_page(
    database: Database, *, creator: str | None, metric: Metric | None, limit: int, before: str | None
) -> list[Anomaly]:
    """Up to `limit` anomalies recorded before the one with the id `before`, the newest first."""
    query = select(anomalies)
    if creator is not None:
        query = query.where(anomalies.c.creator == creator)
    if metric is not None:
        query = query.where(anomalies.c.metric == metric)
    if before is not None:
        query = query.where(anomalies.c.id < before)
    rows = await database.fetch_all(query.order_by(anomalies.c.id.desc()).limit(limit))
    return [_anomaly(row) for row in rows]


async def throttle_of(database: Database, creator: str) -> Throttle | None:
    """The throttle of `creator`, ended or not; None where there is none."""
    row = await database.fetch_one(select(throttles).where(throttles.c.creator == creator))
    return None if row is None else Throttle(**row)


async def throttle_page(database: Database, *, now_ms: int, limit: int, after: str = "") -> list[Throttle]:
    """Up to `limit` throttles that count, sorted by creator; `after` is the last creator seen."""
    query = select(throttles).where(throttles.c.until_at > now_ms, throttles.c.creator > after)
    return [Throttle(**row) for row in await database.fetch_all(query.order_by(throttles.c.creator).limit(limit))]


async def ended_throttles(database: Database, now_ms: int) -> list[str]:
    """Creators whose throttle has ended and is still there."""
    query = select(throttles.c.creator).where(throttles.c.until_at <= now_ms).order_by(throttles.c.creator)
    return [row["creator"] for row in await database.fetch_all(query)]


async def owners_of_keys(database: Database, key_ids: Iterable[str]) -> dict[str, str]:
    """Virtual key -> the creator it belongs to, without revoked ones."""
    query = select(virtual_keys.c.id, virtual_keys.c.creator_id).where(
        virtual_keys.c.id.in_(list(key_ids)), virtual_keys.c.revoked_at.is_(None)
    )
    return {row["id"]: row["creator_id"] for row in await database.fetch_all(query)}


def _same(creator: str, feature: str | None, metric: Metric, hour: str) -> Select[Any]:
    there = anomalies.c
    query = select(there.id).where(there.creator == creator, there.metric == metric, there.hour == hour)
    return query if feature is None else query.where(there.feature == feature)


def _anomaly(row: Row) -> Anomaly:
    finding = Finding(**{name: row[name] for name in Finding._fields})
    return Anomaly(row["id"], finding, orjson.loads(row["details"]), row["created_at"])
