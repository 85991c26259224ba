"""What to do first, for pages that have nothing to show yet because nobody made a call."""

from typing import Any

from starlette.requests import Request

from gateway.dashboard.api import api_of
from gateway.dashboard.page_query import own_address
from gateway.dashboard.viewer import viewer_of
from gateway.errors import GatewayError

__all__ = ["first_steps", "steps_of_creator"]

_ANY_MODEL = "MODEL"
"""Stands where no model answers chat, or whoever looks must not see the catalog."""


async def first_steps(request: Request) -> dict[str, Any] | None:
    """What `first_steps.html` takes, for admins; None once anything is in the ledger."""
    api = api_of(request)
    if (await api.get("/admin/ledger", limit=1))["data"]:
        return None
    models: list[dict[str, Any]] = []
    if viewer_of(request).sees_money:
        try:
            models = [model for model in (await api.get("/admin/models"))["data"] if model["active"]]
        except GatewayError:
            models = []
    return steps_of_creator(request, models)


def steps_of_creator(request: Request, models: list[dict[str, Any]]) -> dict[str, Any]:
    """The same for creators, who have a virtual key already. `models` is the list of `GET /v1/models`."""
    model = next((model["id"] for model in models if "chat" in model["endpoints"]), _ANY_MODEL)
    return {"base_url": f"{own_address(request)}/v1", "model": model}
