"""One gateway with litellm for all of these tests; what it holds, logs and stores is audited at the end."""

from collections.abc import Iterator

import pytest

from tests.litellm.world import LibraryGateway
from tests.rig.upstream import Upstream


@pytest.fixture(scope="session")
def library(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LibraryGateway]:
    settings = {"FIRST_BYTE_TIMEOUT_S": 1, "IDLE_TIMEOUT_S": 1, "TOTAL_TIMEOUT_S": 60, "CONNECT_TIMEOUT_S": 2}
    gateway = LibraryGateway(tmp_path_factory.mktemp("library"), upstream, settings=settings)
    try:
        gateway.start()
        yield gateway
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()
