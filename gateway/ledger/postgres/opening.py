"""A ledger in PostgreSQL, opened, and verified."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import structlog

from gateway.errors import ConfigError, StoreError
from gateway.ledger.database import Database
from gateway.ledger.postgres.connection import PostgresConnection
from gateway.ledger.postgres.faults import PostgresFault, translated
from gateway.ledger.postgres.link import POSTGRES, Link, connect, end, storable
from gateway.ledger.postgres.migration import migrate, require_current
from gateway.ledger.postgres.partitions import make_partitions, months_from
from gateway.ledger.postgres.readers import PostgresReaders
from gateway.ledger.statements import compile_statement
from gateway.ledger.transactions import Transactions
from gateway.ledger.verify import Report, verify_rows
from gateway.ledger.writer import Writer
from gateway.tasks import spawn

if TYPE_CHECKING:
    from gateway.config import Settings

__all__ = ["open_postgres", "open_postgres_read_only", "verify_postgres"]

_log = structlog.get_logger()

_SETTLE_TIMEOUT_S = 5.0
_CALLS_MAX = 10_000
_PARTITIONS_EVERY_S = 86_400.0
_PARTITIONS_AGAIN_S = 60.0
_STATEMENT_TIMEOUT_S = 60.0
_VERIFY_TIMEOUT_S = 3_600.0
_CHUNK_ROWS = 2_000

Result = TypeVar("Result")


async def open_postgres(url: str, *, settings: "Settings | None" = None, instance_id: str | None = None) -> Database:
    """Brings the tables up to date where needed, makes the partitions of the next months, and starts the writer.

    Raises `ConfigError` when the server cannot be reached or is none to write to, when the database was made by a newer
    gateway, and when another gateway uses it.
    """
    instance_id = instance_id or uuid4().hex
    await _asked(_prepare(url))
    writer = Writer(
        lambda: Transactions(PostgresConnection(url, instance_id), instance_id),
        dialect=POSTGRES,
        settle_timeout_s=_SETTLE_TIMEOUT_S if settings is None else settings.settle_timeout_s,
        calls_max=_CALLS_MAX if settings is None else settings.calls_max,
    )
    await _asked(writer.start())
    upkeep = spawn(_keep_partitions(url), "keep-partitions")
    return Database(PostgresReaders(url), writer, instance_id, upkeep)


async def open_postgres_read_only(url: str) -> Database:
    """For reading beside a running gateway, or without one. Changes nothing, and migrates nothing. Raises `ConfigError`."""

    async def look() -> None:
        async with _link(url) as link:
            await require_current(link)

    await _asked(look())
    return Database(PostgresReaders(url), None)


def verify_postgres(url: str) -> Report:
    """The ledger computed again, everything from one instant; on a thread of its own, so that it may be called anywhere.

    Raises `ConfigError` when there is no such ledger, `StoreError` when it cannot be read.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_verify, url).result()


def _verify(url: str) -> Report:
    loop = asyncio.new_event_loop()
    run = loop.run_until_complete
    try:
        link = run(_asked(connect(url, name="gateway verify", statement_timeout_s=_VERIFY_TIMEOUT_S)))
        try:
            run(require_current(link))
            run(link.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"))

            def rows(query: Any) -> Iterator[tuple[Any, ...]]:
                statement = compile_statement(query, POSTGRES)
                cursor = run(_cursor(link, statement.sql, storable(statement.parameters)))
                while records := run(cursor.fetch(_CHUNK_ROWS)):
                    yield from (tuple(record) for record in records)

            return verify_rows(rows)
        except ConfigError:
            raise
        except Exception as exc:
            raise StoreError("The database cannot be read at the moment.") from translated(exc)
        finally:
            run(end(link))
    finally:
        loop.close()


async def _cursor(link: Link, sql: str, values: Any) -> Any:
    return await link.cursor(sql, *values)


async def _prepare(url: str) -> None:
    if await migrate(url):
        _log.info("database_upgraded")
    await _make_partitions(url)


async def _make_partitions(url: str) -> None:
    async with _link(url) as link:
        for name in await make_partitions(link, months_from(datetime.now(UTC))):
            _log.info("partition_made", partition=name)


async def _keep_partitions(url: str) -> None:
    """Once a day. What fails is tried again within the minute: there are months left for it."""
    wait_s = _PARTITIONS_EVERY_S
    while True:
        await asyncio.sleep(wait_s)
        try:
            await _make_partitions(url)
            wait_s = _PARTITIONS_EVERY_S
        except Exception as exc:
            _log.warning("partitions_not_made", error=str(translated(exc)))
            wait_s = _PARTITIONS_AGAIN_S


@asynccontextmanager
async def _link(url: str) -> AsyncIterator[Link]:
    link = await connect(url, name="gateway upkeep", statement_timeout_s=_STATEMENT_TIMEOUT_S)
    try:
        yield link
    finally:
        await end(link)


async def _asked(work: Awaitable[Result]) -> Result:
    try:
        return await work
    except (ConfigError, StoreError):
        raise
    except Exception as exc:
        fault: PostgresFault = translated(exc)
        raise ConfigError(
            f"the database of GATEWAY_DATABASE_URL cannot be used ({fault}): start the server, or name another one"
        ) from None
