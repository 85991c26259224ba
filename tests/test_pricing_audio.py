"""Prices by the second and by the character: what they cost, where they may be written, and how people read them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog import Model, Price, lint_catalog, load_catalog
from gateway.errors import ConfigError
from gateway.plans import load_plans, plan_to_json, with_overrides
from gateway.price_rows import CHARACTERS, SECONDS, row_of
from gateway.pricing import (
    UnpricedUsage,
    charged_price,
    cost_nano_usd,
    price_from_json,
    price_shown,
    price_to_json,
)
from gateway.usage import Usage, from_speech, from_transcription

WHISPER = Price("w", audio_second=100_000_000)  # 0.006 USD a minute
TTS = Price("t", character=15_000_000)  # 15 USD a million characters
BY_TOKENS = Price("k", input=2_500_000, audio_input=6_000_000, output=10_000_000)

CATALOG = """
version = 1
[providers.p]
dialect = "openai"
base_url = "https://127.0.0.1/v1"
[models."m"]
provider = "p"
source = "a page"
endpoints = [{endpoints}]
{prices}
"""


def catalog(tmp_path: Path, endpoints: str, prices: str) -> Path:
    path = tmp_path / "pricing.toml"
    path.write_text(CATALOG.format(endpoints=endpoints, prices=prices))
    return path


@pytest.mark.parametrize(
    ("usage", "price", "variant", "nano_usd"),
    [
        # 61 s x 0.0001 USD = 0.0061 USD
        pytest.param(Usage(pieces=61), WHISPER, SECONDS, 6_100_000, id="seconds"),
        # 4096 x 0.000015 USD = 0.06144 USD
        pytest.param(Usage(pieces=4096), TTS, CHARACTERS, 61_440_000, id="characters"),
        pytest.param(Usage(pieces=0), WHISPER, SECONDS, 0, id="no second"),
        # A third of a nano-dollar a second: three make one, and four round up to two.
        pytest.param(Usage(pieces=4), Price("x", audio_second=334), SECONDS, 2, id="rounded up once"),
        pytest.param(
            Usage(10, audio_input=600, text_output=40, pieces=60), WHISPER, SECONDS, 6_000_000, id="not paid twice"
        ),
        # 10 x 2.5 + 600 x 6 + 40 x 10 = 4 025 micro-dollars
        pytest.param(
            Usage(10, audio_input=600, text_output=40, pieces=60), BY_TOKENS, SECONDS, 4_025_000, id="in tokens"
        ),
        pytest.param(
            Usage(10, audio_input=600, pieces=0), Price("x", audio_second=1), SECONDS, 0, id="no second, though tokens"
        ),
    ],
)
def test_pieces_cost_their_own_price_once(usage: Usage, price: Price, variant: str, nano_usd: int) -> None:
    assert cost_nano_usd(usage, price, variant) == nano_usd


@pytest.mark.parametrize(
    ("price", "variant"),
    [
        pytest.param(WHISPER, CHARACTERS, id="characters at a price for seconds"),
        pytest.param(TTS, SECONDS, id="seconds at a price for characters"),
        pytest.param(Price("i", images={"*/*": 5}), SECONDS, id="seconds at a price for images"),
        pytest.param(BY_TOKENS, SECONDS, id="seconds and no token"),
    ],
)
def test_pieces_without_a_price_of_their_own_are_refused(price: Price, variant: str) -> None:
    with pytest.raises(UnpricedUsage):
        cost_nano_usd(Usage(pieces=3), price, variant)


def test_images_do_not_cost_what_seconds_do() -> None:
    price = Price("x", audio_second=7_000, images={"*/*": 5_000})
    assert cost_nano_usd(Usage(pieces=2), price, "1024x1024/hd") == 10
    assert cost_nano_usd(Usage(pieces=2), price, SECONDS) == 14


def test_the_file_writes_dollars_a_second_and_a_million_characters(tmp_path: Path) -> None:
    path = catalog(
        tmp_path,
        '"transcriptions", "translations", "speech"',
        "audio_usd_per_second = 0.0001\nspeech_usd_per_mchar = 15",
    )
    loaded = load_catalog(path)
    model = loaded.models["m"]
    assert (model.price.audio_second, model.price.character) == (100_000_000, 15_000_000)
    assert lint_catalog(loaded) == []
    assert [model.missing_prices(endpoint) for endpoint in sorted(model.endpoints)] == [()] * 3


@pytest.mark.parametrize(
    "prices",
    [
        "audio_usd_per_second = 1001",
        "audio_usd_per_second = -0.1",
        "audio_usd_per_second = 0.0000000000001",
        "speech_usd_per_mchar = 1000001",
        'speech_usd_per_mchar = "free"',
        "speech_usd_per_mchar = 0.0000001",
    ],
)
def test_a_price_that_cannot_be_meant_stops_the_start(tmp_path: Path, prices: str) -> None:
    with pytest.raises(ConfigError):
        load_catalog(catalog(tmp_path, '"speech"', prices))


@pytest.mark.parametrize(
    ("endpoint", "missing"),
    [
        ("speech", "input_usd_per_mtok and audio_output_usd_per_mtok"),
        ("transcriptions", "input_usd_per_mtok and audio_input_usd_per_mtok and output_usd_per_mtok"),
        ("translations", "input_usd_per_mtok and audio_input_usd_per_mtok and output_usd_per_mtok"),
    ],
)
def test_lint_says_what_a_model_without_any_price_lacks(tmp_path: Path, endpoint: str, missing: str) -> None:
    (line,) = lint_catalog(load_catalog(catalog(tmp_path, f'"{endpoint}"', "")))
    assert f"no {missing}: {endpoint} calls are refused as unpriced" in line


def test_the_version_changes_with_the_price_and_only_with_it(tmp_path: Path) -> None:
    def version(prices: str) -> str:
        return load_catalog(catalog(tmp_path, '"speech"', prices)).models["m"].price.version

    none = version("")
    assert version("") == none
    assert len({none, version("speech_usd_per_mchar = 15"), version("speech_usd_per_mchar = 16")}) == 3
    assert version("audio_usd_per_second = 15") != version("speech_usd_per_mchar = 15")


prices = st.builds(
    Price,
    st.just("v"),
    input=st.none() | st.integers(0, 10**9),
    audio_second=st.none() | st.integers(0, 10**15),
    character=st.none() | st.integers(0, 10**12),
    images=st.none() | st.just({"*/*": 5}),
)


@given(prices)
def test_a_row_is_read_back_as_it_was_written(price: Price) -> None:
    assert price_from_json(price_to_json(price)) == price


def test_a_row_below_has_no_pieces() -> None:
    with pytest.raises(ValueError, match="not a price row"):
        price_from_json('{"version":"v","service_tiers":{"flex":{"audio_second":1}}}')


def model(price: Price) -> Model:
    return Model("m", "p", "m", frozenset({"speech"}), price)


def test_a_creator_may_owe_another_price_for_pieces() -> None:
    charged = charged_price(model(WHISPER), {"audio_second": 250_000_000})
    assert cost_nano_usd(Usage(pieces=10), charged, SECONDS) == 2_500_000
    assert charged.version != WHISPER.version
    assert row_of(charged) == {"audio_second": 250_000_000}
    # What costs tokens may be owed by the second.
    charged = charged_price(model(BY_TOKENS), {"audio_second": 1_000_000})
    assert cost_nano_usd(Usage(10, audio_input=600, pieces=60), charged, SECONDS) == 60_000
    with pytest.raises(ValueError, match="whole number"):
        charged_price(model(WHISPER), {"audio_second": -1})


def test_a_price_is_shown_by_what_the_call_counts() -> None:
    price = Price("v", input=600_000, audio_second=100_000_000, character=15_000_000)
    rates = {"version": "v", "input_usd_per_mtok": "0.6"}
    assert price_shown(price, SECONDS) == {**rates, "variant": SECONDS, "audio_usd_per_second": "0.0001"}
    assert price_shown(price, CHARACTERS) == {**rates, "variant": CHARACTERS, "speech_usd_per_mchar": "15"}
    assert price_shown(price, "") == {**rates, "variant": ""}


# What providers report


def test_a_transcripts_tokens_fall_into_their_buckets() -> None:
    usage = {
        "type": "tokens",
        "input_tokens": 14,
        "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
        "output_tokens": 45,
        "total_tokens": 59,
    }
    caps = {"input_tokens_max": 14, "output_tokens_max": 45}
    assert from_transcription(usage, **caps) == Usage(4, audio_input=10, text_output=45)
    del usage["input_token_details"]
    assert from_transcription(usage, **caps) == Usage(audio_input=14, text_output=45)


REPORT = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}


@pytest.mark.parametrize(
    "change",
    [
        {"input_tokens": None},
        {"output_tokens": -1},
        {"input_tokens": 5.0},
        {"input_tokens": True},
        {"total_tokens": 13},
        {"input_tokens": 101, "total_tokens": 108},
        {"output_tokens": 101, "total_tokens": 106},
    ],
)
def test_tokens_nobody_could_mean_are_refused(change: dict[str, object]) -> None:
    caps = {"input_tokens_max": 100, "output_tokens_max": 100}
    assert from_transcription(REPORT, **caps) is not None
    assert from_speech(REPORT, **caps) == Usage(5, audio_output=7)
    assert from_transcription({**REPORT, **change}, **caps) is None
    assert from_speech({**REPORT, **change}, **caps) is None


@pytest.mark.parametrize(
    "details", [{"audio_tokens": 6}, {"audio_tokens": 3, "text_tokens": 3}, {"cached_tokens": 6}, 5]
)
def test_parts_larger_than_their_whole_are_refused(details: object) -> None:
    usage = {**REPORT, "input_token_details": details}
    assert from_transcription(usage, input_tokens_max=100, output_tokens_max=100) is None


def test_cached_tokens_are_taken_off_the_text_first() -> None:
    usage = {**REPORT, "input_token_details": {"text_tokens": 2, "audio_tokens": 3, "cached_tokens": 4}}
    found = from_transcription(usage, input_tokens_max=100, output_tokens_max=100)
    assert found == Usage(0, 2, audio_input=3, text_output=7)


@pytest.mark.parametrize("usage", [None, [], "5", 5])
def test_what_is_no_object_reports_nothing(usage: object) -> None:
    assert from_speech(usage, input_tokens_max=9, output_tokens_max=9) is None
    assert from_transcription(usage, input_tokens_max=9, output_tokens_max=9) is None


# What a plan says


def test_a_plan_writes_them_as_the_catalog_does(tmp_path: Path) -> None:
    plans = tmp_path / "plans.toml"
    plans.write_text('[plans.x.prices."m"]\naudio_usd_per_second = 0.0002\nspeech_usd_per_mchar = 20\n')
    plan = load_plans(plans)["x"]
    assert plan.prices == {"m": {"audio_second": 200_000_000, "character": 20_000_000}}
    shown = plan_to_json(plan)["prices"]
    assert shown == {"m": {"audio_usd_per_second": "0.0002", "speech_usd_per_mchar": "20"}}
    lifted = with_overrides(plan, {"prices": {"m": {"audio_usd_per_second": None}}})
    assert lifted.prices == {"m": {"character": 20_000_000}}


@pytest.mark.parametrize("row", ["audio_usd_per_second = 1001", "speech_usd_per_mchar = -1", "audio_usd_per_mchar = 1"])
def test_a_plan_refuses_prices_nobody_can_mean(tmp_path: Path, row: str) -> None:
    plans = tmp_path / "plans.toml"
    plans.write_text(f'[plans.x.prices."m"]\n{row}\n')
    with pytest.raises(ConfigError):
        load_plans(plans)
