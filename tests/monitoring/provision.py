"""`python -m tests.monitoring.provision`: promtool, Prometheus' own checker of rules.

The one on `PATH` is taken first. Where there is none and the machine has apt, its package of Prometheus is downloaded, which
takes no right: 19 MB, whose signatures apt checks, from wherever the machine has its packages from; by the machine's lists
of packages, or where it has none by lists that are thrown away again. promtool alone is kept of it, in
`.venv-servers/promtool/` (48 MB; Debian 12 has 2.42).

Tests go on without it, since `grafana`, `promql` and `rules` find most of what it would. So a machine that cannot have it is
told why, and is not asked again for a day unless this command is called.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bringing import NotMade, are_chosen
from tests.rig.environment import REPOSITORY, inherited

HERE = Path(__file__).resolve().parent
ROOT = REPOSITORY / ".venv-servers" / "promtool"
COMMAND = "python -m tests.monitoring.provision"

_PACKAGE = "prometheus"
_MEMBER = "./usr/bin/promtool"
_WITHIN_S = 60.0
"""All of it; a mirror that answers takes seconds."""
_REFUSAL_HOLDS_S = 86_400.0
_PATIENCE = (
    "Acquire::http::Timeout=10",
    "Acquire::https::Timeout=10",
    "Acquire::Retries=1",
    "APT::Update::Error-Mode=any",
)


@dataclass(frozen=True)
class Promtool:
    """The program in the folder, and why it is not there."""

    root: Path = ROOT
    path: str | None = None
    """Where programs are searched for; None for the environment's `PATH`."""
    within_s: float = _WITHIN_S

    @property
    def program(self) -> Path | None:
        own = self._which("promtool")
        return own or (self._brought if os.access(self._brought, os.X_OK) else None)

    @property
    def why_not(self) -> str:
        """Why there is no program, in a sentence."""
        told = self._refusal.read_text().strip() if self._refusal.is_file() else f"it was not brought: {COMMAND}"
        return f"promtool did not run: {told}"

    def make(self, *, again: bool = False) -> None:
        """Brings the program, unless it is here or was refused lately. Raises `NotMade`; a second process waits.

        `again` asks in spite of a refusal.
        """
        if self.program:
            return
        with self._locked():
            if self.program:
                return
            if not again and self._is_refused:
                raise NotMade(self.why_not)
            try:
                self._bring()
            except NotMade as problem:
                self._refusal.write_text(f"{problem}\n")
                raise
            self._refusal.unlink(missing_ok=True)

    def _bring(self) -> None:
        if not (apt := self._which("apt-get")) or not (dpkg := self._which("dpkg-deb")):
            raise NotMade("it is not on PATH, and there is no apt to bring it")
        ends_at = time.monotonic() + self.within_s
        folder = self.root / "package"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            self._download(apt, folder, ends_at)
            [package] = folder.glob("*.deb")
            self._run([str(dpkg), "--fsys-tarfile", str(package)], folder, ends_at, folder / "files.tar")
            self._unpack(folder / "files.tar")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _download(self, apt: Path, folder: Path, ends_at: float) -> None:
        """By the machine's lists of packages, else by lists of our own."""
        options = [word for option in _PATIENCE for word in ("-o", option)]
        try:
            self._run([str(apt), "-q", *options, "download", _PACKAGE], folder, ends_at)
        except NotMade:
            (folder / "lists" / "partial").mkdir(parents=True)
            places = {"Dir::State::Lists": folder / "lists", "Dir::Cache": folder / "cache"}
            options += [word for name, place in places.items() for word in ("-o", f"{name}={place}/")]
            self._run([str(apt), "-q", *options, "update"], folder, ends_at)
            self._run([str(apt), "-q", *options, "download", _PACKAGE], folder, ends_at)

    def _unpack(self, files: Path) -> None:
        """Written beside its place and moved there, so that nobody sees half of it."""
        half = self.root / "promtool.half"
        try:
            with tarfile.open(files) as archive, half.open("wb") as target:
                member = archive.extractfile(_MEMBER)
                if member is None:
                    raise NotMade(f"the package {_PACKAGE} has no promtool")
                shutil.copyfileobj(member, target)
        except (KeyError, tarfile.TarError) as problem:
            raise NotMade(f"the package {_PACKAGE} has no promtool: {problem}") from problem
        half.chmod(0o755)
        half.replace(self._brought)

    def _run(self, command: Sequence[str], folder: Path, ends_at: float, output: Path | None = None) -> None:
        """Raises `NotMade` with the last line of what it said."""
        target = output or folder / "said"
        try:
            with target.open("wb") as stream:
                done = subprocess.run(
                    command,
                    cwd=folder,
                    env=inherited() | {"LC_ALL": "C"},
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.PIPE,
                    timeout=max(0.1, ends_at - time.monotonic()),
                    check=False,
                )
        except subprocess.TimeoutExpired as timeout:
            raise NotMade(f"{Path(command[0]).name} took longer than {self.within_s:g} s") from timeout
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or [f"it ended with {done.returncode}"]
            raise NotMade(f"{Path(command[0]).name} could not bring it: {said[-1]}")

    @property
    def _brought(self) -> Path:
        return self.root / "promtool"

    @property
    def _refusal(self) -> Path:
        return self.root / "refused"

    @property
    def _is_refused(self) -> bool:
        return self._refusal.is_file() and time.time() - self._refusal.stat().st_mtime < _REFUSAL_HOLDS_S

    def _which(self, name: str) -> Path | None:
        found = shutil.which(name, path=self.path)
        return Path(found) if found else None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root.parent / ".gitignore").write_text("*\n")
        with (self.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def prepare(*, again: bool = False) -> list[str]:
    """Brings promtool where it is not here yet; a text if it could not."""
    tool = Promtool()
    try:
        tool.make(again=again)
    except NotMade:
        return [tool.why_not]
    return []


def are_needed(pytest_arguments: Sequence[str]) -> bool:
    """Whether the chosen tests may run promtool: nothing named on the command line chooses every test."""
    return are_chosen(pytest_arguments, [HERE])


def main() -> int:
    problems = prepare(again=True)
    for problem in problems:
        print(problem, file=sys.stderr)
    return len(problems)


if __name__ == "__main__":
    sys.exit(main())
