"""Several processes that write to one PostgreSQL: who may, in whose time, and that what they do at once is done once."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import func, insert, literal, select

from gateway.accounts import Accounts
from gateway.auth import Authenticator
from gateway.config import Settings
from gateway.counters.memory import MemoryCounters
from gateway.credits import Credits
from gateway.errors import ConfigError, RequestError, StoreError
from gateway.ledger import hourly
from gateway.ledger.database import Database
from gateway.ledger.expiry import expire_credits
from gateway.ledger.ids import ms_in
from gateway.ledger.orphans import book_orphans
from gateway.ledger.periods import ms_of, now_ms
from gateway.ledger.postgres.opening import open_postgres
from gateway.ledger.schema import conversation_items, conversations
from gateway.ledger.transactions import Transactions
from gateway.plans import load_plans
from gateway.responses.conversations import append_items
from gateway.secrets import Secrets
from gateway.tasks import spawn
from tests.ledger.books import COST, MODEL, ORPHAN_COST, PRICE, Place, call, change, count, entry, hold, rows, verify
from tests.servers.postgres_server import PostgresServer

STORES = ("postgres",)
_names = itertools.count(1)


def shared_settings(url: str, **changes: Any) -> Settings:
    return Settings(database_url=url, redis_url="redis://127.0.0.1:1", secret="s" * 32, settle_timeout_s=60, **changes)


async def shared(path: Place, instance_id: str | None = None) -> Database:
    name = instance_id or f"instance-{next(_names)}"
    return await open_postgres(str(path), settings=shared_settings(str(path)), instance_id=name, has_spool=False)


@pytest.fixture
async def two(prepared: Place) -> AsyncIterator[Sequence[Database]]:
    opened = await asyncio.gather(shared(prepared, "first"), shared(prepared, "second"))
    await opened[0].record_prices({MODEL: PRICE})
    yield opened
    for database in opened:
        await database.close()


# Who may write


async def test_those_who_share_their_counters_write_together_and_nobody_else_does(
    prepared: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ledger.postgres.connection._OTHER_ENDS_WITHIN_S", 0.2)
    url = str(prepared)
    alone = await open_postgres(url)
    with pytest.raises(ConfigError, match="counts in its own memory"):
        await shared(prepared)
    await alone.close()
    together = [await shared(prepared) for _ in range(3)]
    with pytest.raises(ConfigError, match="GATEWAY_REDIS_URL"):
        await open_postgres(url)
    await asyncio.gather(*(call(database, f"r{n}") for n, database in enumerate(together)))
    for database in together:
        await database.close()
    await (await open_postgres(url)).close()
    assert count(prepared, "entries") == 3


async def test_several_that_start_at_once_on_an_empty_database_all_start(database_url: str) -> None:
    opened = await asyncio.gather(*(shared(database_url) for _ in range(3)))
    await asyncio.gather(*(call(database, f"r{n}") for n, database in enumerate(opened)))
    for database in opened:
        await database.close()
    assert count(database_url, "entries") == 3


async def test_one_that_comes_back_ends_nobody_but_its_own_predecessor(
    two: Sequence[Database], prepared: Place
) -> None:
    sessions = (
        "SELECT application_name, pid FROM pg_stat_activity WHERE application_name LIKE 'gateway writer %' ORDER BY 1"
    )
    before = dict(rows(prepared, sessions))
    change(prepared, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '% first'")
    await asyncio.gather(two[0].ledger.settle("unknown", []), return_exceptions=True)
    async with asyncio.timeout(10):
        while not two[0].ledger.is_ready:
            await asyncio.sleep(0.01)
    await asyncio.gather(call(two[0], "r1"), call(two[1], "r2"))
    after = dict(rows(prepared, sessions))
    assert after.keys() == before.keys()
    assert after["gateway writer second"] == before["gateway writer second"]
    assert after["gateway writer first"] != before["gateway writer first"]


async def test_one_that_freezes_in_the_middle_of_a_transaction_keeps_the_others_for_a_moment_only(
    two: Sequence[Database], prepared: Place
) -> None:
    goes_on = threading.Event()
    has_locks = threading.Event()

    def freezes(transactions: Transactions) -> None:
        transactions.post([entry("frozen")])
        has_locks.set()
        goes_on.wait(20)

    frozen = spawn(two[0].run(freezes), "frozen")
    await asyncio.to_thread(has_locks.wait, 10)
    await call(two[1], "r1")
    assert two[1].ledger.is_ready
    goes_on.set()
    with pytest.raises(StoreError):
        await frozen
    assert rows(prepared, "SELECT request_id FROM entries") == [("r1",)]
    assert rows(prepared, "SELECT sum(calls) FROM usage_daily") == [(1,)]


# Sums


async def test_writers_that_add_to_the_same_rows_lose_nothing_and_are_in_nobodys_way(
    two: Sequence[Database], prepared: Place, postgres: PostgresServer
) -> None:
    """Whoever adds to many rows does so in their order: of two, one waits for the other."""
    labels = [{"creator": f"c{n % 3}", "feature": f"f{n % 5}"} for n in range(15)]
    before = len(postgres.log)

    async def calls(database: Database, name: str, fields: Sequence[dict[str, str]]) -> None:
        for turn in range(6):
            await asyncio.gather(*(call(database, f"{name}-{turn}-{n}", **fields[n % 15]) for n in range(60)))

    async with asyncio.timeout(60):
        await asyncio.gather(calls(two[0], "a", labels), calls(two[1], "b", labels[::-1]))
    total = 2 * 6 * 60
    assert count(prepared, "holds") == 0
    assert rows(prepared, "SELECT count(*), count(DISTINCT request_id), count(DISTINCT id) FROM entries") == [
        (total,) * 3
    ]
    assert rows(prepared, "SELECT sum(calls), sum(cost_nano_usd) FROM usage_daily") == [(total, total * COST)]
    assert verify(prepared).differences == []
    assert "deadlock" not in postgres.log[before:]


async def test_two_tasks_that_wait_for_each_other_are_both_done_once(
    two: Sequence[Database], prepared: Place, postgres: PostgresServer
) -> None:
    meet = threading.Barrier(2)
    before = len(postgres.log)

    def posting(*creators: str) -> Callable[[Transactions], object]:
        has_met = []

        def task(transactions: Transactions) -> None:
            transactions.post([entry(f"p{next(_names)}", creator=creators[0])])
            if not has_met:
                has_met.append(meet.wait(10))
            transactions.post([entry(f"p{next(_names)}", creator=creators[1])])

        return task

    for database in two:  # names are decided under a lock, which would keep them apart
        await asyncio.gather(*(call(database, f"{database.instance_id}-{name}", creator=name) for name in "ab"))
    async with asyncio.timeout(20):
        await asyncio.gather(two[0].run(posting("a", "b")), two[1].run(posting("b", "a")))
    assert "deadlock detected" in postgres.log[before:]
    assert rows(prepared, "SELECT count(*), count(DISTINCT id) FROM entries") == [(8, 8)]
    assert rows(prepared, "SELECT sum(calls), sum(cost_nano_usd) FROM usage_daily") == [(8, 8 * COST)]
    assert verify(prepared).differences == []


async def test_a_hold_that_one_settles_and_another_buries_is_booked_once_at_what_it_cost(
    two: Sequence[Database], prepared: Place
) -> None:
    ids = [f"r{n:03d}" for n in range(200)]
    await asyncio.gather(*(two[0].ledger.hold(hold(each)) for each in ids))
    await asyncio.gather(
        *(two[0].ledger.settle(each, [entry(each)]) for each in ids), *(book_orphans(two[1]) for _ in range(3))
    )
    assert rows(prepared, "SELECT count(*), count(DISTINCT request_id) FROM entries WHERE kind = 'usage'") == [
        (200, 200)
    ]
    assert rows(prepared, "SELECT sum(cost_nano_usd), sum(calls) FROM usage_daily") == [(200 * COST, 200)]
    assert verify(prepared).differences == []


async def test_two_that_settle_one_call_late_correct_it_once(two: Sequence[Database], prepared: Place) -> None:
    ids = [f"r{n}" for n in range(30)]
    await asyncio.gather(*(two[0].ledger.hold(hold(each)) for each in ids))
    await book_orphans(two[1])
    await asyncio.gather(*(database.ledger.settle(each, [entry(each)]) for each in ids for database in two))
    assert rows(prepared, "SELECT count(*), sum(cost_nano_usd) FROM entries WHERE corrects IS NOT NULL") == [
        (30, 30 * (COST - ORPHAN_COST))
    ]


async def test_holds_of_processes_that_are_gone_are_booked_and_those_of_the_living_are_not(
    two: Sequence[Database], prepared: Place
) -> None:
    await two[0].ledger.hold(hold("alive"))
    await two[1].ledger.hold(hold("dead"))
    booked = await book_orphans(two[0], not_of=select(literal("first")))
    assert [row["request_id"] for row in booked] == ["dead"]
    assert rows(prepared, "SELECT id FROM holds") == [("alive",)]


# Time


async def test_ids_and_instants_follow_the_clock_of_the_database(prepared: Place) -> None:
    before = now_ms()
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=3), tick=True):
        database = await shared(prepared)
        assert -3 * 3_600_000 - 60_000 < database.clock_ahead_ms < -3 * 3_600_000 + 60_000
        await database.ledger.hold(hold("r1"))
        ((held_at,),) = rows(prepared, "SELECT created_at FROM holds")
        await database.ledger.settle("r1", [entry("r1")])
        await database.close()
    ((entry_id, created_at),) = rows(prepared, "SELECT id, created_at FROM entries")
    for at in (held_at, created_at, ms_in(entry_id)):
        assert before - 1_000 <= at <= now_ms() + 1_000


async def test_a_clock_that_is_set_while_it_runs_changes_no_id(two: Sequence[Database], prepared: Place) -> None:
    await call(two[0], "r1")
    with time_machine.travel(datetime.now(UTC) - timedelta(days=3), tick=True):
        await call(two[0], "r2")
    await call(two[1], "r3")
    at = [row[0] for row in rows(prepared, "SELECT created_at FROM entries ORDER BY id")]
    assert max(at) - min(at) < 60_000
    assert rows(prepared, "SELECT request_id FROM entries ORDER BY id") == [("r1",), ("r2",), ("r3",)]


async def test_no_call_has_an_id_from_before_its_admission(two: Sequence[Database], prepared: Place) -> None:
    """Counters are filled by a range of ids: a machine whose clock is ahead must not fall out of it."""
    admitted_at = datetime.now(UTC) + timedelta(seconds=5)
    await call(two[0], "r1", at=admitted_at)
    ((entry_id, created_at),) = rows(prepared, "SELECT id, created_at FROM entries")
    assert ms_in(entry_id) == created_at == ms_of(admitted_at)


# What reads before it writes


class Books:
    """Credits of one process. Their counters are not asked."""

    def __init__(self, database: Database) -> None:
        plans, secrets = load_plans(), Secrets(b"r" * 32)
        authenticator = Authenticator(database, plans, secrets, wall_clock=time.time)
        self.accounts = Accounts(database, plans, secrets, authenticator, wall_clock=time.time)
        self.credits = Credits(
            database, dict, MemoryCounters(time.time, time.monotonic), authenticator, wall_clock=time.time
        )


@pytest.fixture
async def books(two: Sequence[Database]) -> Sequence[Credits]:
    made = [Books(database) for database in two]
    await made[0].accounts.create_creator("acme")
    return [each.credits for each in made]


async def at_once(books: Sequence[Credits], ask: Callable[[Credits], Awaitable[Any]], times: int = 4) -> list[Any]:
    return await asyncio.gather(*(ask(each) for _ in range(times) for each in books), return_exceptions=True)


async def test_a_grant_asked_for_at_two_processes_by_one_key_is_given_once(
    books: Sequence[Credits], prepared: Place
) -> None:
    for turn in range(5):
        told = await at_once(books, lambda book, key=f"k{turn}": book.grant("acme", credits=10, idempotency_key=key))
        assert len({row["id"] for row in told}) == 1
    assert rows(prepared, "SELECT count(*), sum(payer_amount) FROM entries") == [(5, -50)]
    assert verify(prepared).differences == []


async def test_refunds_at_two_processes_never_give_back_more_than_was_taken(
    books: Sequence[Credits], two: Sequence[Database], prepared: Place
) -> None:
    for turn in range(5):
        await call(two[0], f"r{turn}")
        told = await at_once(books, lambda book, name=f"r{turn}": book.refund(name))
        refused = [each for each in told if isinstance(each, RequestError)]
        assert {each.code for each in refused} == {"refund_exceeds_charge"}
        assert len(told) - len(refused) == 1
    assert rows(prepared, "SELECT sum(charge_nano_usd) FROM entries") == [(0,)]
    assert verify(prepared).differences == []


async def test_of_a_call_that_was_corrected_only_what_it_did_cost_can_be_given_back(
    books: Sequence[Credits], two: Sequence[Database], prepared: Place
) -> None:
    await two[0].ledger.hold(hold("r1"))
    await book_orphans(two[1])
    await two[0].ledger.settle("r1", [entry("r1")])
    assert (await books[0].refund("r1"))["charge_nano_usd"] == -COST
    with pytest.raises(RequestError):
        await books[1].refund("r1")
    assert rows(prepared, "SELECT sum(charge_nano_usd) FROM entries") == [(0,)]
    assert verify(prepared).differences == []


async def test_credits_that_expire_are_booked_once_however_many_look(
    books: Sequence[Credits], two: Sequence[Database], prepared: Place
) -> None:
    now = datetime.now(UTC)
    for _ in range(20):
        await books[0].grant("acme", "promo_credits", credits=10, expires_at=now + timedelta(hours=1))
    found = await asyncio.gather(
        *(expire_credits(database, now + timedelta(hours=2)) for _ in range(4) for database in two)
    )
    assert sum(len(each) for each in found) == 20
    assert rows(prepared, "SELECT count(*), sum(payer_amount) FROM entries WHERE kind = 'expiry'") == [(20, 200)]
    assert rows(prepared, "SELECT count(*) FROM credit_grants WHERE expired_entry_id IS NULL") == [(0,)]
    assert verify(prepared).differences == []


async def test_credits_taken_away_at_two_processes_never_go_below_nothing(
    books: Sequence[Credits], prepared: Place
) -> None:
    """Each asks counters of its own, so that the ledger alone says no."""
    await books[0].grant("acme", credits=10)
    told = await at_once(books, lambda book: book.adjust("acme", "credits", credits=-7))
    assert sum(not isinstance(each, RequestError) for each in told) == 1
    assert rows(prepared, "SELECT sum(payer_amount) FROM entries") == [(-3,)]


async def test_hours_summed_by_two_processes_count_every_entry_once(two: Sequence[Database], prepared: Place) -> None:
    for turn in range(3):
        await asyncio.gather(*(call(two[turn % 2], f"r{turn}-{n}") for n in range(50)))
        await asyncio.gather(*(hourly.fill(database, batch_rows=7) for database in two))
    assert rows(prepared, "SELECT sum(calls), sum(cost_nano_usd) FROM usage_hourly") == [(150, 150 * COST)]


async def test_items_added_to_one_conversation_at_two_processes_are_all_there(
    two: Sequence[Database], prepared: Place
) -> None:
    whose = {"account_id": "acme", "creator": "acme", "created_at": 1}
    await two[0].write(insert(conversations).values(id="conv_1", **whose))

    def adding(name: str) -> Callable[[Transactions], object]:
        return lambda transactions: append_items(transactions, "conv_1", [{"id": f"item_{name}{n}"} for n in range(3)])

    await asyncio.gather(*(database.run(adding(f"{n}x{m}x")) for n in range(10) for m, database in enumerate(two)))
    (found,) = await two[0].fetch_all(select(func.count(), func.max(conversation_items.c.position).label("last")))
    assert (*found.values(),) == (60, 60)
