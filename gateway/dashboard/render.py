"""Pages out of templates: one Jinja environment, what templates may call, and how forms are read.

Everything is escaped unless a template says otherwise, and none does. Scripts and styles are files of their own: the
policy of `gateway.dashboard.guard` lets a browser run nothing that stands in a page.

A page is written on another thread when it is sent: a long table takes a second and more, which no call is to wait for.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ExceptionHandler, Receive, Scope, Send

from gateway.dashboard import figures, words
from gateway.dashboard.forms import Problem, forget_done, said_done
from gateway.dashboard.own_paths import sign_in_path
from gateway.dashboard.static_files import static_url
from gateway.dashboard.viewer import Viewer
from gateway.endpoints import FORM_BYTES_MAX, read_bounded
from gateway.errors import GatewayError, NotFound, RequestError

__all__ = ["NAVIGATION", "Place", "error_page", "read_fields", "render", "with_error_pages"]

_HERE = Path(__file__).parent
_FIELDS_MAX = 100
_ERRORS = 400
"""The first status of those that are errors."""
_PAGES = "/dashboard"
_ERROR_TITLES = {
    400: "This cannot be done",
    403: "Not allowed",
    404: "Not found",
    405: "This cannot be done",
    409: "This cannot be done",
    413: "Too large",
    429: "Too often",
    503: "Not available at the moment",
}


class Place(NamedTuple):
    """A line of the navigation."""

    path: str
    title: str
    roles: frozenset[str]
    """Who sees it: roles of admins, or `creator`."""


_ALL = frozenset({"owner", "finance", "support"})
_MONEY = frozenset({"owner", "finance"})
_CREATOR = frozenset({"creator"})
NAVIGATION = (
    Place("/dashboard/overview", "Overview", _MONEY),
    Place("/dashboard/explore", "Explore", _MONEY),
    Place("/dashboard/creators", "Creators", _ALL),
    Place("/dashboard/calls", "Calls", _ALL),
    Place("/dashboard/models", "Models and prices", _MONEY),
    Place("/dashboard/policies", "Policies", _ALL),
    Place("/dashboard/providers", "Providers", _ALL),
    Place("/dashboard/months", "Months", _MONEY),
    Place("/dashboard/notices", "Notices", _ALL),
    Place("/dashboard/admins", "Admins", frozenset({"owner"})),
    Place("/dashboard/audit", "Audit", _MONEY),
    Place("/dashboard/me", "Usage", _CREATOR),
    Place("/dashboard/me/calls", "Calls", _CREATOR),
    Place("/dashboard/me/images", "Images", _CREATOR),
    Place("/dashboard/me/playground", "Playground", _CREATOR),
)


def render(request: Request, template: str, *, title: str, status: int = 200, **values: Any) -> Response:
    """The page. Templates also find `viewer`, `navigation`, `path` and `query` (the request's parameters, a dict).

    `problem`, a sentence or a `Problem`, is said at the top of the page.
    """
    return _page(request.scope, template, status, title=title, query=dict(request.query_params), **values)


def error_page(scope: Scope, error: GatewayError) -> Response:
    """What went wrong, for people, with the error's status."""
    title = _ERROR_TITLES.get(error.status, "Error")
    answer = _page(
        scope, "error.html", error.status, title=title, query={}, error=error, sign_in_path=sign_in_path(scope)
    )
    answer.headers.update(error.headers)
    return answer


def with_error_pages(handlers: Mapping[Any, ExceptionHandler]) -> dict[Any, ExceptionHandler]:
    """The same `Starlette(exception_handlers=...)`, but below `/dashboard` people get a page, unless they ask for JSON."""
    return {kind: _for_people(handler) for kind, handler in handlers.items()}


def _for_people(handler: ExceptionHandler) -> ExceptionHandler:
    async def answer(request: Request, exc: Exception) -> Response:
        if f"{request.url.path}/".startswith(f"{_PAGES}/") and not _wants_json(request):
            return error_page(request.scope, exc if isinstance(exc, GatewayError) else _routers_own(exc))
        plain: Response = await handler(request, exc)  # type: ignore[arg-type, misc]
        return plain

    return answer


def _wants_json(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "text/html" not in accepted


def _routers_own(exc: Exception) -> GatewayError:
    if isinstance(exc, HTTPException) and exc.status_code == NotFound.status:
        return NotFound("There is no such page.")
    status, headers = (exc.status_code, exc.headers) if isinstance(exc, HTTPException) else (400, None)
    return RequestError("This page cannot be asked for in this way.", status=status, headers=headers)


async def read_fields(request: Request, *known: str) -> dict[str, str]:
    """The urlencoded fields of a form; those not sent are empty. Raises `RequestError` for a field that is not `known`, one
    that is sent twice, and a body that is too large."""
    raw = await read_bounded(request, FORM_BYTES_MAX)
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=_FIELDS_MAX, errors="strict")
    except ValueError as exc:
        raise RequestError("The form cannot be read.", code="invalid_value") from exc
    found = dict.fromkeys(known, "")
    for name, value in pairs:
        if name not in found:
            raise RequestError("The form has a field that is not known here.", status=422, code="unknown_field")
        found[name] = value.strip()
    if len({name for name, _ in pairs}) != len(pairs):
        raise RequestError("A field of the form is sent twice.", code="invalid_value")
    return found


def _page(scope: Scope, template: str, status: int, **values: Any) -> Response:
    viewer: Viewer | None = scope.get("state", {}).get("viewer")
    places = [] if viewer is None else [place for place in NAVIGATION if _role(viewer) in place.roles]
    problem: Problem | str = values.get("problem", "")
    is_part = (b"hx-request", b"true") in scope["headers"]
    common: Mapping[str, Any] = {
        "alert": problem if isinstance(problem, Problem) else Problem(message=problem),
        "done": "" if is_part or status >= _ERRORS else said_done(scope),
        "is_error": status >= _ERRORS,
        "viewer": viewer,
        "role": "" if viewer is None else _role(viewer),
        "navigation": places,
        "path": scope["path"],
        "here": _place_of(scope["path"], places),
    }
    page = _Page(template, {**common, **values}, status)
    if not is_part:
        forget_done(scope, page)
    return page


class _Page(Response):
    """Nothing of `values` may change any more. Whatever is wrong with the template is raised when the page is sent."""

    def __init__(self, template: str, values: Mapping[str, Any], status: int) -> None:
        super().__init__(None, status, media_type="text/html; charset=utf-8")
        self._template = template
        self._values = values

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.body = await asyncio.to_thread(self._written)
        self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)

    def _written(self) -> bytes:
        return environment().get_template(self._template).render(self._values).encode()


def _place_of(path: str, places: Sequence[Place]) -> str:
    """The path of the place that a page belongs to, itself or one below it; empty where there is none."""
    found = [place.path for place in places if path == place.path or path.startswith(f"{place.path}/")]
    return max(found, key=len, default="")


def _role(viewer: Viewer) -> str:
    return "creator" if viewer.admin is None else viewer.admin.role


@cache
def environment() -> Environment:
    """Templates of the package, read once. A name a template does not have is a fault, never an empty text."""
    loader = FileSystemLoader(_HERE / "templates")
    made = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(figures.FILTERS)
    made.filters.update(words.FILTERS)
    made.filters["message_words"] = words.message_words
    made.globals["static_url"] = static_url
    made.globals["shares"] = figures.shares
    made.globals["decimals"] = figures.decimals
    made.globals["places_of"] = figures.places_of
    return made
