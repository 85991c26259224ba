"""What the runner knows about a target."""

import time
from abc import ABC, abstractmethod
from pathlib import Path

from benchmarks.local_http import answers, free_port
from benchmarks.machine import Process

MODELS = ("mock-1", "mock-f200d10n64", "mock-f0d10n64", "mock-f0d0n64")
"""Names the mock upstream reads its timing from; each target serves them under the same name."""


class Unavailable(Exception):
    """A peer cannot be measured here; its row is left out and the reason printed."""


class Target(ABC):
    """One thing under load. `start` is called once, then `url` and `key` are valid."""

    name: str
    version: str = ""
    key: str = "none"
    streams_max: int = 10_000
    """More concurrent streams than this are not tried."""
    process: Process | None = None
    startup_s: float | None = None

    def __init__(self, folder: Path, upstream_port: int, core: int | None) -> None:
        self.folder = folder
        self.upstream_port = upstream_port
        self.core = core
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"

    @abstractmethod
    def start(self) -> None:
        """Installs what is missing, starts it, waits until it serves. Raises `Unavailable` or `TargetFailed`."""

    def stop(self) -> None:
        if self.process:
            self.process.stop()

    def freeze(self) -> None:
        if self.process:
            self.process.freeze()

    def thaw(self) -> None:
        if self.process:
            self.process.thaw()

    def _launch(self, command: list[str], ready_path: str | None, env: dict[str, str]) -> None:
        """Starts `command` and takes the time until `ready_path` answers 200 (None: until the port opens)."""
        started = time.perf_counter()
        self.process = Process(command, core=self.core, log=self.folder / f"{self.name}.log", env=env)
        self.process.wait_ready(lambda: answers(self.port, ready_path), timeout_s=120)
        self.startup_s = time.perf_counter() - started


class Direct(Target):
    """The upstream itself: what is left when there is no gateway."""

    name = "direct"

    def start(self) -> None:
        self.port = self.upstream_port
