"""A prefix belongs to one database."""

import asyncio

import pytest

from gateway.counters.base import CountersUnavailable
from gateway.errors import ConfigError
from tests.counters.redis_processes import QUOTA, Ledger, Process
from tests.rig.waiting import soon
from tests.servers.redis_server import RedisServer


@pytest.fixture
def server(counters_server: RedisServer) -> RedisServer:
    counters_server.flush()
    return counters_server


async def test_a_gateway_with_another_database_is_refused_at_its_start(server: RedisServer) -> None:
    ours, theirs = Ledger(), Ledger()
    async with Process(server, ours, database_id="one") as first, Process(server, ours, database_id="one") as second:
        await first.begin("a")
        other = Process(server, theirs, database_id="two")
        with pytest.raises(ConfigError, match="GATEWAY_REDIS_PREFIX 'gw:' is used by a gateway with another database"):
            await other.connect()
        await other.aclose()
        assert await second.figures() == ours.truth
        async with Process(server, theirs, database_id="two", prefix="theirs:") as apart:
            assert await apart.figures([QUOTA]) == [(0, 0)]
    assert (ours.rebuilds, theirs.rebuilds) == (1, 1)


async def test_of_two_that_start_together_one_is_refused(server: RedisServer) -> None:
    ledgers = {name: Ledger() for name in ("one", "two")}
    processes = [Process(server, ledger, database_id=name) for name, ledger in ledgers.items()]
    answers = await asyncio.gather(*(process.connect() for process in processes), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["ConfigError", "NoneType"]
    for process in processes:
        await process.aclose()


async def test_after_a_flush_the_database_is_written_anew_and_another_is_noticed(server: RedisServer) -> None:
    ours = Ledger()
    async with Process(server, ours, database_id="one") as first:
        server.flush()
        await soon(lambda: ours.rebuilds == 2, "the flush to be noticed")
        await first.is_back()
        assert server.command("GET", "gw:database") == "one"
        server.command("SET", "gw:database", "two")
        await soon(lambda: not first.is_reachable, "the other database to be noticed")
        with pytest.raises(CountersUnavailable, match="another database"):
            await first.figures()
        server.command("SET", "gw:database", "one")
        await first.is_back()
        assert ours.rebuilds == 2


async def test_nobody_fills_counters_that_others_were_just_about_to_fill(server: RedisServer) -> None:
    """They had locked them, and died of it."""
    async with Process(server, Ledger(), database_id="one") as first:
        await first.cut_off()  # what follows is said on its connection
        server.flush()
        seen = await first._epochs._sight.see()
        server.command("SET", "gw:database", "two")
        assert not await first._epochs._maker.lock("new", seen)
        assert server.command("GET", "gw:database") == "two"


async def test_counters_that_name_no_database_are_filled_anew(server: RedisServer) -> None:
    """Nobody can say whose they are."""
    ours = Ledger()
    async with Process(server, Ledger()):
        async with Process(server, ours, database_id="one"):
            assert server.command("GET", "gw:database") == "one"
        assert ours.rebuilds == 1
        async with Process(server, Ledger()) as unasking:  # it does not look
            assert unasking.is_available
