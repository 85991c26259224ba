"""Deadlines and idle connections, on a loop whose clock the tests move: nothing here waits, nothing depends on speed."""

import asyncio
import functools
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from gateway.providers.base import Deadlines
from gateway.providers.pool import Origin, Pool, PooledExchange
from tests.providers import scripted_upstream
from tests.providers.scripted_upstream import HANG_S, OK, Peer, answer, begin, call, failure_of, rest, says, started

DEADLINES = Deadlines(connect_s=5, first_byte_s=20, idle_s=9.95, total_s=60)
LATE_S = 0.25
"""How late a deadline may be noticed: the contract of `Deadlines`."""
BIG = b"x" * 20_000_000


pooled = functools.partial(scripted_upstream.pooled, hang_s=None)


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time runs only when told to, so that bounds on hanging must come from outside."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    async def advance(self, seconds: float) -> None:
        """Let time pass in small steps, each of which the loop sees."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.02)
            for _ in range(3):
                await asyncio.sleep(0)


def on_a_clock(test: Callable[[Clock], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        clock = Clock()

        async def bounded() -> None:
            task = asyncio.current_task()
            assert task is not None
            watch = threading.Timer(HANG_S, clock.call_soon_threadsafe, (task.cancel,))
            watch.start()
            try:
                await test(clock)
            finally:
                watch.cancel()

        with asyncio.Runner(loop_factory=lambda: clock) as runner:
            runner.run(bounded())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


async def settled(_: Clock, claim: Callable[[], bool]) -> None:
    """Let sockets and callbacks do their work while time stands still."""
    for _turn in range(100_000):
        if claim():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


async def fails_between(clock: Clock, work: Coroutine[Any, Any, Any], seconds: float, kind: str) -> None:
    """`work` is under way until `seconds` from now, and has failed with `kind` as soon as the contract says."""
    task = started(work)
    await clock.advance(seconds - 0.01)
    assert not task.done()
    await clock.advance(LATE_S + 0.02)
    assert task.done()
    assert (await failure_of(task)).kind == kind


class Silence:
    """An upstream that says `data` after each request and nothing more until told."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.requests = 0
        self.more: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(self, peer: Peer) -> None:
        while True:
            await peer.request()
            self.requests += 1
            await peer.send(self.data)
            while piece := await self.more.get():
                await peer.send(piece)


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-le"],
    ids=["nothing", "interim", "half"],
)
def test_silence_before_the_head_ends_at_the_first_byte_deadline(said: bytes) -> None:
    @on_a_clock
    async def run(clock: Clock) -> None:
        silence = Silence(said)
        async with pooled(silence.script) as (pool, _):
            calling = started(call(pool, deadlines=DEADLINES))
            await settled(clock, lambda: silence.requests == 1)
            await clock.advance(DEADLINES.first_byte_s - 0.01)
            assert not calling.done()
            await clock.advance(LATE_S + 0.02)
            failure = await failure_of(calling)
            assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("first_byte_timeout", True, True)
            await settled(clock, lambda: pool.connections_open == 0)

    run()


@on_a_clock
async def test_silence_in_the_body_ends_at_the_idle_deadline(clock: Clock) -> None:
    silence = Silence(OK + b"content-length: 100\r\n\r\nhello")
    async with pooled(silence.script) as (pool, _):
        exchange = await begin(pool, deadlines=DEADLINES)
        assert await exchange.read() == b"hello"
        await fails_between(clock, exchange.read(), DEADLINES.idle_s, "idle_timeout")
        exchange.close()


@on_a_clock
async def test_a_trickle_is_not_idle_but_ends_at_the_total_deadline(clock: Clock) -> None:
    silence = Silence(OK + b"content-length: 1000\r\n\r\n")
    async with pooled(silence.script) as (pool, _):
        exchange = await begin(pool, deadlines=DEADLINES)
        reading = started(rest(exchange))
        for _ in range(int(DEADLINES.total_s / 5) - 1):
            silence.more.put_nowait(b"x")
            await clock.advance(5)
            assert not reading.done()
        await clock.advance(4.9)
        assert not reading.done()
        await clock.advance(LATE_S + 0.2)
        failure = await failure_of(reading)
        assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("total_timeout", True, True)
        exchange.close()


@on_a_clock
async def test_a_connect_that_hangs_ends_at_the_connect_deadline(clock: Clock) -> None:
    """A listener whose backlog is full answers no SYN; so the kernel of the machine itself is the black hole."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            pool = Pool(Origin.parse(f"http://127.0.0.1:{port}"), connections_max=1)
            await fails_between(clock, call(pool, deadlines=DEADLINES), DEADLINES.connect_s, "unreachable")
            await pool.close()
        finally:
            for filler in fillers:
                filler.close()


@on_a_clock
async def test_the_first_byte_deadline_runs_from_the_request_fully_sent(clock: Clock) -> None:
    read_on, taken = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        peer.stop_reading()
        await read_on.wait()
        peer.read_on()
        await peer.request()
        taken.set()
        await peer.gone()

    async with pooled(script) as (pool, upstream):
        calling = started(call(pool, BIG, deadlines=DEADLINES))
        await settled(clock, lambda: upstream.connections == 1)
        await clock.advance(DEADLINES.first_byte_s + 5)
        assert not calling.done()
        read_on.set()
        await settled(clock, taken.is_set)
        await clock.advance(DEADLINES.first_byte_s - 0.5)
        assert not calling.done()
        await clock.advance(1)
        failure = await failure_of(calling)
        assert (failure.kind, failure.is_fully_sent) == ("first_byte_timeout", True)


@on_a_clock
async def test_a_request_that_is_never_taken_ends_at_the_total_deadline_and_is_not_fully_sent(clock: Clock) -> None:
    async def script(peer: Peer) -> None:
        peer.stop_reading()
        await asyncio.Event().wait()

    async with pooled(script) as (pool, upstream):
        calling = started(call(pool, BIG, deadlines=DEADLINES))
        await settled(clock, lambda: upstream.connections == 1)
        await clock.advance(DEADLINES.total_s - 0.5)
        assert not calling.done()
        await clock.advance(1)
        failure = await failure_of(calling)
        assert (failure.kind, failure.is_sent, failure.is_fully_sent) == ("total_timeout", True, False)


async def _stalled(pool: Pool, clock: Clock) -> PooledExchange:
    """An exchange of which so much has come unread that the socket is not read any more."""
    exchange = await begin(pool, deadlines=DEADLINES)
    await settled(clock, lambda: exchange._conn is not None and exchange._conn._is_read_paused)
    return exchange


@on_a_clock
async def test_the_idle_deadline_does_not_run_while_the_reader_is_the_slow_one(clock: Clock) -> None:
    async with pooled(says(answer(BIG))) as (pool, _):
        exchange = await _stalled(pool, clock)
        await clock.advance(DEADLINES.idle_s * 3)
        assert await rest(exchange) == BIG
        exchange.close()
        assert pool.connections_idle == 1


@on_a_clock
async def test_the_idle_deadline_begins_anew_once_the_reader_goes_on(clock: Clock) -> None:
    async with pooled(says(OK + b"content-length: 300000\r\n\r\n" + b"x" * 65_537)) as (pool, _):
        exchange = await _stalled(pool, clock)
        await clock.advance(20.09)  # a tick was due at 20.0, none since
        assert len(await exchange.read()) == 65_537
        await fails_between(clock, exchange.read(), DEADLINES.idle_s, "idle_timeout")
        exchange.close()


@on_a_clock
async def test_the_total_deadline_runs_while_the_reader_is_the_slow_one(clock: Clock) -> None:
    async with pooled(says(answer(BIG))) as (pool, _):
        exchange = await _stalled(pool, clock)
        await clock.advance(DEADLINES.total_s + LATE_S)
        assert pool.connections_open == 0
        body = await exchange.read()
        assert 0 < len(body) < len(BIG)
        assert (await failure_of(exchange.read())).kind == "total_timeout"
        exchange.close()


@on_a_clock
async def test_an_answer_that_has_ended_may_be_read_at_leisure(clock: Clock) -> None:
    async with pooled(says(answer(b"hello"))) as (pool, _):
        exchange = await begin(pool, deadlines=DEADLINES)
        await clock.advance(DEADLINES.total_s * 2)
        assert await rest(exchange) == b"hello"
        exchange.close()
        assert pool.connections_idle == 1


@on_a_clock
async def test_what_is_idle_too_long_is_closed_and_then_no_timer_runs(clock: Clock) -> None:
    async with pooled(says(answer(b"hello"))) as (pool, upstream):
        await asyncio.gather(*(call(pool) for _ in range(3)))
        await clock.advance(54)
        assert pool.connections_idle == 3
        await call(pool)
        await clock.advance(7)
        assert (pool.connections_open, pool.connections_idle) == (1, 1)
        await clock.advance(54)
        assert (pool.connections_open, pool._tick) == (0, None)
        await call(pool)
        assert upstream.connections == 4
        assert pool._tick is not None


@on_a_clock
async def test_the_tick_is_slow_while_nothing_is_in_flight(clock: Clock) -> None:
    async with pooled(says(answer(b"hello"))) as (pool, _):
        exchange = await begin(pool)
        assert pool._tick is not None
        assert pool._tick.when() <= clock.now + 0.1
        exchange.close()
        await clock.advance(0.3)
        assert pool._tick.when() > clock.now + 1
        exchange = await begin(pool)
        assert pool._tick.when() <= clock.now + 0.1
        exchange.close()


@on_a_clock
async def test_a_connection_is_not_kept_longer_than_the_upstream_says(clock: Clock) -> None:
    async with pooled(says(answer(b"hello", b"Keep-Alive: max=100, timeout=5"))) as (pool, upstream):
        await call(pool)
        await clock.advance(3.9)
        await call(pool)
        assert upstream.connections == 1
        await clock.advance(4.1)
        await call(pool)
        assert upstream.connections == 2
