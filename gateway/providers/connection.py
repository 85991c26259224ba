"""One keep-alive connection to a provider: a request goes out, its answer comes in, with backpressure both ways.

It is fit for another call only if its last answer ended by its own framing, the request had left completely before the
answer began, and not one byte has come since; right before it is used again, the kernel is asked whether one is waiting
that the loop has not seen yet. In doubt it is closed. (Against bytes that come after the next request has left, nothing
helps in HTTP/1.1.) It holds the state of the call it carries, so that
a call costs few objects. Who may use it when is the business of `pool`; deadlines are checked by the pool's tick.
"""

import asyncio
import re
import select
from collections.abc import Callable
from typing import Final, cast

from gateway.providers.base import Deadlines, FailureKind, UpstreamFailure
from gateway.providers.http1 import ENDED, FAILED, HEAD, REST, Answer, Bounds, Invalid

_WRITE_BYTES: Final = 64 * 1024
"""Requests up to this size leave in one write; the rest of larger ones follows in slices, as the socket takes them."""
_UNREAD_BYTES_MAX: Final = 64 * 1024
"""Above this much unread body the socket is not read. One read of the loop (256 KB) may come on top."""
_KEEP_ALIVE_TIMEOUT: Final = re.compile(r"\btimeout\s*=\s*(\d{1,9})", re.ASCII | re.IGNORECASE)


class Connection(asyncio.Protocol):
    """Carries one call at a time: `start`, `changed` until there is news, `take`, `leave`.

    `on_lost` is called once, when the socket is gone, whoever closed it.
    """

    __slots__ = (
        "_deadlines",
        "_fault",
        "_has_progressed",
        "_is_read_paused",
        "_is_tls",
        "_is_write_paused",
        "_is_written",
        "_loop",
        "_on_lost",
        "_poll",
        "_progressed_at",
        "_sink",
        "_total_at",
        "_transport",
        "_unsent",
        "_waiter",
        "answer",
        "idle_until",
        "is_lost",
        "is_refused",
        "is_sent",
        "is_used",
    )

    _transport: asyncio.Transport
    _poll: select.poll
    _deadlines: Deadlines

    def __init__(
        self, loop: asyncio.AbstractEventLoop, bounds: Bounds, on_lost: "Callable[[Connection], None]", *, is_tls: bool
    ) -> None:
        # As long as the socket.
        self._loop = loop
        self._on_lost = on_lost
        self._is_tls = is_tls
        self.answer = Answer(bounds)
        self.is_lost = False
        """Closed, closing or unfit: nothing may be written any more."""
        self.is_used = False
        """It has carried a call before, so the upstream may have closed it meanwhile without our knowing."""
        self.idle_until = 0.0
        self._is_write_paused = False
        self._is_read_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], bool] | None = None
        self.is_refused = False
        """The sink wanted no more."""
        # As long as a call; set anew by `start`.
        self.is_sent = False
        self._is_written = False
        self._unsent: memoryview | None = None
        self._fault: tuple[FailureKind, str] | None = None
        self._has_progressed = False
        self._progressed_at = 0.0
        self._total_at = 0.0

    # What the pool and the exchange ask for.

    def is_ready(self) -> bool:
        """A request may be written. A used connection on which anything waits, be it the end, is closed instead."""
        # Not asked of a new connection: TLS sends tickets of its own accord behind the handshake.
        if self.is_used and not self.is_lost and self._poll.poll(0):
            self.abort()
        return not self.is_lost

    def start(self, head: bytes, body: bytes, deadlines: Deadlines, total_at: float) -> None:
        """Write the request. The connection must be at rest and not lost. `total_at` is in the loop's time."""
        self.answer.begin()
        self._fault = None
        self._deadlines = deadlines
        self._total_at = total_at
        self._progressed_at = 0.0
        self._is_written = len(head) + len(body) <= _WRITE_BYTES
        self._unsent = None if self._is_written else memoryview(body)
        transport = self._transport
        self.is_sent = not transport.is_closing()
        if self.is_sent:
            transport.write(head + body if self._is_written else head)
        if transport.is_closing():
            # The first write failed: on a bare socket the kernel took nothing of it. What TLS took we cannot know.
            self.is_sent = self.is_sent and self._is_tls
            self._is_written = False
            self.fail("died", "the connection broke as the request was written")
        elif self._unsent is not None:
            self._write_on()

    @property
    def is_fully_sent(self) -> bool:
        """Every byte of the request was taken by the kernel (or the TLS layer), seen while the connection lived."""
        return self._is_written and not self._is_write_paused

    @property
    def is_waiting_for_body(self) -> bool:
        """Nothing to `take` yet, and neither end nor failure."""
        return not self.answer.pieces and self.answer.phase < ENDED

    @property
    def has_ended(self) -> bool:
        """All of the body was taken. (A failure is raised by `take`.)"""
        return self.answer.phase == ENDED and not self.answer.pieces

    async def changed(self, sink: Callable[[bytes], bool] | None = None) -> None:
        """Wait until the head, bytes of the body, the end or a failure has come. One waiter at a time.

        With a `sink` bytes of the body wake nobody: they go to it as they come, until it returns false, which wakes and
        sets `is_refused`.
        """
        if self._waiter is not None:
            raise RuntimeError("two tasks read the same answer")
        waiter = self._waiter = self._loop.create_future()
        self._sink = sink
        self.is_refused = False
        try:
            await waiter
        finally:
            # Whoever woke us has cleared it, and by now it may be the next call's.
            if self._waiter is waiter:
                self._waiter = None
                self._sink = None

    def take(self) -> bytes:
        """All that has come of the body since, `b""` at its end. Raises the failure once what came before is taken."""
        data = self.answer.take()
        if self._is_read_paused:
            self._read_on()
        if not data and self.answer.phase == FAILED:
            raise self.failure()
        return data

    def failure(self) -> UpstreamFailure:
        kind, detail = self._fault or ("died", "closed by the gateway")
        return UpstreamFailure(kind, detail, is_sent=self.is_sent, is_fully_sent=self.is_fully_sent)

    def leave(self) -> bool:
        """End the call, wherever it stands; true if the connection can carry another, else it is closed."""
        answer = self.answer
        is_fit = answer.phase == ENDED and answer.is_clean and not self.is_lost
        answer.phase = REST
        answer.take()
        self.is_used = True
        if self._is_read_paused:
            self._read_on()
        self._wake()
        if not is_fit:
            self.abort()
        return is_fit

    def idle_s(self, idle_max_s: float) -> float:
        """How long it may stay unused: less than the upstream says it keeps it (`Keep-Alive: timeout=`)."""
        hint = self.answer.headers.get("keep-alive")
        if hint is None or (found := _KEEP_ALIVE_TIMEOUT.search(hint)) is None:
            return idle_max_s
        return min(idle_max_s, int(found[1]) - 1.0)

    def check_deadlines(self, now: float) -> None:
        """Fail the call if it is late. What happened since the last check counts as happening now: never early."""
        phase = self.answer.phase
        if phase >= ENDED:
            return
        if now >= self._total_at:
            self.fail("total_timeout", "the answer did not end in time")
        elif phase == HEAD:
            if not self.is_fully_sent:
                return
            if self._progressed_at == 0.0:
                self._progressed_at = now
            elif now - self._progressed_at >= self._deadlines.first_byte_s:
                self.fail("first_byte_timeout", "the answer did not begin in time")
        elif self._has_progressed or self._is_read_paused:
            self._has_progressed = False
            self._progressed_at = now
        elif now - self._progressed_at >= self._deadlines.idle_s:
            self.fail("idle_timeout", "the answer stopped coming")

    def fail(self, kind: FailureKind, detail: str) -> None:
        """End the call with a failure, unless it has ended, and close the connection. What came can still be taken."""
        if self.answer.phase < ENDED:
            self.answer.phase = FAILED
            self._fault = (kind, detail)
        self.abort()
        self._wake()

    def abort(self) -> None:
        """Close at once: nothing more is flushed, nothing more is read."""
        self._unsent = None
        if not self.is_lost:
            self.is_lost = True
            self._transport.abort()

    # What the loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # So that a write is "paused" exactly while bytes of it wait in user space. asyncio's TLS layer compares with
        # `>=` where sockets compare with `>`; a limit of 0 would make it pause with nothing to wait for.
        self._transport.set_write_buffer_limits(high=1 if self._is_tls else 0, low=0)
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail("died", "the connection was lost" if exc is None else f"the connection broke ({type(exc).__name__})")
        self._on_lost(self)

    def eof_received(self) -> bool:
        self.answer.end_of_file()
        self.fail("died", "the connection was closed before the answer ended")
        return False

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        phase = answer.phase
        if phase == REST or phase >= ENDED:
            # Bytes nobody asked for, of an answer to nobody. They go nowhere, and the connection with them.
            self.abort()
            return
        self._has_progressed = True
        try:
            answer.feed(data)
        except Invalid as exc:
            self.fail("invalid", str(exc))
            return
        if phase == HEAD and answer.has_head and not self.is_fully_sent:
            self._answered_early()
        if self._sink is not None and answer.pieces and not self._sink(answer.take()):
            self.is_refused = True
            self._wake()
        if answer.phase == ENDED:
            if not answer.is_clean:
                self.abort()
            self._wake()
        elif answer.pieces:
            self._wake()
            if answer.unread_bytes > _UNREAD_BYTES_MAX:
                self._is_read_paused = True
                self._transport.pause_reading()
        elif phase == HEAD and answer.has_head:
            self._wake()

    def pause_writing(self) -> None:
        self._is_write_paused = True

    def resume_writing(self) -> None:
        self._is_write_paused = False
        if self._unsent is not None:
            self._write_on()

    # The steps of these.

    def _answered_early(self) -> None:
        """An answer to half a question is delivered, but whose the bytes behind it are would be a guess."""
        self.answer.is_clean = False
        if self.answer.status >= 400:
            # A refusal: sending on would only provoke a reset that may destroy the answer.
            self._unsent = None

    def _write_on(self) -> None:
        """Hand the transport slices until it has to wait; `resume_writing` comes back here."""
        while (unsent := self._unsent) is not None and not self._is_write_paused and not self._transport.is_closing():
            self._unsent = unsent[_WRITE_BYTES:] if len(unsent) > _WRITE_BYTES else None
            self._is_written = self._unsent is None
            self._transport.write(unsent[:_WRITE_BYTES])

    def _read_on(self) -> None:
        self._is_read_paused = False
        self._has_progressed = True  # the silence so far was ours
        if not self.is_lost:
            self._transport.resume_reading()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            self._sink = None
            if not waiter.done():
                waiter.set_result(None)
