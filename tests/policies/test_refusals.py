import pytest

from policies import decide
from policies.amounts import amount_text, usd_text, wait_text
from policies.refusals import explain
from policies.types import Deny, Limit, Refusal
from tests.policies.samples import ACCOUNT, CALL, NOW


def limits() -> tuple[Limit, Limit]:
    groups = decide(CALL, ACCOUNT, NOW)
    assert not isinstance(groups, Deny)
    ((rate,), (money,)) = groups
    return rate, money


RATE, MONEY = limits()
MONTH_LEFT_S = 1_337_400.0


def refusal(limit: Limit, wait_s: float | None, *, settled: int = 0, held: int = 0, others: bool = False) -> Refusal:
    return explain(limit, settled=settled, held=held, retry_after_s=wait_s, held_by_others=others)


@pytest.mark.parametrize(
    ("answer", "code", "wait_s", "should_retry"),
    [
        pytest.param(refusal(RATE, 12.5), "rate_limit_exceeded", 12.5, True, id="window with a short wait"),
        pytest.param(refusal(RATE, 60.0), "rate_limit_exceeded", 60.0, True, id="window with the longest short wait"),
        pytest.param(refusal(RATE, 60.1), "rate_limit_exceeded", 60.1, False, id="window with a long wait"),
        pytest.param(refusal(MONEY, MONTH_LEFT_S), "insufficient_quota", MONTH_LEFT_S, False, id="money spent"),
        pytest.param(refusal(MONEY, 1.0, others=True), "rate_limit_exceeded", 1.0, True, id="money held by others"),
        pytest.param(
            refusal(MONEY._replace(capacity=1_233), None), "request_too_large", None, False, id="above the whole quota"
        ),
        pytest.param(
            refusal(RATE._replace(amount=101), None), "request_too_large", None, False, id="above the whole window"
        ),
        pytest.param(refusal(MONEY._replace(capacity=0), None), "insufficient_quota", None, False, id="quota of 0"),
        pytest.param(refusal(RATE._replace(capacity=0), None), "rate_limit_exceeded", None, False, id="window of 0"),
        pytest.param(
            refusal(MONEY._replace(kind="balance", resets_at=None), None, settled=50_000_000_000),
            "insufficient_quota",
            None,
            False,
            id="balance used up",
        ),
    ],
)
def test_the_code_says_whether_waiting_helps(
    answer: Refusal, code: str, wait_s: float | None, should_retry: bool
) -> None:
    assert (answer.deny.code, answer.retry_after_s, answer.should_retry) == (code, wait_s, should_retry)
    assert answer.deny.policy in {"rate_limit", "quota"}


def test_the_message_says_what_happened_and_what_to_do() -> None:
    spent = refusal(MONEY, MONTH_LEFT_S, settled=49_999_999_000, held=500).deny.message
    assert spent == (
        "The monthly quota of plan 'pro', 50 USD, does not cover this request. Used 49.999999 USD, held by calls in "
        "flight 0.0000005 USD, needed 0.000001234 USD. It starts afresh at 2025-07-01T00:00:00Z: wait, or ask the "
        "gateway's admin for more."
    )
    limited = refusal(RATE, 12.5, settled=100).deny.message
    assert limited == (
        "Rate limit of plan 'pro' reached: 100 requests in any 60 minutes. Used 100 requests, needed 1 request. "
        "Try again in 13 s, or ask the gateway's admin for a larger plan."
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(refusal(MONEY._replace(capacity=1_000), None), "ask for less output", id="too large"),
        pytest.param(refusal(MONEY, 1.0, others=True), "try again in a moment", id="in flight"),
        pytest.param(refusal(RATE._replace(capacity=0), None), "The limit is 0", id="nothing allowed"),
        pytest.param(refusal(MONEY._replace(resets_at=None), None), "Waiting will not help", id="no end known"),
        pytest.param(refusal(MONEY._replace(resets_at=253402300800.0), 1e9), "end of the calendar", id="year 9999"),
    ],
)
def test_each_case_has_its_advice(answer: Refusal, words: str) -> None:
    assert words in answer.deny.message


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [(0, "0"), (1, "0.000000001"), (500_000_000, "0.5"), (12_000_000_000, "12"), (-1_500_000_000, "-1.5")],
)
def test_dollars_are_exact_and_short(nano_usd: int, text: str) -> None:
    assert usd_text(nano_usd) == text


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [(1, "request", "1 request"), (2, "token", "2 tokens"), (1, "nano_usd", "0.000000001 USD")],
)
def test_amounts_carry_their_unit(amount: int, unit: str, text: str) -> None:
    assert amount_text(amount, unit) == text


@pytest.mark.parametrize(
    ("wait_s", "text"),
    [(0.0, "1 s"), (0.2, "1 s"), (59.1, "60 s"), (119.0, "119 s"), (119.1, "2 min"), (3600, "60 min"), (7201, "3 h")],
)
def test_waits_are_rounded_up(wait_s: float, text: str) -> None:
    assert wait_text(wait_s) == text
