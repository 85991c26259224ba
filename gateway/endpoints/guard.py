"""Plain ASGI middleware in front of the router: who may pass, and a request id on every answer.

Everything below /v1 needs a virtual key and everything below /admin an admin key, known path or not; what is open is
listed in `OPEN_PATHS`, so a new route is closed unless somebody adds it there. The URL of an asset is its own key, and the
documentation tells everybody the same.
"""

import time
from collections.abc import Sequence
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.addresses import client_address
from gateway.answers import denied
from gateway.assets.links import ASSETS_PATH
from gateway.auth import Authenticator
from gateway.calls import new_request_id
from gateway.dashboard.guard import is_page_path
from gateway.endpoints import error_response
from gateway.endpoints.docs import is_docs_path
from gateway.errors import GatewayError, NotFound, StoreError
from gateway.logs import log_request
from policies.access import address_refusal
from policies.types import Account

OPEN_PATHS = frozenset({"/health/live", "/health/ready", "/metrics"})


class CreatorOnly:
    """Authenticates the virtual key of all that is neither open nor /admin nor a page; the account is `request.state.account`.

    A service key may name the creator in `x-gateway-creator`, for reading as well as for calls; reading brings nobody new.
    From an address that the key's account or the named creator's does not allow, nothing is told, known path or not.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path in OPEN_PATHS or path.startswith(("/admin/", ASSETS_PATH)) or is_page_path(path) or is_docs_path(path):
            await self._app(scope, receive, send)
            return
        try:
            if not path.startswith("/v1/"):
                raise NotFound("There is nothing at this path. The API begins at /v1.")
            authenticator: Authenticator = scope["app"].state.authenticator
            account = await authenticator.authenticate(scope["headers"])
            # Before the next lines too, so that the log knows whose key was refused there.
            scope.setdefault("state", {})["account"] = account
            # Also before a name is looked up: whether there is such a creator is not told elsewhere either.
            _check_address(account, scope)
            named = await authenticator.resolve_creator(account, scope["headers"], brings=False)
            if named is not account:
                _check_address(named, scope)
            scope["state"]["account"] = named
        except GatewayError as error:
            await error_response(error)(scope, receive, send)
            return
        limits: Sequence[tuple[bytes, bytes]] = ()
        with suppress(StoreError):  # what is asked for may need no counters
            limits = await scope["app"].state.window_headers(named)

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", []).extend(limits)
            await send(message)

        await self._app(scope, receive, send_with_limits)


def _check_address(account: Account, scope: Scope) -> None:
    if account.plan.addresses is None:
        return
    peer = scope.get("client")
    address = client_address(peer[0] if peer else None, scope["headers"], scope["app"].state.trusted_proxies)
    if (refusal := address_refusal(account, address)) is not None:
        raise denied(refusal)


class RequestLog:
    """`x-request-id` on every answer that has none of its own, and one line in the log for it.

    A page may hand its request on to an endpoint of calls, which logs it under the id that it answers with: then
    `request.state.is_call` is set, and nothing is said here.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_at = time.monotonic()
        request_id = scope.setdefault("state", {})["request_id"] = new_request_id()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                if not any(name == b"x-request-id" for name, _ in headers):
                    headers.append((b"x-request-id", request_id.encode()))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            state = scope.get("state", {})
            if not state.get("is_call"):
                self._log(scope, state.get("account"), request_id, status, started_at)

    def _log(self, scope: Scope, account: Account | None, request_id: str, status: int, started_at: float) -> None:
        log_request(
            "request_finished",
            {
                "request_id": request_id,
                "creator": account.creator if account is not None else "",
                "key_id": account.key_id if account is not None else "",
                "method": scope["method"],
                # The route, not the path: a stranger's path may hold anything.
                "route": getattr(scope.get("route"), "path", ""),
                "status": status,
                "latency_ms": int((time.monotonic() - started_at) * 1000),
            },
        )
