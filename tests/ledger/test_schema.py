"""The tables: what a migration makes is what the code believes, no float anywhere, and entries stay as they are."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from gateway.errors import ConfigError
from gateway.ledger import migration
from gateway.ledger.database import Database
from gateway.ledger.orphans import book_orphans
from gateway.ledger.records import Reservation
from gateway.ledger.schema import ENTRY_COLUMNS, HOLD_COLUMNS, entries, holds, metadata
from tests.ledger.books import NOON, call, change, count, entry, hold, rows


def shape(path: Path) -> dict[str, Any]:
    """Every table with its kind, columns, keys and indexes, as SQLite tells them."""
    with closing(sqlite3.connect(path)) as connection:

        def told(sql: str) -> list[Any]:
            return sorted(connection.execute(sql).fetchall(), key=repr)

        found: dict[str, Any] = {}
        for _, name, kind, _, without_rowid, strict in connection.execute("PRAGMA table_list").fetchall():
            if kind == "table" and not name.startswith("sqlite_") and name != "alembic_version":
                indexes = [
                    (unique, origin, partial, [column[2] for column in told(f"PRAGMA index_info('{index}')")])
                    for _, index, unique, origin, partial in told(f"PRAGMA index_list('{name}')")
                ]
                columns = connection.execute(f"PRAGMA table_info('{name}')").fetchall()
                keys = told(f"PRAGMA foreign_key_list('{name}')")
                found[name] = (without_rowid, strict, columns, sorted(indexes, key=repr), keys)
        return found


def test_migrations_make_the_tables_of_the_schema(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    assert migration.migrate(path) is True
    assert migration.migrate(path) is False
    with closing(sqlite3.connect(tmp_path / "direct.db")) as connection:
        for table in metadata.sorted_tables:
            connection.execute(str(CreateTable(table).compile(dialect=sqlite.dialect())))
            for index in table.indexes:
                connection.execute(str(CreateIndex(index).compile(dialect=sqlite.dialect())))
        connection.commit()
    migrated = shape(path)
    assert migrated == shape(tmp_path / "direct.db")
    assert set(migrated) == set(metadata.tables)


def test_partial_indexes_have_the_conditions_of_the_schema(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    migration.migrate(path)
    made = {name: sql.partition(" WHERE ")[2] for name, sql in rows(path, "SELECT name, sql FROM sqlite_master") if sql}
    conditions = {
        str(index.name): str(where)
        for table in metadata.tables.values()
        for index in table.indexes
        if (where := index.dialect_options["sqlite"]["where"]) is not None
    }
    assert len(conditions) == 5
    assert {name: made[name] for name in conditions} == conditions


def test_the_newest_migration_is_the_version_that_is_asked_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migration.__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [migration.HEAD]
    assert {script.revision for script in scripts.walk_revisions()} == set(migration._KNOWN) - {None}


SEALED = {("idempotency", "answer")}
"""The only bytes: ciphertext."""


def test_columns_are_texts_and_integers_in_strict_tables(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    migration.migrate(path)
    for name, (_, strict, columns, _, _) in shape(path).items():
        assert strict == 1, name
        kinds = {column[1]: column[2] for column in columns if (name, column[1]) not in SEALED}
        assert set(kinds.values()) <= {"TEXT", "INTEGER"}, name
        assert {column[2] for column in columns if (name, column[1]) in SEALED} <= {"BLOB"}


async def test_no_stored_value_is_a_float(database: Database, path: Path) -> None:
    await call(database, "r1")
    await database.ledger.hold(hold("r2"))
    await book_orphans(database)
    reserved = Reservation("an-id", "a-fingerprint", NOON)
    await database.ledger.hold(hold("r3")._replace(reservation=reserved))
    database.ledger.count_refusal("acme", "quota")
    await database.close()
    seen = 0
    for name, table in metadata.tables.items():
        kinds = ", ".join(f'typeof("{column.name}")' for column in table.columns)
        for row in rows(path, f"SELECT {kinds} FROM {name}"):
            seen += 1
            assert set(row) <= {"text", "integer", "null"}, name
    assert seen >= 7


def test_rows_are_written_in_the_order_of_the_columns() -> None:
    assert tuple(column.name for column in entries.columns) == ENTRY_COLUMNS
    assert tuple(column.name for column in holds.columns) == HOLD_COLUMNS


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entries SET cost_nano_usd = 0",
        "UPDATE entries SET final = final",
        "DELETE FROM entries",
        "DELETE FROM entries WHERE request_id = 'r1'",
    ],
)
async def test_entries_are_never_changed_nor_deleted(database: Database, path: Path, sql: str) -> None:
    await call(database, "r1")
    before = rows(path, "SELECT * FROM entries")
    with pytest.raises(sqlite3.IntegrityError, match="never changed"):
        change(path, sql)
    assert rows(path, "SELECT * FROM entries") == before


async def test_an_entry_is_not_replaced_by_another_of_the_same_id(database: Database, path: Path) -> None:
    await call(database, "r1")
    before = rows(path, "SELECT * FROM entries")

    def replace(transactions: Any) -> None:
        transactions.connection.raw.execute("INSERT OR REPLACE INTO entries SELECT * FROM entries")

    with pytest.raises(Exception, match="already there"):
        await database.run(replace)
    assert rows(path, "SELECT * FROM entries") == before


# Opening


async def test_the_database_is_for_its_owner_only(path: Path) -> None:
    database = await Database.open(path)
    await call(database, "r1")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    files = list(path.parent.iterdir())
    for file in files:
        assert file.stat().st_mode & 0o077 == 0, file.name
    await database.close()
    assert len(files) >= 3


async def test_a_newer_database_is_refused(database: Database, path: Path) -> None:
    await database.close()
    change(path, "UPDATE alembic_version SET version_num = '9999'")
    for opening in (Database.open(path), Database.open_read_only(path)):
        with pytest.raises(ConfigError, match="newer gateway"):
            await opening


@pytest.mark.parametrize(
    "content", [b"not a database, whatever its name says" * 100, b"SQLite format 3\0" + b"x" * 5000]
)
async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "gateway.db"
    file.write_bytes(content)
    for opening in (Database.open(file), Database.open_read_only(file)):
        with pytest.raises(ConfigError, match="cannot be used"):
            await opening
    assert file.read_bytes() == content


async def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    change(file, "CREATE TABLE things (id)")
    with pytest.raises(ConfigError, match="something else"):
        await Database.open(file)


async def test_reading_needs_a_database_and_makes_none(path: Path) -> None:
    with pytest.raises(ConfigError, match="no database"):
        await Database.open_read_only(path)
    assert not path.exists()


async def test_a_half_made_migration_leaves_nothing(path: Path) -> None:
    path.parent.mkdir()
    change(path, "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    change(path, "CREATE TABLE meta (taken)")  # the last table of the migration is in the way
    with pytest.raises(Exception, match="meta"):
        await Database.open(path)
    assert {row[0] for row in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")} == {
        "alembic_version",
        "meta",
    }


async def test_a_restart_finds_everything_and_goes_on_with_greater_ids(path: Path) -> None:
    for n in range(3):
        database = await Database.open(path)
        await call(database, f"r{n}")
        await database.close()
    assert [row[0] for row in rows(path, "SELECT request_id FROM entries ORDER BY id")] == ["r0", "r1", "r2"]
    assert count(path, "holds") == 0
    # As if the clock had been ahead by years when this was posted.
    ahead = "ffff0000-0000-7000-8000-000000000000"
    columns = ", ".join(ENTRY_COLUMNS[2:])
    change(path, f"INSERT INTO entries SELECT ?, 'ahead', {columns} FROM entries WHERE request_id = 'r2'", ahead)
    database = await Database.open(path)
    await call(database, "r3")
    await database.close()
    assert rows(path, "SELECT request_id FROM entries ORDER BY id DESC LIMIT 1") == [("r3",)]


async def test_reading_works_beside_the_writer_and_cannot_write(database: Database, path: Path) -> None:
    reader = await Database.open_read_only(path)
    await call(database, "r1")
    assert len(await reader.fetch_all(entries.select())) == 1
    with pytest.raises(Exception, match="reading only"):
        await reader.write(entries.delete())
    await reader.close()
    assert entry("r1").attribution.request_id == (await database.fetch_all(entries.select()))[0]["request_id"]
