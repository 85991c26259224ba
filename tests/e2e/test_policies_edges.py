"""64 calls at once at the edge of every kind of limit: exactly as many pass as it allows, the others cost nothing."""

import asyncio
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.client import Answer, exchange
from tests.rig.gateway import Gateway, Key, prompt
from tests.rig.policy_world import (
    CENT,
    USD,
    assert_books_agree,
    at_once,
    call,
    chat_request,
    grant,
    held_back,
    image_request,
    limited,
    paint,
    paints,
    says,
    shown_limit,
    split,
    start,
)
from tests.rig.upstream import Gate, Script, Upstream
from tests.rig.waiting import soon

TIMES = 64
ONE_TOKEN = wire.completion(usage=wire.usage(10, 1))
WINDOWS = [("requests_per_minute", 60), ("requests_per_hour", 3_600), ("requests_per_day", 86_400)]


async def crowd(gateway: Gateway, request: bytes, gate: Gate, script: Script, admitted: int) -> list[Answer]:
    """64 answers, of calls that are all under way until all but `admitted` are refused."""
    calls = start(gateway, request, TIMES)
    await soon(lambda: sum(one.done() for one in calls) >= TIMES - admitted, f"{TIMES - admitted} refusals")
    await soon(lambda: len(script.requests) >= admitted, f"{admitted} calls at the provider")
    gate.open()
    return await asyncio.gather(*calls)


def assert_says(refused: list[Answer], name: str, *codes: str) -> None:
    for answer in refused:
        assert answer.error["code"] in codes, answer.error
        assert answer.error["metadata"]["name"] == name


# Rates


@pytest.mark.parametrize(("window", "seconds"), WINDOWS)
async def test_a_window_lets_exactly_its_requests_through(
    policies: Gateway, upstream: Upstream, window: str, seconds: int
) -> None:
    key = limited(policies, **{window: 10})
    script = says(upstream, 1)
    admitted, refused = split(await at_once(policies, chat_request(key, script, model="cent", max_tokens=1), TIMES))
    assert (len(admitted), len(script.requests)) == (10, 10)
    assert_says(refused, window, "rate_limit_exceeded")
    for answer in refused:
        assert seconds - 30 < float(answer.header("retry-after") or 0) <= seconds
        assert answer.header("x-should-retry") == (None if seconds <= 60 else "false")
        assert answer.header("x-ratelimit-remaining-requests") == "0"
    await assert_books_agree(policies, key, admitted=10)
    shown = await shown_limit(policies, key, window)
    assert (shown["limit"], shown["used"], shown["held"], shown["remaining"]) == (10, 10, 0, 0)


@pytest.mark.parametrize("capacity", [512, 513])
async def test_a_large_window_lets_exactly_its_requests_through_too(
    policies: Gateway, upstream: Upstream, capacity: int
) -> None:
    """Up to 512 requests are kept one by one, and more in sixtieths of the window: nobody may see the difference."""
    key = limited(policies, requests_per_hour=capacity)
    script = says(upstream, 1)
    request = chat_request(key, script, model="cent", max_tokens=1)
    answers = [answer for _ in range(9) for answer in await at_once(policies, request, TIMES)]
    assert len(split(answers)[0]) == len(script.requests) == capacity
    assert (await shown_limit(policies, key, "requests_per_hour"))["used"] == capacity


async def test_of_several_windows_the_narrowest_counts_and_refusals_take_from_none(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(policies, requests_per_minute=40, requests_per_hour=7, requests_per_day=50)
    script = says(upstream, 1)
    answers = await at_once(policies, chat_request(key, script, model="cent", max_tokens=1), TIMES)
    admitted, refused = split(answers)
    assert (len(admitted), len(script.requests)) == (7, 7)
    assert_says(refused, "requests_per_hour", "rate_limit_exceeded")
    for window, _ in WINDOWS:
        assert (await shown_limit(policies, key, window))["used"] == 7
    await assert_books_agree(policies, key, admitted=7)


@pytest.mark.parametrize("bound", [1000, None], ids=["explicit", "open"])
async def test_a_minutes_tokens_are_taken_by_input_and_bound_and_corrected_by_what_was_used(
    policies: Gateway, upstream: Upstream, bound: int | None
) -> None:
    """A token for four bytes, and the explicit bound of the output or 1 000."""
    script, gate = held_back(upstream, ONE_TOKEN)
    needed = -(-len(prompt(script)) // 4) + 1000
    key = limited(policies, tokens_per_minute=10 * needed)
    request = chat_request(key, script, model="cent", max_tokens=bound)
    admitted, refused = split(await crowd(policies, request, gate, script, 10))
    assert (len(admitted), len(script.requests)) == (10, 10)
    assert_says(refused, "tokens_per_minute", "rate_limit_exceeded")
    assert all(0 < float(answer.header("retry-after") or 0) <= 61 for answer in refused)
    assert (await shown_limit(policies, key, "tokens_per_minute"))["used"] == 10 * 11
    await assert_books_agree(policies, key, admitted=10)


async def test_a_token_more_than_the_minutes_whole_capacity_is_too_large_and_no_wait_helps(
    policies: Gateway, upstream: Upstream
) -> None:
    script = says(upstream, 1)
    needed = -(-len(prompt(script)) // 4) + 500
    key = limited(policies, tokens_per_minute=needed)
    refused = await policies.chat(key, script, model="cent", max_tokens=501)
    assert (refused.status, refused.error["code"]) == (429, "request_too_large")
    assert refused.header("retry-after") is None
    assert refused.header("x-should-retry") == "false"
    assert (await policies.chat(key, script, model="cent", max_tokens=500)).status == 200
    await assert_books_agree(policies, key, admitted=1)


# Calls at once


async def test_the_65th_call_at_once_is_refused_and_a_place_is_free_when_one_ends(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(policies, concurrent_calls=64)
    script, gate = held_back(upstream, ONE_TOKEN)
    request = chat_request(key, script, model="cent", max_tokens=1)
    calls = start(policies, request, TIMES)
    await soon(lambda: len(script.requests) == TIMES, "64 calls at the provider")
    one_more = await exchange(policies.port, request)
    assert (one_more.status, one_more.error["code"]) == (429, "rate_limit_exceeded")
    assert one_more.error["metadata"]["name"] == "concurrent_calls"
    assert 0 < float(one_more.header("retry-after") or 0) <= 60
    assert one_more.header("x-should-retry") is None
    assert (await shown_limit(policies, key, "concurrent_calls"))["held"] == 64
    gate.open()
    assert {answer.status for answer in await asyncio.gather(*calls)} == {200}
    assert (await exchange(policies.port, request)).status == 200
    await assert_books_agree(policies, key, admitted=65)


async def test_of_64_calls_seven_are_under_way_at_once(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, concurrent_calls=7)
    script, gate = held_back(upstream, ONE_TOKEN)
    request = chat_request(key, script, model="cent", max_tokens=1)
    admitted, refused = split(await crowd(policies, request, gate, script, 7))
    assert (len(admitted), len(script.requests)) == (7, 7)
    assert_says(refused, "concurrent_calls", "rate_limit_exceeded")
    await assert_books_agree(policies, key, admitted=7)


async def test_a_place_is_free_again_whatever_became_of_the_call(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, concurrent_calls=1)
    failing = upstream.reply({"error": {"message": "no", "type": "x", "param": None, "code": None}}, 500)
    for script, status in ((failing, 500), (says(upstream, 1), 200), (failing, 500)):
        assert (await policies.chat(key, script, model="cent", max_tokens=1)).status == status
    await policies.streamed(key, upstream.stream(*wire.text_events("a"), wire.DONE), model="cent", max_tokens=1)
    assert (await policies.chat(key, says(upstream, 1), model="cent", max_tokens=1)).status == 200


# Money


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        pytest.param({"quota_usd_per_month": 10}, "quota_usd_per_month", id="quota"),
        pytest.param(
            {"budget_usd_per_month": 10, "when_budget_reached": "deny"}, "budget_hard_usd_per_month", id="deny"
        ),
        pytest.param(
            {"budget_hard_usd_per_month": 10, "when_budget_reached": "downgrade_then_deny"},
            "budget_hard_usd_per_month",
            id="downgrade_then_deny",
        ),
    ],
)
@pytest.mark.parametrize(("tokens", "fitting"), [(6, 1), (1, 10)], ids=["60 % each", "10 % each"])
async def test_money_is_a_ceiling_for_what_is_under_way(
    policies: Gateway, upstream: Upstream, overrides: dict[str, Any], name: str, tokens: int, fitting: int
) -> None:
    """Nobody holds more than there is; the refused may come again soon, because the money is only held."""
    key = limited(policies, **overrides)
    script, gate = held_back(upstream, ONE_TOKEN)
    request = chat_request(key, script, model="dollar", max_tokens=tokens)
    admitted, refused = split(await crowd(policies, request, gate, script, fitting))
    assert (len(admitted), len(script.requests)) == (fitting, fitting)
    assert_says(refused, name, "rate_limit_exceeded")
    assert all(0 < float(answer.header("retry-after") or 0) <= 60 for answer in refused)
    assert all(answer.header("x-should-retry") is None for answer in refused)
    entries = await assert_books_agree(policies, key, admitted=fitting)
    assert sum(entry["cost_nano_usd"] for entry in entries) == fitting * USD


async def test_past_the_soft_budget_the_cheaper_model_serves_up_to_the_hard_one(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(
        policies,
        budget_usd_per_month=10,
        budget_hard_usd_per_month="10.20",
        when_budget_reached="downgrade_then_deny",
    )
    script, gate = held_back(upstream, ONE_TOKEN)
    request = chat_request(key, script, model="pair", max_tokens=1)
    admitted, refused = split(await crowd(policies, request, gate, script, 30))
    models = [answer.header("x-gateway-model") for answer in admitted]
    assert (models.count("pair"), models.count("plain"), len(refused)) == (10, 20, 34)
    assert_says(refused, "budget_hard_usd_per_month", "rate_limit_exceeded")
    entries = await assert_books_agree(policies, key, admitted=30)
    assert sum(entry["cost_nano_usd"] for entry in entries) == 10 * USD + 20 * CENT
    spent = await policies.chat(key, script, model="pair", max_tokens=1)
    assert (spent.status, spent.error["code"]) == (429, "insufficient_quota")
    assert spent.header("x-should-retry") == "false"
    assert len(script.requests) == 30


# Payers by the piece


@pytest.mark.parametrize("payer", ["credits", "promo_credits"])
async def test_a_balance_pays_exactly_as_many_images_as_it_covers(
    policies: Gateway, upstream: Upstream, payer: str
) -> None:
    """21 credits, two an image."""
    key = limited(policies)
    grant(policies, key, 21, payer)
    script = paints(upstream)
    admitted, refused = split(await at_once(policies, image_request(key, script), TIMES))
    assert (len(admitted), len(script.requests)) == (10, 10)
    assert {answer.header("x-gateway-payer") for answer in admitted} == {payer}
    assert {answer.error["code"] for answer in refused} <= {"insufficient_quota", "rate_limit_exceeded"}
    entries = await assert_books_agree(policies, key, admitted=10)
    assert {(entry["payer"], entry["payer_unit"], entry["payer_amount"]) for entry in entries} == {(payer, "credit", 2)}
    assert (await shown_limit(policies, key, payer))["remaining"] == 1


async def test_a_days_free_images_are_given_once_each(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, free_images_per_day=3)
    script = paints(upstream)
    admitted, _ = split(await at_once(policies, image_request(key, script), TIMES))
    assert (len(admitted), len(script.requests)) == (3, 3)
    entries = await assert_books_agree(policies, key, admitted=3)
    assert {(entry["payer"], entry["payer_amount"], entry["charge_nano_usd"]) for entry in entries} == {
        ("free_images", 1, 0)
    }


async def test_payers_take_over_from_each_other_in_the_crowd_without_losing_or_giving_one_too_many(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(policies, free_images_per_day=3)
    grant(policies, key, 4, "promo_credits")
    grant(policies, key, 7)
    script = paints(upstream)
    admitted, refused = split(await at_once(policies, image_request(key, script), TIMES))
    payers = [answer.header("x-gateway-payer") for answer in admitted]
    assert {name: payers.count(name) for name in set(payers)} == {"free_images": 3, "promo_credits": 2, "credits": 3}
    assert len(refused) == TIMES - 8 == TIMES - len(script.requests)
    await assert_books_agree(policies, key, admitted=8)


# Beside each other


async def test_a_keys_own_limit_stands_beside_its_creators(policies: Gateway, upstream: Upstream) -> None:
    creator = policies.new_creator("base", requests_per_hour=10)
    bounded = policies.new_key(creator, overrides={"requests_per_hour": 4})
    other = policies.new_key(creator)
    script = says(upstream, 1)

    async def crowd_of(key: Key) -> list[Answer]:
        return await at_once(policies, chat_request(key, script, model="cent", max_tokens=1), TIMES // 2)

    own, _ = split(await crowd_of(bounded))
    assert len(own) == 4
    refused = await policies.chat(bounded, script, model="cent", max_tokens=1)
    assert refused.error["metadata"]["name"] == "key_requests_per_hour"
    answers = await asyncio.gather(crowd_of(bounded), crowd_of(other))
    assert [len(split(group)[0]) for group in answers] == [0, 6]
    assert len(script.requests) == 10
    await assert_books_agree(policies, other, admitted=10)


async def test_two_keys_at_once_share_what_their_creator_has(policies: Gateway, upstream: Upstream) -> None:
    creator = policies.new_creator("base", quota_usd_per_month=10)
    bounded = policies.new_key(creator, overrides={"quota_usd_per_month": 3})
    other = policies.new_key(creator)
    script = says(upstream, 1)
    groups = await asyncio.gather(
        *(at_once(policies, chat_request(key, script, model="dollar", max_tokens=1), 32) for key in (bounded, other))
    )
    own, others = (len(split(group)[0]) for group in groups)
    assert own <= 3
    assert own + others == len(script.requests) == 10
    await assert_books_agree(policies, other, admitted=10)


async def test_a_providers_limit_counts_only_its_own_calls(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, requests_per_minute=20, providers={"rig": {"requests_per_minute": 5}})
    script = says(upstream, 1)
    admitted, refused = split(await at_once(policies, chat_request(key, script, model="cent", max_tokens=1), TIMES))
    assert (len(admitted), len(script.requests)) == (5, 5)
    assert_says(refused, "rig_requests_per_minute", "rate_limit_exceeded")
    elsewhere = await at_once(policies, chat_request(key, script, model="rig-never", max_tokens=1), TIMES)
    assert len(split(elsewhere)[0]) == 15, "what the provider's limit refused took nothing from the creator's"
    await assert_books_agree(policies, key, admitted=20)


async def test_the_first_calls_ever_of_a_creator_nobody_knew_count_from_the_first(
    policies: Gateway, upstream: Upstream
) -> None:
    """A service key brings the creator along; 64 calls find nothing about it anywhere."""
    service = policies.new_key(plan="base", scopes=["act_for"], default_plan="small")
    script = says(upstream, 1)
    name = f"newcomer-of-{service.creator}"
    request = chat_request(service, script, [("x-gateway-creator", name)], model="cent", max_tokens=1)
    admitted, _ = split(await at_once(policies, request, TIMES))
    assert (len(admitted), len(script.requests)) == (5, 5)
    assert policies.admin_json("GET", f"/admin/creators/{name}")["plan"] == "small"
    assert len(policies.entries(creator=name)) == 5


async def test_what_was_refused_left_no_trace_in_any_counter(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, quota_usd_per_month=1, requests_per_minute=64, tokens_per_minute=10**6)
    grant(policies, key, 1)
    script = says(upstream, 1)
    assert {a.status for a in await at_once(policies, chat_request(key, script, model="dollar", max_tokens=2), 20)} == {
        429
    }
    assert (await paint(policies, key, script)).status == 429
    assert (await call(policies, key, script, model="nobody-knows")).status == 404
    assert script.requests == []
    for name in ("requests_per_minute", "tokens_per_minute", "concurrent_calls", "quota_usd_per_month", "credits"):
        shown = await shown_limit(policies, key, name)
        assert (shown["used"], shown["held"]) == (0, 0), name
    await assert_books_agree(policies, key, admitted=0)
