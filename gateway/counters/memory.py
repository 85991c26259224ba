"""Counters in the memory of one process. A decision never suspends, so it is atomic without a lock.

A window is a queue of slices (window.py); a tally of a period or a balance is what is settled and what is held, a gauge
what is in use (tally.py). A step takes of one counter after the other; where it fails, it puts back what it took, so that
a refused call leaves nothing behind but, where its limit asks for that, the memory of the refusal.

All instants are taken from a clock that only goes forward here: one that steps back stands still until it has caught up.
Counters whose window or period is over are dropped a few at a time while calls come in; there is no timer.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

from gateway.counters.base import LimitState, Refused, Taken
from gateway.counters.step import Ending, Step
from gateway.counters.tally import REFUSED_BEFORE, Gauge, Tally
from gateway.counters.window import Window, leaves_at
from policies.types import Limit, LimitGroup

__all__ = ["MemoryCounters"]

# See window.py.
_made = tuple.__new__
_SWEEP_EVERY_S = 1.0
_SWEPT_AT_ONCE_MIN = 64
_SWEPT_SHARE = 256

_Counter = Window | Tally | Gauge


class MemoryCounters:
    """The counter store of a single process (`CounterStore`, `CounterSeeds`). No method ever suspends.

    `clock` is monotonic and measures windows; `wall_clock` is Unix time and only says how far off a period's end is.
    `sweep_every_s`: how often it looks for counters that are over, by `clock`.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        *,
        sweep_every_s: float = _SWEEP_EVERY_S,
    ) -> None:
        self._sweep_every_s = sweep_every_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._latest = -inf
        self._counters: dict[str, _Counter] = {}
        self._holds: dict[str, list[tuple[Ending, int, str]]] = {}
        self._sweep_at = -inf
        self._unswept: list[str] = []

    @property
    def kept_counters(self) -> int:
        return len(self._counters)

    @property
    def open_holds(self) -> int:
        return len(self._holds)

    async def take(self, hold_id: str, groups: Sequence[LimitGroup]) -> Taken | Refused:
        if hold_id in self._holds:
            raise ValueError(f"hold {hold_id} is open already")
        step = self._step()
        if step.now >= self._sweep_at:
            self._sweep(step)
        states = self._take_each(groups, step)
        if len(states) == len(groups):
            self._holds[hold_id] = step.parts
            return _made(Taken, (tuple(states),))
        answer = self._refuse(groups, states, step)
        self._remember_refusal(groups[len(states)], step)
        return answer

    is_available = True
    degraded = ""

    async def settle(self, hold_id: str, actuals: Mapping[str, int], *, account_id: str | None = None) -> None:
        for place, taken, unit in self._holds.pop(hold_id, ()):
            if (actual := actuals.get(unit, taken)) < 0:
                actual = 0
            place.end(taken, actual)

    async def aclose(self) -> None:
        """Nothing is open."""

    async def release(self, hold_id: str) -> None:
        for place, taken, _ in self._holds.pop(hold_id, ()):
            place.end(taken, 0)

    async def preview(self, groups: Sequence[LimitGroup]) -> Taken | Refused:
        step = self._step()
        states = self._take_each(groups, step)
        if len(states) < len(groups):
            return self._refuse(groups, states, step)
        self._undo(states, step)
        return Taken(tuple(states))

    async def adjust(self, key: str, units: int, *, resets_at: float | None = None) -> None:
        tally = self._tally(key)
        tally.book(units)
        if resets_at is not None:
            tally.resets_at = resets_at

    async def read(self, limits: Iterable[Limit]) -> tuple[LimitState, ...]:
        step = self._step()
        return tuple(self._look_up(limit, step).state(limit, step) for limit in limits)

    async def seed_rolling(
        self, key: str, window_s: int, capacity: int, admitted: Iterable[tuple[float, int]], *, unit: str = "request"
    ) -> None:
        now = self._now()
        slices = sorted(
            (leaves_at(now - max(0.0, age_s), window_s, capacity, unit), units)
            for age_s, units in admitted
            if units > 0
        )
        window = self._counters.setdefault(key, Window())
        if not isinstance(window, Window):
            raise ValueError(f"{key} is not a rolling window")
        window.seed(slices)

    async def seed_settled(
        self, key: str, units: int, *, resets_at: float | None = None, is_refused: bool = False
    ) -> None:
        if units < 0:
            raise ValueError(f"{key} cannot have {units} settled")
        tally = self._tally(key)
        tally.book(units - tally.settled)
        tally.resets_at = resets_at
        tally.refused_at = REFUSED_BEFORE if is_refused else None

    def restore(self, hold_id: str, taken: Iterable[tuple[Limit, int]], *, age_s: float) -> None:
        """Hold again what an open call took elsewhere `age_s` seconds ago: limits, and how much of each; whatever the
        capacities. For counters that were filled with what had ended. Raises `ValueError` when it is open already."""
        if hold_id in self._holds:
            raise ValueError(f"hold {hold_id} is open already")
        step = self._step()
        for limit, units in taken:
            counter = self._counters.setdefault(limit.key, _new_counter(limit, step))
            counter.restore(limit, units, max(0.0, age_s), step)
        self._holds[hold_id] = step.parts

    def _now(self) -> float:
        now = self._clock()
        if now < self._latest:
            return self._latest
        self._latest = now
        return now

    def _step(self) -> Step:
        return Step(self._now(), self._wall_clock())

    def _tally(self, key: str) -> Tally:
        """The counter `key` as one on which something settles, made if there is none."""
        now = self._now()
        tally = self._counters.setdefault(key, Tally(None, now))
        if not isinstance(tally, Tally):
            raise ValueError(f"{key} settles nothing")
        tally.touched_at = now
        return tally

    def _look_up(self, limit: Limit, step: Step) -> _Counter:
        return self._counters.get(limit.key) or _new_counter(limit, step)

    def _take_each(self, groups: Sequence[LimitGroup], step: Step) -> list[LimitState]:
        """Take one limit of each group; how these stand, up to the first group that has no room."""
        counters = self._counters
        step.kept_counters = len(counters)
        states: list[LimitState] = []
        try:
            for group in groups:
                for limit in group:
                    counter = counters.get(limit.key)
                    if counter is None:
                        counter = counters[limit.key] = _new_counter(limit, step)
                    if (state := counter.take(limit, step)) is not None:
                        states.append(state)
                        break
                else:
                    return states
        except ValueError:
            self._undo(states, step)
            raise
        return states

    def _undo(self, states: Sequence[LimitState], step: Step) -> None:
        """Put back what `step` took, and drop the counters it made, which are the youngest."""
        for state in reversed(states):
            self._counters[state.limit.key].undo(state.limit, state.taken)
        for tally, before in reversed(step.changes):
            tally.undo_change(before)
        while len(self._counters) > step.kept_counters:
            self._counters.popitem()

    def _refuse(self, groups: Sequence[LimitGroup], taken: Sequence[LimitState], step: Step) -> Refused:
        """Put back what earlier groups took, and say which group it takes longest to satisfy.

        The first unsatisfied group is judged while the earlier ones still have theirs: they may share its counter.
        """
        verdicts = [self._judge(groups[len(taken)], step)]
        self._undo(taken, step)
        verdicts += [self._judge(group, step) for group in groups[len(taken) + 1 :]]
        refusals = [verdict for verdict in verdicts if verdict is not None]
        longest = max(refusals, key=lambda refused: inf if refused.retry_after_s is None else refused.retry_after_s)
        return longest._replace(unsatisfied=tuple(refused.state.limit for refused in refusals))

    def _judge(self, group: LimitGroup, step: Step) -> Refused | None:
        """How long until one limit of `group` has room, told of its last one; None if one has room now."""
        shortest = inf
        is_held = False
        for limit in group:
            counter = self._look_up(limit, step)
            wait = counter.wait(limit, step)
            if wait is None:
                return None
            shortest = min(shortest, wait[0])
            is_held = is_held or wait[1]
        return Refused(counter.state(limit, step), None if shortest == inf else shortest, is_held)

    def _remember_refusal(self, group: LimitGroup, step: Step) -> None:
        for limit in group:
            if limit.resume_below is not None:
                tally = self._counters.setdefault(limit.key, _new_counter(limit, step))
                if isinstance(tally, Tally):
                    tally.remember_refusal(limit, step)

    def _sweep(self, step: Step) -> None:
        """Look at some counters, at least a `_SWEPT_SHARE`th of them, and drop those that are over."""
        self._sweep_at = step.now + self._sweep_every_s
        if not self._unswept:
            self._unswept = list(self._counters)
        for _ in range(max(_SWEPT_AT_ONCE_MIN, len(self._counters) // _SWEPT_SHARE)):
            if not self._unswept:
                return
            key = self._unswept.pop()
            counter = self._counters.get(key)
            if counter is not None and counter.is_over(step):
                del self._counters[key]


def _new_counter(limit: Limit, step: Step) -> _Counter:
    if limit.kind == "rolling":
        return Window()
    return Gauge() if limit.kind == "gauge" else Tally(limit.resets_at, step.now)
