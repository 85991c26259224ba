"""The decisions: pure functions over frozen data. This package imports the standard library and itself, nothing else.

`POLICIES` is the whole truth about which there are and in which order they speak. A new policy is one module with
`decide` (and `counter_key`, if it counts something), one line here, and one test file.
"""

from datetime import datetime

from policies import access, quota, rate_limit
from policies.types import Account, Call, Deny, LimitGroup, Policy

__all__ = ["POLICIES", "decide"]

POLICIES: tuple[Policy, ...] = (
    access.decide,
    rate_limit.decide,
    quota.decide,
)


def decide(call: Call, account: Account, now: datetime) -> list[LimitGroup] | Deny:
    """The limits `call` must fit into, in the order of `POLICIES`, or the first refusal.

    `now` is the call's admission instant, aware; whatever its zone, periods are those of UTC.
    """
    groups: list[LimitGroup] = []
    for policy in POLICIES:
        answer = policy(call, account, now)
        if isinstance(answer, Deny):
            return answer
        groups += answer
    return groups
