"""`GET /admin/models` and `/admin/models/{name}`: the catalog as it stands, what is off and why; `GET /admin/prices/diff`:
where public price lists say something else.

Prices are exact US dollars as decimal strings, under the names pricing.toml uses. One model comes with every price row
that entries may name, the latest first. Models are narrowed by `endpoint`, `provider`, `capability` and `state` (`active`,
`inactive`). With `format=csv` models and differences come as files: in that of the models a column for each price, and the
prices that are tables of their own as JSON.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.catalog import Catalog, Model
from gateway.endpoints import json_response
from gateway.endpoints.csv_files import csv_of_rows
from gateway.endpoints.parameters import choice, database_of, known_parameters
from gateway.errors import NotFound
from gateway.ledger.periods import rfc3339
from gateway.ledger.schema import price_rows
from gateway.price_diff import price_diff
from gateway.price_table import price_table
from gateway.pricing import price_from_json

_VERSIONS_MAX = 100
_FILTERS = frozenset({"endpoint", "provider", "capability", "state"})
_STATES = ("active", "inactive")
_COLUMNS = """id display_name active inactive_reason provider upstream_model tier endpoints capabilities context_tokens_max
    output_tokens_max downgrades credits price_version""".split()
_DIFFERENCE = ("list", "model", "key", "ours", "theirs")


async def list_models(request: Request) -> Response:
    query = known_parameters(request.query_params, {*_FILTERS, "format"})
    choice(query, "state", _STATES)
    catalog = _catalog_of(request)
    shown = [_shown(model, catalog, request) for model in catalog.models.values() if _fits(model, query)]
    if choice(query, "format", {"json", "csv"}, "json") == "csv":
        prices = sorted({name for model in shown for name in model["price"]})
        rows = [{**model, **model["price"]} for model in shown]
        return csv_of_rows("models", (*_COLUMNS, *prices), rows)
    return json_response({"object": "list", "version": catalog.version, "data": shown})


async def show_model(request: Request) -> Response:
    known_parameters(request.query_params, ())
    catalog = _catalog_of(request)
    model = catalog.models.get(request.path_params["name"])
    if model is None:
        raise NotFound("The catalog has no model of this name.", code="model_not_found")
    return json_response({**_shown(model, catalog, request), "versions": await _versions(request, model)})


async def show_diff(request: Request) -> Response:
    query = known_parameters(request.query_params, {"format"})
    found = await price_diff(_catalog_of(request), request.app.state.clock())
    if choice(query, "format", {"json", "csv"}, "json") == "csv":
        rows = [{"list": each["title"], **line} for each in found["references"] for line in each["differences"]]
        return csv_of_rows("price-differences", _DIFFERENCE, rows)
    return json_response(found)


def _fits(model: Model, query: Mapping[str, str]) -> bool:
    return (
        query.get("endpoint") in (None, *model.endpoints)
        and query.get("provider") in (None, *_places(model))
        and query.get("capability") in (None, *model.capabilities)
        and query.get("state") in (None, "active" if model.active else "inactive")
    )


def _places(model: Model) -> Sequence[str]:
    """The providers that serve it."""
    return [each.model.provider for each in model.deployments] or [model.provider]


def _catalog_of(request: Request) -> Catalog:
    return cast(Catalog, request.app.state.live.catalog)


def _shown(model: Model, catalog: Catalog, request: Request) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "display_name": model.display_name or model.name,
        "description": model.description,
        "provider": model.provider,
        "upstream_model": model.upstream_model,
        "tier": model.tier,
        "active": model.active,
        "inactive_reason": _inactive_reason(model, catalog, request),
        "endpoints": sorted(model.endpoints),
        "unpriced_endpoints": {name: list(model.missing_prices(name)) for name in _unpriced(model)},
        "capabilities": sorted(model.capabilities),
        "context_tokens_max": model.context_tokens_max,
        "output_tokens_max": model.output_tokens_max,
        "image_default": model.image_default,
        "image_output_tokens_max": model.image_output_tokens_max,
        "price_version": model.price.version,
        "price": price_table(model.price),
        "credits": model.credits,
        "downgrade_to": model.downgrade_to,
        "downgrades": _downgrades(model, catalog),
        "deployments": [
            {
                "provider": each.model.provider,
                "upstream_model": each.model.upstream_model,
                "served_model": each.model.name,
                "weight": each.weight,
                "price_version": each.model.price.version,
            }
            for each in model.deployments
        ],
        "retries": model.retries,
        "sticky": model.sticky,
        "source": model.source,
    }


def _unpriced(model: Model) -> list[str]:
    return [name for name in sorted(model.endpoints) if model.missing_prices(name)]


def _inactive_reason(model: Model, catalog: Catalog, request: Request) -> str | None:
    """`no_provider_key`: no place that serves it has one; `switched_off`: the catalog says so; None where it is active."""
    if model.active:
        return None
    keys = request.app.state.provider_keys
    rows = [catalog.providers[name] for name in _places(model)]
    has_key = any(not row.api_key_env or keys.get(row.name) for row in rows)
    return "switched_off" if has_key else "no_provider_key"


def _downgrades(model: Model, catalog: Catalog) -> list[str]:
    """Every model a limit may lead to from this one, the next first."""
    found: list[str] = []
    while model.downgrade_to is not None and model.downgrade_to not in (*found, ""):
        found.append(model.downgrade_to)
        model = catalog.models[model.downgrade_to]
    return found


async def _versions(request: Request, model: Model) -> list[dict[str, Any]]:
    query = (
        select(price_rows)
        .where(price_rows.c.model == model.name)
        .order_by(price_rows.c.first_used_at.desc(), price_rows.c.version.desc())
    )
    rows = await database_of(request).fetch_all(query.limit(_VERSIONS_MAX))
    return [
        {
            "version": row["version"],
            "first_used_at": rfc3339(row["first_used_at"]),
            "is_current": row["version"] == model.price.version,
            "price": _price_kept(row["row"]),
        }
        for row in rows
    ]


def _price_kept(text: str) -> dict[str, Any] | None:
    try:
        return price_table(price_from_json(text))
    except ValueError:
        return None


routes = [
    Route("/admin/models", list_models, methods=["GET"]),
    # `path`: names of models have slashes.
    Route("/admin/models/{name:path}", show_model, methods=["GET"]),
    Route("/admin/prices/diff", show_diff, methods=["GET"]),
]
