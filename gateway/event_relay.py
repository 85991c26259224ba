"""Relays of event streams whose events name their own type, and of bytes that are no events at all.

`EventRelay` is for Responses, Messages, images and transcripts: each event is JSON with a `type`, and one of a few types
ends the stream. A subclass says which, reads usage and words off the events, and meters. What is relayed is the
provider's bytes, event for event; from the terminal one on they are held back. `ByteRelay` is for speech.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import orjson

from gateway.errors import GatewayError
from gateway.metering import Metered
from gateway.relay import EVENT_STREAM, EventTooLarge, Guard
from gateway.responder import Header
from gateway.streaming import is_whole, last_boundary, parse_payload, payload_of, split_events

__all__ = ["ByteRelay", "EventRelay", "event"]


def event(type: str, fields: dict[str, Any]) -> bytes:
    """One event as the typed streams write them: its type on a line of its own, and in its data."""
    return b"event: %s\ndata: %s\n\n" % (type.encode(), orjson.dumps({"type": type, **fields}))


class EventRelay(ABC):
    """Lifetime: one answer. A `Relay` but for `metered`, which a subclass adds, as well as `error_event` where an error
    reads otherwise than `data: {"error": ...}`."""

    __slots__ = ("_guard", "_held", "_is_done", "_tail", "has_error_event")

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._tail = bytearray()
        self._held: list[bytes] = []
        self._is_done = False
        self.has_error_event = False

    @abstractmethod
    def note(self, type: str, message: dict[str, Any]) -> bool:
        """Look at one event: count what it says, keep the usage it reports. True if it ends the stream.

        Called in their order, for every event whose data is a JSON object. Sets `has_error_event` for one that reports an
        error, whose text then passes through the guard. Must not raise, whatever the provider sent.
        """

    @abstractmethod
    def metered(self, *, is_partial: bool) -> Metered: ...

    @property
    def head(self) -> Sequence[Header]:
        return EVENT_STREAM

    @property
    def is_done(self) -> bool:
        return self._is_done

    @property
    def is_complete(self) -> bool:
        return self._is_done and not self.has_error_event

    def feed(self, data: bytes) -> bytes:
        tail = self._tail
        tail += data
        cut = last_boundary(tail, max(0, len(tail) - len(data) - 3))
        if not cut:
            if len(tail) > self._guard.event_bytes_max:
                raise EventTooLarge
            return b""
        block = bytes(tail[:cut])
        del tail[:cut]
        return self._take(block)

    def finish(self, *, is_cut: bool = False) -> bytes:
        """A last event without its blank line counts if it is the terminal one."""
        if not self._tail:
            return b""
        block = bytes(self._tail)
        self._tail.clear()
        was_done = self._is_done
        released = self._take(block)
        if is_whole(block):
            return released
        if self._is_done and not was_done:
            self._held.append(b"\n\n")
        return released if self._is_done else b""

    def held_back(self) -> bytes:
        return b"".join(self._held)

    def error_event(self, error: GatewayError) -> bytes | None:
        return b"data: " + error.body() + b"\n\n"

    def _take(self, block: bytes) -> bytes:
        ready: list[bytes] = []
        for one in split_events(block):
            passed = one
            message = parse_payload(payload) if (payload := payload_of(one)) else None
            if message is not None:
                had_error = self.has_error_event
                kind = message.get("type")
                if self.note(kind if isinstance(kind, str) else "", message):
                    self._is_done = True
                if self.has_error_event and not had_error:
                    passed = self._guard.redact(passed)
            if self._guard.secret and self._guard.secret in passed:
                passed = self._guard.redact(passed)
            (self._held if self._is_done else ready).append(passed)
        return b"".join(ready)


class ByteRelay:
    """Passes bytes on one piece late, so that the last one waits for the settle. A broken answer can only be cut.

    What it consumed is known before it begins: `metered` is what was handed in.
    """

    __slots__ = ("_head", "_is_finished", "_last", "_metered")

    has_error_event = False
    is_done = False

    def __init__(self, content_type: str, metered: Metered) -> None:
        """`content_type` is already fit for a header."""
        self._head = ((b"content-type", content_type.encode("latin-1")),)
        self._metered = metered
        self._last = b""
        self._is_finished = False

    @property
    def head(self) -> Sequence[Header]:
        return self._head

    @property
    def is_complete(self) -> bool:
        return self._is_finished

    def feed(self, data: bytes) -> bytes:
        ready, self._last = self._last, data
        return ready

    def finish(self, *, is_cut: bool = False) -> bytes:
        self._is_finished = not is_cut
        return b""

    def held_back(self) -> bytes:
        return self._last if self._is_finished else b""

    def metered(self, *, is_partial: bool) -> Metered:
        return self._metered

    def error_event(self, error: GatewayError) -> bytes | None:
        return None
