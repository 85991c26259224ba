"""What the endpoints before the router share: a bounded body, and the answer to a wrong method."""

from starlette.types import Receive, Scope, Send

from gateway.calls import new_request_id
from gateway.endpoints import error_response
from gateway.errors import RequestError
from gateway.responder import Header


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
