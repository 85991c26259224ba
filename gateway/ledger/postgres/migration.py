"""The tables brought up to date, in one transaction, by one gateway at a time: the others wait, and find nothing to do.

Alembic writes the SQL of its scripts, asyncpg runs it.
"""

import asyncio
from io import StringIO

from gateway.errors import ConfigError
from gateway.ledger.migration import HEAD, SCRIPTS, known_version
from gateway.ledger.postgres.faults import translated
from gateway.ledger.postgres.link import LOCK_CLASS, Link, connect, end

__all__ = ["migrate", "require_current", "require_server", "stored_version"]

_SERVER_MIN = 13
"""The first with triggers on the rows of partitioned tables, and with transaction ids that never repeat."""
_MIGRATION_LOCK = 1
_WAIT_FOR_OTHERS = "60s"
_LOCK_NOT_AVAILABLE = "55P03"
_WHAT = "the database"


async def require_server(link: Link) -> None:
    """Raises `ConfigError` for a server that is too old."""
    version = link.get_server_version()
    if version.major < _SERVER_MIN:
        raise ConfigError(f"PostgreSQL {version.major} is too old: version {_SERVER_MIN} or newer is needed")


async def stored_version(link: Link) -> str | None:
    """The version of the tables; None when there are none. Raises `ConfigError` for a database of something else."""
    tables = await link.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    if "alembic_version" not in {row["tablename"] for row in tables}:
        if tables:
            raise ConfigError("GATEWAY_DATABASE_URL is a database of something else: name an empty one")
        return None
    version = await link.fetchval("SELECT version_num FROM alembic_version")
    return None if version is None else str(version)


async def require_current(link: Link) -> None:
    """Raises `ConfigError` unless the database has exactly the tables of this version."""
    version = known_version(_WHAT, await stored_version(link))
    if version is None:
        raise ConfigError("the database has no tables yet: start `gateway serve` once")
    if version != HEAD:
        raise ConfigError("the database is older than this gateway: start it once")


async def migrate(url: str) -> bool:
    """Bring the tables to this version; False when they were already. Raises `ConfigError` for those of a newer one, and
    what asyncpg raises."""
    link = await connect(url, name="gateway migration", statement_timeout_s=0, target="read-write")
    try:
        await require_server(link)
        async with link.transaction():
            await link.execute(f"SET LOCAL lock_timeout = '{_WAIT_FOR_OTHERS}'")
            await link.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK_CLASS, _MIGRATION_LOCK)
            version = known_version(_WHAT, await stored_version(link))
            if version == HEAD:
                return False
            await link.execute(await asyncio.to_thread(_script, version, HEAD))
            return True
    except Exception as exc:
        if translated(exc).sqlstate != _LOCK_NOT_AVAILABLE:
            raise
        raise ConfigError("another gateway has been upgrading the database for a minute: wait for it to end") from None
    finally:
        await end(link)


def _script(version: str | None, target: str) -> str:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    script = config.attributes["script"] = StringIO()
    command.upgrade(config, f"{version or 'base'}:{target}", sql=True)
    return script.getvalue()
