"""Bad input: a clear error in OpenAI's shape; nothing dialled, nothing booked, nothing used up."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.client import Answer, Connection, connected, exchange, request_bytes
from tests.rig.gateway import CHAT, Gateway, Key, chat_body
from tests.rig.upstream import Script, Upstream
from tests.rig.waiting import soon

USAGE = wire.usage(10, 1)


@pytest.fixture
async def once(gateway: Gateway, upstream: Upstream) -> AsyncIterator[Key]:
    """A key with a single request an hour and money for a single call.

    After the test a good call must still pass: whatever was refused used up neither. It is also the only entry.
    """
    creator = gateway.new_creator("open", requests_per_hour=1, quota_usd_per_month="0.002")
    key = gateway.new_key(creator)
    yield key
    assert gateway.entries(creator=creator) == []
    answer = await gateway.chat(key, upstream.reply(wire.completion(usage=USAGE)), max_tokens=100)
    assert answer.status == 200, answer
    assert len(gateway.entries(creator=creator)) == 1


@pytest.fixture
def script(upstream: Upstream) -> Script:
    """What would be answered if a refused request came through."""
    return upstream.reply(wire.completion("this must not be reached", usage=USAGE))


def assert_refused(answer: Answer, script: Script, status: int, code: str | None = None) -> dict[str, Any]:
    assert answer.status == status, answer
    assert answer.request_id
    assert script.requests == []
    error = answer.error
    if code:
        assert error["code"] == code
    return error


# Keys


BAD_KEYS = {
    "unknown": "sk-gw-aaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "malformed": "sk-gw-",
    "an OpenAI key": "sk-proj-0123456789",
    "SQL": "' OR 1=1 --",
    "very long": "sk-gw-" + "x" * 4000,
    "percent": "sk-gw-%_-%",
}


async def bodies_of_401(gateway: Gateway, script: Script, keys: list[str]) -> list[dict[str, Any]]:
    answers = [await gateway.chat(key, script) for key in keys]
    return [assert_refused(answer, script, 401, "invalid_api_key") for answer in answers]


async def test_every_bad_key_gets_the_same_answer(gateway: Gateway, script: Script) -> None:
    revoked = gateway.new_key()
    gateway.admin_json("DELETE", f"/admin/keys/{revoked.id}")
    good = gateway.new_key()
    wrong_secret = good.key[:-4] + ("aaaa" if good.key[-4:] != "aaaa" else "bbbb")
    await soon_refused(gateway, revoked)
    errors = await bodies_of_401(gateway, script, [*BAD_KEYS.values(), revoked.key, wrong_secret])
    assert all(error == errors[0] for error in errors)


async def soon_refused(gateway: Gateway, key: Key) -> None:
    """The listing of models stops working within the second that a revocation may take."""
    for _ in range(200):
        if (await gateway.get(key, "/v1/models")).status == 401:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the key still works 2 s after it ended")


async def test_a_revoked_key_ends_within_a_second(gateway: Gateway, script: Script) -> None:
    key = gateway.new_key()
    assert (await gateway.get(key, "/v1/models")).status == 200
    gateway.admin_json("DELETE", f"/admin/keys/{key.id}")
    async with asyncio.timeout(2):
        await soon_refused(gateway, key)
    assert_refused(await gateway.chat(key, script), script, 401, "invalid_api_key")


async def test_an_expired_key_is_as_unknown_as_any(gateway: Gateway, script: Script) -> None:
    soon_over = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    key = gateway.new_key(expires_at=soon_over)
    await soon_refused(gateway, key)
    expired, unknown = await bodies_of_401(gateway, script, [key.key, BAD_KEYS["unknown"]])
    assert expired == unknown


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param([("authorization", "")], id="empty"),
        pytest.param([("authorization", "Bearer")], id="no key"),
        pytest.param([("authorization", "Bearer ")], id="blank key"),
        pytest.param([("authorization", "Basic dTpw")], id="another scheme"),
        pytest.param([("authorization", "Bearer \xff\xfe".encode("latin-1").decode("latin-1"))], id="no ASCII"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/models/rig-chat"])
async def test_without_a_key_there_is_nothing(
    gateway: Gateway, script: Script, headers: list[tuple[str, str]], path: str
) -> None:
    body = chat_body(script) if path == CHAT else None
    request = request_bytes("POST" if body else "GET", path, body=body, headers=headers)
    assert_refused(await exchange(gateway.port, request), script, 401)


async def test_an_admin_key_does_not_work_on_v1(gateway: Gateway, script: Script) -> None:
    assert_refused(await gateway.chat(gateway.admin_key, script), script, 401, "invalid_api_key")
    assert (await gateway.get(gateway.admin_key, "/v1/models")).status == 401


# Bodies


def raw(script: Script, **fields: object) -> bytes:
    return wire.compact(chat_body(script, **fields))


NOT_JSON = {
    "empty": b"",
    "no JSON": b"model=rig-chat",
    "cut": b'{"model":"rig-chat"',
    "list": b'[{"model":"rig-chat"}]',
    "string": b'"rig-chat"',
    "null": b"null",
    "trailing": b'{"model":"rig-chat","messages":[]} x',
    "BOM and UTF-16": '{"model":"rig-chat"}'.encode("utf-16"),
    "UTF-16 without BOM": '{"model":"rig-chat"}'.encode("utf-16-le"),
    "invalid UTF-8": b'{"model":"rig-chat","messages":[{"role":"user","content":"\xff"}]}',
    "NaN": b'{"model":"rig-chat","temperature":NaN,"messages":[{"role":"user","content":"x"}]}',
    "Infinity": b'{"model":"rig-chat","temperature":Infinity,"messages":[{"role":"user","content":"x"}]}',
    "single quotes": b"{'model':'rig-chat'}",
    "deep list": b'{"model":"rig-chat","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep object": b'{"model":"rig-chat","x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "NUL": b"\x00" * 100,
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
async def test_what_is_no_json_object_is_refused(gateway: Gateway, once: Key, script: Script, body: bytes) -> None:
    assert_refused(await gateway.post(once, body), script, 400)


USER = {"role": "user", "content": "x"}
WRONG: list[tuple[str, object]] = [
    ("messages", None),
    ("messages", []),
    ("messages", "hello"),
    ("messages", {"role": "user", "content": "x"}),
    ("messages", ["hello"]),
    ("messages", [None]),
    ("messages", [USER, 5]),
    ("model", None),
    ("model", 5),
    ("model", ""),
    ("model", ["rig-chat"]),
    ("stream", "true"),
    ("stream", 1),
    ("stream", []),
    ("stream_options", "include_usage"),
    ("stream_options", []),
    ("max_tokens", 0),
    ("max_tokens", -1),
    ("max_tokens", "10"),
    ("max_tokens", 1.5),
    ("max_tokens", True),
    ("max_tokens", [10]),
    ("max_completion_tokens", 0),
    ("max_completion_tokens", "10"),
    ("max_completion_tokens", -(2**70)),
    ("n", 0),
    ("n", -1),
    ("n", 10**6),
    ("n", "2"),
    ("n", True),
    ("n", 1.5),
    ("metadata", "x"),
    ("metadata", {"feature": 5}),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=[f"{field}={value!r:.30}" for field, value in WRONG])
async def test_a_wrong_value_is_refused_by_name(
    gateway: Gateway, once: Key, script: Script, field: str, value: object
) -> None:
    body = {**chat_body(script, stream=True if field == "stream_options" else None), field: value}
    if value is None:
        del body[field]
    error = assert_refused(await gateway.post(once, body), script, 400)
    named = "feature" if field == "metadata" and value != "x" else field
    assert named in f"{error['param']} {error['message']}"


@pytest.mark.parametrize("number", ["1e9", "1E2", "10.0", "9" * 5000, "-9" + "0" * 400])
async def test_a_number_that_is_no_integer_is_no_max_tokens(
    gateway: Gateway, once: Key, script: Script, number: str
) -> None:
    body = raw(script, max_tokens=777).replace(b":777", f":{number}".encode())
    assert_refused(await gateway.post(once, body), script, 400)


STEERING = [
    "api_base",
    "base_url",
    "api_key",
    "api_version",
    "api_type",
    "extra_headers",
    "extra_body",
    "user_config",
    "model_list",
    "fallbacks",
    "custom_llm_provider",
    "callbacks",
    "success_callback",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_region_name",
    "aws_bedrock_runtime_endpoint",
    "vertex_project",
    "vertex_location",
    "vertex_credentials",
    "mock_response",
    "no-log",
    "litellm_metadata",
    "litellm_params",
    "organization",
    "headers",
    "input_cost_per_token",
    "output_cost_per_token",
]


@pytest.mark.parametrize("field", STEERING)
async def test_a_field_that_steers_the_upstream_or_the_payer_is_refused(
    gateway: Gateway, once: Key, script: Script, field: str
) -> None:
    error = assert_refused(await gateway.chat(once, script, **{field: "http://127.0.0.1:1/"}), script, 400)
    assert field in f"{error['param']} {error['message']}"


@pytest.mark.parametrize(
    "tools",
    [
        pytest.param([{"type": "web_search"}], id="web search"),
        pytest.param([{"type": "code_interpreter", "container": "auto"}], id="interpreter"),
        pytest.param([{"type": "surprise"}], id="unknown"),
        pytest.param([{"type": "function", "function": {"name": "f"}}, {"type": "surprise"}], id="hidden behind one"),
    ],
)
async def test_a_paid_feature_without_a_price_is_refused(
    gateway: Gateway, once: Key, script: Script, tools: list[object]
) -> None:
    answer = await gateway.chat(once, script, tools=tools)
    assert 400 <= answer.status < 500
    assert assert_refused(answer, script, answer.status)["code"].startswith("unpriced_")


AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(
            {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "mp3"}}, id="spoken answer"
        ),
        pytest.param({"messages": [{"role": "user", "content": [AUDIO]}]}, id="spoken question"),
        pytest.param({"web_search_options": {}}, id="web search"),
        pytest.param({"service_tier": "priority"}, id="a dearer tier"),
    ],
)
async def test_a_modality_or_tier_without_a_price_is_refused(
    gateway: Gateway, once: Key, script: Script, fields: dict[str, Any]
) -> None:
    body = {**chat_body(script, max_tokens=10), **fields}
    answer = await gateway.post(once, {**body, "user": script.marker})
    assert 400 <= answer.status < 500
    assert assert_refused(answer, script, answer.status)["code"].startswith("unpriced_")


@pytest.mark.parametrize("model", ["rig-unpriced", "rig-free-output"])
async def test_a_model_without_a_price_is_refused_and_never_free(
    gateway: Gateway, once: Key, script: Script, model: str
) -> None:
    answer = await gateway.chat(once, script, model=model)
    assert 400 <= answer.status < 500
    assert_refused(answer, script, answer.status, "unpriced_model")


MODELS = {
    "unknown": "gpt-nowhere",
    "case": "RIG-CHAT",
    "blank": "rig-chat ",
    "prefix": "openai/rig-chat",
    "URL": "hosted_vllm/http://127.0.0.1:1/v1",
    "path": "../rig-chat",
    "upstream name": "upstream-chat",
    "homoglyph": "rig-ch\u0430t",
    "line break": "rig-chat\r\nx-evil: 1",
    "NUL": "rig-chat\x00",
    "long": "m" * 500_000,
    "without a provider key": "rig-keyless",
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
async def test_only_an_exact_name_of_the_catalog_is_a_model(
    gateway: Gateway, once: Key, script: Script, model: str
) -> None:
    answer = await gateway.chat(once, script, model=model)
    assert_refused(answer, script, 404, "model_not_found")
    assert len(answer.body) < 2000
    assert "x-evil" not in answer.header_names


async def test_the_last_of_two_models_decides(gateway: Gateway, once: Key, script: Script) -> None:
    body = raw(script).replace(b'"model":"rig-chat"', b'"model":"rig-chat","model":"gpt-nowhere"')
    assert_refused(await gateway.post(once, body), script, 404, "model_not_found")


async def test_a_model_outside_the_keys_list_is_forbidden_and_unlisted(gateway: Gateway, script: Script) -> None:
    key = gateway.new_key(models=["rig-cheap"])
    assert_refused(await gateway.chat(key, script), script, 403)
    listed = (await gateway.get(key, "/v1/models")).json["data"]
    assert [model["id"] for model in listed] == ["rig-cheap"]
    assert (await gateway.get(key, "/v1/models/rig-chat")).status in {403, 404}
    assert gateway.entries(creator=key.creator) == []


# Sizes


async def test_a_body_above_the_bound_is_refused_before_it_is_read(gateway: Gateway, once: Key, script: Script) -> None:
    request = request_bytes("POST", CHAT, key=once.key, headers=[("content-length", str(2**30))])
    async with connected(gateway.port) as connection:
        await connection.send(request + b'{"model":')
        await connection.read_head()
        assert_refused(await connection.read_rest(), script, 413)


async def test_a_body_one_byte_above_the_bound_is_refused(gateway: Gateway, once: Key, script: Script) -> None:
    bound = 2**20
    body = raw(script)
    padded = body[:-1] + b" " * (bound - len(body) + 1) + b"}"
    assert len(padded) == bound + 1
    assert_refused(await gateway.post(once, padded), script, 413)


async def test_a_chunked_body_above_the_bound_is_refused_while_it_comes(
    gateway: Gateway, once: Key, script: Script
) -> None:
    """Whoever sends all of it before reading has the answer, too: the connection is not reset."""
    head = request_bytes(
        "POST", CHAT, key=once.key, headers=[("transfer-encoding", "chunked"), ("content-type", "application/json")]
    )
    async with connected(gateway.port) as connection:
        await connection.send(head)
        for _ in range(200):  # 13 MB
            await connection.send(wire.framed(b" " * 65_536))
        await connection.read_head()
        assert_refused(await connection.read_rest(), script, 413)


async def test_who_goes_on_sending_for_ever_after_a_refusal_is_cut_off(gateway: Gateway, once: Key) -> None:
    head = request_bytes("POST", CHAT, key=once.key, headers=[("transfer-encoding", "chunked")])
    async with connected(gateway.port) as connection, asyncio.timeout(30):
        await connection.send(head)
        with pytest.raises(ConnectionError):
            await _send_for_ever(connection)


async def _send_for_ever(connection: Connection) -> None:
    while True:
        await connection.send(wire.framed(b" " * 65_536))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
async def test_a_compressed_request_is_refused(gateway: Gateway, once: Key, script: Script, encoding: str) -> None:
    answer = await gateway.post(once, b"\x1f\x8b\x08" + b"\x00" * 50, [("content-encoding", encoding)])
    assert answer.status in {400, 415}
    assert_refused(answer, script, answer.status)


# Ways and places


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", CHAT),
        ("PUT", CHAT),
        ("DELETE", CHAT),
        ("POST", "/v1/models"),
        ("GET", "/v1/nowhere"),
        ("POST", "/v1/engines/x/completions"),
        ("GET", "/v1/"),
    ],
)
async def test_an_unknown_place_answers_in_openais_shape(
    gateway: Gateway, once: Key, script: Script, method: str, path: str
) -> None:
    body = chat_body(script) if method in {"POST", "PUT"} else None
    answer = await exchange(gateway.port, request_bytes(method, path, key=once.key, body=body))
    assert answer.status in {404, 405}
    assert_refused(answer, script, answer.status)


async def test_a_refusal_is_one_log_line_without_content(gateway: Gateway, once: Key, script: Script) -> None:
    answer = await gateway.chat(once, script, model="gpt-nowhere")
    lines = await soon(
        lambda: [line for line in gateway.logs().splitlines() if answer.request_id in line], "the refusal's log line"
    )
    (line,) = [json.loads(line) for line in lines]
    assert (line["status"], line["code"], line["creator"]) == (404, "model_not_found", once.creator)
    assert script.marker not in json.dumps(line)
    assert once.key not in json.dumps(line)
