"""Random creators, keys, plans, clocks, grants and calls in flight against every backend, beside `model.py`.

What must hold after every step: no rolling window over its capacity, settled + held within the cap, nothing negative,
every hold ends exactly once, a refusal took nothing and tells the true wait. `COUNTER_LIVES` says how many lives are
lived; more than the suite's are drawn anew each time.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.counters.base import Refused, Taken
from policies import decide
from policies.types import (
    PAYERS,
    Account,
    BudgetAction,
    Call,
    Deny,
    Limit,
    LimitGroup,
    Plan,
    PromoGrant,
    ProviderLimits,
)
from tests.counters.backend import TICK_S, Backend, FakeClock, gauge
from tests.counters.model import Book, Model
from tests.rig.environment import inherited

CREATORS = ["ada", "bob"]
BURST = 12
KEYS = ["plain", "own"]
"""Of each creator: one without and one with limits of its own."""
START = datetime(2025, 1, 31, 23, 0, tzinfo=UTC).timestamp()
STEPS_S = [TICK_S, 1.0, 30.0, 59.0, 60.0, 61.0, 1_000.0, 3_540.0, 3_600.0, 3_661.0, 86_400.0, 31 * 86_400.0]
BACK_S = [TICK_S, 1.0, 3_600.0, 7_200.0]
BACK_S_MAX = 40_000.0
"""A wall clock that is half a day behind itself is not what the store promises to survive."""
EXPIRES_IN_S = [0.0, 60.0, 3_600.0, 86_400.0, 40 * 86_400.0]
COUNTED = frozenset({"requests_per_minute", "requests_per_day", "tokens_per_day", "p/requests_per_hour"})


PROVIDER_LIMITS = ({"p": ProviderLimits(requests_per_hour=3)}, {"p": ProviderLimits(concurrent_calls=1)})
WINDOWS: dict[str, tuple[Any, ...]] = {
    "requests_per_minute": (1, 2, 600),
    "requests_per_hour": (0, 3, 512, 513, 600),
    "requests_per_day": (5, 700),
    "tokens_per_minute": (600, 1_000),
    "tokens_per_day": (900, 2_000),
    "concurrent_calls": (1, 3),
    "providers": PROVIDER_LIMITS,
}
MONEY: dict[str, tuple[Any, ...]] = {
    "quota_nano_usd_per_month": (0, 100, 1_000, 2_000),
    "budget_nano_usd_per_month": (300, 500),
    "budget_hard_nano_usd_per_month": (800,),
}
ACTIONS: tuple[BudgetAction, ...] = ("downgrade", "deny", "downgrade_then_deny")


@st.composite
def plans(draw: st.DrawFn, /, **more: Any) -> Plan:
    """A plan that limits a few things, so that calls get far enough to meet each of them."""
    windows = draw(st.lists(st.sampled_from(sorted(WINDOWS)), max_size=2, unique=True))
    money = draw(st.lists(st.sampled_from(sorted(MONEY)), max_size=2, unique=True))
    fields = {name: draw(st.sampled_from((WINDOWS | MONEY)[name])) for name in (*windows, *money)}
    return Plan("drawn", **fields, **{name: draw(values) for name, values in more.items()})


PLANS = plans(
    when_budget_reached=st.sampled_from(ACTIONS),
    free_images_per_day=st.sampled_from([0, 1, 3]),
    payers=st.permutations(PAYERS).map(tuple) | st.just(PAYERS[:3]),
    counted=st.just(COUNTED),
)
KEY_PLANS = plans()
AMOUNTS = st.sampled_from([0, 1, 90, 300, 600, 1_001])
LEAST = st.sampled_from([None, 0, 1, 60, 250])
CALLS = st.builds(
    Call,
    endpoint=st.just("images"),
    requested_model=st.just("m"),
    model=st.just("m"),
    provider=st.sampled_from(["p", "q"]),
    tier=st.just("standard"),
    charge_nano_usd=AMOUNTS,
    cost_nano_usd=AMOUNTS,
    expected_nano_usd=st.sampled_from([0, 1, 50, 100, 250]),
    charge_min_nano_usd=LEAST,
    cost_min_nano_usd=LEAST,
    tokens=st.sampled_from([0, 1, 100, 500, 601]),
    images=st.sampled_from([0, 1, 2]),
    credits=st.sampled_from([None, None, 1, 4, 11]),
    downgrade=st.sampled_from(["possible", "impossible", "refused"]),
)
FIRST_PLAN = Plan("first", 600, 2_000, budget_nano_usd_per_month=500, free_images_per_day=2, counted=COUNTED)
FREE_CALL = Call("chat", "m", "m", "p", "standard", 0, 0)
UNITS = {"nano_usd": 1_200, "cost_nano_usd": 900, "token": 900, "image": 3, "credit": 12, "request": 0, "call": 0}
ACTUALS = st.none() | st.fixed_dictionaries({}, optional={unit: st.integers(-1, most) for unit, most in UNITS.items()})


class CounterMachine(RuleBasedStateMachine):
    def __init__(self, make_backend: Callable[[FakeClock], Backend]) -> None:
        super().__init__()
        self.clock = FakeClock(START)
        self.backend = make_backend(self.clock)
        self.model = Model(now=self.clock.monotonic_s, unix=START)
        self.plans = dict.fromkeys(CREATORS, FIRST_PLAN)
        self.key_plans = {creator: Plan("key", requests_per_minute=2) for creator in CREATORS}
        self.credits = dict.fromkeys(CREATORS, 10)
        self.promo_grants: dict[str, list[PromoGrant]] = {creator: [] for creator in CREATORS}
        self.last_limits: dict[str, Limit] = {}
        self.serial = 0
        self.latest_unix_s = START
        self.pass_time(0.0)

    # What is asked of the store

    def account(self, creator: str, key: str) -> Account:
        return Account(
            creator,
            creator,
            f"{creator}-{key}",
            self.plans[creator],
            key_plan=self.key_plans[creator] if key == "own" else None,
            credits_granted=self.credits[creator],
            promo_grants=tuple(self.promo_grants[creator]),
        )

    def groups(self, creator: str, key: str, call: Call) -> list[LimitGroup]:
        """What the policies ask for now; nothing where they refuse by themselves."""
        groups = decide(call, self.account(creator, key), datetime.fromtimestamp(self.clock.unix_s, UTC))
        if isinstance(groups, Deny):
            return []
        for group in groups:
            self.last_limits.update((limit.key, limit) for limit in group)
        return groups

    def ask(self, groups: list[LimitGroup]) -> tuple[str, Taken | Refused]:
        """One call, its answer compared with the model, the model brought up to date."""
        self.serial += 1
        hold_id = f"h{self.serial}"
        before = self.backend.run(self.backend.store.read(limit for group in groups for limit in group))
        preview = self.backend.preview(*groups)
        answer = self.backend.take(hold_id, *groups)
        assert answer == preview
        if isinstance(answer, Refused):
            after = self.backend.run(self.backend.store.read(limit for group in groups for limit in group))
            assert after == before
            self.check_refusal(groups, answer)
        else:
            self.check_admission(groups, answer)
            self.model.take(hold_id, answer.states)
        return hold_id, answer

    def check_admission(self, groups: list[LimitGroup], answer: Taken) -> None:
        assert len(answer.states) == len(groups)
        for group, state in zip(groups, answer.states, strict=True):
            limit = state.limit
            assert not self.model.surely_has_room(group[: group.index(limit)])
            assert self.model.fits(limit) is not False
            assert state.taken == self.model.taken(limit)
            if limit.kind == "rolling" and limit.amount:
                assert self.model.within(limit) + limit.amount <= limit.capacity
            elif state.taken:
                assert state.settled + state.held <= limit.capacity

    def check_refusal(self, groups: list[LimitGroup], answer: Refused) -> None:
        unsatisfied = [group for group in groups if group[-1] in answer.unsatisfied]
        assert tuple(group[-1] for group in unsatisfied) == answer.unsatisfied
        assert not any(self.model.surely_has_room(group) for group in unsatisfied)
        assert all(group in unsatisfied for group in groups if self.model.surely_has_none(group))
        assert answer.state.limit in answer.unsatisfied
        shortest, longest = self.model.waits(groups)
        wait_s = float("inf") if answer.retry_after_s is None else answer.retry_after_s
        assert shortest <= wait_s <= longest
        self.model.remember_refusal(unsatisfied[0])

    # Calls

    @rule(creator=st.sampled_from(CREATORS), key=st.sampled_from(KEYS), call=CALLS)
    def call(self, creator: str, key: str, call: Call) -> None:
        self.ask(self.groups(creator, key, call))

    @rule(creator=st.sampled_from(CREATORS), key=st.sampled_from(KEYS), call=CALLS, calls=st.sampled_from([2, 5]))
    def crowd(self, creator: str, key: str, call: Call, calls: int) -> None:
        """Several of the same at once: each sees what the others hold."""
        for _ in range(calls):
            self.ask(self.groups(creator, key, call))

    @rule(creator=st.sampled_from(CREATORS))
    def burst(self, creator: str) -> None:
        """Many calls at once that cost nothing; the first refusal ends it, as the others would be refused too."""
        groups = self.groups(creator, "plain", FREE_CALL)
        for _ in range(BURST):
            hold_id, answer = self.ask(groups)
            if isinstance(answer, Refused):
                return
            self.end_hold(hold_id, {})

    @rule(
        creator=st.sampled_from(CREATORS),
        expected=st.sampled_from([50, 100, 250]),
        cost=st.sampled_from([None, 0, 40, 50]),
        calls=st.sampled_from([1, 4]),
    )
    def spend(self, creator: str, expected: int, cost: int | None, calls: int) -> None:
        """Calls that only a budget minds; they stay in flight where `cost` is None."""
        call = FREE_CALL._replace(expected_nano_usd=expected, downgrade="possible")
        for _ in range(calls):
            hold_id, answer = self.ask(self.groups(creator, "plain", call))
            if isinstance(answer, Taken) and cost is not None:
                self.end_hold(hold_id, {"cost_nano_usd": cost})

    @precondition(lambda self: self.request_windows())
    @rule(pick=st.integers(0, 10**6), units=st.sampled_from([2, 508, 595]), age_s=st.sampled_from([0.0, 30.0, 3_000.0]))
    def rebuild_window(self, pick: int, units: int, age_s: float) -> None:
        """As a start does it, and a quick way to the edge of the large windows."""
        windows = self.request_windows()
        limit = windows[pick % len(windows)]
        self.backend.seed_rolling(limit, [(age_s, units)])
        self.model.seed(limit, age_s, units)

    def request_windows(self) -> list[Limit]:
        return [limit for limit in self.last_limits.values() if limit.kind == "rolling" and limit.unit == "request"]

    @precondition(lambda self: self.model.holds)
    @rule(pick=st.integers(0, 10**6), actuals=ACTUALS)
    def end(self, pick: int, actuals: dict[str, int] | None) -> None:
        hold_id = sorted(self.model.holds)[pick % len(self.model.holds)]
        self.end_hold(hold_id, actuals)
        figures = self.all_figures()
        self.backend.settle(hold_id, dict.fromkeys(UNITS, 7))
        self.backend.release(hold_id)
        assert self.all_figures() == figures

    def end_hold(self, hold_id: str, actuals: dict[str, int] | None) -> None:
        if actuals is None:
            self.backend.release(hold_id)
        else:
            self.backend.settle(hold_id, actuals)
        self.model.end(hold_id, actuals)

    # Plans, grants and what is booked without a call

    @rule(creator=st.sampled_from(CREATORS), plan=PLANS)
    def change_plan(self, creator: str, plan: Plan) -> None:
        self.plans[creator] = plan

    @rule(creator=st.sampled_from(CREATORS), plan=KEY_PLANS)
    def change_key(self, creator: str, plan: Plan) -> None:
        self.key_plans[creator] = plan

    @rule(creator=st.sampled_from(CREATORS), units=st.sampled_from([1, 10]))
    def grant(self, creator: str, units: int) -> None:
        self.credits[creator] += units

    @rule(creator=st.sampled_from(CREATORS), units=st.sampled_from([3, 8]), expires_in_s=st.sampled_from(EXPIRES_IN_S))
    def grant_for_a_while(self, creator: str, units: int, expires_in_s: float) -> None:
        self.promo_grants[creator].append(PromoGrant(units, self.clock.unix_s + expires_in_s))

    @precondition(lambda self: self.adjustable())
    @rule(pick=st.integers(0, 10**6), units=st.sampled_from([-1_000, -5, -1, 1, 50]))
    def adjust(self, pick: int, units: int) -> None:
        limits = self.adjustable()
        limit = limits[pick % len(limits)]
        self.backend.adjust(limit, units)
        self.model.adjust(limit.key, units)

    def adjustable(self) -> list[Limit]:
        limits = [limit for limit in self.last_limits.values() if limit.kind in ("calendar", "balance")]
        return [limit for limit in limits if not self.is_forgettable(limit)]

    # Time

    @rule(seconds=st.sampled_from(STEPS_S))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.latest_unix_s = max(self.latest_unix_s, self.clock.unix_s)
        self.model.now = max(self.model.now, self.clock.monotonic_s)
        self.model.unix = self.clock.unix_s
        self.backend.read(gauge(1))  # so that the store has seen this instant, should the clock step back

    @rule(seconds=st.sampled_from(BACK_S), is_wall=st.booleans())
    def step_back(self, seconds: float, is_wall: bool) -> None:
        if is_wall and self.latest_unix_s - self.clock.unix_s + seconds < BACK_S_MAX:
            self.clock.unix_s -= seconds
        elif not is_wall:
            self.clock.monotonic_s -= seconds
        self.model.unix = self.clock.unix_s

    @precondition(lambda self: self.clock.monotonic_s >= self.model.now and self.clock.unix_s >= self.latest_unix_s)
    @rule(creator=st.sampled_from(CREATORS), key=st.sampled_from(KEYS), call=CALLS)
    def wait_as_told(self, creator: str, key: str, call: Call) -> None:
        """Nobody else comes: a moment before the wait is over the call does not fit, and at its end it does."""
        for hold_id in sorted(self.model.holds):
            self.end_hold(hold_id, {})
        _, answer = self.ask(self.groups(creator, key, call))
        if isinstance(answer, Taken) or answer.retry_after_s is None:
            return
        assert not answer.held_by_others
        assert answer.retry_after_s > 0
        until = self.clock.unix_s + answer.retry_after_s
        expiries = [grant.expires_at or 0.0 for grant in self.promo_grants[creator]]
        if any(self.clock.unix_s < expires_at <= until for expires_at in expiries):
            return  # what would have paid is gone by then
        self.pass_time(answer.retry_after_s - TICK_S)
        _, early = self.ask(self.groups(creator, key, call))
        assert isinstance(early, Refused)
        assert early.retry_after_s == TICK_S
        self.pass_time(TICK_S)
        _, late = self.ask(self.groups(creator, key, call))
        assert isinstance(late, Taken)

    # What always holds

    def all_figures(self) -> list[tuple[int, int]]:
        return [(state.settled, state.held) for state in self.backend.run(self.backend.store.read(self.known()))]

    def known(self) -> list[Limit]:
        return [limit for limit in self.last_limits.values() if not self.is_forgettable(limit)]

    def is_forgettable(self, limit: Limit) -> bool:
        """A period that ended a day ago may be dropped by the store."""
        return limit.resets_at is not None and self.latest_unix_s >= limit.resets_at + 86_400.0

    @invariant()
    def the_figures_are_those_of_the_model(self) -> None:
        for limit, (settled, held) in zip(self.known(), self.all_figures(), strict=True):
            assert settled >= 0
            assert held >= 0
            least, most = self.model.bounds(limit)
            assert least <= settled + held <= most
            if limit.kind != "rolling":
                assert held == self.model.held(limit.key)
                book = self.model.books.get(limit.key, Book())
                assert settled + held <= max(book.most_allowed, limit.lapsed) or limit.kind == "gauge"
            elif limit.unit == "request":
                assert held == 0


def test_random_lives_keep_every_promise(make_backend: Callable[[FakeClock], Backend]) -> None:
    class Machine(CounterMachine):
        def __init__(self) -> None:
            super().__init__(make_backend)

    usual = make_backend(FakeClock()).lives
    lives = int(inherited().get("COUNTER_LIVES", str(usual)))
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=lives, stateful_step_count=40, deadline=None, derandomize=lives <= usual),
    )
