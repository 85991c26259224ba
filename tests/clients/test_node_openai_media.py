"""OpenAI's client for Node on the endpoints beside chat: embeddings, images, sound, moderations."""

import base64
import io
import struct
import wave
import zlib
from typing import Any

import pytest

from tests.clients.conftest import Play
from tests.clients.world import (
    NANO_PER_CHARACTER,
    NANO_PER_EMBEDDED_TOKEN,
    NANO_PER_IMAGE,
    NANO_PER_SECOND,
)
from tests.rig import wire
from tests.rig.gateway import Gateway, Key, prompt
from tests.rig.upstream import Request, Send, Upstream


def second_of_silence() -> bytes:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8_000)
        writer.writeframes(bytes(16_000))
    return sound.getvalue()


def square() -> bytes:
    """A PNG of one grey pixel."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\0\x80")) + part(b"IEND", b"")


SOUND = second_of_silence()
PICTURE = square()
USAGE_OF_SOUND = {"type": "duration", "seconds": 1}


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def assert_charged(kit: Gateway, key: Key, endpoint: str, cost: int) -> dict[str, Any]:
    entry = kit.entry(key)
    assert (entry["endpoint"], entry["outcome"], entry["flags"]) == (endpoint, "ok", [])
    assert entry["cost_nano_usd"] == cost
    return entry


def parts(request: Request) -> dict[str, bytes]:
    """The form that reached the upstream, by the names of its fields."""
    content_type = request.header("content-type") or ""
    kind, _, boundary = content_type.partition("; boundary=")
    assert kind == "multipart/form-data"
    found = {}
    for part in request.body.split(b"--" + boundary.strip('"').encode())[1:-1]:
        head, _, data = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = head.partition(b'name="')[2].partition(b'"')[0]
        found[name.decode()] = data.removesuffix(b"\r\n")
    return found


def test_embeddings_come_as_numbers(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    """The client asks for base64 and unpacks it; floats that fit 32 bits survive that unchanged."""
    vectors = [[0.5, -0.25, 2.0], [1.0, 0.0, -8.0]]
    packed = [text_of(struct.pack("<3f", *vector)) for vector in vectors]
    data = [{"object": "embedding", "index": i, "embedding": item} for i, item in enumerate(packed)]
    usage = {"prompt_tokens": 11, "total_tokens": 11}
    script = upstream.reply({"object": "list", "model": "up-kit-embed", "data": data, "usage": usage})
    seen = play("openai", "embeddings", body={"model": "kit-embed", "input": [prompt(script), "more"]})
    assert seen.result == {"vectors": vectors, "usage": usage}
    assert script.request.json["encoding_format"] == "base64"
    assert assert_charged(kit, kit_key, "embeddings", 11 * NANO_PER_EMBEDDED_TOKEN)["input_tokens"] == 11


def test_images(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    data = [{"b64_json": text_of(PICTURE)}] * 2
    script = upstream.reply({"created": wire.CREATED, "data": data})
    seen = play("openai", "image", body={"model": "kit-image", "prompt": prompt(script), "n": 2, "size": "1024x1024"})
    assert [item["b64_json"] for item in seen.result["data"]] == [text_of(PICTURE)] * 2
    assert script.request.json["model"] == "up-kit-image"
    assert assert_charged(kit, kit_key, "images", 2 * NANO_PER_IMAGE)["images"] == 2


def test_an_image_is_uploaded_and_edited(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    script = upstream.reply({"created": wire.CREATED, "data": [{"b64_json": text_of(PICTURE)}]})
    seen = play("openai", "imageEdit", body={"model": "kit-image", "prompt": prompt(script)}, file=text_of(PICTURE))
    assert seen.error is None
    assert seen.result["data"][0]["b64_json"] == text_of(PICTURE)
    form = parts(script.request)
    assert form["image"] == PICTURE
    assert form["prompt"] == prompt(script).encode()
    assert form["model"] == b"up-kit-image"
    assert_charged(kit, kit_key, "image_edits", NANO_PER_IMAGE)


def test_speech(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    sound = bytes(range(256)) * 100
    script = upstream.script(Send(wire.reply(sound, content_type="audio/mpeg")))
    said = prompt(script) + " Grüße"
    seen = play("openai", "speech", body={"model": "kit-speech", "input": said, "voice": "alloy"})
    assert seen.result == {"type": "audio/mpeg", "bytes": text_of(sound)}
    entry = assert_charged(kit, kit_key, "speech", len(said) * NANO_PER_CHARACTER)
    assert entry["characters"] == len(said)


@pytest.mark.parametrize(
    ("scenario", "endpoint"), [("transcription", "transcriptions"), ("translation", "translations")]
)
def test_sound_is_uploaded_and_written_down(
    upstream: Upstream, kit: Gateway, kit_key: Key, play: Play, scenario: str, endpoint: str
) -> None:
    script = upstream.reply({"text": "silence", "usage": USAGE_OF_SOUND})
    seen = play("openai", scenario, body={"model": "kit-transcribe", "prompt": prompt(script)}, file=text_of(SOUND))
    assert seen.error is None
    assert seen.result["text"] == "silence"
    assert script.request.line == f"POST /v1/audio/{endpoint} HTTP/1.1"
    form = parts(script.request)
    assert form["file"] == SOUND
    assert form["model"] == b"up-kit-transcribe"
    assert assert_charged(kit, kit_key, endpoint, NANO_PER_SECOND)["audio_seconds"] == 1


def test_moderations_cost_nothing_and_are_booked(upstream: Upstream, kit: Gateway, kit_key: Key, play: Play) -> None:
    result = {"flagged": False, "categories": {"violence": False}, "category_scores": {"violence": 0.001}}
    script = upstream.reply({"id": "modr-rig", "model": "up-kit-moderation", "results": [result]})
    seen = play("openai", "moderation", body={"model": "kit-moderation", "input": prompt(script)})
    assert seen.result["results"] == [result]
    assert_charged(kit, kit_key, "moderations", 0)


def test_an_upload_for_an_unknown_model(play: Play) -> None:
    seen = play("openai", "transcription", body={"model": "gpt-nowhere"}, file=text_of(SOUND))
    assert (seen.error["class"], seen.error["code"]) == ("NotFoundError", "model_not_found")
