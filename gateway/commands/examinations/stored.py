"""What the database says: whether it can be used, whose root secret it knows, what is open, what is due.

Opened for reading only, beside a running gateway or without one, on either store.
"""

import sqlite3
import time
from collections.abc import AsyncIterator, Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import func, or_, select

from gateway.commands.examinations.finding import Finding, bad, ok, warn
from gateway.errors import ConfigError, StoreError
from gateway.ledger.opening import open_database_read_only
from gateway.ledger.periods import DAY_MS, ms_of
from gateway.ledger.retention import months_to_drop
from gateway.ledger.schema import admin_keys, creators, holds, meta, virtual_keys

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.ledger.database import Database

__all__ = ["Stored", "examine_database"]

_KEY_DAYS_OLD = 365
_CLOCK_DIFFERS_MS = 5_000
_FINGERPRINT = "secret_fingerprint"
"""The row that says whose root secret the keys were made with."""


class Stored(NamedTuple):
    findings: list[Finding]
    plans_in_use: Collection[str] | None
    """None where the database could not be asked."""


async def examine_database(settings: "Settings", now: datetime, *, offline: bool) -> Stored:
    """`now` is aware UTC. `offline`: a server is not connected to; a file is no connection."""
    if settings.postgres_url is not None and offline:
        return Stored([ok("reachable", "database", "PostgreSQL, not asked: --offline")], None)
    if settings.postgres_url is None and not settings.database_path.exists():
        told = f"{settings.database_path} is not there yet; the first start makes it"
        return Stored([ok("reachable", "database", told)], None)
    began_at = time.monotonic()
    try:
        database = await open_database_read_only(settings)
        try:
            took_ms = (time.monotonic() - began_at) * 1000
            store = "the file" if settings.postgres_url is None else "PostgreSQL"
            found = [ok("reachable", "database", f"{store} answers within {took_ms:.0f} ms, its tables are current")]
            found += [finding async for finding in _findings(database, settings, now)]
            return Stored(found, await _plans_in_use(database))
        finally:
            await database.close()
    except (ConfigError, StoreError, sqlite3.Error, OSError) as exc:
        why = exc.message if isinstance(exc, StoreError) else str(exc)
        advice = "mend what it says; `gateway db upgrade` brings old tables up to date"
        return Stored([bad("reachable", "database", why, advice)], None)


async def _findings(database: "Database", settings: "Settings", now: datetime) -> AsyncIterator[Finding]:
    if settings.postgres_url is not None:
        yield await _clock(database)
    yield await _secret(database, settings)
    yield await _admins(database, settings)
    yield await _open_holds(database, settings, now)
    yield await _lasting_keys(database, now)
    async for finding in _retention(database, settings, now):
        yield finding


async def _clock(database: "Database") -> Finding:
    before_s = time.time()
    (row,) = await database.fetch_all(select(func.clock_timestamp().label("now")))
    ahead_ms = ms_of(row["now"]) - int((before_s + time.time()) * 500)
    told = f"the database's is {ahead_ms / 1000:+.1f} s from this machine's"
    if abs(ahead_ms) > _CLOCK_DIFFERS_MS:
        return warn("reachable", "clock", told, "set both by NTP: months and limits begin and end by them")
    return ok("reachable", "clock", told)


async def _secret(database: "Database", settings: "Settings") -> Finding:
    from gateway.secrets import SECRET_FILE, load_secrets

    row = await database.fetch_one(select(meta.c.value).where(meta.c.key == _FINGERPRINT))
    is_here = settings.secret is not None or (settings.data_dir / SECRET_FILE).exists()
    if row is None:
        return ok("stored", "root secret", "no key was made yet")
    if not is_here:
        advice = "set GATEWAY_SECRET, or put the file `secret` back into the data folder"
        return bad("stored", "root secret", "is not here: every virtual key and admin key is refused", advice)
    try:
        fits = load_secrets(settings).fingerprint == row["value"]
    except ConfigError as exc:
        return bad("stored", "root secret", str(exc), "make the file readable for the gateway's user alone")
    if fits:
        return ok("stored", "root secret", "is the one that the keys were made with")
    return bad(
        "stored", "root secret", "is another one than the keys were made with: all are refused", "put the old one back"
    )


async def _admins(database: "Database", settings: "Settings") -> Finding:
    owners = select(func.count().label("count")).where(admin_keys.c.revoked_at.is_(None), admin_keys.c.role == "owner")
    count = (await database.fetch_all(owners))[0]["count"]
    told = f"{count} owners have a key" + (", and there is one in the settings" if settings.admin_key else "")
    if count or settings.admin_key:
        return ok("stored", "admins", told)
    return warn("stored", "admins", "nobody has an owner's key", "`gateway admin-keys create`, or GATEWAY_ADMIN_KEY")


async def _open_holds(database: "Database", settings: "Settings", now: datetime) -> Finding:
    before_ms = ms_of(now) - int(settings.hold_timeout_s * 1000)
    columns: list[Any] = [func.count().label("count"), func.count().filter(holds.c.created_at < before_ms).label("old")]
    query = select(*columns).select_from(holds)
    (row,) = await database.fetch_all(query)
    told = f"{row['count']} calls have money set aside"
    if not row["old"]:
        return ok("stored", "open holds", told)
    why = f"{told}, {row['old']} for longer than {settings.hold_timeout_s:.0f} s"
    return warn("stored", "open holds", why, "a running gateway books those of calls that ended; look whether one runs")


async def _lasting_keys(database: "Database", now: datetime) -> Finding:
    """Keys without an end that are a year old: nobody knows any more where they lie."""
    now_ms = ms_of(now)
    column = virtual_keys.c
    lasting = column.expires_at.is_(None)
    old = lasting & (column.created_at < now_ms - _KEY_DAYS_OLD * DAY_MS)
    columns: list[Any] = [
        func.count().label("count"),
        func.count().filter(lasting).label("lasting"),
        func.count().filter(old).label("old"),
    ]
    query = select(*columns).where(column.revoked_at.is_(None), or_(lasting, column.expires_at > now_ms))
    (row,) = await database.fetch_all(query)
    told = f"{row['count']} work, {row['lasting']} of them without an end"
    if not row["old"]:
        return ok("stored", "virtual keys", told)
    why = f"{told}; {row['old']} of those are older than a year"
    return warn("stored", "virtual keys", why, "`gateway keys rotate` gives a new one, with a grace for the old")


async def _retention(database: "Database", settings: "Settings", now: datetime) -> AsyncIterator[Finding]:
    months = settings.ledger_retention_months
    if not months:
        yield ok("stored", "retention", "entries are kept for ever: GATEWAY_LEDGER_RETENTION_MONTHS is 0")
        return
    yield ok("stored", "retention", f"entries are kept for {months} whole months")
    async for due in months_to_drop(database, months, now):
        if due.obstacle:
            why = f"{due.month} is old enough to be dropped, and is not: {due.obstacle}"
            yield warn("stored", "retention", why, "see `gateway ledger old-months`")


async def _plans_in_use(database: "Database") -> frozenset[str]:
    rows = await database.fetch_all(select(creators.c.plan).where(creators.c.deleted_at.is_(None)).distinct())
    return frozenset(row["plan"] for row in rows)
