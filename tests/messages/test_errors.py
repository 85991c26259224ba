"""Errors in Anthropic's shape: the right class in its client, and the gateway's own code beside."""

import builtins
import json

import anthropic
import pytest

from gateway.errors import GatewayError, PolicyDenied, RequestError
from gateway.messages.errors import error_event, error_shape
from tests.messages.wire import client


@pytest.mark.parametrize(
    ("status", "type", "raised"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.AuthenticationError),
        (403, "permission_error", anthropic.PermissionDeniedError),
        (404, "not_found_error", anthropic.NotFoundError),
        (405, "invalid_request_error", anthropic.APIStatusError),
        (413, "request_too_large", anthropic.APIStatusError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (502, "api_error", anthropic.InternalServerError),
        (503, "overloaded_error", anthropic.APIStatusError),
        (504, "timeout_error", anthropic.APIStatusError),
        (529, "overloaded_error", anthropic.APIStatusError),
    ],
)
def test_each_status_has_anthropics_type_and_raises_its_class(
    status: int, type: str, raised: "builtins.type[anthropic.APIStatusError]"
) -> None:
    answer = error_shape(GatewayError("What happened.", status=status))
    with client(answer, status=status) as made, pytest.raises(raised) as caught:
        made.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.status_code == status
    assert caught.value.body["error"]["type"] == type
    assert caught.value.body["error"]["message"] == "What happened."


def test_the_code_tells_money_from_a_rate_limit() -> None:
    error = PolicyDenied("Nothing left.", code="insufficient_quota", metadata={"limit": 5})
    said = json.loads(error_shape(error))
    assert said == {
        "type": "error",
        "error": {
            "type": "rate_limit_error",
            "message": "Nothing left.",
            "details": {"error_code": "insufficient_quota", "metadata": {"limit": 5}},
        },
    }


def test_a_prompt_too_long_says_so_in_the_words_clients_look_for() -> None:
    told = [
        json.loads(error_shape(RequestError(message, code="context_length_exceeded")))["error"]["message"]
        for message in ("9 of 8 tokens", "prompt is too long: 9 > 8")
    ]
    assert told == ["prompt is too long: 9 of 8 tokens", "prompt is too long: 9 > 8"]


def test_an_event_in_the_middle_of_a_stream_ends_it_in_the_client() -> None:
    stream = error_event(GatewayError("It broke.", status=529))
    with client(stream, "text/event-stream") as made, pytest.raises(anthropic.APIStatusError, match="It broke"):
        list(made.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "Hi"}], stream=True))
