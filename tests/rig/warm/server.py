"""`python server.py SOCKET`: an interpreter that keeps what programs import, and forks for each of them.

It runs in whatever environment it is started in, and so imports nothing but the standard library by itself. A request says
which file to run, with which arguments, environment, folder and streams (`client.py`). What a program names as imports is
imported here before the fork, and so is what two programs had imported when they ended. Threads would not survive a fork: an
interpreter that has any refuses.
"""

import ast
import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import selectors
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

_LENGTH = struct.Struct("!I")
_STREAMS = 3
_MODULES_BYTES_MAX = 2**20
_seen_once: set[str] = set()
"""What some program has imported. Importing it here, too, is worth it when a second one does."""


class Program(NamedTuple):
    """One that runs, or has just ended."""

    pid: int
    client: socket.socket
    imported: int
    """A file in memory into which it writes what it has imported."""
    watched: int
    """A descriptor that is readable when it has ended."""


def main(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen()
    Path(f"{path}.new").rename(path)  # clients find it when somebody listens
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        serve(selector, listener)
    shutil.rmtree(Path(path).parent)


def serve(selector: selectors.BaseSelector, listener: socket.socket) -> None:
    """Until the one who started it has gone: its standard input ends then."""
    running: dict[int, Program] = {}
    while True:
        for key, _ in selector.select():
            program = key.data
            if key.fileobj is sys.stdin:
                for each in running.values():
                    os.kill(each.pid, signal.SIGKILL)
                return
            if key.fileobj is listener:
                program = begin(listener)
                running[program.pid] = program
                selector.register(program.watched, selectors.EVENT_READ, program)
                selector.register(program.client, selectors.EVENT_READ, program)
            elif key.fileobj == program.watched:
                del running[program.pid]
                selector.unregister(program.watched)
                with contextlib.suppress(KeyError):
                    selector.unregister(program.client)
                end(program)
            elif program.pid in running:  # a client that is not silent was killed
                selector.unregister(program.client)
                os.kill(program.pid, signal.SIGKILL)


def begin(listener: socket.socket) -> Program:
    """The program that is asked for."""
    client, _ = listener.accept()
    first, streams, _, _ = socket.recv_fds(client, _LENGTH.size, _STREAMS)
    (length,) = _LENGTH.unpack(first)
    request = json.loads(client.recv(length, socket.MSG_WAITALL))
    with contextlib.suppress(OSError, SyntaxError):  # the program will say so itself
        learn(imports_of(request["file"]))
    if threading.active_count() != 1:
        raise RuntimeError(f"what was imported has started threads: {threading.enumerate()}")
    imported = os.memfd_create("imported")
    gc.freeze()
    pid = os.fork()
    if not pid:
        become(request, streams, imported)
    for stream in streams:
        os.close(stream)
    client.sendall(f"{pid}\n".encode())
    return Program(pid, client, imported, os.pidfd_open(pid))


def become(request: dict[str, object], streams: list[int], imported: int) -> NoReturn:
    """The program, from here on. Ends as an interpreter ends."""
    os.setpgid(0, 0)
    for number, descriptor in enumerate([*streams, imported]):
        os.dup2(descriptor, number, inheritable=number < _STREAMS)
    os.closerange(_STREAMS + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    environment, arguments = request["env"], request["argv"]
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    os.environ.clear()  # noqa: TID251 - it is another program's now
    os.environ.update(environment)  # noqa: TID251
    time.tzset()
    os.chdir(str(request["cwd"]))
    file = str(request["file"])
    sys.argv = arguments
    sys.path.insert(0, str(Path(file).absolute().parent))
    known = set(sys.modules)
    code = run(file)
    names = [name for name in sys.modules if name not in known]
    os.write(_STREAMS, "\n".join(names).encode()[:_MODULES_BYTES_MAX])
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an interpreter would now take apart, one by one, all that it has imported


def run(file: str) -> int:
    """The exit code of a program that is run as `__main__`."""
    module = types.ModuleType("__main__")
    module.__file__ = file
    sys.modules["__main__"] = module
    try:
        exec(compile(Path(file).read_bytes(), file, "exec"), module.__dict__)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def end(program: Program) -> None:
    _, status = os.waitpid(program.pid, 0)
    with contextlib.suppress(OSError):
        program.client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    program.client.close()
    imported = os.pread(program.imported, _MODULES_BYTES_MAX, 0).decode().splitlines()
    learn(name for name in imported if name in _seen_once)  # in the order in which the program did
    _seen_once.update(imported)
    os.close(program.imported)
    os.close(program.watched)


def imports_of(file: str) -> Iterator[str]:
    """The modules that a program names on its outermost level."""
    for statement in ast.parse(Path(file).read_bytes()).body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module


def learn(names: Iterable[str]) -> None:
    """Imports what programs use; what cannot be imported here, a program may import for itself."""
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


if __name__ == "__main__":
    main(sys.argv[1])
