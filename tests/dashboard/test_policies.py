"""The pages of policies: what stands in the plans, and what another one would have done."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.dashboard.world import World, opened_dashboard

PLAN = "/dashboard/policies/open"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened_dashboard(tmp_path) as world:
        yield world


async def _rehearsed(world: World, **fields: Any) -> Any:
    world.clock.advance(minutes=1)
    return await world.owner.get(f"{PLAN}?{urlencode({'days': 2, **fields})}")


async def test_every_plan_stands_there_with_how_many_creators_are_on_it(world: World) -> None:
    page = await world.owner.get("/dashboard/policies")
    assert [row[:2] for row in page.rows("Plans")] == [["open", "2"], ["narrow", "0"]]
    assert ["grand", "talk"] in page.rows("Downgrades")
    assert "enforced" in page.words
    assert page.links["open"] == PLAN


async def test_a_plan_shows_its_keys_and_a_form_with_what_they_say(world: World) -> None:
    page = await world.owner.get(PLAN)
    assert ["Requests an hour", "1 000 000", "requests_per_hour"] in [
        [cell.replace("\u202f", " ") for cell in row] for row in page.rows("Keys of the plan")
    ]
    form = page.form(PLAN)
    assert (form.method, form.fields["requests_per_hour"], form.fields["days"]) == ("get", "1000000", "30")
    assert form.fields["budget_usd_per_month"] == "unlimited"
    assert "Nothing is changed by it" in page.words


async def test_a_rehearsal_shows_what_the_api_answers(world: World) -> None:
    """`ada` made two calls and `bo` one: with one an hour, one is refused."""
    page = await _rehearsed(world, requests_per_hour="1")
    asked = {"plan": "open", "changes": {"requests_per_hour": 1}, "days": 2}
    report = await world.admin_api("POST", "/admin/rehearsals", json=asked)
    (refused,) = [row for row in report["creators"] if row["after"]["refused"]]
    assert refused["creator"] == "ada"
    shown = {row[0]: row for row in page.rows("By creator")}
    assert shown["ada"][1:5] == ["2", "1", "0", "1"]
    (values,) = [line for line in page.tables["By creator"].values if line[1] == "2"]
    assert values[8] == str(refused["saved_nano_usd"])
    assert page.rows("By limit") == [["Requests an hour", "refuses: too many at once or in a stretch of time", "1"]]
    day = report["by_day"][0]
    assert page.tables["Cost by day, before and after"].values[1][1:] == [
        str(day["before_nano_usd"]),
        str(day["after_nano_usd"]),
    ]
    assert "[plans.open] requests_per_hour = 1" in page.words
    assert "Nothing was changed." in page.words


async def test_nothing_is_changed_by_a_rehearsal(world: World) -> None:
    await _rehearsed(world, requests_per_hour="0", quota_usd_per_month="0")
    assert (await world.call("ada")).status == 200
    (plan,) = [each for each in (await world.admin_api("GET", "/admin/plans"))["data"] if each["name"] == "open"]
    assert plan["requests_per_hour"] == 1_000_000


async def test_a_form_sent_as_it_stands_changes_nothing_and_says_so(world: World) -> None:
    fields = (await world.owner.get(PLAN)).form(PLAN).fields
    world.clock.advance(minutes=1)
    page = await world.owner.get(f"{PLAN}?{urlencode(fields)}")
    assert page.status == 200
    assert "Nothing differs from the plan as it stands." in page.words
    assert "To make it so" not in page.words


_UNUSABLE = (
    ("requests_per_hour", "many", "changes.requests_per_hour: must be a whole number"),
    ("quota_usd_per_month", "-1", "changes.quota_usd_per_month: is negative"),
    ("payers", "nobody", "changes.payers: must be a list with one or more of"),
    ("days", "91", "days takes a whole number from 1 to 90"),
)


async def test_what_cannot_be_rehearsed_is_said_beside_the_form_with_what_was_filled_in(world: World) -> None:
    for name, text, words in _UNUSABLE:
        page = await _rehearsed(world, **{name: text})
        assert (page.status, page.form(PLAN).fields[name]) == (400, text)
        assert words in page.words


async def test_only_creators_that_are_named_are_rehearsed(world: World) -> None:
    page = await _rehearsed(world, creators="bo, nobody")
    assert [row[0] for row in page.rows("By creator")] == ["bo"]


async def test_a_plan_that_is_not_there_is_not_found(world: World) -> None:
    assert (await world.owner.get("/dashboard/policies/nope")).status == 404


async def test_finance_rehearses_and_support_sees_plans_without_money(world: World) -> None:
    world.clock.advance(minutes=1)
    assert "What would have happened" in (await world.finance.get(f"{PLAN}?days=1")).words
    page = await world.support.get(f"{PLAN}?days=1")
    assert page.status == 200
    assert "Rehearse" not in page.words
    assert not [row for row in page.rows("Keys of the plan") if "usd" in row[2]]
    plans = await world.support.get("/dashboard/policies")
    assert (plans.status, "Quota" in plans.words) == (200, False)
    refused = await world.support.api("POST", "/admin/rehearsals", world.admin_keys["support"], json={"plan": "open"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "role_not_allowed")


async def test_a_creators_name_harms_no_page(world: World) -> None:
    name = "<img src=x onerror=alert(1)>"
    page = await _rehearsed(world, creators=name)
    assert ("img", {"src": "x", "onerror": "alert(1)"}) not in page.elements
    assert page.form(PLAN).fields["creators"] == name


async def test_the_oldest_day_of_a_rehearsal_is_in_its_figures(world: World) -> None:
    world.clock.advance(days=1)
    await world.owner.sign_in(world.admin_keys["owner"])
    page = await world.owner.get(f"{PLAN}?days=2")
    assert (
        page.tables["Cost by day, before and after"].rows[1][0]
        == (world.clock.now - timedelta(days=1)).date().isoformat()
    )
