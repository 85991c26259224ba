"""What providers report, told apart into buckets; what cannot be true, refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.usage import TOKENS_MAX, Usage, from_chat, from_images

CONTEXT, OUTPUT = 128_000, 4_096


def read(usage: object, *, choices: int = 1, **options: Any) -> Usage | None:
    return from_chat(usage, context_tokens_max=CONTEXT, output_tokens_max=OUTPUT, choices=choices, **options)


def chat(prompt: object = 100, completion: object = 50, **more: object) -> dict[str, object]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


@pytest.mark.parametrize(
    ("usage", "buckets"),
    [
        pytest.param(chat(total_tokens=150), Usage(uncached_input=100, text_output=50), id="plain"),
        pytest.param(chat(), Usage(uncached_input=100, text_output=50), id="without a total"),
        pytest.param(chat(0, 5, total_tokens=5), Usage(text_output=5), id="no prompt"),
        pytest.param(chat(0, 0, total_tokens=0), Usage(), id="an explicit zero is a zero"),
        pytest.param(
            chat(
                total_tokens=150,
                prompt_tokens_details={"cached_tokens": 60, "audio_tokens": 10},
                completion_tokens_details={"reasoning_tokens": 20, "audio_tokens": 5, "accepted_prediction_tokens": 0},
            ),
            Usage(30, 60, 0, 10, 0, 25, 20, 5),
            id="OpenAI",
        ),
        pytest.param(
            chat(prompt_tokens_details=None, completion_tokens_details=None, total_tokens=None),
            Usage(uncached_input=100, text_output=50),
            id="null details",
        ),
        pytest.param(
            chat(prompt_tokens_details={"cached_tokens": None}, completion_tokens_details={"reasoning_tokens": None}),
            Usage(uncached_input=100, text_output=50),
            id="null parts",
        ),
        pytest.param(
            chat(prompt_tokens_details={"cached_tokens": 40, "cache_write_tokens": 30}),
            Usage(30, 40, 30, text_output=50),
            id="OpenRouter's cache writes",
        ),
        pytest.param(
            chat(prompt_tokens_details={"cached_tokens": 40, "cache_creation_tokens": 30}),
            Usage(30, 40, 30, text_output=50),
            id="litellm's cache writes",
        ),
        pytest.param(
            chat(
                cache_creation_input_tokens=30, cache_read_input_tokens=40, prompt_tokens_details={"cached_tokens": 40}
            ),
            Usage(30, 40, 30, text_output=50),
            id="Anthropic's cache writes beside the total",
        ),
        pytest.param(
            chat(prompt_cache_hit_tokens=64, prompt_cache_miss_tokens=36),
            Usage(36, 64, text_output=50),
            id="DeepSeek's cache",
        ),
        pytest.param(
            chat(prompt_cache_hit_tokens=64, prompt_tokens_details={"cached_tokens": 64}),
            Usage(36, 64, text_output=50),
            id="a cache told twice counts once",
        ),
        pytest.param(
            chat(prompt_tokens_details={"image_tokens": 80}, completion_tokens_details={"image_tokens": 50}),
            Usage(20, image_input=80, image_output=50),
            id="images",
        ),
        pytest.param(
            chat(32, 9, total_tokens=135 - 32, completion_tokens_details={"reasoning_tokens": 62}),
            Usage(32, text_output=9, reasoning=62),
            id="xAI's reasoning beside the completion",
        ),
        pytest.param({"prompt_tokens": 8, "total_tokens": 8}, Usage(uncached_input=8), id="an embedding"),
        pytest.param(chat(CONTEXT, OUTPUT), Usage(CONTEXT, text_output=OUTPUT), id="exactly at both caps"),
        pytest.param(chat(cost=0.25, extra={"a": []}), Usage(100, text_output=50), id="unknown fields are ignored"),
    ],
)
def test_every_dialect_lands_in_disjoint_buckets(usage: object, buckets: Usage) -> None:
    assert read(usage) == buckets


HOSTILE = [
    pytest.param(None, id="null"),
    pytest.param([], id="a list"),
    pytest.param("usage", id="a string"),
    pytest.param({}, id="empty"),
    pytest.param({"completion_tokens": 5}, id="no prompt"),
    pytest.param({"prompt_tokens": 5}, id="no completion, and no total that explains it"),
    pytest.param({"prompt_tokens": 5, "total_tokens": 9}, id="no completion, although the total says there was one"),
    pytest.param(chat(-1, 5), id="negative prompt"),
    pytest.param(chat(5, -1), id="negative completion"),
    pytest.param(chat(5.0, 5), id="a float that is whole"),
    pytest.param(chat(5, 0.5), id="half a token"),
    pytest.param(chat(5, float("nan")), id="not a number"),
    pytest.param(chat(5, float("inf")), id="infinite"),
    pytest.param(chat(5, 1e24), id="25 digits, as orjson reads them"),
    pytest.param(chat(5, 10**24), id="25 digits"),
    pytest.param(chat("5", 5), id="text"),
    pytest.param(chat(True, 5), id="true is not one"),
    pytest.param(chat(5, False), id="false is not zero"),
    pytest.param(chat(None, 5), id="null prompt"),
    pytest.param(chat(5, None), id="null completion"),
    pytest.param(chat([5], 5), id="a list for a count"),
    pytest.param(chat(CONTEXT + 1, 5), id="more than the context holds"),
    pytest.param(chat(5, OUTPUT + 1), id="more than the model can answer"),
    pytest.param(chat(total_tokens=151), id="a total above the sum"),
    pytest.param(chat(total_tokens=149), id="a total below the sum"),
    pytest.param(chat(total_tokens="150"), id="a total that is text"),
    pytest.param(chat(total_tokens=150.0), id="a total that is a float"),
    pytest.param(chat(total_tokens=-150), id="a negative total"),
    pytest.param(chat(total_tokens=True), id="a total that is true"),
    pytest.param(chat(prompt_tokens_details={"cached_tokens": 101}), id="more cached than sent"),
    pytest.param(chat(prompt_tokens_details={"cached_tokens": 60, "audio_tokens": 41}), id="parts above the prompt"),
    pytest.param(chat(prompt_tokens_details={"cached_tokens": -1}), id="negative cached"),
    pytest.param(chat(prompt_tokens_details={"cached_tokens": 1.5}), id="fractional cached"),
    pytest.param(chat(prompt_tokens_details={"cached_tokens": True}), id="cached is true"),
    pytest.param(chat(prompt_tokens_details=[]), id="prompt details are a list"),
    pytest.param(chat(prompt_tokens_details=7), id="prompt details are a number"),
    pytest.param(chat(completion_tokens_details="none"), id="completion details are text"),
    pytest.param(chat(completion_tokens_details={"reasoning_tokens": 51}), id="more reasoning than output"),
    pytest.param(
        chat(completion_tokens_details={"reasoning_tokens": 51}, total_tokens=150),
        id="more reasoning than output, and the total agrees with the output",
    ),
    pytest.param(
        chat(completion_tokens_details={"reasoning_tokens": 30, "audio_tokens": 21}), id="parts above the completion"
    ),
    pytest.param(chat(completion_tokens_details={"reasoning_tokens": -1}), id="negative reasoning"),
    pytest.param(chat(prompt_cache_hit_tokens="64"), id="DeepSeek's cache as text"),
    pytest.param(chat(cache_creation_input_tokens=101), id="more written than sent"),
]


@pytest.mark.parametrize("usage", HOSTILE)
def test_a_report_that_cannot_be_true_is_refused(usage: object) -> None:
    assert read(usage) is None


def test_a_thinking_total_is_believed_only_of_providers_that_count_so() -> None:
    report = chat(20, 198, total_tokens=623)
    assert read(report) is None
    assert read(report, unlisted_is_reasoning=True) == Usage(20, text_output=198, reasoning=405)
    assert read(chat(20, 198, total_tokens=217), unlisted_is_reasoning=True) is None
    assert read(chat(20, 198, total_tokens=218 + OUTPUT), unlisted_is_reasoning=True) is None


def test_every_choice_may_answer_up_to_the_cap() -> None:
    assert read(chat(5, 3 * OUTPUT), choices=3) == Usage(5, text_output=3 * OUTPUT)
    assert read(chat(5, 3 * OUTPUT + 1), choices=3) is None


def test_without_caps_in_the_catalog_absurd_numbers_are_still_refused() -> None:
    caps: dict[str, Any] = {"context_tokens_max": None, "output_tokens_max": None, "choices": 1}
    assert from_chat(chat(TOKENS_MAX, TOKENS_MAX), **caps) is not None
    assert from_chat(chat(TOKENS_MAX + 1, 1), **caps) is None
    assert from_chat(chat(1, TOKENS_MAX + 1), **caps) is None
    assert from_chat(chat(1, 9), context_tokens_max=8, output_tokens_max=None, choices=1) is None


COUNT = st.integers(0, 1_000)


@given(*[COUNT] * 9)
def test_buckets_add_up_to_what_was_reported(
    plain: int, cached: int, written: int, audio: int, image: int, text: int, thought: int, said: int, drawn: int
) -> None:
    report = chat(
        plain + cached + written + audio + image,
        text + thought + said + drawn,
        total_tokens=plain + cached + written + audio + image + text + thought + said + drawn,
        prompt_tokens_details={
            "cached_tokens": cached,
            "cache_write_tokens": written,
            "audio_tokens": audio,
            "image_tokens": image,
        },
        completion_tokens_details={"reasoning_tokens": thought, "audio_tokens": said, "image_tokens": drawn},
    )
    usage = read(report)
    assert usage == Usage(plain, cached, written, audio, image, text, thought, said, drawn)
    assert (usage.input_tokens, usage.output_tokens) == (report["prompt_tokens"], report["completion_tokens"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    "prompt_tokens completion_tokens total_tokens prompt_tokens_details completion_tokens_details "
    "prompt_cache_hit_tokens cache_creation_input_tokens".split()
)


@given(st.dictionaries(FIELDS, JSON) | JSON, st.booleans())
def test_whatever_an_upstream_sends_is_either_believable_or_refused(report: object, unlisted: bool) -> None:
    usage = read(report, unlisted_is_reasoning=unlisted)
    if usage is not None:
        assert all(type(tokens) is int and tokens >= 0 for tokens in usage)
        assert usage.input_tokens <= CONTEXT
        assert usage.output_tokens <= OUTPUT


INPUT, OUTPUT_OF_IMAGES = 5_000, 12_480


def read_images(usage: object) -> Usage | None:
    return from_images(usage, input_tokens_max=INPUT, output_tokens_max=OUTPUT_OF_IMAGES)


def images(read: object = 50, made: object = 4160, **more: object) -> dict[str, object]:
    return {"input_tokens": read, "output_tokens": made, **more}


@pytest.mark.parametrize(
    ("usage", "buckets"),
    [
        pytest.param(images(), Usage(50, image_output=4160), id="totals alone"),
        pytest.param(
            images(
                total_tokens=4210,
                input_tokens_details={"text_tokens": 50, "image_tokens": 0},
                output_tokens_details={"image_tokens": 4160, "text_tokens": 0},
            ),
            Usage(50, image_output=4160),
            id="OpenAI",
        ),
        pytest.param(
            images(500, input_tokens_details={"text_tokens": 20, "image_tokens": 480}),
            Usage(20, image_input=480, image_output=4160),
            id="an image sent along",
        ),
        pytest.param(
            images(500, input_tokens_details={"text_tokens": 100, "image_tokens": 400, "cached_tokens": 60}),
            Usage(40, 60, image_input=400, image_output=4160),
            id="cached words",
        ),
        pytest.param(
            images(500, input_tokens_details={"text_tokens": 100, "image_tokens": 400, "cached_tokens": 300}),
            Usage(0, 100, image_input=400, image_output=4160),
            id="cached images count as plain ones",
        ),
        pytest.param(
            images(made=4260, output_tokens_details={"image_tokens": 4160, "text_tokens": 100}),
            Usage(50, text_output=100, image_output=4160),
            id="words among the output",
        ),
        pytest.param(
            images(made=4260, output_tokens_details={"text_tokens": 100}),
            Usage(50, text_output=100, image_output=4160),
            id="the rest of the output is images",
        ),
        pytest.param(
            images(input_tokens_details=None, output_tokens_details=None, total_tokens=None),
            Usage(50, image_output=4160),
            id="null details",
        ),
        pytest.param(images(0, 0), Usage(), id="an explicit zero is a zero"),
        pytest.param(images(INPUT, OUTPUT_OF_IMAGES), Usage(INPUT, image_output=OUTPUT_OF_IMAGES), id="at both caps"),
    ],
)
def test_an_image_answers_tokens_land_in_disjoint_buckets(usage: object, buckets: Usage) -> None:
    assert read_images(usage) == buckets


@pytest.mark.parametrize(
    "usage",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="a list"),
        pytest.param({}, id="empty"),
        pytest.param(chat(), id="a chat's"),
        pytest.param(images(None), id="no input"),
        pytest.param(images(made=None), id="no output"),
        pytest.param(images(-1), id="negative input"),
        pytest.param(images(made=-1), id="negative output"),
        pytest.param(images(5.0), id="a float that is whole"),
        pytest.param(images(made=float("nan")), id="not a number"),
        pytest.param(images("5"), id="text"),
        pytest.param(images(True), id="true is not one"),
        pytest.param(images(INPUT + 1), id="more input than was sent"),
        pytest.param(images(made=OUTPUT_OF_IMAGES + 1), id="more output than the images can be"),
        pytest.param(images(total_tokens=4211), id="a total above the sum"),
        pytest.param(images(total_tokens=4209), id="a total below the sum"),
        pytest.param(images(total_tokens="4210"), id="a total that is text"),
        pytest.param(images(input_tokens_details=[]), id="input details are a list"),
        pytest.param(images(output_tokens_details=7), id="output details are a number"),
        pytest.param(images(input_tokens_details={"image_tokens": 51}), id="more images than input"),
        pytest.param(images(input_tokens_details={"image_tokens": 30, "text_tokens": 21}), id="parts above the input"),
        pytest.param(images(input_tokens_details={"cached_tokens": 51}), id="more cached than sent"),
        pytest.param(images(input_tokens_details={"cached_tokens": -1}), id="negative cached"),
        pytest.param(images(input_tokens_details={"text_tokens": 0.5}), id="half a token"),
        pytest.param(images(output_tokens_details={"text_tokens": 4161}), id="more words than output"),
        pytest.param(images(output_tokens_details={"image_tokens": True}), id="images are true"),
        pytest.param(
            images(output_tokens_details={"image_tokens": 4000, "text_tokens": 161}), id="parts above the output"
        ),
    ],
)
def test_an_image_answers_report_that_cannot_be_true_is_refused(usage: object) -> None:
    assert read_images(usage) is None


def test_without_caps_an_image_answers_absurd_numbers_are_still_refused() -> None:
    caps: dict[str, Any] = {"input_tokens_max": None, "output_tokens_max": None}
    assert from_images(images(TOKENS_MAX, TOKENS_MAX), **caps) is not None
    assert from_images(images(TOKENS_MAX + 1), **caps) is None
    assert from_images(images(made=TOKENS_MAX + 1), **caps) is None


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(images(), COUNT | JSON)), JSON, JSON)
def test_whatever_an_upstream_says_of_its_images_is_either_believable_or_refused(
    report: dict[str, object], read_parts: object, made_parts: object
) -> None:
    usage = read_images({**report, "input_tokens_details": read_parts, "output_tokens_details": made_parts})
    if usage is not None:
        assert all(type(tokens) is int and tokens >= 0 for tokens in usage)
        assert usage.input_tokens == report["input_tokens"] <= INPUT
        assert usage.output_tokens == report["output_tokens"] <= OUTPUT_OF_IMAGES
