"""Holds whose process died."""

from datetime import timedelta

import pytest

from gateway.ledger.database import Database
from gateway.ledger.orphans import book_orphans
from gateway.ledger.records import Route
from gateway.ledger.schema import HOLD_COLUMNS
from tests.ledger.books import BOTH, NOON, ORPHAN_COST, ORPHAN_USAGE, Place, call, change, count, hold, opened, rows

STORES = BOTH


async def test_every_open_hold_is_booked_as_crashed_at_a_start(path: Place) -> None:
    database = await opened(path, instance_id="first")
    at = NOON + timedelta(milliseconds=123)
    await database.ledger.hold(hold("r1", at=at, feature="search", agent="scout", tags="a,b"))
    await database.ledger.hold(hold("r2"))
    await call(database, "r3")
    await database.close()
    database = await opened(path, instance_id="second")
    booked = await book_orphans(database)
    assert booked[0] == {
        "request_id": "r1",
        "creator": "acme",
        "cost_nano_usd": ORPHAN_COST,
        "admitted_at": round(at.timestamp() * 1000),
        "actuals": {
            "nano_usd": ORPHAN_COST,
            "cost_nano_usd": ORPHAN_COST,
            "token": ORPHAN_USAGE.input_tokens + ORPHAN_USAGE.output_tokens,
            "image": 0,
            "credit": 0,
        },
    }
    assert [row["request_id"] for row in booked] == ["r1", "r2"]
    assert await book_orphans(database) == []
    await database.close()
    assert count(path, "holds") == 0
    found = rows(
        path,
        "SELECT outcome, usage_source, cost_nano_usd, charge_nano_usd, uncached_input, text_output, status, feature, agent,"
        " tags, admitted_at FROM entries WHERE request_id = 'r1'",
    )
    assert found == [
        (
            "crashed",
            "estimated",
            ORPHAN_COST,
            ORPHAN_COST,
            ORPHAN_USAGE.uncached_input,
            ORPHAN_USAGE.text_output,
            0,
            "search",
            "scout",
            "a,b",
            booked[0]["admitted_at"],
        )
    ]


async def test_a_call_paid_in_credits_is_owed_nothing_in_money(database: Database, path: Place) -> None:
    in_credits = hold("r1")._replace(route=Route("m", "p", "1", "credits", "credit"), orphan_charge_nano_usd=0)
    await database.ledger.hold(in_credits)
    await book_orphans(database)
    found = rows(path, "SELECT cost_nano_usd, charge_nano_usd, payer, payer_amount FROM entries")
    assert found == [(ORPHAN_COST, 0, "credits", 0)]


async def test_an_orphan_owes_by_its_own_price_and_keeps_why_it_was_admitted(database: Database, path: Place) -> None:
    decided = {"charge_price_version": "own.1", "downgrade_reason": "budget_usd_per_month", "decision": '{"limits":[]}'}
    await database.ledger.hold(hold("r1")._replace(orphan_charge_nano_usd=7, **decided))
    await book_orphans(database)
    columns = "cost_nano_usd, charge_nano_usd, payer_amount, variant, " + ", ".join(decided)
    assert rows(path, f"SELECT {columns} FROM entries") == [(ORPHAN_COST, 7, 7, "", *decided.values())]


async def test_a_hold_whose_call_lives_is_left_alone_however_old(database: Database, path: Place) -> None:
    for name in ("alive", "dead", "young"):
        await database.ledger.hold(hold(name))
    change(path, "UPDATE holds SET created_at = created_at - 7200000 WHERE id <> 'young'")
    booked = await book_orphans(database, older_than_s=3600, is_alive=lambda name: name == "alive")
    assert [row["request_id"] for row in booked] == ["dead"]
    assert {row[0] for row in rows(path, "SELECT id FROM holds")} == {"alive", "young"}


async def test_only_the_holds_of_one_process_when_asked_for(database: Database, path: Place) -> None:
    await database.ledger.hold(hold("mine"))
    await database.ledger.hold(hold("theirs"))
    change(path, "UPDATE holds SET instance_id = 'other' WHERE id = 'theirs'")
    assert [row["request_id"] for row in await book_orphans(database, instance_id="other")] == ["theirs"]


@pytest.mark.parametrize("holds", [1_000, 2_500])
async def test_many_holds_are_booked_in_slices(patient_database: Database, path: Place, holds: int) -> None:
    database = patient_database
    await database.ledger.hold(hold("r"))
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {holds - 1})"
    others = ", ".join(HOLD_COLUMNS[1:])
    change(path, f"INSERT INTO holds {numbers} SELECT 'x' || i, {others} FROM holds, n")
    assert len(await book_orphans(database)) == holds
    assert count(path, "holds") == 0
    assert rows(path, "SELECT calls, cost_nano_usd FROM usage_daily") == [(holds, holds * ORPHAN_COST)]
