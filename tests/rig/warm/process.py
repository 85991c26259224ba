"""A program in a warm interpreter, for those who hold it by its process id."""

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.rig.warm.client import begin

__all__ = ["WarmProcess"]


class WarmProcess:
    """What `subprocess.Popen` is of a process that was started by itself, as far as tests use it.

    `interpreter` is the socket of the warm one, which is the parent; it kills the program when this process is gone.
    """

    def __init__(
        self,
        interpreter: Path,
        program: Path,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        streams: Sequence[int],
    ) -> None:
        self.args = [str(program), *arguments]
        self.returncode: int | None = None
        self._told = begin(str(interpreter), str(program), self.args, str(cwd), env, streams)
        self.pid = self._line()

    def poll(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""
        return self._code(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises `subprocess.TimeoutExpired` after `timeout` seconds."""
        code = self._code(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """To one that has ended: nothing."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _code(self, within_s: float | None) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], within_s)[0]:
            self.returncode = self._line()
            self._told.close()
        return self.returncode

    def _line(self) -> int:
        """A number that is told; byte by byte, since what follows it is for later."""
        digits = b""
        while (byte := self._told.recv(1)) not in (b"", b"\n"):
            digits += byte
        return int(digits)
