"""What leaves towards the client: no secret, no header of the provider's own affairs, and a truthful refusal."""

import orjson
import pytest

from gateway.answers import denied, duration, limit_headers, provider_refusal, redact, refused, upstream_headers
from gateway.counters.base import LimitState, Refused
from policies.types import Deny, Limit

KEY = "provider-canary-4711"


def limit(amount: int = 1, capacity: int = 10, unit: str = "request", code: str = "rate_limit_exceeded") -> Limit:
    return Limit("some_limit", "k", "rolling", capacity, amount, unit, Deny(code, "No room.", "some"), 3600)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(0, b"0ms", id="now"),
        pytest.param(0.35, b"350ms", id="below a second"),
        pytest.param(1, b"1s", id="a second"),
        pytest.param(59.2, b"1m0s", id="rounded up"),
        pytest.param(360, b"6m0s", id="minutes"),
        pytest.param(3600, b"1h0m0s", id="hours"),
        pytest.param(3661.5, b"1h1m2s", id="all three"),
    ],
)
def test_resets_are_written_as_openai_writes_them(seconds: float, text: bytes) -> None:
    assert duration(seconds) == text


def test_limit_headers_show_the_tightest_limit_of_a_unit() -> None:
    states = [LimitState(limit(capacity=10), 3, 1, 60.0), LimitState(limit(capacity=100), 98, 0, 5.0)]
    assert limit_headers(states) == [
        (b"x-ratelimit-limit-requests", b"100"),
        (b"x-ratelimit-remaining-requests", b"2"),
        (b"x-ratelimit-reset-requests", b"5s"),
    ]


def test_money_is_no_ratelimit_header() -> None:
    assert limit_headers([LimitState(limit(unit="nano_usd"), 0, 0, 0.0)]) == []


def test_the_providers_own_headers_stay_behind() -> None:
    headers = {
        "x-request-id": "req_1",
        "openai-processing-ms": "5",
        "openai-organization": "acme",
        "set-cookie": "a=b",
        "x-ratelimit-limit-requests": "7",
        "server": "x",
    }
    assert sorted(upstream_headers(headers)) == [(b"openai-processing-ms", b"5"), (b"x-upstream-request-id", b"req_1")]


def test_a_header_that_could_break_a_line_is_dropped() -> None:
    assert upstream_headers({"x-request-id": "a\r\nb: c"}) == []


@pytest.mark.parametrize("status", [401, 402, 403])
def test_what_concerns_the_operator_is_hidden_from_the_caller(status: int) -> None:
    body = orjson.dumps({"error": {"message": f"bad key {KEY}", "code": "invalid_api_key"}})
    error, answer = provider_refusal(status, {}, body, KEY)
    assert (error.status, error.code, error.headers["x-should-retry"]) == (502, "provider_unavailable", "false")
    assert KEY.encode() not in answer


def test_a_providers_empty_account_is_the_operators_affair() -> None:
    error, _ = provider_refusal(429, {}, orjson.dumps({"error": {"code": "insufficient_quota"}}), KEY)
    assert (error.status, error.code) == (502, "provider_unavailable")


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429, 500, 503])
def test_other_refusals_pass_through_without_secrets(status: int) -> None:
    said = {"message": f"no: {KEY} and sk-abcdefgh12345", "type": "t", "code": "c", "param": "p"}
    error, answer = provider_refusal(status, {"retry-after": "7", "server": "x"}, orjson.dumps({"error": said}), KEY)
    expected = {"message": "no: [redacted] and [redacted]", "type": "t", "code": "c", "param": "p"}
    assert orjson.loads(answer) == {"error": expected}
    assert (error.status, error.headers) == (status, {"retry-after": "7"})


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"null", b"[]", b'"x"', b'{"error": 5}', b'{"detail": "x"}'],
)
def test_an_error_that_is_not_in_openais_shape_is_put_into_it(body: bytes) -> None:
    _, answer = provider_refusal(500, {}, body, KEY)
    assert orjson.loads(answer)["error"].keys() == {"message", "type", "param", "code"}
    assert b"html" not in answer


def test_geminis_listed_error_keeps_its_message() -> None:
    _, answer = provider_refusal(400, {}, b'[{"error": {"message": "m", "code": 400}}]', KEY)
    assert orjson.loads(answer)["error"]["message"] == "m"
    assert orjson.loads(answer)["error"]["code"] == "400"


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "The input token count (1100000) exceeds the maximum number of tokens allowed (1048576).",
        "Input is too long for requested model.",
        "Please reduce the length of the messages: it exceeds the context window.",
    ],
)
@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_that_is_too_long_is_told_by_one_code(message: str, status: int) -> None:
    error, answer = provider_refusal(status, {}, orjson.dumps({"error": {"message": message}}), KEY)
    said = orjson.loads(answer)["error"]
    assert (error.status, said["code"], said["param"]) == (400, "context_length_exceeded", "messages")
    assert said["message"] == message


def test_other_words_about_length_keep_their_code() -> None:
    said = {"message": "max_tokens is too large", "code": "invalid_value", "param": "max_tokens"}
    _, answer = provider_refusal(400, {}, orjson.dumps({"error": said}), KEY)
    assert orjson.loads(answer)["error"]["code"] == "invalid_value"


def test_an_overload_of_anthropic_is_a_503() -> None:
    error, _ = provider_refusal(
        529, {}, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', KEY
    )
    assert (error.status, error.type) == (503, "overloaded_error")


def test_redaction_leaves_plain_words_alone() -> None:
    assert redact("ask-me about risk-taking and the key", KEY) == "ask-me about risk-taking and the key"


def test_a_policys_refusal_without_a_limit_is_final() -> None:
    error = denied(Deny("model_not_allowed", "Not this model.", "access"))
    assert (error.status, error.type, error.code) == (403, "permission_error", "model_not_allowed")
    assert error.headers["x-should-retry"] == "false"


def test_a_short_wait_is_told_truthfully_and_may_be_retried() -> None:
    error = refused(Refused(LimitState(limit(), 10, 0, 30.0), 12.3, False), now_unix=1_000_000.0)
    assert error.status == 429
    assert (error.headers["retry-after"], error.headers["retry-after-ms"]) == ("13", "12300")
    assert "x-should-retry" not in error.headers
    assert error.metadata is not None
    assert error.metadata["reset_at"] == "1970-01-12T13:46:52.300Z"


def test_a_long_wait_is_not_for_an_sdk_to_sit_out() -> None:
    error = refused(Refused(LimitState(limit(), 10, 0, 3000.0), 3000.0, False), now_unix=0.0)
    assert error.headers["x-should-retry"] == "false"


def test_money_that_is_gone_is_not_retried() -> None:
    state = LimitState(limit(unit="nano_usd", code="insufficient_quota"), 10, 0, 30.0)
    error = refused(Refused(state, 30.0, False), now_unix=0.0)
    assert (error.type, error.code) == ("insufficient_quota", "insufficient_quota")
    assert error.headers["x-should-retry"] == "false"


def test_more_than_the_whole_limit_has_no_wait() -> None:
    error = refused(Refused(LimitState(limit(amount=11), 0, 0, 0.0), None, False), now_unix=0.0)
    assert error.code == "request_too_large"
    assert "retry-after" not in error.headers
    assert error.headers["x-should-retry"] == "false"


def test_what_calls_in_flight_hold_comes_back_soon() -> None:
    state = LimitState(limit(unit="nano_usd", amount=6, code="insufficient_quota"), 0, 6, 30.0)
    error = refused(Refused(state, 1.0, True), now_unix=0.0)
    assert error.code == "rate_limit_exceeded"
    assert error.headers["retry-after"] == "1"
    assert "x-should-retry" not in error.headers
