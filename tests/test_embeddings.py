"""An embeddings request: what is refused, what it costs before and after, and what the provider is sent."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.catalog import Model, Price, ProviderRow
from gateway.embeddings import EmbeddingsRequest, read_embeddings_request
from gateway.errors import RequestError
from gateway.model_request import ModelRequest
from gateway.pricing import UnpricedUsage
from gateway.usage import Usage

ROW = ProviderRow("p", "openai")
RATE = 20  # nano-dollars a token
MODEL = Model(
    "m", "p", "upstream-m", frozenset({"embeddings"}), Price("1", input=RATE * 1_000), context_tokens_max=1_000
)
VECTOR = {"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": "Grüße", **fields}).encode()


def asked(**fields: Any) -> EmbeddingsRequest:
    return read_embeddings_request(body(**fields))


def metered(answer: dict[str, Any], **fields: Any) -> Any:
    return asked(**fields).meter(answer, MODEL, ROW)


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        pytest.param(b"", "invalid_json", None, id="empty"),
        pytest.param(b"[]", "invalid_value", "body", id="a list"),
        pytest.param(body(model=None), "missing_required_parameter", "model", id="no model"),
        pytest.param(b'{"model": "m"}', "missing_required_parameter", "input", id="no input"),
        *(
            pytest.param(body(input=value), "missing_required_parameter", "input", id=f"input {value!r}")
            for value in (None, [], 5, True, {"text": "x"})
        ),
        *(
            pytest.param(body(input=value), "invalid_value", "input", id=f"input {str(value)[:20]}")
            for value in (
                ["a", 1],
                ["a", ["b"]],
                [1, "a"],
                [1, True],
                [1, 2.5],
                [-1],
                [[1], "a"],
                [[1], []],
                [[1], [-1]],
                [[]],
                [True],
                [{"text": "a"}],
                [None],
            )
        ),
        pytest.param(body(input=["a"] * 2_049), "invalid_value", "input", id="2 049 inputs"),
        pytest.param(body(service_tier="priority"), "unpriced_feature", "service_tier", id="a dearer tier"),
        *(
            pytest.param(body(**{field: "x"}), "unsupported_parameter", field, id=field)
            for field in ("api_base", "base_url", "extra_headers", "aws_region", "mock_response")
        ),
        pytest.param(body(extra=0).replace(b"0", b"[" * 600 + b"]" * 600), "invalid_json", None, id="depth"),
    ],
)
def test_a_body_is_refused_with_what_to_change(raw: bytes, code: str, param: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        read_embeddings_request(raw)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_it_answers_as_a_model_request() -> None:
    request: ModelRequest = asked()
    assert (request.endpoint, request.path, request.images) == ("embeddings", "/embeddings", 0)
    assert not request.is_streaming
    assert request.clamp(MODEL, MODEL.price, 0) is None
    assert request.serves(MODEL)
    assert not request.keeps_state


@pytest.mark.parametrize(
    ("value", "most", "likely"),
    [
        pytest.param("Grüße", 7 + 8, 2, id="a text: a token a byte, and its frame"),
        pytest.param(["abcd", "abcde"], 4 + 8 + 5 + 8, 3, id="two texts"),
        pytest.param([5, 6, 7], 3, 3, id="the tokens of one text"),
        pytest.param([[5, 6], [7]], 3, 3, id="the tokens of two"),
        pytest.param("", 8, 0, id="nothing"),
        pytest.param("x" * 4_000, 1_000, 1_000, id="a text above the context"),
        pytest.param(["x" * 4_000, "abcd"], 1_012, 1_001, id="the context bounds each input, not all"),
        pytest.param(["a"] * 2_048, 9 * 2_048, 2_048, id="as many as there may be"),
    ],
)
def test_what_is_held_and_expected_is_in_proportion_to_the_input(value: Any, most: int, likely: int) -> None:
    request = asked(input=value)
    estimate = request.estimate(MODEL, MODEL.price)
    assert request.worst_case(MODEL, MODEL.price) == estimate.worst == most * RATE
    assert (estimate.expected, estimate.smallest, estimate.tokens) == (likely * RATE, None, likely)
    assert request.unfinished_usage(MODEL) == Usage(uncached_input=likely)


def test_unknown_fields_count_beside_every_input() -> None:
    plain, more = asked(input=["a", "b"]), asked(input=["a", "b"], instruction="x" * 100)
    assert more.worst_case(MODEL, MODEL.price) - plain.worst_case(MODEL, MODEL.price) == 2 * 102 * RATE


def test_without_a_price_it_is_unpriced_and_a_price_of_nothing_is_one() -> None:
    with pytest.raises(UnpricedUsage):
        asked().worst_case(MODEL, Price("2"))
    assert asked().worst_case(MODEL, Price("2", input=0)) == 0


def test_no_other_model_fits_as_its_vectors_mean_something_else() -> None:
    assert asked().fits(MODEL)
    assert not asked().fits(replace(MODEL, name="other"))
    assert not asked(input="x" * 4_004).fits(MODEL), "above the context"


def test_everything_travels_as_it_came() -> None:
    fields = {"input": [[1, 2]], "encoding_format": "base64", "dimensions": 256, "user": "u", "task": "query"}
    outgoing = asked(**fields).outgoing(MODEL, ROW)
    assert (outgoing.path, outgoing.content_type, outgoing.is_streaming) == ("/embeddings", "application/json", False)
    assert json.loads(outgoing.body) == {"model": "upstream-m", **fields}
    picky = replace(ROW, drop_fields=frozenset({"user"}))
    assert "user" not in json.loads(asked(**fields).outgoing(MODEL, picky).body)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        pytest.param({"prompt_tokens": 4, "total_tokens": 4}, 4, id="as OpenAI says it"),
        pytest.param({"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4}, 4, id="as Mistral says it"),
        pytest.param({"total_tokens": 4}, 4, id="only a total"),
        pytest.param({"prompt_tokens": 4}, 4, id="only a prompt"),
        pytest.param({"prompt_tokens": 1_000, "total_tokens": 1_000}, 1_000, id="the whole context"),
    ],
)
def test_the_providers_report_counts(usage: Any, tokens: int) -> None:
    found = metered({"data": [VECTOR], "usage": usage})
    assert (found.usage, found.source) == (Usage(uncached_input=tokens), "provider")
    assert (found.cost_nano_usd, found.flags, found.is_answer) == (tokens * RATE, (), True)


@pytest.mark.parametrize(
    ("usage", "flags"),
    [
        pytest.param(None, (), id="no report"),
        pytest.param({}, ("usage_refused",), id="an empty report"),
        pytest.param([], ("usage_refused",), id="a list"),
        pytest.param({"prompt_tokens": -1, "total_tokens": -1}, ("usage_refused",), id="negative"),
        pytest.param({"prompt_tokens": 1.5, "total_tokens": 1.5}, ("usage_refused",), id="a fraction"),
        pytest.param({"prompt_tokens": "4", "total_tokens": "4"}, ("usage_refused",), id="text"),
        pytest.param({"prompt_tokens": 4, "total_tokens": 9}, ("usage_refused",), id="two numbers that disagree"),
        pytest.param(
            {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}, ("usage_refused",), id="with an output"
        ),
        pytest.param({"prompt_tokens": 1_001, "total_tokens": 1_001}, ("usage_refused",), id="above the context"),
        pytest.param({"prompt_tokens": 0, "total_tokens": 0}, ("usage_refused",), id="nothing for a text"),
    ],
)
def test_without_a_report_that_can_be_true_the_written_rule_counts(usage: Any, flags: tuple[str, ...]) -> None:
    found = metered({"data": [VECTOR], "usage": usage})
    assert (found.usage, found.source, found.flags) == (Usage(uncached_input=2), "estimated", flags)
    assert found.cost_nano_usd == 2 * RATE


def test_each_input_may_fill_the_context() -> None:
    found = metered({"data": [VECTOR] * 2, "usage": {"prompt_tokens": 2_000, "total_tokens": 2_000}}, input=["a", "b"])
    assert (found.source, found.cost_nano_usd) == ("provider", 2_000 * RATE)


def test_nothing_for_nothing_is_believed() -> None:
    found = metered({"data": [VECTOR], "usage": {"prompt_tokens": 0, "total_tokens": 0}}, input="")
    assert (found.source, found.cost_nano_usd, found.flags) == ("provider", 0, ())


@pytest.mark.parametrize("data", [None, [], {}, "x"])
def test_without_vectors_it_is_no_answer_and_what_was_reported_is_owed(data: Any) -> None:
    assert metered({"data": data}) is None
    found = metered({"data": data, "usage": {"prompt_tokens": 4, "total_tokens": 4}})
    assert (found.is_answer, found.cost_nano_usd) == (False, 4 * RATE)


def test_a_call_never_answered_costs_its_likely_input() -> None:
    found = asked(input=["abcd", "abcde"]).meter_unanswered(MODEL)
    assert (found.source, found.cost_nano_usd) == ("estimated", 3 * RATE)


@given(st.lists(st.text(max_size=60), min_size=1, max_size=5), st.data())
def test_nothing_a_tokenizer_can_make_of_the_texts_is_above_what_is_held(texts: list[str], data: st.DataObject) -> None:
    request = asked(input=texts)
    tokens = data.draw(st.integers(0, sum(min(1_000, len(text.encode()) + 2) for text in texts)))
    found = request.meter({"data": [VECTOR], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}, MODEL, ROW)
    assert found is not None
    held = request.worst_case(MODEL, MODEL.price)
    assert max(found.cost_nano_usd, request.meter_unanswered(MODEL).cost_nano_usd) <= held
