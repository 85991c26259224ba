"""The OpenAPI document as a template can show it: operations by group, fields as rows, an example as a command."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

__all__ = ["Group", "Row", "Shown", "api_groups"]

_BASE = "http://127.0.0.1:8000"
_KEYS = {"virtualKey": "$KEY", "adminKey": "$ADMIN_KEY"}


class Row(NamedTuple):
    name: str
    kind: str
    description: str
    is_required: bool


class Shown(NamedTuple):
    anchor: str
    method: str
    path: str
    summary: str
    description: str
    who: str
    parameters: list[Row]
    body: list[Row]
    body_type: str
    status: str
    answer_type: str
    answer_note: str
    answer: list[Row]
    example: str
    errors: list[tuple[str, list[str]]]


class Group(NamedTuple):
    title: str
    anchor: str
    description: str
    operations: list[Shown]


def api_groups(document: Mapping[str, Any]) -> list[Group]:
    """In the order of the document's tags."""
    found: dict[str, list[Shown]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            found[operation["tags"][0]].append(_shown(document, method.upper(), path, operation))
    return [
        Group(tag["name"], _anchor(tag["name"]), tag["description"], found[tag["name"]]) for tag in document["tags"]
    ]


def _shown(document: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> Shown:
    body = operation.get("requestBody", {}).get("content", {})
    status, answer = next((status, each) for status, each in operation["responses"].items() if status < "300")
    schema = next(iter(answer["content"].values())).get("schema", {})
    return Shown(
        _anchor(f"{method} {path}"),
        method,
        path,
        operation["summary"],
        operation["description"],
        _who(operation),
        [
            Row(each["name"], _in(each), each["description"], each.get("required", False))
            for each in operation["parameters"]
        ],
        _fields(document, next(iter(body.values()))["schema"]) if body else [],
        " or ".join(body),
        status,
        " or ".join(answer["content"]),
        answer["description"],
        _fields(document, schema),
        _example(method, path, operation, body),
        [(status, each["x-codes"]) for status, each in operation["responses"].items() if "x-codes" in each],
    )


def _who(operation: Mapping[str, Any]) -> str:
    schemes = {name for each in operation["security"] for name in each}
    if "adminKey" in schemes:
        return f"Admin key with the role {' or '.join(operation['x-roles'])}."
    return "Virtual key." if schemes else "No key."


def _in(parameter: Mapping[str, Any]) -> str:
    return f"{parameter['in']}, {_kind(parameter['schema'])}"


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any]) -> list[Row]:
    schema = _resolved(document, schema)
    required = schema.get("required", ())
    return [
        Row(name, _kind(each), _resolved(document, each).get("description", ""), name in required)
        for name, each in schema.get("properties", {}).items()
    ]


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: Mapping[str, Any] = document["components"]["schemas"][name] if name else schema
    return found


def _kind(schema: Mapping[str, Any]) -> str:
    """In a few words: `integer 1 to 100`, `array of Entry`, `one of a, b`."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"] if value is not None)
    if "const" in schema:
        return f"`{schema['const']}`"
    kinds = schema.get("type", "any")
    shown = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    if "items" in schema:
        return f"{shown} of {_kind(schema['items'])}"
    if "minimum" in schema and "maximum" in schema:
        return f"{shown} {schema['minimum']} to {schema['maximum']}"
    return shown


def _example(method: str, path: str, operation: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    """A command of curl; empty where the body is a form or no example is given."""
    media: Mapping[str, Any] = next(iter(body.values()), {})
    if body and "example" not in media and operation["requestBody"]["required"]:
        return ""
    key = next((_KEYS[name] for each in operation["security"] for name in each if name in _KEYS), None)
    needed = [each["name"] for each in operation["parameters"] if each["in"] == "query" and each["required"]]
    if needed or "{" in path:
        return ""
    words = ["curl -sS", *([f"-X {method}"] if method not in ("GET", "POST") else []), f"{_BASE}{path}"]
    words += [] if key is None else [f'-H "Authorization: Bearer {key}"']
    if "example" in media:
        words.append(f"\\\n  -d '{orjson.dumps(media['example']).decode()}'")
    elif method == "POST":
        words.append("-X POST")
    return " ".join(words)


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
