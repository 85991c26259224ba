"""What the OpenAI SDK raises, and how often it asks before it does."""

from collections.abc import Callable
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI

from tests.clients.python.running import caught, scenario, serve

Value = dict[str, object]


def _ask(marker: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": marker}]


class Attempts:
    """Counts the requests an SDK makes, its retries included."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, request: Any) -> None:
        self.count += 1

    def client(self, **options: Any) -> OpenAI:
        return OpenAI(http_client=openai.DefaultHttpxClient(event_hooks={"request": [self.note]}), **options)


def _raised(call: Callable[[OpenAI], object], **options: Any) -> Value:
    attempts = Attempts()
    with attempts.client(**options) as client:
        return _raised_by(client, attempts, call)


def _raised_by(client: OpenAI, attempts: Attempts, call: Callable[[OpenAI], object]) -> Value:
    before = attempts.count
    try:
        call(client)
    except openai.APIError as error:
        return {**caught(error), "attempts": attempts.count - before, "headers": _headers(error)}
    raise AssertionError("nothing was raised")


@scenario
def chat(marker: str, model: str = "rig-chat", options: dict[str, Any] | None = None, **fields: Any) -> Value:
    return _raised(
        lambda client: client.chat.completions.create(model=model, messages=_ask(marker), **fields), **(options or {})
    )


@scenario
def chat_stream(marker: str, model: str = "rig-chat", **fields: Any) -> Value:
    return _raised(
        lambda client: list(client.chat.completions.create(model=model, messages=_ask(marker), stream=True, **fields))
    )


@scenario
async def chat_async(marker: str) -> Value:
    async with AsyncOpenAI() as client:
        try:
            await client.chat.completions.create(model="gpt-nowhere", messages=_ask(marker))
        except openai.APIError as error:
            return caught(error)
    raise AssertionError("nothing was raised")


@scenario
async def chat_stream_async(marker: str) -> Value:
    """What came before the end is there, then it is raised."""
    async with AsyncOpenAI() as client:
        stream = await client.chat.completions.create(model="rig-chat", messages=_ask(marker), stream=True)
        text = ""
        try:
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
        except openai.APIError as error:
            return {**caught(error), "text": text}
    raise AssertionError("nothing was raised")


@scenario
def every_endpoint(marker: str) -> dict[str, Value]:
    """A model nobody has, wherever one can be named."""
    file = ("a.wav", b"RIFF", "audio/wav")
    picture = ("a.png", b"\x89PNG\r\n\x1a\n", "image/png")
    model = "gpt-nowhere"
    calls: dict[str, Callable[[OpenAI], object]] = {
        "chat": lambda client: client.chat.completions.create(model=model, messages=_ask("hi")),
        "completions": lambda client: client.completions.create(model=model, prompt="hi"),
        "embeddings": lambda client: client.embeddings.create(model=model, input="hi"),
        "images": lambda client: client.images.generate(model=model, prompt="hi"),
        "image_edits": lambda client: client.images.edit(model=model, prompt="hi", image=picture),
        "image_variations": lambda client: client.images.create_variation(model=model, image=picture),
        "speech": lambda client: client.audio.speech.create(model=model, input="hi", voice="alloy"),
        "transcriptions": lambda client: client.audio.transcriptions.create(model=model, file=file),
        "translations": lambda client: client.audio.translations.create(model=model, file=file),
        "moderations": lambda client: client.moderations.create(model=model, input="hi"),
        "responses": lambda client: client.responses.create(model=model, input="hi"),
        "models": lambda client: client.models.retrieve(model),
    }
    attempts = Attempts()
    with attempts.client() as client:
        return {name: _raised_by(client, attempts, call) for name, call in calls.items()}


@scenario
def unknown_path(marker: str) -> Value:
    """A part of the API that the gateway does not have."""
    return _raised(lambda client: client.files.list())


@scenario
def too_slow(marker: str) -> Value:
    return _raised(
        lambda client: client.chat.completions.create(model="rig-chat", messages=_ask(marker)),
        timeout=0.3,
        max_retries=0,
    )


@scenario
def healed(marker: str) -> Value:
    attempts = Attempts()
    with attempts.client() as client:
        raw = client.chat.completions.with_raw_response.create(model="rig-chat", messages=_ask(marker))
        return {
            "content": raw.parse().choices[0].message.content,
            "retries": raw.retries_taken,
            "attempts": attempts.count,
        }


def _headers(error: openai.APIError) -> dict[str, str]:
    return dict(error.response.headers) if isinstance(error, openai.APIStatusError) else {}


if __name__ == "__main__":
    serve()
