"""`POST /v1/estimate`: a body as the endpoint itself takes it, and what it would cost, who would pay, and whether it would
be downgraded or refused. `?endpoint=` says which endpoint is meant where the body leaves that open."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.addresses import client_address
from gateway.calls import Call
from gateway.endpoints import json_response, read_bounded
from gateway.endpoints.parameters import known_parameters
from gateway.estimating import estimate, read_for_estimate


async def show_estimate(request: Request) -> Response:
    """Takes nothing, and is one of the calls in flight all the same: reading bodies must stay bounded."""
    call = Call("estimate")
    request.app.state.calls.enter(call)
    try:
        return await _answer(request)
    finally:
        request.app.state.calls.leave(call)


async def _answer(request: Request) -> Response:
    state = request.app.state
    query = known_parameters(request.query_params, {"endpoint"})
    generation = state.authenticator.generation
    raw = await read_bounded(request, state.settings.body_bytes_max)
    asked = read_for_estimate(raw, query.get("endpoint"), state.response_store)
    headers, account = request.scope["headers"], request.state.account
    if state.authenticator.generation != generation:  # a body may take its time
        account = await state.authenticator.authenticate(headers)
    account = await state.authenticator.resolve_creator(account, headers, asked.body.get("user"), brings=False)
    peer = request.client.host if request.client else ""
    address = client_address(peer, headers, state.trusted_proxies)
    return json_response(await estimate(state.admission, account, dict(headers), asked, address))


routes = [Route("/v1/estimate", show_estimate, methods=["POST"])]
