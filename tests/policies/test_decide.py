import ast
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policies
from policies import POLICIES, access, budget, concurrency, decide, overview, payer, rate_limit, token_rate
from policies.types import UNLIMITED, Account, Deny, LimitGroup, Plan, PromoGrant, ProviderLimits
from tests.policies.samples import ACCOUNT, CALL, IMAGES, NOW, PLAN, USD, groups_of, names, on_plan, with_key_limits

EVERYTHING = replace(
    with_key_limits(
        on_plan(
            requests_per_minute=1,
            tokens_per_day=2,
            concurrent_calls=3,
            budget_nano_usd_per_month=4 * USD,
            free_images_per_day=5,
            payers=("free_images", "promo_credits", "credits", "quota"),
            providers={"openai": ProviderLimits(6, 7, 8, 9, 10, 11)},
        ),
        requests_per_hour=12,
        tokens_per_minute=13,
        concurrent_calls=14,
        quota_nano_usd_per_month=15,
        budget_nano_usd_per_month=16,
    ),
    credits_granted=17,
    promo_grants=(PromoGrant(18, None), PromoGrant(19, 0.0)),
)


def asked(account: Account, now: datetime = NOW) -> list[LimitGroup]:
    """What a call for images is asked for."""
    return groups_of(decide(IMAGES, account, now))


def test_the_order_is_access_then_windows_then_places_then_money() -> None:
    assert list(POLICIES) == [access, rate_limit, token_rate, concurrency, payer, budget]


def test_the_groups_come_in_the_order_of_the_policies() -> None:
    assert names(decide(CALL, ACCOUNT, NOW)) == [
        ["requests_per_hour"],
        ["tokens_per_minute"],
        ["concurrent_calls"],
        ["quota_usd_per_month"],
        ["budget_usd_per_month"],
        ["budget_hard_usd_per_month"],
    ]


@pytest.mark.parametrize(
    ("account", "code"),
    [
        pytest.param(replace(on_plan(payers=()), models=frozenset()), "model_not_allowed", id="access before payer"),
        pytest.param(on_plan(payers=()), "insufficient_quota", id="no payer"),
    ],
)
def test_the_first_refusal_ends_it(account: Account, code: str) -> None:
    answer = decide(IMAGES, account, NOW)
    assert isinstance(answer, Deny)
    assert answer.code == code


def test_an_account_without_limits_is_counted_all_the_same() -> None:
    account = replace(ACCOUNT, plan=Plan(name="open"))
    groups = groups_of(decide(CALL, account, NOW))
    assert [limit.capacity for group in groups for limit in group] == [UNLIMITED] * 6


def test_what_one_call_was_given_is_not_changed_by_the_next() -> None:
    first = decide(IMAGES, EVERYTHING, NOW)
    assert isinstance(first, list)
    before = list(first)
    first.clear()
    assert decide(IMAGES, EVERYTHING, NOW) == before


def test_an_equal_account_built_anew_gets_the_same_answer() -> None:
    """The authenticator reads accounts again and again; what is kept between calls must not depend on which object."""
    again = replace(EVERYTHING, plan=replace(EVERYTHING.plan))
    assert asked(again) == asked(EVERYTHING)


def test_two_plans_of_one_name_are_two_plans() -> None:
    """As when an admin reloads the plans file or changes an override."""
    tighter = replace(ACCOUNT, plan=replace(PLAN, requests_per_hour=1, quota_nano_usd_per_month=2, concurrent_calls=3))
    for account in (ACCOUNT, tighter, ACCOUNT):
        limits = {limit.name: limit.capacity for group in asked(account) for limit in group}
        assert limits["requests_per_hour"] == account.plan.requests_per_hour
        assert limits["concurrent_calls"] == (account.plan.concurrent_calls or UNLIMITED)


def test_no_limit_of_a_call_shares_a_counter_with_another() -> None:
    limits = [limit for group in asked(EVERYTHING) for limit in group]
    assert len({limit.key for limit in limits}) == len({limit.name for limit in limits}) == len(limits)


@given(st.integers(min_value=-14 * 60, max_value=14 * 60), st.datetimes(datetime(2020, 1, 2), datetime(2030, 1, 1)))  # noqa: DTZ001
def test_the_zone_an_instant_is_told_in_changes_nothing(offset_min: int, naive: datetime) -> None:
    elsewhere = timezone(timedelta(minutes=offset_min))
    now = naive.replace(tzinfo=NOW.tzinfo)
    assert asked(EVERYTHING, now.astimezone(elsewhere)) == asked(EVERYTHING, now)
    assert overview(EVERYTHING, now.astimezone(elsewhere)) == overview(EVERYTHING, now)


def test_the_overview_of_a_plan_without_limits_shows_the_core() -> None:
    limits = overview(replace(ACCOUNT, plan=Plan(name="open")), NOW)
    assert {limit.name: limit.capacity for limit in limits} == {
        "requests_per_hour": UNLIMITED,
        "tokens_per_minute": UNLIMITED,
        "concurrent_calls": UNLIMITED,
        "free_images_per_day": 0,
        "promo_credits": 0,
        "credits": 0,
        "quota_usd_per_month": UNLIMITED,
        "budget_usd_per_month": UNLIMITED,
        "budget_hard_usd_per_month": UNLIMITED,
    }


def test_the_overview_leaves_out_what_only_other_plans_limit() -> None:
    account = on_plan(counted=frozenset({"requests_per_day", "tokens_per_day", "openai/concurrent_calls"}))
    assert overview(account, NOW) == overview(ACCOUNT, NOW)
    assert len(asked(account)) == len(asked(ACCOUNT)) + 3


def test_the_overview_reads_the_counters_that_calls_take_from() -> None:
    """All of them, and as they are: only the amount differs."""
    taken = {limit.key: limit for group in asked(EVERYTHING) for limit in group}
    shown = {limit.key: limit for limit in overview(EVERYTHING, NOW)}
    for key, limit in shown.items():
        assert limit == taken[key]._replace(amount=0)
    assert {taken[key].capacity for key in taken.keys() - shown.keys()} == {UNLIMITED}


def test_policies_read_no_clock_and_wait_for_nothing() -> None:
    allowed = {
        "bisect", "calendar", "collections", "dataclasses", "datetime", "functools", "ipaddress", "itertools", "math",
        "policies", "typing",
    }  # fmt: skip
    for path in Path(policies.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith), path.name
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, path.name
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] in allowed, path.name
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"now", "utcnow", "today"}, path.name
