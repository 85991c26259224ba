"""`/dashboard/admins`: who has an admin key, and with which role. For owners; a new key is shown once, in the answer to the form."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.dashboard.api import api_of
from gateway.dashboard.forms import NOTHING_WRONG, Problem, done, key_id, was_made_before
from gateway.dashboard.page_query import page_query, problem_of
from gateway.dashboard.render import read_fields, render
from gateway.dashboard.viewer import viewer_of
from gateway.errors import GatewayError, RequestError
from gateway.roles import ROLES

_PATH = "/dashboard/admins"
_MEANING = {
    "owner": "everything",
    "finance": "reads everything, changes nothing",
    "support": "neither sees nor moves money",
}


async def show_admins(request: Request) -> Response:
    page_query(request)
    return await _page(request)


async def make_admin(request: Request) -> Response:
    """The form has chosen the key's id: sent again, it makes no other key."""
    fields = await read_fields(request, "id", "name", "role")
    try:
        _require_name(fields)
        asked = {name: value for name, value in fields.items() if value or name != "id"}
        made = await api_of(request).send("POST", "/admin/admin-keys", asked)
    except GatewayError as error:
        if was_made_before(error):
            shown = {"key_id": fields["id"], "back": _PATH, "place": "admins"}
            return render(request, "key_shown.html", title="This key was made before", status=409, **shown)
        return await _refused(request, error, "new", fields)
    return await _page(request, made=made)


async def change_admin(request: Request) -> Response:
    fields = await read_fields(request, "name", "role")
    try:
        _require_name(fields)
        await api_of(request).send("PATCH", _api_path(request), fields)
    except GatewayError as error:
        return await _refused(request, error, f"change-{request.path_params['id']}", fields)
    return done(request, _PATH, "admin_changed")


async def revoke_admin(request: Request) -> Response:
    await read_fields(request)
    try:
        await api_of(request).send("DELETE", _api_path(request))
    except GatewayError as error:
        return await _refused(request, error, f"revoke-{request.path_params['id']}", {})
    return done(request, _PATH, "admin_revoked")


async def _refused(request: Request, error: GatewayError, form: str, fields: Mapping[str, str]) -> Response:
    return await _page(request, problem=Problem(form, problem_of(error), fields), status=error.status)


async def _page(
    request: Request,
    *,
    problem: Problem = NOTHING_WRONG,
    status: int = 200,
    made: Mapping[str, Any] | None = None,
) -> Response:
    viewer = viewer_of(request)
    if not viewer.is_owner:
        raise RequestError("This page is for admins with the role `owner`.", status=403, code="role_not_allowed")
    rows = (await api_of(request).get("/admin/admin-keys"))["data"]
    return render(
        request,
        "admins.html",
        title="Admins",
        status=status,
        problem=problem,
        made=made,
        new_key_id=key_id,
        active=[row for row in rows if row["status"] == "active"],
        revoked=[row for row in rows if row["status"] == "revoked"],
        own_id="" if viewer.admin is None else viewer.admin.key_id,
        roles=[(role, f"{role}: {_MEANING[role]}") for role in ROLES],
    )


def _require_name(fields: Mapping[str, str]) -> None:
    if not fields["name"]:
        raise RequestError("Say whose key it is: the audit log tells admins apart by that.", code="invalid_value")


def _api_path(request: Request) -> str:
    return f"/admin/admin-keys/{request.path_params['id']}"


routes = [
    Route(_PATH, show_admins, methods=["GET"]),
    Route(_PATH, make_admin, methods=["POST"]),
    Route(f"{_PATH}/{{id}}", change_admin, methods=["POST"]),
    Route(f"{_PATH}/{{id}}/revoke", revoke_admin, methods=["POST"]),
]
