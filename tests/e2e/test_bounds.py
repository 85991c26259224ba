"""Slow readers and clients that leave in crowds: memory, connections and descriptors come back to where they were."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import wire
from tests.rig.gateway import Gateway
from tests.rig.upstream import Drip, Send, Stall, Upstream
from tests.rig.waiting import soon


@pytest.fixture(scope="module")
def alone(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway nobody else uses, so that what it holds can be counted."""
    gateway = Gateway(tmp_path_factory.mktemp("alone"), upstream)
    try:
        yield gateway.start()
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


def pid(gateway: Gateway) -> int:
    assert gateway.process is not None
    return gateway.process.pid


def descriptors(gateway: Gateway) -> int:
    return len(list(Path(f"/proc/{pid(gateway)}/fd").iterdir()))


def resident_mb(gateway: Gateway) -> float:
    status = Path(f"/proc/{pid(gateway)}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def warm(gateway: Gateway, upstream: Upstream) -> None:
    key = gateway.new_key()
    script = upstream.reply(wire.completion("a", usage=wire.usage(1, 1)))
    await asyncio.gather(*(gateway.chat(key, script) for _ in range(20)))


async def test_a_client_that_does_not_read_stops_the_upstream(alone: Gateway, upstream: Upstream) -> None:
    """What was sent stays within the buffers of two kernels; nothing piles up in between."""
    await warm(alone, upstream)
    before_mb = resident_mb(alone)
    key = alone.new_key()
    piece = wire.framed(wire.event(wire.chunk("y" * 2**16)))
    scripts = [upstream.script(Send(wire.stream_head()), Drip(piece, 0)) for _ in range(4)]
    streams = [await alone.open_stream(key, script, buffer_bytes=2**16) for script in scripts]

    async def is_stuck() -> bool:
        sent = [script.request.sent for script in scripts]
        await asyncio.sleep(0.5)  # time itself is the subject: nothing more goes out
        return sent == [script.request.sent for script in scripts]

    try:
        async with asyncio.timeout(30):
            while not await is_stuck():
                pass
        assert max(script.request.sent for script in scripts) < 40 * 2**20
        assert resident_mb(alone) - before_mb < 64
    finally:
        for stream in streams:
            await stream.reset()
    entries = await soon(
        lambda: found if len(found := alone.entries(creator=key.creator)) == 4 else [], "the settled calls"
    )
    assert {entry["outcome"] for entry in entries} == {"client_gone"}
    assert all(entry["cost_nano_usd"] > 0 for entry in entries)


async def test_a_crowd_that_leaves_gives_everything_back(alone: Gateway, upstream: Upstream) -> None:
    await warm(alone, upstream)
    key = alone.new_key()
    before = descriptors(alone)
    for _ in range(3):
        script = upstream.script(
            Send(wire.stream_head() + wire.framed(wire.text_events("a word ", finish=None)[1])), Stall()
        )
        streams = await asyncio.gather(*(alone.open_stream(key, script) for _ in range(50)))
        for stream in streams:
            await stream.read_until(b"a word ")
        assert descriptors(alone) >= before + 50
        for stream in streams:
            await stream.reset()
        await soon(lambda: descriptors(alone) <= before + 5, "the descriptors of 50 streams")
    # The upstream is let go first, and booked then.
    await soon(lambda: len(alone.entries(creator=key.creator)) == 150, "150 entries")
    await soon(lambda: alone.open_holds() == 0, "the end of every hold")


async def test_calls_reuse_connections_to_the_upstream(alone: Gateway, upstream: Upstream) -> None:
    await warm(alone, upstream)
    key = alone.new_key()
    before = upstream.connections
    whole = upstream.reply(wire.completion("a", usage=wire.usage(1, 1)))
    stream = upstream.stream(*wire.text_events("a"), wire.DONE)
    for _ in range(20):
        assert (await alone.chat(key, whole)).status == 200
        assert (await alone.chat(key, stream, stream=True)).is_complete
    assert upstream.connections == before, "a whole answer and a whole stream both give their connection back"
