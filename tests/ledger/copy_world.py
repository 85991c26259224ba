"""A ledger in a file of SQLite with rows of every kind in every table, and how two ledgers are compared row by row."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import LargeBinary, Table, Text

from gateway.ledger.closing import close_month
from gateway.ledger.copying.tables import MARK, TABLES, key_of
from gateway.ledger.ids import EntryIds
from gateway.ledger.orphans import book_orphans
from gateway.ledger.periods import month_bounds_ms
from gateway.ledger.postgres.link import connect, storable
from gateway.ledger.postgres.migration import _script
from gateway.ledger.schema import Flag
from tests.account_world import ROOT
from tests.credit_world import CreditWorld, open_credit_world
from tests.ledger.books import NOON, Place, call, entry, hold, rows

MONTHS = ("2025-11", "2026-01", "2026-02")
"""In which the first entries are posted; the rest are posted now."""
FILLED = frozenset(
    "admin_keys anomalies assets audit_log conversations conversation_items generations idempotency notices notice_deliveries "
    "refusals_daily responses throttles usage_hourly".split()
)
"""Tables that nothing is computed again from."""
STRANGE = ("a\0b", "\\N", "\t,\"'\n", "ключ 🔑", "", "{1,NULL}")
EDGES = (0, -1, 2**63 - 1, -(2**63))


@dataclass
class Ledger:
    """A closed file in a data folder of its own, whose root secret is in the file `secret`."""

    path: Path
    key: str
    """The text of a virtual key of `acme`."""

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"


def make_ledger(folder: Path) -> Ledger:
    (folder / "secret").write_text(ROOT.decode())
    (folder / "secret").chmod(0o600)
    key = asyncio.run(_book(folder))
    path = folder / "gateway.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        _spread(connection)
        for table in TABLES:
            if table.name in FILLED:
                _fill(connection, table)
        signed_in = "INSERT INTO sessions VALUES ('s1', 'admin', 'digest', 1, 1, ?)"
        connection.execute(signed_in, (EDGES[2],)).close()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
    return Ledger(path, key)


async def _book(folder: Path) -> str:
    async with open_credit_world(folder) as world:
        await world.world.accounts.record_secret(replace=True)
        key = await world.world.new_key("acme")
        await world.world.new_key("zeta", name=STRANGE[2], models=["gpt-test"])
        for n in range(40):
            await call(world.database, f"r{n}", creator=("acme", "zeta", "omega")[n % 3], at=NOON + timedelta(days=n))
        for number, text in enumerate(STRANGE):
            strange = {"error": text, "flags": text, "decision": text, "ttft_ms": number}
            await world.database.ledger.post([entry(f"strange{number}", changes=strange)])
        await world.database.ledger.hold(hold("crashed"))
        await book_orphans(world.database)
        await _credits(world)
        await close_month(world.database, "2026-05")
    return str(key["key"])


async def _credits(world: CreditWorld) -> None:
    world.turn_to(NOON)
    await world.credits.grant("acme", credits=100, idempotency_key="once")
    await world.credits.grant("acme", "promo_credits", credits=10, expires_at=world.in_s(60))
    call_id = await world.call(30)
    await world.credits.refund(call_id)
    await world.credits.adjust("acme", "credits", credits=-5)
    world.advance(120)
    await world.credits.expire_due()


def _spread(connection: sqlite3.Connection) -> None:
    """The first calls were posted months ago, as their ids say."""
    (trigger,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'entries_no_update'").fetchone()
    connection.execute("DROP TRIGGER entries_no_update").close()
    for n, month in enumerate(MONTHS * 4):
        entry_id, at_ms = EntryIds().next(month_bounds_ms(month)[0] + n)
        moved = "UPDATE entries SET id = ?, created_at = ? WHERE request_id = ?"
        connection.execute(moved, (entry_id, at_ms, f"r{n}")).close()
    connection.execute(trigger).close()


def _fill(connection: sqlite3.Connection, table: Table) -> None:
    """Rows that no gateway wrote, of whatever the columns can hold."""
    for number in range(len(STRANGE)):
        values = [_value(connection, column, number, n) for n, column in enumerate(table.columns)]
        marks = ", ".join("?" * len(values))
        connection.execute(f"INSERT INTO {table.name} VALUES ({marks})", values).close()


def _value(connection: sqlite3.Connection, column: Any, number: int, n: int) -> Any:
    if column.foreign_keys:
        other = next(iter(column.foreign_keys)).column
        found = connection.execute(f"SELECT {other.name} FROM {other.table.name} ORDER BY 1").fetchall()
        return found[number % len(found)][0]
    if isinstance(column.type, LargeBinary):
        return None if number == 0 else bytes(range(256)) * number
    if column.nullable and number % 2:
        return None
    if isinstance(column.type, Text):
        is_key = column.primary_key or column.name in {"once", "id", "digest", "request_id", "name"}
        return f"{number} {STRANGE[number]}".replace("\0", "") if is_key else STRANGE[(number + n) % len(STRANGE)]
    if isinstance(column.type, Flag):
        return number % 2
    return number if column.primary_key or column.name == "position" else EDGES[(number + n) % len(EDGES)]


def everything(place: Place) -> dict[str, list[tuple[Any, ...]]]:
    """Every column of every row of every table that is copied, with what PostgreSQL keeps instead of the character 0."""
    found = {}
    for table in TABLES:
        columns, key = _quoted(table.columns.keys()), _quoted(key_of(table))
        unmarked = f"WHERE key <> '{MARK}'" if table.name == "meta" else ""
        stored = rows(place, f"SELECT {columns} FROM {table.name} {unmarked} ORDER BY {key}")
        found[table.name] = [_comparable(table, row) for row in stored]
    return found


def _comparable(table: Table, row: tuple[Any, ...]) -> tuple[Any, ...]:
    columns: Sequence[Any] = list(table.columns)
    return tuple(
        bool(value) if isinstance(column.type, Flag) else value
        for column, value in zip(columns, storable(row), strict=True)
    )


def make_tables(url: str, version: str) -> None:
    """Those of an older gateway, in an empty database of PostgreSQL."""

    async def make() -> None:
        link = await connect(url, name="test", statement_timeout_s=10)
        await link.execute(_script(None, version))
        await link.close()

    asyncio.run(make())


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
