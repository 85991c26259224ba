from dataclasses import replace

from policies import POLICIES, access, decide, quota, rate_limit
from policies.types import UNLIMITED, Deny
from tests.policies.samples import ACCOUNT, CALL, NOW, PLAN


def test_the_order_is_access_then_windows_then_money() -> None:
    assert list(POLICIES) == [access.decide, rate_limit.decide, quota.decide]


def test_the_groups_come_in_the_order_of_the_policies() -> None:
    groups = decide(CALL, ACCOUNT, NOW)
    assert not isinstance(groups, Deny)
    assert [[limit.name for limit in group] for group in groups] == [["requests_per_hour"], ["quota_usd_per_month"]]


def test_the_first_refusal_ends_it() -> None:
    answer = decide(CALL, replace(ACCOUNT, models=frozenset()), NOW)
    assert isinstance(answer, Deny)
    assert answer.code == "model_not_allowed"


def test_an_account_without_limits_is_counted_all_the_same() -> None:
    plan = replace(PLAN, requests_per_hour=None, quota_nano_usd_per_month=None)
    groups = decide(CALL, replace(ACCOUNT, plan=plan), NOW)
    assert isinstance(groups, list)
    assert [limit.capacity for group in groups for limit in group] == [UNLIMITED, UNLIMITED]


def test_what_one_call_was_given_is_not_changed_by_the_next() -> None:
    first = decide(CALL, ACCOUNT, NOW)
    before = list(first)
    assert isinstance(first, list)
    first.clear()
    assert decide(CALL, ACCOUNT, NOW) == before
