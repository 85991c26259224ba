"""Fixtures of the black-box tests. Processes are shared by a whole session; every test has a creator of its own."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.rig.catalog import dialect_rows
from tests.rig.gateway import Gateway, Key
from tests.rig.policy_world import policy_gateway
from tests.rig.routing_world import black_hole, routed_gateway
from tests.rig.upstream import Upstream

pytest_plugins = ["tests.servers.fixtures"]
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="session")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway most tests share: patient deadlines, small bodies."""
    yield from _served(Gateway(tmp_path_factory.mktemp("gateway"), upstream, settings={"BODY_BYTES_MAX": 2**20}))


@pytest.fixture(scope="session")
def hasty(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with short deadlines and small bounds on every side, for tests whose subject they are."""
    settings = {
        "CONNECT_TIMEOUT_S": 1,
        "FIRST_BYTE_TIMEOUT_S": 1,
        "IDLE_TIMEOUT_S": 1,
        "TOTAL_TIMEOUT_S": 3,
        "HEADER_TIMEOUT_S": 1,
        "BODY_TIMEOUT_S": 1,
        "KEEP_ALIVE_S": 1,
        "ANSWER_BYTES_MAX": 2**20,
        "STREAM_BYTES_MAX": 2**20,
        "STREAM_EVENT_BYTES_MAX": 2**18,
    }
    yield from _served(Gateway(tmp_path_factory.mktemp("hasty"), upstream, settings=settings))


def _served(gateway: Gateway) -> Iterator[Gateway]:
    """Whatever the tests did to it, its ledger adds up, it kept its secrets and it ends cleanly."""
    try:
        yield gateway.start()
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


@pytest.fixture
def key(gateway: Gateway) -> Key:
    """A key of a creator that only this test uses, practically without limits."""
    return gateway.new_key()


@pytest.fixture
def hasty_key(hasty: Gateway) -> Key:
    return hasty.new_key()


@pytest.fixture(scope="session")
def policies(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway of the policy tests: its models and plans are those of `tests.rig.policy_world`."""
    yield from _served(policy_gateway(tmp_path_factory.mktemp("policies"), upstream))


@pytest.fixture(scope="session")
def routing(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway of the routing tests: its models are those of `tests.rig.routing_world`, its circuits stay closed."""
    with black_hole() as port:
        folder = tmp_path_factory.mktemp("routing")
        deadlines = {"CONNECT_TIMEOUT_S": 0.5, "FIRST_BYTE_TIMEOUT_S": 3, "IDLE_TIMEOUT_S": 1}
        yield from _served(routed_gateway(folder, upstream, hole_port=port, **deadlines))


@pytest.fixture(scope="session")
def dialects(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a provider of every native dialect (`tests.rig.catalog.dialect_rows`)."""
    models = dialect_rows(upstream.base_url)
    yield from _served(Gateway(tmp_path_factory.mktemp("dialects"), upstream, models=models))
