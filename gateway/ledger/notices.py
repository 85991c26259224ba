"""The tables `notices` and `notice_deliveries`: what was told, and the outbox of where it still has to go.

Ids are `ntc_` and a uuid7 that only grows, so a page is a range of ids and the oldest notice has the smallest. Instants are
milliseconds since 1970.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import orjson
from sqlalchemy import delete, func, insert, select, update

from gateway.ledger.database import Database
from gateway.ledger.ids import EntryIds, id_floor
from gateway.ledger.postings import rows_of
from gateway.ledger.schema import IS_PENDING, notice_deliveries, notices
from gateway.ledger.statements import Row, upsert
from gateway.ledger.transactions import Transactions

__all__ = [
    "NOTICE_PREFIX",
    "RECORDED",
    "Fate",
    "NoticeRows",
    "Outgoing",
    "due_deliveries",
    "next_due_at",
    "notice_page",
    "record_fate",
    "remove_notices",
]

NOTICE_PREFIX = "ntc_"
RECORDED = "notice"
"""What is announced with a new one: whoever delivers has something to do."""
State = Literal["pending", "delivered", "given_up"]


class Outgoing(NamedTuple):
    """A notice that is due at one target, and how often it was tried there."""

    id: str
    kind: str
    creator: str
    message: str
    data: Mapping[str, Any]
    created_at: int
    attempts: int


class Fate(NamedTuple):
    """What became of an attempt."""

    state: State
    attempts: int
    """This one included."""
    next_at: int
    """When it is tried next, or was ended."""
    error: str = ""


class NoticeRows:
    """Inserts notices, inside transactions of the writer's thread. One for a database: it makes the ids."""

    def __init__(self) -> None:
        self._ids: EntryIds | None = None

    def insert(
        self,
        transactions: Transactions,
        values: Mapping[str, Any],
        *,
        unless: Collection[str],
        targets: Sequence[str],
        now_ms: int,
    ) -> tuple[str | None, str]:
        """The id of the new notice and its `once`; or None and the word, of `unless` or its own, that was told before.

        `values`: the columns of `notices` but for `id` and `created_at`. Each of `targets` gets a row in the outbox.
        """
        if unless and (found := rows_of(transactions, select(notices.c.once).where(notices.c.once.in_(unless)))):
            return None, found[0]["once"]
        if self._ids is None:
            self._ids = EntryIds(_last_id(transactions))
        uuid, created_at = self._ids.next(now_ms)
        notice_id = NOTICE_PREFIX + uuid
        notice = upsert(notices).values(id=notice_id, created_at=created_at, **values)
        is_new = rows_of(transactions, notice.on_conflict_do_nothing(index_elements=["once"]).returning(notices.c.id))
        if not is_new:
            return None, values["once"]
        for target in targets:
            rows_of(
                transactions,
                insert(notice_deliveries).values(
                    notice_id=notice_id, target=target, state="pending", next_at=created_at
                ),
            )
        transactions.announce(RECORDED)
        return notice_id, values["once"]


async def notice_page(
    database: Database,
    *,
    limit: int,
    before: str | None = None,
    kind: str | None = None,
    creator: str | None = None,
) -> list[Row]:
    """Up to `limit` notices recorded before the one with the id `before`, the newest first.

    Each with its `deliveries`: rows of `notice_deliveries`, sorted by target.
    """
    query = select(notices)
    if before is not None:
        query = query.where(notices.c.id < before)
    if kind is not None:
        query = query.where(notices.c.kind == kind)
    if creator is not None:
        query = query.where(notices.c.creator == creator)
    rows = await database.fetch_all(query.order_by(notices.c.id.desc()).limit(limit))
    deliveries: dict[str, list[Row]] = {row["id"]: [] for row in rows}
    if deliveries:
        of_these = select(notice_deliveries).where(notice_deliveries.c.notice_id.in_(deliveries))
        for delivery in await database.fetch_all(of_these.order_by(notice_deliveries.c.target)):
            deliveries[delivery["notice_id"]].append(delivery)
    return [{**row, "data": orjson.loads(row["data"]), "deliveries": deliveries[row["id"]]} for row in rows]


async def due_deliveries(database: Database, target: str, now_ms: int, *, limit: int) -> list[Outgoing]:
    """Up to `limit` pending ones whose time has come, those first that have been due longest."""
    query = (
        select(*(notices.c[name] for name in Outgoing._fields if name != "attempts"), notice_deliveries.c.attempts)
        .join_from(notice_deliveries, notices, notices.c.id == notice_deliveries.c.notice_id)
        .where(IS_PENDING, notice_deliveries.c.target == target, notice_deliveries.c.next_at <= now_ms)
        .order_by(notice_deliveries.c.next_at, notice_deliveries.c.notice_id)
        .limit(limit)
    )
    return [Outgoing(**{**row, "data": orjson.loads(row["data"])}) for row in await database.fetch_all(query)]


async def next_due_at(database: Database, target: str) -> int | None:
    """When the first pending one is due, also where that is past; None where none is pending."""
    query = select(func.min(notice_deliveries.c.next_at).label("at")).where(
        IS_PENDING, notice_deliveries.c.target == target
    )
    (row,) = await database.fetch_all(query)
    return None if row["at"] is None else int(row["at"])


async def record_fate(database: Database, notice_id: str, target: str, fate: Fate) -> None:
    """Durably. A delivery that has ended stays as it is. Raises `StoreError`: then it may be recorded all the same."""
    await database.write(
        update(notice_deliveries)
        .where(
            notice_deliveries.c.notice_id == notice_id,
            notice_deliveries.c.target == target,
            notice_deliveries.c.state == "pending",
        )
        .values(fate._asdict())
    )


async def remove_notices(database: Database, *, before_ms: int, limit: int) -> int:
    """How many of those recorded before the instant were removed, with their deliveries: the oldest, up to `limit`.

    Where there is none, nothing is written.
    """
    query = select(notices.c.id).where(notices.c.id < NOTICE_PREFIX + id_floor(before_ms))
    oldest = [row["id"] for row in await database.fetch_all(query.order_by(notices.c.id).limit(limit))]
    if oldest:
        await database.write(delete(notices).where(notices.c.id.in_(oldest)))
    return len(oldest)


def _last_id(transactions: Transactions) -> str | None:
    last: str | None = rows_of(transactions, select(func.max(notices.c.id).label("id")))[0]["id"]
    return None if last is None else last.removeprefix(NOTICE_PREFIX)
