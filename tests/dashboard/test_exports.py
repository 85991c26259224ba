"""Every view as a file: what it lists with its own filters, in cells that no spreadsheet runs, for whoever may have it."""

import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import insert

from gateway.ledger.schema import anomalies, refusals_daily
from gateway.notices.base import Notice
from tests.dashboard.test_me import paint
from tests.dashboard.world import Visitor, World, opened_dashboard

FORMULA = "=1+cmd|' /C calc'!A0"
PAGES = {
    "/dashboard/overview": ("costs", "refusals"),
    "/dashboard/explore": ("costs",),
    "/dashboard/creators": ("creators",),
    "/dashboard/calls": ("ledger", "refusals"),
    "/dashboard/models": ("models",),
    "/dashboard/price-diff": ("price-diff",),
    "/dashboard/policies": ("policies",),
    "/dashboard/policies/open?days=2": ("rehearsals/open",),
    "/dashboard/providers": ("providers", "provider-figures"),
    "/dashboard/months": ("charges",),
    "/dashboard/notices": ("notices", "anomalies"),
    "/dashboard/admins": ("admins",),
    "/dashboard/audit": ("audit",),
}
"""A view -> what it exports."""
OWN_PAGES = {
    "/dashboard/me": ("me/usage",),
    "/dashboard/me/calls": ("me/calls",),
    "/dashboard/me/images": ("me/images",),
}
EXPORT = "/dashboard/export/"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One for all: nothing here changes it."""
    folder: Path = tmp_path_factory.mktemp("exports")
    async with opened_dashboard(folder) as world:
        services = world.services
        await paint(world, {"response_format": "url"})
        await world.admin_api("PATCH", "/admin/creators/ada", json={"name": FORMULA})
        await world.admin_api("PATCH", "/admin/creators/bo", json={"overrides": {"requests_per_hour": 7}})
        today = world.clock().strftime("%Y-%m-%d")
        for creator, reason, count in (("bo", "rate_limit_exceeded", 3), ("ada", "insufficient_quota", 5)):
            row = {"creator": creator, "day": today, "reason": reason, "count": count}
            await services.database.write(insert(refusals_daily).values(row))
        await services.lookout.notices.record(Notice("test", "once", FORMULA, {}, "bo"))
        figures = dict.fromkeys(("value", "median", "deviation", "often", "threshold"), 9)
        about = {"creator": "bo", "feature": "", "metric": "calls", "hour": "2026-05-20T11", "hours": 9}
        row = {"id": "01a1", "action": "notify", "created_at": 1, **about, **figures}
        await services.database.write(insert(anomalies).values(row))
        world.clock.advance(minutes=1)
        yield world


async def lines(visitor: Visitor, path: str) -> list[dict[str, str]]:
    answer = await visitor.http.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"].endswith('.csv"')
    return list(csv.DictReader(io.StringIO(answer.text)))


def exports(page: Any) -> list[str]:
    """But for the other form of the calls."""
    return [href for href in page.hrefs if href.startswith(EXPORT) and "ndjson" not in href]


@pytest.mark.parametrize("path", PAGES)
async def test_a_view_exports_what_it_lists_and_none_to_support(world: World, path: str) -> None:
    page = await world.owner.get(path)
    found = exports(page)
    assert [href.removeprefix(EXPORT).partition("?")[0] for href in found] == list(PAGES[path])
    for href in found:
        # The two price lists and the catalog of these tests have no model in common.
        assert await lines(world.owner, href) or "price-diff" in href, href
        assert (await world.support.http.get(href)).status_code == 403
        assert (await world.creator("ada").http.get(href)).status_code == 403
    assert exports(await world.support.get(path)) == []


@pytest.mark.parametrize("path", OWN_PAGES)
async def test_a_creator_exports_what_is_its_own(world: World, path: str) -> None:
    found = exports(await world.creator("ada").get(path))
    assert [href.removeprefix(EXPORT).partition("?")[0] for href in found] == list(OWN_PAGES[path])
    for href in found:
        assert await lines(world.creator("ada"), href)
        assert (await world.owner.http.get(href)).status_code in (401, 403)


async def test_texts_that_look_like_formulas_are_quoted(world: World) -> None:
    for href, column in ((f"{EXPORT}creators", "name"), (f"{EXPORT}notices", "message")):
        assert f"'{FORMULA}" in [line[column] for line in await lines(world.owner, href)], href


async def test_the_list_of_creators_is_exported_with_its_filters_and_its_order(world: World) -> None:
    page = await world.owner.get("/dashboard/creators?q=BO&plan=open&sort=name")
    (href,) = exports(page)
    assert [line["creator"] for line in await lines(world.owner, href)] == ["bo"]
    every = await lines(world.finance, f"{EXPORT}creators?sort=name")
    shown = await world.admin_api("GET", "/admin/standing?sort=name")
    assert [line["creator"] for line in every] == [row["creator"] for row in shown["data"]]
    for line, row in zip(every, shown["data"], strict=True):
        for name in ("cost_nano_usd", "cost_usd", "forecast_cost_usd", "used_permille", "calls"):
            assert line[name] == ("" if row[name] is None else str(row[name]))
    assert await lines(world.owner, f"{EXPORT}creators?state=downgraded") == []


async def test_long_lists_come_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, href, column in (
        ("gateway.endpoints.admin.standing", f"{EXPORT}creators?sort=name", "creator"),
        ("gateway.endpoints.admin.notices", f"{EXPORT}notices", "id"),
    ):
        whole = [line[column] for line in await lines(world.owner, href)]
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.LIMIT_MAX", 1)
            assert [line[column] for line in await lines(world.owner, href)] == whole
    for path in ("standing", "notices", "anomalies", "refusals"):
        answer = await world.owner.api("GET", f"/admin/{path}?format=csv&limit=1", world.admin_keys["owner"])
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


async def test_models_are_exported_as_filtered_with_a_column_for_each_price(world: World) -> None:
    query = "provider=mock&endpoint=images"
    (href,) = exports(await world.owner.get(f"/dashboard/models?{query}"))
    shown = (await world.admin_api("GET", f"/admin/models?{query}"))["data"]
    found = await lines(world.owner, href)
    assert [line["id"] for line in found] == [model["id"] for model in shown]
    assert shown
    for line, model in zip(found, shown, strict=True):
        for name, price in model["price"].items():
            assert line[name] == price or not isinstance(price, str)
    for query, fits in (
        ("endpoint=chat", lambda model: "chat" in model["endpoints"]),
        ("state=inactive", lambda model: not model["active"]),
        ("provider=other", lambda model: model["provider"] == "other" or model["deployments"]),
        ("capability=none", lambda model: False),
    ):
        narrowed = (await world.admin_api("GET", f"/admin/models?{query}"))["data"]
        every = (await world.admin_api("GET", "/admin/models"))["data"]
        assert [model["id"] for model in narrowed if not fits(model)] == [], query
        assert len(narrowed) < len(every), query


async def test_a_rehearsal_is_exported_as_it_is_shown(world: World) -> None:
    """`ada` made three calls: with one an hour, two are refused."""
    (href,) = exports(await world.owner.get("/dashboard/policies/open?days=2&requests_per_hour=1&creators=ada"))
    asked = {"plan": "open", "changes": {"requests_per_hour": 1}, "days": 2, "creators": ["ada"]}
    (row,) = (await world.admin_api("POST", "/admin/rehearsals", json=asked))["creators"]
    (line,) = await lines(world.owner, href)
    assert (line["creator"], line["plan"], line["calls"]) == ("ada", "open", str(row["calls"]))
    assert (line["before_refused"], line["after_refused"]) == ("0", "2")
    assert line["saved_usd"] == row["saved_usd"]
    assert line["after_cost_nano_usd"] == str(row["after"]["cost_nano_usd"])
    for query in ("days=0", "days=2&requests_per_hour=many", "days=2&nonsense=1"):
        answer = await world.owner.http.get(f"{EXPORT}rehearsals/open?{query}")
        assert answer.status_code == 400, query
    assert (await world.owner.http.get(f"{EXPORT}rehearsals/none?days=2")).status_code == 404


async def test_who_took_a_file_is_in_the_audit_log(world: World) -> None:
    for href in (f"{EXPORT}creators?sort=name", f"{EXPORT}rehearsals/open?days=2"):
        await lines(world.finance, href)
    newest = (await world.admin_api("GET", "/admin/audit?limit=2"))["data"]
    assert [(row["action"], row["role"], row["status"]) for row in newest] == [
        ("POST /admin/rehearsals (csv)", "finance", 200),
        ("GET /admin/standing (csv)", "finance", 200),
    ]


# Refused calls


async def test_refused_calls_are_counted_on_the_overview_and_lead_to_their_creator(world: World) -> None:
    page = await world.owner.get("/dashboard/overview?period=7d")
    rows = page.rows("Who was refused, and why")
    assert [row[1:] for row in rows] == [
        ["quota, budget or credits used up", "5"],
        ["too many at once or in a stretch of time", "3"],
    ]
    assert "/dashboard/creators/bo#refused" in page.hrefs
    assert "8: quota, budget or credits used up 5, too many at once or in a stretch of time 3." in page.words
    (href,) = [href for href in exports(page) if "refusals" in href]
    assert [(line["creator"], line["count"]) for line in await lines(world.owner, href)] == [("ada", "5"), ("bo", "3")]
    quiet = await world.owner.get("/dashboard/overview?from=2026-03-01&to=2026-03-02")
    assert "No call was refused in these days." in quiet.words


async def test_refused_calls_are_narrowed_and_bounded(world: World) -> None:
    found = await world.admin_api("GET", "/admin/refusals?limit=1")
    assert found["data"] == [{"creator": "ada", "reason": "insufficient_quota", "count": 5}]
    assert (found["total"], len(found["by_reason"])) == (8, 2)
    for query, total in (("creator=bo", 3), ("reason=insufficient_quota", 5), ("creator=bo&reason=none", 0)):
        assert (await world.admin_api("GET", f"/admin/refusals?{query}"))["total"] == total
    assert (await world.admin_api("GET", "/admin/refusals?from=2026-05-21"))["total"] == 0


# For whom a plan is another one


async def test_overrides_are_shown_with_what_they_change(world: World) -> None:
    page = await world.owner.get("/dashboard/policies/open")
    assert page.rows("Overrides") == [["bo", "Requests an hour", "1 000 000", "7"]]
    assert page.links["bo"] == "/dashboard/creators/bo"
    assert "talk" in page.words.partition("active models may be called under it: ")[2]
    assert page.rows("Keys of the plan")
    found = await world.admin_api("GET", "/admin/policies/open/overrides")
    assert found == {
        "data": [
            {
                "creator": "bo",
                "name": "",
                "overrides": {"requests_per_hour": 7},
                "changes": {"requests_per_hour": {"from": 1_000_000, "to": 7}},
                "problem": None,
            }
        ],
        "next_cursor": None,
    }
    assert "Overrides" not in (await world.owner.get("/dashboard/policies/narrow")).tables
    missing = await world.owner.api("GET", "/admin/policies/none/overrides", world.admin_keys["owner"])
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


async def test_plans_tell_the_models_that_they_let_call(world: World) -> None:
    plans = {plan["name"]: plan for plan in (await world.admin_api("GET", "/admin/policies"))["plans"]}
    active = [model["id"] for model in (await world.admin_api("GET", "/admin/models?state=active"))["data"]]
    assert plans["open"]["usable_models"] == sorted(active)
    allowed = plans["narrow"]["models"]
    assert plans["narrow"]["usable_models"] == sorted(active if allowed is None else set(allowed) & set(active))
