"""The database of a gateway: opened, migrated, read and written. A file of SQLite, if nobody said otherwise.

Writes go through one thread (`gateway.ledger.writer`), reads through a few connections that cannot write. A reader sees
every transaction that was committed before it began, and never waits for the writer.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from sqlalchemy import Executable, Select, select

from gateway.catalog import Price
from gateway.errors import ConfigError, StoreError
from gateway.ledger.ballast import Ballast
from gateway.ledger.faults import Conflict
from gateway.ledger.migration import migrate, require_current
from gateway.ledger.periods import now_ms
from gateway.ledger.readers import READ_TIMEOUT_S, Readers
from gateway.ledger.schema import price_rows
from gateway.ledger.sqlite.connection import SqliteConnection
from gateway.ledger.sqlite.dropping import drop_posted
from gateway.ledger.sqlite.readers import SqliteReaders
from gateway.ledger.statements import SQLITE, Row, upsert
from gateway.ledger.transactions import Transactions
from gateway.ledger.writer import Writer
from gateway.pricing import price_to_json

if TYPE_CHECKING:
    from gateway.config import Settings

__all__ = ["Conflict", "Database"]

Result = TypeVar("Result")

_BALLAST_FILE = "ballast"
_SETTLE_TIMEOUT_S = 5.0
_CALLS_MAX = 10_000
_CLOSE_TIMEOUT_S = 15.0


class Database:
    """Open until `close`. Made by `open`, or by `open_read_only` where nothing will be written.

    One on PostgreSQL is made by `gateway.ledger.postgres`.
    """

    def __init__(
        self,
        readers: Readers,
        writer: Writer | None,
        instance_id: str = "",
        upkeep: "asyncio.Task[None] | None" = None,
        drop: "Callable[[Database, str], Awaitable[int]] | None" = None,
    ) -> None:
        """`upkeep` is what goes on in the background until `close`; `drop` does what `drop_posted` is for."""
        self.instance_id = instance_id
        self._upkeep = upkeep
        self._drop = drop
        self._readers = readers
        self._writer = writer

    @classmethod
    async def open(
        cls, path: Path, *, settings: "Settings | None" = None, instance_id: str | None = None
    ) -> "Database":
        """Makes the file and brings its tables up to date where needed, and starts the writer.

        One process at a time may do this: hold the data folder's lock. `settings` gives the bounds of the writer.
        Raises `ConfigError` when the file is no database, cannot be written, or was made by a newer gateway.
        """
        instance_id = instance_id or uuid4().hex
        ballast = Ballast(path.parent / _BALLAST_FILE)
        await asyncio.to_thread(_prepare, path, ballast)
        writer = Writer(
            lambda: Transactions(SqliteConnection(path, ballast), instance_id),
            dialect=SQLITE,
            settle_timeout_s=_SETTLE_TIMEOUT_S if settings is None else settings.settle_timeout_s,
            calls_max=_CALLS_MAX if settings is None else settings.calls_max,
        )
        try:
            await writer.start()
        except sqlite3.Error as exc:
            raise _unusable(path, exc) from exc
        return cls(SqliteReaders(path), writer, instance_id, drop=drop_posted)

    @classmethod
    async def open_read_only(cls, path: Path) -> "Database":
        """For reading beside a running gateway, or without one. Changes nothing, and migrates nothing.

        Raises `ConfigError` when there is no such database or its tables are not those of this version.
        """
        try:
            await asyncio.to_thread(require_current, path)
        except sqlite3.Error as exc:
            raise _unusable(path, exc) from exc
        return cls(SqliteReaders(path), None)

    async def close(self) -> None:
        """Commits what is queued, then closes every connection. May be called twice."""
        if self._upkeep is not None:
            self._upkeep.cancel()
        if self._writer is not None:
            await self._writer.close(_CLOSE_TIMEOUT_S)
        await self._readers.close()

    @property
    def ledger(self) -> Writer:
        """The writer. Raises `StoreError` on a database that was opened for reading only."""
        if self._writer is None:
            raise StoreError("The database is open for reading only.")
        return self._writer

    @property
    def clock_ahead_ms(self) -> int:
        """How far the clock that ids and instants follow is ahead of this machine's: 0 for a file, and for reading only."""
        return 0 if self._writer is None else self._writer.clock_ahead_ms

    # Reading

    async def fetch_all(self, query: Select[Any], *, timeout_s: float = READ_TIMEOUT_S) -> list[Row]:
        """Every row as a dict. Raises `StoreError` when the store fails or the query takes longer than `timeout_s`."""
        return await self._readers.fetch_all(query, timeout_s)

    async def fetch_one(self, query: Select[Any], *, timeout_s: float = READ_TIMEOUT_S) -> Row | None:
        """The first row, if there is one."""
        rows = await self._readers.fetch_all(query, timeout_s)
        return rows[0] if rows else None

    def stream(self, query: Select[Any], *, chunk_rows: int = 500) -> AsyncIterator[list[Row]]:
        """Rows in lists of up to `chunk_rows`, all from one instant, over a connection of its own; a few at once.

        The store keeps what was changed meanwhile: do not stream at a client's pace.
        """
        return self._readers.stream(query, chunk_rows)

    # Writing

    async def write(self, *statements: Executable) -> list[list[Row]]:
        """All statements or none, durably; the rows of each `returning`. Raises `Conflict`, `StoreError`."""
        return await self.ledger.write(*statements)

    async def run(self, task: Callable[[Transactions], Result]) -> Result:
        """What `task` returned, run in a transaction on the writer's thread. Keep it short. Raises `StoreError`."""
        return await self.ledger.run(task)

    async def drop_posted(self, month: str) -> int:
        """Drops what was posted in `YYYY-MM` and may go, of months that `gateway.ledger.retention` has vouched for. Returns
        how many entries went. Raises `StoreError`; what was done until then stays done."""
        if self._drop is None:
            raise StoreError("The database is open for reading only.")
        return await self._drop(self, month)

    async def record_prices(self, prices: Mapping[str, Price] | Iterable[tuple[str, Price]]) -> None:
        """Keep the price of each model under its version, so that entries can be computed again. Known ones stay.

        A model may have several prices: then they are pairs.
        """
        pairs = prices.items() if isinstance(prices, Mapping) else prices
        known = {(row["model"], row["version"]) for row in await self.fetch_all(select(price_rows))}
        new = [
            {"model": model, "version": price.version, "row": price_to_json(price), "first_used_at": now_ms()}
            for model, price in pairs
            if (model, price.version) not in known
        ]
        if new:
            await self.write(*(upsert(price_rows).values(row).on_conflict_do_nothing() for row in new))


def _prepare(path: Path, ballast: Ballast) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Before SQLite makes it, which would let everybody read it; its log and index take over the file's mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        migrate(path)
    except (OSError, sqlite3.Error) as exc:
        raise _unusable(path, exc) from exc
    ballast.make()


def _unusable(path: Path, exc: Exception) -> ConfigError:
    reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return ConfigError(
        f"the database {path} cannot be used ({reason}): set GATEWAY_DATA_DIR to a folder that this user may write to, "
        "or put a sound copy of the file in its place"
    )
