"""Which answers are all that was asked for: of every endpoint, whole and streamed, and whatever a provider may send."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.whole import is_whole, is_whole_stream
from gateway.messages.from_chat import FromChat as MessageFromChat
from gateway.model_request import ModelRequest
from gateway.responses.from_chat import FromChat as ResponseFromChat
from gateway.speech import read_speech_request
from gateway.structured import as_stream
from tests.cache.asked import chat, completion, embeddings, image, messages, responses

FIXTURES = Path(__file__).parents[1] / "fixtures"
DONE = b"data: [DONE]\n\n"
SAID = {"role": "assistant", "content": "A fox."}
PIXEL = {"b64_json": "iVBORw0KGgo="}
VECTOR = {"object": "embedding", "index": 0, "embedding": [0.5]}
ENDPOINTS: dict[str, ModelRequest] = {
    "chat": chat(),
    "completion": completion(),
    "embeddings": embeddings(),
    "image": image(),
    "messages": messages(),
    "responses": responses(),
}
NAMES = st.sampled_from(
    """
    choices data finish_reason message text index delta status output type content stop_reason b64_json url embedding
    error response
    """.split()
)
WORDS = st.sampled_from(
    """
    stop end_turn completed message message_start message_stop message_delta response.completed error
    image_generation.completed
    """.split()
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.just(0.5) | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
SHAPES = st.dictionaries(NAMES, VALUES, max_size=4)


def choice(reason: Any = "stop", index: Any = 0, **fields: Any) -> dict[str, Any]:
    return {"index": index, "message": SAID, "finish_reason": reason, **fields}


def text(reason: Any = "stop", index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"index": index, "text": " upon a time.", "finish_reason": reason, **fields}


def message(reason: Any = "end_turn", **fields: Any) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "text", "text": "A fox."}], "stop_reason": reason, **fields}


def response(status: Any = "completed", **fields: Any) -> dict[str, Any]:
    return {"object": "response", "status": status, "error": None, "output": [], **fields}


def sse(*events: Any) -> bytes:
    return b"".join(b"data: %s\n\n" % orjson.dumps(event) for event in events)


def chunk(reason: Any = None, index: Any = 0, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": "A"}, "finish_reason": reason, **fields}]}


def told(status: Any = "completed", type: Any = "response.completed", **fields: Any) -> dict[str, Any]:
    return {"type": type, "response": response(status, **fields)}


def drawn(stage: str = "completed", **fields: Any) -> dict[str, Any]:
    return {"type": f"image_generation.{stage}", **(fields or PIXEL)}


START = {"type": "message_start", "message": {"content": [], "stop_reason": None}}
STOP = {"type": "message_stop"}


def ended(reason: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 2}}


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        pytest.param(chat(), {"choices": [choice()]}, id="chat"),
        pytest.param(chat(), {"choices": [choice("tool_calls")]}, id="chat-tools"),
        pytest.param(chat(), {"choices": [choice("function_call")]}, id="chat-function"),
        pytest.param(chat(), {"choices": [choice()], "error": None}, id="chat-without-error"),
        pytest.param(chat(n=2), {"choices": [choice(), choice(index=1)]}, id="chat-two"),
        pytest.param(completion(), {"choices": [text()]}, id="completion"),
        pytest.param(completion(prompt=["a", "b"], n=2), {"choices": [text(index=i) for i in range(4)]}, id="prompts"),
        pytest.param(completion(best_of=3), {"choices": [text()]}, id="best-of-three"),
        pytest.param(messages(), message(), id="message"),
        pytest.param(messages(), message("stop_sequence"), id="message-stop-sequence"),
        pytest.param(messages(), message("tool_use"), id="message-tool"),
        pytest.param(responses(), response(), id="response"),
        pytest.param(embeddings(), {"data": [VECTOR]}, id="embedding"),
        pytest.param(embeddings(), {"data": [{"embedding": "AACAPw=="}]}, id="embedding-base64"),
        pytest.param(embeddings(input=[1, 2, 3]), {"data": [VECTOR]}, id="embedding-of-tokens"),
        pytest.param(embeddings(input=["a", "b"]), {"data": [VECTOR, VECTOR]}, id="embeddings"),
        pytest.param(image(), {"data": [PIXEL]}, id="image"),
        pytest.param(image(), {"data": [{**PIXEL, "url": None}]}, id="image-url-null"),
        pytest.param(image(n=2), {"data": [PIXEL, PIXEL]}, id="images"),
    ],
)
def test_a_whole_answer_is_whole(request_: ModelRequest, answer: dict[str, Any]) -> None:
    assert is_whole(request_, answer)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        *(
            pytest.param(chat(), {"choices": [choice(reason)]}, id=f"chat-{reason}")
            for reason in ("length", "content_filter", None, "error", "", "Stop", 1, True, ["stop"], {"stop": 1})
        ),
        pytest.param(chat(), {"choices": []}, id="chat-no-choice"),
        pytest.param(chat(), {"choices": None}, id="chat-choices-null"),
        pytest.param(chat(), {"choices": {"0": choice()}}, id="chat-choices-object"),
        pytest.param(chat(), {"choices": ["stop"]}, id="chat-choice-text"),
        pytest.param(chat(), {"choices": [choice(), choice(index=1)]}, id="chat-more-than-asked"),
        pytest.param(chat(n=2), {"choices": [choice()]}, id="chat-fewer-than-asked"),
        pytest.param(chat(n=2), {"choices": [choice(), choice("length", 1)]}, id="chat-one-cut"),
        pytest.param(chat(), {"choices": [choice(message=None)]}, id="chat-no-message"),
        pytest.param(chat(), {"choices": [choice()], "error": {"message": "x"}}, id="chat-error"),
        pytest.param(chat(), {"choices": [choice(error={"code": 502})]}, id="chat-choice-error"),
        pytest.param(chat(), {}, id="chat-empty"),
        pytest.param(completion(), {"choices": [text("length")]}, id="completion-cut"),
        pytest.param(completion(), {"choices": [text(text=None)]}, id="completion-no-text"),
        pytest.param(completion(prompt=["a", "b"]), {"choices": [text()]}, id="completion-a-prompt-missing"),
        *(
            pytest.param(messages(), message(reason), id=f"message-{reason}")
            for reason in ("max_tokens", "pause_turn", "refusal", "model_context_window_exceeded", None, ["end_turn"])
        ),
        pytest.param(messages(), message(type="error"), id="message-error"),
        pytest.param(messages(), message(content=None), id="message-no-content"),
        *(
            pytest.param(responses(), response(status), id=f"response-{status}")
            for status in ("incomplete", "failed", "in_progress", "cancelled", "queued", None, ["completed"])
        ),
        pytest.param(responses(), response(error={"code": "server_error"}), id="response-error"),
        pytest.param(responses(), response(output=None), id="response-no-output"),
        pytest.param(embeddings(), {"data": []}, id="embedding-none"),
        pytest.param(embeddings(), {"data": [VECTOR, VECTOR]}, id="embedding-more-than-asked"),
        pytest.param(embeddings(input=["a", "b"]), {"data": [VECTOR]}, id="embedding-fewer-than-asked"),
        pytest.param(embeddings(), {"data": [{"embedding": []}]}, id="embedding-empty"),
        pytest.param(embeddings(), {"data": [{"embedding": None}]}, id="embedding-null"),
        pytest.param(embeddings(), {"data": [{"embedding": 7}]}, id="embedding-number"),
        pytest.param(embeddings(), {"data": [None]}, id="embedding-no-object"),
        pytest.param(embeddings(), {"data": "vectors"}, id="embedding-text"),
        pytest.param(image(), {"data": []}, id="image-none"),
        pytest.param(image(n=2), {"data": [PIXEL]}, id="image-fewer-than-asked"),
        pytest.param(image(), {"data": [PIXEL, PIXEL]}, id="image-more-than-asked"),
        pytest.param(image(), {"data": [{"url": "https://images.invalid/1"}]}, id="image-url"),
        pytest.param(image(), {"data": [{**PIXEL, "url": "https://images.invalid/1"}]}, id="image-both"),
        pytest.param(image(), {"data": [{"b64_json": ""}]}, id="image-empty"),
        pytest.param(image(), {"data": [{"b64_json": 7}]}, id="image-number"),
        pytest.param(image(), {"data": [None]}, id="image-filtered"),
    ],
)
def test_an_answer_that_is_not_all_is_not_whole(request_: ModelRequest, answer: dict[str, Any]) -> None:
    assert not is_whole(request_, answer)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        pytest.param(chat(), sse(chunk(), chunk("stop")) + DONE, id="chat"),
        pytest.param(chat(), sse(chunk(), chunk("stop")), id="chat-without-done"),
        pytest.param(chat(), sse(chunk(), chunk("stop"))[:-2], id="chat-without-its-last-blank-line"),
        pytest.param(chat(), sse(chunk(""), chunk("tool_calls"), {"choices": []}) + DONE, id="chat-empty-reasons"),
        pytest.param(chat(), sse({"id": "x"}, chunk("stop")) + DONE, id="chat-event-without-choices"),
        pytest.param(chat(), sse({"choices": [{"finish_reason": "stop"}]}) + DONE, id="chat-without-index"),
        pytest.param(chat(n=2), sse(chunk("stop", 1), chunk("stop", 0)) + DONE, id="chat-two"),
        pytest.param(chat(), sse(chunk("stop")).replace(b"\n", b"\r\n") + DONE, id="chat-crlf"),
        pytest.param(chat(), sse(chunk("stop")).replace(b"\n", b"\r"), id="chat-cr"),
        pytest.param(
            chat(), sse({**chunk("stop"), "note": "\nevent: error\n"}) + DONE, id="chat-that-speaks-of-errors"
        ),
        pytest.param(completion(n=2), sse({"choices": [text(), text(index=1)]}) + DONE, id="completion"),
        pytest.param(messages(), sse(START, ended("end_turn"), STOP), id="message"),
        pytest.param(messages(), sse(START, ended(None), ended("tool_use"), STOP), id="message-two-deltas"),
        pytest.param(responses(), sse({"type": "response.created"}, told()), id="response"),
        pytest.param(image(stream=True), sse(drawn("partial_image"), drawn()), id="image"),
    ],
)
def test_a_whole_stream_is_whole(request_: ModelRequest, body: bytes) -> None:
    assert is_whole_stream(request_, body)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        pytest.param(chat(), b"", id="nothing"),
        pytest.param(chat(), DONE, id="chat-done-alone"),
        pytest.param(chat(), sse(chunk()) + DONE, id="chat-done-without-an-end"),
        *(
            pytest.param(chat(), sse(chunk(reason)) + DONE, id=f"chat-{reason}")
            for reason in ("length", "content_filter", "error", 1, True, ["stop"])
        ),
        pytest.param(chat(), sse(chunk("stop"), chunk("length")) + DONE, id="chat-two-reasons"),
        pytest.param(chat(n=2), sse(chunk("stop")) + DONE, id="chat-a-choice-missing"),
        pytest.param(chat(n=2), sse(chunk("stop"), chunk(index=1)) + DONE, id="chat-a-choice-unfinished"),
        pytest.param(chat(), sse(chunk("stop", 1)) + DONE, id="chat-another-choice"),
        pytest.param(chat(), sse(chunk("stop"), chunk("stop", 1)) + DONE, id="chat-more-than-asked"),
        *(
            pytest.param(chat(), sse(chunk("stop", index)) + DONE, id=f"chat-index-{index}")
            for index in (-1, "0", False, [0], None, 2**60)
        ),
        pytest.param(chat(), sse({"choices": {"0": 1}}, chunk("stop")) + DONE, id="chat-choices-object"),
        pytest.param(chat(), sse({"choices": [1]}, chunk("stop")) + DONE, id="chat-choice-number"),
        pytest.param(chat(), sse(chunk("stop", error={"code": 1})) + DONE, id="chat-choice-error"),
        pytest.param(chat(), sse(chunk(), {"error": {"message": "x"}}, chunk("stop")) + DONE, id="chat-error"),
        pytest.param(chat(), sse(chunk("stop")) + DONE + sse({"error": "late"}), id="chat-error-behind-done"),
        pytest.param(chat(), b"event: error\n" + sse(chunk("stop")) + DONE, id="chat-error-by-name"),
        pytest.param(chat(), b": x\revent:error\r" + sse(chunk("stop")) + DONE, id="chat-error-by-name-cr"),
        pytest.param(chat(), b"data: oops\n\n" + sse(chunk("stop")) + DONE, id="chat-no-json"),
        pytest.param(chat(), b"data: 7\n\n" + sse(chunk("stop")) + DONE, id="chat-no-object"),
        pytest.param(chat(), sse(chunk("stop")) + b'data: {"choices":[{"ind', id="chat-cut-in-an-event"),
        pytest.param(chat(), sse(chunk("stop")) + b"\n" * 500_000, id="chat-noise"),
        pytest.param(completion(), sse({"choices": [text("length")]}) + DONE, id="completion-cut"),
        pytest.param(messages(), sse(START, ended("end_turn")), id="message-without-stop"),
        pytest.param(messages(), sse(ended("end_turn"), STOP), id="message-without-start"),
        pytest.param(messages(), sse(START, STOP), id="message-without-a-reason"),
        pytest.param(messages(), sse(START, ended("max_tokens"), STOP), id="message-cut"),
        pytest.param(messages(), sse(START, ended("refusal"), STOP), id="message-refused"),
        pytest.param(messages(), sse(START, ended(["end_turn"]), STOP), id="message-reason-list"),
        pytest.param(messages(), sse(START, {"type": "message_delta", "delta": 7}, STOP), id="message-delta-number"),
        pytest.param(messages(), sse(START, ended("end_turn"), {"type": "error"}, STOP), id="message-error"),
        pytest.param(responses(), sse(told("incomplete", "response.incomplete")), id="response-incomplete"),
        pytest.param(responses(), sse(told("incomplete")), id="response-not-what-it-says"),
        pytest.param(responses(), sse({"type": "response.completed"}), id="response-missing"),
        pytest.param(responses(), sse({"type": "response.completed", "response": [1]}), id="response-list"),
        pytest.param(responses(), sse(told(), told("failed", "response.failed")), id="response-failed-after-all"),
        pytest.param(responses(), sse(told(), told()), id="response-twice"),
        pytest.param(responses(), sse({"type": ["response.completed"]}), id="response-type-list"),
        pytest.param(responses(), sse({"type": "response.output_text.delta", "delta": "A"}), id="response-unfinished"),
        pytest.param(image(stream=True), sse(drawn("partial_image")), id="image-partial"),
        pytest.param(image(stream=True), sse(drawn(), drawn()), id="image-twice"),
        pytest.param(image(stream=True), sse(drawn(url="https://images.invalid/1")), id="image-url"),
        pytest.param(
            image(stream=True), sse(drawn("partial_image", url="https://images.invalid/1"), drawn()), id="partial-url"
        ),
        pytest.param(image(stream=True), sse(drawn(b64_json="")), id="image-empty"),
        pytest.param(embeddings(), sse({"data": [VECTOR]}), id="embeddings-stream-nothing"),
    ],
)
def test_a_stream_that_is_not_all_is_not_whole(request_: ModelRequest, body: bytes) -> None:
    assert not is_whole_stream(request_, body)


@pytest.mark.parametrize(
    ("folder", "name", "request_", "expected"),
    [
        ("streams", "openai.txt", chat(), True),
        ("streams", "openai_tools.txt", chat(), True),
        ("streams", "azure.txt", chat(), True),
        ("streams", "groq.txt", chat(), True),
        ("streams", "usage_on_finish.txt", chat(), True),
        ("streams", "vllm_continuous.txt", chat(), True),
        ("streams", "no_done.txt", chat(), True),
        ("streams", "comments.txt", chat(), True),
        ("streams", "multiline.txt", chat(), True),
        ("streams", "bom.txt", chat(), True),
        ("streams", "invalid_utf8.txt", chat(), True),
        ("streams", "usage_after_done.txt", chat(), True),
        ("streams", "error_event.txt", chat(), False),
        ("streams", "two_choices.txt", chat(n=2), False),  # its second choice was cut
        ("streams", "image.txt", image(stream=True), True),
        ("streams", "responses.txt", responses(), True),
        ("anthropic", "text.sse", messages(), True),
        ("anthropic", "tools.sse", messages(), True),
        ("anthropic", "refusal.sse", messages(), False),
        ("anthropic", "error.sse", messages(), False),
    ],
)
def test_streams_as_providers_send_them_are_judged_rightly(
    folder: str, name: str, request_: ModelRequest, expected: bool
) -> None:
    assert is_whole_stream(request_, (FIXTURES / folder / name).read_bytes()) is expected


def test_no_stream_is_whole_before_its_last_event() -> None:
    """Cut anywhere in or before what ended it, a stream is not kept."""
    for name, asked, last in (
        ("streams/openai.txt", chat(), b'"finish_reason":"stop"'),
        ("anthropic/text.sse", messages(), b'"message_stop"}'),
        ("streams/image.txt", image(stream=True), b'"image_tokens":40}}}'),
    ):
        body = (FIXTURES / name).read_bytes()
        end = body.index(last)
        assert is_whole_stream(asked, body)
        assert not [cut for cut in range(0, end, 7) if is_whole_stream(asked, body[:cut])]


def test_what_the_gateway_itself_makes_of_an_answer_is_judged_rightly() -> None:
    completed = {"id": "c", "created": 1, "model": "m", "choices": [choice()]}
    cut = {**completed, "choices": [choice("length")]}
    for answer, expected in ((completed, True), (cut, False)):
        chunks = as_stream(answer, with_usage=True)
        as_message = MessageFromChat("m", wants_thinking=False, stop_sequences=(), input_tokens_estimate=1)
        as_response = ResponseFromChat("resp_1", 1, {"store": False}, "m", lambda kind: f"{kind}_1")
        assert is_whole_stream(chat(), chunks) is expected
        assert is_whole_stream(messages(), as_message.feed(chunks) + as_message.finish()) is expected
        assert is_whole_stream(responses(), as_response.feed(chunks) + as_response.finish()) is expected


def test_nothing_of_an_endpoint_without_kept_answers_is_whole() -> None:
    said = read_speech_request(b'{"model":"m","input":"hi","voice":"v"}')
    assert not is_whole(said, {"choices": [choice()]})
    assert not is_whole_stream(said, sse(chunk("stop")) + DONE)


@given(st.sampled_from(sorted(ENDPOINTS)), SHAPES)
def test_no_answer_raises(endpoint: str, answer: dict[str, Any]) -> None:
    assert is_whole(ENDPOINTS[endpoint], answer) in (True, False)


@given(st.sampled_from(sorted(ENDPOINTS)), st.lists(SHAPES | VALUES, max_size=3))
def test_no_stream_of_json_raises(endpoint: str, events: list[Any]) -> None:
    assert is_whole_stream(ENDPOINTS[endpoint], sse(*events)) in (True, False)


@given(st.sampled_from(sorted(ENDPOINTS)), st.binary(max_size=60), st.sampled_from((b"", b"data: ", b"data: {")))
def test_no_bytes_raise(endpoint: str, body: bytes, start: bytes) -> None:
    assert not is_whole_stream(ENDPOINTS[endpoint], start + body)
