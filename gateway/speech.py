"""A request to speak a text: read once, checked, priced, written for the provider, and metered. Pure.

Two ways of pricing, told apart by the model's row:
- by the character (`speech_usd_per_mchar`): the Unicode characters of `input`, exact before the call and after it;
- by tokens: held are a token for every byte of the text and eight tokens of sound for each of its bytes (0.4 s at twenty a
  second; four times that where a slower `speed` is asked for), within the model's own cap. Afterwards the provider's
  report counts, which only `stream_format: "sse"` has, in `speech.audio.done`.

The written rule where nobody reports, as for plain bytes: input = ceil(bytes of the text / 4), sound = ceil(bytes of the
text x 4 / 3), which is fifteen characters of English a second at twenty tokens. A call that was fully sent costs all of it,
whoever heard how much; one that the provider ended with an error event before any sound costs nothing. Twenty tokens a
second is what 0.015 USD a minute at 12 USD a million comes to (OpenAI's price page, gpt-4o-mini-tts, 2026-05).

Answers are passed on while they come: bytes of a type that is sound, or the events `speech.audio.delta` and `.done`
(openai-python 1.x and later, `types/audio`). Anything else is no answer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gateway.catalog import Model, Price, ProviderRow
from gateway.event_relay import ByteRelay, EventRelay
from gateway.metering import NOTHING, Metered
from gateway.model_request import Estimate, Outgoing, PlainRequest
from gateway.price_rows import CHARACTERS
from gateway.pricing import UnpricedUsage, cost_nano_usd, worst_case_nano_usd
from gateway.relay import Guard, Relay
from gateway.request_fields import (
    dump_body,
    parse_body,
    read_required_text,
    read_short_text,
    refuse_dear_tier,
    refuse_steering,
    wrong,
)
from gateway.streaming import utf8_bytes
from gateway.usage import Usage, from_speech

__all__ = ["INPUT_CHARS_MAX", "SpeechRelay", "SpeechRequest", "read_speech_request"]

INPUT_CHARS_MAX = 4_096
"""OpenAI's own bound."""
_INSTRUCTIONS_CHARS_MAX = 16_384
_SOUND_TOKENS_LEAST = 64
"""Three seconds: a single word with silence around it."""
_INSTRUCTED_TOKENS = 1_200
"""A minute: how much longer instructions (slowly, with pauses) may make any text."""
_PROMPT_TOKENS = 32
"""Framing that a model priced by tokens puts around the text."""
_SOUND_TOKENS_PER_BYTE_MAX = 8
_SLOWEST = 4
"""How much longer speech can last at the lowest speed."""
_SPEED_LEAST, _SPEED_MOST = 0.25, 4.0
_FORMATS = frozenset({"mp3", "opus", "aac", "flac", "wav", "pcm"})
_STREAM_FORMATS = frozenset({"audio", "sse"})
_SOUND = re.compile(r"(?:audio/[a-z0-9!#$&^_.+-]{1,64}|application/octet-stream)(?:[ \t]*;[\x20-\x7e]{0,200})?")
"""Fit for a header, and nothing a browser would run."""

_KNOWN = frozenset("model input voice instructions response_format speed stream_format user metadata language".split())
_LABELS = ("user", "metadata")
"""For the gateway's books alone: providers' speech has no such fields."""


@dataclass(slots=True)
class SpeechRequest(PlainRequest):
    """The fields the gateway itself reads (`ModelRequest`); `body` is everything, ready to be sent on."""

    body: dict[str, Any]
    model: str
    characters: int
    """Unicode code points of `input`."""
    input_bytes: int
    """UTF-8 bytes of `input`: what is spoken."""
    text_bytes: int
    """Those and of whatever else a provider may take for input: instructions, and fields we do not know."""
    is_slow: bool = False
    is_streaming: bool = False
    """Events are asked for, not bytes."""

    endpoint: ClassVar[str] = "speech"
    path: ClassVar[str] = "/audio/speech"

    @property
    def input_tokens_estimate(self) -> int:
        """What the text most likely is, where nobody reports it: a token per four bytes."""
        return -(-self.text_bytes // 4)

    @property
    def slack_tokens(self) -> int:
        """What the shortest text may sound like, and what instructions may stretch any to."""
        return _SOUND_TOKENS_LEAST + (_INSTRUCTED_TOKENS if self.text_bytes > self.input_bytes else 0)

    @property
    def sound_tokens_estimate(self) -> int:
        return -(-self.input_bytes * 4 // 3)

    def fits(self, model: Model) -> bool:
        try:
            self.worst_case(model, model.price)
        except UnpricedUsage:
            return False
        return model.context_tokens_max is None or self.input_tokens_estimate <= model.context_tokens_max

    def variant(self, model: Model) -> str:
        return CHARACTERS

    def worst_case(self, model: Model, price: Price) -> int:
        # By the piece also where only the creator's own price is.
        if price.character is not None:
            return cost_nano_usd(Usage(pieces=self.characters), price, CHARACTERS)
        for rate, bucket in ((price.input, "uncached_input"), (price.audio_output, "audio_output")):
            if rate is None:
                raise UnpricedUsage(bucket, price.version)
        return worst_case_nano_usd(
            price, input_tokens=self._input_tokens_max(model), output_tokens=self._sound_tokens_max(model)
        )

    def estimate(self, model: Model, price: Price) -> Estimate:
        """Nothing of it shrinks: a text is spoken to its end."""
        worst, usage = self.worst_case(model, price), self._consumed(model)
        expected = cost_nano_usd(usage, price, CHARACTERS)
        return Estimate(worst, None, expected, self.input_tokens_estimate + usage.output_tokens)

    def unfinished_usage(self, model: Model) -> Usage:
        return self._consumed(model)

    def clamp(self, model: Model, price: Price, nano_usd: int) -> None:
        """There is nothing to bound."""
        return

    def outgoing(self, model: Model, row: ProviderRow) -> Outgoing:
        body = {**self.body, "model": model.upstream_model}
        for field in (*_LABELS, *row.drop_fields):
            body.pop(field, None)
        return Outgoing(self.path, dump_body(body), is_streaming=self.is_streaming)

    def relay(self, content_type: str, model: Model, row: ProviderRow, guard: Guard) -> Relay | None:
        if content_type.startswith("text/event-stream"):
            return SpeechRelay(guard, self, model)
        if _SOUND.fullmatch(content_type):
            return ByteRelay(content_type, self.meter_unanswered(model))
        return None

    def meter(self, answer: Mapping[str, Any], model: Model, row: ProviderRow) -> None:
        """JSON is no speech."""
        return

    def meter_unanswered(self, model: Model) -> Metered:
        """By the written rule; characters are counted and nothing is estimated about them."""
        usage = self._consumed(model)
        is_exact = model.price.character is not None
        return Metered(
            usage,
            "provider" if is_exact else "estimated",
            cost_nano_usd(usage, model.price, CHARACTERS),
            (),
            CHARACTERS,
        )

    def meter_report(self, report: object, model: Model) -> Metered:
        """By what `speech.audio.done` says. Flag: `usage_refused`, where that cannot be true."""
        metered = self.meter_unanswered(model)
        if report is None:
            return metered
        believed = from_speech(
            report,
            input_tokens_max=self._input_tokens_max(model),
            output_tokens_max=self._sound_tokens_max(model),
        )
        if believed is None or (believed.input_tokens and not believed.output_tokens):
            return metered._replace(flags=("usage_refused",))
        usage = believed._replace(pieces=self.characters)
        return Metered(usage, "provider", cost_nano_usd(usage, model.price, CHARACTERS), (), CHARACTERS)

    def _consumed(self, model: Model) -> Usage:
        """By the written rule. Both kinds are counted where the model is priced by tokens: its creators may owe by the
        character."""
        if model.price.character is not None:
            return Usage(pieces=self.characters)
        return Usage(
            uncached_input=self.input_tokens_estimate,
            audio_output=min(self.sound_tokens_estimate, self._sound_tokens_max(model)),
            pieces=self.characters,
        )

    def _input_tokens_max(self, model: Model) -> int:
        bound = self.text_bytes + _PROMPT_TOKENS
        return bound if model.context_tokens_max is None else min(bound, model.context_tokens_max)

    def _sound_tokens_max(self, model: Model) -> int:
        bound = self.input_bytes * _SOUND_TOKENS_PER_BYTE_MAX * (_SLOWEST if self.is_slow else 1) + self.slack_tokens
        return bound if model.output_tokens_max is None else min(bound, model.output_tokens_max)


class SpeechRelay(EventRelay):
    """Sound in events, the last of which may report tokens. Lifetime: one answer."""

    __slots__ = ("_has_sound", "_model", "_report", "_request")

    def __init__(self, guard: Guard, request: SpeechRequest, model: Model) -> None:
        super().__init__(guard)
        self._request = request
        self._model = model
        self._report: object = None
        self._has_sound = False

    def note(self, type: str, message: dict[str, Any]) -> bool:
        if type == "error" or message.get("error"):
            self.has_error_event = True
            return False
        if type != "speech.audio.done":
            self._has_sound = self._has_sound or type == "speech.audio.delta"
            return False
        self._report = message.get("usage")
        return True

    def metered(self, *, is_partial: bool) -> Metered:
        if self.has_error_event and not self._has_sound:
            return NOTHING
        return self._request.meter_report(self._report, self._model)


def read_speech_request(raw: bytes) -> SpeechRequest:
    """Parse and check a body. Raises `RequestError` saying what to change."""
    body = parse_body(raw)
    refuse_steering(body, _KNOWN)
    refuse_dear_tier(body)
    model = read_required_text(body, "model")
    text = read_required_text(body, "input")
    if len(text) > INPUT_CHARS_MAX:
        raise wrong("input", f"must be at most {INPUT_CHARS_MAX} characters")
    _check_voice(body)
    speed = _speed(body)
    _choice(body, "response_format", _FORMATS)
    spoken = utf8_bytes(text)
    return SpeechRequest(
        body,
        model,
        len(text),
        spoken,
        spoken + _instructions_bytes(body) + sum(len(dump_body(body[field])) for field in body.keys() - _KNOWN),
        is_slow=speed < 1,
        is_streaming=_choice(body, "stream_format", _STREAM_FORMATS) == "sse",
    )


def _check_voice(body: Mapping[str, Any]) -> None:
    """A name, or `{"id": ...}` for one of the caller's own."""
    voice = body.get("voice")
    if voice is not None and not (isinstance(voice, (str, dict)) and voice):
        raise wrong("voice", "must be a name or an object with an `id`")


def _instructions_bytes(body: Mapping[str, Any]) -> int:
    instructions = body.get("instructions")
    if instructions is None:
        return 0
    if not isinstance(instructions, str) or len(instructions) > _INSTRUCTIONS_CHARS_MAX:
        raise wrong("instructions", f"must be a string of at most {_INSTRUCTIONS_CHARS_MAX} characters")
    return utf8_bytes(instructions)


def _speed(body: Mapping[str, Any]) -> float:
    speed = body.get("speed")
    if speed is None:
        return 1
    if type(speed) not in (int, float) or not _SPEED_LEAST <= speed <= _SPEED_MOST:
        raise wrong("speed", f"must be a number from {_SPEED_LEAST} to {_SPEED_MOST}")
    return float(speed)


def _choice(body: Mapping[str, Any], field: str, known: frozenset[str]) -> str:
    value = read_short_text(body, field)
    if value and value not in known:
        raise wrong(field, f"must be one of {', '.join(sorted(known))}")
    return value
