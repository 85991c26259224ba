"""One worker of several: `python -m gateway.worker JSON`, started by `gateway.workers` and by nobody else.

The sockets it serves on are its supervisor's, inherited. Between the two goes a pair of sockets, a word a line:
- it says `ready`, or `refused "why"` before it ends with exit code 2;
- it is told `drain`, `hand_over`, `hurry`, `reload`. The end of the line means that its supervisor is gone: it stops too.

Both may be of different versions while a gateway is being replaced: words unknown here are passed over.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypedDict

import orjson
import structlog
import uvloop

from gateway.config import load_settings
from gateway.drain import Drain
from gateway.errors import ConfigError
from gateway.logs import configure_logging
from gateway.server import reload, run
from gateway.services import Services
from gateway.siblings import Siblings
from gateway.tasks import spawn

__all__ = ["main"]

_log = structlog.get_logger()


class Orders(TypedDict):
    """What a worker is started with."""

    number: int
    listener: int
    """A file descriptor, as the next two."""
    control: int
    supervisor: int
    settings: dict[str, Any]
    """They go above the environment's."""


def main(orders: bytes) -> int:
    """Serve until told to stop. `orders` is JSON. Returns the exit code."""
    told: Orders = orjson.loads(orders)
    supervisor = _inherited(told["supervisor"])
    try:
        _serve(told, supervisor)
    except ConfigError as exc:
        _say(supervisor, b"refused %b" % orjson.dumps(str(exc)))
        return 2
    return 0


def _serve(told: Orders, supervisor: socket.socket) -> None:
    listener, control = _inherited(told["listener"]), _inherited(told["control"])
    number, settings = told["number"], load_settings(**told["settings"])
    configure_logging(settings.log_level, settings.log_format, worker=number)
    uvloop.run(
        run(
            settings,
            listener,
            control,
            obey=partial(_obey, supervisor),
            siblings=Siblings(settings.data_dir, number, settings.workers),
            on_listening=lambda: _say(supervisor, b"ready"),
        )
    )


def _inherited(number: int) -> socket.socket:
    os.set_inheritable(number, False)
    return socket.socket(fileno=number)


def _say(supervisor: socket.socket, word: bytes) -> None:
    with suppress(OSError):  # it is gone, and `_listen_to` hears of that
        supervisor.sendall(word + b"\n")


def _obey(supervisor: socket.socket, services: Services, drain: Drain) -> None:
    loop = asyncio.get_running_loop()
    # Whoever stops all processes of a unit at once tells the supervisor too, so a signal here asks for nothing twice.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain.begin)
    loop.add_signal_handler(signal.SIGHUP, lambda: spawn(reload(services), "reload"))
    loop.add_signal_handler(signal.SIGUSR2, lambda: None)
    spawn(_listen_to(supervisor.dup(), services, drain), "listen-to-supervisor")


async def _listen_to(supervisor: socket.socket, services: Services, drain: Drain) -> None:
    words: dict[bytes, Callable[[], object]] = {
        b"drain": drain.begin,
        b"hand_over": drain.hand_over,
        b"hurry": drain.hurry,
        b"reload": lambda: spawn(reload(services), "reload"),
    }
    reader, writer = await asyncio.open_unix_connection(sock=supervisor)
    try:
        async for line in reader:
            if (obey := words.get(line.strip())) is not None:
                obey()
    except OSError:
        pass  # it is gone, with something of ours unread
    finally:
        writer.close()
    if not services.calls.is_draining:
        _log.warning("supervisor_gone", note="this worker ends too, when its calls have ended")
    drain.begin(at_once=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1].encode()))
