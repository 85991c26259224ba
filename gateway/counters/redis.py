"""Counters in Redis or Valkey, shared by all processes of a gateway: the answers are those of the counters in memory.

A decision is one Lua script, and so atomic; it is one round trip, which calls that come together share. Instants are the
server's own. A step is told which epoch it counts in (redis_epochs.py), so that a server that lost its data is noticed
before anything is taken on it, and callers wait until the counters are filled from the ledger again.

Redis may be any from version 6.2, or Valkey, as one primary, with or without replicas, and must not evict keys
(`maxmemory-policy noeviction`). Imported only where counters in Redis are made: the library takes half a second.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

import orjson

from gateway.counters.base import CountersUnavailable, LimitState, Refused, Taken
from gateway.counters.redis_epochs import Epochs, Pace, Rebuild
from gateway.counters.redis_holds import RELEASED, OpenHold, OpenHolds
from gateway.counters.redis_link import Limits, RedisLink, unavailable
from gateway.counters.redis_names import Names
from gateway.counters.redis_scripts import (
    BOOK,
    END,
    FILL,
    READ,
    RETRY,
    TAKE,
    Reply,
    Script,
    answer_of,
    groups_for,
    limits_for,
    microseconds,
    settle_json,
    states_of,
)
from gateway.counters.redis_seeds import fill_arguments, require_written, set_arguments
from policies.types import Limit, LimitGroup

__all__ = ["RedisCounters"]

_EPOCHS_TRIED = 5
"""A call that meets a new epoch so often is given up."""
_IS_OPEN, _HAS_ENDED = -2, -3


class RedisCounters:
    """The counter store of many processes (`CounterStore`, `CounterSeeds`).

    Every method but the endings raises `CountersUnavailable`, within the timeouts of `limits`, or at once while Redis is
    known to be gone. `rebuild` fills an epoch from the ledger (see `RebuildSeeds`). `prefix` begins the name of every key.
    `is_alone`: no other process counts here, so the first epoch is always filled anew. `account_of`: see `Names`. `clock` and `wall_clock`, as of `MemoryCounters`, replace the server's in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        rebuild: Rebuild | None = None,
        prefix: str = "gw:",
        account_of: Callable[[str], str] | None = None,
        limits: Limits | None = None,
        pace: Pace | None = None,
        is_alone: bool = False,
        clock: Callable[[], float] | None = None,
        wall_clock: Callable[[], float] | None = None,
    ) -> None:
        self._names = Names(prefix, account_of)
        self._holds = OpenHolds()
        self._link = RedisLink(url, limits or Limits(), self._link_failed)
        self._clock = clock
        self._wall_clock = wall_clock
        self._latest = -inf
        self._epochs = Epochs(
            self._link,
            self._names,
            self._holds,
            rebuild=rebuild,
            pace=pace or Pace(),
            is_alone=is_alone,
            clock_argument=self._clock_argument,
            tell_endings=self._tell_endings,
        )

    @property
    def open_holds(self) -> int:
        """Holds of this process, those that could not be ended in Redis yet among them."""
        return len(self._holds)

    @property
    def is_available(self) -> bool:
        """Whether a call would be answered now, as far as is known."""
        return self._link.is_open and self._epochs.epoch is not None

    @property
    def round_trips(self) -> int:
        """Made so far, also those of the watch."""
        return self._link.round_trips

    async def connect(self) -> None:
        """Returns once counters are there to count on; fills them if need be. Raises `CountersUnavailable`."""
        await self._epochs.current()

    async def aclose(self) -> None:
        """Tells Redis what it can of how holds ended, and leaves no connection or task behind."""
        try:
            if self._link.is_open and self._epochs.epoch is not None:
                await self._tell_endings()
        finally:
            await self._epochs.aclose()
            await self._link.aclose()

    # CounterStore

    async def take(self, hold_id: str, groups: Sequence[LimitGroup]) -> Taken | Refused:
        if self._holds.is_abandoned(hold_id):
            raise unavailable("the call was given up before")
        if hold_id in self._holds:
            raise ValueError(f"hold {hold_id} is open already")
        tag = self._tag(groups)
        epoch = ""
        is_known = True  # whether it was taken
        process = self._holds.process

        def ask(current: str) -> "asyncio.Future[Reply]":
            nonlocal epoch, is_known
            keys, wanted = groups_for(groups, current, self._names)
            answer = self._call(TAKE, current, (self._names.holds(tag, current), *keys), hold_id, wanted, process)
            epoch, is_known = current, False
            return answer

        try:
            reply = await self._in_epoch(ask)
            is_known = True
        finally:
            if not is_known:
                self._holds.abandon(hold_id, tag, epoch)
                self._epochs.look()
        if reply[0] == _IS_OPEN:
            raise ValueError(f"hold {hold_id} is open already")
        if reply[0] == _HAS_ENDED:
            raise unavailable("the call was given up before")
        answer = answer_of(reply, groups)
        if isinstance(answer, Taken):
            self._holds.opened(hold_id, tag, epoch, answer.states)
        return answer

    async def settle(self, hold_id: str, actuals: Mapping[str, int], *, account_id: str | None = None) -> None:
        """As the contract says; of a hold that another process took, `account_id` says whose it was."""
        await self._end(hold_id, settle_json(actuals), account_id)

    async def release(self, hold_id: str, *, account_id: str | None = None) -> None:
        await self._end(hold_id, RELEASED, account_id)

    async def preview(self, groups: Sequence[LimitGroup]) -> Taken | Refused:
        tag = self._tag(groups)

        def ask(epoch: str) -> "asyncio.Future[Reply]":
            keys, wanted = groups_for(groups, epoch, self._names)
            return self._call(TAKE, epoch, (self._names.holds(tag, epoch), *keys), "", wanted, "")

        return answer_of(await self._in_epoch(ask), groups)

    async def adjust(self, key: str, units: int, *, resets_at: float | None = None) -> None:
        """As the contract says. What Redis cannot be told now, it is told by filling it from the ledger once more."""
        if self._epochs.epoch is None and self._epochs.outdated():
            return  # what fills the counters now may have read of it, or not
        epoch, names = self._epochs.epoch or await self._epochs.current(), self._names
        keys = names.holds(names.tag(key), epoch), names.counter(key, epoch)
        args = "add", str(units), "" if resets_at is None else str(microseconds(resets_at)), ""
        try:
            reply = await self._call(BOOK, epoch, keys, *args)
        except CountersUnavailable:
            if self._epochs.outdated():
                return
            raise
        if reply[0] != RETRY:
            require_written(reply, key)
            return
        self._epochs.lost(epoch)
        if not self._epochs.outdated():
            await self._write(BOOK, key, args)

    async def read(self, limits: Iterable[Limit]) -> tuple[LimitState, ...]:
        limits = tuple(limits)
        if not limits:
            return ()
        tag = self._names.tag_among(limit.key for limit in limits)

        def ask(epoch: str) -> "asyncio.Future[Reply]":
            keys, rows = limits_for([(limit, limit.amount) for limit in limits], epoch, self._names)
            return self._call(READ, epoch, (self._names.holds(tag, epoch), *keys), orjson.dumps(rows))

        return states_of(await self._in_epoch(ask), limits)

    # CounterSeeds

    async def seed_rolling(
        self, key: str, window_s: int, capacity: int, admitted: Iterable[tuple[float, int]], *, unit: str = "request"
    ) -> None:
        await self._write(FILL, key, fill_arguments(window_s, capacity, admitted, unit))

    async def seed_settled(
        self, key: str, units: int, *, resets_at: float | None = None, is_refused: bool = False
    ) -> None:
        await self._write(BOOK, key, set_arguments(key, units, resets_at, is_refused=is_refused))

    # Steps

    async def _write(self, script: Script, key: str, args: Sequence[str]) -> None:
        names = self._names
        tag = names.tag(key)
        reply = await self._in_epoch(
            lambda epoch: self._call(script, epoch, (names.holds(tag, epoch), names.counter(key, epoch)), *args)
        )
        require_written(reply, key)

    async def _in_epoch(self, ask: Callable[[str], "asyncio.Future[Reply]"]) -> Reply:
        """The reply in the epoch that counts, which `ask` is told."""
        for _ in range(_EPOCHS_TRIED):
            epoch = self._epochs.epoch or await self._epochs.current()
            reply = await ask(epoch)
            if reply[0] != RETRY:
                return reply
            self._epochs.lost(epoch)
        raise unavailable("it loses what it was told again and again")

    def _call(self, script: Script, epoch: str, keys: Sequence[str], *args: bytes | str) -> "asyncio.Future[Reply]":
        return self._link.call(script, (self._names.epoch, *keys), (epoch, self._clock_argument(), *args))

    def _clock_argument(self) -> str:
        """Empty: the server's clock counts."""
        if self._clock is None or self._wall_clock is None:
            return ""
        self._latest = max(self._latest, self._clock())
        return f"[{microseconds(self._latest)},{microseconds(self._wall_clock())}]"

    def _tag(self, groups: Sequence[LimitGroup]) -> str:
        return self._names.tag_among(limit.key for group in groups for limit in group)

    # Endings

    async def _end(self, hold_id: str, how: bytes, account_id: str | None) -> None:
        hold = self._holds.ending(hold_id, how)
        if hold is None:
            if account_id is None or hold_id in self._holds:
                return  # it has ended, or is about to
            hold = self._holds.foreign(hold_id, account_id, how)
        await self._tell_ending(hold_id, hold)

    async def _tell_ending(self, hold_id: str, hold: OpenHold) -> None:
        """Where the server is gone, or is being filled, it is told again later: nobody has to wait for that."""
        epoch = self._epochs.epoch
        if epoch is None or hold.ending is None:
            self._epochs.start()
            return
        hold.is_being_told = True
        try:
            reply = await self._call(END, epoch, (self._names.holds(hold.tag, epoch),), hold_id, hold.ending)
        except CountersUnavailable:
            return
        finally:
            hold.is_being_told = False
        if reply[0] == RETRY:
            self._epochs.lost(epoch)
        else:
            self._holds.ended(hold_id)

    async def _tell_endings(self) -> None:
        """Whatever has not arrived yet: the server was gone, or whoever waited for an answer was."""
        if endings := [self._tell_ending(hold_id, hold) for hold_id, hold in self._holds.unended()]:
            await asyncio.gather(*endings)

    def _link_failed(self) -> None:
        self._epochs.link_failed()
