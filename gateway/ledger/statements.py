"""SQLAlchemy Core -> SQL and its values for a driver that is called directly, and rows -> dicts with Python's types.

SQLAlchemy writes the SQL for either store, the driver runs it: SQLAlchemy's own execution costs several times what SQLite
does. What may be told to both stores alike is told here; `gateway.ledger.sqlite` and `gateway.ledger.postgres` run it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Executable, Table
from sqlalchemy.dialects.postgresql import (
    insert as upsert,
)  # SQLite took its words, and SQLAlchemy writes them for both
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

__all__ = [
    "SQLITE",
    "ManyRows",
    "Prepared",
    "Row",
    "Rows",
    "Runnable",
    "Statement",
    "compile_statement",
    "many_rows",
    "upsert",
    "upsert_adding",
]

SQLITE: Dialect = sqlite_dialect(paramstyle="qmark")

Row = dict[str, Any]
Rows = Callable[[Any], Iterable[tuple[Any, ...]]]
"""Runs a query and gives its rows one after the other, all of one instant; values as the store has them."""
_Converter = Callable[[Any], Any]


class Statement(NamedTuple):
    """SQL, its values, and how what it returns becomes Python's types (None: as it is)."""

    sql: str
    parameters: tuple[Any, ...]
    converters: tuple[tuple[int, _Converter], ...] = ()

    def rows(self, columns: Sequence[str], fetched: Iterable[Sequence[Any]]) -> list[Row]:
        if not self.converters:
            return [dict(zip(columns, row, strict=True)) for row in fetched]
        found = []
        for row in fetched:
            values = list(row)
            for index, convert in self.converters:
                values[index] = convert(values[index])
            found.append(dict(zip(columns, values, strict=True)))
        return found


class Prepared:
    """A statement that runs often: compiled once for each store. Its `bindparam`s are given each time.

    Compiling takes several times as long as running a short statement, and calls wait meanwhile.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[SQLCompiler, tuple[tuple[int, _Converter], ...]]] = {}

    def bind(self, dialect: Dialect, values: Mapping[str, Any]) -> Statement:
        found = self._compiled.get(dialect.name)
        if found is None:
            compiled = _compile(self._statement, dialect)
            found = self._compiled[dialect.name] = compiled, _converters(compiled, dialect)
        compiled, converters = found
        return Statement(compiled.string, _parameters(compiled, values), converters)


Runnable = Executable | Statement
"""What a transaction executes: compiled for its store before, or on the spot."""


def compile_statement(statement: Runnable, dialect: Dialect) -> Statement:
    """Ready to run. Values are always bound, never written into the SQL."""
    if isinstance(statement, Statement):
        return statement
    compiled = _compile(statement, dialect)
    return Statement(compiled.string, _parameters(compiled, {}), _converters(compiled, dialect))


def _compile(statement: Executable, dialect: Dialect) -> SQLCompiler:
    compiled = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})  # type: ignore[attr-defined]
    assert isinstance(compiled, SQLCompiler)  # noqa: S101 -- every executable of Core compiles to one
    return compiled


def _parameters(compiled: SQLCompiler, given: Mapping[str, Any]) -> tuple[Any, ...]:
    binds = compiled._bind_processors
    values: Mapping[str, Any] = compiled.construct_params(given, escape_names=False)
    parameters = []
    for name in compiled.positiontup or ():
        bind: Any = binds.get(name)
        parameters.append(values[name] if bind is None else bind(values[name]))
    return tuple(parameters)


def _converters(compiled: SQLCompiler, dialect: Dialect) -> tuple[tuple[int, _Converter], ...]:
    found = []
    for index, column in enumerate(compiled._result_columns):
        convert: Any = column.type.dialect_impl(dialect).result_processor(dialect, None)
        if convert is not None:
            found.append((index, convert))
    return tuple(found)


class ManyRows:
    """An insert of rows whose values come in the order of `columns`; each store has its own way to run it fast.

    With a `key`, `sums` are added to those of a row that is there already; without one, such a row is a conflict, or, if
    it `is_kept`, stays as it is. Booleans come as 0 and 1.
    """

    def __init__(self, table: Table, columns: Sequence[str], *, key: Sequence[str] = (), is_kept: bool = False) -> None:
        self.table = table
        self.is_kept = is_kept
        self.columns = tuple(columns)
        self.key = tuple(key)

    @property
    def sums(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name not in self.key)


def many_rows(table: Table, *, is_kept: bool = False) -> ManyRows:
    """Inserts of whole rows into `table`. A row that is refused takes the whole transaction back."""
    return ManyRows(table, [column.name for column in table.columns], is_kept=is_kept)


def upsert_adding(table: Table, key: Sequence[str], sums: Sequence[str]) -> ManyRows:
    """Inserts of `(*key, *sums)` into `table` that add to the sums of a row already there."""
    return ManyRows(table, [*key, *sums], key=key)
