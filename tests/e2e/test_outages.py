"""When Redis is away: the rows of the README's table, each against real processes and a real Redis.

Each says what new calls get and how soon, what calls in flight get, what a process says of itself meanwhile, and that
afterwards all is as it was without a restart: nothing held, every call booked once, no limit given out twice.

The rows of the database, of both at once and of local disk are in test_outages_ledger.py. Elsewhere:
- Redis is away when the first process starts, or does not know the password any more: test_redis.py
- three processes and a crowd while it restarts: test_many_processes.py
- a clock steps; no test can set the clock of this machine. Counters: test_counter_contract.py, test_redis_counters.py and
  test_redis_epochs.py in tests/counters; windows, months and free images of whole calls: tests/test_periods_of_calls.py;
  holds of a dead process: tests/test_restart.py
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest

from tests.rig.environment import has_all_outages
from tests.rig.outage_world import (
    Customer,
    Group,
    Outage,
    Site,
    UnderWay,
    booked_late,
    full_disk,
    recomputes,
    redis_is_stopped,
    redis_starts,
    site_of,
    under_way,
)
from tests.rig.upstream import Upstream
from tests.rig.waiting import eventually, soon
from tests.servers.redis_server import RedisServer

CAPACITY = 30
"""Calls that an hour or a quota has room for."""
BEFORE, DURING, AFTER = 4, 16, 40
"""Crowds: together they ask for more than there is."""


@pytest.fixture(scope="module")
def shared(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_of(tmp_path_factory.mktemp("outages"), upstream, "filed") as site:
        yield site


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    yield shared
    shared.whole()


def redis_is_frozen(site: Site) -> None:
    site.redis.freeze()


def redis_goes_on(site: Site) -> None:
    site.redis.thaw()


def redis_takes_three_seconds(site: Site) -> None:
    site.redis_way.delay_s = 3.0


def redis_is_quick_again(site: Site) -> None:
    site.redis_way.delay_s = 0.0


REDIS_ROWS = [pytest.param(Outage(redis_is_stopped, redis_starts), id="refused")]
if has_all_outages():  # to the gateway they are the same; a frozen one is met by one process in test_redis.py
    REDIS_ROWS += [
        pytest.param(Outage(redis_is_frozen, redis_goes_on), id="frozen"),
        pytest.param(Outage(redis_takes_three_seconds, redis_is_quick_again), id="slow"),
    ]


class Room(NamedTuple):
    """The customers of one group in one row."""

    hourly: Customer
    """Limited by requests."""
    moneyed: Customer
    """Limited by money, and with calls in flight."""
    refusing: Customer
    """Whose plan has calls refused while nobody can count for all."""
    generous: Customer
    """Whose plan lets its requests go then: five in an hour, and a quota of twenty dollars."""
    flying: UnderWay

    @property
    def customers(self) -> Sequence[Customer]:
        return self.hourly, self.moneyed, self.refusing, self.generous


async def room_of(site: Site, group: Group) -> Room:
    hourly = site.customer(group, requests_per_hour=CAPACITY)
    moneyed = site.customer(group, quota_usd_per_month=CAPACITY)
    room = hourly, moneyed, site.customer(group, "refusing"), site.customer(group, "generous")
    for customer in room:
        assert await customer.crowd(BEFORE) == {200: BEFORE}
    return Room(*room, await under_way(moneyed, calls=1))


async def counts_locally(room: Room) -> None:
    """While Redis is away: at once, as soon as the processes have agreed, and when calls in flight end."""
    group = room.moneyed.group
    for customer in (room.hourly, room.moneyed):
        # Whoever comes before the processes have agreed waits a little, or is refused.
        assert set(await customer.crowd(DURING // 2)) <= {200, 503}
    await group.says_of_itself("degraded", counters=1, database=0)
    for customer in (room.hourly, room.moneyed):
        told = await customer.crowd(DURING // 2)
        assert set(told) <= {200, 429, 503}
    assert room.hourly.succeeded > BEFORE, "each process gives out its share of what is left"
    assert room.moneyed.succeeded > BEFORE
    assert await room.refusing.crowd(4) == {503: 4}
    told = await room.generous.crowd(40)
    assert BEFORE + told[200] > 5, "what the plan allows"
    assert room.generous.succeeded <= 20, "its money is bounded all the same"
    await room.flying.finish_well()
    await soon(lambda: group.first.open_holds() == 0, "the entries of what was in flight, while Redis is away")


async def counts_together_again(room: Room) -> None:
    await room.moneyed.group.says_of_itself("ok", counters=0, database=0)
    for customer in (room.hourly, room.moneyed):
        await customer.crowd(AFTER)
    assert room.moneyed.succeeded == CAPACITY, "no dollar twice, and none lost"
    # What was asked of a Redis that never answered may be counted, though the call never began.
    assert CAPACITY // 2 < room.hourly.succeeded <= CAPACITY
    assert await room.generous.crowd(4) == {429: 4}, "what it had meanwhile counts"
    assert await room.refusing.crowd(4) == {200: 4}
    for customer in room.customers:
        await customer.agree()
    await recomputes(room.moneyed.group)


@pytest.mark.parametrize("outage", REDIS_ROWS)
async def test_without_redis_each_process_gives_out_its_share_of_every_limit(site: Site, outage: Outage) -> None:
    groups = site.groups
    rooms = await asyncio.gather(*(room_of(site, group) for group in groups))
    await asyncio.to_thread(outage.begin, site)
    await asyncio.gather(*map(counts_locally, rooms))
    await asyncio.to_thread(outage.end, site)
    await asyncio.gather(*map(counts_together_again, rooms))


async def test_a_redis_that_is_a_little_slow_delays_calls_and_nothing_else(site: Site) -> None:
    customer = site.customer(site.pair, requests_per_hour=10)
    site.redis_way.delay_s = 0.15
    told = await customer.crowd(20)
    assert told == {200: 10, 429: 10}
    await site.pair.says_of_itself("ok", counters=0)
    site.redis_way.delay_s = 0.0
    await customer.agree()


def redis_is_flushed(site: Site, replica: RedisServer) -> None:
    site.redis.flush()


def redis_fails_over(site: Site, replica: RedisServer) -> None:
    """To a replica that never had the last writes."""
    site.redis.kill9()
    site.redis_way.lead_to(replica)


@pytest.fixture
def replica(site: Site) -> Iterator[RedisServer]:
    """In step with the Redis of all. Where it is the first one, Redis takes another name for what it has, and the counters
    are made anew."""

    def rebuilds() -> list[int]:
        return [len(gateway.log_lines("counters_rebuilt")) for gateway in (*site.pair.gateways, site.other.first)]

    def name() -> str:
        return site.redis.info("replication")["master_replid"]

    name_before, before = name(), rebuilds()
    with RedisServer(replicaof=site.redis) as replica:
        replica.synced()
        if name() != name_before:
            eventually(lambda: sum(rebuilds()[:2]) > sum(before[:2]) and rebuilds()[2] > before[2], "rebuilds")
        yield replica


@pytest.mark.parametrize("lose", [redis_is_flushed, redis_fails_over])
async def test_what_redis_loses_is_counted_again_from_the_ledger(
    site: Site, replica: RedisServer, lose: Callable[[Site, RedisServer], None]
) -> None:
    groups = site.groups
    rooms = await asyncio.gather(*(_lost_room(site, group) for group in groups))
    replica.synced().promote()
    for hourly, moneyed, _ in rooms:
        assert await hourly.crowd(BEFORE) == await moneyed.crowd(BEFORE) == {200: BEFORE}
    await asyncio.to_thread(lose, site, replica)
    await asyncio.gather(*map(_is_counted_again, rooms))
    await asyncio.to_thread(site.whole)
    for _, moneyed, _ in rooms:
        # Back with the first one: until somebody has noticed, calls are refused.
        assert set(await moneyed.crowd(BEFORE)) <= {429, 503}
        await moneyed.group.says_of_itself("ok", counters=0)
        assert await moneyed.crowd(BEFORE) == {429: BEFORE}, "what the first one missed counts"


async def _lost_room(site: Site, group: Group) -> tuple[Customer, Customer, UnderWay]:
    hourly = site.customer(group, requests_per_hour=CAPACITY)
    moneyed = site.customer(group, quota_usd_per_month=CAPACITY)
    assert await hourly.crowd(BEFORE) == await moneyed.crowd(BEFORE) == {200: BEFORE}
    return hourly, moneyed, await under_way(moneyed, calls=1)


async def _is_counted_again(room: tuple[Customer, Customer, UnderWay]) -> None:
    hourly, moneyed, flying = room
    for customer in (hourly, moneyed):
        assert set(await customer.crowd(DURING)) <= {200, 503}
    await flying.finish_well()
    await moneyed.group.says_of_itself("ok", counters=0)
    for customer in (hourly, moneyed):
        await customer.crowd(AFTER)
        await customer.agree()
    assert moneyed.succeeded == CAPACITY
    assert CAPACITY // 2 < hourly.succeeded <= CAPACITY
    await recomputes(moneyed.group)


if has_all_outages():  # starts take a while

    async def test_a_process_that_starts_without_redis_takes_its_share_if_others_count_already(site: Site) -> None:
        """One that would be the first does not start (test_redis.py)."""
        first, second = site.fleet.gateways
        moneyed = site.customer(site.pair, quota_usd_per_month=CAPACITY)
        assert await moneyed.crowd(BEFORE) == {200: BEFORE}
        site.pair.gateways = [first]
        try:
            assert await asyncio.to_thread(second.stop) == 0
            await asyncio.to_thread(redis_is_stopped, site)
            await site.pair.says_of_itself("degraded", counters=1)
            assert set(await moneyed.crowd(BEFORE)) <= {200, 503}
            await asyncio.to_thread(second.start)
        finally:
            site.pair.gateways = [first, second]
        await site.pair.says_of_itself("degraded", counters=1)
        assert set(await moneyed.crowd(AFTER)) <= {200, 429, 503}
        await asyncio.to_thread(redis_starts, site)
        await site.pair.says_of_itself("ok", counters=0)
        await moneyed.crowd(AFTER)
        assert moneyed.succeeded == CAPACITY
        await moneyed.agree()
        await recomputes(site.pair)


# The disk


async def test_while_the_disk_of_the_file_is_full_nothing_begins_and_nobody_is_told_success(site: Site) -> None:
    customer = site.customer(site.other, quota_usd_per_month=CAPACITY)
    assert await customer.crowd(BEFORE) == {200: BEFORE}
    flying = await under_way(customer, calls=2)
    asked = len(customer.script.requests)
    with full_disk(site.other):
        assert await customer.crowd(BEFORE) == {503: BEFORE}
        await site.other.says_of_itself("unavailable", database=1)
        await flying.finish_unbooked()
        assert len(customer.script.requests) == asked
    await site.other.says_of_itself("ok", database=0)
    await booked_late(customer)
