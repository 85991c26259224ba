"""Quota: what a creator may spend in a calendar month (UTC), by plan. Counts the worst case until the call is settled."""

from calendar import monthrange
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from policies.amounts import amount_text
from policies.types import UNLIMITED, Account, Call, Deny, Limit, LimitGroup, Plan

NAME = "quota_usd_per_month"
_DAY_S = 86_400


def counter_key(creator: str, month: str) -> str:
    """The counter of what a creator spent in `month`, written as `month_of` writes it (`YYYY-MM`)."""
    return f"quota:{creator}:{month}"


def month_of(now: datetime) -> str:
    """The calendar month of an aware instant in UTC, as `YYYY-MM`. Raises `ValueError` for a naive one."""
    now = _in_utc(now)
    return f"{now.year:04d}-{now.month:02d}"


@lru_cache(maxsize=64)
def month_ends_at(year: int, month: int) -> float:
    """The first instant of the following month, as a Unix time.

    Counted in days from the month's first, because December 9999 has no following month in `datetime`.
    """
    return datetime(year, month, 1, tzinfo=UTC).timestamp() + monthrange(year, month)[1] * _DAY_S


def decide(call: Call, account: Account, now: datetime) -> Sequence[LimitGroup]:
    """The call's worst case in nano-dollars from the month's quota."""
    plan = account.plan
    if now.tzinfo is not UTC:
        now = _in_utc(now)
    month = _month(account.creator, plan, now.year, now.month)
    limit = Limit(
        NAME,
        month.key,
        "calendar",
        UNLIMITED if plan.quota_nano_usd_per_month is None else plan.quota_nano_usd_per_month,
        call.hold_nano_usd,
        "nano_usd",
        month.refusal,
        0,
        month.ends_at,
    )
    return ((limit,),)


class _Month(NamedTuple):
    key: str
    refusal: Deny
    ends_at: float


# All of a limit but its amount stays the same for a month.
@lru_cache(maxsize=16_384)
def _month(creator: str, plan: Plan, year: int, month: int) -> _Month:
    capacity = amount_text(plan.quota_nano_usd_per_month or 0, "nano_usd")
    message = f"The monthly quota of plan '{plan.name}', {capacity}, does not cover this request."
    return _Month(
        counter_key(creator, f"{year:04d}-{month:02d}"),
        Deny("insufficient_quota", message, "quota"),
        month_ends_at(year, month),
    )


def _in_utc(now: datetime) -> datetime:
    if now.tzinfo is None:
        raise ValueError("a policy needs an aware instant: a naive one would mean the host's time zone")
    return now.astimezone(UTC)
