"""A mock server written by others as upstream, in four dialects: what clients see, the bytes, and the books."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients import aimock_world
from tests.clients.aimock_world import (
    ANTHROPIC,
    CALL_ID,
    CHAT_MODELS,
    EMBED,
    GEMINI,
    NATIVE,
    OPENAI,
    TEXT,
    TOKENS_IN,
    TOKENS_OUT,
)
from tests.clients.conftest import Begin, Play
from tests.clients.node_process import Aimock, NodeHost
from tests.clients.test_node_openai import TOOL
from tests.clients.test_node_openai_media import SOUND, text_of
from tests.clients.test_node_openai_responses import TOOL_OF_RESPONSES
from tests.clients.world import NANO_PER_CHARACTER, NANO_PER_IMAGE, NANO_PER_SECOND, nano
from tests.rig.catalog import estimated_input
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Upstream
from tests.rig.waiting import PATIENCE_S

COST = nano(TOKENS_IN, TOKENS_OUT)
EVERY_DIALECT = pytest.mark.parametrize("model", CHAT_MODELS)
_MADE_UP = re.compile(rb'"(?:msg|fc)-[A-Za-z0-9_-]+"')
"""Ids of items, which the mock makes anew for each answer."""


@pytest.fixture(scope="module")
def aimock(node_scripts: Path) -> Iterator[Aimock]:
    mock = Aimock(node_scripts, aimock_world.fixtures())
    try:
        yield mock
        assert "foreign connection" not in mock.stderr
    finally:
        mock.close()


@pytest.fixture(scope="module")
def front(aimock: Aimock, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway in front of the mock."""
    gateway = Gateway(tmp_path_factory.mktemp("aimock"), upstream, models=aimock_world.rows(aimock.url))
    try:
        yield gateway.start()
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


@pytest.fixture
def key(front: Gateway) -> Key:
    return front.new_key()


@pytest.fixture
def begin(node: NodeHost, front: Gateway, key: Key) -> Begin:
    return partial(node.begin, baseURL=f"{front.url}/v1", apiKey=key.key)


def chat(word: str, model: str, **fields: object) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": word}], "max_tokens": 100, **fields}


def assert_charged(front: Gateway, key: Key) -> dict[str, Any]:
    entry = front.entry(key)
    assert (entry["outcome"], entry["usage_source"], entry["flags"]) == ("ok", "provider", [])
    assert (entry["input_tokens"], entry["output_tokens"]) == (TOKENS_IN, TOKENS_OUT)
    assert entry["cost_nano_usd"] == COST
    return entry


# Chat, in every dialect


@EVERY_DIALECT
def test_chat(front: Gateway, key: Key, play: Play, model: str) -> None:
    seen = play("openai", "chat", body=chat("tell", model))
    assert seen.error is None
    [choice] = seen.result["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (TEXT, "stop")
    assert seen.result["usage"]["total_tokens"] == TOKENS_IN + TOKENS_OUT
    assert_charged(front, key)


@EVERY_DIALECT
@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream(front: Gateway, key: Key, play: Play, model: str, include_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    seen = play("openai", "chatStream", body=chat("tell", model, **options))
    assert seen.error is None
    deltas = [chunk["choices"][0]["delta"].get("content") or "" for chunk in seen.result if chunk["choices"]]
    assert "".join(deltas) == TEXT
    assert sum(map(bool, deltas)) > 1
    assert bool(seen.result[-1].get("usage")) is include_usage
    assert_charged(front, key)


@EVERY_DIALECT
def test_a_tool_call(front: Gateway, key: Key, play: Play, model: str) -> None:
    seen = play("openai", "chat", body=chat("tool", model, tools=[TOOL]))
    assert seen.error is None
    [choice] = seen.result["choices"]
    [call] = choice["message"]["tool_calls"]
    assert (call["function"]["name"], choice["finish_reason"]) == ("weather", "tool_calls")
    assert call["function"]["arguments"].replace(" ", "") == aimock_world.ARGUMENTS
    assert call["id"]
    assert_charged(front, key)


@EVERY_DIALECT
def test_a_streamed_tool_call(front: Gateway, key: Key, play: Play, model: str) -> None:
    seen = play("openai", "chatStreamHelper", body=chat("tool", model, tools=[TOOL]))
    assert seen.error is None
    [call] = seen.result["choice"]["message"]["tool_calls"]
    assert call["function"]["arguments"].replace(" ", "") == aimock_world.ARGUMENTS
    assert seen.result["choice"]["finish_reason"] == "tool_calls"
    assert_charged(front, key)


@EVERY_DIALECT
@pytest.mark.parametrize(("suite", "scenario"), [("openai", "chatRunTools"), ("vercel", "tools")])
def test_a_tool_is_run_and_its_result_shown_to_the_model(
    front: Gateway, key: Key, play: Play, model: str, suite: str, scenario: str
) -> None:
    """Two calls: the mock tells the second by the result of the tool. Vercel's goes over the Responses API, bridged."""
    if suite == "openai":
        seen = play(suite, scenario, body=chat("tool", model, tools=[TOOL]))
        told = seen.result and seen.result["content"], seen.result and seen.result["called"]
    else:
        seen = play(suite, scenario, provider="openai", model=model, prompt="tool")
        told = seen.result and seen.result["text"], seen.result and seen.result["calls"]
    assert seen.error is None
    assert told == (TEXT, [{"city": "Ulm"}])
    assert [entry["cost_nano_usd"] for entry in front.entries(creator=key.creator)] == [COST, COST]


@EVERY_DIALECT
def test_a_refused_request_is_no_ones_retry(front: Gateway, key: Key, play: Play, model: str) -> None:
    seen = play("openai", "chat", body=chat("wrong", model))
    assert (seen.error["class"], seen.error["status"]) == ("BadRequestError", 400)
    assert "Refused: invalid_request_error" in seen.error["message"]
    assert len(seen.requests) == 1
    entry = front.entry(key)
    assert (entry["outcome"], entry["cost_nano_usd"]) == ("upstream_refused", 0)


@EVERY_DIALECT
@pytest.mark.parametrize("scenario", ["chat", "chatStream"])
def test_a_failure_of_the_provider(front: Gateway, key: Key, play: Play, model: str, scenario: str) -> None:
    seen = play("openai", scenario, body=chat("broken", model), maxRetries=0)
    assert (seen.error["class"], seen.error["status"]) == ("InternalServerError", 500)
    assert front.entry(key)["cost_nano_usd"] == 0


@EVERY_DIALECT
def test_a_rate_limit_is_waited_for(front: Gateway, key: Key, play: Play, model: str) -> None:
    seen = play("openai", "chat", body=chat("busy", model))
    assert seen.error is None
    assert seen.result["choices"][0]["message"]["content"] == TEXT
    assert [exchange.status for exchange in seen.exchanges] == [429, 200]
    assert sorted(entry["cost_nano_usd"] for entry in front.entries(creator=key.creator)) == [0, COST]


@EVERY_DIALECT
def test_a_stream_that_is_cut_is_raised_and_charged_for_what_came(
    front: Gateway, key: Key, play: Play, model: str
) -> None:
    seen = play("openai", "chatStream", body=chat("cut", model))
    assert seen.error is not None
    entry = front.entry(key)
    assert entry["outcome"] == "upstream_died"
    assert entry["cost_nano_usd"] == nano(entry["input_tokens"], entry["output_tokens"])
    assert entry["output_tokens"] < TOKENS_OUT


@EVERY_DIALECT
@pytest.mark.parametrize("scenario", ["generateText", "streamText"])
def test_the_responses_api_is_bridged_over_every_dialect(
    front: Gateway, key: Key, play: Play, model: str, scenario: str
) -> None:
    seen = play("vercel", scenario, provider="openai", model=model, prompt="tell")
    assert seen.error is None
    assert "".join(seen.result.get("deltas") or seen.result["text"]) == TEXT
    assert seen.result["usage"] == {"input": TOKENS_IN, "output": TOKENS_OUT}
    assert seen.requests == ["POST /v1/responses"]
    assert_charged(front, key)


@EVERY_DIALECT
def test_anthropics_client_on_every_dialect(front: Gateway, key: Key, play: Play, model: str) -> None:
    seen = play("anthropic", "stream", body=chat("tell", model))
    assert seen.error is None
    assert "".join(seen.result["deltas"]) == TEXT
    assert (seen.result["stop"], seen.result["usage"]["output_tokens"]) == ("end_turn", TOKENS_OUT)
    assert_charged(front, key)


# Responses and embeddings


def test_a_native_response(front: Gateway, key: Key, play: Play) -> None:
    seen = play("openai", "response", body={"model": NATIVE, "input": "tell"})
    assert seen.error is None
    assert seen.result["text"] == TEXT
    assert_charged(front, key)


def test_a_native_response_stream(front: Gateway, key: Key, play: Play) -> None:
    seen = play("openai", "responseStreamHelper", body={"model": NATIVE, "input": "tell"})
    assert seen.error is None
    assert (seen.result["text"], seen.result["types"][-1]) == (TEXT, "response.completed")
    assert_charged(front, key)


def test_a_native_response_calls_a_tool(front: Gateway, key: Key, play: Play) -> None:
    seen = play("openai", "response", body={"model": NATIVE, "input": "tool", "tools": [TOOL_OF_RESPONSES]})
    assert seen.error is None
    [call] = [item for item in seen.result["output"] if item["type"] == "function_call"]
    assert (call["call_id"], call["arguments"]) == (CALL_ID, aimock_world.ARGUMENTS)
    assert_charged(front, key)


def test_a_native_response_is_refused(front: Gateway, key: Key, play: Play) -> None:
    seen = play("openai", "response", body={"model": NATIVE, "input": "wrong"})
    assert (seen.error["class"], front.entry(key)["cost_nano_usd"]) == ("BadRequestError", 0)


def test_embeddings(front: Gateway, key: Key, play: Play) -> None:
    """The mock sends plain numbers although base64 was asked for, and says 0 tokens: that cannot be, so the written rule
    counts them."""
    seen = play("openai", "embeddings", body={"model": EMBED, "input": "embed"})
    assert seen.error is None
    assert seen.result["vectors"] == [[0.5, -0.25, 0.125]]
    entry = front.entry(key)
    assert (entry["usage_source"], entry["flags"]) == ("estimated", ["usage_refused"])
    assert entry["cost_nano_usd"] == nano(estimated_input("embed"), 0)


@pytest.mark.parametrize(
    ("scenario", "options", "found", "cost"),
    [
        pytest.param(
            "image",
            {"body": {"model": "aim-image", "prompt": "paint"}},
            lambda result: result["data"][0]["b64_json"] == "cGl4ZWw=",
            NANO_PER_IMAGE,
            id="image",
        ),
        pytest.param(
            "image",
            {"body": {"model": "aim-fal", "prompt": "paint", "n": 2, "response_format": "b64_json"}},
            lambda result: [image["b64_json"] for image in result["data"]] == ["cGl4ZWw="] * 2,
            2 * NANO_PER_IMAGE,
            id="images-of-fal",
        ),
        pytest.param(
            "speech",
            {"body": {"model": "aim-speech", "input": "say", "voice": "alloy"}},
            lambda result: result == {"type": "audio/mpeg", "bytes": "c291bmQ="},
            3 * NANO_PER_CHARACTER,
            id="speech",
        ),
        pytest.param(
            "transcription",
            {"body": {"model": "aim-transcribe"}, "file": text_of(SOUND)},
            lambda result: result["text"] == "silence",
            NANO_PER_SECOND,
            id="transcription",
        ),
    ],
)
def test_images_and_sound(
    front: Gateway, key: Key, play: Play, scenario: str, options: Any, found: Callable[[Any], bool], cost: int
) -> None:
    seen = play("openai", scenario, **options)
    assert seen.error is None
    assert found(seen.result), seen.result
    assert front.entry(key)["cost_nano_usd"] == cost


# Bytes: what passes through is what the mock itself says


def exact(base_url: str, path: str, secret: str, body: dict[str, Any]) -> bytes:
    """The answer's body as it comes over the wire, made-up ids aside."""
    headers = {"authorization": f"Bearer {secret}", "x-api-key": secret, "anthropic-version": "2023-06-01"}
    with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client:
        answer = client.post(f"{base_url}{path}", headers=headers, json=body)
    assert answer.status_code == 200, answer.text
    return _MADE_UP.sub(b"", answer.content)


@pytest.mark.parametrize("word", ["tell", "tool"])
@pytest.mark.parametrize(
    ("path", "model", "fields"),
    [
        pytest.param("/v1/chat/completions", OPENAI, {}, id="chat"),
        pytest.param("/v1/chat/completions", OPENAI, {"stream": True}, id="chat-stream"),
        pytest.param(
            "/v1/chat/completions",
            OPENAI,
            {"stream": True, "stream_options": {"include_usage": True}},
            id="chat-stream-with-usage",
        ),
        pytest.param("/v1/messages", ANTHROPIC, {}, id="messages"),
        pytest.param("/v1/messages", ANTHROPIC, {"stream": True}, id="messages-stream"),
        pytest.param("/v1/responses", NATIVE, {}, id="responses"),
        pytest.param("/v1/responses", NATIVE, {"stream": True}, id="responses-stream"),
    ],
)
def test_bytes_pass_through(
    front: Gateway, key: Key, aimock: Aimock, path: str, model: str, fields: dict[str, Any], word: str
) -> None:
    body = {"model": model, "input": word, **fields} if model == NATIVE else chat(word, model, **fields)
    ours = exact(front.url, path, key.key, body)
    assert ours == exact(aimock.url, path, "whoever", body)
    assert_charged(front, key)


@pytest.mark.parametrize(
    ("model", "header"),
    [(OPENAI, "authorization"), (ANTHROPIC, "x-api-key"), (GEMINI, "x-goog-api-key")],
)
def test_a_dialect_has_its_own_header_for_the_key(
    front: Gateway, key: Key, play: Play, aimock: Aimock, model: str, header: str
) -> None:
    """By the journal that the mock keeps, which blots out what stands in them."""
    seen = play("openai", "chat", body=chat("tell", model))
    assert seen.error is None
    with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client:
        journal = client.get(f"{aimock.url}/__aimock/journal").json()
    request_id = front.entry(key)["request_id"]
    [sent] = [entry["headers"] for entry in journal if entry["headers"].get("x-client-request-id") == request_id]
    assert {"authorization", "x-api-key", "x-goog-api-key"} & sent.keys() == {header}
    assert key.secret not in str(journal)
