"""A reader at work: a folder with a gateway of its own in it, and a shell in which the commands of a page are typed.

The folder looks like the repository, as far as commands reach into it. Ports of the pages become free ones, `$KEY` and
`$ADMIN_KEY` are what the first run printed, `$REQUEST_ID` is the id of the latest answer. No proxy and no provider can be reached.
"""

import os
import re
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.clients import environments
from tests.rig.environment import REPOSITORY, inherited
from tests.rig.gateway import free_port
from tests.rig.waiting import eventually
from tests.rig.warm import warm_command

__all__ = ["Session"]

_LINKED = (
    "Makefile",
    "pricing.toml",
    "pyproject.toml",
    "requirements.lock",
    "requirements-dev.lock",
    "deploy",
    "docs",
)
_COMMAND_WITHIN_S = 60.0
_READY_WITHIN_S = 60.0
_PORTS = (8000, 8001, 9000, 9001)
_SERVES = re.compile(r"(^|&&|;)\s*(\w+=\S+\s+)*(make run|\S*gateway serve|\S*python3? -m gateway serve)\b[^&;|]*$")
_AT_REST = re.compile(r"\bgateway db (restore|upgrade)\b")
_READY = re.compile(r'^\{.*"event":"serving".*\}$', re.MULTILINE)
_REQUEST_ID = re.compile(r"\breq_[0-9a-f]{32}\b")
_SETUP = """
set -m
make() { command make --old-file=.venv/.installed --old-file=.venv/.installed-dev "$@"; }
"""


class Session:
    """Open until `close()`. `settings` are those the text around the commands asks for, without `GATEWAY_`."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.ports = {port: free_port() for port in _PORTS}
        self.key = self.admin_key = ""
        self.status = 0
        """What the latest command ended with."""
        self._serving = 0
        self._others: list[int] = []
        self._lay_out()
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=self._environment(settings or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.type(_SETUP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What a reader does

    def serve(self, command: str = ".venv/bin/gateway serve") -> str:
        """What a gateway prints until it serves; one that ran before is stopped."""
        self.stop()
        self.status = 0
        out = self.folder / "serve.out"
        self._serving = self._in_background(self.real(command), out)
        eventually(lambda: self._is_ready_or_over(out), f"{command} to serve", _READY_WITHIN_S)
        printed = out.read_text()
        self._keep_keys(printed)
        return self.as_shown(printed[: _end_of_line(printed, _READY)])

    def run(self, command: str) -> str:
        """What `command` prints."""
        if _SERVES.search(command):
            return self.serve(command)
        if _AT_REST.search(command):
            self.stop()
        else:
            self._see_that_it_serves()
        self.status, printed = self._typed(self.real(command))
        if found := _REQUEST_ID.findall(printed):
            self.type(f"export REQUEST_ID={found[-1]}")
        return self.as_shown(printed)

    def program(self, name: str, text: str, interpreter: str) -> str:
        """What a program prints. One that serves goes on until the session ends, and has printed nothing yet."""
        self._see_that_it_serves()
        file = self.folder / name
        file.write_text(self.real(text))
        if "serve_forever" not in text:
            return self.run(_begin(interpreter, name))
        command = f"{interpreter} {shlex.quote(name)}"
        self.status = 0
        self._others.append(self._in_background(f"PYTHONUNBUFFERED=1 {command}", self.folder / f"{name}.out"))
        ports = [real for port, real in self.ports.items() if str(port) in text]
        eventually(lambda: all(_is_listening(port) for port in ports), f"{name} to listen")
        return ""

    def node(self, text: str, name: str) -> str:
        """What a program of Node's prints; it reaches no other machine."""
        packages = environments.node().parents[1] / "node_modules"
        if not (self.folder / "node_modules").exists():
            (self.folder / "node_modules").symlink_to(packages)
        guard = shlex.quote(str(environments.HERE / "node" / "only_local.mjs"))
        return self.program(name, text, f"{environments.node()} --import {guard}")

    def begin_page(self) -> None:
        """Another page: the keys are those of the first run again."""
        self.type(f"export KEY={shlex.quote(self.key)} ADMIN_KEY={shlex.quote(self.admin_key)}; unset REQUEST_ID")

    def stop(self) -> None:
        """Ends the gateway, if one runs, as an operator would."""
        if self._serving:
            self._typed(f"kill -TERM -- -{self._serving}; wait {self._serving}")
            self._serving = 0

    def close(self) -> None:
        """Ends everything that was started here."""
        for group in filter(None, (self._serving, *self._others, self._shell.pid)):
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self._shell.wait(_COMMAND_WITHIN_S)
        for pipe in (self._shell.stdin, self._shell.stdout):
            if pipe:
                pipe.close()

    # Between the page and this machine

    def real(self, text: str) -> str:
        """`text` of a page with the ports and keys of this session."""
        for port, real in self.ports.items():
            text = re.sub(rf'((?:127\.0\.0\.1|localhost)(?::|", )){port}\b', rf"\g<1>{real}", text)
        for written, key in (("sk-gwadmin-...", self.admin_key), ("sk-gw-...", self.key)):
            text = text.replace(written, key)
        if "whsec_..." in text:
            text = text.replace("whsec_...", self.type(".venv/bin/gateway notices secret").strip())
        return text

    def as_shown(self, text: str) -> str:
        """`text` of this session with the ports of a page."""
        for port, real in self.ports.items():
            text = re.sub(rf"\b{real}\b", str(port), text)
        return text.replace(str(self.folder) + "/", "")

    # Inner steps

    def _lay_out(self) -> None:
        """With a `gateway` that begins in an interpreter which has imported it already."""
        for name in _LINKED:
            (self.folder / name).symlink_to(REPOSITORY / name)
        theirs = self.folder / ".venv" / "bin"
        theirs.mkdir(parents=True)
        real = REPOSITORY / ".venv"
        for path in [*real.iterdir(), *(real / "bin").iterdir()]:
            if path.name not in ("bin", "gateway"):
                (self.folder / ".venv" / path.relative_to(real)).symlink_to(path)
        gateway = theirs / "gateway"
        begin = shlex.join(warm_command(real / "bin" / "python", real / "bin" / "gateway", "gateway"))
        gateway.write_text(f'#!/bin/sh\nexec {begin} "$@"\n')
        gateway.chmod(0o755)

    def _see_that_it_serves(self) -> None:
        if not self._serving:
            self.serve()

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        named = {f"GATEWAY_{name}": self.real(value) for name, value in settings.items()}
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"), "http://127.0.0.1:9")
        base = inherited()
        return {
            **base,
            **proxies,
            "no_proxy": "127.0.0.1,localhost",
            "NO_PROXY": "127.0.0.1,localhost",
            "PATH": f"{self.folder / '.venv' / 'bin'}:{base['PATH']}",
            "GATEWAY_PORT": str(self.ports[8000]),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks another machine for prices
            "COLUMNS": "400",
            "TZ": "UTC",
            **named,
        }

    def _keep_keys(self, printed: str) -> None:
        for name, pattern in (("key", r"\bsk-gw-\S+"), ("admin_key", r"\bsk-gwadmin-\S+")):
            if found := re.search(pattern, printed):
                value = found[0].rstrip('"')
                setattr(self, name, value)
                self.type(f"export {name.upper()}={shlex.quote(value)}")

    def _in_background(self, command: str, out: Path) -> int:
        """The process group in which `command` runs on."""
        script = self.folder / f"{out.name}.sh"
        script.write_text(command + "\n")
        out.write_text("")
        printed = self.type(f"( trap : TERM; . ./{script.name} ) </dev/null >{shlex.quote(out.name)} 2>&1 & echo $!")
        return int(printed)

    def _is_ready_or_over(self, out: Path) -> bool:
        printed = out.read_text()
        assert _is_alive(self._serving), f"the gateway ended:\n{printed[-4000:]}"
        return _READY.search(printed) is not None

    def type(self, command: str) -> str:
        """What the shell printed for a command that must end well, whether or not a gateway runs."""
        status, printed = self._typed(command)
        assert status == 0, f"{command!r} ended with {status}:\n{printed[-4000:]}"
        return printed

    def _typed(self, command: str) -> tuple[int, str]:
        """How `command` ended and what the shell printed for it; functions, variables and folders stay for the next one."""
        script, out = self.folder / ".typed", self.folder / ".printed"
        script.write_text(command + "\n")
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f". {script} </dev/null >{out} 2>&1; echo $?\n".encode())
        self._shell.stdin.flush()
        ready, _, _ = select.select([self._shell.stdout], [], [], _COMMAND_WITHIN_S)
        assert ready, f"{command!r} is not over after {_COMMAND_WITHIN_S:g} s:\n{out.read_text()[-4000:]}"
        status = os.read(self._shell.stdout.fileno(), 64)
        assert status, f"{command!r} ended the shell"
        return int(status), out.read_text(errors="replace")


def _begin(interpreter: str, name: str) -> str:
    """How a program is started: in a warm interpreter, where many are of that one."""
    if Path(interpreter) in (environments.python_of("openai3"), Path(sys.executable)):
        return shlex.join(warm_command(Path(interpreter), name))
    return f"{interpreter} {shlex.quote(name)}"


def _end_of_line(text: str, pattern: re.Pattern[str]) -> int:
    found = pattern.search(text)
    return found.end() if found else len(text)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _is_listening(port: int) -> bool:
    return any(
        line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
    )
