"""Upstreams that die, answer early, flood or stall, over real sockets: what was sent is known, nothing leaks."""

import asyncio
import os
import random
import socket

import pytest

from gateway.providers.base import UpstreamFailure
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

BIG = bytes(range(256)) * 40_000  # 10 MB, more than the sockets of one connection hold


# Answers that do not end well.


@pytest.mark.parametrize(
    ("data", "body"),
    [
        pytest.param(OK + b"content-length: 10\r\n\r\nhello", b"hello", id="short"),
        pytest.param(OK + b"content-length: 10\r\n\r\n", b"", id="no-body"),
        pytest.param(chunked(b"hello")[:-2], b"hello", id="chunked-almost-ended"),
        pytest.param(chunked(b"hello")[:-5], b"hello", id="chunked-without-end"),
        pytest.param(chunked(b"hello")[:-9], b"hel", id="inside-a-chunk"),
    ],
)
@pytest.mark.parametrize("is_reset", [False, True], ids=["fin", "rst"])
@on_both_loops
async def test_an_answer_cut_short_is_delivered_so_far_and_then_fails(data: bytes, body: bytes, is_reset: bool) -> None:
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)
        if is_reset:
            await read.wait()
            peer.reset()

    async with pooled(script) as (pool, _):
        exchange = await begin(pool, retry_unanswered=True)
        got = b""
        while len(got) < len(body):
            got += await exchange.read()
        read.set()
        assert got == body
        for _ in range(2):
            failure = await failure_of(exchange.read())
            assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("died", True, True)
        exchange.close()


@pytest.mark.parametrize("is_reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 2", b"HTTP/1.1 102 Processing\r\n\r\n"])
@on_both_loops
async def test_a_connection_that_ends_before_the_head_fails_the_call(data: bytes, is_reset: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)
        if is_reset:
            peer.reset()

    async with pooled(script) as (pool, _):
        failure = await failure_of(call(pool))
        assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("died", True, True)


@pytest.mark.parametrize("head", [OK, b"HTTP/1.0 200 OK\r\n", OK + b"connection: close\r\n"])
@on_both_loops
async def test_a_body_that_ends_with_the_connection_is_complete(head: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(head + b"\r\nhello")

    async with pooled(script) as (pool, upstream):
        assert await call(pool) == b"hello"
        assert await call(pool) == b"hello"
        assert upstream.connections == 2


@on_both_loops
async def test_a_reset_does_not_complete_a_body_without_framing() -> None:
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"\r\nhello")
        await read.wait()
        peer.reset()

    async with pooled(script) as (pool, _):
        exchange = await begin(pool)
        assert await exchange.read() == b"hello"
        read.set()
        assert (await failure_of(exchange.read())).kind == "died"
        exchange.close()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", id="redirect"
        ),
        pytest.param(answer(b"x", b"content-encoding: gzip"), id="gzip"),
        pytest.param(OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", id="two-lengths"),
        pytest.param(OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", id="both-framings"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", id="101"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x16", id="tls-alert"),
        pytest.param(OK + b"x: " + b"a" * 70_000, id="endless-head"),
        pytest.param(OK + b"x: a\r\n" * 101 + b"\r\n", id="many-headers"),
    ],
)
@on_both_loops
async def test_an_answer_that_is_not_acceptable_fails_and_closes_the_connection(data: bytes) -> None:
    async with pooled(says(data)) as (pool, upstream):
        for _ in range(2):
            failure = await failure_of(call(pool, retry_unanswered=True))
            assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("invalid", True, True)
        await until(lambda: pool.connections_open == 0)
        assert upstream.connections == 2


@on_both_loops
async def test_no_words_of_the_upstream_are_in_a_failure() -> None:
    async with pooled(says(b"HTTP/1.1 200 OK\r\nsecret-canary\r\n\r\n")) as (pool, _):
        failure = await failure_of(call(pool))
        assert "canary" not in f"{failure}{failure!r}{failure.detail}"


@on_both_loops
async def test_a_broken_body_is_delivered_up_to_the_break() -> None:
    async with pooled(says(chunked(b"hello")[:-5] + b"zz\r\n")) as (pool, _):
        exchange = await begin(pool)
        assert await exchange.read() == b"hello"
        assert (await failure_of(exchange.read())).kind == "invalid"
        exchange.close()


@on_both_loops
async def test_an_answer_sent_byte_by_byte_is_the_same_answer() -> None:
    data = b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + chunked(b"he", b"llo", trailer=b"a: b\r\n")

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            for i in range(len(data)):
                await peer.send(data[i : i + 1])
                await asyncio.sleep(0)

    async with pooled(script) as (pool, upstream):
        for _ in range(2):
            exchange = await begin(pool)
            assert (exchange.status, exchange.headers) == (200, {"transfer-encoding": "chunked"})
            assert await rest(exchange) == b"hello"
            exchange.close()
        assert upstream.connections == 1


# Large requests and early answers.


@on_both_loops
async def test_large_requests_arrive_whole_and_the_connection_is_used_again() -> None:
    async def script(peer: Peer) -> None:
        while True:
            body = await peer.request()
            await peer.send(answer(b"ok" if body == BIG else b"damaged"))

    async with pooled(script) as (pool, upstream):
        for _ in range(3):
            exchange = await begin(pool, BIG)
            assert exchange.is_fully_sent
            assert await rest(exchange) == b"ok"
            exchange.close()
        assert upstream.connections == 1


@pytest.mark.parametrize("size", [65_430, 65_440, 65_450, 65_460, 65_470, 131_072, 131_073, 200_001])
async def test_requests_around_the_size_of_a_write_arrive_whole(size: int) -> None:
    async def script(peer: Peer) -> None:
        while True:
            body = await peer.request()
            await peer.send(answer(b"ok" if body == BIG[:size] else b"damaged"))

    async with pooled(script) as (pool, upstream):
        assert await call(pool, BIG[:size]) == b"ok"
        assert await call(pool, BIG[:size]) == b"ok"
        assert upstream.connections == 1


@on_both_loops
async def test_a_refusal_before_the_request_is_sent_is_delivered_and_the_rest_is_not_sent() -> None:
    received: list[int] = []
    read_on, refuse = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.stop_reading()
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 9\r\n\r\n")
        await read_on.wait()
        peer.read_on()
        await refuse.wait()
        await peer.send(b"too large")
        received.append(len(await peer.gone()))

    async with pooled(script) as (pool, upstream):
        exchange = await begin(pool, BIG)
        assert (exchange.status, exchange.is_fully_sent) == (413, False)
        conn = exchange._conn
        assert conn is not None
        read_on.set()
        await until(lambda: not conn._is_write_paused)
        refuse.set()
        assert await rest(exchange) == b"too large"
        exchange.close()
        assert not exchange.is_fully_sent
        await until(lambda: bool(received))
        assert received[0] < len(BIG)
        assert pool.connections_open == 0
        assert upstream.connections == 1


@on_both_loops
async def test_bytes_that_only_the_transport_has_taken_are_not_sent() -> None:
    """A request so small that it fits in user space, and sockets so small that it does not fit in the kernel."""
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        peer.stop_reading()
        peers.append(peer)
        await asyncio.Event().wait()

    async with pooled(script) as (pool, upstream):
        _shrink(upstream._server.sockets[0].fileno())  # what it accepts inherits that

        async def gate() -> None:
            await until(lambda: bool(peers))
            (conn,) = pool._open
            _shrink(conn._transport.get_extra_info("socket").fileno())

        calling = started(call(pool, BIG[:60_000], gate=gate()))
        await until(lambda: pool.exchanges_active == 1)
        peers[0].reset()
        failure = await failure_of(calling)
        assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("died", True, False)


def _shrink(descriptor: int) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)


@on_both_loops
async def test_an_answer_that_begins_early_does_not_stop_the_request_but_the_connection_ends_with_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(OK + b"content-length: 4\r\n\r\nea")
        assert await peer.reader.readexactly(len(BIG)) == BIG
        await peer.send(b"sy")
        assert await peer.gone() == b""

    async with pooled(script) as (pool, upstream):
        for _ in range(2):
            exchange = await begin(pool, BIG)
            assert not exchange.is_fully_sent
            assert await rest(exchange) == b"easy"
            assert exchange.is_fully_sent
            exchange.close()
        await until(lambda: pool.connections_open == 0)
        assert upstream.connections == 2


@on_both_loops
async def test_an_answer_that_ends_before_the_request_is_sent_ends_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.stop_reading()
        await peer.send(answer(b"early"))
        await asyncio.Event().wait()

    async with pooled(script) as (pool, upstream):
        for _ in range(2):
            assert await call(pool, BIG) == b"early"
        await until(lambda: pool.connections_open == 0)
        assert upstream.connections == 2


@on_both_loops
async def test_an_upstream_that_dies_during_the_request_leaves_it_not_fully_sent() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.reset()

    async with pooled(script) as (pool, _):
        failure = await failure_of(call(pool, BIG))
        assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("died", True, False)


@on_both_loops
async def test_a_call_cancelled_in_the_middle_of_its_request_closes_the_connection() -> None:
    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.reader.readuntil(b"\r\n\r\n")
            peer.stop_reading()
            await asyncio.Event().wait()
        await peer.send(answer(await peer.request()))
        await peer.gone()

    async with pooled(script) as (pool, upstream):
        calling = started(call(pool, BIG))
        await until(lambda: upstream.connections == 1 and pool.exchanges_active == 1)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert await call(pool, b"next") == b"next"
        assert upstream.connections == 2


# Backpressure.


@on_both_loops
async def test_a_reader_that_does_not_read_stops_the_upstream() -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(OK + b"content-length: %d\r\n\r\n" % (100 * len(BIG)))
        for _ in range(100):
            await peer.send(BIG)
            sent += len(BIG)

    async with pooled(script) as (pool, _):
        exchange = await begin(pool)
        conn = exchange._conn
        assert conn is not None
        await until(lambda: conn._is_read_paused)
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert conn.answer.unread_bytes <= 64 * 1024 + 256 * 1024
        assert sent <= 2 * len(BIG)
        assert 0 < len(await exchange.read()) <= 64 * 1024 + 256 * 1024
        exchange.close()


@pytest.mark.parametrize("data", [answer(BIG), chunked(*[BIG[i : i + 50_000] for i in range(0, len(BIG), 50_000)])])
@on_both_loops
async def test_a_slow_reader_gets_everything_and_the_connection_is_used_again(data: bytes) -> None:
    async with pooled(says(data)) as (pool, upstream):
        for _ in range(2):
            exchange = await begin(pool)
            pieces = []
            while piece := await exchange.read():
                pieces.append(piece)
                await asyncio.sleep(0.001 if len(pieces) % 10 == 0 else 0)
            assert b"".join(pieces) == BIG
            exchange.close()
        assert upstream.connections == 1


async def test_an_exchange_closed_while_its_socket_is_not_read_is_closed_for_good() -> None:
    async with pooled(says(answer(BIG))) as (pool, _):
        exchange = await begin(pool)
        conn = exchange._conn
        assert conn is not None
        await until(lambda: conn._is_read_paused)
        exchange.close()
        await until(lambda: pool.connections_open == 0)


# Everything at once.


@pytest.mark.parametrize("seed", [1, 2, 3])
@on_both_loops
async def test_no_call_ever_sees_a_byte_of_another_whatever_is_cancelled_when(seed: int) -> None:
    """Some hundred calls with canaries, cancelled anywhere, against an upstream that misbehaves in every way we know."""
    chance = random.Random(seed)
    finished: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            canary = await peer.request()
            body = canary * 20
            data = chance.choice([answer(body), chunked(*[canary] * 20), b"HTTP/1.1 102 x\r\n\r\n" + answer(body)])
            end = len(data)
            match chance.randrange(12):
                case 0:
                    # In one piece with the end: what comes after the next request has left, nobody can tell apart.
                    end -= 1
                    data += chance.choice([b"\r\n", answer(b"STRAY" * 10), b"STRAY"])
                case 1:
                    data = data[: chance.randrange(len(data))]
                    peer.writer.write(data)
                    return
                case 2:
                    data = answer(body, b"connection: close")
                case 3:
                    await asyncio.sleep(chance.random() * 0.004)
                case 4:
                    peer.reset()
                    return
            cut = chance.randrange(min(end, len(data)) + 1)
            await peer.send(data[:cut])
            await asyncio.sleep(chance.choice([0, 0, 0.001]))
            await peer.send(data[cut:])
            if chance.random() < 0.03:
                return

    async def gate() -> None:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 0.05:
            raise ZeroDivisionError

    async with pooled(script, connections_max=10) as (pool, upstream):

        async def one(number: int) -> None:
            canary = b"<%d.%d>" % (seed, number)
            got = b""
            try:
                async with asyncio.timeout(chance.random() * 0.02 if chance.random() < 0.4 else None):
                    exchange = await begin(pool, canary, gate=gate(), retry_unanswered=chance.random() < 0.5)
                    try:
                        while piece := await exchange.read():
                            got += piece
                            if chance.random() < 0.05:
                                return
                        assert got == canary * 20
                        finished.append(canary)
                    finally:
                        exchange.close()
            except (UpstreamFailure, TimeoutError, ZeroDivisionError):
                pass
            finally:
                assert (canary * 20).startswith(got), f"bytes of another call: {got!r}"

        async def worker(numbers: range) -> None:
            for number in numbers:
                await one(number)

        async with asyncio.TaskGroup() as tasks:
            for first in range(24):
                tasks.create_task(worker(range(first, 480, 24)))

        assert len(finished) > 150
        assert pool.exchanges_active == 0
        assert pool.connections_open <= 10
        await until(lambda: pool.connections_open == pool.connections_idle == pool._slots_taken)
        assert not pool._waiters
        assert upstream.connections > 10
