from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError, RequestError
from gateway.plans import default_plan, load_plans, plan_to_json, with_overrides
from policies.types import Plan

PLAN = Plan(name="pro", requests_per_hour=100, quota_nano_usd_per_month=50_000_000_000)
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_plans(text: str) -> Path:
        path = tmp_path / "my-plans.toml"
        path.write_text(text)
        return path

    return write_plans


def test_the_packaged_plans_are_those_of_the_documentation() -> None:
    plans = load_plans()
    assert [(p.name, p.requests_per_hour, p.quota_nano_usd_per_month) for p in plans.values()] == [
        ("free", 10, 1 * 10**9),
        ("starter", 50, 10 * 10**9),
        ("pro", 100, 50 * 10**9),
        ("business", 500, 250 * 10**9),
        ("enterprise", 10_000, None),
    ]
    assert list(plans) == [plan.name for plan in plans.values()]


def test_a_file_replaces_the_packaged_plans_and_keeps_its_order(write: Write) -> None:
    plans = load_plans(write("[plans.zeta]\nrequests_per_hour = 1\n[plans.alpha]\nrequests_per_hour = 2\n"))
    assert list(plans) == ["zeta", "alpha"]


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
        pytest.param("10", 10 * 10**9, id="integer"),
        pytest.param("0.25", 250_000_000, id="decimal"),
        pytest.param('"0.25"', 250_000_000, id="string"),
        pytest.param("0.1", 100_000_000, id="a decimal that no float holds"),
        pytest.param("1.000000000000", 10**9, id="zeros beyond the nano-dollar"),
        pytest.param("0.000000001", 1, id="one nano-dollar"),
        pytest.param("0", 0, id="nothing"),
        pytest.param('"unlimited"', None, id="unlimited"),
    ],
)
def test_a_quota_is_read_exactly(write: Write, written: str, nano_usd: int | None) -> None:
    plans = load_plans(write(f"[plans.x]\nquota_usd_per_month = {written}\n"))
    assert plans["x"].quota_nano_usd_per_month == nano_usd


def test_a_limit_left_out_or_called_unlimited_is_none(write: Write) -> None:
    plans = load_plans(write('[plans.a]\n[plans.b]\nrequests_per_hour = "unlimited"\n'))
    assert plans["a"] == Plan("a", None, None)
    assert plans["b"] == Plan("b", None, None)


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
        pytest.param("[plans.free]\n\nrequests_per_hour = -1\n", 3, "whole number", id="negative count"),
        pytest.param("[plans.free]\nrequests_per_hour = 1.5\n", 2, "whole number", id="broken count"),
        pytest.param("[plans.free]\nrequests_per_hour = true\n", 2, "whole number", id="a truth as a count"),
        pytest.param('[plans.free]\nrequests_per_hour = "10"\n', 2, "whole number", id="a string as a count"),
        pytest.param("[plans.free]\nrequests_per_hour = 1000000001\n", 2, "whole number", id="absurd count"),
        pytest.param("[plans.free]\nquota_usd_per_month = -0.5\n", 2, "negative", id="negative money"),
        pytest.param("[plans.free]\nquota_usd_per_month = 0.0000000001\n", 2, "finer", id="finer than a nano-dollar"),
        pytest.param("[plans.free]\nquota_usd_per_month = 1e-999999999\n", 2, "finer", id="absurdly fine"),
        pytest.param("[plans.free]\nquota_usd_per_month = 1e999999999\n", 2, "above", id="absurdly much"),
        pytest.param("[plans.free]\nquota_usd_per_month = nan\n", 2, "decimal number", id="not a number"),
        pytest.param("[plans.free]\nquota_usd_per_month = inf\n", 2, "decimal number", id="infinite"),
        pytest.param('[plans.free]\nquota_usd_per_month = "1 USD"\n', 2, "decimal number", id="words as money"),
        pytest.param("[plans.free]\nquota_usd_per_month = true\n", 2, "decimal number", id="a truth as money"),
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


@pytest.mark.parametrize(
    ("overrides", "plan"),
    [
        pytest.param({}, PLAN, id="none"),
        pytest.param({"requests_per_hour": 7}, Plan("pro", 7, 50 * 10**9), id="count"),
        pytest.param({"requests_per_hour": 0}, Plan("pro", 0, 50 * 10**9), id="nothing allowed"),
        pytest.param({"requests_per_hour": None}, Plan("pro", None, 50 * 10**9), id="null lifts a limit"),
        pytest.param({"quota_usd_per_month": "0.5"}, Plan("pro", 100, 500_000_000), id="decimal string"),
        pytest.param({"quota_usd_per_month": 3}, Plan("pro", 100, 3 * 10**9), id="integer"),
        pytest.param({"quota_usd_per_month": "unlimited"}, Plan("pro", 100, None), id="unlimited in words"),
    ],
)
def test_overrides_stand_above_the_plan(overrides: dict[str, object], plan: Plan) -> None:
    assert with_overrides(PLAN, overrides) == plan


def test_a_keys_overrides_stand_above_the_creators() -> None:
    creator = with_overrides(PLAN, {"requests_per_hour": 7, "quota_usd_per_month": "2"})
    assert with_overrides(creator, {"requests_per_hour": 3}) == Plan("pro", 3, 2 * 10**9)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        pytest.param("requests_per_minute", 3, "not a field", id="unknown field"),
        pytest.param("name", "free", "not a field", id="the plan's name"),
        pytest.param("requests_per_hour", "7", "whole number", id="string as a count"),
        pytest.param("requests_per_hour", 7.0, "whole number", id="float as a count"),
        pytest.param("requests_per_hour", True, "whole number", id="truth as a count"),
        pytest.param("requests_per_hour", -1, "whole number", id="negative count"),
        pytest.param("requests_per_hour", 10**9 + 1, "whole number", id="absurd count"),
        pytest.param("quota_usd_per_month", 2.5, "JSON float", id="float money"),
        pytest.param("quota_usd_per_month", 2.0, "JSON float", id="whole float money"),
        pytest.param("quota_usd_per_month", True, "decimal string", id="truth as money"),
        pytest.param("quota_usd_per_month", [1], "decimal string", id="list as money"),
        pytest.param("quota_usd_per_month", "", "decimal string", id="empty money"),
        pytest.param("quota_usd_per_month", "1e3", "decimal string", id="exponent"),
        pytest.param("quota_usd_per_month", "NaN", "decimal string", id="not a number"),
        pytest.param("quota_usd_per_month", "١", "decimal string", id="foreign digits"),
        pytest.param("quota_usd_per_month", "1" * 5_000, "decimal string", id="very long"),
        pytest.param("quota_usd_per_month", "-1", "from 0", id="negative money"),
        pytest.param("quota_usd_per_month", 10**5_000, "from 0", id="absurd money"),
        pytest.param("quota_usd_per_month", "0.0000000001", "finer", id="finer than a nano-dollar"),
    ],
)
def test_a_bad_override_is_a_400_that_names_the_field(field: str, value: object, reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        with_overrides(PLAN, {field: value})
    assert caught.value.status == 400
    assert caught.value.param == f"overrides.{field}"
    assert reason in caught.value.message


def test_overrides_that_are_no_object_are_a_400() -> None:
    with pytest.raises(RequestError, match="object"):
        with_overrides(PLAN, [1])  # type: ignore[arg-type]


def test_a_plan_is_shown_in_the_words_of_the_file() -> None:
    assert plan_to_json(with_overrides(PLAN, {"quota_usd_per_month": "0.5"})) == {
        "name": "pro",
        "requests_per_hour": 100,
        "quota_usd_per_month": "0.5",
    }
    assert plan_to_json(Plan("x", None, None)) == {
        "name": "x",
        "requests_per_hour": None,
        "quota_usd_per_month": None,
    }


plans = st.builds(
    Plan,
    st.just("x"),
    st.none() | st.integers(0, 10**9),
    st.none() | st.integers(0, 10**18),
)


@given(plans)
def test_what_is_shown_can_be_sent_back(plan: Plan) -> None:
    shown = plan_to_json(plan)
    del shown["name"]
    assert with_overrides(PLAN, shown) == Plan("pro", plan.requests_per_hour, plan.quota_nano_usd_per_month)


@given(st.decimals(min_value=0, max_value=10**9, places=9))
def test_file_and_override_read_the_same_money(tmp_path_factory: pytest.TempPathFactory, amount: Decimal) -> None:
    path = tmp_path_factory.getbasetemp() / "same-money.toml"
    path.write_text(f"[plans.x]\nquota_usd_per_month = {amount:f}\n")
    in_file = load_plans(path)["x"].quota_nano_usd_per_month
    assert in_file == with_overrides(PLAN, {"quota_usd_per_month": f"{amount:f}"}).quota_nano_usd_per_month
    assert in_file == int(amount * 10**9)
