"""Whether an hour is out of the usual: median and median absolute deviation of earlier hours, and what lies far above.

Both stay where they are when a few hours go wild, so that yesterday's accident does not become today's usual. An hour is
unusual when its value is above

    max(floor, often, median + factor x max(1.4826 x deviation, median / 10))

`often` is what one hour in twenty is above: where most hours are quiet and some are busy, as they are every day, the busy
ones are no accident. 1.4826 makes the deviation of normally distributed values their standard deviation. A tenth of the
median stands in where nearly every hour was the same, and the floor keeps small numbers from crying wolf. Integers only:
the sum is made in millionths and rounded down, which changes no judgement, as a whole number is above it if and only if it
is above the whole part of it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Judgement", "Part", "Usual", "beyond", "culprits", "judge", "threshold", "usual"]

_TEN_THOUSANDTHS_A_DEVIATION = 14_826
_TEN_THOUSANDTHS_OF_MEDIAN = 1_000
_OFTEN_PERCENT = 95
_MILLION = 100 * 10_000
"""A factor in hundredths times a spread in ten-thousandths."""


class Usual(NamedTuple):
    """What earlier hours were like, in the unit of their values."""

    median: int
    deviation: int
    """Median absolute deviation from the median."""
    hours: int
    """How many hours it is of."""
    often: int = 0
    """The 95th percentile."""


class Judgement(NamedTuple):
    """An hour out of the usual, with the figures that made it so."""

    value: int
    usual: Usual
    threshold: int
    """The largest value that would not have been unusual."""


class Part(NamedTuple):
    """What one of several had of an hour's value."""

    name: str
    value: int
    usual: int
    """Its own median."""


def usual(history: Sequence[int]) -> Usual:
    """Median and deviation of `history`, whose values are 0 or more, in any order; zeros for none.

    Of an even number of values the median is the mean of the two middle ones, rounded down. The lower one alone would
    make the deviation of hours that are small and large by turns 0, and every large one unusual.
    """
    median = _median(history)
    deviation = _median([abs(value - median) for value in history])
    often = sorted(history)[(len(history) - 1) * _OFTEN_PERCENT // 100] if history else 0
    return Usual(median, deviation, len(history), often)


def threshold(usual: Usual, *, factor_hundredths: int, floor: int) -> int:
    """The largest value that is not unusual; never below `floor`."""
    spread = max(_TEN_THOUSANDTHS_A_DEVIATION * usual.deviation, _TEN_THOUSANDTHS_OF_MEDIAN * usual.median)
    return max(floor, usual.often, usual.median + factor_hundredths * spread // _MILLION)


def beyond(value: int, usual: Usual, *, factor_hundredths: int, floor: int, hours_min: int) -> Judgement | None:
    """The judgement on `value` if it is unusual, else None; with fewer than `hours_min` hours nothing is."""
    if usual.hours < hours_min:
        return None
    most = threshold(usual, factor_hundredths=factor_hundredths, floor=floor)
    return Judgement(value, usual, most) if value > most else None


def judge(
    value: int, history: Sequence[int], *, factor_hundredths: int, floor: int, hours_min: int
) -> Judgement | None:
    """`beyond` of the hours in `history`: those before it that had calls. Idle hours are the caller's to leave out."""
    return beyond(value, usual(history), factor_hundredths=factor_hundredths, floor=floor, hours_min=hours_min)


def culprits(parts: Iterable[Part], most: int) -> list[str]:
    """The names of those that make up the excess: without them the rest adds up to at most `most`.

    Whoever is furthest above its own usual comes first, so that a part that is always large is not taken for the one that
    grew; among equals the larger one. None when all of them together are within `most`.
    """
    ordered = sorted(parts, key=lambda part: (part.usual - part.value, -part.value, part.name))
    rest = sum(part.value for part in ordered)
    found = []
    for part in ordered:
        if rest <= most:
            break
        if part.value > 0:
            found.append(part.name)
            rest -= part.value
    return found


def _median(values: Sequence[int]) -> int:
    if not values:
        return 0
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) // 2
