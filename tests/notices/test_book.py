"""What is told once: by the database for good, and by the book's memory without asking it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from sqlalchemy import select

from gateway.errors import StoreError
from gateway.ledger.database import Database
from gateway.ledger.ids import ms_in
from gateway.ledger.notices import NOTICE_PREFIX, notice_page
from gateway.ledger.schema import notices
from gateway.notices import book as book_module
from gateway.notices.base import NoticeBook
from gateway.notices.book import Notices
from gateway.notices.slack import Slack
from gateway.notices.targets import Target
from gateway.notices.webhook import Webhook
from tests.account_world import World, open_world
from tests.notices.receivers import SECRET, notice, outbox

DAY_S = 86_400


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


@pytest.fixture
async def targets(world: World) -> AsyncIterator[list[Target]]:
    """Two places that nothing is sent to here."""
    opened: list[Target] = [
        Webhook("http://127.0.0.1:9/hook", SECRET, wall_clock=world.clock),
        Slack("http://127.0.0.1:9/slack"),
    ]
    yield opened
    for target in opened:
        await target.close()


def new_book(world: World, targets: list[Target], told: list[str] | None = None) -> Notices:
    heard = told if told is not None else []
    return Notices(world.database, targets, wall_clock=world.clock, on_recorded=lambda: heard.append("woken"))


async def test_a_notice_is_recorded_with_a_place_in_the_outbox_of_each_target(
    world: World, targets: list[Target]
) -> None:
    told: list[str] = []
    book: NoticeBook = new_book(world, targets, told)
    assert await book.record(notice())
    (row,) = await notice_page(world.database, limit=10)
    assert {name: row[name] for name in ("kind", "once", "creator", "message", "data")} == {
        "kind": "day_cost.above",
        "once": "day_cost.above/2027-01-15",
        "creator": "acme",
        "message": "The day has cost more than 200 USD.",
        "data": {"cost_nano_usd": 201},
    }
    now_ms = int(world.clock() * 1000)
    assert row["created_at"] == now_ms
    assert row["id"].startswith(NOTICE_PREFIX)
    assert ms_in(row["id"].removeprefix(NOTICE_PREFIX)) == now_ms
    assert row["deliveries"] == [
        {"notice_id": row["id"], "target": name, "state": "pending", "attempts": 0, "next_at": now_ms, "error": ""}
        for name in ("slack", "webhook")
    ]
    assert told == ["woken"]


async def test_without_a_target_a_notice_is_only_listed(world: World) -> None:
    assert await new_book(world, []).record(notice())
    (row,) = await notice_page(world.database, limit=10)
    assert row["deliveries"] == []


async def test_fifty_who_record_the_same_at_once_tell_it_once(world: World, targets: list[Target]) -> None:
    told: list[str] = []
    books = [new_book(world, targets, told) for _ in range(50)]  # none of them remembers what another did
    recorded = await asyncio.gather(*(book.record(notice()) for book in books))
    assert sum(recorded) == 1
    assert told == ["woken"]
    assert len(await world.database.fetch_all(select(notices))) == 1
    assert len(await outbox(world.database)) == 2


async def test_other_words_are_another_notice(world: World, targets: list[Target]) -> None:
    book = new_book(world, targets)
    assert [await book.record(notice(f"day_cost.above/2027-01-{day}")) for day in (15, 16)] == [True, True]


async def test_what_was_told_is_not_told_again_after_a_restart(world: World, targets: list[Target]) -> None:
    assert await new_book(world, targets).record(notice())
    await world.database.close()
    world.database = await Database.open(world.path)
    try:
        assert not await new_book(world, targets).record(notice())
    finally:
        await world.database.close()


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_lower_threshold_is_not_told_once_a_higher_one_was(
    world: World, targets: list[Target], is_restarted: bool
) -> None:
    book = new_book(world, targets)
    higher = ("quota.95_percent/k/100", "quota.exhausted/k/100")
    assert await book.record(notice(higher[0]), unless=higher[1:])
    if is_restarted:
        book = new_book(world, targets)
    assert not await book.record(notice("quota.80_percent/k/100"), unless=higher)
    assert await book.record(notice("quota.80_percent/k/200"), unless=("quota.95_percent/k/200",))
    assert await book.record(notice(higher[1]))


async def test_a_repeated_record_costs_no_write(world: World, targets: list[Target]) -> None:
    """The database is closed: whatever asks it raises."""
    book = new_book(world, targets)
    await book.record(notice("quota.95_percent/k/100"))
    await book.record(notice("old"))
    late = new_book(world, targets)
    assert not await late.record(notice("old"))
    await world.database.close()
    assert not await book.record(notice("quota.95_percent/k/100"))
    assert not await book.record(notice("quota.80_percent/k/100"), unless=("quota.95_percent/k/100",))
    assert not await late.record(notice("old"))
    with pytest.raises(StoreError):
        await book.record(notice("new"))


async def test_the_memory_is_bounded(world: World, targets: list[Target], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "_REMEMBERED_MAX", 2)
    book = new_book(world, targets)
    for once in ("first", "second", "third"):
        assert await book.record(notice(once))
    assert not await book.record(notice("first"))  # forgotten by the book, not by the database: remembered again
    await world.database.close()
    assert not await book.record(notice("third"))
    assert not await book.record(notice("first"))
    with pytest.raises(StoreError):
        await book.record(notice("second"))


async def test_what_could_not_be_written_can_be_recorded_later(world: World, targets: list[Target]) -> None:
    book = new_book(world, targets)
    await world.database.close()
    with pytest.raises(StoreError):
        await book.record(notice())
    world.database = await Database.open(world.path)
    try:
        assert await new_book(world, targets).record(notice())
    finally:
        await world.database.close()


async def test_ids_grow_even_if_the_clock_steps_back_and_the_process_starts_anew(
    world: World, targets: list[Target]
) -> None:
    await new_book(world, targets).record(notice("first"))
    world.clock.now_s -= 3_600
    book = new_book(world, targets)
    await book.record(notice("second"))
    await book.record(notice("third"))
    page = await notice_page(world.database, limit=10)
    assert [row["once"] for row in page] == ["third", "second", "first"]
    assert await notice_page(world.database, limit=10, before=page[1]["id"]) == page[2:]


async def test_what_is_too_long_is_cut(world: World, targets: list[Target]) -> None:
    await new_book(world, targets).record(notice(message="m" * 1_001, data={"text": "d" * 9_000}))
    (row,) = await notice_page(world.database, limit=10)
    assert row["message"] == "m" * 1_000
    assert row["data"] == {"omitted_bytes": len(orjson.dumps({"text": "d" * 9_000}))}


async def test_tests_are_told_each_time(world: World, targets: list[Target]) -> None:
    book = new_book(world, targets)
    ids = [await book.record_test(), await book.record_test()]
    page = await notice_page(world.database, limit=10, kind="test")
    assert [row["id"] for row in page] == ids[::-1]
    assert len(await outbox(world.database, ids[0])) == 2


async def test_what_is_older_than_400_days_is_removed_with_its_deliveries(
    world: World, targets: list[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_module, "_PURGE_SLICE", 2)
    book = new_book(world, targets)
    for number in range(5):
        await book.record(notice(f"old {number}"))
    world.clock.now_s += 2 * DAY_S
    await book.record(notice("young"))
    world.clock.now_s += 399 * DAY_S
    assert await book.purge() == 5
    (kept,) = await notice_page(world.database, limit=10)
    assert kept["once"] == "young"
    assert {row["notice_id"] for row in await outbox(world.database)} == {kept["id"]}
    assert await book.purge() == 0
