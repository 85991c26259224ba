"""One call of litellm while it runs, and its answer as an `Exchange`: read whole, or event by event."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from gateway.providers.base import UpstreamFailure, UpstreamRequest
from gateway.providers.litellm_answers import DONE, chunk_event, error_bytes, usage_event, usage_of
from gateway.providers.litellm_request import Asked
from gateway.tasks import spawn

if TYPE_CHECKING:
    from gateway.providers.litellm_wire import Wire

__all__ = ["LibraryAnswer", "LibraryCall", "LibraryStream"]

_CLOSE_WITHIN_S = 5.0


class LibraryCall:
    """One call of the library and its wire. Lifetime: one call."""

    def __init__(self, wire: "Wire", asked: Asked, request: UpstreamRequest, ends_at: float) -> None:
        self.wire = wire
        self.asked = asked
        self.request = request
        self.answer_id = f"chatcmpl-{request.request_id}"
        self.created = int(time.time())
        self._ends_at = ends_at

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the library works for this call: what it sends is the call's, and the total deadline ends it."""
        from gateway.providers.litellm_wire import CURRENT

        token = CURRENT.set(self.wire)
        try:
            async with asyncio.timeout_at(self._ends_at):
                yield
        except TimeoutError as exc:
            raise self.wire.failed("total_timeout", "the call took too long") from exc
        finally:
            CURRENT.reset(token)

    @property
    def headers(self) -> dict[str, str]:
        """The provider's own."""
        headers = self.wire.headers
        for name in ("x-amzn-requestid", "request-id", "x-debug-trace-id"):
            if name in headers:
                return {"x-request-id": headers[name], **headers}
        return headers

    def leave(self) -> None:
        """Nobody waits for the rest: the connection ends."""
        spawn(self._close(), "close-litellm-call")

    async def _close(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_WITHIN_S):
                await self.wire.close()


class LibraryAnswer:
    """An `Exchange` whose body is here."""

    def __init__(self, call: LibraryCall, status: int, body: bytes) -> None:
        self.status = status
        self.headers = {**call.headers, "content-type": "application/json"}
        self._call = call
        self._body = body
        self._is_closed = False

    async def read(self) -> bytes:
        body, self._body = self._body, b""
        return body

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        body = await self.read()
        return take(body) if body else True

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._call.leave()


class LibraryStream:
    """An `Exchange` over the library's chunks, one event each."""

    def __init__(self, call: LibraryCall, chunks: Any, secret: str) -> None:
        self.status = 200
        self._call = call
        self._chunks = chunks
        self._secret = secret
        self._iterator: AsyncIterator[Any] | None = None
        self._ready: list[bytes] = []
        self._last: Any = None
        self._has_ended = False
        self._is_closed = False

    @property
    def headers(self) -> dict[str, str]:
        return {**self._call.headers, "content-type": "text/event-stream"}

    async def begin(self) -> None:
        """Returns with the first event; until then the provider may still refuse. Raises what the library raises."""
        if not hasattr(self._chunks, "__aiter__"):
            raise self._call.wire.failed("invalid", "no stream from the library")
        self._iterator = aiter(self._chunks)
        await self._next()

    async def read(self) -> bytes:
        """The next event, `b""` at the end. Raises `UpstreamFailure`."""
        while not self._ready and not self._has_ended:
            try:
                async with self._call.running():
                    await self._next()
            except UpstreamFailure:
                self._has_ended = True
                raise
            except Exception as exc:
                self._has_ended = True
                self._ready.append(self._broken(exc))
        return self._ready.pop(0) if self._ready else b""

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        while data := await self.read():
            if not take(data):
                return False
        return True

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._has_ended = True
            self._call.leave()

    async def _next(self) -> None:
        """Take chunks until one says something, or the last was taken."""
        assert self._iterator is not None  # noqa: S101 -- `begin` made it
        call = self._call
        async for chunk in self._iterator:
            self._last = chunk
            event = chunk_event(
                chunk,
                model=call.asked.model,
                answer_id=call.answer_id,
                created=call.created,
                is_finish_real=self._is_finish_real(),
            )
            if event:
                self._ready.append(event)
                return
        self._has_ended = True
        if call.wire.failure is not None:
            # The library takes a connection that broke after the finish reason for a proper end.
            raise call.wire.failure
        self._end()

    def _end(self) -> None:
        call = self._call
        usage = self._reported_usage()
        if usage is not None and call.asked.wants_usage_event:
            self._ready.append(
                usage_event(usage, model=call.asked.model, answer_id=call.answer_id, created=call.created)
            )
        if self._is_finish_real():
            self._ready.append(DONE)

    def _reported_usage(self) -> dict[str, Any] | None:
        """What the provider's chunks reported, as the library adds it up once it has seen all of them."""
        if not any(getattr(chunk, "usage", None) is not None for chunk in getattr(self._chunks, "chunks", ())):
            return None
        hidden = getattr(self._last, "_hidden_params", None) or {}
        return usage_of(getattr(self._last, "usage", None) or hidden.get("usage"))

    def _is_finish_real(self) -> bool:
        """The library ends every stream with a finish reason; these two hold what the provider said."""
        chunks = self._chunks
        return bool(
            getattr(chunks, "received_finish_reason", None) or getattr(chunks, "intermittent_finish_reason", None)
        )

    def _broken(self, exc: Exception) -> bytes:
        """An error the provider reported inside its stream. Raises `UpstreamFailure` where it was no report."""
        wire = self._call.wire
        if wire.failure is not None:
            raise wire.failure from exc
        return b"data: " + error_bytes(exc, self._secret) + b"\n\n"
