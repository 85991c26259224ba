"""Counters in the memory of one process. A decision never suspends, so it is atomic without a lock.

1. A **window** is a queue of slices, each with its units and the instant at which it leaves the window. Up to 512
   requests a window each admission instant is a slice of its own: exact. Above, and for tokens, the slices are the 60
   sub-buckets of the window; one counts until it is wholly outside, so the limit is never passed and room comes back at
   most a sixtieth of the window late. The queue is the same for both, so a plan change only affects what comes.
2. A **tally** (calendar periods, balances) is two numbers, settled and held.
3. A **gauge** is what is in use right now.

All instants are taken from a clock that only goes forward here: one that steps back stands still until it has caught up.
Counters whose window or period is over are dropped a few at a time while calls come in; there is no timer.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf, nextafter

from gateway.counters.base import LimitState, Refused, Taken
from policies.types import Limit, LimitGroup

__all__ = ["MemoryCounters"]

EXACT_REQUESTS_MAX = 512
BUCKETS = 60
HELD_RETRY_S = 1.0
"""Calls in flight end when they end; this is how soon asking again makes sense."""
PERIOD_GRACE_S = 86_400.0
"""A period's counter outlives it by this much on either clock: late settles and a stepping clock still find it."""
# A NamedTuple's own constructor takes twice as long as the tuple's, and every call makes one per limit.
_made = tuple.__new__
_SWEEP_EVERY_S = 1.0
_SWEPT_AT_ONCE_MIN = 64
_SWEPT_SHARE = 256


class _Slice:
    """Units of a window that leave it together."""

    __slots__ = ("held", "is_live", "leaves_at", "units")

    def __init__(self, leaves_at: float, units: int, held: int) -> None:
        self.leaves_at = leaves_at
        self.units = units
        self.held = held
        """The part of `units` whose calls have not ended."""
        self.is_live = True


class _Window:
    __slots__ = ("held", "slices", "used")

    def __init__(self) -> None:
        self.slices: deque[_Slice] = deque()
        self.used = 0
        self.held = 0

    def take(self, limit: Limit, now: float, wall: float, parts: "list[_Part]") -> LimitState | None:
        slices = self.slices
        while slices and slices[0].leaves_at <= now:
            self._drop_oldest()
        amount = limit.amount
        if amount == 0:  # nothing in the window, so nothing to correct later
            return self.state(limit, now, wall)
        if self.used + amount > limit.capacity:
            return None
        leaves_at = _leaves_at(now, limit.window_s, limit.capacity, limit.unit)
        if limit.unit == "request":
            piece = self._add(leaves_at, amount, 0)
        else:
            piece = self._add(leaves_at, amount, amount)
            parts.append((self, amount, limit.unit, piece))
        return _made(LimitState, (limit, self.used - self.held, self.held, piece.leaves_at - now))

    def _add(self, leaves_at: float, units: int, held: int) -> _Slice:
        self.used += units
        self.held += held
        slices = self.slices
        # Slices leave in order. One that would leave before its elder joins it: late is safe, early is not.
        if slices and (last := slices[-1]).leaves_at >= leaves_at:
            last.units += units
            last.held += held
            return last
        piece = _Slice(leaves_at, units, held)
        slices.append(piece)
        return piece

    def _drop_oldest(self) -> None:
        piece = self.slices.popleft()
        piece.is_live = False
        self.used -= piece.units
        self.held -= piece.held

    def undo(self, limit: Limit) -> None:
        """Take back what `take` has just added; nothing came in between, so it is in the newest slice."""
        if limit.amount == 0:
            return
        last = self.slices[-1]
        self.used -= limit.amount
        last.units -= limit.amount
        if limit.unit != "request":
            self.held -= limit.amount
            last.held -= limit.amount
        self._trim()

    def end(self, amount: int, actual: int, piece: _Slice | None) -> None:
        """Correct what was taken where it was taken. What has left the window already is past correcting."""
        if piece is None or not piece.is_live:
            return
        piece.held -= amount
        self.held -= amount
        piece.units += actual - amount
        self.used += actual - amount
        self._trim()

    def _trim(self) -> None:
        while self.slices and not self.slices[-1].units:
            self.slices.pop().is_live = False

    def seed(self, slices: Iterable[tuple[float, int]]) -> None:
        while self.slices:
            self._drop_oldest()
        for leaves_at, units in slices:
            self._add(leaves_at, units, 0)

    def state(self, limit: Limit, now: float, wall: float) -> LimitState:
        while self.slices and self.slices[0].leaves_at <= now:
            self._drop_oldest()
        reset_s = self.slices[-1].leaves_at - now if self.slices else 0.0
        return LimitState(limit, self.used - self.held, self.held, reset_s)

    def wait(self, limit: Limit, now: float, wall: float) -> tuple[float, bool]:
        missing = self.used + limit.amount - limit.capacity
        leaves_at = now
        for piece in self.slices:
            if missing <= 0:
                break
            missing -= piece.units
            leaves_at = piece.leaves_at
        wait_s = leaves_at - now
        if now + wait_s < leaves_at:  # the difference of two floats may fall short of it by a hair
            wait_s = nextafter(wait_s, inf)
        if self.held and self.used - self.held + limit.amount <= limit.capacity:
            return min(wait_s, HELD_RETRY_S), True
        return wait_s, False

    def is_over(self, now: float, wall: float) -> bool:
        return not self.slices or self.slices[-1].leaves_at <= now


class _Tally:
    __slots__ = ("held", "open_holds", "resets_at", "settled", "touched_at")

    def __init__(self) -> None:
        self.settled = 0
        self.held = 0
        self.open_holds = 0
        """Also those of 0 units, which may settle more: the tally stays until they have ended."""
        self.resets_at: float | None = None
        self.touched_at = 0.0

    def take(self, limit: Limit, now: float, wall: float, parts: "list[_Part]") -> LimitState | None:
        amount = limit.amount
        if amount and self.settled + self.held + amount > limit.capacity:
            return None
        self.resets_at = limit.resets_at
        self.touched_at = now
        if limit.unit == "request":
            self.settled += amount
        else:
            self.held += amount
            self.open_holds += 1
            parts.append((self, amount, limit.unit, None))
        return self.state(limit, now, wall)

    def undo(self, limit: Limit) -> None:
        if limit.unit == "request":
            self.settled -= limit.amount
        else:
            self.held -= limit.amount
            self.open_holds -= 1

    def end(self, amount: int, actual: int, piece: _Slice | None) -> None:
        self.held -= amount
        self.open_holds -= 1
        self.settled += actual

    def state(self, limit: Limit, now: float, wall: float) -> LimitState:
        resets_at = limit.resets_at
        reset_s = 0.0 if resets_at is None or resets_at <= wall else resets_at - wall
        return _made(LimitState, (limit, self.settled, self.held, reset_s))

    def wait(self, limit: Limit, now: float, wall: float) -> tuple[float, bool]:
        if self.held and self.settled + limit.amount <= limit.capacity:
            return HELD_RETRY_S, True
        return (inf if limit.resets_at is None else max(0.0, limit.resets_at - wall)), False

    def is_over(self, now: float, wall: float) -> bool:
        if self.open_holds:
            return False
        if self.settled == 0:
            return True
        is_past = self.resets_at is not None and wall >= self.resets_at + PERIOD_GRACE_S
        return is_past and now >= self.touched_at + PERIOD_GRACE_S


class _Gauge(_Tally):
    """A tally in which nothing settles: all of it comes back, whatever was used and whatever the unit."""

    __slots__ = ()

    def take(self, limit: Limit, now: float, wall: float, parts: "list[_Part]") -> LimitState | None:
        amount = limit.amount
        if amount and self.held + amount > limit.capacity:
            return None
        self.held += amount
        self.open_holds += 1
        parts.append((self, amount, limit.unit, None))
        return self.state(limit, now, wall)

    def undo(self, limit: Limit) -> None:
        self.held -= limit.amount
        self.open_holds -= 1

    def end(self, amount: int, actual: int, piece: _Slice | None) -> None:
        self.held -= amount
        self.open_holds -= 1


_Counter = _Window | _Tally
_Part = tuple[_Counter, int, str, _Slice | None]
"""What ending a hold corrects: the counter, the amount taken, its unit, and the slice it is in."""


class MemoryCounters:
    """The counter store of a single process (`CounterStore`, `CounterSeeds`). No method ever suspends.

    `clock` is monotonic and measures windows; `wall_clock` is Unix time and only says how far off a period's end is.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._latest = -inf
        self._counters: dict[str, _Counter] = {}
        self._holds: dict[str, list[_Part]] = {}
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
        now = self._now()
        wall = self._wall_clock()
        if now >= self._sweep_at:
            self._sweep(now, wall)
        counters = self._counters
        parts: list[_Part] = []
        states: list[LimitState] = []
        for group in groups:
            for limit in group:
                if limit.amount < 0:
                    self._undo(states)
                    raise ValueError(f"limit {limit.name} would take {limit.amount}")
                counter = counters.get(limit.key)
                if counter is None:
                    counter = counters[limit.key] = _new_counter(limit)
                if (state := counter.take(limit, now, wall, parts)) is not None:
                    states.append(state)
                    break
            else:
                return self._refuse(groups, states, now, wall)
        self._holds[hold_id] = parts
        return _made(Taken, (tuple(states),))

    async def settle(self, hold_id: str, actuals: Mapping[str, int]) -> None:
        for counter, amount, unit, piece in self._holds.pop(hold_id, ()):
            actual = actuals.get(unit, amount)
            counter.end(amount, max(0, actual), piece)

    async def release(self, hold_id: str) -> None:
        for counter, amount, _, piece in self._holds.pop(hold_id, ()):
            counter.end(amount, 0, piece)

    async def read(self, limits: Iterable[Limit]) -> tuple[LimitState, ...]:
        now = self._now()
        wall = self._wall_clock()
        return tuple((self._counters.get(limit.key) or _new_counter(limit)).state(limit, now, wall) for limit in limits)

    async def seed_rolling(
        self, key: str, window_s: int, capacity: int, admitted: Iterable[tuple[float, int]], *, unit: str = "request"
    ) -> None:
        now = self._now()
        slices = sorted(
            (_leaves_at(now - max(0.0, age_s), window_s, capacity, unit), units)
            for age_s, units in admitted
            if units > 0
        )
        window = self._counters.setdefault(key, _Window())
        if not isinstance(window, _Window):
            raise ValueError(f"{key} is not a rolling window")
        window.seed(slices)

    async def seed_settled(self, key: str, units: int, *, resets_at: float | None = None) -> None:
        if units < 0:
            raise ValueError(f"{key} cannot have {units} settled")
        tally = self._counters.setdefault(key, _Tally())
        if not isinstance(tally, _Tally) or isinstance(tally, _Gauge):
            raise ValueError(f"{key} settles nothing")
        tally.settled = units
        tally.resets_at = resets_at
        tally.touched_at = self._now()

    def _now(self) -> float:
        now = self._clock()
        if now < self._latest:
            return self._latest
        self._latest = now
        return now

    def _undo(self, states: Sequence[LimitState]) -> None:
        for state in reversed(states):
            self._counters[state.limit.key].undo(state.limit)

    def _refuse(self, groups: Sequence[LimitGroup], taken: Sequence[LimitState], now: float, wall: float) -> Refused:
        """Give back what earlier groups took, and say which group it takes longest to satisfy.

        The first unsatisfied group is judged while the earlier ones still have theirs: they may share its counter.
        """
        longest, wait_s = self._judge(groups[len(taken)], now, wall)
        self._undo(taken)
        for group in groups[len(taken) + 1 :]:
            other, other_wait_s = self._judge(group, now, wall)
            if other_wait_s > wait_s:
                longest, wait_s = other, other_wait_s
        return longest

    def _judge(self, group: LimitGroup, now: float, wall: float) -> tuple[Refused, float]:
        """How long until one limit of `group` has room: as an answer, and as a number that is infinite for never."""
        shortest = inf
        is_held = False
        for limit in group:
            counter = self._counters.get(limit.key) or _new_counter(limit)
            state = counter.state(limit, now, wall)
            if limit.amount == 0 or state.settled + state.held + limit.amount <= limit.capacity:
                wait_s, is_held_too = 0.0, False
            elif limit.amount > limit.capacity:
                wait_s, is_held_too = inf, False
            else:
                wait_s, is_held_too = counter.wait(limit, now, wall)
            shortest = min(shortest, wait_s)
            is_held = is_held or is_held_too
        return Refused(state, None if shortest == inf else shortest, is_held), shortest

    def _sweep(self, now: float, wall: float) -> None:
        """Look at some counters, at least a `_SWEPT_SHARE`th of them, and drop those that are over."""
        self._sweep_at = now + _SWEEP_EVERY_S
        if not self._unswept:
            self._unswept = list(self._counters)
        for _ in range(max(_SWEPT_AT_ONCE_MIN, len(self._counters) // _SWEPT_SHARE)):
            if not self._unswept:
                return
            key = self._unswept.pop()
            counter = self._counters.get(key)
            if counter is not None and counter.is_over(now, wall):
                del self._counters[key]


def _new_counter(limit: Limit) -> _Counter:
    if limit.kind == "rolling":
        return _Window()
    return _Gauge() if limit.kind == "gauge" else _Tally()


def _leaves_at(admitted_at: float, window_s: int, capacity: int, unit: str) -> float:
    """When units admitted at `admitted_at` have left the window: exactly, or with the whole of their sub-bucket."""
    if capacity <= EXACT_REQUESTS_MAX and unit != "token":
        return admitted_at + window_s
    width_s = window_s / BUCKETS
    bucket_ends_at = (admitted_at // width_s + 1.0) * width_s
    return max(admitted_at, bucket_ends_at) + window_s
