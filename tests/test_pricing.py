"""Money: exact sums, rounded once and upward, and a worst case that no call can pass."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog import Model, Price
from gateway.price_rows import IN_ORDER_OF_USAGE
from gateway.pricing import (
    UnpricedUsage,
    charged_price,
    cost_nano_usd,
    price_from_json,
    price_to_json,
    resolve_image_variant,
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
THRESHOLD = st.integers(1, 10**8)


def with_more(rows: st.SearchStrategy[Price]) -> st.SearchStrategy[Price]:
    """Prices with rates for long prompts, and with service tiers that may have some of their own."""
    longer = st.builds(lambda row, above: replace(row, above_input_tokens=above), rows, THRESHOLD)
    tiers = st.builds(lambda row, long: replace(row, long_prompt=long), rows, st.none() | longer)
    return st.builds(
        lambda row, long, tiers: replace(row, long_prompt=long, service_tiers=tiers),
        rows,
        st.none() | longer,
        st.none() | st.dictionaries(st.sampled_from(["flex", "priority"]), tiers, min_size=1),
    )


TIERED_TEXT_PRICE, TIERED_PRICE = with_more(TEXT_PRICE), with_more(FULL_PRICE)
TIER = st.sampled_from(["", "flex", "priority", "default"])

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
        pytest.param(Usage(pieces=3), Price("v", images={"*/*": 3 * 10**9}), 9_000_000, id="images at one price"),
        pytest.param(Usage(uncached_input=10), Price("v", input=20_000), 200, id="an embedding needs no output rate"),
    ],
)
def test_cost_is_what_the_price_list_says(usage: Usage, price: Price, nano_usd: int) -> None:
    assert cost_nano_usd(usage, price) == nano_usd


@pytest.mark.parametrize("bucket", ["audio_input", "audio_output", "image_input", "image_output", "pieces"])
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
        ("pieces", Price("v", images={"1024x1024/hd": 5})),
    ],
)
def test_a_kind_of_token_without_any_rate_is_refused(bucket: str, price: Price) -> None:
    with pytest.raises(UnpricedUsage, match=bucket):
        cost_nano_usd(Usage(**{bucket: 1}), price)


def test_a_ledger_of_many_small_entries_is_off_by_the_rounding_alone() -> None:
    """A million calls of a token at 18 750 pico-dollars: each entry is 19 nano-dollars, never 18.75 nor 18."""
    price = Price("v", input=18_750, output=0)
    one_call = Usage(uncached_input=1)
    entry = cost_nano_usd(one_call, price)
    assert entry == -(-18_750 // 1_000)
    assert sum(cost_nano_usd(one_call, price) for _ in range(10**6)) == 10**6 * entry
    assert cost_nano_usd(Usage(uncached_input=10**6), price) == 10**6 * 18_750 // 1000


STEP = 200_000
LONG = Price("v", input=4_000_000, cached_input=400_000, output=18_000_000, above_input_tokens=STEP)
FLEX = Price("v", input=1_000_000, output=6_000_000)
PRIORITY = Price(
    "v",
    input=3_600_000,
    output=21_600_000,
    long_prompt=Price("v", input=7_200_000, output=32_400_000, above_input_tokens=STEP),
)
STEPPED = Price("v", input=2_000_000, cached_input=200_000, output=12_000_000, long_prompt=LONG)
PRO = replace(STEPPED, service_tiers={"flex": FLEX, "priority": PRIORITY})


@pytest.mark.parametrize(
    ("usage", "tier", "nano_usd"),
    [
        pytest.param(Usage(STEP, text_output=1_000), "", 412_000_000, id="at the step the row itself holds"),
        pytest.param(Usage(STEP + 1, text_output=1_000), "", 818_004_000, id="one token above it all is priced anew"),
        pytest.param(Usage(1, STEP, text_output=1_000), "", 98_004_000, id="cached input counts towards the step"),
        pytest.param(Usage(1, 0, STEP), "", 800_004_000, id="written input too, and costs the long input rate"),
        pytest.param(Usage(300_000, text_output=100, reasoning=900), "", 1_218_000_000, id="reasoning at the long output rate"),
        pytest.param(Usage(1_000, text_output=100), "flex", 1_600_000, id="a tier"),
        pytest.param(Usage(0, 1_000), "flex", 1_000_000, id="a tier's cached input costs its own input rate"),
        pytest.param(Usage(1_000, text_output=100), "priority", 5_760_000, id="another tier"),
        pytest.param(Usage(300_000, text_output=100), "priority", 2_163_240_000, id="a tier's own step"),
        pytest.param(Usage(300_000, text_output=100), "flex", 1_201_800_000, id="the row's step, where the tier has none"),
        pytest.param(Usage(1_000, text_output=100), "scale", 3_200_000, id="a tier without a table"),
        pytest.param(Usage(300_000), "scale", 1_200_000_000, id="a tier without a table, and a long prompt"),
    ],
)  # fmt: skip
def test_prompt_length_and_service_tier_choose_the_rates(usage: Usage, tier: str, nano_usd: int) -> None:
    assert cost_nano_usd(usage, PRO, tier) == nano_usd


def test_a_tier_without_its_own_step_costs_the_dearer_of_both_rates() -> None:
    fast = Price("v", input=5_000_000, output=13_000_000)
    price = replace(STEPPED, service_tiers={"fast": fast})
    assert price.at(STEP + 1, "fast").rates[:2] == (5_000_000, 5_000_000)
    assert price.at(STEP + 1, "fast").output == 18_000_000
    assert replace(price, long_prompt=None).at(STEP + 1, "fast") == fast


def test_tiers_are_known_by_their_tables_alone() -> None:
    assert [PRO.knows_tier(tier) for tier in ("flex", "priority", "default", "", "FLEX")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert not PLAIN.knows_tier("flex")


def test_a_long_prompt_without_a_length_is_no_price() -> None:
    with pytest.raises(ValueError, match="above how many tokens"):
        Price("v", input=1, long_prompt=Price("v", input=2))


def test_media_without_a_rate_in_the_row_that_holds_are_refused() -> None:
    price = replace(STEPPED, audio_input=1)
    assert cost_nano_usd(Usage(1_000, audio_input=1_000), price) == 2_000_001
    with pytest.raises(UnpricedUsage, match="audio_input"):
        cost_nano_usd(Usage(STEP, audio_input=1), price)


def test_a_hold_is_priced_at_the_length_that_will_be_billed() -> None:
    """A 300 000-token call on a row that steps at 200 000."""
    hold = worst_case_nano_usd(PRO, input_tokens=300_000, output_tokens=1_000, text_only=True)
    assert hold == 1_218_000_000
    assert hold == cost_nano_usd(Usage(300_000, text_output=1_000), PRO)
    assert worst_case_nano_usd(PRO, input_tokens=STEP, output_tokens=1_000, text_only=True) == 412_000_000
    assert worst_case_nano_usd(PRO, input_tokens=STEP + 1, output_tokens=1_000, text_only=True) == 818_004_000


def test_a_hold_is_priced_at_the_dearer_of_the_tier_asked_for_and_the_ordinary_one() -> None:
    def hold(tier: str, input_tokens: int) -> int:
        return worst_case_nano_usd(PRO, input_tokens=input_tokens, output_tokens=0, service_tier=tier)

    assert hold("priority", 1_000) == 3_600_000
    assert hold("priority", 300_000) == 2_160_000_000
    assert hold("flex", 1_000) == hold("", 1_000) == hold("auto", 1_000) == 2_000_000


def test_a_cheaper_rate_for_long_prompts_does_not_lower_the_hold() -> None:
    cheap = replace(STEPPED, long_prompt=Price("v", input=1, output=1, above_input_tokens=10))
    assert worst_case_nano_usd(cheap, input_tokens=1_000, output_tokens=0) == 2_000_000


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


@given(TEXT_USAGE, TEXT_PRICE | TIERED_TEXT_PRICE, TOKENS, TOKENS, TIER, st.booleans())
def test_no_text_call_within_its_bounds_costs_more_than_the_worst_case(
    usage: Usage, price: Price, more_input: int, more_output: int, tier: str, is_served_as_asked: bool
) -> None:
    bounds = {
        "input_tokens": usage.input_tokens + more_input,
        "output_tokens": usage.output_tokens + more_output,
    }
    worst_of_text = worst_case_nano_usd(price, **bounds, text_only=True, service_tier=tier)
    assert cost_nano_usd(usage, price, tier if is_served_as_asked else "") <= worst_of_text
    assert worst_of_text <= worst_case_nano_usd(price, **bounds, service_tier=tier)


@given(ANY_USAGE, FULL_PRICE | TIERED_PRICE, TIER, st.booleans())
def test_no_call_with_media_costs_more_than_the_worst_case(
    usage: Usage, price: Price, tier: str, is_served_as_asked: bool
) -> None:
    bounds = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    worst = worst_case_nano_usd(price, **bounds, service_tier=tier)
    assert cost_nano_usd(usage, price, tier if is_served_as_asked else "") <= worst


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
    ("variant", "images", "nano_usd"),
    [
        pytest.param("1024x1024/hd", 1, 80_000_000, id="the exact pair first"),
        pytest.param("1024x1024/standard", 2, 80_000_000, id="then the size at any quality, times n"),
        pytest.param("1792x1024/hd", 3, 360_000_000, id="then the quality at any size"),
    ],
)
def test_images_are_priced_by_size_and_quality(variant: str, images: int, nano_usd: int) -> None:
    assert cost_nano_usd(Usage(pieces=images), IMAGES, variant) == nano_usd
    anything = replace(IMAGES, images={**(IMAGES.images or {}), "*/*": 1_000})
    assert cost_nano_usd(Usage(pieces=images), anything, variant) == nano_usd
    assert cost_nano_usd(Usage(pieces=7), anything, "512x512/low") == 7
    either = Price("v", images={"*/hd": 2_000, "1x1/*": 1_000})
    assert cost_nano_usd(Usage(pieces=1), either, "1x1/hd") == 1


@pytest.mark.parametrize("price", [IMAGES, PLAIN, replace(IMAGES, image_output=1)])
def test_an_image_without_a_price_is_refused(price: Price) -> None:
    with pytest.raises(UnpricedUsage, match=r"pieces of 1792x1024/standard") as raised:
        cost_nano_usd(Usage(pieces=1), price, "1792x1024/standard")
    assert (raised.value.bucket, raised.value.variant) == ("pieces", "1792x1024/standard")


BY_EITHER = Price("v", input=5_000_000, output=7_000_000, image_output=30_000_000, images={"1x1/*": 1_500})


@pytest.mark.parametrize(
    ("usage", "variant", "nano_usd"),
    [
        pytest.param(Usage(4, image_output=272, pieces=2), "1x1/hd", 3, id="by the piece, and nothing for tokens"),
        pytest.param(Usage(4, image_output=272), "1x1/hd", 0, id="by the piece, and none came back"),
        pytest.param(Usage(4, image_output=272, pieces=2), "2x2/hd", 8_180_000, id="another size by its tokens"),
        pytest.param(Usage(4, text_output=2, image_output=272), "", 8_194_000, id="no call for images"),
    ],
)
def test_an_image_is_paid_once_by_the_piece_or_by_its_tokens(usage: Usage, variant: str, nano_usd: int) -> None:
    assert cost_nano_usd(usage, BY_EITHER, variant) == nano_usd


def test_images_told_in_tokens_need_no_price_by_the_piece() -> None:
    price = Price("v", input=5_000_000, image_output=30_000_000)
    assert cost_nano_usd(Usage(image_output=1_000, pieces=2), price, "1x1/hd") == 30_000_000
    with pytest.raises(UnpricedUsage, match="pieces"):
        cost_nano_usd(Usage(uncached_input=10, pieces=2), price, "1x1/hd")


def model(price: Price, image_default: str | None = None) -> Model:
    return Model("m", "p", "m", frozenset({"images"}), price, image_default=image_default)


@pytest.mark.parametrize(
    ("default", "size", "quality", "variant"),
    [
        pytest.param("1024x1024/hd", None, None, "1024x1024/hd", id="nothing said"),
        pytest.param("1024x1024/hd", "auto", "auto", "1024x1024/hd", id="auto is the default"),
        pytest.param("1024x1024/hd", "", "", "1024x1024/hd", id="empty is nothing said"),
        pytest.param("1024x1024/hd", "1792x1024", None, "1792x1024/hd", id="a size"),
        pytest.param("1024x1024/hd", None, "standard", "1024x1024/standard", id="a quality"),
        pytest.param(None, "1024x1024", "hd", "1024x1024/hd", id="no default needed"),
        pytest.param(None, "1024x1024", None, "1024x1024/auto", id="the table has any quality"),
    ],
)
def test_a_request_for_images_means_one_row_of_the_table(
    default: str | None, size: str | None, quality: str | None, variant: str
) -> None:
    assert resolve_image_variant(IMAGES, model(IMAGES, default), size, quality) == variant


@pytest.mark.parametrize(
    ("price", "size", "quality"),
    [
        pytest.param(IMAGES, None, None, id="no default"),
        pytest.param(IMAGES, "512x512", "standard", id="no price"),
        pytest.param(PLAIN, "1024x1024", "hd", id="no table at all"),
        pytest.param(Price("v", images={"*/*": 1}), "*", "hd", id="a star for a size"),
        pytest.param(Price("v", images={"*/*": 1}), "1792*1024", "hd", id="a star within a size"),
        pytest.param(Price("v", images={"*/*": 1}), "1024x1024/hd", "hd", id="two words in one"),
        pytest.param(Price("v", images={"*/*": 1}), "1" * 33, "hd", id="a long size"),
        pytest.param(Price("v", image_output=1), "big\n", "hd", id="a line break, priced by tokens"),
    ],
)
def test_a_request_for_images_that_no_row_prices_is_refused(
    price: Price, size: str | None, quality: str | None
) -> None:
    with pytest.raises(UnpricedUsage, match="pieces"):
        resolve_image_variant(price, model(price), size, quality)


def test_images_priced_by_tokens_may_have_any_size() -> None:
    price = Price("v", input=1, image_output=1)
    assert resolve_image_variant(price, model(price), "2048x1152", None) == "2048x1152/auto"
    assert resolve_image_variant(price, model(price, "auto/auto"), None, "high") == "auto/high"


def test_an_account_may_owe_other_numbers_than_the_catalogs() -> None:
    row = replace(PRO, version="7.0123456789", images={"*/*": 5})
    price = charged_price(model(row), {"input": 1, "reasoning": 2, "image:1x1/hd": 3, "credits": 4})
    assert price == replace(
        row,
        version=price.version,
        input=1,
        reasoning=2,
        images={"*/*": 5, "1x1/hd": 3},
        long_prompt=price.long_prompt,
        service_tiers=price.service_tiers,
    )
    assert price.long_prompt is not None
    assert price.long_prompt.above_input_tokens == STEP
    assert (row.input, LONG.input, PRIORITY.input) == (2_000_000, 4_000_000, 3_600_000), (
        "the catalog's stay as they are"
    )


@pytest.mark.parametrize(
    ("tier", "input_tokens", "rates"),
    [
        # input, cached_input, cache_write, output, reasoning; the catalog's input is 2, the account's 100
        pytest.param("", 1, (100, 0.2, 100, 12, 12), id="what is replaced, and what stays"),
        pytest.param("flex", 1, (50, 1, 50, 6, 6), id="half in the catalog is half for the account"),
        pytest.param("priority", 1, (180, 3.6, 180, 21.6, 21.6), id="a dearer tier stays dearer"),
        pytest.param("", STEP + 1, (200, 0.4, 200, 18, 18), id="a long prompt"),
        pytest.param("priority", STEP + 1, (360, 7.2, 360, 32.4, 32.4), id="a long prompt of a tier"),
        pytest.param("flex", STEP + 1, (200, 1, 200, 18, 18), id="a long prompt of a tier without a step"),
    ],
)
def test_an_accounts_rate_holds_in_proportion_whatever_the_caller_chooses(
    tier: str, input_tokens: int, rates: tuple[float, ...]
) -> None:
    price = charged_price(model(PRO), {"input": 100_000_000})
    assert price.at(input_tokens, tier).text_rates == tuple(round(rate * 10**6) for rate in rates)


@pytest.mark.parametrize(
    ("catalog", "tier", "own", "charged"),
    [
        pytest.param(3, 1, 10, 4, id="rounded up"),
        pytest.param(3, 3, 0, 0, id="nothing of nothing"),
        pytest.param(0, 5, 1, 5, id="free in the catalog: the dearer"),
        pytest.param(0, 5, 9, 9, id="free in the catalog: the account's, where that is dearer"),
        pytest.param(None, 5, 1, 1, id="no rate in the catalog"),
        pytest.param(None, None, 1, 1, id="no rate in the tier either"),
        pytest.param(7, 5, 7, 5, id="the catalog's own rate changes nothing"),
        pytest.param(1, 10**12, 10**12, 10**12, id="never above what a price may be"),
    ],
)
def test_a_tiers_rate_follows_the_accounts(catalog: int | None, tier: int | None, own: int, charged: int) -> None:
    row = Price("v", input=1, audio_input=catalog, service_tiers={"flex": Price("v", input=1, audio_input=tier)})
    assert charged_price(model(row), {"audio_input": own}).at(0, "flex").audio_input == charged


RATES = st.dictionaries(st.sampled_from(IN_ORDER_OF_USAGE), RATE, min_size=1)


@given(TIERED_PRICE, RATES, TIER, TOKENS)
def test_what_costs_no_less_in_the_catalog_is_owed_at_no_less_than_the_accounts_rate(
    catalog: Price, own: dict[str, int], tier: str, input_tokens: int
) -> None:
    price = charged_price(model(catalog), own)
    columns = zip(
        catalog.rates,
        catalog.at(input_tokens, tier).rates,
        price.rates,
        price.at(input_tokens, tier).rates,
        strict=True,
    )
    for before, chosen_before, after, chosen in columns:
        assert None not in (before, chosen_before, after, chosen)
        if (chosen_before or 0) >= (before or 0):
            assert (chosen or 0) >= (after or 0)
        elif before != after:
            assert Fraction(chosen or 0) >= Fraction((chosen_before or 0) * (after or 0), before or 1)
        else:
            assert chosen == chosen_before


@given(ANY_USAGE, TIERED_PRICE, RATES, TIER, st.booleans())
def test_nobody_owes_more_than_the_hold_at_a_price_of_their_own(
    usage: Usage, catalog: Price, own: dict[str, int], tier: str, is_served_as_asked: bool
) -> None:
    price = charged_price(model(catalog), own)
    bounds = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    worst = worst_case_nano_usd(price, **bounds, service_tier=tier)
    assert cost_nano_usd(usage, price, tier if is_served_as_asked else "") <= worst
    assert price_from_json(price_to_json(price)) == price


PART = st.sampled_from(["1x1", "2x2", "hd", "*"])
TABLE = st.dictionaries(st.tuples(PART, PART).map("/".join), st.integers(0, 9), min_size=1)


@given(TABLE, TABLE)
def test_an_accounts_image_price_goes_before_every_price_of_the_catalog_for_such_an_image(
    catalog: dict[str, int], own: dict[str, int]
) -> None:
    charged = charged_price(
        model(Price("v", images=catalog)), {f"image:{key}": pico_usd for key, pico_usd in own.items()}
    )
    for size in ("1x1", "2x2", "3x3"):
        for quality in ("hd", "low"):
            variant = f"{size}/{quality}"
            expected = Price("v", images=own).image_pico_usd(variant)
            if expected is None:
                expected = Price("v", images=catalog).image_pico_usd(variant)
            assert charged.image_pico_usd(variant) == expected


def test_one_price_for_any_image_leaves_none_of_the_catalogs() -> None:
    assert charged_price(model(IMAGES), {"image:*/*": 1}).images == {"*/*": 1}
    assert charged_price(model(IMAGES), {"image:1024x1024/*": 1}).images == {"1024x1024/*": 1, "*/hd": 120 * 10**9}


def test_a_charged_price_has_a_version_of_its_own() -> None:
    m = model(replace(PLAIN, version="7.0123456789"))
    versions = [
        charged_price(m, changed).version for changed in ({"input": 1}, {"input": 2}, {"output": 1}, {"image:*/*": 1})
    ]
    assert len(set(versions)) == 4
    for version in versions:
        assert version.startswith("7.0123456789+")
        assert len(version) == len("7.0123456789+0123456789")
    assert charged_price(m, {"credits": 3}) is charged_price(m, {}) is m.price
    both = {"input": 1, "output": 2}
    assert charged_price(m, both).version == charged_price(m, dict(reversed(both.items()))).version


def test_a_rate_that_only_the_account_has_holds_for_long_prompts_and_tiers_too() -> None:
    price = charged_price(model(PRO), {"audio_input": 9_000})
    for length in (10, 300_000):
        for tier in ("", "flex", "priority"):
            assert (
                cost_nano_usd(Usage(length, audio_input=1), price, tier) == cost_nano_usd(Usage(length), PRO, tier) + 9
            )


@pytest.mark.parametrize(
    "overrides", [{"inputs": 1}, {"input": -1}, {"input": 1.5}, {"input": True}, {"image:1x1": 1}, {"1x1/hd": 1}, {"version": 1}]
)  # fmt: skip
def test_what_is_no_price_cannot_be_charged(overrides: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is no"):
        charged_price(model(PLAIN), overrides)


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [(0, "0"), (1, "0.000000001"), (1_500, "0.0000015"), (10**9, "1"), (100 * 10**9, "100"), (-2_500_000_000, "-2.5")],
)
def test_dollars_are_shown_exactly(nano_usd: int, text: str) -> None:
    assert usd(nano_usd) == text
    assert usd(nano_usd * 1_000, 12) == text


@given(st.integers(-(10**18), 10**18))
def test_dollars_read_back_are_the_same_amount(nano_usd: int) -> None:
    assert Fraction(usd(nano_usd)) * 10**9 == nano_usd


@given(st.one_of(TEXT_PRICE, FULL_PRICE, TIERED_PRICE, st.sampled_from([IMAGES, PRO])))
def test_a_stored_price_row_reads_back_as_it_was(price: Price) -> None:
    assert price_from_json(price_to_json(price)) == price


def test_a_stored_price_row_is_canonical() -> None:
    assert price_to_json(PLAIN) == '{"input":150000,"output":600000,"version":"v"}'
    assert price_to_json(IMAGES).startswith('{"images":{"*/hd":120000000000,')
    long = '"long_prompt":{"above_input_tokens":9,"input":2}'
    price = Price("v", input=1, long_prompt=Price("v", input=2, above_input_tokens=9))
    assert price_to_json(price) == f'{{"input":1,{long},"version":"v"}}'
    assert price_to_json(Price("v", input=3, service_tiers={"flex": price})) == (
        f'{{"input":3,"service_tiers":{{"flex":{{"input":1,{long}}}}},"version":"v"}}'
    )


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
        '{"version":"v","above_input_tokens":1}',
        '{"version":"v","long_prompt":{"input":1}}',
        '{"version":"v","long_prompt":{"input":1,"above_input_tokens":-1}}',
        '{"version":"v","long_prompt":{"input":1,"above_input_tokens":1,"version":"v"}}',
        '{"version":"v","long_prompt":null}',
        '{"version":"v","service_tiers":[]}',
        '{"version":"v","service_tiers":{"flex":3}}',
        '{"version":"v","service_tiers":{"flex":{"service_tiers":{}}}}',
        '{"version":"v","service_tiers":{"flex":{"images":{}}}}',
    ],
)
def test_what_is_no_price_row_is_not_read_as_one(text: str) -> None:
    with pytest.raises(ValueError):
        price_from_json(text)
