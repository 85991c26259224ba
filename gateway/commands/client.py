"""How commands reach the admin API: one way of asking, three ways of getting there.

1. Reads open the database read-only in this process, at any time, whether a gateway runs or not.
2. Writes go to the running gateway over its control socket, so that its caches hear of them.
3. Without one, writes take the data folder's lock and run the same admin API in this process.
"""

import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable
    from contextlib import AbstractAsyncContextManager

    import httpx

    from gateway.accounts import Accounts
    from gateway.config import Settings

__all__ = ["AdminClient", "Answer", "admin_client", "is_running", "pages", "running_client"]

_TIMEOUT_S = 30.0
_BASE_URL = "http://gateway"
_ROOT_BYTES = 32
PAGE_ROWS = 1_000


class Answer(NamedTuple):
    """An answer of the admin API that was not an error."""

    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        import orjson

        return orjson.loads(self.body)


class AdminClient:
    """Asks the admin API; an error answer becomes the `GatewayError` it was made from."""

    def __init__(self, send: "Callable[[httpx.Request], httpx.Response]") -> None:
        self._send = send

    def request(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, str | int] | None = None
    ) -> Answer:
        """One call of the admin API, e.g. `request("GET", "/admin/creators")`. Raises `GatewayError`."""
        import httpx
        import orjson

        content = None if json is None else orjson.dumps(json)
        request = httpx.Request(method, _BASE_URL + path, params=dict(params or {}), content=content)
        response = self._send(request)
        if response.status_code >= 400:
            raise _error_in(response)
        return Answer(response.content, dict(response.headers))

    def get(self, path: str, **params: str | int) -> Any:
        """The JSON at `path`."""
        return self.request("GET", path, params=params).json()


@contextmanager
def admin_client(settings: "Settings", *, read_only: bool = False) -> Iterator[AdminClient]:
    """A client for as long as the context is entered.

    Raises `ConfigError` when there is no database to read, or another process holds the data folder without answering.
    """
    if read_only:
        with _in_process(settings, read_only=True) as client:
            yield client
    elif (address := _listening_socket(settings.data_dir)) is not None:
        with _over_socket(address) as client:
            yield client
    else:
        from gateway.lock import DataLock

        with DataLock(settings.data_dir), _in_process(settings, read_only=False) as client:
            yield client


def pages(client: AdminClient, path: str, **params: str | int) -> Iterator[Any]:
    """Every row of a list, page after page."""
    cursor: str | None = None
    while True:
        page = client.get(path, limit=PAGE_ROWS, **params, **({} if cursor is None else {"cursor": cursor}))
        yield from page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


@contextmanager
def _over_socket(address: str) -> Iterator[AdminClient]:
    import httpx

    from gateway.errors import GatewayError

    transport = httpx.HTTPTransport(uds=address, retries=0)
    with httpx.Client(transport=transport, timeout=_TIMEOUT_S, trust_env=False) as http:

        def send(request: httpx.Request) -> httpx.Response:
            try:
                return http.send(request)
            except httpx.TransportError as exc:
                raise GatewayError(
                    f"The running gateway did not answer on {address} ({type(exc).__name__}): what was asked for may or "
                    "may not have been done; look before asking again."
                ) from exc

        yield AdminClient(send)


def is_running(settings: "Settings") -> bool:
    """Whether a gateway serves the data folder. Raises `ConfigError` where it cannot be asked."""
    return _listening_socket(settings.data_dir) is not None


@contextmanager
def running_client(settings: "Settings") -> Iterator[AdminClient]:
    """A client of the gateway that is running. Raises `ConfigError` when none does."""
    from gateway.errors import ConfigError

    address = _listening_socket(settings.data_dir)
    if address is None:
        raise ConfigError(f"no gateway is running on {settings.data_dir}: start it first")
    with _over_socket(address) as client:
        yield client


@contextmanager
def _in_process(settings: "Settings", *, read_only: bool) -> Iterator[AdminClient]:
    import asyncio

    import httpx

    from gateway.endpoints.admin import control_app

    with asyncio.Runner() as runner, _entered(runner, _state(settings, read_only=read_only)) as state:
        http = httpx.AsyncClient(transport=httpx.ASGITransport(control_app(state)), timeout=_TIMEOUT_S, trust_env=False)
        try:
            yield AdminClient(lambda request: runner.run(http.send(request)))
        finally:
            runner.run(http.aclose())


@contextmanager
def _entered(
    runner: "asyncio.Runner", context: "AbstractAsyncContextManager[dict[str, Any]]"
) -> Iterator[dict[str, Any]]:
    """An asynchronous context from the outside of its event loop."""
    state = runner.run(_awaited(context.__aenter__()))
    try:
        yield state
    finally:
        runner.run(_awaited(context.__aexit__(None, None, None)))


async def _awaited(what: "Awaitable[Any]") -> Any:
    return await what


@asynccontextmanager
async def _state(settings: "Settings", *, read_only: bool) -> AsyncIterator[dict[str, Any]]:
    """What the admin handlers find in `app.state`: for reading the little that needs, else all that `gateway serve` has."""
    if not read_only:
        from gateway.services import open_services

        async with open_services(settings) as services:
            await _refuse_other_secret(services.accounts)
            yield services.state()
        return
    from gateway.accounts import Accounts
    from gateway.auth import Authenticator
    from gateway.counters.memory import MemoryCounters
    from gateway.credits import Credits
    from gateway.ledger.opening import open_database_read_only
    from gateway.plans import load_plan_file
    from gateway.secrets import Secrets

    plan_file = load_plan_file(settings.plans_file)
    # Reading needs no secret, and must neither make one nor ask for the right to read it: any root will do.
    secrets = Secrets(bytes(_ROOT_BYTES))
    database = await open_database_read_only(settings)
    try:
        authenticator = Authenticator(database, plan_file.plans, secrets)
        counters = MemoryCounters()
        yield {
            "settings": settings,
            "database": database,
            "audit": None,
            "plans": plan_file.plans,
            "accounts": Accounts(database, plan_file.plans, secrets, authenticator),
            # What calls in flight hold is the running gateway's to know: over the socket it is told, here it is 0.
            "credits": Credits(database, lambda: plan_file.credit_packages, counters, authenticator),
        }
    finally:
        await database.close()


async def _refuse_other_secret(accounts: "Accounts") -> None:
    """A key made under a secret that the gateway does not have would never work."""
    from gateway.errors import ConfigError

    if not await accounts.record_secret(replace=False):
        raise ConfigError(
            "GATEWAY_SECRET, or the file `secret` in the data folder, is not what this database's keys were made with: "
            "set it as for `gateway serve`, or start that once to go on with this one"
        )


def _listening_socket(data_dir: Path) -> str | None:
    """The address of the control socket, if somebody answers on it. One left behind by a crash refuses."""
    import socket

    from gateway.errors import ConfigError
    from gateway.lock import CONTROL_SOCKET

    path = data_dir / CONTROL_SOCKET
    # Such an address may have about 100 bytes, so the shorter way of saying it is taken, as the server does.
    address = min(str(path.absolute()), os.path.relpath(path), key=len)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_TIMEOUT_S)
        try:
            probe.connect(address)
        except PermissionError:
            raise ConfigError(
                f"{path} belongs to another user: run this command as the user the gateway runs as"
            ) from None
        except OSError as exc:
            # "AF_UNIX path too long" has no errno; such a folder has no socket, and the lock will tell who holds it.
            if exc.errno in {None, errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED}:
                return None
            raise ConfigError(f"{path} does not answer ({exc.strerror or exc}): look at the running gateway") from exc
    return address


def _error_in(response: "httpx.Response") -> Exception:
    import orjson

    from gateway.errors import GatewayError

    try:
        error = orjson.loads(response.content)["error"]
        return GatewayError(
            error["message"], status=response.status_code, type=error["type"], code=error["code"], param=error["param"]
        )
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return GatewayError(f"The gateway answered with status {response.status_code}.", status=response.status_code)
