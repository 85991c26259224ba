"""`/dashboard/models`: the catalog and its prices, one model's use; `/dashboard/price-diff`: what public lists say else;
`/dashboard/estimate`: what a call would cost, and what would become of it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.catalog import ENDPOINTS
from gateway.dashboard.api import api_of
from gateway.dashboard.call_words import reached_limits
from gateway.dashboard.estimates import FIELDS, estimate_form
from gateway.dashboard.page_query import page_query, page_url, problem_of
from gateway.dashboard.render import read_fields, render
from gateway.errors import GatewayError
from gateway.estimating import READERS

_PATH = "/dashboard/models"
_FILTERS = ("endpoint", "provider", "capability", "state")
_STATES = (("", "any"), ("active", "active"), ("inactive", "inactive"))
_USE_DAYS = 30
_REASONS: Mapping[str, str] = {
    "no_provider_key": "no provider key is set",
    "switched_off": "switched off in the catalog",
}


async def list_models(request: Request) -> Response:
    query = page_query(request, *_FILTERS)
    api = api_of(request)
    found = await api.get("/admin/models")
    models = found["data"]
    fitting = (await api.get("/admin/models", **query))["data"] if query else models
    return render(
        request,
        "models.html",
        title="Models and prices",
        version=found["version"],
        models=[{**model, "prices": list(_prices(model["price"]))} for model in fitting],
        total=len(models),
        filters=query,
        export_url=page_url("/dashboard/export/models", query),
        reasons=_REASONS,
        endpoints=_options(sorted(ENDPOINTS)),
        providers=_options(sorted({name for model in models for name in _providers_of(model)})),
        capabilities=_options(sorted({name for model in models for name in model["capabilities"]})),
        states=_STATES,
    )


async def show_model(request: Request) -> Response:
    api = api_of(request)
    page_query(request)
    model = await api.get(f"/admin/models/{request.path_params['name']}")
    today = request.app.state.clock().date()
    days = [(today - timedelta(days=ago)).isoformat() for ago in reversed(range(_USE_DAYS))]
    use = await api.get("/admin/costs", group_by="day", model=model["id"], **{"from": days[0]})
    by_day = {row["day"]: row for row in use["data"]}
    return render(
        request,
        "model.html",
        title=model["display_name"],
        model=model,
        reasons=_REASONS,
        prices=list(_prices(model["price"])),
        versions=[{**each, "prices": list(_prices(each["price"] or {}))} for each in model["versions"]],
        use_days=_USE_DAYS,
        totals=use["totals"],
        calls_rows=[(day, [by_day.get(day, {}).get("calls", 0)]) for day in days],
        cost_rows=[(day, [by_day.get(day, {}).get("cost_nano_usd", 0)]) for day in days],
    )


async def show_diff(request: Request) -> Response:
    page_query(request)
    found = await api_of(request).get("/admin/prices/diff")
    return render(request, "price_diff.html", title="Prices beside public lists", **found)


async def show_estimator(request: Request) -> Response:
    """The form alone; `model`, `endpoint` and `creator` may be filled in by a link."""
    return await _estimator(request, page_query(request, "model", "endpoint", "creator"), None, "", 200)


async def show_estimate(request: Request) -> Response:
    """A POST, because what would be asked does not belong into addresses; it changes nothing."""
    fields = await read_fields(request, *FIELDS)
    try:
        found = await api_of(request).send("POST", "/admin/estimate", estimate_form(fields))
    except GatewayError as error:
        return await _estimator(request, fields, None, problem_of(error), error.status)
    return await _estimator(request, fields, found, "", 200)


async def _estimator(
    request: Request, fields: Mapping[str, str], found: Mapping[str, Any] | None, problem: str, status: int
) -> Response:
    models = (await api_of(request).get("/admin/models"))["data"]
    names = [model["id"] for model in models if model["active"] and not READERS.keys().isdisjoint(model["endpoints"])]
    asked = fields.get("model", "")
    if asked and asked not in names:
        names.insert(0, asked)
    return render(
        request,
        "estimate.html",
        title="Estimate of a call",
        status=status,
        fields=fields,
        models=[(name, name) for name in names],
        endpoints=[(name, name) for name in sorted(READERS)],
        found=found,
        reached=reached_limits(() if found is None else found["downgrades"], "capacity"),
        prices=[] if found is None else list(_prices(found["price"])),
        problem=problem,
    )


def _providers_of(model: Mapping[str, Any]) -> Sequence[str]:
    return [each["provider"] for each in model["deployments"]] or [model["provider"]]


def _options(names: Sequence[str]) -> list[tuple[str, str]]:
    return [("", "any"), *((name, name) for name in names)]


_UNITS = (
    ("_usd_per_mtok", "million tokens"),
    ("_usd_per_mchar", "million characters"),
    ("_usd_per_second", "second"),
)


def _prices(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str, str]]:
    """Every price of a table and of those below it: what it is of, US dollars, and per what."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            if name == "image_usd":
                yield from ((f"{path}image {size}", each, "image") for size, each in value.items())
            else:
                below = "" if name == "service_tiers" else f"{name.replace('_', ' ')}, "
                yield from _prices(value, f"{path}{below}")
        elif name == "image_usd":
            yield f"{path}image", value, "image"
        else:
            for ending, unit in _UNITS:
                if name.endswith(ending):
                    yield f"{path}{name.removesuffix(ending).replace('_', ' ')}", value, unit


routes = [
    Route(_PATH, list_models, methods=["GET"]),
    Route(f"{_PATH}/{{name:path}}", show_model, methods=["GET"]),
    Route("/dashboard/price-diff", show_diff, methods=["GET"]),
    Route("/dashboard/estimate", show_estimator, methods=["GET"]),
    Route("/dashboard/estimate", show_estimate, methods=["POST"]),
]
