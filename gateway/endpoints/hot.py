"""The paths calls come in on, before any router: plain ASGI callables that hand the request to the pipeline."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar

from starlette.types import Receive, Scope, Send

from gateway.calls import OPENAI_SHAPE, new_request_id
from gateway.endpoints import error_response
from gateway.errors import RequestError
from gateway.front import CYCLE, FrontResponder
from gateway.model_request import ModelRequest
from gateway.pipeline import Pipeline
from gateway.repeats import IDEMPOTENCY_KEY
from gateway.responder import Header


class ModelEndpoint(ABC):
    """One `POST` path that a model answers. A subclass says which, and how its body is read."""

    path: ClassVar[str]
    endpoint: ClassVar[str]
    """The word the catalog, the ledger and plans use."""

    def __init__(self, pipeline: Pipeline, body_bytes_max: int) -> None:
        self._pipeline = pipeline
        self._body_bytes_max = body_bytes_max
        self.shape = OPENAI_SHAPE
        """What this path's clients look for beside the answer itself."""

    @abstractmethod
    async def read(self, headers: list[Header], receive: Receive) -> ModelRequest:
        """The checked request. Raises `RequestError`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await refuse_method(scope, receive, send, "POST")
            return
        headers = scope["headers"]
        client = scope.get("client")
        fingerprint: Callable[[], str] = str
        if IDEMPOTENCY_KEY in [name for name, _ in headers]:
            body = self._pipeline.body_hash(receive, dict(headers).get(b"content-type", b""))
            receive, fingerprint = body.hashed, partial(body.fingerprint, "POST", self.path)
        await self._pipeline.serve(
            self.endpoint,
            lambda: self.read(headers, receive),
            headers,
            FrontResponder(scope.pop(CYCLE)),  # the cycle holds the scope; the scope need not hold the cycle
            client[0] if client else "",
            self.shape,
            fingerprint,
        )


class JsonEndpoint(ModelEndpoint):
    """A path whose body is JSON and says all there is to know."""

    @staticmethod
    @abstractmethod
    def read_request(raw: bytes) -> ModelRequest:
        """The checked request in a body. Raises `RequestError`."""

    async def read(self, headers: list[Header], receive: Receive) -> ModelRequest:
        return self.read_request(await read_body(headers, receive, self._body_bytes_max))


async def read_body(headers: list[Header], receive: Receive, bytes_max: int) -> bytes:
    """The whole request body. Raises `RequestError`: 413 above `bytes_max`, 415 if it is compressed."""
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit() or int(value) > bytes_max:
                raise _too_large(bytes_max)
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise RequestError("Send the body uncompressed.", status=415, code="unsupported_encoding")
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return _within(message.get("body", b""), bytes_max)
    body = bytearray()
    while message["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        if not message.get("more_body"):
            return bytes(body)
        message = await receive()
    raise RequestError("The client left before its request was complete.", code="client_gone")


async def refuse_method(scope: Scope, receive: Receive, send: Send, allowed: str) -> None:
    error = RequestError(
        f"This path takes {allowed} only.",
        status=405,
        code="method_not_allowed",
        headers={"allow": allowed, "x-request-id": new_request_id()},
    )
    await error_response(error)(scope, receive, send)


def _within(body: bytes, bytes_max: int) -> bytes:
    if len(body) > bytes_max:
        raise _too_large(bytes_max)
    return body


def _too_large(bytes_max: int) -> RequestError:
    return RequestError(
        f"The body is larger than {bytes_max} bytes.",
        status=413,
        code="request_too_large",
        # What is left of the body would be read as the next request.
        headers={"connection": "close"},
    )
