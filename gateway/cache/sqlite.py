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
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from gateway.cache.answer_file import ROW_BYTES, ROWS_AT_ONCE, TROUBLE, AnswerFile, is_broken, unlink
from gateway.cache.base import CachedAnswer, CacheStats
from gateway.errors import StoreError
from gateway.sealing import Sealer

__all__ = ["ROW_BYTES", "SqliteCache"]

Result = TypeVar("Result")

_PATIENCE_S: Final = 2.0
_ADMIN_PATIENCE_S: Final = 30.0
_CLOSE_WITHIN_S: Final = 10.0
_TOLD_EVERY_S: Final = 60.0

_log = structlog.get_logger()


class SqliteCache:
    """The embedded `CacheStore`. One process at a time may have the file open.

    `bytes_max` bounds the sealed bodies and `ROW_BYTES` for each of them; the file is a little larger, by its pages' margins
    and a write-ahead log of at most about 16 MiB beside one answer. `wall_clock`: Unix seconds, asked from this thread and
    the store's; it decides what has expired and in what order answers were used. `patience_s`: how long a call waits at
    most.
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
        self._file: AnswerFile | None = None
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
        last = await self._run(AnswerFile.last_id, _ADMIN_PATIENCE_S)
        while after < last:
            what = partial(AnswerFile.remove_matching, creator=creator, model=model, after=after, last=last)
            piece = await self._run(what, _ADMIN_PATIENCE_S)
            removed += piece.answers
            after = piece.last_id if piece.answers == ROWS_AT_ONCE else last
        await self._shrink()
        return removed

    async def remove_expired(self) -> int:
        """In pieces, as `remove`."""
        removed = 0
        with suppress(StoreError):
            expired_by_ms = int(self._clock() * 1_000)
            count = ROWS_AT_ONCE
            while count == ROWS_AT_ONCE:
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
        while await self._run(AnswerFile.shrink, _ADMIN_PATIENCE_S):
            pass

    async def _run(self, work: Callable[[AnswerFile], Result], within_s: float) -> Result:
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

    def _attempted(self, work: Callable[[AnswerFile], Result]) -> Result:
        """`work` on the open file, and once more on a new one where it found the file broken. Raises `StoreError`."""
        try:
            try:
                return work(self._opened())
            except TROUBLE as exc:
                if not is_broken(exc):
                    raise
                self._replace(str(exc))
                return work(self._opened())
        except TROUBLE as exc:
            self._tell_trouble(f"{type(exc).__name__}: {exc}")
            raise _unavailable() from exc

    def _opened(self) -> AnswerFile:
        if self._file is not None and not self._file.is_usable():
            self._let_go()
        if self._file is None:
            self._file = AnswerFile(self._path, self._sealer, self._bytes_max, self._clock)
            self._evicted += self._file.make_room(0)
        return self._file

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _replace(self, why: str) -> None:
        self._let_go()
        unlink(self._path)
        if self._may_tell("replaced"):
            _log.warning("cache_replaced", error=why)

    def _write(self, file: AnswerFile, *, key: str, answer: CachedAnswer) -> None:
        written = file.write(key, answer)
        if written is not None:
            self._stored += 1
            self._evicted += written

    def _clear(self, file: AnswerFile) -> int:
        """Without its file the disk has all of the room back at once; the next question makes a new one."""
        count = file.count()
        self._let_go()
        unlink(self._path)
        return count

    def _count(self, file: AnswerFile) -> CacheStats:
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


def _unavailable() -> StoreError:
    return StoreError("The cache cannot be read or written at the moment.")
