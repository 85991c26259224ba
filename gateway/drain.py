"""How a gateway stops, without a failed call where its clients give it the time.

1. It says that it will: `/health/ready` answers 503 and every answer ends its connection, for `delay_s`. Everything is
   served as before, so whoever chooses between gateways can go elsewhere first.
2. The port is closed, idle connections are, and what is under way has `grace_s` to end.
3. What did not end is interrupted, told so and settled.

Being asked again cuts all of it short.
"""

import asyncio
from collections.abc import Callable

import structlog

from gateway.calls import Calls
from gateway.front_server import FrontServer
from gateway.tasks import spawn

__all__ = ["Drain"]

_log = structlog.get_logger()

_HANDOVER_S = 2.0
"""At least, where another process has taken over: what a client between two calls needs to hear that its connection ends."""


class Drain:
    """Lifetime: the process."""

    def __init__(
        self, calls: Calls, front: FrontServer, *, delay_s: float, grace_s: float, close_control: Callable[[], None]
    ) -> None:
        self._calls = calls
        self._front = front
        self._delay_s = delay_s
        self._grace_s = grace_s
        self._close_control = close_control
        self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None

    def begin_or_hurry(self) -> None:
        """What a signal does; each further one makes it shorter."""
        if self._calls.is_draining:
            self.hurry()
        else:
            self.begin()

    def begin(self, *, at_once: bool = False) -> None:
        """`at_once` leaves out the delay. Does nothing when it has begun."""
        if self._calls.is_draining:
            return
        delay_s = 0.0 if at_once else self._delay_s
        self._announce(delay_s)
        self._close_after(delay_s)

    def hand_over(self) -> None:
        """Another process listens on the same sockets: what is new is its business from now on."""
        if self._calls.is_draining:
            return
        delay_s = max(self._delay_s, _HANDOVER_S)
        self._announce(delay_s)
        self._close_control()
        spawn(self._front.close_port(), "close-port")
        self._close_after(delay_s)

    def hurry(self) -> None:
        """No delay and no grace."""
        _log.info("drain_cut_short", calls=len(self._calls))
        if not self._calls.is_draining:
            self._announce(0.0)
        self._close()
        self._calls.interrupt_all()

    def _announce(self, delay_s: float) -> None:
        _log.info("draining", calls=len(self._calls), delay_s=delay_s, grace_s=self._grace_s)
        self._calls.begin_drain()
        self._front.announce_end()

    def _close_after(self, delay_s: float) -> None:
        if delay_s:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._close)
        else:
            self._close()

    def _close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        spawn(self._front.close_port(), "close-port")
        self._front.stop()
        asyncio.get_running_loop().call_later(self._grace_s, self._calls.interrupt_all)
