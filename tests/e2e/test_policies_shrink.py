"""Where the caller left the length open, the hold shrinks to what is left; money in flight is told apart from money spent.

`endless` costs a cent a token of output and nothing for input, and one answer could cost 10 000 USD.
"""

import asyncio
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.client import Answer
from tests.rig.gateway import Gateway, Key
from tests.rig.policy_world import (
    CENT,
    USD,
    assert_books_agree,
    chat_request,
    held_back,
    limited,
    says,
    shown_limit,
    start,
    usage_entries,
)
from tests.rig.upstream import Gate, Request, Script, Upstream
from tests.rig.waiting import soon

CLAMPED = "x-gateway-clamped-max-tokens"
CEILINGS = [
    pytest.param({"quota_usd_per_month": 10}, id="quota"),
    pytest.param({"budget_usd_per_month": 10, "when_budget_reached": "deny"}, id="hard budget"),
    pytest.param({"quota_usd_per_month": 20, "budget_usd_per_month": 10, "when_budget_reached": "deny"}, id="both"),
]


def bound_sent(request: Request) -> Any:
    body = request.json
    return body.get("max_completion_tokens", body.get("max_tokens"))


def assert_soon_again(answer: Answer) -> None:
    """The money is held by calls in flight: come again in a moment."""
    assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded"), answer
    assert 0 < float(answer.header("retry-after") or 0) <= 60
    assert float(answer.header("retry-after-ms") or 0) > 0
    assert answer.header("x-should-retry") is None


def assert_gone(answer: Answer) -> None:
    """The money is spent: no SDK should come again by itself."""
    assert (answer.status, answer.error["code"]) == (429, "insufficient_quota"), answer
    assert answer.error["type"] == "insufficient_quota"
    assert answer.header("x-should-retry") == "false"


async def in_flight(
    gateway: Gateway, upstream: Upstream, key: Key, tokens: int, used: int
) -> tuple["asyncio.Task[Answer]", Gate]:
    """A call that holds `tokens` cents until its gate opens, and then turns out to have used fewer."""
    script, gate = held_back(upstream, wire.completion(usage=wire.usage(10, used)))
    (task,) = start(gateway, chat_request(key, script, model="endless", max_tokens=tokens), 1)
    await soon(lambda: len(script.requests) == 1, "the call at the provider")
    return task, gate


async def spend(gateway: Gateway, upstream: Upstream, key: Key, cents: int) -> None:
    answer = await gateway.chat(key, says(upstream, cents), model="endless", max_tokens=cents)
    assert answer.status == 200, answer


# The clamp


@pytest.mark.parametrize("ceiling", CEILINGS)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_an_open_call_gets_what_is_left_and_is_told(
    policies: Gateway, upstream: Upstream, ceiling: dict[str, Any], stream: bool
) -> None:
    key = limited(policies, **ceiling)
    await spend(policies, upstream, key, 300)
    if stream:
        usage = wire.event(wire.usage_chunk(wire.usage(10, 5)))
        script = upstream.stream(*wire.text_events("a"), usage, wire.DONE)
        answer = await policies.streamed(key, script, model="endless")
    else:
        script = says(upstream, 5)
        answer = await policies.chat(key, script, model="endless")
    assert answer.status == 200, answer
    assert answer.header(CLAMPED) == "700"
    assert bound_sent(script.request) == 700
    entries = await assert_books_agree(policies, key, admitted=2)
    assert [entry["cost_nano_usd"] for entry in entries] == [5 * CENT, 300 * CENT]


async def test_several_answers_share_what_is_left(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, quota_usd_per_month=10)
    script = says(upstream, 5)
    answer = await policies.chat(key, script, model="endless", n=2)
    assert (answer.status, answer.header(CLAMPED), bound_sent(script.request)) == (200, "500", 500)


async def test_while_others_are_open_at_most_half_of_what_is_left_is_taken(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(policies, quota_usd_per_month=20)
    first, first_gate = await in_flight(policies, upstream, key, 400, 1)
    script, gate = held_back(upstream, wire.completion(usage=wire.usage(10, 1)))
    (second,) = start(policies, chat_request(key, script, model="endless"), 1)
    await soon(lambda: len(script.requests) == 1, "the second call at the provider")
    assert bound_sent(script.request) == 800, "half of the 16 dollars that are left"
    third = await policies.chat(key, says(upstream, 1), model="endless")
    assert third.header(CLAMPED) == "400", "half of 8 dollars"
    first_gate.open()
    gate.open()
    assert [(await task).status for task in (first, second)] == [200, 200]
    await assert_books_agree(policies, key, admitted=3)


@pytest.mark.parametrize(("spent", "clamped_to"), [(744, "256"), (745, None)])
async def test_a_call_is_never_clamped_below_256_tokens(
    policies: Gateway, upstream: Upstream, spent: int, clamped_to: str | None
) -> None:
    key = limited(policies, quota_usd_per_month=10)
    await spend(policies, upstream, key, spent)
    script = says(upstream, 1)
    answer = await policies.chat(key, script, model="endless")
    if clamped_to is None:
        assert_gone(answer)
        assert script.requests == []
    else:
        assert (answer.status, answer.header(CLAMPED), bound_sent(script.request)) == (200, clamped_to, 256)


async def test_half_of_too_little_is_too_little_for_now(policies: Gateway, upstream: Upstream) -> None:
    """511 cents are left beside an open call: half of them are not 256 tokens, but without it there would be enough."""
    key = limited(policies, quota_usd_per_month=10)
    task, gate = await in_flight(policies, upstream, key, 489, 1)
    script = says(upstream, 1)
    assert_soon_again(await policies.chat(key, script, model="endless"))
    assert script.requests == []
    explicit = await policies.chat(key, script, model="endless", max_tokens=511)
    assert explicit.status == 200, "who says how much he needs may have all that is left"
    gate.open()
    assert (await task).status == 200
    assert (await policies.chat(key, script, model="endless")).header(CLAMPED) == "998"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_an_explicit_bound_is_admitted_whole_or_refused(
    policies: Gateway, upstream: Upstream, field: str
) -> None:
    key = limited(policies, quota_usd_per_month=10)
    await spend(policies, upstream, key, 500)
    script = says(upstream, 5)
    refused = await policies.chat(key, script, model="endless", **{field: 501})
    assert_gone(refused)
    admitted = await policies.chat(key, script, model="endless", **{field: 500})
    assert (admitted.status, admitted.header(CLAMPED), bound_sent(script.request)) == (200, None, 500)


async def test_an_explicit_bound_above_the_models_cap_is_lowered_to_it(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, quota_usd_per_month=10)
    script = says(upstream, 5)
    answer = await policies.chat(key, script, model="cent", max_tokens=5_000)
    assert answer.status == 200, "a thousand tokens are ten dollars"
    assert bound_sent(script.request) == 1_000


async def test_an_open_call_that_fits_whole_is_not_clamped(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, quota_usd_per_month=11)
    answer = await policies.chat(key, says(upstream, 5), model="cent")
    assert (answer.status, answer.header(CLAMPED)) == (200, None)


async def patient(gateway: Gateway, request: bytes, refusals: list[Answer]) -> Answer:
    """One call as an SDK makes it: again and again while the answer does not forbid it. The waits it names are only
    cut short."""
    while True:
        (answer,) = await asyncio.gather(*start(gateway, request, 1))
        if answer.status != 429 or answer.header("x-should-retry") == "false":
            return answer
        refusals.append(answer)
        await asyncio.sleep(min(0.1, float(answer.header("retry-after-ms") or 0) / 1000))


async def test_20_cheap_open_calls_at_once_all_pass_though_each_could_have_cost_more_than_all_there_is(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(policies, quota_usd_per_month=10)
    script = says(upstream, 10)
    refusals: list[Answer] = []
    request = chat_request(key, script, model="endless")
    async with asyncio.timeout(40):
        answers = await asyncio.gather(*(patient(policies, request, refusals) for _ in range(20)))
    assert [answer.status for answer in answers] == [200] * 20
    for refusal in refusals:
        assert_soon_again(refusal)
    entries = await assert_books_agree(policies, key, admitted=20)
    assert len(script.requests) == 20
    assert sum(entry["cost_nano_usd"] for entry in entries) == 200 * CENT
    assert all((answer.header(CLAMPED) or "").isdigit() for answer in answers)
    assert all(256 <= bound_sent(request) <= 1000 for request in script.requests)


# Held or spent


@pytest.mark.parametrize(
    "ceiling",
    [
        *CEILINGS[:2],
        pytest.param(
            {"budget_hard_usd_per_month": 10, "when_budget_reached": "downgrade_then_deny"}, id="downgrade, then deny"
        ),
    ],
)
async def test_held_money_comes_back_soon_and_spent_money_does_not(
    policies: Gateway, upstream: Upstream, ceiling: dict[str, Any]
) -> None:
    key = limited(policies, **ceiling)
    task, gate = await in_flight(policies, upstream, key, 600, 600)
    script = says(upstream, 1)
    assert_soon_again(await policies.chat(key, script, model="endless", max_tokens=600))
    gate.open()
    assert (await task).status == 200
    assert_gone(await policies.chat(key, script, model="endless", max_tokens=600))
    assert script.requests == []
    await assert_books_agree(policies, key, admitted=1)


async def test_a_call_refused_for_what_is_spent_stays_refused_though_others_are_in_flight(
    policies: Gateway, upstream: Upstream
) -> None:
    """It would not fit even if they gave everything back."""
    key = limited(policies, quota_usd_per_month=10)
    await spend(policies, upstream, key, 700)
    task, gate = await in_flight(policies, upstream, key, 100, 1)
    assert_gone(await policies.chat(key, says(upstream, 1), model="endless", max_tokens=400))
    gate.open()
    assert (await task).status == 200


async def test_a_keys_own_quota_shrinks_the_hold_too(policies: Gateway, upstream: Upstream) -> None:
    creator = policies.new_creator("base", quota_usd_per_month=10)
    key = policies.new_key(creator, overrides={"quota_usd_per_month": 4})
    script: Script = says(upstream, 1)
    answer = await policies.chat(key, script, model="endless")
    assert (answer.status, answer.header(CLAMPED), bound_sent(script.request)) == (200, "400", 400)
    refused = await policies.chat(key, script, model="endless", max_tokens=400)
    assert refused.error["metadata"]["name"] == "key_quota_usd_per_month"
    assert (await shown_limit(policies, key, "key_quota_usd_per_month"))["used"] == CENT
    assert usage_entries(policies, key)[0]["cost_nano_usd"] == CENT
    assert (await shown_limit(policies, key, "quota_usd_per_month"))["remaining"] == 10 * USD - CENT


@pytest.mark.parametrize(
    ("price", "overrides", "clamped_to", "owed"),
    [
        pytest.param("5000", {"quota_usd_per_month": 10}, "2000", 35 * USD // 1000, id="half the price"),
        pytest.param("20000", {"quota_usd_per_month": 10}, "500", 14 * CENT, id="twice the price"),
        pytest.param("0", {"quota_usd_per_month": 0}, None, 0, id="nothing owed"),
        pytest.param(
            "0", {"budget_usd_per_month": 10, "when_budget_reached": "deny"}, "1000", 0, id="nothing owed, but it costs"
        ),
    ],
)
async def test_the_quota_shrinks_by_what_is_owed_and_the_budget_by_what_it_costs(
    policies: Gateway,
    upstream: Upstream,
    price: str,
    overrides: dict[str, Any],
    clamped_to: str | None,
    owed: int,
) -> None:
    key = limited(policies, prices={"endless": {"output_usd_per_mtok": price}}, **overrides)
    answer = await policies.chat(key, says(upstream, 7), model="endless")
    assert (answer.status, answer.header(CLAMPED)) == (200, clamped_to), answer
    (entry,) = await assert_books_agree(policies, key, admitted=1)
    assert (entry["cost_nano_usd"], entry["charge_nano_usd"], entry["payer_amount"]) == (7 * CENT, owed, owed)
