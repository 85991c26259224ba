"""Three gateway processes on one PostgreSQL and one Redis are one gateway.

Limits let through what they say however many processes are asked at once, whatever is restarted meanwhile; what one changes
counts for all; what is to be done once is done once; and a process that dies, or is silent for a while, costs nobody
anything but the calls it had in hand.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from gateway.ledger.expiry import expire_credits
from gateway.ledger.opening import open_database
from tests.e2e.notices_world import WEBHOOK_SECRET, Receiver
from tests.ledger import books
from tests.ledger.books import verify
from tests.rig import wire
from tests.rig.client import Answer, Connection, connected, exchange
from tests.rig.environment import many_processes_rounds
from tests.rig.gateway import Gateway, Key
from tests.rig.many_world import START_WITHIN_S, Balancer, Fleet, Load, billed, booked_once, fleet_of
from tests.rig.policy_world import (
    CENT,
    USD,
    assert_books_agree,
    chat_request,
    grant,
    held_back,
    image_request,
    limited,
    me,
    paints,
    says,
    shown_limit,
    split,
)
from tests.rig.upstream import Script, Upstream
from tests.rig.waiting import PATIENCE_S, eventually, soon

PROCESSES = 3
CROWD = 500
"""Calls at once, over all processes."""
ONE_TOKEN = wire.completion(usage=wire.usage(10, 1))
SETTLED_WITHIN_S = 30.0
"""Bound on hanging: what an outage left has to end by then."""
ROUNDS = many_processes_rounds()
"""More than one is the long form."""
RESTARTED = PROCESSES if ROUNDS > 1 else 2
CHANGED_WITHIN_S = 5.0
"""Promised is one second; the machine may be busy. What is believed unheard of is believed for a minute."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def shared(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Fleet]:
    """Whatever the tests did: nothing is held, the ledger recomputes, no secret is anywhere, and all end cleanly."""
    told = {"WEBHOOK_URL": receiver.webhook_url, "WEBHOOK_SECRET": WEBHOOK_SECRET, "NOTICES_EVERY_S": 0.2}
    settings = {**told, "DRAIN_DELAY_S": 1}
    with fleet_of(tmp_path_factory.mktemp("many"), upstream, PROCESSES, **settings) as fleet:
        yield fleet
        fleet.whole()
        fleet.audit()
        bodies = {post.notice_id: post.json for post in receiver.webhooks}.values()
        about = Counter((body["type"], body["data"]["creator"], body["data"].get("limit_name")) for body in bodies)
        assert set(about.values()) <= {1}, "one notice of each, whoever saw its cause"
        for gateway in fleet.gateways:
            gateway.terminate()
        assert [gateway.wait() for gateway in fleet.gateways] == [0] * PROCESSES


@pytest.fixture
def fleet(shared: Fleet) -> Iterator[Fleet]:
    """Whatever a test did to it, all of it serves again afterwards."""
    yield shared
    shared.whole()


@pytest.fixture(scope="module")
def outsiders(shared: Fleet) -> dict[Gateway, str]:
    """Processes that must not take part, launched, and the setting that is the reason of each."""
    launched: dict[Gateway, str] = {
        shared.new("other-secret", SECRET="another-root-secret-0123456789"): "GATEWAY_SECRET",
        shared.new("own-counters", REDIS_URL=None): "GATEWAY_REDIS_URL",
        shared.new("workers-of-a-file", DATABASE_URL=None, WORKERS=2): "GATEWAY_WORKERS",
    }
    for gateway in launched:
        gateway.launch()
    return launched


def cents(key: Key, script: Script) -> bytes:
    return chat_request(key, script, model="cent", max_tokens=1)


def dollars(key: Key, script: Script, tokens: int = 1) -> bytes:
    """A call that may cost so many dollars."""
    return chat_request(key, script, model="dollar", max_tokens=tokens)


async def agree(fleet: Fleet, key: Key, script: Script, *, admitted: int) -> list[dict[str, Any]]:
    """Every process shows the ledger's sums, the provider was asked as often as was booked, and all of it recomputes."""
    await fleet.nothing_held(key)
    for gateway in fleet.gateways:
        entries = await assert_books_agree(gateway, key, admitted=admitted)
    assert billed(script) == len(script.requests) == admitted
    assert sum(entry["output_tokens"] for entry in entries) in (0, admitted), "a token for each, or images"
    report = await asyncio.to_thread(verify, fleet.url)
    assert (report.differences, report.differences_count) == ([], 0)
    return entries


# The edge of each limit


class Edge(NamedTuple):
    """A limit, and what of a crowd it lets through."""

    name: str
    """In refusals."""
    admitted: int
    request: Callable[[Key, Script], bytes]
    overrides: dict[str, object] = {}  # noqa: RUF012 -- never changed
    codes: frozenset[str] = frozenset({"insufficient_quota", "rate_limit_exceeded"})
    """Money that open calls hold may come back; what is spent will not."""


EDGES = [
    Edge("requests_per_hour", 100, cents, {"requests_per_hour": 100}, frozenset({"rate_limit_exceeded"})),
    Edge("quota_usd_per_month", 100, dollars, {"quota_usd_per_month": 100}),
    Edge("credits", 25, image_request),
]


@pytest.mark.parametrize("edge", [pytest.param(edge, id=edge.name) for edge in EDGES])
async def test_a_crowd_over_all_processes_gets_exactly_what_the_limit_has(fleet: Fleet, edge: Edge) -> None:
    gateway = fleet.gateways[0]
    key = limited(gateway, **edge.overrides)
    if edge.name == "credits":
        grant(gateway, key, 2 * edge.admitted)
    script = paints(fleet.upstream) if edge.request is image_request else says(fleet.upstream, 1)
    request = edge.request(key, script)
    answers = await fleet.at_once(request, CROWD)
    admitted, refused = split(answers)
    assert (len(admitted), len(refused)) == (edge.admitted, CROWD - edge.admitted)
    assert {answer.error["metadata"]["name"] for answer in refused} == {edge.name}
    assert {answer.error["code"] for answer in refused} <= edge.codes
    booked_once(answers, await agree(fleet, key, script, admitted=edge.admitted))
    for answer in await fleet.at_once(request, PROCESSES):
        assert (answer.status, answer.error["code"]) == (429, min(edge.codes))


async def test_free_images_of_a_day_are_as_many_as_the_plan_says(fleet: Fleet) -> None:
    key = limited(fleet.gateways[0], free_images_per_day=40)
    script = paints(fleet.upstream)
    answers = await fleet.at_once(image_request(key, script), CROWD)
    admitted, _ = split(answers)
    assert len(admitted) == 40
    entries = await agree(fleet, key, script, admitted=40)
    assert {(entry["payer"], entry["payer_amount"]) for entry in entries} == {("free_images", 1)}
    booked_once(answers, entries)


async def test_past_the_soft_budget_the_cheaper_model_serves_up_to_the_hard_one(fleet: Fleet) -> None:
    limits = {"budget_usd_per_month": 100, "budget_hard_usd_per_month": "102"}
    key = limited(fleet.gateways[0], **limits, when_budget_reached="downgrade_then_deny")
    script = says(fleet.upstream, 1)
    answers = await fleet.at_once(chat_request(key, script, model="pair", max_tokens=1), CROWD)
    admitted, refused = split(answers)
    assert Counter(answer.header("x-gateway-model") for answer in admitted) == {"pair": 100, "plain": 200}
    assert {answer.error["metadata"]["name"] for answer in refused} <= {
        "budget_usd_per_month",
        "budget_hard_usd_per_month",
    }
    entries = await agree(fleet, key, script, admitted=300)
    assert sum(entry["cost_nano_usd"] for entry in entries) == 100 * USD + 200 * CENT
    booked_once(answers, entries)


async def test_what_is_under_way_anywhere_counts_everywhere(fleet: Fleet) -> None:
    """Calls that are open at the provider: places, tokens of a window and money, each at its edge."""
    gateway = fleet.gateways[0]
    script, gate = held_back(fleet.upstream, ONE_TOKEN)
    probe = limited(gateway, tokens_per_day=10**9)
    probing = fleet.start_calls(dollars(probe, script, 3), 1)
    await soon(lambda: script.requests, "the probe at the provider")
    tokens = (await shown_limit(gateway, probe, "tokens_per_day"))["held"]
    narrow = limited(gateway, concurrent_calls=20)
    windowed = limited(gateway, tokens_per_day=31 * tokens - 1)
    moneyed = limited(gateway, quota_usd_per_month=122)
    keys = {narrow: ("concurrent_calls", 20), windowed: ("tokens_per_day", 30), moneyed: ("quota_usd_per_month", 40)}
    calls = {key: fleet.start_calls(dollars(key, script, 3), CROWD) for key in keys}
    await soon(
        lambda: all(sum(one.done() for one in calls[key]) == CROWD - admitted for key, (_, admitted) in keys.items()),
        "the refusals",
    )
    await soon(lambda: len(script.requests) == 1 + 20 + 30 + 40, "the others at the provider")
    gate.open()
    answers = {key: await asyncio.gather(*calls[key]) for key in keys}
    await asyncio.gather(*probing)
    await fleet.nothing_held(*keys)
    for key, (name, count) in keys.items():
        admitted, refused = split(answers[key])
        assert len(admitted) == count
        assert {answer.error["metadata"]["name"] for answer in refused} == {name}
        assert {answer.error["code"] for answer in refused} == {"rate_limit_exceeded"}
        assert {answer.header("retry-after") is None for answer in refused} == {False}
        for gateway in fleet.gateways:
            entries = await assert_books_agree(gateway, key, admitted=count)
        booked_once(answers[key], entries)
    again = says(fleet.upstream, 1)
    rest, _ = split(await fleet.at_once(dollars(moneyed, again), CROWD))
    assert len(rest) == 82, "what the calls did not use is there for others"
    assert (await shown_limit(gateway, windowed, "tokens_per_day"))["used"] == 30 * 11


# Outages in the middle


def redis_restarts(fleet: Fleet) -> None:
    fleet.redis.restart()


def redis_is_away(fleet: Fleet) -> None:
    """Long enough for the processes to agree that each counts for itself."""
    fleet.redis.kill9()
    before = len(fleet.log_lines("counting"))
    eventually(lambda: len(fleet.log_lines("counting")) >= before + 2 * PROCESSES, "local counting")
    fleet.redis.start()


def postgres_restarts(fleet: Fleet) -> None:
    fleet.postgres.restart()


def postgres_is_killed(fleet: Fleet) -> None:
    fleet.postgres.kill9()
    fleet.postgres.start()


def postgres_freezes(fleet: Fleet) -> None:
    """For longer than a settle waits for the database."""
    fleet.postgres.freeze()
    time.sleep(2.5)
    fleet.postgres.thaw()


RESTARTS = [redis_restarts, postgres_restarts]
OUTAGES = [*RESTARTS, redis_is_away, postgres_is_killed, postgres_freezes]


@pytest.mark.parametrize("outage", RESTARTS if ROUNDS == 1 else OUTAGES * ROUNDS)
async def test_an_outage_in_the_middle_of_a_crowd_loses_nothing_and_multiplies_no_limit(
    fleet: Fleet, outage: Callable[[Fleet], None]
) -> None:
    """The crowd of each creator is there when it begins; more come when it is over, and take what is left."""
    gateway, upstream = fleet.gateways[0], fleet.upstream
    hourly, moneyed = limited(gateway, requests_per_hour=200), limited(gateway, quota_usd_per_month=200)
    narrow = limited(gateway, concurrent_calls=6)
    scripts = {hourly: says(upstream, 1), moneyed: says(upstream, 1)}
    held, gate = held_back(upstream, ONE_TOKEN)
    requests = {key: dollars(key, script) for key, script in {**scripts, narrow: held}.items()}
    calls = {key: fleet.start_calls(requests[key], times) for key, times in ((narrow, 4), (hourly, 0), (moneyed, 0))}
    try:
        await soon(lambda: len(held.requests) == 4, "four calls at the provider")
        for key in scripts:
            calls[key] += fleet.start_calls(requests[key], CROWD)
        await soon(lambda: all(len(each.requests) > 10 for each in scripts.values()), "calls of both at the provider")
        calls[narrow] += fleet.start_calls(requests[narrow], 30)
        await asyncio.to_thread(outage, fleet)

        async with asyncio.timeout(SETTLED_WITHIN_S):
            await asyncio.gather(*calls[hourly], *calls[moneyed])
            while len(held.requests) < 6:
                calls[narrow] += fleet.start_calls(requests[narrow], PROCESSES)
                await asyncio.sleep(0.1)
            while sum(not one.done() for one in calls[narrow]) > 6:
                await asyncio.sleep(0.1)
        await fleet.at_once(requests[narrow], CROWD // 10)
        assert len(held.requests) == 6, "as many as may be under way at once, through all of it"
    finally:
        gate.open()
        await asyncio.gather(*(one for each in calls.values() for one in each), return_exceptions=True)

    await fleet.nothing_held(*calls, within_s=SETTLED_WITHIN_S)
    for key in scripts:
        await use_up(fleet, requests[key], calls[key])
    await fleet.nothing_held(*calls, within_s=SETTLED_WITHIN_S)
    for key, script in {**scripts, narrow: held}.items():
        answers = [one.result() for one in calls[key]]
        assert {answer.status for answer in answers} <= {200, 429, 503}
        entries = fleet.entries(key)
        booked_once(answers, entries)
        succeeded = sum(answer.status == 200 for answer in answers)
        assert len(entries) == len(script.requests) == billed(script) == succeeded
        assert {entry["outcome"] for entry in entries} == {"ok"}
    assert len(held.requests) == 6
    assert len(scripts[moneyed].requests) == 200, "money that was held in vain came back"
    # A request is not given back: one counted for a call that could not begin then is lost.
    unserved = sum(one.result().status == 503 for one in calls[hourly])
    assert 200 - unserved <= len(scripts[hourly].requests) <= 200
    for each in fleet.gateways:
        assert (await shown_limit(each, moneyed, "quota_usd_per_month"))["used"] == 200 * USD
        assert (await shown_limit(each, hourly, "requests_per_hour"))["used"] == 200
    report = await asyncio.to_thread(verify, fleet.url)
    assert (report.differences, report.differences_count) == ([], 0)


async def use_up(fleet: Fleet, request: bytes, calls: list["asyncio.Task[Answer]"]) -> None:
    """Calls until nothing is left of the limit, for which all that are needed are asked to count again."""
    async with asyncio.timeout(SETTLED_WITHIN_S):
        while True:
            more = fleet.start_calls(request, CROWD // 2)
            calls += more
            if {answer.status for answer in await asyncio.gather(*more)} == {429}:
                return


# What one changes counts for all


Seen = Callable[[Gateway], Awaitable[bool]]
Record = Callable[[str, object], None]


async def seen_elsewhere(fleet: Fleet, record: Record, is_seen: Seen) -> None:
    """On all processes but the first, which changed it just now; how long that took is recorded."""
    began_at = time.monotonic()
    async with asyncio.timeout(CHANGED_WITHIN_S):
        for gateway in fleet.gateways[1:]:
            while not await is_seen(gateway):
                await asyncio.sleep(0.01)
    record("seen_after_s", round(time.monotonic() - began_at, 3))


async def warm(fleet: Fleet, key: Key, script: Script) -> None:
    """Every process has just served a call of this key, and remembers it."""
    assert [(await exchange(gateway.port, cents(key, script))).status for gateway in fleet.gateways] == [
        200
    ] * PROCESSES


def is_answered(key: Key, script: Script, status: int) -> Seen:
    async def look(gateway: Gateway) -> bool:
        return (await exchange(gateway.port, cents(key, script))).status == status

    return look


def has_limit(key: Key, name: str, limit: int) -> Seen:
    async def look(gateway: Gateway) -> bool:
        return bool((await shown_limit(gateway, key, name))["limit"] == limit)

    return look


@pytest.mark.parametrize("is_cut", [False, True], ids=["heard", "while the others' connections are cut"])
async def test_a_key_revoked_on_one_process_is_refused_by_all(
    fleet: Fleet, is_cut: bool, record_property: Record
) -> None:
    """What is announced while a process is not listening counts there as soon as it listens again."""
    first = fleet.gateways[0]
    key, script = limited(first), says(fleet.upstream, 1)
    await warm(fleet, key, script)
    if is_cut:
        cut = fleet.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'gateway instance%'"
        )
        assert cut == [("t",)] * PROCESSES
    first.admin_json("DELETE", f"/admin/keys/{key.id}")
    await seen_elsewhere(fleet, record_property, is_answered(key, script, 401))
    assert (await exchange(first.port, cents(key, script))).status == 401


async def test_a_creator_changed_on_one_process_is_changed_on_all(fleet: Fleet, record_property: Record) -> None:
    first = fleet.gateways[0]
    key, script = limited(first, requests_per_hour=500), says(fleet.upstream, 1)
    await warm(fleet, key, script)
    path = f"/admin/creators/{key.creator}"
    first.admin_json("PATCH", path, json={"overrides": {"requests_per_hour": 2}})
    await seen_elsewhere(fleet, record_property, is_answered(key, script, 429))
    first.admin_json("PATCH", path, json={"overrides": {}, "plan": "large"})
    await seen_elsewhere(fleet, record_property, has_limit(key, "requests_per_hour", 100))
    first.admin_json("PATCH", path, json={"is_active": False})
    await seen_elsewhere(fleet, record_property, is_answered(key, script, 401))


async def test_plans_and_prices_read_again_by_one_process_are_read_by_all(
    fleet: Fleet, record_property: Record
) -> None:
    first = fleet.gateways[0]
    key, script = first.new_key(plan="small"), says(fleet.upstream, 1)
    other = limited(first)
    await warm(fleet, other, script)
    plans, prices = fleet.plans_file.read_text(), fleet.pricing_file.read_text()
    dearer = prices.replace("output_usd_per_mtok = 10000\n", "output_usd_per_mtok = 20000\n")
    assert dearer != prices

    async def costs_two_cents(gateway: Gateway) -> bool:
        answer = await exchange(gateway.port, cents(other, script))
        assert answer.status == 200, "whatever is read meanwhile"
        return answer.header("x-gateway-cost-usd") == "0.02"

    try:
        fleet.plans_file.write_text(plans.replace("requests_per_hour = 5\n", "requests_per_hour = 7\n"))
        fleet.pricing_file.write_text(dearer)
        first.admin_json("POST", "/admin/reload")
        await seen_elsewhere(fleet, record_property, has_limit(key, "requests_per_hour", 7))
        await seen_elsewhere(fleet, record_property, costs_two_cents)
    finally:
        fleet.plans_file.write_text(plans)
        fleet.pricing_file.write_text(prices)
        fleet.gateways[1].admin_json("POST", "/admin/reload")
    for gateway in fleet.gateways:
        async with asyncio.timeout(CHANGED_WITHIN_S):
            while not await has_limit(key, "requests_per_hour", 5)(gateway):
                await asyncio.sleep(0.01)


# Done once


async def test_a_notice_is_told_once_however_many_processes_see_its_cause(fleet: Fleet, receiver: Receiver) -> None:
    key, script = limited(fleet.gateways[0], quota_usd_per_month=100), says(fleet.upstream, 1)

    def told(kind: str) -> list[str]:
        return [post.notice_id for post in receiver.webhooks if is_of(post.json, kind)]

    def is_of(body: dict[str, Any], kind: str) -> bool:
        return bool(body["type"] == kind and body["data"]["creator"] == key.creator)

    assert {answer.status for answer in await fleet.at_once(dollars(key, script), 85)} == {200}
    await soon(lambda: told("quota.80_percent"), "the first notice")
    assert {answer.status for answer in await fleet.at_once(dollars(key, script), 15)} == {200}
    await fleet.at_once(dollars(key, script), 3 * PROCESSES)
    await soon(lambda: told("quota.exhausted"), "the last notice")
    steps = [post.json["type"] for post in receiver.webhooks if post.json["data"]["creator"] == key.creator]
    assert sorted(set(steps), reverse=True) in (
        ["quota.exhausted", "quota.80_percent"],
        ["quota.exhausted", "quota.95_percent", "quota.80_percent"],
    )
    assert len(steps) == len(set(steps))
    posted = [post.notice_id for post in receiver.webhooks]
    assert len(set(posted)) == len(posted)


async def test_a_month_is_closed_once_and_credits_expire_once_whoever_is_asked(fleet: Fleet) -> None:
    """Two more processes that only write: what happened last month is booked by one of them."""
    gateway = fleet.gateways[0]
    last_month = datetime.now(UTC).replace(day=1) - timedelta(days=3)
    month = last_month.strftime("%Y-%m")
    creators = [limited(gateway).creator for _ in range(20)]
    settings = fleet.settings()
    databases = [await open_database(settings, instance_id=f"writer-{number}") for number in range(2)]
    try:
        await databases[0].record_prices({books.MODEL: books.PRICE})
        for creator in creators:
            await databases[0].ledger.post([books.entry(f"req_{creator}", creator=creator, at=last_month)])
        closed = await asyncio.gather(
            *(
                asyncio.to_thread(each.admin_json, "POST", f"/admin/charges/{month}/close", json={})
                for each in fleet.gateways
            )
        )
        assert sorted(answer["closed_now"] for answer in closed) == [False, False, True]
        assert {answer["creators"] for answer in closed} == {20}
        charges = gateway.admin_json("GET", f"/admin/charges?month={month}")["data"]
        assert sorted(charge["creator"] for charge in charges) == sorted(creators)
        assert {charge["charge_nano_usd"] for charge in charges} == {books.COST}

        keys = [limited(gateway) for _ in range(20)]
        soon_over = datetime.now(UTC) + timedelta(
            seconds=5
        )  # each grant is three commits, on a machine that may be busy
        for key in keys:
            grant(gateway, key, 7, "promo_credits", expires_at=soon_over.isoformat())
        await soon(lambda: datetime.now(UTC) > soon_over, "the end of the credits")
        await asyncio.gather(
            *(expire_credits(database, datetime.now(UTC), late_holds_s=0) for database in databases for _ in range(3))
        )
        for key in keys:
            gone = [entry["payer_amount"] for entry in fleet.entries(key) if entry["kind"] == "expiry"]
            assert gone == [7]
    finally:
        for database in databases:
            await database.close()
    report = await asyncio.to_thread(verify, fleet.url)
    assert (report.differences, report.differences_count) == ([], 0)


def once(key: Key, script: Script, value: str) -> bytes:
    return chat_request(key, script, [("idempotency-key", value)], model="cent", max_tokens=1)


async def test_an_idempotency_key_sent_to_all_processes_at_once_makes_one_call(fleet: Fleet) -> None:
    key = limited(fleet.gateways[0])
    scripts = [says(fleet.upstream, 1) for _ in range(20)]
    late = 0
    """Refused only when their hold was written: a request once counted is not given back."""
    for number, script in enumerate(scripts):
        request = once(key, script, f"at-once-{number}")
        answers = await fleet.at_once(request, 2 * PROCESSES)
        assert {answer.status for answer in answers} <= {200, 409}
        refused = [answer for answer in answers if answer.status == 409]
        assert {answer.error["code"] for answer in refused} <= {"idempotency_in_progress"}
        late += len(refused)
        made = [answer for answer in answers if answer.status == 200 and not is_replay(answer)]
        assert (len(made), len(script.requests)) == (1, 1)
        again = await fleet.at_once(request, PROCESSES)
        assert [(answer.status, answer.body) for answer in again] == [(200, made[0].body)] * PROCESSES
        assert {answer.header("x-gateway-idempotent-replay") for answer in again} == {made[0].request_id}
        assert len(script.requests) == 1
    await fleet.nothing_held(key)
    await assert_books_agree(fleet.gateways[0], key, admitted=len(scripts), requests_lost_max=late)


async def test_between_its_settle_and_its_answer_a_call_is_in_progress_to_all_others(fleet: Fleet) -> None:
    """Others are asked all the time while one process settles, and then keeps its answer."""
    key = limited(fleet.gateways[0])
    first, *others = fleet.gateways

    async def one(number: int) -> Counter[str]:
        script, gate = held_back(fleet.upstream, ONE_TOKEN)
        request = once(key, script, f"in-between-{number}")
        making = asyncio.get_running_loop().create_task(exchange(first.port, request))
        await soon(lambda: script.requests, "the call at the provider")
        seen: Counter[str] = Counter()

        async def ask(gateway: Gateway) -> None:
            while True:
                answer = await exchange(gateway.port, request)
                seen["replay" if answer.status == 200 else answer.error["code"]] += 1
                if answer.status == 200:
                    assert is_replay(answer)
                    return

        asking = [asyncio.get_running_loop().create_task(ask(gateway)) for gateway in others for _ in range(2)]
        await soon(lambda: seen["idempotency_in_progress"] >= len(asking), "refusals while it runs")
        gate.open()
        assert (await making).status == 200
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*asking)
        assert len(script.requests) == 1
        return seen

    seen = sum([await one(number) for number in range(8 * ROUNDS)], Counter())
    assert set(seen) == {"idempotency_in_progress", "replay"}


def is_replay(answer: Answer) -> bool:
    return answer.header("x-gateway-idempotent-replay") is not None


# A process that dies, and one that is silent


async def under_way(
    stack: AsyncExitStack, gateway: Gateway, request: bytes, script: Script, times: int
) -> list[Connection]:
    """Calls at the provider, whose answers may be waited for as long as it takes."""
    before = len(script.requests)
    connections = [await stack.enter_async_context(connected(gateway.port)) for _ in range(times)]
    for connection in connections:
        await connection.send(request)
    await soon(lambda: len(script.requests) == before + times, f"{times} calls at the provider")
    return connections


async def limits_of(gateway: Gateway, key: Key) -> dict[str, dict[str, Any]]:
    return {limit["name"]: limit for limit in (await me(gateway, key))["limits"]}


@pytest.mark.usefixtures("outsiders")  # they end while this waits anyway
async def test_calls_of_a_dead_leader_and_of_a_silent_process_end_once_and_at_their_true_cost(fleet: Fleet) -> None:
    """One of three is killed, another stopped until the third has booked what both had in hand; then it goes on."""
    dead = fleet.leader
    silent, alive = (gateway for gateway in fleet.gateways if gateway is not dead)
    key = limited(alive, concurrent_calls=5, quota_usd_per_month=100, requests_per_hour=10)
    bystander = limited(alive)
    (held, gate), other = held_back(fleet.upstream, ONE_TOKEN), says(fleet.upstream, 1)
    request = dollars(key, held, 3)
    leads_before = len(alive.log_lines("leads"))

    def booked(**fields: object) -> list[dict[str, Any]]:
        entries = alive.entries(creator=key.creator)
        return [entry for entry in entries if fields.items() <= entry.items()]

    async with AsyncExitStack() as stack:
        cut_off = await under_way(stack, dead, request, held, 2)
        late = await under_way(stack, silent, request, held, 2)
        (well,) = await under_way(stack, alive, request, held, 1)
        async with Load(alive.port, [cents(bystander, other)], clients=2) as load:
            silent.freeze()
            dead.kill9()
            for connection in cut_off:
                with pytest.raises(EOFError):
                    await connection.read_head()
            assert (await exchange(alive.port, request)).error["metadata"]["name"] == "concurrent_calls"
            await soon(lambda: len(booked(outcome="crashed")) == 4, "what both had in hand, booked", SETTLED_WITHIN_S)
        assert (load.failures, set(load.statuses)) == ([], {200})
        assert len(alive.log_lines("leads")) == leads_before + 1
        crashed = booked(outcome="crashed")
        assert {entry["charge_nano_usd"] for entry in crashed} == {3 * USD}
        gate.open()
        assert await well.read_head() == 200
        assert (await well.read_rest()).is_complete
        shown = await limits_of(alive, key)
        assert (shown["concurrent_calls"]["held"], shown["quota_usd_per_month"]["used"]) == (0, 13 * USD)

        silent.thaw()
        for connection in late:
            assert await connection.read_head() == 200
            assert (await connection.read_rest()).is_complete
    await soon(lambda: len(booked(kind="adjustment")) == 2, "both corrections")
    corrections = booked(kind="adjustment")
    assert [entry["charge_nano_usd"] for entry in corrections] == [-2 * USD] * 2
    corrected = {entry["corrects"] for entry in corrections}
    assert len(corrected & {entry["id"] for entry in crashed}) == 2
    await asyncio.to_thread(fleet.whole)
    await fleet.nothing_held(key, bystander)
    assert len(booked()) == 7
    assert sum(entry["charge_nano_usd"] for entry in booked()) == (1 + 2 * 3 + 2 * 1) * USD
    booked_once(load.answers, fleet.entries(bystander))
    report = await asyncio.to_thread(verify, fleet.url)
    assert (report.differences, report.differences_count) == ([], 0)
    for gateway in fleet.gateways:
        shown = await limits_of(gateway, key)
        assert (shown["concurrent_calls"]["held"], shown["requests_per_hour"]["used"]) == (0, 5)
        assert shown["quota_usd_per_month"]["used"] == 9 * USD, "what was corrected in the ledger is counted so"


# Restarts, and who may not take part


async def test_processes_restarted_one_after_the_other_fail_no_call(fleet: Fleet) -> None:
    key = limited(fleet.gateways[0])
    script = says(fleet.upstream, 1)
    events = [*wire.text_events("some ", "words"), wire.event(wire.usage_chunk(wire.usage(10, 1))), wire.DONE]
    streamed = fleet.upstream.stream(*events)
    requests = [cents(key, script), chat_request(key, streamed, model="cent", max_tokens=1, stream=True)]
    async with Balancer(fleet.gateways) as balancer:

        def all_there() -> bool:
            return all(balancer.is_ready.values())

        async with Load(balancer.port, requests, clients=8, kept_alive=4) as load:
            for gateway in fleet.gateways[:RESTARTED]:
                gateway.terminate()
                assert await asyncio.to_thread(gateway.wait) == 0
                await asyncio.to_thread(gateway.start)
                await soon(all_there, "all processes behind the balancer")
    assert load.failures == []
    assert set(load.statuses) == {200}
    await fleet.nothing_held(key)
    entries = await assert_books_agree(fleet.gateways[0], key, admitted=len(load.answers))
    booked_once(load.answers, entries)
    assert len(script.requests) + len(streamed.requests) == len(entries)


async def test_who_would_count_or_sign_otherwise_is_refused_and_told_why(
    fleet: Fleet, outsiders: dict[Gateway, str]
) -> None:
    for gateway, named in outsiders.items():
        assert await asyncio.to_thread(gateway.wait, START_WITHIN_S) == 2, gateway.logs()
        lines = [line for line in gateway.logs().splitlines() if named in line]
        assert len(lines) == 1, gateway.logs()
        assert "Traceback" not in gateway.logs()
    assert all(gateway.is_ready() for gateway in fleet.gateways)
