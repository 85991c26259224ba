"""What a store's errors mean to the gateway, whichever store it is.

`gateway.ledger.sqlite.faults` and `gateway.ledger.postgres.faults` tell which of these an exception is.
"""

from enum import Enum, auto

from gateway.errors import RequestError, StoreError

__all__ = ["RETRY_AFTER_S", "Conflict", "Fault", "store_error"]

RETRY_AFTER_S = 1


class Conflict(RequestError):
    """A write contradicts what is there: an id that is taken, a reference to nothing. Nothing of it was kept."""

    status = 409
    code = "conflict"


class Fault(Enum):
    """Why a write failed."""

    TROUBLE = auto()
    """The store failed; the same write may succeed later."""
    FULL = auto()
    """Trouble: there is no room left on its disk."""
    IN_DOUBT = auto()
    """Trouble that came while it was committed: it may be in the ledger, or not."""
    PASSING = auto()
    """Two transactions were in each other's way: to be repeated at once."""
    BAD_SQL = auto()
    """A statement that can never run: the fault of whoever wrote it."""
    CONFLICT = auto()
    """A constraint does not allow it."""
    BAD_ROW = auto()
    """A value that cannot be stored, or whatever else is the write's own fault."""

    @property
    def is_trouble(self) -> bool:
        """Whether the same write may succeed later. Holds and settles count bad SQL in, for theirs is known to be good."""
        return self not in (Fault.CONFLICT, Fault.BAD_ROW)


def store_error(fault: Fault) -> StoreError:
    """What a caller is told. A store's own words name files, hosts and columns, so they go to the log only."""
    if fault is Fault.FULL:
        message = "The ledger's disk is full."
    elif fault.is_trouble:
        message = "The ledger cannot be written at the moment."
    else:
        message = "The ledger refused this entry."
    return StoreError(message, headers={"retry-after": str(RETRY_AFTER_S)})
