"""Node processes of the client tests: one that plays scenarios of Node's clients, one that is a mock provider.

Both run the scripts in `node/` with the packages of the locked node environment, and neither can reach anything but this
machine (`node/only_local.mjs`). The scripts are copied beside a link to the packages, because Node looks for packages in the
folders above a script.
"""

import itertools
import json
import shutil
import subprocess
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.clients import environments
from tests.rig.environment import inherited
from tests.rig.waiting import PATIENCE_S

_SCRIPTS = environments.HERE / "node"


class Exchange(NamedTuple):
    """One request over the wire and the status of its answer."""

    request: str
    """Method and path."""
    status: int


@dataclass(frozen=True)
class Seen:
    """What a client saw: a result, or the error it raised; and what went over the wire for it, retries included."""

    result: Any
    error: Any
    exchanges: list[Exchange]

    @property
    def requests(self) -> list[str]:
        return [exchange.request for exchange in self.exchanges]


@dataclass(frozen=True)
class Running:
    """A scenario under way."""

    exchanges: list[Exchange] = field(default_factory=list)
    """They are added as they happen."""
    ended: "Future[Seen]" = field(default_factory=Future)

    def seen(self) -> Seen:
        """Waits for the end."""
        return self.ended.result(2 * PATIENCE_S)


def scripts(folder: Path) -> Path:
    """The scripts, in `folder`, next to their packages."""
    for script in _SCRIPTS.glob("*.mjs"):
        shutil.copy(script, folder)
    (folder / "node_modules").symlink_to(environments.node().parents[1] / "node_modules")
    return folder


class _Script:
    """A script that takes JSON lines and gives JSON lines."""

    def __init__(self, folder: Path, name: str) -> None:
        self._stderr_path = folder / f"{name}.stderr"
        with self._stderr_path.open("wb") as stderr:
            self._process = subprocess.Popen(
                [str(environments.node()), "--import", "./only_local.mjs", name],
                cwd=folder,
                env=inherited(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    @property
    def stderr(self) -> str:
        return self._stderr_path.read_text(errors="replace")

    @property
    def stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def write(self, message: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        try:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            self.stdout.close()


class NodeHost:
    """Plays scenarios of `node/host.mjs`, several at once where a test wants that."""

    def __init__(self, folder: Path) -> None:
        self._script = _Script(folder, "host.mjs")
        self._numbers = itertools.count(1)
        self._running: dict[int, Running] = {}
        self._reader = threading.Thread(target=self._read, name="node-host", daemon=True)
        self._reader.start()

    def begin(self, suite: str, scenario: str, **options: Any) -> Running:
        """Starts a scenario and waits for nothing."""
        number = next(self._numbers)
        self._running[number] = running = Running()
        self._script.write({"id": number, "suite": suite, "scenario": scenario, "options": options})
        return running

    def run(self, suite: str, scenario: str, **options: Any) -> Seen:
        return self.begin(suite, scenario, **options).seen()

    @property
    def stderr(self) -> str:
        return self._script.stderr

    def close(self) -> None:
        self._script.close()
        self._reader.join(PATIENCE_S)

    def _read(self) -> None:
        for line in self._script.stdout:
            said = json.loads(line)
            running = self._running[said["id"]]
            if "request" in said:
                running.exchanges.append(Exchange(said["request"], said["status"]))
            else:
                running.ended.set_result(Seen(said.get("result"), said.get("error"), running.exchanges))
        for running in self._running.values():
            if not running.ended.done():
                running.ended.set_exception(AssertionError(f"the node process ended: {self.stderr[-4000:]}"))


class Aimock:
    """The mock provider, listening at `url` with these fixtures until `close()`."""

    def __init__(self, folder: Path, fixtures: list[dict[str, Any]]) -> None:
        self._script = _Script(folder, "aimock.mjs")
        self._script.write(fixtures)
        line = self._script.stdout.readline()
        assert line, self._script.stderr[-4000:]
        self.url: str = json.loads(line)["url"]

    @property
    def stderr(self) -> str:
        return self._script.stderr

    def close(self) -> None:
        self._script.close()
