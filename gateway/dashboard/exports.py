"""`/dashboard/export/...`: what a view shows as a file, with the view's own filters. The API's answer, as it comes."""

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.dashboard.api import api_of
from gateway.dashboard.policies import rehearsal_form

_SOURCES = {
    "costs": "/admin/costs",
    "ledger": "/admin/ledger",
    "charges": "/admin/charges",
    "audit": "/admin/audit",
    "creators": "/admin/standing",
    "models": "/admin/models",
    "price-diff": "/admin/prices/diff",
    "policies": "/admin/policies",
    "providers": "/admin/providers",
    "provider-figures": "/admin/providers/figures",
    "refusals": "/admin/refusals",
    "notices": "/admin/notices",
    "anomalies": "/admin/anomalies",
    "admins": "/admin/admin-keys",
    "me/usage": "/v1/me/usage",
    "me/calls": "/v1/me/calls",
    "me/images": "/v1/generations",
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


class _RehearsalExport:
    """A plan's rehearsal, asked for as its page asks."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        api = api_of(request)
        asked = await rehearsal_form(request)
        await api.relay("/admin/rehearsals", [("format", "csv")], receive, send, body=asked)


routes = [
    *(Route(f"/dashboard/export/{name}", _Export(source), methods=["GET"]) for name, source in _SOURCES.items()),
    Route("/dashboard/export/rehearsals/{plan}", _RehearsalExport(), methods=["GET"]),
]
