"""Pages out of templates: one Jinja environment, what templates may call, and how forms are read.

Everything is escaped unless a template says otherwise, and none does. Scripts and styles are files of their own: the
policy of `gateway.dashboard.guard` lets a browser run nothing that stands in a page.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from gateway.dashboard.figures import FILTERS
from gateway.dashboard.static_files import static_url
from gateway.dashboard.viewer import Viewer
from gateway.endpoints import FORM_BYTES_MAX, read_bounded
from gateway.errors import GatewayError, RequestError

__all__ = ["NAVIGATION", "Place", "error_page", "read_fields", "render"]

_HERE = Path(__file__).parent
_FIELDS_MAX = 100


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
    Place("/dashboard/me/playground", "Playground", _CREATOR),
)


def render(request: Request, template: str, *, title: str, status: int = 200, **values: Any) -> Response:
    """The page. Templates also find `viewer`, `navigation`, `path` and `query` (the request's parameters, a dict)."""
    return _page(request.scope, template, status, title=title, query=dict(request.query_params), **values)


def error_page(scope: Scope, error: GatewayError) -> Response:
    """What went wrong, for people, with the error's status."""
    answer = _page(scope, "error.html", error.status, title="Error", query={}, error=error)
    answer.headers.update(error.headers)
    return answer


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
    common: Mapping[str, Any] = {
        "viewer": viewer,
        "navigation": [] if viewer is None else [place for place in NAVIGATION if _role(viewer) in place.roles],
        "path": scope["path"],
    }
    text = environment().get_template(template).render(**common, **values)
    return Response(text, status, media_type="text/html; charset=utf-8")


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
    made.filters.update(FILTERS)
    made.globals["static_url"] = static_url
    return made
