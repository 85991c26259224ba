"""An upstream that writes exactly the bytes a test gives it, on raw sockets, and what the pool's tests share."""

import asyncio
import contextlib
import functools
import inspect
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast

import pytest
import uvloop

from gateway.providers.base import Deadlines, UpstreamFailure
from gateway.providers.pool import Origin, Pool, PooledExchange

HANG_S = 10
PATIENT = Deadlines(connect_s=HANG_S, first_byte_s=HANG_S, idle_s=HANG_S, total_s=HANG_S)
OK = b"HTTP/1.1 200 OK\r\n"


def answer(body: bytes, *headers: bytes) -> bytes:
    """A good answer with a content-length."""
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"%s%scontent-length: %d\r\n\r\n%s" % (OK, lines, len(body), body)


def chunked(*pieces: bytes, trailer: bytes = b"") -> bytes:
    """A good answer in chunks."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return OK + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"


class Peer:
    """The upstream's end of one connection. `number` counts from 1."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """The body of the next request. Raises EOFError if the connection ends instead."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return await self.reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        if self.writer.is_closing():
            raise ConnectionResetError  # as asyncio does; uvloop has another opinion
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> bytes:
        """Wait for the other side to close; what it sent before that."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    def stop_reading(self) -> None:
        cast(asyncio.Transport, self.writer.transport).pause_reading()

    def read_on(self) -> None:
        cast(asyncio.Transport, self.writer.transport).resume_reading()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Close with an RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


T = TypeVar("T")
Script = Callable[[Peer], Awaitable[None]]


class Upstream:
    """`async with Upstream(script)`: the script is run for every connection; what goes wrong in it fails the test."""

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._script = script
        self._tls = tls
        self._host = host
        self._running: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._failures: list[BaseException] = []
        self.connections = 0
        """Accepted ones, those that never said anything included."""

    async def __aenter__(self) -> "Upstream":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls, limit=2**22)
        port = self._server.sockets[0].getsockname()[1]
        self.origin = Origin.parse(f"{'https' if self._tls else 'http'}://{self._host}:{port}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        if self._failures:
            raise self._failures[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await self._script(Peer(self.connections, reader, writer))
        except (EOFError, ConnectionError, asyncio.CancelledError):
            pass  # the other side left, or the test is over
        except BaseException as exc:
            self._failures.append(exc)
        finally:
            self._running.discard(task)
            writer.close()


def says(data: bytes) -> Script:
    """Give every request the same answer."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(data)

    return script


@contextlib.asynccontextmanager
async def pooled(
    script: Script, connections_max: int = 8, *, hang_s: float | None = HANG_S
) -> AsyncIterator[tuple[Pool, Upstream]]:
    """A scripted upstream and a pool on it. Whatever the test did, no call may be left and every socket must end."""
    async with asyncio.timeout(hang_s), Upstream(script) as upstream:
        pool = Pool(upstream.origin, connections_max=connections_max)
        try:
            yield pool, upstream
            assert pool.exchanges_active == 0
        finally:
            await pool.close()
        assert pool.connections_open == 0


async def passed() -> None:
    """A gate that is open."""


async def begin(
    pool: Pool,
    body: bytes = b"{}",
    *,
    gate: Awaitable[None] | None = None,
    deadlines: Deadlines = PATIENT,
    retry_unanswered: bool = False,
) -> PooledExchange:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: upstream\r\ncontent-length: %d\r\n\r\n" % len(body)
    return await pool.open(
        head=head, body=body, gate=gate or passed(), deadlines=deadlines, retry_unanswered=retry_unanswered
    )


async def rest(exchange: PooledExchange) -> bytes:
    """The body up to its end."""
    pieces = []
    while piece := await exchange.read():
        pieces.append(piece)
    return b"".join(pieces)


async def call(pool: Pool, body: bytes = b"{}", **how: Any) -> bytes:
    """One whole call; the answer's body."""
    exchange = await begin(pool, body, **how)
    try:
        return await rest(exchange)
    finally:
        exchange.close()


def started(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    return asyncio.get_running_loop().create_task(work)


async def failure_of(work: Awaitable[Any]) -> UpstreamFailure:
    with pytest.raises(UpstreamFailure) as caught:
        await work
    return caught.value


async def until(claim: Callable[[], bool]) -> None:
    """Let the loop turn until the claim holds."""
    async with asyncio.timeout(HANG_S):
        while not claim():
            await asyncio.sleep(0.001)


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_loops(*names: str) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Callable[..., None]]:
    """Run a test under each of these loops; the server uses uvloop, asyncio's own is the fallback."""

    def decorate(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @pytest.mark.parametrize("loop", names)
        @functools.wraps(test)
        def run(loop: str, **arguments: Any) -> None:
            with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                runner.run(test(**arguments))

        given = inspect.signature(test)
        extra = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
        shown = cast(Any, run)
        shown.__signature__ = given.replace(parameters=[*given.parameters.values(), extra])
        del shown.__wrapped__  # or pytest would take it for a coroutine
        return cast(Callable[..., None], run)

    return decorate


on_both_loops = on_loops("asyncio", "uvloop")
