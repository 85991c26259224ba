"""How an answer is passed on while it comes: the contract between the pipeline and the shapes an answer can have.

A relay lives for one answer. It takes bytes as the upstream sent them and says what may go to the client now, holds back
what ends the answer until the call is settled, and knows what the answer consumed. Any split of the same bytes gives the
same output and the same usage.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from gateway.errors import GatewayError
from gateway.metering import Metered
from gateway.responder import Header

__all__ = ["EVENT_STREAM", "EventTooLarge", "Guard", "Relay"]

EVENT_STREAM: Sequence[Header] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
"""The head of every event stream, whatever the provider sent."""


class EventTooLarge(Exception):
    """One event is larger than the relay may buffer."""


class Guard(NamedTuple):
    """What keeps a relay within bounds, and the provider's secrets out of it."""

    event_bytes_max: int
    redact: Callable[[bytes], bytes]
    """Applied to error events and to whatever quotes `secret`."""
    secret: bytes = b""
    """The provider key; empty where there is none."""


class Relay(Protocol):
    @property
    def head(self) -> Sequence[Header]:
        """Content type and what else the client is told before the first byte."""
        ...

    @property
    def has_error_event(self) -> bool:
        """The provider reported an error inside the stream. It has been passed on, or is held back."""
        ...

    @property
    def is_done(self) -> bool:
        """The terminal event was seen: nothing that follows concerns the client."""
        ...

    @property
    def is_complete(self) -> bool:
        """The answer said all it had to say; asked at its end."""
        ...

    def feed(self, data: bytes) -> bytes:
        """What may go to the client now. Raises `EventTooLarge`."""
        ...

    def finish(self, *, is_cut: bool = False) -> bytes:
        """What the end of the upstream's body releases. `is_cut`: it was no proper end; what is incomplete is dropped."""
        ...

    def held_back(self) -> bytes:
        """The terminal event and what followed it, to be sent once the call is settled."""
        ...

    def metered(self, *, is_partial: bool) -> Metered:
        """What was consumed: the provider's report where it can be true, else the written rule, by what was relayed."""
        ...

    def error_event(self, error: GatewayError) -> bytes | None:
        """How the client is told in the middle of the answer; None where only cutting the connection can tell."""
        ...
