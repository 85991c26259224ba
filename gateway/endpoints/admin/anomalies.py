"""`GET /admin/anomalies`: hours out of the usual, the newest first, with the figures that made them so and what was done.

`GET /admin/throttles` lists the creators who are slowed down now, `DELETE /admin/throttles/{creator}` ends that at once.
A paused key is resumed at `POST /admin/keys/{id}/resume`. Figures are integers in the unit of `metric`; of a cost also
decimal strings in US dollars, which are null for calls. `next_cursor` is null on the last page; anomalies with `format=csv`
are a file with all that fits.
"""

from collections.abc import AsyncIterator
from typing import Any, cast, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.anomalies.actions import Brakes
from gateway.anomalies.words import FIGURES
from gateway.endpoints import json_response
from gateway.endpoints.csv_files import csv_of_pages
from gateway.endpoints.parameters import (
    choice,
    database_of,
    entry_cursor,
    known_parameters,
    pages_only,
    read_entry_cursor,
    whole_number,
)
from gateway.errors import NotFound
from gateway.ledger.anomalies import Anomaly, Metric, Throttle, anomaly_page, throttle_page
from gateway.ledger.database import Database
from gateway.ledger.periods import now_ms, rfc3339
from gateway.pricing import usd

LIMIT_DEFAULT = 100
LIMIT_MAX = 1_000
_COLUMNS = (
    *("id", "created_at", "creator", "feature", "metric", "hour"),
    *(column for name in FIGURES for column in (name, f"{name}_usd")),
    *("hours", "action", "details"),
)


async def list_anomalies(request: Request) -> Response:
    query = known_parameters(request.query_params, {"creator", "metric", "limit", "cursor", "format"})
    creator, metric = query.get("creator"), cast(Metric | None, choice(query, "metric", get_args(Metric)))
    if choice(query, "format", {"json", "csv"}, "json") == "csv":
        pages_only(query, "limit", "cursor")
        every = _every(database_of(request), creator, metric)
        return await csv_of_pages("anomalies", _COLUMNS, every, _anomaly_json)
    limit = whole_number(query, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX)
    rows = await anomaly_page(
        database_of(request),
        creator=creator,
        metric=metric,
        limit=limit + 1,
        before=read_entry_cursor(query.get("cursor")),
    )
    page = rows[:limit]
    next_cursor = entry_cursor(page[-1].id) if len(rows) > limit else None
    return json_response({"data": [_anomaly_json(anomaly) for anomaly in page], "next_cursor": next_cursor})


async def _every(database: Database, creator: str | None, metric: Metric | None) -> AsyncIterator[list[Anomaly]]:
    before: str | None = None
    while rows := await anomaly_page(database, creator=creator, metric=metric, limit=LIMIT_MAX, before=before):
        yield rows
        before = rows[-1].id


async def list_throttles(request: Request) -> Response:
    """By creator; a page goes on after the creator that `cursor` names."""
    query = known_parameters(request.query_params, {"limit", "cursor"})
    limit = whole_number(query, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX)
    rows = await throttle_page(database_of(request), now_ms=now_ms(), limit=limit + 1, after=query.get("cursor", ""))
    page = rows[:limit]
    next_cursor = page[-1].creator if len(rows) > limit else None
    return json_response({"data": [_throttle_json(throttle) for throttle in page], "next_cursor": next_cursor})


async def lift_throttle(request: Request) -> Response:
    creator = request.path_params["creator"]
    if not await cast(Brakes, request.app.state.accounts).lift_throttle(creator):
        raise NotFound("This creator is not slowed down.")
    return json_response({"creator": creator, "lifted": True})


def _anomaly_json(anomaly: Anomaly) -> dict[str, Any]:
    finding = anomaly.finding
    is_money = finding.metric == "cost_nano_usd"
    figures: dict[str, Any] = {}
    for name in FIGURES:
        amount = getattr(finding, name)
        figures |= {name: amount, f"{name}_usd": usd(amount) if is_money else None}
    return {
        "id": anomaly.id,
        "creator": finding.creator,
        "feature": finding.feature,
        "metric": finding.metric,
        "hour": finding.hour,
        **figures,
        "hours": finding.hours,
        "action": finding.action,
        "details": anomaly.details,
        "created_at": rfc3339(anomaly.created_at),
    }


def _throttle_json(throttle: Throttle) -> dict[str, Any]:
    return {
        "creator": throttle.creator,
        "requests_per_minute": throttle.requests_per_minute,
        "until_at": rfc3339(throttle.until_at),
        "anomaly_id": throttle.anomaly_id or None,
    }


routes = [
    Route("/admin/anomalies", list_anomalies, methods=["GET"]),
    Route("/admin/throttles", list_throttles, methods=["GET"]),
    Route("/admin/throttles/{creator}", lift_throttle, methods=["DELETE"]),
]
