"""`/admin/creators/{id}/keys`, `/admin/keys` and `/admin/admin-keys`: made, listed, changed, paused, rotated, revoked.

A key's text is in the one answer that makes it and nowhere else.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.accounts import GRACE_S_DEFAULT, GRACE_S_MAX, LIFETIME_S_MAX
from gateway.endpoints import Form, json_response, read_form
from gateway.endpoints.admin.creators import JsonObject, Name, accounts_of, page_of
from gateway.endpoints.csv_files import csv_of_rows
from gateway.endpoints.parameters import choice, known_parameters
from gateway.roles import Role

_ADMIN_COLUMNS = ("id", "name", "role", "status", "created_at", "revoked_at")


def _an_instant(text: str) -> str:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ValueError("takes an RFC 3339 instant with its offset, such as 2030-01-31T12:00:00Z")
    return text


Instant = Annotated[str, Field(max_length=64), AfterValidator(_an_instant)]
ModelName = Annotated[Name, Field(min_length=1)]
KeyId = Annotated[str, Field(pattern="^[A-Za-z0-9]{12}$")]
"""The public part of a key. Whoever chooses it gets one key for it, however often it is asked for."""


class KeyForm(Form):
    id: KeyId | None = None
    """The key's public id; None lets the gateway choose."""
    name: Name = ""
    models: Annotated[list[ModelName], Field(min_length=1, max_length=1_000)] | None = None
    """None allows every model. An empty list is refused: it reads as all to some and as none to others."""
    expires_at: Instant | None = None
    expires_in_s: Annotated[int, Field(ge=1, le=LIFETIME_S_MAX)] | None = None
    overrides: JsonObject = Field(default_factory=dict)
    scopes: Annotated[list[Literal["act_for"]], Field(max_length=1)] = Field(default_factory=list)
    """`act_for`: a service key, whose calls may be another creator's."""
    default_plan: str | None = None
    """Of creators whom such a key is the first to name; None refuses them."""


class RotationForm(Form):
    id: KeyId | None = None
    """The new key's."""
    grace_s: Annotated[int, Field(ge=0, le=GRACE_S_MAX)] = GRACE_S_DEFAULT


class AdminKeyForm(Form):
    id: KeyId | None = None
    name: Annotated[Name, Field(min_length=1)] = ""
    """Of the admin who gets the key: the audit log tells people apart by it."""
    role: Role = "owner"


class AdminKeyChanges(Form):
    name: Annotated[Name, Field(min_length=1)] = ""
    role: Role = "owner"


class NoForm(Form):
    """A body that takes no field."""


async def create_key(request: Request) -> Response:
    form = await read_form(request, KeyForm)
    expires_at = None if form.expires_at is None else datetime.fromisoformat(form.expires_at)
    fields = {**dict(form), "expires_at": expires_at}
    return json_response(await accounts_of(request).create_key(request.path_params["id"], **fields), 201)


async def list_keys(request: Request) -> Response:
    return json_response(await accounts_of(request).list_keys(request.path_params["id"], **page_of(request)))


async def revoke_key(request: Request) -> Response:
    return json_response(await accounts_of(request).revoke_key(request.path_params["id"]))


async def pause_key(request: Request) -> Response:
    await read_form(request, NoForm)
    return json_response(await accounts_of(request).pause_key(request.path_params["id"]))


async def resume_key(request: Request) -> Response:
    await read_form(request, NoForm)
    return json_response(await accounts_of(request).resume_key(request.path_params["id"]))


async def rotate_key(request: Request) -> Response:
    form = await read_form(request, RotationForm)
    key_id = request.path_params["id"]
    rotated = await accounts_of(request).rotate_key(key_id, grace_s=form.grace_s, new_id=form.id)
    return json_response(rotated, 201)


async def create_admin_key(request: Request) -> Response:
    form = await read_form(request, AdminKeyForm)
    return json_response(await accounts_of(request).create_admin_key(**dict(form)), 201)


async def list_admin_keys(request: Request) -> Response:
    query = known_parameters(request.query_params, {"format"})
    found = await accounts_of(request).list_admin_keys()
    if choice(query, "format", {"json", "csv"}, "json") == "csv":
        return csv_of_rows("admin-keys", _ADMIN_COLUMNS, found["data"])
    return json_response(found)


async def update_admin_key(request: Request) -> Response:
    changes = await read_form(request, AdminKeyChanges)
    named = changes.model_dump(include=changes.model_fields_set)
    return json_response(await accounts_of(request).update_admin_key(request.path_params["id"], named))


async def revoke_admin_key(request: Request) -> Response:
    return json_response(await accounts_of(request).revoke_admin_key(request.path_params["id"]))


routes = [
    Route("/admin/creators/{id}/keys", create_key, methods=["POST"]),
    Route("/admin/creators/{id}/keys", list_keys, methods=["GET"]),
    Route("/admin/keys/{id}", revoke_key, methods=["DELETE"]),
    Route("/admin/keys/{id}/rotate", rotate_key, methods=["POST"]),
    Route("/admin/keys/{id}/pause", pause_key, methods=["POST"]),
    Route("/admin/keys/{id}/resume", resume_key, methods=["POST"]),
    Route("/admin/admin-keys", create_admin_key, methods=["POST"]),
    Route("/admin/admin-keys", list_admin_keys, methods=["GET"]),
    Route("/admin/admin-keys/{id}", update_admin_key, methods=["PATCH"]),
    Route("/admin/admin-keys/{id}", revoke_admin_key, methods=["DELETE"]),
]
