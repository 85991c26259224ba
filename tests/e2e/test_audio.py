"""Speech, transcriptions and translations through OpenAI's SDK: what arrives, what is booked, and what it adds up to."""

import io
import wave
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.rig import wire
from tests.rig.gateway import Gateway, Key, prompt
from tests.rig.policy_world import served
from tests.rig.upstream import Close, Send, Upstream

MODELS = """
[models."whisper"]
provider = "rig"
upstream_model = "upstream-whisper"
endpoints = ["transcriptions", "translations"]
audio_usd_per_second = 0.0001

[models."transcribe"]
provider = "rig"
upstream_model = "upstream-transcribe"
endpoints = ["transcriptions"]
input_usd_per_mtok = 2.5
audio_input_usd_per_mtok = 6
output_usd_per_mtok = 10
context_tokens_max = 16000
output_tokens_max = 2000

[models."tts"]
provider = "rig"
upstream_model = "upstream-tts"
endpoints = ["speech"]
speech_usd_per_mchar = 15

[models."mini-tts"]
provider = "rig"
upstream_model = "upstream-mini-tts"
endpoints = ["speech"]
input_usd_per_mtok = 0.6
audio_output_usd_per_mtok = 12

[models."mute"]
provider = "rig"
endpoints = ["speech", "transcriptions", "translations"]
"""
SECOND = 100_000  # nano-dollars
CHARACTER = 15_000


@pytest.fixture(scope="module")
def audio(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    yield from served(Gateway(tmp_path_factory.mktemp("audio"), upstream, models=MODELS))


@pytest.fixture
def key(audio: Gateway) -> Key:
    return audio.new_key()


@pytest.fixture
def client(audio: Gateway, key: Key) -> Iterator[openai.OpenAI]:
    http_client = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=f"{audio.url}/v1", api_key=key.key, http_client=http_client, max_retries=0) as client:
        yield client


def wav(seconds: int) -> tuple[str, bytes, str]:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8_000)
        file.writeframes(bytes(seconds * 8_000))
    return "a.wav", buffer.getvalue(), "audio/wav"


def event(**fields: object) -> bytes:
    return wire.event(fields)


def booked(audio: Gateway, key: Key) -> dict[str, Any]:
    entry = audio.entry(key)
    assert entry["cost_nano_usd"] == entry["charge_nano_usd"]
    return entry


# Transcriptions


def test_a_transcript_costs_the_seconds_it_says(
    audio: Gateway, upstream: Upstream, key: Key, client: openai.OpenAI
) -> None:
    script = upstream.reply({"text": "Hello.", "usage": {"type": "duration", "seconds": 3}})
    found = client.audio.transcriptions.create(
        model="whisper", file=wav(3), prompt=prompt(script), language="en", temperature=0.2, include=["logprobs"]
    )
    assert found.text == "Hello."
    entry = booked(audio, key)
    assert (entry["endpoint"], entry["variant"], entry["usage_source"]) == ("transcriptions", "seconds", "provider")
    assert (entry["audio_seconds"], entry["images"], entry["characters"]) == (3, 0, 0)
    assert entry["cost_nano_usd"] == 3 * SECOND
    sent = script.request
    assert sent.line.startswith("POST /v1/audio/transcriptions ")
    assert (sent.header("content-type") or "").startswith("multipart/form-data; boundary=")
    assert b"upstream-whisper" in sent.body
    assert wav(3)[1] in sent.body
    assert key.secret.encode() not in sent.body


def test_a_transcript_of_what_was_longer_than_it_seemed_costs_what_the_provider_says(
    audio: Gateway, upstream: Upstream, key: Key, client: openai.OpenAI
) -> None:
    script = upstream.reply({"text": "Hello.", "usage": {"type": "duration", "seconds": 70}})
    client.audio.transcriptions.create(model="whisper", file=wav(3), prompt=prompt(script))
    entry = booked(audio, key)
    assert (entry["cost_nano_usd"], entry["usage_source"]) == (70 * SECOND, "provider")
    assert "over_hold" in entry["flags"]


async def test_a_file_that_two_decoders_hear_as_two_things_costs_its_size(
    audio: Gateway, upstream: Upstream, key: Key
) -> None:
    """A tag of bytes that are none of a tag's, and behind it 36 seconds at 8 kbit/s, in plain text."""
    script = upstream.script(Send(wire.reply(b"Hello.\n", content_type="text/plain")))
    sound = b"ID3\x04\0\0\xff\xff\xff\xff" + (b"\xff\xf3\x18\x00" + bytes(32)) * 1_000
    fields = {"model": "whisper", "prompt": prompt(script), "response_format": "text"}
    form = httpx.Request("POST", "http://h/", data=fields, files={"file": ("a.mp3", sound, "audio/mpeg")})
    kind = [("content-type", form.headers["content-type"])]
    answer = await audio.post(key, form.read(), kind, "/v1/audio/transcriptions")
    assert answer.status == 200
    entry = booked(audio, key)
    assert (entry["cost_nano_usd"], entry["usage_source"]) == (-(-len(sound) // 500) * SECOND, "estimated")


@pytest.mark.parametrize(
    ("response_format", "body", "content_type"),
    [
        ("srt", b"1\n00:00:00,000 --> 00:00:02,000\nHello.\n", "text/plain; charset=utf-8"),
        ("vtt", b"WEBVTT\n\n00:00.000 --> 00:02.000\nHello.\n", "text/vtt"),
        ("text", b"Hello.\n", "text/plain"),
    ],
)
async def test_plain_text_is_answered_as_it_came_and_costs_the_length_of_the_file(
    audio: Gateway, upstream: Upstream, key: Key, response_format: str, body: bytes, content_type: str
) -> None:
    script = upstream.script(Send(wire.reply(body, content_type=content_type)))
    fields = {"model": "whisper", "prompt": prompt(script), "response_format": response_format}
    form = httpx.Request("POST", "http://h/", data=fields, files={"file": wav(4)})
    kind = [("content-type", form.headers["content-type"])]
    answer = await audio.post(key, form.read(), kind, "/v1/audio/translations")
    assert (answer.status, answer.body, answer.header("content-type")) == (200, body, content_type)
    entry = booked(audio, key)
    assert (entry["endpoint"], entry["usage_source"], entry["cost_nano_usd"]) == (
        "translations",
        "estimated",
        4 * SECOND,
    )


def test_a_streamed_transcript_costs_the_tokens_it_reports(
    audio: Gateway, upstream: Upstream, key: Key, client: openai.OpenAI
) -> None:
    usage = {
        "type": "tokens",
        "input_tokens": 35,
        "input_token_details": {"text_tokens": 5, "audio_tokens": 30},
        "output_tokens": 4,
        "total_tokens": 39,
    }
    script = upstream.stream(
        event(type="transcript.text.delta", delta="Hel"),
        event(type="transcript.text.delta", delta="lo."),
        event(type="transcript.text.done", text="Hello.", usage=usage),
    )
    stream = client.audio.transcriptions.create(
        model="transcribe", file=wav(3), prompt=prompt(script), response_format="json", stream=True
    )
    assert [one.type for one in stream] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    entry = booked(audio, key)
    # 5 x 2.5 + 30 x 6 + 4 x 10 micro-dollars
    assert (entry["cost_nano_usd"], entry["usage_source"]) == (232_500, "provider")
    assert (entry["audio_input_tokens"], entry["output_tokens"], entry["audio_seconds"]) == (30, 4, 3)
    assert entry["is_streaming"]


async def test_a_form_that_lies_about_its_size_or_its_end_is_refused(audio: Gateway, key: Key) -> None:
    form = httpx.Request("POST", "http://h/", data={"model": "whisper"}, files={"file": wav(1)})
    body, kind = form.read(), [("content-type", form.headers["content-type"])]
    path = "/v1/audio/transcriptions"
    cut = await audio.post(key, body[:-10], kind, path)
    assert (cut.status, cut.error["code"]) == (400, "invalid_form")
    assert (cut.header("connection") or "").lower() == "close"
    wrong = await audio.post(key, b"{}", [], path)
    assert (wrong.status, wrong.error["code"]) == (415, "unsupported_media_type")
    assert audio.entries(creator=key.creator) == []


# Speech


def test_speech_costs_its_characters_whatever_arrives(
    audio: Gateway, upstream: Upstream, key: Key, client: openai.OpenAI
) -> None:
    sound = bytes(range(256)) * 100
    script = upstream.script(Send(wire.reply(sound, content_type="audio/mpeg")))
    text = f"Grüße! {prompt(script)}"
    answer = client.audio.speech.create(model="tts", voice="alloy", input=text)
    assert answer.content == sound
    assert answer.response.headers["content-type"] == "audio/mpeg"
    entry = booked(audio, key)
    assert (entry["endpoint"], entry["variant"], entry["usage_source"]) == ("speech", "characters", "provider")
    assert (entry["characters"], entry["audio_seconds"], entry["images"]) == (len(text), 0, 0)
    assert entry["cost_nano_usd"] == len(text) * CHARACTER
    assert script.request.json == {"model": "upstream-tts", "voice": "alloy", "input": text}


async def test_speech_in_events_costs_the_tokens_it_reports(audio: Gateway, upstream: Upstream, key: Key) -> None:
    events = [
        event(type="speech.audio.delta", audio="SUQz"),
        event(type="speech.audio.done", usage={"input_tokens": 9, "output_tokens": 40, "total_tokens": 49}),
    ]
    script = upstream.stream(*events)
    body = {"model": "mini-tts", "voice": "alloy", "input": prompt(script), "stream_format": "sse"}
    answer = await audio.post(key, body, path="/v1/audio/speech")
    assert (answer.status, answer.body, answer.is_complete) == (200, b"".join(events), True)
    # 9 x 0.6 + 40 x 12 micro-dollars
    assert booked(audio, key)["cost_nano_usd"] == 485_400


async def test_a_page_in_place_of_sound_is_no_answer(audio: Gateway, upstream: Upstream, key: Key) -> None:
    script = upstream.script(Send(wire.reply(b"<script>", content_type="text/html")))
    body = {"model": "tts", "voice": "alloy", "input": prompt(script)}
    answer = await audio.post(key, body, path="/v1/audio/speech")
    assert (answer.status, b"<script>" in answer.body) == (502, False)


# What it adds up to


def test_without_a_price_nothing_is_sent(audio: Gateway, key: Key, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.audio.speech.create(model="mute", voice="alloy", input="hi")
    with pytest.raises(openai.BadRequestError):
        client.audio.transcriptions.create(model="mute", file=wav(1))
    assert audio.entries(creator=key.creator) == []


def test_sums_keep_seconds_and_characters_apart(
    audio: Gateway, upstream: Upstream, key: Key, client: openai.OpenAI
) -> None:
    said = upstream.reply({"text": "Hello.", "duration": 7})
    spoken = upstream.script(Send(wire.reply(b"ID3", content_type="audio/mpeg")))
    client.audio.transcriptions.create(
        model="whisper", file=wav(7), prompt=prompt(said), response_format="verbose_json"
    )
    client.audio.speech.create(model="tts", voice="alloy", input=prompt(spoken)).read()
    found = audio.admin_json("GET", "/admin/costs", params={"group_by": "creator", "creator": key.creator})
    characters = len(prompt(spoken))
    for sums in (*found["data"], found["totals"]):
        assert (sums["audio_seconds"], sums["characters"], sums["images"]) == (7, characters, 0)
        assert sums["cost_nano_usd"] == 7 * SECOND + characters * CHARACTER


async def test_a_creator_sees_its_seconds_and_characters(
    audio: Gateway, upstream: Upstream, key: Key, client: openai.OpenAI
) -> None:
    spoken = upstream.script(Send(wire.reply(b"ID3", content_type="audio/mpeg")))
    client.audio.speech.create(model="tts", voice="alloy", input=prompt(spoken)).read()
    (call,) = (await audio.get(key, "/v1/me/calls")).json["data"]
    assert (call["characters"], call["audio_seconds"]) == (len(prompt(spoken)), 0)


def test_a_creator_may_owe_another_price_than_it_costs(audio: Gateway, upstream: Upstream) -> None:
    prices = {"transcribe": {"audio_usd_per_second": "0.0003"}, "tts": {"speech_usd_per_mchar": "30"}}
    key = audio.new_key(audio.new_creator(prices=prices))
    usage = {"type": "tokens", "input_tokens": 30, "output_tokens": 4, "total_tokens": 34}
    script = upstream.reply({"text": "Hello.", "usage": usage})
    with openai.OpenAI(
        base_url=f"{audio.url}/v1", api_key=key.key, http_client=openai.DefaultHttpxClient(trust_env=False)
    ) as client:
        client.audio.transcriptions.create(model="transcribe", file=wav(3), prompt=prompt(script))
    entry = audio.entry(key)
    # 30 x 6 + 4 x 10 micro-dollars of cost; three seconds at 0.0003 USD owed.
    assert (entry["cost_nano_usd"], entry["charge_nano_usd"]) == (220_000, 900_000)


@pytest.mark.parametrize(("size", "status"), [(5_000, 502), (1_000_000, 200)], ids=["before", "after"])
async def test_speech_that_breaks_off_is_never_complete_and_costs_all_of_it(
    audio: Gateway, upstream: Upstream, key: Key, size: int, status: int
) -> None:
    """Before the first byte has left it is an error, after it a cut: a client must not take half a file for a whole one."""
    head = wire.head(200, [("content-type", "audio/mpeg"), ("content-length", str(2 * size))])
    script = upstream.script(Send(head + bytes(size)), Close())
    text = prompt(script)
    answer = await audio.post(key, {"model": "tts", "voice": "alloy", "input": text}, path="/v1/audio/speech")
    assert (answer.status, answer.is_complete) == (status, status == 502)
    entry = booked(audio, key)
    assert (entry["outcome"], entry["cost_nano_usd"]) == ("upstream_died", len(text) * CHARACTER)
