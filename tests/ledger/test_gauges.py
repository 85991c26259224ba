"""Gauges of money and holds are the ledger's own figures, as of now."""

from datetime import UTC, datetime, timedelta

from gateway.ledger.database import Database
from gateway.ledger.gauges import Figures, LedgerGauges
from tests.ledger.books import BOTH, COST, NOON, call, hold

STORES = BOTH


class Clocks:
    def __init__(self) -> None:
        self.now, self.passed_s = NOON, 0.0

    def gauges(self, database: Database) -> LedgerGauges:
        return LedgerGauges(database, wall_clock=lambda: self.now.timestamp(), monotonic_clock=lambda: self.passed_s)


async def test_money_is_of_this_day_and_month_by_admission(database: Database) -> None:
    for number, days in enumerate((0, 0, 1, 13, 20)):
        await call(database, f"r{number}", at=NOON - timedelta(days=days))
    figures = await Clocks().gauges(database).read()
    assert figures is not None
    assert figures[:4] == (2 * COST, 4 * COST, 4 * COST, 0)


async def test_an_empty_ledger_has_figures_too(database: Database) -> None:
    assert await Clocks().gauges(database).read() == Figures(0, 0, 0, 0, 0.0)


async def test_open_holds_and_the_age_of_the_oldest(database: Database) -> None:
    await database.ledger.begin_hold(hold("a"))
    await database.ledger.begin_hold(hold("b"))
    gauges = LedgerGauges(database, wall_clock=lambda: datetime.now(UTC).timestamp() + 100)
    figures = await gauges.read()
    assert figures is not None
    assert figures.open_holds == 2
    assert figures.oldest_hold_seconds >= 99


async def test_figures_are_believed_for_a_moment_only(database: Database) -> None:
    clocks = Clocks()
    gauges = clocks.gauges(database)
    before = await gauges.read()
    await call(database, "r")
    assert await gauges.read() == before
    clocks.passed_s = 5.1
    figures = await gauges.read()
    assert figures is not None
    assert figures.day_cost_nano_usd == COST


async def test_a_database_that_does_not_answer_gives_no_figures(database: Database) -> None:
    gauges = Clocks().gauges(database)
    await database.close()
    assert await gauges.read() is None
