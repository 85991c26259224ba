"""A Messages request told as a chat: what each part becomes, what is left out, and what cannot be said."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.chat import read_chat_request
from gateway.errors import RequestError
from gateway.messages.chat_body import chat_body
from tests.messages.wire import BRIDGED, QUESTION, ROW, request, sent

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
PNG_URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
OPEN_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def told(*blocks: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = sent(BRIDGED, messages=[{"role": role, "content": list(blocks)}])["messages"]
    return messages


def test_system_texts_become_one_message_in_front() -> None:
    blocks = [
        {"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Two."},
    ]
    assert sent(BRIDGED, system="One.")["messages"] == [{"role": "system", "content": "One."}, *QUESTION]
    assert sent(BRIDGED, system=blocks)["messages"] == [{"role": "system", "content": "One.\n\nTwo."}, *QUESTION]
    assert sent(BRIDGED, system="")["messages"] == QUESTION


@pytest.mark.parametrize(
    ("block", "part"),
    [
        pytest.param(PNG, PNG_URL, id="base64 image"),
        pytest.param(
            {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
            {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
            id="an image's URL stays one",
        ),
        pytest.param(
            {
                "type": "document",
                "title": "a.pdf",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"},
            },
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
            id="PDF",
        ),
        pytest.param(
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
            {"type": "text", "text": "words"},
            id="text document",
        ),
        pytest.param(
            {"type": "document", "source": {"type": "content", "content": [PNG]}}, PNG_URL, id="document of blocks"
        ),
        pytest.param(
            {"type": "search_result", "title": "T", "source": "S", "content": [{"type": "text", "text": "found"}]},
            {"type": "text", "text": "T\nS\nfound"},
            id="search result",
        ),
    ],
)
def test_what_a_user_shows_becomes_a_part(block: dict[str, Any], part: dict[str, Any]) -> None:
    question = {"type": "text", "text": "What?", "cache_control": {"type": "ephemeral"}}
    assert told(question, block) == [{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}]


def test_tool_results_follow_their_call_before_the_user_goes_on() -> None:
    messages = [
        *QUESTION,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "d"},
                {"type": "text", "text": "Let me see."},
                CALL,
                {**CALL, "id": "toolu_2", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "is_error": True,
                    "content": [{"type": "text", "text": "No map"}, PNG],
                },
                {"type": "text", "text": "And now?"},
            ],
        },
    ]

    def call(id: str, arguments: str) -> dict[str, Any]:
        return {"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}}

    assert sent(BRIDGED, messages=messages)["messages"] == [
        *QUESTION,
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [call("toolu_1", '{"city":"Rome"}'), call("toolu_2", "{}")],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Sunny"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: No map"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What the tool call toolu_2 returned:"},
                PNG_URL,
                {"type": "text", "text": "And now?"},
            ],
        },
    ]


def test_a_call_alone_has_no_text_and_a_result_may_be_empty() -> None:
    assert told(CALL, role="assistant")[0]["content"] is None
    assert told({"type": "tool_result", "tool_use_id": "t"}) == [{"role": "tool", "tool_call_id": "t", "content": ""}]


@pytest.mark.parametrize(
    ("choice", "fields"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "t"}, {"tool_choice": {"type": "function", "function": {"name": "t"}}}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
        (None, {}),
    ],
)
def test_tools_and_their_choice(choice: object, fields: dict[str, Any]) -> None:
    tool = {
        "name": "t",
        "description": "D",
        "input_schema": SCHEMA,
        "strict": True,
        "cache_control": {"type": "ephemeral"},
    }
    out = sent(BRIDGED, tools=[tool, {"type": "custom", "name": "u"}], tool_choice=choice)
    assert out["tools"] == [
        {"type": "function", "function": {"name": "t", "parameters": SCHEMA, "description": "D", "strict": True}},
        {"type": "function", "function": {"name": "u", "parameters": {"type": "object"}}},
    ]
    assert {name: out[name] for name in ("tool_choice", "parallel_tool_calls") if name in out} == fields


def test_a_choice_without_tools_is_left_out() -> None:
    assert "tool_choice" not in sent(BRIDGED, tool_choice={"type": "auto"})


@pytest.mark.parametrize(
    ("schema", "is_strict"),
    [
        (SCHEMA, True),
        (OPEN_SCHEMA, False),
        ({**SCHEMA, "required": []}, False),
        ({**SCHEMA, "properties": {"a": OPEN_SCHEMA}}, False),
        ({**SCHEMA, "properties": {"a": {"type": "array", "items": SCHEMA}}}, True),
        ({**SCHEMA, "properties": {"a": {"anyOf": [SCHEMA, OPEN_SCHEMA]}}}, False),
        ({**SCHEMA, "$defs": {"b": OPEN_SCHEMA}}, False),
        ({**SCHEMA, "$defs": 5}, True),
        ({"type": "object"}, False),
    ],
)
@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_a_schema_is_strict_only_where_openai_would_take_it(schema: object, is_strict: bool, field: str) -> None:
    wanted: dict[str, Any] = {"type": "json_schema", "schema": schema}
    enforcing = replace(BRIDGED, capabilities=frozenset({"json_schema"}))
    out = sent(enforcing, **{field: {"format": wanted} if field == "output_config" else wanted})
    assert out["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": schema, "strict": is_strict},
    }


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({"output_config": {"effort": "low"}}, "low"),
        ({"output_config": {"effort": "max"}}, "high"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1_024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10_000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 16_384}}, "high"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, None),
    ],
)
def test_how_hard_to_think_is_told_to_models_that_understand_it(fields: dict[str, Any], effort: str | None) -> None:
    body = {"messages": QUESTION, **fields}
    assert chat_body(body, is_reasoning=True).get("reasoning_effort") == effort
    assert "reasoning_effort" not in chat_body(body, is_reasoning=False)


def test_sampling_stops_and_tiers_have_their_own_words_and_the_rest_is_left_out() -> None:
    out = sent(
        BRIDGED,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        stop_sequences=["END"],
        service_tier="standard_only",
        metadata={"user_id": "u"},
        context_management={"edits": [{"type": "clear_thinking_20251015"}]},
        diagnostics={"previous_message_id": "m"},
        cache_control={"type": "ephemeral"},
        something_new=1,
    )
    assert out == {
        "model": "gpt-upstream",
        "messages": QUESTION,
        "max_completion_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "service_tier": "default",
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[].type"),
        ({"tools": [{"input_schema": {}}]}, "tools[].name"),
        ({"tools": [{"name": "t"}], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [{"name": "t"}], "tool_choice": "auto"}, "tool_choice.type"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[].role"),
        ({"messages": [{"role": "user", "content": [{"type": "server_tool_use"}]}]}, "messages[].content[].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[].content[].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "search_result", "content": ["x"]}]}]},
            "messages[].content[].content[].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url", "url": "u"}}]}]},
            "messages[].content[].source",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image", "source": {"type": "base64", "media_type": "a;b", "data": ""}}],
                    }
                ]
            },
            "messages[].content[].source.media_type",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[].content[].tool_use_id"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "i"}]}]},
            "messages[].content[].name",
        ),
        ({"system": [{"type": "image", "source": {"type": "url", "url": "u"}}]}, "system[].type"),
        ({"output_format": {"type": "grammar"}}, "output_config.format"),
    ],
)
def test_what_a_chat_cannot_say_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    asked = request(**fields)
    with pytest.raises(RequestError) as caught:
        asked.outgoing(BRIDGED, ROW)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert not asked.fits(BRIDGED)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.text(max_size=5)
    | st.sampled_from(["text", "tool_use", "image"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "source", "content", "id", "name", "input", "data"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(
    st.lists(_values, max_size=3),
    st.sampled_from(["user", "assistant", "system"]),
    st.none() | _values,
    st.none() | _values,
)
def test_whatever_is_sent_becomes_a_chat_that_the_chat_endpoint_takes_or_a_400(
    content: list[Any], role: str, tools: Any, config: Any
) -> None:
    try:
        asked = request(messages=[{"role": role, "content": content}], tools=tools, output_config=config)
        out = asked.outgoing(BRIDGED, ROW).body
    except RequestError as error:
        refused = error.status
    else:
        refused = None
    if refused is not None:
        assert refused == 400
        return
    if json.loads(out)["messages"]:
        assert read_chat_request(out).model == "gpt-upstream"
