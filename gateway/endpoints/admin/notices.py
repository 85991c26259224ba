"""`GET /admin/notices`: what people were told, the newest first, and whether it arrived; `POST /admin/notices/test`.

`next_cursor` is null on the last page; `format=csv` is a file with all that fits. A delivery is `pending` (then `next_at` says when it is tried next), `delivered` or
`given_up` (then `ended_at` says when); `error` is about its last attempt.
"""

from collections.abc import AsyncIterator
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.endpoints import json_response, read_form
from gateway.endpoints.admin.keys import NoForm
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
from gateway.errors import RequestError
from gateway.ledger.database import Database
from gateway.ledger.notices import NOTICE_PREFIX, notice_page
from gateway.ledger.periods import rfc3339
from gateway.ledger.statements import Row
from gateway.notices.base import Kind
from gateway.notices.book import Notices

LIMIT_DEFAULT = 100
LIMIT_MAX = 1_000
_KNOWN = frozenset({"kind", "creator", "limit", "cursor", "format"})
_COLUMNS = ("id", "created_at", "kind", "creator", "message", "data", "deliveries")


async def list_notices(request: Request) -> Response:
    query = known_parameters(request.query_params, _KNOWN)
    kind = choice(query, "kind", get_args(Kind))
    if choice(query, "format", {"json", "csv"}, "json") == "csv":
        pages_only(query, "limit", "cursor")
        every = _every(database_of(request), kind, query.get("creator"))
        return await csv_of_pages("notices", _COLUMNS, every, _notice_json)
    limit = whole_number(query, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX)
    cursor = read_entry_cursor(query.get("cursor"))
    before = None if cursor is None else NOTICE_PREFIX + cursor
    rows = await notice_page(
        database_of(request), limit=limit + 1, before=before, kind=kind, creator=query.get("creator")
    )
    page = rows[:limit]
    next_cursor = entry_cursor(page[-1]["id"].removeprefix(NOTICE_PREFIX)) if len(rows) > limit else None
    return json_response({"data": [_notice_json(row) for row in page], "next_cursor": next_cursor})


async def _every(database: Database, kind: str | None, creator: str | None) -> AsyncIterator[list[Row]]:
    before: str | None = None
    while rows := await notice_page(database, limit=LIMIT_MAX, before=before, kind=kind, creator=creator):
        yield rows
        before = rows[-1]["id"]


async def send_test(request: Request) -> Response:
    """Answers before it was delivered: its id in the list says what became of it."""
    await read_form(request, NoForm)
    book: Notices = request.app.state.notices
    if not book.targets:
        raise RequestError(
            "Notices go nowhere: set GATEWAY_WEBHOOK_URL, GATEWAY_SLACK_WEBHOOK_URL or GATEWAY_SMTP_URL and start the "
            "gateway anew.",
            status=409,
            code="no_notice_targets",
        )
    return json_response({"id": await book.record_test(), "targets": list(book.targets)}, 202)


def _notice_json(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "kind": row["kind"],
        "creator": row["creator"],
        "message": row["message"],
        "data": row["data"],
        "once": row["once"],
        "created_at": rfc3339(row["created_at"]),
        "deliveries": [_delivery_json(delivery) for delivery in row["deliveries"]],
    }


def _delivery_json(row: Row) -> dict[str, Any]:
    at = rfc3339(row["next_at"])
    is_pending = row["state"] == "pending"
    return {
        "target": row["target"],
        "state": row["state"],
        "attempts": row["attempts"],
        "next_at": at if is_pending else None,
        "ended_at": None if is_pending else at,
        "error": row["error"],
    }


routes = [
    Route("/admin/notices", list_notices, methods=["GET"]),
    Route("/admin/notices/test", send_test, methods=["POST"]),
]
