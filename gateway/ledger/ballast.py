"""A file that takes room on the disk, to be given up when the disk is full, so that open calls can still be booked."""

import os
from pathlib import Path

import structlog

__all__ = ["BALLAST_BYTES", "Ballast"]

_log = structlog.get_logger()

BALLAST_BYTES = 8 * 2**20
"""Room for some thousand entries."""
_ROOM_FACTOR = 2
"""It is made only where twice its size is free, or the disk would be full at once again."""


class Ballast:
    def __init__(self, path: Path, size: int = BALLAST_BYTES) -> None:
        self._path = path
        self._size = size
        self._is_dropped = False

    def make(self) -> None:
        """At the start. A disk too small for it is told, and served without."""
        try:
            self._allocate()
        except OSError as exc:
            _log.warning("ballast_not_made", error=str(exc))

    def drop(self) -> None:
        """Give the room back."""
        if not self._is_dropped:
            self._is_dropped = True
            self._path.unlink(missing_ok=True)
            _log.error("ballast_dropped", bytes=self._size)

    def restore(self) -> None:
        """Take the room again if it was given up. Raises `OSError` as long as the disk is too full for that."""
        if self._is_dropped:
            self._allocate()
            self._is_dropped = False
            _log.info("ballast_restored", bytes=self._size)

    def _allocate(self) -> None:
        if self._path.exists() and self._path.stat().st_size >= self._size:
            return
        space = os.statvfs(self._path.parent)
        if space.f_bavail * space.f_frsize < _ROOM_FACTOR * self._size:
            raise OSError(f"less than {_ROOM_FACTOR * self._size} bytes are free beside the database")
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(handle, 0, self._size)
        except OSError:
            self._path.unlink()
            raise
        finally:
            os.close(handle)
