"""From the tables of earlier versions, with a gateway's data in them, to those of this version."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger import migration
from gateway.ledger.database import Database
from gateway.ledger.orphans import book_orphans
from gateway.ledger.verify import verify
from tests.ledger.books import COST, MODEL, NOON, ORPHAN_COST, PRICE, change, rows
from tests.ledger.test_schema import shape

CREATED_MS = int(NOON.timestamp() * 1000)
MONEY = "SELECT count(*), sum(cost_nano_usd), sum(charge_nano_usd), sum(payer_amount), group_concat(id) FROM entries"
SUMS = "SELECT creator, payer, calls, cost_nano_usd, charge_nano_usd, payer_amount FROM usage_daily ORDER BY creator"

KILLED_AT = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
from gateway.ledger import migration

@event.listens_for(Engine, "after_cursor_execute")
def die(connection, cursor, statement, *rest):
    if statement.lstrip().startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

migration.migrate(Path(sys.argv[1]))
"""


@pytest.fixture
def old(path: Path) -> Path:
    """Tables of version 0001 with a creator, its key, 50 calls of two creators, their sums, and an open hold."""
    path.parent.mkdir()
    path.touch()
    migration._upgrade(path, "0001")
    buckets = "100, 20, 0, 0, 0, 30, 7, 0, 0, 0"
    labels = "'kkkkkkkkkkkk', 'chat-ui', '', '', '', 'chat', ?, '', ?"
    route = "?, 'openai', ?, 'quota', 'nano_usd'"
    with closing(sqlite3.connect(path)) as connection:
        execute = connection.execute
        execute("INSERT INTO creators VALUES ('acme', 'acme', '', 'free', '{}', '{}', 1, 1, NULL)")
        execute(
            "INSERT INTO virtual_keys VALUES ('kkkkkkkkkkkk', 'acme', 'acme', '', 'd', 'last', NULL, '{}', '[]', 1,"
            " NULL, NULL, NULL)"
        )
        for n in range(50):
            creator, entry_id = ("acme", "zeta")[n % 2], f"019e0000-{n:04x}-7000-8000-000000000000"
            execute(
                f"INSERT INTO entries VALUES (?, ?, ?, ?, {labels}, {route}, 1, 1, 'usage', {buckets}, 'provider', ?, ?,"
                " ?, 'ok', '', '', 200, 0, 0, 850, NULL, '', '', '', '2026-05-14', '2026-05', ?, NULL)",
                (
                    entry_id,
                    f"r{n}",
                    creator,
                    creator,
                    MODEL,
                    CREATED_MS,
                    MODEL,
                    PRICE.version,
                    COST,
                    COST,
                    COST,
                    CREATED_MS,
                ),
            )
        for creator in ("acme", "zeta"):
            execute(
                "INSERT INTO usage_daily VALUES ('2026-05-14', ?, ?, 'kkkkkkkkkkkk', 'chat-ui', '', 'chat', ?, ?,"
                " 'openai', 'usage', 'quota', 0, 'ok', 25, 25, 2500, 500, 0, 0, 0, 750, 175, 0, 0, 0, ?, ?, ?, 0)",
                (creator, creator, MODEL, MODEL, 25 * COST, 25 * COST, 25 * COST),
            )
        execute(
            f"INSERT INTO holds VALUES ('open', 'i', 'acme', 'acme', {labels}, {route}, ?, 120, 0, 0, 0, 0, 1000, 0, 0, 0,"
            " 0, ?, ?)",
            (MODEL, CREATED_MS, MODEL, PRICE.version, 2 * ORPHAN_COST, ORPHAN_COST, CREATED_MS),
        )
        connection.commit()
    return path


TABLES = ("entries", "usage_daily", "virtual_keys", "creators", "holds")


def stored(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {table: rows(path, f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}


@pytest.mark.parametrize("version", ["0001", "0002", "0003"])
async def test_an_upgrade_leaves_money_as_it_was(old: Path, tmp_path: Path, version: str) -> None:
    """What stood in a column stands there, and what is new says that there was none of it."""
    migration._upgrade(old, version)
    assert migration.stored_version(old) == version
    money, sums = rows(old, MONEY), rows(old, SUMS)
    before = stored(old)
    assert [len(found) for found in before.values()] == [50, 2, 1, 1, 1]
    database = await Database.open(old)
    try:
        await database.record_prices({MODEL: PRICE})
        assert migration.stored_version(old) == migration.HEAD
        assert (rows(old, MONEY), rows(old, SUMS)) == (money, sums)
        after = stored(old)
        for table, found in before.items():
            assert [row[: len(found[0])] for row in after[table]] == found, table
        new = "variant, charge_price_version, decision, saved_nano_usd"
        assert rows(old, f"SELECT DISTINCT {new} FROM entries") == [("", "", "", 0)]
        assert rows(old, "SELECT DISTINCT saved_nano_usd FROM usage_daily") == [(0,)]
        assert rows(old, "SELECT limits_id, paused_at FROM virtual_keys") == [(None, None)]
        assert verify(old).differences == []
        await book_orphans(database)
    finally:
        await database.close()
    owed = "SELECT outcome, cost_nano_usd, charge_nano_usd, payer_amount FROM entries WHERE request_id = 'open'"
    assert rows(old, owed) == [("crashed", ORPHAN_COST, ORPHAN_COST, ORPHAN_COST)]
    assert verify(old).differences == []
    fresh = tmp_path / "fresh.db"
    fresh.touch()
    migration.migrate(fresh)
    assert shape(old) == shape(fresh)


def test_keys_rotated_before_count_on_the_first_ones_counters(old: Path) -> None:
    insert = "INSERT INTO virtual_keys VALUES (?, 'acme', 'acme', '', ?, 'last', NULL, '{}', '[]', 1, NULL, NULL, ?)"
    for key_id, replaced_by in [("c", None), ("a", "b"), ("b", "c"), ("y", None), ("x", "y"), ("single", None)]:
        change(old, insert, key_id, key_id, replaced_by)
    migration.migrate(old)
    found = dict(rows(old, "SELECT id, limits_id FROM virtual_keys"))
    assert found == {"kkkkkkkkkkkk": None, "single": None, "a": None, "b": "a", "c": "a", "x": None, "y": "x"}


@pytest.mark.parametrize("sql", ["UPDATE entries SET variant = 'x'", "DELETE FROM entries"])
def test_entries_stay_protected_by_an_upgrade(old: Path, sql: str) -> None:
    migration.migrate(old)
    with pytest.raises(sqlite3.IntegrityError, match="never changed"):
        change(old, sql)


@pytest.mark.parametrize(
    "statement", ["ALTER TABLE entries", "CREATE INDEX ix_entries_credits", "UPDATE alembic_version"]
)
def test_a_process_killed_in_the_middle_leaves_the_tables_before(old: Path, statement: str) -> None:
    """Somewhere in the migration, or with everything done but the commit: 0001 stays, and the next start upgrades it."""
    before, money = shape(old), rows(old, MONEY)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(old), statement], capture_output=True, timeout=60, check=False
    )
    assert killed.returncode == -9, killed.stderr
    assert migration.stored_version(old) == "0001"
    assert (shape(old), rows(old, MONEY)) == (before, money)
    assert migration.migrate(old) is True
    assert rows(old, MONEY) == money
