"""`/admin/cache`: how much is kept and how often it was of use; and answers taken out by creator, by model, or all."""

from typing import NoReturn

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.cache.base import CacheStats, CacheStore
from gateway.endpoints import json_response
from gateway.endpoints.parameters import known_parameters, refuse, yes_or_no
from gateway.errors import RequestError

_OFF = CacheStats(answers=0, size_bytes=0, bytes_max=0, hits=0, misses=0, stored=0, evicted=0)


async def show_cache(request: Request) -> Response:
    store = _store_of(request)
    stats = _OFF if store is None else await store.stats()
    return json_response(stats._asdict())


async def clear_cache(request: Request) -> Response:
    query = known_parameters(request.query_params, {"creator", "model", "all"})
    is_all = yes_or_no(query, "all") is True
    given = {name: query[name] for name in ("creator", "model") if name in query}
    for name, value in given.items():
        if not value:
            refuse(name, "takes a name")
    if is_all and given:
        refuse("all", "takes no `creator` and no `model` beside it")
    if not is_all and not given:
        _refuse_nothing_said()
    removed = await request.app.state.cache.clear(**given)
    # Every process has answers of its own; those of the others are gone within a second, and not counted.
    await request.app.state.announce("cache", orjson.dumps(given).decode())
    return json_response({"removed": removed})


def _store_of(request: Request) -> CacheStore | None:
    """None where the cache is off."""
    store: CacheStore | None = request.app.state.cache.store
    return store


def _refuse_nothing_said() -> NoReturn:
    raise RequestError(
        "Say what to remove: `creator`, `model`, both of them for what matches both, or `all=true`.",
        code="missing_required_parameter",
    )


routes = [
    Route("/admin/cache", show_cache, methods=["GET"]),
    Route("/admin/cache", clear_cache, methods=["DELETE"]),
]
