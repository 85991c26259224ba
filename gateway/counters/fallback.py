"""Counters that go on when the store of all processes is away: in memory, each process with its share.

While that store answers, calls go straight to it. When it does not, all processes agree through the database
(`gateway.instances`) before the first counts for itself, and again before the first counts in the store:

1. This process finds the store away, and says that it wants to count locally.
2. Counting is paused, here or in another process: nothing is taken any more, in the store neither. When what was taken is
   in the ledger, this process `has_stopped`, which the others wait for.
3. All have stopped: counters in memory are filled from the ledger, with what was used and with the calls that are open,
   and this process gives out its share of what is left (local_share.py).
4. The store is back: paused again, then counted there, in an epoch made after all that.

Whoever comes while nothing can be counted waits a moment, for it does not last; then the answer is `CountersUnavailable`.
Holds taken locally are the store's own from the start, as far as this process goes: with their true amounts they are in
its next epoch. Endings are told to both.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol

import structlog

from gateway.counters.base import RETRY_SOON, Counters, CounterSeeds, CountersUnavailable, LimitState, Refused, Taken
from gateway.counters.local_share import LocalShare
from gateway.counters.memory import MemoryCounters
from gateway.counters.open_calls import OpenCall
from gateway.errors import StoreError
from gateway.instances.base import Instances
from gateway.tasks import spawn
from policies.types import Limit, LimitGroup

__all__ = ["FallbackCounters", "FallbackPace", "LedgerSays", "SharedStore"]

_log = structlog.get_logger()

_FAILED_PAUSE_S = 0.5
_READINGS_MAX = 5
_FROZEN_S = 2.0
"""An answer of the store that took this long to arrive may have lain there while the process was frozen."""

_Meanwhile = Callable[[LocalShare], Awaitable[None]]


class FallbackPace(NamedTuple):
    """All in seconds."""

    watch_s: float = 0.05
    away_s: float = 1.0
    """How long the store has to be away before this process wants to count without it."""
    back_s: float = 2.0
    """How long it has to be there again."""
    patience_s: float = 3.0
    """How long a caller waits for the processes to agree."""
    ask_s: float = 2.0
    """How often the ledger is asked which calls of others have ended."""


class SharedStore(Counters, Protocol):
    """What this needs of the store of all processes; `RedisCounters` says it all."""

    @property
    def is_reachable(self) -> bool: ...

    @property
    def unavailable_for_s(self) -> float: ...

    def suspend(self) -> None: ...

    def resume(self) -> None: ...

    def open_states(self) -> list[tuple[str, str, tuple[LimitState, ...], float]]: ...

    def adopt_hold(self, hold_id: str, tag: str, states: Sequence[LimitState]) -> None: ...

    def tag_of(self, groups: Sequence[LimitGroup]) -> str: ...


class LedgerSays(Protocol):
    """What counters in memory are filled from. All methods raise `StoreError`."""

    def rebuild(self, counters: CounterSeeds, /) -> Awaitable[None]:
        """Seed what calls that have ended used."""
        ...

    async def open_calls(self) -> Sequence[OpenCall]:
        """Those of every process."""
        ...

    async def ended_among(self, hold_ids: Collection[str]) -> frozenset[str]:
        """Which of these `rebuild` counts among what was used."""
        ...

    async def flush(self) -> None:
        """Returns when all that this process has asked to be written is."""
        ...


class FallbackCounters:
    """`Counters` over those that all processes share. Lifetime: from `start` to `aclose`.

    `clock` is monotonic, as that of the store is; `wall_clock` is Unix time.
    """

    def __init__(
        self,
        shared: SharedStore,
        instances: Instances,
        ledger: LedgerSays,
        *,
        pace: FallbackPace | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._shared = shared
        self._instances = instances
        self._ledger = ledger
        self._pace = pace or FallbackPace()
        self._clock = clock
        self._wall_clock = wall_clock
        self._counts: Literal["shared", "stopped", "local"] = "shared"
        self._taking = 0
        """Calls that are being taken in the shared store."""
        self._is_idle = asyncio.Event()
        self._has_stopped = True
        """Until it starts: others need not wait for a process that only finds out whether the store is there."""
        self._share: LocalShare | None = None
        """Kept while stopped: calls that it took may end."""
        self._round = -1
        self._meanwhile: list[_Meanwhile] | None = None
        """What happened while a share is being filled."""
        self._news = asyncio.Event()
        self._news_at = clock()
        """When it was last possible to count."""
        self._unreachable_at = -float("inf")
        self._resumed_at = -float("inf")
        self._ask_ended_at = 0.0
        self._watching: asyncio.Task[None] | None = None
        instances.has_stopped = lambda: self._has_stopped

    def start(self) -> None:
        """Begin to follow what the processes agree on."""
        self._has_stopped = False
        if self._instances.counting != "shared":
            self._stop_taking()
        self._watching = spawn(self._watch(), "counters_fallback")

    async def aclose(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
        await self._shared.aclose()

    @property
    def shared(self) -> SharedStore:
        """What is counted in while it answers."""
        return self._shared

    @property
    def is_available(self) -> bool:
        """Whether a call would be answered, be it after a moment."""
        if self._usable_share() is not None or (self._is_shared() and self._shared.is_available):
            return True
        return self._clock() - self._news_at < self._pace.patience_s

    @property
    def degraded(self) -> str:
        """What is not as it should be, for people; empty where nothing is."""
        if (share := self._usable_share()) is not None:
            why = "a process cannot reach Redis" if self._shared.is_reachable else "Redis cannot be reached"
            among = "" if share.of == 1 else f", each of {share.of} processes with its share"
            return f"counting locally{among}: {why}"
        if self._is_shared():
            return "" if self._shared.is_available else "the counters in Redis cannot be used"
        return "the processes agree how to count"

    # CounterStore

    async def take(self, hold_id: str, groups: Sequence[LimitGroup]) -> Taken | Refused:
        share = None if self._is_open() else await self._standing()
        if share is None:
            asked_at = self._clock()
            self._taking += 1
            try:
                answer = await self._shared.take(hold_id, groups)
            finally:
                self._taking -= 1
                if self._counts != "shared" and not self._taking:
                    self._is_idle.set()
            if (
                self._instances.counting != "shared"
                and self._clock() - asked_at > _FROZEN_S
                and isinstance(answer, Taken)
            ):
                # The others may have agreed meanwhile to count in another way, and read the ledger without this call.
                await self._shared.release(hold_id)
                raise CountersUnavailable(
                    "The limits cannot be counted now: this process was away.", headers=RETRY_SOON
                )
            return answer
        answer = await share.take(hold_id, groups)
        if isinstance(answer, Taken):
            self._shared.adopt_hold(hold_id, self._shared.tag_of(groups), _as_asked(answer.states, groups))
        return answer

    async def settle(self, hold_id: str, actuals: Mapping[str, int], *, account_id: str | None = None) -> None:
        if self._counts != "shared":
            await self._here(lambda share: share.settle(hold_id, actuals))
        await self._shared.settle(hold_id, actuals, account_id=account_id)

    async def release(self, hold_id: str) -> None:
        if self._counts != "shared":
            await self._here(lambda share: share.release(hold_id))
        await self._shared.release(hold_id)

    async def preview(self, groups: Sequence[LimitGroup]) -> Taken | Refused:
        return await (await self._counters()).preview(groups)

    async def read(self, limits: Iterable[Limit]) -> tuple[LimitState, ...]:
        return await (await self._counters()).read(limits)

    async def adjust(self, key: str, units: int, *, resets_at: float | None = None) -> None:
        if self._is_shared():
            await self._shared.adjust(key, units, resets_at=resets_at)
            return
        # It is booked: what is being read now may have it or not, and to count it twice is safe only one way.
        if units > 0 or self._meanwhile is None:
            await self._here(lambda share: share.adjust(key, units, resets_at=resets_at))
        with suppress(CountersUnavailable):  # the next epoch is filled from the ledger
            await self._shared.adjust(key, units, resets_at=resets_at)

    # CounterSeeds

    async def seed_rolling(
        self, key: str, window_s: int, capacity: int, admitted: Iterable[tuple[float, int]], *, unit: str = "request"
    ) -> None:
        await (await self._counters()).seed_rolling(key, window_s, capacity, admitted, unit=unit)

    async def seed_settled(
        self, key: str, units: int, *, resets_at: float | None = None, is_refused: bool = False
    ) -> None:
        await (await self._counters()).seed_settled(key, units, resets_at=resets_at, is_refused=is_refused)

    # Where to count

    def _is_shared(self) -> bool:
        return self._counts == "shared" and self._instances.counting == "shared"

    def _is_open(self) -> bool:
        """Calls can be counted in the shared store, or wait there for it to be filled."""
        return self._is_shared() and self._shared.is_reachable

    def _usable_share(self) -> LocalShare | None:
        instances = self._instances
        if self._counts != "local" or instances.counting != "local" or not instances.is_heard:
            return None
        return self._share if instances.round == self._round else None

    async def _counters(self) -> "SharedStore | LocalShare":
        return self._shared if self._is_open() else await self._standing() or self._shared

    async def _standing(self) -> LocalShare | None:
        """Waits until calls can be counted: with this share, or (None) in the shared store, which says itself why it cannot
        where it is only that. Raises `CountersUnavailable`."""
        try:
            async with asyncio.timeout(self._pace.patience_s):
                while not self._is_open():
                    if (share := self._usable_share()) is not None:
                        return share
                    await self._news.wait()
        except TimeoutError:
            if not self._is_shared():
                raise CountersUnavailable(
                    "The limits cannot be counted now: the processes of the gateway have not agreed how.",
                    headers=RETRY_SOON,
                ) from None
        return None

    async def _here(self, what: _Meanwhile) -> None:
        """Do it to the share, and to the one that is being filled when that is there."""
        if self._meanwhile is not None:
            self._meanwhile.append(what)
        if self._share is not None:
            await what(self._share)

    # The watch

    async def _watch(self) -> None:
        while True:
            pause_s = self._pace.watch_s
            try:
                self._look_at_store()
                await self._follow()
                await self._ask_ended_elsewhere()
            except StoreError as error:
                _log.warning("counters_not_filled", reason=error.message)
                pause_s = _FAILED_PAUSE_S
            except Exception:  # the ledger's, or a mistake in what it was asked: the watch must go on
                _log.exception("counters_fallback_failed")
                pause_s = _FAILED_PAUSE_S
            self._tell_waiting()
            await asyncio.sleep(pause_s)

    def _tell_waiting(self) -> None:
        if self._usable_share() is not None or (self._is_shared() and self._shared.is_available):
            self._news_at = self._clock()
        self._news.set()  # what they wait for may be somebody else's to say
        self._news = asyncio.Event()

    def _look_at_store(self) -> None:
        now = self._clock()
        if not self._shared.is_reachable:
            self._unreachable_at = now
        unseen_s = now - self._unreachable_at
        instances = self._instances
        if instances.wants_local:
            instances.wants_local = unseen_s < self._pace.back_s
        else:
            # While this process was asked to leave it alone, it was not away.
            away_s = min(self._shared.unavailable_for_s, now - self._resumed_at)
            if unseen_s < self._pace.away_s <= away_s:  # else it is being filled, and that goes well
                _log.warning("counters_away", seconds=round(away_s, 3))
                instances.wants_local = True

    async def _follow(self) -> None:
        instances = self._instances
        if instances.counting == "shared":
            if self._counts != "shared":
                self._count_together()
        elif instances.counting == "paused":
            await self._stop()
        elif self._counts != "local" or self._round != instances.round:
            await self._stop()
            await self._count_locally()

    def _stop_taking(self) -> None:
        if self._counts == "shared":
            self._shared.suspend()
        self._counts = "stopped"

    async def _stop(self) -> None:
        """Nothing is taken any more, and what was is in the ledger. Raises `StoreError` where that cannot be said."""
        self._stop_taking()
        if self._has_stopped:
            return
        if self._taking:
            self._is_idle.clear()
            await self._is_idle.wait()
        await asyncio.sleep(0)  # whoever has just been told writes down its hold
        await self._ledger.flush()
        self._has_stopped = True

    def _count_together(self) -> None:
        _log.warning("counting_together")
        self._counts, self._has_stopped, self._share = "shared", False, None
        self._resumed_at = self._clock()
        self._shared.resume()

    async def _count_locally(self) -> None:
        round_ = self._instances.round
        of = self._instances.count
        started_at = self._clock()
        self._meanwhile = []
        try:
            share = await self._filled(of)
            for what in self._meanwhile:
                await what(share)
        finally:
            self._meanwhile = None
        self._share = share
        if self._instances.counting == "local" and self._instances.round == round_:
            self._counts, self._has_stopped, self._round = "local", False, round_
            seconds = round(self._clock() - started_at, 3)
            _log.warning("counting_locally", processes=of, open_elsewhere=len(share.elsewhere), seconds=seconds)

    async def _filled(self, of: int) -> LocalShare:
        """A share of what the ledger says is left. Calls may end while it is read; then it is read again.

        Where they go on to end, some of the last reading count twice here, rather than not at all.
        """
        for _ in range(_READINGS_MAX):
            own = {hold_id: (states, taken_at) for hold_id, _, states, taken_at in self._shared.open_states()}
            elsewhere = [call for call in await self._ledger.open_calls() if call.hold_id not in own]
            hold_ids = [*own, *(call.hold_id for call in elsewhere)]
            ended = await self._ledger.ended_among(hold_ids)
            memory = MemoryCounters(self._clock, self._wall_clock)
            await self._ledger.rebuild(memory)
            if await self._ledger.ended_among(hold_ids) == ended:
                break
        # From here on nothing waits: whatever ends now is told to the share.
        elsewhere = [call for call in elsewhere if call.hold_id not in ended]
        for hold_id, (states, taken_at) in own.items():
            if hold_id not in ended:
                taken = [(state.limit, state.taken) for state in states]
                memory.restore(hold_id, taken, age_s=self._clock() - taken_at)
        for call in elsewhere:
            memory.restore(call.hold_id, call.taken, age_s=self._wall_clock() - call.admitted_at)
        hold_ids = [call.hold_id for call in elsewhere]
        return LocalShare(memory, of=of, elsewhere=hold_ids, clock=self._clock, wall_clock=self._wall_clock)

    async def _ask_ended_elsewhere(self) -> None:
        """Calls of other processes give back their places when they end, or an outage would wear them out."""
        share = self._usable_share()
        if share is None or not share.elsewhere or self._clock() < self._ask_ended_at:
            return
        self._ask_ended_at = self._clock() + self._pace.ask_s
        await share.ended_elsewhere(await self._ledger.ended_among(share.elsewhere))


def _as_asked(states: Sequence[LimitState], groups: Sequence[LimitGroup]) -> list[LimitState]:
    """With the limits as they were asked for: what is told of some is a share of them."""
    return [
        state._replace(limit=next(limit for limit in group if limit.key == state.limit.key))
        for state, group in zip(states, groups, strict=True)
    ]
