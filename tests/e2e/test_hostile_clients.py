"""Clients that mean no good, or cannot help it: they pay what they owe, hold up nobody, and leave nothing behind."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.catalog import estimated_output
from tests.rig.client import connect, connected, request_bytes
from tests.rig.gateway import Gateway, Key, chat_body, prompt
from tests.rig.upstream import Drip, Gate, Send, Stall, Upstream
from tests.rig.waiting import soon

USAGE = wire.usage(9, 4)
WORDS = [f"word {number} " for number in range(8)]
LARGE = "x" * 12_000_000
"""More than the buffers of two kernels hold."""


def served(tmp_path: Path, upstream: Upstream, **settings: object) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path, upstream, settings=settings)
    try:
        yield gateway.start()
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


@pytest.fixture(scope="module")
def impatient(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """It cuts off who does not read for a second. Nobody else uses it, so that what it holds can be counted."""
    yield from served(tmp_path_factory.mktemp("impatient"), upstream, STALL_TIMEOUT_S=1, KEEP_ALIVE_S=1)


@pytest.fixture
def one_way(upstream: Upstream, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with room for one connection to its provider."""
    yield from served(tmp_path, upstream, UPSTREAM_CONNECTIONS_MAX=1, GONE_GRACE_S=0.1)


def in_flight(gateway: Gateway) -> int:
    text = gateway.admin("GET", "/metrics").text
    return int(float(text.split("\ngateway_calls_in_flight ")[1].split()[0]))


def process_folder(gateway: Gateway) -> Path:
    assert gateway.process is not None
    return Path(f"/proc/{gateway.process.pid}")


def descriptors(gateway: Gateway) -> int:
    return len(list((process_folder(gateway) / "fd").iterdir()))


def memory_mb(gateway: Gateway, field: str = "VmRSS") -> float:
    status = (process_folder(gateway) / "status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


@contextlib.contextmanager
def never_reading(port: int, request: bytes) -> Iterator[None]:
    """A client with a small window that asks and then reads nothing."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        sock.connect(("127.0.0.1", port))
        sock.sendall(request)
        yield


async def settled(gateway: Gateway, key: Key) -> dict[str, Any]:
    entries = await soon(lambda: gateway.entries(creator=key.creator), "a ledger entry")
    assert len(entries) == 1, entries
    return entries[0]


# Who pays


async def test_a_client_that_pipelines_behind_a_stream_and_resets_pays_for_what_was_relayed(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    role, *texts = wire.text_events(*WORDS, finish=None)
    first = b"".join([role, *texts])
    script = upstream.script(
        Send(wire.stream_head() + wire.framed(first)), Drip(wire.framed(wire.event(wire.chunk("on "))), 0.02)
    )
    connection = await connect(gateway.port)
    await connection.send(gateway.chat_request(key, script, stream=True) + request_bytes("GET", "/health/live"))
    assert await connection.read_head() == 200
    await connection.read_until(texts[-1])
    await connection.reset()
    entry = await settled(gateway, key)
    assert entry["outcome"] == "client_gone"
    assert entry["output_tokens"] >= estimated_output(*WORDS) > 0
    assert entry["cost_nano_usd"] > 0
    await soon(script.request.gone.is_set, "the end of the upstream call")
    assert "Traceback" not in gateway.logs()


async def test_a_request_pipelined_behind_a_stream_is_answered_after_it(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    script = upstream.stream(*wire.text_events("a word "), wire.event(wire.usage_chunk(USAGE)), wire.DONE)
    async with connected(gateway.port) as connection:
        await connection.send(gateway.chat_request(key, script, stream=True) + request_bytes("GET", "/health/live"))
        assert await connection.read_head() == 200
        assert (await connection.read_rest()).body.endswith(wire.DONE)
        assert await connection.read_head() == 200
        assert (await connection.read_rest()).is_complete
    assert (await settled(gateway, key))["outcome"] == "ok"


async def test_a_client_that_leaves_while_its_call_waits_for_a_connection_is_booked_once(
    one_way: Gateway, upstream: Upstream
) -> None:
    holder, waiting = one_way.new_key(), one_way.new_key()
    gate = Gate()
    occupied = asyncio.get_running_loop().create_task(
        one_way.chat(holder, upstream.script(gate, Send(wire.reply(wire.completion("x", usage=USAGE)))))
    )
    await soon(gate.is_reached.is_set, "the call that occupies the connection")
    script = upstream.stream(wire.DONE)
    connection = await connect(one_way.port)
    await connection.send(one_way.chat_request(waiting, script, stream=True))
    await soon(lambda: one_way.open_holds() == 2, "the hold of the call that waits")
    await connection.reset()
    entry = await settled(one_way, waiting)
    assert (entry["outcome"], entry["cost_nano_usd"], entry["usage_source"]) == ("client_gone", 0, "none")
    assert script.requests == []
    await soon(lambda: one_way.open_holds() == 1, "the end of its hold")
    gate.open()
    assert (await occupied).status == 200
    assert len(one_way.entries()) == 2


# What is refused before it costs


async def test_a_part_whose_name_is_escaped_is_priced_like_any_other(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    script = upstream.reply(wire.completion("x", usage=USAGE))
    parts = [
        {"type": "text", "text": prompt(script)},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ]
    plain = json.dumps(chat_body(script, messages=[{"role": "user", "content": parts}]))
    for body in (plain, plain.replace("input_audio", "input\\u005faudio")):
        answer = await gateway.post(key, body.encode())
        assert (answer.status, answer.error["code"]) == (400, "unpriced_model")
    assert script.requests == []


LARGE_INPUTS = {
    "an unknown field": {"documents": ["w" * 200_000]},
    "a key of a text part": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "PROMPT", "cache_control": {"x": "w" * 200_000}}]}
        ]
    },
}


@pytest.mark.parametrize("fields", LARGE_INPUTS.values(), ids=LARGE_INPUTS)
async def test_whatever_may_be_input_counts_into_the_hold(
    gateway: Gateway, upstream: Upstream, fields: dict[str, Any]
) -> None:
    """Four answers fit into the quota of 1 USD as long as the input is small."""
    key = gateway.new_key(plan="poor")
    script = upstream.reply(wire.completion("x", usage=USAGE))
    # The caller's own bound: without one the hold would shrink to what is left.
    body = json.dumps(chat_body(script, n=4, max_tokens=16_384, **fields)).replace("PROMPT", prompt(script))
    answer = await gateway.post(key, body.encode())
    assert answer.status == 429
    assert answer.error["code"] in {"insufficient_quota", "request_too_large"}
    assert script.requests == []
    assert gateway.entries(creator=key.creator) == []
    small = await gateway.post(key, body.replace("w" * 200_000, "w").encode())
    assert small.status == 200


MALFORMED = {
    "metadata 300 deep": ({"metadata": {"a": json.loads("[" * 300 + "]" * 300)}}, ("invalid_value", "metadata")),
    "tool type is a list": ({"tools": [{"type": []}]}, ("unpriced_feature", "tools[].type")),
    "tool type is an object": ({"tools": [{"type": {}}]}, ("unpriced_feature", "tools[].type")),
}


@pytest.mark.parametrize(("fields", "reason"), MALFORMED.values(), ids=MALFORMED)
async def test_a_field_that_is_not_what_it_should_be_is_a_400_that_says_which(
    gateway: Gateway, upstream: Upstream, key: Key, fields: dict[str, Any], reason: tuple[str, str]
) -> None:
    script = upstream.reply(wire.completion("x", usage=USAGE))
    answer = await gateway.chat(key, script, **fields)
    assert answer.status == 400
    assert (answer.error["code"], answer.error["param"]) == reason
    assert script.requests == []


async def test_a_body_of_millions_of_tiny_objects_is_refused_before_it_is_built(impatient: Gateway) -> None:
    key = impatient.new_key()
    start = b'{"model":"rig-chat","messages":[{"role":"user","content":"x"}],"x":['
    raw = start + b",".join([b"{}"] * 9_500_000) + b"]}"
    (process_folder(impatient) / "clear_refs").write_text("5")  # the peak counts from here
    before_mb = memory_mb(impatient)
    answer = await impatient.post(key, raw)
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert memory_mb(impatient, "VmHWM") - before_mb < 200
    assert impatient.entries(creator=key.creator) == []


# Who does not read


async def test_a_stream_nobody_reads_is_cut_off_and_charged(impatient: Gateway, upstream: Upstream) -> None:
    key = impatient.new_key()
    before = descriptors(impatient)
    script = upstream.script(Send(wire.stream_head() + wire.framed(wire.event(wire.chunk(LARGE)))), Stall())
    with never_reading(impatient.port, impatient.chat_request(key, script, stream=True)):
        entry = await settled(impatient, key)
        assert (entry["outcome"], entry["output_tokens"]) == ("client_gone", estimated_output(LARGE))
        await soon(lambda: in_flight(impatient) == 0, "the end of the call")
        await soon(lambda: descriptors(impatient) <= before, "the descriptors of client and upstream")


async def test_whole_answers_nobody_reads_are_let_go(impatient: Gateway, upstream: Upstream) -> None:
    key = impatient.new_key()
    script = upstream.reply(wire.completion(LARGE, usage=USAGE))
    before, before_mb = descriptors(impatient), memory_mb(impatient)
    request = impatient.chat_request(key, script)
    with contextlib.ExitStack() as clients:
        for _ in range(6):
            clients.enter_context(never_reading(impatient.port, request))
        entries = await soon(
            lambda: found if len(found := impatient.entries(creator=key.creator)) == 6 else [], "6 entries"
        )
        assert {entry["outcome"] for entry in entries} == {"ok"}
        # One connection to the upstream may stay for each call: those are kept for others.
        await soon(lambda: in_flight(impatient) == 0, "the end of the calls")
        await soon(lambda: established(impatient) == 0, "the end of the clients' connections")
        await soon(lambda: memory_mb(impatient) - before_mb < 48, "the memory of the answers")
    assert before <= descriptors(impatient) <= before + 6


def established(gateway: Gateway) -> int:
    """Connections the process still has at its own port, from the kernel's table."""
    owned = {
        link.readlink().name
        for link in (process_folder(gateway) / "fd").iterdir()
        if link.is_symlink() and str(link.readlink()).startswith("socket:")
    }
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    at_port = [row for row in rows if int(row[1].rpartition(":")[2], 16) == gateway.port and row[3] != "0A"]
    return sum(f"socket:[{row[9]}]" in owned for row in at_port)


async def test_a_client_slow_at_the_end_gets_its_complete_answer(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    """The upstream leaves the body open behind `[DONE]`, and the client reads only once the call has been settled."""
    events = wire.event(wire.chunk(LARGE)) + wire.event(wire.chunk(finish="stop"))
    whole = events + wire.event(wire.usage_chunk(USAGE)) + wire.DONE
    script = upstream.script(Send(wire.stream_head() + wire.framed(whole)), Stall())
    connection = await connect(gateway.port, buffer_bytes=1_024)
    await connection.send(gateway.chat_request(key, script, stream=True))
    entry = await settled(gateway, key)
    assert (entry["outcome"], entry["usage_source"]) == ("ok", "provider")
    await connection.read_head()
    answer = await connection.read_rest()
    await connection.close()
    assert answer.is_complete
    assert answer.body == events + wire.DONE


async def test_a_stray_line_end_behind_an_answer_does_not_keep_the_connection(hasty: Gateway) -> None:
    async with connected(hasty.port) as connection:
        await connection.send(request_bytes("GET", "/health/live"))
        assert await connection.read_head() == 200
        assert (await connection.read_rest()).is_complete
        await connection.send(b"\r\n")
        assert await connection.is_closed_by_peer()


async def test_a_request_behind_a_stray_line_end_is_served(hasty: Gateway) -> None:
    async with connected(hasty.port) as connection:
        for _ in range(3):
            await connection.send(b"\r\n" + request_bytes("GET", "/health/live"))
            assert await connection.read_head() == 200
            assert (await connection.read_rest()).is_complete


# The end of the process, and its log


async def test_a_request_still_being_sent_when_the_grace_ends_is_refused(upstream: Upstream, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, upstream, settings={"DRAIN_GRACE_S": 0.5})
    try:
        gateway.start()
        key, late_key = gateway.new_key(), gateway.new_key()
        told = await gateway.open_stream(
            key,
            upstream.script(
                Send(wire.stream_head() + wire.framed(wire.event(wire.chunk("a word ")))),
                Stall(),
            ),
        )
        await told.read_until(b"a word ")
        script = upstream.reply(wire.completion("x", usage=USAGE))
        raw = gateway.chat_request(late_key, script)
        late = await connect(gateway.port)
        await late.send(raw[:-20])
        await soon(lambda: in_flight(gateway) == 2, "the request that is being sent")
        gateway.terminate()
        (await told.read_rest()).assert_broken_off()  # the grace is over
        await late.send(raw[-20:])
        assert await late.read_head() == 503
        assert (await late.read_rest()).error["code"] == "shutting_down"
        for connection in (told, late):
            await connection.close()
        assert gateway.wait() == 0
        assert script.requests == []
        finished = gateway.log_lines("request_finished")
        assert [line["creator"] for line in finished if line.get("endpoint") == "chat"] == [key.creator]
        gateway.start()
        assert [entry["outcome"] for entry in gateway.entries()] == ["aborted"]
        gateway.audit()
    finally:
        gateway.close()


async def test_every_request_has_exactly_one_line_in_the_log(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    whole = upstream.reply(wire.completion("x", usage=USAGE))
    answers = [
        await gateway.chat(key, whole),
        await gateway.chat(key, upstream.stream(*wire.text_events("a"), wire.DONE), stream=True),
        await gateway.chat(key, upstream.reply({"error": {"message": "no"}}, 400)),
        await gateway.chat(key, None, model="rig-dead"),
        await gateway.get(key, "/v1/models"),
        await gateway.get(None, "/v1/models"),
        await gateway.get(None, "/nowhere"),
        await gateway.get(None, "/health/live"),
    ]
    for answer in answers:
        assert await lines_of(gateway, answer.request_id) == ["request_finished"]
    rejected = await gateway.chat(key, whole, model="nobody-has-it")
    assert await lines_of(gateway, rejected.request_id) == ["request_rejected"]


async def lines_of(gateway: Gateway, request_id: str) -> list[str]:
    """The lines of a request; a warning that explains it is one more, and not counted."""

    def said() -> list[str]:
        lines = [json.loads(line) for line in gateway.logs().splitlines() if f'"{request_id}"' in line]
        return [line["event"] for line in lines if line["level"] == "info"]

    return await soon(said, f"a line of {request_id}")
