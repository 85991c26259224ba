"""`/health/live`, `/health/ready`, `/metrics`: for the machines that watch. They ask no upstream."""

from collections.abc import Mapping

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
    checks = checks_of(request)
    status = status_of(checks)
    return json_response({"status": status, "checks": checks}, 503 if status == "unavailable" else 200)


def checks_of(request: Request) -> dict[str, str]:
    """Each dependency of this process by name: `ok`, `degraded: why`, or what is wrong; `providers` names those in trouble."""
    checks: dict[str, str] = request.app.state.readiness()
    deployments: Deployments = request.app.state.deployments
    return {**checks, "providers": ", ".join(deployments.troubled()) or "ok"}


def status_of(checks: Mapping[str, str]) -> str:
    """`ok`; `degraded`: calls are taken, by the rules for trouble; or `unavailable`."""
    # Providers in trouble are told, but no reason to take no calls: other models may be well.
    states = [state for name, state in checks.items() if name != "providers"]
    if all(state == "ok" for state in states):
        return "ok"
    is_taking_calls = all(state == "ok" or state.startswith("degraded") for state in states)
    return "degraded" if is_taking_calls else "unavailable"


async def metrics(request: Request) -> Response:
    """Of all workers, whichever of them was asked."""
    return _exposition(await request.app.state.metrics.page())


async def own_metrics(request: Request) -> Response:
    """What the other workers ask each one for."""
    return _exposition(await request.app.state.metrics.own_page())


def _exposition(text: bytes) -> Response:
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


routes = [
    Route("/health/live", live, methods=["GET"]),
    Route("/health/ready", ready, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
control_routes = [Route("/metrics", own_metrics, methods=["GET"])]
"""Of the control socket."""
