"""The backends every test of the contract runs on."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.counters.backend import Backend, FakeClock, MemoryBackend
from tests.servers.redis_server import RedisServer

MakeBackend = Callable[[FakeClock], Backend]


@pytest.fixture(scope="session")
def counters_server() -> Iterator[RedisServer]:
    """A Redis that the contract suite shares: every store has names of its own there."""
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def make_backend(request: pytest.FixtureRequest) -> AsyncIterator[MakeBackend]:
    async with AsyncExitStack() as made:
        if request.param == "memory":
            yield MemoryBackend
            return
        # Only here: the library of Redis is slow to import, and whoever runs the memory store alone needs no server.
        from tests.counters.redis_backend import RedisBackend

        server: RedisServer = request.getfixturevalue("counters_server")

        def make(clock: FakeClock) -> Backend:
            backend = RedisBackend(server, clock)
            made.push_async_callback(backend.close)
            return backend

        yield make


@pytest.fixture
def backend(make_backend: MakeBackend) -> Backend:
    return make_backend(FakeClock())
