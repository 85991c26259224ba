"""Grants, refunds, adjustments and expiries over a real database: what is refused, what is booked, and what holds when
two ask at once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from gateway.errors import RequestError
from gateway.ledger.closing import close_month
from gateway.ledger.expiry import Expiring, lapses
from gateway.ledger.queries import charges_of_month
from gateway.ledger.schema import creators, credit_grants
from gateway.tasks import spawn
from policies import quota
from policies.owners import creator_owner
from tests.account_world import bearer
from tests.credit_world import CreditWorld, open_credit_world
from tests.ledger.books import COST, NOON

APRIL_END = datetime(2026, 4, 30, 23, 59, 59, 900_000, tzinfo=UTC)


@pytest.fixture
async def books(tmp_path) -> AsyncIterator[CreditWorld]:
    async with open_credit_world(tmp_path) as books:
        yield books
        assert books.differences() == []


async def refused(work, status: int = 400, **expected: object) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await work
    error = caught.value
    assert (error.status, {name: getattr(error, name) for name in expected}) == (status, expected), error.message
    return error


async def outcomes(*works: Any) -> tuple[list[Any], list[RequestError]]:
    done = await asyncio.gather(*works, return_exceptions=True)
    assert all(isinstance(each, (dict, RequestError)) for each in done), done
    return [each for each in done if isinstance(each, dict)], [each for each in done if isinstance(each, RequestError)]


# What is refused


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"credits": 0}, "credits", id="nothing"),
        pytest.param({"credits": -5}, "credits", id="below nothing"),
        pytest.param({"credits": "1.5"}, "credits", id="a part of a credit"),
        pytest.param({"credits": 10**12 + 1}, "credits", id="too many"),
        pytest.param({"credits": 1.0}, "credits", id="a float"),
        pytest.param({"credits": True}, "credits", id="a truth"),
        pytest.param({"credits": "١٢"}, "credits", id="digits of another script"),
        pytest.param({"credits": "1e3"}, "credits", id="an exponent"),
        pytest.param({}, "credits", id="neither credits nor a package"),
        pytest.param({"credits": 1, "package": "small"}, "credits", id="both"),
        pytest.param({"package": "huge"}, "package", id="unknown package"),
        pytest.param({"credits": 1, "expires_at": NOON + timedelta(1)}, "expires_at", id="bought ones do not expire"),
        pytest.param(
            {"credits": 1, "payer": "promo_credits", "expires_at": NOON}, "expires_at", id="expired at this instant"
        ),
        pytest.param(
            {"credits": 1, "payer": "promo_credits", "expires_at": NOON + timedelta(40_000)},
            "expires_at",
            id="too late",
        ),
        pytest.param({"credits": 1, "note": "ä" * 600}, "note", id="a note above a kilobyte"),
    ],
)
async def test_an_unusable_grant_is_refused_and_books_nothing(books, fields, param):
    await refused(books.credits.grant("acme", idempotency_key="k", **fields), param=param)
    assert (await books.entries("grant"), await books.postings()) == ([], 0)


async def test_unknown_and_deleted_creators_are_not_found(books):
    await books.world.accounts.create_creator("gone")
    await books.world.accounts.delete_creator("gone")
    for creator in ("nobody", "gone"):
        for work in (
            books.credits.grant(creator, credits=1),
            books.credits.adjust(creator, "quota", amount_usd=1),
            books.credits.adjust(creator, "credits", credits=-1),
            books.credits.balance(creator),
            books.credits.grants(creator),
        ):
            await refused(work, 404, code="creator_not_found")


@pytest.mark.parametrize(
    ("payer", "fields", "param"),
    [
        pytest.param("quota", {"credits": -1}, "amount_usd", id="the quota has no credits"),
        pytest.param("quota", {"amount_usd": 1, "credits": -1}, "amount_usd", id="both"),
        pytest.param("quota", {"amount_usd": 0}, "amount_usd", id="nothing"),
        pytest.param("quota", {"amount_usd": "-0.0"}, "amount_usd", id="nothing, below zero"),
        pytest.param("quota", {"amount_usd": "0.0000000001"}, "amount_usd", id="finer than a nano-dollar"),
        pytest.param("quota", {"amount_usd": 1.5}, "amount_usd", id="a float"),
        pytest.param("quota", {"amount_usd": "1000000.000000001"}, "amount_usd", id="too much"),
        pytest.param("quota", {"amount_usd": "-1000001"}, "amount_usd", id="too much below zero"),
        pytest.param("credits", {"amount_usd": 1}, "credits", id="credits are no money"),
        pytest.param("credits", {"credits": 5}, "credits", id="giving is a grant"),
        pytest.param("promo_credits", {"credits": 0}, "credits", id="no credits"),
    ],
)
async def test_an_unusable_adjustment_is_refused(books, payer, fields, param):
    await books.credits.grant("acme", credits=10)
    await books.credits.grant("acme", "promo_credits", credits=10)
    await refused(books.credits.adjust("acme", payer, **fields), param=param)
    assert await books.entries("adjustment") == []


async def test_only_a_call_that_took_something_is_refunded(books):
    granted = await books.credits.grant("acme", credits=5)
    await books.call(3, "free_images", request_id="free")
    await books.call(0, "credits", request_id="failed", outcome="upstream_refused")
    await books.call(0, "quota", request_id="cached", cached=True, cost_nano_usd=0)
    await refused(books.credits.refund("unknown"), 404)
    for request_id in (granted["request_id"], "free", "failed", "cached"):
        await refused(books.credits.refund(request_id), code="not_refundable")


@pytest.mark.parametrize(
    ("request_id", "fields", "status", "expected"),
    [
        pytest.param("money", {"credits": 1}, 400, {"param": "credits"}, id="credits of a call paid in money"),
        pytest.param("units", {"amount_usd": 1}, 400, {"param": "amount_usd"}, id="money of a call paid in credits"),
        pytest.param("money", {"amount_usd": "1", "credits": 1}, 400, {"param": "credits"}, id="both"),
        pytest.param("money", {"amount_usd": 0}, 400, {"param": "amount_usd"}, id="nothing"),
        pytest.param("money", {"amount_usd": "-1"}, 400, {"param": "amount_usd"}, id="below nothing"),
        pytest.param("money", {"attempt": 2}, 400, {"param": "attempt"}, id="no such attempt"),
        pytest.param("units", {"credits": 6}, 409, {"code": "refund_exceeds_charge"}, id="more than it took"),
        pytest.param("money", {"amount_usd": "1"}, 409, {"code": "refund_exceeds_charge"}, id="more money"),
    ],
)
async def test_an_unusable_refund_is_refused(books, request_id, fields, status, expected):
    await books.credits.grant("acme", credits=10)
    await books.call(COST, "quota", request_id="money")
    await books.call(5, "credits", request_id="units")
    await refused(books.credits.refund(request_id, **fields), status, **expected)
    assert await books.entries("refund") == []


async def test_where_several_attempts_were_charged_one_must_be_named(books):
    await books.call(COST, "quota", request_id="two", final=False)
    await books.call(COST, "quota", request_id="two", attempt=2)
    error = await refused(books.credits.refund("two"), param="attempt")
    assert "1, 2" in error.message
    first, second = await books.credits.refund("two", attempt=1), await books.credits.refund("two", attempt=2)
    assert first["corrects"] != second["corrects"]


# Grants


async def test_a_grant_is_an_entry_and_counts_on_the_next_call(books):
    key = await books.world.new_key()
    assert (await books.world.authenticator.authenticate(bearer(key["key"]))).credits_granted == 0
    granted = await books.credits.grant("acme", package="small", note="Order 7", idempotency_key="o7")
    assert (granted["kind"], granted["payer"], granted["payer_unit"]) == ("grant", "credits", "credit")
    assert (granted["payer_amount"], granted["cost_nano_usd"], granted["charge_nano_usd"]) == (-500, 0, 0)
    assert granted["metadata"] == {"note": "Order 7", "package": "small", "price_usd": "4.99"}
    assert (await books.world.authenticator.authenticate(bearer(key["key"]))).credits_granted == 500
    assert await books.spend(500, "credits")
    assert not await books.spend(1, "credits")


async def test_a_grant_makes_the_authenticator_read_its_creator_again(books):
    key = await books.world.new_key()
    await books.world.authenticator.authenticate(bearer(key["key"]))
    await books.database.write(update(creators).values(plan="pro"))
    await books.credits.grant("acme", credits=1)
    assert (await books.world.authenticator.authenticate(bearer(key["key"]))).plan.name == "pro"


async def test_a_grant_is_no_call_and_costs_nobody_anything(books):
    await books.credits.grant("acme", credits=7)
    await books.credits.grant("acme", "promo_credits", credits=7)
    charges, _ = await charges_of_month(books.database, "2026-05")
    assert [charge for charge in charges if charge["calls"] or charge["charge_nano_usd"]] == []


async def test_grants_are_listed_newest_first_page_by_page(books):
    for number in range(5):
        await books.credits.grant("acme", credits=number + 1, note=f"n{number}")
    first = await books.credits.grants("acme", limit=3)
    rest = await books.credits.grants("acme", limit=3, cursor=first["next_cursor"])
    assert [row["credits"] for row in first["data"] + rest["data"]] == [5, 4, 3, 2, 1]
    assert (rest["next_cursor"], rest["data"][-1]["note"]) == (None, "n0")


# Refunds


async def test_a_refund_of_credits_gives_them_back_to_be_spent_again(books):
    await books.credits.grant("acme", credits=10)
    assert await books.spend(10, "credits")
    assert not await books.spend(4, "credits")
    (call,) = await books.entries("usage")
    part = await books.credits.refund(call["request_id"], credits="4", note="bad picture")
    assert (part["payer_amount"], part["charge_nano_usd"], part["corrects"]) == (-4, 0, call["id"])
    assert part["metadata"] == {"note": "bad picture"}
    assert (part["feature"], part["served_model"], part["key_id"]) == ("chat-ui", call["served_model"], call["key_id"])
    assert await books.spend(4, "credits")
    assert (await books.credits.refund(call["request_id"]))["payer_amount"] == -6
    await refused(books.credits.refund(call["request_id"]), 409, code="refund_exceeds_charge")
    assert await books.settled("credits") == await books.consumed("credits") == 4


async def test_a_refund_of_a_call_of_this_month_makes_room_in_its_quota(books):
    await books.call(COST, "quota", request_id="r")
    key = await _seed_quota(books, COST)
    refund = await books.credits.refund("r", amount_usd="0.0000001")
    assert (refund["charge_nano_usd"], refund["payer_amount"], refund["cost_nano_usd"]) == (-100, -100, 0)
    assert await books.quota_used(NOON) == key - 100


async def test_a_refund_of_an_earlier_month_is_booked_now_and_makes_no_room(books):
    books.turn_to(APRIL_END)
    await books.call(COST, "quota", request_id="r")
    await _seed_quota(books, COST)
    books.turn_to(NOON)
    await _seed_quota(books, 1_000)
    await close_month(books.database, "2026-04")
    refund = await books.credits.refund("r")
    assert (refund["period_month"], refund["admitted_at"]) == ("2026-05", "2026-05-14T12:00:00.000Z")
    assert (await books.quota_used(NOON), await books.quota_used(APRIL_END)) == (1_000, COST)
    april, _ = await charges_of_month(books.database, "2026-04")
    may, _ = await charges_of_month(books.database, "2026-05")
    assert (april[0]["charge_nano_usd"], may[0]["charge_nano_usd"]) == (COST, -COST)


async def test_of_many_refunds_at_once_no_more_is_given_back_than_was_taken(books):
    await books.credits.grant("acme", credits=10)
    await books.spend(10, "credits")
    (call,) = await books.entries("usage")
    given, late = await outcomes(*(books.credits.refund(call["request_id"], credits=3) for _ in range(8)))
    assert (len(given), {error.code for error in late}) == (3, {"refund_exceeds_charge"})
    assert await books.settled("credits") == await books.consumed("credits") == 1
    full, late = await outcomes(*(books.credits.refund(call["request_id"]) for _ in range(4)))
    assert ([refund["payer_amount"] for refund in full], len(late)) == ([-1], 3)


async def test_a_refund_whose_caller_leaves_still_reaches_the_counters(books):
    await books.credits.grant("acme", credits=10)
    await books.spend(10, "credits")
    (call,) = await books.entries("usage")
    leaving = spawn(books.credits.refund(call["request_id"]), "leaving")
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    async with asyncio.timeout(10):
        while await books.settled("credits"):
            await books.database.fetch_all(select(creators))
    assert await books.consumed("credits") == 0


# Adjustments


@pytest.mark.parametrize(("amount_usd", "nano_usd"), [("-0.25", -250_000_000), (2, 2 * 10**9), ("0.000000001", 1)])
async def test_an_adjustment_changes_the_months_charge_and_not_its_quota(books, amount_usd, nano_usd):
    await books.call(COST, "quota")
    await _seed_quota(books, COST)
    adjusted = await books.credits.adjust("acme", "quota", amount_usd=amount_usd, note="invoice 5")
    assert (adjusted["kind"], adjusted["charge_nano_usd"], adjusted["cost_nano_usd"]) == ("adjustment", nano_usd, 0)
    (charge,), _ = await charges_of_month(books.database, "2026-05")
    assert (charge["charge_nano_usd"], charge["calls"]) == (COST + nano_usd, 1)
    assert await books.quota_used(NOON) == COST


async def test_credits_are_taken_away_down_to_nothing_and_no_further(books):
    await books.credits.grant("acme", credits=10)
    await books.spend(3, "credits")
    error = await refused(books.credits.adjust("acme", "credits", credits=-8), 409, code="credits_insufficient")
    assert "7 credits left" in error.message
    assert (await books.credits.adjust("acme", "credits", credits="-7"))["payer_amount"] == 7
    assert not await books.spend(1, "credits")
    assert await books.settled("credits") == await books.consumed("credits") == 10
    await refused(books.credits.adjust("acme", "credits", credits=-1), 409)


async def test_what_open_calls_hold_is_not_taken_away(books):
    await books.credits.grant("acme", credits=10)
    request_id = await books.hold(4, "credits")
    error = await refused(books.credits.adjust("acme", "credits", credits=-7), 409, code="credits_insufficient")
    assert "6 credits left, 4 more are held" in error.message
    await books.credits.adjust("acme", "credits", credits=-6)
    await books.end(request_id, 4, payer="credits", at=books.now)
    assert await books.settled("credits") == await books.consumed("credits") == 10


async def test_a_counter_that_knows_less_than_the_ledger_does_not_let_credits_be_taken_twice(books):
    await books.credits.grant("acme", credits=10)
    await books.call(10, "credits")
    await refused(books.credits.adjust("acme", "credits", credits=-1), 409, code="credits_insufficient")
    assert await books.settled("credits") == 0


async def test_of_adjustments_and_calls_at_once_no_more_is_taken_than_there_is(books):
    await books.credits.grant("acme", credits=10)
    calls = [books.spend(1, "credits") for _ in range(8)]
    adjustments = [books.credits.adjust("acme", "credits", credits=-3) for _ in range(3)]
    done = await asyncio.gather(*calls, *adjustments, return_exceptions=True)
    assert all(isinstance(each, (bool, dict, RequestError)) for each in done), done
    assert await books.settled("credits") == await books.consumed("credits") <= 10


async def test_promotional_credits_that_are_gone_cannot_be_taken_away(books):
    await books.credits.grant("acme", "promo_credits", credits=5, expires_at=books.in_s(60))
    await books.credits.grant("acme", "promo_credits", credits=5)
    books.advance(60)
    await refused(books.credits.adjust("acme", "promo_credits", credits=-6), 409, code="credits_insufficient")
    await books.credits.adjust("acme", "promo_credits", credits=-5)
    await books.credits.expire_due(late_holds_s=0)
    assert await books.settled() == await books.consumed() == 10


# Asking again


async def test_the_same_again_is_answered_with_the_first_entry(books):
    await books.call(5, "quota", request_id="money", cost_nano_usd=COST, charge_nano_usd=COST, payer_amount=COST)
    asked = [
        lambda key: books.credits.grant("acme", credits=5, note="n", idempotency_key=key),
        lambda key: books.credits.adjust("acme", "credits", credits=-5, idempotency_key=key),
        lambda key: books.credits.adjust("acme", "quota", amount_usd="1.50", idempotency_key=key),
        lambda key: books.credits.refund("money", idempotency_key=key),
    ]
    for number, ask in enumerate(asked):
        first = await ask(f"k{number}")
        assert await ask(f"k{number}") == first
    kinds = [len(await books.entries(kind)) for kind in ("grant", "adjustment", "refund")]
    assert (kinds, await books.postings()) == ([1, 2, 1], 4)
    assert await books.settled("credits") == await books.consumed("credits") == 5


async def test_a_grant_asked_for_again_after_it_expired_is_still_the_first_one(books):
    fields = {"credits": 5, "expires_at": books.in_s(60), "idempotency_key": "k"}
    first = await books.credits.grant("acme", "promo_credits", **fields)
    assert first["expires_at"] == "2026-05-14T12:01:00.000Z"
    books.advance(3_600)
    assert await books.credits.grant("acme", "promo_credits", **fields) == first


async def test_the_same_amount_written_otherwise_is_the_same(books):
    first = await books.credits.adjust("acme", "quota", amount_usd="1.50", idempotency_key="k")
    assert await books.credits.adjust("acme", "quota", amount_usd="1.5", idempotency_key="k") == first


async def test_a_key_that_stands_for_something_else_is_a_conflict(books):
    await books.credits.grant("acme", credits=5, idempotency_key="k")
    await books.call(COST, "quota", request_id="money")
    for work in (
        books.credits.grant("acme", credits=6, idempotency_key="k"),
        books.credits.grant("acme", "promo_credits", credits=5, idempotency_key="k"),
        books.credits.grant("acme", credits=5, note="other", idempotency_key="k"),
        books.credits.adjust("acme", "quota", amount_usd=5, idempotency_key="k"),
        books.credits.adjust("acme", "credits", credits=-5, idempotency_key="k"),
        books.credits.refund("money", idempotency_key="k"),
    ):
        await refused(work, 409, code="idempotency_conflict", param="idempotency_key")
    assert await books.consumed("credits") == await books.settled("credits") == 0


async def test_a_key_is_its_creators_own(books):
    await books.world.accounts.create_creator("zeta")
    first = await books.credits.grant("acme", credits=5, idempotency_key="k")
    other = await books.credits.grant("zeta", credits=6, idempotency_key="k")
    assert first["id"] != other["id"]


async def test_a_refused_posting_leaves_its_key_free(books):
    await refused(books.credits.adjust("acme", "credits", credits=-5, idempotency_key="k"), 409)
    await books.credits.grant("acme", credits=5)
    assert (await books.credits.adjust("acme", "credits", credits=-5, idempotency_key="k"))["payer_amount"] == 5


async def test_twins_that_ask_at_once_post_once(books):
    grants, _ = await outcomes(*(books.credits.grant("acme", credits=5, idempotency_key="g") for _ in range(8)))
    taken, _ = await outcomes(
        *(books.credits.adjust("acme", "credits", credits=-5, idempotency_key="a") for _ in range(8))
    )
    await books.call(COST, "quota", request_id="money")
    refunds, _ = await outcomes(*(books.credits.refund("money", idempotency_key="r") for _ in range(8)))
    for answers in (grants, taken, refunds):
        assert (len(answers), len({answer["id"] for answer in answers})) == (8, 1)
    assert await books.settled("credits") == await books.consumed("credits") == 5


async def test_twins_with_other_content_are_one_entry_and_conflicts(books):
    posted, conflicts = await outcomes(
        *(books.credits.grant("acme", credits=number, idempotency_key="g") for number in range(1, 6))
    )
    assert (len(posted), {error.code for error in conflicts}, len(conflicts)) == (1, {"idempotency_conflict"}, 4)


# Expiry


async def test_what_is_left_of_a_grant_is_gone_when_it_expires(books):
    first = await books.credits.grant("acme", "promo_credits", credits=10, expires_at=books.in_s(60))
    await books.credits.grant("acme", "promo_credits", credits=10)
    await books.spend(4)
    assert await books.credits.expire_due(late_holds_s=0) == []
    books.advance(60)
    (booked,) = await books.credits.expire_due(late_holds_s=0)
    assert (booked["creator"], booked["grant_id"], booked["credits"]) == ("acme", first["id"], 6)
    (expiry,) = await books.entries("expiry")
    assert (expiry["corrects"], expiry["payer"], expiry["payer_amount"]) == (first["id"], "promo_credits", 6)
    assert (expiry["cost_nano_usd"], expiry["charge_nano_usd"]) == (0, 0)
    assert await books.settled() == await books.consumed() == 10
    assert await books.spend(10)
    assert not await books.spend(1)


async def test_expiring_again_books_nothing(books):
    await books.credits.grant("acme", "promo_credits", credits=10, expires_at=books.in_s(60))
    books.advance(60)
    booked = await asyncio.gather(*(books.credits.expire_due(late_holds_s=0) for _ in range(4)))
    assert sorted(map(len, booked)) == [0, 0, 0, 1]
    assert await books.credits.expire_due(late_holds_s=0) == []


async def test_a_grant_spent_to_the_end_expires_without_an_entry(books):
    await books.credits.grant("acme", "promo_credits", credits=10, expires_at=books.in_s(60))
    await books.spend(10)
    books.advance(60)
    assert await books.credits.expire_due(late_holds_s=0) == []
    (row,) = await books.database.fetch_all(select(credit_grants))
    assert row["expired_entry_id"] == ""


async def test_holds_on_their_way_are_waited_for(books):
    await books.credits.grant("acme", "promo_credits", credits=10, expires_at=books.in_s(60))
    books.advance(119)
    assert await books.credits.expire_due() == []
    books.advance(1)
    assert len(await books.credits.expire_due()) == 1


@pytest.mark.parametrize(("taken", "gone"), [(0, 10), (4, 6)])
async def test_a_call_admitted_before_the_expiry_is_waited_for_and_keeps_its_credits(books, taken, gone):
    expires_at = books.in_s(60)
    await books.credits.grant("acme", "promo_credits", credits=10, expires_at=expires_at)
    await books.credits.grant("acme", "promo_credits", credits=10)
    books.advance(59)
    admitted_at = books.now
    request_id = await books.hold(4)
    books.advance(7_200)
    assert await books.credits.expire_due() == []
    assert (await books.credits.balance("acme"))["promo_credits"]["left"] == 10
    await books.end(request_id, taken, at=admitted_at)
    assert [lapse["credits"] for lapse in await books.credits.expire_due()] == [gone]
    assert await books.settled() == await books.consumed() == 10


async def test_calls_of_others_and_calls_admitted_later_hold_nothing_up(books):
    await books.world.accounts.create_creator("zeta")
    await books.credits.grant("acme", "promo_credits", credits=10, expires_at=books.in_s(60))
    await books.credits.grant("acme", "promo_credits", credits=10)
    await books.credits.grant("acme", credits=10)
    await books.credits.grant("zeta", "promo_credits", credits=10)
    await books.hold(4, creator="zeta")
    await books.hold(4, "credits")
    books.advance(60)
    await books.hold(4)
    assert [lapse["credits"] for lapse in await books.credits.expire_due(late_holds_s=0)] == [10]


async def test_what_is_used_after_the_expiry_does_not_count_against_the_expired(books):
    await books.credits.grant("acme", "promo_credits", credits=10, expires_at=books.in_s(60))
    await books.credits.grant("acme", "promo_credits", credits=10)
    await books.spend(3)
    books.advance(60)
    assert await books.spend(8)
    assert not await books.spend(3)
    assert [lapse["credits"] for lapse in await books.credits.expire_due(late_holds_s=0)] == [7]
    assert await books.settled() == await books.consumed() == 18


async def test_credits_given_back_to_a_grant_that_is_gone_are_gone_too(books):
    await books.credits.grant("acme", "promo_credits", credits=10, expires_at=books.in_s(60))
    await books.credits.grant("acme", "promo_credits", credits=10)
    await books.spend(6)
    (call,) = await books.entries("usage")
    books.advance(60)
    await books.credits.expire_due(late_holds_s=0)
    books.advance(60)
    await books.credits.refund(call["request_id"])
    books.advance(1)
    assert [lapse["credits"] for lapse in await books.credits.expire_due(late_holds_s=0)] == [6]
    assert await books.credits.expire_due(late_holds_s=0) == []
    assert await books.settled() == await books.consumed() == 10
    assert (await books.credits.balance("acme"))["promo_credits"]["left"] == 10


async def test_what_a_call_gives_back_after_its_credits_expired_is_not_spent_by_another(books):
    """A hundred expire under a hold of sixty, fifty more are given and spent; then the call ends without any."""
    await books.credits.grant("acme", "promo_credits", credits=100, expires_at=books.in_s(60))
    admitted_at = books.now
    request_id = await books.hold(60)
    books.advance(60)
    await books.credits.grant("acme", "promo_credits", credits=50)
    assert await books.spend(50)
    await books.end(request_id, 0, at=admitted_at)
    assert not await books.spend(1)
    assert [lapse["credits"] for lapse in await books.credits.expire_due(late_holds_s=0)] == [100]
    assert not await books.spend(1)
    assert await books.settled() == await books.consumed() == 150


async def test_many_creators_expire_in_slices(books):
    for number in range(120):
        await books.world.accounts.create_creator(f"c{number}")
        await books.credits.grant(f"c{number}", "promo_credits", credits=number + 1, expires_at=books.in_s(60))
    books.advance(60)
    booked = await books.credits.expire_due(late_holds_s=0)
    assert {lapse["creator"]: lapse["credits"] for lapse in booked} == {f"c{n}": n + 1 for n in range(120)}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.integers(1, 30), st.sampled_from([7, 20, 90, 50_000, None])),
        st.tuples(st.just("spend"), st.integers(1, 25), st.none()),
        st.tuples(st.just("begin"), st.integers(1, 25), st.none()),
        st.tuples(st.just("end"), st.integers(0, 3), st.integers(0, 25)),
        st.tuples(st.just("refund"), st.integers(0, 5), st.integers(1, 10)),
        st.tuples(st.just("take away"), st.integers(1, 10), st.none()),
        st.tuples(st.just("wait"), st.sampled_from([1, 7, 30, 40_000]), st.none()),
        st.tuples(st.just("expire"), st.none(), st.none()),
    ),
    max_size=16,
)
OpenCalls = list[tuple[str, int, datetime]]
"""Request id, what is held, and when it was admitted."""


@settings(max_examples=60)
@given(steps=STEPS)
def test_whatever_happened_the_counter_and_the_ledger_agree(tmp_path_factory, steps):
    """The limit's `lapsed` and the booked expiries both make expired credits used: together never twice, never too few."""
    asyncio.run(_live_through(tmp_path_factory.mktemp("books"), steps))


async def _live_through(folder, steps) -> None:
    async with open_credit_world(folder) as books:
        calls: OpenCalls = []
        for step, number, detail in steps:
            await _do(books, calls, step, number, detail)
            shown = (await books.credits.balance("acme"))["promo_credits"]
            assert shown["left"] == shown["granted"] - shown["spent"] - shown["expired"] - shown["held"] >= 0
            assert shown["expired"] >= 0
        while calls:
            await _do(books, calls, "end", 0, 0)
        books.advance(1)
        await books.credits.expire_due(late_holds_s=0)
        assert await books.settled() == await books.consumed()
        shown = (await books.credits.balance("acme"))["promo_credits"]
        assert shown["left"] == shown["granted"] - shown["spent"] - shown["expired"] >= 0
        assert shown["expired"] == sum(row["payer_amount"] for row in await books.entries("expiry"))
        assert books.differences() == []


async def _do(books: CreditWorld, calls: OpenCalls, step: str, number: Any, detail: Any) -> None:
    if step == "grant":
        expires_at = None if detail is None else books.in_s(detail)
        await books.credits.grant("acme", "promo_credits", credits=number, expires_at=expires_at)
    elif step == "spend":
        await books.spend(number)
    elif step == "begin":
        if number <= (await books.credits.balance("acme"))["promo_credits"]["left"]:
            calls.append((await books.hold(number), number, books.now))
    elif step == "end":
        if number < len(calls):
            request_id, held, admitted_at = calls.pop(number)
            await books.end(request_id, min(detail, held), at=admitted_at)
    elif step == "refund":
        ended = await books.entries("usage")
        if number < len(ended):
            with _or_refused("refund_exceeds_charge", "not_refundable"):
                await books.credits.refund(ended[number]["request_id"], credits=detail)
    elif step == "take away":
        with _or_refused("credits_insufficient"):
            await books.credits.adjust("acme", "promo_credits", credits=-number)
    elif step == "wait":
        books.advance(number)
    else:
        await books.credits.expire_due(late_holds_s=0)
    books.advance(0.01)


@contextmanager
def _or_refused(*codes: str) -> Iterator[None]:
    """What the steps ask for may be more than there is; no other refusal is expected."""
    try:
        yield
    except RequestError as exc:
        if exc.code not in codes:
            raise


# The arithmetic by itself

EVENTS = st.lists(st.tuples(st.integers(0, 40), st.integers(-9, 30)), max_size=12)
GRANTS = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40)), max_size=6)


def _gone_by_the_clock(grants: list[tuple[int, int]], events: list[tuple[int, int]], until: int) -> int:
    """A clock that ticks: what is used is never less than what has expired. Returns the units lost by that."""
    used = lost = 0
    for tick in range(until + 1):
        expired = sum(units for units, at in grants if at <= tick)
        missing = max(0, expired - used)
        used, lost = used + missing, lost + missing
        # At its instant a grant is gone, so what is given back then finds it gone; each event is seen by itself.
        for at, units in events:
            if at == tick:
                used += units
                missing = max(0, expired - used)
                used, lost = used + missing, lost + missing
    return lost


@settings(max_examples=300)
@given(grants=GRANTS, events=EVENTS, split=st.integers(0, 45))
def test_what_is_gone_is_what_a_ticking_clock_would_have_taken(grants, events, split):
    """Also when it is booked in two goes, the second knowing only what the first has marked."""
    events = _possible(events)
    ordered = sorted(grants, key=lambda grant: grant[1])
    rows = [Expiring(f"g{number}", units, at, is_booked=False) for number, (units, at) in enumerate(ordered)]
    refunded_at = [at for at, units in events if units < 0]

    def spent_before(at: int) -> int:
        return sum(units for when, units in events if when < at)

    booked = 0
    for until in (split, 45):
        expired = [row for row in rows if row.expires_at <= until]
        found = list(
            lapses(
                expired,
                spent_before=spent_before,
                refunded_at=[at for at in refunded_at if at < until],
                booked=booked,
                known_until=until,
            )
        )
        assert all(lapse.credits >= 0 for lapse in found)
        booked += sum(lapse.credits for lapse in found)
        marked = {lapse.grant_id for lapse in found if lapse.is_final}
        if any(at >= until for at in refunded_at):
            # A refund that comes later makes the last grant that has expired be looked at again.
            marked -= {row.grant_id for row in expired[-1:]}
        rows = [row._replace(is_booked=row.grant_id in marked) for row in rows]
    assert booked == _gone_by_the_clock(ordered, events, 44)


def _possible(events: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """One a tick, and never more given back than was consumed."""
    found: dict[int, int] = {}
    consumed = 0
    for at, units in sorted(events):
        if at not in found and consumed + units >= 0:
            found[at] = units
            consumed += units
    return list(found.items())


# Balance


async def test_a_balance_tells_what_is_spent_gone_held_and_left(books):
    await books.credits.grant("acme", credits=100)
    await books.credits.grant("acme", "promo_credits", credits=10, expires_at=books.in_s(60))
    await books.credits.grant("acme", "promo_credits", credits=20, expires_at=books.in_s(600))
    await books.spend(30, "credits")
    await books.hold(5, "credits")
    await books.spend(4)
    before = await books.credits.balance("acme")
    assert before["credits"] == {"granted": 100, "spent": 30, "held": 5, "left": 65}
    assert before["promo_credits"] == {
        "granted": 30,
        "spent": 4,
        "held": 0,
        "left": 26,
        "expired": 0,
        "next_expiry": {"at": "2026-05-14T12:01:00.000Z", "credits": 6},
    }
    books.advance(60)
    gone = (await books.credits.balance("acme"))["promo_credits"]
    assert (gone["expired"], gone["left"], gone["next_expiry"]["credits"]) == (6, 20, 20)
    await books.credits.expire_due(late_holds_s=0)
    assert (await books.credits.balance("acme"))["promo_credits"] == gone


async def test_a_creator_without_grants_has_nothing(books):
    shown = await books.credits.balance("acme")
    assert shown["credits"] == {"granted": 0, "spent": 0, "held": 0, "left": 0}
    assert shown["promo_credits"]["next_expiry"] is None


async def _seed_quota(books: CreditWorld, nano_usd: int) -> int:
    key = quota.counter_key(creator_owner("acme"), quota.month_of(books.now))
    await books.counters.seed_settled(key, nano_usd)
    return nano_usd
