"""The mock provider beyond chat: each endpoint answers in its own shape, the same every time, and as its requests meter."""

import base64
import json
import struct
from dataclasses import replace
from typing import Any

import orjson
import pytest

from gateway.catalog import Model, Price, ProviderRow
from gateway.completions import read_completion_request
from gateway.config import Settings
from gateway.embeddings import read_embeddings_request
from gateway.image_edits import read_image_edit_form, read_image_variation_form
from gateway.images import read_image_request
from gateway.model_request import ModelRequest
from gateway.moderations import read_moderations_request
from gateway.multipart import FilePart, Form, dump_form
from gateway.providers.base import Deadlines, Exchange, UpstreamFailure, UpstreamRequest
from gateway.providers.mock import MockProvider
from gateway.relay import Guard

PATIENT = Deadlines(5.0, 5.0, 5.0, 5.0)
ROW = ProviderRow("mock", "mock")
PRICE = Price("1", input=1_000, output=1_000, image_input=1_000, image_output=1_000)
MODEL = Model(
    "mock-tokens", "mock", "mock-tokens", frozenset(), PRICE, image_output_tokens_max=1_000, output_tokens_max=100
)
PICTURE = FilePart("image", "fox.png", "image/png", b"png")


async def opened() -> None:
    """A gate that is open."""


async def send(path: str, body: bytes, content_type: str = "application/json") -> Exchange:
    request = UpstreamRequest(path, body, False, PATIENT, "req_1", content_type=content_type)
    return await MockProvider(ROW, "", Settings()).open(request, opened())


async def ask(path: str, model: str = "mock", **fields: Any) -> Exchange:
    return await send(path, orjson.dumps({"model": model, **fields}))


async def whole(exchange: Exchange) -> bytes:
    assert exchange.status == 200
    parts = []
    while part := await exchange.read():
        parts.append(part)
    return b"".join(parts)


async def answer(path: str, model: str = "mock", **fields: Any) -> Any:
    exchange = await ask(path, model, **fields)
    assert exchange.headers["content-type"] == "application/json"
    return orjson.loads(await whole(exchange))


async def events(path: str, model: str = "mock", **fields: Any) -> list[Any]:
    """The data of each event; where they have a type, it is the same on its line."""
    exchange = await ask(path, model, **fields)
    assert exchange.headers["content-type"].startswith("text/event-stream")
    found = []
    for one in (await whole(exchange)).decode().split("\n\n")[:-1]:
        *kind, data = one.split("\n")
        message = data.removeprefix("data: ")
        if message == "[DONE]":
            assert not kind
            continue
        found.append(json.loads(message))
        assert kind in ([], [f"event: {found[-1].get('type')}"])
    return found


async def sent_as(request: ModelRequest) -> Any:
    """What the mock answers to the request as it would go upstream."""
    outgoing = request.outgoing(MODEL, ROW)
    exchange = await send(outgoing.path, outgoing.body, outgoing.content_type)
    return orjson.loads(await whole(exchange))


# Whatever the endpoint


PATHS = {
    "/completions": {"prompt": "x"},
    "/embeddings": {"input": "x"},
    "/moderations": {"input": "x"},
    "/audio/speech": {"input": "x", "voice": "alloy"},
    "/responses": {"input": "x"},
    "/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9},
    "/messages/count_tokens": {"messages": [{"role": "user", "content": "x"}]},
    "/images/generations": {"prompt": "x"},
}


@pytest.mark.parametrize("path", PATHS)
async def test_every_path_answers_the_same_every_time_and_its_troubles_by_name(path: str) -> None:
    fields = PATHS[path]
    assert await whole(await ask(path, **fields)) == await whole(await ask(path, **fields))
    assert (await ask(path, "mock-error-503", **fields)).status == 503
    with pytest.raises(UpstreamFailure) as caught:
        await ask(path, "mock-die", **fields)
    assert (caught.value.kind, caught.value.is_fully_sent) == ("died", True)


async def test_what_it_does_not_have_is_a_404() -> None:
    exchange = await ask("/batches")
    assert exchange.status == 404
    empty = await send("/responses/resp_1", b"")
    assert empty.status == 404
    assert "nothing at this path" in orjson.loads(await empty.read())["error"]["message"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/completions", {"prompt": "one two three"}),
        ("/responses", {"input": "one two three"}),
        ("/messages", {"messages": [{"role": "user", "content": "one two three"}], "max_tokens": 9}),
        ("/images/generations", {"prompt": "x", "partial_images": 3}),
        ("/audio/speech", {"input": "x", "stream_format": "sse"}),
    ],
)
async def test_a_stream_may_die_in_the_middle(path: str, fields: dict[str, Any]) -> None:
    exchange = await ask(path, "mock-die", stream=True, **fields)
    assert await exchange.read()
    with pytest.raises(UpstreamFailure):
        await whole(exchange)


# Completions


async def test_a_completion_repeats_each_prompt_for_each_answer() -> None:
    said = await answer("/completions", prompt=["Good day", "Bye"], n=2)
    assert [choice["text"] for choice in said["choices"]] == ["You said: Good day "] * 2 + ["You said: Bye "] * 2
    assert [choice["index"] for choice in said["choices"]] == [0, 1, 2, 3]
    assert said["usage"] == {"prompt_tokens": 3, "completion_tokens": 2 * 5 + 2 * 4, "total_tokens": 21}


@pytest.mark.parametrize(
    ("fields", "text", "finish_reason"),
    [
        pytest.param({"max_tokens": 2}, "You said: ", "length", id="a bound"),
        pytest.param({"max_tokens": 0, "echo": True}, "a b", "length", id="only the echo"),
        pytest.param({"echo": True}, "a bYou said: a b ", "stop", id="an echo before the answer"),
        pytest.param({"prompt": [5, 6]}, "You said: 5 6 ", "stop", id="tokens"),
        pytest.param({"prompt": [[5], [6]]}, "You said: 5 ", "stop", id="tokens of two prompts"),
        pytest.param({"prompt": None}, "Hello! ", "stop", id="nothing"),
    ],
)
async def test_a_completion_heeds(fields: dict[str, Any], text: str, finish_reason: str) -> None:
    said = await answer("/completions", **{"prompt": "a b", **fields})
    assert (said["choices"][0]["text"], said["choices"][0]["finish_reason"]) == (text, finish_reason)


async def test_a_completion_streams_what_it_says_whole() -> None:
    fields = {"prompt": ["Good day", "Bye"], "n": 2}
    said = await answer("/completions", **fields)
    chunks = await events("/completions", stream=True, stream_options={"include_usage": True}, **fields)
    for choice in said["choices"]:
        parts = [one for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert parts[-1]["finish_reason"] == "stop"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], said["usage"])
    assert all("usage" not in chunk for chunk in await events("/completions", stream=True, **fields))


async def test_completions_are_metered_by_their_report() -> None:
    request = read_completion_request(b'{"model": "mock-tokens", "prompt": ["Good day", "Bye"]}')
    found = request.meter(await sent_as(request), MODEL, ROW)
    assert found is not None
    assert (found.source, found.cost_nano_usd) == ("provider", 3 + 5 + 4)
    relay = request.relay("text/event-stream", MODEL, ROW, Guard(10_000, bytes))
    assert relay is not None
    relay.feed(await whole(await ask("/completions", stream=True, prompt=["Good day", "Bye"])))
    assert relay.is_complete


# Embeddings and moderations


async def test_vectors_are_the_same_in_both_formats_and_differ_by_input() -> None:
    floats = await answer("/embeddings", input=["a", "b"], dimensions=40)
    packed = await answer("/embeddings", input=["a", "b"], dimensions=40, encoding_format="base64")
    first, second = (one["embedding"] for one in floats["data"])
    assert len(first) == 40
    assert first != second
    assert list(struct.unpack("<40f", base64.b64decode(packed["data"][0]["embedding"]))) == first
    assert [one["index"] for one in packed["data"]] == [0, 1]
    assert len((await answer("/embeddings", input="a"))["data"][0]["embedding"]) == 8


@pytest.mark.parametrize(
    ("value", "count", "tokens"),
    [("Good day", 1, 2), (["abcd", "abcde"], 2, 3), ([7, 8, 9], 1, 3), ([[7, 8], [9]], 2, 3)],
)
async def test_embeddings_are_metered_by_their_report(value: Any, count: int, tokens: int) -> None:
    request = read_embeddings_request(orjson.dumps({"model": "mock-tokens", "input": value}))
    said = await sent_as(request)
    assert len(said["data"]) == count
    found = request.meter(said, MODEL, ROW)
    assert found is not None
    assert (found.source, found.cost_nano_usd) == ("provider", tokens)


async def test_a_moderation_flags_one_word() -> None:
    said = await answer("/moderations", input=["to harm", "harmless"])
    assert [one["flagged"] for one in said["results"]] == [True, False]
    assert said["results"][0]["categories"]["violence"]
    parts = [
        {"type": "text", "text": "harm"},
        {"type": "image_url", "image_url": {"url": "https://example.test/a.png"}},
    ]
    request = read_moderations_request(orjson.dumps({"model": "mock-tokens", "input": parts}))
    said = await sent_as(request)
    assert [one["flagged"] for one in said["results"]] == [True]
    found = request.meter(said, replace(MODEL, price=Price("2", input=0)), ROW)
    assert found is not None
    assert found.cost_nano_usd == 0


# Images


@pytest.mark.parametrize("read_form", [read_image_edit_form, read_image_variation_form])
async def test_forms_are_answered_with_images(read_form: Any) -> None:
    fields = [("model", "mock-tokens"), ("prompt", "A red fox"), ("n", "2")]
    request = read_form(Form(fields, [PICTURE]))
    said = await sent_as(request)
    assert len(said["data"]) == 2
    assert all(base64.b64decode(image["b64_json"]).startswith(b"\x89PNG") for image in said["data"])
    found = request.meter(said, MODEL, ROW)
    assert found is not None
    assert (found.source, found.images, found.cost_nano_usd) == ("provider", 2, 3 + 2 * 272)


async def test_images_stream_partial_ones_and_the_usage_with_the_last() -> None:
    request = read_image_request(
        b'{"model": "mock-tokens", "prompt": "A red fox", "stream": true, "partial_images": 2}'
    )
    outgoing = request.outgoing(MODEL, ROW)
    relay = request.relay("text/event-stream", MODEL, ROW, Guard(10_000, bytes))
    assert relay is not None
    passed = relay.feed(await whole(await send(outgoing.path, outgoing.body)))
    assert passed.count(b"event: image_generation.partial_image\n") == 2
    assert relay.held_back().startswith(b"event: image_generation.completed\n")
    found = relay.metered(is_partial=False)
    assert (found.source, found.images, found.cost_nano_usd) == ("provider", 1, 3 + 272)


async def test_an_edit_streams_under_its_own_name() -> None:
    fields = [("model", "mock"), ("prompt", "x"), ("stream", "true"), ("partial_images", "1")]
    raw = await whole(await send("/images/edits", *dump_form(fields, [PICTURE])))
    assert raw.startswith(b"event: image_edit.partial_image\n")
    assert b"event: image_edit.completed\n" in raw


# Audio


async def test_speech_is_a_wav_whole_or_in_events() -> None:
    exchange = await ask("/audio/speech", input="Good day", voice="alloy", response_format="mp3")
    assert exchange.headers["content-type"] == "audio/wav"
    wav = await whole(exchange)
    assert (wav[:4], wav[8:12], wav[36:40]) == (b"RIFF", b"WAVE", b"data")
    assert struct.unpack("<I", wav[4:8])[0] == len(wav) - 8
    assert struct.unpack("<I", wav[40:44])[0] == len(wav) - 44
    *parts, done = await events("/audio/speech", input="Good day", voice="alloy", stream_format="sse")
    assert b"".join(base64.b64decode(part["audio"]) for part in parts) == wav
    assert done["usage"] == {"input_tokens": 2, "output_tokens": 8, "total_tokens": 10}


def wav(seconds: float) -> bytes:
    samples = bytes(int(16_000 * seconds))
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36, b"WAVE", b"fmt ", 16, 1, 1, 8_000, 16_000, 2, 16, b"data", len(samples)
    )
    return head + samples


async def transcribed(data: bytes, path: str = "/audio/transcriptions", model: str = "mock", **fields: str) -> Exchange:
    file = FilePart("file", "talk.wav", "audio/wav", data)
    return await send(path, *dump_form([("model", model), *fields.items()], [file]))


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        pytest.param(wav(2.5), 3, id="two and a half seconds"),
        pytest.param(wav(0), 1, id="no sound"),
        pytest.param(b"ID3", 1, id="no WAV"),
        pytest.param(b"x" * 100, 1, id="something else"),
    ],
)
async def test_a_transcript_reports_how_long_the_recording_is(data: bytes, seconds: int) -> None:
    said = orjson.loads(await whole(await transcribed(data)))
    assert said == {"text": "A recording called talk.wav.", "usage": {"type": "duration", "seconds": seconds}}


async def test_a_transcript_reports_tokens_by_name() -> None:
    usage = orjson.loads(await whole(await transcribed(wav(3), model="mock-tokens")))["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (30, 7, 37)
    assert usage["input_token_details"] == {"text_tokens": 0, "audio_tokens": 30}


@pytest.mark.parametrize(
    ("shape", "content_type", "begins"),
    [
        ("text", "text/plain", b"A recording called talk.wav.\n"),
        ("srt", "text/plain", b"1\n00:00:00,000 --> 00:00:03,000\nA recording"),
        ("vtt", "text/vtt", b"WEBVTT\n\n00:00:00.000 --> 00:00:03.000\nA recording"),
    ],
)
async def test_a_transcript_as_text(shape: str, content_type: str, begins: bytes) -> None:
    exchange = await transcribed(wav(3), response_format=shape)
    assert exchange.headers["content-type"].startswith(content_type)
    assert (await whole(exchange)).startswith(begins)


async def test_a_verbose_transcript_has_whole_segments() -> None:
    exchange = await transcribed(wav(3), "/audio/translations", response_format="verbose_json")
    said = orjson.loads(await whole(exchange))
    assert (said["task"], said["duration"]) == ("translate", 3.0)
    assert said["segments"][0].keys() >= {"seek", "tokens", "temperature", "avg_logprob", "no_speech_prob"}


async def test_a_transcript_streams() -> None:
    raw = await whole(await transcribed(wav(3), stream="true"))
    assert raw.count(b"event: transcript.text.delta\n") == 4
    assert raw.rstrip().split(b"\n\n")[-1].startswith(b"event: transcript.text.done\n")


# Native shapes


async def test_a_response_repeats_what_was_said_whole_and_in_events() -> None:
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Good day"}]}]
    assert (await answer("/responses", input="Good day"))["output"] == (await answer("/responses", input=items))[
        "output"
    ]
    said = await answer("/responses", input="Good day")
    assert said["output"][0]["content"][0]["text"] == "You said: Good day"
    assert (said["usage"]["input_tokens"], said["usage"]["output_tokens"], said["status"]) == (2, 5, "completed")
    found = await events("/responses", input="Good day", stream=True)
    assert [one["sequence_number"] for one in found] == list(range(len(found)))
    assert (found[0]["type"], found[-1]["type"]) == ("response.created", "response.completed")
    assert found[-1]["response"] == said
    assert "".join(one["delta"] for one in found if one["type"].endswith("text.delta")) == "You said: Good day"


async def test_a_response_is_cut_at_its_bound() -> None:
    said = await answer("/responses", input="Good day", max_output_tokens=2)
    assert (said["status"], said["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    found = await events("/responses", input="Good day", max_output_tokens=2, stream=True)
    assert found[-1]["type"] == "response.incomplete"


async def test_a_message_repeats_what_was_said_whole_and_in_events() -> None:
    fields = {"messages": [{"role": "user", "content": "Good day"}], "max_tokens": 9}
    said = await answer("/messages", **fields)
    assert said["content"] == [{"type": "text", "text": "You said: Good day"}]
    assert (said["stop_reason"], said["usage"]["input_tokens"], said["usage"]["output_tokens"]) == ("end_turn", 2, 5)
    found = await events("/messages", stream=True, **fields)
    assert [one["type"] for one in found][:2] == ["message_start", "content_block_start"]
    assert [one["type"] for one in found][-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert (
        "".join(one["delta"]["text"] for one in found if one["type"] == "content_block_delta") == "You said: Good day"
    )
    assert found[-2]["usage"]["output_tokens"] == 5
    cut = await answer("/messages", **{**fields, "max_tokens": 2})
    assert cut["stop_reason"] == "max_tokens"
    assert await answer("/messages/count_tokens", messages=fields["messages"]) == {"input_tokens": 2}
