"""The pool: who gets which connection, when it is used again, what the gate holds back, what is tried twice."""

import asyncio
import os
import socket
from collections import Counter

import pytest

from gateway.providers.base import Deadlines
from gateway.providers.pool import Pool
from tests.providers.scripted_upstream import (
    HANG_S,
    OK,
    PATIENT,
    Peer,
    Script,
    Upstream,
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


async def echo(peer: Peer) -> None:
    """Answer each request with its own body."""
    while True:
        body = await peer.request()
        await peer.send(chunked(body) if len(body) % 2 else answer(body))


class Refused(Exception):
    """What a gate raises."""


# Reuse.


@on_both_loops
async def test_calls_one_after_the_other_share_one_connection() -> None:
    async with pooled(echo) as (pool, upstream):
        for number in range(200):
            assert await call(pool, b"x" * number + b"!") == b"x" * number + b"!"
        assert (upstream.connections, pool.connections_opened) == (1, 1)
        assert (pool.connections_open, pool.connections_idle) == (1, 1)


@on_both_loops
async def test_calls_at_the_same_time_share_no_more_connections_than_allowed() -> None:
    async with pooled(echo, connections_max=8) as (pool, upstream):
        for _ in range(5):
            await asyncio.gather(*(call(pool, b"%d" % number) for number in range(8)))
        assert upstream.connections == 8
        bodies = [b"%d" % number for number in range(100)]
        assert await asyncio.gather(*(call(pool, body) for body in bodies)) == bodies
        assert upstream.connections == 8


@on_both_loops
async def test_the_connection_used_last_is_used_first() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(answer(b"%d" % peer.number))

    async with pooled(script) as (pool, _):
        first = await begin(pool)
        second = await begin(pool)
        second.close()
        first.close()
        assert await call(pool) == b"1"


@on_both_loops
async def test_calls_above_the_bound_are_served_first_come_first_served() -> None:
    served = []

    async def script(peer: Peer) -> None:
        while True:
            served.append(await peer.request())
            await peer.send(answer(b""))

    async with pooled(script, connections_max=1) as (pool, _):
        holder = await begin(pool, b"holder")
        waiting = []
        for number in range(5):
            waiting.append(started(call(pool, b"%d" % number)))
            await asyncio.sleep(0)
        holder.close()
        await asyncio.gather(*waiting)
        assert served == [b"holder", b"0", b"1", b"2", b"3", b"4"]


@on_both_loops
async def test_waiting_for_a_connection_ends_at_the_connect_deadline() -> None:
    async with pooled(echo, connections_max=1) as (pool, _):
        holder = await begin(pool)
        failure = await failure_of(call(pool, deadlines=PATIENT._replace(connect_s=0.02)))
        assert (failure.kind, failure.is_sent) == ("unreachable", False)
        holder.close()
        assert await call(pool, b"next") == b"next"


NOT_REUSABLE = {
    "close": answer(b"hello", b"connection: close"),
    "http1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "excess": answer(b"hello") + b"\r\n",
    "excess-answer": answer(b"hello") + answer(b"of nobody"),
    "chunked-excess": chunked(b"hello") + b"\r\n",
    "chunked-excess-answer": chunked(b"hello") + chunked(b"of nobody"),
    "server-closes-soon": answer(b"hello", b"keep-alive: timeout=1"),
}


@pytest.mark.parametrize("data", NOT_REUSABLE.values(), ids=NOT_REUSABLE.keys())
@on_both_loops
async def test_a_connection_in_doubt_carries_no_second_call(data: bytes) -> None:
    async with pooled(says(data)) as (pool, upstream):
        for _ in range(3):
            assert await call(pool) == b"hello"
        assert upstream.connections == 3
        assert pool.connections_idle <= 1


@on_both_loops
async def test_a_byte_while_idle_closes_the_connection_and_reaches_nobody() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        body = await peer.request()
        await peer.send(answer(body))
        if peer.number == 1:
            await go.wait()
            await peer.send(answer(b"a late second answer"))
            assert await peer.gone() == b""

    async with pooled(script) as (pool, upstream):
        assert await call(pool, b"one") == b"one"
        go.set()
        await until(lambda: pool.connections_open == 0)
        assert await call(pool, b"two") == b"two"
        assert upstream.connections == 2


@on_both_loops
async def test_a_byte_between_taking_and_writing_closes_the_connection() -> None:
    """The connection is out of the idle list, waiting for its gate, when the upstream speaks out of turn."""
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        body = await peer.request()
        await peer.send(answer(body))
        if peer.number == 1:
            await go.wait()
            await peer.send(answer(b"out of turn"))
            assert await peer.gone() == b""

    async with pooled(script) as (pool, upstream):
        assert await call(pool, b"one") == b"one"

        async def gate() -> None:
            go.set()
            await until(lambda: pool.connections_open == 0)

        assert await call(pool, b"two", gate=gate()) == b"two"
        assert upstream.connections == 2


@on_both_loops
async def test_a_connection_closed_while_idle_is_not_used() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"hello"))

    async with pooled(script) as (pool, upstream):
        for _ in range(3):
            assert await call(pool) == b"hello"
            await until(lambda: pool.connections_open == 0)
        assert upstream.connections == 3


@pytest.mark.parametrize("what", ["bytes", "end"])
@on_both_loops
async def test_what_the_kernel_holds_but_the_loop_has_not_seen_keeps_a_connection_from_being_used(what: str) -> None:
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        peers.append(peer)
        await echo(peer)

    async with pooled(script) as (pool, upstream):
        assert await call(pool, b"one") == b"one"
        descriptor = peers[0].writer.get_extra_info("socket").fileno()
        if what == "bytes":
            os.write(descriptor, answer(b"of nobody"))
        else:
            with socket.socket(fileno=os.dup(descriptor)) as upstreams_end:
                upstreams_end.shutdown(socket.SHUT_WR)
        assert await call(pool, b"two") == b"two"
        assert upstream.connections == 2


@on_both_loops
async def test_bytes_after_the_end_while_the_answer_is_being_read_are_dropped() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"hello"))
        await go.wait()
        await peer.send(answer(b"of nobody"))
        assert await peer.gone() == b""

    async with pooled(script) as (pool, _):
        exchange = await begin(pool)
        go.set()
        await until(lambda: pool.connections_open == 0)
        assert await rest(exchange) == b"hello"
        exchange.close()
        assert pool.connections_idle == 0


@on_both_loops
async def test_an_answer_left_before_its_end_closes_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"content-length: 100\r\n\r\nsecret")
        assert await peer.gone() == b""

    async with pooled(script) as (pool, upstream):
        for _ in range(3):
            exchange = await begin(pool)
            assert await exchange.read() == b"secret"
            exchange.close()
            exchange.close()
            await until(lambda: pool.connections_open == 0)
        assert upstream.connections == 3


@on_both_loops
async def test_an_answer_that_has_ended_unread_gives_its_connection_back() -> None:
    async with pooled(echo) as (pool, upstream):
        for number in range(3):
            exchange = await begin(pool, b"unread %d" % number)
            exchange.close()
        assert await call(pool, b"read") == b"read"
        assert upstream.connections == 1


@on_both_loops
async def test_a_closed_exchange_reads_nothing_of_the_next_call() -> None:
    async with pooled(echo) as (pool, upstream):
        stale = await begin(pool, b"first")
        stale.close()
        exchange = await begin(pool, b"second")
        assert (await failure_of(stale.read())).detail == "closed by the gateway"
        stale.close()
        assert (stale.status, stale.headers) == (200, {"transfer-encoding": "chunked"})
        assert await rest(exchange) == b"second"
        exchange.close()
        assert upstream.connections == 1


@on_both_loops
async def test_closing_wakes_a_reader_which_then_fails() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"content-length: 100\r\n\r\n")
        await peer.gone()

    async with pooled(script) as (pool, _):
        exchange = await begin(pool)
        reading = started(exchange.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="two tasks"):
            await exchange.read()
        exchange.close()
        failure = await failure_of(reading)
        assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("died", True, True)


@on_both_loops
async def test_a_reader_that_wakes_late_takes_nothing_of_the_next_call() -> None:
    """Its answer ends, its exchange is closed and the connection taken again before the reader gets to run."""
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"content-length: 10\r\n\r\nhello")
        body = await peer.request()
        await go.wait()
        await peer.send(answer(body))
        await peer.gone()

    async with pooled(script) as (pool, upstream):
        exchange = await begin(pool)
        assert await exchange.read() == b"hello"
        late = started(exchange.read())
        await asyncio.sleep(0)
        conn = exchange._conn
        assert conn is not None
        conn.data_received(b"world")
        exchange.close()
        asyncio.get_running_loop().call_later(0.01, go.set)
        assert await call(pool, b"next") == b"next"
        assert (await failure_of(late)).detail == "closed by the gateway"
        assert upstream.connections == 1


# The gate.


@on_both_loops
async def test_nothing_is_written_before_the_gate_resolves() -> None:
    gate = asyncio.get_running_loop().create_future()
    seen = bytearray()

    async def script(peer: Peer) -> None:
        while data := await peer.reader.read(1000):
            seen.extend(data)
            await peer.send(answer(b""))

    async with pooled(script) as (pool, upstream):
        for opened in (1, 1):
            seen.clear()
            gate = asyncio.get_running_loop().create_future()
            calling = started(call(pool, gate=gate))
            await until(lambda: upstream.connections == opened and pool.connections_open == 1)  # noqa: B023
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert seen == b""
            gate.set_result(None)
            await calling
            assert seen.startswith(b"POST ")
        assert upstream.connections == 1


@on_both_loops
async def test_a_gate_that_raises_leaves_the_connection_unwritten_and_in_the_pool() -> None:
    async def gate() -> None:
        raise Refused

    async with pooled(echo) as (pool, upstream):
        for _ in range(3):
            with pytest.raises(Refused):
                await call(pool, b"never", gate=gate())
            assert pool.connections_idle == 1
        assert await call(pool, b"one") == b"one"
        assert upstream.connections == 1


@on_both_loops
async def test_a_cancelled_gate_leaves_the_connection_in_the_pool() -> None:
    async with pooled(echo) as (pool, upstream):
        assert await call(pool) == b"{}"
        calling = started(call(pool, gate=asyncio.Event().wait()))
        await until(lambda: pool.connections_idle == 0)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert pool.connections_idle == 1
        assert await call(pool, b"one") == b"one"
        assert upstream.connections == 1


@on_both_loops
async def test_the_gate_is_awaited_once_even_if_nothing_can_be_reached() -> None:
    awaited = Counter[str]()

    async def gate(name: str) -> None:
        awaited[name] += 1
        await asyncio.sleep(0)
        if name == "refuses":
            raise Refused

    async with Upstream(echo) as upstream:
        pass
    pool = Pool(upstream.origin, connections_max=1)
    failure = await failure_of(call(pool, gate=gate("passes")))
    assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("unreachable", False, False)
    with pytest.raises(Refused):
        await call(pool, gate=gate("refuses"))
    await pool.close()
    assert (await failure_of(call(pool, gate=gate("closed")))).kind == "unreachable"
    assert awaited == {"passes": 1, "refuses": 1, "closed": 1}


@on_both_loops
async def test_the_gate_is_awaited_once_even_if_the_request_is_sent_twice() -> None:
    awaited = 0

    async def gate() -> None:
        nonlocal awaited
        awaited += 1

    async with pooled(_leaves_after(1)) as (pool, _):
        await call(pool)
        assert await call(pool, b"again", gate=gate(), retry_unanswered=True) == b"again"
        assert awaited == 1


@on_both_loops
async def test_a_call_cancelled_while_it_waits_leaves_its_place() -> None:
    """Its gate is never awaited; the warning about that would fail the test."""
    async with pooled(echo, connections_max=1) as (pool, upstream):
        holder = await begin(pool)
        waiting = [started(call(pool, b"%d" % number)) for number in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        holder.close()
        waiting[1].cancel()  # after its turn was given to it, or just before
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert isinstance(results[1], asyncio.CancelledError)
        assert results[2] == b"2"
        assert upstream.connections == 1


@on_both_loops
async def test_a_turn_given_and_cancelled_at_once_goes_to_the_next() -> None:
    async with pooled(echo, connections_max=1) as (pool, upstream):
        holder = await begin(pool)
        first, second = (started(call(pool, body)) for body in (b"first", b"second"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        holder.close()  # gives the turn to `first`, which has not run since
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == b"second"
        assert upstream.connections == 1


@on_both_loops
async def test_a_call_cancelled_while_connecting_frees_its_slot() -> None:
    async with pooled(echo, connections_max=1) as (pool, _):
        for turns in range(6):
            calling = started(call(pool))
            for _ in range(turns):
                await asyncio.sleep(0)
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
        assert await call(pool, b"next") == b"next"


# Trying again.


def _leaves_after(answers: int, data: bytes = b"") -> Script:
    """The first connection answers so many requests, takes one more, says `data` and closes; later ones echo."""

    async def script(peer: Peer) -> None:
        if peer.number > 1:
            return await echo(peer)
        for _ in range(answers):
            await peer.send(answer(await peer.request()))
        await peer.request()
        if data:
            await peer.send(data)
        return None

    return script


@on_both_loops
async def test_a_reused_connection_closed_unanswered_is_tried_once_more_if_the_upstream_allows_it() -> None:
    async with pooled(_leaves_after(1)) as (pool, upstream):
        await call(pool)
        assert await call(pool, b"again", retry_unanswered=True) == b"again"
        assert upstream.connections == 2


@on_both_loops
async def test_a_reused_connection_closed_unanswered_is_not_tried_again_by_default() -> None:
    async with pooled(_leaves_after(1)) as (pool, upstream):
        await call(pool)
        failure = await failure_of(call(pool))
        assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("died", True, True)
        assert upstream.connections == 1


@on_both_loops
async def test_a_new_connection_closed_unanswered_is_never_tried_again() -> None:
    async with pooled(_leaves_after(0)) as (pool, upstream):
        failure = await failure_of(call(pool, retry_unanswered=True))
        assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("died", True, True)
        assert upstream.connections == 1


@pytest.mark.parametrize("data", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", OK])
@on_both_loops
async def test_a_connection_that_said_anything_is_never_tried_again(data: bytes) -> None:
    async with pooled(_leaves_after(1, data)) as (pool, upstream):
        await call(pool)
        failure = await failure_of(call(pool, retry_unanswered=True))
        assert (failure.kind, failure.is_sent) == ("died", True)
        assert upstream.connections == 1


@on_both_loops
async def test_the_second_try_is_the_last_and_takes_a_new_connection() -> None:
    async def script(peer: Peer) -> None:
        """Each connection answers once, then takes a second request and closes; the third one takes one and closes."""
        if peer.number < 3:
            await peer.send(answer(await peer.request()))
        await peer.request()

    async with pooled(script) as (pool, upstream):
        first, second = await begin(pool), await begin(pool)
        first.close()
        second.close()
        failure = await failure_of(call(pool, retry_unanswered=True))
        assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("died", True, True)
        assert upstream.connections == 3
        assert pool.connections_idle == 1


@on_both_loops
async def test_a_second_try_that_cannot_connect_says_that_the_first_was_sent() -> None:
    async with pooled(_leaves_after(1)) as (pool, upstream):
        await call(pool)

        async def gate() -> None:
            upstream._server.close()
            await asyncio.sleep(0)

        failure = await failure_of(call(pool, gate=gate(), retry_unanswered=True))
        assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("unreachable", True, True)


@on_both_loops
async def test_a_second_try_in_a_full_pool_waits_its_turn_and_still_takes_a_new_connection() -> None:
    leave = asyncio.Event()

    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await peer.send(answer(await peer.request()))
            await peer.request()
            await leave.wait()
        else:
            await echo(peer)

    async with pooled(script, connections_max=1) as (pool, upstream):
        await call(pool)
        again = started(call(pool, b"again", retry_unanswered=True))
        await until(lambda: pool.exchanges_active == 1)
        other = started(call(pool, b"other"))
        await asyncio.sleep(0)
        leave.set()
        assert await other == b"other"
        assert upstream.connections == 2
        assert await again == b"again"
        assert upstream.connections == 3


@on_both_loops
async def test_a_connection_that_dies_behind_the_gate_is_replaced_unwritten() -> None:
    async def script(peer: Peer) -> None:
        if peer.number == 1:
            peer.close()
        else:
            await echo(peer)

    async with pooled(script) as (pool, upstream):

        async def gate() -> None:
            await until(lambda: upstream.connections == 1 and pool.connections_open == 0)

        assert await call(pool, b"second", gate=gate()) == b"second"
        assert upstream.connections == 2


@on_both_loops
async def test_a_request_of_which_the_kernel_took_nothing_is_sent_on_another_connection() -> None:
    async with pooled(echo) as (pool, upstream):
        assert await call(pool, b"one") == b"one"
        (conn,) = pool._open
        with socket.socket(fileno=os.dup(conn._transport.get_extra_info("socket").fileno())) as our_end:
            our_end.shutdown(socket.SHUT_WR)  # every write fails from here on
        assert await call(pool, b"two") == b"two"
        assert upstream.connections == 2


@on_both_loops
async def test_closing_the_pool_ends_a_call_that_is_connecting() -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    async with pooled(script) as (pool, _):
        for turns in range(6):
            other = Pool(pool._origin, connections_max=1)
            calling = started(call(other))
            for _ in range(turns):
                await asyncio.sleep(0)
            await other.close()
            failure = await failure_of(calling)
            assert failure.kind == ("died" if failure.is_sent else "unreachable")
            await until(lambda: other.connections_open == 0)  # noqa: B023


@on_both_loops
async def test_the_pool_refuses_calls_once_closed_and_ends_those_in_flight() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"content-length: 100\r\n\r\nhello")
        await peer.gone()

    async with pooled(script, connections_max=2) as (pool, _):
        exchange, silent = await begin(pool), await begin(pool)
        waiting = started(call(pool))
        await asyncio.sleep(0)
        await pool.close()
        assert pool.connections_open == 0
        assert await exchange.read() == b"hello"
        assert (await failure_of(exchange.read())).detail == "the pool was closed"
        assert (await failure_of(waiting)).kind == "unreachable"
        assert (await failure_of(call(pool))).kind == "unreachable"
        exchange.close()
        silent.close()


async def test_a_pool_needs_room_for_one() -> None:
    async with Upstream(echo) as upstream:
        with pytest.raises(ValueError, match="at least one"):
            Pool(upstream.origin, connections_max=0)


async def test_a_call_whose_time_is_over_before_the_gate_opens_writes_nothing() -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.gone())

    async with pooled(script) as (pool, _):
        late = Deadlines(connect_s=HANG_S, first_byte_s=HANG_S, idle_s=HANG_S, total_s=0.02)

        async def gate() -> None:
            over_at = asyncio.get_running_loop().time() + 0.02
            await until(lambda: asyncio.get_running_loop().time() >= over_at)

        failure = await failure_of(call(pool, gate=gate(), deadlines=late))
        assert (failure.kind, failure.is_sent) == ("total_timeout", False)
        await pool.close()
        await until(lambda: seen == [b""])
