"""A stream from its provider to its client, in the callback that brings the bytes: no task wakes up for an event.

The client's pace is the provider's: while the client does not read, nothing is taken from the exchange, which stops
reading its socket in turn. Everything that may go wrong stops the pump and is raised where it was started.
"""

import asyncio
import time

from gateway.calls import Call
from gateway.providers.base import Exchange, UpstreamFailure
from gateway.relay import EventTooLarge, Relay
from gateway.responder import Header, Responder

_AFTER_DONE_S = 1.0
"""How long the end of the body may take to follow `[DONE]`; some providers report usage there."""


class Pump:
    """Lifetime: one stream. `headers` are sent with the first byte there is to relay, so that errors before it can still
    be answers of their own. `bytes_max` bounds the whole stream."""

    __slots__ = ("_bytes_left", "_call", "_failure", "_headers", "_relay", "_responder", "_waits_for_end")

    def __init__(
        self, call: Call, relay: Relay, responder: Responder, headers: list[Header], *, bytes_max: int
    ) -> None:
        self._call = call
        self._relay = relay
        self._responder = responder
        self._headers = headers
        self._bytes_left = bytes_max
        self._failure: Exception | None = None
        self._waits_for_end = False

    async def run(self, exchange: Exchange) -> None:
        """Returns at the end of the body. Raises `UpstreamFailure`."""
        after_done: asyncio.TimerHandle | None = None
        try:
            while not await exchange.pour(self._take):
                if self._failure is not None:
                    raise self._failure
                if self._waits_for_end and after_done is None:
                    loop = asyncio.get_running_loop()
                    after_done = loop.call_later(_AFTER_DONE_S, self._call.interrupt, "after_done")
                await self._responder.drain()
        finally:
            if after_done is not None:
                after_done.cancel()

    def _take(self, data: bytes) -> bool:
        """Relay what came; false if nothing more may come before `run` has looked."""
        try:
            return self._relay_now(data)
        except EventTooLarge:
            self._failure = _above_the_bound("an event")
        except Exception as exc:
            # Raised here, it would end in the event loop's log, and the call would wait for ever.
            self._failure = exc
        return False

    def _relay_now(self, data: bytes) -> bool:
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise _above_the_bound("a stream")
        ready = self._relay.feed(data)
        responder = self._responder
        if ready and not responder.is_gone:
            if self._call.first_byte_at is None:
                self._call.first_byte_at = time.monotonic()
                responder.start(200, self._headers)
            responder.write(ready)
        if self._relay.is_done and not self._waits_for_end:
            self._waits_for_end = True
            return False
        return not responder.is_stalled


def _above_the_bound(what: str) -> UpstreamFailure:
    return UpstreamFailure("invalid", f"{what} above the bound", is_sent=True, is_fully_sent=True)
