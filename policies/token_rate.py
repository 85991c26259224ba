"""Token rate: tokens in any rolling minute or day, over all virtual keys of a creator, per key, per provider.

A call takes what it is expected to use (`Call.tokens`); settling corrects that to what it did use.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from policies.amounts import amount_text
from policies.owners import Owner, owners_of, whose
from policies.types import Account, Call, Deny, Limit, LimitGroup, OnStoreError, Plan
from policies.windows import Counted, counted, shown

__all__ = ["counter_key", "decide", "overview"]

# A NamedTuple's own constructor takes twice as long as the tuple's, and every call makes one per limit.
_made = tuple.__new__


def counter_key(owner: Owner, window_s: int, provider: str | None = None) -> str:
    """The counter of the owner's tokens in a rolling window of `window_s` seconds, or of those to one provider."""
    return f"tokens:{owner}/{window_s}" if provider is None else f"tokens:{owner}/{window_s}/{provider}"


def decide(call: Call, account: Account, now: datetime) -> Sequence[LimitGroup]:
    """The call's tokens of every window."""
    key = ("token_rate", call.provider)
    frames: tuple[_Frame, ...] | None = account.memo.get(key)
    if frames is None:
        without_store = account.plan.without_store("token_rate")
        frames = account.memo[key] = tuple(
            _frame(owner, plan, window, without_store)
            for owner, plan in owners_of(account)
            for window in counted("token", owner, plan, call.provider)
        )
    return _groups(frames, call.tokens)


def overview(account: Account, now: datetime) -> Sequence[Limit]:
    without_store = account.plan.without_store("token_rate")
    frames = [
        _frame(owner, plan, window, without_store)
        for owner, plan in owners_of(account)
        for window in shown("token", owner, plan)
    ]
    return [limit for (limit,) in _groups(frames, 0)]


class _Frame(NamedTuple):
    """All of a limit but its amount."""

    name: str
    key: str
    capacity: int
    refusal: Deny
    window_s: int
    on_store_error: OnStoreError


def _frame(owner: Owner, plan: Plan, of: Counted, without_store: OnStoreError) -> _Frame:
    towards = f" for provider '{of.provider}'" if of.provider else ""
    message = (
        f"Token limit of {whose(owner, plan)}{towards} reached: {amount_text(of.capacity, 'token')} in "
        f"{of.window.stretch}."
    )
    window_s = of.window.window_s
    refusal = Deny("rate_limit_exceeded", message, "token_rate")
    key = counter_key(owner, window_s, of.provider)
    return _Frame(of.name, key, of.capacity, refusal, window_s, without_store)


def _groups(frames: Iterable[_Frame], tokens: int) -> list[LimitGroup]:
    groups: list[LimitGroup] = []
    never = (None, None, None, 0, False)  # it ends with no period, never shrinks, lapses or downgrades
    for name, key, capacity, refusal, window_s, without_store in frames:
        values = (name, key, "rolling", capacity, tokens, "token", refusal, window_s, *never, without_store)
        groups.append((_made(Limit, values),))
    return groups
