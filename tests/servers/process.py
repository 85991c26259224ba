"""What the servers under test have in common: a process on a leash, a folder, a log, and the verbs of an outage.

Linux only, because freezing and counting processes reads `/proc`.
"""

import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.rig.waiting import PATIENCE_S, eventually
from tests.servers import leash

START_WITHIN_S = 60.0
_FIRST_PORT = 20_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ATTEMPTS = 100
_STOPPED_OR_GONE = ("T", "t", "Z", "X")


@dataclass(frozen=True)
class Account:
    """The user a server runs as. PostgreSQL refuses root, so a root who tests lends it `nobody`'s name."""

    uid: int
    gid: int

    @classmethod
    def for_postgres(cls) -> "Account | None":
        """None stands for whoever runs the tests."""
        if os.geteuid():
            return None
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid)

    @staticmethod
    def can_reach(path: Path) -> bool:
        """Whether an account without rights of its own may enter every folder above, and read and run `path`."""
        return _others_may(path, stat.S_IROTH | stat.S_IXOTH) and all(
            _others_may(folder, stat.S_IXOTH) for folder in path.parents
        )


def _others_may(path: Path, bits: int) -> bool:
    return path.stat().st_mode & bits == bits


def scratch_folder(account: Account | None) -> Path:
    """A new folder of the account's own. pytest's folders will not do for another account: only their owner may enter."""
    places = [Path(tempfile.gettempdir()), Path("/var/tmp")]
    place = next((place for place in places if account is None or account.can_reach(place)), places[0])
    folder = Path(tempfile.mkdtemp(prefix="gateway-server-", dir=place))
    if account:
        os.chown(folder, account.uid, account.gid)
    return folder


def listening_port() -> int:
    """A free loopback port below those the kernel hands to outgoing connections.

    A restarted server wants its port back; one of the upper range could by then belong to a client's connection.
    """
    first_ephemeral = int(_EPHEMERAL.read_text().split()[0])
    ports = range(_FIRST_PORT, first_ephemeral) if first_ephemeral > _FIRST_PORT else range(61_001, 65_000)
    for _ in range(_ATTEMPTS):
        port = random.choice(ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no free port among {ports}")


class Server(ABC):
    """One server with a folder and a port of its own, which it keeps from `start()` to `close()`.

    Not for use by two threads at once. Every wait is bounded; whoever waits in vain is shown the log.
    """

    _stop_signal = signal.SIGTERM

    def __init__(self, account: Account | None = None) -> None:
        self.account = account
        self.folder = scratch_folder(account)
        self.port = listening_port()
        self.pid = 0
        self._leash: subprocess.Popen[bytes] | None = None

    # What a server has to say of itself

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def _command(self) -> list[str]:
        """Program and arguments; called at every start, after which configuration files are in place."""

    @abstractmethod
    def ping(self, within_s: float = PATIENCE_S) -> bool:
        """Whether the server serves. Raises `TimeoutError` when it says nothing, `OSError` when it refuses."""

    @abstractmethod
    def flush(self) -> None:
        """Empties the server."""

    # Verbs

    def start(self) -> Self:
        """Returns when the server serves."""
        self.launch()
        eventually(self._serves_or_died, f"{self} to serve", START_WITHIN_S)
        return self

    def launch(self) -> None:
        """Starts the process and waits for nothing."""
        assert self._leash is None, f"{self} is already running"
        owner = (str(self.account.uid), str(self.account.gid)) if self.account else ("-", "-")
        with (self.folder / "log").open("ab") as log:
            self._leash = subprocess.Popen(
                [sys.executable, "-I", "-S", leash.__file__, *owner, *self._command()],
                cwd=self.folder,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._leash.stdout is not None
        self.pid = int(self._leash.stdout.readline())

    def stop(self) -> int:
        """Asks the server to end, waits until it has, and returns its exit code. What it keeps is on disk then."""
        self.thaw()
        os.kill(self.pid, self._stop_signal)
        return self._ended()

    def kill9(self) -> None:
        """Kills the server and all its processes at once; returns when none is left."""
        self._let_go()
        self._ended()

    def restart(self) -> Self:
        """A clean stop, then a start on the same folder and port."""
        self.stop()
        return self.start()

    def freeze(self) -> None:
        """SIGSTOP for the server and all its processes: connections stay open, new ones are accepted by the kernel alone."""
        assert self.is_running, f"{self} does not run"
        eventually(self._all_stopped, f"{self} to freeze")

    def thaw(self) -> None:
        """Lets a frozen server go on; any other is left alone."""
        self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        """Kills what runs, and removes the folder with the data and the log."""
        if self.is_running:
            self.kill9()
        elif self._leash:
            self._ended()
        shutil.rmtree(self.folder)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    # What can be seen

    def __str__(self) -> str:
        return f"{type(self).__name__} on port {self.port}"

    @property
    def is_running(self) -> bool:
        """Whether the process is there; it may be frozen."""
        return self._leash is not None and self._leash.poll() is None

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def processes(self) -> list[int]:
        """The server and its children, or nothing when it does not run."""
        return [self.pid, *leash.descendants(self.pid)] if self.is_running else []

    # Inner steps

    def _serves_or_died(self) -> bool:
        assert self.is_running, f"{self} ended by itself:\n{self.log[-4000:]}"
        with suppress(OSError):
            return self.ping(within_s=1.0)
        return False

    def _all_stopped(self) -> bool:
        """True once a look at all processes found every one stopped: a stopped parent starts no more children."""
        alive = [pid for pid in self.processes() if (leash.process_stat(pid) or "X")[0] not in _STOPPED_OR_GONE]
        _signal(alive, signal.SIGSTOP)
        return not alive

    def _signal_all(self, number: signal.Signals) -> None:
        _signal(self.processes(), number)

    def _let_go(self) -> None:
        assert self._leash is not None, f"{self} does not run"
        assert self._leash.stdin is not None
        self._leash.stdin.close()

    def _ended(self) -> int:
        """Waits for the end of every process. Raises `AssertionError` with the log, and kills, when that takes too long."""
        process = self._leash
        assert process is not None, f"{self} does not run"
        try:
            return process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._let_go()
            process.wait(PATIENCE_S)
            raise AssertionError(f"{self} did not end:\n{self.log[-4000:]}") from None
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
            self._leash = None
            self.pid = 0


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
