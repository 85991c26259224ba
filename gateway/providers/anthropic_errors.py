"""Anthropic's errors -> OpenAI's envelope. Pure, and never raises: whatever came, the client is told something readable.

Anthropic's envelope is `{"type": "error", "error": {"type", "message", "details"}, "request_id"}`, as an answer and as an
event of a stream (`types/shared/*_error*.py` of anthropic 2.11.0, and platform.claude.com/docs/en/api/errors, both read
2026-11-21). A 413 comes from the network in front of it and may be HTML.
"""

import re
from typing import Any, Final

import orjson

from gateway.errors import error_body

__all__ = ["envelope", "refusal"]

_KINDS: Final[dict[str, tuple[str, str]]] = {
    "invalid_request_error": ("invalid_request_error", "invalid_value"),
    "authentication_error": ("authentication_error", "invalid_api_key"),
    "billing_error": ("insufficient_quota", "insufficient_quota"),
    "permission_error": ("permission_error", "permission_denied"),
    "not_found_error": ("invalid_request_error", "model_not_found"),
    "request_too_large": ("invalid_request_error", "request_too_large"),
    "rate_limit_error": ("rate_limit_error", "rate_limit_exceeded"),
    "timeout_error": ("server_error", "timeout"),
    "api_error": ("server_error", "internal_error"),
    "overloaded_error": ("overloaded_error", "overloaded"),
}
_BY_STATUS: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_TOO_LONG: Final = re.compile(
    r"prompt is too long|exceeds? (?:the )?(?:model's )?(?:context (?:limit|window))", re.IGNORECASE
)
_NO_MONEY: Final = re.compile(
    r"credit balance is too low|reached your specified (?:api|workspace api) usage limits", re.IGNORECASE
)
"""An account without money answers 400 `invalid_request_error`, told apart by its words alone."""
_NO_MONEY_CODES: Final = re.compile(r"spend_limit_reached|billing_unavailable|organization_on_hold")


def refusal(status: int, body: bytes) -> bytes:
    """The body of an error answer in OpenAI's shape."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        message = None
    return envelope(message, status)


def envelope(message: object, status: int = 0) -> bytes:
    """An error in OpenAI's shape, from Anthropic's parsed envelope or whatever came instead; `status` 0 in a stream."""
    error = message.get("error") if isinstance(message, dict) else None
    said: dict[str, Any] = error if isinstance(error, dict) else {}
    kind, code = _kind(said, status)
    text = said.get("message")
    if not isinstance(text, str) or not text:
        text = "The provider answered with an error."
    param = None
    if code == "invalid_value" and _TOO_LONG.search(text):
        code, param = "context_length_exceeded", "messages"
    elif code == "model_not_found":
        param = "model"
    return error_body(text, kind, code, param)


def _kind(said: dict[str, Any], status: int) -> tuple[str, str]:
    text, details = said.get("message"), said.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    is_broke = (isinstance(text, str) and _NO_MONEY.search(text)) or (
        isinstance(code, str) and _NO_MONEY_CODES.search(code)
    )
    if is_broke:
        return _KINDS["billing_error"]
    kind = said.get("type")
    if not isinstance(kind, str) or kind not in _KINDS:
        kind = _BY_STATUS.get(status) or ("invalid_request_error" if 400 <= status < 500 else "api_error")
    return _KINDS[kind]
