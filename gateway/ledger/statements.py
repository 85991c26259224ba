"""SQLAlchemy Core -> SQL with `?` for the sqlite3 module, and rows -> dicts with Python's types.

SQLAlchemy writes the SQL, plain sqlite3 runs it: its own execution costs several times what SQLite does.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import Executable, Insert, Table, insert
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["ManyRows", "Statement", "compile_statement", "many_rows", "upsert_adding"]

_DIALECT: Dialect = sqlite_dialect(paramstyle="qmark")
_ROWS_MAX = 32
"""Rows of one statement. Each number of rows is a statement of its own, and all of them stay compiled."""
Row = dict[str, Any]
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

    def run(self, connection: sqlite3.Connection) -> list[Row]:
        """Execute, and return what it returned: a `select`, or a write with `returning`."""
        cursor = connection.execute(self.sql, self.parameters)
        try:
            if cursor.description is None:
                return []
            return self.rows([column[0] for column in cursor.description], cursor.fetchall())
        finally:
            cursor.close()


def compile_statement(statement: Executable) -> Statement:
    """Ready to run. Values are always bound, never written into the SQL."""
    compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})  # type: ignore[attr-defined]
    assert isinstance(compiled, SQLCompiler)  # noqa: S101 -- every executable of Core compiles to one
    binds = compiled._bind_processors
    values: Mapping[str, Any] = compiled.construct_params(escape_names=False)
    parameters = []
    for name in compiled.positiontup or ():
        bind: Any = binds.get(name)
        parameters.append(values[name] if bind is None else bind(values[name]))
    return Statement(compiled.string, tuple(parameters), _converters(compiled))


def _converters(compiled: SQLCompiler) -> tuple[tuple[int, _Converter], ...]:
    found = []
    for index, column in enumerate(compiled._result_columns):
        convert: Any = column.type.dialect_impl(_DIALECT).result_processor(_DIALECT, None)
        if convert is not None:
            found.append((index, convert))
    return tuple(found)


class ManyRows:
    """An INSERT for rows of values in the order of `columns`, compiled once for each number of rows up to 32.

    One statement for 32 rows lets go of the interpreter's lock once; `executemany` would do so for each row, and wait for
    the event loop as often before it gets the lock back.
    """

    def __init__(self, statement: Insert, columns: Sequence[str]) -> None:
        sql = compile_statement(statement).sql
        one_row = f"({', '.join('?' * len(columns))})"
        head, found, tail = sql.partition(f"VALUES {one_row}")
        if not found:
            raise ValueError(f"not an insert of one row: {sql}")
        self._sql = [f"{head}VALUES {', '.join([one_row] * size)}{tail}" for size in range(1, _ROWS_MAX + 1)]

    def run(self, connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> None:
        for start in range(0, len(rows), _ROWS_MAX):
            chunk = rows[start : start + _ROWS_MAX]
            connection.execute(self._sql[len(chunk) - 1], list(chain.from_iterable(chunk)))


def many_rows(table: Table) -> ManyRows:
    """Plain inserts of whole rows into `table`. A row that is refused takes the whole transaction back."""
    columns = [column.name for column in table.columns]
    return ManyRows(_or_rollback(insert(table).values(dict.fromkeys(columns))), columns)


def upsert_adding(table: Table, key: Sequence[str], sums: Sequence[str]) -> ManyRows:
    """Inserts of `(*key, *sums)` into `table` that add to the sums of a row already there."""
    columns = [*key, *sums]
    one = sqlite_insert(table).values(dict.fromkeys(columns))
    added = one.on_conflict_do_update(
        index_elements=list(key), set_={name: table.c[name] + one.excluded[name] for name in sums}
    )
    return ManyRows(_or_rollback(added), columns)


def _or_rollback(statement: Insert) -> Insert:
    """To be able to undo only this statement, SQLite would copy each page it changes to a journal beforehand."""
    return statement.prefix_with("OR ROLLBACK", dialect="sqlite")
