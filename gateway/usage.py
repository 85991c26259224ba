"""A provider's usage object -> disjoint token buckets. Pure.

Providers report inclusive totals with parts inside them, each in its own dialect of OpenAI's shape. Here every token
lands in exactly one bucket, or the whole object is refused: a number nobody could have meant must not become money.
What is done about a refused object (an estimate and a flag) is the pipeline's business.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

TOKENS_MAX = 100_000_000
"""What one call may report where the catalog states no cap: ten times the largest context sold."""


class Usage(NamedTuple):
    """What a call consumed. Buckets are disjoint: `cached_input` is no part of `uncached_input`, `reasoning` none of
    `text_output`. Tokens, except `pieces`: what is
    counted by the piece, which the endpoint says: images, seconds of audio, characters of speech."""

    uncached_input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    audio_input: int = 0
    image_input: int = 0
    text_output: int = 0
    reasoning: int = 0
    audio_output: int = 0
    image_output: int = 0
    pieces: int = 0

    @property
    def input_tokens(self) -> int:
        """OpenAI's inclusive total."""
        return self.uncached_input + self.cached_input + self.cache_write + self.audio_input + self.image_input

    @property
    def output_tokens(self) -> int:
        """OpenAI's inclusive total."""
        return self.text_output + self.reasoning + self.audio_output + self.image_output


NO_USAGE = Usage()

PIECE_NAMES = ("images", "audio_seconds", "characters")
PIECES_OF_ENDPOINT: Mapping[str, str] = {
    "speech": "characters",
    "transcriptions": "audio_seconds",
    "translations": "audio_seconds",
}
"""What `pieces` are, where they are not images."""


class ImpossibleCount(Exception):
    """A number that cannot be true."""


def from_chat(
    usage: object,
    *,
    context_tokens_max: int | None,
    output_tokens_max: int | None,
    choices: int,
    unlisted_is_reasoning: bool = False,
) -> Usage | None:
    """The buckets of a chat completion's `usage` (or an embedding's), None if it cannot be believed.

    Refused: anything negative, fractional, textual or boolean where a count belongs; parts larger than their whole;
    a `total_tokens` that is not the sum; more input than `context_tokens_max`, more output than `output_tokens_max`
    times `choices` (without caps in the catalog: `TOKENS_MAX`). A zero is a zero. Missing or null details are zeros.

    Two providers count reasoning beside `completion_tokens`, not inside. xAI names it, and its total proves it; Gemini
    only makes the total larger, which elsewhere would be a contradiction: `unlisted_is_reasoning` says that this
    provider does so, and that the difference is reasoning.
    """
    if not isinstance(usage, dict):
        return None
    try:
        buckets = _buckets(usage, unlisted_is_reasoning)
    except ImpossibleCount:
        return None
    output_cap = output_tokens_max if output_tokens_max is not None else context_tokens_max or TOKENS_MAX
    if buckets.input_tokens > (context_tokens_max or TOKENS_MAX) or buckets.output_tokens > output_cap * choices:
        return None
    return buckets


def from_images(usage: object, *, input_tokens_max: int | None, output_tokens_max: int | None) -> Usage | None:
    """The buckets of an image answer's `usage`, as OpenAI reports it; None if it cannot be believed.

    The caps are those of the whole answer, all its images together; None for `TOKENS_MAX`. Refused is what `from_chat`
    refuses. `pieces` stays 0: what is counted in tokens is paid in tokens.

    Cached tokens are told as one number for words and images. They are taken off the words first, whose discount is the
    smaller one; cached images count as plain image input. Output that is not said to be text is images.
    """
    if not isinstance(usage, dict):
        return None
    try:
        buckets = _image_buckets(usage)
    except ImpossibleCount:
        return None
    within_input = buckets.input_tokens <= (TOKENS_MAX if input_tokens_max is None else input_tokens_max)
    within_output = buckets.output_tokens <= (TOKENS_MAX if output_tokens_max is None else output_tokens_max)
    return buckets if within_input and within_output else None


def from_transcription(usage: object, *, input_tokens_max: int, output_tokens_max: int) -> Usage | None:
    """The buckets of a transcript's `usage` of the type `tokens`, as OpenAI reports it; None if it cannot be believed.

    Refused is what `from_chat` refuses. Input that is not said to be text is sound: the dearer of both. `pieces` stays 0.
    """
    if not isinstance(usage, dict):
        return None
    try:
        read, made = _input_and_output(usage)
        parts = parts_of(usage, "input_token_details")
        sound, text, cached = (count_of(parts, name) for name in ("audio_tokens", "text_tokens", "cached_tokens"))
    except ImpossibleCount:
        return None
    if read > input_tokens_max or made > output_tokens_max or sound + text > read or cached > read:
        return None
    # Cached tokens are told as one number: they are taken off the text, whose discount is the smaller one.
    cached = min(cached, text)
    return Usage(text - cached, cached, audio_input=read - text, text_output=made)


def from_speech(usage: object, *, input_tokens_max: int, output_tokens_max: int) -> Usage | None:
    """The buckets of what `speech.audio.done` reports: text that went in, sound that came out. None as above."""
    if not isinstance(usage, dict):
        return None
    try:
        read, made = _input_and_output(usage)
    except ImpossibleCount:
        return None
    if read > input_tokens_max or made > output_tokens_max:
        return None
    return Usage(read, audio_output=made)


def _image_buckets(usage: dict[str, Any]) -> Usage:
    read, made = _input_and_output(usage)
    parts = parts_of(usage, "input_tokens_details")
    image_in, text_in, cached = (count_of(parts, name) for name in ("image_tokens", "text_tokens", "cached_tokens"))
    if image_in + text_in > read or cached > read:
        raise ImpossibleCount
    words = read - image_in
    cached_words = min(cached, words)

    parts = parts_of(usage, "output_tokens_details")
    image_out, text_out = count_of(parts, "image_tokens"), count_of(parts, "text_tokens")
    if image_out + text_out > made:
        raise ImpossibleCount
    return Usage(
        words - cached_words, cached_words, image_input=image_in, text_output=text_out, image_output=made - text_out
    )


def _input_and_output(usage: dict[str, Any]) -> tuple[int, int]:
    """The two totals as the newer endpoints name them; a third must be their sum."""
    if usage.get("input_tokens") is None or usage.get("output_tokens") is None:
        raise ImpossibleCount
    read, made = count_of(usage, "input_tokens"), count_of(usage, "output_tokens")
    if usage.get("total_tokens") is not None and count_of(usage, "total_tokens") != read + made:
        raise ImpossibleCount
    return read, made


def _buckets(usage: dict[str, Any], unlisted_is_reasoning: bool) -> Usage:
    prompt, completion, total = _totals(usage)
    if _has_no_parts(usage) and total in (None, prompt + completion):
        return Usage(prompt, text_output=completion)

    parts = parts_of(usage, "prompt_tokens_details")
    # Names differ by provider, and some send two: whichever says more than nothing counts.
    cached = count_of(parts, "cached_tokens") or count_of(usage, "prompt_cache_hit_tokens")
    written = (
        count_of(parts, "cache_write_tokens")
        or count_of(parts, "cache_creation_tokens")
        or count_of(usage, "cache_creation_input_tokens")
    )
    audio_in, image_in = count_of(parts, "audio_tokens"), count_of(parts, "image_tokens")
    uncached = prompt - cached - written - audio_in - image_in

    parts = parts_of(usage, "completion_tokens_details")
    reasoning = count_of(parts, "reasoning_tokens")
    audio_out, image_out = count_of(parts, "audio_tokens"), count_of(parts, "image_tokens")
    text = completion - reasoning - audio_out - image_out

    if total is not None and (unlisted := total - prompt - completion):
        if unlisted == reasoning:
            text += reasoning
        elif unlisted > 0 and unlisted_is_reasoning:
            reasoning += unlisted
        else:
            raise ImpossibleCount
    if uncached < 0 or text < 0:
        raise ImpossibleCount
    return Usage(uncached, cached, written, audio_in, image_in, text, reasoning, audio_out, image_out)


def _totals(usage: dict[str, Any]) -> tuple[int, int, int | None]:
    prompt, total = usage.get("prompt_tokens"), usage.get("total_tokens")
    # Embeddings have no completion; a total equal to the prompt says so. Absent without that proof is not a zero.
    completion = usage.get("completion_tokens", 0 if total == prompt else None)
    if type(prompt) is not int or type(completion) is not int or prompt < 0 or completion < 0:
        raise ImpossibleCount
    if total is not None and (type(total) is not int or total < 0):
        raise ImpossibleCount
    return prompt, completion, total


def _has_no_parts(usage: dict[str, Any]) -> bool:
    """The common report: totals, and details that are all zeros. It needs no telling apart."""
    for name, value in usage.items():
        if name in _DETAILS:
            if type(value) is not dict:
                return False
            for part in value.values():
                if type(part) is not int or part:
                    return False
        elif name not in _TOTALS:
            return False
    return True


_TOTALS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
_DETAILS = frozenset({"prompt_tokens_details", "completion_tokens_details"})
_NO_DETAILS: Mapping[str, Any] = {}


def parts_of(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object `name` in a report; empty where there is none. Raises `ImpossibleCount`."""
    details = usage.get(name)
    if not details and (details is None or details == {}):
        return _NO_DETAILS
    if not isinstance(details, dict):
        raise ImpossibleCount
    return details


def count_of(parts: Mapping[str, Any], name: str) -> int:
    """The number `name`, 0 where there is none. Raises `ImpossibleCount` for what no meter could have meant."""
    value = parts.get(name)
    if value is None:
        return 0
    # `type is` and not isinstance: True is an int to Python, not to a meter.
    if type(value) is not int or value < 0:
        raise ImpossibleCount
    return value
