"""The contract of a counter store. One property suite runs on every backend.

What must always hold: in no rolling window are more than `capacity` units admitted; a denied call takes nothing; a hold
ends exactly once; settled and held are two numbers, neither ever negative; `retry_after_s` is the true wait.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from gateway.errors import StoreError
from policies.types import Limit, LimitGroup

RETRY_SOON: Mapping[str, str] = {"retry-after": "1"}
"""Headers of an answer that says that nothing can be counted now."""


class CountersUnavailable(StoreError):
    """The store of the counters refuses, is silent, or is being filled anew: nothing can be said of any limit.

    What a `take` that failed so may have taken gives itself back. An ending never raises it: it is kept and done later.
    """


class LimitState(NamedTuple):
    """One limit right after a decision."""

    limit: Limit
    settled: int
    held: int
    reset_s: float
    """Until the window is empty or the period ends, in seconds; 0 where nothing resets."""
    taken: int = 0
    """What this decision took: less than the limit's amount where that may shrink. 0 in a refusal and in `read`."""

    @property
    def remaining(self) -> int:
        return max(0, self.limit.capacity - self.settled - self.held)


class Taken(NamedTuple):
    """All groups were satisfied: the limit taken of each, in the order of the groups."""

    states: tuple[LimitState, ...]


class Refused(NamedTuple):
    """Nothing was taken. `state` is the limit that did not fit: the last alternative of the unsatisfied group that takes
    longest to have room (of several that take equally long, the first)."""

    state: LimitState
    retry_after_s: float | None
    """The true wait until the amount fits if nobody else comes; None if it never will (amount above the capacity, or
    money that only a grant brings back). Where only holds of calls in flight are in the way, a short guess."""
    held_by_others: bool
    """It would fit if the calls in flight had not taken their holds: waiting a moment may help."""
    unsatisfied: tuple[Limit, ...] = ()
    """The last alternative of every group without room, in their order."""


class CounterStore(Protocol):
    async def take(self, hold_id: str, groups: Sequence[LimitGroup]) -> Taken | Refused:
        """Take one limit of every group, or nothing. Amounts are kept under `hold_id` until it ends.

        An amount of 0 always fits. Capacities are those of this call: a changed plan counts at once, what was used stays.
        `amount_min`, `resume_below` and `lapsed` of a limit are part of the same step (see `Limit`).
        Raises `ValueError` when `hold_id` is open already or an amount is negative.
        """
        ...

    @property
    def is_available(self) -> bool:
        """Whether calls would be answered now, as far as is known."""
        ...

    async def settle(self, hold_id: str, actuals: Mapping[str, int], *, account_id: str | None = None) -> None:
        """End a hold: per limit, `actuals[unit]` (default: the amount taken) becomes settled. A gauge is given back.

        A request unit stays taken whatever the actuals. An unknown or ended `hold_id` changes nothing. An actual may be
        above what was held: it is booked in full, the figure is then above the capacity. One below 0 counts as 0.

        An actual counts from when its hold was taken: units of a balance that lapsed while it was open, and that it does
        not use, are gone, whoever was admitted since. `account_id` says whose a hold is that another process took.
        """
        ...

    async def release(self, hold_id: str) -> None:
        """End a hold that cost nothing: money, tokens and gauges are given back; a request unit is not."""
        ...

    async def preview(self, groups: Sequence[LimitGroup]) -> Taken | Refused:
        """What `take` would answer now. Takes nothing, makes no counter and remembers no refusal."""
        ...

    async def adjust(self, key: str, units: int, *, resets_at: float | None = None) -> None:
        """Add `units` to what is settled on a calendar or balance counter; negative ones are given back, never below 0.

        For what is booked without a call: refunds and adjustments. `resets_at` as in the limit, None for a balance.
        """
        ...

    async def read(self, limits: Iterable[Limit]) -> tuple[LimitState, ...]:
        """How `limits` stand now. Takes nothing and makes no counter."""
        ...


class CounterSeeds(Protocol):
    """What the rebuild from the ledger writes before the first call. Each sets a figure: doing it twice is harmless."""

    async def seed_rolling(
        self, key: str, window_s: int, capacity: int, admitted: Iterable[tuple[float, int]], *, unit: str = "request"
    ) -> None:
        """The window holds exactly `admitted`: (age in seconds, units), in any order. `capacity` as in the limit."""
        ...

    async def seed_settled(
        self, key: str, units: int, *, resets_at: float | None = None, is_refused: bool = False
    ) -> None:
        """`units` are settled on a calendar or balance counter; `resets_at` as in the limit, None for a balance.

        `is_refused`: the counter had refused before (`Limit.resume_below`), at the capacity of the next call on it.
        """
        ...


class Counters(CounterStore, CounterSeeds, Protocol):
    """All that a gateway uses of a backend."""

    @property
    def degraded(self) -> str:
        """What is not as it should be, though calls are counted, for people; empty where nothing is."""
        ...

    async def aclose(self) -> None:
        """Leaves no connection or task behind."""
        ...
