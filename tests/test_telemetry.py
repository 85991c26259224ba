"""Traces and metrics as a collector gets them: OTLP over HTTP, decoded by OpenTelemetry's own messages."""

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.config import load_settings
from gateway.errors import ConfigError
from tests.rig import wire
from tests.rig.gateway import Gateway, chat_body
from tests.rig.upstream import Upstream

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector:
    """Keeps what it is sent, from construction to `close()`."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                headers = {name.lower(): value for name, value in self.headers.items()}
                collector.requests.append((self.path, headers, body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """To nobody."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def spans(self) -> list[Any]:
        found = []
        for path, _, body in self.requests:
            if path == "/v1/traces":
                message = ExportTraceServiceRequest.FromString(body)
                found += [span for r in message.resource_spans for s in r.scope_spans for span in s.spans]
        return found

    @property
    def metrics(self) -> dict[str, Any]:
        """The last of each name."""
        found = {}
        for path, _, body in self.requests:
            if path == "/v1/metrics":
                message = ExportMetricsServiceRequest.FromString(body)
                for metric in [m for r in message.resource_metrics for s in r.scope_metrics for m in s.metrics]:
                    found[metric.name] = metric
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    try:
        yield found
    finally:
        found.close()


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


async def test_a_call_is_a_span_below_its_callers_with_its_figures(tmp_path: Path, collector: Collector) -> None:
    upstream = Upstream()
    settings = {"OTEL_ENDPOINT": collector.url, "OTEL_HEADERS": "x-otlp-key=collector-canary-0123"}
    gateway = Gateway(tmp_path, upstream, settings=settings).start()
    try:
        key = gateway.new_key()
        script = upstream.reply(wire.completion("Hello", usage=wire.usage(11, 7)))
        trace = [("traceparent", f"00-{TRACE}-{PARENT}-01")]
        answer = await gateway.post(key, chat_body(script), trace)
        assert answer.status == 200
        assert (await gateway.chat(key, script, model="no-such-model")).status == 404
        assert gateway.stop() == 0
    finally:
        gateway.close()
        upstream.close()
    call = next(span for span in collector.spans if span.parent_span_id.hex() == PARENT)
    assert call.trace_id.hex() == TRACE
    told = attributes(call)
    assert told["gen_ai.usage.input_tokens"] == 11
    assert told["gen_ai.usage.output_tokens"] == 7
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gateway.request_id"] == answer.header("x-request-id")
    assert told["gateway.creator"] == key.creator
    assert told["gateway.cost_nano_usd"] > 0
    assert 0 < call.end_time_unix_nano - call.start_time_unix_nano < 60 * 10**9
    (attempt,) = [span for span in collector.spans if span.parent_span_id == call.span_id]
    assert attributes(attempt)["gateway.attempt"] == 1
    other = next(span for span in collector.spans if attributes(span).get("error.type") == "model_not_found")
    assert not other.parent_span_id
    metrics = collector.metrics
    tokens = {
        attributes(point)["gen_ai.token.type"]: point.sum
        for point in metrics["gen_ai.client.token.usage"].histogram.data_points
    }
    assert tokens == {"input": 11, "output": 7}
    assert metrics["gen_ai.server.request.duration"].histogram.data_points[0].count == 1
    assert metrics["gateway_ledger_day_cost_nano_usd"].gauge.data_points[0].as_int == told["gateway.cost_nano_usd"]
    for path, headers, raw in collector.requests:
        assert path in ("/v1/traces", "/v1/metrics")
        assert headers["x-otlp-key"] == "collector-canary-0123"
        for secret in (key.secret, gateway.admin_key, gateway.provider_key, "Hello"):
            assert secret.encode() not in raw
    assert "collector-canary" not in gateway.logs()


async def test_calls_go_on_while_nobody_takes_the_traces(tmp_path: Path) -> None:
    upstream = Upstream()
    gateway = Gateway(tmp_path, upstream, settings={"OTEL_ENDPOINT": "http://127.0.0.1:9"}).start()
    try:
        key = gateway.new_key()
        script = upstream.reply(wire.completion("Hello", usage=wire.usage(11, 7)))
        assert [(await gateway.chat(key, script)).status for _ in range(3)] == [200, 200, 200]
        assert gateway.stop() == 0
    finally:
        gateway.close()
        upstream.close()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        pytest.param("otel_endpoint", "collector:4318", id="no scheme"),
        pytest.param("otel_endpoint", "grpc://collector:4317", id="grpc"),
        pytest.param("otel_headers", "no pair", id="headers"),
        pytest.param("otel_sample_ratio", "1.5", id="more than all"),
    ],
)
def test_settings_that_cannot_be_meant_stop_the_start(setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"GATEWAY_{setting.upper()}"):
        load_settings(**{setting: value})
