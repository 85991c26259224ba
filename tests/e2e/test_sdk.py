"""The official OpenAI SDK against the running gateway: only the base URL and the key are changed."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.rig import wire
from tests.rig.gateway import Gateway, Key, prompt
from tests.rig.upstream import Script, Send, Upstream

USAGE = wire.usage(9, 4)
TOOL: Any = {
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


class Attempts(list[str]):
    """Every request the SDK made, its retries included."""

    def note(self, request: Any) -> None:
        self.append(f"{request.method} {request.url.path}")


@pytest.fixture
def attempts() -> Attempts:
    return Attempts()


@pytest.fixture
def client(gateway: Gateway, key: Key, attempts: Attempts) -> Iterator[openai.OpenAI]:
    http_client = openai.DefaultHttpxClient(trust_env=False, event_hooks={"request": [attempts.note]})
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key.key, http_client=http_client) as client:
        yield client


@pytest.fixture
async def async_client(gateway: Gateway, key: Key) -> AsyncIterator[openai.AsyncOpenAI]:
    http_client = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1/", api_key=key.key, http_client=http_client) as client:
        yield client


def asked(script: Script | None, **fields: Any) -> dict[str, Any]:
    return {"model": "rig-chat", "messages": [{"role": "user", "content": prompt(script)}], **fields}


def chat_stream(upstream: Upstream) -> Script:
    events = wire.text_events("Hel", "lo ", "Grüße")
    return upstream.stream(*events, wire.event(wire.usage_chunk(USAGE)), wire.DONE)


# Chat


def test_chat(gateway: Gateway, upstream: Upstream, key: Key, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**asked(upstream.reply(wire.completion("Hello!", usage=USAGE))))
    assert answer.choices[0].message.content == "Hello!"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 13
    assert answer._request_id == gateway.entry(key)["request_id"]


async def test_async_chat(gateway: Gateway, upstream: Upstream, key: Key, async_client: openai.AsyncOpenAI) -> None:
    answer = await async_client.chat.completions.create(**asked(upstream.reply(wire.completion("Hi", usage=USAGE))))
    assert answer.choices[0].message.content == "Hi"
    assert answer._request_id == gateway.entry(key)["request_id"]


def test_a_stream_has_no_usage_unless_asked(
    gateway: Gateway, upstream: Upstream, key: Key, client: openai.OpenAI
) -> None:
    chunks = list(client.chat.completions.create(**asked(chat_stream(upstream), stream=True)))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello Grüße"
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert gateway.entry(key)["usage_source"] == "provider"


def test_a_stream_has_usage_when_asked(gateway: Gateway, upstream: Upstream, key: Key, client: openai.OpenAI) -> None:
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**asked(chat_stream(upstream), stream=True, stream_options=options)))
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (9, 4)
    assert gateway.entry(key)["output_tokens"] == 4


@pytest.mark.parametrize("include_usage", [False, True])
async def test_async_stream(
    gateway: Gateway, upstream: Upstream, key: Key, async_client: openai.AsyncOpenAI, include_usage: bool
) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if include_usage else {}
    script = chat_stream(upstream)
    stream = await async_client.chat.completions.create(**asked(script, stream=True, **options))
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Hello Grüße"
    assert bool(chunks[-1].usage) is include_usage
    assert gateway.entry(key)["output_tokens"] == 4


def test_the_request_id_of_a_stream_is_the_ledgers(
    gateway: Gateway, upstream: Upstream, key: Key, client: openai.OpenAI
) -> None:
    with client.chat.completions.with_streaming_response.create(**asked(chat_stream(upstream), stream=True)) as answer:
        request_id = answer.headers["x-request-id"]
        answer.read()
    assert request_id == gateway.entry(key)["request_id"]


async def test_streams_on_one_client_share_a_connection(
    gateway: Gateway, upstream: Upstream, key: Key, async_client: openai.AsyncOpenAI
) -> None:
    """The body ends right after `[DONE]`; the SDK would give up the connection otherwise."""
    for _ in range(3):
        stream = await async_client.chat.completions.create(**asked(chat_stream(upstream), stream=True))
        assert [chunk async for chunk in stream]
    assert len(gateway.entries(creator=key.creator)) == 3


# Tools and structured output


def test_tools(upstream: Upstream, client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}}
    script = upstream.reply(wire.completion(None, usage=USAGE, finish="tool_calls", tool_calls=[call]))
    answer = client.chat.completions.create(**asked(script, tools=[TOOL], tool_choice="required"))
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].to_dict() == call
    assert script.request.json["tools"] == [TOOL]
    assert script.request.json["tool_choice"] == "required"


def test_streamed_tools(upstream: Upstream, client: openai.OpenAI) -> None:
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}
    events = [
        wire.event(wire.chunk(role="assistant", tool_calls=[first])),
        wire.event(wire.chunk(tool_calls=[{"index": 0, "function": {"arguments": '"Ulm"}'}}])),
        wire.event(wire.chunk(finish="tool_calls")),
        wire.event(wire.usage_chunk(USAGE)),
        wire.DONE,
    ]
    with client.chat.completions.stream(**asked(upstream.stream(*events), tools=[TOOL])) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.arguments == '{"city":"Ulm"}'


class City(BaseModel):
    name: str
    people: int


def test_a_response_format_reaches_the_provider_and_its_answer_is_parsed(
    upstream: Upstream, client: openai.OpenAI
) -> None:
    script = upstream.reply(wire.completion('{"name":"Ulm","people":128928}', usage=USAGE))
    answer = client.chat.completions.parse(**asked(script, response_format=City))
    assert answer.choices[0].message.parsed == City(name="Ulm", people=128928)
    sent = script.request.json["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["strict"] is True


# Models


def test_models_are_those_the_key_may_use(client: openai.OpenAI) -> None:
    listed = client.models.list()
    names = {model.id for model in listed}
    assert {"rig-chat", "rig-cheap", "rig/with-slash"} <= names
    assert "rig-keyless" not in names
    assert {model.object for model in listed} == {"model"}
    assert all(model.created is not None and model.owned_by for model in listed)


@pytest.mark.parametrize("name", ["rig-chat", "rig/with-slash"])
def test_a_model_is_found_by_its_name(client: openai.OpenAI, name: str) -> None:
    assert client.models.retrieve(name).id == name


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-nowhere")
    assert caught.value.code == "model_not_found"


async def test_models_of_the_async_client(async_client: openai.AsyncOpenAI) -> None:
    assert "rig-chat" in [model.id async for model in async_client.models.list()]


# Errors


def expect(client: openai.OpenAI, error: type[openai.APIStatusError], script: Script | None, **fields: Any) -> Any:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**asked(script, **fields))
    assert caught.value.request_id
    assert caught.value.message
    return caught.value


def test_a_bad_key(client: openai.OpenAI, attempts: Attempts) -> None:
    error = expect(client.with_options(api_key="sk-gw-unknown-key"), openai.AuthenticationError, None)
    assert (error.code, len(attempts)) == ("invalid_api_key", 1)


def test_an_unknown_model(client: openai.OpenAI, attempts: Attempts) -> None:
    error = expect(client, openai.NotFoundError, None, model="gpt-nowhere")
    assert (error.code, len(attempts)) == ("model_not_found", 1)
    assert "gpt-nowhere" in error.message


def test_a_forbidden_model(gateway: Gateway, client: openai.OpenAI, attempts: Attempts) -> None:
    key = gateway.new_key(models=["rig-cheap"])
    error = expect(client.with_options(api_key=key.key), openai.PermissionDeniedError, None)
    assert error.code
    assert len(attempts) == 1


def test_a_bad_request(client: openai.OpenAI, attempts: Attempts) -> None:
    error = expect(client, openai.BadRequestError, None, max_tokens=0)
    assert error.param == "max_tokens"
    assert error.type == "invalid_request_error"
    assert len(attempts) == 1


async def test_an_error_of_the_async_client(async_client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await async_client.chat.completions.create(**asked(None, model="gpt-nowhere"))
    assert caught.value.code == "model_not_found"
    assert caught.value.request_id


def test_an_error_inside_a_stream_is_raised(upstream: Upstream, client: openai.OpenAI) -> None:
    error = {
        "error": {"message": "The model is overloaded.", "type": "server_error", "param": None, "code": "overload"}
    }
    script = upstream.stream(*wire.text_events("a", finish=None), wire.event(error))
    stream = client.chat.completions.create(**asked(script, stream=True))
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.code == "overload"
    assert "overloaded" in caught.value.message


def test_a_stream_that_broke_is_raised(upstream: Upstream, client: openai.OpenAI) -> None:
    """A cut stream must not look like a short answer."""
    stream = client.chat.completions.create(**asked(upstream.stream(*wire.text_events("a", finish=None)), stream=True))
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.message


# Retries


def test_a_rate_limit_with_a_long_wait_is_asked_once(
    gateway: Gateway, upstream: Upstream, client: openai.OpenAI, attempts: Attempts
) -> None:
    key = gateway.new_key(gateway.new_creator("open", requests_per_hour=1))
    client = client.with_options(api_key=key.key)
    script = upstream.reply(wire.completion(usage=USAGE))
    client.chat.completions.create(**asked(script))
    attempts.clear()
    error = expect(client, openai.RateLimitError, script)
    assert (error.code, len(attempts)) == ("rate_limit_exceeded", 1)
    assert error.response.headers["x-should-retry"] == "false"


def test_a_used_up_quota_is_asked_once(
    gateway: Gateway, upstream: Upstream, client: openai.OpenAI, attempts: Attempts
) -> None:
    key = gateway.new_key(gateway.new_creator("open", quota_usd_per_month=0))
    script = upstream.reply(wire.completion(usage=USAGE))
    error = expect(client.with_options(api_key=key.key), openai.RateLimitError, script)
    assert (error.code, len(attempts), len(script.requests)) == ("insufficient_quota", 1, 0)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_the_upstream_may_heal_is_retried_with_its_own_wait(
    gateway: Gateway, upstream: Upstream, key: Key, client: openai.OpenAI, status: int
) -> None:
    body = {"error": {"message": "try again", "type": "x", "param": None, "code": "busy"}}
    script = upstream.reply(body, status, [("retry-after-ms", "1")])
    error = expect(client, openai.APIStatusError, script)
    assert (error.status_code, error.code) == (status, "busy")
    assert len(script.requests) == 3, "the SDK asks three times, and the gateway adds none"
    entries = gateway.entries(creator=key.creator)
    assert [entry["cost_nano_usd"] for entry in entries] == [0, 0, 0]


def test_a_second_try_that_succeeds_is_the_only_one_charged(
    gateway: Gateway, upstream: Upstream, key: Key, client: openai.OpenAI
) -> None:
    busy = {"error": {"message": "try again", "type": "x", "param": None, "code": "busy"}}
    answers = iter(
        [wire.reply(busy, 503, [("retry-after-ms", "1")]), wire.reply(wire.completion("at last", usage=USAGE))]
    )
    script = upstream.answer_with(lambda _: [Send(next(answers))])
    answer = client.chat.completions.create(**asked(script))
    assert answer.choices[0].message.content == "at last"
    costs = sorted(entry["cost_nano_usd"] for entry in gateway.entries(creator=key.creator))
    assert costs[0] == 0
    assert len(costs) == 2
    assert costs[1] > 0


def test_a_problem_of_the_operator_is_asked_once(upstream: Upstream, client: openai.OpenAI, attempts: Attempts) -> None:
    body = {"error": {"message": "Incorrect API key", "type": "x", "param": None, "code": "invalid_api_key"}}
    error = expect(client, openai.InternalServerError, upstream.reply(body, 401))
    assert (error.status_code, error.code, len(attempts)) == (502, "provider_unavailable", 1)


def test_nonsense_of_the_upstream_is_asked_once(upstream: Upstream, client: openai.OpenAI, attempts: Attempts) -> None:
    """The provider answered and will be paid; asking again would pay again."""
    expect(client, openai.InternalServerError, upstream.reply(b"null"))
    assert len(attempts) == 1
