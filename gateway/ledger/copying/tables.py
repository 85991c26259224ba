"""What a copy takes along, in the order in which rows refer to each other, and how far it is: a row of `meta`."""

from typing import Any, NamedTuple

import orjson
from sqlalchemy import Table

from gateway.errors import ConfigError
from gateway.ledger.schema import metadata

__all__ = ["MARK", "TABLES", "Identity", "Mark", "Position", "key_of", "require_whole"]

MARK = "copied_from"
"""The key in `meta` of the target. It stays there when the copy is complete."""
_STAYS = frozenset({"instances", "leases", "sessions"})
"""Who is alive on one database, or signed in, says nothing on another."""
TABLES: tuple[Table, ...] = tuple(table for table in metadata.sorted_tables if table.name not in _STAYS)


class Identity(NamedTuple):
    """What tells a ledger from others, and from itself before something was changed in it."""

    secret_fingerprint: str | None
    first_entry: str | None
    last_entry: str | None
    counts: dict[str, int]
    digest: str
    """Of every table whose rows can change without their number changing."""

    def is_same_ledger(self, other: "Identity") -> bool:
        """Though perhaps not at the same moment."""
        return (self.secret_fingerprint, self.first_entry) == (other.secret_fingerprint, other.first_entry)


class Position(NamedTuple):
    """How far one table is."""

    after: list[Any] | None = None
    """The key of the last row, as the source has it. None before the first."""
    rows: int = 0
    is_done: bool = False


class Mark(NamedTuple):
    """What the target says of the copy in it. Each step writes it in the transaction that writes its rows."""

    source: Identity
    positions: dict[str, Position]
    is_complete: bool = False
    """And was found to be the same as the source."""

    def at(self, table: str) -> Position:
        return self.positions.get(table, Position())

    def moved(self, table: str, position: Position) -> "Mark":
        return self._replace(positions={**self.positions, table: position})

    def to_json(self) -> str:
        # orjson writes no named tuples, and 64 bits are all that a key's numbers have.
        found = {
            "source": self.source._asdict(),
            "positions": {name: position._asdict() for name, position in self.positions.items()},
            "is_complete": self.is_complete,
        }
        return orjson.dumps(found).decode()

    @classmethod
    def from_json(cls, text: str) -> "Mark":
        found = orjson.loads(text)
        positions = {name: Position(**position) for name, position in found["positions"].items()}
        return cls(Identity(**found["source"]), positions, found["is_complete"])


def key_of(table: Table) -> tuple[str, ...]:
    """The columns that rows are read along."""
    return tuple(column.name for column in table.primary_key.columns)


async def require_whole(link: Any) -> None:
    """Raises `ConfigError` where a copy into the database of `link` (asyncpg's) was begun and is not complete: who was
    served from it would have the limits, or lack the keys, that are still missing."""
    text = await link.fetchval("SELECT value FROM meta WHERE key = $1", MARK)
    if text is not None and not Mark.from_json(text).is_complete:
        raise ConfigError(
            "the database has an unfinished copy of a ledger: run the same `gateway db copy` again, which goes on where it "
            "was, or name another database"
        )
