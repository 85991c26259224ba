"""Callers of the newer endpoints who mean no good: each test is a way in that was open once."""

import asyncio
import base64
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import structlog
from hypothesis import given as drawn
from hypothesis import strategies as st

from gateway.audio_duration import Duration, duration_of
from gateway.catalog import Model, Price, ProviderRow
from gateway.chat import read_chat_request
from gateway.errors import RequestError
from gateway.image_edits import read_image_edit_form
from gateway.kept_images import _decoded
from gateway.ledger.database import Database
from gateway.messages.request import read_messages_request
from gateway.model_request import Answered, ModelRequest
from gateway.multipart import FilePart, Form
from gateway.providers.anthropic_request import messages_body
from gateway.providers.gemini_errors import envelope
from gateway.providers.gemini_request import chat_body
from gateway.responses.request import ResponsesRequest, read_responses_request
from gateway.responses.state import KeptResponse, ResponseStore
from gateway.transcriptions import read_transcription_form
from policies.types import Account, Plan
from tests.clocked_gateway import HANG_S, Answer
from tests.responses.native_provider import NativeProvider
from tests.responses.world import ResponsesWorld, responses_world
from tests.rig import wire
from tests.rig.environment import REPOSITORY, inherited
from tests.rig.gateway import Gateway, prompt
from tests.rig.upstream import Upstream

PRICE = Price("1.x", input=1_000_000, output=10_000_000)
CHAT = Model("big", "p", "claude-sonnet-4-5", frozenset({"chat"}), PRICE, context_tokens_max=1_000_000)
ROW = ProviderRow("p", "openai")
ACME = Account("acme", "acme", "k1", Plan("open"))
AN_HOUR = {"type": "ephemeral", "ttl": "1h"}


# Responses and conversations


@pytest.mark.parametrize(
    "item",
    [
        pytest.param(
            {"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}]}, id="additional-tools"
        ),
        pytest.param({"type": "tool_search_output", "tools": [{"type": "mcp"}]}, id="tools-that-were-found"),
        pytest.param({"type": "compaction_trigger"}, id="a-summary"),
        pytest.param({"type": "image_generation_call", "id": "ig_1", "result": None}, id="an-image-of-anybody"),
        pytest.param({"type": "code_interpreter_call", "id": "ci_1", "container_id": "c"}, id="a-container"),
        pytest.param({"type": "mcp_approval_response", "approval_request_id": "a", "approve": True}, id="mcp"),
    ],
)
async def test_no_item_brings_in_what_a_provider_runs(tmp_path: Path, item: dict[str, Any]) -> None:
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big")) as world:
        key = await world.gateway.new_key()
        answer = await world.respond(key, "big", input=[{"role": "user", "content": "hi"}, item])
        assert (answer.status, answer.code) == (400, "unpriced_feature")
        kept = await world.ask(key, "POST", "/conversations", json={"items": [item]})
        assert kept.status_code == 400
        assert provider.asked == []


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"context_management": [{"type": "compaction"}]}, id="a-summary-beside-the-answer"),
        pytest.param({"reasoning": {"mode": "pro"}}, id="another-mode"),
        pytest.param({"access_programs": {"cyber": "daybreak_red"}}, id="the-operators-access"),
    ],
)
async def test_no_field_asks_for_what_has_no_price_or_is_the_operators(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big")) as world:
        assert (await world.respond(await world.gateway.new_key(), "big", **fields)).status == 400
        assert provider.asked == []


@pytest.mark.parametrize(
    "disguise",
    [
        pytest.param({"type": None}, id="a-type-of-null"),
        pytest.param({"status": "completed"}, id="another-field"),
        pytest.param({"role": None}, id="a-role-of-null"),
    ],
)
async def test_what_another_creators_call_left_cannot_be_named(tmp_path: Path, disguise: dict[str, Any]) -> None:
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big")) as world:
        victim = await world.gateway.new_key("victim")
        item = (await world.respond(victim, "big")).json["output"][0]["id"]
        stranger = await world.gateway.new_key("stranger")
        answer = await world.respond(
            stranger, "big", input=[{"role": "user", "content": "hi"}, {"id": item, **disguise}]
        )
        assert (answer.status, answer.code) == (400, "item_not_found")
        assert len(provider.asked) == 1


async def test_reasoning_is_looked_up_by_its_owner_only(tmp_path: Path) -> None:
    """Its content lies with the provider, which finds it by the id alone, and bills its tokens again."""
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big")) as world:
        owner, stranger = await world.gateway.new_key("owner"), await world.gateway.new_key("stranger")
        item = (await world.respond(owner, "big")).json["output"][0]["id"]
        thought = {"type": "reasoning", "id": item, "summary": []}
        sealed = {**thought, "id": "rs_x", "encrypted_content": "xyz"}
        for key, sent in ((owner, [thought, sealed]), (stranger, [sealed])):
            asked = [thought, sealed, {"role": "user", "content": "go on"}]
            assert (await world.respond(key, "big", input=asked)).status == 200
            assert provider.asked[-1].body["input"] == [*sent, asked[-1]]
        *_, with_thought, without = world.gateway.entries("decision")
        holds = [orjson.loads(decision)["estimate"][-1] for (decision,) in (with_thought, without)]
        assert holds[0] - holds[1] == 2 * 1_000  # the provider reported two tokens of reasoning


@pytest.mark.parametrize("kind", ["input_file", "input_image"])
async def test_files_that_lie_with_the_provider_are_nobodys(tmp_path: Path, kind: str) -> None:
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big")) as world:
        content = [{"type": kind, "file_id": "file-of-somebody"}]
        items = [
            {"role": "user", "content": content},
            {"type": "function_call_output", "call_id": "c", "output": content},
        ]
        key = await world.gateway.new_key()
        for item in items:
            answer = await world.respond(key, "big", input=[item])
            assert (answer.status, answer.code) == (400, "unsupported_parameter")
        assert provider.asked == []


def test_a_file_of_words_is_held_as_words() -> None:
    words = "data:text/plain;base64," + base64.b64encode(b"word " * 200_000).decode()
    item = {"role": "user", "content": [{"type": "input_file", "file_data": words, "filename": "a.txt"}]}
    request = read_responses_request(orjson.dumps({"model": "big", "input": [item]}), None)  # type: ignore[arg-type]
    assert request.chat.part_tokens >= 1_000_000


async def test_many_references_cost_no_more_than_a_look_at_each_response(tmp_path: Path) -> None:
    """They once cost a look at every response for every reference: the product of the two, while others waited."""
    async with responses_world(tmp_path) as world:
        for number in range(60):
            body = {"instructions": "x y " * 100_000, "output": [{"type": "message", "id": f"msg_{number}"}]}
            kept = KeptResponse(f"resp_{number}", "m", "", "completed", "", "", 10, body)
            await world.store.keep(ACME, kept)
        async with asyncio.timeout(HANG_S):
            found = await world.store.referred(ACME, [f"msg_{number % 60}" for number in range(500)])
        assert len(found) == 60


async def test_what_is_kept_for_a_creator_has_an_end(tmp_path: Path) -> None:
    """Conversations are refused, as they cost nothing; for answers that were paid for the oldest ones make room."""
    async with responses_world(tmp_path) as world:
        store = ResponseStore(world.gateway.services.database, creator_bytes_max=10_000)
        conversations = store.conversations
        item = {"type": "message", "id": "msg_1", "content": "x" * 4_000}
        first = await conversations.create(ACME, [item], {})
        await conversations.add(ACME, first["id"], [item])
        for refused in (conversations.create(ACME, [item], {}), conversations.add(ACME, first["id"], [item])):
            with pytest.raises(RequestError) as caught:
                await refused
            assert caught.value.code == "too_much_kept"
        other = Account("other", "other", "k2", Plan("open"))
        assert await conversations.create(other, [item], {})
        await conversations.delete(ACME, first["id"])
        for number in range(4):
            await store.keep(ACME, KeptResponse(f"r_{number}", "m", "", "completed", "", "", 1, {"x": "y" * 4_000}))
        with pytest.raises(RequestError):
            await store.response(ACME, "r_0")
        assert (await store.response(ACME, "r_3"))["id"] == "r_3"


async def test_an_answer_that_cannot_be_kept_is_not_paid_for_twice(tmp_path: Path) -> None:
    """It is given all the same; where a conversation would silently miss it, an SDK is told not to repeat the call."""
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        conversation = (await world.sent(key, "POST", "/conversations", json={}))["id"]
        full = await Database.open_read_only(world.gateway.path)
        world.store = ResponseStore(full)
        assert (await world.respond(key)).status == 200
        answer = await world.respond(key, conversation=conversation)
        assert (answer.status, answer.headers.get("x-should-retry")) == (503, "false")
        assert world.gateway.entries("outcome") == [("ok",)] * 2
        await full.close()


class LateRefusal(ResponsesRequest):
    """Finds out too late that something was wrong with it."""

    __slots__ = ()

    async def keep(self, answered: Answered) -> bytes | None:
        raise RequestError("too late")


async def test_an_error_behind_the_booking_ends_the_call_no_second_time(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()

        async def read() -> ModelRequest:
            request = read_responses_request(orjson.dumps({"model": "talk", "input": "hi"}), world.store)
            request.__class__ = LateRefusal
            return request

        with structlog.testing.capture_logs() as logs:
            await _served(world, key, read)
        assert world.gateway.entries("outcome") == [("ok",)]
        assert [line["outcome"] for line in logs if line["event"] == "request_finished"] == ["ok"]


async def _served(world: ResponsesWorld, key: str, read: Any) -> Answer:
    answer = Answer()
    headers = [(b"host", b"gateway"), (b"authorization", b"Bearer " + key.encode())]
    await world.gateway.services.pipeline.serve("responses", read, headers, answer)
    return answer


# Messages


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(
            {"type": "search_result", "content": [{"type": "text", "text": "x", "cache_control": AN_HOUR}]}, id="found"
        ),
        pytest.param(
            {"type": "mcp_tool_result", "content": [{"type": "text", "text": "x", "cache_control": AN_HOUR}]}, id="mcp"
        ),
    ],
)
def test_an_hour_of_cache_is_seen_wherever_it_stands(block: dict[str, Any]) -> None:
    assert _messages(block).keeps_an_hour


def test_documents_inside_other_blocks_are_held_for() -> None:
    document = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
    assert _messages({"type": "web_fetch_tool_result", "content": {"content": document}}).chat.part_tokens == 150_000
    assert _messages({"type": "search_result", "content": [document, document]}).chat.part_tokens == 300_000
    with pytest.raises(RequestError) as caught:
        _messages({"type": "web_fetch_tool_result", "content": {"type": "document", "source": {"type": "file"}}})
    assert caught.value.code == "unsupported_parameter"


def test_no_block_brings_in_a_hosted_tool() -> None:
    tool = {"type": "tool_definition", "definition": {"type": "web_search_20250305", "name": "web_search"}}
    with pytest.raises(RequestError) as caught:
        _messages({"type": "tool_addition", "tool": tool})
    assert caught.value.code == "unpriced_feature"


def _messages(block: dict[str, Any]) -> Any:
    body = {"model": "big", "max_tokens": 1, "messages": [{"role": "user", "content": [block]}]}
    return read_messages_request(orjson.dumps(body))


def test_a_body_of_countless_crumbs_is_refused_before_it_is_looked_through() -> None:
    """Each piece is small; together they kept the event loop busy for seconds."""
    block = {"type": "text", "text": "x"}
    with pytest.raises(RequestError) as messages:
        read_messages_request(
            orjson.dumps({"model": "big", "max_tokens": 1, "messages": [{"role": "user", "content": [block] * 60_000}]})
        )
    bodies = [[{"role": "user", "content": "x"}] * 20_000, [{"role": "user", "content": [block] * 60_000}]]
    for given in bodies:
        with pytest.raises(RequestError) as responses:
            read_responses_request(orjson.dumps({"model": "big", "input": given}), None)  # type: ignore[arg-type]
        assert responses.value.code == messages.value.code == "request_too_large"


# Images


@pytest.mark.parametrize("name", ["n[]", "n[0]", "size[]", "quality[]", "model[]", "unknown[]"])
def test_forms_have_no_second_way_to_say_what_a_price_depends_on(name: str) -> None:
    fields = [("model", "dall-e-2"), ("prompt", "a cat"), (name, "10")]
    with pytest.raises(RequestError):
        read_image_edit_form(Form(fields, [FilePart("image", "a.png", "image/png", b"\x89PNG")]))


@drawn(st.integers(0, 2 * 3 * 2**16), st.sampled_from(["", "=", "==", "AA==", "A", "AAAA", "!"]))
def test_images_are_decoded_in_pieces_as_they_are_in_one(size: int, behind: str) -> None:
    text = base64.b64encode(bytes(size)).decode() + behind
    try:
        whole = base64.b64decode(text, validate=True)
    except ValueError:
        whole = b""
    # Python forgives a sign too many at the end; whether it is forgiven here is nobody's business.
    assert _decoded(text, size + 3) in ((whole, b"") if len(text) % 4 else (whole,))


# Providers of other dialects


@drawn(st.text(alphabet="AB=+/ é", max_size=12))
def test_gemini_is_sent_what_is_base64_and_nothing_else(data: str) -> None:
    """Told without decoding, which would keep everybody waiting for the largest bodies."""
    try:
        is_sound = bool(base64.b64decode(data, validate=True))
    except ValueError:
        is_sound = False
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    body = {"model": "gemini-2.5-flash", "messages": [{"role": "user", "content": [part]}]}
    if is_sound:
        assert chat_body(body)["contents"][0]["parts"][0]["inlineData"]["data"] == data
    else:
        with pytest.raises(RequestError):
            chat_body(body)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param("data:image/" + "a" * 20_000_000, id="a-type-without-end"),
        pytest.param("data:image/png" + ";" * 20_000_000, id="parameters-without-end"),
    ],
)
def test_the_head_of_a_data_url_has_an_end(head: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": head + ";base64,AAAA"}}]
    body = {"model": "gemini-2.5-flash", "messages": [{"role": "user", "content": content}]}
    for translate in (chat_body, messages_body):
        with pytest.raises(RequestError):
            translate(body)


async def test_no_error_of_geminis_takes_long_to_read() -> None:
    """It took a minute and more, and an error may repeat what the caller sent."""
    error = {"code": 400, "message": "token count " * 20_000, "status": "INVALID_ARGUMENT"}
    async with asyncio.timeout(HANG_S):
        told = await asyncio.to_thread(envelope, error, 400)
    assert orjson.loads(told)["error"]["code"] == "invalid_value"
    long = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
    told = envelope({"code": 400, "message": long}, 400)
    assert orjson.loads(told)["error"]["code"] == "context_length_exceeded"


def test_a_text_beyond_every_context_is_not_decoded() -> None:
    file = {"file_data": "data:text/plain;base64," + "QUFB" * 3_000_000}
    body = {"model": "claude", "messages": [{"role": "user", "content": [{"type": "file", "file": file}]}]}
    with pytest.raises(RequestError) as caught:
        messages_body(body)
    assert caught.value.code == "context_length_exceeded"


# Chat


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}, id="file"
        ),
        pytest.param({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, id="audio"),
        pytest.param({"max_tokens": 1, "n_predict": 100_000}, id="another-bound"),
        pytest.param({"models": ["dearer"]}, id="other-models"),
        pytest.param({"plugins": [{"id": "web"}]}, id="plugins"),
    ],
)
def test_a_chat_reaches_nothing_kept_elsewhere_and_nothing_unpriced(fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        read_chat_request(orjson.dumps({"model": "big", "messages": [{"role": "user", "content": "hi"}], **fields}))


def test_a_file_of_words_in_a_chat_is_held_as_words() -> None:
    words = "data:text/plain;base64," + base64.b64encode(b"word " * 150_000).decode()
    content = [{"type": "file", "file": {"file_data": words, "filename": "a.txt"}}]
    request = read_chat_request(orjson.dumps({"model": "big", "messages": [{"role": "user", "content": content}]}))
    assert request.input_tokens_max(CHAT) >= 150_000 * 5


STEPS = {
    "$defs": {
        "a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/b"}, {"$ref": "#/$defs/c"}]},
        "b": {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}},
        "c": {"type": "object", "required": ["q"], "properties": {"x": {"$ref": "#/$defs/a"}}},
    },
    "$ref": "#/$defs/a",
}
UNCHECKED = """
[models."free-form"]
provider = "rig"
upstream_model = "upstream-free-form"
endpoints = ["chat"]
input_usd_per_mtok = 1
output_usd_per_mtok = 1
"""


@pytest.fixture
def checking(upstream: Upstream, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that checks answers. What hangs is killed."""
    gateway = Gateway(tmp_path, upstream, models=UNCHECKED)
    try:
        yield gateway.start()
    finally:
        gateway.close()


def test_a_schema_that_takes_for_ever_keeps_nobody_waiting(checking: Gateway, upstream: Upstream) -> None:
    """Each level of the answer doubles the work: 30 of them are hours."""
    said = '{"x":' * 30 + "1" + "}" * 30
    script = upstream.reply(wire.completion(said, usage=wire.usage(9, 4)))
    wanted = {"type": "json_schema", "json_schema": {"name": "steps", "schema": STEPS}}
    messages = [{"role": "user", "content": prompt(script)}]
    body = {"model": "free-form", "messages": messages, "response_format": wanted}
    headers = {"authorization": f"Bearer {checking.new_key().key}"}
    with httpx.Client(trust_env=False, timeout=HANG_S) as client:
        answer = client.post(f"{checking.url}/v1/chat/completions", json=body, headers=headers)
        assert answer.status_code in (400, 502)
        assert client.get(f"{checking.url}/health/live").status_code == 200


# Audio


def _format(rate: int, channels: int, bits: int, tag: int = 1) -> bytes:
    width = channels * bits // 8
    return b"fmt " + struct.pack("<IHHIIHH", 16, tag, channels, rate, rate * width, width, bits)


def test_a_second_format_of_a_wav_shortens_nothing() -> None:
    """Decoders heed the first one."""
    sound = bytes(800_000)
    chunks = _format(8_000, 1, 8) + _format(768_000, 32, 64, 3) + b"data" + struct.pack("<I", len(sound)) + sound
    assert duration_of(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks).seconds_most >= 100


@pytest.mark.parametrize(
    "tag",
    [
        pytest.param(b"ID3\x04\x00\x00\xff\xff\xff\xff", id="no-tag-to-a-decoder"),
        pytest.param(b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f", id="all-of-the-file"),
    ],
)
def test_a_tag_hides_no_sound(tag: bytes) -> None:
    frame = bytes.fromhex("fff314c4").ljust(24, b"\0")  # MPEG 2, layer III, 8 kbit/s, 24 kHz: 24 ms
    assert duration_of(frame * 5_000).seconds_most == 120
    assert duration_of(tag + frame * 5_000).seconds_most >= 120


@pytest.mark.parametrize("name", ["url", "audio_url", "file_url"])
def test_a_transcription_is_of_the_file_and_of_nothing_else(name: str) -> None:
    form = Form(
        [("model", "w"), (name, "https://example.com/ten-hours.mp3")], [FilePart("file", "a", "audio/wav", b"R")]
    )
    with pytest.raises(RequestError):
        read_transcription_form(form, Duration(1, 1))


# Logs

_RAISES = """
from gateway.logs import configure_logging
import structlog
configure_logging("info", "console")
def fail(secret):
    raise ValueError("no")
try:
    fail("canary-" + "5f1c")
except ValueError:
    structlog.get_logger().exception("call_failed")
"""


def test_no_log_shows_what_a_function_was_given() -> None:
    """A traceback with the values of its variables has keys in it."""
    ran = subprocess.run(
        [sys.executable, "-c", _RAISES], capture_output=True, text=True, cwd=REPOSITORY, env=inherited(), timeout=60
    )
    shown = ran.stdout + ran.stderr
    assert "call_failed" in shown, json.dumps(shown)
    assert "canary-5f1c" not in shown
