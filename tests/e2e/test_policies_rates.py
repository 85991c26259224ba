"""Service tiers and long prompts: held at the dearest rate the call could get, booked at the one the answer reports.

`tiered` costs 10 and 20 USD per million tokens in and out, 20 and 30 above 1 000 tokens of prompt; flex half of all that,
priority four times as much as the base rate, whatever the length.
"""

from typing import Any

import pytest

from tests.rig import wire
from tests.rig.client import Answer
from tests.rig.gateway import Gateway, Key, chat_body
from tests.rig.policy_world import assert_books_agree, limited, says, usage_entries
from tests.rig.upstream import Script, Upstream

BASE, LONG = (10, 20), (20, 30)
FLEX, FLEX_LONG = (5, 10), (10, 15)
PRIORITY = (40, 80)
"""USD per million tokens in and out: thousands of nano-dollars a token, too."""


def cost(prompt: int, output: int, rates: tuple[int, int]) -> int:
    return (prompt * rates[0] + output * rates[1]) * 1_000


def streamed(upstream: Upstream, prompt: int, output: int, tier: str | None, *, where: str) -> Script:
    """`where`: `every` chunk names the tier, or only the `last`."""
    last = {} if tier is None else {"service_tier": tier}
    every = last if where == "every" else {}
    return upstream.stream(
        wire.event(wire.chunk("", role="assistant", extra=every)),
        wire.event(wire.chunk("a", extra=every)),
        wire.event(wire.chunk(finish="stop", extra=every)),
        wire.event({**wire.usage_chunk(wire.usage(prompt, output)), **last}),
        wire.DONE,
    )


CASES = [
    pytest.param(None, None, 100, BASE, id="nobody says"),
    pytest.param("flex", "flex", 100, FLEX, id="flex"),
    pytest.param("priority", "priority", 100, PRIORITY, id="priority"),
    pytest.param("priority", "default", 100, BASE, id="priority asked, default served"),
    pytest.param("flex", "default", 100, BASE, id="flex asked, default served"),
    pytest.param(None, "priority", 100, PRIORITY, id="priority unasked"),
    pytest.param("auto", "flex", 100, FLEX, id="auto, flex served"),
    pytest.param(None, "default", 1_000, BASE, id="just not long"),
    pytest.param(None, "default", 1_001, LONG, id="long"),
    pytest.param("flex", "flex", 1_001, FLEX_LONG, id="long and flex"),
    pytest.param("priority", "priority", 1_001, PRIORITY, id="long and priority"),
]


@pytest.mark.parametrize("form", ["json", "every", "last"])
@pytest.mark.parametrize(("asked", "reported", "prompt", "rates"), CASES)
async def test_a_call_is_booked_at_the_rate_the_answer_reports(
    policies: Gateway,
    upstream: Upstream,
    form: str,
    asked: str | None,
    reported: str | None,
    prompt: int,
    rates: tuple[int, int],
) -> None:
    key = limited(policies)
    fields = {"model": "tiered", "max_tokens": 100, "service_tier": asked}
    if form == "json":
        extra = {} if reported is None else {"service_tier": reported}
        script = says(upstream, 50, prompt, **extra)
        answer = await policies.chat(key, script, **fields)
        assert answer.status == 200, answer
    else:
        script = streamed(upstream, prompt, 50, reported, where=form)
        await policies.streamed(key, script, **fields)
    assert script.request.json.get("service_tier") == asked
    (entry,) = await assert_books_agree(policies, key, admitted=1)
    assert entry["cost_nano_usd"] == entry["charge_nano_usd"] == cost(prompt, 50, rates)


async def test_cached_tokens_count_for_the_length_of_a_prompt(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies)
    script = upstream.reply(wire.completion(usage=wire.usage(1_001, 10, cached=900)))
    assert (await policies.chat(key, script, model="tiered", max_tokens=10)).status == 200
    (entry,) = usage_entries(policies, key)
    assert entry["cost_nano_usd"] == cost(1_001, 10, LONG), "without a cached rate, cached input costs the input's"


async def estimate(gateway: Gateway, key: Key, **fields: Any) -> Any:
    body = chat_body(None, model="tiered", max_tokens=100, **fields)
    answer: Answer = await gateway.post(key, body, path="/v1/estimate")
    assert answer.status == 200, answer
    return answer.json


async def test_the_hold_is_that_of_the_dearest_rate_the_call_could_get(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies)
    base = (await estimate(policies, key))["hold_nano_usd"]
    assert (await estimate(policies, key, service_tier="flex"))["hold_nano_usd"] == base, "it may be served at base"
    assert (await estimate(policies, key, service_tier="priority"))["hold_nano_usd"] == 4 * base
    long = [{"role": "user", "content": "word " * 1_000}]
    hold = (await estimate(policies, key, messages=long))["hold_nano_usd"]
    assert hold >= cost(1_000, 100, LONG)
    assert hold >= 2 * 5_000 * 10 * 1_000, "every byte could be a token, each at the rate of long prompts"


async def test_the_hold_of_a_tier_is_what_the_quota_must_have_room_for(policies: Gateway, upstream: Upstream) -> None:
    needed = (await estimate(policies, limited(policies), service_tier="priority"))["hold_nano_usd"]
    fields = {"model": "tiered", "max_tokens": 100, "service_tier": "priority"}
    # The text of scripts differs in its length by their number, so the bound is a little loose either way.
    short = limited(policies, quota_usd_per_month=f"0.{needed * 3 // 4:09d}")
    enough = limited(policies, quota_usd_per_month=f"0.{needed * 5 // 4:09d}")
    script = says(upstream, 1, service_tier="priority")
    assert (await policies.chat(short, script, **fields)).status == 429
    assert (await policies.chat(short, script, **{**fields, "service_tier": None})).status == 200
    assert (await policies.chat(enough, script, **fields)).status == 200


@pytest.mark.parametrize("tier", ["priority", "turbo"])
async def test_a_dearer_tier_without_a_price_is_refused_as_unpriced(
    policies: Gateway, upstream: Upstream, tier: str
) -> None:
    key = limited(policies)
    script = says(upstream, 1)
    refused = await policies.chat(key, script, model="cent", max_tokens=1, service_tier=tier)
    assert refused.status == 400
    assert "unpriced" in str(refused.error["code"])
    assert refused.error["param"] == "service_tier"
    assert script.requests == []
    assert (await policies.chat(key, script, model="cent", max_tokens=1, service_tier="default")).status == 200
    await assert_books_agree(policies, key, admitted=1)


async def test_a_price_of_ones_own_is_owed_and_the_catalogs_is_what_it_cost(
    policies: Gateway, upstream: Upstream
) -> None:
    """Half of the input's price is given away; the budget goes by cost, the quota by what is owed."""
    key = limited(policies, prices={"tiered": {"input_usd_per_mtok": "5"}}, budget_usd_per_month=100)
    assert (await policies.chat(key, says(upstream, 50, 100), model="tiered", max_tokens=100)).status == 200
    (entry,) = await assert_books_agree(policies, key, admitted=1)
    assert entry["cost_nano_usd"] == cost(100, 50, BASE)
    assert entry["charge_nano_usd"] == cost(100, 50, (5, 20))
