"""`python -m benchmarks.profile`: where the gateway's processor time goes under load.

Runs the gateway alone at 64 callers (or with `--streams N` paced streams) and samples it meanwhile: `perf` splits the
time by library and kernel symbol, `py-spy` by Python frame. Either is used when it is on the PATH; a profiler inside
the process would measure itself.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.machine import BUILD
from benchmarks.run import Bench, Measure

_HZ = 199
_LINE_NUMBER = re.compile(r":\d+\)$")


def _perf(pid: int, seconds: float, data: Path) -> list[str]:
    return ["perf", "record", "-q", "-F", str(_HZ), "-g", "-p", str(pid), "-o", str(data), "sleep", str(seconds)]


def _py_spy(pid: int, seconds: float, data: Path) -> list[str]:
    """Only threads that hold the interpreter lock: otherwise every thread that waits for work would count."""
    options = ["--gil", "-r", str(_HZ), "-d", str(int(seconds)), "-f", "raw", "-o", str(data)]
    return ["py-spy", "record", *options, "-p", str(pid)]


def _show_perf(data: Path) -> None:
    for title, fields in (("by thread", "pid"), ("by library", "dso"), ("by symbol", "dso,symbol")):
        command = ["perf", "report", "-i", str(data), "--no-children", "-g", "none", "--stdio", "--sort", fields]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
        lines = [line for line in shown.stdout.splitlines() if line.strip() and not line.startswith("#")]
        print(f"\nperf, {title}\n" + "\n".join(line.rstrip(" -") for line in lines[:25]))


def _show_py_spy(data: Path) -> None:
    """Share of samples in which a function is the innermost one, and in which it is anywhere on the stack."""
    innermost: Counter[str] = Counter()
    anywhere: Counter[str] = Counter()
    total = 0
    for line in data.read_text().splitlines():
        stack, _, count_text = line.rpartition(" ")
        functions, count = [_LINE_NUMBER.sub(")", frame) for frame in stack.split(";")], int(count_text)
        total += count
        innermost[functions[-1]] += count
        anywhere.update(dict.fromkeys(functions, count))
    for title, counts in (("innermost function", innermost), ("function anywhere", anywhere)):
        print(f"\npy-spy, {title}")
        for function, count in counts.most_common(45):
            print(f"{count / total:6.1%}  {function}")


_PROFILERS = {"perf": (_perf, _show_perf), "py-spy": (_py_spy, _show_py_spy)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--streams", type=int, default=0, help="paced streams instead of 64 callers")
    arguments = parser.parse_args()
    available = [name for name in _PROFILERS if shutil.which(name)]
    if not available:
        print("neither perf nor py-spy is on the PATH", file=sys.stderr)
        return 2
    measure = Measure("paced", arguments.streams) if arguments.streams else Measure("saturated", 64)
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="profile-", dir=BUILD) as name:
        folder = Path(name)
        bench = Bench(folder, arguments.seconds + 2)
        try:
            bench.start("gateway")
            for profiler in available:
                _profile(bench, measure, profiler, arguments.seconds, folder / f"{profiler}.out")
        finally:
            bench.stop()
    return 0


def _profile(bench: Bench, measure: Measure, profiler: str, seconds: float, data: Path) -> None:
    command, show = _PROFILERS[profiler]
    gateway = bench.targets[0]
    assert gateway.process is not None
    gateway.thaw()
    sampling = subprocess.Popen(
        command(gateway.process.pid, seconds, data), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    bench.measure(gateway, measure, 1)
    sampling.wait(120)
    if data.exists():
        show(data)
    else:
        print(f"{profiler} wrote nothing: it may lack the permission to sample", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
