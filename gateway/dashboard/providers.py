"""`/dashboard/providers`: who can be asked now, and how it went lately. Asks again every fifteen seconds."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.dashboard.api import api_of
from gateway.dashboard.figures import percent
from gateway.dashboard.page_query import page_query, page_url, problem_of
from gateway.dashboard.render import render
from gateway.dashboard.words import state_words
from gateway.errors import GatewayError

_PATH = "/dashboard/providers"
_STATES: Mapping[str, tuple[str, str]] = {
    "ok": ("ok", "ok"),
    "cooling_down": (state_words("cooling_down"), "warn"),
    "half_open": (state_words("half_open"), "warn"),
    "open": (state_words("open"), "bad"),
}


async def show_providers(request: Request) -> Response:
    query = page_query(request, "window")
    api = api_of(request)
    providers = (await api.get("/admin/providers"))["data"]
    figures: Mapping[str, Any] | None = None
    problem, status = "", 200
    try:
        figures = await api.get("/admin/providers/figures", window=query.get("window"))
    except GatewayError as error:
        problem, status = problem_of(error), error.status
    window = "1h" if figures is None else figures["window"]
    found = {} if figures is None else {line["provider"]: line for line in figures["data"]}
    now = request.app.state.clock()
    return render(
        request,
        "providers.html",
        title="Providers",
        status=status,
        window=window,
        windows=[("1h", "the last hour"), ("24h", "the last 24 hours")],
        self_url=page_url(_PATH, {"window": window}),
        figures_url=page_url("/dashboard/export/provider-figures", {"window": window}),
        extent=figures,
        providers=[
            {
                **row,
                "figures": found.get(row["id"]),
                "deployments": [_deployment(deployment, now) for deployment in row["deployments"]],
            }
            for row in providers
        ],
        gone=[line for name, line in found.items() if name not in {row["id"] for row in providers}],
        percent=percent,
        problem=problem,
    )


def _deployment(row: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """With its state in words, since when and until when it lasts."""
    words, kind = _STATES.get(row["state"], (row["state"], "warn"))
    is_waiting = row["state"] in ("open", "cooling_down")
    until = (now + timedelta(seconds=row["retry_in_s"])).isoformat(timespec="seconds") if is_waiting else None
    since = None
    if row["troubled_for_s"] is not None:
        since = (now - timedelta(seconds=row["troubled_for_s"])).isoformat(timespec="seconds")
    return {**row, "words": words, "badge": kind, "since": since, "until": until}


routes = [Route(_PATH, show_providers, methods=["GET"])]
