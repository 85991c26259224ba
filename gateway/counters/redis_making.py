"""How a new epoch of counters comes to be, once it is known that it must.

1. One process locks the rebuild, under the name of the new epoch, and takes the old one away.
2. All write down which holds they have open, and what those took, until the one has gathered them.
3. It fills the new epoch from the ledger and restores those holds.
4. It makes the epoch the one that counts, with the server it was made on.

Whoever comes too late for 2 is told so, and restores its own holds when it sees the new epoch.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import orjson
import structlog

from gateway.counters.base import CountersUnavailable
from gateway.counters.redis_holds import RELEASED, OpenHolds, restore_arguments
from gateway.counters.redis_link import RedisLink, unavailable
from gateway.counters.redis_names import Names
from gateway.counters.redis_scripts import RESTORE
from gateway.counters.redis_seeds import RebuildSeeds
from gateway.counters.redis_sight import Seen, Sight
from gateway.tasks import spawn

__all__ = ["Among", "EpochMaker", "Rebuild"]

_log = structlog.get_logger()

Rebuild = Callable[[RebuildSeeds], Awaitable[None]]
Among = Callable[[Collection[str]], Awaitable[frozenset[str]]]
"""Those of some hold ids of which something is so in the ledger."""
_LOCK_MS = 10_000
_RENEWED_EVERY_S = 2.5
_AT_ONCE = 500

# Scripts of few lines, sent with their source: they run once in a while.
_LOCK = b"""
local database = redis.call('GET', KEYS[3])
if ARGV[4] ~= '' and database and database ~= ARGV[4] then return 0 end
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[3] then return 0 end
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 0 end
redis.call('DEL', KEYS[2])
if ARGV[4] ~= '' then redis.call('SET', KEYS[3], ARGV[4]) end
return 1"""
_RENEW = b"return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0"
# The hash of the open holds has a field without a name as soon as it has been read: what came later would be lost.
_WRITE_DOWN = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('HEXISTS', KEYS[2], '') == 1 then return 0 end
for number = 2, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[number], ARGV[number + 1]) end
redis.call('PEXPIRE', KEYS[2], 600000)
return 1"""
_GATHER = b"""
local written = redis.call('HGETALL', KEYS[1])
redis.call('HSET', KEYS[1], '', '')
redis.call('PEXPIRE', KEYS[1], 600000)
return written"""
_PUBLISH = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3], KEYS[1], KEYS[4])
redis.call('HSET', KEYS[3], 'server', ARGV[2], 'made_at', redis.call('TIME')[1], 'epoch', ARGV[1], 'evicted', ARGV[3])
return 1"""
_UNLOCK = b"return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"


class EpochMaker:
    """Lifetime: the process. `gather_s`: how long a rebuild waits for other processes to write down their holds.

    All methods but `give_up` are for the task that watches the server, and raise `CountersUnavailable`.
    """

    def __init__(
        self,
        sight: Sight,
        link: RedisLink,
        names: Names,
        holds: OpenHolds,
        *,
        rebuild: Rebuild | None,
        ended_among: Among | None,
        gather_s: float,
        database_id: str,
        clock_argument: Callable[[], str],
    ) -> None:
        self._sight = sight
        self._link = link
        self._names = names
        self._holds = holds
        self._rebuild = rebuild
        self._ended_among = ended_among
        self._gather_s = gather_s
        self._database_id = database_id
        self._clock_argument = clock_argument
        self._written_down_in: str | None = None
        self._waiting: asyncio.Timeout | None = None

    # In whichever process

    async def write_down(self, epoch: str) -> bool:
        """Which holds this process has open, for whoever makes `epoch`. False where it came too late, or had done it."""
        if self._written_down_in == epoch:
            return False
        await self._link.idle()  # what was asked for before may have taken something
        rows = list(self._holds.written(epoch, self._names))
        for start in range(0, len(rows) or 1, _AT_ONCE):
            some = [part for row in rows[start : start + _AT_ONCE] for part in row]
            if not await self._sight.eval(
                _WRITE_DOWN, (self._names.rebuild, self._names.open_holds(epoch)), epoch, *some
            ):
                return False
        self._holds.were_written([hold_id for hold_id, _ in rows], epoch)
        self._written_down_in = epoch
        return True

    async def is_too_late(self, epoch: str) -> bool:
        """Whether a hold that `epoch` has not heard of may have ended before it was filled: then nobody can say whether
        what it used is among the figures."""
        late = self._holds.outside(epoch)
        if self._rebuild is None:
            return False
        if self._holds.has_forgotten or any(hold.ending not in (None, RELEASED) for _, hold in late):
            return True
        if self._ended_among is None or not late:
            return False
        return bool(await self._ended_among([hold_id for hold_id, _ in late]))

    async def join(self, epoch: str) -> None:
        """Restore in `epoch`, which counts by now, what was not written down for it."""
        await self._link.idle()
        seeds = self._seeds(epoch, guard=self._names.epoch)
        for hold_id, hold in self._holds.outside(epoch):
            keys, limits = restore_arguments(hold, epoch, self._names)
            await seeds.restore(RESTORE, keys, (hold_id, limits, self._holds.process))
        await seeds.flush()

    async def unlock(self, epoch: str) -> None:
        """Give up the rebuild of `epoch`, if it is still going on."""
        try:
            await self._sight.eval(_UNLOCK, (self._names.rebuild,), epoch)
        except CountersUnavailable:
            return  # it lapses

    # In the one that makes it

    async def lock(self, epoch: str, seen: Seen) -> bool:
        """Begin to make `epoch` instead of the one that was seen. False where others are making one, or have."""
        names = self._names
        keys = names.rebuild, names.epoch, names.database
        return bool(await self._sight.eval(_LOCK, keys, epoch, _LOCK_MS, seen.epoch or "", self._database_id))

    async def make(self, epoch: str, seen: Seen, *, is_wanted: Callable[[], bool]) -> bool:
        """Fill `epoch`, which is locked, and make it the one that counts. False where it was given up.

        `is_wanted` says whether to go on; who changes that calls `give_up`.
        """
        _log.warning("counters_rebuild_started", epoch=epoch, former=seen.epoch or "")
        started_at = time.monotonic()
        renewing = spawn(self._renew(epoch), "counters_rebuild_lock")
        try:
            await self.write_down(epoch)
            is_made = (
                await self._interruptible(asyncio.sleep(self._gather_s), is_wanted)
                and await self._fill(epoch, is_wanted)
                and await self._publish(epoch, seen)
            )
        except BaseException:
            await self.unlock(epoch)
            raise
        finally:
            renewing.cancel()
        if not is_made:
            await self.unlock(epoch)
            spawn(self._remove(epoch), "counters_remove_given_up")
            return False
        _log.info("counters_rebuilt", epoch=epoch, seconds=round(time.monotonic() - started_at, 3))
        if seen.last_epoch:
            spawn(self._remove(seen.last_epoch), "counters_remove_former")
        return True

    def give_up(self) -> None:
        """Wake up what `make` waits for, so that it asks whether it is wanted."""
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def _interruptible(self, work: Awaitable[None], is_wanted: Callable[[], bool]) -> bool:
        """Whether it is still wanted when `work` is done. Not for what the watch's connection is asked, whose answers
        would be left lying."""
        scope = asyncio.timeout(None if is_wanted() else 0)
        try:
            async with scope as self._waiting:
                await work
        except TimeoutError:
            if not scope.expired():
                raise
            return False
        finally:
            self._waiting = None
        return is_wanted()

    async def _fill(self, epoch: str, is_wanted: Callable[[], bool]) -> bool:
        written = await self._sight.eval(_GATHER, (self._names.open_holds(epoch),))
        holds = dict(zip(written[::2], map(orjson.loads, written[1::2]), strict=True))
        return await self._interruptible(self._write(epoch, holds), is_wanted)

    async def _write(self, epoch: str, holds: dict[bytes, Any]) -> None:
        seeds = self._seeds(epoch, guard=self._names.rebuild, hold_ids=frozenset(map(bytes.decode, holds)))
        if self._rebuild is not None:
            await self._rebuild(seeds)
            await seeds.flush()  # commands on several connections overtake each other, and a figure set erases a hold
        for hold_id, (keys, args, is_ending) in holds.items():
            ended = seeds.told_ended
            if is_ending if ended is None else hold_id.decode() in ended:
                continue
            await seeds.restore(RESTORE, keys, (hold_id, *args))
        await seeds.flush()

    async def _publish(self, epoch: str, seen: Seen) -> bool:
        names = self._names
        keys = names.rebuild, names.epoch, names.server, names.open_holds(epoch)
        if not await self._sight.eval(_PUBLISH, keys, epoch, seen.server.fingerprint, seen.server.evicted_keys):
            raise unavailable("another process has begun to fill it")
        return True

    def _seeds(self, epoch: str, *, guard: str, hold_ids: frozenset[str] = frozenset()) -> RebuildSeeds:
        clock = self._clock_argument()
        return RebuildSeeds(self._link, self._names, epoch, guard=guard, clock=clock, hold_ids=hold_ids)

    async def _renew(self, epoch: str) -> None:
        """Keep the lock while the rebuild lasts; on a connection of its own, as that of the watch is busy with it."""
        while True:
            await asyncio.sleep(_RENEWED_EVERY_S)
            try:
                await self._link.send(b"EVAL", _RENEW, 1, self._names.rebuild, epoch, _LOCK_MS)
            except CountersUnavailable:
                continue  # the rebuild notices by itself

    async def _remove(self, epoch: str) -> None:
        """What a former epoch left behind: it would only expire much later."""
        cursor: bytes | int = 0
        pattern = self._names.all_of(epoch)
        try:
            while True:
                cursor, found = await self._link.send("SCAN", cursor, "MATCH", pattern, "COUNT", _AT_ONCE)
                if found:
                    await self._link.send("UNLINK", *found)
                if int(cursor) == 0:
                    return
        except CountersUnavailable:
            return  # it expires
