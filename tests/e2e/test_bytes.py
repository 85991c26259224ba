"""What passes through is what was sent: bodies byte for byte, headers by allow-list, in both directions."""

import asyncio
import itertools
import json
import random
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.catalog import OUTPUT_TOKENS_MAX
from tests.rig.gateway import CHAT, Gateway, Key, chat_body, prompt
from tests.rig.upstream import Pause, Send, Upstream

USAGE = wire.usage(11, 3)
ASKED = {"include_usage": True}
UPSTREAM_HEADERS = {
    "host",
    "authorization",
    "content-type",
    "content-length",
    "accept",
    "accept-encoding",
    "user-agent",
    "connection",
    "x-request-id",
    "x-client-request-id",
}
ANSWER_HEADERS_OF_THE_SERVER = {"date", "server", "connection", "content-length", "transfer-encoding"}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(wire.compact(wire.completion("Grüße 🌍", usage=USAGE)), id="compact"),
        pytest.param(json.dumps(wire.completion("Grüße", usage=USAGE), indent=3).encode() + b"\n\n", id="indented"),
        pytest.param(
            wire.compact({**wire.completion("x", usage=USAGE), "vendor": {"big": 2**70, "small": 1e-30}, "": None}),
            id="unknown fields",
        ),
        pytest.param(
            wire.compact(wire.completion("x", usage=USAGE)).replace(b'"x"', b'"\\u0000\\ud83c\\udf0d\\/"'), id="escapes"
        ),
        pytest.param(wire.compact(wire.completion("long " * 100_000, usage=USAGE)), id="half a megabyte"),
    ],
)
async def test_a_json_answer_reaches_the_client_byte_for_byte(
    gateway: Gateway, upstream: Upstream, key: Key, body: bytes
) -> None:
    answer = await gateway.chat(key, upstream.reply(body))
    assert answer.status == 200
    assert answer.body == body
    assert answer.header("content-type") == "application/json"
    assert gateway.entry(key)["output_tokens"] == 3


async def test_a_stream_is_relayed_whole_when_the_caller_asked_for_usage(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    events = [*wire.text_events("Hal", "lo"), wire.event(wire.usage_chunk(USAGE)), wire.DONE]
    answer = await gateway.streamed(key, upstream.stream(*events), stream_options=ASKED)
    assert answer.body == b"".join(events)


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}])
async def test_only_the_usage_event_we_asked_for_is_stripped(
    gateway: Gateway, upstream: Upstream, key: Key, options: object
) -> None:
    null_usage = wire.event(wire.chunk("x", extra={"usage": None}))
    events = [*wire.text_events("Hal", "lo"), null_usage]
    script = upstream.stream(*events, wire.event(wire.usage_chunk(USAGE)), wire.DONE)
    answer = await gateway.streamed(key, script, stream_options=options)
    assert answer.body == b"".join(events) + wire.DONE
    assert script.request.json["stream_options"]["include_usage"] is True
    entry = gateway.entry(key)
    assert (entry["input_tokens"], entry["output_tokens"], entry["usage_source"]) == (11, 3, "provider")


async def test_a_chunk_with_usage_and_choices_stays(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    events = [*wire.text_events("a", finish=None), wire.event(wire.chunk(finish="stop", extra={"usage": USAGE}))]
    answer = await gateway.streamed(key, upstream.stream(*events, wire.DONE))
    assert answer.body == b"".join(events) + wire.DONE


async def test_an_empty_choices_chunk_without_usage_stays(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    filters = wire.event({**wire.chunk(), "choices": [], "prompt_filter_results": [], "usage": None})
    events = [filters, *wire.text_events("a")]
    answer = await gateway.streamed(key, upstream.stream(*events, wire.event(wire.usage_chunk(USAGE)), wire.DONE))
    assert answer.body == b"".join(events) + wire.DONE


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b": keep-alive\n\n", b":\n\n"], id="comments"),
        pytest.param([b'data:{"choices":[{"index":0,"delta":{"content":"z"}}]}\n\n'], id="no space after the colon"),
        pytest.param([b'event: ping\nid: 7\nretry: 10\ndata: {"choices":[]}\n\n'], id="other fields"),
        pytest.param([b'data: {"choices":\ndata: []}\n\n'], id="data over two lines"),
        pytest.param([b'data: {"choices":[],"x":"\xff\xfe"}\n\n'], id="invalid UTF-8"),
        pytest.param([b"data: {not json\n\n"], id="no JSON"),
        pytest.param([b'data: {"choices":[],"x":"' + b"y" * 200_000 + b'"}\n\n'], id="a large event"),
    ],
)
async def test_odd_events_pass_unchanged(gateway: Gateway, upstream: Upstream, key: Key, pieces: list[bytes]) -> None:
    role, text, finish = wire.text_events("a")
    events = [role, text, *pieces, finish]
    answer = await gateway.streamed(key, upstream.stream(*events, wire.event(wire.usage_chunk(USAGE)), wire.DONE))
    assert answer.body == b"".join(events) + wire.DONE
    assert gateway.entry(key)["usage_source"] == "provider"


@pytest.mark.parametrize("newline", [b"\r\n", b"\r"], ids=["CRLF", "CR"])
async def test_other_line_ends_pass_unchanged_and_are_metered(
    gateway: Gateway, upstream: Upstream, key: Key, newline: bytes
) -> None:
    events = [event.replace(b"\n", newline) for event in wire.text_events("a", "b")]
    last = [event.replace(b"\n", newline) for event in (wire.event(wire.usage_chunk(USAGE)), wire.DONE)]
    answer = await gateway.streamed(key, upstream.stream(*events, *last))
    assert answer.body == b"".join(events) + last[-1]
    assert gateway.entry(key)["usage_source"] == "provider"


@pytest.mark.parametrize("options", [None, ASKED], ids=["injected", "asked"])
async def test_cuts_inside_a_stream_change_nothing(
    gateway: Gateway, upstream: Upstream, key: Key, options: object
) -> None:
    """Each call cuts the same stream elsewhere: inside UTF-8, inside `data:`, inside the usage object."""
    events = wire.text_events("Grüße", "🌍")
    usage = wire.event(wire.usage_chunk(USAGE))
    whole = b"".join([*events, usage, wire.DONE])
    expected = whole if options else b"".join([*events, wire.DONE])
    cuts = [(cut,) for cut in range(1, len(whole), 9)]
    cuts += [tuple(sorted(random.Random(seed).sample(range(1, len(whole)), 40))) for seed in range(5)]
    for cut in cuts:
        ends = [0, *cut, len(whole)]
        pieces = [whole[start:end] for start, end in itertools.pairwise(ends)]
        sends: list[Any] = [Send(wire.stream_head())]
        for piece in pieces:
            sends += [Send(wire.framed(piece)), Pause(0)]
        script = upstream.script(*sends, Send(wire.LAST_CHUNK))
        answer = await gateway.streamed(key, script, stream_options=options)
        assert answer.body == expected, f"cut at {cut}"
    entries = gateway.entries(creator=key.creator)
    assert {(entry["input_tokens"], entry["output_tokens"]) for entry in entries} == {(11, 3)}
    assert len(entries) == len(cuts)


async def test_a_stream_of_single_bytes_is_relayed_whole(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    whole = b"".join([*wire.text_events("Hal"), wire.event(wire.usage_chunk(USAGE)), wire.DONE])
    sends = [Send(wire.framed(bytes([byte]))) for byte in whole]
    script = upstream.script(Send(wire.stream_head()), *sends, Send(wire.LAST_CHUNK))
    answer = await gateway.streamed(key, script, stream_options=ASKED)
    assert answer.body == whole


async def test_a_provider_that_always_reports_usage_is_not_asked_and_not_stripped(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    events = [*wire.text_events("a"), wire.event(wire.usage_chunk(USAGE)), wire.DONE]
    script = upstream.stream(*events)
    answer = await gateway.streamed(key, script, model="rig-always")
    assert answer.body == b"".join(events)
    assert "stream_options" not in script.request.json
    assert gateway.entry(key)["usage_source"] == "provider"


async def test_a_provider_without_stream_usage_is_not_asked(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    script = upstream.stream(*wire.text_events("four"), wire.DONE)
    await gateway.streamed(key, script, model="rig-never")
    assert "stream_options" not in script.request.json
    assert gateway.entry(key)["usage_source"] == "estimated"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(
            {"temperature": 0.1, "top_p": 1e-7, "seed": 2**53 + 1, "logit_bias": {"50256": -100}}, id="numbers"
        ),
        pytest.param({"max_tokens": 17, "stop": ["\n", "ü"], "user": "somebody"}, id="usual fields"),
        pytest.param({"max_completion_tokens": 17, "reasoning_effort": "low"}, id="reasoning"),
        pytest.param({"vendor_option": {"nested": [1, None, {"deep": True}]}, "service_tier": "default"}, id="unknown"),
        pytest.param(
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object"}}}
                ],
                "tool_choice": {"type": "function", "function": {"name": "f"}},
                "parallel_tool_calls": False,
            },
            id="tools",
        ),
        pytest.param({"response_format": {"type": "json_object"}}, id="response format"),
    ],
)
async def test_the_upstream_gets_the_same_json_under_its_own_model_name(
    gateway: Gateway, upstream: Upstream, key: Key, fields: dict[str, object]
) -> None:
    script = upstream.reply(wire.completion(usage=USAGE))
    assert (await gateway.chat(key, script, **fields)).status == 200
    assert script.request.json == {**chat_body(script, **fields), "model": "upstream-chat"}
    assert script.request.line == "POST /v1/chat/completions HTTP/1.1"


async def test_a_streamed_request_only_gains_the_usage_option(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    script = upstream.stream(*wire.text_events("a"), wire.event(wire.usage_chunk(USAGE)), wire.DONE)
    options = {"include_obfuscation": False}
    await gateway.streamed(key, script, stream_options=options, temperature=0.5)
    assert script.request.json == {
        **chat_body(script, stream=True, temperature=0.5),
        "model": "upstream-chat",
        "stream_options": {**options, "include_usage": True},
    }


async def test_the_last_of_two_equal_keys_is_checked_and_sent(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    script = upstream.reply(wire.completion(usage=USAGE))
    body = wire.compact(chat_body(script)).replace(b'"model":', b'"model":"rig-nowhere","model":')
    assert (await gateway.post(key, body)).status == 200
    assert script.request.body.count(b'"model"') == 1
    assert script.request.json["model"] == "upstream-chat"


async def test_max_tokens_above_the_models_cap_is_lowered_to_it(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    script = upstream.reply(wire.completion(usage=USAGE))
    assert (await gateway.chat(key, script, max_tokens=10**9)).status == 200
    assert script.request.json["max_tokens"] == OUTPUT_TOKENS_MAX


async def test_only_named_headers_go_upstream_and_the_provider_key_replaces_ours(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    script = upstream.reply(wire.completion(usage=USAGE))
    sent = [
        ("cookie", "session=1"),
        ("x-forwarded-for", "9.9.9.9"),
        ("openai-organization", "org-of-the-caller"),
        ("openai-project", "project-of-the-caller"),
        ("x-stainless-lang", "python"),
        ("x-api-key", key.key),
        ("x-request-id", "chosen-by-the-caller"),
        ("accept-encoding", "gzip, deflate, br"),
        ("proxy-authorization", "Basic eDp5"),
        ("x-gateway-feature", "search"),
        ("x-custom", "1"),
        ("te", "trailers"),
    ]
    assert (await gateway.post(key, chat_body(script), sent)).status == 200
    request = script.request
    assert {name.lower() for name, _ in request.headers} <= UPSTREAM_HEADERS
    assert request.header_values("authorization") == [f"Bearer {gateway.provider_key}"]
    assert request.header_values("accept-encoding") == ["identity"]
    assert request.header("content-type") == "application/json"
    for text in (key.key, key.creator, "9.9.9.9", "chosen-by-the-caller"):
        assert text not in str(request.headers)
        assert text.encode() not in request.body


@pytest.mark.parametrize("is_streaming", [False, True], ids=["json", "stream"])
async def test_only_named_headers_come_back(gateway: Gateway, upstream: Upstream, key: Key, is_streaming: bool) -> None:
    theirs = [
        ("set-cookie", "a=b"),
        ("openai-organization", "org-of-the-operator"),
        ("openai-processing-ms", "12"),
        ("x-ratelimit-remaining-requests", "31415"),
        ("x-request-id", "theirs"),
        ("x-powered-by", "somebody"),
        ("alt-svc", 'h3=":443"'),
        ("access-control-allow-origin", "*"),
        ("strict-transport-security", "max-age=1"),
        ("keep-alive", "timeout=5"),
    ]
    if is_streaming:
        events = [*wire.text_events("a"), wire.event(wire.usage_chunk(USAGE)), wire.DONE]
        answer = await gateway.streamed(key, upstream.stream(*events, headers=theirs))
    else:
        answer = await gateway.chat(key, upstream.reply(wire.completion(usage=USAGE), headers=theirs))
    unexpected = {
        name
        for name in answer.header_names - ANSWER_HEADERS_OF_THE_SERVER
        if not name.startswith(("x-gateway-", "x-ratelimit-", "x-request-id", "content-type", "cache-control"))
    }
    assert unexpected <= {"x-accel-buffering", "openai-processing-ms", "openai-version", "x-upstream-request-id"}
    assert answer.header("x-request-id") != "theirs"
    assert answer.header("x-ratelimit-remaining-requests") != "31415"
    assert gateway.provider_key not in str(answer)


async def test_an_answer_says_who_served_it_and_what_it_cost(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    answer = await gateway.chat(key, upstream.reply(wire.completion(usage=USAGE)))
    entry = gateway.entry(key)
    assert entry["request_id"] == answer.request_id
    assert answer.header("x-gateway-model") == "rig-chat"
    assert answer.header("x-gateway-provider") == "rig"
    assert answer.header("x-gateway-cost-usd") is not None
    assert float(answer.header("x-gateway-cost-usd") or 0) * 1e9 == pytest.approx(entry["cost_nano_usd"])
    for name in ("limit", "remaining", "reset"):
        assert answer.header(f"x-ratelimit-{name}-requests"), name


async def test_a_stream_says_that_nobody_may_buffer_it(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    answer = await gateway.streamed(key, upstream.stream(*wire.text_events("a"), wire.DONE))
    assert (answer.header("content-type") or "").startswith("text/event-stream")
    assert "no-cache" in (answer.header("cache-control") or "")
    assert answer.header("x-accel-buffering") == "no"
    assert answer.header("content-length") is None


async def test_attribution_in_metadata_is_booked_and_not_forwarded(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    script = upstream.reply(wire.completion(usage=USAGE))
    metadata = {"feature": "search", "agent": "scout", "tags": "a,b", "order": "17"}
    assert (await gateway.chat(key, script, metadata=metadata)).status == 200
    assert script.request.json["metadata"] == {"order": "17"}
    entry = gateway.entry(key)
    assert (entry["feature"], entry["agent"]) == ("search", "scout")


async def test_metadata_emptied_by_us_is_dropped(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    script = upstream.reply(wire.completion(usage=USAGE))
    assert (await gateway.chat(key, script, metadata={"feature": "search"})).status == 200
    assert "metadata" not in script.request.json


async def test_attribution_in_headers_is_booked_on_the_keys_creator(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    """Whatever the caller says about itself, the creator comes from the key."""
    script = upstream.reply(wire.completion(usage=USAGE))
    headers = [("x-gateway-feature", "chat"), ("x-gateway-agent", "guide")]
    body = {**chat_body(script), "user": "somebody-else", "metadata": {"creator": "somebody-else"}}
    assert (await gateway.post(key, body, headers)).status == 200
    entry = gateway.entry(key)
    assert (entry["feature"], entry["agent"], entry["creator"]) == ("chat", "guide", key.creator)


async def test_a_query_string_changes_nothing(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    script = upstream.reply(wire.completion(usage=USAGE))
    answer = await gateway.post(key, chat_body(script), path=f"{CHAT}?api-version=2026-01-01&key=x")
    assert answer.status == 200
    assert script.request.line == "POST /v1/chat/completions HTTP/1.1"


@pytest.mark.parametrize("header", ["x-api-key", "api-key"])
async def test_a_virtual_key_is_accepted_in_other_headers(
    gateway: Gateway, upstream: Upstream, key: Key, header: str
) -> None:
    script = upstream.reply(wire.completion(usage=USAGE))
    assert (await gateway.post(None, chat_body(script), [(header, key.key)])).status == 200


async def test_parallel_calls_never_mix(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    """Streams and whole answers, ended in every way, over shared connections: each client sees only its own words."""

    async def one(number: int) -> None:
        word = f"canary-{number:04d}-"
        if number % 3 == 0:
            script = upstream.reply(wire.completion(word * 50, usage=USAGE))
            body = (await gateway.chat(key, script)).body
        elif number % 3 == 1:
            script = upstream.stream(*wire.text_events(*[word] * 20), wire.DONE)
            body = (await gateway.streamed(key, script)).body
        else:
            script = upstream.stream(*wire.text_events(*[word] * 20), wire.DONE)
            connection = await gateway.open_stream(key, script)
            await connection.read_until(word.encode())
            body = connection.body
            await connection.reset()
        assert word.encode() in body
        assert body.count(b"canary-") == body.count(word.encode())

    for start in range(0, 240, 60):
        async with asyncio.TaskGroup() as group:
            for number in range(start, start + 60):
                group.create_task(one(number))
    assert prompt(None) not in str(upstream.complaints)
