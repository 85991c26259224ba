"""Counters in Redis when the server was flushed, restarted, promoted, frozen or is gone: nothing free, nothing double, and
nobody waits long for what is not there."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from gateway.counters.base import CounterSeeds, CountersUnavailable, Taken
from gateway.counters.redis import RedisCounters
from gateway.counters.redis_epochs import Pace
from gateway.counters.redis_holds import restore_arguments
from gateway.counters.redis_link import Limits
from gateway.counters.redis_scripts import RESTORE
from gateway.counters.redis_seeds import RebuildSeeds
from gateway.errors import StoreError
from gateway.tasks import spawn
from policies.types import Limit
from tests.counters.backend import admitted, gauge, in_groups, money, refused, requests, tokens
from tests.rig.waiting import soon
from tests.servers.redis_server import PASSWORD, RedisServer

PACE = Pace(watch_s=0.03, gather_s=0.35, patience_s=15.0)
ALONE = PACE._replace(gather_s=0.0)
"""Where there is no other process to wait for."""
LIMITS = Limits(connect_timeout_s=0.3, command_timeout_s=0.3, connections_max=2)
MONTH_ENDS_AT = time.time() + 86_400
QUOTA = money(1_000, 100, key="quota:c/ada/2025-01")._replace(resets_at=MONTH_ENDS_AT)
CALLS = gauge(5)._replace(key="calls:c/ada")
HOURLY = requests(10, key="requests:c/ada/3600")
TOKENS = tokens(1_000, 50, key="tokens:c/ada/60")
EVERYTHING = [QUOTA, CALLS, HOURLY, TOKENS]
ACTUALS = {"nano_usd": 70, "token": 20}


class Ledger:
    """What the rebuild is filled from, and how often it was."""

    def __init__(self) -> None:
        self.spent = 0
        self.ended: set[str] = set()
        self.rebuilds = 0
        self.seen: frozenset[str] = frozenset()
        self.is_down = False
        self.tells_ended = False

    async def rebuild(self, seeds: CounterSeeds) -> None:
        self.rebuilds += 1
        if self.is_down:
            raise StoreError("The ledger is down.")
        await seeds.seed_settled(QUOTA.key, self.spent, resets_at=QUOTA.resets_at)
        assert isinstance(seeds, RebuildSeeds)
        self.seen = frozenset(seeds.hold_ids)
        if self.tells_ended:
            seeds.ended(self.ended)


ON_ITS_OWN = pytest.mark.parametrize("server", ["its own"], indirect=True)
"""For tests that stop the server or change how it works."""


@pytest.fixture
def server(request: pytest.FixtureRequest, counters_server: RedisServer) -> Iterator[RedisServer]:
    """The shared one, emptied, unless a test asks for its own."""
    if getattr(request, "param", None):
        with RedisServer() as server:
            yield server
    else:
        counters_server.flush()
        yield counters_server


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


Process = Callable[..., Awaitable[RedisCounters]]


@pytest.fixture
async def process(server: RedisServer, ledger: Ledger) -> AsyncIterator[Process]:
    """A gateway process, as far as counters go; there may be several."""
    started: list[RedisCounters] = []

    async def start(pace: Pace = PACE) -> RedisCounters:
        started.append(RedisCounters(server.url, rebuild=ledger.rebuild, pace=pace, limits=LIMITS))
        await started[-1].connect()
        return started[-1]

    yield start
    server.thaw()
    for counters in started:
        await counters.aclose()


async def take(counters: RedisCounters, hold_id: str, *limits: Limit) -> Taken:
    return admitted(await counters.take(hold_id, in_groups(limits or EVERYTHING)))


async def figures(counters: RedisCounters, *limits: Limit) -> list[tuple[int, int]]:
    return [(state.settled, state.held) for state in await counters.read(limits or EVERYTHING)]


async def unavailable(asked: Awaitable[Any]) -> CountersUnavailable:
    with pytest.raises(CountersUnavailable) as raised:
        await asked
    assert PASSWORD not in str(raised.value)
    assert raised.value.status == 503
    return raised.value


async def is_back(counters: RedisCounters) -> None:
    await soon(lambda: counters.is_available, "the counters to be there again")


# A start


async def test_the_first_process_fills_the_counters_and_the_others_find_them(process: Process, ledger: Ledger) -> None:
    ledger.spent = 300
    first, second, third = await asyncio.gather(process(), process(), process())
    assert ledger.rebuilds == 1
    for counters in (first, second, third):
        assert await figures(counters, QUOTA) == [(300, 0)]


async def test_a_lock_that_a_dead_process_left_lapses(server: RedisServer, process: Process, ledger: Ledger) -> None:
    server.command("SET", "gw:rebuild", "somebody", "PX", 400)
    counters = await process(ALONE)
    assert ledger.rebuilds == 1
    assert await figures(counters, QUOTA) == [(0, 0)]


# Data that is lost


@pytest.mark.parametrize("is_told", [False, True])
async def test_after_a_flush_nothing_is_free_and_nothing_double(
    server: RedisServer, process: Process, ledger: Ledger, is_told: bool
) -> None:
    """Two processes with calls in flight. What has ended comes from the ledger, what has not from whoever serves it."""
    ledger.tells_ended = is_told
    first, second = await process(), await process()
    for number in range(3):
        await take(first, f"a{number}")
    await take(second, "b")
    await first.settle("a0", ACTUALS)
    ledger.spent, ledger.ended = 70, {"a0"}
    server.flush()
    assert await figures(first) == [(70, 300), (0, 3), (3, 0), (0, 150)]
    assert ledger.rebuilds == 2
    assert ledger.seen == {"a1", "a2", "b"}
    assert await figures(second) == [(70, 300), (0, 3), (3, 0), (0, 150)]
    assert refused(await second.take("c", in_groups([QUOTA._replace(amount=700)]))).held_by_others
    await first.settle("a1", ACTUALS)
    await first.release("a2")
    await second.settle("b", {"nano_usd": 90, "token": 20})
    assert await figures(first) == [(230, 0), (0, 0), (3, 0), (40, 0)]
    assert (first.open_holds, second.open_holds) == (0, 0)


async def test_calls_in_the_middle_of_a_flush_wait_and_none_is_admitted_twice(
    server: RedisServer, process: Process, ledger: Ledger
) -> None:
    processes = [await process() for _ in range(3)]
    limit = QUOTA._replace(amount=50)

    async def call(number: int) -> bool:
        if number == 20:
            server.flush()
        return isinstance(await processes[number % 3].take(f"h{number}", [(limit,)]), Taken)

    answers = await asyncio.gather(*(call(number) for number in range(60)))
    assert sum(answers) == 20
    assert await figures(processes[0], QUOTA) == [(0, 1_000)]


async def test_a_call_that_was_ending_when_the_data_was_lost_ends_once(
    server: RedisServer, process: Process, ledger: Ledger
) -> None:
    """The ledger has its entry already, and says so."""
    ledger.tells_ended = True
    counters = await process(ALONE)
    await take(counters, "a")
    await take(counters, "b")
    server.flush()
    ledger.spent, ledger.ended = 70, {"a"}
    await counters.settle("a", ACTUALS)
    await counters.settle("b", ACTUALS)
    assert (await figures(counters, QUOTA))[0][0] in (70, 140)
    await soon(lambda: counters.open_holds == 0, "both endings to be told")
    assert await figures(counters, QUOTA, CALLS) == [(140, 0), (0, 0)]


async def test_a_server_that_comes_back_with_old_data_is_not_believed(ledger: Ledger) -> None:
    """It kept its counters, and its epoch; but what it kept may lack the last second."""
    with RedisServer(appendonly=True) as server:
        counters = RedisCounters(server.url, rebuild=ledger.rebuild, pace=ALONE, limits=LIMITS)
        try:
            await take(counters, "a")
            ledger.spent = 500
            server.restart()
            await is_back(counters)
            await soon(lambda: ledger.rebuilds == 2, "the restart to be noticed")
            assert await figures(counters, QUOTA, CALLS) == [(500, 100), (0, 1)]
            former = [str(key) for key in _keys(server, "gw:{ada}:*")]
            await soon(lambda: len({key.split(":")[2] for key in _keys(server, "gw:{ada}:*")}) == 1, f"{former} to go")
        finally:
            await counters.aclose()


async def test_a_restart_that_nobody_was_connected_to_see_is_noticed(ledger: Ledger) -> None:
    """Connections that lie idle are opened anew before the watch looks: they look themselves."""
    with RedisServer(appendonly=True) as server:
        pace = ALONE._replace(watch_s=30.0)
        counters = RedisCounters(server.url, rebuild=ledger.rebuild, pace=pace, limits=LIMITS)
        try:
            await take(counters, "a")
            ledger.spent = 500
            server.restart()
            await unavailable(counters.preview(in_groups([QUOTA])))
            await is_back(counters)
            assert await figures(counters, QUOTA) == [(500, 100)]
        finally:
            await counters.aclose()


def _keys(server: RedisServer, pattern: str) -> list[str]:
    found: Any = server.command("KEYS", pattern)
    return [str(key) for key in found]


@ON_ITS_OWN
async def test_a_replica_is_refused_until_it_is_promoted_and_then_filled(server: RedisServer, ledger: Ledger) -> None:
    with RedisServer(replicaof=server) as replica:
        replica.synced()
        counters = RedisCounters(replica.url, rebuild=ledger.rebuild, pace=ALONE, limits=LIMITS)
        try:
            assert "replica" in (await unavailable(counters.connect())).message
            replica.promote()
            await is_back(counters)
            await take(counters, "a")
            assert ledger.rebuilds == 1
        finally:
            await counters.aclose()


@ON_ITS_OWN
async def test_a_primary_that_was_demoted_takes_nothing(server: RedisServer, process: Process, ledger: Ledger) -> None:
    counters = await process(ALONE)
    await take(counters, "a")
    with RedisServer() as other:
        server.command("REPLICAOF", "127.0.0.1", other.port)
        await soon(lambda: not counters.is_available, "the demotion to be noticed")
        await unavailable(counters.take("b", in_groups(EVERYTHING)))
    ledger.spent = 10
    server.command("REPLICAOF", "NO", "ONE")
    await is_back(counters)
    assert await figures(counters, QUOTA) == [(10, 100)]


@ON_ITS_OWN
async def test_a_server_that_throws_counters_away_is_not_believed(
    server: RedisServer, process: Process, ledger: Ledger
) -> None:
    counters = await process(ALONE)
    await take(counters, "a")
    ledger.spent = 40
    for number in range(20):
        server.command("SET", f"ballast{number}", "x" * 100_000)
    server.command("CONFIG", "SET", "maxmemory", int(server.info("memory")["used_memory"]) - 500_000)
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    server.command("SET", "more", "x")
    server.command("CONFIG", "SET", "maxmemory", 0)
    await soon(lambda: ledger.rebuilds >= 2, "the eviction to be noticed")
    assert await figures(counters, QUOTA) == [(40, 100)]


@pytest.mark.parametrize("step_s", [-7_200.0, 7_200.0])
async def test_a_server_whose_clock_jumped_is_not_believed(process: Process, ledger: Ledger, step_s: float) -> None:
    """It may have thrown away a month's figures as expired. (Told as if it had been elsewhere when the epoch began.)"""
    counters = await process(ALONE)
    await take(counters, "a")
    ledger.spent = 40
    counters._epochs._clock_ahead_s -= step_s
    counters._epochs.look()
    await soon(lambda: ledger.rebuilds == 2, "the jump to be noticed")
    assert await figures(counters, QUOTA) == [(40, 100)]


async def test_while_the_ledger_cannot_fill_them_callers_are_told_at_once(
    server: RedisServer, process: Process, ledger: Ledger
) -> None:
    counters = await process(ALONE)
    await take(counters, "a")
    ledger.is_down = True
    server.flush()
    assert "ledger" in (await unavailable(counters.take("b", in_groups(EVERYTHING)))).message
    assert "ledger" in (await unavailable(counters.read(EVERYTHING))).message
    await counters.settle("a", ACTUALS)
    ledger.is_down, ledger.spent = False, 70
    await is_back(counters)
    await soon(lambda: counters.open_holds == 0, "the ending to be told")
    assert await figures(counters, QUOTA, CALLS) == [(70, 0), (0, 0)]


async def test_a_process_that_was_cut_off_brings_its_calls_along_later(
    server: RedisServer, process: Process, ledger: Ledger
) -> None:
    """It had no chance to write them down for the rebuild."""
    counters = await process()
    await take(counters, "a")
    await counters._epochs.aclose()
    server.flush()
    other = await process()
    assert await figures(other, QUOTA) == [(0, 0)]
    await take(other, "b")
    assert await figures(counters, QUOTA, CALLS) == [(0, 200), (0, 2)]
    await counters.settle("a", ACTUALS)
    await other.settle("b", ACTUALS)
    assert await figures(other, QUOTA, CALLS) == [(140, 0), (0, 0)]


# A server that is gone, or silent


@ON_ITS_OWN
async def test_a_server_that_is_not_there_is_said_to_be(server: RedisServer, ledger: Ledger) -> None:
    server.stop()
    counters = RedisCounters(server.url, rebuild=ledger.rebuild, pace=ALONE, limits=LIMITS)
    try:
        await unavailable(counters.take("a", in_groups(EVERYTHING)))
        assert not counters.is_available
        server.start()
        await is_back(counters)
        await take(counters, "a")
    finally:
        await counters.aclose()


async def test_a_frozen_server_costs_one_wait_and_then_none(server: RedisServer, process: Process) -> None:
    counters = await process(ALONE)
    await take(counters, "a")
    server.freeze()
    answers = await asyncio.gather(
        *(counters.take(f"b{number}", in_groups(EVERYTHING)) for number in range(5)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [CountersUnavailable] * 5
    before = counters.round_trips
    for number in range(100):
        await unavailable(counters.take(f"c{number}", in_groups(EVERYTHING)))
    assert counters.round_trips - before <= 5  # those of the watch
    server.thaw()
    await is_back(counters)


async def test_what_a_call_took_that_was_not_told_so_is_given_back(server: RedisServer, process: Process) -> None:
    """The frozen server does it when it goes on, long after the caller has been refused."""
    counters = await process(ALONE)
    await take(counters, "a")
    server.freeze()
    await unavailable(counters.take("b", in_groups([QUOTA, CALLS])))
    server.thaw()
    await is_back(counters)
    await soon(lambda: counters.open_holds == 1, "the given up call to be given back")
    assert await figures(counters, QUOTA, CALLS) == [(0, 100), (0, 1)]
    await counters.settle("a", ACTUALS)
    assert await figures(counters, QUOTA, CALLS) == [(70, 0), (0, 0)]


async def test_a_call_that_was_given_up_is_never_taken_afterwards(server: RedisServer, process: Process) -> None:
    """Should its command arrive after all that was said of it since."""
    counters, late = await process(), await process()
    await take(counters, "a")
    server.freeze()
    await unavailable(counters.take("b", in_groups([QUOTA, CALLS])))
    await unavailable(counters.take("b", in_groups([QUOTA, CALLS])))
    server.thaw()
    await is_back(counters)
    await soon(lambda: counters.open_holds == 1, "the given up call to be given back")
    await is_back(late)
    await unavailable(late.take("b", in_groups([QUOTA, CALLS])))
    assert await figures(counters, QUOTA, CALLS) == [(0, 100), (0, 1)]


async def test_a_caller_that_leaves_while_it_waits_holds_nothing(server: RedisServer, process: Process) -> None:
    counters = await process(ALONE)
    taking = spawn(counters.take("a", in_groups(EVERYTHING)), "a caller")
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    await soon(lambda: counters.open_holds == 0, "the call to be given back")
    assert await figures(counters, QUOTA, CALLS) == [(0, 0), (0, 0)]


async def test_endings_that_nobody_hears_are_told_again_once(server: RedisServer, process: Process) -> None:
    counters = await process(ALONE)
    await take(counters, "a")
    await take(counters, "b")
    server.freeze()
    await counters.settle("a", ACTUALS)
    await counters.settle("a", {"nano_usd": 7})
    await counters.release("b")
    assert counters.open_holds == 2
    server.thaw()
    await soon(lambda: counters.open_holds == 0, "the endings to be told")
    assert await figures(counters, QUOTA, CALLS, TOKENS) == [(70, 0), (0, 0), (20, 0)]


@ON_ITS_OWN
async def test_a_restart_without_any_data_loses_no_call_in_flight(
    server: RedisServer, process: Process, ledger: Ledger
) -> None:
    first, second = await process(), await process()
    await take(first, "a")
    await take(second, "b")
    server.kill9()
    await unavailable(first.take("c", in_groups(EVERYTHING)))
    await second.settle("b", ACTUALS)
    ledger.spent = 70
    server.start()
    for counters in (first, second):
        await is_back(counters)
    await soon(lambda: second.open_holds == 0, "the ending to be told")
    assert await figures(first, QUOTA, CALLS) == [(70, 100), (0, 1)]
    await first.settle("a", ACTUALS)
    assert await figures(second, QUOTA, CALLS) == [(140, 0), (0, 0)]


@ON_ITS_OWN
async def test_a_server_that_is_full_refuses_and_recovers(server: RedisServer, process: Process) -> None:
    counters = await process(ALONE)
    await take(counters, "a")
    server.command("CONFIG", "SET", "maxmemory", 1)
    await unavailable(counters.take("b", in_groups([QUOTA])))
    server.command("CONFIG", "SET", "maxmemory", 0)
    await soon(lambda: counters.open_holds == 1, "the given up call to be given back")
    await take(counters, "c", QUOTA)
    assert await figures(counters, QUOTA) == [(0, 200)]


async def test_a_hold_is_restored_once_however_often_that_is_told(process: Process) -> None:
    counters = await process(ALONE)
    await take(counters, "a")
    epoch = counters._epochs.epoch or ""
    ((hold_id, hold),) = counters._holds.outside("another epoch")
    seeds = RebuildSeeds(
        counters._link, counters._names, epoch, guard=counters._names.epoch, clock="", hold_ids=frozenset()
    )
    keys, limits = restore_arguments(hold, epoch, counters._names)
    for _ in range(2):
        await seeds.restore(RESTORE, keys, (hold_id, limits, counters._holds.process))
    await seeds.flush()
    assert await figures(counters) == [(0, 100), (0, 1), (1, 0), (0, 50)]


async def test_a_call_that_was_given_up_before_it_arrived_is_refused_when_it_does(process: Process) -> None:
    counters, late = await process(), await process()
    counters._holds.abandon("b", "ada", "")
    counters._epochs.look()
    await soon(lambda: counters.open_holds == 0, "the given up call to be told")
    assert "given up" in (await unavailable(late.take("b", in_groups(EVERYTHING)))).message
    assert await figures(counters) == [(0, 0)] * 4


async def test_a_wrong_password_is_told_without_it(server: RedisServer) -> None:
    counters = RedisCounters(server.url.replace(PASSWORD, f"wrong-{PASSWORD}"), pace=ALONE, limits=LIMITS)
    try:
        await unavailable(counters.connect())
    finally:
        await counters.aclose()
