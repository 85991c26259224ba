"""The dashboard is one to Grafana, shows every metric, and whoever damages it is told."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.monitoring import grafana
from tests.monitoring.checks import dashboard_faults
from tests.monitoring.files import dashboard, targets, variables
from tests.monitoring.promql import Query, filled_in
from tests.monitoring.scraped import SERIES

Place = tuple[str | int, ...]

_FREE = {"tags", "query"}
"""Grafana's schema has no fields for what stands in these."""
_SHOWN_BY_ITS_BUCKETS = re.compile(r"_(bucket|sum|count)$")


def damaged() -> dict[str, Any]:
    """A copy to do harm to."""
    return copy.deepcopy(dashboard())


def excerpt() -> dict[str, Any]:
    """A dashboard with one panel and one variable of each kind, the fullest, and all that is around them."""
    small = damaged()
    fullest = sorted(small["panels"], key=lambda panel: len(json.dumps(panel)))
    small["panels"] = list({panel["type"]: panel for panel in fullest}.values())
    small["templating"]["list"] = list({one["type"]: one for one in small["templating"]["list"]}.values())
    return small


def values(tree: Any, path: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value of a tree with where it is, the tree itself first."""
    yield path, tree
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in children:
        yield from values(value, (*path, name))


def at(tree: Any, path: Place) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def test_the_dashboard_is_one() -> None:
    assert dashboard_faults(dashboard()) == []


def test_a_field_that_grafana_does_not_know_is_found_wherever_it_stands() -> None:
    whole = excerpt()
    places = [path for path, value in values(whole) if isinstance(value, dict) and not _FREE & {*path}]
    assert len(places) > 30
    for path in places:
        at(whole, path)["strange"] = 1
        assert any("strange" in fault for fault in grafana.faults(whole)), path
        del at(whole, path)["strange"]


def test_a_value_of_another_type_is_found_wherever_it_stands() -> None:
    whole = excerpt()
    places = [(path, value) for path, value in values(whole) if path and not _FREE & {*path[:-1]}]
    assert len(places) > 100
    for path, value in places:
        at(whole, path[:-1])[path[-1]] = "text" if isinstance(value, int | float) else {} if value is None else 1
        assert grafana.faults(whole), path
        at(whole, path[:-1])[path[-1]] = value
    assert grafana.faults(whole) == []


def _first(kind: str, told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(panel for panel in told["panels"] if panel["type"] == kind)
    return found


def _query(told: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = _first("timeseries", told)["targets"][0]
    return found


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        pytest.param(
            lambda told: told["templating"]["list"][0].update(type="datasorce"), "VariableType", id="kind-of-variable"
        ),
        pytest.param(lambda told: told.update(graphTooltip=3), "DashboardCursorSync", id="number-of-an-enumeration"),
        pytest.param(
            lambda told: _first("stat", told)["options"].update(colorMode="valu"), "BigValueColorMode", id="word"
        ),
        pytest.param(
            lambda told: _first("timeseries", told)["options"]["legend"].update(placement="botom"),
            "LegendPlacement",
            id="word-deep-down",
        ),
        pytest.param(
            lambda told: _first("timeseries", told)["fieldConfig"]["defaults"]["custom"].update(showPoints="newer"),
            "VisibilityMode",
            id="word-of-a-kind-of-panel",
        ),
        pytest.param(
            lambda told: _first("stat", told)["fieldConfig"]["defaults"].update(custom={"fillOpacity": 10}),
            "not known",
            id="settings-of-another-kind-of-panel",
        ),
        pytest.param(lambda told: _first("stat", told).update(type="stats"), "not known", id="kind-of-panel"),
        pytest.param(lambda told: _first("stat", told).pop("type"), "cannot be read", id="panel-without-kind"),
        pytest.param(
            lambda told: _first("stat", told)["datasource"].update(type="prometeus"),
            "a data source that is not known",
            id="kind-of-data-source",
        ),
        pytest.param(
            lambda told: _query(told)["datasource"].update(type="loki"), "that was chosen", id="another-data-source"
        ),
        pytest.param(lambda told: _query(told).pop("refId"), "refId", id="query-without-name"),
        pytest.param(lambda told: told.pop("schemaVersion"), "schemaVersion", id="no-version"),
        pytest.param(
            lambda told: _first("timeseries", told)["options"]["legend"].pop("showLegend"), "showLegend", id="no-legend"
        ),
        pytest.param(lambda told: told.update(panels={}), "panels", id="no-list"),
        pytest.param(lambda told: _first("timeseries", told).update(gridPos=[]), "gridPos", id="no-object"),
        pytest.param(lambda told: _query(told).update(expr="sum(gateway_ready"), "not PromQL", id="expression"),
        pytest.param(lambda told: _query(told).update(expr="gateway_redy"), "gateway_redy", id="series"),
        pytest.param(lambda told: _query(told).update(expr='gateway_ready{what="a"}'), "no label what", id="label"),
        pytest.param(lambda told: _query(told).update(expr='gateway_ready{job="$jop"}'), "jop", id="variable"),
        pytest.param(lambda told: _query(told).update(legendFormat="{{outcom}}"), "outcom", id="legend"),
        pytest.param(
            lambda told: told["templating"]["list"][1]["query"].update(query="label_values(gateway_ready, jop)"),
            "jop",
            id="values-of-a-variable",
        ),
        pytest.param(lambda told: _first("stat", told).update(description=""), "description", id="silent-panel"),
        pytest.param(
            lambda told: _first("timeseries", told)["fieldConfig"]["defaults"].update(unit="requests"),
            "no unit",
            id="unit",
        ),
        pytest.param(
            lambda told: _query(told).update(expr="sum(gateway_ledger_day_cost_nano_usd)"), "money", id="nano-dollars"
        ),
    ],
)
def test_a_dashboard_with_a_fault_is_refused(harm: Callable[[dict[str, Any]], None], fault: str) -> None:
    told = damaged()
    harm(told)
    assert any(fault in found for found in dashboard_faults(told)), dashboard_faults(told)


def test_every_series_is_shown() -> None:
    chosen = variables(dashboard()).keys()
    shown = {
        name for target in targets(dashboard()).values() for name in Query(filled_in(target["expr"], chosen)).metrics
    }
    assert {_SHOWN_BY_ITS_BUCKETS.sub("", name) for name in shown} == {
        _SHOWN_BY_ITS_BUCKETS.sub("", name) for name in SERIES.keys() - {"up"}
    }


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    told = dashboard()["panels"]
    assert len({panel["id"] for panel in told}) == len(told)
    taken: set[tuple[int, int]] = set()
    for panel in told:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
