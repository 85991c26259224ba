from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import free_images
from policies.owners import creator_owner
from policies.types import Limit
from tests.policies.samples import IMAGES, NOW, on_plan, with_key_limits

TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)


def limit_at(now: datetime = NOW, *, images: int = 2, free: int = 3) -> Limit:
    return free_images.alternative(IMAGES._replace(images=images), on_plan(free_images_per_day=free), now)


@pytest.mark.parametrize("images", [1, 3, 10])
@pytest.mark.parametrize("free", [0, 3])
def test_a_call_takes_all_its_images_of_the_day_or_none(images: int, free: int) -> None:
    limit = limit_at(images=images, free=free)
    assert (limit.name, limit.kind, limit.unit) == ("free_images_per_day", "calendar", "image")
    assert (limit.capacity, limit.amount, limit.amount_min) == (free, images, None)
    assert limit.key == free_images.counter_key(creator_owner("ada"), "2025-06-15")
    assert limit.resets_at == datetime(2025, 6, 16, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(datetime(2025, 6, 15, tzinfo=UTC), id="some day"),
        pytest.param(datetime(2025, 2, 28, tzinfo=UTC), id="february's last"),
        pytest.param(datetime(2024, 2, 29, tzinfo=UTC), id="leap day"),
        pytest.param(datetime(2025, 12, 31, tzinfo=UTC), id="the year's last"),
    ],
)
def test_new_ones_come_at_midnight_utc(first: datetime) -> None:
    last, following = first + DAY - TICK, first + DAY
    assert limit_at(first).key == limit_at(last).key == f"free_images:c/ada/{first:%Y-%m-%d}"
    assert limit_at(first).resets_at == limit_at(last).resets_at == following.timestamp()
    assert limit_at(following).key == f"free_images:c/ada/{following:%Y-%m-%d}"


@given(
    st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),  # noqa: DTZ001
    st.integers(min_value=-14 * 60, max_value=14 * 60),
)
def test_the_zone_an_instant_is_told_in_changes_nothing(naive: datetime, offset_min: int) -> None:
    now = naive.replace(tzinfo=UTC)
    elsewhere = now.astimezone(timezone(timedelta(minutes=offset_min)))
    assert limit_at(elsewhere) == limit_at(now)
    assert limit_at(now).key.endswith(f"/{free_images.day_of(elsewhere)}")


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        limit_at(datetime(2025, 1, 1))  # noqa: DTZ001


def test_they_are_the_creators_whatever_key_is_used() -> None:
    account = on_plan(free_images_per_day=3)
    one = free_images.alternative(IMAGES, account, NOW)
    other = free_images.alternative(IMAGES, with_key_limits(replace(account, key_id="k2"), free_images_per_day=9), NOW)
    assert one == other
    bobs = free_images.alternative(IMAGES, replace(account, creator="bob"), NOW)
    assert bobs.key != one.key


def test_a_new_plan_counts_on_the_next_call_on_the_same_counter() -> None:
    assert limit_at(free=3).key == limit_at(free=10).key
    assert limit_at(free=10).capacity == 10


def test_the_refusal_names_plan_and_figure() -> None:
    assert (
        limit_at(free=1).refusal.message == "The free images of plan 'pro', 1 image a day, do not cover this request."
    )
    assert (limit_at().refusal.code, limit_at().refusal.policy) == ("insufficient_quota", "free_images")
