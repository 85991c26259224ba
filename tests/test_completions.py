"""A completion of the older kind: what is refused, what bounds it, what it costs, and how its stream is relayed."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.catalog import Model, Price, ProviderRow
from gateway.completions import CompletionRequest, read_completion_request
from gateway.errors import RequestError
from gateway.metering import Metered
from gateway.model_request import ModelRequest
from gateway.pricing import UnpricedUsage
from gateway.relay import Guard
from gateway.usage import Usage

ROW = ProviderRow("p", "openai")
INPUT, OUTPUT = 2, 3  # nano-dollars a token
MODEL = Model(
    "m",
    "p",
    "upstream-m",
    frozenset({"completions"}),
    Price("1", input=INPUT * 1_000, output=OUTPUT * 1_000),
    context_tokens_max=1_000,
    output_tokens_max=100,
)
GUARD = Guard(1_000_000, lambda data: data.replace(b"KEY", b"***"))
DONE = b"data: [DONE]\n\n"


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "Grüße", **fields}).encode()


def asked(**fields: Any) -> CompletionRequest:
    return read_completion_request(body(**fields))


def sent(row: ProviderRow = ROW, to: Model = MODEL, **fields: Any) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(asked(**fields).outgoing(to, row).body)
    return parsed


def report(read: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def answer(*texts: str, usage: Any = None) -> dict[str, Any]:
    choices = [{"text": text, "index": index, "finish_reason": "stop"} for index, text in enumerate(texts)]
    return {"id": "cmpl-1", "object": "text_completion", "choices": choices, "usage": usage}


# Refusals


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        pytest.param(b"", "invalid_json", None, id="empty"),
        pytest.param(b"[]", "invalid_value", "body", id="a list"),
        pytest.param(b"{}", "missing_required_parameter", "model", id="no model"),
        *(
            pytest.param(body(prompt=value), "missing_required_parameter", "prompt", id=f"prompt {value!r}")
            for value in ([], 5, True, {"text": "x"})
        ),
        *(
            pytest.param(body(prompt=value), "invalid_value", "prompt", id=f"prompt {value!r}")
            for value in (["a", 1], [1, "a"], [1, True], [[1], []], [[]], [-1], [[1.0]], [None])
        ),
        *(
            pytest.param(body(max_tokens=value), "invalid_value", "max_tokens", id=f"max_tokens {value!r}")
            for value in (-1, "10", 1e9, True, 2**70)
        ),
        *(
            pytest.param(body(**{field: value}), "invalid_value", field, id=f"{field} {value!r}")
            for field in ("n", "best_of")
            for value in (0, -1, 129, "2", 1.0, True)
        ),
        pytest.param(body(prompt=["a"] * 1_025), "invalid_value", "prompt", id="1 025 answers"),
        pytest.param(body(prompt=["a"] * 9, n=128), "invalid_value", "prompt", id="9 prompts with 128 answers each"),
        pytest.param(body(prompt=["a"] * 9, best_of=128), "invalid_value", "prompt", id="the best of 128, 9 times"),
        pytest.param(body(prompt=["a"] * 2_049), "invalid_value", "prompt", id="2 049 prompts"),
        pytest.param(body(suffix=5), "invalid_value", "suffix", id="suffix"),
        pytest.param(body(stream="yes"), "invalid_value", "stream", id="stream"),
        pytest.param(body(echo=1), "invalid_value", "echo", id="echo"),
        pytest.param(body(stream_options=[]), "invalid_value", "stream_options", id="stream_options"),
        pytest.param(
            body(stream_options={"include_usage": "x"}), "invalid_value", "stream_options.include_usage", id="usage"
        ),
        pytest.param(body(service_tier="priority"), "unpriced_feature", "service_tier", id="a dearer tier"),
        *(
            pytest.param(body(**{field: 5}), "unsupported_parameter", field, id=field)
            for field in ("max_completion_tokens", "max_new_tokens", "n_predict", "num_predict", "api_base", "api_key")
        ),
        pytest.param(body(extra=0).replace(b"0", b"[" * 600 + b"]" * 600), "invalid_json", None, id="depth"),
    ],
)
def test_a_body_is_refused_with_what_to_change(raw: bytes, code: str, param: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        read_completion_request(raw)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_it_answers_as_a_model_request() -> None:
    request: ModelRequest = asked()
    assert (request.endpoint, request.path, request.images) == ("completions", "/completions", 0)
    assert request.needs == frozenset()
    assert request.variant(MODEL) == ""
    assert request.clamp(MODEL, MODEL.price, 0) is None
    assert request.fits(MODEL)
    assert not asked(prompt="x" * 4_004).fits(MODEL)


# What is held


@pytest.mark.parametrize(
    ("fields", "input_most", "output_most", "answers"),
    [
        pytest.param({}, 7 + 8, 16, 1, id="sixteen tokens where nobody says how many"),
        pytest.param({"max_tokens": None}, 7 + 8, 16, 1, id="null is as good as absent"),
        pytest.param({"max_tokens": 50}, 7 + 8, 50, 1, id="a bound"),
        pytest.param({"max_tokens": 0, "echo": True}, 7 + 8, 0, 1, id="none at all, for the prompt's probabilities"),
        pytest.param({"max_tokens": 5_000}, 7 + 8, 100, 1, id="a bound above the model's"),
        pytest.param({"prompt": ["ab", "cde"], "n": 3}, 2 + 8 + 3 + 8, 16 * 6, 6, id="three answers to each of two"),
        pytest.param({"n": 2, "best_of": 5}, 7 + 8, 16 * 5, 2, id="the best of five"),
        pytest.param({"prompt": [7, 8, 9]}, 3, 16, 1, id="the tokens of one prompt"),
        pytest.param({"prompt": [[7, 8], [9]], "n": 2}, 3, 16 * 4, 4, id="the tokens of two"),
        pytest.param({"prompt": None}, 1, 16, 1, id="no prompt"),
        pytest.param({"prompt": ["x" * 5_000, "ab"]}, 1_000 + 10, 32, 2, id="the context bounds each prompt"),
        pytest.param({"prompt": ["ab", "cd"], "suffix": "xyz"}, 2 * (10 + 3), 32, 2, id="a suffix beside each"),
        pytest.param({"guided": "ab"}, 7 + 8 + 4, 16, 1, id="a field we do not know"),
    ],
)
def test_what_is_held_is_what_it_can_cost(
    fields: dict[str, Any], input_most: int, output_most: int, answers: int
) -> None:
    request = asked(**fields)
    assert request.answers == answers
    assert request.worst_case(MODEL, MODEL.price) == input_most * INPUT + output_most * OUTPUT
    estimate = request.estimate(MODEL, MODEL.price)
    assert estimate.smallest is None, "it never shrinks: the output is bounded"
    assert estimate.worst == request.worst_case(MODEL, MODEL.price)
    likely = request.input_tokens_estimate(MODEL)
    assert (estimate.expected, estimate.tokens) == (likely * INPUT + output_most * OUTPUT, likely + output_most)
    assert request.unfinished_usage(MODEL) == Usage(uncached_input=likely, text_output=output_most)
    assert request.meter_unanswered(MODEL).cost_nano_usd == likely * INPUT <= estimate.worst


@pytest.mark.parametrize(
    ("fields", "likely"),
    [
        pytest.param({}, 2, id="seven bytes"),
        pytest.param({"prompt": ["abcd", "abcde"]}, 3, id="each prompt is rounded up"),
        pytest.param({"prompt": [[1, 2], [3]]}, 3, id="a token is a token"),
        pytest.param({"prompt": ["ab", "cd"], "suffix": "x"}, 4, id="a suffix beside each"),
        pytest.param({"prompt": "x" * 9_000}, 1_000, id="never above the context"),
    ],
)
def test_the_likely_input(fields: dict[str, Any], likely: int) -> None:
    assert asked(**fields).input_tokens_estimate(MODEL) == likely


def test_without_prices_it_is_unpriced() -> None:
    for price in (Price("2"), Price("2", input=1)):
        with pytest.raises(UnpricedUsage):
            asked().worst_case(MODEL, price)


# What is sent


def test_the_bound_is_written_where_the_caller_left_it_out() -> None:
    assert sent()["max_tokens"] == 16
    assert sent(max_tokens=0)["max_tokens"] == 0
    assert sent(max_tokens=5_000)["max_tokens"] == 100
    assert sent(to=replace(MODEL, output_tokens_max=None), max_tokens=5_000)["max_tokens"] == 5_000
    assert sent(ProviderRow("p", "openai", drop_fields=frozenset({"max_tokens", "user"})), user="u") == {
        "model": "upstream-m",
        "prompt": "Grüße",
        "max_tokens": 16,
    }


def test_everything_else_travels_as_it_came() -> None:
    fields = {"prompt": [[1, 2]], "suffix": "!", "logprobs": 5, "echo": True, "logit_bias": {"5": -100}, "top_k": 3}
    assert sent(max_tokens=9, **fields) == {"model": "upstream-m", "max_tokens": 9, **fields}


def test_usage_is_asked_for_in_streams_where_the_provider_can_be_asked() -> None:
    assert sent(stream=True)["stream_options"] == {"include_usage": True}
    assert sent(stream=True, stream_options={"x": 1})["stream_options"] == {"x": 1, "include_usage": True}
    assert "stream_options" not in sent()
    assert "stream_options" not in sent(ProviderRow("p", "openai", stream_usage="never"), stream=True)
    assert asked(stream=True).outgoing(MODEL, ROW).is_streaming


# What came back


@pytest.mark.parametrize(
    ("fields", "usage"),
    [
        pytest.param({}, report(3, 5), id="one"),
        pytest.param({"n": 2}, report(3, 200), id="each answer may have the model's output"),
        pytest.param({"best_of": 3}, report(3, 300), id="and each that was only tried"),
        pytest.param({"prompt": ["a", "b"]}, report(2_000, 200), id="each prompt may have the context"),
    ],
)
def test_the_providers_report_counts(fields: dict[str, Any], usage: dict[str, int]) -> None:
    found = asked(**fields).meter(answer("Hi", usage=usage), MODEL, ROW)
    assert found is not None
    assert (found.source, found.flags, found.is_answer) == ("provider", (), True)
    assert found.cost_nano_usd == usage["prompt_tokens"] * INPUT + usage["completion_tokens"] * OUTPUT


@pytest.mark.parametrize(
    ("usage", "flags"),
    [
        pytest.param(None, (), id="no report"),
        pytest.param(report(-3, 5), ("usage_refused",), id="negative"),
        pytest.param(report(1_001, 5), ("usage_refused",), id="above the context"),
        pytest.param(report(3, 201), ("usage_refused",), id="above the output of two answers"),
        pytest.param(report(0, 0), ("usage_refused",), id="nothing for an answer"),
        pytest.param({"prompt_tokens": True, "completion_tokens": 1}, ("usage_refused",), id="a flag"),
        pytest.param("many", ("usage_refused",), id="text"),
    ],
)
def test_without_a_report_that_can_be_true_the_written_rule_counts(usage: Any, flags: tuple[str, ...]) -> None:
    found = asked(n=2).meter(answer("Tag", "Grüße", usage=usage), MODEL, ROW)
    assert found is not None
    assert (found.source, found.flags) == ("estimated", flags)
    assert found.usage == Usage(uncached_input=2, text_output=3), "ten bytes"
    assert found.cost_nano_usd == 2 * INPUT + 3 * OUTPUT


def test_what_echo_repeats_is_no_output() -> None:
    def output(*texts: str, **fields: Any) -> int:
        found = asked(echo=True, **fields).meter(answer(*texts), MODEL, ROW)
        assert found is not None
        return found.usage.text_output

    assert output("x" * 400 + "four", prompt="x" * 400) == 1
    assert output("x" * 40 + "four", "x" * 40 + "four", prompt="x" * 40, n=2) == 2
    assert output("x" * 40, prompt="x" * 40, max_tokens=0) == 0
    assert output("x" * 4_000, prompt=[1] * 500) == 16, "tokens are not known in bytes, but the bound is"


@pytest.mark.parametrize("choices", [None, {}, "x"])
def test_without_choices_it_is_no_answer_and_what_was_reported_is_owed(choices: Any) -> None:
    found = asked().meter({"choices": choices, "usage": report(3, 5)}, MODEL, ROW)
    assert found is not None
    assert (found.is_answer, found.cost_nano_usd) == (False, 3 * INPUT + 5 * OUTPUT)
    assert asked().meter({"object": "error"}, MODEL, ROW) is None


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4), st.integers(0, 120), st.integers(1, 4), st.data())
def test_nothing_a_model_can_report_within_its_bounds_is_above_what_is_held(
    prompts: list[str], max_tokens: int, n: int, data: st.DataObject
) -> None:
    request = asked(prompt=prompts, max_tokens=max_tokens, n=n)
    read = data.draw(st.integers(0, sum(len(prompt.encode()) + 2 for prompt in prompts)))
    written = data.draw(st.integers(0, min(max_tokens, 100) * n * len(prompts)))
    found = request.meter(answer(usage=report(read, written)), MODEL, ROW)
    assert found is not None
    assert found.source == "provider"
    assert found.cost_nano_usd <= request.worst_case(MODEL, MODEL.price)


# Streams


def event(message: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(message, ensure_ascii=False).encode() + b"\n\n"


def chunk(text: str, finish_reason: str | None = None, index: int = 0, **fields: Any) -> bytes:
    choice = {"text": text, "index": index, "logprobs": None, "finish_reason": finish_reason}
    return event({"id": "cmpl-1", "object": "text_completion", "choices": [choice], **fields})


def usage_event(read: int, written: int) -> bytes:
    return event({"choices": [], "usage": report(read, written)})


class Relayed:
    """All that a relay says of a stream cut into `parts`."""

    def __init__(self, parts: Iterable[bytes], row: ProviderRow = ROW, **fields: Any) -> None:
        relay = asked(stream=True, **fields).relay("text/event-stream; charset=utf-8", MODEL, row, GUARD)
        assert relay is not None
        self.sent = b"".join(relay.feed(part) for part in parts)
        self.sent += relay.finish()
        self.held = relay.held_back()
        self.is_complete = relay.is_complete
        self.metered: Metered = relay.metered(is_partial=not relay.is_complete)

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == getattr(other, "__dict__", None)

    __hash__ = None  # type: ignore[assignment]


SAID = chunk("Grüße", usage=None) + chunk(" 🌍", usage=None) + chunk("", "stop", usage=None)
STREAMS = {
    "whole": SAID + usage_event(3, 5) + DONE,
    "two answers": SAID + chunk("b", "length", 1) + usage_event(3, 6) + DONE,
    "no report": SAID + DONE,
    "no end": SAID,
    "crlf": (SAID + usage_event(3, 5) + DONE).replace(b"\n", b"\r\n"),
    "cut": SAID[:-9],
    "an error": chunk("Gr") + event({"error": {"message": "KEY"}}),
    "only the end": DONE,
}


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *sorted(at), len(data)])]


@pytest.mark.parametrize("stream", [pytest.param(stream, id=name) for name, stream in STREAMS.items()])
def test_every_split_gives_the_same_bytes_and_the_same_cost(stream: bytes) -> None:
    whole = Relayed([stream])
    for at in range(1, len(stream)):
        assert Relayed(cut(stream, [at])) == whole


@settings(max_examples=50)
@given(st.sampled_from(sorted(STREAMS)), st.data())
def test_any_number_of_splits_gives_the_same(name: str, data: st.DataObject) -> None:
    stream = STREAMS[name]
    at = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    assert Relayed(cut(stream, at)) == Relayed([stream])


def test_only_the_usage_we_asked_for_is_left_out_and_the_end_waits() -> None:
    relayed = Relayed([STREAMS["whole"]])
    assert (relayed.sent, relayed.held) == (SAID, DONE)
    assert relayed.is_complete
    assert (relayed.metered.source, relayed.metered.cost_nano_usd) == ("provider", 3 * INPUT + 5 * OUTPUT)
    theirs = Relayed([STREAMS["whole"]], stream_options={"include_usage": True})
    assert theirs.sent == SAID + usage_event(3, 5)
    always = Relayed([STREAMS["whole"]], replace(ROW, stream_usage="always"))
    assert always.sent == SAID + usage_event(3, 5)


def test_without_its_end_a_stream_is_complete_once_every_answer_is() -> None:
    assert Relayed([SAID]).is_complete
    assert not Relayed([SAID], n=2).is_complete
    assert not Relayed([SAID], prompt=["a", "b"]).is_complete
    assert Relayed([SAID + chunk("b", "stop", 1)], prompt=["a", "b"]).is_complete


@pytest.mark.parametrize(
    ("stream", "fields", "output"),
    [
        pytest.param(SAID + DONE, {}, 3, id="by twelve bytes"),
        pytest.param(chunk("a") + chunk("b") + chunk("c"), {}, 3, id="by three events"),
        pytest.param(
            chunk("x" * 40) + chunk("four", "stop"), {"prompt": "x" * 40, "echo": True}, 1, id="less the echo"
        ),
        pytest.param(chunk("x" * 20), {"prompt": "x" * 40, "echo": True}, 0, id="broken within the echo"),
    ],
)
def test_a_stream_nobody_reports_on_costs_what_it_said(stream: bytes, fields: dict[str, Any], output: int) -> None:
    found = Relayed([stream], **fields).metered
    assert (found.source, found.usage.text_output, found.flags) == ("estimated", output, ())


def test_a_report_of_a_broken_stream_counts_unless_more_was_said() -> None:
    early = chunk("a", usage=report(3, 1)) + chunk("bcde") + chunk("f")
    found = Relayed([early]).metered
    assert (found.source, found.usage) == ("provider_partial", Usage(uncached_input=3, text_output=3))


def test_what_is_no_stream_is_read_whole() -> None:
    assert asked(stream=True).relay("application/json", MODEL, ROW, GUARD) is None
