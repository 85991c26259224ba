"""`/health/live`, `/health/ready`, `/metrics`: for the machines that watch. They ask no upstream."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.endpoints import json_response
from gateway.routing import Deployments


async def live(request: Request) -> Response:
    """The process answers."""
    return json_response({"status": "ok"})


async def ready(request: Request) -> Response:
    """Each dependency by name; 503 if one of them keeps the gateway from taking calls. Of this process alone."""
    checks: dict[str, str] = request.app.state.readiness()
    status = _status(checks)
    deployments: Deployments = request.app.state.deployments
    # Told, but no reason to take no calls: other models may be well.
    checks |= {"providers": ", ".join(deployments.troubled()) or "ok"}
    return json_response({"status": status, "checks": checks}, 503 if status == "unavailable" else 200)


def _status(checks: dict[str, str]) -> str:
    """`degraded`: calls are taken, by the rules for trouble."""
    if all(state == "ok" for state in checks.values()):
        return "ok"
    is_taking_calls = all(state == "ok" or state.startswith("degraded") for state in checks.values())
    return "degraded" if is_taking_calls else "unavailable"


async def metrics(request: Request) -> Response:
    """Of all workers, whichever of them was asked."""
    return _exposition(await request.app.state.metrics.page())


async def own_metrics(request: Request) -> Response:
    """What the other workers ask each one for."""
    return _exposition(request.app.state.metrics.render())


def _exposition(text: bytes) -> Response:
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


routes = [
    Route("/health/live", live, methods=["GET"]),
    Route("/health/ready", ready, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
control_routes = [Route("/metrics", own_metrics, methods=["GET"])]
"""Of the control socket."""
