"""Anthropic's client for Node on `/v1/messages`, which the gateway turns into chat for models that only have that."""

from typing import Any

from tests.clients.conftest import Play
from tests.clients.test_node_openai import BUSY, CALL, TOOL, USAGE, assert_charged
from tests.rig import wire
from tests.rig.gateway import Gateway, Key, prompt
from tests.rig.upstream import Script, Upstream

WEATHER = {"name": "weather", "description": "Of a city.", "input_schema": TOOL["function"]["parameters"]}


def asked(script: Script | None, **fields: Any) -> dict[str, Any]:
    words = prompt(script)
    return {"model": "rig-chat", "max_tokens": 100, "messages": [{"role": "user", "content": words}], **fields}


def test_a_message(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.reply(wire.completion("Hello!", usage=USAGE))
    seen = play("anthropic", "message", body=asked(script, system="Be brief."))
    assert seen.error is None
    assert seen.result["content"] == [{"type": "text", "text": "Hello!"}]
    assert (seen.result["stop_reason"], seen.result["role"]) == ("end_turn", "assistant")
    assert (seen.result["usage"]["input_tokens"], seen.result["usage"]["output_tokens"]) == (9, 4)
    assert seen.requests == ["POST /v1/messages"]
    assert script.request.json["messages"][0]["content"] == "Be brief."
    assert assert_charged(kit, kit_key)["endpoint"] == "messages"


def test_a_streamed_message(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.stream(*wire.text_events("Hel", "lo"), wire.event(wire.usage_chunk(USAGE)), wire.DONE)
    seen = play("anthropic", "stream", body=asked(script))
    assert seen.error is None
    assert seen.result["deltas"] == ["Hel", "lo"]
    assert seen.result["content"][0]["text"] == "Hello"
    assert (seen.result["stop"], seen.result["usage"]["output_tokens"]) == ("end_turn", 4)
    assert_charged(kit, kit_key)


def test_a_tool_call(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.reply(wire.completion(None, usage=USAGE, finish="tool_calls", tool_calls=[CALL]))
    seen = play("anthropic", "message", body=asked(script, tools=[WEATHER]))
    assert seen.error is None
    [call] = seen.result["content"]
    assert (call["type"], call["id"], call["name"], call["input"]) == ("tool_use", "call_1", "weather", {"city": "Ulm"})
    assert seen.result["stop_reason"] == "tool_use"
    [tool] = script.request.json["tools"]
    assert tool["function"]["parameters"] == WEATHER["input_schema"]
    assert_charged(kit, kit_key)


def test_a_streamed_tool_call(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}
    script = upstream.stream(
        wire.event(wire.chunk(role="assistant", tool_calls=[first])),
        wire.event(wire.chunk(tool_calls=[{"index": 0, "function": {"arguments": '"Ulm"}'}}])),
        wire.event(wire.chunk(finish="tool_calls")),
        wire.event(wire.usage_chunk(USAGE)),
        wire.DONE,
    )
    seen = play("anthropic", "stream", body=asked(script, tools=[WEATHER]))
    assert seen.error is None
    [call] = seen.result["content"]
    assert (call["name"], call["input"]) == ("weather", {"city": "Ulm"})
    assert_charged(kit, kit_key)


def test_the_tokens_of_a_prompt_are_counted_without_asking_a_model(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play
) -> None:
    script = upstream.reply({})
    body = {"model": "rig-chat", "messages": asked(script)["messages"]}
    seen = play("anthropic", "countTokens", body=body)
    assert seen.error is None
    assert seen.result["input_tokens"] > 0
    assert (script.requests, kit.entries(creator=kit_key.creator)) == ([], [])


def test_models_as_anthropic_lists_them(play: Play) -> None:
    assert "rig-chat" in play("anthropic", "models").result


def test_an_unknown_model(play: Play) -> None:
    seen = play("anthropic", "message", body=asked(None, model="gpt-nowhere"))
    assert (seen.error["class"], seen.error["status"]) == ("NotFoundError", 404)
    assert seen.error["body"]["error"]["type"] == "not_found_error"


def test_a_bad_key(play: Play) -> None:
    seen = play("anthropic", "message", body=asked(None), apiKey="sk-gw-unknown-key")
    assert (seen.error["class"], seen.error["status"]) == ("AuthenticationError", 401)
    assert seen.error["body"]["error"]["type"] == "authentication_error"


def test_an_error_of_the_provider(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    seen = play("anthropic", "message", body=asked(upstream.reply(BUSY, 503)), maxRetries=0)
    assert seen.error["status"] == 503
    assert kit.entry(kit_key)["cost_nano_usd"] == 0


def test_an_error_inside_a_stream_is_raised(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    error = {
        "error": {"message": "The model is overloaded.", "type": "server_error", "param": None, "code": "overload"}
    }
    script = upstream.stream(*wire.text_events("a", finish=None), wire.event(error))
    seen = play("anthropic", "stream", body=asked(script), maxRetries=0)
    assert "overloaded" in seen.error["message"]
    assert kit.entry(kit_key)["outcome"] == "upstream_error"
