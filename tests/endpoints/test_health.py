"""What those who watch are told: well, degraded but serving, or not serving."""

from collections.abc import Mapping
from types import SimpleNamespace

import httpx
import pytest
from starlette.applications import Starlette

from gateway.endpoints import health
from tests.test_metrics import metrics


def client(checks: Mapping[str, str], troubled: tuple[str, ...] = ()) -> httpx.AsyncClient:
    app = Starlette(routes=health.routes)
    app.state.readiness = lambda: dict(checks)
    app.state.deployments = SimpleNamespace(troubled=lambda: troubled)
    app.state.metrics = metrics()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


@pytest.mark.parametrize(
    ("checks", "code", "status"),
    [
        pytest.param({"database": "ok", "counters": "ok"}, 200, "ok", id="well"),
        pytest.param({"database": "ok", "counters": "degraded: local share"}, 200, "degraded", id="degraded"),
        pytest.param({"database": "gone", "counters": "degraded: local share"}, 503, "unavailable", id="worse"),
        pytest.param({"database": "ok", "gateway": "draining"}, 503, "unavailable", id="draining"),
    ],
)
async def test_ready_is_whoever_takes_calls(checks: dict[str, str], code: int, status: str) -> None:
    async with client(checks) as http:
        answer = await http.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (code, status)
    assert answer.json()["checks"] == {**checks, "providers": "ok"}


async def test_a_provider_in_trouble_is_told_and_keeps_nobody_away() -> None:
    async with client({"database": "ok"}, ("openai", "fal")) as http:
        answer = await http.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert answer.json()["checks"]["providers"] == "openai, fal"


async def test_whoever_lives_says_so_and_shows_its_numbers() -> None:
    async with client({"database": "gone"}) as http:
        assert (await http.get("/health/live")).json() == {"status": "ok"}
        answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "gateway_ready 1.0" in answer.text.splitlines()
