from dataclasses import replace

import pytest

from policies import rate_limit
from policies.types import UNLIMITED, Limit
from tests.policies.samples import ACCOUNT, CALL, NOW, PLAN


def limit_of(plan_limit: int | None, creator: str = "ada") -> Limit:
    account = replace(ACCOUNT, creator=creator, plan=replace(PLAN, requests_per_hour=plan_limit))
    ((limit,),) = rate_limit.decide(CALL, account, NOW)
    return limit


@pytest.mark.parametrize("plan_limit", [0, 1, 10, 512, 513, 10_000])
def test_a_call_takes_one_request_of_the_plans_rolling_hour(plan_limit: int) -> None:
    limit = limit_of(plan_limit)
    assert (limit.name, limit.kind, limit.window_s) == ("requests_per_hour", "rolling", 3600)
    assert (limit.capacity, limit.amount, limit.unit) == (plan_limit, 1, "request")
    assert limit.resets_at is None


def test_a_plan_without_the_limit_is_counted_on_the_same_counter() -> None:
    assert limit_of(None).capacity == UNLIMITED
    assert limit_of(None).key == limit_of(10).key


def test_the_refusal_names_plan_and_limit() -> None:
    refusal = limit_of(10).refusal
    assert (refusal.code, refusal.policy) == ("rate_limit_exceeded", "rate_limit")
    assert "'pro'" in refusal.message
    assert "10 requests" in refusal.message


def test_all_keys_of_a_creator_share_one_counter_and_creators_share_none() -> None:
    ((one,),) = rate_limit.decide(CALL, replace(ACCOUNT, key_id="k1"), NOW)
    ((other,),) = rate_limit.decide(CALL, replace(ACCOUNT, key_id="k2"), NOW)
    assert one.key == other.key == rate_limit.counter_key("ada")
    assert limit_of(10, "ada").key != limit_of(10, "bob").key


def test_a_new_plan_counts_on_the_next_call_on_the_same_counter() -> None:
    before, after = limit_of(10), limit_of(500)
    assert (before.capacity, after.capacity) == (10, 500)
    assert before.key == after.key
