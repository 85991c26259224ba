"""Who may see a page: plain ASGI middleware in front of everything below `/dashboard`.

Signing in and the static files are open. All else needs a session; what changes anything must also come from a page of
this very host, which `SameSite=Strict` alone does not say. What a page asks for by itself, to stay up to date, is read
like anything else but is no use of the session: else one that nobody looks at would not end. Whatever is answered carries a policy by which a browser runs
nothing but the gateway's own files. Nobody has more than a few pages made at once: each may read and hold megabytes.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.dashboard.cookies import cookie_of
from gateway.dashboard.origin import require_own_page
from gateway.dashboard.own_paths import SIGN_IN, sign_in_path
from gateway.dashboard.render import error_page
from gateway.dashboard.sessions import SessionBook
from gateway.dashboard.viewer import Viewer, set_viewer
from gateway.errors import GatewayError, RequestError

__all__ = ["COOKIE", "PAGE_HEADERS", "DashboardGuard", "is_page_path", "session_token"]

COOKIE = "gateway_session"
_ROOT = "/dashboard"
_STATIC = "/dashboard/static/"
_CREATOR_HOME = "/dashboard/me"
_CREATOR_PLACES = (f"{_CREATOR_HOME}/", "/dashboard/export/me/")
_SIGN_OUT = "/dashboard/sign-out"
_POLL = (b"x-gateway-poll", b"1")
"""On what a page asks for by itself."""
_READS = ("GET", "HEAD")
_AT_ONCE_MAX = 16
"""Of one key, all its sessions together. A browser has six connections, and streams of a playground count as well."""
PAGE_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    # Not `no-referrer`: under it browsers send `Origin: null` with the forms of the gateway's own pages.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


def is_page_path(path: str) -> bool:
    """Whether a page answers it, and no virtual or admin key in a header."""
    return path == _ROOT or path.startswith(f"{_ROOT}/")


class DashboardGuard:
    """Puts the signed-in `Viewer` into the scope of what is below `/dashboard`. Finds the `SessionBook` in `app.state.sessions`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._under_way: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_page_path(scope["path"]):
            await self._app(scope, receive, send)
            return

        is_started = False

        async def send_guarded(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                headers = message.setdefault("headers", [])
                headers.extend(PAGE_HEADERS)
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
            await send(message)

        try:
            answer = await self._answer(scope)
            with self._counted(scope):
                await answer(scope, receive, send_guarded)
        except Exception:
            # Logged where all such faults are; people need not see it as a line of plain text.
            if not is_started:
                fault = GatewayError("The gateway could not make this page. Its log says why.")
                await error_page(scope, fault)(scope, receive, send_guarded)
            raise

    async def _answer(self, scope: Scope) -> ASGIApp:
        path = scope["path"]
        try:
            if scope["method"] not in _READS:
                require_own_page(scope)
            if path.startswith(_STATIC) or path == SIGN_IN:
                return self._app
            viewer = await self._viewer(scope)
        except GatewayError as error:
            return error_page(scope, error)
        if viewer is None:
            return _to_sign_in(scope)
        set_viewer(scope, viewer)
        if self._under_way[_whose(viewer)] >= _AT_ONCE_MAX:
            return error_page(scope, _too_many())
        if path == _SIGN_OUT or (viewer.admin is None) == _is_for_creators(path):
            return self._app
        if path.rstrip("/") == _ROOT:
            return self._app if viewer.admin is not None else RedirectResponse(_CREATOR_HOME, 303)
        return error_page(scope, _somebody_elses(viewer))

    @contextmanager
    def _counted(self, scope: Scope) -> Iterator[None]:
        viewer: Viewer | None = scope.get("state", {}).get("viewer")
        if viewer is None:
            yield
            return
        whose = _whose(viewer)
        self._under_way[whose] += 1
        try:
            yield
        finally:
            self._under_way[whose] -= 1
            if not self._under_way[whose]:
                del self._under_way[whose]

    async def _viewer(self, scope: Scope) -> Viewer | None:
        token = session_token(scope)
        book: SessionBook = scope["app"].state.sessions
        return await book.find(token, is_use=not _is_poll(scope)) if token else None


def _whose(viewer: Viewer) -> str:
    """The public id of the key."""
    return viewer.key_id if viewer.admin is None else f"admin {viewer.admin.key_id}"


def _too_many() -> RequestError:
    return RequestError(
        f"{_AT_ONCE_MAX} pages are being made for this key already. Try again in a moment.",
        status=429,
        code="rate_limit_exceeded",
        headers={"retry-after": "1"},
    )


def _somebody_elses(viewer: Viewer) -> RequestError:
    """Not a way elsewhere: whoever followed a link is to know why it does not show what it was sent for."""
    if viewer.admin is None:
        message = f"This page is for admins. You are signed in with a virtual key, as {viewer.name}."
        return RequestError(message, status=403, code="admins_only")
    message = f"This page is a creator's. You are signed in with an admin key, as {viewer.name}."
    return RequestError(message, status=403, code="creators_only")


def _is_poll(scope: Scope) -> bool:
    return scope["method"] in _READS and _POLL in scope["headers"]


def _is_for_creators(path: str) -> bool:
    return path == _CREATOR_HOME or path.startswith(_CREATOR_PLACES)


def _to_sign_in(scope: Scope) -> Response:
    if _is_poll(scope):
        return Response(None, 401)  # nobody asked to go anywhere: the page says that it is out of date
    if (b"hx-request", b"true") in scope["headers"]:
        # The whole page has to go there, not the part that was asked for.
        return Response(None, 200, {"hx-redirect": sign_in_path(scope)})
    return RedirectResponse(sign_in_path(scope), 303)


def session_token(scope: Scope) -> str:
    """What the session's cookie holds; empty where there is none."""
    return cookie_of(scope, COOKIE)
