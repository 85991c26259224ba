"""A program in a warm interpreter is alone, is told all that it was started with, and ends as it would have ended by itself."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.environment import inherited
from tests.rig.waiting import eventually
from tests.rig.warm import warm_command

PYTHON = Path(sys.executable)


def ran(
    tmp_path: Path, text: str, *arguments: str, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    (tmp_path / "program.py").write_text(text)
    return subprocess.run(
        [*warm_command(PYTHON, "program.py", "called"), *arguments],
        cwd=tmp_path,
        env={**inherited(), **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_streams_arguments_environment_and_folder_are_those_it_was_started_with(tmp_path: Path) -> None:
    text = "import os, sys\nprint(sys.argv, os.environ['A'], os.getcwd(), sys.stdin.read(), __name__)\nprint('x', file=sys.stderr)"
    done = ran(tmp_path, text, "--b", stdin="said", A="1")
    assert done.stdout == f"['called', '--b'] 1 {tmp_path} said __main__\n"
    assert (done.stderr, done.returncode) == ("x\n", 0)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import nowhere", 1, "ModuleNotFoundError"),
        ("(", 1, "SyntaxError"),
        ("import atexit\natexit.register(print, 'late')", 0, ""),
    ],
)
def test_a_program_ends_as_it_would_by_itself(text: str, code: int, said: str, tmp_path: Path) -> None:
    done = ran(tmp_path, text)
    alone = subprocess.run([PYTHON, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, alone.stdout) == (alone.returncode, alone.stdout)
    assert said in done.stderr
    assert bool(done.stderr) == bool(alone.stderr)


def test_nothing_of_a_program_is_seen_by_the_next(tmp_path: Path) -> None:
    leave = "import json, os, sys\nos.environ['LEFT'] = '1'\njson.left = 1\nsys.path.append('left')\nprint(os.getpid())"
    look = "import json, os, sys\nprint('LEFT' in os.environ, hasattr(json, 'left'), 'left' in sys.path)\nprint(os.getpid())"
    first = ran(tmp_path, leave).stdout.split()
    seen = ran(tmp_path, look).stdout.split()
    assert seen[:3] == ["False", "False", "False"]
    assert first[0] != seen[3]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 7)])
def test_a_signal_reaches_the_program(number: signal.Signals, code: int, tmp_path: Path) -> None:
    waits = (
        "import signal, sys, time\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(7))\nprint('ready', flush=True)\n"
    )
    (tmp_path / "program.py").write_text(f"{waits}time.sleep(60)")
    command = warm_command(PYTHON, tmp_path / "program.py")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(60) == code


def test_a_program_ends_with_the_process_that_stands_for_it(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    with subprocess.Popen(warm_command(PYTHON, tmp_path / "program.py"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.kill()
        eventually(lambda: not Path(f"/proc/{pid}").exists(), "the program to end")
