from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import credits as credit_payers
from policies.owners import creator_owner
from policies.types import Limit, PromoGrant
from tests.policies.samples import ACCOUNT, IMAGES, NOW

AT = NOW.timestamp()


def promo(*grants: PromoGrant, now: datetime = NOW) -> Limit:
    return credit_payers.promo_alternative(IMAGES, replace(ACCOUNT, promo_grants=grants), now)


@pytest.mark.parametrize("granted", [0, 9, 10, 10**12])
def test_a_call_takes_its_whole_price_of_the_credits_ever_given(granted: int) -> None:
    limit = credit_payers.alternative(IMAGES, replace(ACCOUNT, credits_granted=granted), NOW)
    assert (limit.name, limit.kind, limit.unit) == ("credits", "balance", "credit")
    assert (limit.capacity, limit.amount, limit.lapsed) == (granted, 10, 0)
    assert (limit.resets_at, limit.amount_min) == (None, None)
    assert limit.key == credit_payers.counter_key(creator_owner("ada"))
    assert (limit.refusal.code, limit.refusal.policy) == ("insufficient_quota", "credits")


def test_promotional_credits_are_a_balance_of_their_own() -> None:
    limit = promo(PromoGrant(30, None), PromoGrant(12, AT + 1))
    assert (limit.name, limit.kind, limit.unit) == ("promo_credits", "balance", "credit")
    assert (limit.capacity, limit.amount, limit.lapsed) == (42, 10, 0)
    assert limit.key == credit_payers.promo_counter_key(creator_owner("ada"))
    assert "promotional" in limit.refusal.message
    assert limit.refusal.code == "insufficient_quota"


@pytest.mark.parametrize(
    ("expires_at", "lapsed"),
    [
        pytest.param(None, 0, id="never"),
        pytest.param(AT + 0.001, 0, id="a moment before"),
        pytest.param(AT, 5, id="at the instant"),
        pytest.param(AT - 1e6, 5, id="long ago"),
    ],
)
def test_a_grant_has_lapsed_from_the_instant_it_expires(expires_at: float | None, lapsed: int) -> None:
    assert promo(PromoGrant(5, expires_at)).lapsed == lapsed
    assert promo(PromoGrant(5, expires_at)).capacity == 5


def test_only_expired_grants_have_lapsed() -> None:
    limit = promo(PromoGrant(1, AT - 1), PromoGrant(2, AT + 1), PromoGrant(4, None), PromoGrant(8, AT))
    assert (limit.capacity, limit.lapsed) == (15, 9)


def test_who_was_never_given_any_still_has_the_limit() -> None:
    assert (promo().capacity, promo().lapsed) == (0, 0)


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.none() | st.floats(AT - 1e6, AT + 1e6)), max_size=20),
    st.integers(min_value=-14 * 60, max_value=14 * 60),
)
def test_lapsed_is_part_of_what_was_given_in_every_zone(
    grants: list[tuple[int, float | None]], offset_min: int
) -> None:
    given_ = [PromoGrant(*grant) for grant in grants]
    elsewhere = NOW.astimezone(timezone(timedelta(minutes=offset_min)))
    limit = promo(*given_, now=elsewhere)
    assert limit == promo(*given_)
    assert 0 <= limit.lapsed <= limit.capacity == sum(amount for amount, _ in grants)
    later = promo(*given_, now=datetime(2030, 1, 1, tzinfo=UTC))
    assert later.lapsed == sum(amount for amount, expires_at in grants if expires_at is not None)


@given(st.lists(st.tuples(st.integers(1, 9), st.none() | st.integers(-3, 3)), max_size=9))
def test_one_account_is_asked_at_many_instants(grants: list[tuple[int, int | None]]) -> None:
    given_ = tuple(PromoGrant(units, None if after is None else AT + after) for units, after in grants)
    account = replace(ACCOUNT, promo_grants=given_)
    for seconds in (2, -3, 0, 1, -2):
        lapsed = sum(units for units, after in grants if after is not None and after <= seconds)
        limit = credit_payers.promo_alternative(IMAGES, account, NOW + timedelta(seconds=seconds))
        assert (limit.capacity, limit.lapsed) == (sum(units for units, _ in grants), lapsed)


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        promo(now=datetime(2025, 1, 1))  # noqa: DTZ001


def test_creators_share_no_credits() -> None:
    bob = replace(ACCOUNT, creator="bob")
    for alternative in (credit_payers.alternative, credit_payers.promo_alternative):
        assert alternative(IMAGES, bob, NOW).key != alternative(IMAGES, ACCOUNT, NOW).key
