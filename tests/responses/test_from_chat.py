"""A chat answer told as a response: every object and event is read with OpenAI's own models and stream helpers."""

from collections.abc import Callable, Mapping
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import APIError, OpenAI
from openai.types.responses import ParsedResponse, Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from gateway.providers.translated import Untranslatable
from gateway.responses.from_chat import FromChat
from gateway.responses.response_object import response_usage

FIXTURES = Path(__file__).parents[1] / "fixtures" / "responses"
TEXT = (FIXTURES / "text.txt").read_bytes()
CALLS = (FIXTURES / "calls.txt").read_bytes()
WHOLE_CALLS = (FIXTURES / "whole_calls.json").read_bytes()
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
REQUEST: dict[str, Any] = {"model": "m", "input": "hi", "stream": True, "tools": [WEATHER]}


def numbered_ids() -> Callable[[str], str]:
    numbers = count(1)
    return lambda prefix: f"{prefix}_{next(numbers)}"


def translator(request: Mapping[str, Any] = REQUEST, **bounds: int) -> FromChat:
    return FromChat("resp_1", 1790000000, request, "m", numbered_ids(), **bounds)


def told(*pieces: bytes, request: Mapping[str, Any] = REQUEST) -> bytes:
    chat = translator(request)
    return b"".join(map(chat.feed, pieces)) + chat.finish()


def events_in(stream: bytes) -> list[dict[str, Any]]:
    """Every event, once OpenAI's models have accepted it and the frame agrees with what is in it."""
    events = []
    for number, block in enumerate(stream.removesuffix(b"\n\n").split(b"\n\n")):
        name, data = block.split(b"\n")
        event = orjson.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        assert event["sequence_number"] == number
        assert EVENT.validate_python(event).type == event["type"]
        events.append(event)
    return events


def types_in(stream: bytes) -> list[str]:
    return [event["type"] for event in events_in(stream)]


def chunk(delta: Mapping[str, Any] | None = None, finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish}
    return b"data: " + orjson.dumps({"id": "c", "choices": [choice], **fields}) + b"\n\n"


def call_piece(index: int | None, arguments: str, id: str | None = None, name: str | None = None) -> dict[str, Any]:
    piece: dict[str, Any] = {"function": {"arguments": arguments}}
    if index is not None:
        piece["index"] = index
    if id is not None:
        piece |= {"id": id, "type": "function"}
    if name is not None:
        piece["function"]["name"] = name
    return {"tool_calls": [piece]}


DONE = b"data: [DONE]\n\n"


def answer_of(*pieces: bytes, request: Mapping[str, Any] = REQUEST) -> dict[str, Any]:
    chat = translator(request)
    events_in(b"".join(map(chat.feed, pieces)) + chat.finish())
    assert chat.answer is not None
    Response.model_validate(chat.answer)
    return chat.answer


def completion(message: Mapping[str, Any], finish: str = "stop", **choice: Any) -> bytes:
    return orjson.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish, **choice}]})


def whole(body: bytes, request: Mapping[str, Any] = REQUEST) -> dict[str, Any]:
    chat = translator(request)
    response: dict[str, Any] = orjson.loads(chat.whole(body))
    assert chat.answer == response
    Response.model_validate(response)
    return response


def read_by_sdk(stream: bytes, **options: Any) -> ParsedResponse[Any]:
    """What OpenAI's own client makes of the stream."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        OpenAI(api_key="sk-test", base_url="http://127.0.0.1/v1", http_client=http, max_retries=0) as client,
        client.responses.stream(model="m", input="hi", **options) as events,
    ):
        return events.get_final_response()


def test_a_text_is_told_in_the_order_of_openais_streams() -> None:
    assert types_in(told(TEXT)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_reasoning_text_and_parallel_calls_are_items_in_a_row() -> None:
    call = [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]
    assert types_in(told(CALLS)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        *call[:2],
        *call[1:],
        *call,
        "response.completed",
    ]


def test_the_last_event_has_the_whole_response() -> None:
    chat = translator()
    last = events_in(chat.feed(TEXT) + chat.finish())[-1]["response"]
    assert last == chat.answer
    assert last["status"] == "completed"
    assert last["service_tier"] == "default"
    assert last["output"] == [
        {
            "id": "msg_1",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Grüße from the sea.", "annotations": [], "logprobs": []}],
        }
    ]
    assert last["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 18,
    }


def test_the_first_event_has_a_response_in_progress_without_output() -> None:
    first = events_in(told(CALLS))[0]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)


@pytest.mark.parametrize("stream", [pytest.param(TEXT, id="text"), pytest.param(CALLS, id="calls")])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_every_split_in_two_gives_the_same_events(stream: bytes, line_end: bytes) -> None:
    stream = stream.replace(b"\n", line_end)
    expected = told(stream)
    assert types_in(expected)[-1] == "response.completed"
    for cut in range(0, len(stream), 3):
        assert told(stream[:cut], stream[cut:]) == expected


@given(st.lists(st.integers(0, len(CALLS)), max_size=40))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(CALLS)]
    pieces = [CALLS[start:end] for start, end in pairwise(places)]
    assert told(*pieces) == told(CALLS)


def test_byte_by_byte_gives_the_same_events() -> None:
    assert told(*(TEXT[at : at + 1] for at in range(len(TEXT)))) == told(TEXT)


def test_a_stream_and_a_whole_answer_have_the_same_output() -> None:
    answered, streamed = whole(WHOLE_CALLS), answer_of(CALLS)
    assert answered == streamed
    assert [item["type"] for item in answered["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert answered["output"][3] == {
        "type": "function_call",
        "id": "fc_4",
        "status": "completed",
        "call_id": "call_b",
        "name": "weather",
        "arguments": '{"city":"Rome"}',
    }
    assert answered["output"][0]["summary"] == [{"type": "summary_text", "text": "Two cities, so two calls."}]
    assert answered["usage"]["input_tokens_details"]["cached_tokens"] == 64
    assert answered["usage"]["output_tokens_details"] == {"reasoning_tokens": 9}


def test_openais_client_reads_a_text() -> None:
    response = read_by_sdk(told(TEXT))
    assert response.output_text == "Grüße from the sea."
    assert response.usage is not None
    assert response.usage.total_tokens == 18


def test_openais_client_reads_parallel_calls() -> None:
    calls = [item for item in read_by_sdk(told(CALLS)).output if item.type == "function_call"]
    assert [(call.call_id, call.arguments) for call in calls] == [
        ("call_a", '{"city":"Oslo"}'),
        ("call_b", '{"city":"Rome"}'),
    ]


def test_openais_client_parses_a_structured_answer() -> None:
    class City(BaseModel):
        name: str

    response = read_by_sdk(
        told(chunk({"content": '{"name":'}), chunk({"content": '"Oslo"}'}, "stop"), DONE), text_format=City
    )
    assert response.output_parsed == City(name="Oslo")


def test_openais_client_raises_what_the_provider_reports() -> None:
    error = b'data: {"error":{"message":"Overloaded.","type":"server_error","code":"overloaded"}}\n\n'
    with pytest.raises(APIError, match="Overloaded"):
        read_by_sdk(told(chunk({"content": "Half"}), error))


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        pytest.param("length", "max_output_tokens", id="length"),
        pytest.param("content_filter", "content_filter", id="filter"),
    ],
)
def test_an_answer_cut_off_is_incomplete_and_says_why(finish: str, reason: str) -> None:
    stream = told(chunk({"content": "Once"}), chunk(finish=finish), DONE)
    last = events_in(stream)[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": reason}
    assert last["response"]["output"][0]["status"] == "incomplete"
    answered = whole(completion({"content": "Once"}, finish))
    assert (answered["status"], answered["incomplete_details"]) == ("incomplete", {"reason": reason})


def test_a_call_cut_off_is_incomplete() -> None:
    stream = [chunk(call_piece(0, '{"city', "call_a", "weather")), chunk(finish="length"), DONE]
    call = answer_of(*stream)["output"][0]
    assert (call["status"], call["arguments"]) == ("incomplete", '{"city')


@pytest.mark.parametrize("chunks", range(1, 9))
def test_a_stream_that_breaks_off_has_no_last_event(chunks: int) -> None:
    came = b"".join(one + b"\n\n" for one in CALLS.split(b"\n\n")[:chunks])
    chat = translator()
    types = types_in(chat.feed(came) + chat.feed(b'data: {"choices":[{"ind') + chat.finish())
    assert not {"response.completed", "response.incomplete"} & set(types)
    assert chat.answer is None


def test_an_end_without_done_is_complete_behind_a_finish_reason() -> None:
    assert types_in(told(chunk({"content": "Hi"}, "stop")))[-1] == "response.completed"


def test_a_last_event_without_its_blank_line_counts() -> None:
    assert told(TEXT.removesuffix(b"\n\n")) == told(TEXT)
    assert types_in(told(chunk({"content": "Hi"}, "stop").removesuffix(b"\n\n")))[-1] == "response.completed"


def test_done_without_a_finish_reason_is_an_end() -> None:
    """Some servers name no reason; `[DONE]` says that nothing is missing, as it does in chat."""
    assert answer_of(chunk({"content": "Hi"}), DONE)["status"] == "completed"


def test_done_alone_is_no_answer() -> None:
    chat = translator()
    assert chat.feed(DONE) + chat.finish() == b""
    assert chat.answer is None


def test_what_follows_done_is_ignored() -> None:
    assert told(TEXT, chunk({"content": "more"}), DONE) == told(TEXT)


def test_a_finish_reason_of_failure_completes_nothing() -> None:
    chat = translator()
    stream = chat.feed(chunk({"content": "Half"}, "error") + DONE) + chat.finish()
    assert types_in(stream)[-1] == "response.output_text.delta"
    assert chat.answer is None
    with pytest.raises(Untranslatable):
        translator().whole(completion({"content": "Half"}, "error"))


@pytest.mark.parametrize(
    ("error", "code", "message", "kind"),
    [
        pytest.param({"message": "No.", "type": "t", "code": "c", "param": None}, "c", "No.", "t", id="envelope"),
        pytest.param({"message": "No.", "type": "t", "code": None}, "t", "No.", "t", id="no-code"),
        pytest.param({"message": "No.", "code": 529}, "529", "No.", "server_error", id="number"),
        pytest.param("No.", "server_error", "No.", "server_error", id="text"),
        pytest.param(
            {"message": ""}, "server_error", "The model's provider reported an error.", "server_error", id="mute"
        ),
    ],
)
def test_an_error_in_the_stream_is_the_last_event(error: object, code: str, message: str, kind: str) -> None:
    chat = translator()
    failure = b"data: " + orjson.dumps({"error": error}) + b"\n\n"
    events = events_in(chat.feed(chunk({"content": "Half"}) + failure + chunk(finish="stop") + DONE) + chat.finish())
    assert events[-1] == {
        "type": "error",
        "sequence_number": len(events) - 1,
        "code": code,
        "message": message,
        "param": None,
        "error": {"type": kind, "code": code, "message": message, "param": None},
    }
    assert chat.answer is None


def test_an_error_at_once_comes_behind_the_events_that_open_a_response() -> None:
    """OpenAI's stream helper accepts no other first event."""
    assert types_in(told(b'data: {"error":{"message":"No."}}\n\n')) == [
        "response.created",
        "response.in_progress",
        "error",
    ]


def test_a_refusal_is_a_part_of_the_message() -> None:
    stream = [chunk({"refusal": "I "}), chunk({"refusal": "won't."}), chunk(finish="stop"), DONE]
    assert types_in(told(*stream))[2:-1] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.refusal.delta",
        "response.refusal.delta",
        "response.refusal.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    content = [{"type": "refusal", "refusal": "I won't."}]
    assert answer_of(*stream)["output"][0]["content"] == content
    assert whole(completion({"content": None, "refusal": "I won't."}))["output"][0]["content"] == content


def test_text_and_refusal_are_two_parts_of_one_message() -> None:
    events = events_in(told(chunk({"content": "Well. "}), chunk({"refusal": "No."}, "stop"), DONE))
    parts = [(event["content_index"], event["part"]["type"]) for event in events if event["type"].endswith("part.done")]
    assert parts == [(0, "output_text"), (1, "refusal")]
    assert len(events[-1]["response"]["output"]) == 1


def test_an_answer_without_words_is_an_empty_message() -> None:
    """openai-agents would ask again and again if there were neither a message nor a call."""
    stream = [chunk({"role": "assistant", "content": ""}), chunk(finish="stop"), DONE]
    content = [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]
    assert answer_of(*stream)["output"][0]["content"] == content
    assert whole(completion({"content": None}))["output"][0]["content"] == content


def test_reasoning_that_ate_all_tokens_is_no_message() -> None:
    answered = whole(completion({"content": "", "reasoning_content": "Hm"}, "length"))
    assert [item["type"] for item in answered["output"]] == ["reasoning"]


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"reasoning": "Hm", "content": "Yes"}, id="reasoning"),
        pytest.param({"reasoning": "Hm", "reasoning_content": "Hm", "content": "Yes"}, id="both-names"),
        pytest.param(
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]},
                    {"type": "text", "text": "Yes"},
                ]
            },
            id="parts",
        ),
    ],
)
def test_reasoning_is_found_under_every_name(message: dict[str, Any]) -> None:
    for answered in (whole(completion(message)), answer_of(chunk(message, "stop"), DONE)):
        assert [item["type"] for item in answered["output"]] == ["reasoning", "message"]
        assert answered["output"][0]["summary"][0]["text"] == "Hm"
        assert answered["output"][1]["content"][0]["text"] == "Yes"


def test_words_after_a_call_are_a_message_of_their_own() -> None:
    stream = [
        chunk({"content": "One."}),
        chunk(call_piece(0, "{}", "call_a", "weather")),
        chunk({"content": "Two."}, "stop"),
        DONE,
    ]
    assert [item["type"] for item in answer_of(*stream)["output"]] == ["message", "function_call", "message"]


def test_calls_with_one_index_are_told_apart_by_their_ids() -> None:
    stream = [
        chunk(call_piece(0, '{"city":"Oslo"}', "call_a", "weather")),
        chunk(call_piece(0, '{"city":"Rome"}', "call_b", "weather")),
        chunk(finish="tool_calls"),
        DONE,
    ]
    assert [item["call_id"] for item in answer_of(*stream)["output"]] == ["call_a", "call_b"]


def test_an_id_repeated_on_every_piece_is_one_call() -> None:
    stream = [chunk(call_piece(0, part, "call_a", "weather")) for part in ('{"city":', '"Oslo"}')]
    output = answer_of(*stream, chunk(finish="tool_calls"), DONE)["output"]
    assert [(item["name"], item["arguments"]) for item in output] == [("weather", '{"city":"Oslo"}')]


@pytest.mark.parametrize(("first", "rest"), [('{"a":', "{}}"), ('{"a":{}', "}")], ids=["open", "looks-closed"])
def test_interleaved_calls_are_put_together(first: str, rest: str) -> None:
    stream = [
        chunk(call_piece(0, first, "call_a", "weather")),
        chunk(call_piece(1, '{"b":', "call_b", "weather")),
        chunk(call_piece(0, rest)),
        chunk(call_piece(1, "2}")),
        chunk(finish="tool_calls"),
        DONE,
    ]
    output = answer_of(*stream)["output"]
    assert [(item["call_id"], item["arguments"]) for item in output] == [("call_a", '{"a":{}}'), ("call_b", '{"b":2}')]
    assert len([item for item in read_by_sdk(told(*stream)).output if item.type == "function_call"]) == 2


def test_a_call_that_goes_on_after_its_end_is_no_answer() -> None:
    stream = chunk(call_piece(0, "{}", "call_a", "w")) + chunk(call_piece(1, "{}", "call_b", "w"))
    chat = translator()
    chat.feed(stream)
    assert chat.feed(chunk(call_piece(0, " "))) == b""
    with pytest.raises(Untranslatable):
        chat.feed(chunk(call_piece(0, '{"more":1}')))


def test_pieces_without_an_index_belong_to_the_last_call() -> None:
    stream = [
        chunk(call_piece(None, "{", "call_a", "weather")),
        chunk(call_piece(None, "}")),
        chunk(finish="tool_calls"),
        DONE,
    ]
    assert answer_of(*stream)["output"][0]["arguments"] == "{}"


def test_a_name_that_comes_late_opens_the_call_with_what_was_said() -> None:
    stream = [
        chunk(call_piece(0, '{"a"', "call_a")),
        chunk(call_piece(0, ":1}", name="weather")),
        chunk(finish="stop"),
        DONE,
    ]
    output = answer_of(*stream)["output"]
    assert [(item["name"], item["arguments"]) for item in output] == [("weather", '{"a":1}')]


def test_a_call_without_a_name_is_no_answer() -> None:
    with pytest.raises(Untranslatable):
        told(chunk(call_piece(0, "{}", "call_a")), chunk(finish="tool_calls"), DONE)


@pytest.mark.parametrize("ids", [("", ""), (None, None), ("call_a", "call_a")], ids=["empty", "missing", "twice"])
def test_calls_always_have_ids_of_their_own(ids: tuple[str | None, str | None]) -> None:
    """OpenAI's stream helper refuses a response with two outputs of one call id."""
    calls = [{"id": call_id, "type": "function", "function": {"name": "weather", "arguments": "{}"}} for call_id in ids]
    made = [item["call_id"] for item in whole(completion({"content": None, "tool_calls": calls}))["output"]]
    assert len(set(made)) == 2
    assert all(made)


def test_custom_calls_are_told_with_their_input() -> None:
    def piece(text: str) -> bytes:
        return chunk({"tool_calls": [{"index": 0, "custom": {"input": text}}]})

    stream = [
        chunk({"tool_calls": [{"index": 0, "id": "call_a", "type": "custom", "custom": {"name": "sql", "input": ""}}]}),
        piece("SELECT"),
        piece(" 1"),
        chunk(finish="tool_calls"),
        DONE,
    ]
    assert types_in(told(*stream))[2:-1] == [
        "response.output_item.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
    ]
    message = {"tool_calls": [{"id": "call_a", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}]}
    expected = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_a", "name": "sql", "status": "completed"}
    for answered in (answer_of(*stream), whole(completion(message, "tool_calls"))):
        assert answered["output"] == [{**expected, "input": "SELECT 1"}]


def test_a_custom_call_ends_where_the_next_call_begins() -> None:
    custom = [
        {
            "tool_calls": [
                {"index": index, "id": f"call_{index}", "type": "custom", "custom": {"name": "sql", "input": "1"}}
            ]
        }
        for index in range(2)
    ]
    types = types_in(told(chunk(custom[0]), chunk(custom[1]), chunk(finish="tool_calls"), DONE))[2:-1]
    assert types[3:5] == ["response.output_item.done", "response.output_item.added"]
    assert types[:4] == types[4:]


def test_logprobs_reach_the_part_and_the_deltas() -> None:
    token = {
        "token": "Hi",
        "logprob": -0.5,
        "bytes": None,
        "top_logprobs": [{"token": "Yo", "logprob": -1.5, "bytes": [89, 111]}],
    }
    body = completion({"content": "Hi"}, logprobs={"content": [token]})
    assert whole(body)["output"][0]["content"][0]["logprobs"] == [
        {
            "token": "Hi",
            "bytes": [72, 105],
            "logprob": -0.5,
            "top_logprobs": [{"token": "Yo", "bytes": [89, 111], "logprob": -1.5}],
        }
    ]
    choice = {"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": [token]}, "finish_reason": "stop"}
    events = events_in(told(b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n", DONE))
    short = [{"token": "Hi", "logprob": -0.5, "top_logprobs": [{"token": "Yo", "logprob": -1.5}]}]
    assert [event["logprobs"] for event in events if "output_text" in event["type"]] == [short, short]


def test_the_response_repeats_the_request() -> None:
    request = {
        "model": "m",
        "input": "hi",
        "instructions": "Be brief.",
        "max_output_tokens": 50,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "previous_response_id": "resp_0",
        "reasoning": {"effort": "low"},
        "store": False,
        "temperature": 0.2,
        "text": {"verbosity": "low"},
        "tool_choice": {"type": "function", "name": "weather"},
        "tools": [{"type": "function", "name": "weather"}, {"type": "custom", "name": "sql"}],
        "top_p": 0.9,
        "truncation": "auto",
        "user": "u",
        "conversation": "conv_1",
    }
    response = whole(completion({"content": "Hi"}), request)
    repeated = "instructions max_output_tokens metadata parallel_tool_calls previous_response_id store".split()
    repeated += "temperature tool_choice top_p truncation user".split()
    assert {field: response[field] for field in repeated} == {field: request[field] for field in repeated}
    assert response["reasoning"] == {"effort": "low", "summary": None}
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert response["tools"][0] == {"type": "function", "name": "weather", "parameters": None, "strict": None}
    assert response["conversation"] == {"id": "conv_1"}


def test_a_response_has_every_field_with_openais_defaults() -> None:
    response = whole(completion({"content": "Hi"}), {"model": "m", "input": "hi"})
    fields = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1790000000,
        "model": "m",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "store": True,
        "truncation": "disabled",
        "background": False,
        "usage": None,
        "user": None,
        "previous_response_id": None,
    }
    assert {field: response[field] for field in fields} == fields


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param([], None, id="no-object"),
        pytest.param({"prompt_tokens": 1}, None, id="half"),
        pytest.param({"prompt_tokens": -1, "completion_tokens": 1}, None, id="negative"),
        pytest.param({"prompt_tokens": True, "completion_tokens": 1}, None, id="boolean"),
        pytest.param({"prompt_tokens": 3, "completion_tokens": 2}, (3, 0, 0, 2, 0, 5), id="totals"),
        pytest.param(
            {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, "prompt_cache_hit_tokens": 4},
            (9, 4, 0, 2, 0, 11),
            id="deepseek-cache",
        ),
        pytest.param(
            {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cache_write_tokens": 5, "cached_tokens": None},
            },
            (9, 0, 5, 2, 0, 11),
            id="cache-write",
        ),
        pytest.param(
            {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "total_tokens": 18,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            (9, 0, 0, 9, 7, 18),
            id="reasoning-beside-the-completion",
        ),
        pytest.param(
            {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 18},
            (9, 0, 0, 2, 0, 18),
            id="a-total-that-says-more-stays",
        ),
    ],
)
def test_usage_gets_the_names_of_responses(usage: object, expected: tuple[int, ...] | None) -> None:
    made = response_usage(usage)
    if expected is None:
        assert made is None
    else:
        assert made is not None
        read, written = made["input_tokens_details"], made["output_tokens_details"]
        assert expected == (
            made["input_tokens"],
            read["cached_tokens"],
            read["cache_write_tokens"],
            made["output_tokens"],
            written["reasoning_tokens"],
            made["total_tokens"],
        )


def test_usage_on_the_finishing_chunk_counts() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    answered = answer_of(chunk({"content": "Hi"}), chunk(finish="stop", usage=usage), DONE)
    assert answered["usage"]["total_tokens"] == 5


def test_a_first_chunk_without_choices_opens_the_response() -> None:
    """Azure sends the verdict of its filter before anything else."""
    first = b'data: {"choices":[],"prompt_filter_results":[]}\n\n'
    assert types_in(told(first, TEXT)) == types_in(told(TEXT))


def test_only_the_first_choice_is_told() -> None:
    other = b'data: {"choices":[{"index":1,"delta":{"content":"Other"},"finish_reason":"length"}]}\n\n'
    assert told(other, TEXT) == told(TEXT)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[1]}',
        b'{"choices":[{}]}',
        b'{"error":{"message":"x"}}',
    ],
)
def test_a_body_that_is_no_completion_is_refused(body: bytes) -> None:
    with pytest.raises(Untranslatable):
        translator().whole(body)


@pytest.mark.parametrize("payload", [b"{", b"[1]", b"hello", b'{"choices":NaN}'])
def test_an_event_that_is_no_json_object_is_refused(payload: bytes) -> None:
    chat = translator()
    chat.feed(chunk({"content": "Hi"}))
    with pytest.raises(Untranslatable):
        chat.feed(b"data: " + payload + b"\n\n")


def test_a_report_of_usage_that_is_no_json_is_none() -> None:
    stream = [chunk({"content": "Hi"}, "stop"), b'data: {"choices":[],"usage":{"prompt_tokens":NaN}}\n\n', DONE]
    assert answer_of(*stream)["usage"] is None


def test_the_tier_is_the_one_that_served() -> None:
    """The tier asked for stands in the response in progress; only the provider knows the one that is priced."""
    request = {**REQUEST, "service_tier": "flex"}
    assert answer_of(chunk({"content": "Hi"}, "stop"), DONE, request=request)["service_tier"] is None
    first, *_, last = events_in(told(chunk({"content": "Hi"}, "stop", service_tier="default"), DONE, request=request))
    assert (first["response"]["service_tier"], last["response"]["service_tier"]) == ("flex", "default")


def test_a_stream_above_the_bound_is_refused() -> None:
    chat = translator(answer_bytes_max=1_000)
    chat.feed(b"data: " + b"." * 900)
    with pytest.raises(Untranslatable):
        chat.feed(b"." * 100)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["id", "index", "text", "type"]), inner, max_size=2)
    ),
    max_leaves=4,
)
FIELDS = st.sampled_from(
    "content reasoning_content reasoning refusal tool_calls role function custom name arguments".split()
)


@given(
    st.lists(
        st.dictionaries(FIELDS, JSON | st.lists(st.dictionaries(FIELDS, JSON, max_size=3), max_size=2)), max_size=4
    ),
    JSON,
    JSON,
)
def test_whatever_a_provider_sends_nothing_else_is_raised(deltas: list[Any], usage: Any, finish: Any) -> None:
    """And whatever comes out is what OpenAI's models accept."""
    chat = translator()
    try:
        pieces = [
            b"data: " + orjson.dumps({"choices": [{"delta": delta, "logprobs": delta}]}) + b"\n\n" for delta in deltas
        ]
        last = b"data: " + orjson.dumps({"choices": [{"finish_reason": finish}], "usage": usage}) + b"\n\n"
        stream = b"".join(map(chat.feed, [*pieces, last, DONE])) + chat.finish()
    except Untranslatable:
        return
    events_in(stream)


def test_an_error_answer_passes_as_it_is() -> None:
    body = b'{"error":{"message":"No.","type":"t","param":null,"code":null}}'
    assert translator().refusal(429, body) == body
