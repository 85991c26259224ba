"""A moderations request: what is refused, that it may cost nothing, and what it costs where it does."""

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.catalog import Model, Price, ProviderRow
from gateway.errors import RequestError
from gateway.model_request import ModelRequest
from gateway.moderations import DEFAULT_MODEL, ModerationsRequest, read_moderations_request
from gateway.pricing import UnpricedUsage
from gateway.usage import Usage

ROW = ProviderRow("p", "openai")
FREE = Model("m", "p", "upstream-m", frozenset({"moderations"}), Price("1", input=0))
RATE = 100  # nano-dollars a token
PAID = replace(FREE, price=Price("2", input=RATE * 1_000), context_tokens_max=2_000, capabilities=frozenset({"vision"}))
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.test/a.png"}}
TEXT = {"type": "text", "text": "Grüße"}
RESULTS = [{"flagged": False}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": "Grüße", **fields}).encode()


def asked(**fields: Any) -> ModerationsRequest:
    return read_moderations_request(body(**fields))


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        pytest.param(b"{", "invalid_json", None, id="cut"),
        pytest.param(b"[]", "invalid_value", "body", id="a list"),
        pytest.param(body(model=""), "missing_required_parameter", "model", id="a model without a name"),
        pytest.param(body(model=5), "missing_required_parameter", "model", id="model is a number"),
        *(
            pytest.param(body(input=value), "missing_required_parameter", "input", id=f"input {value!r}")
            for value in (None, [], 5, True, {"type": "text", "text": "x"})
        ),
        *(
            pytest.param(body(input=[value]), "invalid_value", "input[]", id=f"part {value!r}")
            for value in (
                None,
                5,
                ["a"],
                {},
                {"type": "text"},
                {"type": "text", "text": 5},
                {"type": "input_audio", "text": "x"},
                {"type": "image_url", "image_url": "https://example.test/a.png"},
                {"type": "image_url", "image_url": {"url": ""}},
                {"type": "image_url", "image_url": {}},
                {"type": ["text"], "text": "x"},
            )
        ),
        pytest.param(body(input=["a"] * 2_049), "invalid_value", "input", id="2 049 texts"),
        pytest.param(body(service_tier="priority"), "unpriced_feature", "service_tier", id="a dearer tier"),
        *(
            pytest.param(body(**{field: "x"}), "unsupported_parameter", field, id=field)
            for field in ("api_base", "extra_headers", "vertex_project")
        ),
    ],
)
def test_a_body_is_refused_with_what_to_change(raw: bytes, code: str, param: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        read_moderations_request(raw)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_it_answers_as_a_model_request() -> None:
    request: ModelRequest = asked()
    assert (request.endpoint, request.path, request.images) == ("moderations", "/moderations", 0)
    assert request.clamp(FREE, FREE.price, 0) is None
    assert request.estimate(FREE, FREE.price) == (0, None, 0, 2)


def test_without_a_model_it_is_openais_own() -> None:
    request = read_moderations_request(b'{"input": "x"}')
    assert request.model == DEFAULT_MODEL
    assert json.loads(request.outgoing(FREE, ROW).body) == {"model": "upstream-m", "input": "x"}


@pytest.mark.parametrize(
    ("value", "most", "likely"),
    [
        pytest.param("Grüße", 7 + 8, 2, id="a text"),
        pytest.param(["abcd", "abcde"], 4 + 8 + 5 + 8, 3, id="texts"),
        pytest.param([TEXT, IMAGE], 7 + 8 + 2_000, 2 + 765, id="a text and an image, which fills the context at most"),
        pytest.param("x" * 9_000, 2_000, 2_000, id="a text above the context"),
    ],
)
def test_where_it_costs_something_it_is_held_and_estimated(value: Any, most: int, likely: int) -> None:
    request = asked(input=value)
    assert request.worst_case(PAID, PAID.price) == most * RATE
    assert request.estimate(PAID, PAID.price).expected == likely * RATE
    assert request.unfinished_usage(PAID) == Usage(uncached_input=likely)
    assert request.meter_unanswered(PAID).cost_nano_usd == likely * RATE


def test_an_image_is_held_at_the_dearest_rate_of_input() -> None:
    price = Price("3", input=1_000, image_input=5_000)
    assert asked(input=[IMAGE]).worst_case(FREE, price) == 50_000 * 5
    assert asked(input=["abcd"]).worst_case(FREE, price) == 12, "a text is none"


def test_without_a_price_it_is_unpriced() -> None:
    with pytest.raises(UnpricedUsage):
        asked().worst_case(FREE, Price("2"))


def test_unknown_fields_count_beside_every_input() -> None:
    plain, more = asked(input=["a", "b"]), asked(input=["a", "b"], policy="x" * 100)
    assert more.worst_case(PAID, PAID.price) - plain.worst_case(PAID, PAID.price) == 2 * 102 * RATE


def test_an_image_needs_a_model_that_sees() -> None:
    request = asked(input=[IMAGE])
    assert request.needs == {"vision"}
    assert request.fits(PAID)
    assert not request.fits(FREE)
    assert asked().fits(FREE)
    assert not asked(input="x" * 9_000).fits(PAID), "above the context"


def test_everything_travels_as_it_came() -> None:
    fields = {"input": [TEXT, IMAGE], "user": "u", "threshold": 0.5}
    outgoing = asked(**fields).outgoing(FREE, ROW)
    assert (outgoing.path, outgoing.is_streaming) == ("/moderations", False)
    assert json.loads(outgoing.body) == {"model": "upstream-m", **fields}
    picky = replace(ROW, drop_fields=frozenset({"user"}))
    assert "user" not in json.loads(asked(**fields).outgoing(FREE, picky).body)


def test_nobody_reports_usage_and_the_written_rule_counts_without_a_flag() -> None:
    answer = {"id": "modr-1", "results": RESULTS}
    free, paid = asked().meter(answer, FREE, ROW), asked().meter(answer, PAID, ROW)
    assert free is not None
    assert paid is not None
    assert (free.cost_nano_usd, free.source, free.flags) == (0, "estimated", ())
    assert (paid.cost_nano_usd, paid.source, paid.flags) == (2 * RATE, "estimated", ())


@pytest.mark.parametrize(
    "usage",
    [
        pytest.param({"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}, id="input only"),
        pytest.param({"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}, id="its verdict is not charged"),
    ],
)
def test_a_provider_that_reports_is_believed(usage: Any) -> None:
    found = asked().meter({"results": RESULTS, "usage": usage}, PAID, ROW)
    assert found is not None
    assert (found.usage, found.cost_nano_usd) == (Usage(uncached_input=3), 3 * RATE)
    assert (found.source, found.flags) == ("provider", ())


@pytest.mark.parametrize(
    "usage",
    [
        pytest.param({"prompt_tokens": -3, "completion_tokens": 0}, id="negative"),
        pytest.param({"prompt_tokens": 2_001, "completion_tokens": 0}, id="above the context"),
        pytest.param({"prompt_tokens": 0, "completion_tokens": 0}, id="nothing for a text"),
        pytest.param("3", id="text"),
    ],
)
def test_a_report_that_cannot_be_true_is_none(usage: Any) -> None:
    found = asked().meter({"results": RESULTS, "usage": usage}, PAID, ROW)
    assert found is not None
    assert (found.cost_nano_usd, found.source, found.flags) == (2 * RATE, "estimated", ("usage_refused",))


@pytest.mark.parametrize("results", [None, [], {}, "x"])
def test_without_results_it_is_no_answer(results: Any) -> None:
    assert asked().meter({"results": results}, FREE, ROW) is None
