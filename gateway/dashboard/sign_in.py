"""`/dashboard/sign-in` and `/dashboard/sign-out`: a key for a session, and back.

What admins do here is in the audit log like all they do. Keys that nobody has are logged and counted, no more.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway.addresses import client_address
from gateway.audit import AuditLog
from gateway.calls import new_request_id
from gateway.dashboard.guard import COOKIE, session_token
from gateway.dashboard.origin import is_secure
from gateway.dashboard.own_paths import SIGN_IN, own_path
from gateway.dashboard.render import read_fields, render
from gateway.dashboard.sessions import LIFETIME_S, SessionBook
from gateway.dashboard.viewer import Viewer, viewer_of
from gateway.errors import GatewayError

_HOME = "/dashboard"
_SIGN_OUT = "/dashboard/sign-out"
_UNAUTHENTICATED = 401
_SERVER_FAULT = 500
_SEE_OTHER = 303
_log = structlog.get_logger()


async def show_sign_in(request: Request) -> Response:
    """Who is signed in may go on, or sign in as somebody else. `next` is where to go then."""
    token = session_token(request.scope)
    viewer = await _book(request).find(token, is_use=False) if token else None
    return _form(request, request.query_params.get("next", ""), already=viewer)


def _form(
    request: Request, wanted: str, *, problem: str = "", status: int = 200, already: Viewer | None = None
) -> Response:
    return render(
        request,
        "sign_in.html",
        title="Sign in",
        status=status,
        problem=problem,
        next=own_path(wanted),
        already="" if already is None else already.name,
    )


async def sign_in(request: Request) -> Response:
    """A new session under a new token. The one that the browser had is over: nobody goes on in a session begun by others."""
    book, wanted = _book(request), ""
    try:
        fields = await read_fields(request, "key", "next")
        wanted = own_path(fields["next"])
        viewer, digest = await _recognise(request, fields["key"])
        async with _audited(request, viewer, SIGN_IN):
            if former := session_token(request.scope):
                await book.close_token(former)
            token = await book.open(viewer, digest)
    except GatewayError as error:
        return _refusal(request, error, wanted)
    _log.info("signed_in", **_who(viewer))
    answer = RedirectResponse(wanted or _HOME, _SEE_OTHER)
    answer.set_cookie(
        COOKIE,
        token,
        max_age=LIFETIME_S,
        path=_HOME,
        httponly=True,
        samesite="strict",
        secure=is_secure(request.scope),
    )
    return answer


async def sign_out(request: Request) -> Response:
    viewer = viewer_of(request)
    async with _audited(request, viewer, _SIGN_OUT):
        await _book(request).close(viewer.session_id)
    _log.info("signed_out", **_who(viewer))
    answer = RedirectResponse(SIGN_IN, _SEE_OTHER)
    answer.delete_cookie(COOKIE, path=_HOME, httponly=True, samesite="strict", secure=is_secure(request.scope))
    return answer


async def go_home(request: Request) -> Response:
    """The first page that the viewer's role has."""
    return RedirectResponse(_home_of(viewer_of(request)), _SEE_OTHER)


async def _recognise(request: Request, key: str) -> tuple[Viewer, str]:
    """As `SessionBook.recognise`, for as many attempts as there are. Raises `RequestError` (429) beyond."""
    book = _book(request)
    attempt = book.attempts.begin(_address(request))
    try:
        found = await book.recognise(key)
    except GatewayError as error:
        if error.status >= _SERVER_FAULT:
            book.attempts.forgive(attempt)  # nobody looked at the key
        raise
    book.attempts.forgive(attempt)
    return found


@asynccontextmanager
async def _audited(request: Request, viewer: Viewer, path: str) -> AsyncIterator[None]:
    """What is done inside stands in the audit log before and after, if an admin does it. Raises `StoreError`, and then
    nothing was done."""
    if viewer.admin is None:
        yield
        return
    audit: AuditLog = request.app.state.audit
    record = partial(
        audit.record,
        request_id=new_request_id(),
        admin=viewer.admin,
        action=f"POST {path}",
        target="",
        details={},
        address=_address(request),
    )
    await record(phase="asked", status=0)
    try:
        yield
    except GatewayError as error:
        await record(phase="done", status=error.status)
        raise
    await record(phase="done", status=_SEE_OTHER)


def _refusal(request: Request, error: GatewayError, wanted: str) -> Response:
    _log.info("sign_in_refused", code=error.code, status=error.status, address=_address(request))
    problem = error.message
    if error.status == _UNAUTHENTICATED:
        problem = "This key is not one of this gateway's, or it is no longer good."
    answer = _form(request, wanted, problem=problem, status=error.status)
    answer.headers.update({name: value for name, value in error.headers.items() if name == "retry-after"})
    return answer


def _who(viewer: Viewer) -> dict[str, str]:
    if viewer.admin is None:
        return {"kind": "creator", "creator": viewer.creator, "key_id": viewer.key_id}
    return {"kind": "admin", "key_id": viewer.admin.key_id, "role": viewer.admin.role}


def _home_of(viewer: Viewer) -> str:
    return "/dashboard/overview" if viewer.sees_money else "/dashboard/creators"


def _book(request: Request) -> SessionBook:
    book: SessionBook = request.app.state.sessions
    return book


def _address(request: Request) -> str:
    peer = request.client.host if request.client else None
    return client_address(peer, request.scope["headers"], request.app.state.trusted_proxies)


routes = [
    Route("/dashboard", go_home, methods=["GET"]),
    Route("/dashboard/", go_home, methods=["GET"]),
    Route(SIGN_IN, show_sign_in, methods=["GET"]),
    Route(SIGN_IN, sign_in, methods=["POST"]),
    Route(_SIGN_OUT, sign_out, methods=["POST"]),
]
