"""Calendar periods in UTC: the month of quotas and budgets, the day of free images.

An instant may come in any zone; the period is always UTC's. A naive one is refused: it would mean the host's zone.
"""

from calendar import monthrange
from datetime import UTC, datetime
from functools import lru_cache

__all__ = ["day_ends_at", "day_of", "in_utc", "month_ends_at", "month_of"]

_DAY_S = 86_400


def in_utc(now: datetime) -> datetime:
    """The same instant in UTC. Raises `ValueError` for a naive one."""
    if now.utcoffset() is None:
        raise ValueError("a policy needs an aware instant: a naive one would mean the host's time zone")
    return now.astimezone(UTC)


def month_of(now: datetime) -> str:
    """The calendar month of an aware instant in UTC, as `YYYY-MM`. Raises `ValueError` for a naive one."""
    now = in_utc(now)
    return month_text(now.year, now.month)


def month_text(year: int, month: int) -> str:
    return f"{year:04d}-{month:02d}"


@lru_cache(maxsize=64)
def month_ends_at(year: int, month: int) -> float:
    """The first instant of the following month, as a Unix time.

    Counted in days from the month's first, because December 9999 has no following month in `datetime`.
    """
    return datetime(year, month, 1, tzinfo=UTC).timestamp() + monthrange(year, month)[1] * _DAY_S


def day_of(now: datetime) -> str:
    """The day of an aware instant in UTC, as `YYYY-MM-DD`. Raises `ValueError` for a naive one."""
    now = in_utc(now)
    return day_text(now.year, now.month, now.day)


def day_text(year: int, month: int, day: int) -> str:
    return f"{year:04d}-{month:02d}-{day:02d}"


@lru_cache(maxsize=64)
def day_ends_at(year: int, month: int, day: int) -> float:
    """The first instant of the following day, as a Unix time."""
    return datetime(year, month, day, tzinfo=UTC).timestamp() + _DAY_S
