"""The mock provider's voice and ears: silence of a length that follows from the text, and transcripts that name the file.

What the upstream model's name adds to what it does for chat (`gateway.providers.mock`): `...tokens...` reports usage in
tokens, as models do that are priced by them; others report seconds, or nothing for speech.
"""

import base64
import struct
from typing import Any

from gateway.event_relay import event
from gateway.multipart import FilePart
from gateway.providers.mock_answers import Reply, json_reply, stream_reply, tokens_of

_RATE_HZ = 8_000
_SAMPLE_BYTES = 2
_SILENCE_S_PER_TOKEN = 0.05
_RIFF = struct.Struct("<4sI4s4sIHHIIHH4sI")
_PCM = 1
_TOKENS_PER_SECOND = 10
"""What audio is in tokens, at OpenAI's transcription models and roughly at others."""


def speech(body: dict[str, Any]) -> Reply:
    """What `POST /audio/speech` is answered: a WAV, whatever format is asked for, or its bytes as events."""
    text = body["input"]
    wav = _silence(tokens_of(text))
    if body.get("stream_format") != "sse":
        return Reply("audio/wav", [wav])
    half = len(wav) // 2
    said, made = tokens_of(text), 4 * tokens_of(text)
    usage = {"input_tokens": said, "output_tokens": made, "total_tokens": said + made}
    parts = [
        event("speech.audio.delta", {"audio": base64.b64encode(part).decode()}) for part in (wav[:half], wav[half:])
    ]
    return stream_reply([*parts, event("speech.audio.done", {"usage": usage})])


def transcript(fields: dict[str, Any], files: list[FilePart], task: str) -> Reply:
    """What `POST /audio/transcriptions` is answered, or with the task `translate` `/audio/translations`."""
    file = next(file for file in files if file.name == "file")
    text = f"A recording called {file.filename or 'nothing'}."
    seconds = wav_seconds(file.data)
    usage = _usage(fields["model"], text, seconds)
    shape = fields.get("response_format") or "json"
    if fields.get("stream") in (True, "true"):
        words = [event("transcript.text.delta", {"delta": f"{word} "}) for word in text.split()]
        return stream_reply([*words, event("transcript.text.done", {"text": text, "usage": usage})])
    if shape == "text":
        return Reply("text/plain; charset=utf-8", [f"{text}\n".encode()])
    if shape == "srt":
        return Reply(
            "text/plain; charset=utf-8", [f"1\n{_clock(0, ',')} --> {_clock(seconds, ',')}\n{text}\n".encode()]
        )
    if shape == "vtt":
        lines = f"WEBVTT\n\n{_clock(0, '.')} --> {_clock(seconds, '.')}\n{text}\n"
        return Reply("text/vtt; charset=utf-8", [lines.encode()])
    if shape == "verbose_json":
        return json_reply(_verbose(task, text, seconds, usage))
    return json_reply({"text": text, "usage": usage})


def wav_seconds(data: bytes) -> int:
    """How long a WAV with the usual header plays, rounded up; 1 for anything else."""
    if len(data) < _RIFF.size:
        return 1
    riff, _, wave, _, _, _, _, _, bytes_per_s, _, _, tag, size = _RIFF.unpack_from(data)
    if (riff, wave, tag) != (b"RIFF", b"WAVE", b"data") or not bytes_per_s:
        return 1
    return max(1, -(-min(int(size), len(data) - _RIFF.size) // int(bytes_per_s)))


def _silence(tokens: int) -> bytes:
    samples = bytes(_SAMPLE_BYTES * int(_RATE_HZ * _SILENCE_S_PER_TOKEN * max(1, tokens)))
    head = _RIFF.pack(
        b"RIFF", 36 + len(samples), b"WAVE", b"fmt ", 16, _PCM, 1, _RATE_HZ, _RATE_HZ * _SAMPLE_BYTES,
        _SAMPLE_BYTES, 8 * _SAMPLE_BYTES, b"data", len(samples),
    )  # fmt: skip
    return head + samples


def _usage(model: str, text: str, seconds: int) -> dict[str, Any]:
    if "tokens" not in model:
        return {"type": "duration", "seconds": seconds}
    heard, written = _TOKENS_PER_SECOND * seconds, tokens_of(text)
    return {
        "type": "tokens",
        "input_tokens": heard,
        "input_token_details": {"text_tokens": 0, "audio_tokens": heard},
        "output_tokens": written,
        "total_tokens": heard + written,
    }


def _verbose(task: str, text: str, seconds: int, usage: dict[str, Any]) -> dict[str, Any]:
    segment = {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": float(seconds),
        "text": text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": -0.1,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }
    return {
        "task": task,
        "language": "english",
        "duration": float(seconds),
        "text": text,
        "segments": [segment],
        "usage": usage,
    }


def _clock(seconds: int, comma: str) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}{comma}000"
