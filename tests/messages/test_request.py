"""A Messages request: what is refused, what bounds the hold, and what a provider of the Messages API is sent."""

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.errors import RequestError
from gateway.messages.request import beta_header, read_count_request, read_messages_request
from tests.messages.wire import BRIDGED, NATIVE, PRICE, QUESTION, ROW, body, request, sent

FAST_PRICE = replace(PRICE, service_tiers={"fast": replace(PRICE, input=6_000_000, output=30_000_000)})
TOOL = {"name": "weather", "input_schema": {"type": "object"}}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA" * 1_000}}


def asking(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        pytest.param(b"{", "invalid_json", None, id="cut"),
        pytest.param(body(model=""), "missing_required_parameter", "model", id="no model"),
        pytest.param(body(messages=[]), "missing_required_parameter", "messages", id="no messages"),
        pytest.param(body(max_tokens=None), "missing_required_parameter", "max_tokens", id="no max_tokens"),
        *(
            pytest.param(body(max_tokens=value), "invalid_value", "max_tokens", id=f"max_tokens {value!r}")
            for value in (-1, 1.5, "9", True)
        ),
        pytest.param(body(stream="yes"), "invalid_value", "stream", id="stream is text"),
        pytest.param(body(messages=["hi"]), "invalid_value", "messages", id="message is text"),
        pytest.param(body(messages=[{"content": "hi"}]), "invalid_value", "messages", id="no role"),
        pytest.param(
            body(messages=[{"role": "user"}]), "missing_required_parameter", "messages[].content", id="no content"
        ),
        pytest.param(
            body(messages=[{"role": "user", "content": 5}]), "invalid_value", "messages[].content", id="number"
        ),
        pytest.param(body(messages=asking({"text": "x"})), "invalid_value", "messages[].content", id="no type"),
        pytest.param(body(system=7), "invalid_value", "system", id="system is a number"),
        pytest.param(body(tools={}), "invalid_value", "tools", id="tools is an object"),
        pytest.param(body(tools=["x"]), "invalid_value", "tools", id="tool is text"),
        pytest.param(body(stop_sequences="x"), "invalid_value", "stop_sequences", id="stop is text"),
        pytest.param(body(service_tier="priority"), "invalid_value", "service_tier", id="another tier"),
        pytest.param(
            body(messages=asking({"type": "image"})), "invalid_value", "messages[].content[].source", id="image"
        ),
        pytest.param(
            body(tools=[{"deep": 0}]).replace(b"0", b"[" * 600 + b"]" * 600), "invalid_json", None, id="depth"
        ),
        *(
            pytest.param(body(tools=[{"type": kind, "name": "t"}]), "unpriced_feature", "tools[].type", id=kind)
            for kind in (
                "web_search_20260318",
                "web_fetch_20260318",
                "code_execution_20260521",
                "tool_search_tool_regex_20251119",
                "advisor_20260301",
                "mcp_toolset",
                "bash_20250124x",
            )
        ),
        pytest.param(body(tools=[{"type": 5}]), "unpriced_feature", "tools[].type", id="a type that is a number"),
        *(
            pytest.param(body(**{field: value}), "unpriced_feature", field, id=field)
            for field, value in (
                ("container", "c"),
                ("mcp_servers", [{"type": "url", "url": "http://x", "name": "x"}]),
                ("compaction", {"type": "x"}),
                ("inference_geo", "us"),
            )
        ),
        pytest.param(
            body(context_management={"edits": [{"type": "compact_20260112"}]}),
            "unpriced_feature",
            "context_management.edits[].type",
            id="a summary billed beside",
        ),
        *(
            pytest.param(body(**{field: "x"}), "unsupported_parameter", field, id=field)
            for field in (
                "workspace_id",
                "user_profile_id",
                "thread",
                "betas",
                "api_base",
                "fallbacks",
                "extra_headers",
            )
        ),
        pytest.param(
            body(messages=asking({"type": "document", "source": {"type": "file", "file_id": "f"}})),
            "unsupported_parameter",
            "messages[].content[].source",
            id="somebody's file",
        ),
        pytest.param(
            body(messages=asking({"type": "container_upload", "file_id": "f"})),
            "unpriced_feature",
            "messages[].content[].type",
            id="an upload",
        ),
    ],
)
def test_a_body_is_refused_with_what_to_change(raw: bytes, code: str, param: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        read_messages_request(raw)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_blocks_inside_blocks_without_end_are_refused() -> None:
    block: dict[str, Any] = {"type": "text", "text": "x"}
    for _ in range(50):
        block = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    with pytest.raises(RequestError, match="array of content blocks"):
        request(messages=asking(block))


def test_a_native_request_passes_as_it_came_under_the_upstreams_name() -> None:
    fields: dict[str, Any] = {
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": asking({"type": "text", "text": "Hi"}, IMAGE),
        "tools": [TOOL, {"type": "bash_20250124", "name": "bash"}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 2_000},
        "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
        "top_k": 5,
        "stop_sequences": ["x"],
        "service_tier": "auto",
        "stream": True,
        "something_new": {"a": 1},
    }
    assert sent(NATIVE, **fields) == {"model": "claude-upstream", "max_tokens": 100, **fields}


def test_of_metadata_anthropic_gets_the_one_key_it_knows() -> None:
    assert sent(NATIVE, metadata={"user_id": "u1", "team": "blue"})["metadata"] == {"user_id": "u1"}
    assert "metadata" not in sent(NATIVE, metadata={"team": "blue"})
    assert "metadata" not in sent(BRIDGED, metadata={"user_id": "u1"})


def test_thinking_that_a_bridge_told_is_not_shown_to_anthropic() -> None:
    turn = [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "thinking", "thinking": "mm", "signature": "sig"},
        {"type": "text", "text": "Hello"},
    ]
    messages = [*QUESTION, {"role": "assistant", "content": turn}, *QUESTION]
    assert sent(NATIVE, messages=messages)["messages"][1]["content"] == turn[1:]


@pytest.mark.parametrize("model", [NATIVE, BRIDGED], ids=["native", "bridged"])
@pytest.mark.parametrize(("asked", "told"), [(100, 100), (8_192, 8_192), (8_193, 8_192), (10**9, 8_192)])
def test_a_bound_above_the_models_cap_is_lowered_to_it(model: Any, asked: int, told: int) -> None:
    out = sent(model, max_tokens=asked)
    assert out.get("max_tokens", out.get("max_completion_tokens")) == told


def test_a_bridged_request_is_a_chat_with_the_bound_where_the_provider_reads_it() -> None:
    outgoing = request(stream=True).outgoing(BRIDGED, ROW)
    assert (outgoing.path, outgoing.is_streaming, outgoing.headers) == ("/chat/completions", True, ())
    assert json.loads(outgoing.body) == {
        "model": "gpt-upstream",
        "messages": QUESTION,
        "max_completion_tokens": 100,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    old = replace(ROW, max_tokens_field="max_tokens", stream_usage="never")
    assert json.loads(request().outgoing(BRIDGED, old).body)["max_tokens"] == 100


def test_filling_a_cache_without_an_answer_is_for_anthropic_alone() -> None:
    assert sent(NATIVE, max_tokens=0)["max_tokens"] == 0
    assert request(max_tokens=0).worst_case(NATIVE, PRICE) == request(max_tokens=1).worst_case(NATIVE, PRICE)
    with pytest.raises(RequestError, match="at least 1"):
        sent(BRIDGED, max_tokens=0)
    assert not request(max_tokens=0).fits(BRIDGED)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"system": "Be brief." * 100, "stream": True},
        {"messages": asking(IMAGE, {"type": "text", "text": "What?"})},
        {"tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 1_024}},
        {
            "messages": asking(
                {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "A"}}
            )
        },
        {
            "messages": [
                *QUESTION,
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "s"}]},
            ]
        },
    ],
    ids=["plain", "system", "image", "tools", "document", "thinking"],
)
def test_native_and_bridged_hold_the_same(fields: dict[str, Any]) -> None:
    asked = request(**fields)
    assert asked.estimate(NATIVE, PRICE) == asked.estimate(BRIDGED, PRICE)
    assert asked.worst_case(NATIVE, PRICE) == asked.worst_case(BRIDGED, PRICE) == asked.estimate(NATIVE, PRICE).worst


def test_the_hold_is_the_bytes_at_the_dearest_input_and_the_bound_at_the_output_rate() -> None:
    """Two bytes and 8 tokens of framing for each of message, system and end: 26 x 3 750 + 100 x 15 000."""
    estimate = request().estimate(NATIVE, PRICE)
    assert estimate.worst == 26 * 3_750 + 100 * 15_000
    assert estimate.smallest is None  # the bound is the caller's: admitted whole or not at all
    assert estimate.expected == 1 * 3_000 + 100 * 15_000
    assert request().clamp(NATIVE, PRICE, 1) is None


def test_base64_is_no_text_and_everything_else_counts() -> None:
    plain = request().chat.text_bytes
    assert request(messages=asking({"type": "text", "text": "Hi"}, IMAGE)).chat.text_bytes == plain
    assert request(messages=asking({"type": "text", "text": "Hi"}, IMAGE)).chat.part_tokens == 50_000
    for fields in (
        {"system": "x"},
        {"tools": [TOOL]},
        {"messages": asking({"type": "text", "text": "Hi"}, {"type": "something", "new": "x"})},
        {"messages": asking({"type": "tool_result", "tool_use_id": "t", "content": "Hi"})},
        {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
        {"messages": asking({"type": "document", "source": {"type": "text", "data": "Hello"}})},
        {"messages": asking({"type": "document", "source": {"type": "content", "content": "Hello"}})},
    ):
        assert request(**fields).chat.text_bytes > plain, fields


def test_an_hour_of_cache_has_no_price_natively_and_no_meaning_in_a_chat() -> None:
    long = {"type": "ephemeral", "ttl": "1h"}
    for fields in (
        {"cache_control": long},
        {"system": [{"type": "text", "text": "x", "cache_control": long}]},
        {"tools": [{**TOOL, "cache_control": long}]},
        {"messages": asking({"type": "text", "text": "x", "cache_control": long})},
        {
            "messages": asking(
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": [{"type": "text", "text": "x", "cache_control": long}],
                }
            )
        },
    ):
        asked = request(**fields)
        with pytest.raises(RequestError) as caught:
            asked.estimate(NATIVE, PRICE)
        assert caught.value.code == "unpriced_feature"
        assert asked.estimate(BRIDGED, PRICE).worst > 0
        assert b"cache_control" not in asked.outgoing(BRIDGED, ROW).body
    assert request(cache_control={"type": "ephemeral", "ttl": "5m"}).estimate(NATIVE, PRICE).worst > 0


def test_speed_is_sold_only_natively_and_only_where_the_row_has_a_price_for_it() -> None:
    asked = request(speed="fast")
    dear = replace(NATIVE, price=FAST_PRICE)
    assert asked.estimate(dear, FAST_PRICE).worst > request().estimate(dear, FAST_PRICE).worst
    assert asked.variant(dear) == "fast"
    for model, price in ((NATIVE, PRICE), (replace(BRIDGED, price=FAST_PRICE), FAST_PRICE)):
        with pytest.raises(RequestError) as caught:
            asked.worst_case(model, price)
        assert (caught.value.code, caught.value.param) == ("unpriced_feature", "speed")
    assert request(speed="standard").estimate(NATIVE, PRICE) == request().estimate(NATIVE, PRICE)


def test_any_model_with_messages_or_chat_serves_and_no_other() -> None:
    assert request().serves(NATIVE)
    assert request().serves(BRIDGED)
    assert not request().serves(replace(BRIDGED, endpoints=frozenset({"images"})))


def test_a_model_fits_that_has_the_capabilities_the_room_and_the_words() -> None:
    able = frozenset({"tools", "vision", "json_schema"})
    native, bridged = replace(NATIVE, capabilities=able), replace(BRIDGED, capabilities=able)
    for fields in (
        {"tools": [TOOL]},
        {"messages": asking(IMAGE)},
        {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
    ):
        asked = request(**fields)
        assert (asked.fits(native), asked.fits(bridged)) == (True, True)
        assert (asked.fits(NATIVE), asked.fits(BRIDGED)) == (False, False)
    assert not request(system="x" * 800_001).fits(native)
    described = request(tools=[{"type": "text_editor_20250728", "name": "edit"}])
    assert (described.fits(native), described.fits(bridged)) == (True, False)


def test_only_betas_that_change_no_price_and_reach_nothing_travel_on() -> None:
    values = [
        b"claude-code-20250219, interleaved-thinking-2025-05-14,context-1m-2025-08-07",
        b"files-api-2025-04-14,fast-mode-2026-02-01,extended-cache-ttl-2025-04-11,oauth-2025-04-20",
        b"fine-grained-tool-streaming-2025-05-14,interleaved-thinking-2025-05-14, structured-outputs-2025-11-13",
        b"evil\r\nx-api-key: y, EFFORT-2025-11-24, effort-2025-11-24\xff",
    ]
    told = "interleaved-thinking-2025-05-14,fine-grained-tool-streaming-2025-05-14,structured-outputs-2025-11-13"
    assert beta_header(values) == told
    asked = request()
    asked.betas = beta_header(values)
    assert asked.outgoing(NATIVE, ROW).headers == (("anthropic-beta", told),)
    assert asked.outgoing(BRIDGED, ROW).headers == ()


def test_counting_needs_no_bound_and_takes_four_bytes_for_a_token() -> None:
    raw = json.dumps({"model": "m", "messages": asking({"type": "text", "text": "x" * 400}, IMAGE)}).encode()
    assert read_count_request(raw).input_tokens_likely == 100 + 1_600


def test_a_call_cut_off_by_a_crash_or_never_answered_is_charged_its_input() -> None:
    asked = request(system="x" * 398)
    assert asked.meter_unanswered(NATIVE).cost_nano_usd == 100 * 3_000
    assert asked.unfinished_usage(NATIVE).output_tokens == 1_000
