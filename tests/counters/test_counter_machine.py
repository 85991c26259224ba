"""Random creators, plans, clocks and calls in flight against every backend, beside a model too simple to be wrong.

The model keeps each admission and each settled amount for ever and adds them up when asked. Where the store may round
(sub-buckets), the model says at least and at most; everywhere else it says exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.counters.base import Refused, Taken
from policies import decide
from policies.types import Account, Call, Deny, Limit, LimitGroup, Plan
from tests.counters.backend import TICK_S, Backend, FakeClock, a_limit, gauge

CREATORS = ["ada", "bob"]
START = datetime(2025, 1, 31, 23, 0, tzinfo=UTC).timestamp()
STEPS_S = [TICK_S, 1.0, 30.0, 59.0, 60.0, 61.0, 1_000.0, 3_540.0, 3_600.0, 3_661.0, 86_400.0, 31 * 86_400.0]
BACK_S = [TICK_S, 1.0, 3_600.0, 7_200.0]
BACK_S_MAX = 40_000.0
"""A wall clock that is half a day behind itself is not what the store promises to survive."""
EXACT_MAX = 512


@dataclass
class Admission:
    at: float
    units: int
    is_bucketed: bool


@dataclass
class Tally:
    settled: int = 0
    held: int = 0
    most_allowed: int = 0
    """The largest capacity under which something was taken, plus what was settled above its hold."""


@dataclass
class Model:
    """What should be true. `now` never goes back: that is what the store makes of a clock that does."""

    now: float = 0.0
    windows: dict[str, list[Admission]] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    holds: dict[str, list[tuple[Limit, Admission | None]]] = field(default_factory=dict)

    def within(self, limit: Limit, slack_s: float = 0.0) -> int:
        since = self.now - limit.window_s - slack_s
        return sum(a.units for a in self.windows.get(limit.key, ()) if a.at > since)

    def bounds(self, limit: Limit) -> tuple[int, int]:
        """The least and the most units the store may count as used."""
        if limit.kind != "rolling":
            tally = self.tallies.get(limit.key, Tally())
            return (tally.settled + tally.held,) * 2
        slack_s = limit.window_s / 60
        recent = [a for a in self.windows.get(limit.key, ()) if a.at > self.now - limit.window_s - slack_s]
        is_exact = not any(a.is_bucketed for a in recent)
        least = self.within(limit)
        return least, least if is_exact else self.within(limit, slack_s)

    def fits(self, limit: Limit) -> bool | None:
        """None where the store's rounding decides."""
        if limit.amount == 0:
            return True
        least, most = self.bounds(limit)
        if most + limit.amount <= limit.capacity:
            return True
        return False if least + limit.amount > limit.capacity else None

    def take(self, hold_id: str, limits: list[Limit]) -> None:
        parts: list[tuple[Limit, Admission | None]] = []
        for limit in limits:
            if limit.kind == "rolling":
                is_bucketed = limit.capacity > EXACT_MAX or limit.unit == "token"
                admission = Admission(self.now, limit.amount, is_bucketed)
                self.windows.setdefault(limit.key, []).append(admission)
                parts.append((limit, admission))
            else:
                tally = self.tallies.setdefault(limit.key, Tally())
                tally.held += limit.amount
                tally.most_allowed = max(tally.most_allowed, limit.capacity)
                parts.append((limit, None))
        self.holds[hold_id] = parts

    def end(self, hold_id: str, actuals: dict[str, int] | None) -> None:
        """`None` releases."""
        for limit, admission in self.holds.pop(hold_id):
            actual = 0 if actuals is None else actuals.get(limit.unit, limit.amount)
            if admission is not None:
                if limit.unit != "request":
                    admission.units = actual
                continue
            tally = self.tallies[limit.key]
            tally.held -= limit.amount
            if limit.kind != "gauge":
                tally.settled += actual
                tally.most_allowed += max(0, actual - limit.amount)


def unfitting(model: Model, groups: list[LimitGroup]) -> list[LimitGroup]:
    """The groups none of whose limits certainly fits."""
    return [group for group in groups if not any(model.fits(limit) is True for limit in group)]


class CounterMachine(RuleBasedStateMachine):
    def __init__(self, make_backend: Callable[[FakeClock], Backend]) -> None:
        super().__init__()
        self.clock = FakeClock(START)
        self.backend = make_backend(self.clock)
        self.model = Model(now=self.clock.monotonic_s)
        self.plans = {creator: Plan("start", 3, 1_000) for creator in CREATORS}
        self.last_limits: dict[str, Limit] = {}
        self.serial = 0
        self.latest_unix_s = START
        self.pass_time(0.0)

    # What is asked of the store

    def groups(self, creator: str, *, amount: int, tokens: int, with_more: bool) -> list[LimitGroup]:
        """What the policies of today ask for and, beside it, the kinds that later ones will."""
        call = Call("chat", "m", "m", "p", "standard", amount)
        now = datetime.fromtimestamp(self.clock.unix_s, UTC)
        groups = decide(call, Account(creator, creator, "k", self.plans[creator]), now)
        assert not isinstance(groups, Deny)
        if with_more:
            window = a_limit(f"tokens:{creator}", "rolling", 800, tokens, "token", window_s=60)
            groups.append((window,))
            groups.append((a_limit(f"gauge:{creator}", "gauge", 2, 1, "call"),))
            free = a_limit(f"free:{creator}", "balance", 300, amount)
            groups.append((free, a_limit(f"paid:{creator}", "balance", 3_000, amount)))
        for group in groups:
            self.last_limits.update((limit.key, limit) for limit in group)
        return groups

    def ask(self, groups: list[LimitGroup]) -> tuple[str, Taken | Refused]:
        """One call, its answer compared with the model, the model brought up to date."""
        self.serial += 1
        hold_id = f"h{self.serial}"
        before = [self.backend.read(limit) for group in groups for limit in group]
        answer = self.backend.take(hold_id, *groups)
        if isinstance(answer, Refused):
            assert [self.backend.read(limit) for group in groups for limit in group] == before
            self.check_refusal(groups, answer)
        else:
            self.check_admission(groups, answer)
            self.model.take(hold_id, [state.limit for state in answer.states])
        return hold_id, answer

    def check_admission(self, groups: list[LimitGroup], answer: Taken) -> None:
        assert len(answer.states) == len(groups)
        for group, state in zip(groups, answer.states, strict=True):
            position = group.index(state.limit)
            assert all(self.model.fits(limit) is not True for limit in group[:position])
            assert self.model.fits(state.limit) is not False

    def check_refusal(self, groups: list[LimitGroup], answer: Refused) -> None:
        in_the_way = unfitting(self.model, groups)
        assert answer.state.limit in [group[-1] for group in in_the_way]
        is_hopeless = any(all(limit.amount > limit.capacity for limit in group) for group in in_the_way)
        if is_hopeless:
            assert answer.retry_after_s is None
        elif answer.retry_after_s is None:
            assert answer.state.limit.kind == "balance"

    # Rules

    @rule(
        creator=st.sampled_from(CREATORS),
        amount=st.sampled_from([0, 1, 90, 300, 600, 1_001]),
        tokens=st.sampled_from([1, 100, 500, 801]),
        with_more=st.booleans(),
    )
    def call(self, creator: str, amount: int, tokens: int, with_more: bool) -> None:
        self.ask(self.groups(creator, amount=amount, tokens=tokens, with_more=with_more))

    @rule(creator=st.sampled_from(CREATORS), calls=st.sampled_from([5, 150, 520]))
    def burst(self, creator: str, calls: int) -> None:
        """Many calls at once that cost nothing; the first refusal ends it, as the others would be refused too."""
        for _ in range(calls):
            hold_id, answer = self.ask(self.groups(creator, amount=0, tokens=1, with_more=False))
            if isinstance(answer, Refused):
                return
            self.backend.settle(hold_id)
            self.model.end(hold_id, {})

    @precondition(lambda self: self.model.holds)
    @rule(
        pick=st.integers(0, 10**6),
        actuals=st.none()
        | st.fixed_dictionaries(
            {}, optional={"nano_usd": st.integers(0, 1_200), "token": st.integers(0, 900), "request": st.just(0)}
        ),
    )
    def end(self, pick: int, actuals: dict[str, int] | None) -> None:
        hold_id = sorted(self.model.holds)[pick % len(self.model.holds)]
        self.end_hold(hold_id, actuals)
        figures = self.all_figures()
        self.backend.settle(hold_id, {"nano_usd": 7, "token": 7})
        self.backend.release(hold_id)
        assert self.all_figures() == figures

    def end_hold(self, hold_id: str, actuals: dict[str, int] | None) -> None:
        if actuals is None:
            self.backend.release(hold_id)
        else:
            self.backend.settle(hold_id, actuals)
        self.model.end(hold_id, actuals)

    @rule(
        creator=st.sampled_from(CREATORS),
        requests_per_hour=st.sampled_from([None, 0, 1, 3, 512, 513, 600]),
        quota=st.sampled_from([None, 0, 100, 1_000, 5_000]),
    )
    def change_plan(self, creator: str, requests_per_hour: int | None, quota: int | None) -> None:
        self.plans[creator] = Plan("changed", requests_per_hour, quota)

    @rule(seconds=st.sampled_from(STEPS_S))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.latest_unix_s = max(self.latest_unix_s, self.clock.unix_s)
        self.model.now = max(self.model.now, self.clock.monotonic_s)
        self.backend.read(gauge(1))  # so that the store has seen this instant, should the clock step back

    @rule(seconds=st.sampled_from(BACK_S), is_wall=st.booleans())
    def step_back(self, seconds: float, is_wall: bool) -> None:
        if is_wall and self.latest_unix_s - self.clock.unix_s + seconds < BACK_S_MAX:
            self.clock.unix_s -= seconds
        elif not is_wall:
            self.clock.monotonic_s -= seconds

    @precondition(lambda self: self.clock.monotonic_s >= self.model.now and self.clock.unix_s >= self.latest_unix_s)
    @rule(creator=st.sampled_from(CREATORS), amount=st.sampled_from([1, 300, 600]), tokens=st.sampled_from([100, 500]))
    def wait_as_told(self, creator: str, amount: int, tokens: int) -> None:
        """Nobody else comes: a moment before the wait is over the call does not fit, and at its end it does."""
        for hold_id in sorted(self.model.holds):
            self.end_hold(hold_id, {})
        _, answer = self.ask(self.groups(creator, amount=amount, tokens=tokens, with_more=True))
        if isinstance(answer, Taken) or answer.retry_after_s is None:
            return
        assert not answer.held_by_others
        assert answer.retry_after_s > 0
        self.pass_time(answer.retry_after_s - TICK_S)
        _, early = self.ask(self.groups(creator, amount=amount, tokens=tokens, with_more=True))
        assert isinstance(early, Refused)
        assert early.retry_after_s == TICK_S
        self.pass_time(TICK_S)
        _, late = self.ask(self.groups(creator, amount=amount, tokens=tokens, with_more=True))
        assert isinstance(late, Taken)

    # What always holds

    def all_figures(self) -> list[tuple[int, int]]:
        return [self.backend.figures(limit) for limit in self.last_limits.values()]

    def is_forgettable(self, limit: Limit) -> bool:
        """A period that ended a day ago may be dropped by the store."""
        return limit.resets_at is not None and self.latest_unix_s >= limit.resets_at + 86_400.0

    @invariant()
    def the_figures_are_those_of_the_model(self) -> None:
        for limit in self.last_limits.values():
            if self.is_forgettable(limit):
                continue
            settled, held = self.backend.figures(limit)
            assert settled >= 0
            assert held >= 0
            least, most = self.model.bounds(limit)
            assert least <= settled + held <= most
            if limit.kind != "rolling":
                tally = self.model.tallies.get(limit.key, Tally())
                assert (settled, held) == (tally.settled, tally.held)
                assert settled + held <= tally.most_allowed
            elif limit.unit == "request":
                assert held == 0


def test_random_lives_keep_every_promise(make_backend: Callable[[FakeClock], Backend]) -> None:
    class Machine(CounterMachine):
        def __init__(self) -> None:
            super().__init__(make_backend)

    run_state_machine_as_test(Machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
