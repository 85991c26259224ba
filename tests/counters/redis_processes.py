"""Several gateway processes on one Redis, as far as counters go, and a ledger that they share and that is always right."""

import asyncio
import time
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Self

from gateway.counters.base import CounterSeeds, LimitState, Taken
from gateway.counters.redis import RedisCounters
from gateway.counters.redis_epochs import Pace
from gateway.counters.redis_link import Limits
from gateway.counters.redis_seeds import RebuildSeeds, fill_beside_calls
from policies.types import Limit
from tests.counters.backend import admitted, gauge, in_groups, money, requests, tokens
from tests.rig.waiting import soon
from tests.servers.redis_server import RedisServer

PACE = Pace(watch_s=0.02, gather_s=0.15, patience_s=15.0)
LIMITS = Limits(connect_timeout_s=0.5, command_timeout_s=0.5, connections_max=2)
QUOTA = money(10**12, 100, key="quota:c/ada/2025-01")._replace(resets_at=time.time() + 86_400)
CALLS = gauge(10**6)._replace(key="calls:c/ada")
HOURLY = requests(10**6, key="requests:c/ada/3600")
TOKENS = tokens(10**9, 50, window_s=3_600, key="tokens:c/ada/3600")
EVERYTHING = (QUOTA, CALLS, HOURLY, TOKENS)
COST, USED = 70, 20
ACTUALS = {"nano_usd": COST, "token": USED}


class Ledger:
    """What every process reads and writes; each of its steps is a transaction."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.ended: dict[str, float] = {}
        """Calls with an entry, and when they were admitted (monotonic)."""
        self.refunded = 0
        self.rebuilds = 0
        self.may_read = asyncio.Event()
        self.may_read.set()

    def begin(self, hold_id: str) -> None:
        self.open.add(hold_id)

    def end(self, hold_id: str) -> None:
        self.open.remove(hold_id)
        self.ended[hold_id] = time.monotonic()

    def release(self, hold_id: str) -> None:
        self.open.discard(hold_id)

    @property
    def spent(self) -> int:
        return COST * len(self.ended) - self.refunded

    @property
    def truth(self) -> list[tuple[int, int]]:
        """What every process should say of `EVERYTHING`, settled and held."""
        running, done = len(self.open), len(self.ended)
        return [(self.spent, 100 * running), (0, running), (done + running, 0), (USED * done, 50 * running)]

    async def ended_among(self, hold_ids: Collection[str]) -> frozenset[str]:
        await asyncio.sleep(0)
        return frozenset(self.ended) & frozenset(hold_ids)

    async def open_among(self, hold_ids: Collection[str]) -> frozenset[str]:
        await asyncio.sleep(0)
        return frozenset(self.open) & frozenset(hold_ids)

    async def rebuild(self, seeds: RebuildSeeds) -> None:
        self.rebuilds += 1
        await self.may_read.wait()
        await fill_beside_calls(seeds, self.read, self.ended_among)

    async def read(self, seeds: CounterSeeds) -> None:
        now = time.monotonic()
        await seeds.seed_settled(QUOTA.key, self.spent, resets_at=QUOTA.resets_at)
        await asyncio.sleep(0)
        ages = [now - at for at in self.ended.values()]
        await seeds.seed_rolling(HOURLY.key, HOURLY.window_s, HOURLY.capacity, [(age, 1) for age in ages])
        await asyncio.sleep(0)
        ages = [now - at for at in self.ended.values()]
        used = [(age, USED) for age in ages]
        await seeds.seed_rolling(TOKENS.key, TOKENS.window_s, TOKENS.capacity, used, unit="token")


class Process(RedisCounters):
    """One gateway process. `cut_off` stands for a crash."""

    def __init__(self, server: RedisServer, ledger: Ledger, pace: Pace = PACE, **more: Any) -> None:
        self.ledger = ledger
        asked = {"ended_among": ledger.ended_among, "open_among": ledger.open_among, **more}
        super().__init__(server.url, rebuild=ledger.rebuild, pace=pace, limits=LIMITS, **asked)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def cut_off(self) -> None:
        await self._epochs.aclose()

    async def is_back(self) -> None:
        await soon(lambda: self.is_available, "the counters to be there again")

    async def begin(self, hold_id: str, limits: Sequence[Limit] = EVERYTHING) -> Taken:
        """A call that is admitted, and about to dial."""
        taken = admitted(await self.take(hold_id, in_groups(limits)))
        self.ledger.begin(hold_id)
        return taken

    async def begin_elsewhere(self, hold_id: str) -> None:
        """A call that is counted by other means, and handed over."""
        self.ledger.begin(hold_id)
        states = [LimitState(limit, 0, limit.amount, 0.0, limit.amount) for limit in EVERYTHING]
        self.adopt_hold(hold_id, self.tag_of(in_groups(EVERYTHING)), states)

    async def end(self, hold_id: str, after_s: float = 0.0) -> None:
        """The call is booked, and `after_s` later the counters are told."""
        self.ledger.end(hold_id)
        await asyncio.sleep(after_s)
        await self.settle(hold_id, ACTUALS)

    async def give_up(self, hold_id: str, after_s: float = 0.0) -> None:
        """The call was never dialled."""
        self.ledger.release(hold_id)
        await asyncio.sleep(after_s)
        await self.release(hold_id)

    async def refund(self, units: int) -> None:
        self.ledger.refunded += units
        await self.adjust(QUOTA.key, -units, resets_at=QUOTA.resets_at)

    async def figures(self, limits: Sequence[Limit] = EVERYTHING) -> list[tuple[int, int]]:
        return [(state.settled, state.held) for state in await self.read(limits)]

    @property
    def epoch(self) -> str | None:
        return self._epochs.epoch

    @property
    def process_key(self) -> str:
        return self._names.process(self._holds.process)
