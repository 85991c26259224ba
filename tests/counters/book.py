"""A ledger as simple as it can be: what is open, and what was used; counters are filled from it."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.counters.base import CounterSeeds, LimitState
from gateway.counters.open_calls import OpenCall
from gateway.counters.redis_seeds import RebuildSeeds, fill_beside_calls
from gateway.errors import StoreError
from policies.types import Limit


@dataclass
class Held:
    """A call: what it took, and what that became."""

    taken: dict[str, int]
    limits: dict[str, Limit]
    admitted_at: float
    is_open: bool = True

    def end(self, actuals: Mapping[str, int]) -> None:
        self.is_open = False
        for key, limit in self.limits.items():
            if limit.kind == "gauge":
                self.taken[key] = 0
            elif limit.unit != "request":
                self.taken[key] = actuals.get(limit.unit, self.taken[key])


@dataclass
class Book:
    """`gateway.counters.fallback.LedgerSays`. Everything written is there at once."""

    calls: dict[str, Held] = field(default_factory=dict)
    is_down: bool = False
    rebuilds: int = 0

    def begin(self, hold_id: str, states: Sequence[LimitState]) -> None:
        limits = {state.limit.key: state.limit for state in states}
        self.calls[hold_id] = Held({state.limit.key: state.taken for state in states}, limits, time.time())

    def end(self, hold_id: str, actuals: Mapping[str, int]) -> None:
        self.calls[hold_id].end(actuals)

    def used(self, key: str, *, window_s: float = 0.0) -> int:
        """Settled and held on a counter, of `window_s` (0: of all time)."""
        since = time.time() - window_s if window_s else 0.0
        return sum(call.taken.get(key, 0) for call in self.calls.values() if call.admitted_at > since)

    async def rebuild(self, counters: CounterSeeds, /) -> None:
        self.rebuilds += 1
        self._require_up()
        ended = [call for call in self.calls.values() if not call.is_open]
        await asyncio.sleep(0.005)  # reading takes a while
        limits = {key: limit for call in ended for key, limit in call.limits.items()}
        now = time.time()
        for key, limit in limits.items():
            used = [(now - call.admitted_at, call.taken[key]) for call in ended if key in call.taken]
            if limit.kind == "rolling":
                admitted = [(age_s, units) for age_s, units in used if age_s < limit.window_s]
                await counters.seed_rolling(key, limit.window_s, limit.capacity, admitted, unit=limit.unit)
            elif limit.kind != "gauge":
                await counters.seed_settled(key, sum(units for _, units in used), resets_at=limit.resets_at)

    async def fill(self, seeds: RebuildSeeds) -> None:
        """How an epoch in Redis is filled."""
        await fill_beside_calls(seeds, self.rebuild, self.ended_among)

    async def open_calls(self) -> list[OpenCall]:
        self._require_up()
        return [
            OpenCall(hold_id, call.admitted_at, tuple((call.limits[key], units) for key, units in call.taken.items()))
            for hold_id, call in self.calls.items()
            if call.is_open
        ]

    async def ended_among(self, hold_ids: Collection[str]) -> frozenset[str]:
        self._require_up()
        return frozenset(name for name in hold_ids if name in self.calls and not self.calls[name].is_open)

    async def flush(self) -> None:
        self._require_up()

    def _require_up(self) -> None:
        if self.is_down:
            raise StoreError("The ledger is down.")
