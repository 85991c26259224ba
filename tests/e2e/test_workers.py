"""Two workers on a real PostgreSQL and a real Redis: whatever becomes of one, or of who started them, calls do not fail."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.ledger.books import count
from tests.rig import wire
from tests.rig.client import Answer, Connection, connect, exchange, request_bytes
from tests.rig.gateway import CHAT, Gateway, Key, chat_body
from tests.rig.upstream import Gate, Script, Send, Upstream
from tests.rig.waiting import eventually, soon
from tests.servers.postgres_server import PASSWORD, PostgresServer
from tests.servers.redis_server import RedisServer

SECRET = "a-root-secret-of-the-tests-0123456789"
LIVE = request_bytes("GET", "/health/live")
WHOLE = wire.completion("whole", usage=wire.usage(9, 4))
_PACE_S = 0.01
"""Between two calls of a client: the machine is to have some time left for the workers that start."""
ROLE, TEXT, FINISH = wire.text_events("a word ")
END = wire.event(wire.usage_chunk(wire.usage(9, 4))) + wire.DONE


class Stores(NamedTuple):
    database_url: str
    redis_url: str

    def settings(self, **more: object) -> dict[str, object]:
        return {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url, "SECRET": SECRET, "WORKERS": 2, **more}


@pytest.fixture(scope="module")
def stores(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Stores]:
    redis_server.flush()
    yield Stores(postgres_server.create_database("workers"), redis_server.url)
    postgres_server.drop_database("workers")


@pytest.fixture(scope="module")
def shared(stores: Stores, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Whatever the tests did to it, nothing is held and the ledger adds up."""
    gateway = Gateway(tmp_path_factory.mktemp("workers"), upstream, settings=stores.settings())
    try:
        yield gateway
        if gateway.process is not None:
            assert gateway.stop() == 0
        assert count(stores.database_url, "holds") == 0
        verified = gateway.verify()
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert "Traceback" not in gateway.logs()
        assert PASSWORD not in gateway.logs()
    finally:
        gateway.close()


@pytest.fixture
def gateway(shared: Gateway) -> Gateway:
    """It runs, with both of its workers."""
    if shared.process is None:
        shared.start()
    eventually(lambda: len(serving_workers(shared)) == 2, "two workers", 60)
    return shared


def workers_of(gateway: Gateway) -> set[int]:
    """The pids of what the process of `serve` has started."""
    assert gateway.process is not None
    tasks = Path(f"/proc/{gateway.process.pid}/task").glob("*/children")
    return {int(pid) for children in tasks for pid in children.read_text().split()}


def serving_workers(gateway: Gateway) -> set[str]:
    with suppress(httpx.TransportError):
        return numbers_on(httpx.get(f"{gateway.url}/metrics", trust_env=False).text)
    return set()


def numbers_on(page: str) -> set[str]:
    return {sample.labels["worker"] for family in text_string_to_metric_families(page) for sample in family.samples}


def is_over(pid: int) -> bool:
    """Ended, whether or not anybody has asked for its exit code."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


# What is refused


@pytest.mark.parametrize(
    "options", [{}, {"DATABASE_URL": "postgresql://u@127.0.0.1:9/x", "SECRET": SECRET}], ids=["sqlite", "memory"]
)
def test_workers_without_shared_stores_are_refused(
    upstream: Upstream, tmp_path: Path, options: dict[str, object]
) -> None:
    gateway = Gateway(tmp_path, upstream, settings=options)
    refused = gateway.cli("serve", "--workers", "2")
    gateway.close()
    assert refused.returncode == 2
    assert refused.stderr.count("GATEWAY_WORKERS (--workers) above 1 needs GATEWAY_DATABASE_URL") == 1
    assert "Traceback" not in refused.stderr
    assert not gateway.data_dir.exists()


def test_what_keeps_the_first_worker_from_starting_is_told_once(
    stores: Stores, upstream: Upstream, tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, upstream, settings=stores.settings())
    (tmp_path / "plans.toml").write_text("[plans.free]\nno_such_field = 1\n")
    refused = gateway.cli("serve")
    gateway.close()
    assert refused.returncode == 2
    assert (refused.stdout + refused.stderr).count("no_such_field") == 1
    assert "Traceback" not in refused.stderr


def test_a_second_serve_on_the_folder_is_refused(gateway: Gateway) -> None:
    again = gateway.cli("serve")
    assert (again.returncode, "another gateway serves this data folder" in again.stderr) == (2, True)


# Side by side


async def test_workers_share_the_work_and_any_of_them_tells_the_numbers_of_all(
    gateway: Gateway, upstream: Upstream
) -> None:
    key = gateway.new_key()
    script = upstream.reply(WHOLE)
    for _ in range(24):
        assert (await gateway.chat(key, script)).status == 200
    pages = [(await gateway.get(None, "/metrics")).body.decode() for _ in range(6)]
    for page in pages:
        families = {family.name: family for family in text_string_to_metric_families(page)}
        calls = families["gateway_calls"].samples
        assert sum(sample.value for sample in calls) >= 24
        assert numbers_on(page) == {"0", "1"}
        assert page.count("# TYPE gateway_calls_total ") == 1
    lines = gateway.log_lines("request_finished")
    assert {line["worker"] for line in lines} == {0, 1}
    assert len(gateway.entries(creator=key.creator)) == 24


def test_the_words_of_a_first_run_are_told_once(gateway: Gateway) -> None:
    assert gateway.logs().count("First run.") == 1


def test_commands_ask_the_first_worker_and_others_may_not_look(gateway: Gateway) -> None:
    for name in ("control.sock", "control-1.sock"):
        path = gateway.data_dir / name
        assert path.stat().st_mode & 0o777 == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), trust_env=False) as client:
            assert client.get("http://gateway/admin/creators").status_code == 200
            assert "gateway_ready 1.0" in client.get("http://gateway/metrics").text.splitlines()


def test_a_hangup_has_plans_read_again_by_every_worker(gateway: Gateway) -> None:
    before = len(gateway.log_lines("reloaded"))
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGHUP)
    eventually(
        lambda: {line["worker"] for line in gateway.log_lines("reloaded")[before:]} == {0, 1},
        "plans that both have read again",
    )


# What becomes of them


async def test_a_worker_that_is_killed_is_replaced_and_nobody_who_connects_is_refused(gateway: Gateway) -> None:
    before = workers_of(gateway)
    os.kill(min(before), signal.SIGKILL)
    while len(after := workers_of(gateway) - {min(before)}) < 2 or len(serving_workers(gateway)) < 2:
        answers = await asyncio.gather(*(answered(gateway) for _ in range(8)))
        assert set(answers) <= {200, None}
    assert len(after) == 2
    assert after != before
    (line,) = gateway.log_lines("worker_ended")[-1:]
    assert (line["pid"], line["code"]) == (min(before), -signal.SIGKILL)


async def answered(gateway: Gateway) -> int | None:
    """The status; None where the worker that had accepted it was killed. Raises `OSError` when nobody accepts it."""
    connection = await connect(gateway.port)
    try:
        await connection.send(LIVE)
        return await connection.read_head()
    except (EOFError, ConnectionError):
        return None
    finally:
        await connection.close()


class Load:
    """Clients that keep their connections and never try again: a failed call is an exception or a status."""

    def __init__(self, gateway: Gateway, key: Key, script: Script) -> None:
        self._gateway = gateway
        self._key = key
        self._script = script
        self._is_over = asyncio.Event()
        self.statuses: Counter[int] = Counter()
        self.moves = 0
        """How often an answer said that its connection ends."""

    async def __aenter__(self) -> "Load":
        loop = asyncio.get_running_loop()
        self._clients = [loop.create_task(work) for work in (*(self._raw() for _ in range(4)), self._httpx())]
        await soon(lambda: self.statuses.total() > 20, "calls under way")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over.set()
        await asyncio.gather(*self._clients)

    async def _raw(self) -> None:
        connection = await connect(self._gateway.port)
        while not self._is_over.is_set():
            answer = await self._call(connection)
            assert answer.is_complete
            self.statuses[answer.status] += 1
            await asyncio.sleep(_PACE_S)
            if answer.header("connection") == "close":
                self.moves += 1
                await connection.close()
                connection = await connect(self._gateway.port)
        await connection.close()

    async def _call(self, connection: Connection) -> Answer:
        await connection.send(self._gateway.chat_request(self._key, self._script))
        await connection.read_head()
        return await connection.read_rest()

    async def _httpx(self) -> None:
        headers = {"authorization": f"Bearer {self._key.key}"}
        async with httpx.AsyncClient(
            base_url=self._gateway.url, headers=headers, trust_env=False, timeout=15
        ) as client:
            while not self._is_over.is_set():
                answer = await client.post(CHAT, json=chat_body(self._script))
                self.statuses[answer.status_code] += 1
                await asyncio.sleep(_PACE_S)


async def test_workers_are_replaced_one_after_the_other_without_a_failed_call(
    gateway: Gateway, upstream: Upstream
) -> None:
    key = gateway.new_key()
    before = workers_of(gateway)
    gate = Gate()
    held = upstream.script(
        Send(wire.stream_head() + wire.framed(ROLE + TEXT)), gate, Send(wire.framed(FINISH + END) + wire.LAST_CHUNK)
    )
    streams = [await gateway.open_stream(key, held) for _ in range(6)]
    assert gateway.process is not None
    async with Load(gateway, key, upstream.reply(WHOLE)) as load:
        gateway.process.send_signal(signal.SIGUSR2)
        await soon(lambda: load.moves, "a worker that leaves", 60)
        gate.open()
        for stream in streams:
            answer = await stream.read_rest()
            assert answer.is_complete
            assert answer.body.endswith(wire.DONE)
            await stream.close()
        await soon(lambda: before.isdisjoint(workers_of(gateway)), "the end of the last one", 60)
    assert load.statuses.keys() == {200}
    assert len(workers_of(gateway)) == 2
    assert len(gateway.entries(creator=key.creator)) == load.statuses.total() + len(streams)
    assert gateway.cli("creators", "list").returncode == 0


async def test_a_replacement_that_cannot_start_leaves_the_workers_as_they_are(gateway: Gateway) -> None:
    before = workers_of(gateway)
    plans = gateway.folder / "plans.toml"
    good = plans.read_text()
    plans.write_text("[plans.free]\nno_such_field = 1\n")
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGUSR2)
    await soon(lambda: gateway.log_lines("replacement_failed"), "a replacement that fails")
    plans.write_text(good)
    (line,) = gateway.log_lines("replacement_failed")
    assert "no_such_field" in line["reason"]
    await soon(lambda: workers_of(gateway) == before, "the same workers")
    assert {(await exchange(gateway.port, LIVE)).status for _ in range(8)} == {200}


async def test_workers_end_by_themselves_and_in_peace_when_their_supervisor_is_killed(
    gateway: Gateway, upstream: Upstream
) -> None:
    key = gateway.new_key()
    gate = Gate()
    held = upstream.script(gate, Send(wire.reply(WHOLE)))
    calls = [asyncio.get_running_loop().create_task(gateway.chat(key, held)) for _ in range(6)]
    await soon(lambda: len(held.requests) == 6, "calls at the provider")
    workers = workers_of(gateway)
    gateway.kill9()
    async with asyncio.timeout(15):
        while await is_connectable(gateway):
            pass
    assert not any(map(is_over, workers)), "calls are under way in both"
    gate.open()
    assert {answer.status for answer in await asyncio.gather(*calls)} == {200}
    await soon(lambda: all(map(is_over, workers)), "the end of the workers")


async def is_connectable(gateway: Gateway) -> bool:
    try:
        connection = await connect(gateway.port)
    except OSError:
        return False
    await connection.close()
    return True


async def test_a_signal_to_all_of_them_lets_calls_end_and_a_second_one_cuts_the_rest(
    gateway: Gateway, upstream: Upstream
) -> None:
    """The first as who stops a unit may send it: to each process. No worker takes its supervisor's word for a second one."""
    key = gateway.new_key()
    gate = Gate()
    ends, lasts = upstream.script(gate, Send(wire.reply(WHOLE))), upstream.script(Gate(), Send(wire.reply(WHOLE)))
    loop = asyncio.get_running_loop()
    ending, lasting = ([loop.create_task(gateway.chat(key, script)) for _ in range(6)] for script in (ends, lasts))
    await soon(lambda: len(ends.requests) + len(lasts.requests) == 12, "calls at the provider")
    workers = workers_of(gateway)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    gateway.terminate()
    async with asyncio.timeout(15):
        while await is_connectable(gateway):
            pass
    gate.open()
    answers = await asyncio.gather(*ending)
    assert {(answer.status, answer.header("connection")) for answer in answers} == {(200, "close")}
    assert not any(call.done() for call in lasting)
    gateway.terminate()
    assert {answer.status for answer in await asyncio.gather(*lasting)} <= {502, 503, 504}
    assert await asyncio.to_thread(gateway.wait) == 0
    assert all(map(is_over, workers))
    assert not list(gateway.data_dir.glob("*.sock"))
