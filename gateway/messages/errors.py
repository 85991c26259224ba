"""Errors as Anthropic's clients read them: before an answer as its body, in the middle of a stream as its last event.

`{"type": "error", "error": {"type", "message", "details"}}`. The type follows from the status, as in Anthropic's own
answers; the gateway's code, which says more than a status can (`insufficient_quota` or `rate_limit_exceeded`), stands in
`details.error_code`, where Anthropic has its own. Source: the error types of the anthropic package 2.11.0, read 2026-11-21.
"""

from typing import Any

import orjson

from gateway.errors import GatewayError

__all__ = ["error_event", "error_shape", "error_type"]

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_TOO_LONG = "prompt is too long"
"""Clients that shorten a conversation and try again look for these words."""


def error_type(status: int) -> str:
    """Anthropic's word for an error of this status."""
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")


def error_shape(error: GatewayError) -> bytes:
    """The body of an error answer."""
    details = {"error_code": error.code, "param": error.param, "metadata": error.metadata}
    told = {name: value for name, value in details.items() if value}
    said: dict[str, Any] = {"type": error_type(error.status), "message": _message(error)}
    if told:
        said["details"] = told
    return orjson.dumps({"type": "error", "error": said})


def error_event(error: GatewayError) -> bytes:
    """The event that ends a stream which cannot be finished."""
    return b"event: error\ndata: %b\n\n" % error_shape(error)


def _message(error: GatewayError) -> str:
    if error.code == "context_length_exceeded" and _TOO_LONG not in error.message:
        return f"{_TOO_LONG}: {error.message}"
    return error.message
