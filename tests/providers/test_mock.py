"""The mock provider: the same bytes every time, in OpenAI's shape, and trouble by name."""

import base64
import struct
import zlib
from typing import Any

import orjson
import pytest

from gateway.catalog import ProviderRow
from gateway.config import Settings
from gateway.providers.base import Deadlines, Exchange, UpstreamFailure, UpstreamRequest
from gateway.providers.mock import MockProvider

PATIENT = Deadlines(5.0, 5.0, 5.0, 5.0)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


async def opened() -> None:
    """A gate that is open."""


async def ask(model: str, deadlines: Deadlines = PATIENT, **fields: Any) -> Exchange:
    body = {"model": model, "messages": [{"role": "user", "content": "Good day"}], **fields}
    request = UpstreamRequest("/chat/completions", orjson.dumps(body), bool(fields.get("stream")), deadlines, "req_1")
    return await MockProvider(ProviderRow("mock", "mock"), "", Settings()).open(request, opened())


async def ask_images(model: str, deadlines: Deadlines = PATIENT, **fields: Any) -> Exchange:
    body = {"model": model, "prompt": "A red fox", **fields}
    request = UpstreamRequest("/images/generations", orjson.dumps(body), False, deadlines, "req_1")
    return await MockProvider(ProviderRow("mock", "mock"), "", Settings()).open(request, opened())


async def images(model: str, **fields: Any) -> Any:
    exchange = await ask_images(model, **fields)
    assert (exchange.status, exchange.headers["content-type"]) == (200, "application/json")
    return orjson.loads(await whole(exchange))


async def whole(exchange: Exchange) -> bytes:
    parts = []
    while part := await exchange.read():
        parts.append(part)
    return b"".join(parts)


async def answer(model: str, **fields: Any) -> Any:
    return orjson.loads(await whole(await ask(model, **fields)))


async def events(model: str, **fields: Any) -> list[Any]:
    raw = await whole(await ask(model, stream=True, **fields))
    *messages, done = [part.removeprefix(b"data: ") for part in raw.split(b"\n\n") if part]
    assert done == b"[DONE]"
    return [orjson.loads(message) for message in messages]


async def test_it_repeats_what_was_said_and_counts_four_bytes_a_token() -> None:
    said = await answer("mock-1")
    assert said["choices"][0]["message"]["content"] == "You said: Good day"
    assert (said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"]) == (2, 5)
    assert said == await answer("mock-1")


async def test_a_stream_says_the_same_as_the_whole_answer() -> None:
    chunks = await events("mock-1", stream_options={"include_usage": True})
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert text.strip() == "You said: Good day"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == (await answer("mock-1"))["usage"]


async def test_a_stream_without_include_usage_has_none() -> None:
    assert all("usage" not in chunk and chunk["choices"] for chunk in await events("mock-1"))


async def test_a_token_bound_cuts_the_answer() -> None:
    said = await answer("mock-1", max_tokens=2)
    assert said["choices"][0]["finish_reason"] == "length"
    assert said["choices"][0]["message"]["content"] == "You said:"


async def test_it_calls_the_first_tool() -> None:
    said = await answer("mock-tools", tools=[TOOL])
    assert said["choices"][0]["finish_reason"] == "tool_calls"
    assert said["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"
    [first, *_] = await events("mock-tools", tools=[TOOL])
    assert first["choices"][0]["delta"]["tool_calls"][0]["index"] == 0


async def test_reasoning_is_part_of_the_completion() -> None:
    usage = (await answer("mock-reasoning"))["usage"]
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < reasoning < usage["completion_tokens"]


@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_an_error_by_name(status: int) -> None:
    exchange = await ask(f"mock-error-{status}")
    assert exchange.status == status
    assert orjson.loads(await whole(exchange))["error"]["code"] == "mock_error"


async def test_it_dies_by_name() -> None:
    with pytest.raises(UpstreamFailure):
        await ask("mock-die")
    with pytest.raises(UpstreamFailure):
        await whole(await ask("mock-die", stream=True))


async def test_it_honours_the_idle_and_the_total_deadline() -> None:
    for deadlines, kind in ((Deadlines(5, 5, 0.01, 5), "idle_timeout"), (Deadlines(5, 5, 5, 0.01), "total_timeout")):
        exchange = await ask("mock-f0d5000n9", deadlines, stream=True)
        with pytest.raises(UpstreamFailure) as caught:
            await whole(exchange)
        assert caught.value.kind == kind


async def test_nothing_is_answered_before_the_gate_opens() -> None:
    async def shut() -> None:
        raise RuntimeError("no hold")

    request = UpstreamRequest("/chat/completions", b"not even parsed", False, PATIENT, "req_1")
    provider = MockProvider(ProviderRow("mock", "mock"), "", Settings())
    with pytest.raises(RuntimeError, match="no hold"):
        await provider.open(request, shut())


# Images


def pixels(png: bytes) -> bytes:
    """The uncompressed lines of a PNG, every chunk's checksum and the header looked at."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks: dict[bytes, bytes] = {}
    place = 8
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", png, place + 8 + length) == (zlib.crc32(kind + data),)
        chunks[kind] = data
        place += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour_type, *methods = struct.unpack(">II5B", chunks[b"IHDR"])
    assert (depth, colour_type, methods) == (8, 2, [0, 0, 0])
    lines = zlib.decompress(chunks[b"IDAT"])
    assert len(lines) == height * (1 + 3 * width)
    return lines


async def test_images_are_whole_pngs_whose_colour_follows_from_the_prompt() -> None:
    said = await images("mock-image", n=2)
    assert said["created"] == 1_700_000_000
    assert "usage" not in said
    first, second = (pixels(base64.b64decode(image["b64_json"])) for image in said["data"])
    assert first != second
    assert said == await images("mock-image", n=2)
    assert said["data"][0] != (await images("mock-image", prompt="A blue fox"))["data"][0]


async def test_an_image_url_leads_nowhere_and_is_stable() -> None:
    [image] = (await images("mock-image", response_format="url"))["data"]
    assert image.keys() == {"url"}
    assert image["url"].startswith("https://mock.invalid/")
    assert [image] == (await images("mock-image", response_format="url", n=1))["data"]


@pytest.mark.parametrize(
    ("model", "asked", "returned"),
    [
        ("mock-image", None, 1),
        ("mock-image", 10, 10),
        ("mock-half", 4, 2),
        ("mock-half", 5, 3),
        ("mock-half", 1, 1),
        ("mock-none", 4, 0),
    ],
)
async def test_how_many_images_come_back_follows_from_the_name(model: str, asked: int | None, returned: int) -> None:
    assert len((await images(model, n=asked))["data"]) == returned


async def test_a_premium_image_says_how_its_prompt_was_revised() -> None:
    [image] = (await images("mock-premium"))["data"]
    assert "A red fox" in image["revised_prompt"]
    [image] = (await images("mock-image"))["data"]
    assert "revised_prompt" not in image


async def test_image_tokens_are_reported_by_name_for_what_came_back() -> None:
    assert (await images("mock-tokens", n=2))["usage"] == {
        "input_tokens": 3,
        "output_tokens": 544,
        "total_tokens": 547,
        "input_tokens_details": {"text_tokens": 3, "image_tokens": 0},
    }
    assert (await images("mock-tokens-half", n=2))["usage"]["output_tokens"] == 272


async def test_trouble_by_name_holds_for_images_too() -> None:
    exchange = await ask_images("mock-image-error-503")
    assert exchange.status == 503
    with pytest.raises(UpstreamFailure) as caught:
        await ask_images("mock-image-die")
    assert caught.value.kind == "died"
