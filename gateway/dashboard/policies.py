"""`/dashboard/policies`: the plans as they stand; `/dashboard/policies/{plan}`: one plan, and what another one would have done.

A rehearsal changes nothing, so that its form is a GET: what was asked stands in the address, and the answer says which
lines the plans file would need. Only the fields that differ from the plan are asked for.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.dashboard.api import api_of
from gateway.dashboard.creator_page import creator_path
from gateway.dashboard.figures import plain, usd_text
from gateway.dashboard.names import names_of
from gateway.dashboard.page_query import refuse_unknown
from gateway.dashboard.render import render
from gateway.dashboard.viewer import viewer_of
from gateway.dashboard.words import limit_words, option_words, payer_words
from gateway.endpoints.parameters import known_parameters, whole_number
from gateway.errors import GatewayError, NotFound
from policies.types import BudgetAction

_DAYS_DEFAULT = 30
_DAYS_MAX = 90
_BUDGET = "budget_usd_per_month"
_NOT_SHOWN = frozenset({"name", "creators", "budget_is_auto", "usable_models"})
"""Of a plan, in its table of keys."""
_LISTS: Mapping[str, str] = {
    "models": "all models",
    "tiers": "all tiers",
    "endpoints": "all endpoints",
    "addresses": "every network",
}
"""Keys that allow what they list -> what they say without a list."""
_SHOWN_MAX = 200
_OVERRIDES_MAX = 100


class _Field(NamedTuple):
    """A key of a plan that the form has."""

    key: str
    label: str
    hint: str = ""


_FIELDS = (
    _Field("requests_per_minute", "Requests a minute"),
    _Field("requests_per_hour", "Requests an hour"),
    _Field("requests_per_day", "Requests a day"),
    _Field("tokens_per_minute", "Tokens a minute"),
    _Field("tokens_per_day", "Tokens a day"),
    _Field("concurrent_calls", "Calls at once"),
    _Field("quota_usd_per_month", "Quota, USD a month"),
    _Field(_BUDGET, "Budget, USD a month"),
    _Field("budget_hard_usd_per_month", "Hard budget, USD a month"),
    _Field("free_images_per_day", "Free images a day"),
    _Field("payers", "Payers, in their order"),
)
_ACTION = "when_budget_reached"
_KEYS = (*(field.key for field in _FIELDS), _ACTION)
_WORDS = frozenset({_ACTION, "cache", "cache_scope", "when_unusual"})
_MONEY = frozenset({"quota_usd_per_month", _BUDGET, "budget_hard_usd_per_month"})


async def show_policies(request: Request) -> Response:
    refuse_unknown(request, ())
    found = await api_of(request).get("/admin/policies")
    return render(
        request,
        "policies.html",
        title="Policies",
        mode=found["mode"],
        plans=found["plans"],
        downgrades=found["downgrades"],
        text_of=_text_of,
        words_of=_words_of,
    )


async def show_policy(request: Request) -> Response:
    """The plan; with `days` in the query also the rehearsal of what else stands there."""
    plan, found = await _plan_of(request)
    query, said = _read(request)
    report, problem, status = None, "", 200
    if "days" in query and viewer_of(request).sees_money:
        try:
            report = await _rehearse(request, plan, said, query)
        except GatewayError as error:
            if error.status >= 500 or error.status == 403:
                raise
            problem, status = error.message, error.status
    rows = [] if report is None else report["creators"][:_SHOWN_MAX]
    overrides = await api_of(request).get(_overrides_path(plan), limit=_OVERRIDES_MAX)
    return render(
        request,
        "policy.html",
        title=f"Plan {plan['name']}",
        status=status,
        mode=found["mode"],
        plan=plan,
        keys=[(key, limit_words(key), _words_of(plan, key)) for key in plan if key not in _NOT_SHOWN],
        fields=[(field, said.get(field.key, _text_of(plan, field.key))) for field in _FIELDS],
        actions=[(action, option_words(action)) for action in get_args(BudgetAction)],
        action=said.get(_ACTION, _text_of(plan, _ACTION)),
        days=query.get("days", str(_DAYS_DEFAULT)),
        creators=query.get("creators", ""),
        report=report,
        rows=rows,
        names=await names_of(api_of(request), (row["creator"] for row in rows)),
        chart=[] if report is None else [_bar(day) for day in report["by_day"]],
        first_of=_first_of,
        overridden=[_overridden(row) for row in overrides["data"]],
        has_more_overridden=overrides["next_cursor"] is not None,
        export_url=None if report is None else _export_url(plan, request),
        problem=problem,
    )


async def _rehearse(
    request: Request, plan: Mapping[str, Any], said: Mapping[str, str], query: Mapping[str, str]
) -> dict[str, Any]:
    """Raises `GatewayError`: what cannot be rehearsed is said beside the form."""
    asked = _asked(plan, said, query)
    report: dict[str, Any] = await api_of(request).send("POST", "/admin/rehearsals", asked)
    return report


async def rehearsal_form(request: Request) -> dict[str, Any]:
    """What the page's address asks to rehearse, as the API takes it. Raises `GatewayError`."""
    plan, _ = await _plan_of(request)
    query, said = _read(request)
    return _asked(plan, said, query)


async def _plan_of(request: Request) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The plan of the path, and all that is told of policies. Raises `NotFound`."""
    found = await api_of(request).get("/admin/policies")
    plan = next((each for each in found["plans"] if each["name"] == request.path_params["plan"]), None)
    if plan is None:
        raise NotFound("There is no plan of this name.", code="plan_unknown")
    return plan, found


def _read(request: Request) -> tuple[Mapping[str, str], dict[str, str]]:
    """The query, and what it says of keys. Fields are empty where a client leaves them so: the plan then stays as it is."""
    refuse_unknown(request, (*_KEYS, "days", "creators"))
    query = known_parameters(request.query_params, (*_KEYS, "days", "creators"))
    return query, {key: query[key].strip() for key in _KEYS if query.get(key, "").strip()}


def _asked(plan: Mapping[str, Any], said: Mapping[str, str], query: Mapping[str, str]) -> dict[str, Any]:
    changes = {key: _value(key, text) for key, text in said.items() if text != _text_of(plan, key)}
    days = whole_number(query, "days", default=_DAYS_DEFAULT, least=1, most=_DAYS_MAX)
    asked: dict[str, Any] = {"plan": plan["name"], "changes": changes, "days": days}
    if named := [name for name in (part.strip() for part in query.get("creators", "").split(",")) if name]:
        asked["creators"] = named
    return asked


def _overrides_path(plan: Mapping[str, Any]) -> str:
    return f"/admin/policies/{quote(plan['name'], safe='')}/overrides"


def _export_url(plan: Mapping[str, Any], request: Request) -> str:
    return f"/dashboard/export/rehearsals/{quote(plan['name'], safe='')}?{request.url.query}"


def _overridden(row: Mapping[str, Any]) -> dict[str, Any]:
    """A creator of the plan with what differs, in words: what, the plan's value, the one in force."""
    changes = [
        (limit_words(key), *(_words_of({"name": "", key: change[end]}, key) for end in ("from", "to")))
        for key, change in row["changes"].items()
        if key not in _NOT_SHOWN
    ]
    return {**row, "changes": changes, "path": creator_path(row["creator"])}


def _text_of(plan: Mapping[str, Any], key: str) -> str:
    """A key of a plan as people write it. Without money (for `support`) some are missing."""
    if key not in plan:
        return "–"
    value = plan[key]
    if key == _BUDGET and plan.get("budget_is_auto"):
        return "auto"
    if value is None:
        return "unlimited"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_inner(each)}" for name, each in value.items()) or "–"
    return str(value)


def _words_of(plan: Mapping[str, Any], key: str) -> str:
    """The same as people read it: money as money, numbers in groups, and no name of the API's."""
    value = plan.get(key)
    if key in _MONEY and value is not None:
        return usd_text(value) + (" (auto)" if key == _BUDGET and plan.get("budget_is_auto") else "")
    if key == "payers" and isinstance(value, list):
        return ", ".join(map(payer_words, value))
    if key in _LISTS and key in plan:
        return _LISTS[key] if value is None else ", ".join(map(str, value)) or "none"
    text = _text_of(plan, key)
    return option_words(text) if key in _WORDS else plain(text)


def _inner(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_inner(each)}" for name, each in value.items())
    return str(value)


def _value(key: str, text: str) -> object:
    """What the form's text is in JSON; what is no number is left to the reader of plans, who says what is wrong."""
    if key == "payers":
        return [part.strip() for part in text.split(",") if part.strip()]
    if key in _MONEY or key == _ACTION:
        return text
    plain = text.replace("_", "").replace(",", "")
    return int(plain) if plain.isascii() and plain.isdigit() and len(plain) <= 18 else text


def _bar(day: Mapping[str, Any]) -> tuple[str, list[int]]:
    return day["day"], [day["before_nano_usd"], day["after_nano_usd"]]


def _first_of(tally: Mapping[str, Any]) -> str | None:
    """When a limit first had a say."""
    firsts = [at for at in (tally["first_downgraded_at"], tally["first_refused_at"]) if at is not None]
    return min(firsts, default=None)


routes = [
    Route("/dashboard/policies", show_policies, methods=["GET"]),
    Route("/dashboard/policies/{plan}", show_policy, methods=["GET"]),
]
