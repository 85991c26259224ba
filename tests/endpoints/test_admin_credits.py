"""Grants, adjustments, refunds and balances over the admin API, asked over ASGI as a client would; and the commands."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import uvicorn
from starlette.applications import Starlette
from typer.testing import CliRunner

from gateway.commands import credits as commands
from gateway.endpoints import EXCEPTION_HANDLERS
from gateway.endpoints.admin import credits as credit_routes
from gateway.lock import CONTROL_SOCKET
from tests.credit_world import CreditWorld, open_credit_world
from tests.ledger.books import COST

CREDITS = "/admin/creators/acme/credits"
ADJUSTMENTS = "/admin/creators/acme/adjustments"


@dataclass
class Admin:
    books: CreditWorld
    http: httpx.AsyncClient

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.request(method, path, content=content, headers=named)

    async def json(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        answer = await self.ask(method, path, body, **headers)
        assert answer.is_success, answer.text
        return answer.json()

    async def refused(self, path: str, body: Any, *, status: int, method: str = "POST", **expected: object) -> None:
        answer = await self.ask(method, path, body)
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (answer.status_code, {name: error[name] for name in expected}) == (status, expected), error


def app_of(books: CreditWorld) -> Starlette:
    app = Starlette(routes=credit_routes.routes, exception_handlers=EXCEPTION_HANDLERS)
    app.state.credits = books.credits
    return app


@pytest.fixture
async def admin(tmp_path) -> AsyncIterator[Admin]:
    async with open_credit_world(tmp_path) as books:
        transport = httpx.ASGITransport(app_of(books))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False) as http:
            yield Admin(books, http)
        assert books.differences() == []


# Refusals


@pytest.mark.parametrize(
    ("path", "body", "status", "expected"),
    [
        pytest.param(CREDITS, {"credits": 1.5}, 400, {"param": "credits"}, id="a float"),
        pytest.param(CREDITS, {"credits": 5.0}, 400, {"param": "credits"}, id="a whole float"),
        pytest.param(CREDITS, b'{"credits": 1e3}', 400, {"param": "credits"}, id="an exponent"),
        pytest.param(CREDITS, b'{"credits": 99999999999999999999}', 400, {"param": "credits"}, id="above 64 bits"),
        pytest.param(CREDITS, {"credits": "9" * 1_000}, 400, {"param": "credits"}, id="an endless number"),
        pytest.param(CREDITS, {"credits": True}, 400, {"param": "credits"}, id="a truth"),
        pytest.param(CREDITS, {"credits": [1]}, 400, {"param": "credits"}, id="a list"),
        pytest.param(CREDITS, {"credits": 1, "payer": "quota"}, 400, {"param": "payer"}, id="money is not granted"),
        pytest.param(CREDITS, {"credits": 1, "amount": 5}, 422, {"param": "amount"}, id="unknown field"),
        pytest.param(CREDITS, {"credits": 1, "note": "a\nb"}, 400, {"param": "note"}, id="control characters"),
        pytest.param(CREDITS, {"credits": 1, "note": "x" * 1_001}, 400, {"param": "note"}, id="a long note"),
        pytest.param(CREDITS, {"package": "huge"}, 400, {"code": "package_unknown"}, id="no such package"),
        pytest.param(
            CREDITS,
            {"credits": 1, "payer": "promo_credits", "expires_at": "2026-05-14T12:00:00"},
            400,
            {"param": "expires_at"},
            id="an instant of no zone",
        ),
        pytest.param(
            CREDITS, {"credits": 1, "idempotency_key": ""}, 400, {"param": "idempotency_key"}, id="an empty key"
        ),
        pytest.param(
            CREDITS, {"credits": 1, "idempotency_key": "ä"}, 400, {"param": "idempotency_key"}, id="a key beyond ASCII"
        ),
        pytest.param(
            CREDITS, {"credits": 1, "idempotency_key": "k" * 256}, 400, {"param": "idempotency_key"}, id="a long key"
        ),
        pytest.param(ADJUSTMENTS, {"amount_usd": "1"}, 400, {"param": "payer"}, id="no payer"),
        pytest.param(ADJUSTMENTS, {"payer": "free_images"}, 400, {"param": "payer"}, id="free images"),
        pytest.param(
            ADJUSTMENTS, {"payer": "quota", "amount_usd": 0.1}, 400, {"param": "amount_usd"}, id="money as a float"
        ),
        pytest.param(
            ADJUSTMENTS, {"payer": "credits", "credits": -1}, 409, {"code": "credits_insufficient"}, id="nothing left"
        ),
        pytest.param("/admin/ledger/none/refunds", {}, 404, {"code": "not_found"}, id="no such call"),
        pytest.param("/admin/ledger/none/refunds", {"attempt": 0}, 400, {"param": "attempt"}, id="attempt 0"),
        pytest.param(
            "/admin/creators/nobody/credits", {"credits": 1}, 404, {"code": "creator_not_found"}, id="no such creator"
        ),
        pytest.param(
            "/admin/creators/nobody/adjustments",
            {"payer": "quota", "amount_usd": 1},
            404,
            {"code": "creator_not_found"},
            id="nobody to adjust",
        ),
        pytest.param(CREDITS, [], 400, {"code": "invalid_json"}, id="no object"),
    ],
)
async def test_an_unusable_request_is_refused_with_the_field_and_books_nothing(admin, path, body, status, expected):
    await admin.refused(path, body, status=status, **expected)
    for kind in ("grant", "adjustment", "refund"):
        assert await admin.books.entries(kind) == []


@pytest.mark.parametrize("query", ["limit=0", "cursor=x", "cursor=%27%20OR%201=1", "plan=free"])
async def test_an_unusable_page_of_grants_is_refused(admin, query):
    answer = await admin.ask("GET", f"{CREDITS}?{query}")
    assert answer.status_code in (400, 422), answer.text


async def test_the_balance_of_nobody_is_not_found(admin):
    await admin.refused("/admin/creators/nobody/credits", None, method="GET", status=404, code="creator_not_found")


# What is booked


async def test_credits_are_granted_spent_refunded_taken_away_and_told(admin):
    granted = await admin.ask("POST", CREDITS, {"credits": "10", "note": "Welcome"})
    assert (granted.status_code, granted.json()["payer_amount"], granted.json()["expires_at"]) == (201, -10, None)
    promo = {"payer": "promo_credits", "credits": 4, "expires_at": "2026-05-14T14:30:00+02:00"}
    assert (await admin.json("POST", CREDITS, promo))["expires_at"] == "2026-05-14T12:30:00.000Z"
    assert await admin.books.spend(6, "credits")
    (call,) = await admin.books.entries("usage")
    refund = await admin.json("POST", f"/admin/ledger/{call['request_id']}/refunds", {"credits": 2})
    assert (refund["kind"], refund["payer_amount"], refund["corrects"]) == ("refund", -2, call["id"])
    taken = await admin.json("POST", ADJUSTMENTS, {"payer": "credits", "credits": -1})
    assert (taken["kind"], taken["payer_amount"]) == ("adjustment", 1)
    shown = await admin.json("GET", CREDITS)
    assert shown["creator"] == "acme"
    assert shown["balance"]["credits"] == {"granted": 10, "spent": 5, "held": 0, "left": 5}
    assert shown["balance"]["promo_credits"]["next_expiry"] == {"at": "2026-05-14T12:30:00.000Z", "credits": 4}
    assert [(row["payer"], row["credits"], row["note"]) for row in shown["data"]] == [
        ("promo_credits", 4, ""),
        ("credits", 10, "Welcome"),
    ]


async def test_grants_are_paged(admin):
    for number in range(3):
        await admin.json("POST", CREDITS, {"credits": number + 1})
    first = await admin.json("GET", f"{CREDITS}?limit=2")
    rest = await admin.json("GET", f"{CREDITS}?limit=2&cursor={first['next_cursor']}")
    assert [row["credits"] for row in first["data"] + rest["data"]] == [3, 2, 1]
    assert rest["next_cursor"] is None


async def test_money_is_given_back_and_mended_as_exact_decimals(admin):
    await admin.books.call(COST, "quota", request_id="r")
    refund = await admin.json("POST", "/admin/ledger/r/refunds", {"attempt": 1, "amount_usd": "0.000000001"})
    assert (refund["charge_nano_usd"], refund["charge_usd"]) == (-1, "-0.000000001")
    adjusted = await admin.json("POST", ADJUSTMENTS, {"payer": "quota", "amount_usd": "-12.3"})
    assert (adjusted["charge_nano_usd"], adjusted["charge_usd"]) == (-12_300_000_000, "-12.3")


# Asking again


async def test_an_idempotency_key_may_come_as_a_header_or_as_a_field(admin):
    first = await admin.json("POST", CREDITS, {"credits": 5}, idempotency_key="k1")
    assert await admin.json("POST", CREDITS, {"credits": 5, "idempotency_key": "k1"}) == first
    assert await admin.json("POST", CREDITS, {"credits": 5, "idempotency_key": "k1"}, idempotency_key="k1") == first
    assert len(await admin.books.entries("grant")) == 1


async def test_two_keys_at_once_are_refused(admin):
    answer = await admin.ask("POST", CREDITS, {"credits": 5, "idempotency_key": "k1"}, idempotency_key="k2")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "idempotency_key")


async def test_an_unusable_header_is_refused_like_the_field(admin):
    answer = await admin.ask("POST", CREDITS, {"credits": 5}, idempotency_key="k" * 256)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "idempotency_key")


async def test_a_key_used_for_something_else_is_a_conflict(admin):
    await admin.json("POST", CREDITS, {"credits": 5}, idempotency_key="k1")
    answer = await admin.ask("POST", CREDITS, {"credits": 6}, idempotency_key="k1")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (409, "idempotency_conflict", "idempotency_key")


async def test_twins_over_the_wire_are_answered_alike_and_post_once(admin):
    twins = await asyncio.gather(
        *(admin.ask("POST", CREDITS, {"credits": 5}, idempotency_key="twin") for _ in range(10))
    )
    assert {twin.status_code for twin in twins} == {201}
    assert len({twin.content for twin in twins}) == 1
    assert len(await admin.books.entries("grant")) == 1


# The commands


@pytest.fixture
def served(tmp_path, monkeypatch) -> Iterator[None]:
    """The routes on the control socket of a data folder, as `gateway serve` has them."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(folder))
    thread = _Served(folder)
    thread.start()
    assert thread.is_ready.wait(30)
    try:
        yield
    finally:
        thread.server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


class _Served(threading.Thread):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.is_ready = threading.Event()
        self.server: uvicorn.Server

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        async with open_credit_world(self._folder) as books:
            await books.call(COST, "quota", request_id="r")
            await books.world.accounts.create_creator("busy")
            await books.credits.grant("busy", credits=9)
            await books.hold(2, "credits", creator="busy")
            address = str(self._folder / CONTROL_SOCKET)
            config = uvicorn.Config(app_of(books), uds=address, lifespan="off", log_config=None)
            is_ready = self.is_ready

            class Telling(uvicorn.Server):
                async def startup(self, sockets: Any = None) -> None:
                    await super().startup(sockets)
                    is_ready.set()

            self.server = Telling(config)
            await self.server.serve()


def test_commands_grant_adjust_and_refund_through_the_running_gateway(served):
    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(commands.app, [*arguments, "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    granted = run("grant", "acme", "25", "--note", "Welcome", "--idempotency-key", "k")
    assert (granted["payer"], granted["payer_amount"], granted["metadata"]) == ("credits", -25, {"note": "Welcome"})
    assert run("grant", "acme", "25", "--note", "Welcome", "--idempotency-key", "k") == granted
    assert run("grant", "acme", "--package", "small")["payer_amount"] == -500
    promo = run("grant", "acme", "5", "--promo", "--expires-at", "2026-06-01T00:00:00Z")
    assert (promo["payer"], promo["expires_at"]) == ("promo_credits", "2026-06-01T00:00:00.000Z")
    assert run("adjust", "acme", "--payer", "credits", "--credits", "-20")["payer_amount"] == 20
    assert run("adjust", "acme", "--amount-usd", "-0.5")["charge_nano_usd"] == -500_000_000
    assert run("refund", "r", "--amount-usd", "0.0000001")["charge_nano_usd"] == -100


def test_a_balance_of_the_running_gateway_knows_what_open_calls_hold(served):
    result = CliRunner().invoke(commands.app, ["balance", "busy", "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["balance"]["credits"] == {"granted": 9, "spent": 0, "held": 2, "left": 7}


async def test_a_balance_is_read_from_the_file_where_no_gateway_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path))
    async with open_credit_world(tmp_path) as books:
        await books.credits.grant("acme", package="small")
    # In a thread of its own: the command brings an event loop along.
    arguments = [commands.app, ["balance", "acme"]]
    result = await asyncio.to_thread(CliRunner().invoke, *arguments, catch_exceptions=False)
    assert "left     500\n" in result.stdout
    assert "small" in result.stdout


def test_people_are_shown_the_entry_that_was_booked(served):
    result = CliRunner().invoke(commands.app, ["grant", "acme", "7"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "credits     7\n" in result.stdout
