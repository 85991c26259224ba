"""What SQLite's errors mean to the gateway: the store is in trouble, two writes contradict each other, or a row is bad."""

import sqlite3

from gateway.errors import RequestError, StoreError

__all__ = ["Conflict", "is_bad_sql", "is_disk_full", "is_trouble", "store_error"]

RETRY_AFTER_S = 1


class Conflict(RequestError):
    """A write contradicts what is there: an id that is taken, a reference to nothing. Nothing of it was kept."""

    status = 409
    code = "conflict"


def is_trouble(exc: BaseException) -> bool:
    """Whether the store failed, so that the same write may succeed later; False when the write itself is at fault.

    Locked, full, unreadable, read-only and broken files are trouble (`OperationalError`, or `DatabaseError` itself); a
    constraint, a value out of range and a text that is no text are not.
    """
    return isinstance(exc, (sqlite3.OperationalError, sqlite3.InternalError, MemoryError, OSError)) or (
        type(exc) is sqlite3.DatabaseError
    )


def is_bad_sql(exc: BaseException) -> bool:
    """A statement that can never run: the fault of whoever wrote it, not of the store."""
    return getattr(exc, "sqlite_errorname", None) == "SQLITE_ERROR"


def is_disk_full(exc: BaseException) -> bool:
    return isinstance(exc, sqlite3.Error) and getattr(exc, "sqlite_errorname", None) == "SQLITE_FULL"


def store_error(exc: BaseException) -> StoreError:
    """What a caller is told. SQLite's own words name files and columns, so they go to the log only."""
    if is_disk_full(exc):
        message = "The ledger's disk is full."
    elif is_trouble(exc):
        message = "The ledger cannot be written at the moment."
    else:
        message = "The ledger refused this entry."
    return StoreError(message, headers={"retry-after": str(RETRY_AFTER_S)})
