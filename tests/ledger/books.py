"""Holds and entries as the pipeline makes them, and looks into the file behind the gateway's back."""

import asyncio
import itertools
import re
import resource
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.catalog import Price
from gateway.ledger.database import Database
from gateway.ledger.postgres.link import connect
from gateway.ledger.postgres.opening import open_postgres, verify_postgres
from gateway.ledger.records import Attribution, Entry, Hold, Route
from gateway.ledger.sqlite.connection import SqliteConnection
from gateway.ledger.statements import Statement
from gateway.ledger.transactions import Transactions
from gateway.ledger.verify import Report
from gateway.ledger.verify import verify as verify_file
from gateway.pricing import cost_nano_usd
from gateway.usage import Usage
from tests.servers.postgres_wire import Session

NOON = datetime(2026, 5, 14, 12, 0, tzinfo=UTC)
MODEL = "gpt-test"
PRICE = Price(version="1.abc", input=1_250_000, cached_input=125_000, output=10_000_000)
ROUTE = Route(MODEL, "openai", PRICE.version)
USAGE = Usage(uncached_input=100, cached_input=20, text_output=30, reasoning=7)
COST = cost_nano_usd(USAGE, PRICE)
ORPHAN_USAGE = Usage(uncached_input=120, text_output=1_000)
ORPHAN_COST = cost_nano_usd(ORPHAN_USAGE, PRICE)


def attribution(request_id: str, *, creator: str = "acme", at: datetime = NOON, **fields: Any) -> Attribution:
    known = {
        "account_id": creator,
        "key_id": "k" * 12,
        "feature": "chat-ui",
        "agent": "",
        "tags": "",
        "metadata": "",
        "endpoint": "chat",
        "requested_model": MODEL,
        "client_request_id": "",
    }
    return Attribution(request_id=request_id, creator=creator, admitted_at=at, **{**known, **fields})


def hold(request_id: str, **fields: Any) -> Hold:
    return Hold(attribution(request_id, **fields), ROUTE, 2 * ORPHAN_COST, ORPHAN_USAGE, ORPHAN_COST, ORPHAN_COST)


def entry(request_id: str, *, changes: dict[str, Any] | None = None, **fields: Any) -> Entry:
    """A call that cost `COST`; `changes` replaces fields of the entry, the rest goes into its attribution."""
    made = Entry(
        attribution=attribution(request_id, **fields),
        route=ROUTE,
        attempt=1,
        final=True,
        kind="usage",
        usage=USAGE,
        usage_source="provider",
        cost_nano_usd=COST,
        charge_nano_usd=COST,
        payer_amount=COST,
        outcome="ok",
        flags="",
        error="",
        status=200,
        cached=False,
        is_streaming=False,
        latency_ms=850,
        ttft_ms=None,
        upstream_request_id="",
        free_attempts="",
        downgrade_reason="",
    )
    return made._replace(**(changes or {}))


async def call(database: Database, request_id: str, **fields: Any) -> None:
    """One call from hold to settle."""
    await database.ledger.hold(hold(request_id, **fields))
    await database.ledger.settle(request_id, [entry(request_id, **fields)])


Place = Path | str
"""Where a database is: a file, or the URL of one in PostgreSQL."""
BOTH = ("sqlite", "postgres")


async def opened(place: Place, **options: Any) -> Database:
    """Without a spool: what the writer promises by itself is the same for both."""
    if isinstance(place, Path):
        return await Database.open(place, **options)
    return await open_postgres(place, has_spool=False, **options)


def verify(place: Place) -> Report:
    return verify_file(place) if isinstance(place, Path) else verify_postgres(place)


def rows(place: Place, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """What a connection of somebody else reads."""
    if not isinstance(place, Path):
        return _asked(place, sql, values)
    with closing(sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, values).fetchall()


def count(place: Place, table: str) -> int:
    return int(rows(place, f"SELECT count(*) FROM {table}")[0][0])


def change(place: Place, sql: str, *values: Any) -> None:
    """What a connection of somebody else writes."""
    if not isinstance(place, Path):
        _asked(place, sql, values)
        return
    with closing(sqlite3.connect(place, isolation_level=None)) as connection:
        connection.execute(sql, values)


def unprotect(place: Place) -> None:
    """Entries can be updated, past what keeps them."""
    is_file = isinstance(place, Path)
    change(place, "DROP TRIGGER entries_no_update" if is_file else "ALTER TABLE entries DISABLE TRIGGER USER")


def refuse_entries(place: Place, condition: str) -> None:
    """No entry of which `condition` is true can be inserted."""
    if isinstance(place, Path):
        refusal = "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        change(place, f"CREATE TRIGGER refuse BEFORE INSERT ON entries WHEN {condition} {refusal}")
        return
    refusal = "BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'check_violation'; END"
    change(place, f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {refusal} $$")
    change(
        place,
        f"CREATE TRIGGER refuse BEFORE INSERT ON entries FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse()",
    )


def _asked(url: str, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """On a thread of its own: tests that run an event loop ask as well."""
    numbers = itertools.count(1)
    numbered = re.sub(r"\?", lambda _: f"${next(numbers)}", sql)

    async def ask() -> list[tuple[Any, ...]]:
        link = await connect(url, name="test", statement_timeout_s=10)
        try:
            return [tuple(record) for record in await link.fetch(numbered, *values)]
        finally:
            await link.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, ask()).result()


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """Somebody else holds SQLite's write lock, or locks on the tables: nobody can write, everybody can read."""
    if not isinstance(place, Path):
        parts = urlsplit(place)
        assert parts.port is not None
        with Session(parts.port, user=str(parts.username), database=parts.path[1:], within_s=10) as session:
            session.query("BEGIN")
            session.query("LOCK TABLE holds, entries, usage_daily, refusals_daily, meta IN EXCLUSIVE MODE")
            yield
        return
    with closing(sqlite3.connect(place, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def unwritable() -> Iterator[None]:
    """No file of this process can grow past a kilobyte: every write of the database fails inside the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def be_hasty(database: Database) -> None:
    """The writer gives up on a lock at once instead of after two seconds."""

    def task(transactions: Transactions) -> None:
        connection = transactions.connection
        if isinstance(connection, SqliteConnection):
            connection.raw.execute("PRAGMA busy_timeout = 1").close()
        else:
            transactions.rows(Statement("SET lock_timeout = '1ms'", ()))

    await database.run(task)
