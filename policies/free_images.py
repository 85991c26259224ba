"""Free images: so many a day (UTC), by plan. One of the payers; the first one asked by default."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from policies.amounts import amount_text
from policies.owners import Owner, creator_owner
from policies.periods import day_ends_at, day_of, day_text, in_utc
from policies.types import Account, Call, Deny, Limit, Plan

__all__ = ["NAME", "alternative", "counter_key", "day_ends_at", "day_of"]

NAME = "free_images_per_day"


def counter_key(owner: Owner, day: str) -> str:
    """The counter of a creator's free images on `day`, written as `day_of` writes it (`YYYY-MM-DD`)."""
    return f"free_images:{owner}/{day}"


def alternative(call: Call, account: Account, now: datetime) -> Limit:
    """All images of the call from the day's free ones: never a part of them."""
    plan = account.plan
    if now.tzinfo is not UTC:
        now = in_utc(now)
    key, refusal, ends_at = _frame(creator_owner(account.creator), plan, now.year, now.month, now.day)
    return Limit(
        NAME,
        key,
        "calendar",
        plan.free_images_per_day,
        call.images,
        "image",
        refusal,
        0,
        ends_at,
        on_store_error=plan.without_store("free_images"),
    )


class _Frame(NamedTuple):
    key: str
    refusal: Deny
    ends_at: float


@lru_cache(maxsize=16_384)
def _frame(owner: Owner, plan: Plan, year: int, month: int, day: int) -> _Frame:
    free = amount_text(plan.free_images_per_day, "image")
    message = f"The free images of plan '{plan.name}', {free} a day, do not cover this request."
    return _Frame(
        counter_key(owner, day_text(year, month, day)),
        Deny("insufficient_quota", message, "free_images"),
        day_ends_at(year, month, day),
    )
