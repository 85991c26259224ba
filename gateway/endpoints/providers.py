"""`GET /v1/providers`: the providers whose models a key may use, and what they can be asked for."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.catalog import Catalog, Model
from gateway.endpoints import json_response
from gateway.endpoints.models import may_call


async def list_providers(request: Request) -> Response:
    catalog: Catalog = request.app.state.live.catalog
    models: dict[str, list[Model]] = {}
    for model in catalog.models.values():
        if may_call(request.state.account, model):
            models.setdefault(model.provider, []).append(model)
    shown = [
        {
            "id": name,
            "object": "provider",
            "models": [model.name for model in found],
            "endpoints": sorted(frozenset.union(*(model.endpoints for model in found))),
        }
        for name, found in models.items()
    ]
    return json_response({"object": "list", "data": shown})


routes = [Route("/v1/providers", list_providers, methods=["GET"])]
