"""Streams of responses: passed on byte for byte in any split, metered by their last event or by their words."""

from typing import Any

import orjson
import pytest

from gateway.catalog import Model, Price, ProviderRow
from gateway.errors import UpstreamError
from gateway.metering import Metered
from gateway.relay import Guard
from gateway.responses.measuring import MeasuredChat
from gateway.responses.relay import ResponsesRelay
from gateway.usage import Usage

PRICE = Price("1.x", input=1_000_000, cached_input=100_000, output=10_000_000)
MODEL = Model("big", "native", "big", frozenset({"responses"}), PRICE, context_tokens_max=1_000, output_tokens_max=100)
ROW = ProviderRow("native", "openai")
USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 8},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 25,
}
REPORTED = Usage(12, 8, text_output=3, reasoning=2)


def event(type: str, **fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (type.encode(), orjson.dumps({"type": type, **fields}))


def delta(text: str, type: str = "response.output_text.delta") -> bytes:
    return event(type, delta=text)


def ending(status: str = "completed", **fields: Any) -> bytes:
    return event(f"response.{status}", response={"id": "resp_1", "status": status, "usage": USAGE, **fields})


def relay(secret: bytes = b"") -> ResponsesRelay:
    guard = Guard(2**20, lambda data: data.replace(b"hunter2", b"[redacted]"), secret)
    return ResponsesRelay(guard, MeasuredChat({}, "big", 1, text_bytes=40), MODEL, ROW)


def through(*events: bytes) -> tuple[ResponsesRelay, bytes]:
    made = relay()
    return made, made.feed(b"".join(events)) + made.finish()


def metered(*events: bytes) -> Metered:
    made, _ = through(*events)
    return made.metered(is_partial=not made.is_complete)


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_the_last_event_is_held_back_with_its_usage_and_response(status: str) -> None:
    first, last = event("response.created", response={}) + delta("Hi"), ending(status)
    made, ready = through(first, last)
    assert (ready, made.held_back(), made.is_done, made.is_complete) == (first, last, True, True)
    assert made.response is not None
    assert made.response["status"] == status
    report = made.metered(is_partial=False)
    assert (report.usage, report.source) == (REPORTED, "provider")


def test_any_split_gives_the_same_bytes_and_usage() -> None:
    whole = event("response.created", response={}) + delta("Grüße ☃") + ending()
    expected, ready = through(whole)
    for cut in range(len(whole) + 1):
        made = relay()
        assert made.feed(whole[:cut]) + made.feed(whole[cut:]) + made.finish() == ready
        assert made.held_back() == expected.held_back()
        assert made.metered(is_partial=False) == expected.metered(is_partial=False)


def test_a_failed_response_is_an_error_that_is_charged_as_it_reports() -> None:
    made, _ = through(delta("Hi"), ending("failed"))
    assert (made.is_done, made.is_complete, made.has_error_event) == (True, False, True)
    assert made.metered(is_partial=True).usage == REPORTED


@pytest.mark.parametrize(
    "error",
    [
        pytest.param({"type": "error", "message": "key hunter2"}, id="named"),
        pytest.param({"error": {"message": "key hunter2"}}, id="in-the-shape-of-chat"),
    ],
)
def test_an_error_event_ends_the_stream_without_the_providers_secret(error: dict[str, Any]) -> None:
    made, ready = through(delta("Hi"), b"data: %s\n\n" % orjson.dumps(error))
    assert ready == delta("Hi")
    assert b"hunter2" not in made.held_back()
    assert b"[redacted]" in made.held_back()
    assert (made.has_error_event, made.is_complete) == (True, False)


def test_a_secret_is_redacted_wherever_it_is_quoted() -> None:
    made = relay(b"hunter2")
    assert b"hunter2" not in made.feed(delta("it is hunter2"))


@pytest.mark.parametrize(
    ("events", "tokens"),
    [
        pytest.param([delta("a"), delta("b"), delta("c")], 3, id="events-are-more"),
        pytest.param([delta("x" * 41)], 11, id="bytes-are-more"),
        pytest.param([delta("ü" * 4)], 2, id="bytes-are-those-of-utf8"),
        pytest.param([delta(""), delta("a")], 1, id="an-empty-delta-says-nothing"),
        pytest.param([delta("x" * 8, "response.reasoning_summary_text.delta")], 2, id="reasoning"),
        pytest.param([delta("x" * 8, "response.refusal.delta")], 2, id="refusal"),
        pytest.param(
            [
                event("response.output_item.added", item={"type": "function_call", "name": "find"}),
                delta("x" * 8, "response.function_call_arguments.delta"),
            ],
            3,
            id="a-call-with-its-name",
        ),
        pytest.param([delta("A" * 4_000, "response.audio.delta")], 1, id="sound-is-no-text"),
        pytest.param(
            [
                event(
                    "response.output_item.done",
                    item={"type": "message", "content": [{"type": "output_text", "text": "x" * 40}]},
                )
            ],
            10,
            id="an-item-without-deltas",
        ),
        pytest.param(
            [
                delta("x" * 40),
                event("response.output_text.done", text="x" * 40),
                event(
                    "response.output_item.done",
                    item={"type": "message", "content": [{"type": "output_text", "text": "x" * 40}]},
                ),
            ],
            10,
            id="an-item-with-deltas-counts-once",
        ),
        pytest.param([event("response.output_item.added", item=7), event("x.delta", delta={"a": 1})], 0, id="garbage"),
    ],
)
def test_a_broken_stream_is_charged_by_its_words(events: list[bytes], tokens: int) -> None:
    report = metered(event("response.created", response={}), *events)
    assert (report.usage, report.source) == (Usage(10, text_output=tokens), "estimated")


@pytest.mark.parametrize(
    "usage",
    [
        pytest.param({**USAGE, "output_tokens": -1}, id="negative"),
        pytest.param({**USAGE, "input_tokens": 20.5}, id="fractional"),
        pytest.param({**USAGE, "output_tokens": True}, id="boolean"),
        pytest.param({**USAGE, "total_tokens": 26}, id="a-total-that-is-none"),
        pytest.param({**USAGE, "input_tokens_details": {"cached_tokens": 21}}, id="a-part-above-its-whole"),
        pytest.param({"input_tokens": 1_001, "output_tokens": 5}, id="above-the-context"),
        pytest.param({"input_tokens": 20, "output_tokens": 101}, id="above-the-output"),
        pytest.param({"output_tokens": 5}, id="without-input"),
        pytest.param("lots", id="a-text"),
    ],
)
def test_usage_that_cannot_be_true_is_refused(usage: object) -> None:
    report = metered(delta("x" * 40), ending(usage=usage))
    assert (report.usage, report.source, report.flags) == (Usage(10, text_output=10), "estimated", ("usage_refused",))


def test_our_error_event_goes_on_counting_and_reads_either_way() -> None:
    made, _ = through(event("response.created", sequence_number=0), event("response.in_progress", sequence_number=1))
    told = made.error_event(UpstreamError("It died.", code="upstream_died"))
    assert told is not None
    assert told.startswith(b"event: error\ndata: ")
    said = orjson.loads(told.split(b"data: ")[1])
    assert {name: said[name] for name in ("type", "code", "message", "param", "sequence_number")} == {
        "type": "error",
        "code": "upstream_died",
        "message": "It died.",
        "param": None,
        "sequence_number": 2,
    }
    assert said["error"]["type"] == "upstream_error"


def test_a_sequence_number_that_is_none_is_not_gone_on_from() -> None:
    made, _ = through(event("response.created", sequence_number=2**60), event("x", sequence_number="9"))
    told = made.error_event(UpstreamError("It died."))
    assert told is not None
    assert orjson.loads(told.split(b"data: ")[1])["sequence_number"] == 0
