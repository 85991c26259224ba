"""A bill's arithmetic, done again by hand, and against the one function that rounds."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dashboard.bills import BillLine, bill_of
from gateway.ledger.entry_json import entry_json
from gateway.ledger.schema import ENTRY_COLUMNS
from gateway.price_rows import PRICE_FIELDS, Price
from gateway.pricing import UnpricedUsage, cost_nano_usd, price_shown
from gateway.usage import Usage

TEXT = Price("1.text", input=1_250_000, cached_input=125_000, output=10_000_000)
SOUND = Price("1.sound", input=2_500_000, output=10_000_000, audio_input=40_000_000, audio_output=80_000_000)
IN_TOKENS = Price("1.image", input=5_000_000, image_input=10_000_000, image_output=40_000_000)
BY_PIECE = Price(
    "1.piece",
    input=5_000_000,
    images={"1024x1024/hd": 80_000_000_000, "*/*": 40_000_000_000},
    audio_second=100_000_000,
    character=15_000_000,
)
LONG = Price(
    "1.long",
    input=1_250_000,
    output=10_000_000,
    long_prompt=Price("1.long", input=2_500_000, output=15_000_000, above_input_tokens=1_000),
)


def shown(usage: Usage, endpoint: str = "chat") -> dict[str, Any]:
    row = {**dict.fromkeys(ENTRY_COLUMNS, 0), **usage._asdict(), "endpoint": endpoint}
    return entry_json({**row, "tags": "", "metadata": "", "flags": "", "free_attempts": ""})


def billed(usage: Usage, price: Price, variant: str = "", endpoint: str = "chat") -> Any:
    cost = cost_nano_usd(usage, price, variant)
    return bill_of(shown(usage, endpoint), price_shown(price, variant, usage.input_tokens), cost)


@pytest.mark.parametrize(
    ("usage", "price", "variant", "endpoint", "lines", "exact", "nano"),
    [
        pytest.param(
            Usage(uncached_input=100, cached_input=20, text_output=30, reasoning=7),
            TEXT,
            "",
            "chat",
            [
                ("uncached input tokens", 100, "1.25", "0.000125"),
                ("cached input tokens", 20, "0.125", "0.0000025"),
                ("text output tokens", 30, "10", "0.0003"),
                ("reasoning tokens", 7, "10", "0.00007"),
            ],
            "0.0004975",
            497_500,
            id="cached tokens, and reasoning at the rate of output",
        ),
        pytest.param(
            Usage(uncached_input=3, cached_input=1, cache_write=2),
            TEXT,
            "",
            "chat",
            [
                ("uncached input tokens", 3, "1.25", "0.00000375"),
                ("cached input tokens", 1, "0.125", "0.000000125"),
                ("cache write tokens", 2, "1.25", "0.0000025"),
            ],
            "0.000006375",
            6_375,
            id="what is written to the cache costs input",
        ),
        pytest.param(
            Usage(cached_input=3),
            Price("1.odd", input=1_000_000, cached_input=33_333, output=0),
            "",
            "chat",
            [("cached input tokens", 3, "0.033333", "0.000000099999")],
            "0.000000099999",
            100,
            id="rounded up once, at the end",
        ),
        pytest.param(
            Usage(uncached_input=10, audio_input=50, text_output=4, audio_output=25),
            SOUND,
            "",
            "chat",
            [
                ("uncached input tokens", 10, "2.5", "0.000025"),
                ("audio input tokens", 50, "40", "0.002"),
                ("text output tokens", 4, "10", "0.00004"),
                ("audio output tokens", 25, "80", "0.002"),
            ],
            "0.004065",
            4_065_000,
            id="audio by the token",
        ),
        pytest.param(
            Usage(uncached_input=40, image_input=300, image_output=1_056, pieces=1),
            IN_TOKENS,
            "1024x1024/high",
            "images",
            [
                ("uncached input tokens", 40, "5", "0.0002"),
                ("image input tokens", 300, "10", "0.003"),
                ("image output tokens", 1_056, "40", "0.04224"),
            ],
            "0.04544",
            45_440_000,
            id="images by the token",
        ),
        pytest.param(
            Usage(uncached_input=40, pieces=3),
            BY_PIECE,
            "1024x1024/hd",
            "images",
            [("images", 3, "0.08", "0.24")],
            "0.24",
            240_000_000,
            id="images by the piece, and nothing beside them",
        ),
        pytest.param(
            Usage(pieces=61),
            BY_PIECE,
            "seconds",
            "transcriptions",
            [("seconds of audio", 61, "0.0001", "0.0061")],
            "0.0061",
            6_100_000,
            id="seconds of audio",
        ),
        pytest.param(
            Usage(pieces=11),
            BY_PIECE,
            "characters",
            "speech",
            [("characters", 11, "15", "0.000165")],
            "0.000165",
            165_000,
            id="characters of speech",
        ),
        pytest.param(
            Usage(uncached_input=1_001, text_output=2),
            LONG,
            "",
            "chat",
            [("uncached input tokens", 1_001, "2.5", "0.0025025"), ("text output tokens", 2, "15", "0.00003")],
            "0.0025325",
            2_532_500,
            id="a long prompt has its own rates",
        ),
    ],
)
def test_a_bill_shows_what_was_counted_times_its_price(usage, price, variant, endpoint, lines, exact, nano):
    bill = billed(usage, price, variant, endpoint)
    assert [(line.what, line.number, line.rate, line.amount_usd) for line in bill.lines] == lines
    assert (bill.sum_usd, bill.sum_nano_usd, bill.booked_nano_usd) == (exact, nano, nano)
    assert bill.agrees
    assert bill.version == price.version


def test_rates_for_long_prompts_are_named():
    assert [billed(Usage(uncached_input=number), LONG, "", "chat").long_above for number in (1_000, 1_001)] == [
        None,
        1_000,
    ]


def test_a_bill_that_differs_says_so():
    usage = Usage(uncached_input=1_000)
    bill = bill_of(shown(usage), price_shown(TEXT, ""), 1_249_999)
    assert bill is not None
    assert (bill.sum_nano_usd, bill.agrees) == (1_250_000, False)


def test_what_has_no_rate_is_named_and_never_silently_free():
    bill = bill_of(shown(Usage(uncached_input=1, audio_output=5)), price_shown(TEXT, ""), 1)
    assert bill is not None
    assert bill.unpriced == ("audio output tokens",)
    assert bill.lines[1] == BillLine("audio output tokens", 5, "", "million", 0)


def test_without_a_price_or_an_amount_there_is_no_bill():
    entry = shown(Usage(uncached_input=1))
    assert bill_of(entry, None, 1) is None
    assert bill_of(entry, price_shown(TEXT, ""), None) is None


_COUNT = st.integers(0, 10_000_000)
_RATE = st.none() | st.integers(0, 10**9)


@given(
    usage=st.builds(Usage, *([_COUNT] * 9), st.just(0)),
    rates=st.fixed_dictionaries(dict.fromkeys(PRICE_FIELDS, _RATE)),
)
def test_the_sum_of_the_lines_is_what_the_gateway_books_for_any_usage_and_price(usage, rates):
    price = Price("1.any", **rates)
    bill = bill_of(shown(usage), price_shown(price, "", usage.input_tokens), 0)
    assert bill is not None
    try:
        cost = cost_nano_usd(usage, price)
    except UnpricedUsage:
        assert bill.unpriced
    else:
        assert not bill.unpriced
        assert bill.sum_nano_usd == cost


@given(
    pieces=st.integers(0, 10**9),
    each=st.integers(0, 10**13),
    kind=st.sampled_from([("1024x1024/hd", "images"), ("seconds", "transcriptions"), ("characters", "speech")]),
)
def test_so_it_is_for_pieces(pieces, each, kind):
    variant, endpoint = kind
    price = Price("1.any", input=7, images={"*/*": each}, audio_second=each, character=each)
    bill = billed(Usage(uncached_input=3, pieces=pieces), price, variant, endpoint)
    assert (bill.sum_nano_usd, bill.agrees) == (-(-pieces * each // 1000), True)
