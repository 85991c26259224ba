"""The outbox worked off: every notice to every target, at least once, until it arrived or was tried for two days.

1. Each target has a task of its own: a dead one holds up nobody else. It delivers one notice at a time.
2. What has been due longest goes first. What fails is due again later, so that younger notices pass it by.
3. What became of an attempt is written down before the next one begins, however long the store takes: a notice that
   arrived is sent again only after a crash in between, under the same id.
4. Then the task sleeps until the next one is due, or somebody wakes it.
"""

import asyncio
import random
from collections.abc import Callable, Sequence

import structlog

from gateway.errors import StoreError
from gateway.ledger.database import Database
from gateway.ledger.notices import Fate, Outgoing, due_deliveries, next_due_at, record_fate
from gateway.notices.targets import DeliveryError, Target
from gateway.tasks import spawn

__all__ = ["RETRY_PAUSES_S", "Delivery"]

_log = structlog.get_logger()

RETRY_PAUSES_S = (5, 30, 300, 1_800, 7_200, 21_600, 43_200, 86_400)
"""After each failed attempt; after the last pause one more attempt, and then it is given up."""
JITTER_MAX = 0.1
RETRY_AFTER_S_MAX = 3_600.0
"""However long a target asks to be left alone."""
_DUE_MAX = 50
"""Rows read at once."""
_SLEEP_S_MAX = 60.0
"""A look now and then: the wall clock may be set, and a notice may be durable although its recorder was told it failed."""
_FOLLOWER_SLEEP_S = 5.0
"""Of a process that does not lead: how soon it notices that it does."""
_CLOSE_S = 3.0
"""An attempt that is under way may end, so that it need not be repeated."""


class Delivery:
    """Lifetime: the process, from `start` to `close`. Belongs to the event loop."""

    def __init__(
        self,
        database: Database,
        targets: Sequence[Target],
        *,
        wall_clock: Callable[[], float],
        every_s: float = 1.0,
        is_leader: Callable[[], bool] = lambda: True,
    ) -> None:
        """`every_s`: how long a task that nobody wakes leaves the store alone at least. Of several processes one delivers."""
        self._couriers = [_Courier(database, target, wall_clock, every_s, is_leader) for target in targets]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins with what an earlier process left pending."""
        self._tasks = [spawn(courier.run(), f"deliver-notices-{courier.name}") for courier in self._couriers]

    def wake(self) -> None:
        """There may be something due: look now."""
        for courier in self._couriers:
            courier.wake()

    async def close(self) -> None:
        """Ends the tasks; attempts under way have three seconds. What is pending is for the next start."""
        for courier in self._couriers:
            courier.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            self._tasks = []


class _Courier:
    """The task of one target."""

    def __init__(
        self,
        database: Database,
        target: Target,
        wall_clock: Callable[[], float],
        every_s: float,
        is_leader: Callable[[], bool],
    ) -> None:
        self.name = target.name
        self._database = database
        self._target = target
        self._wall_clock = wall_clock
        self._every_s = every_s
        self._is_leader = is_leader
        self._woken = asyncio.Event()
        self._is_stopping = False
        self._rest_until_ms = 0
        """The target asked not to be called before."""

    def wake(self) -> None:
        self._woken.set()

    def stop(self) -> None:
        self._is_stopping = True
        self._woken.set()

    async def run(self) -> None:
        trouble_s = self._every_s
        while not self._is_stopping:
            self._woken.clear()
            try:
                pause_s = await self._deliver_due()
                trouble_s = self._every_s
            except Exception as exc:
                # A store in trouble now, or one row that cannot be read, must not end deliveries for good.
                _log.warning("notice_delivery_stalled", target=self.name, error=repr(exc))
                pause_s = trouble_s = min(trouble_s * 2, _SLEEP_S_MAX)
            await self._sleep(pause_s)

    async def _deliver_due(self) -> float:
        """How long nothing will be due."""
        if not self._is_leader():
            return _FOLLOWER_SLEEP_S
        if not self._is_resting:
            for notice in await due_deliveries(self._database, self.name, self._now_ms(), limit=_DUE_MAX):
                if self._is_stopping or self._is_resting or not self._is_leader():
                    break
                fate = await self._attempt(notice)
                await self._record(notice, fate)
        due_at = await next_due_at(self._database, self.name)
        if due_at is None:
            return _SLEEP_S_MAX
        pause_s = (max(due_at, self._rest_until_ms) - self._now_ms()) / 1000
        return min(max(pause_s, self._every_s), _SLEEP_S_MAX)

    async def _attempt(self, notice: Outgoing) -> Fate:
        attempts = notice.attempts + 1
        try:
            await self._target.deliver(notice)
        except DeliveryError as exc:
            return self._failed(notice, attempts, exc)
        except Exception as exc:
            # The kind of error only: its text may hold the address.
            _log.error("notice_target_broken", target=self.name, error=type(exc).__name__)
            return self._failed(notice, attempts, DeliveryError("internal_error"))
        _log.info("notice_delivered", target=self.name, notice=notice.id, kind=notice.kind, attempts=attempts)
        return Fate("delivered", attempts, self._now_ms())

    def _failed(self, notice: Outgoing, attempts: int, failure: DeliveryError) -> Fate:
        said = {"target": self.name, "notice": notice.id, "kind": notice.kind, "error": failure.word}
        asked_s = min(failure.retry_after_s or 0.0, RETRY_AFTER_S_MAX)
        self._rest_until_ms = max(self._rest_until_ms, self._now_ms() + int(asked_s * 1000))
        if failure.is_final or attempts > len(RETRY_PAUSES_S):
            _log.error("notice_given_up", **said, attempts=attempts)
            return Fate("given_up", attempts, self._now_ms(), failure.word)
        pause_s = max(RETRY_PAUSES_S[attempts - 1], asked_s) * (1 + random.random() * JITTER_MAX)
        _log.warning("notice_not_delivered", **said, attempts=attempts, retry_in_s=round(pause_s))
        return Fate("pending", attempts, self._now_ms() + int(pause_s * 1000), failure.word)

    async def _record(self, notice: Outgoing, fate: Fate) -> None:
        """Tries until the store takes it: to go on without would be to send the notice again and again."""
        pause_s = self._every_s
        while True:
            try:
                await record_fate(self._database, notice.id, self.name, fate)
                return
            except StoreError as exc:
                _log.warning("notice_fate_not_recorded", target=self.name, notice=notice.id, error=str(exc))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _SLEEP_S_MAX)

    async def _sleep(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._woken.wait()
        except TimeoutError:
            return

    @property
    def _is_resting(self) -> bool:
        return self._now_ms() < self._rest_until_ms

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)
