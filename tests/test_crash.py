"""`kill -9` under load: whatever a client fully received is in the ledger afterwards, and nothing stays held.

`CRASH_SEEDS` says how often (`make soak`: 200). A seed decides who asks for what, and when the process dies.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.rig import wire
from tests.rig.catalog import cost_nano_usd
from tests.rig.client import exchange
from tests.rig.environment import crash_seeds
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Action, Pause, Script, Send, Upstream

_CLIENTS = 50
_LIFE_S = (0.05, 0.8)
"""The process dies at a random moment of this range after the first answer."""


@dataclass
class Witness:
    """What the clients of one seed saw."""

    asked: int = 0
    received: dict[str, Script] = field(default_factory=dict)
    """Request id of every answer that came to its end, and what the provider had sent for it."""
    cut: int = 0
    first: asyncio.Event = field(default_factory=asyncio.Event)


def scripts(upstream: Upstream) -> dict[Script, tuple[int, int]]:
    """Every kind of answer with the tokens it must be charged for; each has its own number of them."""
    found: dict[Script, tuple[int, int]] = {}
    for kind in range(6):
        tokens = (100 + kind, 10 + kind)
        usage = wire.event(wire.usage_chunk(wire.usage(*tokens)))
        if kind % 2:
            events = [*wire.text_events(*["word "] * (5 * kind)), usage, wire.DONE]
            sends: list[Action] = [Send(wire.stream_head())]
            for event in events:
                sends += [Send(wire.framed(event)), Pause(0.002 * (kind - 1))]
            script = upstream.script(*sends, Send(wire.LAST_CHUNK))
        else:
            script = upstream.script(
                Pause(0.01 * kind), Send(wire.reply(wire.completion("x", usage=wire.usage(*tokens))))
            )
        found[script] = tokens
    return found


async def client(
    gateway: Gateway, key: Key, answers: dict[Script, tuple[int, int]], chance: random.Random, seen: Witness
) -> None:
    """Asks one thing after the other until the gateway is gone."""
    while True:
        script = chance.choice(list(answers))
        is_streaming = bool(answers[script][0] % 2)
        seen.asked += 1
        try:
            answer = await exchange(
                gateway.port, gateway.chat_request(key, script, stream=is_streaming, max_tokens=100)
            )
        except (OSError, EOFError):
            seen.cut += 1
            return
        seen.first.set()
        if not answer.is_complete:
            seen.cut += 1
            return
        assert answer.status == 200, answer
        assert b'"error"' not in answer.body, answer
        seen.received[answer.request_id] = script


async def load_until_killed(gateway: Gateway, key: Key, answers: dict[Script, tuple[int, int]], seed: int) -> Witness:
    chance = random.Random(seed)
    seen = Witness()
    async with asyncio.TaskGroup() as clients:
        for number in range(_CLIENTS):
            clients.create_task(client(gateway, key, answers, random.Random(seed * 1000 + number), seen))
        await seen.first.wait()
        await asyncio.sleep(chance.uniform(*_LIFE_S))  # the random moment is the subject, nothing waits for it
        gateway.kill9()
    return seen


def assert_nothing_is_lost(gateway: Gateway, key: Key, answers: dict[Script, tuple[int, int]], seen: Witness) -> None:
    assert gateway.open_holds() == 0, "holds of the dead process end before the port opens"
    entries = gateway.entries(creator=key.creator)
    booked = Counter(entry["request_id"] for entry in entries)
    assert set(booked.values()) == {1}
    missing = seen.received.keys() - booked.keys()
    assert not missing, f"{len(missing)} answers were received and not booked: {sorted(missing)[:3]}"
    by_id = {entry["request_id"]: entry for entry in entries}
    for request_id, script in seen.received.items():
        entry, tokens = by_id[request_id], answers[script]
        assert (entry["input_tokens"], entry["output_tokens"], entry["outcome"]) == (*tokens, "ok"), entry
        assert entry["cost_nano_usd"] == cost_nano_usd(*tokens)
    dialled = sum(len(script.requests) for script in answers)
    assert dialled <= len(entries) <= seen.asked, "every call that reached the provider is booked, and no other"
    assert all(entry["cost_nano_usd"] > 0 for entry in entries)


async def test_whatever_a_client_received_survives_kill_9(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds, received, cut = crash_seeds(), 0, 0
    gateway = Gateway(tmp_path, upstream)
    try:
        gateway.start()
        for seed in range(seeds):
            key, answers = gateway.new_key(), scripts(upstream)
            seen = await load_until_killed(gateway, key, answers, seed)
            gateway.start()
            try:
                assert_nothing_is_lost(gateway, key, answers, seen)
                verified = gateway.verify()
                assert verified.returncode == 0, verified.stdout + verified.stderr
            except AssertionError as exc:
                exc.add_note(f"seed {seed}")
                raise
            received += len(seen.received)
            cut += seen.cut
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()
    assert received > seeds, "the load was too light to prove anything"
    with capsys.disabled():
        print(f"\nkill -9: {seeds} seeds, {received} responses received and all booked, {cut} calls cut")


async def test_a_process_killed_while_starting_again_recovers(tmp_path: Path, upstream: Upstream) -> None:
    """Dying a second time, with the orphans of the first still to be booked, books none of them twice."""
    gateway = Gateway(tmp_path, upstream)
    try:
        gateway.start()
        key, answers = gateway.new_key(), scripts(upstream)
        seen = await load_until_killed(gateway, key, answers, seed=77)
        for moment in (0.0, 0.3, 0.6):
            gateway.launch()
            await asyncio.sleep(moment)
            gateway.kill9()
        gateway.start()
        assert_nothing_is_lost(gateway, key, answers, seen)
        gateway.audit()
    finally:
        gateway.close()
