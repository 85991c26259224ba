"""`GET /admin/policies`: the plans with how many creators are on each, whether they are enforced, and where downgrades lead."""

from typing import Any

from sqlalchemy import func, select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.catalog import Catalog
from gateway.endpoints import json_response
from gateway.endpoints.parameters import database_of, known_parameters
from gateway.ledger.schema import creators
from gateway.offers import cheaper_models
from gateway.plans import plan_to_json


async def show_policies(request: Request) -> Response:
    known_parameters(request.query_params, ())
    state = request.app.state
    query = (
        select(creators.c.plan, func.count().label("creators"))
        .where(creators.c.deleted_at.is_(None))
        .group_by(creators.c.plan)
    )
    on_plan = {row["plan"]: row["creators"] for row in await database_of(request).fetch_all(query)}
    plans = [{**plan_to_json(plan), "creators": on_plan.get(plan.name, 0)} for plan in dict(state.plans).values()]
    return json_response(
        {"mode": state.settings.policy_mode, "plans": plans, "downgrades": _downgrades(state.live.catalog)}
    )


def _downgrades(catalog: Catalog) -> list[dict[str, Any]]:
    """A line for each model that has a cheaper one, with all behind it, the nearest first."""
    return [
        {"model": model.name, "active": model.active, "to": [each.name for each in cheaper_models(catalog, model)]}
        for model in catalog.models.values()
        if model.downgrade_to is not None
    ]


routes = [Route("/admin/policies", show_policies, methods=["GET"])]
