"""`/dashboard/policies`: the plans as they stand; `/dashboard/policies/{plan}`: one plan, and what another one would have done.

A rehearsal changes nothing, so that its form is a GET: what was asked stands in the address, and the answer says which
lines the plans file would need. Only the fields that differ from the plan are asked for.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.dashboard.api import api_of
from gateway.dashboard.render import render
from gateway.dashboard.viewer import viewer_of
from gateway.endpoints.parameters import known_parameters, whole_number
from gateway.errors import GatewayError, NotFound
from policies.types import BudgetAction

_DAYS_DEFAULT = 30
_DAYS_MAX = 90
_BUDGET = "budget_usd_per_month"
_NOT_SHOWN = frozenset({"name", "creators", "budget_is_auto"})
"""Of a plan, in its table of keys."""
_SHOWN_MAX = 200


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
_MONEY = frozenset({"quota_usd_per_month", _BUDGET, "budget_hard_usd_per_month"})


async def show_policies(request: Request) -> Response:
    known_parameters(request.query_params, ())
    found = await api_of(request).get("/admin/policies")
    return render(
        request,
        "policies.html",
        title="Policies",
        mode=found["mode"],
        plans=found["plans"],
        downgrades=found["downgrades"],
        text_of=_text_of,
    )


async def show_policy(request: Request) -> Response:
    """The plan; with `days` in the query also the rehearsal of what else stands there."""
    found = await api_of(request).get("/admin/policies")
    plan = next((each for each in found["plans"] if each["name"] == request.path_params["plan"]), None)
    if plan is None:
        raise NotFound("There is no plan of this name.", code="plan_unknown")
    # Fields are empty where a client leaves them so: the plan then stays as it is.
    query = known_parameters(request.query_params, (*_KEYS, "days", "creators"))
    said = {key: query[key].strip() for key in _KEYS if query.get(key, "").strip()}
    report, problem, status = None, "", 200
    if "days" in query and viewer_of(request).sees_money:
        try:
            report = await _rehearse(request, plan, said, query)
        except GatewayError as error:
            if error.status >= 500 or error.status == 403:
                raise
            problem, status = error.message, error.status
    return render(
        request,
        "policy.html",
        title=f"Plan {plan['name']}",
        status=status,
        mode=found["mode"],
        plan=plan,
        keys=[(key, _text_of(plan, key)) for key in plan if key not in _NOT_SHOWN],
        fields=[(field, said.get(field.key, _text_of(plan, field.key))) for field in _FIELDS],
        actions=[(action, action.replace("_", " ")) for action in get_args(BudgetAction)],
        action=said.get(_ACTION, _text_of(plan, _ACTION)),
        days=query.get("days", str(_DAYS_DEFAULT)),
        creators=query.get("creators", ""),
        report=report,
        rows=[] if report is None else report["creators"][:_SHOWN_MAX],
        chart=[] if report is None else [_bar(day) for day in report["by_day"]],
        first_of=_first_of,
        problem=problem,
    )


async def _rehearse(
    request: Request, plan: Mapping[str, Any], said: Mapping[str, str], query: Mapping[str, str]
) -> dict[str, Any]:
    """Raises `GatewayError`: what cannot be rehearsed is said beside the form."""
    changes = {key: _value(key, text) for key, text in said.items() if text != _text_of(plan, key)}
    days = whole_number(query, "days", default=_DAYS_DEFAULT, least=1, most=_DAYS_MAX)
    asked: dict[str, Any] = {"plan": plan["name"], "changes": changes, "days": days}
    if named := [name for name in (part.strip() for part in query.get("creators", "").split(",")) if name]:
        asked["creators"] = named
    report: dict[str, Any] = await api_of(request).send("POST", "/admin/rehearsals", asked)
    return report


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
