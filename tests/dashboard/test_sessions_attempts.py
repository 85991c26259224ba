"""How often keys may be tried."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dashboard.attempts import Attempts
from gateway.errors import RequestError


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def limited(attempts: Attempts, address: str) -> int:
    """The seconds somebody at `address` is told to wait."""
    with pytest.raises(RequestError) as caught:
        attempts.begin(address)
    assert (caught.value.status, caught.value.code) == (429, "sign_in_limited")
    return int(caught.value.headers["retry-after"])


def test_the_eleventh_of_one_address_within_a_minute_is_refused():
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(10):
        attempts.begin("192.0.2.1")
        clock.now_s += 1
    assert limited(attempts, "192.0.2.1") == 50
    attempts.begin("192.0.2.2")
    clock.now_s += 50
    attempts.begin("192.0.2.1")  # the first is a minute old


def test_all_addresses_together_have_a_hundred():
    clock = Clock()
    attempts = Attempts(clock)
    for number in range(100):
        attempts.begin(f"192.0.2.{number}")
    assert limited(attempts, "198.51.100.1") == 60
    clock.now_s += 60
    attempts.begin("198.51.100.1")


def test_refused_attempts_prolong_nothing():
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(10):
        attempts.begin("192.0.2.1")
    for _ in range(59):
        clock.now_s += 1
        limited(attempts, "192.0.2.1")
    clock.now_s += 1
    attempts.begin("192.0.2.1")


def test_what_succeeded_does_not_count():
    attempts = Attempts(Clock())
    for _ in range(500):
        attempts.forgive(attempts.begin("192.0.2.1"))
    attempts.begin("192.0.2.1")


def test_attempts_still_under_way_count():
    """Else many at once would all be let in before the first had failed."""
    attempts = Attempts(Clock())
    begun = [attempts.begin("192.0.2.1") for _ in range(10)]
    limited(attempts, "192.0.2.1")
    attempts.forgive(begun[3])
    attempts.begin("192.0.2.1")
    limited(attempts, "192.0.2.1")


def test_a_network_of_ipv6_is_one_address():
    attempts = Attempts(Clock())
    for number in range(10):
        attempts.begin(f"2001:db8:0:1::{number:x}")
    limited(attempts, "2001:db8:0:1:ffff::1")
    attempts.begin("2001:db8:0:2::1")


def test_those_without_an_address_share_one():
    attempts = Attempts(Clock())
    for _ in range(10):
        attempts.begin("")
    limited(attempts, "")


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 10)), max_size=300))
def test_what_is_remembered_is_bounded(steps):
    clock = Clock()
    attempts = Attempts(clock)
    for host, seconds in steps:
        clock.now_s += seconds
        with suppress(RequestError):
            attempts.begin(f"192.0.2.{host}")
        assert len(attempts._failed) <= 100
