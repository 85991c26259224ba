"""What every provider behind HTTP shares: one pool, one origin, one key, and request heads built from nothing.

No header of the client travels on. The provider's key is added last and exists in no other place than this object and its
pool's connections.
"""

from collections.abc import Awaitable

from gateway.catalog import ProviderRow
from gateway.config import Settings
from gateway.providers.base import Exchange, UpstreamRequest
from gateway.providers.pool import Origin, Pool

__all__ = ["HttpOrigin"]

_STARTS_KEPT = 256
"""Heads are kept by path; paths that hold an id come once."""


class HttpOrigin:
    """Lifetime: the process. Sends what it is given; what it means is its provider's business."""

    def __init__(self, row: ProviderRow, api_key: str, settings: Settings) -> None:
        self._row = row
        self._origin = Origin.parse(row.base_url)
        self._pool = Pool(self._origin, connections_max=settings.upstream_connections_max)
        self._fixed = self._fixed_headers(api_key)
        self._starts: dict[tuple[str, str, str, bool], bytes] = {}

    async def send(self, request: UpstreamRequest, gate: Awaitable[None]) -> Exchange:
        """Send one call to `request.path` below the base URL. Raises `UpstreamFailure`, or whatever `gate` raises."""
        key = (request.path, request.method, request.content_type, request.is_streaming)
        start = self._starts.get(key)
        if start is None:
            if len(self._starts) >= _STARTS_KEPT:
                self._starts.clear()
            start = self._starts[key] = self._start(*key)
        more = b"".join(b"%s: %s\r\n" % (name.encode(), value.encode("latin-1")) for name, value in request.headers)
        head = b"%s%sx-client-request-id: %s\r\ncontent-length: %d\r\n\r\n" % (
            start,
            more,
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

    def _start(self, path: str, method: str, content_type: str, is_streaming: bool) -> bytes:
        accept = "text/event-stream" if is_streaming else "application/json"
        target = f"{self._origin.base_path.rstrip('/')}{path}"
        if self._row.query:
            target += f"{'&' if '?' in target else '?'}{self._row.query}"
        lines = f"{method} {target} HTTP/1.1\r\n{self._fixed}content-type: {content_type}\r\naccept: {accept}\r\n"
        return lines.encode("latin-1")

    def _fixed_headers(self, api_key: str) -> str:
        lines = [
            f"host: {self._origin.host_header}",
            # Bodies are relayed as they come, so they must come uncompressed.
            "accept-encoding: identity",
            "user-agent: llm-gateway",
            *(f"{name}: {value}" for name, value in self._row.headers.items()),
        ]
        if api_key:
            scheme = self._row.auth_scheme or ("Bearer" if self._row.auth_header == "authorization" else "")
            lines.append(
                f"{self._row.auth_header}: {scheme} {api_key}" if scheme else f"{self._row.auth_header}: {api_key}"
            )
        return "".join(f"{line}\r\n" for line in lines)
