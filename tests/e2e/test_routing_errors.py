"""What providers say when they refuse, and what a client is told: status, type, code, param, and nothing of theirs."""

import json
from typing import Any, NamedTuple

import pytest

from tests.rig import wire
from tests.rig.gateway import Gateway, Key
from tests.rig.routing_world import fresh, plays
from tests.rig.upstream import Close, Send, Upstream

REQUEST_ID = "up-7f3a"


class Case(NamedTuple):
    status: int
    body: object
    told: tuple[int, str, str | None, str | None]
    """Status, type, code and param at the client."""


def openai(message: str, type: str, code: object = None, param: object = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


INVALID = "invalid_request_error"
TOO_LONG = (400, INVALID, "context_length_exceeded", "messages")
UNAVAILABLE = (502, "upstream_error", "provider_unavailable", None)
CASES = {
    "openai: wrong value": Case(
        400,
        openai("Invalid value.", INVALID, "invalid_value", "temperature"),
        (400, INVALID, "invalid_value", "temperature"),
    ),
    "openai: context": Case(
        400,
        openai("This model's maximum context length is 128000 tokens.", INVALID, "context_length_exceeded", "messages"),
        TOO_LONG,
    ),
    "vllm: context": Case(
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        TOO_LONG,
    ),
    "vllm, newer: context": Case(
        400,
        openai(
            "This model's maximum context length is 4096 tokens. However, you requested 5000.", "BadRequestError", 400
        ),
        TOO_LONG,
    ),
    "groq: context": Case(
        400,
        openai(
            "Please reduce the length of the messages or completion.", INVALID, "context_length_exceeded", "messages"
        ),
        TOO_LONG,
    ),
    "gemini: context": Case(
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576).",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
        TOO_LONG,
    ),
    "mistral: context": Case(
        400,
        {
            "object": "error",
            "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
            "type": "invalid_request_message_order",
            "code": "3051",
        },
        TOO_LONG,
    ),
    "anthropic: context": Case(
        400,
        {"type": "error", "error": {"type": INVALID, "message": "prompt is too long: 210000 tokens > 200000 maximum"}},
        TOO_LONG,
    ),
    "openai: bad key": Case(
        401, openai("Incorrect API key provided: sk-abc.", INVALID, "invalid_api_key"), UNAVAILABLE
    ),
    "openai: no credit": Case(
        429, openai("You exceeded your current quota.", "insufficient_quota", "insufficient_quota"), UNAVAILABLE
    ),
    "deepseek: no balance": Case(
        402, openai("Insufficient Balance", "unknown_error", "invalid_request_error"), UNAVAILABLE
    ),
    "openai: not allowed": Case(
        403, openai("Country not supported", "request_forbidden", "unsupported_country"), UNAVAILABLE
    ),
    "gemini: bad key": Case(
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "API key not valid. Please pass a valid API key.",
                    "status": "INVALID_ARGUMENT",
                    "details": [{"reason": "API_KEY_INVALID"}],
                }
            }
        ],
        UNAVAILABLE,
    ),
    "openai: rate": Case(
        429,
        openai("Rate limit reached for gpt-4o.", "requests", "rate_limit_exceeded"),
        (429, "requests", "rate_limit_exceeded", None),
    ),
    "openai: no model": Case(
        404,
        openai("The model `x` does not exist.", INVALID, "model_not_found"),
        (404, INVALID, "model_not_found", None),
    ),
    "openai: too large": Case(413, openai("Too large.", INVALID), (413, INVALID, None, None)),
    "fastapi: unprocessable": Case(
        422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, (422, "upstream_error", "upstream_error", None)
    ),
    "openai: 500": Case(500, openai("The server had an error.", "server_error"), (500, "server_error", None, None)),
    "openai: overloaded": Case(
        503,
        openai("The engine is overloaded.", "server_error", "overloaded"),
        (503, "server_error", "overloaded", None),
    ),
    "anthropic: overloaded": Case(
        529,
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        (503, "overloaded_error", None, None),
    ),
    "ollama: words": Case(400, {"error": "invalid format"}, (400, "upstream_error", None, None)),
    "a proxy's page": Case(502, b"<html><h1>Bad Gateway</h1></html>", (502, "upstream_error", "upstream_error", None)),
    "nothing": Case(500, b"", (500, "upstream_error", "upstream_error", None)),
    "hostile types": Case(
        400,
        {"error": {"message": ["x"], "type": {"a": 1}, "code": [1], "param": "p" * 1_000}},
        (400, "upstream_error", None, None),
    ),
}


@pytest.fixture
def key(routing: Gateway) -> Key:
    return routing.new_key()


@pytest.mark.parametrize("stream", [None, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_a_refusal_is_told_in_openais_words(
    routing: Gateway, upstream: Upstream, key: Key, case: Case, stream: bool | None
) -> None:
    model = fresh("lone")
    headers = [("x-request-id", REQUEST_ID), ("openai-organization", "org-secret"), ("x-ratelimit-limit-requests", "3")]
    script = plays(upstream, {f"{model}-a": [[Send(wire.reply(case.body, case.status, headers))]]})
    answer = await routing.chat(key, script, model=model, stream=stream)
    error = answer.error
    assert (answer.status, error["type"], error["code"], error["param"]) == case.told
    assert answer.header("x-upstream-request-id") == REQUEST_ID
    assert answer.request_id.startswith("req_")
    assert "openai-organization" not in answer.header_names
    assert answer.header("x-ratelimit-limit-requests") != "3"
    assert "<html>" not in error["message"]
    entry = routing.entry(key)
    assert (entry["outcome"], entry["cost_nano_usd"], entry["upstream_request_id"]) == (
        "upstream_refused",
        0,
        REQUEST_ID,
    )


@pytest.mark.parametrize(
    ("status", "said", "should_retry"),
    [(429, None, None), (500, "false", "false"), (503, "true", "true"), (401, "true", "false"), (402, None, "false")],
)
async def test_whether_to_try_again_is_what_the_provider_said_unless_only_the_operator_can_help(
    routing: Gateway, upstream: Upstream, key: Key, status: int, said: str | None, should_retry: str | None
) -> None:
    model = fresh("lone")
    headers = [("x-should-retry", said)] if said else []
    reply = wire.reply(openai("no", "some_error"), status, headers)
    script = plays(upstream, {f"{model}-a": [[Send(reply)]]})
    assert (await routing.chat(key, script, model=model)).header("x-should-retry") == should_retry


@pytest.mark.parametrize("field", ["message", "type", "code", "param"])
@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_no_key_of_the_operator_is_in_any_refusal(
    routing: Gateway, upstream: Upstream, key: Key, field: str, status: int
) -> None:
    model = fresh("lone")
    error = {"message": "m", "type": "t", "code": "c", "param": "p", field: f"key {routing.provider_key} is bad"}
    script = plays(upstream, {f"{model}-a": [[Send(wire.reply({"error": error}, status))]]})
    answer = await routing.chat(key, script, model=model)
    told = answer.body + repr(answer.headers).encode()
    assert routing.provider_key.encode() not in told
    assert b"canary" not in told


@pytest.mark.parametrize("header", ["retry-after", "x-request-id", "x-should-retry"])
async def test_a_header_cannot_carry_anything_but_short_words(
    routing: Gateway, upstream: Upstream, key: Key, header: str
) -> None:
    model = fresh("lone")
    reply = wire.reply(openai("no", "some_error"), 429, [(header, "x" * 2_000)])
    script = plays(upstream, {f"{model}-a": [[Send(reply)]]})
    answer = await routing.chat(key, script, model=model)
    assert answer.status == 429
    assert "xxxx" not in repr(answer.headers)


async def test_an_error_inside_a_stream_is_an_event_without_done(
    routing: Gateway, upstream: Upstream, key: Key
) -> None:
    model = fresh("pair")
    events = [*wire.text_events("Hel", finish=None), wire.event(openai("It broke.", "server_error", "overloaded"))]
    play = [Send(wire.stream_head()), *(Send(wire.framed(event)) for event in events), Close()]
    script = plays(upstream, {f"{model}-a": [play]})
    answer = await routing.chat(key, script, model=model, stream=True)
    answer.assert_broken_off()
    assert len(script.requests) == 1
    assert routing.entry(key)["outcome"] == "upstream_error"


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/responses", {"input": "{prompt}", "store": False}), ("/v1/messages", {"max_tokens": 9})],
    ids=["responses", "messages"],
)
async def test_a_bridged_endpoint_tells_the_same_in_its_own_shape(
    routing: Gateway, upstream: Upstream, key: Key, path: str, body: dict[str, Any]
) -> None:
    model = fresh("pair")
    too_long = openai("maximum context length is 5", INVALID, "context_length_exceeded")
    script = plays(
        upstream,
        {
            f"{model}-a": [[Send(wire.reply(openai("busy", "server_error"), 503))]],
            f"{model}-b": [[Send(wire.reply(too_long, 400, [("x-request-id", REQUEST_ID)]))]],
        },
    )
    content = f"hi {script.marker}"
    asked = {**body, "model": model} | (
        {"input": content} if "input" in body else {"messages": [{"role": "user", "content": content}]}
    )
    answer = await routing.post(key, asked, path=path)
    assert (answer.status, answer.header("x-gateway-attempts")) == (400, "2")
    assert answer.header("x-upstream-request-id") == REQUEST_ID
    error = json.loads(answer.body)["error"]
    assert error["type"] == INVALID
    assert "context length" in error["message"]
