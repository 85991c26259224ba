"""How figures are written: exact, whatever their size."""

from decimal import Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dashboard.figures import (
    FILTERS,
    decimals,
    instant,
    moment,
    number,
    percent,
    plain,
    shares,
    short_id,
    usd_at,
    usd_round,
    usd_text,
)
from gateway.dashboard.words import FILTERS as WORDS


def _read_back(text: str) -> Decimal:
    return Decimal(text.replace("$", "").replace(",", ""))


@pytest.mark.parametrize("value", [1.5, 0.0, float("nan")])
def test_money_is_never_a_float(value):
    with pytest.raises(TypeError):
        usd_text(value)


@pytest.mark.parametrize("value", ["", "unlimited", "NaN", "Infinity", "-inf", "1,000"])
def test_what_is_no_amount_is_refused(value):
    with pytest.raises(ValueError, match="no amount"):
        usd_text(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "$0.00"),
        (1, "$0.000000001"),
        (-1, "-$0.000000001"),
        (1_234_567_800_000, "$1,234.5678"),
        (1_500_000_000, "$1.50"),
        ("1234.5", "$1,234.50"),
        ("0.00000000001875", "$0.00000000001875"),
        ("-0", "$0.00"),
        (".5", "$0.50"),
        ("1e-7", "$0.0000001"),
        (Decimal("12345678901234567890123456789.123456789"), "$12,345,678,901,234,567,890,123,456,789.123456789"),
    ],
)
def test_money_is_written_to_its_last_digit(value, text):
    assert usd_text(value) == text


@given(st.integers())
def test_nano_dollars_read_back_as_what_they_were(nano):
    text = usd_text(nano)
    assert _read_back(text).scaleb(9, Context(prec=10_000)) == nano
    assert len(text.partition(".")[2]) >= 2


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12))
def test_decimal_texts_read_back_as_what_they_were(amount):
    assert _read_back(usd_text(str(amount))) == amount


@given(st.integers(min_value=-(10**15), max_value=10**15))
def test_an_amount_is_written_alike_from_nano_dollars_and_from_its_text(nano):
    assert usd_text(nano) == usd_text(str(Decimal(nano).scaleb(-9)))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "$0.00"),
        (31_359_529_160, "$31.36"),
        (1_234_567_995_000_000, "$1,234,568.00"),
        (479_200, "$0.00048"),
        (100_000_000, "$0.10"),
        (5_000_000, "$0.005"),
        (1, "$0.000000001"),
        (-2_345_000_000, "-$2.35"),
        ("0.8", "$0.80"),
    ],
)
def test_a_rounded_amount_has_cents_or_two_figures(value, shown):
    assert usd_round(value) == shown


@given(st.integers(min_value=-(10**18), max_value=10**18), st.integers(0, 9))
def test_a_rounded_amount_is_off_by_half_its_last_digit_at_most(nano, places):
    shown = usd_at(nano, places)
    exact = Decimal(nano).scaleb(-9)
    step = Decimal(1).scaleb(-max(places, 2))
    if "<" in shown:
        assert 0 < abs(exact) < step
        assert _read_back(shown.replace("<", "")) == (step if exact > 0 else -step)
    else:
        assert abs(_read_back(shown) - exact) * 2 <= step
        assert len(shown.partition(".")[2]) == max(places, 2)
        assert (exact == 0) == (nano == 0)


def test_a_rounded_amount_is_no_float_either():
    with pytest.raises(TypeError):
        usd_at(1.5, 2)


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([], 2),
        ([0, None], 2),
        ([5_367_232_200, 31_000_000_000], 2),
        ([80_000_000, 39_040], 4),
        ([80_000_000, 40_000_000], 2),
        ([7_083_500], 4),
        (["0.5", "1.25"], 2),
        ([82_000, 0], 6),
        ([82_000, 7], 6),
    ],
)
def test_a_column_has_the_digits_that_its_smallest_amount_needs(values, places):
    assert decimals(values) == places


def test_a_column_of_single_calls_may_have_more():
    assert decimals([80_000_000, 39_040], 6) == 6


@pytest.mark.parametrize(
    ("text", "shown"), [("1000000", "1\u202f000\u202f000"), ("auto", "auto"), ("-5", "-5"), ("", "")]
)
def test_whole_numbers_among_texts_are_grouped(text, shown):
    assert plain(text) == shown


@given(st.integers())
def test_counts_read_back_as_what_they_were(count):
    text = number(count)
    assert int(text.replace("\u202f", "")) == count
    assert all(len(group) == 3 for group in text.split("\u202f")[1:])


@given(st.integers(min_value=-(10**12), max_value=10**12), st.integers(min_value=1, max_value=10**12))
def test_percents_are_within_half_a_tenth(part, whole):
    shown = Decimal(percent(part, whole).removesuffix(" %"))
    assert abs(shown * whole - 100 * part) * 20 <= whole


@pytest.mark.parametrize(("part", "whole", "text"), [(1, 0, "–"), (0, 7, "0.0 %"), (7, 7, "100.0 %"), (1, 3, "33.3 %")])
def test_percents_of_nothing_are_a_dash(part, whole, text):
    assert percent(part, whole) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, "–"),
        ("", "–"),
        ("2026-05-31", "2026-05-31"),
        ("2026-05", "2026-05"),
        ("2026-05-31T12:00:07Z", "2026-05-31 12:00:07"),
        ("2026-05-31T12:00:07.123456+00:00", "2026-05-31 12:00:07"),
        ("2026-05-31T23:30:00-02:00", "2026-06-01 01:30:00"),
    ],
)
def test_instants_are_shown_in_utc_to_the_minute_or_the_second(text, shown):
    assert moment(text) == shown
    assert instant(text) == shown[:16]


@given(st.text())
def test_ids_are_cut_from_the_front(text):
    assert short_id(text) == text or (short_id(text) == "…" + text[-8:] and len(text) > 8)


@given(st.integers(min_value=0), st.integers(min_value=0), st.integers(min_value=0))
def test_shares_never_exceed_the_whole(used, held, capacity):
    found = shares(used, held, capacity)
    if found is None:
        assert used == held == capacity == 0
        return
    assert 0 <= found.used <= 1000
    assert 0 <= found.held <= 1000 - found.used


@pytest.mark.parametrize(
    ("used", "held", "capacity", "found"),
    [
        (5, 5, None, None),
        (0, 0, 0, None),
        (1, 0, 0, (1000, 0)),
        (1, 1, 4, (250, 250)),
        (9, 9, 10, (900, 100)),
        (-5, 0, 10, (0, 0)),
    ],
)
def test_shares_of_a_capacity(used, held, capacity, found):
    assert shares(used, held, capacity) == found


@pytest.mark.parametrize(("used", "level"), [(749, "low"), (750, "high"), (949, "high"), (950, "full")])
def test_a_meter_warns_before_it_is_full(used, level):
    found = shares(used, 0, 1000)
    assert found is not None
    assert found.level == level


def test_templates_have_every_filter_of_the_design():
    assert set(FILTERS) == {
        "usd", "usd_at", "usd_round", "number", "percent", "plain", "instant", "moment", "short_id",
    }  # fmt: skip
    assert not FILTERS.keys() & WORDS.keys()
