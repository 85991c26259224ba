"""Runs a server that cannot outlive the tests: `leash.py UID GID PROGRAM ARGUMENT...`, with a pipe as standard input.

When that pipe closes, because its owner closed it, ended or was killed, the server and all it started are killed. A
death signal of the kernel would not do: it belongs to the thread that started the server, and reaches no grandchild.

1. become the parent of whatever the server leaves behind (Linux: `PR_SET_CHILD_SUBREAPER`);
2. start the server, as the given account unless that is `-`, and print its process id;
3. wait until neither it nor an orphan of its is left, then end with its exit code, or 128 + the signal.

Uses the standard library alone and is started by path, so that it is up within milliseconds.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_CANNOT_START = 127
_POLL_S = 0.005


def main(uid: str, gid: str, *command: str) -> int:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    server = os.fork()
    if server == 0:
        _become_server(uid, gid, command)
    os.write(1, f"{server}\n".encode())
    os.close(1)
    threading.Thread(target=_kill_all_when_let_go, daemon=True).start()
    return _wait_for_all(server)


def _become_server(uid: str, gid: str, command: tuple[str, ...]) -> None:
    try:
        if uid != "-":
            os.setgroups([])
            os.setgid(int(gid))
            os.setuid(int(uid))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        os.execv(command[0], command)
    except OSError as problem:
        os.write(2, f"{command[0]}: {problem}\n".encode())
    finally:
        os._exit(_CANNOT_START)


def _wait_for_all(server: int) -> int:
    code = 0
    while True:
        try:
            ended, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return code
        if ended == server:
            exited = os.waitstatus_to_exitcode(status)
            code = exited if exited >= 0 else 128 - exited


def _kill_all_when_let_go() -> None:
    while os.read(0, 1):
        continue
    while True:
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def descendants(ancestor: int) -> list[int]:
    """Every process below this one, parents before their children."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and (stat := process_stat(int(folder.name))):
            children.setdefault(stat[1], []).append(int(folder.name))
    found = [ancestor]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found[1:]


def process_stat(pid: int) -> tuple[str, int] | None:
    """(state letter, parent) of a process, or None when it is gone. See proc(5); the name may hold any character."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
