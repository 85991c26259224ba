"""Images and embeddings of Gemini and fal over wire bytes: OpenAI's shape for the client, exact amounts in the books."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.rig import wire
from tests.rig.client import Answer
from tests.rig.gateway import Gateway, Key, prompt
from tests.rig.upstream import Script, Send, Upstream

FIXTURES = Path(__file__).parents[1] / "fixtures"
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def fixture(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


@pytest.fixture
def dia_key(dialects: Gateway) -> Key:
    return dialects.new_key()


async def draw(gateway: Gateway, key: Key, script: Script, model: str, **fields: Any) -> Answer:
    body = {"model": model, "prompt": prompt(script), **fields}
    return await gateway.post(key, body, path="/v1/images/generations")


# fal


async def test_fal_draws_by_the_piece(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    script = upstream.reply(fixture("fal/flux_schnell_urls.json"), headers=[("x-fal-request-id", "fal-1")])
    answer = await draw(dialects, dia_key, script, "dia-flux", n=2, size="1024x768")
    assert answer.status == 200, answer
    assert [entry["url"].rpartition("/")[2] for entry in answer.json["data"]] == [
        "YYbm6L3DaXYHDL1_A4OaL.jpeg",
        "b2kTn8qJ7Qm1yVv0cZ4Xw.jpeg",
    ]
    assert script.request.line == "POST /v1/fal-ai/flux/schnell HTTP/1.1"
    assert script.request.header_values("authorization") == [f"Key {dialects.provider_key}"]
    assert script.request.json == {
        "prompt": prompt(script),
        "num_images": 2,
        "image_size": {"width": 1024, "height": 768},
        "sync_mode": False,
    }
    entry = dialects.entry(dia_key)
    # 0.003 dollars each
    assert (entry["images"], entry["cost_nano_usd"], entry["outcome"]) == (2, 2 * 3_000_000, "ok")


async def test_an_image_that_fal_blanked_is_not_paid(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    script = upstream.reply(fixture("fal/blanked.json"))
    answer = await draw(dialects, dia_key, script, "dia-flux", n=2)
    assert [bool(entry.get("url")) for entry in answer.json["data"]] == [False, True]
    assert dialects.entry(dia_key)["cost_nano_usd"] == 3_000_000


async def test_fal_gives_base64_where_it_is_asked_for(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    script = upstream.reply(fixture("fal/flux_schnell_data_uris.json"))
    answer = await draw(dialects, dia_key, script, "dia-flux", response_format="b64_json")
    assert base64.b64decode(answer.json["data"][0]["b64_json"]).startswith(b"\x89PNG")
    assert script.request.json["sync_mode"] is True
    assert dialects.entry(dia_key)["cost_nano_usd"] == 3_000_000


async def test_fal_edits_an_image_given_as_data(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    script = upstream.reply(fixture("fal/one_image.json"))
    body = {"model": "dia-kontext", "prompt": prompt(script), "images": [{"image_url": PIXEL}]}
    answer = await dialects.post(dia_key, body, path="/v1/images/edits")
    assert answer.status == 200, answer
    assert script.request.json["image_url"] == PIXEL
    assert script.request.line == "POST /v1/fal-ai/flux-pro/kontext HTTP/1.1"
    entry = dialects.entry(dia_key)
    assert (entry["images"], entry["cost_nano_usd"]) == (1, 40_000_000)


@pytest.mark.parametrize(
    ("status", "name", "told_status", "told_code"),
    [
        pytest.param(401, "not_authenticated.json", 502, "provider_unavailable", id="key"),
        pytest.param(422, "validation_error.json", 422, "less_than_equal", id="invalid"),
        pytest.param(422, "content_policy_violation.json", 422, "content_policy_violation", id="policy"),
        pytest.param(503, "runner_error.json", 503, "runner_disconnected", id="failure"),
    ],
)
async def test_fals_refusals_cost_nothing_and_repeat_no_prompt(
    dialects: Gateway,
    upstream: Upstream,
    dia_key: Key,
    status: int,
    name: str,
    told_status: int,
    told_code: str,
) -> None:
    script = upstream.reply(fixture(f"fal/{name}"), status)
    answer = await draw(dialects, dia_key, script, "dia-flux")
    assert (answer.status, answer.error["code"]) == (told_status, told_code), answer
    assert b"SECRET-PROMPT" not in answer.body
    entry = dialects.entry(dia_key)
    assert (entry["cost_nano_usd"], entry["outcome"]) == (0, "upstream_refused")


async def test_fals_rate_limit_tells_the_wait(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    script = upstream.reply({"detail": "Too many requests"}, 429, [("retry-after", "3")])
    answer = await draw(dialects, dia_key, script, "dia-flux")
    assert (answer.status, answer.header("retry-after"), answer.error["type"]) == (429, "3", "rate_limit_error")


@pytest.mark.parametrize(("field", "value"), [("quality", "hd"), ("stream", True), ("background", "transparent")])
async def test_what_fal_cannot_be_told_is_refused_before_it_is_asked(
    dialects: Gateway, upstream: Upstream, dia_key: Key, field: str, value: object
) -> None:
    script = upstream.reply(fixture("fal/flux_schnell_urls.json"))
    answer = await draw(dialects, dia_key, script, "dia-flux", **{field: value})
    assert answer.status == 400, answer
    assert answer.error["param"] == (None if field == "stream" else field)
    assert script.requests == []


# Gemini


async def test_gemini_draws_by_the_token(dialects: Gateway, upstream: Upstream, dia_key: Key) -> None:
    """9 of words, 1 120 of an image; 4 more of words and 150 of thought, which this model's row has for output of text."""
    script = upstream.reply(fixture("gemini/image.json"))
    answer = await draw(dialects, dia_key, script, "dia-gemini-image")
    assert answer.status == 200, answer
    assert [entry["b64_json"] for entry in answer.json["data"]] == ["aVZCT1J3MEtHZ289"]
    assert script.request.line == "POST /v1/models/gemini-3.1-flash-image:generateContent HTTP/1.1"
    entry = dialects.entry(dia_key)
    assert (entry["input_tokens"], entry["image_output_tokens"], entry["output_tokens"]) == (9, 1_120, 1_120 + 154)
    assert entry["cost_nano_usd"] == 9 * 5_000 + 1_120 * 40_000 + 154 * 30_000


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_gemini_embeds(dialects: Gateway, upstream: Upstream, dia_key: Key, encoding: str) -> None:
    script = upstream.reply(fixture("gemini/embeddings.json"))
    body = {"model": "dia-gemini-embedding", "input": [prompt(script), "Tee"], "encoding_format": encoding}
    answer = await dialects.post(dia_key, body, path="/v1/embeddings")
    assert answer.status == 200, answer
    vectors = [entry["embedding"] for entry in answer.json["data"]]
    if encoding == "base64":
        vectors = [list(struct.unpack("<3f", base64.b64decode(vector))) for vector in vectors]
    assert vectors == [[0.5, -0.25, 1], [0.125, 0, -2]]
    assert script.request.line == "POST /v1/models/gemini-embedding-001:batchEmbedContents HTTP/1.1"
    entry = dialects.entry(dia_key)
    # 0.15 dollars a million
    assert (entry["input_tokens"], entry["cost_nano_usd"], entry["usage_source"]) == (8, 8 * 150, "provider")


@pytest.mark.parametrize("model", ["dia-gemini-image", "dia-gemini-embedding"])
async def test_geminis_refusals_of_media_cost_nothing(
    dialects: Gateway, upstream: Upstream, dia_key: Key, model: str
) -> None:
    error = json.loads(fixture("gemini/error_quota.json"))
    error["error"]["message"] += f" {dialects.provider_key}"
    script = upstream.script(Send(wire.reply(error, 429, [("retry-after", "4")])))
    if model == "dia-gemini-image":
        answer = await draw(dialects, dia_key, script, model)
    else:
        answer = await dialects.post(dia_key, {"model": model, "input": prompt(script)}, path="/v1/embeddings")
    assert (answer.status, answer.header("retry-after")) == (429, "4")
    assert answer.error["code"] == "rate_limit_exceeded"
    assert dialects.provider_key not in str(answer)
    assert dialects.entry(dia_key)["cost_nano_usd"] == 0
