"""Whether the counters in Redis may be trusted, and how they come to be again when they may not.

Counters belong to an epoch, and the epoch to a server as it was when they were filled. A server that was flushed has no
epoch any more, which every script notices; one that was restarted, promoted or replaced is another server, which every
new connection notices, and a look at it now and then. That look also notices keys that were evicted and a clock that
jumped. Whichever it is, in every process nothing is taken any more, callers wait, and one process makes a new epoch
(redis_making.py). Callers go on, in that.

The same is done where the ledger knows something that the counters could not be told (a refund), and at the start of a
process that is alone: what the last one counted may lack how its last calls ended. One that dies while it makes an epoch
loses the lock, and the next begins anew. An epoch is replaced like that after half a year too, long before what it counts
expires.

Where calls are counted elsewhere for a while (`suspend`), the server is only watched. No epoch from before that counts
again afterwards, whoever made it: it misses what happened meanwhile.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from typing import Any, NamedTuple

import structlog

from gateway.counters.base import CountersUnavailable
from gateway.counters.redis_leftovers import SWEPT_EVERY_S
from gateway.counters.redis_link import RedisLink, unavailable
from gateway.counters.redis_making import EpochMaker
from gateway.counters.redis_sight import Seen, Sight
from gateway.tasks import spawn

__all__ = ["Epochs", "Pace"]

_log = structlog.get_logger()

_CLOCK_STEP_MAX_S = 3_600.0
"""Windows and expiries are measured by the server's clock: one that jumps may have thrown counters away."""
_LOOK_AGAIN_S = 0.02
"""While another process rebuilds, or after a failure, the shortest pause before looking again."""
_LOOK_AGAIN_MAX_S = 1.0
_DISTRUSTED_MAX = 256
_LATE_SPARE_S = 1.0
"""Instants that are compared come from two clocks, of which one is read now and then."""


class Pace(NamedTuple):
    """All in seconds, and the same in every process."""

    watch_s: float = 0.5
    """How often the server is looked at."""
    gather_s: float = 1.5
    """How long a rebuild waits for every process to write down its holds: longer than `watch_s` and a command's timeout
    together. Holds of those that do not are restored late. A process that is alone waits for nobody."""
    patience_s: float = 10.0
    """How long a caller waits for a rebuild."""


def _next_sweep() -> float:
    return time.monotonic() + SWEPT_EVERY_S * random.uniform(0.5, 1.0)


class Epochs:
    """Lifetime: the process. Watches the server from the first call on.

    `tell_endings` and `sweep` are done where counters count: now and then, and after every new epoch.
    """

    def __init__(
        self,
        link: RedisLink,
        sight: Sight,
        maker: EpochMaker,
        *,
        pace: Pace,
        is_filled: bool,
        is_alone: bool,
        database_id: str,
        moved: Callable[[str], None],
        tell_endings: Callable[[], Awaitable[None]],
        sweep: Callable[[str], Coroutine[Any, Any, None]],
    ) -> None:
        self._link = link
        self._sight = sight
        self._maker = maker
        self._pace = pace
        self._is_filled = is_filled
        """Something fills a new epoch."""
        self._database_id = database_id
        self._moved = moved
        self._tell_endings = tell_endings
        self._sweep = sweep
        self._epoch: str | None = None
        self._pending: str | None = None
        """The epoch that this process is about to count in, or to make."""
        self._news = asyncio.Event()
        """Set when waiting callers have to look up."""
        self._has_rebuild_failed = False
        self._is_to_begin_anew = is_alone
        """What is counted is a former process's, which may have ended without a word of how its last calls did."""
        self._is_outdated = False
        """The ledger knows something that the counters were not told."""
        self._is_suspended = False
        self._is_blind = False
        """The server has not been looked at since counting in it was suspended."""
        self._turns = 0
        """How often counting was suspended or resumed."""
        self._distrusted: dict[str, None] = {}
        """Epochs that miss something, the latest last."""
        self.is_of_others = False
        """The counters are those of another database."""
        self._is_urgent = asyncio.Event()
        self._failures = 0
        self._counts_since = -inf
        """When the epoch began to count here, on the monotonic clock."""
        self._clock_ahead_s = 0.0
        """How far the server's clock was ahead of this process's monotonic one when the epoch began to count here."""
        self._sweep_at = _next_sweep()
        self._stopped_at: float | None = time.monotonic()
        """Since when calls cannot be answered, on the monotonic clock."""
        self._watching: asyncio.Task[None] | None = None

    # For callers

    @property
    def epoch(self) -> str | None:
        """The epoch that counts, where that is known."""
        return self._epoch

    @property
    def is_suspended(self) -> bool:
        return self._is_suspended

    @property
    def stopped_for_s(self) -> float:
        """How long calls have not been answered for."""
        return 0.0 if self._stopped_at is None else time.monotonic() - self._stopped_at

    def is_distrusted(self, epoch: str) -> bool:
        """What an answer in that epoch says is worth nothing any more."""
        return epoch in self._distrusted

    async def current(self) -> str:
        """The epoch that counts; waits while there is none. Raises `CountersUnavailable`."""
        if self._epoch is not None:
            return self._epoch
        self.start()
        try:
            async with asyncio.timeout(self._pace.patience_s):
                while self._epoch is None:
                    self._require_hope()
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise unavailable("it is being filled from the ledger") from None
        return self._epoch

    def start(self) -> None:
        """Begin to watch, unless that was done."""
        if self._watching is None:
            self._watching = spawn(self._watch(), "counters_watch")

    def _require_hope(self) -> None:
        """Raises `CountersUnavailable` where waiting would be in vain."""
        self._link.require_open()
        if self._is_suspended:
            raise unavailable("calls are not counted in it for now")
        if self._has_rebuild_failed:
            raise unavailable("the ledger could not fill it")

    def lost(self, epoch: str) -> None:
        """A script did not find `epoch`."""
        if self._epoch == epoch:
            self._freeze()
        self.look()

    def look(self) -> None:
        """Look at the server now, not only when it is time."""
        self._is_urgent.set()

    def outdated(self) -> bool:
        """Whether the counters will be filled again, because something in the ledger may not be among them, or be twice.

        Not where nothing fills them.
        """
        if not self._is_filled or self._watching is None:
            return False
        self._is_outdated = True
        self.look()
        return True

    def has_changed_within(self, seconds: float) -> bool:
        """Whether one may have been filled in the last `seconds`, or be filled now."""
        return self._epoch is None or time.monotonic() - self._counts_since < seconds + _LATE_SPARE_S

    def link_failed(self) -> None:
        """The link has closed: waiting callers are told, and the server is looked at until it is there again."""
        self._note_availability()
        self._news.set()
        self.look()

    async def aclose(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
        await self._sight.aclose()

    # Counting elsewhere

    def suspend(self) -> None:
        """Count in no epoch, and never again in one that is known by now. Doing it twice is harmless."""
        if self._is_suspended:
            return
        self.start()
        self._is_suspended = self._is_blind = True
        self._turns += 1
        for epoch in (self._epoch, self._pending):
            self._distrust(epoch)
        self._freeze()
        self._maker.give_up()
        self._news.set()
        self.look()

    def resume(self) -> None:
        """Count again, in an epoch of after the suspension, which is made where there is none."""
        if not self._is_suspended:
            return
        self._is_suspended = self._has_rebuild_failed = False
        self._turns += 1
        self.look()

    def _distrust(self, epoch: str | None) -> None:
        if epoch is None:
            return
        self._distrusted[epoch] = None
        if len(self._distrusted) > _DISTRUSTED_MAX:
            del self._distrusted[next(iter(self._distrusted))]

    # The watch

    async def _watch(self) -> None:
        while True:
            self._is_urgent.clear()
            try:
                pause_s = await self._look()
                self._failures = 0
            except CountersUnavailable as error:
                self._link.close(error.message.rpartition(": ")[2].rstrip("."))
                await self._pause()
                continue
            except Exception:  # the ledger's, or a mistake in what it was asked: the watch must go on
                _log.exception("counters_rebuild_failed")
                self._has_rebuild_failed = True
                self._news.set()
                await self._pause()
                continue
            self._note_availability()
            try:
                async with asyncio.timeout(pause_s):
                    await self._is_urgent.wait()
            except TimeoutError:
                continue

    async def _pause(self) -> None:
        """Longer with every failure, so that a server that is gone is not run into the ground when it comes back."""
        self._failures += 1
        pause_s = min(_LOOK_AGAIN_MAX_S, _LOOK_AGAIN_S * 2 ** min(self._failures, 10))
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    async def _look(self) -> float:
        """One look at the server, and what follows from it. Returns how soon the next is due, in seconds."""
        turn = self._turns
        seen = await self._see()
        if not seen.server.is_primary:
            raise unavailable("it is a replica")
        self._require_own(seen)
        await self._link.expect(seen.server)
        if self._is_suspended or turn != self._turns:
            self._link.open()
            return self._pace.watch_s if turn == self._turns else 0.0
        if seen.rebuilding is not None:
            return await self._wait_for(seen.rebuilding)
        clock_ahead_s = seen.clock_s - time.monotonic()
        is_new, has_to_be_made = seen.epoch != self._epoch, self._has_to_be_made(seen, clock_ahead_s)
        if is_new or has_to_be_made:
            self._freeze()
        self._link.open()
        if has_to_be_made or (is_new and await self._maker.is_too_late(seen.epoch or "")):
            if turn == self._turns:
                await self._make_epoch(seen)
            return 0.0
        if is_new:
            self._clock_ahead_s = clock_ahead_s
            await self._count_in(seen.epoch or "")
        await self._tell_endings()
        if time.monotonic() >= self._sweep_at and self._epoch is not None:
            self._sweep_at = _next_sweep()
            spawn(self._sweep(self._epoch), "counters_sweep")
        return self._pace.watch_s

    async def _see(self) -> Seen:
        """What is there. What is there before counting is resumed, or may have been, is not counted in."""
        turn, is_old = self._turns, self._is_suspended or self._is_blind
        seen = await self._sight.see()
        if is_old or turn != self._turns:
            self._distrust(seen.epoch)
        if turn == self._turns:
            self._is_blind = False
        self._pending = seen.epoch
        return seen

    def _require_own(self, seen: Seen) -> None:
        """Raises `CountersUnavailable` where another database's gateway counts under the same names."""
        is_of_others = bool(self._database_id and seen.database_id) and self._database_id != seen.database_id
        if is_of_others and not self.is_of_others:
            _log.error("counters_of_another_database", note="GATEWAY_REDIS_PREFIX is used twice")
        self.is_of_others = is_of_others
        if is_of_others:
            self._freeze()
            raise unavailable("a gateway with another database uses it under the same prefix")

    def _has_to_be_made(self, seen: Seen, clock_ahead_s: float) -> bool:
        has_stepped = self._epoch is not None and abs(clock_ahead_s - self._clock_ahead_s) > _CLOCK_STEP_MAX_S
        return (
            seen.epoch is None
            or has_stepped
            or not seen.is_sound(self._database_id)
            or seen.epoch in self._distrusted
            or self._is_to_begin_anew
            or self._is_outdated
        )

    def _freeze(self) -> None:
        self._epoch = None
        self._note_availability()

    def _note_availability(self) -> None:
        if self._link.is_open and self._epoch is not None:
            self._stopped_at = None
        elif self._stopped_at is None:
            self._stopped_at = time.monotonic()

    # From one epoch to the next

    async def _wait_for(self, rebuilding: str) -> float:
        """While another process makes an epoch, unless nobody does any more."""
        self._freeze()
        self._link.open()
        if self._is_to_begin_anew or rebuilding in self._distrusted:
            await self._maker.unlock(rebuilding)  # of a process that died while it filled it, or gave it up
            return 0.0
        self._pending = rebuilding
        was_outdated, self._is_outdated = self._is_outdated, False
        is_heard = False
        try:
            is_heard = await self._maker.write_down(rebuilding)
        finally:
            if not is_heard:  # else the ledger is read afterwards
                self._is_outdated |= was_outdated
        return _LOOK_AGAIN_S

    async def _count_in(self, epoch: str) -> None:
        await self._maker.join(epoch)
        if epoch in self._distrusted:
            return  # meanwhile
        self._moved(epoch)
        self._has_rebuild_failed = False
        self._epoch = epoch
        self._counts_since = time.monotonic()
        self._note_availability()
        self._news.set()

    async def _make_epoch(self, seen: Seen) -> None:
        """Unless another process does: fill a new epoch and make it the one that counts."""
        epoch = self._pending = secrets.token_hex(6)
        if not await self._maker.lock(epoch, seen):
            return
        was_outdated, self._is_outdated = self._is_outdated, False  # as of now: nothing has been read yet
        is_made = False
        try:
            is_made = await self._maker.make(epoch, seen, is_wanted=lambda: epoch not in self._distrusted)
        finally:
            if is_made:
                self._is_to_begin_anew = False
            else:
                self._is_outdated |= was_outdated
