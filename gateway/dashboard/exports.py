"""`/dashboard/export/...`: what a view shows as a file, with the view's own filters. The API's answer, as it comes."""

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.dashboard.api import api_of

_SOURCES = {
    "costs": "/admin/costs",
    "ledger": "/admin/ledger",
    "charges": "/admin/charges",
    "audit": "/admin/audit",
    "me/usage": "/v1/me/usage",
    "me/calls": "/v1/me/calls",
}


class _Export:
    """Plain ASGI: an export streams."""

    def __init__(self, source: str) -> None:
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        query = request.query_params.multi_items()
        if "format" not in request.query_params:
            query.append(("format", "csv"))
        await api_of(request).relay(self._source, query, receive, send)


routes = [Route(f"/dashboard/export/{name}", _Export(source), methods=["GET"]) for name, source in _SOURCES.items()]
