"""`POST /admin/reload`: plans and catalog read again. A bad file changes nothing, and the answer says why."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.endpoints import json_response
from gateway.errors import ConfigError, RequestError


async def reload(request: Request) -> Response:
    try:
        changes = await request.app.state.reload()
    except ConfigError as exc:
        raise RequestError(f"Nothing was changed. {exc}", status=422, code="config_invalid") from None
    return json_response({"reloaded": True, **changes.to_json()})


routes = [Route("/admin/reload", reload, methods=["POST"])]
