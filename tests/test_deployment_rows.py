"""`[[models.NAME.deployments]]`: every bad one is refused with its line, and good ones say where calls go and at what price."""

from pathlib import Path

import pytest

from gateway.catalog import Catalog, Deployment, load_catalog
from gateway.errors import ConfigError

BASE = """\
version = "1"

[providers.one]
dialect = "mock"

[providers.two]
dialect = "mock"

[providers.locked]
dialect = "openai"
base_url = "http://127.0.0.1:9001/v1"
api_key_env = "LOCKED_KEY"

[models.small]
provider = "two"
upstream_model = "small-1"
endpoints = ["chat"]
input_usd_per_mtok = 1
output_usd_per_mtok = 2
context_tokens_max = 500
output_tokens_max = 50
capabilities = ["tools"]

[models.vectors]
provider = "one"
endpoints = ["embeddings"]
input_usd_per_mtok = 1

[models.off]
provider = "one"
active = false
endpoints = ["chat"]
input_usd_per_mtok = 1
output_usd_per_mtok = 2

[models.shared]
provider = "one"
endpoints = ["chat"]
input_usd_per_mtok = 1
output_usd_per_mtok = 2

[[models.shared.deployments]]
provider = "two"

[models.big]
provider = "one"
upstream_model = "big-1"
endpoints = ["chat"]
input_usd_per_mtok = 3
output_usd_per_mtok = 4
"""
FIRST = BASE.count("\n") + 1
"""The line of the header of the first row that a test adds."""
HEAD = "[[models.big.deployments]]\n"
BARE = BASE[: BASE.index("[models.big]")] + '[models.big]\nendpoints = ["chat"]\n'
PER_TOKEN = 10**6
"""Pico-dollars a token for one USD per million tokens."""


def rows(*places: str) -> str:
    return "".join(f"{HEAD}{place}\n" for place in places)


def load(folder: Path, text: str) -> Catalog:
    path = folder / "pricing.toml"
    path.write_text(text)
    return load_catalog(path)


def faults(folder: Path, text: str) -> list[tuple[int, str]]:
    """Line and reason of each fault."""
    with pytest.raises(ConfigError) as raised:
        load(folder, text)
    path = f"{folder / 'pricing.toml'}:"
    split = [line.removeprefix(path).partition(": ") for line in str(raised.value).split("\n")]
    return [(int(line), reason) for line, _, reason in split]


def places(catalog: Catalog, model: str = "big") -> list[tuple[str, str, str, int]]:
    return [
        (each.model.name, each.model.provider, each.model.upstream_model, each.weight)
        for each in catalog.models[model].deployments
    ]


@pytest.mark.parametrize(
    ("place", "line", "reason"),
    [
        ("weight = 1", 0, "a deployment names either a model of this catalog or a provider"),
        ('model = "small"\nprovider = "one"', 0, "a deployment names either a model of this catalog or a provider"),
        ('provider = ""', 0, "a deployment names either a model of this catalog or a provider"),
        ("provider = 5", 1, "must be a string"),
        ('provider = "nobody"', 1, "there is no [providers.nobody]"),
        ('model = "nobody"', 1, 'there is no other [models."nobody"]'),
        ('model = "big"', 1, 'there is no other [models."big"]'),
        ('model = "shared"', 1, "has deployments itself"),
        ('model = "vectors"', 1, "does not serve chat"),
        ('model = "small"\nupstream_model = "x"', 0, "upstream_model: the model named here has its own"),
        ('model = "small"\ninput_usd_per_mtok = 1', 0, "input_usd_per_mtok: the model named here has its own"),
        ('provider = "one"\nweight = -1', 2, "must be a whole number from 0"),
        ('provider = "one"\nweight = 1.5', 2, "must be a whole number from 0"),
        ('provider = "one"\nweight = true', 2, "must be a whole number from 0"),
        ('provider = "one"\nweight = "3"', 2, "must be a whole number from 0"),
        ('provider = "one"\nweight = 1_000_001', 2, "must be a whole number from 0"),
        ('provider = "one"\nweight = 0', 0, "needs a weight above 0 for one of them"),
        ('provider = "one"\nwieght = 1', 2, "unknown key"),
        ('provider = "one"\nretries = 1', 2, "unknown key"),
        ('provider = "one"\ncapabilities = ["tools"]', 2, "unknown key"),
        ('provider = "one"\ninput_usd_per_mtok = -1', 2, "negative"),
        ('provider = "one"\noutput_usd_per_mtok = "much"', 2, "must be"),
    ],
)
def test_a_bad_deployment_is_refused_with_its_line_and_the_reason(
    tmp_path: Path, place: str, line: int, reason: str
) -> None:
    found = faults(tmp_path, BASE + rows(place))
    assert any(at == FIRST + line and reason in told for at, told in found), found


@pytest.mark.parametrize("value", ["5", '"one"', "[1]", '["one"]', '{ provider = "one" }'])
def test_deployments_are_tables(tmp_path: Path, value: str) -> None:
    ((line, reason),) = faults(tmp_path, f"{BASE}deployments = {value}\n")
    assert line == FIRST
    assert "must be at most 50 tables" in reason


def test_more_than_fifty_are_refused(tmp_path: Path) -> None:
    named = [f'provider = "one"\nupstream_model = "u{number}"' for number in range(51)]
    assert len(places(load(tmp_path, BASE + rows(*named[:50])))) == 50
    ((line, reason),) = faults(tmp_path, BASE + rows(*named))
    assert (line, "at most 50" in reason) == (FIRST, True)


@pytest.mark.parametrize(
    "twice",
    [
        ('provider = "two"', 'provider = "two"'),
        ('provider = "two"', 'provider = "two"\nweight = 5'),
        ('provider = "two"', 'provider = "two"\nupstream_model = "big-1"'),
        ('model = "small"', 'model = "small"\nweight = 0'),
    ],
    ids=["the same", "another weight", "the name it has anyway", "a model"],
)
def test_a_place_is_named_once(tmp_path: Path, twice: tuple[str, str]) -> None:
    assert faults(tmp_path, BASE + rows(*twice)) == [(FIRST, "models.big.deployments: names a place twice")]


def test_a_fault_says_which_deployment_is_meant(tmp_path: Path) -> None:
    ((_, reason),) = faults(tmp_path, BASE + rows('provider = "one"', 'provider = "nobody"'))
    assert reason.endswith("there is no [providers.nobody] (deployment 2 of the model)")


@pytest.mark.parametrize(("line", "reason"), [("retries = 6", "0 to 5"), ('sticky = "yes"', "must be true or false")])
def test_what_the_model_says_of_its_routing_is_checked(tmp_path: Path, line: str, reason: str) -> None:
    ((at, told),) = faults(tmp_path, BASE + line + "\n" + rows('provider = "one"'))
    assert (at, reason in told) == (FIRST, True)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    found = faults(tmp_path, BASE + rows('provider = "one"\nwieght = 1', 'model = "nobody"\nweight = -1'))
    assert len(found) == 3


# What good ones say


def test_a_place_takes_from_the_models_row_what_it_leaves_out(tmp_path: Path) -> None:
    catalog = load(tmp_path, BASE + rows('provider = "two"', 'provider = "one"\nupstream_model = "b"\nweight = 7'))
    assert places(catalog) == [("big", "two", "big-1", 1), ("big", "one", "b", 7)]
    assert all(each.model.price is catalog.models["big"].price for each in catalog.models["big"].deployments)


def test_a_price_of_its_own_replaces_the_models(tmp_path: Path) -> None:
    own = 'provider = "two"\ninput_usd_per_mtok = 30\noutput_usd_per_mtok = 40'
    catalog = load(tmp_path, BASE + rows('provider = "one"', own))
    one, two = (each.model.price for each in catalog.models["big"].deployments)
    assert (one.input, one.output) == (3 * PER_TOKEN, 4 * PER_TOKEN)
    assert (two.input, two.output) == (30 * PER_TOKEN, 40 * PER_TOKEN)
    assert one.version != two.version


def test_prices_of_a_place_are_its_own_altogether(tmp_path: Path) -> None:
    """One that names no output price has none, whatever the model's is: nothing is billed at a mixture."""
    catalog = load(tmp_path, BASE + rows('provider = "two"\ninput_usd_per_mtok = 30'))
    ((place, _),) = catalog.models["big"].deployments
    assert (place.price.input, place.price.output) == (30 * PER_TOKEN, None)


def test_a_place_that_is_another_model_keeps_name_price_and_bounds(tmp_path: Path) -> None:
    catalog = load(tmp_path, BASE + rows('model = "small"'))
    ((place, weight),) = catalog.models["big"].deployments
    small = catalog.models["small"]
    assert (place.name, place.provider, place.upstream_model, weight) == ("small", "two", "small-1", 1)
    assert (place.price, place.output_tokens_max) == (small.price, 50)
    assert place.asked_as == "big"
    assert small.asked_as == "small"


def test_a_row_without_a_provider_is_what_its_places_are(tmp_path: Path) -> None:
    priced = 'provider = "two"\ninput_usd_per_mtok = 5\noutput_usd_per_mtok = 6'
    big = load(tmp_path, BARE + rows(priced, 'model = "small"')).models["big"]
    assert (big.provider, big.price.input) == ("two", 5 * PER_TOKEN)
    bounded = load(tmp_path, BARE + rows('model = "small"')).models["big"]
    assert (bounded.context_tokens_max, bounded.output_tokens_max) == (500, 50)
    assert bounded.capabilities == {"tools"}


def test_without_deployments_a_row_needs_its_provider(tmp_path: Path) -> None:
    assert any("provider" in reason for _, reason in faults(tmp_path, BARE))


# Keys


def test_places_without_a_key_are_dropped(tmp_path: Path) -> None:
    catalog = load(tmp_path, BASE + rows('provider = "locked"', 'provider = "two"'))
    assert [each[1] for each in places(catalog.with_keys(lambda _: None))] == ["two"]
    assert [each[1] for each in places(catalog.with_keys({"LOCKED_KEY": "k"}.get))] == ["locked", "two"]
    assert catalog.with_keys(lambda _: None).models["big"].active


@pytest.mark.parametrize("place", ['provider = "locked"', 'model = "off"'], ids=["no key", "switched off"])
def test_a_model_with_no_place_left_is_inactive(tmp_path: Path, place: str) -> None:
    catalog = load(tmp_path, BASE + rows(place))
    assert not catalog.with_keys(lambda _: None).models["big"].active


def test_a_place_that_is_switched_off_is_dropped(tmp_path: Path) -> None:
    catalog = load(tmp_path, BASE + rows('model = "off"', 'model = "small"')).with_keys(lambda _: None)
    assert [each[0] for each in places(catalog)] == ["small"]


def test_a_model_that_is_switched_off_stays_so_whatever_its_places_are(tmp_path: Path) -> None:
    catalog = load(tmp_path, BASE + "active = false\n" + rows('provider = "two"')).with_keys(lambda _: None)
    assert not catalog.models["big"].active


# Prices that entries may name


def test_every_price_that_an_entry_may_name_is_recorded(tmp_path: Path) -> None:
    own = 'provider = "two"\ninput_usd_per_mtok = 30\noutput_usd_per_mtok = 40'
    catalog = load(tmp_path, BASE + rows('provider = "one"', own, 'model = "small"'))
    recorded = {(name, price.version) for name, price in catalog.prices()}
    deployments: list[Deployment] = [each for model in catalog.models.values() for each in model.deployments]
    assert {(each.model.name, each.model.price.version) for each in deployments} <= recorded
    assert {(name, model.price.version) for name, model in catalog.models.items()} <= recorded
