"""What is not a window, in memory: a **tally** of a calendar period or a balance is two numbers, settled and held; a
**gauge** is what is in use right now.

A tally also knows whether it has refused where its limit asks for that (`Limit.resume_below`), and what lapsed while
calls were open (eras.py). What its calls need beyond two additions (shrinking, lapsed units, a remembered refusal) is
decided in `_take_with_care`, away from the path of most calls.
"""

from math import inf

from gateway.counters.base import LimitState
from gateway.counters.eras import Era, merge_ended, used_in
from gateway.counters.step import HELD_RETRY_S, Before, Ending, Step, negative_amount
from policies.types import Limit

__all__ = ["REFUSED_BEFORE", "Gauge", "Tally"]

PERIOD_GRACE_S = 86_400.0
"""A period's counter outlives it by this much on either clock: late settles and a stepping clock still find it."""
REFUSED_BEFORE = inf
"""Stands for the capacity at which a tally refused where that is not known; the next refusal says it."""
# See window.py.
_made = tuple.__new__


class Tally:
    __slots__ = ("eras", "held", "lapsed", "open_holds", "refused_at", "resets_at", "settled", "touched_at")

    def __init__(self, resets_at: float | None, touched_at: float) -> None:
        self.settled = 0
        """Lapsed units that nobody spent are among them as soon as a call has been admitted since."""
        self.lapsed = 0
        """So many lapsed units are surely used, whatever the calls admitted from now on find to have used."""
        self.eras: list[Era] | None = None
        """None unless calls are open that were admitted before units lapsed."""
        self.held = 0
        self.open_holds = 0
        """Also those of 0 units, which may settle more: the tally stays until they have ended."""
        self.refused_at: float | None = None
        """The capacity at which it refused and since when it is to stay refused; None if it is not."""
        self.resets_at = resets_at
        self.touched_at = touched_at

    def take(self, limit: Limit, step: Step) -> LimitState | None:
        """How `limit` stands after as much of its amount as it may was taken; None, and nothing taken, for no room."""
        taken = limit.amount
        settled = self.settled
        held = self.held
        # Where twice the amount fits, all of it does, whether it may shrink or not.
        is_plain = (
            self.refused_at is None
            and not limit.lapsed
            and self.eras is None
            and 0 <= 2 * taken <= limit.capacity - settled - held
        )
        place: Ending = self
        unit = limit.unit
        if not is_plain:
            if (shrunk := self._take_with_care(limit, step)) is None:
                return None
            taken = shrunk
            settled = self.settled
            if self.eras:
                place = self._into_era(self.eras[-1], taken, unit)
        if unit == "request":
            self.settled += taken
            settled += taken
        else:
            self.held += taken
            held += taken
            self.open_holds += 1
            step.parts.append((place, taken, unit))
        self.touched_at = step.now
        resets_at = limit.resets_at
        reset_s = 0.0 if resets_at is None or resets_at <= step.wall else resets_at - step.wall
        return _made(LimitState, (limit, settled, held, reset_s, taken))

    def restore(self, limit: Limit, taken: int, age_s: float, step: Step) -> None:
        """Units that an open call took before this tally was made, whatever the capacity."""
        place: Ending = self._into_era(self.eras[-1], taken, limit.unit) if self.eras else self
        if limit.unit == "request":
            self.settled += taken
        else:
            self.held += taken
            self.open_holds += 1
            step.parts.append((place, taken, limit.unit))
        self.touched_at = step.now

    def _take_with_care(self, limit: Limit, step: Step) -> int | None:
        if limit.amount < 0:
            raise negative_amount(limit)
        taken = self._takeable(limit, self._settled(limit), self.held)
        if taken is None:
            return None
        is_lapsing = limit.lapsed > self.lapsed
        is_resumed = taken > 0 and self.refused_at is not None and limit.resume_below is not None
        if is_lapsing or is_resumed:
            raised_by = self._settled(limit) - self.settled
            is_new_era = is_lapsing and self.open_holds > 0
            had_eras = self.eras is not None
            step.changes.append((self, Before(raised_by, self.refused_at, self.lapsed, is_new_era, had_eras)))
        if is_lapsing:
            self._lapse(limit.lapsed)
        if is_resumed:
            self.refused_at = None
        return taken

    def _lapse(self, units: int) -> None:
        """At least `units` are used from now on."""
        if self.open_holds:
            if self.eras is None:
                self.eras = [Era(self, 0, self.settled, self.held, self.open_holds)]
            self.eras.append(Era(self, units))
        self.settled = max(self.settled, units - self.held)
        self.lapsed = units

    def _into_era(self, era: Era, taken: int, unit: str) -> Era:
        if unit == "request":
            era.settled += taken
        else:
            era.held += taken
            era.open_holds += 1
        return era

    def _takeable(self, limit: Limit, settled: int, held: int) -> int | None:
        """How much of the amount may be taken while so much is settled and held; None where that is too little."""
        amount = limit.amount
        if amount == 0:
            return 0
        left = self._ceiling(limit) - settled - held
        if limit.amount_min is None:
            return amount if amount <= left else None
        if held > 0:
            left //= 2
        taken = max(0, min(amount, left))
        return taken if taken >= min(amount, limit.amount_min) else None

    def _ceiling(self, limit: Limit) -> int:
        """The most that may be used after this call: less than the capacity while an earlier refusal lasts."""
        if self.refused_at is None or limit.resume_below is None or limit.capacity > self.refused_at:
            return limit.capacity
        return min(limit.capacity, limit.resume_below - 1)

    def _settled(self, limit: Limit) -> int:
        """What is settled, and so much more that lapsed units count as used."""
        return max(self.settled, limit.lapsed - self.held)

    def _settled_alone(self, limit: Limit) -> int:
        """What would be settled if every open call ended without having used any."""
        settled = used_in(self.eras, with_holds=False) if self.eras else self.settled
        return max(settled, limit.lapsed)

    def undo(self, limit: Limit, taken: int) -> None:
        era = self.eras[-1] if self.eras else None
        if limit.unit == "request":
            self.settled -= taken
            if era is not None:
                era.settled -= taken
            return
        self.held -= taken
        self.open_holds -= 1
        if era is not None:
            era.held -= taken
            era.open_holds -= 1

    def undo_change(self, before: Before) -> None:
        """After `undo` of all that was taken: what is left in an era that the step began is below 0 and another's."""
        self.settled -= before.raised_by
        self.refused_at = before.refused_at
        self.lapsed = before.lapsed
        if before.is_new_era and self.eras:
            begun = self.eras.pop()
            last = self.eras[-1]
            last.settled += begun.settled
            last.held += begun.held
            last.open_holds += begun.open_holds
            if not before.had_eras:
                self.eras = None

    def book(self, units: int) -> None:
        """Add `units` to what is settled; negative ones are given back, never below 0."""
        units = max(units, -self.settled)
        self.settled += units
        if self.eras:
            self.eras[-1].settled += units
        if units < 0:
            # What came back may have been lapsed: the next call has to look again.
            self.lapsed = 0

    def remember_refusal(self, limit: Limit, step: Step) -> None:
        self.refused_at = limit.capacity
        self.touched_at = step.now

    def end(self, taken: int, actual: int) -> None:
        if self.eras:  # it was admitted before the first of them was cut off
            self.eras[0].end(taken, actual)
            return
        self.held -= taken
        self.open_holds -= 1
        self.settled += actual

    def end_in_era(self, taken: int) -> None:
        """A hold of one of the eras has ended there."""
        self.held -= taken
        self.open_holds -= 1
        if self.eras:
            merge_ended(self.eras)
            self.settled = used_in(self.eras) - self.held
            if not self.open_holds:
                self.eras = None

    def state(self, limit: Limit, step: Step, taken: int = 0) -> LimitState:
        settled = self._settled(limit) if limit.lapsed else self.settled
        resets_at = limit.resets_at
        reset_s = 0.0 if resets_at is None or resets_at <= step.wall else resets_at - step.wall
        return _made(LimitState, (limit, settled, self.held, reset_s, taken))

    def wait(self, limit: Limit, step: Step) -> tuple[float, bool] | None:
        """As of a window. Where the period has passed on the wall clock the wait is 0, though nothing fits."""
        if self._takeable(limit, self._settled(limit), self.held) is not None:
            return None
        amount_min = limit.amount if limit.amount_min is None else min(limit.amount, limit.amount_min)
        if amount_min > limit.capacity:
            return inf, False
        if self.held and self._takeable(limit, self._settled_alone(limit), 0) is not None:
            return HELD_RETRY_S, True
        return (inf if limit.resets_at is None else max(0.0, limit.resets_at - step.wall)), False

    def is_over(self, step: Step) -> bool:
        if self.open_holds:
            return False
        if self.settled == 0 and self.refused_at is None:
            return True
        is_past = self.resets_at is not None and step.wall >= self.resets_at + PERIOD_GRACE_S
        return is_past and step.now >= self.touched_at + PERIOD_GRACE_S


class Gauge:
    """Nothing settles: all of it comes back, whatever was used and whatever the unit."""

    __slots__ = ("held", "open_holds")

    def __init__(self) -> None:
        self.held = 0
        self.open_holds = 0

    def take(self, limit: Limit, step: Step) -> LimitState | None:
        amount = limit.amount
        if amount <= 0:
            if amount < 0:
                raise negative_amount(limit)
        elif self.held + amount > limit.capacity:
            return None
        self.held += amount
        self.open_holds += 1
        step.parts.append((self, amount, limit.unit))
        return _made(LimitState, (limit, 0, self.held, 0.0, amount))

    def restore(self, limit: Limit, taken: int, age_s: float, step: Step) -> None:
        self.held += taken
        self.open_holds += 1
        step.parts.append((self, taken, limit.unit))

    def undo(self, limit: Limit, taken: int) -> None:
        self.end(taken, 0)

    def end(self, taken: int, actual: int) -> None:
        self.held -= taken
        self.open_holds -= 1

    def state(self, limit: Limit, step: Step) -> LimitState:
        return LimitState(limit, 0, self.held, 0.0)

    def wait(self, limit: Limit, step: Step) -> tuple[float, bool] | None:
        if limit.amount == 0 or self.held + limit.amount <= limit.capacity:
            return None
        return (inf, False) if limit.amount > limit.capacity else (HELD_RETRY_S, True)

    def is_over(self, step: Step) -> bool:
        return not self.open_holds
