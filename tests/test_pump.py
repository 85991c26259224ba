"""The pump between an exchange and a responder: whole events at the client's pace, and every stop has its reason."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from gateway.calls import Call
from gateway.providers.base import UpstreamFailure
from gateway.pump import Pump
from gateway.relay import Guard
from gateway.responder import Header
from gateway.streaming import SseRelay

HEADERS: list[Header] = [(b"content-type", b"text/event-stream")]
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
DONE = b"data: [DONE]\n\n"
HANG_S = 10


class Scripted:
    """An exchange whose body is `pieces`. An exception among them is raised, an event is waited for."""

    status = 200

    def __init__(self, *pieces: bytes | Exception | asyncio.Event) -> None:
        self._left = list(pieces)
        self.headers: dict[str, str] = {}
        self.pours = 0

    async def read(self) -> bytes:
        while self._left:
            piece = self._left.pop(0)
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, bytes):
                return piece
            await piece.wait()
        return b""

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        self.pours += 1
        while data := await self.read():
            if not take(data):
                return False
        return True

    def close(self) -> None:
        self._left.clear()


class Recorder:
    """A client: it keeps what it gets, and does not read on while `is_stalled`."""

    def __init__(
        self, *, stalls_after: int | None = None, is_gone: bool = False, fault: Exception | None = None
    ) -> None:
        self.heads: list[tuple[int, Sequence[Header]]] = []
        self.written: list[bytes] = []
        self.drained_at: list[int] = []
        """How many writes there had been at each `drain`."""
        self.is_gone = is_gone
        self._stalls_after = stalls_after
        self._fault = fault

    @property
    def is_started(self) -> bool:
        return bool(self.heads)

    @property
    def is_stalled(self) -> bool:
        return self._stalls_after is not None and len(self.written) >= self._stalls_after

    async def send(self, status: int, headers: list[Header], body: bytes) -> None:
        self.start(status, headers)
        self.write(body)

    def start(self, status: int, headers: list[Header]) -> None:
        self.heads.append((status, headers))

    def write(self, data: bytes) -> None:
        if self._fault is not None:
            raise self._fault
        self.written.append(data)

    async def drain(self) -> None:
        self.drained_at.append(len(self.written))
        self._stalls_after = None

    async def end(self, data: bytes = b"") -> None:
        self.written.append(data)

    def on_gone(self, callback: Callable[[], None]) -> None:
        if self.is_gone:
            callback()

    def abort(self) -> None:
        self.is_gone = True


class Stream:
    """A pump and what it stands between."""

    def __init__(
        self, *pieces: bytes | Exception | asyncio.Event, client: Recorder | None = None, bytes_max: int = 2**20
    ) -> None:
        self.exchange = Scripted(*pieces)
        self.client = client or Recorder()
        self.call = Call("chat")
        self.relay = SseRelay(Guard(1_000, lambda event: event), strip_usage=True)
        self._pump = Pump(self.call, self.relay, self.client, HEADERS, bytes_max=bytes_max)

    async def run(self) -> None:
        async with asyncio.timeout(HANG_S):
            await self._pump.run(self.exchange)


async def test_events_are_relayed_as_they_come_behind_one_head() -> None:
    stream = Stream(WORD, WORD + WORD[:9], WORD[9:], DONE)
    await stream.run()
    assert stream.client.heads == [(200, HEADERS)]
    assert stream.client.written == [WORD, WORD, WORD]
    assert stream.relay.held_back() == DONE
    assert stream.call.first_byte_at is not None


async def test_nothing_is_started_before_there_is_something_to_relay() -> None:
    stream = Stream(WORD[:-1])
    await stream.run()
    assert stream.client.heads == []
    assert stream.call.first_byte_at is None


async def test_a_body_without_anything_ends_at_once() -> None:
    stream = Stream()
    await stream.run()
    assert (stream.exchange.pours, stream.client.heads) == (1, [])


async def test_a_client_that_stalls_is_waited_for_before_more_is_taken() -> None:
    stream = Stream(WORD, WORD, WORD, client=Recorder(stalls_after=2))
    await stream.run()
    assert stream.client.drained_at == [2]
    assert stream.client.written == [WORD] * 3
    assert stream.exchange.pours == 2


async def test_a_client_that_left_gets_nothing_and_is_metered_all_the_same() -> None:
    stream = Stream(WORD, WORD, client=Recorder(is_gone=True))
    await stream.run()
    assert (stream.client.heads, stream.client.written) == ([], [])
    assert stream.relay.output_tokens_estimate() == 3


async def test_what_follows_the_end_of_the_stream_is_read_but_not_waited_for_long() -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    stream = Stream(WORD, DONE, usage)
    await stream.run()
    assert stream.relay.usage == {"prompt_tokens": 1, "completion_tokens": 2}
    assert stream.call.interrupted_by is None


async def test_a_body_left_open_behind_its_end_interrupts_the_call() -> None:
    async def serve() -> Stream:
        stream = Stream(WORD, DONE, asyncio.Event())
        stream.call.allow_interrupts()
        with pytest.raises(asyncio.CancelledError):
            await stream.run()
        assert stream.call.absorb_interrupt()
        return stream

    stream = await asyncio.get_running_loop().create_task(serve())
    assert stream.call.interrupted_by == "after_done"
    assert stream.client.written == [WORD]


async def test_a_stream_above_its_bound_is_invalid() -> None:
    stream = Stream(WORD, WORD, WORD, bytes_max=2 * len(WORD))
    with pytest.raises(UpstreamFailure, match="a stream above the bound") as failed:
        await stream.run()
    assert (failed.value.kind, failed.value.is_fully_sent) == ("invalid", True)
    assert stream.client.written == [WORD, WORD]


async def test_an_event_above_its_bound_is_invalid() -> None:
    stream = Stream(WORD, b"data: " + b"x" * 2_000)
    with pytest.raises(UpstreamFailure, match="an event above the bound") as failed:
        await stream.run()
    assert failed.value.kind == "invalid"
    assert stream.client.written == [WORD]


async def test_a_failure_of_the_exchange_passes_through() -> None:
    died = UpstreamFailure("died", "as scripted", is_sent=True, is_fully_sent=True)
    stream = Stream(WORD, died)
    with pytest.raises(UpstreamFailure) as failed:
        await stream.run()
    assert failed.value is died
    assert stream.client.written == [WORD]


async def test_a_fault_of_the_responder_is_raised_where_the_pump_was_started() -> None:
    fault = ValueError("a header with a line break")
    stream = Stream(WORD, asyncio.Event(), client=Recorder(fault=fault))
    with pytest.raises(ValueError, match="line break"):
        await stream.run()
