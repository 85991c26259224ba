"""docs/metrics.md has every metric with kind, labels and unit, every attribute of a span, and every alert as it is."""

import re
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from gateway.metrics import Metrics
from tests.monitoring.files import alerts, dashboard
from tests.monitoring.promql import Query

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "metrics.md").read_text()
TELEMETRY = (ROOT / "gateway" / "telemetry.py").read_text()
UNITS = {
    "_nano_usd": "nano-dollars",
    "_nano_usd_total": "nano-dollars",
    "_seconds": "seconds",
    "_usage_total": "tokens",
}
"""How a name ends -> its unit. Others count something, and say what."""
_ENDINGS = {"counter": "_total"}


def families() -> dict[str, Metric]:
    """By the name a scrape has."""
    metrics = Metrics(calls_in_flight=lambda: 0, is_ready=lambda: True)
    return {f"{family.name}{_ENDINGS.get(family.type, '')}": family for family in metrics.collect()}


def rows() -> dict[str, list[str]]:
    """Name -> kind, labels, unit, meaning."""
    found = re.findall(r"^\| `(\w+)` \| ((?:gauge|counter|histogram) \|.*) \|$", PAGE, re.MULTILINE)
    assert len(dict(found)) == len(found)
    return {name: [cell.strip() for cell in row.split("|", 3)] for name, row in found}


def test_every_metric_has_a_row_and_every_row_a_metric() -> None:
    assert rows().keys() == families().keys()


@pytest.mark.parametrize("name", sorted(families()))
def test_a_row_has_kind_labels_and_unit_of_its_metric(name: str) -> None:
    family, (kind, labels, unit, what) = families()[name], rows()[name]
    assert kind == family.type
    assert set(re.findall(r"`(\w+)`", labels)) == set(family._labelnames)  # type: ignore[attr-defined]
    assert unit == next((unit for end, unit in UNITS.items() if name.endswith(end)), unit)
    assert unit
    assert what.endswith(".")


def queries() -> list[str]:
    section = PAGE.partition("\n## Queries")[2].partition("\n## ")[0]
    return [query.replace("\\|", "|") for query in re.findall(r"\| `(.+)` \|$", section, re.MULTILINE)]


@pytest.mark.parametrize("query", queries())
def test_a_query_asks_for_metrics_and_labels_that_there_are(query: str) -> None:
    assert Query(query).metrics
    assert Query(query).faults == []


def test_the_table_of_alerts_is_that_of_the_file() -> None:
    told = re.findall(r"^\| `(Gateway\w+)` \| (\w+) \| (\w+) \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)
    assert told == [(rule["alert"], rule["labels"]["severity"], rule["for"]) for rule in alerts()]


def test_the_dashboard_has_the_rows_that_are_told() -> None:
    (sentence,) = re.findall(r"The dashboard has the rows (.*?), and choices", PAGE, re.DOTALL)
    told = re.findall(r"\*([^*]+)\*", sentence.replace("\n", " "))
    assert told == [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]


def test_every_attribute_of_spans_and_metrics_is_documented_and_none_that_is_gone() -> None:
    sent = set(re.findall(r'"((?:gen_ai|gateway|http|error)\.[a-z_.]+)"', TELEMETRY))
    told = set(re.findall(r"`((?:gen_ai|gateway|http|error)\.[a-z_.]+)`", PAGE))
    assert told == sent
