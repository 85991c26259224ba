"""What the files of deploy/ say, read without the programs they are written for."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
HELM = DEPLOY / "helm"
README = (ROOT / "README.md").read_text()

_VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600}
_BYTES = {"k": 2**10, "m": 2**20, "g": 2**30}

# Metrics of a gateway of several processes, with what they are told apart by.
_OF_PROCESSES = {
    "gateway_degraded": {"what"},
    "gateway_instances": set[str](),
    "gateway_is_leader": set[str](),
    "gateway_spooled_settles": set[str](),
}
SCRAPED_LABELS = {"job", "instance", "worker"}
"""What Prometheus adds, and what tells the processes of one address apart."""


def seconds(text: object) -> float:
    """`75s`, `5m` or `30`."""
    found = re.fullmatch(r"([0-9.]+)(ms|s|m|h)?", str(text))
    assert found, text
    return float(found[1]) * _SECONDS[found[2] or "s"]


def size_bytes(text: str) -> int:
    """`33m`, as nginx writes it."""
    return int(text[:-1]) * _BYTES[text[-1]] if text[-1] in _BYTES else int(text)


# Compose


@cache
def compose() -> dict[str, Any]:
    """As written, anchors resolved, variables not."""
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def gateways() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in compose()["services"].items() if name.startswith("gateway")}


class VariableMissing(Exception):
    """Where Compose would refuse."""


def filled_in(text: str, variables: Mapping[str, str]) -> str:
    """With `${NAME}`, `${NAME:-default}` and `${NAME:?message}` replaced as Compose does."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if variables.get(name):
            return variables[name]
        if kind == ":?":
            raise VariableMissing(name)
        return rest or "" if kind == ":-" else ""

    return _VARIABLE.sub(value, text)


def variables_of(text: str) -> dict[str, set[str]]:
    """The kinds of use of each variable: `:?` (needed), `:-` (with a default) or none."""
    found: dict[str, set[str]] = {}
    for name, kind, _ in _VARIABLE.findall(text):
        found.setdefault(name, set()).add(kind)
    return found


def env_file(path: Path, *, with_comments: bool = False) -> dict[str, str]:
    """`NAME=value` lines; those behind a `#` too, if asked."""
    pattern = r"^#?([A-Z][A-Z0-9_]*)=(.*)$" if with_comments else r"^([A-Z][A-Z0-9_]*)=(.*)$"
    return dict(re.findall(pattern, path.read_text(), re.MULTILINE))


# nginx


def nginx_directives() -> list[tuple[tuple[str, ...], list[str]]]:
    """Every directive, with the blocks around it: `(("http", "upstream gateways"), ["keepalive", "256"])`."""
    text = re.sub(r"(?m)^\s*#.*$", "", (DEPLOY / "nginx.conf").read_text())
    tokens = re.findall(r"'[^']*'|\"[^\"]*\"|[{};]|[^\s{};'\"]+", text)
    found: list[tuple[tuple[str, ...], list[str]]] = []
    blocks: list[str] = []
    words: list[str] = []
    for token in tokens:
        if token == ";":
            assert words, "a semicolon that ends nothing"
            found.append((tuple(blocks), words))
            words = []
        elif token == "{":
            blocks.append(" ".join(words))
            words = []
        elif token == "}":
            assert not words, f"no semicolon after {words}"
            blocks.pop()
        else:
            words.append(token.strip("'\""))
    assert not blocks
    assert not words
    return found


def nginx_value(name: str, within: str = "") -> list[str]:
    """The words after the one directive `name` in a block that begins with `within`."""
    (words,) = [
        words[1:]
        for blocks, words in nginx_directives()
        if words[0] == name and (not within or blocks[-1].startswith(within))
    ]
    return words


# Helm


@cache
def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((HELM / "values.yaml").read_text())
    return loaded


@cache
def values_schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((HELM / "values.schema.json").read_text())
    return loaded


@cache
def templates() -> dict[str, str]:
    """Without their comments."""
    return {
        path.name: re.sub(r"\{\{-?\s*/\*.*?\*/\s*-?\}\}", "", path.read_text(), flags=re.DOTALL)
        for path in sorted((HELM / "templates").iterdir())
    }


def actions(text: str) -> list[str]:
    """What stands between double braces."""
    return [action.strip() for action in re.findall(r"\{\{-?(.*?)-?\}\}", text, re.DOTALL)]


def used_values() -> set[str]:
    """The dotted paths after `.Values` in all templates."""
    return {
        path
        for text in templates().values()
        for action in actions(text)
        for path in re.findall(r"\$?\.Values\.([\w.]+)", action)
    }


def paths(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted path of `tree` with what it leads to."""
    for name, value in tree.items():
        yield f"{before}{name}", value
        if isinstance(value, dict):
            yield from paths(value, f"{before}{name}.")


def pod_environment() -> set[str]:
    """The settings that the pod's template itself gives."""
    return set(re.findall(r"- name: (GATEWAY_\w+)", templates()["_pod.tpl"])) | set(
        re.findall(r'"(GATEWAY_\w+)"', templates()["_pod.tpl"])
    )


# Metrics


@cache
def metric_labels() -> dict[str, set[str]]:
    """Every series a gateway has, by name, with its labels. The table is kept true by the tests of the documentation."""
    table = (ROOT / "docs" / "ledger.md").read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    found: dict[str, set[str]] = {name: set(labels) for name, labels in _OF_PROCESSES.items()}
    for line in table.splitlines():
        cells = line.split("|")
        name = re.search(r"`(\w+)`", cells[1]) if line.startswith("| `") else None
        if name is None:
            continue
        labels = set(re.findall(r"`(\w+)`", cells[3])) - {"worker"}
        if cells[2].strip() == "histogram":
            found |= {f"{name[1]}{end}": labels for end in ("_sum", "_count")} | {f"{name[1]}_bucket": labels | {"le"}}
        else:
            found[name[1]] = labels
    return found


def alerts() -> list[dict[str, Any]]:
    loaded = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    return [rule for group in loaded["groups"] for rule in group["rules"]]


@cache
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    return loaded


def queries() -> dict[str, str]:
    """Every expression of the alerts and the dashboard, by where it stands."""
    told = {f"alert {rule['alert']}": rule["expr"] for rule in alerts()}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            told[f"panel {panel['id']} {panel['title']} {target['refId']}"] = target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            (query,) = re.findall(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            told[f"variable {variable['name']}"] = f"count by ({query[1]}) ({query[0]})"
    return told


_PROMQL_WORDS = set(
    "sum max min count rate increase delta absent and on by histogram_quantile last_over_time up".split()  # functions, operators
)


class Query:
    """The names in a PromQL expression of the kinds that stand in these files."""

    def __init__(self, text: str) -> None:
        self.matchers: list[tuple[str, str]] = re.findall(r"(\w+)\s*[=!]~?\s*\"([^\"]*)\"", text)
        bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", text)
        self.grouped = {
            label.strip() for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", bare) for label in group.split(",")
        }
        bare = re.sub(r"\b(by|on) \([^)]*\)", "", bare)
        self.metrics = set(re.findall(r"\b[a-z_]\w*\b", bare)) - _PROMQL_WORDS
        self.labels = self.grouped | {label for label, _ in self.matchers}
