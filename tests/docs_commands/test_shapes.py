"""What may differ between a page and a run, and above all what may not."""

import pytest

from tests.docs_commands.shapes import differs

ID = "req_01a1fc3a17ef3edeaad29f1ef87db990"
OTHER_ID = "req_01a1fedbca60d0c5160283625e9a880c"


@pytest.mark.parametrize(
    ("shown", "seen"),
    [
        pytest.param(f"x-request-id: {ID}", f"x-request-id: {OTHER_ID}", id="ids"),
        pytest.param("key  sk-gw-lt8LfcmxTcic-...  (x)", "key sk-gw-fO7wcFWItxf7-hpV8y_QJK (x)", id="a cut key"),
        pytest.param("sk-gwadmin-0zh-...", "sk-gwadmin-zvx-GJk2Dw", id="a cut admin key"),
        pytest.param('"at":"2026-11-21T01:22:45.236970Z"', '"at":"2027-01-02T11:12:13.1Z"', id="instants"),
        pytest.param('"period": "2026-11"', '"period": "2031-02"', id="months"),
        pytest.param('"period": "2026-11-21"', '"period": "2031-02-03"', id="days"),
        pytest.param("has room in 21 h: wait", "has room in 3 min: wait", id="spans of words"),
        pytest.param('"latency_ms": 11, "retry_in_s":15.0', '"latency_ms": 9, "retry_in_s":14.9', id="spans"),
        pytest.param("age: 1", "age: 0", id="ages"),
        pytest.param("a    b", "a b", id="columns"),
        pytest.param("a ... d", "a b c d", id="a part of a line"),
        pytest.param("a\n...\nd", "a\nb\nc\nd", id="lines"),
        pytest.param("a\n...\nd", "a\nd", id="no lines"),
        pytest.param("{\n...\n    a: 1,\n...", "{\n  b\n  a: 1,\n}", id="indented lines"),
        pytest.param("...\nd\n...\nd", "x\nd\nd\nd", id="the right one of several"),
    ],
)
def test_what_differs_at_every_run_does_not_count(shown: str, seen: str) -> None:
    assert not differs(shown, seen)


@pytest.mark.parametrize(
    ("shown", "seen"),
    [
        pytest.param("cost 0.08", "cost 0.09", id="money"),
        pytest.param('"left": 56', '"left": 55', id="counts"),
        pytest.param("HTTP/1.1 200 OK", "HTTP/1.1 429 Too Many Requests", id="a status"),
        pytest.param("a", "a\nb", id="more than shown"),
        pytest.param("a\nb", "a", id="less than shown"),
        pytest.param("a\nb", "b\na", id="another order"),
        pytest.param("a\n...\nc\nd", "a\nc\nb\nd", id="something between neighbours"),
        pytest.param("sk-gw-...", "sk-gwadmin-abc-def", id="another kind of key"),
        pytest.param(f"id {ID}", "id none", id="no id"),
        pytest.param('"latency_ms": 11', '"latency_ms": null', id="no span"),
        pytest.param("a.c", "abc", id="signs that mean something to a pattern"),
        pytest.param("", "a", id="nothing shown"),
    ],
)
def test_everything_else_counts(shown: str, seen: str) -> None:
    assert differs(shown, seen)


def test_a_difference_names_the_line_that_was_not_seen() -> None:
    report = differs("a\nb\nc", "a\nx\nc")
    assert report.startswith("not seen: b\n")
    assert "--- seen\na\nx\nc\n" in report
