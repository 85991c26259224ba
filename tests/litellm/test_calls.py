"""Calls through litellm, from the client's bytes to the ledger: what is sent, what comes back, what it costs by hand."""

import asyncio
from typing import Any

import orjson
import pytest

from tests.litellm.parameters import recorded_parameters
from tests.litellm.world import (
    BEDROCK_STREAM_HEAD,
    CANVAS,
    COHERE,
    COHERE_EMBED,
    MISTRAL,
    NOBODY,
    NOVA,
    LibraryGateway,
    bedrock_end,
    bedrock_event,
    bedrock_text,
    cohere,
    converse,
)
from tests.rig import wire
from tests.rig.client import Answer
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Action, Close, Gate, Request, Reset, Script, Send, Stall, Upstream
from tests.rig.waiting import soon

CACHED_USAGE = {
    "inputTokens": 100,
    "outputTokens": 20,
    "totalTokens": 180,
    "cacheReadInputTokens": 40,
    "cacheWriteInputTokens": 20,
}
CACHED_NANO_USD = 100 * 800 + 40 * 200 + 20 * 1_000 + 20 * 3_200
PLAIN_USAGE = {"inputTokens": 30, "outputTokens": 7, "totalTokens": 37}
PLAIN_NANO_USD = 30 * 800 + 7 * 3_200
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def caller(library: LibraryGateway) -> Key:
    return library.new_key()


def events(answer: Answer) -> list[Any]:
    """The data of every event, `[DONE]` as the text it is."""
    assert answer.status == 200, answer
    payloads = [each.removeprefix(b"data: ") for each in answer.body.split(b"\n\n") if each]
    return [payload.decode() if payload == b"[DONE]" else orjson.loads(payload) for payload in payloads]


def said(parts: list[Any]) -> str:
    deltas = [choice["delta"] for part in parts if isinstance(part, dict) for choice in part.get("choices", ())]
    return "".join(delta.get("content") or "" for delta in deltas)


def finishes(parts: list[Any]) -> list[str]:
    choices = [choice for part in parts if isinstance(part, dict) for choice in part.get("choices", ())]
    return [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


def framed(*messages: bytes) -> list[Action]:
    return [Send(BEDROCK_STREAM_HEAD), *(Send(wire.framed(message)) for message in messages)]


def bedrock_stream(upstream: Upstream, *messages: bytes) -> Script:
    return upstream.script(*framed(*messages), Send(wire.LAST_CHUNK))


def assert_only_our_key(request: Request, gateway: Gateway) -> None:
    assert request.header_values("authorization") == [f"Bearer {gateway.provider_key}"]
    sent = repr((request.line, request.headers, request.body))
    assert "stray-canary" not in sent
    assert request.header("cookie") is None


# Bedrock: JSON and a binary stream


async def test_bedrock_is_asked_in_its_dialect_and_billed_by_its_report(
    library: LibraryGateway, upstream: Upstream, caller: Key
) -> None:
    script = upstream.reply(converse([{"text": "Hi"}], CACHED_USAGE), headers=[("x-amzn-requestid", "amzn-1")])
    answer = await library.chat(caller, script, model=NOVA, max_tokens=50, temperature=0.5, stop=["END"])
    assert answer.status == 200, answer
    body = answer.json
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "Hi"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens"] == 160
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 40, "cache_write_tokens": 20}
    assert answer.header("x-upstream-request-id") == "amzn-1"
    request = script.request
    assert request.line == "POST /model/amazon.nova-pro-v1%3A0/converse HTTP/1.1"
    assert request.json["inferenceConfig"] == {"maxTokens": 50, "temperature": 0.5, "stopSequences": ["END"]}
    assert_only_our_key(request, library)
    entry = library.entry(caller)
    assert entry["cost_nano_usd"] == CACHED_NANO_USD
    assert (entry["input_tokens"], entry["output_tokens"], entry["cached_input_tokens"]) == (160, 20, 40)
    assert (entry["outcome"], entry["usage_source"]) == ("ok", "provider")


@pytest.mark.parametrize("wants_usage", [True, False])
async def test_a_bedrock_stream_costs_what_the_whole_answer_does(
    library: LibraryGateway, upstream: Upstream, caller: Key, wants_usage: bool
) -> None:
    script = bedrock_stream(upstream, *bedrock_text("Hel", "lo"), *bedrock_end(CACHED_USAGE))
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    parts = events(await library.streamed(caller, script, model=NOVA, **options))
    assert said(parts) == "Hello"
    assert finishes(parts) == ["stop"]
    assert parts[-1] == "[DONE]"
    usages = [part["usage"] for part in parts[:-1] if part.get("usage")]
    assert [usage["prompt_tokens"] for usage in usages] == ([160] if wants_usage else [])
    entry = library.entry(caller)
    assert entry["cost_nano_usd"] == CACHED_NANO_USD
    assert entry["usage_source"] == "provider"


async def test_bedrock_tools_are_called_and_answered(library: LibraryGateway, upstream: Upstream, caller: Key) -> None:
    use = {"toolUse": {"toolUseId": "use-2", "name": "weather", "input": {"city": "Oslo"}}}
    script = upstream.reply(converse([use], PLAIN_USAGE, "tool_use"))
    first = {"id": "use-1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": script.marker},
        {"role": "assistant", "content": None, "tool_calls": [first]},
        {"role": "tool", "tool_call_id": "use-1", "content": "sunny"},
    ]
    answer = await library.chat(
        caller, model=NOVA, messages=messages, tools=[WEATHER], tool_choice="required", store=True, user="u"
    )
    assert answer.status == 200, answer
    choice = answer.json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert (call["id"], call["function"]["name"]) == ("use-2", "weather")
    assert orjson.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    sent = script.request.json
    assert sent["system"] == [{"text": "Be brief."}]
    assert sent["toolConfig"]["toolChoice"] == {"any": {}}
    assert sent["toolConfig"]["tools"][0]["toolSpec"]["name"] == "weather"
    assert sent["messages"][1]["content"] == [
        {"toolUse": {"toolUseId": "use-1", "name": "weather", "input": {"city": "Rome"}}}
    ]
    assert library.entry(caller)["cost_nano_usd"] == PLAIN_NANO_USD


async def test_a_streamed_tool_call_arrives_in_pieces(library: LibraryGateway, upstream: Upstream, caller: Key) -> None:
    start = {"toolUse": {"toolUseId": "use-1", "name": "weather"}}
    pieces = ['{"city"', ':"Oslo"}']
    script = bedrock_stream(
        upstream,
        bedrock_event("messageStart", {"role": "assistant"}),
        bedrock_event("contentBlockStart", {"contentBlockIndex": 0, "start": start}),
        *(
            bedrock_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"toolUse": {"input": piece}}})
            for piece in pieces
        ),
        *bedrock_end(PLAIN_USAGE, "tool_use"),
    )
    parts = events(await library.streamed(caller, script, model=NOVA, tools=[WEATHER]))
    calls = [
        call for part in parts[:-1] for choice in part["choices"] for call in choice["delta"].get("tool_calls", ())
    ]
    assert [call["id"] for call in calls if "id" in call] == ["use-1"]
    assert {call["index"] for call in calls} == {0}
    assert "".join(call["function"].get("arguments", "") for call in calls) == "".join(pieces)
    assert finishes(parts) == ["tool_calls"]
    assert library.entry(caller)["cost_nano_usd"] == PLAIN_NANO_USD


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        pytest.param(400, {"message": "bad temperature"}, "invalid_value", id="400"),
        pytest.param(
            400, {"message": "Input is too long for requested model."}, "context_length_exceeded", id="length"
        ),
        pytest.param(404, {"message": "no such model"}, "model_not_found", id="404"),
        pytest.param(429, {"message": "Too many requests"}, "rate_limit_exceeded", id="429"),
        pytest.param(500, {"message": "sorry"}, None, id="500"),
        pytest.param(503, {"message": "busy"}, None, id="503"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_keeps_its_status_and_costs_nothing(
    library: LibraryGateway,
    upstream: Upstream,
    caller: Key,
    status: int,
    body: dict[str, str],
    code: str | None,
    stream: bool,
) -> None:
    script = upstream.reply(body, status, [("retry-after", "7")])
    answer = await library.chat(caller, script, model=NOVA, stream=stream or None)
    assert answer.status == status, answer
    assert body["message"] in answer.error["message"]
    assert "litellm" not in answer.body.decode().lower()
    assert code is None or answer.error["code"] == code
    assert answer.header("retry-after") == "7"
    assert len(script.requests) == 1
    entry = library.entry(caller)
    assert (entry["cost_nano_usd"], entry["outcome"]) == (0, "upstream_refused")


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_what_concerns_the_operator_is_not_told_to_the_client(
    library: LibraryGateway, upstream: Upstream, caller: Key, status: int
) -> None:
    script = upstream.reply({"message": f"the key {library.provider_key} is not welcome"}, status)
    answer = await library.chat(caller, script, model=NOVA)
    assert (answer.status, answer.error["code"]) == (502, "provider_unavailable")
    assert library.provider_key not in answer.body.decode()


async def test_a_key_in_a_refusal_is_removed(library: LibraryGateway, upstream: Upstream, caller: Key) -> None:
    answer = await library.chat(
        caller, upstream.reply({"message": f"{library.provider_key} may not do this"}, 400), model=NOVA
    )
    assert answer.status == 400
    assert "may not do this" in answer.error["message"]
    assert library.provider_key not in answer.body.decode()


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param([Close()], id="closed"),
        pytest.param([Reset()], id="reset"),
        pytest.param([Send(wire.LAST_CHUNK)], id="unfinished"),
        pytest.param([Stall()], id="silent"),
    ],
)
async def test_a_stream_that_dies_is_told_and_billed_by_what_was_said(
    library: LibraryGateway, upstream: Upstream, caller: Key, ending: list[Action]
) -> None:
    """litellm would close it with a finish reason of its own, and with tokens it counted itself."""
    script = upstream.script(*framed(*bedrock_text("Hello ", "there")), *ending)
    answer = await library.chat(caller, script, model=NOVA, stream=True)
    answer.assert_broken_off()
    parts = events(answer)
    assert said(parts) == "Hello there"
    assert finishes(parts) == []
    assert len(script.requests) == 1, "a broken request was sent again"
    entry = library.entry(caller)
    prompt_bytes = len(script.request.json["messages"][0]["content"][0]["text"].encode())
    assert entry["usage_source"] == "estimated"
    assert entry["cost_nano_usd"] == -(-prompt_bytes // 4) * 800 + 3 * 3_200


async def test_an_error_inside_a_stream_is_an_event(library: LibraryGateway, upstream: Upstream, caller: Key) -> None:
    throttled = bedrock_event("throttlingException", {"message": "slow down"}, kind="exception")
    answer = await library.chat(
        caller, bedrock_stream(upstream, *bedrock_text("Hel"), throttled), model=NOVA, stream=True
    )
    answer.assert_broken_off()
    assert answer.last_event["error"]["message"] == "slow down"
    assert library.entry(caller)["outcome"] == "upstream_error"


@pytest.mark.parametrize("ending", [pytest.param([Reset()], id="reset"), pytest.param([Close()], id="closed")])
@pytest.mark.parametrize("model", [NOVA, MISTRAL, COHERE])
async def test_a_request_whose_connection_breaks_is_sent_once(
    library: LibraryGateway, upstream: Upstream, caller: Key, model: str, ending: list[Action]
) -> None:
    """litellm's own client would send it again, and it would be paid twice."""
    script = upstream.script(*ending)
    answer = await library.chat(caller, script, model=model)
    assert (answer.status, answer.error["code"]) == (502, "upstream_died")
    assert len(script.requests) == 1
    assert library.entry(caller)["usage_source"] == "estimated"


async def test_a_silent_provider_is_given_up(library: LibraryGateway, upstream: Upstream, caller: Key) -> None:
    script = upstream.script(Stall())
    answer = await library.chat(caller, script, model=NOVA)
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert await soon(script.request.gone.is_set, "the end of the connection")


async def test_a_redirect_is_not_followed(library: LibraryGateway, upstream: Upstream, caller: Key) -> None:
    target = upstream.reply(cohere("never", input_tokens=1, output_tokens=1))
    away = f"http://127.0.0.1:{upstream.port}/elsewhere?{target.marker}"
    script = upstream.reply({}, 307, [("location", away)])
    answer = await library.chat(caller, script, model=COHERE)
    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid")
    assert len(script.requests) == 1


async def test_a_client_that_leaves_ends_the_upstreams_stream(
    library: LibraryGateway, upstream: Upstream, caller: Key
) -> None:
    gate = Gate()
    script = upstream.script(*framed(*bedrock_text("Hello ", "there")), gate, Send(wire.LAST_CHUNK))
    connection = await library.open_stream(caller, script, model=NOVA)
    await connection.read_until(b"there")
    await connection.reset()
    assert await soon(script.request.gone.is_set, "the end of the upstream's connection")
    entry = await asyncio.to_thread(library.entry, caller)
    assert entry["outcome"] == "client_gone"
    assert entry["output_tokens"] == 3


# Mistral: OpenAI's shape through another client of the library


async def test_mistral_streams_usage_on_its_last_chunk(
    library: LibraryGateway, upstream: Upstream, caller: Key
) -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16}
    last = wire.chunk("", finish="stop", extra={"usage": usage})
    script = upstream.stream(*wire.text_events("Bon", "jour", finish=None), wire.event(last), wire.DONE)
    parts = events(await library.streamed(caller, script, model=MISTRAL, stream_options={"include_usage": True}))
    assert said(parts) == "Bonjour"
    assert finishes(parts) == ["stop"]
    assert [part["usage"]["prompt_tokens"] for part in parts[:-1] if part.get("usage")] == [12]
    assert script.request.line == "POST /v1/chat/completions HTTP/1.1"
    assert_only_our_key(script.request, library)
    assert library.entry(caller)["cost_nano_usd"] == 12 * 800 + 4 * 3_200


async def test_usage_in_an_event_of_its_own_counts_too(
    library: LibraryGateway, upstream: Upstream, caller: Key
) -> None:
    script = upstream.stream(*wire.text_events("a"), wire.event(wire.usage_chunk(wire.usage(9, 3))), wire.DONE)
    await library.streamed(caller, script, model=MISTRAL)
    assert library.entry(caller)["cost_nano_usd"] == 9 * 800 + 3 * 3_200


async def test_a_stream_without_usage_is_estimated_not_counted_by_the_library(
    library: LibraryGateway, upstream: Upstream, caller: Key
) -> None:
    script = upstream.stream(*wire.text_events("four", "more"), wire.DONE)
    parts = events(await library.streamed(caller, script, model=MISTRAL, stream_options={"include_usage": True}))
    assert not any(part.get("usage") for part in parts[:-1])
    entry = library.entry(caller)
    assert (entry["usage_source"], entry["output_tokens"]) == ("estimated", 2)


async def test_mistral_tools_and_schema_travel(library: LibraryGateway, upstream: Upstream, caller: Key) -> None:
    call = {"id": "D681PevKs", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    script = upstream.reply(
        wire.completion("", finish="tool_calls", tool_calls=[call], usage=wire.usage(20, 5, cached=8))
    )
    answer = await library.chat(
        caller, script, model=MISTRAL, tools=[WEATHER], tool_choice="auto", response_format={"type": "json_object"}
    )
    assert answer.status == 200, answer
    assert answer.json["choices"][0]["message"]["tool_calls"] == [call]
    sent = script.request.json
    assert sent["tools"][0]["function"]["name"] == "weather"
    assert sent["response_format"] == {"type": "json_object"}
    assert library.entry(caller)["cost_nano_usd"] == 12 * 800 + 8 * 200 + 5 * 3_200


# Cohere, and the other endpoints


async def test_cohere_is_billed_by_its_tokens(library: LibraryGateway, upstream: Upstream, caller: Key) -> None:
    script = upstream.reply(cohere("Yo", input_tokens=11, output_tokens=3))
    answer = await library.chat(caller, script, model=COHERE, max_tokens=20)
    assert answer.json["choices"][0]["message"]["content"] == "Yo"
    assert script.request.line == "POST /v2/chat HTTP/1.1"
    assert script.request.json["max_tokens"] == 20
    assert_only_our_key(script.request, library)
    assert library.entry(caller)["cost_nano_usd"] == 11 * 800 + 3 * 3_200


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_vectors_come_as_they_were_asked_for(
    library: LibraryGateway, upstream: Upstream, caller: Key, encoding: str
) -> None:
    script = upstream.reply(
        {"id": "x", "embeddings": {"float": [[0.5, 0.25], [1, 2]]}, "meta": {"billed_units": {"input_tokens": 4}}}
    )
    body = {"model": COHERE_EMBED, "input": [f"a {script.marker}", "b"], "encoding_format": encoding}
    answer = await library.post(caller, body, path="/v1/embeddings")
    assert answer.status == 200, answer
    vectors = [item["embedding"] for item in answer.json["data"]]
    assert vectors == ([[0.5, 0.25], [1, 2]] if encoding == "float" else ["AAAAPwAAgD4=", "AACAPwAAAEA="])
    assert_only_our_key(script.request, library)
    assert library.entry(caller)["cost_nano_usd"] == 4 * 120


async def test_a_picture_is_made_and_paid_by_the_piece(
    library: LibraryGateway, upstream: Upstream, caller: Key
) -> None:
    script = upstream.reply({"images": ["aGVsbG8="]})
    body = {"model": CANVAS, "prompt": f"a {script.marker}", "n": 1}
    answer = await library.post(caller, body, path="/v1/images/generations")
    assert answer.status == 200, answer
    assert answer.json["data"] == [{"b64_json": "aGVsbG8="}]
    assert script.request.line == "POST /model/amazon.nova-canvas-v1:0/invoke HTTP/1.1"
    assert_only_our_key(script.request, library)
    assert library.entry(caller)["cost_nano_usd"] == 40_000_000


# What cannot be asked


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"top_k": 5}, id="unknown"),
        pytest.param({"logit_bias": {"1": 2}}, id="unsupported"),
        pytest.param({"n": 2}, id="choices"),
        pytest.param({"thinking": {"type": "enabled"}}, id="thinking"),
    ],
)
async def test_a_field_that_would_be_lost_is_refused_before_anything_is_sent(
    library: LibraryGateway, upstream: Upstream, caller: Key, fields: dict[str, object]
) -> None:
    script = upstream.reply(converse([{"text": "Hi"}], PLAIN_USAGE))
    answer = await library.chat(caller, script, model=NOVA, **fields)
    assert answer.status == 400, answer
    assert answer.error["param"] == next(iter(fields))
    assert script.requests == []
    assert library.entry(caller)["cost_nano_usd"] == 0


@pytest.mark.parametrize(
    "part",
    [
        pytest.param({"type": "image_url", "image_url": {"url": "http://127.0.0.1:%d/x.png"}}, id="picture"),
        pytest.param({"type": "image_url", "image_url": "http://127.0.0.1:%d/x.png"}, id="bare"),
        pytest.param({"type": "file", "file": {"file_id": "http://127.0.0.1:%d/x.pdf"}}, id="file id"),
        pytest.param({"type": "file", "file": {"file_data": "http://127.0.0.1:%d/x.pdf"}}, id="file"),
        pytest.param(
            {"type": "input_audio", "input_audio": {"data": "http://127.0.0.1:%d/x", "format": "wav"}}, id="sound"
        ),
        pytest.param({"type": "video_url", "video_url": {"url": "http://127.0.0.1:%d/x"}}, id="video"),
        pytest.param({"type": "image", "source": {"type": "url", "url": "http://127.0.0.1:%d/x"}}, id="anthropic"),
    ],
)
async def test_nothing_is_fetched_for_content(
    library: LibraryGateway, upstream: Upstream, caller: Key, part: dict[str, object]
) -> None:
    script = upstream.reply(converse([{"text": "Hi"}], PLAIN_USAGE))
    named = orjson.loads(orjson.dumps(part).replace(b"%d", str(upstream.port).encode()))
    before = upstream.connections
    content = [{"type": "text", "text": script.marker}, named]
    answer = await library.chat(caller, model=NOVA, messages=[{"role": "user", "content": content}])
    assert answer.status == 400, answer
    assert upstream.connections == before


async def test_a_provider_the_library_does_not_have_is_the_operators_to_mend(
    library: LibraryGateway, upstream: Upstream, caller: Key
) -> None:
    before = upstream.connections
    for _ in range(2):
        answer = await library.chat(caller, model=NOBODY)
        assert (answer.status, answer.error["code"]) == (502, "upstream_invalid")
    assert upstream.connections == before
    logged = await soon(lambda: library.log_lines("litellm_unusable"), "a log line")
    assert [(line["provider"], line["level"]) for line in logged] == [("nobody", "error")]


OPENAIS = frozenset(
    """
    frequency_penalty logit_bias logprobs max_completion_tokens max_tokens messages metadata modalities model n
    parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_cache_retention reasoning_effort
    response_format safety_identifier seed service_tier stop store stream stream_options temperature tool_choice tools
    top_logprobs top_p user verbosity
    """.split()
)


async def test_no_parameter_of_the_library_reaches_it(library: LibraryGateway, upstream: Upstream, caller: Key) -> None:
    """As a field of the body, with a host and a key of the client's choice."""
    canary = Upstream()
    try:
        value = f"http://127.0.0.1:{canary.port}/sk-steering-canary"
        script = upstream.reply(converse([{"text": "Hi"}], PLAIN_USAGE))
        passed = set()
        for name in recorded_parameters():
            if name not in ("model", "messages"):
                answer = await library.chat(caller, script, model=NOVA, **{name: value})
                assert answer.status in (200, 400), (name, answer)
                passed |= {name} if answer.status == 200 else set()
        assert passed
        assert passed <= OPENAIS
        for request in script.requests:
            assert_only_our_key(request, library)
            assert "sk-steering-canary" not in repr((request.line, request.headers))
        assert canary.connections == 0
    finally:
        canary.close()
