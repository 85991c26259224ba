"""litellm's own client through the gateway."""

from collections.abc import Iterator

import pytest

from tests.clients.python.answers import chat_events, in_turn, tool_call, tool_completion
from tests.clients.python.world import Clients, Paid, chat_paid, served
from tests.rig import wire
from tests.rig.upstream import Upstream

USAGE = wire.usage(1000, 700, cached=600, reasoning=300)
PAID = chat_paid(1000, 700, cached=600, reasoning=300)


@pytest.fixture(scope="module")
def client(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    with served(upstream, tmp_path_factory.mktemp("litellm"), ("litellm", "scenarios_litellm")) as (_, [client]):
        yield client


@pytest.mark.parametrize("scenario", ["whole", "whole_async"])
def test_a_whole_answer(upstream: Upstream, client: Clients, scenario: str) -> None:
    script = upstream.reply(wire.completion("Grüße", usage=USAGE))
    played = client.play(scenario, script)
    assert played.value == {"content": "Grüße", "total": 1700}
    assert script.request.json["messages"] == [{"role": "user", "content": script.marker}]
    played.assert_paid(PAID)


def test_a_stream_with_usage(upstream: Upstream, client: Clients) -> None:
    played = client.play("stream", in_turn(upstream, chat_events("Hel", "lo", usage=USAGE)))
    assert played.value == {"texts": ["Hel", "lo"], "total": 1700}
    played.assert_paid(PAID)


def test_an_async_stream_without_usage(upstream: Upstream, client: Clients) -> None:
    played = client.play("stream_async", in_turn(upstream, chat_events("Hel", "lo", usage=USAGE)))
    assert played.value == {"texts": ["Hel", "lo"]}
    played.assert_paid(PAID)


def test_tools(upstream: Upstream, client: Clients) -> None:
    call = tool_call("weather", {"city": "Ulm"})
    script = in_turn(upstream, tool_completion(call, usage=USAGE))
    played = client.play("tools", script)
    assert played.value == {"id": "call_1", **call["function"]}
    assert script.request.json["tool_choice"] == "required"
    played.assert_paid(PAID)


def test_reasoning_of_a_provider_arrives(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(wire.completion("42", usage=USAGE, reasoning_content="Let me see."))
    played = client.play("reasoning", script)
    assert played.value == {"reasoning": "Let me see."}
    played.assert_paid(PAID)


def test_embeddings(upstream: Upstream, client: Clients) -> None:
    data = [{"object": "embedding", "index": index, "embedding": [0.25, -1.5]} for index in (0, 1)]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    script = upstream.reply({"object": "list", "data": data, "model": "rig-embed", "usage": usage})
    played = client.play("embedding", script)
    assert played.value == {"vectors": [[0.25, -1.5]] * 2, "total": 7}
    assert script.request.json["input"] == ["one", "two"]
    played.assert_paid(Paid("embeddings", "rig-embed", 7, 0, 7 * 130))


def test_an_unknown_model(client: Clients) -> None:
    value = client.play("refused", model="openai/gpt-nowhere").value
    assert (value["class"], value["status_code"]) == ("NotFoundError", 404)
    assert "gpt-nowhere" in value["message"]


def test_a_prompt_too_long_is_known_as_such(upstream: Upstream, client: Clients) -> None:
    """Fallbacks to models with more room hang on this class."""
    text = "This model's maximum context length is 128000 tokens. However, your messages resulted in 130001 tokens."
    error = {"message": text, "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}
    played = client.play("refused", upstream.reply({"error": error}, 400))
    assert played.value["class"] == "ContextWindowExceededError"
    played.assert_free()


def test_a_rate_limit_of_the_provider(upstream: Upstream, client: Clients) -> None:
    error = {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    script = upstream.reply({"error": error}, 429)
    played = client.play("refused", script)
    assert (played.value["class"], len(script.requests)) == ("RateLimitError", 1)
    played.assert_free()
