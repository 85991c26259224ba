"""`GET /admin/costs?group_by=a,b`: what calls cost, summed by any keys of the daily rollups.

`from` (inclusive) and `to` (exclusive) are days of the calls' admission, UTC. Sorted by the groups, in their order.
`sums=cost,calls` answers with these sums alone, which takes less time. Long answers are written on another thread.
"""

import asyncio
from collections.abc import Mapping, Sequence
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
from gateway.pricing import usd

__all__ = ["SUMS"]

_KEYS = frozenset(USAGE_DAILY_KEY) | {"month"}
_KNOWN = frozenset({*_KEYS, "model", "from", "to", "group_by", "sums", "format"})
_MONEY = {"cost": "cost_nano_usd", "charge": "charge_nano_usd", "saved": "saved_nano_usd"}
_PARTS: Mapping[str, tuple[str, ...]] = {
    "calls": ("calls",),
    "attempts": ("attempts",),
    "errors": ("errors",),
    "input_tokens": ("uncached_input", "cached_input", "cache_write", "audio_input", "image_input"),
    "cached_input_tokens": ("cached_input",),
    "cache_write_tokens": ("cache_write",),
    "audio_input_tokens": ("audio_input",),
    "image_input_tokens": ("image_input",),
    "output_tokens": ("text_output", "reasoning", "audio_output", "image_output"),
    "reasoning_tokens": ("reasoning",),
    "audio_output_tokens": ("audio_output",),
    "image_output_tokens": ("image_output",),
    "images": ("images",),
    "audio_seconds": ("audio_seconds",),
    "characters": ("characters",),
    **{name: (column,) for name, column in _MONEY.items()},
}
"""A sum that can be asked for -> the columns that make it up."""
SUMS = tuple(_PARTS)
"""What `sums` takes."""
_LINES_AT_ONCE = 500
"""Are written while calls wait: a few milliseconds."""


async def show_costs(request: Request) -> Response:
    query = known_parameters(request.query_params, _KNOWN)
    group_by, sums = _groups(query), _sums(query)
    form = choice(query, "format", {"json", "csv"}, "json")
    columns = COST_SUMS if sums is None else tuple(dict.fromkeys(part for name in sums for part in _PARTS[name]))
    rows = await costs(database_of(request), _filter(query), group_by, sums=columns)
    if len(rows) > _LINES_AT_ONCE:
        return await asyncio.to_thread(_answer, rows, group_by, sums, columns, form)
    return _answer(rows, group_by, sums, columns, form)


def _answer(
    rows: Sequence[Row], group_by: Sequence[str], sums: Sequence[str] | None, columns: Sequence[str], form: str | None
) -> Response:
    shown = [{**{name: row[name] for name in group_by}, **_figures(row, sums, group_by)} for row in rows]
    if form == "csv":
        text = csv_header([*group_by, *_figures(_NOTHING, sums, group_by)]) + "".join(map(csv_line, shown))
        headers = {"content-disposition": 'attachment; filename="costs.csv"'}
        return Response(text, 200, headers, "text/csv")
    totals = {name: sum(row[name] for row in rows) for name in columns}
    return json_response({"data": shown, "totals": _figures(totals, sums, ())})


def _figures(row: Mapping[str, Any], sums: Sequence[str] | None, group_by: Sequence[str]) -> Row:
    """`payer_amount` only by payer: nano-dollars, credits and images make no sum."""
    if sums is None:
        return sums_json(row) | ({"payer_amount": row["payer_amount"]} if "payer" in group_by else {})
    found: Row = {}
    for name in sums:
        amount = sum(row[part] for part in _PARTS[name])
        found |= {_MONEY[name]: amount, f"{name}_usd": usd(amount)} if name in _MONEY else {name: amount}
    return found


def _groups(query: Mapping[str, str]) -> list[str]:
    names = query.get("group_by", "").split(",")
    if any(name not in GROUPS for name in names) or len(set(names)) != len(names):
        refuse("group_by", f"takes names, each once, joined by commas, of: {', '.join(sorted(GROUPS))}")
    return names


def _sums(query: Mapping[str, str]) -> list[str] | None:
    """None: all there are."""
    if "sums" not in query:
        return None
    names = query["sums"].split(",")
    if any(name not in _PARTS for name in names) or len(set(names)) != len(names):
        refuse("sums", f"takes names, each once, joined by commas, of: {', '.join(SUMS)}")
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
