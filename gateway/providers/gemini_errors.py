"""Gemini's errors -> OpenAI's envelope. Pure, and never raises: whatever came, the client is told something readable.

Google's envelope is `{"error": {"code", "message", "status", "details"}}`, sometimes inside a list of one, and `status`
is one of gRPC's words. The words for a prompt that is too long are those of gemini-cli's issues 4231 and 12098 (2025).
"""

import re
from math import ceil
from typing import Any

import orjson

from gateway.errors import error_body

__all__ = ["Refusing", "envelope", "error_in"]

_KINDS: dict[str, tuple[str, str]] = {
    "RESOURCE_EXHAUSTED": ("rate_limit_error", "rate_limit_exceeded"),
    "UNAUTHENTICATED": ("authentication_error", "invalid_api_key"),
    "PERMISSION_DENIED": ("permission_error", "permission_denied"),
    "NOT_FOUND": ("invalid_request_error", "model_not_found"),
    "INVALID_ARGUMENT": ("invalid_request_error", "invalid_value"),
    "FAILED_PRECONDITION": ("invalid_request_error", "failed_precondition"),
    "OUT_OF_RANGE": ("invalid_request_error", "invalid_value"),
    "UNIMPLEMENTED": ("invalid_request_error", "unsupported_parameter"),
    "UNAVAILABLE": ("server_error", "overloaded"),
    "DEADLINE_EXCEEDED": ("server_error", "timeout"),
    "INTERNAL": ("server_error", "internal_error"),
}
_BY_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TOO_LONG = re.compile(r"token count\b.{0,200}\bexceeds the maximum number of tokens", re.IGNORECASE | re.DOTALL)
"""A message may repeat what the caller sent, so what stands in between has a bound."""
_DELAY = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,9})?)s")
"""A duration of protocol buffers as JSON: `34s`, `1.5s`."""
_KEY_REASONS = frozenset({"API_KEY_INVALID", "API_KEY_EXPIRED"})


class Refusing:
    """The half of a translator that tells refusals. Google says how long to wait inside the body, as `RetryInfo`."""

    retry_after_s: int | None = None

    def refusal(self, status: int, body: bytes) -> bytes:
        """The body of an error answer in OpenAI's shape."""
        try:
            error = error_in(orjson.loads(body)) or {}
        except orjson.JSONDecodeError:
            error = {}
        self.retry_after_s = _retry_after_s(error)
        return envelope(error, status)


def _retry_after_s(error: dict[str, Any]) -> int | None:
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and (found := _DELAY.fullmatch(delay)):
            return ceil(float(found[1]))
    return None


def error_in(message: object) -> dict[str, Any] | None:
    """Google's error object in a parsed message; None where it reports none."""
    if isinstance(message, list) and message:
        message = message[0]
    error = message.get("error") if isinstance(message, dict) else None
    return error if isinstance(error, dict) and error else None


def envelope(error: dict[str, Any], status: int = 0) -> bytes:
    """OpenAI's envelope for Google's error object; `status` is HTTP's, where there was one."""
    code = error.get("code")
    if not status and type(code) is int:
        status = code
    word = error.get("status")
    if not isinstance(word, str) or word not in _KINDS:
        word = _BY_STATUS.get(status, "INTERNAL" if status >= 500 or not status else "INVALID_ARGUMENT")
    said = error.get("message")
    message = said if isinstance(said, str) and said else "The provider refused the request and did not say why."
    if word == "INVALID_ARGUMENT" and _TOO_LONG.search(message):
        return error_body(message, "invalid_request_error", "context_length_exceeded", "messages")
    if _reasons(error) & _KEY_REASONS:
        # Google answers 400 to a key it does not know.
        word = "UNAUTHENTICATED"
    kind, name = _KINDS[word]
    return error_body(message, kind, name, "model" if word == "NOT_FOUND" else None)


def _reasons(error: dict[str, Any]) -> set[str]:
    details = error.get("details")
    found = details if isinstance(details, list) else []
    reasons = (detail.get("reason") for detail in found if isinstance(detail, dict))
    return {reason for reason in reasons if isinstance(reason, str)}
