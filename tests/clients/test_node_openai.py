"""OpenAI's client for Node against the running gateway: chat, models and errors. Only its base URL and key are ours."""

from typing import Any

import pytest

from tests.clients.conftest import Begin, Play
from tests.clients.world import nano
from tests.rig import wire
from tests.rig.catalog import estimated_input, estimated_output
from tests.rig.gateway import Gateway, Key, chat_body, prompt
from tests.rig.upstream import Gate, Script, Send, Stall, Upstream
from tests.rig.waiting import eventually

USAGE = wire.usage(9, 4)
COST = nano(9, 4)
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CALL: dict[str, Any] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city":"Ulm"}'},
}
CITY: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "city",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
            "required": ["name", "people"],
            "additionalProperties": False,
        },
    },
}
BUSY = {"error": {"message": "try again", "type": "x", "param": None, "code": "busy"}}


def chat_stream(upstream: Upstream) -> Script:
    events = wire.text_events("Hel", "lo ", "Grüße")
    return upstream.stream(*events, wire.event(wire.usage_chunk(USAGE)), wire.DONE)


def assert_charged(kit: Gateway, key: Key, cost: int = COST) -> dict[str, Any]:
    """The only entry, which is as dear as reckoned by hand."""
    entry = kit.entry(key)
    assert (entry["outcome"], entry["usage_source"]) == ("ok", "provider")
    assert (entry["cost_nano_usd"], entry["charge_nano_usd"]) == (cost, cost)
    return entry


# Chat


def test_chat(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.reply(wire.completion("Hello!", usage=USAGE))
    seen = play("openai", "chat", body=chat_body(script, temperature=0.5))
    assert seen.error is None
    assert seen.result["choices"][0]["message"]["content"] == "Hello!"
    assert seen.result["usage"]["total_tokens"] == 13
    assert script.request.json["temperature"] == 0.5
    assert script.request.header("authorization") == f"Bearer {kit.provider_key}"
    entry = assert_charged(kit, kit_key)
    assert (entry["input_tokens"], entry["output_tokens"]) == (9, 4)
    assert entry["request_id"] == seen.result["request_id"]


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_has_usage_where_asked(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, include_usage: bool
) -> None:
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    chunks = play("openai", "chatStream", body=chat_body(chat_stream(upstream), **options)).result
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in chunks if chunk["choices"]]
    assert "".join(text or "" for text in texts) == "Hello Grüße"
    assert bool(chunks[-1].get("usage")) is include_usage
    assert_charged(kit, kit_key)


def test_the_stream_helper_puts_a_stream_together(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    result = play("openai", "chatStreamHelper", body=chat_body(chat_stream(upstream))).result
    assert result["deltas"] == ["Hel", "lo ", "Grüße"]
    assert result["choice"]["message"]["content"] == "Hello Grüße"
    assert result["choice"]["finish_reason"] == "stop"
    assert_charged(kit, kit_key)


def test_streamed_tools_are_put_together(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}
    script = upstream.stream(
        wire.event(wire.chunk(role="assistant", tool_calls=[first])),
        wire.event(wire.chunk(tool_calls=[{"index": 0, "function": {"arguments": '"Ulm"}'}}])),
        wire.event(wire.chunk(finish="tool_calls")),
        wire.event(wire.usage_chunk(USAGE)),
        wire.DONE,
    )
    result = play("openai", "chatStreamHelper", body=chat_body(script, tools=[TOOL])).result
    [call] = result["choice"]["message"]["tool_calls"]
    assert (call["id"], call["function"]["arguments"]) == ("call_1", '{"city":"Ulm"}')
    assert script.request.json["tools"] == [TOOL]
    assert_charged(kit, kit_key)


def test_a_tool_is_run_and_its_result_shown_to_the_model(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play
) -> None:
    answers = iter(
        [
            wire.reply(wire.completion(None, usage=USAGE, finish="tool_calls", tool_calls=[CALL])),
            wire.reply(wire.completion("21 degrees in Ulm.", usage=wire.usage(30, 6))),
        ]
    )
    script = upstream.answer_with(lambda _: [Send(next(answers))])
    result = play("openai", "chatRunTools", body=chat_body(script, tools=[TOOL])).result
    assert result == {"content": "21 degrees in Ulm.", "called": [{"city": "Ulm"}]}
    told = script.requests[1].json["messages"][-1]
    assert (told["role"], told["tool_call_id"], told["content"]) == ("tool", "call_1", '{"celsius":21}')
    costs = sorted(entry["cost_nano_usd"] for entry in kit.entries(creator=kit_key.creator))
    assert costs == [COST, nano(30, 6)]


def test_a_response_format_is_kept_and_its_answer_parsed(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play
) -> None:
    script = upstream.reply(wire.completion('{"name":"Ulm","people":128928}', usage=USAGE))
    seen = play("openai", "chatParse", body=chat_body(script, response_format=CITY))
    assert seen.result == {"name": "Ulm", "people": 128928}
    assert script.request.json["response_format"] == CITY
    assert_charged(kit, kit_key)


def test_a_stream_that_the_client_ends_is_charged_for_what_it_was_sent(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play
) -> None:
    role, *texts = wire.text_events("some ", "words ", finish=None)
    script = upstream.script(Send(wire.stream_head() + wire.framed(role + b"".join(texts))), Stall())
    result = play("openai", "chatAbort", body=chat_body(script), chunks=3).result
    assert result == ["", "some ", "words "]
    eventually(script.request.gone.is_set, "the end of the upstream call")
    entry = kit.entry(kit_key)
    assert entry["outcome"] == "client_gone"
    tokens = (estimated_input(prompt(script)), estimated_output("some ", "words "))
    assert (entry["input_tokens"], entry["output_tokens"]) == tokens
    assert entry["cost_nano_usd"] == nano(*tokens)


def test_completions(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    answer = {
        "id": "cmpl-rig",
        "object": "text_completion",
        "created": wire.CREATED,
        "model": "up-kit-completions",
        "choices": [{"text": " world", "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    script = upstream.reply(answer)
    seen = play("openai", "completion", body={"model": "kit-completions", "prompt": prompt(script), "max_tokens": 10})
    assert seen.result["choices"][0]["text"] == " world"
    assert script.request.line == "POST /v1/completions HTTP/1.1"
    assert assert_charged(kit, kit_key)["endpoint"] == "completions"


# Models


def test_models(play: Play) -> None:
    names = play("openai", "models").result
    assert {"rig-chat", "rig/with-slash", "kit-embed", "kit-native"} <= set(names)
    assert "rig-keyless" not in names


@pytest.mark.parametrize("name", ["rig-chat", "rig/with-slash"])
def test_a_model(play: Play, name: str) -> None:
    assert play("openai", "model", name=name).result["id"] == name


# Errors


def test_a_bad_key(kit: Gateway, play: Play) -> None:
    seen = play("openai", "chat", body=chat_body(), apiKey="sk-gw-unknown-key")
    assert (seen.error["class"], seen.error["status"]) == ("AuthenticationError", 401)
    assert seen.error["code"] == "invalid_api_key"
    assert len(seen.requests) == 1


@pytest.mark.parametrize(
    ("scenario", "fields"),
    [
        ("chat", {"messages": [{"role": "user", "content": "x"}]}),
        ("completion", {"prompt": "x"}),
        ("embeddings", {"input": "x"}),
        ("image", {"prompt": "x"}),
        ("speech", {"input": "x", "voice": "alloy"}),
        ("moderation", {"input": "x"}),
        ("response", {"input": "x"}),
    ],
)
def test_an_unknown_model(play: Play, scenario: str, fields: dict[str, Any]) -> None:
    seen = play("openai", scenario, body={"model": "gpt-nowhere", **fields})
    assert (seen.error["class"], seen.error["code"]) == ("NotFoundError", "model_not_found")
    assert "gpt-nowhere" in seen.error["message"]
    assert seen.error["requestID"]
    assert len(seen.requests) == 1


def test_a_model_of_another_endpoint(play: Play) -> None:
    seen = play("openai", "chat", body=chat_body(model="kit-embed"))
    assert (seen.error["status"], seen.error["code"]) == (400, "endpoint_not_supported")
    assert "kit-embed" in seen.error["message"]


def test_a_bad_request(play: Play) -> None:
    seen = play("openai", "chat", body=chat_body(max_tokens=0))
    assert (seen.error["class"], seen.error["param"]) == ("BadRequestError", "max_tokens")
    assert len(seen.requests) == 1


def test_an_error_inside_a_stream_is_raised(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    error = {
        "error": {"message": "The model is overloaded.", "type": "server_error", "param": None, "code": "overload"}
    }
    script = upstream.stream(*wire.text_events("a", finish=None), wire.event(error))
    seen = play("openai", "chatStream", body=chat_body(script))
    assert seen.error["code"] == "overload"
    assert "overloaded" in seen.error["message"]
    assert kit.entry(kit_key)["outcome"] == "upstream_error"


def test_a_stream_that_broke_is_raised(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    """A cut stream must not look like a short answer."""
    script = upstream.stream(*wire.text_events("a", finish=None))
    seen = play("openai", "chatStream", body=chat_body(script))
    assert seen.error["message"]
    assert kit.entry(kit_key)["outcome"] == "upstream_died"


# Retries


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_second_try_that_succeeds_is_the_only_one_charged(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, status: int
) -> None:
    answers = iter(
        [wire.reply(BUSY, status, [("retry-after-ms", "1")]), wire.reply(wire.completion("at last", usage=USAGE))]
    )
    script = upstream.answer_with(lambda _: [Send(next(answers))])
    seen = play("openai", "chat", body=chat_body(script))
    assert seen.result["choices"][0]["message"]["content"] == "at last"
    assert len(seen.requests) == 2
    costs = sorted(entry["cost_nano_usd"] for entry in kit.entries(creator=kit_key.creator))
    assert costs == [0, COST]


def test_a_limit_of_ours_is_waited_for_as_long_as_it_says(upstream: Upstream, kit: Gateway, begin: Begin) -> None:
    """One call at once: the second is told to come back soon, and finds room when the first has ended."""
    key = kit.new_key(kit.new_creator("open", concurrent_calls=1))
    gate = Gate()
    slow = upstream.script(gate, Send(wire.reply(wire.completion("first", usage=USAGE))))
    quick = upstream.reply(wire.completion("second", usage=USAGE))
    first = begin("openai", "chat", body=chat_body(slow), apiKey=key.key)
    eventually(gate.is_reached.is_set, "the first call at the upstream")
    second = begin("openai", "chat", body=chat_body(quick), apiKey=key.key)
    eventually(lambda: second.exchanges, "a refusal")
    gate.open()
    assert first.seen().result["choices"][0]["message"]["content"] == "first"
    seen = second.seen()
    assert seen.result["choices"][0]["message"]["content"] == "second"
    assert (seen.exchanges[0].status, seen.exchanges[-1].status) == (429, 200)
    assert len(quick.requests) == 1


def test_a_limit_that_lasts_is_asked_once(upstream: Upstream, kit: Gateway, play: Play) -> None:
    key = kit.new_key(kit.new_creator("open", requests_per_hour=1))
    script = upstream.reply(wire.completion(usage=USAGE))
    assert play("openai", "chat", body=chat_body(script), apiKey=key.key).error is None
    seen = play("openai", "chat", body=chat_body(script), apiKey=key.key)
    assert (seen.error["class"], seen.error["code"]) == ("RateLimitError", "rate_limit_exceeded")
    assert len(seen.requests) == 1


def test_a_used_up_quota_is_asked_once(upstream: Upstream, kit: Gateway, play: Play) -> None:
    key = kit.new_key(kit.new_creator("open", quota_usd_per_month=0))
    script = upstream.reply(wire.completion(usage=USAGE))
    seen = play("openai", "chat", body=chat_body(script), apiKey=key.key)
    assert (seen.error["code"], len(seen.requests), len(script.requests)) == ("insufficient_quota", 1, 0)
