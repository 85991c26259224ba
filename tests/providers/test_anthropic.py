"""The Anthropic provider over a socket: what goes out, what comes back, and how it fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.catalog import ProviderRow
from gateway.config import Settings
from gateway.errors import RequestError
from gateway.providers.anthropic import Anthropic
from gateway.providers.base import Exchange, UpstreamFailure, UpstreamRequest
from tests.providers.scripted_upstream import HANG_S, PATIENT, Peer, Upstream, passed

FIXTURES = Path(__file__).parents[1] / "fixtures" / "anthropic"
KEY = "sk-ant-api03-0123456789"
ASK = {"role": "user", "content": "hi"}
DONE = b"data: [DONE]\n\n"


def fixture(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


class Seen:
    def __init__(self) -> None:
        self.heads: list[str] = []
        self.bodies: list[bytes] = []


def plain(body: bytes, status: str = "200 OK", kind: str = "application/json", more: str = "") -> list[bytes]:
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nrequest-id: req_1\r\n{more}content-length: {len(body)}\r\n\r\n"
    )
    return [head.encode() + body]


def event_stream(body: bytes, piece_bytes: int = 97, *, is_cut: bool = False) -> list[bytes]:
    """Chunks of a length that suits no event; without the last one if the stream is to break."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    cuts = range(0, len(body), piece_bytes)
    pieces = [b"%x\r\n%s\r\n" % (len(body[at : at + piece_bytes]), body[at : at + piece_bytes]) for at in cuts]
    return [head, *pieces, *([] if is_cut else [b"0\r\n\r\n"])]


@asynccontextmanager
async def anthropic_on(*answers: list[bytes]) -> AsyncIterator[tuple[Anthropic, Seen]]:
    """The provider, and an upstream that gives these answers one after the other, then closes."""
    seen = Seen()
    left = list(answers)

    async def script(peer: Peer) -> None:
        while left:
            head = (await peer.reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
            seen.heads.append(head)
            seen.bodies.append(await peer.reader.readexactly(length))
            for piece in left.pop(0):
                await peer.send(piece)

    async with asyncio.timeout(HANG_S), Upstream(script) as upstream:
        row = ProviderRow(
            name="anthropic",
            dialect="anthropic",
            base_url=f"http://127.0.0.1:{upstream.origin.port}/v1",
            auth_header="x-api-key",
            headers={"anthropic-version": "2023-06-01"},
        )
        provider = Anthropic(row, KEY, Settings())
        try:
            yield provider, seen
        finally:
            await provider.close()


def upstream_request(path: str = "/chat/completions", *, stream: bool = False, **fields: Any) -> UpstreamRequest:
    body: dict[str, Any] = {"model": "claude-haiku-4-5", "messages": [ASK], **fields}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return UpstreamRequest(path, orjson.dumps(body), stream, PATIENT, "req_gw")


async def answered(provider: Anthropic, request: UpstreamRequest) -> tuple[int, dict[str, str], bytes]:
    exchange = await provider.open(request, passed())
    try:
        pieces = []
        while piece := await exchange.read():
            pieces.append(piece)
        return exchange.status, exchange.headers, b"".join(pieces)
    finally:
        exchange.close()


def chunks(told: bytes) -> list[dict[str, Any]]:
    events = told.removesuffix(DONE).split(b"\n\n")
    return [orjson.loads(event.removeprefix(b"data: ")) for event in events if event]


async def test_a_chat_goes_to_messages_with_anthropics_headers_and_none_of_the_callers() -> None:
    request = upstream_request(temperature=0.5)._replace(headers=(("anthropic-beta", "x"),))
    async with anthropic_on(plain(fixture("text.json"))) as (provider, seen):
        status, headers, body = await answered(provider, request)
    lines = seen.heads[0].split("\r\n")
    assert lines[0] == "POST /v1/messages HTTP/1.1"
    assert {f"x-api-key: {KEY}", "anthropic-version: 2023-06-01", "content-type: application/json"} <= set(lines)
    assert not [line for line in lines if line.startswith(("authorization", "anthropic-beta"))]
    assert orjson.loads(seen.bodies[0]) == {
        "model": "claude-haiku-4-5",
        "max_tokens": 4096,
        "temperature": 0.5,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    }
    answer = orjson.loads(body)
    assert (status, headers["content-type"], answer["object"]) == (200, "application/json", "chat.completion")
    assert answer["usage"]["total_tokens"] == 2730


async def test_a_stream_arrives_as_chunks_and_is_done() -> None:
    async with anthropic_on(event_stream(fixture("text.sse"))) as (provider, seen):
        status, headers, told = await answered(provider, upstream_request(stream=True))
    assert orjson.loads(seen.bodies[0])["stream"] is True
    assert "accept: text/event-stream" in seen.heads[0]
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert told.endswith(DONE)
    assert chunks(told)[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 2048, "cache_write_tokens": 512}


async def test_a_stream_that_is_poured_is_the_one_that_is_read() -> None:
    poured: list[bytes] = []

    def take(data: bytes) -> bool:
        poured.append(data)
        return True

    async with anthropic_on(event_stream(fixture("tools.sse")), event_stream(fixture("tools.sse"))) as (provider, _):
        _, _, read = await answered(provider, upstream_request(stream=True))
        exchange = await provider.open(upstream_request(stream=True), passed())
        try:
            assert await exchange.pour(take)
        finally:
            exchange.close()
    assert [chunk["choices"] for chunk in chunks(b"".join(poured))] == [chunk["choices"] for chunk in chunks(read)]


async def test_tools_arrive_as_calls() -> None:
    tools = [
        {"type": "function", "function": {"name": "get_weather"}},
        {"type": "function", "function": {"name": "get_time"}},
    ]
    async with anthropic_on(plain(fixture("tools.json"))) as (provider, seen):
        _, _, body = await answered(provider, upstream_request(tools=tools))
    assert [tool["name"] for tool in orjson.loads(seen.bodies[0])["tools"]] == ["get_weather", "get_time"]
    assert len(orjson.loads(body)["choices"][0]["message"]["tool_calls"]) == 2


async def test_a_rate_limit_keeps_its_status_and_its_wait() -> None:
    refusal = plain(fixture("error_rate.json"), "429 Too Many Requests", more="retry-after: 17\r\n")
    async with anthropic_on(refusal) as (provider, _):
        status, headers, body = await answered(provider, upstream_request(stream=True))
    assert (status, headers["retry-after"]) == (429, "17")
    assert orjson.loads(body)["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("status", "name", "kind", "code"),
    [
        ("529 ", "error_overloaded.json", "application/json", "overloaded"),
        ("400 Bad Request", "error_context.json", "application/json", "context_length_exceeded"),
        ("413 Payload Too Large", "error_size.html", "text/html", "request_too_large"),
    ],
)
async def test_an_error_arrives_as_openais_json(status: str, name: str, kind: str, code: str) -> None:
    async with anthropic_on(plain(fixture(name), status, kind)) as (provider, _):
        told, headers, body = await answered(provider, upstream_request())
    assert (told, headers["content-type"]) == (int(status[:3]), "application/json")
    assert orjson.loads(body)["error"]["code"] == code


async def test_an_error_in_the_middle_of_a_stream_is_told_and_the_stream_is_not_done() -> None:
    async with anthropic_on(event_stream(fixture("error.sse"))) as (provider, _):
        status, _, told = await answered(provider, upstream_request(stream=True))
    assert status == 200
    assert chunks(told)[-1]["error"]["code"] == "overloaded"
    assert DONE not in told


async def test_a_stream_that_dies_is_a_failure_after_what_it_said() -> None:
    data = fixture("text.sse")
    cut = data[: data.index(b"event: message_delta")]
    told: list[bytes] = []

    async def read_on(exchange: Exchange) -> None:
        while piece := await exchange.read():
            told.append(piece)

    async with anthropic_on(event_stream(cut, is_cut=True)) as (provider, _):
        exchange = await provider.open(upstream_request(stream=True), passed())
        try:
            with pytest.raises(UpstreamFailure) as caught:
                await read_on(exchange)
        finally:
            exchange.close()
    assert (caught.value.kind, caught.value.is_fully_sent) == ("died", True)
    assert "done." in b"".join(told).decode()
    assert b"[DONE]" not in b"".join(told)


@pytest.mark.parametrize("answer", [plain(b"<html>", kind="text/html"), event_stream(b"data: nonsense\n\n")])
async def test_an_answer_in_no_known_dialect_is_invalid(answer: list[bytes]) -> None:
    async with anthropic_on(answer) as (provider, _):
        with pytest.raises(UpstreamFailure) as caught:
            await answered(provider, upstream_request(stream=True))
    assert caught.value.kind == "invalid"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/messages", plain(fixture("text.json"))),
        ("/messages", plain(fixture("error_rate.json"), "429 Too Many Requests")),
        ("/messages/count_tokens", plain(fixture("count_tokens.json"))),
        ("/messages", event_stream(fixture("text.sse"))),
    ],
)
async def test_messages_pass_through_untouched_with_the_callers_beta(path: str, answer: list[bytes]) -> None:
    raw = b'{"model": "claude-haiku-4-5",  "messages": [], "thinking": {"type": "adaptive"}}'
    request = UpstreamRequest(
        path, raw, False, PATIENT, "req_gw", headers=(("anthropic-beta", "fast-mode-2026-02-01"),)
    )
    async with anthropic_on(answer) as (provider, seen):
        status, headers, body = await answered(provider, request)
    assert seen.bodies == [raw]
    assert seen.heads[0].startswith(f"POST /v1{path} HTTP/1.1\r\n")
    assert "anthropic-beta: fast-mode-2026-02-01\r\n" in seen.heads[0]
    sent = fixture("text.sse") if "event-stream" in headers["content-type"] else answer[0].partition(b"\r\n\r\n")[2]
    assert body == sent
    assert status == int(answer[0][9:12])


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        pytest.param(upstream_request("/embeddings"), "model", id="another endpoint"),
        pytest.param(upstream_request(n=2), "n", id="two answers"),
        pytest.param(upstream_request(logprobs=True), "logprobs", id="logprobs"),
    ],
)
async def test_what_anthropic_cannot_do_is_refused_before_anything_is_sent(
    request_: UpstreamRequest, param: str
) -> None:
    async with anthropic_on() as (provider, seen):
        gate = asyncio.get_running_loop().create_future()
        with pytest.raises(RequestError) as caught:
            await provider.open(request_, gate)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert not seen.heads
