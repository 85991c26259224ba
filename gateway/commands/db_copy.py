"""`gateway db copy`: what is copied where, who must not run meanwhile, how far it is, and what came of it.

URLs have passwords in them: nothing here ever shows one, nor what a library says about one.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from gateway.commands.output import AsJson, echo_json, echo_table
from gateway.commands.progress import is_looked_at, shown_progress
from gateway.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.ledger.copying.copier import Compared, Outcome
    from gateway.ledger.copying.source import Source

__all__ = ["copy", "shown_url"]

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql", "postgres")
_TELL_EVERY_S = 2.0
_SHOWN_MAX = 20


def copy(
    source: Annotated[str, typer.Argument(help="The ledger in a file: sqlite:///data/gateway.db", metavar="SOURCE")],
    target: Annotated[
        str | None,
        typer.Argument(
            help="postgresql://user:password@host[:port]/name; else GATEWAY_DATABASE_URL, which is seen in no list of "
            "processes.",
            metavar="[TARGET]",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy a whole ledger from a file of SQLite into an empty database of PostgreSQL, and compare the two.

    No gateway may run on either meanwhile. A copy that was ended goes on when the same command is run again. The exit code
    is 0 only when both have the same and `ledger verify` finds no difference in either.
    """
    from gateway.config import load_settings
    from gateway.ledger.opening import require_postgres

    path, settings = _file_of(source, target), load_settings()
    url = _url_of(target, settings)
    require_postgres()
    from gateway.ledger.copying.copier import copy_ledger
    from gateway.ledger.copying.source import open_source

    with _locked(path, settings), open_source(path) as opened, _told_without_password(url):
        next_step = _about_the_secret(opened, settings)
        with _telling(is_quiet=as_json) as tell:
            outcome = copy_ledger(opened, url, on_progress=tell)
    if as_json:
        echo_json(_as_json(outcome))
    else:
        _show(outcome, shown_url(url), next_step)
    raise typer.Exit(0 if outcome.is_same and not outcome.differences else 1)


def shown_url(url: str) -> str:
    """Where it leads, without user, password and options."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


# What is copied where


def _file_of(source: str, target: str | None) -> Path:
    if source.startswith(_POSTGRES):
        raise ConfigError(
            "a ledger goes from SQLite to PostgreSQL only: there is no way back but the file it was copied from, which the "
            "copy leaves as it is"
        )
    if not source.startswith(_SQLITE) or not source.removeprefix(_SQLITE):
        raise ConfigError("the source must be sqlite:///path, such as sqlite:///data/gateway.db")
    if target is not None and target.startswith("sqlite"):
        raise ConfigError("the target must be PostgreSQL: a file is copied by `gateway db backup`")
    path = Path(source.removeprefix(_SQLITE))
    if not path.is_file():
        raise ConfigError(f"there is no database at {path}")
    return path


def _url_of(target: str | None, settings: "Settings") -> str:
    url = settings.postgres_url if target is None else target
    if url is None:
        raise ConfigError(
            "name the target, postgresql://user:password@host[:port]/name, or set GATEWAY_DATABASE_URL to it"
        )
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in _POSTGRES and bool(parts.hostname) and parts.port != 0 and len(parts.path) > 1
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ConfigError(
            "the target must be postgresql://user:password@host[:port]/name; in a password %40 stands for @, %3A for :, "
            "%2F for /, %3F for ?, %23 for # and %25 for %"
        )
    return url


@contextmanager
def _locked(path: Path, settings: "Settings") -> Iterator[None]:
    """No gateway begins to serve the file. One that has it in another folder than its own is noticed when it writes."""
    from gateway.lock import LOCK_FILE, DataLock

    folders = {path.parent.resolve()} if (path.parent / LOCK_FILE).exists() else set()
    if settings.postgres_url is None and settings.database_path.resolve() == path.resolve():
        folders.add(settings.data_dir.resolve())
    with ExitStack() as stack:
        for folder in sorted(folders):
            try:
                stack.enter_context(DataLock(folder))
            except ConfigError as exc:
                if exc.__cause__ is not None:
                    raise
                raise ConfigError(
                    f"a gateway, or a command, uses the data folder {folder}: stop it (SIGTERM lets its open calls end), "
                    "and copy then"
                ) from None
        yield


# The root secret


def _about_the_secret(source: "Source", settings: "Settings") -> str:
    """What is to be done before the target is served. Raises `ConfigError` where the wrong one is set."""
    fingerprint = source.identity.secret_fingerprint
    is_set = settings.secret is not None
    if is_set and fingerprint in (None, _fingerprint(settings)):
        return f"set GATEWAY_DATABASE_URL to the target, leave GATEWAY_SECRET as it is, {_START}"
    if fingerprint is None:
        return f"set GATEWAY_DATABASE_URL to the target and GATEWAY_SECRET to a long random text, {_START}"
    file = _secret_file(source.path, settings, fingerprint)
    value = f"the content of {file}" if file is not None else "the root secret that its keys were made with"
    if not is_set:
        return f"set GATEWAY_DATABASE_URL to the target and GATEWAY_SECRET to {value}, {_START}"
    raise ConfigError(
        f"the virtual keys in {source.path} were made with another root secret than GATEWAY_SECRET, and would all be "
        f"refused: set GATEWAY_SECRET to {value}"
    )


_START = "start `gateway serve`, and keep the data folder, where images and kept answers stay"


def _fingerprint(settings: "Settings") -> str:
    """Of GATEWAY_SECRET, which must be set: else a secret would be made."""
    from gateway.secrets import load_secrets

    return load_secrets(settings).fingerprint


def _secret_file(path: Path, settings: "Settings", fingerprint: str | None) -> Path | None:
    """The one that the keys were made with, if it can be found."""
    from gateway.secrets import SECRET_FILE, load_secrets

    for folder in (path.parent, settings.data_dir):
        file = folder / SECRET_FILE
        if not file.is_file():
            continue
        try:
            found = load_secrets(settings.model_copy(update={"data_dir": folder, "secret": None})).fingerprint
        except ConfigError:
            continue  # it can be read by others, or is cut short: whoever needs it is told so by the start
        if found == fingerprint:
            return file
    return None


# What is told


@contextmanager
def _told_without_password(url: str) -> Iterator[None]:
    """Errors of the server and of the way to it, each as one line. Raises `StoreError`."""
    from gateway.ledger.postgres.faults import translated

    try:
        yield
    except (ConfigError, StoreError, sqlite3.Error):
        raise
    except Exception as exc:
        told = _without_password(str(translated(exc)), url)
        raise StoreError(
            f"{shown_url(url)} cannot be copied to at the moment ({told}). What is there already stays: run the same "
            "command again."
        ) from None


def _without_password(text: str, url: str) -> str:
    written = urlsplit(url).password or ""
    for password in sorted({written, unquote(written)} - {""}, key=len, reverse=True):
        text = text.replace(password, "***")
    return text


@contextmanager
def _telling(*, is_quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for whoever looks on; lines for a log; nothing beside JSON."""
    if not is_looked_at(is_quiet=is_quiet):
        yield _say_nothing if is_quiet else _teller()
        return
    with ExitStack() as bars:
        shown, show = "", None

        def tell(table: str, rows: int, total: int) -> None:
            nonlocal shown, show
            if shown != table:
                bars.close()
                shown, show = table, bars.enter_context(shown_progress(table, is_quiet=False))
            if show is not None and total:
                show(rows, total)

        yield tell


def _say_nothing(table: str, rows: int, total: int) -> None:
    """Beside JSON nothing is told on the way."""


def _teller() -> Callable[[str, int, int], None]:
    """Says now and then on stderr how far it is."""
    told_at = time.monotonic()

    def tell(table: str, rows: int, total: int) -> None:
        nonlocal told_at
        now = time.monotonic()
        if total and now - told_at < _TELL_EVERY_S and rows < total:
            return
        told_at = now
        typer.echo(f"{table}: {rows} of {total}" if total else table, err=True)

    return tell


def _show(outcome: "Outcome", place: str, next_step: str) -> None:
    echo_table(_COLUMNS, (_row(each) for each in outcome.tables))
    typer.echo()
    echo_table(_MONTH_COLUMNS, (_month_row(each) for each in outcome.months))
    typer.echo()
    for month, creator in outcome.unequal_sums[:_SHOWN_MAX]:
        typer.echo(f"{month} {creator}: sums differ")
    for side, report in (("source", outcome.source_report), ("target", outcome.target_report)):
        typer.echo(f"verified {side}: {report.entries} entries, {report.differences_count} differences")
    done = "was complete already" if outcome.was_complete else f"copied {outcome.rows} rows"
    if not outcome.is_same:
        typer.echo(f"{place}: NOT the same as the source. Do not use it: drop it, and copy into an empty database.")
    elif outcome.differences:
        typer.echo(
            f"{place}: {done}, and the same as the source, but the books of one do not add up: `gateway ledger verify`"
        )
    else:
        typer.echo(f"{place}: {done}; the same as the source, 0 differences")
    if outcome.is_same:
        typer.echo(f"Next: {next_step}.")


_COLUMNS = ("what", "source", "target", "same")
_SUMS = ("entries", "cost_nano_usd", "charge_nano_usd", "payer_amount")
_MONTH_COLUMNS = ("month", *_SUMS, "same")


def _row(compared: "Compared") -> dict[str, Any]:
    return {**compared._asdict(), "same": compared.source == compared.target}


def _month_row(compared: "Compared") -> dict[str, Any]:
    """One number where both sides have it, else both."""
    sums = zip(_SUMS, compared.source, compared.target, strict=True)
    shown = {name: mine if mine == theirs else f"{mine}, target {theirs}" for name, mine, theirs in sums}
    return {"month": compared.what, **shown, "same": compared.source == compared.target}


def _as_json(outcome: "Outcome") -> dict[str, Any]:
    return {
        "was_complete": outcome.was_complete,
        "rows": outcome.rows,
        "is_same": outcome.is_same,
        "differences": outcome.differences,
        "tables": [_row(each) for each in outcome.tables],
        "months": [_row(each) for each in outcome.months],
        "unequal_sums": [{"month": month, "creator": creator} for month, creator in outcome.unequal_sums],
    }
