"""The OpenAI SDK on images and sound, whole, as forms and as streams."""

import base64
import tempfile
from pathlib import Path
from urllib.request import urlopen

from openai import AsyncOpenAI, OpenAI

from tests.clients.python.running import scenario, serve
from tests.clients.python.samples import PICTURE, SOUND

Value = dict[str, object]


@scenario
def generate(marker: str, **options: object) -> Value:
    with OpenAI() as client:
        answer = client.images.generate(prompt=marker, **options)
        return {"images": [image.to_dict() for image in answer.data], "created": answer.created}


@scenario
def generate_and_fetch(marker: str, **options: object) -> Value:
    with OpenAI() as client:
        answer = client.images.generate(prompt=marker, response_format="url", **options)
        [image] = answer.data
        with urlopen(image.url) as found:
            return {"b64_json": image.b64_json, "found": _text(found.read()), "type": found.headers["content-type"]}


@scenario
def generate_stream(marker: str) -> list[Value]:
    with OpenAI() as client:
        stream = client.images.generate(
            model="rig-image-tokens", prompt=marker, size="1024x1024", stream=True, partial_images=1
        )
        return [{"type": event.type, "b64_json": event.b64_json} for event in stream]


@scenario
def edit(marker: str) -> Value:
    with OpenAI() as client:
        answer = client.images.edit(
            model="rig-image",
            prompt=marker,
            image=[("fox.png", PICTURE, "image/png"), ("hen.png", PICTURE[::-1], "image/png")],
            mask=("mask.png", PICTURE, "image/png"),
            n=2,
        )
        return {"images": [image.b64_json for image in answer.data]}


@scenario
async def edit_async(marker: str) -> Value:
    async with AsyncOpenAI() as client:
        answer = await client.images.edit(
            model="rig-image", prompt=marker, image=("fox.png", PICTURE, "image/png"), n=2
        )
        return {"images": [image.b64_json for image in answer.data]}


@scenario
def edit_stream(marker: str) -> list[Value]:
    with OpenAI() as client:
        stream = client.images.edit(
            model="rig-image-tokens", prompt=marker, image=("fox.png", PICTURE, "image/png"), stream=True
        )
        return [{"type": event.type, "b64_json": event.b64_json} for event in stream]


@scenario
def vary(marker: str) -> Value:
    """A form without a prompt: `user` carries the marker."""
    with OpenAI() as client:
        answer = client.images.create_variation(
            model="rig-image", image=("fox.png", PICTURE, "image/png"), n=1, user=marker
        )
        return {"images": [image.b64_json for image in answer.data]}


@scenario
def speak(marker: str, model: str) -> Value:
    with OpenAI() as client:
        answer = client.audio.speech.create(model=model, voice="alloy", input=marker, response_format="wav")
        return {"sound": _text(answer.content), "type": answer.response.headers["content-type"]}


@scenario
async def speak_async(marker: str, model: str) -> Value:
    async with AsyncOpenAI() as client:
        answer = await client.audio.speech.create(model=model, voice="alloy", input=marker, response_format="wav")
        return {"sound": _text(answer.content), "type": answer.response.headers["content-type"]}


@scenario
def speak_to_file(marker: str, model: str) -> Value:
    with OpenAI() as client, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.mp3"
        with client.audio.speech.with_streaming_response.create(model=model, voice="alloy", input=marker) as answer:
            answer.stream_to_file(path)
            return {"sound": _text(path.read_bytes()), "type": answer.headers["content-type"]}


@scenario
def speak_events(marker: str, model: str) -> list[str]:
    """The SDK has no type for these: its users read the lines."""
    with (
        OpenAI() as client,
        client.audio.speech.with_streaming_response.create(
            model=model, voice="alloy", input=marker, stream_format="sse"
        ) as answer,
    ):
        return [line for line in answer.iter_lines() if line]


@scenario
def transcribe(marker: str, model: str, **options: object) -> object:
    with OpenAI() as client:
        answer = client.audio.transcriptions.create(
            model=model, file=("silence.wav", SOUND, "audio/wav"), prompt=marker, **options
        )
        return answer if isinstance(answer, str) else answer.to_dict()


@scenario
async def transcribe_async(marker: str, model: str) -> object:
    async with AsyncOpenAI() as client:
        answer = await client.audio.transcriptions.create(
            model=model, file=("silence.wav", SOUND, "audio/wav"), prompt=marker
        )
        return answer.to_dict()


@scenario
def transcribe_stream(marker: str) -> list[Value]:
    with OpenAI() as client:
        stream = client.audio.transcriptions.create(
            model="rig-listen-tokens", file=("silence.wav", SOUND, "audio/wav"), prompt=marker, stream=True
        )
        return [event.to_dict() for event in stream]


@scenario
def translate(marker: str) -> object:
    with OpenAI() as client:
        answer = client.audio.translations.create(
            model="rig-listen", file=("silence.wav", SOUND, "audio/wav"), prompt=marker
        )
        return answer.to_dict()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


if __name__ == "__main__":
    serve()
