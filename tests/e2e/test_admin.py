"""The admin's view: who may see it, what it shows, and that the exports say the same."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.catalog import cost_nano_usd
from tests.rig.client import exchange, request_bytes
from tests.rig.gateway import PROMPT_CANARY, Gateway, Key, chat_body
from tests.rig.upstream import Upstream

FIELDS = {
    "request_id",
    "creator",
    "key_id",
    "feature",
    "agent",
    "endpoint",
    "requested_model",
    "served_model",
    "provider",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_nano_usd",
    "cost_usd",
    "charge_nano_usd",
    "payer",
    "usage_source",
    "outcome",
    "cached",
    "latency_ms",
    "created_at",
}
USAGE = wire.usage(100, 10)


async def booked(gateway: Gateway, upstream: Upstream, key: Key, times: int = 1, **fields: object) -> None:
    script = upstream.reply(wire.completion("a", usage=USAGE))
    for _ in range(times):
        assert (await gateway.chat(key, script, **fields)).status == 200


@pytest.fixture
async def three(gateway: Gateway, upstream: Upstream, key: Key) -> Key:
    """A creator with three entries: two models, two features, one refused by the provider."""
    await booked(gateway, upstream, key, metadata={"feature": "search", "agent": "scout"})
    await booked(gateway, upstream, key, model="rig-cheap", metadata={"feature": "chat"})
    error = {"error": {"message": "no", "type": "x", "param": None, "code": None}}
    assert (await gateway.chat(key, upstream.reply(error, 400))).status == 400
    return key


# Entries


async def test_an_entry_shows_every_named_field(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    await booked(gateway, upstream, key)
    entry = gateway.entry(key)
    assert entry.keys() >= FIELDS
    assert entry["creator"] == key.creator
    assert entry["key_id"] == key.id
    assert entry["endpoint"] == "chat"
    assert entry["provider"] == "rig"
    assert entry["cached"] is False
    assert entry["latency_ms"] >= 0
    created = datetime.fromisoformat(entry["created_at"])
    assert timedelta(0) <= datetime.now(UTC) - created < timedelta(minutes=5)


FILTERS: list[tuple[dict[str, object], int]] = [
    ({}, 3),
    ({"feature": "search"}, 1),
    ({"feature": "nothing"}, 0),
    ({"agent": "scout"}, 1),
    ({"model": "rig-cheap"}, 1),
    ({"model": "rig-chat"}, 2),
    ({"provider": "rig"}, 3),
    ({"provider": "other"}, 0),
    ({"endpoint": "chat"}, 3),
    ({"kind": "usage"}, 3),
    ({"kind": "refund"}, 0),
    ({"outcome": "ok"}, 2),
    ({"outcome": "upstream_refused"}, 1),
    ({"cached": "false"}, 3),
    ({"cached": "true"}, 0),
    ({"from": "2020-01-01", "to": "2020-02-01"}, 0),
    ({"from": "2020-01-01"}, 3),
    ({"feature": "search", "model": "rig-cheap"}, 0),
]


@pytest.mark.parametrize(("filters", "count"), FILTERS, ids=[str(filters) for filters, _ in FILTERS])
async def test_a_filter_finds_its_entries_in_every_format(
    gateway: Gateway, three: Key, filters: dict[str, object], count: int
) -> None:
    filters = {**filters, "creator": three.creator}
    entries = gateway.entries(**filters)
    assert len(entries) == count
    ids = [entry["request_id"] for entry in entries]
    assert [row["request_id"] for row in gateway.csv(**filters)] == ids
    lines = gateway.admin("GET", "/admin/ledger", params={**filters, "format": "ndjson"}).text.splitlines()
    assert [json.loads(line) for line in lines] == entries


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "cursor=nonsense",
        "from=yesterday",
        "cached=maybe",
        "format=xml",
        "kind=x",
        "nope=1",
    ],
)
async def test_a_wrong_filter_is_refused_and_not_ignored(gateway: Gateway, query: str) -> None:
    answer = await gateway.get(gateway.admin_key, f"/admin/ledger?{query}")
    assert answer.status in {400, 422}
    assert answer.error


INJECTIONS = ["' OR '1'='1", "x'; DROP TABLE entries; --", "%", "_%", '"', "\\", "creator-1' UNION SELECT 1--"]


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize("name", ["creator", "feature", "agent", "model", "provider"])
async def test_filters_are_values_and_never_sql(gateway: Gateway, three: Key, name: str, text: str) -> None:
    answer = gateway.admin("GET", "/admin/ledger", params={name: text})
    assert answer.status_code in {200, 400, 422}
    if answer.status_code == 200:
        assert answer.json()["data"] == []
    assert len(gateway.entries(creator=three.creator)) == 3


async def test_pages_follow_each_other_without_gap_or_double(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    await booked(gateway, upstream, key, times=7)
    everything = gateway.entries(creator=key.creator)
    seen: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    for size in (3, 3, 1):
        page = gateway.admin_json("GET", "/admin/ledger", params={"creator": key.creator, "limit": 3, **cursor})
        assert len(page["data"]) == size
        seen += page["data"]
        cursor = {"cursor": page["next_cursor"]}
    assert cursor == {"cursor": None}
    assert seen == everything
    assert len({entry["request_id"] for entry in seen}) == 7


async def test_entries_made_while_paging_shift_nothing(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    await booked(gateway, upstream, key, times=4)
    before = [entry["request_id"] for entry in gateway.entries(creator=key.creator)]
    first = gateway.admin_json("GET", "/admin/ledger", params={"creator": key.creator, "limit": 2})
    await booked(gateway, upstream, key, times=2)
    second = gateway.admin_json(
        "GET", "/admin/ledger", params={"creator": key.creator, "limit": 2, "cursor": first["next_cursor"]}
    )
    assert [entry["request_id"] for entry in first["data"] + second["data"]] == before


# Exports


async def test_csv_holds_the_same_entries_as_json(gateway: Gateway, three: Key) -> None:
    answer = gateway.admin("GET", "/admin/ledger", params={"creator": three.creator, "format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    entries = gateway.entries(creator=three.creator)
    assert rows[0].keys() >= FIELDS
    for row, entry in zip(rows, entries, strict=True):
        for name in ("request_id", "creator", "cost_usd", "served_model", "outcome"):
            assert row[name] == entry[name]
        for name in ("cost_nano_usd", "input_tokens", "output_tokens"):
            assert int(row[name]) == entry[name]


async def test_an_export_is_not_cut_at_a_pages_size(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    await booked(gateway, upstream, key, times=120)
    assert len(gateway.csv(creator=key.creator)) == 120
    ndjson = gateway.admin("GET", "/admin/ledger", params={"creator": key.creator, "format": "ndjson"}).text
    assert len(ndjson.splitlines()) == 120


@pytest.mark.parametrize("tag", ["=1+1", "@SUM(A1)", "+1", "-1"])
async def test_a_cell_never_starts_a_formula(gateway: Gateway, upstream: Upstream, key: Key, tag: str) -> None:
    """Tags are the caller's own words in the export; what cannot be stored is refused instead."""
    script = upstream.reply(wire.completion("a", usage=USAGE))
    answer = await gateway.post(key, chat_body(script), [("x-gateway-tags", tag)])
    assert answer.status in {200, 400}
    for row in gateway.csv(creator=key.creator):
        assert not [cell for cell in row.values() if cell.startswith(("=", "@", "+", "\t", "\r"))]


# Costs and charges


async def test_costs_are_grouped_by_what_is_asked(gateway: Gateway, three: Key) -> None:
    def grouped(by: str) -> dict[Any, Any]:
        rows = gateway.admin_json("GET", "/admin/costs", params={"group_by": by, "creator": three.creator})["data"]
        names = by.split(",")
        return {tuple(row[name] for name in names): (row["calls"], row["cost_nano_usd"]) for row in rows}

    dear, cheap = cost_nano_usd(100, 10), cost_nano_usd(100, 10, model="rig-cheap")
    assert grouped("creator") == {(three.creator,): (3, dear + cheap)}
    assert grouped("feature") == {("search",): (1, dear), ("chat",): (1, cheap), ("",): (1, 0)}
    assert grouped("served_model,outcome") == {
        ("rig-chat", "ok"): (1, dear),
        ("rig-chat", "upstream_refused"): (1, 0),
        ("rig-cheap", "ok"): (1, cheap),
    }
    month = datetime.now(UTC).strftime("%Y-%m")
    assert grouped("month") == {(month,): (3, dear + cheap)}


@pytest.mark.parametrize("group", ["", "secret", "creator;drop", "creator,creator", "request_id", "id"])
async def test_an_unknown_group_is_refused(gateway: Gateway, group: str) -> None:
    answer = gateway.admin("GET", "/admin/costs", params={"group_by": group})
    assert answer.status_code in {400, 422}


async def test_a_months_charge_is_one_row_per_creator(gateway: Gateway, three: Key) -> None:
    month = datetime.now(UTC).strftime("%Y-%m")
    rows = gateway.admin_json("GET", "/admin/charges", params={"month": month})["data"]
    mine = [row for row in rows if row["creator"] == three.creator]
    expected = sum(entry["charge_nano_usd"] for entry in gateway.entries(creator=three.creator))
    assert [row["charge_nano_usd"] for row in mine] == [expected]


@pytest.mark.parametrize("month", ["2026", "2026-13", "x", "", "2026-1", "2026-01-01"])
async def test_a_wrong_month_is_refused(gateway: Gateway, month: str) -> None:
    assert gateway.admin("GET", "/admin/charges", params={"month": month}).status_code in {400, 422}


async def test_the_running_month_cannot_be_closed(gateway: Gateway) -> None:
    month = datetime.now(UTC).strftime("%Y-%m")
    closed = gateway.cli("ledger", "close", month)
    assert closed.returncode != 0
    assert month in closed.stdout + closed.stderr
    assert "Traceback" not in closed.stderr


async def test_an_ended_month_closes_twice_the_same_way(gateway: Gateway) -> None:
    for _ in range(2):
        closed = gateway.cli("ledger", "close", "2025-01")
        assert closed.returncode == 0, closed.stdout + closed.stderr


async def test_verify_runs_beside_the_server_and_finds_nothing(gateway: Gateway, three: Key) -> None:
    verified = gateway.verify()
    assert verified.returncode == 0, verified.stdout + verified.stderr


# Creators and keys


async def test_a_creator_cannot_be_made_twice(gateway: Gateway, key: Key) -> None:
    again = gateway.admin("POST", "/admin/creators", json={"id": key.creator, "plan": "open"})
    assert again.status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {"id": "x-unknown-plan", "plan": "nowhere"},
        {"id": "x-unknown-override", "plan": "open", "overrides": {"requests_per_fortnight": 1}},
        {"id": "x-float", "plan": "open", "overrides": {"quota_usd_per_month": 0.1}},
        {"id": "x-negative", "plan": "open", "overrides": {"requests_per_hour": -1}},
        {"id": "x-role", "plan": "open", "role": "admin"},
        {"id": "x/slash", "plan": "open"},
        {"id": "=cmd", "plan": "open"},
        {"id": "x" * 500, "plan": "open"},
        {"id": 5, "plan": "open"},
        [],
        None,
    ],
)
async def test_a_creator_that_makes_no_sense_is_refused(gateway: Gateway, body: object) -> None:
    answer = await exchange(
        gateway.port, request_bytes("POST", "/admin/creators", key=gateway.admin_key, body=wire.compact(body))
    )
    assert answer.status in {400, 422}
    assert answer.error


async def test_a_key_is_shown_once_and_never_again(gateway: Gateway, key: Key) -> None:
    listed = gateway.admin("GET", f"/admin/creators/{key.creator}/keys")
    assert key.id in listed.text
    assert key.secret not in listed.text
    assert key.secret not in gateway.admin("GET", f"/admin/creators/{key.creator}").text


async def test_a_rotated_key_works_beside_the_new_one_for_its_grace(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    rotated = gateway.admin_json("POST", f"/admin/keys/{key.id}/rotate", json={"grace_s": 3600})
    new = Key(rotated["id"], rotated["key"], key.creator)
    gateway.keys.append(new)
    script = upstream.reply(wire.completion("a", usage=USAGE))
    for either in (key, new):
        assert (await gateway.chat(either, script)).status == 200
    assert {entry["key_id"] for entry in gateway.entries(creator=key.creator)} == {key.id, new.id}


async def test_a_deleted_creator_keeps_its_entries_and_loses_its_keys(gateway: Gateway, three: Key) -> None:
    gateway.admin_json("DELETE", f"/admin/creators/{three.creator}")
    answer = await gateway.chat(three, None)
    assert answer.status == 401
    assert len(gateway.entries(creator=three.creator)) == 3
    again = gateway.admin("POST", "/admin/creators", json={"id": three.creator, "plan": "open"})
    assert again.status_code == 409, "an id is never reused"


ADMIN_ROUTES = [
    ("GET", "/admin/creators"),
    ("POST", "/admin/creators"),
    ("GET", "/admin/creators/{creator}"),
    ("PATCH", "/admin/creators/{creator}"),
    ("DELETE", "/admin/creators/{creator}"),
    ("POST", "/admin/creators/{creator}/keys"),
    ("GET", "/admin/creators/{creator}/keys"),
    ("DELETE", "/admin/keys/{id}"),
    ("POST", "/admin/keys/{id}/rotate"),
    ("GET", "/admin/ledger"),
    ("GET", "/admin/ledger?format=csv"),
    ("GET", "/admin/costs?group_by=creator"),
    ("GET", "/admin/charges?month=2026-11"),
]


@pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
async def test_admin_answers_nobody_but_the_admin(gateway: Gateway, key: Key, method: str, path: str) -> None:
    path = path.format(creator=key.creator, id=key.id)
    wrong_admin = gateway.admin_key[:-1] + "x"
    for bearer in (None, key.key, wrong_admin, "", gateway.provider_key):
        body = {} if method in {"POST", "PATCH"} else None
        answer = await exchange(gateway.port, request_bytes(method, path, key=bearer, body=body))
        assert answer.status in {401, 403, 404}
        assert answer.error
        assert answer.request_id
    assert (await gateway.get(key, "/v1/models")).status == 200


# Secrets


async def test_no_secret_and_no_content_is_anywhere(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    """After good and bad calls: logs, answers of every kind, metrics, exports, the database byte by byte."""
    answer_canary = "answer-canary-77aa"
    script = upstream.reply(wire.completion(answer_canary, usage=USAGE))
    await gateway.chat(key, script)
    quoting = {"error": {"message": f"{gateway.provider_key} {answer_canary}", "type": "x", "param": None, "code": "x"}}
    answers = [await gateway.chat(key, upstream.reply(quoting, status)) for status in (400, 401, 429, 500)]
    answers.append(await gateway.chat(key.key + "x", script))
    answers.append(await gateway.chat(gateway.admin_key, script))
    answers.append(await gateway.post(key, b'{"messages":"' + PROMPT_CANARY.encode()))
    answers.append(await gateway.chat(key, script, api_key="sk-caller-canary-123"))
    metrics = gateway.admin("GET", "/metrics")
    assert metrics.status_code in {200, 401, 403, 404}
    open_metrics = await gateway.get(None, "/metrics")
    places: list[tuple[str, bytes]] = [
        ("logs", gateway.logs().encode()),
        ("answers", str(answers).encode()),
        ("metrics", metrics.content + open_metrics.body),
        ("ledger", gateway.admin("GET", "/admin/ledger", params={"limit": 1000}).content),
        ("CSV", gateway.admin("GET", "/admin/ledger", params={"format": "csv"}).content),
        *gateway.stored(),
    ]
    canaries = [*gateway.canaries(), ("a caller's provider key", "sk-caller-canary-123")]
    for place, content in places:
        for name, canary in canaries:
            assert canary.encode() not in content, f"{name} is in {place}"
        if place != "answers":
            assert answer_canary.encode() not in content, f"answer text is in {place}"


async def test_metrics_have_no_label_per_creator(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    await booked(gateway, upstream, key)
    metrics = gateway.admin("GET", "/metrics")
    text = metrics.text if metrics.status_code == 200 else (await gateway.get(None, "/metrics")).body.decode()
    assert "# TYPE" in text
    assert key.creator not in text
    assert key.id not in text


async def test_the_secret_of_the_gateway_is_readable_by_its_owner_only(gateway: Gateway) -> None:
    secret = gateway.data_dir / "secret"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_text().strip() not in gateway.logs()
