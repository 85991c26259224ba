"""Queries are read as Prometheus reads them, and what no scrape can answer is found."""

import pytest

from tests.monitoring.checks import documentation_faults
from tests.monitoring.files import documented, expressions_in
from tests.monitoring.promql import Query, filled_in
from tests.monitoring.scraped import SERIES


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        pytest.param("up", {"job", "instance"}, id="series"),
        pytest.param("gateway_degraded", {"job", "instance", "worker", "what"}, id="labels-of-its-own"),
        pytest.param("sum(gateway_ready)", set(), id="sum"),
        pytest.param("sum by (job) (rate(gateway_calls_total[5m]))", {"job"}, id="by"),
        pytest.param("sum without (worker, job) (gateway_ready)", {"instance"}, id="without"),
        pytest.param("topk(3, sum by (model) (gateway_calls_total))", {"model"}, id="topk"),
        pytest.param(
            "histogram_quantile(0.9, sum by (le, job) (gen_ai_server_request_duration_seconds_bucket))",
            {"job"},
            id="quantile",
        ),
        pytest.param("1 - (gateway_ready > bool 0)", {"job", "instance", "worker"}, id="number"),
        pytest.param("up and on (job) gateway_ready", {"job", "instance"}, id="and"),
        pytest.param("up * on (job) sum by (job) (gateway_ready)", {"job"}, id="one-to-one"),
        pytest.param(
            "up * on (job) group_left (code) sum by (job, code) (gateway_refused_total)",
            {"job", "instance", "code"},
            id="taken-along",
        ),
        pytest.param(
            "gateway_degraded / ignoring (what) group_left sum without (what) (gateway_degraded)",
            {"job", "instance", "worker", "what"},
            id="ignoring",
        ),
        pytest.param('absent(up{job="x"})', set(), id="absent"),
        pytest.param("max_over_time(sum(gateway_ready)[1h:1m])", set(), id="subquery"),
        pytest.param('{__name__="up"}', {"job", "instance"}, id="name-as-a-matcher"),
    ],
)
def test_the_labels_of_a_result_are_followed(text: str, labels: set[str]) -> None:
    query = Query(text)
    assert query.faults == []
    assert query.labels == labels


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("gateway_redy", "gateway_redy", id="series"),
        pytest.param("gateway_calls", "gateway_calls", id="name-without-its-end"),
        pytest.param('{__name__="nothing"}', "nothing", id="series-by-matcher"),
        pytest.param('gateway_ready{what="x"}', "no label what", id="matcher"),
        pytest.param('up{worker="0"}', "no label worker", id="matcher-of-another"),
        pytest.param("sum by (what) (gateway_ready)", "what", id="by"),
        pytest.param("sum by (what) (sum by (job) (gateway_degraded))", "what", id="by-after-by"),
        pytest.param("sum without (what) (gateway_ready)", "what", id="without"),
        pytest.param("up * on (worker) gateway_ready", "worker", id="on"),
        pytest.param("up * gateway_ready", "never equals", id="labels-that-differ"),
        pytest.param("up * ignoring (job) gateway_ready", "never equals", id="ignoring-too-little"),
        pytest.param("up * on (job) group_left (code) sum by (job) (gateway_ready)", "code", id="group_left"),
        pytest.param("histogram_quantile(0.9, sum(gateway_ready))", "without le", id="quantile"),
    ],
)
def test_what_no_scrape_can_answer_is_found(text: str, fault: str) -> None:
    assert any(fault in found for found in Query(text).faults)


@pytest.mark.parametrize(
    "text",
    [
        "sum(up",
        "rate(up)",
        "sum by job (up)",
        "sumall(up)",
        'up{job=~"("}',
        'up{job="x}',
        "up[5 minutes]",
        "up == ",
        "up and 1",
        "histogram_quantile(up)",
    ],
)
def test_what_is_not_promql_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Query(text)


def test_labels_that_a_function_makes_up_are_not_guessed() -> None:
    with pytest.raises(NotImplementedError, match="label_replace"):
        Query('label_replace(up, "a", "$1", "job", "(.*)")')


def test_variables_of_a_dashboard_are_filled_in_and_strangers_are_not() -> None:
    text = 'rate(gateway_calls_total{job=~"$job",model=~"${model:regex}"}[$__rate_interval])'
    assert Query(filled_in(text, {"job", "model"})).matchers == [("job", ".*"), ("model", ".*")]
    with pytest.raises(KeyError):
        filled_in(text, {"job"})


def test_a_scrape_has_every_end_of_a_histogram_and_the_labels_of_its_target() -> None:
    name = "gen_ai_server_request_duration_seconds"
    assert SERIES[f"{name}_bucket"] == SERIES[f"{name}_count"] | {"le"} == SERIES[f"{name}_sum"] | {"le"}
    assert all(labels >= {"job", "instance"} for labels in SERIES.values())


def test_expressions_in_the_documentation_ask_for_what_there_is() -> None:
    assert documented()
    assert documentation_faults(documented()) == []


def test_a_page_with_an_expression_that_has_no_answer_is_found() -> None:
    page = """Text with `gateway_ready` and `gateway_unreachable`, which are names.
| `rate(gateway_nothing_total[5m])` | `sum by (code) (gateway_calls_total{outcome!~"ok\\|crashed"})` |

```promql
sum(gateway_ready
```

```console
$ curl /metrics | grep "gateway_ready{"
```
"""
    found = expressions_in(page)
    assert found == [
        "rate(gateway_nothing_total[5m])",
        'sum by (code) (gateway_calls_total{outcome!~"ok|crashed"})',
        "sum(gateway_ready",
    ]
    faults = documentation_faults({text: text for text in found})
    assert len(faults) == len(found)
