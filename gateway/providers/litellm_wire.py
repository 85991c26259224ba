"""The one way out for what litellm sends: which host, how long, how much, and what became of it.

litellm picks its HTTP clients itself, follows redirects, obeys proxies of the environment and sends a request again when
the connection broke (`AsyncHTTPHandler.post` of 1.106.2, read 2026-11-21), which would be paid twice. So every client it
uses is made to end in `GuardedTransport`, and that does nothing outside a call of the gateway. Within one, the call's `Wire`
lets out what goes to the configured host, notes what was sent, keeps the deadlines, and after the first failure lets
nothing out any more.

Imported with the library, not before: a gateway without such providers needs no second HTTP client.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, NoReturn, cast

import httpx

from gateway.catalog import ProviderRow
from gateway.config import Settings
from gateway.providers.base import Deadlines, FailureKind, UpstreamFailure, UpstreamRequest

__all__ = ["CURRENT", "Blocked", "BlockedTransport", "GuardedTransport", "Line", "Wire"]

_STRIPPED = ("cookie", "openai-organization", "openai-project")
"""Request headers that come from litellm's or another SDK's surroundings."""
_PORTS = {"http": 80, "https": 443}


class Blocked(httpx.ReadError):
    """The guard let nothing out, or nothing more in. Of a kind that litellm does not answer with a second try."""


class Line(NamedTuple):
    """What the calls of one provider share. Lifetime: the process."""

    transport: httpx.AsyncHTTPTransport
    origin: tuple[str, str, int] | None
    """Scheme, host and port that may be called; None: what the library knows for this provider, by https."""
    headers: Mapping[str, str]
    """Sent with every request, above what the library says."""

    @classmethod
    def to(cls, row: ProviderRow, settings: Settings) -> "Line":
        transport = httpx.AsyncHTTPTransport(
            # The system's certificates; no proxy, no bundle and no other setting of the environment.
            verify=ssl.create_default_context(),
            trust_env=False,
            limits=httpx.Limits(max_connections=settings.upstream_connections_max),
            retries=0,
        )
        origin = _origin(httpx.URL(row.base_url)) if row.base_url else None
        return cls(transport, origin, {**row.headers, "user-agent": "llm-gateway", "accept-encoding": "identity"})


class Wire:
    """What leaves and arrives for one call. Lifetime: one call."""

    def __init__(self, line: Line, request: UpstreamRequest, *, answer_bytes_max: int) -> None:
        self._line = line
        self._deadlines: Deadlines = request.deadlines
        self._on_dial: Callable[[], None] = request.on_dial
        self._answer_bytes_max = answer_bytes_max
        self._answer_bytes = 0
        self._is_closed = False
        self._body: _Body | None = None
        self._first_byte: asyncio.Timeout | None = None
        self.is_sent = False
        self.is_fully_sent = False
        self.status = 0
        """Of the last answer; 0: none came."""
        self.headers: dict[str, str] = {}
        self.failure: UpstreamFailure | None = None
        """The first; nothing is let out after it."""

    def failed(self, kind: FailureKind, detail: str) -> UpstreamFailure:
        """What becomes of the call: its first failure, which may be another one than this."""
        if self.failure is None:
            self.failure = UpstreamFailure(kind, detail, is_sent=self.is_sent, is_fully_sent=self.is_fully_sent)
        return self.failure

    async def send(self, request: httpx.Request) -> httpx.Response:
        """One request of the library. Raises `Blocked`."""
        if self._is_closed or self.failure is not None:
            raise Blocked("the call has ended")
        if _origin(request.url) != self._line.origin and (self._line.origin or request.url.scheme != "https"):
            self.block("invalid", "the library wanted to call another host")
        for name in _STRIPPED:
            request.headers.pop(name, None)
        request.headers.update(self._line.headers)
        request.extensions = {**request.extensions, "timeout": self._socket_timeouts(), "trace": self._trace}
        response = await self._exchange(request)
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        if 300 <= response.status_code < 400:
            await response.aclose()
            self.block("invalid", "a redirect")
        if self.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            self.block("invalid", "a content-encoding that was not asked for")
        self._body = _Body(self, cast(httpx.AsyncByteStream, response.stream), self._deadlines.idle_s)
        headers = [(name, value) for name, value in response.headers.raw if name.lower() != b"set-cookie"]
        return httpx.Response(
            response.status_code, headers=headers, stream=self._body, extensions=response.extensions, request=request
        )

    def took(self, size: int) -> None:
        """Counts bytes of an answer. Raises `Blocked` above the bound."""
        self._answer_bytes += size
        if self._answer_bytes > self._answer_bytes_max:
            self.block("invalid", "an answer above the bound")

    async def close(self) -> None:
        """Ends what is still open; nothing is let out afterwards. May be called twice."""
        self._is_closed = True
        body, self._body = self._body, None
        if body is not None:
            await body.aclose()

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        try:
            async with asyncio.timeout(None) as self._first_byte:
                return await self._line.transport.handle_async_request(request)
        except TimeoutError:
            self.block("first_byte_timeout", "no answer in time")
        except httpx.WriteTimeout:
            self.block("idle_timeout", "the provider did not take the request")
        except httpx.TransportError as exc:
            self.block("died" if self.is_sent else "unreachable", type(exc).__name__)
        finally:
            self._first_byte = None

    def block(self, kind: FailureKind, detail: str) -> NoReturn:
        """Nothing more is let out or in. Raises `Blocked`."""
        self.failed(kind, detail)
        raise Blocked(f"{kind}: {detail}")

    def _socket_timeouts(self) -> dict[str, float | None]:
        """Reading has deadlines of its own, which begin when the request was sent."""
        connect_s = self._deadlines.connect_s
        return {"connect": connect_s, "pool": connect_s, "write": self._deadlines.idle_s, "read": None}

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """httpcore tells what it is about to do: `http11.send_request_headers.started`."""
        if event.endswith(".send_request_headers.started"):
            if not self.is_sent:
                self.is_sent = True
                self._on_dial()
        elif event.endswith(".send_request_body.complete"):
            self.is_fully_sent = True
            if self._first_byte is not None:
                self._first_byte.reschedule(asyncio.get_running_loop().time() + self._deadlines.first_byte_s)


class _Body(httpx.AsyncByteStream):
    """An answer's body under the deadline for silence and the bound of the call."""

    def __init__(self, wire: Wire, inner: httpx.AsyncByteStream, idle_s: float) -> None:
        self._wire = wire
        self._inner = inner
        self._idle_s = idle_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = aiter(self._inner)
        while True:
            try:
                async with asyncio.timeout(self._idle_s):
                    piece = await anext(pieces, None)
            except TimeoutError:
                self._wire.block("idle_timeout", "silence inside the answer")
            except httpx.TransportError as exc:
                self._wire.block("died", type(exc).__name__)
            if piece is None:
                return
            self._wire.took(len(piece))
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()


CURRENT: ContextVar[Wire | None] = ContextVar("litellm_wire", default=None)
"""The call on whose behalf the library is running."""


class GuardedTransport(httpx.AsyncBaseTransport):
    """Stands in for every transport of the library. Holds no connection."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        wire = CURRENT.get()
        if wire is None:
            raise Blocked("nothing is sent outside a call")
        return await wire.send(request)


class BlockedTransport(httpx.BaseTransport):
    """For clients that would block the event loop, or a thread that nobody can cancel (images of a few providers)."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if (wire := CURRENT.get()) is not None:
            wire.block("invalid", "the library has only a blocking client for this")
        raise Blocked("nothing is sent by a blocking client")


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or _PORTS.get(url.scheme, 0)
