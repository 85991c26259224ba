"""Money: exact sums, rounded once and upward, and a worst case that no call can pass."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog import Price
from gateway.pricing import (
    UnpricedUsage,
    cost_nano_usd,
    image_nano_usd,
    price_from_json,
    price_to_json,
    usd,
    worst_case_nano_usd,
)
from gateway.usage import NO_USAGE, Usage

TOKENS = st.integers(0, 10**8)
RATE = st.integers(0, 10**12)
MAYBE_RATE = st.none() | RATE
NONE = st.just(0)
ANY_USAGE = st.tuples(*[TOKENS] * 9, NONE).map(Usage._make)
TEXT_USAGE = st.tuples(TOKENS, TOKENS, TOKENS, NONE, NONE, TOKENS, TOKENS, NONE, NONE, NONE).map(Usage._make)
TEXT_PRICE = st.tuples(RATE, MAYBE_RATE, MAYBE_RATE, RATE, MAYBE_RATE).map(lambda rates: Price("v", *rates))
FULL_PRICE = st.tuples(*[RATE] * 9).map(lambda rates: Price("v", *rates))

# Dollars per million tokens x 10^6: 2.50, 1.25, 3.125, 10, 12, 32, 64, 5, 40.
CHAT = Price(
    "v",
    input=2_500_000,
    cached_input=1_250_000,
    cache_write=3_125_000,
    output=10_000_000,
    reasoning=12_000_000,
    audio_input=32_000_000,
    audio_output=64_000_000,
    image_input=5_000_000,
    image_output=40_000_000,
)
PLAIN = Price("v", input=150_000, output=600_000)


@pytest.mark.parametrize(
    ("usage", "price", "nano_usd"),
    [
        pytest.param(NO_USAGE, CHAT, 0, id="nothing costs nothing"),
        pytest.param(Usage(uncached_input=1_000_000), CHAT, 2_500_000_000, id="a million tokens is the listed price"),
        pytest.param(Usage(uncached_input=80, cached_input=20, text_output=40, reasoning=10), CHAT, 745_000, id="text"),
        pytest.param(Usage(cache_write=8), CHAT, 25_000, id="cache write"),
        pytest.param(Usage(audio_input=1, audio_output=1, image_input=1, image_output=1), CHAT, 141_000, id="media"),
        pytest.param(Usage(uncached_input=1), Price("v", input=1, output=1), 1, id="a pico-dollar rounds up to a nano"),
        pytest.param(Usage(text_output=7), PLAIN, 4_200, id="whole nanos are not rounded"),
        pytest.param(Usage(cached_input=3), PLAIN, 450, id="cached input without a rate costs the input rate"),
        pytest.param(Usage(cache_write=3), PLAIN, 450, id="cache write without a rate costs the input rate"),
        pytest.param(Usage(reasoning=3), PLAIN, 1_800, id="reasoning without a rate costs the output rate"),
        pytest.param(Usage(uncached_input=9), Price("v", input=0, output=0), 0, id="an explicit zero is a price"),
        pytest.param(Usage(image_units=3), Price("v", images={"*/*": 3 * 10**9}), 9_000_000, id="images at one price"),
        pytest.param(Usage(uncached_input=10), Price("v", input=20_000), 200, id="an embedding needs no output rate"),
    ],
)
def test_cost_is_what_the_price_list_says(usage: Usage, price: Price, nano_usd: int) -> None:
    assert cost_nano_usd(usage, price) == nano_usd


@pytest.mark.parametrize("bucket", ["audio_input", "audio_output", "image_input", "image_output", "image_units"])
def test_media_without_a_rate_is_refused_by_name(bucket: str) -> None:
    with pytest.raises(UnpricedUsage) as raised:
        cost_nano_usd(Usage(**{bucket: 1}), PLAIN)
    assert raised.value.bucket == bucket
    assert raised.value.price_version == "v"


@pytest.mark.parametrize(
    ("bucket", "price"),
    [
        ("uncached_input", Price("v", output=1)),
        ("cached_input", Price("v", output=1)),
        ("cache_write", Price("v", cached_input=1, output=1)),
        ("text_output", Price("v", input=1)),
        ("reasoning", Price("v", input=1)),
        ("image_units", Price("v", images={"1024x1024/hd": 5})),
    ],
)
def test_a_kind_of_token_without_any_rate_is_refused(bucket: str, price: Price) -> None:
    with pytest.raises(UnpricedUsage, match=bucket):
        cost_nano_usd(Usage(**{bucket: 1}), price)


def test_a_ledger_of_many_small_entries_is_off_by_the_rounding_alone() -> None:
    """A million calls of a token at 18 750 pico-dollars: each entry is 19 nano-dollars, never 18.75 nor 18."""
    price = Price("v", input=18_750, output=0)
    one_call = Usage(uncached_input=1)
    assert sum(cost_nano_usd(one_call, price) for _ in range(10**6)) == 10**6 * 19
    assert cost_nano_usd(Usage(uncached_input=10**6), price) == 10**6 * 18_750 // 1000


@given(ANY_USAGE, FULL_PRICE)
def test_cost_is_the_exact_sum_rounded_up_once(usage: Usage, price: Price) -> None:
    rates = [
        price.input,
        price.cached_input,
        price.cache_write,
        price.audio_input,
        price.image_input,
        price.output,
        price.reasoning,
        price.audio_output,
        price.image_output,
    ]
    exact = sum(Fraction(tokens * (rate or 0), 1000) for tokens, rate in zip(usage[:9], rates, strict=True))
    assert 0 <= cost_nano_usd(usage, price) - exact < 1


@given(TEXT_USAGE, TEXT_USAGE, TEXT_PRICE)
def test_more_tokens_never_cost_less(usage: Usage, more: Usage, price: Price) -> None:
    total = Usage(*(one + other for one, other in zip(usage, more, strict=True)))
    assert cost_nano_usd(total, price) >= cost_nano_usd(usage, price)


@given(TEXT_USAGE, TEXT_PRICE)
def test_a_token_in_the_cache_never_makes_a_free_call(usage: Usage, price: Price) -> None:
    """Without a rate of its own a bucket costs what it would cost outside the cache."""
    plain = Price("v", input=price.input, output=price.output)
    flat = Usage(uncached_input=usage.input_tokens, text_output=usage.output_tokens)
    assert cost_nano_usd(usage, plain) == cost_nano_usd(flat, plain)


@given(TEXT_USAGE, TEXT_PRICE, TOKENS, TOKENS)
def test_no_text_call_within_its_bounds_costs_more_than_the_worst_case(
    usage: Usage, price: Price, more_input: int, more_output: int
) -> None:
    bounds = {
        "input_tokens": usage.input_tokens + more_input,
        "output_tokens": usage.output_tokens + more_output,
    }
    assert cost_nano_usd(usage, price) <= worst_case_nano_usd(price, **bounds, text_only=True)
    assert worst_case_nano_usd(price, **bounds, text_only=True) <= worst_case_nano_usd(price, **bounds)


@given(ANY_USAGE, FULL_PRICE)
def test_no_call_with_media_costs_more_than_the_worst_case(usage: Usage, price: Price) -> None:
    worst = worst_case_nano_usd(price, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
    assert cost_nano_usd(usage, price) <= worst


def test_the_worst_case_takes_the_dearest_rate_of_either_side() -> None:
    assert worst_case_nano_usd(CHAT, input_tokens=1, output_tokens=1, text_only=True) == 3_125 + 12_000
    assert worst_case_nano_usd(CHAT, input_tokens=1, output_tokens=1) == 32_000 + 64_000
    assert worst_case_nano_usd(PLAIN, input_tokens=1000, output_tokens=100) == 150_000 + 60_000


def test_the_worst_case_of_an_unpriced_side_is_refused() -> None:
    with pytest.raises(UnpricedUsage, match="text_output"):
        worst_case_nano_usd(Price("v", input=1), input_tokens=1, output_tokens=1)
    with pytest.raises(UnpricedUsage, match="uncached_input"):
        worst_case_nano_usd(Price("v", output=1), input_tokens=1, output_tokens=1)
    assert worst_case_nano_usd(Price("v", input=1_000), input_tokens=7, output_tokens=0) == 7


IMAGES = Price("v", images={"1024x1024/hd": 80 * 10**9, "1024x1024/*": 40 * 10**9, "*/hd": 120 * 10**9})


@pytest.mark.parametrize(
    ("size", "quality", "images", "nano_usd"),
    [
        pytest.param("1024x1024", "hd", 1, 80_000_000, id="the exact pair first"),
        pytest.param("1024x1024", "standard", 2, 80_000_000, id="then the size at any quality, times n"),
        pytest.param("1792x1024", "hd", 1, 120_000_000, id="then the quality at any size"),
    ],
)
def test_images_are_priced_by_size_and_quality(size: str, quality: str, images: int, nano_usd: int) -> None:
    assert image_nano_usd(IMAGES, size=size, quality=quality, images=images) == nano_usd


@pytest.mark.parametrize("price", [IMAGES, PLAIN])
def test_an_image_without_a_price_is_refused(price: Price) -> None:
    with pytest.raises(UnpricedUsage, match="image_units"):
        image_nano_usd(price, size="1792x1024", quality="standard", images=1)


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [(0, "0"), (1, "0.000000001"), (1_500, "0.0000015"), (10**9, "1"), (100 * 10**9, "100"), (-2_500_000_000, "-2.5")],
)
def test_dollars_are_shown_exactly(nano_usd: int, text: str) -> None:
    assert usd(nano_usd) == text


@given(st.integers(-(10**18), 10**18))
def test_dollars_read_back_are_the_same_amount(nano_usd: int) -> None:
    assert Fraction(usd(nano_usd)) * 10**9 == nano_usd


@given(st.one_of(TEXT_PRICE, FULL_PRICE, st.just(IMAGES)))
def test_a_stored_price_row_reads_back_as_it_was(price: Price) -> None:
    assert price_from_json(price_to_json(price)) == price


def test_a_stored_price_row_is_canonical() -> None:
    assert price_to_json(PLAIN) == '{"input":150000,"output":600000,"version":"v"}'
    assert price_to_json(IMAGES).startswith('{"images":{"*/hd":120000000000,')


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "not json",
        '{"input":1}',
        '{"version":"v","input":-1}',
        '{"version":"v","input":1.5}',
        '{"version":"v","input":true}',
        '{"version":"v","images":[1]}',
        '{"version":"v","images":{"*/*":"3"}}',
        '{"version":"v","surprise":1}',
    ],
)
def test_what_is_no_price_row_is_not_read_as_one(text: str) -> None:
    with pytest.raises(ValueError):
        price_from_json(text)
