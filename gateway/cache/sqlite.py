"""Kept answers in a SQLite file of their own: it may be deleted at any time, and is no part of a backup.

How it stays harmless to the calls that ask it:
1. One thread does all of it, in the order asked. It starts, and the file is opened, with the first question.
2. Nothing is synced to disk. What a power cut breaks is found by SQLite or by the seal, and thrown away.
3. A file that is broken, foreign or of another version is removed and made anew. One that was deleted under way too.
4. Whoever waits longer than a moment goes on without an answer, and until the late work is done nobody waits at all.

Bodies are sealed (`gateway.sealing`) under the key they are found by. The other columns say who bought an answer, and of
which model: an id the ledger holds as well, and nothing of what was said.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import structlog

from gateway.cache.base import CachedAnswer, CacheStats
from gateway.errors import StoreError
from gateway.sealing import Sealer

__all__ = ["ROW_BYTES", "SqliteCache"]

Result = TypeVar("Result")

ROW_BYTES: Final = 512
"""Counted for each answer beside its sealed body: its other columns, its index entries and what pages leave unused."""

_APPLICATION_ID: Final = 0x67774361
"""Tells the file from those of other programs: "gwCa" in ASCII, in SQLite's `application_id`."""
_VERSION: Final = 1
_PATIENCE_S: Final = 2.0
_ADMIN_PATIENCE_S: Final = 30.0
_CLOSE_WITHIN_S: Final = 10.0
_TOLD_EVERY_S: Final = 60.0
_ROWS_AT_ONCE: Final = 500
"""Removed in one piece of work, so that no call waits behind a whole clearing out."""
_PAGES_AT_ONCE: Final = 4_096
"""Given back to the disk in one piece of work: 16 MiB."""
_LOG_BYTES_MAX: Final = 16 * 2**20
_TROUBLE: Final = (sqlite3.Error, OSError, MemoryError, OverflowError, ValueError)
"""What SQLite, its file and a value that no column takes can raise."""
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

_log = structlog.get_logger()


class SqliteCache:
    """The embedded `CacheStore`. One process at a time may have the file open.

    `bytes_max` bounds the sealed bodies and `ROW_BYTES` for each of them; the file is a little larger, by its pages' margins
    and a write-ahead log of at most about 16 MiB beside one answer. `wall_clock`: Unix seconds, asked from this
    thread and the store's; it decides what has expired and in what order answers were used. `patience_s`: how long a call waits at most.
    """

    def __init__(
        self,
        path: Path,
        sealer: Sealer,
        *,
        bytes_max: int,
        wall_clock: Callable[[], float],
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._path = path
        self._sealer = sealer
        self._bytes_max = bytes_max
        self._clock = wall_clock
        self._patience_s = patience_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cache")
        self._file: _AnswerFile | None = None
        """Touched by the store's thread alone."""
        self._late: Future[Any] | None = None
        self._is_closed = False
        self._told_at: dict[str, float] = {}
        self._hits = self._misses = self._stored = self._evicted = 0

    async def get(self, key: str) -> CachedAnswer | None:
        try:
            answer = await self._run(lambda file: file.read(key), self._patience_s)
        except StoreError:
            answer = None
        if answer is None:
            self._misses += 1
        else:
            self._hits += 1
        return answer

    async def put(self, key: str, answer: CachedAnswer) -> None:
        with suppress(StoreError):
            await self._run(partial(self._write, key=key, answer=answer), self._patience_s)

    async def remove(self, *, creator: str | None = None, model: str | None = None) -> int:
        """In pieces: other calls are answered in between. What is put meanwhile may stay."""
        if creator is None and model is None:
            return await self._run(self._clear, _ADMIN_PATIENCE_S)
        removed = after = 0
        last = await self._run(_AnswerFile.last_id, _ADMIN_PATIENCE_S)
        while after < last:
            what = partial(_AnswerFile.remove_matching, creator=creator, model=model, after=after, last=last)
            piece = await self._run(what, _ADMIN_PATIENCE_S)
            removed += piece.answers
            after = piece.last_id if piece.answers == _ROWS_AT_ONCE else last
        await self._shrink()
        return removed

    async def remove_expired(self) -> int:
        """In pieces, as `remove`."""
        removed = 0
        with suppress(StoreError):
            expired_by_ms = _ms(self._clock())
            count = _ROWS_AT_ONCE
            while count == _ROWS_AT_ONCE:
                count = await self._run(lambda file: file.remove_expired(expired_by_ms), _ADMIN_PATIENCE_S)
                removed += count
            await self._shrink()
        return removed

    async def stats(self) -> CacheStats:
        return await self._run(self._count, _ADMIN_PATIENCE_S)

    async def close(self) -> None:
        """Waits for what was asked before, but not for ever. From then on there is nothing to find and nothing is kept;
        `remove` and `stats` raise `StoreError`. May be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        closed = asyncio.wrap_future(self._thread.submit(self._let_go))
        done, _ = await asyncio.wait({closed}, timeout=_CLOSE_WITHIN_S)
        self._thread.shutdown(wait=bool(done))

    async def _shrink(self) -> None:
        while await self._run(_AnswerFile.shrink, _ADMIN_PATIENCE_S):
            pass

    async def _run(self, work: "Callable[[_AnswerFile], Result]", within_s: float) -> Result:
        """What `work` returned on the store's thread. Raises `StoreError`, also when that takes longer than `within_s`:
        then it goes on without the caller, and others are turned away until it is done."""
        if self._is_closed:
            raise StoreError("The cache is closed.")
        if self._late is not None and not self._late.done():
            raise _unavailable()
        try:
            future = self._thread.submit(self._attempted, work)
        except RuntimeError as exc:  # no thread can be started
            raise _unavailable() from exc
        outcome = asyncio.wrap_future(future)
        # Nobody may be left to hear of it: the caller was cancelled, or did not want to wait.
        outcome.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        done, _ = await asyncio.wait({outcome}, timeout=within_s)
        if not done:
            self._late = future
            self._tell_trouble("the disk does not answer in time")
            raise _unavailable()
        return outcome.result()

    # On the store's thread

    def _attempted(self, work: "Callable[[_AnswerFile], Result]") -> Result:
        """`work` on the open file, and once more on a new one where it found the file broken. Raises `StoreError`."""
        try:
            try:
                return work(self._opened())
            except _TROUBLE as exc:
                if not _is_broken(exc):
                    raise
                self._replace(str(exc))
                return work(self._opened())
        except _TROUBLE as exc:
            self._tell_trouble(f"{type(exc).__name__}: {exc}")
            raise _unavailable() from exc

    def _opened(self) -> "_AnswerFile":
        if self._file is not None and not self._file.is_usable():
            self._let_go()
        if self._file is None:
            self._file = _AnswerFile(self._path, self._sealer, self._bytes_max, self._clock)
            self._evicted += self._file.make_room(0)
        return self._file

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _replace(self, why: str) -> None:
        self._let_go()
        _unlink(self._path)
        if self._may_tell("replaced"):
            _log.warning("cache_replaced", error=why)

    def _write(self, file: "_AnswerFile", *, key: str, answer: CachedAnswer) -> None:
        written = file.write(key, answer)
        if written is not None:
            self._stored += 1
            self._evicted += written

    def _clear(self, file: "_AnswerFile") -> int:
        """Without its file the disk has all of the room back at once; the next question makes a new one."""
        count = file.count()
        self._let_go()
        _unlink(self._path)
        return count

    def _count(self, file: "_AnswerFile") -> CacheStats:
        return CacheStats(
            file.count(), file.size_bytes, self._bytes_max, self._hits, self._misses, self._stored, self._evicted
        )

    def _tell_trouble(self, reason: str) -> None:
        if self._may_tell("trouble"):
            _log.warning("cache_in_trouble", error=reason)

    def _may_tell(self, what: str) -> bool:
        """At most once a minute, whichever way the clock is set meanwhile."""
        now_s = self._clock()
        told_at = self._told_at.get(what)
        if told_at is not None and abs(now_s - told_at) < _TOLD_EVERY_S:
            return False
        self._told_at[what] = now_s
        return True


class _Removed(NamedTuple):
    answers: int
    size_bytes: int
    last_id: int


class _ForeignFileError(sqlite3.DatabaseError):
    """A database that no gateway of this version made."""


class _AnswerFile:
    """The open file, on the one thread that may touch it. Everything here raises `_TROUBLE`."""

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

    def remove_matching(self, *, creator: str | None, model: str | None, after: int, last: int) -> _Removed:
        """Up to `_ROWS_AT_ONCE` of those whose ids are above `after`, `last` included."""
        given = {"creator": creator, "model": model, "after": after, "last": last, "most": _ROWS_AT_ONCE}
        with self._transaction():
            gone = self._take_out(_MATCHING, given)
        self.size_bytes -= gone.size_bytes
        return gone

    def remove_expired(self, expired_by_ms: int) -> int:
        """Up to `_ROWS_AT_ONCE` of them."""
        with self._transaction():
            gone = self._take_out(_EXPIRED, (expired_by_ms, _ROWS_AT_ONCE))
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

    def _take_out(self, query: str, parameters: Any, *, enough_bytes: int | None = None) -> _Removed:
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
        return _Removed(len(going), freed, going[-1][0] if going else 0)

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


def _unlink(path: Path) -> None:
    """The file and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _is_broken(exc: BaseException) -> bool:
    """Whether only a new file helps. Extended codes hold the plain one in their lowest byte."""
    return isinstance(exc, _ForeignFileError) or getattr(exc, "sqlite_errorcode", 0) & 0xFF in _BROKEN


def _unavailable() -> StoreError:
    return StoreError("The cache cannot be read or written at the moment.")


def _ms(unix_s: float) -> int:
    return int(unix_s * 1_000)
