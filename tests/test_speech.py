"""A request to speak: what is refused, what it costs before and after, what the provider is sent, how sound is relayed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog import Model, Price, ProviderRow
from gateway.endpoints.speech import Speech
from gateway.errors import RequestError
from gateway.event_relay import ByteRelay
from gateway.metering import NOTHING
from gateway.model_request import ModelRequest
from gateway.pricing import UnpricedUsage, charged_price, cost_nano_usd
from gateway.relay import Guard, Relay
from gateway.speech import INPUT_CHARS_MAX, SpeechRequest, read_speech_request
from gateway.usage import Usage

ROW = ProviderRow("p", "openai")
GUARD = Guard(1 << 20, lambda data: data.replace(b"sk-secret", b"..."), b"sk-secret")


def model(price: Price, **fields: Any) -> Model:
    return Model("tts", "p", "upstream-tts", frozenset({"speech"}), price, **fields)


BY_CHARACTER = model(Price("1", character=15_000_000))  # 15 USD a million: 15 000 nano-dollars each
BY_TOKENS = model(Price("2", input=600_000, audio_output=12_000_000))  # 600 and 12 000 nano-dollars each
TEXT = "Grüße aus Köln!"  # 15 characters, 18 bytes


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "tts", "input": TEXT, "voice": "alloy", **fields}).encode()


def asked(**fields: Any) -> SpeechRequest:
    return read_speech_request(body(**fields))


def test_it_is_a_model_request() -> None:
    request: ModelRequest = asked()
    assert (request.endpoint, request.path, request.images) == ("speech", "/audio/speech", 0)
    assert request.serves(BY_CHARACTER)
    assert (Speech.path, Speech.endpoint) == ("/v1/audio/speech", "speech")
    assert Speech.read_request(body()) == asked()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"model": None}, "model", id="no model"),
        pytest.param({"input": None}, "input", id="no input"),
        pytest.param({"input": ""}, "input", id="an empty input"),
        pytest.param({"input": ["a"]}, "input", id="an input that is a list"),
        pytest.param({"input": "ä" * (INPUT_CHARS_MAX + 1)}, "input", id="a long input"),
        pytest.param({"voice": 5}, "voice", id="a voice that is a number"),
        pytest.param({"voice": ""}, "voice", id="an empty voice"),
        pytest.param({"instructions": 5}, "instructions", id="instructions that are a number"),
        pytest.param({"instructions": "x" * 16_385}, "instructions", id="long instructions"),
        pytest.param({"speed": 0.2}, "speed", id="too slow"),
        pytest.param({"speed": 4.1}, "speed", id="too fast"),
        pytest.param({"speed": True}, "speed", id="a speed that is a flag"),
        pytest.param({"speed": "1"}, "speed", id="a speed that is a text"),
        pytest.param({"response_format": "midi"}, "response_format", id="another format"),
        pytest.param({"stream_format": "ndjson"}, "stream_format", id="another stream"),
        pytest.param({"service_tier": "priority"}, "service_tier", id="a dear tier"),
        pytest.param({"api_base": "http://127.0.0.1"}, "api_base", id="a host of the caller's choice"),
    ],
)
def test_what_cannot_be_meant_or_priced_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        asked(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_the_longest_input_is_counted_in_characters_not_bytes() -> None:
    assert asked(input="😀" * INPUT_CHARS_MAX).characters == INPUT_CHARS_MAX


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'"text"'])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError):
        read_speech_request(raw)


def test_characters_cost_the_same_before_and_after() -> None:
    request = asked(instructions="Slowly, please.", speed=0.25)
    cost = 15 * 15_000
    assert request.worst_case(BY_CHARACTER, BY_CHARACTER.price) == cost
    assert request.estimate(BY_CHARACTER, BY_CHARACTER.price) == (cost, None, cost, 9)
    metered = request.meter_unanswered(BY_CHARACTER)
    assert metered == (Usage(pieces=15), "provider", cost, (), "characters", 0, True)
    assert request.unfinished_usage(BY_CHARACTER) == Usage(pieces=15)
    assert request.variant(BY_CHARACTER) == "characters"


def test_tokens_are_held_by_the_bytes_and_booked_by_the_written_rule() -> None:
    request = asked()
    # 18 bytes: 18 + 32 tokens in, 18 x 8 out and three seconds of nothing.
    assert request.worst_case(BY_TOKENS, BY_TOKENS.price) == 50 * 600 + (144 + 64) * 12_000
    told = asked(instructions="Slowly.")
    assert told.worst_case(BY_TOKENS, BY_TOKENS.price) >= 50 * 600 + (144 + 64 + 1_200) * 12_000
    # ceil(18 / 4) = 5 in, ceil(18 x 4 / 3) = 24 out.
    usage = Usage(5, audio_output=24, pieces=15)
    metered = request.meter_unanswered(BY_TOKENS)
    assert metered == (usage, "estimated", 5 * 600 + 24 * 12_000, (), "characters", 0, True)
    estimate = request.estimate(BY_TOKENS, BY_TOKENS.price)
    assert (estimate.smallest, estimate.expected, estimate.tokens) == (None, 5 * 600 + 24 * 12_000, 29)


def test_slow_speech_is_held_for_longer_and_never_above_the_models_cap() -> None:
    slow = asked(speed=0.5)
    assert slow.worst_case(BY_TOKENS, BY_TOKENS.price) == 50 * 600 + (4 * 144 + 64) * 12_000
    capped = model(BY_TOKENS.price, output_tokens_max=20, context_tokens_max=30)
    assert slow.worst_case(capped, capped.price) == 30 * 600 + 20 * 12_000
    assert slow.meter_unanswered(capped).usage.audio_output == 20


def test_instructions_and_unknown_fields_count_as_input_labels_do_not() -> None:
    more = asked(instructions="abcd", hint="xy", user="somebody", metadata={"a": "b"})
    assert more.text_bytes == 18 + 4 + len('"xy"')
    assert (more.characters, more.input_bytes) == (15, 18)


@pytest.mark.parametrize("price", [Price("0"), Price("0", input=1), Price("0", audio_output=1), Price("0", output=1)])
def test_without_a_price_it_is_refused(price: Price) -> None:
    with pytest.raises(UnpricedUsage):
        asked().worst_case(model(price), price)
    assert not asked().fits(model(price))


def test_a_context_too_small_does_not_fit() -> None:
    assert asked().fits(BY_CHARACTER)
    assert not asked().fits(model(BY_TOKENS.price, context_tokens_max=4))
    assert asked().fits(model(BY_TOKENS.price, context_tokens_max=5))


def test_a_creator_may_owe_characters_for_what_costs_tokens() -> None:
    own = charged_price(BY_TOKENS, {"character": 30_000_000})
    request = asked()
    assert request.worst_case(BY_TOKENS, own) == 15 * 30_000
    metered = request.meter_report({"input_tokens": 5, "output_tokens": 90}, BY_TOKENS)
    assert cost_nano_usd(metered.usage, own, metered.variant) == 15 * 30_000


def test_the_provider_gets_everything_but_our_labels_and_what_it_refuses() -> None:
    request = asked(stream_format="sse", user="u", metadata={"a": "b"}, hint="x", speed=1.5)
    outgoing = request.outgoing(BY_CHARACTER, ProviderRow("p", "openai", drop_fields=frozenset({"hint"})))
    assert json.loads(outgoing.body) == {
        "model": "upstream-tts",
        "input": TEXT,
        "voice": "alloy",
        "stream_format": "sse",
        "speed": 1.5,
    }
    assert (outgoing.path, outgoing.content_type, outgoing.is_streaming) == ("/audio/speech", "application/json", True)
    assert not asked().outgoing(BY_CHARACTER, ROW).is_streaming


# Answers


def relayed(content_type: str, request: SpeechRequest | None = None, to: Model = BY_CHARACTER) -> Relay | None:
    return (request or asked()).relay(content_type, to, ROW, GUARD)


@pytest.mark.parametrize(
    "content_type", ["audio/mpeg", "audio/wav", "audio/x-wav; rate=24000", "application/octet-stream", "audio/vnd.a+b"]
)
def test_sound_is_passed_on_as_it_comes(content_type: str) -> None:
    relay = relayed(content_type)
    assert isinstance(relay, ByteRelay)
    assert dict(relay.head) == {b"content-type": content_type.encode()}
    assert relay.feed(b"ID3") == b""
    assert relay.feed(b"more") == b"ID3"
    assert not relay.is_complete
    assert relay.finish() == b""
    assert (relay.is_complete, relay.held_back()) == (True, b"more")
    assert relay.metered(is_partial=False).cost_nano_usd == 15 * 15_000
    assert relay.error_event(RequestError("x")) is None


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "application/json", "", "audio/", "audio/x\r\nset-cookie: a", "image/svg+xml", "audio/<script>"],
)
def test_what_is_no_sound_is_no_answer(content_type: str) -> None:
    assert relayed(content_type) is None
    request: ModelRequest = asked()
    assert request.meter({"audio": "x"}, BY_CHARACTER, ROW) is None
    assert request.meter_other(b"<html>", content_type, BY_CHARACTER) is None


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_bytes_arrive_whole_and_in_order_the_last_ones_held_back(chunks: list[bytes]) -> None:
    relay = relayed("audio/mpeg")
    assert relay is not None
    passed = b"".join(map(relay.feed, chunks)) + relay.finish()
    assert passed + relay.held_back() == b"".join(chunks)
    assert relay.held_back() == (chunks[-1] if chunks else b"")


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)


DELTA = {"type": "speech.audio.delta", "audio": "SUQz"}
REPORT = {"input_tokens": 9, "output_tokens": 40, "total_tokens": 49}
DONE = {"type": "speech.audio.done", "usage": REPORT}


@given(st.lists(st.integers(0, 200), max_size=6))
def test_events_are_relayed_alike_in_any_pieces_and_metered_by_their_report(cuts: list[int]) -> None:
    stream = sse(DELTA, DELTA, DONE)
    at = sorted(min(cut, len(stream)) for cut in cuts)
    relay = relayed("text/event-stream; charset=utf-8", asked(stream_format="sse"), BY_TOKENS)
    assert relay is not None
    passed = b"".join(relay.feed(stream[a:b]) for a, b in zip([0, *at], [*at, len(stream)], strict=True))
    passed += relay.finish()
    assert passed == sse(DELTA, DELTA)
    assert relay.held_back() == sse(DONE)
    assert relay.is_complete
    metered = relay.metered(is_partial=False)
    # 9 x 600 + 40 x 12 000
    assert metered[:4] == (Usage(9, audio_output=40, pieces=15), "provider", 485_400, ())


@pytest.mark.parametrize(
    "report",
    [
        {"input_tokens": -1, "output_tokens": 4},
        {"input_tokens": 9, "output_tokens": 209},
        {"input_tokens": 51, "output_tokens": 4},
        {"input_tokens": 9, "output_tokens": 0},
        {"input_tokens": 9},
        "many",
    ],
)
def test_a_report_that_cannot_be_true_is_flagged_and_the_rule_counts(report: object) -> None:
    metered = asked().meter_report(report, BY_TOKENS)
    assert metered.flags == ("usage_refused",)
    assert metered._replace(flags=()) == asked().meter_unanswered(BY_TOKENS)


def test_without_a_report_the_rule_counts_and_nothing_is_flagged() -> None:
    relay = relayed("text/event-stream", to=BY_TOKENS)
    assert relay is not None
    relay.feed(sse(DELTA, {"type": "speech.audio.done"}))
    assert relay.metered(is_partial=False) == asked().meter_unanswered(BY_TOKENS)


def test_characters_are_owed_whatever_tokens_are_reported() -> None:
    assert asked().meter_report(REPORT, BY_CHARACTER).cost_nano_usd == 15 * 15_000


def test_a_stream_that_breaks_owes_what_was_asked_for() -> None:
    relay = relayed("text/event-stream", to=BY_TOKENS)
    assert relay is not None
    assert relay.feed(sse(DELTA)) == sse(DELTA)
    assert not relay.is_complete
    assert relay.metered(is_partial=True) == asked().meter_unanswered(BY_TOKENS)


ERROR = {"type": "error", "error": {"message": "with sk-secret"}}


def test_an_error_event_is_passed_on_without_secrets_and_costs_nothing_before_any_sound() -> None:
    relay = relayed("text/event-stream", to=BY_TOKENS)
    assert relay is not None
    assert b"sk-secret" not in relay.feed(sse(ERROR))
    assert (relay.has_error_event, relay.is_complete) == (True, False)
    assert relay.metered(is_partial=True) == NOTHING


def test_an_error_event_after_sound_owes_what_was_asked_for() -> None:
    relay = relayed("text/event-stream")
    assert relay is not None
    relay.feed(sse(DELTA, ERROR))
    assert relay.metered(is_partial=True).cost_nano_usd == 15 * 15_000


@given(st.integers(1, 4_096), st.sampled_from("aß語😀"), st.sampled_from([0.25, 1, 4]), st.booleans())
def test_what_is_booked_is_never_above_what_was_held(count: int, char: str, speed: float, is_by_tokens: bool) -> None:
    to = BY_TOKENS if is_by_tokens else BY_CHARACTER
    request = asked(input=char * count, speed=speed)
    held = request.worst_case(to, to.price)
    assert request.meter_unanswered(to).cost_nano_usd <= held
    most = {"input_tokens": request.text_bytes, "output_tokens": request.input_bytes * 8}
    metered = request.meter_report(most, to)
    assert (metered.cost_nano_usd <= held, metered.flags) == (True, ())
