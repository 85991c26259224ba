"""What runs beside the calls: it goes on past a part in trouble, and is over when it is said to be."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.housekeeping import remove_expired
from tests.clocked_gateway import HANG_S, Clock, ClockedGateway, opened, utc


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[ClockedGateway]:
    async with opened(tmp_path, Clock(utc(2026, 6, 11, 12))) as gateway:
        yield gateway


async def test_a_store_in_trouble_keeps_nothing_else_from_expiring(gateway: ClockedGateway) -> None:
    key = await gateway.new_key()
    await gateway.chat(key, headers={"x-gateway-cache": "on", "idempotency-key": "k"})
    store = gateway.services.cache.store
    assert store is not None
    assert (await store.stats()).answers == 1
    gateway.clock.advance(days=2)
    await gateway.services.database.ledger.close(HANG_S)
    with capture_logs() as logs:
        await remove_expired(gateway.services)
    assert [line["of"] for line in logs if line["event"] == "expiry_failed"] == ["Idempotency.purge"]
    assert (await store.stats()).answers == 0


async def test_nobody_looks_any_more_once_the_lookout_is_closed(gateway: ClockedGateway) -> None:
    """What it uses is closed next."""
    gateway.services.lookout.start()
    lookers = [task for task in asyncio.all_tasks() if task.get_name() == "look-for-notices"]
    assert [task.done() for task in lookers] == [False]
    async with asyncio.timeout(HANG_S):
        await gateway.services.lookout.close()
    assert [task.done() for task in lookers] == [True]
