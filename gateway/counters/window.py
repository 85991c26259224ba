"""A rolling window in memory: a queue of slices, each with its units and the instant at which it leaves the window.

Up to 512 requests a window each admission instant is a slice of its own: exact. Above, and for tokens, the slices are
the 60 sub-buckets of the window; one counts until it is wholly outside, so the limit is never passed and room comes back
at most a sixtieth of the window late. The queue is the same for both, so a plan change only affects what comes.
"""

from collections import deque
from collections.abc import Iterable
from math import inf, nextafter

from gateway.counters.base import LimitState
from gateway.counters.step import HELD_RETRY_S, Step, negative_amount
from policies.types import Limit

__all__ = ["Window", "leaves_at"]

EXACT_REQUESTS_MAX = 512
BUCKETS = 60
# A NamedTuple's own constructor takes twice as long as the tuple's, and every call makes one per limit.
_made = tuple.__new__


class Slice:
    """Units of a window that leave it together."""

    __slots__ = ("awaited", "held", "leaves_at", "units", "window")

    def __init__(self, window: "Window", leaves_at: float, units: int, held: int) -> None:
        self.window: Window | None = window
        """None once it has left."""
        self.leaves_at = leaves_at
        self.units = units
        self.held = held
        """The part of `units` whose calls have not ended."""
        self.awaited = 0
        """Calls that took no units and have not ended: they may still have used some."""

    def end(self, taken: int, actual: int) -> None:
        """Correct what was taken where it was taken. What has left the window already is past correcting."""
        window = self.window
        if window is None:
            return
        if taken == 0:
            self.awaited -= 1
        self.held -= taken
        window.held -= taken
        self.units += actual - taken
        window.used += actual - taken
        if not self.units:
            window.trim()


class Window:
    __slots__ = ("held", "slices", "used")

    def __init__(self) -> None:
        self.slices: deque[Slice] = deque()
        self.used = 0
        self.held = 0

    def take(self, limit: Limit, step: Step) -> LimitState | None:
        """How `limit` stands after its amount was taken; None, and nothing taken, where it does not fit."""
        now = step.now
        slices = self.slices
        if slices and slices[0].leaves_at <= now:
            self._forget_past(now)
        amount = limit.amount
        unit = limit.unit
        capacity = limit.capacity
        if amount <= 0:
            if amount < 0:
                raise negative_amount(limit)
            if unit == "request":
                return self.state(limit, step)
        elif self.used + amount > capacity:
            return None
        held = 0 if unit == "request" else amount
        # Most calls fall into the bucket of the call before: a slice that leaves later than an exact one made now would
        # is the bucket that has not ended.
        if slices and (piece := slices[-1]).leaves_at > now + limit.window_s:
            self.used += amount
            self.held += held
            piece.units += amount
            piece.held += held
        else:
            piece = self._add(leaves_at(now, limit.window_s, capacity, unit), amount, held)
        if unit != "request":  # a request is never corrected, so there is nothing to remember
            if amount == 0:
                piece.awaited += 1
            step.parts.append((piece, amount, unit))
        return _made(LimitState, (limit, self.used - self.held, self.held, piece.leaves_at - now, amount))

    def undo(self, limit: Limit, taken: int) -> None:
        """Take back what `take` has just added; nothing came in between, so it is in the newest slice."""
        if limit.unit != "request":
            self.slices[-1].end(taken, 0)
        elif taken:
            self.used -= taken
            self.slices[-1].units -= taken
            self.trim()

    def state(self, limit: Limit, step: Step) -> LimitState:
        self._forget_past(step.now)
        reset_s = self.slices[-1].leaves_at - step.now if self.slices else 0.0
        return LimitState(limit, self.used - self.held, self.held, reset_s)

    def wait(self, limit: Limit, step: Step) -> tuple[float, bool] | None:
        """How long until the amount fits, infinite for never, and whether only holds are in the way; None if it fits."""
        now = step.now
        self._forget_past(now)
        missing = self.used + limit.amount - limit.capacity
        if missing <= 0 or limit.amount == 0:
            return None
        if limit.amount > limit.capacity:
            return inf, False
        instant = now
        for piece in self.slices:
            if missing <= 0:
                break
            missing -= piece.units
            instant = piece.leaves_at
        wait_s = instant - now
        if now + wait_s < instant:  # the difference of two floats may fall short of it by a hair
            wait_s = nextafter(wait_s, inf)
        if self.held and self.used - self.held + limit.amount <= limit.capacity:
            return min(wait_s, HELD_RETRY_S), True
        return wait_s, False

    def is_over(self, step: Step) -> bool:
        self._forget_past(step.now)
        return not self.slices

    def seed(self, slices: Iterable[tuple[float, int]]) -> None:
        self._forget_past(inf)
        for instant, units in slices:
            self._add(instant, units, 0)

    def restore(self, limit: Limit, taken: int, age_s: float, step: Step) -> None:
        """Units that an open call took `age_s` seconds ago, whatever the capacity. Nothing if they have left by now."""
        self._forget_past(step.now)
        instant = leaves_at(step.now - age_s, limit.window_s, limit.capacity, limit.unit)
        is_held = limit.unit != "request"
        if instant <= step.now or not (taken or is_held):
            return
        piece = self._insert(instant, taken, taken if is_held else 0)
        if is_held:
            if taken == 0:
                piece.awaited += 1
            step.parts.append((piece, taken, limit.unit))

    def trim(self) -> None:
        """Forget the newest slices that are and stay empty: the window resets when the last unit leaves."""
        while self.slices and not self.slices[-1].units and not self.slices[-1].awaited:
            self.slices.pop().window = None

    def _add(self, instant: float, units: int, held: int) -> Slice:
        self.used += units
        self.held += held
        slices = self.slices
        # Slices leave in order. One that would leave before its elder joins it: late is safe, early is not.
        if slices and (last := slices[-1]).leaves_at >= instant:
            last.units += units
            last.held += held
            return last
        piece = Slice(self, instant, units, held)
        slices.append(piece)
        return piece

    def _insert(self, instant: float, units: int, held: int) -> Slice:
        """In its place among the slices, unlike what is new."""
        slices = self.slices
        place = len(slices)
        while place and slices[place - 1].leaves_at >= instant:
            place -= 1
        self.used += units
        self.held += held
        if place < len(slices) and (piece := slices[place]).leaves_at == instant:
            piece.units += units
            piece.held += held
            return piece
        piece = Slice(self, instant, units, held)
        slices.insert(place, piece)
        return piece

    def _forget_past(self, now: float) -> None:
        slices = self.slices
        while slices and slices[0].leaves_at <= now:
            piece = slices.popleft()
            piece.window = None
            self.used -= piece.units
            self.held -= piece.held


def leaves_at(admitted_at: float, window_s: int, capacity: int, unit: str) -> float:
    """When units admitted at `admitted_at` have left the window: exactly, or with the whole of their sub-bucket."""
    if capacity <= EXACT_REQUESTS_MAX and unit != "token":
        return admitted_at + window_s
    width_s = window_s / BUCKETS
    bucket_ends_at = (admitted_at // width_s + 1.0) * width_s
    if bucket_ends_at < admitted_at:  # a float that fell short
        bucket_ends_at = admitted_at
    return bucket_ends_at + window_s
