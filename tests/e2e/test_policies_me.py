"""What a creator sees of itself: numbers equal to the ledger's, its own alone, and limits on every answer."""

from typing import Any

import pytest

from tests.rig import wire
from tests.rig.client import exchange, request_bytes
from tests.rig.gateway import CHAT, Gateway, Key
from tests.rig.policy_world import (
    CENT,
    USD,
    assert_books_agree,
    call,
    grant,
    limited,
    me,
    paint,
    paints,
    says,
    usage_entries,
)
from tests.rig.upstream import Close, Upstream

PATHS = ["", "/usage", "/calls", "/credits"]


async def busy(gateway: Gateway, upstream: Upstream) -> Key:
    """A creator with chat, a stream, images and a failed call behind it."""
    key = limited(gateway, free_images_per_day=1, requests_per_hour=50, quota_usd_per_month=100)
    grant(gateway, key, 10)
    blog, shop = [("x-gateway-feature", "blog")], [("x-gateway-feature", "shop")]
    for script, headers in ((says(upstream, 3), blog), (says(upstream, 2), shop)):
        assert (await call(gateway, key, script, headers, model="dollar", max_tokens=3)).status == 200
    events = [*wire.text_events("a"), wire.event(wire.usage_chunk(wire.usage(10, 7))), wire.DONE]
    await gateway.streamed(key, upstream.stream(*events), model="cent", max_tokens=9)
    assert (await paint(gateway, key, paints(upstream), blog)).status == 200
    assert (await paint(gateway, key, paints(upstream), blog, n=2)).status == 200
    assert (await gateway.chat(key, upstream.reply({"error": {"message": "no"}}, 500), model="cent")).status == 500
    return key


# Sums


async def test_every_number_is_the_ledgers(policies: Gateway, upstream: Upstream) -> None:
    key = await busy(policies, upstream)
    entries = await assert_books_agree(policies, key, admitted=6)
    seen = await me(policies, key)
    assert (seen["creator"], seen["key_id"], seen["plan"]["name"]) == (key.creator, key.id, "base")
    assert seen["month"]["cost_nano_usd"] == 5 * USD + 7 * CENT + 12 * CENT
    assert seen["month"]["charge_nano_usd"] == 5 * USD + 7 * CENT
    assert (seen["month"]["quota_usd"], seen["month"]["budget_usd"]) == ("100", None)
    assert seen["month"]["forecast_cost_nano_usd"] >= seen["month"]["cost_nano_usd"]
    assert (seen["free_images_today"]["left"], seen["credits"]["left"], seen["credits"]["granted"]) == (0, 6, 10)
    limits = {limit["name"]: limit for limit in seen["limits"]}
    quota = limits["quota_usd_per_month"]
    assert (quota["limit"], quota["remaining"]) == (100 * USD, 95 * USD - 7 * CENT)
    assert quota["resets_at"].endswith("-01T00:00:00Z")
    assert (limits["requests_per_hour"]["limit"], limits["requests_per_hour"]["remaining"]) == (50, 44)
    assert limits["concurrent_calls"]["used"] == limits["concurrent_calls"]["held"] == 0
    assert len(entries) == 6


@pytest.mark.parametrize("group", ["day", "model", "feature", "model,feature"])
async def test_usage_sums_the_ledger_by_what_is_asked(policies: Gateway, upstream: Upstream, group: str) -> None:
    key = await busy(policies, upstream)
    columns = {"day": "period_day", "model": "served_model", "feature": "feature"}
    expected: dict[tuple[str, ...], list[int]] = {}
    for entry in usage_entries(policies, key):
        sums = expected.setdefault(tuple(entry[columns[name]] for name in group.split(",")), [0] * 5)
        for index, name in enumerate(("cost_nano_usd", "charge_nano_usd", "output_tokens", "images")):
            sums[index] += entry[name]
        sums[4] += 1
    rows = (await me(policies, key, f"/usage?group_by={group}"))["data"]
    found = {
        tuple(row[name] for name in group.split(",")): [
            row[name] for name in ("cost_nano_usd", "charge_nano_usd", "output_tokens", "images", "calls")
        ]
        for row in rows
    }
    assert found == expected


async def test_credits_show_the_balance_and_all_that_changed_it(policies: Gateway, upstream: Upstream) -> None:
    key = await busy(policies, upstream)
    seen = await me(policies, key, "/credits")
    assert [(entry["kind"], entry["change"]) for entry in seen["data"]] == [("usage", -4), ("grant", 10)]
    assert sum(entry["change"] for entry in seen["data"]) == seen["credits"]["left"] == 6
    assert [(given["payer"], given["credits"]) for given in seen["grants"]] == [("credits", 10)]


# Calls


async def test_the_cost_of_a_streamed_call_can_be_read_afterwards(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies)
    events = [*wire.text_events("a"), wire.event(wire.usage_chunk(wire.usage(10, 7))), wire.DONE]
    answer = await policies.streamed(key, upstream.stream(*events), model="cent", max_tokens=9)
    (shown,) = (await me(policies, key, f"/calls/{answer.request_id}"))["data"]
    assert (shown["cost_nano_usd"], shown["cost_usd"], shown["output_tokens"]) == (7 * CENT, "0.07", 7)
    assert (shown["is_streaming"], shown["outcome"], shown["payer"]) == (True, "ok", "quota")


async def test_calls_are_listed_page_by_page_as_they_are_in_the_ledger(policies: Gateway, upstream: Upstream) -> None:
    key = await busy(policies, upstream)
    listed: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await me(policies, key, f"/calls?limit=2{cursor}")
        assert len(page["data"]) <= 2
        listed += page["data"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    entries = usage_entries(policies, key)
    assert [entry["request_id"] for entry in listed] == [entry["request_id"] for entry in entries]
    for shown, entry in zip(listed, entries, strict=True):
        assert shown.items() <= entry.items()


async def test_nobody_sees_anything_of_anybody_else(policies: Gateway, upstream: Upstream) -> None:
    owner, stranger = await busy(policies, upstream), limited(policies)
    request_id = usage_entries(policies, owner)[0]["request_id"]
    assert (await policies.get(owner, f"/v1/me/calls/{request_id}")).status == 200
    theirs = await policies.get(stranger, f"/v1/me/calls/{request_id}")
    nobodys = await policies.get(stranger, "/v1/me/calls/req_00000000000000000000000000000000")
    assert theirs.status == nobodys.status == 404
    assert theirs.error["code"] == nobodys.error["code"]
    assert theirs.error["message"] == nobodys.error["message"]
    for path in PATHS:
        answer = await policies.get(stranger, "/v1/me" + path)
        assert answer.status == 200
        assert owner.creator.encode() + b'"' not in answer.body
        assert request_id.encode() not in answer.body
    assert (await me(policies, stranger, "/calls"))["data"] == []
    assert (await me(policies, stranger, "/usage"))["data"] == []
    assert (await policies.get(stranger, f"/v1/me/usage?creator={owner.creator}")).status in {400, 422}


async def test_two_keys_of_a_creator_see_the_same(policies: Gateway, upstream: Upstream) -> None:
    key = await busy(policies, upstream)
    other = policies.new_key(key.creator)
    ours, theirs = (await me(policies, key))["month"], (await me(policies, other))["month"]
    assert {name for name in ours if ours[name] != theirs[name]} <= {name for name in ours if "forecast" in name}
    assert len((await me(policies, other, "/calls"))["data"]) == 6


@pytest.mark.parametrize("path", [*PATHS, "/calls/req_0"])
async def test_it_takes_a_virtual_key(policies: Gateway, path: str) -> None:
    assert (await policies.get(None, "/v1/me" + path)).status == 401
    assert (await policies.get(policies.admin_key, "/v1/me" + path)).status == 401


async def test_looking_takes_nothing_and_is_not_refused_when_nothing_is_left(
    policies: Gateway, upstream: Upstream
) -> None:
    key = limited(policies, requests_per_hour=1)
    assert (await policies.chat(key, says(upstream, 1), model="cent", max_tokens=1)).status == 200
    for path in PATHS:
        assert (await policies.get(key, "/v1/me" + path)).status == 200
    await assert_books_agree(policies, key, admitted=1)


# Headers

LIMITS = {f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")}


async def test_every_answer_of_a_call_tells_the_limits(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, requests_per_hour=6, tokens_per_minute=100_000)
    grant(policies, key, 10)
    fields = {"model": "cent", "max_tokens": 1}
    events = [*wire.text_events("a"), wire.event(wire.usage_chunk(wire.usage(10, 1))), wire.DONE]
    answers = [
        await policies.chat(key, says(upstream, 1), **fields),
        await policies.streamed(key, upstream.stream(*events), **fields),
        await policies.chat(key, upstream.reply({"error": {"message": "no"}}, 500), **fields),
        await policies.chat(key, upstream.reply({"error": {"message": "no"}}, 429), **fields),
        await paint(policies, key, paints(upstream)),
        await policies.chat(key, says(upstream, 1), **fields),
        await policies.chat(key, says(upstream, 1), **fields),
    ]
    assert [answer.status for answer in answers] == [200, 200, 500, 429, 200, 200, 429]
    for answer in answers:
        assert answer.header_names >= LIMITS, (answer.status, LIMITS - answer.header_names)
        assert answer.header("x-ratelimit-limit-requests") == "6"
        assert answer.header("x-ratelimit-limit-tokens") == "100000"
    remaining = [answer.header("x-ratelimit-remaining-requests") for answer in answers]
    assert remaining == ["5", "4", "3", "2", "1", "0", "0"]


@pytest.mark.parametrize("model", ["cent", "rig-dead"], ids=["died", "unreachable"])
async def test_an_admitted_call_whose_provider_failed_tells_the_limits_too(
    policies: Gateway, upstream: Upstream, model: str
) -> None:
    key = limited(policies, requests_per_hour=6, tokens_per_minute=100_000)
    answer = await policies.chat(key, upstream.script(Close()), model=model, max_tokens=1)
    assert answer.status == 502
    assert answer.header_names >= LIMITS, LIMITS - answer.header_names
    assert answer.header("x-ratelimit-remaining-requests") == "5"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param({"model": "cent", "max_tokens": 0}, 400, id="bad request"),
        pytest.param({"model": "nobody-knows"}, 404, id="unknown model"),
        pytest.param({"model": "dollar"}, 403, id="not allowed"),
        pytest.param({"model": "cent", "service_tier": "priority"}, 400, id="unpriced"),
    ],
)
async def test_a_call_refused_before_its_limits_were_asked_tells_them_too(
    policies: Gateway, upstream: Upstream, fields: dict[str, Any], status: int
) -> None:
    key = limited(policies, requests_per_hour=6, tokens_per_minute=100_000, models=["cent"])
    answer = await policies.chat(key, says(upstream, 1), **fields)
    assert answer.status == status, answer
    assert answer.header_names >= LIMITS, LIMITS - answer.header_names


async def test_an_answer_to_nobody_tells_no_limits(policies: Gateway) -> None:
    answer = await exchange(policies.port, request_bytes("POST", CHAT, key="sk-gw-nobody-nothing", body={}))
    assert answer.status == 401
    assert not answer.header_names & LIMITS
