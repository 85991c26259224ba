"""An open database of its own for every test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.config import Settings
from gateway.ledger.database import Database
from tests.ledger.books import MODEL, PRICE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "gateway.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    database = await Database.open(path, settings=Settings(settle_timeout_s=0.2), instance_id="test")
    await database.record_prices({MODEL: PRICE})
    yield database
    await database.close()


@pytest.fixture
async def patient_database(path: Path) -> AsyncIterator[Database]:
    """For tests that keep the machine so busy that a settle may take its time."""
    database = await Database.open(path, settings=Settings(settle_timeout_s=120), instance_id="test")
    await database.record_prices({MODEL: PRICE})
    yield database
    await database.close()
