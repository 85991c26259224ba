"""How a call ends when something outside the story breaks it: one entry, one line, and what was relayed is owed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from gateway.chat import read_chat_request
from gateway.config import Settings
from gateway.model_request import ModelRequest
from gateway.responder import Header
from gateway.services import Services, open_services
from tests.ledger.books import count, rows

HANG_S = 10
CATALOG = """
version = "2026-11-20"

[providers.mock]
dialect = "mock"

[models."halting"]
provider = "mock"
upstream_model = "f0d60000n3"
endpoints = ["chat"]
display_name = "One word, and the next a minute later"
input_usd_per_mtok = 1
output_usd_per_mtok = 10
"""


class Client:
    """Takes what it is sent; `fault` is raised instead at the first piece of a stream."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.status = 0
        self.body = b""
        self.has_read = asyncio.Event()
        self.is_gone = self.is_stalled = False
        self._fault = fault

    @property
    def is_started(self) -> bool:
        return self.status > 0

    async def send(self, status: int, headers: list[Header], body: bytes) -> None:
        self.status, self.body = status, body

    def start(self, status: int, headers: list[Header]) -> None:
        self.status = status

    def write(self, data: bytes) -> None:
        if self._fault is not None:
            raise self._fault
        self.body += data
        self.has_read.set()

    async def drain(self) -> None:
        """It reads at once."""

    async def end(self, data: bytes = b"") -> None:
        self.body += data

    def on_gone(self, callback: Callable[[], None]) -> None:
        """It stays."""

    def abort(self) -> None:
        self.is_gone = True


class Gateway:
    """The parts of one gateway without its server, and a creator who calls it."""

    def __init__(self, services: Services, key: str, path: Path) -> None:
        self.services = services
        self.path = path
        self._headers = [(b"host", b"gateway"), (b"authorization", b"Bearer " + key.encode())]

    def stream(self, client: Client) -> "asyncio.Task[None]":
        messages = [{"role": "user", "content": "go on"}]
        body = orjson.dumps({"model": "halting", "stream": True, "messages": messages})

        async def read() -> ModelRequest:
            return read_chat_request(body)

        call = self.services.pipeline.serve("chat", read, self._headers, client)
        return asyncio.get_running_loop().create_task(call)

    def entries(self) -> list[tuple[object, ...]]:
        return rows(self.path, "SELECT outcome, usage_source, uncached_input, text_output, cost_nano_usd FROM entries")


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Gateway]:
    catalog = folder / "pricing.toml"
    catalog.write_text(CATALOG)
    settings = Settings(data_dir=folder / "data", pricing_file=catalog)
    settings.data_dir.mkdir()
    async with open_services(settings) as services:
        await services.accounts.create_creator("acme")
        key = await services.accounts.create_key("acme")
        yield Gateway(services, key["key"], settings.database_path)
        assert len(services.calls) == 0
    assert count(settings.database_path, "holds") == 0


def finished(logs: list[EventDict]) -> list[str]:
    return [line["outcome"] for line in logs if line["event"] == "request_finished"]


async def test_a_stream_the_server_gives_up_is_booked_and_logged_once(tmp_path: Path) -> None:
    """What a server does with a call that does not end in time: it cancels the task, without a reason of ours."""
    async with asyncio.timeout(HANG_S), opened(tmp_path) as gateway:
        client = Client()
        with capture_logs() as logs:
            task = gateway.stream(client)
            await client.has_read.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert finished(logs) == ["aborted"]
        assert gateway.entries() == [("aborted", "estimated", 2, 1, 12_000)]
        page = gateway.services.metrics.render().decode().splitlines()
        assert [line.split()[-1] for line in page if line.startswith("gateway_calls_total{")] == ["1.0"]


async def test_a_stream_that_breaks_inside_the_gateway_owes_what_came(tmp_path: Path) -> None:
    async with asyncio.timeout(HANG_S), opened(tmp_path) as gateway:
        client = Client(fault=ValueError("a fault of ours"))
        with capture_logs() as logs:
            await gateway.stream(client)
        assert finished(logs) == ["internal_error"]
        assert [line["event"] for line in logs if line["log_level"] == "error"] == ["call_failed"]
        assert gateway.entries() == [("internal_error", "estimated", 2, 1, 12_000)]
        assert b'"error"' in client.body


async def test_a_stream_interrupted_by_the_end_of_the_grace_is_booked_and_told_once(tmp_path: Path) -> None:
    async with asyncio.timeout(HANG_S), opened(tmp_path) as gateway:
        client = Client()
        with capture_logs() as logs:
            task = gateway.stream(client)
            await client.has_read.wait()
            gateway.services.calls.interrupt_all()
            await task
        assert finished(logs) == ["aborted"]
        assert gateway.entries() == [("aborted", "estimated", 2, 1, 12_000)]
        assert client.body.count(b"shutting_down") == 1


async def test_a_call_read_after_the_grace_takes_no_hold(tmp_path: Path) -> None:
    async with asyncio.timeout(HANG_S), opened(tmp_path) as gateway:
        gateway.services.calls.interrupt_all()
        client = Client()
        with capture_logs() as logs:
            await gateway.stream(client)
        assert (client.status, orjson.loads(client.body)["error"]["code"]) == (503, "shutting_down")
        assert [line["event"] for line in logs] == ["request_rejected"]
        assert gateway.entries() == []
