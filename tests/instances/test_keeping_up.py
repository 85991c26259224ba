"""What changes while a process starts counts in it as soon as it serves."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import Settings
from gateway.services import open_services
from gateway.tasks import spawn
from tests.servers.postgres_server import PostgresServer
from tests.servers.redis_server import RedisServer

PLANS = "[plans.default]\nrequests_per_hour = {}\n"


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """To freeze."""
    with PostgresServer() as server:
        yield server
        server.thaw()


async def test_plans_that_changed_while_a_process_started_count_in_it(
    tmp_path: Path, own_server: PostgresServer, redis: RedisServer
) -> None:
    plans = tmp_path / "plans.toml"
    plans.write_text(PLANS.format(5))
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=own_server.create_database("starting"),
        redis_url=redis.url,
        secret="s" * 40,
        plans_file=plans,
    )
    is_open, may_close = asyncio.Event(), asyncio.Event()
    seen: list[int | None] = []

    async def start() -> None:
        async with open_services(settings) as services:
            seen.append(services.live.plans["default"].requests_per_hour)
            is_open.set()
            await may_close.wait()

    own_server.freeze()
    starting = spawn(start(), "start")
    await asyncio.sleep(0)  # it has read the plans, and waits for the database
    plans.write_text(PLANS.format(7))
    own_server.thaw()
    try:
        async with asyncio.timeout(30):
            await is_open.wait()
    finally:
        may_close.set()
        await starting
    assert seen == [7]
