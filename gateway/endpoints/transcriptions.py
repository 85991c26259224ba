"""`POST /v1/audio/transcriptions`: a form with a file of sound."""

import asyncio
from abc import abstractmethod

from starlette.types import Receive

from gateway.audio_duration import Duration, duration_of
from gateway.endpoints.hot import ModelEndpoint
from gateway.model_request import ModelRequest
from gateway.multipart import Form, read_form
from gateway.pipeline import Pipeline
from gateway.responder import Header
from gateway.transcriptions import audio_file, read_transcription_form

_AT_ONCE_BYTES = 2**12
"""What takes a few milliseconds at worst. A longer file is looked through in a thread, so that calls in flight do not wait."""


class AudioForm(ModelEndpoint):
    """A path that is sent a form with one file, whose length has a price."""

    def __init__(self, pipeline: Pipeline, body_bytes_max: int) -> None:
        super().__init__(pipeline, body_bytes_max)
        self._one_at_a_time = asyncio.Semaphore(1)
        """Threads that compute take turns with the loop: one of them makes it wait for milliseconds, many for long."""

    @staticmethod
    @abstractmethod
    def read_request(form: Form, duration: Duration) -> ModelRequest:
        """The checked request in a form. Raises `RequestError`."""

    async def read(self, headers: list[Header], receive: Receive) -> ModelRequest:
        form = await read_form(headers, receive, bytes_max=self._body_bytes_max)
        data = audio_file(form).data
        return self.read_request(form, await self._duration(data))

    async def _duration(self, data: bytes) -> Duration:
        if len(data) <= _AT_ONCE_BYTES:
            return duration_of(data)
        async with self._one_at_a_time:
            return await asyncio.to_thread(duration_of, data)


class Transcriptions(AudioForm):
    path = "/v1/audio/transcriptions"
    endpoint = "transcriptions"
    read_request = staticmethod(read_transcription_form)
