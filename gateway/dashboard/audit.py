"""`/dashboard/audit`: what admins did, the newest first, by every filter the API has; as a file, too."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.dashboard.api import api_of
from gateway.dashboard.page_query import page_query, page_url, problem_of
from gateway.dashboard.render import render
from gateway.errors import GatewayError

_PATH = "/dashboard/audit"
_FILTERS = ("from", "to", "admin", "action", "target")
_ROWS = 50


async def show_audit(request: Request) -> Response:
    query = page_query(request, *_FILTERS, "cursor")
    filters = {name: query.get(name) for name in _FILTERS}
    found: Mapping[str, Any] = {"data": [], "next_cursor": None}
    problem, status = "", 200
    try:
        found = await api_of(request).get("/admin/audit", limit=_ROWS, **query)
    except GatewayError as error:
        problem, status = problem_of(error), error.status
    cursor = found["next_cursor"]
    return render(
        request,
        "audit.html",
        title="Audit",
        status=status,
        problem=problem,
        filters={name: value or "" for name, value in filters.items()},
        rows=[{**row, "details_text": _details_text(row["details"])} for row in found["data"]],
        next_url=page_url(_PATH, filters, cursor=cursor) if cursor else "",
        first_url=page_url(_PATH, filters) if "cursor" in query else "",
        csv_url=page_url("/dashboard/export/audit", filters),
    )


def _details_text(details: Mapping[str, Any]) -> str:
    """`credits 25, plan "pro"; also note`: what was sent by value, then what is told by name only."""
    named = details.get("fields", ())
    values = [f"{name} {orjson.dumps(value).decode()}" for name, value in details.items() if name != "fields"]
    rest = ", ".join(str(name) for name in named)
    return "; ".join(filter(None, [", ".join(values), f"also {rest}" if values and rest else rest]))


routes = [Route(_PATH, show_audit, methods=["GET"])]
