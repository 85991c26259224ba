"""Concurrency: calls in flight at once, over all virtual keys of a creator, per key, per provider.

A call gives its unit back when it ends, however it ends.
"""

from collections.abc import Sequence
from datetime import datetime

from policies.amounts import amount_text
from policies.owners import Owner, owners_of, whose
from policies.types import Account, Call, Deny, Limit, LimitGroup, OnStoreError, Plan
from policies.windows import Counted, counted, shown

__all__ = ["counter_key", "decide", "overview"]


def counter_key(owner: Owner, provider: str | None = None) -> str:
    """The counter of the owner's calls in flight, or of those to one provider."""
    return f"calls:{owner}" if provider is None else f"calls:{owner}/{provider}"


def decide(call: Call, account: Account, now: datetime) -> Sequence[LimitGroup]:
    """One unit of every gauge."""
    key = ("concurrency", call.provider)
    groups: tuple[LimitGroup, ...] | None = account.memo.get(key)
    if groups is None:
        groups = account.memo[key] = _groups(account, call.provider)
    return groups


def overview(account: Account, now: datetime) -> Sequence[Limit]:
    without_store = account.plan.without_store("concurrency")
    return [
        _limit(owner, plan, gauge, 0, without_store)
        for owner, plan in owners_of(account)
        for gauge in shown("call", owner, plan)
    ]


def _groups(account: Account, provider: str) -> tuple[LimitGroup, ...]:
    without_store = account.plan.without_store("concurrency")
    return tuple(
        (_limit(owner, plan, gauge, 1, without_store),)
        for owner, plan in owners_of(account)
        for gauge in counted("call", owner, plan, provider)
    )


def _limit(owner: Owner, plan: Plan, of: Counted, amount: int, without_store: OnStoreError) -> Limit:
    towards = f" for provider '{of.provider}'" if of.provider else ""
    message = (
        f"Concurrency limit of {whose(owner, plan)}{towards} reached: {amount_text(of.capacity, 'call')} in "
        f"{of.window.stretch}."
    )
    return Limit(
        name=of.name,
        key=counter_key(owner, of.provider),
        kind="gauge",
        capacity=of.capacity,
        amount=amount,
        unit="call",
        refusal=Deny("rate_limit_exceeded", message, "concurrency"),
        on_store_error=without_store,
    )
