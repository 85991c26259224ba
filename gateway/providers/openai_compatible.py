"""Providers that speak OpenAI's dialect: the body goes out as it is, the answer comes back as it came."""

from collections.abc import Awaitable

from gateway.catalog import ProviderRow
from gateway.config import Settings
from gateway.providers.base import Exchange, UpstreamRequest
from gateway.providers.http_origin import HttpOrigin


class OpenAICompatible:
    """Lifetime: the process."""

    def __init__(self, row: ProviderRow, api_key: str, settings: Settings) -> None:
        self.name = row.name
        self._http = HttpOrigin(row, api_key, settings)

    async def open(self, request: UpstreamRequest, gate: Awaitable[None]) -> Exchange:
        """Send one call. Raises `UpstreamFailure`, or whatever `gate` raises."""
        return await self._http.send(request, gate)

    async def close(self) -> None:
        await self._http.close()
