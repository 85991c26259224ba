"""A creator's own pages: the figures of `/v1/me*`, in words and tables, and the same rows as a file."""

import asyncio
import csv
import io
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.dashboard.figures import usd_round, usd_text
from gateway.dashboard.me import downgrade_words
from gateway.tasks import spawn
from tests.clocked_gateway import chat_model
from tests.dashboard.served import served
from tests.dashboard.world import Visitor, World, opened_dashboard

ME = "/dashboard/me"
CALLS = "/dashboard/me/calls"
IMAGES = "/dashboard/me/images"
DAY_S = 86_400


async def own(world: World, creator: str, path: str) -> Any:
    """What the API answers the creator."""
    answer = await world.owner.api("GET", path, world.keys[creator])
    assert answer.status_code == 200, answer.text
    return answer.json()


def cards(page: Any) -> dict[str, str]:
    """What the cards say, by their labels."""
    texts = page.text.split('<div class="card">')[1:]
    parts = [[_text(line) for line in card.split("</div>")[0].splitlines() if line.strip()] for card in texts]
    return {label: " | ".join(rest) for label, *rest in parts}


def table_of(answer: httpx.Response) -> list[dict[str, str]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.text)))


def _text(line: str) -> str:
    return re.sub(r"<[^>]*>", "", line.split(">", 1)[1].rsplit("<", 1)[0])


# The overview


async def test_the_page_says_what_the_api_says(tmp_path: Path) -> None:
    async with opened_dashboard(tmp_path) as world:
        visitor = await world.new_creator("cy", plan="narrow")
        await world.call("cy")
        await world.call("cy", "gallery")
        grants = "/admin/creators/cy/credits"
        await world.admin_api("POST", grants, json={"credits": 70})
        promo = {"credits": 5, "payer": "promo_credits", "expires_at": "2026-06-30T00:00:00Z"}
        await world.admin_api("POST", grants, json=promo)
        me, page = await own(world, "cy", "/v1/me"), await visitor.get(ME)
        shown = cards(page)
        month = me["month"]
        assert month["cost_nano_usd"] == 20_041_000
        assert shown["Spent in 2026-05"].startswith(usd_round(month["cost_nano_usd"]))
        assert shown["Owed for 2026-05"] == f"{usd_round(month['charge_nano_usd'])} | 2 calls"
        assert shown["Forecast"].startswith(f"about {usd_round(month['forecast_cost_nano_usd'])}")
        assert f"about {usd_round(month['forecast_charge_nano_usd'])} owed" in shown["Forecast"]
        exact = [found["data-value"] for _, found in page.with_class("money")]
        assert exact[:3] == [
            str(month[name]) for name in ("cost_nano_usd", "charge_nano_usd", "forecast_cost_nano_usd")
        ]
        assert shown["Free images left today"] == "2 | of 3, again at 2026-05-21 00:00"
        assert shown["Credits left"].startswith("70")
        assert shown["Promotional credits left"] == "5 | the next expire at 2026-06-30 00:00"
        assert f"Quota of the month {usd_round(month['charge_nano_usd'])} used of $1.00" in page.words
        assert f"{usd_round(month['cost_nano_usd'])} used of $0.80" in page.words
        rates = {row[0]: row[1:5] for row in page.rows("Rates")}
        limits = {limit["name"]: limit for limit in me["limits"]}
        hour = limits["requests_per_hour"]
        assert rates["Requests an hour"] == [str(hour["used"]), str(hour["held"]), str(hour["remaining"]), "100"]
        assert "Tokens a minute" in rates
        assert len(page.rows("Latest calls")) == 2


async def test_what_is_held_is_shown_apart(tmp_path: Path) -> None:
    waits = chat_model("waits-long", upstream="f9000d0n1")
    async with opened_dashboard(tmp_path, has_calls=False, models=waits) as world:
        visitor = await world.new_creator("cy", plan="narrow")
        call = spawn(world.gateway.chat(world.keys["cy"], "waits-long", max_tokens=1000), "waits")
        await world.gateway.has_in_flight(1)
        me, page = await own(world, "cy", "/v1/me"), await visitor.get(ME)
        (quota,) = [limit for limit in me["limits"] if limit["name"] == "quota_usd_per_month"]
        assert quota["held"] > 10_000_000
        assert f"$0.00 used, {usd_round(quota['held'])} held of $1.00" in page.words
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        after = await visitor.get(ME)
        assert "held" not in after.words.replace("Held", "")


async def test_usage_is_shown_by_day_model_and_feature(tmp_path: Path) -> None:
    async with opened_dashboard(tmp_path, has_calls=False) as world:
        visitor = world.creator("ada")
        await world.call("ada", headers={"x-gateway-feature": "draft"})
        await world.call("ada", "grand", headers={"x-gateway-feature": "draft"})
        world.clock.advance(days=1)
        await visitor.sign_in(world.keys["ada"])
        await world.call("ada", "talk", text="more of this")
        usage = await own(world, "ada", "/v1/me/usage?group_by=day,model")
        found = {(row["day"], row["model"]): row for row in usage["data"]}
        page = await visitor.get(ME)
        table = page.tables["Cost by day and model"]
        models = table.rows[0][1:]
        assert models == ["grand", "talk"]
        for (day, *_), values in zip(table.rows[1:], table.values[1:], strict=True):
            for model, value in zip(models, values[1:], strict=True):
                row = found.get((day, model))
                assert value == ("" if row is None else str(row["cost_nano_usd"]))
        assert [row[0] for row in page.rows("Cost by feature")] == ["draft", "(none)"]
        tokens = await visitor.get(f"{ME}?metric=tokens")
        talk = [row for row in usage["data"] if row["model"] == "talk"]
        expected = sum(row["input_tokens"] + row["output_tokens"] for row in talk)
        by_model = dict(
            zip((row[0] for row in tokens.rows("Tokens by model")), _seconds(tokens, "Tokens by model"), strict=True)
        )
        assert by_model["talk"] == str(expected)
        assert (await visitor.get(f"{ME}?metric=nonsense")).tables.keys() == page.tables.keys()
        early = await visitor.get(f"{ME}?from=2026-05-01&to=2026-05-10")
        assert "No calls in these days." in early.words
        assert early.form(ME).fields["from"] == "2026-05-01"
        export = next(href for href in page.hrefs if href.startswith("/dashboard/export/me/usage"))
        rows = table_of((await visitor.get(export)).response)
        assert sum(int(row["cost_nano_usd"]) for row in rows) == sum(row["cost_nano_usd"] for row in usage["data"])
        refused = await visitor.get(f"{ME}?from=yesterday")
        assert refused.status == 400
        assert "takes a day" in refused.words


async def test_a_creator_without_calls_is_shown_the_way_to_one(tmp_path: Path) -> None:
    async with opened_dashboard(tmp_path, has_calls=False) as world:
        page = await world.creator("ada").get(ME)
        assert "/dashboard/me/playground" in page.hrefs
        assert "No calls yet." in page.words
        assert "Make your first call" in page.words
        assert "No images yet." in (await world.creator("ada").get(IMAGES)).words
        assert "No calls that fit." in (await world.creator("ada").get(CALLS)).words


# Downgrades in words


async def test_a_downgrade_is_told_in_plain_words_and_so_is_its_end(tmp_path: Path) -> None:
    async with opened_dashboard(tmp_path, has_calls=False) as world:
        visitor = await world.new_creator("cy", budget_usd_per_month="0.1", models=["premium", "standard", "talk"])
        before = await visitor.get(ME)
        assert "Every call is answered by the model it asks for, until the budget of $0.10 is reached." in before.words
        assert (await world.call("cy", "premium")).headers["x-gateway-model"] == "premium"
        for _ in range(8):
            assert (await world.call("cy", "premium")).headers["x-gateway-model"] == "standard"
        assert (await own(world, "cy", "/v1/me"))["downgrade"]["is_active"]
        page = await visitor.get(ME)
        assert (
            "Since the budget of $0.10 is reached, premium is answered by standard; this ends below $0.09 or at the "
            "month's end. 8 calls were answered by another model this month."
        ) in page.words
        calls = await visitor.get(CALLS)
        assert "standard asked for premium" in calls.rows("Calls")[0]


def me_of(*, is_active: bool = False, name: str | None = None, limits: Any = (), resumes: str | None = None) -> Any:
    shown = [
        {"name": limit, "unit": "cost_nano_usd", "limit": capacity, "remaining": left}
        for limit, capacity, left in limits
    ]
    return {"limits": shown, "downgrade": {"is_active": is_active, "limit_name": name, "resumes_below_usd": resumes}}


SOFT, HARD = "budget_usd_per_month", "budget_hard_usd_per_month"
STEPS = [{"id": "dear", "downgrade_to": "cheap"}, {"id": "cheap", "downgrade_to": None}]


@pytest.mark.parametrize(
    ("me", "models", "words"),
    [
        pytest.param(me_of(), STEPS, "Every call is answered by the model it asks for.", id="no budget"),
        pytest.param(
            me_of(name=SOFT, limits=[(SOFT, 10**9, 5)]),
            STEPS[1:],
            "Every call is answered by the model it asks for.",
            id="nothing to downgrade",
        ),
        pytest.param(
            me_of(is_active=True, name=SOFT, limits=[(SOFT, 8 * 10**8, 0)], resumes="0.72"),
            STEPS,
            "Since the budget of $0.80 is reached, dear is answered by cheap; this ends below $0.72 or at the month's end.",
            id="downgraded",
        ),
        pytest.param(
            me_of(is_active=True, name=f"key_{SOFT}", limits=[(SOFT, 10**9, 5), (f"key_{SOFT}", 10**8, 0)]),
            STEPS,
            "Since the budget of $0.10 is reached, dear is answered by cheap; this ends at the month's end.",
            id="by the key's own budget",
        ),
        pytest.param(
            me_of(limits=[(SOFT, 10**9, 0)]),
            STEPS,
            "The budget of $1.00 is reached: calls are refused until the month's end.",
            id="a budget that refuses",
        ),
        pytest.param(
            me_of(is_active=True, name=SOFT, limits=[(SOFT, 10**9, 0), (HARD, 2 * 10**9, 0)]),
            STEPS,
            "The budget of $2.00 is reached: calls are refused until the month's end.",
            id="downgraded, then refused",
        ),
        pytest.param(
            me_of(is_active=True, name=SOFT, limits=[(SOFT, 10**9, 0), (HARD, None, None)]),
            STEPS,
            "Since the budget of $1.00 is reached, dear is answered by cheap; this ends at the month's end.",
            id="no hard budget",
        ),
    ],
)
def test_the_state_of_downgrades_is_one_sentence(me: Any, models: Any, words: str) -> None:
    assert downgrade_words(me, models) == words


# Calls


async def test_calls_come_in_pages_with_filters_and_as_a_file(tmp_path: Path) -> None:
    async with opened_dashboard(tmp_path, has_calls=False) as world:
        visitor = world.creator("ada")
        for number in range(70):
            await world.call("ada", headers={"x-gateway-feature": "-1" if number % 7 == 0 else "plain"})
        await world.call("bo")
        ids = [call.request_id for call in world.calls[:70]][::-1]
        first = await visitor.get(CALLS)
        older = next(href for href in first.hrefs if "cursor=" in href)
        second = await visitor.get(older)
        shown = [_request_ids(page) for page in (first, second)]
        assert [len(part) for part in shown] == [50, 20]
        assert [*shown[0], *shown[1]] == ids
        assert not [href for href in second.hrefs if "cursor=" in href]
        odd = await visitor.get(f"{CALLS}?feature=-1&model=talk&from=2026-05-01")
        assert _request_ids(odd) == ids[6::7]
        assert odd.form(CALLS).fields["feature"] == "-1"
        export = next(href for href in odd.hrefs if href.startswith("/dashboard/export/me/calls"))
        rows = table_of((await visitor.get(export)).response)
        assert [row["request_id"] for row in rows] == ids[6::7]
        assert {row["feature"] for row in rows} == {"'-1"}, "no formula for a spreadsheet"
        whole = await world.owner.api("GET", "/v1/me/calls?format=csv", world.keys["ada"])
        page = await own(world, "ada", "/v1/me/calls?limit=500")
        rows = table_of(whole)
        assert [int(row["charge_nano_usd"]) for row in rows] == [call["charge_nano_usd"] for call in page["data"]]
        assert list(rows[0]) == list(page["data"][0])
        assert whole.headers["content-disposition"] == 'attachment; filename="calls.csv"'
        assert (await visitor.get(f"{CALLS}?model=nothing")).tables == {}
        assert (await visitor.get(f"{CALLS}?cursor=wrong")).status == 400


@pytest.mark.parametrize(
    "query",
    ["calls?format=xml", "calls?format=csv&limit=5", "usage?format=ndjson", "usage?group_by=creator", "calls?who=bo"],
)
async def test_what_a_list_does_not_know_is_refused(tmp_path: Path, query: str) -> None:
    async with opened_dashboard(tmp_path, creators=("ada",), has_calls=False) as world:
        answer = await world.owner.api("GET", f"/v1/me/{query}", world.keys["ada"])
        assert answer.status_code == 400
        assert (await world.creator("ada").get(f"/dashboard/export/me/{query}")).status == 400


async def test_a_file_without_rows_has_its_header(tmp_path: Path) -> None:
    async with opened_dashboard(tmp_path, has_calls=False) as world:
        await world.call("bo")
        for path in ("usage?group_by=day,feature", "calls"):
            sign = "&" if "?" in path else "?"
            ada, bo = [
                await world.owner.api("GET", f"/v1/me/{path}{sign}format=csv", world.keys[name])
                for name in ("ada", "bo")
            ]
            assert table_of(ada) == []
            assert len(table_of(bo)) == 1
            assert ada.text == bo.text.splitlines(keepends=True)[0]


async def test_a_call_tells_what_it_was_and_cost(tmp_path: Path) -> None:
    async with opened_dashboard(tmp_path, has_calls=False) as world:
        hostile = {"<img src=x onerror=alert(1)>": "=1+1"}
        made = await world.call("ada", metadata={**hostile, "feature": "draft"})
        page = await world.creator("ada").get(f"{CALLS}/{made.request_id}")
        (call,) = (await own(world, "ada", f"/v1/me/calls/{made.request_id}"))["data"]
        facts = {row[0]: row[1] for row in page.tables["What was asked"].rows}
        assert facts["Cost"] == usd_text(call["cost_nano_usd"])
        assert (facts["Feature"], facts["Model that served"]) == ("draft", "talk")
        assert facts["Metadata: <img src=x onerror=alert(1)>"] == "=1+1"
        assert not [tag for tag, _ in page.elements if tag == "img"]
        assert len(page.rows("Attempts")) == 1
        link = next(href for href in (await world.creator("ada").get(ME)).hrefs if made.request_id in href)
        assert link == f"{CALLS}/{made.request_id}"


async def test_a_call_of_nobody_and_one_of_another_creator_are_the_same_404(tmp_path: Path) -> None:
    async with opened_dashboard(tmp_path) as world:
        theirs = next(call.request_id for call in world.calls)
        bo = world.creator("bo")
        answers = [await bo.get(f"{CALLS}/{name}") for name in (theirs, "req_nobodys", "%2e%2e", "a%20b")]
        assert {answer.status for answer in answers} == {404}
        assert len({answer.text for answer in answers}) == 1


# Images


async def test_images_are_shown_and_one_of_a_call_is_selected(tmp_path: Path) -> None:
    async with opened_dashboard(tmp_path, has_calls=False) as world:
        ada = world.creator("ada")
        await paint(world, {"n": 2, "response_format": "url"}, {"response_format": "b64_json"})
        page = await ada.get(IMAGES)
        sources = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
        assert len(sources) == 2
        assert "The picture is not kept here" in page.words
        for paid in ("2026-05-20 12:00", "$0.50 for 2 images, paid by quota", "$0.25 , paid by quota"):
            assert paid in page.words
        for source in sources:
            assert source.startswith("/assets/")
            assert (await ada.get(source)).headers["content-type"] == "image/png"
        await select(ada, page, 1)
        assert "selected" in (await ada.get(IMAGES)).words
        listed = await own(world, "ada", "/v1/generations")
        assert [image["selected"] for image in listed["data"]] == [False, True, False]
        answer = await ada.post(f"{IMAGES}/gen_nobodys/select")
        assert answer.status == 404
        with_field = await ada.post(page.forms[-1].action, {"creator": "bo"})
        assert with_field.status == 422


async def test_the_history_of_images_comes_in_pages(tmp_path: Path) -> None:
    async with opened_dashboard(tmp_path, has_calls=False) as world:
        await paint(world, *({"n": 9} for _ in range(3)))
        first = await world.creator("ada").get(IMAGES)
        second = await world.creator("ada").get(next(href for href in first.hrefs if "after=" in href))
        assert [page.text.count("<figure>") for page in (first, second)] == [24, 3]
        assert not [href for href in second.hrefs if "after=" in href]


async def paint(world: World, *calls: dict[str, Any]) -> None:
    """Image calls of Ada's, by the endpoint itself: only that keeps what it answers."""
    async with served(world) as found, found.visitor() as client:
        for fields in calls:
            body = {"model": "painter", "prompt": "a cat", **fields}
            headers = {"authorization": f"Bearer {world.keys['ada']}"}
            answer = await client.post("/v1/images/generations", json=body, headers=headers)
            assert answer.status_code == 200, answer.text


async def select(visitor: Visitor, page: Any, number: int) -> None:
    """Presses the button of one image, counted from the newest."""
    forms = [form for form in page.forms if form.action.endswith("/select")]
    answer = await visitor.post(forms[number].action)
    assert (answer.status, answer.location) == (303, IMAGES)


def _request_ids(page: Any) -> list[str]:
    return [href.removeprefix(f"{CALLS}/") for href in page.hrefs if href.startswith(f"{CALLS}/")]


def _seconds(page: Any, caption: str) -> list[str | None]:
    return [row[1] for row in page.tables[caption].values[1:]]
