"""Idempotency keys come with their call's hold, or neither does; and go with its settle, or stay."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.errors import StoreError
from gateway.ledger.database import Conflict, Database
from gateway.ledger.orphans import book_orphans
from gateway.ledger.periods import ms_of
from gateway.ledger.records import Hold, Reservation
from tests.ledger.books import BOTH, NOON, Place, be_hasty, call, count, entry, hold, locked, rows

STORES = BOTH

EXPIRES_AT = NOON + timedelta(days=1)


def reserving(request_id: str, value_id: str = "v1", fingerprint: str = "f1") -> Hold:
    return hold(request_id)._replace(reservation=Reservation(value_id, fingerprint, EXPIRES_AT))


def reserved(path: Place) -> list[tuple[str, str]]:
    return rows(path, "SELECT id, request_id FROM idempotency ORDER BY id")  # type: ignore[return-value]


def held(path: Place) -> list[str]:
    return [row[0] for row in rows(path, "SELECT id FROM holds ORDER BY id")]


async def transaction_of(database: Database, work: Coroutine[Any, Any, None]) -> str:
    """The SQL of the one transaction that `work` was."""
    statements: list[str] = []
    await database.run(lambda transactions: transactions.connection.raw.set_trace_callback(statements.append))
    await work
    await database.run(lambda transactions: transactions.connection.raw.set_trace_callback(None))
    switched_on, together, _ = "\n".join(statements).split("COMMIT")
    assert switched_on == ""
    return together


@pytest.mark.sqlite_only
async def test_a_reservation_is_written_in_the_holds_transaction(database: Database, path: Place) -> None:
    together = await transaction_of(database, database.ledger.hold(reserving("r1")))
    assert "INTO holds" in together
    assert "INTO idempotency" in together
    columns = "id, fingerprint, request_id, account_id, creator, expires_at, state, status, size_bytes, answer"
    assert rows(path, f"SELECT {columns} FROM idempotency") == [
        ("v1", "f1", "r1", "acme", "acme", ms_of(EXPIRES_AT), "open", 0, 0, None)
    ]
    assert held(path) == ["r1"]


async def test_a_hold_without_a_reservation_reserves_nothing(database: Database, path: Place) -> None:
    await database.ledger.hold(hold("r1"))
    assert reserved(path) == []


async def test_a_value_that_is_taken_fails_its_hold_and_leaves_neither(database: Database, path: Place) -> None:
    await database.ledger.hold(reserving("r1"))
    with pytest.raises(Conflict) as conflict:
        await database.ledger.hold(reserving("r2", fingerprint="f2"))
    assert conflict.value.status == 409
    assert held(path) == ["r1"]
    assert rows(path, "SELECT id, request_id, fingerprint FROM idempotency") == [("v1", "r1", "f1")]
    assert database.ledger.is_ready


async def test_a_value_is_taken_also_when_its_call_is_over(database: Database, path: Place) -> None:
    await database.ledger.hold(reserving("r1"))
    await database.ledger.settle("r1", [entry("r1")])
    with pytest.raises(Conflict):
        await database.ledger.hold(reserving("r2"))
    assert held(path) == []


async def test_of_one_batch_only_the_holds_fail_whose_value_is_taken(database: Database, path: Place) -> None:
    """One conflict takes the whole transaction back: the others, settles too, must come through all the same."""
    await database.ledger.hold(reserving("r0", "taken"))
    await asyncio.gather(*(database.ledger.hold(hold(f"s{n}")) for n in range(5)))
    holds = [
        reserving("r1", "taken"),
        reserving("r2", "one"),
        hold("r3"),
        reserving("r4", "twice"),
        reserving("r5", "twice"),
        reserving("r6", "two"),
    ]
    with capture_logs() as logs:
        results = await asyncio.gather(
            *(database.ledger.hold(each) for each in holds),
            *(database.ledger.settle(f"s{n}", [entry(f"s{n}")]) for n in range(5)),
            return_exceptions=True,
        )
    failed = [index for index, result in enumerate(results) if result is not None]
    assert failed == [0, 4]
    assert all(isinstance(results[index], Conflict) for index in failed)
    assert held(path) == ["r0", "r2", "r3", "r4", "r6"]
    assert reserved(path) == [("one", "r2"), ("taken", "r0"), ("twice", "r4"), ("two", "r6")]
    assert count(path, "entries") == 5
    assert logs == []


async def test_twenty_holds_with_one_value_make_one_hold(database: Database, path: Place) -> None:
    results = await asyncio.gather(
        *(database.ledger.hold(reserving(f"r{n:02d}")) for n in range(20)), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), *[Conflict] * 19]
    assert held(path) == ["r00"]
    assert reserved(path) == [("v1", "r00")]


async def test_a_settle_leaves_the_value_where_it_frees_none(database: Database, path: Place) -> None:
    await database.ledger.hold(reserving("r1"))
    await database.ledger.settle("r1", [entry("r1")])
    assert reserved(path) == [("v1", "r1")]


@pytest.mark.sqlite_only
async def test_a_settle_frees_the_value_in_its_own_transaction(database: Database, path: Place) -> None:
    await database.ledger.hold(reserving("r1"))
    together = await transaction_of(database, database.ledger.settle("r1", [entry("r1")], frees="v1"))
    for words in ("DELETE FROM holds", "INTO entries", "DELETE FROM idempotency"):
        assert words in together
    assert reserved(path) == []
    assert count(path, "entries") == 1
    await database.ledger.hold(reserving("r2"))
    assert reserved(path) == [("v1", "r2")]


async def test_a_settle_that_cannot_post_frees_nothing(database: Database, path: Place) -> None:
    await database.ledger.hold(reserving("r1"))
    with pytest.raises(StoreError):
        await database.ledger.settle("r1", [entry("r1", changes={"cost_nano_usd": 2**63})], frees="v1")
    assert held(path) == ["r1"]
    assert reserved(path) == [("v1", "r1")]


async def test_a_settle_frees_only_the_value_of_its_own_call(database: Database, path: Place) -> None:
    await database.ledger.hold(reserving("r1"))
    await database.ledger.hold(hold("r2"))
    await database.ledger.settle("r2", [entry("r2")], frees="v1")
    assert count(path, "entries") == 1
    assert reserved(path) == [("v1", "r1")]


async def test_a_settle_whose_hold_somebody_else_ended_frees_nothing(database: Database, path: Place) -> None:
    """It was booked as a crash that may have cost something, so that the value goes on standing for it."""
    await database.ledger.hold(reserving("r1"))
    await book_orphans(database)
    await database.ledger.settle("r1", [entry("r1")], frees="v1")
    assert rows(path, "SELECT outcome FROM entries WHERE kind = 'usage'") == [("crashed",)]
    assert reserved(path) == [("v1", "r1")]


async def test_in_one_batch_only_settles_that_end_their_hold_free(database: Database, path: Place) -> None:
    await asyncio.gather(*(database.ledger.hold(reserving(f"r{n}", f"v{n}")) for n in range(4)))
    await book_orphans(database, is_alive=lambda each: each != "r1")
    await asyncio.gather(*(database.ledger.settle(f"r{n}", [entry(f"r{n}")], frees=f"v{n}") for n in range(4)))
    assert reserved(path) == [("v1", "r1")]
    assert rows(path, "SELECT count(*) FROM entries WHERE kind = 'usage'") == [(4,)]


async def test_a_hold_given_up_takes_its_value_away_when_the_store_is_back(database: Database, path: Place) -> None:
    """Its caller was told that it failed, and will try again with the same value."""
    with locked(path), pytest.raises(StoreError):
        await database.ledger.hold(reserving("late"))
    async with asyncio.timeout(10):
        await database.run(lambda transactions: None)
    await database.run(lambda transactions: None)
    assert reserved(path) == []
    assert held(path) == []
    await database.ledger.hold(reserving("again"))
    assert reserved(path) == [("v1", "again")]


async def test_a_failing_store_reserves_nothing(database: Database, path: Place) -> None:
    await be_hasty(database)
    with locked(path), pytest.raises(StoreError) as refused:
        await database.ledger.hold(reserving("r1"))
    assert not isinstance(refused.value, Conflict)
    async with asyncio.timeout(10):
        while not database.ledger.is_ready:
            await asyncio.sleep(0)
    await call(database, "after")
    assert reserved(path) == []
