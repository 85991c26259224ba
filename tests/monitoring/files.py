"""What stands in deploy/prometheus and deploy/grafana, and every PromQL expression of the project by where it stands."""

import json
import re
from functools import cache
from typing import Any

import yaml  # type: ignore[import-untyped]

from tests.rig.environment import REPOSITORY

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
ALERTS = PROMETHEUS / "alerts.yml"
EXAMPLES = PROMETHEUS / "alerts.test.yml"
SCRAPE = PROMETHEUS / "scrape.yaml"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "dashboard.json"
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))

_LABEL_VALUES = re.compile(r"label_values\((.+), (\w+)\)")
_ASKS = re.compile(r"\b(?:gateway|gen_ai)_\w+\s*(?:[{\[]|\)|[<>=!]=?\s*\d)")
_CODE = re.compile(r"^```(\w*)\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)


@cache
def rules() -> dict[str, Any]:
    """The file of alerts; not to be changed, like the other two."""
    loaded: dict[str, Any] = yaml.safe_load(ALERTS.read_text())
    return loaded


@cache
def examples() -> list[dict[str, Any]]:
    """The tests of the alerts, as promtool reads them."""
    loaded: list[dict[str, Any]] = yaml.safe_load(EXAMPLES.read_text())["tests"]
    return loaded


@cache
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def alerts() -> list[dict[str, Any]]:
    return [rule for group in rules()["groups"] for rule in group["rules"]]


def panels(of: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of a dashboard that show something, rows left out."""
    return [panel for panel in of["panels"] if panel["type"] != "row"]


def targets(of: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each panel asks, by where it stands."""
    return {
        f"panel {panel['id']} {panel['title']} {target['refId']}": target
        for panel in panels(of)
        for target in panel["targets"]
    }


def variables(of: dict[str, Any]) -> dict[str, str]:
    """What the user chooses on a dashboard, each with a query that has its values, or with nothing."""
    return {
        variable["name"]: _LABEL_VALUES.sub(r"count by (\2) (\1)", variable["query"]["query"])
        if variable["type"] == "query"
        else ""
        for variable in of["templating"]["list"]
    }


def documented() -> dict[str, str]:
    """Expressions in the code of the documentation, by page."""
    return {f"{page.name} {text}": text for page in PAGES for text in expressions_in(page.read_text())}


def expressions_in(page: str) -> list[str]:
    """Blocks marked `promql`, and spans in which a name like ours is selected from, called upon or compared; in a table, bars are escaped."""
    blocks = [(language, (block or span.replace("\\|", "|")).strip()) for language, block, span in _CODE.findall(page)]
    return [text for language, text in blocks if language == "promql" or (not language and _ASKS.search(text))]
