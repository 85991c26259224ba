"""The words operations are described in: parts of JSON Schema, parameters, bodies, answers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gateway.openapi.errors import Code

__all__ = [
    "Answer",
    "Body",
    "Operation",
    "array",
    "boolean",
    "choice",
    "integer",
    "listing",
    "nullable",
    "number",
    "query",
    "record",
    "ref",
    "text",
    "whatever",
]

Schema = dict[str, Any]


class Body(NamedTuple):
    schema: Schema
    types: tuple[str, ...] = ("application/json",)
    is_required: bool = True


class Answer(NamedTuple):
    description: str
    schema: Schema
    status: int = 200
    types: tuple[str, ...] = ("application/json",)
    """The first has the schema."""


class Operation(NamedTuple):
    method: str
    path: str
    tag: str
    summary: str
    description: str
    answer: Answer
    codes: tuple[Code, ...]
    security: tuple[str, ...] = ()
    parameters: tuple[Schema, ...] = ()
    body: Body | None = None
    roles: tuple[str, ...] = ()
    example: Any = None
    """A body."""


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def text(description: str = "", **more: Any) -> Schema:
    return _typed("string", description, more)


def integer(description: str = "", **more: Any) -> Schema:
    return _typed("integer", description, more)


def number(description: str = "", **more: Any) -> Schema:
    return _typed("number", description, more)


def boolean(description: str = "", **more: Any) -> Schema:
    return _typed("boolean", description, more)


def choice(values: Sequence[str], description: str = "", **more: Any) -> Schema:
    return _typed("string", description, {"enum": list(values), **more})


def array(items: Schema, description: str = "", **more: Any) -> Schema:
    return _typed("array", description, {"items": items, **more})


def whatever(description: str = "") -> Schema:
    return {"description": description} if description else {}


def nullable(schema: Schema) -> Schema:
    if "type" not in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    made = {**schema, "type": [schema["type"], "null"]}
    if "enum" in made:
        made["enum"] = [*made["enum"], None]
    return made


def record(
    fields: Mapping[str, Schema], description: str = "", *, required: Sequence[str] | None = None, is_open: bool = False
) -> Schema:
    """An object. All fields are always there unless `required` names those that are; `is_open`: others may be."""
    made = _typed("object", description, {"properties": dict(fields)})
    names = list(fields) if required is None else list(required)
    if names:
        made["required"] = names
    if is_open:
        made["additionalProperties"] = True
    return made


def listing(item: Schema, *, more: Mapping[str, Schema] | None = None) -> Schema:
    """A page: `data`, and `next_cursor` for the next one."""
    cursor = nullable(text("Send it as `cursor` for the next page; null on the last one."))
    return record({"data": array(item), **(more or {"next_cursor": cursor})}, is_open=True, required=["data"])


def query(name: str, description: str, schema: Schema | None = None, *, is_required: bool = False) -> Schema:
    return {
        "name": name,
        "in": "query",
        "description": description,
        "required": is_required,
        "schema": schema or {"type": "string"},
    }


def _typed(kind: str, description: str, more: Mapping[str, Any]) -> Schema:
    return {"type": kind, **({"description": description} if description else {}), **more}
