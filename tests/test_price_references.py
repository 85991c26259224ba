"""The catalog beside public price lists: exact, offline, and equal to them where it says so."""

import json
import socket
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, Tier, TieredPrices
from typer.testing import CliRunner

from gateway.catalog import Catalog, load_catalog
from gateway.commands.prices import app
from gateway.errors import ConfigError
from gateway.price_references import Difference, GenaiPrices, LitellmMap, aligned, compare, shown

LITELLM = Path(__file__).parent / "fixtures" / "prices" / "litellm_map.json"
READ_ON = datetime(2026, 11, 21, tzinfo=UTC)
"""The day on which the packaged prices were read."""

CATALOG = """
version = "1"
[providers.openai]
dialect = "openai"
base_url = "https://api.openai.com/v1"
[providers.google]
dialect = "openai"
base_url = "https://generativelanguage.googleapis.com/v1beta/openai"
[providers.fal]
dialect = "fal"
base_url = "https://fal.run"
[providers.mock]
dialect = "mock"
[models.mock-1]
provider = "mock"
endpoints = ["chat"]
[models.mini]
provider = "openai"
upstream_model = "gpt-4o-mini"
endpoints = ["chat"]
input_usd_per_mtok = 0.15
cached_input_usd_per_mtok = 0.075
output_usd_per_mtok = 0.60
context_tokens_max = 128_000
output_tokens_max = 16_384
[models."gpt-4.1"]
provider = "openai"
endpoints = ["chat"]
input_usd_per_mtok = 2
output_usd_per_mtok = 8
context_tokens_max = 1_000_000
[models."gpt-4o"]
provider = "openai"
endpoints = ["chat"]
input_usd_per_mtok = 2.5
output_usd_per_mtok = 10
[models."gemini-2.5-pro"]
provider = "google"
endpoints = ["chat"]
input_usd_per_mtok = 1.25
cached_input_usd_per_mtok = 0.125
output_usd_per_mtok = 10
context_tokens_max = 1_048_576
output_tokens_max = 65_536
[models."gemini-2.5-pro".long_prompt]
above_input_tokens = 200_000
input_usd_per_mtok = 2.5
cached_input_usd_per_mtok = 0.25
output_usd_per_mtok = 15
[models."gemini-2.5-pro".service_tiers.priority]
input_usd_per_mtok = 2.25
output_usd_per_mtok = 18
[models."gemini-2.5-pro".service_tiers.priority.long_prompt]
above_input_tokens = 200_000
input_usd_per_mtok = 4.5
output_usd_per_mtok = 27
[models."text-embedding-3-small"]
provider = "openai"
endpoints = ["embeddings"]
input_usd_per_mtok = 0.02
context_tokens_max = 8_191
[models."flux"]
provider = "fal"
upstream_model = "fal-ai/flux/schnell"
endpoints = ["images"]
active = false
image_usd = { "*" = 0.003 }
[models."painter"]
provider = "openai"
endpoints = ["images"]
image_usd = { "1024x1024/hd" = 0.08, "512x512" = 0.018, "9x9/hd" = 1 }
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    path = tmp_path / "pricing.toml"
    path.write_text(CATALOG)
    return load_catalog(path)


def test_differences_from_litellms_map_are_exact_and_field_by_field(catalog: Catalog) -> None:
    result = compare(catalog, LitellmMap(LITELLM))
    assert result.differences == [
        Difference("gpt-4.1", "input_usd_per_mtok", Decimal(2), Decimal("2.0000001"), "litellm"),
        Difference("gpt-4.1", "cached_input_usd_per_mtok", None, Decimal("0.5"), "litellm"),
        Difference("gpt-4.1", "output_tokens_max", None, Decimal(32768), "litellm"),
        Difference("flux", "image_usd */*", Decimal("0.003"), Decimal("0.004"), "litellm"),
        Difference("painter", "image_usd 512x512/*", Decimal("0.018"), Decimal("0.019"), "litellm"),
    ]
    assert result.unlisted == ["gpt-4o"], "a row of another provider is not ours"
    assert result.equal == 3, "gemini-2.5-pro among them, with its rates for long prompts and for a service tier"


@pytest.mark.parametrize(
    ("written", "instead", "differences"),
    [
        pytest.param(
            '[models."gemini-2.5-pro".long_prompt]\nabove_input_tokens = 200_000\ninput_usd_per_mtok = 2.5\n',
            '[models."gemini-2.5-pro".long_prompt]\nabove_input_tokens = 128_000\ninput_usd_per_mtok = 2.4\n',
            [
                ("long_prompt.above_input_tokens", Decimal(128_000), Decimal(200_000)),
                ("long_prompt.input_usd_per_mtok", Decimal("2.4"), Decimal("2.5")),
            ],
            id="another step",
        ),
        pytest.param(
            "output_usd_per_mtok = 18\n",
            "output_usd_per_mtok = 19\n",
            [("service_tiers.priority.output_usd_per_mtok", Decimal(19), Decimal(18))],
            id="a tier's rate",
        ),
        pytest.param(
            '[models."gemini-2.5-pro".service_tiers.priority.long_prompt]\nabove_input_tokens = 200_000\n'
            "input_usd_per_mtok = 4.5\noutput_usd_per_mtok = 27\n",
            "",
            [
                ("service_tiers.priority.long_prompt.above_input_tokens", None, Decimal(200_000)),
                ("service_tiers.priority.long_prompt.input_usd_per_mtok", None, Decimal("4.5")),
            ],
            id="a tier without its rates for long prompts",
        ),
    ],
)
def test_rates_for_long_prompts_and_service_tiers_are_compared(
    tmp_path: Path, written: str, instead: str, differences: list[tuple[str, Decimal | None, Decimal]]
) -> None:
    assert written in CATALOG
    path = tmp_path / "pricing.toml"
    path.write_text(CATALOG.replace(written, instead))
    found = [d for d in compare(load_catalog(path), LitellmMap(LITELLM)).differences if d.model == "gemini-2.5-pro"]
    assert sorted((d.key, d.ours, d.theirs) for d in found) == differences


def test_genai_prices_are_those_of_the_day_asked_for(catalog: Catalog) -> None:
    """o3 became cheaper on 2025-06-10; the snapshot knows both prices."""
    figures = []
    for day in (datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 6, 11, tzinfo=UTC)):
        reference = GenaiPrices.installed(day)
        assert reference is not None
        stated = reference.look_up(load_catalog().models["o3"], catalog.providers["openai"])
        assert stated is not None
        figures.append(stated["input_usd_per_mtok"])
    assert figures == [Decimal(10), Decimal(2)]


def test_genai_prices_know_a_renamed_provider_by_its_address(catalog: Catalog) -> None:
    reference = GenaiPrices.installed(READ_ON)
    assert reference is not None
    result = compare(catalog, reference)
    tiers = [(d.model, d.key, d.theirs) for d in result.differences if d.key.startswith("service_tiers.")]
    assert ("mini", "service_tiers.priority.input_usd_per_mtok", Decimal("0.25")) in tiers
    assert [(d.model, d.key, d.theirs) for d in result.differences if not d.key.startswith("service_tiers.")] == [
        ("gpt-4.1", "cached_input_usd_per_mtok", Decimal("0.5")),
        ("gpt-4o", "cached_input_usd_per_mtok", Decimal("1.25")),
    ]
    assert {"flux", "painter"} <= set(result.unlisted)


def test_the_packaged_prices_equal_those_of_genai_prices() -> None:
    reference = GenaiPrices.installed(READ_ON)
    assert reference is not None
    result = compare(load_catalog(), reference)
    assert result.differences == []
    assert result.equal >= 50


def test_the_equality_of_the_packaged_prices_covers_long_prompts_and_service_tiers() -> None:
    reference = GenaiPrices.installed(READ_ON)
    assert reference is not None
    packaged = load_catalog()
    stated = {
        model.name: found
        for model in packaged.models.values()
        if (found := reference.look_up(model, packaged.providers[model.provider])) is not None
    }
    assert sum("long_prompt.input_usd_per_mtok" in figures for figures in stated.values()) == 13
    assert sum("service_tiers.flex.input_usd_per_mtok" in figures for figures in stated.values()) >= 15
    assert stated["gpt-6-astra"]["service_tiers.fast.long_prompt.output_usd_per_mtok"] == Decimal(150)


def test_service_tiers_count_from_the_day_on_which_they_were_priced() -> None:
    """The snapshot has flex rates of gpt-5.5 from 2026-10-12."""
    packaged = load_catalog()
    for day, is_priced in ((datetime(2026, 10, 11, tzinfo=UTC), False), (datetime(2026, 10, 12, tzinfo=UTC), True)):
        reference = GenaiPrices.installed(day)
        assert reference is not None
        figures = reference.look_up(packaged.models["gpt-5.5"], packaged.providers["openai"])
        assert figures is not None
        assert ("service_tiers.flex.input_usd_per_mtok" in figures) is is_priced


class Snapshot:
    """A price list of one model in the shape of genai-prices' snapshot."""

    def __init__(self, prices: ModelPrice) -> None:
        self._row = ModelInfo("gpt-4o", ClauseEquals("gpt-4o"), prices=prices)

    def find_provider(self, *_: object) -> None: ...

    def find_provider_model(self, *_: object) -> tuple[None, ModelInfo]:
        return None, self._row


def test_a_second_step_of_prompt_length_is_a_difference(catalog: Catalog) -> None:
    steps = [Tier(200_000, Decimal(5)), Tier(500_000, Decimal(9))]
    prices = ModelPrice(input_mtok=TieredPrices(Decimal("2.5"), steps), output_mtok=Decimal(10))
    reference = GenaiPrices(Snapshot(prices), "made up", READ_ON)
    figures = reference.look_up(catalog.models["gpt-4o"], catalog.providers["openai"])
    assert figures == {
        "input_usd_per_mtok": Decimal("2.5"),
        "output_usd_per_mtok": Decimal(10),
        "long_prompt.above_input_tokens": Decimal(200_000),
        "long_prompt.input_usd_per_mtok": Decimal(5),
        "long_prompt.output_usd_per_mtok": Decimal(10),
        "long_prompt above 500000.above_input_tokens": Decimal(500_000),
        "long_prompt above 500000.input_usd_per_mtok": Decimal(9),
        "long_prompt above 500000.output_usd_per_mtok": Decimal(10),
    }


@pytest.mark.parametrize("text", ["[]", "{", "3", "\xff"])
def test_what_is_no_price_map_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "map.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"map\.json: is not a price map"):
        LitellmMap(path)
    with pytest.raises(ConfigError, match=r"nowhere\.json: cannot be read"):
        LitellmMap(tmp_path / "nowhere.json")


def test_an_installed_litellm_is_read_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "litellm"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "model_prices_and_context_window_backup.json").write_bytes(LITELLM.read_bytes())
    info = tmp_path / "litellm-9.9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: litellm\nVersion: 9.9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = LitellmMap.installed()
    assert found is not None
    assert found.name == "litellm 9.9.9"
    assert "litellm" not in sys.modules


def run(*arguments: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """`gateway prices diff` over the catalog above, where every attempt to connect fails."""

    def refuse(*_: object) -> None:
        raise AssertionError("opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    path = folder / "pricing.toml"
    path.write_text(CATALOG)
    result = CliRunner().invoke(app, ["diff", "--pricing-file", str(path), "--on", "2026-11-21", *arguments])
    return result.exit_code, result.output


def test_the_command_shows_each_difference_and_connects_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = run("--litellm-map", str(LITELLM), folder=tmp_path, monkeypatch=monkeypatch)
    assert code == 0
    assert "litellm (litellm_map.json): 3 models equal, 3 different, 1 not listed" in output
    assert [line.split() for line in output.splitlines() if "2.0000001" in line] == [
        ["gpt-4.1", "input_usd_per_mtok", "2", "2.0000001"]
    ]
    assert "not listed there: gpt-4o" in output
    assert "genai-prices " in output


def test_the_strict_command_fails_on_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _ = run("--litellm-map", str(LITELLM), "--strict", folder=tmp_path, monkeypatch=monkeypatch)
    assert code == 1


def test_the_strict_command_passes_where_nothing_differs(tmp_path: Path) -> None:
    listed = tmp_path / "map.json"
    listed.write_text(json.dumps({}))
    result = CliRunner().invoke(app, ["diff", "--litellm-map", str(listed), "--on", "2026-11-21", "--strict"])
    assert result.exit_code == 0, result.output
    assert "litellm (map.json): 0 models equal, 0 different" in result.output


def test_the_command_names_a_list_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.price_references.util.find_spec", lambda name: None)
    code, output = run("--strict", folder=tmp_path, monkeypatch=monkeypatch)
    assert code == 0
    assert "litellm: not installed, so not compared: pip install 'llm-gateway[providers]'" in output
    assert "genai-prices: not installed, so not compared: pip install 'llm-gateway[prices]'" in output


def test_the_command_refuses_a_broken_file_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pricing.toml"
    path.write_text('version = "1"\nodd = 1\n')
    result = CliRunner().invoke(app, ["diff", "--pricing-file", str(path)])
    assert result.exit_code == 2
    assert f"{path}:2: odd: unknown key" in result.output.replace("\n", "")


@pytest.mark.parametrize(
    ("figure", "text"), [(None, "-"), ("0.150", "0.15"), ("1E+6", "1000000"), ("0", "0"), ("0.0000001", "0.0000001")]
)
def test_figures_are_shown_without_exponents(figure: str | None, text: str) -> None:
    assert shown(None if figure is None else Decimal(figure)) == text


def test_columns_are_aligned_under_each_other() -> None:
    assert aligned([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc  d"]
