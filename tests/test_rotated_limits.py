"""A virtual key's own limits outlive its rotation: the keys that come of each other have one set of counters."""

from typing import Any

import pytest

from tests.clocked_gateway import USD, Clock, ClockedGateway, opened, utc


@pytest.fixture
async def gateway(tmp_path):
    async with opened(tmp_path, Clock(utc(2026, 5, 10, 12))) as gateway:
        await gateway.services.accounts.create_creator("acme", plan="open")
        yield gateway


async def limited_key(gateway: ClockedGateway, **overrides: Any) -> dict[str, Any]:
    return await gateway.services.accounts.create_key("acme", overrides=overrides)


async def rotated(gateway: ClockedGateway, key: dict[str, Any]) -> dict[str, Any]:
    return await gateway.services.accounts.rotate_key(key["id"])


async def test_a_rotated_key_has_no_more_left_than_the_one_it_replaced(gateway):
    first = await limited_key(gateway, quota_usd_per_month="0.75", requests_per_day=3)
    for _ in range(2):
        assert (await gateway.images(first["key"])).status == 200
    second = await rotated(gateway, first)
    third = await rotated(gateway, second)
    for key in (first, second, third):
        limits = await gateway.limits(key["key"])
        assert limits["key_quota_usd_per_month"]["used"] == USD // 2
        assert limits["key_requests_per_day"]["used"] == 2
    assert (await gateway.images(third["key"])).status == 200
    assert [(await gateway.images(key["key"])).status for key in (first, second, third)] == [429, 429, 429]


async def test_another_key_of_the_creator_counts_for_itself(gateway):
    first = await limited_key(gateway, requests_per_hour=1)
    await rotated(gateway, first)
    assert (await gateway.images(first["key"])).status == 200
    other = await limited_key(gateway, requests_per_hour=1)
    assert (await gateway.images(other["key"])).status == 200


async def test_a_refund_of_a_rotated_keys_call_makes_room_for_all_of_them(gateway):
    first = await limited_key(gateway, quota_usd_per_month="0.25")
    second = await rotated(gateway, first)
    call = await gateway.images(second["key"])
    assert (call.status, (await gateway.images(first["key"])).status) == (200, 429)
    await gateway.services.credits.refund(call.request_id)
    assert (await gateway.images(first["key"])).status == 200
    assert (await gateway.images(second["key"])).status == 429


async def test_a_rotated_service_key_counts_on_for_whomever_it_names(gateway):
    accounts = gateway.services.accounts
    first = await accounts.create_key(
        "acme", scopes=["act_for"], default_plan="open", overrides={"requests_per_hour": 2}
    )
    assert (await gateway.images(first["key"], headers={"x-gateway-creator": "alice"})).status == 200
    second = await rotated(gateway, first)
    named = [await gateway.images(second["key"], headers={"x-gateway-creator": name}) for name in ("bob", "carol")]
    assert [answer.status for answer in named] == [200, 429]
