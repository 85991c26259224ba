"""The relay: the provider's own bytes, less the one event we asked for; the same usage however the bytes are cut."""

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.relay import EventTooLarge, Guard
from gateway.streaming import SseRelay, text_bytes

DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def event(message: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(message, ensure_ascii=False).encode() + b"\n\n"


def delta(text: str, finish_reason: str | None = None, index: int = 0, **fields: Any) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish_reason}
    return event({"choices": [choice], **fields})


def usage_event(usage: dict[str, Any] = USAGE) -> bytes:
    return event({"choices": [], "usage": usage})


class Relayed:
    """All that a relay says of a stream cut into `parts`."""

    def __init__(self, parts: Iterable[bytes], *, strip_usage: bool = True) -> None:
        relay = SseRelay(Guard(1_000_000, lambda e: e.replace(b"KEY", b"***")), strip_usage=strip_usage)
        self.sent = b"".join(relay.feed(part) for part in parts)
        self.sent += relay.finish()
        self.held = relay.held_back()
        self.usage = relay.usage
        self.is_complete = relay.is_complete
        self.has_error_event = relay.has_error_event
        self.output_tokens = relay.output_tokens_estimate()

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == getattr(other, "__dict__", None)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.__dict__)


PLAIN = delta("Grüße", role="x", usage=None) + delta(" 🌍", "stop", usage=None)
STREAMS = {
    "plain": PLAIN + usage_event() + DONE,
    "comments": b": keep-alive\n\n" + PLAIN + b": ping\n\n" + usage_event() + DONE,
    "azure_prompt_filter_first": event({"choices": [], "prompt_filter_results": []}) + PLAIN + usage_event() + DONE,
    "usage_on_the_finish_chunk": delta("a") + delta("", "stop", usage=USAGE) + DONE,
    "usage_twice": PLAIN + usage_event({**USAGE, "completion_tokens": 1}) + usage_event() + DONE,
    "usage_after_done": PLAIN + DONE + usage_event(),
    "no_done": PLAIN,
    "no_last_blank_line": PLAIN + usage_event() + b"data: [DONE]",
    "cut_in_an_event": PLAIN[:-9],
    "no_space_after_data": (PLAIN + usage_event() + DONE).replace(b"data: ", b"data:"),
    "event_and_id_lines": b"event: x\nid: 7\n" + PLAIN + usage_event() + DONE,
    "data_in_two_lines": b'data: {"choices":[],\ndata: "usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n' + DONE,
    "error_event": PLAIN + event({"error": {"message": "KEY is wrong"}}),
    "word_in_the_text": delta('say "completion_tokens" and [DONE] and "error"') + usage_event() + DONE,
    "not_json": b"data: <html>\n\n" + PLAIN + DONE,
    "invalid_utf8": PLAIN.replace("ü".encode(), b"\xff") + usage_event() + DONE,
    "only_done": DONE,
    "empty": b"",
}
LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


@pytest.mark.parametrize("line_end", [pytest.param(end, id=name) for name, end in LINE_ENDS.items()])
@pytest.mark.parametrize("stream", [pytest.param(stream, id=name) for name, stream in STREAMS.items()])
def test_every_split_gives_the_same_bytes_and_the_same_usage(stream: bytes, line_end: bytes) -> None:
    stream = stream.replace(b"\n", line_end)
    whole = Relayed([stream])
    for cut in range(1, len(stream)):
        assert Relayed([stream[:cut], stream[cut:]]) == whole
    assert Relayed(stream[i : i + 1] for i in range(len(stream))) == whole


@given(
    st.sampled_from(sorted(STREAMS)), st.sampled_from(sorted(LINE_ENDS)), st.lists(st.integers(0, 2_000), max_size=9)
)
@settings(max_examples=300, deadline=None)
def test_any_number_of_splits_changes_nothing(name: str, line_end: str, cuts: list[int]) -> None:
    stream = STREAMS[name].replace(b"\n", LINE_ENDS[line_end])
    marks = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    parts = [stream[start:end] for start, end in pairwise(marks)]
    assert Relayed(parts) == Relayed([stream])


@pytest.mark.parametrize("line_end", [pytest.param(end, id=name) for name, end in LINE_ENDS.items()])
def test_only_the_usage_event_we_asked_for_is_missing(line_end: bytes) -> None:
    stream = STREAMS["plain"].replace(b"\n", line_end)
    relayed = Relayed([stream])
    assert relayed.sent + relayed.held == stream.replace(usage_event().replace(b"\n", line_end), b"")
    assert relayed.usage == USAGE


def test_a_caller_who_asked_for_usage_gets_every_byte() -> None:
    relayed = Relayed([STREAMS["plain"]], strip_usage=False)
    assert relayed.sent + relayed.held == STREAMS["plain"]


def test_an_event_with_empty_choices_but_no_usage_is_relayed() -> None:
    stream = STREAMS["azure_prompt_filter_first"]
    assert Relayed([stream]).sent.startswith(event({"choices": [], "prompt_filter_results": []}))


def test_usage_beside_choices_is_read_and_relayed() -> None:
    relayed = Relayed([STREAMS["usage_on_the_finish_chunk"]])
    assert relayed.usage == USAGE
    assert relayed.sent + relayed.held == STREAMS["usage_on_the_finish_chunk"]


def test_the_last_of_several_usage_reports_counts() -> None:
    assert Relayed([STREAMS["usage_twice"]]).usage == USAGE


def test_usage_behind_done_counts_and_stays_ours() -> None:
    relayed = Relayed([STREAMS["usage_after_done"]])
    assert relayed.usage == USAGE
    assert relayed.sent + relayed.held == PLAIN + DONE


def test_done_waits_for_the_settle() -> None:
    relayed = Relayed([STREAMS["plain"]])
    assert b"[DONE]" not in relayed.sent
    assert relayed.held == DONE


def test_a_stream_that_ends_after_every_finish_reason_is_complete_without_done() -> None:
    relayed = Relayed([STREAMS["no_done"]])
    assert relayed.is_complete
    assert relayed.sent == PLAIN


def test_one_unfinished_choice_makes_the_stream_incomplete() -> None:
    assert not Relayed([delta("a", "stop") + delta("b", None, index=1)]).is_complete


def test_the_torso_of_an_event_is_not_sent_when_the_stream_breaks() -> None:
    relayed = Relayed([STREAMS["cut_in_an_event"]])
    assert not relayed.is_complete
    assert relayed.sent == delta("Grüße", role="x", usage=None)


def test_error_text_is_never_counted_as_output() -> None:
    with_error, without = Relayed([STREAMS["error_event"]]), Relayed([PLAIN])
    assert with_error.has_error_event
    assert with_error.output_tokens == without.output_tokens
    assert b"KEY" not in with_error.sent


def test_words_of_ours_inside_the_text_are_text() -> None:
    relayed = Relayed([STREAMS["word_in_the_text"]])
    assert not relayed.has_error_event
    assert relayed.sent == delta('say "completion_tokens" and [DONE] and "error"')


@pytest.mark.parametrize(
    ("texts", "tokens"),
    [
        pytest.param(["a", "b", "c"], 3, id="an event is at least a token"),
        pytest.param(["12345678", "9"], 3, id="four bytes are a token, rounded up"),
        pytest.param(["", ""], 0, id="nothing said, nothing counted"),
        pytest.param(["🌍🌍🌍"], 3, id="bytes, not characters"),
    ],
)
def test_output_by_the_written_rule(texts: list[str], tokens: int) -> None:
    assert Relayed([b"".join(delta(text) for text in texts)]).output_tokens == tokens


def test_the_estimate_survives_folding() -> None:
    """Beyond 8 KB what was relayed is counted and dropped; the sum must not notice."""
    chunk = delta("x" * 100)
    assert Relayed([chunk] * 1_000).output_tokens == 25_000


@pytest.mark.parametrize(
    ("message", "size"),
    [
        pytest.param({"content": "abc"}, 3, id="content"),
        pytest.param({"reasoning_content": "ab", "content": None}, 2, id="reasoning"),
        pytest.param({"refusal": "no"}, 2, id="refusal"),
        pytest.param({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, 3, id="tool call"),
        pytest.param({"function_call": {"arguments": "{}"}}, 2, id="function call"),
        pytest.param({"content": [{"text": "abc"}, {"image_url": "x"}, 5]}, 3, id="parts"),
        pytest.param({"content": 5, "tool_calls": 7, "role": "assistant"}, 0, id="wrong types"),
        pytest.param(None, 0, id="none"),
    ],
)
def test_what_a_message_says_is_counted_in_bytes(message: object, size: int) -> None:
    assert text_bytes(message) == size


def test_an_endless_event_is_refused() -> None:
    relay = SseRelay(Guard(1_000, lambda event: event), strip_usage=True)
    for _ in range(9):
        assert relay.feed(b"data: " + b"x" * 100) == b""
    with pytest.raises(EventTooLarge):
        relay.feed(b"data: " + b"x" * 100)
