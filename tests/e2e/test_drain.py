"""SIGTERM: no new work, streams may end, what does not end in time is told and settled, and the exit is clean."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import wire
from tests.rig.catalog import cost_nano_usd
from tests.rig.client import Connection, connect, exchange, request_bytes
from tests.rig.gateway import Gateway
from tests.rig.upstream import Gate, Send, Stall, Upstream
from tests.rig.waiting import soon

ROLE, TEXT, FINISH = wire.text_events("a word ")
END = wire.event(wire.usage_chunk(wire.usage(9, 4))) + wire.DONE


@pytest.fixture
def draining(tmp_path: Path, upstream: Upstream, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    grace_s = getattr(request, "param", 30)
    gateway = Gateway(tmp_path, upstream, settings={"DRAIN_GRACE_S": grace_s})
    try:
        yield gateway.start()
    finally:
        gateway.close()


async def is_refusing(gateway: Gateway) -> bool:
    """New work: no connection, or a 503."""
    try:
        return (await exchange(gateway.port, request_bytes("GET", "/health/ready"))).status == 503
    except (OSError, EOFError):
        return True


async def until_refusing(gateway: Gateway) -> None:
    async with asyncio.timeout(15):
        while not await is_refusing(gateway):
            await asyncio.sleep(0.01)


async def refused(gateway: Gateway, request: bytes) -> bool:
    try:
        return (await exchange(gateway.port, request)).status == 503
    except (OSError, EOFError):
        return True


async def test_calls_end_within_the_grace_while_new_ones_are_refused(draining: Gateway, upstream: Upstream) -> None:
    key = draining.new_key()
    gate, other_gate = Gate(), Gate()
    stream_script = upstream.script(
        Send(wire.stream_head() + wire.framed(ROLE + TEXT)), gate, Send(wire.framed(FINISH + END) + wire.LAST_CHUNK)
    )
    whole = wire.completion("whole", usage=wire.usage(9, 4))
    whole_script = upstream.script(other_gate, Send(wire.reply(whole)))
    stream = await draining.open_stream(key, stream_script)
    await stream.read_until(TEXT)
    waiting = await connect(draining.port)
    await waiting.send(draining.chat_request(key, whole_script))
    await soon(other_gate.is_reached.is_set, "the whole call at the upstream")

    draining.terminate()
    await until_refusing(draining)
    late = upstream.reply(whole)
    assert await refused(draining, draining.chat_request(key, late))
    assert late.requests == []
    gate.open()
    other_gate.open()
    answer = await stream.read_rest()
    assert answer.body == ROLE + TEXT + FINISH + wire.DONE
    assert answer.is_complete
    await waiting.read_head()
    assert (await waiting.read_rest()).json == whole
    for connection in (stream, waiting):
        await connection.close()
    assert draining.wait() == 0

    draining.start()
    entries = draining.entries(creator=key.creator)
    assert [entry["outcome"] for entry in entries] == ["ok", "ok"]
    draining.audit()


@pytest.mark.parametrize("draining", [0.5], indirect=True)
async def test_streams_beyond_the_grace_are_told_and_settled(draining: Gateway, upstream: Upstream) -> None:
    key = draining.new_key()
    script = upstream.script(Send(wire.stream_head() + wire.framed(ROLE + TEXT)), Stall())
    streams: list[Connection] = [await draining.open_stream(key, script) for _ in range(20)]
    for stream in streams:
        await stream.read_until(TEXT)
    draining.terminate()
    for stream in streams:
        answer = await stream.read_rest()
        answer.assert_broken_off()
        await stream.close()
    assert draining.wait() == 0

    draining.start()
    entries = draining.entries(creator=key.creator)
    assert len(entries) == 20
    assert {entry["outcome"] for entry in entries} == {"aborted"}
    assert {entry["output_tokens"] for entry in entries} == {2}
    assert all(entry["cost_nano_usd"] == cost_nano_usd(entry["input_tokens"], 2) for entry in entries)
    draining.audit()


@pytest.mark.parametrize("draining", [0.5], indirect=True)
async def test_a_whole_answer_beyond_the_grace_is_an_error_and_settled(draining: Gateway, upstream: Upstream) -> None:
    key = draining.new_key()
    script = upstream.script(Stall())
    waiting = await connect(draining.port)
    await waiting.send(draining.chat_request(key, script))
    await soon(lambda: script.requests, "the call at the upstream")
    draining.terminate()
    assert await waiting.read_head() in {502, 503, 504}
    assert (await waiting.read_rest()).error
    await waiting.close()
    assert draining.wait() == 0
    draining.start()
    (entry,) = draining.entries(creator=key.creator)
    assert entry["outcome"] == "aborted"
    assert entry["cost_nano_usd"] > 0
    draining.audit()


async def test_a_second_signal_does_no_harm(draining: Gateway, upstream: Upstream) -> None:
    key = draining.new_key()
    gate = Gate()
    script = upstream.script(
        Send(wire.stream_head() + wire.framed(ROLE + TEXT)), gate, Send(wire.framed(FINISH + END) + wire.LAST_CHUNK)
    )
    stream = await draining.open_stream(key, script)
    await stream.read_until(TEXT)
    draining.terminate()
    await until_refusing(draining)
    draining.terminate()
    gate.open()
    await stream.read_rest()
    await stream.close()
    assert draining.wait() == 0
    draining.start()
    (entry,) = draining.entries(creator=key.creator)
    assert entry["cost_nano_usd"] > 0
    draining.audit()


async def test_an_idle_gateway_ends_at_once_although_clients_keep_connections(draining: Gateway) -> None:
    idle = [await connect(draining.port) for _ in range(5)]
    await idle[0].send(request_bytes("GET", "/health/live"))
    assert await idle[0].read_head() == 200
    draining.terminate()
    assert draining.wait(within_s=15) == 0
    for connection in idle:
        await connection.close()
