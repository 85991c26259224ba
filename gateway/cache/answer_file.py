"""The file kept answers lie in: its tables, and what is done with them one piece of work at a time.

Belongs to one thread (`gateway.cache.sqlite`). Everything here raises `TROUBLE`; whether only a new file helps, `is_broken`
says. Rows are found by a use that only grows, so that those unused longest go first.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.cache.base import CachedAnswer
from gateway.sealing import Sealer

__all__ = ["ROWS_AT_ONCE", "ROW_BYTES", "TROUBLE", "AnswerFile", "Removed", "is_broken", "unlink"]

ROW_BYTES: Final = 512
"""Counted for each answer beside its sealed body: its other columns, its index entries and what pages leave unused."""

ROWS_AT_ONCE: Final = 500
"""Removed in one piece of work, so that no call waits behind a whole clearing out."""
_PAGES_AT_ONCE: Final = 4_096
"""Given back to the disk in one piece of work: 16 MiB."""
TROUBLE: Final = (sqlite3.Error, OSError, MemoryError, OverflowError, ValueError)
"""What SQLite, its file and a value that no column takes can raise."""

_APPLICATION_ID: Final = 0x67774361
"""Tells the file from those of other programs: "gwCa" in ASCII, in SQLite's `application_id`."""
_VERSION: Final = 1
_LOG_BYTES_MAX: Final = 16 * 2**20
_BROKEN: Final = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""SQLITE_ERROR: the tables are not those of our statements."""


# Bodies lie apart: marking an answer as used would otherwise rewrite the row with all of its body, and looking through
# the rows would read them all (measured with 2 MB bodies: 71 against 2 400 microseconds for a mark).
_SCHEMA: Final = (
    """CREATE TABLE answers (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, creator TEXT NOT NULL, model TEXT NOT NULL,
        provider TEXT NOT NULL, kind TEXT NOT NULL, content_type TEXT NOT NULL, is_streaming INTEGER NOT NULL,
        cost_nano_usd INTEGER NOT NULL, created_at_ms INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL,
        used_at_us INTEGER NOT NULL, size_bytes INTEGER NOT NULL
    ) STRICT""",
    "CREATE TABLE bodies (id INTEGER PRIMARY KEY, sealed BLOB NOT NULL) STRICT",
    "CREATE INDEX answers_by_use ON answers (used_at_us, size_bytes)",
    "CREATE INDEX answers_by_expiry ON answers (expires_at_ms, size_bytes)",
    "CREATE TRIGGER body_goes AFTER DELETE ON answers BEGIN DELETE FROM bodies WHERE id = OLD.id; END",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)
_READ: Final = """
    SELECT id, creator, model, provider, kind, content_type, is_streaming, cost_nano_usd, created_at_ms, expires_at_ms, sealed
    FROM answers JOIN bodies USING (id) WHERE key = ? AND expires_at_ms > ?"""
_INSERT: Final = """
    INSERT INTO answers (key, creator, model, provider, kind, content_type, is_streaming, cost_nano_usd, created_at_ms,
        expires_at_ms, used_at_us, size_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_SAME_KEY: Final = "SELECT id, size_bytes FROM answers WHERE key = ?"
_EXPIRED: Final = "SELECT id, size_bytes FROM answers WHERE expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?"
_UNUSED_LONGEST: Final = "SELECT id, size_bytes FROM answers ORDER BY used_at_us LIMIT ?"
_MATCHING: Final = """
    SELECT id, size_bytes FROM answers
    WHERE id > :after AND id <= :last AND (:creator IS NULL OR creator = :creator) AND (:model IS NULL OR model = :model)
    ORDER BY id LIMIT :most"""
_NO_LIMIT: Final = -1


class Removed(NamedTuple):
    """What one piece of work took out."""

    answers: int
    size_bytes: int
    last_id: int
    """0 where there was nothing."""


class _ForeignFileError(sqlite3.DatabaseError):
    """A database that no gateway of this version made."""


class AnswerFile:
    """The open file, on the one thread that may touch it. Everything here raises `TROUBLE`."""

    def __init__(self, path: Path, sealer: Sealer, bytes_max: int, clock: Callable[[], float]) -> None:
        self._path = path
        self._sealer = sealer
        self._bytes_max = bytes_max
        self._clock = clock
        self._db = _connect(path)
        try:
            self._identity = _identity(path)
            self.size_bytes: int = self._value("SELECT coalesce(sum(size_bytes), 0) FROM answers")
            self._used_at_us: int = self._value("SELECT coalesce(max(used_at_us), 0) FROM answers")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._db.close()

    def is_usable(self) -> bool:
        """Whether the file is still where it was opened, and no transaction was left half done."""
        return not self._db.in_transaction and _identity(self._path) == self._identity

    def read(self, key: str) -> CachedAnswer | None:
        row = self._db.execute(_READ, (key, _ms(self._clock()))).fetchone()
        if row is None:
            return None
        row_id, *columns, sealed = row
        body = self._sealer.open(sealed, key)
        if body is None:
            with self._transaction():
                gone = self._take_out(_SAME_KEY, (key,))
            self.size_bytes -= gone.size_bytes
            return None
        # A full disk can still be read.
        with suppress(sqlite3.OperationalError):
            self._db.execute("UPDATE answers SET used_at_us = ? WHERE id = ?", (self._next_use(), row_id))
        creator, model, provider, kind, content_type, is_streaming, *numbers = columns
        return CachedAnswer(creator, model, provider, kind, content_type, bool(is_streaming), body, *numbers)

    def write(self, key: str, answer: CachedAnswer) -> int | None:
        """How many answers were evicted for it; None where it was not kept: it is too large, or has expired already."""
        if answer.expires_at_ms <= _ms(self._clock()):
            return None
        sealed = self._sealer.seal(answer.body, key)
        size_bytes = len(sealed) + ROW_BYTES
        if size_bytes > self._bytes_max:
            return None
        with self._transaction():
            replaced = self._take_out(_SAME_KEY, (key,))
            freed, evicted = self._freed_for(size_bytes - replaced.size_bytes)
            columns = (
                *(key, answer.creator, answer.model, answer.provider, answer.kind, answer.content_type),
                *(int(answer.is_streaming), answer.cost_nano_usd, answer.created_at_ms, answer.expires_at_ms),
                *(self._next_use(), size_bytes),
            )
            row_id = self._db.execute(_INSERT, columns).lastrowid
            self._db.execute("INSERT OR REPLACE INTO bodies (id, sealed) VALUES (?, ?)", (row_id, sealed))
        self.size_bytes += size_bytes - replaced.size_bytes - freed
        return evicted

    def make_room(self, bytes_wanted: int) -> int:
        """How many answers were evicted so that so much more fits: nobody may be needed for it."""
        if self.size_bytes + bytes_wanted <= self._bytes_max:
            return 0
        with self._transaction():
            freed, evicted = self._freed_for(bytes_wanted)
        self.size_bytes -= freed
        return evicted

    def remove_matching(self, *, creator: str | None, model: str | None, after: int, last: int) -> Removed:
        """Up to `ROWS_AT_ONCE` of those whose ids are above `after`, `last` included."""
        given = {"creator": creator, "model": model, "after": after, "last": last, "most": ROWS_AT_ONCE}
        with self._transaction():
            gone = self._take_out(_MATCHING, given)
        self.size_bytes -= gone.size_bytes
        return gone

    def remove_expired(self, expired_by_ms: int) -> int:
        """Up to `ROWS_AT_ONCE` of them."""
        with self._transaction():
            gone = self._take_out(_EXPIRED, (expired_by_ms, ROWS_AT_ONCE))
        self.size_bytes -= gone.size_bytes
        return gone.answers

    def shrink(self) -> bool:
        """Give up to `_PAGES_AT_ONCE` empty pages back to the disk, where they are more than a quarter of the file: fewer
        are soon filled again. Returns whether there are more."""
        before = self._value("PRAGMA page_count")
        if 4 * self._value("PRAGMA freelist_count") <= before:
            return False
        # A page goes with each step of this statement, and of one without columns `execute` takes a single step.
        self._db.executescript(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})")
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return bool(self._value("PRAGMA page_count") < before)

    def count(self) -> int:
        return int(self._value("SELECT count(*) FROM answers"))

    def last_id(self) -> int:
        return int(self._value("SELECT coalesce(max(id), 0) FROM answers"))

    def _freed_for(self, bytes_wanted: int) -> tuple[int, int]:
        """Take out what stands in the way: (bytes freed, answers evicted). First what expired, which counts as no eviction."""
        missing = self.size_bytes + bytes_wanted - self._bytes_max
        if missing <= 0:
            return 0, 0
        expired = self._take_out(_EXPIRED, (_ms(self._clock()), _NO_LIMIT), enough_bytes=missing)
        missing -= expired.size_bytes
        if missing <= 0:
            return expired.size_bytes, 0
        evicted = self._take_out(_UNUSED_LONGEST, (_NO_LIMIT,), enough_bytes=missing)
        return expired.size_bytes + evicted.size_bytes, evicted.answers

    def _take_out(self, query: str, parameters: Any, *, enough_bytes: int | None = None) -> Removed:
        """Delete the rows that `query` names (id, size), in its order; no more of them than make up `enough_bytes`."""
        going: list[tuple[int]] = []
        freed = 0
        with closing(self._db.execute(query, parameters)) as rows:
            for row_id, size_bytes in rows:
                going.append((row_id,))
                freed += size_bytes
                if enough_bytes is not None and freed >= enough_bytes:
                    break
        self._db.executemany("DELETE FROM answers WHERE id = ?", going)
        return Removed(len(going), freed, going[-1][0] if going else 0)

    def _next_use(self) -> int:
        """Now, but always later than any use before, so that the order holds within one tick and under a clock set back."""
        self._used_at_us = max(self._used_at_us + 1, int(self._clock() * 1_000_000))
        return self._used_at_us

    def _value(self, query: str) -> Any:
        return self._db.execute(query).fetchone()[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # SQLite has ended it by itself where the disk is full; where this fails, the file is opened anew.
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise


def _connect(path: Path) -> sqlite3.Connection:
    """The file with its tables, made where it is not there. Raises `_ForeignFileError` for another's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Before SQLite makes it, which would let everybody read it; its log and index take over the file's mode.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        if os.fstat(handle).st_mode & 0o077:
            os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
    # No waiting for locks: nobody else should hold one, and a miss now is better than an answer later.
    db = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection) -> None:
    found = tuple(db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    is_new = found == (0, 0) and db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if not is_new and found != (_APPLICATION_ID, _VERSION):
        raise _ForeignFileError(f"application {found[0]}, version {found[1]}")
    if is_new:
        # Has to be said before the first page is written.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL").fetchone()
    db.execute("PRAGMA synchronous = OFF")
    db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES_MAX}").fetchone()
    if is_new:
        db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            db.execute(statement)
        db.execute("COMMIT")


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is there, if one is."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def unlink(path: Path) -> None:
    """The file and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def is_broken(exc: BaseException) -> bool:
    """Whether only a new file helps. Extended codes hold the plain one in their lowest byte."""
    return isinstance(exc, _ForeignFileError) or getattr(exc, "sqlite_errorcode", 0) & 0xFF in _BROKEN


def _ms(unix_s: float) -> int:
    return int(unix_s * 1_000)
