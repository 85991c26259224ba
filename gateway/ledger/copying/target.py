"""The database that is copied into: PostgreSQL, its tables made, nothing in them but what the same copy brought.

Until the copy is complete nobody else may use it. While one is written, that is the lock of a gateway that is alone on its
database; between a copy that was killed and its next run it is the mark in `meta`, for which a gateway looks at its start.

Rows travel by COPY, with the mark in the same transaction. The server need not flush each of these: it forgets the last
ones in a crash, rows and mark alike. The end is flushed, and all before it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import Table

from gateway.errors import ConfigError
from gateway.ledger.copying.source import Chunk, Totals
from gateway.ledger.copying.tables import MARK, TABLES, Identity, Mark, Position
from gateway.ledger.migration import HEAD
from gateway.ledger.postgres.link import LOCK_CLASS, Link, connect, end
from gateway.ledger.postgres.migration import migrate, require_server, stored_version
from gateway.ledger.postgres.partitions import make_partitions

__all__ = ["Target", "open_target"]

_ONLY_GATEWAY = 0
"""The lock of `gateway.ledger.postgres.connection`: one gateway or one copy."""
_OTHER_ENDS_WITHIN_S = 2.0
_LOOK_AGAIN_S = 0.1
_SETTINGS = {"synchronous_commit": "off", "lock_timeout": "60s"}  # nobody is there who would have to wait

_EVER_THERE = ("creators", "entries", "meta")
"""What every version has, and every gateway writes to."""


class Target:
    """Open as long as `open_target` is entered. Raises what asyncpg raises."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def mark(self) -> Mark | None:
        """How far the copy is that is in there; None in a database that has none."""
        text = await self._link.fetchval("SELECT value FROM meta WHERE key = $1", MARK)
        return None if text is None else Mark.from_json(text)

    async def begin(self, source: Identity) -> Mark:
        """Raises `ConfigError` where anything is in the tables already."""
        taken = [table.name for table in TABLES if await self._has_rows(table)]
        if taken:
            raise ConfigError(
                f"the target has a ledger of its own already ({', '.join(taken)}), and nothing is ever added to one: name "
                "an empty database"
            )
        mark = Mark(source, {})
        await self._link.execute("INSERT INTO meta (key, value) VALUES ($1, $2)", MARK, mark.to_json())
        return mark

    async def make_partitions(self, months: list[str]) -> None:
        await make_partitions(self._link, months)

    async def write(self, table: Table, chunk: Chunk, mark: Mark) -> Mark:
        """The mark behind the chunk."""
        position = mark.at(table.name)
        moved = mark.moved(str(table.name), Position(chunk.last, position.rows + len(chunk.rows)))
        async with self._link.transaction():
            await self._link.copy_records_to_table(
                table.name, records=chunk.rows, columns=[column.name for column in table.columns]
            )
            await self._put(moved)
        return moved

    async def finish(self, table: Table, mark: Mark) -> Mark:
        """The mark that says that no row of `table` is missing."""
        moved = mark.moved(str(table.name), mark.at(table.name)._replace(is_done=True))
        await self._put(moved)
        return moved

    async def flush(self) -> None:
        """What was written outlives a crash of the server. Its plans know how much there is."""
        await self._link.execute("SET synchronous_commit TO on")
        await self._link.execute(f"ANALYZE {', '.join(table.name for table in TABLES)}")
        await self._link.execute("UPDATE meta SET value = value WHERE key = $1", MARK)

    async def complete(self, mark: Mark) -> None:
        """From now on a gateway may serve it."""
        await self._put(mark._replace(is_complete=True))

    async def counts(self) -> dict[str, int]:
        """Rows of each table, without those that only say how far the copy is."""
        found = {str(table.name): await self._link.fetchval(f"SELECT count(*) FROM {table.name}") for table in TABLES}  # noqa: S608
        found["meta"] -= await self._link.fetchval("SELECT count(*) FROM meta WHERE key = $1", MARK)
        return found

    async def totals(self) -> Totals:
        rows = await self._link.fetch(
            "SELECT period_month, creator, count(*), sum(cost_nano_usd), sum(charge_nano_usd), sum(payer_amount) "
            "FROM entries GROUP BY period_month, creator"
        )
        return {(month, creator): tuple(sums) for month, creator, *sums in rows}

    async def _has_rows(self, table: Table) -> bool:
        return bool(await self._link.fetchval(f"SELECT EXISTS (SELECT FROM {table.name})"))  # noqa: S608

    async def _put(self, mark: Mark) -> None:
        await self._link.execute("UPDATE meta SET value = $2 WHERE key = $1", MARK, mark.to_json())


@asynccontextmanager
async def open_target(url: str) -> AsyncIterator[Target]:
    """Brings the tables up to date, and keeps gateways and other copies away until it is left.

    Raises `ConfigError` when the database is a newer gateway's, one of something else, or in use; and what asyncpg raises.
    """
    link = await connect(url, name="gateway copy", statement_timeout_s=0, target="read-write", settings=_SETTINGS)
    try:
        await require_server(link)
        await _be_the_only_one(link)
        await _refuse_older(link)
        await migrate(url)
        yield Target(link)
    finally:
        await end(link)


async def _be_the_only_one(link: Link) -> None:
    until = time.monotonic() + _OTHER_ENDS_WITHIN_S
    while not await link.fetchval("SELECT pg_try_advisory_lock($1, $2)", LOCK_CLASS, _ONLY_GATEWAY):
        if time.monotonic() >= until:
            raise ConfigError("a gateway, or another copy, uses the target: stop it first, or name an empty database")
        await asyncio.sleep(_LOOK_AGAIN_S)  # a copy that was killed just now is still being cleared away


async def _refuse_older(link: Link) -> None:
    """A ledger that is refused anyway is not upgraded on the way."""
    if await stored_version(link) in (None, HEAD):
        return
    for table in _EVER_THERE:
        if await link.fetchval(f"SELECT EXISTS (SELECT FROM {table})"):  # noqa: S608
            raise ConfigError("the target has a ledger of an older gateway already: name an empty database")
