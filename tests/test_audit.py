"""The audit log: every change and every export before it is carried out and again with its status, nothing that names people,
no secret, and no row that is ever changed."""

import asyncio
import csv
import io
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from asyncpg import IntegrityConstraintViolationError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import delete, insert, select, update
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs
from typer.testing import CliRunner

from gateway.audit import AuditFilter, AuditLog, audit_newest_first, audit_page
from gateway.cli import app as cli
from gateway.config import Settings
from gateway.endpoints import EXCEPTION_HANDLERS, FORM_BYTES_MAX
from gateway.endpoints.admin import AdminOnly
from gateway.endpoints.admin.audited_fields import NOT_SHOWN, ReadBody, details_of, read_ahead, target_of
from gateway.endpoints.admin.permissions import guarded
from gateway.errors import StoreError
from gateway.ledger.database import Conflict, Database
from gateway.ledger.schema import audit_log
from gateway.roles import LOCAL, Admin
from tests.account_world import ROOT
from tests.dashboard.world import World, opened_dashboard
from tests.ledger.books import Place, opened
from tests.servers.postgres_server import PostgresServer
from tests.test_roles import filled, rows, served

STORES = ("sqlite", "postgres")
CANARY = "Canary Lovelace"
ADA = Admin("ada-key", "Ada", "owner")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with opened_dashboard(tmp_path, creators=("ada",), admin_key=SecretStr("the-key-of-the-settings")) as world:
        yield world


async def ask(world: World, role: Any, method: str, path: str, body: Any = None) -> httpx.Response:
    content = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
    return await world.owner.api(method, path, world.admin_keys[role], content=content)


async def log(world: World, **query: str | int) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = (await world.admin_api("GET", "/admin/audit", params=query))["data"]
    return data


async def stored(database: Database) -> list[dict[str, Any]]:
    return await database.fetch_all(select(audit_log).order_by(audit_log.c.id))


# What is written


async def test_a_change_is_asked_and_done_under_the_id_of_its_answer(world):
    answer = await ask(world, "owner", "POST", "/admin/creators/ada/keys", {"name": CANARY, "models": ["talk"]})
    mine = [row for row in await stored(world.services.database) if "/keys" in row["action"]]
    assert [(row["phase"], row["status"]) for row in mine] == [("asked", 0), ("done", 201)]
    assert {row["request_id"] for row in mine} == {answer.headers["x-request-id"]}
    (shown,) = await log(world, action="/keys")
    assert shown["action"] == "POST /admin/creators/{id}/keys"
    made = answer.json()["id"]
    assert [row["target"] for row in mine] == ["id=ada", f"id=ada,key={made}"]
    assert (shown["target"], shown["status"], shown["address"]) == (f"id=ada,key={made}", 201, "192.0.2.1")
    assert answer.json()["key"] not in orjson.dumps(await stored(world.services.database)).decode()
    assert shown["details"] == {"models": ["talk"], "fields": ["name"]}
    assert (shown["admin_name"], shown["role"]) == ("owner of the tests", "owner")
    assert shown["id"] == mine[0]["id"]


@pytest.mark.parametrize("role", ["owner", "support"])
async def test_every_changing_route_is_in_the_log_whatever_came_of_it(world, role):
    asked = []
    for method, path, _ in sorted(rows(), key=lambda row: row[0] == "DELETE"):
        if method != "GET" and path not in ("/admin/estimate", "/admin/rehearsals"):
            answer = await ask(world, role, method, filled(world, path))
            asked.append((f"{method} {path}", answer.status_code, answer.headers["x-request-id"]))
    told = [(row["action"], row["status"], row["request_id"]) for row in await log(world, action="/admin/")]
    assert list(reversed(told)) == asked
    assert {action for action, _, _ in asked} == {
        f"{method} {path}"
        for method, path in served()
        if method != "GET" and path not in ("/admin/estimate", "/admin/rehearsals")
    }
    assert {403 if role == "support" else 200} <= {status for _, status, _ in asked}


async def test_reading_is_not_in_the_log_and_exports_are(world):
    begun = len(await stored(world.services.database))
    for role in ("owner", "finance", "support"):
        for method, path, _ in rows():
            if method == "GET" or path in ("/admin/estimate", "/admin/rehearsals"):
                await ask(world, role, method, filled(world, path))
                if method == "GET":
                    await ask(world, role, "HEAD", filled(world, path))
    assert len(await stored(world.services.database)) == begun
    await ask(world, "finance", "GET", "/admin/ledger?format=csv&creator=ada&from=2026-05-01")
    await ask(world, "support", "GET", "/admin/ledger?format=ndjson")
    refused, done = (await log(world))[:2]
    assert (done["action"], done["status"], done["role"]) == ("GET /admin/ledger (csv)", 200, "finance")
    assert done["details"] == {"query": {"creator": "ada", "format": "csv", "from": "2026-05-01"}}
    assert (refused["action"], refused["status"], refused["role"]) == ("GET /admin/ledger (ndjson)", 403, "support")


async def test_a_stranger_writes_nothing(world):
    begun = len(await stored(world.services.database))
    answers = [await world.owner.api("POST", "/admin/creators", key) for key in ("nobody's", world.keys["ada"])]
    assert [answer.status_code for answer in answers] == [401, 401]
    assert len(await stored(world.services.database)) == begun


async def test_nothing_is_done_that_cannot_be_logged(world):
    with closing(sqlite3.connect(world.services.settings.database_path)) as connection:
        refuse = "BEGIN SELECT RAISE(ABORT, 'no'); END"
        connection.execute(f"CREATE TRIGGER no_audit BEFORE INSERT ON audit_log {refuse}")
        for method, path, body in (
            ("POST", "/admin/creators", {"id": "eve"}),
            ("DELETE", "/admin/creators/ada", None),
            ("GET", "/admin/ledger?format=csv", None),
        ):
            answer = await ask(world, "owner", method, path, body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
            assert answer.headers["retry-after"] == "1"
        creators = await world.admin_api("GET", "/admin/creators")
        assert [row["id"] for row in creators["data"]] == ["ada"]
        connection.execute("DROP TRIGGER no_audit")
    assert (await ask(world, "owner", "DELETE", "/admin/creators/ada")).status_code == 200


async def test_what_was_done_is_answered_though_its_status_cannot_be_logged(world):
    with closing(sqlite3.connect(world.services.settings.database_path)) as connection:
        refuse = "BEGIN SELECT RAISE(ABORT, 'no'); END"
        connection.execute(f"CREATE TRIGGER half BEFORE INSERT ON audit_log WHEN NEW.phase = 'done' {refuse}")
    with capture_logs() as logs:
        answer = await ask(world, "owner", "POST", "/admin/creators", {"id": "eve"})
    assert answer.status_code == 201
    (entry,) = [entry for entry in logs if entry["event"] == "audit_incomplete"]
    assert entry["request_id"] == answer.headers["x-request-id"]
    (row,) = await log(world, action="POST /admin/creators")
    assert row["status"] is None


async def test_a_page_may_be_cut_short_and_its_form_comes_in_pieces(world):
    """The handler reads what was read before it, piece by piece."""

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"id": "e', b"", b've", "plan"', b': "open"}'):
            yield piece

    answer = await world.owner.api("POST", "/admin/creators", world.admin_keys["owner"], content=pieces())
    assert (answer.status_code, answer.json()["id"], answer.json()["plan"]) == (201, "eve", "open")
    assert (await log(world))[0]["details"] == {"id": "eve", "plan": "open"}


async def test_a_body_that_is_too_large_is_refused_as_before(world):
    answer = await ask(world, "owner", "POST", "/admin/creators", b'{"name": "' + b"x" * 2 * FORM_BYTES_MAX)
    assert answer.status_code == 413
    (row, *_) = await log(world)
    assert (row["status"], row["details"]) == (413, {"too_large": True})
    large = {"id": "eve", "plan": "open", "metadata": {"x": "y" * 20_000}}
    assert (await ask(world, "owner", "POST", "/admin/creators", large)).status_code == 400
    assert (await log(world))[0]["details"] == {"fields": ["id", "metadata", "plan"]}


# Handlers that fail


async def raise_error(request: Request) -> Response:
    await request.body()
    raise ValueError("unexpected")


async def wait_for_ever(request: Request) -> Response:
    request.app.state.is_waiting.set()
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


@pytest.fixture
async def failing(tmp_path: Path) -> AsyncIterator[Starlette]:
    database = await opened(tmp_path / "gateway.db")
    routes = [
        Route("/admin/raises", raise_error, methods=["POST"]),
        Route("/admin/waits", wait_for_ever, methods=["POST"]),
    ]
    app = Starlette(routes=guarded(routes), exception_handlers=EXCEPTION_HANDLERS)
    app.add_middleware(AdminOnly, is_trusted=True)
    app.state.database, app.state.audit, app.state.trusted_proxies = database, AuditLog(database), ()
    app.state.is_waiting = asyncio.Event()
    yield app
    await database.close()


async def test_a_handler_that_raises_is_in_the_log_as_such(failing):
    transport = httpx.ASGITransport(failing, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False) as http:
        assert (await http.post("/admin/raises", content=b"{}")).status_code == 500
    (row,) = await audit_page(failing.state.database, AuditFilter(), limit=9)
    assert (row["action"], row["status"], row["admin_key_id"]) == ("POST /admin/raises", 500, "local")


async def test_a_handler_that_is_cancelled_is_in_the_log_as_such(failing):
    async with (
        asyncio.timeout(10),
        httpx.AsyncClient(transport=httpx.ASGITransport(failing), base_url="http://gateway") as http,
    ):
        task = asyncio.create_task(http.post("/admin/waits"))  # noqa: TID251 -- ended right here
        await failing.state.is_waiting.wait()
        (row,) = await audit_page(failing.state.database, AuditFilter(), limit=9)
        assert row["status"] is None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (row,) = await audit_page(failing.state.database, AuditFilter(), limit=9)
    assert row["status"] == 499


async def test_a_process_that_dies_in_between_leaves_a_row_without_a_status(world):
    record = AuditLog(world.services.database).record
    facts: dict[str, Any] = {"admin": ADA, "action": "DELETE /admin/creators/{id}", "target": "id=ada", "details": {}}
    await record(request_id="req_dead", address="", phase="asked", status=0, **facts)
    (row, *_) = await log(world, action="DELETE")
    assert (row["request_id"], row["status"]) == ("req_dead", None)
    page = await world.owner.get("/dashboard/audit?action=DELETE")
    assert page.rows("What admins did, the newest first")[0][1] == "unfinished"


# Names and secrets


async def test_no_name_no_note_and_no_key_is_ever_in_a_row(world):
    """Whatever is sent, in whichever field or place, to whichever route."""
    made = await world.admin_api("POST", "/admin/creators/ada/keys", json={"name": CANARY})
    secrets = (made["key"], world.admin_keys["owner"], CANARY)
    fields = (
        "id name plan overrides models scopes default_plan note metadata package credits amount_usd role key".split()
    )
    for method, path, _ in sorted(rows(), key=lambda row: row[0] == "DELETE"):
        if method == "GET":
            continue
        place = filled(world, path)
        for secret in secrets:
            whole = dict.fromkeys(fields, secret) | {secret: secret}
            deep = {name: {secret: [secret, {secret: secret}]} for name in fields}
            for body in (whole, deep, {"name": secret, "note": secret, "metadata": {secret: secret}}):
                await ask(world, "support" if method == "DELETE" else "owner", method, place, body)
    for secret in secrets:
        await ask(world, "owner", "DELETE", f"/admin/keys/{secret}")
        await ask(world, "owner", "DELETE", f"/admin/cache?creator={secret}&{secret}=1")
        await ask(world, "owner", "GET", f"/admin/ledger?format=csv&model={secret}")
    everything = orjson.dumps(await stored(world.services.database)).decode()
    assert [secret for secret in secrets if secret in everything] == []


async def test_deleting_a_creator_leaves_its_id_and_no_name(world):
    await ask(world, "owner", "POST", "/admin/creators", {"id": "cr1", "name": CANARY, "metadata": {"who": CANARY}})
    await ask(world, "owner", "PATCH", "/admin/creators/cr1", {"name": f"{CANARY} the second"})
    await ask(world, "owner", "DELETE", "/admin/creators/cr1")
    told = await log(world, target="cr1")
    assert [row["action"].partition(" ")[0] for row in told] == ["DELETE", "PATCH", "POST"]
    assert CANARY not in orjson.dumps(await log(world)).decode()


@given(
    st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr).map(str.encode)
)
def test_details_can_be_made_of_whatever_is_sent(raw):
    async def once() -> dict[str, Any]:
        return {"type": "http.request", "body": raw}

    async def read() -> dict[str, Any]:
        body, again = await read_ahead(once)
        assert (await again())["body"] == raw
        return details_of(body, raw)

    orjson.dumps(asyncio.run(read()))


def test_values_are_kept_of_known_fields_and_names_of_others():
    body = {
        "plan": "pro",
        "overrides": {"requests_per_minute": 5, "addresses": ["192.0.2.0/24"], "budget_usd_per_month": "2.50"},
        "name": "Ada",
        "metadata": {"a": 1},
        "nonsense": 1,
    }
    assert details_of(ReadBody(body, 99), b"") == {
        "plan": "pro",
        "overrides": body["overrides"],
        "fields": ["metadata", "name"],
        "unknown_fields": 1,
    }
    for key in ("sk-gw-abc-def", "AIzaSyA0123456789012345678901", "two words", "x" * 200, "https://sk-x"):
        assert details_of(ReadBody({"plan": key}, 99), b"") == {"plan": NOT_SHOWN}
    assert target_of({"id": "sk-gwadmin-abc"}) == f"id={NOT_SHOWN}"
    mongo = "507f1f77bcf86cd799439011"
    assert target_of({"creator": mongo, "month": "2026-05"}) == f"creator={mongo},month=2026-05"


# Reading


async def test_all_that_is_done_to_a_creator_and_its_keys_is_found_by_its_id(world):
    named = (await ask(world, "owner", "POST", "/admin/creators", {"name": "Eve"})).json()["id"]
    first = (await ask(world, "owner", "POST", f"/admin/creators/{named}/keys", {})).json()["id"]
    second = (await ask(world, "owner", "POST", f"/admin/keys/{first}/rotate", {})).json()["id"]
    await ask(world, "owner", "DELETE", f"/admin/keys/{second}")
    await ask(world, "owner", "DELETE", "/admin/keys/nobodys")
    assert [(row["action"].partition(" ")[0], row["target"]) for row in reversed(await log(world, target=named))] == [
        ("POST", f"id={named}"),
        ("POST", f"id={named},key={first}"),
        ("POST", f"id={first},creator={named},key={second}"),
        ("DELETE", f"id={second},creator={named}"),
    ]
    assert [row["target"] for row in await log(world, target=first)] == [
        f"id={first},creator={named},key={second}",
        f"id={named},key={first}",
    ]


async def test_the_log_is_filtered_and_paged(world):
    for number in range(5):
        await ask(world, "owner", "POST", "/admin/creators", {"id": f"cr{number}"})
        await ask(world, "support", "POST", f"/admin/creators/cr{number}/keys", {})
    whoami = (await ask(world, "support", "GET", "/admin/whoami")).json()
    assert len(await log(world, admin=whoami["key_id"], action="/admin/")) == 5
    assert len(await log(world, action="POST /admin/creators/")) == 5
    about = [(row["action"], row["target"].partition(",key=")[0]) for row in await log(world, target="cr3")]
    assert about == [("POST /admin/creators/{id}/keys", "id=cr3"), ("POST /admin/creators", "id=cr3")]
    assert await log(world, target="cr") == await log(world, target="CR3") == await log(world, action="post /") == []
    every, shown, cursor = await log(world), [], None
    while shown == [] or cursor is not None:
        query = {"limit": 3} | ({} if cursor is None else {"cursor": cursor})
        page = await world.admin_api("GET", "/admin/audit", params=query)
        shown, cursor = [*shown, *page["data"]], page["next_cursor"]
    assert shown == every
    assert [row["id"] for row in every] == sorted((row["id"] for row in every), reverse=True)
    at = every[3]["at"]
    assert {row["id"] for row in await log(world, **{"from": at})} == {row["id"] for row in every if row["at"] >= at}
    assert {row["id"] for row in await log(world, to=at)} == {row["id"] for row in every if row["at"] < at}


@pytest.mark.parametrize(
    "query",
    ["limit=0", "cursor=x", "from=yesterday", "format=ndjson", "format=csv&limit=5", "who=me", "admin=a&admin=b"],
)
async def test_a_wrong_filter_is_refused(world, query):
    assert (await ask(world, "owner", "GET", f"/admin/audit?{query}")).status_code == 400


async def test_the_file_has_what_the_list_has_and_no_formulas(world):
    await world.admin_api("POST", "/admin/admin-keys", json={"name": "Eve"})
    hostile = Admin("k1", '=HYPERLINK("http://x")', "owner")
    await world.services.audit.record(
        request_id="r1", admin=hostile, action="@x", target="", details={"a": '",'}, address="", status=200
    )
    listed = await log(world)
    answer = await ask(world, "finance", "GET", "/admin/audit?format=csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="audit.csv"'
    (own, *told) = csv.DictReader(io.StringIO(answer.text))
    assert (own["action"], own["status"]) == ("GET /admin/audit (csv)", "")
    assert told[0]["admin_name"] == "'" + hostile.name
    assert told[0]["action"] == "'@x"
    assert orjson.loads(told[0]["details"]) == {"a": '",'}
    assert [row["id"] for row in told] == [row["id"] for row in listed]
    exported = await world.finance.get("/dashboard/export/audit?admin=k1")
    assert [row["id"] for row in csv.DictReader(io.StringIO(exported.text))] == [listed[0]["id"]]


# The table


@pytest.fixture
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "sqlite":
        yield tmp_path / "gateway.db"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        name = f"audit_{tmp_path.name}".lower()[-60:]
        yield server.create_database(name)
        server.drop_database(name)


async def write(database: Database, request_id: str, **more: Any) -> None:
    facts = {"admin": ADA, "action": "POST /admin/reload", "target": "", "details": {}, "address": "", "status": 200}
    await AuditLog(database).record(request_id=request_id, **{**facts, **more})


@pytest.mark.parametrize("place", STORES, indirect=True)
async def test_rows_are_never_changed(place):
    database = await opened(place)
    try:
        await write(database, "r1")
        before = await stored(database)
        for statement in (update(audit_log).values(status=1), delete(audit_log)):
            with pytest.raises((Conflict, sqlite3.IntegrityError, IntegrityConstraintViolationError)):
                await database.write(statement)
        assert await stored(database) == before
    finally:
        await database.close()


@pytest.mark.parametrize("place", STORES, indirect=True)
async def test_ids_grow_across_processes_and_both_phases_are_one_row(place):
    if isinstance(place, Path):
        databases = [await opened(place)]
    else:
        shared = Settings(
            database_url=SecretStr(place), redis_url=SecretStr("redis://127.0.0.1:1"), secret=SecretStr(ROOT.decode())
        )
        databases = [await opened(place, settings=shared) for _ in range(2)]
    try:
        for number in range(10):
            await write(databases[number % len(databases)], f"r{number}", phase="asked", status=0)
        await asyncio.gather(*(write(databases[n % len(databases)], f"r{n}", status=200 + n) for n in range(9)))
        await write(databases[-1], "refused", status=403)
        page = await audit_page(databases[0], AuditFilter(), limit=99)
        told = [("refused", 403), ("r9", None), *((f"r{n}", 200 + n) for n in reversed(range(9)))]
        assert [(row["request_id"], row["status"]) for row in page] == told
        pieces = [row async for rows in audit_newest_first(databases[-1], AuditFilter()) for row in rows]
        assert pieces == page
        in_order = [row["request_id"] for row in await stored(databases[0])]
        assert in_order[:10] == [f"r{n}" for n in range(10)]
        assert in_order[-1] == "refused"
    finally:
        for database in databases:
            await database.close()


async def test_ids_grow_though_the_clock_was_set_back(tmp_path):
    database = await opened(tmp_path / "gateway.db")
    try:
        ahead = "7f000000-0000-7000-8000-000000000000"
        row = dict.fromkeys((column.name for column in audit_log.c), "") | {"id": ahead, "status": 0, "created_at": 1}
        await database.write(insert(audit_log).values(row | {"phase": "done", "details": "{}"}))
        await write(database, "later")
        assert (await audit_page(database, AuditFilter(), limit=1))[0]["request_id"] == "later"
    finally:
        await database.close()


async def test_details_that_are_too_long_are_left_out(tmp_path):
    database = await opened(tmp_path / "gateway.db")
    try:
        await write(database, "r1", details={"x": "y" * 5_000})
        (row,) = await stored(database)
        assert orjson.loads(row["details"]) == {"omitted_bytes": 5_008}
    finally:
        await database.close()


async def test_a_closed_database_says_so(tmp_path):
    database = await opened(tmp_path / "gateway.db")
    await database.close()
    with pytest.raises(StoreError):
        await write(database, "r1")


# The command line


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(cli, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        return orjson.loads(result.stdout)

    return run


def test_a_command_is_in_the_log_as_local(command):
    command("creators", "add", "acme", "--name", CANARY)
    made = command("admin-keys", "create", "--name", "Ada", "--role", "finance")
    command("admin-keys", "update", made["id"], "--role", "support")
    updated, created, added = command("audit", "list")
    assert [row["admin_key_id"] for row in (updated, created, added)] == [LOCAL.key_id] * 3
    assert (added["action"], added["status"], added["role"]) == ("POST /admin/creators", 201, "owner")
    assert (created["details"], created["status"]) == ({"role": "finance", "fields": ["name"]}, 201)
    assert (updated["target"], updated["details"]) == (f"id={made['id']}", {"role": "support"})
    assert command("audit", "list", "--limit", "1") == [updated]
    assert command("audit", "list", "--action", "creators") == [added]
    about = command("audit", "list", "--target", made["id"], "--admin", "local", "--from", "2020-01-01")
    assert about == [updated, created]
    assert command("audit", "list", "--target", "acme") == [added]
    assert command("audit", "list", "--to", "2020-01-01") == []


def test_an_export_of_the_file_itself_needs_no_log(command):
    command("creators", "add", "acme")
    before = command("audit", "list")
    exported = CliRunner().invoke(cli, ["ledger", "export"])
    assert exported.exit_code == 0, exported.output
    assert command("audit", "list") == before
