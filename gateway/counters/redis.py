"""Counters in Redis or Valkey, shared by all processes of a gateway: the answers are those of the counters in memory.

A decision is one Lua script, and so atomic; it is one round trip, which calls that come together share. Instants are the
server's own. A step is told which epoch it counts in (redis_epochs.py), so that a server that lost its data is noticed
before anything is taken on it, and callers wait until the counters are filled from the ledger again.

Redis may be any from version 6.2, or Valkey, as one primary, with or without replicas, and must not evict keys
(`maxmemory-policy noeviction`). Imported only where counters in Redis are made: the library takes half a second.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from math import inf

import orjson

from gateway.counters.base import CountersUnavailable, LimitState, Refused, Taken
from gateway.counters.redis_epochs import Epochs, Pace
from gateway.counters.redis_holds import RELEASED, OpenHold, OpenHolds
from gateway.counters.redis_leftovers import Leftovers
from gateway.counters.redis_link import Limits, RedisLink, unavailable
from gateway.counters.redis_making import Among, EpochMaker, Rebuild
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
from gateway.counters.redis_sight import Sight
from gateway.errors import ConfigError, StoreError
from gateway.tasks import spawn
from policies.types import Limit, LimitGroup

__all__ = ["RedisCounters"]

_EPOCHS_TRIED = 5
"""A call that meets a new epoch so often is given up."""
_ENDINGS_KEPT = 512
"""Of calls that end while they are counted elsewhere, until the ledger is asked which of them it has."""
_IS_OPEN, _HAS_ENDED = -2, -3


class RedisCounters:
    """The counter store of many processes (`CounterStore`, `CounterSeeds`).

    Every method but the endings raises `CountersUnavailable`, within the timeouts of `limits`, or at once while Redis is
    known to be gone. `rebuild` fills an epoch from the ledger (see `RebuildSeeds`). `prefix` begins the name of every key.
    `is_alone`: no other process counts here, so the first epoch is always filled anew. `account_of`: see `Names`.
    `database_id` says which database fills the counters, and a process with another is refused; empty: that is not looked
    at. `ended_among` and `open_among` ask the ledger which of some holds have an entry, and which are open there: without
    them, holds of dead processes end late and as if they had been used. `clock` and `wall_clock`, as of `MemoryCounters`,
    replace the server's in tests.
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
        database_id: str = "",
        ended_among: Among | None = None,
        open_among: Among | None = None,
        clock: Callable[[], float] | None = None,
        wall_clock: Callable[[], float] | None = None,
    ) -> None:
        self._names = Names(prefix, account_of)
        self._holds = OpenHolds()
        self._link = RedisLink(url, limits or Limits(), self._link_failed)
        self._clock = clock
        self._wall_clock = wall_clock
        self._latest = -inf
        self._prefix = prefix
        self._is_alone = is_alone
        self._ended_among = ended_among
        self._kept_endings = 0
        pace = pace or Pace()
        self._leftovers = Leftovers(
            self._link, self._names, ended_among=ended_among, open_among=open_among, outdated=self._outdated
        )
        sight = Sight(self._link, self._names, self._leftovers.is_here(self._holds.process))
        maker = EpochMaker(
            sight,
            self._link,
            self._names,
            self._holds,
            rebuild=rebuild,
            ended_among=ended_among,
            gather_s=0.0 if is_alone else pace.gather_s,  # there is nobody to wait for
            database_id=database_id,
            clock_argument=self._clock_argument,
        )
        self._epochs = Epochs(
            self._link,
            sight,
            maker,
            pace=pace,
            is_filled=rebuild is not None,
            is_alone=is_alone,
            database_id=database_id,
            moved=self._holds.moved,
            tell_endings=self._tell_endings,
            sweep=self._sweep,
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
    def degraded(self) -> str:
        return ""

    @property
    def is_reachable(self) -> bool:
        """Whether commands can be sent, as far as is known, be there counters to count on or not."""
        return self._link.is_open

    @property
    def unavailable_for_s(self) -> float:
        """How long calls could not be answered, in seconds by the monotonic clock; 0 while they can. Begins with the
        object: counters are unavailable until they are connected, and as long as they are suspended."""
        return 0.0 if self.is_available else self._epochs.stopped_for_s

    @property
    def round_trips(self) -> int:
        """Made so far, also those of the watch."""
        return self._link.round_trips

    async def connect(self) -> None:
        """Returns once counters are there to count on; fills them if need be. Raises `CountersUnavailable`, and
        `ConfigError` where a gateway with another database counts under the same prefix."""
        try:
            await self._epochs.current()
        except CountersUnavailable:
            if self._epochs.is_of_others:
                raise ConfigError(
                    f"GATEWAY_REDIS_PREFIX {self._prefix!r} is used by a gateway with another database: "
                    "choose another prefix"
                ) from None
            raise

    async def aclose(self) -> None:
        """Tells Redis what it can of how holds ended, and leaves no connection or task behind."""
        try:
            if self._link.is_open and self._epochs.epoch is not None:
                await self._tell_endings()
        finally:
            await self._epochs.aclose()
            await self._link.aclose()

    def ledger_was_late(self, seconds: float) -> None:
        """Calls ended here whose entries came to the ledger only now, up to `seconds` later. Where the counters were filled from
        it meanwhile, those calls are in neither: they are filled once more."""
        if self._epochs.has_changed_within(seconds):
            self._outdated()

    # Counting elsewhere for a while

    def suspend(self) -> None:
        """From now on everything but endings is refused at once, also what has been sent and not answered. Endings are
        kept, and told later; what `adjust` is told is read from the ledger later.

        No epoch that is known now, or seen before `resume`, counts again in this process. The server is watched as ever,
        so that `is_reachable` stays true to it. Doing it twice is harmless.
        """
        self._epochs.suspend()

    def resume(self) -> None:
        """Count again, as soon as an epoch is there that was made after the suspension: of all processes that resume one
        makes it, filled from the ledger and with the open holds of all. Harmless where nothing was suspended."""
        self._epochs.resume()

    def open_states(self) -> list[tuple[str, str, tuple[LimitState, ...], float]]:
        """The open holds of this process, but those whose end is known: id, tag, what was taken, and when (monotonic)."""
        return self._holds.open_states()

    def adopt_hold(self, hold_id: str, tag: str, states: Sequence[LimitState], taken_at: float | None = None) -> None:
        """A hold that was taken elsewhere is one of this process's from now on, and is restored in the next epoch with
        what `states` say was taken. It ends by `settle` or `release` as any other: where that is before the next epoch is
        filled, the ledger says what it used. `tag` as of `tag_of`; `taken_at` on the monotonic clock, else now.

        One that is open here already stays as it is.
        """
        self._holds.adopt(hold_id, tag, tuple(states), time.monotonic() if taken_at is None else taken_at)
        if not self._epochs.is_suspended:
            self._outdated()  # the epoch that counts now has not heard of it

    def tag_of(self, groups: Sequence[LimitGroup]) -> str:
        """Under which account the hold of a call on `groups` lies."""
        return self._names.tag_among(limit.key for group in groups for limit in group)

    # CounterStore

    async def take(self, hold_id: str, groups: Sequence[LimitGroup]) -> Taken | Refused:
        if self._holds.is_abandoned(hold_id):
            raise unavailable("the call was given up before")
        if hold_id in self._holds:
            raise ValueError(f"hold {hold_id} is open already")
        tag = self.tag_of(groups)
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
        tag = self.tag_of(groups)

        def ask(epoch: str) -> "asyncio.Future[Reply]":
            keys, wanted = groups_for(groups, epoch, self._names)
            return self._call(TAKE, epoch, (self._names.holds(tag, epoch), *keys), "", wanted, "")

        return answer_of(await self._in_epoch(ask), groups)

    async def adjust(self, key: str, units: int, *, resets_at: float | None = None) -> None:
        """As the contract says. What Redis cannot be told now, it is told by filling it from the ledger once more."""
        if self._epochs.is_suspended:
            self._outdated()
            return
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
            if self._epochs.is_distrusted(epoch):
                raise unavailable("calls are not counted in it for now")
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

    # Endings

    async def _end(self, hold_id: str, how: bytes, account_id: str | None) -> None:
        hold = self._holds.ending(hold_id, how)
        if self._epochs.is_suspended:
            self._end_elsewhere(hold_id, hold, account_id)
            return
        if hold is None:
            if account_id is None or hold_id in self._holds:
                return  # it has ended, or is about to
            hold = self._holds.foreign(hold_id, account_id, how)
        await self._tell_ending(hold_id, hold)

    def _end_elsewhere(self, hold_id: str, hold: OpenHold | None, account_id: str | None) -> None:
        """No epoch counts that holds it. One to come need not, unless its entry is not in the ledger yet."""
        if hold is None:
            if account_id is not None and hold_id not in self._holds:
                self._holds.forget([hold_id])
        elif not hold.is_booked:
            self._holds.ended(hold_id)
        else:
            self._kept_endings += 1
            if self._kept_endings % _ENDINGS_KEPT == 0 and self._ended_among is not None:
                spawn(self._forget_ended(self._ended_among), "counters_forget_ended")

    async def _forget_ended(self, ended_among: Among) -> None:
        """However long calls are counted elsewhere, those that ended do not pile up."""
        with suppress(StoreError):
            ended = await ended_among(self._holds.booked())
            if self._epochs.is_suspended:  # else a process may be about to restore them
                self._holds.forget(ended)

    async def _tell_ending(self, hold_id: str, hold: OpenHold) -> None:
        """Where the server is gone, or is being filled, it is told again later: nobody has to wait for that."""
        epoch = self._epochs.epoch
        if epoch is None or hold.ending is None or hold.is_unheard_of:
            self._epochs.start()
            return
        hold.is_being_told = True
        may_have_ended, hold.may_have_ended = hold.may_have_ended, True
        try:
            reply = await self._call(END, epoch, (self._names.holds(hold.tag, epoch),), hold_id, hold.ending)
        except CountersUnavailable:
            return
        finally:
            hold.is_being_told = False
        if reply[0] == RETRY:
            hold.may_have_ended = may_have_ended
            self._epochs.lost(epoch)
            return
        self._holds.ended(hold_id)
        if reply[0] == 0 and hold.is_booked and not may_have_ended and not self._is_alone:
            # It was not held: whoever ended it did not say what this says, or it was open in no process when the epoch
            # was made. The ledger knows what it used.
            self._outdated()

    async def _tell_endings(self) -> None:
        """Whatever has not arrived yet: the server was gone, or whoever waited for an answer was."""
        if endings := [self._tell_ending(hold_id, hold) for hold_id, hold in self._holds.unended()]:
            await asyncio.gather(*endings)

    async def _sweep(self, epoch: str) -> None:
        await self._leftovers.end(epoch, self._clock_argument())

    def _outdated(self) -> None:
        self._epochs.outdated()

    def _link_failed(self) -> None:
        self._epochs.link_failed()
