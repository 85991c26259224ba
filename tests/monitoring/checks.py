"""Everything that can be said of the files, a sentence for each fault: what `python -m tests.monitoring` prints."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.monitoring import files, grafana, rules
from tests.monitoring.promql import Query, filled_in
from tests.rig.environment import inherited

__all__ = ["all_faults", "dashboard_faults", "documentation_faults", "example_faults", "promtool_faults"]

_PROMTOOL = (
    ("check", "rules", files.ALERTS.name),
    ("check", "config", "--syntax-only", files.SCRAPE.name),
    ("test", "rules", files.EXAMPLES.name),
)
_WITHIN_S = 60.0
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard_faults(dashboard: dict[str, Any]) -> list[str]:
    """Of its form, and where that is right, of what it asks and says."""
    return grafana.faults(dashboard) or [*_faults_of_queries(dashboard), *_faults_of_words(dashboard)]


def all_faults() -> list[str]:
    """Of the files as they are, by everything but promtool."""
    return [
        *(f"{files.DASHBOARD.name}: {fault}" for fault in dashboard_faults(files.dashboard())),
        *(f"{files.ALERTS.name}: {fault}" for fault in rules.faults(files.rules())),
        *(f"{files.EXAMPLES.name}: {fault}" for fault in example_faults(files.examples())),
        *documentation_faults(files.documented()),
    ]


def example_faults(examples: list[dict[str, Any]]) -> list[str]:
    """Of the tests of alerts: they give what a scrape may have, and every alert is raised by one of them."""
    asked = [one for test in examples for one in test["alert_rule_test"]]
    raised = {one["alertname"] for one in asked if one.get("exp_alerts")}
    known = {rule["alert"] for rule in files.alerts()}
    return [
        *(fault for test in examples for fault in rules.series_faults(test)),
        *(f"{name} is raised in no example" for name in sorted(known - raised)),
        *(f"{name} is no alert" for name in sorted({one["alertname"] for one in asked} - known)),
    ]


def documentation_faults(told: dict[str, str]) -> list[str]:
    """Of expressions in the documentation, by where they stand."""
    found = []
    for where, text in told.items():
        try:
            found += [f"{where}: {fault}" for fault in Query(text).faults]
        except ValueError as problem:
            found.append(f"{where}: not PromQL: {problem}")
    return found


def promtool_faults(program: Path, folder: Path = files.PROMETHEUS) -> Iterator[str]:
    """What promtool says of a folder's files, where it says no; the quickest questions first."""
    for words in _PROMTOOL:
        done = subprocess.run(
            [program, *words],
            cwd=folder,
            env=inherited(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=False,
        )
        if done.returncode:
            yield f"promtool {' '.join(words)}: {done.stdout}{done.stderr}"


def _faults_of_queries(dashboard: dict[str, Any]) -> Iterator[str]:
    variables = files.variables(dashboard)
    asked = [(f"variable {name}", text, "") for name, text in variables.items() if text]
    asked += [
        (where, target["expr"], target.get("legendFormat", "")) for where, target in files.targets(dashboard).items()
    ]
    for where, text, legend in asked:
        try:
            query = Query(filled_in(text, variables.keys()))
        except KeyError as stranger:
            yield f"{where}: nobody chooses the variable {stranger}"
        except ValueError as problem:
            yield f"{where}: not PromQL: {problem}"
        else:
            yield from (f"{where}: {fault}" for fault in query.faults)
            told = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", legend))
            yield from (f"{where}: {name} of the legend is always empty" for name in sorted(told - query.labels))


def _faults_of_words(dashboard: dict[str, Any]) -> Iterator[str]:
    """Of what stands around the numbers: whose they are, and in what unit."""
    for panel in files.panels(dashboard):
        where = f"panel {panel['id']} {panel['title']}"
        unit = panel["fieldConfig"]["defaults"].get("unit")
        if not panel.get("description"):
            yield f"{where}: no description"
        if unit not in grafana.UNITS:
            yield f"{where}: {unit} is no unit of Grafana's"
        if any(asks.get("datasource") != _SOURCE for asks in (panel, *panel["targets"])):
            yield f"{where}: it does not ask the data source that was chosen"
        for text in (target["expr"] for target in panel["targets"]):
            if ("_nano_usd" in text, "/ 1e9" in text) != (unit == "currencyUSD",) * 2:
                yield f"{where}: money is shown in currencyUSD, of nano-dollars by / 1e9, and nothing else is"
            if ("_seconds" in text) != (unit == "s"):
                yield f"{where}: what is measured in seconds is shown in s, and nothing else is"
