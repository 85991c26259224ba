"""Labels: what a caller may say about a call, and what of it the provider never sees."""

from typing import Any

import pytest

from gateway.attribution import NO_LABELS, Labels, client_request_id, read_labels
from gateway.errors import RequestError


def test_no_labels_cost_nothing_and_change_nothing() -> None:
    body: dict[str, Any] = {"model": "m"}
    assert read_labels({}, body) is NO_LABELS
    assert body == {"model": "m"}


def test_labels_are_taken_out_of_metadata_and_the_rest_travels_on() -> None:
    body: dict[str, Any] = {"metadata": {"feature": "chat", "agent": "a1", "tags": ["x", "y"], "order": "7"}}
    assert read_labels({}, body) == Labels("chat", "a1", "x,y", '{"order":"7"}')
    assert body == {"metadata": {"order": "7"}}


def test_an_emptied_metadata_is_dropped() -> None:
    body: dict[str, Any] = {"metadata": {"feature": "chat"}}
    read_labels({}, body)
    assert body == {}


def test_headers_come_before_metadata() -> None:
    headers = {b"x-gateway-feature": b"from-header", b"x-gateway-tags": b"a, b"}
    body: dict[str, Any] = {"metadata": {"feature": "from-body", "agent": "kept"}}
    assert read_labels(headers, body) == Labels("from-header", "kept", "a,b", "")


@pytest.mark.parametrize(
    ("headers", "metadata"),
    [
        pytest.param({b"x-gateway-feature": b"has space"}, None, id="space"),
        pytest.param({b"x-gateway-agent": b"x" * 65}, None, id="too long"),
        pytest.param({b"x-gateway-tags": b"ok,=cmd()"}, None, id="formula"),
        pytest.param({b"x-gateway-tags": b",".join([b"t"] * 17)}, None, id="too many tags"),
        pytest.param({}, {"feature": 5}, id="number"),
        pytest.param({}, {"feature": "a\nb"}, id="line break"),
        pytest.param({}, {"tags": {"a": 1}}, id="tags are an object"),
        pytest.param({}, "text", id="metadata is text"),
    ],
)
def test_a_malformed_label_is_refused(headers: dict[bytes, bytes], metadata: Any) -> None:
    body = {} if metadata is None else {"metadata": metadata}
    with pytest.raises(RequestError):
        read_labels(headers, body)


def test_metadata_above_a_kilobyte_travels_on_but_is_not_booked() -> None:
    body: dict[str, Any] = {"metadata": {"k": "x" * 2_000}}
    assert read_labels({}, body).metadata == ""
    assert body["metadata"] == {"k": "x" * 2_000}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(b"abc-1", "abc-1", id="plain"),
        pytest.param(b"a\nb", "", id="line break"),
        pytest.param("ü".encode(), "", id="not ascii"),
        pytest.param(b"x" * 129, "", id="too long"),
        pytest.param(None, "", id="absent"),
    ],
)
def test_the_callers_request_id_is_kept_only_as_plain_text(value: bytes | None, expected: str) -> None:
    assert client_request_id({} if value is None else {b"x-request-id": value}) == expected
