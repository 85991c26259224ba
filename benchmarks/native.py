"""The two C programs: built when needed, the mock upstream kept running, the load generator run once a measurement."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.local_http import get_json
from benchmarks.machine import BUILD, HERE, Process, environment

_BUILD_TIMEOUT_S = 300


class BuildFailed(Exception):
    """No C compiler, and none could be installed; or the source does not compile."""


def build(name: str) -> Path:
    """The program `name`, compiled from `name`.c unless it is newer than its source. Raises `BuildFailed`."""
    source, program = HERE / f"{name}.c", BUILD / name
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    BUILD.mkdir(exist_ok=True)
    command, env = _compiler()
    done = subprocess.run(
        [*command, "-O2", "-Wall", "-Wextra", "-o", str(program), str(source)],
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=_BUILD_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise BuildFailed(f"{source.name}: {done.stderr}")
    return program


def _compiler() -> tuple[list[str], dict[str, str]]:
    """The system's compiler, else zig's from the package registry, which brings its own C library headers."""
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name], {}
    folder = BUILD / "ziglang"
    if not (folder / "ziglang").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        lock = ["--require-hashes", "--requirement", str(HERE / "ziglang.lock"), "--target", str(folder)]
        if subprocess.run([*pip, *lock], timeout=_BUILD_TIMEOUT_S).returncode != 0:
            raise BuildFailed("no C compiler here (cc, gcc, clang), and ziglang could not be installed")
    return [sys.executable, "-m", "ziglang", "cc"], {"PYTHONPATH": str(folder)}


class Upstream:
    """The mock upstream. `port` is where it listens."""

    def __init__(self, core: int | None, folder: Path) -> None:
        self._process = Process([str(build("upstream"))], core=core, log=folder / "upstream.log")
        self._process.wait_ready(lambda: "port" in self._process.log_end(), timeout_s=5)
        self.port: int = json.loads(self._process.log_end(1))["port"]

    def stats(self) -> dict[str, int]:
        """Requests answered and connections accepted so far; the one that asks is among the connections."""
        counts: dict[str, int] = get_json(f"http://127.0.0.1:{self.port}/stats")
        return counts

    def stop(self) -> None:
        self._process.stop()


def run_load(url: str, key: str, arguments: list[str], core: int | None, timeout_s: float) -> dict[str, Any]:
    """What the load generator printed. Raises `RuntimeError` when it printed nothing."""
    pin = ["taskset", "-c", str(core)] if core is not None and shutil.which("taskset") else []
    done = subprocess.run(
        [*pin, str(build("load")), "-u", url, "-k", key, *arguments], capture_output=True, text=True, timeout=timeout_s
    )
    if done.returncode != 0:
        raise RuntimeError(f"load generator: {done.stderr or done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
