"""Gemini's `usageMetadata` -> the usage objects of OpenAI's answers. Pure.

What Google counts, and where it ends up (types of google-genai 3.4.0, extractors of genai-prices 0.2.3, read 2026-11-21):
- `promptTokenCount` includes what came from the cache; results of server-side tools (`toolUsePromptTokenCount`) do not
  belong to it and are added;
- `candidatesTokenCount` is without thinking, so `completion_tokens` is the sum of it and `thoughtsTokenCount`;
- `*TokensDetails` split the totals by modality, cached tokens included. Audio is told apart on both sides, images on the
  output side only: pictures, films and documents that go in cost what text does on every chat model of Google's list, so
  they stay in the remainder and need no rate of their own;
- a `totalTokenCount` above the sum of the parts is thinking nobody listed; one below it is a contradiction, which is
  passed on, so that the meter refuses the report.
Zeros are left out of Google's JSON, so what is missing is a zero.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.usage import ImpossibleCount, count_of

__all__ = ["chat_usage", "embedding_usage", "image_usage", "service_tier"]

_NO_NUMBERS = {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}
"""In place of a report with something in it that is no count: no meter believes this."""
_NO_IMAGE_NUMBERS = {"input_tokens": None, "output_tokens": None, "total_tokens": None}


class _Tally(NamedTuple):
    read: int
    cached: int
    audio_read: int
    """Without what came from the cache."""
    candidates: int
    thoughts: int
    audio_made: int
    images_made: int
    total: int
    has_parts: bool
    """The candidates' tokens are split by modality."""


def chat_usage(report: object) -> dict[str, Any] | None:
    """A chat completion's `usage`; None where nothing was reported."""
    if not isinstance(report, dict):
        return None
    try:
        tally = _tally(report)
    except ImpossibleCount:
        return dict(_NO_NUMBERS)
    return {
        "prompt_tokens": tally.read,
        "completion_tokens": tally.candidates + tally.thoughts,
        "total_tokens": tally.total,
        "prompt_tokens_details": {"cached_tokens": tally.cached, "audio_tokens": tally.audio_read},
        "completion_tokens_details": {
            "reasoning_tokens": tally.thoughts,
            "audio_tokens": tally.audio_made,
            **({"image_tokens": tally.images_made} if tally.images_made else {}),
        },
    }


def embedding_usage(report: object) -> dict[str, Any] | None:
    """An embedding's `usage`: it makes no tokens."""
    if not isinstance(report, dict):
        return None
    try:
        read = count_of(report, "promptTokenCount")
    except ImpossibleCount:
        return dict(_NO_NUMBERS)
    return {"prompt_tokens": read, "total_tokens": read}


def image_usage(report: object) -> dict[str, Any] | None:
    """The `usage` of an image answer. Without a split by modality all that is no thinking is images."""
    if not isinstance(report, dict):
        return None
    try:
        tally = _tally(report)
    except ImpossibleCount:
        return dict(_NO_IMAGE_NUMBERS)
    made = tally.candidates + tally.thoughts
    images = tally.images_made if tally.has_parts else tally.candidates
    return {
        "input_tokens": tally.read,
        "output_tokens": made,
        "total_tokens": tally.total,
        "input_tokens_details": {"text_tokens": tally.read, "image_tokens": 0, "cached_tokens": tally.cached},
        "output_tokens_details": {"text_tokens": made - images, "image_tokens": images},
    }


def service_tier(report: object, header: str = "") -> str | None:
    """The tier that served, in OpenAI's words; `header` is `x-gemini-service-tier`, for reports that do not say."""
    said = report.get("serviceTier") if isinstance(report, dict) else None
    word = (said if isinstance(said, str) and said else header).lower().removeprefix("service_tier_")
    if word in ("", "unspecified"):
        return None
    return "default" if word == "standard" else word


def _tally(report: Mapping[str, Any]) -> _Tally:
    read = count_of(report, "promptTokenCount") + count_of(report, "toolUsePromptTokenCount")
    cached = count_of(report, "cachedContentTokenCount")
    audio = _of(report, "promptTokensDetails", "AUDIO") + _of(report, "toolUsePromptTokensDetails", "AUDIO")
    if report.get("cacheTokensDetails"):
        audio = max(0, audio - _of(report, "cacheTokensDetails", "AUDIO"))
    elif cached <= read:
        # Nobody says what the cache held: as little audio as the numbers allow.
        audio = min(audio, read - cached)
    candidates, thoughts = count_of(report, "candidatesTokenCount"), count_of(report, "thoughtsTokenCount")
    total = count_of(report, "totalTokenCount") or read + candidates + thoughts
    thoughts += max(0, total - read - candidates - thoughts)
    return _Tally(
        read=read,
        cached=cached,
        audio_read=audio,
        candidates=candidates,
        thoughts=thoughts,
        audio_made=_of(report, "candidatesTokensDetails", "AUDIO"),
        images_made=_of(report, "candidatesTokensDetails", "IMAGE"),
        total=total,
        has_parts=bool(report.get("candidatesTokensDetails")),
    )


def _of(report: Mapping[str, Any], name: str, modality: str) -> int:
    parts = report.get(name)
    if parts is None:
        return 0
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ImpossibleCount
    return sum(count_of(part, "tokenCount") for part in parts if part.get("modality") == modality)
