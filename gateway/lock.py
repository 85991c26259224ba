"""The data folder: one writer at a time, and the names of what lies in it."""

import fcntl
import os
from pathlib import Path
from types import TracebackType

from gateway.errors import ConfigError

LOCK_FILE = "lock"
CONTROL_SOCKET = "control.sock"
_PID_BYTES_MAX = 32


def control_socket(data_dir: Path, worker: int) -> Path:
    """Where a worker answers the admin API to whoever may use the folder; the first one's is where commands ask."""
    return data_dir / (f"control-{worker}.sock" if worker else CONTROL_SOCKET)


class DataLock:
    """Holds `<data_dir>/lock` while entered; makes the folder (0700) where it is missing.

    The kernel drops the lock when the process ends, however it ends, so there is nothing to clean up after a crash.
    Raises `ConfigError` when another process holds it or the folder cannot be used.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._handle: int | None = None

    def __enter__(self) -> "DataLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        if self._handle is not None:
            raise RuntimeError("this lock is already held")
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self._data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise ConfigError(
                f"the data folder {self._data_dir} cannot be used ({exc.strerror}): set GATEWAY_DATA_DIR to a folder "
                "that this user may write to"
            ) from exc
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, _PID_BYTES_MAX, 0).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise ConfigError(
                f"another gateway serves this data folder (pid {holder}): {self._data_dir}; stop it, or set "
                "GATEWAY_DATA_DIR to another folder"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._handle = handle

    def release(self) -> None:
        """Give the lock back; may be called twice. The file stays: removing it would let two processes lock two files."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
