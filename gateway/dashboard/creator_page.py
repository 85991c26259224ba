"""One creator's page: who it is, what its limits say, where its month goes, its credits, its keys and its latest calls.

Everything is asked of the API as the viewer may ask it. Who must not see money is not shown its parts; who may not change
anything is offered no form.
"""

from collections.abc import Mapping
from datetime import UTC, date, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.dashboard.api import Api, api_of
from gateway.dashboard.call_words import outcome_kind
from gateway.dashboard.forms import NOTHING_WRONG, Problem, key_id, posting_key
from gateway.dashboard.months_shown import burn_down
from gateway.dashboard.render import render
from gateway.dashboard.viewer import viewer_of
from gateway.errors import GatewayError, RequestError
from gateway.roles import Role

__all__ = ["creator_path", "require_role", "show_creator_page"]

_KEYS_SHOWN = 100
_GRANTS_SHOWN = 20
_CALLS_SHOWN = 10
_NANO = 10**9


def creator_path(creator: str) -> str:
    """Where the creator's page is. A creator may be called as the form for new ones is."""
    return f"/dashboard/creators/{creator}" + ("/page" if creator == "new" else "")


def require_role(request: Request, *roles: Role) -> None:
    """For pages that only lead to what the API allows these roles. Raises `RequestError` (403)."""
    admin = viewer_of(request).admin
    if admin is None or admin.role not in roles:
        raise RequestError("Your role may not do this.", status=403, code="role_not_allowed")


async def show_creator_page(
    request: Request, creator: str, *, status: int = 200, problem: Problem = NOTHING_WRONG
) -> Response:
    """The page, with `problem` beside the form it is about. Raises `GatewayError`: 404 for a creator nobody knows."""
    api, viewer = api_of(request), viewer_of(request)
    path = f"/admin/creators/{creator}"
    facts = await api.get(path)
    today = request.app.state.clock().astimezone(UTC).date()
    limits, limits_problem = await _limits(api, path)
    keys = await api.get(f"{path}/keys", limit=_KEYS_SHOWN, cursor=request.query_params.get("keys"))
    money = await _money_parts(api, creator, limits, today) if viewer.sees_money else {}
    role = viewer.admin.role if viewer.admin else None
    return render(
        request,
        "creator.html",
        title=facts["name"] or creator,
        status=status,
        creator=creator,
        base=f"/dashboard/creators/{creator}",
        page_path=creator_path(creator),
        facts=facts,
        overrides_text=_indented(facts["overrides"]),
        limits=limits,
        limits_problem=limits_problem,
        refusals=(await api.get(f"{path}/refusals"))["data"],
        calls=(await api.get("/admin/ledger", creator=creator, limit=_CALLS_SHOWN))["data"],
        calls_path=f"/dashboard/calls?{urlencode({'creator': creator})}",
        keys=keys["data"],
        keys_next=f"{creator_path(creator)}?{urlencode({'keys': keys['next_cursor']})}" if keys["next_cursor"] else "",
        plans=await _plans(api, facts["plan"]),
        posting_key=posting_key,
        new_key_id=key_id,
        problem=problem,
        outcome_kind=outcome_kind,
        sees_money=viewer.sees_money,
        may_change=role == "owner",
        may_keep_keys=role in ("owner", "support"),
        **{**_NO_MONEY, **money},
    )


_NO_MONEY: Mapping[str, Any] = {
    "balance": None,
    "grants": [],
    "packages": [],
    "by_day": [],
    "by_model": [],
    "by_feature": [],
    "burn_columns": [],
    "burn_rows": [],
    "exports": {},
}


async def _limits(api: Api, path: str) -> tuple[Any, str]:
    """How the limits stand, or why nobody can tell: a plan that is gone, overrides that mean nothing any more."""
    try:
        return await api.get(f"{path}/limits"), ""
    except GatewayError as error:
        if error.status != 403 or error.code == "role_not_allowed":
            raise
        return None, error.message


async def _money_parts(api: Api, creator: str, limits: Any, today: date) -> dict[str, Any]:
    span = {"creator": creator, "from": f"{today:%Y-%m}-01", "to": (today + timedelta(days=1)).isoformat()}

    async def usage(group_by: str) -> list[dict[str, Any]]:
        answer = await api.get("/admin/costs", group_by=group_by, kind="usage", **span)
        return list(answer["data"])

    spent = await api.get("/admin/costs", group_by="day", **span)
    # What `limits` says of the month, where it can be said.
    month = {} if limits is None else limits["month"]
    columns, rows = burn_down(
        {row["day"]: row["cost_nano_usd"] for row in spent["data"]},
        today,
        _nano(month.get("budget_usd")),
        month.get("forecast_cost_nano_usd", spent["totals"]["cost_nano_usd"]),
    )
    credit = await api.get(f"/admin/creators/{creator}/credits", limit=_GRANTS_SHOWN)
    packages = (await api.get("/admin/credit-packages"))["data"]
    return {
        "balance": credit["balance"],
        "grants": credit["data"],
        "packages": [("", "None"), *((package["name"], _package_words(package)) for package in packages)],
        "by_day": await usage("day"),
        "by_model": await usage("model"),
        "by_feature": await usage("feature"),
        "burn_columns": columns,
        "burn_rows": rows,
        "exports": {
            "usage": f"/dashboard/export/costs?{urlencode({**span, 'group_by': 'day,model,feature'})}",
            "calls": f"/dashboard/export/ledger?{urlencode({'creator': creator})}",
        },
    }


def _package_words(package: Mapping[str, Any]) -> str:
    return f"{package['name']}: {package['credits']} credits"


async def _plans(api: Api, current: str) -> list[tuple[str, str]]:
    """What the plan can be changed to. One that left the file stands first, or sending the form would change it."""
    names = [plan["name"] for plan in (await api.get("/admin/plans"))["data"]]
    return [(name, name) for name in ([] if current in names else [current]) + names]


def _indented(overrides: Any) -> str:
    """JSON to be edited; nothing where there are none, or what is stored is none."""
    return orjson.dumps(overrides, option=orjson.OPT_INDENT_2).decode() if overrides else ""


def _nano(usd: str | None) -> int | None:
    return None if usd is None else int(Decimal(usd) * _NANO)
