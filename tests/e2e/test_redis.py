"""One gateway process with its counters in a real Redis: limits hold at their edge, and whatever becomes of either of the
two, what is counted is what the ledger says.

While Redis is away the process counts on its own, but for limits that a plan has denied then.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.rig import wire
from tests.rig.client import Answer, exchange
from tests.rig.gateway import Gateway, Key
from tests.rig.outage_world import Customer, Group
from tests.rig.outage_world import under_way as in_flight
from tests.rig.policy_world import (
    CENT,
    USD,
    assert_books_agree,
    at_once,
    chat_request,
    held_back,
    limited,
    me,
    policy_gateway,
    says,
    served,
    shown_limit,
    split,
    start,
    statuses,
    usage_entries,
)
from tests.rig.upstream import Gate, Script, Send, Upstream
from tests.rig.waiting import PATIENCE_S, eventually, soon
from tests.servers.redis_server import PASSWORD, RedisServer

TIMES = 100
CROWD = 12
"""Where the subject is not the crowd."""
EARLY, LATE = 20, 90
"""Capacities of limits that are used up while Redis is away, and after it is back."""
ANSWER_WITHIN_S = 10.0
"""Bound on hanging: the timeouts of Redis are half a second each."""
ONE_TOKEN = wire.completion(usage=wire.usage(10, 1))


class World(NamedTuple):
    gateway: Gateway
    redis: RedisServer
    upstream: Upstream


@pytest.fixture(scope="module")
def shared(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A Redis that tests may end, and the gateway that counts in it."""
    with RedisServer() as redis:
        folder = tmp_path_factory.mktemp("counted-in-redis")
        for gateway in served(policy_gateway(folder, upstream, REDIS_URL=redis.url, REDIS_PREFIX="first:")):
            yield World(gateway, redis, upstream)


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """Whatever a test did to it, the Redis serves again afterwards, and is counted in."""
    yield shared
    come_back(shared.redis)
    eventually(lambda: counts_in_redis(shared.gateway), "a gateway that counts in Redis")


def come_back(redis: RedisServer) -> None:
    if redis.is_running:
        redis.thaw()
    else:
        redis.start()


def dollars(key: Key, script: Script, tokens: int = 1) -> bytes:
    """A call that may cost so many dollars."""
    return chat_request(key, script, model="dollar", max_tokens=tokens)


def cents(key: Key, script: Script) -> bytes:
    return chat_request(key, script, model="cent", max_tokens=1)


async def under_way(world: World, key: Key, times: int, tokens: int = 1) -> tuple[list["asyncio.Task[Answer]"], Gate]:
    """Calls that are open at the provider, and cost a dollar each once the gate is opened."""
    script, gate = held_back(world.upstream, ONE_TOKEN)
    calls = start(world.gateway, dollars(key, script, tokens), times)
    await soon(lambda: len(script.requests) == times, f"{times} calls at the provider")
    return calls, gate


async def finish(calls: list["asyncio.Task[Answer]"], gate: Gate) -> None:
    gate.open()
    assert {answer.status for answer in await asyncio.gather(*calls)} == {200}


def health(gateway: Gateway) -> Any:
    """What it says of itself."""
    return gateway.admin("GET", "/health/ready").json()


def counts_in_redis(gateway: Gateway) -> bool:
    return bool(health(gateway)["status"] == "ok")


async def is_back(world: World) -> None:
    await soon(lambda: counts_in_redis(world.gateway), "a gateway that counts in Redis")


async def is_on_its_own(world: World) -> None:
    """Returns when the gateway counts without Redis; it takes calls then."""

    def counts_locally() -> bool:
        said = health(world.gateway)
        return bool(said["status"] == "degraded" and "counting locally" in said["checks"]["counters"])

    await soon(counts_locally, "a gateway that counts without Redis")


async def assert_counts(world: World, key: Key, *, calls: int) -> list[dict[str, Any]]:
    """What the counters show, once they show it, is what the ledger says."""

    async def nothing_held() -> bool:
        return not any(limit["held"] for limit in (await me(world.gateway, key))["limits"])

    async with asyncio.timeout(ANSWER_WITHIN_S):
        while not await nothing_held():
            await asyncio.sleep(0.02)
    return await assert_books_agree(world.gateway, key, admitted=calls)


# Edges


async def test_an_hours_window_lets_exactly_its_requests_through(world: World) -> None:
    key = limited(world.gateway, requests_per_hour=10)
    script = says(world.upstream, 1)
    admitted, refused = split(await at_once(world.gateway, cents(key, script), TIMES))
    assert (len(admitted), len(script.requests)) == (10, 10)
    assert {answer.error["metadata"]["name"] for answer in refused} == {"requests_per_hour"}
    await assert_books_agree(world.gateway, key, admitted=10)


async def test_exactly_as_many_calls_are_under_way_as_may_be(world: World) -> None:
    key = limited(world.gateway, concurrent_calls=7)
    script, gate = held_back(world.upstream, ONE_TOKEN)
    calls = start(world.gateway, cents(key, script), TIMES)
    await soon(lambda: sum(one.done() for one in calls) == TIMES - 7, "93 refusals")
    await soon(lambda: len(script.requests) == 7, "seven calls at the provider")
    assert (await shown_limit(world.gateway, key, "concurrent_calls"))["held"] == 7
    gate.open()
    admitted, refused = split(await asyncio.gather(*calls))
    assert (len(admitted), len(script.requests)) == (7, 7)
    assert {answer.error["metadata"]["name"] for answer in refused} == {"concurrent_calls"}
    await assert_books_agree(world.gateway, key, admitted=7)


async def test_a_quota_is_a_ceiling_for_what_is_under_way(world: World) -> None:
    key = limited(world.gateway, quota_usd_per_month=10)
    script, gate = held_back(world.upstream, ONE_TOKEN)
    calls = start(world.gateway, dollars(key, script, 3), TIMES)
    await soon(lambda: sum(one.done() for one in calls) == TIMES - 3, "97 refusals")
    gate.open()
    admitted, _ = split(await asyncio.gather(*calls))
    assert (len(admitted), len(script.requests)) == (3, 3)
    again, _ = split(await at_once(world.gateway, dollars(key, script), CROWD))
    assert len(again) == 7, "what the three did not use is there for others"
    entries = await assert_books_agree(world.gateway, key, admitted=10)
    assert sum(entry["charge_nano_usd"] for entry in entries) == 10 * USD


async def test_past_the_soft_budget_the_cheaper_model_serves_up_to_the_hard_one(world: World) -> None:
    key = limited(
        world.gateway,
        budget_usd_per_month=10,
        budget_hard_usd_per_month="10.20",
        when_budget_reached="downgrade_then_deny",
    )
    script = says(world.upstream, 1)
    request = chat_request(key, script, model="pair", max_tokens=1)
    admitted, _ = split(await at_once(world.gateway, request, TIMES))
    models = [answer.header("x-gateway-model") for answer in admitted]
    assert (models.count("pair"), models.count("plain"), len(script.requests)) == (10, 20, 30)
    entries = await assert_books_agree(world.gateway, key, admitted=30)
    assert sum(entry["cost_nano_usd"] for entry in entries) == 10 * USD + 20 * CENT


# Redis loses everything


def flushed(redis: RedisServer) -> None:
    redis.flush()


def restarted(redis: RedisServer) -> None:
    redis.restart()


def killed(redis: RedisServer) -> None:
    redis.kill9()
    redis.start()


async def rebuilding(world: World, lose: Callable[[RedisServer], None]) -> None:
    """Returns when the counters are being filled again."""
    before = len(world.gateway.log_lines("counters_rebuild_started"))
    lose(world.redis)
    await soon(lambda: len(world.gateway.log_lines("counters_rebuild_started")) > before, "a rebuild")


@pytest.mark.parametrize("lose", [flushed, restarted, killed])
async def test_what_redis_loses_is_counted_again_from_the_ledger(
    world: World, lose: Callable[[RedisServer], None]
) -> None:
    """Four calls have ended when it is lost, two end while it is filled again, and three afterwards."""
    gateway, upstream = world.gateway, world.upstream
    hourly = limited(gateway, requests_per_hour=12)
    moneyed = limited(gateway, quota_usd_per_month=12)
    narrow = limited(gateway, concurrent_calls=5)
    keys = (hourly, moneyed, narrow)
    script = says(upstream, 1)
    for key in keys:
        assert {answer.status for answer in await at_once(gateway, dollars(key, script), 4)} == {200}
    early = [await under_way(world, key, 2) for key in keys]
    late = [await under_way(world, key, 3, tokens=2) for key in keys]

    await rebuilding(world, lose)
    for calls, gate in early:
        await finish(calls, gate)
    # What comes while nobody can count is refused or waits, but never let through uncounted.
    crowds = await asyncio.gather(*(at_once(gateway, dollars(key, script), CROWD) for key in keys))
    assert {answer.status for crowd in crowds for answer in crowd} <= {200, 429, 503}
    await is_back(world)
    crowds = [
        [*before, *after]
        for before, after in zip(
            crowds,
            await asyncio.gather(*(at_once(gateway, dollars(key, script), CROWD) for key in keys)),
            strict=True,
        )
    ]
    admitted = [sum(answer.status == 200 for answer in crowd) for crowd in crowds]
    assert admitted[:2] == [3, 0], "of 12: 9 calls, and 6 dollars with 6 held"
    assert (await shown_limit(gateway, narrow, "concurrent_calls"))["held"] == 3

    for calls, gate in late:
        await finish(calls, gate)
    again, _ = split(await at_once(gateway, dollars(moneyed, script), CROWD))
    assert len(again) == 3
    await assert_counts(world, hourly, calls=12)
    entries = await assert_counts(world, moneyed, calls=12)
    assert sum(entry["charge_nano_usd"] for entry in entries) == 12 * USD
    await assert_counts(world, narrow, calls=9 + admitted[2])


@pytest.mark.parametrize("redis_is", ["being filled", "away", "done without"])
async def test_a_refund_that_redis_cannot_be_told_makes_room_once(world: World, redis_is: str) -> None:
    gateway = world.gateway
    rule = "deny" if redis_is == "away" else "local_share"
    key = limited(gateway, quota_usd_per_month=3, on_store_error={"quota": rule})
    script = says(world.upstream, 1)
    paid, _ = split(await at_once(gateway, dollars(key, script), CROWD))
    assert len(paid) == 3
    if redis_is == "being filled":
        await rebuilding(world, flushed)
    else:
        world.redis.freeze()
    if redis_is == "away":
        assert (await exchange(gateway.port, dollars(key, script))).status == 503
    if redis_is == "done without":
        await is_on_its_own(world)
        assert statuses(await at_once(gateway, dollars(key, script), CROWD)) == {429: CROWD}
    await asyncio.to_thread(gateway.admin_json, "POST", f"/admin/ledger/{paid[0].request_id}/refunds", json={})
    if redis_is == "done without":
        admitted, _ = split(await at_once(gateway, dollars(key, script), CROWD))
        assert len(admitted) == 1, "there is room before Redis is back"
    come_back(world.redis)
    await is_back(world)
    again, _ = split(await at_once(gateway, dollars(key, script), CROWD))
    assert len(again) == (0 if redis_is == "done without" else 1)
    assert (await shown_limit(gateway, key, "quota_usd_per_month"))["used"] == 3 * USD


# Redis is away


def stopped(redis: RedisServer) -> None:
    redis.stop()


def frozen(redis: RedisServer) -> None:
    redis.freeze()


@pytest.mark.parametrize("leave", [frozen, stopped])
async def test_while_redis_is_away_nothing_begins_that_a_plan_denies_and_what_is_under_way_ends_well(
    world: World, leave: Callable[[RedisServer], None]
) -> None:
    gateway, upstream = world.gateway, world.upstream
    key = limited(
        gateway, requests_per_hour=10_000, concurrent_calls=4, quota_usd_per_month=10, on_store_error={"quota": "deny"}
    )
    gate = Gate()
    events = [wire.event(wire.chunk("b")), wire.event(wire.usage_chunk(wire.usage(10, 2))), wire.DONE]
    streamed = upstream.script(
        Send(wire.stream_head()),
        Send(wire.framed(wire.event(wire.chunk("a")))),
        gate,
        *(Send(wire.framed(event)) for event in events),
        Send(wire.LAST_CHUNK),
    )
    stream = await gateway.open_stream(key, streamed, model="dollar", max_tokens=5)
    await stream.read_until(b'"a"')
    calls, plain_gate = await under_way(world, key, 1)
    script = says(upstream, 1)

    leave(world.redis)
    async with asyncio.timeout(ANSWER_WITHIN_S):
        first = await exchange(gateway.port, dollars(key, script))
        more = await at_once(gateway, dollars(key, script), CROWD)
        ready = await gateway.get(None, "/health/ready")
        metrics = await gateway.get(None, "/metrics")
        await is_on_its_own(world)
        still = await at_once(gateway, dollars(key, script), CROWD)
    for answer in (first, *more, *still):
        assert (answer.status, answer.error["code"]) == (503, "store_unavailable")
        assert PASSWORD not in str(answer)
    assert (ready.status, ready.json["status"]) == (200, "degraded"), "other plans' calls are taken"
    assert ready.json["checks"]["counters"].startswith("degraded: ")
    assert ready.json["checks"]["database"] == "ok"
    assert metrics.status == 200
    assert script.requests == []

    gate.open()
    answer = await stream.read_rest()
    await stream.close()
    assert answer.is_complete
    assert answer.body.endswith(wire.DONE)
    await finish(calls, plain_gate)
    await soon(lambda: len(usage_entries(gateway, key)) == 2, "both entries while Redis is away")

    come_back(world.redis)
    await is_back(world)
    # What a frozen server does when it goes on, for the call that waited for it in vain, counts no more.
    entries = await assert_counts(world, key, calls=2)
    assert sum(entry["charge_nano_usd"] for entry in entries) == 3 * USD
    admitted, _ = split(await at_once(gateway, dollars(key, script, 7), CROWD))
    assert len(admitted) == 1, "seven dollars are left"
    await assert_counts(world, key, calls=3)


async def test_what_a_limit_allows_is_given_out_once_before_redis_leaves_while_it_is_away_and_when_it_is_back(
    world: World,
) -> None:
    """Some limits are used up while it is away, others afterwards; calls come all the time, and some are open across it."""
    gateway = world.gateway
    group = Group("one process with a file", [gateway], gateway.data_dir / "gateway.db")

    def customer(**overrides: object) -> Customer:
        return Customer(group, world.upstream, limited(gateway, **overrides))

    early = customer(requests_per_hour=EARLY), customer(quota_usd_per_month=EARLY)
    late = customer(requests_per_hour=LATE), customer(quota_usd_per_month=LATE)
    narrow = customer(concurrent_calls=3)
    for each in (*early, *late):
        assert await each.crowd(4) == {200: 4}
    ending = [await in_flight(each, calls=2, streams=0) for each in early]
    staying = [await in_flight(narrow, calls=2, streams=0)]

    leaving = asyncio.get_running_loop().run_in_executor(None, stopped, world.redis)
    told = await asyncio.gather(*(each.crowd(6) for each in (*early, *late)))
    await leaving
    assert {status for crowd in told for status in crowd} <= {200, 503}
    await is_on_its_own(world)
    for each in late:
        assert await each.crowd(4) == {200: 4}, "as if Redis were there"
    for each in early:
        assert set(await each.crowd(2 * EARLY)) == {200, 429}
        assert each.succeeded == EARLY - 2, "two are under way"
    for calls in ending:
        await calls.finish_well()
    staying.append(await in_flight(narrow, calls=1, streams=0))
    assert await narrow.crowd(CROWD) == {429: CROWD}

    come_back(world.redis)
    async with asyncio.timeout(PATIENCE_S):
        while not counts_in_redis(gateway):
            for each in (*early, narrow):
                assert set(await each.crowd(1)) <= {429, 503}, "there is no room"
            for each in late:
                if each.succeeded < LATE - CROWD:
                    assert set(await each.crowd(1)) <= {200, 503}
            await asyncio.sleep(0.03)
    for each in (*early, narrow):
        assert await each.crowd(CROWD) == {429: CROWD}
    for each in late:
        assert set(await each.crowd(LATE)) == {200, 429}
        assert each.succeeded == LATE
    for calls in staying:
        await calls.finish_well()
    await narrow.nothing_held()
    assert await narrow.crowd(3) == {200: 3}
    for each in (*early, *late, narrow):
        await each.agree()
        await assert_counts(world, each.key, calls=each.succeeded)


# The gateway ends


@pytest.mark.parametrize("is_filling", [False, True], ids=["in-peace", "while-it-fills-the-counters"])
async def test_calls_that_a_kill_cut_off_are_booked_and_their_rest_is_given_back(
    world: World, is_filling: bool
) -> None:
    """The next process does not wait for the one that said it was filling the counters."""
    gateway = world.gateway
    key = limited(gateway, requests_per_hour=10, concurrent_calls=3, quota_usd_per_month=100)
    script = says(world.upstream, 1)
    assert {answer.status for answer in await at_once(gateway, dollars(key, script), 2)} == {200}
    calls, gate = await under_way(world, key, 3, tokens=5)
    if is_filling:
        await rebuilding(world, flushed)
    gateway.kill9()
    gate.open()
    assert all(isinstance(end, EOFError) for end in await asyncio.gather(*calls, return_exceptions=True))
    gateway.start()
    entries = await assert_counts(world, key, calls=5)
    assert sorted(entry["outcome"] for entry in entries) == ["crashed"] * 3 + ["ok"] * 2
    calls, gate = await under_way(world, key, 3)
    full = await exchange(gateway.port, dollars(key, script))
    assert full.error["metadata"]["name"] == "concurrent_calls"
    await finish(calls, gate)
    admitted, _ = split(await at_once(gateway, dollars(key, script), CROWD))
    assert len(admitted) == 2, "ten in an hour: two, three that were cut off, and three"
    await assert_counts(world, key, calls=10)


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
async def test_what_was_booked_while_redis_was_away_is_counted_by_the_next_process(world: World, end: str) -> None:
    """The last process could not tell Redis how its calls had ended, nor that one more had been let through."""
    gateway = world.gateway
    key = limited(gateway, requests_per_hour=5, concurrent_calls=3, quota_usd_per_month=10)
    calls, gate = await under_way(world, key, 3, tokens=3)
    world.redis.freeze()
    await is_on_its_own(world)
    full = await exchange(gateway.port, dollars(key, says(world.upstream, 1)))
    assert full.error["metadata"]["name"] == "concurrent_calls"
    await finish(calls, gate)
    await soon(lambda: len(usage_entries(gateway, key)) == 3, "the entries of the calls")
    assert (await exchange(gateway.port, dollars(key, says(world.upstream, 1)))).status == 200
    await soon(lambda: len(usage_entries(gateway, key)) == 4, "the entry of the one without Redis")
    if end == "SIGTERM":
        assert gateway.stop() == 0
    else:
        gateway.kill9()
    world.redis.thaw()
    gateway.start()
    await is_back(world)
    await assert_counts(world, key, calls=4)
    admitted, _ = split(await at_once(gateway, dollars(key, says(world.upstream, 1), 6), CROWD))
    assert len(admitted) == 1, "six dollars are left, and one request"
    await assert_counts(world, key, calls=5)


# Starting


async def test_without_redis_a_gateway_does_not_start_and_says_why(upstream: Upstream, tmp_path: Path) -> None:
    with RedisServer() as redis:
        url = redis.url
    gateway = policy_gateway(tmp_path, upstream, REDIS_URL=url)
    try:
        gateway.launch()
        assert gateway.wait(60) == 2
        lines = [line for line in gateway.logs().splitlines() if "GATEWAY_REDIS_URL" in line]
        assert len(lines) == 1, gateway.logs()
        assert "Traceback" not in gateway.logs()
        assert PASSWORD not in gateway.logs()
    finally:
        gateway.close()


# Side by side


async def test_gateways_with_prefixes_of_their_own_share_a_redis_and_nothing_else(world: World, tmp_path: Path) -> None:
    """Both have a creator of the same name; one of them ends, and the other does not notice."""
    other = policy_gateway(tmp_path, world.upstream, REDIS_URL=world.redis.url, REDIS_PREFIX="second:")
    try:
        second = other.start()
        keys = []
        for gateway in (world.gateway, second):
            gateway.admin_json(
                "POST", "/admin/creators", json={"id": "twin", "plan": "base", "overrides": {"requests_per_hour": 5}}
            )
            keys.append(gateway.new_key("twin"))
        script = says(world.upstream, 1)
        for gateway, key in zip((world.gateway, second), keys, strict=True):
            admitted, _ = split(await at_once(gateway, cents(key, script), CROWD))
            assert len(admitted) == 5
            await assert_books_agree(gateway, key, admitted=5)
        assert other.stop() == 0
    finally:
        other.close()
    names = str(world.redis.command("KEYS", "*"))
    assert "first:" in names
    assert "second:" in names
    await assert_books_agree(world.gateway, keys[0], admitted=5)


def change_password(redis: RedisServer) -> None:
    """Until it starts again; whoever is connected is cut off."""
    lines = f"AUTH {PASSWORD}", "CONFIG SET requirepass another-one", "CLIENT KILL TYPE normal SKIPME yes"
    with socket.create_connection(("127.0.0.1", redis.port), timeout=PATIENCE_S) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in lines).encode())
        with connection.makefile("rb") as answers:
            assert [answers.readline()[:1] for _ in lines] == [b"+", b"+", b":"]


async def test_a_redis_that_does_not_know_the_password_any_more_is_away_and_nobody_is_shown_it(world: World) -> None:
    """`audit` looks for it in the logs and the files of every gateway here."""
    gateway = world.gateway
    key = limited(gateway, requests_per_hour=10_000, on_store_error={"rate_limit": "deny"})
    script = says(world.upstream, 1)
    assert (await exchange(gateway.port, cents(key, script))).status == 200
    change_password(world.redis)
    async with asyncio.timeout(ANSWER_WITHIN_S):
        refused = await at_once(gateway, cents(key, script), CROWD)
    assert {(answer.status, answer.error["code"]) for answer in refused} == {(503, "store_unavailable")}
    ready = await gateway.get(None, "/health/ready")
    lists = [gateway.admin("GET", path).text for path in ("/admin/creators", "/admin/ledger")]
    shown = [*map(str, refused), str(ready), *lists, gateway.logs()]
    assert [text for text in shown if PASSWORD in text] == []
    world.redis.kill9()  # and what it was told with it
    world.redis.start()
    await is_back(world)
    await assert_counts(world, key, calls=1)
