"""What a dead process held: the ledger says how it ends, as soon as the process was not seen for a minute."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from gateway.errors import StoreError
from tests.counters.backend import credits_left
from tests.counters.redis_processes import ACTUALS, Ledger, Process
from tests.rig.waiting import soon
from tests.servers.redis_server import RedisServer

CREDITS = credits_left(100, 7)._replace(key="credits:c/ada")


@pytest.fixture
def server(counters_server: RedisServer) -> RedisServer:
    counters_server.flush()
    return counters_server


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def two(server: RedisServer, ledger: Ledger) -> AsyncIterator[tuple[Process, Process]]:
    """One that goes on, and one that is to die."""
    async with AsyncExitStack() as started:
        yield (
            await started.enter_async_context(Process(server, ledger)),
            await started.enter_async_context(Process(server, ledger)),
        )


async def dies(process: Process, server: RedisServer) -> None:
    """And is not seen for a minute."""
    await process.cut_off()
    server.command("DEL", process.process_key, process._names.sweep)


async def sweep(process: Process) -> int:
    return await process._leftovers.end(process.epoch or "", "")


async def test_what_is_open_in_the_ledger_is_left_to_whoever_books_it(
    server: RedisServer, two: tuple[Process, Process], ledger: Ledger
) -> None:
    living, dead = two
    await living.begin("a")
    await dead.begin("b")
    await dies(dead, server)
    assert await sweep(living) == 0
    assert await living.figures() == ledger.truth
    ledger.end("b")
    await living.settle("b", ACTUALS, account_id="ada")
    assert await living.figures() == ledger.truth
    assert ledger.rebuilds == 1


async def test_what_has_an_entry_is_read_from_the_ledger(
    server: RedisServer, two: tuple[Process, Process], ledger: Ledger
) -> None:
    living, dead = two
    await living.begin("a")
    await dead.begin("b")
    ledger.end("b")
    await dies(dead, server)
    assert await sweep(living) == 0
    await soon(lambda: ledger.rebuilds == 2, "the counters to be filled once more")
    await living.is_back()
    assert await living.figures() == ledger.truth


async def test_what_the_ledger_never_heard_of_is_released_but_its_request(
    server: RedisServer, two: tuple[Process, Process], ledger: Ledger
) -> None:
    living, dead = two
    await living.begin("a")
    await dead.begin("b")
    ledger.release("b")  # it died before
    await dies(dead, server)
    assert await sweep(living) == 1
    quota, calls, (requests, held), tokens = ledger.truth
    assert await living.figures() == [quota, calls, (requests + 1, held), tokens]
    assert ledger.rebuilds == 1


async def test_credits_that_were_being_taken_away_are_read_from_the_ledger(
    server: RedisServer, two: tuple[Process, Process], ledger: Ledger
) -> None:
    """There is no hold of them, and their entry has another id: they may be gone, or not."""
    living, dead = two
    await dead.begin("b", [CREDITS])
    ledger.release("b")
    await dies(dead, server)
    assert await sweep(living) == 0
    await soon(lambda: ledger.rebuilds == 2, "the counters to be filled once more")
    await living.is_back()
    assert await living.figures([CREDITS]) == [(0, 0)]


async def test_while_the_ledger_cannot_be_asked_everything_stays(
    server: RedisServer, two: tuple[Process, Process], ledger: Ledger
) -> None:
    living, dead = two
    await dead.begin("b")
    await dies(dead, server)

    async def is_down(hold_ids: object) -> frozenset[str]:
        raise StoreError("The ledger is down.")

    living._leftovers._open_among = is_down
    assert await sweep(living) == 0
    assert await living.figures() == ledger.truth


async def test_the_living_keep_theirs_and_one_looks_at_a_time(
    server: RedisServer, two: tuple[Process, Process], ledger: Ledger
) -> None:
    living, dead = two
    await dead.begin("b")
    ledger.release("b")
    assert await sweep(living) == 0  # it was seen just now
    await dead.cut_off()
    server.command("DEL", dead.process_key)
    assert await sweep(living) == 0  # others look just now
    server.command("DEL", living._names.sweep)
    assert await sweep(living) == 1


async def test_a_process_is_taken_for_dead_after_a_minute_only_where_the_ledger_is_asked(
    server: RedisServer, two: tuple[Process, Process], ledger: Ledger
) -> None:
    def seen_for_s(process: Process) -> float:
        return int(str(server.command("PTTL", process.process_key))) / 1_000

    assert 50 < seen_for_s(two[0]) <= 60
    async with Process(server, ledger, open_among=None) as unasking:
        assert 590 < seen_for_s(unasking) <= 600


async def test_without_a_ledger_to_ask_all_counts_as_used(server: RedisServer, ledger: Ledger) -> None:
    async with (
        Process(server, ledger, ended_among=None, open_among=None) as living,
        Process(server, ledger, ended_among=None, open_among=None) as dead,
    ):
        await living.begin("a")
        await dead.begin("b")
        await dies(dead, server)
        assert await sweep(living) == 1
        assert await living.figures() == [(100, 100), (0, 1), (2, 0), (50, 50)]


async def test_one_that_comes_back_from_the_dead_has_its_end_read_from_the_ledger(
    server: RedisServer, two: tuple[Process, Process], ledger: Ledger
) -> None:
    """Others booked its call as crashed; then it ended."""
    living, dead = two
    await dead.begin("b")
    await dies(dead, server)
    await living.settle("b", {"nano_usd": 1, "token": 1}, account_id="ada")
    dead._epochs._watching = None
    dead._epochs.start()
    await dead.end("b")
    await soon(lambda: ledger.rebuilds == 2, "the counters to be filled once more")
    await living.is_back()
    await dead.is_back()
    assert await living.figures() == ledger.truth
