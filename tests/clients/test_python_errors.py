"""What the OpenAI SDK for Python raises through the gateway: the class, the code, the request id, and how often it asked."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.python.answers import in_turn
from tests.clients.python.world import Clients, chat_paid, served
from tests.rig import wire
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Gate, Send, Upstream
from tests.rig.waiting import eventually

FAMILIES = ("openai3", "openai2")
USAGE = wire.usage(9, 4)

World = tuple[Gateway, dict[str, Clients]]


@pytest.fixture(scope="module")
def world(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    wanted = [(family, "scenarios_errors") for family in FAMILIES]
    with served(upstream, tmp_path_factory.mktemp("errors"), *wanted) as (gateway, clients):
        yield gateway, dict(zip(FAMILIES, clients, strict=True))


@pytest.fixture
def gateway(world: World) -> Gateway:
    return world[0]


@pytest.fixture(params=FAMILIES)
def client(world: World, request: pytest.FixtureRequest) -> Clients:
    return world[1][request.param]


def error(message: str, code: str | None, type: str = "invalid_request_error", param: str | None = None) -> Any:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def assert_told(value: dict[str, Any], name: str, code: str, attempts: int = 1) -> None:
    """The class and code that programs branch on, the id that support asks for, and no retry too many."""
    assert (value["class"], value["code"], value["attempts"]) == (name, code, attempts), value
    assert value["request_id"] == value["headers"]["x-request-id"]
    assert value["message"]


def test_an_unknown_key(gateway: Gateway, client: Clients) -> None:
    unknown = Key("none", "sk-gw-unknown-key", gateway.new_creator())
    assert_told(client.play("chat", key=unknown).value, "AuthenticationError", "invalid_api_key")


@pytest.mark.parametrize("scenario", ["chat", "chat_stream"])
def test_an_unknown_model(client: Clients, scenario: str) -> None:
    played = client.play(scenario, model="gpt-nowhere")
    assert_told(played.value, "NotFoundError", "model_not_found")
    assert "gpt-nowhere" in played.value["message"]
    assert played.entries == []


def test_an_error_of_the_async_client(client: Clients) -> None:
    value = client.play("chat_async").value
    assert (value["class"], value["code"], bool(value["request_id"])) == ("NotFoundError", "model_not_found", True)


def test_an_unknown_model_is_told_alike_at_every_endpoint(client: Clients) -> None:
    played = client.play("every_endpoint")
    for value in played.value.values():
        assert_told(value, "NotFoundError", "model_not_found")
    assert played.entries == []


def test_a_part_of_the_api_that_is_missing_is_not_found(client: Clients) -> None:
    value = client.play("unknown_path").value
    assert (value["class"], value["attempts"], bool(value["request_id"])) == ("NotFoundError", 1, True)
    assert value["type"] == "invalid_request_error"


def test_a_model_the_key_may_not_use(gateway: Gateway, client: Clients) -> None:
    played = client.play("chat", key=gateway.new_key(models=["rig-cheap"]))
    assert (played.value["class"], played.value["attempts"]) == ("PermissionDeniedError", 1)
    assert played.value["request_id"]


def test_a_bad_parameter(client: Clients) -> None:
    value = client.play("chat", max_tokens=0).value
    assert (value["class"], value["param"], value["type"]) == ("BadRequestError", "max_tokens", "invalid_request_error")
    assert value["attempts"] == 1


def test_a_prompt_too_long_for_the_provider(upstream: Upstream, client: Clients) -> None:
    """Agents shorten their history on this code."""
    text = "This model's maximum context length is 128000 tokens. However, your messages resulted in 130001 tokens."
    script = upstream.reply(error(text, "context_length_exceeded", param="messages"), 400)
    played = client.play("chat", script)
    assert_told(played.value, "BadRequestError", "context_length_exceeded")
    assert "maximum context length" in played.value["message"]
    assert played.value["param"] == "messages"
    played.assert_free()


def test_a_used_up_quota_is_asked_once(gateway: Gateway, upstream: Upstream, client: Clients) -> None:
    key = gateway.new_key(gateway.new_creator("open", quota_usd_per_month=0))
    script = upstream.reply(wire.completion(usage=USAGE))
    played = client.play("chat", script, key=key)
    assert_told(played.value, "RateLimitError", "insufficient_quota")
    assert script.requests == []


def test_a_rate_limit_with_a_long_wait_is_asked_once(gateway: Gateway, upstream: Upstream, client: Clients) -> None:
    key = gateway.new_key(gateway.new_creator("open", requests_per_hour=1))
    script = upstream.reply(wire.completion("Hi", usage=USAGE))
    assert client.play("healed", script, key=key).value == {"content": "Hi", "retries": 0, "attempts": 1}
    played = client.play("chat", script, key=key)
    assert_told(played.value, "RateLimitError", "rate_limit_exceeded")
    assert int(played.value["headers"]["retry-after"]) > 60
    assert len(script.requests) == 1
    played.assert_paid(chat_paid(9, 4))


@pytest.mark.parametrize(
    ("status", "name"), [(429, "RateLimitError"), (500, "InternalServerError"), (503, "InternalServerError")]
)
def test_what_may_heal_is_asked_three_times(upstream: Upstream, client: Clients, status: int, name: str) -> None:
    script = upstream.reply(error("try again", "busy", "server_error"), status, [("retry-after-ms", "1")])
    played = client.play("chat", script)
    assert_told(played.value, name, "busy", attempts=3)
    assert len(script.requests) == 3, "the SDK asks three times, and the gateway adds none"
    played.assert_free()


def test_a_retry_that_succeeds_is_the_only_one_paid(upstream: Upstream, client: Clients) -> None:
    busy = wire.reply(error("try again", "busy", "server_error"), 503, [("retry-after-ms", "1")])
    script = in_turn(upstream, busy, wire.reply(wire.completion("at last", usage=USAGE)))
    played = client.play("healed", script)
    assert played.value == {"content": "at last", "retries": 1, "attempts": 2}
    costs = [entry["cost_nano_usd"] for entry in played.entries]
    assert sorted(costs) == [0, chat_paid(9, 4).cost_nano_usd]


def test_what_concerns_the_operator_is_asked_once(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(error("Incorrect API key provided", "invalid_api_key"), 401)
    played = client.play("chat", script)
    assert_told(played.value, "InternalServerError", "provider_unavailable")
    assert "API key" not in played.value["message"]
    played.assert_free()


def test_an_error_inside_a_stream_is_raised_after_what_came(upstream: Upstream, client: Clients) -> None:
    failed = wire.event(error("The model is overloaded.", "overloaded", "server_error"))
    script = upstream.stream(*wire.text_events("Hel", "lo", finish=None), failed)
    value = client.play("chat_stream_async", script).value
    assert (value["class"], value["code"], value["text"]) == ("APIError", "overloaded", "Hello")
    assert "overloaded" in value["message"]


def test_a_stream_that_breaks_off_is_raised_and_estimated(upstream: Upstream, client: Clients) -> None:
    script = upstream.stream(*wire.text_events("Hel", "lo", finish=None))
    played = client.play("chat_stream", script)
    assert played.value["class"] == "APIError"
    [entry] = played.entries
    assert (entry["usage_source"], entry["output_tokens"]) == ("estimated", 2)


def test_a_timeout_of_the_client_is_raised_and_the_call_is_still_booked(upstream: Upstream, client: Clients) -> None:
    """The provider goes on and will be paid: so is the gateway."""
    gate = Gate()
    script = upstream.script(gate, Send(wire.reply(wire.completion("late", usage=USAGE))))
    played = client.play("too_slow", script)
    assert (played.value["class"], played.value["attempts"]) == ("APITimeoutError", 1)
    gate.open()
    [entry] = eventually(lambda: played.entries, "an entry")
    assert entry["cost_nano_usd"] == chat_paid(9, 4).cost_nano_usd
