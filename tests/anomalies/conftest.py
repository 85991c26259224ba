"""A scene of its own for every test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.anomalies.scene import Scene, open_scene


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as scene:
        yield scene
