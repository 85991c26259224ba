"""Holds and entries as the pipeline makes them, and looks into the file behind the gateway's back."""

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.catalog import Price
from gateway.ledger.database import Database
from gateway.ledger.records import Attribution, Entry, Hold, Route
from gateway.pricing import cost_nano_usd
from gateway.usage import Usage

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


def rows(path: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """What a connection of somebody else reads."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, values).fetchall()


def count(path: Path, table: str) -> int:
    return int(rows(path, f"SELECT count(*) FROM {table}")[0][0])


def change(path: Path, sql: str, *values: Any) -> None:
    """What a connection of somebody else writes."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(sql, values)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else holds SQLite's write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
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
    await database.run(lambda transactions: transactions.connection.raw.execute("PRAGMA busy_timeout = 1").close())
