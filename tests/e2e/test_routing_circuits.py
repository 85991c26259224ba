"""Circuits, the views of them, and what a deployment in trouble does to budgets: a gateway whose circuits open early."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.rig.catalog import cost_nano_usd
from tests.rig.gateway import Gateway, Key
from tests.rig.routing_world import asked, bad, fresh, good, plays, routed_gateway
from tests.rig.upstream import Gate, Reset, Upstream
from tests.rig.waiting import soon

FAILURES_MAX = 3
OPEN_S = 1
COST = cost_nano_usd(40, 10)


@pytest.fixture(scope="module")
def fragile(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Circuits open after three failures in a row, for a second."""
    settings = {"CIRCUIT_FAILURES_MAX": FAILURES_MAX, "CIRCUIT_OPEN_S": OPEN_S}
    gateway = routed_gateway(tmp_path_factory.mktemp("fragile"), upstream, **settings)
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


async def test_a_circuit_opens_fails_fast_at_no_cost_and_closes_again(
    fragile: Gateway, upstream: Upstream, key: Key
) -> None:
    model = fresh("lone")
    script = plays(upstream, {f"{model}-a": [*[bad(500)] * FAILURES_MAX, good()]})
    assert [(await fragile.chat(key, script, model=model)).status for _ in range(FAILURES_MAX)] == [500] * FAILURES_MAX

    fast = await fragile.chat(key, script, model=model)
    assert (fast.status, fast.error["code"]) == (503, "circuit_open")
    assert int(fast.header("retry-after") or "0") >= 1
    assert len(script.requests) == FAILURES_MAX
    assert f"place-a/{model}-a" in troubles(fragile)
    shown = state(fragile, model)
    assert (shown["state"], shown["failures_in_a_row"], shown["last_error"]) == ("open", FAILURES_MAX, "server_error")
    assert shown["models"] == [model]

    await soon(lambda: state(fragile, model)["state"] == "half_open", "a circuit that lets one call try")
    assert (await fragile.chat(key, script, model=model)).status == 200
    assert state(fragile, model)["state"] == "ok"
    assert model not in troubles(fragile)
    assert len(fragile.entries(creator=key.creator)) == FAILURES_MAX + 1


async def test_a_half_open_circuit_lets_one_call_through(fragile: Gateway, upstream: Upstream, key: Key) -> None:
    model, gate = fresh("lone"), Gate()
    script = plays(upstream, {f"{model}-a": [*[bad(503)] * FAILURES_MAX, [gate, *good()]]})
    for _ in range(FAILURES_MAX):
        await fragile.chat(key, script, model=model)
    await soon(lambda: state(fragile, model)["state"] == "half_open", "a circuit that lets one call try")
    trying = asyncio.create_task(fragile.chat(key, script, model=model))
    await soon(gate.is_reached.is_set, "the call that tries")
    others = await asyncio.gather(*(fragile.chat(key, script, model=model) for _ in range(10)))
    assert {(answer.status, answer.error["code"]) for answer in others} == {(503, "circuit_open")}
    gate.open()
    assert (await trying).status == 200
    assert len(script.requests) == FAILURES_MAX + 1


async def test_a_call_that_tries_and_fails_opens_the_circuit_again(
    fragile: Gateway, upstream: Upstream, key: Key
) -> None:
    model = fresh("lone")
    script = plays(upstream, {f"{model}-a": [bad(500)]})
    for _ in range(FAILURES_MAX):
        await fragile.chat(key, script, model=model)
    await soon(lambda: state(fragile, model)["state"] == "half_open", "a circuit that lets one call try")
    assert (await fragile.chat(key, script, model=model)).status == 500
    assert state(fragile, model)["state"] == "open"
    assert (await fragile.chat(key, script, model=model)).error["code"] == "circuit_open"


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
