"""The database that the settings name: a file of SQLite, or PostgreSQL, which is imported only where it is named."""

from typing import TYPE_CHECKING

from gateway.errors import ConfigError
from gateway.ledger.database import Database

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.ledger.verify import Progress, Report

__all__ = ["open_database", "open_database_read_only", "require_postgres", "upgrade_database", "verify_database"]


async def open_database(settings: "Settings", *, instance_id: str) -> Database:
    """For reading and writing; makes and upgrades its tables where needed. Raises `ConfigError`."""
    url = settings.postgres_url
    if url is None:
        return await Database.open(settings.database_path, settings=settings, instance_id=instance_id)
    require_postgres()
    from gateway.ledger.postgres.opening import open_postgres

    return await open_postgres(url, settings=settings, instance_id=instance_id)


async def open_database_read_only(settings: "Settings") -> Database:
    """For reading beside a running gateway, or without one. Raises `ConfigError`."""
    url = settings.postgres_url
    if url is None:
        return await Database.open_read_only(settings.database_path)
    require_postgres()
    from gateway.ledger.postgres.opening import open_postgres_read_only

    return await open_postgres_read_only(url)


async def upgrade_database(settings: "Settings") -> tuple[str | None, bool]:
    """The version that the tables had (None: there were none), and whether that is another one now. No gateway may use a
    file meanwhile: hold the data folder's lock. Raises `ConfigError`."""
    url = settings.postgres_url
    if url is None:
        from gateway.ledger.migration import migrate, stored_version

        return stored_version(settings.database_path), migrate(settings.database_path)
    require_postgres()
    from gateway.ledger.postgres.opening import upgrade_postgres

    return await upgrade_postgres(url)


def verify_database(settings: "Settings", *, on_progress: "Progress | None" = None) -> "Report":
    """`on_progress` hears of the entries that were read. Raises `ConfigError`, and `StoreError` when the database cannot be read."""
    url = settings.postgres_url
    if url is None:
        from gateway.ledger.verify import verify

        return verify(settings.database_path, on_progress=on_progress)
    require_postgres()
    from gateway.ledger.postgres.opening import verify_postgres

    return verify_postgres(url, on_progress=on_progress)


def require_postgres() -> None:
    """Raises `ConfigError` where asyncpg is not installed."""
    try:
        import asyncpg  # type: ignore[import-untyped] # noqa: F401
    except ImportError:
        raise ConfigError(
            "PostgreSQL (GATEWAY_DATABASE_URL) needs the extra `postgres`: pip install llm-gateway[postgres]"
        ) from None
