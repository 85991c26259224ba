"""Deployments while something else happens: clients that leave, a shutdown, a new price list, downgrades, other payers."""

import asyncio
from pathlib import Path

import pytest

from tests.rig.catalog import cost_nano_usd
from tests.rig.client import connect
from tests.rig.gateway import Gateway, Key
from tests.rig.policy_world import grant
from tests.rig.routing_world import (
    CHANGED,
    CHANGING,
    asked,
    bad,
    begin,
    fresh,
    good,
    plays,
    routed_gateway,
    streamed,
)
from tests.rig.upstream import Gate, Upstream
from tests.rig.waiting import eventually, soon

COST = cost_nano_usd(40, 10)
CHEAP = cost_nano_usd(40, 10, model="rig-cheap")
LONG_PAUSE = [("retry-after", "3")]
"""Longer than anything else in these tests takes, and short enough for the gateway to wait for."""


@pytest.fixture
def key(routing: Gateway) -> Key:
    return routing.new_key()


# Clients that leave


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_for_a_client_that_left_during_the_pause_nobody_is_asked_again(
    routing: Gateway, upstream: Upstream, key: Key, stream: bool
) -> None:
    model = fresh("again")
    script = plays(upstream, {f"{model}-a": [bad(429, [("retry-after", "1")]), streamed() if stream else good()]})
    connection = await connect(routing.port)
    await connection.send(routing.chat_request(key, script, model=model, stream=stream or None))
    await soon(lambda: script.requests and script.requests[0].played.is_set(), "the first attempt")
    await connection.reset()
    entry = eventually(lambda: routing.entries(creator=key.creator), "the entry of the call")[0]
    assert len(script.requests) == 1
    assert (entry["outcome"], entry["cost_nano_usd"]) == ("client_gone", 0)
    assert routing.open_holds() == 0


async def test_for_a_reader_that_left_before_a_refusal_no_other_place_is_asked(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model, gate = fresh("pair"), Gate()
    script = plays(upstream, {f"{model}-a": [[gate, *bad(503)]], f"{model}-b": [streamed()]})
    connection = await connect(routing.port)
    await connection.send(routing.chat_request(key, script, model=model, stream=True))
    await soon(gate.is_reached.is_set, "the first attempt")
    await connection.reset()
    await soon(script.request.gone.is_set, "the end of an attempt that nobody waits for")
    gate.open()
    entry = eventually(lambda: routing.entries(creator=key.creator), "the entry of the call")[0]
    assert asked(script) == ["a"]
    assert entry["outcome"] == "client_gone"


# A shutdown


async def test_a_shutdown_ends_a_pause_at_no_cost(tmp_path: Path, upstream: Upstream) -> None:
    gateway = routed_gateway(tmp_path, upstream, DRAIN_GRACE_S=0.2)
    try:
        gateway.start()
        key, model = gateway.new_key(), fresh("again")
        script = plays(upstream, {f"{model}-a": [bad(429, LONG_PAUSE), good()]})
        waiting = begin(gateway.chat(key, script, model=model))
        await soon(lambda: script.requests and script.requests[0].played.is_set(), "the first attempt")
        gateway.terminate()
        answer = await waiting
        assert (answer.status, answer.error["code"]) == (503, "shutting_down")
        assert await asyncio.to_thread(gateway.wait) == 0
        assert len(script.requests) == 1
        assert gateway.open_holds() == 0
        gateway.start()
        entry = gateway.entry(key)
        assert (entry["outcome"], entry["cost_nano_usd"]) == ("aborted", 0)
        assert [each["status"] for each in entry["free_attempts"]] == [429]
    finally:
        gateway.close()


# A price list that changes


async def test_calls_under_way_end_where_they_began_when_deployments_change(
    routing: Gateway, upstream: Upstream
) -> None:
    key, gate = routing.new_key(), Gate()
    script = plays(upstream, {"changing-a": [[gate, *good()]], "changing-b": [good()]})
    before = [begin(routing.chat(key, script, model="changing")) for _ in range(5)]
    await soon(lambda: len(script.requests) == 5, "five calls under way")
    prices = routing.folder / "pricing.toml"
    text = prices.read_text()
    prices.write_text(text.replace(CHANGING, CHANGED))
    routing.admin_json("POST", "/admin/reload")
    after = await asyncio.gather(*(routing.chat(key, script, model="changing") for _ in range(5)))
    gate.open()
    answers = [*await asyncio.gather(*before), *after]
    assert {answer.status for answer in answers} == {200}
    assert [answer.header("x-gateway-provider") for answer in answers] == ["place-a"] * 5 + ["place-b"] * 5
    booked = sorted((entry["provider"], entry["cost_nano_usd"]) for entry in routing.entries(creator=key.creator))
    assert booked == [("place-a", COST)] * 5 + [("place-b", CHEAP)] * 5
    prices.write_text(text)
    routing.admin_json("POST", "/admin/reload")


async def test_a_call_goes_on_to_a_place_that_a_reload_took_away_meanwhile(
    routing: Gateway, upstream: Upstream
) -> None:
    """What was admitted over it may use it: the hold is for it."""
    key, gate, model = routing.new_key(), Gate(), fresh("pair")
    script = plays(upstream, {f"{model}-a": [[gate, *bad(503)]], f"{model}-b": [good()]})
    call = begin(routing.chat(key, script, model=model))
    await soon(gate.is_reached.is_set, "the first attempt")
    prices = routing.folder / "pricing.toml"
    text = prices.read_text()
    start = text.index(f'[models."{model}"]')
    end = text.index('\n[models."', start + 1)
    prices.write_text(text[:start] + text[end:])
    routing.admin_json("POST", "/admin/reload")
    assert (await routing.chat(key, script, model=model)).status == 404
    gate.open()
    assert (await call).status == 200
    assert routing.entry(key)["cost_nano_usd"] == CHEAP
    prices.write_text(text)
    routing.admin_json("POST", "/admin/reload")


async def test_a_downgrade_leads_to_the_places_of_the_cheaper_model(routing: Gateway, upstream: Upstream) -> None:
    creator = routing.new_creator(budget_usd_per_month="0.001")
    key = routing.new_key(creator)
    script = plays(upstream, {"smaller-a": [bad(503)], "smaller-b": [good()], "grand-a": [good()]})
    answer = await routing.chat(key, script, model="grand", max_tokens=1000)
    assert (answer.status, answer.header("x-gateway-model")) == (200, "smaller")
    assert (answer.header("x-gateway-downgraded-from"), answer.header("x-gateway-attempts")) == ("grand", "2")
    entry = routing.entry(key)
    assert (entry["requested_model"], entry["served_model"], entry["provider"]) == ("grand", "smaller", "place-b")
    assert entry["cost_nano_usd"] == CHEAP
    assert [each["provider"] for each in entry["free_attempts"]] == ["place-a"]


async def test_own_prices_hold_wherever_the_call_is_served(routing: Gateway, upstream: Upstream) -> None:
    """The creator's own price is what is owed; what it costs is the place's."""
    model = fresh("pair")
    creator = routing.new_creator(prices={model: {"input_usd_per_mtok": "100", "output_usd_per_mtok": "200"}})
    key = routing.new_key(creator)
    script = plays(upstream, {f"{model}-a": [bad(503)], f"{model}-b": [good()]})
    assert (await routing.chat(key, script, model=model)).status == 200
    entry = routing.entry(key)
    assert (entry["provider"], entry["cost_nano_usd"]) == ("place-b", CHEAP)
    assert entry["charge_nano_usd"] == 40 * 100_000 + 10 * 200_000


def credited(gateway: Gateway, amount: int) -> Key:
    key = gateway.new_key(gateway.new_creator(payers=["credits"]))
    grant(gateway, key, amount)
    return key


@pytest.mark.parametrize("model", ["credited", "mixed"])
async def test_credits_pay_the_same_on_every_place(routing: Gateway, upstream: Upstream, model: str) -> None:
    """Five credits are what the model costs its callers; which place served it is the operator's business."""
    key = credited(routing, 100)
    answers = {f"{model}-a": [bad(503)], f"{model}-b": [good()]}
    script = plays(upstream, answers | {"mixed-a-a": [bad(503)], "mixed-b-a": [good()]})
    answer = await routing.chat(key, script, model=model)
    assert (answer.status, answer.header("x-gateway-payer")) == (200, "credits")
    (entry,) = (entry for entry in routing.entries(creator=key.creator) if entry["kind"] == "usage")
    assert (entry["provider"], entry["payer"], entry["payer_amount"]) == ("place-b", "credits", 5)
