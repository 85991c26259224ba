"""`/admin/cache` and `gateway cache` over a real store: what they tell, what they take out, and what they refuse."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from typer.testing import CliRunner

from gateway.cache.base import CachedAnswer, CacheStore
from gateway.cache.responses import ResponseCache
from gateway.cache.sqlite import SqliteCache
from gateway.commands import cache as commands
from gateway.config import Settings
from gateway.endpoints import EXCEPTION_HANDLERS
from gateway.endpoints.admin import cache as endpoint
from gateway.errors import ConfigError
from gateway.lock import CONTROL_SOCKET
from gateway.sealing import Sealer
from gateway.secrets import Secrets
from tests.account_world import NOON_S, ROOT, Clock

BYTES_MAX = 1_000_000
BODY = b'{"choices":[]}'
COUNTED = len(BODY) + 28 + 512
OFF = dict.fromkeys(("answers", "size_bytes", "bytes_max", "hits", "misses", "stored", "evicted"), 0)
KEPT = [(creator, model) for creator in ("acme", "other") for model in ("small", "large & dear")]


def new_cache(folder: Path) -> SqliteCache:
    sealer = Sealer(Secrets(ROOT), "cache-answers")
    return SqliteCache(folder / "cache.db", sealer, bytes_max=BYTES_MAX, wall_clock=Clock())


async def fill(cache: SqliteCache) -> None:
    """One answer of each creator and model, one of them found and one missed."""
    for creator, model in KEPT:
        times = (int(NOON_S * 1_000), int(NOON_S * 1_000) + 1)
        kept = CachedAnswer(creator, model, "openai", "chat", "application/json", False, BODY, 5, *times)
        await cache.put(f"{creator}/{model}", kept)
    assert await cache.get("acme/small") is not None
    assert await cache.get("nothing") is None


def app_of(store: CacheStore | None) -> Starlette:
    app = Starlette(routes=endpoint.routes, exception_handlers=EXCEPTION_HANDLERS)
    app.state.cache = ResponseCache(
        store, digest=Secrets(ROOT).hasher("cache-keys"), settings=Settings(), wall_clock=Clock()
    )
    app.state.announced = []
    app.state.announce = partial(_note, app.state.announced)
    return app


async def _note(announced: list[tuple[str, str]], word: str, rest: str) -> None:
    announced.append((word, rest))


def client_of(store: CacheStore | None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app_of(store))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False)


@pytest.fixture
async def cache(tmp_path) -> AsyncIterator[SqliteCache]:
    cache = new_cache(tmp_path)
    await fill(cache)
    yield cache
    await cache.close()


@pytest.fixture
async def http(cache) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(cache) as http:
        yield http


async def left_in(cache: SqliteCache) -> set[tuple[str, str]]:
    return {(creator, model) for creator, model in KEPT if await cache.get(f"{creator}/{model}") is not None}


async def test_the_figures_are_those_of_the_store(http):
    answer = await http.get("/admin/cache")
    assert answer.status_code == 200
    assert answer.json() == {
        "answers": 4,
        "size_bytes": 4 * COUNTED,
        "bytes_max": BYTES_MAX,
        "hits": 1,
        "misses": 1,
        "stored": 4,
        "evicted": 0,
    }


@pytest.mark.parametrize(
    ("params", "goes"),
    [
        ({"creator": "acme"}, {("acme", "small"), ("acme", "large & dear")}),
        ({"model": "large & dear"}, {("acme", "large & dear"), ("other", "large & dear")}),
        ({"creator": "other", "model": "small"}, {("other", "small")}),
        ({"creator": "other", "all": "false"}, {("other", "small"), ("other", "large & dear")}),
        ({"creator": "nobody"}, set()),
        ({"all": "true"}, set(KEPT)),
    ],
)
async def test_what_was_asked_for_is_removed_and_counted(http, cache, params, goes):
    answer = await http.delete("/admin/cache", params=params)
    assert (answer.status_code, answer.json()) == (200, {"removed": len(goes)})
    assert await left_in(cache) == set(KEPT) - goes


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("", "missing_required_parameter", None),
        ("all=false", "missing_required_parameter", None),
        ("all=1", "invalid_value", "all"),
        ("all=true&creator=acme", "invalid_value", "all"),
        ("all=true&model=small", "invalid_value", "all"),
        ("creator=", "invalid_value", "creator"),
        ("creator=acme&model=", "invalid_value", "model"),
        ("creator=acme&creator=other", "invalid_value", "creator"),
        ("creators=acme", "unknown_parameter", None),
        ("creator=acme&provider=openai", "unknown_parameter", None),
    ],
)
async def test_a_removal_that_does_not_say_what_goes_is_refused_and_removes_nothing(http, cache, query, code, param):
    answer = await http.delete(f"/admin/cache?{query}")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert await left_in(cache) == set(KEPT)


@pytest.mark.parametrize("query", ["all=true", "creator=acme"])
async def test_where_the_cache_is_off_there_is_nothing_to_see_or_remove(query):
    async with client_of(None) as http:
        assert (await http.get("/admin/cache")).json() == OFF
        assert (await http.delete(f"/admin/cache?{query}")).json() == {"removed": 0}
        assert (await http.delete("/admin/cache")).status_code == 400


@pytest.mark.parametrize(("method", "query"), [("GET", ""), ("DELETE", "?all=true"), ("DELETE", "?model=small")])
async def test_a_store_in_trouble_is_told_to_the_admin(tmp_path, method, query):
    (tmp_path / "cache.db").mkdir()
    cache = new_cache(tmp_path)
    async with client_of(cache) as http:
        answer = await http.request(method, f"/admin/cache{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
    assert str(tmp_path) not in answer.text
    await cache.close()


# The commands


class _Served(threading.Thread):
    """The routes on the control socket of a data folder, as `gateway serve` has them."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.is_ready = threading.Event()
        self.server: uvicorn.Server

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        cache = new_cache(self._folder)
        await fill(cache)
        is_ready = self.is_ready

        class Telling(uvicorn.Server):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                is_ready.set()

        address = str(self._folder / CONTROL_SOCKET)
        self.server = Telling(uvicorn.Config(app_of(cache), uds=address, lifespan="off", log_config=None))
        await self.server.serve()
        await cache.close()


@pytest.fixture
def data_dir(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def served(data_dir) -> Iterator[None]:
    thread = _Served(data_dir)
    thread.start()
    assert thread.is_ready.wait(30)
    try:
        yield
    finally:
        thread.server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def run(*arguments: str) -> str:
    result = CliRunner().invoke(commands.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_commands_show_and_clear_the_running_gateways_cache(served):
    assert "size_bytes  2216\n" in run("stats")
    assert run("clear", "--creator", "acme", "--model", "large & dear") == "removed  1\n"
    assert json.loads(run("clear", "--model", "small", "--json")) == {"removed": 2}
    assert json.loads(run("stats", "--json"))["answers"] == 1
    assert json.loads(run("clear", "--all", "--json")) == {"removed": 1}
    assert json.loads(run("stats", "--json"))["answers"] == 0


@pytest.mark.parametrize("arguments", [[], ["--all", "--creator", "acme"], ["--all", "--model", "small"]])
def test_a_clear_that_does_not_say_what_goes_asks_nobody(data_dir, arguments):
    result = CliRunner().invoke(commands.app, ["clear", *arguments])
    assert result.exit_code == 2
    assert "--all alone" in result.output


async def test_other_processes_are_told_to_remove_the_same(cache):
    app = app_of(cache)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False) as http:
        await http.delete("/admin/cache?creator=acme&model=small")
        await http.delete("/admin/cache?all=true")
    assert app.state.announced == [("cache", '{"creator":"acme","model":"small"}'), ("cache", "{}")]


@pytest.mark.parametrize("arguments", [["stats"], ["clear", "--all"]])
def test_without_a_running_gateway_the_commands_say_so(data_dir, arguments):
    with pytest.raises(ConfigError, match="no gateway is running"):
        run(*arguments)
