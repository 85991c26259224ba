"""Stretches of days, UTC: those that pages offer, what each is compared with, and the weeks and months days fall into. Pure.

The ledger sums by day. Whatever is shown by week or month is added up from days, here and nowhere else.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Literal, NamedTuple, NoReturn, get_args

from gateway.errors import RequestError

__all__ = ["GRAINS", "NAMED", "PERIODS_MAX", "Days", "Grain", "before", "days_of", "label_of_day", "labels_between"]

Grain = Literal["day", "week", "month", "none"]
GRAINS: tuple[Grain, ...] = get_args(Grain)
PERIODS_MAX = 400
"""Rows of a table over time: every day of a year."""
_DAY = timedelta(days=1)
_LAST_MONTH = (date.max.year, date.max.month)


class Days(NamedTuple):
    """From one day up to another that no longer belongs to it, as `/admin/costs` takes them."""

    first: date
    after: date

    @property
    def length(self) -> int:
        return (self.after - self.first).days

    @property
    def last(self) -> date:
        """The last day that counts; of no days at the calendar's beginning its first one."""
        return self.after - min(_DAY, self.after - date.min)

    def query(self) -> dict[str, str]:
        """As parameters of the admin API."""
        return {"from": self.first.isoformat(), "to": self.after.isoformat()}


NAMED: Mapping[str, str] = {
    "today": "Today",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "month": "This month",
    "last_month": "Last month",
}


def days_of(period: str, today: date) -> Days:
    """The days of a name of `NAMED`, or of `2026-05-01..2026-06-01`, whose second day is the first that no longer counts.

    Raises `RequestError` for anything else.
    """
    if period in NAMED:
        return _named(period, today)
    first, dots, after = period.partition("..")
    try:
        found = Days(date.fromisoformat(first), date.fromisoformat(after))
    except ValueError:
        found = None
    if not dots or found is None or period != f"{found.first}..{found.after}":
        _refuse(f"takes one of {', '.join(NAMED)}, or two days such as 2026-05-01..2026-06-01")
    if found.length <= 0:
        _refuse("takes two days of which the second is later; it is the first that no longer counts")
    if found.length > PERIODS_MAX:
        _refuse(f"takes at most {PERIODS_MAX} days")
    return found


def before(period: str, days: Days) -> Days:
    """What `days` are compared with: as many days right before them; of a month, as many days of the month before it, which
    may have fewer."""
    if period in ("month", "last_month"):
        end = days.first.replace(day=1)
        start = _month_before(end)
        return Days(start, min(start + (days.after - days.first), end))
    span = timedelta(days=min(days.length, (days.first - date.min).days))
    return Days(days.first - span, days.first)


def label_of_day(day: str, grain: Grain) -> str:
    """The day, the Monday of its ISO week, its month, or nothing."""
    if grain == "week":
        found = date.fromisoformat(day)
        # The calendar begins on a Monday: no day has its Monday before it.
        return (found - found.weekday() * _DAY).isoformat()
    return {"day": day, "month": day[:7], "none": ""}[grain]


def labels_between(days: Days, grain: Grain) -> list[str]:
    """Every label of `days`, in order, also of those in which nothing happened. Raises `RequestError` for too many."""
    if grain == "none":
        return [""]
    found: dict[str, None] = {}
    day = days.first
    while day < days.after:
        found[label_of_day(day.isoformat(), grain)] = None
        if len(found) > PERIODS_MAX:
            raise RequestError(
                f"That makes more than {PERIODS_MAX} rows: ask for a shorter range, or for weeks or months.",
                code="invalid_value",
                param="grain",
            )
        day = _next(day, grain)
    return list(found)


def _refuse(reason: str) -> NoReturn:
    raise RequestError(f"`period` {reason}.", code="invalid_value", param="period")


def _named(period: str, today: date) -> Days:
    this_month = today.replace(day=1)
    if period == "last_month":
        return Days(_month_before(this_month), this_month)
    first = {"today": today, "7d": today - 6 * _DAY, "30d": today - 29 * _DAY, "month": this_month}[period]
    return Days(first, today + _DAY)


def _month_before(first: date) -> date:
    return (first - _DAY).replace(day=1)


def _next(day: date, grain: Grain) -> date:
    """The first day with the next label; the calendar's last one where there is none."""
    if grain == "month":
        return (day.replace(day=1) + 31 * _DAY).replace(day=1) if (day.year, day.month) < _LAST_MONTH else date.max
    wanted = 1 if grain == "day" else 7 - day.weekday()
    return day + min(wanted, (date.max - day).days) * _DAY
