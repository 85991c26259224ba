"""Counters as a gateway opens them: on a real ledger, with Redis or without it."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.config import Settings
from gateway.counters.base import Counters, CounterSeeds
from gateway.counters.fallback import FallbackCounters
from gateway.counters.memory import MemoryCounters
from gateway.counters.opening import open_counters
from gateway.counters.rebuild import rebuild_counters
from gateway.errors import ConfigError, StoreError
from gateway.instances.base import AloneInstance, Instances
from gateway.ledger.database import Database
from policies import concurrency, rate_limit
from policies.types import Account, Call, Limit, Plan
from tests.counters.agreement import Said, TableInstances
from tests.counters.backend import admitted, in_groups, refused
from tests.ledger.books import MODEL, PRICE, entry, hold, locked
from tests.rig.waiting import soon
from tests.servers.redis_server import RedisServer

PLAN = Plan("pro", requests_per_hour=2, concurrent_calls=5)
ACCOUNT = Account("acme", "acme", "k" * 12, PLAN)
CALL = Call("chat", MODEL, MODEL, "openai", "", 0, 0)


def limits() -> list[Limit]:
    now = datetime.now(UTC)
    groups = [*rate_limit.decide(CALL, ACCOUNT, now), *concurrency.decide(CALL, ACCOUNT, now)]
    return [limit for (limit,) in groups]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "gateway.db", instance_id="test")
    await database.record_prices({MODEL: PRICE})
    yield database
    await database.close()


async def opened(database: Database, instances: Instances, redis: RedisServer | None) -> Counters:
    async def rebuild(seeds: CounterSeeds) -> None:
        await rebuild_counters(seeds, database, plans={"pro": PLAN}, now=datetime.now(UTC))

    settings = Settings(redis_url=None if redis is None else redis.url)
    return await open_counters(settings, rebuild, database=database, instances=instances, wall_clock=time.time)


async def test_without_redis_counters_are_in_memory_and_filled(database: Database) -> None:
    at = datetime.now(UTC)
    await database.ledger.hold(hold("r1", at=at))
    await database.ledger.settle("r1", [entry("r1", at=at)])
    counters = await opened(database, AloneInstance("a"), None)
    assert isinstance(counters, MemoryCounters)
    assert [state.settled for state in await counters.read(limits())] == [1, 0]


async def test_one_process_goes_on_on_its_ledger_when_redis_dies(database: Database) -> None:
    with RedisServer() as redis:
        counters = await opened(database, AloneInstance("a"), redis)
        assert isinstance(counters, FallbackCounters)
        try:
            at = datetime.now(UTC)
            admitted(await counters.take("r1", in_groups(limits())))
            await database.ledger.hold(hold("r1", at=at))
            redis.kill9()
            await soon(lambda: bool(counters.degraded), "Redis to be missed")
            admitted(await counters.take("r2", in_groups(limits())))
            assert counters.degraded == "counting locally: Redis cannot be reached"
            await database.ledger.settle("r1", [entry("r1", at=at)])
            await counters.settle("r1", {})
            refused(await counters.take("r3", in_groups(limits())))
            assert [(state.settled, state.held) for state in await counters.read(limits())] == [(2, 0), (0, 1)]
        finally:
            await counters.aclose()


async def test_a_start_without_redis_is_refused(database: Database) -> None:
    with RedisServer() as redis:
        redis.kill9()
        with pytest.raises(ConfigError, match="GATEWAY_REDIS_URL"):
            await opened(database, AloneInstance("a"), redis)


async def test_a_start_without_redis_is_possible_where_others_do_without_it(database: Database) -> None:
    table = {"other": Said("local", 3, wants_local=True)}
    instances = TableInstances("a", table)
    with RedisServer() as redis:
        redis.kill9()
        counters = await opened(database, instances, redis)
        assert isinstance(counters, FallbackCounters)
        try:
            await soon(lambda: instances.round == 4, "it to ask for an agreement")
            assert counters.degraded == "the processes agree how to count"
            table["other"] = Said("to_local", 4, wants_local=True)
            await soon(lambda: "2 processes" in counters.degraded, "it to count locally")
            admitted(await counters.take("r1", in_groups(limits())[:1]))
            refused(await counters.take("r2", in_groups(limits())[:1]))
        finally:
            await counters.aclose()
            await instances.leave()


async def test_calls_whose_entries_come_late_are_counted_though_redis_was_filled_without_them(tmp_path: Path) -> None:
    path, at = tmp_path / "late.db", datetime.now(UTC)
    database = await Database.open(path, settings=Settings(settle_timeout_s=1))
    await database.record_prices({MODEL: PRICE})
    with RedisServer() as redis:
        counters = await opened(database, AloneInstance("a"), redis)
        assert isinstance(counters, FallbackCounters)
        try:
            admitted(await counters.take("r1", in_groups(limits())))
            await database.ledger.hold(hold("r1", at=at))
            with locked(path):
                with pytest.raises(StoreError):
                    await database.ledger.settle("r1", [entry("r1", at=at)])
                await counters.settle("r1", {})
                redis.flush()
                with capture_logs() as logs:
                    await soon(lambda: "counters_rebuilt" in [log["event"] for log in logs], "Redis to be filled")
                    assert [state.settled for state in await counters.read(limits())] == [0, 0]
            async with asyncio.timeout(20):
                while [state.settled for state in await counters.read(limits())] != [1, 0]:
                    await asyncio.sleep(0.01)
        finally:
            await counters.aclose()
            await database.close()
