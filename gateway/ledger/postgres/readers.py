"""Connections that read: a few shared ones, and one of its own for each long stream. None of them can write.

They ask the server that is written to, never a replica: whoever decides by what it reads must see what was committed.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Select

from gateway.errors import StoreError
from gateway.ledger.faults import Fault
from gateway.ledger.postgres.faults import translated
from gateway.ledger.postgres.link import POSTGRES, Link, connect, end, storable
from gateway.ledger.readers import READ_TIMEOUT_S
from gateway.ledger.statements import Row, compile_statement

__all__ = ["PostgresReaders"]

_SHARED = 6
_STREAMS = 4
_STREAM_TIMEOUT_S = 600.0
_READ_ONLY = {"default_transaction_read_only": "on", "client_connection_check_interval": "1000"}
_QUERY_CANCELED = "57014"

Result = TypeVar("Result")


class PostgresReaders:
    """Opens connections when they are first needed, at most ten at once."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._free: list[Link] = []
        self._shared = asyncio.Semaphore(_SHARED)
        self._streams = asyncio.Semaphore(_STREAMS)
        self._is_closed = False

    async def fetch_all(self, query: Select[Any], timeout_s: float) -> list[Row]:
        statement = compile_statement(query, POSTGRES)
        values = storable(statement.parameters)
        async with self._translated(), asyncio.timeout(timeout_s), self._shared:
            records = await self._read(lambda link: link.fetch(statement.sql, *values))
        return statement.rows(list(records[0].keys()), records) if records else []

    async def stream(self, query: Select[Any], chunk_rows: int) -> AsyncIterator[list[Row]]:
        statement = compile_statement(query, POSTGRES)
        async with self._translated(), self._streams:
            link = await self._connect(_STREAM_TIMEOUT_S)
            try:
                async with link.transaction(isolation="repeatable_read", readonly=True):
                    cursor = await link.cursor(statement.sql, *storable(statement.parameters))
                    while records := await cursor.fetch(chunk_rows):
                        yield statement.rows(list(records[0].keys()), records)
            finally:
                link.terminate()  # at once, wherever the stream was left

    async def close(self) -> None:
        self._is_closed = True
        while self._free:
            await end(self._free.pop())

    async def _read(self, ask: Callable[[Link], Awaitable[Result]]) -> Result:
        """A connection that went stale while nobody used it is no reason to fail: what reads may ask again."""
        while self._free:
            link = self._free.pop()
            if link.is_closed():
                continue
            try:
                return await self._asked(link, ask)
            except Exception as exc:
                if not link.is_closed() or translated(exc).fault is not Fault.TROUBLE:
                    raise
        return await self._asked(await self._connect(READ_TIMEOUT_S), ask)

    async def _asked(self, link: Link, ask: Callable[[Link], Awaitable[Result]]) -> Result:
        is_fine = False
        try:
            found = await ask(link)
            is_fine = True
        except Exception as exc:
            # The server has said what was wrong with the query, so that the connection is as it was.
            is_fine = bool(translated(exc).sqlstate) and not link.is_closed()
            raise
        finally:
            if is_fine and not self._is_closed:
                self._free.append(link)
            else:
                # After a timeout too: the server ends the query when it finds nobody to answer.
                link.terminate()
        return found

    async def _connect(self, statement_timeout_s: float) -> Link:
        try:
            return await connect(
                self._url,
                name="gateway reader",
                statement_timeout_s=statement_timeout_s,
                answer_timeout_s=statement_timeout_s + 1,
                settings=_READ_ONLY,
            )
        except Exception as exc:
            raise translated(exc) from None

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        if self._is_closed:
            raise StoreError("The database is closed.")
        try:
            yield
        except TimeoutError as exc:
            raise _too_long() from exc
        except StoreError:
            raise
        except Exception as exc:
            fault = translated(exc)
            if fault.sqlstate == _QUERY_CANCELED:
                raise _too_long() from fault
            raise StoreError("The database cannot be read at the moment.") from fault


def _too_long() -> StoreError:
    return StoreError("The query took too long: ask for a shorter range of time.", code="query_timeout")
