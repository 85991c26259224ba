"""`GET /admin/audit`: what admins did, the newest first; `GET /admin/whoami`: who asks.

One object a request, whose `status` is that of the answer: null where there was none, because the request is still under way
or the process died before it had answered. `from` (inclusive) and `to` (exclusive) are about `at`, when it was asked. JSON
comes in pages; CSV holds all that fits and was there when it began. `next_cursor` is null on the last page.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from gateway.audit import AuditFilter, audit_newest_first, audit_page
from gateway.endpoints import json_response
from gateway.endpoints.parameters import (
    choice,
    database_of,
    entry_cursor,
    instant_ms,
    known_parameters,
    read_entry_cursor,
    refuse,
    whole_number,
)
from gateway.ledger.entry_json import csv_header, csv_line
from gateway.ledger.periods import rfc3339
from gateway.ledger.statements import Row
from gateway.roles import Admin

LIMIT_DEFAULT = 100
LIMIT_MAX = 1_000
_KNOWN = frozenset({"from", "to", "admin", "action", "target", "limit", "cursor", "format"})
_FIELDS = "id at request_id admin_key_id admin_name role action target details address status".split()
_PIECE_ROWS = 20
"""Written at once, in a fraction of a millisecond."""


async def list_audit(request: Request) -> Response:
    query = known_parameters(request.query_params, _KNOWN)
    wanted = _filter(query)
    limit = whole_number(query, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX)
    before = read_entry_cursor(query.get("cursor"))
    if choice(query, "format", {"json", "csv"}, "json") == "csv":
        for name in ("limit", "cursor"):
            if name in query:
                refuse(name, "is for pages of JSON; `format=csv` holds all that fits")
        return await _export(request, wanted)
    rows = await audit_page(database_of(request), wanted, limit=limit + 1, before=before)
    page = rows[:limit]
    next_cursor = entry_cursor(page[-1]["id"]) if len(rows) > limit else None
    return json_response({"data": [_audit_json(row) for row in page], "next_cursor": next_cursor})


async def show_admin(request: Request) -> Response:
    admin: Admin = request.state.admin
    return json_response(admin._asdict())


async def _export(request: Request, wanted: AuditFilter) -> Response:
    lists = audit_newest_first(database_of(request), wanted)
    # Read before the status leaves, so that a store that fails at once still gets a proper answer.
    first: list[Row] = await anext(lists, [])

    async def body() -> AsyncIterator[str]:
        yield csv_header(_FIELDS)
        rows = first
        while rows:
            for start in range(0, len(rows), _PIECE_ROWS):
                yield "".join(csv_line(_audit_json(row)) for row in rows[start : start + _PIECE_ROWS])
                await asyncio.sleep(0)
            rows = await anext(lists, [])

    headers = {"content-disposition": 'attachment; filename="audit.csv"'}
    return StreamingResponse(body(), 200, headers, "text/csv")


def _audit_json(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "at": rfc3339(row["created_at"]),
        "request_id": row["request_id"],
        "admin_key_id": row["admin_key_id"],
        "admin_name": row["admin_name"],
        "role": row["role"],
        "action": row["action"],
        "target": row["target"],
        "details": orjson.loads(row["details"]),
        "address": row["address"],
        "status": row["status"],
    }


def _filter(query: Mapping[str, str]) -> AuditFilter:
    return AuditFilter(
        instant_ms(query, "from"),
        instant_ms(query, "to"),
        query.get("admin"),
        query.get("action"),
        query.get("target"),
    )


routes = [
    Route("/admin/audit", list_audit, methods=["GET"]),
    Route("/admin/whoami", show_admin, methods=["GET"]),
]
