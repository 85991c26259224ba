"""`GET /admin/ledger` and `GET /admin/ledger/{request_id}`: entries, the newest first.

`from` (inclusive) and `to` (exclusive) are about `created_at`, when an entry was posted; a day means its first instant in
UTC, so `from=2026-05-01&to=2026-06-01` is what was posted in May. JSON comes in pages; CSV and NDJSON hold every entry
that fits and was there when they began. `next_cursor` is null on the last page.

With `scan_max` no more than so many entries are looked at for a page of JSON. Where they were not enough to fill it,
`searched_to` says down to which instant everything was found, and `next_cursor` goes on from there; else it is null.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, get_args

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

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
    yes_or_no,
)
from gateway.errors import NotFound
from gateway.ledger.bounded_pages import bounded_page
from gateway.ledger.entry_json import ENTRY_FIELDS, csv_header, csv_line, entry_json
from gateway.ledger.explanation import explain_request
from gateway.ledger.ids import ms_in
from gateway.ledger.periods import rfc3339
from gateway.ledger.queries import EntryFilter, entries_newest_first, entry_page
from gateway.ledger.records import Kind, Outcome
from gateway.ledger.statements import Row

LIMIT_DEFAULT = 100
LIMIT_MAX = 1_000
SCAN_MAX = 1_000_000

_TEXTS = ("creator", "feature", "agent", "provider", "endpoint", "request_id")
_KNOWN = frozenset(
    {*_TEXTS, "model", "kind", "outcome", "cached", "from", "to", "limit", "cursor", "scan_max", "format"},
)
_FORMATS = {"json", "csv", "ndjson"}
_PIECE_ROWS = 8
"""Written at once, in a fraction of a millisecond."""
_REST = 2
"""Calls have their turn for so many times as long, or an export of millions of entries would make each of them wait at every
step."""


async def list_entries(request: Request) -> Response:
    query = known_parameters(request.query_params, _KNOWN)
    wanted = _filter(query)
    limit = whole_number(query, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX)
    before = read_entry_cursor(query.get("cursor"))
    form = choice(query, "format", _FORMATS, "json")
    if form != "json":
        for name in ("limit", "cursor", "scan_max"):
            if name in query:
                refuse(name, f"is for pages of JSON; `format={form}` holds every entry that fits")
        return await _export(request, wanted, form or "")
    if "scan_max" in query:
        scan_max = whole_number(query, "scan_max", default=SCAN_MAX, least=1, most=SCAN_MAX)
        return await _bounded(request, wanted, limit, before, scan_max)
    rows = await entry_page(database_of(request), wanted, limit=limit + 1, before=before)
    page = rows[:limit]
    next_cursor = entry_cursor(page[-1]["id"]) if len(rows) > limit else None
    return json_response({"data": [entry_json(row) for row in page], "next_cursor": next_cursor})


async def _bounded(request: Request, wanted: EntryFilter, limit: int, before: str | None, scan_max: int) -> Response:
    found = await bounded_page(database_of(request), wanted, limit=limit, before=before, scan_max=scan_max)
    page = found.rows[:limit]
    last = page[-1]["id"] if len(found.rows) > limit else found.stopped_at
    shown = {
        "data": [entry_json(row) for row in page],
        "next_cursor": None if last is None else entry_cursor(last),
        "searched_to": None if found.stopped_at is None else rfc3339(ms_in(found.stopped_at)),
    }
    return json_response(shown)


async def show_request(request: Request) -> Response:
    """One call with all that explains it: attempts, decision, prices, corrections, and its hold while it is open."""
    found = await explain_request(database_of(request), request.path_params["request_id"])
    if found is None:
        raise NotFound("The ledger has no entry for this request id.")
    return json_response(found)


async def _export(request: Request, wanted: EntryFilter, form: str) -> Response:
    lists = entries_newest_first(database_of(request), wanted)
    # Read before the status leaves, so that a store that fails at once still gets a proper answer.
    first: list[Row] = await anext(lists, [])
    write, media_type = (_csv, "text/csv; charset=utf-8") if form == "csv" else (_ndjson, "application/x-ndjson")

    async def body() -> AsyncIterator[bytes]:
        if form == "csv":
            yield csv_header(ENTRY_FIELDS).encode()
        rows = first
        while rows:
            for start in range(0, len(rows), _PIECE_ROWS):
                began_at = time.perf_counter()
                piece = write(rows[start : start + _PIECE_ROWS])
                took_s = time.perf_counter() - began_at
                yield piece
                await asyncio.sleep(_REST * took_s)
            rows = await anext(lists, [])

    headers = {"content-disposition": f'attachment; filename="ledger.{form}"'}
    return StreamingResponse(body(), 200, headers, media_type)


def _csv(rows: list[Row]) -> bytes:
    return "".join(csv_line(entry_json(row)) for row in rows).encode()


def _ndjson(rows: list[Row]) -> bytes:
    return b"".join(orjson.dumps(entry_json(row), option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _filter(query: Mapping[str, str]) -> EntryFilter:
    equal: dict[str, Any] = {name: query[name] for name in _TEXTS if name in query}
    for name, allowed in (("kind", get_args(Kind)), ("outcome", get_args(Outcome))):
        value = choice(query, name, allowed)
        if value is not None:
            equal[name] = value
    cached = yes_or_no(query, "cached")
    if cached is not None:
        equal["cached"] = cached
    return EntryFilter(instant_ms(query, "from"), instant_ms(query, "to"), query.get("model"), equal)


routes = [
    Route("/admin/ledger", list_entries, methods=["GET"]),
    Route("/admin/ledger/{request_id}", show_request, methods=["GET"]),
]
