"""What of the adapter needs no litellm: what it may be asked, how its objects become bytes, what leaves on the wire."""

import asyncio
import importlib.metadata
import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest

from gateway.catalog import Catalog, ProviderRow, load_catalog
from gateway.config import Settings
from gateway.errors import ConfigError, RequestError
from gateway.providers.base import Deadlines, UpstreamFailure, UpstreamRequest
from gateway.providers.litellm_adapter import LiteLlm, require_library
from gateway.providers.litellm_answers import (
    chat_answer,
    chunk_event,
    embeddings_answer,
    error_bytes,
    images_answer,
    kind_of,
    message_of,
    usage_of,
)
from gateway.providers.litellm_exchange import LibraryCall
from gateway.providers.litellm_request import Asked, asked_of, fitted
from gateway.providers.litellm_wire import CURRENT, Blocked, BlockedTransport, GuardedTransport, Line, Wire
from gateway.providers.translated import Untranslatable
from tests.litellm.parameters import recorded_parameters
from tests.providers.scripted_upstream import HANG_S, OK, PATIENT, Peer, Upstream, answer, says
from tests.rig.environment import inherited

PIXEL = "data:image/png;base64,iVBORw0KGgo="
QUESTION: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Why?"}]}
ROW = """
version = "1"
[providers.far]
dialect = "litellm"
litellm_provider = "cohere"
base_url = ""
api_key_env = "FAR_KEY"
[models."far"]
provider = "far"
endpoints = ["chat"]
input_usd_per_mtok = 1
output_usd_per_mtok = 1
"""


def request(body: dict[str, Any], path: str = "/chat/completions", deadlines: Deadlines = PATIENT) -> UpstreamRequest:
    return UpstreamRequest(path, orjson.dumps(body), bool(body.get("stream")), deadlines, "req-1")


def asked(**fields: Any) -> Asked:
    return asked_of(request({**QUESTION, **fields}))


def refused(**fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        asked(**fields)
    assert caught.value.status == 400
    return caught.value


def content(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part]}]


# The catalog and the start


def catalog_of(folder: Path, text: str = ROW) -> Catalog:
    path = folder / "pricing.toml"
    path.write_text(text)
    return load_catalog(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('litellm_provider = "cohere"', ""),
        ('litellm_provider = "cohere"', 'litellm_provider = "co here"'),
        ('dialect = "litellm"', 'dialect = "openai"'),
    ],
)
def test_a_row_names_the_librarys_provider_or_is_no_row_of_it(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(ConfigError, match="litellm_provider"):
        catalog_of(tmp_path, ROW.replace(old, new))


def test_an_active_model_needs_the_library(tmp_path: Path) -> None:
    """This environment has none: that is what the extra is for."""
    assert importlib.util.find_spec("litellm") is None
    catalog = catalog_of(tmp_path)
    with pytest.raises(ConfigError, match="providers"):
        require_library(catalog)
    require_library(catalog.with_keys(lambda _: None))
    require_library(catalog_of(tmp_path, ROW + "active = false\n"))


@pytest.mark.parametrize(
    ("version", "is_good"), [("1.82.7", False), ("1.82.8", False), ("1.83.9", False), ("1.84.0", True)]
)
def test_a_version_with_holes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, is_good: bool
) -> None:
    (tmp_path / "litellm.py").write_text("raise AssertionError('imported at start')")
    found = tmp_path / f"litellm-{version}.dist-info"
    found.mkdir()
    (found / "METADATA").write_text(f"Metadata-Version: 2.1\nName: litellm\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.metadata.version("litellm") == version
    if is_good:
        require_library(catalog_of(tmp_path))
    else:
        with pytest.raises(ConfigError, match=version):
            require_library(catalog_of(tmp_path))


# What may be asked


def test_only_named_fields_travel() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
    told = asked(
        temperature=0, stop=["x"], tools=[tool], seed=7, user="u", metadata={"a": "b"}, store=True, service_tier="auto"
    )
    assert told.arguments == {
        "messages": QUESTION["messages"],
        "temperature": 0,
        "stop": ["x"],
        "tools": [tool],
        "seed": 7,
    }
    assert told.model == "m"


def test_what_says_nothing_is_left_out() -> None:
    told = asked(n=1, logprobs=False, logit_bias={}, tools=[], stream=False, modalities=["text"], top_p=None)
    assert told.arguments == {"messages": QUESTION["messages"]}


_OPENAIS = frozenset(
    """
    model messages stream stream_options temperature top_p n stop max_tokens max_completion_tokens presence_penalty
    frequency_penalty logit_bias logprobs top_logprobs tools tool_choice parallel_tool_calls response_format
    reasoning_effort verbosity seed user metadata store service_tier safety_identifier prompt_cache_key
    prompt_cache_retention prediction
    """.split()
)


def test_no_other_parameter_of_the_library_passes() -> None:
    others = [name for name in recorded_parameters() if name not in _OPENAIS]
    assert len(others) > 400
    assert {refused(**{name: "canary"}).code for name in others} == {"unsupported_parameter"}


@pytest.mark.parametrize("name", [name for name in recorded_parameters() if name not in _OPENAIS][::40])
def test_nor_inside_messages_and_tools(name: str) -> None:
    function = {"name": "f", "parameters": {}}
    refused(messages=[{"role": "user", "content": "x", name: "canary"}])
    refused(tools=[{"type": "function", "function": function, name: "canary"}])
    refused(tools=[{"type": "function", "function": {**function, name: "canary"}}])
    told = asked(
        messages=content({"type": "text", "text": "x", name: "canary"}),
        stream_options={name: "canary"},
        tool_choice={"type": "function", "function": {"name": "f"}, name: "canary"},
        response_format={"type": "json_object", name: "canary"},
    )
    assert "canary" not in repr(told)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://canary.test/x.png"}},
        {"type": "image_url", "image_url": {"url": "HTTP://canary.test/;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "gs://bucket/x"}},
        {"type": "image_url", "image_url": {"url": "data:image/png,plain"}},
        {"type": "file", "file": {"file_id": "https://canary.test/x.pdf"}},
        {"type": "file", "file": {"file_data": "https://canary.test/x.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "https://canary.test/x", "format": "wav"}},
        {"type": "document", "source": {"type": "url", "url": "https://canary.test/x"}},
        {"type": "image_url"},
        "text",
    ],
)
def test_content_has_to_hold_its_bytes(part: Any) -> None:
    refused(messages=content(part))


def test_bytes_in_content_travel() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}},
        {"type": "text", "text": "x"},
    ]
    assert asked(messages=[{"role": "user", "content": parts}]).arguments["messages"][0]["content"] == parts


@pytest.mark.parametrize(
    "messages",
    [
        ["x"],
        [{"role": "function", "content": "x"}],
        [{"role": "user", "content": "x", "tool_calls": []}],
        [{"role": "assistant", "content": None, "tool_calls": [{"type": "custom"}]}],
        [{"role": "assistant", "content": None, "audio": {"id": "a"}}],
        [{"role": "user", "content": 7}],
        [{"role": "tool", "tool_call_id": 7, "content": "x"}],
    ],
)
def test_a_message_that_is_none_is_named(messages: list[Any]) -> None:
    assert str(refused(messages=messages).param).startswith("messages[0]")


@pytest.mark.parametrize("tools", [[{"type": "web_search"}], [{"type": "custom", "custom": {"name": "x"}}], ["x"]])
def test_a_tool_that_is_no_function_is_refused(tools: list[Any]) -> None:
    assert refused(tools=tools).param == "tools[0]"


def test_a_bound_arrives_under_the_name_the_provider_has() -> None:
    assert fitted(asked(max_completion_tokens=9), frozenset({"max_tokens"}))["max_tokens"] == 9
    assert fitted(asked(max_tokens=9), frozenset({"max_completion_tokens"}))["max_completion_tokens"] == 9
    with pytest.raises(RequestError, match="max_tokens"):
        fitted(asked(max_tokens=9), frozenset())


def test_a_hint_is_dropped_and_a_meaning_is_not() -> None:
    assert fitted(asked(seed=1, parallel_tool_calls=True), frozenset()) == {"messages": QUESTION["messages"]}
    with pytest.raises(RequestError, match="temperature"):
        fitted(asked(temperature=1), frozenset({"top_p"}))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/audio/speech", {"model": "m"}),
        ("/embeddings", {"model": "m", "input": [1, 2]}),
        ("/embeddings", {"model": "m", "input": [[1, 2]]}),
        ("/embeddings", {"model": "m", "input": []}),
        ("/embeddings", {"model": "m", "input": "x", "api_base": "canary"}),
        ("/images/generations", {"model": "m", "prompt": "x", "background": "transparent"}),
    ],
)
def test_other_endpoints_are_as_strict(path: str, body: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        asked_of(request(body, path))


async def test_a_request_that_cannot_be_asked_needs_no_library() -> None:
    provider = LiteLlm(ProviderRow("far", "litellm", litellm_provider="cohere"), "sk-key", Settings())
    waits: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with pytest.raises(RequestError):
        await provider.open(request({**QUESTION, "api_base": "canary"}), waits)
    await provider.close()


# What becomes of its objects


def usage(prompt: Any = 10, completion: Any = 5, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(prompt_tokens=prompt, completion_tokens=completion, **more)


def test_usage_is_told_with_its_parts() -> None:
    details = SimpleNamespace(cached_tokens=4, cache_creation_tokens=3, audio_tokens=None)
    thought = SimpleNamespace(reasoning_tokens=2)
    told = usage_of(usage(total_tokens=15, prompt_tokens_details=details, completion_tokens_details=thought))
    assert told == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert usage_of(usage())["total_tokens"] == 15  # type: ignore[index]


@pytest.mark.parametrize("nothing", [None, usage(0, 0), usage(None, 5), usage(0, 5), usage(5, None)])
def test_a_count_nobody_reported_is_none(nothing: Any) -> None:
    assert usage_of(nothing) is None


def choice(**message: Any) -> SimpleNamespace:
    return SimpleNamespace(index=0, finish_reason="stop", message=SimpleNamespace(**message))


def test_words_without_output_tokens_have_no_usage() -> None:
    """The library wrote the 0 itself: its counter is off."""
    whole = SimpleNamespace(choices=[choice(content="Hi")], usage=usage(10, 0), created=1)
    told = orjson.loads(chat_answer(whole, model="m", answer_id="a"))
    assert "usage" not in told
    assert told["choices"][0]["message"]["content"] == "Hi"
    silent = SimpleNamespace(choices=[choice(content="")], usage=usage(10, 0), created=1)
    assert orjson.loads(chat_answer(silent, model="m", answer_id="a"))["usage"]["completion_tokens"] == 0


def piece(finish: str | None = None, **delta: Any) -> SimpleNamespace:
    return SimpleNamespace(choices=[SimpleNamespace(index=0, finish_reason=finish, delta=SimpleNamespace(**delta))])


def test_a_finish_reason_nobody_gave_is_not_told() -> None:
    def told(chunk: Any, *, is_finish_real: bool) -> bytes:
        return chunk_event(chunk, model="m", answer_id="a", created=1, is_finish_real=is_finish_real)

    assert b'"finish_reason":"stop"' in told(piece("stop"), is_finish_real=True)
    assert told(piece("stop"), is_finish_real=False) == b""
    assert b'"content":"x"' in told(piece("stop", content="x"), is_finish_real=False)
    assert told(piece(content=""), is_finish_real=True) == b""


@pytest.mark.parametrize(
    "broken",
    [
        lambda: chat_answer(SimpleNamespace(choices=[]), model="m", answer_id="a"),
        lambda: embeddings_answer(SimpleNamespace(data=[]), model="m", count=1, is_base64=False),
        lambda: embeddings_answer(SimpleNamespace(data=[{"embedding": []}]), model="m", count=1, is_base64=False),
        lambda: embeddings_answer(SimpleNamespace(data=[{"embedding": [10**400]}]), model="m", count=1, is_base64=True),
        lambda: images_answer(SimpleNamespace(data=[])),
        lambda: images_answer(SimpleNamespace(data=[{}])),
    ],
)
def test_an_answer_that_is_none_cannot_be_told(broken: Any) -> None:
    with pytest.raises(Untranslatable):
        broken()


class RateLimitError(Exception):
    """Named as the library's."""


class _NewerError(RateLimitError):
    """A class of a later version, below a known one."""


class MidStreamFallbackError(Exception):
    def __init__(self, inner: Exception) -> None:
        super().__init__("MidStreamFallbackError: litellm.RateLimitError: BedrockException - slow")
        self.original_exception = inner


def test_an_exception_means_what_its_class_does() -> None:
    assert kind_of(RateLimitError()).status == 429
    assert kind_of(_NewerError()).status == 429
    assert kind_of(MidStreamFallbackError(RateLimitError())).status == 429
    assert kind_of(ValueError()).status == 500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("litellm.BadRequestError: BedrockException - it is bad", "it is bad"),
        ('litellm.NotFoundError: CohereException - {"message":"no model"}', "no model"),
        ('Rate Limit Error - throttlingException {"message": "slow down"}', "slow down"),
        ('litellm.APIError: APIError: X - {"error":{"message":"inside"}}', "inside"),
        ('litellm.APIError: {"error":"short"}', "short"),
        ("the key sk-secret-1 is bad", "the key [redacted] is bad"),
        ("", "The provider refused the request and did not say why."),
        ("{not json}", "{not json}"),
    ],
)
def test_a_message_is_the_providers_own(text: str, said: str) -> None:
    assert message_of(RateLimitError(text), "sk-secret-1") == said
    error = orjson.loads(error_bytes(RateLimitError(text), "sk-secret-1"))["error"]
    assert (error["message"], error["code"]) == (said, "rate_limit_exceeded")


# The wire


class Sender:
    """A wire to a scripted upstream, and the client the library would use."""

    def __init__(self, upstream: Upstream, deadlines: Deadlines = PATIENT, *, bytes_max: int = 1_000) -> None:
        self.url = f"http://127.0.0.1:{upstream.origin.port}"
        self.dials = 0
        row = ProviderRow("far", "litellm", base_url=self.url, headers={"x-fixed": "1"}, litellm_provider="cohere")
        self.line = Line.to(row, Settings())
        asking = request(QUESTION, deadlines=deadlines)._replace(on_dial=self._dialled)
        self.wire = Wire(self.line, asking, answer_bytes_max=bytes_max)
        self.client = httpx.AsyncClient(transport=GuardedTransport(), trust_env=False)

    def _dialled(self) -> None:
        self.dials += 1

    async def send(self, url: str = "", **options: Any) -> httpx.Response:
        token = CURRENT.set(self.wire)
        try:
            return await self.client.post(url or self.url, content=b"{}", **options)
        finally:
            CURRENT.reset(token)

    async def fails(self, url: str = "") -> UpstreamFailure:
        with pytest.raises(Blocked):
            await self.send(url)
        assert self.wire.failure is not None
        return self.wire.failure

    async def close(self) -> None:
        await self.wire.close()
        await self.line.transport.aclose()
        await self.client.aclose()


async def over(upstream: Upstream, **options: Any) -> AsyncIterator[Sender]:
    async with asyncio.timeout(HANG_S), upstream:
        line = Sender(upstream, **options)
        try:
            yield line
        finally:
            await line.close()


async def test_what_leaves_bears_the_rows_headers_and_nobody_elses() -> None:
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        heads.append(await peer.reader.readuntil(b"\r\n\r\n"))
        await peer.send(answer(b"{}", b"set-cookie: a=b"))

    async for line in over(Upstream(script)):
        sent = await line.send(headers={"cookie": "c=d", "openai-organization": "o", "authorization": "Bearer k"})
        assert sent.status_code == 200
        assert "set-cookie" not in sent.headers
        assert (line.dials, line.wire.is_sent, line.wire.is_fully_sent, line.wire.status) == (1, True, True, 200)
    head = heads[0].lower()
    assert b"x-fixed: 1\r\n" in head
    assert b"accept-encoding: identity\r\n" in head
    assert b"authorization: bearer k\r\n" in head
    assert b"cookie" not in head
    assert b"openai-organization" not in head


async def test_another_host_is_not_called() -> None:
    async for line in over(Upstream(says(answer(b"{}")))):
        other = line.url.replace("127.0.0.1", "localhost")
        failure = await line.fails(other)
        assert (failure.kind, failure.is_sent, line.dials) == ("invalid", False, 0)


async def test_without_a_configured_host_only_https_leaves() -> None:
    async for line in over(Upstream(says(answer(b"{}")))):
        line.wire._line = line.line._replace(origin=None)
        assert (await line.fails()).kind == "invalid"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", "invalid"),
        (OK + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", "invalid"),
        (answer(b"x" * 1_001), "invalid"),
        (OK + b"content-length: 10\r\n\r\n{}", "died"),
        (b"not http\r\n\r\n", "died"),
        (b"", "died"),
    ],
)
async def test_an_answer_as_it_must_not_be_fails_the_call_for_good(data: bytes, kind: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)

    upstream = Upstream(script)
    async for line in over(upstream):
        failure = await line.fails()
        assert (failure.kind, failure.is_sent, failure.is_fully_sent) == (kind, True, True)
        assert await line.fails() is failure, "the first failure is what counts"
    assert upstream.connections == 1


async def test_nobody_there_is_unreachable_and_owes_nothing() -> None:
    async for line in over(Upstream(says(b""))):
        line.wire._line = line.line._replace(origin=("http", "127.0.0.1", 1))
        failure = await line.fails("http://127.0.0.1:1/")
        assert (failure.kind, failure.is_sent, line.dials) == ("unreachable", False, 0)


@pytest.mark.parametrize(
    ("first", "kind"),
    [(b"", "first_byte_timeout"), (OK + b"content-length: 10\r\n\r\n{}", "idle_timeout")],
)
async def test_silence_has_a_deadline(first: bytes, kind: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(first)
        await peer.gone()

    async for line in over(Upstream(script), deadlines=Deadlines(HANG_S, 0.05, 0.05, HANG_S)):
        assert (await line.fails()).kind == kind


async def test_the_total_deadline_ends_a_call_whatever_the_library_does() -> None:
    async for line in over(Upstream(says(b""))):
        call = LibraryCall(line.wire, asked(), request(QUESTION), asyncio.get_running_loop().time() + 0.02)
        with pytest.raises(UpstreamFailure) as caught:
            async with call.running():
                await asyncio.Event().wait()
        assert (caught.value.kind, caught.value.is_sent) == ("total_timeout", False)
        assert CURRENT.get() is None


async def test_a_library_that_cannot_be_loaded_is_the_providers_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it is not installed."""
    monkeypatch.setattr("os.environ", inherited())
    provider = LiteLlm(ProviderRow("far", "litellm", litellm_provider="cohere"), "sk-key", Settings())
    for _ in range(2):
        with pytest.raises(UpstreamFailure, match="cannot be used") as caught:
            await provider.open(request(QUESTION), asyncio.get_running_loop().create_future())
        assert not caught.value.is_sent
    await provider.close()


async def test_a_call_that_has_ended_sends_nothing_more() -> None:
    """Whatever the library still has running in the background."""
    upstream = Upstream(says(answer(b"{}")))
    async for line in over(upstream):
        await line.wire.close()
        with pytest.raises(Blocked):
            await line.send()
    assert upstream.connections == 0


async def test_nothing_is_sent_outside_a_call_or_by_a_client_that_blocks() -> None:
    async for line in over(Upstream(says(answer(b"{}")))):
        with pytest.raises(Blocked):
            await line.client.post(line.url)
        with httpx.Client(transport=BlockedTransport(), trust_env=False) as blocking:
            with pytest.raises(Blocked):
                blocking.post(line.url)
            assert line.wire.failure is None
            token = CURRENT.set(line.wire)
            with pytest.raises(Blocked):
                blocking.post(line.url)
            CURRENT.reset(token)
        assert line.wire.failure is not None
