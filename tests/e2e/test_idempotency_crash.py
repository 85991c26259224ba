"""`Idempotency-Key` across `kill -9`: whenever the process dies, no call is made or paid twice, and each repetition is told
one of three things: the first answer, that it cannot be given again, or, where nothing had begun, an answer of its own.

`CRASH_SEEDS` says how often it is killed at a random instant.
"""

import asyncio
import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.catalog import cost_nano_usd
from tests.rig.client import Answer, exchange, request_bytes
from tests.rig.environment import crash_seeds
from tests.rig.gateway import CHAT, Gateway, Key, chat_body
from tests.rig.policy_world import at_once, me, usage_entries
from tests.rig.upstream import Action, Gate, Pause, Script, Send, Upstream
from tests.rig.waiting import soon

USAGE = wire.usage(11, 5)
COST = cost_nano_usd(11, 5)
RETRIES = 20
_CALLS = 60
"""Of one life of the process; they are at different points when it ends."""
_SPREAD_S = 0.1
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Whatever happened to it, its ledger adds up in the end."""
    gateway = Gateway(tmp_path_factory.mktemp("crashing"), upstream)
    try:
        yield gateway.start()
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


@dataclass(frozen=True)
class Keyed:
    """A call with a value of its own."""

    script: Script
    request: bytes


def keyed(key: Key, script: Script, *, stream: bool = False) -> Keyed:
    headers = [("idempotency-key", f"call-{next(_numbers)}")]
    body = chat_body(script, stream=stream, max_tokens=100)
    return Keyed(script, request_bytes("POST", CHAT, key=key.key, body=body, headers=headers))


def answering(*before: Action, stream: bool) -> list[Action]:
    """A whole answer, or a stream that has begun before `before`."""
    if not stream:
        return [*before, Send(wire.reply(wire.completion("Whole.", usage=USAGE)))]
    events = [*wire.text_events("In", " parts."), wire.event(wire.usage_chunk(USAGE)), wire.DONE]
    first, *rest = (Send(wire.framed(event)) for event in events)
    return [Send(wire.stream_head()), first, *before, *rest, Send(wire.LAST_CHUNK)]


async def asked(gateway: Gateway, call: Keyed) -> Answer | None:
    """None where the connection ended before an answer."""
    try:
        return await exchange(gateway.port, call.request)
    except (OSError, EOFError):
        return None


def is_replay(answer: Answer, request_id: str) -> bool:
    return (answer.status, answer.is_complete, answer.header("x-gateway-idempotent-replay")) == (200, True, request_id)


def is_lost(answer: Answer) -> bool:
    """Made before, and not to be had again: so it is said, and an SDK does not ask on."""
    is_said = answer.status == 409 and answer.error["code"] == "idempotency_result_unavailable"
    return is_said and answer.header("x-should-retry") == "false"


def booked(gateway: Gateway, key: Key) -> dict[str, dict[str, Any]]:
    """Entries by their request ids, of which none is there twice."""
    entries = usage_entries(gateway, key)
    by_id = {str(entry["request_id"]): entry for entry in entries}
    assert len(by_id) == len(entries)
    return by_id


def expire(gateway: Gateway) -> None:
    """As if a day had passed since every value was used."""
    connection = sqlite3.connect(gateway.data_dir / "gateway.db")
    with connection:
        assert connection.execute("UPDATE idempotency SET expires_at = 1").rowcount
    connection.close()


async def test_a_call_is_not_made_again_after_a_crash(gateway: Gateway, upstream: Upstream) -> None:
    """One answer was complete, one had not begun and one stream had: the last two when the process died."""
    key, gate = gateway.new_key(), Gate()
    complete = keyed(key, upstream.script(*answering(stream=True)), stream=True)
    unanswered = keyed(key, upstream.script(*answering(gate, stream=False)))
    begun = keyed(key, upstream.script(*answering(Gate(), stream=True)), stream=True)
    first = await exchange(gateway.port, complete.request)
    cut = [asyncio.get_running_loop().create_task(asked(gateway, call)) for call in (unanswered, begun)]
    await soon(gate.is_reached.is_set, "the call at the upstream")
    await soon(lambda: begun.script.requests and begun.script.request.sent, "the begin of the stream")
    gateway.kill9()
    await asyncio.gather(*cut)
    gateway.start()

    before = booked(gateway, key)
    assert sorted(entry["outcome"] for entry in before.values()) == ["crashed", "crashed", "ok"]
    limits = {limit["name"]: limit["used"] for limit in (await me(gateway, key))["limits"]}
    for answer in await at_once(gateway, complete.request, RETRIES):
        assert is_replay(answer, first.request_id)
        assert answer.body == first.body
    crashed = {request_id for request_id, entry in before.items() if entry["outcome"] == "crashed"}
    told = set()
    for call in (unanswered, begun):
        answers = await at_once(gateway, call.request, RETRIES)
        assert all(map(is_lost, answers)), answers
        (request_id,) = {answer.error["metadata"]["request_id"] for answer in answers}
        told.add(request_id)
    assert told == crashed
    assert booked(gateway, key) == before
    assert {limit["name"]: limit["used"] for limit in (await me(gateway, key))["limits"]} == limits
    for call in (complete, unanswered, begun):
        assert len(call.script.requests) == 1

    gate.open()
    gateway.kill9()
    expire(gateway)
    gateway.start()
    anew = await at_once(gateway, unanswered.request, RETRIES)
    made = [answer for answer in anew if answer.header("x-gateway-idempotent-replay") is None and answer.status == 200]
    assert len(made) == 1, "an expired value stands for nothing, and for one call from then on"
    for answer in anew:
        is_early = answer.status == 409 and answer.error["code"] == "idempotency_in_progress"
        assert answer in made or is_early or is_replay(answer, made[0].request_id), answer
    assert len(unanswered.script.requests) == 2
    assert len(booked(gateway, key)) == len(before) + 1


async def killed_meanwhile(gateway: Gateway, calls: list[Keyed], after_s: float) -> list[Answer | None]:
    """What the clients got of calls that were under way, so long after the first of them was over."""
    running = [asyncio.get_running_loop().create_task(asked(gateway, call)) for call in calls]
    await soon(lambda: any(call.done() for call in running), "a first answer")
    await asyncio.sleep(after_s)  # the random instant is the subject
    gateway.kill9()
    answers = await asyncio.gather(*running)
    gateway.start()
    return answers


async def outcome(gateway: Gateway, call: Keyed, first: Answer | None, known: dict[str, Any]) -> str:
    """What two repetitions at once were told of a call from before the crash; anything undocumented fails the test."""
    dialled = len(call.script.requests)
    repetitions = await at_once(gateway, call.request, 2)
    context = f"{first} {repetitions}"
    if first is not None and first.is_complete:
        assert first.status == 200, context
        assert all(is_replay(each, first.request_id) and each.body == first.body for each in repetitions), context
        return "received"
    if all(map(is_lost, repetitions)):
        assert all(each.error["metadata"]["request_id"] in known for each in repetitions), context
        return "lost"
    replayed = {each.header("x-gateway-idempotent-replay") for each in repetitions}
    if replayed & known.keys():
        assert len(replayed) == 1, context
        assert repetitions[0].body == repetitions[1].body, context
        return "kept"
    assert dialled == 0, context  # nothing of it had reached the disk
    assert len([each for each in repetitions if each.status == 200]) >= 1, context
    assert {each.status for each in repetitions} <= {200, 409}, context
    return "unknown"


async def test_at_whatever_instant_it_dies_a_call_is_made_and_paid_once(gateway: Gateway, upstream: Upstream) -> None:
    seen: Counter[str] = Counter()
    for seed in range(max(2, crash_seeds() // 2)):
        chance, key = random.Random(seed), gateway.new_key()
        calls = []
        for number in range(_CALLS):
            stream = number % 2 == 1
            pause = Pause(chance.uniform(0, _SPREAD_S))
            calls.append(keyed(key, upstream.script(*answering(pause, stream=stream)), stream=stream))
        firsts = await killed_meanwhile(gateway, calls, chance.uniform(0, _SPREAD_S / 2))
        before, dialled = booked(gateway, key), dials(calls)
        try:
            assert dialled <= len(before), "whatever was dialled is booked"
            for call, first in zip(calls, firsts, strict=True):
                seen[await outcome(gateway, call, first, before)] += 1
                assert len(call.script.requests) <= 1
            after = booked(gateway, key)
            assert {request_id: after[request_id] for request_id in before} == before
            assert len(after) - len(before) == dials(calls) - dialled
            assert all(entry["cost_nano_usd"] == COST for entry in after.values() if entry["outcome"] == "ok")
        except AssertionError as exc:
            exc.add_note(f"seed {seed}")
            raise
    assert seen["received"], "it never died after an answer"
    assert seen["lost"], "it never died in the middle of one"


def dials(calls: list[Keyed]) -> int:
    return sum(len(call.script.requests) for call in calls)
