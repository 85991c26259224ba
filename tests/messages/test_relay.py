"""Message events on their way through: the provider's bytes, the end held back, and what they cost however they end."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.messages.from_chat import FromChat
from gateway.metering import Metered
from gateway.relay import EventTooLarge, Guard, Relay
from gateway.usage import Usage
from tests.messages.wire import BRIDGED, DONE, GUARD, NATIVE, ROW, accumulated_by_sdk, call_part, chunk, request

SSE = "text/event-stream; charset=utf-8"


def event(type: str, **fields: Any) -> bytes:
    return f"event: {type}\ndata: {json.dumps({'type': type, **fields})}\n\n".encode()


def started(**usage: Any) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
    return event("message_start", message={**message, "stop_reason": None, "usage": {"output_tokens": 1, **usage}})


START = started(input_tokens=700, cache_read_input_tokens=1_000, cache_creation_input_tokens=300)
PING = event("ping")
OPEN = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
HELLO = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello \u00fc"})
CLOSE = event("content_block_stop", index=0)
DELTA = event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 90})
STOP = event("message_stop")
NATIVE_STREAM = (START, PING, OPEN, HELLO, CLOSE, DELTA, STOP)
COST = 700 * 3_000 + 1_000 * 300 + 300 * 3_750 + 90 * 15_000


def native_relay(guard: Guard = GUARD) -> Relay:
    relay = request(stream=True).relay(SSE, NATIVE, ROW, guard)
    assert relay is not None
    return relay


def fed(*pieces: bytes) -> tuple[bytes, Relay]:
    relay = native_relay()
    told = b"".join(relay.feed(piece) for piece in pieces)
    return told + relay.finish(), relay


def test_only_an_event_stream_is_relayed_while_it_comes() -> None:
    assert request().relay("application/json", NATIVE, ROW, GUARD) is None


def test_the_providers_bytes_pass_and_the_end_waits_for_the_settle() -> None:
    told, relay = fed(*NATIVE_STREAM)
    assert told == b"".join(NATIVE_STREAM[:-1])
    assert relay.held_back() == STOP
    assert (relay.is_done, relay.is_complete, relay.has_error_event) == (True, True, False)
    metered = relay.metered(is_partial=False)
    assert metered == Metered(Usage(700, 1_000, 300, text_output=90), "provider", COST)
    assert accumulated_by_sdk(told + relay.held_back()).usage.output_tokens == 90


def test_a_stream_cut_at_any_byte_passes_and_costs_the_same() -> None:
    stream = b"".join(NATIVE_STREAM)
    for cut in range(1, len(stream)):
        told, relay = fed(stream[:cut], stream[cut:])
        assert (told + relay.held_back(), relay.held_back()) == (stream, STOP)
        assert relay.metered(is_partial=False).cost_nano_usd == COST


@given(st.data())
def test_any_split_passes_and_costs_the_same(data: st.DataObject) -> None:
    stream = b"".join(NATIVE_STREAM).replace(b"\n", data.draw(st.sampled_from([b"\n", b"\r\n"])))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    told, relay = fed(*(stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)))
    assert told + relay.held_back() == stream
    assert relay.metered(is_partial=False).cost_nano_usd == COST


def test_later_figures_replace_earlier_ones_and_null_replaces_nothing() -> None:
    more = event(
        "message_delta",
        delta={},
        usage={"input_tokens": 800, "cache_read_input_tokens": None, "output_tokens": 95},
    )
    _, relay = fed(START, OPEN, HELLO, CLOSE, DELTA, more, STOP)
    assert relay.metered(is_partial=False).usage == Usage(800, 1_000, 300, text_output=95)


def test_a_broken_stream_costs_its_input_and_the_words_that_were_relayed() -> None:
    """28 bytes of words in two events: seven tokens; the start said one."""
    words = event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "x" * 20})
    told, relay = fed(START, OPEN, HELLO, words)
    assert not relay.is_complete
    metered = relay.metered(is_partial=True)
    assert (metered.source, metered.usage) == ("provider_partial", Usage(700, 1_000, 300, text_output=7))
    assert b"message_stop" not in told


def test_many_small_deltas_count_at_least_a_token_each() -> None:
    small = event("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": "{"})
    tool = event(
        "content_block_start", index=0, content_block={"type": "tool_use", "id": "t", "name": "f", "input": {}}
    )
    signed = event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "abc"})
    _, relay = fed(START, tool, *[small] * 9, signed)
    assert relay.metered(is_partial=True).usage.text_output == 11


def test_a_stream_that_never_reported_its_output_costs_its_words() -> None:
    _, relay = fed(START, OPEN, HELLO, CLOSE, STOP)
    assert relay.metered(is_partial=False).usage == Usage(700, 1_000, 300, text_output=2)


@pytest.mark.parametrize(
    "first",
    [b"", started(), started(input_tokens=0), started(input_tokens=-4), started(input_tokens=10**9)],
    ids=["no start", "no input", "zero", "negative", "above the context"],
)
def test_without_a_credible_input_the_estimate_is_charged(first: bytes) -> None:
    _, relay = fed(first, OPEN, HELLO)
    metered = relay.metered(is_partial=True)
    assert (metered.source, metered.usage) == ("estimated", Usage(1, text_output=2))


@pytest.mark.parametrize("tokens", ["-1", "1.5", '"9"', "true", "1e400", "NaN", "8193", "[]"])
def test_hostile_output_figures_are_never_charged(tokens: str) -> None:
    delta = b'event: message_delta\ndata: {"type":"message_delta","delta":{},"usage":{"output_tokens":%b}}\n\n'
    _, relay = fed(START, OPEN, HELLO, CLOSE, delta % tokens.encode(), STOP)
    metered = relay.metered(is_partial=False)
    assert metered.usage.output_tokens == 2


@pytest.mark.parametrize(
    "data",
    [b"data: 5\n\n", b"data: []\n\n", b"data: {}\n\n", b'data: {"type":7}\n\n', b"data: {x\n\n", b": hi\n\n"]
    + [
        b'data: {"type":"%b"%b}\n\n' % (kind, fields)
        for kind in (b"message_start", b"message_delta", b"content_block_start", b"content_block_delta")
        for fields in (b"", b',"message":5,"usage":[],"delta":"x","content_block":1', b',"delta":{"text":5},"usage":7')
    ],
)
def test_whatever_stands_in_an_event_it_passes(data: bytes) -> None:
    told, relay = fed(START, data, HELLO, DELTA, STOP)
    assert data in told
    assert relay.metered(is_partial=False).cost_nano_usd == COST


def test_an_error_of_the_provider_ends_the_stream_without_its_secrets() -> None:
    error = event("error", error={"type": "overloaded_error", "message": "key hush is tired"})
    told, relay = fed(START, OPEN, HELLO, error)
    assert (relay.is_done, relay.is_complete, relay.has_error_event) == (True, False, True)
    assert b"hush" not in told + relay.held_back()
    assert b"overloaded_error" in relay.held_back()


def test_the_provider_key_passes_in_no_event() -> None:
    told, _ = fed(START, HELLO.replace(b"Hello", b"hush!"))
    assert b"hush" not in told


def test_an_event_above_the_bound_is_refused() -> None:
    with pytest.raises(EventTooLarge):
        native_relay(GUARD._replace(event_bytes_max=100)).feed(b"data: " + b"x" * 200)


def test_an_error_of_our_own_is_an_event_of_the_same_kind() -> None:
    told = native_relay().error_event(UpstreamError("The provider died.", code="upstream_died"))
    assert told is not None
    name, data, *_ = told.decode().split("\n")
    assert name == "event: error"
    said = json.loads(data.removeprefix("data: "))
    assert (said["type"], said["error"]["type"]) == ("error", "api_error")


# Bridged

USAGE = {
    "prompt_tokens": 2_000,
    "completion_tokens": 90,
    "total_tokens": 2_090,
    "prompt_tokens_details": {"cached_tokens": 1_000, "cache_write_tokens": 300},
}
CHAT_STREAM = (chunk({"content": "Hello"}), chunk({}, "stop"), chunk(usage=USAGE), DONE)


def bridged(*chunks: bytes, **fields: Any) -> tuple[bytes, Relay]:
    """What the client is told, the end not yet among it."""
    asked = request(stream=True, **fields)
    translator = asked.translator(BRIDGED)
    relay = asked.relay(SSE, BRIDGED, ROW, GUARD)
    assert isinstance(translator, FromChat)
    assert relay is not None
    told = b"".join(relay.feed(translator.feed(one)) for one in chunks)
    told += relay.feed(translator.finish())
    return told + relay.finish(), relay


def test_a_bridged_stream_costs_to_the_nano_dollar_what_the_native_one_does() -> None:
    told, relay = bridged(*CHAT_STREAM)
    assert (relay.is_complete, relay.held_back()) == (True, b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert relay.metered(is_partial=False) == fed(*NATIVE_STREAM)[1].metered(is_partial=False)
    assert accumulated_by_sdk(told + relay.held_back()).content[0].text == "Hello"


def test_usage_that_comes_after_the_end_is_charged_all_the_same() -> None:
    _, relay = bridged(*CHAT_STREAM[:2], DONE, chunk(usage=USAGE))
    assert relay.metered(is_partial=False).cost_nano_usd == COST


def test_a_bridged_stream_that_breaks_off_is_charged_by_the_chats_rule() -> None:
    told, relay = bridged(chunk({"content": "Hello"}), chunk(call_part(0, id="c", name="f", arguments="{")))
    assert not relay.is_complete
    metered = relay.metered(is_partial=True)
    assert (metered.source, metered.usage) == ("estimated", Usage(1, text_output=2))
    assert b"message_stop" not in told + relay.held_back()


def test_thinking_that_nobody_is_shown_is_charged() -> None:
    _, relay = bridged(chunk({"reasoning_content": "x" * 400}))
    assert relay.metered(is_partial=True).usage.output_tokens == 100


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": 5}, {"completion_tokens": "7"}]
)
def test_hostile_usage_of_a_bridged_stream_is_estimated_and_flagged(usage: dict[str, Any]) -> None:
    _, relay = bridged(chunk({"content": "Hello"}), chunk({}, "stop"), chunk(usage=usage), DONE)
    metered = relay.metered(is_partial=False)
    assert (metered.flags, metered.usage) == (("usage_refused",), Usage(1, text_output=2))


def test_an_error_in_a_bridged_stream_is_told_without_secrets() -> None:
    told, relay = bridged(chunk({"content": "Hello"}), b'data: {"error":{"message":"hush failed"}}\n\n')
    assert (relay.has_error_event, relay.is_complete) == (True, False)
    assert b"hush" not in told + relay.held_back()
    assert b"event: error" in relay.held_back()


def test_another_attempt_on_a_native_model_is_metered_natively() -> None:
    asked = request(stream=True)
    assert asked.translator(BRIDGED) is not None
    assert asked.translator(NATIVE) is None
    relay = asked.relay(SSE, NATIVE, ROW, GUARD)
    assert relay is not None
    for one in NATIVE_STREAM:
        relay.feed(one)
    assert relay.metered(is_partial=False).cost_nano_usd == COST
