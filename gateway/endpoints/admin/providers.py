"""`GET /admin/providers`: every provider and deployment, and how they are doing in this process; `GET
/admin/providers/figures`: how they did in the last hour or day, out of the ledger's newest entries."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.catalog import Catalog
from gateway.endpoints import json_response
from gateway.endpoints.parameters import choice, database_of, known_parameters
from gateway.ledger.periods import DAY_MS, now_ms
from gateway.ledger.provider_figures import provider_figures
from gateway.routing import Deployments

_WINDOWS_MS: Mapping[str, int] = {"1h": DAY_MS // 24, "24h": DAY_MS}


async def list_providers(request: Request) -> Response:
    catalog: Catalog = request.app.state.live.catalog
    deployments: Deployments = request.app.state.deployments
    by_provider: dict[str, list[dict[str, object]]] = {}
    for deployment in deployments.state(catalog):
        by_provider.setdefault(str(deployment["provider"]), []).append(deployment)
    shown = [
        {
            "id": row.name,
            "object": "provider",
            "dialect": row.dialect,
            "base_url": row.base_url,
            "has_key": bool(not row.api_key_env or by_provider.get(row.name)),
            "deployments": by_provider.get(row.name, []),
        }
        for row in catalog.providers.values()
    ]
    return json_response({"object": "list", "data": shown})


async def show_figures(request: Request) -> Response:
    """Of kept answers nothing is told, which no provider gave. What was read is bounded, and told."""
    query = known_parameters(request.query_params, {"window"})
    window = choice(query, "window", _WINDOWS_MS, "1h") or ""
    found = await provider_figures(database_of(request), now_ms() - _WINDOWS_MS[window])
    return json_response({"window": window, **found})


routes = [
    Route("/admin/providers", list_providers, methods=["GET"]),
    Route("/admin/providers/figures", show_figures, methods=["GET"]),
]
