"""The tables brought up to date, in one transaction, before anybody uses them.

Alembic is imported only where there is something to do: a start on a current database does without it.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from gateway.errors import ConfigError
from gateway.ledger.sqlite.readers import read_only_uri

__all__ = ["HEAD", "SCRIPTS", "known_version", "migrate", "require_current", "stored_version"]

HEAD = "0008"
_KNOWN = (None, "0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
"""Every version there ever was, oldest first; None is an empty file."""
_LOCK_TIMEOUT_S = 60.0
SCRIPTS = Path(__file__).parent / "migrations"


def stored_version(path: Path) -> str | None:
    """The version of the tables in `path`; None when it has none. Raises `sqlite3.Error`."""
    with closing(sqlite3.connect(read_only_uri(path), uri=True, timeout=_LOCK_TIMEOUT_S)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables:
            if tables:
                raise ConfigError(f"{path} is a database of something else: name another file")
            return None
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else None


def require_current(path: Path) -> None:
    """Raises `ConfigError` unless `path` has exactly the tables of this version."""
    if not path.exists():
        raise ConfigError(f"there is no database at {path}: start `gateway serve` once, or set GATEWAY_DATA_DIR")
    version = known_version(f"the database {path}", stored_version(path))
    if version != HEAD:
        raise ConfigError(f"the database {path} is older than this gateway: run `gateway db upgrade`, or start it once")


def migrate(path: Path) -> bool:
    """Bring the tables of `path`, a file that may be empty, to this version; False when they were already. Raises `ConfigError` for a newer one.

    Two processes may try at once: the second waits for the first, and finds nothing left to do.
    """
    if known_version(f"the database {path}", stored_version(path)) == HEAD:
        return False
    _upgrade(path, HEAD)
    return True


def known_version(what: str, version: str | None) -> str | None:
    """`version`. Raises `ConfigError` when it is none that there ever was up to now; `what` begins the message."""
    if version not in _KNOWN:
        raise ConfigError(
            f"{what} was made by a newer gateway (version {version!r}, this one knows {HEAD!r}): "
            "install that version again, or go back to a copy made before"
        )
    return version


def _upgrade(path: Path, version: str) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, timeout=_LOCK_TIMEOUT_S)
        connection.execute("PRAGMA journal_mode = WAL").close()  # stays with the file
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    # The sqlite3 module begins no transaction by itself before DDL; without one, half a migration could stay behind.
    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
