"""A transcript of JSON as words, SubRip and WebVTT."""

from typing import Any

import pytest

from gateway.transcripts import transcript_as

TWO = {
    "text": "Hello there. Bye.",
    "duration": 3723.5,
    "segments": [
        {"start": 0.0, "end": 1.25, "text": " Hello there."},
        {"start": 3600.0, "end": 3723.4996, "text": " Bye."},
    ],
}


def test_words_end_with_a_line() -> None:
    assert transcript_as("text", TWO) == "Hello there. Bye.\n"


def test_subrip_counts_its_cues_and_has_commas() -> None:
    assert transcript_as("srt", TWO) == (
        "1\n00:00:00,000 --> 00:00:01,250\nHello there.\n\n2\n01:00:00,000 --> 01:02:03,500\nBye.\n\n"
    )


def test_webvtt_has_a_head_and_points() -> None:
    assert transcript_as("vtt", TWO) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nHello there.\n\n01:00:00.000 --> 01:02:03.500\nBye.\n"
    )


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "All.", "duration": 2},
        {"text": "All.", "duration": 2, "segments": []},
        {"text": "All.", "duration": 2, "segments": "none"},
        {"text": "All.", "duration": 2, "segments": [None, 5]},
    ],
)
def test_without_segments_all_words_are_one_cue(answer: dict[str, Any]) -> None:
    assert transcript_as("srt", answer) == "1\n00:00:00,000 --> 00:00:02,000\nAll.\n\n"


@pytest.mark.parametrize("time", [None, -1, "soon", True, float("nan"), float("inf"), 1e300])
def test_a_time_that_is_none_is_the_beginning(time: Any) -> None:
    segments = [{"start": time, "end": time, "text": "x"}]
    assert transcript_as("vtt", {"segments": segments}).endswith("00:00:00.000 --> 00:00:00.000\nx\n")


def test_what_is_no_text_is_empty() -> None:
    assert transcript_as("text", {"text": 5}) == "\n"
    assert transcript_as("vtt", {}) == "WEBVTT\n\n00:00:00.000 --> 00:00:00.000\n\n"
