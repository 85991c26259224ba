"""`/admin/anomalies` and `/admin/throttles` over a real database, and the commands that read the same file."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from click.testing import Result
from starlette.applications import Starlette
from typer.testing import CliRunner

from gateway.cli import app
from gateway.endpoints import EXCEPTION_HANDLERS
from gateway.endpoints.admin import anomalies
from gateway.errors import GatewayError
from gateway.ledger.anomalies import Finding, note_done, record
from gateway.ledger.database import Database
from gateway.ledger.periods import rfc3339
from tests.account_world import NOON_S, World, open_world
from tests.ledger.books import change, count

AT_MS = int(NOON_S * 1000)
CALLS = Finding("acme", "chat-ui", "calls", "2027-01-15T08", 40, 4, 1, 9, 12, 30, "throttle")
COST = Finding(
    "zeta", "", "cost_nano_usd", "2027-01-15T08", 1_500_000_000, 250_000_000, 0, 260_000_000, 10**9, 24, "notify"
)
THROTTLE = "INSERT INTO throttles (creator, requests_per_minute, until_at, anomaly_id) VALUES (?, ?, ?, ?)"


class Admin:
    def __init__(self, world: World, http: httpx.AsyncClient) -> None:
        self.world = world
        self._http = http

    async def ask(self, method: str, path: str, **query: Any) -> httpx.Response:
        return await self._http.request(method, path, params=query or None)

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.ask("GET", path, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Admin]:
    async with open_world(tmp_path) as world:
        starlette = Starlette(routes=anomalies.routes, exception_handlers=EXCEPTION_HANDLERS)
        starlette.state.database = world.database
        starlette.state.accounts = world.accounts
        async with httpx.AsyncClient(transport=httpx.ASGITransport(starlette), base_url="http://gateway") as http:
            yield Admin(world, http)


async def recorded(database: Database, *findings: Finding) -> list[str]:
    return [str(await record(database, finding, AT_MS)) for finding in findings]


async def test_anomalies_are_listed_with_their_figures_the_newest_first(door: Admin) -> None:
    first, second = await recorded(door.world.database, CALLS, COST)
    await note_done(door.world.database, first, {"requests_per_minute": 1}, AT_MS + 5)
    listed = await door.get("/admin/anomalies")
    assert listed == {
        "data": [
            {
                "id": second,
                "creator": "zeta",
                "feature": "",
                "metric": "cost_nano_usd",
                "hour": "2027-01-15T08",
                "value": 1_500_000_000,
                "value_usd": "1.5",
                "median": 250_000_000,
                "median_usd": "0.25",
                "deviation": 0,
                "deviation_usd": "0",
                "often": 260_000_000,
                "often_usd": "0.26",
                "threshold": 10**9,
                "threshold_usd": "1",
                "hours": 24,
                "action": "notify",
                "details": {},
                "created_at": rfc3339(AT_MS),
            },
            {
                "id": first,
                "creator": "acme",
                "feature": "chat-ui",
                "metric": "calls",
                "hour": "2027-01-15T08",
                "value": 40,
                "value_usd": None,
                "median": 4,
                "median_usd": None,
                "deviation": 1,
                "deviation_usd": None,
                "often": 9,
                "often_usd": None,
                "threshold": 12,
                "threshold_usd": None,
                "hours": 30,
                "action": "throttle",
                "details": {"requests_per_minute": 1, "done_at": rfc3339(AT_MS + 5)},
                "created_at": rfc3339(AT_MS),
            },
        ],
        "next_cursor": None,
    }


async def test_anomalies_are_filtered_and_paged(door: Admin) -> None:
    findings = [CALLS._replace(hour=f"2027-01-15T{hour:02}") for hour in range(5)]
    ids = await recorded(door.world.database, *findings, COST)
    assert ids == sorted(ids), "ids grow, also within one millisecond"
    assert [row["creator"] for row in (await door.get("/admin/anomalies", creator="zeta"))["data"]] == ["zeta"]
    assert len((await door.get("/admin/anomalies", metric="calls"))["data"]) == 5
    assert (await door.get("/admin/anomalies", creator="zeta", metric="calls"))["data"] == []
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for size in (2, 2, 1):
        page = await door.get("/admin/anomalies", creator="acme", limit=2, **cursor)
        assert len(page["data"]) == size
        seen += [row["id"] for row in page["data"]]
        cursor = {"cursor": page["next_cursor"]}
    assert cursor == {"cursor": None}
    assert seen == ids[4::-1]


async def test_an_hour_is_recorded_once(door: Admin) -> None:
    assert await record(door.world.database, CALLS, AT_MS)
    assert await record(door.world.database, CALLS._replace(value=99), AT_MS + 1) is None
    assert count(door.world.path, "anomalies") == 1


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"metric": "tokens"}, "metric"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"feature": "x"}, None),
    ],
)
async def test_wrong_parameters_are_refused(door: Admin, query: dict[str, str], param: str | None) -> None:
    answer = await door.ask("GET", "/admin/anomalies", **query)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_throttles_are_listed_while_they_last_and_lifted_once(door: Admin) -> None:
    await door.world.accounts.create_creator("acme")
    change(door.world.path, THROTTLE, "acme", 2, AT_MS + 60_000, "a1")
    change(door.world.path, THROTTLE, "over", 3, 1_000, "")
    change(door.world.path, THROTTLE, "zeta", 3, AT_MS + 60_000, "")
    listed = await door.get("/admin/throttles")
    assert listed["data"][0] == {
        "creator": "acme",
        "requests_per_minute": 2,
        "until_at": rfc3339(AT_MS + 60_000),
        "anomaly_id": "a1",
    }
    assert [row["creator"] for row in listed["data"]] == ["acme", "zeta"]
    page = await door.get("/admin/throttles", limit=1)
    assert page["next_cursor"] == "acme"
    assert [row["creator"] for row in (await door.get("/admin/throttles", cursor="acme"))["data"]] == ["zeta"]
    lifted = await door.ask("DELETE", "/admin/throttles/acme")
    assert (lifted.status_code, lifted.json()) == (200, {"creator": "acme", "lifted": True})
    again = await door.ask("DELETE", "/admin/throttles/acme")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "not_found")
    assert [row["creator"] for row in (await door.get("/admin/throttles"))["data"]] == ["zeta"]


# Commands

Cli = Callable[..., Result]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`gateway anomalies`, over a data folder with two anomalies and a throttle; no gateway runs."""
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "250")
    path = tmp_path / "data" / "gateway.db"

    async def fill() -> None:
        database = await Database.open(path)
        await recorded(database, CALLS, COST)
        await database.close()

    asyncio.run(fill())
    change(path, THROTTLE, "acme", 2, 4_000_000_000_000, "a1")
    return lambda *arguments: CliRunner().invoke(app, ["anomalies", *arguments])


def test_anomalies_are_shown_as_people_and_as_scripts_read_them(cli: Cli) -> None:
    shown = cli("list")
    assert shown.exit_code == 0, shown.output
    first, second = shown.output.splitlines()[1:]
    assert first.split()[:7] == ["2027-01-15T08", "zeta", "-", "cost_usd", "1.5", "1", "0.25"]
    assert second.split()[:7] == ["2027-01-15T08", "acme", "chat-ui", "calls", "40", "12", "4"]
    listed = orjson.loads(cli("list", "--json", "--creator", "zeta").output)
    assert [row["value"] for row in listed] == [1_500_000_000]
    assert [row["metric"] for row in orjson.loads(cli("list", "--json", "--metric", "calls").output)] == ["calls"]
    assert len(orjson.loads(cli("list", "--json", "--limit", "1").output)) == 1


def test_a_throttle_is_shown_and_lifted(cli: Cli) -> None:
    assert "acme" in cli("throttles").output
    assert [row["requests_per_minute"] for row in orjson.loads(cli("throttles", "--json").output)] == [2]
    lifted = cli("lift", "acme")
    assert lifted.exit_code == 0, (lifted.output, lifted.exception)
    assert "acme" in lifted.output
    assert orjson.loads(cli("throttles", "--json").output) == []
    again = cli("lift", "acme", "--json")
    assert again.exit_code == 1
    assert isinstance(again.exception, GatewayError)
    assert again.exception.status == 404
