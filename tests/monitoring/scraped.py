"""The series of a scrape with their labels, read off a page of metrics on which everything has happened once."""

from prometheus_client.parser import text_string_to_metric_families

from gateway.ledger.gauges import Figures
from gateway.metrics import Metrics
from tests.ledger.books import entry

TARGET_LABELS = frozenset({"job", "instance"})
"""What Prometheus adds to everything it scrapes."""
_WORKER = "worker"
"""What the gateway adds where one address has several processes."""


def _page() -> str:
    page = Metrics(
        calls_in_flight=lambda: 1,
        is_ready=lambda: True,
        deployments=lambda: {("openai", "gpt-4o"): True},
    )
    page.finished(entry("whole"), 0.3)
    page.finished(entry("stream", changes={"is_streaming": True, "ttft_ms": 40}), 0.3)
    page.refused("chat", "insufficient_quota")
    page.rejected("chat", "invalid_api_key")
    page.failed_attempt("openai", "rate_limit")
    page._figures = Figures(1, 2, 3, 4, 5.0)
    return page.render().decode()


def _series() -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {"up": TARGET_LABELS}
    for family in text_string_to_metric_families(_page()):
        assert family.samples, f"nothing has happened to {family.name}"
        for sample in family.samples:
            found[sample.name] = frozenset(sample.labels) | TARGET_LABELS | {_WORKER}
    return found


SERIES = _series()
"""Labels of every series that Prometheus has of a gateway, `up` among them, which is Prometheus' own."""
