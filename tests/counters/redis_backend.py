"""The counters in Redis under the contract suite: a server that all tests share, and a store of each test's own in it."""

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any, TypeVar

from gateway.counters.redis import RedisCounters
from gateway.counters.redis_epochs import Pace
from gateway.counters.redis_link import Limits
from tests.counters.backend import Backend, FakeClock
from tests.servers.redis_server import RedisServer

T = TypeVar("T")
PACE = Pace(watch_s=30.0, gather_s=0.0)
"""Nobody else counts there, and nothing happens to the server."""
LIMITS = Limits(command_timeout_s=15.0)
"""Nothing here is about time, and the machine may pause."""
_numbers = itertools.count()


class RedisBackend(Backend):
    """Its coroutines run on a loop of its own (`run`), or on that of the test, never on both."""

    lives = 15

    def __init__(self, server: RedisServer, clock: FakeClock | None = None) -> None:
        super().__init__(clock or FakeClock())
        self._counters = RedisCounters(
            server.url,
            prefix=f"t{next(_numbers)}:",
            limits=LIMITS,
            pace=PACE,
            clock=self.clock.monotonic,
            wall_clock=self.clock.unix,
        )
        self._own_loop: asyncio.AbstractEventLoop | None = None

    @property
    def store(self) -> RedisCounters:
        return self._counters

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._own_loop is None:
            self._own_loop = asyncio.new_event_loop()
        return self._own_loop.run_until_complete(work)

    async def close(self) -> None:
        if self._own_loop is None:
            await self._counters.aclose()
        else:
            await asyncio.to_thread(self._close_own, self._own_loop)

    def _close_own(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.run_until_complete(self._counters.aclose())
        loop.close()
