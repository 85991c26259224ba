"""Reading: bounded in time and in number, and never in the writer's way."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import Select, literal_column, select

from gateway.errors import StoreError
from gateway.ledger.database import Database
from gateway.ledger.schema import entries
from tests.ledger.books import BOTH, call, entry

STORES = BOTH


def endless() -> Select[Any]:
    rows = (
        "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000000000) SELECT count(*) FROM n)"
    )
    return select(literal_column(rows))


async def test_a_query_that_takes_too_long_is_stopped(database: Database) -> None:
    for _ in range(4):  # one more than there are connections: none of them stays busy
        with pytest.raises(StoreError) as slow:
            await database.fetch_all(endless(), timeout_s=0.02)
        assert slow.value.code == "query_timeout"
    async with asyncio.timeout(5):
        assert await database.fetch_one(select(entries.c.id)) is None


async def test_a_reader_that_leaves_stops_its_query(database: Database) -> None:
    for _ in range(4):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await database.fetch_all(endless())
    async with asyncio.timeout(5):
        await call(database, "r1")
        assert await database.fetch_one(select(entries.c.request_id)) == {"request_id": "r1"}


async def test_more_readers_than_connections_take_turns(database: Database) -> None:
    await call(database, "r1")
    found = await asyncio.gather(*(database.fetch_one(select(entries.c.request_id)) for _ in range(50)))
    assert found == [{"request_id": "r1"}] * 50


async def test_a_stream_shows_one_instant_in_bounded_lists(database: Database) -> None:
    await database.ledger.post([entry(f"r{n:02d}") for n in range(25)])
    sizes = []
    async for rows in database.stream(select(entries.c.id), chunk_rows=10):
        sizes.append(len(rows))
        await database.ledger.post([entry(f"late{len(sizes)}")])
    assert sizes == [10, 10, 5]


async def test_a_store_that_cannot_be_read_is_told_as_such(database: Database) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        await database.fetch_all(select(literal_column("no_such_function()")))
    with pytest.raises(StoreError, match="cannot be read"):
        [rows async for rows in database.stream(select(literal_column("no_such_function()")))]
