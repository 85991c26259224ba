"""Who may pass to what lies below /v1, and as which creator, asked over ASGI as a client would."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from structlog.testing import capture_logs

from gateway.addresses import trusted_networks
from gateway.endpoints import EXCEPTION_HANDLERS
from gateway.endpoints.guard import CreatorOnly, RequestLog
from gateway.responder import Header
from policies.types import Account
from tests.account_world import World, open_world


async def whose(request: Request) -> Response:
    account = request.state.account
    return JSONResponse({"creator": account.creator, "key_id": account.key_id, "plan": account.plan.name})


async def open_to_all(request: Request) -> Response:
    return Response("open")


@dataclass
class Guarded:
    world: World
    app: Starlette
    http: httpx.AsyncClient

    async def ask(self, key: str | None, *creators: str | bytes, path: str = "/v1/me") -> httpx.Response:
        headers = [] if key is None else [(b"authorization", b"Bearer " + key.encode())]
        named = [(b"X-Gateway-Creator", name if isinstance(name, bytes) else name.encode()) for name in creators]
        return await self.http.get(path, headers=[*headers, *named])

    async def refused(self, key: str | None, *creators: str | bytes, status: int, code: str) -> None:
        answer = await self.ask(key, *creators)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers["x-request-id"]


async def no_windows(account: Account) -> list[Header]:
    """Nothing is counted here; what the headers say is tested where something is."""
    return []


@pytest.fixture
async def guarded(tmp_path) -> AsyncIterator[Guarded]:
    """Behind the middleware as the port has it."""
    async with open_world(tmp_path) as world:
        routes = [Route("/v1/me", whose), Route("/health/live", open_to_all)]
        app = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)
        app.add_middleware(CreatorOnly)
        app.add_middleware(RequestLog)
        app.state.authenticator = world.authenticator
        app.state.trusted_proxies = trusted_networks("10.0.0.0/8")
        app.state.window_headers = no_windows
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False) as http:
            yield Guarded(world, app, http)


async def test_a_key_reads_as_its_own_creator(guarded):
    key = await guarded.world.new_key()
    for names in ((), ("acme",)):
        answer = await guarded.ask(key["key"], *names)
        assert answer.json() == {"creator": "acme", "key_id": key["id"], "plan": "free"}


async def test_a_service_key_reads_as_whom_it_names(guarded):
    await guarded.world.accounts.create_creator("alice", plan="pro")
    key = await guarded.world.new_service_key(default_plan="starter")
    answers = [(await guarded.ask(key["key"], *names)).json() for names in ((), ("alice",), ("newcomer",))]
    assert answers == [
        {"creator": creator, "key_id": key["id"], "plan": plan}
        for creator, plan in (("app", "free"), ("alice", "pro"), ("newcomer", "starter"))
    ]


async def test_creator_a_with_the_header_of_b_reads_nothing_of_b(guarded):
    key = (await guarded.world.new_key("a"))["key"]
    await guarded.world.new_key("b")
    for name in ("b", "nobody", "A", b"\xff"):
        await guarded.refused(key, name, status=403, code="act_for_not_allowed")
    await guarded.refused(key, "a", "b", status=400, code="invalid_value")


async def test_a_service_key_is_told_why_it_may_not_read(guarded):
    accounts = guarded.world.accounts
    await accounts.create_creator("gone")
    await accounts.delete_creator("gone")
    key = (await guarded.world.new_service_key())["key"]
    await guarded.refused(key, "gone", status=403, code="creator_inactive")
    await guarded.refused(key, "nobody", status=403, code="creator_unknown")
    for name in ("..", "x" * 129, b"a\x01b", "müller", ""):
        await guarded.refused(key, name, status=400, code="invalid_value")
    await guarded.refused(key, "app", "app", status=400, code="invalid_value")


async def test_without_a_key_the_header_says_nothing(guarded):
    await guarded.world.accounts.create_creator("alice")
    for key in (None, "wrong"):
        await guarded.refused(key, "alice", status=401, code="invalid_api_key")
    assert (await guarded.ask(None, "alice", path="/health/live")).text == "open"


async def test_a_refused_name_is_logged_under_the_key_that_sent_it(guarded):
    key = await guarded.world.new_key("a")
    with capture_logs() as lines:
        await guarded.refused(key["key"], "b", status=403, code="act_for_not_allowed")
    finished = [line for line in lines if line["event"] == "request_finished"]
    assert [(line["creator"], line["key_id"], line["status"]) for line in finished] == [("a", key["id"], 403)]


# Addresses


@pytest.mark.parametrize("path", ["/v1/me", "/v1/nothing-here"])
@pytest.mark.parametrize("by", ["key", "creator"])
async def test_from_another_address_nothing_is_told_whatever_the_path(guarded, path, by):
    networks = {"addresses": ["192.0.2.0/24"]}
    await guarded.world.accounts.create_creator("acme", overrides=networks if by == "creator" else {})
    key = (await guarded.world.new_key(overrides=networks if by == "key" else {}))["key"]
    answer = await guarded.ask(key, path=path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "address_not_allowed")
    assert answer.headers["x-should-retry"] == "false"
    assert b"192.0.2" not in answer.content


async def test_from_an_allowed_address_the_key_reads(guarded):
    key = (await guarded.world.new_key(overrides={"addresses": ["127.0.0.0/8"]}))["key"]
    assert (await guarded.ask(key)).status_code == 200


@pytest.mark.parametrize(
    ("forwarded", "status"), [("192.0.2.7", 200), ("203.0.113.9", 403), ("192.0.2.7, 203.0.113.9", 403)]
)
async def test_behind_a_trusted_proxy_it_is_the_clients_address_that_counts(guarded, forwarded, status):
    key = (await guarded.world.new_key(overrides={"addresses": ["192.0.2.0/24"]}))["key"]
    transport = httpx.ASGITransport(guarded.app, client=("10.1.2.3", 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False) as http:
        headers = {"authorization": f"Bearer {key}", "x-forwarded-for": forwarded}
        assert (await http.get("/v1/me", headers=headers)).status_code == status


async def test_without_a_peers_address_an_allow_list_lets_nobody_read(guarded):
    key = (await guarded.world.new_key(overrides={"addresses": ["0.0.0.0/0", "::/0"]}))["key"]
    transport = httpx.ASGITransport(guarded.app, client=("", 0))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False) as http:
        answer = await http.get("/v1/me", headers={"authorization": f"Bearer {key}"})
    assert answer.json()["error"]["code"] == "address_not_allowed"


async def test_a_service_key_elsewhere_is_not_told_who_exists(guarded):
    await guarded.world.accounts.create_creator("alice")
    key = (await guarded.world.new_service_key(overrides={"addresses": ["192.0.2.0/24"]}))["key"]
    for name in ("alice", "nobody", ".."):
        await guarded.refused(key, name, status=403, code="address_not_allowed")


async def test_a_named_creators_own_addresses_count_too(guarded):
    await guarded.world.accounts.create_creator("alice", overrides={"addresses": ["192.0.2.0/24"]})
    key = (await guarded.world.new_service_key())["key"]
    await guarded.refused(key, "alice", status=403, code="address_not_allowed")


# Reading makes nobody


@pytest.mark.parametrize("path", ["/v1/me", "/v1/nothing-here"])
async def test_reading_as_somebody_new_makes_nobody(guarded, path):
    key = (await guarded.world.new_service_key(default_plan="starter"))["key"]
    for _ in range(2):
        await guarded.ask(key, "typo", path=path)
    assert await guarded.world.rows_of("typo") == []
