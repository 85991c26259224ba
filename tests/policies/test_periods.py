import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.periods import day_ends_at, day_of, in_utc, month_ends_at, month_of

TICK = timedelta(microseconds=1)
TOKYO, NEW_YORK = ZoneInfo("Asia/Tokyo"), ZoneInfo("America/New_York")


@pytest.fixture(params=["Asia/Tokyo", "America/New_York", "Pacific/Kiritimati"])
def host_zone(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


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
    following = first + timedelta(days=days)
    assert month_of(first) == month_of(following - TICK) == f"{first:%Y-%m}"
    assert month_of(following) == f"{following:%Y-%m}" != month_of(first)
    assert month_ends_at(first.year, first.month) == following.timestamp()


@pytest.mark.parametrize(("first", "days"), MONTHS)
def test_the_hosts_time_zone_is_irrelevant(host_zone: str, first: datetime, days: int) -> None:
    following = first + timedelta(days=days)
    assert month_of(following - TICK) == f"{first:%Y-%m}"
    assert day_of(following - TICK) == f"{following - TICK:%Y-%m-%d}"
    assert month_ends_at(first.year, first.month) == following.timestamp()
    assert day_ends_at(first.year, first.month, days) == following.timestamp()


@pytest.mark.parametrize(
    ("now", "day"),
    [
        pytest.param(datetime(2025, 1, 1, 8, 59, 59, 999_999, TOKYO), "2024-12-31", id="Tokyo before nine"),
        pytest.param(datetime(2025, 1, 1, 9, 0, 0, 0, TOKYO), "2025-01-01", id="Tokyo at nine"),
        pytest.param(datetime(2025, 2, 28, 18, 59, 59, 999_999, NEW_YORK), "2025-02-28", id="New York in winter"),
        pytest.param(datetime(2025, 2, 28, 19, 0, 0, 0, NEW_YORK), "2025-03-01", id="New York in winter at seven"),
        pytest.param(datetime(2025, 6, 30, 19, 59, 59, 999_999, NEW_YORK), "2025-06-30", id="New York in summer"),
        pytest.param(datetime(2025, 6, 30, 20, 0, 0, 0, NEW_YORK), "2025-07-01", id="New York in summer at eight"),
        pytest.param(datetime(2024, 2, 29, 0, 0, 0, 0, TOKYO), "2024-02-28", id="Tokyo's leap day begins"),
    ],
)
def test_the_period_is_that_of_utc(now: datetime, day: str) -> None:
    assert (day_of(now), month_of(now)) == (day, day[:7])


def test_the_hour_that_comes_twice_is_two_hours() -> None:
    """New York's clocks go back on 2 November 2025 at 06:00 UTC."""
    first = datetime(2025, 11, 2, 1, 30, tzinfo=NEW_YORK)
    second = first.replace(fold=1)
    assert (in_utc(first).hour, in_utc(second).hour) == (5, 6)
    assert day_of(first) == day_of(second) == "2025-11-02"


def test_the_calendars_last_month_and_day_have_an_end() -> None:
    after = datetime(9999, 12, 31, tzinfo=UTC).timestamp() + 86_400
    assert month_ends_at(9999, 12) == day_ends_at(9999, 12, 31) == after


@given(
    st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),  # noqa: DTZ001
    st.integers(min_value=-14 * 60, max_value=14 * 60),
)
def test_an_instant_in_any_zone_belongs_to_its_utc_day_and_month(naive: datetime, offset_min: int) -> None:
    now = naive.replace(tzinfo=UTC)
    elsewhere = now.astimezone(timezone(timedelta(minutes=offset_min)))
    assert (day_of(elsewhere), month_of(elsewhere)) == (naive.date().isoformat(), naive.date().isoformat()[:7])
    left_s = day_ends_at(now.year, now.month, now.day) - now.timestamp()
    assert 0 < left_s <= 86_400
    assert left_s <= month_ends_at(now.year, now.month) - now.timestamp() <= 31 * 86_400


class NowhereInParticular(tzinfo):
    """A zone that does not say its offset: Python takes such an instant for naive."""

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        return None

    def dst(self, dt: datetime | None) -> timedelta | None:
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        return None


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(datetime(2025, 1, 1), id="no zone"),  # noqa: DTZ001
        pytest.param(datetime(2025, 1, 1, tzinfo=NowhereInParticular()), id="a zone without offset"),
    ],
)
def test_a_naive_instant_is_refused(now: datetime) -> None:
    for period_of in (in_utc, month_of, day_of):
        with pytest.raises(ValueError, match="aware"):
            period_of(now)
