"""What the endpoints share: errors as answers, JSON in and out, bounded bodies and strict forms."""

from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ExceptionHandler

from gateway.errors import GatewayError, NotFound, RequestError

FORM_BYTES_MAX = 1_000_000

FormT = TypeVar("FormT", bound="Form")


class Form(BaseModel):
    """A JSON body in which every field is known, of exactly its type, and free of control characters by its own rules."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def json_response(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


def error_response(exc: GatewayError) -> Response:
    """OpenAI's error envelope with the error's status and headers."""
    return Response(exc.body(), exc.status, exc.headers, "application/json")


async def read_form(request: Request, form: type[FormT], *, bytes_max: int = FORM_BYTES_MAX) -> FormT:
    """The body as `form`; an absent body counts as `{}`.

    Raises `RequestError`: 413 above `bytes_max` bytes, 422 for a field the form does not have (named in `param`, so that
    nobody believes it had an effect), 400 for anything else.
    """
    raw = await read_bounded(request, bytes_max)
    try:
        value = orjson.loads(raw) if raw.strip() else {}
    except orjson.JSONDecodeError as exc:
        raise RequestError("The body is not valid JSON.", code="invalid_json") from exc
    if not isinstance(value, dict):
        raise RequestError("The body must be a JSON object.", code="invalid_json")
    try:
        return form.model_validate(value)
    except ValidationError as exc:
        raise _form_error(exc) from None


async def on_gateway_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, GatewayError)  # noqa: S101 -- Starlette's handler type is wider than what it is registered for
    return error_response(exc)


async def on_http_exception(request: Request, exc: Exception) -> Response:
    """The router's own refusals, in OpenAI's shape."""
    assert isinstance(exc, HTTPException)  # noqa: S101 -- as above
    if exc.status_code == 404:
        return error_response(NotFound("There is nothing at this path."))
    code = "method_not_allowed" if exc.status_code == 405 else "invalid_request"
    message = "This path does not take this method." if exc.status_code == 405 else "The request is not usable."
    return error_response(RequestError(message, status=exc.status_code, code=code, headers=exc.headers))


EXCEPTION_HANDLERS: dict[Any, ExceptionHandler] = {GatewayError: on_gateway_error, HTTPException: on_http_exception}
"""For `Starlette(exception_handlers=...)`."""


async def read_bounded(request: Request, bytes_max: int) -> bytes:
    """The whole body. Raises `RequestError`: 413 above `bytes_max` bytes, 400 where the client left before its end."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > bytes_max:
                raise RequestError(f"The body is larger than {bytes_max} bytes.", status=413, code="request_too_large")
    except ClientDisconnect:
        raise RequestError("The client left before its request was complete.", code="client_gone") from None
    return bytes(body)


def _form_error(exc: ValidationError) -> RequestError:
    """The first fault; unknown fields before all others. Never shows the value that was sent: it may hold a secret."""
    faults = exc.errors(include_url=False, include_context=False, include_input=False)
    fault = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    param = ".".join(_shown(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return RequestError(f"`{param}` is not a field of this request.", status=422, code="unknown_field", param=param)
    reason = fault["msg"].removeprefix("Value error, ")
    return RequestError(f"`{param}`: {reason}.", code="invalid_value", param=param)


def _shown(part: int | str) -> str:
    """A field name somebody sent: cut, and without what could break a line."""
    return "".join(char if char.isprintable() else "?" for char in str(part)[:64])
