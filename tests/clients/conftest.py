"""Fixtures of the client tests: the environments they need are made by `python -m tests.clients.environments`, not here."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.clients.node_process import NodeHost, Running, Seen, scripts
from tests.clients.world import client_gateway
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Upstream

Begin = Callable[..., Running]
Play = Callable[..., Seen]


@pytest.fixture(scope="session")
def kit(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway with a model for each endpoint; its books and its logs are checked when the tests are over."""
    gateway = client_gateway(tmp_path_factory.mktemp("kit"), upstream)
    try:
        yield gateway.start()
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


@pytest.fixture
def kit_key(kit: Gateway) -> Key:
    """A key of a creator that only this test uses."""
    return kit.new_key()


@pytest.fixture(scope="session")
def node_scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripts(tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="session")
def node(node_scripts: Path) -> Iterator[NodeHost]:
    """The process in which Node's clients run. None of them may have tried to reach another machine."""
    host = NodeHost(node_scripts)
    try:
        yield host
        assert "foreign connection" not in host.stderr
    finally:
        host.close()


@pytest.fixture
def begin(node: NodeHost, kit: Gateway, kit_key: Key) -> Begin:
    """`begin(suite, scenario, **options)` starts a scenario with this test's key."""
    return partial(node.begin, baseURL=f"{kit.url}/v1", apiKey=kit_key.key)


@pytest.fixture
def play(begin: Begin) -> Play:
    """`begin`, and the wait for what the client saw."""
    return lambda suite, scenario, **options: begin(suite, scenario, **options).seen()
