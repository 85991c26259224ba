"""Looking after money and trouble in the background: what people have to be told, and what is out of the usual."""

import asyncio
from collections.abc import Callable

from gateway.accounts import Accounts
from gateway.anomalies.actions import Actions
from gateway.anomalies.detector import Detector
from gateway.auth import Authenticator
from gateway.config import Settings
from gateway.counters.base import CounterStore
from gateway.instances.base import Instances
from gateway.ledger.database import Database
from gateway.ledger.notices import RECORDED
from gateway.notices.book import Notices
from gateway.notices.delivery import Delivery
from gateway.notices.signals import Signals
from gateway.notices.targets import open_targets
from gateway.notices.watcher import Watcher
from gateway.secrets import Secrets
from gateway.tasks import spawn

__all__ = ["Lookout"]

_BEHIND_MS = 15_000
"""Ids are made before their entries can be seen: by then a statement and its commit have ended, or been given up."""
_ANOMALIES_EVERY_TURNS = 6
"""Hours pass slowly, and what is usual takes more reading than what was just used."""


class Lookout:
    """Lifetime: the process, from `start` to `close`. No call waits for any of it."""

    def __init__(
        self,
        *,
        settings: Settings,
        secrets: Secrets,
        database: Database,
        counters: CounterStore,
        accounts: Accounts,
        authenticator: Authenticator,
        signals: Signals,
        instances: Instances,
        wall_clock: Callable[[], float],
    ) -> None:
        self._targets = open_targets(settings, secrets)
        self._instances = instances
        self.delivery = Delivery(database, self._targets, wall_clock=wall_clock, is_leader=lambda: instances.is_leader)
        instances.on(RECORDED, self._recorded_elsewhere)
        self.notices = Notices(database, self._targets, wall_clock=wall_clock, on_recorded=self.delivery.wake)
        self._every_s = settings.notices_every_s
        self._watcher = Watcher(
            database=database,
            counters=counters,
            signals=signals,
            book=self.notices,
            settings=settings,
            wall_clock=wall_clock,
            account_of=authenticator.account_of,
            is_leader=lambda: instances.is_leader,
        )
        actions = Actions(
            database=database, settings=settings, book=self.notices, brakes=accounts, wall_clock=wall_clock
        )
        self._detector = Detector(
            database=database,
            settings=settings,
            book=self.notices,
            actions=actions,
            account_of=authenticator.account_of,
            wall_clock=wall_clock,
            behind_ms=_BEHIND_MS if settings.has_shared_stores else 0,
        )
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins with what an earlier process left to be told."""
        self.delivery.start()
        self._looking = spawn(self._look_again_and_again(), "look-for-notices")

    async def close(self) -> None:
        """What is not delivered yet is the next process's to deliver."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})  # what it wakes must be there until its end
        await self.delivery.close()
        for target in self._targets:
            await target.close()

    async def _look_again_and_again(self) -> None:
        turn = 0
        while True:
            await self._watcher.look()
            if turn % _ANOMALIES_EVERY_TURNS == 0 and self._instances.is_leader:
                await self._detector.look()
            turn += 1
            await asyncio.sleep(self._every_s)

    async def _recorded_elsewhere(self, rest: str) -> None:
        self.delivery.wake()
