"""A JSON schema as OpenAI's clients write it -> one that Gemini enforces. Pure.

Gemini takes JSON Schema (`responseJsonSchema`, `parametersJsonSchema`) and ignores the keywords it does not know
(ai.google.dev/gemini-api/docs/structured-output, read 2026-11-21). One of these matters: `const`, by which pydantic and
zod tell the members of a union apart. It says the same as an `enum` of one. `$schema` names a dialect and constrains
nothing, so it is left out. Everything else is sent as it came.
"""

from typing import Any

__all__ = ["adapt"]

_SCHEMAS = frozenset("items additionalProperties not contains if then else propertyNames".split())
"""Keywords whose value is a schema."""
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_MAPS = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})
"""Keywords whose value has a schema under each of its names: a property may well be called `const`."""


def adapt(schema: Any) -> Any:
    """The schema as Gemini gets it. What is no schema is returned as it is: the provider says what is wrong with it."""
    if not isinstance(schema, dict):
        return schema
    adapted: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword == "const":
            adapted.setdefault("enum", [value])
        elif keyword in _SCHEMAS:
            adapted[keyword] = adapt(value)
        elif keyword in _LISTS and isinstance(value, list):
            adapted[keyword] = list(map(adapt, value))
        elif keyword in _MAPS and isinstance(value, dict):
            adapted[keyword] = dict(zip(value, map(adapt, value.values()), strict=True))
        elif keyword != "$schema":
            adapted[keyword] = value
    return adapted
