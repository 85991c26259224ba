"""The rows of calls that came with an `Idempotency-Key`: read, completed, thinned out.

They are made in the transaction of a call's hold, and freed in that of its settle (`gateway.ledger.transactions`). A row
begins `open` and ends `kept`, `too_large` or, once its answer had to make room, `dropped`. Instants are Unix milliseconds.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, delete, func, select, update

from gateway.ledger.database import Database
from gateway.ledger.schema import IS_KEPT, entries, holds, idempotency

__all__ = [
    "Reserved",
    "Size",
    "drop_answers",
    "kept_bytes",
    "oldest_kept",
    "record_answer",
    "record_too_large",
    "remove_expired",
    "remove_of_creator",
    "reserved_by_id",
    "some_expired",
    "some_of_creator",
    "was_settled_since",
]


class Reserved(NamedTuple):
    """What a value stands for."""

    fingerprint: str
    request_id: str
    expires_at: int
    state: str
    status: int
    answer: bytes | None
    """Sealed; None unless it is kept."""
    has_hold: bool
    """Its call was admitted and not settled: it runs, here or in another process."""


class Size(NamedTuple):
    """A row that may go, and the bytes of its answer."""

    id: str
    bytes: int


async def reserved_by_id(database: Database, id: str) -> Reserved | None:
    has_hold = select(holds.c.id).where(holds.c.id == idempotency.c.request_id).exists()
    columns = [idempotency.c[name] for name in Reserved._fields if name != "has_hold"]
    row = await database.fetch_one(select(*columns, has_hold.label("has_hold")).where(idempotency.c.id == id))
    return None if row is None else Reserved(**row)


async def was_settled_since(database: Database, request_id: str, since_ms: int) -> bool:
    """Whether a call that did not crash was booked at `since_ms` or later: its answer may be about to be kept."""
    query = select(entries.c.id).where(
        entries.c.request_id == request_id, entries.c.created_at >= since_ms, entries.c.outcome != "crashed"
    )
    return await database.fetch_one(query.limit(1)) is not None


async def record_answer(database: Database, id: str, request_id: str, *, status: int, answer: bytes) -> bool:
    """Completes the row of this call; a power cut may take the answer, and leaves the row. False where it is gone or was
    completed before."""
    return await _end_open(database, id, request_id, state="kept", status=status, size_bytes=len(answer), answer=answer)


async def record_too_large(database: Database, id: str, request_id: str, *, status: int) -> bool:
    """As `record_answer`, for an answer that cannot be given again."""
    return await _end_open(database, id, request_id, state="too_large", status=status)


async def _end_open(database: Database, id: str, request_id: str, **values: Any) -> bool:
    is_its_own = (idempotency.c.id == id, idempotency.c.request_id == request_id, idempotency.c.state == "open")
    complete = update(idempotency).where(*is_its_own).values(**values).returning(idempotency.c.id)
    (rows,) = await database.ledger.write(complete, is_durable=False)
    return bool(rows)


# What goes


async def some_expired(database: Database, now_ms: int, limit: int) -> list[Size]:
    """Up to `limit` rows whose time is over, the oldest first."""
    return await _sizes(database, idempotency.c.expires_at <= now_ms, limit=limit)


async def some_of_creator(database: Database, creator: str, limit: int) -> list[Size]:
    return await _sizes(database, idempotency.c.creator == creator, limit=limit)


async def oldest_kept(database: Database, limit: int) -> list[Size]:
    return await _sizes(database, idempotency.c.state == "kept", limit=limit)


async def kept_bytes(database: Database) -> int:
    """All answers together, as they are stored."""
    total = func.coalesce(func.sum(idempotency.c.size_bytes), 0).label("bytes")
    (row,) = await database.fetch_all(select(total).where(IS_KEPT))
    return int(row["bytes"])


async def remove_expired(database: Database, ids: Sequence[str], now_ms: int) -> None:
    """Those of `ids` whose time is over: a value may stand for a new call by now."""
    await database.write(delete(idempotency).where(idempotency.c.id.in_(ids), idempotency.c.expires_at <= now_ms))


async def remove_of_creator(database: Database, ids: Sequence[str], creator: str) -> None:
    await database.write(delete(idempotency).where(idempotency.c.id.in_(ids), idempotency.c.creator == creator))


async def drop_answers(database: Database, ids: Sequence[str]) -> None:
    """The answers alone: the values go on standing for their calls."""
    is_kept = (idempotency.c.id.in_(ids), idempotency.c.state == "kept")
    await database.write(update(idempotency).where(*is_kept).values(state="dropped", size_bytes=0, answer=None))


async def _sizes(database: Database, condition: ColumnElement[bool], *, limit: int) -> list[Size]:
    # All values stand for the same time, so that what expires first is the oldest; and that order has an index.
    query = select(idempotency.c.id, idempotency.c.size_bytes).where(condition)
    rows = await database.fetch_all(query.order_by(idempotency.c.expires_at, idempotency.c.id).limit(limit))
    return [Size(row["id"], row["size_bytes"]) for row in rows]
