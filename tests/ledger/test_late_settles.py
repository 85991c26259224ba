"""A call that was booked as crashed, and settles after all: in the end it has cost what it did cost."""

import asyncio
from typing import Any

from sqlalchemy import select

from gateway.ledger.creator_queries import month_of_creator
from gateway.ledger.database import Database
from gateway.ledger.entry_json import entry_json
from gateway.ledger.late_settles import LATE_SETTLE
from gateway.ledger.orphans import book_orphans
from gateway.ledger.periods import instant, now_ms, period_of
from gateway.ledger.queries import charges_of_month, entries_of_request
from gateway.ledger.records import Route
from gateway.ledger.schema import entries
from tests.ledger.books import (
    BOTH,
    COST,
    ORPHAN_COST,
    PRICE,
    Place,
    count,
    entry,
    hold,
    rows,
    verify,
)

STORES = BOTH
SUMS = "SELECT sum(cost_nano_usd), sum(charge_nano_usd), sum(payer_amount), sum(calls) FROM usage_daily"
CORRECTIONS = "SELECT cost_nano_usd, charge_nano_usd, payer_amount, kind, flags FROM entries WHERE corrects IS NOT NULL"
IN_CREDITS = Route("gpt-test", "openai", PRICE.version, "credits", "credit")


async def crashed(database: Database, request_id: str, **fields: Any) -> None:
    await database.ledger.hold(hold(request_id, **fields))
    assert len(await book_orphans(database)) == 1


async def test_the_difference_to_what_was_booked_is_posted_now_and_by_the_same_labels(
    database: Database, path: Place
) -> None:
    labels = {"feature": "search", "agent": "scout", "key_id": "k2", "endpoint": "chat", "tags": "a", "metadata": "{}"}
    await crashed(database, "r1", **labels)
    await database.ledger.settle("r1", [entry("r1", **labels)])
    assert rows(path, CORRECTIONS) == [(COST - ORPHAN_COST,) * 3 + ("adjustment", LATE_SETTLE)]
    (was,) = await entries_of_request(database, "r1")
    names = "corrects, creator, account_id, key_id, feature, agent, endpoint, requested_model, served_model, provider, payer"
    ((corrects, *said),) = rows(path, f"SELECT {names} FROM entries WHERE corrects IS NOT NULL")
    assert corrects == was["id"]
    assert said == [was[name.strip()] for name in names.split(",")[1:]]
    assert rows(path, "SELECT tags, metadata, decision, period_month FROM entries WHERE corrects IS NOT NULL") == [
        ("", "", "", period_of(now_ms())[1])
    ]
    assert rows(path, SUMS) == [(COST, COST, COST, 1)]
    assert verify(path).differences == []


async def test_several_attempts_are_one_correction_and_a_dearer_call_is_charged_the_rest(
    database: Database, path: Place
) -> None:
    await crashed(database, "r1")
    dear = {"cost_nano_usd": ORPHAN_COST, "charge_nano_usd": ORPHAN_COST, "payer_amount": ORPHAN_COST}
    first = entry("r1", changes={**dear, "final": False, "outcome": "upstream_died"})
    await database.ledger.settle("r1", [first, entry("r1", changes={"attempt": 2})])
    assert rows(path, CORRECTIONS) == [(COST, COST, COST, "adjustment", LATE_SETTLE)]
    assert rows(path, SUMS) == [(ORPHAN_COST + COST,) * 3 + (1,)]


async def test_what_was_booked_right_needs_no_correction(database: Database, path: Place) -> None:
    await crashed(database, "r1")
    same = {"cost_nano_usd": ORPHAN_COST, "charge_nano_usd": ORPHAN_COST, "payer_amount": ORPHAN_COST}
    await database.ledger.settle("r1", [entry("r1", changes=same)])
    assert count(path, "entries") == 1


async def test_all_of_a_call_that_cost_nothing_is_given_back(database: Database, path: Place) -> None:
    await crashed(database, "r1")
    await database.ledger.settle("r1", [])
    assert rows(path, SUMS) == [(0, 0, 0, 1)]
    assert verify(path).differences == []


async def test_it_is_corrected_once_however_often_and_at_once_it_settles(database: Database, path: Place) -> None:
    await crashed(database, "r1")
    await asyncio.gather(*(database.ledger.settle("r1", [entry("r1")]) for _ in range(5)))
    await database.ledger.settle("r1", [entry("r1")])
    assert rows(path, CORRECTIONS) == [(COST - ORPHAN_COST,) * 3 + ("adjustment", LATE_SETTLE)]


async def test_a_call_that_was_settled_is_not_corrected(database: Database, path: Place) -> None:
    await database.ledger.hold(hold("r1"))
    await database.ledger.settle("r1", [entry("r1")])
    await database.ledger.settle("r1", [])
    await database.ledger.settle("unknown", [entry("unknown")])
    assert rows(path, "SELECT request_id, kind FROM entries") == [("r1", "usage")]


async def test_credits_that_the_call_took_are_taken_late(database: Database, path: Place) -> None:
    await database.ledger.hold(hold("r1")._replace(route=IN_CREDITS, orphan_charge_nano_usd=0))
    await book_orphans(database)
    took = {"route": IN_CREDITS, "charge_nano_usd": 0, "payer_amount": 7}
    await database.ledger.settle("r1", [entry("r1", changes=took)])
    assert rows(path, CORRECTIONS) == [(COST - ORPHAN_COST, 0, 7, "adjustment", LATE_SETTLE)]
    assert rows(path, "SELECT payer, payer_unit FROM entries WHERE corrects IS NOT NULL") == [("credits", "credit")]
    assert rows(path, "SELECT sum(payer_amount) FROM usage_daily WHERE payer = 'credits'") == [(7,)]
    assert verify(path).differences == []


async def test_what_an_admin_gave_back_meanwhile_is_not_given_back_again(database: Database, path: Place) -> None:
    await crashed(database, "r1")
    (was,) = await entries_of_request(database, "r1")
    back = -ORPHAN_COST
    refund = {"kind": "refund", "cost_nano_usd": 0, "charge_nano_usd": back, "payer_amount": back}
    await database.ledger.post([entry("refund", changes=refund)], corrects=was["id"])
    await database.ledger.settle("r1", [entry("r1")])
    assert rows(path, "SELECT sum(charge_nano_usd), sum(payer_amount) FROM entries") == [(0, 0)]


async def test_the_month_charge_is_that_of_a_call_that_settled_in_time(database: Database, path: Place) -> None:
    """Booked and corrected in one month, as nearly always: the creator owes what the call did cost."""
    now = instant(now_ms())
    month = period_of(now_ms())[1]
    await crashed(database, "r1", at=now)
    await database.ledger.settle("r1", [entry("r1", at=now)])
    charges, _ = await charges_of_month(database, month)
    assert [(row["charge_nano_usd"], row["cost_nano_usd"], row["calls"]) for row in charges] == [(COST, COST, 1)]
    assert (await month_of_creator(database, "acme", month)).charge_nano_usd == COST


async def test_a_correction_is_shown_as_any_entry(database: Database) -> None:
    await crashed(database, "r1")
    await database.ledger.settle("r1", [entry("r1")])

    (row,) = await database.fetch_all(select(entries).where(entries.c.corrects.is_not(None)))
    shown = entry_json(row)
    assert shown["flags"] == [LATE_SETTLE]
    assert shown["cost_nano_usd"] == COST - ORPHAN_COST
    assert shown["input_tokens"] == 0
