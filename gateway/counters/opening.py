"""Counters where the settings want them: in this process, or in a Redis that several share."""

from collections.abc import Awaitable, Callable, Collection

from gateway.config import Settings
from gateway.counters.base import Counters, CounterSeeds, CountersUnavailable
from gateway.counters.memory import MemoryCounters
from gateway.errors import ConfigError

__all__ = ["EndedAmong", "Rebuild", "open_counters"]

Rebuild = Callable[[CounterSeeds], Awaitable[None]]
"""Fills counters with what the ledger says was used."""
EndedAmong = Callable[[Collection[str]], Awaitable[frozenset[str]]]
"""Which of these calls, by request id, the ledger says have ended."""
_WATCH_S = 0.5
_GATHER_SPARE_S = 0.5


async def open_counters(
    settings: Settings, rebuild: Rebuild, *, ended_among: EndedAmong, wall_clock: Callable[[], float]
) -> Counters:
    """Ready to count on. `wall_clock` is for those in memory; Redis has a clock of its own.

    Raises `ConfigError` where Redis is wanted and the library is missing, or the server cannot be reached.
    """
    if settings.redis_url is None:
        counters = MemoryCounters(wall_clock=wall_clock)
        await rebuild(counters)
        return counters
    return await _open_redis(settings, settings.redis_url.get_secret_value(), rebuild, ended_among)


async def _open_redis(settings: Settings, url: str, rebuild: Rebuild, ended_among: EndedAmong) -> Counters:
    try:
        from gateway.counters.redis import RedisCounters
        from gateway.counters.redis_epochs import Pace
        from gateway.counters.redis_link import Limits
        from gateway.counters.redis_seeds import RebuildSeeds, fill_beside_calls
    except ImportError as exc:
        raise ConfigError("GATEWAY_REDIS_URL needs the extra `redis`: install `llm-gateway[redis]`") from exc

    async def fill(seeds: RebuildSeeds) -> None:
        await fill_beside_calls(seeds, rebuild, ended_among)

    timeout_s = settings.redis_command_timeout_s
    counters = RedisCounters(
        url,
        rebuild=fill,
        prefix=settings.redis_prefix,
        limits=Limits(settings.redis_connect_timeout_s, timeout_s, settings.redis_connections),
        # Every process must have had the time to see that a rebuild began.
        pace=Pace(watch_s=_WATCH_S, gather_s=_WATCH_S + timeout_s + _GATHER_SPARE_S),
        # A ledger in a file has one process.
        is_alone=settings.postgres_url is None,
    )
    try:
        await counters.connect()
    except CountersUnavailable as exc:
        await counters.aclose()
        raise ConfigError(f"GATEWAY_REDIS_URL: {exc.message}") from exc
    return counters
