"""Images as events: the provider's own bytes, the image itself held back until it is booked, and what each ending costs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.catalog import Model, Price, ProviderRow
from gateway.errors import UpstreamError
from gateway.images import ImageRequest, read_image_request
from gateway.relay import EventTooLarge, Guard
from gateway.usage import Usage

ROW = ProviderRow("p", "openai")
INPUT, OUTPUT = 5_000, 30_000  # nano-dollars a token of BY_TOKENS
BY_TOKENS = Model(
    "tokens",
    "p",
    "upstream-tokens",
    frozenset({"images"}),
    Price("1", input=INPUT * 1_000, image_input=8_000_000, image_output=OUTPUT * 1_000),
    image_output_tokens_max=1_000,
)
CENT = 10**7  # nano-dollars
BY_IMAGE = replace(BY_TOKENS, name="images", price=Price("2", images={"*/*": 4 * CENT * 1_000}))
GUARD = Guard(100_000, lambda data: data.replace(b"KEY", b"***"), b"SECRET")
USAGE = {
    "input_tokens": 4,
    "output_tokens": 472,
    "total_tokens": 476,
    "input_tokens_details": {"text_tokens": 4, "image_tokens": 0},
}


def asked(model: Model = BY_TOKENS, **fields: Any) -> ImageRequest:
    body = {"model": model.name, "prompt": "A red fox", "stream": True, "partial_images": 2, **fields}
    return read_image_request(json.dumps(body).encode())


def event(type: str, **fields: Any) -> bytes:
    return f"event: {type}\ndata: {json.dumps({'type': type, **fields})}\n\n".encode()


def partial(index: int, kind: str = "image_generation") -> bytes:
    return event(f"{kind}.partial_image", b64_json="iVBORw0K", partial_image_index=index, size="1024x1024")


def completed(kind: str = "image_generation", **fields: Any) -> bytes:
    return event(f"{kind}.completed", **{"b64_json": "iVBORw0KGgo=", "usage": USAGE, **fields})


DRAWN = partial(0) + partial(1)
STREAMS = {
    "whole": DRAWN + completed(),
    "an edit": partial(0, "image_edit") + completed("image_edit"),
    "no partial ones": completed(),
    "with an end": DRAWN + completed() + b"data: [DONE]\n\n",
    "comments": b": ping\n\n" + DRAWN + b": ping\n\n" + completed(),
    "crlf": (DRAWN + completed()).replace(b"\n", b"\r\n"),
    "no last blank line": DRAWN + completed()[:-2],
    "no report": DRAWN + completed(usage=None),
    "a report that cannot be": DRAWN + completed(usage={**USAGE, "output_tokens": -1}),
    "broken": DRAWN,
    "cut in an event": DRAWN[:-9],
    "an error": partial(0) + event("error", error={"message": "KEY was wrong", "code": "moderation_blocked"}),
    "a secret": event("note", text="SECRET KEY") + completed(),
    "unknown events": event("image_generation.queued") + event("other.completed") + completed(),
    "no JSON": b"data: <html>\n\n" + completed(),
    "hostile": b'data: {"type": 5}\n\ndata: [1]\n\ndata: {"type": "image_generation.completed", "b64_json": 5}\n\n',
    "empty": b"",
}


class Relayed:
    """All that a relay says of a stream cut into `parts`."""

    def __init__(self, parts: Iterable[bytes], model: Model = BY_TOKENS, **fields: Any) -> None:
        relay = asked(model, **fields).relay("text/event-stream", model, ROW, GUARD)
        assert relay is not None
        self.sent = b"".join(relay.feed(part) for part in parts)
        self.sent += relay.finish()
        self.held = relay.held_back()
        self.is_complete = relay.is_complete
        self.has_error_event = relay.has_error_event
        self.metered = relay.metered(is_partial=not relay.is_complete)

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == getattr(other, "__dict__", None)

    __hash__ = None  # type: ignore[assignment]


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *sorted(at), len(data)])]


@pytest.mark.parametrize("stream", [pytest.param(stream, id=name) for name, stream in STREAMS.items()])
def test_every_split_gives_the_same_bytes_and_the_same_cost(stream: bytes) -> None:
    whole = Relayed([stream])
    for at in range(1, len(stream)):
        assert Relayed(cut(stream, [at])) == whole


@settings(max_examples=50)
@given(st.sampled_from(sorted(STREAMS)), st.data())
def test_any_number_of_splits_gives_the_same(name: str, data: st.DataObject) -> None:
    stream = STREAMS[name]
    at = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    assert Relayed(cut(stream, at)) == Relayed([stream])


def test_the_image_itself_waits_for_the_settle_with_all_that_follows() -> None:
    relayed = Relayed([STREAMS["with an end"]])
    assert (relayed.sent, relayed.held) == (DRAWN, completed() + b"data: [DONE]\n\n")
    assert relayed.is_complete


def test_by_tokens_the_report_on_the_image_counts() -> None:
    found = Relayed([STREAMS["whole"]]).metered
    assert found.usage == Usage(uncached_input=4, image_output=472, pieces=1)
    assert (found.source, found.cost_nano_usd) == ("provider", 4 * INPUT + 472 * OUTPUT)
    assert (found.images, found.flags) == (1, ())
    assert Relayed([STREAMS["an edit"]]).metered == found


@pytest.mark.parametrize(("name", "flags"), [("no report", ()), ("a report that cannot be", ("usage_refused",))])
def test_without_a_report_that_can_be_true_the_image_and_its_partial_ones_count(
    name: str, flags: tuple[str, ...]
) -> None:
    found = Relayed([STREAMS[name]]).metered
    assert found.usage == Usage(uncached_input=3, image_output=1_000 + 200, pieces=1)
    assert (found.source, found.cost_nano_usd, found.flags) == ("estimated", 3 * INPUT + 1_200 * OUTPUT, flags)


def test_a_broken_stream_costs_all_that_was_asked_for_and_takes_no_credits() -> None:
    relayed = Relayed([STREAMS["broken"]])
    assert not relayed.is_complete
    found = relayed.metered
    assert (found.cost_nano_usd, found.source, found.images) == (3 * INPUT + 1_200 * OUTPUT, "estimated", 0)
    by_image = Relayed([STREAMS["broken"]], BY_IMAGE).metered
    assert (by_image.cost_nano_usd, by_image.images) == (4 * CENT, 0)


def test_an_error_of_the_provider_costs_what_came_before_it_and_is_passed_on_without_secrets() -> None:
    relayed = Relayed([STREAMS["an error"]])
    assert (relayed.is_complete, relayed.has_error_event) == (False, True)
    assert b"*** was wrong" in relayed.sent
    assert relayed.metered.cost_nano_usd == 3 * INPUT + 100 * OUTPUT
    assert Relayed([STREAMS["an error"]], BY_IMAGE).metered.cost_nano_usd == 0


def test_a_provider_key_in_any_event_is_passed_through_the_guard() -> None:
    assert b"KEY" not in Relayed([STREAMS["a secret"]]).sent


def test_by_the_image_the_image_counts_and_no_partial_ones_are_asked_for() -> None:
    found = Relayed([STREAMS["no partial ones"]], BY_IMAGE).metered
    assert (found.usage, found.cost_nano_usd, found.images) == (Usage(pieces=1), 4 * CENT, 1)
    outgoing = asked(BY_IMAGE).outgoing(BY_IMAGE, ROW)
    assert json.loads(outgoing.body)["partial_images"] == 0
    assert outgoing.is_streaming
    assert json.loads(asked().outgoing(BY_TOKENS, ROW).body)["partial_images"] == 2


def test_an_end_without_an_image_costs_nothing_by_the_image() -> None:
    relayed = Relayed([completed(b64_json=None)], BY_IMAGE)
    assert relayed.is_complete
    assert (relayed.metered.cost_nano_usd, relayed.metered.images) == (0, 0)


def test_more_images_than_asked_for_are_counted_and_flagged() -> None:
    found = Relayed([completed() + completed()], BY_IMAGE).metered
    assert (found.images, found.cost_nano_usd, found.flags) == (2, 8 * CENT, ("more_images",))


@pytest.mark.parametrize(("count", "most"), [(0, 1_000), (1, 1_100), (3, 1_300)])
def test_partial_images_are_held(count: int, most: int) -> None:
    request = asked(partial_images=count)
    held = request.worst_case(BY_TOKENS, BY_TOKENS.price)
    assert held == (9 + 32) * 8_000 + most * OUTPUT, "at the dearest rate of input"
    assert request.unfinished_usage(BY_TOKENS).image_output == most
    whole = asked(partial_images=count, stream=False)
    assert whole.unfinished_usage(BY_TOKENS).image_output == 1_000, "none come where nothing is streamed"


@given(st.integers(0, 3), st.data())
def test_nothing_a_model_can_report_within_its_bounds_is_above_what_is_held(count: int, data: st.DataObject) -> None:
    request = asked(partial_images=count)
    read, made = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 1_000 + 100 * count))
    usage = {"input_tokens": read, "output_tokens": made, "total_tokens": read + made}
    found = Relayed([completed(usage=usage)], partial_images=count).metered
    assert found.source == "provider"
    assert found.cost_nano_usd <= request.worst_case(BY_TOKENS, BY_TOKENS.price)


def test_an_event_above_the_bound_stops_it() -> None:
    relay = asked().relay("text/event-stream", BY_TOKENS, ROW, GUARD)
    assert relay is not None
    with pytest.raises(EventTooLarge):
        relay.feed(b"data: " + b"x" * 100_001)


def test_an_error_in_the_middle_is_told_as_an_event() -> None:
    relay = asked().relay("text/event-stream", BY_TOKENS, ROW, GUARD)
    assert relay is not None
    told = relay.error_event(UpstreamError("It broke."))
    assert told is not None
    assert json.loads(told.removeprefix(b"data: "))["error"]["message"] == "It broke."


def test_what_is_no_stream_is_read_whole() -> None:
    assert asked().relay("application/json", BY_TOKENS, ROW, GUARD) is None
