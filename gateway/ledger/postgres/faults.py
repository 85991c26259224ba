"""What PostgreSQL's errors mean, by their SQLSTATE (PostgreSQL documentation, appendix A, "PostgreSQL Error Codes").

asyncpg's exceptions carry the values that were refused, in `DETAIL` and in its own words. They go no further than here.
"""

import asyncpg  # type: ignore[import-untyped]

from gateway.ledger.faults import Fault

__all__ = ["PostgresFault", "fault_of", "translated"]

_DISK_FULL = "53100"
_PASSING = frozenset({"40001", "40P01", "0A000"})
"""Serialisation failure, deadlock, and a cached plan whose tables were altered."""
_CLASSES_AT_FAULT = frozenset({"22", "23"})
"""Data exception, integrity constraint violation."""
_CONFLICT = "23"
_BAD_SQL = "42"
_NOT_ALLOWED = "42501"
"""Of the class of bad SQL, but it takes an administrator, and no other SQL."""
_DATA_OUT_OF_RANGE = (asyncpg.DataError, UnicodeError, OverflowError)


class PostgresFault(Exception):
    """An error of PostgreSQL or of the way to it, without the values it was about."""

    def __init__(self, fault: Fault, message: str, sqlstate: str = "") -> None:
        super().__init__(message)
        self.fault = fault
        self.sqlstate = sqlstate


def fault_of(exc: BaseException) -> Fault:
    if isinstance(exc, PostgresFault):
        return exc.fault
    return Fault.TROUBLE if isinstance(exc, (OSError, MemoryError)) else Fault.BAD_ROW


def translated(exc: Exception) -> PostgresFault:
    """The same without any value. The server's main message names tables, columns and constraints only."""
    if isinstance(exc, PostgresFault):
        return exc
    name = type(exc).__name__
    if isinstance(exc, asyncpg.PostgresError) and exc.sqlstate:
        return PostgresFault(_fault_of_state(exc.sqlstate), f"{name} {exc.sqlstate}: {exc.args[0]}", exc.sqlstate)
    if isinstance(exc, _DATA_OUT_OF_RANGE):
        return PostgresFault(Fault.BAD_ROW, f"{name}: a value that its column cannot hold")
    return PostgresFault(Fault.TROUBLE, f"{name}: {exc}")


def _fault_of_state(state: str) -> Fault:
    """Whatever is not known to be the write's own fault is the store's: then it is tried again, and nothing is lost."""
    if state == _DISK_FULL:
        return Fault.FULL
    if state in _PASSING:
        return Fault.PASSING
    if state[:2] == _CONFLICT:
        return Fault.CONFLICT
    if state[:2] in _CLASSES_AT_FAULT:
        return Fault.BAD_ROW
    return Fault.BAD_SQL if state[:2] == _BAD_SQL and state != _NOT_ALLOWED else Fault.TROUBLE
