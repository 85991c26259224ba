"""Budget: a cap on what calls cost at the providers in a calendar month (UTC), whoever pays for them.

The soft cap decides on what a call most likely costs, and sends it to a cheaper model. The hard cap decides on the worst
case, and refuses. `Plan.when_budget_reached` says which of them speak:

    downgrade              the soft one; a call that no cheaper model can do goes on, and the quota is its ceiling
    downgrade_then_deny    the soft one, and the hard one at `budget_hard_nano_usd_per_month`
    deny                   the hard one only, at the soft one's figure

Both are always counted, because another plan may let the other one speak on the next call.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from policies.amounts import amount_text
from policies.owners import Owner, is_key, limit_name, owners_of, whose
from policies.periods import in_utc, month_ends_at, month_text
from policies.types import (
    UNLIMITED,
    Account,
    BudgetAction,
    Call,
    Deny,
    DowngradeChoice,
    Limit,
    LimitGroup,
    OnStoreError,
    Plan,
)

__all__ = ["HARD_NAME", "NAME", "counter_key", "decide", "hard_counter_key", "overview"]

NAME = "budget_usd_per_month"
HARD_NAME = "budget_hard_usd_per_month"
# See token_rate.py.
_made = tuple.__new__

_RESUME_TENTHS = 9
"""Downgraded calls stay so until the month's figure is below nine tenths of the cap: no flapping at its edge."""
_NOTHING = Call("", "", "", "", "", 0, 0, downgrade="possible")


def counter_key(owner: Owner, month: str) -> str:
    """The soft budget's counter in `month` (`YYYY-MM`): settled cost and expected cost of calls in flight."""
    return f"budget:{owner}/{month}"


def hard_counter_key(owner: Owner, month: str) -> str:
    """The hard budget's counter in `month` (`YYYY-MM`): settled cost and worst case of calls in flight."""
    return f"budget_hard:{owner}/{month}"


def decide(call: Call, account: Account, now: datetime) -> Sequence[LimitGroup]:
    """The expected cost from the soft budget, the worst case from the hard one; likewise a virtual key's own, if set."""
    if now.tzinfo is not UTC:
        now = in_utc(now)
    key = ("budget", call.downgrade)
    month: _Month | None = account.memo.get(key)
    if month is None or month.month != now.month or month.year != now.year:
        month = account.memo[key] = _month(account, call.downgrade, now.year, now.month)
    groups: list[LimitGroup] = []
    for soft, hard in month.frames:
        groups += _groups(call, soft, hard, month.ends_at, month.on_store_error)
    return groups


def overview(account: Account, now: datetime) -> Sequence[Limit]:
    """Both caps of the creator, and those a virtual key has of its own, as a call with a cheaper model meets them."""
    limits = [limit for (limit,) in decide(_NOTHING, account, now)]
    return [*limits[:2], *(limit for limit in limits[2:] if limit.capacity < UNLIMITED)]


def _has_budget(plan: Plan) -> bool:
    return plan.budget_nano_usd_per_month is not None or plan.budget_hard_nano_usd_per_month is not None


def _groups(
    call: Call, soft: "_Frame", hard: "_Frame", ends_at: float, without_store: OnStoreError
) -> tuple[LimitGroup, ...]:
    name, key, capacity, refusal, resume_below, downgrades = soft
    expected, worst, least = call.expected_nano_usd, call.cost_nano_usd, call.cost_min_nano_usd
    unit = "cost_nano_usd"
    softly = (name, key, "calendar", capacity, expected, unit, refusal, 0, ends_at, None, resume_below, 0, downgrades)
    name, key, capacity, refusal, _, _ = hard
    hardly = (name, key, "calendar", capacity, worst, unit, refusal, 0, ends_at, least, None, 0, False)
    return (_made(Limit, (*softly, without_store)),), (_made(Limit, (*hardly, without_store)),)


class _Frame(NamedTuple):
    """All of a limit but its amounts and its end."""

    name: str
    key: str
    capacity: int
    refusal: Deny
    resume_below: int | None = None
    downgrades: bool = False


class _Month(NamedTuple):
    """What is the same for every call of an account in one month."""

    frames: tuple[tuple[_Frame, _Frame], ...]
    """The soft and the hard budget of the creator, and those of the virtual key if it has any."""
    ends_at: float
    on_store_error: OnStoreError
    year: int
    month: int


def _month(account: Account, downgrade: DowngradeChoice, year: int, month: int) -> _Month:
    period, action = month_text(year, month), account.plan.when_budget_reached
    frames = tuple(
        (_soft(owner, plan, action, downgrade, period), _hard(owner, plan, action, period))
        for owner, plan in owners_of(account)
        if not is_key(owner) or _has_budget(plan)
    )
    return _Month(frames, month_ends_at(year, month), account.plan.without_store("budget"), year, month)


def _soft(owner: Owner, plan: Plan, action: BudgetAction, downgrade: DowngradeChoice, month: str) -> _Frame:
    cap = plan.budget_nano_usd_per_month
    name, key = limit_name(owner, NAME), counter_key(owner, month)
    message = f"The monthly budget of {whose(owner, plan)}, {_cap_text(cap)}, does not cover this request."
    if downgrade == "refused":
        message = f"{message} A cheaper model could serve it, but the caller ruled that out."
    refusal = Deny("insufficient_quota", message, "budget")
    if cap is None or action == "deny" or downgrade == "impossible":
        return _Frame(name, key, UNLIMITED, refusal)
    return _Frame(name, key, cap, refusal, cap * _RESUME_TENTHS // 10, downgrade == "possible")


def _hard(owner: Owner, plan: Plan, action: BudgetAction, month: str) -> _Frame:
    cap = None
    if action == "deny":
        cap = plan.budget_nano_usd_per_month
    elif action == "downgrade_then_deny":
        cap = plan.budget_hard_nano_usd_per_month
    message = (
        f"The monthly budget of {whose(owner, plan)}, {_cap_text(cap)}, is a hard cap and does not cover this request."
    )
    return _Frame(
        limit_name(owner, HARD_NAME),
        hard_counter_key(owner, month),
        UNLIMITED if cap is None else cap,
        Deny("insufficient_quota", message, "budget"),
    )


def _cap_text(cap: int | None) -> str:
    return amount_text(cap or 0, "cost_nano_usd")
