"""Counting elsewhere for a while: afterwards the counters are the truth, whatever happened meanwhile and to whom."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from gateway.counters.base import CountersUnavailable, Taken
from gateway.tasks import spawn
from tests.counters.backend import in_groups
from tests.counters.redis_processes import ACTUALS, COST, EVERYTHING, PACE, QUOTA, Ledger, Process
from tests.rig.environment import inherited
from tests.rig.waiting import soon
from tests.servers.redis_server import RedisServer

Processes = list[Process]


@pytest.fixture
def server(counters_server: RedisServer) -> Iterator[RedisServer]:
    counters_server.flush()
    yield counters_server
    counters_server.thaw()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def processes(server: RedisServer, ledger: Ledger) -> AsyncIterator[Processes]:
    async with AsyncExitStack() as started:
        yield [await started.enter_async_context(Process(server, ledger)) for _ in range(3)]


def suspend(processes: Processes) -> None:
    for process in processes:
        process.suspend()


async def resume(processes: Processes) -> None:
    for process in processes:
        process.resume()
    for process in processes:
        await process.is_back()


async def require_truth(processes: Processes, ledger: Ledger) -> None:
    """They count in one epoch, and what it says is what the ledger says."""
    await soon(lambda: len({process.epoch for process in processes} - {None}) == 1, "one epoch")
    await soon(lambda: all(process.is_available for process in processes), "every process to count in it")
    for process in processes:
        assert await process.figures() == ledger.truth


# While it is suspended


async def test_nothing_is_taken_and_nothing_waits(processes: Processes) -> None:
    first = processes[0]
    await first.begin("a")
    first.suspend()
    assert not first.is_available
    groups = in_groups(EVERYTHING)
    async with asyncio.timeout(5):
        for asked in (first.take("b", groups), first.preview(groups), first.read(EVERYTHING)):
            with pytest.raises(CountersUnavailable, match="not counted in it for now"):
                await asked
    assert [(hold_id, tag) for hold_id, tag, _, _ in first.open_states()] == [("a", "ada")]
    assert [state.taken for state in first.open_states()[0][2]] == [100, 1, 1, 50]


async def test_callers_who_wait_for_a_rebuild_are_refused_at_once(
    server: RedisServer, processes: Processes, ledger: Ledger
) -> None:
    ledger.may_read.clear()
    server.flush()
    asking = asyncio.gather(processes[0].figures(), return_exceptions=True)
    await soon(lambda: ledger.rebuilds == 2, "the rebuild to begin")
    suspend(processes)
    (answer,) = await asking
    assert isinstance(answer, CountersUnavailable)


async def test_what_was_sent_is_not_taken_if_it_is_answered_afterwards(
    server: RedisServer, processes: Processes, ledger: Ledger
) -> None:
    first = processes[0]
    server.freeze()
    before = first.round_trips
    taking = spawn(first.take("a", in_groups(EVERYTHING)), "a caller")
    await soon(lambda: first.round_trips > before, "it to be sent")
    first.suspend()
    server.thaw()
    with pytest.raises(CountersUnavailable):
        await taking
    assert first.open_states() == []
    suspend(processes)
    await resume(processes)
    await require_truth(processes, ledger)


async def test_the_server_is_watched(server: RedisServer, ledger: Ledger) -> None:
    with RedisServer() as own:
        async with Process(own, ledger) as process:
            assert (process.is_reachable, process.unavailable_for_s) == (True, 0.0)
            process.suspend()
            assert process.is_reachable
            await soon(lambda: process.unavailable_for_s > 0.05, "time to pass")
            own.stop()
            await soon(lambda: not process.is_reachable, "the stop to be noticed")
            own.start()
            await soon(lambda: process.is_reachable, "the start to be noticed")
            assert not process.is_available
            process.resume()
            await process.is_back()
            assert process.unavailable_for_s == 0.0


async def test_nobody_makes_an_epoch_though_the_server_lost_its_own(
    server: RedisServer, processes: Processes, ledger: Ledger
) -> None:
    suspend(processes)
    server.flush()
    before = [process.round_trips for process in processes]
    await soon(lambda: all(p.round_trips > n + 3 for p, n in zip(processes, before, strict=True)), "some looks")
    assert server.command("EXISTS", "gw:epoch", "gw:rebuild") == 0
    await resume(processes)
    assert ledger.rebuilds == 2
    await require_truth(processes, ledger)


async def test_an_epoch_that_is_being_made_is_given_up(
    server: RedisServer, processes: Processes, ledger: Ledger
) -> None:
    ledger.may_read.clear()
    server.flush()
    await soon(lambda: ledger.rebuilds == 2, "the rebuild to begin")
    suspend(processes)
    await soon(lambda: server.command("EXISTS", "gw:rebuild") == 0, "it to be given up")
    assert server.command("EXISTS", "gw:epoch") == 0
    ledger.may_read.set()
    await resume(processes)
    assert ledger.rebuilds == 3
    await require_truth(processes, ledger)


# Afterwards


async def test_all_count_in_one_new_epoch_with_everybodys_holds(
    server: RedisServer, processes: Processes, ledger: Ledger
) -> None:
    first, second, third = processes
    await first.begin("a")
    await second.begin("b")
    former = first.epoch
    suspend(processes)
    await third.begin_elsewhere("c")
    await third.begin_elsewhere("d")
    await second.end("b")
    await third.end("d")
    await first.refund(5)
    assert str(server.command("GET", "gw:epoch")) == former
    await resume(processes)
    assert ledger.rebuilds == 2
    assert former not in {process.epoch for process in processes}
    await require_truth(processes, ledger)
    await first.end("a")
    await third.end("c")
    await require_truth(processes, ledger)
    await soon(lambda: all(process.open_holds == 0 for process in processes), "all endings to be told")


async def test_an_epoch_that_a_process_had_not_heard_of_is_not_counted_in(
    server: RedisServer, processes: Processes, ledger: Ledger
) -> None:
    """Made by one that has died since, while this one saw nothing of the server."""
    first, *others = processes
    await first.cut_off()
    server.flush()
    await soon(lambda: ledger.rebuilds == 2, "the flush to be noticed")
    for other in others:
        await other.is_back()
    unheard_of = others[0].epoch
    assert first.epoch != unheard_of
    for other in others:
        await other.cut_off()
    first._epochs._watching = None
    first._epochs.start()
    first.suspend()
    ledger.begin("a")
    ledger.end("a")  # counted by other means
    first.resume()
    await first.is_back()
    assert first.epoch != unheard_of
    assert await first.figures() == ledger.truth


async def test_one_that_resumes_late_brings_its_holds(processes: Processes, ledger: Ledger) -> None:
    """Also those that ended while the others made the epoch: nobody can say whether it was read before that."""
    first, second, third = processes
    await third.begin("a")
    await third.begin("b")
    suspend(processes)
    await resume([first, second])
    await third.end("b")
    await resume([third])
    await require_truth(processes, ledger)
    await third.end("a")
    await require_truth(processes, ledger)


async def test_a_hold_that_is_handed_over_late_is_counted(processes: Processes, ledger: Ledger) -> None:
    first = processes[0]
    await first.begin_elsewhere("a")
    await first.begin_elsewhere("b")
    await first.end("b")
    await soon(lambda: ledger.rebuilds == 2, "the counters to be filled once more")
    for process in processes:
        await process.is_back()
    await require_truth(processes, ledger)
    await first.end("a")
    await require_truth(processes, ledger)


async def test_the_hold_of_a_dead_process_that_is_booked_meanwhile_is_counted(
    processes: Processes, ledger: Ledger
) -> None:
    *living, dead = processes
    await dead.begin("a")
    await dead.cut_off()
    suspend(living)
    ledger.end("a")
    await living[0].settle("a", ACTUALS, account_id="ada")
    await resume(living)
    await require_truth(living, ledger)
    assert ledger.rebuilds == 2


async def test_the_hold_of_a_dead_process_that_is_booked_after_a_rebuild_is_counted(
    server: RedisServer, processes: Processes, ledger: Ledger
) -> None:
    """The new epoch has not heard of it, as nobody had it open."""
    *living, dead = processes
    await dead.begin("a")
    await dead.cut_off()
    server.flush()
    await soon(lambda: ledger.rebuilds == 2, "the flush to be noticed")
    for process in living:
        await process.is_back()
    assert (await living[0].figures([QUOTA])) == [(0, 0)]
    ledger.end("a")
    await living[0].settle("a", ACTUALS, account_id="ada")
    await soon(lambda: ledger.rebuilds == 3, "the counters to be filled once more")
    await require_truth(living, ledger)


async def test_suspending_and_resuming_at_once_counts_anew(processes: Processes, ledger: Ledger) -> None:
    await processes[0].begin("a")
    former = processes[0].epoch
    for _ in range(3):
        for process in processes:
            process.suspend()
            process.suspend()
        for process in processes:
            process.resume()
            process.resume()
    for process in processes:
        await process.is_back()
    assert former not in {process.epoch for process in processes}
    await require_truth(processes, ledger)


async def test_calls_that_end_meanwhile_do_not_pile_up(processes: Processes, ledger: Ledger) -> None:
    """But those that the ledger does not have yet, as their entries wait on a disk."""
    first = processes[0]
    suspend(processes)
    for number in range(1_100):
        await first.begin_elsewhere(f"a{number}")
        await first.end(f"a{number}")
    await first.begin_elsewhere("b")
    await first.give_up("b")
    await soon(lambda: first.open_holds < 600, "what has ended to be forgotten")
    await resume(processes)
    await require_truth(processes, ledger)


async def test_what_ended_and_was_forgotten_is_read_by_an_epoch_of_before_once_more(
    server: RedisServer, processes: Processes, ledger: Ledger
) -> None:
    """The others had filled it when the call of one that resumes late, and had not looked since, was booked."""
    async with Process(server, ledger, PACE._replace(watch_s=30.0)) as late:
        everybody = [*processes, late]
        suspend(everybody)
        await soon(lambda: not late._epochs._is_blind, "it to look")
        await resume(processes)
        ledger.begin("a")
        ledger.end("a")
        await late.settle("a", ACTUALS, account_id="ada")
        late.resume()
        await soon(lambda: ledger.rebuilds == 3, "the counters to be filled once more")
        await require_truth(everybody, ledger)


async def test_a_rebuild_of_before_that_nobody_goes_on_with_holds_nobody_up(
    server: RedisServer, processes: Processes, ledger: Ledger
) -> None:
    """Who made it could not say so."""
    server.command("SET", "gw:rebuild", "given up", "PX", 600_000)
    await soon(lambda: all(process._epochs._pending == "given up" for process in processes), "all to see it")
    suspend(processes)
    await resume(processes)
    await require_truth(processes, ledger)


async def test_a_call_that_was_given_up_here_may_go_on_elsewhere(
    server: RedisServer, processes: Processes, ledger: Ledger
) -> None:
    first = processes[0]
    server.freeze()
    with pytest.raises(CountersUnavailable):
        await first.take("a", in_groups(EVERYTHING))
    suspend(processes)
    server.thaw()
    await first.begin_elsewhere("a")
    await resume(processes)
    await require_truth(processes, ledger)
    await first.end("a")
    await require_truth(processes, ledger)


# Anything


class Life:
    """Calls that come and go, on a seed, in processes that are suspended and resumed meanwhile."""

    def __init__(self, seed: int, server: RedisServer, processes: Processes, ledger: Ledger) -> None:
        self.chance = random.Random(seed)
        self.server = server
        self.processes = processes
        self.ledger = ledger
        self.calls: list[tuple[Process, str]] = []
        self.released = 0
        self.numbers = iter(range(10_000))

    def moment(self) -> float:
        return self.chance.choice([0.0, 0.0, 0.01, 0.05, 0.2])

    async def admit(self) -> None:
        process, hold_id = self.chance.choice(self.processes), f"h{next(self.numbers)}"
        try:
            answer = await process.take(hold_id, in_groups(EVERYTHING))
        except CountersUnavailable:
            if not process._epochs.is_suspended:
                return
            await process.begin_elsewhere(hold_id := f"{hold_id}-elsewhere")
        else:
            assert isinstance(answer, Taken)
            self.ledger.begin(hold_id)
        self.calls.append((process, hold_id))

    async def finish(self) -> None:
        if not self.calls:
            return
        process, hold_id = self.calls.pop(self.chance.randrange(len(self.calls)))
        if self.chance.random() < 0.2:
            self.released += 1
            await process.give_up(hold_id, self.moment())
        else:
            await process.end(hold_id, self.moment())

    async def traffic(self) -> None:
        for _ in range(8):
            await asyncio.sleep(self.moment())
            await self.chance.choice([self.admit, self.admit, self.finish])()

    async def outage(self) -> None:
        for process in self.processes:
            await asyncio.sleep(self.moment())
            process.suspend()
        if self.chance.random() < 0.5:
            self.server.flush()
        await self.processes[0].refund(1)
        await asyncio.sleep(self.moment())
        for process in self.chance.sample(self.processes, len(self.processes)):
            await asyncio.sleep(self.moment())
            process.resume()


@pytest.mark.parametrize("seed", range(int(inherited().get("SUSPENSION_LIVES", "1"))))
async def test_the_counters_are_the_truth_whatever_happens(
    server: RedisServer, processes: Processes, ledger: Ledger, seed: int
) -> None:
    life = Life(seed, server, processes, ledger)
    await processes[0].begin("paid")
    await processes[0].end("paid")
    await asyncio.gather(life.outage(), *(life.traffic() for _ in range(6)))
    await soon(
        lambda: all(hold.ending is None for p in processes for hold in p._holds._holds.values()), "endings to be told"
    )
    await soon(lambda: all(process.is_available for process in processes), "every process to count")
    await soon(lambda: not any(process._epochs._is_outdated for process in processes), "the last rebuild")
    await soon(lambda: all(process.is_available for process in processes), "every process to count")
    quota, calls, (hourly, _), used = await processes[0].figures()
    truth = ledger.truth
    assert [quota, calls, used] == [truth[0], truth[1], truth[3]]
    assert truth[2][0] <= hourly <= truth[2][0] + life.released  # what was given up stays in the windows, or not
    assert len({process.epoch for process in processes}) == 1
    for process, hold_id in life.calls:
        await process.end(hold_id)
    assert (await processes[0].figures())[:2] == [(COST * len(ledger.ended) - 1, 0), (0, 0)]
