"""A transcript of JSON in the plain forms: words, SubRip and WebVTT. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["transcript_as"]

_SECONDS_MAX = 360_000.0
"""A hundred hours: what two digits of them can name."""


class _Cue(NamedTuple):
    start_s: float
    end_s: float
    text: str


def transcript_as(form: str, answer: Mapping[str, Any]) -> str:
    """`answer` as `text`, `srt` or `vtt`. Without usable segments all of its words are one cue."""
    if form == "text":
        return f"{_text(answer.get('text'))}\n"
    cues = list(_cues(answer))
    if form == "srt":
        blocks = [
            f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{cue.text}\n"
            for number, cue in enumerate(cues, 1)
        ]
        return "".join(f"{block}\n" for block in blocks)
    blocks = [f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{cue.text}\n" for cue in cues]
    return "\n".join(["WEBVTT\n", *blocks])


def _cues(answer: Mapping[str, Any]) -> Iterator[_Cue]:
    segments = answer.get("segments")
    found = [segment for segment in segments if isinstance(segment, dict)] if isinstance(segments, list) else []
    if not found:
        found = [{"start": 0, "end": answer.get("duration"), "text": answer.get("text")}]
    for segment in found:
        yield _Cue(_seconds(segment.get("start")), _seconds(segment.get("end")), _text(segment.get("text")).strip())


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _SECONDS_MAX:
        return 0.0
    return float(value)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
