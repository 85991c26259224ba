"""`verify` finds what was changed, and nothing where nothing was; closing a month is for good."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ConfigError, RequestError
from gateway.ledger.closing import close_month
from gateway.ledger.database import Database
from gateway.ledger.orphans import book_orphans
from gateway.ledger.records import Route
from gateway.ledger.verify import Difference, verify
from gateway.tasks import spawn
from gateway.usage import NO_USAGE
from tests.ledger.books import COST, NOON, ORPHAN_COST, call, change, entry, hold, rows

MAY = "2026-05"


@pytest.fixture
async def booked(database: Database, path: Path) -> Path:
    """Calls that ended in many ways, in a closed month and after it."""
    await call(database, "r1")
    await call(database, "r2", creator="zeta", feature="search")
    await call(database, "r3", at=NOON + timedelta(days=31))
    await database.ledger.hold(hold("crashed"))
    await book_orphans(database)
    refused = {"usage": NO_USAGE, "usage_source": "none", "cost_nano_usd": 0, "charge_nano_usd": 0, "payer_amount": 0}
    await database.ledger.post([entry("refused", changes={**refused, "outcome": "upstream_refused"})])
    await database.ledger.post([entry("refund", changes={**refused, "kind": "refund", "charge_nano_usd": -5})])
    await database.ledger.post([entry("hit", changes={"cached": True, "cost_nano_usd": 0, "charge_nano_usd": 0})])
    await close_month(database, MAY)
    return path


def test_an_untouched_ledger_has_no_difference(booked: Path) -> None:
    report = verify(booked)
    assert report.differences == []
    assert report.differences_count == 0
    assert (report.entries, report.closed_months) == (7, 1)


PLANTED: list[tuple[str, str, str]] = [
    ("UPDATE usage_daily SET cost_nano_usd = cost_nano_usd + 1 WHERE creator = 'zeta'", "usage_daily", "cost_nano_usd"),
    ("UPDATE usage_daily SET calls = 0 WHERE creator = 'zeta'", "usage_daily", "calls"),
    ("UPDATE usage_daily SET text_output = 31 WHERE creator = 'zeta'", "usage_daily", "text_output"),
    ("UPDATE usage_daily SET feature = 'x' WHERE creator = 'zeta'", "usage_daily", "calls"),
    ("DELETE FROM usage_daily WHERE creator = 'zeta'", "usage_daily", "calls"),
    ("UPDATE month_charges SET charge_nano_usd = charge_nano_usd - 1", "month_charges", "charge_nano_usd"),
    ("UPDATE month_charges SET units = '{}' WHERE creator = 'zeta'", "month_charges", "units"),
    ("DELETE FROM month_charges WHERE creator = 'zeta'", "month_charges", "charge_nano_usd"),
    (
        "INSERT INTO month_charges SELECT 'ghost', month, 1, 1, 1, '{}', 1 FROM month_charges LIMIT 1",
        "month_charges",
        "calls",
    ),
    ("UPDATE price_rows SET row = replace(row, '1250000', '1250001')", "entries", "cost_nano_usd"),
    ("UPDATE price_rows SET row = 'nonsense'", "price_rows", "row"),
    ("DELETE FROM price_rows", "entries", "cost_nano_usd"),
]


@pytest.mark.parametrize(("sql", "table", "column"), PLANTED, ids=[sql for sql, _, _ in PLANTED])
def test_a_planted_difference_is_found(booked: Path, sql: str, table: str, column: str) -> None:
    change(booked, sql)
    report = verify(booked)
    assert report.differences_count == len(report.differences) > 0
    assert (table, column) in {(found.table, found.column) for found in report.differences}


@pytest.mark.parametrize("column", ["cost_nano_usd", "uncached_input", "period_day"])
def test_an_entry_changed_past_the_triggers_is_found(booked: Path, column: str) -> None:
    change(booked, "DROP TRIGGER entries_no_update")
    value = "'2026-05-15'" if column == "period_day" else f"{column} + 1000"
    change(booked, f"UPDATE entries SET {column} = {value} WHERE request_id = 'r1'")
    assert verify(booked).differences_count > 0


def test_a_difference_names_the_row_and_both_values(booked: Path) -> None:
    change(booked, "UPDATE usage_daily SET cost_nano_usd = 7 WHERE creator = 'zeta'")
    (found,) = verify(booked).differences
    assert found == Difference("usage_daily", found.key, "cost_nano_usd", 7, COST)
    assert "zeta" in found.key
    assert "search" in found.key


async def test_verify_reads_one_instant_while_calls_go_on(database: Database, path: Path) -> None:
    async def calls() -> None:
        for n in range(150):
            await call(database, f"r{n}")

    going = spawn(calls(), "calls")
    reports = []
    while not going.done():
        reports.append(await asyncio.to_thread(verify, path))
    await going
    assert [report.differences for report in reports] == [[]] * len(reports)
    assert len({report.entries for report in reports}) > 1


def test_verify_needs_a_database(path: Path) -> None:
    with pytest.raises(ConfigError, match="no database"):
        verify(path)


# Closing


def charges(path: Path) -> list[tuple[Any, ...]]:
    return rows(
        path, "SELECT creator, month, charge_nano_usd, cost_nano_usd, calls, units FROM month_charges ORDER BY creator"
    )


async def test_a_closed_month_holds_one_row_a_creator(database: Database, path: Path) -> None:
    await call(database, "r1")
    await call(database, "r2")
    await call(database, "r3", creator="zeta")
    await call(database, "june", at=NOON + timedelta(days=31))
    await database.ledger.hold(hold("image"))
    in_credits = {"route": Route("m", "p", "1", "credits", "credit"), "charge_nano_usd": 0, "payer_amount": 3}
    await database.ledger.settle("image", [entry("image", changes=in_credits)])
    assert await close_month(database, MAY) == (2, True)
    assert charges(path) == [
        ("acme", MAY, 2 * COST, 3 * COST, 3, f'{{"credits":3,"quota":{2 * COST}}}'),
        ("zeta", MAY, COST, COST, 1, f'{{"quota":{COST}}}'),
    ]


async def test_closing_again_changes_nothing(database: Database, path: Path) -> None:
    await call(database, "r1")
    await close_month(database, MAY)
    before = rows(path, "SELECT * FROM month_charges")
    assert await close_month(database, MAY) == (1, False)
    assert rows(path, "SELECT * FROM month_charges") == before


async def test_a_month_without_usage_can_be_closed_too(database: Database) -> None:
    assert await close_month(database, "2020-01") == (0, True)
    assert await close_month(database, "2020-01") == (0, False)


async def test_a_month_with_an_open_call_is_not_closed(database: Database, path: Path) -> None:
    await database.ledger.hold(hold("open", at=datetime(2026, 5, 31, 23, 59, 59, 999_000, UTC)))
    with pytest.raises(RequestError, match="still open") as refused:
        await close_month(database, MAY)
    assert refused.value.status == 409
    assert charges(path) == []
    await close_month(database, "2026-04")
    await database.ledger.settle("open", [entry("open")])
    assert await close_month(database, MAY) == (1, True)


async def test_a_call_of_the_next_month_does_not_keep_a_month_open(database: Database) -> None:
    await database.ledger.hold(hold("june", at=datetime(2026, 6, 1, tzinfo=UTC)))
    assert await close_month(database, MAY) == (0, True)


async def test_a_month_that_is_not_over_is_not_closed(database: Database) -> None:
    with pytest.raises(RequestError, match="not over"):
        await close_month(database, datetime.now(UTC).strftime("%Y-%m"))
    with pytest.raises(RequestError, match="takes a month"):
        await close_month(database, "9999-12")


# What a start reads


async def test_a_start_reads_the_months_charges_and_the_last_hours_calls(database: Database) -> None:
    now = datetime.now(UTC)
    await call(database, "r1", at=now)
    await call(database, "r2", at=now - timedelta(hours=2))
    await call(database, "r3", creator="zeta", at=now - timedelta(minutes=30))
    await database.ledger.hold(hold("r4", at=now))
    in_credits = {"route": Route("m", "p", "1", "credits", "credit"), "charge_nano_usd": 9}
    attempts = [
        entry("r4", at=now, changes={"final": False}),
        entry("r4", at=now, changes={"attempt": 2, **in_credits}),
    ]
    await database.ledger.settle("r4", attempts)
    found = await database.admitted_since((now - timedelta(hours=1)).timestamp())
    second = int(now.timestamp())
    assert sorted(found) == [("acme", second, 2), ("zeta", second - 1_800, 1)]
    month = (now - timedelta(hours=2)).strftime("%Y-%m")
    if month == now.strftime("%Y-%m"):
        assert await database.month_charges(month) == {"acme": 3 * COST, "zeta": COST}
    assert await database.month_charges("2020-01") == {}
    assert ORPHAN_COST > COST
