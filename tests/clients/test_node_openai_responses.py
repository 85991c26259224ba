"""OpenAI's client for Node on the Responses API: bridged over a chat model, and native."""

from typing import Any

import pytest

from tests.clients.conftest import Play
from tests.clients.test_node_openai import BUSY, CALL, CITY, COST, TOOL, USAGE, assert_charged
from tests.clients.world import nano
from tests.rig import wire
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Script, Send, Upstream

TOOL_OF_RESPONSES = {"type": "function", **TOOL["function"]}
FORMAT = {"type": "json_schema", **CITY["json_schema"]}
RESPONSE_USAGE = {
    "input_tokens": 9,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 4,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 13,
}


def asked(script: Script, model: str = "rig-chat", **fields: Any) -> dict[str, Any]:
    """Without the canary of other prompts: the gateway keeps these on purpose, until they are deleted."""
    return {"model": model, "input": script.marker, **fields}


def native_response(text: str = "Hello!", status: str = "completed", usage: Any = RESPONSE_USAGE) -> dict[str, Any]:
    """What a provider with the Responses API of its own answers."""
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_rig", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    return {
        "id": "resp_rig0123456789",
        "object": "response",
        "created_at": wire.CREATED,
        "status": status,
        "model": "up-kit-native",
        "output": [item] if status == "completed" else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage if status == "completed" else None,
    }


def native_events(*texts: str) -> list[bytes]:
    """A stream of typed events, numbered as OpenAI does."""
    whole = "".join(texts)
    item = {"id": "msg_rig", "type": "message", "role": "assistant"}
    where = {"item_id": "msg_rig", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "annotations": []}
    data: list[dict[str, Any]] = [
        {"type": "response.created", "response": native_response(status="in_progress")},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "status": "in_progress", "content": []},
        },
        {"type": "response.content_part.added", **where, "part": {**part, "text": ""}},
        *({"type": "response.output_text.delta", **where, "delta": text} for text in texts),
        {"type": "response.output_text.done", **where, "text": whole},
        {"type": "response.content_part.done", **where, "part": {**part, "text": whole}},
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": {**item, "status": "completed", "content": [{**part, "text": whole}]},
        },
        {"type": "response.completed", "response": native_response(whole)},
    ]
    return [
        f"event: {event['type']}\n".encode() + wire.event({**event, "sequence_number": number})
        for number, event in enumerate(data)
    ]


# Bridged: the model's row lists only chat


def test_a_chat_model_answers(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.reply(wire.completion("Hello!", usage=USAGE))
    result = play("openai", "response", body=asked(script, instructions="Be brief.")).result
    assert (result["text"], result["status"], result["model"]) == ("Hello!", "completed", "rig-chat")
    assert (result["usage"]["input_tokens"], result["usage"]["output_tokens"]) == (9, 4)
    assert script.request.line == "POST /v1/chat/completions HTTP/1.1"
    assert [message["role"] for message in script.request.json["messages"]][1:] == ["user"]
    assert script.request.json["messages"][0]["content"] == "Be brief."
    assert assert_charged(kit, kit_key)["endpoint"] == "responses"


def test_a_chat_model_streams(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.stream(*wire.text_events("Hel", "lo"), wire.event(wire.usage_chunk(USAGE)), wire.DONE)
    result = play("openai", "responseStreamHelper", body=asked(script)).result
    assert result["text"] == "Hello"
    assert result["usage"]["total_tokens"] == 13
    assert (result["types"][0], result["types"][-1]) == ("response.created", "response.completed")
    assert result["types"].count("response.output_text.delta") == 2
    assert_charged(kit, kit_key)


def test_the_events_of_a_bridged_stream_are_numbered_without_a_gap(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play
) -> None:
    script = upstream.stream(*wire.text_events("Hel", "lo"), wire.event(wire.usage_chunk(USAGE)), wire.DONE)
    events = play("openai", "responseStream", body=asked(script)).result
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert_charged(kit, kit_key)


def test_a_chat_model_calls_tools(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.reply(wire.completion(None, usage=USAGE, finish="tool_calls", tool_calls=[CALL]))
    result = play("openai", "response", body=asked(script, tools=[TOOL_OF_RESPONSES])).result
    [item] = result["output"]
    assert (item["type"], item["call_id"], item["name"]) == ("function_call", "call_1", "weather")
    assert item["arguments"] == '{"city":"Ulm"}'
    [sent] = script.request.json["tools"]
    assert sent == TOOL
    assert_charged(kit, kit_key)


def test_a_chat_model_streams_tools(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}
    script = upstream.stream(
        wire.event(wire.chunk(role="assistant", tool_calls=[first])),
        wire.event(wire.chunk(tool_calls=[{"index": 0, "function": {"arguments": '"Ulm"}'}}])),
        wire.event(wire.chunk(finish="tool_calls")),
        wire.event(wire.usage_chunk(USAGE)),
        wire.DONE,
    )
    result = play("openai", "responseStreamHelper", body=asked(script, tools=[TOOL_OF_RESPONSES])).result
    [item] = result["output"]
    assert (item["name"], item["arguments"]) == ("weather", '{"city":"Ulm"}')
    assert "response.function_call_arguments.delta" in result["types"]
    assert_charged(kit, kit_key)


def test_a_format_is_asked_of_the_chat_model(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.reply(wire.completion('{"name":"Ulm","people":128928}', usage=USAGE))
    result = play("openai", "responseParse", body=asked(script, text={"format": FORMAT})).result
    assert result == {"name": "Ulm", "people": 128928}
    assert script.request.json["response_format"] == CITY
    assert_charged(kit, kit_key)


def test_what_the_gateway_keeps_is_followed_up_read_and_deleted(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play
) -> None:
    texts = iter(["A city.", "128928."])
    script = upstream.answer_with(lambda _: [Send(wire.reply(wire.completion(next(texts), usage=USAGE)))])
    following = {"model": "rig-chat", "input": "How many people?"}
    seen = play("openai", "responseKept", body=asked(script), next=following)
    assert seen.error is None
    told = script.requests[1].json["messages"]
    assert [message["role"] for message in told] == ["user", "assistant", "user"]
    assert told[1]["content"] == "A city."
    assert seen.result["found"]["id"] == seen.result["first"]["id"]
    assert seen.result["second"]["previous_response_id"] == seen.result["first"]["id"]
    assert seen.result["gone"] == 404
    assert seen.result["items"][0]["content"][0]["text"] == "How many people?"
    costs = [entry["cost_nano_usd"] for entry in kit.entries(creator=kit_key.creator)]
    assert costs == [COST, COST]


def test_a_conversation_gathers_what_was_said(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.reply(wire.completion("A city.", usage=USAGE))
    seen = play("openai", "conversation", body=asked(script))
    assert seen.error is None
    assert seen.result == {"text": "A city.", "types": ["user", "assistant"], "deleted": True}
    assert_charged(kit, kit_key)


# Native: the bytes pass through


def test_a_native_model_answers(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.reply(native_response())
    result = play("openai", "response", body=asked(script, "kit-native")).result
    assert (result["text"], result["id"]) == ("Hello!", "resp_rig0123456789")
    assert script.request.line == "POST /v1/responses HTTP/1.1"
    assert script.request.json["model"] == "up-kit-native"
    assert_charged(kit, kit_key)


def test_a_native_model_streams(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.stream(*native_events("Hel", "lo"))
    result = play("openai", "responseStreamHelper", body=asked(script, "kit-native")).result
    assert result["text"] == "Hello"
    assert result["types"][-1] == "response.completed"
    assert_charged(kit, kit_key)


# Errors


@pytest.mark.parametrize("model", ["rig-chat", "kit-native"])
def test_an_error_of_the_provider_is_raised_as_such(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, model: str
) -> None:
    script = upstream.reply(BUSY, 503)
    seen = play("openai", "response", body=asked(script, model), maxRetries=0)
    assert (seen.error["class"], seen.error["code"]) == ("InternalServerError", "busy")
    assert kit.entry(kit_key)["cost_nano_usd"] == 0


@pytest.mark.parametrize("model", ["rig-chat", "kit-native"])
def test_a_refused_stream_is_tried_again(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, model: str
) -> None:
    events = (
        native_events("Hel", "lo")
        if model == "kit-native"
        else [*wire.text_events("Hel", "lo"), wire.event(wire.usage_chunk(USAGE)), wire.DONE]
    )
    stream = wire.stream_head() + b"".join(wire.framed(event) for event in events) + wire.LAST_CHUNK
    answers = iter([wire.reply(BUSY, 429, [("retry-after-ms", "1")]), stream])
    script = upstream.answer_with(lambda _: [Send(next(answers))])
    seen = play("openai", "responseStreamHelper", body=asked(script, model))
    assert seen.result["text"] == "Hello"
    assert [exchange.status for exchange in seen.exchanges] == [429, 200]
    costs = sorted(entry["cost_nano_usd"] for entry in kit.entries(creator=kit_key.creator))
    assert costs == [0, nano(9, 4)]


def test_a_bridged_stream_that_breaks_is_raised(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.stream(*wire.text_events("Hel", finish=None))
    seen = play("openai", "responseStreamHelper", body=asked(script))
    assert seen.error is not None
    assert kit.entry(kit_key)["outcome"] == "upstream_died"


def test_an_unknown_previous_response_is_not_found(play: Play) -> None:
    body = {"model": "rig-chat", "input": "x", "previous_response_id": "resp_nowhere0123456789"}
    seen = play("openai", "response", body=body)
    assert (seen.error["status"], seen.error["code"]) == (400, "previous_response_not_found")
    assert "resp_nowhere0123456789" in seen.error["message"]
