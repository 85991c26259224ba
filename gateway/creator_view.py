"""What a creator may see of itself: plan, limits as they stand, free images, credits, the month so far and where it leads."""

from calendar import monthrange
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.answers import limit_json
from gateway.counters.base import CounterStore, LimitState, Refused
from gateway.ledger.creator_queries import MonthSums, downgraded_calls_of_month, month_of_creator
from gateway.ledger.database import Database
from gateway.plans import plan_to_json
from gateway.pricing import usd
from policies import overview
from policies.quota import month_of
from policies.types import UNLIMITED, Account

__all__ = ["CALL_FIELDS", "call_json", "forecast_nano_usd", "view_of"]

_FORECAST_FROM = timedelta(hours=1)
"""The first hour of a month says little about the rest of it: spending is taken to have lasted at least so long."""
CALL_FIELDS = (
    "request_id attempt final endpoint requested_model served_model downgrade_reason feature agent tags metadata "
    "input_tokens cached_input_tokens cache_write_tokens output_tokens reasoning_tokens images audio_seconds characters "
    "cost_nano_usd cost_usd charge_nano_usd charge_usd payer payer_unit payer_amount "
    "usage_source outcome flags error status cached is_streaming latency_ms ttft_ms admitted_at created_at"
).split()
"""What a creator is told of its call, in this order."""


async def view_of(account: Account, database: Database, counters: CounterStore, now: datetime) -> dict[str, Any]:
    """Everything at once, as of `now`. Reads one rollup range of the ledger; raises `StoreError` when it cannot."""
    limits = overview(account, now)
    states = await counters.read(limits)
    month = month_of(now)
    sums = await month_of_creator(database, account.creator, month)
    by_name = {state.limit.name: state for state in states}
    return {
        "object": "me",
        "creator": account.creator,
        "key_id": account.key_id,
        "plan": plan_to_json(account.plan),
        "limits": [_limit_shown(state, now) for state in states],
        "free_images_today": _units_shown(by_name.get("free_images_per_day"), now),
        "credits": _units_shown(by_name.get("credits"), now),
        "promo_credits": _promo_shown(by_name.get("promo_credits"), account, now),
        "month": _month_shown(month, sums, account, now),
        "downgrade": {
            **await _downgrade_shown(states, counters),
            "calls_this_month": await downgraded_calls_of_month(database, account.creator, month),
        },
    }


def forecast_nano_usd(spent_nano_usd: int, now: datetime) -> int:
    """What the month will come to if its spending goes on as it went so far, in nano-dollars, rounded down.

    By the part of the month that has really passed: a creator who spent 10 USD in the first ten of thirty days ends at 30.
    """
    now = now.astimezone(UTC)
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    whole = timedelta(days=monthrange(now.year, now.month)[1])
    elapsed = min(whole, max(_FORECAST_FROM, now - first))
    return spent_nano_usd * (whole // timedelta(microseconds=1)) // (elapsed // timedelta(microseconds=1))


def call_json(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of a creator's own call, out of `entry_json`: without what is the operator's affair."""
    return {name: entry[name] for name in CALL_FIELDS}


def _limit_shown(state: LimitState, now: datetime) -> dict[str, Any]:
    shown = limit_json(state)
    del shown["needed"]
    return shown | {"resets_at": _resets_at(state, now)}


def _units_shown(state: LimitState | None, now: datetime) -> dict[str, Any] | None:
    if state is None:
        return None
    return {
        "granted": state.limit.capacity,
        "used": state.settled,
        "held": state.held,
        "left": state.remaining,
        "resets_at": _resets_at(state, now),
    }


def _promo_shown(state: LimitState | None, account: Account, now: datetime) -> dict[str, Any] | None:
    """Promotional credits; `used` counts those that expired unspent, too."""
    shown = _units_shown(state, now)
    if shown is None:
        return None
    ahead = [
        grant.expires_at
        for grant in account.promo_grants
        if grant.expires_at is not None and grant.expires_at > now.timestamp()
    ]
    del shown["resets_at"]
    return shown | {"next_expiry_at": _instant(min(ahead)) if ahead and shown["left"] else None}


def _month_shown(month: str, sums: MonthSums, account: Account, now: datetime) -> dict[str, Any]:
    plan = account.plan
    forecast = forecast_nano_usd(sums.cost_nano_usd, now)
    # What was given back once is not given back again at the same pace.
    corrected = sums.corrected_nano_usd
    return {
        "period": month,
        "calls": sums.calls,
        **_money("cost", sums.cost_nano_usd),
        **_money("charge", sums.charge_nano_usd),
        "quota_usd": _usd_or_none(plan.quota_nano_usd_per_month),
        "budget_usd": _usd_or_none(plan.budget_nano_usd_per_month),
        **_money("forecast_cost", forecast),
        **_money("forecast_charge", forecast_nano_usd(sums.charge_nano_usd - corrected, now) + corrected),
    }


async def _downgrade_shown(states: Sequence[LimitState], counters: CounterStore) -> dict[str, Any]:
    """Whether even the smallest call for a model that can be downgraded would be; a budget remembers that it refused.

    The budget told of is the one that would do it, the creator's or the virtual key's own; if none, the first that could.
    """
    budgets = [state.limit for state in states if state.limit.downgrades and state.limit.capacity < UNLIMITED]
    if not budgets:
        return {"is_active": False, "limit_name": None, "resumes_below_usd": None}
    answer = await counters.preview([(budget._replace(amount=1),) for budget in budgets])
    full = {limit.name for limit in answer.unsatisfied} if isinstance(answer, Refused) else set()
    told = next((budget for budget in budgets if budget.name in full), budgets[0])
    return {
        "is_active": bool(full),
        "limit_name": told.name,
        "resumes_below_usd": _usd_or_none(told.resume_below),
    }


def _money(name: str, nano_usd: int) -> dict[str, Any]:
    return {f"{name}_nano_usd": nano_usd, f"{name}_usd": usd(nano_usd)}


def _usd_or_none(nano_usd: int | None) -> str | None:
    return None if nano_usd is None else usd(nano_usd)


def _resets_at(state: LimitState, now: datetime) -> str | None:
    if state.limit.resets_at is not None:
        return _instant(state.limit.resets_at)
    return _instant(now.timestamp() + state.reset_s) if state.reset_s else None


def _instant(unix_time: float) -> str | None:
    try:
        return datetime.fromtimestamp(unix_time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError):  # the end of the calendar's last month
        return None
