"""Policies crossed with each other, with crashes, reloads and the admin's own bookings: the numbers still come out exact."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.rig import wire
from tests.rig.client import Answer
from tests.rig.environment import REPOSITORY
from tests.rig.gateway import Gateway, Key
from tests.rig.policy_world import (
    CENT,
    MODELS,
    PLANS,
    USD,
    assert_books_agree,
    at_once,
    chat_request,
    grant,
    held_back,
    image_request,
    limited,
    me,
    override,
    paint,
    paints,
    pictures,
    policy_gateway,
    says,
    shown_limit,
    split,
    start,
    usage_entries,
)
from tests.rig.upstream import Send, Stall, Upstream
from tests.rig.waiting import soon


async def credits_left(gateway: Gateway, key: Key) -> int:
    return int((await me(gateway, key))["credits"]["left"])


# What the provider does not keep to


@pytest.mark.parametrize("payer", ["free_images", "credits"])
async def test_more_images_than_asked_for_never_take_more_than_there_is(
    policies: Gateway, upstream: Upstream, payer: str
) -> None:
    """One was asked for, and there was one to be had; what is left is never less than nothing."""
    key = limited(policies, free_images_per_day=1 if payer == "free_images" else 0)
    if payer == "credits":
        grant(policies, key, 2)
    answer = await paint(policies, key, upstream.reply(pictures(3)), n=1)
    assert (answer.status, answer.header("x-gateway-payer")) == (200, payer)
    (entry,) = usage_entries(policies, key)
    assert (entry["images"], entry["cost_nano_usd"]) == (3, 12 * CENT), "what it cost the operator is booked in full"
    seen = await me(policies, key)
    assert seen["credits"]["left"] == 0
    assert seen["free_images_today"]["left"] == 0
    grant(policies, key, 6)
    assert await credits_left(policies, key) in {6, 2}
    assert (await paint(policies, key, paints(upstream), n=1)).status == 200


async def test_a_provider_that_ignores_the_clamp_is_charged_in_full_and_then_nothing_is_left(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(policies, quota_usd_per_month=10)
    answer = await policies.chat(key, says(upstream, 1_500), model="endless")
    assert answer.header("x-gateway-clamped-max-tokens") == "1000"
    (entry,) = await assert_books_agree(policies, key, admitted=1)
    assert entry["cost_nano_usd"] == 15 * USD
    assert "over_hold" in entry["flags"]
    shown = await shown_limit(policies, key, "quota_usd_per_month")
    assert (shown["used"], shown["remaining"]) == (15 * USD, 0)
    refused = await policies.chat(key, says(upstream, 1), model="cent", max_tokens=1)
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")


# A key's own budget


async def test_a_keys_own_budget_downgrades_its_calls_and_nobody_elses(policies: Gateway, upstream: Upstream) -> None:
    creator = policies.new_creator("base")
    bounded = policies.new_key(creator, overrides={"budget_usd_per_month": 5})
    free = policies.new_key(creator)
    script, gate = held_back(upstream, wire.completion(usage=wire.usage(10, 1)))
    calls = [
        task
        for key in (bounded, free)
        for task in start(policies, chat_request(key, script, model="pair", max_tokens=1), 20)
    ]
    await soon(lambda: len(script.requests) == 40, "40 calls at the provider")
    gate.open()
    answers = await asyncio.gather(*calls)
    models = [[answer.header("x-gateway-model") for answer in group] for group in (answers[:20], answers[20:])]
    assert [(group.count("pair"), group.count("plain")) for group in models] == [(5, 15), (20, 0)]
    entries = await assert_books_agree(policies, free, admitted=40)
    assert sum(entry["cost_nano_usd"] for entry in entries) == 25 * USD + 15 * CENT


# The admin's bookings beside calls


async def test_credits_taken_away_while_calls_spend_them_are_never_spent_twice(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(policies)
    grant(policies, key, 20)
    path = f"/admin/creators/{key.creator}/adjustments"

    def take_away() -> httpx.Response:
        headers = {"authorization": f"Bearer {policies.admin_key}"}
        body = {"payer": "credits", "credits": -4}
        return httpx.post(policies.url + path, json=body, headers=headers, trust_env=False, timeout=15)

    answers, taken = await asyncio.gather(
        at_once(policies, image_request(key, paints(upstream)), 40),
        asyncio.gather(*(asyncio.to_thread(take_away) for _ in range(4))),
    )
    admitted, _ = split(answers)
    away = sum(answer.status_code == 201 for answer in taken)
    assert {answer.status_code for answer in taken} <= {201, 409}
    assert 2 * len(admitted) + 4 * away <= 20
    assert await credits_left(policies, key) == 20 - 2 * len(admitted) - 4 * away
    await assert_books_agree(policies, key, admitted=len(admitted))


async def test_of_many_refunds_of_one_call_at_once_one_is_made(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies)
    grant(policies, key, 10)
    answer = await paint(policies, key, paints(upstream), n=2)

    def refund() -> int:
        headers = {"authorization": f"Bearer {policies.admin_key}"}
        path = f"/admin/ledger/{answer.request_id}/refunds"
        return httpx.post(policies.url + path, json={}, headers=headers, trust_env=False, timeout=15).status_code

    statuses = await asyncio.gather(*(asyncio.to_thread(refund) for _ in range(12)))
    assert statuses.count(201) == 1
    assert await credits_left(policies, key) == 10


# Changes under way


async def test_a_call_under_way_keeps_its_price_and_settles_though_its_plan_and_limits_change(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(policies, quota_usd_per_month=10, requests_per_minute=5)
    script, gate = held_back(upstream, wire.completion(usage=wire.usage(10, 3)))
    (task,) = start(policies, chat_request(key, script, model="dollar", max_tokens=6), 1)
    await soon(lambda: len(script.requests) == 1, "the call at the provider")
    change = {"plan": "small", "overrides": {"quota_usd_per_month": 4}}
    policies.admin_json("PATCH", f"/admin/creators/{key.creator}", json=change)
    held = await policies.chat(key, says(upstream, 1), model="dollar", max_tokens=1)
    assert (held.status, held.error["code"]) == (429, "rate_limit_exceeded"), "six are held of four"
    gate.open()
    assert (await task).status == 200
    assert (await policies.chat(key, says(upstream, 1), model="dollar", max_tokens=1)).status == 200
    spent = await policies.chat(key, says(upstream, 1), model="dollar", max_tokens=1)
    assert (spent.status, spent.error["code"]) == (429, "insufficient_quota")
    await assert_books_agree(policies, key, admitted=2)


async def test_a_call_under_way_keeps_the_price_it_began_with_through_a_reload(
    tmp_path: Path, upstream: Upstream
) -> None:
    gateway = policy_gateway(tmp_path, upstream).start()
    try:
        key = limited(gateway)
        script, gate = held_back(upstream, wire.completion(usage=wire.usage(10, 3)))
        (task,) = start(gateway, chat_request(key, script, model="cent", max_tokens=6), 1)
        await soon(lambda: len(script.requests) == 1, "the call at the provider")
        pricing = gateway.folder / "pricing.toml"
        text = pricing.read_text().replace("output_usd_per_mtok = 10000\n", "output_usd_per_mtok = 90000\n")
        pricing.write_text(text.replace('downgrade_to = "cent"\n', ""))
        gateway.admin_json("POST", "/admin/reload")
        gate.open()
        assert (await task).status == 200
        (entry,) = await assert_books_agree(gateway, key, admitted=1)
        assert entry["cost_nano_usd"] == 3 * CENT
        gateway.audit()
    finally:
        gateway.close()


# Crashes


def counted(seen: Any) -> dict[str, tuple[int, int]]:
    return {limit["name"]: (limit["used"], limit["held"]) for limit in seen["limits"]}


async def test_every_counter_is_after_a_kill_what_it_was_before(tmp_path: Path, upstream: Upstream) -> None:
    """Windows, tokens, money, free images, both kinds of credits, a key's own limits and a provider's."""
    gateway = policy_gateway(tmp_path, upstream).start()
    try:
        creator = gateway.new_creator(
            "base",
            requests_per_minute=50,
            requests_per_hour=50,
            requests_per_day=50,
            tokens_per_minute=10**6,
            tokens_per_day=10**6,
            free_images_per_day=2,
            quota_usd_per_month=100,
            budget_usd_per_month=90,
            providers={"rig": {"requests_per_hour": 50, "tokens_per_minute": 10**6}},
        )
        key = gateway.new_key(creator, overrides={"requests_per_hour": 40, "quota_usd_per_month": 50})
        grant(gateway, key, 10)
        grant(gateway, key, 3, "promo_credits")
        for _ in range(3):
            assert (await gateway.chat(key, says(upstream, 4), model="dollar", max_tokens=5)).status == 200
        for count in (2, 1, 2):
            assert (await paint(gateway, key, paints(upstream), n=count)).status == 200
        failing = upstream.reply({"error": {"message": "no"}}, 500)
        assert (await gateway.chat(key, failing, model="cent", max_tokens=5)).status == 500
        before = await me(gateway, key)
        gateway.kill9()
        gateway.start()
        after = await me(gateway, key)
        assert counted(after) == counted(before)
        for name in ("free_images_today", "credits", "promo_credits", "downgrade"):
            assert after[name] == before[name]
        gateway.audit()
    finally:
        gateway.close()


async def test_a_crash_takes_no_credits_for_images_nobody_got(tmp_path: Path, upstream: Upstream) -> None:
    """What the provider may have done is booked as cost; the creator pays on success only."""
    gateway = policy_gateway(tmp_path, upstream).start()
    try:
        key = limited(gateway, free_images_per_day=1)
        grant(gateway, key, 4)
        script = upstream.script(Stall())
        calls = [task for count in (1, 2) for task in start(gateway, image_request(key, script, n=count), 1)]
        await soon(lambda: len(script.requests) == 2, "both calls at the provider")
        assert (await me(gateway, key))["credits"]["held"] == 4
        gateway.kill9()
        await asyncio.gather(*calls, return_exceptions=True)
        gateway.start()
        seen = await me(gateway, key)
        assert (seen["credits"]["left"], seen["credits"]["held"], seen["free_images_today"]["left"]) == (4, 0, 1)
        entries = usage_entries(gateway, key)
        assert {(entry["outcome"], entry["payer_amount"]) for entry in entries} == {("crashed", 0)}
        assert sum(entry["cost_nano_usd"] for entry in entries) == 12 * CENT
        assert (await paint(gateway, key, paints(upstream), n=2)).header("x-gateway-payer") == "credits"
        gateway.audit()
    finally:
        gateway.close()


async def test_a_crash_frees_the_places_and_the_first_crowd_after_it_is_counted_exactly(
    tmp_path: Path, upstream: Upstream
) -> None:
    gateway = policy_gateway(tmp_path, upstream).start()
    try:
        key = limited(gateway, concurrent_calls=3, requests_per_hour=20)
        endless = upstream.script(Send(wire.stream_head() + wire.framed(wire.text_events("a")[0])), Stall())
        streams = [await gateway.open_stream(key, endless, model="cent", max_tokens=1) for _ in range(3)]
        gateway.kill9()
        for stream in streams:
            await stream.close()
        gateway.start()
        answers: list[Answer] = []
        for _ in range(10):
            script = says(upstream, 1)
            answers += await at_once(gateway, chat_request(key, script, model="cent", max_tokens=1), 3)
        admitted, _ = split(answers)
        assert len(admitted) == 17
        await assert_books_agree(gateway, key, admitted=20)
        gateway.audit()
    finally:
        gateway.close()


# Wherever the machine stands


class Abroad(Gateway):
    """A gateway on a machine whose clock shows another date than UTC."""

    @property
    def environment(self) -> dict[str, str]:
        zone = "WEST+12" if datetime.now(UTC).hour < 12 else "EAST-14"
        return {**super().environment, "TZ": zone}


async def test_days_and_months_are_utc_whatever_the_machines_time_zone(tmp_path: Path, upstream: Upstream) -> None:
    gateway = Abroad(tmp_path, upstream, models=MODELS, plans=PLANS).start()
    try:
        key = limited(gateway, free_images_per_day=2, quota_usd_per_month=10)
        assert (await paint(gateway, key, paints(upstream))).status == 200
        assert (await gateway.chat(key, says(upstream, 3), model="dollar", max_tokens=3)).status == 200
        before = await me(gateway, key)
        today = datetime.now(UTC)
        assert before["month"]["period"] == f"{today:%Y-%m}"
        assert before["free_images_today"]["resets_at"] == f"{today + timedelta(days=1):%Y-%m-%d}T00:00:00Z"
        assert {entry["period_day"] for entry in usage_entries(gateway, key)} == {f"{today:%Y-%m-%d}"}
        gateway.kill9()
        gateway.start()
        assert counted(await me(gateway, key)) == counted(before)
        assert [row["day"] for row in (await me(gateway, key, "/usage"))["data"]] == [f"{today:%Y-%m-%d}"]
        gateway.audit()
    finally:
        gateway.close()


# As packaged


async def test_the_packaged_plans_are_those_that_are_promised(tmp_path: Path, upstream: Upstream) -> None:
    packaged = (REPOSITORY / "policies" / "plans.toml").read_text()
    gateway = policy_gateway(tmp_path, upstream, plans=packaged).start()
    try:
        plans: dict[str, tuple[object, ...]] = {}
        for name in ("free", "starter", "pro", "business", "enterprise"):
            plan = (await me(gateway, gateway.new_key(plan=name)))["plan"]
            assert (plan["free_images_per_day"], plan["when_budget_reached"]) == (3, "downgrade")
            assert plan["payers"] == ["free_images", "promo_credits", "credits"]
            plans[name] = tuple(
                plan[limit] for limit in ("requests_per_hour", "quota_usd_per_month", "budget_usd_per_month")
            )
        assert plans == {
            "free": (10, "1", "0.8"),
            "starter": (50, "10", "8"),
            "pro": (100, "50", "40"),
            "business": (500, "250", "100"),
            "enterprise": (10_000, None, "100"),
        }
        key = gateway.new_key(plan="free")
        answers = await at_once(gateway, image_request(key, paints(upstream)), 64)
        assert len(split(answers)[0]) == 3
        script = says(upstream, 1)
        chats = [await gateway.chat(key, script, model="rig-cheap", max_tokens=1) for _ in range(9)]
        assert len(split(chats)[0]) == 7, "ten requests an hour, three of them were images"
        await assert_books_agree(gateway, key, admitted=10)
        gateway.audit()
    finally:
        gateway.close()


async def test_a_budget_nobody_named_follows_the_quota(policies: Gateway) -> None:
    key = policies.new_key(plan="small")
    budgets = [(await me(policies, key))["month"]["budget_usd"]]
    for quota in (10, 1_000, None):
        override(policies, key, quota_usd_per_month=quota)
        budgets.append((await me(policies, key))["month"]["budget_usd"])
    assert budgets == ["4", "8", "100", "100"], "80 % of it, and never more than 100"
