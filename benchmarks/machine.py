"""The machine under a benchmark: cores, processes and what they used, the disk.

Linux only: everything is read from /proc. A process started here leads a session of its own, so that what it starts
is counted, frozen and ended with it.
"""

import contextlib
import ctypes
import os
import platform
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = HERE / "build"

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_STOP_TIMEOUT_S = 45
_LIBC = ctypes.CDLL(None)


class TargetFailed(Exception):
    """A target did not start, or ended by itself."""


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Our environment with `extra`, without what would change a target behind our back.

    PYTHONDONTWRITEBYTECODE makes LiteLLM compile modules again and again; a proxy would stand between it and the
    upstream; settings of the two gateways come from the benchmark alone.
    """
    dropped = ("GATEWAY_", "LITELLM_", "OTEL_", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    inherited = os.environ  # noqa: TID251  (the rule is about the gateway's settings, this hands on PATH and the like)
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(dropped) and not name.lower().endswith("_proxy")
    }
    return kept | dict(extra)


def choose_cores() -> tuple[int, int] | tuple[None, None]:
    """(core of the targets, core of load and upstream); nothing is pinned where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


class Process:
    """A running program with everything it started, pinned to one core."""

    def __init__(
        self, command: list[str], *, core: int | None, log: Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT
    ) -> None:
        self.log = log
        self._frozen = False
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: _settle_in(core),
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait_ready(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Returns when `is_ready` says so; it is asked every 5 ms. Raises `TargetFailed` with the end of the log."""
        give_up_at = time.monotonic() + timeout_s
        while not is_ready():
            if self._popen.poll() is not None:
                raise TargetFailed(f"ended with status {self._popen.returncode}:\n{self.log_end()}")
            if time.monotonic() > give_up_at:
                raise TargetFailed(f"not ready after {timeout_s:.0f} s:\n{self.log_end()}")
            time.sleep(0.005)

    def cpu_s(self) -> float:
        """Processor time used so far, user and kernel, in steps of 10 ms."""
        return sum(int(fields[11]) + int(fields[12]) for _, fields in self._members()) / _TICKS_PER_S

    def pss_mb(self) -> float:
        """Memory now: shared pages count in proportion to how many processes share them."""
        total_kb = 0
        for pid, _ in self._members():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total_kb += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        return total_kb / 1024

    def wait_quiet(self, timeout_s: float = 60) -> None:
        """Returns when it is idle: work left over from one measurement must not be paid by the next."""
        give_up_at = time.monotonic() + timeout_s
        while time.monotonic() < give_up_at:
            before = self.cpu_s()
            time.sleep(0.25)
            if self.cpu_s() - before <= 0.02:
                return

    def freeze(self) -> None:
        """Stops it where it stands, so that it costs nothing while another is measured."""
        self._frozen = True
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._frozen:
            self._frozen = False
            self._signal(signal.SIGCONT)
            time.sleep(0.15)

    def stop(self) -> None:
        """Ends it politely, then for certain."""
        self.thaw()
        if self._popen.poll() is None:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_STOP_TIMEOUT_S)
        self._signal(signal.SIGKILL)
        self._popen.wait()

    def log_end(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _members(self) -> Iterator[tuple[int, list[str]]]:
        """Each living process of the session, with the fields of its `stat` after the name."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            if int(fields[3]) == self.pid:
                yield int(entry.name), fields

    def _signal(self, number: signal.Signals) -> None:
        for pid, _ in list(self._members()):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


def _settle_in(core: int | None) -> None:
    """Runs in the child: a benchmark that is killed must not leave frozen processes behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if core is not None:
        os.sched_setaffinity(0, {core})


def fdatasync_ms(folder: Path, appends: int = 200) -> float:
    """Median of `appends` times 200 bytes written and made durable: what one commit has to wait for."""
    path = folder / "fdatasync.probe"
    took = []
    with path.open("wb", buffering=0) as file:
        for _ in range(appends):
            started = time.perf_counter()
            file.write(b"x" * 200)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - started)
    path.unlink()
    return statistics.median(took) * 1000


def core_busy_s(core: int) -> float:
    """Time the core has spent on anything at all, time stolen by the hypervisor included."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S
    raise LookupError(f"no core {core} in /proc/stat")


def python_loop_ms() -> float:
    """Best of several times a million additions take: how fast this core runs Python, whatever it is called."""
    best = float("inf")
    for _ in range(7):
        total, started = 0, time.perf_counter()
        for number in range(1_000_000):
            total += number
        best = min(best, time.perf_counter() - started)
    return best * 1000


def filesystem_of(folder: Path) -> str:
    """The type of the file system a folder is on, `tmpfs` or `ext4`."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, fs_type = line.split()[:3]
        if folder.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, fs_type
    return kind


def describe_machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    python = f"Python {platform.python_version()}, a million additions in {python_loop_ms():.0f} ms"
    return f"{model}, {os.cpu_count()} cores, Linux {os.uname().release}, {python}"
