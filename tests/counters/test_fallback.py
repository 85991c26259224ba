"""Counters that go on without their store: shared out among the processes that agreed on it, and one again afterwards.

`FALLBACK_LIVES` says how many random ones are lived; more than the suite's are drawn anew each time.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress

import pytest

from gateway.counters.base import CountersUnavailable, Refused, Taken
from gateway.counters.fallback import FallbackCounters, FallbackPace
from gateway.counters.redis import RedisCounters
from gateway.counters.redis_epochs import Pace
from gateway.counters.redis_link import Limits
from gateway.instances.base import AloneInstance
from gateway.tasks import spawn
from policies.types import Limit, LimitGroup
from tests.counters.agreement import Said, TableInstances
from tests.counters.backend import (
    admitted,
    credits_left,
    gauge,
    in_groups,
    money,
    refused,
    requests,
    shrinking,
    tokens,
)
from tests.counters.book import Book, Held
from tests.rig.environment import inherited
from tests.rig.waiting import soon
from tests.servers.redis_server import RedisServer

PACE = Pace(watch_s=0.03, gather_s=0.4, patience_s=10.0)
LIMITS = Limits(connect_timeout_s=0.25, command_timeout_s=0.25, connections_max=2)
FALLBACK = FallbackPace(watch_s=0.01, away_s=0.15, back_s=0.2, patience_s=3.0, ask_s=0.1)
IMPATIENT = FALLBACK._replace(patience_s=0.2)
MONTH_ENDS_AT = time.time() + 86_400


def of_ada(limit: Limit) -> Limit:
    """With the names that a creator's counters have, and a period of today's."""
    kind = limit.key.partition(":")[0]
    resets_at = None if limit.resets_at is None else MONTH_ENDS_AT
    return limit._replace(name=kind, key=f"{kind}:c/ada", resets_at=resets_at)


HOURLY = of_ada(requests(60))
TOKENS = of_ada(tokens(400, 40))._replace(window_s=2)
BURST = of_ada(requests(20))._replace(key="requests:c/ada/2", window_s=2)
QUOTA = of_ada(money(3_000, 60))
SHRINKING = of_ada(shrinking(3_000, 200, 30))
CALLS = of_ada(gauge(9))
CREDITS = of_ada(credits_left(60, 2))
SHORT = [BURST, TOKENS]
EVERYTHING = [HOURLY, TOKENS, QUOTA, CALLS, CREDITS]
UNITS = {"token": 40, "nano_usd": 60, "credit": 2}


class Processes:
    """Processes of one gateway, as far as counters go."""

    def __init__(self, server: RedisServer, pace: FallbackPace = FALLBACK) -> None:
        self.server = server
        self.pace = pace
        self.book = Book()
        self.table: dict[str, Said] = {}
        self.instances: list[TableInstances] = []
        self.counters: list[FallbackCounters] = []
        self.stores: list[RedisCounters] = []
        self.serial = itertools.count()

    async def start(self, count: int) -> "Processes":
        for _ in range(count):
            self.instances.append(TableInstances(f"i{next(self.serial)}", self.table))
        await self.all_count("shared")
        for instance in self.instances:
            await self.attach(instance)
        return self

    async def join(self) -> FallbackCounters:
        """One more process, whether Redis is there or not."""
        self.instances.append(TableInstances(f"i{next(self.serial)}", self.table))
        return await self.attach(self.instances[-1])

    async def attach(self, instance: TableInstances | AloneInstance) -> FallbackCounters:
        is_alone = isinstance(instance, AloneInstance)
        store = RedisCounters(
            self.server.url,
            rebuild=self.book.fill,
            pace=PACE,
            limits=LIMITS,
            is_alone=is_alone,
            ended_among=self.book.ended_among,
        )
        counters = FallbackCounters(store, instance, self.book, pace=self.pace)
        self.stores.append(store)
        self.counters.append(counters)
        with suppress(CountersUnavailable):
            await store.connect()
        counters.start()
        return counters

    def __getitem__(self, number: int) -> FallbackCounters:
        return self.counters[number]

    async def all_count(self, how: str) -> None:
        await soon(lambda: all(each.counting == how for each in self.instances), f"all to count {how}")

    async def are_local(self) -> None:
        await soon(lambda: all("locally" in each.degraded for each in self.counters), "all to count locally")

    async def are_shared(self) -> None:
        await soon(lambda: not any(each.degraded for each in self.counters), "all to count in Redis again")

    async def take(self, number: int, *groups: Limit | LimitGroup) -> str | Refused:
        """A call: its hold is in the ledger at once."""
        hold_id = f"h{next(self.serial)}"
        answer = await self[number].take(hold_id, in_groups(groups or EVERYTHING))
        if isinstance(answer, Refused):
            return answer
        self.book.begin(hold_id, answer.states)
        return hold_id

    async def taken(self, number: int, *groups: Limit | LimitGroup) -> str:
        answer = await self.take(number, *groups)
        assert isinstance(answer, str), answer
        return answer

    async def settle(self, number: int, hold_id: str, **actuals: int) -> None:
        self.book.end(hold_id, actuals)
        await self[number].settle(hold_id, actuals)

    async def figures(self, number: int, *limits: Limit) -> list[tuple[int, int]]:
        return [(state.settled, state.held) for state in await self[number].read(limits or EVERYTHING)]

    async def fill_up(self, *limits: Limit) -> list[int]:
        """How many calls each process lets through, in turns, until none does any more."""
        given = [0] * len(self.counters)
        left = set(range(len(given)))
        while left:
            for number in sorted(left):
                try:
                    answer = await self.take(number, *limits)
                except CountersUnavailable:
                    answer = refused(await self[number].take("none", in_groups([CALLS._replace(amount=10**6)])))
                if isinstance(answer, Refused):
                    left.discard(number)
                else:
                    given[number] += 1
        return given

    async def close(self) -> None:
        for counters in self.counters:
            await counters.aclose()
        for instance in self.instances:
            await instance.leave()


Start = Callable[..., Awaitable[Processes]]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def processes(server: RedisServer) -> AsyncIterator[Start]:
    if not server.is_running:
        server.start()
    server.thaw()
    server.flush()
    started: list[Processes] = []

    async def start(count: int, pace: FallbackPace = FALLBACK) -> Processes:
        started.append(Processes(server, pace))
        return await started[-1].start(count)

    yield start
    server.thaw()
    for each in started:
        await each.close()


# Away and back


async def test_calls_go_straight_to_the_store_while_it_answers(processes: Start) -> None:
    gateway = await processes(2)
    await gateway.taken(0)
    assert await gateway.figures(1) == [(1, 0), (0, 40), (0, 60), (0, 1), (0, 2)]
    assert [each.is_available for each in gateway.counters] == [True, True]
    assert [each.degraded for each in gateway.counters] == ["", ""]


async def test_each_process_gives_out_its_share_while_the_store_is_away(processes: Start, server: RedisServer) -> None:
    gateway = await processes(3)
    for number in range(3):
        await gateway.taken(number, HOURLY, CALLS)
    server.kill9()
    await gateway.are_local()
    assert gateway[0].is_available
    assert gateway[0].degraded == "counting locally, each of 3 processes with its share: Redis cannot be reached"
    assert await gateway.fill_up(HOURLY) == [19, 19, 19]
    assert await gateway.fill_up(CALLS) == [2, 2, 2]
    assert gateway.book.used(CALLS.key) == 9


async def test_what_was_taken_locally_counts_in_the_store_when_it_is_back(
    processes: Start, server: RedisServer
) -> None:
    gateway = await processes(2)
    before = [await gateway.taken(number) for number in range(2)]
    server.kill9()
    await gateway.are_local()
    meanwhile = [await gateway.taken(number) for number in range(2)]
    await gateway.settle(0, before[0], token=1, nano_usd=5, credit=1)
    await gateway.settle(0, meanwhile[0], token=2, nano_usd=6, credit=2)
    server.start()
    await gateway.are_shared()
    hourly, _, quota, calls, credit = await gateway.figures(1)
    assert (hourly, quota, calls, credit) == ((4, 0), (11, 120), (0, 2), (3, 4))
    await gateway.settle(1, before[1], token=1, nano_usd=7, credit=0)
    await gateway.settle(1, meanwhile[1], token=1, nano_usd=8, credit=0)
    hourly, _, quota, calls, credit = await gateway.figures(0)
    assert (hourly, quota, calls, credit) == ((4, 0), (26, 0), (0, 0), (3, 0))


async def test_a_call_that_costs_nothing_gives_back_its_share(processes: Start, server: RedisServer) -> None:
    gateway = await processes(2)
    server.kill9()
    await gateway.are_local()
    hold_id = await gateway.taken(0)
    assert await gateway.figures(0) == [(1, 0), (0, 40), (0, 60), (0, 1), (0, 2)]
    await gateway[0].release(hold_id)
    assert await gateway.figures(0) == [(1, 0), (0, 0), (0, 0), (0, 0), (0, 0)]


async def test_one_process_goes_on_with_all_that_is_left(server: RedisServer, processes: Start) -> None:
    gateway = Processes(server)
    counters = await gateway.attach(AloneInstance("alone"))
    try:
        before = await gateway.taken(0)
        server.kill9()
        await gateway.are_local()
        assert counters.degraded == "counting locally: Redis cannot be reached"
        assert await gateway.figures(0) == [(1, 0), (0, 40), (0, 60), (0, 1), (0, 2)]
        await gateway.settle(0, before, **UNITS)
        assert await gateway.fill_up(CALLS) == [9]
        assert await gateway.fill_up(HOURLY) == [59]
        server.start()
        await gateway.are_shared()
        assert (await gateway.figures(0))[3] == (0, 9)
        assert (await gateway.figures(0))[0] == (60, 0)
    finally:
        await gateway.close()


async def test_a_frozen_store_is_away_too(processes: Start, server: RedisServer) -> None:
    gateway = await processes(2)
    await gateway.taken(0)
    server.freeze()
    await gateway.are_local()
    await gateway.taken(1)
    server.thaw()
    await gateway.are_shared()
    assert (await gateway.figures(0))[:1] == [(2, 0)]


async def test_a_store_that_was_flushed_is_filled_and_nobody_counts_locally(
    processes: Start, server: RedisServer
) -> None:
    gateway = await processes(2)
    hold_id = await gateway.taken(0)
    await gateway.settle(0, hold_id, **UNITS)
    server.flush()
    await gateway.taken(1)
    assert (await gateway.figures(0))[2] == (60, 60)
    assert {instance.round for instance in gateway.instances} == {0}


async def test_who_calls_while_nothing_can_be_counted_waits_for_the_agreement(
    processes: Start, server: RedisServer
) -> None:
    gateway = await processes(2)
    server.kill9()
    await soon(lambda: not gateway.stores[0].is_reachable, "it to be missed")
    await gateway.taken(0)
    assert "locally" in gateway[0].degraded


async def test_nobody_counts_locally_before_all_have_stopped(processes: Start, server: RedisServer) -> None:
    """The other still has a call that is not in the ledger: what is left cannot be known."""
    gateway = await processes(2, IMPATIENT)
    gateway.book.is_down = True
    server.kill9()
    await soon(lambda: {each.counting for each in gateway.instances} == {"paused"}, "both to stop")
    with pytest.raises(CountersUnavailable) as raised:
        await gateway[0].take("h", in_groups([HOURLY]))
    assert raised.value.headers["retry-after"] == "1"
    assert not gateway[0].is_available
    gateway.book.is_down = False
    await gateway.are_local()
    await gateway.taken(0, HOURLY)


async def test_who_does_not_hear_of_the_others_gives_out_nothing(processes: Start, server: RedisServer) -> None:
    gateway = await processes(2, IMPATIENT)
    server.kill9()
    await gateway.are_local()
    gateway.instances[0].is_heard = False
    with pytest.raises(CountersUnavailable):
        await gateway[0].take("h", in_groups([HOURLY]))
    await gateway.taken(1, HOURLY)
    gateway.instances[0].is_heard = True
    await gateway.taken(0, HOURLY)


async def test_whoever_joins_later_gets_a_share_of_what_is_left_then(processes: Start, server: RedisServer) -> None:
    gateway = await processes(2)
    server.kill9()
    await gateway.are_local()
    assert await gateway.fill_up(CREDITS._replace(amount=15)) == [2, 2]
    gateway.book.end("h2", {"credit": 0})  # booked, though no counter has heard of it
    await gateway.join()
    await soon(lambda: {each.round for each in gateway.instances} == {2}, "a new agreement")
    await gateway.are_local()
    assert await gateway.fill_up(CREDITS._replace(amount=5)) == [1, 1, 1]
    assert gateway.book.used(CREDITS.key) == 60


async def test_places_of_calls_that_ended_elsewhere_are_given_out_again(processes: Start, server: RedisServer) -> None:
    gateway = await processes(2)
    open_calls = [await gateway.taken(1, CALLS) for _ in range(9)]
    server.kill9()
    await gateway.are_local()
    assert isinstance(await gateway.take(0, CALLS), Refused)
    for hold_id in open_calls:
        await gateway.settle(1, hold_id)
    for _ in range(4):
        await soon_taken(gateway, 0, CALLS)


async def soon_taken(gateway: Processes, number: int, limit: Limit) -> None:
    async with asyncio.timeout(10):
        while isinstance(await gateway.take(number, limit), Refused):
            await asyncio.sleep(0.01)


async def test_a_refund_counts_where_it_was_booked_and_in_the_next_epoch(processes: Start, server: RedisServer) -> None:
    gateway = await processes(2)
    hold_id = await gateway.taken(0)
    await gateway.settle(0, hold_id, **UNITS)
    server.kill9()
    await gateway.are_local()
    gateway.book.calls[hold_id].taken[QUOTA.key] = 10
    await gateway[0].adjust(QUOTA.key, -50, resets_at=MONTH_ENDS_AT)
    assert await gateway.figures(0, QUOTA) == [(10, 0)]
    server.start()
    await gateway.are_shared()
    assert await gateway.figures(1, QUOTA) == [(10, 0)]


async def test_plans_say_what_becomes_of_a_limit(processes: Start, server: RedisServer) -> None:
    gateway = await processes(2)
    server.kill9()
    await gateway.are_local()
    denied, allowed = QUOTA._replace(on_store_error="deny"), CALLS._replace(on_store_error="allow")
    with pytest.raises(CountersUnavailable, match="quota"):
        await gateway.take(0, HOURLY, denied)
    for _ in range(12):
        await gateway.taken(0, allowed)
    server.start()
    await gateway.are_shared()
    await gateway.taken(0, HOURLY, denied)
    assert await gateway.figures(0, HOURLY, QUOTA, CALLS) == [(1, 0), (0, 60), (0, 12)]


async def test_windows_can_be_filled_and_previews_made_while_the_store_is_away(
    processes: Start, server: RedisServer
) -> None:
    gateway = await processes(2)
    server.kill9()
    await gateway.are_local()
    await gateway[0].seed_rolling(HOURLY.key, 3_600, 60, [(5.0, 50)])
    await gateway[0].seed_settled(QUOTA.key, 2_000, resets_at=MONTH_ENDS_AT)
    assert await gateway.figures(0, HOURLY, QUOTA) == [(50, 0), (2_000, 0)]
    states = admitted(await gateway[0].preview(in_groups([HOURLY, QUOTA]))).states
    assert [state.taken for state in states] == [1, 60]
    assert await gateway.figures(0, HOURLY, QUOTA) == [(50, 0), (2_000, 0)]


async def test_a_hold_is_taken_once_wherever_it_is_counted(processes: Start, server: RedisServer) -> None:
    gateway = await processes(1)
    await gateway[0].take("before", in_groups([HOURLY, QUOTA]))
    server.kill9()
    await gateway.are_local()
    await gateway[0].take("after", in_groups([HOURLY, QUOTA]))
    for hold_id in ("before", "after"):
        with pytest.raises(ValueError, match="open already"):
            await gateway[0].take(hold_id, in_groups([HOURLY]))


# Random lives


async def test_nobody_waits_for_a_process_that_has_not_started_to_count(server: RedisServer, processes: Start) -> None:
    gateway = await processes(1)
    instance = TableInstances("late", gateway.table)
    counters = FallbackCounters(gateway.stores[0], instance, gateway.book)
    try:
        assert instance.has_stopped()
        counters.start()
        assert not instance.has_stopped()
    finally:
        await counters.aclose()
        await instance.leave()


class FrozenStore(RedisCounters):
    """Answers lie there until the process goes on."""

    def __init__(self, server: RedisServer, book: Book) -> None:
        super().__init__(server.url, rebuild=book.fill, pace=PACE, limits=LIMITS, ended_among=book.ended_among)
        self.goes_on = asyncio.Event()
        self.is_answered = asyncio.Event()

    async def take(self, hold_id: str, groups: Sequence[LimitGroup]) -> Taken | Refused:
        answer = await super().take(hold_id, groups)
        self.is_answered.set()
        await self.goes_on.wait()
        return answer


async def test_what_was_asked_before_a_process_was_frozen_is_not_taken_when_others_count_otherwise_by_then(
    server: RedisServer, processes: Start
) -> None:
    gateway = await processes(1)
    instance = TableInstances("frozen", gateway.table)
    gateway.instances.append(instance)
    store, now_s = FrozenStore(server, gateway.book), 0.0
    await store.connect()
    counters = FallbackCounters(store, instance, gateway.book, clock=lambda: now_s)
    await gateway.all_count("shared")
    counters.start()
    gateway.counters.append(counters)
    taking = spawn(counters.take("h", in_groups([HOURLY])), "take")
    await store.is_answered.wait()
    gateway.table["other"] = Said("shared", 0, wants_local=True)
    await soon(lambda: instance.counting == "paused", "it to be told to stop")
    now_s = 10.0
    store.goes_on.set()
    with pytest.raises(CountersUnavailable, match="was away"):
        await taking
    del gateway.table["other"]


class Life:
    """Calls on every process while the server comes and goes; nothing is ever given out twice."""

    def __init__(self, gateway: Processes, seed: int) -> None:
        self.gateway = gateway
        self.random = random.Random(seed)
        self.admitted: dict[str, list[tuple[float, float, Held]]] = {limit.key: [] for limit in SHORT}
        """Before and after each take of a short window, and the call."""
        self.is_over = False
        self.taken = dict.fromkeys(("shared", "local"), 0)

    async def live(self) -> None:
        gateway = self.gateway
        workers = [spawn(self.call(number), "calls") for number in range(len(gateway.counters)) for _ in range(4)]
        try:
            for number in range(3):
                await self.trouble("kill" if number == 0 else self.random.choice(["freeze", "kill", "flush", "blink"]))
            await gateway.are_shared()
        finally:
            self.is_over = True
            await asyncio.gather(*workers)
        await soon(lambda: not any(store.open_holds for store in gateway.stores), "Redis to be told all endings")

    async def trouble(self, kind: str) -> None:
        server = self.gateway.server
        await asyncio.sleep(self.random.uniform(0.1, 0.5))
        if kind == "flush":
            await asyncio.to_thread(server.flush)
        elif kind == "kill":
            await asyncio.to_thread(server.kill9)
            await asyncio.sleep(self.random.uniform(0.8, 1.5))
            await asyncio.to_thread(server.start)
        else:
            server.freeze()
            await asyncio.sleep(self.random.uniform(0.5, 1.5) if kind == "freeze" else 0.3)
            server.thaw()
        await asyncio.sleep(self.random.uniform(0.0, 1.5))

    async def call(self, number: int) -> None:
        gateway, rng = self.gateway, self.random
        while not self.is_over:
            limits = [limit for limit in (HOURLY, BURST, TOKENS, CALLS, CREDITS) if rng.random() < 0.25]
            limits += [rng.choice([QUOTA, SHRINKING])] if rng.random() < 0.4 or not limits else []
            before = time.time()
            try:
                hold_id = await gateway.take(number, *limits)
            except CountersUnavailable:
                hold_id = None
            if not isinstance(hold_id, str):
                await asyncio.sleep(rng.uniform(0.0, 0.03))
                continue
            self.taken["local" if "locally" in gateway.counters[number].degraded else "shared"] += 1
            self.check(before, gateway.book.calls[hold_id])
            await asyncio.sleep(rng.choice([0.0, 0.01, 0.05, 0.1, 0.6]))
            actuals = {unit: rng.randint(0, most // 4) for unit, most in UNITS.items() if rng.random() < 0.95}
            await gateway.settle(number, hold_id, **actuals)

    def check(self, before: float, call: Held) -> None:
        book, now = self.gateway.book, time.time()
        for limit in (HOURLY, QUOTA, CALLS, CREDITS):
            assert book.used(limit.key) <= limit.capacity, limit.name
        for limit in SHORT:
            if limit.key in call.taken:
                admitted = self.admitted[limit.key]
                admitted.append((before, now, call))
                # For sure within one window that ends now, whenever between before and after it was.
                since = now - limit.window_s
                assert sum(each.taken[limit.key] for began, _, each in admitted if began > since) <= limit.capacity


async def test_random_outages_multiply_no_limit(processes: Start) -> None:
    lives = int(inherited().get("FALLBACK_LIVES", "1"))
    seeds = [7] if lives == 1 else [random.randrange(10**9) for _ in range(lives)]
    for seed in seeds:
        gateway = await processes(3)
        life = Life(gateway, seed)
        try:
            await life.live()
            for number in range(3):
                hourly, quota, calls, credit = await gateway.figures(number, HOURLY, QUOTA, CALLS, CREDITS)
                wanted = [(gateway.book.used(limit.key), 0) for limit in (HOURLY, QUOTA, CALLS, CREDITS)]
                assert [hourly, quota, calls, credit] == wanted, f"seed {seed}"
            assert min(life.taken.values()) > 0, f"seed {seed}: {life.taken}"
        except AssertionError as error:
            error.add_note(f"seed {seed}, {life.taken}")
            raise
        await gateway.close()
        gateway.counters.clear()
        gateway.instances.clear()
        gateway.server.flush()
