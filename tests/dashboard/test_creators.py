"""The pages of creators: what they show to whom, what they do, and that what is refused is said beside the form."""

from typing import Any

import orjson
import pytest
from sqlalchemy import insert, update

from gateway.dashboard.months_shown import burn_down, days_in_month, spark_points
from gateway.dashboard.words import limit_words
from gateway.ledger.schema import creators, refusals_daily
from tests.dashboard.world import NOON, Page, Visitor, World, opened_dashboard
from tests.ledger.books import entry

HOSTILE = "<img src=x onerror=alert(1)>\u202e=1+1" + "x" * 100
MONEY_WORDS = ("$", "USD", "quota", "budget", "credit", "Spent", "Forecast", "Cost", "Charge", "Balance")
ADA = "/dashboard/creators/ada"


@pytest.fixture
async def world(tmp_path):
    async with opened_dashboard(tmp_path) as world:
        yield world


def filled(page: Page, action: str, **fields: str) -> dict[str, str]:
    """What the form would send, with these fields filled in."""
    return {**page.form(action).fields, **fields}


async def keys_of(world: World, creator: str = "ada") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await world.admin_api("GET", f"/admin/creators/{creator}/keys"))["data"]
    return found


async def facts_of(world: World, creator: str = "ada") -> dict[str, Any]:
    found: dict[str, Any] = await world.admin_api("GET", f"/admin/creators/{creator}")
    return found


async def balance_of(world: World, creator: str = "ada") -> int:
    credit = await world.admin_api("GET", f"/admin/creators/{creator}/credits")
    return int(credit["balance"]["credits"]["left"])


def new_key(page: Page) -> str:
    """The one text of a key on the page."""
    (found,) = {word for word in page.words.split() if word.startswith("sk-gw-")}
    return found


# Refusals


async def test_a_creator_that_nobody_knows_is_a_404_page_for_everybody(world):
    for visitor in (world.owner, world.finance, world.support):
        page = await visitor.get("/dashboard/creators/nobody")
        assert (page.status, page.heading) == (404, "Not found")
    assert (await world.owner.post("/dashboard/creators/nobody/grant", {"credits": "5"})).status == 404
    assert (await world.owner.post("/dashboard/creators/nobody/change", {"is_active": "yes"})).status in (400, 404)


async def test_a_filter_that_means_nothing_is_a_400_page(world):
    for query in ("sort=luck", "state=rich", "cursor=zzz"):
        assert (await world.owner.get(f"/dashboard/creators?{query}")).status == 400


async def test_a_form_with_a_field_that_is_not_its_own_changes_nothing(world):
    (key,) = await keys_of(world)
    forms = [f"{ADA}/{what}" for what in ("change", "delete", "grant", "adjust", "keys")]
    forms += [f"{ADA}/keys/{key['id']}/{what}" for what in ("rotate", "pause", "resume", "revoke")]
    for path in ("/dashboard/creators/new", *forms):
        sent = {"is_active": "no", "confirm": "ada", "credits": "5", "grace_s": "0", "role": "owner"}
        assert (await world.owner.post(path, sent)).status == 422, path
    assert (await facts_of(world))["is_active"] is True
    assert (await balance_of(world), await keys_of(world)) == (0, [key])


WRONG: dict[str, list[tuple[dict[str, str], str]]] = {
    "grant": [
        ({"credits": "many", "note": "hi <b>"}, "“Credits” takes"),
        ({"note": "nothing"}, "package"),
        ({"credits": "5", "expires_at": "2027-01-01T00:00"}, "“Expires”"),
        ({"credits": "5", "payer": "promo_credits", "expires_at": "soon"}, "RFC 3339"),
    ],
    "adjust": [({"payer": "quota", "amount_usd": "0"}, "“US dollars”")],
    "change": [
        ({"overrides": "{not json"}, "not valid JSON"),
        ({"overrides": "[1]"}, "overrides"),
        ({"overrides": '{"rpm": 5}'}, "rpm"),
        ({"overrides": '{"quota_usd_per_month": 2.5}', "name": "Ada"}, "quota_usd_per_month"),
        ({"name": "x" * 201}, "name"),
        ({"is_active": "perhaps"}, "is_active"),
    ],
    "keys": [
        ({"name": "k", "expires_at": "2020-01-01T00:00"}, "has passed already"),
        ({"overrides": '{"plan": "x"}'}, "plan"),
        ({"name": "x" * 201, "models": "talk,\npainter"}, "name"),
    ],
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_the_api_refuses_is_said_beside_the_form_that_keeps_its_input(world, what):
    path = f"{ADA}/{what}"
    fields = filled(await world.owner.get(ADA), path)
    for entered, said in WRONG[what]:
        page = await world.owner.post(path, {**fields, **entered})
        assert (page.status, page.heading) == (400, "ada"), entered
        (problem,) = [attrs for _, attrs in page.with_class("notice") if attrs.get("role") == "alert"]
        assert said in page.words, (entered, problem)
        shown = page.form(path).fields
        kept = {name: " ".join(value.split()) for name, value in entered.items() if name != "is_active"}
        assert {name: shown[name] for name in kept} == kept
    assert (await balance_of(world), len(await keys_of(world)), (await facts_of(world))["name"]) == (0, 1, "")


async def test_a_creator_is_not_deleted_by_another_id(world):
    page = await world.owner.post(f"{ADA}/delete", {"confirm": "bo"})
    assert page.status == 422
    assert "Type the id of the creator" in page.words
    assert (await facts_of(world))["id"] == "ada"


async def test_an_id_that_is_taken_is_said_beside_the_form_for_new_creators(world):
    entered = {"id": "ada", "name": "Another", "plan": "narrow", "overrides": '{"requests_per_hour": 5}', "key_id": ""}
    page = await world.owner.post("/dashboard/creators/new", entered)
    assert page.status == 409
    assert "This creator id is taken" in page.words
    fields = page.form("/dashboard/creators/new").fields
    assert fields == {**entered, "key_id": fields["key_id"]}


async def test_rotating_with_a_wrong_grace_or_a_revoked_key_is_refused_beside_the_keys(world):
    (key,) = await keys_of(world)
    path = f"{ADA}/keys/{key['id']}"
    assert (await world.owner.post(f"{path}/rotate", {"grace_s": "a day"})).status == 400
    assert (await world.owner.post(f"{path}/rotate", {"grace_s": "999999999"})).status == 400
    assert (await world.owner.post(f"{path}/revoke")).status == 303
    page = await world.owner.post(f"{path}/rotate", {"grace_s": "0"})
    assert (page.status, len(await keys_of(world))) == (409, 1)
    assert "only a live key can be rotated" in page.words


# The list


async def test_the_list_shows_what_the_api_says(world):
    await world.new_creator("cy", budget_usd_per_month="0.25")
    await world.call("cy", "painter")
    page = await world.owner.get("/dashboard/creators")
    standing = (await world.admin_api("GET", "/admin/standing"))["data"]
    table = page.tables["Creators in 2026-05"]
    assert [row[0] for row in table.rows[1:]] == [row["creator"] for row in standing] == ["ada", "cy", "bo"]
    for shown, row in zip(table.values[1:], standing, strict=True):
        assert shown[3] == str(row["cost_nano_usd"])
        assert shown[6] == str(row["forecast_cost_nano_usd"])
    cy = page.rows("Creators in 2026-05")[1]
    assert cy[5].startswith("100.0 %")
    assert cy[2] == "active downgraded at its limit"
    assert page.links["ada"] == ADA


async def test_filters_are_in_the_url_and_stay_in_the_form(world):
    await world.new_creator("cy", plan="narrow")
    page = await world.owner.get("/dashboard/creators?plan=narrow&q=C&sort=name&state=")
    assert [row[0] for row in page.rows("Creators in 2026-05")] == ["cy"]
    shown = page.form("/dashboard/creators").fields
    assert shown == {"plan": "narrow", "q": "C", "sort": "name", "state": ""}
    assert "No creator fits." in (await world.owner.get("/dashboard/creators?q=zzz")).words


async def test_the_pager_leads_to_everybody_and_keeps_the_filters(world):
    for number in range(60):
        await world.services.accounts.create_creator(f"many{number:02d}", plan="open")
    first = await world.owner.get("/dashboard/creators?q=many&sort=name")
    assert len(first.rows("Creators in 2026-05")) == 50
    second = await world.owner.get(first.links["More"])
    names = [row[0] for page in (first, second) for row in page.rows("Creators in 2026-05")]
    assert names == [f"many{number:02d}" for number in range(60)]
    assert "More" not in second.links


# One creator


async def test_the_page_shows_the_figures_of_the_api(world):
    page = await world.owner.get(ADA)
    costs = await world.admin_api("GET", "/admin/costs?creator=ada&group_by=model")
    table = page.tables["Usage by model"]
    figures = {row[0]: values[5] for row, values in zip(table.rows[1:], table.values[1:], strict=True)}
    assert figures == {row["model"]: str(row["cost_nano_usd"]) for row in costs["data"]}
    burn = page.tables["Spending up to each day"]
    today = burn.rows[20]
    assert (today[0], burn.values[20][1]) == ("2026-05-20", str(costs["totals"]["cost_nano_usd"]))
    view = await world.admin_api("GET", "/admin/creators/ada/limits")
    assert burn.values[31][-1] == str(view["month"]["forecast_cost_nano_usd"])
    limits = {row[0]: row for row in page.rows("Limits")}
    assert set(limits) == {limit_words(limit["name"]) for limit in view["limits"]}
    assert limits["Requests an hour"][1] == "2"
    calls = page.rows("Latest calls")
    assert [row[2] for row in calls] == ["painter", "talk"]


async def test_refused_calls_are_shown_by_day_and_reason(world):
    row = {"creator": "ada", "day": "2026-05-20", "reason": "rate_limit_exceeded", "count": 1234}
    await world.services.database.write(insert(refusals_daily).values(row))
    page = await world.support.get(ADA)
    assert page.rows("Refused calls") == [
        ["2026-05-20", "too many at once or in a stretch of time", "1\u202f234".replace("\u202f", " ")]
    ]


async def test_a_creator_whose_plan_is_gone_can_be_seen_and_moved(world):
    await world.services.database.write(update(creators).where(creators.c.id == "ada").values(plan="gone"))
    page = await world.owner.get(ADA)
    assert page.status == 200
    assert "is not in the gateway's plans file" in page.words
    assert "Limits" not in page.tables
    fields = filled(page, f"{ADA}/change", plan="narrow")
    assert (await world.owner.post(f"{ADA}/change", fields)).location == ADA
    assert (await facts_of(world))["plan"] == "narrow"


async def test_a_creator_called_new_has_a_page(world):
    await world.new_creator("new")
    assert (await world.owner.get("/dashboard/creators")).links["new"] == "/dashboard/creators/new/page"
    page = await world.owner.get("/dashboard/creators/new/page")
    assert page.heading == "new"
    saved = await world.owner.post(
        "/dashboard/creators/new/change", filled(page, "/dashboard/creators/new/change", name="N")
    )
    assert saved.location == "/dashboard/creators/new/page"
    assert (await facts_of(world, "new"))["name"] == "N"


# What is done


async def test_a_new_creator_comes_with_a_key_that_works(world):
    fields = {"id": "dee", "name": "Dee", "plan": "narrow", "overrides": '{"requests_per_hour": 7}'}
    page = await world.owner.post("/dashboard/creators/new", fields)
    assert page.status == 201
    me = await world.owner.api("GET", "/v1/me", new_key(page))
    assert (me.status_code, me.json()["creator"]) == (200, "dee")
    facts = await facts_of(world, "dee")
    assert (facts["name"], facts["plan"], facts["overrides"]) == ("Dee", "narrow", {"requests_per_hour": 7})
    assert page.links["To the creator"] == "/dashboard/creators/dee"


async def test_a_change_sends_what_was_changed_and_leaves_what_others_changed(world):
    page = await world.owner.get(ADA)
    await world.admin_api("PATCH", "/admin/creators/ada", json={"overrides": {"requests_per_hour": 3}})
    saved = await world.owner.post(f"{ADA}/change", filled(page, f"{ADA}/change", name="Ada", is_active="no"))
    assert (saved.status, saved.location) == (303, ADA)
    facts = await facts_of(world)
    assert (facts["name"], facts["is_active"], facts["plan"]) == ("Ada", False, "open")
    assert facts["overrides"] == {"requests_per_hour": 3}


async def test_overrides_are_edited_as_json_and_can_be_emptied(world):
    page = await world.owner.get(ADA)
    text = '{"requests_per_hour": 3,\r\n "budget_usd_per_month": "1.5"}'
    await world.owner.post(f"{ADA}/change", filled(page, f"{ADA}/change", overrides=text))
    assert (await facts_of(world))["overrides"] == {"requests_per_hour": 3, "budget_usd_per_month": "1.5"}
    page = await world.owner.get(ADA)
    fields = filled(page, f"{ADA}/change")
    assert orjson.loads(fields["overrides"]) == orjson.loads(fields["was_overrides"])
    await world.owner.post(f"{ADA}/change", {**fields, "overrides": ""})
    assert (await facts_of(world))["overrides"] == {}


async def test_a_form_for_credits_that_is_sent_twice_grants_once(world):
    page = await world.owner.get(ADA)
    fields = filled(page, f"{ADA}/grant", credits="50", note="for the trouble")
    answers = [await world.owner.post(f"{ADA}/grant", fields) for _ in range(2)]
    assert [answer.status for answer in answers] == [303, 303]
    assert await balance_of(world) == 50
    page = await world.owner.get(ADA)
    assert [row[-1] for row in page.rows("Grants")] == ["for the trouble"]
    # A form that is opened anew is another grant.
    await world.owner.post(f"{ADA}/grant", filled(page, f"{ADA}/grant", credits="50", note="for the trouble"))
    assert await balance_of(world) == 100


async def test_packages_promotional_credits_and_adjustments_are_booked(world):
    page = await world.owner.get(ADA)
    assert page.form(f"{ADA}/grant").options["package"] == ["", "small"]
    await world.owner.post(f"{ADA}/grant", filled(page, f"{ADA}/grant", package="small"))
    assert await balance_of(world) == 100
    page = await world.owner.get(ADA)
    promo = {"payer": "promo_credits", "credits": "7", "expires_at": "2026-06-01T08:30"}
    assert (await world.owner.post(f"{ADA}/grant", filled(page, f"{ADA}/grant", **promo))).status == 303
    grants = (await world.admin_api("GET", "/admin/creators/ada/credits"))["data"]
    assert [(grant["payer"], grant["credits"], grant["expires_at"]) for grant in grants] == [
        ("promo_credits", 7, "2026-06-01T08:30:00.000Z"),
        ("credits", 100, None),
    ]
    before = (await world.admin_api("GET", "/admin/creators/ada/limits"))["month"]["charge_nano_usd"]
    fields = filled(page, f"{ADA}/adjust", payer="quota", amount_usd="-0.05", note="goodwill")
    answers = [await world.owner.post(f"{ADA}/adjust", fields) for _ in range(2)]
    assert [answer.status for answer in answers] == [303, 303]
    after = (await world.admin_api("GET", "/admin/creators/ada/limits"))["month"]["charge_nano_usd"]
    assert after == before - 50_000_000


async def test_a_creator_is_deleted_by_whoever_types_its_id(world):
    answer = await world.owner.post(f"{ADA}/delete", {"confirm": "ada"})
    assert (answer.status, answer.location) == (303, "/dashboard/creators")
    assert (await world.owner.get(ADA)).status == 404
    assert (await world.owner.api("GET", "/v1/me", world.keys["ada"])).status_code == 401


# Virtual keys


async def test_a_key_is_told_once_and_nowhere_else(world, capsys):
    told = []
    page = await world.owner.get(ADA)
    fields = filled(page, f"{ADA}/keys", name="laptop", models="talk\r\n painter,", expires_at="2026-06-01T00:00")
    told.append(await world.owner.post(f"{ADA}/keys", {**fields, "overrides": '{"requests_per_hour": 2}'}))
    (made,) = [key for key in await keys_of(world) if key["name"] == "laptop"]
    assert (made["status"], made["models"], made["overrides"]) == (
        "active",
        ["talk", "painter"],
        {"requests_per_hour": 2},
    )
    assert made["expires_at"] == "2026-06-01T00:00:00.000Z"
    told.append(await world.support.post(f"{ADA}/keys/{made['id']}/rotate", {"grace_s": "60"}))
    told.append(await world.owner.post("/dashboard/creators/new", {"id": "dee"}))
    for page in told:
        key = new_key(page)
        assert (page.status, page.text.count(key)) == (201, 1)
        assert "no-store" in page.headers["cache-control"]
        assert (await world.owner.api("GET", "/v1/me", key)).status_code == 200
        assert key not in str(page.response.url)
    later = [await world.owner.get(path) for path in (ADA, "/dashboard/creators/dee", "/dashboard/creators")]
    audit = await world.admin_api("GET", "/admin/audit")
    seen = "".join(page.text for page in later) + orjson.dumps(audit).decode() + capsys.readouterr().out
    for page in told:
        assert new_key(page).rpartition("-")[2] not in seen


async def test_keys_are_paused_resumed_and_revoked_without_a_script(world):
    (key,) = await keys_of(world)
    path = f"{ADA}/keys/{key['id']}"

    async def status() -> str:
        return str((await keys_of(world))[0]["status"])

    assert (await world.support.post(f"{path}/pause")).location == ADA
    assert await status() == "paused"
    page = await world.support.get(ADA)
    assert f"{path}/pause" not in [form.action for form in page.forms]
    assert (await world.support.post(page.form(f"{path}/resume").action)).status == 303
    assert await status() == "active"
    asked = await world.support.get((await world.support.get(ADA)).links["Revoke"])
    assert asked.form(f"{path}/revoke").method == "post"
    assert asked.links["Back"] == ADA
    assert await status() == "active"
    assert (await world.support.post(f"{path}/revoke")).location == ADA
    assert await status() == "revoked"
    assert not [form for form in (await world.support.get(ADA)).forms if form.action.startswith(path)]


# Roles


def posts(page: Page) -> set[str]:
    return {form.action for form in page.forms if form.method == "post"} - {"/dashboard/sign-out"}


async def test_finance_sees_the_money_and_is_offered_nothing_to_do(world):
    for path in ("/dashboard/creators", ADA):
        page = await world.finance.get(path)
        assert (page.status, posts(page)) == (200, set())
        assert "$0.25" in page.words
        assert not [href for href in page.hrefs if href.endswith(("/new", "/revoke"))]


async def test_support_keeps_keys_and_sees_no_money(world):
    await world.admin_api("POST", "/admin/creators/ada/credits", json={"credits": 5, "note": "a present"})
    for path in ("/dashboard/creators", ADA):
        page = await world.support.get(path)
        assert page.status == 200
        assert [word for word in MONEY_WORDS if word in page.words] == []
        assert "data-unit" not in page.text
    (key,) = await keys_of(world)
    assert posts(page) == {f"{ADA}/keys", *(f"{ADA}/keys/{key['id']}/{what}" for what in ("rotate", "pause"))}
    assert "overrides" not in page.form(f"{ADA}/keys").names
    assert not [href for href in page.hrefs if "/export/" in href]


@pytest.mark.parametrize("role", ["finance", "support"])
async def test_a_form_that_is_sent_without_the_role_for_it_does_nothing(world, role):
    visitor: Visitor = world.admin(role)
    page = await world.owner.get(ADA)
    sent = {
        f"{ADA}/grant": filled(page, f"{ADA}/grant", credits="50"),
        f"{ADA}/adjust": filled(page, f"{ADA}/adjust", payer="quota", amount_usd="1"),
        f"{ADA}/change": filled(page, f"{ADA}/change", name="Mine"),
        f"{ADA}/delete": {"confirm": "ada"},
        f"{ADA}/keys": {"name": "k", "overrides": '{"requests_per_hour": 1}'},
        "/dashboard/creators/new": {"id": "mine"},
    }
    for path, fields in sent.items():
        assert (await visitor.post(path, fields)).status == 403, path
    assert (await visitor.get("/dashboard/creators/new")).status == 403
    assert (await facts_of(world))["name"] == ""
    assert (await balance_of(world), len(await keys_of(world))) == (0, 1)


async def test_finance_cannot_revoke_a_key(world):
    (key,) = await keys_of(world)
    path = f"{ADA}/keys/{key['id']}/revoke"
    assert ((await world.finance.get(path)).status, (await world.finance.post(path)).status) == (403, 403)
    assert (await keys_of(world))[0]["status"] == "active"


# What others named


async def test_hostile_names_are_words_on_every_page(world):
    await world.admin_api("PATCH", "/admin/creators/ada", json={"name": HOSTILE.replace("\u202e", "")})
    await world.admin_api("POST", "/admin/creators/ada/keys", json={"name": "<script>alert(2)</script>"})
    await world.admin_api("POST", "/admin/creators/ada/credits", json={"credits": 5, "note": "<b onload=x>'\"&"})
    await world.services.database.ledger.post([entry("<svg onload=y>", creator="ada", at=NOON, feature=HOSTILE)])
    made = await world.owner.post(f"{ADA}/keys", {"name": "<script>alert(3)</script>"})
    tried = await world.owner.post(f"{ADA}/grant", {"credits": '"><script>alert(4)</script>'})
    searched = await world.owner.get('/dashboard/creators?q="><script>alert(5)</script>')
    pages = [await world.owner.get(path) for path in ("/dashboard/creators", ADA)]
    for page in (made, tried, searched, *pages):
        inline = [attrs for tag, attrs in page.elements if tag == "script" and "src" not in attrs]
        handlers = [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
        assert (inline, handlers) == ([], [])
        assert ("img", {"src": "x"}) not in page.elements
    for page in pages:
        assert "<img src=x onerror=alert(1)>" in page.words
    assert pages[1].heading.startswith("<img")


# Lines of a month


def test_spending_is_summed_up_to_today_and_leads_to_the_forecast():
    today = NOON.date()
    columns, rows = burn_down({"2026-05-01": 3, "2026-05-20": 4}, today, 100, 18)
    assert columns == ["Spent", "Budget", "Forecast"]
    assert rows[0] == ("2026-05-01", [3, 100, None])
    assert rows[19] == ("2026-05-20", [7, 100, 7])
    assert rows[20] == ("2026-05-21", [None, 100, 8])
    assert rows[30] == ("2026-05-31", [None, 100, 18])
    assert len(rows) == days_in_month("2026-05") == 31


def test_the_last_day_of_a_month_is_where_its_line_ends():
    columns, rows = burn_down({}, NOON.date().replace(day=31), None, 0)
    assert (columns, rows[30]) == (["Spent", "Forecast"], ("2026-05-31", [0, 0]))


def test_a_small_line_stays_in_its_box_whatever_was_spent():
    assert spark_points([0, 0], None, 31) == ("", None)
    points, cap_y = spark_points([10**18, -5, 7], 10**9, 31)
    heights = [int(point.partition(",")[2]) for point in points.split()]
    assert len(heights) == 4
    assert all(0 <= height <= 24 for height in [*heights, cap_y or 0])
