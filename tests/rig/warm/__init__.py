"""Programs that begin in an interpreter which has imported their libraries already: what takes a test long is the importing.

A warm interpreter is one process for each Python a test run uses. It imports, and forks for each program that is to be run; so
every program has a process, an environment, a folder and streams of its own, as if it had been started by itself, and
nothing of one is seen by another. It lives as long as the process that asked for it.
"""

import atexit
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.rig.environment import REPOSITORY, inherited
from tests.rig.waiting import eventually
from tests.rig.warm.process import WarmProcess

__all__ = ["WarmProcess", "begin_gateway", "warm_command"]

_HERE = Path(__file__).parent
_SETTLED = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "TZ": "UTC",
    "COLUMNS": "400",
}
"""What libraries read while they are imported; the same for every program."""
_ONLY_BY_ITSELF = {"COVERAGE_PROCESS_CONFIG", "PYTHONPATH"}
"""What an interpreter reads when it starts. The first is coverage's, for the processes of one whose lines it counts."""
_sockets: dict[Path, Path] = {}


def warm_command(python: Path, program: Path | str, called: str = "") -> list[str]:
    """What to start instead of `python program`, with arguments after it; `called` is its `sys.argv[0]`.

    Signals that the started process gets are passed on, and the program ends with it.
    """
    socket = _interpreter(python)
    client = [sys.executable, "-I", "-S", str(_HERE / "client.py")]
    return [*client, str(socket), str(program), called or str(program)]


def begin_gateway(
    arguments: Sequence[str], env: Mapping[str, str], stdin: int, stdout: int, stderr: int, *, is_cold: bool = False
) -> WarmProcess | subprocess.Popen[bytes]:
    """`python -m gateway ARGUMENTS`, with these descriptors for its streams.

    By itself where `is_cold`, for tests of the start itself, and where its lines are counted or it finds other modules.
    """
    if is_cold or env.keys() & _ONLY_BY_ITSELF:
        command = [sys.executable, "-m", "gateway", *arguments]
        return subprocess.Popen(command, cwd=REPOSITORY, env=env, stdin=stdin, stdout=stdout, stderr=stderr)
    program = _HERE / "programs" / "serving.py"
    socket = _interpreter(Path(sys.executable))
    return WarmProcess(socket, program, arguments, cwd=REPOSITORY, env=env, streams=[stdin, stdout, stderr])


def _interpreter(python: Path) -> Path:
    return _sockets.get(python) or _begin(python)


def _begin(python: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    socket = _sockets[python] = folder / "socket"
    process = subprocess.Popen(
        [str(python), str(_HERE / "server.py"), str(socket)],
        env={**inherited(), **_SETTLED},
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )

    def end() -> None:
        """Its input ends, and with it the interpreter and what it runs."""
        assert process.stdin is not None
        process.stdin.close()
        process.wait()

    atexit.register(end)
    eventually(socket.exists, f"{python} to be warm")
    return socket
