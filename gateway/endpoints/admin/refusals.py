"""`GET /admin/refusals`: how many calls were refused, by reason and creator, the most first.

`from` (inclusive) and `to` (exclusive) are days, UTC; without them it is the current month. `creator` and `reason` narrow it.
`by_reason` and `total` count all of them, `data` the `limit` largest; `format=csv` is a file with all. A refused call costs
nothing and has no entry: only its number is kept. What was refused is counted within about a second.
"""

from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.endpoints import json_response
from gateway.endpoints.csv_files import csv_of_rows
from gateway.endpoints.parameters import choice, database_of, day, known_parameters, pages_only, whole_number
from gateway.ledger.standings import refusals_by_reason, refusals_summed

LIMIT_DEFAULT = 100
LIMIT_MAX = 1_000
_KNOWN = frozenset({"from", "to", "creator", "reason", "limit", "format"})
_COLUMNS = ("creator", "reason", "count")


async def list_refusals(request: Request) -> Response:
    query = known_parameters(request.query_params, _KNOWN)
    now: datetime = request.app.state.clock().astimezone(UTC)
    from_day = day(query, "from") or now.strftime("%Y-%m-01")
    to_day = day(query, "to") or (now + timedelta(days=1)).strftime("%Y-%m-%d")
    limit = whole_number(query, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX)
    equal = {name: query[name] for name in ("creator", "reason") if name in query}
    is_file = choice(query, "format", {"json", "csv"}, "json") == "csv"
    if is_file:
        pages_only(query, "limit")
    most = None if is_file else limit
    rows = await refusals_summed(database_of(request), equal, from_day=from_day, to_day=to_day, limit=most)
    if is_file:
        return csv_of_rows("refusals", _COLUMNS, rows)
    counts = await refusals_by_reason(database_of(request), equal, from_day=from_day, to_day=to_day)
    return json_response(
        {
            "data": rows,
            "by_reason": counts,
            "total": sum(row["count"] for row in counts),
            "from": from_day,
            "to": to_day,
        }
    )


routes = [Route("/admin/refusals", list_refusals, methods=["GET"])]
