"""`gateway import litellm-config`: every key has its say, every digit of a price stays, no secret comes out."""

import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.catalog import Catalog, load_catalog, packaged_catalog
from gateway.cli import main
from gateway.config import Settings, load_settings
from gateway.errors import ConfigError
from gateway.litellm_config import Import, read_config
from gateway.plans import load_plans
from gateway.toml_file import TomlFile

FIXTURES = Path(__file__).parent / "fixtures" / "litellm_configs"
CONFIGS = ["team.yaml", "load_balancer.yaml"]
PACKAGED = TomlFile(packaged_catalog()).data["models"]


def read(text: str) -> Import:
    return read_config(text, "config.yaml", packaged=PACKAGED)


def entry(params: str, info: str = "{}", name: str = "m") -> str:
    return f"{{model_name: {name}, litellm_params: {{{params}}}, model_info: {info}}}"


def models(*entries: str, rest: str = "") -> Import:
    return read(f"model_list: [{', '.join(entries)}]\n{rest}")


def becomes(found: Import, key: str) -> tuple[str, str]:
    [line] = [line for line in found.lines if line.key == key]
    return line.kind, line.note


@pytest.fixture
def catalog_of(tmp_path):
    """The catalog the gateway reads out of what was made."""

    def load(found: Import) -> Catalog:
        path = tmp_path / "pricing.toml"
        path.write_text(found.catalog)
        return load_catalog(path)

    return load


@pytest.fixture
def run(capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(("import", "litellm-config", *arguments))
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


# Every key, no secret


def leaves(value: object, path: str = "") -> Iterator[str]:
    """The paths of all values, as YAML's own reader sees them."""
    items: list[tuple[str, object]] = []
    if isinstance(value, dict):
        items = [(f"{path}.{key}".removeprefix("."), each) for key, each in value.items()]
    elif isinstance(value, list):
        items = [(f"{path}[{number}]", each) for number, each in enumerate(value)]
    if not items:
        yield path
    for below, each in items:
        yield from leaves(each, below)


def is_told(leaf: str, keys: set[str]) -> bool:
    return any(leaf == key or leaf.startswith((f"{key}.", f"{key}[")) for key in keys)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_key_of_the_file_is_told_once(name: str) -> None:
    text = (FIXTURES / name).read_text()
    lines = read(text).lines
    keys = [line.key for line in lines]
    assert len(set(keys)) == len(keys)
    untold = [leaf for leaf in leaves(yaml.safe_load(text)) if not is_told(leaf, set(keys))]
    assert untold == []
    assert all(line.note for line in lines if line.kind != "taken")
    assert [line.line for line in lines if ("<<" not in text)] == sorted(
        line.line for line in lines if "<<" not in text
    )


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(min_codepoint=32, max_codepoint=126)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["model_list", "litellm_params", "cache", "ttl", "odd", "fallbacks"]), inner
            )
        ),
        max_leaves=20,
    ).filter(lambda value: isinstance(value, dict))
)
def test_whatever_the_file_holds_it_is_read_and_told(value: dict[str, object]) -> None:
    for section in ("", "router_settings", "litellm_settings", "general_settings"):
        whole = {section: value} if section else value
        lines = read(yaml.safe_dump(whole)).lines
        keys = {line.key for line in lines}
        assert all(is_told(leaf, keys) for leaf in leaves(whole) if leaf)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("flags", [(), ("--json",), ("--write",)])
def test_no_secret_of_the_file_is_printed_or_written(run, tmp_path: Path, name: str, flags: tuple[str, ...]) -> None:
    code, out, err = run(str(FIXTURES / name), "--into", str(tmp_path), *flags)
    assert (code, err) == (0, "")
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "canary" in (FIXTURES / name).read_text()
    assert "canary" not in out + written


def test_a_fault_of_the_yaml_is_told_by_its_line_alone(run, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("general_settings:\n  master_key: sk-canary: [\n")
    assert run(str(path)) == (2, "", "gateway: config.yaml:2: not valid YAML\n")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("- a\n- b\n", "config.yaml: a LiteLLM configuration is a mapping", id="a list"),
        pytest.param("a: 1\nb: 2\na: 3\n", "config.yaml:3: a key that was given before", id="a key twice"),
        pytest.param("a:\n  ? [1]\n  : 2\n", "config.yaml:2: a key must be a word", id="a key of several"),
        pytest.param("a: &a [*a]\n", "config.yaml:", id="a loop"),
        pytest.param("a: " + "[" * 5_000, "config.yaml", id="depth"),
        pytest.param(
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
            "config.yaml:",
            id="laughter",
        ),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(text: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        read(text)


def test_without_pyyaml_it_is_told_how_to_get_it(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    code, _, err = run(str(FIXTURES / "team.yaml"))
    assert code == 2
    assert "pip install 'llm-gateway[import]'" in err


# Files


def test_a_dry_run_writes_nothing_and_shows_all_three(run, tmp_path: Path) -> None:
    code, out, _ = run(str(FIXTURES / "team.yaml"), "--into", str(tmp_path))
    assert code == 0
    assert list(tmp_path.iterdir()) == []
    assert "Nothing was written." in out
    assert [line for line in out.splitlines() if line.startswith("--- ")] == [
        "--- pricing.toml",
        "--- plans.toml",
        "--- gateway.env",
    ]


def test_what_is_written_is_what_was_shown_and_the_gateway_reads_it(run, tmp_path: Path, monkeypatch) -> None:
    into = tmp_path / "new"
    shown = json.loads(run(str(FIXTURES / "team.yaml"), "--into", str(into), "--json")[1])["files"]
    assert run(str(FIXTURES / "team.yaml"), "--into", str(into), "--write")[0] == 0
    assert {path.name: path.read_text() for path in into.iterdir()} == shown
    assert set(load_catalog(into / "pricing.toml").models) >= {"gpt-4o", "claude", "gpt-4"}
    plan = load_plans(into / "plans.toml")["imported"]
    assert (plan.budget_nano_usd_per_month, plan.requests_per_minute) == (25_500_000_000, 60)
    assert plan.models == {"gpt-4o", "claude"}
    for name in ("ADMIN_KEY", "DATA_DIR"):
        monkeypatch.delenv(f"GATEWAY_{name}", raising=False)
    for line in (into / "gateway.env").read_text().splitlines():
        if not line.startswith("#"):
            name, _, value = line.partition("=")
            assert name.removeprefix("GATEWAY_").lower() in Settings.model_fields
            monkeypatch.setenv(name, value)
    read_back = load_settings()
    assert (read_back.total_timeout_s, read_back.circuit_failures_max, read_back.cache_chat_ttl_s) == (120.0, 4, 600)
    assert read_back.pricing_file == into / "pricing.toml"


def test_a_file_that_is_there_is_written_over_only_by_force(run, tmp_path: Path) -> None:
    (tmp_path / "pricing.toml").write_text("mine")
    code, _, err = run(str(FIXTURES / "team.yaml"), "--into", str(tmp_path), "--write")
    assert code == 2
    assert "pricing.toml" in err
    assert [path.name for path in tmp_path.iterdir()] == ["pricing.toml"]
    assert (tmp_path / "pricing.toml").read_text() == "mine"
    assert run(str(FIXTURES / "team.yaml"), "--into", str(tmp_path), "--write", "--force")[0] == 0
    assert "gpt-4o" in (tmp_path / "pricing.toml").read_text()


def test_included_files_are_read_with_it(run) -> None:
    found = json.loads(run(str(FIXTURES / "including.yaml"), "--json")[1])
    assert found["models"] == ["first", "second"]
    assert {line["file"] for line in found["keys"]} == {"including.yaml", "included_models.yaml"}


# Prices


@settings(max_examples=60)
@given(st.integers(0, 10**12))
def test_a_price_per_token_keeps_every_digit(pico_usd: int) -> None:
    """As litellm's own files write it: `2.5e-06`, which is no exact binary number."""
    told = f"{Decimal(pico_usd).scaleb(-12):e}"
    found = models(entry(f"model: openai/x, input_cost_per_token: {told}, output_cost_per_token: 0"))
    rows = TomlLines(found.catalog)
    assert Decimal(rows["input_usd_per_mtok"]) == Decimal(pico_usd).scaleb(-6)


class TomlLines(dict[str, str]):
    def __init__(self, text: str) -> None:
        super().__init__(line.split(" = ", 1) for line in text.splitlines() if " = " in line)


@pytest.mark.parametrize("told", ["1.5e-07", "0.00000015", '"1.5e-07"', "15e-8", "1.5E-7"])
def test_a_price_means_the_same_however_it_is_written(catalog_of, told: str) -> None:
    found = models(entry(f"model: openai/x, input_cost_per_token: {told}, output_cost_per_token: 6e-7"))
    price = catalog_of(found).models["m"].price
    assert (price.input, price.output) == (150_000, 600_000)


@pytest.mark.parametrize("told", ["-1", "1e-13", "2", ".nan", ".inf", "true", "cheap", "[1]", "1e999999999"])
def test_what_is_no_exact_price_is_not_taken_and_the_model_is_told_as_unpriced(told: str) -> None:
    found = models(entry(f"model: openai/x, input_cost_per_token: {told}"))
    assert found.unpriced == ["m"]
    assert becomes(found, "model_list[0].litellm_params.input_cost_per_token")[0] == "not taken"


def test_long_prompts_images_sound_and_characters_have_their_prices(catalog_of) -> None:
    claude = catalog_of(read((FIXTURES / "team.yaml").read_text())).models["claude"].price
    assert claude.long_prompt is not None
    assert (claude.input, claude.at(200_001).input, claude.at(200_001).output) == (3_000_000, 6_000_000, 22_500_000)
    found = catalog_of(read((FIXTURES / "load_balancer.yaml").read_text())).models
    assert found["picture"].price.image_pico_usd("512x512/hd") == 3_000_000_000
    assert found["voice"].price.character == 15_000_000
    assert found["ears"].price.audio_second == 100_000_000


def test_a_model_that_litellm_prices_by_its_own_list_gets_the_packaged_price(catalog_of) -> None:
    found = models(entry("model: azure/eu, api_base: 'https://a.openai.azure.com'", "{base_model: azure/gpt-4o}"))
    assert catalog_of(found).models["m"].price.input == load_catalog().models["gpt-4o"].price.input
    assert "packaged catalog's gpt-4o" in becomes(found, "model_list[0].litellm_params.model")[1]


def test_an_unpriced_deployment_never_borrows_the_price_of_another(catalog_of) -> None:
    priced = "input_cost_per_token: 1e-6, output_cost_per_token: 1e-6"
    found = models(entry(f"model: openai/x, {priced}"), entry("model: openai/y"))
    assert catalog_of(found).models["m"].deployments == ()
    assert becomes(found, "model_list[1]")[0] == "not taken"


# Providers


@pytest.mark.parametrize(
    ("params", "dialect", "url", "upstream"),
    [
        ("model: gpt-4o", "openai", "https://api.openai.com/v1", "gpt-4o"),
        ("model: openai/x, api_base: 'http://h:1/v1/'", "openai", "http://h:1/v1", "x"),
        ("model: x, custom_llm_provider: openai, api_base: 'http://h/v1'", "openai", "http://h/v1", "x"),
        ("model: claude-sonnet-4-5", "anthropic", "https://api.anthropic.com/v1", "claude-sonnet-4-5"),
        ("model: anthropic/x, api_base: 'http://h'", "anthropic", "http://h/v1", "x"),
        ("model: gemini/x", "gemini", "https://generativelanguage.googleapis.com/v1beta", "x"),
        ("model: fal_ai/fal-ai/x", "fal", "https://fal.run", "fal-ai/x"),
        ("model: azure/x, api_base: 'https://h/'", "openai", "https://h/openai/v1", "x"),
        (
            "model: azure/x, api_base: 'https://h/', api_version: 2024-10-21",
            "openai",
            "https://h/openai/deployments/x",
            "x",
        ),
        ("model: ollama_chat/x", "openai", "http://127.0.0.1:11434/v1", "x"),
        ("model: groq/x", "openai", "https://api.groq.com/openai/v1", "x"),
        ("model: openrouter/a/b:free", "openai", "https://openrouter.ai/api/v1", "a/b:free"),
        ("model: bedrock/converse/x", "litellm", "", "converse/x"),
        ("model: vertex_ai/gemini-x", "litellm", "", "gemini-x"),
        ("model: gemini-2.5-pro", "litellm", "", "gemini-2.5-pro"),
    ],
)
def test_a_prefix_becomes_a_provider_row(catalog_of, params: str, dialect: str, url: str, upstream: str) -> None:
    catalog = catalog_of(models(entry(params)))
    model = catalog.models["m"]
    row = catalog.providers[model.provider]
    assert (row.dialect, row.base_url, model.upstream_model) == (dialect, url, upstream)


@pytest.mark.parametrize(
    "params",
    [
        "model: 'openai/*'",
        "model: somebody/else",
        "model: plain",
        "model: azure/x",
        "model: hosted_vllm/x",
        "model: openai/x, api_base: os.environ/NOWHERE",
        "model: openai/x, api_base: 'http://u:p@h/v1'",
        "model: openai/x, api_base: 'file:///etc/passwd'",
    ],
)
def test_what_cannot_be_called_is_not_taken_and_never_sent_elsewhere(params: str) -> None:
    found = models(entry(params))
    assert (found.models, found.catalog) == ([], "")
    assert becomes(found, "model_list[0]")[0] == "not taken"


def test_literal_keys_get_variables_of_their_own_and_placeholders_none(catalog_of) -> None:
    found = models(
        entry("model: openai/x, api_key: sk-canary-a", name="a"),
        entry("model: openai/x, api_key: sk-canary-b", name="b"),
        entry("model: openai/x, api_key: os.environ/OPENAI_API_KEY", name="c"),
        entry("model: hosted_vllm/x, api_base: 'http://h/v1', api_key: EMPTY", name="d"),
    )
    catalog = catalog_of(found)
    names = {name: catalog.providers[model.provider].api_key_env for name, model in catalog.models.items()}
    assert names == {"a": "OPENAI_API_KEY_2", "b": "OPENAI_API_KEY_3", "c": "OPENAI_API_KEY", "d": ""}
    assert set(found.secrets) == {"OPENAI_API_KEY", "OPENAI_API_KEY_2", "OPENAI_API_KEY_3"}


# Deployments, fallbacks, aliases


@pytest.mark.parametrize(
    ("shares", "weights"),
    [
        ([{}, {}], [1, 1]),
        ([{"weight": 0.9}, {"weight": 0.1}], [9, 1]),
        ([{"weight": 2}, {}], [2, 0]),
        ([{"rpm": 900, "tpm": 5}, {"rpm": 100, "tpm": 5}], [900, 100]),
        ([{"weight": 1, "rpm": 5}, {"weight": 3, "rpm": 900}], [1, 3]),
        ([{"order": 2}, {"order": 1}], [0, 1]),
        ([{"weight": 0}, {"weight": 0}], [1, 1]),
        ([{"tpm": 3_000_000}, {"tpm": 1_500_000}], [1_000_000, 500_000]),
    ],
)
def test_equal_names_are_deployments_with_the_shares_litellm_would_draw(catalog_of, shares, weights) -> None:
    entries = [
        entry(f"model: openai/{n}, " + ", ".join(f"{k}: {v}" for k, v in each.items())) for n, each in enumerate(shares)
    ]
    model = catalog_of(models(*entries)).models["m"]
    assert [(each.model.upstream_model, each.weight) for each in model.deployments] == [
        (str(number), weight) for number, weight in enumerate(weights)
    ]


ROUTED = """
router_settings:
  fallbacks: [{a: [b, c]}, {nobody: [a]}]
  model_group_alias: {alias-a: a, alias-b: b, a: b, lost: nobody}
"""


def test_fallbacks_are_deployments_of_weight_0_and_aliases_are_models(catalog_of) -> None:
    names = {
        name: f"model: openai/{name}, input_cost_per_token: 1e-6, output_cost_per_token: {n}e-6"
        for n, name in enumerate("abc", 1)
    }
    twice = entry("model: openai/c2, input_cost_per_token: 9e-6, output_cost_per_token: 9e-6", name="c")
    found = models(*(entry(params, name=name) for name, params in names.items()), twice, rest=ROUTED)
    catalog = catalog_of(found)
    served = {
        name: [(d.model.upstream_model, d.weight) for d in row.deployments] for name, row in catalog.models.items()
    }
    assert served["a"] == served["alias-a"] == [("a", 1), ("b", 0), ("c", 0), ("c2", 0)]
    assert served["alias-b"] == [("b", 1)]
    assert served["c"] == [("c", 1), ("c2", 1)]
    prices = [d.model.price.output for d in catalog.models["a"].deployments]
    assert prices == [1_000_000, 2_000_000, 3_000_000, 9_000_000]
    assert catalog.models["a"].deployments[1].model.name == "b"
    assert becomes(found, "router_settings.fallbacks[1].nobody")[0] == "not taken"
    assert becomes(found, "router_settings.model_group_alias.a")[0] == "not taken"
    assert becomes(found, "router_settings.model_group_alias.lost")[0] == "not taken"


def test_retries_and_attempts_follow_from_num_retries(catalog_of) -> None:
    found = models(entry("model: openai/x"), rest="router_settings: {num_retries: 4}")
    assert catalog_of(found).models["m"].retries == 4
    assert found.settings == {"GATEWAY_ATTEMPTS_MAX": "5"}


# Budgets


@pytest.mark.parametrize(
    ("duration", "kind"),
    [("30d", "taken"), ("1mo", "taken"), ("7d", "not taken"), ("24h", "not taken"), (None, "not taken")],
)
def test_a_users_budget_is_the_plans_where_it_is_a_months(duration: str | None, kind: str) -> None:
    told = f", budget_duration: {duration}" if duration else ""
    found = read(f"litellm_settings: {{default_internal_user_params: {{max_budget: 0.1{told}}}}}")
    assert becomes(found, "litellm_settings.default_internal_user_params.max_budget")[0] == kind
    assert ("budget_usd_per_month = 0.1" in found.plans) == (kind == "taken")


def test_what_is_only_in_litellms_database_is_said_to_be(run) -> None:
    _, out, _ = run(str(FIXTURES / "including.yaml"))
    assert "virtual keys, teams, users, their budgets" in out
    assert "POST /admin/creators" in out
