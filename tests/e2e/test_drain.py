"""SIGTERM: no new work, streams may end, what does not end in time is told and settled, and the exit is clean."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import wire
from tests.rig.catalog import cost_nano_usd
from tests.rig.client import Answer, Connection, connect, exchange, request_bytes
from tests.rig.gateway import Gateway
from tests.rig.upstream import Gate, Send, Stall, Upstream
from tests.rig.waiting import soon

ROLE, TEXT, FINISH = wire.text_events("a word ")
END = wire.event(wire.usage_chunk(wire.usage(9, 4))) + wire.DONE


@pytest.fixture
def draining(tmp_path: Path, upstream: Upstream, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """Parametrised by its grace, or by its grace and its delay."""
    given = getattr(request, "param", 30)
    grace_s, delay_s = given if isinstance(given, tuple) else (given, 0)
    gateway = Gateway(tmp_path, upstream, settings={"DRAIN_GRACE_S": grace_s, "DRAIN_DELAY_S": delay_s})
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


async def is_unreachable(gateway: Gateway) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                connection = await connect(gateway.port)
            except OSError:
                return
            await connection.close()


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
    await is_unreachable(draining)
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


# Before the port is closed


async def is_announced(gateway: Gateway) -> Answer:
    """The answer of `/health/ready` once it says no."""
    async with asyncio.timeout(15):
        while (answer := await exchange(gateway.port, request_bytes("GET", "/health/ready"))).status == 200:
            await asyncio.sleep(0.01)
    return answer


async def said_by(connection: Connection, request: bytes) -> Answer:
    await connection.send(request)
    await connection.read_head()
    return await connection.read_rest()


@pytest.mark.parametrize("draining", [(30, 600)], indirect=True)
async def test_during_the_delay_everything_is_served_and_every_answer_ends_its_connection(
    draining: Gateway, upstream: Upstream
) -> None:
    key = draining.new_key()
    gate = Gate()
    held = upstream.script(gate, Send(wire.reply(wire.completion("late", usage=wire.usage(9, 4)))))
    script = upstream.reply(wire.completion("whole", usage=wire.usage(9, 4)))
    request = draining.chat_request(key, script)
    kept = await connect(draining.port)
    assert (await said_by(kept, request)).header("connection") is None
    under_way = await connect(draining.port)
    await under_way.send(draining.chat_request(key, held))
    await soon(gate.is_reached.is_set, "the call at the upstream")

    draining.terminate()
    ready = await is_announced(draining)
    assert ready.status == 503
    assert ready.json["checks"]["gateway"] == "draining"
    new = await connect(draining.port)
    stream = await draining.streamed(key, upstream.script(*(Send(each) for each in whole_stream())))
    answers = [ready, stream, await said_by(kept, request), await said_by(new, request)]
    gate.open()
    await under_way.read_head()
    answers.append(await under_way.read_rest())
    assert [answer.status for answer in answers] == [503, 200, 200, 200, 200]
    assert {answer.header("connection") for answer in answers} == {"close"}
    for connection in (kept, new, under_way):
        assert await connection.is_closed_by_peer()
        await connection.close()

    draining.terminate()
    assert draining.wait(within_s=15) == 0, "a second signal ends the delay"
    draining.start()
    assert len(draining.entries(creator=key.creator)) == 5
    draining.audit()


def whole_stream() -> list[bytes]:
    return [wire.stream_head() + wire.framed(ROLE + TEXT), wire.framed(FINISH + END) + wire.LAST_CHUNK]


@pytest.mark.parametrize("draining", [(30, 0.3)], indirect=True)
async def test_after_the_delay_the_port_is_closed_and_what_is_under_way_ends(
    draining: Gateway, upstream: Upstream
) -> None:
    key = draining.new_key()
    gate = Gate()
    first, last = whole_stream()
    stream = await draining.open_stream(key, upstream.script(Send(first), gate, Send(last)))
    await stream.read_until(TEXT)
    draining.terminate()
    await is_unreachable(draining)
    gate.open()
    assert (await stream.read_rest()).is_complete
    await stream.close()
    assert draining.wait() == 0


async def test_what_was_sent_before_the_port_closed_is_answered(draining: Gateway, upstream: Upstream) -> None:
    """On a connection that was idle, on one that nobody has accepted yet, and where only a part had come."""
    key = draining.new_key()
    script = upstream.reply(wire.completion("whole", usage=wire.usage(9, 4)))
    request = draining.chat_request(key, script)
    idle, partial = await connect(draining.port), await connect(draining.port)
    for connection in (idle, partial):
        assert (await said_by(connection, request)).status == 200
    await partial.send(request[:40])
    process = draining.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    new = await connect(draining.port)
    for connection in (idle, new):
        await connection.send(request)
    draining.terminate()
    process.send_signal(signal.SIGCONT)
    await is_unreachable(draining)
    await partial.send(request[40:])
    for connection in (idle, new, partial):
        assert await connection.read_head() == 200
        answer = await connection.read_rest()
        assert answer.is_complete
        assert answer.header("connection") == "close"
        await connection.close()
    assert draining.wait() == 0


@pytest.mark.parametrize("draining", [(600, 600)], indirect=True)
async def test_two_signals_in_a_row_end_it_whatever_it_waits_for(draining: Gateway, upstream: Upstream) -> None:
    key = draining.new_key()
    script = upstream.script(Send(wire.stream_head() + wire.framed(ROLE + TEXT)), Stall())
    stream = await draining.open_stream(key, script)
    await stream.read_until(TEXT)
    draining.terminate()
    await is_announced(draining)
    draining.terminate()
    (await stream.read_rest()).assert_broken_off()
    await stream.close()
    assert draining.wait() == 0
    draining.start()
    (entry,) = draining.entries(creator=key.creator)
    assert entry["outcome"] == "aborted"
    draining.audit()
