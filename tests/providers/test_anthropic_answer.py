"""Anthropic's answers, streams and errors as OpenAI's clients get them, and what they cost."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.price_rows import Price
from gateway.pricing import cost_nano_usd
from gateway.providers.anthropic_answer import Asked, ChatTranslator, chat_usage
from gateway.providers.translated import Untranslatable
from gateway.relay import Guard
from gateway.streaming import SseRelay
from gateway.usage import Usage, from_chat

FIXTURES = Path(__file__).parents[1] / "fixtures" / "anthropic"
CREATED = 1_800_000_000
ASKED = Asked(created=CREATED, has_usage_event=True, event_bytes_max=65_536)
DONE = b"data: [DONE]\n\n"
HAIKU = "claude-haiku-4-5-20251001"
PRICE = Price(
    version="1", input=1_000_000, cached_input=100_000, cache_write=1_250_000, output=5_000_000, reasoning=6_000_000
)
"""Pico-dollars a token. Reasoning has a rate of its own here, so that no bucket can be mistaken for another."""


def fixture(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def whole(name: str) -> dict[str, Any]:
    return dict(orjson.loads(ChatTranslator(ASKED).whole(fixture(name))))


def streamed(data: bytes, *cuts: int, asked: Asked = ASKED) -> bytes:
    """The stream, handed over in pieces that end at `cuts`."""
    translator = ChatTranslator(asked)
    edges = [0, *sorted(cuts), len(data)]
    told = [translator.feed(data[start:end]) for start, end in pairwise(edges)]
    return b"".join(told) + translator.finish()


def chunks(told: bytes) -> list[dict[str, Any]]:
    """All that was told but `[DONE]`."""
    events = told.removesuffix(DONE).split(b"\n\n")
    return [orjson.loads(event.removeprefix(b"data: ")) for event in events if event]


def deltas(told: bytes) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks(told) for choice in chunk.get("choices", [])]


def joined(told: bytes, field: str) -> str:
    return "".join(delta.get(field) or "" for delta in deltas(told))


def event(**fields: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (fields["type"].encode(), orjson.dumps(fields))


def beginning(**usage: Any) -> bytes:
    message = {"id": "msg_1", "model": HAIKU, "usage": {"input_tokens": 10, "output_tokens": 1, **usage}}
    return event(type="message_start", message=message)


# Whole answers


def test_a_whole_answer_has_openais_shape() -> None:
    answer = whole("text.json")
    usage = answer.pop("usage")
    assert answer == {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "object": "chat.completion",
        "created": CREATED,
        "model": HAIKU,
        "service_tier": "default",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": 'Grüß Gott, "world" 👋 — done.',
                    "refusal": None,
                    "reasoning_content": "The user asks for a greeting.",
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
    }
    assert usage == {
        "prompt_tokens": 2581,
        "completion_tokens": 149,
        "total_tokens": 2730,
        "prompt_tokens_details": {"cached_tokens": 2048, "cache_write_tokens": 512},
        "completion_tokens_details": {"reasoning_tokens": 64},
    }


def test_tools_of_a_whole_answer_are_calls_with_arguments_as_text() -> None:
    choice = whole("tools.json")["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me look."
    calls = choice["message"]["tool_calls"]
    assert [(call["id"], call["type"], call["function"]["name"]) for call in calls] == [
        ("toolu_01T1x1fJ34qAmk2tNTrN7Up6", "function", "get_weather"),
        ("toolu_01A09q90qw90lq917835lq9", "function", "get_time"),
    ]
    assert [orjson.loads(call["function"]["arguments"]) for call in calls] == [{"city": "São Paulo", "days": 2}, {}]


REASONS = [
    ("end_turn", "stop"),
    ("stop_sequence", "stop"),
    ("pause_turn", "stop"),
    ("max_tokens", "length"),
    ("model_context_window_exceeded", "length"),
    ("tool_use", "tool_calls"),
    ("refusal", "content_filter"),
    ("something_new", "stop"),
]


@pytest.mark.parametrize(("reason", "finish_reason"), REASONS)
def test_a_stop_reason_becomes_a_finish_reason_streamed_or_not(reason: str, finish_reason: str) -> None:
    message = {**orjson.loads(fixture("text.json")), "stop_reason": reason}
    answer = orjson.loads(ChatTranslator(ASKED).whole(orjson.dumps(message)))
    assert answer["choices"][0]["finish_reason"] == finish_reason
    told = streamed(beginning() + event(type="message_delta", delta={"stop_reason": reason}))
    assert [c["finish_reason"] for chunk in chunks(told) for c in chunk["choices"]] == [None, finish_reason]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"type":"error","error":{"type":"api_error","message":"x"}}',
        b'{"type":"message","content":null,"stop_reason":"end_turn"}',
        b'{"type":"message","content":[],"stop_reason":null}',
    ],
)
def test_an_answer_that_is_no_message_is_not_translated(body: bytes) -> None:
    with pytest.raises(Untranslatable):
        ChatTranslator(ASKED).whole(body)


# Streams


def test_a_stream_becomes_chunks_that_share_their_head() -> None:
    told = streamed(fixture("text.sse"))
    assert told.endswith(DONE)
    heads = {(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks(told)}
    assert heads == {("msg_01XFDUDYJgAACzvnptvVoYEL", "chat.completion.chunk", CREATED, HAIKU)}
    assert [delta for delta in deltas(told) if "role" in delta] == [
        {"role": "assistant", "content": "", "refusal": None}
    ]
    *spoken, last, usage = chunks(told)
    assert {chunk["choices"][0]["finish_reason"] for chunk in spoken} == {None}
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert (usage["choices"], usage["service_tier"]) == ([], "default")


@pytest.mark.parametrize("name", ["text", "tools"])
def test_a_stream_says_what_the_whole_answer_says(name: str) -> None:
    answer, told = whole(f"{name}.json"), streamed(fixture(f"{name}.sse"))
    message = answer["choices"][0]["message"]
    assert joined(told, "content") == message["content"]
    assert joined(told, "reasoning_content") == message.get("reasoning_content", "")
    assert chunks(told)[-1]["usage"] == answer["usage"]
    assert chunks(told)[-2]["choices"][0]["finish_reason"] == answer["choices"][0]["finish_reason"]


def test_calls_are_streamed_with_their_names_once_and_their_arguments_in_pieces() -> None:
    pieces = [delta["tool_calls"][0] for delta in deltas(streamed(fixture("tools.sse"))) if "tool_calls" in delta]
    assert [piece["index"] for piece in pieces] == [0, 0, 0, 0, 1, 1]
    named = [piece for piece in pieces if "id" in piece]
    assert named == [
        {
            "index": index,
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        for index, call_id, name in (
            (0, "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "get_weather"),
            (1, "toolu_01A09q90qw90lq917835lq9", "get_time"),
        )
    ]
    arguments = ["".join(p["function"]["arguments"] for p in pieces if p["index"] == index) for index in (0, 1)]
    assert [orjson.loads(text) for text in arguments] == [{"city": "São Paulo", "days": 2}, {}]
    assert all(piece.keys() == {"index", "function"} for piece in pieces if piece not in named)


def test_usage_is_told_only_where_it_was_asked_for() -> None:
    told = streamed(fixture("text.sse"), asked=ASKED._replace(has_usage_event=False))
    assert b"usage" not in told
    assert told.endswith(DONE)
    assert all(chunk["choices"] for chunk in chunks(told))


@pytest.mark.parametrize("name", ["text.sse", "tools.sse", "error.sse", "refusal.sse"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_every_split_of_a_stream_in_two_tells_the_same(name: str, line_end: bytes) -> None:
    data = fixture(name).replace(b"\n", line_end)
    expected = streamed(fixture(name))
    assert all(streamed(data, cut) == expected for cut in range(len(data)))


@given(st.lists(st.integers(0, 5_000), max_size=40), st.integers(0, 5_000))
def test_every_split_of_a_stream_that_is_cut_tells_the_same(cuts: list[int], length: int) -> None:
    data = fixture("tools.sse")[:length]
    assert streamed(data, *(cut for cut in cuts if cut <= len(data))) == streamed(data)


@given(st.integers(0, 5_000))
def test_a_stream_that_breaks_never_looks_complete(length: int) -> None:
    data = fixture("text.sse")
    told = streamed(data[: min(length, data.index(b"event: message_delta"))])
    assert DONE not in told
    assert all(choice["finish_reason"] is None for chunk in chunks(told) for choice in chunk["choices"])


def test_a_broken_stream_still_tells_what_is_known_of_its_usage() -> None:
    data = fixture("text.sse")
    told = streamed(data[: data.index(b"event: message_delta")])
    last = chunks(told)[-1]
    assert (last["choices"], last["usage"]["prompt_tokens"]) == ([], 2581)


def test_a_last_event_without_its_blank_line_counts() -> None:
    assert streamed(fixture("text.sse").rstrip(b"\n")) == streamed(fixture("text.sse"))


def test_an_error_in_the_middle_is_told_after_the_usage_and_nothing_follows() -> None:
    told = streamed(fixture("error.sse") + event(type="message_stop"))
    *_, usage, error = chunks(told)
    assert usage["usage"]["prompt_tokens"] == 25
    assert error == {
        "error": {"message": "Overloaded", "type": "overloaded_error", "param": None, "code": "overloaded"}
    }
    assert DONE not in told
    assert joined(told, "content") == "Once upon"


def test_an_error_before_the_message_is_told_alone() -> None:
    told = streamed(event(type="error", error={"type": "api_error", "message": "oops"}))
    assert [chunk["error"]["type"] for chunk in chunks(told)] == ["server_error"]


def test_a_refusal_by_a_classifier_is_a_content_filter() -> None:
    told = streamed(fixture("refusal.sse"))
    assert chunks(told)[-2]["choices"][0]["finish_reason"] == "content_filter"
    assert chunks(told)[-1]["usage"]["total_tokens"] == 416
    assert told.endswith(DONE)


def test_what_is_new_or_of_the_providers_own_tools_is_passed_over() -> None:
    quiet = b"".join(
        [
            b": a comment\n\n",
            event(type="ping"),
            event(type="something_new", x=1),
            event(type="content_block_start", index=7, content_block={"type": "server_tool_use", "name": "x"}),
            event(type="content_block_delta", index=7, delta={"type": "input_json_delta", "partial_json": "{"}),
            event(type="content_block_delta", index=7, delta={"type": "signature_delta", "signature": "s"}),
            event(type="content_block_delta", index=7, delta={"type": "citations_delta", "citation": {}}),
            event(type="content_block_stop", index=7),
        ]
    )
    assert len(chunks(streamed(beginning() + quiet, asked=ASKED._replace(has_usage_event=False)))) == 1


def test_arguments_that_are_there_at_once_are_told_at_once() -> None:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
    data = event(type="content_block_start", index=0, content_block=block) + event(type="content_block_stop", index=0)
    calls = [delta["tool_calls"][0] for delta in deltas(streamed(beginning() + data)) if "tool_calls" in delta]
    assert [call["function"]["arguments"] for call in calls] == ['{"a":1}']


def test_a_later_report_of_usage_replaces_the_earlier_one() -> None:
    more = b"".join(
        event(type="message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": tokens})
        for tokens in (5, 5, 9)
    )
    told = chunks(streamed(beginning() + more + event(type="message_stop")))
    assert [chunk["usage"]["completion_tokens"] for chunk in told if "usage" in chunk] == [5, 9]
    finished = [c for chunk in told for c in chunk["choices"] if c["finish_reason"]]
    assert len(finished) == 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"data: {oops\n\n", id="no JSON"),
        pytest.param(event(type="content_block_stop", index=0), id="before the message"),
        pytest.param(beginning() + beginning(), id="two messages"),
        pytest.param(beginning() + event(type="message_stop"), id="no stop reason"),
        pytest.param(b"x" * 65_537, id="an endless event"),
    ],
)
def test_a_stream_that_breaks_its_dialect_is_not_translated(data: bytes) -> None:
    with pytest.raises(Untranslatable):
        streamed(data)


def test_what_came_before_a_fault_is_told_first() -> None:
    translator = ChatTranslator(ASKED)
    assert b'"role":"assistant"' in translator.feed(beginning() + b"data: {oops\n\n")
    with pytest.raises(Untranslatable):
        translator.feed(b"")


# Errors


@pytest.mark.parametrize(
    ("status", "name", "kind", "code", "param"),
    [
        (400, "error_context.json", "invalid_request_error", "context_length_exceeded", "messages"),
        (400, "error_invalid.json", "invalid_request_error", "invalid_value", None),
        (400, "error_credit.json", "insufficient_quota", "insufficient_quota", None),
        (401, "error_key.json", "authentication_error", "invalid_api_key", None),
        (403, "error_permission.json", "permission_error", "permission_denied", None),
        (404, "error_model.json", "invalid_request_error", "model_not_found", "model"),
        (413, "error_size.json", "invalid_request_error", "request_too_large", None),
        (413, "error_size.html", "invalid_request_error", "request_too_large", None),
        (429, "error_rate.json", "rate_limit_error", "rate_limit_exceeded", None),
        (429, "error_spend.json", "insufficient_quota", "insufficient_quota", None),
        (500, "error_internal.json", "server_error", "internal_error", None),
        (529, "error_overloaded.json", "overloaded_error", "overloaded", None),
    ],
)
def test_an_error_has_openais_words(status: int, name: str, kind: str, code: str, param: str | None) -> None:
    body = fixture(name)
    error = orjson.loads(ChatTranslator(ASKED).refusal(status, body))["error"]
    assert (error["type"], error["code"], error["param"]) == (kind, code, param)
    said = orjson.loads(body)["error"]["message"] if name.endswith("json") else "The provider answered with an error."
    assert error["message"] == said


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'{"error":"x"}', b'{"error":{"type":7,"message":[]}}', b"\xff"])
@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "invalid_value"), (404, "model_not_found"), (429, "rate_limit_exceeded"), (503, "internal_error")],
)
def test_whatever_came_an_error_is_told_by_its_status(body: bytes, status: int, code: str) -> None:
    error = orjson.loads(ChatTranslator(ASKED).refusal(status, body))["error"]
    assert error["code"] == code
    assert error["message"]


# Money


def buckets(usage: object) -> Usage | None:
    return from_chat(usage, context_tokens_max=200_000, output_tokens_max=64_000, choices=1)


def test_a_call_costs_what_a_hand_makes_of_it_streamed_or_not() -> None:
    """21 x 1 + 2 048 x 0.1 + 512 x 1.25 + (149 - 64) x 5 + 64 x 6 dollars a million = 0.001 674 8 dollars."""
    reports = whole("text.json")["usage"], chunks(streamed(fixture("text.sse")))[-1]["usage"]
    for report in reports:
        usage = buckets(report)
        assert usage == Usage(uncached_input=21, cached_input=2_048, cache_write=512, text_output=85, reasoning=64)
        assert cost_nano_usd(usage, PRICE) == 1_674_800


def test_a_call_with_tools_costs_what_a_hand_makes_of_it_streamed_or_not() -> None:
    """472 x 1 + 89 x 5 dollars a million = 0.000 917 dollars."""
    for report in (whole("tools.json")["usage"], chunks(streamed(fixture("tools.sse")))[-1]["usage"]):
        usage = buckets(report)
        assert usage == Usage(uncached_input=472, text_output=89)
        assert cost_nano_usd(usage, PRICE) == 917_000


@pytest.mark.parametrize("name", ["text", "tools"])
def test_the_relay_of_chunks_reads_the_usage_and_keeps_it_from_a_client_that_did_not_ask(name: str) -> None:
    relay = SseRelay(Guard(65_536, lambda data: data), strip_usage=True)
    shown = relay.feed(streamed(fixture(f"{name}.sse"))) + relay.finish()
    assert relay.is_done
    assert relay.held_back() == DONE
    assert b'"usage"' not in shown
    assert (relay.usage, relay.reported_tier()) == (whole(f"{name}.json")["usage"], "default")


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_tokens": -1},
        {"input_tokens": None},
        {"output_tokens": 1.5},
        {"output_tokens": True},
        {"cache_read_input_tokens": "12"},
        {"cache_creation_input_tokens": -5},
        {"output_tokens_details": {"thinking_tokens": 11}},
        {"output_tokens_details": {"thinking_tokens": "x"}},
    ],
)
def test_counts_that_cannot_be_true_are_not_believed(wrong: dict[str, Any]) -> None:
    usage = chat_usage({"input_tokens": 10, "output_tokens": 10, **wrong})
    assert "completion_tokens" in usage, "the stream's relay looks for this word"
    assert buckets(usage) is None


@given(*(st.integers(0, 10_000) for _ in range(4)), st.integers(0, 100))
def test_every_token_lands_in_one_bucket(fresh: int, read: int, written: int, output: int, share: int) -> None:
    thinking = output * share // 100
    usage = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": thinking},
    }
    assert buckets(chat_usage(usage)) == Usage(
        uncached_input=fresh,
        cached_input=read,
        cache_write=written,
        text_output=output - thinking,
        reasoning=thinking,
    )
