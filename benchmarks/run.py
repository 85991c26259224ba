"""`python -m benchmarks.run`: the gateway beside nginx and LiteLLM's proxy, in one run.

    1. build the mock upstream and the load generator, start the upstream
    2. start each target, take its start-up time, warm it up, freeze it
    3. for each round and each measurement: thaw one target, load it, note what it used, freeze it again
    4. the gateway accounts for every call it served
    5. print the tables

Targets run on one core; load and upstream share another. Measurements are interleaved, so that whatever else the
machine does falls on all targets alike. Exit status 1 when the gateway's ledger is not exact: such a run is void.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from benchmarks.machine import (
    BUILD,
    TargetFailed,
    choose_cores,
    core_busy_s,
    describe_machine,
    fdatasync_ms,
    filesystem_of,
)
from benchmarks.native import BuildFailed, Upstream, run_load
from benchmarks.targets.base import Direct, Target, Unavailable
from benchmarks.targets.gateway import Gateway, LedgerCheck, OneLimit, Seen
from benchmarks.targets.peers import LiteLLM, Nginx
from benchmarks.targets.scaled import Scaled, ScaledTwo

_GRACE_S = 20
_EVENTS_A_STREAM = 67  # 64 of content, the stop, the usage, [DONE]
_TARGETS: dict[str, type[Target]] = {
    target.name: target for target in (Direct, Gateway, OneLimit, Scaled, ScaledTwo, Nginx, LiteLLM)
}


@dataclass(frozen=True)
class Measure:
    """One kind of load: `saturated` and `paced`, `unpaced` streams by callers at once, `steady` by calls a second."""

    kind: str
    level: int

    def arguments(self, seconds: float) -> list[str]:
        """For the load generator. Streams are not warmed up: their first burst is part of the test."""
        stream = ["-c", str(self.level), "-d", str(seconds), "-w", "0", "-s", "-x", str(_EVENTS_A_STREAM)]
        return {
            "saturated": ["-c", str(self.level), "-d", str(seconds), "-m", "mock-1"],
            # Twice the time: a hundred calls a second are few to take a 99th percentile from.
            "steady": ["-c", "64", "-r", str(self.level), "-d", str(2 * seconds), "-m", "mock-1"],
            "paced": [*stream, "-m", "mock-f200d10n64"],
            "unpaced": [*stream, "-m", "mock-f0d0n64"],
        }[self.kind] + ["-g", str(_GRACE_S)]


PLAN = (
    Measure("saturated", 1),
    Measure("saturated", 64),
    Measure("saturated", 256),
    Measure("steady", 20),
    Measure("steady", 100),
    Measure("paced", 100),
    Measure("paced", 500),
    Measure("paced", 2000),
    Measure("unpaced", 50),
)


class _Usage(NamedTuple):
    """Processor time at one instant, of everything on the target's core and of the target."""

    at: float
    core_s: float
    cpu_s: float


class Bench:
    """One run: the upstream, the targets that started, and the rows measured so far."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.target_core: int | None
        self.load_core: int | None
        self.target_core, self.load_core = choose_cores()
        self.folder = folder
        self.seconds = seconds
        self.upstream = Upstream(self.load_core, folder)
        self.targets: list[Target] = []
        self.rows: list[dict[str, Any]] = []
        self.left_out: dict[str, str] = {}
        self._seen: dict[str, Seen] = {}
        self._upstream_requests: dict[str, int] = {}

    def start(self, name: str) -> None:
        """Starts one target, or notes why it is left out. A gateway that does not start ends the run."""
        target = _TARGETS[name](self.folder, self.upstream.port, self.target_core)
        try:
            self.targets.append(target)
            target.start()
        except (Unavailable, TargetFailed) as exc:
            if name == Gateway.name:
                raise
            self.targets.remove(target)
            target.stop()
            self.left_out[name] = str(exc)
            _say(f"{name} is left out: {exc}")
            return
        self._load(target, ["-c", "8", "-d", "1.5", "-w", "0", "-m", "mock-1"])
        self._load(target, ["-c", "8", "-d", "0.5", "-w", "0", "-m", "mock-f0d0n64", "-s"])
        target.freeze()
        _say(f"{name} {target.version}: ready after {target.startup_s or 0:.2f} s")

    def run(self, rounds: int, kinds: Sequence[str]) -> None:
        for number in range(1, rounds + 1):
            for measure in (measure for measure in PLAN if measure.kind in kinds):
                for target in self.targets:
                    if measure.kind == "paced" and measure.level > target.streams_max:
                        continue
                    self.measure(target, measure, number)

    def measure(self, target: Target, measure: Measure, number: int) -> None:
        """One measurement of one target, which is frozen again afterwards; adds a row."""
        target.thaw()
        if target.process:
            target.process.wait_quiet()
        row = self._load(target, measure.arguments(self.seconds))
        row.update(target=target.name, kind=measure.kind, level=measure.level, round=number)
        row["pss_mb"] = target.process.pss_mb() if target.process else None
        if target.process:
            target.process.wait_quiet()
        target.freeze()
        self.rows.append(row)
        _say(report.one_line(row))

    def _load(self, target: Target, arguments: list[str]) -> dict[str, Any]:
        """Loads one target; adds what it cost and what the upstream saw to what the load generator says."""
        work_before = target.work() if isinstance(target, Gateway) else {}
        asked_before, before = self.upstream.stats(), self._usage(target)
        row = run_load(target.url, target.key, arguments, self.load_core, timeout_s=8 * self.seconds + _GRACE_S + 60)
        after, asked_after = self._usage(target), self.upstream.stats()
        cpu_s = after.cpu_s - before.cpu_s if target.process else None
        row["cpu_s"] = cpu_s
        work = target.work() if isinstance(target, Gateway) else {}
        row["work"] = {name: count - work_before[name] for name, count in work.items()}
        row["cpu_us_a_call"] = _share(cpu_s, row["answered"])
        row["cpu_us_an_event"] = _share(cpu_s, row.get("events", 0))
        others_s = after.core_s - before.core_s - (cpu_s or 0)
        row["others_share"] = max(0.0, others_s / (after.at - before.at)) if target.process else None
        row["upstream_connections"] = asked_after["connections"] - asked_before["connections"] - 1
        self._account(target.name, row, asked_after["requests"] - asked_before["requests"])
        return row

    def _usage(self, target: Target) -> _Usage:
        core_s = core_busy_s(self.target_core) if self.target_core is not None else 0.0
        return _Usage(time.monotonic(), core_s, target.process.cpu_s() if target.process else 0.0)

    def _account(self, name: str, row: dict[str, Any], asked: int) -> None:
        seen = self._seen.get(name, Seen())
        unclear = row["failed"] + row["unfinished"] + row["non_200"]
        self._seen[name] = Seen(seen.ok + row["ok"], seen.unclear + unclear)
        self._upstream_requests[name] = self._upstream_requests.get(name, 0) + asked

    def check_ledgers(self) -> dict[str, LedgerCheck]:
        """Each gateway's account of the whole load, by the target's name."""
        checks = {}
        for target in self.targets:
            if isinstance(target, Gateway) and not isinstance(target, OneLimit):
                target.thaw()
                checks[target.name] = target.check_ledger(self._seen[target.name], self._upstream_requests[target.name])
        return checks

    def stop(self) -> None:
        for target in self.targets:
            target.stop()
        self.upstream.stop()


def _share(cpu_s: float | None, count: int) -> float | None:
    """Microseconds of processor time for each of `count`."""
    return cpu_s * 1e6 / count if cpu_s is not None and count else None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5, help="length of one measurement (default 5, at most 60)")
    parser.add_argument(
        "--rounds", type=int, default=2, help="how often each is repeated; medians are shown (default 2)"
    )
    parser.add_argument("--only", help=f"these targets, separated by commas: {', '.join(_TARGETS)}")
    kinds = tuple(dict.fromkeys(measure.kind for measure in PLAN))
    parser.add_argument("--kinds", help=f"these kinds of load, separated by commas: {', '.join(kinds)}")
    parser.add_argument(
        "--no-litellm", action="store_true", help="leave LiteLLM's proxy out (its first run installs it)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to FILE")
    parser.add_argument("--keep", action="store_true", help="keep the run's folder: data, logs, configuration")
    arguments = parser.parse_args(argv)
    names = arguments.only.split(",") if arguments.only else list(_TARGETS)
    unknown = [name for name in names if name not in _TARGETS]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}")
    arguments.kinds = arguments.kinds.split(",") if arguments.kinds else kinds
    if strange := [kind for kind in arguments.kinds if kind not in kinds]:
        parser.error(f"no such kind of load: {', '.join(strange)}")
    if not 0 < arguments.seconds <= 60 or not 1 <= arguments.rounds <= 20:
        parser.error("--seconds goes up to 60, --rounds up to 20")
    arguments.names = [name for name in names if not (arguments.no_litellm and name == LiteLLM.name)]
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends what was started
    BUILD.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=BUILD))
    started_at = time.time()
    bench = None
    try:
        bench = Bench(folder, arguments.seconds)
        machine = describe_machine()
        disk = {"fdatasync_ms": fdatasync_ms(folder), "filesystem": filesystem_of(folder)}
        for name in arguments.names:
            bench.start(name)
        bench.run(arguments.rounds, arguments.kinds)
        checks = bench.check_ledgers()
        result = report.Result(
            measured_at=started_at,
            took_s=time.time() - started_at,
            command=" ".join(["python -m benchmarks.run", *(argv if argv is not None else sys.argv[1:])]),
            machine=machine,
            is_pinned=bench.target_core is not None,
            disk=disk,
            targets=[report.TargetFacts(t.name, t.version, t.startup_s) for t in bench.targets],
            left_out=bench.left_out,
            rows=bench.rows,
            checks=checks,
        )
    except (BuildFailed, TargetFailed, Unavailable) as exc:
        _say(f"benchmark: {exc}")
        return 2
    finally:
        if bench:
            bench.stop()
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(report.markdown(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result.as_json(), indent=1) + "\n")
    return 0 if all(check.is_valid for check in checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
