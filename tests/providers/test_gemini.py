"""The provider over a socket: what it sends, what comes back, and what that costs, worked out by hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import orjson
import pytest

from gateway.catalog import ProviderRow
from gateway.config import Settings
from gateway.errors import RequestError
from gateway.price_rows import Price, price_of
from gateway.pricing import cost_nano_usd
from gateway.providers.base import Exchange, UpstreamFailure, UpstreamRequest
from gateway.providers.gemini import Gemini
from gateway.usage import from_chat, from_images
from tests.providers.gemini_fixtures import chunks, fixture
from tests.providers.scripted_upstream import HANG_S, OK, PATIENT, Peer, Upstream, answer

KEY = "AIza-not-a-key"
JSON = b"content-type: application/json; charset=UTF-8"
SSE = b"content-type: text/event-stream\r\n"
QUESTION = {"model": "gemini-3.5-flash", "messages": [{"role": "user", "content": "Why?"}]}
PRICE = price_of({"input": 1_500_000, "cached_input": 150_000, "output": 9_000_000}, "v")
"""1.50, 0.15 and 9.00 dollars a million, in pico-dollars a token."""


class World:
    """A scripted Gemini and the provider on it."""

    def __init__(self) -> None:
        self.reply = b""
        self.heads: list[str] = []
        self.bodies: list[Any] = []
        self.keeps_open = True

    async def script(self, peer: Peer) -> None:
        while True:
            head = await peer.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self.heads.append(head.decode("latin-1"))
            self.bodies.append(orjson.loads(await peer.reader.readexactly(length)))
            await peer.send(self.reply)
            if not self.keeps_open:
                return

    async def open(self, path: str, body: dict[str, Any], gate: "Awaitable[None] | None" = None) -> Exchange:
        request = UpstreamRequest(
            path,
            orjson.dumps(body),
            bool(body.get("stream")),
            PATIENT,
            "req-1",
            headers=(("anthropic-beta", "x"),),
        )
        return await self.provider.open(request, _open_gate() if gate is None else gate)

    async def ask(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        exchange = await self.open(path, body)
        try:
            pieces = []
            while piece := await exchange.read():
                pieces.append(piece)
            return exchange.status, b"".join(pieces)
        finally:
            exchange.close()

    provider: Gemini


def _open_gate() -> "asyncio.Future[None]":
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gate.set_result(None)
    return gate


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with asyncio.timeout(HANG_S):
        world = World()
        async with Upstream(world.script) as upstream:
            row = ProviderRow(
                name="gemini",
                dialect="gemini",
                base_url=f"http://127.0.0.1:{upstream.origin.port}/v1beta",
                auth_header="x-goog-api-key",
            )
            world.provider = Gemini(row, KEY, Settings())
            try:
                yield world
            finally:
                await world.provider.close()


def stream(data: bytes) -> bytes:
    """A stream as the service sends one: chunked, an event a chunk."""
    events = [event + b"\r\n\r\n" for event in data.split(b"\r\n\r\n") if event]
    return head_of_stream() + b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"


def head_of_stream() -> bytes:
    return OK + SSE + b"transfer-encoding: chunked\r\n\r\n"


def refused(status: bytes, body: bytes) -> bytes:
    return answer(body, JSON).replace(b"200 OK", status, 1)


def cost(usage: object, price: Price = PRICE) -> int:
    believed = from_chat(usage, context_tokens_max=1_048_576, output_tokens_max=65_536, choices=1)
    assert believed is not None
    return cost_nano_usd(believed, price)


async def test_a_chat_is_sent_in_geminis_dialect_with_its_key(world: World) -> None:
    world.reply = answer(fixture("chat.json"), JSON)
    status, body = await world.ask("/chat/completions", QUESTION)
    assert status == 200
    assert orjson.loads(body)["choices"][0]["message"]["content"].startswith("Descartes")
    assert world.bodies == [{"contents": [{"role": "user", "parts": [{"text": "Why?"}]}]}]
    head = world.heads[0].lower()
    assert world.heads[0].startswith("POST /v1beta/models/gemini-3.5-flash:generateContent HTTP/1.1\r\n")
    assert f"x-goog-api-key: {KEY.lower()}\r\n" in head
    assert "authorization" not in head
    assert "anthropic-beta" not in head


async def test_a_chat_costs_the_same_whole_and_streamed(world: World) -> None:
    """104 words read at 1.50, 4 096 from the cache at 0.15, 12 words and 455 thoughts at 9.00:
    156 000 + 614 400 + 4 203 000 nano-dollars."""
    world.reply = answer(fixture("chat.json"), JSON)
    _, whole = await world.ask("/chat/completions", QUESTION)
    world.reply = stream(fixture("stream.sse"))
    asked = QUESTION | {"stream": True, "stream_options": {"include_usage": True}}
    _, streamed = await world.ask("/chat/completions", asked)
    messages = chunks(streamed)
    assert messages[-1] == "[DONE]"
    assert cost(orjson.loads(whole)["usage"]) == cost(messages[-2]["usage"]) == 4_973_400
    assert world.heads[1].startswith("POST /v1beta/models/gemini-3.5-flash:streamGenerateContent?alt=sse HTTP/1.1\r\n")
    assert "accept: text/event-stream\r\n" in world.heads[1]


async def test_tool_calls_cost_the_same_whole_and_streamed(world: World) -> None:
    """80 words read at 1.50, 31 words and 100 thoughts at 9.00: 120 000 + 1 179 000 nano-dollars."""
    tools = [{"type": "function", "function": {"name": name}} for name in ("weather", "clock")]
    asked = QUESTION | {"tools": tools}
    world.reply = answer(fixture("tools.json"), JSON)
    _, whole = await world.ask("/chat/completions", asked)
    world.reply = stream(fixture("stream_tools.sse"))
    _, streamed = await world.ask(
        "/chat/completions", asked | {"stream": True, "stream_options": {"include_usage": True}}
    )
    assert cost(orjson.loads(whole)["usage"]) == cost(chunks(streamed)[-2]["usage"]) == 1_299_000
    declared = [{"functionDeclarations": [{"name": "weather"}, {"name": "clock"}]}]
    assert [body["tools"] for body in world.bodies] == [declared, declared]


async def test_a_stream_is_poured_event_by_event(world: World) -> None:
    world.reply = stream(fixture("stream.sse"))
    exchange = await world.open("/chat/completions", QUESTION | {"stream": True})
    pieces: list[bytes] = []

    def take(data: bytes) -> bool:
        pieces.append(data)
        return True

    assert await exchange.pour(take)
    exchange.close()
    assert exchange.headers["content-type"].startswith("text/event-stream")
    assert all(piece.endswith(b"\n\n") for piece in pieces)
    assert chunks(b"".join(pieces))[-1] == "[DONE]"


async def test_a_stream_that_dies_is_broken_and_says_no_end(world: World) -> None:
    first = fixture("stream.sse").split(b"\r\n\r\n")[2] + b"\r\n\r\n"
    world.reply = head_of_stream() + b"%x\r\n%s\r\n" % (len(first), first)
    world.keeps_open = False
    exchange = await world.open("/chat/completions", QUESTION | {"stream": True})
    [chunk] = chunks(await exchange.read())
    with pytest.raises(UpstreamFailure) as failure:
        await exchange.read()
    exchange.close()
    assert failure.value.kind == "died"
    assert chunk["choices"][0]["delta"]["content"] == "Descartes doubts his senses"


async def test_a_stream_that_makes_no_sense_is_invalid(world: World) -> None:
    world.reply = stream(b"data: {oops\r\n\r\n")
    exchange = await world.open("/chat/completions", QUESTION | {"stream": True})
    with pytest.raises(UpstreamFailure) as failure:
        await exchange.read()
    exchange.close()
    assert failure.value.kind == "invalid"


async def test_an_error_in_the_middle_is_an_error_event(world: World) -> None:
    world.reply = stream(fixture("stream_error.sse"))
    _, body = await world.ask("/chat/completions", QUESTION | {"stream": True})
    assert chunks(body)[-1]["error"]["code"] == "overloaded"


async def test_a_rate_limit_is_openais(world: World) -> None:
    world.reply = refused(b"429 Too Many Requests", fixture("error_quota.json"))
    status, body = await world.ask("/chat/completions", QUESTION | {"stream": True})
    assert (status, orjson.loads(body)["error"]["code"]) == (429, "rate_limit_exceeded")


async def test_a_prompt_that_is_too_long_is_told_apart(world: World) -> None:
    world.reply = refused(b"400 Bad Request", fixture("error_context.json"))
    status, body = await world.ask("/chat/completions", QUESTION)
    assert (status, orjson.loads(body)["error"]["code"]) == (400, "context_length_exceeded")


async def test_the_tier_in_the_head_counts_where_the_body_has_none(world: World) -> None:
    body = orjson.loads(fixture("chat.json"))
    del body["usageMetadata"]["serviceTier"]
    world.reply = answer(orjson.dumps(body), JSON, b"x-gemini-service-tier: priority")
    _, told = await world.ask("/chat/completions", QUESTION | {"service_tier": "priority"})
    assert orjson.loads(told)["service_tier"] == "priority"
    assert world.bodies[0]["serviceTier"] == "priority"


async def test_embeddings_are_one_batch(world: World) -> None:
    """8 words read at 1.50: 12 000 nano-dollars."""
    world.reply = answer(fixture("embeddings.json"), JSON)
    asked = {"model": "gemini-embedding-001", "input": ["a", "b"], "encoding_format": "base64"}
    status, body = await world.ask("/embeddings", asked)
    assert status == 200
    assert [len(one["embedding"]) for one in orjson.loads(body)["data"]] == [16, 16]
    assert cost(orjson.loads(body)["usage"]) == 12_000
    assert world.heads[0].startswith("POST /v1beta/models/gemini-embedding-001:batchEmbedContents HTTP/1.1\r\n")


async def test_an_image_costs_its_tokens(world: World) -> None:
    """9 words read at 0.50, 4 words and 150 thoughts at 3.00, 1 120 of an image at 60.00:
    4 500 + 462 000 + 67 200 000 nano-dollars."""
    price = price_of({"input": 500_000, "output": 3_000_000, "image_output": 60_000_000}, "v")
    world.reply = answer(fixture("image.json"), JSON)
    _, body = await world.ask("/images/generations", {"model": "gemini-3.1-flash-image", "prompt": "A cube"})
    told = orjson.loads(body)
    assert len(told["data"]) == 1
    usage = from_images(told["usage"], input_tokens_max=None, output_tokens_max=None)
    assert usage is not None
    assert cost_nano_usd(usage._replace(pieces=1), price) == 67_666_500
    assert ":generateContent HTTP/1.1" in world.heads[0]


async def test_imagen_predicts(world: World) -> None:
    world.reply = answer(fixture("imagen.json"), JSON)
    _, body = await world.ask("/images/generations", {"model": "imagen-4.0-generate-001", "prompt": "A cube", "n": 3})
    assert len(orjson.loads(body)["data"]) == 2
    assert world.heads[0].startswith("POST /v1beta/models/imagen-4.0-generate-001:predict HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/chat/completions", QUESTION | {"logit_bias": {"1": 1}}, id="a field Gemini has not"),
        pytest.param("/chat/completions", QUESTION | {"model": "../x"}, id="a model that is a path"),
        pytest.param("/embeddings", {"model": "m", "input": [1]}, id="tokens"),
        pytest.param("/audio/speech", {"model": "m"}, id="an endpoint Gemini has not"),
    ],
)
async def test_what_cannot_be_asked_is_refused_before_anything_is_sent(
    world: World, path: str, body: dict[str, Any]
) -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with pytest.raises(RequestError) as error:
        await world.open(path, body, gate)
    assert error.value.status == 400
    assert not world.heads


async def test_nothing_is_sent_before_the_gate_opens(world: World) -> None:
    world.reply = answer(fixture("chat.json"), JSON)
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gate.set_exception(RuntimeError("no hold"))
    with contextlib.suppress(UpstreamFailure), pytest.raises(RuntimeError, match="no hold"):
        await world.open("/chat/completions", QUESTION, gate)
    assert not world.heads


async def test_arguments_nested_more_deeply_than_can_be_written_are_refused(world: World) -> None:
    deep = '{"a":' * 400 + "{}" + "}" * 400
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": deep}}
    with pytest.raises(RequestError) as error:
        await world.ask("/chat/completions", {"model": "m", "messages": [{"role": "assistant", "tool_calls": [call]}]})
    assert error.value.code == "invalid_json"
    assert not world.heads
