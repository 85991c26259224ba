"""Writing counters that the ledger knows: into the epoch that counts, and into one that is being made.

A rebuild sets very many figures, one after the other. They are sent many at a time, so that a pause between two of them
costs no round trip; the last are sent by `flush`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any

import orjson
import structlog

from gateway.counters.base import CounterSeeds
from gateway.counters.redis_link import RedisLink, unavailable
from gateway.counters.redis_names import Names
from gateway.counters.redis_scripts import BOOK, FILL, RETRY, Reply, Script, microseconds, number_for

__all__ = ["RebuildSeeds", "fill_arguments", "fill_beside_calls", "require_written", "set_arguments"]

_log = structlog.get_logger()

_SENT_AT_ONCE = 512
_READINGS_MAX = 50


def fill_arguments(window_s: int, capacity: int, admitted: Iterable[tuple[float, int]], unit: str) -> tuple[str, ...]:
    """What FILL wants to hear beside its keys, the guard and the clock."""
    ages = [(microseconds(age_s), number_for(units)) for age_s, units in admitted if units > 0]
    frame = window_s * 1_000_000, number_for(capacity), unit
    return orjson.dumps(frame).decode(), orjson.dumps(ages).decode()


def set_arguments(key: str, units: int, resets_at: float | None, *, is_refused: bool) -> tuple[str, ...]:
    """As `fill_arguments`, for BOOK. Raises `ValueError` below 0."""
    if units < 0:
        raise ValueError(f"{key} cannot have {units} settled")
    return "set", str(units), "0" if resets_at is None else str(microseconds(resets_at)), "1" if is_refused else ""


def require_written(reply: Reply, key: str) -> None:
    """Raises `ValueError` where the counter is of another kind."""
    if reply[0] == -4:
        raise ValueError(f"{key} settles nothing")
    if reply[0] == -5:
        raise ValueError(f"{key} is not a rolling window")


async def fill_beside_calls(
    seeds: "RebuildSeeds",
    fill: Callable[[CounterSeeds], Awaitable[None]],
    ended_among: Callable[[Collection[str]], Awaitable[frozenset[str]]],
) -> None:
    """`fill` with all that has ended, and nothing else, though calls in flight may end while it reads.

    Where one has, everything is read again. None begins meanwhile, so that comes to an end; should they end faster than
    the ledger is read, those of the last reading count twice until the month is over, rather than not at all.
    """
    ended = await ended_among(seeds.hold_ids)
    for _ in range(_READINGS_MAX):
        before = ended
        await fill(seeds)
        await seeds.flush()  # the next reading must not be overtaken by this one
        ended = await ended_among(seeds.hold_ids)
        seeds.ended(before)
        if ended == before:
            return
    _log.warning("counters_rebuilt_roughly", calls=len(ended - before))


class RebuildSeeds(CounterSeeds):
    """What a rebuild writes with (`CounterSeeds`), and what it may know of the calls in flight (`fill_beside_calls`).

    Calls in flight are restored by the processes that serve them, so a rebuild seeds what has ended, and nothing else. A
    call may end while it reads. Where it can say, for all it has read, which of `hold_ids` had ended by then, it tells
    `ended`, and the rebuild is exact. Otherwise those count as ended whose processes were ending them when the rebuild
    began.
    """

    def __init__(
        self, link: RedisLink, names: Names, epoch: str, *, guard: str, clock: str, hold_ids: Collection[str]
    ) -> None:
        self._link = link
        self._names = names
        self._epoch = epoch
        self._guard = guard
        """The key that holds the name of the epoch as long as it may be written so."""
        self._clock = clock
        self.hold_ids = hold_ids
        """Of every call in flight, in any process."""
        self.told_ended: frozenset[str] | None = None
        self._sent: list[tuple[str, asyncio.Future[Reply]]] = []

    def ended(self, hold_ids: Iterable[str]) -> None:
        """These had ended, and are among what was read; all others of `hold_ids` had not, and are not."""
        self.told_ended = frozenset(hold_ids)

    async def seed_rolling(
        self, key: str, window_s: int, capacity: int, admitted: Iterable[tuple[float, int]], *, unit: str = "request"
    ) -> None:
        await self._write(FILL, key, fill_arguments(window_s, capacity, admitted, unit))

    async def seed_settled(
        self, key: str, units: int, *, resets_at: float | None = None, is_refused: bool = False
    ) -> None:
        await self._write(BOOK, key, set_arguments(key, units, resets_at, is_refused=is_refused))

    async def restore(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> None:
        await self._send(script, keys, args, "")

    async def flush(self) -> None:
        """Returns when all of it is written. Raises `CountersUnavailable`, or `ValueError` for what made no sense."""
        sent, self._sent = self._sent, []
        replies = await asyncio.gather(*(answer for _, answer in sent))
        for (key, _), reply in zip(sent, replies, strict=True):
            if reply[0] == RETRY:
                raise unavailable("another process has begun to fill it")
            require_written(reply, key)

    async def _write(self, script: Script, key: str, args: Sequence[str]) -> None:
        names, epoch = self._names, self._epoch
        await self._send(script, (names.holds(names.tag(key), epoch), names.counter(key, epoch)), args, key)

    async def _send(self, script: Script, keys: Sequence[str], args: Sequence[Any], key: str) -> None:
        guarded = self._link.call(script, (self._guard, *keys), (self._epoch, self._clock, *args))
        self._sent.append((key, guarded))
        if len(self._sent) >= _SENT_AT_ONCE:
            await self.flush()
