"""`GET /admin/providers`: every provider and deployment, and how they are doing in this process; `GET
/admin/providers/figures`: how they did in the last hour or day, out of the ledger's newest entries.

With `format=csv` both are files: a row for each deployment, and one for each model at each provider.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.catalog import Catalog
from gateway.endpoints import json_response
from gateway.endpoints.csv_files import csv_of_rows
from gateway.endpoints.parameters import choice, database_of, known_parameters
from gateway.ledger.periods import DAY_MS, now_ms
from gateway.ledger.provider_figures import provider_figures
from gateway.routing import Deployments

_DEPLOYMENT = """provider dialect has_key upstream_model models state retry_in_s troubled_for_s failures_in_a_row
    last_error""".split()
_TIMES = ("latency_ms", "ttft_ms")
_FIGURES = """provider served_model calls errors failed_attempts latency_p50_ms latency_p95_ms ttft_p50_ms ttft_p95_ms
    last_error_at last_error_outcome last_error_error last_error_status""".split()
_WINDOWS_MS: Mapping[str, int] = {"1h": DAY_MS // 24, "24h": DAY_MS}


async def list_providers(request: Request) -> Response:
    form = choice(known_parameters(request.query_params, {"format"}), "format", {"json", "csv"}, "json")
    catalog: Catalog = request.app.state.live.catalog
    deployments: Deployments = request.app.state.deployments
    by_provider: dict[str, list[dict[str, object]]] = {}
    for deployment in deployments.state(catalog):
        by_provider.setdefault(str(deployment["provider"]), []).append(deployment)
    shown = [
        {
            "id": row.name,
            "object": "provider",
            "dialect": row.dialect,
            "base_url": row.base_url,
            "has_key": bool(not row.api_key_env or by_provider.get(row.name)),
            "deployments": by_provider.get(row.name, []),
        }
        for row in catalog.providers.values()
    ]
    if form == "csv":
        return csv_of_rows("providers", _DEPLOYMENT, list(_deployment_rows(shown)))
    return json_response({"object": "list", "data": shown})


async def show_figures(request: Request) -> Response:
    """Of kept answers nothing is told, which no provider gave. What was read is bounded, and told."""
    query = known_parameters(request.query_params, {"window", "format"})
    form = choice(query, "format", {"json", "csv"}, "json")
    window = choice(query, "window", _WINDOWS_MS, "1h") or ""
    found = await provider_figures(database_of(request), now_ms() - _WINDOWS_MS[window])
    if form == "csv":
        return csv_of_rows("provider-figures", _FIGURES, list(_figure_rows(found["data"])))
    return json_response({"window": window, **found})


def _deployment_rows(providers: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A provider without deployments has a row as well."""
    for provider in providers:
        for each in provider["deployments"] or [{}]:
            yield {**each, "provider": provider["id"], "dialect": provider["dialect"], "has_key": provider["has_key"]}


def _figure_rows(data: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All of a provider's calls first, under no model, then each model's."""
    for line in data:
        for each in (line, *line["models"]):
            times = {f"{name[:-3]}_{rank}_ms": each[name][rank] for name in _TIMES for rank in ("p50", "p95")}
            last = {f"last_error_{name}": value for name, value in (each["last_error"] or {}).items()}
            yield {**each, **times, **last, "provider": line["provider"]}


routes = [
    Route("/admin/providers", list_providers, methods=["GET"]),
    Route("/admin/providers/figures", show_figures, methods=["GET"]),
]
