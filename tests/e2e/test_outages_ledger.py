"""When the ledger is away: the rows of the README's table, each against real processes and a real PostgreSQL; and what
becomes of what is owed meanwhile, on local disk.

As in test_outages.py, on a pair of processes and on one that counts in its memory. Elsewhere:
- a file of SQLite cannot be written, because its disk is full or somebody has it locked: tests/ledger/test_writer.py,
  test_storage.py and test_hostile_machine.py
- a connection is cut in the middle of a COMMIT: tests/ledger/test_postgres_faults.py
- what a spool of a dead process holds, byte by byte: tests/ledger/test_spool.py
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import pytest

from tests.rig.environment import has_all_outages
from tests.rig.outage_world import (
    BACK_WITHIN_S,
    Customer,
    Group,
    Outage,
    Site,
    UnderWay,
    booked_late,
    full_disk,
    postgres_is_stopped,
    postgres_starts,
    recomputes,
    redis_is_stopped,
    redis_starts,
    site_of,
    under_way,
)
from tests.rig.upstream import Upstream
from tests.rig.waiting import eventually, soon
from tests.servers.postgres_wire import PostgresError

CAPACITY = 30
"""Calls that a quota has room for."""
BEFORE, AFTER = 4, 40


@pytest.fixture(scope="module")
def shared(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_of(tmp_path_factory.mktemp("outages-of-ledgers"), upstream, "lone") as site:
        yield site


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    yield shared
    shared.whole()


def postgres_is_frozen(site: Site) -> None:
    site.postgres.freeze()


def postgres_goes_on(site: Site) -> None:
    site.postgres.thaw()


def postgres_takes_three_seconds(site: Site) -> None:
    site.postgres_way.delay_s = 3.0


def postgres_is_quick_again(site: Site) -> None:
    site.postgres_way.delay_s = 0.0


class OutOfConnections:
    """Others have taken all of them, those of the gateways too."""

    def __init__(self) -> None:
        self._taken = ExitStack()

    def begin(self, site: Site) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: self._take(site), range(4)))
        site.postgres.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'gateway%'"
        )
        eventually(lambda: self._take(site), "the last connections to be taken")

    def _take(self, site: Site) -> bool:
        try:
            while True:
                self._taken.enter_context(site.postgres.session())
        except PostgresError as refusal:
            assert refusal.code == "53300"  # noqa: PT017
            return True

    def end(self, site: Site) -> None:
        self._taken.close()


FULL = OutOfConnections()
POSTGRES_ROWS = [
    pytest.param(Outage(postgres_is_stopped, postgres_starts), id="stopped"),
    pytest.param(Outage(postgres_is_frozen, postgres_goes_on), id="frozen"),
    pytest.param(Outage(FULL.begin, FULL.end), id="out-of-connections"),
]
if has_all_outages():  # to the gateway as if it were frozen
    POSTGRES_ROWS.append(pytest.param(Outage(postgres_takes_three_seconds, postgres_is_quick_again), id="slow"))


class Flight(NamedTuple):
    customer: Customer
    flying: UnderWay


async def flight_of(site: Site, group: Group, calls: int = 2) -> Flight:
    customer = site.customer(group, quota_usd_per_month=CAPACITY)
    assert await customer.crowd(BEFORE) == {200: BEFORE}
    return Flight(customer, await under_way(customer, calls))


async def takes_nothing_and_finishes_all(flight: Flight) -> None:
    """While the ledger is away: at once, and when it is noticed by everybody."""
    customer, flying = flight
    asked = len(customer.script.requests)
    assert await customer.crowd(6) == {503: 6}
    await customer.group.says_of_itself("unavailable", database=1)
    await flying.finish_well()
    assert await customer.crowd(6) == {503: 6}
    assert len(customer.script.requests) == asked, "nobody was dialled"
    spooled = await customer.group.metric("gateway_spooled_settles")
    assert sum(spooled) == len(flying.calls) + len(flying.streams), "what is owed is on disk"


async def takes_all_again(flight: Flight) -> None:
    customer, _ = flight
    await customer.group.says_of_itself("ok", database=0, counters=0)
    await customer.crowd(AFTER)
    assert customer.succeeded == CAPACITY
    await customer.agree()
    assert sum(await customer.group.metric("gateway_spooled_settles")) == 0
    await recomputes(customer.group)


@pytest.mark.parametrize("outage", POSTGRES_ROWS)
async def test_without_the_ledger_nothing_begins_and_what_is_in_flight_ends_well(site: Site, outage: Outage) -> None:
    flights = await asyncio.gather(*(flight_of(site, group) for group in site.groups))
    await asyncio.to_thread(outage.begin, site)
    await asyncio.gather(*map(takes_nothing_and_finishes_all, flights))
    await asyncio.to_thread(outage.end, site)
    await asyncio.gather(*map(takes_all_again, flights))


async def test_a_ledger_that_is_a_little_slow_delays_calls_and_nothing_else(site: Site) -> None:
    customer = site.customer(site.pair, quota_usd_per_month=10)
    site.postgres_way.delay_s = 0.05
    assert set(await customer.crowd(16)) <= {200, 429}
    await site.pair.says_of_itself("ok", database=0)
    site.postgres_way.delay_s = 0.0
    await customer.nothing_held()
    await customer.crowd(16)
    assert customer.succeeded == 10
    await customer.agree()


@contextmanager
def locks_in_the_way(site: Site, group: Group, creator: str) -> Iterator[Callable[[], int]]:
    """Another session has what a settle needs last, and asks for what it has first: one of both is ended, and is the
    gateway's. Called, it tells how many that were."""
    database = group.first.environment["GATEWAY_DATABASE_URL"].rpartition("/")[2]

    def ended() -> int:
        return site.postgres.log.count("deadlock detected")

    with (
        site.postgres.session(database=database, user="postgres") as session,
        ThreadPoolExecutor(1) as thread,
    ):
        before = ended()
        session.query(f"BEGIN; UPDATE usage_daily SET calls = calls WHERE creator = '{creator}'")
        held = f"SELECT id FROM holds WHERE creator = '{creator}' FOR UPDATE"
        asking = thread.submit(lambda: _ask_when_somebody_waits(site, database, session.query, held))
        yield lambda: ended() - before
        asking.result(BACK_WITHIN_S)
        session.query("ROLLBACK")


def _ask_when_somebody_waits(site: Site, database: str, query: Callable[[str], object], sql: str) -> None:
    waiting = (
        f"SELECT 1 FROM pg_stat_activity WHERE datname = '{database}' AND wait_event_type = 'Lock' "
        "AND application_name LIKE 'gateway writer%'"
    )
    eventually(lambda: site.postgres.query(waiting), "a settle that waits")
    query("SET LOCAL deadlock_timeout = '60s'")
    query(sql)
    query("ROLLBACK")


async def test_settles_that_a_deadlock_ends_are_repeated_and_nobody_is_told(site: Site) -> None:
    flights = await asyncio.gather(*(flight_of(site, group) for group in site.groups))
    for customer, flying in flights:
        with locks_in_the_way(site, customer.group, customer.key.creator) as ended:
            await flying.finish_well()
            await soon(lambda: ended() >= 1, "a deadlock")
    await asyncio.gather(*map(takes_all_again, flights))


# Both, and what is on local disk


async def test_without_both_nothing_begins_and_what_is_in_flight_ends_well(site: Site) -> None:
    """The ledger comes back first, and Redis when the processes have agreed to do without."""
    flight = await flight_of(site, site.pair)
    await asyncio.gather(asyncio.to_thread(redis_is_stopped, site), asyncio.to_thread(postgres_is_stopped, site))
    await takes_nothing_and_finishes_all(flight)
    await asyncio.to_thread(postgres_starts, site)
    await site.pair.says_of_itself("degraded", counters=1, database=0)
    assert set(await flight.customer.crowd(6)) <= {200, 429, 503}
    await asyncio.to_thread(redis_starts, site)
    await takes_all_again(flight)


async def test_what_was_answered_while_the_ledger_was_away_is_booked_though_the_process_is_killed(site: Site) -> None:
    flights = await asyncio.gather(flight_of(site, site.pair, 9), flight_of(site, site.other, 19))
    await asyncio.to_thread(postgres_is_stopped, site)
    for customer, flying in flights:
        assert len(flying.calls) + len(flying.streams) == 20
        await flying.finish_well()
        assert sum(await customer.group.metric("gateway_spooled_settles")) == 20
    for gateway in site.gateways:
        gateway.kill9()
    await asyncio.to_thread(postgres_starts, site)
    await asyncio.to_thread(site.start)
    for customer, flying in flights:
        entries = await customer.agree()
        assert len(entries) == BEFORE + 20
        assert {entry["kind"] for entry in entries} == {"usage"}
        await takes_all_again(Flight(customer, flying))
        for gateway in customer.group.gateways:
            left = [file for file in (gateway.data_dir / "spool").iterdir() if file.stat().st_size]
            assert left == []


async def test_without_ledger_and_local_disk_nobody_is_told_success_and_nothing_is_lost(site: Site) -> None:
    customer, flying = await flight_of(site, site.other)
    with full_disk(site.other):
        await asyncio.to_thread(postgres_is_stopped, site)
        assert await customer.crowd(4) == {503: 4}
        await flying.finish_unbooked()
        assert sum(await site.other.metric("gateway_spooled_settles")) == 0
        await asyncio.to_thread(postgres_starts, site)
        await soon(site.other.first.is_ready, "a ledger that can be written")
    await booked_late(customer)
