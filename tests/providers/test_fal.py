"""fal: what it is asked, and what its answers become, over a socket and as plain functions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pytest

from gateway.catalog import Catalog, load_catalog
from gateway.config import Settings
from gateway.errors import RequestError
from gateway.images import read_image_request
from gateway.providers.base import UpstreamFailure, UpstreamRequest
from gateway.providers.fal import Fal
from gateway.providers.fal_images import FalImages, fal_call
from gateway.providers.translated import Untranslatable
from tests.providers.scripted_upstream import HANG_S, PATIENT, Peer, Upstream, passed

FIXTURES = Path(__file__).parents[1] / "fixtures" / "fal"
KEY = "6f1c7f0e-aaaa-bbbb-cccc-000000000000:0123456789abcdef0123456789abcdef"
SCHNELL = "fal-ai/flux/schnell"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

CATALOG = """
version = "1"

[providers.fal]
dialect = "fal"
base_url = "{base_url}"
api_key_env = "FAL_KEY"

[models."flux-schnell"]
provider = "fal"
upstream_model = "{model}"
endpoints = ["images"]
active = false
image_default = "1024x768/standard"

[models."flux-schnell".image_usd]
"1024x768" = 0.003
"""


def fixture(name: str) -> bytes:
    return (FIXTURES / f"{name}.json").read_bytes()


def asked(kind: Any = "generations", model: str = SCHNELL, **fields: Any) -> dict[str, Any]:
    """The body fal gets."""
    return dict(orjson.loads(fal_call(kind, {"model": model, "prompt": "a cat", **fields}).body))


def refused(kind: Any = "generations", **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        asked(kind, **fields)
    assert caught.value.status == 400
    return caught.value


def answered(name: str, prompt: str = "a cat") -> dict[str, Any]:
    return dict(orjson.loads(FalImages(prompt, created=1_800_000_000).whole(fixture(name))))


# What is asked


def test_a_plain_request_says_the_prompt_and_that_urls_are_wanted() -> None:
    assert asked() == {"prompt": "a cat", "sync_mode": False}


def test_every_field_fal_knows_is_said_in_its_words() -> None:
    sent = asked(
        n=2,
        size="1024x768",
        response_format="b64_json",
        output_format="jpeg",
        seed=7,
        negative_prompt="dogs",
        guidance_scale=3.5,
    )
    assert sent == {
        "prompt": "a cat",
        "num_images": 2,
        "image_size": {"width": 1024, "height": 768},
        "sync_mode": True,
        "output_format": "jpeg",
        "seed": 7,
        "negative_prompt": "dogs",
        "guidance_scale": 3.5,
    }


@pytest.mark.parametrize("preset", ["square_hd", "landscape_16_9"])
def test_a_preset_of_fal_is_a_size(preset: str) -> None:
    assert asked(size=preset)["image_size"] == preset


def test_a_size_left_to_the_model_is_not_sent() -> None:
    assert "image_size" not in asked(size="auto")


@pytest.mark.parametrize(
    "size", ["big", "0x10", "10x0", "1024", "1024X768", "14143x10", "99999x99999", "-1x5", "1x2x3", 5]
)
def test_a_size_that_is_none_is_refused(size: object) -> None:
    assert refused(size=size).param == "size"


def test_what_asks_for_nothing_special_or_is_for_the_books_is_dropped() -> None:
    harmless = {
        "quality": "standard",
        "background": "opaque",
        "moderation": "auto",
        "output_compression": 100,
        "stream": False,
        "style": None,
        "user": "u1",
        "metadata": {"a": "b"},
    }
    assert asked(**harmless) == asked()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quality", "hd"),
        ("style", "vivid"),
        ("background", "transparent"),
        ("moderation", "low"),
        ("output_compression", 50),
        ("stream", True),
        ("partial_images", 2),
        ("num_inference_steps", 50),
        ("enable_safety_checker", False),
        ("acceleration", "high"),
        ("loras", []),
        ("image", "https://images.example/a.png"),
        ("sync_mode", True),
    ],
)
def test_what_fal_cannot_be_told_or_nobody_may_tell_it_is_refused_and_named(field: str, value: object) -> None:
    error = refused(**{field: value})
    assert (error.code, error.param) == ("unsupported_parameter", field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", "png"),
        ("output_format", "svg"),
        ("output_format", ["png"]),
        ("seed", 1.5),
        ("seed", True),
        ("negative_prompt", 3),
        ("guidance_scale", "3"),
        ("guidance_scale", True),
        ("prompt", ""),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_and_named(field: str, value: object) -> None:
    assert refused(**{field: value}).param == field


def test_an_unprintable_field_name_is_not_repeated() -> None:
    assert "\n" not in refused(**{"a\nb": 1}).message


@pytest.mark.parametrize(
    "model",
    [
        "",
        "/",
        "fal-ai//flux",
        "/fal-ai/flux",
        "fal-ai/flux/",
        "../admin",
        "fal-ai/../admin",
        "fal-ai/./flux",
        "fal-ai/.hidden",
        "fal-ai/fl ux",
        "fal-ai/flux?x=1",
        "fal-ai/flux#x",
        "fal-ai/%2e%2e/x",
        "fal-ai/flux\r\nx-evil: 1",
        "https://evil.example/x",
        "fal-ai/flüx",
        "a" * 201,
        None,
        7,
    ],
)
def test_a_model_id_that_is_no_plain_path_is_never_dialled(model: object) -> None:
    with pytest.raises(UpstreamFailure) as caught:
        fal_call("generations", {"model": model, "prompt": "a cat"})
    assert not caught.value.is_sent


def test_a_version_in_a_model_id_is_fine() -> None:
    assert fal_call("generations", {"model": "fal-ai/flux-pro/v1.1", "prompt": "x"}).path == "/fal-ai/flux-pro/v1.1"


def test_what_is_to_be_edited_goes_out_as_urls_which_fal_reads_itself() -> None:
    data = f"data:image/png;base64,{PIXEL}"
    one = asked("edits", model="fal-ai/flux-pro/kontext", images=[{"image_url": data}], mask={"image_url": data})
    assert (one["image_url"], one["mask_url"]) == (data, data)
    web = "https://images.example/a.png?sig=1"
    several = asked("edits", model="fal-ai/flux-2/edit", image=[web, data])
    assert several["image_urls"] == [web, data]


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(None, id="none"),
        pytest.param([], id="an empty list"),
        pytest.param([{"image_url": f"https://images.example/{n}.png"} for n in range(17)], id="too many"),
        pytest.param([{"image_url": "http://images.example/a.png"}], id="not encrypted"),
        pytest.param([{"image_url": "file:///etc/passwd"}], id="a file"),
        pytest.param([{"image_url": "data:text/html;base64,AAAA"}], id="no image"),
        pytest.param([{"image_url": "https://images.example/a b"}], id="no URL"),
        pytest.param([{"file_id": "file-1"}], id="a file id"),
        pytest.param([7], id="a number"),
    ],
)
def test_what_is_no_picture_is_not_edited(images: object) -> None:
    assert refused("edits", model="fal-ai/flux-2/edit", images=images).param == "images"


def test_a_model_that_edits_one_picture_gets_one() -> None:
    pictures = [{"image_url": "https://images.example/a.png"}] * 2
    assert "one image" in refused("edits", model="fal-ai/flux-pro/kontext", images=pictures).message


# What is answered


def test_urls_are_handed_on_as_urls() -> None:
    assert answered("flux_schnell_urls") == {
        "created": 1_800_000_000,
        "data": [
            {"url": "https://v3.fal.media/files/rabbit/YYbm6L3DaXYHDL1_A4OaL.jpeg"},
            {"url": "https://v3.fal.media/files/koala/b2kTn8qJ7Qm1yVv0cZ4Xw.jpeg"},
        ],
    }


def test_data_uris_become_base64() -> None:
    assert answered("flux_schnell_data_uris")["data"] == [{"b64_json": PIXEL}]


def test_a_blanked_image_is_an_entry_without_an_image() -> None:
    assert answered("blanked")["data"] == [{}, {"url": "https://v3.fal.media/files/rabbit/fine.jpeg"}]


def test_a_single_image_and_the_prompt_it_was_made_of_are_understood() -> None:
    url = "https://v3.fal.media/files/lion/avatar.png"
    assert answered("one_image")["data"] == [{"url": url, "revised_prompt": "a cat, in soft light"}]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"images": {}}',
        b'{"images": [{"url": "javascript:alert(1)"}]}',
        b'{"images": [{"url": "data:text/html,hi"}]}',
        b'{"images": [{"url": "https://x.example/\\n"}]}',
    ],
)
def test_what_holds_no_images_is_no_answer(body: bytes) -> None:
    with pytest.raises(Untranslatable):
        FalImages("a cat", created=0).whole(body)


def test_an_entry_without_a_url_is_kept_as_one_without_an_image() -> None:
    body = b'{"images": [null, {"width": 1}], "has_nsfw_concepts": "?"}'
    assert orjson.loads(FalImages("a cat", created=0).whole(body))["data"] == [{}, {}]


@pytest.mark.parametrize(
    ("name", "status", "error"),
    [
        (
            "validation_error",
            422,
            {
                "message": "size: Input should be less than or equal to 14142 n: Input should be less than or equal to 4",
                "type": "invalid_request_error",
                "param": "size",
                "code": "less_than_equal",
            },
        ),
        (
            "runner_error",
            503,
            {"message": "Runner disconnected", "type": "server_error", "param": None, "code": "runner_disconnected"},
        ),
    ],
)
def test_a_refusal_is_told_in_openais_words(name: str, status: int, error: dict[str, Any]) -> None:
    assert orjson.loads(FalImages("a cat", created=0).refusal(status, fixture(name))) == {"error": error}


def test_what_was_sent_is_not_repeated_by_a_refusal() -> None:
    told = FalImages("a cat", created=0).refusal(422, fixture("content_policy_violation"))
    assert b"SECRET-PROMPT" not in told
    assert orjson.loads(told)["error"]["code"] == "content_policy_violation"


@pytest.mark.parametrize(
    "body", [b"", b"<html>nginx</html>", b"[]", b'{"detail": [7]}', b'{"detail": {"a": 1}}', b"{}"]
)
def test_an_unreadable_refusal_is_still_one(body: bytes) -> None:
    error = orjson.loads(FalImages("a cat", created=0).refusal(429, body))["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", None, None)
    assert "<" not in error["message"]


# Over a socket


class Seen:
    """Every request, head and body, as it came."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.bodies: list[Any] = []


@asynccontextmanager
async def fal_on(answer: bytes, status: str = "200 OK") -> AsyncIterator[tuple[Fal, Seen]]:
    seen = Seen()

    async def script(peer: Peer) -> None:
        while True:
            head = (await peer.reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
            seen.heads.append(head)
            seen.bodies.append(orjson.loads(await peer.reader.readexactly(length)))
            first = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n"
            await peer.send(f"{first}x-fal-request-id: r1\r\n\r\n".encode() + answer)

    async with asyncio.timeout(HANG_S), Upstream(script) as upstream:
        base_url = f"http://127.0.0.1:{upstream.origin.port}"
        row = catalog_of(base_url).providers["fal"]
        provider = Fal(row, KEY, Settings())
        try:
            yield provider, seen
        finally:
            await provider.close()


@cache
def catalog_of(base_url: str) -> Catalog:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pricing.toml"
        path.write_text(CATALOG.format(base_url=base_url, model=SCHNELL))
        return load_catalog(path)


def upstream_request(path: str = "/images/generations", **changes: Any) -> UpstreamRequest:
    body = orjson.dumps({"model": SCHNELL, "prompt": "a cat", **changes.pop("fields", {})})
    return UpstreamRequest(path, body, False, PATIENT, "req_1")._replace(**changes)


async def whole(provider: Fal, request: UpstreamRequest) -> tuple[int, dict[str, str], Any]:
    exchange = await provider.open(request, passed())
    try:
        pieces = []
        while piece := await exchange.read():
            pieces.append(piece)
        return exchange.status, exchange.headers, orjson.loads(b"".join(pieces))
    finally:
        exchange.close()


async def test_a_call_goes_to_the_models_own_path_with_fals_kind_of_key() -> None:
    async with fal_on(fixture("flux_schnell_urls")) as (provider, seen):
        status, headers, answer = await whole(provider, upstream_request(headers=(("x-fal-queue-priority", "high"),)))
    assert (status, headers["content-type"]) == (200, "application/json")
    assert len(answer["data"]) == 2
    (head,) = seen.heads
    assert head.startswith(f"POST /{SCHNELL} HTTP/1.1\r\n")
    assert f"\r\nauthorization: Key {KEY}\r\n" in head
    assert "x-fal-queue-priority" not in head
    assert seen.bodies == [{"prompt": "a cat", "sync_mode": False}]


async def test_a_refusal_keeps_its_status_and_gets_openais_shape() -> None:
    async with fal_on(fixture("not_authenticated"), "401 Unauthorized") as (provider, _):
        status, headers, answer = await whole(provider, upstream_request())
    assert status == 401
    assert headers["x-request-id"] == "r1"
    assert "Authentication is required" in answer["error"]["message"]


async def test_an_answer_without_images_is_a_failure_after_all_was_sent() -> None:
    async with fal_on(b"{}") as (provider, _):
        with pytest.raises(UpstreamFailure) as caught:
            await whole(provider, upstream_request())
    assert (caught.value.kind, caught.value.is_fully_sent) == ("invalid", True)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(upstream_request("/chat/completions"), id="chat"),
        pytest.param(upstream_request("/images/variations"), id="variations"),
        pytest.param(upstream_request(is_streaming=True), id="a stream"),
        pytest.param(upstream_request("/images/edits", content_type="multipart/form-data; boundary=x"), id="a form"),
        pytest.param(upstream_request(fields={"quality": "hd"}), id="a field"),
    ],
)
async def test_what_cannot_be_asked_of_fal_never_leaves(request_: UpstreamRequest) -> None:
    gate = asyncio.get_running_loop().create_future()
    async with fal_on(b"{}") as (provider, seen):
        with pytest.raises(RequestError):
            await provider.open(request_, gate)
    assert seen.heads == []
    assert not gate.done()


async def test_images_that_came_are_what_a_call_costs() -> None:
    model = catalog_of("https://fal.run").models["flux-schnell"]
    request = read_image_request(orjson.dumps({"model": "flux-schnell", "prompt": "a cat", "n": 2}))
    row = catalog_of("https://fal.run").providers["fal"]
    both = request.meter(answered("flux_schnell_urls"), model, row)
    one = request.meter(answered("blanked"), model, row)
    assert both is not None
    assert one is not None
    # 0.003 USD an image, by hand.
    assert (both.cost_nano_usd, both.images) == (6_000_000, 2)
    assert (one.cost_nano_usd, one.images) == (3_000_000, 1)
