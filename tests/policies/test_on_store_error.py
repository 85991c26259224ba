"""What becomes of limits while their store is away stands on each of them, as the plan says it."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from policies import decide, overview
from policies.types import LIMITED_BY, Account, LimitedBy, OnStoreError
from tests.policies.samples import CALL, IMAGES, NOW, on_plan, with_key_limits

NAMES: dict[LimitedBy, set[str]] = {
    "rate_limit": {"requests_per_hour", "key_requests_per_hour"},
    "token_rate": {"tokens_per_minute", "key_tokens_per_minute"},
    "concurrency": {"concurrent_calls", "key_concurrent_calls"},
    "free_images": {"free_images_per_day"},
    "promo_credits": {"promo_credits"},
    "credits": {"credits"},
    "quota": {"quota_usd_per_month", "key_quota_usd_per_month"},
    "budget": {
        "budget_usd_per_month",
        "budget_hard_usd_per_month",
        "key_budget_usd_per_month",
        "key_budget_hard_usd_per_month",
    },
}


def account(on_store_error: Mapping[LimitedBy, OnStoreError]) -> Account:
    plan = on_plan(payers=("free_images", "promo_credits", "credits", "quota"), on_store_error=on_store_error)
    return with_key_limits(
        plan,
        requests_per_hour=1,
        tokens_per_minute=1,
        concurrent_calls=1,
        quota_nano_usd_per_month=1,
        budget_nano_usd_per_month=1,
    )


def said(of: Account) -> dict[str, OnStoreError]:
    """By the names of all limits of a call."""
    groups = decide(IMAGES, of, NOW)
    assert isinstance(groups, list)
    asked = {limit.name: limit.on_store_error for group in groups for limit in group}
    assert {(limit.name, limit.on_store_error) for limit in overview(of, NOW)} <= asked.items()
    return asked


def test_every_limit_is_shared_out_where_a_plan_says_nothing() -> None:
    assert said(account({})) == dict.fromkeys(set().union(*NAMES.values()), "local_share")


@pytest.mark.parametrize("limited_by", LIMITED_BY)
def test_a_word_of_the_plan_is_about_its_own_limits_and_those_of_keys(limited_by: LimitedBy) -> None:
    asked = said(account({limited_by: "deny"}))
    assert {name for name, action in asked.items() if action == "deny"} == NAMES[limited_by]


def test_a_changed_word_counts_on_the_next_call() -> None:
    """Plans are hashed by name, and what depends on them is remembered."""
    before = account({"rate_limit": "deny"})
    for action in ("deny", "allow"):
        plan = replace(before.plan, on_store_error={"rate_limit": action})
        groups = decide(CALL, replace(before, plan=plan), NOW)
        assert isinstance(groups, list)
        assert groups[0][0].on_store_error == action
