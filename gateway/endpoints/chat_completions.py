"""`POST /v1/chat/completions`: hands the request to the pipeline. A plain ASGI callable, since it is the hot path."""

from starlette.types import Receive, Scope, Send

from gateway.endpoints.hot import read_body, refuse_method
from gateway.front import CYCLE, FrontResponder
from gateway.pipeline import Pipeline


class ChatCompletions:
    path = "/v1/chat/completions"

    def __init__(self, pipeline: Pipeline, body_bytes_max: int) -> None:
        self._pipeline = pipeline
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await refuse_method(scope, receive, send, "POST")
            return
        headers = scope["headers"]
        await self._pipeline.chat_completion(
            headers,
            lambda: read_body(headers, receive, self._body_bytes_max),
            FrontResponder(scope.pop(CYCLE)),  # the cycle holds the scope; the scope need not hold the cycle
        )
