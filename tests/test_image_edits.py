"""Editing and varying images: forms and JSON, what is refused, what is held, and how a form is written anew."""

import json
from typing import Any

import pytest

from gateway.attribution import read_labels
from gateway.catalog import Model, Price, ProviderRow
from gateway.endpoints.image_edits import ImageEdits
from gateway.endpoints.image_variations import ImageVariations
from gateway.endpoints.images import ImageEndpoint, ImageGenerations
from gateway.errors import RequestError
from gateway.image_edits import (
    ImageEditRequest,
    ImageVariationRequest,
    read_image_edit_form,
    read_image_edit_request,
    read_image_variation_form,
)
from gateway.images import ImageRequest
from gateway.model_request import ModelRequest, Outgoing
from gateway.multipart import FilePart, Form, dump_form, read_form
from gateway.relay import Guard
from gateway.usage import Usage

ROW = ProviderRow("p", "openai")
WORD, IMAGE, OUTPUT = 5_000, 8_000, 30_000  # nano-dollars a token of MODEL
MODEL = Model(
    "m",
    "p",
    "upstream-m",
    frozenset({"image_edits", "image_variations"}),
    Price("1", input=WORD * 1_000, image_input=IMAGE * 1_000, image_output=OUTPUT * 1_000),
    image_output_tokens_max=1_000,
)
CENT = 10**7  # nano-dollars
BY_IMAGE = Model("m", "p", "upstream-m", frozenset({"image_edits"}), Price("2", images={"*/*": 4 * CENT * 1_000}))
PNG = b"\x89PNG\r\n\x1a\n\x00\xff--boundary\r\n"
PICTURE = FilePart("image", "fox.png", "image/png", PNG)
MASK = FilePart("mask", "", "image/png", b"mask")
PROMPT = "A red fox"


def form(*files: FilePart, **fields: Any) -> Form:
    given = {"model": "m", "prompt": PROMPT, **fields}
    return Form([(name, value) for name, value in given.items() if value is not None], list(files or (PICTURE,)))


def asked(*files: FilePart, **fields: Any) -> ImageEditRequest:
    return read_image_edit_form(form(*files, **fields))


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": PROMPT, **fields}).encode()


async def read(data: bytes, content_type: str, endpoint: type[ImageEndpoint]) -> ImageRequest:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": data, "more_body": False}

    path = endpoint(None, 2**20)  # type: ignore[arg-type]
    return await path.read([(b"content-type", content_type.encode())], receive)


async def read_again(outgoing: Outgoing) -> Form:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": outgoing.body, "more_body": False}

    return await read_form([(b"content-type", outgoing.content_type.encode())], receive, bytes_max=2**20)


# Refusals


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        pytest.param({"model": None}, "missing_required_parameter", "model", id="no model"),
        pytest.param({"prompt": None}, "missing_required_parameter", "prompt", id="no prompt"),
        pytest.param({"prompt": ""}, "missing_required_parameter", "prompt", id="an empty prompt"),
        *(
            pytest.param({"n": value}, "invalid_value", "n", id=f"n {value}")
            for value in ("0", "11", "two", "1.0", "-1", "9" * 30)
        ),
        pytest.param({"stream": "yes"}, "invalid_value", "stream", id="stream"),
        pytest.param({"stream": "true", "n": "2"}, "invalid_value", "n", id="a stream of two"),
        pytest.param({"partial_images": "4"}, "invalid_value", "partial_images", id="partial images"),
        pytest.param({"size": "a b"}, "invalid_value", "size", id="size"),
        pytest.param({"quality": "*"}, "invalid_value", "quality", id="quality"),
        pytest.param({"output_format": "gif"}, "unpriced_feature", "output_format", id="a moving picture"),
        pytest.param({"svg[model]": "x"}, "unpriced_feature", "svg", id="a drawing"),
        pytest.param({"num_images": "4"}, "unpriced_feature", "num_images", id="another word for n"),
        pytest.param({"service_tier": "priority"}, "unpriced_feature", "service_tier", id="a dearer tier"),
        pytest.param({"api_base": "x"}, "unsupported_parameter", "api_base", id="api_base"),
        pytest.param({"extra_headers[x]": "x"}, "unsupported_parameter", "extra_headers", id="steering in brackets"),
    ],
)
def test_a_form_is_refused_with_what_to_change(fields: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        asked(**fields)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


@pytest.mark.parametrize("files", [(MASK,), (FilePart("markup", "", "image/png", b"x"),)])
def test_without_an_image_there_is_nothing_to_edit_or_vary(files: tuple[FilePart, ...]) -> None:
    for read_one in (read_image_edit_form, read_image_variation_form):
        with pytest.raises(RequestError) as caught:
            read_one(form(*files))
        assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "image")


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        pytest.param(b"", "invalid_json", None, id="empty"),
        pytest.param(body(), "missing_required_parameter", "image", id="no image"),
        pytest.param(body(images=[]), "missing_required_parameter", "image", id="an empty list"),
        pytest.param(body(mask={"image_url": "x"}), "missing_required_parameter", "image", id="only a mask"),
        pytest.param(body(images=[{"file_id": "file-1"}]), "unsupported_parameter", "images", id="a file"),
        pytest.param(
            body(images=[{"image_url": "x"}], mask={"file_id": "file-1"}), "unsupported_parameter", "mask", id="a mask"
        ),
        pytest.param(body(images=[{"image_url": "x"}], frame_count=2), "unpriced_feature", "frame_count", id="frames"),
        pytest.param(body(images=[{"image_url": "x"}], n="2"), "invalid_value", "n", id="a number as text"),
    ],
)
def test_a_json_body_is_refused_with_what_to_change(raw: bytes, code: str, param: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        read_image_edit_request(raw)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_a_field_given_twice_is_refused_where_one_is_looked_at() -> None:
    twice = form()
    twice.fields.append(("model", "dearer"))
    with pytest.raises(RequestError) as caught:
        read_image_edit_form(twice)
    assert caught.value.param == "model"


# What a model is asked


def test_they_answer_as_model_requests() -> None:
    edit: ModelRequest = asked(n="3")
    assert (edit.endpoint, edit.path, edit.images) == ("image_edits", "/images/edits", 3)
    assert edit.serves(MODEL)
    variation: ModelRequest = read_image_variation_form(form(prompt=None, n="2"))
    assert (variation.endpoint, variation.path, variation.images) == ("image_variations", "/images/variations", 2)
    assert variation.serves(MODEL)
    assert not variation.serves(BY_IMAGE)


def test_every_file_is_held_as_the_dearest_image() -> None:
    request = asked(PICTURE, PICTURE._replace(name="image[]"), MASK, n="2")
    assert request.references == 3
    most = (len(PROMPT) + 32 + 3 * 8_000) * IMAGE + 2 * 1_000 * OUTPUT
    assert request.worst_case(MODEL, MODEL.price) == most
    usage = Usage(uncached_input=3, image_input=3 * 4_354, image_output=2_000, pieces=2)
    assert request.unfinished_usage(MODEL) == usage
    found = request.meter_unanswered(MODEL)
    assert found.cost_nano_usd == 3 * WORD + 3 * 4_354 * IMAGE + 2_000 * OUTPUT < most


def test_by_the_image_files_cost_nothing_beside_it() -> None:
    request = asked(PICTURE, MASK, n="2")
    assert request.worst_case(BY_IMAGE, BY_IMAGE.price) == 8 * CENT
    found = request.meter({"data": [{"b64_json": "x"}]}, BY_IMAGE, ROW)
    assert found is not None
    assert (found.cost_nano_usd, found.images) == (4 * CENT, 1)


def test_the_report_counts_words_and_images_at_their_own_rates() -> None:
    usage = {
        "input_tokens": 330,
        "output_tokens": 272,
        "total_tokens": 602,
        "input_tokens_details": {"text_tokens": 7, "image_tokens": 323},
    }
    request = asked()
    found = request.meter({"data": [{"b64_json": "x"}], "usage": usage}, MODEL, ROW)
    assert found is not None
    assert found.cost_nano_usd == 7 * WORD + 323 * IMAGE + 272 * OUTPUT <= request.worst_case(MODEL, MODEL.price)
    assert (found.source, found.images) == ("provider", 1)


@pytest.mark.parametrize("endpoint", ["image_edits", "image_variations"])
def test_a_row_needs_the_prices_of_both_ways(endpoint: str) -> None:
    assert MODEL.missing_prices(endpoint) == ()
    assert BY_IMAGE.missing_prices(endpoint) == ()
    bare = Model("m", "p", "m", frozenset({endpoint}), Price("3", input=1))
    assert bare.missing_prices(endpoint) == (
        "image_input_usd_per_mtok",
        "image_output_usd_per_mtok",
        "image_output_tokens_max",
    )


# What is sent


async def test_a_form_is_written_anew_with_its_files_as_they_came() -> None:
    request = asked(
        PICTURE, MASK, n="2", stream="false", size="1024x1024", background="opaque", output_compression="80", seed="7"
    )
    again = await read_again(request.outgoing(MODEL, ROW))
    assert again.fields == [
        ("model", "upstream-m"),
        ("prompt", PROMPT),
        ("n", "2"),
        ("stream", "false"),
        ("size", "1024x1024"),
        ("background", "opaque"),
        ("output_compression", "80"),
        ("seed", "7"),
    ]
    assert again.files == [PICTURE, MASK]


async def test_lists_urls_and_empty_values_in_a_form() -> None:
    given = form(n="", stream="", partial_images="")
    given.files.clear()
    given.fields += [("image[]", "https://example.test/a.png"), ("image[]", "https://example.test/b.png")]
    request = read_image_edit_form(given)
    assert (request.references, request.images, request.is_streaming) == (2, 1, False)
    again = await read_again(request.outgoing(MODEL, ROW))
    assert again.fields[2:] == given.fields[-2:]


async def test_labels_are_taken_out_of_a_forms_metadata() -> None:
    request = asked(**{"metadata[feature]": "covers", "metadata[series]": "foxes"})
    assert read_labels({}, request.body).feature == "covers"
    again = await read_again(request.outgoing(MODEL, ROW))
    assert again.fields[2:] == [("metadata[series]", "foxes")]


def test_json_stays_json() -> None:
    images = [{"image_url": "https://example.test/a.png"}, {"image_url": "data:image/png;base64,AAAA"}]
    request = read_image_edit_request(body(images=images, mask={"image_url": "x"}, n=2))
    outgoing = request.outgoing(MODEL, ROW)
    assert outgoing.content_type == "application/json"
    sent = json.loads(outgoing.body)
    assert sent == {"model": "upstream-m", "prompt": PROMPT, "images": images, "mask": {"image_url": "x"}, "n": 2}
    assert request.references == 3


def test_an_edit_streams_and_a_variation_never_does() -> None:
    request = asked(stream="true", partial_images="2")
    assert (request.is_streaming, request.partial_images) == (True, 2)
    assert request.outgoing(MODEL, ROW).is_streaming
    assert request.unfinished_usage(MODEL).image_output == 1_200
    guard = Guard(1_000, lambda data: data)
    assert request.relay("text/event-stream", MODEL, ROW, guard) is not None
    variation = read_image_variation_form(form(stream="true", partial_images="2", prompt=None))
    assert not variation.is_streaming
    assert variation.body.keys() == {"model"}


# The endpoints


async def test_an_edit_is_read_from_a_form_or_from_json() -> None:
    data, content_type = dump_form([("model", "m"), ("prompt", PROMPT)], [PICTURE])
    from_form = await read(data, content_type, ImageEdits)
    assert isinstance(from_form, ImageEditRequest)
    assert from_form.files == (PICTURE,)
    from_json = await read(body(images=[{"image_url": "x"}]), "Application/JSON; charset=utf-8", ImageEdits)
    assert isinstance(from_json, ImageEditRequest)
    assert not from_json.is_form
    variation = await read(data, content_type, ImageVariations)
    assert isinstance(variation, ImageVariationRequest)


@pytest.mark.parametrize(
    ("endpoint", "content_type"),
    [(ImageEdits, "text/plain"), (ImageEdits, ""), (ImageVariations, "application/json")],
)
async def test_another_content_type_is_refused(endpoint: type[ImageEndpoint], content_type: str) -> None:
    with pytest.raises(RequestError) as caught:
        await read(body(images=[{"image_url": "x"}]), content_type, endpoint)
    assert caught.value.status == 415


async def test_a_form_above_the_bound_is_refused() -> None:
    data, content_type = dump_form([("model", "m")], [PICTURE._replace(data=b"x" * 2**20)])
    with pytest.raises(RequestError) as caught:
        await read(data, content_type, ImageEdits)
    assert caught.value.status == 413


class Shelf:
    def keeper(self, body: object) -> "Shelf":
        return self

    async def keep(self, answered: object, request: object) -> bytes | None:
        return None


async def test_every_path_hands_over_where_images_are_kept() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body(images=[{"image_url": "x"}]), "more_body": False}

    shelf = Shelf()
    headers = [(b"content-type", b"application/json")]
    for path in (ImageGenerations, ImageEdits):
        request = await path(None, 2**20, shelf).read(headers, receive)  # type: ignore[arg-type]
        assert request.keeper is shelf
        assert request.keeps_state
