"""A call, an account and an instant to vary, and what many tests do with them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from policies.types import Account, Call, Deny, Limit, LimitGroup, Plan

USD = 1_000_000_000
"""In nano-dollars."""
PLAN = Plan(name="pro", requests_per_hour=100, quota_nano_usd_per_month=50 * USD)
CALL = Call(
    endpoint="chat",
    requested_model="gpt-big",
    model="gpt-big",
    provider="openai",
    tier="premium",
    charge_nano_usd=1_234,
    cost_nano_usd=1_000,
    expected_nano_usd=700,
    tokens=1_500,
    address="192.0.2.7",
    downgrade="possible",
)
IMAGES = CALL._replace(endpoint="images", requested_model="painter", model="painter", images=2, credits=10)
ACCOUNT = Account(creator="ada", account_id="ada", key_id="k1", plan=PLAN)
NOW = datetime(2025, 6, 15, 12, 30, tzinfo=UTC)


def on_plan(**limits: object) -> Account:
    """The account on a plan that differs from `PLAN` in `limits`."""
    return replace(ACCOUNT, plan=replace(PLAN, **limits))  # type: ignore[arg-type]


def with_key_limits(account: Account = ACCOUNT, **limits: object) -> Account:
    """The account called through a virtual key that has `limits` of its own, and no other."""
    return replace(account, key_plan=Plan(name="pro", **limits))  # type: ignore[arg-type]


def groups_of(answer: Sequence[LimitGroup] | Deny) -> list[LimitGroup]:
    """What a policy answered, where it did not refuse."""
    assert not isinstance(answer, Deny)
    return list(answer)


def only(answer: Sequence[LimitGroup] | Deny) -> Limit:
    """The limit of an answer that is a single group without alternatives."""
    ((limit,),) = groups_of(answer)
    return limit


def names(answer: Sequence[LimitGroup] | Deny) -> list[list[str]]:
    """The limits of each group."""
    return [[limit.name for limit in group] for group in groups_of(answer)]
