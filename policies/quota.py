"""Quota: what a creator may owe in a calendar month (UTC), by plan. One of the payers; counts the worst case until the
call is settled. A virtual key may have a quota of its own beside it."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from policies.amounts import amount_text
from policies.owners import Owner, creator_owner, limit_name, own_limits_owner, whose
from policies.periods import in_utc, month_ends_at, month_of, month_text
from policies.types import UNLIMITED, Account, Call, Deny, Limit, LimitGroup, OnStoreError, Plan

__all__ = ["NAME", "alternative", "counter_key", "key_groups", "month_ends_at", "month_of"]

NAME = "quota_usd_per_month"
# See token_rate.py.
_made = tuple.__new__


def counter_key(owner: Owner, month: str) -> str:
    """The counter of what an owner owes for `month`, written as `month_of` writes it (`YYYY-MM`)."""
    return f"quota:{owner}/{month}"


def alternative(call: Call, account: Account, now: datetime) -> Limit:
    """What the call may cost the creator, in nano-dollars, from the month's quota."""
    return _limit(call, account, _creator_frame, now)


def key_groups(call: Call, account: Account, now: datetime) -> Sequence[LimitGroup]:
    """The same from the virtual key's own quota, where it has one: no payer, but one more ceiling for this one."""
    plan = account.key_plan
    if plan is None or plan.quota_nano_usd_per_month is None:
        return ()
    return ((_limit(call, account, _key_frame, now),),)


def _limit(call: Call, account: Account, make: "Callable[[Account, int, int], _Frame]", now: datetime) -> Limit:
    if now.tzinfo is not UTC:
        now = in_utc(now)
    frame: _Frame | None = account.memo.get(make)
    if frame is None or frame.month != now.month or frame.year != now.year:
        frame = account.memo[make] = make(account, now.year, now.month)
    name, key, capacity, refusal, ends_at, without_store, _, _ = frame
    amount, amount_min = call.charge_nano_usd, call.charge_min_nano_usd
    until = (0, ends_at, amount_min, None, 0, False, without_store)
    return _made(Limit, (name, key, "calendar", capacity, amount, "nano_usd", refusal, *until))


def _creator_frame(account: Account, year: int, month: int) -> "_Frame":
    return _frame(creator_owner(account.creator), account.plan, account.plan, year, month)


def _key_frame(account: Account, year: int, month: int) -> "_Frame":
    return _frame(own_limits_owner(account), account.key_plan or account.plan, account.plan, year, month)


class _Frame(NamedTuple):
    """All of a limit but its amounts: it stays the same for a month."""

    name: str
    key: str
    capacity: int
    refusal: Deny
    ends_at: float
    on_store_error: OnStoreError
    year: int
    month: int


def _frame(owner: Owner, plan: Plan, of_account: Plan, year: int, month: int) -> _Frame:
    quota = plan.quota_nano_usd_per_month
    message = f"The monthly quota of {whose(owner, plan)}, {amount_text(quota or 0, 'nano_usd')}, does not cover this request."
    return _Frame(
        limit_name(owner, NAME),
        counter_key(owner, month_text(year, month)),
        UNLIMITED if quota is None else quota,
        Deny("insufficient_quota", message, "quota"),
        month_ends_at(year, month),
        of_account.without_store("quota"),
        year,
        month,
    )
