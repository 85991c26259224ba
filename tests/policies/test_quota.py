from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import quota
from policies.owners import creator_owner, key_owner
from policies.types import UNLIMITED, Limit
from tests.policies.samples import ACCOUNT, CALL, NOW, USD, on_plan, only, with_key_limits

TICK = timedelta(microseconds=1)


def limit_at(now: datetime, nano_usd: int | None = USD) -> Limit:
    return quota.alternative(CALL, on_plan(quota_nano_usd_per_month=nano_usd), now)


def test_a_call_takes_what_it_may_cost_the_creator_of_the_plans_month() -> None:
    limit = limit_at(NOW, USD)
    assert (limit.name, limit.kind, limit.unit) == ("quota_usd_per_month", "calendar", "nano_usd")
    assert (limit.capacity, limit.amount, limit.window_s) == (USD, CALL.charge_nano_usd, 0)
    assert limit.key == quota.counter_key(creator_owner("ada"), "2025-06")
    assert limit.resets_at == datetime(2025, 7, 1, tzinfo=UTC).timestamp()


def test_the_hold_may_shrink_only_where_the_call_lets_it() -> None:
    assert limit_at(NOW).amount_min is None
    limit = quota.alternative(CALL._replace(charge_min_nano_usd=300), ACCOUNT, NOW)
    assert (limit.amount, limit.amount_min) == (1_234, 300)


def test_the_quota_never_downgrades() -> None:
    assert not limit_at(NOW).downgrades
    assert limit_at(NOW).resume_below is None


def test_a_call_that_costs_nothing_still_shows_the_quota() -> None:
    assert quota.alternative(CALL._replace(charge_nano_usd=0), ACCOUNT, NOW).amount == 0


def test_a_plan_without_quota_is_counted_on_the_same_counter() -> None:
    """Another plan may count on the next call, and then this month's charges must be known."""
    limit = limit_at(NOW, None)
    assert limit.capacity == UNLIMITED
    assert limit.key == limit_at(NOW, 1).key


def test_the_refusal_names_plan_and_amount() -> None:
    refusal = limit_at(NOW, 250_000_000).refusal
    assert (refusal.code, refusal.policy) == ("insufficient_quota", "quota")
    assert refusal.message == "The monthly quota of plan 'pro', 0.25 USD, does not cover this request."


@pytest.mark.parametrize("capacity", [0, 5])
def test_a_keys_own_quota_takes_the_same_on_the_keys_counter(capacity: int) -> None:
    account = with_key_limits(quota_nano_usd_per_month=capacity)
    limit = only(quota.key_groups(CALL._replace(charge_min_nano_usd=300), account, NOW))
    assert (limit.name, limit.kind, limit.unit) == ("key_quota_usd_per_month", "calendar", "nano_usd")
    assert (limit.capacity, limit.amount, limit.amount_min) == (capacity, 1_234, 300)
    assert limit.key == quota.counter_key(key_owner("k1"), "2025-06")
    assert "this virtual key" in limit.refusal.message


def test_a_key_without_own_quota_has_no_group() -> None:
    assert quota.key_groups(CALL, ACCOUNT, NOW) == ()
    assert quota.key_groups(CALL, with_key_limits(requests_per_hour=1), NOW) == ()


@pytest.mark.parametrize(
    ("first", "following"),
    [
        pytest.param(datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC), id="31 days"),
        pytest.param(datetime(2025, 2, 1, tzinfo=UTC), datetime(2025, 3, 1, tzinfo=UTC), id="28 days"),
        pytest.param(datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC), id="29 days"),
        pytest.param(datetime(2025, 4, 1, tzinfo=UTC), datetime(2025, 5, 1, tzinfo=UTC), id="30 days"),
        pytest.param(datetime(2025, 12, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), id="year end"),
    ],
)
def test_a_month_is_one_counter_from_its_first_instant_to_its_last(first: datetime, following: datetime) -> None:
    last = following - TICK
    assert limit_at(first).key == limit_at(last).key == f"quota:c/ada/{first:%Y-%m}"
    assert limit_at(first).resets_at == limit_at(last).resets_at == following.timestamp()
    assert limit_at(following).key == f"quota:c/ada/{following:%Y-%m}"


def test_the_calendars_last_month_has_an_end() -> None:
    first = datetime(9999, 12, 1, tzinfo=UTC)
    assert limit_at(first).resets_at == first.timestamp() + 31 * 86_400


@given(
    st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),  # noqa: DTZ001
    st.integers(min_value=-14 * 60, max_value=14 * 60),
)
def test_the_zone_an_instant_is_told_in_changes_nothing(naive: datetime, offset_min: int) -> None:
    now = naive.replace(tzinfo=UTC)
    elsewhere = now.astimezone(timezone(timedelta(minutes=offset_min)))
    assert limit_at(elsewhere) == limit_at(now)
    assert f"/{quota.month_of(elsewhere)}" in limit_at(now).key


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        limit_at(datetime(2025, 1, 1))  # noqa: DTZ001


def test_a_new_plan_counts_on_the_next_call_on_the_same_counter() -> None:
    before, after = limit_at(NOW, 1), limit_at(NOW, 2)
    assert (before.capacity, after.capacity) == (1, 2)
    assert before.key == after.key
