"""Every endpoint of OpenAI's dialect over wire bytes: a success with its exact cost, and a refusal that costs nothing.

What the provider sends reaches the client byte for byte; what an entry says is added up by hand beside it.
"""

import base64
import io
import json
import struct
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.multipart import FilePart, dump_form
from tests.rig import wire
from tests.rig.catalog import estimated_input
from tests.rig.client import Answer, exchange, request_bytes
from tests.rig.gateway import Gateway, Key, prompt
from tests.rig.upstream import Close, Script, Send, Upstream

FIXTURES = Path(__file__).parents[1] / "fixtures"
PNG = b"\x89PNG\r\n\x1a\n" + b"\r\n--\r\n\0" * 40


def stream(name: str) -> bytes:
    return (FIXTURES / "streams" / f"{name}.txt").read_bytes()


def recording(seconds: float) -> bytes:
    """Silence as 8-bit mono WAV at 8 kHz."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8_000)
        sound.writeframes(b"\x80" * round(8_000 * seconds))
    return file.getvalue()


WAV = recording(3.2)
"""Billed as four seconds."""


@pytest.fixture
def dia_key(dialects: Gateway) -> Key:
    return dialects.new_key()


class Call(NamedTuple):
    """One way to ask for something, and where to."""

    path: str
    body: Callable[[str], dict[str, Any]]
    """By the prompt."""
    files: tuple[FilePart, ...] = ()

    async def __call__(self, gateway: Gateway, key: Key, script: Script, **fields: Any) -> Answer:
        body = {**self.body(prompt(script)), **fields}
        if not self.files:
            return await gateway.post(key, body, path=self.path)
        values = [
            (name, one if isinstance(one, str) else json.dumps(one))
            for name, value in body.items()
            for one in (value if isinstance(value, list) else [value])
        ]
        data, kind = dump_form(values, self.files)
        request = request_bytes("POST", self.path, key=key.key, body=data, headers=[("content-type", kind)])
        return await exchange(gateway.port, request)


SOUND_FILE = FilePart("file", "a.wav", "audio/wav", WAV)
IMAGE_FILE = FilePart("image", "cat.png", "image/png", PNG)
COMPLETION = Call("/v1/completions", lambda text: {"model": "dia-openai", "prompt": text})
EMBEDDING = Call("/v1/embeddings", lambda text: {"model": "dia-embedding", "input": text})
MODERATION = Call("/v1/moderations", lambda text: {"model": "dia-moderation", "input": text})
IMAGE = Call("/v1/images/generations", lambda text: {"model": "dia-image", "prompt": text})
DALLE = Call("/v1/images/generations", lambda text: {"model": "dia-dalle", "prompt": text})
EDIT = Call("/v1/images/edits", lambda text: {"model": "dia-image", "prompt": text}, (IMAGE_FILE,))
VARIATION = Call("/v1/images/variations", lambda text: {"model": "dia-dalle", "user": text}, (IMAGE_FILE,))
SPEECH = Call("/v1/audio/speech", lambda text: {"model": "dia-tts", "input": text, "voice": "alloy"})
TRANSCRIPTION = Call("/v1/audio/transcriptions", lambda text: {"model": "dia-whisper", "prompt": text}, (SOUND_FILE,))
TRANSLATION = Call("/v1/audio/translations", lambda text: {"model": "dia-whisper", "prompt": text}, (SOUND_FILE,))
# What is kept of a response would be found by the audit, which looks for prompts.
RESPONSE = Call("/v1/responses", lambda text: {"model": "dia-native", "input": text, "store": False})
BRIDGED_RESPONSE = Call("/v1/responses", lambda text: {"model": "dia-openai", "input": text, "store": False})
MESSAGE = Call(
    "/v1/messages",
    lambda text: {"model": "dia-native", "max_tokens": 2_000, "messages": [{"role": "user", "content": text}]},
)
BRIDGED_MESSAGE = Call(
    "/v1/messages",
    lambda text: {"model": "dia-openai", "max_tokens": 2_000, "messages": [{"role": "user", "content": text}]},
)
CLAUDE_MESSAGE = Call(
    "/v1/messages",
    lambda text: {"model": "dia-claude", "max_tokens": 2_000, "messages": [{"role": "user", "content": text}]},
)
CLAUDE_RESPONSE = Call("/v1/responses", lambda text: {"model": "dia-claude", "input": text, "store": False})
GEMINI_RESPONSE = Call("/v1/responses", lambda text: {"model": "dia-gemini", "input": text, "store": False})
GEMINI_MESSAGE = Call(
    "/v1/messages",
    lambda text: {"model": "dia-gemini", "max_tokens": 2_000, "messages": [{"role": "user", "content": text}]},
)
ALL = {
    "completions": COMPLETION,
    "embeddings": EMBEDDING,
    "moderations": MODERATION,
    "images": IMAGE,
    "images by the piece": DALLE,
    "edits": EDIT,
    "variations": VARIATION,
    "speech": SPEECH,
    "transcriptions": TRANSCRIPTION,
    "translations": TRANSLATION,
    "responses": RESPONSE,
    "bridged responses": BRIDGED_RESPONSE,
    "messages": MESSAGE,
    "bridged messages": BRIDGED_MESSAGE,
}


def streaming(upstream: Upstream, data: bytes, step: int = 173) -> Script:
    pieces = [Send(wire.framed(data[at : at + step])) for at in range(0, len(data), step)]
    return upstream.script(Send(wire.stream_head([("x-request-id", "req_s")])), *pieces, Send(wire.LAST_CHUNK))


def booked(gateway: Gateway, key: Key, *names: str) -> dict[str, Any]:
    """The only entry of the key, complete and sure of itself; of it those of `names`, and its cost."""
    entry = gateway.entry(key)
    assert (entry["outcome"], entry["flags"]) == ("ok", []), entry
    return {name: entry[name] for name in (*names, "cost_nano_usd")}


# Refusals, everywhere alike


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in ALL.items()])
async def test_a_providers_refusal_reaches_the_client_and_costs_nothing(
    dialects: Gateway, upstream: Upstream, dia_key: Key, call: Call
) -> None:
    error = {"message": f"No. {dialects.provider_key}", "type": "invalid_request_error", "param": "x", "code": "bad_x"}
    script = upstream.reply({"error": error}, 400, [("x-request-id", "req_r")])
    answer = await call(dialects, dia_key, script)
    assert answer.status == 400, answer
    if call.path == "/v1/messages":
        assert answer.json["type"] == "error"
        told = answer.json["error"]
        assert (told["type"], told["message"]) == ("invalid_request_error", "No. [redacted]")
    else:
        assert answer.error == {**error, "message": "No. [redacted]"}
    assert answer.header("x-upstream-request-id") == "req_r"
    entry = dialects.entry(dia_key)
    assert (entry["cost_nano_usd"], entry["outcome"], entry["status"]) == (0, "upstream_refused", 400)


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in ALL.items()])
async def test_a_rate_limit_of_the_provider_tells_the_wait(
    dialects: Gateway, upstream: Upstream, dia_key: Key, call: Call
) -> None:
    error = {"message": "Slow down.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    script = upstream.reply({"error": error}, 429, [("retry-after", "9")])
    answer = await call(dialects, dia_key, script)
    assert (answer.status, answer.header("retry-after")) == (429, "9")
    assert dialects.entry(dia_key)["cost_nano_usd"] == 0


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in ALL.items()])
async def test_a_bad_provider_key_is_the_operators_business(
    dialects: Gateway, upstream: Upstream, dia_key: Key, call: Call
) -> None:
    error = {"message": f"Incorrect API key provided: {dialects.provider_key}", "type": "x", "code": "invalid_api_key"}
    answer = await call(dialects, dia_key, upstream.reply({"error": error}, 401))
    assert (answer.status, answer.header("x-should-retry")) == (502, "false")
    assert dialects.provider_key not in str(answer)
    assert dialects.entry(dia_key)["cost_nano_usd"] == 0


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in ALL.items() if name != "speech"])
async def test_an_answer_of_another_endpoint_is_a_502(
    dialects: Gateway, upstream: Upstream, dia_key: Key, call: Call
) -> None:
    answer = await call(dialects, dia_key, upstream.reply({"object": "list", "hello": "world"}))
    assert answer.status == 502, answer
    assert dialects.entry(dia_key)["outcome"] == "upstream_invalid"


# Completions


async def test_a_completion(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    body = wire.compact(
        {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1_790_000_000,
            "model": "gpt-3.5-turbo-instruct:20230824-v2",
            "choices": [{"text": "Grüß Gott", "index": 0, "logprobs": None, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11},
        }
    )
    answer = await COMPLETION(dialects, dia_key, upstream.reply(body))
    assert (answer.status, answer.body) == (200, body)
    assert booked(dialects, dia_key, "endpoint", "input_tokens", "output_tokens") == {
        "endpoint": "completions",
        "input_tokens": 5,
        "output_tokens": 6,
        "cost_nano_usd": 5 * 3_000 + 6 * 15_000,
    }


@pytest.mark.parametrize("asks", [False, True], ids=["unasked", "asked"])
async def test_a_streamed_completion_costs_the_same(
    dialects: Gateway, upstream: Upstream, dia_key: Key, asks: bool
) -> None:
    data = stream("completions")
    usage = next(event + b"\n\n" for event in data.split(b"\n\n") if b'"choices":[]' in event)
    script = streaming(upstream, data)
    options = {"stream_options": {"include_usage": True}} if asks else {}
    answer = await COMPLETION(dialects, dia_key, script, stream=True, **options)
    assert answer.body == (data if asks else data.replace(usage, b""))
    assert script.request.json["stream_options"] == {"include_usage": True}
    assert script.request.json["max_tokens"] == 16
    assert booked(dialects, dia_key)["cost_nano_usd"] == 5 * 3_000 + 6 * 15_000


# Embeddings


VECTOR = base64.b64encode(struct.pack("<6f", 0.1, -2.5e-7, 1.0, 3.14159, -0.0, 1e-38)).decode()


@pytest.mark.parametrize("given", ["text", "texts", "tokens"])
@pytest.mark.parametrize("encoding", ["base64", "float"])
async def test_embeddings_come_byte_for_byte(
    dialects: Gateway, upstream: Upstream, dia_key: Key, given: str, encoding: str
) -> None:
    vector = f'"{VECTOR}"' if encoding == "base64" else "[0.1,-2.5e-07,1.0,3.14159,-0.0,1e-38,0.1000000000000000055]"
    # Blanks and line ends as a provider may have them: nothing is written anew.
    body = b'{\n  "object": "list",\n  "data": [{"object": "embedding", "index": 0, "embedding": ' + vector.encode()
    body += b'}],\n  "model": "text-embedding-3-small",\n  "usage": {"prompt_tokens": 4, "total_tokens": 4}\n}\n'
    script = upstream.reply(body, headers=[("x-request-id", "req_e")])
    inputs: Any = {"text": prompt(script), "texts": [prompt(script), "ü"], "tokens": [[1, 2, 3], [100_257]]}[given]
    fields = {"input": inputs, "encoding_format": encoding, "dimensions": 6, "user": prompt(script)}
    answer = await EMBEDDING(dialects, dia_key, script, **fields)
    assert (answer.status, answer.body) == (200, body)
    assert answer.header("x-upstream-request-id") == "req_e"
    assert script.request.json == {**fields, "model": "text-embedding-3-small"}
    # 4 tokens at 0.02 dollars a million: 20 nano-dollars each.
    assert booked(dialects, dia_key, "input_tokens", "output_tokens", "usage_source") == {
        "input_tokens": 4,
        "output_tokens": 0,
        "usage_source": "provider",
        "cost_nano_usd": 4 * 20,
    }


# Moderations


async def test_a_moderation_is_free_where_its_price_is_zero(
    dialects: Gateway, upstream: Upstream, dia_key: Key
) -> None:
    body = b'{"id":"modr-1","model":"omni-moderation-latest","results":[{"flagged":true,"categories":{},"category_scores":{"violence":1e-07}}]}'
    answer = await MODERATION(dialects, dia_key, upstream.reply(body))
    assert (answer.status, answer.body) == (200, body)
    assert booked(dialects, dia_key)["cost_nano_usd"] == 0


async def test_a_moderation_with_a_price_costs_its_tokens(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    body = {
        "id": "m",
        "model": "guard",
        "results": [{"flagged": False}],
        "usage": {"prompt_tokens": 40, "total_tokens": 40},
    }
    answer = await MODERATION(dialects, dia_key, upstream.reply(body), model="dia-paid-moderation")
    assert answer.status == 200, answer
    assert booked(dialects, dia_key, "input_tokens") == {"input_tokens": 40, "cost_nano_usd": 40 * 200}


# Images


IMAGE_USAGE = {
    "total_tokens": 330,
    "input_tokens": 58,
    "output_tokens": 272,
    "input_tokens_details": {"text_tokens": 18, "image_tokens": 40},
}
IMAGE_COST = 18 * 5_000 + 40 * 10_000 + 272 * 40_000


def image_answer(count: int = 1, **more: Any) -> bytes:
    return wire.compact({"created": 1_790_000_000, "data": [{"b64_json": "aVZCT1I="}] * count, **more})


@pytest.mark.parametrize("call", [pytest.param(IMAGE, id="generation"), pytest.param(EDIT, id="edit")])
async def test_images_priced_by_tokens(dialects: Gateway, upstream: Upstream, dia_key: Key, call: Call) -> None:
    body = image_answer(usage=IMAGE_USAGE, size="1024x1024", quality="low")
    script = upstream.reply(body)
    answer = await call(dialects, dia_key, script, size="1024x1024", quality="low")
    assert (answer.status, answer.body) == (200, body)
    entry = booked(dialects, dia_key, "input_tokens", "image_input_tokens", "image_output_tokens", "images")
    assert entry == {
        "input_tokens": 58,
        "image_input_tokens": 40,
        "image_output_tokens": 272,
        "images": 1,
        "cost_nano_usd": IMAGE_COST,
    }
    if call.files:
        assert PNG in script.request.body


async def test_images_priced_by_the_piece(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    body = image_answer(3)
    answer = await DALLE(dialects, dia_key, upstream.reply(body), n=3, size="256x256")
    assert (answer.status, answer.body) == (200, body)
    # 0.016 dollars each
    assert booked(dialects, dia_key, "images", "variant") == {
        "images": 3,
        "variant": "256x256/standard",
        "cost_nano_usd": 3 * 16_000_000,
    }


async def test_only_images_that_came_are_paid(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    answer = await DALLE(dialects, dia_key, upstream.reply(image_answer(2)), n=3)
    assert answer.status == 200
    assert booked(dialects, dia_key, "images") == {"images": 2, "cost_nano_usd": 2 * 20_000_000}


async def test_a_variation(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    script = upstream.reply(image_answer(2))
    answer = await VARIATION(dialects, dia_key, script, n=2)
    assert (answer.status, answer.body) == (200, image_answer(2))
    assert PNG in script.request.body
    assert script.request.line == "POST /v1/images/variations HTTP/1.1"
    assert booked(dialects, dia_key, "images") == {"images": 2, "cost_nano_usd": 2 * 20_000_000}


@pytest.mark.parametrize("call", [pytest.param(IMAGE, id="generation"), pytest.param(EDIT, id="edit")])
async def test_a_stream_of_images_comes_byte_for_byte_and_costs_the_same(
    dialects: Gateway, upstream: Upstream, dia_key: Key, call: Call
) -> None:
    data = stream("image")
    if call is EDIT:
        data = data.replace(b"image_generation.", b"image_edit.")
    answer = await call(dialects, dia_key, streaming(upstream, data, 41), stream=True, partial_images=1)
    assert answer.body == data
    assert booked(dialects, dia_key, "images") == {"images": 1, "cost_nano_usd": IMAGE_COST}


# Sound


@pytest.mark.parametrize("kind", ["audio/mpeg", "audio/wav", "application/octet-stream"])
async def test_speech_by_the_character_comes_byte_for_byte(
    dialects: Gateway, upstream: Upstream, dia_key: Key, kind: str
) -> None:
    sound = bytes(range(256)) * 300
    text = "Grüß Gott 🌍"
    pieces = [Send(wire.framed(sound[at : at + 10_000])) for at in range(0, len(sound), 10_000)]
    head = wire.head(200, [("content-type", kind), ("transfer-encoding", "chunked"), ("x-request-id", "req_t")])
    script = upstream.script(Send(head), *pieces, Send(wire.LAST_CHUNK))
    answer = await SPEECH(dialects, dia_key, script, input=f"{text} {script.marker}")
    assert (answer.status, answer.body, answer.is_complete) == (200, sound, True)
    assert (answer.header("content-type"), answer.header("x-upstream-request-id")) == (kind, "req_t")
    # 15 dollars a million characters: 15 000 nano-dollars each, whatever its bytes.
    characters = len(text) + 1 + len(script.marker)
    assert booked(dialects, dia_key, "characters") == {"characters": characters, "cost_nano_usd": characters * 15_000}


async def test_speech_in_events_costs_the_tokens_it_reports(
    dialects: Gateway, upstream: Upstream, dia_key: Key
) -> None:
    data = stream("speech")
    script = streaming(upstream, data, 19)
    answer = await SPEECH(dialects, dia_key, script, model="dia-mini-tts", stream_format="sse")
    assert answer.body == data
    # 4 tokens of text at 600 nano-dollars, 21 of sound at 12 000
    assert booked(dialects, dia_key, "input_tokens", "audio_output_tokens") == {
        "input_tokens": 4,
        "audio_output_tokens": 21,
        "cost_nano_usd": 4 * 600 + 21 * 12_000,
    }


async def test_one_short_word_of_speech_costs_what_it_reports(
    dialects: Gateway, upstream: Upstream, dia_key: Key
) -> None:
    """A second of sound, 21 tokens, for two letters: nothing is wrong with that."""
    script = streaming(upstream, stream("speech"))
    answer = await SPEECH(
        dialects, dia_key, script, model="dia-mini-tts", input="Hi", instructions=prompt(script), stream_format="sse"
    )
    assert answer.status == 200, answer
    assert booked(dialects, dia_key)["cost_nano_usd"] == 4 * 600 + 21 * 12_000


@pytest.mark.parametrize(
    ("response_format", "kind", "body"),
    [
        pytest.param(
            "json",
            "application/json",
            b'{"text":"Gr\xc3\xbc\xc3\x9f Gott","usage":{"type":"duration","seconds":4}}',
            id="json",
        ),
        pytest.param(
            "verbose_json",
            "application/json",
            b'{"task":"transcribe","language":"german","duration":3.2,"text":"Gr\xc3\xbc\xc3\x9f Gott","segments":[{"id":0,"start":0.0,"end":3.2,'
            b'"text":"Gr\xc3\xbc\xc3\x9f Gott","avg_logprob":-0.10000000149011612}],"usage":{"type":"duration","seconds":4}}',
            id="verbose_json",
        ),
        pytest.param("text", "text/plain; charset=utf-8", "Grüß Gott\n".encode(), id="text"),
        pytest.param(
            "srt", "text/plain; charset=utf-8", b"1\n00:00:00,000 --> 00:00:03,200\nGuten Tag\n\n\n", id="srt"
        ),
        pytest.param("vtt", "text/vtt; charset=utf-8", b"WEBVTT\n\n00:00.000 --> 00:03.200\nGuten Tag\n\n", id="vtt"),
    ],
)
@pytest.mark.parametrize(
    "call", [pytest.param(TRANSCRIPTION, id="transcription"), pytest.param(TRANSLATION, id="translation")]
)
async def test_a_transcript_by_the_second_comes_byte_for_byte(
    dialects: Gateway,
    upstream: Upstream,
    dia_key: Key,
    call: Call,
    response_format: str,
    kind: str,
    body: bytes,
) -> None:
    script = upstream.script(Send(wire.reply(body, headers=[("x-request-id", "req_a")], content_type=kind)))
    answer = await call(dialects, dia_key, script, response_format=response_format)
    assert (answer.status, answer.body) == (200, body)
    assert (answer.header("content-type"), answer.header("x-upstream-request-id")) == (kind, "req_a")
    assert WAV in script.request.body
    assert script.request.line == f"POST {call.path} HTTP/1.1"
    # 3.2 seconds of sound are four, at 0.0001 dollars
    assert booked(dialects, dia_key, "audio_seconds") == {"audio_seconds": 4, "cost_nano_usd": 4 * 100_000}


async def test_a_transcript_by_tokens(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    body = wire.compact(
        {
            "text": "Grüß Gott",
            "usage": {
                "type": "tokens",
                "total_tokens": 59,
                "input_tokens": 20,
                "input_token_details": {"text_tokens": 6, "audio_tokens": 14},
                "output_tokens": 39,
            },
        }
    )
    answer = await TRANSCRIPTION(dialects, dia_key, upstream.reply(body), model="dia-transcribe")
    assert (answer.status, answer.body) == (200, body)
    assert booked(dialects, dia_key, "input_tokens", "audio_input_tokens", "output_tokens") == {
        "input_tokens": 20,
        "audio_input_tokens": 14,
        "output_tokens": 39,
        "cost_nano_usd": 6 * 2_500 + 14 * 6_000 + 39 * 10_000,
    }


async def test_a_streamed_transcript_comes_byte_for_byte(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    data = stream("transcript")
    answer = await TRANSCRIPTION(
        dialects, dia_key, streaming(upstream, data, 29), model="dia-transcribe", stream="true"
    )
    assert answer.body == data
    assert booked(dialects, dia_key, "audio_input_tokens", "output_tokens") == {
        "audio_input_tokens": 14,
        "output_tokens": 45,
        "cost_nano_usd": 14 * 6_000 + 45 * 10_000,
    }


# Responses and messages


RESPONSE_COST = 36 * 3_000 + 64 * 300 + 31 * 15_000 + 9 * 17_000
RESPONSE_BILL = {
    "endpoint": "responses",
    "input_tokens": 100,
    "cached_input_tokens": 64,
    "output_tokens": 40,
    "reasoning_tokens": 9,
    "cost_nano_usd": RESPONSE_COST,
}
BILL = tuple(RESPONSE_BILL)[:-1]


def native_response() -> bytes:
    events = stream("responses").strip().split(b"\n\n")
    return wire.compact(json.loads(events[-1].partition(b"data: ")[2])["response"])


async def test_a_native_response_passes_through(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    script = upstream.reply(native_response())
    answer = await RESPONSE(dialects, dia_key, script, reasoning={"effort": "low"})
    assert (answer.status, answer.body) == (200, native_response())
    assert script.request.line == "POST /v1/responses HTTP/1.1"
    assert booked(dialects, dia_key, *BILL) == RESPONSE_BILL


async def test_a_native_stream_of_a_response_passes_through(
    dialects: Gateway, upstream: Upstream, dia_key: Key
) -> None:
    data = stream("responses")
    answer = await RESPONSE(dialects, dia_key, streaming(upstream, data), stream=True)
    assert answer.body == data
    assert booked(dialects, dia_key, *BILL) == RESPONSE_BILL


async def test_a_bridged_response_costs_what_the_chat_does(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    script = upstream.reply(wire.completion("Grüße", usage=wire.usage(100, 40, cached=64, reasoning=9)))
    answer = await BRIDGED_RESPONSE(dialects, dia_key, script)
    assert answer.status == 200, answer
    assert script.request.line == "POST /v1/chat/completions HTTP/1.1"
    response = answer.json
    assert (response["object"], response["status"], response["model"]) == ("response", "completed", "dia-openai")
    message = next(item for item in response["output"] if item["type"] == "message")
    assert message["content"][0]["text"] == "Grüße"
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 64
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == 9
    assert booked(dialects, dia_key, *BILL) == RESPONSE_BILL


def typed(answer: Answer) -> list[dict[str, Any]]:
    """The events of a typed stream, whose `event` line says what the data does."""
    found = []
    for event in answer.body.strip().split(b"\n\n"):
        name, _, data = event.partition(b"\n")
        message = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + message["type"].encode()
        found.append(message)
    return found


async def test_a_bridged_stream_of_a_response_costs_the_same(
    dialects: Gateway, upstream: Upstream, dia_key: Key
) -> None:
    answer = await BRIDGED_RESPONSE(dialects, dia_key, streaming(upstream, stream("openai")), stream=True)
    events = typed(answer)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    said = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert said == 'Grüße 🌍 say "completion_tokens" or [DONE]\n\ndata: x'
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["usage"]["total_tokens"] == 140
    assert booked(dialects, dia_key, *BILL) == RESPONSE_BILL


CLAUDE_COST = 21 * 3_000 + 2_048 * 300 + 512 * 3_750 + 85 * 15_000 + 64 * 17_000
CLAUDE_BILL = {
    "input_tokens": 21 + 2_048 + 512,
    "cached_input_tokens": 2_048,
    "cache_write_tokens": 512,
    "output_tokens": 149,
    "reasoning_tokens": 64,
    "cost_nano_usd": CLAUDE_COST,
}
GEMINI_BILL = {
    "input_tokens": 4_200,
    "cached_input_tokens": 4_096,
    "cache_write_tokens": 0,
    "output_tokens": 467,
    "reasoning_tokens": 455,
    "cost_nano_usd": 104 * 3_000 + 4_096 * 300 + 12 * 15_000 + 455 * 17_000,
}


@pytest.mark.parametrize("call", [pytest.param(CLAUDE_MESSAGE, id="anthropic"), pytest.param(MESSAGE, id="openai")])
@pytest.mark.parametrize("is_streaming", [False, True], ids=["whole", "stream"])
async def test_a_native_message_passes_through(
    dialects: Gateway, upstream: Upstream, dia_key: Key, call: Call, is_streaming: bool
) -> None:
    body = (FIXTURES / "anthropic" / ("text.sse" if is_streaming else "text.json")).read_bytes()
    script = streaming(upstream, body) if is_streaming else upstream.reply(body)
    answer = await call(dialects, dia_key, script, **({"stream": True} if is_streaming else {}))
    assert (answer.status, answer.body) == (200, body)
    assert script.request.line == "POST /v1/messages HTTP/1.1"
    assert booked(dialects, dia_key, *list(CLAUDE_BILL)[:-1]) == CLAUDE_BILL


@pytest.mark.parametrize(
    ("call", "whole", "data", "bill"),
    [
        pytest.param(
            CLAUDE_RESPONSE, "anthropic/text.json", "anthropic/text.sse", CLAUDE_BILL, id="response, anthropic"
        ),
        pytest.param(GEMINI_RESPONSE, "gemini/chat.json", "gemini/stream.sse", GEMINI_BILL, id="response, gemini"),
        pytest.param(GEMINI_MESSAGE, "gemini/chat.json", "gemini/stream.sse", GEMINI_BILL, id="message, gemini"),
    ],
)
@pytest.mark.parametrize("is_streaming", [False, True], ids=["whole", "stream"])
async def test_two_translations_in_a_row_change_no_amount(
    dialects: Gateway,
    upstream: Upstream,
    dia_key: Key,
    call: Call,
    whole: str,
    data: str,
    bill: dict[str, Any],
    is_streaming: bool,
) -> None:
    body = (FIXTURES / (data if is_streaming else whole)).read_bytes()
    script = streaming(upstream, body) if is_streaming else upstream.reply(body)
    answer = await call(dialects, dia_key, script, **({"stream": True} if is_streaming else {}))
    assert answer.status == 200, answer
    if is_streaming:
        assert typed(answer)[-1]["type"] in ("response.completed", "message_stop")
    assert booked(dialects, dia_key, *list(bill)[:-1]) == bill


@pytest.mark.parametrize("is_streaming", [False, True], ids=["whole", "stream"])
async def test_a_bridged_message_costs_what_the_chat_does(
    dialects: Gateway, upstream: Upstream, dia_key: Key, is_streaming: bool
) -> None:
    if is_streaming:
        script = streaming(upstream, stream("openai"))
        answer = await BRIDGED_MESSAGE(dialects, dia_key, script, stream=True)
        events = typed(answer)
        usage = next(event["usage"] for event in events if event["type"] == "message_delta")
        assert events[-1]["type"] == "message_stop"
    else:
        script = upstream.reply(wire.completion("Grüße", usage=wire.usage(100, 40, cached=64, reasoning=9)))
        answer = await BRIDGED_MESSAGE(dialects, dia_key, script)
        assert answer.status == 200, answer
        assert answer.json["content"] == [{"type": "text", "text": "Grüße"}]
        usage = answer.json["usage"]
    # Anthropic's figures are disjoint, OpenAI's are not.
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (36, 64, 40)
    assert booked(dialects, dia_key)["cost_nano_usd"] == RESPONSE_COST


# Broken streams of typed events


BROKEN = {
    "response": (RESPONSE, stream("responses"), b"response.output_text.done", ("Grüße", " 🌍"), None),
    "message": (
        CLAUDE_MESSAGE,
        (FIXTURES / "anthropic" / "error.sse").read_bytes(),
        b"event: error",
        ("Once upon",),
        25,
    ),
    "bridged response": (BRIDGED_RESPONSE, stream("error_event"), b'{"error"', ("Es war", " einmal"), None),
    "bridged message": (BRIDGED_MESSAGE, stream("error_event"), b'{"error"', ("Es war", " einmal"), None),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_typed_stream_that_dies_says_so_in_its_own_words_and_is_charged_by_the_rule(
    dialects: Gateway, upstream: Upstream, dia_key: Key, name: str
) -> None:
    call, data, stop, said, read = BROKEN[name]
    before = data.partition(stop)[0].rpartition(b"\n\n")[0] + b"\n\n"
    script = upstream.script(Send(wire.stream_head()), Send(wire.framed(before)), Close())
    answer = await call(dialects, dia_key, script, stream=True)
    last = typed(answer)[-1]
    assert last["type"] == "error", last
    assert answer.is_complete
    assert b"completed" not in answer.body
    assert b"message_stop" not in answer.body
    entry = dialects.entry(dia_key)
    assert entry["outcome"] == "upstream_died"
    made = max(len(said), -(-len("".join(said).encode()) // 4))
    read = estimated_input(prompt(script)) if read is None else read
    assert entry["cost_nano_usd"] == read * 3_000 + made * 15_000


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "response"])
async def test_a_typed_stream_with_an_error_in_it_ends_with_that(
    dialects: Gateway, upstream: Upstream, dia_key: Key, name: str
) -> None:
    call, data, _, said, read = BROKEN[name]
    script = streaming(upstream, data)
    answer = await call(dialects, dia_key, script, stream=True)
    events = typed(answer)
    assert events[-1]["type"] in ("error", "response.failed"), events[-1]
    assert b"response.completed" not in answer.body
    assert b"message_stop" not in answer.body
    entry = dialects.entry(dia_key)
    assert entry["outcome"] == "upstream_error"
    made = max(len(said), -(-len("".join(said).encode()) // 4))
    read = estimated_input(prompt(script)) if read is None else read
    assert entry["cost_nano_usd"] == read * 3_000 + made * 15_000


async def test_a_stream_of_images_that_dies_is_owed_as_drawn(
    dialects: Gateway, upstream: Upstream, dia_key: Key
) -> None:
    """The provider drew it: words by the rule, the image at its most, a hundred tokens for the partial one."""
    partial = stream("image").partition(b"event: image_generation.completed")[0]
    script = upstream.script(Send(wire.stream_head()), Send(wire.framed(partial)), Close())
    answer = await IMAGE(dialects, dia_key, script, stream=True, partial_images=1)
    assert answer.body.startswith(partial)
    assert answer.last_event["error"]["code"] == "upstream_died"
    entry = dialects.entry(dia_key)
    words = estimated_input(prompt(script))
    assert (entry["outcome"], entry["usage_source"]) == ("upstream_died", "estimated")
    assert entry["cost_nano_usd"] == words * 5_000 + (6_240 + 100) * 40_000


async def test_sound_that_dies_is_cut_and_owed(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    head = wire.head(200, [("content-type", "audio/mpeg"), ("transfer-encoding", "chunked")])
    # More than one read takes in, so that some of it has left before the end comes.
    script = upstream.script(Send(head), *[Send(wire.framed(b"s" * 2**18))] * 8, Close())
    answer = await SPEECH(dialects, dia_key, script)
    assert (answer.status, answer.is_complete) == (200, False)
    entry = dialects.entry(dia_key)
    assert (entry["outcome"], entry["cost_nano_usd"]) == ("upstream_died", len(prompt(script)) * 15_000)


async def test_a_path_nobody_has_is_a_404_in_openais_shape(dialects: Gateway, dia_key: Key) -> None:
    answer = await dialects.post(dia_key, {"model": "dia-openai"}, path="/v1/fine_tuning/nothing")
    assert answer.status == 404
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("name", ["embeddings", "images", "speech", "transcriptions", "moderations", "completions"])
async def test_a_model_without_the_endpoint_is_refused_before_anything_is_sent(
    dialects: Gateway, upstream: Upstream, dia_key: Key, name: str
) -> None:
    script = upstream.reply({})
    answer = await ALL[name](dialects, dia_key, script, model="dia-claude")
    assert answer.status in (400, 404), answer
    assert answer.error["message"]
    assert script.requests == []
    assert dialects.entries(creator=dia_key.creator) == []
