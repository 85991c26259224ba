"""Which database the settings name, and what they must say for it."""

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.config import Settings, load_settings
from gateway.errors import ConfigError
from gateway.ledger.opening import open_database, open_database_read_only, verify_database
from tests.ledger.books import MODEL, PRICE, call
from tests.servers.postgres_server import PASSWORD

SECRET = "a-root-secret-of-the-tests-0123456789"
URL = f"postgresql://gateway:{PASSWORD}@127.0.0.1:1/gateway"


async def test_the_database_of_the_url_is_opened_read_and_verified(database_url: str) -> None:
    settings = Settings(database_url=database_url, secret=SECRET, settle_timeout_s=5)  # type: ignore[arg-type]
    database = await open_database(settings, instance_id="test")
    await database.record_prices({MODEL: PRICE})
    await call(database, "r1")
    await database.close()
    reader = await open_database_read_only(settings)
    await reader.close()
    report = verify_database(settings)
    assert (report.entries, report.differences) == (1, [])


async def test_without_a_url_it_is_the_file_in_the_data_folder(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, settle_timeout_s=5)
    database = await open_database(settings, instance_id="test")
    await database.close()
    assert (tmp_path / "gateway.db").exists()
    assert verify_database(settings).entries == 0


def test_postgres_needs_the_root_secret() -> None:
    with pytest.raises(ValidationError, match="GATEWAY_SECRET"):
        Settings(database_url=URL)  # type: ignore[arg-type]


def test_the_password_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(database_url=URL, secret=SECRET)  # type: ignore[arg-type]
    assert PASSWORD not in repr(settings)
    with pytest.raises(ConfigError, match="SQLite only") as refused:
        settings.database_path  # noqa: B018 -- a property that raises
    assert PASSWORD not in str(refused.value)
    monkeypatch.setenv("GATEWAY_DATABASE_URL", URL.replace("postgresql", "mysql"))
    with pytest.raises(ConfigError, match="GATEWAY_DATABASE_URL must be") as unknown:
        load_settings()
    assert PASSWORD not in str(unknown.value)


async def test_postgres_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(database_url=URL, secret=SECRET)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    for opening in (open_database(settings, instance_id="test"), open_database_read_only(settings)):
        with pytest.raises(ConfigError, match=r"llm-gateway\[postgres\]"):
            await opening
