"""`POST /v1/messages`, and `POST /v1/messages/count_tokens`: Anthropic's paths, for clients that speak its API.

The virtual key comes as `x-api-key` or as a bearer. `anthropic-version` is taken and not looked at, since there is one
version; of `anthropic-beta` the provider hears what changes no price.

Counting is the gateway's own estimate for every model, also where the provider could count: it takes nothing, asks nobody
and is no entry in the books. A token is taken for four bytes of text, an image for 1 600 and a document for 10 000.
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive

from gateway.calls import Call, ClientShape
from gateway.endpoints import json_response, read_bounded
from gateway.endpoints.hot import ModelEndpoint, read_body
from gateway.errors import GatewayError
from gateway.messages.errors import error_shape
from gateway.messages.request import MessagesRequest, beta_header, read_count_request, read_messages_request
from gateway.pipeline import Pipeline
from gateway.responder import Header

__all__ = ["Messages", "routes"]


ANTHROPIC_SHAPE = ClientShape(error_shape, "error", (b"x-request-id", b"request-id"))
"""Anthropic's SDK reads the request's id from `request-id`."""


class Messages(ModelEndpoint):
    path = "/v1/messages"
    endpoint = "messages"

    def __init__(self, pipeline: Pipeline, body_bytes_max: int) -> None:
        super().__init__(pipeline, body_bytes_max)
        self.shape = ANTHROPIC_SHAPE

    async def read(self, headers: list[Header], receive: Receive) -> MessagesRequest:
        request = read_messages_request(await read_body(headers, receive, self._body_bytes_max))
        request.betas = beta_header(value for name, value in headers if name == b"anthropic-beta")
        return request


async def count_tokens(request: Request) -> Response:
    """One of the calls in flight all the same: reading bodies must stay bounded."""
    state = request.app.state
    call = Call("messages", ANTHROPIC_SHAPE)
    try:
        state.calls.enter(call)
        try:
            asked = read_count_request(await read_bounded(request, state.settings.body_bytes_max))
            state.admission.require_model(asked)
            return json_response({"input_tokens": asked.input_tokens_likely})
        finally:
            state.calls.leave(call)
    except GatewayError as error:
        # The handler of the other paths answers in OpenAI's shape, which these clients do not read.
        return Response(error_shape(error), error.status, error.headers, "application/json")


routes = [Route("/v1/messages/count_tokens", count_tokens, methods=["POST"])]
