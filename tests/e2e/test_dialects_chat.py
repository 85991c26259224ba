"""Chat in every provider's own dialect, over scripted wire bytes: what the client reads and what is booked, to the nano-dollar.

The prices of all these models, in nano-dollars a token: 3 000 of input, 300 from the cache, 3 750 into it, 15 000 of output,
17 000 of reasoning (`tests.rig.catalog.DIALECT_PRICES`).
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.rig import wire
from tests.rig.catalog import dialect_rows, estimated_input, estimated_output
from tests.rig.client import Answer
from tests.rig.gateway import Gateway, Key, prompt
from tests.rig.upstream import Close, Script, Send, Upstream

FIXTURES = Path(__file__).parents[1] / "fixtures"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 24


def fixture(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


class Bill(NamedTuple):
    """What an entry of the ledger says: OpenAI's inclusive totals and their parts, and nano-dollars."""

    input: int
    output: int
    cost: int
    cached: int = 0
    written: int = 0
    reasoning: int = 0

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Bill":
        return cls(
            entry["input_tokens"],
            entry["output_tokens"],
            entry["cost_nano_usd"],
            entry["cached_input_tokens"],
            entry["cache_write_tokens"],
            entry["reasoning_tokens"],
        )


class Refusal(NamedTuple):
    """What the provider answers, and what the client is told."""

    status: int
    body: bytes
    told_status: int
    told_code: str | None
    headers: tuple[tuple[str, str], ...] = ()


class Dialect(NamedTuple):
    model: str
    line: str
    stream_line: str
    key_header: tuple[str, str]
    """Name, and what stands before the key."""
    id_header: str
    """How the provider names its own request id."""
    whole: bytes
    stream: bytes
    text: str
    bill: Bill
    tools: bytes
    tools_stream: bytes
    calls: list[tuple[str, dict[str, Any]]]
    tools_bill: Bill
    broken: bytes
    """A stream whose last event is an error."""
    said: tuple[str, ...]
    """The deltas before it."""
    read: int | None
    """Input the stream had reported by then; None where it reports at its end."""
    refusals: dict[str, Refusal]


def openai_error(message: str, type: str, code: str | None = None, param: str | None = None) -> bytes:
    return wire.compact({"error": {"message": message, "type": type, "param": param, "code": code}})


def openai_answer(**message: Any) -> bytes:
    finish = "tool_calls" if "tool_calls" in message else "stop"
    answer = wire.completion(message.pop("content", None), finish=finish, usage=message.pop("usage"), **message)
    return wire.compact({**answer, "service_tier": "default", "system_fingerprint": "fp_1"})


TOO_LONG = (
    "This model's maximum context length is 128000 tokens. However, your messages resulted in 130500 tokens. "
    "Please reduce the length of the messages."
)
OPENAI = Dialect(
    "dia-openai",
    "POST /v1/chat/completions HTTP/1.1",
    "POST /v1/chat/completions HTTP/1.1",
    ("authorization", "Bearer "),
    "x-request-id",
    openai_answer(
        content='Grüße 🌍 say "completion_tokens" or [DONE]\n\ndata: x',
        usage=wire.usage(100, 40, cached=64, reasoning=9),
    ),
    fixture("streams/openai.txt"),
    'Grüße 🌍 say "completion_tokens" or [DONE]\n\ndata: x',
    Bill(100, 40, 36 * 3_000 + 64 * 300 + 31 * 15_000 + 9 * 17_000, cached=64, reasoning=9),
    openai_answer(
        tool_calls=[
            {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Zürich"}'}},
            {"id": "call_b", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
        ],
        usage=wire.usage(80, 31),
    ),
    fixture("streams/openai_tools.txt"),
    [("weather", {"city": "Zürich"}), ("clock", {})],
    Bill(80, 31, 80 * 3_000 + 31 * 15_000),
    fixture("streams/error_event.txt"),
    ("Es war", " einmal"),
    None,
    {
        "invalid": Refusal(
            400,
            openai_error("Invalid value for 'temperature'.", "invalid_request_error", "invalid_value", "temperature"),
            400,
            "invalid_value",
        ),
        "key": Refusal(
            401,
            openai_error("Incorrect API key provided: sk-pr*****cdef.", "invalid_request_error", "invalid_api_key"),
            502,
            "provider_unavailable",
        ),
        "no money": Refusal(
            429,
            openai_error("You exceeded your current quota.", "insufficient_quota", "insufficient_quota"),
            502,
            "provider_unavailable",
        ),
        "rate": Refusal(
            429,
            openai_error(
                "Rate limit reached for gpt-4o-mini in organization org-x on tokens per min.",
                "tokens",
                "rate_limit_exceeded",
            ),
            429,
            "rate_limit_exceeded",
            (("retry-after", "7"), ("retry-after-ms", "6543"), ("x-ratelimit-remaining-tokens", "31415")),
        ),
        "failure": Refusal(
            500, openai_error("The server had an error while processing your request.", "server_error"), 500, None
        ),
        "overload": Refusal(529, openai_error("Overloaded", "overloaded_error"), 503, None),
        "context": Refusal(
            400,
            openai_error(TOO_LONG, "invalid_request_error", "context_length_exceeded", "messages"),
            400,
            "context_length_exceeded",
        ),
        # vLLM says it with no code at all.
        "context, uncoded": Refusal(
            400,
            wire.compact(
                {
                    "object": "error",
                    "error": {"message": TOO_LONG, "type": "BadRequestError", "param": None, "code": 400},
                }
            ),
            400,
            "context_length_exceeded",
        ),
        "html": Refusal(503, b"<html><body>upstream connect error</body></html>", 503, "upstream_error"),
    },
)
ANTHROPIC = Dialect(
    "dia-claude",
    "POST /v1/messages HTTP/1.1",
    "POST /v1/messages HTTP/1.1",
    ("x-api-key", ""),
    "request-id",
    fixture("anthropic/text.json"),
    fixture("anthropic/text.sse"),
    'Grüß Gott, "world" 👋 — done.',
    Bill(
        21 + 2_048 + 512,
        149,
        21 * 3_000 + 2_048 * 300 + 512 * 3_750 + 85 * 15_000 + 64 * 17_000,
        cached=2_048,
        written=512,
        reasoning=64,
    ),
    fixture("anthropic/tools.json"),
    fixture("anthropic/tools.sse"),
    [("get_weather", {"city": "São Paulo", "days": 2}), ("get_time", {})],
    Bill(472, 89, 472 * 3_000 + 89 * 15_000),
    fixture("anthropic/error.sse"),
    ("Once upon",),
    25,
    {
        "invalid": Refusal(400, fixture("anthropic/error_invalid.json"), 400, "invalid_value"),
        "key": Refusal(401, fixture("anthropic/error_key.json"), 502, "provider_unavailable"),
        "no money": Refusal(400, fixture("anthropic/error_credit.json"), 502, "provider_unavailable"),
        "spend limit": Refusal(429, fixture("anthropic/error_spend.json"), 502, "provider_unavailable"),
        "permission": Refusal(403, fixture("anthropic/error_permission.json"), 502, "provider_unavailable"),
        "rate": Refusal(
            429,
            fixture("anthropic/error_rate.json"),
            429,
            "rate_limit_exceeded",
            (("retry-after", "7"), ("anthropic-ratelimit-requests-remaining", "0")),
        ),
        "failure": Refusal(500, fixture("anthropic/error_internal.json"), 500, "internal_error"),
        "overload": Refusal(529, fixture("anthropic/error_overloaded.json"), 503, "overloaded"),
        "context": Refusal(400, fixture("anthropic/error_context.json"), 400, "context_length_exceeded"),
        "size": Refusal(413, fixture("anthropic/error_size.html"), 413, "request_too_large"),
    },
)
GEMINI = Dialect(
    "dia-gemini",
    "POST /v1/models/gemini-3.5-flash:generateContent HTTP/1.1",
    "POST /v1/models/gemini-3.5-flash:streamGenerateContent?alt=sse HTTP/1.1",
    ("x-goog-api-key", ""),
    "",
    fixture("gemini/chat.json"),
    fixture("gemini/stream.sse"),
    "Descartes doubts his senses – and then everything.",
    Bill(4_200, 12 + 455, 104 * 3_000 + 4_096 * 300 + 12 * 15_000 + 455 * 17_000, cached=4_096, reasoning=455),
    fixture("gemini/tools.json"),
    fixture("gemini/stream_tools.sse"),
    [("weather", {"city": "Köln", "days": 2}), ("clock", {})],
    Bill(80, 131, 80 * 3_000 + 31 * 15_000 + 100 * 17_000, reasoning=100),
    fixture("gemini/stream_error.sse"),
    ("Once upon",),
    5,
    {
        "invalid": Refusal(
            400,
            wire.compact({"error": {"code": 400, "message": 'Unknown name "x"', "status": "INVALID_ARGUMENT"}}),
            400,
            "invalid_value",
        ),
        "key": Refusal(400, fixture("gemini/error_key.json"), 502, "provider_unavailable"),
        "permission": Refusal(
            403,
            wire.compact({"error": {"code": 403, "message": "Denied.", "status": "PERMISSION_DENIED"}}),
            502,
            "provider_unavailable",
        ),
        "rate": Refusal(429, fixture("gemini/error_quota.json"), 429, "rate_limit_exceeded", (("retry-after", "7"),)),
        "failure": Refusal(
            500,
            wire.compact({"error": {"code": 500, "message": "An internal error.", "status": "INTERNAL"}}),
            500,
            "internal_error",
        ),
        "overload": Refusal(
            503,
            wire.compact({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}),
            503,
            "overloaded",
        ),
        "context": Refusal(400, fixture("gemini/error_context.json"), 400, "context_length_exceeded"),
    },
)
DIALECTS = {"openai": OPENAI, "anthropic": ANTHROPIC, "gemini": GEMINI}
EACH = [pytest.param(dialect, id=name) for name, dialect in DIALECTS.items()]
REFUSED = [
    pytest.param(dialect, refusal, id=f"{name}, {what}")
    for name, dialect in DIALECTS.items()
    for what, refusal in dialect.refusals.items()
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Looks it up",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name in ("weather", "clock", "get_weather", "get_time")
]


@pytest.fixture
def dia_key(dialects: Gateway) -> Key:
    return dialects.new_key()


def streaming(upstream: Upstream, data: bytes, *headers: tuple[str, str], step: int = 211) -> Script:
    """`data` in pieces that end in the middle of whatever is there."""
    pieces = [Send(wire.framed(data[at : at + step])) for at in range(0, len(data), step)]
    return upstream.script(Send(wire.stream_head(headers)), *pieces, Send(wire.LAST_CHUNK))


def chunks(answer: Answer) -> list[dict[str, Any]]:
    """The chunks of a stream that ended well."""
    events = answer.body.split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""], answer.body[-300:]
    return [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]


def deltas(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in found for choice in chunk["choices"]]


def calls_of(message: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    calls = message["tool_calls"]
    assert len({call["id"] for call in calls}) == len(calls)
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


def joined_calls(found: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas(found):
        for part in delta.get("tool_calls") or ():
            call = calls.setdefault(part["index"], {"id": part.get("id"), "function": {"name": "", "arguments": ""}})
            for name, text in part["function"].items():
                call["function"][name] += text or ""
    return calls_of({"tool_calls": [calls[index] for index in sorted(calls)]})


def id_headers(dialect: Dialect, value: str) -> list[tuple[str, str]]:
    return [(dialect.id_header, value)] if dialect.id_header else []


@pytest.mark.parametrize("dialect", EACH)
async def test_a_whole_answer_costs_what_its_buckets_cost(
    dialects: Gateway, upstream: Upstream, dia_key: Key, dialect: Dialect
) -> None:
    script = upstream.reply(dialect.whole, headers=id_headers(dialect, "req_theirs_1"))
    answer = await dialects.chat(dia_key, script, model=dialect.model)
    assert answer.status == 200, answer
    choice = answer.json["choices"][0]
    assert choice["message"]["content"] == dialect.text
    assert choice["finish_reason"] == "stop"
    entry = dialects.entry(dia_key)
    assert Bill.of(entry) == dialect.bill
    assert (entry["outcome"], entry["usage_source"], entry["flags"]) == ("ok", "provider", [])
    assert entry["served_model"] == dialect.model
    assert answer.header("x-upstream-request-id") == (entry["upstream_request_id"] or None)
    assert entry["upstream_request_id"] == ("req_theirs_1" if dialect.id_header else "")
    usage = answer.json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (dialect.bill.input, dialect.bill.output)
    assert script.request.line == dialect.line
    name, before = dialect.key_header
    assert script.request.header_values(name) == [before + dialects.provider_key]
    others = {"authorization", "x-api-key", "api-key", "x-goog-api-key"} - {name}
    assert not any(script.request.header_values(other) for other in others)


@pytest.mark.parametrize("asks", [False, True], ids=["unasked", "asked"])
@pytest.mark.parametrize("dialect", EACH)
async def test_a_stream_says_and_costs_what_the_whole_answer_does(
    dialects: Gateway, upstream: Upstream, dia_key: Key, dialect: Dialect, asks: bool
) -> None:
    script = streaming(upstream, dialect.stream, *id_headers(dialect, "req_theirs_2"))
    options = {"include_usage": True} if asks else None
    answer = await dialects.streamed(dia_key, script, model=dialect.model, stream_options=options)
    found = chunks(answer)
    assert "".join(delta.get("content") or "" for delta in deltas(found)) == dialect.text
    reported = [chunk["usage"] for chunk in found if chunk["choices"] == []]
    assert len(reported) == asks
    if asks:
        assert reported[0]["prompt_tokens"] == dialect.bill.input
        assert reported[0]["completion_tokens"] == dialect.bill.output
    entry = dialects.entry(dia_key)
    assert Bill.of(entry) == dialect.bill
    assert (entry["outcome"], entry["usage_source"], entry["is_streaming"]) == ("ok", "provider", True)
    assert answer.header("x-upstream-request-id") == ("req_theirs_2" if dialect.id_header else None)
    assert script.request.line == dialect.stream_line


@pytest.mark.parametrize("is_streaming", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", EACH)
async def test_tool_calls_arrive_whole_and_cost_the_same_streamed_or_not(
    dialects: Gateway, upstream: Upstream, dia_key: Key, dialect: Dialect, is_streaming: bool
) -> None:
    if is_streaming:
        script = streaming(upstream, dialect.tools_stream, step=97)
        answer = await dialects.streamed(dia_key, script, model=dialect.model, tools=TOOLS)
        found = chunks(answer)
        reasons = [choice["finish_reason"] for chunk in found for choice in chunk["choices"] if choice["finish_reason"]]
        calls = joined_calls(found)
    else:
        answer = await dialects.chat(dia_key, upstream.reply(dialect.tools), model=dialect.model, tools=TOOLS)
        assert answer.status == 200, answer
        choice = answer.json["choices"][0]
        reasons, calls = [choice["finish_reason"]], calls_of(choice["message"])
    assert calls == dialect.calls
    assert reasons == ["tool_calls"]
    assert Bill.of(dialects.entry(dia_key)) == dialect.tools_bill


@pytest.mark.parametrize("dialect", EACH)
async def test_the_answers_to_tool_calls_go_back_in_the_providers_words(
    dialects: Gateway, upstream: Upstream, dia_key: Key, dialect: Dialect
) -> None:
    script = upstream.reply(dialect.whole)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": prompt(script)},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
                {"id": "call_b", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_a", "content": "Snow"},
        {"role": "tool", "tool_call_id": "call_b", "content": "Noon"},
    ]
    answer = await dialects.chat(dia_key, script, model=dialect.model, messages=messages, tools=TOOLS)
    assert answer.status == 200, answer
    sent = script.request.body.decode()
    for word in ("Be brief.", "weather", "Oslo", "clock", "Snow", "Noon"):
        assert word in sent
    assert Bill.of(dialects.entry(dia_key)) == dialect.bill


IMAGE = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        pytest.param(
            OPENAI, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}, id="openai"
        ),
        pytest.param(
            ANTHROPIC,
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}},
            id="anthropic",
        ),
        pytest.param(GEMINI, {"inlineData": {"mimeType": "image/png", "data": IMAGE}}, id="gemini"),
    ],
)
async def test_an_image_reaches_the_provider_in_its_own_words(
    dialects: Gateway, upstream: Upstream, dia_key: Key, dialect: Dialect, expected: dict[str, Any]
) -> None:
    script = upstream.reply(dialect.whole)
    content = [
        {"type": "text", "text": prompt(script)},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}},
    ]
    messages = [{"role": "user", "content": content}]
    answer = await dialects.chat(dia_key, script, model=dialect.model, messages=messages)
    assert answer.status == 200, answer
    assert expected in _objects(script.request.json)
    assert Bill.of(dialects.entry(dia_key)) == dialect.bill


def _objects(value: Any) -> list[dict[str, Any]]:
    """Every object in `value`, at any depth."""
    if isinstance(value, list):
        return [found for one in value for found in _objects(one)]
    return [value, *(found for one in value.values() for found in _objects(one))] if isinstance(value, dict) else []


@pytest.mark.parametrize(("dialect", "refusal"), REFUSED)
@pytest.mark.parametrize("is_streaming", [False, True], ids=["whole", "stream"])
async def test_a_refusal_is_told_in_openais_words_and_costs_nothing(
    dialects: Gateway, upstream: Upstream, dia_key: Key, dialect: Dialect, refusal: Refusal, is_streaming: bool
) -> None:
    kind = "text/html" if refusal.body.startswith(b"<") else "application/json"
    headers = [*refusal.headers, *id_headers(dialect, "req_theirs_3")]
    script = upstream.script(Send(wire.reply(refusal.body, refusal.status, headers, kind)))
    answer = await dialects.chat(dia_key, script, model=dialect.model, stream=is_streaming or None)
    assert (answer.status, answer.error["code"]) == (refusal.told_status, refusal.told_code), answer
    assert answer.header("x-upstream-request-id") == ("req_theirs_3" if dialect.id_header else None)
    assert not [name for name in answer.header_names if name.startswith("anthropic-")]
    entry = dialects.entry(dia_key)
    assert (entry["cost_nano_usd"], entry["usage_source"], entry["outcome"]) == (0, "none", "upstream_refused")
    if refusal.told_code == "provider_unavailable":
        assert answer.header("x-should-retry") == "false"
    else:
        assert answer.header("retry-after") == dict(refusal.headers).get("retry-after")
    if refusal.told_code == "context_length_exceeded":
        assert answer.error["type"] == "invalid_request_error"


async def test_geminis_own_word_for_the_wait_is_told(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    """Google sends no `retry-after`: the wait stands in the error's `RetryInfo` (34 s in this body)."""
    script = upstream.reply(fixture("gemini/error_quota.json"), 429)
    answer = await dialects.chat(dia_key, script, model="dia-gemini")
    assert (answer.status, answer.header("retry-after")) == (429, "34")


@pytest.mark.parametrize("dialect", EACH)
async def test_a_provider_key_quoted_in_an_error_is_not_passed_on(
    dialects: Gateway, upstream: Upstream, dia_key: Key, dialect: Dialect
) -> None:
    refusal = dialect.refusals["invalid"]
    error = json.loads(refusal.body)
    error["error"]["message"] = f"You said {dialects.provider_key}"
    script = upstream.reply(error, 400)
    answer = await dialects.chat(dia_key, script, model=dialect.model)
    assert answer.error["message"] == "You said [redacted]"
    assert dialects.provider_key not in str(answer)


def broken_bill(dialect: Dialect, script: Script) -> Bill:
    """What the stream reported of its input, else the estimate; of its output the words, which are more than reported."""
    read = estimated_input(prompt(script)) if dialect.read is None else dialect.read
    made = estimated_output(*dialect.said)
    return Bill(read, made, read * 3_000 + made * 15_000)


@pytest.mark.parametrize("dialect", EACH)
async def test_a_provider_key_quoted_in_an_answer_is_not_passed_on(
    dialects: Gateway, upstream: Upstream, dia_key: Key, dialect: Dialect
) -> None:
    """In a whole one as in a stream."""
    quoting = [data.replace(b"Gr", dialects.provider_key.encode()) for data in (dialect.whole, dialect.stream)]
    quoting = [data.replace(b"Descartes", dialects.provider_key.encode()) for data in quoting]
    for answer in (
        await dialects.chat(dia_key, upstream.reply(quoting[0]), model=dialect.model),
        await dialects.streamed(dia_key, streaming(upstream, quoting[1]), model=dialect.model),
    ):
        assert answer.status == 200
        assert dialects.provider_key not in str(answer)


async def test_a_provider_key_in_a_header_reaches_neither_the_client_nor_the_books(
    upstream: Upstream, tmp_path: Path
) -> None:
    """A gateway of its own: the audit of the shared one would find what this one should not keep."""
    gateway = Gateway(tmp_path, upstream, models=dialect_rows(upstream.base_url))
    try:
        key = gateway.start().new_key()
        headers = [(name, gateway.provider_key) for name in ("x-request-id", "openai-version")]
        answer = await gateway.chat(key, upstream.reply(OPENAI.whole, headers=headers), model="dia-openai")
        assert answer.status == 200
        assert gateway.provider_key not in str(answer)
        gateway.audit()
    finally:
        gateway.close()


@pytest.mark.parametrize("dialect", EACH)
async def test_an_error_in_the_stream_ends_it_and_is_charged_by_the_written_rule(
    dialects: Gateway, upstream: Upstream, dia_key: Key, dialect: Dialect
) -> None:
    script = streaming(upstream, dialect.broken)
    answer = await dialects.chat(dia_key, script, model=dialect.model, stream=True)
    answer.assert_broken_off()
    assert answer.is_complete
    for text in dialect.said:
        assert text.encode() in answer.body
    entry = dialects.entry(dia_key)
    assert entry["outcome"] == "upstream_error"
    assert Bill.of(entry) == broken_bill(dialect, script)
    assert entry["usage_source"] == ("estimated" if dialect.read is None else "provider_partial")


async def test_an_error_in_the_stream_counts_although_done_follows_it(
    dialects: Gateway, upstream: Upstream, dia_key: Key
) -> None:
    """vLLM writes `[DONE]` behind its error, all the same."""
    script = streaming(upstream, OPENAI.broken + wire.DONE)
    answer = await dialects.chat(dia_key, script, model="dia-openai", stream=True)
    assert OPENAI.broken.rpartition(b"data: ")[2].strip() in answer.body
    entry = dialects.entry(dia_key)
    assert entry["outcome"] == "upstream_error"
    assert Bill.of(entry) == broken_bill(OPENAI, script)


@pytest.mark.parametrize("dialect", EACH)
async def test_a_stream_whose_connection_dies_is_charged_by_the_written_rule(
    dialects: Gateway, upstream: Upstream, dia_key: Key, dialect: Dialect
) -> None:
    events = dialect.broken.replace(b"\r\n", b"\n").split(b"\n\n")
    before = b"\n\n".join(events[:-2]) + b"\n\n"
    script = upstream.script(Send(wire.stream_head()), Send(wire.framed(before)), Close())
    answer = await dialects.chat(dia_key, script, model=dialect.model, stream=True)
    answer.assert_broken_off()
    assert answer.last_event["error"]["code"] == "upstream_died"
    entry = dialects.entry(dia_key)
    assert entry["outcome"] == "upstream_died"
    assert Bill.of(entry) == broken_bill(dialect, script)


@pytest.mark.parametrize("dialect", EACH)
async def test_a_stream_that_ends_without_its_end_is_broken(
    dialects: Gateway, upstream: Upstream, dia_key: Key, dialect: Dialect
) -> None:
    """The body ends properly, the answer does not: no finish reason, no `[DONE]`, and none is made up."""
    events = dialect.broken.replace(b"\r\n", b"\n").split(b"\n\n")
    script = streaming(upstream, b"\n\n".join(events[:-2]) + b"\n\n")
    answer = await dialects.chat(dia_key, script, model=dialect.model, stream=True)
    answer.assert_broken_off()
    assert b'"finish_reason":"' not in answer.body
    entry = dialects.entry(dia_key)
    assert entry["outcome"] == "upstream_died"
    assert Bill.of(entry) == broken_bill(dialect, script)


@pytest.mark.parametrize("dialect", EACH)
async def test_an_answer_that_is_none_of_the_dialects_is_a_502_and_owed(
    dialects: Gateway, upstream: Upstream, dia_key: Key, dialect: Dialect
) -> None:
    script = upstream.reply(b'{"hello":"world"}')
    answer = await dialects.chat(dia_key, script, model=dialect.model)
    assert (answer.status, answer.error["code"]) == (502, "upstream_invalid")
    entry = dialects.entry(dia_key)
    read = estimated_input(prompt(script))
    assert Bill.of(entry) == Bill(read, 0, read * 3_000)


@pytest.mark.parametrize(
    ("dialect", "field", "value"),
    [
        pytest.param(ANTHROPIC, "n", 2, id="anthropic, n"),
        pytest.param(ANTHROPIC, "logprobs", True, id="anthropic, logprobs"),
        pytest.param(ANTHROPIC, "logit_bias", {"1": 5}, id="anthropic, logit_bias"),
        pytest.param(ANTHROPIC, "frobnicate", 1, id="anthropic, unknown"),
        pytest.param(GEMINI, "logit_bias", {"1": 5}, id="gemini, logit_bias"),
        pytest.param(GEMINI, "frobnicate", 1, id="gemini, unknown"),
    ],
)
async def test_what_a_dialect_cannot_say_is_refused_before_it_costs(
    dialects: Gateway, upstream: Upstream, dia_key: Key, dialect: Dialect, field: str, value: object
) -> None:
    script = upstream.reply(dialect.whole)
    answer = await dialects.chat(dia_key, script, model=dialect.model, **{field: value})
    assert (answer.status, answer.error["param"]) == (400, field), answer
    assert script.requests == []
    assert all(entry["cost_nano_usd"] == 0 for entry in dialects.entries(creator=dia_key.creator))


async def test_azure_is_asked_at_its_path_with_its_version_and_its_header(
    dialects: Gateway, upstream: Upstream, dia_key: Key
) -> None:
    script = streaming(upstream, fixture("streams/azure.txt"), ("apim-request-id", "x"), ("x-request-id", "az-1"))
    answer = await dialects.streamed(dia_key, script, model="dia-azure")
    assert script.request.line == "POST /v1/chat/completions?api-version=2024-10-21 HTTP/1.1"
    assert script.request.header_values("api-key") == [dialects.provider_key]
    assert not script.request.header_values("authorization")
    assert answer.body.startswith(b'data: {"choices":[],"created":0')
    assert Bill.of(dialects.entry(dia_key)) == Bill(21, 7, 21 * 3_000 + 7 * 15_000)
