"""Making an epoch: what every process has to say of it is in it, whenever it says so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.counters.redis_processes import PACE, Ledger, Process
from tests.rig.waiting import soon
from tests.servers.redis_server import RedisServer


@pytest.fixture
def server(counters_server: RedisServer) -> RedisServer:
    counters_server.flush()
    return counters_server


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def two(server: RedisServer, ledger: Ledger) -> AsyncIterator[tuple[Process, Process]]:
    async with AsyncExitStack() as started:
        yield (
            await started.enter_async_context(Process(server, ledger)),
            await started.enter_async_context(Process(server, ledger)),
        )


def wakes_up(process: Process) -> None:
    process._epochs._watching = None
    process._epochs.start()


async def looks(process: Process) -> None:
    before = process.round_trips
    await soon(lambda: process.round_trips > before + 3, "some looks at the server")


async def test_who_writes_its_holds_down_after_they_were_gathered_restores_them_itself(
    server: RedisServer, two: tuple[Process, Process], ledger: Ledger
) -> None:
    first, second = two
    await second.begin("a")
    await second.cut_off()
    ledger.may_read.clear()
    server.flush()
    await soon(lambda: ledger.rebuilds == 2, "the holds to be gathered")
    wakes_up(second)
    await looks(second)
    ledger.may_read.set()
    await second.is_back()
    await first.is_back()
    assert await first.figures() == ledger.truth
    assert ledger.rebuilds == 2


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_late_hold_that_has_ended_is_read_from_the_ledger_once_more(
    server: RedisServer, two: tuple[Process, Process], ledger: Ledger, is_known: bool
) -> None:
    """Whether its process knows that, or is just about to be told."""
    first, second = two
    await second.begin("a")
    await second.cut_off()
    server.flush()
    await soon(lambda: ledger.rebuilds == 2, "the flush to be noticed")
    if is_known:
        await second.end("a")
    else:
        ledger.end("a")
    await first.is_back()
    wakes_up(second)
    await soon(lambda: ledger.rebuilds == 3, "the counters to be filled once more")
    for process in two:
        await process.is_back()
    if not is_known:
        await second.settle("a", {"nano_usd": 70, "token": 20})
    await soon(lambda: second.open_holds == 0, "the ending to be told")
    await first.is_back()
    assert await first.figures() == ledger.truth


async def test_a_refund_that_every_reading_after_it_finds_costs_no_other_rebuild(
    server: RedisServer, two: tuple[Process, Process], ledger: Ledger
) -> None:
    first, second = two
    await first.begin("a")
    await first.end("a")
    first.suspend()
    second.suspend()
    await first.refund(3)
    await second.refund(4)
    first.resume()
    second.resume()
    for process in two:
        await process.is_back()
        await looks(process)
    assert ledger.rebuilds == 2
    assert await second.figures() == ledger.truth


async def test_who_is_alone_waits_for_nobody(server: RedisServer, ledger: Ledger) -> None:
    async with asyncio.timeout(15), Process(server, ledger, PACE._replace(gather_s=60.0), is_alone=True) as process:
        await process.begin("a")
        server.flush()
        await soon(lambda: ledger.rebuilds == 2, "the flush to be noticed")
        await process.is_back()
        assert await process.figures() == ledger.truth


async def test_a_lock_is_not_taken_on_an_epoch_that_is_no_longer_there(
    server: RedisServer, two: tuple[Process, Process], ledger: Ledger
) -> None:
    """Two see that one must be made; the second is told only when the first has made it."""
    first, second = two
    await second.cut_off()  # what follows is said on its connection
    seen = await second._epochs._sight.see()
    former = first.epoch
    first._epochs.outdated()
    await soon(lambda: first.epoch not in (None, former), "the new epoch")
    assert not await second._epochs._maker.lock("another", seen)
    wakes_up(second)
    await soon(lambda: second.epoch == first.epoch, "it to count in the same")
