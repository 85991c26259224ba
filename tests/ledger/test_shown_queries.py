"""What pages ask of the ledger is told alike by both stores, as whole numbers, and adds up to what the entries say."""

from datetime import datetime, timedelta

from sqlalchemy import insert, update

from gateway.account_statements import insert_creator
from gateway.ledger.bounded_pages import bounded_page
from gateway.ledger.database import Database
from gateway.ledger.ids import id_floor
from gateway.ledger.months import months_before, months_shown
from gateway.ledger.periods import now_ms
from gateway.ledger.provider_figures import provider_figures
from gateway.ledger.queries import COST_SUMS, GROUPS, CostFilter, EntryFilter, costs, entry_page
from gateway.ledger.schema import creators, refusals_daily
from gateway.ledger.standings import creators_listed, daily_costs, last_days, refusals_of_creator, sums_by_creator
from tests.ledger.books import BOTH, COST, MODEL, NOON, call, entry, hold

STORES = BOTH
DAY = timedelta(days=1)


async def two_creators(database: Database) -> None:
    """Ada called twice on one day and once in the month before, Bo once; Cy has no calls, Di is deleted."""
    for name in ("ada", "bo", "cy", "di"):
        await database.write(insert_creator(name, plan="open" if name != "bo" else "narrow", now=1))
    await database.write(update(creators).where(creators.c.id == "di").values(deleted_at=2))
    await call(database, "r1", creator="ada", feature="a")
    await call(database, "r2", creator="ada", feature="b")
    await call(database, "r3", creator="bo", at=NOON + DAY, feature="a")
    await call(database, "r4", creator="ada", at=datetime(2026, 4, 30, 23, 59, tzinfo=NOON.tzinfo))


async def test_whoever_is_not_deleted_is_listed_with_or_without_calls(database: Database) -> None:
    await two_creators(database)
    assert sorted(row["id"] for row in await creators_listed(database)) == ["ada", "bo", "cy"]
    (row,) = await creators_listed(database, "narrow")
    assert (row["id"], row["plan"], row["is_active"]) == ("bo", "narrow", True)


async def test_a_months_sums_by_creator_are_whole_numbers_of_that_month(database: Database) -> None:
    await two_creators(database)
    sums = await sums_by_creator(database, "2026-05")
    assert {name: tuple(found) for name, found in sums.items()} == {
        "ada": (2 * COST, 2 * COST, 2),
        "bo": (COST, COST, 1),
    }
    assert {type(value) for found in sums.values() for value in found} == {int}
    assert await last_days(database, ["ada", "bo", "cy"]) == {"ada": "2026-05-14", "bo": "2026-05-15"}
    assert await daily_costs(database, ["ada", "bo", "cy"], "2026-05") == {
        "ada": {"2026-05-14": 2 * COST},
        "bo": {"2026-05-15": COST},
    }


async def test_refusals_of_one_creator_stand_by_day_and_reason(database: Database) -> None:
    rows = [("2026-05-01", "ada", "b", 2), ("2026-05-01", "ada", "a", 1), ("2026-05-02", "bo", "a", 9)]
    for day, creator, reason, count in rows:
        row = {"day": day, "creator": creator, "reason": reason, "count": count}
        await database.write(insert(refusals_daily).values(row))
    told = await refusals_of_creator(database, "ada", from_day="2026-05-01", to_day="2026-05-02")
    assert [tuple(row.values()) for row in told] == [("2026-05-01", "a", 1), ("2026-05-01", "b", 2)]
    assert await refusals_of_creator(database, "ada", from_day="2026-05-02", to_day="2026-06-01") == []


async def test_months_stand_side_by_side_with_what_keeps_them_open(database: Database) -> None:
    await two_creators(database)
    await database.ledger.hold(hold("open", creator="ada", at=NOON))
    shown = await months_shown(database, months_before("2026-06", 3), now_ms())
    figures = [(each.month, each.state, each.open_calls, each.calls, each.charge_nano_usd) for each in shown]
    assert figures == [
        ("2026-06", "closable", 0, 0, 0),
        ("2026-05", "held_open", 1, 3, 3 * COST),
        ("2026-04", "closable", 0, 1, COST),
    ]
    assert {type(each.cost_nano_usd) for each in shown} == {int}


async def test_bounded_pages_find_what_one_page_without_a_bound_finds(database: Database) -> None:
    for number in range(7):
        await call(database, f"r{number}", creator="ada" if number % 3 else "bo", feature="x" if number % 2 else "y")
    for equal in ({"feature": "x"}, {"feature": "x", "creator": "ada"}, {"creator": "bo"}, {"feature": "none"}):
        wanted = EntryFilter(equal=equal)
        expected = [row["id"] for row in await entry_page(database, wanted, limit=99, before=None)]
        for scan_max in (1, 2, 5, 100):
            assert await walked(database, wanted, scan_max) == expected, (equal, scan_max)


async def walked(database: Database, wanted: EntryFilter, scan_max: int) -> list[str]:
    """The ids of all pages, one after the other."""
    found: list[str] = []
    before: str | None = None
    for _ in range(20):
        page = await bounded_page(database, wanted, limit=2, before=before, scan_max=scan_max)
        found += [row["id"] for row in page.rows[:2]]
        before = page.rows[1]["id"] if len(page.rows) > 2 else page.stopped_at
        if before is None:
            return found
    raise AssertionError("the pages do not end")


async def test_figures_of_providers_count_each_call_once(database: Database) -> None:
    for number, outcome in enumerate(("ok", "ok", "upstream_died")):
        name = f"r{number}"
        await database.ledger.hold(hold(name))
        changes = {"outcome": outcome, "error": "" if outcome == "ok" else "cut", "latency_ms": 100 * number + 100}
        await database.ledger.settle(name, [entry(name, changes=changes)])
    told = await provider_figures(database, 0)
    assert (told["entries"], told["is_cut"]) == (3, False)
    (provider,) = told["data"]
    assert (provider["provider"], provider["calls"], provider["errors"]) == ("openai", 3, 1)
    assert provider["latency_ms"] == {"p50": 100, "p95": 200}
    assert provider["last_error"]["outcome"] == "upstream_died"
    assert [each["served_model"] for each in provider["models"]] == [MODEL]
    assert (await provider_figures(database, now_ms() + 60_000))["entries"] == 0


async def test_a_few_sums_are_those_of_all(database: Database) -> None:
    await two_creators(database)
    for group_by in (*([name] for name in sorted(GROUPS)), ["day", "creator"], ["creator", "model"]):
        every = await costs(database, CostFilter(), group_by)
        few = await costs(database, CostFilter(), group_by, sums=("cost_nano_usd", "calls"))
        names = (*group_by, "cost_nano_usd", "calls")
        assert [[row[name] for name in names] for row in few] == [[row[name] for name in names] for row in every]
        assert sum(row["cost_nano_usd"] for row in few) == 4 * COST
        assert {type(row[name]) for row in every for name in COST_SUMS} == {int}


async def test_a_page_begins_below_the_smaller_of_two_bounds(database: Database) -> None:
    for number in range(3):
        await call(database, f"r{number}")
    ids = [row["id"] for row in await entry_page(database, EntryFilter(), limit=9, before=None)]
    later = EntryFilter(to_ms=now_ms() + 60_000)
    assert [row["id"] for row in await entry_page(database, later, limit=9, before=ids[1])] == ids[2:]
    assert await entry_page(database, EntryFilter(to_ms=1), limit=9, before=ids[0]) == []
    assert id_floor(1) < ids[2]
