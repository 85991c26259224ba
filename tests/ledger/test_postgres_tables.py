"""Tables in PostgreSQL: what migrations make is what the code believes, entries stay as they are, each month has its own."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Text
from structlog.testing import capture_logs

from gateway.config import Settings
from gateway.errors import ConfigError, StoreError
from gateway.ledger.database import Database
from gateway.ledger.ids import id_floor
from gateway.ledger.migration import HEAD
from gateway.ledger.orphans import book_orphans
from gateway.ledger.periods import month_bounds_ms, now_ms
from gateway.ledger.postgres import migration
from gateway.ledger.postgres.link import connect, end
from gateway.ledger.postgres.opening import open_postgres, open_postgres_read_only, verify_postgres
from gateway.ledger.postgres.partitions import make_partitions, months_from
from gateway.ledger.schema import ENTRY_COLUMNS, Flag, entries, metadata
from tests.ledger.books import COST, MODEL, NOON, ORPHAN_COST, PRICE, call, change, count, entry, rows

STORES = ("postgres",)
HOUR_MS = 3_600_000
COLUMNS = (
    "SELECT table_name, column_name, data_type, is_nullable = 'YES', collation_name FROM information_schema.columns "
    "WHERE table_schema = 'public' AND table_name = ANY(?::text[]) ORDER BY table_name, ordinal_position"
)
INDEXES = "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = ANY(?::text[])"
OLD_ENTRY = dict.fromkeys(ENTRY_COLUMNS)


def kind_of(column: Any) -> str:
    if isinstance(column.type, Text):
        return "text"
    if isinstance(column.type, Flag):
        return "boolean"
    return "bytea" if column.name == "answer" else "bigint"


def test_migrations_make_the_columns_of_the_schema(path: str) -> None:
    expected = [
        (name, column.name, kind_of(column), column.nullable, "C" if kind_of(column) == "text" else None)
        for name in sorted(metadata.tables)
        for column in metadata.tables[name].columns
    ]
    assert rows(path, COLUMNS, list(metadata.tables)) == expected


def test_migrations_make_the_indexes_of_the_schema(path: str) -> None:
    """But for the unique (request_id, attempt), which partitions cannot have."""
    made = rows(path, INDEXES, list(metadata.tables))
    for table in metadata.tables.values():
        for index in table.indexes:
            columns = ", ".join(column.name for column in index.columns)
            where = index.dialect_options["postgresql"]["where"]
            (found,) = [sql for name, sql in made if name == table.name and f" {index.name} " in sql]
            assert f"({columns})" in found
            assert ("WHERE" in found) is (where is not None)
    assert [sql for name, sql in made if name == "entries" and "(request_id)" in sql]


async def test_the_tables_of_version_0001_are_brought_up_to_date_with_what_is_in_them(database_url: str) -> None:
    link = await connect(database_url, name="test", statement_timeout_s=10)
    await link.execute(migration._script(None, "0001"))
    await link.execute(
        "INSERT INTO creators VALUES ('acme', 'acme', '', 'free', '{}', '{}', true, 1, NULL);"
        "INSERT INTO virtual_keys VALUES ('k', 'acme', 'acme', '', 'd', 'last', NULL, '{}', '[]', 1, NULL, NULL, NULL);"
        "INSERT INTO holds VALUES ('open', 'i', 'acme', 'acme', 'k', 'chat-ui', '', '', '', 'chat', 'gpt-test', '', 1,"
        f" 'gpt-test', 'openai', '{PRICE.version}', 'quota', 'nano_usd', 9, 120, 0, 0, 0, 0, 1000, 0, 0, 0, 0,"
        f" {ORPHAN_COST}, 1)"
    )
    await end(link)
    database = await open_postgres(database_url, settings=Settings(settle_timeout_s=5), has_spool=False)
    await database.record_prices({MODEL: PRICE})
    (booked,) = await book_orphans(database)
    await database.close()
    assert booked["cost_nano_usd"] == ORPHAN_COST
    assert rows(database_url, "SELECT charge_nano_usd, payer_amount, saved_nano_usd, variant FROM entries") == [
        (ORPHAN_COST, ORPHAN_COST, 0, "")
    ]
    assert verify_postgres(database_url).differences == []
    assert rows(database_url, "SELECT version_num FROM alembic_version") == [(HEAD,)]


async def test_gateways_that_start_at_once_migrate_once(database_url: str) -> None:
    assert sorted(await asyncio.gather(*(migration.migrate(database_url) for _ in range(4)))) == [False] * 3 + [True]


async def test_a_migration_that_fails_leaves_nothing(database_url: str) -> None:
    change(database_url, "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    change(database_url, "CREATE TABLE meta (taken int)")  # the last table of the migration is in the way
    with pytest.raises(ConfigError, match=r"42P07|already exists"):
        await open_postgres(database_url)
    assert rows(database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1") == [
        ("alembic_version",),
        ("meta",),
    ]


async def test_a_database_of_a_newer_gateway_or_of_something_else_is_refused(path: str, database_url: str) -> None:
    change(path, "UPDATE alembic_version SET version_num = '9999'")
    change(database_url, "CREATE TABLE things (id int)")
    for opening in (open_postgres, open_postgres_read_only):
        with pytest.raises(ConfigError, match="newer gateway"):
            await opening(path)
        with pytest.raises(ConfigError, match="something else"):
            await opening(database_url)


async def test_reading_works_beside_the_writer_and_cannot_write(database: Database, path: str) -> None:
    reader = await open_postgres_read_only(path)
    await call(database, "r1")
    assert len(await reader.fetch_all(entries.select())) == 1
    with pytest.raises(StoreError, match="reading only"):
        await reader.write(entries.delete())
    with pytest.raises(StoreError):
        await reader.fetch_all(entries.insert().values({**OLD_ENTRY, "id": "x"}).returning(entries.c.id))  # type: ignore[arg-type]
    await reader.close()


# Entries


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entries SET cost_nano_usd = 0",
        "UPDATE entries SET final = final",
        "DELETE FROM entries WHERE request_id = 'r1'",
        "TRUNCATE entries",
        "UPDATE {part} SET cost_nano_usd = 0",
        "DELETE FROM {part}",
        "TRUNCATE {part}",
        "INSERT INTO entries SELECT * FROM entries ON CONFLICT (id) DO UPDATE SET cost_nano_usd = 0",
    ],
)
async def test_entries_are_never_changed_nor_deleted(database: Database, path: str, sql: str) -> None:
    await call(database, "r1")
    before = rows(path, "SELECT * FROM entries")
    ((part,),) = rows(path, "SELECT tableoid::regclass::text FROM entries")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="never changed"):
        change(path, sql.format(part=part))
    assert rows(path, "SELECT * FROM entries") == before


# Partitions


def test_the_months_to_come_are_those_of_the_calendar() -> None:
    assert months_from(datetime(2026, 11, 30, 23, 59, tzinfo=UTC)) == ["2026-11", "2026-12", "2027-01"]
    assert months_from(NOON, 0) == ["2026-05"]


def parts(path: str) -> dict[str, str]:
    """Table -> its range."""
    query = (
        "SELECT relname::text, pg_get_expr(relpartbound, oid) FROM pg_class JOIN pg_inherits ON inhrelid = oid "
        "WHERE inhparent = 'entries'::regclass"
    )
    return dict(rows(path, query))


async def test_a_start_makes_the_tables_of_this_month_and_the_next_two(database_url: str) -> None:
    database = await open_postgres(database_url)
    await call(database, "r1")
    await database.close()
    months = months_from(datetime.now(UTC))
    assert set(parts(database_url)) == {"entries_other", *(f"entries_{month.replace('-', '_')}" for month in months)}
    ((part,),) = rows(database_url, "SELECT tableoid::regclass::text FROM entries")
    assert part == f"entries_{months[0].replace('-', '_')}"
    indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = ?"
    assert len(set(rows(database_url, indexes, part) + rows(database_url, indexes, "entries"))) == 1
    again = await open_postgres(database_url)
    await again.close()


async def test_an_entry_is_kept_whatever_month_it_falls_into(database: Database, path: str) -> None:
    """Also of a clock that was wrong; and a month that has some of these already goes on without a table of its own."""
    await call(database, "r1")
    columns = ", ".join(ENTRY_COLUMNS[2:])
    for month in ("2030-01", "2031-01"):
        entry_id = f"{id_floor(month_bounds_ms(month)[0])}-7000-8000-000000000000"
        change(
            path, f"INSERT INTO entries SELECT '{entry_id}', '{month}', {columns} FROM entries WHERE request_id = 'r1'"
        )
    assert rows(path, "SELECT request_id FROM entries_other ORDER BY id") == [("2030-01",), ("2031-01",)]
    link = await connect(path, name="test", statement_timeout_s=10)
    try:
        with capture_logs() as logs:
            assert await make_partitions(link, ["2030-01", "2030-02"]) == ["entries_2030_02"]
    finally:
        await end(link)
    assert [(log["event"], log["partition"]) for log in logs] == [("partition_not_made", "entries_2030_01")]
    found = await database.fetch_all(entries.select().order_by(entries.c.id))
    assert [row["request_id"] for row in found] == ["r1", "2030-01", "2031-01"]


async def test_partitions_are_made_while_calls_go_on(database: Database, path: str) -> None:
    """Nobody who posts waits, nor who reads what other tables have."""
    link = await connect(path, name="test", statement_timeout_s=10)
    try:
        async with link.transaction():
            assert await make_partitions(link, ["2040-01"]) == ["entries_2040_01"]
            await call(database, "meanwhile")  # not committed yet
            this_month = entries.select().where(
                entries.c.id > id_floor(now_ms() - HOUR_MS), entries.c.id < id_floor(now_ms() + HOUR_MS)
            )
            assert await database.fetch_one(this_month) is not None
    finally:
        await end(link)
    assert rows(path, "SELECT sum(cost_nano_usd) FROM entries") == [(COST,)]


async def test_ids_go_on_above_the_largest_there_is(database: Database, path: str) -> None:
    await call(database, "r1")
    columns = ", ".join(ENTRY_COLUMNS[2:])
    change(path, f"INSERT INTO entries SELECT 'ffff0000-0000-7000-8000-000000000000', 'ahead', {columns} FROM entries")
    await database.close()
    again = await open_postgres(path)
    await again.ledger.post([entry("r2")])
    await again.close()
    assert rows(path, "SELECT request_id FROM entries ORDER BY id DESC LIMIT 1") == [("r2",)]
    assert count(path, "entries_other") == 2
