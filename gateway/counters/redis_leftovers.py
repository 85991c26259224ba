"""Holds of processes that are gone.

The ledger ends the holds of a dead process, and tells the counters what they cost, within seconds. What it never heard of,
because the process died between taking and recording, would be held for good: a slot of a gauge less, credits nobody
can spend. So whoever was not seen for ten minutes has its holds ended, as if all they took had been used: what a dead
process did is not known, and then nothing is given away.
"""

import asyncio

import structlog

from gateway.counters.redis_link import Command, RedisLink
from gateway.counters.redis_names import Names
from gateway.counters.redis_scripts import LEFTOVERS

__all__ = ["SWEPT_EVERY_S", "end_leftovers", "is_here"]

_log = structlog.get_logger()

SEEN_FOR_MS = 600_000
SWEPT_EVERY_S = 120
_LOOKED_AT_ONCE = 500


def is_here(names: Names, process: str) -> Command:
    """What a process tells the server now and then."""
    return "SET", names.process(process), 1, "PX", SEEN_FOR_MS


async def end_leftovers(link: RedisLink, names: Names, epoch: str, clock: str) -> int:
    """How many holds of dead processes were ended. Only one process looks at a time. Raises `CountersUnavailable`."""
    if not await link.send("SET", names.sweep, 1, "NX", "EX", SWEPT_EVERY_S):
        return 0
    ended = 0
    cursor: bytes | int = 0
    while True:
        cursor, found = await link.send("SCAN", cursor, "MATCH", names.all_holds(epoch), "COUNT", _LOOKED_AT_ONCE)
        args = epoch, clock, names.process("")
        replies = await asyncio.gather(*(link.call(LEFTOVERS, (names.epoch, key.decode()), args) for key in found))
        ended += sum(int(reply[1]) for reply in replies if len(reply) > 1)
        if int(cursor) == 0:
            break
    if ended:
        _log.warning("counters_ended_holds_of_dead_processes", holds=ended)
    return ended
