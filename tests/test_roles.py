"""Every role against every route of the admin API, through the whole app; what support sees of money, which is nothing; and
that somebody who may do everything always stays."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr
from sqlalchemy import insert

from gateway.accounts import Accounts
from gateway.auth import Authenticator
from gateway.config import Settings
from gateway.endpoints.admin import admin_routes
from gateway.errors import GatewayError, RequestError
from gateway.ledger.database import Database
from gateway.ledger.schema import anomalies
from gateway.notices.base import Notice
from gateway.plans import load_plans
from gateway.roles import ROLES, Role
from gateway.secrets import Secrets
from tests.account_world import ROOT
from tests.dashboard.world import World, opened_dashboard
from tests.ledger.books import Place, opened
from tests.servers.postgres_server import PostgresServer

EXPECTED = """
GET    /admin/whoami                           owner finance support
GET    /admin/plans                            owner finance support
GET    /admin/policies                         owner finance support
GET    /admin/policies/{plan}/overrides        owner finance support
POST   /admin/creators                         owner
GET    /admin/creators                         owner finance support
GET    /admin/creators/{id}                    owner finance support
PATCH  /admin/creators/{id}                    owner
DELETE /admin/creators/{id}                    owner
GET    /admin/creators/{id}/limits             owner finance support
GET    /admin/creators/{id}/refusals           owner finance support
GET    /admin/standing?sort=name               owner finance support
GET    /admin/refusals                         owner finance support
POST   /admin/creators/{id}/keys               owner support
GET    /admin/creators/{id}/keys               owner finance support
DELETE /admin/keys/{id}                        owner support
POST   /admin/keys/{id}/rotate                 owner support
POST   /admin/keys/{id}/pause                  owner support
POST   /admin/keys/{id}/resume                 owner support
GET    /admin/paused-keys                      owner finance support
POST   /admin/creators/{id}/credits            owner
GET    /admin/creators/{id}/credits            owner finance
POST   /admin/creators/{id}/adjustments        owner
GET    /admin/credit-packages                  owner finance
POST   /admin/ledger/{request_id}/refunds      owner
POST   /admin/admin-keys                       owner
GET    /admin/admin-keys                       owner finance
PATCH  /admin/admin-keys/{id}                  owner
DELETE /admin/admin-keys/{id}                  owner
GET    /admin/audit                            owner finance
GET    /admin/ledger                           owner finance support
GET    /admin/ledger/{request_id}              owner finance support
GET    /admin/costs?group_by=creator           owner finance
GET    /admin/charges?month=2026-05            owner finance
GET    /admin/charges/months                   owner finance
POST   /admin/charges/{month}/close            owner
POST   /admin/estimate                         owner finance
POST   /admin/rehearsals                       owner finance
GET    /admin/models                           owner finance
GET    /admin/models/{name:path}               owner finance
GET    /admin/prices/diff                      owner finance
GET    /admin/providers                        owner finance support
GET    /admin/providers/figures                owner finance support
GET    /admin/status                           owner finance support
GET    /admin/cache                            owner finance
DELETE /admin/cache                            owner support
GET    /admin/notices                          owner finance support
POST   /admin/notices/test                     owner
GET    /admin/anomalies                        owner finance support
GET    /admin/throttles                        owner finance support
DELETE /admin/throttles/{creator}              owner support
POST   /admin/reload                           owner
"""
"""What each role may do, by hand. A query is what the route needs to be asked well."""

EXPORTS = (
    "/admin/ledger?format=csv",
    "/admin/ledger?format=ndjson",
    "/admin/ledger?%66ormat=csv",
    "/admin/ledger?format=json&format=csv",
    "/admin/costs?group_by=creator&format=csv",
    "/admin/charges?month=2026-05&format=csv",
    "/admin/audit?format=csv",
    "/admin/standing?sort=name&format=csv",
    "/admin/refusals?format=csv",
    "/admin/models?format=csv",
    "/admin/prices/diff?format=csv",
    "/admin/policies?format=csv",
    "/admin/providers?format=csv",
    "/admin/providers/figures?format=csv",
    "/admin/notices?format=csv",
    "/admin/anomalies?format=csv",
    "/admin/admin-keys?format=csv",
)
MONEY_NAMES = re.compile(r"usd|cost|charge|credit|price|payer|balance|budget|quota|amount|saved|forecast|(^|_)units$")
BUDGET_USD, DEAR_NANO_USD = "77777.123", 987_654_321_987
WORDS_OF_MONEY = (BUDGET_USD, "77777123000000", str(DEAR_NANO_USD), "987.654321987", "31415.9", "271828")


def rows() -> Iterator[tuple[str, str, frozenset[str]]]:
    for line in EXPECTED.split("\n")[1:-1]:
        method, path, *roles = line.split()
        yield method, path, frozenset(roles)


def expected() -> dict[tuple[str, str], frozenset[str]]:
    return {(method, path.partition("?")[0]): roles for method, path, roles in rows()}


def served() -> set[tuple[str, str]]:
    found = set()
    for route in admin_routes():
        found |= {(method, route.path) for method in route.methods - {"HEAD"}}  # type: ignore[attr-defined]
    return found


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A gateway in whose database there is money of every kind."""
    async with opened_dashboard(tmp_path, creators=("ada",), admin_key=SecretStr("the-key-of-the-settings")) as world:
        services = world.services
        prices = {"talk": {"input_usd_per_mtok": "31415.9", "credits": 271828}}
        overrides = {"budget_usd_per_month": BUDGET_USD, "prices": prices, "payers": ["credits", "quota"]}
        await services.accounts.update_creator("ada", {"overrides": overrides, "metadata": {"price_usd": "31415.9"}})
        await services.accounts.create_key("ada", overrides={"quota_usd_per_month": BUDGET_USD})
        await services.credits.grant("ada", credits=271828)
        await world.call("ada")
        message = f"The monthly budget, {BUDGET_USD} USD, is used up"
        data = {"used_nano_usd": DEAR_NANO_USD, "limit_usd": BUDGET_USD}
        once = "budget.exhausted/ada/77777123000000"
        await services.lookout.notices.record(Notice("budget.exhausted", once, message, data, "ada"))
        figures = dict.fromkeys(("value", "median", "deviation", "often", "threshold"), DEAR_NANO_USD)
        about = {"creator": "ada", "feature": "", "metric": "cost_nano_usd", "hour": "2026-05-20T11", "hours": 9}
        row = {"id": "01a1", "action": "throttle", "created_at": 1, **about, **figures}
        await services.database.write(insert(anomalies).values(row))
        await services.accounts.throttle("ada", 5, 4_000_000_000_000, "01a1")
        yield world


def filled(world: World, path: str) -> str:
    request_id = world.calls[-1].request_id
    stands_for = {
        "{request_id}": request_id,
        "{month}": "2026-01",
        "{creator}": "ada",
        "{name:path}": "talk",
        "{plan}": "open",
    }
    for braces, value in stands_for.items():
        path = path.replace(braces, value)
    return path.replace("{id}", "ada" if "/creators/" in path else "nobody")


async def ask(world: World, role: Role, method: str, path: str, body: Any = None) -> httpx.Response:
    content = None if body is None else orjson.dumps(body)
    return await world.owner.api(method, path, world.admin_keys[role], content=content)


def code_of(answer: httpx.Response) -> str | None:
    return answer.json()["error"]["code"] if answer.status_code >= 400 and answer.content else None


# Who may do what


def test_the_table_of_this_test_names_every_route_and_no_other():
    assert expected().keys() == served()


@pytest.mark.parametrize("role", ROLES)
async def test_each_role_does_what_it_may_and_nothing_else(world, role):
    refused = set()
    for method, path, _ in sorted(rows(), key=lambda row: row[0] == "DELETE"):
        answer = await ask(world, role, method, filled(world, path))
        assert answer.status_code < 500, (method, path, answer.text)
        if code_of(answer) == "role_not_allowed":
            assert answer.status_code == 403
            refused.add((method, path.partition("?")[0]))
    assert refused == {route for route, roles in expected().items() if role not in roles}


async def test_head_is_refused_where_get_is(world):
    for role in ("finance", "support"):
        for method, path, roles in rows():
            if method == "GET":
                answer = await ask(world, role, "HEAD", filled(world, path))
                assert (answer.status_code == 403) is (role not in roles), path


async def test_what_a_role_may_not_do_is_not_done(world):
    before = await everything(world)
    for role in ("finance", "support"):
        for method, path, roles in rows():
            if method != "GET" and role not in roles:
                answer = await ask(world, role, method, filled(world, path), {"role": "owner"})
                assert code_of(answer) == "role_not_allowed"
    assert await everything(world) == before


async def everything(world: World) -> list[Any]:
    paths = ("/admin/creators", "/admin/creators/ada/keys", "/admin/admin-keys", "/admin/ledger", "/admin/throttles")
    return [await world.admin_api("GET", path) for path in paths]


async def test_support_exports_nothing(world):
    for path in EXPORTS:
        for method in ("GET", "HEAD"):
            assert (await ask(world, "support", method, path)).status_code == 403, path
        # 400: a parameter that is given twice
        assert (await ask(world, "finance", "GET", path)).status_code in (200, 400), path


async def test_a_refusal_names_the_role_that_is_needed(world):
    error = (await ask(world, "support", "GET", "/admin/costs?group_by=creator")).json()["error"]
    assert "`owner` or `finance`" in error["message"]
    assert (await ask(world, "finance", "POST", "/admin/creators", {})).json()["error"]["message"].count("`owner`") == 1


async def test_whoami_says_who_asks(world):
    for role in ROLES:
        shown = (await ask(world, role, "GET", "/admin/whoami")).json()
        assert (shown["name"], shown["role"]) == (f"{role} of the tests", role)
        assert shown["key_id"] in {row["id"] for row in (await world.admin_api("GET", "/admin/admin-keys"))["data"]}
    settings = await world.owner.api("GET", "/admin/whoami", "the-key-of-the-settings")
    assert settings.json() == {"key_id": "settings", "name": "settings", "role": "owner"}


async def test_a_changed_role_counts_from_the_next_request_on(world):
    made = await world.admin_api("POST", "/admin/admin-keys", json={"name": "Eve", "role": "support"})
    path = "/admin/costs?group_by=creator"
    assert (await world.owner.api("GET", path, made["key"])).status_code == 403
    changed = await world.admin_api("PATCH", f"/admin/admin-keys/{made['id']}", json={"role": "finance"})
    assert (changed["name"], changed["role"]) == ("Eve", "finance")
    assert (await world.owner.api("GET", path, made["key"])).status_code == 200


# Support and virtual keys


async def test_support_makes_and_ends_keys_that_decide_on_nothing(world):
    body = {"name": "phone", "models": ["talk"], "overrides": {}, "scopes": [], "default_plan": None}
    made = await ask(world, "support", "POST", "/admin/creators/ada/keys", body)
    assert made.status_code == 201
    assert made.json()["key"].startswith("sk-gw-")
    rotated = await ask(world, "support", "POST", f"/admin/keys/{made.json()['id']}/rotate", {})
    assert rotated.status_code == 201
    for method, end in (("POST", "/pause"), ("POST", "/resume"), ("DELETE", "")):
        assert (await ask(world, "support", method, f"/admin/keys/{rotated.json()['id']}{end}")).status_code == 200


async def test_support_gives_no_key_limits_or_scopes(world):
    before = await everything(world)
    for field in ({"overrides": {"requests_per_minute": 9}}, {"scopes": ["act_for"]}, {"default_plan": "open"}):
        answer = await ask(world, "support", "POST", "/admin/creators/ada/keys", {"name": "x", **field})
        assert (answer.status_code, code_of(answer)) == (403, "role_not_allowed")
        assert answer.json()["error"]["param"] == next(iter(field))
    assert await everything(world) == before


async def test_support_cannot_get_hold_of_a_service_key_by_rotating_it(world):
    made = await world.admin_api("POST", "/admin/creators/ada/keys", json={"scopes": ["act_for"]})
    answer = await ask(world, "support", "POST", f"/admin/keys/{made['id']}/rotate", {})
    assert (answer.status_code, code_of(answer)) == (403, "role_not_allowed")
    assert (await ask(world, "support", "DELETE", f"/admin/keys/{made['id']}")).status_code == 200


async def test_support_is_not_shown_who_spent_more_than_whom(world):
    for query in ("", "?sort=spend", "?sort=name&sort=spend", "?sort=used"):
        assert (await ask(world, "support", "GET", f"/admin/standing{query}")).status_code == 403
    assert (await ask(world, "finance", "GET", "/admin/standing")).status_code == 200


# Money


def names_in(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(names_in, value))
    if isinstance(value, dict):
        return set(value).union(*map(names_in, value.values()))
    return set()


async def test_support_is_answered_without_any_money(world):
    told = ""
    for method, path, roles in rows():
        if method == "GET" and "support" in roles:
            answer = await ask(world, "support", "GET", filled(world, path))
            assert answer.status_code == 200, path
            assert not {name for name in names_in(answer.json()) if MONEY_NAMES.search(name)}, path
            assert answer.headers["content-length"] == str(len(answer.content))
            told += answer.text
    owners = [await ask(world, "owner", "GET", filled(world, path)) for method, path, _ in rows() if method == "GET"]
    known = "".join(answer.text for answer in owners)
    assert [word for word in WORDS_OF_MONEY if word not in known] == []
    assert [word for word in WORDS_OF_MONEY if word in told] == []


async def test_support_sees_the_rest_as_it_is(world):
    creator = (await ask(world, "support", "GET", "/admin/creators/ada")).json()
    assert creator["id"] == "ada"
    assert creator["effective_plan"]["requests_per_hour"] == 1_000_000
    limits = (await ask(world, "support", "GET", "/admin/creators/ada/limits")).json()["limits"]
    by_unit = {limit["unit"]: limit for limit in limits}
    assert by_unit["request"]["used"] >= 1
    assert "used" not in by_unit["cost_nano_usd"]
    (entry,) = (await ask(world, "support", "GET", "/admin/ledger?limit=1")).json()["data"]
    assert entry["input_tokens"] > 0
    (notice,) = (await ask(world, "support", "GET", "/admin/notices")).json()["data"]
    assert (notice["kind"], notice["creator"]) == ("budget.exhausted", "ada")
    (anomaly,) = (await ask(world, "support", "GET", "/admin/anomalies")).json()["data"]
    assert (anomaly["hours"], "value" in anomaly) == (9, False)


async def test_what_support_makes_is_answered_without_money_too(world):
    made = await world.admin_api("POST", "/admin/creators/ada/keys", json={"overrides": {"quota_usd_per_month": "5"}})
    answer = await ask(world, "support", "POST", f"/admin/keys/{made['id']}/pause")
    assert answer.json()["status"] == "paused"
    assert "usd" not in answer.text


# The last owner

STORES = ("sqlite", "postgres")


@pytest.fixture
async def place(request, tmp_path) -> AsyncIterator[Place]:
    if request.param == "sqlite":
        yield tmp_path / "gateway.db"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        name = f"roles_{tmp_path.name}".lower()[-60:]
        yield server.create_database(name)
        server.drop_database(name)


def accounts_of(database: Database, *, has_settings_key: bool = False) -> Accounts:
    plans, secrets = load_plans(), Secrets(ROOT)
    authenticator = Authenticator(database, plans, secrets)
    return Accounts(database, plans, secrets, authenticator, has_settings_key=has_settings_key)


@pytest.mark.parametrize("place", STORES, indirect=True)
async def test_of_two_owners_who_end_each_other_at_once_one_stays(place):
    if isinstance(place, Path):
        databases = [await opened(place)]
    else:
        shared = Settings(
            database_url=SecretStr(place), redis_url=SecretStr("redis://127.0.0.1:1"), secret=SecretStr(ROOT.decode())
        )
        databases = [await opened(place, settings=shared) for _ in range(2)]
    first, last = accounts_of(databases[0]), accounts_of(databases[-1])
    try:
        for end in ("revoke", "demote"):
            keys = [await first.create_admin_key(name=str(number)) for number in range(4)]
            ends = [
                accounts.revoke_admin_key(key["id"])
                if end == "revoke"
                else accounts.update_admin_key(key["id"], {"role": "finance"})
                for key, accounts in zip(keys, [first, last, first, last], strict=True)
            ]
            outcomes = await asyncio.gather(*ends, return_exceptions=True)
            refused = [outcome for outcome in outcomes if isinstance(outcome, RequestError)]
            assert [(error.status, error.code) for error in refused] == [(409, "last_owner")]
            rows = (await last.list_admin_keys())["data"]
            (owner,) = [row for row in rows if row["role"] == "owner" and row["status"] == "active"]
            # What follows begins without any owner.
            await accounts_of(databases[0], has_settings_key=True).revoke_admin_key(owner["id"])
    finally:
        for database in databases:
            await database.close()


async def test_with_a_key_in_the_settings_the_last_owner_may_go(tmp_path):
    database = await opened(tmp_path / "gateway.db")
    try:
        accounts = accounts_of(database, has_settings_key=True)
        made = await accounts.create_admin_key()
        assert (await accounts.update_admin_key(made["id"], {"role": "support"}))["role"] == "support"
        assert (await accounts.revoke_admin_key(made["id"]))["status"] == "revoked"
    finally:
        await database.close()


async def test_a_revoked_admin_key_stays_as_it_is(tmp_path):
    database = await opened(tmp_path / "gateway.db")
    try:
        accounts = accounts_of(database)
        made, _ = await accounts.create_admin_key(name="Ada"), await accounts.create_admin_key()
        revoked = await accounts.revoke_admin_key(made["id"])
        assert await accounts.revoke_admin_key(made["id"]) == revoked
        for changes in ({"name": "Bo"}, {"role": "finance"}):
            with pytest.raises(GatewayError) as refused:
                await accounts.update_admin_key(made["id"], changes)
            assert (refused.value.status, refused.value.code) == (409, "key_not_live")
        with pytest.raises(GatewayError) as unknown:
            await accounts.update_admin_key("nobody", {"name": "Bo"})
        assert unknown.value.code == "key_not_found"
    finally:
        await database.close()


async def test_the_first_run_names_its_admin(tmp_path):
    database = await opened(tmp_path / "gateway.db")
    try:
        accounts = accounts_of(database)
        await accounts.create_first("default", with_admin_key=True)
        (row,) = (await accounts.list_admin_keys())["data"]
        assert (row["name"], row["role"], row["status"]) == ("first admin", "owner", "active")
    finally:
        await database.close()


async def test_an_admin_key_takes_a_name_and_a_role(world):
    bodies = ({"name": ""}, {"name": "a\nb"}, {"name": "x" * 201}, {"role": "root"}, {"role": None}, {"roles": "owner"})
    for method, path in (("POST", "/admin/admin-keys"), ("PATCH", "/admin/admin-keys/nobody")):
        for body in bodies:
            assert (await ask(world, "owner", method, path, body)).status_code in (400, 422), body
