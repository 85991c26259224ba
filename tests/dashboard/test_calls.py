"""`/dashboard/calls` and one call, as each role sees them; and pages of `/admin/ledger` that are bounded."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import pytest

from gateway.dashboard import calls
from gateway.dashboard.call_words import OUTCOMES, SOURCES
from gateway.ledger.records import Entry, Outcome, Route, UsageSource
from gateway.tasks import spawn
from gateway.usage import Usage
from tests.clocked_gateway import USD, utc
from tests.dashboard.world import Page, World, opened_dashboard
from tests.ledger.books import COST, MODEL, PRICE, entry

CAPTION = "Entries of the ledger, the newest first"
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened_dashboard(tmp_path, has_calls=False) as opened:
        await opened.services.database.record_prices({MODEL: PRICE})
        yield opened


async def post(world: World, *made: Entry) -> None:
    await world.services.database.ledger.post(list(made))


def ids(page: Page) -> list[str]:
    """Of the calls in the list, by their links."""
    return [href.removeprefix("/dashboard/calls/") for href in page.hrefs if href.startswith("/dashboard/calls/")]


# What is refused


async def test_an_unknown_request_id_is_a_page_that_says_so(world: World):
    page = await world.owner.get("/dashboard/calls/req_unknown")
    assert page.status == 404
    assert "The ledger has no entry for this request id." in page.words


WRONG = {
    ("from", "yesterday"): "“From” takes a day",
    ("to", "2026-02-30"): "“Before” takes a day",
    ("outcome", "fine"): "“Outcome” takes one of",
    ("cached", "maybe"): "cached takes one of",
    ("cursor", "nonsense"): "“Older” takes the next_cursor",
    ("feature", "x" * 300): "“Feature” takes at most 256 characters",
}


async def test_a_wrong_filter_is_told_beside_the_form_which_keeps_what_was_typed(world: World):
    for (name, value), word in WRONG.items():
        page = await world.owner.get(f"/dashboard/calls?creator=ada&agent=robot&{name}={value}")
        assert (page.status, word in page.words) == (400, True), name
        fields = page.form("/dashboard/calls").fields
        assert (fields["creator"], fields["agent"]) == ("ada", "robot")
        if name in ("from", "to", "feature"):
            assert fields[name] == value


async def test_a_filter_there_is_not_is_refused_and_not_ignored(world: World):
    page = await world.owner.get("/dashboard/calls?creater=ada")
    assert page.status == 400
    assert "This page has no filter creater" in page.words


async def test_creators_do_not_get_here(world: World):
    for path in ("/dashboard/calls", "/dashboard/calls/req_1"):
        assert (await world.creator("ada").get(path)).status == 403


# The list


async def test_every_filter_shows_what_the_api_finds_by_it(world: World):
    other = Route("gpt-cheap", "mock", PRICE.version)
    made = [
        entry("r1", creator="ada", feature="search"),
        entry("r2", creator="bo", agent="robot", changes={"outcome": "client_gone"}),
        entry("r3", creator="ada", endpoint="embeddings", changes={"route": other}),
        entry("r4", creator="bo", changes={"cached": True, "cost_nano_usd": 0}),
        entry("r5", creator="bo", changes={"kind": "adjustment"}),
    ]
    await post(world, *made)
    for query, found in {
        "": ["r5", "r4", "r3", "r2", "r1"],
        "creator=ada": ["r3", "r1"],
        "feature=search": ["r1"],
        "agent=robot": ["r2"],
        "model=gpt-cheap": ["r3"],
        "provider=mock": ["r3"],
        "endpoint=embeddings": ["r3"],
        "outcome=client_gone": ["r2"],
        "kind=adjustment": ["r5"],
        "cached=true": ["r4"],
        "cached=false&creator=bo": ["r5", "r2"],
        "request_id=r2": ["r2"],
        "from=2020-01-01&to=2020-01-02": [],
        "feature=": ["r5", "r4", "r3", "r2", "r1"],
    }.items():
        page = await world.owner.get(f"/dashboard/calls?{query}")
        assert (page.status, ids(page)) == (200, found), query
        asked = await world.admin_api("GET", f"/admin/ledger?{query.removesuffix('feature=')}")
        assert [row["request_id"] for row in asked["data"]] == found
    assert "Nothing in the ledger fits." in (await world.owner.get("/dashboard/calls?agent=nobody")).words


async def test_a_row_shows_the_money_and_has_it_exactly(world: World):
    await post(world, entry("r1", creator="ada"))
    page = await world.finance.get("/dashboard/calls")
    (row,) = page.rows(CAPTION)
    assert COST == 497_500
    assert row[2:] == [
        "ada",
        "chat-ui",
        "–",
        MODEL,
        "openai",
        "ok",
        "$0.00050",
        "$0.00050",
        "quota",
        "120",
        "37",
        "850",
    ]
    assert page.tables[CAPTION].values[1][8:10] == [str(COST), str(COST)]


async def test_pages_follow_each_other_without_gap_or_double(world: World):
    await post(world, *(entry(f"r{number:03d}", creator="ada") for number in range(120)))
    path, seen = "/dashboard/calls?creator=ada", []
    while path:
        page = await world.owner.get(path)
        seen += ids(page)
        path = page.links.get("Older", "")
        assert "creator=ada" in path or not path
    assert seen == [f"r{number:03d}" for number in reversed(range(120))]


async def test_exports_have_the_filters_of_the_view(world: World):
    await post(world, entry("r1", creator="ada"), entry("r2", creator="bo"))
    page = await world.finance.get("/dashboard/calls?creator=ada")
    exported = await world.finance.http.get(page.links["Export CSV"])
    assert [row["request_id"] for row in csv.DictReader(io.StringIO(exported.text))] == ["r1"]
    lines = (await world.finance.http.get(page.links["Export NDJSON"])).text.splitlines()
    assert len(lines) == 1
    assert '"request_id":"r1"' in lines[0]


async def test_a_search_that_was_bounded_says_how_far_it_came(world: World, monkeypatch):
    monkeypatch.setattr(calls, "_SCAN_ROWS", 3)
    await post(world, entry("old", feature="rare"), *(entry(f"r{number}") for number in range(4)))
    page = await world.owner.get("/dashboard/calls?feature=rare")
    assert ids(page) == []
    assert "3 entries were looked at" in page.words
    assert "Nothing in the ledger fits" not in page.words
    older = await world.owner.get(page.links["Older"])
    assert ids(older) == ["old"]
    assert "entries were looked at" not in older.words


async def test_bounded_pages_together_are_the_whole_list(world: World):
    cheap = Route("gpt-cheap", "mock", PRICE.version)
    await post(
        world,
        *(
            entry(
                f"r{number:02d}",
                creator="ada" if number % 2 else "bo",
                feature="rare" if number % 5 == 0 else "often",
                changes={"route": cheap} if number % 7 == 0 else None,
            )
            for number in range(30)
        ),
    )
    for query in ("feature=rare", "model=gpt-cheap", "creator=ada&feature=rare", "from=2026-01-01&feature=rare"):
        whole = [row["request_id"] for row in (await world.admin_api("GET", f"/admin/ledger?{query}"))["data"]]
        assert whole
        for scan_max in (4, 1_000_000):
            assert await walked(world, f"{query}&limit=2&scan_max={scan_max}") == whole, (query, scan_max)


async def walked(world: World, query: str) -> list[str]:
    """The request ids of all pages. Each is full, the last one, or says how far it looked."""
    seen: list[str] = []
    cursor = ""
    for _ in range(40):
        page = await world.admin_api("GET", f"/admin/ledger?{query}{cursor}")
        seen += [row["request_id"] for row in page["data"]]
        if page["next_cursor"] is None:
            return seen
        assert len(page["data"]) == 2 or page["searched_to"] is not None
        cursor = f"&cursor={page['next_cursor']}"
    raise AssertionError("the pages do not end")


async def test_a_wrong_bound_is_refused(world: World):
    for value in ("0", "-1", "1000001", "x", ""):
        answer = await world.owner.api("GET", f"/admin/ledger?scan_max={value}", world.admin_keys["owner"])
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "scan_max")
    export = await world.owner.api("GET", "/admin/ledger?scan_max=5&format=csv", world.admin_keys["owner"])
    assert export.status_code == 400


# One call


async def test_a_call_shows_its_bill_to_the_nano_dollar(world: World):
    await post(world, entry("r1", creator="ada"))
    page = await world.finance.get("/dashboard/calls/r1")
    assert page.rows("Cost of attempt 1 by price row 1.abc") == [
        ["uncached input tokens", "100", "$1.25 per million", "$0.000125"],
        ["cached input tokens", "20", "$0.125 per million", "$0.0000025"],
        ["text output tokens", "30", "$10.00 per million", "$0.0003"],
        ["reasoning tokens", "7", "$10.00 per million", "$0.00007"],
        ["Sum, exact", "$0.0004975"],
        ["Sum, rounded up to a nano-dollar", "$0.0004975"],
        ["Booked cost", "$0.0004975"],
    ]
    assert "The sum is what is booked, to the nano-dollar." in page.words


async def test_a_bill_that_is_not_what_is_booked_is_not_called_so(world: World):
    await post(world, entry("r1", creator="ada", changes={"outcome": "crashed", "cost_nano_usd": 400_000}))
    page = await world.finance.get("/dashboard/calls/r1")
    assert "What is booked differs from the sum by -$0.0000975." in page.words
    assert "at no more than its hold" in page.words
    assert "The sum is what is booked" not in page.words


async def test_calls_that_were_made_show_bills_that_agree(world: World):
    for model in ("talk", "painter", "one-token"):
        await world.call("ada", model)
    for answer, caption, last in zip(
        world.calls, ("talk", "painter", "one-token"), (41_000, USD // 4, 19), strict=True
    ):
        page = await world.owner.get(f"/dashboard/calls/{answer.request_id}")
        (shown,) = (await world.admin_api("GET", f"/admin/ledger/{answer.request_id}"))["data"]
        assert shown["cost_nano_usd"] == last, caption
        assert "The sum is what is booked, to the nano-dollar." in page.words
        assert [row[0] for row in page.rows("Timeline of attempt 1")] == ["Admitted", "First byte", "End", "Booked"]


async def test_every_attempt_correction_and_flag_is_explained(world: World):
    failed = '[{"provider":"azure","model":"gpt-x","error":"rate_limit","status":429,"elapsed_ms":12}]'
    changes: dict[str, Any] = {
        "free_attempts": failed,
        "flags": "over_hold,usage_refused",
        "upstream_request_id": "chatcmpl-77",
        "usage_source": "estimated",
        "error": "stall",
    }
    await post(world, entry("r1", creator="ada", changes=changes))
    page = await world.owner.get("/dashboard/calls/r1")
    assert page.rows("Attempts before it that cost nothing") == [["azure", "gpt-x", "rate_limit", "429", "12"]]
    for words in (
        "The call cost more than was held for it",
        "usage was counted by the written rule",
        "estimated by the written rule",
        "chatcmpl-77",
        "Error: stall",
    ):
        assert words in page.words


async def test_a_downgrade_is_told_with_the_limit_as_it_stood(world: World):
    await world.new_creator("eve", budget_usd_per_month="0.001")
    answer = await world.call("eve", "grand", max_tokens=50)
    page = await world.owner.get(f"/dashboard/calls/{answer.request_id}")
    (step,) = page.rows("Downgrades")
    assert step[:3] == ["grand", "talk", "Budget of the month"]
    assert step[5] == "$0.001"
    assert "$0.001, reached: not asked any more" in page.words
    assert "grand served by talk" in page.words
    assert "no limit asked for a cheaper one" not in page.words


async def test_a_call_in_flight_is_shown_and_looked_at_again(world: World):
    calling = spawn(world.call("ada", "waits"), "a call that waits")
    await world.gateway.has_in_flight(1)
    (call,) = world.services.calls
    page = await world.owner.get(f"/dashboard/calls/{call.request_id}")
    assert "In flight open" in page.words
    assert "Held" in page.words
    assert [attributes["hx-trigger"] for _, attributes in page.elements if "hx-trigger" in attributes] == [
        "every 2s, look"
    ]
    async with asyncio.timeout(10):
        await calling
    page = await world.owner.get(f"/dashboard/calls/{call.request_id}")
    assert "In flight" not in page.words
    assert not [attributes for _, attributes in page.elements if "hx-trigger" in attributes]


@pytest.mark.parametrize("path", ["/dashboard/calls", "/dashboard/calls/r1"])
async def test_support_sees_calls_and_no_money(world: World, path: str):
    await post(world, entry("r1", creator="ada", changes={"flags": "over_hold"}))
    page = await world.support.get(path)
    assert page.status == 200
    assert "ada" in page.words
    assert "openai" in page.words
    for money in ("$", "quota", "Cost", "Charge", "Payer", "Export", "Refund"):
        assert money not in page.words, money
    assert not [href for href in page.hrefs if "/export/" in href]


async def test_hostile_words_are_only_words(world: World):
    hostile: dict[str, Any] = {"error": HOSTILE, "upstream_request_id": HOSTILE, "flags": HOSTILE}
    made = entry(
        "r1",
        creator="ada",
        feature=HOSTILE,
        agent="\u202e" + HOSTILE,
        tags=HOSTILE,
        requested_model=HOSTILE * 50,
        client_request_id=HOSTILE,
        metadata='{"<script>x</script>":"<script>y</script>"}',
        changes={**hostile, "free_attempts": '[{"provider":"<script>z</script>","error":"<b>"}]'},
    )
    await post(world, made)
    for path in ("/dashboard/calls", "/dashboard/calls/r1", f"/dashboard/calls?feature={HOSTILE}&creator=ada"):
        page = await world.owner.get(path)
        assert page.status == 200
        assert HOSTILE in page.words
        tags = [
            (tag, attributes) for tag, attributes in page.elements if tag in ("img", "b") or "onerror" in attributes
        ]
        assert not [found for found in tags if found[1].get("src") == "x" or found[0] == "b"]
        assert "<script>x" not in page.text
        assert "<script>z" not in page.text
    assert page.form("/dashboard/calls").fields["feature"] == HOSTILE


# What was booked without a call


@pytest.mark.parametrize(
    ("path", "form", "title", "facts"),
    [
        (
            "/admin/creators/ada/credits",
            {"credits": 5, "note": HOSTILE},
            "Grant of 5 credits",
            ("Granted 5 credits", f"Note {HOSTILE}", "Payer credits"),
        ),
        ("/admin/creators/ada/credits", {"package": "small"}, "Grant of 100 credits", ("Package small",)),
        (
            "/admin/creators/ada/adjustments",
            {"payer": "quota", "amount_usd": "-0.05"},
            "Adjustment of -$0.05",
            ("Amount -$0.05", "Charge -$0.05"),
        ),
        (
            "{call}/refunds",
            {"note": "sorry"},
            "Refund of $0.000041",
            ("Given back $0.000041", "Model of the call talk"),
        ),
    ],
    ids=["grant", "package", "adjustment", "refund"],
)
async def test_what_is_booked_without_a_call_is_not_shown_as_one(world: World, path, form, title, facts):
    await world.call("ada")
    booked = await world.admin_api("POST", path.format(call=f"/admin/ledger/{world.calls[0].request_id}"), json=form)
    link = f"/dashboard/calls/{booked['request_id']}"
    page = await world.finance.get(link)
    assert (page.status, page.heading) == (200, title)
    for words in (*facts, "Creator ada", "What was booked"):
        assert words in page.words
    support = await world.support.get(link)
    assert (support.status, support.heading) == (200, title.partition(" ")[0])
    assert "$" not in support.words
    assert HOSTILE not in support.words
    for words in ("Attempt", "Timeline", "Why it was admitted", "It ended well", "tokens in"):
        assert words not in page.words + support.words, words
    assert not [form for form in page.forms if "refunds" in form.action]


async def test_what_a_kept_answer_used_is_said_in_a_sentence(world: World):
    await post(world, entry("r1", creator="ada", changes={"cached": True, "usage_source": "none"}))
    page = await world.owner.get("/dashboard/calls/r1")
    assert "Nothing was used of a provider: 120 tokens in, 37 out." in page.words
    assert "Usage nothing" not in page.words


# Refunds


async def test_an_owner_refunds_once_however_often_the_form_is_sent(world: World):
    await world.call("ada", "painter")
    path = f"/dashboard/calls/{world.calls[0].request_id}"
    form = (await world.owner.get(path)).form(f"{path}/refunds")
    fields = {**form.fields, "amount_usd": "0.1", "note": "a broken image"}
    for _ in range(2):
        sent = await world.owner.post(f"{path}/refunds", fields)
        assert sent.status == 303
    page = await world.owner.get(sent.location)
    assert "The refund is booked." in page.words
    ((_, kind, _, _, charge, units),) = page.rows("What corrected attempt 1 since")
    assert (kind, charge, units) == ("refund", "-$0.10", "-100000000")


async def test_what_the_api_refuses_is_told_beside_the_form_which_stays_as_it_was(world: World):
    await world.call("ada", "painter")
    path = f"/dashboard/calls/{world.calls[0].request_id}"
    for amount, word, status in (("1", "can still be given back", 409), ("much", "“US dollars”", 400)):
        fields = {"amount_usd": amount, "note": "why", "idempotency_key": "page-1"}
        page = await world.owner.post(f"{path}/refunds", fields)
        assert (page.status, word in page.words) == (status, True)
        assert page.form(f"{path}/refunds").fields == {
            "amount_usd": amount,
            "credits": "",
            "note": "why",
            "idempotency_key": page.form(f"{path}/refunds").fields["idempotency_key"],
        }
        assert "The refund is booked." not in page.words
    page = await world.owner.post(f"{path}/refunds", {"attempt": "one"})
    assert (page.status, "“Attempt” takes the number of an attempt." in page.words) == (400, True)
    assert (await world.owner.post("/dashboard/calls/req_unknown/refunds", {})).status == 404
    assert (await world.owner.post(f"{path}/refunds", {"unknown": "1"})).status == 422


@pytest.mark.parametrize("role", ["finance", "support"])
async def test_nobody_else_refunds(world: World, role: Any):
    await world.call("ada", "painter")
    path = f"/dashboard/calls/{world.calls[0].request_id}"
    page = await world.admin(role).get(path)
    assert not [form for form in page.forms if "refunds" in form.action]
    assert (await world.admin(role).post(f"{path}/refunds", {"amount_usd": "0.1"})).status == 403
    shown = await world.admin_api("GET", path.replace("/dashboard/calls", "/admin/ledger"))
    assert shown["data"][0]["corrections"] == []


# Words


def test_every_outcome_and_source_of_the_ledger_has_its_sentence():
    assert OUTCOMES.keys() == set(get_args(Outcome))
    assert SOURCES.keys() == set(get_args(UsageSource))


async def test_a_call_without_anything_used_has_an_empty_bill(world: World):
    nothing = {
        "usage": Usage(),
        "cost_nano_usd": 0,
        "charge_nano_usd": 0,
        "payer_amount": 0,
        "outcome": "upstream_refused",
    }
    await post(world, entry("r1", creator="ada", at=utc(2026, 5, 20), changes=nothing))
    page = await world.owner.get("/dashboard/calls/r1")
    assert page.rows("Cost of attempt 1 by price row 1.abc")[0] == ["nothing", "0", "–", "$0.00"]
    assert "The provider answered with an error." in page.words
