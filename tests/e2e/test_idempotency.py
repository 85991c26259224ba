"""`Idempotency-Key` through a real gateway: a call sent again is answered again, and neither made nor paid twice.

What a crash does to it is in `test_idempotency_crash.py`.
"""

import asyncio
import io
import itertools
import sqlite3
import wave
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.rig import wire
from tests.rig.catalog import cost_nano_usd, dialect_rows, estimated_input, estimated_output
from tests.rig.client import Answer, connect, connected, exchange, request_bytes
from tests.rig.gateway import CHAT, Gateway, Key, chat_body, prompt
from tests.rig.policy_world import me, override, start, usage_entries
from tests.rig.upstream import Action, Close, Gate, Request, Script, Send, Upstream
from tests.rig.waiting import soon

ANSWER_CANARY = "answer-canary-93b0"
VALUE_CANARY = "value-canary-0d4e"
ANSWER_BYTES_MAX = 20_000
USAGE = wire.usage(9, 4)
COST = cost_nano_usd(9, 4)
RETRIES = 20
FREE = """
[models."free"]
provider = "rig"
upstream_model = "upstream-chat"
endpoints = ["chat"]
input_usd_per_mtok = 0
output_usd_per_mtok = 0
"""
SAME = ("content-type", "x-gateway-model", "x-gateway-provider", "x-gateway-attempts")
_numbers = itertools.count(1)

Headers = list[tuple[str, str]]


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Keeps small answers only, and stops paying at once for a client that left. Neither values nor answers can be read
    in what it leaves on the disk, and no complaint is in its log."""
    settings = {"IDEMPOTENCY_ANSWER_BYTES_MAX": ANSWER_BYTES_MAX, "GONE_GRACE_S": 0}
    models = dialect_rows(upstream.base_url) + FREE
    gateway = Gateway(tmp_path_factory.mktemp("idempotent"), upstream, settings=settings, models=models)
    try:
        yield gateway.start()
        gateway.audit()
        stored = [(path.name, path.read_bytes()) for path in gateway.data_dir.glob("*.db*")]
        for name, content in [("logs", gateway.logs().encode()), *stored]:
            for canary in (ANSWER_CANARY, VALUE_CANARY):
                assert canary.encode() not in content, f"{canary} is in {name}"
        assert gateway.log_lines("idempotent_answer_not_kept") == []
        assert gateway.stop() == 0
    finally:
        gateway.close()


def fresh(prefix: str = VALUE_CANARY) -> str:
    """A value nobody has used."""
    return f"{prefix}-{next(_numbers)}"


def named(value: str) -> Headers:
    return [("idempotency-key", value)]


def completion(usage: object = USAGE) -> dict[str, Any]:
    return wire.completion(ANSWER_CANARY, usage=usage)


def stream_events() -> list[bytes]:
    return [*wire.text_events(ANSWER_CANARY, " und Grüße"), wire.event(wire.usage_chunk(USAGE)), wire.DONE]


async def ask(
    gateway: Gateway, key: Key, value: str, script: Script | None, headers: Headers | None = None, **fields: object
) -> Answer:
    return await gateway.post(key, chat_body(script, **fields), [*named(value), *(headers or [])])


def refused_with(answer: Answer, status: int, code: str) -> bool:
    assert answer.header("x-gateway-idempotent-replay") is None
    return (answer.status, answer.error["code"], answer.error["param"]) == (status, code, "idempotency-key")


def assert_replays(replay: Answer, first: Answer) -> None:
    assert replay.is_complete
    assert (replay.status, replay.body) == (first.status, first.body)
    assert {name: replay.header(name) for name in SAME} == {name: first.header(name) for name in SAME}
    assert replay.header("x-gateway-idempotent-replay") == first.request_id
    assert replay.request_id != first.request_id
    assert replay.header("x-gateway-cost-usd") == "0"


async def used(gateway: Gateway, key: Key) -> dict[str, tuple[int, int]]:
    return {limit["name"]: (limit["used"], limit["held"]) for limit in (await me(gateway, key))["limits"]}


async def only_entry(gateway: Gateway, key: Key) -> dict[str, Any]:
    entries = await soon(lambda: usage_entries(gateway, key), "a ledger entry")
    assert len(entries) == 1, entries
    return entries[0]


def held_back(upstream: Upstream, *, stream: bool) -> tuple[Script, Gate]:
    """A complete answer; a stream has begun when the gate is reached."""
    gate = Gate()
    if not stream:
        return upstream.script(gate, Send(wire.reply(completion()))), gate
    first, *rest = [Send(wire.framed(event)) for event in stream_events()]
    return upstream.script(Send(wire.stream_head()), first, gate, *rest, Send(wire.LAST_CHUNK)), gate


def first_then(upstream: Upstream, first: list[Action], then: list[Action]) -> Script:
    """The first request is answered in one way, all others in another."""
    answers = itertools.chain([first], itertools.repeat(then))

    def answer(_: Request) -> list[Action]:
        return next(answers)

    return upstream.answer_with(answer)


# Repetitions


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_of_twenty_calls_at_once_one_is_made_and_all_get_its_answer(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    key, value = gateway.new_key(), fresh()
    script, gate = held_back(upstream, stream=stream)
    request = request_bytes("POST", CHAT, key=key.key, body=chat_body(script, stream=stream), headers=named(value))
    calls = start(gateway, request, RETRIES)
    await soon(lambda: sum(call.done() for call in calls) == RETRIES - 1, "an answer to all calls but one")
    gate.open()
    answers = await asyncio.gather(*calls)
    (first,) = [answer for answer in answers if answer.status == 200]
    for answer in answers:
        if answer is not first:
            assert refused_with(answer, 409, "idempotency_in_progress")
            assert answer.header("retry-after") == "1"
            assert answer.header("x-should-retry") in (None, "true"), "an SDK is to ask again"
    assert first.is_complete
    assert ANSWER_CANARY.encode() in first.body
    before = await used(gateway, key)
    for replay in await asyncio.gather(*start(gateway, request, RETRIES)):
        assert_replays(replay, first)
    assert len(script.requests) == 1
    entry = await only_entry(gateway, key)
    assert (entry["request_id"], entry["cost_nano_usd"], entry["charge_nano_usd"]) == (first.request_id, COST, COST)
    assert await used(gateway, key) == before, "a repetition takes nothing"
    assert (await me(gateway, key))["month"]["calls"] == 1


async def test_a_value_stands_for_one_request(gateway: Gateway, upstream: Upstream) -> None:
    key, value = gateway.new_key(), fresh()
    script, gate = held_back(upstream, stream=False)
    (running,) = start(
        gateway, request_bytes("POST", CHAT, key=key.key, body=chat_body(script), headers=named(value)), 1
    )
    await soon(gate.is_reached.is_set, "the first call at the upstream")
    assert refused_with(await ask(gateway, key, value, script, temperature=0), 422, "idempotency_key_reused")
    gate.open()
    first = await running
    other_body = await ask(gateway, key, value, script, temperature=0)
    other_path = await gateway.post(key, chat_body(script), named(value), "/v1/completions")
    assert refused_with(other_body, 422, "idempotency_key_reused")
    # As a text completion this body is refused before its value is looked at, so that one which is not is asked, too.
    assert other_path.status == 400
    prompt_body = {"model": "dia-openai", "prompt": prompt(script), "messages": chat_body(script)["messages"]}
    elsewhere = fresh()
    assert (await gateway.post(key, prompt_body, named(elsewhere))).status == 200
    moved = await gateway.post(key, prompt_body, named(elsewhere), "/v1/completions")
    assert refused_with(moved, 422, "idempotency_key_reused"), "the path is part of the request"
    assert_replays(await ask(gateway, key, value, script), first)
    assert len(script.requests) == 2


async def test_the_same_value_of_somebody_else_is_another_value(gateway: Gateway, upstream: Upstream) -> None:
    value, script = fresh(), upstream.reply(completion())
    one, other = gateway.new_key(), gateway.new_key()
    same_creator = gateway.new_key(one.creator)
    service = gateway.new_key(gateway.new_creator(), scopes=["act_for"])
    firsts = {}
    for key, name in ((one, ""), (same_creator, ""), (other, ""), (service, one.creator), (service, other.creator)):
        headers = [("x-gateway-creator", name)] if name else []
        firsts[key.id, name] = await ask(gateway, key, value, script, headers)
        assert firsts[key.id, name].header("x-gateway-idempotent-replay") is None
    assert {answer.status for answer in firsts.values()} == {200}
    assert len(script.requests) == len(firsts)
    for creator in (one.creator, other.creator):
        replay = await ask(gateway, service, value, script, [("x-gateway-creator", creator)])
        assert_replays(replay, firsts[service.id, creator])
    assert refused_with(await ask(gateway, one, value, script, n=1), 422, "idempotency_key_reused")
    assert_replays(await ask(gateway, same_creator, value, script), firsts[same_creator.id, ""])
    assert len(script.requests) == len(firsts)
    assert [len(usage_entries(gateway, key)) for key in (one, other)] == [3, 2]


# What is not stored


async def test_refusals_before_the_dial_leave_the_value_free(gateway: Gateway, upstream: Upstream) -> None:
    value, script = fresh(), upstream.reply(completion())
    key = gateway.new_key(gateway.new_creator("open", requests_per_minute=1, quota_usd_per_month=0))
    assert (await gateway.post(None, chat_body(script), named(value))).status == 401
    for fields, status, code in (
        ({"model": "no-such-model"}, 404, "model_not_found"),
        ({"messages": "none"}, 400, None),
        ({}, 429, "insufficient_quota"),
    ):
        answer = await ask(gateway, key, value, script, **fields)  # type: ignore[arg-type]
        assert answer.status == status, answer
        assert code is None or answer.error["code"] == code
    override(gateway, key, requests_per_minute=1)
    assert (await gateway.chat(key, script)).status == 200
    refused = await ask(gateway, key, value, script)
    assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
    override(gateway, key, requests_per_minute=1000)
    first = await ask(gateway, key, value, script)
    assert (first.status, first.header("x-gateway-idempotent-replay")) == (200, None)
    assert_replays(await ask(gateway, key, value, script), first)
    assert len(script.requests) == len(usage_entries(gateway, key)) == 2


@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_a_call_that_failed_at_no_cost_may_be_made_again(
    gateway: Gateway, upstream: Upstream, status: int
) -> None:
    key, value = gateway.new_key(), fresh()
    error = {"error": {"message": "Not now.", "type": "x", "param": None, "code": "y"}}
    script = first_then(upstream, [Send(wire.reply(error, status))], [Send(wire.reply(completion()))])
    failed = await ask(gateway, key, value, script)
    assert (failed.status, failed.error["code"]) == (status, "y")
    first = await ask(gateway, key, value, script)
    assert (first.status, first.header("x-gateway-idempotent-replay")) == (200, None)
    assert_replays(await ask(gateway, key, value, script), first)
    costs = sorted(entry["cost_nano_usd"] for entry in usage_entries(gateway, key))
    assert (costs, len(script.requests)) == ([0, COST], 2)


async def test_an_unreachable_provider_leaves_the_value_free(gateway: Gateway, upstream: Upstream) -> None:
    key, value, script = gateway.new_key(), fresh(), upstream.reply(completion())
    for stream in (False, True):
        failed = await ask(gateway, key, value, script, model="rig-dead", stream=stream)
        assert (failed.status, failed.error["code"]) == (502, "provider_unreachable")
    first = await ask(gateway, key, value, script)
    assert (first.status, first.header("x-gateway-idempotent-replay")) == (200, None)
    assert sorted(entry["cost_nano_usd"] for entry in usage_entries(gateway, key)) == [0, 0, COST]


@pytest.mark.parametrize("how", ["broken", "told"])
async def test_a_failed_stream_of_a_model_that_costs_nothing_may_be_made_again(
    gateway: Gateway, upstream: Upstream, how: str
) -> None:
    """Whether it broke, or its provider said in it that it had failed."""
    key, value = gateway.new_key(), fresh()
    said = wire.event(
        {"error": {"message": "Overloaded.", "code": "server_error"}} if how == "told" else wire.chunk("a")
    )
    begin = [Send(wire.stream_head()), Send(wire.framed(said))]
    rest = [Send(wire.framed(event)) for event in stream_events()]
    script = first_then(
        upstream,
        [*begin, Send(wire.LAST_CHUNK) if how == "told" else Close()],
        [Send(wire.stream_head()), *rest, Send(wire.LAST_CHUNK)],
    )
    failed = await ask(gateway, key, value, script, model="free", stream=True)
    assert b'"error"' in failed.body
    first = await ask(gateway, key, value, script, model="free", stream=True)
    assert first.header("x-gateway-idempotent-replay") is None
    assert ANSWER_CANARY.encode() in first.body
    assert_replays(await ask(gateway, key, value, script, model="free", stream=True), first)
    assert len(script.requests) == 2


# What failed and was paid for


async def test_a_stream_that_broke_is_replayed_as_it_was(gateway: Gateway, upstream: Upstream) -> None:
    key, value = gateway.new_key(), fresh()
    events = [Send(wire.framed(event)) for event in wire.text_events(ANSWER_CANARY, finish=None)]
    script = upstream.script(Send(wire.stream_head()), *events, Close())
    first = await ask(gateway, key, value, script, stream=True)
    first.assert_broken_off()
    assert ANSWER_CANARY.encode() in first.body
    for _ in range(2):
        assert_replays(await ask(gateway, key, value, script, stream=True), first)
    entry = await only_entry(gateway, key)
    tokens = estimated_input(prompt(script)), estimated_output(ANSWER_CANARY)
    assert (entry["outcome"], entry["cost_nano_usd"]) == ("upstream_died", cost_nano_usd(*tokens))
    assert len(script.requests) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_an_error_that_was_paid_for_is_replayed(gateway: Gateway, upstream: Upstream, stream: bool) -> None:
    key, value, script = gateway.new_key(), fresh(), upstream.script(Close())
    first = await ask(gateway, key, value, script, stream=stream)
    assert (first.status, first.error["code"], first.header("x-should-retry")) == (502, "upstream_died", "false")
    replay = await ask(gateway, key, value, script, stream=stream)
    assert_replays(replay, first)
    assert replay.header("x-should-retry") == "false"
    assert (await only_entry(gateway, key))["cost_nano_usd"] > 0
    assert len(script.requests) == 1


async def test_a_stream_that_tells_an_error_of_its_provider_is_replayed(gateway: Gateway, upstream: Upstream) -> None:
    key, value = gateway.new_key(), fresh()
    told = wire.event({"error": {"message": f"{ANSWER_CANARY} is overloaded", "code": "server_error"}})
    script = upstream.stream(*wire.text_events(ANSWER_CANARY, finish=None), told)
    first = await ask(gateway, key, value, script, stream=True)
    assert b"overloaded" in first.body
    assert_replays(await ask(gateway, key, value, script, stream=True), first)
    assert (await only_entry(gateway, key))["outcome"] == "upstream_error"


# A client that leaves


async def left_alone(gateway: Gateway, upstream: Upstream) -> None:
    """Returns when the gateway has seen that a client without a value left, and has hung up on its provider: whoever left
    before has been seen to leave as well."""
    script, gate = held_back(upstream, stream=True)
    connection = await gateway.open_stream(gateway.new_key(), script)
    await soon(gate.is_reached.is_set, "the begin of the stream")
    await connection.reset()
    await soon(script.request.gone.is_set, "the end of a call without a value")


async def repeated(gateway: Gateway, key: Key, value: str, script: Script, *, stream: bool) -> Answer:
    """The answer to a repetition, once the call is over: between its entry and its kept answer lies a moment."""
    while True:
        answer = await ask(gateway, key, value, script, stream=stream)
        if answer.status != 409 or answer.error["code"] != "idempotency_in_progress":
            return answer


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_call_goes_on_without_its_client_and_its_answer_waits_for_the_repetition(
    gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    key, value = gateway.new_key(), fresh()
    script, gate = held_back(upstream, stream=stream)
    connection = await connect(gateway.port)
    await connection.send(
        request_bytes("POST", CHAT, key=key.key, body=chat_body(script, stream=stream), headers=named(value))
    )
    if stream:
        assert await connection.read_head() == 200
        await connection.read_until(b"\n\n")
    await soon(gate.is_reached.is_set, "the call at the upstream")
    await connection.reset()
    await left_alone(gateway, upstream)
    assert refused_with(await ask(gateway, key, value, script, stream=stream), 409, "idempotency_in_progress")
    gate.open()
    entry = await only_entry(gateway, key)
    assert (entry["outcome"], entry["usage_source"], entry["cost_nano_usd"]) == ("ok", "provider", COST)
    answer = await repeated(gateway, key, value, script, stream=stream)
    assert (answer.status, answer.is_complete) == (200, True)
    assert answer.header("x-gateway-idempotent-replay") == entry["request_id"]
    if stream:
        asked_for = [event for event in stream_events() if b'"choices":[]' not in event]
        assert answer.body == b"".join(asked_for)
    else:
        assert answer.body == wire.compact(completion())
    assert len(script.requests) == 1
    assert not script.request.gone.is_set()


async def test_a_stream_nobody_reads_any_more_does_not_wait_for_its_reader(
    gateway: Gateway, upstream: Upstream
) -> None:
    """It is larger than what fits between the gateway and a client that does not read."""
    key, value = gateway.new_key(), fresh()
    long = wire.framed(b"".join(wire.event(wire.chunk("x" * 8_000)) for _ in range(100)))
    events = [Send(wire.framed(event)) for event in stream_events()]
    script = upstream.script(Send(wire.stream_head()), *[Send(long)] * 20, *events, Send(wire.LAST_CHUNK))
    connection = await connect(gateway.port, buffer_bytes=1024)
    await connection.send(
        request_bytes("POST", CHAT, key=key.key, body=chat_body(script, stream=True), headers=named(value))
    )
    assert await connection.read_head() == 200
    await connection.reset()
    entry = await only_entry(gateway, key)
    assert (entry["outcome"], entry["cost_nano_usd"]) == ("ok", COST)
    assert refused_with(
        await repeated(gateway, key, value, script, stream=True), 409, "idempotency_result_unavailable"
    ), "it is far too large to be kept"


# Bounds and odd requests


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_large_answer_is_given_once(gateway: Gateway, upstream: Upstream, stream: bool) -> None:
    key, value, text = gateway.new_key(), fresh(), "y" * ANSWER_BYTES_MAX
    if stream:
        script = upstream.stream(*wire.text_events(text), wire.event(wire.usage_chunk(USAGE)), wire.DONE)
    else:
        script = upstream.reply(wire.completion(text, usage=USAGE))
    first = await ask(gateway, key, value, script, stream=stream)
    assert (first.status, first.is_complete) == (200, True)
    assert text.encode() in first.body
    for _ in range(2):
        again = await ask(gateway, key, value, script, stream=stream)
        assert refused_with(again, 409, "idempotency_result_unavailable")
        assert again.header("x-should-retry") == "false"
        assert again.error["metadata"]["request_id"] == first.request_id
    assert (await only_entry(gateway, key))["cost_nano_usd"] == COST
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(named(""), id="empty"),
        pytest.param(named("v" * 256), id="256 bytes"),
        pytest.param([*named("one"), *named("two")], id="twice"),
    ],
)
async def test_a_value_that_cannot_be_one_is_refused(gateway: Gateway, upstream: Upstream, headers: Headers) -> None:
    key, script = gateway.new_key(), upstream.reply(completion())
    for _ in range(2):
        assert refused_with(await gateway.post(key, chat_body(script), headers), 400, "invalid_value")
    assert script.requests == []


@pytest.mark.parametrize("value", [b"v" * 255, "größe-€".encode(), b"\xff\xfe\x80", b'"quoted, value"'])
async def test_a_value_is_any_bytes(gateway: Gateway, upstream: Upstream, value: bytes) -> None:
    key, script = gateway.new_key(), upstream.reply(completion())
    request = request_bytes("POST", CHAT, key=key.key, body=chat_body(script))

    def valued(text: bytes) -> bytes:
        return request.replace(b"\r\n\r\n", b"\r\nIdempotency-Key: " + text + b"\r\n\r\n", 1)

    first = await exchange(gateway.port, valued(value))
    assert first.status == 200, first
    assert_replays(await exchange(gateway.port, valued(value)), first)
    other = await exchange(gateway.port, valued(value[:-1]))
    assert (other.status, other.header("x-gateway-idempotent-replay")) == (200, None)
    assert len(script.requests) == 2


async def test_a_body_is_the_same_however_it_is_framed(gateway: Gateway, upstream: Upstream) -> None:
    key, value, script = gateway.new_key(), fresh(), upstream.reply(completion())
    first = await ask(gateway, key, value, script)
    body = wire.compact(chat_body(script))
    head = request_bytes(
        "POST",
        CHAT,
        key=key.key,
        headers=[*named(value), ("content-type", "application/json"), ("transfer-encoding", "chunked")],
    )
    async with connected(gateway.port) as connection:
        await connection.send(head)
        for byte_at in range(0, len(body), 37):
            await connection.send(wire.framed(body[byte_at : byte_at + 37]))
        await connection.send(wire.LAST_CHUNK)
        assert await connection.read_head() == 200
        assert_replays(await connection.read_rest(), first)
    assert len(script.requests) == 1


def form(boundary: str, text: str) -> bytes:
    fields = [("model", "dia-whisper"), ("prompt", text)]
    parts = [f'--{boundary}\r\ncontent-disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields]
    file = f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return "".join(parts).encode() + file.encode() + silence() + f"\r\n--{boundary}--\r\n".encode()


def silence() -> bytes:
    """A tenth of a second of it."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8_000)
        sound.writeframes(b"\x80" * 800)
    return file.getvalue()


async def test_a_form_is_the_same_with_another_boundary(gateway: Gateway, upstream: Upstream) -> None:
    key, value = gateway.new_key(), fresh()
    script = upstream.reply({"text": ANSWER_CANARY, "usage": {"type": "duration", "seconds": 1}})

    async def transcribe(boundary: str, text: str) -> Answer:
        headers = [*named(value), ("content-type", f"multipart/form-data; boundary={boundary}")]
        return await gateway.post(key, form(boundary, text), headers, "/v1/audio/transcriptions")

    first = await transcribe("first-boundary", prompt(script))
    assert first.status == 200, first
    assert_replays(await transcribe("quite-another", prompt(script)), first)
    assert refused_with(await transcribe("first-boundary", prompt(script) + "!"), 422, "idempotency_key_reused")
    assert len(script.requests) == 1
    assert (await only_entry(gateway, key))["request_id"] == first.request_id


# Together with the cache


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_an_answer_out_of_the_cache_is_replayed_too(gateway: Gateway, upstream: Upstream, stream: bool) -> None:
    key, script = gateway.new_key(), upstream.stream(*stream_events()) if stream else upstream.reply(completion())
    cached: Headers = [("x-gateway-cache", "on")]
    value, later = fresh(), fresh()
    first = await ask(gateway, key, value, script, cached, stream=stream)
    assert (first.status, first.header("x-gateway-cache")) == (200, "miss")
    hit = await ask(gateway, key, later, script, cached, stream=stream)
    assert (hit.header("x-gateway-cache"), hit.header("x-gateway-idempotent-replay")) == ("hit", None)
    assert hit.body == first.body
    before = await used(gateway, key)
    for known, answered in ((value, first), (later, hit)):
        replay = await ask(gateway, key, known, script, cached, stream=stream)
        assert_replays(replay, answered)
        assert replay.header("x-gateway-cache") is None, "it was not looked for there"
    assert await used(gateway, key) == before
    entries = sorted(usage_entries(gateway, key), key=lambda entry: str(entry["request_id"]))
    assert [(entry["request_id"], entry["cached"], entry["cost_nano_usd"]) for entry in entries] == [
        (first.request_id, False, COST),
        (hit.request_id, True, 0),
    ]
    assert len(script.requests) == 1


# Other endpoints


async def test_messages_tell_it_in_anthropics_words(gateway: Gateway, upstream: Upstream) -> None:
    key, value, gate = gateway.new_key(), fresh(), Gate()
    script = upstream.script(gate, Send(wire.reply(completion())))

    def body(**fields: object) -> dict[str, object]:
        return {
            "model": "dia-openai",
            "max_tokens": 99,
            "messages": [{"role": "user", "content": prompt(script)}],
            **fields,
        }

    def request(**fields: object) -> bytes:
        return request_bytes("POST", "/v1/messages", key=key.key, body=body(**fields), headers=named(value))

    (running,) = start(gateway, request(), 1)
    await soon(gate.is_reached.is_set, "the call at the upstream")
    early, reused = await exchange(gateway.port, request()), await exchange(gateway.port, request(top_k=3))
    gate.open()
    first = await running
    for answer, status, code in ((early, 409, "idempotency_in_progress"), (reused, 422, "idempotency_key_reused")):
        assert (answer.status, answer.json["type"]) == (status, "error")
        assert answer.json["error"]["type"] == "invalid_request_error"
        assert answer.json["error"]["details"] == {"error_code": code, "param": "idempotency-key"}
        assert answer.header("request-id") == answer.request_id
    assert early.header("retry-after") == "1"
    replay = await exchange(gateway.port, request())
    assert first.json["content"][0]["text"] == ANSWER_CANARY
    assert_replays(replay, first)
    assert replay.header("request-id") == replay.request_id
    assert len(script.requests) == 1


def count(gateway: Gateway, table: str, key: Key) -> int:
    path = gateway.data_dir / "gateway.db"
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        query = f"SELECT count(*) FROM {table} WHERE creator = ?"
        return int(connection.execute(query, (key.creator,)).fetchone()[0])
    finally:
        connection.close()


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_response_is_kept_once(gateway: Gateway, upstream: Upstream, stream: bool) -> None:
    key, value, follow_up = gateway.new_key(), fresh(), fresh()
    # What is kept of it may be read by its creator: no canaries.
    usage = wire.event(wire.usage_chunk(USAGE))
    if stream:
        script = upstream.stream(*wire.text_events("Well."), usage, wire.DONE)
    else:
        script = upstream.reply(wire.completion("Well.", usage=USAGE))

    async def respond(value: str, **fields: object) -> Answer:
        body = {"model": "dia-openai", "input": f"hello {script.marker}", "stream": stream, **fields}
        return await gateway.post(key, body, named(value), "/v1/responses")

    first = await respond(value)
    assert first.status == 200, first
    second = await respond(follow_up, previous_response_id=response_id(first))
    assert second.status == 200, second
    assert_replays(await respond(value), first)
    assert_replays(await respond(follow_up, previous_response_id=response_id(first)), second)
    assert count(gateway, "responses", key) == 2
    assert len(script.requests) == len(usage_entries(gateway, key)) == 2
    kept = await gateway.get(key, f"/v1/responses/{response_id(first)}")
    assert kept.status == 200


def response_id(answer: Answer) -> str:
    """The first id that is told, which is the response's."""
    return "resp_" + answer.body.partition(b'"resp_')[2].partition(b'"')[0].decode()


async def test_an_image_is_kept_once_and_its_url_given_again(gateway: Gateway, upstream: Upstream) -> None:
    key, value = gateway.new_key(), fresh()
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    script = upstream.reply({"created": wire.CREATED, "data": [{"b64_json": png}]})
    body = {"model": "dia-dalle", "prompt": prompt(script), "response_format": "url", "size": "256x256"}
    first = await gateway.post(key, body, named(value), "/v1/images/generations")
    assert first.status == 200, first
    replay = await gateway.post(key, body, named(value), "/v1/images/generations")
    assert_replays(replay, first)
    url = replay.json["data"][0]["url"]
    assert (await gateway.get(None, url.removeprefix(gateway.url))).status == 200
    assert count(gateway, "assets", key) == 1
    assert len(script.requests) == len(usage_entries(gateway, key)) == 1


async def test_embeddings_and_sound_are_replayed_byte_for_byte(gateway: Gateway, upstream: Upstream) -> None:
    key = gateway.new_key()
    vector = {"object": "embedding", "index": 0, "embedding": [0.1, -0.2]}
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    embedded = upstream.reply({"object": "list", "data": [vector], "model": "m", "usage": usage})
    sound = bytes(range(256)) * 8
    spoken = upstream.script(Send(wire.reply(sound, content_type="audio/mpeg")))
    for path, script, body in (
        ("/v1/embeddings", embedded, {"model": "dia-embedding", "input": prompt(embedded)}),
        ("/v1/audio/speech", spoken, {"model": "dia-tts", "voice": "alloy", "input": prompt(spoken)}),
    ):
        value = fresh()
        first = await gateway.post(key, body, named(value), path)
        assert first.status == 200, first
        assert_replays(await gateway.post(key, body, named(value), path), first)
        assert len(script.requests) == 1
    assert len(usage_entries(gateway, key)) == 2


# The SDK


def sdk(gateway: Gateway, key: Key, on_answer: Callable[[int], None]) -> openai.AsyncOpenAI:
    async def heard(response: Any) -> None:
        on_answer(response.status_code)

    http_client = openai.DefaultAsyncHttpxClient(trust_env=False, event_hooks={"response": [heard]})
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key.key, http_client=http_client, max_retries=3)


async def test_the_sdks_own_retries_pay_once(gateway: Gateway, upstream: Upstream) -> None:
    """One client of two finds the other's call running and waits as it is told; both first met a failing provider."""
    key, gate = gateway.new_key(), Gate()
    value = dict(named(fresh()))
    broken: list[Action] = [Send(wire.reply({"error": {"message": "Oops."}}, 500, [("retry-after-ms", "1")]))]
    script = first_then(upstream, broken, [gate, Send(wire.reply(completion()))])
    heard: list[int] = []

    def hear(status: int) -> None:
        heard.append(status)
        if status == 409 and gate.is_reached.is_set():
            gate.open()

    async with sdk(gateway, key, hear) as client:

        async def create() -> Any:
            return await client.chat.completions.with_raw_response.create(
                model="rig-chat",
                messages=[{"role": "user", "content": prompt(script)}],
                extra_headers=value,
            )

        first = asyncio.get_running_loop().create_task(create())
        await soon(gate.is_reached.is_set, "the SDK's second try at the upstream")
        answers = [await create(), await first]
        assert {answer.parse().choices[0].message.content for answer in answers} == {ANSWER_CANARY}
        late, early = answers
        assert late.headers["x-gateway-idempotent-replay"] == early.headers["x-request-id"]
        with pytest.raises(openai.UnprocessableEntityError):
            await client.chat.completions.create(
                model="rig-chat", messages=[{"role": "user", "content": "else"}], extra_headers=value
            )
    assert heard == [500, 409, 200, 200, 422]
    assert sorted(entry["cost_nano_usd"] for entry in usage_entries(gateway, key)) == [0, COST]
    assert len(script.requests) == 2
