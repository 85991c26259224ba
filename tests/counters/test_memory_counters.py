"""What is particular to the counters in memory: how much they keep. `backend` in the contract shows they never suspend."""

import tracemalloc

import pytest

from gateway.counters.window import Window
from policies.types import Limit
from tests.counters.backend import (
    MemoryBackend,
    admitted,
    budget,
    credits_left,
    gauge,
    money,
    refused,
    requests,
    tokens,
)


def test_creators_that_came_once_are_forgotten_when_their_window_is_over() -> None:
    backend = MemoryBackend()
    for number in range(5_000):
        backend.take_many(requests(10, key=f"requests:{number}"), 1, prefix=f"a{number}")
    assert backend.memory.kept_counters == 5_000
    backend.clock.advance(3_600.0)
    for second in range(300):
        backend.clock.advance(1.0)
        backend.take_many(requests(1_000), 1, prefix=f"b{second}")
    assert backend.memory.kept_counters == 1


def test_refused_calls_leave_nothing_behind() -> None:
    backend = MemoryBackend()
    for number in range(300):
        backend.clock.advance(1.0)
        refused(backend.take("h", requests(10, key=f"requests:{number}"), money(10, 11, key=f"quota:{number}")))
    assert backend.memory.kept_counters == 0
    assert backend.memory.open_holds == 0


def test_a_refusal_that_lasts_keeps_one_counter() -> None:
    backend = MemoryBackend()
    for _ in range(3):
        refused(backend.take("h", requests(10), budget(10, 11)))
    assert backend.memory.kept_counters == 1


def test_a_months_money_is_kept_for_the_month_and_a_day() -> None:
    backend = MemoryBackend()
    admitted(backend.take("h", money(1_000, 400)))
    backend.settle("h")
    backend.clock.advance(86_400.0 * 2 - 1.0)
    backend.take_many(requests(10), 1, prefix="a")
    assert backend.memory.kept_counters == 2
    backend.clock.advance(3_600.0)
    for number in range(3):
        backend.clock.advance(1.0)
        backend.take_many(requests(10), 1, prefix=f"b{number}")
    assert backend.memory.kept_counters == 1


def test_a_balance_is_never_forgotten() -> None:
    backend = MemoryBackend()
    backend.seed_settled(credits_left(10, 1), 7)
    backend.adjust(credits_left(10, 1, key="adjusted"), 3)
    backend.clock.advance(400 * 86_400.0)
    for number in range(5):
        backend.clock.advance(1.0)
        backend.take_many(requests(10), 1, prefix=f"a{number}")
    assert backend.figures(credits_left(10, 1)) == (7, 0)
    assert backend.figures(credits_left(10, 1, key="adjusted")) == (3, 0)


def test_a_balance_of_nothing_is_forgotten() -> None:
    """Whoever never spent a credit costs no memory."""
    backend = MemoryBackend()
    for number in range(100):
        backend.adjust(credits_left(10, 1, key=f"credits:{number}"), 5)
        backend.adjust(credits_left(10, 1, key=f"credits:{number}"), -5)
    for second in range(5):
        backend.clock.advance(1.0)
        backend.take_many(requests(10), 1, prefix=f"{second}")
    assert backend.memory.kept_counters == 1


def test_a_balance_costs_little_memory() -> None:
    """They are kept for ever: a million creators with credits stay below 300 MB, keys included."""
    backend = MemoryBackend()
    balances = 5_000
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(balances):
            backend.seed_settled(credits_left(10, 1, key=f"credits:c/creator-{number}"), 1_000 + number)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert backend.memory.kept_counters == balances
    assert (after - before) / balances < 300


def test_a_hold_that_outlives_its_window_ends_without_harm() -> None:
    backend = MemoryBackend()
    admitted(backend.take("h", tokens(1_000, 900)))
    backend.clock.advance(120.0)
    for number in range(3):
        backend.clock.advance(1.0)
        backend.take_many(requests(10), 1, prefix=f"a{number}")
    assert backend.memory.kept_counters == 1
    admitted(backend.take("i", tokens(1_000, 100)))
    backend.settle("h", {"token": 500})
    assert backend.figures(tokens(1_000, 1)) == (0, 100)
    assert backend.memory.open_holds == 1


def test_looking_makes_no_counter() -> None:
    backend = MemoryBackend()
    limits = [requests(10), tokens(10, 1), money(10, 1), credits_left(10, 1), gauge(1), budget(10, 1)]
    admitted(backend.preview(*limits))
    refused(backend.preview(*limits, budget(10, 11)))
    refused(backend.preview(budget(10, 11), *limits))
    assert backend.read(requests(10)) == (requests(10), 0, 0, 0.0, 0)
    assert backend.memory.kept_counters == 0


@pytest.mark.parametrize("limit", [tokens(10**6, 10), requests(10**6, window_s=60)])
def test_a_busy_window_keeps_one_slice_a_bucket(limit: Limit) -> None:
    backend = MemoryBackend()
    for second in range(120):
        backend.clock.advance(1.0)
        assert backend.take_many(limit, 20, prefix=f"{second}") == 20
    window = backend.memory._counters[limit.key]
    assert isinstance(window, Window)
    assert len(window.slices) <= 61
    assert backend.figures(limit) == (61 * 20 * limit.amount, 0)


def test_an_exact_window_keeps_no_more_slices_than_its_capacity() -> None:
    backend = MemoryBackend()
    for second in range(700):
        backend.clock.advance(1.0)
        backend.take_many(requests(512), 1, prefix=f"{second}")
    window = backend.memory._counters[requests(512).key]
    assert isinstance(window, Window)
    assert len(window.slices) == 512


def test_a_call_that_is_held_again_leaves_its_window_when_it_would_have() -> None:
    backend = MemoryBackend()
    backend.take_many(requests(10), 3, prefix="new")
    backend.memory.restore("old", [(requests(10), 2), (tokens(1_000, 50), 40)], age_s=59.0)
    assert backend.figures(requests(10)) == (5, 0)
    assert backend.figures(tokens(1_000, 50)) == (0, 40)
    backend.clock.advance(2.5)  # tokens may stay a second longer
    assert backend.figures(tokens(1_000, 50)) == (0, 0)
    backend.clock.advance(3_600 - 59.0 - 2.5 - 1.0)
    assert backend.figures(requests(10)) == (5, 0)
    backend.clock.advance(1.0)
    assert backend.figures(requests(10)) == (3, 0)
    backend.settle("old", {"token": 60})
    assert backend.figures(tokens(1_000, 50)) == (0, 0)


def test_a_call_that_is_held_again_ends_as_any_other() -> None:
    backend = MemoryBackend()
    limits = [tokens(1_000, 0), money(100, 0), gauge(2), credits_left(10, 0)]
    backend.seed_settled(money(100, 0), 30)
    backend.memory.restore("old", list(zip(limits, (40, 200, 1, 4), strict=True)), age_s=1.0)
    assert [backend.figures(limit) for limit in limits] == [(0, 40), (30, 200), (0, 1), (0, 4)]
    assert backend.memory.open_holds == 1
    backend.settle("old", {"token": 70, "nano_usd": 9})
    assert [backend.figures(limit) for limit in limits] == [(70, 0), (39, 0), (0, 0), (4, 0)]
    assert backend.memory.open_holds == 0


def test_a_call_of_no_units_that_is_held_again_may_still_use_some() -> None:
    backend = MemoryBackend()
    backend.memory.restore("old", [(tokens(1_000, 0), 0)], age_s=5.0)
    backend.settle("old", {"token": 7})
    assert backend.figures(tokens(1_000, 0)) == (7, 0)


def test_a_hold_is_held_once() -> None:
    backend = MemoryBackend()
    backend.memory.restore("old", [(gauge(2), 1)], age_s=5.0)
    with pytest.raises(ValueError, match="open already"):
        backend.memory.restore("old", [(gauge(2), 1)], age_s=5.0)
    with pytest.raises(ValueError, match="open already"):
        backend.take("old", gauge(2))
    assert backend.figures(gauge(2)) == (0, 1)


def test_credits_of_a_call_that_is_held_again_lapse_with_it() -> None:
    backend = MemoryBackend()
    backend.memory.restore("old", [(credits_left(10, 4), 4)], age_s=5.0)
    admitted(backend.take("new", credits_left(10, 6, lapsed=4)))
    backend.release("old")
    backend.release("new")
    assert backend.figures(credits_left(10, 0, lapsed=4)) == (4, 0)
