"""A chat request: what is refused, what bounds the hold, and what the provider is sent."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog import Model, Price, ProviderRow
from gateway.chat import read_chat_request
from gateway.errors import RequestError

MODEL = Model(
    "m",
    "p",
    "upstream-m",
    frozenset({"chat"}),
    Price("1", input=1, output=2),
    context_tokens_max=1_000,
    output_tokens_max=100,
)
MESSAGES = [{"role": "user", "content": "Hi"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode()


def row(stream_usage: Any = "inject") -> ProviderRow:
    return ProviderRow("p", "openai", stream_usage=stream_usage)


def sent(raw: bytes, stream_usage: Any = "inject") -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(read_chat_request(raw).outgoing(MODEL, row(stream_usage)).body)
    return parsed


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        pytest.param(b"", "invalid_json", None, id="empty"),
        pytest.param(b"{", "invalid_json", None, id="cut"),
        pytest.param(b"[]", "invalid_value", "body", id="a list"),
        pytest.param(b'{"a": NaN}', "invalid_json", None, id="NaN"),
        pytest.param(b"\xef\xbb\xbf{}", "invalid_json", None, id="BOM"),
        pytest.param("{}".encode("utf-16"), "invalid_json", None, id="UTF-16"),
        pytest.param(b"[" * 100_000, "invalid_json", None, id="depth"),
        pytest.param(
            body(extra=0).replace(b"0", b"[" * 600 + b"]" * 600), "invalid_json", None, id="depth we can read"
        ),
        pytest.param(b"{}", "missing_required_parameter", "model", id="no model"),
        pytest.param(body(model=5), "missing_required_parameter", "model", id="model is a number"),
        pytest.param(body(messages=None), "missing_required_parameter", "messages", id="no messages"),
        pytest.param(body(messages="hi"), "missing_required_parameter", "messages", id="messages is text"),
        pytest.param(body(messages=[]), "missing_required_parameter", "messages", id="no message"),
        pytest.param(body(messages=["hi"]), "invalid_value", "messages", id="message is text"),
        pytest.param(body(messages=[{"content": [5]}]), "invalid_value", "messages[].content", id="part"),
        pytest.param(body(stream="yes"), "invalid_value", "stream", id="stream is text"),
        pytest.param(body(stream_options=[]), "invalid_value", "stream_options", id="stream options"),
        pytest.param(
            body(stream_options={"include_usage": 1}),
            "invalid_value",
            "stream_options.include_usage",
            id="usage",
        ),
        *(
            pytest.param(body(max_tokens=value), "invalid_value", "max_tokens", id=f"max_tokens {value!r}")
            for value in (0, -1, "10", 1e9, True, 2**70)
        ),
        *(
            pytest.param(body(n=value), "invalid_value", "n", id=f"n {value!r}")
            for value in (0, -1, 10**6, "2", 1.0, False)
        ),
        *(
            pytest.param(body(**{field: "x"}), "unsupported_parameter", field, id=field)
            for field in (
                "api_base",
                "base_url",
                "api_key",
                "extra_headers",
                "extra_body",
                "user_config",
                "custom_llm_provider",
                "aws_access_key_id",
                "vertex_project",
                "mock_response",
                "no-log",
                "litellm_metadata",
                "model_list",
                "fallbacks",
                "callbacks",
            )
        ),
        pytest.param(body(tools=[{"type": "web_search"}]), "unpriced_feature", "tools[].type", id="paid tool"),
        pytest.param(body(tools=[5]), "unpriced_feature", "tools[].type", id="tool is a number"),
        pytest.param(body(web_search_options={}), "unpriced_feature", "web_search_options", id="web search"),
        pytest.param(body(service_tier="priority"), "unpriced_feature", "service_tier", id="priority"),
        pytest.param(body(service_tier=[]), "invalid_value", "service_tier", id="tier of a wrong type"),
    ],
)
def test_a_body_is_refused_with_what_to_change(raw: bytes, code: str, param: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        read_chat_request(raw).worst_case(MODEL, MODEL.price)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_unknown_fields_travel_on_untouched() -> None:
    fields = {"top_k": 5, "reasoning": {"effort": "low"}, "big": 2**53 + 1, "x": "ü"}
    assert sent(body(**fields)) == {"model": "upstream-m", "messages": MESSAGES, **fields}


def test_the_last_of_a_duplicate_key_is_checked_and_sent() -> None:
    raw = b'{"model":"other","model":"m","messages":[{"role":"user","content":"Hi"}]}'
    assert read_chat_request(raw).model == "m"
    assert sent(raw)["model"] == "upstream-m"


@pytest.mark.parametrize(
    ("options", "stream_usage", "expected"),
    [
        pytest.param(None, "inject", {"include_usage": True}, id="asked for"),
        pytest.param({"a": 1}, "inject", {"a": 1, "include_usage": True}, id="beside other options"),
        pytest.param({"include_usage": False}, "inject", {"include_usage": True}, id="against the caller's wish"),
        pytest.param(None, "never", None, id="not for a provider that rejects it"),
        pytest.param(None, "always", None, id="not for a provider that reports anyway"),
    ],
)
def test_a_stream_asks_for_usage_as_the_provider_row_says(options: Any, stream_usage: str, expected: Any) -> None:
    assert sent(body(stream=True, stream_options=options), stream_usage).get("stream_options") == expected


def test_an_unstreamed_call_is_sent_without_stream_options() -> None:
    assert "stream_options" not in sent(body())


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_bound_above_the_models_cap_is_lowered_to_it(field: str) -> None:
    assert sent(body(**{field: 10**9}))[field] == 100
    assert sent(body(**{field: 7}))[field] == 7


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        pytest.param({}, 100, id="none given: the model's cap"),
        pytest.param({"max_tokens": 7}, 7, id="the caller's"),
        pytest.param({"max_tokens": 7, "max_completion_tokens": 9}, 9, id="the larger of two"),
        pytest.param({"max_tokens": None}, 100, id="null is none"),
        pytest.param({"max_tokens": 10**9}, 100, id="above the cap"),
        pytest.param({"max_tokens": 7, "n": 3}, 21, id="times the choices"),
    ],
)
def test_the_output_bound(fields: dict[str, Any], tokens: int) -> None:
    assert read_chat_request(body(**fields)).output_tokens_max(MODEL) == tokens


@given(st.lists(st.text(max_size=40), min_size=1, max_size=8))
def test_the_input_bound_is_never_below_a_token_a_byte(texts: list[str]) -> None:
    request = read_chat_request(body(messages=[{"role": "user", "content": text} for text in texts]))
    total = sum(len(text.encode()) for text in texts)
    assert request.input_tokens_max(replace(MODEL, context_tokens_max=None)) >= total
    assert request.input_tokens_max(MODEL) <= 1_000
    assert request.input_tokens_estimate == -(-total // 4)


def test_base64_is_no_text() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    request = read_chat_request(body(messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}, picture]}]))
    assert request.text_bytes == 2
    assert not request.is_text_only
    assert request.input_tokens_max(MODEL) == 1_000, "an image may cost what the context can hold"


def test_tools_and_schemas_count_as_input() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "d" * 100}}]
    assert read_chat_request(body(tools=tools)).text_bytes > 100
