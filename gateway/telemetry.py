"""Calls as OpenTelemetry traces and metrics, sent by OTLP over HTTP to where `GATEWAY_OTEL_ENDPOINT` says.

The library is the extra `otel`, imported here alone and only where the setting is there. Spans and metrics carry the names of
OpenTelemetry's conventions for generative AI (semantic-conventions 1.41, `gen_ai.*`), and `gateway.*` for what those do not
have. They hold identifiers and counts, never what was asked or answered.

A call is told once it is over: one span for the call, as a child of the trace the caller is in (`traceparent`), and one
below it for each attempt that is in the ledger. Both are kept in a bounded queue and sent by threads of the library's own;
what does not fit, or cannot be sent, is dropped and logged.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client.core import Metric

from gateway.errors import ConfigError
from gateway.ledger.records import Entry
from gateway.metrics import Metrics

if TYPE_CHECKING:
    from gateway.calls import Call
    from gateway.config import Settings

__all__ = ["Telemetry", "open_telemetry"]

OPERATIONS: Mapping[str, str] = {
    "chat": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
"""Endpoint -> `gen_ai.operation.name`, where the conventions have a word; else the endpoint's own."""
_EXPORT_WITHIN_S = 5.0
_METRICS_EVERY_MS = 15_000
_COLLECT_WITHIN_S = 2.0
_BELIEVED_S = 1.0
_NS = 1_000_000_000
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Bounds that the conventions recommend for durations of generative AI."""
_TOKENS = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304)
"""And for tokens."""
_CLASSIC = ("gen_ai_server_", "gen_ai_client_")
"""Families of the metrics page that are sent as histograms of their own, under OpenTelemetry's names."""


class Telemetry:
    """Lifetime: the process. `finished` and `rejected` cost some tens of microseconds and wait for nothing."""

    def __init__(self, settings: "Settings", endpoint: str, metrics: Metrics) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        base = endpoint.rstrip("/")
        headers = _headers(settings.otel_headers.get_secret_value() if settings.otel_headers else "")
        # Not `Resource.create`: that reads settings of others from the environment.
        resource = Resource({"service.name": settings.otel_service_name, "service.namespace": "llm-gateway"})
        self._tracers = TracerProvider(
            resource=resource,
            sampler=ParentBased(TraceIdRatioBased(float(settings.otel_sample_ratio))),
            shutdown_on_exit=False,
        )
        spans = OTLPSpanExporter(f"{base}/v1/traces", headers=headers, timeout=_EXPORT_WITHIN_S, session=_session())
        self._tracers.add_span_processor(BatchSpanProcessor(spans))
        figures = OTLPMetricExporter(
            f"{base}/v1/metrics", headers=headers, timeout=_EXPORT_WITHIN_S, session=_session()
        )
        reader = PeriodicExportingMetricReader(figures, export_interval_millis=_METRICS_EVERY_MS)
        self._meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        self._tracer = self._tracers.get_tracer("gateway")
        self._propagator = TraceContextTextMapPropagator()
        self._loop = asyncio.get_running_loop()
        self._metrics = metrics
        self._collected: Sequence[Metric] = ()
        self._collected_at = float("-inf")
        meter = self._meter = self._meters.get_meter("gateway")
        self._duration = meter.create_histogram(
            "gen_ai.server.request.duration", "s", "A whole call.", explicit_bucket_boundaries_advisory=_SECONDS
        )
        self._ttft = meter.create_histogram(
            "gen_ai.server.time_to_first_token",
            "s",
            "From the request to the first byte relayed, streams only.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens metered.", explicit_bucket_boundaries_advisory=_TOKENS
        )

    def finished(self, call: "Call", entries: Sequence[Entry]) -> None:
        """An admitted call is booked. `entries`: those of its attempts, the last one final."""
        last = entries[-1]
        ended_ns = time.time_ns()
        began_ns = ended_ns - int((time.monotonic() - call.started_at) * _NS)
        attributes = _attributes(last) | {"http.response.status_code": last.status}
        span = self._start(call, _name(last), began_ns, attributes)
        if span.is_recording():
            if last.ttft_ms is not None:
                span.add_event("first_byte", timestamp=began_ns + last.ttft_ms * 1_000_000)
            for entry in entries:
                self._attempt(span, entry, began_ns, ended_ns)
            _close(span, last.error or ("" if last.outcome == "ok" else last.outcome), ended_ns)
        self._measure(last, (ended_ns - began_ns) / _NS)
        for entry in entries:
            route = _route(entry)
            self._tokens.record(entry.usage.input_tokens, route | {"gen_ai.token.type": "input"})
            self._tokens.record(entry.usage.output_tokens, route | {"gen_ai.token.type": "output"})

    def rejected(self, call: "Call", code: str, status: int) -> None:
        """A call of somebody known was refused before it was admitted."""
        if call.account is None:
            return  # a stranger could fill the queue
        ended_ns = time.time_ns()
        attributes = {
            "gen_ai.operation.name": OPERATIONS.get(call.endpoint, call.endpoint),
            "http.response.status_code": status,
            "gateway.request_id": call.request_id,
            "gateway.creator": call.creator,
            "gateway.key_id": call.key_id,
        }
        began_ns = ended_ns - int((time.monotonic() - call.started_at) * _NS)
        span = self._start(call, str(attributes["gen_ai.operation.name"]), began_ns, attributes)
        _close(span, code, ended_ns)

    async def close(self) -> None:
        """Sends what is queued, for a few seconds at most."""

        def close() -> None:
            self._tracers.shutdown()
            self._meters.shutdown(_EXPORT_WITHIN_S * 1_000)

        await asyncio.to_thread(close)

    def _start(self, call: "Call", name: str, began_ns: int, attributes: Mapping[str, Any]) -> Any:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        # Without a context of its own a span would take the one of this task, which is nobody's.
        parent = Context()
        if call.trace_parent:
            parent = self._propagator.extract({"traceparent": call.trace_parent}, parent)
        return self._tracer.start_span(name, parent, SpanKind.SERVER, dict(attributes), start_time=began_ns)

    def _attempt(self, call_span: Any, entry: Entry, began_ns: int, ended_ns: int) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context

        if entry.cached:
            return
        context = set_span_in_context(call_span, Context())
        until_ns = min(ended_ns, began_ns + entry.latency_ms * 1_000_000)
        attributes = _attributes(entry) | {"gateway.attempt": entry.attempt}
        span = self._tracer.start_span(_name(entry), context, SpanKind.CLIENT, attributes, start_time=began_ns)
        _close(span, "" if entry.outcome == "ok" else entry.error or entry.outcome, until_ns)

    def _measure(self, entry: Entry, seconds: float) -> None:
        attributes = _route(entry)
        if entry.outcome != "ok":
            attributes["error.type"] = entry.outcome
        self._duration.record(seconds, attributes)
        if entry.is_streaming and entry.ttft_ms is not None:
            self._ttft.record(entry.ttft_ms / 1_000, attributes)

    # Everything else that the metrics page has

    def watch_page(self) -> None:
        """From now on each family of the metrics page is sent too, under its own name, but for those that OpenTelemetry names
        itself. Once, when all that the page asks is there."""
        meter = self._meter
        for family in self._metrics.collect():
            if family.name.startswith(_CLASSIC):
                continue
            made = meter.create_observable_counter if family.type == "counter" else meter.create_observable_gauge
            made(family.name, [_Samples(self, family.name)], description=family.documentation)

    def families(self) -> Iterable[Metric]:
        """The page's families, from a thread of the library. Empty where the event loop does not find the time."""
        if time.monotonic() - self._collected_at > _BELIEVED_S:  # each instrument asks, one after the other
            collected = asyncio.run_coroutine_threadsafe(self._collect(), self._loop)
            try:
                self._collected = collected.result(_COLLECT_WITHIN_S)
            except (TimeoutError, RuntimeError):
                collected.cancel()
                self._collected = ()
            self._collected_at = time.monotonic()
        return self._collected

    async def _collect(self) -> list[Metric]:
        await self._metrics.read_ledger()
        return list(self._metrics.collect())


class _Samples:
    """What one instrument observes."""

    def __init__(self, telemetry: Telemetry, name: str) -> None:
        self._telemetry = telemetry
        self._name = name

    def __call__(self, options: Any) -> Iterable[Any]:
        from opentelemetry.metrics import Observation

        for family in self._telemetry.families():
            if family.name == self._name:
                return [
                    Observation(sample.value, dict(sample.labels))
                    for sample in family.samples
                    if not sample.name.endswith("_created")
                ]
        return ()


def open_telemetry(settings: "Settings", metrics: Metrics) -> Telemetry | None:
    """None where no endpoint is set. Raises `ConfigError` where one is, and the library is not installed."""
    if settings.otel_endpoint is None:
        return None
    try:
        return Telemetry(settings, settings.otel_endpoint, metrics)
    except ImportError as exc:
        raise ConfigError(
            "GATEWAY_OTEL_ENDPOINT needs the extra `otel`: pip install 'llm-gateway[otel]', or unset it"
        ) from exc


def _session() -> Any:
    """Connects to the endpoint and to nobody between: proxies and passwords of the environment are not meant for it."""
    import requests

    session = requests.Session()
    session.trust_env = False
    return session


def _headers(text: str) -> dict[str, str]:
    """`name=value,name=value`, checked by the settings."""
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _name(entry: Entry) -> str:
    """As the conventions ask: the operation and the model."""
    endpoint = entry.attribution.endpoint
    return f"{OPERATIONS.get(endpoint, endpoint)} {entry.attribution.requested_model}"


def _route(entry: Entry) -> dict[str, Any]:
    """The labels of metrics: endpoints, models and providers of the catalog."""
    endpoint = entry.attribution.endpoint
    return {
        "gen_ai.operation.name": OPERATIONS.get(endpoint, endpoint),
        "gen_ai.provider.name": entry.route.provider,
        "gen_ai.request.model": entry.attribution.requested_model,
        "gen_ai.response.model": entry.route.served_model,
    }


def _attributes(entry: Entry) -> dict[str, Any]:
    attribution = entry.attribution
    found = _route(entry) | {
        "gen_ai.usage.input_tokens": entry.usage.input_tokens,
        "gen_ai.usage.output_tokens": entry.usage.output_tokens,
        "gateway.request_id": attribution.request_id,
        "gateway.creator": attribution.creator,
        "gateway.key_id": attribution.key_id,
        "gateway.outcome": entry.outcome,
        "gateway.cost_nano_usd": entry.cost_nano_usd,
        "gateway.cached": entry.cached,
    }
    optional = {
        "gateway.feature": attribution.feature,
        "gateway.agent": attribution.agent,
        "gateway.downgrade_reason": entry.downgrade_reason,
        "gateway.flags": entry.flags,
    }
    return found | {name: value for name, value in optional.items() if value}


def _close(span: Any, error: str, ended_ns: int) -> None:
    from opentelemetry.trace import Status, StatusCode

    if error:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))
    span.end(end_time=ended_ns)
