"""Rate limit: requests in any rolling hour, by plan, over all virtual keys of a creator."""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from policies.types import UNLIMITED, Account, Call, Deny, Limit, LimitGroup, Plan

NAME = "requests_per_hour"
WINDOW_S = 3600


def counter_key(creator: str, window_s: int = WINDOW_S) -> str:
    """The counter of a creator's requests in a rolling window of `window_s` seconds."""
    return f"requests:{creator}:{window_s}"


def decide(call: Call, account: Account, now: datetime) -> Sequence[LimitGroup]:
    """One unit of the hour's window."""
    return _groups(account.creator, account.plan)


# Nothing of it depends on the call, so each creator's limit is built once per plan. Above the bound it is built anew.
@lru_cache(maxsize=16_384)
def _groups(creator: str, plan: Plan) -> Sequence[LimitGroup]:
    capacity = UNLIMITED if plan.requests_per_hour is None else plan.requests_per_hour
    message = f"Rate limit of plan '{plan.name}' reached: {capacity} requests in any 60 minutes."
    limit = Limit(
        name=NAME,
        key=counter_key(creator),
        kind="rolling",
        capacity=capacity,
        amount=1,
        unit="request",
        refusal=Deny("rate_limit_exceeded", message, "rate_limit"),
        window_s=WINDOW_S,
    )
    return ((limit,),)
