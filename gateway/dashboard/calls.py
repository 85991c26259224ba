"""`/dashboard/calls`: the ledger, the newest first, by every filter it has; and one call with all that explains it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, get_args
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.catalog import ENDPOINTS
from gateway.dashboard.api import api_of
from gateway.dashboard.bills import bill_of
from gateway.dashboard.bookings import BOOKINGS, booked_amount, booking_title
from gateway.dashboard.call_words import OUTCOMES, SOURCES, flag_words, outcome_kind, reached_limits
from gateway.dashboard.first_steps import first_steps
from gateway.dashboard.forms import NOTHING_WRONG, Problem, done, posting_key
from gateway.dashboard.names import names_of
from gateway.dashboard.page_query import page_query, page_url, problem_of
from gateway.dashboard.render import read_fields, render
from gateway.dashboard.viewer import viewer_of
from gateway.dashboard.words import kind_words, outcome_words
from gateway.errors import GatewayError, RequestError
from gateway.ledger.records import Kind, Outcome

_PATH = "/dashboard/calls"
_FILTERS = (
    "from",
    "to",
    "creator",
    "feature",
    "agent",
    "model",
    "provider",
    "endpoint",
    "outcome",
    "kind",
    "cached",
    "request_id",
)
_ROWS = 50
_SCAN_ROWS = 100_000
"""Looked at for one page: where nothing fits, a good part of a second on a slow machine."""
_REFUND = ("attempt", "amount_usd", "credits", "note", "idempotency_key")


async def list_calls(request: Request) -> Response:
    query = page_query(request, *_FILTERS, "cursor")
    filters = {name: value for name, value in query.items() if name != "cursor"}
    found, problem, status = await _page(request, query)
    refused = await _refused(request, filters)
    next_url = page_url(_PATH, filters, cursor=found["next_cursor"]) if found["next_cursor"] else ""
    return render(
        request,
        "calls.html",
        title="Calls",
        status=status,
        filters=filters,
        choices=_CHOICES,
        calls=found["data"],
        steps=None if found["data"] or query or problem else await first_steps(request),
        refused=refused,
        names=await names_of(api_of(request), (row["creator"] for row in found["data"])),
        next_url=next_url,
        first_url=page_url(_PATH, filters) if "cursor" in query else "",
        searched_to=found["searched_to"],
        scanned=_SCAN_ROWS,
        csv_url=page_url("/dashboard/export/ledger", filters, format="csv"),
        ndjson_url=page_url("/dashboard/export/ledger", filters, format="ndjson"),
        problem=problem,
        outcome_kind=outcome_kind,
    )


async def _page(request: Request, query: Mapping[str, str]) -> tuple[dict[str, Any], str, int]:
    """The page, or none and what is wrong with the filters, so that the form stays as it was filled in."""
    try:
        return await api_of(request).get("/admin/ledger", limit=_ROWS, scan_max=_SCAN_ROWS, **query), "", 200
    except GatewayError as error:
        return {"data": [], "next_cursor": None, "searched_to": None}, problem_of(error), error.status


async def _refused(request: Request, filters: Mapping[str, str]) -> dict[str, Any] | None:
    """How many calls were refused meanwhile, which are no entries; None where the filters ask what is not counted of them."""
    if not filters.keys() <= {"from", "to", "creator"}:
        return None
    span = {name: filters[name] for name in ("from", "to") if name in filters}
    try:
        found = await api_of(request).get("/admin/refusals", limit=1, creator=filters.get("creator"), **span)
    except GatewayError as error:
        problem_of(error)
        return None  # days that are no days are told about by the ledger
    last = date.fromisoformat(found["to"]) - timedelta(days=1)
    return {
        "total": found["total"],
        "by_reason": found["by_reason"],
        "period": f"{found['from']}..{found['to']}",
        "days": f"{found['from']} to {last.isoformat()}",
        "url": page_url("/dashboard/export/refusals", {"creator": filters.get("creator"), **span}),
    }


async def show_call(request: Request) -> Response:
    return await _call_page(request, NOTHING_WRONG, 200)


async def refund_call(request: Request) -> Response:
    """Only owners get past the API."""
    request_id = request.path_params["request_id"]
    fields = await read_fields(request, *_REFUND)
    try:
        await api_of(request).send("POST", f"/admin/ledger/{request_id}/refunds", _refund(fields))
    except GatewayError as error:
        if error.status == 404:
            raise
        return await _call_page(request, Problem("refund", problem_of(error), fields), error.status)
    return done(request, f"{_PATH}/{quote(request_id, safe='')}", "refunded")


async def _call_page(request: Request, problem: Problem, status: int) -> Response:
    request_id = request.path_params["request_id"]
    found = await api_of(request).get(f"/admin/ledger/{request_id}")
    last = found["data"][-1] if found["data"] else None
    hold = found["open_hold"]
    if hold is None and last is not None and last["kind"] in BOOKINGS:
        return _booking_page(request, last)
    attempts = [_attempt(entry) for entry in found["data"]]
    decision = (last or hold or {}).get("decision")
    return render(
        request,
        "call.html",
        title="Call",
        status=status,
        request_id=request_id,
        attempts=attempts,
        last=last,
        hold=hold,
        names=await names_of(api_of(request), [(last or hold or {}).get("creator", "")]),
        decision=decision,
        reached=reached_limits((decision or {}).get("downgrades") or (), "limit"),
        requested_model=(last or hold or {}).get("requested_model"),
        can_refund=last is not None and any(entry["kind"] == "usage" for entry in found["data"]),
        posting_key=posting_key,
        problem=problem,
        outcome_kind=outcome_kind,
    )


def _booking_page(request: Request, entry: Mapping[str, Any]) -> Response:
    """What was booked without a call has neither attempts nor a decision, but an amount and a reason."""
    booking = BOOKINGS[entry["kind"]]
    return render(
        request,
        "booking.html",
        title=booking_title(entry, sees_money=viewer_of(request).sees_money),
        entry=entry,
        amount=booked_amount(entry) if viewer_of(request).sees_money else "",
        flags=[flag_words(flag) for flag in entry["flags"]],
        **booking._asdict(),
    )


def _attempt(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One entry as the page shows it: with its times, its bill and its short words in sentences."""
    cost, charge = entry.get("cost_nano_usd"), entry.get("charge_nano_usd")
    has_own_price = entry.get("charge_price") is not None
    return {
        "entry": entry,
        "times": _times(entry),
        "bill": bill_of(entry, entry.get("price"), cost),
        "charge_bill": bill_of(entry, entry.get("charge_price"), charge) if has_own_price else None,
        "flags": [flag_words(flag) for flag in entry["flags"]],
        "outcome_words": OUTCOMES.get(entry["outcome"], entry["outcome"]),
        "source_words": SOURCES.get(entry["usage_source"], entry["usage_source"]),
    }


def _times(entry: Mapping[str, Any]) -> list[tuple[str, int | None]]:
    """Milliseconds since admission: first byte, end and booking; None for what there was not."""
    since = datetime.fromisoformat(entry["created_at"]) - datetime.fromisoformat(entry["admitted_at"])
    settled_ms = max(0, round(since.total_seconds() * 1000))
    return [
        ("Admitted", 0),
        ("First byte", entry["ttft_ms"]),
        ("End", entry["latency_ms"]),
        ("Booked", settled_ms),
    ]


def _refund(fields: Mapping[str, str]) -> dict[str, Any]:
    """The API's form. Raises `RequestError` for an attempt that is no number."""
    body: dict[str, Any] = {name: value for name, value in fields.items() if value}
    attempt = body.pop("attempt", None)
    if attempt is not None:
        if not (attempt.isascii() and attempt.isdigit() and len(attempt) <= 7):
            raise RequestError("`attempt` takes the number of an attempt.", code="invalid_value", param="attempt")
        body["attempt"] = int(attempt)
    return body


def _options(names: Sequence[str], words: Callable[[str], str] = str) -> list[tuple[str, str]]:
    return [("", "any"), *((name, words(name)) for name in names)]


_CHOICES: Mapping[str, list[tuple[str, str]]] = {
    "outcome": _options(get_args(Outcome), outcome_words),
    "kind": _options(get_args(Kind), kind_words),
    "endpoint": _options(tuple(sorted(ENDPOINTS))),
    "cached": [("", "any"), ("true", "kept answers only"), ("false", "without kept answers")],
}

routes = [
    Route(_PATH, list_calls, methods=["GET"]),
    Route(f"{_PATH}/{{request_id}}", show_call, methods=["GET"]),
    Route(f"{_PATH}/{{request_id}}/refunds", refund_call, methods=["POST"]),
]
