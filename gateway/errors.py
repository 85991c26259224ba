"""Every error the gateway itself raises, and its OpenAI-shaped body.

    GatewayError
    ├── RequestError          400-413  the caller can mend it
    │   ├── Unauthenticated   401      one answer for unknown, revoked and expired keys
    │   └── NotFound          404
    ├── PolicyDenied          403, 429 a policy said no; nothing was taken, nothing was dialled
    ├── UpstreamError         502, 504 the provider failed, or what concerns the operator, not the caller
    └── StoreError            503      the ledger cannot write, or the gateway is draining
    ConfigError                        only at start: names the setting or the file and line

A message says what was wrong and what to change. It never holds a key or prompt text. `headers` are what the answer
carries beside the body; a condition that waiting will not heal has `x-should-retry: false`, or SDKs would ask thrice.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

DO_NOT_RETRY: Mapping[str, str] = {"x-should-retry": "false"}


class GatewayError(Exception):
    """What a caller may be told: `status` and `{"error": {message, type, param, code, metadata?}}`."""

    status: int = 500
    type: str = "server_error"
    code: str | None = "internal_error"
    log_level: ClassVar[str] = "info"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status or self.status
        self.type = type or self.type
        self.code = code or self.code
        self.param = param
        self.metadata = metadata
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        return error_body(self.message, self.type, self.code, self.param, self.metadata)


class RequestError(GatewayError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class Unauthenticated(RequestError):
    status = 401
    code = "invalid_api_key"


class NotFound(RequestError):
    status = 404
    code = "not_found"


class PolicyDenied(GatewayError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class UpstreamError(GatewayError):
    status = 502
    type = "upstream_error"
    code = "upstream_error"
    log_level = "warning"


class StoreError(GatewayError):
    status = 503
    type = "server_error"
    code = "store_unavailable"
    log_level = "error"


class ConfigError(Exception):
    """A setting or a file is wrong; the message names it and says what to do. Stops the start."""


def error_body(
    message: str, type: str, code: str | None, param: str | None = None, metadata: Mapping[str, Any] | None = None
) -> bytes:
    """OpenAI's error envelope; the SDKs require all four keys. `metadata` is ours and only there when it says something."""
    error: dict[str, Any] = {"message": message, "type": type, "param": param, "code": code}
    if metadata:
        error["metadata"] = metadata
    return orjson.dumps({"error": error})
