"""A ledger in PostgreSQL, opened, and verified."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import structlog

from gateway.errors import ConfigError, StoreError
from gateway.ledger.copying.tables import require_whole
from gateway.ledger.database import Database
from gateway.ledger.postgres.connection import PostgresConnection
from gateway.ledger.postgres.dropping import drop_posted
from gateway.ledger.postgres.faults import PostgresFault, translated
from gateway.ledger.postgres.link import POSTGRES, Link, connect, end, storable
from gateway.ledger.postgres.migration import migrate, require_current, stored_version
from gateway.ledger.postgres.partitions import make_partitions, months_from
from gateway.ledger.postgres.readers import PostgresReaders
from gateway.ledger.spool import Spool
from gateway.ledger.statements import compile_statement
from gateway.ledger.transactions import Transactions
from gateway.ledger.verify import Progress, Report, verify_rows
from gateway.ledger.writer import Writer
from gateway.tasks import spawn

if TYPE_CHECKING:
    from gateway.config import Settings

__all__ = ["SPOOL_FOLDER", "open_postgres", "open_postgres_read_only", "upgrade_postgres", "verify_postgres"]

_log = structlog.get_logger()

SPOOL_FOLDER = "spool"
_SETTLE_TIMEOUT_S = 5.0
_CALLS_MAX = 10_000
_PARTITIONS_EVERY_S = 86_400.0
_PARTITIONS_AGAIN_S = 60.0
_OTHERS_MAKE_THEM_WITHIN_S = 30.0
_LOOK_AGAIN_S = 0.2
_IN_THE_WAY = frozenset({"55P03", "40P01"})
"""Lock not available, deadlock."""
_STATEMENT_TIMEOUT_S = 60.0
_VERIFY_TIMEOUT_S = 3_600.0
_CHUNK_ROWS = 2_000

Result = TypeVar("Result")


async def open_postgres(
    url: str, *, settings: "Settings | None" = None, instance_id: str | None = None, has_spool: bool = True
) -> Database:
    """Brings the tables up to date where needed, makes the partitions of the next months, and starts the writer.

    Others may write beside it if `settings` say that counters are shared too. Settles wait in the data folder while the
    server is away, if there are settings that name one, and `has_spool` is not false.

    Raises `ConfigError` when the server cannot be reached or is none to write to, when the database was made by a newer
    gateway, when another gateway uses it that this one cannot write beside, and when the data folder cannot be used.
    """
    instance_id = instance_id or uuid4().hex
    await _asked(_prepare(url))
    is_shared = settings is not None and settings.has_shared_stores
    writer = Writer(
        lambda: Transactions(PostgresConnection(url, instance_id, is_shared=is_shared), instance_id),
        dialect=POSTGRES,
        settle_timeout_s=_SETTLE_TIMEOUT_S if settings is None else settings.settle_timeout_s,
        calls_max=_CALLS_MAX if settings is None else settings.calls_max,
        spool=None if settings is None or not has_spool else Spool(settings.data_dir / SPOOL_FOLDER),
    )
    await _asked(writer.start())
    upkeep = spawn(_keep_partitions(url), "keep-partitions")
    return Database(PostgresReaders(url), writer, instance_id, upkeep, partial(drop_posted, url))


async def open_postgres_read_only(url: str) -> Database:
    """For reading beside a running gateway, or without one. Changes nothing, and migrates nothing. Raises `ConfigError`."""

    async def look() -> None:
        async with _link(url) as link:
            await require_current(link)

    await _asked(look())
    return Database(PostgresReaders(url), None)


async def upgrade_postgres(url: str) -> tuple[str | None, bool]:
    """The version that the tables had (None: there were none), and whether that is another one now. Raises `ConfigError`."""

    async def upgrade() -> tuple[str | None, bool]:
        async with _link(url) as link:
            before = await stored_version(link)
        return before, await migrate(url)

    return await _asked(upgrade())


def verify_postgres(url: str, *, on_progress: Progress | None = None) -> Report:
    """The ledger computed again, everything from one instant; on a thread of its own, so that it may be called anywhere.

    Raises `ConfigError` when there is no such ledger, `StoreError` when it cannot be read.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_verify, url, on_progress).result()


def _verify(url: str, on_progress: Progress | None) -> Report:
    loop = asyncio.new_event_loop()
    run = loop.run_until_complete
    try:
        link = run(_asked(connect(url, name="gateway verify", statement_timeout_s=_VERIFY_TIMEOUT_S)))
        try:
            run(require_current(link))
            # Locked before the instant is fixed: to drop a month's entries waits for it, and is not seen halfway.
            run(
                link.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE entries IN ACCESS SHARE MODE")
            )

            def rows(query: Any) -> Iterator[tuple[Any, ...]]:
                statement = compile_statement(query, POSTGRES)
                cursor = run(_cursor(link, statement.sql, storable(statement.parameters)))
                while records := run(cursor.fetch(_CHUNK_ROWS)):
                    yield from (tuple(record) for record in records)

            return verify_rows(rows, on_progress=on_progress)
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
    async with _link(url) as link:
        await require_whole(link)
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
