"""`/dashboard/providers` and `/dashboard/notices`, and the admin routes behind them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from gateway.ledger import provider_figures
from gateway.ledger.anomalies import Finding, record
from gateway.ledger.periods import now_ms
from gateway.ledger.records import Entry, Route
from gateway.ledger.schema import notice_deliveries, notices, throttles
from tests.dashboard.world import Page, World, opened_dashboard
from tests.ledger.books import entry

HOSTILE = "<img src=x onerror=alert(1)>"
PROVIDERS = "/dashboard/providers"
NOTICES = "/dashboard/notices"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened_dashboard(tmp_path, has_calls=False) as opened:
        yield opened


async def post(world: World, *made: Entry) -> None:
    await world.services.database.ledger.post(list(made))


def call(number: int, model: str = "talk", provider: str = "mock", **changes: Any) -> Entry:
    return entry(f"r{number}", changes={"route": Route(model, provider, "1.abc"), **changes})


def row_of(page: Page, caption: str, name: str) -> list[str]:
    return next(row for row in page.rows(caption) if row[0] == name)


# Providers


async def test_what_there_is_not_is_refused(world: World):
    page = await world.owner.get(f"{PROVIDERS}?window=1y")
    assert (page.status, "window takes one of: 1h, 24h." in page.words) == (400, True)
    assert (await world.owner.get(f"{PROVIDERS}?x=1")).status == 400
    for query in ("window=1y", "x=1", "window=1h&window=24h"):
        answer = await world.owner.api("GET", f"/admin/providers/figures?{query}", world.admin_keys["owner"])
        assert answer.status_code == 400
    for path in (PROVIDERS, NOTICES):
        assert (await world.creator("ada").get(path)).status == 403


async def test_figures_are_of_each_provider_and_model(world: World):
    failed = '[{"provider":"other","model":"talk-other","error":"rate_limit","status":429,"elapsed_ms":3}]'
    await post(
        world,
        *(call(number, latency_ms=number, ttft_ms=number if number > 50 else None) for number in range(1, 101)),
        call(101, "grand", outcome="upstream_died", error="broken", status=502),
        call(102, "grand", outcome="client_gone", free_attempts=failed, latency_ms=9_999),
        call(103, "grand", cached=True, latency_ms=1),
        call(104, kind="refund"),
    )
    page = await world.owner.get(PROVIDERS)
    assert row_of(page, "Calls to mock", "talk") == ["talk", "100", "0", "0.0 %", "0", "50", "95", "75", "98", "–"]
    grand = row_of(page, "Calls to mock", "grand")
    assert grand[:9] == ["grand", "2", "1", "50.0 %", "0", "–", "–", "–", "–"]
    assert grand[9].endswith("upstream died: broken (502)")
    assert row_of(page, "Calls to mock", "all")[:5] == ["all", "102", "1", "1.0 %", "0"]
    other = row_of(page, "Calls to other", "talk-other")
    assert other[:5] == ["talk-other", "0", "0", "–", "1"]
    assert other[9].endswith("attempt failed: rate_limit (429)")
    assert "Out of 104 entries since" in page.words
    figures = await world.admin_api("GET", "/admin/providers/figures?window=24h")
    (mock,) = [line for line in figures["data"] if line["provider"] == "mock"]
    assert mock["outcomes"] == {"client_gone": 1, "ok": 100, "upstream_died": 1}
    assert (figures["entries"], figures["is_cut"]) == (104, False)


async def test_what_is_read_is_bounded_and_told(world: World, monkeypatch):
    monkeypatch.setattr(provider_figures, "ENTRIES_MAX", 4)
    await post(world, *(call(number) for number in range(9)))
    page = await world.owner.get(PROVIDERS)
    assert row_of(page, "Calls to mock", "all")[1] == "4"
    assert "no more than the newest 4 are read" in page.words


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100])
async def test_percentiles_are_by_nearest_rank(world: World, count: int):
    values = [(number * 7919) % 1000 for number in range(count)]
    await post(world, *(call(number, latency_ms=value) for number, value in enumerate(values)))
    (line,) = (await world.admin_api("GET", "/admin/providers/figures"))["data"]
    for percent in (50, 95):
        found = line["latency_ms"][f"p{percent}"]
        assert found in values
        assert sum(value <= found for value in values) * 100 >= percent * count
        assert sum(value < found for value in values) * 100 < percent * count


async def test_states_are_told_with_their_ends(world: World):
    catalog, deployments = world.services.catalog, world.services.deployments
    deployments.failed(catalog.models["talk"], "rate_limit", 30)
    for _ in range(world.services.settings.circuit_failures_max):
        deployments.failed(catalog.models["talk-other"], "unreachable")
    page = await world.support.get(PROVIDERS)
    cooling = row_of(page, "Deployments of mock", "echo")
    assert (cooling[2], cooling[6]) == ("cooling down", "rate limit")
    assert cooling[3] <= "2026-05-20 12:00" <= cooling[4]
    opened = row_of(page, "Deployments of other", "echo")
    assert (opened[2], opened[6]) == ("circuit open", "unreachable")
    assert row_of(page, "Deployments of mock", "picture")[2:5] == ["ok", "–", "–"]


async def test_the_page_asks_again_and_keeps_its_window(world: World):
    page = await world.owner.get(f"{PROVIDERS}?window=24h")
    (polled,) = [attributes for _, attributes in page.elements if "hx-trigger" in attributes]
    assert (polled["hx-trigger"], polled["hx-get"]) == ("every 15s, look", f"{PROVIDERS}?window=24h")
    assert page.form(PROVIDERS).fields["window"] == "24h"


async def test_a_provider_the_catalog_no_longer_has_is_shown_all_the_same(world: World):
    await post(world, call(1, HOSTILE, HOSTILE, outcome="upstream_refused", error=HOSTILE))
    page = await world.support.get(PROVIDERS)
    assert page.status == 200
    assert "not in the catalog" in page.words
    assert page.words.count(HOSTILE) >= 3
    assert not [found for found in page.elements if "onerror" in found[1]]


# Notices


async def told(world: World, number: int, kind: str = "quota.80_percent", **fields: str) -> None:
    row = {
        "id": f"ntc_01a1fec4-e5df-7000-8000-{number:012d}",
        "kind": kind,
        "once": f"{kind}:{number}",
        "creator": "ada",
        "message": f"Notice number {number} about $7.",
        "data": "{}",
        "created_at": now_ms(),
        **{name: value for name, value in fields.items() if name != "state"},
    }
    await world.services.database.write(insert(notices).values(row))
    if "state" in fields:
        delivery = {
            "notice_id": row["id"],
            "target": "webhook",
            "state": fields["state"],
            "attempts": 3,
            "next_at": now_ms() + 10**9,
            "error": "503",
        }
        await world.services.database.write(insert(notice_deliveries).values(delivery))


async def slowed(world: World, creator: str) -> None:
    row = {"creator": creator, "requests_per_minute": 6, "until_at": now_ms() + 10**7, "anomaly_id": ""}
    await world.services.database.write(insert(throttles).values(row))


async def paused(world: World, creator: str) -> str:
    (key,) = (await world.admin_api("GET", f"/admin/creators/{creator}/keys"))["data"]
    await world.admin_api("POST", f"/admin/keys/{key['id']}/pause")
    return str(key["id"])


async def test_wrong_filters_of_notices_are_told_beside_the_form(world: World):
    for query, word in (
        ("kind=gossip", "“Kind” takes one of"),
        ("metric=x", "metric takes one of"),
        ("cursor=x", "“Older”"),
    ):
        page = await world.owner.get(f"{NOTICES}?creator=ada&{query}")
        assert (page.status, word in page.words) == (400, True), query
        assert page.form(NOTICES).fields["creator"] == "ada"
    assert (await world.owner.get(f"{NOTICES}?x=1")).status == 400
    answer = await world.owner.api("GET", "/admin/paused-keys?limit=0", world.admin_keys["owner"])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


async def test_notices_are_shown_with_what_became_of_them(world: World):
    await told(world, 1, state="given_up")
    await told(world, 2, "key.paused", creator="bo", state="delivered", message="The key is paused.")
    await told(world, 3, creator="bo", message=HOSTILE)
    page = await world.finance.get(NOTICES)
    rows = page.rows("Notices, the newest first")
    assert [row[1:3] for row in rows] == [
        ["80 % of the quota", "bo"],
        ["key paused", "bo"],
        ["80 % of the quota", "ada"],
    ]
    assert [row[4] for row in rows] == [
        "goes nowhere",
        "webhook delivered 3 attempts, 503",
        "webhook given up 3 attempts, 503",
    ]
    assert rows[0][3] == HOSTILE
    assert not [found for found in page.elements if "onerror" in found[1]]
    assert len((await world.owner.get(f"{NOTICES}?kind=key.paused")).rows("Notices, the newest first")) == 1
    assert len((await world.owner.get(f"{NOTICES}?creator=bo")).rows("Notices, the newest first")) == 2
    words = (await world.support.get(NOTICES)).words
    assert "$" not in words
    assert "key paused" in words


async def test_older_notices_are_a_page_away(world: World):
    for number in range(60):
        await told(world, number)
    page = await world.owner.get(f"{NOTICES}?creator=ada")
    older = await world.owner.get(page.links["Older"])
    assert (len(page.rows("Notices, the newest first")), len(older.rows("Notices, the newest first"))) == (50, 10)
    assert "creator=ada" in page.links["Older"]
    assert "Older" not in older.links


async def test_anomalies_are_shown_with_their_figures(world: World):
    calls = Finding("ada", HOSTILE, "calls", "2026-05-20T08", 40, 4, 1, 9, 12, 30, "throttle")
    cost = Finding(
        "bo", "", "cost_nano_usd", "2026-05-20T08", 1_500_000_000, 250_000_000, 0, 260_000_000, 10**9, 24, "notify"
    )
    for finding in (calls, cost):
        await record(world.services.database, finding, now_ms())
    rows = (await world.owner.get(NOTICES)).rows("Anomalies, the newest first")
    assert rows == [
        ["2026-05-20 08:00", "bo", "–", "cost", "$1.50", "$0.25", "$1.00", "told"],
        ["2026-05-20 08:00", "ada", HOSTILE, "calls", "40", "4", "12", "slowed down"],
    ]
    rows = (await world.support.get(NOTICES)).rows("Anomalies, the newest first")
    assert rows[0][4:] == ["told"]
    assert len((await world.owner.get(f"{NOTICES}?metric=calls")).rows("Anomalies, the newest first")) == 1


@pytest.mark.parametrize("role", ["owner", "support"])
async def test_a_throttle_is_lifted_and_a_key_resumed_from_the_page(world: World, role: Any):
    await slowed(world, "ada")
    key = await paused(world, "bo")
    visitor = world.admin(role)
    page = await visitor.get(NOTICES)
    assert page.rows("Creators who are slowed down")[0][:2] == ["ada", "6"]
    assert page.rows("Paused keys")[0][0] == key
    lifted = await visitor.post(f"{NOTICES}/throttles/lift", page.form(f"{NOTICES}/throttles/lift").fields)
    assert (lifted.status, lifted.location) == (303, NOTICES)
    assert "The creator is no longer slowed down." in (await visitor.get(lifted.location)).words
    resumed = await visitor.post(f"{NOTICES}/keys/resume", page.form(f"{NOTICES}/keys/resume").fields)
    assert (resumed.status, resumed.location) == (303, NOTICES)
    page = await visitor.get(resumed.location)
    assert "The key works again." in page.words
    assert "Nobody is slowed down." in page.words
    assert "No key is paused." in page.words


async def test_finance_sees_them_and_ends_nothing(world: World):
    await slowed(world, "ada")
    key = await paused(world, "bo")
    page = await world.finance.get(NOTICES)
    assert page.rows("Creators who are slowed down")
    assert page.rows("Paused keys")
    assert not [form for form in page.forms if form.action.startswith(f"{NOTICES}/")]
    assert (await world.finance.post(f"{NOTICES}/throttles/lift", {"creator": "ada"})).status == 403
    assert (await world.finance.post(f"{NOTICES}/keys/resume", {"key_id": key})).status == 403
    assert (await world.admin_api("GET", "/admin/throttles"))["data"]
    assert (await world.admin_api("GET", "/admin/paused-keys"))["data"]


async def test_what_cannot_be_ended_is_told_on_the_page(world: World):
    for path, fields, status in (
        ("throttles/lift", {"creator": "nobody"}, 404),
        ("throttles/lift", {"creator": ""}, 404),
        ("keys/resume", {"key_id": "../admin-keys/x"}, 404),
        ("keys/resume", {"key_id": "unknown"}, 404),
        ("test", {}, 409),
    ):
        page = await world.owner.post(f"{NOTICES}/{path}", fields)
        assert page.status == status, path
        assert [attributes for _, attributes in page.elements if attributes.get("role") == "alert"]


async def test_revoked_keys_are_not_among_the_paused(world: World):
    key = await paused(world, "bo")
    assert [row["id"] for row in (await world.admin_api("GET", "/admin/paused-keys"))["data"]] == [key]
    await world.admin_api("DELETE", f"/admin/keys/{key}")
    assert await world.admin_api("GET", "/admin/paused-keys") == {"data": [], "has_more": False}
