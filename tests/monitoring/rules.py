"""Files of alerting rules as Prometheus takes them: known fields only, durations, names of labels, and texts that fill in.

Prometheus refuses a whole file for one unknown field. What it takes and then never uses, or shows empty, is found here
too: a query that asks for what no scrape has (`promql`), and a text that tells a label its alert does not have.
The fields are those of Prometheus 2.42 to 3 (its page on alerting rules, 2026-11-21) that stand in an alert.
"""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs

from tests.monitoring.promql import Query

__all__ = ["faults", "series_faults"]

_DURATION = {"type": "string", "pattern": r"^(0|(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?)$", "minLength": 1}
_TEXTS = {
    "type": "object",
    "propertyNames": {"pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"},
    "additionalProperties": {"type": "string", "minLength": 1},
}
_ALERT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["alert", "expr"],
    "properties": {
        "alert": {"type": "string", "minLength": 1},
        "expr": {"type": "string", "minLength": 1},
        "for": _DURATION,
        "keep_firing_for": _DURATION,
        "labels": _TEXTS,
        "annotations": _TEXTS,
    },
}
_GROUP = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "rules"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "interval": _DURATION,
        "limit": {"type": "integer", "minimum": 0},
        "rules": {"type": "array", "minItems": 1, "items": _ALERT},
    },
}
_FILE = jsonschema_rs.validator_for(
    {
        "type": "object",
        "additionalProperties": False,
        "required": ["groups"],
        "properties": {"groups": {"type": "array", "minItems": 1, "items": _GROUP}},
    }
)

# An action of a text: a label or the value, through functions of Prometheus' templates.
_VALUE = r"(?:\$value|printf \"%[-+ 0#]*\d*(?:\.\d+)?[efg]\" \$value)"
_FUNCTION = r"\| (?:humanize|humanize1024|humanizeDuration|humanizePercentage|humanizeTimestamp|title|toUpper|toLower)"
_ACTION = re.compile(rf"(?:\$labels\.(\w+)|{_VALUE})(?: {_FUNCTION})*")


def faults(rules: Any) -> list[str]:
    """What is wrong with a file of alerts, as loaded; nothing for one that Prometheus takes and that can be raised."""
    found = [f"/{'/'.join(map(str, error.instance_path))}: {error.message}" for error in _FILE.iter_errors(rules)]
    return found or list(_faults_of_groups(rules["groups"]))


def _faults_of_groups(groups: list[dict[str, Any]]) -> Iterator[str]:
    names = [group["name"] for group in groups]
    yield from (f"{name}: two groups are called so" for name in set(names) if names.count(name) > 1)
    alerts = [rule for group in groups for rule in group["rules"]]
    called = [rule["alert"] for rule in alerts]
    yield from (f"{name}: two alerts are called so" for name in set(called) if called.count(name) > 1)
    for rule in alerts:
        yield from (f"{rule['alert']}: {fault}" for fault in _faults_of_alert(rule))


def _faults_of_alert(rule: dict[str, Any]) -> Iterator[str]:
    try:
        query = Query(rule["expr"])
    except ValueError as problem:
        yield f"not PromQL: {problem}"
        return
    yield from query.faults
    for text in (*rule.get("labels", {}).values(), *rule.get("annotations", {}).values()):
        yield from _faults_of_text(text, query.labels)


def _faults_of_text(text: str, labels: frozenset[str]) -> Iterator[str]:
    pieces = re.split(r"\{\{-? *(.*?) *-?\}\}", text)
    if any("{{" in piece or "}}" in piece for piece in pieces):
        yield f"braces without their like in {text!r}"
    for action in pieces[1::2]:
        found = _ACTION.fullmatch(action)
        if found is None:
            yield f"{action!r} is no label, no value, or goes through an unknown function"
        elif found[1] and found[1] not in labels:
            yield f"{action!r} is always empty: the result has {sorted(labels)}"


def series_faults(example: dict[str, Any]) -> list[str]:
    """What the series of one test of the alerts have that no scrape has."""
    return [
        f"{series['series']}: {fault}" for series in example["input_series"] for fault in Query(series["series"]).faults
    ]
