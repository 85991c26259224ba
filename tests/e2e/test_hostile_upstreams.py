"""Upstreams that report nonsense, quote secrets or break off: what was delivered is charged, and nothing leaks."""

from typing import Any

import pytest

from tests.rig import wire
from tests.rig.catalog import cost_nano_usd, estimated_input, estimated_output
from tests.rig.client import connect
from tests.rig.gateway import Gateway, Key, prompt
from tests.rig.upstream import Close, Gate, Reset, Send, Stall, Upstream
from tests.rig.waiting import soon

WORDS = [f"word {number} " for number in range(8)]
TEXT = "".join(WORDS)
NOTHING = wire.usage(0, 0)


async def settled(gateway: Gateway, key: Key) -> dict[str, Any]:
    """The key's only entry, whoever is still being served."""
    entries = await soon(lambda: gateway.entries(creator=key.creator), "a ledger entry")
    assert len(entries) == 1, entries
    return entries[0]


# What is reported


async def test_a_report_of_nothing_for_an_answer_that_speaks_is_estimated(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    script = upstream.reply(wire.completion(TEXT, usage=NOTHING))
    assert (await gateway.chat(key, script)).status == 200
    entry = await settled(gateway, key)
    assert (entry["usage_source"], entry["outcome"]) == ("estimated", "ok")
    assert "usage_refused" in entry["flags"]
    tokens = (estimated_input(prompt(script)), -(-len(TEXT) // 4))
    assert (entry["input_tokens"], entry["output_tokens"]) == tokens
    assert entry["cost_nano_usd"] == cost_nano_usd(*tokens)


async def test_a_report_of_nothing_for_a_stream_that_speaks_is_estimated(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    script = upstream.stream(*wire.text_events(*WORDS), wire.event(wire.usage_chunk(NOTHING)), wire.DONE)
    await gateway.streamed(key, script)
    entry = await settled(gateway, key)
    assert (entry["usage_source"], entry["outcome"]) == ("estimated", "ok")
    assert "usage_refused" in entry["flags"]
    tokens = (estimated_input(prompt(script)), estimated_output(*WORDS))
    assert (entry["input_tokens"], entry["output_tokens"]) == tokens
    assert entry["cost_nano_usd"] == cost_nano_usd(*tokens)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_report_of_nothing_for_an_answer_that_says_nothing_is_believed(
    gateway: Gateway, upstream: Upstream, key: Key, stream: bool
) -> None:
    if stream:
        script = upstream.stream(*wire.text_events(), wire.event(wire.usage_chunk(NOTHING)), wire.DONE)
    else:
        script = upstream.reply(wire.completion("", usage=NOTHING))
    assert (await gateway.chat(key, script, stream=stream)).status == 200
    entry = await settled(gateway, key)
    assert (entry["usage_source"], entry["cost_nano_usd"]) == ("provider", 0)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
async def test_a_report_of_input_without_output_is_believed(
    gateway: Gateway, upstream: Upstream, key: Key, stream: bool
) -> None:
    """Whoever counts the input has counted: not every word is billed (a refusal, a filter)."""
    usage = wire.usage(12, 0)
    if stream:
        script = upstream.stream(*wire.text_events(*WORDS), wire.event(wire.usage_chunk(usage)), wire.DONE)
    else:
        script = upstream.reply(wire.completion(TEXT, usage=usage))
    assert (await gateway.chat(key, script, stream=stream)).status == 200
    entry = await settled(gateway, key)
    assert (entry["usage_source"], entry["output_tokens"]) == ("provider", 0)
    assert entry["cost_nano_usd"] == cost_nano_usd(12, 0)


@pytest.mark.parametrize("prompt_tokens", [0, 1000], ids=["of nothing", "of the input"])
async def test_a_report_older_than_the_words_that_followed_counts_at_least_those(
    gateway: Gateway, upstream: Upstream, key: Key, prompt_tokens: int
) -> None:
    """Some providers count along, beginning with the first chunk; this one dies behind its words."""
    role = wire.event(wire.chunk("", role="assistant", extra={"usage": wire.usage(prompt_tokens, 0)}))
    texts = [wire.event(wire.chunk(text)) for text in WORDS]
    gate = Gate()
    script = upstream.script(Send(wire.stream_head() + wire.framed(b"".join([role, *texts]))), gate, Reset())
    stream = await gateway.open_stream(key, script)
    await stream.read_until(texts[-1])
    gate.open()
    (await stream.read_rest()).assert_broken_off()
    await stream.close()
    entry = await settled(gateway, key)
    assert (entry["usage_source"], entry["outcome"]) == ("provider_partial", "upstream_died")
    assert (entry["input_tokens"], entry["output_tokens"]) == (prompt_tokens, estimated_output(*WORDS))
    assert entry["cost_nano_usd"] == cost_nano_usd(prompt_tokens, estimated_output(*WORDS)) > 0


# Streams that break


async def test_a_stream_that_lacks_one_of_two_choices_is_no_success(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    events = wire.text_events("only one ")
    gate = Gate()
    script = upstream.script(Send(wire.stream_head() + wire.framed(b"".join(events))), gate, Reset())
    stream = await gateway.open_stream(key, script, n=2)
    await stream.read_until(events[-1])
    gate.open()
    (await stream.read_rest()).assert_broken_off()
    await stream.close()
    entry = await settled(gateway, key)
    assert entry["outcome"] == "upstream_died"
    assert entry["output_tokens"] == estimated_output("only one ")


async def test_a_stream_is_known_by_its_type_however_it_is_written(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    events = wire.text_events("a word ")
    head = wire.head(200, [("content-type", "Text/Event-Stream"), ("transfer-encoding", "chunked")])
    body = b"".join([*events, wire.event(wire.usage_chunk(wire.usage(9, 4))), wire.DONE])
    script = upstream.script(Send(head + wire.framed(body) + wire.LAST_CHUNK))
    answer = await gateway.streamed(key, script)
    assert answer.body == b"".join(events) + wire.DONE
    entry = await settled(gateway, key)
    assert (entry["outcome"], entry["cost_nano_usd"]) == ("ok", cost_nano_usd(9, 4))


# What a client may be told


QUOTES = {
    "another shape of error": lambda key: wire.event({"type": "failure", "detail": f"{key} was refused"}),
    "a delta": lambda key: wire.event(wire.chunk(f"the key is {key}, they say ")),
    "no JSON": lambda key: wire.event(f"upstream said: {key}"),
    "a comment": lambda key: f": {key}\n\n".encode(),
    "an event of its own": lambda key: f'event: failure\ndata: {{"message":"{key}"}}\n\n'.encode(),
    "behind the end": lambda key: wire.DONE + f": {key}\n\n".encode(),
}


@pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES)
async def test_no_event_of_a_stream_quotes_the_provider_key(
    gateway: Gateway, upstream: Upstream, key: Key, quote: Any
) -> None:
    start, end = wire.text_events("a word ", finish=None), wire.event(wire.chunk(finish="stop"))
    answer = await gateway.streamed(key, upstream.stream(*start, end, quote(gateway.provider_key), wire.DONE))
    assert gateway.provider_key.encode() not in answer.body
    assert answer.body.startswith(b"".join([*start, end]))
    assert b"[redacted]" in answer.body


async def test_a_provider_key_cut_in_two_writes_is_not_quoted_either(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    event = wire.event(wire.chunk(f"the key is {gateway.provider_key}, they say ", finish="stop"))
    middle = event.index(gateway.provider_key.encode()) + 9
    gate = Gate()
    script = upstream.script(
        Send(wire.stream_head() + wire.framed(event[:middle])),
        gate,
        Send(wire.framed(event[middle:] + wire.DONE) + wire.LAST_CHUNK),
    )
    connection = await connect(gateway.port)
    await connection.send(gateway.chat_request(key, script, stream=True))
    await soon(gate.is_reached.is_set, "half of the event")
    gate.open()
    await connection.read_head()
    answer = await connection.read_rest()
    await connection.close()
    assert answer.is_complete
    assert gateway.provider_key.encode() not in answer.body


async def test_a_provider_code_that_is_no_word_is_dropped(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    error = {"message": "The reason.", "type": "t" * 65, "param": "with\nlines", "code": "PROMPT " * 20_000}
    answer = await gateway.chat(key, upstream.reply({"error": error}, 400))
    assert answer.status == 400
    assert answer.error == {"message": "The reason.", "type": "upstream_error", "param": None, "code": None}
    entry = await settled(gateway, key)
    assert (entry["outcome"], entry["error"]) == ("upstream_refused", "upstream_error")


SENT = {
    "no answer": [Reset()],
    "half an answer": [Send(wire.reply(wire.completion(TEXT))[:-40]), Close()],
    "nonsense": [Send(wire.reply(b"<html>"))],
    "a bad head": [Send(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"), Close()],
}


@pytest.mark.parametrize("actions", SENT.values(), ids=SENT)
async def test_a_failure_behind_a_request_that_was_sent_is_not_to_be_retried(
    gateway: Gateway, upstream: Upstream, key: Key, actions: list[Any]
) -> None:
    """It may have cost something, and the SDKs repeat a 502 of their own accord."""
    answer = await gateway.chat(key, upstream.script(*actions))
    assert (answer.status, answer.header("x-should-retry")) == (502, "false")
    assert (await settled(gateway, key))["cost_nano_usd"] > 0


async def test_silence_behind_a_request_that_was_sent_is_not_to_be_retried(
    hasty: Gateway, upstream: Upstream, hasty_key: Key
) -> None:
    answer = await hasty.chat(hasty_key, upstream.script(Stall()))
    assert (answer.status, answer.header("x-should-retry")) == (504, "false")


async def test_a_refused_connection_may_be_retried(gateway: Gateway, key: Key) -> None:
    answer = await gateway.chat(key, None, model="rig-dead")
    assert (answer.status, answer.header("x-should-retry")) == (502, None)
    assert (await settled(gateway, key))["cost_nano_usd"] == 0


async def test_a_refusal_whose_client_leaves_before_its_end_costs_nothing(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    head = wire.head(429, [("content-type", "application/json"), ("content-length", "500")])
    gate = Gate()
    script = upstream.script(Send(head + b'{"error":'), gate)
    connection = await connect(gateway.port)
    await connection.send(gateway.chat_request(key, script, stream=True))
    await soon(gate.is_reached.is_set, "the beginning of the refusal")
    await connection.reset()
    entry = await settled(gateway, key)
    assert (entry["cost_nano_usd"], entry["usage_source"], entry["outcome"]) == (0, "none", "upstream_refused")
    await soon(script.request.gone.is_set, "the end of the upstream call")
