"""`gateway db`: the database's version, its upgrade, a sound copy of it, and how that is put back or moved on."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.commands.db_copy import copy, shown_url
from gateway.commands.output import AsJson, echo_fields, echo_json
from gateway.commands.progress import shown_progress, shown_work
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.ledger.sqlite.backup import Contents

app = typer.Typer(
    no_args_is_help=True,
    help="The database: its version, its upgrade, a copy of it put by, put back, or moved to PostgreSQL.",
)


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
def upgrade(as_json: AsJson = False) -> None:
    """Bring the tables up to this version, in one transaction. `gateway serve` does so too.

    No gateway may run on a file meanwhile. On PostgreSQL it waits for whoever upgrades at the same moment.
    """
    import asyncio

    from gateway.ledger.migration import HEAD
    from gateway.ledger.opening import upgrade_database
    from gateway.lock import DataLock

    settings = _settings()
    url = settings.postgres_url
    place = str(_existing()) if url is None else shown_url(url)
    lock = nullcontext() if url is not None else DataLock(settings.data_dir)
    with lock, shown_work("upgrading", is_quiet=as_json):
        before, was_upgraded = asyncio.run(upgrade_database(settings))
    if as_json:
        echo_json({"database": place, "was_upgraded": was_upgraded, "before": before, "version": HEAD})
    elif was_upgraded:
        typer.echo(f"{place}: upgraded from {_shown_version(before)} to version {HEAD}")
    else:
        typer.echo(f"{place}: is already at version {HEAD}")


app.command()(copy)


@app.command()
def check(as_json: AsJson = False) -> None:
    """Let SQLite look for damage in the file; exit with 1 if there is any. May take a while."""
    path = _existing()
    with shown_work("looking for damage", is_quiet=as_json), closing(_connect(path)) as connection:
        faults = [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
    if as_json:
        echo_json({"path": str(path), "faults": faults})
    else:
        for fault in faults:
            typer.echo(fault)
        typer.echo(f"{len(faults)} faults")
    raise typer.Exit(1 if faults else 0)


@app.command()
def backup(
    target: Annotated[
        Path, typer.Argument(help="A folder, or the new file, which must not exist yet.", metavar="FOLDER_OR_FILE")
    ],
    with_secret: Annotated[bool, typer.Option("--with-secret", help="Copy the file `secret` beside it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy the database, as of one instant, while a gateway runs or not.

    In a folder the copy is called gateway-YYYYMMDDTHHMMSSZ.db, after the time (UTC).
    """
    from gateway.ledger.sqlite.backup import back_up, backup_name, secret_beside

    settings = _settings()
    source = _existing()
    secret = _secret_text(settings) if with_secret else None
    file = target / backup_name(datetime.now(UTC)) if target.is_dir() else target
    with shown_progress("copying", is_quiet=as_json, then="checking") as on_progress:
        contents = back_up(source, file, secret=secret, on_progress=on_progress)
    secret_file = str(secret_beside(file)) if with_secret else None
    if with_secret and not _has_secret_of(contents, settings):
        typer.echo(
            "gateway: the keys in this database were made with another root secret than the one copied", err=True
        )
    if as_json:
        echo_json({"path": str(file), **_shown(contents), "secret": secret_file})
        return
    echo_fields({"path": str(file), **_shown(contents), "secret": secret_file or "not copied"})
    if not with_secret:
        typer.echo(
            f"Without the root secret no virtual key will work. It is {_secret_place(settings)}: keep a copy of it too."
        )
    typer.echo("Not in this copy: kept images, and kept answers (cache.db).")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `gateway db backup` made.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also with another root secret than it was made with.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put a copy in the place of the database; what is there is kept under another name. No gateway may run meanwhile."""
    from gateway.ledger.sqlite.backup import contents_of
    from gateway.ledger.sqlite.restore import restore as put_back
    from gateway.lock import DataLock

    settings = _settings()
    with DataLock(settings.data_dir):
        is_known_secret = _has_secret_of(contents_of(file), settings)
        if not is_known_secret and not force:
            raise ConfigError(_other_secret(file, settings))
        with shown_progress("restoring", is_quiet=as_json, then="checking") as on_progress:
            contents, kept = put_back(settings.database_path, file, datetime.now(UTC), on_progress=on_progress)
    found = {
        "path": str(settings.database_path),
        **_shown(contents),
        "kept": None if kept is None else str(kept),
        "secret_fits": is_known_secret,
    }
    if as_json:
        echo_json(found)
        return
    echo_fields(found)
    for line in _next_steps(contents, is_known_secret=is_known_secret):
        typer.echo(line)


def _shown_version(version: str | None) -> str:
    return "no tables" if version is None else f"version {version}"


def _shown(contents: "Contents") -> dict[str, Any]:
    shown = contents._asdict()
    del shown["secret_fingerprint"]
    return shown


def _next_steps(contents: "Contents", *, is_known_secret: bool) -> Iterator[str]:
    from gateway.ledger.migration import HEAD

    yield "Next: start `gateway serve`, then run `gateway ledger verify`."
    if contents.version != HEAD:
        yield f"The start brings the tables from version {contents.version} to {HEAD}."
    if contents.open_calls:
        yield f"The start books the {contents.open_calls} calls that were open then as `crashed`."
    yield "Creators, virtual keys and limits are as they were then: revoke again what was revoked since."
    if not is_known_secret:
        yield "The root secret is another one: every virtual key and admin key in it is refused until the old one is back."


def _secret_place(settings: "Settings") -> str:
    from gateway.secrets import SECRET_FILE

    return "what GATEWAY_SECRET says" if settings.secret is not None else f"in {settings.data_dir / SECRET_FILE}"


def _secret_text(settings: "Settings") -> bytes:
    """The file's content, after checking that it can be used."""
    from gateway.secrets import SECRET_FILE, load_secrets

    path = settings.data_dir / SECRET_FILE
    if settings.secret is not None:
        raise ConfigError("the root secret is what GATEWAY_SECRET says, and in no file: leave out --with-secret")
    if not path.exists():
        raise ConfigError(
            f"there is no root secret at {path} yet: start `gateway serve` once, or leave out --with-secret"
        )
    load_secrets(settings)
    return path.read_bytes()


def _has_secret_of(contents: "Contents", settings: "Settings") -> bool:
    """Whether the keys in a database work here. Looks without making a secret where there is none."""
    from gateway.secrets import SECRET_FILE, load_secrets

    if contents.secret_fingerprint is None:
        return True
    is_there = settings.secret is not None or (settings.data_dir / SECRET_FILE).exists()
    return is_there and load_secrets(settings).fingerprint == contents.secret_fingerprint


def _other_secret(file: Path, settings: "Settings") -> str:
    from gateway.ledger.sqlite.backup import secret_beside
    from gateway.secrets import SECRET_FILE

    beside, place = secret_beside(file), settings.data_dir / SECRET_FILE
    if settings.secret is not None:
        advice = "set GATEWAY_SECRET to the one it was made with"
    elif beside.exists():
        advice = f"put {beside} in its place, {place}, with mode 600"
    else:
        advice = f"put the one it was made with in its place, {place}, with mode 600, or set GATEWAY_SECRET to its text"
    return (
        f"the keys in {file} were made with another root secret than the one that is here, and would all be refused: "
        f"{advice}; or say --force. Nothing was changed"
    )


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
