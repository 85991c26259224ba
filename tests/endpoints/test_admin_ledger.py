"""`/admin/ledger`, `/admin/costs` and `/admin/charges` over a real database, and the commands that read the same file."""

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from gateway.config import Settings
from gateway.endpoints import EXCEPTION_HANDLERS
from gateway.endpoints.admin import charges, costs, ledger
from gateway.ledger.database import Database
from gateway.ledger.entry_json import ENTRY_FIELDS, csv_header, csv_line
from gateway.ledger.periods import rfc3339
from gateway.ledger.records import Route
from gateway.pricing import usd
from gateway.tasks import spawn
from gateway.usage import Usage
from tests.ledger.books import COST, MODEL, NOON, PRICE, USAGE, call, entry, rows

MAY = "2026-05"


class Admin:
    """The admin API without its door, over a database of its own."""

    def __init__(self, database: Database, http: httpx.AsyncClient) -> None:
        self.database = database
        self._http = http

    async def ask(self, path: str, *, method: str = "GET", **query: Any) -> httpx.Response:
        return await self._http.request(method, path, params=query or None)

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.ask(path, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def entries(self, **query: Any) -> list[dict[str, Any]]:
        return list((await self.get("/admin/ledger", **query))["data"])

    async def csv(self, path: str = "/admin/ledger", **query: Any) -> list[dict[str, str]]:
        answer = await self.ask(path, format="csv", **query)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/csv")
        return list(csv.DictReader(io.StringIO(answer.text, newline="")))


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    database = await Database.open(tmp_path / "gateway.db", settings=Settings(settle_timeout_s=5))
    await database.record_prices({MODEL: PRICE})
    app = Starlette(routes=[*ledger.routes, *costs.routes, *charges.routes], exception_handlers=EXCEPTION_HANDLERS)
    app.state.database = database
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
        yield Admin(database, http)
    await database.close()


# One entry


async def test_an_entry_shows_openais_totals_exact_money_and_utc_instants(admin: Admin) -> None:
    usage = Usage(100, 20, 3, 4, 5, 30, 7, 2, 1, 6)
    await admin.database.ledger.post(
        [
            entry(
                "r1",
                tags="a,b",
                metadata='{"order":"7"}',
                at=NOON.astimezone(),
                changes={"usage": usage, "flags": "over_hold", "ttft_ms": 90, "free_attempts": '[{"model":"x"}]'},
            )
        ]
    )
    (shown,) = await admin.entries()
    assert shown.keys() == set(ENTRY_FIELDS)
    assert shown["input_tokens"] == 132
    assert shown["cached_input_tokens"] == 20
    assert shown["cache_write_tokens"] == 3
    assert shown["output_tokens"] == 40
    assert shown["reasoning_tokens"] == 7
    assert shown["images"] == 6
    assert shown["cost_nano_usd"] == COST
    assert shown["cost_usd"] == usd(COST) == f"{COST / 10**9:.9f}".rstrip("0")
    assert shown["tags"] == ["a", "b"]
    assert shown["metadata"] == {"order": "7"}
    assert shown["flags"] == ["over_hold"]
    assert shown["free_attempts"] == [{"model": "x"}]
    assert shown["ttft_ms"] == 90
    assert (shown["final"], shown["cached"], shown["is_streaming"]) == (True, False, False)
    assert shown["admitted_at"] == "2026-05-14T12:00:00.000Z"
    assert shown["created_at"].endswith("Z")
    assert datetime.now(UTC) - datetime.fromisoformat(shown["created_at"]) < timedelta(minutes=5)


async def test_every_attempt_of_a_call_is_shown_in_order(admin: Admin) -> None:
    first = entry("r1", changes={"final": False, "outcome": "upstream_died"})
    await admin.database.ledger.post([first, entry("r1", changes={"attempt": 2}), entry("r2")])
    shown = (await admin.get("/admin/ledger/r1"))["data"]
    assert [(row["attempt"], row["final"], row["outcome"]) for row in shown] == [
        (1, False, "upstream_died"),
        (2, True, "ok"),
    ]
    missing = await admin.ask("/admin/ledger/r3")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "not_found"


# Filters


@pytest.fixture
async def five(admin: Admin) -> Admin:
    other = {"route": Route("gpt-cheap", "azure", "1.abc"), "cached": True, "outcome": "client_gone"}
    await admin.database.ledger.post(
        [
            entry("r1"),
            entry("r2", creator="zeta", feature="search", agent="scout"),
            entry("r3", endpoint="embeddings", changes=other),
            entry("r4", requested_model="gpt-dear", at=NOON + timedelta(days=31)),
            entry("r5", changes={"kind": "refund", "charge_nano_usd": -COST, "payer_amount": -COST}),
        ]
    )
    return admin


FILTERS: list[tuple[dict[str, str], set[str]]] = [
    ({}, {"r1", "r2", "r3", "r4", "r5"}),
    ({"creator": "zeta"}, {"r2"}),
    ({"creator": "ZETA"}, set()),
    ({"feature": "search"}, {"r2"}),
    ({"feature": "chat-ui", "agent": ""}, {"r1", "r3", "r4", "r5"}),
    ({"agent": "scout"}, {"r2"}),
    ({"model": "gpt-cheap"}, {"r3"}),
    ({"model": "gpt-dear"}, {"r4"}),
    ({"model": MODEL}, {"r1", "r2", "r3", "r4", "r5"}),
    ({"provider": "azure"}, {"r3"}),
    ({"endpoint": "embeddings"}, {"r3"}),
    ({"kind": "refund"}, {"r5"}),
    ({"outcome": "client_gone"}, {"r3"}),
    ({"cached": "true"}, {"r3"}),
    ({"cached": "false", "kind": "usage"}, {"r1", "r2", "r4"}),
    ({"request_id": "r4"}, {"r4"}),
    ({"from": "2020-01-01", "to": "2020-02-01"}, set()),
    ({"from": "2020-01-01", "creator": "zeta"}, {"r2"}),
    ({"to": "1960-01-01"}, set()),
    ({"from": "9999-12-31"}, set()),
]


@pytest.mark.parametrize(("query", "expected"), FILTERS, ids=[str(query) for query, _ in FILTERS])
async def test_a_filter_means_the_same_in_every_format(five: Admin, query: dict[str, str], expected: set[str]) -> None:
    shown = await five.entries(**query)
    assert {row["request_id"] for row in shown} == expected
    assert [row["request_id"] for row in await five.csv(**query)] == [row["request_id"] for row in shown]
    ndjson = await five.ask("/admin/ledger", format="ndjson", **query)
    assert ndjson.headers["content-type"] == "application/x-ndjson"
    assert [orjson.loads(line) for line in ndjson.text.splitlines()] == shown


async def test_from_is_inclusive_and_to_is_not(five: Admin) -> None:
    created = (await five.entries(limit=1))[0]["created_at"]
    at = datetime.fromisoformat(created)
    after = rfc3339(int(at.timestamp() * 1000) + 1)
    newest = {row["request_id"] for row in await five.entries() if row["created_at"] == created}
    assert {row["request_id"] for row in await five.entries(**{"from": created})} == newest
    assert newest.isdisjoint({row["request_id"] for row in await five.entries(to=created)})
    assert newest <= {row["request_id"] for row in await five.entries(to=after)}
    in_tokyo = at.astimezone().isoformat()
    assert {row["request_id"] for row in await five.entries(**{"from": in_tokyo})} == newest


WRONG = [
    ("/admin/ledger", "limit", "0"),
    ("/admin/ledger", "limit", "1001"),
    ("/admin/ledger", "limit", "-1"),
    ("/admin/ledger", "limit", "1e2"),
    ("/admin/ledger", "limit", "²"),
    ("/admin/ledger", "cursor", "nonsense"),
    ("/admin/ledger", "cursor", ""),
    ("/admin/ledger", "cursor", "ZTE6JyBPUiAxPTE"),
    ("/admin/ledger", "cursor", "\u00e9\u00e9"),
    ("/admin/ledger", "from", "yesterday"),
    ("/admin/ledger", "from", "2026-02-30"),
    ("/admin/ledger", "from", "20260501"),
    ("/admin/ledger", "to", "2026-05-01T00:00:00"),
    ("/admin/ledger", "cached", "maybe"),
    ("/admin/ledger", "kind", "gift"),
    ("/admin/ledger", "outcome", "fine"),
    ("/admin/ledger", "format", "xml"),
    ("/admin/ledger", "creator", "x" * 300),
    ("/admin/costs", "group_by", ""),
    ("/admin/costs", "group_by", "request_id"),
    ("/admin/costs", "group_by", "creator,creator"),
    ("/admin/costs", "group_by", "creator;drop"),
    ("/admin/charges", "month", "2026-13"),
    ("/admin/charges", "month", ""),
    ("/admin/charges", "month", "9999-12"),
]


@pytest.mark.parametrize(("path", "name", "value"), WRONG, ids=[f"{name}={value[:12]}" for _, name, value in WRONG])
async def test_a_wrong_value_is_refused_in_openais_shape(admin: Admin, path: str, name: str, value: str) -> None:
    answer = await admin.ask(path, **{name: value})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error.keys() >= {"message", "type", "param", "code"}
    assert error["param"] == name
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/admin/ledger", "/admin/costs?group_by=creator", "/admin/charges?month=2026-05"])
async def test_an_unknown_parameter_is_refused_and_not_ignored(admin: Admin, path: str) -> None:
    joined = f"{path}{'&' if '?' in path else '?'}"
    for query in ("creater=x", "creator=a&creator=b" if "charges" not in path else "month=2026-05&x=1"):
        answer = await admin.ask(f"{joined}{query}")
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] in {"unknown_parameter", "invalid_value"}


async def test_an_export_takes_no_page(five: Admin) -> None:
    for query in ({"limit": "2"}, {"cursor": "x"}):
        assert (await five.ask("/admin/ledger", format="csv", **query)).status_code == 400


# Pages


async def test_pages_have_no_gap_and_no_double_while_entries_are_posted(admin: Admin) -> None:
    for n in range(60):
        await call(admin.database, f"r{n:02d}")
    before = [row["request_id"] for row in await admin.entries(limit=1000)]
    assert before == [f"r{n:02d}" for n in reversed(range(60))]

    async def post_on() -> None:
        for n in range(200):
            await call(admin.database, f"later{n}")

    posting = spawn(post_on(), "posting")
    seen: list[str] = []
    page = await admin.get("/admin/ledger", limit=7)
    first = [row["request_id"] for row in page["data"]]
    while True:
        seen += [row["request_id"] for row in page["data"]]
        if page["next_cursor"] is None:
            break
        page = await admin.get("/admin/ledger", limit=7, cursor=page["next_cursor"])
    await posting
    assert len(seen) == len(set(seen))
    assert seen[-60:] == before
    assert seen[:7] == first
    assert not [request_id for request_id in seen[:-60] if not request_id.startswith("later")]


@pytest.mark.parametrize("count", [0, 1, 6, 7])
async def test_the_last_page_says_so(admin: Admin, count: int) -> None:
    await admin.database.ledger.post([entry(f"r{n}") for n in range(count)])
    page = await admin.get("/admin/ledger", limit=3)
    pages = 1
    while page["next_cursor"] is not None:
        page = await admin.get("/admin/ledger", limit=3, cursor=page["next_cursor"])
        pages += 1
    assert pages == max(1, -(-count // 3))
    assert len(page["data"]) == (count - 3 * (pages - 1))


async def test_an_export_holds_more_than_a_page(admin: Admin) -> None:
    await admin.database.ledger.post([entry(f"r{n:04d}") for n in range(2_345)])
    exported = [row["request_id"] for row in await admin.csv()]
    assert exported == [f"r{n:04d}" for n in reversed(range(2_345))]


# Spreadsheets

HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", '="x"', 'say "hi", twice', "two\r\nlines", "é,ü", "'quoted"]


async def test_hostile_cells_stay_text_and_numbers_stay_numbers(admin: Admin) -> None:
    made = [
        entry(
            f"r{n}", feature=text, metadata=orjson.dumps({"note": text}).decode(), changes={"kind": "refund"}
        )._replace(charge_nano_usd=-COST, cost_nano_usd=-COST)
        for n, text in enumerate(HOSTILE)
    ]
    await admin.database.ledger.post(made)
    found = list(reversed(await admin.csv()))
    assert tuple(found[0]) == ENTRY_FIELDS
    for row, text in zip(found, HOSTILE, strict=True):
        assert row["feature"] == ("'" + text if text[0] in "=+-@\t\r" else text)
        assert orjson.loads(row["metadata"]) == {"note": text}
        assert int(row["cost_nano_usd"]) == -COST
        assert row["charge_usd"] == usd(-COST)
        assert row["charge_usd"].startswith("-")
        assert row["final"] == "true"
        assert row["ttft_ms"] == ""


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=5), st.integers())
def test_any_text_and_number_survive_a_line_of_csv(texts: list[str], number: int) -> None:
    row = {**{f"t{n}": text for n, text in enumerate(texts)}, "n": number, "cost_usd": usd(number)}
    ((*cells, last, money),) = csv.reader(io.StringIO(csv_line(row), newline=""))
    assert [
        cell.removeprefix("'") if text[:1] in tuple("=+-@\t\r\n") else cell
        for cell, text in zip(cells, texts, strict=True)
    ] == texts
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]
    assert (int(last), money) == (number, usd(number))


def test_a_header_names_each_column_once() -> None:
    names = csv_header(ENTRY_FIELDS).removesuffix("\r\n").split(",")
    assert len(names) == len(set(names)) == len(ENTRY_FIELDS)


# Costs


async def test_costs_are_summed_by_any_rollup_key(five: Admin) -> None:
    async def grouped(by: str, **query: str) -> dict[tuple[Any, ...], tuple[int, int]]:
        found = await five.get("/admin/costs", group_by=by, **query)
        return {
            tuple(row[name] for name in by.split(",")): (row["calls"], row["cost_nano_usd"]) for row in found["data"]
        }

    assert await grouped("creator") == {("acme",): (3, 4 * COST), ("zeta",): (1, COST)}
    assert await grouped("month") == {("2026-05",): (3, 4 * COST), ("2026-06",): (1, COST)}
    assert await grouped("day,kind", creator="acme") == {
        ("2026-05-14", "refund"): (0, COST),  # no call: what corrects one
        ("2026-05-14", "usage"): (2, 2 * COST),
        ("2026-06-14", "usage"): (1, COST),
    }
    assert await grouped("model,cached") == {("gpt-cheap", True): (1, COST), (MODEL, False): (3, 4 * COST)}
    assert await grouped("outcome", month="2026-05", cached="true") == {("client_gone",): (1, COST)}
    assert await grouped("creator", **{"from": "2026-05-15", "to": "2026-06-14"}) == {}
    assert await grouped("creator", **{"from": "2026-06-14", "to": "2026-06-15"}) == {("acme",): (1, COST)}
    assert await grouped("creator", model="gpt-dear") == {("acme",): (1, COST)}


async def test_a_cost_row_shows_totals_and_money_exactly(five: Admin) -> None:
    found = await five.get("/admin/costs", group_by="creator,payer", creator="acme", feature="chat-ui")
    (row,) = found["data"]
    assert row == {
        "creator": "acme",
        "payer": "quota",
        "calls": 3,
        "attempts": 4,
        "errors": 0,
        "input_tokens": 4 * USAGE.input_tokens,
        "cached_input_tokens": 4 * USAGE.cached_input,
        "cache_write_tokens": 0,
        "audio_input_tokens": 0,
        "image_input_tokens": 0,
        "output_tokens": 4 * USAGE.output_tokens,
        "reasoning_tokens": 4 * USAGE.reasoning,
        "audio_output_tokens": 0,
        "image_output_tokens": 0,
        "images": 0,
        "audio_seconds": 0,
        "characters": 0,
        "cost_nano_usd": 4 * COST,
        "cost_usd": usd(4 * COST),
        "charge_nano_usd": 2 * COST,
        "charge_usd": usd(2 * COST),
        "saved_nano_usd": 0,
        "saved_usd": "0",
        "payer_amount": 2 * COST,
    }
    assert found["totals"]["cost_nano_usd"] == 4 * COST
    exported = await five.csv("/admin/costs", group_by="creator,payer", creator="acme")
    assert [(line["creator"], line["charge_usd"], line["calls"]) for line in exported] == [("acme", usd(2 * COST), "3")]


async def test_what_kept_answers_saved_is_shown_beside_what_the_rest_cost(admin: Admin) -> None:
    hit = {"cached": True, "cost_nano_usd": 0, "charge_nano_usd": 0, "payer_amount": 0}
    await admin.database.ledger.post(
        [
            entry("r1"),
            entry("h1", changes={**hit, "saved_nano_usd": 2 * COST}),
            entry("h2", creator="zeta", changes={**hit, "saved_nano_usd": 1}),
        ]
    )
    found = await admin.get("/admin/costs", group_by="creator,cached")
    assert {
        (row["creator"], row["cached"]): (row["cost_nano_usd"], row["saved_nano_usd"]) for row in found["data"]
    } == {
        ("acme", False): (COST, 0),
        ("acme", True): (0, 2 * COST),
        ("zeta", True): (0, 1),
    }
    assert (found["totals"]["saved_nano_usd"], found["totals"]["saved_usd"]) == (2 * COST + 1, usd(2 * COST + 1))
    exported = await admin.csv("/admin/costs", group_by="creator")
    assert [(line["creator"], line["saved_usd"]) for line in exported] == [("acme", usd(2 * COST)), ("zeta", usd(1))]
    shown = {row["request_id"]: row["saved_nano_usd"] for row in await admin.entries()}
    assert shown == {"r1": 0, "h1": 2 * COST, "h2": 1}


async def test_no_usage_makes_empty_sums_in_every_format(admin: Admin) -> None:
    found = await admin.get("/admin/costs", group_by="creator")
    assert found["data"] == []
    assert found["totals"]["cost_nano_usd"] == found["totals"]["calls"] == 0
    assert found["totals"]["cost_usd"] == found["totals"]["saved_usd"] == "0"
    assert await admin.csv("/admin/costs", group_by="creator") == []
    assert await admin.csv() == []
    assert (await admin.ask("/admin/ledger", format="ndjson")).text == ""
    assert (await admin.get("/admin/charges", month=MAY))["data"] == []


@pytest.mark.parametrize("text", ["' OR '1'='1", "x'; DROP TABLE entries; --", "%", "_", '"', "\\"])
async def test_filters_are_values_and_never_sql(five: Admin, text: str) -> None:
    for name in ("creator", "feature", "agent", "model", "provider", "endpoint", "request_id"):
        assert await five.entries(**{name: text}) == []
    for name in ("creator", "feature", "model", "account_id", "payer", "month"):
        assert (await five.get("/admin/costs", group_by="creator", **{name: text}))["data"] == []
    assert len(await five.entries()) == 5


# Charges


async def test_a_month_is_summed_until_it_is_closed_and_stands_from_then_on(five: Admin) -> None:
    open_month = await five.get("/admin/charges", month=MAY)
    assert open_month["closed"] is False
    assert [(row["creator"], row["charge_nano_usd"], row["calls"], row["closed"]) for row in open_month["data"]] == [
        ("acme", COST, 2, False),
        ("zeta", COST, 1, False),
    ]
    closing = await five.ask(f"/admin/charges/{MAY}/close", method="POST")
    assert closing.json() == {"month": MAY, "creators": 2, "closed_now": True}
    again = await five.ask(f"/admin/charges/{MAY}/close", method="POST")
    assert again.json() == {"month": MAY, "creators": 2, "closed_now": False}
    closed = await five.get("/admin/charges", month=MAY)
    assert closed["closed"] is True
    for before, after in zip(open_month["data"], closed["data"], strict=True):
        assert after == {**before, "closed": True, "closed_at": after["closed_at"]}
    assert closed["data"][0]["units"] == {"quota": COST}
    exported = await five.csv("/admin/charges", month=MAY)
    assert [(row["creator"], row["charge_usd"], row["closed"]) for row in exported] == [
        ("acme", usd(COST), "true"),
        ("zeta", usd(COST), "true"),
    ]


async def test_a_month_that_is_not_over_is_not_closed(five: Admin) -> None:
    month = datetime.now(UTC).strftime("%Y-%m")
    refused = await five.ask(f"/admin/charges/{month}/close", method="POST")
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "month_not_over"
    assert month in refused.json()["error"]["message"]
    assert (await five.ask("/admin/charges/2026-5/close", method="POST")).status_code == 400


async def test_what_is_shown_is_what_is_stored(admin: Admin, tmp_path: Path) -> None:
    await admin.database.ledger.post([entry("r1")])
    ((stored,),) = rows(tmp_path / "gateway.db", "SELECT cost_nano_usd FROM entries")
    (shown,) = await admin.entries()
    assert stored == shown["cost_nano_usd"]
