"""The ledger that is copied: a file of SQLite that nobody writes to meanwhile, read as of one instant.

Rows are read along their primary key, a few thousand at a time, so that a copy can go on behind any row. No table is held
in memory.
"""

import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Table, Text

from gateway.errors import ConfigError, StoreError
from gateway.ledger.copying.tables import TABLES, Identity, key_of
from gateway.ledger.ids import id_floor, ms_in
from gateway.ledger.migration import require_current
from gateway.ledger.periods import month_bounds_ms, now_ms, period_of
from gateway.ledger.postgres.link import storable
from gateway.ledger.schema import Flag
from gateway.ledger.sqlite.readers import read_only_uri

__all__ = ["Chunk", "Source", "Totals", "open_source"]

_BUSY_TIMEOUT_S = 10.0
_CHUNK_BYTES = 8 * 2**20
_FETCHED_AT_ONCE = 500
_LONG = frozenset({"body", "input", "answer"})
"""Columns that may hold megabytes. A chunk of such rows is cut by their size."""
_DERIVED = frozenset({"entries", "usage_daily", "usage_hourly"})
"""Entries are never changed, and the others move with them: their number says it all."""

Totals = dict[tuple[str, str], tuple[int, int, int, int]]
"""(month, creator) -> entries and the sums of cost, charge and payer amount."""


class Chunk(NamedTuple):
    """Rows for the target."""

    rows: list[tuple[Any, ...]]
    last: list[Any]
    """The key of the last one, as the source has it."""


class Source:
    """Open as long as `open_source` is entered. One thread at a time may use it. Raises `sqlite3.Error`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, watcher: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._watcher = watcher
        self._version = self._data_version()
        connection.execute("BEGIN").close()
        self.identity = self._identify()

    def require_quiet(self) -> None:
        """Raises `ConfigError` where calls are open."""
        open_calls = self.identity.counts["holds"]
        if open_calls:
            raise ConfigError(
                f"{self.path} has {open_calls} open calls, which only a gateway on it can end: start `gateway serve` "
                "there once more, which books those of a crash, stop it with SIGTERM, and copy then"
            )

    def require_unchanged(self) -> None:
        """Raises `ConfigError` when anybody has written to the file since it was opened."""
        if self._data_version() != self._version:
            raise ConfigError(
                f"something wrote to {self.path} during the copy: stop the gateway that uses it, and copy again, into an "
                "empty database"
            )

    def months(self) -> list[str]:
        """Those in which entries were posted, as `YYYY-MM`; none that is still to come."""
        found: list[str] = []
        behind, now = "", now_ms()
        while (first := self._one("SELECT min(id) FROM entries WHERE id >= ?", behind)) and ms_in(first) <= now:
            month = period_of(ms_in(first))[1]
            found.append(month)
            behind = id_floor(month_bounds_ms(month)[1])
        return found

    def chunks(self, table: Table, after: Sequence[Any] | None, rows_max: int) -> Generator[Chunk, None, None]:
        """The rows of `table` behind the key `after`, in the order of their keys, with values that PostgreSQL takes."""
        names, key = [column.name for column in table.columns], key_of(table)
        key_at = [names.index(name) for name in key]
        long_at = [index for index, name in enumerate(names) if name in _LONG]
        kinds = [column.type for column in table.columns]
        with closing(self._connection.execute(_select(table, names, key, is_first=after is None), after or ())) as rows:
            while fetched := _fetch(rows, rows_max, long_at):
                last = fetched[-1]
                yield Chunk(_converted(fetched, kinds), [last[index] for index in key_at])

    def totals(self) -> Totals:
        return {
            storable((month, creator)): (entries, cost, charge, amount)  # type: ignore[misc]
            for month, creator, entries, cost, charge, amount in self._connection.execute(
                "SELECT period_month, creator, count(*), sum(cost_nano_usd), sum(charge_nano_usd), sum(payer_amount) "
                "FROM entries GROUP BY period_month, creator"
            )
        }

    def _identify(self) -> Identity:
        counts = {str(table.name): self._one(f"SELECT count(*) FROM {table.name}") for table in TABLES}  # noqa: S608
        return Identity(
            secret_fingerprint=self._one("SELECT max(value) FROM meta WHERE key = 'secret_fingerprint'"),
            first_entry=self._one("SELECT min(id) FROM entries"),
            last_entry=self._one("SELECT max(id) FROM entries"),
            counts=counts,
            digest=self._digest(),
        )

    def _digest(self) -> str:
        """A key that was revoked, or a plan that was changed, between two runs must not be half in the copy."""
        digest = sha256()
        for table in TABLES:
            if table.name in _DERIVED:
                continue
            names = [column.name for column in table.columns if column.name not in _LONG]
            for row in self._connection.execute(_select(table, names, key_of(table), is_first=True)):
                digest.update(repr(row).encode())
        return digest.hexdigest()

    def _data_version(self) -> int:
        """Another number after another connection has written (SQLite documentation, `PRAGMA data_version`)."""
        return int(self._watcher.execute("PRAGMA data_version").fetchone()[0])

    def _one(self, sql: str, *values: Any) -> Any:
        return self._connection.execute(sql, values).fetchone()[0]


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Raises `ConfigError` when there is no ledger of this version at `path`, `StoreError` when it cannot be read."""
    try:
        require_current(path)
        with closing(_connect(path)) as connection, closing(_connect(path)) as watcher:
            yield Source(path, connection, watcher)
    except sqlite3.Error as exc:
        raise StoreError(f"The database {path} cannot be read: {exc}.") from exc


def _connect(path: Path) -> sqlite3.Connection:
    uri = read_only_uri(path)
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def _select(table: Table, names: Sequence[str], key: Sequence[str], *, is_first: bool) -> str:
    columns = ", ".join(f'"{name}"' for name in names)
    order = ", ".join(f'"{name}"' for name in key)
    behind = "" if is_first else f" WHERE ({order}) > ({', '.join('?' * len(key))})"
    return f"SELECT {columns} FROM {table.name}{behind} ORDER BY {order}"  # noqa: S608 -- names of the schema only


def _fetch(rows: sqlite3.Cursor, rows_max: int, long_at: Sequence[int]) -> list[tuple[Any, ...]]:
    """The next ones: `rows_max`, or fewer that are long."""
    if not long_at:
        return rows.fetchmany(rows_max)
    found: list[tuple[Any, ...]] = []
    size = 0
    while len(found) < rows_max and size < _CHUNK_BYTES and (row := rows.fetchone()) is not None:
        found.append(row)
        size += sum(len(row[index] or "") for index in long_at)
    return found


def _converted(rows: list[tuple[Any, ...]], kinds: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Column by column, which is much faster than row by row."""
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
    for index, kind in enumerate(kinds):
        if isinstance(kind, Flag):
            columns[index] = [bool(value) for value in columns[index]]
        elif isinstance(kind, Text) and _has_zero(columns[index]):
            columns[index] = storable(columns[index])
    return list(zip(*columns, strict=True))


def _has_zero(column: Sequence[str | None]) -> bool:
    return "\0" in "".join(filter(None, column))
