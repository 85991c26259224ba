"""Functions that each store spells in its own way, for statements that run on all of them."""

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["bytes_of", "json_items", "json_text"]


class bytes_of(FunctionElement[int]):  # noqa: N801 -- named as what it is in SQL
    """The size of a text in UTF-8; its length alone would be that of its characters."""

    type = BigInteger()
    inherit_cache = True

    def __init__(self, text: ColumnElement[str]) -> None:
        super().__init__(text)


class _OfKey(FunctionElement[Any]):
    inherit_cache = False  # `key` is part of the SQL

    def __init__(self, text: ColumnElement[str], key: str) -> None:
        if not key.isidentifier():
            raise ValueError(f"not a key that may be written into SQL: {key}")
        super().__init__(text)
        self.key_in_json = key


class json_text(_OfKey):  # noqa: N801
    """What stands under one key of a JSON object that is kept as text; null where it has no such key.

    A number comes as the store has it, a number or a text: cast it.
    """

    type = Text()


class json_items(_OfKey):  # noqa: N801
    """A row (`value`, `type`) for each item of the list under one key of a JSON object that is kept as text.

    The `value` of an object is its JSON as text, and its `type` is `object`. To be joined as a table.
    """


@compiles(bytes_of, "sqlite")
def _(function: bytes_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"length(CAST({compiler.process(function.clauses, **options)} AS BLOB))"


@compiles(bytes_of, "postgresql")
def _(function: bytes_of, compiler: SQLCompiler, **options: Any) -> str:
    return f"octet_length({compiler.process(function.clauses, **options)})"


@compiles(json_text, "sqlite")
def _(function: json_text, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_extract({compiler.process(function.clauses, **options)}, '$.{function.key_in_json}')"


@compiles(json_text, "postgresql")
def _(function: json_text, compiler: SQLCompiler, **options: Any) -> str:
    text = compiler.process(function.clauses, **options)
    return f"(NULLIF({text}, '')::json ->> '{function.key_in_json}')"


@compiles(json_items, "sqlite")
def _(function: json_items, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(function.clauses, **options)}, '$.{function.key_in_json}')"


@compiles(json_items, "postgresql")
def _(function: json_items, compiler: SQLCompiler, **options: Any) -> str:
    found = f"NULLIF({compiler.process(function.clauses, **options)}, '')::json -> '{function.key_in_json}'"
    items = f"CASE WHEN json_typeof({found}) = 'array' THEN {found} ELSE '[]'::json END"
    return (
        "LATERAL (SELECT item.value::text AS value, json_typeof(item.value) AS type "  # noqa: S608 -- see `_OfKey`
        f"FROM json_array_elements({items}) AS item(value))"
    )
