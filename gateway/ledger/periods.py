"""Instants as the tables keep them, and the day and month they fall into. UTC throughout."""

import time
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

__all__ = ["DAY_MS", "instant", "month_bounds_ms", "ms_of", "now_ms", "period_of", "rfc3339"]

DAY_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_UNZONED = _EPOCH.replace(tzinfo=None)
_MS = timedelta(milliseconds=1)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def ms_of(at: datetime) -> int:
    """Milliseconds since 1970, whatever zone the aware `at` is written in; parts of a millisecond are dropped."""
    return (at - _EPOCH) // _MS


def instant(at_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=at_ms)


def period_of(at_ms: int) -> tuple[str, str]:
    """`("2026-05-31", "2026-05")`."""
    return _day_and_month(at_ms // DAY_MS)


@lru_cache(maxsize=64)
def _day_and_month(day: int) -> tuple[str, str]:
    text = (date(1970, 1, 1) + timedelta(days=day)).isoformat()
    return text, text[:7]


def month_bounds_ms(month: str) -> tuple[int, int]:
    """First instant of `YYYY-MM` and first instant after it. Raises `ValueError` for anything else."""
    if len(month) != len("YYYY-MM"):
        raise ValueError(f"not a month: {month}")
    start = datetime.combine(date.fromisoformat(f"{month}-01"), datetime.min.time(), UTC)
    after = (start + timedelta(days=31)).replace(day=1)  # the year 9999 has no after, and raises OverflowError
    return ms_of(start), ms_of(after)


def rfc3339(at_ms: int) -> str:
    """`2026-05-31T23:59:59.999Z`."""
    return (_EPOCH_UNZONED + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds") + "Z"
