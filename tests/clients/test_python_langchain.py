"""langchain-openai through the gateway."""

import base64
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.python.answers import chat_events, in_turn, tool_call, tool_completion, tool_events
from tests.clients.python.world import Clients, Paid, chat_paid, served
from tests.rig import wire
from tests.rig.upstream import Upstream

USAGE = wire.usage(9, 4)
FULL = wire.usage(1000, 700, cached=600, reasoning=300)
WEATHER = tool_call("weather", {"city": "Ulm"})
ULM = {"name": "Ulm", "people": 128928}
VECTOR = [0.25, -1.5, 3.0]


@pytest.fixture(scope="module")
def client(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    with served(upstream, tmp_path_factory.mktemp("langchain"), ("openai3", "scenarios_langchain")) as (_, [client]):
        yield client


@pytest.mark.parametrize("scenario", ["invoke", "invoke_async"])
def test_an_answer_has_its_usage(upstream: Upstream, client: Clients, scenario: str) -> None:
    played = client.play(scenario, upstream.reply(wire.completion("Grüße", usage=FULL)))
    assert (played.value["content"], played.value["model"]) == ("Grüße", "upstream-chat")
    usage = played.value["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (1000, 700)
    assert (usage["input_token_details"]["cache_read"], usage["output_token_details"]["reasoning"]) == (600, 300)
    played.assert_paid(chat_paid(1000, 700, cached=600, reasoning=300))


@pytest.mark.parametrize("scenario", ["stream", "stream_async"])
@pytest.mark.parametrize("stream_usage", [True, False])
def test_a_stream_is_paid_whether_or_not_its_usage_was_asked_for(
    upstream: Upstream, client: Clients, scenario: str, stream_usage: bool
) -> None:
    script = in_turn(upstream, chat_events("Hel", "lo", usage=FULL))
    played = client.play(scenario, script, stream_usage=stream_usage)
    assert played.value["texts"] == ["Hel", "lo"]
    assert bool(played.value["usage"]) is stream_usage
    assert script.request.json["stream_options"] == {"include_usage": True}
    played.assert_paid(chat_paid(1000, 700, cached=600, reasoning=300))


def test_a_round_of_tools(upstream: Upstream, client: Clients) -> None:
    script = in_turn(upstream, tool_completion(WEATHER, usage=USAGE), wire.reply(wire.completion("Sunny.", usage=FULL)))
    played = client.play("tools", script)
    assert played.value["calls"] == [{"name": "weather", "args": {"city": "Ulm"}, "id": "call_1", "type": "tool_call"}]
    assert played.value["answer"] == "Sunny."
    assert script.requests[0].json["tools"][0]["function"]["strict"] is True
    assert script.requests[1].json["messages"][2]["content"] == "sunny in Ulm"
    played.assert_paid(chat_paid(9, 4), chat_paid(1000, 700, cached=600, reasoning=300))


def test_streamed_tools(upstream: Upstream, client: Clients) -> None:
    played = client.play("tools_stream", in_turn(upstream, tool_events(WEATHER, USAGE)))
    assert [(call["name"], call["args"]) for call in played.value["calls"]] == [("weather", {"city": "Ulm"})]
    played.assert_paid(chat_paid(9, 4))


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(upstream: Upstream, client: Clients, method: str) -> None:
    text = wire.reply(wire.completion('{"name":"Ulm","people":128928}', usage=USAGE))
    called = tool_completion(tool_call("City", ULM), usage=USAGE)
    script = in_turn(upstream, called if method == "function_calling" else text)
    played = client.play("structured", script, method=method)
    assert played.value == ULM
    sent: dict[str, Any] = script.request.json
    if method == "function_calling":
        assert sent["tool_choice"] == {"type": "function", "function": {"name": "City"}}
        assert sent["parallel_tool_calls"] is False
    else:
        assert sent["response_format"]["type"] == {"json_schema": "json_schema", "json_mode": "json_object"}[method]
    played.assert_paid(chat_paid(9, 4))


def test_the_responses_api_over_a_chat_model(upstream: Upstream, client: Clients) -> None:
    played = client.play("by_responses", upstream.reply(wire.completion("Hello", usage=USAGE)))
    assert played.value["text"] == "Hello"
    assert played.value["usage"]["total_tokens"] == 13
    played.assert_paid(chat_paid(9, 4, endpoint="responses"))


def embedded(count: int, tokens: int, *, packed: bool = True) -> dict[str, Any]:
    vector: Any = base64.b64encode(struct.pack("<3f", *VECTOR)).decode() if packed else VECTOR
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": "rig-embed", "usage": usage}


def test_documents_are_embedded_as_tokens(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(embedded(2, 4))
    played = client.play("embed", script)
    assert played.value == [VECTOR, VECTOR]
    assert script.request.json["input"] == [[97, 98, 99], [100]]
    played.assert_paid(Paid("embeddings", "rig-embed", 4, 0, 4 * 130))


def test_a_query_is_embedded_as_tokens(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(embedded(1, 3))
    played = client.play("embed_async", script)
    assert played.value == VECTOR
    assert script.request.json["input"] == [[97, 98, 99]]
    played.assert_paid(Paid("embeddings", "rig-embed", 3, 0, 3 * 130))


def test_a_query_is_embedded_as_text(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(embedded(1, 3))
    played = client.play("embed_texts", script)
    assert played.value == VECTOR
    assert (script.request.json["input"], script.request.json["dimensions"]) == (["abc"], 3)
    played.assert_paid(Paid("embeddings", "rig-embed", 3, 0, 3 * 130))
