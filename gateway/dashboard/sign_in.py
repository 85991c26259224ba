"""`/dashboard/sign-in` and `/dashboard/sign-out`: a key for a session, and back."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway.dashboard.guard import COOKIE
from gateway.dashboard.render import read_fields, render
from gateway.dashboard.sessions import LIFETIME_S, SessionBook
from gateway.dashboard.viewer import Viewer, viewer_of
from gateway.errors import GatewayError

_HOME = "/dashboard"


async def show_sign_in(request: Request) -> Response:
    return render(request, "sign_in.html", title="Sign in", problem="")


async def sign_in(request: Request) -> Response:
    fields = await read_fields(request, "key")
    book: SessionBook = request.app.state.sessions
    try:
        token, _ = await book.open(fields["key"])
    except GatewayError as error:
        return render(request, "sign_in.html", title="Sign in", problem=error.message, status=error.status)
    answer = RedirectResponse(_HOME, 303)
    answer.set_cookie(
        COOKIE, token, max_age=LIFETIME_S, path=_HOME, httponly=True, samesite="strict", secure=_is_secure(request)
    )
    return answer


async def sign_out(request: Request) -> Response:
    book: SessionBook = request.app.state.sessions
    await book.close(viewer_of(request).session_id)
    answer = RedirectResponse("/dashboard/sign-in", 303)
    answer.delete_cookie(COOKIE, path=_HOME, httponly=True, samesite="strict")
    return answer


async def go_home(request: Request) -> Response:
    """The first page that the viewer's role has."""
    return RedirectResponse(_home_of(viewer_of(request)), 303)


def _home_of(viewer: Viewer) -> str:
    return "/dashboard/overview" if viewer.sees_money else "/dashboard/creators"


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"


routes = [
    Route("/dashboard", go_home, methods=["GET"]),
    Route("/dashboard/sign-in", show_sign_in, methods=["GET"]),
    Route("/dashboard/sign-in", sign_in, methods=["POST"]),
    Route("/dashboard/sign-out", sign_out, methods=["POST"]),
]
