"""Anthropic's usage in buckets and money: what is believed, what is refused, and the same cost natively and bridged."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.messages.from_chat import FromChat
from gateway.messages.metering import from_messages, is_beyond_price
from gateway.usage import Usage
from tests.messages.wire import BRIDGED, NATIVE, ROW, request

CAPS: dict[str, Any] = {"context_tokens_max": 200_000, "output_tokens_max": 8_192}
MESSAGE = {"type": "message", "content": [{"type": "text", "text": "Hello"}]}


@pytest.mark.parametrize(
    ("usage", "buckets"),
    [
        pytest.param({"input_tokens": 10, "output_tokens": 5}, Usage(10, text_output=5), id="plain"),
        pytest.param({"input_tokens": 0, "output_tokens": 0}, Usage(), id="zeros are zeros"),
        pytest.param(
            {
                "input_tokens": 10,
                "cache_read_input_tokens": 1_000,
                "cache_creation_input_tokens": 200,
                "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 0},
                "output_tokens": 50,
                "output_tokens_details": {"thinking_tokens": 30},
                "service_tier": "standard",
                "server_tool_use": None,
            },
            Usage(10, 1_000, 200, text_output=20, reasoning=30),
            id="everything",
        ),
        pytest.param(
            {
                "input_tokens": 1,
                "output_tokens": 1,
                "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3},
            },
            Usage(1, cache_write=5, text_output=1),
            id="both lifetimes of a cache write are one bucket",
        ),
        pytest.param(
            {"input_tokens": 1, "output_tokens": 1, "cache_read_input_tokens": None, "cache_creation": None},
            Usage(1, text_output=1),
            id="null is nothing",
        ),
    ],
)
def test_usage_lands_in_disjoint_buckets(usage: dict[str, Any], buckets: Usage) -> None:
    assert from_messages(usage, **CAPS) == buckets


HOSTILE = [
    pytest.param(None, id="null"),
    pytest.param([], id="a list"),
    pytest.param({}, id="empty"),
    pytest.param({"input_tokens": 1}, id="no output"),
    pytest.param({"output_tokens": 1}, id="no input"),
    *(
        pytest.param({"input_tokens": 1, "output_tokens": 1, name: value}, id=f"{name} {value!r}")
        for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        for value in (-1, 1.0, 0.5, "7", True, [1], {"n": 1}, 2**70)
    ),
    pytest.param({"input_tokens": 200_001, "output_tokens": 1}, id="above the context"),
    pytest.param({"input_tokens": 1, "output_tokens": 8_193}, id="above the output cap"),
    pytest.param({"input_tokens": 199_999, "cache_read_input_tokens": 2, "output_tokens": 1}, id="together above it"),
    pytest.param(
        {"input_tokens": 1, "output_tokens": 1, "output_tokens_details": {"thinking_tokens": 2}}, id="part above whole"
    ),
    pytest.param(
        {
            "input_tokens": 1,
            "output_tokens": 1,
            "cache_creation_input_tokens": 1,
            "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 1},
        },
        id="lifetimes above the whole",
    ),
    pytest.param({"input_tokens": 1, "output_tokens": 1, "output_tokens_details": []}, id="details are a list"),
    pytest.param({"input_tokens": 1, "output_tokens": 1, "cache_creation": "x"}, id="lifetimes are text"),
]


@pytest.mark.parametrize("usage", HOSTILE)
def test_numbers_nobody_could_mean_are_refused(usage: object) -> None:
    assert from_messages(usage, **CAPS) is None


@pytest.mark.parametrize("usage", [case for case in HOSTILE if case.id != "null"])
def test_a_refused_report_is_estimated_and_flagged(usage: object) -> None:
    metered = request().meter({**MESSAGE, "usage": usage}, NATIVE, ROW)
    assert metered is not None
    assert (metered.source, metered.flags) == ("estimated", ("usage_refused",))
    # "Hi" and "Hello": one token and two, at three and fifteen dollars a million.
    assert (metered.usage, metered.cost_nano_usd) == (Usage(1, text_output=2), 33_000)


def test_no_report_is_estimated_without_a_flag() -> None:
    metered = request().meter(MESSAGE, NATIVE, ROW)
    assert metered is not None
    assert (metered.source, metered.flags, metered.cost_nano_usd) == ("estimated", (), 33_000)


def test_zeros_for_an_answer_with_words_are_no_report() -> None:
    metered = request().meter({**MESSAGE, "usage": {"input_tokens": 0, "output_tokens": 0}}, NATIVE, ROW)
    assert metered is not None
    assert (metered.source, metered.cost_nano_usd) == ("estimated", 33_000)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.none() | st.text()) | st.integers() | st.none())
def test_nothing_a_provider_reports_makes_the_meter_fail(usage: object) -> None:
    metered = request().meter({**MESSAGE, "usage": usage}, NATIVE, ROW)
    assert metered is not None
    assert metered.cost_nano_usd >= 0


@pytest.mark.parametrize(
    "extra",
    [
        {"cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 5}},
        {"server_tool_use": {"web_search_requests": 1}},
        {"iterations": [{"type": "message"}, {"type": "compaction"}]},
    ],
    ids=["an hour's cache", "a search", "a summary billed beside"],
)
def test_what_no_row_has_a_price_for_is_flagged(extra: dict[str, Any]) -> None:
    usage = {"input_tokens": 5, "output_tokens": 5, **extra}
    assert is_beyond_price(usage)
    metered = request().meter({**MESSAGE, "usage": usage}, NATIVE, ROW)
    assert metered is not None
    assert "unpriced_usage" in metered.flags


def test_a_tier_the_row_does_not_know_is_flagged() -> None:
    usage = {"input_tokens": 5, "output_tokens": 5, "service_tier": "priority"}
    metered = request().meter({**MESSAGE, "usage": usage}, NATIVE, ROW)
    assert metered is not None
    assert metered.flags == ("unpriced_tier",)


def test_native_and_bridged_cost_the_same_for_the_same_figures() -> None:
    """700 uncached, 1 000 cached, 300 written, 90 out of which 40 thought.

    By hand, in nano-dollars: 700 x 3 000 + 1 000 x 300 + 300 x 3 750 + 90 x 15 000 = 4 875 000.
    """
    native = request().meter(
        {
            **MESSAGE,
            "usage": {
                "input_tokens": 700,
                "cache_read_input_tokens": 1_000,
                "cache_creation_input_tokens": 300,
                "output_tokens": 90,
                "output_tokens_details": {"thinking_tokens": 40},
            },
        },
        NATIVE,
        ROW,
    )
    bridge = request()
    translator = bridge.translator(BRIDGED)
    assert isinstance(translator, FromChat)
    chat = {
        "id": "chatcmpl-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 2_000,
            "completion_tokens": 90,
            "total_tokens": 2_090,
            "prompt_tokens_details": {"cached_tokens": 1_000, "cache_write_tokens": 300},
            "completion_tokens_details": {"reasoning_tokens": 40},
        },
    }
    bridged = bridge.meter(json.loads(translator.whole(json.dumps(chat).encode())), BRIDGED, ROW)
    assert native is not None
    assert bridged is not None
    assert native.cost_nano_usd == bridged.cost_nano_usd == 4_875_000
    assert native == bridged


def test_an_answer_that_is_no_message_is_charged_what_it_reports_and_is_no_answer() -> None:
    metered = request().meter({"usage": {"input_tokens": 5, "output_tokens": 0}}, NATIVE, ROW)
    assert metered is not None
    assert (metered.is_answer, metered.cost_nano_usd) == (False, 15_000)
    assert request().meter({"hello": "world"}, NATIVE, ROW) is None


def test_a_chat_without_choices_is_charged_what_it_reports_and_is_no_answer() -> None:
    bridge = request()
    translator = bridge.translator(BRIDGED)
    assert translator is not None
    told = translator.whole(b'{"usage":{"prompt_tokens":5,"completion_tokens":0}}')
    metered = bridge.meter(json.loads(told), BRIDGED, ROW)
    assert metered is not None
    assert (metered.is_answer, metered.cost_nano_usd) == (False, 15_000)
