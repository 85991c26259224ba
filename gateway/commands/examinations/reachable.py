"""What answers: the data folder, the running gateway, Redis, and the providers' addresses where somebody asked for that.

No address that a password may stand in is ever told, nor what a library says about one.
"""

import asyncio
import os
import shutil
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from gateway.catalog import Catalog, ProviderRow
from gateway.commands.examinations.finding import Finding, bad, ok, warn, without_secrets
from gateway.errors import ConfigError, GatewayError

if TYPE_CHECKING:
    from gateway.config import Settings

__all__ = ["examine_folder", "examine_gateway", "examine_providers", "examine_redis"]

_FREE_BYTES_LOW = 2**30
_FREE_BYTES_LEAST = 64 * 2**20
_CLOCK_DIFFERS_S = 5.0
_PROVIDERS_AT_ONCE = 8
_GIB = 2**30


def examine_folder(settings: "Settings") -> Iterator[Finding]:
    """Whether the data folder is there, can be written to, and has room."""
    folder = settings.data_dir
    if not folder.is_dir():
        nearest = next(parent for parent in folder.absolute().parents if parent.is_dir())
        yield ok("reachable", "data folder", f"{folder} is not there yet; the first start makes it")
        yield _room(os.fspath(nearest))
        return
    if os.access(folder, os.W_OK | os.X_OK):
        yield ok("reachable", "data folder", f"{folder} can be written to")
    else:
        advice = "run this as the user the gateway runs as, or set GATEWAY_DATA_DIR"
        yield bad("reachable", "data folder", f"{folder} cannot be written to", advice)
    yield _room(os.fspath(folder))


def _room(folder: str) -> Finding:
    free = shutil.disk_usage(folder).free
    told = f"{free / _GIB:.1f} GiB are free"
    advice = "make room: without it calls are refused, because their entries could not be kept"
    if free < _FREE_BYTES_LEAST:
        return bad("reachable", "disk", told, advice)
    return warn("reachable", "disk", told, advice) if free < _FREE_BYTES_LOW else ok("reachable", "disk", told)


def examine_gateway(settings: "Settings") -> Iterator[Finding]:
    """Asks the running gateway over its control socket, which no network has a part in."""
    from gateway.commands.client import is_running, running_client

    try:
        if not is_running(settings):
            yield ok("reachable", "gateway", "none runs on this data folder")
            return
        with running_client(settings) as client:
            status = client.get("/admin/status")
    except ConfigError as exc:
        yield warn("reachable", "gateway", str(exc), "run this as the user the gateway runs as")
        return
    except GatewayError as exc:
        yield bad("reachable", "gateway", exc.message, "look at its log")
        return
    troubles = [f"{name}: {told}" for name, told in status["checks"].items() if told != "ok"]
    if troubles:
        yield warn("reachable", "gateway", f"runs, {status['status']}; {'; '.join(troubles)}", "look at its log")
    else:
        yield ok("reachable", "gateway", "runs, and says that it is ready")


async def examine_redis(settings: "Settings") -> list[Finding]:
    """Connects to the Redis of the settings, if there is one."""
    if settings.redis_url is None:
        return [ok("reachable", "Redis", "not set: limits are counted in the gateway's memory")]
    try:
        from redis.asyncio import Redis
        from redis.exceptions import RedisError
    except ImportError:
        return [bad("reachable", "Redis", "GATEWAY_REDIS_URL is set, the library is missing", _redis_extra())]
    try:
        client = Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_connect_timeout=settings.redis_connect_timeout_s,
            socket_timeout=settings.redis_command_timeout_s,
        )
        async with client:
            began_at = time.time()
            seconds, micros = await client.time()
            took_s = time.time() - began_at
            ahead_s = seconds + micros / 1e6 - (began_at + took_s / 2)
            about, memory = await client.info("replication"), await client.info("memory")
    except (RedisError, OSError, ValueError, TimeoutError) as exc:
        why = f"no use of it ({type(exc).__name__})"
        return [bad("reachable", "Redis", why, "look at the server, its password and GATEWAY_REDIS_URL")]
    return list(_about_redis(str(about.get("role")), str(memory.get("maxmemory_policy")), took_s, ahead_s))


def _redis_extra() -> str:
    return "pip install 'llm-gateway[redis]'"


def _about_redis(role: str, policy: str, took_s: float, ahead_s: float) -> Iterator[Finding]:
    if role != "master":
        yield bad(
            "reachable", "Redis", "it is a replica, which counts nothing", "name the primary in GATEWAY_REDIS_URL"
        )
    else:
        yield ok("reachable", "Redis", f"answers within {took_s * 1000:.1f} ms")
    if policy != "noeviction":
        advice = "set maxmemory-policy noeviction: a counter that is thrown away is a limit that begins again"
        yield warn("reachable", "Redis", f"its maxmemory-policy is {policy}", advice)
    if abs(ahead_s) > _CLOCK_DIFFERS_S:
        yield warn("reachable", "Redis", f"its clock is {ahead_s:+.0f} s from this machine's", "set both by NTP")


class _Place(NamedTuple):
    provider: str
    shown: str
    host: str
    port: int
    is_tls: bool


async def examine_providers(settings: "Settings", catalog: Catalog, *, connect: bool) -> list[Finding]:
    """One connection to each provider with an active model, closed at once: no request, no key. Only if `connect`."""
    places = list(_places(catalog))
    if not connect:
        return [ok("reachable", "providers", f"{len(places)} have active models; --connect looks whether they answer")]
    gate = asyncio.Semaphore(_PROVIDERS_AT_ONCE)

    async def look(place: _Place) -> Finding:
        async with gate:
            return await _knock(place, settings.connect_timeout_s)

    return list(await asyncio.gather(*(look(place) for place in places)))


def _places(catalog: Catalog) -> Iterator[_Place]:
    for row in _providers_in_use(catalog):
        try:
            parts = urlsplit(row.base_url)
            port = parts.port
        except ValueError:
            continue
        if parts.hostname:
            is_tls = parts.scheme == "https"
            yield _Place(
                row.name, without_secrets(row.base_url), parts.hostname, port or (443 if is_tls else 80), is_tls
            )


def _providers_in_use(catalog: Catalog) -> Sequence[ProviderRow]:
    names: dict[str, None] = {}
    for model in catalog.models.values():
        if model.active:
            names |= dict.fromkeys([model.provider] if not model.deployments else [])
            names |= dict.fromkeys(each.model.provider for each in model.deployments)
    return [catalog.providers[name] for name in names]


async def _knock(place: _Place, timeout_s: float) -> Finding:
    began_at = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            tls = ssl.create_default_context() if place.is_tls else None
            _, writer = await asyncio.open_connection(place.host, place.port, ssl=tls)
            writer.close()
    except (OSError, TimeoutError) as exc:
        why = f"{place.shown} does not answer ({type(exc).__name__})"
        return bad("reachable", place.provider, why, "look at the network, the proxy and base_url in pricing.toml")
    took_ms = (time.monotonic() - began_at) * 1000
    return ok("reachable", place.provider, f"{place.shown} answers within {took_ms:.0f} ms")
