"""How commands reach the admin API: one way of asking, three ways of getting there.

1. Reads open the database read-only in this process, at any time, whether a gateway runs or not.
2. Writes go to the running gateway over its control socket, so that its caches hear of them.
3. Without one, writes take the data folder's lock and run the same admin API in this process.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import httpx

    from gateway.accounts import Accounts
    from gateway.config import Settings
    from gateway.ledger.database import Database
    from gateway.secrets import Secrets

__all__ = ["AdminClient", "Answer", "admin_client", "pages"]

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


@contextmanager
def _in_process(settings: "Settings", *, read_only: bool) -> Iterator[AdminClient]:
    import httpx

    from gateway.endpoints.admin import control_app

    with asyncio.Runner() as runner:
        database = runner.run(_open_database(settings, read_only=read_only))
        try:
            state = _state(settings, database, read_only=read_only)
            if not read_only:
                runner.run(_refuse_other_secret(state["accounts"]))
            app = control_app(state)
            http = httpx.AsyncClient(transport=httpx.ASGITransport(app), timeout=_TIMEOUT_S, trust_env=False)
            try:
                yield AdminClient(lambda request: runner.run(http.send(request)))
            finally:
                runner.run(http.aclose())
        finally:
            runner.run(database.close())


async def _open_database(settings: "Settings", *, read_only: bool) -> "Database":
    from gateway.ledger.database import Database

    path = settings.database_path
    return await (Database.open_read_only(path) if read_only else Database.open(path, settings=settings))


def _state(settings: "Settings", database: "Database", *, read_only: bool) -> dict[str, Any]:
    """What the admin handlers find in `app.state`, as `gateway serve` sets it too."""
    from gateway.accounts import Accounts
    from gateway.auth import Authenticator
    from gateway.plans import load_plans

    plans = load_plans(settings.plans_file)
    secrets = _secrets_for(settings, read_only=read_only)
    authenticator = Authenticator(database, plans, secrets)
    accounts = Accounts(database, plans, secrets, authenticator)
    return {"settings": settings, "database": database, "plans": plans, "accounts": accounts}


def _secrets_for(settings: "Settings", *, read_only: bool) -> "Secrets":
    """Reading needs no secret, and must neither make one nor ask for the right to read it: any root will do."""
    from gateway.secrets import Secrets, load_secrets

    return Secrets(bytes(_ROOT_BYTES)) if read_only else load_secrets(settings)


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
