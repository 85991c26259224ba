"""What the contract suite needs of a backend: a store, the clocks it reads, and a way to run its coroutines."""

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from gateway.counters.base import CounterSeeds, CounterStore, LimitState, Refused, Taken
from gateway.counters.memory import MemoryCounters
from policies.types import Deny, Kind, Limit, LimitGroup, Unit

T = TypeVar("T")
TICK_S = 1 / 64
"""Times in these tests are multiples of it, which floats hold exactly."""


class FakeClock:
    """A monotonic and a wall clock that stand still until they are moved."""

    def __init__(self, unix_s: float = 1_750_000_000.0) -> None:
        self.monotonic_s = 1_000.0
        self.unix_s = unix_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def unix(self) -> float:
        return self.unix_s

    def advance(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.unix_s += seconds


class Store(CounterStore, CounterSeeds, Protocol):
    """All of a backend that the gateway uses."""


class Backend:
    """A store under test, spoken to without an event loop where the store allows it."""

    lives = 50
    """How many random ones the suite lives on it (`COUNTER_LIVES` asks for others)."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        raise NotImplementedError

    @property
    def store(self) -> Store:
        raise NotImplementedError

    def take(self, hold_id: str, *groups: LimitGroup | Limit) -> Taken | Refused:
        return self.run(self.store.take(hold_id, in_groups(groups)))

    def preview(self, *groups: LimitGroup | Limit) -> Taken | Refused:
        return self.run(self.store.preview(in_groups(groups)))

    def settle(self, hold_id: str, actuals: Mapping[str, int] | None = None) -> None:
        self.run(self.store.settle(hold_id, actuals or {}))

    def release(self, hold_id: str) -> None:
        self.run(self.store.release(hold_id))

    def adjust(self, limit: Limit, units: int) -> None:
        self.run(self.store.adjust(limit.key, units, resets_at=limit.resets_at))

    def read(self, limit: Limit) -> LimitState:
        (state,) = self.run(self.store.read([limit]))
        return state

    def figures(self, limit: Limit) -> tuple[int, int]:
        state = self.read(limit)
        return state.settled, state.held

    def seed_rolling(self, limit: Limit, admitted: Iterable[tuple[float, int]]) -> None:
        self.run(self.store.seed_rolling(limit.key, limit.window_s, limit.capacity, admitted, unit=limit.unit))

    def seed_settled(self, limit: Limit, units: int, *, is_refused: bool = False) -> None:
        self.run(self.store.seed_settled(limit.key, units, resets_at=limit.resets_at, is_refused=is_refused))

    def take_many(self, limit: Limit, count: int, *, prefix: str) -> int:
        """How many of `count` calls were admitted; each ends at once."""
        admitted = 0
        for number in range(count):
            hold_id = f"{prefix}-{number}"
            if isinstance(self.take(hold_id, limit), Taken):
                self.settle(hold_id)
                admitted += 1
        return admitted


class MemoryBackend(Backend):
    def __init__(self, clock: FakeClock | None = None) -> None:
        super().__init__(clock or FakeClock())
        self.memory = MemoryCounters(self.clock.monotonic, self.clock.unix)

    @property
    def store(self) -> MemoryCounters:
        return self.memory

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """One step must be enough: this store never suspends."""
        try:
            work.send(None)
        except StopIteration as done:
            value: T = done.value
            return value
        work.close()
        raise AssertionError("the store suspended")


def in_groups(groups: Sequence[LimitGroup | Limit]) -> list[LimitGroup]:
    """A bare limit is a group without alternatives."""
    return [(group,) if isinstance(group, Limit) else group for group in groups]


def a_limit(
    key: str,
    kind: Kind,
    capacity: int,
    amount: int = 1,
    unit: Unit = "nano_usd",
    *,
    window_s: int = 0,
    resets_at: float | None = None,
) -> Limit:
    refusal = Deny("rate_limit_exceeded", f"{key} is used up", "test")
    return Limit(key, key, kind, capacity, amount, unit, refusal, window_s, resets_at)


def requests(capacity: int, amount: int = 1, *, key: str = "requests:ada", window_s: int = 3600) -> Limit:
    return a_limit(key, "rolling", capacity, amount, "request", window_s=window_s)


def tokens(capacity: int, amount: int, *, key: str = "tokens:ada", window_s: int = 60) -> Limit:
    return a_limit(key, "rolling", capacity, amount, "token", window_s=window_s)


MONTH_ENDS_AT = 1_750_000_000.0 + 86_400
"""A day after the start of the test's clock."""


def money(capacity: int, amount: int, *, key: str = "quota:ada") -> Limit:
    return a_limit(key, "calendar", capacity, amount, resets_at=MONTH_ENDS_AT)


def shrinking(capacity: int, amount: int, amount_min: int) -> Limit:
    """Money that may be less than the amount."""
    return money(capacity, amount)._replace(amount_min=amount_min)


def budget(capacity: int, amount: int, resume_below: int | None = None) -> Limit:
    """Money that stays refused until nine tenths of it would do, or `resume_below`."""
    limit = a_limit("budget:ada", "calendar", capacity, amount, "cost_nano_usd", resets_at=MONTH_ENDS_AT)
    return limit._replace(resume_below=capacity * 9 // 10 if resume_below is None else resume_below)


def gauge(capacity: int, amount: int = 1) -> Limit:
    return a_limit("gauge:ada", "gauge", capacity, amount, "call")


def credits_left(capacity: int, amount: int, *, key: str = "credits:ada", lapsed: int = 0) -> Limit:
    return a_limit(key, "balance", capacity, amount, "credit")._replace(lapsed=lapsed)


def admitted(answer: Taken | Refused) -> Taken:
    assert isinstance(answer, Taken), answer
    return answer


def refused(answer: Taken | Refused) -> Refused:
    assert isinstance(answer, Refused), answer
    return answer


def names(states: Sequence[LimitState]) -> list[str]:
    return [state.limit.name for state in states]
