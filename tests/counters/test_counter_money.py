"""What money asks of every counter store beyond adding up: holds that shrink, refusals that last, units that lapse, and
what is booked without a call."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.counters.base import Taken
from gateway.counters.tally import Tally
from policies.types import UNLIMITED, Limit
from tests.counters.backend import (
    Backend,
    MemoryBackend,
    a_limit,
    admitted,
    budget,
    credits_left,
    gauge,
    money,
    names,
    refused,
    requests,
    shrinking,
)
from tests.counters.model import Book, Used

# Holds that shrink


@pytest.mark.parametrize(
    ("settled", "held", "amount", "amount_min", "taken"),
    [
        pytest.param(0, 0, 400, 100, 400, id="whole where it fits"),
        pytest.param(0, 0, 1_000, 100, 1_000, id="whole up to the last unit"),
        pytest.param(0, 0, 5_000, 100, 1_000, id="above the capacity: all of it"),
        pytest.param(700, 0, 400, 100, 300, id="what is left"),
        pytest.param(900, 0, 400, 100, 100, id="exactly the least"),
        pytest.param(901, 0, 400, 100, None, id="one below the least"),
        pytest.param(0, 200, 400, 100, 400, id="half of 800 beside another hold"),
        pytest.param(0, 201, 400, 100, 399, id="half of what is left, rounded down"),
        pytest.param(600, 1, 400, 100, 199, id="half of what is left, though more would fit"),
        pytest.param(700, 100, 400, 100, 100, id="half is exactly the least"),
        pytest.param(701, 100, 400, 100, None, id="half is below the least, all would not be"),
        pytest.param(0, 900, 50, 50, 50, id="half of what is left is all that is asked"),
        pytest.param(1_500, 0, 400, 100, None, id="more spent than the capacity"),
        pytest.param(1_500, 300, 400, 0, 0, id="a least of nothing is never more than nothing"),
        pytest.param(1_500, 300, 0, 100, 0, id="an amount of nothing fits whatever the least"),
        pytest.param(0, 0, 50, 100, 50, id="a least above the amount means the amount"),
        pytest.param(951, 0, 50, 100, None, id="and no less than it"),
    ],
)
def test_a_hold_shrinks_to_what_is_left(
    backend: Backend, settled: int, held: int, amount: int, amount_min: int, taken: int | None
) -> None:
    limit = shrinking(1_000, amount, amount_min)
    backend.seed_settled(limit, settled)
    admitted(backend.take("other", money(UNLIMITED, held)))
    answer = backend.take("h", limit)
    if taken is None:
        assert refused(answer).state == (limit, settled, held, 86_400.0, 0)
        assert backend.figures(limit) == (settled, held)
    else:
        assert admitted(answer).states == ((limit, settled, held + taken, 86_400.0, taken),)
        assert backend.figures(limit) == (settled, held + taken)


def test_nothing_shrinks_where_nothing_limits(backend: Backend) -> None:
    admitted(backend.take("a", money(UNLIMITED, 10**15)))
    limit = shrinking(UNLIMITED, 10**15, 1)
    assert admitted(backend.take("b", limit)).states[0].taken == 10**15


@pytest.mark.parametrize(
    ("actuals", "settled"),
    [({"nano_usd": 250}, 950), ({"nano_usd": 900}, 1_600), ({}, 1_000), ({"cost_nano_usd": 5}, 1_000), (None, 700)],
)
def test_what_ends_is_what_was_taken(backend: Backend, actuals: dict[str, int] | None, settled: int) -> None:
    limit = shrinking(1_000, 400, 100)
    backend.seed_settled(limit, 700)
    assert admitted(backend.take("h", limit)).states[0].taken == 300
    if actuals is None:
        backend.release("h")
    else:
        backend.settle("h", actuals)
    assert backend.figures(limit) == (settled, 0)
    backend.settle("h", {"nano_usd": 7})
    assert backend.figures(limit) == (settled, 0)


def test_a_shrunken_hold_is_put_back_where_a_later_limit_refuses(backend: Backend) -> None:
    limit = shrinking(1_000, 400, 100)
    backend.seed_settled(limit, 700)
    refused(backend.take("h", limit, gauge(1, 2)))
    assert backend.figures(limit) == (700, 0)


@pytest.mark.parametrize(
    ("settled", "held", "amount_min", "retry_after_s", "held_by_others"),
    [
        pytest.param(0, 900, 100, 1.0, True, id="others hold what is missing"),
        pytest.param(900, 60, 100, 1.0, True, id="alone it would fit exactly"),
        pytest.param(901, 60, 100, 86_400.0, False, id="alone it would not"),
        pytest.param(0, 0, 1_001, None, False, id="not even the least is within the capacity"),
    ],
)
def test_a_hold_that_cannot_shrink_enough_waits_for_its_least(
    backend: Backend, settled: int, held: int, amount_min: int, retry_after_s: float | None, held_by_others: bool
) -> None:
    limit = shrinking(1_000, 2_000, amount_min)
    backend.seed_settled(limit, settled)
    admitted(backend.take("other", money(UNLIMITED, held)))
    answer = refused(backend.take("h", limit))
    assert (answer.retry_after_s, answer.held_by_others) == (retry_after_s, held_by_others)


def test_the_last_money_is_shared_by_halves(backend: Backend) -> None:
    limit = shrinking(1_000, 600, 100)
    takings = [backend.take(f"h{number}", limit) for number in range(5)]
    assert [answer.states[0].taken for answer in takings if isinstance(answer, Taken)] == [600, 200, 100]
    assert refused(takings[-1]).held_by_others


@given(
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 300), st.booleans(), st.integers(0, 900)), max_size=30),
)
def test_shrinking_never_passes_the_capacity_and_wastes_nothing(calls: list[tuple[int, int, bool, int]]) -> None:
    backend = MemoryBackend()
    settled = over = 0
    open_holds: dict[str, int] = {}
    for number, (amount, amount_min, is_ended, actual) in enumerate(calls):
        left = 1_000 - settled - sum(open_holds.values())
        answer = backend.take(f"h{number}", shrinking(1_000, amount, amount_min))
        most = max(0, min(amount, left // 2 if any(open_holds.values()) else left))
        if most < min(amount, amount_min):
            refused(answer)
            continue
        (state,) = admitted(answer).states
        assert state.taken == most
        open_holds[f"h{number}"] = state.taken
        assert settled + sum(open_holds.values()) <= 1_000 + over
        if is_ended:
            hold_id = min(open_holds)
            over += max(0, actual - open_holds.pop(hold_id))
            backend.settle(hold_id, {"nano_usd": actual})
            settled += actual
        assert backend.figures(money(1_000, 1)) == (settled, sum(open_holds.values()))


# Refusals that last


def refuse_at(backend: Backend, capacity: int, *, settled: int) -> None:
    """A budget that is `settled` has just refused at `capacity`."""
    backend.seed_settled(budget(capacity, 0), settled)
    refused(backend.take("refused", budget(capacity, capacity - settled + 1)))


@pytest.mark.parametrize(
    ("settled", "amount", "is_admitted"),
    [
        pytest.param(950, 1, False, id="room, but not below nine tenths"),
        pytest.param(800, 100, False, id="exactly nine tenths"),
        pytest.param(800, 99, True, id="below nine tenths"),
        pytest.param(950, 0, True, id="nothing is asked for"),
    ],
)
def test_a_refusal_lasts_until_the_figure_is_below_its_mark(
    backend: Backend, settled: int, amount: int, is_admitted: bool
) -> None:
    refuse_at(backend, 1_000, settled=settled)
    assert isinstance(backend.preview(budget(1_000, amount)), Taken) is is_admitted
    assert isinstance(backend.take("h", budget(1_000, amount)), Taken) is is_admitted


def test_once_below_the_mark_the_whole_capacity_is_there_again(backend: Backend) -> None:
    refuse_at(backend, 1_000, settled=800)
    refused(backend.take("a", budget(1_000, 150)))
    admitted(backend.take("b", budget(1_000, 50)))
    admitted(backend.take("c", budget(1_000, 150)))
    assert backend.figures(budget(1_000, 0)) == (800, 200)


def test_without_a_refusal_the_mark_means_nothing(backend: Backend) -> None:
    admitted(backend.take("a", budget(1_000, 950)))
    admitted(backend.take("b", budget(1_000, 50)))


def test_what_others_hold_counts_towards_the_mark(backend: Backend) -> None:
    admitted(backend.take("other", budget(1_000, 850)))
    refused(backend.take("a", budget(1_000, 200)))
    answer = refused(backend.take("b", budget(1_000, 60)))
    assert (answer.retry_after_s, answer.held_by_others) == (1.0, True)
    backend.settle("other", {"cost_nano_usd": 100})
    admitted(backend.take("b", budget(1_000, 60)))


@pytest.mark.parametrize(("after", "is_admitted"), [(999, False), (1_000, False), (1_001, True)])
def test_a_refusal_lasts_until_the_capacity_is_raised(backend: Backend, after: int, is_admitted: bool) -> None:
    refuse_at(backend, 1_000, settled=950)
    assert isinstance(backend.take("h", budget(after, 1)), Taken) is is_admitted


def test_a_raise_that_is_not_enough_is_the_next_to_be_passed(backend: Backend) -> None:
    refuse_at(backend, 1_000, settled=950)
    refused(backend.take("a", budget(1_100, 500)))
    refused(backend.take("b", budget(1_100, 50)))
    admitted(backend.take("c", budget(1_101, 50)))


def test_a_limit_without_a_mark_neither_sees_nor_ends_a_refusal(backend: Backend) -> None:
    """A call that no downgrade can help is counted on the same counter, without being limited by it."""
    refuse_at(backend, 1_000, settled=950)
    uncapped = budget(UNLIMITED, 10)._replace(resume_below=None)
    admitted(backend.take("a", uncapped))
    refused(backend.take("b", budget(1_000, 10)))


def test_a_lasting_refusal_waits_for_the_end_of_the_month(backend: Backend) -> None:
    refuse_at(backend, 1_000, settled=950)
    backend.clock.advance(400.0)
    answer = refused(backend.take("h", budget(1_000, 1)))
    assert (answer.retry_after_s, answer.held_by_others) == (86_000.0, False)
    assert answer.state == (budget(1_000, 1), 950, 0, 86_000.0, 0)
    assert refused(backend.take("h", budget(1_000, 1_001))).retry_after_s is None


def test_looking_remembers_no_refusal(backend: Backend) -> None:
    backend.seed_settled(budget(1_000, 0), 950)
    refused(backend.preview(budget(1_000, 51)))
    backend.read(budget(1_000, 51))
    admitted(backend.take("h", budget(1_000, 50)))


def test_looking_ends_no_refusal(backend: Backend) -> None:
    refuse_at(backend, 1_000, settled=800)
    admitted(backend.preview(budget(1_000, 50)))
    refused(backend.take("a", budget(1_000, 150)))


def test_a_call_that_another_limit_refuses_ends_no_refusal(backend: Backend) -> None:
    refuse_at(backend, 1_000, settled=800)
    refused(backend.take("a", budget(1_000, 50), gauge(1, 2)))
    refused(backend.take("b", budget(1_000, 150)))
    refused(backend.take("c", budget(2_000, 50, 900), gauge(1, 2)))
    refused(backend.take("d", budget(1_000, 150)))


def test_only_the_limit_that_was_looked_at_remembers_its_refusal(backend: Backend) -> None:
    """A call that its rate limit turns away has not been measured by its budget."""
    backend.seed_settled(budget(1_000, 0), 950)
    answer = refused(backend.take("a", gauge(1, 2), budget(1_000, 51)))
    assert [limit.name for limit in answer.unsatisfied] == ["gauge:ada", "budget:ada"]
    admitted(backend.take("b", budget(1_000, 50)))


def test_an_alternative_that_had_no_room_remembers_no_refusal_while_the_next_one_has(backend: Backend) -> None:
    backend.seed_settled(budget(1_000, 0), 950)
    group = (budget(1_000, 51), money(100, 51))
    assert names(admitted(backend.take("a", group)).states) == ["quota:ada"]
    admitted(backend.take("b", budget(1_000, 50)))
    backend.release("b")
    refused(backend.take("c", group))
    refused(backend.take("d", budget(1_000, 50)))


def test_a_budget_that_nobody_used_remembers_its_refusal(backend: Backend) -> None:
    refused(backend.take("a", budget(100, 101)))
    refused(backend.take("b", budget(100, 95)))
    for number in range(200):
        backend.clock.advance(2.0)
        backend.take_many(requests(1_000), 1, prefix=f"n{number}")
    refused(backend.take("c", budget(100, 95)))
    admitted(backend.take("d", budget(100, 89)))


def test_a_refusal_and_a_hold_that_may_shrink_agree(backend: Backend) -> None:
    refuse_at(backend, 1_000, settled=700)
    answer = admitted(backend.take("h", budget(1_000, 400)._replace(amount_min=100)))
    assert answer.states[0].taken == 199


# What lapses


@pytest.mark.parametrize(
    ("settled", "held", "lapsed", "amount", "is_admitted"),
    [
        pytest.param(0, 0, 100, 1, False, id="all of it lapsed"),
        pytest.param(0, 0, 60, 40, True, id="the rest is there"),
        pytest.param(0, 0, 60, 41, False, id="no more than the rest"),
        pytest.param(60, 0, 60, 40, True, id="what lapsed had been spent"),
        pytest.param(70, 0, 60, 31, False, id="and more than that"),
        pytest.param(20, 40, 60, 40, True, id="what lapsed is spent and held"),
        pytest.param(20, 30, 60, 41, False, id="what lapsed is partly spent and held"),
        pytest.param(0, 0, 100, 0, True, id="nothing is asked for"),
    ],
)
def test_lapsed_units_count_as_used_once(
    backend: Backend, settled: int, held: int, lapsed: int, amount: int, is_admitted: bool
) -> None:
    backend.seed_settled(credits_left(100, 0), settled)
    admitted(backend.take("other", credits_left(100, held)))
    limit = credits_left(100, amount, lapsed=lapsed)
    used = max(settled, lapsed - held)
    assert backend.figures(limit) == (used, held)
    assert backend.preview(limit)[0] == backend.take("h", limit)[0]
    assert backend.figures(limit) == (used, held + amount * is_admitted)


def test_what_is_spent_after_a_lapse_comes_on_top_of_it(backend: Backend) -> None:
    """Else whoever let 60 units lapse could spend them later after all."""
    limit = credits_left(100, 30, lapsed=60)
    admitted(backend.take("a", limit))
    backend.settle("a")
    assert backend.figures(limit) == (90, 0)
    assert refused(backend.take("b", limit)).retry_after_s is None


def test_a_call_in_flight_spends_what_lapses_under_it(backend: Backend) -> None:
    admitted(backend.take("a", credits_left(100, 60)))
    after = credits_left(100, 40, lapsed=60)
    assert backend.figures(after) == (0, 60)
    backend.settle("a")
    assert backend.figures(after) == (60, 0)
    admitted(backend.take("b", after))


def test_units_given_back_after_their_lapse_are_gone(backend: Backend) -> None:
    admitted(backend.take("a", credits_left(100, 60)))
    backend.release("a")
    assert backend.figures(credits_left(100, 1, lapsed=60)) == (60, 0)
    refused(backend.take("b", credits_left(100, 41, lapsed=60)))


def test_what_a_call_gives_back_after_its_units_lapsed_is_gone(backend: Backend) -> None:
    """A hundred lapse under a hold of sixty; fifty are given and spent. The sixty come back to units that are gone."""
    admitted(backend.take("a", credits_left(100, 60)))
    admitted(backend.take("b", credits_left(150, 50, lapsed=100)))
    backend.settle("b")
    backend.release("a")
    assert backend.figures(credits_left(150, 0, lapsed=100)) == (150, 0)
    answer = refused(backend.take("c", credits_left(150, 1, lapsed=100)))
    assert (answer.retry_after_s, answer.held_by_others) == (None, False)


def test_what_a_call_gives_back_beyond_what_lapsed_is_there_again(backend: Backend) -> None:
    admitted(backend.take("a", credits_left(100, 60)))
    admitted(backend.take("b", credits_left(150, 50, lapsed=40)))
    backend.settle("a", {"credit": 0})
    assert backend.figures(credits_left(150, 0, lapsed=40)) == (40, 50)
    admitted(backend.take("c", credits_left(150, 60, lapsed=40)))
    refused(backend.take("d", credits_left(150, 1, lapsed=40)))


def test_nobody_is_told_to_wait_for_what_will_be_gone(backend: Backend) -> None:
    admitted(backend.take("a", credits_left(100, 60)))
    admitted(backend.take("b", credits_left(150, 10, lapsed=100)))
    answer = refused(backend.take("c", credits_left(150, 51, lapsed=100)))
    assert (answer.retry_after_s, answer.held_by_others) == (None, False)
    answer = refused(backend.take("d", credits_left(150, 50, lapsed=100)))
    assert (answer.retry_after_s, answer.held_by_others) == (1.0, True)


def test_units_given_back_by_a_refund_after_their_lapse_are_gone_for_every_later_call(backend: Backend) -> None:
    """Though a call is open all the while, and ends without having used any."""
    admitted(backend.take("a", credits_left(100, 8, lapsed=20)))
    backend.adjust(credits_left(100, 0), -8)
    admitted(backend.take("b", credits_left(100, 5, lapsed=20)))
    backend.release("a")
    assert backend.figures(credits_left(100, 0, lapsed=20)) == (20, 5)


def test_a_refused_call_lets_nothing_lapse_under_the_calls_in_flight(backend: Backend) -> None:
    limit = credits_left(150, 10, lapsed=100)
    admitted(backend.take("a", credits_left(100, 60)))
    refused(backend.take("b", limit, limit, gauge(1, 2)))
    admitted(backend.preview(limit, limit))
    assert backend.figures(credits_left(150, 0)) == (0, 60)
    admitted(backend.take("c", limit, limit))
    refused(backend.take("d", limit, gauge(1, 2)))
    backend.settle("c")
    backend.settle("a", {"credit": 30})
    assert backend.figures(limit) == (120, 0)


BALANCE_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 40)),
        st.tuples(st.just("end"), st.integers(0, 50)),
        st.tuples(st.just("lapse"), st.integers(1, 40)),
        st.tuples(st.just("give"), st.integers(1, 40)),
        st.tuples(st.just("give back"), st.integers(1, 30)),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(BALANCE_STEPS, st.randoms(use_true_random=False))
def test_lapses_under_open_calls_come_out_as_if_every_call_had_known_its_end(
    steps: list[tuple[str, int]], random: Random
) -> None:
    """Beside a book that counts everything anew, each call from its admission on with what it used in the end."""
    backend, book = MemoryBackend(), Book()
    granted, lapsed = 40, 0
    open_holds: dict[str, tuple[int, Used]] = {}
    for number, (step, units) in enumerate(steps):
        if step == "give":
            granted += units
        elif step == "lapse":
            lapsed = min(granted, lapsed + units)
        elif step == "give back":
            units = min(units, book.used() - sum(taken for taken, _ in open_holds.values()))
            backend.adjust(credits_left(granted, 0), -units)
            book.add(-units)
        elif step == "end" and open_holds:
            hold_id = random.choice(sorted(open_holds))
            taken, used = open_holds.pop(hold_id)
            used.units = min(units, taken)
            backend.settle(hold_id, {"credit": min(units, taken)})
        elif step == "take":
            limit = credits_left(granted, units, lapsed=lapsed)
            has_room = units == 0 or book.used(lapsed) + units <= granted
            assert isinstance(backend.preview(limit, limit), Taken) is (
                units == 0 or book.used(lapsed) + 2 * units <= granted
            )
            assert isinstance(backend.take(f"h{number}", limit), Taken) is has_room
            if has_room:
                open_holds[f"h{number}"] = units, book.add(units, lapsed)
        state = backend.read(credits_left(granted, 0, lapsed=lapsed))
        assert state.settled + state.held == book.used(lapsed) <= granted
        assert state.held == sum(taken for taken, _ in open_holds.values())
        assert state.settled >= 0
    for hold_id in open_holds:
        backend.release(hold_id)
    tally = backend.memory._counters.get("credits:ada")
    assert tally is None or (isinstance(tally, Tally) and tally.eras is None)


def test_looking_and_refusing_let_nothing_lapse_for_good(backend: Backend) -> None:
    backend.seed_settled(credits_left(100, 0), 10)
    limit = credits_left(100, 20, lapsed=60)
    admitted(backend.preview(limit))
    refused(backend.take("a", credits_left(100, 50, lapsed=60)))
    refused(backend.take("b", limit, gauge(1, 2)))
    assert backend.read(limit).settled == 60
    assert backend.figures(credits_left(100, 0)) == (10, 0)


# What is booked without a call


@pytest.mark.parametrize("limit", [money(1_000, 1), credits_left(1_000, 1)])
def test_an_adjustment_adds_to_what_is_settled_and_takes_from_it(backend: Backend, limit: Limit) -> None:
    backend.adjust(limit, 300)
    assert backend.figures(limit) == (300, 0)
    admitted(backend.take("h", limit._replace(amount=600)))
    backend.adjust(limit, -100)
    assert backend.figures(limit) == (200, 600)
    backend.adjust(limit, -500)
    assert backend.figures(limit) == (0, 600)
    backend.settle("h")
    assert backend.figures(limit) == (600, 0)


def test_an_adjustment_may_pass_the_capacity(backend: Backend) -> None:
    backend.adjust(money(1_000, 1), 1_500)
    answer = refused(backend.take("h", money(1_000, 1)))
    assert (answer.state.settled, answer.state.remaining, answer.retry_after_s) == (1_500, 0, 86_400.0)
    backend.adjust(money(1_000, 1), -501)
    admitted(backend.take("h", money(1_000, 1)))


def test_a_refund_before_the_first_call_gives_nothing_extra(backend: Backend) -> None:
    backend.adjust(money(1_000, 1), -400)
    assert backend.figures(money(1_000, 1)) == (0, 0)


def test_an_adjusted_counter_is_kept_for_its_period(backend: Backend) -> None:
    backend.adjust(money(1_000, 1), 300)
    backend.adjust(credits_left(1_000, 1), 300)
    for number in range(200):
        backend.clock.advance(300.0)
        backend.take_many(requests(1_000), 1, prefix=f"a{number}")
    assert backend.figures(money(1_000, 1)) == (300, 0)
    assert backend.figures(credits_left(1_000, 1)) == (300, 0)


def test_what_settles_nothing_cannot_be_adjusted(backend: Backend) -> None:
    admitted(backend.take("h", requests(5), gauge(2)))
    for limit in (requests(5), gauge(2)):
        with pytest.raises(ValueError, match="settles nothing"):
            backend.adjust(limit, 1)
    assert backend.figures(requests(5)) == (1, 0)
    assert backend.figures(gauge(2)) == (0, 1)


# What is owed and what it cost


def test_what_is_owed_and_what_it_cost_are_settled_apart(backend: Backend) -> None:
    owed, cost, images = money(1_000, 400), budget(1_000, 500), a_limit("images:ada", "calendar", 9, 4, "image")
    admitted(backend.take("h", owed, cost, images))
    backend.settle("h", {"nano_usd": 100, "cost_nano_usd": 200, "image": 3})
    assert [backend.figures(limit) for limit in (owed, cost, images)] == [(100, 0), (200, 0), (3, 0)]
    admitted(backend.take("i", owed, cost, images))
    backend.settle("i", {"nano_usd": 100})
    assert [backend.figures(limit) for limit in (owed, cost, images)] == [(200, 0), (700, 0), (7, 0)]


# The rebuild at start


@pytest.mark.parametrize(("amount", "is_admitted"), [(49, True), (50, False), (100, False)])
def test_a_seeded_refusal_lasts_at_the_capacity_of_the_next_call(
    backend: Backend, amount: int, is_admitted: bool
) -> None:
    backend.seed_settled(budget(1_000, 0), 850, is_refused=True)
    backend.seed_settled(budget(1_000, 0), 850, is_refused=True)
    assert isinstance(backend.preview(budget(1_000, amount)), Taken) is is_admitted
    assert isinstance(backend.take("a", budget(1_000, amount)), Taken) is is_admitted
    if not is_admitted:
        admitted(backend.take("b", budget(1_001, 100, 900)))


def test_a_seed_without_a_refusal_forgets_one(backend: Backend) -> None:
    refuse_at(backend, 1_000, settled=950)
    backend.seed_settled(budget(1_000, 0), 950)
    admitted(backend.take("h", budget(1_000, 50)))
