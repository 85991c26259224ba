"""Circuits, the views of them, and what a deployment in trouble does to budgets: a gateway whose circuits open early."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.catalog import cost_nano_usd, provider
from tests.rig.gateway import Gateway, Key, free_port
from tests.rig.routing_world import USAGE, asked, bad, begin, fresh, good, plays, routed, routed_gateway
from tests.rig.upstream import Reset, Upstream
from tests.rig.waiting import soon

FAILURES_MAX = 3
OPEN_S = 2
COST = cost_nano_usd(40, 10)
LATE_PORT = free_port()


@pytest.fixture(scope="module")
def fragile(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Circuits open after three failures in a row, for two seconds. The provider `late` has a port where nobody listens."""
    settings = {"CIRCUIT_FAILURES_MAX": FAILURES_MAX, "CIRCUIT_OPEN_S": OPEN_S}
    late = provider("late", f"http://127.0.0.1:{LATE_PORT}/v1") + routed("late", provider_name="late")
    gateway = routed_gateway(tmp_path_factory.mktemp("fragile"), upstream, models=late, **settings)
    try:
        yield gateway.start()
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


@pytest.fixture
def key(fragile: Gateway) -> Key:
    return fragile.new_key()


def state(gateway: Gateway, model: str, letter: str = "a") -> dict[str, Any]:
    """One deployment as admins see it."""
    shown = gateway.admin_json("GET", "/admin/providers")["data"]
    (found,) = [
        each for provider in shown for each in provider["deployments"] if each["upstream_model"] == f"{model}-{letter}"
    ]
    assert isinstance(found, dict)
    return found


def troubles(gateway: Gateway) -> str:
    """What `/health/ready` says of providers, after checking that it still takes calls."""
    answer = gateway.admin("GET", "/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    return str(answer.json()["checks"]["providers"])


class Late:
    """A provider that begins to listen at last, and answers when it may."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
        self.asked += 1
        await self.may_answer.wait()
        writer.write(wire.reply(wire.completion(usage=USAGE), headers=[("connection", "close")]))
        await writer.drain()
        writer.close()


async def test_a_circuit_opens_fails_fast_at_no_cost_lets_one_call_try_and_closes(fragile: Gateway, key: Key) -> None:
    first = [await fragile.chat(key, model="late") for _ in range(FAILURES_MAX)]
    assert [(answer.status, answer.error["code"]) for answer in first] == [(502, "provider_unreachable")] * FAILURES_MAX
    fast = await fragile.chat(key, model="late")
    assert (fast.status, fast.error["code"]) == (503, "circuit_open")
    assert int(fast.header("retry-after") or "0") >= 1
    assert "late/late-a" in troubles(fragile).split(", ")
    shown = state(fragile, "late")
    assert (shown["state"], shown["failures_in_a_row"], shown["last_error"]) == ("open", FAILURES_MAX, "unreachable")
    assert shown["models"] == ["late"]

    late = Late()
    server = await asyncio.start_server(late.serve, "127.0.0.1", LATE_PORT)
    async with server:
        await soon(lambda: state(fragile, "late")["state"] == "half_open", "a circuit that lets one call try")
        calls = [begin(fragile.chat(key, model="late")) for _ in range(10)]
        await soon(lambda: late.asked, "the call that tries")
        turned_away, waiting = await asyncio.wait(calls, timeout=OPEN_S / 2)
        late.may_answer.set()
        answers = [call.result() for call in turned_away]
        assert {(answer.status, answer.error["code"]) for answer in answers} == {(503, "circuit_open")}
        assert (len(waiting), late.asked) == (1, 1)
        assert {(await call).status for call in waiting} == {200}
        assert state(fragile, "late")["state"] == "ok"
        assert "late" not in troubles(fragile)
        assert (await fragile.chat(key, model="late")).status == 200
    entries = fragile.entries(creator=key.creator)
    assert sorted(entry["outcome"] for entry in entries) == ["ok"] * 2 + ["upstream_unreachable"] * FAILURES_MAX
    assert sum(entry["cost_nano_usd"] for entry in entries) == 2 * COST


async def test_a_lone_place_that_answers_goes_on_being_asked_whatever_it_answers(
    fragile: Gateway, upstream: Upstream, key: Key
) -> None:
    model = fresh("lone")
    script = plays(upstream, {f"{model}-a": [*[bad(500)] * (FAILURES_MAX + 1), good()]})
    statuses = [(await fragile.chat(key, script, model=model)).status for _ in range(FAILURES_MAX + 1)]
    assert statuses == [500] * (FAILURES_MAX + 1)
    assert f"place-a/{model}-a" in troubles(fragile).split(", ")
    assert state(fragile, model)["state"] == "open"
    assert (await fragile.chat(key, script, model=model)).status == 200
    assert state(fragile, model)["state"] == "ok"


async def test_a_place_with_an_open_circuit_is_left_out(fragile: Gateway, upstream: Upstream, key: Key) -> None:
    model = fresh("pair")
    script = plays(upstream, {f"{model}-a": [bad(502)], f"{model}-b": [good()]})
    attempts = [
        (await fragile.chat(key, script, model=model)).header("x-gateway-attempts") for _ in range(FAILURES_MAX + 1)
    ]
    assert attempts == ["2"] * FAILURES_MAX + [None]
    assert asked(script) == ["a", "b"] * FAILURES_MAX + ["b"]


@pytest.mark.parametrize("status", [400, 401, 404, 429])
async def test_what_says_nothing_of_health_opens_no_circuit(
    fragile: Gateway, upstream: Upstream, key: Key, status: int
) -> None:
    model = fresh("lone")
    script = plays(upstream, {f"{model}-a": [*[bad(status)] * (FAILURES_MAX + 2), good()]})
    for _ in range(FAILURES_MAX + 2):
        assert (await fragile.chat(key, script, model=model)).status != 503
    assert (await fragile.chat(key, script, model=model)).status == 200


async def test_a_success_between_failures_keeps_a_circuit_closed(
    fragile: Gateway, upstream: Upstream, key: Key
) -> None:
    model = fresh("lone")
    answers = [bad(500), bad(500), good(), bad(500), bad(500), good()]
    script = plays(upstream, {f"{model}-a": answers})
    statuses = [(await fragile.chat(key, script, model=model)).status for _ in answers]
    assert statuses == [500, 500, 200, 500, 500, 200]


async def test_a_limited_place_comes_last_for_as_long_as_it_asked(
    fragile: Gateway, upstream: Upstream, key: Key
) -> None:
    model = fresh("pair")
    script = plays(upstream, {f"{model}-a": [bad(429, [("retry-after", "60")]), good()], f"{model}-b": [good()]})
    assert [(await fragile.chat(key, script, model=model)).status for _ in range(3)] == [200] * 3
    assert asked(script) == ["a", "b", "b", "b"]
    assert state(fragile, model)["state"] == "cooling_down"
    assert 50 < state(fragile, model)["retry_in_s"] <= 60


async def test_fifty_calls_over_a_flapping_place_stay_within_the_budget(fragile: Gateway, upstream: Upstream) -> None:
    """Whatever fails, dies or opens meanwhile: what was answered is booked once, and never more than the cap."""
    model = fresh("trio")
    worst = cost_nano_usd(200, 20)
    cap = 10 * worst
    key = fragile.new_key(fragile.new_creator(budget_usd_per_month=f"{cap / 1e9:.9f}"))
    flapping = [bad(503), good(), [Reset()], bad(429), good(), bad(500)]
    script = plays(upstream, {f"{model}-{place}": [*flapping * 20] for place in "abc"})
    answers = await asyncio.gather(*(fragile.chat(key, script, model=model, max_tokens=20) for _ in range(50)))
    statuses = {answer.status for answer in answers}
    assert 200 in statuses
    assert statuses <= {200, 429, 500, 502, 503}
    entries = fragile.entries(creator=key.creator)
    assert sum(entry["cost_nano_usd"] for entry in entries) <= cap
    served = [entry for entry in entries if entry["outcome"] == "ok"]
    assert len(served) == sum(answer.status == 200 for answer in answers)
    assert all(entry["cost_nano_usd"] == COST for entry in served)
    await soon(lambda: fragile.open_holds() == 0, "the end of every hold")
