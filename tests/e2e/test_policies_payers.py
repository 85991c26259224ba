"""Who pays: free images, promotional credits, credits; one payer a call, taken only for what came back."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.rig.client import Answer
from tests.rig.gateway import Gateway, Key
from tests.rig.policy_world import (
    CENT,
    USD,
    assert_books_agree,
    grant,
    held_back,
    image_request,
    limited,
    me,
    paint,
    paints,
    pictures,
    policy_gateway,
    says,
    served,
    shown_limit,
    start,
    usage_entries,
)
from tests.rig.upstream import Close, Stall, Upstream
from tests.rig.waiting import soon

REFUSAL = {"error": {"message": "no", "type": "x", "param": None, "code": None}}


@pytest.fixture(scope="module")
def impatient(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Providers have a second to begin their answer."""
    yield from served(policy_gateway(tmp_path_factory.mktemp("impatient"), upstream, FIRST_BYTE_TIMEOUT_S=1))


async def left(gateway: Gateway, key: Key) -> tuple[int, int, int]:
    """Free images today, promotional credits, credits."""
    seen = await me(gateway, key)
    return seen["free_images_today"]["left"], seen["promo_credits"]["left"], seen["credits"]["left"]


def rich(gateway: Gateway, *, free: int = 3, promo: int = 10, credits: int = 10, **overrides: Any) -> Key:
    key = limited(gateway, free_images_per_day=free, **overrides)
    if promo:
        grant(gateway, key, promo, "promo_credits")
    if credits:
        grant(gateway, key, credits)
    return key


# Order


async def test_free_images_go_first_then_promotional_credits_then_credits(
    policies: Gateway, upstream: Upstream
) -> None:
    key = rich(policies, free=2, promo=4, credits=4)
    answers = [await paint(policies, key, paints(upstream)) for _ in range(7)]
    assert [answer.header("x-gateway-payer") for answer in answers[:6]] == [
        *["free_images"] * 2,
        *["promo_credits"] * 2,
        *["credits"] * 2,
    ]
    assert (answers[6].status, answers[6].error["code"]) == (429, "insufficient_quota")
    assert answers[6].error["type"] == "insufficient_quota"
    assert await left(policies, key) == (0, 0, 0)
    entries = await assert_books_agree(policies, key, admitted=6)
    assert sum(entry["charge_nano_usd"] for entry in entries) == 0
    assert sum(entry["cost_nano_usd"] for entry in entries) == 6 * 4 * CENT


async def test_one_payer_pays_the_whole_call(policies: Gateway, upstream: Upstream) -> None:
    """Three free ones do not pay for three of four; seven promotional credits not for six of eight."""
    key = rich(policies, free=3, promo=7, credits=8)
    answer = await paint(policies, key, paints(upstream), n=4)
    assert answer.header("x-gateway-payer") == "credits"
    assert await left(policies, key) == (3, 7, 0)
    assert (await paint(policies, key, paints(upstream), n=4)).status == 429
    assert (await paint(policies, key, paints(upstream), n=3)).header("x-gateway-payer") == "free_images"
    assert (await paint(policies, key, paints(upstream), n=3)).header("x-gateway-payer") == "promo_credits"
    assert await left(policies, key) == (0, 1, 0)


async def test_a_plan_may_ask_its_payers_in_another_order_and_end_with_the_quota(
    policies: Gateway, upstream: Upstream
) -> None:
    key = rich(policies, free=1, promo=0, credits=2, payers=["credits", "free_images", "quota"])
    answers = [await paint(policies, key, paints(upstream)) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    entries = await assert_books_agree(policies, key, admitted=3)
    found = [(entry["payer"], entry["payer_unit"], entry["payer_amount"]) for entry in entries]
    assert found == [
        ("quota", "nano_usd", 4 * CENT),
        ("free_images", "image", 1),
        ("credits", "credit", 2),
    ]
    assert [entry["charge_nano_usd"] for entry in entries] == [4 * CENT, 0, 0]


async def test_chat_is_the_quotas_and_never_takes_credits(policies: Gateway, upstream: Upstream) -> None:
    key = rich(policies)
    assert (await policies.chat(key, says(upstream, 3), model="dollar", max_tokens=3)).status == 200
    assert await left(policies, key) == (3, 10, 10)
    (entry,) = usage_entries(policies, key)
    assert (entry["payer"], entry["payer_amount"]) == ("quota", 3 * USD)


async def test_credits_pay_where_no_quota_is_left(policies: Gateway, upstream: Upstream) -> None:
    key = rich(policies, free=0, promo=0, credits=2, quota_usd_per_month=0)
    assert (await policies.chat(key, says(upstream, 1), model="cent", max_tokens=1)).status == 429
    assert (await paint(policies, key, paints(upstream))).status == 200


async def test_a_price_of_ones_own_in_credits_counts(policies: Gateway, upstream: Upstream) -> None:
    key = rich(policies, free=0, promo=0, credits=10, prices={"picture": {"credits": 5}})
    assert (await paint(policies, key, paints(upstream), n=2)).status == 200
    assert await left(policies, key) == (0, 0, 0)
    assert usage_entries(policies, key)[0]["cost_nano_usd"] == 8 * CENT


# Only for what came back

PAYERS = [
    pytest.param({"free": 4, "promo": 0, "credits": 0}, 1, id="free images"),
    pytest.param({"free": 0, "promo": 8, "credits": 0}, 2, id="promotional credits"),
    pytest.param({"free": 0, "promo": 0, "credits": 8}, 2, id="credits"),
]


@pytest.mark.parametrize(("has", "each"), PAYERS)
async def test_two_images_of_four_take_two(
    policies: Gateway, upstream: Upstream, has: dict[str, int], each: int
) -> None:
    key = rich(policies, **has)
    answer = await paint(policies, key, upstream.reply(pictures(2)), n=4)
    assert (answer.status, len(answer.json["data"])) == (200, 2)
    assert sum(await left(policies, key)) == 2 * each
    (entry,) = await assert_books_agree(policies, key, admitted=1)
    assert (entry["payer_amount"], entry["images"], entry["cost_nano_usd"]) == (2 * each, 2, 8 * CENT)
    assert (await paint(policies, key, paints(upstream), n=2)).status == 200, "the rest can be spent"


@pytest.mark.parametrize(("has", "each"), PAYERS)
async def test_a_call_that_failed_takes_nothing(
    policies: Gateway, upstream: Upstream, has: dict[str, int], each: int
) -> None:
    key = rich(policies, **has)
    for script, status in ((upstream.reply(REFUSAL, 500), 500), (upstream.script(Close()), 502)):
        assert (await paint(policies, key, script, n=4)).status == status
    assert (await paint(policies, key, upstream.reply(pictures(0)), n=4)).status == 200
    assert sum(await left(policies, key)) == 4 * each
    entries = await assert_books_agree(policies, key, admitted=3)
    assert {entry["payer_amount"] for entry in entries} == {0}
    assert (await paint(policies, key, paints(upstream), n=4)).status == 200


async def test_a_call_that_timed_out_takes_no_credits(impatient: Gateway, upstream: Upstream) -> None:
    """What it may have cost the operator is booked; the creator got nothing and pays nothing."""
    key = rich(impatient, free=0, promo=0)
    answer = await paint(impatient, key, upstream.script(Stall()), n=2)
    assert answer.status == 504
    assert await left(impatient, key) == (0, 0, 10)
    (entry,) = await assert_books_agree(impatient, key, admitted=1)
    assert (entry["payer_amount"], entry["charge_nano_usd"]) == (0, 0)
    assert (entry["outcome"], entry["cost_nano_usd"]) == ("upstream_timeout", 8 * CENT)


async def test_credits_held_by_a_call_in_flight_are_told_apart_from_spent_ones(
    policies: Gateway, upstream: Upstream
) -> None:
    key = rich(policies, free=0, promo=0, credits=4)
    script, gate = held_back(upstream, pictures(2))
    (open_call,) = start(policies, image_request(key, script, n=2), 1)
    await soon(lambda: len(script.requests) == 1, "the call at the provider")
    assert (await me(policies, key))["credits"]["held"] == 4
    soon_again = await paint(policies, key, script)
    assert (soon_again.status, soon_again.error["code"]) == (429, "rate_limit_exceeded")
    assert 0 < float(soon_again.header("retry-after") or 0) <= 60
    assert soon_again.header("x-should-retry") is None
    gate.open()
    assert (await open_call).status == 200
    spent = await paint(policies, key, script)
    assert (spent.status, spent.error["code"]) == (429, "insufficient_quota")
    assert spent.header("x-should-retry") == "false"
    assert spent.header("retry-after") is None


# Given, taken back, run out


async def test_a_grant_with_an_idempotency_key_is_given_once_however_often_it_is_sent(policies: Gateway) -> None:
    key = limited(policies)
    path = f"/admin/creators/{key.creator}/credits"
    body = {"credits": 7, "idempotency_key": "payment-1"}
    answers = await asyncio.gather(
        *(asyncio.to_thread(policies.admin_json, "POST", path, json=body) for _ in range(10))
    )
    assert len({answer["id"] for answer in answers}) == 1
    assert (await me(policies, key))["credits"]["left"] == 7
    other = policies.admin("POST", path, json={**body, "credits": 8})
    assert other.status_code == 409
    assert (await me(policies, key))["credits"]["left"] == 7
    assert len(policies.entries(creator=key.creator, kind="grant")) == 1


async def test_a_package_gives_its_credits_and_a_float_gives_nothing(policies: Gateway) -> None:
    key = limited(policies)
    path = f"/admin/creators/{key.creator}/credits"
    policies.admin_json("POST", path, json={"package": "pack"})
    assert policies.admin("POST", path, json={"credits": 1.5}).status_code == 400
    assert policies.admin("POST", path, json={"credits": 0}).status_code == 400
    assert (await me(policies, key))["credits"]["left"] == 100


async def refunded(gateway: Gateway, answer: Answer, **fields: Any) -> Any:
    return await asyncio.to_thread(
        gateway.admin, "POST", f"/admin/ledger/{answer.request_id}/refunds", json=fields or {}
    )


async def test_a_refund_gives_credits_back_once_and_names_what_it_corrects(
    policies: Gateway, upstream: Upstream
) -> None:
    key = rich(policies, free=0, promo=0, credits=4)
    answer = await paint(policies, key, paints(upstream), n=2)
    assert await left(policies, key) == (0, 0, 0)
    first = await refunded(policies, answer, credits=1)
    assert first.status_code == 201, first.text
    assert (first.json()["kind"], first.json()["payer_amount"]) == ("refund", -1)
    assert first.json()["corrects"] == usage_entries(policies, key)[0]["id"]
    assert (await refunded(policies, answer, credits=4)).status_code in {400, 409}, "one was given back already"
    assert (await refunded(policies, answer)).json()["payer_amount"] == -3
    assert (await refunded(policies, answer)).status_code in {400, 409}
    assert await left(policies, key) == (0, 0, 4)
    assert (await paint(policies, key, paints(upstream), n=2)).status == 200
    changes = [entry["change"] for entry in (await me(policies, key, "/credits"))["data"]]
    assert changes == [-4, 3, 1, -4, 4]


async def test_a_refund_of_a_quota_call_makes_room_in_the_months_quota(policies: Gateway, upstream: Upstream) -> None:
    key = limited(policies, quota_usd_per_month=10)
    answer = await policies.chat(key, says(upstream, 10), model="dollar", max_tokens=10)
    assert (await policies.chat(key, says(upstream, 1), model="dollar", max_tokens=1)).status == 429
    assert (await refunded(policies, answer, amount_usd="4")).status_code == 201
    assert (await shown_limit(policies, key, "quota_usd_per_month"))["used"] == 6 * USD
    assert (await policies.chat(key, says(upstream, 4), model="dollar", max_tokens=4)).status == 200
    assert (await policies.chat(key, says(upstream, 1), model="dollar", max_tokens=1)).status == 429


async def test_the_creator_sees_the_months_charge_that_the_admin_sees(policies: Gateway, upstream: Upstream) -> None:
    """Calls, less what was given back, and what was mended: one sum, whoever asks for it."""
    key = limited(policies, quota_usd_per_month=100)
    answer = await policies.chat(key, says(upstream, 10), model="dollar", max_tokens=10)
    await refunded(policies, answer, amount_usd="4")
    path = f"/admin/creators/{key.creator}/adjustments"
    policies.admin_json("POST", path, json={"payer": "quota", "amount_usd": "-1"})
    charges = policies.admin_json("GET", "/admin/charges", params={"month": f"{datetime.now(UTC):%Y-%m}"})["data"]
    (mine,) = [charge for charge in charges if charge["creator"] == key.creator]
    assert (mine["charge_nano_usd"], mine["cost_nano_usd"]) == (5 * USD, 10 * USD)
    month = (await me(policies, key))["month"]
    assert (month["charge_nano_usd"], month["cost_nano_usd"]) == (5 * USD, 10 * USD)


async def test_an_adjustment_takes_credits_away_but_never_more_than_there_are(
    policies: Gateway, upstream: Upstream
) -> None:
    key = rich(policies, free=0, promo=0, credits=10)
    path = f"/admin/creators/{key.creator}/adjustments"
    entry = policies.admin_json("POST", path, json={"payer": "credits", "credits": -7, "note": "by mistake"})
    assert entry["kind"] == "adjustment"
    assert await left(policies, key) == (0, 0, 3)
    assert policies.admin("POST", path, json={"payer": "credits", "credits": -4}).status_code == 409
    assert (await paint(policies, key, paints(upstream), n=2)).status == 429
    assert (await paint(policies, key, paints(upstream), n=1)).status == 200


async def test_promotional_credits_end_at_their_instant_and_the_next_payer_takes_over(
    policies: Gateway, upstream: Upstream
) -> None:
    key = rich(policies, free=0, promo=0, credits=2)
    expires_at = datetime.now(UTC) + timedelta(seconds=2)
    grant(policies, key, 10, "promo_credits", expires_at=expires_at.isoformat())
    first = await paint(policies, key, paints(upstream))
    assert first.header("x-gateway-payer") == "promo_credits"
    assert await left(policies, key) == (0, 8, 2)

    await soon(lambda: datetime.now(UTC) > expires_at, "the instant they expire")
    assert await left(policies, key) == (0, 0, 2)
    assert (await paint(policies, key, paints(upstream))).header("x-gateway-payer") == "credits"
    assert (await paint(policies, key, paints(upstream))).status == 429
    grant(policies, key, 2, "promo_credits")
    assert (await paint(policies, key, paints(upstream))).header("x-gateway-payer") == "promo_credits"
    assert await left(policies, key) == (0, 0, 0)


async def test_promotional_credits_held_when_they_expire_are_spent_by_that_call_and_by_no_other(
    policies: Gateway, upstream: Upstream
) -> None:
    key = rich(policies, free=0, promo=0, credits=0)
    expires_at = datetime.now(UTC) + timedelta(seconds=1.5)
    grant(policies, key, 6, "promo_credits", expires_at=expires_at.isoformat())
    script, gate = held_back(upstream, pictures(2))
    (task,) = start(policies, image_request(key, script, n=2), 1)
    await soon(lambda: len(script.requests) == 1, "the call at the provider")
    await soon(lambda: datetime.now(UTC) > expires_at, "the instant they expire")
    assert (await paint(policies, key, paints(upstream))).status == 429
    grant(policies, key, 4, "promo_credits")
    assert await left(policies, key) == (0, 4, 0)
    gate.open()
    assert (await task).header("x-gateway-payer") == "promo_credits"
    assert await left(policies, key) == (0, 4, 0)
    assert (await paint(policies, key, paints(upstream), n=2)).status == 200
    assert await left(policies, key) == (0, 0, 0)
