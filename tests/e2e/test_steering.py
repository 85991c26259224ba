"""Nothing a client writes chooses host, key, payer or logging, and nothing it names is fetched.

Every parameter name of litellm's calls (the widest vocabulary of such things there is) is sent in every place a body has,
and as a header, with the address of a canary and a canary key as its value. Each is refused, or arrives as plain data at
the configured upstream, under the configured key. The canary is a listener that must see no connection.
"""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_dialects_endpoints import ALL, Call
from tests.litellm.parameters import recorded_parameters
from tests.rig import wire
from tests.rig.client import Answer, exchange, request_bytes
from tests.rig.environment import REPOSITORY
from tests.rig.gateway import CHAT, Gateway, Key, prompt
from tests.rig.upstream import Request, Script, Upstream
from tests.rig.waiting import eventually

CANARY_KEY = "sk-steering-canary-key"
NAMES = recorded_parameters()
OPENAIS = frozenset(
    """
    audio dimensions encoding_format file frequency_penalty function_call functions input logit_bias logprobs
    max_completion_tokens max_tokens messages metadata modalities model n parallel_tool_calls prediction presence_penalty
    prompt prompt_cache_key prompt_cache_retention quality reasoning_effort response_format safety_identifier seed
    service_tier size stop store stream stream_options style temperature tool_choice tools top_logprobs top_p user
    verbosity web_search_options
    """.split()
)
"""Names of OpenAI's own API, which are checked and travel as what they are."""
STEERS = re.compile(
    r"api_|apikey|base|url|host|_port$|proxy|secret|password|credential|endpoint|region|headers?$|callback|retr|fallback"
    r"|timeout|mock_|cost_|organization|project|client|vertex|aws_|azure|log$|router|budget|(^|_)key($|_)|model_|^_"
)
"""What names a host, a key, a payer, a price, a log, another try or another model: none of these may pass."""
_AT_ONCE = 16


@pytest.fixture(scope="module")
def canary() -> Iterator[Upstream]:
    listener = Upstream()
    yield listener
    assert listener.connections == 0, "somebody called the canary"
    listener.close()


@pytest.fixture
def caller(dialects: Gateway) -> Key:
    return dialects.new_key()


@pytest.fixture
def script(upstream: Upstream) -> Script:
    return upstream.reply(wire.completion("fine", usage=wire.usage(5, 2)))


def address(canary: Upstream) -> str:
    return f"http://127.0.0.1:{canary.port}/{CANARY_KEY}"


def chat_body(script: Script, **fields: Any) -> dict[str, Any]:
    return {"model": "dia-openai", "messages": [{"role": "user", "content": prompt(script)}], **fields}


async def all_of(gateway: Gateway, requests: dict[str, bytes]) -> dict[str, Answer]:
    """The answers by name, a few requests at a time."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(request: bytes) -> Answer:
        async with places:
            return await exchange(gateway.port, request)

    answers = await asyncio.gather(*(one(request) for request in requests.values()))
    return dict(zip(requests, answers, strict=True))


def assert_ours(request: Request, gateway: Gateway, upstream: Upstream) -> None:
    """It went to the configured path of the configured host under the configured key, and no header says otherwise."""
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.header_values("authorization") == [f"Bearer {gateway.provider_key}"]
    assert request.header_values("host") == [f"127.0.0.1:{upstream.port}"]
    assert CANARY_KEY not in repr((request.line, request.headers))


def assert_booked(gateway: Gateway, key: Key, answered: int) -> None:
    """Every answer has its entry and its log line, at the creator whose key it was."""
    entries = [entry for entry in gateway.entries(creator=key.creator) if entry["outcome"] == "ok"]
    assert len(entries) == answered
    assert {(entry["key_id"], entry["payer"], entry["cost_nano_usd"]) for entry in entries} <= {
        (key.id, "quota", 5 * 3_000 + 2 * 15_000)
    }

    def logged() -> int:
        lines = gateway.log_lines("request_finished")
        return len([line for line in lines if (line["creator"], line["status"]) == (key.creator, 200)])

    eventually(lambda: logged() >= answered, "a log line for every answer")
    assert logged() == answered


# In the body


@pytest.mark.parametrize("shape", ["text", "object", "list"])
async def test_a_parameter_in_the_body_is_refused_or_plain_data(
    dialects: Gateway, upstream: Upstream, canary: Upstream, caller: Key, script: Script, shape: str
) -> None:
    at = address(canary)
    value: dict[str, Any] = {
        "text": at,
        "object": {"url": at, "base_url": at, "api_key": CANARY_KEY},
        "list": [{"api_base": at}, at],
    }
    requests = {
        name: request_bytes("POST", CHAT, key=caller.key, body=chat_body(script, **{name: value[shape]}))
        for name in NAMES
        if name not in ("model", "messages")
    }
    answers = await all_of(dialects, requests)
    assert {answer.status for answer in answers.values()} == {200, 400}
    passed = {name for name, answer in answers.items() if answer.status == 200}
    assert {name for name in passed - OPENAIS if STEERS.search(name)} == set()
    for name in answers.keys() - passed:
        assert CANARY_KEY not in answers[name].body.decode(), f"{name} is quoted"
    assert len(script.requests) == len(passed)
    for request in script.requests:
        assert_ours(request, dialects, upstream)
        sent = request.json
        assert (sent["model"], sent["messages"]) == ("gpt-4o-mini", chat_body(script)["messages"])
    assert {name for request in script.requests for name in request.json.keys() & passed} <= passed
    await asyncio.to_thread(assert_booked, dialects, caller, len(passed))


async def test_a_parameter_in_metadata_steers_nothing(
    dialects: Gateway, upstream: Upstream, canary: Upstream, caller: Key, script: Script
) -> None:
    requests = {
        name: request_bytes("POST", CHAT, key=caller.key, body=chat_body(script, metadata={name: address(canary)}))
        for name in [*NAMES, "creator", "account", "key", "payer", "plan", "user_api_key", "user_id"]
    }
    answers = await all_of(dialects, requests)
    assert {answer.status for answer in answers.values()} <= {200, 400}
    for request in script.requests:
        assert_ours(request, dialects, upstream)
    answered = sum(answer.status == 200 for answer in answers.values())
    assert answered == len(script.requests)
    await asyncio.to_thread(assert_booked, dialects, caller, answered)


def nested(place: str, inside: dict[str, Any], script: Script) -> dict[str, Any]:
    """A body with the fields `inside` at one of its places."""
    text = prompt(script)
    function = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    tool = {"type": "function", "function": function}
    schema = {"name": "s", "schema": {"type": "object"}}
    places: dict[str, dict[str, Any]] = {
        "message": {"messages": [{"role": "user", "content": text, **_without(inside, "role content")}]},
        "part": {"messages": [{"role": "user", "content": [{"type": "text", "text": text, **inside}]}]},
        "tool": {"tools": [{**inside, **tool}]},
        "function": {"tools": [{**tool, "function": {**inside, **function}}]},
        "tool choice": {"tools": [tool], "tool_choice": {**inside, "type": "function", "function": {"name": "f"}}},
        "stream options": {"stream_options": inside},
        "response format": {"response_format": {**inside, "type": "json_schema", "json_schema": schema}},
        "schema": {"response_format": {"type": "json_schema", "json_schema": {**inside, **schema}}},
        "extra body": {"extra_body": inside},
        "prediction": {"prediction": {**inside, "type": "content", "content": "x"}},
    }
    return {**chat_body(script), **places[place]}


def _without(fields: dict[str, Any], names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names.split()}


@pytest.mark.parametrize(
    "place",
    [
        "message",
        "part",
        "tool",
        "function",
        "tool choice",
        "stream options",
        "response format",
        "schema",
        "extra body",
        "prediction",
    ],
)
async def test_parameters_further_in_are_refused_or_plain_data(
    dialects: Gateway, upstream: Upstream, canary: Upstream, caller: Key, script: Script, place: str
) -> None:
    inside = dict.fromkeys(NAMES, address(canary)) | {"$ref": address(canary), "$schema": address(canary)}
    answer = await dialects.post(caller, nested(place, _without(inside, "type text"), script))
    assert answer.status in (200, 400), answer
    assert len(script.requests) == (answer.status == 200)
    for request in script.requests:
        assert_ours(request, dialects, upstream)
    await asyncio.to_thread(assert_booked, dialects, caller, len(script.requests))


HOSTS_AND_KEYS = """
api_base base_url api_key extra_headers extra_body headers default_headers custom_llm_provider model_list fallbacks
aws_bedrock_runtime_endpoint vertex_credentials azure_ad_token proxy organization mock_response litellm_metadata user_config
s3_endpoint_url langfuse_host models provider route
""".split()


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in ALL.items()])
async def test_every_endpoint_refuses_hosts_and_keys(
    dialects: Gateway, upstream: Upstream, canary: Upstream, caller: Key, call: Call
) -> None:
    script = upstream.reply({"error": {"message": "no"}}, 400)
    for name in HOSTS_AND_KEYS:
        answer = await call(dialects, caller, script, **{name: address(canary)})
        assert answer.status == 400, (name, answer)
    assert script.requests == []


# In headers


async def test_a_parameter_as_a_header_goes_nowhere(
    dialects: Gateway, upstream: Upstream, canary: Upstream, caller: Key, script: Script
) -> None:
    def headers(name: str) -> list[tuple[str, str]]:
        dashed = name.strip("_").replace("_", "-")
        return [
            *((each, address(canary)) for each in (name, f"x-{dashed}", f"x-litellm-{dashed}", f"openai-{dashed}")),
            *([(dashed, address(canary))] if dashed != "api-key" else []),  # that one is a credential here, too
        ]

    requests = {
        name: request_bytes("POST", CHAT, key=caller.key, body=chat_body(script), headers=headers(name))
        for name in NAMES
    }
    answers = await all_of(dialects, requests)
    assert {name for name, answer in answers.items() if answer.status != 200} == set()
    assert len(script.requests) == len(NAMES)
    for request in script.requests:
        assert_ours(request, dialects, upstream)
        assert CANARY_KEY.encode() not in request.body
    await asyncio.to_thread(assert_booked, dialects, caller, len(NAMES))


@pytest.mark.parametrize("name", ["host", "forwarded", "x-forwarded-host", "x-original-url", "x-rewrite-url", "via"])
async def test_a_header_about_hosts_changes_none(
    dialects: Gateway, upstream: Upstream, canary: Upstream, caller: Key, script: Script, name: str
) -> None:
    request = request_bytes("POST", CHAT, key=caller.key, body=chat_body(script))
    told = f"{name}: 127.0.0.1:{canary.port}\r\n".encode()
    request = request.replace(
        b"host: gateway.test\r\n", told + (b"" if name == "host" else b"host: gateway.test\r\n"), 1
    )
    answer = await exchange(dialects.port, request)
    assert answer.status == 200, answer
    assert_ours(script.request, dialects, upstream)


# Model names


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("openai/gpt-4o", id="prefixed"),
        pytest.param("openai/dia-openai", id="prefixed, known"),
        pytest.param("dia-openai/../dia-claude", id="inside"),
        pytest.param("hosted_vllm/http://127.0.0.1:1", id="address"),
        pytest.param("openai/http://127.0.0.1:1/v1", id="address behind a prefix"),
        pytest.param("../dia-openai", id="path"),
        pytest.param("../../etc/passwd", id="file"),
        pytest.param("..%2f..%2fdia-openai", id="escaped"),
        pytest.param("dia\u2010openai", id="hyphen"),
        pytest.param("dia-\u043epenai", id="cyrillic"),
        pytest.param("\uff44ia-openai", id="wide"),
        pytest.param("DIA-OPENAI", id="capitals"),
        pytest.param("dia-openai\u0000", id="nul"),
        pytest.param("dia-openai\r\nx-injected: 1", id="header"),
        pytest.param(" dia-openai", id="space"),
        pytest.param("*", id="star"),
        pytest.param("x" * 2**20, id="a megabyte"),
        pytest.param("\u00e9" * 2**19, id="a megabyte, not ASCII"),
        pytest.param(["dia-openai", "dia-claude"], id="list"),
        pytest.param({"name": "dia-openai"}, id="object"),
        pytest.param(None, id="null"),
    ],
)
@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in list(ALL.items())[::3]])
async def test_only_a_name_of_the_catalog_is_a_model(
    dialects: Gateway, upstream: Upstream, caller: Key, call: Call, model: Any
) -> None:
    before = upstream.connections
    script = upstream.reply({"error": {"message": "no"}}, 400)
    if call.files and model is None:
        return  # a form has no null
    answer = await call(dialects, caller, script, model=model)
    assert answer.status in (400, 404), answer
    assert len(answer.body) < 2_000
    assert script.requests == []
    assert upstream.connections == before
    assert dialects.entries(creator=caller.creator) == []


# Addresses in content


def parts_with(url: str) -> dict[str, Any]:
    return {
        "image": {"type": "image_url", "image_url": {"url": url}},
        "bare image": {"type": "image_url", "image_url": url},
        "file": {"type": "file", "file": {"file_data": url, "filename": "a.pdf"}},
        "file id": {"type": "file", "file": {"file_id": url}},
        "file url": {"type": "file", "file": {"file_url": url}},
        "sound": {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
        "video": {"type": "video_url", "video_url": {"url": url}},
        "anthropic's": {"type": "image", "source": {"type": "url", "url": url}},
        "responses'": {"type": "input_image", "image_url": url},
    }


@pytest.mark.parametrize("model", ["dia-openai", "dia-native", "dia-claude", "dia-gemini"])
@pytest.mark.parametrize("part", list(parts_with("")))
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_address_in_a_message_is_not_fetched(
    dialects: Gateway, upstream: Upstream, canary: Upstream, caller: Key, model: str, part: str, scheme: str
) -> None:
    """Refused, or passed on as the text it is; the upstream refuses it here, and the canary's fixture looks."""
    script = upstream.reply({"error": {"message": "no"}}, 400)
    url = address(canary).replace("http:", f"{scheme}:")
    content = [{"type": "text", "text": prompt(script)}, parts_with(url)[part]]
    answer = await dialects.chat(caller, model=model, messages=[{"role": "user", "content": content}])
    assert answer.status == 400, answer
    assert len(script.requests) <= 1
    assert canary.connections == 0


@pytest.mark.parametrize("model", ["dia-native", "dia-claude", "dia-gemini", "dia-openai"])
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
async def test_nor_one_in_other_shapes_of_a_chat(
    dialects: Gateway, upstream: Upstream, canary: Upstream, caller: Key, model: str, path: str
) -> None:
    for part in parts_with(address(canary)).values():
        script = upstream.reply({"error": {"message": "no"}}, 400)
        if path == "/v1/responses":
            text = {"type": "input_text", "text": prompt(script)}
            body: dict[str, Any] = {
                "model": model,
                "store": False,
                "input": [{"role": "user", "content": [text, part]}],
            }
        else:
            text = {"type": "text", "text": prompt(script)}
            body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": [text, part]}]}
        answer = await dialects.post(caller, body, path=path)
        assert 400 <= answer.status < 500, answer
    assert canary.connections == 0


@pytest.mark.parametrize("model", ["dia-image", "dia-kontext", "dia-flux", "dia-gemini-image"])
@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/images/generations"])
async def test_nor_one_where_a_picture_is_expected(
    dialects: Gateway, upstream: Upstream, canary: Upstream, caller: Key, model: str, path: str
) -> None:
    script = upstream.reply({"error": {"message": "no"}}, 400)
    at = address(canary)
    for fields in ({"image": at}, {"image": [at]}, {"images": [{"image_url": at}]}, {"image_url": at}, {"mask": at}):
        body = {"model": model, "prompt": prompt(script), **fields}
        answer = await dialects.post(caller, body, path=path)
        assert 400 <= answer.status < 500, (fields, answer)
    assert canary.connections == 0


# Importing and starting

HEAVY = ("litellm", "openai", "anthropic", "aiohttp", "tiktoken", "boto3", "requests")


def test_importing_the_gateway_loads_no_library_of_a_provider() -> None:
    code = "import sys, gateway.app, gateway.server, gateway.cli; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    assert {"gateway", "uvicorn"} <= loaded
    assert loaded & set(HEAVY) == set()


class WithLibrary(Gateway):
    """A gateway beside a library that leaves a mark when it is imported."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PYTHONPATH": str(self.folder / "library")}


async def test_a_start_with_models_behind_litellm_imports_and_calls_nothing(upstream: Upstream, tmp_path: Path) -> None:
    folder, marked = tmp_path / "library", tmp_path / "imported"
    metadata = folder / "litellm-1.90.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: litellm\nVersion: 1.90.0\n")
    (folder / "litellm.py").write_text(
        f"open({str(marked)!r}, 'w').close()\nraise ImportError('no library after all')\n"
    )
    far = (
        f'[providers.far]\ndialect = "litellm"\nlitellm_provider = "cohere"\nbase_url = "{upstream.base_url}"\n'
        'api_key_env = "RIG_PROVIDER_KEY"\n[models.far]\nprovider = "far"\nendpoints = ["chat"]\n'
        "input_usd_per_mtok = 1\noutput_usd_per_mtok = 1\n"
    )
    gateway = WithLibrary(tmp_path, upstream, models=far)
    before = upstream.connections
    try:
        gateway.start()
        key = gateway.new_key()
        listed = json.loads((await gateway.get(key, "/v1/models")).body)["data"]
        assert "far" in {model["id"] for model in listed}
        assert not marked.exists(), "the library was imported at start"
        assert upstream.connections == before
        answer = await gateway.post(key, {"model": "far", "messages": [{"role": "user", "content": "x"}]})
        assert answer.status >= 500, answer
        assert marked.exists(), "the test sees the library imported at all"
        assert upstream.connections == before
    finally:
        gateway.close()
