"""Chat completions as Anthropic is asked them: tables of what becomes what, and of what is refused."""

import base64
from typing import Any

import pytest

from gateway.errors import RequestError
from gateway.providers.anthropic_request import messages_body

HAIKU = "claude-haiku-4-5"
ASK: dict[str, Any] = {"role": "user", "content": "hi"}
MARK = {"type": "ephemeral"}
PNG = "iVBORw0KGgo="


def asked(**fields: Any) -> dict[str, Any]:
    return messages_body({"model": HAIKU, "messages": [ASK], **fields})


def said(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return list(asked(messages=list(messages))["messages"])


def refused(**fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        asked(**fields)
    assert caught.value.status == 400
    return caught.value


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def function(name: str = "look", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def call(call_id: str, arguments: str, name: str = "look") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_plain_request_gets_a_bound_and_nothing_else() -> None:
    assert asked() == {
        "model": HAIKU,
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [text("hi")]}],
    }


# Messages


def test_system_and_developer_messages_become_the_system_wherever_they_stood() -> None:
    body = asked(
        messages=[
            {"role": "system", "content": "one"},
            ASK,
            {"role": "developer", "content": [text("two", cache_control=MARK)]},
        ]
    )
    assert body["system"] == [text("one"), text("two", cache_control=MARK)]
    assert body["messages"] == [{"role": "user", "content": [text("hi")]}]


def test_results_of_one_round_of_tools_stand_in_one_turn_with_what_the_user_says_next() -> None:
    turns = said(
        ASK,
        {"role": "assistant", "content": "Looking.", "tool_calls": [call("call_1", '{"a": 1}'), call("call:2", "")]},
        {"role": "tool", "tool_call_id": "call_1", "content": "yes"},
        {"role": "tool", "tool_call_id": "call:2", "content": [text("no")]},
        {"role": "user", "content": "and now?"},
    )
    assert turns[1:] == [
        {
            "role": "assistant",
            "content": [
                text("Looking."),
                {"type": "tool_use", "id": "call_1", "name": "look", "input": {"a": 1}},
                {"type": "tool_use", "id": "call_2", "name": "look", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [text("yes")]},
                {"type": "tool_result", "tool_use_id": "call_2", "content": [text("no")]},
                text("and now?"),
            ],
        },
    ]


def test_a_result_may_be_empty_or_an_image() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://img.example/a.png"}}
    turns = said(
        ASK,
        {"role": "assistant", "content": None, "tool_calls": [call("a", "{}"), call("b", "{}")]},
        {"role": "tool", "tool_call_id": "a", "content": ""},
        {"role": "tool", "tool_call_id": "b", "content": [image]},
    )
    source = {"type": "url", "url": "https://img.example/a.png"}
    assert turns[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a"},
        {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "image", "source": source}]},
    ]


def test_what_the_model_said_comes_back_as_text_without_its_thoughts() -> None:
    turns = said(
        ASK,
        {"role": "assistant", "content": "a", "reasoning_content": "hm", "refusal": None, "annotations": []},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": ""},
    )
    assert [turn["content"] for turn in turns[1:]] == [[text("a")], [text("b")], [text("no")], [text("c")]]


@pytest.mark.parametrize(
    ("part", "block"),
    [
        pytest.param(text("x"), text("x"), id="text"),
        pytest.param(text("x", cache_control={**MARK, "ttl": "5m"}), text("x", cache_control=MARK), id="cached text"),
        pytest.param(
            {"type": "image_url", "image_url": {"url": f"data:image/jpg;base64,{PNG}", "detail": "high"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": PNG}},
            id="an image in the request",
        ),
        pytest.param(
            {"type": "image_url", "image_url": {"url": "HTTPS://img.example/a.png?x=1"}, "cache_control": MARK},
            {"type": "image", "source": {"type": "url", "url": "HTTPS://img.example/a.png?x=1"}, "cache_control": MARK},
            id="an image elsewhere, which is not fetched",
        ),
        pytest.param(
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}},
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
                "title": "a.pdf",
            },
            id="a PDF",
        ),
        pytest.param(
            {"type": "file", "file": {"file_data": "data:text/plain;charset=utf-8;base64,w7w="}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "ü"}},
            id="plain text",
        ),
    ],
)
def test_a_part_becomes_a_block(part: dict[str, Any], block: dict[str, Any]) -> None:
    assert said({"role": "user", "content": [part]}) == [{"role": "user", "content": [block]}]


def test_a_mark_on_a_message_is_one_on_its_last_block() -> None:
    assert said({**ASK, "cache_control": MARK})[0]["content"] == [text("hi", cache_control=MARK)]


def part(**fields: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [fields]}]


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        pytest.param("hi", "messages", id="no array"),
        pytest.param([], "messages", id="none"),
        pytest.param(["hi"], "messages[0]", id="no object"),
        pytest.param([{"role": "system", "content": "x"}], "messages", id="system only"),
        pytest.param([{"role": "function", "name": "f", "content": "x"}], "messages[0].role", id="a function"),
        pytest.param([{"role": "user", "content": ""}], "messages[0].content", id="nothing said"),
        pytest.param([{"role": "user", "content": 5}], "messages[0].content", id="a number"),
        pytest.param([{"role": "user", "content": ["x"]}], "messages[0].content[0]", id="a bare string"),
        pytest.param(part(type="input_audio", input_audio={}), "messages[0].content[0].type", id="audio"),
        pytest.param(part(type="text", text=None), "messages[0].content[0].text", id="no text"),
        pytest.param(part(type="image_url", image_url={}), "image_url.url", id="no url"),
        pytest.param(part(type="image_url", image_url={"url": "http://a/b.png"}), "image_url.url", id="http"),
        pytest.param(
            part(type="image_url", image_url={"url": "data:image/tiff;base64,aaaa"}), "image_url.url", id="tiff"
        ),
        pytest.param(part(type="image_url", image_url={"url": "data:image/png,aaaa"}), "base64", id="no base64"),
        pytest.param(part(type="file", file={"file_id": "file-1"}), "file.file_data", id="a file id"),
        pytest.param(part(type="file", file={"file_data": "data:text/csv;base64,aaaa"}), "file.file_data", id="csv"),
        pytest.param(part(type="file", file={"file_data": "data:text/plain;base64,/w=="}), "UTF-8", id="not utf-8"),
        pytest.param(part(type="text", text="x", cache_control={"type": "x"}), "cache_control", id="another mark"),
        pytest.param([ASK, {"role": "tool", "content": "x"}], "messages[1].tool_call_id", id="a result of nothing"),
        pytest.param(
            [ASK, {"role": "assistant", "function_call": {"name": "f"}}], "messages[1].function_call", id="old call"
        ),
        pytest.param(
            [ASK, {"role": "assistant", "tool_calls": [call("a", "[1]")]}],
            "messages[1].tool_calls[0].function.arguments",
            id="arguments that are no object",
        ),
        pytest.param(
            [ASK, {"role": "assistant", "tool_calls": [call("a", "{")]}],
            "messages[1].tool_calls[0].function.arguments",
            id="arguments that are no JSON",
        ),
        pytest.param(
            [ASK, {"role": "assistant", "tool_calls": [{**call("a", ""), "type": "custom"}]}],
            "messages[1].tool_calls[0].type",
            id="a custom call",
        ),
    ],
)
def test_what_cannot_be_said_is_refused_by_its_place(messages: Any, named: str) -> None:
    error = refused(messages=messages)
    assert named in error.message
    assert error.param == "messages"


def test_no_refusal_repeats_what_a_part_holds() -> None:
    secret = base64.b64encode(b"\xff secret").decode()
    error = refused(messages=part(type="file", file={"file_data": f"data:text/plain;base64,{secret}"}))
    assert secret not in error.message


def test_an_hour_in_the_cache_is_refused_because_its_writes_have_no_price() -> None:
    error = refused(messages=[{**ASK, "cache_control": {**MARK, "ttl": "1h"}}])
    assert error.code == "unpriced_feature"


# Fields


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"max_tokens": 7}, {"max_tokens": 7}, id="max_tokens"),
        pytest.param({"max_tokens": 7, "max_completion_tokens": 9}, {"max_tokens": 9}, id="both bounds"),
        pytest.param({"stop": "END"}, {"stop_sequences": ["END"]}, id="one stop"),
        pytest.param({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}, id="stops"),
        pytest.param({"temperature": 1.7}, {"temperature": 1}, id="a high temperature"),
        pytest.param({"temperature": 0}, {"temperature": 0}, id="no temperature"),
        pytest.param({"top_p": 0.5}, {"top_p": 0.5}, id="top_p"),
        pytest.param({"temperature": 0.3, "top_p": 0.5}, {"temperature": 0.3}, id="only one of both"),
        pytest.param({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}, id="a stream"),
        pytest.param({"service_tier": "auto"}, {}, id="any tier"),
        pytest.param({"service_tier": "default"}, {"service_tier": "standard_only"}, id="the default tier"),
        pytest.param({"service_tier": "flex"}, {"service_tier": "standard_only"}, id="a cheap tier"),
        pytest.param({"service_tier": "priority"}, {"service_tier": "auto"}, id="a fast tier"),
        pytest.param(
            {"user": "u", "metadata": {"a": "b"}, "store": True, "seed": 1, "prompt_cache_key": "k", "n": 1},
            {},
            id="harmless ones",
        ),
        pytest.param({"logprobs": False, "audio": None, "modalities": ["text"], "logit_bias": {}}, {}, id="nothing"),
        pytest.param({"tool_choice": "none"}, {}, id="a choice without tools"),
    ],
)
def test_a_field_becomes(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert asked(**fields) == {**asked(), **expected}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("n", True),
        ("best_of", 3),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"50256": -100}),
        ("audio", {"voice": "x"}),
        ("modalities", ["text", "audio"]),
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("web_search_options", {}),
        ("top_k", 5),
        ("thinking", {"type": "enabled"}),
        ("stop", [" "]),
        ("stop", 5),
        ("temperature", 2.5),
        ("temperature", "hot"),
        ("top_p", True),
        ("max_tokens", 0),
        ("reasoning_effort", "extreme"),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "allowed_tools"}),
        ("tools", {}),
        ("tools", [{"type": "custom", "custom": {"name": "x"}}]),
        ("stream", "yes"),
    ],
)
def test_what_anthropic_cannot_do_is_refused_by_name(field: str, value: Any) -> None:
    assert refused(**{field: value}).param == field


# Tools


def test_functions_become_tools() -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string", "minLength": 1}}}
    tools = [
        function("a", description="finds", parameters=schema),
        {**function("b"), "cache_control": MARK},
        function("c", parameters={**schema, "required": ["q"]}, strict=True),
    ]
    closed = {"type": "string", "description": "minLength: 1"}
    assert asked(tools=tools)["tools"] == [
        {"name": "a", "description": "finds", "input_schema": schema},
        {"name": "b", "input_schema": {"type": "object", "properties": {}}, "cache_control": MARK},
        {
            "name": "c",
            "strict": True,
            "input_schema": {
                "type": "object",
                "properties": {"q": closed},
                "required": ["q"],
                "additionalProperties": False,
            },
        },
    ]


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": function("look")}, {"type": "tool", "name": "look"}),
        ({"parallel_tool_calls": True}, None),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_a_choice_of_tools_becomes(fields: dict[str, Any], choice: dict[str, Any] | None) -> None:
    assert asked(tools=[function()], **fields).get("tool_choice") == choice


# Structured outputs


def test_a_schema_becomes_the_output_format_with_closed_objects_and_no_bound_it_cannot_enforce() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "description": "an order",
        "properties": {
            "count": {"type": "integer", "minimum": 1, "description": "how many"},
            "when": {"type": "string", "format": "date"},
            "tags": {"type": "array", "items": {"type": ["object", "null"], "properties": {}}, "minItems": 1},
            "size": {"oneOf": [{"type": "string", "enum": ["s"]}, {"$ref": "#/$defs/box"}]},
        },
        "required": ["count"],
        "$defs": {"box": {"type": "object", "additionalProperties": False, "properties": {"w": {"type": "number"}}}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "order", "strict": True, "schema": schema}}
    assert asked(response_format=wanted)["output_config"] == {
        "format": {
            "type": "json_schema",
            "schema": {
                "type": "object",
                "description": "an order",
                "properties": {
                    "count": {"type": "integer", "description": "how many\n\nminimum: 1"},
                    "when": {"type": "string", "format": "date"},
                    "tags": {
                        "type": "array",
                        "items": {"type": ["object", "null"], "properties": {}, "additionalProperties": False},
                        "minItems": 1,
                    },
                    "size": {"anyOf": [{"type": "string", "enum": ["s"]}, {"$ref": "#/$defs/box"}]},
                },
                "required": ["count"],
                "$defs": {
                    "box": {"type": "object", "properties": {"w": {"type": "number"}}, "additionalProperties": False}
                },
                "additionalProperties": False,
            },
        }
    }


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"type": "object", "additionalProperties": {"type": "string"}}, id="keys of any name"),
        pytest.param(
            {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": True}}}, id="inner"
        ),
        pytest.param(deep(400), id="too deep"),
        pytest.param(None, id="none"),
    ],
)
def test_a_schema_that_would_mean_something_else_is_refused(schema: Any) -> None:
    error = refused(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert error.param == "response_format.json_schema.schema"


def test_json_without_a_schema_is_asked_for_in_words_after_the_callers_own() -> None:
    system = asked(messages=[{"role": "system", "content": "be brief"}, ASK], response_format={"type": "json_object"})[
        "system"
    ]
    assert system[0] == text("be brief")
    assert "JSON object" in system[1]["text"]
    assert asked(response_format={"type": "text"}) == asked()
    assert refused(response_format={"type": "grammar"}).param == "response_format.type"


# Thinking


def thought(model: str, effort: str, **fields: Any) -> dict[str, Any]:
    body = asked(model=model, reasoning_effort=effort, **fields)
    return {key: body[key] for key in ("thinking", "output_config") if key in body}


def budget(tokens: int) -> dict[str, Any]:
    return {"thinking": {"type": "enabled", "budget_tokens": tokens}}


SUMMARY = {"type": "adaptive", "display": "summarized"}


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        (HAIKU, "none", {}),
        (HAIKU, "minimal", budget(1024)),
        ("claude-haiku-4-5-20251001", "low", budget(1024)),
        ("claude-sonnet-4-20250514", "medium", budget(4096)),
        ("claude-3-7-sonnet-latest", "high", budget(8192)),
        ("claude-opus-4-1-20250805", "xhigh", budget(12_288)),
        ("claude-sonnet-4-6", "xhigh", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        ("claude-opus-4-6", "none", {}),
        ("claude-opus-4-7", "xhigh", {"thinking": SUMMARY, "output_config": {"effort": "xhigh"}}),
        ("claude-opus-4-8", "none", {}),
        ("claude-opus-5", "none", {"thinking": {"type": "disabled"}}),
        ("claude-haiku-5-5", "none", {"thinking": {"type": "disabled"}}),
        ("claude-sonnet-5-5", "none", {"thinking": {"type": "between_tools"}}),
        ("claude-opus-5-5", "none", {"output_config": {"effort": "low"}}),
        ("claude-fable-5-2", "minimal", {"thinking": SUMMARY, "output_config": {"effort": "low"}}),
        ("claude-someday-9", "high", {"thinking": SUMMARY, "output_config": {"effort": "high"}}),
    ],
)
def test_each_generation_is_asked_to_think_in_its_own_words(model: str, effort: str, expected: dict[str, Any]) -> None:
    assert thought(model, effort) == expected


@pytest.mark.parametrize("effort", ["minimal", "low", "medium", "high", "xhigh", "max"])
@pytest.mark.parametrize("max_tokens", [1, 1024, 1025, 2000, 5000, 64_000])
def test_a_budget_is_at_least_1024_and_below_the_bound_or_not_asked_for(effort: str, max_tokens: int) -> None:
    said = thought(HAIKU, effort, max_tokens=max_tokens)
    if max_tokens <= 1024:
        assert said == {}
    else:
        assert 1024 <= said["thinking"]["budget_tokens"] < max_tokens


def test_thinking_has_room_beside_the_default_bound() -> None:
    assert asked(reasoning_effort="high")["max_tokens"] == 4096 + 8192


def test_no_thinking_beside_a_forced_tool() -> None:
    forced: dict[str, Any] = {"tools": [function()], "tool_choice": "required"}
    assert thought(HAIKU, "high", **forced) == {}
    assert thought("claude-opus-5-5", "high", **forced) == {"output_config": {"effort": "high"}}


def test_no_budget_in_the_middle_of_a_round_of_tools() -> None:
    messages = [
        ASK,
        {"role": "assistant", "tool_calls": [call("a", "{}")]},
        {"role": "tool", "tool_call_id": "a", "content": "x"},
    ]
    assert thought(HAIKU, "high", messages=messages) == {}
    assert thought("claude-sonnet-4-6", "high", messages=messages)["thinking"] == {"type": "adaptive"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"model": HAIKU}, 0.2, id="before 4.7"),
        pytest.param({"model": "claude-sonnet-4-6"}, 0.2, id="4.6"),
        pytest.param({"model": HAIKU, "reasoning_effort": "low"}, None, id="while thinking"),
        pytest.param({"model": "claude-opus-4-7"}, None, id="4.7"),
        pytest.param({"model": "claude-sonnet-5-5"}, None, id="5.5"),
    ],
)
def test_sampling_is_said_only_to_models_that_take_it(fields: dict[str, Any], expected: float | None) -> None:
    assert asked(temperature=0.2, **fields).get("temperature") == expected


def test_an_effort_and_a_schema_share_the_output_config() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    config = asked(model="claude-opus-5-5", reasoning_effort="low", response_format=wanted)["output_config"]
    assert config.keys() == {"effort", "format"}
