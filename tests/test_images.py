"""An image request: what is refused, what it costs before and after, and what the provider is sent."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.attribution import read_labels
from gateway.catalog import Model, Price, ProviderRow
from gateway.errors import RequestError
from gateway.images import ImageRequest, read_image_request
from gateway.model_request import Answered, ModelRequest
from gateway.pricing import UnpricedUsage, charged_price, cost_nano_usd
from gateway.usage import Usage

ROW = ProviderRow("p", "openai")
CENT = 10**7  # nano-dollars
PICO = 10**3  # per nano-dollar


def model(name: str, price: Price, **fields: Any) -> Model:
    return Model(name, "p", f"upstream-{name}", frozenset({"images"}), price, **fields)


PREMIUM = model(
    "premium",
    Price(
        "1",
        images={
            "1024x1024/standard": 4 * CENT * PICO,
            "1024x1024/hd": 8 * CENT * PICO,
            "1024x1792/hd": 12 * CENT * PICO,
        },
    ),
    image_default="1024x1024/standard",
)
FLAT = model("flat", Price("2", images={"*/*": 3 * CENT * PICO // 10}))
SQUARE = model(
    "square",
    Price("3", images={"512x512/*": CENT * PICO, "1024x1024/*": 2 * CENT * PICO}),
    image_default="512x512/standard",
)
BY_TOKENS = model(
    "tokens",
    Price("4", input=5_000_000, cached_input=1_250_000, image_input=8_000_000, image_output=30_000_000),
    image_output_tokens_max=1_000,
)
INPUT, OUTPUT = 5_000, 30_000  # nano-dollars a token of BY_TOKENS
PROMPT = "A red fox"
IMAGE = {"b64_json": "iVBORw0KGgo="}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "premium", "prompt": PROMPT, **fields}).encode()


def asked(**fields: Any) -> ImageRequest:
    return read_image_request(body(**fields))


def answer(*data: Any, **fields: Any) -> dict[str, Any]:
    return {"created": 1, "data": list(data), **fields}


def report(text: int, output: int, **fields: Any) -> dict[str, Any]:
    return {
        "input_tokens": text,
        "output_tokens": output,
        "total_tokens": text + output,
        "input_tokens_details": {"text_tokens": text, "image_tokens": 0},
        **fields,
    }


def sent(request: ImageRequest, to: Model = PREMIUM) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(request.outgoing(to, ROW).body)
    return parsed


# Refusals


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        pytest.param(b"", "invalid_json", None, id="empty"),
        pytest.param(b"{", "invalid_json", None, id="cut"),
        pytest.param(b"[]", "invalid_value", "body", id="a list"),
        pytest.param(b'"a red fox"', "invalid_value", "body", id="a string"),
        pytest.param(b"null", "invalid_value", "body", id="null"),
        pytest.param(b"[" * 100_000, "invalid_json", None, id="depth"),
        pytest.param(
            body(extra=0).replace(b"0", b"[" * 600 + b"]" * 600), "invalid_json", None, id="depth we can read"
        ),
        pytest.param(
            body(style=0).replace(b"0", b"[" * 600 + b"]" * 600), "invalid_json", None, id="depth in a known field"
        ),
        *(
            pytest.param(body(model=value), "missing_required_parameter", "model", id=f"model {value!r}")
            for value in (None, "", 5, ["premium"])
        ),
        pytest.param(b'{"model": "premium"}', "missing_required_parameter", "prompt", id="no prompt"),
        *(
            pytest.param(body(prompt=value), "missing_required_parameter", "prompt", id=f"prompt {value!r}")
            for value in (None, "", 5, ["A red fox"], {"text": "A red fox"}, True)
        ),
        *(
            pytest.param(body(n=value), "invalid_value", "n", id=f"n {value!r}")
            for value in (0, -1, 11, "2", 1.5, 1.0, True, False, [1], 2**70)
        ),
        *(
            pytest.param(body(**{field: value}), "invalid_value", field, id=f"{field} {str(value)[:8]!r}")
            for field in ("size", "quality")
            for value in ("x" * 5_000, "x" * 33, 1024, ["1024x1024"], "1024x1024/hd", "*", "a b", "\n", "größe")
        ),
        pytest.param(body(stream=True, n=2), "invalid_value", "n", id="a stream of two images"),
        pytest.param(body(stream="yes"), "invalid_value", "stream", id="stream is text"),
        *(
            pytest.param(body(partial_images=value), "invalid_value", "partial_images", id=f"partial images {value!r}")
            for value in (-1, 4, "2", 1.0, True)
        ),
        *(
            pytest.param(body(output_format=word), "unpriced_feature", "output_format", id=word)
            for word in ("gif", "svg")
        ),
        pytest.param(body(service_tier="priority"), "unpriced_feature", "service_tier", id="a dearer tier"),
        pytest.param(body(image={"file_id": "file-1"}), "unsupported_parameter", "image", id="a file of the operator"),
        pytest.param(body(images=["https://a.test/1.png"] * 65), "invalid_value", "image", id="65 references"),
        *(
            pytest.param(body(**{field: "x"}), "unsupported_parameter", field, id=field)
            for field in (
                "api_base",
                "api_key",
                "extra_headers",
                "user_config",
                "aws_region",
                "mock_response",
                "no-log",
            )
        ),
        *(
            pytest.param(body(**{field: 4}), "unpriced_feature", field, id=field)
            for field in (
                "num_images",
                "batch_size",
                "width",
                "height",
                "image_size",
                "resolution",
                "frame_count",
                "svg",
            )
        ),
    ],
)
def test_a_body_is_refused_with_what_to_change(raw: bytes, code: str, param: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        read_image_request(raw).outgoing(PREMIUM, ROW)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_a_large_body_of_very_many_values_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(RequestError) as caught:
        read_image_request(body(extra=0).replace(b"0", b"[" + b"0," * 1_100_000 + b"0]"))
    assert (caught.value.status, caught.value.code) == (413, "request_too_large")


@pytest.mark.parametrize("field", ["n", "size", "quality", "stream", "partial_images", "num_images", "width"])
def test_null_is_as_good_as_absent(field: str) -> None:
    request = asked(**{field: None})
    assert (request.images, request.size, request.quality) == (1, "", "")


# What a model is asked


def test_it_answers_as_a_model_request() -> None:
    request: ModelRequest = asked(n=3)
    assert (request.endpoint, request.path, request.images) == ("images", "/images/generations", 3)
    assert not request.is_streaming
    assert request.needs == frozenset()
    assert request.estimate(PREMIUM, PREMIUM.price).smallest is None
    assert request.clamp(PREMIUM, PREMIUM.price, 0) is None
    assert request.estimate(PREMIUM, PREMIUM.price).tokens == 3, "nine bytes of prompt"


@pytest.mark.parametrize(
    ("fields", "variant", "each"),
    [
        pytest.param({}, "1024x1024/standard", 4, id="the model's default"),
        pytest.param({"quality": "hd"}, "1024x1024/hd", 8, id="the default size"),
        pytest.param({"size": "1024x1792", "quality": "hd"}, "1024x1792/hd", 12, id="both named"),
    ],
)
@pytest.mark.parametrize("n", [1, 10])
def test_by_the_image_it_is_exact_before_the_call(fields: dict[str, Any], variant: str, each: int, n: int) -> None:
    request, price = asked(n=n, **fields), PREMIUM.price
    assert request.variant(PREMIUM) == variant
    assert request.worst_case(PREMIUM, price) == request.estimate(PREMIUM, price).expected == n * each * CENT
    assert request.unfinished_usage(PREMIUM) == Usage(pieces=n)


def test_a_creators_own_price_is_taken_for_the_models_size_and_quality() -> None:
    own = replace(PREMIUM.price, images={"*/*": CENT * PICO})
    assert asked(n=2, quality="hd").worst_case(PREMIUM, own) == 2 * CENT


OWN_PIECE = {"image:*/hd": 2 * CENT * PICO}


@pytest.mark.parametrize(
    ("fields", "own", "owed_each"),
    [
        pytest.param({"quality": "hd"}, OWN_PIECE, 2 * CENT, id="a price of its own by the piece"),
        pytest.param(
            {"quality": "hd"}, {**OWN_PIECE, "image_output": 1}, 2 * CENT, id="which goes before one by tokens"
        ),
        pytest.param({"quality": "low"}, OWN_PIECE, 2 * INPUT + 500 * OUTPUT, id="none for this quality"),
        pytest.param({}, {"image_output": 40_000 * PICO}, 2 * INPUT + 500 * 40_000, id="a price of its own by tokens"),
    ],
)
def test_what_costs_by_tokens_is_owed_once_and_never_above_the_hold(
    fields: dict[str, Any], own: dict[str, int], owed_each: int
) -> None:
    request, price = asked(model="tokens", n=2, **fields), charged_price(BY_TOKENS, own)
    metered = request.meter(answer(IMAGE, IMAGE, usage=report(4, 1_000)), BY_TOKENS, ROW)
    assert metered is not None
    assert metered.cost_nano_usd == 4 * INPUT + 1_000 * OUTPUT, "the catalog's, whatever is owed"
    owed = cost_nano_usd(metered.usage, price, metered.variant)
    assert owed == 2 * owed_each <= request.worst_case(BY_TOKENS, price)


@given(
    st.dictionaries(
        st.sampled_from(["image:*/*", "image:*/hd", "image:1x1/*", "input", "cached_input", "image_output"]),
        st.integers(0, 10**12),
    ),
    st.sampled_from(["", "1x1", "2x2"]),
    st.sampled_from(["", "hd"]),
    st.integers(1, 10),
    st.data(),
)
def test_nothing_a_model_can_report_is_owed_above_what_is_held_for_a_price_of_ones_own(
    own: dict[str, int], size: str, quality: str, n: int, data: st.DataObject
) -> None:
    request, price = asked(model="tokens", n=n, size=size, quality=quality), charged_price(BY_TOKENS, own)
    returned = data.draw(st.integers(0, n))
    said = data.draw(st.none() | st.builds(report, st.integers(0, len(PROMPT)), st.integers(0, 1_000 * n)))
    metered = request.meter(answer(*[IMAGE] * returned, usage=said), BY_TOKENS, ROW)
    assert metered is not None
    held = request.estimate(BY_TOKENS, price)
    for ended in (metered, request.meter_unanswered(BY_TOKENS)):
        assert cost_nano_usd(ended.usage, price, ended.variant) <= held.worst
    assert held.expected <= held.worst


def test_by_tokens_the_worst_case_is_a_token_a_byte_and_the_longest_images() -> None:
    request, price = asked(n=2, model="tokens", prompt="ü" * 50), BY_TOKENS.price
    assert request.variant(BY_TOKENS) == "auto/auto"
    assert request.worst_case(BY_TOKENS, price) >= 100 * INPUT + 2_000 * OUTPUT
    assert request.estimate(BY_TOKENS, price).expected == 25 * INPUT + 2_000 * OUTPUT
    assert request.unfinished_usage(BY_TOKENS) == Usage(uncached_input=25, image_output=2_000, pieces=2)


@given(st.text(min_size=1, max_size=200), st.integers(1, 10))
def test_by_tokens_nothing_a_model_can_report_within_its_bounds_is_above_the_worst_case(prompt: str, n: int) -> None:
    request = asked(model="tokens", prompt=prompt, n=n)
    most = report(len(prompt.encode()), 1_000 * n)
    metered = request.meter(answer(*[IMAGE] * n, usage=most), BY_TOKENS, ROW)
    assert metered is not None
    assert metered.source == "provider"
    assert metered.cost_nano_usd <= request.worst_case(BY_TOKENS, BY_TOKENS.price)


def test_the_context_bounds_the_input_and_unknown_fields_count_as_input() -> None:
    request, price = asked(model="tokens", prompt="x" * 10_000), BY_TOKENS.price
    small = replace(BY_TOKENS, context_tokens_max=10)
    assert request.worst_case(small, price) < request.worst_case(BY_TOKENS, price)
    assert asked(reference="x" * 1_000).text_bytes > 1_000 + len(PROMPT)


@pytest.mark.parametrize(
    ("fields", "unpriced"),
    [
        pytest.param({"size": "4096x4096"}, PREMIUM, id="a size without a price"),
        pytest.param({"size": "1024x1792", "quality": "standard"}, PREMIUM, id="a pair without a price"),
        pytest.param({}, replace(PREMIUM, image_default=None), id="no default to go by"),
        pytest.param({}, replace(BY_TOKENS, name="premium", image_output_tokens_max=None), id="no bound of an image"),
        pytest.param(
            {}, replace(BY_TOKENS, price=replace(BY_TOKENS.price, image_output=None)), id="no price of image tokens"
        ),
        pytest.param({}, replace(BY_TOKENS, price=replace(BY_TOKENS.price, input=None)), id="no price of the prompt"),
        pytest.param({}, replace(PREMIUM, price=Price("9")), id="no price at all"),
    ],
)
def test_what_has_no_price_is_unpriced_and_does_not_fit(fields: dict[str, Any], unpriced: Model) -> None:
    request = asked(**fields)
    with pytest.raises(UnpricedUsage):
        request.worst_case(unpriced, unpriced.price)
    assert not request.fits(unpriced)


# What is sent


def test_for_the_requested_model_everything_travels_as_it_came() -> None:
    fields = {
        "prompt": "Ein roter Füchs",
        "n": None,
        "size": "1024x1792",
        "quality": "hd",
        "style": "vivid",
        "response_format": "url",
        "output_format": "webp",
        "background": "transparent",
        "moderation": "low",
        "user": "u-1",
        "stream": False,
        "seed": 7,
        "aspect_ratio": "16:9",
    }
    assert sent(asked(**fields)) == {"model": "upstream-premium", **fields}


def test_labels_are_taken_out_of_metadata_before_it_travels() -> None:
    request = asked(metadata={"feature": "covers", "series": "foxes"})
    assert read_labels({}, request.body).feature == "covers"
    assert sent(request)["metadata"] == {"series": "foxes"}
    request = asked(metadata={"feature": "covers"})
    read_labels({}, request.body)
    assert "metadata" not in sent(request)


@pytest.mark.parametrize(
    ("target", "fields", "kept", "variant", "each"),
    [
        pytest.param(
            FLAT, {"size": "1024x1792"}, {"size": "1024x1792"}, "1024x1792/auto", 0.3, id="any size has a price"
        ),
        pytest.param(
            SQUARE, {"size": "1024x1024"}, {"size": "1024x1024"}, "1024x1024/standard", 2, id="the size has a price"
        ),
        pytest.param(SQUARE, {"size": "1024x1792"}, {}, "512x512/standard", 1, id="it has none: the target's default"),
        pytest.param(SQUARE, {"size": "auto"}, {}, "512x512/standard", 1, id="auto is each model's own"),
        pytest.param(SQUARE, {}, {}, "512x512/standard", 1, id="none was named"),
    ],
)
def test_a_cheaper_model_is_asked_in_its_own_words(
    target: Model, fields: dict[str, Any], kept: dict[str, Any], variant: str, each: float
) -> None:
    request = asked(n=2, quality="hd", style="vivid", response_format="url", **fields)
    assert request.fits(target)
    assert sent(request, target) == {
        "model": target.upstream_model,
        "prompt": PROMPT,
        "n": 2,
        "response_format": "url",
        **kept,
    }
    assert request.variant(target) == variant
    assert request.worst_case(target, target.price) == round(2 * each * CENT)
    assert sent(request)["quality"] == "hd", "asking for the cheaper model leaves the request as it was"


def test_a_cheaper_model_priced_by_tokens_chooses_size_and_quality_itself() -> None:
    assert sent(asked(size="1024x1792", quality="hd"), BY_TOKENS).keys() == {"model", "prompt"}


# Images sent along, and images kept


def test_an_image_sent_along_counts_as_an_image_whatever_its_bytes_and_travels_as_it_came() -> None:
    urls = ["https://example.test/a.png", "data:image/png;base64," + "A" * 50_000]
    request = asked(model="tokens", images=urls, mask="https://example.test/m.png")
    assert request.references == 3
    assert request.text_bytes == len(PROMPT)
    assert sent(request, BY_TOKENS)["images"] == urls
    held = request.worst_case(BY_TOKENS, BY_TOKENS.price)
    assert held == (9 + 32 + 3 * 8_000) * 8_000 + 1_000 * OUTPUT, "at the dearest rate of input, that of images"
    expected = request.estimate(BY_TOKENS, BY_TOKENS.price).expected
    assert expected == 3 * INPUT + 3 * 4_354 * 8_000 + 1_000 * OUTPUT < held


def test_by_the_written_rule_images_sent_along_stay_within_the_context() -> None:
    small = replace(BY_TOKENS, context_tokens_max=1_000)
    request = asked(model="tokens", images=["https://example.test/a.png"] * 3)
    assert request.unfinished_usage(small) == Usage(uncached_input=3, image_input=997, image_output=1_000, pieces=1)
    assert request.meter_unanswered(small).cost_nano_usd <= request.worst_case(small, small.price)


def test_an_image_sent_along_needs_a_price_where_tokens_are_paid_and_none_where_images_are() -> None:
    request = asked(image="https://example.test/a.png")
    no_image_input = replace(BY_TOKENS, name="premium", price=replace(BY_TOKENS.price, image_input=None))
    with pytest.raises(UnpricedUsage):
        request.worst_case(no_image_input, no_image_input.price)
    assert not request.fits(no_image_input)
    assert request.worst_case(PREMIUM, PREMIUM.price) == 4 * CENT


class Shelf:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[Answered, ImageRequest]] = []

    async def keep(self, answered: Answered, request: ImageRequest) -> bytes | None:
        self.seen.append((answered, request))
        return b"{}"


GIVES_URLS = replace(PREMIUM, capabilities=frozenset({"url"}))


@pytest.mark.parametrize(
    ("served", "is_kept", "wanted", "asks"),
    [
        pytest.param(PREMIUM, True, "url", None, id="the model gives bytes, which are kept"),
        pytest.param(GIVES_URLS, True, "url", "url", id="the model gives URLs itself"),
        pytest.param(PREMIUM, False, "url", "url", id="nothing is kept: the provider decides"),
        pytest.param(PREMIUM, True, "b64_json", "b64_json", id="bytes were asked for"),
    ],
)
def test_a_url_is_asked_for_where_the_model_gives_one(
    served: Model, is_kept: bool, wanted: str, asks: str | None
) -> None:
    request = asked(response_format=wanted)
    request.keeper = Shelf() if is_kept else None
    assert sent(request, served).get("response_format") == asks


async def test_what_is_kept_is_the_answer_and_its_request() -> None:
    request, shelf = asked(), Shelf()
    answered = Answered("req_1", None, PREMIUM, b"{}", {}, None, 1)  # type: ignore[arg-type]
    assert not request.keeps_state
    assert await request.keep(answered) is None
    request.keeper = shelf
    assert request.keeps_state
    assert await request.keep(answered) == b"{}"
    assert shelf.seen == [(answered, request)]


# What came back


@pytest.mark.parametrize(
    ("entries", "count"),
    [
        pytest.param([IMAGE] * 4, 4, id="all"),
        pytest.param([IMAGE, {"url": "https://example.test/a.png"}], 2, id="two of four, by url or base64"),
        pytest.param([IMAGE, {"b64_json": ""}, {"url": None}, {}], 1, id="entries without an image"),
        pytest.param([IMAGE, {"content_filter_results": {}}], 1, id="filtered"),
        pytest.param(
            [IMAGE, {"url": 5}, "https://example.test/a.png", None, [], 7], 1, id="not what an image looks like"
        ),
        pytest.param([{"b64_json": "", "url": "https://example.test/a.png"}], 1, id="one of the two is empty"),
        pytest.param([], 0, id="none"),
    ],
)
def test_by_the_image_what_came_back_is_what_it_costs(entries: list[Any], count: int) -> None:
    metered = asked(n=4, quality="hd").meter(answer(*entries, usage=report(10**6, 10**6)), PREMIUM, ROW)
    assert metered is not None
    assert metered.usage == Usage(pieces=count)
    assert (metered.source, metered.cost_nano_usd) == ("provider", count * 8 * CENT)
    assert (metered.images, metered.flags, metered.variant) == (count, (), "1024x1024/hd")


def test_more_images_than_asked_for_are_counted_and_flagged() -> None:
    metered = asked(n=2).meter(answer(*[IMAGE] * 3), PREMIUM, ROW)
    assert metered is not None
    assert (metered.images, metered.cost_nano_usd, metered.flags) == (3, 12 * CENT, ("more_images",))


@pytest.mark.parametrize("wrong", [{}, {"data": None}, {"data": {}}, {"data": "x"}, {"error": {"message": "no"}}])
@pytest.mark.parametrize("served", [PREMIUM, BY_TOKENS])
def test_an_answer_without_a_list_of_images_is_none(wrong: dict[str, Any], served: Model) -> None:
    assert asked().meter(wrong, served, ROW) is None


def test_by_tokens_the_report_counts() -> None:
    metered = asked(model="tokens", n=2).meter(answer(IMAGE, IMAGE, usage=report(4, 544)), BY_TOKENS, ROW)
    assert metered is not None
    assert metered.usage == Usage(uncached_input=4, image_output=544, pieces=2)
    assert (metered.source, metered.cost_nano_usd) == ("provider", 4 * INPUT + 544 * OUTPUT)
    assert (metered.images, metered.flags, metered.variant) == (2, (), "auto/auto")


@pytest.mark.parametrize(
    ("usage", "flags"),
    [
        pytest.param(None, (), id="no report"),
        pytest.param(report(-1, 544), ("usage_refused",), id="negative"),
        pytest.param(report(1, 10**9), ("usage_refused",), id="beyond the model's cap"),
        pytest.param({"input_tokens": "3", "output_tokens": 544}, ("usage_refused",), id="text"),
        pytest.param([], ("usage_refused",), id="a list"),
        pytest.param(report(0, 0), ("usage_refused",), id="nothing for an image that is there"),
    ],
)
def test_by_tokens_without_a_report_that_can_be_true_the_written_rule_counts(
    usage: Any, flags: tuple[str, ...]
) -> None:
    metered = asked(model="tokens", n=2).meter(answer(IMAGE, usage=usage), BY_TOKENS, ROW)
    assert metered is not None
    assert metered.usage == Usage(uncached_input=3, image_output=1_000, pieces=1)
    assert (metered.source, metered.images, metered.flags) == ("estimated", 1, flags)
    assert metered.cost_nano_usd == 3 * INPUT + 1_000 * OUTPUT


def test_by_tokens_a_report_is_believed_even_if_every_image_was_filtered() -> None:
    metered = asked(model="tokens").meter(answer(usage=report(4, 272)), BY_TOKENS, ROW)
    assert metered is not None
    assert (metered.source, metered.images, metered.cost_nano_usd) == ("provider", 0, 4 * INPUT + 272 * OUTPUT)


def test_by_tokens_a_kind_without_a_rate_is_never_free() -> None:
    no_image_input = replace(BY_TOKENS, price=replace(BY_TOKENS.price, image_input=None))
    usage = report(10, 272, input_tokens_details={"text_tokens": 4, "image_tokens": 6})
    metered = asked(model="tokens").meter(answer(IMAGE, usage=usage), no_image_input, ROW)
    assert metered is not None
    assert (metered.cost_nano_usd, metered.flags) == (10 * INPUT + 272 * OUTPUT, ("unpriced_usage",))


@pytest.mark.parametrize(
    ("served", "cost"),
    [(PREMIUM, 3 * 4 * CENT), (BY_TOKENS, 3 * INPUT + 3_000 * OUTPUT)],
    ids=["by image", "by tokens"],
)
def test_a_call_never_properly_answered_costs_all_images_asked_for(served: Model, cost: int) -> None:
    request = asked(n=3)
    metered = request.meter_unanswered(served)
    assert (metered.source, metered.cost_nano_usd, metered.usage) == (
        "estimated",
        cost,
        request.unfinished_usage(served),
    )
    assert metered.images == 0, "nothing came back: free images and credits are not taken"
