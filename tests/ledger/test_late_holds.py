"""A call admitted in the last instant of a month: its hold may reach the ledger a little after the month has ended."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine

from gateway.errors import RequestError
from gateway.ledger.closing import close_month
from gateway.ledger.database import Database
from tests.ledger.books import BOTH, COST, Place, call, rows, verify

STORES = BOTH

MAY = "2026-05"
JUNE = datetime(2026, 6, 1, tzinfo=UTC)
LAST_INSTANT = JUNE - timedelta(milliseconds=1)


@pytest.mark.parametrize(
    "after",
    [timedelta(0), timedelta(seconds=1), timedelta(seconds=59, milliseconds=999)],
    ids=["at its end", "a second later", "just before a minute"],
)
async def test_a_month_is_not_closed_within_a_minute_of_its_end(
    patient_database: Database, path: Place, after: timedelta
) -> None:
    with time_machine.travel(JUNE + after, tick=False), pytest.raises(RequestError, match="not over") as refused:
        await close_month(patient_database, MAY)
    assert (refused.value.status, refused.value.code) == (409, "month_not_over")
    assert rows(path, "SELECT * FROM month_charges") == []


async def test_a_month_is_closed_a_minute_after_its_end(patient_database: Database) -> None:
    with time_machine.travel(JUNE + timedelta(minutes=1), tick=False):
        assert await close_month(patient_database, MAY) == (0, True)


async def test_a_hold_that_is_late_is_part_of_its_month(patient_database: Database, path: Place) -> None:
    with time_machine.travel(JUNE + timedelta(seconds=30), tick=False):
        with pytest.raises(RequestError):
            await close_month(patient_database, MAY)
        await call(patient_database, "late", at=LAST_INSTANT)
    with time_machine.travel(JUNE + timedelta(minutes=1), tick=False):
        assert await close_month(patient_database, MAY) == (1, True)
    assert rows(path, "SELECT creator, charge_nano_usd FROM month_charges") == [("acme", COST)]
    await patient_database.close()
    assert verify(path).differences == []
