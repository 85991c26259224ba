"""`/v1/me`: what a creator sees of itself, with the key it already has. Nothing here tells of anybody else.

`GET /v1/me` is everything at once; `/v1/me/usage` sums, `/v1/me/calls` and `/v1/me/calls/{request_id}` calls (the cost of a
streamed call is read here afterwards), `/v1/me/credits` the balance and every entry that changed it. With `format=csv` usage and
calls come as a file: every row that fits, streamed.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.creator_view import CALL_FIELDS, call_json, view_of
from gateway.endpoints import json_response
from gateway.endpoints.csv_files import csv_of_pages, csv_of_rows
from gateway.endpoints.parameters import (
    choice,
    database_of,
    day,
    entry_cursor,
    instant_ms,
    known_parameters,
    read_entry_cursor,
    refuse,
    whole_number,
)
from gateway.errors import NotFound
from gateway.ledger.creator_queries import (
    CREATOR_GROUPS,
    call_of_creator,
    calls_of_creator,
    credit_history,
    grants_of_creator,
    own_calls,
    usage_of_creator,
)
from gateway.ledger.entry_json import entry_json, sums_json
from gateway.ledger.periods import rfc3339
from gateway.ledger.queries import COST_SUMS, EntryFilter, entries_newest_first
from gateway.ledger.statements import Row
from policies.types import Account

LIMIT_DEFAULT = 50
LIMIT_MAX = 500
_ROWS_AT_ONCE = 100
"""Some two milliseconds of work."""
_FORMATS = {"json", "csv"}


async def show_me(request: Request) -> Response:
    state = request.app.state
    return json_response(await view_of(_account(request), state.database, state.counters, _now(request)))


async def show_usage(request: Request) -> Response:
    """Sums by any of day, model and feature; the current month by day where nothing else is said."""
    query = known_parameters(request.query_params, {"from", "to", "group_by", "format"})
    now = _now(request)
    from_day = day(query, "from") or now.strftime("%Y-%m-01")
    to_day = day(query, "to") or (now + timedelta(days=1)).strftime("%Y-%m-%d")
    group_by = query.get("group_by", "day").split(",")
    if any(name not in CREATOR_GROUPS for name in group_by) or len(set(group_by)) != len(group_by):
        refuse("group_by", f"takes names, each once, joined by commas, of: {', '.join(CREATOR_GROUPS)}")
    form = choice(query, "format", _FORMATS, "json")
    rows = await usage_of_creator(
        database_of(request), _account(request).creator, group_by, from_day=from_day, to_day=to_day
    )

    def shown(row: Row) -> dict[str, Any]:
        return {**{name: row[name] for name in group_by}, **sums_json(row)}

    if form == "csv":
        names = (*group_by, *sums_json(dict.fromkeys(COST_SUMS, 0)))
        return csv_of_rows("usage", names, rows, shown)

    def answer() -> Response:
        data = [shown(row) for row in rows]
        return json_response({"object": "list", "data": data, "from": from_day, "to": to_day})

    return await _made(answer, len(rows))


async def list_calls(request: Request) -> Response:
    known = {"from", "to", "model", "feature", "limit", "cursor", "format"}
    query, creator = known_parameters(request.query_params, known), _account(request).creator
    limit = whole_number(query, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX)
    before = read_entry_cursor(query.get("cursor"))
    from_ms, to_ms = instant_ms(query, "from"), instant_ms(query, "to")
    model, feature = query.get("model"), query.get("feature")
    if choice(query, "format", _FORMATS, "json") == "csv":
        wanted = own_calls(creator, from_ms=from_ms, to_ms=to_ms, model=model, feature=feature)
        return await _all_calls(request, query, wanted)
    rows = await calls_of_creator(
        database_of(request),
        creator,
        limit=limit + 1,
        before=before,
        from_ms=from_ms,
        to_ms=to_ms,
        model=model,
        feature=feature,
    )
    return await _made(lambda: json_response(_page(rows, limit, _call)), len(rows))


async def _all_calls(request: Request, query: Mapping[str, str], wanted: EntryFilter) -> Response:
    for name in ("limit", "cursor"):
        if name in query:
            refuse(name, "is for pages of JSON; `format=csv` holds every call that fits")
    lists = entries_newest_first(database_of(request), wanted)
    return await csv_of_pages("calls", CALL_FIELDS, lists, _call)


async def show_call(request: Request) -> Response:
    rows = await call_of_creator(database_of(request), _account(request).creator, request.path_params["request_id"])
    if not rows:
        # The same answer for a call of somebody else: an id must not tell that it exists.
        raise NotFound("There is no call with this request id.")
    return json_response({"object": "list", "data": [_call(row) for row in rows]})


async def show_credits(request: Request) -> Response:
    query = known_parameters(request.query_params, {"limit", "cursor"})
    limit = whole_number(query, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX)
    state, account = request.app.state, _account(request)
    view = await view_of(account, state.database, state.counters, _now(request))
    before = read_entry_cursor(query.get("cursor"))
    rows = await credit_history(database_of(request), account.creator, limit=limit + 1, before=before)
    grants = await grants_of_creator(database_of(request), account.creator)
    balance = {name: view[name] for name in ("credits", "promo_credits", "free_images_today")}

    def answer() -> Response:
        shown_grants = [_grant(row) for row in grants]
        return json_response({**balance, "grants": shown_grants, **_page(rows, limit, _change)})

    return await _made(answer, len(rows) + len(grants))


def _call(row: Row) -> dict[str, Any]:
    return call_json(entry_json(row))


def _change(row: Row) -> dict[str, Any]:
    entry = entry_json(row)
    return {
        "request_id": entry["request_id"],
        "kind": entry["kind"],
        "payer": entry["payer"],
        "change": -entry["payer_amount"],
        "model": entry["served_model"],
        "images": entry["images"],
        "expires_at": None if row["expires_at"] is None else rfc3339(row["expires_at"]),
        "created_at": entry["created_at"],
    }


def _grant(row: Row) -> dict[str, Any]:
    return {
        "payer": row["payer"],
        "credits": row["credits"],
        "created_at": rfc3339(row["created_at"]),
        "expires_at": None if row["expires_at"] is None else rfc3339(row["expires_at"]),
    }


async def _made(answer: Callable[[], Response], rows: int) -> Response:
    """What `answer` returns. Of many rows it is made in a thread, so that calls in flight do not wait for it."""
    return answer() if rows <= _ROWS_AT_ONCE else await asyncio.to_thread(answer)


def _page(rows: list[Row], limit: int, shown: Any) -> dict[str, Any]:
    next_cursor = entry_cursor(rows[limit - 1]["id"]) if len(rows) > limit else None
    return {"object": "list", "data": [shown(row) for row in rows[:limit]], "next_cursor": next_cursor}


def _account(request: Request) -> Account:
    account: Account = request.state.account
    return account


def _now(request: Request) -> datetime:
    now: datetime = request.app.state.clock()
    return now.astimezone(UTC)


routes = [
    Route("/v1/me", show_me, methods=["GET"]),
    Route("/v1/me/usage", show_usage, methods=["GET"]),
    Route("/v1/me/calls", list_calls, methods=["GET"]),
    Route("/v1/me/calls/{request_id}", show_call, methods=["GET"]),
    Route("/v1/me/credits", show_credits, methods=["GET"]),
]
