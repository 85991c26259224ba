"""`/v1/messages` through the whole pipeline: what the provider is sent, what Anthropic's client reads, what is booked."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import Message

from gateway.endpoints.messages import Messages, routes
from gateway.responder import Header
from tests.clocked_gateway import Answer, Clock, ClockedGateway, opened, utc
from tests.messages.test_relay import NATIVE_STREAM, event
from tests.messages.wire import DONE, accumulated_by_sdk, body, call_part, chunk, client, read_by_sdk
from tests.rig.upstream import Close, Script, Send, Upstream
from tests.rig.wire import framed, stream_head

NOON = utc(2025, 6, 11, 12)
COST = 700 * 3_000 + 1_000 * 300 + 300 * 3_750 + 90 * 15_000
_ROWS = """
[providers.rig]
dialect = "openai"
base_url = "{base_url}"
"""
_MODEL = """
[models."{name}"]
provider = "rig"
upstream_model = "{name}-upstream"
endpoints = [{endpoints}]
input_usd_per_mtok = 3
cached_input_usd_per_mtok = 0.3
cache_write_usd_per_mtok = 3.75
output_usd_per_mtok = 15
context_tokens_max = 200_000
output_tokens_max = 8_192
"""
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-upstream",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 700,
        "cache_read_input_tokens": 1_000,
        "cache_creation_input_tokens": 300,
        "output_tokens": 90,
    },
}
USAGE = {
    "prompt_tokens": 2_000,
    "completion_tokens": 90,
    "total_tokens": 2_090,
    "prompt_tokens_details": {"cached_tokens": 1_000, "cache_write_tokens": 300},
}
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": USAGE,
}


@asynccontextmanager
async def at_noon(folder: Path, upstream: Upstream) -> AsyncIterator[ClockedGateway]:
    models = _ROWS.format(base_url=upstream.base_url)
    models += _MODEL.format(name="claude", endpoints='"messages"')
    models += _MODEL.format(name="gpt", endpoints='"chat"')
    async with opened(folder, Clock(NOON), models=models) as gateway:
        yield gateway


async def call(
    gateway: ClockedGateway, key: str, script: Script | None, headers: dict[str, str] | None = None, **fields: Any
) -> Answer:
    """One `POST /v1/messages` with a key in `x-api-key`, as Anthropic's client sends it."""
    said = [{"role": "user", "content": script.marker if script else "hi there"}]
    raw = body(**{"messages": said, **fields})
    endpoint = Messages(gateway.services.pipeline, 2**20)
    named: list[Header] = [(b"host", b"gateway"), (b"x-api-key", key.encode()), (b"anthropic-version", b"2023-06-01")]
    named.extend((name.encode(), value.encode()) for name, value in (headers or {}).items())

    async def receive() -> Message:
        return {"type": "http.request", "body": raw, "more_body": False}

    answer = Answer()
    await gateway.services.pipeline.serve(
        endpoint.endpoint, lambda: endpoint.read(named, receive), named, answer, "", endpoint.shape
    )
    return answer


def booked(gateway: ClockedGateway) -> list[tuple[Any, ...]]:
    return gateway.entries("endpoint, served_model, outcome, usage_source, cost_nano_usd")


async def test_a_native_answer_passes_as_it_came_and_is_booked(tmp_path: Path, upstream: Upstream) -> None:
    async with at_noon(tmp_path, upstream) as gateway:
        script = upstream.reply(MESSAGE)
        answer = await call(
            gateway,
            await gateway.new_key(),
            script,
            {"anthropic-beta": "interleaved-thinking-2025-05-14,files-api-2025-04-14", "anthropic-dangerous": "x"},
            model="claude",
            metadata={"user_id": "u", "feature": "tests"},
        )
        assert answer.status == 200
        assert answer.json == MESSAGE
        assert read_by_sdk(answer.body).content[0].text == "Hello"
        sent = script.request
        assert sent.line.startswith("POST /v1/messages ")
        assert (sent.json["model"], sent.json["metadata"]) == ("claude-upstream", {"user_id": "u"})
        assert sent.header_values("anthropic-beta") == ["interleaved-thinking-2025-05-14"]
        assert sent.header("anthropic-dangerous") is None
        assert booked(gateway) == [("messages", "claude", "ok", "provider", COST)]
        assert gateway.entries("feature, uncached_input, cached_input, cache_write, text_output") == [
            ("tests", 700, 1_000, 300, 90)
        ]


async def test_a_native_stream_passes_byte_for_byte_and_is_booked(tmp_path: Path, upstream: Upstream) -> None:
    async with at_noon(tmp_path, upstream) as gateway:
        script = upstream.stream(*NATIVE_STREAM)
        answer = await call(gateway, await gateway.new_key(), script, model="claude", stream=True)
        assert answer.body == b"".join(NATIVE_STREAM)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert booked(gateway) == [("messages", "claude", "ok", "provider", COST)]


async def test_a_bridged_answer_is_a_message_and_costs_the_same(tmp_path: Path, upstream: Upstream) -> None:
    async with at_noon(tmp_path, upstream) as gateway:
        script = upstream.reply(COMPLETION)
        answer = await call(gateway, await gateway.new_key(), script, model="gpt", system="Be brief.")
        message = read_by_sdk(answer.body)
        assert (message.content[0].text, message.model, message.usage.cache_read_input_tokens) == (
            "Hello",
            "gpt",
            1_000,
        )
        assert script.request.line.startswith("POST /v1/chat/completions ")
        assert script.request.json["messages"][0] == {"role": "system", "content": "Be brief."}
        assert booked(gateway) == [("messages", "gpt", "ok", "provider", COST)]


async def test_a_bridged_stream_is_a_stream_of_messages_and_costs_the_same(tmp_path: Path, upstream: Upstream) -> None:
    async with at_noon(tmp_path, upstream) as gateway:
        script = upstream.stream(
            chunk({"content": "I look"}),
            chunk(call_part(0, id="call_1", name="weather", arguments='{"city":"Rome"}')),
            chunk({}, "tool_calls"),
            chunk(usage=USAGE),
            DONE,
        )
        tools = [{"name": "weather", "input_schema": {"type": "object"}}]
        answer = await call(gateway, await gateway.new_key(), script, model="gpt", stream=True, tools=tools)
        message = accumulated_by_sdk(answer.body)
        assert (message.content[0].text, message.content[1].input) == ("I look", {"city": "Rome"})
        assert (message.stop_reason, message.usage.output_tokens) == ("tool_use", 90)
        assert booked(gateway) == [("messages", "gpt", "ok", "provider", COST)]


@pytest.mark.parametrize(
    ("model", "events"),
    [("claude", NATIVE_STREAM[:4]), ("gpt", (chunk({"content": "Hello"}),))],
    ids=["native", "bridged"],
)
async def test_a_stream_that_dies_ends_in_an_error_the_client_raises(
    tmp_path: Path, upstream: Upstream, model: str, events: tuple[bytes, ...]
) -> None:
    async with at_noon(tmp_path, upstream) as gateway:
        script = upstream.script(Send(stream_head()), *(Send(framed(one)) for one in events), Close())
        answer = await call(gateway, await gateway.new_key(), script, model=model, stream=True)
        assert b"message_stop" not in answer.body
        with pytest.raises(anthropic.APIStatusError, match="closed the connection"):
            accumulated_by_sdk(answer.body)
        ((_, _, outcome, _, cost),) = booked(gateway)
        assert outcome == "upstream_died"
        assert cost > 0


async def test_an_error_the_provider_streams_reaches_the_client(tmp_path: Path, upstream: Upstream) -> None:
    async with at_noon(tmp_path, upstream) as gateway:
        failure = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
        script = upstream.stream(*NATIVE_STREAM[:4], failure)
        answer = await call(gateway, await gateway.new_key(), script, model="claude", stream=True)
        with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
            accumulated_by_sdk(answer.body)
        assert [entry[2] for entry in booked(gateway)] == ["upstream_error"]


@pytest.mark.parametrize(
    ("fields", "status", "type", "code"),
    [
        ({"model": "nothing"}, 404, "not_found_error", "model_not_found"),
        ({"model": "painter"}, 400, "invalid_request_error", "endpoint_not_supported"),
        ({"model": "gpt", "max_tokens": None}, 400, "invalid_request_error", "missing_required_parameter"),
        ({"model": "claude", "cache_control": {"ttl": "1h"}}, 400, "invalid_request_error", "unpriced_feature"),
        ({"model": "gpt", "tools": [{"type": "bash_20250124"}]}, 400, "invalid_request_error", "unsupported_parameter"),
    ],
)
async def test_what_is_refused_is_told_in_anthropics_shape_and_not_booked(
    tmp_path: Path, upstream: Upstream, fields: dict[str, Any], status: int, type: str, code: str
) -> None:
    async with at_noon(tmp_path, upstream) as gateway:
        answer = await call(gateway, await gateway.new_key(), None, **fields)
        error = answer.json["error"]
        assert (answer.status, answer.json["type"]) == (status, "error")
        assert (error["type"], error["details"]["error_code"]) == (type, code)
        assert booked(gateway) == []


async def test_a_wrong_key_is_told_in_anthropics_shape(tmp_path: Path, upstream: Upstream) -> None:
    async with at_noon(tmp_path, upstream) as gateway:
        answer = await call(gateway, "sk-gw-none", None, model="gpt")
        assert (answer.status, answer.json["error"]["type"]) == (401, "authentication_error")
        with client(answer.body, status=401) as made, pytest.raises(anthropic.AuthenticationError):
            made.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("model", ["claude", "gpt"])
async def test_a_provider_that_refuses_costs_nothing(tmp_path: Path, upstream: Upstream, model: str) -> None:
    async with at_noon(tmp_path, upstream) as gateway:
        refusal = {"error": {"message": "Slow down", "type": "rate_limit_error", "code": "rate_limit_exceeded"}}
        script = upstream.reply(refusal, 429)
        answer = await call(gateway, await gateway.new_key(), script, model=model)
        assert answer.status == 429
        assert answer.json["type"] == "error"
        assert answer.json["error"]["type"] == "rate_limit_error"
        assert answer.json["error"]["message"] == "Slow down"
        assert [(outcome, cost) for _, _, outcome, _, cost in booked(gateway)] == [("upstream_refused", 0)]


async def test_a_bridged_call_through_the_mock_costs_what_the_same_chat_costs(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with at_noon(tmp_path, upstream) as gateway:
        key = await gateway.new_key()
        for is_streaming in (False, True):
            await call(gateway, key, None, model="talk", stream=is_streaming)
            await gateway.chat(key, "talk", text="hi there", max_tokens=100, stream=is_streaming)
        costs = gateway.entries("cost_nano_usd, usage_source")
        assert len(costs) == 4
        assert len(set(costs)) == 1


@asynccontextmanager
async def counting(gateway: ClockedGateway) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=routes)
    for name, value in gateway.services.state().items():
        setattr(app.state, name, value)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http:
        yield http


async def test_counting_asks_nobody_and_books_nothing(tmp_path: Path, upstream: Upstream) -> None:
    async with at_noon(tmp_path, upstream) as gateway, counting(gateway) as http:
        before = len(upstream.requests)
        for model in ("claude", "gpt"):
            asked = {"model": model, "messages": [{"role": "user", "content": "x" * 400}], "system": "y" * 40}
            answer = await http.post("/v1/messages/count_tokens", json=asked)
            assert (answer.status_code, answer.json()) == (200, {"input_tokens": 110})
        assert len(upstream.requests) == before
        assert booked(gateway) == []
        with client(answer.content) as made:
            counted = made.messages.count_tokens(model="gpt", messages=[{"role": "user", "content": "Hi"}])
        assert counted.input_tokens == 110


@pytest.mark.parametrize(
    ("raw", "status", "type"),
    [
        (b"{", 400, "invalid_request_error"),
        (b'{"model":"nothing","messages":[{"role":"user","content":"x"}]}', 404, "not_found_error"),
        (json.dumps({"model": "gpt", "messages": []}).encode(), 400, "invalid_request_error"),
    ],
)
async def test_what_cannot_be_counted_is_told_in_anthropics_shape(
    tmp_path: Path, upstream: Upstream, raw: bytes, status: int, type: str
) -> None:
    async with at_noon(tmp_path, upstream) as gateway, counting(gateway) as http:
        answer = await http.post("/v1/messages/count_tokens", content=raw)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, type)
