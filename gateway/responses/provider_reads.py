"""What a provider keeps of a response, asked for again: reading and deleting bill nobody, so there is no hold and no entry.

The pipeline's errors hold here too: a provider's refusal passes through without its secrets, and what concerns the operator
becomes 502.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.answers import ERROR_BYTES_MAX, provider_refusal, redact_bytes, upstream_failed, upstream_invalid
from gateway.calls import new_request_id
from gateway.config import Settings
from gateway.errors import GatewayError, UpstreamError
from gateway.providers.base import Deadlines, Exchange, Provider, UpstreamFailure, UpstreamRequest

__all__ = ["ProviderReads"]


class ProviderReads:
    """Lifetime: one request. `providers` and their keys by name."""

    def __init__(self, providers: Mapping[str, Provider], provider_keys: Mapping[str, str], settings: Settings) -> None:
        self._providers = providers
        self._provider_keys = provider_keys
        self._answer_bytes_max = settings.answer_bytes_max
        self._deadlines = Deadlines(
            settings.connect_timeout_s,
            settings.first_byte_timeout_s,
            settings.idle_timeout_s,
            settings.total_timeout_s,
        )

    async def ask(self, provider: str, method: str, path: str) -> dict[str, Any]:
        """The JSON object `provider` answers. Raises `GatewayError`: the provider's own refusal with its status."""
        asked = self._providers.get(provider)
        if asked is None:
            raise UpstreamError(
                "The provider that keeps this response is no longer part of this gateway.", code="provider_unavailable"
            )
        key = self._provider_keys.get(provider, "")
        request = UpstreamRequest(path, b"", False, self._deadlines, new_request_id(), method=method)
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        opened.set_result(None)  # nothing has to be durable before a read
        try:
            exchange = await asked.open(request, opened)
        except UpstreamFailure as failure:
            raise upstream_failed(failure) from failure
        try:
            body = await _whole(exchange, self._answer_bytes_max if exchange.status < 300 else ERROR_BYTES_MAX)
        except UpstreamFailure as failure:
            raise upstream_failed(failure) from failure
        finally:
            exchange.close()
        if exchange.status >= 300:
            raise _refusal(exchange, body, key)
        return _parsed(redact_bytes(body, key) if key and key.encode() in body else body)


async def _whole(exchange: Exchange, bytes_max: int) -> bytes:
    body = bytearray()
    while data := await exchange.read():
        body += data
        if len(body) > bytes_max:
            raise UpstreamFailure("invalid", "an answer above the bound", is_sent=True, is_fully_sent=True)
    return bytes(body)


def _refusal(exchange: Exchange, body: bytes, key: str) -> GatewayError:
    error, _ = provider_refusal(exchange.status, exchange.headers, body, key)
    return error


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise upstream_invalid()
    return answer
