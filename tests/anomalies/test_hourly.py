"""Sums by the hour: each entry once, whatever fails in between, and no more rows than a bound."""

import asyncio
import sqlite3
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import RequestError
from gateway.ledger import hourly
from gateway.ledger.database import Database
from gateway.ledger.hourly import HOUR_MS, hour_of, hour_start_ms
from gateway.ledger.ids import id_floor
from gateway.ledger.periods import now_ms
from gateway.ledger.records import Entry
from gateway.ledger.rollups import NAMES_MAX, OTHER
from tests.account_world import World, open_world
from tests.anomalies.hours import COST, Book, Calls, post_at
from tests.ledger.books import change, count, entry, rows

HOUR = "2026-05-14T12"
START_MS = hour_start_ms(HOUR)
SUMS_OF_ENTRIES = """
    SELECT strftime('%Y-%m-%dT%H', created_at / 1000, 'unixepoch'), creator, feature, key_id, sum(final), sum(cost_nano_usd)
    FROM entries WHERE kind = 'usage' GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
SUMS = "SELECT hour, creator, feature, key_id, calls, cost_nano_usd FROM usage_hourly ORDER BY 1, 2, 3, 4"
FAILS_AT_THE_END = """
    CREATE TRIGGER failing BEFORE UPDATE ON meta WHEN new.key = 'usage_hourly_cursor'
    BEGIN SELECT raise(ABORT, 'the disk caught fire'); END
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


@st.composite
def posted(draw: st.DrawFn) -> list[tuple[int, Entry]]:
    """Entries of a few hours, in the order of their instants."""
    ages = sorted(draw(st.lists(st.integers(0, 4 * HOUR_MS), max_size=40)))
    return [(START_MS + age, draw(entries_of(f"r{index}"))) for index, age in enumerate(ages)]


def entries_of(request_id: str) -> st.SearchStrategy[Entry]:
    return st.builds(
        lambda creator, feature, key_id, changes: entry(
            request_id, creator=creator, feature=feature, key_id=key_id, changes=changes
        ),
        st.sampled_from(["acme", "zeta"]),
        st.sampled_from(["", "a", "b", OTHER]),
        st.sampled_from(["k1", "k2"]),
        st.fixed_dictionaries(
            {
                "final": st.booleans(),
                "kind": st.sampled_from(["usage", "usage", "refund", "grant"]),
                "cost_nano_usd": st.integers(0, 10**12),
                "cached": st.booleans(),
            }
        ),
    )


@settings(max_examples=25)
@given(made=posted(), batch_rows=st.integers(1, 12), cuts=st.lists(st.integers(0, 40), max_size=3))
def test_every_entry_is_summed_once_whatever_fails_in_between(
    made: list[tuple[int, Entry]], batch_rows: int, cuts: list[int]
) -> None:
    """Posted in pieces; after each, one filling whose transaction fails at its very end, and then one that does not."""

    async def run(path: Path) -> None:
        async with open_world(path) as world:
            edges = sorted({0, len(made), *(cut for cut in cuts if cut < len(made))})
            total = 0
            for start, end in pairwise(edges):
                await post_at(world.database, made[start:end])
                if total:  # there is a cursor that can fail to move
                    before = rows(world.path, SUMS)
                    change(world.path, FAILS_AT_THE_END)
                    with pytest.raises(RequestError):
                        await hourly.fill(world.database, batch_rows=batch_rows)
                    assert rows(world.path, SUMS) == before
                    change(world.path, "DROP TRIGGER failing")
                total += await hourly.fill(world.database, batch_rows=batch_rows, batches_max=100)
            assert total == len(made)
            assert rows(world.path, SUMS) == rows(world.path, SUMS_OF_ENTRIES)
            assert await hourly.fill(world.database, batch_rows=batch_rows) == 0

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


async def test_the_first_filling_that_fails_leaves_nothing_behind(world: World) -> None:
    await Book(world.database).hour(HOUR, Calls(3))
    change(world.path, FAILS_AT_THE_END.replace("UPDATE", "INSERT"))
    with pytest.raises(RequestError):
        await hourly.fill(world.database)
    assert count(world.path, "usage_hourly") == 0
    assert await hourly.cursor(world.database) == ""
    change(world.path, "DROP TRIGGER failing")
    assert await hourly.fill(world.database) == 3
    assert rows(world.path, SUMS) == [(HOUR, "acme", "chat-ui", "k1", 3, 3 * COST)]


async def test_a_filling_is_bounded_and_the_next_one_goes_on(world: World) -> None:
    await Book(world.database).hour(HOUR, Calls(25))
    assert [await hourly.fill(world.database, batch_rows=5, batches_max=2) for _ in range(4)] == [10, 10, 5, 0]
    assert rows(world.path, SUMS) == rows(world.path, SUMS_OF_ENTRIES)


async def test_calls_that_the_real_writer_booked_are_summed_in_their_hour(world: World) -> None:
    before = hour_of(now_ms())
    await world.database.ledger.post(
        [entry("r1"), entry("r2", changes={"final": False}), entry("r2", changes={"attempt": 2})]
    )
    assert await hourly.fill(world.database) == 3
    found = rows(world.path, SUMS)
    assert found == rows(world.path, SUMS_OF_ENTRIES)
    assert sum(row[4] for row in found) == 2
    assert {row[0] for row in found} <= {before, hour_of(now_ms())}


async def test_a_gateway_nobody_calls_writes_nothing(world: World) -> None:
    await Book(world.database).hour(HOUR, Calls(1))
    with closing(sqlite3.connect(world.path)) as onlooker:
        version = onlooker.execute("PRAGMA data_version").fetchone()
        assert await hourly.fill(world.database) == 1
        written = onlooker.execute("PRAGMA data_version").fetchone()
        assert written != version
        assert await hourly.fill(world.database) == 0
        assert onlooker.execute("PRAGMA data_version").fetchone() == written


async def test_an_old_ledger_is_summed_from_the_first_instant_that_matters(world: World) -> None:
    book = Book(world.database)
    await book.hours(START_MS, 5, Calls(2))
    first_ms = START_MS - 2 * HOUR_MS
    assert await hourly.fill(world.database, first_ms=first_ms) == 4
    assert [row[0] for row in rows(world.path, SUMS)] == ["2026-05-14T10", "2026-05-14T11"]
    # Nor does it go back later, and after a long sleep it leaves out what has become old meanwhile.
    assert await hourly.fill(world.database) == 0
    await book.hours(START_MS + 5 * HOUR_MS, 5, Calls(1))
    assert await hourly.fill(world.database, first_ms=START_MS + 4 * HOUR_MS) == 1


async def test_the_youngest_entries_are_left_to_the_next_time(world: World) -> None:
    at_ms = now_ms()
    await post_at(world.database, [(at_ms - 60_000, entry("r1")), (at_ms - 100, entry("r2"))])
    assert await hourly.fill(world.database, behind_ms=30_000) == 1
    assert await hourly.cursor(world.database) < id_floor(at_ms - 30_000)
    assert await hourly.fill(world.database) == 1


@pytest.mark.parametrize("batch_rows", [7, 10_000])
async def test_ever_new_features_do_not_make_ever_more_rows(world: World, batch_rows: int) -> None:
    book = Book(world.database)
    names = [f"f{index:03}" for index in range(NAMES_MAX + 20)]
    await book.hour(HOUR, Calls(1, feature=""), *(Calls(1, feature=name) for name in names), Calls(1, feature="f000"))
    await book.hour(START_MS + HOUR_MS, Calls(1, feature="f219"))
    await hourly.fill(world.database, batch_rows=batch_rows)
    sums = Counter({(row[0], row[2]): row[4] for row in rows(world.path, SUMS)})
    assert sums[HOUR, OTHER] == 20
    assert sums[HOUR, "f000"] == 2
    assert sums[HOUR, ""] == sums[HOUR, f"f{NAMES_MAX - 1}"] == 1
    assert sums["2026-05-14T13", "f219"] == 1, "another hour has places of its own"
    assert len([1 for hour, _ in sums if hour == HOUR]) == NAMES_MAX + 2
    assert sum(sums.values()) == NAMES_MAX + 20 + 3


async def test_old_hours_are_deleted_a_bounded_number_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await Book(world.database).hours(START_MS, 30, Calls(1), Calls(1, key_id="k2"))
    await hourly.fill(world.database)
    monkeypatch.setattr(hourly, "_PURGED_AT_ONCE", 4)
    before = hour_of(START_MS - 5 * HOUR_MS)
    assert [await hourly.purge(world.database, before) for _ in range(3)] == [40, 10, 0]
    kept = rows(world.path, SUMS)
    assert len(kept) == 10
    assert min(row[0] for row in kept) == before


# Reading


async def test_busy_hours_are_paged_and_filtered_by_either_sum(world: World) -> None:
    await Book(world.database).hour(
        HOUR,
        Calls(3, "a", "x", "k1"),
        Calls(2, "a", "x", "k2"),
        Calls(4, "a", "y"),
        Calls(6, "b", ""),
        Calls(1, "b", "dear", cost_nano_usd=50 * COST),
    )
    await hourly.fill(world.database)

    async def page(after: tuple[str, str] = ("", ""), limit: int = 10) -> list[tuple[Any, ...]]:
        found = await hourly.busy(
            world.database, HOUR, calls_above=4, cost_above_nano_usd=10 * COST, after=after, limit=limit
        )
        return [tuple(each) for each in found]

    everything = [("a", "x", 5, 5 * COST), ("b", "", 6, 6 * COST), ("b", "dear", 1, 50 * COST)]
    assert await page() == everything
    assert await page(limit=2) == everything[:2]
    assert await page(("b", "")) == everything[2:]
    assert await hourly.busy(world.database, "2026-05-14T13", calls_above=0, cost_above_nano_usd=0, limit=5) == []


async def test_histories_hold_hours_with_calls_only(database_of_a_week: Database) -> None:
    bounds = {"from_hour": hour_of(START_MS - 6 * HOUR_MS), "before_hour": HOUR}
    found = await hourly.history(database_of_a_week, "acme", "chat-ui", **bounds)
    assert sorted(found) == [(1, COST), (1, COST), (3, 3 * COST)]
    assert sorted(await hourly.calls_by_hour(database_of_a_week, "acme", **bounds)) == [1, 1, 2, 3]
    by_key = await hourly.history_by_key(
        database_of_a_week, "acme", "chat-ui", from_hour=hour_of(START_MS - HOUR_MS), to_hour=HOUR
    )
    assert sorted(by_key) == [
        ("k1", "2026-05-14T11", 1, COST),
        ("k1", HOUR, 9, 9 * COST),
        ("k2", "2026-05-14T11", 2, 2 * COST),
    ]


@pytest.fixture
async def database_of_a_week(world: World) -> Database:
    """Calls in some hours, an attempt that was no call's last in another, and somebody else's."""
    book = Book(world.database)
    await book.hour(START_MS - 7 * HOUR_MS, Calls(8))
    await book.hour(START_MS - 6 * HOUR_MS, Calls(1))
    await book.hour(START_MS - 4 * HOUR_MS, Calls(1), Calls(5, "zeta"))
    attempt = entry("attempt", feature="chat-ui", changes={"final": False})
    await post_at(world.database, [(START_MS - 3 * HOUR_MS, attempt)])
    await book.hour(START_MS - 2 * HOUR_MS, Calls(2, feature="search"))
    await book.hour(START_MS - HOUR_MS, Calls(1), Calls(2, key_id="k2"))
    await book.hour(START_MS, Calls(9))
    await hourly.fill(world.database)
    return world.database


@pytest.mark.parametrize("at_ms", [0, 1_800_000_000_000, 1_800_000_000_000 + HOUR_MS - 1, START_MS])
def test_an_hours_name_leads_back_to_its_first_instant(at_ms: int) -> None:
    assert hour_start_ms(hour_of(at_ms)) == at_ms - at_ms % HOUR_MS
