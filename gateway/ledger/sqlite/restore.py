"""A copy put back in the place of the database; what was there is kept under another name.

The one rule: a `kill -9` at any moment leaves the old database or the new one, whole, under the name. So, in this order:

1. the copy is copied to a hidden name beside the database, flushed and checked;
2. what the old one's write-ahead log holds is brought into the old file, for a log would damage the file that follows;
3. the old file gets its second name, and keeps the first as well;
4. one rename gives the first to the new file.
"""

import os
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

from gateway.durable_folder import sync_folder
from gateway.errors import ConfigError
from gateway.ledger.sqlite.backup import (
    LOGS,
    Contents,
    Progress,
    contents_of,
    copy_checked,
    draft_in,
    stamp,
    sweep,
    uri_of_copy,
)

__all__ = ["restore"]

_BUSY_TIMEOUT_S = 10.0


def restore(
    database: Path, file: Path, now: datetime, *, on_progress: Progress | None = None
) -> tuple[Contents, Path | None]:
    """Put a copy of `file` in the place of `database`. What it holds, and where that which was there is kept now.

    The data folder's lock must be held. `now` (aware UTC) names what is kept. Raises `ConfigError` when `file` is no
    database of this gateway or an older one, or somebody reads the one to be replaced, `StoreError` when it is damaged or
    cannot be copied; nothing has changed then.
    """
    contents_of(file)
    database = database.resolve()
    if _is_same(database, file):
        raise ConfigError(f"{file} is the database itself: name a copy")
    database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep(database.parent)
    _drop_unused_names(database)
    with draft_in(database.parent) as (draft, handle):
        _give_to_owner_of(database, handle)
        contents = copy_checked(file, uri_of_copy(file), draft, handle, on_progress)
        kept = _set_aside(database, now)
        sync_folder(database.parent)
        draft.replace(database)
        sync_folder(database.parent)
    return contents, kept


def _set_aside(database: Path, now: datetime) -> Path | None:
    kept = _free_name(database, now)
    is_used = database.exists()
    if is_used:
        _fold_log(database)
        os.link(database, kept)
    for suffix in LOGS:
        log = Path(f"{database}{suffix}")
        if log.exists() and log.stat().st_size:
            # That of a database which is gone or empty: beside the kept file, tools still find it.
            log.rename(f"{kept}{suffix}")
            is_used = True
        else:
            log.unlink(missing_ok=True)
    Path(f"{database}-shm").unlink(missing_ok=True)
    return kept if is_used else None


def _fold_log(database: Path) -> None:
    """Brings what was committed into the file itself, as far as a damaged one allows.

    Raises `ConfigError` when somebody still reads it.
    """
    if not database.stat().st_size:
        return  # SQLite would drop the log of an empty file
    try:
        with closing(sqlite3.connect(database, isolation_level=None, timeout=_BUSY_TIMEOUT_S)) as connection:
            is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.OperationalError as exc:
        raise ConfigError(
            f"{database} cannot be completed from its log ({exc}): mend that, or move both away by hand"
        ) from exc
    except sqlite3.DatabaseError:
        return
    if is_busy:
        raise ConfigError(f"another program is reading {database}: end it, and try again")


def _free_name(database: Path, now: datetime) -> Path:
    wanted = f"{database.name}.before-restore-{stamp(now)}"
    name, number = database.with_name(wanted), 1
    while any(os.path.lexists(f"{name}{suffix}") for suffix in ("", *LOGS)):
        number += 1
        name = database.with_name(f"{wanted}-{number}")
    return name


def _drop_unused_names(database: Path) -> None:
    """A restore that was killed before step 4 leaves a second name of the database, which would change with it."""
    for name in database.parent.glob(f"{database.name}.before-restore-*"):
        has_log = any(os.path.lexists(f"{name}{suffix}") for suffix in LOGS)
        if _is_same(database, name) and not has_log:
            name.unlink()


def _is_same(database: Path, file: Path) -> bool:
    return database.exists() and database.samefile(file)


def _give_to_owner_of(database: Path, handle: int) -> None:
    """What root restores must still be the gateway's."""
    if os.geteuid() == 0:
        owner = (database if database.exists() else database.parent).stat()
        os.fchown(handle, owner.st_uid, owner.st_gid)
