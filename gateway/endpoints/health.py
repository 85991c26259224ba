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
    """Each dependency by name; 503 if one of them keeps the gateway from taking calls."""
    checks: dict[str, str] = request.app.state.readiness()
    is_ready = all(state == "ok" for state in checks.values())
    status = "ok" if is_ready else "unavailable"
    deployments: Deployments = request.app.state.deployments
    # Told, but no reason to take no calls: other models may be well.
    checks |= {"providers": ", ".join(deployments.troubled()) or "ok"}
    return json_response({"status": status, "checks": checks}, 200 if is_ready else 503)


async def metrics(request: Request) -> Response:
    return PlainTextResponse(request.app.state.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


routes = [
    Route("/health/live", live, methods=["GET"]),
    Route("/health/ready", ready, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
