"""Rate limit: requests in any rolling minute, hour or day, over all virtual keys of a creator, per key, per provider."""

from collections.abc import Sequence
from datetime import datetime

from policies.amounts import amount_text
from policies.owners import Owner, owners_of, whose
from policies.types import Account, Call, Deny, Limit, LimitGroup, OnStoreError, Plan
from policies.windows import Counted, counted, shown

__all__ = ["counter_key", "decide", "overview"]


def counter_key(owner: Owner, window_s: int, provider: str | None = None) -> str:
    """The counter of the owner's requests in a rolling window of `window_s` seconds, or of those to one provider."""
    return f"requests:{owner}/{window_s}" if provider is None else f"requests:{owner}/{window_s}/{provider}"


def decide(call: Call, account: Account, now: datetime) -> Sequence[LimitGroup]:
    """One unit of every window."""
    key = ("rate_limit", call.provider)
    groups: tuple[LimitGroup, ...] | None = account.memo.get(key)
    if groups is None:
        # Nothing of it depends on the call but the provider.
        groups = account.memo[key] = _groups(account, call.provider)
    return groups


def overview(account: Account, now: datetime) -> Sequence[Limit]:
    without_store = account.plan.without_store("rate_limit")
    return [
        _limit(owner, plan, window, 0, without_store)
        for owner, plan in owners_of(account)
        for window in shown("request", owner, plan)
    ]


def _groups(account: Account, provider: str) -> tuple[LimitGroup, ...]:
    without_store = account.plan.without_store("rate_limit")
    return tuple(
        (_limit(owner, plan, window, 1, without_store),)
        for owner, plan in owners_of(account)
        for window in counted("request", owner, plan, provider)
    )


def _limit(owner: Owner, plan: Plan, of: Counted, amount: int, without_store: OnStoreError) -> Limit:
    towards = f" for provider '{of.provider}'" if of.provider else ""
    message = (
        f"Rate limit of {whose(owner, plan)}{towards} reached: {amount_text(of.capacity, 'request')} in "
        f"{of.window.stretch}."
    )
    return Limit(
        name=of.name,
        key=counter_key(owner, of.window.window_s, of.provider),
        kind="rolling",
        capacity=of.capacity,
        amount=amount,
        unit="request",
        refusal=Deny("rate_limit_exceeded", message, "rate_limit"),
        window_s=of.window.window_s,
        on_store_error=without_store,
    )
