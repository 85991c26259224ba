"""`python client.py SOCKET FILE ARGV0 [ARGUMENTS]`: as if the interpreter behind the socket had been started with them here.

Streams, folder and environment are this process's own. Signals are passed on; the exit code is the program's, or 128 and
the signal that ended it.
"""

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence

_PASSED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT}


def main(path: str, file: str, *arguments: str) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # until it is known whom they are for
    folder, environment = os.getcwd(), dict(os.environ)  # noqa: PTH109, TID251 - handed on as they are
    with begin(path, file, arguments, folder, environment, [0, 1, 2]) as server:
        answers = server.makefile("r")
        pid = int(answers.readline())
        for number in _PASSED_ON:
            signal.signal(number, lambda number, _: os.kill(pid, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        status = int(answers.readline())
    return status if status >= 0 else 128 - status


def begin(
    path: str, file: str, argv: Sequence[str], folder: str, environment: Mapping[str, str], streams: Sequence[int]
) -> socket.socket:
    """The connection over which the interpreter behind `path` tells the process id and, in the end, how the program ended,
    each a line; the program is killed when it is closed. `file` is found in `folder`."""
    request = {"file": os.path.join(folder, file), "argv": argv, "cwd": folder, "env": environment}  # noqa: PTH118
    text = json.dumps(request).encode()
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(path)
        socket.send_fds(server, [struct.pack("!I", len(text))], streams)
        server.sendall(text)
    except BaseException:
        server.close()
        raise
    return server


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
