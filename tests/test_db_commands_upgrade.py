"""`gateway db upgrade`, the same on either store."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import app
from gateway.ledger import migration
from gateway.ledger.migration import HEAD
from gateway.ledger.postgres.opening import upgrade_postgres
from tests.ledger.books import Place, change, rows
from tests.ledger.copy_world import make_tables
from tests.servers.postgres_server import PASSWORD

Cli = Callable[..., Result]


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty file, or an empty database, that the settings name."""
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path))
    if request.param == "sqlite":
        (tmp_path / "gateway.db").touch()
        return tmp_path / "gateway.db"
    url = str(request.getfixturevalue("database_url"))
    monkeypatch.setenv("GATEWAY_DATABASE_URL", url)
    monkeypatch.setenv("GATEWAY_SECRET", "a-root-secret-of-the-tests-0123456789")
    return url


@pytest.fixture
def cli() -> Cli:
    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, arguments)
        assert PASSWORD not in result.output + str(result.exception)
        return result

    return run


def _version(place: Place) -> str:
    return str(rows(place, "SELECT version_num FROM alembic_version")[0][0])


def _make_older(place: Place, version: str) -> None:
    if isinstance(place, Path):
        migration._upgrade(place, version)
    else:
        make_tables(place, version)


def test_it_says_from_which_version_to_which(cli: Cli, place: Place) -> None:
    _make_older(place, "0002")
    done = cli("db", "upgrade")
    assert done.exit_code == 0, done.exception
    assert done.output.endswith(f": upgraded from version 0002 to version {HEAD}\n")
    assert _version(place) == HEAD
    assert cli("db", "upgrade").output.endswith(f": is already at version {HEAD}\n")


def test_it_names_the_database(cli: Cli, place: Place) -> None:
    shown = str(place) if isinstance(place, Path) else f"postgresql://127.0.0.1:{place.rpartition(':')[2]}"
    assert cli("db", "upgrade").output == f"{shown}: upgraded from no tables to version {HEAD}\n"


def test_newer_tables_are_left_alone(cli: Cli, place: Place) -> None:
    cli("db", "upgrade")
    change(place, "UPDATE alembic_version SET version_num = '9999'")
    refused = cli("db", "upgrade")
    assert refused.exit_code == 1
    assert "newer gateway (version '9999'" in str(refused.exception)
    assert _version(place) == "9999"


def test_a_database_of_something_else_is_left_alone(cli: Cli, place: Place) -> None:
    change(place, "CREATE TABLE theirs (id integer)")
    assert "something else" in str(cli("db", "upgrade").exception)


async def test_of_those_who_come_together_one_upgrades(database_url: str) -> None:
    done = await asyncio.gather(*(upgrade_postgres(database_url) for _ in range(4)))
    assert sorted(was_upgraded for _, was_upgraded in done) == [False, False, False, True]
    assert _version(database_url) == HEAD


def test_a_server_that_is_away_is_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", f"postgresql://u:{PASSWORD}@127.0.0.1:1/name")
    monkeypatch.setenv("GATEWAY_SECRET", "a-root-secret-of-the-tests-0123456789")
    assert "cannot be used" in str(cli("db", "upgrade").exception)


def test_a_file_that_a_gateway_serves_is_not_upgraded_under_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.lock import DataLock

    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path))
    (tmp_path / "gateway.db").touch()
    with DataLock(tmp_path):
        assert "another gateway" in str(cli("db", "upgrade").exception)
    with pytest.raises(sqlite3.OperationalError):
        _version(tmp_path / "gateway.db")
