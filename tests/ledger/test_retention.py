"""Entries of old closed months go; sums, charges, balances and what anybody may still correct stay, and `verify` agrees."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StoreError
from gateway.ledger.closing import close_month
from gateway.ledger.counted import credits_used
from gateway.ledger.database import Database
from gateway.ledger.postgres.opening import open_postgres_read_only
from gateway.ledger.queries import GROUPS, CostFilter, charges_of_month, costs
from gateway.ledger.retention import DueMonth, drop_old_months, months_to_drop
from gateway.ledger.schema import USAGE_DAILY_KEY
from tests.ledger.books import BOTH, COST, Place, change, count, entry, opened, rows, verify
from tests.ledger.old_months import EVERY_CALL, JULY, KEPT, MONTHS, book_months, calls_left, post_at
from tests.rig.waiting import eventually

STORES = BOTH


@pytest.fixture
async def booked(database: Database, path: Place) -> Database:
    await book_months(database, path)
    return database


async def sums(database: Database) -> list[Any]:
    return [
        await costs(database, CostFilter(), [name for name in USAGE_DAILY_KEY if name in GROUPS]),
        *[await charges_of_month(database, month) for month in MONTHS],
        await credits_used(database),
    ]


async def test_calls_of_old_closed_months_go_and_nothing_that_is_summed_changes(booked: Database, path: Place) -> None:
    before = await sums(booked)
    others = rows(path, "SELECT * FROM entries WHERE kind <> 'usage' ORDER BY id")
    dropped = await drop_old_months(booked, 2, JULY)
    # What was posted in a month goes with it, though it may belong to the month before.
    assert dropped == [DueMonth("2026-03", 5), DueMonth("2026-04", 6)]
    assert calls_left(path) == [
        *(("2026-03", name) for name in KEPT),
        *(("2026-04", name) for name in [*KEPT, "late"]),
        *((month, name) for month in MONTHS[2:] for name in EVERY_CALL),
    ]
    assert rows(path, "SELECT * FROM entries WHERE kind <> 'usage' ORDER BY id") == others
    assert await sums(booked) == before
    assert verify(path).differences == []
    assert rows(path, "SELECT entries, calls, cost_nano_usd FROM dropped_sums WHERE month = '2026-03' AND payer = 'quota'"
                      " ORDER BY creator") == [(4, 4, 4 * COST), (1, 1, COST)]  # fmt: skip
    assert await drop_old_months(booked, 2, JULY) == []
    assert await drop_old_months(booked, 1, JULY) == [DueMonth("2026-05", 6)]
    assert verify(path).differences == []
    assert await sums(booked) == before


async def test_a_dry_run_says_what_would_go_and_why_not(booked: Database, path: Place) -> None:
    async def told(months: int, now: datetime = JULY) -> list[DueMonth]:
        return [due async for due in months_to_drop(booked, months, now)]

    assert await told(0) == await told(6) == await told(3, JULY.replace(month=6)) == []
    assert await told(3) == [DueMonth("2026-03", 5)]
    august = JULY.replace(month=8)
    expected = [DueMonth("2026-03", 5), DueMonth("2026-04", 6), DueMonth("2026-05", 6)]
    obstacle = "2026-06 is not closed: run `gateway ledger close 2026-06`"
    assert await told(1, august) == [*expected, DueMonth("2026-06", 6, obstacle)]
    assert len(calls_left(path)) == len(MONTHS) * len(EVERY_CALL)
    assert await drop_old_months(booked, 1, august) == [*expected, DueMonth("2026-06", 6, obstacle)]
    assert {month for month, name in calls_left(path) if name not in KEPT} == {"2026-05", "2026-06"}
    assert ("2026-05", "late") in calls_left(path)  # it was posted in June
    assert await drop_old_months(booked, 0, august) == []


TAMPERED = [
    ("UPDATE usage_daily SET cost_nano_usd = cost_nano_usd + 1 WHERE creator = 'zeta' AND period_day < '2026-04'", "sum"),
    ("UPDATE usage_daily SET feature = 'x' WHERE creator = 'zeta' AND period_day < '2026-04'", "checksum"),
    ("UPDATE usage_daily SET text_output = 1 WHERE creator = 'zeta' AND period_day < '2026-04'", "checksum"),
    ("DELETE FROM usage_daily WHERE creator = 'zeta' AND period_day < '2026-04'", "sum"),
    ("UPDATE usage_daily SET payer_amount = -11 WHERE kind = 'grant' AND period_day < '2026-04'", "checksum"),
    ("UPDATE dropped_sums SET charge_nano_usd = 1 WHERE creator = 'zeta' AND month = '2026-03'", "sum"),
    ("UPDATE dropped_sums SET month = '2026-06' WHERE creator = 'zeta' AND month = '2026-03'", "sum"),
    ("UPDATE dropped_months SET rollups_sha256 = 'x' WHERE month = '2026-03'", "checksum"),
    ("DELETE FROM dropped_months WHERE month = '2026-03'", "calls"),
    ("UPDATE month_charges SET charge_nano_usd = charge_nano_usd - 1 WHERE month = '2026-03'", "charge"),
    ("DELETE FROM month_charges WHERE month = '2026-03' AND creator = 'zeta'", "charge"),
    ("DELETE FROM meta WHERE key = 'month_closed:2026-03'", "month"),
]  # fmt: skip
FOUND_IN = {
    "sum": ("dropped_sums", None),
    "checksum": ("dropped_months", "rollups_sha256"),
    "calls": ("usage_daily", "calls"),
    "charge": ("month_charges", "charge_nano_usd"),
    "month": ("dropped_months", "month"),
}


async def test_whatever_is_altered_of_a_dropped_month_is_found(booked: Database, path: Place) -> None:
    await drop_old_months(booked, 2, JULY)
    tables = ("usage_daily", "dropped_sums", "dropped_months", "month_charges", "meta")
    for table in tables:
        change(path, f"CREATE TABLE {table}_before AS SELECT * FROM {table}")
    for sql, kind in TAMPERED:
        change(path, sql)
        table, column = FOUND_IN[kind]
        found = {(each.table, each.column) for each in verify(path).differences}
        assert any(name == table and column in (None, where) for name, where in found), (sql, found)
        for each in tables:
            change(path, f"DELETE FROM {each}")
            change(path, f"INSERT INTO {each} SELECT * FROM {each}_before")
        assert verify(path).differences == [], sql


async def test_a_month_that_does_not_agree_with_its_rollups_keeps_its_entries(booked: Database, path: Place) -> None:
    change(path, "UPDATE usage_daily SET cost_nano_usd = cost_nano_usd + 1 WHERE feature = 'f1' AND creator = 'acme'")
    (refused,) = await drop_old_months(booked, 2, JULY)
    assert refused == DueMonth("2026-03", 5, "2026-03 differs from its entries: run `gateway ledger verify`")
    assert len(calls_left(path)) == len(MONTHS) * len(EVERY_CALL)
    assert count(path, "dropped_months") == count(path, "dropped_sums") == 0


async def test_entries_are_protected_as_before(booked: Database, path: Place) -> None:
    await drop_old_months(booked, 2, JULY)
    left = calls_left(path)
    attempts = [
        "DELETE FROM entries WHERE period_month = '2026-03'",
        "DELETE FROM entries WHERE period_month = '2026-05'",
    ]
    if not isinstance(path, Path):
        attempts += ["TRUNCATE entries_2026_03", "TRUNCATE entries"]
    for sql in attempts:
        with pytest.raises(Exception, match="never changed"):
            change(path, sql)
    assert calls_left(path) == left
    assert rows(path, "SELECT count(*) FROM meta WHERE key = 'dropping'") == [(0,)]


@pytest.mark.sqlite_only
async def test_what_is_kept_cannot_be_deleted_even_while_others_can(booked: Database, path: Place) -> None:
    await drop_old_months(booked, 2, JULY)
    change(path, "INSERT INTO meta VALUES ('dropping', '1')")
    for kept in (
        "kind = 'grant' AND period_month = '2026-03'",
        "payer = 'credits' AND kind = 'usage' AND period_month = '2026-03'",
        "request_id = '2026-03 back'",
        "request_id = '2026-05 zeta'",  # closed, but not vouched for
        "request_id = '2026-06 zeta'",
    ):
        assert rows(path, f"SELECT count(*) FROM entries WHERE {kept}") == [(1,)]
        with pytest.raises(Exception, match="never changed"):
            change(path, f"DELETE FROM entries WHERE {kept}")


DROPPING = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from gateway.ledger.database import Database
from gateway.ledger.retention import drop_old_months

async def main():
    database = await Database.open(Path(sys.argv[1]))
    await drop_old_months(database, 2, datetime(2026, 7, 10, tzinfo=UTC))

asyncio.run(main())
"""


@pytest.mark.sqlite_only
async def test_a_process_killed_in_the_middle_leaves_what_agrees_and_the_next_goes_on(
    booked: Database, path: Path
) -> None:
    at = datetime(2026, 4, 20, tzinfo=UTC)
    change(path, "DELETE FROM meta WHERE key = 'month_closed:2026-04'")
    change(path, "DELETE FROM month_charges WHERE month = '2026-04'")
    for first in range(0, 6_000, 500):
        await post_at(booked, at, [entry(f"many {first + n}", at=at) for n in range(500)])
    await close_month(booked, "2026-04")
    before = await sums(booked)
    await booked.close()
    there = count(path, "entries")
    killed = subprocess.Popen([sys.executable, "-c", DROPPING, str(path)])
    try:
        eventually(lambda: count(path, "entries") < there - 500, "the first slices")
    finally:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    assert count(path, "entries") - (there - 6_011) > 0
    assert verify(path).differences == []
    database = await opened(path)
    try:
        (finished,) = await drop_old_months(database, 2, JULY)
        assert finished.month == "2026-04"
        assert count(path, "entries") == there - 6_011
        assert verify(path).differences == []
        assert await sums(database) == before
    finally:
        await database.close()


async def test_nothing_is_dropped_through_a_database_opened_for_reading(booked: Database, path: Place) -> None:
    if isinstance(path, Path):
        reader = await Database.open_read_only(path)
    else:
        reader = await open_postgres_read_only(path)
    with pytest.raises(StoreError, match="reading only"):
        await drop_old_months(reader, 2, JULY)
    await reader.close()
