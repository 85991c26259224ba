"""The connection that writes a file. Transactions begin and end where we say so.

One statement inserts up to 32 rows: it lets go of the interpreter's lock once, where `executemany` would do so for each
row, and wait for the event loop as often before it gets the lock back.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.engine import Dialect

from gateway.ledger.ballast import Ballast
from gateway.ledger.faults import Fault
from gateway.ledger.periods import now_ms
from gateway.ledger.sqlite.faults import fault_of
from gateway.ledger.statements import SQLITE, ManyRows, Row, Statement, compile_statement, upsert

__all__ = ["SqliteConnection"]

_log = structlog.get_logger()

BUSY_TIMEOUT_MS = 2_000
_CACHE_KIB = 8 * 1024
_CHECKPOINT_PAGES = 4_096
_WAL_BYTES_KEPT = 64 * 2**20
_STATEMENTS_KEPT = 256
_IDS_A_DELETE = 64
_ROWS_MAX = 32
"""Rows of one statement. Each number of rows is a statement of its own, and all of them stay compiled."""


class SqliteConnection:
    """`gateway.ledger.connection.Connection` for SQLite. `raw` is for what only a file has."""

    def __init__(self, path: Path, ballast: Ballast) -> None:
        self.raw = _connect(path)
        self._ballast = ballast
        self._is_full_sync = True

    @property
    def dialect(self) -> Dialect:
        return SQLITE

    @property
    def epoch(self) -> None:
        return None

    def now_ms(self) -> int:
        return now_ms()

    @property
    def clock_ahead_ms(self) -> int:
        return 0

    def begin(self, *, is_durable: bool) -> None:
        if is_durable is not self._is_full_sync:
            self.raw.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}").close()
            self._is_full_sync = is_durable
        self.raw.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.raw.execute("COMMIT")

    def receipt(self) -> str:
        """A commit to a file is never in doubt."""
        return ""

    def was_committed(self, receipt: str) -> bool:
        return False

    def rollback(self) -> None:
        if self.raw.in_transaction:
            self.raw.execute("ROLLBACK")

    def lock(self, name: str) -> None:
        """Nobody else writes."""

    def announce(self, text: str) -> None:
        """There is no other process to tell."""

    def rows(self, statement: Statement) -> list[Row]:
        cursor = self.raw.execute(statement.sql, statement.parameters)
        try:
            if cursor.description is None:
                return []
            return statement.rows([column[0] for column in cursor.description], cursor.fetchall())
        finally:
            cursor.close()

    def count(self, statement: Statement) -> int:
        return self.raw.execute(statement.sql, statement.parameters).rowcount

    def insert(self, many: ManyRows, rows: Sequence[Sequence[Any]]) -> None:
        texts = _texts(many)
        for start in range(0, len(rows), _ROWS_MAX):
            chunk = rows[start : start + _ROWS_MAX]
            self.raw.execute(texts[len(chunk) - 1], list(chain.from_iterable(chunk)))

    def count_deleted_holds(self, ids: Sequence[str]) -> int:
        deleted = 0
        for chunk in _chunks(ids):
            sql = f"DELETE FROM holds WHERE id IN ({_marks(chunk)})"  # noqa: S608 -- question marks only
            deleted += self.raw.execute(sql, chunk).rowcount
        return deleted

    def delete_holds(self, ids: Sequence[str]) -> list[str]:
        deleted: list[str] = []
        for chunk in _chunks(ids):
            sql = f"DELETE FROM holds WHERE id IN ({_marks(chunk)}) RETURNING id"  # noqa: S608 -- question marks only
            deleted += [row[0] for row in self.raw.execute(sql, chunk).fetchall()]
        return deleted

    def fault_of(self, exc: BaseException) -> Fault:
        return fault_of(exc)

    def make_room(self) -> None:
        self._ballast.drop()

    def recover(self) -> None:
        self._ballast.restore()

    def close(self) -> None:
        try:
            self.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
        except sqlite3.Error as exc:
            _log.warning("checkpoint_failed", error=str(exc))
        self.raw.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_STATEMENTS_KEPT,
        timeout=BUSY_TIMEOUT_MS / 1000,
    )
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "recursive_triggers = ON",  # else INSERT OR REPLACE deletes a row without asking the triggers
        f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
        f"journal_size_limit = {_WAL_BYTES_KEPT}",
        f"cache_size = -{_CACHE_KIB}",
        "temp_store = MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}").close()
    return connection


@cache
def _texts(many: ManyRows) -> Sequence[str]:
    """The statement for one row, for two, and so on."""
    one = upsert(many.table).values(dict.fromkeys(many.columns))
    if many.key:
        added = {name: many.table.c[name] + one.excluded[name] for name in many.sums}
        one = one.on_conflict_do_update(index_elements=list(many.key), set_=added)
    elif many.is_kept:
        one = one.on_conflict_do_nothing()
    # To be able to undo only this statement, SQLite would copy each page it changes to a journal beforehand.
    sql = compile_statement(one.prefix_with("OR ROLLBACK"), SQLITE).sql
    one_row = f"({', '.join('?' * len(many.columns))})"
    head, found, tail = sql.partition(f"VALUES {one_row}")
    if not found:
        raise ValueError(f"not an insert of one row: {sql}")
    return [f"{head}VALUES {', '.join([one_row] * size)}{tail}" for size in range(1, _ROWS_MAX + 1)]


def _chunks(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _IDS_A_DELETE] for start in range(0, len(ids), _IDS_A_DELETE))


def _marks(chunk: Sequence[str]) -> str:
    return ", ".join("?" * len(chunk))
