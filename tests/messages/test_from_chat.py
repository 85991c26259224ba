"""A chat answer told as a message, read by Anthropic's own client: whole and streamed, cut anywhere."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.messages.from_chat import FromChat
from gateway.providers.translated import Untranslatable
from tests.messages.wire import DONE, accumulated_by_sdk, call_part, chunk, events_of, read_by_sdk

USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 9,
    "total_tokens": 39,
    "prompt_tokens_details": {"cached_tokens": 10},
}
USAGE_CHUNK = chunk(usage=USAGE)


def whole(message: dict[str, Any], finish: str = "stop", usage: object = None, **choice: Any) -> Any:
    answer = {
        "id": "chatcmpl-7",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, **choice}],
        "usage": USAGE if usage is None else usage,
    }
    translator = FromChat("gpt", wants_thinking=True, stop_sequences=["END"])
    return read_by_sdk(translator.whole(orjson.dumps(answer)))


def streamed(*chunks: bytes, wants_thinking: bool = True) -> bytes:
    translator = FromChat("gpt", wants_thinking=wants_thinking, stop_sequences=["END"], input_tokens_estimate=3)
    return b"".join([*(translator.feed(one) for one in chunks), translator.finish()])


def blocks(message: Any) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for block in message.content:
        if block.type == "text":
            found.append(("text", block.text))
        elif block.type == "thinking":
            found.append(("thinking", block.thinking, block.signature))
        else:
            found.append((block.type, block.id, block.name, block.input))
    return found


def arguments_of(text: str) -> dict[str, Any]:
    return {"tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": text}}]}


def test_a_whole_answer_is_a_message_to_the_sdk() -> None:
    message = whole({"content": "Hello", "reasoning_content": "Hm", **arguments_of('{"a":1}')}, "tool_calls")
    assert (message.id, message.model, message.role, message.type) == ("msg_chatcmpl-7", "gpt", "assistant", "message")
    assert blocks(message) == [("thinking", "Hm", ""), ("text", "Hello"), ("tool_use", "call_1", "f", {"a": 1})]
    assert (message.stop_reason, message.stop_sequence) == ("tool_use", None)
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (20, 10, 0)
    assert usage.output_tokens == 9


@pytest.mark.parametrize(
    ("finish", "choice", "message", "reason", "sequence"),
    [
        ("stop", {}, {"content": "x"}, "end_turn", None),
        ("length", {}, {"content": "x"}, "max_tokens", None),
        ("tool_calls", {}, arguments_of("{}"), "tool_use", None),
        ("stop", {}, arguments_of("{}"), "tool_use", None),
        ("content_filter", {}, {"content": ""}, "refusal", None),
        ("stop", {}, {"content": None, "refusal": "No."}, "refusal", None),
        ("stop", {"stop_reason": "END"}, {"content": "x"}, "stop_sequence", "END"),
        ("stop", {"stop_reason": "other"}, {"content": "x"}, "end_turn", None),
        ("stop", {"stop_reason": 128_001}, {"content": "x"}, "end_turn", None),
        ("something_new", {}, {"content": "x"}, "end_turn", None),
    ],
)
def test_why_it_stopped_whole_and_streamed(
    finish: str, choice: dict[str, Any], message: dict[str, Any], reason: str, sequence: str | None
) -> None:
    told = whole(message, finish, **choice)
    assert (told.stop_reason, told.stop_sequence) == (reason, sequence)
    delta = {**message}
    if "tool_calls" in delta:
        delta["tool_calls"] = [{"index": 0, **delta["tool_calls"][0]}]
    last = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": finish, **choice}]}).encode()
    told = accumulated_by_sdk(streamed(chunk(delta), b"data: " + last + b"\n\n", DONE))
    assert (told.stop_reason, told.stop_sequence) == (reason, sequence)


@pytest.mark.parametrize(
    ("arguments", "input"),
    [
        ("", {}),
        ("{}", {}),
        ('{"a": [1]}', {"a": [1]}),
        ('{"a": 1', {"INVALID_JSON": '{"a": 1'}),
        ("[1]", {"INVALID_JSON": "[1]"}),
    ],
)
def test_arguments_become_an_object_whatever_the_model_wrote(arguments: str, input: object) -> None:
    assert whole(arguments_of(arguments)).content[0].input == input


def test_content_in_parts_is_one_text_and_a_call_without_an_id_gets_one() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": []}, {"type": "text", "text": "b"}]
    calls = {"tool_calls": [{"id": "", "function": {"name": "f", "arguments": "{}"}}] * 2}
    message = whole({"content": parts, **calls})
    assert message.content[0].text == "ab"
    ids = [block.id for block in message.content[1:]]
    assert all(one.startswith("toolu_") for one in ids)
    assert len(set(ids)) == 2


TEXT_STREAM = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hel"}),
    chunk({"content": "lo \u00fc"}),
    chunk({}, "stop"),
    USAGE_CHUNK,
    DONE,
)
FULL_STREAM = (
    b": keep-alive\n\n",
    chunk({"role": "assistant", "reasoning_content": "Let me"}),
    chunk({"reasoning_content": " think"}),
    chunk({"content": "I look. \u2713"}),
    chunk(call_part(0, id="call_1", name="weather")),
    chunk(call_part(0, arguments='{"city":')),
    chunk(call_part(0, arguments=' "Rome"}')),
    chunk(call_part(1, id="call_2", name="time", arguments="{}")),
    chunk({}, "tool_calls"),
    USAGE_CHUNK,
    DONE,
)
FULL_BLOCKS = [
    ("thinking", "Let me think", ""),
    ("text", "I look. \u2713"),
    ("tool_use", "call_1", "weather", {"city": "Rome"}),
    ("tool_use", "call_2", "time", {}),
]


def test_a_stream_is_told_event_for_event() -> None:
    assert [event["type"] for event in events_of(streamed(*TEXT_STREAM))] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start = events_of(streamed(*TEXT_STREAM))[0]["message"]
    assert start["usage"] == {"input_tokens": 3, "output_tokens": 0}
    assert (start["content"], start["stop_reason"], start["id"]) == ([], None, "msg_chatcmpl-7")


def test_the_sdks_accumulator_gets_every_block() -> None:
    message = accumulated_by_sdk(streamed(*FULL_STREAM))
    assert blocks(message) == FULL_BLOCKS
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens) == (
        20,
        10,
        9,
    )


def test_who_did_not_ask_for_thinking_gets_the_answer_first() -> None:
    message = accumulated_by_sdk(streamed(*FULL_STREAM, wants_thinking=False))
    assert blocks(message) == FULL_BLOCKS[1:]


@pytest.mark.parametrize("stream", [TEXT_STREAM, FULL_STREAM], ids=["text", "everything"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_a_stream_cut_at_any_byte_is_told_the_same(stream: tuple[bytes, ...], line_end: bytes) -> None:
    data = b"".join(stream).replace(b"\n", line_end)
    expected = streamed(data)
    assert expected == streamed(b"".join(stream))
    for cut in range(1, len(data)):
        assert streamed(data[:cut], data[cut:]) == expected
    assert streamed(*(data[at : at + 1] for at in range(len(data)))) == expected


@given(st.data())
def test_any_split_is_told_the_same(data: st.DataObject) -> None:
    stream = b"".join(FULL_STREAM)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    translator = FromChat("gpt", wants_thinking=True, stop_sequences=["END"], input_tokens_estimate=3)
    told = b"".join([*(translator.feed(piece) for piece in pieces), translator.finish()])
    assert told == streamed(stream)
    assert translator.usage == USAGE


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(TEXT_STREAM[:-3], id="no finish_reason"),
        pytest.param(TEXT_STREAM[:1], id="nothing said"),
        pytest.param((), id="nothing at all"),
        pytest.param((*TEXT_STREAM[:2], TEXT_STREAM[2][:-9]), id="in the middle of a chunk"),
    ],
)
def test_a_stream_that_breaks_off_is_never_told_as_finished(chunks: tuple[bytes, ...]) -> None:
    told = streamed(*chunks)
    assert b"message_stop" not in told
    assert b"message_delta" not in told
    assert b'stop_reason":"' not in told


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(TEXT_STREAM[:-1], id="no DONE"),
        pytest.param((*TEXT_STREAM[:-1], DONE[:-2]), id="DONE without its blank line"),
        pytest.param((chunk(), *TEXT_STREAM), id="Azure's first chunk"),
    ],
)
def test_a_stream_that_said_all_it_had_to_say_is_finished(chunks: tuple[bytes, ...]) -> None:
    message = accumulated_by_sdk(streamed(*chunks))
    assert (blocks(message), message.stop_reason) == ([("text", "Hello \u00fc")], "end_turn")


def test_usage_on_the_finish_chunk_or_after_done_is_kept() -> None:
    for chunks in (
        (chunk({"content": "x"}), chunk({}, "stop", usage=USAGE), DONE),
        (chunk({"content": "x"}), chunk({}, "stop"), DONE, USAGE_CHUNK),
    ):
        translator = FromChat("gpt")
        for one in chunks:
            translator.feed(one)
        assert translator.usage == USAGE


def test_without_a_report_the_estimate_is_told() -> None:
    message = accumulated_by_sdk(streamed(chunk({"content": "Hello"}), chunk({}, "stop"), DONE))
    assert (message.usage.input_tokens, message.usage.output_tokens) == (3, 2)


def test_a_report_with_numbers_that_are_none_is_a_report_nobody_believes() -> None:
    translator = FromChat("gpt")
    translator.feed(b'data: {"choices":[],"usage":{"completion_tokens":NaN}}\n\n')
    assert translator.usage == {}


def test_an_error_in_the_stream_ends_it_and_nothing_follows() -> None:
    error = b'data: {"error":{"message":"Overloaded","type":"server_error","code":529}}\n\n'
    told = events_of(streamed(TEXT_STREAM[1], error, TEXT_STREAM[2], TEXT_STREAM[3], DONE))
    assert told[-1] == {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    assert "message_stop" not in [event["type"] for event in told]


def test_calls_written_at_once_are_told_one_after_another() -> None:
    stream = streamed(
        chunk(call_part(0, id="call_1", name="a")),
        chunk(call_part(1, id="call_2", name="b")),
        chunk(call_part(0, arguments='{"x":')),
        chunk(call_part(1, arguments='{"y":2')),
        chunk({"content": "and "}),
        chunk(call_part(0, arguments="1}")),
        chunk(call_part(1, arguments="}")),
        chunk({"content": "words"}),
        chunk({}, "tool_calls"),
        DONE,
    )
    indexes = [event["index"] for event in events_of(stream) if "index" in event]
    assert indexes == sorted(indexes)
    assert blocks(accumulated_by_sdk(stream)) == [
        ("tool_use", "call_1", "a", {"x": 1}),
        ("tool_use", "call_2", "b", {"y": 2}),
        ("text", "and words"),
    ]


def test_a_second_id_under_the_same_number_is_a_second_call() -> None:
    stream = streamed(
        chunk(call_part(0, id="one", name="a", arguments="{}")),
        chunk(call_part(0, id="two", name="a", arguments="{}")),
        chunk({}, "stop"),
        DONE,
    )
    assert [block.id for block in accumulated_by_sdk(stream).content] == ["one", "two"]


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param((chunk(call_part(0, arguments="{")),), id="a call without a name"),
        pytest.param(
            (
                chunk(call_part(0, id="one", name="a", arguments="{}")),
                chunk({"content": "x"}),
                chunk(call_part(0, arguments="{}")),
            ),
            id="arguments after their end",
        ),
        pytest.param((b"data: " + b"x" * (16 * 2**20 + 1),), id="an event without end"),
    ],
)
def test_what_no_server_should_write_is_untranslatable(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(Untranslatable):
        streamed(*chunks)


_parts = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "choices delta content tool_calls function name arguments id index finish_reason usage error refusal".split()
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(st.lists(_parts, max_size=5))
def test_whatever_a_server_writes_is_told_or_untranslatable(chunks: list[Any]) -> None:
    translator = FromChat("gpt", wants_thinking=True)
    try:
        told = [translator.feed(b"data: " + orjson.dumps(one) + b"\n\n") for one in chunks]
        told += [translator.feed(DONE), translator.finish()]
    except Untranslatable:
        return
    types = [event["type"] for event in events_of(b"".join(told))]
    assert types.count("content_block_start") == types.count("content_block_stop") or types[-1] == "error"
    assert types[-1] in ("message_stop", "error")


@given(_parts)
def test_whatever_a_whole_answer_is_it_is_told_or_untranslatable(answer: Any) -> None:
    for body in (orjson.dumps(answer), orjson.dumps({"choices": [{"message": answer}]})):
        try:
            told = FromChat("gpt").whole(body)
        except Untranslatable:
            continue
        assert isinstance(orjson.loads(told), dict)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (
            400,
            b'{"error":{"message":"Too long","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}',
            {
                "type": "invalid_request_error",
                "message": "Too long",
                "code": "context_length_exceeded",
                "param": "messages",
            },
        ),
        (
            429,
            b'{"error":{"message":"Pay","type":"insufficient_quota","code":null}}',
            {"type": "rate_limit_error", "message": "Pay", "code": "insufficient_quota"},
        ),
        (503, b"<html>", {"type": "overloaded_error", "message": "", "code": None}),
    ],
)
def test_a_refusal_keeps_what_tells_the_caller_from_the_operator(status: int, body: bytes, error: object) -> None:
    assert json.loads(FromChat("gpt").refusal(status, body)) == {"type": "error", "error": error}
