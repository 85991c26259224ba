"""Connections that read a file: a few shared ones, and one of its own for each long stream. None of them can write."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiosqlite
from sqlalchemy import Select

from gateway.errors import StoreError
from gateway.ledger.statements import SQLITE, Row, Rows, compile_statement

__all__ = ["SqliteReaders", "read_only_uri", "rows_of_one_instant"]

_SHARED = 3
_STREAMS = 4
_BUSY_TIMEOUT_S = 2.0
_PATIENT_TIMEOUT_S = 10.0
_CHUNK_ROWS = 2_000


def read_only_uri(path: Path) -> str:
    return f"file:{quote(str(path.absolute()))}?mode=ro"


@contextmanager
def rows_of_one_instant(path: Path) -> Iterator[Rows]:
    """Runs queries that all see the same instant, without an event loop. Raises `sqlite3.Error`."""
    uri = read_only_uri(path)
    with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENT_TIMEOUT_S, isolation_level=None)) as connection:
        connection.execute("BEGIN")

        def rows(query: Any) -> Iterator[tuple[Any, ...]]:
            statement = compile_statement(query, SQLITE)
            with closing(connection.execute(statement.sql, statement.parameters)) as cursor:
                while fetched := cursor.fetchmany(_CHUNK_ROWS):
                    yield from fetched

        yield rows


class SqliteReaders:
    """Opens connections when they are first needed."""

    def __init__(self, path: Path) -> None:
        self._uri = read_only_uri(path)
        self._free: list[aiosqlite.Connection] = []
        self._shared = asyncio.Semaphore(_SHARED)
        self._streams = asyncio.Semaphore(_STREAMS)
        self._is_closed = False

    async def fetch_all(self, query: Select[Any], timeout_s: float) -> list[Row]:
        statement = compile_statement(query, SQLITE)
        async with self._translated(), asyncio.timeout(timeout_s), self._shared:
            connection = self._free.pop() if self._free else await self._connect()
            try:
                async with connection.execute(statement.sql, statement.parameters) as cursor:
                    fetched = await cursor.fetchall()
                    columns = [column[0] for column in cursor.description]
            except asyncio.CancelledError:
                # The query would go on in its thread, and the next one of this connection would wait for it.
                await connection.interrupt()
                raise
            finally:
                await self._give_back(connection)
        return statement.rows(columns, fetched)

    async def stream(self, query: Select[Any], chunk_rows: int) -> AsyncIterator[list[Row]]:
        """The write-ahead log cannot shrink before the end."""
        statement = compile_statement(query, SQLITE)
        async with self._translated(), self._streams:
            connection = await self._connect()
            try:
                async with connection.execute(statement.sql, statement.parameters) as cursor:
                    columns = [column[0] for column in cursor.description]
                    while fetched := list(await cursor.fetchmany(chunk_rows)):
                        yield statement.rows(columns, fetched)
            finally:
                await connection.close()

    async def close(self) -> None:
        self._is_closed = True
        while self._free:
            await self._free.pop().close()

    async def _connect(self) -> aiosqlite.Connection:
        connection = await aiosqlite.connect(self._uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)
        try:
            await connection.execute("PRAGMA query_only = ON")
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _give_back(self, connection: aiosqlite.Connection) -> None:
        if self._is_closed:
            await connection.close()
        else:
            self._free.append(connection)

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        if self._is_closed:
            raise StoreError("The database is closed.")
        try:
            yield
        except TimeoutError as exc:
            raise StoreError("The query took too long: ask for a shorter range of time.", code="query_timeout") from exc
        except sqlite3.Error as exc:
            raise StoreError("The database cannot be read at the moment.") from exc
