"""Anthropic's API in its own dialect.

    /chat/completions         /messages, translated both ways
    /messages                 as it is, with the caller's `anthropic-beta`
    /messages/count_tokens    likewise

The row has `base_url = "https://api.anthropic.com/v1"`, `auth_header = "x-api-key"` and
`headers = { anthropic-version = "2023-06-01" }`. What is translated into what stands in `anthropic_request`,
`anthropic_messages`, `anthropic_thinking`, `anthropic_schema`, `anthropic_answer` and `anthropic_errors`.
"""

import time
from collections.abc import Awaitable

import orjson

from gateway.catalog import ProviderRow
from gateway.config import Settings
from gateway.errors import RequestError
from gateway.providers.anthropic_answer import Asked, ChatTranslator
from gateway.providers.anthropic_request import messages_body
from gateway.providers.base import Exchange, UpstreamRequest
from gateway.providers.http_origin import HttpOrigin
from gateway.providers.translated import TranslatedExchange
from gateway.request_fields import dump_body

__all__ = ["Anthropic"]

_NATIVE = frozenset({"/messages", "/messages/count_tokens"})


class Anthropic:
    """Lifetime: the process."""

    def __init__(self, row: ProviderRow, api_key: str, settings: Settings) -> None:
        self.name = row.name
        self._http = HttpOrigin(row, api_key, settings)
        self._answer_bytes_max = settings.answer_bytes_max
        self._event_bytes_max = settings.stream_event_bytes_max

    async def open(self, request: UpstreamRequest, gate: Awaitable[None]) -> Exchange:
        """Send one call. Raises `RequestError` for what Anthropic cannot be asked, before anything is sent;
        `UpstreamFailure`, or whatever `gate` raises."""
        if request.path in _NATIVE:
            return await self._http.send(request, gate)
        if request.path != "/chat/completions":
            raise RequestError(
                "This model's provider does not have this endpoint.", code="unsupported_endpoint", param="model"
            )
        body = orjson.loads(request.body)
        asked = Asked(
            created=int(time.time()),
            has_usage_event=(body.get("stream_options") or {}).get("include_usage") is True,
            event_bytes_max=self._event_bytes_max,
        )
        sent = request._replace(path="/messages", body=dump_body(messages_body(body)), headers=())
        inner = await self._http.send(sent, gate)
        return TranslatedExchange(inner, ChatTranslator(asked), answer_bytes_max=self._answer_bytes_max)

    async def close(self) -> None:
        await self._http.close()
