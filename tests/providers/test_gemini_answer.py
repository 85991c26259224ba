"""What OpenAI's clients are told, for what Gemini answers."""

import base64
import struct
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.providers.gemini_answer import ChatTranslator
from gateway.providers.gemini_embeddings import EmbeddingsTranslator
from gateway.providers.gemini_errors import Refusing
from gateway.providers.gemini_images import ImagesTranslator
from gateway.providers.gemini_request import chat_body
from gateway.providers.gemini_usage import chat_usage, image_usage, service_tier
from gateway.providers.translated import Untranslatable
from gateway.relay import Guard
from gateway.streaming import SseRelay
from gateway.usage import Usage, from_chat, from_images
from tests.providers.gemini_fixtures import ASKED, STREAMS, chunks, fixture, streamed, whole


def answer(*candidates: dict[str, Any], **fields: Any) -> bytes:
    return orjson.dumps({"candidates": list(candidates), **fields})


def said(*parts: dict[str, Any], finish: str | None = "STOP", **fields: Any) -> dict[str, Any]:
    return {
        "content": {"role": "model", "parts": list(parts)},
        **({"finishReason": finish} if finish else {}),
        **fields,
    }


def told(body: bytes, **how: Any) -> dict[str, Any]:
    return dict(orjson.loads(ChatTranslator(ASKED._replace(**how)).whole(body)))


def event(body: bytes) -> bytes:
    return b"data: " + body + b"\r\n\r\n"


def deltas(messages: list[Any]) -> list[dict[str, Any]]:
    return [message["choices"][0]["delta"] for message in messages if message != "[DONE]" and message.get("choices")]


def buckets(usage: object) -> Usage | None:
    return from_chat(usage, context_tokens_max=1_048_576, output_tokens_max=65_536, choices=1)


def test_an_answer_has_text_thoughts_signature_and_usage() -> None:
    assert whole("chat.json") == {
        "id": "chatcmpl-m91NaoKoNe2_vr0P3vX0iAY",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gemini-3.5-flash",
        "service_tier": "default",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Descartes doubts his senses – and then everything.",
                    "refusal": None,
                    "reasoning_content": "Two grounds: the dream, and the evil spirit.",
                    "extra_content": {"google": {"thought_signature": "EuIOCt8OAXLI2nyUmA16"}},
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 4_200,
            "completion_tokens": 467,
            "total_tokens": 4_667,
            "prompt_tokens_details": {"cached_tokens": 4_096, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 455, "audio_tokens": 0},
        },
    }


def test_a_stream_says_what_the_whole_answer_says() -> None:
    *parts, finish, usage, done = chunks(streamed(fixture("stream.sse")))
    message = whole("chat.json")["choices"][0]["message"]
    found = deltas(parts)
    assert found[0]["role"] == "assistant"
    assert all("role" not in delta for delta in found[1:])
    assert "".join(delta.get("content", "") for delta in found) == message["content"]
    assert "".join(delta.get("reasoning_content", "") for delta in found) == message["reasoning_content"]
    assert [delta["extra_content"] for delta in found if "extra_content" in delta] == [message["extra_content"]]
    assert finish["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert (usage["choices"], usage["usage"]) == ([], whole("chat.json")["usage"])
    assert usage["service_tier"] == "default"
    assert done == "[DONE]"
    assert {(one["id"], one["created"], one["model"]) for one in [*parts, finish, usage]} == {
        ("chatcmpl-m91NaoKoNe2_vr0P3vX0iAY", 1_700_000_000, "gemini-3.5-flash")
    }


def test_usage_is_told_in_a_stream_only_where_it_was_asked_for() -> None:
    messages = chunks(streamed(fixture("stream.sse"), has_usage_event=False))
    assert messages[-1] == "[DONE]"
    assert not any("usage" in message for message in messages[:-1])


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_the_same_byte_by_byte(name: str) -> None:
    translator = ChatTranslator(ASKED)
    data = fixture(name)
    found = b"".join(translator.feed(data[at : at + 1]) for at in range(len(data))) + translator.finish()
    assert found == streamed(data)


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 3_000)), st.sampled_from([b"\r\n", b"\n", b"\r"]))
def test_a_stream_is_the_same_in_any_split_and_with_any_line_end(name: str, cuts: list[int], end: bytes) -> None:
    data = fixture(name).replace(b"\r\n", end)
    translator = ChatTranslator(ASKED)
    places = [0, *sorted(cuts), len(data)]
    pieces = [data[start:stop] for start, stop in pairwise(places)]
    assert b"".join([*map(translator.feed, pieces), translator.finish()]) == streamed(fixture(name))


@pytest.mark.parametrize("name", ["stream.sse", "stream_tools.sse"])
def test_a_stream_that_ends_early_is_never_complete(name: str) -> None:
    events = fixture(name).split(b"\r\n\r\n")[:-1]
    for length in range(len(events)):
        messages = chunks(streamed(b"".join(one + b"\r\n\r\n" for one in events[:length])))
        assert "[DONE]" not in messages
        assert not any(choice["finish_reason"] for message in messages for choice in message.get("choices", ()))
        assert not length or messages[-1]["usage"]["prompt_tokens"] in (4_200, 80)


def test_an_event_that_was_cut_off_is_dropped_and_the_usage_before_it_told() -> None:
    *parts, usage = chunks(streamed(fixture("stream.sse")[:-40]))
    assert "".join(delta.get("content", "") for delta in deltas(parts)).endswith("everything.")
    assert usage["usage"]["completion_tokens"] == 466


def test_a_last_event_without_its_blank_line_counts() -> None:
    assert streamed(fixture("stream.sse").removesuffix(b"\r\n\r\n")) == streamed(fixture("stream.sse"))


def test_a_finish_reason_on_every_chunk_ends_nothing_early() -> None:
    data = event(answer(said({"text": "One "}), responseId="r")) + event(answer(said({"text": "two"})))
    messages = chunks(streamed(data))
    assert "".join(delta.get("content", "") for delta in deltas(messages)) == "One two"
    assert [message["choices"][0]["finish_reason"] for message in messages[:-1]] == [None, None, "stop"]


def test_tool_calls_have_ids_arguments_and_the_signature() -> None:
    choice = whole("tools.json")["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    weather, clock = choice["message"]["tool_calls"]
    assert weather == {
        "id": "qf3h1k9z",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Köln","days":2}'},
        "extra_content": {"google": {"thought_signature": "CrICAdHtim827fQ="}},
    }
    assert clock == {
        "id": "call_Hi9PaZ-tB8u2xN8P_0_1",
        "type": "function",
        "function": {"name": "clock", "arguments": "{}"},
    }


def test_streamed_tool_calls_are_those_of_the_whole_answer() -> None:
    messages = chunks(streamed(fixture("stream_tools.sse")))
    calls = [call for delta in deltas(messages) for call in delta.get("tool_calls", ())]
    assert [call.pop("index") for call in calls] == [0, 1]
    assert calls == whole("tools.json")["choices"][0]["message"]["tool_calls"]
    assert messages[-3]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_call_and_its_signature_survive_the_round_trip() -> None:
    message = whole("tools.json")["choices"][0]["message"]
    sent = chat_body({"model": "gemini-3.5-flash", "messages": [{"role": "user", "content": "?"}, message]})
    parts = orjson.loads(fixture("tools.json"))["candidates"][0]["content"]["parts"]
    parts[1]["functionCall"] |= {"args": {}, "id": "call_Hi9PaZ-tB8u2xN8P_0_1"}
    assert sent["contents"][1]["parts"] == parts


def test_ids_that_gemini_repeats_or_makes_strange_are_replaced() -> None:
    calls = [{"functionCall": {"name": "f", "id": given}} for given in ("a", "a", "b c", "")]
    message = told(answer(said(*calls), responseId="r"))["choices"][0]["message"]
    assert [call["id"] for call in message["tool_calls"]] == ["a", "call_r_0_1", "call_r_0_2", "call_r_0_3"]


@pytest.mark.parametrize("name", ["tools.json", "stream_tools.sse"])
def test_a_caller_who_wants_one_call_at_a_time_gets_the_first(name: str) -> None:
    if name.endswith(".json"):
        calls = whole(name, is_single_call=True)["choices"][0]["message"]["tool_calls"]
    else:
        found = deltas(chunks(streamed(fixture(name), is_single_call=True)))
        calls = [call for delta in found for call in delta.get("tool_calls", ())]
    assert [call["function"]["name"] for call in calls] == ["weather"]


def test_a_blocked_prompt_is_an_empty_answer_of_the_filter() -> None:
    blocked = whole("blocked.json")
    assert blocked["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "", "refusal": None},
            "logprobs": None,
            "finish_reason": "content_filter",
        }
    ]
    assert blocked["usage"]["prompt_tokens"] == 17
    first, finish, usage, done = chunks(streamed(fixture("stream_blocked.sse")))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert finish["choices"][0]["finish_reason"] == "content_filter"
    assert usage["usage"]["total_tokens"] == 17
    assert done == "[DONE]"


def test_a_malformed_call_is_no_answer_and_is_charged() -> None:
    failed = whole("malformed_call.json")
    assert "choices" not in failed
    assert failed["usage"]["completion_tokens"] == 110
    _, usage, error = chunks(streamed(fixture("stream_malformed_call.sse")))
    assert usage["usage"] == failed["usage"]
    assert error["error"]["code"] == "malformed_tool_call"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("OTHER", "content_filter"),
        ("SOMETHING_OF_NEXT_YEAR", "content_filter"),
    ],
)
def test_finish_reasons(reason: str, finish: str) -> None:
    assert told(answer(said({"text": "x"}, finish=reason)))["choices"][0]["finish_reason"] == finish


def test_a_candidate_kept_back_has_no_parts_and_still_ends() -> None:
    choice = told(answer({"finishReason": "SAFETY"}))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "content_filter")


def test_a_candidate_that_never_finished_is_no_answer() -> None:
    assert "choices" not in told(answer(said({"text": "x"}, finish=None), usageMetadata={"promptTokenCount": 3}))


def test_several_candidates_are_several_choices() -> None:
    body = answer(said({"text": "a"}, index=1), said({"text": "b"}, index=0, finish="MAX_TOKENS"))
    choices = told(body)["choices"]
    found = {choice["index"]: (choice["message"]["content"], choice["finish_reason"]) for choice in choices}
    assert found == {1: ("a", "stop"), 0: ("b", "length")}
    messages = chunks(streamed(event(body)))
    assert [message["choices"][0]["index"] for message in messages[:-1]] == [1, 0, 0, 1]


def test_one_unfinished_candidate_leaves_the_stream_unfinished() -> None:
    data = event(answer(said({"text": "a"}, index=0), said({"text": "b"}, index=1, finish=None)))
    assert "[DONE]" not in chunks(streamed(data))


def test_images_come_with_the_message_and_drafts_do_not() -> None:
    message = whole("chat_image.json")["choices"][0]["message"]
    url = "data:image/png;base64,aVZCT1J3MEtHZ289"
    assert message["images"] == [{"type": "image_url", "index": 0, "image_url": {"url": url}}]
    assert message["content"] == "A red cube."
    assert buckets(whole("chat_image.json")["usage"]) == Usage(9, text_output=4, reasoning=150, image_output=1_120)


def test_the_signature_of_a_thought_is_not_that_of_the_text() -> None:
    parts = {"text": "Hm.", "thought": True, "thoughtSignature": "dGhvdWdodA=="}, {"text": "Hi."}
    message = told(answer(said(*parts)))["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "Hi.", "refusal": None, "reasoning_content": "Hm."}


def test_logprobs_are_told_token_by_token() -> None:
    result = {
        "chosenCandidates": [{"token": "ä", "logProbability": -0.5}, {"token": "!"}],
        "topCandidates": [{"candidates": [{"token": "ä", "logProbability": -0.5}]}],
    }
    choice = told(answer(said({"text": "ä!"}, logprobsResult=result)))["choices"][0]
    first = {"token": "ä", "logprob": -0.5, "bytes": [195, 164]}
    assert choice["logprobs"]["content"] == [
        first | {"top_logprobs": [first]},
        {"token": "!", "logprob": 0.0, "bytes": [33], "top_logprobs": []},
    ]


def test_an_error_in_the_middle_ends_the_stream_without_done() -> None:
    first, usage, error = chunks(streamed(fixture("stream_error.sse") + fixture("stream.sse")))
    assert first["choices"][0]["delta"]["content"] == "Once upon"
    assert buckets(usage["usage"]) == Usage(5, text_output=2)
    assert error["error"] == {
        "message": "The model is overloaded. Please try again later.",
        "type": "server_error",
        "param": None,
        "code": "overloaded",
    }


def test_an_error_in_the_middle_may_come_without_data() -> None:
    first = fixture("stream_error.sse").split(b"\r\n\r\n")[0] + b"\r\n\r\n"
    messages = chunks(streamed(first + fixture("error_quota.json")))
    assert messages[-1]["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(
    "body",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"candidates":{}}',
        b'{"candidates":["x"]}',
        b'{"candidates":[{"index":-1}]}',
        b'{"candidates":[{"index":true}]}',
        b'{"candidates":[{},{"index":0}]}',
        b'{"candidates":[{"content":{"parts":"x"},"finishReason":"STOP"}]}',
        b'{"candidates":[{"content":{"parts":["x"]},"finishReason":"STOP"}]}',
        b'{"candidates":[{"content":{"parts":[{"functionCall":{}}]},"finishReason":"STOP"}]}',
        b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":[]}}]},"finishReason":"STOP"}]}',
        b'{"candidates":[{"finishReason":"STOP","logprobsResult":{"chosenCandidates":[1]}}]}',
    ],
)
def test_an_answer_that_is_none_is_untranslatable(body: bytes) -> None:
    with pytest.raises(Untranslatable):
        told(body)


def test_an_event_above_the_bound_is_untranslatable() -> None:
    with pytest.raises(Untranslatable):
        ChatTranslator(ASKED._replace(event_bytes_max=100)).feed(b"data: " + b"x" * 100)


def test_an_event_that_is_no_json_is_untranslatable() -> None:
    with pytest.raises(Untranslatable):
        ChatTranslator(ASKED).feed(b"data: {\r\n\r\n")


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        pytest.param({}, Usage(), id="nothing, which is zeros"),
        pytest.param({"promptTokenCount": 7, "totalTokenCount": 7}, Usage(7), id="input only"),
        pytest.param(
            {"promptTokenCount": 10, "toolUsePromptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 17},
            Usage(15, text_output=2),
            id="tool use is input",
        ),
        pytest.param(
            {
                "promptTokenCount": 100,
                "cachedContentTokenCount": 60,
                "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 50}, {"modality": "TEXT", "tokenCount": 50}],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 30}, {"modality": "TEXT", "tokenCount": 30}],
            },
            Usage(20, 60, audio_input=20),
            id="audio from the cache is cached",
        ),
        pytest.param(
            {
                "promptTokenCount": 100,
                "cachedContentTokenCount": 60,
                "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 90}],
            },
            Usage(0, 60, audio_input=40),
            id="audio and cache overlap unsaid",
        ),
        pytest.param(
            {
                "promptTokenCount": 300,
                "promptTokensDetails": [{"modality": "IMAGE", "tokenCount": 258}, {"modality": "TEXT", "tokenCount": 42}],
            },
            Usage(300),
            id="images go in at the price of words",
        ),
        pytest.param(
            {"promptTokenCount": 1, "candidatesTokenCount": 9, "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 8}]},
            Usage(1, text_output=1, audio_output=8),
            id="audio comes out",
        ),
        pytest.param(
            {"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 10},
            Usage(1, text_output=2, reasoning=7),
            id="what only the total has is thinking",
        ),
        pytest.param({"promptTokenCount": 5, "candidatesTokenCount": 5, "totalTokenCount": 9}, None, id="total too small"),
        pytest.param({"promptTokenCount": 5, "cachedContentTokenCount": 6}, None, id="more cached than read"),
        pytest.param({"promptTokenCount": -5}, None, id="negative"),
        pytest.param({"promptTokenCount": "5"}, None, id="text"),
        pytest.param({"promptTokenCount": 5, "thoughtsTokenCount": True}, None, id="boolean"),
        pytest.param({"promptTokenCount": 5.0}, None, id="fraction"),
        pytest.param({"promptTokenCount": 5, "promptTokensDetails": 7}, None, id="details that are none"),
        pytest.param({"promptTokenCount": 2_000_000}, None, id="above the context"),
        pytest.param({"promptTokenCount": 5, "thoughtsTokenCount": 70_000}, None, id="above the output"),
    ],
)  # fmt: skip
def test_every_token_is_in_one_bucket_or_the_report_is_refused(report: dict[str, Any], expected: Usage | None) -> None:
    assert buckets(chat_usage(report)) == expected


@given(
    st.dictionaries(
        st.sampled_from(
            "promptTokenCount cachedContentTokenCount candidatesTokenCount thoughtsTokenCount totalTokenCount "
            "toolUsePromptTokenCount promptTokensDetails cacheTokensDetails candidatesTokensDetails".split()
        ),
        st.integers(-5, 500) | st.none() | st.booleans() | st.text(max_size=3)
        | st.lists(st.fixed_dictionaries({"modality": st.sampled_from(["AUDIO", "IMAGE", "TEXT"]), "tokenCount": st.integers(-1, 300)}), max_size=3),
    )
)  # fmt: skip
def test_no_report_makes_negative_tokens_or_loses_any(report: dict[str, Any]) -> None:
    found = buckets(chat_usage(report))
    if found is not None:
        assert min(found) >= 0
        counted = ("promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
        parts = sum(report.get(name) or 0 for name in counted)
        assert found.input_tokens + found.output_tokens == max(parts, report.get("totalTokenCount") or 0)


def test_image_tokens_and_thoughts_are_apart() -> None:
    usage = image_usage(orjson.loads(fixture("image.json"))["usageMetadata"])
    assert usage is not None
    found = from_images(usage, input_tokens_max=None, output_tokens_max=None)
    assert found == Usage(9, text_output=154, image_output=1_120)


def test_without_a_split_all_but_thinking_is_images() -> None:
    report = {"promptTokenCount": 9, "candidatesTokenCount": 1_290, "thoughtsTokenCount": 10}
    found = from_images(image_usage(report), input_tokens_max=None, output_tokens_max=None)
    assert found == Usage(9, text_output=10, image_output=1_290)


@pytest.mark.parametrize("report", [{"promptTokenCount": -1}, {"candidatesTokenCount": "x"}])
def test_an_image_report_with_something_in_it_that_is_no_count_is_refused(report: dict[str, Any]) -> None:
    assert from_images(image_usage(report), input_tokens_max=None, output_tokens_max=None) is None


@pytest.mark.parametrize(
    ("report", "header", "tier"),
    [
        ({"serviceTier": "standard"}, "", "default"),
        ({"serviceTier": "priority"}, "standard", "priority"),
        ({}, "flex", "flex"),
        ({}, "SERVICE_TIER_STANDARD", "default"),
        ({"serviceTier": "unspecified"}, "", None),
        (None, "", None),
    ],
)
def test_the_tier_that_served(report: object, header: str, tier: str | None) -> None:
    assert service_tier(report, header) == tier


def test_the_relay_reads_the_last_usage_and_the_end_off_the_translated_stream() -> None:
    relay = SseRelay(Guard(2**20, lambda data: data), strip_usage=True)
    relay.feed(streamed(fixture("stream.sse")))
    relay.finish()
    assert relay.is_complete
    assert relay.usage == whole("chat.json")["usage"]
    assert relay.reported_tier() == "default"


@pytest.mark.parametrize(
    ("status", "name", "kind", "code", "param"),
    [
        (429, "error_quota.json", "rate_limit_error", "rate_limit_exceeded", None),
        (400, "error_context.json", "invalid_request_error", "context_length_exceeded", "messages"),
        (400, "error_key.json", "authentication_error", "invalid_api_key", None),
        (404, "error_model.json", "invalid_request_error", "model_not_found", "model"),
    ],
)
def test_refusals_are_openais(status: int, name: str, kind: str, code: str, param: str | None) -> None:
    error = orjson.loads(Refusing().refusal(status, fixture(name)))["error"]
    assert (error["type"], error["code"], error["param"]) == (kind, code, param)
    assert error["message"]


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, b'{"error":{"status":"UNAUTHENTICATED","message":"m"}}', "invalid_api_key"),
        (403, b'{"error":{"status":"PERMISSION_DENIED","message":"m"}}', "permission_denied"),
        (503, b"<html>", "overloaded"),
        (500, b"", "internal_error"),
        (502, b"{}", "internal_error"),
        (418, b'{"error":"no"}', "invalid_value"),
        (400, b'{"error":{"status":["x"],"message":7,"details":[{"reason":[]},1]}}', "invalid_value"),
        (400, b"[]", "invalid_value"),
    ],
)
def test_whatever_refuses_becomes_readable(status: int, body: bytes, code: str) -> None:
    assert orjson.loads(Refusing().refusal(status, body))["error"]["code"] == code


@given(st.integers(300, 599), st.binary(max_size=60))
def test_no_refusal_raises(status: int, body: bytes) -> None:
    assert set(orjson.loads(Refusing().refusal(status, body))["error"]) == {"message", "type", "param", "code"}


def test_vectors_are_floats_or_their_bytes() -> None:
    plain = orjson.loads(EmbeddingsTranslator("m", is_base64=False, count=2).whole(fixture("embeddings.json")))
    assert plain == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -0.25, 1]},
            {"object": "embedding", "index": 1, "embedding": [0.125, 0, -2]},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }
    coded = orjson.loads(EmbeddingsTranslator("m", is_base64=True, count=2).whole(fixture("embeddings.json")))
    assert struct.unpack("<3f", base64.b64decode(coded["data"][1]["embedding"])) == (0.125, 0.0, -2.0)
    assert buckets(coded["usage"]) == Usage(8)


def test_vectors_without_a_report_have_no_usage() -> None:
    body = orjson.dumps({"embeddings": [{"values": [1]}]})
    assert "usage" not in orjson.loads(EmbeddingsTranslator("m", is_base64=False, count=1).whole(body))


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"embeddings":[]}',
        b'{"embeddings":[{"values":[]}]}',
        b'{"embeddings":[{"values":["x"]}]}',
        b'{"embeddings":[{"values":[1]},{"values":[1]}]}',
    ],
)
def test_vectors_that_are_none_are_untranslatable(body: bytes) -> None:
    with pytest.raises(Untranslatable):
        EmbeddingsTranslator("m", is_base64=True, count=1).whole(body)


def test_a_gemini_image_is_told_without_its_drafts() -> None:
    found = orjson.loads(ImagesTranslator(7).whole(fixture("image.json")))
    assert (found["created"], found["data"]) == (7, [{"b64_json": "aVZCT1J3MEtHZ289"}])
    assert found["usage"]["total_tokens"] == 1_283


def test_images_that_a_filter_took_are_not_there() -> None:
    found = orjson.loads(ImagesTranslator(7).whole(fixture("imagen.json")))
    assert found == {"created": 7, "data": [{"b64_json": "b25l"}, {"b64_json": "dGhyZWU="}]}
    assert orjson.loads(ImagesTranslator(7).whole(b"{}"))["data"] == []
    assert orjson.loads(ImagesTranslator(7).whole(fixture("blocked.json")))["data"] == []


@pytest.mark.parametrize("body", [b"x", b"[]", b'{"predictions":{}}', b'{"candidates":["x"]}', b'{"name":"x"}'])
def test_images_that_are_none_are_untranslatable(body: bytes) -> None:
    with pytest.raises(Untranslatable):
        ImagesTranslator(7).whole(body)
