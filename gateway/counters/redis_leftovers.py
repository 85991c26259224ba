"""Holds of processes that are gone.

The ledger ends the holds of a dead process, and tells the counters what they cost, within seconds. What it never heard of,
because the process died between taking and recording, would be held for good: a slot of a gauge less, credits nobody
can spend. So the ledger is asked about the holds of whoever was not seen for a minute:

1. what is open there is left to whoever books it as crashed;
2. what has an entry there was ended and the counters not told: they are filled from the ledger once more;
3. of what it knows nothing, no provider was asked either, as a hold is recorded before that: it is released.

Where it cannot be asked, a hold is ended after ten minutes as if all it took had been used: what a dead process did is not
known then, and nothing is given away.
"""

import asyncio
from collections.abc import Callable

import structlog

from gateway.counters.base import CountersUnavailable
from gateway.counters.redis_holds import RELEASED
from gateway.counters.redis_link import Command, RedisLink
from gateway.counters.redis_making import Among
from gateway.counters.redis_names import Names
from gateway.counters.redis_scripts import END, LEFTOVERS
from gateway.errors import StoreError

__all__ = ["SWEPT_EVERY_S", "Leftovers"]

_log = structlog.get_logger()

_ASKED_AFTER_MS, _ENDED_AFTER_MS = 60_000, 600_000
SWEPT_EVERY_S = 30
_LOOKED_AT_ONCE = 500
_ALL_USED = b"{}"

_Hold = tuple[str, str]
"""The key of its account's holds, and its id."""


class Leftovers:
    """Lifetime: the process. `ended_among` and `open_among` ask the ledger, of hold ids, which have an entry, and which are
    open. `outdated` has the counters filled once more."""

    def __init__(
        self,
        link: RedisLink,
        names: Names,
        *,
        ended_among: Among | None,
        open_among: Among | None,
        outdated: Callable[[], None],
    ) -> None:
        self._link = link
        self._names = names
        self._ended_among = ended_among
        self._open_among = open_among
        self._outdated = outdated

    def is_here(self, process: str) -> Command:
        """What a process tells the server now and then."""
        is_asked = self._ended_among is not None and self._open_among is not None
        return "SET", self._names.process(process), 1, "PX", _ASKED_AFTER_MS if is_asked else _ENDED_AFTER_MS

    async def end(self, epoch: str, clock: str) -> int:
        """How many holds of dead processes were ended; only one process looks at a time. What cannot be found out now is
        found out another time."""
        try:
            if not await self._link.send("SET", self._names.sweep, 1, "NX", "EX", SWEPT_EVERY_S):
                return 0
            found = await self._found(epoch, clock)
            ended = await self._decided(epoch, clock, found) if found else 0
        except (CountersUnavailable, StoreError) as error:
            _log.warning("counters_leftovers_kept", reason=error.message)
            return 0
        if ended:
            _log.warning("counters_ended_holds_of_dead_processes", holds=ended)
        return ended

    async def _found(self, epoch: str, clock: str) -> dict[_Hold, bool]:
        """The holds of dead processes, and whether they took credits alone."""
        found: dict[_Hold, bool] = {}
        args = epoch, clock, self._names.process("")
        cursor: bytes | int = 0
        while True:
            cursor, keys = await self._link.send(
                "SCAN", cursor, "MATCH", self._names.all_holds(epoch), "COUNT", _LOOKED_AT_ONCE
            )
            accounts = [key.decode() for key in keys]
            replies = await asyncio.gather(
                *(self._link.call(LEFTOVERS, (self._names.epoch, key), args) for key in accounts)
            )
            for account, (_, *rows) in zip(accounts, replies, strict=True):
                for hold_id, is_of_credits in zip(rows[::2], rows[1::2], strict=True):
                    if isinstance(hold_id, bytes):
                        found[account, hold_id.decode()] = bool(is_of_credits)
            if int(cursor) == 0:
                return found

    async def _decided(self, epoch: str, clock: str, found: dict[_Hold, bool]) -> int:
        if self._ended_among is None or self._open_among is None:
            return await self._end(epoch, clock, list(found), _ALL_USED)
        # In this order: what ends in between is among those that have ended.
        open_ids = await self._open_among([hold_id for _, hold_id in found])
        asked = {hold: is_of_credits for hold, is_of_credits in found.items() if hold[1] not in open_ids}
        ended_ids = await self._ended_among([hold_id for _, hold_id in asked])
        # Credits that are taken away are never recorded as a hold, and their entry has another id.
        never_dialled = [
            hold for hold, is_of_credits in asked.items() if hold[1] not in ended_ids and not is_of_credits
        ]
        if len(never_dialled) < len(asked):
            self._outdated()
        return await self._end(epoch, clock, never_dialled, RELEASED)

    async def _end(self, epoch: str, clock: str, holds: list[_Hold], how: bytes) -> int:
        ended = 0
        for start in range(0, len(holds), _LOOKED_AT_ONCE):
            replies = await asyncio.gather(
                *(
                    self._link.call(END, (self._names.epoch, account), (epoch, clock, hold_id, how))
                    for account, hold_id in holds[start : start + _LOOKED_AT_ONCE]
                )
            )
            ended += sum(reply[0] == 1 for reply in replies)
        return ended
