"""Gateways whose stores a test takes away: what they answer meanwhile, what they say of themselves, and the books afterwards.

Two gateways side by side, on one Redis and one PostgreSQL behind ways that can be cut: a pair of processes that share
both, and a process that shares one of the two with nobody:
- `filed` has its ledger in a file, and counts in the same Redis,
- `lone` counts in its memory, and has a database of its own in the same PostgreSQL.
"""

import asyncio
import os
import re
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from tests.ledger.books import Place, verify
from tests.rig import wire
from tests.rig.client import Answer, Connection, connect, exchange, request_bytes
from tests.rig.gateway import Gateway, Key
from tests.rig.many_world import DATABASE, Fleet, OneOfMany, billed, booked_once
from tests.rig.policy_world import (
    MODELS,
    PLANS,
    USD,
    chat_request,
    held_back,
    limited,
    me,
    policy_gateway,
    says,
    shown_limit,
)
from tests.rig.upstream import Gate, Script, Send, Upstream
from tests.rig.waiting import eventually, soon
from tests.rig.way import Way
from tests.servers.postgres_server import PostgresServer

ANSWER_WITHIN_S = 5.0
"""Whatever is away, whoever asks has an answer by then: a bound on hanging, and part of the promise."""
BACK_WITHIN_S = 30.0
SETTLE_TIMEOUT_S = 2
_ONE_TOKEN = wire.completion(usage=wire.usage(10, 1))
_LOOK_EVERY_S = 0.05
_OWN_DATABASE = "own"

_RULES = """
[plans.refusing]
requests_per_hour = 1000
quota_usd_per_month = 1000
budget_usd_per_month = "unlimited"

[plans.refusing.on_store_error]
rate_limit = "deny"

[plans.generous]
requests_per_hour = 5
quota_usd_per_month = 20
budget_usd_per_month = "unlimited"

[plans.generous.on_store_error]
rate_limit = "allow"
"""
OUTAGE_PLANS = PLANS + _RULES


class OneOnItsOwn(OneOfMany):
    """PostgreSQL for its ledger, and nobody beside it."""

    def rows(self, sql: str) -> list[tuple[str | None, ...]]:
        return self.postgres.query(sql, database=_OWN_DATABASE)


# Groups of processes, and their customers


@dataclass
class Group:
    """Processes that are one gateway, and where their ledger is."""

    name: str
    gateways: Sequence[Gateway]
    place: Place

    def __str__(self) -> str:
        return self.name

    @property
    def first(self) -> Gateway:
        return self.gateways[0]

    def start_calls(self, request: bytes, times: int) -> list["asyncio.Task[Answer]"]:
        """So many calls under way, spread over the processes; each fails if it is not answered in time."""
        ports = [gateway.port for gateway in self.gateways]
        loop = asyncio.get_running_loop()
        return [loop.create_task(answered(ports[number % len(ports)], request)) for number in range(times)]

    async def health(self) -> list[Answer]:
        """What each process says of itself."""
        return [await answered(gateway.port, request_bytes("GET", "/health/ready")) for gateway in self.gateways]

    async def metric(self, name: str) -> list[float]:
        return [_value(name, await answered(each.port, request_bytes("GET", "/metrics"))) for each in self.gateways]

    async def says_of_itself(self, status: str, **degraded: int) -> None:
        """Returns when every process says this of itself, in words and in numbers; all of them are alive all the time.

        `degraded`: what `gateway_degraded` has to say of it.
        """
        numbers = {f'gateway_degraded{{what="{what}"}}': value for what, value in degraded.items()}
        numbers["gateway_ready"] = int(status != "unavailable")
        codes = {"ok": 200, "degraded": 200, "unavailable": 503}
        seen: list[Any] = []
        try:
            async with asyncio.timeout(BACK_WITHIN_S):
                while True:
                    for gateway in self.gateways:
                        live = await answered(gateway.port, request_bytes("GET", "/health/live"))
                        assert live.status == 200
                    health = await self.health()
                    assert all(answer.status == codes[answer.json["status"]] for answer in health)
                    seen = [answer.json for answer in health]
                    if all(said["status"] == status for said in seen):
                        metrics = {name: await self.metric(name) for name in numbers}
                        if all(set(metrics[name]) == {value} for name, value in numbers.items()):
                            return
                        seen.append(metrics)
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError:
            raise AssertionError(f"{self} does not say {status} {degraded}, but {seen}") from None


async def answered(port: int, request: bytes) -> Answer:
    """The whole answer, in time."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await exchange(port, request)
    except TimeoutError:
        raise AssertionError(f"no answer in {ANSWER_WITHIN_S:g} s to {request[:60]!r}") from None


def _value(name: str, page: Answer) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", page.body.decode(), re.MULTILINE)
    assert found, f"{name} is not on the page of metrics"
    return float(found.group(1))


@dataclass(eq=False)
class Customer:
    """A creator whose calls cost a dollar each, and all that came of them."""

    group: Group
    upstream: Upstream
    key: Key
    script: Script = field(init=False)
    request: bytes = field(init=False)
    answers: list[Answer] = field(default_factory=list)
    scripts: list[Script] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.script = says(self.upstream, 1)
        self.scripts.append(self.script)
        self.request = chat_request(self.key, self.script, model="dollar", max_tokens=1)

    async def crowd(self, times: int) -> Counter[int]:
        """So many calls at once, and how they were answered."""
        answers = await asyncio.gather(*self.group.start_calls(self.request, times))
        self.answers += answers
        for answer in answers:
            if answer.status == 503:
                assert answer.error["code"] == "store_unavailable", answer
        return Counter(answer.status for answer in answers)

    @property
    def succeeded(self) -> int:
        return sum(answer.status == 200 for answer in self.answers)

    async def agree(self) -> list[dict[str, Any]]:
        """Nothing is held; clients, ledger and provider agree on every call. The entries."""
        await self.nothing_held()
        entries = self.group.first.entries(creator=self.key.creator)
        booked_once(self.answers, entries)
        assert len(entries) == self.succeeded == sum(map(billed, self.scripts))
        assert {entry["outcome"] for entry in entries} <= {"ok"}
        assert sum(entry["charge_nano_usd"] for entry in entries) == len(entries) * USD
        return entries

    async def nothing_held(self) -> None:
        async with asyncio.timeout(BACK_WITHIN_S):
            for gateway in self.group.gateways:
                while any(limit["held"] for limit in (await me(gateway, self.key))["limits"]):
                    await asyncio.sleep(_LOOK_EVERY_S)


@dataclass
class UnderWay:
    """Calls of a customer that are open at the provider: some whole answers, and on every process a stream half read."""

    customer: Customer
    calls: list["asyncio.Task[Answer]"]
    streams: list[Connection]
    gates: tuple[Gate, Gate]

    async def finish(self) -> list[Answer]:
        """The provider goes on, and everybody reads to the end, in time."""
        for gate in self.gates:
            gate.open()
        async with asyncio.timeout(ANSWER_WITHIN_S):
            answers = [*await asyncio.gather(*self.calls), *[await stream.read_rest() for stream in self.streams]]
        for stream in self.streams:
            await stream.close()
        self.customer.answers += answers
        return answers

    async def finish_well(self) -> None:
        """To its last byte."""
        for answer in await self.finish():
            assert (answer.status, answer.is_complete) == (200, True), answer
            assert b'"error"' not in answer.body

    async def finish_unbooked(self) -> None:
        """Nobody is told success, as what is owed is durable nowhere; and to ask again would be to pay twice."""
        for answer in await self.finish():
            if answer.status == 200:
                answer.assert_broken_off()
            else:
                assert (answer.status, answer.error["code"]) == (503, "store_unavailable")
                assert answer.header("x-should-retry") == "false"


async def booked_late(customer: Customer) -> None:
    """What nobody was told is in the ledger all the same, once, and counts."""
    await customer.nothing_held()
    group = customer.group
    await soon(lambda: group.first.open_holds() == 0, "the end of every hold")
    entries = group.first.entries(creator=customer.key.creator)
    assert len({entry["request_id"] for entry in entries}) == len(entries) == sum(map(billed, customer.scripts))
    assert sum(entry["charge_nano_usd"] for entry in entries) == len(entries) * USD
    capacity = (await shown_limit(group.first, customer.key, "quota_usd_per_month"))["limit"] // USD
    assert (await customer.crowd(capacity))[200] == capacity - len(entries)
    await group.says_of_itself("ok", database=0)
    await recomputes(group)


async def under_way(customer: Customer, calls: int, streams: int = 1) -> UnderWay:
    """`calls` and `streams` are of each process."""
    group, upstream = customer.group, customer.upstream
    plain, plain_gate = held_back(upstream, _ONE_TOKEN)
    gate = Gate()
    rest = [wire.event(wire.chunk("b")), wire.event(wire.usage_chunk(wire.usage(10, 1))), wire.DONE]
    streamed = upstream.script(
        Send(wire.stream_head()),
        Send(wire.framed(wire.event(wire.chunk("a")))),
        gate,
        *(Send(wire.framed(event)) for event in rest),
        Send(wire.LAST_CHUNK),
    )
    customer.scripts += [plain, streamed]
    processes = len(group.gateways)
    # Not bounded from here on: the provider is what they wait for.
    request = chat_request(customer.key, plain, model="dollar", max_tokens=1)
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(exchange(each.port, request)) for each in group.gateways for _ in range(calls)]
    opened = [
        await _half_read(gateway, chat_request(customer.key, streamed, model="dollar", max_tokens=1, stream=True))
        for gateway in group.gateways
        for _ in range(streams)
    ]
    await soon(lambda: len(plain.requests) == processes * calls, "the calls at the provider")
    return UnderWay(customer, tasks, opened, (plain_gate, gate))


async def _half_read(gateway: Gateway, request: bytes) -> Connection:
    connection = await connect(gateway.port)
    await connection.send(request)
    assert await connection.read_head() == 200
    await connection.read_until(b'"a"')
    return connection


# The stores, and all who use them


class Site:
    """Everything, from `start` to `close`."""

    def __init__(self, folder: Path, upstream: Upstream, other: Literal["filed", "lone"]) -> None:
        self.upstream = upstream
        self._stack = ExitStack()
        try:
            common = {"SETTLE_TIMEOUT_S": SETTLE_TIMEOUT_S}
            self.fleet = Fleet(folder, upstream, 2, **common)
            self._stack.callback(self.fleet.close)
            self.fleet.plans_file.write_text(OUTAGE_PLANS)
            self.redis, self.postgres = self.fleet.redis, self.fleet.postgres
            self.redis_way = self._stack.enter_context(Way(self.redis))
            self.postgres_way = self._stack.enter_context(Way(self.postgres))
            ways = {"REDIS_URL": self.redis_way.url(), "DATABASE_URL": self.postgres_way.url(self.fleet.url)}
            for gateway in self.fleet.gateways:
                gateway.change(**ways)
            self.pair = Group("two processes", self.fleet.gateways, self.postgres.url_of(DATABASE))
            make = self._filed if other == "filed" else self._lone
            self.other = make(folder / other, common)
        except BaseException:
            self._stack.close()
            raise

    def _filed(self, folder: Path, common: dict[str, int]) -> Group:
        folder.mkdir()
        way = {"REDIS_URL": self.redis_way.url(), "REDIS_PREFIX": "filed:"}
        gateway = policy_gateway(folder, self.upstream, plans=OUTAGE_PLANS, **common, **way)
        self._stack.callback(gateway.close)
        return Group("one process with a file", [gateway], gateway.data_dir / "gateway.db")

    def _lone(self, folder: Path, common: dict[str, int]) -> Group:
        folder.mkdir()
        url = self.postgres_way.url(self.postgres.create_database(_OWN_DATABASE))
        settings = {**common, "DATABASE_URL": url, "SECRET": "root-canary-of-the-lone-one-0123456789"}
        gateway = OneOnItsOwn(folder, self.upstream, models=MODELS, plans=OUTAGE_PLANS, settings=settings)
        gateway.postgres = self.postgres
        self._stack.callback(gateway.close)
        return Group("one process on PostgreSQL", [gateway], self.postgres.url_of(_OWN_DATABASE))

    @property
    def groups(self) -> list[Group]:
        return [self.pair, self.other]

    @property
    def gateways(self) -> list[Gateway]:
        return [gateway for group in self.groups for gateway in group.gateways]

    def start(self) -> Self:
        """Returns when all are ready; those that run already are left alone."""
        for gateway in self.gateways:
            if gateway.process is None:
                gateway.launch()
        for gateway in self.gateways:
            eventually(gateway._is_ready_or_dead, f"{gateway.folder.name} to be ready", BACK_WITHIN_S)
        return self

    def whole(self) -> None:
        """Everything serves again, whatever a test did to it."""
        for server, way in ((self.redis, self.redis_way), (self.postgres, self.postgres_way)):
            way.delay_s = 0.0
            if server.is_running:
                server.thaw()
            else:
                server.start()
            way.lead_to(server)
            way.open()
        self.start()
        for gateway in self.gateways:
            eventually(lambda: _is_well(gateway), f"{gateway.folder.name} to be well", BACK_WITHIN_S)  # noqa: B023

    def end(self) -> None:
        """Nothing is held, everything recomputes, no secret is anywhere, and all end as they should."""
        with ThreadPoolExecutor(len(self.gateways)) as pool:
            list(pool.map(lambda gateway: gateway.audit(), self.gateways))
        for gateway in self.gateways:
            gateway.terminate()
        assert {gateway.wait() for gateway in self.gateways} == {0}

    def close(self) -> None:
        self._stack.close()

    def customer(self, group: Group, plan: str = "base", **overrides: object) -> Customer:
        return Customer(group, self.upstream, limited(group.first, plan, **overrides))


@contextmanager
def site_of(folder: Path, upstream: Upstream, other: Literal["filed", "lone"]) -> Iterator[Site]:
    site = Site(folder, upstream, other)
    try:
        yield site.start()
        site.whole()
        site.end()
    finally:
        site.close()


def _is_well(gateway: Gateway) -> bool:
    return bool(gateway.admin("GET", "/health/ready").json()["status"] == "ok")


async def recomputes(group: Group) -> None:
    """`ledger verify` finds nothing, and no hold is open."""
    await soon(lambda: group.first.open_holds() == 0, "the end of every hold")
    report = await asyncio.to_thread(verify, group.place)
    assert (report.differences, report.differences_count) == ([], 0)


# How stores go away


@contextmanager
def full_disk(group: Group) -> Iterator[None]:
    """No file of these processes can grow by a byte."""
    pids = [gateway._running().pid for gateway in group.gateways]
    before = resource.prlimit(pids[0], resource.RLIMIT_FSIZE)
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def stop_at_once(server: PostgresServer) -> None:
    """`pg_ctl stop -m immediate`."""
    os.kill(server.pid, signal.SIGQUIT)
    server._ended()


Change = Callable[[Site], None]


class Outage(NamedTuple):
    """How something goes away, and how it comes back."""

    begin: Change
    end: Change


def redis_is_stopped(site: Site) -> None:
    site.redis.stop()
    site.redis_way.refuse()


def redis_starts(site: Site) -> None:
    site.redis.start()
    site.redis_way.open()


def postgres_is_stopped(site: Site) -> None:
    stop_at_once(site.postgres)
    site.postgres_way.refuse()


def postgres_starts(site: Site) -> None:
    site.postgres.start()
    site.postgres_way.open()
