"""`/dashboard/overview`: what a stretch of days cost and who spent it, beside the same stretch before; and how things are now.

What is live is a page of its own, `/dashboard/overview/live`, which the overview asks for again and again.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.dashboard.api import Api, api_of
from gateway.dashboard.creator_page import creator_path
from gateway.dashboard.explore import column_title, heading_text
from gateway.dashboard.figures import number, percent, usd_round
from gateway.dashboard.first_steps import first_steps
from gateway.dashboard.names import names_of
from gateway.dashboard.page_query import refuse_unknown
from gateway.dashboard.periods import NAMED, Days, before, days_of, labels_between
from gateway.dashboard.pivot import Cell, pivot
from gateway.dashboard.render import render
from gateway.endpoints.parameters import choice, known_parameters, refuse
from gateway.errors import GatewayError, RequestError

_DIMENSIONS: Mapping[str, str] = {
    "model": "Model",
    "feature": "Feature",
    "agent": "Agent",
    "creator": "Creator",
    "provider": "Provider",
}
_PERIOD_DEFAULT = "7d"
_OWN = "custom"
"""The period whose days are given."""
_COLUMNS = 8
_CREATORS = 10
_LATEST = 5
_REFUSALS = 10
_CELLS_AT_ONCE = 2_000
"""Are sorted while calls wait: a few milliseconds."""
_SUMS = "cost,charge,saved,calls,errors,input_tokens,output_tokens"


class Card(NamedTuple):
    """A figure, and how it differs from the time before."""

    label: str
    value: str
    delta: str
    note: str
    nano_usd: int | None = None
    """Of money, what it is exactly; `value` is it rounded."""


class _Sums(NamedTuple):
    """Of one stretch of days."""

    totals: Mapping[str, int]
    cached_calls: int


async def show_overview(request: Request) -> Response:
    today = datetime.fromtimestamp(request.app.state.clock().timestamp(), UTC).date()
    given = dict(request.query_params)
    try:
        query = _read(request)
        period, by = query.get("period", _PERIOD_DEFAULT), str(choice(query, "by", _DIMENSIONS, "model"))
        days = days_of(period, today)
    except RequestError as error:
        return _page(request, given, status=error.status, problem=error.message, days=None)
    earlier = before(period, days)
    api = api_of(request)
    now_sums, earlier_sums, series, creators, refused, live = await _together(
        _sums(api, days),
        _sums(api, earlier),
        api.get("/admin/costs", group_by=f"day,{by}", sums="cost,calls", **days.query()),
        api.get("/admin/costs", group_by="creator", sums="cost,charge,calls", **days.query()),
        api.get("/admin/refusals", limit=_REFUSALS, **days.query()),
        _live(api),
    )
    is_empty = not now_sums.totals["calls"] and not earlier_sums.totals["calls"]
    return _page(
        request,
        {"period": period, "by": by},
        days=days,
        steps=await first_steps(request) if is_empty else None,
        earlier=earlier,
        cards=_cards(now_sums, earlier_sums),
        **await _charts(series["data"], days, by),
        creators=(top := _top(creators["data"], now_sums.totals["cost_nano_usd"])),
        refused=refused,
        refused_rows=[{**row, "url": f"{creator_path(row['creator'])}#refused"} for row in refused["data"]],
        refused_url=f"/dashboard/export/refusals?{urlencode(days.query())}",
        names=await names_of(api, [row["creator"] for row in (*top, *refused["data"])]),
        totals=now_sums.totals,
        export_url=f"/dashboard/export/costs?{urlencode({'group_by': f'day,{by}', **days.query()})}",
        explore_url=f"/dashboard/explore?{urlencode({'group': by, **days.query()})}",
        **live,
    )


async def show_live(request: Request) -> Response:
    """What is asked for anew: no page, but a part of one."""
    known_parameters(request.query_params, ())
    return render(request, "overview_live.html", title="Now", **await _live(api_of(request)))


def _read(request: Request) -> dict[str, str]:
    """Two days in the form stand for a period, as does `from..to` in the URL. Raises `RequestError`."""
    refuse_unknown(request, ("period", "by", "from", "to"))
    known = known_parameters(request.query_params, {"period", "by", "from", "to"})
    query = {name: value.strip() for name, value in known.items() if value.strip()}
    if "from" in query or "to" in query or query.get("period") == _OWN:
        # One of the two would be thrown away, and nobody would be told.
        if query.get("period", _OWN) != _OWN:
            refuse("period", "stands for `from` and `to`: choose days of your own as the period, or empty both of them")
        query["period"] = f"{query.get('from', '')}..{query.get('to', '')}"
    return query


async def _sums(api: Api, days: Days) -> _Sums:
    # Days are the order the rollups lie in: the one group that costs nothing.
    every, cached = await _together(
        api.get("/admin/costs", group_by="day", sums=_SUMS, **days.query()),
        api.get("/admin/costs", group_by="day", sums="calls", cached="true", **days.query()),
    )
    return _Sums(every["totals"], cached["totals"]["calls"])


async def _together(*asked: Awaitable[Any]) -> list[Any]:
    """All answers, asked for at once. Raises the first of the errors when the last answer is there."""
    answers = await asyncio.gather(*asked, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


async def _live(api: Api) -> dict[str, Any]:
    """Each part by itself: one that cannot be had, or that the viewer's role may not see, is left out with the reason."""
    names = ("status", "providers", "anomalies", "throttles", "notices")
    parts = await asyncio.gather(
        _part(api.get("/admin/status")),
        _part(api.get("/admin/providers")),
        _part(api.get("/admin/anomalies", limit=_LATEST)),
        _part(api.get("/admin/throttles", limit=_LATEST)),
        _part(api.get("/admin/notices", limit=_LATEST)),
    )
    now: dict[str, Any] = dict(zip(names, parts, strict=True))
    listed = now["providers"]["answer"] or {"data": []}
    deployments = [{**found, "provider": row["id"]} for row in listed["data"] for found in row["deployments"]]
    told = [row.get("creator") or "" for name in names[2:] for row in (now[name]["answer"] or {"data": []})["data"]]
    now["names"] = await _names(api, told)
    return {
        "now": now,
        "deployments": len(deployments),
        "troubled": [found for found in deployments if found["state"] != "ok"],
    }


async def _names(api: Api, creators: Iterable[str]) -> Mapping[str, str]:
    """None where they cannot be had: what is live shows what it can."""
    try:
        return await names_of(api, creators)
    except GatewayError:
        return {}


async def _part(asked: Awaitable[Any]) -> dict[str, Any]:
    try:
        return {"answer": await asked, "problem": ""}
    except GatewayError as error:
        return {"answer": None, "problem": error.message}


async def _charts(rows: Sequence[Mapping[str, Any]], days: Days, by: str) -> dict[str, Any]:
    labels = labels_between(days, "day")

    def make() -> dict[str, Any]:
        spend = pivot(_cells(rows, by, "cost_nano_usd"), columns_max=_COLUMNS, rows=labels)
        calls = pivot((Cell(row["day"], "Calls", row["calls"]) for row in rows), columns_max=1, rows=labels)
        return {
            "spend_columns": [heading_text(heading) for heading in spend.columns],
            "spend_rows": [(heading.name, line) for heading, line in spend.rows],
            "calls_rows": [(heading.name, line) for heading, line in calls.rows],
        }

    return await asyncio.to_thread(make) if len(rows) > _CELLS_AT_ONCE else make()


def _cells(rows: Iterable[Mapping[str, Any]], by: str, field: str) -> Iterable[Cell]:
    """What has no name and no amount, such as a grant of credits, is no line of a chart."""
    return (Cell(row["day"], column_title(row[by], by), row[field]) for row in rows if row[by] or row[field])


def _top(rows: Sequence[Mapping[str, Any]], total: int) -> list[dict[str, Any]]:
    found = sorted(rows, key=lambda row: (-row["cost_nano_usd"], row["creator"]))[:_CREATORS]
    return [{**row, "share": percent(max(row["cost_nano_usd"], 0), max(total, 0))} for row in found]


def _cards(now: _Sums, earlier: _Sums) -> list[Card]:
    new, old = now.totals, earlier.totals
    tokens = new["input_tokens"] + new["output_tokens"]
    both = f"{number(new['input_tokens'])} in, {number(new['output_tokens'])} out"
    return [
        Card("Spend", usd_round(new["cost_nano_usd"]), _change(new["cost_nano_usd"], old["cost_nano_usd"]),
             f"{usd_round(new['charge_nano_usd'])} charged", new["cost_nano_usd"]),
        Card("Calls", number(new["calls"]), _change(new["calls"], old["calls"]), ""),
        Card("Tokens", number(tokens), _change(tokens, old["input_tokens"] + old["output_tokens"]), both),
        Card("Error rate", percent(new["errors"], new["calls"]),
             _points((new["errors"], new["calls"]), (old["errors"], old["calls"])), f"{number(new['errors'])} of {number(new['calls'])} calls"),
        Card("Saved by the cache", usd_round(new["saved_nano_usd"]),
             _change(new["saved_nano_usd"], old["saved_nano_usd"]), "", new["saved_nano_usd"]),
        Card("Cache hits", percent(now.cached_calls, new["calls"]),
             _points((now.cached_calls, new["calls"]), (earlier.cached_calls, old["calls"])),
             f"{number(now.cached_calls)} of {number(new['calls'])} calls"),
    ]  # fmt: skip


def _change(new: int, old: int) -> str:
    """`+12.3 %`; of nothing there is no share."""
    if new == old:
        return "no change"
    if old <= 0:
        return "none before" if old == 0 else ""
    return f"{'+' if new > old else '−'}{percent(abs(new - old), old)}"


def _points(new: tuple[int, int], old: tuple[int, int]) -> str:
    """`+0.4 points` between two shares."""
    if not new[1] or not old[1]:
        return ""
    gap, whole = new[0] * old[1] - old[0] * new[1], new[1] * old[1]
    shown = percent(abs(gap), whole).removesuffix(" %")
    return "no change" if shown == "0.0" else f"{'+' if gap > 0 else '−'}{shown} points"


def _page(
    request: Request,
    form: Mapping[str, str],
    *,
    days: Days | None,
    earlier: Days | None = None,
    status: int = 200,
    problem: str = "",
    **values: Any,
) -> Response:
    period = form.get("period", "")
    is_own = days is not None and period not in NAMED
    return render(
        request,
        "overview.html",
        title="Overview",
        status=status,
        problem=problem,
        days=days,
        earlier=earlier,
        period=_OWN if is_own else period,
        first=days.first.isoformat() if days is not None and is_own else form.get("from", ""),
        after=days.after.isoformat() if days is not None and is_own else form.get("to", ""),
        by=form.get("by", "model"),
        dimension=_DIMENSIONS.get(form.get("by", "model"), ""),
        periods=[*NAMED.items(), (_OWN, "Days of your own")],
        dimensions=list(_DIMENSIONS.items()),
        **values,
    )


routes = [
    Route("/dashboard/overview", show_overview, methods=["GET"]),
    Route("/dashboard/overview/live", show_live, methods=["GET"]),
]
