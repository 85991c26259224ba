"""`/dashboard/me`: what creators see of themselves. Everything shown is an answer of `/v1/me*`, `/v1/models` or
`/v1/generations` to the key they signed in with, so that nobody else's data could be on a page even by mistake."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.dashboard.api import Api, api_of
from gateway.dashboard.explore import UNNAMED
from gateway.dashboard.figures import usd_text
from gateway.dashboard.first_steps import steps_of_creator
from gateway.dashboard.forms import done
from gateway.dashboard.page_query import refuse_unknown
from gateway.dashboard.periods import Days, labels_between
from gateway.dashboard.render import read_fields, render
from gateway.dashboard.viewer import require_creator
from gateway.dashboard.words import limit_words
from gateway.errors import GatewayError, NotFound, RequestError

__all__ = ["downgrade_words", "routes"]

_CALLS = "/dashboard/me/calls"
_IMAGES = "/dashboard/me/images"
_LATEST_CALLS = 10
_CALLS_A_PAGE = 50
_IMAGES_A_PAGE = 24
_CALL_FILTERS = ("from", "to", "model", "feature")
_BOUGHT = frozenset({"free_images_per_day", "credits", "promo_credits"})
"""Limits that have a card of their own."""

METRICS: Mapping[str, tuple[str, str, Sequence[str]]] = {
    "cost": ("Cost", "nano_usd", ("cost_nano_usd",)),
    "charge": ("Charge", "nano_usd", ("charge_nano_usd",)),
    "calls": ("Calls", "count", ("calls",)),
    "tokens": ("Tokens", "tokens", ("input_tokens", "output_tokens")),
}
"""What the charts can show: its title, its unit, and the fields whose sum it is."""


async def show_me(request: Request) -> Response:
    """Limits, balances, the month and usage, with filters `from`, `to` (days) and `metric`."""
    require_creator(request)
    refuse_unknown(request, ("from", "to", "metric"))
    api, query = api_of(request), request.query_params
    period = {"from": query.get("from") or None, "to": query.get("to") or None}
    metric = query.get("metric") if query.get("metric") in METRICS else "cost"
    me, models, by_day, by_model, by_feature, calls = await asyncio.gather(
        api.get("/v1/me"),
        api.get("/v1/models"),
        api.get("/v1/me/usage", group_by="day,model", **period),
        api.get("/v1/me/usage", group_by="model", **period),
        api.get("/v1/me/usage", group_by="feature", **period),
        api.get("/v1/me/calls", limit=_LATEST_CALLS),
    )
    title, unit, fields = METRICS[metric or "cost"]
    return render(
        request,
        "me.html",
        title="Usage",
        me=me,
        money_limits=[
            {**limit, "title": limit_words(limit["name"])}
            for limit in me["limits"]
            if limit["unit"].endswith("nano_usd") and limit["limit"] is not None
        ],
        rate_limits=[
            {**limit, "title": limit_words(limit["name"])}
            for limit in me["limits"]
            if not limit["unit"].endswith("nano_usd") and limit["name"] not in _BOUGHT
        ],
        downgrade=downgrade_words(me, models["data"]),
        calls=calls["data"],
        steps=None if calls["data"] else steps_of_creator(request, models["data"]),
        metric=metric,
        metrics=[(name, shown) for name, (shown, *_) in METRICS.items()],
        metric_title=title,
        unit=unit,
        period=by_day,
        days=_stacked(by_day, fields),
        models=_sums(by_model["data"], "model", fields),
        features=_sums(by_feature["data"], "feature", fields),
        export_query=urlencode({"group_by": "day,model,feature", "from": by_day["from"], "to": by_day["to"]}),
    )


async def list_calls(request: Request) -> Response:
    require_creator(request)
    refuse_unknown(request, (*_CALL_FILTERS, "cursor"))
    query = {name: request.query_params.get(name) or None for name in _CALL_FILTERS}
    cursor = request.query_params.get("cursor") or None
    page = await api_of(request).get("/v1/me/calls", limit=_CALLS_A_PAGE, cursor=cursor, **query)
    given = {name: value for name, value in query.items() if value}
    return render(
        request,
        "me_calls.html",
        title="Calls",
        calls=page["data"],
        chosen=query,
        next_url=_next_url(_CALLS, given, "cursor", page["next_cursor"]),
        export_url=f"/dashboard/export/me/calls?{urlencode(given)}",
    )


async def show_call(request: Request) -> Response:
    """One call with all its attempts. Raises `NotFound` where there is none, in the same words for somebody else's."""
    require_creator(request)
    entries = (await api_of(request).get(f"/v1/me/calls/{request.path_params['request_id']}"))["data"]
    return render(request, "me_call.html", title="Call", call=entries[-1], entries=entries)


async def list_images(request: Request) -> Response:
    require_creator(request)
    refuse_unknown(request, ("after",))
    after = request.query_params.get("after") or None
    api = api_of(request)
    page = await api.get("/v1/generations", limit=_IMAGES_A_PAGE, after=after)
    asked = sorted({image["request_id"] for image in page["data"]})
    calls = dict(zip(asked, await asyncio.gather(*(_paid(api, request_id) for request_id in asked)), strict=True))
    return render(
        request,
        "me_images.html",
        title="Images",
        is_first=after is None,
        images=[
            {
                **image,
                "shown_url": _own_url(image["url"]),
                "made_at": datetime.fromtimestamp(image["created_at"], UTC).isoformat(),
                "paid": calls[image["request_id"]],
            }
            for image in page["data"]
        ],
        next_url=_next_url(_IMAGES, {}, "after", page["last_id"] if page["has_more"] else None),
    )


async def _paid(api: Api, request_id: str) -> dict[str, Any] | None:
    """What the call that made an image cost, with all its attempts and images, and who paid; None where no entry tells."""
    try:
        entries = (await api.get(f"/v1/me/calls/{request_id}"))["data"]
    except GatewayError as error:
        if error.status != NotFound.status:
            raise
        return None
    last = entries[-1]
    return {
        "cost_nano_usd": sum(entry["cost_nano_usd"] for entry in entries),
        "images": sum(entry["images"] for entry in entries),
        "payer": last["payer"],
        "units": None if last["payer_unit"].endswith("nano_usd") else sum(entry["payer_amount"] for entry in entries),
    }


async def choose_image(request: Request) -> Response:
    require_creator(request)
    await read_fields(request)
    await api_of(request).send("POST", f"/v1/generations/{request.path_params['id']}/select")
    return done(request, _IMAGES, "chosen")


def downgrade_words(me: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> str:
    """Whether calls are answered by cheaper models now, why, and until when, in a sentence.

    `me` is `GET /v1/me`, `models` the list of `GET /v1/models`.
    """
    state, limits = me["downgrade"], {limit["name"]: limit for limit in me["limits"]}
    refusing = next((limit for limit in me["limits"] if _refuses(limit, state)), None)
    if refusing is not None:
        return f"The budget of {usd_text(refusing['limit'])} is reached: calls are refused until the month's end."
    budget, steps = limits.get(state["limit_name"]), _downgrades(models)
    if budget is None or not (steps or state["is_active"]):
        return "Every call is answered by the model it asks for."
    if not state["is_active"]:
        until = f"until the budget of {usd_text(budget['limit'])} is reached"
        return f"Every call is answered by the model it asks for, {until}."
    below = "" if state["resumes_below_usd"] is None else f"below {usd_text(state['resumes_below_usd'])} or "
    then = ", ".join(steps) or "cheaper models answer where there are any"
    return f"Since the budget of {usd_text(budget['limit'])} is reached, {then}; this ends {below}at the month's end."


def _refuses(limit: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """A budget that is reached and leads to no other model."""
    is_full = limit["unit"] == "cost_nano_usd" and limit["limit"] is not None and limit["remaining"] <= 0
    return is_full and (not state["is_active"] or "hard" in limit["name"])


def _downgrades(models: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{model['id']} is answered by {model['downgrade_to']}" for model in models if model["downgrade_to"]]


def _stacked(usage: Mapping[str, Any], fields: Sequence[str]) -> tuple[list[str], list[tuple[str, list[int | None]]]]:
    """The models that were used, the largest first, and for each day what each of them came to; None where one was not."""
    rows = usage["data"]
    models = [model for model, _ in _sums(rows, "model", fields)] if rows else []
    found = {(row["day"], row["model"] or UNNAMED): sum(row[name] for name in fields) for row in rows}
    days = _days_of(usage) if rows else []
    return models, [(day, [found.get((day, model)) for model in models]) for day in days]


def _days_of(usage: Mapping[str, Any]) -> list[str]:
    """Every day that was asked for, also those on which nothing happened; of too many only the others."""
    try:
        asked = Days(date.fromisoformat(usage["from"]), date.fromisoformat(usage["to"]))
        return labels_between(asked, "day")
    except (ValueError, RequestError):
        return sorted({row["day"] for row in usage["data"]})


def _sums(rows: Sequence[Mapping[str, Any]], group: str, fields: Sequence[str]) -> list[tuple[str, list[int]]]:
    """What each value of `group` came to, the largest first."""
    sums: dict[str, int] = {}
    for row in rows:
        title = row[group] or UNNAMED
        sums[title] = sums.get(title, 0) + sum(row[name] for name in fields)
    return [(title, [amount]) for title, amount in sorted(sums.items(), key=lambda found: (-found[1], found[0]))]


def _own_url(url: str | None) -> str | None:
    """A signed URL by its path: whatever name this gateway is known by elsewhere, the browser has found this one."""
    if url is None:
        return None
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def _next_url(path: str, given: Mapping[str, str], name: str, cursor: str | None) -> str | None:
    return None if cursor is None else f"{path}?{urlencode({**given, name: cursor})}"


routes = [
    Route("/dashboard/me", show_me, methods=["GET"]),
    Route(_CALLS, list_calls, methods=["GET"]),
    Route(f"{_CALLS}/{{request_id}}", show_call, methods=["GET"]),
    Route(_IMAGES, list_images, methods=["GET"]),
    Route(f"{_IMAGES}/{{id}}/select", choose_image, methods=["POST"]),
]
