"""The admin API for creators and keys, asked over ASGI as a client would: shapes, refusals, and who may ask at all."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Message

from gateway.audit import AuditLog
from gateway.auth import AdminAuthenticator
from gateway.endpoints import EXCEPTION_HANDLERS, FORM_BYTES_MAX
from gateway.endpoints.admin import AdminOnly, admin_routes, control_app
from gateway.errors import PolicyDenied
from gateway.plans import load_plans
from tests.account_world import INJECTIONS, World, bearer, open_world

ADMIN_KEY = "an-admin-key-of-the-settings"


@dataclass
class Admin:
    world: World
    http: httpx.AsyncClient
    app: Starlette

    async def ask(self, method: str, path: str, body: Any = None, *, key: str | None = ADMIN_KEY) -> httpx.Response:
        content = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return await self.http.request(method, path, content=content, headers=headers)

    async def json(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.ask(method, path, body)
        assert answer.is_success, answer.text
        return answer.json()

    async def refused(self, method: str, path: str, body: Any = None, *, status: int, **expected: object) -> None:
        answer = await self.ask(method, path, body)
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (answer.status_code, {name: error[name] for name in expected}) == (status, expected), error


@pytest.fixture
async def admin(tmp_path) -> AsyncIterator[Admin]:
    """The routes as the gateway's port serves them: behind `AdminOnly`."""
    async with open_world(tmp_path) as world:
        app = Starlette(routes=admin_routes(), exception_handlers=EXCEPTION_HANDLERS)
        app.router.redirect_slashes = False
        app.add_middleware(AdminOnly)
        app.state.accounts, app.state.database = world.accounts, world.database
        app.state.audit, app.state.trusted_proxies = AuditLog(world.database), ()
        app.state.admin_authenticator = AdminAuthenticator(world.database, world.secrets, SecretStr(ADMIN_KEY))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False) as http:
            yield Admin(world, http, app)


# Creators


async def test_a_creator_lives_from_post_to_delete(admin):
    created = await admin.ask("POST", "/admin/creators", {"id": "acme", "plan": "pro", "name": "Acme"})
    assert created.status_code == 201
    assert created.headers["content-type"] == "application/json"
    shown = await admin.json("GET", "/admin/creators/acme")
    assert (shown.pop("effective_plan")["name"], shown.pop("throttle")) == ("pro", None)
    assert created.json() == shown
    changed = await admin.json("PATCH", "/admin/creators/acme", {"plan": "free", "is_active": False})
    assert changed == {**created.json(), "plan": "free", "is_active": False}
    assert await admin.json("GET", "/admin/creators") == {"data": [changed], "next_cursor": None}
    assert await admin.json("DELETE", "/admin/creators/acme") == {"id": "acme", "deleted": True}
    await admin.refused("GET", "/admin/creators/acme", status=404, code="creator_not_found")
    await admin.refused("POST", "/admin/creators", {"id": "acme"}, status=409, param="id", code="creator_exists")


async def test_a_client_that_leaves_in_the_middle_of_its_form_is_no_fault_of_ours_and_nothing_is_done(admin):
    coming: list[Message] = [
        {"type": "http.request", "body": b'{"id":', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return coming.pop(0) if len(coming) > 1 else coming[0]

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", b"Bearer " + ADMIN_KEY.encode())]
    request = {"type": "http", "method": "POST", "path": "/admin/creators", "query_string": b"", "headers": headers}
    await admin.app(request, receive, send)
    assert (sent[0]["status"], orjson.loads(sent[1]["body"])["error"]["code"]) == (400, "client_gone")
    assert (await admin.json("GET", "/admin/creators"))["data"] == []


async def test_an_empty_body_makes_a_creator_with_an_id_of_ours(admin):
    created = await admin.json("POST", "/admin/creators")
    assert created["id"].startswith("cr_")
    assert created.items() <= (await admin.json("GET", f"/admin/creators/{created['id']}")).items()


async def test_every_field_of_a_plan_can_be_overridden_and_is_shown_as_it_counts(admin):
    overrides = {
        "requests_per_minute": 5,
        "tokens_per_day": "unlimited",
        "budget_usd_per_month": "2.50",
        "when_budget_reached": "downgrade_then_deny",
        "budget_hard_usd_per_month": 3,
        "payers": ["credits", "quota"],
        "models": ["mock-1"],
        "addresses": ["192.0.2.0/24"],
        "providers": {"openai": {"requests_per_hour": 7}},
        "prices": {"mock-1": {"output_usd_per_mtok": "0.25"}},
    }
    await admin.json("POST", "/admin/creators", {"id": "acme", "plan": "pro", "overrides": overrides})
    shown = await admin.json("GET", "/admin/creators/acme")
    assert shown["overrides"] == overrides
    effective = shown["effective_plan"]
    assert effective == {**effective, **overrides, "tokens_per_day": None, "budget_usd_per_month": "2.5"} | {
        "budget_hard_usd_per_month": "3"
    }
    changed = await admin.json("PATCH", "/admin/creators/acme", {"overrides": {"free_images_per_day": 0}})
    assert changed["overrides"] == {"free_images_per_day": 0}
    effective = (await admin.json("GET", "/admin/creators/acme"))["effective_plan"]
    assert (effective["free_images_per_day"], effective["models"], effective["providers"]) == (0, None, {})


@pytest.mark.parametrize(
    ("overrides", "param"),
    [
        ({"payers": ["quota", "quota"]}, "overrides.payers"),
        ({"budget_usd_per_month": 2.5}, "overrides.budget_usd_per_month"),
        ({"providers": {"openai": {"requests_per_hour": "7"}}}, "overrides.providers.openai.requests_per_hour"),
        ({"plan": "pro"}, "overrides.plan"),
    ],
)
async def test_a_wrong_override_is_named_and_changes_nothing(admin, overrides, param):
    made = await admin.json("POST", "/admin/creators", {"id": "acme", "overrides": {"requests_per_hour": 3}})
    await admin.refused("PATCH", "/admin/creators/acme", {"overrides": overrides}, status=400, param=param)
    await admin.refused("POST", "/admin/creators", {"id": "b", "overrides": overrides}, status=400, param=param)
    await admin.refused("POST", "/admin/creators/acme/keys", {"overrides": overrides}, status=400, param=param)
    assert await admin.json("GET", "/admin/creators") == {"data": [made], "next_cursor": None}


async def test_plans_are_shown_in_the_files_order(admin):
    plans = (await admin.json("GET", "/admin/plans"))["data"]
    assert [plan["name"] for plan in plans] == list(load_plans())
    assert plans[0]["quota_usd_per_month"] == "1"


async def test_creators_are_paged_and_filtered(admin):
    for number in range(3):
        plan = "pro" if number else "free"
        await admin.json("POST", "/admin/creators", {"id": f"c{number}", "plan": plan})
    first = await admin.json("GET", "/admin/creators?limit=2")
    assert [row["id"] for row in first["data"]] == ["c0", "c1"]
    rest = await admin.json("GET", f"/admin/creators?limit=2&cursor={first['next_cursor']}")
    assert ([row["id"] for row in rest["data"]], rest["next_cursor"]) == (["c2"], None)
    assert [row["id"] for row in (await admin.json("GET", "/admin/creators?plan=pro"))["data"]] == ["c1", "c2"]


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "1e3", "٣", "1" * 100])
async def test_an_unusable_limit_is_refused(admin, limit):
    await admin.refused("GET", f"/admin/creators?limit={limit}", status=400, param="limit")


async def test_an_unknown_filter_is_refused_instead_of_ignored(admin):
    await admin.refused("GET", "/admin/creators?paln=pro", status=422, code="unknown_field")


@pytest.mark.parametrize("text", INJECTIONS)
async def test_sql_in_the_query_is_only_text(admin, text):
    await admin.world.new_key("acme")
    found = await admin.http.get(
        "/admin/creators", params={"plan": text}, headers={"authorization": f"Bearer {ADMIN_KEY}"}
    )
    assert found.json() == {"data": [], "next_cursor": None}
    assert [row["id"] for row in (await admin.json("GET", "/admin/creators"))["data"]] == ["acme"]


# Bodies


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", "/admin/creators", {"id": "a", "role": "admin"}, "role"),
        ("POST", "/admin/creators", {"id": "a", "spend": 0}, "spend"),
        ("POST", "/admin/creators", {"id": 7, "allowed_routes": []}, "allowed_routes"),
        ("PATCH", "/admin/creators/acme", {"id": "other"}, "id"),
        ("PATCH", "/admin/creators/acme", {"account_id": "other"}, "account_id"),
        ("PATCH", "/admin/creators/acme", {"deleted_at": None}, "deleted_at"),
        ("POST", "/admin/creators/acme/keys", {"creator_id": "other"}, "creator_id"),
        ("POST", "/admin/creators/acme/keys", {"digest": "00"}, "digest"),
        ("POST", "/admin/keys/x/rotate", {"creator": "other"}, "creator"),
        ("POST", "/admin/admin-keys", {"key": "sk-gwadmin-mine"}, "key"),
    ],
)
async def test_a_field_that_is_not_the_forms_is_refused_by_name(admin, method, path, body, param):
    await admin.world.accounts.create_creator("acme")
    await admin.refused(method, path, body, status=422, param=param, code="unknown_field")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        pytest.param("/admin/creators", {"id": 7}, "id", id="a number for an id"),
        pytest.param("/admin/creators", {"plan": ["pro"]}, "plan", id="a list for a plan"),
        pytest.param("/admin/creators", {"name": "a\r\nb"}, "name", id="line breaks in a name"),
        pytest.param("/admin/creators", {"name": "\x1b[31m"}, "name", id="an escape in a name"),
        pytest.param("/admin/creators", {"name": "x" * 201}, "name", id="a long name"),
        pytest.param("/admin/creators", {"overrides": []}, "overrides", id="a list of overrides"),
        pytest.param(
            "/admin/creators",
            {"overrides": {"quota_usd_per_month": 0.5}},
            "overrides.quota_usd_per_month",
            id="money as a float",
        ),
        pytest.param("/admin/creators/acme/keys", {"models": []}, "models", id="no model at all"),
        pytest.param("/admin/creators/acme/keys", {"models": ["a", 1]}, "models.1", id="a number among models"),
        pytest.param("/admin/creators/acme/keys", {"expires_in_s": 0}, "expires_in_s", id="no lifetime"),
        pytest.param("/admin/creators/acme/keys", {"expires_in_s": True}, "expires_in_s", id="true is no number"),
        pytest.param("/admin/creators/acme/keys", {"expires_in_s": 10**12}, "expires_in_s", id="for ever"),
        pytest.param("/admin/creators/acme/keys", {"expires_at": "tomorrow"}, "expires_at", id="no instant"),
        pytest.param("/admin/creators/acme/keys", {"expires_at": "2031-01-01T00:00:00"}, "expires_at", id="no offset"),
        pytest.param("/admin/creators/acme/keys", {"expires_at": "2021-01-01T00:00:00Z"}, "expires_at", id="passed"),
        pytest.param(
            "/admin/creators/acme/keys", {"expires_at": "9999-12-31T23:59:59-23:59"}, "expires_at", id="year 10000"
        ),
        pytest.param("/admin/creators/acme/keys", {"scopes": ["root"]}, "scopes.0", id="an unknown scope"),
        pytest.param("/admin/creators/acme/keys", {"id": "short"}, "id", id="a short id of a key"),
        pytest.param("/admin/creators/acme/keys", {"id": "with-a-dash--"}, "id", id="an id that would not be read"),
        pytest.param("/admin/admin-keys", {"id": "x" * 13}, "id", id="a long id of a key"),
        pytest.param("/admin/keys/x/rotate", {"id": "abcDEF01234é"}, "id", id="an id of other letters"),
        pytest.param("/admin/keys/x/rotate", {"grace_s": -1}, "grace_s", id="a grace in the past"),
        pytest.param("/admin/keys/x/rotate", {"grace_s": 10**9}, "grace_s", id="a grace of years"),
        pytest.param("/admin/keys/x/rotate", {"grace_s": "60"}, "grace_s", id="a grace as text"),
    ],
)
async def test_an_unusable_value_is_refused_with_its_field(admin, path, body, param):
    await admin.world.accounts.create_creator("acme")
    await admin.refused("POST", path, body, status=400, param=param)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{", id="cut"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"name": NaN}', id="NaN"),
        pytest.param(b'"\xff"', id="not UTF-8"),
        pytest.param(b'{"metadata":' + b"[" * 5_000 + b"]" * 5_000 + b"}", id="deep"),
        pytest.param(b'{"name": "\\ud800"}', id="half a surrogate pair"),
    ],
)
async def test_what_is_no_json_object_is_refused(admin, body):
    await admin.refused("POST", "/admin/creators", body, status=400, type="invalid_request_error", param=None)


async def test_a_body_above_the_bound_is_refused(admin):
    fits = b'{"name": "x"}' + b" " * (FORM_BYTES_MAX - 13)
    assert (await admin.ask("POST", "/admin/creators", fits)).status_code == 201
    await admin.refused("POST", "/admin/creators", fits + b" ", status=413, code="request_too_large")


async def test_a_refused_value_is_not_repeated(admin):
    answer = await admin.ask("POST", "/admin/creators", {"plan": "sk-secret-canary", "name": ["sk-secret-canary"]})
    assert answer.status_code == 400
    assert "canary" not in answer.text


# Keys


async def test_a_key_lives_from_post_to_delete(admin):
    await admin.json("POST", "/admin/creators", {"id": "acme"})
    created = await admin.ask(
        "POST",
        "/admin/creators/acme/keys",
        {"name": "Laptop", "models": ["mock-1"], "expires_at": "2027-02-01T00:00:00+01:00"},
    )
    assert created.status_code == 201
    key = created.json()
    assert (key["creator"], key["expires_at"]) == ("acme", "2027-01-31T23:00:00.000Z")
    assert (await admin.world.authenticator.authenticate(bearer(key["key"]))).models == {"mock-1"}
    listed = await admin.json("GET", "/admin/creators/acme/keys")
    shown = {name: value for name, value in key.items() if name not in {"key", "warnings"}}
    assert listed == {"data": [shown], "next_cursor": None}
    revoked = await admin.json("DELETE", f"/admin/keys/{key['id']}")
    assert revoked["status"] == "revoked"
    assert await admin.json("DELETE", f"/admin/keys/{key['id']}") == revoked
    await admin.refused("DELETE", "/admin/keys/nothing", status=404, code="key_not_found")


async def test_a_service_key_is_made_with_a_default_plan_that_exists(admin):
    await admin.json("POST", "/admin/creators", {"id": "app"})
    path = "/admin/creators/app/keys"
    key = await admin.json("POST", path, {"scopes": ["act_for"], "default_plan": "pro"})
    assert (key["scopes"], key["default_plan"], key["warnings"]) == (["act_for"], "pro", [])
    rotated = await admin.json("POST", f"/admin/keys/{key['id']}/rotate")
    assert (rotated["scopes"], rotated["default_plan"]) == (["act_for"], "pro")
    for body in ({"default_plan": "pro"}, {"scopes": ["act_for"], "default_plan": "gold"}, {"default_plan": 7}):
        await admin.refused("POST", path, body, status=400, param="default_plan")


async def test_a_key_whose_limit_cannot_count_comes_with_a_warning(admin):
    await admin.json("POST", "/admin/creators", {"id": "acme", "plan": "free"})
    key = await admin.json("POST", "/admin/creators/acme/keys", {"overrides": {"requests_per_hour": 500}})
    assert key["warnings"] == [
        "requests_per_hour: the key's 500 has no effect, for its creator has 10 and a call must fit both."
    ]


async def test_a_rotation_answers_with_the_new_key_once(admin):
    old = await admin.world.new_key()
    rotated = await admin.ask("POST", f"/admin/keys/{old['id']}/rotate")
    assert rotated.status_code == 201
    assert rotated.json()["replaces"] == old["id"]
    assert rotated.json()["replaced_expires_at"] == "2027-01-16T08:00:00.000Z"
    await admin.refused("POST", f"/admin/keys/{old['id']}/rotate", {}, status=409, code="key_not_live")
    listed = await admin.ask("GET", "/admin/creators/acme/keys")
    assert rotated.json()["key"] not in listed.text


async def test_a_key_whose_id_was_chosen_is_made_once(admin):
    """However often, for whomever and by which way it is asked for: the second answer has no key."""
    await admin.json("POST", "/admin/creators", {"id": "acme"})
    await admin.json("POST", "/admin/creators", {"id": "bolt"})
    ways = ("/admin/creators/acme/keys", "/admin/creators/bolt/keys", "/admin/admin-keys")
    for path, chosen in zip(ways, ("AcmeAcme0001", "BoltBolt0001", "AdminAdmin01"), strict=True):
        made = await admin.json("POST", path, {"id": chosen})
        assert (made["id"], made["key"].split("-")[2]) == (chosen, chosen)
        await admin.refused("POST", path, {"id": chosen}, status=409, code="key_exists", param="id")
    await admin.refused("POST", ways[1], {"id": "AcmeAcme0001"}, status=409, code="key_exists")
    rotate = "/admin/keys/AcmeAcme0001/rotate"
    await admin.refused("POST", rotate, {"id": "BoltBolt0001"}, status=409, code="key_exists")
    rotated = await admin.json("POST", rotate, {"id": "AcmeAcme0002"})
    assert (rotated["id"], rotated["replaces"]) == ("AcmeAcme0002", "AcmeAcme0001")
    await admin.refused("POST", rotate, {"id": "AcmeAcme0002"}, status=409, code="key_exists")
    await admin.refused("POST", rotate, {"id": "AcmeAcme0003"}, status=409, code="key_not_live")
    keys = (await admin.json("GET", "/admin/creators/acme/keys"))["data"]
    assert {key["id"]: key["status"] for key in keys} == {"AcmeAcme0001": "replaced", "AcmeAcme0002": "active"}


async def test_a_key_is_paused_and_resumed(admin):
    key = await admin.world.new_key()
    path = f"/admin/keys/{key['id']}"
    paused = await admin.json("POST", f"{path}/pause")
    assert (paused["id"], paused["status"], paused["paused_at"]) == (key["id"], "paused", "2027-01-15T08:00:00.000Z")
    assert (await admin.json("GET", "/admin/creators/acme/keys"))["data"] == [paused]
    with pytest.raises(PolicyDenied, match="paused"):
        await admin.world.account(key)
    resumed = await admin.json("POST", f"{path}/resume", {})
    assert resumed == {**paused, "status": "active", "paused_at": None}
    assert (await admin.world.account(key)).key_id == key["id"]
    await admin.json("DELETE", path)
    for change in ("pause", "resume"):
        await admin.refused("POST", f"{path}/{change}", status=409, code="key_not_live")
        await admin.refused("POST", f"/admin/keys/nothing/{change}", status=404, code="key_not_found")
        await admin.refused("POST", f"{path}/{change}", {"for_s": 60}, status=422, code="unknown_field")
        await admin.refused("GET", f"{path}/{change}", status=405, code="method_not_allowed")


async def test_a_throttled_creator_is_shown_as_such(admin):
    await admin.json("POST", "/admin/creators", {"id": "acme"})
    await admin.world.accounts.throttle("acme", 7, int(admin.world.clock.now_s * 1000) + 60_000, "an-anomaly")
    assert (await admin.json("GET", "/admin/creators/acme"))["throttle"] == {
        "requests_per_minute": 7,
        "until_at": "2027-01-15T08:01:00.000Z",
        "anomaly_id": "an-anomaly",
    }


async def test_admin_keys_can_be_made_and_revoked(admin):
    made, other = await admin.json("POST", "/admin/admin-keys"), await admin.json("POST", "/admin/admin-keys")
    assert (await admin.ask("GET", "/admin/creators", key=made["key"])).status_code == 200
    listed = {row["id"] for row in (await admin.json("GET", "/admin/admin-keys"))["data"]}
    assert listed == {made["id"], other["id"]}
    assert made["key"] not in (await admin.ask("GET", "/admin/admin-keys")).text
    await admin.json("DELETE", f"/admin/admin-keys/{made['id']}")
    assert (await admin.ask("GET", "/admin/creators", key=made["key"])).status_code == 401


# Who may ask

TRICKS = ["", "/", "/..", "/%2e%2e", "%2F", "//", "/%00", ";x", "?key=sk-gwadmin-x", "/nowhere"]


async def test_a_creators_key_opens_nothing_below_admin_whatever_the_method_and_path(admin):
    key = (await admin.world.new_key())["key"]
    paths = {route.path for route in admin_routes() if isinstance(route, Route)}
    assert len(paths) > 5
    for path in paths:
        assert path.startswith("/admin/"), "AdminOnly guards nothing else"
        plain = path.replace("{", "").replace("}", "")
        for method in ("GET", "POST", "PATCH", "DELETE", "PUT", "OPTIONS", "HEAD", "BREW"):
            assert (await admin.ask(method, plain, key=None)).status_code == 401
            for trick in TRICKS:
                answer = await admin.ask(method, plain + trick, key=key)
                assert answer.status_code == 401, (method, plain + trick)


@pytest.mark.parametrize("path", ["//admin/creators", "/Admin/creators", "/./admin/creators", "/x/../admin/creators"])
async def test_paths_that_only_look_like_admin_lead_nowhere(admin, path):
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "server": ("gateway", 80),
        "client": ("127.0.0.1", 1),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await admin.http._transport.app(scope, receive, send)
    assert sent[0]["status"] in {401, 404}


async def test_the_same_words_refuse_whether_the_path_exists_or_not(admin):
    known = await admin.ask("GET", "/admin/creators", key="wrong")
    unknown = await admin.ask("GET", "/admin/nowhere", key="wrong")
    assert (known.status_code, known.content) == (unknown.status_code, unknown.content)
    await admin.refused("GET", "/admin/nowhere", status=404, code="not_found")
    await admin.refused("PUT", "/admin/creators", status=405, code="method_not_allowed")


async def test_the_control_app_asks_for_no_key(admin):
    log = AuditLog(admin.world.database)
    app = control_app({"accounts": admin.world.accounts, "audit": log, "trusted_proxies": ()})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
        assert (await http.post("/admin/creators", json={"id": "acme"})).status_code == 201
        assert (await http.get("/admin/nowhere")).json()["error"]["code"] == "not_found"
