"""How creators stand: `GET /admin/standing` for all of them, `/admin/creators/{id}/limits` and `/refusals` for one.

`/admin/standing` lists every creator with its month so far beside its caps, sorted by `sort` (`spend`, `forecast`,
`used`: the largest first; `name`), narrowed by `plan`, `q` (part of an id or a name) and `state` (`downgraded`,
`near_limit`: 80 % of budget or quota, `inactive`: switched off), in pages of `limit`; `format=csv` is a file with all that
fit. `/limits` answers what `/v1/me`
answers the creator. `/refusals` counts refused calls by day and reason, `from` (inclusive) to `to` (exclusive).
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.auth import Authenticator
from gateway.creator_standing import SORTS, STATES, Place, Sort, Standings, State, Wanted
from gateway.creator_view import view_of
from gateway.endpoints import json_response
from gateway.endpoints.admin.creators import accounts_of
from gateway.endpoints.csv_files import csv_of_pages
from gateway.endpoints.parameters import choice, database_of, day, known_parameters, pages_only, refuse, whole_number
from gateway.errors import NotFound
from gateway.ledger.standings import refusals_of_creator
from policies.quota import month_of

LIMIT_DEFAULT = 50
LIMIT_MAX = 200

_KNOWN = frozenset({"plan", "q", "sort", "state", "limit", "cursor", "format"})
_COLUMNS = """creator name plan is_active is_downgraded calls cost_nano_usd cost_usd charge_nano_usd charge_usd
    forecast_cost_nano_usd forecast_cost_usd budget_nano_usd budget_usd quota_nano_usd quota_usd used_permille
    last_day""".split()


async def show_standing(request: Request) -> Response:
    query = known_parameters(request.query_params, _KNOWN)
    sort = cast(Sort, choice(query, "sort", SORTS, "spend"))
    wanted = Wanted(
        sort,
        query.get("plan"),
        query.get("q", ""),
        cast(State | None, choice(query, "state", STATES)),
        whole_number(query, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX),
        _read_cursor(query, sort),
    )
    state, now = request.app.state, _now(request)
    standings = Standings(database_of(request), state.counters, state.plans, now)
    if choice(query, "format", {"json", "csv"}, "json") == "csv":
        pages_only(query, "limit", "cursor")
        return await csv_of_pages(
            f"creators-{month_of(now)}", _COLUMNS, standings.every(replace(wanted, limit=LIMIT_MAX))
        )
    rows, after = await standings.page(wanted)
    next_cursor = None if after is None else _cursor(sort, after)
    return json_response({"data": rows, "period": month_of(now), "next_cursor": next_cursor})


async def show_limits(request: Request) -> Response:
    state = request.app.state
    authenticator: Authenticator = state.authenticator
    account = await authenticator.account_of(request.path_params["id"])
    if account is None:
        raise NotFound("There is no creator with this id.", code="creator_not_found")
    view = await view_of(account, database_of(request), state.counters, _now(request))
    del view["key_id"]
    return json_response({**view, "object": "creator.limits"})


async def show_refusals(request: Request) -> Response:
    query = known_parameters(request.query_params, {"from", "to"})
    now = _now(request)
    from_day = day(query, "from") or now.strftime("%Y-%m-01")
    to_day = day(query, "to") or (now + timedelta(days=1)).strftime("%Y-%m-%d")
    creator = request.path_params["id"]
    await accounts_of(request).get_creator(creator)
    rows = await refusals_of_creator(database_of(request), creator, from_day=from_day, to_day=to_day)
    return json_response({"data": rows, "from": from_day, "to": to_day})


def _cursor(sort: Sort, after: Place) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([sort, *after])).decode().rstrip("=")


def _read_cursor(query: Mapping[str, str], sort: Sort) -> Place | None:
    text = query.get("cursor")
    if text is None:
        return None
    try:
        value: Any = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        value = None
    key_type = str if sort == "name" else int
    if not (isinstance(value, list) and len(value) == 3 and value[0] == sort):
        refuse("cursor", "takes the `next_cursor` of an answer with the same `sort`")
    _, key, creator = value
    if type(key) is not key_type or not isinstance(creator, str):
        refuse("cursor", "takes the `next_cursor` of an answer with the same `sort`")
    return key, creator


def _now(request: Request) -> datetime:
    now: datetime = request.app.state.clock()
    return now.astimezone(UTC)


routes = [
    Route("/admin/standing", show_standing, methods=["GET"]),
    Route("/admin/creators/{id}/limits", show_limits, methods=["GET"]),
    Route("/admin/creators/{id}/refusals", show_refusals, methods=["GET"]),
]
