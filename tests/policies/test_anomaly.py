"""What is out of the usual, against the formula in exact fractions, and what must hold whatever the numbers are."""

import statistics
from fractions import Fraction
from math import floor as floored

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.anomaly import Part, Usual, beyond, culprits, judge, threshold, usual

VALUES = st.integers(0, 10**15)
HISTORIES = st.lists(VALUES, min_size=1, max_size=60)
FACTORS = st.integers(1, 100_000)
"""Hundredths."""


def most(history: list[int], *, factor_hundredths: int = 600, floor: int = 0) -> int:
    return threshold(usual(history), factor_hundredths=factor_hundredths, floor=floor)


def is_unusual(value: int, history: list[int], *, factor_hundredths: int = 600, floor: int = 0) -> bool:
    found = judge(value, history, factor_hundredths=factor_hundredths, floor=floor, hours_min=1)
    return found is not None


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param([], Usual(0, 0, 0, 0), id="nothing known"),
        pytest.param([7], Usual(7, 0, 1, 7), id="one hour"),
        pytest.param([3, 1, 2], Usual(2, 1, 3, 2), id="in any order"),
        pytest.param([10, 20, 31, 40], Usual(25, 10, 4, 31), id="the mean of two middle ones, rounded down"),
        pytest.param([10, 10, 10, 1_000], Usual(10, 0, 4, 10), id="one wild hour changes nothing"),
    ],
)
def test_the_usual_is_median_and_median_absolute_deviation(history: list[int], expected: Usual) -> None:
    assert usual(history) == expected


@pytest.mark.parametrize(
    ("history", "value", "unusual"),
    [
        pytest.param([100] * 24, 160, False, id="six tenths above a constant is the last usual one"),
        pytest.param([100] * 24, 161, True, id="and one more is not"),
        pytest.param([100, 10_000] * 12, 10_000, False, id="large by turns"),
        pytest.param([100] * 14 + [10_000] * 10, 10_000, False, id="quiet nights and busy days"),
        pytest.param([100] * 14 + [10_000] * 10, 10_001, True, id="a busier day than any"),
        pytest.param([100] * 22 + [10_000] * 2, 10_000, True, id="two wild hours of a day change nothing"),
        pytest.param([100, 10_000] * 12, 49_084, True, id="5 050 and six times 1.4826 x 4 950 is 49 083.2"),
        pytest.param([80, 90, 100, 110, 120], 188, False, id="100 and six times 1.4826 x 10 is 188.956"),
        pytest.param([80, 90, 100, 110, 120], 189, True, id="the next whole number is above it"),
    ],
)
def test_hours_far_above_the_median_are_unusual(history: list[int], value: int, unusual: bool) -> None:
    assert is_unusual(value, history) is unusual


@given(history=HISTORIES)
def test_the_median_is_the_one_statistics_know_rounded_down(history: list[int]) -> None:
    exact = [Fraction(value) for value in history]
    median = floored(statistics.median(exact))
    deviation = floored(statistics.median([abs(value - median) for value in exact]))
    often = sorted(history)[(len(history) - 1) * 95 // 100]
    assert usual(history) == Usual(median, deviation, len(history), often)


@given(value=VALUES, history=HISTORIES, factor=FACTORS, floor=VALUES)
def test_the_judgement_is_that_of_the_formula_in_exact_fractions(
    value: int, history: list[int], factor: int, floor: int
) -> None:
    median, deviation, _, often = usual(history)
    spread = max(Fraction("1.4826") * deviation, Fraction(median, 10))
    edge = max(Fraction(floor), Fraction(often), median + Fraction(factor, 100) * spread)
    assert is_unusual(value, history, factor_hundredths=factor, floor=floor) is (value > edge)
    just = int(edge)
    assert not is_unusual(just, history, factor_hundredths=factor, floor=floor)
    assert is_unusual(just + 1, history, factor_hundredths=factor, floor=floor)


@given(history=HISTORIES, scale=st.integers(1, 1_000))
def test_what_is_unusual_does_not_depend_on_the_unit(history: list[int], scale: int) -> None:
    before, after = usual(history), usual([scale * value for value in history])
    assert scale * before.median <= after.median <= scale * before.median + scale // 2
    assert abs(after.deviation - scale * before.deviation) <= scale
    if len(history) % 2:  # nothing is rounded
        assert after == Usual(*(scale * figure for figure in before[:2]), before.hours, scale * before.often)
        scaled = most([scale * value for value in history])
        assert scale * most(history) <= scaled < scale * (most(history) + 1)


@given(history=st.lists(VALUES, min_size=4, max_size=60), index=st.integers(0, 59), wild=st.integers(0, 10**18))
def test_one_wild_hour_moves_the_median_by_one_place_at_most(history: list[int], index: int, wild: int) -> None:
    ordered = sorted(history)
    low, high = (len(history) - 1) // 2, len(history) // 2
    changed = list(history)
    changed[index % len(history)] = wild
    assert ordered[low - 1] <= usual(changed).median <= ordered[high + 1]


@given(value=st.integers(90, 110), hours=st.integers(23, 200), wild=st.integers(0, 10**18))
def test_a_wild_hour_does_not_become_the_usual(value: int, hours: int, wild: int) -> None:
    history = [value + offset % 3 for offset in range(hours)]
    assert most([*history, wild]) <= 2 * most(history)
    assert is_unusual(wild, [*history, wild]) is (wild > most([*history, wild]))


@given(history=HISTORIES, factor=FACTORS, floor=VALUES)
def test_the_threshold_is_never_below_the_floor_nor_below_the_median(
    history: list[int], factor: int, floor: int
) -> None:
    found = most(history, factor_hundredths=factor, floor=floor)
    assert found >= floor
    assert found >= usual(history).median
    assert not is_unusual(floor, history, factor_hundredths=factor, floor=floor)


@given(value=VALUES, more=VALUES, history=HISTORIES, factor=FACTORS, floor=VALUES)
def test_a_larger_value_is_never_less_unusual(
    value: int, more: int, history: list[int], factor: int, floor: int
) -> None:
    if is_unusual(value, history, factor_hundredths=factor, floor=floor):
        assert is_unusual(value + more, history, factor_hundredths=factor, floor=floor)


@given(history=HISTORIES, factor=FACTORS, wider=FACTORS, floor=VALUES, higher=VALUES)
def test_a_larger_factor_or_floor_never_lowers_the_threshold(
    history: list[int], factor: int, wider: int, floor: int, higher: int
) -> None:
    before = most(history, factor_hundredths=factor, floor=floor)
    assert most(history, factor_hundredths=factor + wider, floor=floor) >= before
    assert most(history, factor_hundredths=factor, floor=floor + higher) >= before


def test_nothing_is_unusual_before_enough_hours_are_known() -> None:
    known = {"factor_hundredths": 600, "floor": 0, "hours_min": 24}
    assert judge(10**6, [1] * 23, **known) is None
    found = judge(10**6, [1] * 24, **known)
    assert found is not None
    assert (found.value, found.usual, found.threshold) == (10**6, Usual(1, 0, 24, 1), 1)


def test_a_known_usual_is_judged_as_its_history_is() -> None:
    history = [5, 9, 1, 7, 3]
    for value in range(60):
        assert beyond(value, usual(history), factor_hundredths=250, floor=4, hours_min=5) == judge(
            value, history, factor_hundredths=250, floor=4, hours_min=5
        )


# Who made the excess


@pytest.mark.parametrize(
    ("parts", "most", "expected"),
    [
        pytest.param([Part("a", 60, 50), Part("b", 40, 40)], 100, [], id="within what is usual"),
        pytest.param([Part("loud", 900, 10), Part("quiet", 10, 10)], 100, ["loud"], id="the quiet one goes on"),
        pytest.param(
            [Part("large", 1_000, 1_000), Part("grew", 900, 0)], 1_500, ["grew"], id="a part that is always large"
        ),
        pytest.param([Part("a", 80, 0), Part("b", 70, 0), Part("c", 20, 0)], 50, ["a", "b"], id="as few as it takes"),
        pytest.param([Part("b", 80, 0), Part("a", 80, 0)], 80, ["a"], id="equals in the order of their names"),
        pytest.param([Part("a", 50, 90), Part("b", 30, 20)], 40, ["b", "a"], id="one above its usual comes first"),
    ],
)
def test_the_parts_that_make_up_the_excess_are_named(parts: list[Part], most: int, expected: list[str]) -> None:
    assert culprits(parts, most) == expected


@given(
    amounts=st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 1_000)), max_size=12), most=st.integers(0, 5_000)
)
def test_without_the_culprits_the_rest_is_within_the_threshold(amounts: list[tuple[int, int]], most: int) -> None:
    parts = [Part(f"k{index}", value, own) for index, (value, own) in enumerate(amounts)]
    found = culprits(parts, most)
    values = {part.name: part.value for part in parts}
    rest = sum(values.values()) - sum(values[name] for name in found)
    assert rest <= most
    assert len(set(found)) == len(found)
    assert all(values[name] > 0 for name in found)
    if found:
        assert rest + values[found[-1]] > most, "the last one was not needed"
