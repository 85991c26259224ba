"""A responder that also keeps what it passes on: for answers that will be given again.

For a call with an `Idempotency-Key` the client may leave: the call goes on as if it read, because the repetition will.
"""

from collections.abc import Awaitable, Callable

from gateway.responder import Header, Responder

__all__ = ["Recorder", "Room"]

BeforeEnd = Callable[["Recorder"], Awaitable[None]]


class Room:
    """What all recorders of a process may keep together. Lifetime: the process."""

    __slots__ = ("bytes_left",)

    def __init__(self, bytes_max: int) -> None:
        self.bytes_left = bytes_max


class Recorder:
    """Lifetime: one answer. Keeps up to `bytes_max` bytes of its body, as far as there is `room`; of a larger one, nothing.

    `before_end` is awaited once, when all is known and the last bytes have not left. Whoever made it calls `close`.
    """

    __slots__ = (
        "_before_end",
        "_bytes_max",
        "_inner",
        "_is_whole",
        "_outlives",
        "_parts",
        "_room",
        "_size",
        "headers",
        "status",
    )

    def __init__(
        self,
        inner: Responder,
        *,
        room: Room,
        bytes_max: int,
        outlives_client: bool = False,
        before_end: BeforeEnd | None = None,
    ) -> None:
        self._inner = inner
        self._room = room
        self._bytes_max = bytes_max
        self._outlives = outlives_client
        self._before_end = before_end
        self._parts: list[bytes] = []
        self._size = 0
        """Of `_parts`: taken from the room."""
        self._is_whole = True
        self.status = 0
        self.headers: list[Header] = []

    @property
    def body(self) -> bytes | None:
        """What was passed on so far; None where it is larger than the bound, or than the room that was left."""
        return b"".join(self._parts) if self._is_whole else None

    @property
    def is_started(self) -> bool:
        return self._inner.is_started

    @property
    def is_gone(self) -> bool:
        return not self._outlives and self._inner.is_gone

    @property
    def is_stalled(self) -> bool:
        return self._inner.is_stalled and not self._inner.is_gone

    async def send(self, status: int, headers: list[Header], body: bytes) -> None:
        self.status, self.headers = status, list(headers)
        self._keep(body, room=0)  # it is there anyway
        await self._ends()
        await self._inner.send(status, headers, body)

    def start(self, status: int, headers: list[Header]) -> None:
        self.status, self.headers = status, list(headers)
        self._inner.start(status, headers)

    def write(self, data: bytes) -> None:
        self._keep(data, room=len(data))
        self._inner.write(data)

    async def drain(self) -> None:
        await self._inner.drain()

    async def end(self, data: bytes = b"") -> None:
        self._keep(data, room=len(data))
        await self._ends()
        await self._inner.end(data)

    def on_gone(self, callback: Callable[[], None]) -> None:
        if not self._outlives:
            self._inner.on_gone(callback)

    def abort(self) -> None:
        self._inner.abort()

    def close(self) -> None:
        """Let go of what was kept. May be called twice."""
        self._parts.clear()
        self._room.bytes_left += self._size
        self._size = 0
        self._is_whole = False

    def _keep(self, data: bytes, *, room: int) -> None:
        if not self._is_whole:
            return
        if self._size + len(data) > self._bytes_max or room > self._room.bytes_left:
            self.close()
            return
        self._size += room
        self._room.bytes_left -= room
        self._parts.append(data)

    async def _ends(self) -> None:
        before_end, self._before_end = self._before_end, None
        if before_end is not None:
            await before_end(self)
        self.close()  # a slow client may take its time for the last bytes
