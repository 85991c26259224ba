"""uvicorn's server, started and ended our way."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from gateway.config import Settings
from gateway.front import FrontProtocol, FrontState, front_protocol

__all__ = ["FrontServer"]

_BACKLOG = 4096
_LAST_WORDS_S = 10
"""After the grace: how long interrupted calls may take to settle and say so before their tasks are cancelled."""
_LAST_REQUESTS_S = 0.1
"""Between the port's end and that of idle connections: what was sent before its sender could know is served."""
_TURNS = 3
"""Of the event loop, in which it accepts whoever has connected already."""


class FrontServer(uvicorn.Server):
    """The public port. Handles no signals: when it ends is said by `announce_end`, `close_port` and `stop`."""

    def __init__(self, settings: Settings, app: ASGIApp, *, on_listening: Callable[[], None] = lambda: None) -> None:
        super().__init__(_config(settings, app))
        self._state = FrontState()
        self.server_state = self._state
        self._on_listening = on_listening
        self._sockets: list[socket.socket] = []

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._sockets = sockets or []
        self._on_listening()

    def announce_end(self) -> None:
        """From now on each answer ends its connection, and says so; nothing is refused."""
        self._state.is_leaving = True
        for connection in list(self._state.connections):
            if isinstance(connection, FrontProtocol):
                connection.announce_end()

    async def close_port(self) -> None:
        """Whoever has connected is served; whoever comes later finds nobody. May be called twice."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for server in getattr(self, "servers", ()):
            server.close()
        for listener in self._sockets:
            listener.close()

    def stop(self) -> None:
        """Has `serve` return when all connections have ended. Idle ones are closed."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.announce_end()
        await self.close_port()
        if self._state.connections:
            await asyncio.sleep(_LAST_REQUESTS_S)
        await super().shutdown(sockets)


def _config(settings: Settings, app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=front_protocol(
            header_timeout_s=settings.header_timeout_s,
            body_timeout_s=settings.body_timeout_s,
            stall_timeout_s=settings.stall_timeout_s,
        ),
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=max(1, int(settings.keep_alive_s)),
        timeout_graceful_shutdown=int(settings.drain_grace_s + settings.settle_timeout_s) + _LAST_WORDS_S,
        backlog=_BACKLOG,
    )
