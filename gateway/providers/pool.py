"""Keep-alive connections to one provider: who may use which, for how long, and what is tried again.

A call takes a connection (an idle one, a new one, or the next that becomes free, first come first served), waits for
its gate, writes the request and gets a `PooledExchange` when the answer's head is here. The bytes are the business of
`http1` and `connection`. There are no timers per call: one coarse tick checks the deadlines of everything in flight, a
slower one closes what was idle too long, none runs while nothing is open. Nothing here reads the environment: no proxies.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.providers.base import Deadlines, FailureKind, UpstreamFailure
from gateway.providers.connection import Connection
from gateway.providers.http1 import HEAD, Bounds
from gateway.providers.origin import Origin

__all__ = ["Origin", "Pool", "PooledExchange"]

_TICK_S: Final = 0.1
"""A deadline is noticed up to two ticks late: one until the clock of a wait starts, one until its end is seen."""
_IDLE_TICK_S: Final = 5.0
_IDLE_MAX_S: Final = 55.0
"""Below the 60 s after which common servers and balancers close what was idle."""
_TRIES_MAX: Final = 4
"""Connections a call may find dead before anything was written on them."""
_CLOSE_S: Final = 2.0


class PooledExchange:
    """One answer being received; see `Exchange`. Once closed, it has no way to the connection any more."""

    __slots__ = ("_conn", "_is_fully_sent", "_pool", "headers", "status")

    def __init__(self, pool: "Pool", conn: Connection) -> None:
        self._pool = pool
        self._conn: Connection | None = conn
        self._is_fully_sent = False
        self.status = conn.answer.status
        self.headers = conn.answer.headers

    @property
    def is_fully_sent(self) -> bool:
        """The whole request has left; an upstream may well answer before."""
        return self._is_fully_sent if self._conn is None else self._conn.is_fully_sent

    async def read(self) -> bytes:
        """The next bytes of the body, `b""` at its end. One reader at a time. Raises `UpstreamFailure`."""
        conn = self._conn
        if conn is None:
            raise self._closed()
        while conn.is_waiting_for_body:
            await conn.changed()
            if self._conn is None:
                raise self._closed()
        return conn.take()

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """Hand the body to `take` as it comes, until it ends (true) or `take` returns false."""
        conn = self._conn
        if conn is None:
            raise self._closed()
        while True:
            if data := conn.take():
                if not take(data):
                    return False
            elif conn.has_ended:
                return True
            else:
                await conn.changed(take)
                if self._conn is None:
                    raise self._closed()
                if conn.is_refused:
                    return False

    def close(self) -> None:
        """Give the connection back if the answer has ended, else close it. A `read` in progress fails."""
        conn = self._conn
        if conn is not None:
            self._is_fully_sent = conn.is_fully_sent
            self._conn = None
            self._pool._take_back(conn)

    def _closed(self) -> UpstreamFailure:
        return UpstreamFailure("died", "closed by the gateway", is_sent=True, is_fully_sent=self._is_fully_sent)


class Pool:
    """Lifetime: the process, on one event loop. Opens nothing before the first call.

    `ssl_context` replaces the system's trust store for an https origin; it is used as it is.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        connections_max: int,
        answer_head_bytes_max: int = 64 * 1024,
        headers_max: int = 100,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if connections_max < 1:
            raise ValueError("a pool needs room for at least one connection")
        self._origin = origin
        self._connections_max = connections_max
        self._bounds = Bounds(answer_head_bytes_max, headers_max)
        self._ssl_context = ssl_context
        self._idle: list[Connection] = []
        self._active: set[Connection] = set()
        self._open: set[Connection] = set()
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._slots_taken = 0
        """Connections that are open, being opened, or promised to a waiter."""
        self._tick: asyncio.TimerHandle | None = None
        self._is_tick_fast = False
        self._is_closed = False
        self._emptied: asyncio.Future[None] | None = None
        self.connections_opened = 0
        """Since the start; calls divided by this is what keep-alive is worth."""

    @property
    def connections_open(self) -> int:
        return len(self._open)

    @property
    def connections_idle(self) -> int:
        return sum(not conn.is_lost for conn in self._idle)

    @property
    def exchanges_active(self) -> int:
        return len(self._active)

    async def open(
        self,
        *,
        head: bytes,
        body: bytes,
        gate: Awaitable[None],
        deadlines: Deadlines,
        retry_unanswered: bool,
        on_dial: Callable[[], None] | None = None,
    ) -> PooledExchange:
        """Send a request; returns when the head of its answer is here.

        `head` ends with the empty line and agrees with `body`. Not a byte is written before `gate` has resolved. It is
        awaited exactly once, and first: if there is no connection its outcome still comes before the failure. Only a
        cancellation while connecting leaves it unawaited (a coroutine is then closed, a future stays the caller's).

        A cancelled `open` cancels the future it waits for, as any await does: shield a gate that others wait for too.

        Raises: `UpstreamFailure`, or whatever `gate` raises (the connection is then kept).
        """
        total_at = asyncio.get_running_loop().time() + deadlines.total_s
        conn = await self._acquire_and_pass(gate, deadlines, total_at)
        written: UpstreamFailure | None = None
        try:
            for tries in range(_TRIES_MAX):
                if tries:
                    # Dead before anything was written, or closed unanswered by an upstream that may be asked again.
                    conn = await self._acquire(deadlines, total_at, is_fresh=True)
                if conn.is_ready():
                    may_repeat = retry_unanswered and conn.is_used
                    if on_dial is not None:
                        on_dial()
                    failure = await self._send(conn, head, body, deadlines, total_at)
                    if failure is None:
                        return PooledExchange(self, conn)
                    if failure.is_sent:
                        if not may_repeat or failure.kind != "died" or conn.answer.has_bytes:
                            raise failure
                        written = failure
            raise _unsent("died", "every connection was closed before anything was written")
        except UpstreamFailure as exc:
            if written is None or written is exc:
                raise
            # The second try must not hide what the first one sent.
            is_fully_sent = written.is_fully_sent or exc.is_fully_sent
            raise UpstreamFailure(exc.kind, exc.detail, is_sent=True, is_fully_sent=is_fully_sent) from exc

    async def close(self) -> None:
        """Close every connection, idle or not, and refuse what comes. Returns when the sockets are gone."""
        self._is_closed = True
        self._schedule(None)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(_unsent("unreachable", "the pool was closed"))
        self._waiters.clear()
        for conn in tuple(self._open):
            conn.fail("died", "the pool was closed")
        if self._open:
            self._emptied = asyncio.get_running_loop().create_future()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._emptied

    # One call.

    async def _acquire_and_pass(self, gate: Awaitable[None], deadlines: Deadlines, total_at: float) -> Connection:
        """A connection for this call, and the gate's leave to write on it."""
        conn = self._pop_idle()
        if conn is None:
            try:
                conn = await self._acquire(deadlines, total_at, is_fresh=False)
            except UpstreamFailure:
                await gate
                raise
            except BaseException:
                if asyncio.iscoroutine(gate):
                    gate.close()
                raise
        try:
            await gate
        except BaseException:
            self._put_back(conn)
            raise
        if asyncio.get_running_loop().time() >= total_at:
            self._put_back(conn)
            raise _unsent("total_timeout", "the time was over before the request was sent")
        return conn

    async def _send(
        self, conn: Connection, head: bytes, body: bytes, deadlines: Deadlines, total_at: float
    ) -> UpstreamFailure | None:
        """Write the request and wait for the answer's head; None if it came."""
        self._active.add(conn)
        if not self._is_tick_fast:
            self._schedule(_TICK_S)
        try:
            conn.start(head, body, deadlines, total_at)
            while conn.answer.phase == HEAD:
                await conn.changed()
        except BaseException:
            self._take_back(conn)
            raise
        if conn.answer.has_head:
            return None
        failure = conn.failure()
        self._take_back(conn)
        return failure

    def _take_back(self, conn: Connection) -> None:
        """End of a call, good or bad."""
        self._active.discard(conn)
        if conn.leave():
            self._put_back(conn)

    # Connections.

    async def _acquire(self, deadlines: Deadlines, total_at: float, *, is_fresh: bool) -> Connection:
        """An idle or new connection within the connect deadline; with `is_fresh`, one that was never used."""
        connect_at = min(total_at, asyncio.get_running_loop().time() + deadlines.connect_s)
        try:
            async with asyncio.timeout_at(connect_at):
                return await self._reach(is_fresh)
        except TimeoutError:
            raise _unsent("unreachable", "no connection within the connect deadline") from None

    async def _reach(self, is_fresh: bool) -> Connection:
        is_first = False
        while not self._is_closed:
            if not is_fresh and (conn := self._pop_idle()) is not None:
                return conn
            if self._slots_taken < self._connections_max:
                self._slots_taken += 1
                return await self._connect()
            given = await self._wait_turn(is_first)
            if given is None:
                return await self._connect()
            if not is_fresh and not given.is_lost:
                return given
            given.abort()  # frees the slot that this call then gets, being the first in line
            is_first = True
        raise _unsent("unreachable", "the pool was closed")

    async def _wait_turn(self, is_first: bool) -> Connection | None:
        """A connection somebody gave back, or None for the right to open one."""
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        if is_first:
            self._waiters.appendleft(waiter)
        else:
            self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.done() or waiter.cancelled():
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)
            elif waiter.exception() is None:
                # Given and cancelled in the same turn of the loop: it goes to the next in line.
                if (given := waiter.result()) is None:
                    self._free_slot()
                else:
                    self._put_back(given)
            raise

    async def _connect(self) -> Connection:
        """A new connection in a slot that the caller has taken. DNS is asked anew every time."""
        loop = asyncio.get_running_loop()
        is_tls = self._origin.scheme == "https"
        try:
            _, conn = await loop.create_connection(
                lambda: Connection(loop, self._bounds, self._lost, is_tls=is_tls),
                self._origin.host,
                self._origin.port,
                ssl=self._trust() if is_tls else None,
                server_hostname=self._origin.host if is_tls else None,
            )
        except ssl.SSLError as exc:
            self._free_slot()
            raise _unsent("unreachable", f"TLS failed ({type(exc).__name__})") from exc
        except (OSError, UnicodeError) as exc:
            self._free_slot()
            raise _unsent("unreachable", f"no connection ({type(exc).__name__})") from exc
        except BaseException:
            self._free_slot()
            raise
        self.connections_opened += 1
        if conn.is_lost:
            self._free_slot()
            return conn
        self._open.add(conn)
        if self._is_closed:
            conn.abort()
            raise _unsent("unreachable", "the pool was closed")
        if self._tick is None:
            self._schedule(_IDLE_TICK_S)
        return conn

    def _trust(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        return self._ssl_context

    def _pop_idle(self) -> Connection | None:
        """The one used last, as it is the least likely to have been closed meanwhile."""
        if not self._idle:
            return None
        now = asyncio.get_running_loop().time()
        while self._idle:
            conn = self._idle.pop()
            if now < conn.idle_until and not conn.is_lost:
                return conn
            conn.abort()
        return None

    def _put_back(self, conn: Connection) -> None:
        """Let the next in line use it, or keep it."""
        if conn.is_lost:
            return
        if self._is_closed:
            conn.abort()
        elif not self._hand_over(conn):
            conn.idle_until = asyncio.get_running_loop().time() + conn.idle_s(_IDLE_MAX_S)
            self._idle.append(conn)

    def _hand_over(self, given: Connection | None) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(given)
                return True
        return False

    def _free_slot(self) -> None:
        if not self._hand_over(None):
            self._slots_taken -= 1

    def _lost(self, conn: Connection) -> None:
        """A socket is gone. One that was lost while connecting was never ours; `_connect` frees its slot."""
        if conn not in self._open:
            return
        self._open.discard(conn)
        with contextlib.suppress(ValueError):
            self._idle.remove(conn)
        self._free_slot()
        if self._emptied is not None and not self._open and not self._emptied.done():
            self._emptied.set_result(None)

    # Time.

    def _schedule(self, delay_s: float | None) -> None:
        """The next tick in `delay_s`, in place of any other; None for no tick."""
        if self._tick is not None:
            self._tick.cancel()
        self._is_tick_fast = delay_s == _TICK_S
        self._tick = None if delay_s is None else asyncio.get_running_loop().call_later(delay_s, self._check_everything)

    def _check_everything(self) -> None:
        now = asyncio.get_running_loop().time()
        for conn in self._active:
            conn.check_deadlines(now)
        for conn in [conn for conn in self._idle if now >= conn.idle_until]:
            self._idle.remove(conn)
            conn.abort()
        self._schedule(_TICK_S if self._active else _IDLE_TICK_S if self._open else None)


def _unsent(kind: FailureKind, detail: str) -> UpstreamFailure:
    return UpstreamFailure(kind, detail, is_sent=False, is_fully_sent=False)
