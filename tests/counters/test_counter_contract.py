"""What every counter store promises, case by case. `test_counter_machine.py` looks for what these cases forgot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.types import Limit, Unit
from tests.counters.backend import (
    TICK_S,
    Backend,
    MemoryBackend,
    admitted,
    credits_left,
    gauge,
    money,
    names,
    refused,
    requests,
    tokens,
)

HOUR_S = 3600.0
MONTHLY_CALLS = money(5, 1, key="calls:ada")._replace(unit="request")

# All or nothing


def test_a_call_takes_of_every_group_in_their_order(backend: Backend) -> None:
    taken = admitted(backend.take("h", requests(10), money(1_000, 400), gauge(2)))
    assert names(taken.states) == ["requests:ada", "quota:ada", "gauge:ada"]
    assert [(s.settled, s.held, s.remaining) for s in taken.states] == [(1, 0, 9), (0, 400, 600), (0, 1, 1)]
    assert [s.reset_s for s in taken.states] == [HOUR_S, 86_400.0, 0.0]


@pytest.mark.parametrize("position", range(7))
def test_a_denied_call_takes_nothing_wherever_it_fails(backend: Backend, position: int) -> None:
    room = [requests(10), money(1_000, 400), gauge(2), tokens(1_000, 300), requests(1, 0, key="none"), MONTHLY_CALLS]
    before = [backend.read(limit) for limit in room]
    groups = [*room[:position], credits_left(5, 6), *room[position:]]
    assert names([refused(backend.take("h", *groups)).state]) == ["credits:ada"]
    assert [backend.read(limit) for limit in room] == before
    backend.settle("h")
    assert [backend.read(limit) for limit in room] == before


@pytest.mark.parametrize("capacity", [3, 600])
def test_denied_calls_do_not_lengthen_the_wait(backend: Backend, capacity: int) -> None:
    limit = requests(capacity)
    assert backend.take_many(limit, capacity + 50, prefix="a") == capacity
    before = backend.read(limit)
    backend.clock.advance(60.0)
    assert backend.take_many(limit, 50, prefix="b") == 0
    assert backend.read(limit).reset_s == before.reset_s - 60.0


def test_a_group_is_satisfied_by_its_first_alternative_with_room(backend: Backend) -> None:
    payers = (credits_left(10, 6, key="free"), credits_left(100, 6, key="paid"))
    assert names(admitted(backend.take("a", payers)).states) == ["free"]
    assert names(admitted(backend.take("b", payers)).states) == ["paid"]
    backend.release("a")
    assert names(admitted(backend.take("c", payers)).states) == ["free"]
    assert backend.figures(payers[0]) == (0, 6)
    assert backend.figures(payers[1]) == (0, 6)


def test_limits_with_one_key_share_it_within_a_call_too(backend: Backend) -> None:
    limit = requests(3, 2)
    assert refused(backend.take("a", limit, limit)).state.limit == limit
    assert backend.figures(limit) == (0, 0)
    admitted(backend.take("b", requests(4, 2), requests(4, 2)))
    assert backend.figures(limit) == (4, 0)


def test_of_several_full_limits_the_one_that_takes_longest_is_told(backend: Backend) -> None:
    """Else an app would be sent back and forth between waits that are not the true one."""
    rate, quota = requests(1), money(100, 60)
    admitted(backend.take("a", rate, quota))
    backend.settle("a")
    answer = refused(backend.take("b", rate, quota))
    assert (answer.state.limit, answer.retry_after_s) == (quota, 86_400.0)
    backend.clock.advance(86_400.0 - 600.0)
    admitted(backend.take("c", rate))
    answer = refused(backend.take("d", rate, quota))
    assert (answer.state.limit, answer.retry_after_s) == (rate, HOUR_S)
    never = credits_left(5, 6)
    assert refused(backend.take("e", rate, quota, never)).state.limit == never


def test_the_wait_of_a_group_is_that_of_its_soonest_alternative(backend: Backend) -> None:
    slow, soon = requests(1, key="slow"), requests(1, key="soon", window_s=60)
    admitted(backend.take("a", slow, soon))
    for group in ((slow, soon), (soon, slow)):
        answer = refused(backend.take("b", group))
        assert answer.retry_after_s == 60.0
        assert answer.state.limit == group[-1]


# Holds


def test_a_hold_ends_exactly_once(backend: Backend) -> None:
    limit = money(1_000, 400)
    admitted(backend.take("h", limit))
    backend.settle("h", {"nano_usd": 250})
    assert backend.figures(limit) == (250, 0)
    backend.settle("h", {"nano_usd": 250})
    backend.release("h")
    assert backend.figures(limit) == (250, 0)


def test_ending_an_unknown_hold_changes_nothing(backend: Backend) -> None:
    limit = money(1_000, 400)
    admitted(backend.take("h", limit))
    backend.settle("never taken", {"nano_usd": 1})
    backend.release("never taken")
    assert backend.figures(limit) == (0, 400)


def test_an_id_may_be_used_again_only_after_its_hold_has_ended(backend: Backend) -> None:
    limit = money(1_000, 400)
    refused(backend.take("h", money(100, 400)))
    admitted(backend.take("h", limit))
    with pytest.raises(ValueError, match="open already"):
        backend.take("h", limit)
    assert backend.figures(limit) == (0, 400)
    backend.release("h")
    admitted(backend.take("h", limit))


def test_settling_without_an_actual_books_what_was_taken(backend: Backend) -> None:
    limit = money(1_000, 400)
    admitted(backend.take("h", limit))
    backend.settle("h", {"token": 7})
    assert backend.figures(limit) == (400, 0)


def test_settling_above_the_hold_is_booked_in_full(backend: Backend) -> None:
    limit = money(1_000, 400)
    admitted(backend.take("h", limit))
    backend.settle("h", {"nano_usd": 1_500})
    state = backend.read(limit)
    assert (state.settled, state.held, state.remaining) == (1_500, 0, 0)
    refused(backend.take("i", money(1_000, 1)))


def test_an_actual_below_zero_counts_as_zero(backend: Backend) -> None:
    quota, window = money(1_000, 400), tokens(1_000, 400)
    admitted(backend.take("h", quota, window))
    backend.settle("h", {"nano_usd": -5, "token": -5})
    assert backend.figures(quota) == (0, 0)
    assert backend.figures(window) == (0, 0)


def test_a_hold_of_nothing_may_still_settle_something(backend: Backend) -> None:
    limit, window = money(1_000, 0), tokens(1_000, 0, window_s=3600)
    admitted(backend.take("h", limit, window))
    admitted(backend.take("released", window))
    backend.release("released")
    for _ in range(500):
        backend.clock.advance(2.0)
        backend.release("nobody")
        admitted(backend.take("other", requests(1_000)))
        backend.settle("other")
    backend.settle("h", {"nano_usd": 30, "token": 40})
    assert backend.figures(limit) == (30, 0)
    assert backend.figures(window) == (40, 0)


def test_a_hold_of_nothing_leaves_an_empty_window_behind(backend: Backend) -> None:
    window = tokens(1_000, 0)
    admitted(backend.take("a", window))
    admitted(backend.take("b", window))
    refused(backend.take("c", window, gauge(1, 2)))
    backend.settle("a", {"token": 0})
    backend.release("b")
    assert backend.read(window) == (window, 0, 0, 0.0, 0)


@pytest.mark.parametrize("limit", [requests(5), requests(5_000), MONTHLY_CALLS])
def test_a_request_is_never_given_back(backend: Backend, limit: Limit) -> None:
    admitted(backend.take("a", limit))
    admitted(backend.take("b", limit))
    backend.release("a")
    backend.settle("b", {"request": 0})
    assert backend.figures(limit) == (2, 0)


def test_an_amount_of_zero_always_fits(backend: Backend) -> None:
    """A model that costs nothing stays usable when the money is gone."""
    full = [requests(1), money(100, 100), gauge(1), tokens(100, 100)]
    admitted(backend.take("a", *full))
    before = [backend.figures(limit) for limit in full]
    admitted(backend.take("b", *(limit._replace(amount=0) for limit in full)))
    assert [backend.figures(limit) for limit in full] == before
    backend.release("b")
    assert [backend.figures(limit) for limit in full] == before


def test_a_negative_amount_is_a_mistake_and_takes_nothing(backend: Backend) -> None:
    limit = money(1_000, 400)
    with pytest.raises(ValueError, match="would take -1"):
        backend.take("h", limit, gauge(1, -1))
    assert backend.figures(limit) == (0, 0)


def test_of_64_calls_that_need_most_of_what_is_left_exactly_one_passes(backend: Backend) -> None:
    limit = money(1_000, 600)
    answers = [backend.take(f"h{number}", limit) for number in range(64)]
    admitted(answers[0])
    for answer in answers[1:]:
        assert refused(answer).held_by_others
    assert backend.figures(limit) == (0, 600)


# Money and its month


def test_money_that_others_only_hold_may_be_back_in_a_moment(backend: Backend) -> None:
    limit = money(1_000, 600)
    admitted(backend.take("a", limit))
    answer = refused(backend.take("b", limit))
    assert (answer.held_by_others, answer.retry_after_s) == (True, 1.0)
    assert (answer.state.settled, answer.state.held) == (0, 600)
    backend.settle("a", {"nano_usd": 100})
    admitted(backend.take("b", limit))


def test_money_that_is_spent_is_back_when_the_month_ends(backend: Backend) -> None:
    limit = money(1_000, 600)
    admitted(backend.take("a", limit))
    backend.settle("a")
    backend.clock.advance(400.0)
    answer = refused(backend.take("b", limit))
    assert (answer.held_by_others, answer.retry_after_s) == (False, 86_000.0)
    assert answer.state.reset_s == 86_000.0
    backend.clock.advance(86_000.0)
    admitted(backend.take("b", money(1_000, 600, key="quota:ada:next")))


def test_money_that_would_be_spent_anyway_is_not_blamed_on_calls_in_flight(backend: Backend) -> None:
    admitted(backend.take("a", money(1_000, 600)))
    backend.settle("a")
    admitted(backend.take("b", money(1_000, 300)))
    answer = refused(backend.take("c", money(1_000, 500)))
    assert (answer.held_by_others, answer.retry_after_s) == (False, 86_400.0)
    assert refused(backend.take("c", money(1_000, 400))).held_by_others


def test_a_balance_has_no_end_to_wait_for(backend: Backend) -> None:
    limit = credits_left(1_000, 600)
    admitted(backend.take("a", limit))
    assert refused(backend.take("b", limit)).held_by_others
    backend.settle("a")
    answer = refused(backend.take("b", limit))
    assert (answer.retry_after_s, answer.held_by_others) == (None, False)
    admitted(backend.take("b", limit._replace(capacity=1_200)))


@pytest.mark.parametrize(
    "limit",
    [
        requests(5, 6),
        requests(5_000, 5_001),
        tokens(100, 101),
        money(100, 101),
        credits_left(100, 101),
        gauge(2, 3),
        requests(0),
        money(0, 1),
    ],
)
def test_what_is_above_the_whole_capacity_never_fits(backend: Backend, limit: Limit) -> None:
    answer = refused(backend.take("h", limit))
    assert (answer.retry_after_s, answer.held_by_others) == (None, False)


def test_a_call_admitted_before_midnight_settles_in_its_month(backend: Backend) -> None:
    january, february = money(1_000, 400, key="quota:ada:01"), money(1_000, 400, key="quota:ada:02")
    backend.clock.advance(86_400.0 - TICK_S)
    admitted(backend.take("late", january))
    backend.clock.advance(HOUR_S)
    admitted(backend.take("next", february))
    backend.settle("late", {"nano_usd": 300})
    assert backend.figures(january) == (300, 0)
    assert backend.figures(february) == (0, 400)


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 900), st.booleans()), max_size=40))
def test_settled_is_the_sum_of_what_ended_and_held_of_what_did_not(calls: list[tuple[int, int, bool]]) -> None:
    backend = MemoryBackend()
    settled = held = 0
    for number, (amount, actual, is_ended) in enumerate(calls):
        fits = amount == 0 or settled + held + amount <= 1_000
        answer = backend.take(f"h{number}", money(1_000, amount))
        if not fits:
            refused(answer)
            continue
        admitted(answer)
        if is_ended:
            backend.settle(f"h{number}", {"nano_usd": actual})
            settled += actual
        else:
            held += amount
        assert backend.figures(money(1_000, 1)) == (settled, held)


# Plans that change


def test_an_upgrade_counts_at_once_and_keeps_what_was_used(backend: Backend) -> None:
    admitted(backend.take("a", requests(1), money(100, 90)))
    backend.settle("a")
    refused(backend.take("b", requests(1), money(100, 90)))
    taken = admitted(backend.take("b", requests(2), money(1_000, 90)))
    assert [(state.settled, state.held) for state in taken.states] == [(2, 0), (90, 90)]


def test_a_downgrade_counts_at_once_and_keeps_what_was_used(backend: Backend) -> None:
    assert backend.take_many(requests(100), 50, prefix="a") == 50
    assert refused(backend.take("b", requests(10))).state.settled == 50
    assert backend.read(requests(10)).remaining == 0


@pytest.mark.parametrize(("before", "after"), [(512, 600), (600, 512)])
def test_a_window_keeps_its_content_when_the_plan_changes_its_precision(
    backend: Backend, before: int, after: int
) -> None:
    assert backend.take_many(requests(before), before + 1, prefix="a") == before
    backend.clock.advance(1_800.0)
    assert backend.take_many(requests(after), 200, prefix="b") == max(0, after - before)
    backend.clock.advance(1_800.0 - TICK_S)
    assert backend.take_many(requests(after), 1, prefix="c") == 0
    backend.clock.advance(60.0 + TICK_S)
    assert backend.take_many(requests(after), after, prefix="d") == after - max(0, after - before)


def test_the_wait_stays_true_when_the_plan_changes_the_windows_precision(backend: Backend) -> None:
    backend.clock.advance(TICK_S)
    admitted(backend.take("a", requests(600)))
    backend.clock.advance(TICK_S)
    admitted(backend.take("b", requests(2)))
    both = requests(2, 2)
    wait_s = refused(backend.take("c", both)).retry_after_s
    assert wait_s is not None
    backend.clock.advance(wait_s - TICK_S)
    refused(backend.take("c", both))
    backend.clock.advance(TICK_S)
    admitted(backend.take("c", both))


# Rolling windows


@pytest.mark.parametrize(
    ("limit", "is_exact"),
    [
        pytest.param(requests(1), True, id="one request"),
        pytest.param(requests(512), True, id="the most requests of an exact log"),
        pytest.param(requests(513), False, id="one request more"),
        pytest.param(tokens(512, 1), False, id="tokens, however few"),
    ],
)
def test_up_to_512_requests_are_exact_and_tokens_never(backend: Backend, limit: Limit, is_exact: bool) -> None:
    backend.clock.advance(TICK_S)
    full = limit._replace(amount=limit.capacity)
    reset_s = admitted(backend.take("h", full)).states[0].reset_s
    assert (reset_s == limit.window_s) is is_exact
    assert limit.window_s <= reset_s <= limit.window_s * 61 / 60


def test_an_exact_window_lets_the_next_in_at_the_instant_the_oldest_leaves(backend: Backend) -> None:
    limit = requests(3)
    for wait_s in (0.0, 10.0, 20.0):
        backend.clock.advance(wait_s)
        assert backend.take_many(limit, 1, prefix=f"a{wait_s}") == 1
    answer = refused(backend.take("b", limit))
    assert (answer.retry_after_s, answer.held_by_others) == (HOUR_S - 30.0, False)
    backend.clock.advance(HOUR_S - 30.0 - TICK_S)
    assert refused(backend.take("b", limit)).retry_after_s == TICK_S
    backend.clock.advance(TICK_S)
    admitted(backend.take("b", limit))
    assert refused(backend.take("c", limit)).retry_after_s == 10.0


@given(st.floats(0.0, 10.0), st.floats(0.0, 3_599.0))
def test_the_wait_is_long_enough_whatever_floats_round(start_s: float, pause_s: float) -> None:
    backend = MemoryBackend()
    backend.clock.monotonic_s = start_s
    admitted(backend.take("a", requests(1)))
    backend.clock.monotonic_s += pause_s
    wait_s = refused(backend.take("b", requests(1))).retry_after_s
    assert wait_s is not None
    backend.clock.monotonic_s += wait_s
    admitted(backend.take("b", requests(1)))


def test_the_wait_of_many_units_lasts_until_enough_have_left(backend: Backend) -> None:
    for number in range(5):
        admitted(backend.take(f"a{number}", requests(5)))
        backend.clock.advance(10.0)
    assert refused(backend.take("b", requests(5, 3))).retry_after_s == HOUR_S - 30.0


def test_the_reset_is_when_the_window_is_empty(backend: Backend) -> None:
    limit = requests(3)
    assert backend.read(limit).reset_s == 0.0
    backend.take_many(limit, 1, prefix="a")
    backend.clock.advance(100.0)
    backend.take_many(limit, 1, prefix="b")
    assert backend.read(limit).reset_s == HOUR_S
    backend.clock.advance(HOUR_S)
    assert backend.read(limit) == (limit, 0, 0, 0.0, 0)


@pytest.mark.parametrize("start_s", [0.0, TICK_S, 30.0, 59.0, 60.0 - TICK_S])
def test_a_bucketed_window_is_never_over_and_early_by_at_most_a_sixtieth(backend: Backend, start_s: float) -> None:
    limit = requests(600)
    backend.clock.advance(start_s)
    assert backend.take_many(limit, 601, prefix="a") == 600
    wait_s = refused(backend.take("b", limit)).retry_after_s
    assert wait_s is not None
    assert HOUR_S <= wait_s <= HOUR_S * 61 / 60
    backend.clock.advance(wait_s - TICK_S)
    refused(backend.take("b", limit))
    backend.clock.advance(TICK_S)
    assert backend.take_many(limit, 601, prefix="c") == 600


@given(
    st.lists(st.tuples(st.integers(0, 2_000), st.integers(1, 200)), min_size=1, max_size=80),
    st.sampled_from([("token", 400), ("token", 1_000), ("request", 400), ("request", 1_000)]),
)
def test_no_window_ever_holds_more_than_the_capacity(calls: list[tuple[int, int]], kind: tuple[Unit, int]) -> None:
    """Against every window that ends at an admission: there is none with more units than those."""
    unit, capacity = kind
    backend = MemoryBackend()
    log: list[tuple[float, int]] = []
    for number, (ticks, amount) in enumerate(calls):
        backend.clock.advance(ticks * TICK_S)
        now = backend.clock.monotonic_s
        limit = tokens(capacity, amount)._replace(unit=unit)
        within = sum(units for at, units in log if at > now - 60)
        nearly_within = sum(units for at, units in log if at > now - 61)
        answer = backend.take(f"h{number}", limit)
        if hasattr(answer, "states"):
            assert within + amount <= capacity
            log.append((now, amount))
        else:
            is_exact = unit == "request" and capacity <= 512
            assert (within if is_exact else nearly_within) + amount > capacity


def test_tokens_are_corrected_when_the_call_has_ended(backend: Backend) -> None:
    admitted(backend.take("a", tokens(1_000, 900)))
    assert backend.figures(tokens(1_000, 1)) == (0, 900)
    backend.settle("a", {"token": 100})
    assert backend.figures(tokens(1_000, 1)) == (100, 0)
    admitted(backend.take("b", tokens(1_000, 900)))
    backend.release("b")
    assert backend.figures(tokens(1_000, 1)) == (100, 0)
    admitted(backend.take("c", tokens(1_000, 900)))
    backend.settle("c", {"token": 5_000})
    assert backend.figures(tokens(1_000, 1)) == (5_100, 0)
    backend.clock.advance(61.0)
    assert backend.figures(tokens(1_000, 1)) == (0, 0)


def test_tokens_that_calls_in_flight_hold_may_be_back_in_a_moment(backend: Backend) -> None:
    admitted(backend.take("a", tokens(1_000, 900)))
    answer = refused(backend.take("b", tokens(1_000, 900)))
    assert (answer.held_by_others, answer.retry_after_s) == (True, 1.0)


def test_tokens_that_left_the_window_are_past_correcting(backend: Backend) -> None:
    admitted(backend.take("a", tokens(1_000, 400)))
    backend.clock.advance(30.0)
    admitted(backend.take("b", tokens(1_000, 300)))
    backend.clock.advance(32.0)
    admitted(backend.take("c", tokens(1_000, 500)))
    backend.settle("a", {"token": 700})
    assert backend.figures(tokens(1_000, 1)) == (0, 800)


# Gauges


def test_a_gauge_is_given_back_however_the_call_ends(backend: Backend) -> None:
    limit = gauge(2)
    admitted(backend.take("a", limit))
    admitted(backend.take("b", limit))
    answer = refused(backend.take("c", limit))
    assert (answer.held_by_others, answer.retry_after_s) == (True, 1.0)
    backend.settle("a", {"call": 1})
    admitted(backend.take("c", limit))
    backend.release("b")
    backend.release("c")
    assert backend.figures(limit) == (0, 0)


# Clocks that misbehave


@pytest.mark.parametrize("capacity", [3, 600])
def test_a_clock_that_steps_back_frees_nothing(backend: Backend, capacity: int) -> None:
    limit = requests(capacity)
    backend.clock.advance(7_200.0)
    assert backend.take_many(limit, capacity, prefix="a") == capacity
    backend.clock.advance(-7_200.0)
    assert backend.take_many(limit, 1, prefix="b") == 0
    backend.clock.advance(7_200.0 + HOUR_S - TICK_S)
    assert backend.take_many(limit, 1, prefix="c") == 0
    backend.clock.advance(60.0 + TICK_S)
    assert backend.take_many(limit, capacity, prefix="d") == capacity


def test_a_call_admitted_by_a_clock_that_is_behind_counts_from_the_latest_instant_seen(backend: Backend) -> None:
    limit = requests(1)
    backend.clock.advance(7_200.0)
    assert backend.read(limit).settled == 0
    backend.clock.advance(-7_200.0)
    admitted(backend.take("a", limit))
    backend.clock.advance(7_200.0)
    refused(backend.take("b", limit))
    backend.clock.advance(HOUR_S)
    admitted(backend.take("b", limit))


def test_a_wall_clock_that_steps_over_the_month_and_back_loses_no_money(backend: Backend) -> None:
    limit = money(1_000, 900)
    admitted(backend.take("a", limit))
    backend.settle("a")
    backend.clock.unix_s += 40 * 86_400
    for number in range(200):
        backend.clock.advance(2.0)
        backend.take(f"b{number}", requests(1_000))
    assert refused(backend.take("c", limit)).retry_after_s == 0.0
    backend.clock.unix_s -= 40 * 86_400
    assert backend.figures(limit) == (900, 0)


# The rebuild at start


@pytest.mark.parametrize("capacity", [5, 600])
def test_a_seeded_window_goes_on_where_the_old_one_was(backend: Backend, capacity: int) -> None:
    limit = requests(capacity)
    ages = [(HOUR_S - 10.0, 2), (0.0, 1), (HOUR_S + 60.0, 50), (100.0, 1), (-5.0, 1), (1.0, 0)]
    backend.seed_rolling(limit, ages)
    assert backend.figures(limit) == (5, 0)
    backend.seed_rolling(limit, ages)
    assert backend.figures(limit) == (5, 0)
    backend.clock.advance(70.0)
    assert backend.figures(limit) == (3, 0)
    backend.clock.advance(HOUR_S)
    assert backend.figures(limit) == (0, 0)


def test_a_seeded_exact_window_has_the_true_wait(backend: Backend) -> None:
    limit = requests(2)
    backend.seed_rolling(limit, [(600.0, 1), (1_200.0, 1)])
    assert refused(backend.take("h", limit)).retry_after_s == HOUR_S - 1_200.0


def test_seeded_money_is_spent(backend: Backend) -> None:
    limit = money(1_000, 400)
    backend.seed_settled(limit, 700)
    backend.seed_settled(limit, 700)
    assert backend.figures(limit) == (700, 0)
    answer = refused(backend.take("h", limit))
    assert (answer.retry_after_s, answer.held_by_others) == (86_400.0, False)
    admitted(backend.take("h", money(1_000, 300)))


def test_a_seed_that_makes_no_sense_is_refused(backend: Backend) -> None:
    admitted(backend.take("h", requests(5), gauge(1), money(100, 1)))
    with pytest.raises(ValueError, match="-1"):
        backend.seed_settled(money(1_000, 1), -1)
    with pytest.raises(ValueError, match="settles nothing"):
        backend.seed_settled(requests(5), 3)
    with pytest.raises(ValueError, match="settles nothing"):
        backend.seed_settled(gauge(1), 3)
    with pytest.raises(ValueError, match="not a rolling window"):
        backend.seed_rolling(money(100, 1), [(1.0, 1)])
