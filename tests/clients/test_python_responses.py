"""The OpenAI SDK for Python on responses and conversations: kept by the provider, or by the gateway in front of a chat model."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.python.answers import (
    chat_events,
    event_stream,
    in_turn,
    payloads,
    response,
    response_events,
    response_message,
    tool_call,
    tool_completion,
    tool_events,
    usage_of,
)
from tests.clients.python.world import Clients, Paid, chat_paid, served
from tests.rig import wire
from tests.rig.gateway import Gateway
from tests.rig.upstream import Request, Script, Send, Upstream

FAMILIES = ("openai3", "openai2")
USAGE = wire.usage(9, 4)
FULL = wire.usage(1000, 700, cached=600, reasoning=300)
WEATHER = tool_call("weather", {"city": "Ulm"})
CITY = '{"name":"Ulm","people":128928}'

World = tuple[Gateway, dict[str, Clients]]


@pytest.fixture(scope="module")
def world(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    wanted = [(family, "scenarios_responses") for family in FAMILIES]
    with served(upstream, tmp_path_factory.mktemp("responses"), *wanted) as (gateway, clients):
        yield gateway, dict(zip(FAMILIES, clients, strict=True))


@pytest.fixture(params=FAMILIES)
def client(world: World, request: pytest.FixtureRequest) -> Clients:
    return world[1][request.param]


def paid(model: str, usage: dict[str, Any] = USAGE) -> Paid:
    return chat_paid(
        usage["prompt_tokens"],
        usage["completion_tokens"],
        cached=usage["prompt_tokens_details"]["cached_tokens"],
        reasoning=usage["completion_tokens_details"]["reasoning_tokens"],
        endpoint="responses",
        model=model,
    )


def bridged(usage: dict[str, Any] = USAGE) -> Paid:
    return paid("rig-chat", usage)


def native(usage: dict[str, Any] = USAGE) -> Paid:
    return paid("rig-responses", usage)


TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


# A model that only chats: the gateway translates and keeps


@pytest.mark.parametrize("scenario", ["create", "create_async"])
def test_a_chat_model_answers_as_a_response(upstream: Upstream, client: Clients, scenario: str) -> None:
    script = upstream.reply(wire.completion("Grüße", usage=FULL))
    played = client.play(scenario, script, model="rig-chat")
    answer = played.value["answer"]
    assert (played.value["text"], answer["object"], answer["status"]) == ("Grüße", "response", "completed")
    assert answer["usage"]["input_tokens_details"]["cached_tokens"] == 600
    assert answer["usage"]["output_tokens_details"]["reasoning_tokens"] == 300
    assert answer["usage"]["total_tokens"] == 1700
    assert script.request.line.startswith("POST /v1/chat/completions ")
    assert script.request.json["messages"] == [{"role": "user", "content": script.marker}]
    assert played.value["request_id"] == played.entries[0]["request_id"]
    played.assert_paid(bridged(FULL))


def test_a_chat_models_stream_has_the_events_of_a_response(upstream: Upstream, client: Clients) -> None:
    script = in_turn(upstream, chat_events("Hel", "lo", usage=FULL))
    played = client.play("create_stream", script, model="rig-chat")
    assert [event["sequence_number"] for event in played.value] == list(range(len(played.value)))
    deltas = [event["delta"] for event in played.value if event["type"] == "response.output_text.delta"]
    assert deltas == ["Hel", "lo"]
    assert played.value[-1]["response"]["usage"]["output_tokens"] == 700
    assert script.request.json["stream_options"] == {"include_usage": True}
    played.assert_paid(bridged(FULL))


@pytest.mark.parametrize("scenario", ["stream_helper", "stream_helper_async"])
def test_the_stream_helper_understands_a_chat_model(upstream: Upstream, client: Clients, scenario: str) -> None:
    played = client.play(scenario, in_turn(upstream, chat_events("Hello", usage=USAGE)), model="rig-chat")
    assert (played.value["kinds"], played.value["text"]) == (TEXT_EVENTS, "Hello")
    assert (played.value["status"], played.value["usage"]["total_tokens"]) == ("completed", 13)
    played.assert_paid(bridged())


@pytest.mark.parametrize("scenario", ["parse", "parse_stream"])
def test_a_chat_models_answer_is_parsed_by_its_schema(upstream: Upstream, client: Clients, scenario: str) -> None:
    whole, streamed = wire.reply(wire.completion(CITY, usage=USAGE)), chat_events(CITY[:9], CITY[9:], usage=USAGE)
    script = in_turn(upstream, streamed if scenario == "parse_stream" else whole)
    played = client.play(scenario, script, model="rig-chat")
    assert played.value == {"name": "Ulm", "people": 128928}
    wanted = script.request.json["response_format"]
    assert (wanted["type"], wanted["json_schema"]["strict"]) == ("json_schema", True)
    played.assert_paid(bridged())


def test_a_round_of_tools_goes_on_by_the_gateways_own_memory(upstream: Upstream, client: Clients) -> None:
    answers = [tool_completion(WEATHER, usage=USAGE), wire.reply(wire.completion("Sunny.", usage=FULL))]
    script = in_turn(upstream, *answers)
    played = client.play("tools", script, model="rig-chat")
    assert played.value == {
        "arguments": WEATHER["function"]["arguments"],
        "call_id": "call_1",
        "text": "Sunny.",
        "previous": True,
    }
    first, last = (request.json for request in script.requests)
    assert first["tools"][0]["function"]["name"] == "weather"
    assert last["messages"] == [
        {"role": "user", "content": script.marker},
        {"role": "assistant", "content": None, "tool_calls": [WEATHER]},
        {"role": "tool", "tool_call_id": "call_1", "content": f"sunny {script.marker}"},
    ]
    played.assert_paid(bridged(), bridged(FULL))


def test_a_chat_models_streamed_tools(upstream: Upstream, client: Clients) -> None:
    played = client.play("tools_stream", in_turn(upstream, tool_events(WEATHER, USAGE)), model="rig-chat")
    assert (played.value["call_id"], played.value["arguments"]) == ("call_1", WEATHER["function"]["arguments"])
    assert "response.function_call_arguments.done" in played.value["kinds"]
    played.assert_paid(bridged())


def test_the_gateway_keeps_a_chat_models_response_until_it_is_deleted(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(wire.completion("Hello", usage=USAGE))
    played = client.play("life", script, model="rig-chat")
    value = played.value
    assert value["found"] == value["made"]
    assert value["made"]["instructions"] == "Be brief."
    assert [item["content"] for item in value["items"]] == [[{"type": "input_text", "text": script.marker}]]
    assert (value["gone"]["class"], value["gone"]["status_code"]) == ("NotFoundError", 404)
    assert value["gone"]["request_id"]
    assert script.request.json["messages"][0]["content"] == "Be brief."
    played.assert_paid(bridged())


def test_what_is_not_to_be_kept_is_not(upstream: Upstream, client: Clients) -> None:
    played = client.play("unkept", upstream.reply(wire.completion("Hello", usage=USAGE)), model="rig-chat")
    assert played.value["store"] is False
    assert played.value["gone"]["class"] == "NotFoundError"
    played.assert_paid(bridged())


@pytest.mark.parametrize("model", ["rig-chat", "rig-responses"])
def test_nobody_else_finds_a_response_or_continues_it(upstream: Upstream, client: Clients, model: str) -> None:
    kept = client.play("create", answering(upstream, model), model=model)
    other = client.play("find", response_id=kept.value["answer"]["id"])
    assert other.value["continued"]["code"] == "previous_response_not_found"
    assert other.value["continued"]["param"] == "previous_response_id"
    assert other.value["found"]["class"] == "NotFoundError"
    other.assert_free()


def test_a_finished_response_cannot_be_cancelled(upstream: Upstream, client: Clients) -> None:
    played = client.play("cancel", upstream.reply(wire.completion("Hello", usage=USAGE)), model="rig-chat")
    assert played.value["class"] == "BadRequestError"
    played.assert_paid(bridged())


def test_input_tokens_are_estimated_for_nothing(client: Clients) -> None:
    played = client.play("count")
    assert 100 <= played.value["input_tokens"] <= 120
    assert played.entries == []


# A model whose provider has responses: its own bytes


def answering(upstream: Upstream, model: str) -> Script:
    if model == "rig-chat":
        return upstream.reply(wire.completion("Hello", usage=USAGE))
    return keeping(upstream, lambda made: response(response_message("Hello"), id=made))


def keeping(upstream: Upstream, *made: Any) -> Script:
    """A provider that makes responses, one by one, and answers for them later. Their ids hold the marker."""
    left = list(made)

    def actions(request: Request) -> list[Send]:
        method, path, _ = request.line.split(" ")
        if method == "POST":
            return [Send(wire.reply(left.pop(0)(f"resp_{script.marker}")))]
        if method == "DELETE":
            return [Send(wire.reply({"id": path.rpartition("/")[2], "object": "response", "deleted": True}))]
        if "/input_items" in path:
            item = response_message("what it was", id="msg_in", role="user")
            page = {"object": "list", "data": [item], "first_id": "msg_in", "last_id": "msg_in", "has_more": False}
            return [Send(wire.reply(page))]
        return [Send(wire.reply(response(response_message("Hello"), id=path.rpartition("/")[2])))]

    script = upstream.answer_with(actions)
    return script


@pytest.mark.parametrize("scenario", ["create", "create_async"])
def test_a_providers_response_arrives_as_it_is(upstream: Upstream, client: Clients, scenario: str) -> None:
    answer = response(response_message("Grüße"), usage=FULL)
    script = upstream.reply(answer)
    played = client.play(scenario, script, model="rig-responses")
    assert played.value["answer"] == answer
    assert script.request.line.startswith("POST /v1/responses ")
    assert script.request.json == {"model": "upstream-native", "input": script.marker}
    played.assert_paid(native(FULL))


def test_a_providers_stream_arrives_as_it_is(upstream: Upstream, client: Clients) -> None:
    events = response_events("Hello")
    played = client.play("create_stream", in_turn(upstream, event_stream(events)), model="rig-responses")
    assert played.value == payloads(events)
    played.assert_paid(native())


@pytest.mark.parametrize("scenario", ["stream_helper", "stream_helper_async"])
def test_the_stream_helper_understands_a_provider(upstream: Upstream, client: Clients, scenario: str) -> None:
    script = in_turn(upstream, event_stream(response_events("Hello")))
    played = client.play(scenario, script, model="rig-responses")
    assert played.value == {"kinds": TEXT_EVENTS, "text": "Hello", "status": "completed", "usage": usage_of(USAGE)}
    played.assert_paid(native())


def test_a_providers_answer_is_parsed_by_its_schema(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(response(response_message(CITY)))
    played = client.play("parse", script, model="rig-responses")
    assert played.value == {"name": "Ulm", "people": 128928}
    assert script.request.json["text"]["format"]["type"] == "json_schema"
    played.assert_paid(native())


def test_a_round_of_tools_goes_on_by_the_providers_memory(upstream: Upstream, client: Clients) -> None:
    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weather", "status": "completed"}
    call["arguments"] = '{"city":"Ulm"}'
    script = keeping(
        upstream,
        lambda made: response(call, id=made),
        lambda made: response(response_message("Sunny."), usage=FULL, previous_response_id=made),
    )
    played = client.play("tools", script, model="rig-responses")
    assert played.value == {
        "arguments": '{"city":"Ulm"}',
        "call_id": "call_1",
        "text": "Sunny.",
        "previous": True,
    }
    assert script.requests[1].json["previous_response_id"] == f"resp_{script.marker}"
    assert [item["type"] for item in script.requests[1].json["input"]] == ["function_call_output"]
    played.assert_paid(native(), native(FULL))


def test_a_providers_response_is_found_there_until_it_is_deleted(upstream: Upstream, client: Clients) -> None:
    script = keeping(upstream, lambda made: response(response_message("Hello"), id=made))
    played = client.play("life", script, model="rig-responses")
    assert played.value["found"] == played.value["made"]
    assert [item["id"] for item in played.value["items"]] == ["msg_in"]
    assert played.value["gone"]["class"] == "NotFoundError"
    lines = [request.line.split("?")[0].removesuffix(" HTTP/1.1") for request in script.requests]
    path = f"/v1/responses/resp_{script.marker}"
    assert lines == ["POST /v1/responses", f"GET {path}", f"GET {path}/input_items", f"DELETE {path}"]
    played.assert_paid(native())


@pytest.mark.parametrize("model", ["rig-chat", "rig-responses"])
def test_a_stream_that_breaks_off_does_not_look_complete(upstream: Upstream, client: Clients, model: str) -> None:
    events = wire.text_events("Hel", "lo", finish=None) if model == "rig-chat" else response_events("Hello")[:5]
    played = client.play("broken_stream", in_turn(upstream, event_stream(events)), model=model)
    assert "response.completed" not in played.value["kinds"]
    assert played.value["error"] or played.value["kinds"][-1] in ("response.failed", "error")
    [entry] = played.entries
    assert (entry["usage_source"], entry["outcome"] != "ok") == ("estimated", True)
    assert entry["cost_nano_usd"] > 0


@pytest.mark.parametrize("model", ["rig-chat", "rig-responses"])
def test_a_refusal_of_the_provider_is_raised(upstream: Upstream, client: Clients, model: str) -> None:
    error = {
        "message": "too long",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    played = client.play("broken_stream", upstream.reply({"error": error}, 400), model=model)
    told = played.value["error"]
    assert (told["class"], told["code"]) == ("BadRequestError", "context_length_exceeded")
    assert told["request_id"]
    played.assert_free()


# Conversations are always the gateway's


@pytest.mark.parametrize("model", ["rig-chat", "rig-responses"])
def test_a_conversation_remembers_both_turns(upstream: Upstream, client: Clients, model: str) -> None:
    if model == "rig-chat":
        answers = [wire.reply(wire.completion(text, usage=USAGE)) for text in ("First.", "Second.")]
    else:
        answers = [wire.reply(response(response_message(text), usage=USAGE)) for text in ("First.", "Second.")]
    script = in_turn(upstream, *answers)
    played = client.play("conversation", script, model=model)
    value = played.value
    assert value["texts"] == ["First.", "Second."]
    # A provider's own answer knows nothing of the gateway's conversation.
    assert value["in"] == ([value["id"]] * 2 if model == "rig-chat" else [None, None])
    assert value["found"] == {"trip": "1"}
    assert value["items"] == [
        ["user", "Before."],
        ["user", f"One. {script.marker}"],
        ["assistant", "First."],
        ["user", f"Two. {script.marker}"],
        ["assistant", "Second."],
    ]
    asked = script.requests[1].json
    assert "conversation" not in asked
    assert len(asked["messages" if model == "rig-chat" else "input"]) == 4
    played.assert_paid(paid(model), paid(model))


def test_items_of_a_conversation_come_and_go(client: Clients) -> None:
    played = client.play("conversation_items")
    value = played.value
    assert (value["found"], value["left"], value["deleted"]) == ("user", True, True)
    assert value["metadata"] == {"topic": "x"}
    assert value["gone"]["class"] == "NotFoundError"
    assert played.entries == []


def test_items_of_a_conversation_come_in_pages(client: Clients) -> None:
    assert client.play("conversation_async").value["texts"] == [f"{number}" for number in range(7)]
