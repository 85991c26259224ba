"""Who may see a page: plain ASGI middleware in front of everything below `/dashboard`.

Signing in and the static files are open. All else needs a session; what changes anything must also come from a page of
this very host, which `SameSite=Strict` alone does not say. Whatever is answered carries a policy by which a browser runs
nothing but the gateway's own files.
"""

from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.dashboard.render import error_page
from gateway.dashboard.sessions import SessionBook
from gateway.dashboard.viewer import Viewer, set_viewer
from gateway.errors import GatewayError, RequestError

__all__ = ["COOKIE", "DashboardGuard", "is_page_path"]

COOKIE = "gateway_session"
_ROOT = "/dashboard"
_SIGN_IN = "/dashboard/sign-in"
_STATIC = "/dashboard/static/"
_CREATOR_HOME = "/dashboard/me"
_EXPORTS = "/dashboard/export/"
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


def is_page_path(path: str) -> bool:
    """Whether a page answers it, and no virtual or admin key in a header."""
    return path == _ROOT or path.startswith(f"{_ROOT}/")


class DashboardGuard:
    """Puts the signed-in `Viewer` into the scope of what is below `/dashboard`. Finds the `SessionBook` in `app.state.sessions`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_page_path(scope["path"]):
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                headers.extend(_HEADERS)
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
            await send(message)

        await (await self._answer(scope))(scope, receive, send_guarded)

    async def _answer(self, scope: Scope) -> ASGIApp:
        path = scope["path"]
        try:
            if scope["method"] not in ("GET", "HEAD"):
                _require_own_page(scope)
            if path.startswith(_STATIC) or path == _SIGN_IN:
                return self._app
            viewer = await self._viewer(scope)
        except GatewayError as error:
            return error_page(scope, error)
        if viewer is None:
            return _to_sign_in(scope)
        set_viewer(scope, viewer)
        if viewer.admin is None and not _is_for_creators(path):
            return RedirectResponse(_CREATOR_HOME, 303)
        return self._app

    async def _viewer(self, scope: Scope) -> Viewer | None:
        token = _cookie(scope)
        book: SessionBook = scope["app"].state.sessions
        return await book.find(token) if token else None


def _is_for_creators(path: str) -> bool:
    return path.startswith((_CREATOR_HOME, f"{_EXPORTS}me/")) or path == "/dashboard/sign-out"


def _to_sign_in(scope: Scope) -> Response:
    if (b"hx-request", b"true") in scope["headers"]:
        # The whole page has to go there, not the part that was asked for.
        return Response(None, 200, {"hx-redirect": _SIGN_IN})
    return RedirectResponse(_SIGN_IN, 303)


def _require_own_page(scope: Scope) -> None:
    """Raises `RequestError` (403) unless the request comes from a page of this host."""
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin:
        is_own = urlsplit(origin).netloc.lower() == headers.get(b"host", b"").decode("latin-1").lower()
    else:
        is_own = headers.get(b"sec-fetch-site") == b"same-origin"
    if not is_own:
        raise RequestError("This was not sent by a page of this gateway.", status=403, code="cross_origin")


def _cookie(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"cookie":
            try:
                found = SimpleCookie(value.decode("latin-1")).get(COOKIE)
            except CookieError:
                continue
            if found is not None:
                return found.value
    return ""
