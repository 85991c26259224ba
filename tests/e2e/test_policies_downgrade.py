"""A budget that runs low sends calls to cheaper models: exactly those that must, visibly, and back as soon as it may."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.client import Answer
from tests.rig.gateway import Gateway, Key
from tests.rig.policy_world import (
    CENT,
    USD,
    assert_books_agree,
    at_once,
    call,
    chat_request,
    held_back,
    limited,
    me,
    override,
    policy_gateway,
    says,
    served_by,
    split,
    start,
    usage_entries,
)
from tests.rig.upstream import Upstream
from tests.rig.waiting import soon

ONE_TOKEN = wire.completion(usage=wire.usage(10, 1))
NEVER = [("x-gateway-downgrade", "never")]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}


async def spend(gateway: Gateway, upstream: Upstream, key: Key, dollars: int) -> None:
    """On a model that nothing is cheaper than, so that the budget cannot change it."""
    answer = await gateway.chat(key, says(upstream, dollars), model="dollar", max_tokens=dollars)
    assert answer.status == 200, answer


async def served_model(gateway: Gateway, upstream: Upstream, key: Key, model: str, tokens: int, **fields: Any) -> str:
    answer = await gateway.chat(key, says(upstream, 1), model=model, max_tokens=tokens, **fields)
    assert answer.status == 200, answer
    return answer.header("x-gateway-model") or ""


# In the crowd


async def test_of_50_calls_in_flight_exactly_those_the_budget_covers_keep_their_model(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(policies, budget_usd_per_month=10)
    script, gate = held_back(upstream, ONE_TOKEN)
    calls = start(policies, chat_request(key, script, model="pair", max_tokens=1), 50)
    await soon(lambda: len(script.requests) == 50, "50 calls at the provider")
    sent = [request.json["model"] for request in script.requests]
    assert (sent.count("up-pair"), sent.count("up-plain")) == (10, 40)
    gate.open()
    answers = await asyncio.gather(*calls)
    assert served_by(answers) == {"pair": 10, "plain": 40}
    assert_told(answers, "pair")
    entries = await assert_books_agree(policies, key, admitted=50)
    assert {entry["requested_model"] for entry in entries} == {"pair"}
    costs = [(entry["served_model"], entry["cost_nano_usd"]) for entry in entries]
    assert {model: costs.count((model, cost)) for model, cost in set(costs)} == {"pair": 10, "plain": 40}
    assert sum(entry["cost_nano_usd"] for entry in entries) == 10 * USD + 40 * CENT
    told = {entry["request_id"]: entry["downgrade_reason"] for entry in entries}
    for answer in answers:
        assert told[answer.request_id] == (answer.header("x-gateway-downgrade-reason") or "")


def assert_told(answers: list[Answer], requested: str) -> None:
    """Headers say so where another model served, and only there."""
    for answer in answers:
        is_other = answer.header("x-gateway-model") != requested
        assert answer.header("x-gateway-downgraded-from") == (requested if is_other else None)
        assert bool(answer.header("x-gateway-downgrade-reason")) is is_other


async def test_a_chain_of_three_is_followed_as_far_as_needed_in_the_crowd(
    policies: Gateway, upstream: Upstream
) -> None:
    """6 dollars each under a cap of 10: one passes. Downgraded to 60 cents below 90 %: four. The rest at 6 cents."""
    key = limited(policies, budget_usd_per_month=10)
    script, gate = held_back(upstream, ONE_TOKEN)
    calls = start(policies, chat_request(key, script, model="premium", max_tokens=6), 50)
    await soon(lambda: len(script.requests) == 50, "50 calls at the provider")
    gate.open()
    answers = await asyncio.gather(*calls)
    assert served_by(answers) == {"premium": 1, "middle": 4, "cent": 45}
    assert_told(answers, "premium")
    entries = await assert_books_agree(policies, key, admitted=50)
    assert sum(entry["cost_nano_usd"] for entry in entries) == 1 * USD + 4 * 10 * CENT + 45 * CENT
    assert await served_model(policies, upstream, key, "premium", 6) == "premium", "what was held has come back"


async def test_refusing_the_downgrade_in_the_crowd_refuses_exactly_the_rest(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(policies, budget_usd_per_month=10)
    script = says(upstream, 1)
    request = chat_request(key, script, NEVER, model="pair", max_tokens=1)
    admitted, refused = split(await at_once(policies, request, 50))
    assert (len(admitted), len(script.requests), len(refused)) == (10, 10, 40)
    assert served_by(admitted) == {"pair": 10}
    await assert_books_agree(policies, key, admitted=10)


# What is told


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_downgrade_is_told_in_headers_and_ledger_and_priced_again(
    policies: Gateway, upstream: Upstream, stream: bool
) -> None:
    key = limited(policies, budget_usd_per_month=100)
    await spend(policies, upstream, key, 80)
    if stream:
        events = [*wire.text_events("a"), wire.event(wire.usage_chunk(wire.usage(10, 2))), wire.DONE]
        script = upstream.stream(*events)
        answer = await policies.streamed(key, script, model="premium", max_tokens=30)
    else:
        script = says(upstream, 2)
        answer = await policies.chat(key, script, model="premium", max_tokens=30)
    assert answer.status == 200
    assert answer.header("x-gateway-model") == "middle"
    assert answer.header("x-gateway-downgraded-from") == "premium"
    reason = answer.header("x-gateway-downgrade-reason")
    assert reason
    assert script.request.json["model"] == "up-middle"
    entry = usage_entries(policies, key)[0]
    assert (entry["requested_model"], entry["served_model"]) == ("premium", "middle")
    assert entry["downgrade_reason"] == reason
    assert entry["cost_nano_usd"] == 20 * CENT
    decision = policies.admin_json("GET", f"/admin/ledger/{answer.request_id}")["data"][0]["decision"]
    (step,) = decision["downgrades"]
    assert (step["from_model"], step["to_model"], step["limit_name"]) == ("premium", "middle", "budget_usd_per_month")
    assert (step["used"], step["limit"]) == (80 * USD, 100 * USD)


async def test_a_caller_who_will_not_be_downgraded_is_refused_for_good(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, budget_usd_per_month=10)
    await spend(policies, upstream, key, 10)
    script = says(upstream, 1)
    refused = await call(policies, key, script, NEVER, model="premium", max_tokens=1)
    assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")
    assert refused.error["type"] == "insufficient_quota"
    assert refused.header("x-should-retry") == "false"
    assert refused.error["metadata"]["name"] == "budget_usd_per_month"
    assert script.requests == []
    allowed = await call(policies, key, script, [("x-gateway-downgrade", "allow")], model="premium", max_tokens=1)
    assert (allowed.status, allowed.header("x-gateway-model")) == (200, "cent")
    odd = await call(policies, key, script, [("x-gateway-downgrade", "perhaps")], model="premium", max_tokens=1)
    assert odd.status == 400


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        pytest.param("dollar", {}, id="no cheaper model"),
        pytest.param("premium", {"response_format": SCHEMA}, id="none that can do it"),
    ],
)
async def test_refusing_a_downgrade_that_cannot_be_changes_nothing(
    policies: Gateway, upstream: Upstream, model: str, fields: dict[str, Any]
) -> None:
    """A call without a cheaper model goes on, and the quota is its ceiling, whatever the caller thinks of downgrades."""
    key = limited(policies, budget_usd_per_month=10)
    await spend(policies, upstream, key, 10)
    for headers in ([], NEVER):
        answer = await call(policies, key, says(upstream, 1), headers, model=model, max_tokens=1, **fields)
        assert (answer.status, answer.header("x-gateway-model")) == (200, model), (headers, answer.body)


# Where it leads


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, "middle", id="plain"),
        pytest.param({"tools": TOOLS}, "cent", id="tools"),
        pytest.param({"response_format": SCHEMA}, "premium", id="json_schema"),
    ],
)
async def test_only_a_model_that_can_do_the_call_takes_it_over(
    policies: Gateway, upstream: Upstream, fields: dict[str, Any], expected: str
) -> None:
    """`middle` can nothing of it, `cent` only tools; a call nobody cheaper can do goes on, up to the quota."""
    key = limited(policies, budget_usd_per_month=100)
    await spend(policies, upstream, key, 80)
    assert await served_model(policies, upstream, key, "premium", 30, **fields) == expected


async def test_a_call_with_an_image_in_it_stays_with_a_model_that_sees(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, budget_usd_per_month=10)
    await spend(policies, upstream, key, 10)
    script = says(upstream, 1)
    parts = [
        {"type": "text", "text": script.marker},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    answer = await policies.chat(
        key, script, model="premium", max_tokens=1, messages=[{"role": "user", "content": parts}]
    )
    assert (answer.status, answer.header("x-gateway-model")) == (200, "premium")


@pytest.mark.parametrize(
    ("overrides", "key_fields", "expected"),
    [
        pytest.param({"models": ["dollar", "premium", "cent"]}, {}, "cent", id="the plan's models"),
        pytest.param({"tiers": ["premium", "economy"]}, {}, "cent", id="the plan's tiers"),
        pytest.param({}, {"models": ["dollar", "premium", "cent"]}, "cent", id="the key's models"),
        pytest.param({"tiers": ["premium"]}, {}, "premium", id="none of them"),
    ],
)
async def test_a_target_that_may_not_be_used_is_skipped(
    policies: Gateway, upstream: Upstream, overrides: dict[str, Any], key_fields: dict[str, Any], expected: str
) -> None:
    creator = policies.new_creator("base", budget_usd_per_month=100, **overrides)
    key = policies.new_key(creator, **key_fields)
    await spend(policies, upstream, key, 80)
    assert await served_model(policies, upstream, key, "premium", 30) == expected


# And back


async def at_the_edge(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    """Ten of ten dollars spent, and one call downgraded since."""
    await spend(gateway, upstream, key, 9)
    assert not (await me(gateway, key))["downgrade"]["is_active"]
    assert await served_model(gateway, upstream, key, "pair", 1) == "pair"
    assert await served_model(gateway, upstream, key, "pair", 1) == "plain"
    assert (await me(gateway, key))["downgrade"] == {
        "is_active": True,
        "limit_name": "budget_usd_per_month",
        "resumes_below_usd": "9",
        "calls_this_month": 1,
    }


async def test_once_downgraded_it_stays_so_until_below_ninety_percent(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, budget_usd_per_month=10)
    await spend(policies, upstream, key, 8)
    assert await served_model(policies, upstream, key, "pair", 3) == "plain", "11 dollars, and one cent is spent"
    assert await served_model(policies, upstream, key, "pair", 1) == "plain", "9.01 would fit, but 90 % is 9"


async def test_money_that_comes_back_lifts_the_downgrade_below_ninety_percent(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(policies, budget_usd_per_month=10)
    script, gate = held_back(upstream, ONE_TOKEN)
    (open_call,) = start(policies, chat_request(key, script, model="dollar", max_tokens=9), 1)
    await soon(lambda: len(script.requests) == 1, "the call at the provider")
    assert await served_model(policies, upstream, key, "pair", 2) == "plain"
    gate.open()
    assert (await open_call).status == 200
    assert await served_model(policies, upstream, key, "pair", 2) == "pair", "one dollar is spent of ten"


@pytest.mark.parametrize("how", ["override", "plan"])
async def test_a_raised_cap_lifts_the_downgrade_at_once(policies: Gateway, upstream: Upstream, how: str) -> None:
    key = limited(policies, budget_usd_per_month=10)
    await at_the_edge(policies, upstream, key)
    if how == "override":
        override(policies, key, budget_usd_per_month="11.02")
    else:
        change = {"plan": "hundred", "overrides": {}}
        policies.admin_json("PATCH", f"/admin/creators/{key.creator}", json=change)
    assert not (await me(policies, key))["downgrade"]["is_active"]
    assert await served_model(policies, upstream, key, "pair", 1) == "pair"


async def test_the_downgrade_outlives_the_process(tmp_path: Path, upstream: Upstream) -> None:
    """8.01 of 10 dollars are spent when it dies: only who remembers refuses one dollar more."""
    gateway = policy_gateway(tmp_path, upstream).start()
    try:
        key = limited(gateway, budget_usd_per_month=10)
        fresh = limited(gateway, budget_usd_per_month=10)
        for one in (key, fresh):
            await spend(gateway, upstream, one, 8)
        assert await served_model(gateway, upstream, key, "pair", 3) == "plain"
        gateway.kill9()
        gateway.start()
        assert await served_model(gateway, upstream, key, "pair", 1) == "plain"
        assert await served_model(gateway, upstream, fresh, "pair", 1) == "pair"
        override(gateway, key, budget_usd_per_month=11)
        assert await served_model(gateway, upstream, key, "pair", 1) == "pair"
        gateway.audit()
    finally:
        gateway.close()
