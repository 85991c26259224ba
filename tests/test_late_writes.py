"""Writes that are committed after their caller was told 503: the next call must know of them like of any other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import StoreError, Unauthenticated
from tests.clocked_gateway import HANG_S, Clock, ClockedGateway, opened, utc
from tests.ledger.books import be_hasty, locked

LATE_S = 0.4
"""How long a caller waits; SQLite waits two seconds for a lock."""


@asynccontextmanager
async def hasty_callers(folder: Path) -> AsyncIterator[ClockedGateway]:
    async with opened(folder, Clock(utc(2026, 5, 10, 12)), settle_timeout_s=LATE_S) as gateway:
        yield gateway


async def told_503(gateway: ClockedGateway, write: Awaitable[object]) -> None:
    """The caller of `write` gives up; returns when nobody else would wait for it any longer either."""
    with pytest.raises(StoreError):
        await write
    await until(lambda: not gateway.services.database.ledger.is_ready)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_S):
        while not is_so():
            await asyncio.sleep(0)


async def until_refused(gateway: ClockedGateway, key: str) -> None:
    async with asyncio.timeout(HANG_S):
        while True:
            try:
                await gateway.account(key)
            except Unauthenticated:
                return
            await asyncio.sleep(0)


async def has_left(gateway: ClockedGateway, key: str) -> int:
    return (await gateway.view(key))["credits"]["left"]


async def paid(gateway: ClockedGateway, key: str, credits: int) -> bool:
    answer = await gateway.images(key, "gallery", n=credits)
    assert answer.code in (None, "insufficient_quota", "rate_limit_exceeded"), answer
    return answer.status == 200


async def test_a_key_revoked_late_is_refused_though_a_call_came_in_between(tmp_path):
    async with hasty_callers(tmp_path) as gateway:
        key = await gateway.new_key()
        key_id = (await gateway.account(key)).key_id
        with locked(gateway.path):
            await told_503(gateway, gateway.services.accounts.revoke_key(key_id))
            await gateway.account(key)  # read, and remembered, while it is still alive
        await until_refused(gateway, key)


async def test_a_creator_switched_off_late_is_refused_though_a_call_came_in_between(tmp_path):
    async with hasty_callers(tmp_path) as gateway:
        key = await gateway.new_key()
        with locked(gateway.path):
            await told_503(gateway, gateway.services.accounts.update_creator("acme", {"is_active": False}))
            await gateway.account(key)
        await until_refused(gateway, key)


async def test_credits_taken_away_late_cannot_be_spent_before_or_after(tmp_path):
    async with hasty_callers(tmp_path) as gateway:
        key = await gateway.new_key()
        book = gateway.services.credits
        await book.grant("acme", credits=5)
        with locked(gateway.path):
            await told_503(gateway, book.adjust("acme", "credits", credits=-5))
            assert not await has_left(gateway, key), "nobody knows yet whether they are gone"
        await until(lambda: gateway.entries("payer_amount", kind="adjustment") == [(5,)])
        assert not await paid(gateway, key, 1)
        async with asyncio.timeout(HANG_S):
            while (await gateway.view(key))["credits"]["held"]:
                await asyncio.sleep(0)
        assert (await book.balance("acme"))["credits"] == {"granted": 5, "spent": 5, "held": 0, "left": 0}
        assert gateway.differences() == []


async def test_credits_that_could_not_be_taken_away_can_be_spent(tmp_path):
    async with hasty_callers(tmp_path) as gateway:
        key = await gateway.new_key()
        book = gateway.services.credits
        await book.grant("acme", credits=5)
        await be_hasty(gateway.services.database)
        with locked(gateway.path), pytest.raises(StoreError):
            await book.adjust("acme", "credits", credits=-5)
        await until(lambda: gateway.services.database.ledger.is_ready)
        assert await paid(gateway, key, 5)
        assert gateway.entries("payer_amount", kind="adjustment") == []


async def test_credits_granted_late_can_be_spent_though_a_call_came_in_between(tmp_path):
    async with hasty_callers(tmp_path) as gateway:
        key = await gateway.new_key()
        with locked(gateway.path):
            await told_503(gateway, gateway.services.credits.grant("acme", credits=5))
            await gateway.account(key)
        async with asyncio.timeout(HANG_S):
            while not await paid(gateway, key, 5):
                await asyncio.sleep(0)


async def test_what_is_refunded_late_makes_room_again(tmp_path):
    async with hasty_callers(tmp_path) as gateway:
        key = await gateway.new_key(quota_usd_per_month="0.25")
        call = await gateway.images(key)
        assert (call.status, (await gateway.images(key)).code) == (200, "insufficient_quota")
        with locked(gateway.path):
            await told_503(gateway, gateway.services.credits.refund(call.request_id))
        async with asyncio.timeout(HANG_S):
            while (await gateway.limits(key))["quota_usd_per_month"]["used"]:
                await asyncio.sleep(0)
        assert (await gateway.images(key)).status == 200
