"""A request to write down what is said: read once, checked, priced, written for the provider, and metered. Pure.

Two ways of pricing, told apart by the model's row:
- by the second (`audio_usd_per_second`): whole seconds of sound, rounded up. Held is what the file can last at most
  (`gateway.audio_duration`). Afterwards the answer's own `usage.seconds` or `duration` counts;
- by tokens: held are fifty tokens a second, one for every byte of the prompt, and the model's longest answer. Afterwards the
  answer's `usage` counts: sound, text and what was written.

The written rule where the answer does not say, as `text`, `srt` and `vtt` never do: seconds are what the file can last at
most, which is what was held; more where the last cue ends later than that, which only proves that the file was longer. A
common bit rate would let a file that is coded tightly be heard for a fraction of its price. Tokens are ten for each such
second (OpenAI's transcribe models), ceil(bytes / 4) of the prompt, and of what was written max(events, ceil(bytes / 4)).
A call that was fully sent and never properly answered costs its input.

A creator may owe by the second what the model costs by tokens: the usage counts both. Wire: OpenAI's reference of audio
transcription objects, and openai-python `types/audio` (`usage.type` is `tokens` or `duration`; 2026-05).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from gateway.audio_duration import Duration, kind_of
from gateway.catalog import Model, Price, ProviderRow
from gateway.chat_metering import OUTPUT_TOKENS_DEFAULT
from gateway.errors import RequestError
from gateway.event_relay import EventRelay
from gateway.ledger.records import UsageSource
from gateway.metering import Metered
from gateway.model_request import Estimate, Outgoing, PlainRequest
from gateway.multipart import FilePart, Form, dump_form
from gateway.price_rows import SECONDS
from gateway.pricing import UnpricedUsage, cost_nano_usd, worst_case_nano_usd
from gateway.relay import Guard, Relay
from gateway.request_fields import read_required_text, read_short_text, refuse_dear_tier, refuse_steering, wrong
from gateway.streaming import utf8_bytes
from gateway.transcripts import transcript_as
from gateway.usage import Usage, from_transcription

__all__ = [
    "TranscriptionRelay",
    "TranscriptionRequest",
    "TranslationRequest",
    "audio_file",
    "read_transcription_form",
    "read_translation_form",
]

_TOKENS_PER_SECOND_MAX = 50
"""Of sound; Gemini's are 32, OpenAI's 10."""
_TOKENS_PER_SECOND = 10
_WORDS_TOKENS_PER_SECOND = 4
"""Of what is written down; fast speech in English."""
_PROMPT_TOKENS = 32
_REFERENCE_SECONDS = 10
"""The longest sample of a known speaker's voice."""
_SECONDS_SLACK = 60
"""How much longer than the file can be, an answer may say it is: that, and four times as much."""
_BYTES_PER_SECOND_MIN = 500
"""A file may be misread as short; its provider, which heard it, is believed down to this bit rate."""
_DAY_SECONDS = 86_400
"""What an answer is believed about a file whose bytes do not fix how long it lasts: silence and MP4 have no lowest bit rate.
What is more than was held is charged all the same, and flagged `over_hold` when the call is settled."""
_CUE_SLACK_SECONDS = 30
"""How far models are known to let a last cue run past the end: the window they hear at once."""
_LIST_MAX = 16
_PROMPT_CHARS_MAX = 100_000

_FORMATS = frozenset({"json", "text", "srt", "verbose_json", "vtt", "diarized_json"})
_PLAIN_FORMATS = frozenset({"text", "srt", "vtt"})
_PLAIN_TYPE = re.compile(r"(?:text/(?:plain|vtt|srt|x-srt)|application/(?:x-)?subrip)(?:[ \t]*;[\x20-\x7e]{0,200})?")
"""What a browser would not run."""
_GRANULARITIES = frozenset({"word", "segment"})
_CUE = re.compile(rb"-->[ \t]*(?:(\d{1,4}):)?([0-5]\d):([0-5]\d)[.,](\d{3})")
_DECIMAL = re.compile(r"\d{1,9}(?:\.\d{1,18})?")
_FLAGS: Mapping[str, bool] = {"": False, "false": False, "true": True}
_REFERENCES = frozenset({"known_speaker_references", "known_speaker_references[]"})
_SINGLE = ("model", "language", "prompt", "response_format", "temperature", "chunking_strategy", "stream", "user")
_PLAIN_NAMES = frozenset(_SINGLE) - {"chunking_strategy"}
"""Fields that hold one word, and no part of anything."""
_KNOWN = _REFERENCES | frozenset(
    """
    file metadata include include[] timestamp_granularities timestamp_granularities[] known_speaker_names
    known_speaker_names[]
    """.split()
    + list(_SINGLE)
)
_NO_INPUT = _KNOWN - {"prompt"}
_LABELS = ("user", "metadata")
"""For the gateway's books alone: providers' audio has no such fields."""


class _Said(NamedTuple):
    """What an answer says of its usage, judged."""

    seconds: int | None = None
    tokens: Usage | None = None
    is_refused: bool = False
    """Something was said that cannot be true."""


@dataclass(slots=True)
class TranscriptionRequest(PlainRequest):
    """`body` holds the form: values by their names, a list for a name that came more than once, and the file."""

    body: dict[str, Any] = field(repr=False)
    model: str
    duration: Duration
    prompt_bytes: int = 0
    """UTF-8 bytes of the prompt and of whatever a provider may take for input that we do not know."""
    references: int = 0
    """Samples of known voices."""
    response_format: str = "json"
    is_streaming: bool = False
    file_bytes: int = 0
    """Kept apart: the body is let go once it is sent."""

    endpoint: ClassVar[str] = "transcriptions"
    path: ClassVar[str] = "/audio/transcriptions"

    @property
    def input_tokens_estimate(self) -> int:
        """Of the prompt: a token per four bytes."""
        return -(-self.prompt_bytes // 4)

    def fits(self, model: Model) -> bool:
        try:
            self.worst_case(model, model.price)
        except UnpricedUsage:
            return False
        return True

    def variant(self, model: Model) -> str:
        return SECONDS

    def worst_case(self, model: Model, price: Price) -> int:
        # By the piece also where only the creator's own price is.
        if price.audio_second is not None:
            return cost_nano_usd(Usage(pieces=self.duration.seconds_most), price, SECONDS)
        if price.audio_input is None:
            raise UnpricedUsage("audio_input", price.version)
        if price.output is None:
            raise UnpricedUsage("text_output", price.version)
        if price.input is None:
            raise UnpricedUsage("uncached_input", price.version)
        return worst_case_nano_usd(
            price, input_tokens=self._input_tokens_max(model), output_tokens=self._output_tokens_max(model)
        )

    def estimate(self, model: Model, price: Price) -> Estimate:
        """Nothing of it shrinks: the file is as long as it is."""
        seconds = self.duration.seconds_likely
        written = min(seconds * _WORDS_TOKENS_PER_SECOND, self._output_tokens_max(model))
        usage = self._by_rule(model, seconds, written)
        expected = cost_nano_usd(usage, price, SECONDS)
        return Estimate(self.worst_case(model, price), None, expected, usage.input_tokens + usage.output_tokens)

    def unfinished_usage(self, model: Model) -> Usage:
        """By the same rule as a call that ends without a report; the words are a guess."""
        written = self.duration.seconds_likely * _WORDS_TOKENS_PER_SECOND
        return self._by_rule(model, self.duration.seconds_most, min(written, self._output_tokens_max(model)))

    def clamp(self, model: Model, price: Price, nano_usd: int) -> None:
        """There is nothing to bound."""
        return

    def outgoing(self, model: Model, row: ProviderRow) -> Outgoing:
        """A form of our own making: the file as it came, under a name that tells what it is."""
        body = {**self.body, "model": model.upstream_model}
        if self._is_rendered_here(model):
            body["response_format"] = "json" if self.response_format == "text" else "verbose_json"
        file: FilePart = body.pop("file")
        for name in (*_LABELS, *row.drop_fields):
            body.pop(name, None)
        values = [
            (name, one) for name, value in body.items() for one in (value if isinstance(value, list) else [value])
        ]
        data, content_type = dump_form(values, [file])
        return Outgoing(self.path, data, content_type, is_streaming=self.is_streaming)

    def relay(self, content_type: str, model: Model, row: ProviderRow, guard: Guard) -> Relay | None:
        return TranscriptionRelay(guard, self, model) if content_type.startswith("text/event-stream") else None

    def meter(self, answer: Mapping[str, Any], model: Model, row: ProviderRow) -> Metered | None:
        """Flags: `usage_refused`, a report that cannot be true; `unpriced_usage`, one with a kind of token the price has no
        rate for, which counts as sound."""
        text, segments = answer.get("text"), answer.get("segments")
        if not isinstance(text, str) and not isinstance(segments, list):
            # Words that happen to be an object of JSON, where plain ones were asked for.
            return self._meter(model, _Said(), 0) if self.response_format in _PLAIN_FORMATS else None
        written = utf8_bytes(text) if isinstance(text, str) else 0
        return self._meter(model, self._said(answer, model), -(-written // 4))

    def meter_other(self, body: bytes, content_type: str, model: Model) -> Metered | None:
        if self.response_format not in _PLAIN_FORMATS or not _PLAIN_TYPE.fullmatch(content_type):
            return None
        return self._meter(model, _Said(), -(-len(body) // 4), cue_s=_last_cue_s(body))

    def rendered(self, answer: Mapping[str, Any], model: Model) -> tuple[bytes, str] | None:
        if not self._is_rendered_here(model):
            return None
        return transcript_as(self.response_format, answer).encode(), "text/plain; charset=utf-8"

    def _is_rendered_here(self, model: Model) -> bool:
        """Plain words say nothing of the seconds that are billed, so the provider is asked for JSON, which does."""
        return model.price.audio_second is not None and self.response_format in _PLAIN_FORMATS

    def meter_unanswered(self, model: Model) -> Metered:
        return self._meter(model, _Said(), 0)

    def meter_stream(self, model: Model, report: Mapping[str, Any], written_tokens: int) -> Metered:
        """`report` is the event that ends the stream, or empty."""
        return self._meter(model, self._said(report, model), written_tokens)

    def _meter(self, model: Model, said: _Said, written_tokens: int, *, cue_s: int | None = None) -> Metered:
        price = model.price
        seconds = self._seconds_by_rule(cue_s) if said.seconds is None else said.seconds
        is_said = said.tokens is not None
        if said.tokens is not None:
            usage = said.tokens._replace(pieces=seconds)
        else:
            usage = self._by_rule(model, seconds, min(written_tokens, self._output_tokens_max(model)))
        if price.audio_second is not None:
            is_said = said.seconds is not None
        source: UsageSource = "provider" if is_said else "estimated"
        flags = ("usage_refused",) if said.is_refused and not is_said else ()
        try:
            return Metered(usage, source, cost_nano_usd(usage, price, SECONDS), flags, SECONDS)
        except UnpricedUsage:
            usage, flags = _as_sound(usage), (*flags, "unpriced_usage")
            return Metered(usage, source, cost_nano_usd(usage, price, SECONDS), flags, SECONDS)

    def _said(self, answer: Mapping[str, Any], model: Model) -> _Said:
        report, claimed = answer.get("usage"), answer.get("duration")
        tokens: Usage | None = None
        is_refused = False
        if isinstance(report, dict) and report.get("input_tokens") is not None:
            tokens = from_transcription(
                report,
                input_tokens_max=self._input_tokens_believed(model),
                output_tokens_max=self._output_tokens_max(model),
            )
            is_refused = tokens is None
        elif isinstance(report, dict) and report.get("seconds") is not None:
            claimed = report["seconds"]
        elif report is not None:
            is_refused = True
        seconds = _whole_seconds(claimed, self._seconds_believed)
        return _Said(seconds, tokens, is_refused or (claimed is not None and seconds is None))

    def _seconds_by_rule(self, cue_s: int | None) -> int:
        most = self.duration.seconds_most
        return cue_s if cue_s is not None and most + _CUE_SLACK_SECONDS < cue_s <= self._seconds_believed else most

    @property
    def _seconds_believed(self) -> int:
        """The longest an answer may say the file lasts."""
        by_size = -(-self.file_bytes // _BYTES_PER_SECOND_MIN) if self.duration.is_exact else _DAY_SECONDS
        return max(self.duration.seconds_most * 4 + _SECONDS_SLACK, by_size)

    def _by_rule(self, model: Model, seconds: int, written_tokens: int) -> Usage:
        """Tokens only where the model is priced by them."""
        if model.price.audio_second is not None:
            return Usage(pieces=seconds)
        sound = (seconds + self.references * _REFERENCE_SECONDS) * _TOKENS_PER_SECOND
        sound = min(sound, self._input_tokens_max(model))
        return Usage(self.input_tokens_estimate, audio_input=sound, text_output=written_tokens, pieces=seconds)

    def _input_tokens_max(self, model: Model) -> int:
        """What is held."""
        return self._input_tokens_of(self.duration.seconds_most, model)

    def _input_tokens_believed(self, model: Model) -> int:
        """What an answer may report."""
        return self._input_tokens_of(self._seconds_believed, model)

    def _input_tokens_of(self, seconds: int, model: Model) -> int:
        seconds += self.references * _REFERENCE_SECONDS
        bound = seconds * _TOKENS_PER_SECOND_MAX + self.prompt_bytes + _PROMPT_TOKENS
        return bound if model.context_tokens_max is None else min(bound, model.context_tokens_max)

    def _output_tokens_max(self, model: Model) -> int:
        return model.output_tokens_max or OUTPUT_TOKENS_DEFAULT


@dataclass(slots=True)
class TranslationRequest(TranscriptionRequest):
    """The same into English, and never as a stream."""

    endpoint: ClassVar[str] = "translations"
    path: ClassVar[str] = "/audio/translations"


class TranscriptionRelay(EventRelay):
    """Words as they are understood; the last event has all of them, and the usage. Lifetime: one answer."""

    __slots__ = ("_events", "_model", "_report", "_request", "_text_bytes")

    def __init__(self, guard: Guard, request: TranscriptionRequest, model: Model) -> None:
        super().__init__(guard)
        self._request = request
        self._model = model
        self._report: Mapping[str, Any] = {}
        self._events = 0
        self._text_bytes = 0

    def note(self, type: str, message: dict[str, Any]) -> bool:
        if type == "error" or message.get("error"):
            self.has_error_event = True
            return False
        if type == "transcript.text.done":
            self._report = {name: message[name] for name in ("usage", "duration") if name in message}
            return True
        said = message.get("delta" if type == "transcript.text.delta" else "text")
        if isinstance(said, str) and said:
            self._events += 1
            self._text_bytes += utf8_bytes(said)
        return False

    def metered(self, *, is_partial: bool) -> Metered:
        written = max(self._events, -(-self._text_bytes // 4))
        return self._request.meter_stream(self._model, self._report, written)


def audio_file(form: Form) -> FilePart:
    """The one file of the form. Raises `RequestError`."""
    if not form.files:
        raise wrong("file", "is required, with a file name", code="missing_required_parameter")
    file = form.files[0]
    if len(form.files) > 1 or file.name != "file":
        raise wrong("file", "must be the only file of the form")
    if not file.data:
        raise wrong("file", "must not be empty")
    return file


def read_transcription_form(form: Form, duration: Duration) -> TranscriptionRequest:
    """Check a form with its one `audio_file`, of this duration. Raises `RequestError` saying what to change."""
    body = _checked(form)
    return TranscriptionRequest(
        body,
        body["model"],
        duration,
        _prompt_bytes(body),
        sum(map(len, (_list(body, name) for name in _REFERENCES))),
        body.get("response_format") or "json",
        _flag(body, "stream"),
        len(body["file"].data),
    )


def read_translation_form(form: Form, duration: Duration) -> TranslationRequest:
    """The same for a translation."""
    body = _checked(form)
    if _flag(body, "stream"):
        raise RequestError(
            "`stream` is not supported for translations: they are answered whole.",
            code="unsupported_parameter",
            param="stream",
        )
    response_format = body.get("response_format") or "json"
    return TranslationRequest(
        body,
        body["model"],
        duration,
        _prompt_bytes(body),
        response_format=response_format,
        file_bytes=len(body["file"].data),
    )


def _checked(form: Form) -> dict[str, Any]:
    file = audio_file(form)
    body = form.values()
    refuse_steering(body, _KNOWN)
    refuse_dear_tier(body)
    for name in body:
        # A file elsewhere would be heard instead of this one; a name in brackets may be read as the one without.
        base, bracket, _ = name.partition("[")
        if name.endswith(("_url", "_uri")) or (bracket and base in _PLAIN_NAMES):
            raise RequestError(f"`{name[:64]}` is not supported.", code="unsupported_parameter", param=name[:64])
    for name in _SINGLE:
        if isinstance(body.get(name), list):
            raise wrong(name, "must be there only once")
    if "file" in body:
        raise wrong("file", "must be a file, not a value")
    read_required_text(body, "model")
    if len(body.get("prompt", "")) > _PROMPT_CHARS_MAX:
        raise wrong("prompt", f"must be at most {_PROMPT_CHARS_MAX} characters")
    read_short_text(body, "language")
    if (response_format := body.get("response_format")) and response_format not in _FORMATS:
        raise wrong("response_format", f"must be one of {', '.join(sorted(_FORMATS))}")
    temperature = body.get("temperature")
    if temperature and not (_DECIMAL.fullmatch(temperature) and float(temperature) <= 1):
        raise wrong("temperature", "must be a number from 0 to 1")
    _check_lists(body)
    return {**body, "file": _named(file)}


def _check_lists(body: Mapping[str, Any]) -> None:
    for name in ("include", "timestamp_granularities", "known_speaker_names", "known_speaker_references"):
        values = _list(body, name) + _list(body, f"{name}[]")
        if len(values) > _LIST_MAX:
            raise wrong(name, f"must have at most {_LIST_MAX} values")
        if name == "timestamp_granularities" and not _GRANULARITIES.issuperset(values):
            raise wrong(name, "must be `word` or `segment`")


def _list(body: Mapping[str, Any], name: str) -> list[str]:
    value = body.get(name, [])
    return value if isinstance(value, list) else [value]


def _flag(body: Mapping[str, Any], name: str) -> bool:
    flag = _FLAGS.get(body.get(name, "").lower())
    if flag is None:
        raise wrong(name, "must be true or false")
    return flag


def _prompt_bytes(body: Mapping[str, Any]) -> int:
    """Values that may be read as input; those of `chunking_strategy[...]` and the like are a few bytes."""
    return sum(utf8_bytes(value) for name in body.keys() - _NO_INPUT for value in _list(body, name))


def _named(file: FilePart) -> FilePart:
    """Providers tell the format by the file's name."""
    if file.filename:
        return file
    kind = kind_of(file.data)
    return file._replace(filename=f"audio.{kind}" if kind else "audio")


def _whole_seconds(claimed: object, most: int) -> int | None:
    """Rounded up; None for what is no number, or cannot be true. Some write it as text."""
    if isinstance(claimed, str):
        if not _DECIMAL.fullmatch(claimed):
            return None
        claimed = float(claimed)
    if isinstance(claimed, bool) or not isinstance(claimed, (int, float)):
        return None
    return math.ceil(claimed) if 0 <= claimed <= most else None


def _last_cue_s(body: bytes) -> int | None:
    """When the last cue of an SRT or WebVTT ends, in seconds rounded up."""
    match = _CUE.match(body, at) if (at := body.rfind(b"-->")) >= 0 else None
    if match is None:
        return None
    hours, minutes, seconds, thousandths = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + (thousandths > 0)


def _as_sound(usage: Usage) -> Usage:
    """All input at the rate of sound, which no model priced by tokens is without."""
    return Usage(
        audio_input=usage.input_tokens,
        text_output=usage.output_tokens,
        pieces=usage.pieces,
    )
