"""A counter store too simple to be wrong: it keeps every admission and every hold, and adds them up when asked.

Where a store may round (sub-buckets), the model says at least and at most; everywhere else it says exactly.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from gateway.counters.base import LimitState
from policies.types import Limit, LimitGroup

EXACT_MAX = 512
HELD_RETRY_S = 1.0


class Admission(NamedTuple):
    """When units were admitted to a window, and whether the store may let them leave a sixtieth late."""

    at: float
    is_bucketed: bool


def admission_at(at: float, limit: Limit) -> Admission:
    return Admission(at, limit.capacity > EXACT_MAX or limit.unit == "token")


@dataclass
class Used:
    """Units of one call, as far as is known, or booked without one (below 0: given back); and how many had lapsed then."""

    units: int
    lapsed: int = 0
    is_open: bool = False


class Part(NamedTuple):
    limit: Limit
    taken: int
    admission: Admission | None
    used: Used | None


@dataclass
class Book:
    """All that ever happened on a tally, in its order."""

    events: list[Used] = field(default_factory=list)
    refused_at: float | None = None
    most_allowed: int = 0
    """The largest capacity under which something was taken, plus what was booked above its hold or without one."""

    def used(self, lapsed: int = 0, *, with_open: bool = True) -> int:
        """Units used when `lapsed` have lapsed: each call counts from its admission on, and whenever units lapse, at
        least so many are used. `with_open=False`: as if the calls in flight used nothing."""
        used = 0
        for event in self.events:
            used = max(used, event.lapsed) + (event.units if with_open or not event.is_open else 0)
        return max(used, lapsed)

    def add(self, units: int, lapsed: int = 0, *, is_open: bool = False) -> Used:
        self.events.append(Used(units, lapsed, is_open))
        return self.events[-1]


@dataclass
class Model:
    """`now` never goes back: that is what a store makes of a clock that does."""

    now: float = 0.0
    unix: float = 0.0
    windows: dict[str, dict[Admission, int]] = field(default_factory=dict)
    books: dict[str, Book] = field(default_factory=dict)
    holds: dict[str, list[Part]] = field(default_factory=dict)

    # What is used

    def book(self, key: str) -> Book:
        return self.books.setdefault(key, Book())

    def held(self, key: str) -> int:
        return sum(part.taken for parts in self.holds.values() for part in parts if part.limit.key == key)

    def used(self, limit: Limit) -> int:
        return self.held(limit.key) if limit.kind == "gauge" else self.book(limit.key).used(limit.lapsed)

    def within(self, limit: Limit, slack_s: float = 0.0) -> int:
        """Units admitted in the window that ends now, `slack_s` longer than it is."""
        since = self.now - limit.window_s - slack_s
        return sum(units for (at, _), units in self.windows.get(limit.key, {}).items() if at > since)

    def slack_s(self, limit: Limit) -> float:
        """How much later than admitted units of this window may leave it."""
        late_s = limit.window_s / 60
        since = self.now - limit.window_s - late_s
        return late_s if any(a.is_bucketed and a.at > since for a in self.windows.get(limit.key, {})) else 0.0

    def bounds(self, limit: Limit) -> tuple[int, int]:
        """The least and the most units that may count as used."""
        if limit.kind == "rolling":
            return self.within(limit), self.within(limit, self.slack_s(limit))
        return (self.used(limit),) * 2

    # What fits

    def takeable(self, limit: Limit, *, is_alone: bool = False) -> int | None:
        """How much of the amount a tally or gauge has room for; None for too little. `is_alone`: without the calls in
        flight."""
        amount = limit.amount
        if amount == 0:
            return 0
        held = 0 if is_alone else self.held(limit.key)
        used = self.used(limit)
        if is_alone:
            used = 0 if limit.kind == "gauge" else self.book(limit.key).used(limit.lapsed, with_open=False)
        refused_at = self.book(limit.key).refused_at
        if limit.resume_below is not None and refused_at is not None and limit.capacity <= refused_at:
            return amount if used + amount < limit.resume_below else None
        if limit.amount_min is None:
            return amount if used + amount <= limit.capacity else None
        left = max(0, limit.capacity - used)
        taken = min(amount, left // 2 if held else left)
        return taken if taken >= min(limit.amount_min, amount) else None

    def fits(self, limit: Limit) -> bool | None:
        """None where the store's rounding decides."""
        if limit.kind != "rolling":
            return self.takeable(limit) is not None
        least, most = self.bounds(limit)
        if limit.amount == 0 or most + limit.amount <= limit.capacity:
            return True
        return False if least + limit.amount > limit.capacity else None

    def taken(self, limit: Limit) -> int:
        """How much of a limit that was taken."""
        return limit.amount if limit.kind == "rolling" else self.takeable(limit) or 0

    def surely_has_room(self, group: LimitGroup) -> bool:
        return any(self.fits(limit) is True for limit in group)

    def surely_has_none(self, group: LimitGroup) -> bool:
        return all(self.fits(limit) is False for limit in group)

    # How long it takes

    def waits(self, groups: Iterable[LimitGroup]) -> tuple[float, float]:
        """The least and the most seconds until all of `groups` have room; infinite for never."""
        shortest, longest = 0.0, 0.0
        for group in groups:
            if self.surely_has_room(group):
                continue
            bounds = [self.wait(limit) for limit in group]
            longest = max(longest, min(high for _, high in bounds))
            if self.surely_has_none(group):
                shortest = max(shortest, min(low for low, _ in bounds))
        return shortest, longest

    def wait(self, limit: Limit) -> tuple[float, float]:
        if min(limit.amount, limit.amount if limit.amount_min is None else limit.amount_min) > limit.capacity:
            return inf, inf
        held = self.held(limit.key)
        if limit.kind == "rolling":
            low, high = self.window_wait(limit, 0.0), self.window_wait(limit, self.slack_s(limit))
            if held and self.within(limit) - held + limit.amount <= limit.capacity:
                low = min(low, HELD_RETRY_S)
            return low, high
        if held and self.takeable(limit, is_alone=True) is not None:
            return HELD_RETRY_S, HELD_RETRY_S
        return (inf if limit.resets_at is None else max(0.0, limit.resets_at - self.unix),) * 2

    def window_wait(self, limit: Limit, slack_s: float) -> float:
        """Until enough has left, if nobody comes and every unit leaves `slack_s` late."""
        over = self.within(limit, slack_s) + limit.amount - limit.capacity
        for (at, _), units in sorted(self.windows.get(limit.key, {}).items()):
            if over <= 0:
                break
            leaves_at = at + limit.window_s + slack_s
            if leaves_at > self.now:
                over -= units
                if over <= 0:
                    return leaves_at - self.now
        return 0.0

    # What happens

    def take(self, hold_id: str, states: Sequence[LimitState]) -> None:
        parts: list[Part] = []
        for limit, taken in [(state.limit, self.taken(state.limit)) for state in states]:
            admission, used = None, None
            if limit.kind == "rolling":
                admission = admission_at(self.now, limit)
                window = self.windows.setdefault(limit.key, {})
                window[admission] = window.get(admission, 0) + taken
                if limit.unit == "request":
                    continue
            elif limit.kind != "gauge":
                book = self.book(limit.key)
                used = book.add(taken, limit.lapsed, is_open=True)
                if taken:
                    book.most_allowed = max(book.most_allowed, limit.capacity)
                    if limit.resume_below is not None:
                        book.refused_at = None
            parts.append(Part(limit, taken, admission, used))
        self.holds[hold_id] = parts

    def remember_refusal(self, group: LimitGroup) -> None:
        for limit in group:
            if limit.resume_below is not None:
                self.book(limit.key).refused_at = limit.capacity

    def end(self, hold_id: str, actuals: Mapping[str, int] | None) -> None:
        """`None` releases."""
        for limit, taken, admission, used in self.holds.pop(hold_id):
            actual = 0 if actuals is None else max(0, actuals.get(limit.unit, taken))
            if admission is not None:
                self.windows[limit.key][admission] += actual - taken
            elif used is not None:
                used.units, used.is_open = actual, False
                self.book(limit.key).most_allowed += max(0, actual - taken)

    def seed(self, limit: Limit, age_s: float, units: int) -> None:
        """A window holds `units` that are `age_s` old, and nothing else."""
        self.windows[limit.key] = {admission_at(self.now - age_s, limit): units}

    def adjust(self, key: str, units: int) -> None:
        book = self.book(key)
        book.add(max(units, self.held(key) - book.used()))
        book.most_allowed += max(0, units)
