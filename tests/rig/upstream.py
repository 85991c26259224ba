"""A fake provider on raw sockets, scripted per request, that keeps its own record and its own bill.

A test registers a `Script`: a list of actions and a marker. The request whose body or path contains the marker is answered
by these actions, byte for byte; a script that is asked twice plays twice. The server runs on a thread of its own, so that
tests may block.
"""

import asyncio
import contextlib
import itertools
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.rig import wire
from tests.rig.waiting import eventually

_MARKER = re.compile(rb"rig-script-\d+-end")
_LINGER_RESET = struct.pack("ii", 1, 0)
_STOP_WITHIN_S = 10.0


@dataclass(eq=False)
class Request:
    """One request as it came in."""

    connection: int
    line: str
    headers: list[tuple[str, str]]
    body: bytes
    gone: threading.Event = field(default_factory=threading.Event)
    """The gateway closed the connection while the script was playing."""
    played: threading.Event = field(default_factory=threading.Event)
    """The script came to its end, one way or the other."""
    sent: int = 0
    """Bytes of the answer handed to the socket."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        values = self.header_values(name)
        return values[-1] if values else None

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class _Ended(Exception):
    """An action ended the connection; nothing is wrong."""


class _Play:
    """One script being played to one connection."""

    def __init__(self, request: Request, writer: asyncio.StreamWriter, peer_left: asyncio.Event) -> None:
        self.request = request
        self.writer = writer
        self.peer_left = peer_left

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        self.request.sent += len(data)

    async def unless_left(self, waiting: Any) -> None:
        """Waits, but no longer than the gateway keeps the connection."""
        wait = asyncio.get_running_loop().create_task(waiting)
        left = asyncio.get_running_loop().create_task(self.peer_left.wait())
        try:
            await asyncio.wait({wait, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wait.cancel()
            left.cancel()
        if self.peer_left.is_set():
            raise _Ended


class Gate:
    """A point in a script where it waits until the test says `open()`. Opened once, it stays open."""

    def __init__(self) -> None:
        self.is_reached = threading.Event()
        self._is_open = threading.Event()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._lock = threading.Lock()

    def open(self) -> None:
        with self._lock:
            self._is_open.set()
            waiters, self._waiters = self._waiters, []
        for loop, waiter in waiters:
            loop.call_soon_threadsafe(waiter.set)

    async def play(self, play: _Play) -> None:
        waiter = asyncio.Event()
        with self._lock:
            if self._is_open.is_set():
                waiter.set()
            else:
                self._waiters.append((asyncio.get_running_loop(), waiter))
        self.is_reached.set()
        await play.unless_left(waiter.wait())


@dataclass(frozen=True)
class Send:
    data: bytes

    async def play(self, play: _Play) -> None:
        await play.send(self.data)


@dataclass(frozen=True)
class Pause:
    """Only where time itself is the subject of the test."""

    seconds: float

    async def play(self, play: _Play) -> None:
        await play.unless_left(asyncio.sleep(self.seconds))


@dataclass(frozen=True)
class Drip:
    """`piece` every `interval_s` until the gateway hangs up: a peer that is never silent and never done."""

    piece: bytes
    interval_s: float

    async def play(self, play: _Play) -> None:
        while True:
            await play.send(self.piece)
            await play.unless_left(asyncio.sleep(self.interval_s))


@dataclass(frozen=True)
class Stall:
    """Says nothing more and keeps the connection open until the gateway closes it."""

    async def play(self, play: _Play) -> None:
        await play.unless_left(asyncio.Event().wait())


@dataclass(frozen=True)
class Close:
    async def play(self, play: _Play) -> None:
        raise _Ended


@dataclass(frozen=True)
class Reset:
    """Ends the connection with RST instead of FIN."""

    async def play(self, play: _Play) -> None:
        sock = play.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        play.writer.transport.abort()
        raise _Ended


Action = Send | Pause | Drip | Stall | Close | Reset | Gate


class Script:
    """What is answered to the requests that carry `marker`, and what came of it."""

    def __init__(self, number: int, actions: Sequence[Action] | Callable[[Request], Sequence[Action]]) -> None:
        self.marker = f"rig-script-{number}-end"
        self.requests: list[Request] = []
        self._actions = actions

    def actions_for(self, request: Request) -> Sequence[Action]:
        return self._actions(request) if callable(self._actions) else self._actions

    @property
    def request(self) -> Request:
        """The only request that came; more or none fails the test."""
        assert len(self.requests) == 1, f"{len(self.requests)} requests reached the upstream instead of one"
        return self.requests[0]

    def wait_for_request(self) -> Request:
        return eventually(lambda: self.requests[-1] if self.requests else None, "a request at the upstream")


class Upstream:
    """Listens on 127.0.0.1 at `port` from construction to `close()`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.complaints: list[str] = []
        """What no decent client does: requests nobody scripted, bytes before the answer ended."""
        self._scripts: dict[bytes, Script] = {}
        self._numbers = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None
        self.port = 0
        self._thread = threading.Thread(target=self._run, name="upstream", daemon=True)
        self._thread.start()
        assert self._started.wait(_STOP_WITHIN_S), "the fake upstream did not start"

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    # What tests register

    def script(self, *actions: Action) -> Script:
        return self._add(actions)

    def answer_with(self, actions: Callable[[Request], Sequence[Action]]) -> Script:
        """A script made anew for each request."""
        return self._add(actions)

    def reply(self, body: object, status: int = 200, headers: wire.Headers = ()) -> Script:
        """A whole JSON answer in one write."""
        return self._add([Send(wire.reply(body, status, headers))])

    def stream(self, *events: bytes, headers: wire.Headers = ()) -> Script:
        """A chunked event stream, one write an event, ended properly."""
        sends = [Send(wire.framed(event)) for event in events]
        return self._add([Send(wire.stream_head(headers)), *sends, Send(wire.LAST_CHUNK)])

    def _add(self, actions: Sequence[Action] | Callable[[Request], Sequence[Action]]) -> Script:
        script = Script(next(self._numbers), actions)
        self._scripts[script.marker.encode()] = script
        return script

    def close(self) -> None:
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_STOP_WITHIN_S)
        assert not self._thread.is_alive(), "the fake upstream did not stop"

    # The server

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        handlers: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._serve_connection(reader, writer))
            handlers.add(task)
            task.add_done_callback(handlers.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=1024, limit=2**26)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in set(handlers):
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._serve_request(number, reader, writer):
                pass
        writer.transport.abort() if writer.is_closing() else writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _serve_request(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """True when the connection may be used again."""
        request = await _read_request(number, reader)
        self.requests.append(request)
        # A request without a body names something by its path.
        found = _MARKER.search(request.body) or _MARKER.search(request.line.encode())
        script = self._scripts.get(found.group()) if found else None
        if script is None:
            self.complaints.append(f"nobody scripted {request.line}")
            writer.write(wire.reply({"error": {"message": "unscripted"}}, 418))
            return False
        script.requests.append(request)
        return await self._play(script, request, reader, writer)

    async def _play(
        self, script: Script, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        peer_left = asyncio.Event()
        early = bytearray()
        watcher = self._loop.create_task(_watch(reader, peer_left, request, early))
        try:
            play = _Play(request, writer, peer_left)
            for action in script.actions_for(request):
                await action.play(play)
        except (_Ended, OSError):
            return False
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            request.played.set()
        if early:
            self.complaints.append("bytes came before the answer had ended")
            return False
        return not peer_left.is_set()


async def _watch(reader: asyncio.StreamReader, left: asyncio.Event, request: Request, early: bytearray) -> None:
    try:
        data = await reader.read(1)
    except OSError:
        data = b""
    if data:
        early += data
    else:
        request.gone.set()
        left.set()


async def _read_request(number: int, reader: asyncio.StreamReader) -> Request:
    raw = await reader.readuntil(b"\r\n\r\n")
    line, *fields = raw[:-4].decode("latin-1").split("\r\n")
    headers = [(name.strip(), value.strip()) for name, _, value in (field.partition(":") for field in fields)]
    request = Request(number, line, headers, b"")
    if request.header("transfer-encoding") == "chunked":
        request.body = await _read_chunks(reader)
    else:
        request.body = await reader.readexactly(int(request.header("content-length") or 0))
    return request


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body
