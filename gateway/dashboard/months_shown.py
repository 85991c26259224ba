"""Days of a month as lines: what was spent up to each, the cap, and where it leads. Integers throughout, no clock."""

from calendar import monthrange
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import accumulate

__all__ = ["burn_down", "days_in_month", "spark_points"]

SPARK_WIDTH = 120
SPARK_HEIGHT = 24
_MARGIN = 2


def days_in_month(period: str) -> int:
    """Of `YYYY-MM`."""
    return monthrange(int(period[:4]), int(period[5:7]))[1]


def burn_down(
    costs: Mapping[str, int], today: date, budget_nano_usd: int | None, forecast_nano_usd: int
) -> tuple[list[str], list[tuple[str, list[int | None]]]]:
    """Columns and rows of the month's chart, a row for each day of the month of `today`, in nano-dollars.

    `costs`: day -> nano-dollars of that day. Spending is summed up to today, and goes from there to the forecast in a
    straight line; the budget is the same every day, and has no column where there is none.
    """
    last = monthrange(today.year, today.month)[1]
    days = [today.replace(day=number).isoformat() for number in range(1, last + 1)]
    spent = list(accumulate(costs.get(day, 0) for day in days[: today.day]))
    so_far, left = spent[-1], last - today.day
    rows: list[tuple[str, list[int | None]]] = []
    for number, day in enumerate(days, 1):
        ahead = number - today.day
        rise = (forecast_nano_usd - so_far) * ahead // left if left else 0
        line: list[int | None] = [spent[number - 1] if ahead <= 0 else None]
        if budget_nano_usd is not None:
            line.append(budget_nano_usd)
        line.append(None if ahead < 0 else so_far + rise)
        rows.append((day, line))
    return ["Spent", *(["Budget"] if budget_nano_usd is not None else []), "Forecast"], rows


def spark_points(daily: Sequence[int], cap: int | None, days: int) -> tuple[str, int | None]:
    """The points of a small line of what was spent up to each of the month's `days`, and the height of the cap's line.

    In a box of `SPARK_WIDTH` by `SPARK_HEIGHT`, its origin at the top. No points where nothing was spent.
    """
    spent = list(accumulate(daily))
    top = max([*spent, cap or 0, 1])
    room = SPARK_HEIGHT - 2 * _MARGIN

    def height(amount: int) -> int:
        return SPARK_HEIGHT - _MARGIN - max(0, amount) * room // top

    cap_y = None if cap is None else height(cap)
    if not any(daily):
        return "", cap_y
    points = [(0, height(0)), *((number * SPARK_WIDTH // days, height(sum_)) for number, sum_ in enumerate(spent, 1))]
    return " ".join(f"{x},{y}" for x, y in points), cap_y
