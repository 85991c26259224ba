"""The admin API: its routes, who may reach them, and the same API as the Unix socket and the CLI use it."""

from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.endpoints import EXCEPTION_HANDLERS, error_response
from gateway.endpoints.admin import (
    anomalies,
    audit,
    cache,
    charges,
    costs,
    creators,
    estimate,
    keys,
    ledger,
    models,
    notices,
    paused_keys,
    policies,
    providers,
    refusals,
    rehearsal,
    reload,
    standing,
    status,
)
from gateway.endpoints.admin import credits as credit_endpoints
from gateway.endpoints.admin.permissions import guarded
from gateway.errors import GatewayError
from gateway.roles import LOCAL

__all__ = ["AdminOnly", "admin_routes", "control_app"]


_MODULES = (
    creators,
    standing,
    refusals,
    credit_endpoints,
    keys,
    paused_keys,
    ledger,
    costs,
    charges,
    estimate,
    models,
    providers,
    cache,
    notices,
    anomalies,
    audit,
    policies,
    rehearsal,
    reload,
    status,
)


def admin_routes() -> list[BaseRoute]:
    """Every route below /admin, behind its permissions and the audit log. Put them behind `AdminOnly`: none of them asks who
    is calling."""
    return guarded(route for module in _MODULES for route in module.routes)


class AdminOnly:
    """Lets nothing below /admin answer, not even a 404, before the caller showed an admin key.

    Plain ASGI middleware. Looks at `scope["path"]` alone, which is what routes are chosen by too. Finds the
    `AdminAuthenticator` in `app.state.admin_authenticator`; `is_trusted` needs none: on a 0600 Unix socket the file
    system has said who may call. The `Admin` is `request.state.admin`; a page puts there whoever is signed in, and nobody
    outside the process can.
    """

    def __init__(self, app: ASGIApp, *, is_trusted: bool = False) -> None:
        self._app = app
        self._is_trusted = is_trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _is_admin_path(scope["path"]):
            state = scope.setdefault("state", {})
            if self._is_trusted:
                state["admin"] = LOCAL
            elif "admin" not in state:
                try:
                    state["admin"] = await scope["app"].state.admin_authenticator.authenticate(scope["headers"])
                except GatewayError as exc:
                    await error_response(exc)(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def control_app(state: Mapping[str, Any]) -> Starlette:
    """The admin API for callers who are trusted already: those on the control socket, and the CLI's own process.

    `state` is what the handlers find in `request.app.state`: `accounts` and whatever else the admin modules read.
    """
    app = Starlette(routes=admin_routes(), exception_handlers=EXCEPTION_HANDLERS)
    app.router.redirect_slashes = False
    app.add_middleware(AdminOnly, is_trusted=True)
    for name, value in state.items():
        setattr(app.state, name, value)
    return app


def _is_admin_path(path: str) -> bool:
    return path == "/admin" or path.startswith("/admin/")
