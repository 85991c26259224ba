"""What is written down about a decision is read again as it was, with names."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.counters.base import LimitState
from gateway.decision import Step, decision_json, decision_text
from policies.types import UNLIMITED, Deny, Limit

NO = Deny("insufficient_quota", "No.", "quota")
ESTIMATE = (1_000, 900, 300, 55, 5)
COUNTS = st.integers(0, 2**62)
NAMES = st.text(max_size=30)


def state(name: str = "quota_usd_per_month", capacity: int = 500, settled: int = 7, held: int = 3) -> LimitState:
    return LimitState(Limit(name, "key", "calendar", capacity, 2, "nano_usd", NO), settled, held, 12.5, 2)


def test_an_undisturbed_call_keeps_its_limits_and_its_estimate() -> None:
    found = decision_json(decision_text([state()], ESTIMATE))
    assert found == {
        "limits": [{"name": "quota_usd_per_month", "unit": "nano_usd", "limit": 500, "used": 7, "held": 3, "taken": 2}],
        "estimate": {
            "worst_cost_nano_usd": 1_000,
            "worst_charge_nano_usd": 900,
            "expected_cost_nano_usd": 300,
            "input_and_output_tokens": 55,
            "hold_nano_usd": 5,
        },
        "downgrades": [],
        "clamped_to_tokens": None,
        "overruled_limits": [],
    }


def test_each_downgrade_is_told_with_the_limit_as_it_stood() -> None:
    steps = [Step("big", "middle", "budget_usd_per_month", 90, 8, 100), Step("middle", "small", "key_budget", 1, 2, 3)]
    found = decision_json(decision_text([state()], ESTIMATE, steps))
    assert found is not None
    assert found["downgrades"] == [
        {
            "from_model": "big",
            "to_model": "middle",
            "limit_name": "budget_usd_per_month",
            "used": 90,
            "held": 8,
            "limit": 100,
        },
        {"from_model": "middle", "to_model": "small", "limit_name": "key_budget", "used": 1, "held": 2, "limit": 3},
    ]


def test_a_clamp_and_overruled_limits_are_told() -> None:
    found = decision_json(decision_text([], ESTIMATE, (), 256, ("requests_per_hour", "credits")))
    assert found is not None
    assert (found["clamped_to_tokens"], found["overruled_limits"]) == (256, ["requests_per_hour", "credits"])


def test_limits_without_a_capacity_are_left_out_but_for_the_budget() -> None:
    kept = [state("budget_usd_per_month", UNLIMITED), state("credits", 0)]
    found = decision_json(decision_text([state(capacity=UNLIMITED), *kept], ESTIMATE))
    assert found is not None
    assert [(limit["name"], limit["limit"]) for limit in found["limits"]] == [
        ("budget_usd_per_month", None),
        ("credits", 0),
    ]


def test_an_entry_without_a_decision_has_none() -> None:
    assert decision_json("") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"limits":[["name"]],"estimate":[1,2,3,4]}'])
def test_what_is_no_decision_is_not_read_as_one(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        decision_json(text)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(NAMES, st.integers(0, UNLIMITED - 1), COUNTS, COUNTS), max_size=5),
    st.tuples(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS),
    st.lists(st.builds(Step, NAMES, NAMES, NAMES, COUNTS, COUNTS, COUNTS), max_size=3),
    st.none() | st.integers(1, 10**6),
    st.lists(NAMES, max_size=3),
)
def test_every_decision_comes_back_as_it_was(
    limits: list[tuple[str, int, int, int]],
    estimate: tuple[int, int, int, int, int],
    steps: list[Step],
    clamped_to: int | None,
    overruled: list[str],
) -> None:
    text = decision_text([state(*limit) for limit in limits], estimate, steps, clamped_to, overruled)
    assert orjson.loads(text)
    found = decision_json(text)
    assert found is not None
    assert [(row["name"], row["limit"], row["used"], row["held"]) for row in found["limits"]] == limits
    assert tuple(found["estimate"].values()) == estimate
    assert [tuple(step.values()) for step in found["downgrades"]] == [tuple(step) for step in steps]
    assert (found["clamped_to_tokens"], found["overruled_limits"]) == (clamped_to, overruled)
