"""The server's edge: uvicorn's HTTP protocol with the bounds it lacks, and a shorter way out for the hot path.

A connection that says nothing, dribbles its headers or its body is closed by a deadline; a head too large is answered
431; a request without exactly one sane Host, or one that asks for another host in its target, is answered 400. Answers
are OpenAI-shaped JSON like all others, since a client's SDK reads them.
"""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.calls import new_request_id
from gateway.errors import error_body
from gateway.logs import log_request
from gateway.responder import Header

HEAD_BYTES_MAX = 65_536
HEADERS_MAX = 128
CYCLE = "gateway.cycle"
"""Where a request's scope has what `FrontResponder` needs."""

_LINGER_S = 1
"""How long a connection whose last answer did not say that it would end waits for one more request, once the port is closed."""
_REST_WITHIN_S = 2
"""How long a client that was answered before all of its request had come may go on sending it."""
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")


class _RefusedHead(Exception):
    """Stops the parser; what is answered stands in `_refusal`."""


class FrontState(ServerState):
    """What the connections of a server have in common."""

    is_leaving = False
    """Each answer ends its connection, and says so."""


class FrontProtocol(HttpToolsProtocol):
    """Its deadlines are set on a subclass made by `front_protocol`. `stall_timeout_s` is how long a client may leave what
    was sent unread; it also ends what `transport.close` would wait for ever to flush."""

    header_timeout_s: float
    body_timeout_s: float
    stall_timeout_s: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._state = cast(FrontState, self.server_state)
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        """Whose answer is being written. With pipelined requests waiting it is not `self.cycle`, which is the last one."""
        self._phase: str | None = "headers"
        self._timed_phase: str | None = None
        self._head_bytes = 0
        self._refusal = (400, "invalid_request", "The request is not valid HTTP/1.1.")
        self._is_over = False
        """The last answer is given: what still comes is not looked at."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm("headers")

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._end_stall()
        self._unset_keepalive_if_required()  # also after an error, where uvicorn would let it hold the connection
        super().connection_lost(exc)
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
            responder: FrontResponder | None = getattr(running, "responder", None)
            if responder is not None:
                responder.left()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._watch_stall()

    def resume_writing(self) -> None:
        self._end_stall()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        if self._phase != "body":
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_over:
            return
        if self.transport.is_closing():
            self._disarm()
        elif self._phase is None:
            if self.cycle is None or self.cycle.response_complete:
                self._arm("headers")  # stray line ends, which uvicorn took for a request and stopped its timer for
            elif self._timed_phase is not None:
                self._disarm()
        elif self._phase == "headers" and self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(431, "headers_too_large", "The request's headers are too large.")
            self.send_400_response("")
        elif self._phase != self._timed_phase:
            self._arm(self._phase)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = "headers"

    def on_headers_complete(self) -> None:
        self._phase = "body"
        self._check_head()
        self._head_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._phase = None
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if self._state.is_leaving and not self.pipeline:
            cycle.keep_alive = False
        cycle.scope[CYCLE] = cycle  # type: ignore[literal-required]
        super()._start_asgi_task(cycle, app)

    def announce_end(self) -> None:
        """The answer under way is the connection's last, and says so if it has not begun; else the next one will."""
        running = self._running
        if running is not None and not running.response_started and not self.pipeline:
            running.keep_alive = False

    def shutdown(self) -> None:
        """The port is closed: the connection ends, but not before what its client may have sent was answered, and read."""
        if self._is_over:
            return  # it ends by itself, and its client may not have the answer yet
        running = self._running
        is_answering = running is not None and not running.response_complete
        if is_answering or self.pipeline or self._head_bytes:
            self.timeout_keep_alive = _LINGER_S
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """The refusal as JSON; uvicorn calls this for whatever the parser could not accept."""
        self._disarm()
        running = self._running
        if running is not None and not running.response_complete:
            if running is not self.cycle or running.response_started:
                # Another answer is on its way on this connection: nothing may be written into the middle of it.
                self.transport.abort()
                return
            running.disconnected = True
            running.waiting_for_100_continue = False  # whoever reads on would have it written behind the last answer
            running.message_event.set()
        status, code, message = self._refusal
        log_request("request_rejected", {"status": status, "code": code})
        body = error_body(message, "invalid_request_error", code)
        head = (
            b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %s\r\nconnection: close\r\n\r\n"
            % (len(body), new_request_id().encode())
        )
        self.transport.write(STATUS_LINE[status] + head + body)
        self.end(is_complete=False)

    def end(self, *, is_complete: bool) -> None:
        """The connection's last answer is given, to a request that `is_complete` or not.

        Closed with bytes of a request unread, a connection is reset, and the answer may be lost to a client that is still
        sending. So it is told that no more will come, and its rest is taken and thrown away for a while (RFC 9112, 9.6).
        """
        if is_complete or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._is_over = True
        self._disarm()
        with suppress(OSError):
            self.transport.write_eof()  # the client may have left while the answer was written
        self.flow.resume_reading()
        self._deadline = self.loop.call_later(_REST_WITHIN_S, self.transport.close)

    def _check_head(self) -> None:
        if len(self.headers) > HEADERS_MAX or (
            self._head_bytes > HEAD_BYTES_MAX and self._size_of_head() > HEAD_BYTES_MAX
        ):
            self._refuse(431, "headers_too_large", "The request's headers are too large.")
            raise _RefusedHead
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            raise _RefusedHead
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]) or not self.url.startswith(b"/"):
            self._refuse(400, "invalid_host", "The request needs one Host header and a path as its target.")
            raise _RefusedHead

    def _size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._refusal = (status, code, message)

    def _arm(self, phase: str) -> None:
        self._disarm()
        self._timed_phase = phase
        seconds = self.header_timeout_s if phase == "headers" else self.body_timeout_s
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        self._timed_phase = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _watch_stall(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self.stall_timeout_s, self._check_stall, left)

    def _check_stall(self, left_before: int) -> None:
        """A client that reads slowly may go on; one that has read nothing since is gone."""
        if self.transport.get_write_buffer_size() < left_before:
            self._watch_stall()
        else:
            self._stall = None
            self.transport.abort()

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self._timed_phase == "body" or self._head_bytes:
            self._refuse(408, "request_timeout", "The request did not arrive in time.")
            self.send_400_response("")
        elif not self.transport.is_closing():
            self.transport.close()


def front_protocol(*, header_timeout_s: float, body_timeout_s: float, stall_timeout_s: float) -> type[FrontProtocol]:
    """The protocol class for uvicorn's `http` option, with these deadlines in seconds."""
    bounds = {
        "header_timeout_s": header_timeout_s,
        "body_timeout_s": body_timeout_s,
        "stall_timeout_s": stall_timeout_s,
    }
    return type("BoundedFrontProtocol", (FrontProtocol,), bounds)


class FrontResponder:
    """The `Responder` over uvicorn's request cycle, without ASGI messages between.

    It does what `RequestResponseCycle.send` does, in one write per answer and without looking at every header again:
    what the gateway answers with is built by the gateway, and checked here as a whole for line breaks. It also hears of
    a leaving client from the connection itself, so that no call needs a task that watches.
    """

    __slots__ = ("_cycle", "_on_gone", "is_started")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._on_gone: Callable[[], None] | None = None
        self.is_started = False
        cycle.responder = self  # type: ignore[attr-defined]

    @property
    def is_gone(self) -> bool:
        return self._cycle.disconnected

    @property
    def is_stalled(self) -> bool:
        return self._cycle.flow.write_paused

    async def send(self, status: int, headers: list[Header], body: bytes) -> None:
        self.is_started = True
        await self.drain()
        if not self._cycle.disconnected:
            headers.append((b"content-length", b"%d" % len(body)))
            self._cycle.transport.write(self._head(status, headers) + body)
            self._complete()

    def start(self, status: int, headers: list[Header]) -> None:
        self.is_started = True
        if not self._cycle.disconnected:
            self._cycle.transport.write(self._head(status, [*headers, (b"transfer-encoding", b"chunked")]))

    def write(self, data: bytes) -> None:
        if not self._cycle.disconnected:
            self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def drain(self) -> None:
        cycle = self._cycle
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()

    async def end(self, data: bytes = b"") -> None:
        await self.drain()
        if not self._cycle.disconnected:
            self._cycle.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n")
            self._complete()

    def on_gone(self, callback: Callable[[], None]) -> None:
        self._on_gone = callback
        if self._cycle.disconnected:
            self.left()

    def left(self) -> None:
        """The connection is gone before the answer was complete."""
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            callback()

    def abort(self) -> None:
        self._on_gone = None
        self._cycle.transport.abort()

    def _head(self, status: int, headers: list[Header]) -> bytes:
        cycle = self._cycle
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        if not cycle.keep_alive:
            headers = [*headers, (b"connection", b"close")]
        elif (b"connection", b"close") in headers:
            cycle.keep_alive = False
        lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
        head = b"%b%b\r\n" % (STATUS_LINE[status], b"".join(lines))
        if head.count(b"\n") != len(lines) + 2 or head.count(b"\r") != len(lines) + 2:
            raise ValueError("a header with a line break")
        return head

    def _complete(self) -> None:
        cycle = self._cycle
        self._on_gone = None
        # They hold each other, and only the garbage collector would find out that nobody else does.
        cycle.responder = None  # type: ignore[attr-defined]
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            # Asked for here: a cycle that knew its connection would be held by it, and hold it.
            protocol = cast(FrontProtocol, cycle.transport.get_protocol())
            protocol.end(is_complete=not cycle.more_body)
        cycle.on_response()
