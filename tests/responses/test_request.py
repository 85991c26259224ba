"""A response request read, priced and written: what is refused, what it can cost, and what leaves for either kind of model."""

from typing import Any

import orjson
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from gateway.catalog import Model, Price, ProviderRow
from gateway.chat import read_chat_request
from gateway.errors import RequestError
from gateway.metering import NOTHING
from gateway.model_request import Answered
from gateway.responses.metering import from_responses
from gateway.responses.request import ResponsesRequest, read_responses_request
from gateway.responses.state import Before, ResponseStore
from gateway.usage import Usage, from_chat
from policies.types import Account, Plan

PRICE = Price("1.x", input=1_000_000, output=10_000_000)
ROW = ProviderRow("native", "openai")
PLAIN = ProviderRow("plain", "openai", max_tokens_field="max_tokens", stream_usage="always")
STORE: ResponseStore = None  # type: ignore[assignment]  # of requests that load and keep nothing
ACME = Account("acme", "acme", "k1", Plan("open"))


def model(*endpoints: str, provider: str = "native", **fields: Any) -> Model:
    known: dict[str, Any] = {"context_tokens_max": 100_000, "output_tokens_max": 4_096}
    return Model("big", provider, "big-upstream", frozenset(endpoints), PRICE, **{**known, **fields})


NATIVE, CHAT = model("responses"), model("chat")


def read(**fields: Any) -> ResponsesRequest:
    body = {"model": "big", "input": "hi", **fields}
    return read_responses_request(
        orjson.dumps({name: value for name, value in body.items() if value is not ...}), STORE
    )


def sent(request: ResponsesRequest, to: Model, row: ProviderRow = ROW) -> tuple[str, dict[str, Any]]:
    outgoing = request.outgoing(to, row)
    return outgoing.path, orjson.loads(outgoing.body)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        pytest.param({"model": ...}, "missing_required_parameter", "model", id="no-model"),
        pytest.param({"input": ...}, "missing_required_parameter", "input", id="no-input"),
        pytest.param({"input": 7}, "invalid_value", "input", id="input-of-no-kind"),
        pytest.param({"input": ["hi"]}, "invalid_value", "input", id="an-item-that-is-none"),
        pytest.param({"input": [{"content": ["hi"]}]}, "invalid_value", "input[].content", id="a-part-that-is-none"),
        pytest.param({"background": True}, "unsupported_parameter", "background", id="background"),
        pytest.param({"prompt": {"id": "pmpt_1"}}, "unsupported_parameter", "prompt", id="a-stored-prompt"),
        pytest.param({"store": "yes"}, "invalid_value", "store", id="store"),
        pytest.param({"stream": 1}, "invalid_value", "stream", id="stream"),
        pytest.param({"max_output_tokens": 0}, "invalid_value", "max_output_tokens", id="no-output"),
        pytest.param({"max_output_tokens": 1.5}, "invalid_value", "max_output_tokens", id="half-a-token"),
        pytest.param({"metadata": "x"}, "invalid_value", "metadata", id="metadata"),
        pytest.param({"previous_response_id": "a/b"}, "invalid_value", "previous_response_id", id="an-id-for-no-path"),
        pytest.param({"previous_response_id": 7}, "invalid_value", "previous_response_id", id="an-id-that-is-none"),
        pytest.param(
            {"conversation": {"name": "x"}}, "invalid_value", "conversation.id", id="a-conversation-without-id"
        ),
        pytest.param(
            {"previous_response_id": "resp_1", "conversation": "conv_1"},
            "mutually_exclusive_parameters",
            "previous_response_id",
            id="two-pasts",
        ),
        pytest.param(
            {"input": [{"type": "item_reference", "id": "../x"}]}, "invalid_value", "input[].id", id="reference"
        ),
        pytest.param({"moderation": {"model": "x"}}, "unpriced_feature", "moderation", id="moderation"),
        pytest.param(
            {"prompt_cache_options": {"ttl": "12h"}}, "unpriced_feature", "prompt_cache_options.ttl", id="a-dear-cache"
        ),
        pytest.param(
            {"prompt_cache_options": {"comparison_response_id": "resp_1"}},
            "unsupported_parameter",
            "prompt_cache_options.comparison_response_id",
            id="a-look-at-another-response",
        ),
        pytest.param({"api_base": "http://x"}, "unsupported_parameter", "api_base", id="steering"),
        pytest.param({"extra_headers": {}}, "unsupported_parameter", "extra_headers", id="steering-headers"),
        pytest.param({"tools": {}}, "invalid_value", "tools", id="tools-that-are-none"),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_name(fields: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(RequestError) as refused:
        read(**fields)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, param)


@pytest.mark.parametrize(
    "tool",
    [
        "web_search", "web_search_preview", "file_search", "code_interpreter", "computer", "computer_use_preview",
        "image_generation", "mcp", "shell", "tool_search", "programmatic_tool_calling", "namespace", "something_new", None,
    ],
)  # fmt: skip
def test_tools_that_others_run_are_unpriced(tool: str | None) -> None:
    with pytest.raises(RequestError) as refused:
        read(tools=[{"type": "function", "name": "f"}, {"type": tool, "server_url": "http://x"}])
    assert refused.value.code == "unpriced_feature"


def test_a_body_nested_too_deeply_is_refused() -> None:
    was_refused = set()
    for levels in range(240, 270):
        deep = b"[" * levels + b"]" * levels
        raw = b'{"model":"big","input":[{"role":"user","content":"x","more":%s}]}' % deep
        for to in (NATIVE, CHAT):
            try:
                request = read_responses_request(raw, STORE)
                request.outgoing(to, ROW)
            except RequestError as refused:
                was_refused.add(refused.code)
            else:
                was_refused.add(None)
                if to is CHAT:
                    orjson.dumps(request.own_items)  # what is answered can be kept
    assert was_refused == {None, "invalid_json"}


@drawn(st.text(max_size=200), st.text(max_size=200), st.integers(1, 4_096) | st.none())
def test_text_costs_what_it_costs_as_chat(text: str, instructions: str, bound: int | None) -> None:
    """Never less than the same words as a chat completion: the call may become one."""
    response = read(input=text, instructions=instructions, max_output_tokens=bound)
    messages = [{"role": "system", "content": instructions}, {"role": "user", "content": text}]
    chat = read_chat_request(orjson.dumps({"model": "big", "messages": messages, "max_completion_tokens": bound}))
    for to in (NATIVE, CHAT):
        assert response.worst_case(to, PRICE) >= chat.worst_case(to, PRICE) - 8
        assert response.estimate(to, PRICE).tokens >= chat.estimate(to, PRICE).tokens


def test_base64_is_no_text_and_costs_its_dearest_case() -> None:
    plain = read(input=[{"role": "user", "content": [{"type": "input_text", "text": "look"}]}])
    parts = [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": "data:," + "A" * 10_000}]
    seen = read(input=[{"role": "user", "content": parts}])
    assert seen.chat.text_bytes == plain.chat.text_bytes
    assert seen.chat.part_tokens == 50_000
    assert seen.needs == {"vision"}
    returned = read(input=[{"type": "function_call_output", "call_id": "c", "output": [parts[1]]}])
    assert returned.chat.part_tokens == 50_000
    one_part = read(input=[{"type": "function_call_output", "call_id": "c", "output": parts[1]}])
    assert one_part.chat.part_tokens == 50_000


def test_tools_schemas_and_unknown_fields_count_as_input() -> None:
    bare = read().chat.text_bytes
    for name, value in (
        ("instructions", "x" * 100),
        ("tools", [{"type": "function", "name": "x" * 100}]),
        ("text", {"format": {"type": "json_schema", "schema": {"x" * 100: 1}}}),
        ("unknown", "x" * 100),
    ):
        assert read(**{name: value}).chat.text_bytes >= bare + 100


def test_needs_are_those_of_what_is_asked() -> None:
    assert read().needs == frozenset()
    asked = read(tools=[{"type": "function", "name": "f"}], text={"format": {"type": "json_schema", "name": "x"}})
    assert asked.needs == {"tools", "json_schema"}
    assert not asked.fits(NATIVE)
    assert asked.fits(model("responses", capabilities=frozenset({"tools", "json_schema"})))


def test_native_and_chat_models_serve_it_and_no_others() -> None:
    request = read()
    assert [request.serves(model(endpoint)) for endpoint in ("responses", "chat", "completions", "images")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert request.translator(NATIVE) is None
    assert request.translator(CHAT) is not None


def test_a_native_body_leaves_as_it_came_but_for_the_model() -> None:
    fields = {"tools": [{"type": "function", "name": "f"}], "include": ["x"], "unknown": {"a": [1, 2.5]}, "store": True}
    assert sent(read(**fields), NATIVE) == ("/responses", {"model": "big-upstream", "input": "hi", **fields})


def test_a_native_body_loses_what_its_provider_refuses() -> None:
    row = ProviderRow("native", "openai", drop_fields=frozenset({"metadata"}))
    assert sent(read(metadata={"a": "b"}), NATIVE, row)[1] == {"model": "big-upstream", "input": "hi"}


def test_an_excessive_bound_is_lowered_and_an_absent_one_set_only_by_a_clamp() -> None:
    assert sent(read(max_output_tokens=9_999), NATIVE)[1]["max_output_tokens"] == 4_096
    assert "max_output_tokens" not in sent(read(), NATIVE)[1]
    for to, row, name in (
        (NATIVE, ROW, "max_output_tokens"),
        (CHAT, ROW, "max_completion_tokens"),
        (CHAT, PLAIN, "max_tokens"),
    ):
        request = read()
        smallest = request.estimate(to, PRICE).smallest
        assert smallest is not None
        assert request.clamp(to, PRICE, smallest) == 256
        assert sent(request, to, row)[1][name] == 256
        assert request.worst_case(to, PRICE) == smallest


def test_a_bound_of_the_caller_is_not_shrunk() -> None:
    assert read(max_output_tokens=500).estimate(NATIVE, PRICE).smallest is None


def test_a_bridged_body_is_a_chat_completion() -> None:
    path, body = sent(read(instructions="be brief", stream=True, max_output_tokens=50, store=True), CHAT)
    assert path == "/chat/completions"
    assert body == {
        "model": "big-upstream",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 50,
    }


def test_a_bridged_body_speaks_as_its_provider_does() -> None:
    _, body = sent(read(stream=True, max_output_tokens=50), CHAT, PLAIN)
    assert body["max_tokens"] == 50
    assert not body.keys() & {"max_completion_tokens", "stream_options"}


def test_what_the_provider_keeps_counts_by_its_tokens() -> None:
    alone, after = read(), read(previous_response_id="resp_1")
    after.chat.put_in_front(1_000)
    assert after.chat.input_tokens_max(NATIVE) == alone.chat.input_tokens_max(NATIVE) + 1_000
    assert after.chat.input_tokens_estimate == alone.chat.input_tokens_estimate + 1_000
    assert after.estimate(NATIVE, PRICE).tokens == alone.estimate(NATIVE, PRICE).tokens + 1_000
    after.chat.put_in_front(200_000)
    assert not after.fits(NATIVE)
    assert after.chat.input_tokens_max(NATIVE) == 100_000


def test_earlier_items_are_sent_without_ids_and_unreadable_reasoning() -> None:
    request = read(previous_response_id="resp_1")
    sealed = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "xyz"}
    said = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": []}
    request.before = Before(({"type": "reasoning", "id": "rs_1", "summary": []}, sealed, said))
    _, body = sent(request, NATIVE)
    bare = {"type": "message", "role": "assistant", "content": []}
    assert body["input"] == [sealed, bare, {"role": "user", "content": "hi"}]
    assert "previous_response_id" not in body


@pytest.mark.parametrize(
    ("to", "is_reachable"),
    [
        pytest.param(NATIVE, True, id="where-it-is"),
        pytest.param(CHAT, False, id="the-same-provider-by-chat"),
        pytest.param(model("responses", provider="other"), False, id="another-provider"),
    ],
)
def test_only_the_provider_that_keeps_the_past_continues_it(to: Model, is_reachable: bool) -> None:
    request = read(previous_response_id="resp_1")
    request.before, request.elsewhere = Before((), "native", 10), frozenset({"native"})
    assert request.fits(to) is is_reachable
    if is_reachable:
        assert sent(request, to)[1]["previous_response_id"] == "resp_1"
        return
    with pytest.raises(RequestError) as refused:
        request.outgoing(to, ROW)
    assert refused.value.param == "previous_response_id"


def test_state_is_only_looked_after_where_there_is_some() -> None:
    assert read().keeps_state
    assert not read(store=False).keeps_state
    assert read(store=False, conversation="conv_1").keeps_state
    assert read(store=False, input=[{"id": "msg_1"}]).keeps_state


USAGE = {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25}
ANSWER = {"id": "resp_1", "output": [{"type": "message", "content": [{"type": "output_text", "text": "x" * 40}]}]}


def test_a_whole_answer_is_metered_by_its_usage_or_its_words() -> None:
    request = read(input="x" * 40)
    reported = request.meter({**ANSWER, "usage": USAGE}, NATIVE, ROW)
    assert reported is not None
    assert (reported.usage, reported.source) == (Usage(20, text_output=5), "provider")
    counted = request.meter(ANSWER, NATIVE, ROW)
    assert counted is not None
    assert (counted.usage, counted.source) == (Usage(10, text_output=10), "estimated")
    refused = request.meter({**ANSWER, "usage": {**USAGE, "input_tokens": -1}}, NATIVE, ROW)
    assert refused is not None
    assert refused.flags == ("usage_refused",)


def test_what_is_no_response_is_no_answer_and_what_it_reports_is_owed() -> None:
    assert read().meter({"choices": []}, NATIVE, ROW) is None
    metered = read().meter({"usage": USAGE}, NATIVE, ROW)
    assert metered is not None
    assert (metered.is_answer, metered.usage) == (False, Usage(20, text_output=5))
    assert metered.cost_nano_usd > NOTHING.cost_nano_usd


counts = st.integers(-1, 200) | st.none() | st.booleans() | st.floats(allow_nan=False)
details = st.dictionaries(st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens"]), counts)


@drawn(counts, counts, counts, details, details)
def test_usage_is_judged_as_that_of_chat(read_: Any, made: Any, total: Any, inner: Any, outer: Any) -> None:
    usage = {
        "input_tokens": read_, "output_tokens": made, "total_tokens": total,
        "input_tokens_details": inner, "output_tokens_details": outer,
    }  # fmt: skip
    chat = {
        "prompt_tokens": read_, "completion_tokens": made, "total_tokens": total,
        "prompt_tokens_details": inner, "completion_tokens_details": outer,
    }  # fmt: skip
    caps: dict[str, Any] = {"context_tokens_max": 150, "output_tokens_max": 100}
    assert from_responses(usage, **caps) == from_chat(chat, choices=1, **caps)
    assert from_responses(None, **caps) is None


async def test_an_answer_without_a_usable_id_is_not_kept() -> None:
    """A path could not ask for it again; and without a store to write to, this would raise."""
    for given in ("../x", "", None, 7):
        answered = Answered("req_1", ACME, NATIVE, b"", {**ANSWER, "id": given}, None, 0)
        assert await read().keep(answered) is None
