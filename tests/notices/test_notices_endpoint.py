"""`/admin/notices` and `gateway notices`, over a real database, a real outbox and a receiver on loopback."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import structlog
import typer.testing
import uvicorn
from standardwebhooks import Webhook as Verifier
from starlette.applications import Starlette

from gateway.commands import notices as commands
from gateway.endpoints import EXCEPTION_HANDLERS
from gateway.endpoints.admin import notices as endpoint
from gateway.errors import ConfigError, GatewayError
from gateway.ledger.database import Database
from gateway.ledger.ids import is_entry_id
from gateway.ledger.periods import rfc3339
from gateway.lock import CONTROL_SOCKET
from gateway.notices import delivery as delivery_module
from gateway.notices.book import Notices
from gateway.notices.delivery import Delivery
from gateway.notices.targets import Target
from gateway.notices.webhook import Webhook
from gateway.secrets import Secrets
from tests.account_world import NOON_S, World, open_world
from tests.notices.receivers import SECRET, Receiver, notice, outbox_where, receiving, silence, status

Cli = Callable[..., Any]


class Desk:
    """The endpoint with all that is behind it."""

    def __init__(self, database: Database, targets: list[Target], clock: Callable[[], float]) -> None:
        self.database = database
        self.delivery = Delivery(database, targets, wall_clock=clock, every_s=0.01)
        self.book = Notices(database, targets, wall_clock=clock, on_recorded=self.delivery.wake)
        self.app = Starlette(routes=endpoint.routes, exception_handlers=EXCEPTION_HANDLERS)
        for name, value in (
            ("database", database),
            ("notices", self.book),
            ("notice_delivery", self.delivery),
        ):
            setattr(self.app.state, name, value)
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://gateway")

    async def ask(self, method: str, path: str, expect: int = 200, **options: Any) -> Any:
        answer = await self._http.request(method, path, **options)
        assert answer.status_code == expect, answer.text
        return answer.json()

    async def list(self, **params: str | int) -> Any:
        return await self.ask("GET", "/admin/notices", params=params)

    async def refused(self, expect: int, method: str = "GET", path: str = "/admin/notices", **options: Any) -> Any:
        return (await self.ask(method, path, expect, **options))["error"]

    async def close(self) -> None:
        await self._http.aclose()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@asynccontextmanager
async def delivering(database: Database, url: str | None, clock: Callable[[], float]) -> AsyncIterator[Desk]:
    targets: list[Target] = [] if url is None else [Webhook(url, SECRET, wall_clock=clock)]
    desk = Desk(database, targets, clock)
    desk.delivery.start()
    try:
        yield desk
    finally:
        await desk.delivery.close()
        for target in targets:
            await target.close()
        await desk.close()


@pytest.fixture
async def desk(world: World, receiver: Receiver) -> AsyncIterator[Desk]:
    async with delivering(world.database, receiver.url, world.clock) as desk:
        yield desk


@pytest.fixture
async def silent_desk(world: World) -> AsyncIterator[Desk]:
    """Nothing is configured."""
    async with delivering(world.database, None, world.clock) as desk:
        yield desk


async def test_a_notice_is_listed_with_its_figures_and_what_became_of_it(desk: Desk) -> None:
    await desk.book.record(notice())
    (row,) = await outbox_where(desk.database, lambda rows: rows[0]["state"] == "delivered", "it is delivered")
    now = rfc3339(int(NOON_S * 1000))
    assert await desk.list() == {
        "data": [
            {
                "id": row["notice_id"],
                "kind": "day_cost.above",
                "creator": "acme",
                "message": "The day has cost more than 200 USD.",
                "data": {"cost_nano_usd": 201},
                "once": "day_cost.above/2027-01-15",
                "created_at": now,
                "deliveries": [
                    {
                        "target": "webhook",
                        "state": "delivered",
                        "attempts": 1,
                        "next_at": None,
                        "ended_at": now,
                        "error": "",
                    }
                ],
            }
        ],
        "next_cursor": None,
    }


async def test_a_failed_attempt_shows_its_error_and_when_it_is_tried_next(desk: Desk, receiver: Receiver) -> None:
    receiver.answers = [status(500)]
    await desk.book.record(notice())
    (row,) = await outbox_where(desk.database, lambda rows: rows[0]["attempts"] == 1, "it was tried")
    ((delivery,),) = [shown["deliveries"] for shown in (await desk.list())["data"]]
    assert delivery == {
        "target": "webhook",
        "state": "pending",
        "attempts": 1,
        "next_at": rfc3339(row["next_at"]),
        "ended_at": None,
        "error": "http_500",
    }


async def test_pages_are_whole_and_newest_first_while_new_ones_come(silent_desk: Desk) -> None:
    for number in range(5):
        await silent_desk.book.record(notice(f"once {number}"))
    page = await silent_desk.list(limit=2)
    seen = [row["once"] for row in page["data"]]
    await silent_desk.book.record(notice("new"))
    while page["next_cursor"] is not None:
        page = await silent_desk.list(limit=2, cursor=page["next_cursor"])
        seen += [row["once"] for row in page["data"]]
    assert seen == [f"once {number}" for number in (4, 3, 2, 1, 0)]


async def test_lists_are_filtered_by_kind_and_creator(silent_desk: Desk) -> None:
    await silent_desk.book.record(notice("a", creator="acme"))
    await silent_desk.book.record(notice("b", creator="zeta", kind="budget.downgraded"))
    await silent_desk.book.record(notice("c", creator="acme", kind="budget.downgraded"))
    wanted = [
        ({"creator": "acme"}, ["c", "a"]),
        ({"kind": "budget.downgraded"}, ["c", "b"]),
        ({"kind": "budget.downgraded", "creator": "acme"}, ["c"]),
        ({"kind": "test"}, []),
        ({"creator": "' OR 1=1 --"}, []),
    ]
    for params, expected in wanted:
        assert [row["once"] for row in (await silent_desk.list(**params))["data"]] == expected


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"kind": "quota.81_percent"}, "kind"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"cursor": "bm9uZQ"}, "cursor"),
    ],
)
async def test_wrong_parameters_are_refused_by_name(silent_desk: Desk, params: dict[str, str], param: str) -> None:
    error = await silent_desk.refused(400, params=params)
    assert (error["code"], error["param"]) == ("invalid_value", param)


async def test_unknown_parameters_are_refused(silent_desk: Desk) -> None:
    assert (await silent_desk.refused(400, params={"creators": "acme"}))["code"] == "unknown_parameter"


async def test_a_test_is_answered_at_once_and_arrives_signed(desk: Desk, receiver: Receiver) -> None:
    first = await desk.ask("POST", "/admin/notices/test", 202)
    second = await desk.ask("POST", "/admin/notices/test", 202, json={})
    assert first["targets"] == ["webhook"]
    assert is_entry_id(first["id"].removeprefix("ntc_"))
    posts = await receiver.has(2)
    assert [post.headers["webhook-id"] for post in posts] == [first["id"], second["id"]]
    assert posts[0].json["type"] == "test"
    assert [row["id"] for row in (await desk.list(kind="test"))["data"]] == [second["id"], first["id"]]


async def test_a_test_does_not_wait_for_its_receiver(
    monkeypatch: pytest.MonkeyPatch, desk: Desk, receiver: Receiver
) -> None:
    monkeypatch.setattr(delivery_module, "_CLOSE_S", 0.05)
    receiver.otherwise = silence
    for _ in range(3):
        await desk.ask("POST", "/admin/notices/test", 202)
    await receiver.has(1)
    states = [row["deliveries"][0]["state"] for row in (await desk.list())["data"]]
    assert states == ["pending"] * 3


async def test_without_a_target_a_test_is_refused_and_nothing_is_recorded(silent_desk: Desk) -> None:
    error = await silent_desk.refused(409, "POST", "/admin/notices/test")
    assert error["code"] == "no_notice_targets"
    assert (await silent_desk.list())["data"] == []


async def test_a_test_takes_no_fields(desk: Desk) -> None:
    error = await desk.refused(422, "POST", "/admin/notices/test", json={"target": "webhook"})
    assert (error["code"], error["param"]) == ("unknown_field", "target")


async def test_no_address_is_listed(desk: Desk, receiver: Receiver) -> None:
    receiver.answers = [status(500)]
    await desk.book.record(notice())
    await outbox_where(desk.database, lambda rows: rows[0]["attempts"] == 1, "it was tried")
    assert "s3cr3t" in receiver.url
    assert "s3cr3t" not in str(await desk.list())


# Commands


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path))

    def run(*arguments: str) -> Any:
        return typer.testing.CliRunner().invoke(commands.app, arguments)

    return run


@contextmanager
def running(folder: Path, *answers: Any, has_target: bool = True) -> Iterator[Receiver]:
    """The control socket of a gateway in `folder`, and a receiver of its webhooks, in a thread of their own."""
    ready, stop = threading.Event(), threading.Event()
    found: list[Receiver] = []

    async def serve() -> None:
        async with receiving() as receiver, open_world(folder) as world:
            receiver.answers = list(answers)
            found.append(receiver)
            async with delivering(world.database, receiver.url if has_target else None, world.clock) as desk:
                config = uvicorn.Config(desk.app, uds=str(folder / CONTROL_SOCKET), lifespan="off", log_config=None)
                server = uvicorn.Server(config)
                task = asyncio.get_running_loop().create_task(server._serve())
                while not server.started:
                    await asyncio.sleep(0.005)
                ready.set()
                await asyncio.to_thread(stop.wait)
                server.should_exit = True
                await task

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield found[0]
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def test_the_test_command_tells_that_all_arrived(tmp_path: Path, cli: Cli) -> None:
    with running(tmp_path) as receiver:
        result = cli("test")
        assert result.exit_code == 0, result.output
        assert "delivered" in result.output
        assert [post.json["type"] for post in receiver.posts] == ["test"]


def test_the_test_command_tells_what_went_wrong_and_fails(tmp_path: Path, cli: Cli) -> None:
    with running(tmp_path, status(403)) as receiver:
        with structlog.testing.capture_logs():  # the gateway's thread writes to the same output
            result = cli("test", "--json")
        shown = orjson.loads(result.output)
        assert result.exit_code == 1
        assert [(row["target"], row["state"], row["error"]) for row in shown["deliveries"]] == [
            ("webhook", "pending", "http_403")
        ]
        assert shown["id"] == receiver.posts[0].headers["webhook-id"]


def test_the_test_command_waits_for_a_bounded_time(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_TEST_S", 0.3)
    monkeypatch.setattr(delivery_module, "_CLOSE_S", 0.05)
    with running(tmp_path, silence):
        result = cli("test")
        assert result.exit_code == 1
        assert "pending" in result.output


def test_without_a_running_gateway_there_is_nothing_to_test(tmp_path: Path, cli: Cli) -> None:
    result = cli("test")
    assert isinstance(result.exception, ConfigError)


def test_without_a_target_the_test_command_says_what_to_set(tmp_path: Path, cli: Cli) -> None:
    with running(tmp_path, has_target=False):
        result = cli("test")
    assert isinstance(result.exception, GatewayError)
    assert "GATEWAY_WEBHOOK_URL" in result.exception.message


def test_notices_are_listed_whether_a_gateway_runs_or_not(tmp_path: Path, cli: Cli) -> None:
    with running(tmp_path):
        assert cli("test").exit_code == 0
        while_running = orjson.loads(cli("list", "--json").output)
    (row,) = orjson.loads(cli("list", "--json").output)
    assert [row] == while_running
    assert (row["kind"], row["deliveries"][0]["state"]) == ("test", "delivered")
    shown = cli("list", "--kind", "test").output
    assert "webhook=delivered" in shown
    assert orjson.loads(cli("list", "--creator", "acme", "--json").output) == []


def test_the_signing_secret_is_printed_as_receivers_need_it(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_WEBHOOK_SECRET", SECRET)
    assert cli("secret").output == SECRET + "\n"
    monkeypatch.delenv("GATEWAY_WEBHOOK_SECRET")
    monkeypatch.setenv("GATEWAY_SECRET", "a root secret of the tests, long enough")
    printed = cli("secret").output.strip()
    key = Secrets(b"a root secret of the tests, long enough").hmac_key("webhooks")
    assert Verifier(printed)._whsecret == key


def test_the_secret_command_makes_no_secret(tmp_path: Path, cli: Cli) -> None:
    result = cli("secret")
    assert isinstance(result.exception, ConfigError)
    assert str(tmp_path) in str(result.exception)
    assert list(tmp_path.iterdir()) == []
