"""`/dashboard/months`: what each creator owes for a month, what keeps the month open, and closing it.

The figures are those of `/admin/charges`, totals too; the table is cut into parts, the totals are of all of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.dashboard.api import api_of
from gateway.dashboard.creator_page import creator_path, require_role
from gateway.dashboard.forms import done
from gateway.dashboard.names import names_of
from gateway.dashboard.page_query import refuse_unknown
from gateway.dashboard.render import read_fields, render
from gateway.dashboard.viewer import viewer_of
from gateway.errors import GatewayError, RequestError

_PATH = "/dashboard/months"
_ROWS = 200
_START_MAX = 10**7
_STATES = {
    "running": ("Running", "The month is not over."),
    "held_open": ("Open", "Calls of this month have not ended yet; it can be closed when they have."),
    "closable": ("Open", "The month is over and can be closed."),
    "closed": ("Closed", "What was written when it was closed stands."),
    "not_begun": ("Not begun", "The month is still to come."),
    "empty": ("Empty", "Nothing was booked in it, so that there is nothing to close."),
}
"""What the API calls a month's state, and one of this page's own -> a word, and a sentence."""
_SUMS = ("calls", "charge_nano_usd", "cost_nano_usd", "open_calls")


async def show_months(request: Request) -> Response:
    refuse_unknown(request, ("month", "start"))
    return await _show(request, request.query_params.get("month"))


async def confirm_close(request: Request) -> Response:
    require_role(request, "owner")
    month = request.path_params["month"]
    return render(
        request,
        "confirm.html",
        title=f"Close {month}",
        sentence=f"The charges of {month} are written down as they stand now, for good. This cannot be undone.",
        action=f"{_PATH}/{month}/close",
        button=f"Close {month}",
        back=f"{_PATH}?{urlencode({'month': month})}",
    )


async def close(request: Request) -> Response:
    await read_fields(request)
    month = request.path_params["month"]
    try:
        await api_of(request).send("POST", f"/admin/charges/{month}/close")
    except GatewayError as error:
        if error.status != 409:
            raise
        return await _show(request, month, error)
    return done(request, f"{_PATH}?{urlencode({'month': month})}", "closed")


async def _show(request: Request, month: str | None, problem: GatewayError | None = None) -> Response:
    api, start = api_of(request), _start(request)
    months = _since_the_first((await api.get("/admin/charges/months"))["data"])
    month = month or months[0]["month"]
    charges = await api.get("/admin/charges", month=month)
    shown = next((row for row in months if row["month"] == month), None)
    if shown is None:
        (shown,) = (await api.get("/admin/charges/months", to=month, count=1))["data"]
    rows = sorted(charges["data"], key=lambda row: (-row["charge_nano_usd"], -row["cost_nano_usd"], row["creator"]))
    state = _state(shown)
    word, reason = _STATES[state]
    return render(
        request,
        "months.html",
        title="Months",
        status=problem.status if problem else 200,
        problem=problem.message if problem else "",
        month=month,
        shown={**shown, "state": state},
        state_word=word,
        state_reason=reason,
        rows=[_row(row) for row in rows[start : start + _ROWS]],
        names=await names_of(api, (row["creator"] for row in rows[start : start + _ROWS])),
        totals={**charges["totals"], "units_shown": _units(charges["totals"]["units"])},
        next_url=f"{_PATH}?{urlencode({'month': month, 'start': start + _ROWS})}" if len(rows) > start + _ROWS else "",
        months=[{**row, "state_word": _STATES[_state(row)][0]} for row in months],
        chart_rows=[(row["month"], [row["charge_nano_usd"], row["cost_nano_usd"]]) for row in reversed(months)],
        may_close=viewer_of(request).is_owner and state == "closable",
        export=f"/dashboard/export/charges?{urlencode({'month': month})}",
    )


def _state(row: Mapping[str, Any]) -> str:
    is_empty = not any(row[name] for name in _SUMS)
    return "empty" if row["state"] == "closable" and is_empty else str(row["state"])


def _since_the_first(months: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the months before anything was booked or closed, of which a new gateway would show eleven."""
    there = [index for index, row in enumerate(months) if _state(row) != "empty"]
    return list(months[: max(there, default=0) + 1])


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "path": creator_path(row["creator"]), "units_shown": _units(row["units"])}


def _units(units: dict[str, int]) -> list[tuple[str, int, bool]]:
    """Payer, amount, and whether that is nano-dollars."""
    return [(payer, amount, payer == "quota") for payer, amount in units.items()]


def _start(request: Request) -> int:
    text = request.query_params.get("start", "0")
    if not (text.isascii() and text.isdigit() and len(text) < len(str(_START_MAX))):
        raise RequestError("`start` takes a whole number.", param="start", code="invalid_value")
    return int(text)


routes = [
    Route(_PATH, show_months, methods=["GET"]),
    Route(f"{_PATH}/{{month}}/close", confirm_close, methods=["GET"]),
    Route(f"{_PATH}/{{month}}/close", close, methods=["POST"]),
]
