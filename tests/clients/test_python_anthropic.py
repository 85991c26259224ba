"""Anthropic's SDK for Python on `/v1/messages`: natively, and in front of a model that only chats."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.python.answers import (
    chat_events,
    claude,
    claude_call,
    claude_events,
    claude_text,
    event_stream,
    in_turn,
    payloads,
    tool_call,
    tool_completion,
    tool_events,
)
from tests.clients.python.world import Clients, Paid, chat_paid, served
from tests.rig import wire
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Upstream

World = tuple[Gateway, Clients]
MODELS = [pytest.param("rig-messages", id="native"), pytest.param("rig-chat", id="bridged")]
FIRST, SECOND = (9, 4), (1000, 700)
WEATHER = tool_call("weather", {"city": "Ulm"})


@pytest.fixture(scope="module")
def world(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    wanted = ("openai3", "scenarios_anthropic")
    with served(upstream, tmp_path_factory.mktemp("anthropic"), wanted) as (gateway, [client]):
        yield gateway, client


@pytest.fixture
def gateway(world: World) -> Gateway:
    return world[0]


@pytest.fixture
def client(world: World) -> Clients:
    return world[1]


def paid(model: str, input_tokens: int, output_tokens: int, **parts: int) -> Paid:
    return chat_paid(input_tokens, output_tokens, endpoint="messages", model=model, **parts)


def text_answer(model: str, text: str, usage: tuple[int, int] = FIRST) -> bytes:
    if model == "rig-messages":
        return wire.reply(claude(claude_text(text), usage=usage))
    return wire.reply(wire.completion(text, usage=wire.usage(*usage)))


@pytest.mark.parametrize("scenario", ["create", "create_async"])
def test_a_providers_message_arrives_as_it_is(upstream: Upstream, client: Clients, scenario: str) -> None:
    answer = claude(claude_text("Grüße"), usage=(400, 700))
    answer["usage"]["cache_read_input_tokens"] = 600
    script = upstream.reply(answer)
    played = client.play(scenario, script, model="rig-messages", system="Be brief.")
    assert played.value["answer"] == answer
    request = script.request
    assert request.line.startswith("POST /v1/messages ")
    assert request.header("anthropic-version") == "2023-06-01"
    assert request.header("x-api-key")
    assert request.json == {
        "model": "upstream-native",
        "max_tokens": 800,
        "messages": [{"role": "user", "content": script.marker}],
        "system": "Be brief.",
    }
    played.assert_paid(paid("rig-messages", 1000, 700, cached=600))


@pytest.mark.parametrize("scenario", ["create", "create_async"])
def test_a_chat_model_answers_as_a_message(upstream: Upstream, client: Clients, scenario: str) -> None:
    script = upstream.reply(wire.completion("Grüße", usage=wire.usage(1000, 700, cached=600, reasoning=300)))
    played = client.play(scenario, script, model="rig-chat", system="Be brief.")
    answer = played.value["answer"]
    assert [block["text"] for block in answer["content"]] == ["Grüße"]
    assert (answer["type"], answer["role"], answer["stop_reason"]) == ("message", "assistant", "end_turn")
    usage = answer["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (400, 600, 700)
    assert [message["role"] for message in script.request.json["messages"]] == ["system", "user"]
    played.assert_paid(paid("rig-chat", 1000, 700, cached=600, reasoning=300))


@pytest.mark.parametrize("model", MODELS)
def test_the_request_id_is_where_the_sdk_looks_for_it(upstream: Upstream, client: Clients, model: str) -> None:
    """Anthropic's header for it is `request-id`."""
    played = client.play("create", in_turn(upstream, text_answer(model, "Hi")), model=model)
    assert played.value["request_id"] == played.entries[0]["request_id"]


def test_the_request_id_of_an_error_is_where_the_sdk_looks_for_it(client: Clients) -> None:
    assert client.play("refused", model="claude-nowhere").value["request_id"]


def test_a_providers_stream_arrives_as_it_is(upstream: Upstream, client: Clients) -> None:
    events = claude_events("Hel", "lo", usage=FIRST)
    played = client.play("create_stream", in_turn(upstream, event_stream(events)), model="rig-messages")
    assert played.value == [event for event in payloads(events) if event["type"] != "ping"]
    played.assert_paid(paid("rig-messages", *FIRST))


def streamed_answer(model: str) -> bytes:
    if model == "rig-messages":
        return event_stream(claude_events("Hel", "lo", usage=FIRST))
    return chat_events("Hel", "lo", usage=wire.usage(*FIRST))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scenario", ["stream", "stream_async"])
def test_the_stream_helper_gathers_the_message(upstream: Upstream, client: Clients, model: str, scenario: str) -> None:
    played = client.play(scenario, in_turn(upstream, streamed_answer(model)), model=model)
    final = played.value["final"]
    assert played.value["texts"] == ["Hel", "lo"]
    assert ("".join(block["text"] for block in final["content"]), final["stop_reason"]) == ("Hello", "end_turn")
    assert final["usage"]["output_tokens"] == 4
    played.assert_paid(paid(model, *FIRST))


@pytest.mark.parametrize("model", MODELS)
def test_a_round_of_tools(upstream: Upstream, client: Clients, model: str) -> None:
    called = (
        wire.reply(claude(claude_call(WEATHER), usage=FIRST, stop="tool_use"))
        if model == "rig-messages"
        else tool_completion(WEATHER, usage=wire.usage(*FIRST))
    )
    script = in_turn(upstream, called, text_answer(model, "Sunny.", SECOND))
    played = client.play("tools", script, model=model)
    assert played.value == {"input": {"city": "Ulm"}, "stop": "tool_use", "text": "Sunny."}
    assert "sunny" in script.requests[1].body.decode()
    if model == "rig-chat":
        first, last = (request.json for request in script.requests)
        assert (first["tools"][0]["function"]["name"], first["tool_choice"]) == ("weather", "required")
        assert [message["role"] for message in last["messages"]] == ["user", "assistant", "tool"]
    played.assert_paid(paid(model, *FIRST), paid(model, *SECOND))


def test_a_chat_models_streamed_tools(upstream: Upstream, client: Clients) -> None:
    played = client.play("tools_stream", in_turn(upstream, tool_events(WEATHER, wire.usage(*FIRST))), model="rig-chat")
    assert played.value == {"id": "call_1", "input": {"city": "Ulm"}, "stop": "tool_use"}
    played.assert_paid(paid("rig-chat", *FIRST))


@pytest.mark.parametrize("model", MODELS)
def test_tokens_are_counted_for_nothing(client: Clients, model: str) -> None:
    played = client.play("count", model=model)
    assert 100 <= played.value <= 130
    assert played.entries == []


# Errors


def assert_told(value: dict[str, Any], name: str, type: str) -> None:
    assert (value["class"], value["body"]["type"], value["body"]["error"]["type"]) == (name, "error", type), value
    assert value["body"]["error"]["message"]


def test_an_unknown_key(gateway: Gateway, client: Clients) -> None:
    played = client.play("refused", key=Key("none", "sk-gw-unknown-key", gateway.new_creator()), model="rig-chat")
    assert_told(played.value, "AuthenticationError", "authentication_error")


def test_an_unknown_model(client: Clients) -> None:
    assert_told(client.play("refused", model="claude-nowhere").value, "NotFoundError", "not_found_error")


def test_a_bad_parameter(client: Clients) -> None:
    value = client.play("refused", model="rig-chat", max_tokens=0).value
    assert_told(value, "BadRequestError", "invalid_request_error")


def test_a_model_the_key_may_not_use(gateway: Gateway, client: Clients) -> None:
    played = client.play("refused", key=gateway.new_key(models=["rig-cheap"]), model="rig-chat")
    assert_told(played.value, "PermissionDeniedError", "permission_error")


def test_a_used_up_quota_is_asked_once(gateway: Gateway, upstream: Upstream, client: Clients) -> None:
    key = gateway.new_key(gateway.new_creator("open", quota_usd_per_month=0))
    script = upstream.reply(wire.completion(usage=wire.usage(*FIRST)))
    played = client.play("refused", script, key=key, model="rig-chat")
    assert_told(played.value, "RateLimitError", "rate_limit_error")
    assert script.requests == []


def test_an_overloaded_provider_is_asked_three_times(upstream: Upstream, client: Clients) -> None:
    body = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    script = upstream.reply(body, 529, [("retry-after-ms", "1")])
    played = client.play("refused", script, model="rig-messages")
    told = played.value["body"]["error"]
    assert (told["type"], told["message"]) == ("overloaded_error", "Overloaded")
    assert len(script.requests) == 3
    played.assert_free()


def test_a_refusal_of_the_provider_keeps_its_words(upstream: Upstream, client: Clients) -> None:
    text = "prompt is too long: 210000 tokens > 200000 maximum"
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": text}}
    played = client.play("refused", upstream.reply(body, 400), model="rig-messages")
    assert_told(played.value, "BadRequestError", "invalid_request_error")
    assert text in played.value["body"]["error"]["message"]
    played.assert_free()


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_that_breaks_off_is_raised(upstream: Upstream, client: Clients, model: str) -> None:
    """A cut stream must not look like a short answer."""
    if model == "rig-messages":
        answer = event_stream(claude_events("Hel", "lo", usage=FIRST)[:5])
    else:
        answer = event_stream(wire.text_events("Hel", "lo", finish=None))
    played = client.play("refused_in_stream", in_turn(upstream, answer), model=model)
    assert played.value["body"]["error"]["message"]
    [entry] = played.entries
    assert entry["cost_nano_usd"] > 0
    assert entry["outcome"] != "ok"
