"""Several gateway processes on one PostgreSQL and one Redis, a balancer in front of them, and what all of them say together.

Each has a data folder of its own; the secret, the catalog and the plans are the same for all. What was answered is compared
with the ledger and with what the provider was asked.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from gateway.config import Settings
from tests.rig.client import Answer, Connection, connect, exchange, request_bytes
from tests.rig.gateway import Gateway, Key
from tests.rig.policy_world import MODELS, PLANS, me
from tests.rig.upstream import Script, Upstream
from tests.rig.waiting import PATIENCE_S, eventually, soon
from tests.servers.postgres_server import PostgresServer
from tests.servers.redis_server import RedisServer

SECRET = "root-canary-of-all-processes-0123456789"
DATABASE = "shared"
START_WITHIN_S = 60.0
OUTAGE_S_MAX = 60.0
"""Bound on hanging, for what waits until a server is back."""
_LOOK_EVERY_S = 0.05
_PAUSE_S = 0.04
"""Of a client between two calls: what is to be seen is what becomes of them, not how many there can be."""
_BACKLOG = 1024


class OneOfMany(Gateway):
    """A process that shares its stores; what is in the ledger is read from PostgreSQL."""

    postgres: PostgresServer

    def open_holds(self) -> int:
        return int(str(self.rows("SELECT count(*) FROM holds")[0][0]))

    def rows(self, sql: str) -> list[tuple[str | None, ...]]:
        """Columns as text, asked beside the gateways."""
        return self.postgres.query(sql, database=DATABASE)

    def stored(self) -> list[tuple[str, bytes]]:
        """The files of its data folder; what is in the tables is `Fleet.tables`."""
        files = [path for path in self.data_dir.rglob("*") if path.is_file()]
        return [(path.name, path.read_bytes()) for path in files]

    @property
    def is_alive(self) -> bool:
        return self.process is not None

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self._running().send_signal(signal.SIGSTOP)
        eventually(lambda: self._state() == "T", "a stopped process")

    def thaw(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def _state(self) -> str:
        stat = Path(f"/proc/{self._running().pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0]

    def change(self, **settings: object) -> None:
        """From the next start on; None takes a setting away."""
        for name, value in settings.items():
            if value is None:
                self._settings.pop(name, None)
            else:
                self._settings[name] = str(value)


class Fleet:
    """The processes and their servers, which tests may end; `whole` brings all of it back."""

    def __init__(self, folder: Path, upstream: Upstream, count: int, **settings: object) -> None:
        self.upstream = upstream
        self.folder = folder
        self.pricing_file, self.plans_file = folder / "pricing.toml", folder / "plans.toml"
        self._settings = settings
        self._stack = ExitStack()
        try:
            self.redis = self._stack.enter_context(RedisServer())
            self.postgres = self._stack.enter_context(PostgresServer())
            self.url = self.postgres.create_database(DATABASE)
            self.gateways = [self.new(f"process-{number}") for number in range(1, count + 1)]
            self.pricing_file.write_text((self.gateways[0].folder / "pricing.toml").read_text())
            self.plans_file.write_text(PLANS)
        except BaseException:
            self._stack.close()
            raise

    def new(self, name: str, **settings: object) -> OneOfMany:
        """A process that is not started, with the stores and files of all; a setting given as None is left out."""
        folder = self.folder / name
        folder.mkdir()
        gateway = OneOfMany(folder, self.upstream, models=MODELS, plans=PLANS, settings=self._settings)
        shared = {"PRICING_FILE": self.pricing_file, "PLANS_FILE": self.plans_file}
        stores = {"DATABASE_URL": self.url, "REDIS_URL": self.redis.url, "SECRET": SECRET}
        gateway.change(**{**stores, **shared, **settings})
        gateway.postgres = self.postgres
        gateway.admin_key = "admin-canary-of-all-0123456789abcdef"
        self._stack.callback(gateway.close)
        return gateway

    def start(self) -> Self:
        """Returns when all are ready; those that run already are left alone."""
        for gateway in self.gateways:
            if not gateway.is_alive:
                gateway.launch()
        for gateway in self.gateways:
            eventually(gateway._is_ready_or_dead, "a ready gateway", START_WITHIN_S)
        return self

    def whole(self) -> None:
        """Everything serves again, and every process knows of all others."""
        for server in (self.redis, self.postgres):
            if server.is_running:
                server.thaw()
            else:
                server.start()
        for gateway in self.gateways:
            if gateway.is_alive:
                gateway.thaw()
        self.start()

    def close(self) -> None:
        self._stack.close()

    def settings(self) -> Settings:
        """For what is done to the stores beside the processes."""
        return Settings(database_url=self.url, redis_url=self.redis.url, secret=SECRET)

    # Together

    @property
    def leader(self) -> OneOfMany:
        """The one that said it last."""
        said = [(line["timestamp"], gateway) for gateway in self.gateways for line in gateway.log_lines("leads")]
        return max(said, key=lambda one: str(one[0]))[1]

    def start_calls(self, request: bytes, times: int) -> list["asyncio.Task[Answer]"]:
        """So many calls under way, spread over all processes that run. They have as long as an outage may last."""
        ports = [gateway.port for gateway in self.gateways if gateway.is_alive]
        loop = asyncio.get_running_loop()
        return [
            loop.create_task(exchange(ports[number % len(ports)], request, within_s=OUTAGE_S_MAX))
            for number in range(times)
        ]

    async def at_once(self, request: bytes, times: int) -> list[Answer]:
        return await asyncio.gather(*self.start_calls(request, times))

    def logs(self) -> str:
        return "".join(gateway.logs() for gateway in self.gateways)

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        return [line for gateway in self.gateways for line in gateway.log_lines(event)]

    def entries(self, key: Key) -> list[dict[str, Any]]:
        return self.gateways[0].entries(creator=key.creator)

    def rows(self, sql: str) -> list[tuple[str | None, ...]]:
        return self.gateways[0].rows(sql)

    def audit(self) -> None:
        """The invariants of all processes, and no secret in any table."""
        self.gateways[0].audit()
        for gateway in self.gateways[1:]:
            gateway.audit_words()
        names = [name for (name,) in self.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        tables = {str(name): str(self.rows(f'SELECT t::text FROM "{name}" t')) for name in names}
        for gateway in self.gateways:
            for secret, canary in gateway.canaries():
                assert [name for name, text in tables.items() if canary in text] == [], f"{secret} is in a table"

    async def nothing_held(self, *keys: Key, within_s: float = PATIENCE_S) -> None:
        """No open hold in the ledger, and nothing held by what any process shows."""
        await soon(lambda: self.gateways[0].open_holds() == 0, "the end of every hold", within_s)
        for gateway in self.gateways:
            for key in keys:
                async with asyncio.timeout(within_s):
                    while any(limit["held"] for limit in (await me(gateway, key))["limits"]):
                        await asyncio.sleep(_LOOK_EVERY_S)


# Answers compared with the ledger and the provider


def booked_once(answers: Iterable[Answer], entries: Sequence[dict[str, Any]]) -> None:
    """What clients were told succeeded is in the ledger, each once; and nothing is in it twice."""
    ids = Counter(entry["request_id"] for entry in entries if entry["kind"] == "usage" and entry["final"])
    assert [request_id for request_id, times in ids.items() if times > 1] == [], "booked twice"
    succeeded = [answer.request_id for answer in answers if answer.status == 200]
    assert len(set(succeeded)) == len(succeeded), "one request id for two answers"
    lost = [request_id for request_id in succeeded if request_id not in ids]
    assert lost == [], f"{len(lost)} calls that succeeded are not in the ledger"


def billed(script: Script) -> int:
    """How many answers the provider gave to their end: what it sends a bill for."""
    return sum(1 for request in script.requests if request.played.is_set() and request.sent)


# Load


class Load:
    """Clients that call one after the other while the context is entered; what became of each call is kept."""

    def __init__(self, port: int, requests: Sequence[bytes], *, clients: int, kept_alive: int = 0) -> None:
        """`kept_alive` of the clients go on using a connection until an answer says that it ends."""
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        """Calls that got no answer, or not all of one."""
        self._port = port
        self._requests = requests
        self._turn = 0
        self._is_over = asyncio.Event()
        self._kept_alive = [number < kept_alive for number in range(clients)]
        self._clients: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._clients = [loop.create_task(self._call_on(is_kept_alive)) for is_kept_alive in self._kept_alive]
        return self

    async def __aexit__(self, *_: object) -> None:
        """The calls under way come to their end."""
        self._is_over.set()
        async with asyncio.timeout(2 * PATIENCE_S):
            await asyncio.gather(*self._clients)

    @property
    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers)

    async def _call_on(self, is_kept_alive: bool) -> None:
        connection: Connection | None = None
        while not self._is_over.is_set():
            self._turn += 1
            try:
                connection = connection or await connect(self._port)
                await connection.send(self._requests[self._turn % len(self._requests)])
                await connection.read_head()
                answer = await connection.read_rest()
            except (OSError, EOFError, TimeoutError) as exc:
                self.failures.append(repr(exc))
                answer = None
            if answer is not None:
                self.answers.append(answer)
                if not answer.is_complete:
                    self.failures.append(f"an answer cut off: {answer}")
            await asyncio.sleep(_PAUSE_S)
            is_last = answer is None or not answer.is_complete or (answer.header("connection") or "").lower() == "close"
            if connection is not None and (is_last or not is_kept_alive):
                await connection.close()
                connection = None
        if connection is not None:
            await connection.close()


class Balancer:
    """A TCP balancer on a port of its own: each connection goes to the next process whose `/health/ready` says 200.

    It tries none twice and repeats nothing, so that what fails behind it fails for its client.
    """

    def __init__(self, gateways: Sequence[Gateway]) -> None:
        self.port = 0
        self.is_ready = dict.fromkeys((gateway.port for gateway in gateways), False)
        self._turn = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            lambda reader, writer: self._keep(self._serve(reader, writer)), "127.0.0.1", 0, backlog=_BACKLOG
        )
        self.port = self._server.sockets[0].getsockname()[1]
        for port in self.is_ready:
            self._keep(self._look_again_and_again(port))
        await soon(lambda: all(self.is_ready.values()), "all processes ready behind the balancer")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _keep(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_again_and_again(self, port: int) -> None:
        while True:
            try:
                answer = await exchange(port, request_bytes("GET", "/health/ready"))
                self.is_ready[port] = answer.status == 200
            except (OSError, EOFError):
                self.is_ready[port] = False
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ready = [port for port, is_ready in self.is_ready.items() if is_ready]
        self._turn += 1
        there: asyncio.StreamWriter | None = None
        try:
            answers, there = await asyncio.open_connection("127.0.0.1", ready[self._turn % len(ready)])
            await asyncio.gather(_pour(reader, there), _pour(answers, writer))
        except (OSError, ZeroDivisionError):
            writer.transport.abort()
        finally:
            for end in filter(None, (writer, there)):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from one side to the other until the first one ends; then the other is told."""
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()


@contextmanager
def fleet_of(folder: Path, upstream: Upstream, count: int, **settings: object) -> Iterator[Fleet]:
    """Started; ended whatever happened."""
    fleet = Fleet(folder, upstream, count, **settings)
    try:
        yield fleet.start()
    finally:
        fleet.close()
