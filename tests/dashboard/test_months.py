"""The page of months: its figures are those of the charges and of their CSV, and a month is closed once, by an owner."""

import csv
import io
import random

import orjson
import pytest

from gateway.ledger.periods import now_ms, period_of
from tests.dashboard.world import NOON, World, opened_dashboard
from tests.endpoints.test_admin_standing import post, random_entry
from tests.ledger.books import entry, hold

MONTHS = "/dashboard/months"
MAY = f"{MONTHS}?month=2026-05"
CLOSE = f"{MONTHS}/2026-05/close"


@pytest.fixture
async def world(tmp_path):
    async with opened_dashboard(tmp_path, creators=("ada",), has_calls=False) as world:
        yield world


async def state_of(world: World, month: str = "2026-05") -> str:
    months = await world.admin_api("GET", f"/admin/charges/months?to={month}&count=1")
    return str(months["data"][0]["state"])


# Refusals


async def test_what_is_no_month_is_a_400_page(world):
    for path in (f"{MONTHS}?month=May", f"{MONTHS}?month=2026-13", f"{MAY}&start=-1"):
        assert (await world.owner.get(path)).status == 400
    assert (await world.owner.post(f"{MONTHS}/May/close")).status == 400


async def test_a_month_that_is_not_over_is_not_offered_to_be_closed(world):
    month = period_of(now_ms())[1]
    page = await world.owner.get(f"{MONTHS}?month={month}")
    assert "The month is not over." in page.words
    assert not [href for href in page.hrefs if href.endswith("/close")]
    refused = await world.owner.post(f"{MONTHS}/{month}/close")
    assert (refused.status, refused.heading) == (409, "Months")
    assert f"{month} is not over yet." in refused.words


async def test_open_calls_keep_a_month_open_and_the_page_says_so(world):
    await world.services.database.ledger.hold(hold("req_open", at=NOON))
    page = await world.owner.get(MAY)
    assert "Open calls: 1." in page.words
    assert CLOSE not in page.hrefs
    refused = await world.owner.post(CLOSE)
    assert (refused.status, await state_of(world)) == (409, "held_open")
    assert "1 calls of 2026-05 are still open" in refused.words
    await world.services.database.ledger.settle("req_open", [entry("req_open", at=NOON)])
    assert CLOSE in (await world.owner.get(MAY)).hrefs


async def test_nobody_but_an_owner_closes_a_month(world):
    for visitor, status in ((world.finance, 200), (world.support, 403)):
        page = await visitor.get(MAY)
        assert page.status == status
        assert CLOSE not in page.hrefs
        assert (await visitor.get(CLOSE)).status == 403
        assert (await visitor.post(CLOSE)).status == 403
    assert (await world.owner.post(CLOSE, {"force": "1"})).status == 422
    assert await state_of(world) == "closable"


# Figures


@pytest.mark.parametrize("seed", range(3))
async def test_page_json_and_csv_agree_to_the_nano_dollar(world, seed):
    chance = random.Random(seed)
    await post(world, *(random_entry(number, chance, months=2) for number in range(70)))
    charges = await world.admin_api("GET", "/admin/charges?month=2026-05")
    page = await world.finance.get(MAY)
    file = await world.finance.get(page.links["Export CSV"])
    lines = list(csv.DictReader(io.StringIO(file.text)))
    table = page.tables["Charges of 2026-05"]
    *shown, total = table.values[1:]
    figures = ("calls", "charge_nano_usd", "cost_nano_usd")
    expected = {row["creator"]: [str(row[name]) for name in figures] for row in charges["data"]}
    assert {cells[0]: values[1:4] for cells, values in zip(table.rows[1:-1], shown, strict=True)} == expected
    assert {line["creator"]: [line[name] for name in figures] for line in lines} == expected
    sums = [str(sum(int(line[name]) for line in lines)) for name in figures]
    assert total[1:4] == sums == [str(charges["totals"][name]) for name in figures]
    units: dict[str, int] = {}
    for line in lines:
        for payer, amount in orjson.loads(line["units"] or "{}").items():
            units[payer] = units.get(payer, 0) + amount
    assert units == charges["totals"]["units"]
    months = {row[0]: values for row, values in zip(page.rows("Months"), page.tables["Months"].values[1:], strict=True)}
    assert months["2026-05"][2:5] == sums
    chart = page.tables["Charges and cost by month"]
    assert (chart.rows[-1][0], chart.values[-1][1:]) == ("2026-05", sums[1:])
    assert [row[0] for row in chart.rows[1:]] == ["2026-04", "2026-05"], "nothing was booked before"


async def test_a_long_table_is_cut_and_its_totals_are_of_all_of_it(world):
    changes = {"charge_nano_usd": 7, "cost_nano_usd": 5, "payer_amount": 7}
    await post(world, *(entry(f"req_{n}", creator=f"cr{n:03d}", at=NOON, changes=changes) for n in range(205)))
    first = await world.owner.get(MAY)
    second = await world.owner.get(first.links["More"])
    *rows, total = first.rows("Charges of 2026-05")
    *rest, same = second.rows("Charges of 2026-05")
    assert [row[0] for row in rows + rest] == [f"cr{n:03d}" for n in range(205)]
    assert (len(rows), total) == (200, same)
    assert first.tables["Charges of 2026-05"].values[-1][2:4] == ["1435", "1025"]
    assert total[2:4] == ["$0.000001435", "$0.000001025"]
    assert "More" not in second.links


async def test_a_month_without_calls_owes_nothing(world):
    page = await world.owner.get(f"{MONTHS}?month=2019-02")
    assert "Nobody owes anything for 2019-02." in page.words
    assert "$0.00" in page.words
    assert "Empty Nothing was booked in it" in page.words
    assert not [href for href in page.hrefs if href.endswith("/close")]


async def test_a_month_to_come_has_not_begun_and_months_before_the_first_call_are_not_listed(world):
    await world.call("ada")
    page = await world.owner.get(f"{MONTHS}?month=2099-02")
    assert "Not begun The month is still to come." in page.words
    assert not [href for href in page.hrefs if href.endswith("/close")]
    assert [row[0] for row in page.rows("Months")] == ["2026-05"]


# Closing


async def test_a_month_is_closed_after_a_second_look_and_stays_as_it_was(world):
    await world.call("ada")
    page = await world.owner.get(MAY)
    asked = await world.owner.get(page.links["Close 2026-05"])
    assert (asked.heading, await state_of(world)) == ("Close 2026-05", "closable")
    assert asked.links["Back"] == MAY
    closed = await world.owner.post(asked.form(CLOSE).action)
    assert (closed.status, closed.location, await state_of(world)) == (303, MAY, "closed")
    before = page.tables["Charges of 2026-05"].values
    await world.call("ada")
    page = await world.owner.get(MAY)
    assert page.tables["Charges of 2026-05"].values == before
    assert "What was written when it was closed stands." in page.words
    assert CLOSE not in page.hrefs
    # Sent again it changes nothing.
    assert (await world.owner.post(CLOSE)).location == MAY
    assert (await world.owner.get(MAY)).tables["Charges of 2026-05"].values == before
