"""Providers that speak OpenAI's dialect: the body goes out as it is, the answer comes back as it came.

Request headers are built here from nothing: no header of the client travels on. The provider's key is added last and
exists in no other place than this object and its pool's connections.
"""

from collections.abc import Awaitable

from gateway.catalog import ProviderRow
from gateway.config import Settings
from gateway.providers.base import Exchange, UpstreamRequest
from gateway.providers.pool import Origin, Pool


class OpenAICompatible:
    """Lifetime: the process. One pool, one origin, one key."""

    def __init__(self, row: ProviderRow, api_key: str, settings: Settings) -> None:
        self.name = row.name
        self._row = row
        self._origin = Origin.parse(row.base_url)
        self._pool = Pool(self._origin, connections_max=settings.upstream_connections_max)
        self._fixed = self._fixed_headers(api_key)
        self._starts: dict[tuple[str, bool], bytes] = {}

    async def open(self, request: UpstreamRequest, gate: Awaitable[None]) -> Exchange:
        """Send one call. Raises `UpstreamFailure`, or whatever `gate` raises."""
        start = self._starts.get((request.path, request.is_streaming))
        if start is None:
            start = self._starts[request.path, request.is_streaming] = self._start(request.path, request.is_streaming)
        head = b"%sx-client-request-id: %s\r\ncontent-length: %d\r\n\r\n" % (
            start,
            request.request_id.encode("ascii"),
            len(request.body),
        )
        return await self._pool.open(
            head=head,
            body=request.body,
            gate=gate,
            deadlines=request.deadlines,
            retry_unanswered=self._row.retry_unanswered,
            on_dial=request.on_dial,
        )

    async def close(self) -> None:
        await self._pool.close()

    def _start(self, path: str, is_streaming: bool) -> bytes:
        accept = b"text/event-stream" if is_streaming else b"application/json"
        target = (self._origin.base_path.rstrip("/") + path).encode("ascii")
        return b"POST %s HTTP/1.1\r\n%saccept: %s\r\n" % (target, self._fixed, accept)

    def _fixed_headers(self, api_key: str) -> bytes:
        lines = [
            f"host: {self._origin.host_header}",
            "content-type: application/json",
            # Bodies are relayed as they come, so they must come uncompressed.
            "accept-encoding: identity",
            "user-agent: llm-gateway",
        ]
        if api_key:
            bearer = self._row.auth_header == "authorization"
            lines.append(f"{self._row.auth_header}: {'Bearer ' if bearer else ''}{api_key}")
        return "".join(f"{line}\r\n" for line in lines).encode("latin-1")
