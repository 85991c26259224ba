"""`gateway serve`: the process around the app. Lock, parts, two listeners (port and control socket), signals, drain.

SIGTERM or SIGINT stop it as `gateway.drain` tells; SIGHUP reads plans and prices again. With several workers there is one
such process for each (`gateway.worker`), and one that starts them (`gateway.workers`).
"""

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.app import build_app, build_control_app
from gateway.config import Settings
from gateway.drain import Drain
from gateway.errors import ConfigError, StoreError
from gateway.first_run import prepare, render
from gateway.front_server import FrontServer
from gateway.lock import DataLock, control_socket
from gateway.logs import configure_logging
from gateway.services import Services, open_services
from gateway.siblings import Siblings
from gateway.sockets import base_url, bind_control, bind_port
from gateway.tasks import spawn

__all__ = ["Obey", "reload", "run", "serve"]

_log = structlog.get_logger()

_GC_THRESHOLD = 50_000
_SWITCH_INTERVAL_S = 0.0005

Obey = Callable[[Services, Drain], None]
"""Has the process do what it is told from outside, from now on: signals, or what its supervisor says."""


def serve(settings: Settings) -> int:
    """Serve in this process until a signal. Returns the exit code. Raises `ConfigError`."""
    configure_logging(settings.log_level, settings.log_format)
    with DataLock(settings.data_dir), bind_control(control_socket(settings.data_dir, 0)) as control:
        listener = bind_port(settings.host, settings.port)
        uvloop.run(run(settings, listener, control, obey=_obey_signals))
    return 0


async def run(
    settings: Settings,
    listener: socket.socket,
    control: socket.socket,
    *,
    obey: Obey,
    siblings: Siblings | None = None,
    on_listening: Callable[[], None] = lambda: None,
) -> None:
    """Serve on these sockets, bound and not yet listening, until told to stop. Raises `ConfigError`.

    `siblings` are the other workers that there are; `on_listening` is called when connections are accepted.
    """
    # What URLs of images say, also where any free port was asked for.
    settings = settings.model_copy(update={"port": listener.getsockname()[1]})
    url = base_url(listener)
    try:
        async with open_services(settings) as services:
            await _tell_first_run(services, url)
            services.metrics.siblings = siblings
            front = FrontServer(settings, build_app(services), on_listening=on_listening)
            _tune_interpreter()
            services.lookout.start()  # of a server alone: a command that opens the services for a moment tells nobody
            async with _control_server(control, build_control_app(services)) as close_control:
                obey(
                    services,
                    Drain(
                        services.calls,
                        front,
                        delay_s=settings.drain_delay_s,
                        grace_s=settings.drain_grace_s,
                        close_control=close_control,
                    ),
                )
                _log.info("serving", base_url=url, port=settings.port, models=_active_models(services))
                await front.serve(sockets=[listener])
                await services.calls.wait_idle()
            _log.info("stopped")
    finally:
        listener.close()


async def reload(services: Services) -> None:
    """What SIGHUP asks for, here and in every other process; a refusal is logged, and changes nothing."""
    try:
        await services.reload_everywhere()
    except (ConfigError, StoreError) as exc:
        _log.error("reload_refused", reason=str(exc))


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


def _obey_signals(services: Services, drain: Drain) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, drain.begin_or_hurry)
    loop.add_signal_handler(signal.SIGHUP, lambda: spawn(reload(services), "reload"))
    loop.add_signal_handler(signal.SIGUSR2, _refuse_replacement)  # or it would end the process


def _refuse_replacement() -> None:
    _log.warning(
        "nothing_to_replace", note="SIGUSR2 replaces the workers of `serve --workers`, and here is only one process"
    )


@asynccontextmanager
async def _control_server(listener: socket.socket, app: ASGIApp) -> AsyncIterator[Callable[[], None]]:
    """Serves the control socket while entered; yields what ends that sooner for those who come then."""
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: HttpToolsProtocol(config, state, {}), sock=listener
    )
    try:
        yield server.close
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()


async def _tell_first_run(services: Services, base_url: str) -> None:
    settings = services.settings
    first_run = await prepare(
        services.accounts, has_admin_key=settings.admin_key is not None, is_shared=settings.has_shared_stores
    )
    if first_run is not None:
        # To the terminal and nowhere else: log lines are kept, keys must not be.
        sys.stderr.write(render(first_run, base_url, _first_chat_model(services)))
        sys.stderr.flush()


def _first_chat_model(services: Services) -> str | None:
    models = services.catalog.models.values()
    return next((model.name for model in models if model.active and "chat" in model.endpoints), None)


def _active_models(services: Services) -> int:
    return sum(model.active for model in services.catalog.models.values())
