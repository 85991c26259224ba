from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import budget
from policies.owners import creator_owner, key_owner
from policies.types import UNLIMITED, Account, BudgetAction, Call, DowngradeChoice, Limit
from tests.policies.samples import ACCOUNT, CALL, NOW, USD, names, on_plan, with_key_limits

SOFT, HARD = 40 * USD, 60 * USD


def capped(
    action: BudgetAction = "downgrade", soft: int | None = SOFT, hard: int | None = HARD, **others: object
) -> Account:
    return on_plan(
        budget_nano_usd_per_month=soft,
        budget_hard_nano_usd_per_month=hard,
        when_budget_reached=action,
        **others,
    )


def limits(account: Account, call: Call = CALL, now: datetime = NOW) -> list[Limit]:
    return [limit for (limit,) in budget.decide(call, account, now)]


def asking(downgrade: DowngradeChoice) -> Call:
    return CALL._replace(downgrade=downgrade, cost_min_nano_usd=250)


def test_the_soft_budget_counts_the_expected_cost_and_the_hard_one_the_worst_case() -> None:
    soft, hard = limits(capped("downgrade_then_deny"), asking("possible"))
    assert [(limit.kind, limit.unit) for limit in (soft, hard)] == [("calendar", "cost_nano_usd")] * 2
    assert (soft.name, soft.amount, soft.amount_min) == ("budget_usd_per_month", 700, None)
    assert (hard.name, hard.amount, hard.amount_min) == ("budget_hard_usd_per_month", 1_000, 250)
    assert soft.key == budget.counter_key(creator_owner("ada"), "2025-06")
    assert hard.key == budget.hard_counter_key(creator_owner("ada"), "2025-06")


def test_a_hold_that_may_not_shrink_is_all_or_nothing() -> None:
    assert limits(capped("deny"), CALL)[1].amount_min is None


@pytest.mark.parametrize(
    ("action", "downgrade", "soft_cap", "hard_cap", "downgrades"),
    [
        pytest.param("downgrade", "possible", SOFT, UNLIMITED, True, id="downgrade"),
        pytest.param("downgrade", "impossible", UNLIMITED, UNLIMITED, False, id="downgrade, no cheaper model"),
        pytest.param("downgrade", "refused", SOFT, UNLIMITED, False, id="downgrade, ruled out"),
        pytest.param("downgrade_then_deny", "possible", SOFT, HARD, True, id="then deny"),
        pytest.param("downgrade_then_deny", "impossible", UNLIMITED, HARD, False, id="then deny, no cheaper model"),
        pytest.param("downgrade_then_deny", "refused", SOFT, HARD, False, id="then deny, ruled out"),
        pytest.param("deny", "possible", UNLIMITED, SOFT, False, id="deny"),
        pytest.param("deny", "impossible", UNLIMITED, SOFT, False, id="deny, no cheaper model"),
        pytest.param("deny", "refused", UNLIMITED, SOFT, False, id="deny, ruled out"),
    ],
)
def test_the_plan_says_which_budget_speaks(
    action: BudgetAction, downgrade: DowngradeChoice, soft_cap: int, hard_cap: int, downgrades: bool
) -> None:
    soft, hard = limits(capped(action), asking(downgrade))
    assert (soft.capacity, hard.capacity) == (soft_cap, hard_cap)
    assert (soft.downgrades, hard.downgrades) == (downgrades, False)
    assert soft.resume_below == (None if soft_cap == UNLIMITED else 36 * USD)
    assert hard.resume_below is None


@pytest.mark.parametrize("action", ["downgrade", "downgrade_then_deny", "deny"])
def test_a_plan_without_budgets_counts_both(action: BudgetAction) -> None:
    """A plan that has one may count on the next call, and then the month's cost must be known."""
    free = limits(capped(action, None, None))
    assert [limit.capacity for limit in free] == [UNLIMITED, UNLIMITED]
    assert [limit.resume_below for limit in free] == [None, None]
    assert not any(limit.downgrades for limit in free)
    assert [limit.key for limit in free] == [limit.key for limit in limits(capped(action))]
    assert [limit.amount for limit in free] == [700, 1_000]


@given(st.integers(min_value=0, max_value=10**18))
def test_a_downgraded_creator_comes_back_below_nine_tenths_of_the_cap(cap: int) -> None:
    soft, _ = limits(capped(soft=cap))
    assert soft.capacity == cap
    assert soft.resume_below is not None
    assert 0 <= 9 * cap - 10 * soft.resume_below < 10


def test_a_cap_of_zero_downgrades_from_the_first_call() -> None:
    soft, _ = limits(capped(soft=0))
    assert (soft.capacity, soft.resume_below, soft.downgrades) == (0, 0, True)
    _, hard = limits(capped("deny", soft=0))
    assert hard.capacity == 0


def test_refusals_name_plan_and_cap() -> None:
    soft, hard = (limit.refusal for limit in limits(capped("downgrade_then_deny")))
    assert {(refusal.code, refusal.policy) for refusal in (soft, hard)} == {("insufficient_quota", "budget")}
    assert soft.message == "The monthly budget of plan 'pro', 40 USD, does not cover this request."
    assert "60 USD, is a hard cap" in hard.message
    assert "40 USD, is a hard cap" in limits(capped("deny"))[1].refusal.message


def test_a_caller_who_ruled_a_cheaper_model_out_is_told_so() -> None:
    soft, _ = limits(capped(), asking("refused"))
    assert "cheaper model" in soft.refusal.message
    assert "cheaper model" not in limits(capped(), asking("possible"))[0].refusal.message


def test_a_keys_own_budgets_come_beside_the_creators_on_its_own_counters() -> None:
    account = with_key_limits(
        capped("downgrade_then_deny"), budget_nano_usd_per_month=2 * USD, budget_hard_nano_usd_per_month=3 * USD
    )
    groups = budget.decide(asking("possible"), account, NOW)
    assert names(groups) == [
        ["budget_usd_per_month"],
        ["budget_hard_usd_per_month"],
        ["key_budget_usd_per_month"],
        ["key_budget_hard_usd_per_month"],
    ]
    soft, hard = (limit for (limit,) in groups[2:])
    assert (soft.capacity, soft.amount, soft.resume_below, soft.downgrades) == (2 * USD, 700, 1_800_000_000, True)
    assert (hard.capacity, hard.amount, hard.amount_min) == (3 * USD, 1_000, 250)
    assert soft.key == budget.counter_key(key_owner("k1"), "2025-06")
    assert hard.key == budget.hard_counter_key(key_owner("k1"), "2025-06")
    assert "this virtual key" in soft.refusal.message


def test_what_happens_at_a_keys_budget_is_for_the_merged_plan_to_say() -> None:
    account = with_key_limits(capped("deny"), budget_nano_usd_per_month=2 * USD)
    assert account.key_plan is not None
    assert account.key_plan.when_budget_reached == "downgrade"
    *_, soft, hard = limits(account)
    assert (soft.capacity, hard.capacity) == (UNLIMITED, 2 * USD)


def test_a_key_without_own_budget_adds_none() -> None:
    account = with_key_limits(capped(), requests_per_hour=1, quota_nano_usd_per_month=1)
    assert limits(account) == limits(capped())


@pytest.mark.parametrize(
    ("now", "month"),
    [
        pytest.param(datetime(2025, 6, 30, 23, 59, 59, 999_999, UTC), "2025-06", id="30 days"),
        pytest.param(datetime(2024, 2, 29, 23, 59, 59, 999_999, UTC), "2024-02", id="leap day"),
        pytest.param(datetime(2025, 12, 31, 23, 59, 59, 999_999, UTC), "2025-12", id="year end"),
        pytest.param(datetime(2026, 1, 1, tzinfo=UTC), "2026-01", id="first instant"),
    ],
)
def test_a_call_belongs_to_the_month_of_its_admission(now: datetime, month: str) -> None:
    soft, hard = limits(capped(), now=now)
    assert (soft.key, hard.key) == (f"budget:c/ada/{month}", f"budget_hard:c/ada/{month}")
    following = (now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert soft.resets_at == hard.resets_at == following.timestamp()


@given(
    st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),  # noqa: DTZ001
    st.integers(min_value=-14 * 60, max_value=14 * 60),
)
def test_the_zone_an_instant_is_told_in_changes_nothing(naive: datetime, offset_min: int) -> None:
    now = naive.replace(tzinfo=UTC)
    assert limits(capped(), now=now.astimezone(timezone(timedelta(minutes=offset_min)))) == limits(capped(), now=now)


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        limits(capped(), now=datetime(2025, 1, 1))  # noqa: DTZ001


def test_creators_share_no_budget() -> None:
    bobs = limits(replace(ACCOUNT, creator="bob"))
    assert not {limit.key for limit in bobs} & {limit.key for limit in limits(ACCOUNT)}


def test_the_overview_shows_the_creators_caps_and_those_a_key_has() -> None:
    account = with_key_limits(capped(), budget_nano_usd_per_month=2 * USD)
    shown = budget.overview(account, NOW)
    assert [(limit.name, limit.capacity, limit.amount) for limit in shown] == [
        ("budget_usd_per_month", SOFT, 0),
        ("budget_hard_usd_per_month", UNLIMITED, 0),
        ("key_budget_usd_per_month", 2 * USD, 0),
    ]
    assert shown[0].resume_below == 36 * USD
    assert [limit.key for limit in shown] == [limit.key for limit in limits(account)[:3]]
