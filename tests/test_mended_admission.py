"""Limits that begin or change hands while the gateway runs: what was used before them stays used. And a gateway that
only observes, which changes nothing.

The real policies, counters and ledger, at an instant that the test sets; the mock provider answers.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from gateway.admission import Preview
from gateway.chat import read_chat_request
from tests.clocked_gateway import PLANS, USD, Clock, ClockedGateway, chat_model, opened, utc

NOON = utc(2025, 6, 11, 12)
IN_CREDITS = chat_model("in-credits", more="credits = 2")


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[ClockedGateway]:
    async with opened(tmp_path, Clock(NOON)) as gateway:
        yield gateway


async def talk(gateway: ClockedGateway, key: str, times: int = 1, **fields: Any) -> list[int]:
    """The statuses of so many calls, one after another."""
    return [(await gateway.chat(key, **fields)).status for _ in range(times)]


async def used(gateway: ClockedGateway, key: str, name: str) -> tuple[int | None, int, int]:
    """The limit, what is used, what is held."""
    limit = (await gateway.limits(key))[name]
    return limit["limit"], limit["used"], limit["held"]


async def tokens_used(gateway: ClockedGateway, key: str) -> int:
    return int((await gateway.limits(key))["tokens_per_minute"]["used"])


# Windows that begin


async def test_windows_that_overrides_add_begin_with_what_was_used(gateway: ClockedGateway) -> None:
    key = await gateway.new_key()
    assert await talk(gateway, key, 2) == [200, 200]
    tokens = await tokens_used(gateway, key)
    assert tokens > 0
    windows = {
        "requests_per_minute": 9,
        "requests_per_day": 3,
        "tokens_per_day": 50_000,
        "providers": {"mock": {"requests_per_day": 8}, "other": {"requests_per_day": 8}},
    }
    await gateway.services.accounts.update_creator("acme", {"overrides": windows})
    assert await used(gateway, key, "requests_per_minute") == (9, 2, 0)
    assert await used(gateway, key, "requests_per_day") == (3, 2, 0)
    assert await used(gateway, key, "tokens_per_day") == (50_000, tokens, 0)
    assert await used(gateway, key, "mock_requests_per_day") == (8, 2, 0)
    assert await used(gateway, key, "other_requests_per_day") == (8, 0, 0)
    assert await talk(gateway, key, 2) == [200, 429]


async def test_an_added_window_counts_on_after_it_was_taken_away_and_added_again(gateway: ClockedGateway) -> None:
    key = await gateway.new_key(requests_per_day=5)
    accounts = gateway.services.accounts
    assert await talk(gateway, key) == [200]
    await accounts.update_creator("acme", {"overrides": {}})
    assert await talk(gateway, key) == [200], "counted by nobody"
    await accounts.update_creator("acme", {"overrides": {"requests_per_day": 3}})
    assert await used(gateway, key, "requests_per_day") == (3, 2, 0)
    assert await talk(gateway, key, 2) == [200, 429]


async def test_a_call_under_way_counts_in_a_window_that_is_added_meanwhile(gateway: ClockedGateway) -> None:
    key = await gateway.new_key()
    task = asyncio.get_running_loop().create_task(gateway.chat(key, "waits"))
    await gateway.has_in_flight(1)
    await gateway.services.accounts.update_creator("acme", {"overrides": {"requests_per_day": 1}})
    assert await used(gateway, key, "requests_per_day") == (1, 1, 0)
    assert await talk(gateway, key) == [429]
    assert (await task).status == 200


async def test_windows_that_a_reload_adds_begin_with_what_was_used(gateway: ClockedGateway) -> None:
    key, other = await gateway.new_key(plan="narrow"), await gateway.new_key("other")
    assert await talk(gateway, key, 2) + await talk(gateway, other) == [200] * 3
    tokens = await tokens_used(gateway, key)
    await reload(gateway, "requests_per_minute = 3", "tokens_per_minute = 9_000", "tokens_per_day = 90_000")
    assert await used(gateway, key, "requests_per_minute") == (3, 2, 0)
    assert await used(gateway, key, "tokens_per_minute") == (9_000, tokens, 0)
    assert await used(gateway, key, "tokens_per_day") == (90_000, tokens, 0)
    assert await talk(gateway, key, 2) == [200, 429]
    # Nothing limits the other plan, and yet its creators begin with what they used as soon as something does.
    await gateway.services.accounts.update_creator("other", {"plan": "narrow"})
    assert await used(gateway, other, "requests_per_minute") == (3, 1, 0)
    assert await talk(gateway, other, 3) == [200, 200, 429]


async def test_a_minutes_tokens_that_a_reload_begins_to_limit_are_those_of_the_last_minute(
    gateway: ClockedGateway,
) -> None:
    """Counted where nothing limits them: there is no moment at which everybody starts afresh."""
    key = await gateway.new_key()
    assert await talk(gateway, key, 2) == [200, 200]
    tokens = await tokens_used(gateway, key)
    file = gateway.folder / "plans.toml"
    file.write_text(PLANS.replace("[plans.open]", f"[plans.open]\ntokens_per_minute = {tokens + 1_000}"))
    await gateway.services.reload()
    assert await used(gateway, key, "tokens_per_minute") == (tokens + 1_000, tokens, 0)
    refused = await gateway.chat(key)
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert await talk(gateway, key, max_tokens=900) == [200]


async def reload(gateway: ClockedGateway, *lines: str) -> None:
    """With these lines in the plan `narrow`, in the place of what they name there."""
    names = {line.partition(" ")[0] for line in lines}
    kept = [line for line in PLANS.splitlines() if line.partition(" ")[0] not in names]
    kept.insert(kept.index("[plans.narrow]") + 1, "\n".join(lines))
    (gateway.folder / "plans.toml").write_text("\n".join(kept))
    await gateway.services.reload()


# A virtual key's own limits


async def test_a_rotated_key_goes_on_with_its_predecessors_limits_also_after_a_restart(tmp_path: Path) -> None:
    clock = Clock(NOON)
    limits = {"requests_per_hour": 4, "requests_per_day": 9, "tokens_per_day": 90_000, "quota_usd_per_month": "0.02"}
    async with opened(tmp_path, clock) as gateway:
        await gateway.services.accounts.create_creator("acme", plan="open")
        first = await gateway.services.accounts.create_key("acme", overrides=limits)
        assert await talk(gateway, first["key"]) == [200]
        second = await gateway.services.accounts.rotate_key(first["id"])
        assert await talk(gateway, second["key"]) == [200]
        before = await own_limits(gateway, second["key"])
        assert before["key_requests_per_hour"] == before["key_requests_per_day"] == 2
        assert before["key_tokens_per_day"] > 0
        assert before["key_quota_usd_per_month"] > 0
        assert await own_limits(gateway, first["key"]) == before
    clock.advance(seconds=90)
    async with opened(tmp_path, clock) as gateway:
        third = await gateway.services.accounts.rotate_key(second["id"])
        for key in (first, second, third):
            assert await own_limits(gateway, key["key"]) == before
        assert await talk(gateway, third["key"]) == [200]
        assert await talk(gateway, first["key"]) == [200]
        refused = [await gateway.chat(key["key"]) for key in (first, second, third)]
        assert [answer.json["error"]["metadata"]["name"] for answer in refused] == ["key_requests_per_hour"] * 3
        assert gateway.differences() == []


async def own_limits(gateway: ClockedGateway, key: str) -> dict[str, int]:
    """What is used of the key's own limits."""
    limits = await gateway.limits(key)
    return {name: limit["used"] for name, limit in limits.items() if name.startswith("key_")}


# Only observing


async def test_who_observes_never_bounds_an_answer(tmp_path: Path) -> None:
    """What is left would pay for 1 000 tokens of 4 096: enforced, the answer is bounded; observed, only the log tells."""
    limits = {"quota_usd_per_month": "0.01"}
    async with opened(tmp_path, Clock(NOON), policy_mode="observe") as gateway:
        key = await gateway.new_key(**limits)
        foretold = await preview(gateway, key, "talk")
        assert (foretold.clamped_to, foretold.refusal) == (None, None)
        with capture_logs() as logs:
            answer = await gateway.chat(key)
        assert answer.status == 200
        assert "x-gateway-clamped-max-tokens" not in answer.headers
        (line,) = [line for line in logs if line["event"] == "policy_overruled"]
        assert (line["would"], line["limits"]) == ("refuse", ("quota_usd_per_month",))
    folder = tmp_path / "enforced"
    folder.mkdir()
    async with opened(folder, Clock(NOON)) as gateway:
        key = await gateway.new_key(**limits)
        assert (await preview(gateway, key, "talk")).clamped_to is not None
        assert "x-gateway-clamped-max-tokens" in (await gateway.chat(key)).headers


async def test_who_observes_serves_a_call_that_nothing_of_the_plan_may_pay_for(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock(NOON), models=IN_CREDITS, policy_mode="observe") as gateway:
        key = await gateway.new_key(payers=["free_images"])
        with capture_logs() as logs:
            foretold = await preview(gateway, key, "in-credits")
        assert foretold.refusal is None
        assert [line for line in logs if line["event"] == "policy_overruled"] == [], "it was only asked"
        with capture_logs() as logs:
            answer = await gateway.chat(key, "in-credits")
        assert answer.status == 200
        assert "x-gateway-payer" not in answer.headers, "the header names no quota"
        (line,) = [line for line in logs if line["event"] == "policy_overruled"]
        assert (line["would"], line["limits"], line["creator"]) == ("refuse", ("payer",), "acme")
        assert line["request_id"] == answer.request_id
        ((payer, unit, amount, charge, cost),) = gateway.entries(
            "payer, payer_unit, payer_amount, charge_nano_usd, cost_nano_usd"
        )
        assert (payer, unit) == ("quota", "nano_usd")
        assert 0 < amount == charge == cost < USD
        assert (await used(gateway, key, "quota_usd_per_month"))[1:] == (charge, 0)
        assert gateway.differences() == []


async def test_who_enforces_refuses_what_nothing_of_the_plan_may_pay_for(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock(NOON), models=IN_CREDITS) as gateway:
        key = await gateway.new_key(payers=["free_images"])
        answer = await gateway.chat(key, "in-credits")
        assert (answer.status, answer.code) == (429, "insufficient_quota")
        assert gateway.entries("id") == []


async def preview(gateway: ClockedGateway, key: str, model: str) -> Preview:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    request = read_chat_request(orjson.dumps(body))
    return await gateway.services.admission.preview(await gateway.account(key), {}, request, "")
