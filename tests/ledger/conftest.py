"""An open database of its own for every test."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.config import Settings
from gateway.ledger.database import Database
from gateway.ledger.migration import migrate
from tests.ledger.books import MODEL, PRICE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "gateway.db"


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables and nothing in them: to copy it takes far less time than to migrate anew for every test."""
    path = tmp_path_factory.mktemp("empty") / "gateway.db"
    path.touch(mode=0o600)
    migrate(path)
    return path


@pytest.fixture
def prepared(empty: Path, path: Path) -> Path:
    path.parent.mkdir(mode=0o700)
    shutil.copy(empty, path)
    return path


@pytest.fixture
async def database(prepared: Path) -> AsyncIterator[Database]:
    database = await Database.open(prepared, settings=Settings(settle_timeout_s=0.2), instance_id="test")
    await database.record_prices({MODEL: PRICE})
    yield database
    await database.close()


@pytest.fixture
async def patient_database(prepared: Path) -> AsyncIterator[Database]:
    """For tests that keep the machine so busy that a settle may take its time."""
    database = await Database.open(prepared, settings=Settings(settle_timeout_s=120), instance_id="test")
    await database.record_prices({MODEL: PRICE})
    yield database
    await database.close()
