"""Pouring a body into a sink: in order, at the sink's pace, and never into the sink of another call."""

import asyncio

import pytest

from gateway.providers.base import UpstreamFailure
from gateway.providers.pool import PooledExchange
from tests.providers.scripted_upstream import (
    OK,
    Peer,
    answer,
    begin,
    call,
    chunked,
    failure_of,
    on_both_loops,
    pooled,
    rest,
    says,
    started,
    until,
)

CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Sink:
    """Takes what comes; refuses more once it has `enough` pieces."""

    def __init__(self, enough: int | None = None) -> None:
        self.pieces: list[bytes] = []
        self.enough = enough

    def __call__(self, data: bytes) -> bool:
        self.pieces.append(data)
        return self.enough is None or len(self.pieces) < self.enough

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


async def poured(exchange: PooledExchange) -> bytes:
    """All that is left, with a sink that takes everything."""
    sink = Sink()
    assert await exchange.pour(sink)
    return sink.data


@on_both_loops
async def test_pieces_arrive_in_order_until_the_end() -> None:
    numbers = [b"%d," % number for number in range(500)]

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for number in numbers:
            await peer.send(piece(number))
        await peer.send(END)

    async with pooled(script) as (pool, _):
        exchange = await begin(pool)
        sink = Sink()
        assert await exchange.pour(sink)
        assert sink.data == b"".join(numbers)
        assert b"" not in sink.pieces
        assert await exchange.pour(sink), "the end stays the end"
        assert sink.data == b"".join(numbers)
        exchange.close()
        assert pool.connections_idle == 1


@on_both_loops
async def test_what_came_with_the_head_is_poured_as_well() -> None:
    for data in (answer(b"whole"), chunked(b"who", b"le")):
        async with pooled(says(data)) as (pool, _):
            exchange = await begin(pool)
            assert await poured(exchange) == b"whole"
            exchange.close()


@on_both_loops
async def test_an_empty_body_calls_no_sink() -> None:
    async with pooled(says(answer(b""))) as (pool, _):
        exchange = await begin(pool)
        sink = Sink()
        assert await exchange.pour(sink)
        assert sink.pieces == []
        exchange.close()


@on_both_loops
async def test_a_sink_that_refuses_gets_nothing_until_the_next_pour() -> None:
    refused, sent = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + piece(b"first"))
        await refused.wait()
        for number in range(20):
            await peer.send(piece(b"%d," % number))
        sent.set()
        await peer.send(END)

    async with pooled(script) as (pool, _):
        exchange = await begin(pool)
        sink = Sink(enough=1)
        assert not await exchange.pour(sink)
        refused.set()
        await sent.wait()
        assert sink.data == b"first"
        assert await poured(exchange) == b"".join(b"%d," % number for number in range(20))
        assert sink.data == b"first"
        exchange.close()
        assert pool.connections_idle == 1


@on_both_loops
async def test_a_sink_that_refuses_while_waiting_stops_there() -> None:
    waiting = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await waiting.wait()
        await peer.send(piece(b"first"))
        await peer.send(piece(b"second"))
        await peer.send(END)

    async with pooled(script) as (pool, _):
        exchange = await begin(pool)
        sink = Sink(enough=1)
        pouring = started(exchange.pour(sink))
        await asyncio.sleep(0)
        waiting.set()
        assert not await pouring
        assert sink.data + await poured(exchange) == b"firstsecond"
        assert len(sink.pieces) == 1
        exchange.close()


@on_both_loops
async def test_refusing_the_last_piece_leaves_the_end_for_the_next_pour() -> None:
    async with pooled(says(answer(b"all"))) as (pool, _):
        exchange = await begin(pool)
        assert not await exchange.pour(Sink(enough=1))
        sink = Sink()
        assert await exchange.pour(sink)
        assert sink.pieces == []
        exchange.close()
        assert pool.connections_idle == 1


@on_both_loops
async def test_a_body_far_above_the_buffer_comes_whole_at_the_pace_of_its_sink() -> None:
    body = bytes(range(256)) * 2**14  # 4 MB

    async with pooled(says(answer(body))) as (pool, _):
        exchange = await begin(pool)
        received = b""
        is_over = False
        while not is_over:
            sink = Sink(enough=1)
            is_over = await exchange.pour(sink)
            received += sink.data
        assert received == body
        exchange.close()


@on_both_loops
async def test_pouring_and_reading_may_take_turns() -> None:
    async with pooled(says(chunked(b"a", b"b", b"c"))) as (pool, _):
        exchange = await begin(pool)
        sink = Sink(enough=1)
        assert not await exchange.pour(sink)
        assert sink.data + await rest(exchange) == b"abc"
        exchange.close()


@on_both_loops
async def test_a_failure_comes_after_what_came_before_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + piece(b"what came"))
        peer.close()

    async with pooled(script) as (pool, _):
        exchange = await begin(pool)
        sink = Sink()
        failure = await failure_of(exchange.pour(sink))
        assert (failure.kind, failure.is_fully_sent) == ("died", True)
        assert sink.data == b"what came"
        assert (await failure_of(exchange.pour(sink))).kind == "died"
        exchange.close()
        assert pool.connections_idle == 0


@on_both_loops
async def test_a_failure_while_the_sink_refuses_waits_for_the_next_pour() -> None:
    refused = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + piece(b"first"))
        await refused.wait()
        await peer.send(piece(b"second"))
        peer.close()

    async with pooled(script) as (pool, _):
        exchange = await begin(pool)
        assert not await exchange.pour(Sink(enough=1))
        refused.set()
        await until(lambda: pool.connections_open == 0)
        sink = Sink()
        assert (await failure_of(exchange.pour(sink))).kind == "died"
        assert sink.data == b"second"
        exchange.close()


@on_both_loops
async def test_bad_framing_behind_good_pieces_is_invalid() -> None:
    async with pooled(says(CHUNKED + piece(b"good") + b"xyz\r\n")) as (pool, _):
        exchange = await begin(pool)
        sink = Sink()
        assert (await failure_of(exchange.pour(sink))).kind == "invalid"
        assert sink.data == b"good"
        exchange.close()


@on_both_loops
async def test_a_cancelled_pour_lets_go_of_its_sink() -> None:
    cancelled, sent = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + piece(b"before"))
        await cancelled.wait()
        await peer.send(piece(b"after") + END)
        sent.set()

    async with pooled(script) as (pool, _):
        exchange = await begin(pool)
        sink = Sink()
        pouring = started(exchange.pour(sink))
        await until(lambda: sink.data == b"before")
        pouring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pouring
        cancelled.set()
        await sent.wait()
        assert await poured(exchange) == b"after"
        assert sink.data == b"before"
        exchange.close()


@on_both_loops
async def test_closing_ends_a_pour_in_progress() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + piece(b"before"))
        await peer.gone()

    async with pooled(script) as (pool, _):
        exchange = await begin(pool)
        sink = Sink()
        pouring = started(failure_of(exchange.pour(sink)))
        await until(lambda: sink.data == b"before")
        exchange.close()
        failure = await pouring
        assert (failure.kind, failure.is_fully_sent) == ("died", True)
        with pytest.raises(UpstreamFailure):
            await exchange.pour(sink)
        assert sink.data == b"before"


@on_both_loops
async def test_closing_from_inside_the_sink_ends_the_pour() -> None:
    """A client whose answer is cut while a piece is handed to it."""
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await go.wait()
        await peer.send(piece(b"x"))
        await peer.gone()

    async with pooled(script) as (pool, _):
        exchange = await begin(pool)

        def take(data: bytes) -> bool:
            exchange.close()
            return True

        pouring = started(failure_of(exchange.pour(take)))
        await asyncio.sleep(0)
        go.set()
        assert (await pouring).kind == "died"


@on_both_loops
async def test_two_at_once_cannot_pour_the_same_answer() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.gone()

    async with pooled(script) as (pool, _):
        exchange = await begin(pool)
        first = started(failure_of(exchange.pour(Sink())))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await exchange.pour(Sink())
        exchange.close()
        await first


@pytest.mark.parametrize("ends_by", ["end", "refusal", "cancellation"])
@on_both_loops
async def test_bytes_of_a_later_call_never_reach_an_earlier_sink(ends_by: str) -> None:
    cancelled = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + piece(b"earlier"))
        if ends_by == "cancellation":
            await cancelled.wait()
        await peer.send(END)
        while True:
            await peer.request()
            await peer.send(chunked(b"la", b"ter"))

    async with pooled(script, connections_max=1) as (pool, upstream):
        exchange = await begin(pool)
        sink = Sink(enough=1 if ends_by == "refusal" else None)
        if ends_by == "cancellation":
            pouring = started(exchange.pour(sink))
            await until(lambda: sink.data == b"earlier")
            pouring.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pouring
            cancelled.set()
            assert await rest(exchange) == b""
        elif not await exchange.pour(sink):
            assert await rest(exchange) == b""
        exchange.close()
        later = await begin(pool)
        assert await poured(later) == b"later"
        later.close()
        assert await call(pool) == b"later"
        with pytest.raises(UpstreamFailure):
            await exchange.pour(sink)
        assert sink.data == b"earlier"
        assert upstream.connections == 1
