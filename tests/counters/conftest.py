"""The backends every test of the contract runs on."""

from collections.abc import Callable

import pytest

from tests.counters.backend import Backend, FakeClock, MemoryBackend

BACKENDS: dict[str, Callable[[FakeClock], Backend]] = {"memory": MemoryBackend}


@pytest.fixture(params=sorted(BACKENDS))
def make_backend(request: pytest.FixtureRequest) -> Callable[[FakeClock], Backend]:
    return BACKENDS[request.param]


@pytest.fixture
def backend(make_backend: Callable[[FakeClock], Backend]) -> Backend:
    return make_backend(FakeClock())
