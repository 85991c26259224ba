"""Fixtures: `pytest_plugins = ["tests.servers.fixtures"]` in `tests/conftest.py` gives them to every test.

The servers of a session are shared: a test leaves them running, and starts one of its own (`with RedisServer() as ...`)
to stop, freeze or fill it. What a server logged during a test is printed, so that pytest shows it when the test failed.
"""

import itertools
from collections.abc import Iterator
from typing import TypeVar

import pytest

from tests.servers.postgres_server import PostgresServer
from tests.servers.process import Server
from tests.servers.redis_server import RedisServer

ServerT = TypeVar("ServerT", bound=Server)
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The shared Redis; `redis` is the same, emptied."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    """An empty Redis."""
    redis_server.flush()
    yield from _watched(redis_server)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The shared PostgreSQL; `database_url` is a database of the test's own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The shared PostgreSQL, watched."""
    yield from _watched(postgres_server)


@pytest.fixture
def database_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty database, dropped when the test is over, whoever is still connected."""
    name = f"test_{next(_numbers)}"
    yield postgres.create_database(name)
    postgres.drop_database(name)


def _watched(server: ServerT) -> Iterator[ServerT]:
    before = len(server.log)
    yield server
    print(server.log[before:], end="")
    assert server.is_running, f"a test ended {server}, which others share"
