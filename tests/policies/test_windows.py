from dataclasses import fields

import pytest

from policies.owners import Owner, creator_owner, key_owner
from policies.types import UNLIMITED, Plan, ProviderLimits, Unit
from policies.windows import WINDOWS, counted, optional_fields, shown

ADA, KEY = creator_owner("ada"), key_owner("k1")
UNITS: list[Unit] = ["request", "token", "call"]
CORE = {"requests_per_hour", "tokens_per_minute", "concurrent_calls"}


def counts(owner: Owner, plan: Plan, provider: str = "openai") -> dict[str, int]:
    return {window.name: window.capacity for unit in UNITS for window in counted(unit, owner, plan, provider)}


def shows(owner: Owner, plan: Plan) -> dict[str, int]:
    return {window.name: window.capacity for unit in UNITS for window in shown(unit, owner, plan)}


def test_the_table_and_the_plan_know_the_same_fields() -> None:
    assert set(WINDOWS) == {field.name for field in fields(ProviderLimits)}
    assert set(WINDOWS) <= {field.name for field in fields(Plan)}
    assert {field for field, window in WINDOWS.items() if window.is_core} == CORE


@pytest.mark.parametrize("field", WINDOWS)
def test_a_windows_name_says_its_unit_and_length(field: str) -> None:
    window = WINDOWS[field]
    assert window.field == field
    if field == "concurrent_calls":
        assert (window.unit, window.window_s) == ("call", 0)
        return
    unit, _, length = field.partition("s_per_")
    assert (window.unit, window.window_s) == (unit, {"minute": 60, "hour": 3_600, "day": 86_400}[length])


def test_a_plan_without_limits_counts_the_core_for_creators_and_nothing_for_keys() -> None:
    assert counts(ADA, Plan("p")) == dict.fromkeys(CORE, UNLIMITED)
    assert counts(KEY, Plan("p")) == {}


@pytest.mark.parametrize("field", WINDOWS)
@pytest.mark.parametrize("capacity", [0, 7])
def test_what_a_plan_sets_counts_with_its_capacity(field: str, capacity: int) -> None:
    plan = Plan("p", **{field: capacity})  # type: ignore[arg-type]
    assert counts(ADA, plan) == dict.fromkeys(CORE, UNLIMITED) | {field: capacity}
    assert counts(KEY, plan) == {f"key_{field}": capacity}


@pytest.mark.parametrize("field", WINDOWS)
def test_what_a_plan_sets_for_a_provider_counts_for_calls_to_it_only(field: str) -> None:
    plan = Plan("p", providers={"openai": ProviderLimits(**{field: 7})})
    assert counts(ADA, plan) == dict.fromkeys(CORE, UNLIMITED) | {f"openai_{field}": 7}
    assert counts(KEY, plan) == {f"key_openai_{field}": 7}
    assert counts(ADA, plan, "mock") == dict.fromkeys(CORE, UNLIMITED)
    assert counts(KEY, plan, "mock") == {}


def test_what_another_plan_of_the_file_sets_is_counted_for_creators_without_limit() -> None:
    plan = Plan("p", counted=frozenset({"requests_per_day", "openai/tokens_per_minute"}))
    assert counts(ADA, plan) == dict.fromkeys(CORE | {"requests_per_day", "openai_tokens_per_minute"}, UNLIMITED)
    assert counts(ADA, plan, "mock") == dict.fromkeys(CORE | {"requests_per_day"}, UNLIMITED)
    assert counts(KEY, plan) == {}


def test_what_is_both_set_and_counted_is_there_once() -> None:
    plan = Plan("p", requests_per_day=5, counted=frozenset({"requests_per_day", "requests_per_hour"}))
    found = [window.name for unit in UNITS for window in counted(unit, ADA, plan, "openai")]
    assert sorted(found) == sorted([*CORE, "requests_per_day"])
    assert counts(ADA, plan)["requests_per_day"] == 5


def test_shown_is_what_is_set_and_the_core_of_a_creator() -> None:
    """What is counted only because another plan sets it means nothing to the creator."""
    plan = Plan(
        "p",
        tokens_per_day=9,
        providers={"openai": ProviderLimits(requests_per_minute=1), "mock": ProviderLimits(concurrent_calls=0)},
        counted=frozenset({"requests_per_day", "openai/tokens_per_minute", "mock/requests_per_day"}),
    )
    own = {"tokens_per_day": 9, "openai_requests_per_minute": 1, "mock_concurrent_calls": 0}
    assert shows(ADA, plan) == dict.fromkeys(CORE, UNLIMITED) | own
    assert shows(KEY, plan) == {f"key_{name}": capacity for name, capacity in own.items()}


def test_optional_fields_are_named_as_plans_count_them() -> None:
    plan = Plan(
        "p",
        requests_per_hour=1,
        tokens_per_minute=1,
        concurrent_calls=1,
        requests_per_minute=0,
        tokens_per_day=5,
        providers={"openai": ProviderLimits(requests_per_hour=1, concurrent_calls=2), "mock": ProviderLimits()},
    )
    names = {"requests_per_minute", "tokens_per_day", "openai/requests_per_hour", "openai/concurrent_calls"}
    assert optional_fields(plan) == names
    assert optional_fields(Plan("p")) == frozenset()
    others = Plan("q", counted=optional_fields(plan))
    assert counts(ADA, others).keys() == counts(ADA, plan).keys()
