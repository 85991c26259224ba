"""Images: premium ones until the month's budget is reached, then standard ones; by size, quality and number."""

import asyncio
from typing import Any

import pytest

from tests.rig.client import Answer
from tests.rig.gateway import Gateway, Key
from tests.rig.policy_world import (
    CENT,
    USD,
    assert_books_agree,
    at_once,
    grant,
    image_request,
    limited,
    paint,
    paints,
    pictures,
    served_by,
    split,
    usage_entries,
)
from tests.rig.upstream import Close, Upstream

FLUX_NANO_USD = 3_000_000
HD = {"model": "dall-e-3", "quality": "hd", "style": "vivid", "size": "1024x1024"}


async def test_at_100_dollars_a_month_dall_e_3_hd_becomes_flux_schnell_in_the_crowd(
    policies: Gateway, upstream: Upstream
) -> None:
    """A plan that names no budget has one of 100 USD; an image is 10 USD here, and 50 are asked for at once."""
    key = limited(policies, "hundred")
    script = paints(upstream)
    answers = await at_once(policies, image_request(key, script, **HD), 50)
    assert served_by(answers) == {"dall-e-3": 10, "flux-schnell": 40}
    for request in script.requests:
        assert request.line.startswith("POST /v1/images/generations")
        is_premium = request.json["model"] == "up-dall-e-3"
        assert is_premium or request.json["model"] == "up-flux-schnell"
        assert ("quality" in request.json, "style" in request.json) == (is_premium, is_premium)
    for answer in answers:
        is_standard = answer.header("x-gateway-model") == "flux-schnell"
        assert answer.header("x-gateway-downgraded-from") == ("dall-e-3" if is_standard else None)
        assert bool(answer.header("x-gateway-downgrade-reason")) is is_standard
        assert len(answer.json["data"]) == 1
    entries = await assert_books_agree(policies, key, admitted=50)
    assert sum(entry["cost_nano_usd"] for entry in entries) == 100 * USD + 40 * FLUX_NANO_USD
    assert {(entry["requested_model"], entry["images"]) for entry in entries} == {("dall-e-3", 1)}


async def test_ten_images_in_one_call_reach_the_cap_too(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, "hundred")
    served: list[str | None] = []
    for count in (9, 2, 1, 1):
        answer = await paint(policies, key, paints(upstream), n=count, **HD)
        assert len(answer.json["data"]) == count
        served.append(answer.header("x-gateway-model"))
    # 90; 110 would be too much, and from then on it must come below 90.
    assert served == ["dall-e-3", "flux-schnell", "flux-schnell", "flux-schnell"]


async def test_a_small_cap_and_the_cheaper_quality(policies: Gateway, upstream: Upstream) -> None:
    """The cap decides by what this image costs: hd no longer fits where standard still does."""
    key = limited(policies, budget_usd_per_month=8)
    first = await paint(policies, key, paints(upstream), model="dall-e-3")
    assert (first.header("x-gateway-model"), first.header("x-gateway-cost-usd")) == ("dall-e-3", "4")
    second = await paint(policies, key, paints(upstream), model="dall-e-3", quality="hd", size="1024x1792")
    assert (second.header("x-gateway-model"), second.header("x-gateway-cost-usd")) == ("flux-schnell", "0.003")


async def test_a_caller_who_insists_on_the_premium_image_is_refused(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, budget_usd_per_month=5)
    script = paints(upstream)
    refused = await paint(policies, key, script, [("x-gateway-downgrade", "never")], **HD)
    assert refused.status == 429
    assert refused.error["code"] in {"insufficient_quota", "request_too_large"}
    assert refused.header("x-should-retry") == "false"
    assert script.requests == []


@pytest.mark.parametrize(
    ("fields", "dollars", "variant"),
    [
        pytest.param({}, 4, "1024x1024/standard", id="the default"),
        pytest.param({"quality": "hd"}, 10, "1024x1024/hd", id="quality"),
        pytest.param({"quality": "hd", "size": "1024x1792"}, 12, "1024x1792/hd", id="size and quality"),
        pytest.param({"quality": "hd", "n": 3}, 30, "1024x1024/hd", id="times n"),
    ],
)
async def test_an_image_is_held_and_booked_at_the_price_of_its_size_and_quality(
    policies: Gateway, upstream: Upstream, fields: dict[str, Any], dollars: int, variant: str
) -> None:
    """Exact before the call: a quota of just so much lets it through, a nano-dollar less does not."""
    enough = limited(policies, quota_usd_per_month=dollars, budget_usd_per_month="unlimited")
    short = limited(policies, quota_usd_per_month=f"{dollars - 1}.999999999", budget_usd_per_month="unlimited")
    script = paints(upstream)
    assert (await paint(policies, short, script, model="dall-e-3", **fields)).status == 429
    assert script.requests == []
    answer = await paint(policies, enough, script, model="dall-e-3", **fields)
    assert (answer.status, answer.header("x-gateway-cost-usd")) == (200, str(dollars))
    (entry,) = usage_entries(policies, enough)
    assert (entry["cost_nano_usd"], entry["variant"]) == (dollars * USD, variant)
    assert (entry["payer"], entry["charge_nano_usd"]) == ("quota", dollars * USD)


@pytest.mark.parametrize("fields", [{"size": "256x256"}, {"quality": "ultra"}], ids=["size", "quality"])
async def test_an_image_without_a_price_is_refused_before_the_call(
    policies: Gateway, upstream: Upstream, fields: dict[str, Any]
) -> None:
    key = limited(policies)
    script = paints(upstream)
    answer = await paint(policies, key, script, model="dall-e-3", **fields)
    assert answer.status == 400
    assert "unpriced" in str(answer.error["code"])
    assert script.requests == []
    await assert_books_agree(policies, key, admitted=0)


async def test_a_downgraded_image_is_paid_in_the_cheaper_models_credits(policies: Gateway, upstream: Upstream) -> None:
    """4 dollars and 10 credits, or 4 cents and 2 credits: the budget is on cost, whoever pays."""
    key = limited(policies, budget_usd_per_month=10)
    grant(policies, key, 100)
    answers: list[Answer] = [await paint(policies, key, paints(upstream), model="masterpiece") for _ in range(4)]
    assert [answer.header("x-gateway-model") for answer in answers] == ["masterpiece"] * 2 + ["picture"] * 2
    entries = await assert_books_agree(policies, key, admitted=4)
    assert [(entry["payer"], entry["payer_amount"]) for entry in entries] == [("credits", 2)] * 2 + [
        ("credits", 10)
    ] * 2
    assert sum(entry["cost_nano_usd"] for entry in entries) == 8 * USD + 8 * CENT
    assert sum(entry["charge_nano_usd"] for entry in entries) == 0


async def test_a_downgrade_may_bring_a_model_that_credits_cover(policies: Gateway, upstream: Upstream) -> None:
    """In the crowd: 10 dollars let two through, and 24 credits then pay for two more images only."""
    key = limited(policies, budget_usd_per_month=10)
    grant(policies, key, 24)
    admitted, refused = split(await at_once(policies, image_request(key, paints(upstream), model="masterpiece"), 50))
    models = [answer.header("x-gateway-model") for answer in admitted]
    assert (models.count("masterpiece"), models.count("picture"), len(refused)) == (2, 2, 46)
    await assert_books_agree(policies, key, admitted=4)


# What comes back


async def image_call(gateway: Gateway, key: Key, script: Any, count: int) -> Answer:
    return await paint(gateway, key, script, model="dall-e-3", n=count)


async def test_only_images_that_came_back_cost(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies)
    assert (await image_call(policies, key, upstream.reply(pictures(2)), 4)).status == 200
    filtered = {"created": 1, "data": [{"url": "http://images.test/1.png"}, {"revised_prompt": "filtered"}]}
    assert (await image_call(policies, key, upstream.reply(filtered), 2)).status == 200
    assert (await image_call(policies, key, upstream.reply(pictures(0)), 2)).status == 200
    entries = await assert_books_agree(policies, key, admitted=3)
    found = [(entry["images"], entry["cost_nano_usd"], entry["charge_nano_usd"]) for entry in entries]
    assert found == [(0, 0, 0), (1, 4 * USD, 4 * USD), (2, 8 * USD, 8 * USD)]


async def test_a_refused_image_costs_nothing_and_a_connection_cut_off_after_it_was_sent_is_estimated(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(policies)
    refusal = {"error": {"message": "no", "type": "x", "param": None, "code": "content_policy_violation"}}
    assert (await image_call(policies, key, upstream.reply(refusal, 400), 2)).status == 400
    assert (await image_call(policies, key, upstream.script(Close()), 2)).status == 502
    cut, refused = await assert_books_agree(policies, key, admitted=2)
    assert (refused["cost_nano_usd"], refused["images"], refused["usage_source"]) == (0, 0, "none")
    assert (cut["cost_nano_usd"], cut["usage_source"]) == (8 * USD, "estimated")


async def test_image_calls_and_chat_share_the_windows_and_the_places(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, requests_per_minute=20)
    script = paints(upstream)
    images = image_request(key, script, model="flux-schnell")
    groups = await asyncio.gather(at_once(policies, images, 32), at_once(policies, images, 32))
    assert sum(len(split(group)[0]) for group in groups) == len(script.requests) == 20
