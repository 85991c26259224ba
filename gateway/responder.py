"""How the pipeline talks to a client, without knowing the server: one answer, whole or in pieces.

`AsgiResponder` is the only implementation today; the seam exists so that a faster edge needs no change to the story.
A client that left swallows everything silently: `is_gone` and `on_gone` say so.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from gateway.tasks import spawn

Header = tuple[bytes, bytes]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Responder(Protocol):
    @property
    def is_started(self) -> bool:
        """A status has left: from here on errors can only be events of the stream."""
        ...

    @property
    def is_gone(self) -> bool: ...

    async def send(self, status: int, headers: list[Header], body: bytes) -> None:
        """A whole answer."""
        ...

    async def start(self, status: int, headers: list[Header]) -> None: ...

    async def write(self, data: bytes) -> None:
        """Waits while the client is slow to read."""
        ...

    async def end(self, data: bytes = b"") -> None: ...

    def on_gone(self, callback: Callable[[], None], *, after_s: float = 0.0) -> None:
        """Watch for the client leaving, beginning `after_s` from now; call once per call."""
        ...

    def abort(self) -> None:
        """Cut the connection: the client has had its time and does not read."""
        ...

    def close(self) -> None:
        """End the watch. The answer is over."""
        ...


class AsgiResponder:
    __slots__ = ("_abort", "_callback", "_is_closed", "_receive", "_send", "_timer", "is_gone", "is_started")

    def __init__(self, receive: Receive, send: Send, abort: Callable[[], None] | None = None) -> None:
        self._receive = receive
        self._send = send
        self._abort = abort
        self._callback: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self.is_started = False
        self.is_gone = False

    async def send(self, status: int, headers: list[Header], body: bytes) -> None:
        headers.append((b"content-length", b"%d" % len(body)))
        self.is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: list[Header]) -> None:
        self.is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": data})

    def on_gone(self, callback: Callable[[], None], *, after_s: float = 0.0) -> None:
        self._callback = callback
        if after_s:
            self._timer = asyncio.get_running_loop().call_later(after_s, self._watch)
        else:
            self._watch()

    def abort(self) -> None:
        self.is_gone = True
        if self._abort is not None:
            self._abort()

    def close(self) -> None:
        # The watcher itself ends with the answer: `receive` returns once the response is complete.
        self._is_closed = True
        self._callback = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        self._timer = None
        spawn(self._wait_for_disconnect(), "watch-client")

    async def _wait_for_disconnect(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
        if self._is_closed:
            return
        self.is_gone = True
        if self._callback is not None:
            self._callback()
