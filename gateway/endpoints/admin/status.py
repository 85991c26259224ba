"""`GET /admin/status`: how this process is doing, as `/health/ready` tells machines, and the calls that are in flight.

`holds` are those of the ledger, of all processes: how many calls have money set aside, how much, and since when the oldest.
"""

from typing import Any

from sqlalchemy import Select, func, select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.endpoints import json_response
from gateway.endpoints.health import checks_of, status_of
from gateway.endpoints.parameters import database_of, known_parameters
from gateway.ledger.periods import rfc3339
from gateway.ledger.schema import holds
from gateway.pricing import usd

_HOLDS: Select[Any] = select(
    func.count().label("count"),
    func.coalesce(func.sum(holds.c.amount_nano_usd), 0).label("amount"),
    func.min(holds.c.created_at).label("oldest"),
)


async def show_status(request: Request) -> Response:
    """Always 200: whoever asks wants to read it."""
    known_parameters(request.query_params, ())
    checks = checks_of(request)
    (held,) = await database_of(request).fetch_all(_HOLDS)
    amount = int(held["amount"])
    shown = {
        "calls": held["count"],
        "held_nano_usd": amount,
        "held_usd": usd(amount),
        "oldest_at": None if held["oldest"] is None else rfc3339(held["oldest"]),
    }
    return json_response({"status": status_of(checks), "checks": checks, "holds": shown})


routes = [Route("/admin/status", show_status, methods=["GET"])]
