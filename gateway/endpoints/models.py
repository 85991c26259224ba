"""`GET /v1/models` and `/v1/models/{id}`: the active models that key and plan allow, in OpenAI's shape."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.catalog import Catalog, Model
from gateway.endpoints import json_response
from gateway.errors import NotFound
from gateway.price_table import price_table
from policies.access import may_use
from policies.types import Account

_CREATED = 1_700_000_000
"""OpenAI's shape wants an instant; a catalog row has none, so it is the same for all."""


async def list_models(request: Request) -> Response:
    catalog: Catalog = request.app.state.live.catalog
    usable = [_shown(model) for model in catalog.models.values() if may_call(request.state.account, model)]
    return json_response({"object": "list", "data": usable})


async def retrieve_model(request: Request) -> Response:
    name = request.path_params["name"]
    catalog: Catalog = request.app.state.live.catalog
    model = catalog.models.get(name)
    if model is None or not may_call(request.state.account, model):
        raise NotFound("There is no such model for this key.", code="model_not_found", param="model")
    return json_response(_shown(model))


def may_call(account: Account, model: Model) -> bool:
    """Whether the model is on, and the key and plan of the account allow it somewhere."""
    return model.active and may_use(account, model.name, model.tier, model.endpoints)


def _shown(model: Model) -> dict[str, object]:
    """OpenAI's four fields, and what the catalog says beside them."""
    return {
        "id": model.name,
        "object": "model",
        "created": _CREATED,
        "owned_by": model.provider,
        "display_name": model.display_name or model.name,
        "description": model.description,
        "tier": model.tier,
        "endpoints": sorted(model.endpoints),
        "capabilities": sorted(model.capabilities),
        "context_tokens_max": model.context_tokens_max,
        "output_tokens_max": model.output_tokens_max,
        "price": price_table(model.price),
        "credits": model.credits,
        "downgrade_to": model.downgrade_to,
    }


routes = [
    Route("/v1/models", list_models, methods=["GET"]),
    # `path`: SDKs send names with slashes, encoded or not; the server has decoded them once.
    Route("/v1/models/{name:path}", retrieve_model, methods=["GET"]),
]
