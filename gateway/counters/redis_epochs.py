"""Whether the counters in Redis may be trusted, and how they come to be again when they may not.

Counters belong to an epoch, and the epoch to a server as it was when they were filled. A server that was flushed has no
epoch any more, which every script notices; one that was restarted, promoted or replaced is another server, which every
new connection notices, and a look at it now and then. That look also notices keys that were evicted and a clock that
jumped. Whichever it is, in every process:

1. nothing is taken any more, callers wait;
2. one process locks the rebuild, under the name of the new epoch, and takes the old one away;
3. all of them write down which holds they have open, and what those took;
4. after a moment long enough for that, the one fills the new epoch from the ledger and restores those holds;
5. it makes the epoch the one that counts, with the server it was made on; callers go on, in it.

The same is done where the ledger knows something that the counters could not be told (a refund), and at the start of a
process that is alone: what the last one counted may lack how its last calls ended.

A process that comes too late for 3 restores its own holds when it sees the new epoch. One that dies in between loses the
lock, and the next begins anew. An epoch is replaced like that after half a year too, long before what it counts expires.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import orjson
import structlog

from gateway.counters.base import CountersUnavailable
from gateway.counters.redis_holds import OpenHolds, restore_arguments
from gateway.counters.redis_leftovers import SWEPT_EVERY_S, end_leftovers, is_here
from gateway.counters.redis_link import INFO, Command, RedisLink, Server, server_of, unavailable
from gateway.counters.redis_names import Names
from gateway.counters.redis_scripts import RESTORE
from gateway.counters.redis_seeds import RebuildSeeds
from gateway.tasks import spawn

__all__ = ["Epochs", "Pace", "Rebuild"]

_log = structlog.get_logger()

Rebuild = Callable[[RebuildSeeds], Awaitable[None]]
_EPOCH_LASTS_S = 180 * 86_400
_CLOCK_STEP_MAX_S = 3_600.0
"""Windows and expiries are measured by the server's clock: one that jumps may have thrown counters away."""
_LOCK_MS = 10_000
_RENEWED_EVERY_S = 2.5
_LOOK_AGAIN_S = 0.02
"""While another process rebuilds, or after a failure, the shortest pause before looking again."""
_LOOK_AGAIN_MAX_S = 1.0
_REMOVED_AT_ONCE = 500

# Scripts of one line each, sent with their source: they run once in a while.
_LOCK = b"""
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 0 end
redis.call('DEL', KEYS[2])
return 1"""
_RENEW = b"return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0"
_PUBLISH = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3], KEYS[1], KEYS[4])
redis.call('HSET', KEYS[3], 'server', ARGV[2], 'made_at', redis.call('TIME')[1], 'epoch', ARGV[1], 'evicted', ARGV[3])
return 1"""
_WRITE_DOWN = b"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for number = 2, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[number], ARGV[number + 1]) end
redis.call('PEXPIRE', KEYS[2], 600000)
return 1"""
_UNLOCK = b"return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"


class Pace(NamedTuple):
    """All in seconds, and the same in every process."""

    watch_s: float = 0.5
    """How often the server is looked at."""
    gather_s: float = 1.5
    """How long a rebuild waits for every process to write down its holds: longer than `watch_s` and a command's timeout
    together. Holds of those that do not are restored late."""
    patience_s: float = 10.0
    """How long a caller waits for a rebuild."""


class _Seen(NamedTuple):
    server: Server
    epoch: str | None
    epoch_server: str
    made_at: float
    last_epoch: str
    evicted_keys: int
    """When the epoch was made."""
    clock_s: float
    """What the server's clock says, as Unix time."""
    rebuilding: str | None

    def is_sound(self) -> bool:
        """The epoch's counters are all there."""
        return (
            self.epoch_server == self.server.fingerprint
            and self.evicted_keys == self.server.evicted_keys
            and abs(self.clock_s - self.made_at) < _EPOCH_LASTS_S
        )


def _next_sweep() -> float:
    return time.monotonic() + SWEPT_EVERY_S * random.uniform(0.5, 1.0)


class Epochs:
    """Lifetime: the process. Watches the server from the first call on."""

    def __init__(
        self,
        link: RedisLink,
        names: Names,
        holds: OpenHolds,
        *,
        rebuild: Rebuild | None,
        pace: Pace,
        is_alone: bool,
        clock_argument: Callable[[], str],
        tell_endings: Callable[[], Awaitable[None]],
    ) -> None:
        self._link = link
        self._names = names
        self._holds = holds
        self._rebuild = rebuild
        self._pace = pace
        self._clock_argument = clock_argument
        self._tell_endings = tell_endings
        self._epoch: str | None = None
        self._written_down_in: str | None = None
        self._news = asyncio.Event()
        """Set when waiting callers have to look up."""
        self._has_rebuild_failed = False
        self._is_to_begin_anew = is_alone
        """What is counted is a former process's, which may have ended without a word of how its last calls did."""
        self._is_outdated = False
        """The ledger knows something that the counters were not told."""
        self._is_urgent = asyncio.Event()
        self._failures = 0
        self._clock_ahead_s = 0.0
        """How far the server's clock was ahead of this process's monotonic one when the epoch began to count here."""
        self._sweep_at = _next_sweep()
        self._connection = link.new_connection()
        self._watching: asyncio.Task[None] | None = None

    # For callers

    @property
    def epoch(self) -> str | None:
        """The epoch that counts, where that is known."""
        return self._epoch

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
        if self._rebuild is None or self._watching is None:
            return False
        self._is_outdated = True
        self.look()
        return True

    def link_failed(self) -> None:
        """The link has closed: waiting callers are told, and the server is looked at until it is there again."""
        self._news.set()
        self.look()

    async def aclose(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
        await self._connection.disconnect()

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
        seen = await self._see()
        if not seen.server.is_primary:
            raise unavailable("it is a replica")
        await self._link.expect(seen.server)
        if seen.rebuilding is not None and self._is_to_begin_anew:
            await self._unlock(seen.rebuilding)  # of a process that died while it filled them
        elif seen.rebuilding is not None:
            self._freeze()
            self._link.open()
            await self._write_down(seen.rebuilding)
            return _LOOK_AGAIN_S
        clock_ahead_s = seen.clock_s - time.monotonic()
        has_stepped = self._epoch is not None and abs(clock_ahead_s - self._clock_ahead_s) > _CLOCK_STEP_MAX_S
        if seen.epoch is None or has_stepped or not seen.is_sound() or self._is_to_begin_anew or self._is_outdated:
            self._freeze()
            self._link.open()
            await self._make_epoch(seen)
            return 0.0
        self._link.open()
        if seen.epoch != self._epoch:
            self._clock_ahead_s = clock_ahead_s
            await self._adopt(seen.epoch)
        await self._tell_endings()
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = _next_sweep()
            spawn(self._sweep(seen.epoch), "counters_sweep")
        return self._pace.watch_s

    async def _see(self) -> _Seen:
        names = self._names
        *sections, clock, epoch, server, rebuilding, _ = await self._ask(
            *INFO,
            ("TIME",),
            ("GET", names.epoch),
            ("HMGET", names.server, "server", "made_at", "epoch", "evicted"),
            ("GET", names.rebuild),
            is_here(names, self._holds.process),
        )
        fingerprint, made_at, last_epoch, evicted = (part or b"" for part in server)
        return _Seen(
            server_of(sections),
            epoch and epoch.decode(),
            fingerprint.decode(),
            float(made_at or 0),
            last_epoch.decode(),
            int(evicted or 0),
            float(clock[0]),
            rebuilding and rebuilding.decode(),
        )

    async def _ask(self, *commands: Command) -> list[Any]:
        replies = await self._link.ask(self._connection, *commands)
        for reply in replies:
            if isinstance(reply, Exception):
                _log.error("counters_refused_by_redis", reason=str(reply)[:200])
                raise unavailable("it refuses to work")
        return replies

    async def _eval(self, source: bytes, keys: tuple[str, ...], *args: bytes | str | int) -> int:
        (reply,) = await self._ask((b"EVAL", source, len(keys), *keys, *args))
        return int(reply)

    async def _sweep(self, epoch: str) -> None:
        try:
            await end_leftovers(self._link, self._names, epoch, self._clock_argument())
        except CountersUnavailable:
            return  # another time

    def _freeze(self) -> None:
        self._epoch = None

    # From one epoch to the next

    async def _write_down(self, epoch: str) -> None:
        """Which holds this process has open, for whoever makes `epoch`."""
        if self._written_down_in == epoch:
            return
        await self._link.idle()  # what was asked for before may have taken something
        rows = [part for row in self._holds.written(epoch, self._names) for part in row]
        keys = self._names.rebuild, self._names.open_holds(epoch)
        for start in range(0, len(rows), 2 * _REMOVED_AT_ONCE):
            if not await self._eval(_WRITE_DOWN, keys, epoch, *rows[start : start + 2 * _REMOVED_AT_ONCE]):
                return
        self._written_down_in = epoch

    async def _adopt(self, epoch: str) -> None:
        """Count in `epoch` from now on."""
        await self._link.idle()
        if self._written_down_in != epoch:
            seeds = self._seeds(epoch, guard=self._names.epoch)
            for hold_id, hold in self._holds.outside(epoch):
                keys, limits = restore_arguments(hold, epoch, self._names)
                await seeds.restore(RESTORE, keys, (hold_id, limits, self._holds.process))
            await seeds.flush()
        self._holds.moved(epoch)
        self._has_rebuild_failed = False
        self._epoch = epoch
        self._news.set()

    async def _make_epoch(self, seen: _Seen) -> None:
        """Unless another process does: fill a new epoch and make it the one that counts."""
        epoch = secrets.token_hex(6)
        names = self._names
        if not await self._eval(_LOCK, (names.rebuild, names.epoch), epoch, _LOCK_MS):
            return
        _log.warning("counters_rebuild_started", epoch=epoch, former=seen.epoch or "")
        self._is_outdated = False  # as of now: nothing has been read yet
        started_at = time.monotonic()
        renewing = spawn(self._renew(epoch), "counters_rebuild_lock")
        try:
            await self._write_down(epoch)
            if not self._is_to_begin_anew:  # else nobody has a hold
                await asyncio.sleep(self._pace.gather_s)
            await self._fill(epoch)
            keys = names.rebuild, names.epoch, names.server, names.open_holds(epoch)
            if not await self._eval(_PUBLISH, keys, epoch, seen.server.fingerprint, seen.server.evicted_keys):
                raise unavailable("another process has begun to fill it")
        except BaseException:
            renewing.cancel()
            self._is_outdated = True
            await self._unlock(epoch)
            raise
        renewing.cancel()
        self._is_to_begin_anew = False
        _log.info("counters_rebuilt", epoch=epoch, seconds=round(time.monotonic() - started_at, 3))
        if seen.last_epoch:
            spawn(self._remove(seen.last_epoch), "counters_remove_former")

    async def _fill(self, epoch: str) -> None:
        (written,) = await self._ask(("HGETALL", self._names.open_holds(epoch)))
        holds = dict(zip(written[::2], map(orjson.loads, written[1::2]), strict=True))
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

    async def _unlock(self, epoch: str) -> None:
        try:
            await self._eval(_UNLOCK, (self._names.rebuild,), epoch)
        except CountersUnavailable:
            return  # it lapses

    async def _remove(self, epoch: str) -> None:
        """What a former epoch left behind: it would only expire much later."""
        cursor: bytes | int = 0
        while True:
            cursor, found = await self._link.send(
                "SCAN", cursor, "MATCH", self._names.all_of(epoch), "COUNT", _REMOVED_AT_ONCE
            )
            if found:
                await self._link.send("UNLINK", *found)
            if int(cursor) == 0:
                return
