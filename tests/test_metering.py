"""What a call is booked at: the report, or the written rule."""

import pytest

from gateway.catalog import Price
from gateway.metering import estimated, reported
from gateway.usage import Usage

# Pico-dollars a token: 2.50 USD and 10 USD a million.
PRICE = Price("1", input=2_500_000, cached_input=1_250_000, output=10_000_000)


def test_a_report_is_priced_bucket_by_bucket() -> None:
    metered = reported(Usage(uncached_input=10, cached_input=4, text_output=3, reasoning=2), PRICE)
    assert metered.cost_nano_usd == 10 * 2_500 + 4 * 1_250 + 5 * 10_000
    assert (metered.source, metered.flags) == ("provider", ())


def test_a_kind_of_token_without_a_price_is_never_free() -> None:
    metered = reported(Usage(uncached_input=10, audio_input=5, text_output=3, audio_output=2), PRICE)
    assert metered.flags == ("unpriced_usage",)
    assert metered.usage == Usage(uncached_input=15, text_output=5)
    assert metered.cost_nano_usd == 15 * 2_500 + 5 * 10_000


@pytest.mark.parametrize(("input_tokens", "output_tokens"), [(0, 0), (7, 0), (7, 9)])
def test_an_estimate_says_that_it_is_one(input_tokens: int, output_tokens: int) -> None:
    metered = estimated(input_tokens, output_tokens, PRICE, "usage_refused")
    assert metered.source == "estimated"
    assert metered.flags == ("usage_refused",)
    assert metered.cost_nano_usd == input_tokens * 2_500 + output_tokens * 10_000
