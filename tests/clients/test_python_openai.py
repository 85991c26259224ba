"""The OpenAI SDK for Python, newest and older release: chat, completions, embeddings, moderations, models."""

import base64
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.python.answers import (
    chat_events,
    event_stream,
    in_turn,
    payloads,
    tool_call,
    tool_completion,
    tool_events,
)
from tests.clients.python.world import Clients, Paid, chat_paid, served
from tests.rig import wire
from tests.rig.gateway import Gateway
from tests.rig.upstream import Upstream

USAGE = wire.usage(9, 4)
WEATHER = tool_call("weather", {"city": "Ulm"})
VECTOR = [0.25, -1.5, 3.0]
FAMILIES = ("openai3", "openai2")

World = tuple[Gateway, dict[str, Clients]]


@pytest.fixture(scope="module")
def world(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    wanted = [(family, "scenarios_openai") for family in FAMILIES]
    with served(upstream, tmp_path_factory.mktemp("openai"), *wanted) as (gateway, clients):
        yield gateway, dict(zip(FAMILIES, clients, strict=True))


@pytest.fixture
def gateway(world: World) -> Gateway:
    return world[0]


@pytest.fixture(params=FAMILIES)
def client(world: World, request: pytest.FixtureRequest) -> Clients:
    return world[1][request.param]


# Chat


@pytest.mark.parametrize("scenario", ["chat", "chat_async"])
def test_a_whole_answer_is_the_providers_and_its_request_id_the_ledgers(
    upstream: Upstream, client: Clients, scenario: str
) -> None:
    answer = wire.completion("Grüße", usage=USAGE, refusal=None)
    played = client.play(scenario, script := upstream.reply(answer))
    assert played.value["answer"] == answer
    assert played.value["request_id"] == played.entries[0]["request_id"]
    assert script.request.json == {"model": "upstream-chat", "messages": [{"role": "user", "content": script.marker}]}
    played.assert_paid(chat_paid(9, 4))


@pytest.mark.parametrize("scenario", ["chat_stream", "chat_stream_async"])
def test_a_stream_is_the_providers_less_the_usage_nobody_asked_for(
    upstream: Upstream, client: Clients, scenario: str
) -> None:
    events = wire.text_events("Hel", "lo ", "Grüße")
    script = upstream.stream(*events, wire.event(wire.usage_chunk(USAGE)), wire.DONE)
    played = client.play(scenario, script)
    assert played.value == payloads(events)
    assert script.request.json["stream_options"] == {"include_usage": True}
    played.assert_paid(chat_paid(9, 4))


@pytest.mark.parametrize("scenario", ["chat_stream", "chat_stream_async"])
def test_a_stream_has_its_usage_when_asked(upstream: Upstream, client: Clients, scenario: str) -> None:
    usage = wire.usage(1000, 700, cached=600, reasoning=300)
    events = [*wire.text_events("Hi"), wire.event(wire.usage_chunk(usage))]
    played = client.play(scenario, upstream.stream(*events, wire.DONE), stream_options={"include_usage": True})
    assert played.value == payloads(events)
    played.assert_paid(chat_paid(1000, 700, cached=600, reasoning=300))


@pytest.mark.parametrize("scenario", ["chat_stream_helper", "chat_stream_helper_async"])
def test_the_stream_helper_gathers_the_answer(upstream: Upstream, client: Clients, scenario: str) -> None:
    played = client.play(scenario, in_turn(upstream, chat_events("Hel", "lo", usage=USAGE)))
    final = played.value["final"]
    assert final["choices"][0]["message"]["content"] == "Hello"
    assert final["choices"][0]["message"]["role"] == "assistant"
    assert final["choices"][0]["finish_reason"] == "stop"
    assert {"content.delta", "content.done"} <= set(played.value["kinds"])
    played.assert_paid(chat_paid(9, 4))


# Structure and tools


def test_an_answer_is_parsed_by_its_schema(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(wire.completion('{"name":"Ulm","people":128928}', usage=USAGE))
    played = client.play("parse", script)
    assert played.value == {"name": "Ulm", "people": 128928}
    wanted = script.request.json["response_format"]
    assert (wanted["type"], wanted["json_schema"]["strict"]) == ("json_schema", True)
    assert set(wanted["json_schema"]["schema"]["required"]) == {"name", "people"}
    played.assert_paid(chat_paid(9, 4))


def test_a_stream_is_parsed_by_its_schema(upstream: Upstream, client: Clients) -> None:
    script = in_turn(upstream, chat_events('{"name":"Ulm",', '"people":128928}', usage=USAGE))
    played = client.play("parse_stream", script)
    assert played.value == {"name": "Ulm", "people": 128928}
    played.assert_paid(chat_paid(9, 4))


def test_a_round_of_tools_costs_two_calls(upstream: Upstream, client: Clients) -> None:
    second = wire.usage(30, 2)
    script = in_turn(
        upstream, tool_completion(WEATHER, usage=USAGE), wire.reply(wire.completion("Sunny.", usage=second))
    )
    played = client.play("tools", script)
    assert played.value == {"arguments": {"city": "Ulm"}, "answer": "Sunny."}
    first, last = (request.json for request in script.requests)
    assert first["tools"][0]["function"]["strict"] is True
    assert (first["tool_choice"], first["parallel_tool_calls"]) == ("required", False)
    assert last["messages"][1]["tool_calls"][0]["id"] == "call_1"
    assert last["messages"][2] == {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    played.assert_paid(chat_paid(9, 4), chat_paid(30, 2))


def test_streamed_tool_arguments_are_put_together(upstream: Upstream, client: Clients) -> None:
    played = client.play("tools_stream", in_turn(upstream, tool_events(WEATHER, USAGE)))
    assert (played.value["id"], played.value["arguments"]) == ("call_1", {"city": "Ulm"})
    assert "tool_calls.function.arguments.done" in played.value["kinds"]
    played.assert_paid(chat_paid(9, 4))


def test_both_of_two_choices_arrive(upstream: Upstream, client: Clients) -> None:
    answer = wire.completion("one", usage=USAGE)
    answer["choices"].append({**answer["choices"][0], "index": 1, "message": {"role": "assistant", "content": "two"}})
    played = client.play("several_choices", script := upstream.reply(answer))
    assert played.value == answer["choices"]
    assert script.request.json["n"] == 2
    played.assert_paid(chat_paid(9, 4))


def test_both_of_two_streamed_choices_arrive(upstream: Upstream, client: Clients) -> None:
    chunks = [wire.chunk("", index=index, role="assistant") for index in (0, 1)]
    chunks += [wire.chunk(text, index=index) for text, index in (("on", 0), ("tw", 1), ("e", 0), ("o", 1))]
    chunks += [wire.chunk(index=index, finish="stop") for index in (0, 1)]
    events = [*map(wire.event, chunks), wire.event(wire.usage_chunk(USAGE)), wire.DONE]
    played = client.play("several_choices_stream", upstream.stream(*events))
    assert played.value == ["one", "two"]
    played.assert_paid(chat_paid(9, 4))


def test_unknown_fields_travel_on_and_unknown_parameters_do_no_harm(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(wire.completion("ok", usage=USAGE))
    played = client.play("unknown_fields", script)
    request = script.request
    assert request.json["vendor_switch"] == {"deep": [1, 2.5, 2**53 + 1]}
    assert request.json["top_k"] == 7
    assert request.line.startswith("POST /v1/chat/completions HTTP")
    assert [name for name, _ in request.headers if name.lower().startswith(("x-stainless", "openai-"))] == []
    played.assert_paid(chat_paid(9, 4))


# Other endpoints


def completion(text: str, finish: str | None = "stop", **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    head = {"id": "cmpl-1", "object": "text_completion", "created": wire.CREATED, "model": "rig-completions"}
    return {**head, "choices": [choice], **fields}


COMPLETION_COST = 9 * 1500 + 4 * 2000


def test_a_completion(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(completion("Hello", usage=wire.usage(9, 4)))
    played = client.play("completion", script)
    assert played.value["choices"][0]["text"] == "Hello"
    assert script.request.json == {"model": "rig-completions", "prompt": script.marker, "max_tokens": 5}
    played.assert_paid(Paid("completions", "rig-completions", 9, 4, COMPLETION_COST))


def test_a_streamed_completion(upstream: Upstream, client: Clients) -> None:
    events = [wire.event(completion("Hel", None)), wire.event(completion("lo"))]
    usage = wire.event({**completion(""), "choices": [], "usage": USAGE})
    played = client.play("completion_stream", upstream.stream(*events, usage, wire.DONE))
    assert played.value == payloads(events)
    played.assert_paid(Paid("completions", "rig-completions", 9, 4, COMPLETION_COST))


def vectors(*embeddings: object, tokens: int) -> dict[str, Any]:
    data = [
        {"object": "embedding", "index": index, "embedding": embedding} for index, embedding in enumerate(embeddings)
    ]
    return {
        "object": "list",
        "data": data,
        "model": "rig-embed",
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


PACKED = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()


@pytest.mark.parametrize("scenario", ["embeddings", "embeddings_async"])
def test_embeddings_are_asked_for_as_base64_and_decoded(upstream: Upstream, client: Clients, scenario: str) -> None:
    script = upstream.reply(vectors(PACKED, PACKED, tokens=7))
    played = client.play(scenario, script, input=["one", "two"])
    assert played.value == {"vectors": [VECTOR, VECTOR], "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    assert script.request.json["encoding_format"] == "base64"
    played.assert_paid(Paid("embeddings", "rig-embed", 7, 0, 7 * 130))


@pytest.mark.parametrize(
    "tokens", [pytest.param([1, 2, 100_000], id="one text"), pytest.param([[1, 2], [3]], id="two")]
)
def test_embeddings_of_tokens_and_as_plain_numbers(upstream: Upstream, client: Clients, tokens: list[Any]) -> None:
    script = upstream.reply(vectors(VECTOR, tokens=3))
    played = client.play("embeddings", script, input=tokens, encoding_format="float", dimensions=3)
    assert played.value["vectors"] == [VECTOR]
    assert script.request.json["input"] == tokens
    assert script.request.json["dimensions"] == 3
    played.assert_paid(Paid("embeddings", "rig-embed", 3, 0, 3 * 130))


def test_a_moderation_is_free_and_booked(upstream: Upstream, client: Clients) -> None:
    result = {
        "flagged": True,
        "categories": {"violence": True},
        "category_scores": {"violence": 0.9},
        "category_applied_input_types": {"violence": ["text"]},
    }
    answer = {"id": "modr-1", "model": "rig-moderation", "results": [result, {**result, "flagged": False}]}
    played = client.play("moderation", script := upstream.reply(answer))
    assert played.value == answer
    assert script.request.json["input"] == [script.marker, "second"]
    [entry] = played.entries
    assert (entry["endpoint"], entry["cost_nano_usd"], entry["outcome"]) == ("moderations", 0, "ok")


def test_models_are_listed_and_found(client: Clients) -> None:
    value = client.play("models").value
    assert {"rig-chat", "rig-embed", "rig-image", "rig-responses", "rig/with-slash"} <= value["listed"].keys()
    assert set(value["listed"].values()) == {"model"}
    assert (value["found"], bool(value["owner"])) == ("rig/with-slash", True)


def test_a_model_nobody_has_is_not_found(client: Clients) -> None:
    value = client.play("models_async").value
    assert "rig-chat" in value["listed"]
    assert (value["error"]["class"], value["error"]["code"]) == ("NotFoundError", "model_not_found")
    assert value["error"]["request_id"]


# What is beneath


def test_the_raw_response_tells_what_the_gateway_did(upstream: Upstream, client: Clients) -> None:
    played = client.play("raw_response", upstream.reply(wire.completion("Hi", usage=USAGE)))
    value, [entry] = played.value, played.entries
    headers = value["headers"]
    assert (value["status"], value["content"], value["retries"]) == (200, "Hi", 0)
    assert value["request_id"] == headers["x-request-id"] == entry["request_id"]
    assert headers["x-gateway-model"] == "rig-chat"
    assert headers["x-gateway-cost-usd"] == entry["cost_usd"]
    assert {"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"} <= headers.keys()


def test_the_raw_stream_is_line_by_line_the_providers(upstream: Upstream, client: Clients) -> None:
    events = [b": keep-alive\n\n", *wire.text_events("Hi")]
    script = in_turn(upstream, event_stream([*events, wire.event(wire.usage_chunk(USAGE)), wire.DONE]))
    played = client.play("raw_lines", script)
    lines = b"".join([*events, wire.DONE]).decode().split("\n")
    assert [line for line in played.value["lines"] if line] == [line for line in lines if line]
    assert played.value["type"].startswith("text/event-stream")
    assert played.value["request_id"] == played.entries[0]["request_id"]
    played.assert_paid(chat_paid(9, 4))
