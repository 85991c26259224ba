"""Prometheus metrics. Label sets are closed: endpoints, models and providers of the catalog, outcomes; never a creator.

Money per creator is the ledger's business. Names follow OpenTelemetry's GenAI conventions where it has one
(`gen_ai_server_*`, seconds and tokens), and `gateway_*` elsewhere.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.ledger.records import Entry

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320)
_CODES_MAX = 64


class Metrics:
    def __init__(self, *, calls_in_flight: Callable[[], float], is_ready: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry(auto_describe=False)
        calls = ("endpoint", "model", "provider", "outcome")
        self._calls = Counter("gateway_calls", "Admitted calls by how they ended.", calls, registry=registry)
        self._cost = Counter(
            "gateway_cost_nano_usd", "Provider cost booked, in 1e-9 USD.", calls[:3], registry=registry
        )
        self._tokens = Counter(
            "gen_ai_client_token_usage", "Tokens metered.", (*calls[:3], "gen_ai_token_type"), registry=registry
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds", "A whole call.", calls[:3], buckets=_SECONDS, registry=registry
        )
        self._ttft = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request to the first byte relayed, streams only.",
            calls[:3],
            buckets=_SECONDS,
            registry=registry,
        )
        self._refused = Counter(
            "gateway_refused", "Calls a policy refused before the dial.", ("endpoint", "code"), registry=registry
        )
        self._rejected = Counter(
            "gateway_rejected",
            "Requests answered with an error before admission.",
            ("endpoint", "code"),
            registry=registry,
        )
        gauge = Gauge("gateway_calls_in_flight", "Calls being served now.", registry=registry)
        gauge.set_function(calls_in_flight)
        ready = Gauge("gateway_ready", "1 while new calls are taken.", registry=registry)
        ready.set_function(is_ready)
        self._children: dict[tuple[str, str, str, str], _Children] = {}
        self._codes: set[str] = set()

    def finished(self, entry: Entry, duration_s: float) -> None:
        """One admitted call has ended."""
        key = (entry.attribution.endpoint, entry.route.served_model, entry.route.provider, entry.outcome)
        children = self._children.get(key)
        if children is None:
            children = self._children[key] = _Children(self, key)
        children.calls.inc()
        children.cost.inc(entry.cost_nano_usd)
        children.input_tokens.inc(entry.usage.input_tokens)
        children.output_tokens.inc(entry.usage.output_tokens)
        children.duration.observe(duration_s)
        if entry.is_streaming and entry.ttft_ms is not None:
            children.ttft.observe(entry.ttft_ms / 1000)

    def refused(self, endpoint: str, code: str) -> None:
        self._refused.labels(endpoint, self._closed(code)).inc()

    def rejected(self, endpoint: str, code: str) -> None:
        self._rejected.labels(endpoint, self._closed(code)).inc()

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)

    def _closed(self, code: str) -> str:
        # Codes are ours and few; the bound is for the day somebody passes a provider's.
        if code not in self._codes and len(self._codes) >= _CODES_MAX:
            return "other"
        self._codes.add(code)
        return code


class _Children:
    """The labelled series of one (endpoint, model, provider, outcome): looking them up anew would cost 10 µs a call."""

    __slots__ = ("calls", "cost", "duration", "input_tokens", "output_tokens", "ttft")

    def __init__(self, metrics: Metrics, key: tuple[str, str, str, str]) -> None:
        route = key[:3]
        self.calls = metrics._calls.labels(*key)
        self.cost = metrics._cost.labels(*route)
        self.input_tokens = metrics._tokens.labels(*route, "input")
        self.output_tokens = metrics._tokens.labels(*route, "output")
        self.duration = metrics._duration.labels(*route)
        self.ttft = metrics._ttft.labels(*route)
