"""What SQLite's errors mean."""

import sqlite3

from gateway.ledger.faults import Fault

__all__ = ["fault_of"]


def fault_of(exc: BaseException) -> Fault:
    """Locked, full, unreadable, read-only and broken files are trouble (`OperationalError`, or `DatabaseError` itself); a
    constraint, a value out of range and a text that is no text are not."""
    name = getattr(exc, "sqlite_errorname", None)
    if name == "SQLITE_FULL":
        return Fault.FULL
    if name == "SQLITE_ERROR":
        return Fault.BAD_SQL
    if isinstance(exc, sqlite3.IntegrityError):
        return Fault.CONFLICT
    is_trouble = isinstance(exc, (sqlite3.OperationalError, sqlite3.InternalError, MemoryError, OSError))
    return Fault.TROUBLE if is_trouble or type(exc) is sqlite3.DatabaseError else Fault.BAD_ROW
