"""The page that asks any question about sums: what it takes, what it shows again, and what it refuses."""

import shlex
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from gateway.dashboard.explore import METRICS
from gateway.dashboard.figures import usd_at
from gateway.endpoints.admin.costs import SUMS
from gateway.ledger.queries import GROUPS_MAX
from gateway.ledger.records import Route
from gateway.ledger.schema import USAGE_DAILY_KEY, USAGE_DAILY_SUMS
from tests.dashboard.world import NOON, Page, World, opened_dashboard
from tests.ledger.books import COST, PRICE, change, entry

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "=cmd|'/c calc'!A1",
    "\u202egnp.exe",
    "x" * 200,
    "{{ 7 * 7 }}",
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened_dashboard(tmp_path) as opened:
        yield opened


async def ask(world: World, **asked: str | int) -> Page:
    return await world.owner.get(f"/dashboard/explore?{urlencode(asked)}")


def figures(page: Page) -> list[list[str]]:
    """Headings, lines and totals of the table below the chart."""
    (caption,) = [caption for caption in page.tables if caption.endswith("figures and totals")]
    return page.tables[caption].rows


async def book(world: World, model: str, *, n: int = 1, days_ago: int = 0, **where: str) -> None:
    """`n` calls of `model`, which costs `COST` each."""
    await world.services.database.record_prices({model: PRICE})
    at = NOON - timedelta(days=days_ago)
    named = {"requested_model": model, **where}
    changes = {"route": Route(model, "mock", PRICE.version)}
    await world.services.database.ledger.post(
        [entry(f"{model}-{days_ago}-{i}-{sorted(where.items())}", at=at, changes=changes, **named) for i in range(n)]
    )


async def test_unasked_it_shows_what_models_cost_on_the_last_thirty_days(world: World) -> None:
    page = await world.owner.get("/dashboard/explore")
    headings, *lines, totals = figures(page)
    assert page.status == 200
    assert headings == ["Day", "painter", "talk", "Total"]
    assert [line[0] for line in lines][::29] == ["2026-04-21", "2026-05-20"]
    answer = await world.admin_api("GET", "/admin/costs?group_by=kind")
    assert totals[-1] == usd_at(answer["totals"]["cost_nano_usd"], 2)
    (shown,) = [table for caption, table in page.tables.items() if caption.endswith("figures and totals")]
    assert shown.values[-1][-1] == str(answer["totals"]["cost_nano_usd"])


async def test_every_sum_of_the_api_can_be_shown(world: World) -> None:
    assert set(METRICS) == set(SUMS)
    for metric, (title, field, _) in METRICS.items():
        page = await ask(world, metric=metric, grain="none", group="none")
        expected = (await world.admin_api("GET", "/admin/costs?group_by=kind"))["totals"][field]
        (caption,) = [name for name in page.tables if name.startswith(f"{title}: figures")]
        assert page.tables[caption].values[-1][-1] == str(expected)


async def test_groups_are_rows_and_sub_groups_columns_where_there_is_no_time(world: World) -> None:
    page = await ask(world, grain="none", group="creator", split="model", metric="calls")
    assert figures(page) == [
        ["Creator", "talk", "painter", "Total"],
        ["ada", "1", "1", "2"],
        ["bo", "1", "0", "1"],
        ["Total", "2", "1", "3"],
    ]


async def test_over_time_a_group_and_its_sub_group_are_one_column(world: World) -> None:
    page = await ask(world, group="creator", split="model", metric="calls", grain="month")
    assert figures(page) == [
        ["Month", "ada / painter", "ada / talk", "bo / talk", "Total"],
        ["2026-04", "0", "0", "0", "0"],
        ["2026-05", "1", "1", "1", "3"],
        ["Total", "1", "1", "1", "3"],
    ]


async def test_the_smaller_ones_are_one_column_with_exactly_the_rest(world: World) -> None:
    for n, model in enumerate("abcde", 2):
        await book(world, model, n=n)
    page = await ask(world, metric="calls", top=3, **{"from": "2026-05-20", "to": "2026-05-21"})
    headings, line, _ = figures(page)
    assert headings == ["Day", "e", "d", "c", "Other (4)", "Total"]
    assert line == ["2026-05-20", "6", "5", "4", "8", "23"]


async def test_weeks_begin_on_monday_and_run_on_if_asked(world: World) -> None:
    for days_ago in (3, 2, 1):  # Sunday, Monday, Tuesday
        await book(world, "m", days_ago=days_ago)
    asked = {"metric": "calls", "grain": "week", "model": "m", "from": "2026-05-11", "to": "2026-05-21"}
    assert figures(await ask(world, **asked))[1:] == [
        ["2026-05-11", "1", "1"],
        ["2026-05-18", "2", "2"],
        ["Total", "3", "3"],
    ]
    assert figures(await ask(world, cumulative=1, **asked))[1:] == [
        ["2026-05-11", "1", "1"],
        ["2026-05-18", "3", "3"],
        ["Total", "3", "3"],
    ]


async def test_filters_are_the_apis(world: World) -> None:
    page = await ask(world, creator="bo", metric="calls", grain="none", group="model", outcome="ok", cached="false")
    assert figures(page)[1:] == [["talk", "1", "1"], ["Total", "1", "1"]]
    form = page.form("/dashboard/explore")
    assert form.fields["creator"] == "bo"
    assert (form.fields["outcome"], form.fields["cached"], form.fields["grain"]) == ("ok", "false", "none")


async def test_the_same_question_for_a_terminal_and_as_csv(world: World) -> None:
    page = await ask(world, group="creator", split="feature", metric="charge", creator="ada")
    line = next(word for word in page.text.split("<code data-copied>")[1].split("</code>"))
    curl = shlex.split(line.replace("&#34;", '"').replace("&#39;", "'").replace("&amp;", "&"))
    assert curl[:3] == ["curl", "-H", "Authorization: Bearer $GATEWAY_ADMIN_KEY"]
    url = urlsplit(curl[3])
    assert dict(parse_qsl(url.query)) == {
        "group_by": "day,creator,feature", "sums": "charge", "from": "2026-04-21", "to": "2026-05-21", "creator": "ada",
    }  # fmt: skip
    answer = await world.owner.api("GET", f"{url.path}?{url.query}", world.admin_keys["finance"])
    total = answer.json()["totals"]["charge_nano_usd"]
    assert page.tables[next(name for name in page.tables if name.endswith("totals"))].values[-1][-1] == str(total)
    assert page.links["Export CSV"] == f"/dashboard/export/costs?{url.query}"


REFUSED: list[tuple[dict[str, str], str]] = [
    ({"metric": "money"}, "metric takes one of"),
    ({"group": "colour"}, "group takes one of"),
    ({"group": "model", "split": "model"}, "split takes another group"),
    ({"grain": "hour"}, "grain takes one of"),
    ({"from": "yesterday"}, "“From” takes a day such as"),
    ({"from": "2026-05-02", "to": "2026-05-01"}, "“Before” takes a day after “From”"),
    ({"top": "0"}, "“Largest” takes a whole number"),
    ({"top": "51"}, "“Largest” takes a whole number"),
    ({"cumulative": "yes"}, "cumulative takes one of"),
    ({"kind": "gift"}, "“Kind” takes one of"),
    ({"outcome": "fine"}, "“Outcome” takes one of"),
    ({"cached": "maybe"}, "cached takes one of"),
    ({"colour": "red"}, "This page has no filter colour"),
    ({"from": "1000-01-01"}, "That makes more than 400 rows"),
    ({"creator": "x" * 257}, "“Creator” takes at most 256 characters"),
]


async def test_what_cannot_be_asked_is_refused_and_the_form_kept(world: World) -> None:
    for asked, said in REFUSED:
        page = await ask(world, **{"feature": "kept-as-it-was", **asked})
        assert page.status == 400, asked
        assert said in page.words, asked
        assert page.form("/dashboard/explore").fields["feature"] == "kept-as-it-was", asked
        assert not page.tables, asked


async def test_a_parameter_given_twice_is_refused(world: World) -> None:
    page = await world.owner.get("/dashboard/explore?top=3&top=4")
    assert (page.status, "“Largest” is given twice" in page.words) == (400, True)


async def test_too_many_groups_are_refused_in_the_apis_words(world: World) -> None:
    columns = [*USAGE_DAILY_KEY, *USAGE_DAILY_SUMS]
    values = {**dict.fromkeys(USAGE_DAILY_KEY, "''"), **dict.fromkeys(USAGE_DAILY_SUMS, "1")}
    values |= {"period_day": "'2026-05-19'", "creator": "'c' || n", "cached": "0"}
    change(
        world.gateway.path,
        f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {GROUPS_MAX})"
        f" INSERT INTO usage_daily ({', '.join(columns)}) SELECT {', '.join(values[name] for name in columns)} FROM numbers",
    )
    page = await ask(world, group="creator")
    assert page.status == 400
    assert f"That makes more than {GROUPS_MAX} rows: ask for a shorter range or fewer groups." in page.words
    assert page.form("/dashboard/explore").fields["group"] == "creator"


async def test_hostile_names_are_words_and_nothing_else(world: World) -> None:
    for name in HOSTILE:
        await book(world, "m", creator=name, feature=name, agent=name)
        for asked in ({"group": "creator", "split": "feature"}, {"group": "agent", "grain": "none"}, {"creator": name}):
            page = await ask(world, **asked)
            assert page.status == 200
            assert {tag for tag, _ in page.elements} & {"img", "iframe", "object"} == set()
            assert not any(attribute.startswith("on") for _, given in page.elements for attribute in given)
            scripts = [given.get("src", "") for tag, given in page.elements if tag == "script"]
            assert all(source.startswith("/dashboard/static/") for source in scripts)
        assert page.form("/dashboard/explore").fields["creator"] == name
        shown = figures(await ask(world, group="feature", grain="none", metric="cost", creator=name))
        assert shown[1] == [" ".join(name.split()), *[usd_at(COST, 5)] * 2]
        asked_of = urlencode({"group_by": "creator", "creator": name})
        exported = await world.owner.http.get(f"/dashboard/export/costs?{asked_of}")
        assert not exported.text.split("\r\n")[1].startswith("=")


async def test_money_is_not_for_support_nor_for_creators(world: World) -> None:
    assert (await world.support.get("/dashboard/explore")).status == 403
    assert (await world.finance.get("/dashboard/explore")).status == 200
    assert (await world.creator("ada").get("/dashboard/explore")).status == 403


async def test_sums_of_the_api_are_those_that_were_asked_for(world: World) -> None:
    answer = await world.admin_api("GET", "/admin/costs?group_by=creator&sums=saved,input_tokens")
    assert answer["data"][0].keys() == {"creator", "saved_nano_usd", "saved_usd", "input_tokens"}
    every = await world.admin_api("GET", "/admin/costs?group_by=creator,model")
    some = await world.admin_api("GET", f"/admin/costs?group_by=creator,model&sums={','.join(SUMS)}")
    assert some == every
    refused = await world.owner.api("GET", "/admin/costs?group_by=creator&sums=cost,cost", world.admin_keys["owner"])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "sums")
