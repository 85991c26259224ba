"""Counters where the settings want them: in this process, or in a Redis that several share."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial

import structlog

from gateway.config import Settings
from gateway.counters.base import Counters, CounterSeeds, CountersUnavailable
from gateway.counters.memory import MemoryCounters
from gateway.counters.open_calls import OpenCall, open_calls
from gateway.errors import ConfigError
from gateway.instances.base import Instances
from gateway.ledger.counted import ended_among, open_among
from gateway.ledger.database import Database

__all__ = ["Rebuild", "open_counters"]

_log = structlog.get_logger()

Rebuild = Callable[[CounterSeeds], Awaitable[None]]
"""Fills counters with what the ledger says was used."""
_WATCH_S = 0.5
_GATHER_SPARE_S = 0.5


async def open_counters(
    settings: Settings,
    rebuild: Rebuild,
    *,
    database: Database,
    instances: Instances,
    wall_clock: Callable[[], float],
    database_id: str = "",
) -> Counters:
    """Ready to count on. `wall_clock` is for those in memory; Redis has a clock of its own. `database_id` tells databases
    apart: those of two must not count in one Redis under the same prefix; empty: nobody looks.

    Counters in Redis go on without it while it is away, as `instances` agree. Raises `ConfigError` where Redis is wanted
    and the library is missing, or the server cannot be reached: unless other processes count without it already.
    """
    if settings.redis_url is None:
        counters = MemoryCounters(wall_clock=wall_clock)
        await rebuild(counters)
        return counters
    url, ledger = settings.redis_url.get_secret_value(), _Ledger(database, rebuild)
    return await _open_redis(settings, url, ledger, instances, wall_clock, database_id)


async def _open_redis(
    settings: Settings,
    url: str,
    ledger: "_Ledger",
    instances: Instances,
    wall_clock: Callable[[], float],
    database_id: str,
) -> Counters:
    try:
        from gateway.counters.fallback import FallbackCounters
        from gateway.counters.redis import RedisCounters
        from gateway.counters.redis_epochs import Pace
        from gateway.counters.redis_link import Limits
        from gateway.counters.redis_seeds import RebuildSeeds, fill_beside_calls
    except ImportError as exc:
        raise ConfigError("GATEWAY_REDIS_URL needs the extra `redis`: install `llm-gateway[redis]`") from exc

    async def fill(seeds: RebuildSeeds) -> None:
        await fill_beside_calls(seeds, ledger.rebuild, ledger.ended_among)

    timeout_s = settings.redis_command_timeout_s
    shared = RedisCounters(
        url,
        rebuild=fill,
        prefix=settings.redis_prefix,
        limits=Limits(settings.redis_connect_timeout_s, timeout_s, settings.redis_connections),
        # Every process must have had the time to see that a rebuild began.
        pace=Pace(watch_s=_WATCH_S, gather_s=_WATCH_S + timeout_s + _GATHER_SPARE_S),
        # A ledger in a file has one process.
        is_alone=settings.postgres_url is None,
        database_id=database_id,
        ended_among=ledger.ended_among,
        open_among=partial(open_among, ledger.database),
    )
    counters = FallbackCounters(shared, instances, ledger, wall_clock=wall_clock)
    try:
        await shared.connect()
    except ConfigError:
        await counters.aclose()
        raise
    except CountersUnavailable as exc:
        if instances.counting == "shared":
            await counters.aclose()
            raise ConfigError(f"GATEWAY_REDIS_URL: {exc.message}") from exc
        _log.warning("counters_away_at_start", reason=exc.message)
    counters.start()
    ledger.database.ledger.tell_of_late_settles(shared.ledger_was_late)
    return counters


class _Ledger:
    """`gateway.counters.fallback.LedgerSays`."""

    def __init__(self, database: Database, rebuild: Rebuild) -> None:
        self.database = database
        self.rebuild = rebuild

    async def open_calls(self) -> Sequence[OpenCall]:
        return await open_calls(self.database)

    async def ended_among(self, hold_ids: Collection[str]) -> frozenset[str]:
        return await ended_among(self.database, hold_ids)

    async def flush(self) -> None:
        await self.database.run(_nothing)


def _nothing(_: object) -> None:
    """A task for the writer that only waits for its turn."""
