"""`/dashboard/notices`: what people were told and whether it arrived, what was out of the usual, who is slowed down or
stopped, and the buttons that end it."""

from collections.abc import Mapping
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.dashboard.api import Api, api_of
from gateway.dashboard.forms import Done, done
from gateway.dashboard.names import names_of
from gateway.dashboard.page_query import page_query, page_url, problem_of
from gateway.dashboard.render import read_fields, render
from gateway.dashboard.viewer import viewer_of
from gateway.dashboard.words import kind_words
from gateway.errors import GatewayError
from gateway.ledger.anomalies import METRICS
from gateway.notices.base import Kind

_PATH = "/dashboard/notices"
_FILTERS = ("kind", "creator", "metric")
_CURSORS = ("cursor", "anomaly_cursor")
_ROWS = 50
_NONE: Mapping[str, Any] = {"data": [], "next_cursor": None}


async def show_notices(request: Request) -> Response:
    return await _page(request, "", 200)


async def lift_throttle(request: Request) -> Response:
    fields = await read_fields(request, "creator")
    return await _carry_out(request, "DELETE", f"/admin/throttles/{fields['creator']}", "lifted", None)


async def resume_key(request: Request) -> Response:
    fields = await read_fields(request, "key_id")
    return await _carry_out(request, "POST", f"/admin/keys/{fields['key_id']}/resume", "key_resumed", {})


async def send_test(request: Request) -> Response:
    await read_fields(request)
    return await _carry_out(request, "POST", "/admin/notices/test", "tested", {})


async def _carry_out(request: Request, method: str, path: str, word: Done, body: Mapping[str, Any] | None) -> Response:
    """Back to the page, which says what was done; or the page with what the API said against it."""
    try:
        await api_of(request).send(method, path, body)
    except GatewayError as error:
        return await _page(request, problem_of(error), error.status)
    return done(request, _PATH, word)


async def _page(request: Request, problem: str, status: int) -> Response:
    query = page_query(request, *_FILTERS, *_CURSORS)
    api = api_of(request)
    filters = {name: query[name] for name in _FILTERS if name in query}
    notices: Mapping[str, Any] = _NONE
    anomalies: Mapping[str, Any] = _NONE
    try:
        notices, anomalies = await _notices(api, query), await _anomalies(api, query)
    except GatewayError as error:
        problem, status = problem_of(error), error.status
    throttles = await api.get("/admin/throttles", limit=_ROWS)
    paused = await api.get("/admin/paused-keys", limit=_ROWS)
    admin = viewer_of(request).admin
    shown = (*notices["data"], *anomalies["data"], *throttles["data"], *paused["data"])
    return render(
        request,
        "notices.html",
        title="Notices",
        status=status,
        filters=filters,
        notices_export=page_url("/dashboard/export/notices", _chosen(filters, "kind", "creator")),
        anomalies_export=page_url("/dashboard/export/anomalies", _chosen(filters, "creator", "metric")),
        names=await names_of(api, (row.get("creator") or "" for row in shown)),
        kinds=[("", "any"), *((kind, kind_words(kind)) for kind in get_args(Kind))],
        metrics=[("", "any"), *((metric, "cost" if metric == "cost_nano_usd" else metric) for metric in METRICS)],
        notices=notices["data"],
        notices_next=_older(filters, "cursor", notices["next_cursor"]),
        anomalies=anomalies["data"],
        anomalies_next=_older(filters, "anomaly_cursor", anomalies["next_cursor"]),
        throttles=throttles["data"],
        has_more_throttles=throttles["next_cursor"] is not None,
        paused=paused["data"],
        has_more_paused=paused["has_more"],
        may_act=admin is not None and admin.role != "finance",
        problem=problem,
    )


async def _notices(api: Api, query: Mapping[str, str]) -> Mapping[str, Any]:
    names = ("kind", "creator", "cursor")
    found: Mapping[str, Any] = await api.get("/admin/notices", limit=_ROWS, **_chosen(query, *names))
    return found


async def _anomalies(api: Api, query: Mapping[str, str]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = await api.get(
        "/admin/anomalies", limit=_ROWS, cursor=query.get("anomaly_cursor"), **_chosen(query, "creator", "metric")
    )
    return found


def _chosen(query: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: query[name] for name in names if name in query}


def _older(filters: Mapping[str, str], name: str, cursor: str | None) -> str:
    return page_url(_PATH, filters, **{name: cursor}) if cursor else ""


routes = [
    Route(_PATH, show_notices, methods=["GET"]),
    Route(f"{_PATH}/throttles/lift", lift_throttle, methods=["POST"]),
    Route(f"{_PATH}/keys/resume", resume_key, methods=["POST"]),
    Route(f"{_PATH}/test", send_test, methods=["POST"]),
]
