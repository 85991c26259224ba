"""Processes of one gateway on a real PostgreSQL: who is alive, who leads, what is announced, and how calls are counted."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
from sqlalchemy import update

from gateway.errors import ConfigError
from gateway.instances.base import AloneInstance
from gateway.instances.shared import SharedInstances
from gateway.ledger import schema
from gateway.ledger.database import Database
from gateway.ledger.orphans import book_orphans
from gateway.ledger.postgres.opening import open_postgres
from gateway.ledger.reloads import count_reload
from gateway.ledger.transactions import Transactions
from tests.ledger.books import MODEL, PRICE, hold
from tests.rig.way import Way
from tests.servers.postgres_server import PostgresServer
from tests.servers.postgres_wire import PostgresError

PATIENCE_S = 20
LEASE_S = 2.0
Join = Callable[[str], Awaitable[SharedInstances]]


async def until(is_so: Callable[[], bool]) -> None:
    """Looks again and again; the bound is for a machine that has much to do."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """To freeze and to stop."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def url(own_server: PostgresServer) -> str:
    own_server.thaw()
    if not own_server.is_running:
        own_server.start()
    own_server.flush()
    return own_server.create_database("shared")


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = await open_postgres(url, instance_id="writer")
    await database.record_prices({MODEL: PRICE})
    yield database
    await database.close()


@pytest.fixture
async def join(url: str, database: Database, own_server: PostgresServer) -> AsyncIterator[Join]:
    async with AsyncExitStack() as stack:

        async def join(name: str) -> SharedInstances:
            instances = SharedInstances(url, name, lease_s=LEASE_S)
            await instances.start()
            stack.push_async_callback(instances.aclose)
            return instances

        yield join
        own_server.thaw()


async def test_everybody_who_joins_is_counted_and_one_leads(join: Join) -> None:
    joined = [await join(name) for name in "abc"]
    await until(lambda: all(each.count == 3 for each in joined))
    assert [each.is_leader for each in joined] == [True, False, False]
    assert {each.counting for each in joined} == {"shared"}


async def test_another_one_leads_as_soon_as_the_leader_has_left(join: Join) -> None:
    first, second = await join("a"), await join("b")
    assert first.is_leader
    await first.aclose()
    await until(lambda: second.is_leader)
    assert second.count == 1


async def test_another_one_leads_when_the_lease_of_a_dead_leader_has_lapsed(join: Join) -> None:
    first, second = await join("a"), await join("b")
    assert first._beating is not None
    first._beating.cancel()  # as if it were frozen: it leaves nothing behind but its rows
    await until(lambda: second.is_leader)
    assert first.has_lapsed
    assert not first.is_leader
    await until(lambda: second.count == 1)


async def test_what_is_announced_is_heard_by_all_others_and_only_if_it_is_committed(
    join: Join, database: Database
) -> None:
    heard: list[tuple[str, str]] = []
    for name in ("a", "b", "writer"):
        instances = await join(name)

        async def note(rest: str, name: str = name) -> None:
            heard.append((name, rest))

        instances.on("key", note)

    def announce_in_vain(transactions: Transactions) -> None:
        transactions.announce("key lost")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.run(announce_in_vain)
    await database.ledger.write(announces=["key k1", "other k2"])
    await until(lambda: len(heard) == 2)
    await database.ledger.write(announces=["key k3 and more"])
    await until(lambda: len(heard) == 4)
    assert sorted(heard) == [("a", "k1"), ("a", "k3 and more"), ("b", "k1"), ("b", "k3 and more")]


@pytest.mark.parametrize("name", ["k\0", "k" * 9_000, "\U0001f511" * 9_000], ids=["zero", "long", "wide"])
async def test_an_id_that_the_channel_does_not_take_fails_no_write(join: Join, database: Database, name: str) -> None:
    heard: list[str] = []
    instances = await join("a")

    async def note(rest: str) -> None:
        heard.append(rest)

    instances.on("key", note)
    await database.ledger.write(announces=[f"key {name}", "key k1"])
    await until(lambda: "k1" in heard)


async def test_a_handler_that_fails_keeps_nobody_from_hearing(join: Join, database: Database) -> None:
    heard: list[str] = []
    instances = await join("a")

    async def fail(rest: str) -> None:
        raise ZeroDivisionError

    async def note(rest: str) -> None:
        heard.append(rest)

    instances.on("key", fail)
    instances.on("key", note)
    await database.ledger.write(announces=["key k1"])
    await until(lambda: heard == ["k1"])


async def test_it_is_known_when_the_database_does_not_answer_and_when_it_does_again(
    join: Join, own_server: PostgresServer
) -> None:
    said: list[bool] = []
    instances = await join("a")
    instances.on_heard = said.append
    own_server.freeze()
    await until(lambda: not instances.is_heard)
    own_server.thaw()
    await until(lambda: instances.is_heard)
    assert said == [False, True]


async def test_a_connection_that_was_cut_between_two_beats_was_deaf_meanwhile(
    join: Join, own_server: PostgresServer
) -> None:
    said: list[bool] = []
    instances = await join("a")
    instances.on_heard = said.append
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gateway instance a'"
    assert own_server.query(cut) == [("t",)]
    await until(lambda: said == [False, True])
    assert instances.is_heard


async def test_a_reload_is_seen_by_all_also_by_those_who_did_not_hear_of_it(join: Join, database: Database) -> None:
    instances = await join("a")
    seen: list[int] = []
    instances.on_reloads = lambda: seen.append(instances.reloads)
    assert await database.run(count_reload) == 1
    assert await database.run(count_reload) == 2
    await until(lambda: bool(seen) and seen[-1] == 2)


async def test_nobody_counts_locally_before_all_have_stopped_to_count_together(join: Join) -> None:
    joined = [await join(name) for name in "abc"]
    await until(lambda: all(each.counting == "shared" for each in joined))
    ways: list[frozenset[str]] = []

    def look() -> frozenset[str]:
        ways.append(frozenset(each.counting for each in joined))
        return ways[-1]

    joined[1].wants_local = True
    await until(lambda: look() == {"local"})
    joined[1].wants_local = False
    joined[2].wants_local = True
    await until(lambda: look() <= {"local"} or "paused" in ways[-1])
    joined[2].wants_local = False
    await until(lambda: look() == {"shared"})
    assert not [together for together in ways if together >= {"shared", "local"}]


async def test_who_joins_those_that_count_locally_does_as_they_do(join: Join) -> None:
    first = await join("a")
    first.wants_local = True
    await until(lambda: first.counting == "local")
    second = await join("b")
    assert second.counting != "shared"
    await until(lambda: second.counting == "local")
    first.wants_local = False
    await until(lambda: (first.counting, second.counting) == ("shared", "shared"))


async def test_the_dead_hold_up_no_agreement(join: Join) -> None:
    first, second = await join("a"), await join("b")
    assert second._beating is not None
    second._beating.cancel()
    first.wants_local = True
    await until(lambda: first.counting == "local")
    assert second.counting == "paused"  # it knows that it may be dead


async def test_holds_of_the_dead_are_found_and_those_of_the_living_are_left(join: Join, database: Database) -> None:
    leader = await join("a")
    await database.ledger.hold(hold("r1"))
    await join("writer")
    assert await book_orphans(database, not_of=leader.alive()) == []
    stranger = await open_postgres_beside(database)
    assert [each["request_id"] for each in stranger] == ["r1"]


async def open_postgres_beside(database: Database) -> list[dict[str, object]]:
    """What is booked when nobody is known to be alive."""
    return await book_orphans(database, not_of=AloneInstance("nobody").alive())


async def test_a_leader_buries_nobody_before_it_has_led_long_enough(join: Join) -> None:
    leader = await join("a")
    assert leader.is_leader
    assert not leader.may_bury()
    await until(leader.may_bury)


async def test_a_database_that_cannot_be_reached_is_an_error_of_the_settings(own_server: PostgresServer) -> None:
    url = own_server.url
    own_server.stop()
    with pytest.raises(ConfigError, match="GATEWAY_DATABASE_URL"):
        await SharedInstances(url, "a").start()


async def test_a_leader_that_was_cut_off_for_a_moment_buries_nobody_until_it_was_seen_for_long_enough_again(
    join: Join, own_server: PostgresServer
) -> None:
    said: list[bool] = []
    leader = await join("a")
    await until(leader.may_bury)
    leader.on_heard = said.append
    own_server.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'gateway inst%'"
    )
    await until(lambda: said == [False, True])
    assert leader.is_leader
    assert not leader.may_bury()


async def test_a_clock_that_is_set_forward_makes_nobody_dead(join: Join, database: Database, url: str) -> None:
    leader = await join("a")
    await join("writer")
    await database.ledger.hold(hold("r1"))
    # As it is until the next beat: what was written by the clock of before is old by the one of now.
    leader._clock_ahead_ms -= 60_000
    for name in ("a", "writer"):
        await database.ledger.write(
            update(schema.instances)
            .where(schema.instances.c.id == name)
            .values(seen_at=schema.instances.c.seen_at - 60_000)
        )
    assert await book_orphans(database, not_of=leader.alive()) == []


async def test_no_way_of_counting_is_agreed_on_while_a_new_clock_hides_who_is_there(join: Join) -> None:
    first = await join("a")
    await until(lambda: first.counting == "shared")
    first._clock_ahead_ms -= 60_000
    blind_before = first._blind_until
    await until(lambda: first._blind_until > blind_before)
    first.wants_local = True
    await until(lambda: first.counting == "paused")
    blind_for_s = first._blind_until - time.monotonic()
    await until(lambda: first.counting == "local")
    assert blind_for_s > LEASE_S / 2
    assert time.monotonic() >= first._blind_until


async def test_a_server_that_is_slow_to_connect_to_is_connected_to(
    own_server: PostgresServer, url: str, database: Database
) -> None:
    with Way(own_server) as way:
        way.delay_s = 0.2
        instances = SharedInstances(way.url(url), "a", lease_s=LEASE_S)
        await instances.start()
        assert instances.is_heard
        await instances.aclose()


async def test_what_was_said_over_a_connection_that_was_given_up_is_not_said_later(
    join: Join, own_server: PostgresServer
) -> None:
    said: list[bool] = []
    instances = await join("a")
    instances.on_heard = said.append
    with own_server.session(database="shared") as before:
        before.query("SET application_name = 'gateway instance a'")
        assert instances._link is not None
        instances._link.terminate()
        await until(lambda: said == [False, True])
        with pytest.raises((OSError, PostgresError)):
            before.query("SELECT 1")
