"""What calls leave behind, and how often it is taken away."""

from dataclasses import replace

import pytest

from gateway.ledger.records import Entry
from gateway.notices import signals as module
from gateway.notices.signals import ErrorRate, Signals
from tests.ledger.books import NOON, ROUTE, entry
from tests.policies.samples import ACCOUNT

MINUTE_S = 60
REFUSAL = {"policy": "quota", "name": "quota_usd_per_month", "settled": 5, "limit": 6}


class Clock:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def failed(outcome: str, status: int = 502, provider: str = "openai", **changes: object) -> Entry:
    return entry(
        "r", changes={"outcome": outcome, "status": status, "route": ROUTE._replace(provider=provider), **changes}
    )


def errors_of(*entries: Entry) -> ErrorRate:
    signals = Signals(Clock())
    for each in entries:
        signals.finished(ACCOUNT, each)
    return signals.error_rates().get("openai", ErrorRate(0, 0))


def test_the_account_of_the_last_call_is_heard_once() -> None:
    signals = Signals(Clock())
    renewed = replace(ACCOUNT, credits_granted=7)
    signals.finished(ACCOUNT, entry("a"))
    signals.finished(renewed, entry("b"))
    assert signals.drain().accounts == {("ada", "k1"): renewed}
    heard = signals.drain()
    assert (heard.accounts, heard.downgrades, heard.exhausted) == ({}, {}, {})


def test_a_refusal_for_money_is_heard_with_its_account_and_figures() -> None:
    signals = Signals(Clock())
    signals.refused(ACCOUNT, REFUSAL)
    heard = signals.drain()
    assert heard.accounts == {("ada", "k1"): ACCOUNT}
    assert heard.exhausted == {("ada", "k1", "quota_usd_per_month"): (ACCOUNT, REFUSAL)}


def test_keys_with_limits_of_their_own_are_heard_each() -> None:
    """What one key was refused or downgraded for is not covered up by the next key of the same creator."""
    signals = Signals(Clock())
    other = replace(ACCOUNT, key_id="k2")
    for account in (ACCOUNT, other):
        signals.refused(account, {**REFUSAL, "name": "key_quota_usd_per_month"})
        signals.finished(account, entry("r", changes={"downgrade_reason": "key_budget_usd_per_month"}))
    heard = signals.drain()
    assert [account for account, _ in heard.exhausted.values()] == [ACCOUNT, other]
    assert [downgrade.account for downgrade in heard.downgrades.values()] == [ACCOUNT, other]


def test_a_downgrade_is_heard_with_both_models_and_its_instant() -> None:
    signals = Signals(Clock())
    signals.finished(ACCOUNT, entry("a"))
    assert signals.drain().downgrades == {}
    changes = {"downgrade_reason": "budget_usd_per_month", "route": ROUTE._replace(served_model="small")}
    signals.finished(ACCOUNT, entry("b", requested_model="large", changes=changes))
    (downgrade,) = signals.drain().downgrades.values()
    assert downgrade == (ACCOUNT, "large", "small", "budget_usd_per_month", NOON)


def test_too_many_creators_are_not_heard_but_their_calls_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ACCOUNTS_MAX", 1)
    signals = Signals(Clock())
    renewed, stranger = replace(ACCOUNT, credits_granted=7), replace(ACCOUNT, creator="bob")
    signals.finished(ACCOUNT, entry("a"))
    signals.finished(stranger, entry("b", changes={"downgrade_reason": "budget_usd_per_month"}))
    signals.refused(stranger, REFUSAL)
    signals.finished(renewed, entry("c"))
    heard = signals.drain()
    assert heard.accounts == {("ada", "k1"): renewed}
    assert (heard.downgrades, heard.exhausted) == ({}, {})
    assert signals.error_rates() == {"openai": ErrorRate(3, 0)}


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("upstream_error", 200),
        ("upstream_died", 502),
        ("upstream_timeout", 504),
        ("upstream_invalid", 502),
        ("upstream_unreachable", 502),
        ("upstream_refused", 502),
        ("upstream_refused", 429),
        ("upstream_refused", 503),
        ("aborted", 200),
        ("internal_error", 500),
    ],
)
def test_a_call_that_failed_is_an_error(outcome: str, status: int) -> None:
    assert errors_of(failed(outcome, status)) == ErrorRate(1, 1)


@pytest.mark.parametrize("status", [400, 404, 413, 415, 422])
def test_a_callers_fault_is_a_call_and_no_error(status: int) -> None:
    assert errors_of(failed("upstream_refused", status)) == ErrorRate(1, 0)


@pytest.mark.parametrize("outcome", ["ok", "client_gone"])
def test_a_call_that_went_well_is_no_error(outcome: str) -> None:
    assert errors_of(failed(outcome, 200)) == ErrorRate(1, 0)


def test_a_cached_hit_is_no_call_of_a_provider() -> None:
    assert errors_of(failed("ok", 200, cached=True)) == ErrorRate(0, 0)


def test_error_rates_are_of_each_provider_and_of_the_last_ten_minutes() -> None:
    clock = Clock()
    signals = Signals(clock)
    signals.finished(ACCOUNT, failed("upstream_died"))
    clock.now_s = 9 * MINUTE_S
    signals.finished(ACCOUNT, failed("ok"))
    signals.finished(ACCOUNT, failed("upstream_died", provider="other"))
    assert signals.error_rates() == {"openai": ErrorRate(2, 1), "other": ErrorRate(1, 1)}
    assert signals.error_rates() == {"openai": ErrorRate(2, 1), "other": ErrorRate(1, 1)}
    clock.now_s = 10 * MINUTE_S
    assert signals.error_rates() == {"openai": ErrorRate(1, 0), "other": ErrorRate(1, 1)}
    clock.now_s = 19 * MINUTE_S
    assert signals.error_rates() == {}


def test_hours_of_calls_leave_ten_minutes_behind() -> None:
    clock = Clock()
    signals = Signals(clock)
    for minute in range(200):
        clock.now_s = minute * MINUTE_S
        signals.finished(ACCOUNT, failed("ok"))
    assert signals.error_rates() == {"openai": ErrorRate(10, 0)}
