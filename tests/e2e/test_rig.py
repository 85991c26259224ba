"""The rig measured against itself: what it sends and records is what it says."""

from tests.rig import wire
from tests.rig.client import Connection, connect, connected, exchange, request_bytes
from tests.rig.gateway import chat_body
from tests.rig.upstream import Close, Gate, Reset, Script, Send, Stall, Upstream
from tests.rig.waiting import eventually, soon


def asked(script: Script) -> bytes:
    return request_bytes("POST", "/v1/chat/completions", body=chat_body(script))


async def ask(upstream: Upstream, script: Script) -> Connection:
    connection = await connect(upstream.port)
    await connection.send(asked(script))
    await connection.read_head()
    return connection


async def test_a_stream_arrives_as_scripted_and_the_connection_is_used_again(upstream: Upstream) -> None:
    events = [*wire.text_events("a", "b"), wire.DONE]
    script = upstream.stream(*events)
    before = upstream.connections
    async with connected(upstream.port) as connection:
        for _ in range(2):
            await connection.send(asked(script))
            assert await connection.read_head() == 200
            answer = await connection.read_rest()
            assert answer.body == b"".join(events)
            assert answer.is_complete
    assert upstream.connections == before + 1
    assert [request.json for request in script.requests] == [chat_body(script)] * 2


async def test_a_gate_holds_the_script_until_it_is_opened(upstream: Upstream) -> None:
    gate = Gate()
    script = upstream.script(Send(wire.stream_head() + wire.framed(b"one")), gate, Send(wire.framed(b"two")), Close())
    connection = await ask(upstream, script)
    await connection.read_until(b"one")
    await soon(gate.is_reached.is_set, "the gate")
    assert connection.body == b"one"
    gate.open()
    answer = await connection.read_rest()
    assert answer.body == b"onetwo"
    assert not answer.is_complete
    await connection.close()


async def test_a_client_that_leaves_is_seen(upstream: Upstream) -> None:
    script = upstream.script(Send(wire.stream_head()), Stall())
    connection = await ask(upstream, script)
    assert not script.request.gone.is_set()
    await connection.reset()
    eventually(script.request.gone.is_set, "the departure")


async def test_a_reset_cuts_the_answer(upstream: Upstream) -> None:
    gate = Gate()
    script = upstream.script(Send(wire.stream_head() + wire.framed(b"x")), gate, Reset())
    connection = await ask(upstream, script)
    await connection.read_until(b"x")
    gate.open()
    assert not (await connection.read_rest()).is_complete
    await connection.close()


async def test_an_unscripted_request_is_a_complaint(upstream: Upstream) -> None:
    before = len(upstream.complaints)
    answer = await exchange(upstream.port, request_bytes("GET", "/v1/models"))
    assert answer.status == 418
    assert upstream.complaints[before:] == ["nobody scripted GET /v1/models HTTP/1.1"]
