"""How the pipeline talks to a client, without knowing the server: one answer, whole or in pieces.

A client that left swallows everything silently: `is_gone` and `on_gone` say so.
"""

from collections.abc import Callable
from typing import Protocol

Header = tuple[bytes, bytes]


class Responder(Protocol):
    @property
    def is_started(self) -> bool:
        """A status has left: from here on errors can only be events of the stream."""
        ...

    @property
    def is_gone(self) -> bool: ...

    @property
    def is_stalled(self) -> bool:
        """The client does not read what was sent: before more is written, `drain` has to be awaited."""
        ...

    async def send(self, status: int, headers: list[Header], body: bytes) -> None:
        """A whole answer."""
        ...

    def start(self, status: int, headers: list[Header]) -> None:
        """The head of an answer whose length is not known."""
        ...

    def write(self, data: bytes) -> None:
        """A piece of it."""
        ...

    async def drain(self) -> None:
        """Wait until the client has read enough, or has left."""
        ...

    async def end(self, data: bytes = b"") -> None: ...

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call `callback` once if the client leaves before the answer is complete, or if it has left already."""
        ...

    def abort(self) -> None:
        """Cut the connection: the client has had its time and does not read."""
        ...
