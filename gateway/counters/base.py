"""The contract of a counter store. One property suite runs on every backend.

What must always hold: in no rolling window are more than `capacity` units admitted; a denied call takes nothing; a hold
ends exactly once; settled and held are two numbers, neither ever negative; `retry_after_s` is the true wait.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from policies.types import Limit, LimitGroup


class LimitState(NamedTuple):
    """One limit right after a decision."""

    limit: Limit
    settled: int
    held: int
    reset_s: float
    """Until the window is empty or the period ends, in seconds; 0 where nothing resets."""

    @property
    def remaining(self) -> int:
        return max(0, self.limit.capacity - self.settled - self.held)


class Taken(NamedTuple):
    """All groups were satisfied: the limit taken of each, in the order of the groups."""

    states: tuple[LimitState, ...]


class Refused(NamedTuple):
    """Nothing was taken. `state` is the limit that did not fit (the last alternative of the first unsatisfied group)."""

    state: LimitState
    retry_after_s: float | None
    """The true wait until the amount fits if nobody else comes; None if it never will (amount above the capacity, or
    money that only a new period or a grant brings back and no time is known)."""
    held_by_others: bool
    """It would fit if the calls in flight had not taken their holds: waiting a moment may help."""


class CounterStore(Protocol):
    async def take(self, hold_id: str, groups: Sequence[LimitGroup]) -> Taken | Refused:
        """Take one limit of every group, or nothing. Amounts are kept under `hold_id` until it ends."""
        ...

    async def settle(self, hold_id: str, actuals: Mapping[str, int]) -> None:
        """End a hold: per limit, `actuals[unit]` (default: the amount taken) becomes settled. A gauge is given back.

        A request unit stays taken whatever the actuals. An unknown or ended `hold_id` changes nothing.
        """
        ...

    async def release(self, hold_id: str) -> None:
        """End a hold that cost nothing: money, tokens and gauges are given back; a request unit is not."""
        ...
