"""`GET /admin/paused-keys`: the virtual keys whose calls are refused until somebody resumes them, the latest first."""

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.account_json import key_json
from gateway.endpoints import json_response
from gateway.endpoints.parameters import database_of, known_parameters, whole_number
from gateway.ledger.periods import now_ms
from gateway.ledger.schema import virtual_keys

LIMIT_DEFAULT = 100
LIMIT_MAX = 1_000


async def list_paused_keys(request: Request) -> Response:
    """Without those that were revoked since. `has_more`: there are more than `limit`."""
    query = known_parameters(request.query_params, {"limit"})
    limit = whole_number(query, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX)
    paused = (
        select(virtual_keys)
        .where(virtual_keys.c.paused_at.is_not(None), virtual_keys.c.revoked_at.is_(None))
        .order_by(virtual_keys.c.paused_at.desc(), virtual_keys.c.id)
    )
    rows = await database_of(request).fetch_all(paused.limit(limit + 1))
    now = now_ms()
    return json_response({"data": [key_json(row, now) for row in rows[:limit]], "has_more": len(rows) > limit})


routes = [Route("/admin/paused-keys", list_paused_keys, methods=["GET"])]
