import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import quota
from policies.types import UNLIMITED, Deny, Limit
from tests.policies.samples import ACCOUNT, CALL, NOW, PLAN

DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)


def limit_at(now: datetime, nano_usd: int = 1_000_000_000) -> Limit:
    account = replace(ACCOUNT, plan=replace(PLAN, quota_nano_usd_per_month=nano_usd))
    ((limit,),) = quota.decide(CALL, account, now)
    return limit


@pytest.fixture(params=["Asia/Tokyo", "America/New_York", "Pacific/Kiritimati"])
def host_zone(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


def test_a_call_takes_its_worst_case_of_the_plans_month() -> None:
    limit = limit_at(NOW, 1_000_000_000)
    assert (limit.name, limit.kind, limit.unit) == ("quota_usd_per_month", "calendar", "nano_usd")
    assert (limit.capacity, limit.amount, limit.window_s) == (1_000_000_000, CALL.hold_nano_usd, 0)
    assert limit.key == "quota:ada:2025-06" == quota.counter_key("ada", quota.month_of(NOW))


def test_a_call_that_costs_nothing_still_shows_the_quota() -> None:
    ((limit,),) = quota.decide(CALL._replace(hold_nano_usd=0), ACCOUNT, NOW)
    assert limit.amount == 0


def test_a_plan_without_quota_is_counted_on_the_same_counter() -> None:
    """Another plan may count on the next call, and then this month's charges must be known."""
    account = replace(ACCOUNT, plan=replace(PLAN, quota_nano_usd_per_month=None))
    answer = quota.decide(CALL, account, NOW)
    assert not isinstance(answer, Deny)
    [[limit]] = answer
    assert limit.capacity == UNLIMITED
    assert limit.key == limit_at(NOW, 1).key


def test_the_refusal_names_plan_and_amount() -> None:
    refusal = limit_at(NOW, 250_000_000).refusal
    assert (refusal.code, refusal.policy) == ("insufficient_quota", "quota")
    assert "'pro'" in refusal.message
    assert "0.25 USD" in refusal.message


MONTHS = [
    pytest.param(datetime(2025, 1, 1, tzinfo=UTC), 31, id="31 days"),
    pytest.param(datetime(2025, 2, 1, tzinfo=UTC), 28, id="28 days"),
    pytest.param(datetime(2024, 2, 1, tzinfo=UTC), 29, id="leap year"),
    pytest.param(datetime(2000, 2, 1, tzinfo=UTC), 29, id="leap century"),
    pytest.param(datetime(2100, 2, 1, tzinfo=UTC), 28, id="century without leap day"),
    pytest.param(datetime(2025, 4, 1, tzinfo=UTC), 30, id="30 days"),
    pytest.param(datetime(2025, 12, 1, tzinfo=UTC), 31, id="year end"),
]


@pytest.mark.parametrize(("first", "days"), MONTHS)
def test_a_month_runs_from_its_first_instant_to_the_next_months(first: datetime, days: int) -> None:
    last = first + days * DAY - TICK
    following = first + days * DAY
    ends_at = following.timestamp()
    for now in (first, first + timedelta(days=days / 2), last):
        assert limit_at(now).key == f"quota:ada:{first:%Y-%m}"
        assert limit_at(now).resets_at == ends_at
    assert limit_at(following).key == f"quota:ada:{following:%Y-%m}" != limit_at(last).key
    assert limit_at(first - TICK).resets_at == first.timestamp()


@pytest.mark.parametrize(("first", "days"), MONTHS)
def test_the_hosts_time_zone_is_irrelevant(host_zone: str, first: datetime, days: int) -> None:
    last = first + days * DAY - TICK
    assert limit_at(last).key == f"quota:ada:{first:%Y-%m}"
    assert limit_at(last).resets_at == quota.month_ends_at(first.year, first.month)
    assert quota.month_ends_at(first.year, first.month) == (first + days * DAY).timestamp()


def test_the_calendars_last_month_has_an_end() -> None:
    first = datetime(9999, 12, 1, tzinfo=UTC)
    assert limit_at(first).resets_at == first.timestamp() + 31 * 86_400


@given(
    st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),  # noqa: DTZ001
    st.integers(min_value=-14 * 60, max_value=14 * 60),
)
def test_an_instant_in_any_zone_belongs_to_its_utc_month(naive: datetime, offset_min: int) -> None:
    now = naive.replace(tzinfo=UTC)
    elsewhere = now.astimezone(timezone(timedelta(minutes=offset_min)))
    assert limit_at(elsewhere) == limit_at(now)
    resets_at = limit_at(now).resets_at
    assert resets_at is not None
    assert now.timestamp() < resets_at <= now.timestamp() + 31 * 86_400
    assert quota.month_of(elsewhere) == f"{now.year:04d}-{now.month:02d}"


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        limit_at(datetime(2025, 1, 1))  # noqa: DTZ001


def test_a_new_plan_counts_on_the_next_call_on_the_same_counter() -> None:
    before, after = limit_at(NOW, 1), limit_at(NOW, 2)
    assert (before.capacity, after.capacity) == (1, 2)
    assert before.key == after.key
