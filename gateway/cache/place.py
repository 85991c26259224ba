"""Where a process keeps its answers: a file of its own in the data folder, also where several workers share that folder.

A worker that is being replaced still has its file when the next one starts, so there are twice as many places as workers.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType

__all__ = ["CachePlace"]

_FILE = "cache.db"


class CachePlace:
    """Entered, it is this process's: `path` is the file, None where every place is taken. The kernel gives it back when
    the process ends, however it ends."""

    def __init__(self, data_dir: Path, workers: int) -> None:
        self._data_dir = data_dir
        self._places = 2 * workers
        self._handle: int | None = None
        self.path: Path | None = None

    def __enter__(self) -> "CachePlace":
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for number in range(self._places):
            path = self._data_dir / (_FILE if not number else f"cache-{number}.db")
            handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            self._handle, self.path = handle, path
            break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle, self.path = None, None
