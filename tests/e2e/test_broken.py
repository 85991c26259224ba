"""Upstreams that refuse, die, stall or talk nonsense, and clients that leave: nothing lost, nothing made up, no $0 for output."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.rig import catalog, wire
from tests.rig.catalog import estimated_input, estimated_output
from tests.rig.client import Answer, connect, exchange
from tests.rig.gateway import Gateway, Key, prompt
from tests.rig.upstream import Action, Close, Drip, Gate, Pause, Reset, Script, Send, Stall, Upstream
from tests.rig.waiting import soon

USAGE = wire.usage(1000, 7)
REPORTED = wire.event(wire.usage_chunk(USAGE))


async def streamed(gateway: Gateway, key: Key, script: Script, **fields: object) -> Answer:
    """A stream that may end anyhow; an error before the first byte is an answer as well."""
    return await gateway.chat(key, script, stream=True, **fields)


async def settled(gateway: Gateway, key: Key) -> dict[str, Any]:
    """The key's only entry, whoever is still being served."""
    entries = await soon(lambda: gateway.entries(creator=key.creator), "a ledger entry")
    assert len(entries) == 1, entries
    return entries[0]


def cost_of(entry: dict[str, Any]) -> int:
    return catalog.cost_nano_usd(entry["input_tokens"], entry["output_tokens"])


# Clients that leave

WORDS = [f"word {number} " for number in range(8)]


@pytest.mark.parametrize("position", [0, 1, 4, 7, 8], ids=["nothing", "one", "mid", "all but one", "all"])
async def test_a_client_that_leaves_a_stream_pays_for_what_was_relayed(
    gateway: Gateway, upstream: Upstream, key: Key, position: int
) -> None:
    """The provider falls silent when the client leaves, so the usage never comes and the written rule applies."""
    role, *texts = wire.text_events(*WORDS, finish=None)
    sent = [role, *texts[:position]]
    script = upstream.script(Send(wire.stream_head()), *(Send(wire.framed(event)) for event in sent), Stall())
    connection = await gateway.open_stream(key, script)
    await connection.read_until(sent[-1])
    await connection.reset()
    entry = await settled(gateway, key)
    assert entry["outcome"] == "client_gone"
    assert entry["output_tokens"] == estimated_output(*WORDS[:position])
    assert entry["input_tokens"] == estimated_input(prompt(script))
    assert entry["cost_nano_usd"] == cost_of(entry) > 0
    assert entry["usage_source"] == "estimated"
    await soon(script.request.gone.is_set, "the end of the upstream call: nobody pays for words no one reads")


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_usage_that_comes_within_the_grace_is_charged(
    upstream: Upstream, gateway: Gateway, key: Key, how: str
) -> None:
    role, *texts = wire.text_events(*WORDS)
    gate = Gate()
    script = upstream.script(
        Send(wire.stream_head() + wire.framed(role + texts[0])),
        gate,
        Send(wire.framed(b"".join(texts[1:]) + REPORTED + wire.DONE) + wire.LAST_CHUNK),
    )
    connection = await gateway.open_stream(key, script)
    await connection.read_until(texts[0])
    await (connection.reset() if how == "reset" else connection.close())
    gate.open()
    entry = await settled(gateway, key)
    assert (entry["output_tokens"], entry["usage_source"]) == (7, "provider")
    assert entry["cost_nano_usd"] == catalog.cost_nano_usd(1000, 7)


async def test_an_endless_stream_is_not_read_on_for_a_client_that_left(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    role, text, _ = wire.text_events("a word ")
    script = upstream.script(Send(wire.stream_head() + wire.framed(role)), Drip(wire.framed(text), 0.02))
    connection = await gateway.open_stream(key, script)
    await connection.read_until(text)
    delivered = connection.body.count(text)
    await connection.reset()
    await soon(script.request.gone.is_set, "the end of the upstream call")
    entry = await settled(gateway, key)
    assert entry["outcome"] == "client_gone"
    assert entry["output_tokens"] >= delivered
    assert entry["cost_nano_usd"] == cost_of(entry)


async def test_a_client_that_leaves_before_the_first_byte_pays_its_input(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    script = upstream.script(Stall())
    connection = await connect(gateway.port)
    await connection.send(gateway.chat_request(key, script, stream=True))
    await soon(lambda: script.requests, "the request at the upstream")
    await connection.reset()
    entry = await settled(gateway, key)
    assert (entry["outcome"], entry["output_tokens"]) == ("client_gone", 0)
    assert entry["cost_nano_usd"] == catalog.cost_nano_usd(estimated_input(prompt(script)), 0)


@pytest.mark.parametrize("cut", [1, 20, 60])
async def test_a_client_that_leaves_inside_its_request_costs_nothing(
    gateway: Gateway, upstream: Upstream, key: Key, cut: int
) -> None:
    script = upstream.reply(wire.completion(usage=USAGE))
    connection = await connect(gateway.port)
    await connection.send(gateway.chat_request(key, script)[:-cut])
    await connection.reset()
    assert (await gateway.chat(key, upstream.reply(wire.completion(usage=USAGE)))).status == 200
    assert script.requests == []
    await settled(gateway, key)


async def test_a_client_that_leaves_a_whole_answer_is_charged_what_it_reports(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    gate = Gate()
    # The pause is for the gateway to notice: it begins to watch a whole call some milliseconds after sending it.
    script = upstream.script(gate, Pause(0.5), Send(wire.reply(wire.completion("late", usage=USAGE))))
    connection = await connect(gateway.port)
    await connection.send(gateway.chat_request(key, script))
    await soon(gate.is_reached.is_set, "the request at the upstream")
    await connection.reset()
    gate.open()
    entry = await settled(gateway, key)
    assert (entry["outcome"], entry["usage_source"]) == ("client_gone", "provider")
    assert entry["cost_nano_usd"] == catalog.cost_nano_usd(1000, 7)


async def test_clients_that_leave_right_at_done_leave_no_gap(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    script = upstream.stream(*wire.text_events("a"), REPORTED, wire.DONE)

    async def one() -> None:
        connection = await gateway.open_stream(key, script)
        await connection.read_until(b"[DONE]")
        await connection.reset()

    for _ in range(5):
        await asyncio.gather(*(one() for _ in range(20)))
    entries = await soon(
        lambda: found if len(found := gateway.entries(creator=key.creator)) >= 100 else [], "100 entries"
    )
    assert len(entries) == 100
    assert {entry["cost_nano_usd"] for entry in entries} == {catalog.cost_nano_usd(1000, 7)}


# Upstreams that die

DEATHS: dict[str, Action] = {"FIN": Close(), "RST": Reset()}


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
@pytest.mark.parametrize("position", [0, 1, 4, 8])
async def test_an_upstream_that_dies_in_a_stream_is_told_and_estimated(
    gateway: Gateway, upstream: Upstream, key: Key, position: int, death: Action
) -> None:
    role, *texts = wire.text_events(*WORDS, finish=None)
    sent = [role, *texts[:position]]
    gate = Gate()
    script = upstream.script(Send(wire.stream_head()), *(Send(wire.framed(event)) for event in sent), gate, death)
    connection = await gateway.open_stream(key, script)
    await connection.read_until(sent[-1])
    gate.open()
    answer = await connection.read_rest()
    await connection.close()
    assert answer.body.startswith(b"".join(sent))
    answer.assert_broken_off()
    entry = await settled(gateway, key)
    assert (entry["outcome"], entry["usage_source"]) == ("upstream_died", "estimated")
    assert entry["output_tokens"] == estimated_output(*WORDS[:position])
    assert entry["cost_nano_usd"] == cost_of(entry) > 0


async def test_a_stream_cut_inside_a_chunk_ends_in_a_well_formed_error(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    whole = b"".join(wire.text_events("Grüße", "cut here", finish=None))
    script = upstream.script(Send(wire.stream_head() + wire.framed(whole)[: len(whole) - 25]), Close())
    answer = await streamed(gateway, key, script)
    answer.assert_broken_off()
    entry = await settled(gateway, key)
    assert entry["outcome"] == "upstream_died"
    assert entry["output_tokens"] >= estimated_output("Grüße")


async def test_usage_reported_before_the_death_is_charged(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    events = wire.text_events("a", "b", finish=None)
    script = upstream.script(Send(wire.stream_head() + wire.framed(b"".join(events) + REPORTED)), Close())
    (await streamed(gateway, key, script)).assert_broken_off()
    entry = await settled(gateway, key)
    assert entry["cost_nano_usd"] == catalog.cost_nano_usd(1000, 7)
    assert entry["outcome"] == "upstream_died"
    assert entry["usage_source"] in {"provider", "provider_partial"}


async def test_a_stream_that_ends_properly_but_unfinished_is_no_success(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    answer = await streamed(gateway, key, upstream.stream(*wire.text_events(*WORDS, finish=None)))
    answer.assert_broken_off()
    entry = await settled(gateway, key)
    assert (entry["outcome"], entry["output_tokens"]) == ("upstream_died", estimated_output(*WORDS))


async def test_a_finished_stream_is_complete_without_done(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    events = wire.text_events(*WORDS)
    answer = await streamed(gateway, key, upstream.stream(*events))
    assert answer.is_complete
    assert answer.body == b"".join(events)
    entry = await settled(gateway, key)
    assert (entry["outcome"], entry["output_tokens"]) == ("ok", estimated_output(*WORDS))


async def test_one_unfinished_choice_of_two_is_no_success(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    events = [*wire.text_events("a"), wire.event(wire.chunk("b", index=1))]
    answer = await streamed(gateway, key, upstream.stream(*events), n=2)
    answer.assert_broken_off()
    assert (await settled(gateway, key))["outcome"] == "upstream_died"


async def test_an_error_event_inside_a_stream_is_relayed_and_its_text_costs_nothing(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    error = wire.event({"error": {"message": "overloaded " * 500, "type": "server_error", "param": None, "code": "x"}})
    events = [*wire.text_events(*WORDS, finish=None), error]
    answer = await streamed(gateway, key, upstream.stream(*events))
    assert answer.body.startswith(b"".join(events[:-1]))
    assert b"[DONE]" not in answer.body
    assert "overloaded" in answer.last_event["error"]["message"]
    entry = await settled(gateway, key)
    assert (entry["outcome"], entry["output_tokens"]) == ("upstream_error", estimated_output(*WORDS))


async def test_an_error_event_that_quotes_the_provider_key_is_cleaned(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    error = wire.event(
        {"error": {"message": f"key {gateway.provider_key} is over its limit", "type": "x", "code": "y"}}
    )
    answer = await streamed(gateway, key, upstream.stream(*wire.text_events("a", finish=None), error))
    assert gateway.provider_key.encode() not in answer.body
    assert answer.last_event["error"]


@pytest.mark.parametrize("death", DEATHS.values(), ids=DEATHS)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_an_upstream_that_dies_before_answering_is_a_502(
    gateway: Gateway, upstream: Upstream, key: Key, stream: bool, death: Action
) -> None:
    script = upstream.script(death)
    answer = await gateway.chat(key, script, stream=stream)
    assert answer.status == 502
    assert answer.error["code"]
    assert len(script.requests) == 1
    entry = await settled(gateway, key)
    assert (entry["outcome"], entry["output_tokens"]) == ("upstream_died", 0)


async def test_half_a_json_answer_is_a_502_without_its_text(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    whole = wire.reply(wire.completion("half " * 100, usage=USAGE))
    answer = await gateway.chat(key, upstream.script(Send(whole[:-40]), Close()))
    assert answer.status == 502
    assert b"half half" not in answer.body
    assert answer.error
    entry = await settled(gateway, key)
    assert entry["outcome"] == "upstream_died"
    assert entry["cost_nano_usd"] > 0


# Upstreams that talk nonsense

NONSENSE = [
    pytest.param(b"<html><body>nonsense-canary</body></html>", "text/html", id="HTML"),
    pytest.param(b"<html>nonsense-canary</html>", "application/json", id="HTML as JSON"),
    pytest.param(b"", "application/json", id="empty"),
    pytest.param(b"\xef\xbb\xbf" + b'{"nonsense-canary": 1', "application/json", id="BOM and half"),
    pytest.param(b"null", "application/json", id="null"),
    pytest.param(b'["nonsense-canary"]', "application/json", id="list"),
    pytest.param(b'"nonsense-canary"', "application/json", id="string"),
    pytest.param(b"17", "application/json", id="number"),
    pytest.param(b'{"choices": "nonsense-canary"', "application/json", id="cut JSON"),
    pytest.param(b"\xff\xfe\x00nonsense-canary", "application/octet-stream", id="binary"),
    pytest.param(b"[" * 100_000 + b"]" * 100_000, "application/json", id="deep"),
]


@pytest.mark.parametrize(("body", "content_type"), NONSENSE)
async def test_nonsense_instead_of_json_is_a_502_and_not_echoed(
    gateway: Gateway, upstream: Upstream, key: Key, body: bytes, content_type: str
) -> None:
    answer = await gateway.chat(key, upstream.script(Send(wire.reply(body, content_type=content_type))))
    assert answer.status == 502
    assert "invalid" in answer.error["code"]
    assert b"nonsense-canary" not in answer.body
    entry = await settled(gateway, key)
    assert entry["outcome"] == "upstream_invalid"


@pytest.mark.parametrize(("body", "content_type"), NONSENSE)
async def test_nonsense_instead_of_a_stream_is_no_success(
    gateway: Gateway, upstream: Upstream, key: Key, body: bytes, content_type: str
) -> None:
    answer = await streamed(gateway, key, upstream.script(Send(wire.reply(body, content_type=content_type))))
    assert answer.status == 502 or "error" in answer.last_event
    assert b"[DONE]" not in answer.body
    assert b"nonsense-canary" not in answer.body
    entry = await settled(gateway, key)
    assert entry["outcome"] in {"upstream_invalid", "upstream_died"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_redirect_is_never_followed(
    gateway: Gateway, upstream: Upstream, key: Key, status: int, stream: bool
) -> None:
    elsewhere = upstream.reply(wire.completion(usage=USAGE))
    location = f"http://127.0.0.1:{upstream.port}/v1/elsewhere?{elsewhere.marker}"
    before = len(upstream.requests)
    script = upstream.reply(b"", status, [("location", location)])
    answer = await gateway.chat(key, script, stream=stream)
    assert answer.status == 502
    assert answer.header("location") is None
    assert answer.error
    assert len(script.requests) == 1
    assert [request.line for request in upstream.requests[before:] if "elsewhere" in request.line] == []
    assert (await settled(gateway, key))["outcome"] in {"upstream_invalid", "upstream_refused"}


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "gzip, gzip"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_compressed_answer_is_refused(
    gateway: Gateway, upstream: Upstream, key: Key, stream: bool, encoding: str
) -> None:
    body = b"\x1f\x8b\x08\x00nonsense-canary"
    script = upstream.reply(body, headers=[("content-encoding", encoding)])
    answer = await gateway.chat(key, script, stream=stream)
    assert answer.status == 502
    assert b"nonsense-canary" not in answer.body
    assert (await settled(gateway, key))["outcome"] == "upstream_invalid"


HOSTILE_HEADS = [
    pytest.param(wire.head(200, [("x-large", "y" * 2**20)]), id="1 MB header"),
    pytest.param(wire.head(200, [(f"x-{number}", "y") for number in range(10_000)]), id="10000 headers"),
    pytest.param(wire.head(200, [("content-length", "2"), ("content-length", "3")]) + b"{}", id="two lengths"),
    pytest.param(wire.head(200, [("content-length", "-1")]) + b"{}", id="negative length"),
    pytest.param(wire.head(200, [("content-length", "x")]) + b"{}", id="no number"),
    pytest.param(b"SSH-2.0-OpenSSH_9.9\r\n\r\n", id="another protocol"),
    pytest.param(b"\x00\x01\x02\r\n\r\n", id="binary"),
    pytest.param(wire.head(200, [("transfer-encoding", "chunked")]) + b"xyz\r\n", id="bad chunk size"),
    pytest.param(wire.head(99, []), id="status 99"),
    pytest.param(wire.head(101, [("upgrade", "websocket"), ("connection", "upgrade")]), id="switching protocols"),
    pytest.param(wire.head(204), id="no content"),
    pytest.param(wire.head(304), id="not modified"),
]


@pytest.mark.parametrize("raw", HOSTILE_HEADS)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_hostile_head_is_a_502(
    gateway: Gateway, upstream: Upstream, key: Key, raw: bytes, stream: bool
) -> None:
    answer = await gateway.chat(key, upstream.script(Send(raw), Close()), stream=stream)
    assert answer.status == 502
    assert answer.error
    assert (await settled(gateway, key))["outcome"] in {"upstream_invalid", "upstream_died"}


async def test_an_early_hint_before_the_answer_is_skipped(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    hint = wire.head(103, [("link", "</style.css>; rel=preload")])
    body = wire.completion("after the hint", usage=USAGE)
    answer = await gateway.chat(key, upstream.script(Send(hint), Send(wire.reply(body))))
    assert answer.status == 200
    assert answer.json == body


async def test_bytes_after_the_end_reach_nobody(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    body = wire.completion("mine", usage=USAGE)
    stray = wire.reply(wire.completion("somebody else's", usage=USAGE))
    gate = Gate()
    script = upstream.script(Send(wire.reply(body) + stray), gate)
    answer = await gateway.chat(key, script)
    assert answer.body == wire.compact(body)
    again = await gateway.chat(key, upstream.reply(body))
    gate.open()
    assert again.body == wire.compact(body)
    assert script.request.connection != upstream.requests[-1].connection


async def test_a_connection_closed_while_idle_is_replaced(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    for _ in range(10):
        script = upstream.script(Send(wire.reply(wire.completion("once", usage=USAGE))), Close())
        assert (await gateway.chat(key, script)).status == 200
        await soon(script.request.played.is_set, "the close")


@pytest.mark.parametrize(
    ("model", "asked"), [("rig-chat", 1), ("rig-again", 2)], ids=["by default", "retry_unanswered"]
)
async def test_a_request_is_sent_twice_only_where_the_provider_row_says_so(
    gateway: Gateway, upstream: Upstream, key: Key, model: str, asked: int
) -> None:
    """The reused connection closes on the request without a byte of answer: nobody knows whether it was worked on."""
    warm = upstream.reply(wire.completion("warm", usage=USAGE))
    assert (await gateway.chat(key, warm, model=model)).status == 200
    script = upstream.answer_with(
        lambda request: (
            [Close()]
            if request.connection == warm.request.connection
            else [Send(wire.reply(wire.completion("again", usage=USAGE)))]
        )
    )
    answer = await gateway.chat(key, script, model=model)
    if script.requests[0].connection == warm.request.connection:
        assert len(script.requests) == asked
        assert answer.status == (200 if asked == 2 else 502)
    else:
        assert answer.status == 200  # the pool had a younger connection at hand; nothing broke


# Upstreams that refuse


@pytest.mark.parametrize("status", [400, 404, 408, 413, 422, 429, 500, 503, 529])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_refusal_passes_through_and_costs_nothing(
    gateway: Gateway, upstream: Upstream, key: Key, status: int, stream: bool
) -> None:
    body = {"error": {"message": "The upstream's reason.", "type": "theirs", "param": "messages", "code": "their_code"}}
    script = upstream.reply(body, status, [("retry-after-ms", "1500"), ("retry-after", "2")])
    answer = await gateway.chat(key, script, stream=stream)
    assert answer.status == (503 if status == 529 else status)
    assert answer.json["error"]["message"] == "The upstream's reason."
    assert answer.error["code"] == "their_code"
    if status in {429, 503}:
        assert (answer.header("retry-after-ms"), answer.header("retry-after")) == ("1500", "2")
    entry = await settled(gateway, key)
    assert (entry["cost_nano_usd"], entry["outcome"]) == (0, "upstream_refused")
    assert entry["request_id"] == answer.request_id


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "invalid_api_key"), (402, "payment_required"), (403, "forbidden"), (429, "insufficient_quota")],
)
async def test_what_concerns_the_operator_is_not_the_callers_business(
    gateway: Gateway, upstream: Upstream, key: Key, status: int, code: str
) -> None:
    message = f"Incorrect API key provided: {gateway.provider_key}. nonsense-canary"
    script = upstream.reply({"error": {"message": message, "type": "x", "param": None, "code": code}}, status)
    answer = await gateway.chat(key, script)
    assert answer.status == 502
    assert answer.error["code"] == "provider_unavailable"
    assert answer.header("x-should-retry") == "false"
    assert b"canary" not in answer.body
    assert (await settled(gateway, key))["cost_nano_usd"] == 0


@pytest.mark.parametrize("status", [400, 500])
async def test_a_refusal_that_quotes_the_provider_key_is_cleaned(
    gateway: Gateway, upstream: Upstream, key: Key, status: int
) -> None:
    text = f"Authorization: Bearer {gateway.provider_key} was refused"
    script = upstream.reply({"error": {"message": text, "type": "x", "param": None, "code": None}}, status)
    answer = await gateway.chat(key, script)
    assert gateway.provider_key not in str(answer)
    assert answer.error


@pytest.mark.parametrize("status", [400, 500, 503])
@pytest.mark.parametrize("body", [b"<html>nonsense-canary</html>", b"", b"null", b'"text"'])
async def test_a_refusal_without_openais_shape_gets_it(
    gateway: Gateway, upstream: Upstream, key: Key, status: int, body: bytes
) -> None:
    answer = await gateway.chat(key, upstream.script(Send(wire.reply(body, status, content_type="text/html"))))
    assert answer.status in {status, 502}
    assert answer.error["message"]
    assert b"<html" not in answer.body


async def test_a_dead_provider_is_a_502_and_costs_nothing(gateway: Gateway, key: Key) -> None:
    answer = await gateway.chat(key, None, model="rig-dead")
    assert answer.status == 502
    assert answer.error["code"]
    entry = await settled(gateway, key)
    assert (entry["outcome"], entry["cost_nano_usd"], entry["usage_source"]) == ("upstream_unreachable", 0, "none")


# Upstreams that are silent


@pytest.fixture(scope="module")
def black_hole() -> Iterator[int]:
    """A port that neither refuses nor accepts: its queue of connections is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        queued = [socket.socket() for _ in range(4)]
        for sock in queued:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        yield port
        for sock in queued:
            sock.close()


async def test_a_black_hole_is_given_up_within_the_connect_timeout(
    upstream: Upstream, black_hole: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    extra = catalog.provider("hole", f"http://127.0.0.1:{black_hole}/v1") + catalog.model("rig-hole", provider="hole")
    gateway = Gateway(
        tmp_path_factory.mktemp("hole"), upstream, models=extra, settings={"CONNECT_TIMEOUT_S": 0.5}
    ).start()
    try:
        key = gateway.new_key()
        answer = await gateway.chat(key, None, model="rig-hole")
        assert answer.status in {502, 504}
        assert answer.error
        entry = await settled(gateway, key)
        assert (entry["outcome"], entry["cost_nano_usd"]) == ("upstream_unreachable", 0)
        gateway.audit()
    finally:
        gateway.close()


SILENCES: dict[str, list[Action]] = {
    "after accept": [Stall()],
    "inside the head": [Send(b"HTTP/1.1 200 OK\r\ncontent-"), Stall()],
    "dripping head": [Send(b"HTTP/1.1 200 OK\r\n"), Drip(b"x-a: b\r\n", 0.1)],
}


@pytest.mark.parametrize("actions", SILENCES.values(), ids=SILENCES)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_silence_before_the_answer_is_a_504_that_pays_its_input(
    hasty: Gateway, upstream: Upstream, hasty_key: Key, actions: list[Action], stream: bool
) -> None:
    script = upstream.script(*actions)
    answer = await hasty.chat(hasty_key, script, stream=stream)
    assert answer.status == 504
    assert answer.error["code"]
    await soon(script.request.gone.is_set, "the end of the upstream call")
    entry = await settled(hasty, hasty_key)
    assert (entry["outcome"], entry["output_tokens"]) == ("upstream_timeout", 0)
    assert entry["cost_nano_usd"] == catalog.cost_nano_usd(estimated_input(prompt(script)), 0)


@pytest.mark.parametrize("end", [[Stall()], [Drip(wire.framed(b"x"), 0.1)]], ids=["silence", "dripping"])
async def test_a_json_answer_that_never_ends_is_a_504(
    hasty: Gateway, upstream: Upstream, hasty_key: Key, end: list[Action]
) -> None:
    head = wire.head(200, [("content-type", "application/json"), ("transfer-encoding", "chunked")])
    answer = await hasty.chat(hasty_key, upstream.script(Send(head + wire.framed(b'{"id":"')), *end))
    assert answer.status == 504
    entry = await settled(hasty, hasty_key)
    assert entry["outcome"] == "upstream_timeout"
    assert entry["cost_nano_usd"] > 0


_TEXT = wire.framed(wire.event(wire.chunk("word ")))


@pytest.mark.parametrize(
    "end",
    [
        pytest.param([Stall()], id="silence"),
        pytest.param([Drip(wire.framed(b": keep-alive\n\n"), 0.1)], id="comments for ever"),
        pytest.param([Drip(wire.framed(b"x"), 0.1)], id="an event that never ends"),
    ],
)
async def test_a_stream_past_its_deadline_ends_in_an_error_event_and_is_charged(
    hasty: Gateway, upstream: Upstream, hasty_key: Key, end: list[Action]
) -> None:
    script = upstream.script(Send(wire.stream_head() + _TEXT), *end)
    answer = await streamed(hasty, hasty_key, script)
    answer.assert_broken_off()
    delivered = answer.body.count(b"word ")
    entry = await settled(hasty, hasty_key)
    assert entry["outcome"] == "upstream_timeout"
    assert entry["output_tokens"] >= delivered >= 1
    assert entry["cost_nano_usd"] == cost_of(entry)
    await soon(script.request.gone.is_set, "the end of the upstream call")


async def test_whenever_a_stream_meets_its_deadline_it_is_told(
    hasty: Gateway, upstream: Upstream, hasty_key: Key
) -> None:
    """Streams begun at many moments of a second, so that they end at any phase of whatever ticks inside."""
    script = upstream.script(Send(wire.stream_head() + _TEXT), Drip(_TEXT, 0.05))

    async def one(number: int) -> None:
        await asyncio.sleep(number / 40)  # the moment is the subject
        (await streamed(hasty, hasty_key, script)).assert_broken_off()

    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(one(number))
    entries = hasty.entries(creator=hasty_key.creator)
    assert [entry["outcome"] for entry in entries] == ["upstream_timeout"] * 40


# Upstreams without measure


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
async def test_an_answer_above_the_bound_is_a_502(
    hasty: Gateway, upstream: Upstream, hasty_key: Key, is_chunked: bool
) -> None:
    body = wire.compact(wire.completion("x" * 2**21, usage=USAGE))
    head = wire.head(200, [("content-type", "application/json"), ("transfer-encoding", "chunked")])
    raw = head + wire.framed(body) + wire.LAST_CHUNK if is_chunked else wire.reply(body)
    answer = await hasty.chat(hasty_key, upstream.script(Send(raw)))
    assert answer.status == 502
    assert len(answer.body) < 10_000
    entry = await settled(hasty, hasty_key)
    assert entry["cost_nano_usd"] > 0


@pytest.mark.parametrize("size", [2**10, 2**19], ids=["many events", "large events"])
async def test_a_stream_above_the_bound_ends_in_an_error_event_and_is_charged(
    hasty: Gateway, upstream: Upstream, hasty_key: Key, size: int
) -> None:
    piece = wire.framed(wire.event(wire.chunk("y" * size)))
    answer = await streamed(hasty, hasty_key, upstream.script(Send(wire.stream_head()), Drip(piece, 0)))
    assert b"[DONE]" not in answer.body
    assert b'"error"' in answer.body[-2000:]
    assert len(answer.body) <= 2**20 + 2**18
    entry = await settled(hasty, hasty_key)
    assert entry["outcome"] in {"aborted", "upstream_invalid"}
    assert entry["output_tokens"] >= answer.body.count(b"y") // 4


async def test_thousands_of_one_byte_chunks_are_relayed(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    whole = b"".join([*wire.text_events("z" * 20_000), REPORTED, wire.DONE])
    raw = b"".join(b"1\r\n%c\r\n" % byte for byte in whole)
    script = upstream.script(Send(wire.stream_head()), Send(raw), Send(wire.LAST_CHUNK))
    answer = await streamed(gateway, key, script, stream_options={"include_usage": True})
    assert answer.body == whole


async def test_the_gateway_serves_others_while_upstreams_stall(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    gate = Gate()
    stalled = upstream.script(gate, Close())
    waiting = [await connect(gateway.port) for _ in range(20)]
    for connection in waiting:
        await connection.send(gateway.chat_request(key, stalled))
    await soon(lambda: len(stalled.requests) == 20, "20 stalled calls")
    async with asyncio.timeout(10):
        request = gateway.chat_request(key, upstream.reply(wire.completion("quick", usage=USAGE)))
        answer = await exchange(gateway.port, request)
    assert answer.status == 200
    gate.open()
    for connection in waiting:
        await connection.reset()
    gateway_side = [request.connection for request in stalled.requests]
    assert len(set(gateway_side)) == 20
