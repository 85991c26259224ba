"""The alerts are rules to Prometheus, can be raised, tell what has happened, and are those that are wanted."""

import copy
import re
from collections.abc import Callable
from typing import Any
from typing import get_args as alternatives

import pytest
import yaml  # type: ignore[import-untyped]

from gateway.config import Settings
from gateway.endpoints.health import routes as health_routes
from gateway.ledger.records import Outcome
from tests.deploy_files import README, gateways, seconds
from tests.monitoring import files, rules
from tests.monitoring.checks import example_faults
from tests.monitoring.files import alerts
from tests.monitoring.promql import Query, filled_in

_DEFAULTS = Settings.model_construct()


def alert(name: str) -> dict[str, Any]:
    (found,) = [rule for rule in alerts() if rule["alert"] == name]
    return found


def test_the_file_of_alerts_is_one() -> None:
    assert rules.faults(files.rules()) == []


def test_every_alert_is_raised_in_an_example_by_series_that_a_scrape_has() -> None:
    assert example_faults(files.examples()) == []


def _rule(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = told["groups"][0]["rules"][0]
    return found


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        pytest.param(lambda told: told.update(group=[]), "group", id="field-of-the-file"),
        pytest.param(lambda told: told["groups"][0].update(intervall="1m"), "intervall", id="field-of-a-group"),
        pytest.param(lambda told: _rule(told).update(fore="1m"), "fore", id="field-of-a-rule"),
        pytest.param(lambda told: _rule(told).pop("expr"), "expr", id="no-expression"),
        pytest.param(lambda told: _rule(told).update({"for": "1 m"}), "1 m", id="duration"),
        pytest.param(lambda told: _rule(told).update({"for": "5"}), '"5"', id="duration-without-unit"),
        pytest.param(lambda told: _rule(told).update({"for": "1s1m"}), "1s1m", id="duration-turned-round"),
        pytest.param(lambda told: _rule(told).update({"for": 60}), "60", id="number-for-a-duration"),
        pytest.param(lambda told: _rule(told)["labels"].update({"se-verity": "x"}), "se-verity", id="name-of-a-label"),
        pytest.param(lambda told: _rule(told)["labels"].update(level=1), "level", id="number-for-a-label"),
        pytest.param(lambda told: _rule(told).update(expr="up =="), "not PromQL", id="expression"),
        pytest.param(lambda told: _rule(told).update(expr="upp == 0"), "upp", id="series"),
        pytest.param(lambda told: _rule(told).update(expr="sum by (model) (up) > 0"), "model", id="label"),
        pytest.param(lambda told: _rule(told)["annotations"].update(a="{{ $value"), "braces", id="open-braces"),
        pytest.param(lambda told: _rule(told)["annotations"].update(a="$value }}"), "braces", id="closed-braces"),
        pytest.param(lambda told: _rule(told)["annotations"].update(a="{{ $valu }}"), "$valu", id="variable"),
        pytest.param(
            lambda told: _rule(told)["annotations"].update(a="{{ $value | humanise }}"), "humanise", id="function"
        ),
        pytest.param(
            lambda told: _rule(told)["annotations"].update(a="{{ $labels.model }}"), "always empty", id="empty-label"
        ),
        pytest.param(lambda told: told["groups"].append(told["groups"][0]), "two groups", id="group-twice"),
    ],
)
def test_a_file_of_alerts_with_a_fault_is_refused(harm: Callable[[dict[str, Any]], None], fault: str) -> None:
    told = copy.deepcopy(files.rules())
    harm(told)
    assert any(fault in found for found in rules.faults(told)), rules.faults(told)


def test_examples_of_nothing_are_found() -> None:
    told = copy.deepcopy(files.examples())
    told[0]["input_series"][0]["series"] = 'upp{job="llm-gateway"}'
    told[0]["alert_rule_test"][0]["alertname"] = "GatewayLost"
    found = "".join(example_faults(told[:1]))
    assert "upp" in found
    assert "GatewayLost is no alert" in found
    assert "GatewayDayCost is raised in no example" in found


@pytest.mark.parametrize(
    ("name", "series", "condition"),
    [
        pytest.param("GatewayDayCost", "gateway_ledger_day_cost_nano_usd", "/ 1e9 > 200", id="day-above-200-usd"),
        pytest.param("GatewayErrorRate", "gateway_calls_total", "> 0.05", id="more-than-5-percent-fail"),
        pytest.param(
            "GatewayHoldsStuck",
            "gateway_ledger_oldest_hold_seconds",
            f"> {_DEFAULTS.hold_timeout_s:g}",
            id="holds-past-their-time",
        ),
        pytest.param("GatewaySettlesGrowing", "gateway_spooled_settles", "[10m])) > 0", id="spool-that-grows"),
        pytest.param("GatewayProviderDown", "gateway_deployment_up", "== 0", id="provider-down"),
        pytest.param(
            "GatewayNearlyFull",
            "gateway_calls_in_flight",
            f"> {_DEFAULTS.calls_max * 8 // 10}",
            id="four-fifths-of-the-calls",
        ),
    ],
)
def test_what_must_not_go_unnoticed_has_an_alert(name: str, series: str, condition: str) -> None:
    text = alert(name)["expr"]
    assert Query(text).metrics == {series}
    assert condition in text


@pytest.mark.parametrize(
    ("label", "known"),
    [
        pytest.param("outcome", set(alternatives(Outcome)), id="outcomes"),
        pytest.param("code", set(re.findall(r"`([a-z_]+)`", README)), id="codes"),
        pytest.param("result", {"hit", "miss"}, id="lookups"),
    ],
)
def test_values_that_are_asked_for_exist(label: str, known: set[str]) -> None:
    chosen = files.variables(files.dashboard()).keys()
    shown = [filled_in(target["expr"], chosen) for target in files.targets(files.dashboard()).values()]
    texts = [*shown, *(rule["expr"] for rule in alerts()), *files.documented().values()]
    asked = [value for text in texts for name, value in Query(text).matchers if name == label]
    assert asked
    for part in {part for pattern in asked for part in pattern.split("|")}:
        assert any(re.fullmatch(part, value) for value in known), part


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_grave_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "description"}
    assert all(text.endswith(".") for text in rule["annotations"].values())
    assert seconds(rule["for"]) >= 60


def test_the_example_of_a_scrape_asks_every_gateway_itself() -> None:
    (job,) = yaml.safe_load(files.SCRAPE.read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"{name}:8000" for name in gateways()]}]
    assert job["metrics_path"] in {route.path for route in health_routes}
