"""`GET /admin/policies`: the plans with how many creators are on each and which models they let call, whether they are
enforced, and where downgrades lead; with `format=csv` the plans as a file.

`GET /admin/policies/{plan}/overrides`: the creators of a plan for whom it is another one, and what differs: `changes` has the
keys of plans.toml that do, each with the plan's value (`from`) and the one in force (`to`). In pages, by creator.
"""

import asyncio
from typing import Any

import orjson
from sqlalchemy import func, select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.catalog import Catalog
from gateway.endpoints import json_response
from gateway.endpoints.csv_files import csv_of_rows
from gateway.endpoints.parameters import choice, database_of, known_parameters, whole_number
from gateway.errors import NotFound, RequestError
from gateway.ledger.schema import creators
from gateway.ledger.statements import Row
from gateway.offers import cheaper_models
from gateway.plans import plan_to_json, with_overrides
from policies.access import may_use
from policies.types import Account, Plan

LIMIT_DEFAULT = 100
LIMIT_MAX = 1_000


async def show_policies(request: Request) -> Response:
    form = choice(known_parameters(request.query_params, {"format"}), "format", {"json", "csv"}, "json")
    state = request.app.state
    query = (
        select(creators.c.plan, func.count().label("creators"))
        .where(creators.c.deleted_at.is_(None))
        .group_by(creators.c.plan)
    )
    on_plan = {row["plan"]: row["creators"] for row in await database_of(request).fetch_all(query)}
    catalog: Catalog = state.live.catalog
    plans = [
        {**plan_to_json(plan), "creators": on_plan.get(plan.name, 0), "usable_models": _usable(plan, catalog)}
        for plan in dict(state.plans).values()
    ]
    if form == "csv":
        return csv_of_rows("plans", plans[0] if plans else (), plans)
    return json_response({"mode": state.settings.policy_mode, "plans": plans, "downgrades": _downgrades(catalog)})


async def list_overrides(request: Request) -> Response:
    query = known_parameters(request.query_params, {"limit", "cursor"})
    limit = whole_number(query, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX)
    plan: Plan | None = dict(request.app.state.plans).get(request.path_params["plan"])
    if plan is None:
        raise NotFound("There is no plan of this name.")
    there = creators.c
    mine = (
        there.plan == plan.name,
        there.deleted_at.is_(None),
        there.overrides != "{}",
        there.id > query.get("cursor", ""),
    )
    wanted = select(there.id, there.name, there.overrides).where(*mine).order_by(there.id).limit(limit + 1)
    rows = await database_of(request).fetch_all(wanted)
    # Of a thousand it takes tens of milliseconds.
    shown = await asyncio.to_thread(lambda: [_overridden(plan, row) for row in rows[:limit]])
    return json_response({"data": shown, "next_cursor": shown[-1]["creator"] if len(rows) > limit else None})


def _overridden(plan: Plan, row: Row) -> dict[str, Any]:
    """`problem` says why overrides cannot be read, of which the plans file may be the cause: it may have changed since."""
    overrides, changes, problem = orjson.loads(row["overrides"]), {}, None
    try:
        own = plan_to_json(with_overrides(plan, overrides))
    except RequestError as error:
        problem = error.message
    else:
        base = plan_to_json(plan)
        changes = {key: {"from": base[key], "to": own[key]} for key in base if own[key] != base[key]}
    return {
        "creator": row["id"],
        "name": row["name"],
        "overrides": overrides,
        "changes": changes,
        "problem": problem,
    }


def _usable(plan: Plan, catalog: Catalog) -> list[str]:
    """The active models that calls under the plan may ask for."""
    anybody = Account("", "", "", plan)
    models = catalog.models.values()
    return sorted(
        each.name for each in models if each.active and may_use(anybody, each.name, each.tier, each.endpoints)
    )


def _downgrades(catalog: Catalog) -> list[dict[str, Any]]:
    """A line for each model that has a cheaper one, with all behind it, the nearest first."""
    return [
        {"model": model.name, "active": model.active, "to": [each.name for each in cheaper_models(catalog, model)]}
        for model in catalog.models.values()
        if model.downgrade_to is not None
    ]


routes = [
    Route("/admin/policies", show_policies, methods=["GET"]),
    Route("/admin/policies/{plan}/overrides", list_overrides, methods=["GET"]),
]
