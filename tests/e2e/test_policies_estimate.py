"""What is foretold is what happens, asking costs nothing, and afterwards the admin can have any call explained."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.gateway import CHAT, Gateway, Key, chat_body
from tests.rig.policy_world import (
    CENT,
    IMAGES,
    USD,
    assert_books_agree,
    chat_request,
    grant,
    held_back,
    image_body,
    limited,
    me,
    paint,
    paints,
    says,
    start,
)
from tests.rig.upstream import Script, Upstream
from tests.rig.waiting import soon

NEVER = [("x-gateway-downgrade", "never")]


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "dollar", "max_tokens": 5, **fields}


def image(**fields: Any) -> dict[str, Any]:
    return {"model": "picture", "n": 2, **fields}


CASES = [
    pytest.param({}, 0, chat(), id="the quota pays"),
    pytest.param({"quota_usd_per_month": 4}, 0, chat(), id="more than the whole quota"),
    pytest.param({"quota_usd_per_month": 10}, 9, chat(), id="the quota is spent"),
    pytest.param({"budget_usd_per_month": 10}, 10, chat(model="pair"), id="downgraded"),
    pytest.param({"budget_usd_per_month": 100}, 80, chat(model="premium", max_tokens=30), id="downgraded half way"),
    pytest.param({"budget_usd_per_month": 10, "when_budget_reached": "deny"}, 10, chat(), id="the budget denies"),
    pytest.param({"quota_usd_per_month": 10}, 3, chat(model="endless", max_tokens=None), id="clamped"),
    pytest.param({"requests_per_minute": 1}, 1, chat(), id="no request left"),
    pytest.param({"tokens_per_minute": 3}, 0, chat(), id="too many tokens"),
    pytest.param({"models": ["cent"]}, 0, chat(), id="not allowed"),
    pytest.param({"free_images_per_day": 3}, 0, image(), id="free images pay"),
    pytest.param({"free_images_per_day": 1, "promo": 4, "credits": 9}, 0, image(), id="promotional credits pay"),
    pytest.param({"promo": 3, "credits": 9}, 0, image(), id="credits pay"),
    pytest.param({"promo": 3, "credits": 3}, 0, image(), id="nobody pays"),
    pytest.param({"budget_usd_per_month": 10}, 0, image(model="dall-e-3", quality="hd"), id="two premium images"),
]


async def prepared(gateway: Gateway, upstream: Upstream, has: Mapping[str, Any], dollars: int) -> Key:
    overrides = {name: value for name, value in has.items() if name not in ("promo", "credits")}
    key = limited(gateway, **overrides)
    for name, payer in (("promo", "promo_credits"), ("credits", "credits")):
        if name in has:
            grant(gateway, key, has[name], payer)
    if dollars:
        assert (await gateway.chat(key, says(upstream, dollars), **chat(max_tokens=dollars))).status == 200
    return key


def request_of(script: Script | None, fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    is_chat = "max_tokens" in fields
    return (CHAT, chat_body(script, **fields)) if is_chat else (IMAGES, dict(image_body(script, **fields)))


async def without_clock(gateway: Gateway, key: Key) -> Any:
    """All of `/v1/me` but what time alone changes."""
    seen = await me(gateway, key)
    for limit in seen["limits"]:
        del limit["reset_s"], limit["resets_at"]
    return {**seen, "month": {name: value for name, value in seen["month"].items() if "forecast" not in name}}


@pytest.mark.parametrize("headers", [[], NEVER], ids=["any model", "never downgraded"])
@pytest.mark.parametrize(("has", "dollars", "fields"), CASES)
async def test_what_is_foretold_is_what_then_happens(
    policies: Gateway,
    upstream: Upstream,
    has: dict[str, Any],
    dollars: int,
    fields: dict[str, Any],
    headers: list[tuple[str, str]],
) -> None:
    key = await prepared(policies, upstream, has, dollars)
    script = says(upstream, 1) if "max_tokens" in fields else paints(upstream)
    path, body = request_of(script, fields)
    before = await without_clock(policies, key)
    answers = [await policies.post(key, body, headers, "/v1/estimate") for _ in range(3)]
    by_admin = policies.admin_json(
        "POST", "/admin/estimate", json={"creator": key.creator, "request": body, "downgrade": not headers}
    )
    assert await without_clock(policies, key) == before, "asking changes nothing"
    assert script.requests == []
    assert [answer.status for answer in answers] == [200] * 3
    foretold = answers[-1].json
    for name in ("would", "model", "hold_nano_usd", "payer", "downgrades", "clamped_max_tokens"):
        assert by_admin[name] == foretold[name], name

    real = await policies.post(key, body, headers, path)
    if real.status != 200:
        assert foretold["would"] == "refuse"
        told = foretold["refusal"]
        assert (told["status"], told["code"], told["message"]) == (
            real.status,
            real.error["code"],
            real.error["message"],
        )
        assert script.requests == []
        assert foretold["payer"] is None
        return
    assert foretold["refusal"] is None
    assert foretold["would"] == ("downgrade" if real.header("x-gateway-downgraded-from") else "admit")
    assert foretold["model"] == real.header("x-gateway-model")
    clamped = real.header("x-gateway-clamped-max-tokens")
    assert foretold["clamped_max_tokens"] == (int(clamped) if clamped else None)
    entry = policies.admin_json("GET", f"/admin/ledger/{real.request_id}")["data"][0]
    assert foretold["payer"]["name"] == entry["payer"]
    assert foretold["payer"]["unit"] == entry["payer_unit"]
    assert foretold["payer"]["amount_max"] >= entry["payer_amount"]
    assert foretold["price"]["version"] == entry["price_version"]
    assert foretold["hold_nano_usd"] >= entry["cost_nano_usd"]
    assert [step["to_model"] for step in foretold["downgrades"]] == [
        step["to_model"] for step in entry["decision"]["downgrades"]
    ]


async def test_a_foretold_downgrade_is_not_remembered_as_one(policies: Gateway, upstream: Upstream) -> None:
    """9 of 10 dollars are spent: two more would be too much, one more still fits, unless the asking had marked it."""
    key = await prepared(policies, upstream, {"budget_usd_per_month": 10}, 9)
    asked = await policies.post(key, chat_body(None, model="pair", max_tokens=2), path="/v1/estimate")
    assert asked.json["would"] == "downgrade"
    real = await policies.chat(key, says(upstream, 1), model="pair", max_tokens=1)
    assert real.header("x-gateway-model") == "pair"


async def test_asking_is_not_refused_in_the_crowd_and_leaves_no_trace(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, requests_per_minute=1, concurrent_calls=1)
    body = chat_body(None, **chat())
    answers = await asyncio.gather(*(policies.post(key, body, path="/v1/estimate") for _ in range(64)))
    assert {(answer.status, answer.json["would"]) for answer in answers} == {(200, "admit")}
    await assert_books_agree(policies, key, admitted=0)
    assert (await policies.chat(key, says(upstream, 1), **chat())).status == 200


async def test_money_in_flight_is_part_of_what_is_foretold(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, quota_usd_per_month=10)
    script, gate = held_back(upstream, wire.completion(usage=wire.usage(10, 1)))
    (task,) = start(policies, chat_request(key, script, **chat(max_tokens=6)), 1)
    await soon(lambda: len(script.requests) == 1, "the call at the provider")
    asked = (await policies.post(key, chat_body(None, **chat(max_tokens=6)), path="/v1/estimate")).json
    assert (asked["would"], asked["refusal"]["code"]) == ("refuse", "rate_limit_exceeded")
    gate.open()
    assert (await task).status == 200
    asked = (await policies.post(key, chat_body(None, **chat(max_tokens=6)), path="/v1/estimate")).json
    assert asked["would"] == "admit"


async def test_the_command_foretells_the_same(policies: Gateway, upstream: Upstream) -> None:
    key = await prepared(policies, upstream, {"budget_usd_per_month": 10}, 10)
    arguments = ["--model", "pair", "--prompt", "hello", "--max-tokens", "5", "--json"]
    done = await asyncio.to_thread(policies.cli, "estimate", key.creator, *arguments)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["would"], told["model"], told["hold_nano_usd"]) == ("downgrade", "plain", 5 * CENT)


async def test_nobody_foretells_for_an_unknown_creator_or_without_a_key(policies: Gateway) -> None:
    body = {"creator": "nobody", "request": chat_body(None)}
    assert policies.admin("POST", "/admin/estimate", json=body).status_code == 404
    assert (await policies.post(None, chat_body(None), path="/v1/estimate")).status == 401


# Explained afterwards


async def test_the_admin_has_a_downgraded_call_explained(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, budget_usd_per_month=100, quota_usd_per_month=200, requests_per_hour=50)
    assert (await policies.chat(key, says(upstream, 80), model="dollar", max_tokens=80)).status == 200
    answer = await policies.chat(key, says(upstream, 20), model="premium", max_tokens=30)
    (entry,) = policies.admin_json("GET", f"/admin/ledger/{answer.request_id}")["data"]
    assert (entry["requested_model"], entry["served_model"], entry["provider"]) == ("premium", "middle", "rig")
    assert (entry["attempts"], entry["outcome"], entry["cost_nano_usd"]) == (1, "ok", 2 * USD)
    decision = entry["decision"]
    limits = {limit["name"]: limit for limit in decision["limits"]}
    assert limits["requests_per_hour"]["limit"] == 50
    assert limits["requests_per_hour"]["taken"] == 1
    quota, budget = limits["quota_usd_per_month"], limits["budget_usd_per_month"]
    assert (quota["limit"], quota["used"], quota["held"], quota["taken"]) == (200 * USD, 80 * USD, 3 * USD, 3 * USD)
    assert (budget["limit"], budget["used"], budget["taken"]) == (100 * USD, 80 * USD, 3 * USD)
    assert decision["estimate"]["worst_cost_nano_usd"] == 3 * USD
    (step,) = decision["downgrades"]
    assert (step["from_model"], step["to_model"]) == ("premium", "middle")
    assert entry["price"]["output_usd_per_mtok"] == "100000", "ten cents a token"
    assert decision["estimate"]["hold_nano_usd"] == 3 * USD
    assert entry["price"]["version"] == entry["price_version"]


async def test_the_admin_sees_the_hold_of_a_call_that_is_under_way(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies)
    script, gate = held_back(upstream, wire.completion(usage=wire.usage(10, 2)))
    (task,) = start(policies, chat_request(key, script, [("x-request-id", "mine")], **chat()), 1)
    await soon(lambda: len(script.requests) == 1, "the call at the provider")
    (quota,) = [limit for limit in (await me(policies, key))["limits"] if limit["name"] == "quota_usd_per_month"]
    assert quota["held"] == 5 * USD
    gate.open()
    answer = await task
    found = policies.admin_json("GET", f"/admin/ledger/{answer.request_id}")
    assert found["open_hold"] is None
    (entry,) = found["data"]
    assert (entry["client_request_id"], entry["cost_nano_usd"]) == ("mine", 2 * USD)
    assert {limit["name"]: limit["taken"] for limit in entry["decision"]["limits"]}["quota_usd_per_month"] == 5 * USD


async def test_an_explained_call_names_what_corrected_it_since(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies)
    grant(policies, key, 4)
    answer = await paint(policies, key, paints(upstream), n=2)
    refund = policies.admin_json("POST", f"/admin/ledger/{answer.request_id}/refunds", json={"credits": 1})
    found = policies.admin_json("GET", f"/admin/ledger/{answer.request_id}")["data"]
    (entry,) = [entry for entry in found if entry["kind"] == "usage"]
    assert [correction["id"] for correction in entry["corrections"]] == [refund["id"]]
    assert {limit["name"]: limit["taken"] for limit in entry["decision"]["limits"]}["credits"] == 4


async def test_a_clamped_call_says_so_and_what_it_had(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, quota_usd_per_month=10)
    answer = await policies.chat(key, says(upstream, 1), model="endless")
    (entry,) = policies.admin_json("GET", f"/admin/ledger/{answer.request_id}")["data"]
    assert entry["decision"]["clamped_to_tokens"] == 1_000
    assert entry["decision"]["estimate"]["worst_cost_nano_usd"] == 10_000 * USD
    taken = {limit["name"]: limit["taken"] for limit in entry["decision"]["limits"]}
    assert taken["quota_usd_per_month"] == 10 * USD


async def test_an_unknown_request_is_not_found(policies: Gateway) -> None:
    assert policies.admin("GET", "/admin/ledger/req_nobody").status_code == 404
