"""JSON schemas of OpenAI's callers -> the part of JSON Schema that Anthropic enforces. Pure.

Anthropic refuses objects that are not closed, and bounds it cannot enforce. What it takes is what `transform_schema` of
its Python package (anthropic 2.11.0, read 2026-11-21) leaves standing: as there, objects are closed, `oneOf` becomes
`anyOf`, and every other constraint moves into the description, where the model at least reads it.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from gateway.request_fields import wrong

__all__ = ["adapt"]

_DEPTH_MAX: Final = 64
_KEPT: Final = frozenset({"type", "$ref", "enum", "const", "title", "required"})
_MAPS: Final = frozenset({"properties", "$defs", "definitions"})
_LISTS: Final = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
_FORMATS: Final = frozenset("date-time time date duration email hostname uri ipv4 ipv6 uuid".split())
_SILENT: Final = frozenset({"description", "additionalProperties", "$schema", "$id"})


def adapt(schema: Mapping[str, Any], field: str) -> dict[str, Any]:
    """The schema as Anthropic takes it. `field` is its name to the caller. Raises `RequestError` for what would mean
    something else: objects with keys of any name, and nesting beyond 64 levels."""
    return _adapted(schema, field, 0)


def _adapted(schema: Mapping[str, Any], field: str, depth: int) -> dict[str, Any]:
    if depth > _DEPTH_MAX:
        raise wrong(field, f"must not be nested more than {_DEPTH_MAX} levels deep")

    def below(one: Any) -> Any:
        return _adapted(one, field, depth + 1) if isinstance(one, dict) else one

    adapted: dict[str, Any] = {}
    hints: list[str] = []
    for key, value in schema.items():
        if key in _KEPT or (key == "format" and value in _FORMATS) or (key == "minItems" and value in (0, 1)):
            adapted[key] = value
        elif key in _MAPS and isinstance(value, dict):
            adapted[key] = {name: below(one) for name, one in value.items()}
        elif key in _LISTS and isinstance(value, list):
            adapted[_LISTS[key]] = [below(one) for one in value]
        elif key == "items":
            adapted[key] = below(value)
        elif key not in _SILENT:
            hints.append(f"{key}: {orjson.dumps(value).decode()}")
    if _is_object(schema):
        if schema.get("additionalProperties") not in (None, False):
            raise wrong(field, "must not allow additionalProperties: this model's objects are closed")
        adapted.setdefault("properties", {})
        adapted["additionalProperties"] = False
    if description := "\n\n".join(filter(None, (_text(schema.get("description")), ", ".join(hints)))):
        adapted["description"] = description
    return adapted


def _is_object(schema: Mapping[str, Any]) -> bool:
    kind = schema.get("type")
    return kind == "object" or (isinstance(kind, list) and "object" in kind) or "properties" in schema


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
