"""The OpenAI SDK for Python on images and sound: forms, bytes and events, each booked by its own unit."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.python.answers import event_stream, in_turn, payloads, typed_events
from tests.clients.python.samples import PICTURE, SOUND
from tests.clients.python.world import Clients, Paid, served
from tests.rig import wire
from tests.rig.gateway import Gateway
from tests.rig.upstream import Request, Send, Upstream

FAMILIES = ("openai3", "openai2")
CENT = 10**7
"""In nano-dollars."""
B64 = base64.b64encode(PICTURE).decode()

World = tuple[Gateway, dict[str, Clients]]


@pytest.fixture(scope="module")
def world(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    wanted = [(family, "scenarios_media") for family in FAMILIES]
    with served(upstream, tmp_path_factory.mktemp("media"), *wanted) as (gateway, clients):
        yield gateway, dict(zip(FAMILIES, clients, strict=True))


@pytest.fixture(params=FAMILIES)
def client(world: World, request: pytest.FixtureRequest) -> Clients:
    return world[1][request.param]


def form(request: Request) -> tuple[dict[str, list[str]], list[tuple[str, str, bytes]]]:
    """The values of a form by name, and its files: name, file name, data."""
    boundary = (request.header("content-type") or "").partition("boundary=")[2].strip('"').encode()
    assert boundary, request.headers
    values: dict[str, list[str]] = {}
    files = []
    for part in request.body.split(b"--" + boundary)[1:-1]:
        head, _, data = part.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n")
        fields = dict(field.split("=", 1) for field in head.decode().split("\r\n")[0].split("; ") if "=" in field)
        name = fields["name"].strip('"')
        if "filename" in fields:
            files.append((name, fields["filename"].strip('"'), data))
        else:
            values.setdefault(name, []).append(data.decode())
    return values, files


# Images


def pictures(*images: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"created": wire.CREATED, "data": list(images), **fields}


def test_images_cost_what_came_back(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(pictures({"b64_json": B64}, {"b64_json": "AAAA", "revised_prompt": "a fox"}))
    played = client.play("generate", script, model="rig-image", n=2, quality="hd", response_format="b64_json")
    assert played.value["images"] == [{"b64_json": B64}, {"b64_json": "AAAA", "revised_prompt": "a fox"}]
    assert script.request.json["quality"] == "hd"
    played.assert_paid(Paid("images", "rig-image", 0, 0, 2 * 8 * CENT))
    assert played.entries[0]["images"] == 2


def test_an_image_may_be_a_url_of_the_provider(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(pictures({"url": "https://images.test/fox.png"}))
    played = client.play("generate", script, model="rig-image")
    assert played.value["images"] == [{"url": "https://images.test/fox.png"}]
    played.assert_paid(Paid("images", "rig-image", 0, 0, 4 * CENT))


def test_an_image_that_came_as_bytes_is_kept_for_whoever_asked_for_a_url(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(pictures({"b64_json": B64}))
    played = client.play("generate_and_fetch", script, model="rig-image")
    assert played.value == {"b64_json": None, "found": B64, "type": "image/png"}
    played.assert_paid(Paid("images", "rig-image", 0, 0, 4 * CENT))


IMAGE_USAGE = {
    "input_tokens": 14,
    "output_tokens": 272,
    "total_tokens": 286,
    "input_tokens_details": {"text_tokens": 14, "image_tokens": 0},
}


def picture_events(kind: str, usage: dict[str, Any]) -> bytes:
    shape = {"size": "1024x1024", "quality": "low", "background": "opaque", "output_format": "png"}
    events = [
        {"type": f"{kind}.partial_image", "b64_json": "AAAA", "partial_image_index": 0, "created_at": 1, **shape},
        {"type": f"{kind}.completed", "b64_json": B64, "created_at": 1, "usage": usage, **shape},
    ]
    return event_stream(typed_events(events))


def test_a_streamed_image_costs_its_tokens(upstream: Upstream, client: Clients) -> None:
    script = in_turn(upstream, picture_events("image_generation", IMAGE_USAGE))
    played = client.play("generate_stream", script)
    assert played.value == [
        {"type": "image_generation.partial_image", "b64_json": "AAAA"},
        {"type": "image_generation.completed", "b64_json": B64},
    ]
    played.assert_paid(Paid("images", "rig-image-tokens", 14, 272, 14 * 5_000 + 272 * 30_000))


def test_an_edit_sends_its_files_as_they_came(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(pictures({"b64_json": B64}, {"b64_json": B64}))
    played = client.play("edit", script)
    assert played.value["images"] == [B64, B64]
    values, files = form(script.request)
    assert values == {"model": ["rig-image"], "prompt": [script.marker], "n": ["2"]}
    assert sorted(files) == [
        ("image[]", "fox.png", PICTURE),
        ("image[]", "hen.png", PICTURE[::-1]),
        ("mask", "mask.png", PICTURE),
    ]
    played.assert_paid(Paid("image_edits", "rig-image", 0, 0, 2 * 4 * CENT))


def test_an_async_edit_sends_its_file(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(pictures({"b64_json": B64}, {"b64_json": B64}))
    played = client.play("edit_async", script)
    assert played.value["images"] == [B64, B64]
    assert form(script.request)[1] == [("image", "fox.png", PICTURE)]
    played.assert_paid(Paid("image_edits", "rig-image", 0, 0, 2 * 4 * CENT))


def test_a_streamed_edit_costs_its_tokens(upstream: Upstream, client: Clients) -> None:
    usage = {
        "input_tokens": 400,
        "output_tokens": 272,
        "total_tokens": 672,
        "input_tokens_details": {"text_tokens": 14, "image_tokens": 386},
    }
    script = in_turn(upstream, picture_events("image_edit", usage))
    played = client.play("edit_stream", script)
    assert [event["type"] for event in played.value] == ["image_edit.partial_image", "image_edit.completed"]
    assert form(script.request)[0]["stream"] == ["true"]
    cost = 14 * 5_000 + 386 * 8_000 + 272 * 30_000
    played.assert_paid(Paid("image_edits", "rig-image-tokens", 400, 272, cost))


def test_a_variation(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply(pictures({"b64_json": B64}))
    played = client.play("vary", script)
    assert played.value["images"] == [B64]
    assert form(script.request)[1] == [("image", "fox.png", PICTURE)]
    played.assert_paid(Paid("image_variations", "rig-image", 0, 0, 4 * CENT))


# Speech


def spoken(script_marker: str) -> Paid:
    """15 USD a million characters is 15 000 nano-dollars each."""
    return Paid("speech", "rig-speech", 0, 0, len(script_marker) * 15_000)


@pytest.mark.parametrize("scenario", ["speak", "speak_async"])
def test_speech_is_bytes_of_the_providers_type(upstream: Upstream, client: Clients, scenario: str) -> None:
    script = upstream.script(Send(wire.reply(SOUND, content_type="audio/wav")))
    played = client.play(scenario, script, model="rig-speech")
    assert played.value == {"sound": base64.b64encode(SOUND).decode(), "type": "audio/wav"}
    assert script.request.json == {
        "model": "rig-speech",
        "voice": "alloy",
        "input": script.marker,
        "response_format": "wav",
    }
    played.assert_paid(spoken(script.marker))
    assert played.entries[0]["characters"] == len(script.marker)


def test_speech_is_streamed_to_a_file(upstream: Upstream, client: Clients) -> None:
    head = wire.head(200, [("content-type", "audio/mpeg"), ("transfer-encoding", "chunked")])
    pieces = [SOUND[start : start + 5_000] for start in range(0, len(SOUND), 5_000)]
    script = upstream.script(*(Send(data) for data in (head, *map(wire.framed, pieces), wire.LAST_CHUNK)))
    played = client.play("speak_to_file", script, model="rig-speech")
    assert played.value == {"sound": base64.b64encode(SOUND).decode(), "type": "audio/mpeg"}
    played.assert_paid(spoken(script.marker))


def test_speech_as_events_costs_its_tokens(upstream: Upstream, client: Clients) -> None:
    usage = {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}
    events = [
        wire.event({"type": "speech.audio.delta", "audio": "AAAA"}),
        wire.event({"type": "speech.audio.done", "usage": usage}),
    ]
    script = upstream.stream(*events)
    played = client.play("speak_events", script, model="rig-speech-tokens")
    assert [line.encode() + b"\n\n" for line in played.value] == events
    played.assert_paid(Paid("speech", "rig-speech-tokens", 14, 101, 14 * 600 + 101 * 12_000))


# Transcription


def heard(endpoint: str = "transcriptions", seconds: int = 1) -> Paid:
    """0.0001 USD a second."""
    return Paid(endpoint, "rig-listen", 0, 0, seconds * 100_000)


@pytest.mark.parametrize("scenario", ["transcribe", "transcribe_async"])
def test_a_transcription_sends_the_file_and_costs_its_seconds(
    upstream: Upstream, client: Clients, scenario: str
) -> None:
    answer = {"text": "Nothing.", "usage": {"type": "duration", "seconds": 1}}
    script = upstream.reply(answer)
    played = client.play(scenario, script, model="rig-listen")
    assert played.value == answer
    values, files = form(script.request)
    assert (values["model"], values["prompt"]) == (["rig-listen"], [script.marker])
    assert files == [("file", "silence.wav", SOUND)]
    played.assert_paid(heard())
    assert played.entries[0]["audio_seconds"] == 1


def test_a_transcription_by_tokens(upstream: Upstream, client: Clients) -> None:
    usage = {
        "type": "tokens",
        "input_tokens": 24,
        "output_tokens": 5,
        "total_tokens": 29,
        "input_token_details": {"text_tokens": 14, "audio_tokens": 10},
    }
    played = client.play("transcribe", upstream.reply({"text": "Nothing.", "usage": usage}), model="rig-listen-tokens")
    assert played.value["usage"]["total_tokens"] == 29
    played.assert_paid(Paid("transcriptions", "rig-listen-tokens", 24, 5, 14 * 2_500 + 10 * 6_000 + 5 * 10_000))


def test_a_verbose_transcription(upstream: Upstream, client: Clients) -> None:
    segment = {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": 1.0,
        "text": "Nothing.",
        "tokens": [1],
        "temperature": 0.0,
        "avg_logprob": -0.1,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.2,
    }
    answer = {"task": "transcribe", "language": "english", "duration": 1.0, "text": "Nothing.", "segments": [segment]}
    script = upstream.reply(answer)
    played = client.play(
        "transcribe",
        script,
        model="rig-listen",
        response_format="verbose_json",
        timestamp_granularities=["segment", "word"],
    )
    assert played.value == answer
    assert form(script.request)[0]["timestamp_granularities[]"] == ["segment", "word"]
    played.assert_paid(heard())


@pytest.mark.parametrize(
    ("response_format", "asked", "text"),
    [
        pytest.param("text", "json", "Nothing.\n", id="text"),
        pytest.param("srt", "verbose_json", "1\n00:00:00,000 --> 00:00:02,000\nNothing.\n\n", id="srt"),
        pytest.param("vtt", "verbose_json", "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nNothing.\n", id="vtt"),
    ],
)
def test_a_transcription_as_text_costs_the_seconds_that_the_provider_reports(
    upstream: Upstream, client: Clients, response_format: str, asked: str, text: str
) -> None:
    """Plain words say nothing of seconds: the provider is asked for JSON, and the gateway writes the words."""
    script = upstream.reply(
        {"text": "Nothing.", "duration": 2, "segments": [{"start": 0, "end": 2, "text": " Nothing."}]}
    )
    played = client.play("transcribe", script, model="rig-listen", response_format=response_format)
    assert played.value == text
    assert form(script.request)[0]["response_format"] == [asked]
    [entry] = played.entries
    assert (entry["cost_nano_usd"], entry["audio_seconds"], entry["outcome"]) == (200_000, 2, "ok")


@pytest.mark.parametrize(
    ("response_format", "text"),
    [
        pytest.param("text", "Nothing was said.\n", id="text"),
        pytest.param("srt", "1\n00:00:00,000 --> 00:00:01,000\nNothing.\n", id="srt"),
        pytest.param("vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nNothing.\n", id="vtt"),
    ],
)
def test_plain_words_that_come_all_the_same_cost_the_seconds_of_the_file(
    upstream: Upstream, client: Clients, response_format: str, text: str
) -> None:
    script = upstream.script(Send(wire.reply(text.encode(), content_type="text/plain; charset=utf-8")))
    played = client.play("transcribe", script, model="rig-listen", response_format=response_format)
    assert played.value == text
    [entry] = played.entries
    assert (entry["cost_nano_usd"], entry["audio_seconds"], entry["outcome"]) == (100_000, 1, "ok")


def test_a_streamed_transcription(upstream: Upstream, client: Clients) -> None:
    usage = {
        "type": "tokens",
        "input_tokens": 24,
        "output_tokens": 5,
        "total_tokens": 29,
        "input_token_details": {"text_tokens": 14, "audio_tokens": 10},
    }
    events = [
        wire.event({"type": "transcript.text.delta", "delta": "Noth"}),
        wire.event({"type": "transcript.text.delta", "delta": "ing."}),
        wire.event({"type": "transcript.text.done", "text": "Nothing.", "usage": usage}),
    ]
    played = client.play("transcribe_stream", script := upstream.stream(*events))
    assert played.value == payloads(events)
    assert form(script.request)[0]["stream"] == ["true"]
    played.assert_paid(Paid("transcriptions", "rig-listen-tokens", 24, 5, 14 * 2_500 + 10 * 6_000 + 5 * 10_000))


def test_a_translation(upstream: Upstream, client: Clients) -> None:
    script = upstream.reply({"text": "Nothing."})
    played = client.play("translate", script)
    assert played.value == {"text": "Nothing."}
    assert form(script.request)[1] == [("file", "silence.wav", SOUND)]
    [entry] = played.entries
    assert (entry["endpoint"], entry["cost_nano_usd"]) == ("translations", 100_000)
