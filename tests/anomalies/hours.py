"""Entries posted at chosen instants, and what stands in for the notices and the brakes of the gateway."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from gateway.errors import NotFound
from gateway.ledger.database import Database
from gateway.ledger.hourly import HOUR_MS, hour_start_ms
from gateway.ledger.ids import EntryIds
from gateway.ledger.postings import rows_of
from gateway.ledger.records import Entry
from gateway.ledger.rows import entry_row
from gateway.ledger.schema import entries, throttles
from gateway.ledger.statements import many_rows
from gateway.ledger.transactions import Transactions
from gateway.notices.base import Notice
from tests.ledger.books import entry

_ENTRIES = many_rows(entries)
COST = 1_000_000
"""Of one call made here: a thousandth of a dollar."""


async def post_at(database: Database, posted: Iterable[tuple[int, Entry]]) -> None:
    """Posts entries as if it were then; instants (milliseconds) must not run backwards, as in the ledger itself."""

    def post(transactions: Transactions) -> None:
        ids = EntryIds(rows_of(transactions, select(func.max(entries.c.id).label("id")))[0]["id"])
        rows = [entry_row(made, *ids.next(at_ms), None) for at_ms, made in posted]
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)
        transactions.insert(_ENTRIES, rows)

    await database.run(post)


class Calls(NamedTuple):
    """So many calls of one creator, feature and key."""

    count: int
    creator: str = "acme"
    feature: str = "chat-ui"
    key_id: str = "k1"
    cost_nano_usd: int = COST


class Book:
    """Entries made one after the other, each with a request id of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._made = 0

    async def hour(self, hour: str | int, *calls: Calls) -> None:
        """Posts calls, one after the other, from its beginning to the end of an hour; or from any millisecond on."""
        start_ms = hour if isinstance(hour, int) else hour_start_ms(hour)
        made = [self._entry(each) for each in calls for _ in range(each.count)]
        step_ms = (HOUR_MS - start_ms % HOUR_MS) // (len(made) + 1)
        await post_at(self._database, [(start_ms + index * step_ms, each) for index, each in enumerate(made)])

    async def hours(self, before_ms: int, count: int, *calls: Calls) -> None:
        """The same calls in each of the `count` hours before the one that begins at `before_ms`."""
        for back in range(count, 0, -1):
            await self.hour(before_ms - back * HOUR_MS, *calls)

    def _entry(self, call: Calls) -> Entry:
        self._made += 1
        return entry(
            f"r{self._made}",
            creator=call.creator,
            feature=call.feature,
            key_id=call.key_id,
            changes={"cost_nano_usd": call.cost_nano_usd},
        )


class Told:
    """A `NoticeBook` in memory."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    async def record(self, notice: Notice, *, unless: Iterable[str] = ()) -> bool:
        known = {told.once for told in self.notices}
        if known & {notice.once, *unless}:
            return False
        self.notices.append(notice)
        return True

    @property
    def kinds(self) -> list[str]:
        return [notice.kind for notice in self.notices]


class FakeBrakes:
    """`Brakes` that write the throttles, and remember the keys they were asked to pause."""

    def __init__(self, database: Database, *, unknown: Iterable[str] = ()) -> None:
        self._database = database
        self._unknown = set(unknown)
        self.paused: list[str] = []

    async def pause_key(self, id: str) -> Any:
        if id in self._unknown:
            raise NotFound("There is no such key.")
        self.paused.append(id)

    async def resume_key(self, id: str) -> Any:
        self.paused.remove(id)

    async def throttle(self, creator: str, requests_per_minute: int, until_ms: int, anomaly_id: str) -> Any:
        if creator in self._unknown:
            raise NotFound("There is no such creator.")
        row = {"requests_per_minute": requests_per_minute, "until_at": until_ms, "anomaly_id": anomaly_id}
        made = sqlite_insert(throttles).values(creator=creator, **row)
        await self._database.write(made.on_conflict_do_update(index_elements=["creator"], set_=row))

    async def lift_throttle(self, creator: str) -> bool:
        (gone,) = await self._database.write(
            delete(throttles).where(throttles.c.creator == creator).returning(throttles.c.creator)
        )
        return bool(gone)
