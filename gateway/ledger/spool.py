"""Where settles wait on local disk while the database is away, so that their callers need not.

1. The writer asks to keep a settle that has waited too long. All that are asked for in one turn of the event loop, or while
   the disk is busy, are written and synced together, on a thread of their own.
2. Then their callers are told: what was owed is durable. The settles stay in the writer's queue as well.
3. When the database has committed one, it is struck. A file with nothing left is emptied; one that its process left behind
   is read by the next process with the same data folder, and removed when all of it is committed.

A settle that is posted twice is posted once, by its hold (`gateway.ledger.transactions`): so a strike may be forgotten.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import structlog

from gateway.errors import ConfigError
from gateway.ledger.spool_file import SpooledSettle, SpoolFile, settle_record
from gateway.ledger.transactions import SettleWork

__all__ = ["Spool"]

_log = structlog.get_logger()

_CLOSE_TIMEOUT_S = 5.0
_Job = tuple[Sequence[SettleWork], Sequence[int]]
"""Settles to be written, and the numbers of those to be struck."""


class Spool:
    """One file, in a folder that several processes of this machine may share. Belongs to the event loop that opened it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)
        self._file: SpoolFile | None = None
        self._left_behind: list[SpoolFile] = []
        self._wanted: list[SettleWork] = []
        self._struck: list[int] = []
        self._on_disk: set[int] = set()
        self._has_failed = False
        self._is_busy = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended = asyncio.Event()
        self._inbox: SimpleQueue[_Job | None] = SimpleQueue()

    async def open(self) -> None:
        """Makes the folder (0700) and this process's file (0600), and takes over what others left behind.

        Raises `ConfigError` when the folder cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._open)
        threading.Thread(target=self._run, name="ledger-spool", daemon=True).start()

    def _open(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._left_behind = SpoolFile.left_behind(self._folder)
            self._file = SpoolFile.make(self._folder)
        except (OSError, ValueError, KeyError) as exc:
            for file in self._left_behind:
                file.close()
            reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            raise ConfigError(
                f"the folder {self._folder}, where charges wait while the database is away, cannot be used ({reason}): "
                "set GATEWAY_DATA_DIR to a folder that this user may write to"
            ) from exc

    @property
    def count(self) -> int:
        """Settles on disk that are not known to be committed, those of processes that are gone included."""
        return len(self._on_disk) + sum(file.count for file in self._left_behind)

    def keep(self, works: Iterable[SettleWork]) -> None:
        """Writes those that are not kept yet, and then tells their callers. What cannot be written may be asked for again."""
        wanted = [work for work in works if work.spool_number == 0]
        for work in wanted:
            work.spool_number = next(self._numbers)
        if wanted:
            self._wanted += wanted
            self._begin()

    def strike(self, work: SettleWork) -> None:
        """It is committed, or was refused for good."""
        if work.spool_number in self._on_disk:
            self._on_disk.remove(work.spool_number)
            self._struck.append(work.spool_number)
            self._begin()
            if not self._on_disk:
                _log.info("spool_emptied")

    async def written(self) -> None:
        """Returns when nothing is left to be written."""
        await self._idle.wait()

    async def replay(self, submit: Callable[[SpooledSettle], "asyncio.Future[Any]"], *, at_once: int) -> None:
        """Submits what others left behind, a few at a time: each future is done when its settle is committed or refused.

        Cancelled, it leaves what is not committed to the next process.
        """
        while self._left_behind:
            file = self._left_behind[0]
            settles = file.settles(at_once)
            posted = 0
            try:
                while some := await asyncio.to_thread(next, settles, None):
                    await asyncio.gather(*map(submit, some), return_exceptions=True)
                    posted += len(some)
                await asyncio.to_thread(file.remove)
                _log.info("spool_replayed", settles=posted)
            except (OSError, ValueError) as exc:
                _log.critical("spool_unreadable", file=file.path.name, error=str(exc), settles=file.count - posted)
            self._left_behind.pop(0)

    async def close(self) -> None:
        """What is in the file waits for the next process; an empty one is removed."""
        if self._file is None:
            return
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._idle.wait()
                self._inbox.put(None)
                await self._ended.wait()
        except TimeoutError:
            _log.critical("spool_stuck")

    # The queue

    def _begin(self) -> None:
        if not self._is_busy:
            self._is_busy = True
            self._idle.clear()
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        wanted = [work for work in self._wanted if not work.is_over]
        struck, self._struck = self._struck, []
        self._wanted = []
        if wanted or struck:
            self._inbox.put((wanted, struck))
        else:
            self._is_busy = False
            self._idle.set()

    def _finished(self, works: Sequence[SettleWork], unfit: Sequence[SettleWork], error: OSError | None) -> None:
        if error is None and works:
            self._has_failed = False
            self._note(works)
        elif error is not None:
            if not self._has_failed:
                _log.error("spool_failed", error=error.strerror or str(error), settles=len(works))
            self._has_failed = True
            for work in works:
                work.spool_number = 0
        for work in unfit:
            _log.error("settle_not_spooled", request_id=work.hold_id)
        self._hand_over()

    def _note(self, works: Sequence[SettleWork]) -> None:
        if not self._on_disk:
            _log.warning("settles_spooled", settles=len(works))
        for work in works:
            if work.is_over:
                self._struck.append(work.spool_number)
                continue
            self._on_disk.add(work.spool_number)
            work.is_spooled = True
            if not work.on_done.done():
                work.on_done.set_result(None)

    # The thread

    def _run(self) -> None:
        file = self._file
        assert file is not None  # noqa: S101 -- it was opened before
        while (job := self._inbox.get()) is not None:
            works, struck = job
            if struck:
                file.strike(struck)
            written, unfit, error = _append(file, works)
            self._tell(self._finished, written, unfit, error)
        try:
            for left in self._left_behind:
                left.close()
            if file.count:
                file.close()
            else:
                file.remove()
        except OSError as exc:
            _log.warning("spool_not_closed", error=str(exc))
        self._tell(self._ended.set)

    def _tell(self, callback: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            _log.warning("event_loop_gone", callback=getattr(callback, "__name__", ""))


def _append(
    file: SpoolFile, works: Sequence[SettleWork]
) -> tuple[Sequence[SettleWork], Sequence[SettleWork], OSError | None]:
    """Those that were meant to be written, those that no file can hold, and what went wrong with the others."""
    records, fit, unfit = [], [], []
    for work in works:
        try:
            settle = SpooledSettle(work.hold_id, work.entries, work.frees)
            records.append((work.spool_number, settle_record(work.spool_number, settle)))
            fit.append(work)
        except (TypeError, ValueError, OverflowError):
            unfit.append(work)
    try:
        if records:
            file.append(records)
    except OSError as exc:
        return fit, unfit, exc
    return fit, unfit, None
