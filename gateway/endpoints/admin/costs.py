"""`GET /admin/costs?group_by=a,b`: what calls cost, summed by any keys of the daily rollups.

`from` (inclusive) and `to` (exclusive) are days of the calls' admission, UTC. Sorted by the groups, in their order.
"""

from collections.abc import Mapping
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.endpoints import json_response
from gateway.endpoints.parameters import choice, database_of, day, known_parameters, refuse, yes_or_no
from gateway.ledger.entry_json import csv_header, csv_line, sums_json
from gateway.ledger.queries import COST_SUMS, GROUPS, CostFilter, costs
from gateway.ledger.records import Kind, Outcome
from gateway.ledger.schema import USAGE_DAILY_KEY
from gateway.ledger.statements import Row

_KEYS = frozenset(USAGE_DAILY_KEY) | {"month"}
_KNOWN = frozenset({*_KEYS, "model", "from", "to", "group_by", "format"})


async def show_costs(request: Request) -> Response:
    query = known_parameters(request.query_params, _KNOWN)
    group_by = _groups(query)
    form = choice(query, "format", {"json", "csv"}, "json")
    rows = await costs(database_of(request), _filter(query), group_by)
    shown = [{**{name: row[name] for name in group_by}, **_sums(row, group_by)} for row in rows]
    if form == "csv":
        text = csv_header([*group_by, *_sums(_NOTHING, group_by)]) + "".join(map(csv_line, shown))
        headers = {"content-disposition": 'attachment; filename="costs.csv"'}
        return Response(text, 200, headers, "text/csv")
    totals = {name: sum(row[name] for row in rows) for name in COST_SUMS}
    return json_response({"data": shown, "totals": sums_json(totals)})


def _sums(row: Mapping[str, Any], group_by: list[str]) -> Row:
    """`payer_amount` only by payer: nano-dollars, credits and images make no sum."""
    return sums_json(row) | ({"payer_amount": row["payer_amount"]} if "payer" in group_by else {})


def _groups(query: Mapping[str, str]) -> list[str]:
    names = query.get("group_by", "").split(",")
    if any(name not in GROUPS for name in names) or len(set(names)) != len(names):
        refuse("group_by", f"takes names, each once, joined by commas, of: {', '.join(sorted(GROUPS))}")
    return names


def _filter(query: Mapping[str, str]) -> CostFilter:
    equal: dict[str, Any] = {name: query[name] for name in _KEYS if name in query}
    for name, allowed in (("kind", get_args(Kind)), ("outcome", get_args(Outcome))):
        choice(query, name, allowed)
    cached = yes_or_no(query, "cached")
    if cached is not None:
        equal["cached"] = cached
    return CostFilter(day(query, "from"), day(query, "to"), query.get("model"), equal)


_NOTHING = dict.fromkeys(COST_SUMS, 0)

routes = [Route("/admin/costs", show_costs, methods=["GET"])]
