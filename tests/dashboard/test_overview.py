"""The first page: cards beside the time before, who spent most, and how things are now."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.dashboard.figures import usd_round
from gateway.ledger.records import Route
from gateway.usage import NO_USAGE
from tests.dashboard.reading import read_page
from tests.dashboard.world import NOON, Page, World, opened_dashboard
from tests.ledger.books import COST, PRICE, entry, hold

HOSTILE = ("<img src=x onerror=alert(1)>", "a/../b?c#d", "\u202egnp.exe", "x" * 200)
FAILED = {"outcome": "upstream_refused", "usage": NO_USAGE, "cost_nano_usd": 0, "charge_nano_usd": 0, "payer_amount": 0}
HIT = {"cached": True, "saved_nano_usd": COST, "cost_nano_usd": 0, "charge_nano_usd": 0, "payer_amount": 0}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened_dashboard(tmp_path, has_calls=False) as opened:
        await opened.services.database.record_prices({"m": PRICE})
        yield opened


async def book(
    world: World, request_id: str, *, days_ago: int = 0, changes: dict[str, Any] | None = None, **where: Any
) -> None:
    at = NOON - timedelta(days=days_ago)
    made = {"route": Route("m", "mock", PRICE.version), **(changes or {})}
    await world.services.database.ledger.post([entry(request_id, at=at, changes=made, requested_model="m", **where)])


def cards(page: Page) -> dict[str, str]:
    """What stands on each card, by its label."""
    words = page.words[page.words.index("compared with") :]
    labels = ["Spend", "Calls", "Tokens", "Error rate", "Saved by the cache", "Cache hits", "Explore"]
    places = [words.index(label) for label in labels]
    return {
        label: words[place + len(label) : after].strip()
        for label, place, after in zip(labels[:-1], places[:-1], places[1:], strict=True)
    }


async def test_cards_tell_the_change_against_as_many_days_before(world: World) -> None:
    for n in range(3):
        await book(world, f"now-{n}")
    await book(world, "failed", changes=FAILED)
    await book(world, "hit", changes=HIT)
    for n in range(2):
        await book(world, f"before-{n}", days_ago=7 + n)
    await book(world, "long ago", days_ago=14)
    page = await world.owner.get("/dashboard/overview")
    assert "2026-05-14 to 2026-05-20, UTC, compared with 2026-05-07 to 2026-05-13." in page.words
    found = cards(page)
    cost = usd_round(3 * COST)
    assert found["Spend"] == f"{cost} +50.0 % {cost} charged"
    assert page.with_class("money")[0][1]["data-value"] == str(3 * COST)
    assert found["Calls"] == "5 +150.0 %"
    assert found["Tokens"] == "628 +100.0 % 480 in, 148 out"
    assert found["Error rate"] == "20.0 % +20.0 points 1 of 5 calls"
    assert found["Saved by the cache"].endswith("none before")
    assert found["Cache hits"] == "20.0 % +20.0 points 1 of 5 calls"


async def test_what_was_less_is_told_as_less(world: World) -> None:
    await book(world, "now")
    for n in range(4):
        await book(world, f"before-{n}", days_ago=1)
    found = cards(await world.owner.get("/dashboard/overview?period=today"))
    assert found["Calls"] == "1 −75.0 %"


async def test_without_calls_there_is_nothing_to_compare(world: World) -> None:
    page = await world.owner.get("/dashboard/overview")
    assert cards(page)["Spend"] == "$0.00 no change $0.00 charged"
    assert cards(page)["Error rate"] == "– 0 of 0 calls"
    assert "Nobody made a call in these days." in page.words


async def test_a_month_to_date_is_compared_with_the_same_days_of_the_month_before(world: World) -> None:
    page = await world.owner.get("/dashboard/overview?period=month")
    assert "2026-05-01 to 2026-05-20, UTC, compared with 2026-04-01 to 2026-04-20." in page.words


async def test_days_of_ones_own_are_a_period_of_the_url(world: World) -> None:
    page = await world.owner.get("/dashboard/overview?from=2026-05-01&to=2026-05-04&by=agent")
    assert "2026-05-01 to 2026-05-03, UTC, compared with 2026-04-28 to 2026-04-30." in page.words
    form = page.form("/dashboard/overview")
    assert form.fields == {"period": "custom", "by": "agent", "from": "2026-05-01", "to": "2026-05-04"}
    again = await world.owner.get("/dashboard/overview?period=2026-05-01..2026-05-04&by=agent")
    assert [list(table.rows) for table in again.tables.values()] == [list(table.rows) for table in page.tables.values()]


async def test_one_form_has_all_that_can_be_asked_and_loses_none_of_it(world: World) -> None:
    page = await world.owner.get("/dashboard/overview?period=30d&by=agent")
    (form,) = [form for form in page.forms if form.action == "/dashboard/overview"]
    assert form.fields == {"period": "30d", "by": "agent", "from": "", "to": ""}
    own = {**form.fields, "period": "custom", "from": "2026-05-01", "to": "2026-05-04"}
    asked = read_page(await world.owner.http.get("/dashboard/overview", params=own))
    assert "2026-05-01 to 2026-05-03, UTC" in asked.words
    assert asked.form("/dashboard/overview").fields == own
    # Which of the two is meant is not guessed; both stay filled in.
    both = read_page(await world.owner.http.get("/dashboard/overview", params={**own, "period": "7d"}))
    assert (both.status, "choose days of your own as the period" in both.words) == (400, True)
    assert both.form("/dashboard/overview").fields == {**own, "period": "7d"}
    without = await world.owner.get("/dashboard/overview?period=custom")
    assert (without.status, "or two days such as" in without.words) == (400, True)


@pytest.mark.parametrize("by", ["model", "feature", "agent", "creator", "provider"])
async def test_spend_is_stacked_by_the_eight_largest_and_the_rest(world: World, by: str) -> None:
    for n in range(11):
        names = {"creator": f"c{n:02}", "feature": f"f{n:02}", "agent": f"a{n:02}"}
        route = {"route": Route("m", f"p{n:02}", PRICE.version)}
        await book(world, f"r{n}", changes=route, **names)
    page = await world.owner.get(f"/dashboard/overview?by={by}&period=today")
    table = page.tables[f"Spend a day by {by}"]
    headings = table.rows[0][1:]
    assert headings == (["m"] if by == "model" else [*(f"{by[0]}{n:02}" for n in range(8)), "Other (3)"])
    amounts = [int(value or 0) for value in table.values[1][1:]]
    assert amounts == ([11 * COST] if by == "model" else [*[COST] * 8, 3 * COST])
    assert page.rows("Calls a day") == [["2026-05-20", "11"]]


async def test_top_creators_lead_to_their_pages(world: World) -> None:
    for n, creator in enumerate(("ada", "bo", "bo")):
        await book(world, f"r{n}", creator=creator)
    page = await world.owner.get("/dashboard/overview")
    assert [[row[0], row[2], row[4]] for row in page.rows("Top creators")] == [
        ["bo", "66.7 %", "2"],
        ["ada", "33.3 %", "1"],
    ]
    assert page.links["bo"] == "/dashboard/creators/bo"
    export = page.links["Export CSV"]
    assert export == "/dashboard/export/costs?group_by=day%2Cmodel&from=2026-05-14&to=2026-05-21"
    assert (await world.owner.http.get(export)).text.startswith("day,model,calls")


async def test_hostile_names_are_words_and_nothing_else(world: World) -> None:
    for n, name in enumerate(HOSTILE):
        await book(world, f"r{n}", creator=name, feature=name)
    for by in ("creator", "feature"):
        page = await world.owner.get(f"/dashboard/overview?by={by}")
        assert {row[0] for row in page.rows("Top creators")} == set(HOSTILE)
        assert not any(tag == "img" for tag, _ in page.elements)
        assert not any(attribute.startswith("on") for _, given in page.elements for attribute in given)
    assert page.links["a/../b?c#d"] == "/dashboard/creators/a%2F..%2Fb%3Fc%23d"


async def test_what_is_no_question_is_refused_and_shown_again(world: World) -> None:
    for asked, said in (
        ("period=year", "“Period” takes one of today, 7d"),
        ("by=colour", "by takes one of: agent"),
        ("colour=red", "This page has no filter colour"),
        ("from=2026-05-01", "“Period” takes one of"),
        ("period=7d&from=2026-05-01&to=2026-05-02", "“Period” stands for “From” and “Before”"),
    ):
        page = await world.owner.get(f"/dashboard/overview?{asked}")
        assert (page.status, said in page.words) == (400, True), asked
        assert page.form("/dashboard/overview").names


async def test_what_is_live_is_asked_for_again(world: World) -> None:
    page = await world.owner.get("/dashboard/overview")
    (polling,) = [given for _, given in page.elements if given.get("hx-trigger")]
    assert polling["hx-trigger"] == "every 15s, look"
    part = await world.owner.get(polling["hx-get"])
    assert part.status == 200
    assert ("section", {"id": "now", "aria-label": "Now"}) in part.elements
    assert not any(tag == "html" for tag, _ in part.elements)
    assert "Gateway ok Calls in flight 0" in part.words
    assert "No hour was out of the usual." in part.words
    refused = await world.owner.get(f"{polling['hx-get']}?x=1")
    assert refused.status == 400


async def test_deployments_in_trouble_are_named(world: World) -> None:
    model = world.services.catalog.models["talk-other"]
    for _ in range(10):
        world.services.deployments.failed(model, "server_error")
    page = await world.owner.get("/dashboard/overview")
    (row,) = page.rows("Deployments in trouble")
    assert row == ["other", "echo", "circuit open", "10", "server error"]
    assert "providers: other/echo" in page.words
    status = await world.admin_api("GET", "/admin/status")
    assert (status["status"], status["checks"]["providers"]) == ("ok", "other/echo")


async def test_calls_in_flight_are_told_with_what_they_hold(world: World) -> None:
    await world.services.database.ledger.hold(hold("waiting", at=NOON))
    status = await world.admin_api("GET", "/admin/status")
    assert status["holds"]["calls"] == 1
    assert status["holds"]["held_nano_usd"] == hold("waiting").amount_nano_usd
    page = await world.owner.get("/dashboard/overview/live")
    assert "Calls in flight 1 $" in page.words
    ours = await world.support.get("/dashboard/overview/live")
    assert "Calls in flight 1 the oldest since" in ours.words
    await world.services.database.ledger.settle("waiting", [])


async def test_money_is_not_for_support_nor_for_creators(world: World) -> None:
    assert (await world.support.get("/dashboard/overview")).status == 403
    assert (await world.finance.get("/dashboard/overview")).status == 200
    for path in ("/dashboard/overview", "/dashboard/overview/live"):
        assert (await world.creator("ada").get(path)).status == 403
