"""What every counter store answers: to a preview, to a refusal by several limits, and how long the wait is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.counters.base import LimitState, Refused, Taken
from policies.types import Limit, LimitGroup
from tests.counters.backend import (
    TICK_S,
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
    tokens,
)

HOUR_S = 3600.0


def test_an_admission_says_how_much_it_took_of_each_limit(backend: Backend) -> None:
    limits = [requests(10), tokens(500, 300), money(1_000, 400), gauge(2), credits_left(9, 4), requests(1, 0, key="-")]
    taken = admitted(backend.take("h", *limits))
    assert [state.taken for state in taken.states] == [1, 300, 400, 1, 4, 0]
    assert [backend.read(limit).taken for limit in limits] == [0] * 6


def test_a_refusal_says_it_took_nothing(backend: Backend) -> None:
    assert refused(backend.take("h", money(1_000, 400), gauge(1, 2))).state.taken == 0


# Refusals by several limits


def test_a_refusal_names_every_group_without_room_in_their_order(backend: Backend) -> None:
    admitted(backend.take("full", requests(1), money(100, 100), gauge(1)))
    backend.settle("full")
    payers = (credits_left(5, 6, key="promo"), credits_left(5, 6, key="paid"))
    groups: list[LimitGroup | Limit] = [
        gauge(1),
        requests(1),
        tokens(100, 50),
        payers,
        (credits_left(5, 6), tokens(100, 1)),
        money(100, 1),
    ]
    for answer in (backend.preview(*groups), backend.take("h", *groups)):
        unsatisfied = refused(answer).unsatisfied
        assert [limit.name for limit in unsatisfied] == ["requests:ada", "paid", "quota:ada"]
        assert refused(answer).state.limit.name == "paid"


def test_a_single_refusal_names_its_limit(backend: Backend) -> None:
    limit = gauge(1, 2)
    assert refused(backend.take("h", requests(5), limit)).unsatisfied == (limit,)


def test_of_groups_that_wait_equally_long_the_first_is_told(backend: Backend) -> None:
    first, second = credits_left(5, 6, key="first"), credits_left(5, 6, key="second")
    answer = refused(backend.take("h", requests(1), first, second))
    assert answer.state.limit == first
    assert answer.unsatisfied == (first, second)


@pytest.mark.parametrize("is_preview", [False, True])
def test_a_refused_group_is_judged_beside_what_earlier_ones_took_of_its_counter(
    backend: Backend, is_preview: bool
) -> None:
    limit = money(1_000, 600)
    answer = refused(backend.preview(limit, limit) if is_preview else backend.take("h", limit, limit))
    assert answer.state == (limit, 0, 600, 86_400.0, 0)
    assert answer.unsatisfied == (limit,)


# The true wait


def windows(per_minute: int, per_hour: int, per_day: int, per_token: int) -> list[Limit]:
    """Several windows at once, as a plan may have them; each call takes `per_token` tokens of 1 000."""
    return [
        requests(per_minute, key="minute", window_s=60),
        requests(per_hour, key="hour"),
        requests(per_day, key="day", window_s=86_400),
        tokens(1_000, per_token),
        tokens(5_000, per_token, key="tokens a day", window_s=86_400),
    ]


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 64, 640, 3_840, 64_000, 230_400]), st.integers(0, 700)), max_size=60),
    st.sampled_from([(2, 5, 9), (3, 600, 20), (600, 4, 700), (1, 1, 1)]),
    st.integers(1, 1_000),
)
def test_the_wait_of_several_windows_is_true(
    calls: list[tuple[int, int]], capacities: tuple[int, int, int], amount: int
) -> None:
    """A moment before it the call is refused, at its end it is admitted, whatever was admitted before and when."""
    backend = MemoryBackend()
    for number, (ticks, tokens_used) in enumerate(calls):
        backend.clock.advance(ticks * TICK_S)
        if isinstance(backend.take(f"h{number}", *windows(*capacities, tokens_used)), Taken):
            backend.settle(f"h{number}")
    limits = windows(*capacities, amount)
    answer = backend.preview(*limits)
    if isinstance(answer, Taken):
        return
    assert answer.retry_after_s is not None
    assert answer.retry_after_s > 0
    backend.clock.advance(answer.retry_after_s - TICK_S)
    assert refused(backend.preview(*limits)).retry_after_s == TICK_S
    refused(backend.take("early", *limits))
    backend.clock.advance(TICK_S)
    admitted(backend.take("late", *limits))


def test_the_wait_is_that_of_the_window_that_is_full_longest(backend: Backend) -> None:
    """Which one that is changes from call to call: the minute, then the hour, then the tokens of the day."""
    limits = windows(1, 2, 100, 1)
    admitted(backend.take("a", *limits))
    backend.settle("a")
    answer = refused(backend.take("b", *limits))
    assert (answer.state.limit.name, answer.retry_after_s) == ("minute", 60.0)
    backend.clock.advance(60.0)
    admitted(backend.take("b", *limits))
    backend.settle("b")
    answer = refused(backend.take("c", *limits))
    assert (answer.state.limit.name, answer.retry_after_s) == ("hour", HOUR_S - 60.0)
    assert [limit.name for limit in answer.unsatisfied] == ["minute", "hour"]
    large = limits[-1]._replace(amount=4_999)
    answer = refused(backend.take("d", *limits[:-1], large))
    assert answer.state.limit.name == "tokens a day"
    assert answer.retry_after_s is not None
    assert 86_400.0 - 60.0 <= answer.retry_after_s <= 86_400.0 * 61 / 60


def test_a_true_wait_longer_than_a_moment_is_told_before_what_others_hold(backend: Backend) -> None:
    admitted(backend.take("a", requests(1, window_s=60), money(100, 60)))
    answer = refused(backend.take("b", requests(1, window_s=60), money(100, 60)))
    assert (answer.state.limit.name, answer.retry_after_s, answer.held_by_others) == ("requests:ada", 60.0, False)
    backend.clock.advance(59.5)
    answer = refused(backend.take("b", requests(1, window_s=60), money(100, 60)))
    assert (answer.state.limit.name, answer.retry_after_s, answer.held_by_others) == ("quota:ada", 1.0, True)


# Previews


LIMITS = [
    requests(3),
    requests(600, 200, key="bucketed"),
    tokens(1_000, 400),
    gauge(2),
    money(1_000, 300),
    shrinking(1_000, 600, 200),
    budget(500, 200),
    budget(500, 20),
    budget(700, 200),
    credits_left(10, 4),
    credits_left(10, 4, lapsed=5),
    a_limit("calls:ada", "calendar", 4, 1, "request", resets_at=1_750_000_000.0 + 86_400),
]
GROUPS = st.lists(st.lists(st.sampled_from(LIMITS), min_size=1, max_size=2).map(tuple), min_size=1, max_size=5)


@given(st.lists(st.tuples(GROUPS, st.sampled_from(["settle", "release", "open"]), st.integers(0, 4_000)), max_size=12))
def test_a_preview_is_what_a_call_is_then_told(calls: list[tuple[list[LimitGroup], str, int]]) -> None:
    backend = MemoryBackend()
    for number, (groups, ending, ticks) in enumerate(calls):
        backend.clock.advance(ticks * TICK_S)
        before = figures(backend)
        preview = backend.preview(*groups)
        assert figures(backend) == before
        assert backend.preview(*groups) == preview
        assert backend.take(f"h{number}", *groups) == preview
        if isinstance(preview, Refused):
            assert figures(backend) == before
        elif ending == "settle":
            backend.settle(f"h{number}", {"token": 500, "nano_usd": 10, "cost_nano_usd": 450})
        elif ending == "release":
            backend.release(f"h{number}")


def figures(backend: Backend) -> list[LimitState]:
    return [backend.read(limit) for limit in LIMITS]


def test_a_preview_takes_nothing_however_often(backend: Backend) -> None:
    limits = [requests(1), tokens(100, 100), gauge(1), money(100, 100), credits_left(100, 100)]
    for _ in range(3):
        assert names(admitted(backend.preview(*limits)).states) == [limit.name for limit in limits]
    assert [backend.figures(limit) for limit in limits] == [(0, 0)] * 5
    admitted(backend.take("h", *limits))


def test_a_preview_of_a_mistake_is_one(backend: Backend) -> None:
    with pytest.raises(ValueError, match="would take -1"):
        backend.preview(money(1_000, 400), gauge(1, -1))
    assert backend.figures(money(1_000, 400)) == (0, 0)
