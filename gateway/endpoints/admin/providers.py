"""`GET /admin/providers`: every provider and deployment, and how they are doing in this process."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.catalog import Catalog
from gateway.endpoints import json_response
from gateway.routing import Deployments


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


routes = [Route("/admin/providers", list_providers, methods=["GET"])]
