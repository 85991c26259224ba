"""`GET /v1/models` and `/v1/models/{id}`: the active models that key and plan allow, in OpenAI's shape."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.catalog import Catalog, Model
from gateway.endpoints import json_response
from gateway.errors import NotFound
from policies.access import may_use
from policies.types import Account

_CREATED = 1_700_000_000
"""OpenAI's shape wants an instant; a catalog row has none, so it is the same for all."""


async def list_models(request: Request) -> Response:
    catalog: Catalog = request.app.state.live.catalog
    usable = [_shown(model) for model in catalog.models.values() if _may_use(request.state.account, model)]
    return json_response({"object": "list", "data": usable})


async def retrieve_model(request: Request) -> Response:
    name = request.path_params["name"]
    catalog: Catalog = request.app.state.live.catalog
    model = catalog.models.get(name)
    if model is None or not _may_use(request.state.account, model):
        raise NotFound("There is no such model for this key.", code="model_not_found", param="model")
    return json_response(_shown(model))


def _may_use(account: Account, model: Model) -> bool:
    return model.active and may_use(account, model.name, model.tier, model.endpoints)


def _shown(model: Model) -> dict[str, object]:
    return {"id": model.name, "object": "model", "created": _CREATED, "owned_by": model.provider}


routes = [
    Route("/v1/models", list_models, methods=["GET"]),
    # `path`: SDKs send names with slashes, encoded or not; the server has decoded them once.
    Route("/v1/models/{name:path}", retrieve_model, methods=["GET"]),
]
