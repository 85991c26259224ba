"""`gateway serve`: the process around the app. Lock, parts, two listeners (port and control socket), signals, drain.

SIGTERM or SIGINT: the port closes, open calls get `GATEWAY_DRAIN_GRACE_S` to end, the rest are interrupted, told so and
settled; a second signal cuts the grace short. Exit code 0 either way.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.app import build_app, build_control_app
from gateway.config import Settings
from gateway.errors import ConfigError, StoreError
from gateway.first_run import prepare, render
from gateway.front import front_protocol
from gateway.lock import CONTROL_SOCKET, DataLock
from gateway.logs import configure_logging
from gateway.services import Services, open_services
from gateway.tasks import spawn

_log = structlog.get_logger()

_BACKLOG = 4096
_GC_THRESHOLD = 50_000
_SWITCH_INTERVAL_S = 0.0005
_LAST_WORDS_S = 10
"""After the grace: how long interrupted calls may take to settle and say so before their tasks are cancelled."""


def serve(settings: Settings) -> int:
    """Serve until a signal. Returns the exit code. Raises `ConfigError`."""
    configure_logging(settings.log_level, settings.log_format)
    with DataLock(settings.data_dir):
        uvloop.run(_serve(settings))
    return 0


async def _serve(settings: Settings) -> None:
    listener = _listen(settings.host, settings.port)
    # What URLs of images say, also where any free port was asked for.
    settings = settings.model_copy(update={"port": listener.getsockname()[1]})
    base_url = _base_url(listener)
    try:
        async with open_services(settings) as services:
            await _tell_first_run(services, base_url)
            front = _Server(_front_config(settings, build_app(services)))
            _on_signals(_Drain(services, front))
            _reload_on_hangup(services)
            _tune_interpreter()
            services.lookout.start()  # of a server alone: a command that opens the services for a moment tells nobody
            async with _control_socket(settings, build_control_app(services)):
                _log.info("serving", base_url=base_url, port=listener.getsockname()[1], models=_active_models(services))
                await front.serve(sockets=[listener])
                await services.calls.wait_idle()
            _log.info("stopped")
    finally:
        listener.close()


def _tune_interpreter() -> None:
    """Two defaults of CPython that do not suit a server with one busy thread and one that commits.

    What the start made stays for good, and a call makes next to no cycles, so garbage is looked for far less often: with
    the defaults the collector takes a tenth of the CPU at saturation. And the ledger's thread, which gives up the
    interpreter at every statement, would wait 5 ms for it each time the event loop is busy.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 50)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: two servers share the process, and draining is ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Drain:
    """What a signal starts; each further signal makes it shorter."""

    def __init__(self, services: Services, front: _Server) -> None:
        self._services = services
        self._front = front

    def __call__(self) -> None:
        calls = self._services.calls
        if calls.is_draining:
            _log.info("drain_cut_short", calls=len(calls))
            calls.interrupt_all()
            return
        grace_s = self._services.settings.drain_grace_s
        _log.info("draining", calls=len(calls), grace_s=grace_s)
        calls.begin_drain()
        self._front.should_exit = True
        asyncio.get_running_loop().call_later(grace_s, calls.interrupt_all)


def _on_signals(drain: _Drain) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain)


def _reload_on_hangup(services: Services) -> None:
    async def reload() -> None:
        try:
            await services.reload()
        except (ConfigError, StoreError) as exc:
            _log.error("reload_refused", reason=str(exc))

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: spawn(reload(), "reload"))


def _front_config(settings: Settings, app: ASGIApp) -> uvicorn.Config:
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


@asynccontextmanager
async def _control_socket(settings: Settings, app: ASGIApp) -> AsyncIterator[None]:
    """The admin API on a 0600 Unix socket in the data folder, for the CLI."""
    path = settings.data_dir / CONTROL_SOCKET
    path.unlink(missing_ok=True)  # left behind by a process that was killed; the lock says that none is alive
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False)
    config.load()
    state = ServerState()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # uvicorn would make the file world-writable; the mask lets it exist with no other mode than 0600.
    with _umask(0o177):
        listener.bind(_short(path))
    listener.setblocking(False)
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: HttpToolsProtocol(config, state, {}), sock=listener
    )
    try:
        yield
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        path.unlink(missing_ok=True)


def _short(path: Path) -> str:
    """A Unix socket's path may have about 100 bytes: the shorter of the absolute and the relative one."""
    relative = os.path.relpath(path)
    return min(str(path.absolute()), relative, key=len)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as exc:
        raise ConfigError(
            f"cannot listen on {host} port {port} ({exc.strerror}): set GATEWAY_HOST and GATEWAY_PORT"
        ) from exc
    listener.setblocking(False)
    return listener


def _base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


async def _tell_first_run(services: Services, base_url: str) -> None:
    first_run = await prepare(services.accounts, has_admin_key=services.settings.admin_key is not None)
    if first_run is not None:
        # To the terminal and nowhere else: log lines are kept, keys must not be.
        sys.stderr.write(render(first_run, base_url, _first_chat_model(services)))
        sys.stderr.flush()


def _first_chat_model(services: Services) -> str | None:
    models = services.catalog.models.values()
    return next((model.name for model in models if model.active and "chat" in model.endpoints), None)


def _active_models(services: Services) -> int:
    return sum(model.active for model in services.catalog.models.values())


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
