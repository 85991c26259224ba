from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gateway.catalog import Catalog, load_catalog
from gateway.cli import app as cli
from gateway.errors import ConfigError, RequestError
from gateway.plan_fields import PLAN_FIELDS
from gateway.plan_lint import lint_plans
from gateway.plans import (
    CreditPackage,
    credit_package_to_json,
    default_plan,
    key_limits,
    load_plan_file,
    load_plans,
    plan_to_json,
    with_key_overrides,
    with_overrides,
)
from policies.types import LIMITED_BY, MAY_ALLOW, PAYERS, Plan, ProviderLimits

USD = 10**9
"""Nano-dollars."""
PLAN = Plan(name="pro", requests_per_hour=100, quota_nano_usd_per_month=50 * USD)
USUAL_PAYERS = ("free_images", "promo_credits", "credits")
Write = Callable[[str], Path]

EVERYTHING = """
[plans.all]
requests_per_minute = 1
requests_per_hour = 2
requests_per_day = 3
tokens_per_minute = 4
tokens_per_day = 1_000_000_000_000
concurrent_calls = 6
quota_usd_per_month = 7
budget_usd_per_month = "0.5"
budget_hard_usd_per_month = 0.75
when_budget_reached = "downgrade_then_deny"
free_images_per_day = 8
payers = ["credits", "quota"]
models = ["gpt-4.1", "org/some model@1"]
tiers = ["premium", "standard"]
endpoints = ["chat", "images"]
addresses = ["192.0.2.0/24", "2001:DB8::/32", "198.51.100.7"]
cache = "on"
cache_scope = "shared"
when_unusual = "pause"

[plans.all.on_store_error]
rate_limit = "allow"
quota = "deny"
credits = "local_share"

[plans.all.providers.openai]
requests_per_minute = 10
tokens_per_day = 20
concurrent_calls = "unlimited"

[plans.all.providers."azure-2"]
requests_per_hour = 30

[plans.all.prices."gpt-4.1"]
input_usd_per_mtok = 2.5
reasoning_usd_per_mtok = "0.000001"
credits = 5

[plans.all.prices."dall-e".image_usd]
"1024x1024/hd" = 0.08
"512x512" = 0
"*" = 1

[credit_packages.big]
credits = 100
price_usd = 9.99
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_plans(text: str) -> Path:
        path = tmp_path / "my-plans.toml"
        path.write_text(text)
        return path

    return write_plans


# The file


def test_the_packaged_plans_are_those_of_the_documentation() -> None:
    plans = load_plans()
    assert [
        (p.name, p.requests_per_hour, p.tokens_per_minute, p.concurrent_calls, p.quota_nano_usd_per_month)
        for p in plans.values()
    ] == [
        ("free", 10, 40_000, 5, 1 * USD),
        ("starter", 50, 200_000, 10, 10 * USD),
        ("pro", 100, 1_000_000, 25, 50 * USD),
        ("business", 500, 4_000_000, 100, 250 * USD),
        ("enterprise", 10_000, None, 1_000, None),
    ]
    assert [p.budget_nano_usd_per_month for p in plans.values()] == [
        800_000_000,
        8 * USD,
        40 * USD,
        100 * USD,
        100 * USD,
    ]
    assert {(p.budget_is_auto, p.when_budget_reached, p.free_images_per_day, p.payers) for p in plans.values()} == {
        (True, "downgrade", 3, USUAL_PAYERS)
    }
    assert list(plans) == [plan.name for plan in plans.values()]


def test_every_key_arrives_where_it_belongs(write: Write) -> None:
    file = load_plan_file(write(EVERYTHING))
    assert file.plans["all"] == Plan(
        name="all",
        requests_per_minute=1,
        requests_per_hour=2,
        requests_per_day=3,
        tokens_per_minute=4,
        tokens_per_day=10**12,
        concurrent_calls=6,
        quota_nano_usd_per_month=7 * USD,
        budget_nano_usd_per_month=500_000_000,
        budget_hard_nano_usd_per_month=750_000_000,
        when_budget_reached="downgrade_then_deny",
        free_images_per_day=8,
        payers=("credits", "quota"),
        models=frozenset({"gpt-4.1", "org/some model@1"}),
        tiers=frozenset({"premium", "standard"}),
        endpoints=frozenset({"chat", "images"}),
        addresses=("192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32"),
        providers={
            "openai": ProviderLimits(requests_per_minute=10, tokens_per_day=20),
            "azure-2": ProviderLimits(requests_per_hour=30),
        },
        cache="on",
        cache_scope="shared",
        when_unusual="pause",
        on_store_error={"rate_limit": "allow", "quota": "deny", "credits": "local_share"},
        prices={
            "gpt-4.1": {"input": 2_500_000, "reasoning": 1, "credits": 5},
            "dall-e": {"image:1024x1024/hd": 80_000_000_000, "image:512x512/*": 0, "image:*/*": 10**12},
        },
        counted=frozenset(
            {
                "requests_per_minute",
                "requests_per_day",
                "tokens_per_day",
                "openai/requests_per_minute",
                "openai/tokens_per_day",
                "azure-2/requests_per_hour",
            }
        ),
    )
    assert file.credit_packages == {"big": CreditPackage("big", 100, 9_990_000_000)}


def test_every_field_of_a_plan_has_a_key() -> None:
    made_by_the_loader = {"name", "budget_is_auto", "counted", "is_overridden"}
    assert {field.attribute for field in PLAN_FIELDS.values()} | made_by_the_loader == set(Plan.__dataclass_fields__)


def test_a_file_replaces_the_packaged_plans_and_keeps_its_order(write: Write) -> None:
    file = load_plan_file(write("[plans.zeta]\nrequests_per_hour = 1\n[plans.alpha]\nrequests_per_hour = 2\n"))
    assert list(file.plans) == ["zeta", "alpha"]
    assert file.credit_packages == {}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param("[plans.a]\n[plans.free]\n", "free", id="free wherever it stands"),
        pytest.param("[plans.b]\n[plans.a]\n", "b", id="else the first of the file"),
    ],
)
def test_a_creator_without_a_plan_gets_the_default(write: Write, text: str, name: str) -> None:
    assert default_plan(load_plans(write(text))).name == name


@pytest.mark.parametrize(
    ("written", "nano_usd"),
    [
        pytest.param("10", 10 * USD, id="integer"),
        pytest.param("0.25", 250_000_000, id="decimal"),
        pytest.param('"0.25"', 250_000_000, id="string"),
        pytest.param("0.1", 100_000_000, id="a decimal that no float holds"),
        pytest.param("1.000000000000", USD, id="zeros beyond the nano-dollar"),
        pytest.param("0.000000001", 1, id="one nano-dollar"),
        pytest.param("0", 0, id="nothing"),
        pytest.param('"unlimited"', None, id="unlimited"),
    ],
)
@pytest.mark.parametrize("key", ["quota_usd_per_month", "budget_usd_per_month", "budget_hard_usd_per_month"])
def test_money_is_read_exactly(write: Write, key: str, written: str, nano_usd: int | None) -> None:
    plans = load_plans(write(f"[plans.x]\n{key} = {written}\n"))
    assert getattr(plans["x"], PLAN_FIELDS[key].attribute) == nano_usd


def test_what_is_left_out_has_no_limit_and_the_usual_gifts(write: Write) -> None:
    plans = load_plans(write('[plans.a]\n[plans.b]\nrequests_per_hour = "unlimited"\nmodels = "unlimited"\n'))
    for name in ("a", "b"):
        assert plans[name] == Plan(
            name, budget_nano_usd_per_month=100 * USD, budget_is_auto=True, free_images_per_day=3
        )


@pytest.mark.parametrize(
    ("lines", "nano_usd", "is_auto"),
    [
        pytest.param("", 100 * USD, True, id="no quota"),
        pytest.param("quota_usd_per_month = 50", 40 * USD, True, id="80 % of the quota"),
        pytest.param("quota_usd_per_month = 125", 100 * USD, True, id="80 % is just 100"),
        pytest.param("quota_usd_per_month = 1_000", 100 * USD, True, id="100 at most"),
        pytest.param("quota_usd_per_month = 0", 0, True, id="nothing of nothing"),
        pytest.param('quota_usd_per_month = "0.000000001"', 0, True, id="rounded down"),
        pytest.param('quota_usd_per_month = 5\nbudget_usd_per_month = "auto"', 4 * USD, True, id="auto in words"),
        pytest.param('budget_usd_per_month = "unlimited"\nquota_usd_per_month = 5', None, False, id="lifted"),
        pytest.param("budget_usd_per_month = 0\nquota_usd_per_month = 5", 0, False, id="nothing at all"),
        pytest.param("budget_usd_per_month = 300\nquota_usd_per_month = 5", 300 * USD, False, id="above the quota"),
    ],
)
def test_a_budget_that_is_not_named_follows_the_quota(
    write: Write, lines: str, nano_usd: int | None, is_auto: bool
) -> None:
    plan = load_plans(write(f"[plans.x]\n{lines}\n"))["x"]
    assert (plan.budget_nano_usd_per_month, plan.budget_is_auto) == (nano_usd, is_auto)


def test_optional_windows_of_one_plan_are_counted_for_all(write: Write) -> None:
    plans = load_plans(
        write(
            "[plans.a]\nrequests_per_hour = 1\ntokens_per_minute = 1\nconcurrent_calls = 1\n"
            "[plans.b]\nrequests_per_day = 1\n[plans.c.providers.openai]\nconcurrent_calls = 1\n"
        )
    )
    assert {plan.counted for plan in plans.values()} == {frozenset({"requests_per_day", "openai/concurrent_calls"})}


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        pytest.param("", 1, "no plan", id="empty file"),
        pytest.param("[plans]\n", 1, "no plan", id="no table below"),
        pytest.param("plans = 3\n", 1, "must be a table", id="plans is a number"),
        pytest.param("[plans]\nfree = 3\n", 2, "must be a table", id="a plan is a number"),
        pytest.param("\n[[plans.free]]\n", 2, "must be a table", id="a plan is a list"),
        pytest.param("[plans.free]\nrequests_per_houre = 3\n", 2, "unknown key", id="misspelt limit"),
        pytest.param("version = 1\n[plans.free]\n", 1, "unknown key", id="unknown key at the top"),
        pytest.param("[plans.free]\nname = 'x'\n", 2, "unknown key", id="a name inside"),
        pytest.param("[plans.free]\ncounted = ['x']\n", 2, "unknown key", id="what the loader makes"),
        pytest.param("[plans.free]\n\nrequests_per_hour = -1\n", 3, "whole number", id="negative count"),
        pytest.param("[plans.free]\nrequests_per_hour = 1.5\n", 2, "whole number", id="broken count"),
        pytest.param("[plans.free]\nrequests_per_hour = true\n", 2, "whole number", id="a truth as a count"),
        pytest.param('[plans.free]\nrequests_per_hour = "10"\n', 2, "whole number", id="a string as a count"),
        pytest.param("[plans.free]\nrequests_per_hour = 1000000001\n", 2, "whole number", id="absurd count"),
        pytest.param("[plans.free]\ntokens_per_day = 1000000000001\n", 2, "whole number", id="absurd tokens"),
        pytest.param("[plans.free]\nfree_images_per_day = 'unlimited'\n", 2, "whole number", id="endless gifts"),
        pytest.param("[plans.free]\nquota_usd_per_month = -0.5\n", 2, "negative", id="negative money"),
        pytest.param("[plans.free]\nquota_usd_per_month = 0.0000000001\n", 2, "finer", id="finer than a nano-dollar"),
        pytest.param("[plans.free]\nquota_usd_per_month = 1e-999999999\n", 2, "finer", id="absurdly fine"),
        pytest.param("[plans.free]\nquota_usd_per_month = 1e999999999\n", 2, "above", id="absurdly much"),
        pytest.param("[plans.free]\nquota_usd_per_month = nan\n", 2, "decimal number", id="not a number"),
        pytest.param("[plans.free]\nquota_usd_per_month = inf\n", 2, "decimal number", id="infinite"),
        pytest.param('[plans.free]\nquota_usd_per_month = "1 USD"\n', 2, "decimal number", id="words as money"),
        pytest.param('[plans.free]\nquota_usd_per_month = "auto"\n', 2, "decimal number", id="a quota that follows"),
        pytest.param("[plans.free]\nquota_usd_per_month = true\n", 2, "decimal number", id="a truth as money"),
        pytest.param("[plans.free]\nbudget_usd_per_month = 'some'\n", 2, "decimal number", id="words as a budget"),
        pytest.param("[plans.free]\nwhen_budget_reached = 'stop'\n", 2, "must be one of", id="unknown action"),
        pytest.param("[plans.free]\nwhen_budget_reached = ['deny']\n", 2, "must be one of", id="a list of actions"),
        pytest.param("[plans.free]\ncache = 'off'\n", 2, "one of asked, on, never", id="another use of the cache"),
        pytest.param("[plans.free]\ncache = true\n", 2, "one of asked, on, never", id="a truth as a use"),
        pytest.param("[plans.free]\ncache_scope = 'all'\n", 2, "one of creator, shared", id="another scope"),
        pytest.param(
            "[plans.free]\nwhen_unusual = 'stop'\n",
            2,
            "one of notify, throttle, pause",
            id="another answer to unusual use",
        ),
        pytest.param("[plans.free]\npayers = []\n", 2, "one or more of", id="no payer"),
        pytest.param("[plans.free]\npayers = ['bank']\n", 2, "one or more of", id="unknown payer"),
        pytest.param("[plans.free]\npayers = 'quota'\n", 2, "one or more of", id="payers in one word"),
        pytest.param("[plans.free]\npayers = [['quota']]\n", 2, "one or more of", id="payers in lists"),
        pytest.param("[plans.free]\npayers = ['quota', 'quota']\n", 2, "twice", id="a payer twice"),
        pytest.param("[plans.free]\nmodels = []\n", 2, "must not be empty", id="no model"),
        pytest.param("[plans.free]\nmodels = 'a'\n", 2, "must be a list", id="models in one word"),
        pytest.param("[plans.free]\nmodels = ['a', 'a']\n", 2, "twice", id="a model twice"),
        pytest.param("[plans.free]\nmodels = [' a']\n", 2, "no word", id="a model with a space before"),
        pytest.param("[plans.free]\ntiers = ['a b']\n", 2, "no word", id="a tier with a space"),
        pytest.param("[plans.free]\nendpoints = ['chat', 'telex']\n", 2, "unknown: telex", id="unknown endpoint"),
        pytest.param("[plans.free]\nendpoints = []\n", 2, "must not be empty", id="no endpoint"),
        pytest.param("[plans.free]\naddresses = []\n", 2, "must not be empty", id="no address"),
        pytest.param("[plans.free]\naddresses = ['10.0.0.1/8']\n", 2, "10.0.0.1/8 is not a network", id="host bits"),
        pytest.param("[plans.free]\naddresses = ['10.0.0']\n", 2, "is not a network", id="half an address"),
        pytest.param("[plans.free]\naddresses = ['fe80::1%eth0']\n", 2, "is not a network", id="a zone"),
        pytest.param("[plans.free]\naddresses = [167772161]\n", 2, "is not a network", id="a number as an address"),
        pytest.param("[plans.free]\naddresses = '10.0.0.0/8'\n", 2, "must be a list", id="addresses in one word"),
        pytest.param(
            "[plans.free]\naddresses = ['2001:db8::/32', '2001:DB8:0::/32']\n", 2, "twice", id="a network in two ways"
        ),
        pytest.param("[plans.free.providers]\nopenai = 3\n", 2, "must be a table", id="a provider is a number"),
        pytest.param("[plans.free]\nproviders = 3\n", 2, "must be a table", id="providers is a number"),
        pytest.param("[plans.free.providers.'a/b']\nconcurrent_calls = 1\n", 1, "provider's name", id="odd provider"),
        pytest.param(
            "[plans.free.providers.openai]\n\nquota_usd_per_month = 1\n", 3, "unknown key", id="no limit of providers"
        ),
        pytest.param(
            "[plans.free.providers.openai]\nrequests_per_day = -1\n", 2, "whole number", id="negative provider limit"
        ),
        pytest.param('[plans.free.prices."m"]\ninput = 1\n', 2, "unknown key", id="misspelt price"),
        pytest.param('[plans.free.prices."m"]\ninput_usd_per_mtok = -1\n', 2, "negative", id="negative price"),
        pytest.param(
            '[plans.free.prices."m"]\ninput_usd_per_mtok = 0.0000001\n', 2, "finer", id="finer than a pico-dollar"
        ),
        pytest.param('[plans.free.prices."m"]\ninput_usd_per_mtok = 1000001\n', 2, "above", id="absurd price"),
        pytest.param(
            '[plans.free.prices."m"]\ninput_usd_per_mtok = "unlimited"\n', 2, "decimal number", id="endless price"
        ),
        pytest.param('[plans.free.prices."m"]\ncredits = 1.5\n', 2, "whole number", id="half a credit"),
        pytest.param('[plans.free.prices."m"]\nimage_usd = 1\n', 2, "must be a table", id="one price for images"),
        pytest.param('[plans.free.prices."m".image_usd]\n', 1, "must be a table of 1", id="no price for images"),
        pytest.param('[plans.free.prices."m".image_usd]\n"a/b/c" = 1\n', 2, "size/quality", id="odd image"),
        pytest.param('[plans.free.prices."m".image_usd]\n"*" = 1\n"*/*" = 1\n', 3, "second price", id="image twice"),
        pytest.param('[plans.free.prices."m".image_usd]\n"*" = 10001\n', 2, "above", id="absurd image"),
        pytest.param('[plans.free.prices." m"]\ncredits = 1\n', 1, "model's name", id="odd model"),
        pytest.param("[plans.free]\n[credit_packages.big]\ncredits = 1\n", 2, "price_usd is missing", id="no price"),
        pytest.param("[plans.free]\n[credit_packages.big]\nprice_usd = 1\n", 2, "credits is missing", id="no credits"),
        pytest.param(
            "[plans.free]\n[credit_packages.big]\ncredits = 0\nprice_usd = 1\n", 3, "from 1", id="an empty package"
        ),
        pytest.param(
            "[plans.free]\n[credit_packages.big]\ncredits = 1\nprice_usd = -1\n", 4, "negative", id="a negative package"
        ),
        pytest.param(
            "[plans.free]\n[credit_packages.big]\ncredits = 1\nprice_usd = 1\nprize = 1\n",
            5,
            "unknown key",
            id="misspelt",
        ),
        pytest.param(
            "[plans.free]\n[credit_packages.'a b']\ncredits = 1\nprice_usd = 1\n",
            2,
            "name of a credit",
            id="odd package",
        ),
        pytest.param('[plans."a b"]\n', 1, "name of a plan", id="a name with a space"),
        pytest.param("[plans.free]\n[plans.free]\n", 2, "not valid TOML", id="a plan twice"),
        pytest.param("[plans.free]\nrequests_per_hour = 1\nrequests_per_hour = 2\n", 3, "not valid", id="a key twice"),
        pytest.param("[plans.free\n", 1, "not valid TOML", id="not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line_and_the_reason(write: Write, text: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_plans(write(text))
    first = str(caught.value).splitlines()[0]
    assert f"my-plans.toml:{line}: " in first
    assert reason in first


def test_all_faults_of_a_file_are_shown_together(write: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        load_plans(write("[plans.a]\nrequests_per_hour = -1\n[plans.b]\nquota_usd_per_month = -1\n"))
    assert [line.split(": ")[0].rsplit(":", 1)[1] for line in str(caught.value).splitlines()] == ["2", "4"]


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_plans(tmp_path / "none.toml")


# Overrides of creators


@pytest.mark.parametrize(
    ("overrides", "plan"),
    [
        pytest.param({}, PLAN, id="none"),
        pytest.param({"requests_per_hour": 7}, Plan("pro", 7, 50 * USD), id="count"),
        pytest.param({"requests_per_hour": 0}, Plan("pro", 0, 50 * USD), id="nothing allowed"),
        pytest.param({"requests_per_hour": None}, Plan("pro", None, 50 * USD), id="null lifts a limit"),
        pytest.param({"requests_per_hour": "unlimited"}, Plan("pro", None, 50 * USD), id="a word lifts a limit"),
        pytest.param({"quota_usd_per_month": "0.5"}, Plan("pro", 100, 500_000_000), id="decimal string"),
        pytest.param({"quota_usd_per_month": 3}, Plan("pro", 100, 3 * USD), id="integer"),
        pytest.param({"quota_usd_per_month": "unlimited"}, Plan("pro", 100, None), id="unlimited in words"),
        pytest.param(
            {"payers": ["quota"], "free_images_per_day": 0, "when_budget_reached": "deny"},
            Plan("pro", 100, 50 * USD, payers=("quota",), free_images_per_day=0, when_budget_reached="deny"),
            id="choices",
        ),
        pytest.param(
            {"cache": "never", "cache_scope": "shared", "when_unusual": "throttle"},
            Plan("pro", 100, 50 * USD, cache="never", cache_scope="shared", when_unusual="throttle"),
            id="what becomes of kept answers and of unusual use",
        ),
    ],
)
def test_overrides_stand_above_the_plan(overrides: dict[str, object], plan: Plan) -> None:
    assert with_overrides(PLAN, overrides) == plan


def test_lists_replace_those_of_the_plan_and_null_allows_all() -> None:
    plan = Plan("x", models=frozenset({"a"}), tiers=frozenset({"t"}), addresses=("10.0.0.0/8",))
    changed = with_overrides(plan, {"models": ["b"], "tiers": None, "addresses": "unlimited", "endpoints": ["chat"]})
    assert changed == Plan("x", models=frozenset({"b"}), endpoints=frozenset({"chat"}))


def test_what_is_done_without_a_store_is_merged_word_by_word() -> None:
    plan = Plan("x", on_store_error={"rate_limit": "allow", "quota": "deny"})
    changed = with_overrides(plan, {"on_store_error": {"rate_limit": None, "credits": "deny"}})
    assert changed.on_store_error == {"quota": "deny", "credits": "deny"}
    assert (changed.without_store("rate_limit"), changed.without_store("quota")) == ("local_share", "deny")
    assert with_overrides(plan, {"on_store_error": None}).on_store_error == {}


@pytest.mark.parametrize("name", sorted(set(LIMITED_BY) - MAY_ALLOW))
def test_what_is_paid_for_is_never_allowed_without_a_store(write: Write, name: str) -> None:
    path = write(f'[plans.x]\n[plans.x.on_store_error]\n{name} = "allow"\n')
    with pytest.raises(
        ConfigError, match=rf':3: plans.x.on_store_error.{name}: cannot be "allow": without its counter'
    ):
        load_plans(path)


def test_provider_limits_are_merged_limit_by_limit() -> None:
    plan = Plan(
        "x",
        providers={
            "openai": ProviderLimits(requests_per_minute=1, tokens_per_day=2),
            "azure": ProviderLimits(requests_per_day=3),
            "fal": ProviderLimits(concurrent_calls=4),
        },
    )
    changed = with_overrides(
        plan,
        {
            "providers": {
                "openai": {"requests_per_minute": 9, "concurrent_calls": 5},
                "azure": None,
                "fal": {"concurrent_calls": "unlimited"},
                "mock": {"tokens_per_minute": 6},
            }
        },
    )
    assert changed.providers == {
        "openai": ProviderLimits(requests_per_minute=9, tokens_per_day=2, concurrent_calls=5),
        "mock": ProviderLimits(tokens_per_minute=6),
    }
    assert with_overrides(plan, {"providers": None}).providers == {}
    assert plan.providers["openai"] == ProviderLimits(requests_per_minute=1, tokens_per_day=2)


def test_prices_are_merged_price_by_price() -> None:
    beneath = {"m": {"input": 1, "credits": 2, "image:*/*": 3}, "gone": {"input": 4}, "n": {"image:*/*": 5, "input": 1}}
    changed = with_overrides(
        Plan("x", prices=beneath),
        {
            "prices": {
                "m": {"input_usd_per_mtok": "0.5", "credits": None, "image_usd": {"512x512": "0.01"}},
                "gone": None,
                "n": {"image_usd": None},
                "new": {"output_usd_per_mtok": 3},
            }
        },
    )
    assert changed.prices == {
        "m": {"input": 500_000, "image:*/*": 3, "image:512x512/*": 10_000_000_000},
        "n": {"input": 1},
        "new": {"output": 3_000_000},
    }
    assert with_overrides(changed, {"prices": None}).prices == {}
    assert with_overrides(changed, {"prices": {"m": {"image_usd": {"*": None}}}}).prices["m"] == {
        "input": 500_000,
        "image:512x512/*": 10_000_000_000,
    }
    assert beneath["m"] == {"input": 1, "credits": 2, "image:*/*": 3}


def test_an_automatic_budget_follows_the_overridden_quota() -> None:
    plan = load_plans()["pro"]
    assert with_overrides(plan, {"quota_usd_per_month": 10}).budget_nano_usd_per_month == 8 * USD
    assert with_overrides(plan, {"quota_usd_per_month": None}).budget_nano_usd_per_month == 100 * USD
    named = with_overrides(plan, {"budget_usd_per_month": "20"})
    assert (named.budget_nano_usd_per_month, named.budget_is_auto) == (20 * USD, False)
    assert with_overrides(named, {"quota_usd_per_month": 10}).budget_nano_usd_per_month == 20 * USD
    assert with_overrides(named, {"budget_usd_per_month": "auto"}) == plan
    assert with_overrides(plan, {"budget_usd_per_month": None}).budget_nano_usd_per_month is None


def test_what_is_counted_because_of_other_plans_stays_counted(write: Write) -> None:
    plan = load_plans(write("[plans.a]\n[plans.b]\nrequests_per_day = 1\n"))["b"]
    changed = with_overrides(plan, {"requests_per_day": None})
    assert (changed.requests_per_day, changed.counted) == (None, frozenset({"requests_per_day"}))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        pytest.param("requests_per_second", 3, "unknown key", id="unknown field"),
        pytest.param("name", "free", "unknown key", id="the plan's name"),
        pytest.param("requests_per_hour", "7", "whole number", id="string as a count"),
        pytest.param("requests_per_hour", 7.0, "whole number", id="float as a count"),
        pytest.param("requests_per_hour", True, "whole number", id="truth as a count"),
        pytest.param("requests_per_hour", -1, "whole number", id="negative count"),
        pytest.param("requests_per_hour", 10**9 + 1, "whole number", id="absurd count"),
        pytest.param("free_images_per_day", None, "whole number", id="null gifts"),
        pytest.param("quota_usd_per_month", 2.5, "JSON float", id="float money"),
        pytest.param("quota_usd_per_month", 2.0, "JSON float", id="whole float money"),
        pytest.param("budget_usd_per_month", 2.5, "JSON float", id="float budget"),
        pytest.param("quota_usd_per_month", True, "decimal number", id="truth as money"),
        pytest.param("quota_usd_per_month", [1], "decimal number", id="list as money"),
        pytest.param("quota_usd_per_month", "", "decimal number", id="empty money"),
        pytest.param("quota_usd_per_month", "1e3", "decimal number", id="exponent"),
        pytest.param("quota_usd_per_month", "NaN", "decimal number", id="not a number"),
        pytest.param("quota_usd_per_month", "١", "decimal number", id="foreign digits"),
        pytest.param("quota_usd_per_month", "1" * 5_000, "decimal number", id="very long"),
        pytest.param("quota_usd_per_month", "-1", "negative", id="negative money"),
        pytest.param("quota_usd_per_month", 10**5_000, "above", id="absurd money"),
        pytest.param("quota_usd_per_month", "0.0000000001", "finer", id="finer than a nano-dollar"),
        pytest.param("when_budget_reached", None, "must be one of", id="null action"),
        pytest.param("cache", "off", "must be one of", id="unknown use of the cache"),
        pytest.param("cache", None, "must be one of", id="null use of the cache"),
        pytest.param("cache_scope", ["shared"], "must be one of", id="scopes as a list"),
        pytest.param("when_unusual", {}, "must be one of", id="an object as an action"),
        pytest.param("on_store_error", "deny", "must be a table", id="one word for all that is done without a store"),
        pytest.param("payers", None, "one or more of", id="null payers"),
        pytest.param("payers", [{}], "one or more of", id="objects as payers"),
        pytest.param("models", [], "must not be empty", id="no model"),
        pytest.param("models", [1], "no word", id="numbers as models"),
        pytest.param("models", {"a": 1}, "must be a list", id="an object as models"),
        pytest.param("endpoints", ["telex"], "unknown: telex", id="unknown endpoint"),
        pytest.param("addresses", ["10.0.0.1/8"], "is not a network", id="host bits"),
        pytest.param("providers", [1], "must be a table", id="a list as providers"),
        pytest.param("prices", 1, "must be a table", id="a number as prices"),
    ],
)
def test_a_bad_override_is_a_400_that_names_the_field(field: str, value: object, reason: str) -> None:
    for check in (lambda given: with_overrides(PLAN, given), lambda given: with_key_overrides(PLAN, given), key_limits):
        with pytest.raises(RequestError) as caught:
            check({field: value})
        assert caught.value.status == 400
        assert caught.value.param == f"overrides.{field}"
        assert reason in caught.value.message


@pytest.mark.parametrize(
    ("overrides", "param"),
    [
        pytest.param(
            {"providers": {"openai": {"requests_per_minute": -1}}},
            "overrides.providers.openai.requests_per_minute",
            id="a limit of a provider",
        ),
        pytest.param({"providers": {"openai": {"rpm": 1}}}, "overrides.providers.openai.rpm", id="an unknown one"),
        pytest.param({"providers": {"openai": 3}}, "overrides.providers.openai", id="a provider as a number"),
        pytest.param({"providers": {"a b": {}}}, "overrides.providers.a b", id="an odd provider"),
        pytest.param(
            {"prices": {"gpt-4.1": {"credits": "1"}}}, 'overrides.prices."gpt-4.1".credits', id="a price in credits"
        ),
        pytest.param(
            {"prices": {"m": {"input_usd_per_mtok": 0.1}}}, "overrides.prices.m.input_usd_per_mtok", id="a float price"
        ),
        pytest.param(
            {"prices": {"m": {"image_usd": {"*": 0.1}}}}, "overrides.prices.m.image_usd.*", id="a float for an image"
        ),
        pytest.param({"on_store_error": {"access": "deny"}}, "overrides.on_store_error.access", id="no such limit"),
        pytest.param({"on_store_error": {"quota": []}}, "overrides.on_store_error.quota", id="a list as an action"),
        pytest.param(
            {"on_store_error": {"budget": "allow"}}, "overrides.on_store_error.budget", id="money for nothing"
        ),
        pytest.param({"x" * 100: 1}, f"overrides.{'x' * 64}", id="a long name is cut"),
        pytest.param({"a\nb": 1}, "overrides.a?b", id="an unprintable name is mended"),
    ],
)
def test_a_bad_override_is_named_as_deep_as_it_lies(overrides: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        with_overrides(PLAN, overrides)
    assert caught.value.param == param


@pytest.mark.parametrize("check", [key_limits, lambda given: with_overrides(PLAN, given)])
def test_overrides_that_are_no_object_are_a_400(check: Callable[[Any], object]) -> None:
    for given_ in ([1], [], "x", None):
        with pytest.raises(RequestError, match="object"):
            check(given_)


# Overrides of keys


def test_a_keys_limits_stand_beside_the_creators_and_the_rest_above() -> None:
    plan = load_plans()["pro"]
    overrides = {
        "requests_per_hour": 3,
        "quota_usd_per_month": "2",
        "budget_usd_per_month": 1,
        "providers": {"openai": {"concurrent_calls": 1}},
        "models": ["small"],
        "prices": {"small": {"credits": 2}},
        "payers": ["credits"],
        "free_images_per_day": 1,
        "when_budget_reached": "deny",
        "cache": "never",
        "cache_scope": "shared",
        "when_unusual": "pause",
        "on_store_error": {"quota": "deny"},
    }
    limits = {"requests_per_hour", "quota_usd_per_month", "budget_usd_per_month", "providers"}
    assert with_key_overrides(plan, overrides) == with_overrides(
        plan, {key: value for key, value in overrides.items() if key not in limits}
    )
    own = key_limits(overrides)
    assert own is not None
    assert own == Plan(
        own.name,
        requests_per_hour=3,
        quota_nano_usd_per_month=2 * USD,
        budget_nano_usd_per_month=USD,
        providers={"openai": ProviderLimits(concurrent_calls=1)},
    )


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"models": ["a"], "prices": {"a": {"credits": 1}}}, id="nothing that is a limit"),
        pytest.param({"requests_per_hour": None, "quota_usd_per_month": "unlimited"}, id="limits lifted"),
        pytest.param({"providers": {"openai": {"requests_per_day": None}}}, id="a provider's limit lifted"),
    ],
)
def test_a_key_without_a_limit_of_its_own_has_none(overrides: dict[str, object]) -> None:
    assert key_limits(overrides) is None


def test_a_keys_quota_brings_no_budget_along() -> None:
    limits = key_limits({"quota_usd_per_month": 5})
    assert limits is not None
    assert (limits.budget_nano_usd_per_month, limits.budget_is_auto) == (None, False)
    for check in (key_limits, lambda given: with_key_overrides(PLAN, given)):
        with pytest.raises(RequestError) as caught:
            check({"quota_usd_per_month": 5, "budget_usd_per_month": "auto"})
        assert caught.value.param == "overrides.budget_usd_per_month"


def test_a_key_that_overrides_limits_only_leaves_the_plan_as_it_is() -> None:
    assert with_key_overrides(PLAN, {"requests_per_hour": 1, "quota_usd_per_month": 1}) is PLAN


# What is shown


def test_a_plan_is_shown_in_the_words_of_the_file(write: Write) -> None:
    assert plan_to_json(load_plans(write(EVERYTHING))["all"]) == {
        "name": "all",
        "requests_per_minute": 1,
        "requests_per_hour": 2,
        "requests_per_day": 3,
        "tokens_per_minute": 4,
        "tokens_per_day": 10**12,
        "concurrent_calls": 6,
        "quota_usd_per_month": "7",
        "budget_usd_per_month": "0.5",
        "budget_is_auto": False,
        "budget_hard_usd_per_month": "0.75",
        "when_budget_reached": "downgrade_then_deny",
        "free_images_per_day": 8,
        "payers": ["credits", "quota"],
        "models": ["gpt-4.1", "org/some model@1"],
        "tiers": ["premium", "standard"],
        "endpoints": ["chat", "images"],
        "addresses": ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32"],
        "cache": "on",
        "cache_scope": "shared",
        "when_unusual": "pause",
        "on_store_error": {"rate_limit": "allow", "credits": "local_share", "quota": "deny"},
        "providers": {
            "azure-2": {"requests_per_hour": 30},
            "openai": {"requests_per_minute": 10, "tokens_per_day": 20},
        },
        "prices": {
            "dall-e": {"image_usd": {"*/*": "1", "1024x1024/hd": "0.08", "512x512/*": "0"}},
            "gpt-4.1": {"input_usd_per_mtok": "2.5", "reasoning_usd_per_mtok": "0.000001", "credits": 5},
        },
    }


def test_a_plan_without_limits_is_shown_with_nulls() -> None:
    shown = plan_to_json(Plan("x"))
    assert shown["quota_usd_per_month"] is None
    assert shown["models"] is None
    assert (shown["providers"], shown["prices"], shown["on_store_error"]) == ({}, {}, {})
    assert (shown["cache"], shown["cache_scope"], shown["when_unusual"]) == ("asked", "creator", "notify")


def test_a_credit_package_is_shown_in_the_words_of_the_file() -> None:
    package = CreditPackage("big", 100, 9_990_000_000)
    assert credit_package_to_json(package) == {"name": "big", "credits": 100, "price_usd": "9.99"}


counts = st.none() | st.integers(0, 10**9)
money = st.none() | st.integers(0, 10**18)
words = st.frozensets(st.text("abcXYZ019._-", min_size=1, max_size=64), min_size=1, max_size=4)
price_rows = st.dictionaries(
    st.sampled_from(["input", "output", "cache_write", "image:*/*", "image:1024x1024/hd"]),
    st.integers(0, 10**12),
    min_size=1,
)
plans = st.builds(
    Plan,
    st.just("x"),
    requests_per_minute=counts,
    requests_per_hour=counts,
    tokens_per_day=counts,
    concurrent_calls=counts,
    quota_nano_usd_per_month=money,
    budget_nano_usd_per_month=money,
    budget_hard_nano_usd_per_month=money,
    when_budget_reached=st.sampled_from(["downgrade", "deny", "downgrade_then_deny"]),
    free_images_per_day=st.integers(0, 10**9),
    payers=st.lists(st.sampled_from(PAYERS), min_size=1, unique=True).map(tuple),
    models=st.none() | words,
    tiers=st.none() | words,
    endpoints=st.none() | st.frozensets(st.sampled_from(["chat", "images", "messages"]), min_size=1),
    addresses=st.none() | st.ip_addresses(v=6).map(lambda address: (f"{address}/128",)),
    providers=st.dictionaries(
        st.sampled_from(["openai", "azure"]), st.builds(ProviderLimits, tokens_per_minute=st.integers(0, 10**12))
    ),
    cache=st.sampled_from(["asked", "on", "never"]),
    cache_scope=st.sampled_from(["creator", "shared"]),
    when_unusual=st.sampled_from(["notify", "throttle", "pause"]),
    on_store_error=st.dictionaries(st.sampled_from(LIMITED_BY), st.sampled_from(["deny", "local_share"])),
    prices=st.dictionaries(st.sampled_from(["gpt-4.1", "org/m@1"]), price_rows),
)


@given(plans)
def test_what_is_shown_can_be_sent_back(plan: Plan) -> None:
    shown = plan_to_json(plan)
    del shown["name"], shown["budget_is_auto"]
    assert with_overrides(Plan("x", requests_per_day=None), shown) == plan


@given(st.decimals(min_value=0, max_value=10**9, places=9))
def test_file_and_override_read_the_same_money(tmp_path_factory: pytest.TempPathFactory, amount: Decimal) -> None:
    path = tmp_path_factory.getbasetemp() / "same-money.toml"
    path.write_text(f"[plans.x]\nquota_usd_per_month = {amount:f}\n")
    in_file = load_plans(path)["x"].quota_nano_usd_per_month
    assert in_file == with_overrides(PLAN, {"quota_usd_per_month": f"{amount:f}"}).quota_nano_usd_per_month
    assert in_file == int(amount * USD)


PROVIDER = """\
version = "1"
[providers.mock]
dialect = "mock"
"""

ROW = """
input_usd_per_mtok = {rate}
cached_input_usd_per_mtok = 0.075
cache_write_usd_per_mtok = "3.75"
output_usd_per_mtok = 10
reasoning_usd_per_mtok = 0
audio_input_usd_per_mtok = 6
audio_output_usd_per_mtok = 7
image_input_usd_per_mtok = 8
image_output_usd_per_mtok = 9
credits = 5
[{table}.image_usd]
"1024x1024/hd" = {image}
"512x512" = "0.018"
"*/hd" = 1
"*" = 10000
"""


@given(
    st.decimals(min_value=0, max_value=10**6, places=6),
    st.decimals(min_value=0, max_value=10**4, places=12),
)
def test_plans_and_catalog_read_the_same_prices(
    tmp_path_factory: pytest.TempPathFactory, rate: Decimal, image: Decimal
) -> None:
    catalog_file = tmp_path_factory.getbasetemp() / "same-pricing.toml"
    plans_file = tmp_path_factory.getbasetemp() / "same-prices.toml"
    row = {"rate": f"{rate:f}", "image": f"{image:f}"}
    table = 'models."m"'
    header = f'{PROVIDER}\n[{table}]\nprovider = "mock"\nendpoints = ["chat"]\n'
    catalog_file.write_text(header + ROW.format(table=table, **row))
    table = 'plans.x.prices."m"'
    plans_file.write_text(f"[{table}]\n" + ROW.format(table=table, **row))
    model = load_catalog(catalog_file).models["m"]
    own = load_plans(plans_file)["x"].prices["m"]
    assert {f"image:{key}": price for key, price in (model.price.images or {}).items()} == {
        key: price for key, price in own.items() if key.startswith("image:")
    }
    assert own["credits"] == model.credits
    for key in own.keys() - {"credits"}:
        assert key.startswith("image:") or own[key] == getattr(model.price, key)


# gateway check

CATALOG = (
    PROVIDER
    + """
[models."big"]
provider = "mock"
endpoints = ["chat"]
tier = "premium"
[models."paint"]
provider = "mock"
endpoints = ["images"]
credits = 5
[models."asleep"]
provider = "mock"
endpoints = ["embeddings"]
active = false
"""
)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    path = tmp_path / "pricing.toml"
    path.write_text(CATALOG)
    return load_catalog(path)


@pytest.mark.parametrize(
    ("lines", "warning"),
    [
        pytest.param("quota_usd_per_month = 5\nbudget_usd_per_month = 5", "is not below quota", id="budget = quota"),
        pytest.param("quota_usd_per_month = 5\nbudget_usd_per_month = 9", "is not below quota", id="budget > quota"),
        pytest.param(
            'budget_usd_per_month = 9\nbudget_hard_usd_per_month = 8\nwhen_budget_reached = "downgrade_then_deny"',
            "(8) is below budget_usd_per_month (9)",
            id="hard below soft",
        ),
        pytest.param("budget_hard_usd_per_month = 800", "has no effect", id="hard without the action"),
        pytest.param('when_budget_reached = "downgrade_then_deny"', "never denies", id="the action without hard"),
        pytest.param('models = ["big", "huge"]', "models names what the catalog does not have: huge", id="models"),
        pytest.param('tiers = ["premium", "gold"]', "tiers names what the catalog does not have: gold", id="tiers"),
        pytest.param(
            "[plans.x.providers.openai]\nrequests_per_day = 1", "providers names what the catalog", id="providers"
        ),
        pytest.param('[plans.x.prices."huge"]\ncredits = 1', "prices names what the catalog", id="prices"),
        pytest.param('endpoints = ["embeddings"]', "no active model of the catalog is left", id="nothing left"),
        pytest.param("free_images_per_day = 0", "names free_images, which can never pay", id="no free images"),
        pytest.param(
            'payers = ["credits", "quota"]\nquota_usd_per_month = 0', "names quota, which can never", id="no quota"
        ),
        pytest.param('payers = ["quota", "credits"]', "names credits, which can never pay", id="after no limit"),
        pytest.param('models = ["big"]\npayers = ["credits"]', "payers are never asked", id="no model with credits"),
        pytest.param(
            'models = ["big"]\npayers = ["free_images", "credits"]\n[plans.x.prices."big"]\ncredits = 1',
            "names free_images, which can never pay: no model",
            id="no model that makes images",
        ),
        pytest.param(
            '[plans.x.prices."paint".image_usd]\n"1024x1024/hd" = 1',
            'prices."paint".image_usd has no "*"',
            id="an image price that saying nothing gets around",
        ),
        pytest.param(
            '[plans.x.on_store_error]\ntoken_rate = "deny"', "on_store_error.token_rate has no", id="no tokens"
        ),
        pytest.param(
            '[plans.x.on_store_error]\nquota = "deny"', "on_store_error.quota has no effect", id="no quota set"
        ),
    ],
)
def test_check_warns_of_what_a_plan_can_hardly_mean(write: Write, catalog: Catalog, lines: str, warning: str) -> None:
    warnings = lint_plans(load_plans(write(f"[plans.x]\n{lines}\n")), catalog)
    assert [line for line in warnings if line.startswith("plans.x: ") and warning in line] == warnings
    assert len(warnings) == 1


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param("", id="nothing said"),
        pytest.param("quota_usd_per_month = 0\nfree_images_per_day = 1", id="no quota, so no budget"),
        pytest.param('quota_usd_per_month = 5\nbudget_usd_per_month = "unlimited"', id="a budget lifted on purpose"),
        pytest.param('models = ["big"]', id="usual payers nobody asks"),
        pytest.param(
            'quota_usd_per_month = "unlimited"\nconcurrent_calls = 1\n[plans.x.providers.mock]\nrequests_per_day = 1\n'
            '[plans.x.on_store_error]\nconcurrency = "allow"\nrate_limit = "deny"\nbudget = "deny"\ncredits = "deny"',
            id="what to do without a store about limits that are set",
        ),
        pytest.param('payers = ["credits", "quota"]\nquota_usd_per_month = 1', id="credits before a quota"),
        pytest.param('[plans.x.prices."paint".image_usd]\n"1x1" = 2\n"*" = 1', id="any image of a model by tokens"),
        pytest.param('[plans.x.prices."paint"]\nimage_output_usd_per_mtok = 9', id="tokens of a model by tokens"),
    ],
)
def test_check_is_content_with_a_sound_plan(write: Write, catalog: Catalog, lines: str) -> None:
    assert lint_plans(load_plans(write(f"[plans.x]\n{lines}\n")), catalog) == []


def test_gateway_check_shows_the_warnings_with_their_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("[plans.x]\nmodels = ['huge', 'mock-1']\n")
    monkeypatch.setenv("GATEWAY_PLANS_FILE", str(path))
    outcome = CliRunner().invoke(cli, ["check"])
    assert outcome.exit_code == 0
    assert f"warning: {path}: plans.x: models names what the catalog does not have: huge" in outcome.output


def test_check_is_content_with_the_plans_that_ship() -> None:
    assert lint_plans(load_plans(), load_catalog()) == []
