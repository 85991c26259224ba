"""An open database of its own for every test.

A module that says `STORES = BOTH` runs its tests on SQLite and on PostgreSQL, but for those marked `sqlite_only`: what a
file alone can do, or be.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.config import Settings
from gateway.ledger.database import Database
from gateway.ledger.migration import migrate
from gateway.ledger.periods import instant, now_ms
from gateway.ledger.postgres import migration as postgres_migration
from gateway.ledger.postgres.link import connect
from gateway.ledger.postgres.partitions import make_partitions, months_from
from tests.ledger.books import MODEL, PRICE, Place, opened
from tests.servers.postgres_server import PostgresServer

_TEMPLATE = "ledger_template"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sqlite_only: what a file alone can do, or be")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store" in metafunc.fixturenames and "store" not in _named_by(metafunc):
        is_file = metafunc.definition.get_closest_marker("sqlite_only") is not None
        stores = ("sqlite",) if is_file else getattr(metafunc.module, "STORES", ("sqlite",))
        metafunc.parametrize("store", stores, indirect=True)


def _named_by(metafunc: pytest.Metafunc) -> set[str]:
    return {name for mark in metafunc.definition.iter_markers("parametrize") for name in mark.args[0]}


@pytest.fixture
def store(request: pytest.FixtureRequest) -> str:
    """`sqlite` or `postgres`."""
    return str(request.param)


@pytest.fixture
def path(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """Where the database is: a file that is not there yet, or the URL of a database with tables and nothing in them."""
    if store == "sqlite":
        yield tmp_path / "data" / "gateway.db"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        request.getfixturevalue("template")
        name = f"ledger_{tmp_path.name}".lower()[-60:]
        yield server.create_database(name, template=_TEMPLATE)
        server.drop_database(name)


@pytest.fixture(scope="session")
def template(postgres_server: PostgresServer) -> str:
    """The name of a database with tables, to copy."""
    url = postgres_server.create_database(_TEMPLATE)

    async def make() -> None:
        await postgres_migration.migrate(url)
        link = await connect(url, name="test", statement_timeout_s=10)
        await make_partitions(link, months_from(instant(now_ms())))
        await link.close()

    asyncio.run(make())
    return _TEMPLATE


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with tables and nothing in them: to copy it takes far less time than to migrate anew for every test."""
    path = tmp_path_factory.mktemp("empty") / "gateway.db"
    path.touch(mode=0o600)
    migrate(path)
    return path


@pytest.fixture
def prepared(empty: Path, path: Place) -> Place:
    if isinstance(path, Path):
        path.parent.mkdir(mode=0o700)
        shutil.copy(empty, path)
    return path


@pytest.fixture
async def database(prepared: Place) -> AsyncIterator[Database]:
    database = await opened(prepared, settings=Settings(settle_timeout_s=0.2), instance_id="test")
    await database.record_prices({MODEL: PRICE})
    yield database
    await database.close()


@pytest.fixture
async def patient_database(prepared: Place) -> AsyncIterator[Database]:
    """For tests that keep the machine so busy that a settle may take its time."""
    database = await opened(prepared, settings=Settings(settle_timeout_s=120), instance_id="test")
    await database.record_prices({MODEL: PRICE})
    yield database
    await database.close()
