"""What a stream said is counted by each event alone: whatever stands beside it, and whenever the count is taken."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay import Guard
from gateway.streaming import SseRelay

HALVES = (b'data: {"x":"\n\n', b'data: forty characters of delivered text here"}\n\n')
WORDS = b'data: {"choices":[{"index":0,"delta":{"content":"Hello there"}}]}\n\n'
PING = b"data: ping\n\n"
NO_OBJECTS = {
    "string": b'data: "%b"\n\n' % (b"words " * 100),
    "number": b"data: 12345678901234567890\n\n",
    "list": b'data: ["some","words"]\n\n',
    "true": b"data: true\n\n",
    "null": b"data: null\n\n",
}


def relay() -> SseRelay:
    return SseRelay(Guard(2**20, lambda event: event), strip_usage=True)


def counted_at_the_end(events: Sequence[bytes]) -> int:
    one = relay()
    for event in events:
        one.feed(event)
    return one.output_tokens_estimate()


def counted_at_each_event(events: Sequence[bytes]) -> int:
    one = relay()
    for event in events:
        one.feed(event)
        one.output_tokens_estimate()
    return one.output_tokens_estimate()


@pytest.mark.parametrize("event", NO_OBJECTS.values(), ids=NO_OBJECTS)
@pytest.mark.parametrize("beside", [[], [PING], [WORDS]], ids=["alone", "with a ping", "with words"])
def test_json_that_is_no_object_is_never_free(event: bytes, beside: list[bytes]) -> None:
    without = counted_at_the_end(beside)
    bytes_ = len(event) - len(b"data: \n\n")
    for events in ([event, *beside], [*beside, event]):
        assert counted_at_the_end(events) >= max(without, -(-bytes_ // 4))
        assert counted_at_the_end(events) == counted_at_each_event(events)


def test_two_broken_halves_are_not_one_whole() -> None:
    """Joined by the comma of a list they would parse, as an object that says nothing."""
    bytes_ = sum(len(half) - len(b"data: \n\n") for half in HALVES)
    assert counted_at_the_end(HALVES) == counted_at_each_event(HALVES) == -(-bytes_ // 4)


def test_a_payload_that_closes_the_list_does_not_hide_what_follows() -> None:
    events = [b"data: {}],[\n\n", WORDS, b"data: {}\n\n"]
    assert counted_at_the_end(events) == counted_at_each_event(events)


@given(
    st.lists(
        st.sampled_from([*HALVES, *NO_OBJECTS.values(), WORDS, PING, b"data: {},{}\n\n", b"data: 1,2\n\n", b": c\n\n"])
    )
)
def test_any_mixture_counts_the_same_whenever_it_is_counted(events: list[bytes]) -> None:
    assert counted_at_the_end(events) == counted_at_each_event(events)
    together = relay()
    together.feed(b"".join(events))
    assert together.output_tokens_estimate() == counted_at_each_event(events)


def test_only_as_many_choices_as_were_asked_for_make_a_stream_complete() -> None:
    def finished(index: int) -> bytes:
        choice = {"index": index, "delta": {}, "finish_reason": "stop"}
        return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"

    two = SseRelay(Guard(2**20, lambda event: event), strip_usage=True, choices=2)
    two.feed(finished(0))
    assert not two.is_complete
    two.feed(finished(0))
    assert not two.is_complete
    two.feed(finished(1))
    assert two.is_complete


@pytest.mark.parametrize("index", [-1, 10**9])
def test_an_index_no_choice_can_have_is_not_remembered(index: int) -> None:
    one = relay()
    choice = {"index": index, "delta": {"content": "x"}, "finish_reason": "stop"}
    one.feed(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
    assert not one.is_complete
