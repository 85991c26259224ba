"""`GET /admin/charges?month=YYYY-MM`, and `POST /admin/charges/{month}/close`: what each creator owes for a month.

`charge_nano_usd` sums what the quota paid; what other payers took is in `units`, by payer. An open month is summed as of
now, a closed one stands as it was written. `GET /admin/charges/months?to=YYYY-MM&count=12` has the months side by side,
each with its state and the sums over all creators.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.endpoints import json_response, read_form
from gateway.endpoints.admin.keys import NoForm
from gateway.endpoints.parameters import choice, database_of, known_parameters, refuse, whole_number
from gateway.ledger.closing import bounds_of, close_month
from gateway.ledger.entry_json import csv_header, csv_line
from gateway.ledger.months import Month, months_before, months_shown
from gateway.ledger.periods import now_ms, rfc3339
from gateway.ledger.queries import charges_of_month
from gateway.pricing import usd

MONTHS_DEFAULT = 12
MONTHS_MAX = 36

_FIELDS = (
    "creator",
    "month",
    "calls",
    "charge_nano_usd",
    "charge_usd",
    "cost_nano_usd",
    "cost_usd",
    "units",
    "closed",
    "closed_at",
)


async def show_charges(request: Request) -> Response:
    query = known_parameters(request.query_params, {"month", "format"})
    form = choice(query, "format", {"json", "csv"}, "json")
    month = query.get("month") or refuse("month", "is needed, such as 2026-05")
    bounds_of(month)
    rows, closed_at = await charges_of_month(database_of(request), month)
    shown = [_charge(row, closed_at) for row in rows]
    if form == "csv":
        text = csv_header(_FIELDS) + "".join(map(csv_line, shown))
        headers = {"content-disposition": f'attachment; filename="charges-{month}.csv"'}
        return Response(text, 200, headers, "text/csv")
    totals = _totals(rows)
    return json_response({"data": shown, "month": month, "closed": closed_at is not None, "totals": totals})


async def show_months(request: Request) -> Response:
    query = known_parameters(request.query_params, {"to", "count"})
    last = query.get("to") or request.app.state.clock().astimezone(UTC).strftime("%Y-%m")
    bounds_of(last)
    count = whole_number(query, "count", default=MONTHS_DEFAULT, least=1, most=MONTHS_MAX)
    # As the closing itself: months end by the ledger's clock.
    months = await months_shown(database_of(request), months_before(last, count), now_ms())
    return json_response({"data": [_month(month) for month in months]})


async def close(request: Request) -> Response:
    month = request.path_params["month"]
    await read_form(request, NoForm)
    creators, is_new = await close_month(database_of(request), month)
    return json_response({"month": month, "creators": creators, "closed_now": is_new})


def _totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    units: dict[str, int] = {}
    for row in rows:
        for payer, amount in row["units"].items():
            units[payer] = units.get(payer, 0) + amount
    charge, cost = (sum(row[name] for row in rows) for name in ("charge_nano_usd", "cost_nano_usd"))
    return {
        "creators": len(rows),
        "calls": sum(row["calls"] for row in rows),
        "charge_nano_usd": charge,
        "charge_usd": usd(charge),
        "cost_nano_usd": cost,
        "cost_usd": usd(cost),
        "units": dict(sorted(units.items())),
    }


def _month(month: Month) -> dict[str, Any]:
    return {
        **month._asdict(),
        "closed_at": None if month.closed_at is None else rfc3339(month.closed_at),
        "charge_usd": usd(month.charge_nano_usd),
        "cost_usd": usd(month.cost_nano_usd),
    }


def _charge(row: dict[str, Any], closed_at: int | None) -> dict[str, Any]:
    amounts = {"charge_usd": usd(row["charge_nano_usd"]), "cost_usd": usd(row["cost_nano_usd"])}
    closed = {"closed": closed_at is not None, "closed_at": None if closed_at is None else rfc3339(closed_at)}
    whole = {**row, **amounts, **closed}
    return {name: whole[name] for name in _FIELDS}


routes = [
    Route("/admin/charges", show_charges, methods=["GET"]),
    Route("/admin/charges/months", show_months, methods=["GET"]),
    Route("/admin/charges/{month}/close", close, methods=["POST"]),
]
