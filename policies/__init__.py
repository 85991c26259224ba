"""The decisions: pure functions over frozen data. This package imports the standard library and itself, nothing else.

`POLICIES` is the whole truth about which there are and in which order they speak. A new policy is one module with
`decide` and `overview` (and `counter_key`, if it counts something), one line here, and one test file.
"""

from datetime import datetime
from typing import Protocol

from policies import access, budget, concurrency, payer, rate_limit, token_rate
from policies.types import Account, Call, Deny, Limit, LimitGroup, Overview, Policy

__all__ = ["POLICIES", "PolicyModule", "decide", "overview"]


class PolicyModule(Protocol):
    """What a module of this package offers to be a policy."""

    @property
    def decide(self) -> Policy:
        """The limits a call must fit into, or a refusal that no counter has a say in."""
        ...

    @property
    def overview(self) -> Overview:
        """Every limit of this policy that concerns the account, with amount 0."""
        ...


POLICIES: tuple[PolicyModule, ...] = (
    access,
    rate_limit,
    token_rate,
    concurrency,
    payer,
    budget,
)
_DECISIONS = tuple(policy.decide for policy in POLICIES)


def decide(call: Call, account: Account, now: datetime) -> list[LimitGroup] | Deny:
    """The limits `call` must fit into, in the order of `POLICIES`, or the first refusal.

    `now` is the call's admission instant, aware; whatever its zone, periods are those of UTC.
    """
    groups: list[LimitGroup] = []
    for policy_decides in _DECISIONS:
        answer = policy_decides(call, account, now)
        if isinstance(answer, Deny):
            return answer
        groups += answer
    return groups


def overview(account: Account, now: datetime) -> list[Limit]:
    """Every limit that concerns `account` now, in the order of `POLICIES`, with amount 0: made to be read, not taken.

    Where a plan sets no limit, what is counted for every creator is there with the capacity `UNLIMITED`; optional
    windows and a virtual key's own limits are there only where they are set.
    """
    return [limit for policy in POLICIES for limit in policy.overview(account, now)]
