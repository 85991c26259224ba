"""A Responses request told in the words of chat, item by item and field by field."""

from collections.abc import Callable
from itertools import count
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.responses import Response, ResponseItem
from pydantic import TypeAdapter

from gateway.chat import read_chat_request
from gateway.errors import RequestError
from gateway.responses.chat_body import chat_body, input_items
from gateway.responses.from_chat import FromChat

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
SQL = {"type": "custom", "name": "sql"}
CHAT: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsNonStreaming)
ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)
PNG = "data:image/png;base64,AAAA"


def numbered_ids() -> Callable[[str], str]:
    numbers = count(1)
    return lambda prefix: f"{prefix}_{next(numbers)}"


def chat(*items: Any, **fields: Any) -> dict[str, Any]:
    """The chat request, once OpenAI's own types and the chat endpoint have taken it."""
    made = chat_body({"model": "m", "input": list(items), **fields}, items)
    if not made.get("stream"):
        CHAT.validate_python(made)
    read_chat_request(orjson.dumps(made))
    return made


def messages(*items: Any, **fields: Any) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = chat(*items, **fields)["messages"]
    return made


def refused(*items: Any, **fields: Any) -> tuple[str | None, str | None]:
    """Param and code of the refusal."""
    with pytest.raises(RequestError) as refusal:
        chat_body({"model": "m", "input": list(items), **fields}, items)
    assert refusal.value.status == 400
    return refusal.value.param, refusal.value.code


def user(content: Any = "hi") -> dict[str, Any]:
    return {"role": "user", "content": content}


def call(call_id: str, arguments: str = "{}", **fields: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "weather", "arguments": arguments, **fields}


def output(call_id: str, text: Any = "4 C") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def chat_call(call_id: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": arguments}}


def tool(call_id: str, content: Any = "4 C") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_instructions_come_first_as_a_system_message() -> None:
    assert messages(user(), instructions="Be brief.") == [{"role": "system", "content": "Be brief."}, user()]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        pytest.param(user(), user(), id="easy"),
        pytest.param({"type": "message", **user()}, user(), id="typed"),
        pytest.param({"role": "system", "content": "x"}, {"role": "system", "content": "x"}, id="system"),
        pytest.param({"role": "developer", "content": "x"}, {"role": "system", "content": "x"}, id="developer"),
        pytest.param({"role": "assistant", "content": "x"}, {"role": "assistant", "content": "x"}, id="assistant"),
        pytest.param(user([{"type": "input_text", "text": "x"}]), user("x"), id="one-text"),
        pytest.param(user([]), user(""), id="nothing"),
        pytest.param(
            user([{"type": "input_text", "text": "a"}, {"type": "text", "text": "b"}]),
            user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
            id="two-texts",
        ),
        pytest.param(
            user([{"type": "input_image", "image_url": PNG, "detail": "low"}]),
            user([{"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}]),
            id="image",
        ),
        pytest.param(
            user([{"type": "input_image", "image_url": "https://example.com/a.png", "file_id": None, "detail": None}]),
            user([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]),
            id="image-url",
        ),
        pytest.param(
            user([{"type": "input_file", "file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}]),
            user([{"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}}]),
            id="file",
        ),
        pytest.param(
            user([{"type": "input_file", "file_data": "data:text/plain;base64,AA"}]),
            user([{"type": "file", "file": {"file_data": "data:text/plain;base64,AA"}}]),
            id="file-without-a-name",
        ),
        pytest.param(
            user([{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]),
            user([{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]),
            id="audio",
        ),
        pytest.param(
            {
                "id": "msg_1",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "phase": "final_answer",
                "content": [
                    {"type": "output_text", "text": "a", "annotations": [], "logprobs": []},
                    {"type": "output_text", "text": "b", "annotations": [], "logprobs": []},
                ],
            },
            {"role": "assistant", "content": "ab"},
            id="output-sent-back",
        ),
        pytest.param(
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {"role": "assistant", "content": "No."},
            id="refusal",
        ),
    ],
)
def test_a_message_item_becomes_a_message(item: dict[str, Any], message: dict[str, Any]) -> None:
    assert messages(item) == [message]


def test_a_call_and_its_output_become_a_turn_and_a_tool_message() -> None:
    assert messages(user(), call("a"), output("a")) == [
        user(),
        {"role": "assistant", "content": None, "tool_calls": [chat_call("a")]},
        tool("a"),
    ]


def test_what_the_assistant_said_and_called_is_one_message() -> None:
    said = {"role": "assistant", "content": "Let me look."}
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    items = [user(), reasoning, said, call("a"), reasoning, call("b"), output("a"), output("b"), said, user("thanks")]
    assert messages(*items) == [
        user(),
        {**said, "tool_calls": [chat_call("a"), chat_call("b")]},
        tool("a"),
        tool("b"),
        said,
        user("thanks"),
    ]


def test_words_after_a_call_join_the_message_before_its_outputs() -> None:
    """Chat allows nothing between calls and their outputs."""
    items = [call("a"), {"role": "assistant", "content": "One."}, {"role": "assistant", "content": "Two."}, output("a")]
    assert messages(*items) == [
        {"role": "assistant", "content": "One.\n\nTwo.", "tool_calls": [chat_call("a")]},
        tool("a"),
    ]


def test_calls_answered_one_by_one_are_turns_of_their_own() -> None:
    assert [message["role"] for message in messages(call("a"), output("a"), call("b"), output("b"))] == [
        "assistant",
        "tool",
        "assistant",
        "tool",
    ]


def test_two_messages_of_the_assistant_stay_two() -> None:
    said = {"role": "assistant", "content": "x"}
    assert messages(said, said) == [said, said]


def test_an_empty_message_of_the_assistant_is_left_out() -> None:
    empty = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": ""}]}
    assert messages(user("a"), empty, user("b")) == [user("a"), user("b")]


def test_custom_calls_and_their_outputs() -> None:
    items = [
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "a", "name": "sql", "input": "SELECT 1"},
        {"type": "custom_tool_call_output", "call_id": "a", "output": "1"},
    ]
    assert messages(*items) == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}],
        },
        tool("a", "1"),
    ]


def test_the_text_parts_of_an_output_are_its_content() -> None:
    one, two = ({"type": "input_text", "text": text} for text in "ab")
    assert messages(call("a"), output("a", [one]))[1] == tool("a", "a")
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages(call("a"), output("a", [one, two]))[1] == tool("a", parts)


def test_images_of_outputs_are_shown_behind_all_outputs() -> None:
    image = {"type": "input_image", "image_url": PNG}
    text = {"type": "input_text", "text": "A map"}
    items = [call("a"), call("b"), output("a", [image]), output("b", [text, image]), user("Where?")]
    shown = {"type": "image_url", "image_url": {"url": PNG}}
    assert messages(*items)[1:] == [
        tool("a", "The output is in the next message of the user."),
        tool("b", "A map"),
        user(
            [
                {"type": "text", "text": "Output of tool call a:"},
                shown,
                {"type": "text", "text": "Output of tool call b:"},
                shown,
            ]
        ),
        user("Where?"),
    ]
    assert messages(*items[:3])[-1]["content"][1] == shown


@pytest.mark.parametrize(
    ("item", "param", "code"),
    [
        pytest.param("text", "input[0]", "invalid_value", id="string"),
        pytest.param({}, "input[0].type", "invalid_value", id="nothing"),
        pytest.param({"type": ["message"]}, "input[0].type", "invalid_value", id="odd-type"),
        pytest.param({"type": "web_search_call"}, "input[0].type", "unsupported_parameter", id="hosted"),
        pytest.param({"type": "compaction"}, "input[0].type", "unsupported_parameter", id="compaction"),
        pytest.param({"type": "x\n" * 99}, "input[0].type", "unsupported_parameter", id="unspeakable"),
        pytest.param({"type": "item_reference", "id": "msg_1"}, "input[0]", "invalid_value", id="reference"),
        pytest.param({"role": "tool", "content": "x"}, "input[0].role", "invalid_value", id="role"),
        pytest.param({"role": ["user"], "content": "x"}, "input[0].role", "invalid_value", id="odd-role"),
        pytest.param({"role": "user"}, "input[0].content", "invalid_value", id="no-content"),
        pytest.param(user(["x"]), "input[0].content[0]", "invalid_value", id="odd-part"),
        pytest.param(user([{"type": "video"}]), "input[0].content[0].type", "invalid_value", id="part"),
        pytest.param(user([{"type": ["text"]}]), "input[0].content[0].type", "invalid_value", id="odd-part-type"),
        pytest.param(user([{"type": "input_text"}]), "input[0].content[0].text", "invalid_value", id="no-text"),
        pytest.param(
            user([{"type": "input_image", "file_id": "f"}]),
            "input[0].content[0].file_id",
            "unsupported_parameter",
            id="stored-image",
        ),
        pytest.param(
            user([{"type": "input_file", "file_url": "https://example.com"}]),
            "input[0].content[0].file_url",
            "unsupported_parameter",
            id="file-url",
        ),
        pytest.param(
            user([{"type": "input_file", "file_id": "f"}]),
            "input[0].content[0].file_id",
            "unsupported_parameter",
            id="stored-file",
        ),
        pytest.param(
            user([{"type": "input_audio", "input_audio": "x"}]),
            "input[0].content[0].input_audio",
            "invalid_value",
            id="audio",
        ),
        pytest.param(
            {"role": "system", "content": [{"type": "input_image", "image_url": PNG}]},
            "input[0].content",
            "invalid_value",
            id="system-image",
        ),
        pytest.param(
            {"role": "assistant", "content": [{"type": "input_image", "image_url": PNG}]},
            "input[0].content[0].type",
            "invalid_value",
            id="assistant-image",
        ),
        pytest.param(call(""), "input[0].call_id", "invalid_value", id="call-id"),
        pytest.param(call("a", arguments=None), "input[0].arguments", "invalid_value", id="arguments"),  # type: ignore[arg-type]
        pytest.param(output("a"), "input[0].call_id", "invalid_value", id="output-of-nothing"),
    ],
)
def test_what_cannot_be_said_is_refused_at_its_place(item: Any, param: str, code: str) -> None:
    assert refused(item) == (param, code)


def test_places_are_counted_as_the_caller_counts_them() -> None:
    """The call sent one item; the two before it come from an earlier response."""
    items = [user(), {"role": "assistant", "content": "x"}, {"type": "mcp_call"}]
    with pytest.raises(RequestError) as refusal:
        chat_body({"model": "m", "input": items[2:]}, items)
    assert refusal.value.param == "input[0].type"
    with pytest.raises(RequestError) as refusal:
        chat_body({"model": "m", "input": "hi"}, [{"type": "mcp_call"}, user()])
    assert refusal.value.param == "input.type"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}, id="sampling"),
        pytest.param({"max_output_tokens": 9}, {"max_completion_tokens": 9}, id="bound"),
        pytest.param({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}, id="effort"),
        pytest.param({"text": {"verbosity": "low"}}, {"verbosity": "low"}, id="verbosity"),
        pytest.param({"text": {"format": {"type": "text"}}}, {}, id="text"),
        pytest.param(
            {"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}, id="json"
        ),
        pytest.param(
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"a": 1}, "strict": True},
                }
            },
            id="schema",
        ),
        pytest.param(
            {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "flex"},
            {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "flex"},
            id="as-they-are",
        ),
        pytest.param({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}, id="top-logprobs"),
        pytest.param({"include": ["message.output_text.logprobs"]}, {"logprobs": True}, id="logprobs"),
        pytest.param({"top_logprobs": 0}, {}, id="no-logprobs"),
        pytest.param(
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            {"stream": True, "stream_options": {"include_usage": True}},
            id="stream",
        ),
        pytest.param({"stream": False}, {}, id="no-stream"),
        pytest.param(
            {
                "store": True,
                "metadata": {"a": "b"},
                "truncation": "auto",
                "previous_response_id": "resp_1",
                "conversation": "conv_1",
                "max_tool_calls": 3,
                "include": ["reasoning.encrypted_content"],
                "background": False,
                "prompt": None,
                "prompt_cache_options": {"mode": "implicit"},
                "tool_choice": "auto",
                "parallel_tool_calls": True,
                "tools": [],
            },
            {},
            id="left-out",
        ),
    ],
)
def test_fields_get_the_names_of_chat(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(user(), **fields) == {"model": "m", "messages": [user()], **expected}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        pytest.param({"background": True}, "background", "unsupported_parameter", id="background"),
        pytest.param({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter", id="prompt"),
        pytest.param({"moderation": {"model": "x"}}, "moderation", "unsupported_parameter", id="moderation"),
        pytest.param(
            {"context_management": [{"type": "compaction"}]},
            "context_management",
            "unsupported_parameter",
            id="context",
        ),
        pytest.param({"n": 2}, "n", "unsupported_parameter", id="unknown"),
        pytest.param({"x" * 99: 2}, "this field", "unsupported_parameter", id="unspeakable"),
        pytest.param({"instructions": ["x"]}, "instructions", "invalid_value", id="instructions"),
        pytest.param({"include": "x"}, "include", "invalid_value", id="include"),
        pytest.param({"include": ["secrets"]}, "include[0]", "invalid_value", id="included"),
        pytest.param({"include": [{}]}, "include[0]", "invalid_value", id="included-object"),
        pytest.param({"stream": "yes"}, "stream", "invalid_value", id="stream"),
        pytest.param({"max_output_tokens": 0}, "max_output_tokens", "invalid_value", id="bound"),
        pytest.param({"top_logprobs": 21}, "top_logprobs", "invalid_value", id="logprobs"),
        pytest.param({"text": "x"}, "text", "invalid_value", id="text"),
        pytest.param({"text": {"format": "x"}}, "text.format", "invalid_value", id="format"),
        pytest.param({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value", id="xml"),
        pytest.param(
            {"text": {"format": {"type": "json_schema", "name": "n"}}},
            "text.format.schema",
            "missing_required_parameter",
            id="schema",
        ),
        pytest.param({"reasoning": {"mode": "pro"}}, "reasoning.mode", "unsupported_parameter", id="pro"),
        pytest.param(
            {"prompt_cache_options": {"prewarm": True}},
            "prompt_cache_options.prewarm",
            "unsupported_parameter",
            id="prewarm",
        ),
        pytest.param({"tools": {}}, "tools", "invalid_value", id="tools"),
        pytest.param({"tools": ["x"]}, "tools[0]", "invalid_value", id="tool"),
        pytest.param({"tools": [WEATHER, {"type": "mcp"}]}, "tools[1].type", "unsupported_parameter", id="mcp"),
        pytest.param({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter", id="search"),
        pytest.param(
            {"tools": [{"type": "function", "function": {"name": "x"}}]},
            "tools[0].name",
            "missing_required_parameter",
            id="nested",
        ),
        pytest.param({"tools": [{**SQL, "format": "x"}]}, "tools[0].format", "invalid_value", id="custom-format"),
        pytest.param({"tool_choice": "required"}, "tool_choice", "invalid_value", id="choice-of-nothing"),
        pytest.param({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice", "invalid_value", id="choice"),
        pytest.param({"tools": [WEATHER], "tool_choice": {"type": "mcp"}}, "tool_choice", "invalid_value", id="hosted"),
        pytest.param(
            {"tools": [WEATHER], "parallel_tool_calls": "x"}, "parallel_tool_calls", "invalid_value", id="parallel"
        ),
        pytest.param(
            {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [SQL]}},
            "tool_choice.tools[0]",
            "invalid_value",
            id="allowed-unknown",
        ),
        pytest.param(
            {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
            "tool_choice.tools",
            "invalid_value",
            id="allowed-none",
        ),
        pytest.param(
            {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "tools": [WEATHER]}},
            "tool_choice",
            "invalid_value",
            id="allowed-mode",
        ),
    ],
)
def test_fields_that_cannot_be_honoured_are_refused(fields: dict[str, Any], param: str, code: str) -> None:
    assert refused(user(), **fields) == (param, code)


def test_flat_tools_are_nested_for_chat() -> None:
    tools = [
        {**WEATHER, "description": "d", "output_schema": None, "defer_loading": False},
        {"type": "function", "name": "now", "parameters": None, "strict": None},
        {**SQL, "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        {**SQL, "name": "say", "format": {"type": "text"}},
    ]
    assert chat(user(), tools=tools, parallel_tool_calls=False) == {
        "model": "m",
        "messages": [user()],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "description": "d",
                    "parameters": {"type": "object"},
                    "strict": True,
                },
            },
            {"type": "function", "function": {"name": "now"}},
            {
                "type": "custom",
                "custom": {
                    "name": "sql",
                    "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}},
                },
            },
            {"type": "custom", "custom": {"name": "say", "format": {"type": "text"}}},
        ],
        "parallel_tool_calls": False,
    }


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        pytest.param("auto", "auto", id="auto"),
        pytest.param("none", "none", id="none"),
        pytest.param("required", "required", id="required"),
        pytest.param(
            {"type": "function", "name": "weather"},
            {"type": "function", "function": {"name": "weather"}},
            id="function",
        ),
        pytest.param({"type": "custom", "name": "sql"}, {"type": "custom", "custom": {"name": "sql"}}, id="custom"),
    ],
)
def test_a_choice_of_tool_is_told(choice: Any, expected: Any) -> None:
    assert chat(user(), tools=[WEATHER, SQL], tool_choice=choice)["tool_choice"] == expected


def test_allowed_tools_are_the_only_ones_offered() -> None:
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "sql"}]}
    made = chat(user(), tools=[WEATHER, SQL], tool_choice=choice)
    assert (made["tools"], made["tool_choice"]) == ([{"type": "custom", "custom": {"name": "sql"}}], "required")


def test_a_text_as_input_is_a_message_of_the_user() -> None:
    assert input_items("hi", numbered_ids()) == [
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "hi"}],
            "id": "msg_1",
            "status": "completed",
        }
    ]


def test_items_get_ids_where_they_have_none() -> None:
    sent = [
        user(),
        {"role": "assistant", "content": "x", "id": "msg_mine"},
        call("a", id=None),
        output("a"),
        {"type": "custom_tool_call", "call_id": "b", "name": "sql", "input": ""},
        {"type": "custom_tool_call_output", "call_id": "b", "output": ""},
        {"type": "reasoning", "summary": []},
    ]
    listed = input_items(sent, numbered_ids())
    assert [item["id"] for item in listed] == ["msg_1", "msg_mine", "fc_2", "fco_3", "ctc_4", "ctco_5", "rs_6"]
    assert listed[1]["content"] == [{"type": "output_text", "text": "x", "annotations": []}]
    assert "status" not in listed[6]
    for item in listed:
        assert ITEM.validate_python(item).id == item["id"]
    assert sent[0] == user(), "what the caller sent is left as it is"


def test_listed_items_say_what_was_sent() -> None:
    sent = [user(), {"role": "assistant", "content": "x"}, call("a"), output("a")]
    assert messages(*input_items(sent, numbered_ids())) == messages(*sent)


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        (None, "input"),
        (5, "input"),
        ({}, "input"),
        (["x"], "input[0]"),
        ([{"content": "x"}], "input[0].type"),
        ([{"type": 5, "role": "user"}], "input[0].type"),
    ],
)
def test_an_input_that_is_no_list_of_items_is_refused(sent: Any, param: str) -> None:
    with pytest.raises(RequestError) as refusal:
        input_items(sent, numbered_ids())
    assert refusal.value.param == param


def test_a_loop_of_tool_calls_round_trips_through_both_translations() -> None:
    """What a response's output says is resent as input, as SDKs do, and reads as the chat message it was made from."""
    message = {
        "role": "assistant",
        "content": "Let me look.",
        "tool_calls": [chat_call("a", '{"city":"Oslo"}'), chat_call("b", '{"city":"Rome"}')],
    }
    completion = {"choices": [{"message": {**message, "reasoning_content": "Hm"}, "finish_reason": "tool_calls"}]}
    body: dict[str, Any] = {"model": "m", "input": "Weather?", "tools": [WEATHER]}
    first = FromChat("resp_1", 0, body, "m", numbered_ids())
    response = Response.model_validate_json(first.whole(orjson.dumps(completion)))
    sent_back = [item.model_dump(exclude_none=False) for item in response.output]
    history = [*input_items("Weather?", numbered_ids()), *sent_back, output("a", "4 C"), output("b", "20 C")]
    assert messages(*history, tools=[WEATHER]) == [
        user("Weather?"),
        message,
        tool("a", "4 C"),
        tool("b", "20 C"),
    ]
    second = FromChat("resp_2", 0, body, "m", numbered_ids())
    answer = {"choices": [{"message": {"content": "Rome."}, "finish_reason": "stop"}]}
    final = Response.model_validate_json(second.whole(orjson.dumps(answer)))
    assert final.output_text == "Rome."
    sent_back = [item.model_dump(exclude_unset=True) for item in final.output]
    assert messages(*history, *sent_back, user("Thanks"))[-2:] == [
        {"role": "assistant", "content": "Rome."},
        user("Thanks"),
    ]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from(["", "a", "user", "text", "input_text", "function"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "text", "role", "name", "format", "mode", "tools"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)
KINDS = st.sampled_from(
    [
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "reasoning",
        5,
        None,
    ]
)
ITEM_FIELDS = ["role", "content", "call_id", "name", "arguments", "input", "output", "id"]
ITEMS = st.builds(lambda kind, item: {"type": kind, **item}, KINDS, st.dictionaries(st.sampled_from(ITEM_FIELDS), JSON))
FIELDS = ["tools", "tool_choice", "text", "reasoning", "include", "top_logprobs", "instructions", "stream", "prompt"]


@given(st.lists(ITEMS | JSON, max_size=4), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
def test_whatever_is_sent_is_translated_or_refused(items: list[Any], fields: dict[str, Any]) -> None:
    try:
        listed = input_items(items, numbered_ids())
        made = chat_body({"model": "m", "input": items, **fields}, listed)
    except RequestError as refusal:
        told = (refusal.status, bool(refusal.param))
    else:
        told = (400, all(message["role"] in ("system", "user", "assistant", "tool") for message in made["messages"]))
    assert told == (400, True)
