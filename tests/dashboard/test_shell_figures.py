"""How figures are written: exact, whatever their size."""

from decimal import Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dashboard.figures import FILTERS, instant, number, percent, shares, short_id, usd_text


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
def test_instants_are_shown_in_utc(text, shown):
    assert instant(text) == shown


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
    assert set(FILTERS) == {"usd", "number", "percent", "instant", "short_id"}
