"""The attempts of one call: who is asked next, after which pause, and when nobody is."""

import orjson
import pytest

from gateway.attempts import Attempts, client_waits_s, seconds

LATER = 1_000.0


def attempts(offers: int = 1, *, most: int = 3, retries: int = 0, ends_at: float = LATER) -> Attempts:
    return Attempts(offers, attempts_max=most, retries=retries, ends_at=ends_at)


def after(
    of: Attempts, error: str = "server_error", retry_after_s: float | None = None, *, now: float = 0.0
) -> float | None:
    return of.next_after(error, retry_after_s=retry_after_s, now=now, draw=lambda: 0.0)  # type: ignore[arg-type]


def test_other_deployments_come_at_once_and_in_order() -> None:
    of = attempts(3)
    assert [after(of), of.index, after(of), of.index] == [0.0, 1, 0.0, 2]
    assert after(of) is None
    assert of.made == 3


def test_no_more_than_the_bound_over_all_deployments_and_retries() -> None:
    of = attempts(2, most=3, retries=5)
    made = [after(of) for _ in range(6)]
    assert [pause is None for pause in made] == [False, False, True, True, True, True]
    assert of.made == 3


@pytest.mark.parametrize("error", ["timeout", "broken", "request"])
def test_what_may_have_cost_something_is_not_asked_again(error: str) -> None:
    assert after(attempts(3, retries=3), error) is None


@pytest.mark.parametrize(
    ("error", "goes_on"), [("rate_limit", True), ("unreachable", True), ("auth", False), ("not_found", False)]
)
def test_the_same_deployment_is_asked_again_only_for_what_may_heal(error: str, goes_on: bool) -> None:
    assert (after(attempts(retries=1), error) is not None) == goes_on
    assert after(attempts(retries=0), error) is None
    assert after(attempts(2), error) == 0.0  # another one always


def test_pauses_double_up_to_a_bound() -> None:
    of = attempts(most=10, retries=9)
    assert [after(of) for _ in range(7)] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_jitter_only_makes_a_pause_longer() -> None:
    longest = attempts(retries=1).next_after("rate_limit", retry_after_s=2.0, now=0.0, draw=lambda: 1.0)
    assert longest == 3.0


@pytest.mark.parametrize(
    ("asked", "pause"), [(0.0, 0.25), (0.1, 0.25), (3.0, 3.0), (5.0, 5.0), (5.1, None), (1e9, None)]
)
def test_a_retry_after_is_waited_for_or_left_to_the_client(asked: float, pause: float | None) -> None:
    assert after(attempts(retries=1), "rate_limit", asked) == pause


def test_nothing_is_begun_once_the_client_has_stopped_waiting() -> None:
    assert after(attempts(2, ends_at=10.0), now=10.0) is None
    assert after(attempts(2, ends_at=10.0), now=9.9) == 0.0
    assert after(attempts(retries=1, ends_at=10.0), "rate_limit", 2.0, now=9.0) is None


def test_what_failed_is_told_in_order_and_nothing_where_nothing_did() -> None:
    of = attempts(2)
    assert of.free_attempts() == ""
    of.note(provider="a", model="m", error="rate_limit", status=429, elapsed_ms=7)
    assert orjson.loads(of.free_attempts()) == [
        {"provider": "a", "model": "m", "error": "rate_limit", "status": 429, "elapsed_ms": 7}
    ]


@pytest.mark.parametrize(
    ("value", "found"),
    [("2", 2.0), ("0.5", 0.5), ("-1", None), ("soon", None), ("", None), (None, None), ("nan", None), ("1e300", None)],
)
def test_a_wait_is_a_number_or_nothing(value: str | None, found: float | None) -> None:
    assert seconds(value) == found


def test_how_long_an_sdk_waits_is_read_off_its_headers() -> None:
    assert client_waits_s({b"x-stainless-read-timeout": b"600"}) == 600.0
    assert client_waits_s({b"x-stainless-timeout": b"5"}) == 5.0
    assert client_waits_s({b"x-stainless-timeout": b"\xff"}) is None
    assert client_waits_s({}) is None
