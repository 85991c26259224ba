"""Stretches of days, what they are compared with, and the weeks and months that days fall into."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dashboard.periods import (
    GRAINS,
    NAMED,
    PERIODS_MAX,
    Days,
    Grain,
    before,
    days_of,
    label_of_day,
    labels_between,
)
from gateway.errors import RequestError

WEDNESDAY = date(2026, 5, 20)
DAYS = st.dates(date(1, 1, 1), date(9999, 12, 30))


def days(first: str, after: str) -> Days:
    return Days(date.fromisoformat(first), date.fromisoformat(after))


@pytest.mark.parametrize(
    ("period", "now", "then"),
    [
        ("today", days("2026-05-20", "2026-05-21"), days("2026-05-19", "2026-05-20")),
        ("7d", days("2026-05-14", "2026-05-21"), days("2026-05-07", "2026-05-14")),
        ("30d", days("2026-04-21", "2026-05-21"), days("2026-03-22", "2026-04-21")),
        ("month", days("2026-05-01", "2026-05-21"), days("2026-04-01", "2026-04-21")),
        ("last_month", days("2026-04-01", "2026-05-01"), days("2026-03-01", "2026-03-31")),
        ("2026-05-01..2026-05-11", days("2026-05-01", "2026-05-11"), days("2026-04-21", "2026-05-01")),
    ],
)
def test_a_period_and_what_it_is_compared_with(period: str, now: Days, then: Days) -> None:
    found = days_of(period, WEDNESDAY)
    assert found == now
    assert before(period, found) == then


def test_a_long_month_is_compared_with_all_of_a_shorter_one() -> None:
    found = days_of("month", date(2026, 3, 31))
    assert before("month", found) == days("2026-02-01", "2026-03-01")


@pytest.mark.parametrize(
    "period",
    ["", "8d", "2026-05-01", "2026-05-01..", "..2026-05-01", "2026-05-02..2026-05-02", "2026-05-02..2026-05-01",
     "2026-5-1..2026-05-02", "2026-05-01...2026-05-02", "20260501..20260502", "2020-01-01..2026-01-01", "month "],
)  # fmt: skip
def test_what_is_no_period_is_refused(period: str) -> None:
    with pytest.raises(RequestError) as refused:
        days_of(period, WEDNESDAY)
    assert refused.value.param == "period"


@given(DAYS, st.sampled_from(sorted(NAMED)))
def test_every_day_has_every_period(today: date, period: str) -> None:
    today = max(today, date(1, 3, 1))
    found = days_of(period, today)
    earlier = before(period, found)
    assert 0 < earlier.length <= found.length
    assert earlier.after <= found.first
    assert found.last <= today


@given(DAYS)
def test_a_week_begins_on_its_iso_monday(day: date) -> None:
    monday = date.fromisoformat(label_of_day(day.isoformat(), "week"))
    assert monday.isoweekday() == 1
    assert monday.isocalendar()[:2] == day.isocalendar()[:2]


@given(st.dates(date(1970, 1, 1), date(9999, 12, 1)), st.integers(1, 300), st.sampled_from(GRAINS))
def test_labels_are_those_of_all_days_and_in_order(first: date, count: int, grain: Grain) -> None:
    count = min(count, (date.max - first).days)
    all_days = [first + timedelta(days=n) for n in range(count)]
    expected = list(dict.fromkeys(label_of_day(day.isoformat(), grain) for day in all_days))
    assert labels_between(Days(first, first + timedelta(days=count)), grain) == expected


@pytest.mark.parametrize("grain", ["week", "month"])
def test_time_may_end_with_the_calendar(grain: Grain) -> None:
    assert len(labels_between(Days(date(9999, 12, 30), date.max), grain)) == 1


def test_no_table_has_more_rows_than_can_be_read() -> None:
    assert len(labels_between(days("2026-01-01", "2027-02-05"), "day")) == PERIODS_MAX
    with pytest.raises(RequestError, match="weeks or months"):
        labels_between(days("2026-01-01", "2027-02-06"), "day")
    assert len(labels_between(days("2000-01-01", "2026-01-01"), "month")) == 26 * 12
