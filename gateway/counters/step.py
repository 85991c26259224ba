"""What the counters in memory share: one step of the store, and what a hold remembers of it."""

from typing import TYPE_CHECKING, NamedTuple, Protocol

from policies.types import Limit

if TYPE_CHECKING:
    from gateway.counters.tally import Tally

__all__ = ["HELD_RETRY_S", "Before", "Ending", "Step", "negative_amount"]

HELD_RETRY_S = 1.0
"""Calls in flight end when they end; this is how soon asking again makes sense."""


class Ending(Protocol):
    """Where units are until the call that took them has ended."""

    def end(self, taken: int, actual: int) -> None:
        """`actual` units were used in place of those `taken`."""
        ...


class Before(NamedTuple):
    """What a step changed of a tally beside taking an amount, so that it can be put back."""

    raised_by: int
    """Units that lapsed and became settled."""
    refused_at: float | None
    """The refusal it remembered until then."""
    lapsed: int
    is_new_era: bool
    had_eras: bool


class Step:
    """One decision: when it is made, what has to be ended later, and what else has to be put back if it fails."""

    __slots__ = ("changes", "kept_counters", "now", "parts", "wall")

    def __init__(self, now: float, wall: float) -> None:
        self.now = now
        self.wall = wall
        self.kept_counters = 0
        """How many counters there were before it made new ones."""
        self.parts: list[tuple[Ending, int, str]] = []
        """Where units were taken, how many, and their unit: the hold."""
        self.changes: list[tuple[Tally, Before]] = []
        """Tallies on which more than an amount was changed."""


def negative_amount(limit: Limit) -> ValueError:
    return ValueError(f"limit {limit.name} would take {limit.amount}")
