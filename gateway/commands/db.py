"""`gateway db`: the database's version, its upgrade, and a sound copy of it."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.commands.output import AsJson, echo_fields, echo_json
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.config import Settings

app = typer.Typer(no_args_is_help=True, help="The database: its version, its upgrade, a copy of it.")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show where the database is, its version and its size."""
    from gateway.ledger.migration import HEAD, stored_version

    path = _existing()
    found = {"path": str(path), "version": stored_version(path), "newest": HEAD, "bytes": path.stat().st_size}
    if as_json:
        echo_json(found)
    else:
        echo_fields(found)


@app.command()
def upgrade() -> None:
    """Bring the tables up to this version. `gateway serve` does so too; no gateway may run meanwhile."""
    from gateway.ledger.migration import HEAD, migrate
    from gateway.lock import DataLock

    settings = _settings()
    path = _existing()
    with DataLock(settings.data_dir):
        was_upgraded = migrate(path)
    typer.echo(f"{path}: {'upgraded to' if was_upgraded else 'is already at'} version {HEAD}")


@app.command()
def check() -> None:
    """Let SQLite look for damage in the file; exit with 1 if there is any. May take a while."""
    with closing(_connect(_existing())) as connection:
        faults = [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
    for fault in faults:
        typer.echo(fault)
    typer.echo(f"{len(faults)} faults")
    raise typer.Exit(1 if faults else 0)


@app.command()
def backup(target: Annotated[Path, typer.Argument(help="The new file; it must not exist yet.")]) -> None:
    """Copy the database, as of one instant, beside a running gateway. The secret is not in it: copy that as well."""
    source = _existing()
    try:
        target.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        raise ConfigError(f"{target} exists already: name a new file") from None
    with closing(_connect(source)) as reading, closing(sqlite3.connect(target)) as writing:
        reading.backup(writing)  # in one step: in smaller ones every write would make it begin again
    typer.echo(f"{target}: {target.stat().st_size} bytes")


def _connect(path: Path) -> sqlite3.Connection:
    from gateway.ledger.sqlite.readers import read_only_uri

    return sqlite3.connect(read_only_uri(path), uri=True)


def _existing() -> Path:
    path = _settings().database_path
    if not path.exists():
        raise ConfigError(f"there is no database at {path} yet: start `gateway serve` once, or set GATEWAY_DATA_DIR")
    return path


def _settings() -> "Settings":
    from gateway.config import load_settings

    return load_settings()
