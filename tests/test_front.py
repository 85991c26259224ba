"""The server's edge where connections end: nothing is written behind a last answer, and nothing of a connection stays."""

import asyncio
import gc
import socket
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send

from gateway.front import CYCLE, FrontProtocol, FrontResponder, FrontState, front_protocol

HANG_S = 20
PIECE = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\na piece"
NewLoop = Callable[[], asyncio.AbstractEventLoop]
LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@dataclass
class Edge:
    port: int
    state: FrontState
    made: list[weakref.ref[FrontProtocol]] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)
    """What came out of the app: each is a traceback in the log of a gateway."""
    answered: int = 0

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(HANG_S):
            while not is_so():
                await asyncio.sleep(0)


@asynccontextmanager
async def edge() -> AsyncIterator[Edge]:
    """An app that refuses whatever has not come as a whole with its head, at once, and answers all else."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        responder = FrontResponder(scope.pop(CYCLE))
        try:
            headers = dict(scope["headers"])
            if b"content-length" in headers:
                await responder.send(413, [(b"connection", b"close")], b"too large")
            else:
                await receive()
                await responder.send(200, [], b"fine")
        except BaseException as exc:
            found.faults.append(exc)
            raise
        finally:
            found.answered += 1

    bounds = front_protocol(header_timeout_s=HANG_S, body_timeout_s=HANG_S, stall_timeout_s=HANG_S)
    config = uvicorn.Config(app, http=bounds, loop="none", ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    state = FrontState()

    def connected() -> FrontProtocol:
        protocol = bounds(config=config, server_state=state, app_state={})
        found.made.append(weakref.ref(protocol))
        return protocol

    server = await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0)
    found = Edge(server.sockets[0].getsockname()[1], state)
    try:
        yield found
    finally:
        server.close()


def run(loop: NewLoop, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(test())


@LOOPS
def test_a_client_that_leaves_while_it_is_refused_is_no_fault(loop):
    async def test() -> None:
        async with edge() as found:
            with socket.create_connection(("127.0.0.1", found.port)) as client:
                client.sendall(PIECE)
            await found.until(lambda: found.answered == 1 and not found.state.connections)
            assert found.faults == []

    run(loop, test)


@LOOPS
def test_nothing_is_written_behind_a_refusal_to_a_client_that_waits_for_100_continue(loop):
    async def test() -> None:
        async with edge() as found:
            reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
            head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
            writer.write(head + b"no chunk\r\n")
            async with asyncio.timeout(HANG_S):
                answer = await reader.read()
            writer.close()
            await found.until(lambda: found.answered == 1)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"100 Continue" not in answer
            assert found.faults == []

    run(loop, test)


@LOOPS
def test_a_connection_that_has_ended_is_gone_without_the_garbage_collector(loop):
    async def test() -> None:
        async with edge() as found:
            gc.collect()
            gc.disable()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                async with asyncio.timeout(HANG_S):
                    await reader.readuntil(b"fine")
                writer.close()
                await found.until(lambda: all(protocol() is None for protocol in found.made))
            finally:
                gc.enable()

    run(loop, test)


@LOOPS
def test_a_refused_client_that_resets_its_connection_leaves_no_timer_that_holds_it(loop):
    async def test() -> None:
        async with edge() as found:
            with socket.create_connection(("127.0.0.1", found.port)) as client:
                client.sendall(PIECE)
                await found.until(lambda: found.answered == 1)
                protocol = found.made[0]()
                assert protocol is not None
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await found.until(lambda: not found.state.connections)
            assert (protocol.timeout_keep_alive_task, protocol._deadline) == (None, None)

    run(loop, test)


@LOOPS
def test_a_refused_client_has_its_answer_also_when_the_gateway_ends(loop):
    async def test() -> None:
        async with edge() as found:
            reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
            writer.write(PIECE)
            await found.until(lambda: found.answered == 1)
            for protocol in found.state.connections:
                protocol.shutdown()
            writer.write(b"x" * 500)
            async with asyncio.timeout(HANG_S):
                assert (await reader.read()).endswith(b"too large")
            assert len(found.state.connections) == 1, "the rest is still taken"
            writer.close()
            await found.until(lambda: not found.state.connections)

    run(loop, test)
