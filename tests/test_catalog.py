"""The catalog: what a file may say, and every way it is refused, with the line at fault."""

import re
from pathlib import Path

import pytest

from gateway.catalog import Catalog, Price, lint_catalog, load_catalog, packaged_catalog
from gateway.errors import ConfigError

GOOD = """\
version = "7"

[providers.up]
dialect = "openai"
base_url = "http://127.0.0.1:9001/v1/"
api_key_env = "UP_KEY"

[models."big"]
provider = "up"
endpoints = ["chat"]
input_usd_per_mtok = "2.50"
output_usd_per_mtok = 10
context_tokens_max = 1_000
output_tokens_max = 100
downgrade_to = "small"
source = "here"

[models."small"]
provider = "up"
endpoints = ["chat"]
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.60
context_tokens_max = 1_000
output_tokens_max = 100
source = "here"
"""


def load(folder: Path, text: str) -> Catalog:
    path = folder / "pricing.toml"
    path.write_bytes(text.encode())
    return load_catalog(path)


def faults(folder: Path, text: str) -> list[str]:
    """The faults of a file, as `line: what`."""
    with pytest.raises(ConfigError) as raised:
        load(folder, text)
    path = f"{folder / 'pricing.toml'}:"
    lines = str(raised.value).split("\n")
    assert all(line.startswith(path) for line in lines)
    return [line.removeprefix(path) for line in lines]


def test_a_minimal_file_needs_provider_endpoints_and_prices_only(tmp_path: Path) -> None:
    model = load(
        tmp_path,
        'version = "1"\n[providers.up]\ndialect = "openai"\nbase_url = "http://127.0.0.1:9001/v1"\n'
        '[models."mock-1"]\nprovider = "up"\nendpoints = ["chat"]\n'
        'input_usd_per_mtok = "2.50"   # text is a decimal too\noutput_usd_per_mtok = 10\n',
    ).models["mock-1"]
    assert (model.upstream_model, model.active, model.tier, model.downgrade_to) == ("mock-1", True, "standard", None)
    assert (model.price.input, model.price.output, model.price.cached_input) == (2_500_000, 10_000_000, None)
    assert (model.context_tokens_max, model.output_tokens_max) == (None, None)
    assert (model.image_default, model.image_output_tokens_max) == (None, None)
    assert (model.price.long_prompt, model.price.service_tiers) == (None, None)


def test_every_key_arrives_where_it_belongs(tmp_path: Path) -> None:
    catalog = load(
        tmp_path,
        """
        version = 3
        [providers.azure]
        dialect = "openai"
        base_url = "https://example.test/openai/v1/"
        api_key_env = "AZURE_KEY"
        auth_header = "Api-Key"
        stream_usage = "never"
        retry_unanswered = true
        gone_grace_s = 2.5
        unlisted_is_reasoning = true
        max_tokens_field = "max_tokens"
        [models."org/all@1"]
        provider = "azure"
        upstream_model = "all"
        endpoints = ["chat", "images"]
        display_name = "All"
        description = "Everything."
        active = false
        tier = "premium"
        input_usd_per_mtok = 1.000001
        cached_input_usd_per_mtok = 0
        cache_write_usd_per_mtok = 3
        output_usd_per_mtok = 4
        reasoning_usd_per_mtok = 5
        audio_input_usd_per_mtok = 6
        audio_output_usd_per_mtok = 7
        image_input_usd_per_mtok = 8
        image_output_usd_per_mtok = 9
        context_tokens_max = 10
        output_tokens_max = 11
        capabilities = ["tools", "vision"]
        credits = 12
        source = "a page, 2026-11-21"
        image_default = "1024x1024/hd"
        image_output_tokens_max = 13
        [models."org/all@1".image_usd]
        "1024x1024/hd" = "0.080"
        "512x512" = 0.018
        "*" = 1
        [models."org/all@1".long_prompt]
        above_input_tokens = 5
        input_usd_per_mtok = 2
        output_usd_per_mtok = 8
        reasoning_usd_per_mtok = 9
        audio_input_usd_per_mtok = 10
        audio_output_usd_per_mtok = 11
        image_input_usd_per_mtok = 12
        image_output_usd_per_mtok = 13
        [models."org/all@1".service_tiers]
        fast = "flex"
        [models."org/all@1".service_tiers.flex]
        input_usd_per_mtok = 0.5
        output_usd_per_mtok = 2
        audio_input_usd_per_mtok = 3
        audio_output_usd_per_mtok = 3.5
        image_input_usd_per_mtok = 4
        image_output_usd_per_mtok = 4.5
        """,
    )
    row, model = catalog.providers["azure"], catalog.models["org/all@1"]
    assert (catalog.version, row.base_url, row.api_key_env) == ("3", "https://example.test/openai/v1", "AZURE_KEY")
    assert (row.auth_header, row.stream_usage, row.retry_unanswered, row.gone_grace_s, row.unlisted_is_reasoning) == (
        "api-key",
        "never",
        True,
        2.5,
        True,
    )
    price = model.price
    assert (price.input, price.cached_input, price.cache_write) == (1_000_001, 0, 3_000_000)
    assert (price.output, price.reasoning) == (4_000_000, 5_000_000)
    assert (price.audio_input, price.audio_output) == (6_000_000, 7_000_000)
    assert (price.image_input, price.image_output) == (8_000_000, 9_000_000)
    assert row.max_tokens_field == "max_tokens"
    assert (model.image_default, model.image_output_tokens_max) == ("1024x1024/hd", 13)
    assert price.long_prompt == Price(
        price.version,
        input=2_000_000,
        output=8_000_000,
        reasoning=9_000_000,
        audio_input=10_000_000,
        audio_output=11_000_000,
        image_input=12_000_000,
        image_output=13_000_000,
        above_input_tokens=5,
    )
    flex = Price(
        price.version,
        input=500_000,
        output=2_000_000,
        audio_input=3_000_000,
        audio_output=3_500_000,
        image_input=4_000_000,
        image_output=4_500_000,
    )
    assert price.service_tiers == {"flex": flex, "fast": flex}
    assert price.images == {"1024x1024/hd": 80 * 10**9, "512x512/*": 18 * 10**9, "*/*": 10**12}
    assert (model.upstream_model, model.endpoints, model.active) == ("all", {"chat", "images"}, False)
    assert (model.display_name, model.description, model.tier) == ("All", "Everything.", "premium")
    assert (model.context_tokens_max, model.output_tokens_max, model.credits) == (10, 11, 12)
    assert (model.capabilities, model.source) == ({"tools", "vision"}, "a page, 2026-11-21")


@pytest.mark.parametrize(
    ("written", "pico_usd"),
    [
        ("0", 0),
        ("0.000001", 1),
        ('"0.000001"', 1),
        ("0.1", 100_000),
        ("0.3", 300_000),
        ("123.456789", 123_456_789),
        ("25e-1", 2_500_000),
        ("1e3", 10**9),
        ('"2.50000000000000000000000000000"', 2_500_000),
        ("2.50000000000000000000000000000000", 2_500_000),
        ("1_000_000", 10**12),
    ],
)
def test_a_price_is_read_exactly(tmp_path: Path, written: str, pico_usd: int) -> None:
    assert load(tmp_path, replaced('"2.50"', written)).models["big"].price.input == pico_usd


def replaced(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def below(table: str, lines: str) -> str:
    """The file with one more table, whose header is line 26."""
    return f"{GOOD}[models.big.{table}]\n{lines}\n"


BIG = "models.big"
PROVIDER = "providers.up"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param(GOOD + "x = \n", "26: not valid TOML", id="syntax"),
        pytest.param(GOOD + '[models."big"]\n', "26: not valid TOML", id="duplicate model"),
        pytest.param(replaced('dialect = "openai"', 'dialect = "openai"\ndialect = "mock"'), "5: not valid TOML", id="duplicate key"),
        pytest.param(GOOD + '[models."big"', "26: not valid TOML", id="cut off"),
        pytest.param(replaced('version = "7"', ""), "1: version is missing", id="no version"),
        pytest.param(replaced('version = "7"', "version = 1.5"), "1: version: must be a string", id="version is a float"),
        pytest.param(replaced('version = "7"', 'version = "7"\nprices = 1'), "2: prices: unknown key", id="unknown table"),
        pytest.param('version = "7"\nmodels = 3\n', "2: models: must be a table", id="models is no table"),
        pytest.param('version = "7"\n[models]\nx = 3\n', "3: models.x: must be a table", id="model is no table"),
        # providers
        pytest.param(replaced("[providers.up]", "[providers.'u p']"), "3: providers.\"u p\": a provider's name", id="provider name"),
        pytest.param(replaced('dialect = "openai"\n', ""), f"3: {PROVIDER}: dialect is missing", id="no dialect"),
        pytest.param(replaced('"openai"', '"telnet"'), f"4: {PROVIDER}.dialect: unknown dialect", id="unknown dialect"),
        pytest.param(replaced('base_url = "http://127.0.0.1:9001/v1/"\n', ""), f"3: {PROVIDER}: base_url is missing", id="no base_url"),
        pytest.param(replaced("http://", "ftp://"), f"5: {PROVIDER}.base_url: must be http", id="ftp"),
        pytest.param(replaced("http://127.0.0.1:9001", "http://"), f"5: {PROVIDER}.base_url: must be http", id="no host"),
        pytest.param(replaced(":9001", ":99999"), f"5: {PROVIDER}.base_url: is not a URL", id="bad port"),
        pytest.param(replaced("http://127", "http://u:p@127"), f"5: {PROVIDER}.base_url: must not hold a user", id="user in URL"),
        pytest.param(replaced("/v1/", "/v1?key=1"), f"5: {PROVIDER}.base_url: must not have a query", id="query in URL"),
        pytest.param(replaced("/v1/", "/v1#x"), f"5: {PROVIDER}.base_url: must not have a query", id="fragment in URL"),
        pytest.param(replaced('"UP_KEY"', '"sk-proj-secret"'), f"6: {PROVIDER}.api_key_env: must be the name", id="a key for its name"),
        pytest.param(replaced('"UP_KEY"', '"UP_KEY"\nstream_usage = "maybe"'), f"7: {PROVIDER}.stream_usage: must be one of", id="stream_usage"),
        pytest.param(replaced('"UP_KEY"', '"UP_KEY"\nretry_unanswered = 1'), f"7: {PROVIDER}.retry_unanswered: must be true", id="flag"),
        pytest.param(replaced('"UP_KEY"', '"UP_KEY"\ngone_grace_s = -1'), f"7: {PROVIDER}.gone_grace_s: is negative", id="grace"),
        pytest.param(replaced('"UP_KEY"', '"UP_KEY"\nauth_header = "Host"'), f"7: {PROVIDER}.auth_header: must be a header", id="auth header"),
        pytest.param(
            replaced('"UP_KEY"', '"UP_KEY"\nmax_tokens_field = "max"'), f"7: {PROVIDER}.max_tokens_field: must be one of", id="tokens field"
        ),
        pytest.param(replaced('"UP_KEY"', '"UP_KEY"\ntimeout = 3'), f"7: {PROVIDER}.timeout: unknown key", id="unknown provider key"),
        # models
        pytest.param(replaced('"big"', '"big\\u0007"'), '8: models."big?": a model\'s name', id="control character"),
        pytest.param(replaced('"big"', f'"{"b" * 201}"'), "8: models.b", id="long name"),
        pytest.param(replaced('provider = "up"\n', ""), f"8: {BIG}: provider is missing", id="no provider"),
        pytest.param(replaced('provider = "up"', 'provider = "down"'), f"9: {BIG}.provider: there is no [providers.down]", id="unknown provider"),
        pytest.param(replaced('endpoints = ["chat"]\n', ""), f"8: {BIG}: endpoints is missing", id="no endpoints"),
        pytest.param(replaced('["chat"]', "[]"), f"8: {BIG}: endpoints is missing or empty", id="empty endpoints"),
        pytest.param(replaced('["chat"]', '["chat", "telepathy"]'), f"10: {BIG}.endpoints: unknown: telepathy", id="unknown endpoint"),
        pytest.param(replaced('["chat"]', '["chat", "chat"]'), f"10: {BIG}.endpoints: names an entry twice", id="endpoint twice"),
        pytest.param(replaced('["chat"]', '"chat"'), f"10: {BIG}.endpoints: must be a list", id="endpoints is text"),
        pytest.param(replaced('"2.50"', "-2.50"), f"11: {BIG}.input_usd_per_mtok: is negative", id="negative price"),
        pytest.param(replaced('"2.50"', '"-2.50"'), f"11: {BIG}.input_usd_per_mtok: is negative", id="negative price as text"),
        pytest.param(replaced('"2.50"', '"2,50"'), f"11: {BIG}.input_usd_per_mtok: must be a decimal", id="comma"),
        pytest.param(replaced('"2.50"', '"2.5e1"'), f"11: {BIG}.input_usd_per_mtok: must be a decimal", id="exponent in text"),
        pytest.param(replaced('"2.50"', '""'), f"11: {BIG}.input_usd_per_mtok: must be a decimal", id="empty price"),
        pytest.param(replaced('"2.50"', "true"), f"11: {BIG}.input_usd_per_mtok: must be a decimal", id="true is no price"),
        pytest.param(replaced('"2.50"', "nan"), f"11: {BIG}.input_usd_per_mtok: must be a decimal", id="nan"),
        pytest.param(replaced('"2.50"', "inf"), f"11: {BIG}.input_usd_per_mtok: must be a decimal", id="inf"),
        pytest.param(replaced('"2.50"', "2026-11-21"), f"11: {BIG}.input_usd_per_mtok: must be a decimal", id="a date"),
        pytest.param(replaced('"2.50"', "0.0000001"), f"11: {BIG}.input_usd_per_mtok: is finer than 1e-6", id="finer than a pico-dollar"),
        pytest.param(replaced('"2.50"', "1e-999999"), f"11: {BIG}.input_usd_per_mtok: is finer than 1e-6", id="absurdly fine"),
        pytest.param(
            replaced('"2.50"', "2.5000001000000000000000000001"), f"11: {BIG}.input_usd_per_mtok: is finer", id="nothing is rounded away"
        ),
        pytest.param(replaced('"2.50"', "1e999999"), f"11: {BIG}.input_usd_per_mtok: is above 1000000", id="absurdly dear"),
        pytest.param(replaced('"2.50"', "1000000.1"), f"11: {BIG}.input_usd_per_mtok: is above 1000000", id="too dear"),
        pytest.param(replaced("1_000", "0"), f"13: {BIG}.context_tokens_max: must be a whole number", id="no context"),
        pytest.param(replaced("1_000", "1000.0"), f"13: {BIG}.context_tokens_max: must be a whole number", id="context is a float"),
        pytest.param(replaced("1_000", '"1000"'), f"13: {BIG}.context_tokens_max: must be a whole number", id="context is text"),
        pytest.param(replaced("= 100\n", "= true\n"), f"14: {BIG}.output_tokens_max: must be a whole number", id="output is true"),
        pytest.param(replaced('"here"', '"here"\ncredits = -1'), f"17: {BIG}.credits: must be a whole number", id="credits"),
        pytest.param(replaced('"here"', '"here"\nactive = "no"'), f"17: {BIG}.active: must be true or false", id="active"),
        pytest.param(replaced('"here"', '"here"\ntier = "a b"'), f"17: {BIG}.tier: must match", id="tier"),
        pytest.param(replaced('"here"', '"here"\ncapabilities = [1]'), f"17: {BIG}.capabilities: has an entry", id="capabilities"),
        pytest.param(replaced('"here"', '"here"\ncolour = "red"'), f"17: {BIG}.colour: unknown key", id="unknown model key"),
        pytest.param(replaced('"here"', "7"), f"16: {BIG}.source: must be a string", id="source"),
        pytest.param(replaced('"here"', '"he\\u0000re"'), f"16: {BIG}.source: must be a string", id="control character in text"),
        pytest.param(replaced('= "small"', '= "tiny"'), f"15: {BIG}.downgrade_to: names a model that is not", id="broken downgrade"),
        pytest.param(replaced('= "small"', '= "big"'), f"15: {BIG}.downgrade_to: the downgrades from big lead back", id="own downgrade"),
        pytest.param(
            GOOD.replace('endpoints = ["chat"]', 'endpoints = ["embeddings"]').replace('["embeddings"]', '["chat"]', 1),
            f"15: {BIG}.downgrade_to: small serves none",
            id="downgrade across endpoints",
        ),
        pytest.param(replaced('"here"', '"here"\nimage_usd = 3'), f"17: {BIG}.image_usd: must be a table", id="image_usd"),
        pytest.param(
            replaced('"here"', '"here"\n[models.big.image_usd]\n"1x1/a/b" = 3'),
            f'18: {BIG}.image_usd."1x1/a/b": must be size/quality',
            id="image key",
        ),
        pytest.param(
            replaced('"here"', '"here"\n[models.big.image_usd]\n"1x1" = 3\n"1x1/*" = 4'),
            f'19: {BIG}.image_usd."1x1/*": is a second price',
            id="image price twice",
        ),
        pytest.param(
            replaced('"here"', '"here"\n[models.big.image_usd]\n"1x1" = -3'), f"18: {BIG}.image_usd.1x1: is negative", id="image price"
        ),
        pytest.param(
            replaced('"here"', '"here"\nimage_default = "1024x1024"'), f"17: {BIG}.image_default: must be size/quality", id="image default"
        ),
        pytest.param(
            replaced('"here"', '"here"\nimage_default = "1x1/hd"\nimage_usd = {"2x2" = 1}'),
            f"17: {BIG}.image_default: has no price in image_usd",
            id="image default without a price",
        ),
        pytest.param(
            replaced('"here"', '"here"\nimage_output_tokens_max = 0'),
            f"17: {BIG}.image_output_tokens_max: must be a whole",
            id="no tokens in an image",
        ),
        # tables below a model
        pytest.param(replaced('"here"', '"here"\nlong_prompt = 3'), f"17: {BIG}.long_prompt: must be a table", id="long_prompt"),
        pytest.param(
            below("long_prompt", "input_usd_per_mtok = 1\noutput_usd_per_mtok = 1"),
            f"26: {BIG}.long_prompt: above_input_tokens is missing",
            id="a long prompt of no length",
        ),
        pytest.param(
            below("long_prompt", "above_input_tokens = 0"), f"27: {BIG}.long_prompt.above_input_tokens: must be a whole", id="length 0"
        ),
        pytest.param(
            below("long_prompt", "above_input_tokens = 9\ninput_usd_per_mtok = 1"),
            f"26: {BIG}.long_prompt: output_usd_per_mtok is missing",
            id="a long prompt without output",
        ),
        pytest.param(
            below("long_prompt", "input_usd_per_mtok = -1"), f"27: {BIG}.long_prompt.input_usd_per_mtok: is negative", id="a negative rate"
        ),
        pytest.param(below("long_prompt", "image_usd = 1"), f"27: {BIG}.long_prompt.image_usd: unknown key", id="unknown long_prompt key"),
        pytest.param(
            replaced("output_usd_per_mtok = 10", "output_usd_per_mtok = 10\naudio_input_usd_per_mtok = 1")
            + "[models.big.service_tiers.flex]\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 1\n",
            f"27: {BIG}.service_tiers.flex: audio_input_usd_per_mtok is missing",
            id="a tier without the row's audio",
        ),
        pytest.param(replaced('"here"', '"here"\nservice_tiers = 3'), f"17: {BIG}.service_tiers: must be a table of 1", id="service_tiers"),
        pytest.param(replaced('"here"', '"here"\nservice_tiers = {}'), f"17: {BIG}.service_tiers: must be a table of 1", id="no tiers"),
        pytest.param(below("service_tiers", "flex = 3"), f"27: {BIG}.service_tiers.flex: must be a table, or", id="a tier is no table"),
        pytest.param(
            below("service_tiers", 'flex = "fast"\nfast = "flex"'), f"27: {BIG}.service_tiers.flex: must be a table, or", id="tiers in a ring"
        ),
        pytest.param(below("service_tiers.'a/b'", ""), f'26: {BIG}.service_tiers."a/b": a service tier must match', id="name of a tier"),
        pytest.param(below("service_tiers.flex", "flux = 1"), f"27: {BIG}.service_tiers.flex.flux: unknown key", id="unknown tier key"),
        pytest.param(
            below("service_tiers.flex.long_prompt", "input_usd_per_mtok = true"),
            f"27: {BIG}.service_tiers.flex.long_prompt.input_usd_per_mtok: must be a decimal",
            id="long prompt of a tier",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_refused_with_its_line_and_reason(tmp_path: Path, text: str, fault: str) -> None:
    assert any(found.startswith(fault) for found in faults(tmp_path, text)), faults(tmp_path, text)


def test_all_faults_are_shown_together_in_the_order_of_their_lines(tmp_path: Path) -> None:
    found = faults(tmp_path, GOOD.replace('"up"', '"down"').replace("0.60", "-0.60").replace('"7"', '""\nodd = 1'))
    assert [int(line.split(":")[0]) for line in found] == [1, 2, 10, 20, 23]


def test_a_long_list_of_faults_is_cut(tmp_path: Path) -> None:
    found = faults(tmp_path, GOOD + "".join(f"odd{number} = 1\n" for number in range(60)))
    assert len(found) == 51
    assert found[-1] == " and 10 more"


def test_a_chain_of_downgrades_that_leads_back_is_refused_where_it_stands(tmp_path: Path) -> None:
    found = faults(tmp_path, GOOD + 'downgrade_to = "big"\n')
    assert [line.split(":")[0] for line in found] == ["15", "26"]


def test_the_value_in_place_of_a_key_name_is_not_repeated(tmp_path: Path) -> None:
    assert "sk-proj" not in "".join(faults(tmp_path, replaced('"UP_KEY"', '"sk-proj-secret"')))


def test_lines_are_found_in_spite_of_quotes_comments_and_long_strings(tmp_path: Path) -> None:
    text = (
        'version = "1"\n# [models.x]\n[providers."up"] # here\n"dialect" = "openai"\nbase_url = \'http://h/\'\n'
        '[models.\'a = "b"\']\ndescription = """\ntier = 3\n[models.y]\n"""\nprovider = "up"\nendpoints = [\n  "chat",\n]\n'
        "'tier' = 3 # tier = 4\n"
    )
    found = faults(tmp_path, text)
    assert [line.split(":")[0] for line in found] == ["7", "15"]
    assert "description: must be a string" in found[0]
    assert "tier: must be a string" in found[1]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b'version = "1"\n\xff\n', ":2: not UTF-8", id="not UTF-8"),
        pytest.param(b"x = " + b"9" * 5000, "number or nesting out of bounds", id="a number of 5000 digits"),
        pytest.param(b"x = " + b"[" * 5000, "", id="deep nesting"),
        pytest.param(b"#" * (4 * 2**20 + 1), "larger than", id="too large"),
    ],
)
def test_a_file_that_is_no_reasonable_text_is_refused(tmp_path: Path, raw: bytes, reason: str) -> None:
    path = tmp_path / "pricing.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as raised:
        load_catalog(path)
    assert reason in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file"):
        load_catalog(tmp_path / "nowhere.toml")


def test_a_price_version_changes_with_any_number_of_its_row_and_with_nothing_else(tmp_path: Path) -> None:
    before = load(tmp_path, GOOD).models
    after = load(tmp_path, replaced('"2.50"', '"2.51"')).models
    same = load(tmp_path, replaced('"2.50"', "2.500").replace('"here"', '"there"')).models
    assert re.fullmatch(r"7\.[0-9a-f]{10}", before["big"].price.version)
    assert before["big"].price.version != after["big"].price.version
    assert before["small"].price.version == after["small"].price.version
    assert before["big"].price.version == same["big"].price.version


RATES = "input_usd_per_mtok = 1\noutput_usd_per_mtok = 2\n"


def test_a_price_version_changes_with_any_number_of_the_tables_below_its_row(tmp_path: Path) -> None:
    files = [
        GOOD,
        below("long_prompt", f"above_input_tokens = 100\n{RATES}"),
        below("long_prompt", f"above_input_tokens = 101\n{RATES}"),
        below("long_prompt", f"above_input_tokens = 100\n{RATES}cached_input_usd_per_mtok = 1"),
        below("service_tiers.flex", RATES),
        below("service_tiers.fast", RATES),
        below(
            "service_tiers.flex", f"{RATES}[models.big.service_tiers.flex.long_prompt]\nabove_input_tokens = 1\n{RATES}"
        ),
    ]
    versions = [load(tmp_path, text).models["big"].price.version for text in files]
    assert len(set(versions)) == len(files)


def test_models_with_equal_prices_have_versions_of_their_own(tmp_path: Path) -> None:
    models = load(tmp_path, replaced('"2.50"', "0.15").replace("= 10\n", "= 0.60\n")).models
    assert models["big"].price.input == models["small"].price.input
    assert models["big"].price.version != models["small"].price.version


def test_models_of_a_provider_without_its_key_are_inactive(tmp_path: Path) -> None:
    text = GOOD + '[providers.free]\ndialect = "mock"\n[models."mine"]\nprovider = "free"\nendpoints = ["chat"]\n'
    catalog = load(tmp_path, text)
    assert all(model.active for model in catalog.models.values())
    for lookup in ({}.get, {"UP_KEY": ""}.get):
        assert {name: model.active for name, model in catalog.with_keys(lookup).models.items()} == {
            "big": False,
            "small": False,
            "mine": True,
        }
    assert all(model.active for model in catalog.with_keys({"UP_KEY": "k"}.get).models.values())
    closed = load(tmp_path, replaced('source = "here"', 'source = "here"\nactive = false'))
    assert not closed.with_keys({"UP_KEY": "k"}.get).models["big"].active


@pytest.mark.parametrize(
    ("endpoint", "prices", "missing"),
    [
        ("chat", "", ("input_usd_per_mtok", "output_usd_per_mtok")),
        ("chat", "input_usd_per_mtok = 0", ("output_usd_per_mtok",)),
        ("chat", "input_usd_per_mtok = 0\noutput_usd_per_mtok = 0", ()),
        ("embeddings", "input_usd_per_mtok = 1", ()),
        ("embeddings", "output_usd_per_mtok = 1", ("input_usd_per_mtok",)),
        ("images", 'image_usd = {"*" = 0.003}', ()),
        ("images", "input_usd_per_mtok = 5", ("image_output_usd_per_mtok", "image_output_tokens_max")),
        ("images", "input_usd_per_mtok = 5\nimage_output_usd_per_mtok = 30", ("image_output_tokens_max",)),
        ("images", "input_usd_per_mtok = 5\nimage_output_usd_per_mtok = 30\nimage_output_tokens_max = 9", ()),
        ("speech", "input_usd_per_mtok = 5", ("audio_output_usd_per_mtok",)),
    ],
)
def test_a_model_without_a_price_loads_and_says_what_is_missing(
    tmp_path: Path, endpoint: str, prices: str, missing: tuple[str, ...]
) -> None:
    text = GOOD + f'[models."new"]\nprovider = "up"\nendpoints = ["{endpoint}"]\n{prices}\n'
    catalog = load(tmp_path, text)
    assert catalog.models["new"].missing_prices(endpoint) == missing
    warned = [line for line in lint_catalog(catalog) if "refused as unpriced" in line]
    assert len(warned) == bool(missing)


def test_the_lint_finds_nothing_in_a_complete_file_and_names_what_is_doubtful(tmp_path: Path) -> None:
    assert lint_catalog(load(tmp_path, GOOD)) == []
    text = replaced("context_tokens_max = 1_000\noutput_tokens_max = 100\n", "").replace('source = "here"\n', "", 1)
    text = text.replace('["chat"]', '["chat", "responses"]', 1).replace("0.15", "3")
    warnings = "\n".join(lint_catalog(load(tmp_path, text)))
    for expected in (
        "no context_tokens_max",
        "no output_tokens_max",
        "no source",
        "does not serve responses",
        "costs more",
    ):
        assert expected in warnings
    assert all(line.startswith('models."big": ') for line in warnings.split("\n"))


def test_what_a_downgrade_cannot_do_is_told(tmp_path: Path) -> None:
    text = replaced('"here"', '"here"\ncapabilities = ["tools", "vision", "audio"]')
    small = text.rstrip("\n") + '\ncapabilities = ["tools"]\n'
    assert lint_catalog(load(tmp_path, small)) == [
        'models."big": downgrade_to small lacks audio, vision: calls that need it are not downgraded'
    ]
    whole = text.rstrip("\n") + '\ncapabilities = ["tools", "vision", "audio", "reasoning"]\n'
    assert lint_catalog(load(tmp_path, whole)) == []


def test_a_downgrade_that_is_dearer_for_long_prompts_or_for_some_image_is_told(tmp_path: Path) -> None:
    long = (
        GOOD + "[models.small.long_prompt]\nabove_input_tokens = 100\ninput_usd_per_mtok = 3\noutput_usd_per_mtok = 1\n"
    )
    assert lint_catalog(load(tmp_path, long)) == ['models."big": downgrade_to small costs more']
    images = GOOD.replace('["chat"]', '["images"]')
    images += '[models.big.image_usd]\n"1x1/hd" = 3\n"1x1/*" = 1\n"*/hd" = 9\n[models.small.image_usd]\n"1x1" = 2\n'
    assert lint_catalog(load(tmp_path, images)) == [
        'models."big": no image_default: calls that name no size or quality are refused as unpriced',
        'models."big": downgrade_to small has no price for */hd: such calls are not downgraded',
        'models."big": downgrade_to small costs more',
        'models."small": no image_default: calls that name no size or quality are refused as unpriced',
    ]


def test_a_table_that_no_call_reaches_is_told(tmp_path: Path) -> None:
    text = below("long_prompt", "above_input_tokens = 1_000\ninput_usd_per_mtok = 3\noutput_usd_per_mtok = 20")
    assert lint_catalog(load(tmp_path, text)) == [
        'models."big": long_prompt begins above context_tokens_max: no call gets there'
    ]


# The catalog that ships.


def test_the_packaged_catalog_loads_without_a_doubt() -> None:
    assert lint_catalog(load_catalog()) == []
    assert packaged_catalog().name == "pricing.toml"


def test_the_first_model_of_a_first_run_is_a_priced_mock() -> None:
    catalog = load_catalog()
    first = next(iter(catalog.models.values()))
    assert first.name == "mock-1"
    assert first.active
    assert catalog.providers[first.provider].dialect == "mock"
    assert first.price.input
    assert first.price.output


@pytest.mark.parametrize(
    ("name", "prices"),
    [
        ("gemini-2.5-pro", {"input": 1_250_000, "output": 10_000_000}),
        ("gemini-2.5-flash", {"input": 300_000, "output": 2_500_000}),
        ("gemini-2.5-flash-lite", {"input": 100_000, "output": 400_000}),
        ("gpt-4o-mini", {"input": 150_000, "cached_input": 75_000, "output": 600_000}),
        ("text-embedding-3-small", {"input": 20_000, "output": None}),
        ("llama3.1", {"input": 0, "output": 0}),
        ("mock-image", {"images": {"*/*": 3 * 10**9}}),
    ],
)
def test_the_packaged_prices_are_the_published_ones(name: str, prices: dict[str, object]) -> None:
    price = load_catalog().models[name].price
    assert {field: getattr(price, field) for field in prices} == prices


def test_flux_costs_a_price_for_each_megapixel_begun() -> None:
    price = load_catalog().models["flux-schnell"].price
    assert price.image_pico_usd("1024x1024/standard") == 3 * 10**9
    assert price.image_pico_usd("1024x1792/standard") == 6 * 10**9
    assert price.image_pico_usd("4096x4096/standard") is None


def test_dall_e_3_is_priced_by_size_and_quality() -> None:
    images = load_catalog().models["dall-e-3"].price.images or {}
    assert images["1024x1024/standard"] == 40 * 10**9
    assert images["1024x1024/hd"] == images["1792x1024/standard"] == 80 * 10**9


def test_the_packaged_long_prompts_and_service_tiers_are_the_published_ones() -> None:
    models = load_catalog().models
    pro = models["gemini-2.5-pro"].price
    assert pro.at(200_000) is pro
    assert pro.at(200_001).rates[:2] == (2_500_000, 250_000)
    assert pro.at(200_001, "priority").output == 27_000_000
    assert pro.at(200_001, "flex").output == 15_000_000, "Google's flex rates end at 200 000 tokens"
    sol = models["gpt-6.1-sol"].price
    assert (sol.at(0, "flex").input, sol.at(0, "priority").input, sol.at(0, "ultrafast").input) == (
        10**6,
        4 * 10**6,
        12 * 10**6,
    )
    assert sol.at(0, "fast") == sol.at(0, "priority")
    assert sum(model.price.long_prompt is not None for model in models.values() if model.provider != "mock") == 13


def test_every_packaged_image_model_has_a_price_in_credits_and_one_for_a_request_that_names_nothing() -> None:
    found = {model.name: model for model in load_catalog().models.values() if "images" in model.endpoints}
    assert len(found) >= 8
    for model in found.values():
        assert model.missing_prices("images") == ()
        assert model.image_default is not None
        expected = (
            1
            if model.name in ("flux-schnell", "mock-image")
            else {"economy": 2, "standard": 5, "premium": 10}[model.tier]
        )
        assert model.credits == expected, model.name
    assert found["dall-e-3"].downgrade_to == "flux-schnell"
    assert found["mock-image-premium"].downgrade_to == "mock-image"


def test_ollama_is_told_its_bound_in_the_field_it_knows() -> None:
    providers = load_catalog().providers
    assert {name for name, row in providers.items() if row.max_tokens_field == "max_tokens"} == {"ollama"}


def test_every_packaged_row_says_where_its_price_was_read() -> None:
    for model in load_catalog().models.values():
        if model.name.startswith("mock-") or model.provider == "ollama":
            continue
        assert re.search(r"2026-\d\d(-\d\d)?", model.source), model.name


def test_packaged_premium_models_downgrade_to_a_cheaper_tier_or_a_cheaper_model() -> None:
    models = load_catalog().models
    chains = [model for model in models.values() if model.downgrade_to]
    assert len(chains) > 10
    for model in chains:
        target = models[model.downgrade_to or ""]
        assert target.provider == model.provider or model.name == "dall-e-3"
        if model.price.images is None:
            dear, cheap = (price.character or price.output or 0 for price in (model.price, target.price))
            assert 0 < cheap < dear
        for variant, pico_usd in (model.price.images or {}).items():
            assert 0 < (target.price.image_pico_usd(variant) or 0) < pico_usd
