"""`/dashboard/creators`: everybody with what they spent of their caps; `/dashboard/creators/new`; and the page of one.

What is done on these pages is in `gateway.dashboard.creator_actions`, what the page of one shows in
`gateway.dashboard.creator_page`.
"""

from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.dashboard.api import api_of
from gateway.dashboard.creator_page import creator_path, require_role, show_creator_page
from gateway.dashboard.forms import NOTHING_WRONG, Problem, key_id
from gateway.dashboard.months_shown import days_in_month, spark_points
from gateway.dashboard.page_query import page_url, refuse_unknown
from gateway.dashboard.render import render
from gateway.dashboard.viewer import viewer_of

__all__ = ["routes", "show_new"]

_PATH = "/dashboard/creators"
_ROWS = 50
_SORTS = (
    ("spend", "Most spent"),
    ("forecast", "Highest forecast"),
    ("used", "Most used of the cap"),
    ("name", "Name"),
)
_STATES = (
    ("", "Any state"),
    ("downgraded", "Downgraded"),
    ("near_limit", "Near a limit"),
    ("inactive", "Switched off"),
)


async def show_creators(request: Request) -> Response:
    refuse_unknown(request, ("plan", "q", "sort", "state", "cursor"))
    api, query, sees_money = api_of(request), request.query_params, viewer_of(request).sees_money
    chosen = {name: query.get(name, "") for name in ("plan", "q", "sort", "state")}
    # Whoever must not see money is not shown who spent more than whom.
    chosen["sort"] = (chosen["sort"] or "spend") if sees_money else "name"
    asked = {name: value or None for name, value in chosen.items()}
    found = await api.get("/admin/standing", limit=_ROWS, cursor=query.get("cursor"), **asked)
    plans = [plan["name"] for plan in (await api.get("/admin/plans"))["data"]]
    return render(
        request,
        "creators.html",
        title="Creators",
        rows=[_row(row, found["period"]) for row in found["data"]],
        period=found["period"],
        export_url=page_url("/dashboard/export/creators", chosen),
        chosen=chosen,
        sorts=_SORTS,
        states=[(state, title) for state, title in _STATES if sees_money or state != "near_limit"],
        plans=[("", "Any plan"), *((plan, plan) for plan in plans)],
        next_url=_next_url(chosen, found["next_cursor"]),
        sees_money=sees_money,
    )


async def show_creator(request: Request) -> Response:
    return await show_creator_page(request, request.path_params["id"])


async def show_new_creator(request: Request) -> Response:
    require_role(request, "owner")
    return await show_new(request)


async def show_new(request: Request, status: int = 200, problem: Problem = NOTHING_WRONG) -> Response:
    """The form for a creator and its first key, with what was wrong about the last try."""
    plans = [plan["name"] for plan in (await api_of(request).get("/admin/plans"))["data"]]
    return render(
        request,
        "creator_new.html",
        title="New creator",
        status=status,
        problem=problem,
        new_key_id=key_id,
        plans=[("", "Default"), *((plan, plan) for plan in plans)],
    )


def _row(row: dict[str, Any], period: str) -> dict[str, Any]:
    """A row of `/admin/standing`, with where its page is and the line of its spending. Money may be missing from it."""
    daily = row.get("daily_cost_nano_usd")
    points, cap_y = spark_points(daily or [], row.get("budget_nano_usd"), days_in_month(period))
    return {**row, "path": creator_path(row["creator"]), "points": points, "cap_y": cap_y}


def _next_url(chosen: dict[str, str], cursor: str | None) -> str:
    if cursor is None:
        return ""
    return f"{_PATH}?{urlencode({**{name: value for name, value in chosen.items() if value}, 'cursor': cursor})}"


routes = [
    Route(_PATH, show_creators, methods=["GET"]),
    Route(f"{_PATH}/new", show_new_creator, methods=["GET"]),
    Route(f"{_PATH}/{{id}}", show_creator, methods=["GET"]),
    Route(f"{_PATH}/{{id}}/page", show_creator, methods=["GET"]),
]
"""The last one is for a creator whose id is `new`."""
