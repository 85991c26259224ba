"""A month in PostgreSQL is closed by several at once, and its table emptied while others read it, correct its calls, or
empty it too."""

import asyncio

import pytest

from gateway.ledger.closing import close_month
from gateway.ledger.database import Database
from gateway.ledger.postgres.connection import PostgresConnection
from gateway.ledger.postgres.link import POSTGRES, connect
from gateway.ledger.postgres.readers import PostgresReaders
from gateway.ledger.retention import DueMonth, drop_old_months
from gateway.ledger.transactions import Transactions
from gateway.ledger.writer import Writer
from gateway.tasks import spawn
from tests.ledger.books import entry, rows, verify
from tests.ledger.old_months import JULY, KEPT, NOTHING_TAKEN, book_months, calls_left
from tests.rig.waiting import soon

STORES = ("postgres",)
WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"


def shared_writer(path: str, name: str) -> Writer:
    """One beside others."""
    return Writer(
        lambda: Transactions(PostgresConnection(path, name, is_shared=True), name),
        dialect=POSTGRES,
        settle_timeout_s=10,
        calls_max=100,
    )


@pytest.fixture
async def booked(database: Database, path: str) -> Database:
    await book_months(database, path)
    return database


async def test_a_month_is_dropped_when_whoever_reads_it_has_ended(booked: Database, path: str) -> None:
    reader = await connect(path, name="test", statement_timeout_s=10)
    reading = reader.transaction(isolation="repeatable_read")
    await reading.start()
    assert await reader.fetchval("SELECT count(*) FROM entries") == 40
    dropping = spawn(drop_old_months(booked, 3, JULY), "drop")
    await soon(lambda: rows(path, WAITS) == [(1,)], "the table is waited for")
    await booked.ledger.post([entry("meanwhile", at=JULY)])  # who posts does not wait
    assert await reader.fetchval("SELECT count(*) FROM entries") == 40
    await reading.rollback()
    await reader.close()
    assert await dropping == [DueMonth("2026-03", 5)]
    assert verify(path).differences == []


async def test_a_call_that_is_corrected_while_its_month_is_dropped_stays(booked: Database, path: str) -> None:
    ((corrected,),) = rows(path, "SELECT id FROM entries WHERE request_id = '2026-03 1'")
    other = await connect(path, name="test", statement_timeout_s=10)
    correcting = other.transaction()
    await correcting.start()
    await other.fetch("SELECT * FROM entries WHERE id = $1", corrected)
    dropping = spawn(drop_old_months(booked, 3, JULY), "drop")
    await soon(lambda: rows(path, WAITS) == [(1,)], "the table is waited for")
    back = entry("r", at=JULY, changes={**NOTHING_TAKEN, "kind": "refund", "charge_nano_usd": -5, "payer_amount": -5})
    await booked.ledger.post([back], corrects=corrected)
    await correcting.rollback()
    await other.close()
    assert await dropping == [DueMonth("2026-03", 4)]
    assert ("2026-03", "1") in calls_left(path)
    assert verify(path).differences == []


async def test_two_who_drop_at_once_drop_once(booked: Database, path: str) -> None:
    both = await asyncio.gather(*(drop_old_months(booked, 2, JULY) for _ in range(2)))
    assert sum(due.entries for each in both for due in each) >= 11
    assert len([None for _, name in calls_left(path) if name not in KEPT]) == 13
    assert verify(path).differences == []


async def test_two_who_close_a_month_at_once_close_it_once(booked: Database, path: str) -> None:
    await booked.close()
    databases = [Database(PostgresReaders(path), shared_writer(path, name)) for name in ("one", "other")]
    for database in databases:
        await database.ledger.start()
    closed = await asyncio.gather(*(close_month(each, "2026-06") for each in databases * 3))
    for database in databases:
        await database.close()
    assert sorted(closed) == [(2, False)] * 5 + [(2, True)]
    assert verify(path).differences == []
