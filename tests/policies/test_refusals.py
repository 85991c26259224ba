from dataclasses import replace

import pytest

from policies import budget, concurrency, free_images, quota, rate_limit, token_rate
from policies import credits as credit_payers
from policies.amounts import amount_text, usd_text, wait_text
from policies.refusals import explain
from policies.types import Limit, PromoGrant, Refusal
from tests.policies.samples import ACCOUNT, CALL, IMAGES, NOW, USD, on_plan, only

RATE = only(rate_limit.decide(CALL, ACCOUNT, NOW))
MONEY = quota.alternative(CALL, ACCOUNT, NOW)
TOKENS = only(token_rate.decide(CALL, on_plan(tokens_per_minute=10_000), NOW))
GAUGE = only(concurrency.decide(CALL, on_plan(concurrent_calls=5), NOW))
FREE = free_images.alternative(IMAGES, on_plan(free_images_per_day=3), NOW)
CREDITS = credit_payers.alternative(IMAGES, replace(ACCOUNT, credits_granted=24), NOW)
PROMO = credit_payers.promo_alternative(IMAGES, replace(ACCOUNT, promo_grants=(PromoGrant(15, 0.0),)), NOW)
(SOFT,), (HARD,) = budget.decide(
    CALL._replace(cost_min_nano_usd=250),
    on_plan(
        budget_nano_usd_per_month=40 * USD,
        budget_hard_nano_usd_per_month=60 * USD,
        when_budget_reached="downgrade_then_deny",
    ),
    NOW,
)
MONTH_LEFT_S = 1_337_400.0
DAY_LEFT_S = 41_400.0


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
        pytest.param(refusal(TOKENS, 8.0), "rate_limit_exceeded", 8.0, True, id="tokens"),
        pytest.param(
            refusal(TOKENS._replace(amount=10_001), None),
            "request_too_large",
            None,
            False,
            id="tokens above the window",
        ),
        pytest.param(refusal(GAUGE, 1.0, held=5, others=True), "rate_limit_exceeded", 1.0, True, id="calls at once"),
        pytest.param(
            refusal(GAUGE._replace(capacity=0), None), "rate_limit_exceeded", None, False, id="no call at all"
        ),
        pytest.param(refusal(FREE, DAY_LEFT_S), "insufficient_quota", DAY_LEFT_S, False, id="free images used"),
        pytest.param(
            refusal(FREE._replace(amount=4), None), "request_too_large", None, False, id="more images than a day has"
        ),
        pytest.param(refusal(CREDITS, None, settled=20), "insufficient_quota", None, False, id="credits used"),
        pytest.param(
            refusal(CREDITS._replace(amount=25), None), "insufficient_quota", None, False, id="credits never enough"
        ),
        pytest.param(refusal(CREDITS._replace(capacity=0), None), "insufficient_quota", None, False, id="no credits"),
        pytest.param(
            refusal(CREDITS, 1.0, settled=10, held=10, others=True),
            "rate_limit_exceeded",
            1.0,
            True,
            id="credits held by others",
        ),
        pytest.param(refusal(PROMO, None), "insufficient_quota", None, False, id="promotional credits lapsed"),
        pytest.param(refusal(SOFT, MONTH_LEFT_S), "insufficient_quota", MONTH_LEFT_S, False, id="soft budget"),
        pytest.param(refusal(HARD, MONTH_LEFT_S), "insufficient_quota", MONTH_LEFT_S, False, id="hard budget"),
        pytest.param(
            refusal(HARD._replace(capacity=249), None),
            "request_too_large",
            None,
            False,
            id="even the least is above the cap",
        ),
    ],
)
def test_the_code_says_whether_waiting_helps(
    answer: Refusal, code: str, wait_s: float | None, should_retry: bool
) -> None:
    assert (answer.deny.code, answer.retry_after_s, answer.should_retry) == (code, wait_s, should_retry)


@pytest.mark.parametrize("limit", [RATE, MONEY, TOKENS, GAUGE, FREE, CREDITS, PROMO, SOFT, HARD])
@pytest.mark.parametrize(("wait_s", "others"), [(None, False), (5.0, False), (1.0, True)])
def test_every_refusal_keeps_its_policy(limit: Limit, wait_s: float | None, others: bool) -> None:
    for capacity in (0, 1, limit.capacity):
        answer = refusal(limit._replace(capacity=capacity), wait_s, settled=capacity, held=1, others=others)
        assert answer.deny.policy == limit.refusal.policy
        assert answer.deny.message.endswith(".")
        assert "nano_usd" not in answer.deny.message


def test_what_fits_when_it_shrinks_is_not_too_large() -> None:
    shrinkable = HARD._replace(capacity=250)
    assert shrinkable.amount > shrinkable.capacity
    assert refusal(shrinkable, None).deny.code == "insufficient_quota"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(
            refusal(MONEY, MONTH_LEFT_S, settled=49_999_999_000, held=500),
            "The monthly quota of plan 'pro', 50 USD, does not cover this request. Used 49.999999 USD, held by calls in "
            "flight 0.0000005 USD, needed 0.000001234 USD. It starts afresh at 2025-07-01T00:00:00Z: wait, or ask the "
            "gateway's admin for more.",
            id="quota",
        ),
        pytest.param(
            refusal(RATE, 12.5, settled=100),
            "Rate limit of plan 'pro' reached: 100 requests in any 60 minutes. Used 100 requests, needed 1 request. "
            "Try again in 13 s, or ask the gateway's admin for a larger plan.",
            id="requests",
        ),
        pytest.param(
            refusal(TOKENS, 8.0, settled=9_000, held=400),
            "Token limit of plan 'pro' reached: 10000 tokens in any 60 seconds. Used 9000 tokens, held by calls in "
            "flight 400 tokens, needed 1500 tokens. Try again in 8 s, or ask the gateway's admin for a larger plan.",
            id="tokens",
        ),
        pytest.param(
            refusal(GAUGE, 1.0, held=5, others=True),
            "Concurrency limit of plan 'pro' reached: 5 calls in flight at once. In flight 5 calls, needed 1 call. One "
            "more fits as soon as one of them has ended: try again in a moment, or make fewer calls at once.",
            id="concurrency",
        ),
        pytest.param(
            refusal(FREE, DAY_LEFT_S, settled=2),
            "The free images of plan 'pro', 3 images a day, do not cover this request. Used 2 images, needed 2 images. "
            "It starts afresh at 2025-06-16T00:00:00Z: wait, or ask the gateway's admin for more.",
            id="free images",
        ),
        pytest.param(
            refusal(CREDITS, None, settled=20),
            "Your credits do not cover this request. You have 4 credits, and it costs 10 credits. Waiting will not "
            "help: ask the gateway's admin for more credits.",
            id="credits",
        ),
        pytest.param(
            refusal(CREDITS, 1.0, settled=10, held=13, others=True),
            "Your credits do not cover this request. You have 1 credit beside 13 credits held by calls in flight, and "
            "it costs 10 credits. Calls in flight give back what they do not use: try again in a moment, or make fewer "
            "calls at once.",
            id="credits held",
        ),
        pytest.param(
            refusal(CREDITS, DAY_LEFT_S, settled=24),
            "Your credits do not cover this request. You have 0 credits, and it costs 10 credits. Another way to pay "
            "has room in 12 h: wait, or ask the gateway's admin for more.",
            id="credits, free images tomorrow",
        ),
        pytest.param(
            refusal(PROMO, None, settled=3),
            "Your promotional credits do not cover this request. You have 0 credits, and it costs 10 credits. Waiting "
            "will not help: ask the gateway's admin for more credits.",
            id="promotional credits, lapsed",
        ),
        pytest.param(
            refusal(SOFT, MONTH_LEFT_S, settled=38 * USD),
            "The monthly budget of plan 'pro', 40 USD, does not cover this request. Used 38 USD, needed 0.0000007 USD. "
            "Once it was reached, it has room again below 36 USD. It starts afresh at 2025-07-01T00:00:00Z: wait, or "
            "ask the gateway's admin for more.",
            id="soft budget",
        ),
        pytest.param(
            refusal(HARD, MONTH_LEFT_S, settled=60 * USD),
            "The monthly budget of plan 'pro', 60 USD, is a hard cap and does not cover this request. Used 60 USD, "
            "needed at least 0.00000025 USD. It starts afresh at 2025-07-01T00:00:00Z: wait, or ask the gateway's admin "
            "for more.",
            id="hard budget that may shrink",
        ),
        pytest.param(
            refusal(FREE._replace(amount=4), None),
            "This request may need 4 images, more than the whole limit free_images_per_day of 3 images. Waiting will "
            "not help: ask for fewer images (n), or ask the gateway's admin for a larger plan.",
            id="too many images",
        ),
        pytest.param(
            refusal(HARD._replace(capacity=200), None),
            "This request may need at least 0.00000025 USD, more than the whole limit budget_hard_usd_per_month of "
            "0.0000002 USD. Waiting will not help: ask for less output (max tokens, n), send less input, or ask the "
            "gateway's admin for a larger plan.",
            id="too large for the hard budget",
        ),
    ],
)
def test_the_message_says_what_happened_and_what_to_do(answer: Refusal, message: str) -> None:
    assert answer.deny.message == message


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        pytest.param(refusal(MONEY._replace(capacity=1_000), None), "ask for less output", id="too large"),
        pytest.param(refusal(MONEY, 1.0, others=True), "try again in a moment", id="in flight"),
        pytest.param(refusal(RATE._replace(capacity=0), None), "The limit is 0", id="nothing allowed"),
        pytest.param(refusal(RATE, None), "Waiting will not help", id="no end known"),
        pytest.param(refusal(MONEY._replace(resets_at=253402300800.0), 1e9), "end of the calendar", id="year 9999"),
        pytest.param(
            refusal(FREE._replace(capacity=0), 30.0), "Another way to pay has room in 30 s", id="another alternative"
        ),
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
    [
        (1, "request", "1 request"),
        (2, "token", "2 tokens"),
        (0, "call", "0 calls"),
        (1, "image", "1 image"),
        (3, "image", "3 images"),
        (1, "credit", "1 credit"),
        (2, "credit", "2 credits"),
        (1, "nano_usd", "0.000000001 USD"),
        (2_500_000_000, "cost_nano_usd", "2.5 USD"),
    ],
)
def test_amounts_carry_their_unit(amount: int, unit: str, text: str) -> None:
    assert amount_text(amount, unit) == text


@pytest.mark.parametrize(
    ("wait_s", "text"),
    [(0.0, "1 s"), (0.2, "1 s"), (59.1, "60 s"), (119.0, "119 s"), (119.1, "2 min"), (3600, "60 min"), (7201, "3 h")],
)
def test_waits_are_rounded_up(wait_s: float, text: str) -> None:
    assert wait_text(wait_s) == text
