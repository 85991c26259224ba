"""`/dashboard/models`, the price diff and the estimator, and the admin routes behind them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.catalog import load_catalog
from gateway.dashboard.estimates import estimate_form
from gateway.errors import RequestError
from gateway.estimating import READERS, read_for_estimate
from gateway.price_diff import price_diff
from tests.clocked_gateway import utc
from tests.dashboard.world import World, opened_dashboard

HOSTILE = "<img src=x onerror=alert(1)>"
MORE = f"""
[providers.keyless]
dialect = "openai"
base_url = "http://127.0.0.1:9/v1"
api_key_env = "TEST_KEY_THAT_NOBODY_SETS"

[models."team/far"]
provider = "keyless"
endpoints = ["chat"]
capabilities = ["vision"]
display_name = "{HOSTILE}"
description = "{HOSTILE}"
source = "{HOSTILE}"
input_usd_per_mtok = 1.25
cached_input_usd_per_mtok = 0.125
output_usd_per_mtok = 10

[models."team/far".long_prompt]
above_input_tokens = 1000
input_usd_per_mtok = 2.5
output_usd_per_mtok = 15

[models."off"]
provider = "mock"
active = false
endpoints = ["embeddings"]
input_usd_per_mtok = 1

[models."first"]
provider = "mock"
endpoints = ["chat"]
input_usd_per_mtok = 10
output_usd_per_mtok = 100
downgrade_to = "second"

[models."second"]
provider = "mock"
endpoints = ["chat"]
input_usd_per_mtok = 5
output_usd_per_mtok = 50
downgrade_to = "talk"

[models."both"]
provider = "mock"
endpoints = ["chat"]
input_usd_per_mtok = 1
output_usd_per_mtok = 10

[[models."both".deployments]]
provider = "mock"
upstream_model = "echo"
weight = 3

[[models."both".deployments]]
provider = "other"
upstream_model = "echo"
"""
FIELDS = dict.fromkeys(
    ("model", "endpoint", "creator", "text", "tokens", "max_tokens", "n", "size", "quality", "voice", "downgrade"), ""
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened_dashboard(tmp_path, models=MORE) as opened:
        yield opened


def named(page: Any) -> list[str]:
    return [row[0] for row in page.rows("Models")]


# What is refused


async def test_what_is_not_there_is_refused(world: World):
    for path, status, word in (
        ("/dashboard/models/none", 404, "no model of this name"),
        ("/dashboard/models?state=asleep", 400, "state takes one of: active, inactive"),
        ("/dashboard/models?stat=active", 400, "no filter stat"),
        ("/dashboard/models/talk?x=1", 400, "no filter x"),
        ("/dashboard/price-diff?x=1", 400, "no filter x"),
    ):
        page = await world.owner.get(path)
        assert (page.status, word in page.words) == (status, True), path
    for path, status, code in (
        ("/admin/models/none", 404, "model_not_found"),
        ("/admin/models?x=1", 400, "unknown_parameter"),
        ("/admin/prices/diff?x=1", 400, "unknown_parameter"),
    ):
        answer = await world.owner.api("GET", path, world.admin_keys["owner"])
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_prices_are_not_for_support_and_nothing_here_for_creators(world: World):
    for path in ("/dashboard/models", "/dashboard/models/talk", "/dashboard/price-diff", "/dashboard/estimate"):
        assert (await world.support.get(path)).status == 403
        assert (await world.creator("ada").get(path)).status == 403
        assert (await world.finance.get(path)).status == 200
    for path in ("/admin/models", "/admin/models/talk", "/admin/prices/diff"):
        assert (await world.owner.api("GET", path, world.admin_keys["support"])).status_code == 403


# The catalog


async def test_the_catalog_says_what_is_off_and_why(world: World):
    page = await world.owner.get("/dashboard/models")
    states = {row[0]: row[1] for row in page.rows("Models")}
    assert states["talk"] == "active"
    assert states["team/far"] == "inactive no provider key is set"
    assert states["off"] == "inactive switched off in the catalog"
    rows = {row[0]: row for row in page.rows("Models")}
    assert rows["first"][8] == "second → talk"
    assert rows["both"][2] == "mock, other"
    assert rows["painter"][7] == "image */* $0.25"
    assert (
        rows["team/far"][7]
        == "input $1.25/M, cached input $0.125/M, output $10.00/M, long prompt, input $2.50/M and 1 more"
    )


async def test_filters_narrow_the_catalog(world: World):
    for query, found in (
        ("endpoint=embeddings", ["off"]),
        ("provider=other", ["talk-other", "both"]),
        ("capability=vision", ["team/far"]),
        ("state=inactive", ["team/far", "off"]),
        ("state=inactive&endpoint=chat", ["team/far"]),
    ):
        assert named(await world.owner.get(f"/dashboard/models?{query}")) == found, query
    assert "No model fits." in (await world.owner.get("/dashboard/models?provider=nobody")).words


async def test_one_model_shows_its_prices_versions_and_use(world: World):
    page = await world.owner.get("/dashboard/models/talk")
    version = load_catalog(world.gateway.folder / "pricing.toml").models["talk"].price.version
    assert page.rows(f"Price row {version}") == [
        ["input", "$1.00", "million tokens"],
        ["output", "$10.00", "million tokens"],
    ]
    (kept,) = page.rows("Price rows that entries may name, the latest first")
    assert kept[0] == f"{version} now"
    totals = (await world.admin_api("GET", "/admin/costs?group_by=day&model=talk"))["totals"]
    assert totals["cost_nano_usd"] == 82_000
    assert "$0.000082" in page.words
    assert page.rows("Cost by day")[-1] == ["2026-05-20", "$0.000082"]
    assert page.tables["Calls by day"].values[-1][-1] == "2"
    assert len(page.rows("Cost by day")) == 30


async def test_deployments_of_a_model_are_shown(world: World):
    page = await world.owner.get("/dashboard/models/both")
    assert page.rows("Deployments") == [["mock", "echo", "both", "3"], ["other", "echo", "both", "1"]]


async def test_hostile_names_are_only_words(world: World):
    page = await world.owner.get("/dashboard/models/team/far")
    assert page.status == 200
    assert page.heading == HOSTILE
    assert page.words.count(HOSTILE) >= 3
    assert not [found for found in page.elements if "onerror" in found[1]]


async def test_the_admin_api_tells_the_whole_row(world: World):
    model = await world.admin_api("GET", "/admin/models/team/far")
    assert (model["active"], model["inactive_reason"]) == (False, "no_provider_key")
    assert model["price"] == {
        "input_usd_per_mtok": "1.25",
        "cached_input_usd_per_mtok": "0.125",
        "output_usd_per_mtok": "10",
        "long_prompt": {"above_input_tokens": 1000, "input_usd_per_mtok": "2.5", "output_usd_per_mtok": "15"},
    }
    assert [(each["version"], each["price"]) for each in model["versions"]] == [
        (model["price_version"], model["price"])
    ]
    listed = await world.admin_api("GET", "/admin/models")
    assert len(listed["data"]) == len(load_catalog(world.gateway.folder / "pricing.toml").models)


# The price diff


async def test_the_diff_says_which_lists_are_there(world: World):
    found = await world.admin_api("GET", "/admin/prices/diff")
    page = await world.owner.get("/dashboard/price-diff")
    assert [reference["name"] for reference in found["references"]] == ["litellm", "genai-prices"]
    for reference in found["references"]:
        if reference["problem"]:
            assert f"{reference['name']}: {reference['problem']}" in page.words
            assert "not installed, so not compared: pip install" in reference["problem"]
        else:
            assert reference["title"] in page.words


async def test_every_figure_that_differs_is_in_the_diff(tmp_path: Path):
    file = tmp_path / "pricing.toml"
    file.write_text(
        'version = "1"\n[providers.openai]\ndialect = "openai"\nbase_url = "https://api.openai.com/v1"\n'
        '[models."gpt-4o"]\nprovider = "openai"\nendpoints = ["chat"]\n'
        "input_usd_per_mtok = 123\noutput_usd_per_mtok = 10\n"
    )
    catalog = load_catalog(file)
    found = await price_diff(catalog, utc(2026, 5, 20))
    (reference,) = [each for each in found["references"] if each["name"] == "genai-prices"]
    assert reference["installed"]
    assert {"model": "gpt-4o", "key": "input_usd_per_mtok", "ours": "123", "theirs": "2.5"} in reference["differences"]
    assert await price_diff(catalog, utc(2026, 5, 20, 23)) is found
    assert await price_diff(catalog, utc(2026, 5, 21)) is not found


# The estimator


async def test_an_estimate_for_nobody_is_the_prices_alone(world: World):
    page = await world.finance.post("/dashboard/estimate", {"model": "talk", "tokens": "1000", "max_tokens": "10"})
    assert page.status == 200
    assert "would be admitted" in page.words
    # 1 000 tokens at a dollar and 10 at ten dollars a million
    assert "Expected cost $0.0011" in page.words
    assert page.form("/dashboard/estimate").fields["tokens"] == "1000"


async def test_images_of_a_size_are_estimated_for_a_creator(world: World):
    fields = {"model": "painter", "endpoint": "images", "text": "a cat", "n": "2", "creator": "ada"}
    page = await world.finance.post("/dashboard/estimate", fields)
    assert "Expected cost $0.50" in page.words
    limits = {row[0]: row for row in page.rows("Limits it would take from")}
    assert limits["Quota of the month"][3:] == ["$0.50", "$1,000,000.00"]


async def test_a_downgrade_and_a_refusal_are_told(world: World):
    await world.new_creator("eve", budget_usd_per_month="0.001")
    asked = {"model": "grand", "text": "hi", "max_tokens": "50", "creator": "eve"}
    page = await world.owner.post("/dashboard/estimate", asked)
    assert "would be downgraded" in page.words
    assert "$0.001, reached: not asked any more" in page.words
    assert "grand → talk because of Budget of the month" in page.words
    page = await world.owner.post("/dashboard/estimate", {"model": "gallery", "endpoint": "images", "creator": "bo"})
    assert "would be refused" in page.words
    assert "429 insufficient_quota" in page.words


REFUSED: list[tuple[dict[str, str], int, str]] = [
    ({"model": "none"}, 404, "is not in this gateway's catalog"),
    ({"model": "talk", "creator": "nobody"}, 404, "no creator with this id"),
    ({"model": "talk", "tokens": "-1"}, 400, "tokens takes a whole number"),
    ({"model": "talk", "tokens": "1000001"}, 400, "tokens takes a whole number"),
    ({"model": "talk", "text": "x", "tokens": "1"}, 400, "tokens is for when there is no text"),
    ({"model": "talk", "endpoint": "nothing"}, 400, "“Endpoint” takes one of"),
    ({"model": HOSTILE, "text": HOSTILE, "creator": "</textarea><b>"}, 404, "no creator with this id"),
]


async def test_what_cannot_be_estimated_is_told_beside_the_form(world: World):
    for fields, status, word in REFUSED:
        page = await world.owner.post("/dashboard/estimate", fields)
        assert (page.status, word in page.words) == (status, True), page.words
        kept = page.form("/dashboard/estimate").fields
        assert kept["model"] == fields["model"]
        assert kept["creator"] == fields.get("creator", "")
        assert not [found for found in page.elements if "onerror" in found[1] or found[0] == "b"]


@pytest.mark.parametrize("endpoint", sorted(READERS))
def test_the_form_makes_a_body_of_every_endpoint(endpoint: str):
    form = estimate_form({**FIELDS, "model": "m", "endpoint": endpoint, "text": "hi", "max_tokens": "5", "n": "2"})
    raw = orjson.dumps(form["request"])
    asked = read_for_estimate(raw, form["endpoint"], None)  # type: ignore[arg-type]
    assert (asked.endpoint, asked.model) == (endpoint, "m")
    assert "creator" not in form


def test_tokens_are_that_many_tokens_of_text():
    form = estimate_form({**FIELDS, "model": "m", "tokens": "250"})
    assert form["request"]["messages"] == [{"role": "user", "content": "word" * 250}]
    for value in ("0", "1.5", "²", "9" * 30):
        with pytest.raises(RequestError):
            estimate_form({**FIELDS, "model": "m", "tokens": value})
