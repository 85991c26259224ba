"""`POST /admin/rehearsals`: what changed plans would have done to the calls of the last days. Changes nothing.

With `format=csv` in the query the answer is a file with a row for each creator.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, cast

from pydantic import Field
from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.catalog import Catalog, load_catalog
from gateway.endpoints import Form, json_response, read_form
from gateway.endpoints.csv_files import csv_of_rows
from gateway.endpoints.parameters import choice, database_of, known_parameters
from gateway.errors import RequestError
from gateway.plans import changed_plan, read_plan
from gateway.rehearsal import DAYS_MAX, Rehearsals, RehearsalWish
from policies.types import Plan

DAYS_DEFAULT = 30
_CREATORS_MAX = 1_000
_BESIDE = frozenset({"before", "after"})
_rehearsals = Rehearsals()


class RehearsalForm(Form):
    """`plan` and `changes`, or whole `plans`."""

    plan: str | None = None
    changes: dict[str, Any] = Field(default_factory=dict)
    """The keys of plans.toml that would be others; merged into the plan as a creator's overrides are."""
    plans: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] | None = None
    """Plans by name, each with all of its keys, as the file has them."""
    days: int = Field(default=DAYS_DEFAULT, ge=1, le=DAYS_MAX)
    creators: Annotated[list[str], Field(min_length=1, max_length=_CREATORS_MAX)] | None = None
    """Only these; None: all on the plans."""


async def rehearse(request: Request) -> Response:
    state = request.app.state
    query = known_parameters(request.query_params, {"format"})
    is_file = choice(query, "format", {"json", "csv"}, "json") == "csv"
    form = await read_form(request, RehearsalForm)
    plans: Mapping[str, Plan] = dict(state.plans)
    wish = RehearsalWish(_changed(form, plans), form.days, form.creators)
    now = state.clock() if hasattr(state, "clock") else datetime.now(UTC)
    report = await _rehearsals.rehearse(database_of(request), plans, await _catalog(state), wish, now)
    if is_file:
        rows = report["creators"]
        return csv_of_rows("rehearsal", _flat(rows[0]) if rows else ("creator", "plan"), rows, _flat)
    return json_response(report)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Tables of figures as columns of their own: `before_cost_usd`."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        figures = {f"{name}_{key}": each for key, each in value.items()} if name in _BESIDE else {name: value}
        found |= figures
    return found


async def _catalog(state: State) -> Catalog:
    """The one that counts; for the command line, which has none running, that of the file."""
    if hasattr(state, "live"):
        return cast(Catalog, state.live.catalog)
    return await asyncio.to_thread(load_catalog, state.settings.pricing_file)


def _changed(form: RehearsalForm, plans: Mapping[str, Plan]) -> dict[str, Plan]:
    """Raises `RequestError` with the words of whoever reads plans."""
    if form.plans is None:
        if form.plan is None:
            raise RequestError("Send `plan` and `changes`, or `plans`.", code="invalid_value", param="plan")
        return {form.plan: changed_plan(_plan(plans, form.plan, "plan"), form.changes)}
    if form.plan is not None or form.changes:
        raise RequestError("Send `plan` and `changes`, or `plans`, not both.", code="invalid_value", param="plans")
    for name in form.plans:
        _plan(plans, name, "plans")
    return {name: read_plan(name, table) for name, table in form.plans.items()}


def _plan(plans: Mapping[str, Plan], name: str, param: str) -> Plan:
    if name not in plans:
        raise RequestError(f"There is no such plan. Plans: {', '.join(plans)}.", param=param, code="plan_unknown")
    return plans[name]


routes = [Route("/admin/rehearsals", rehearse, methods=["POST"])]
