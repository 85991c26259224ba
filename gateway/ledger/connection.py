"""What the writer's thread asks of the one connection it writes over: small, synchronous, the same for every store."""

from collections.abc import Sequence
from typing import Any, Protocol

from sqlalchemy.engine import Dialect

from gateway.ledger.faults import Fault
from gateway.ledger.statements import ManyRows, Row, Statement

__all__ = ["Connection"]


class Connection(Protocol):
    """Used by one thread. Raises whatever its driver raises; `fault_of` says what that means.

    A connection that was lost is made anew by the next `begin`.
    """

    @property
    def dialect(self) -> Dialect:
        """What statements are compiled for."""
        ...

    @property
    def epoch(self) -> int | None:
        """Another number after the connection was lost: then what was committed on it, and was not durable, may be gone.
        None for a store that ends with the process, and not before."""
        ...

    def now_ms(self) -> int:
        """By the clock that all who write to this store share; read without asking it."""
        ...

    @property
    def clock_ahead_ms(self) -> int:
        """How far that clock is ahead of this machine's; below 0 if it is behind. May be asked on another thread."""
        ...

    def begin(self, *, is_durable: bool) -> None:
        """Begins a transaction; one that is not durable survives the end of the process, but no power cut."""
        ...

    def commit(self) -> None: ...

    def receipt(self) -> str:
        """By what `was_committed` knows the open transaction again; empty where it needs none."""
        ...

    def was_committed(self, receipt: str) -> bool:
        """What became of a transaction whose `commit` was in doubt. Asked inside a later one."""
        ...

    def rollback(self) -> None:
        """Takes back what the open transaction did; nothing where none is open."""
        ...

    def lock(self, name: str) -> None:
        """Until the open transaction ends nobody else has the lock `name`. Whatever is read after it, is read as of then."""
        ...

    def announce(self, text: str) -> None:
        """Tells every process of the gateway, if and when the open transaction is committed. ASCII, below 4 kB."""
        ...

    def rows(self, statement: Statement) -> list[Row]:
        """Executes; what it returned: a `select`, or a write with `returning`."""
        ...

    def count(self, statement: Statement) -> int:
        """Executes a write; how many rows it met."""
        ...

    def insert(self, many: ManyRows, rows: Sequence[Sequence[Any]]) -> None: ...

    def count_deleted_holds(self, ids: Sequence[str]) -> int: ...

    def delete_holds(self, ids: Sequence[str]) -> list[str]:
        """The ids of those that were there."""
        ...

    def fault_of(self, exc: BaseException) -> Fault: ...

    def make_room(self) -> None:
        """The disk is full: give up what was set aside for that."""
        ...

    def recover(self) -> None:
        """The store works again: take back what was given up. Raises `OSError` while that cannot be done."""
        ...

    def close(self) -> None: ...
