"""Vercel's AI SDK against the running gateway: `@ai-sdk/openai` over responses (its default) and over chat, and
`@ai-sdk/openai-compatible`.
"""

import base64
import struct
from typing import Any

import pytest

from tests.clients.conftest import Play
from tests.clients.test_node_openai import BUSY, CALL, CITY, USAGE, assert_charged
from tests.clients.test_node_openai_media import PICTURE, SOUND, USAGE_OF_SOUND, parts
from tests.clients.test_node_openai_responses import native_events, native_response
from tests.clients.world import (
    NANO_PER_CHARACTER,
    NANO_PER_EMBEDDED_TOKEN,
    NANO_PER_IMAGE,
    NANO_PER_SECOND,
    nano,
)
from tests.rig import wire
from tests.rig.catalog import estimated_input, estimated_output
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Script, Send, Stall, Upstream
from tests.rig.waiting import eventually

TEXT_PROVIDERS = pytest.mark.parametrize("provider", ["openai", "chat", "compatible"])
OTHER_PROVIDERS = pytest.mark.parametrize("provider", ["openai", "compatible"])
TOKENS = {"input": 9, "output": 4}


def asked(script: Script, provider: str, model: str = "rig-chat", **options: Any) -> dict[str, Any]:
    """Without the canary of other prompts: what goes over the Responses API is kept on purpose."""
    return {"provider": provider, "model": model, "prompt": script.marker, **options}


def chat_stream(upstream: Upstream, *texts: str) -> Script:
    return upstream.stream(*wire.text_events(*texts), wire.event(wire.usage_chunk(USAGE)), wire.DONE)


@TEXT_PROVIDERS
def test_generate_text(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, provider: str) -> None:
    script = upstream.reply(wire.completion("Hello!", usage=USAGE))
    seen = play("vercel", "generateText", **asked(script, provider))
    assert seen.error is None
    assert (seen.result["text"], seen.result["finish"], seen.result["usage"]) == ("Hello!", "stop", TOKENS)
    path = "responses" if provider == "openai" else "chat/completions"
    assert seen.requests == [f"POST /v1/{path}"]
    assert script.request.line == "POST /v1/chat/completions HTTP/1.1"
    assert_charged(kit, kit_key)


@TEXT_PROVIDERS
def test_stream_text(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, provider: str) -> None:
    seen = play("vercel", "streamText", **asked(chat_stream(upstream, "Hel", "lo ", "Grüße"), provider))
    assert seen.error is None
    assert "".join(seen.result["deltas"]) == "Hello Grüße"
    assert len(seen.result["deltas"]) > 1
    assert (seen.result["finish"], seen.result["usage"]) == ("stop", TOKENS)
    assert_charged(kit, kit_key)


def test_generate_text_of_a_native_model(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.reply(native_response())
    seen = play("vercel", "generateText", **asked(script, "openai", "kit-native"))
    assert (seen.result["text"], seen.result["usage"]) == ("Hello!", TOKENS)
    assert script.request.line == "POST /v1/responses HTTP/1.1"
    assert_charged(kit, kit_key)


def test_stream_text_of_a_native_model(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.stream(*native_events("Hel", "lo"))
    seen = play("vercel", "streamText", **asked(script, "openai", "kit-native"))
    assert (seen.result["deltas"], seen.result["usage"]) == (["Hel", "lo"], TOKENS)
    assert_charged(kit, kit_key)


@TEXT_PROVIDERS
def test_generate_object(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, provider: str) -> None:
    script = upstream.reply(wire.completion('{"name":"Ulm","people":128928}', usage=USAGE))
    seen = play("vercel", "generateObject", **asked(script, provider))
    assert seen.error is None
    assert seen.result == {"object": {"name": "Ulm", "people": 128928}, "usage": TOKENS}
    sent = script.request.json["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["schema"] == CITY["json_schema"]["schema"]
    assert_charged(kit, kit_key)


@TEXT_PROVIDERS
def test_stream_object(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, provider: str) -> None:
    script = chat_stream(upstream, '{"name":"Ulm",', '"people":', "128928}")
    seen = play("vercel", "streamObject", **asked(script, provider))
    assert seen.error is None
    assert seen.result == {"object": {"name": "Ulm", "people": 128928}, "usage": TOKENS}
    assert_charged(kit, kit_key)


@TEXT_PROVIDERS
def test_a_tool_is_run_and_its_result_shown_to_the_model(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, provider: str
) -> None:
    answers = iter(
        [
            wire.reply(wire.completion(None, usage=USAGE, finish="tool_calls", tool_calls=[CALL])),
            wire.reply(wire.completion("21 degrees in Ulm.", usage=wire.usage(30, 6))),
        ]
    )
    script = upstream.answer_with(lambda _: [Send(next(answers))])
    seen = play("vercel", "tools", **asked(script, provider))
    assert seen.error is None
    assert seen.result == {
        "text": "21 degrees in Ulm.",
        "calls": [{"city": "Ulm"}],
        "steps": 2,
        "results": [{"celsius": 21}],
    }
    assert_told_the_result(script)
    assert_charged_twice(kit, kit_key)


@TEXT_PROVIDERS
def test_a_streamed_tool_is_run_too(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, provider: str) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}
    calling = [
        wire.event(wire.chunk(role="assistant", tool_calls=[call])),
        wire.event(wire.chunk(tool_calls=[{"index": 0, "function": {"arguments": '"Ulm"}'}}])),
        wire.event(wire.chunk(finish="tool_calls")),
        wire.event(wire.usage_chunk(USAGE)),
        wire.DONE,
    ]
    telling = [*wire.text_events("21 ", "degrees"), wire.event(wire.usage_chunk(wire.usage(30, 6))), wire.DONE]
    streams = iter([whole_stream(calling), whole_stream(telling)])
    script = upstream.answer_with(lambda _: [Send(next(streams))])
    seen = play("vercel", "streamTools", **asked(script, provider))
    assert seen.error is None
    assert seen.result == {"text": "21 degrees", "calls": [{"city": "Ulm"}], "steps": 2}
    assert_told_the_result(script)
    assert_charged_twice(kit, kit_key)


def whole_stream(events: list[bytes]) -> bytes:
    return wire.stream_head() + b"".join(wire.framed(event) for event in events) + wire.LAST_CHUNK


def assert_told_the_result(script: Script) -> None:
    told = script.requests[1].json["messages"][-1]
    assert (told["role"], told["tool_call_id"], told["content"]) == ("tool", "call_1", '{"celsius":21}')


def assert_charged_twice(kit: Gateway, key: Key) -> None:
    """One entry a step."""
    costs = sorted(entry["cost_nano_usd"] for entry in kit.entries(creator=key.creator))
    assert costs == [nano(9, 4), nano(30, 6)]


@TEXT_PROVIDERS
def test_a_stream_that_the_client_ends_is_charged_for_what_it_was_sent(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, provider: str
) -> None:
    events = b"".join(wire.text_events("some ", "words ", finish=None))
    script = upstream.script(Send(wire.stream_head() + wire.framed(events)), Stall())
    seen = play("vercel", "abort", **asked(script, provider), chunks=2)
    assert seen.result == ["some ", "words "]
    eventually(script.request.gone.is_set, "the end of the upstream call")
    entry = kit.entry(kit_key)
    assert entry["outcome"] == "client_gone"
    assert entry["input_tokens"] == estimated_input(script.marker)
    assert entry["output_tokens"] == estimated_output("some ", "words ")


# Errors


@TEXT_PROVIDERS
def test_an_unknown_model(play: Play, upstream: Upstream, provider: str) -> None:
    seen = play("vercel", "generateText", **asked(upstream.reply({}), provider, "gpt-nowhere"))
    assert (seen.error["class"], seen.error["status"]) == ("APICallError", 404)
    assert "gpt-nowhere" in seen.error["message"]


@TEXT_PROVIDERS
def test_a_refusal_is_tried_again_after_its_own_wait(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, provider: str
) -> None:
    answers = iter(
        [wire.reply(BUSY, 429, [("retry-after-ms", "1")]), wire.reply(wire.completion("at last", usage=USAGE))]
    )
    script = upstream.answer_with(lambda _: [Send(next(answers))])
    seen = play("vercel", "generateText", **asked(script, provider, retries=1))
    assert seen.error is None
    assert seen.result["text"] == "at last"
    assert [exchange.status for exchange in seen.exchanges] == [429, 200]
    assert sorted(entry["cost_nano_usd"] for entry in kit.entries(creator=kit_key.creator)) == [0, nano(9, 4)]


@TEXT_PROVIDERS
def test_an_error_inside_a_stream_is_raised(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, provider: str
) -> None:
    error = {
        "error": {"message": "The model is overloaded.", "type": "server_error", "param": None, "code": "overload"}
    }
    script = upstream.stream(*wire.text_events("a", finish=None), wire.event(error))
    seen = play("vercel", "streamText", **asked(script, provider))
    assert seen.error is not None
    assert kit.entry(kit_key)["outcome"] == "upstream_error"


# Beside text


@OTHER_PROVIDERS
def test_embed(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, provider: str) -> None:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]
    usage = {"prompt_tokens": 11, "total_tokens": 11}
    script = upstream.reply({"object": "list", "model": "up-kit-embed", "data": data, "usage": usage})
    seen = play("vercel", "embed", **asked(script, provider, "kit-embed", values=[script.marker]))
    assert seen.result == {"vectors": [[0.5, -0.25]], "tokens": 11}
    assert kit.entry(kit_key)["cost_nano_usd"] == 11 * NANO_PER_EMBEDDED_TOKEN


@OTHER_PROVIDERS
def test_generate_image(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, provider: str) -> None:
    picture = base64.b64encode(PICTURE).decode()
    script = upstream.reply({"created": wire.CREATED, "data": [{"b64_json": picture}]})
    seen = play("vercel", "image", **asked(script, provider, "kit-image"))
    assert seen.error is None
    assert seen.result["images"] == [picture]
    assert kit.entry(kit_key)["cost_nano_usd"] == NANO_PER_IMAGE


def test_transcribe(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.reply({"text": "silence", "usage": USAGE_OF_SOUND})
    options = asked(script, "openai", "kit-transcribe", file=base64.b64encode(SOUND).decode())
    seen = play("vercel", "transcribe", **options)
    assert seen.error is None
    assert seen.result["text"] == "silence"
    assert parts(script.request)["file"] == SOUND
    assert kit.entry(kit_key)["cost_nano_usd"] == NANO_PER_SECOND


def test_generate_speech(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    sound = b"ID3" + struct.pack(">100I", *range(100))
    script = upstream.script(Send(wire.reply(sound, content_type="audio/mpeg")))
    seen = play("vercel", "speech", **asked(script, "openai", "kit-speech"))
    assert seen.error is None
    assert (base64.b64decode(seen.result["bytes"]), seen.result["type"]) == (sound, "audio/mpeg")
    assert kit.entry(kit_key)["cost_nano_usd"] == len(script.marker) * NANO_PER_CHARACTER
