"""Pages of a gateway that nobody has called yet say what to do, and those of one that was called do not."""

import pytest
from sqlalchemy import insert

from gateway.ledger.schema import refusals_daily
from tests.dashboard.world import HOST, World, opened_dashboard

EMPTY = ("/dashboard/overview", "/dashboard/calls", "/dashboard/explore")
STEPS = "No calls yet"


@pytest.fixture
async def world(tmp_path):
    async with opened_dashboard(tmp_path, has_calls=False) as opened:
        yield opened


async def test_every_page_that_is_empty_says_how_a_first_call_is_made(world: World) -> None:
    for path in EMPTY:
        page = await world.owner.get(path)
        assert (page.status, STEPS in page.words) == (200, True), path
        assert "/dashboard/creators/new" in page.hrefs
        assert f"curl http://{HOST}/v1/chat/completions" in page.words
        assert '{"model": "talk"' in page.words
    calls = await world.support.get("/dashboard/calls")
    assert STEPS in calls.words
    assert '{"model": "MODEL"' in calls.words
    assert "/dashboard/creators/new" not in calls.hrefs
    assert STEPS not in (await world.owner.get("/dashboard/calls?agent=nobody")).words
    await world.call("ada")
    for path in (*EMPTY, "/dashboard/overview?period=2026-05-01..2026-05-02"):
        assert STEPS not in (await world.owner.get(path)).words, path
    assert "Make your first call" not in (await world.creator("ada").get("/dashboard/me")).words


async def test_behind_a_proxy_calls_are_made_where_the_settings_say(tmp_path) -> None:
    async with opened_dashboard(tmp_path, has_calls=False, public_url="https://llm.example.com") as world:
        assert "curl https://llm.example.com/v1/chat/completions" in (await world.owner.get("/dashboard/calls")).words
        assert "https://llm.example.com/admin/costs?" in (await world.owner.get("/dashboard/explore")).words


async def test_refused_calls_are_counted_above_the_entries(world: World) -> None:
    assert "Refused from" not in (await world.owner.get("/dashboard/calls")).words
    row = {"creator": "ada", "day": "2026-05-20", "reason": "model_not_found", "count": 2}
    await world.services.database.write(insert(refusals_daily).values(row))
    said = "Refused from 2026-05-01 to 2026-05-20: 2 (no such model 2). They cost nothing and are no entries."
    for path in ("/dashboard/calls", "/dashboard/calls?creator=ada"):
        assert said in (await world.owner.get(path)).words, path
        assert said in (await world.support.get(path)).words, path
    page = await world.owner.get("/dashboard/calls")
    linked = await world.owner.get(page.links["By creator"].partition("#")[0])
    assert ["ada", "no such model", "2"] in linked.rows("Who was refused, and why")
    for path in ("/dashboard/calls?creator=bo", "/dashboard/calls?from=2026-05-21", "/dashboard/calls?model=talk"):
        assert "Refused from" not in (await world.owner.get(path)).words, path


async def test_an_unknown_filter_is_refused_on_every_page_and_named(world: World) -> None:
    for path in ("overview", "explore", "creators", "policies", "policies/open", "months"):
        page = await world.owner.get(f"/dashboard/{path}?creatr=ada")
        assert (page.status, "This page has no filter creatr" in page.words) == (400, True), path
    for path in ("me", "me/calls", "me/images"):
        page = await world.creator("ada").get(f"/dashboard/{path}?creatr=ada")
        assert (page.status, page.links["This page without filters"]) == (400, f"/dashboard/{path}")
