"""What the pages of creators do: make, change, delete; grant and adjust; and everything about virtual keys.

Each form is sent to the API as it stands; what the API refuses is said beside the form, with all that had been filled in.
What was done is followed by a GET, so that loading the page again does nothing twice. The text of a new key is in the
answer to the form that made it, and nowhere else: the form has chosen the key's public id, so that sent again it makes no
other key, and is answered that the key was shown before.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.dashboard.api import api_of
from gateway.dashboard.creator_page import creator_path, require_role, show_creator_page
from gateway.dashboard.creators import show_new
from gateway.dashboard.forms import Done, Problem, done, was_made_before
from gateway.dashboard.render import read_fields, render
from gateway.errors import GatewayError, RequestError

_ROOT = "/dashboard/creators"
_FIRST_KEY = "first key"
_NOT_FOUND = 404
_CHANGED = ("name", "plan", "is_active", "overrides")
_NAIVE_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?")
_BETWEEN_MODELS = re.compile(r"[,\r\n]+")

Fields = Mapping[str, str]


# Creators


async def create(request: Request) -> Response:
    """Sent again it finds its creator and its key: by the ids that the form has chosen, or that were filled in."""
    fields = await read_fields(request, "id", "name", "plan", "overrides", "key_id")
    api, key_id = api_of(request), fields["key_id"]
    creator = fields["id"] or (f"cr_{key_id}" if key_id else "")
    try:
        body = _sent(fields, "name", "plan") | ({"id": creator} if creator else {}) | _overrides(fields)
        creator = (await api.send("POST", "/admin/creators", body))["id"]
    except GatewayError as error:
        if not await _is_own(request, error, creator, key_id):
            return await show_new(request, error.status, _problem("new", error, fields))
    asked = {"name": _FIRST_KEY} | ({"id": key_id} if key_id else {})
    try:
        key = await api.send("POST", f"/admin/creators/{creator}/keys", asked)
    except GatewayError as error:
        if was_made_before(error):
            return _key_shown_before(request, creator, key_id)
        raise
    return _key_made(request, f"Creator {creator} is made", key)


async def _is_own(request: Request, error: GatewayError, creator: str, key_id: str) -> bool:
    """Whether the creator that is in the way is the one that this very form has made."""
    if error.code != "creator_exists" or not key_id:
        return False
    if creator == f"cr_{key_id}":
        return True
    try:
        keys = (await api_of(request).get(f"/admin/creators/{creator}/keys", limit=1))["data"]
    except GatewayError as missing:
        if missing.status == _NOT_FOUND:
            return False  # it was deleted
        raise
    return [key["id"] for key in keys] == [key_id]


async def change(request: Request) -> Response:
    fields = await read_fields(request, *_CHANGED, *(f"was_{name}" for name in _CHANGED))

    async def work(creator: str) -> None:
        after = _creator_fields(fields, "")
        before = _creator_fields(fields, "was_")
        # What others changed meanwhile, and this form did not touch, stays theirs.
        changed = {name: value for name, value in after.items() if value != before[name]}
        if changed:
            await api_of(request).send("PATCH", f"/admin/creators/{creator}", changed)

    return await _carried_out(request, "change", fields, work, "saved")


async def delete(request: Request) -> Response:
    fields = await read_fields(request, "confirm")
    creator = request.path_params["id"]
    if fields["confirm"] != creator:
        wrong = Problem("delete", "Type the id of the creator to delete it.", fields)
        return await show_creator_page(request, creator, status=422, problem=wrong)
    await api_of(request).send("DELETE", f"/admin/creators/{creator}")
    return done(request, _ROOT, "creator_deleted")


# Credits and corrections


async def grant(request: Request) -> Response:
    fields = await read_fields(request, "payer", "credits", "package", "expires_at", "note", "idempotency_key")

    async def work(creator: str) -> None:
        body = _sent(fields, "payer", "credits", "package", "note", "idempotency_key") | _expiry(fields)
        await api_of(request).send("POST", f"/admin/creators/{creator}/credits", body)

    return await _carried_out(request, "grant", fields, work, "granted")


async def adjust(request: Request) -> Response:
    fields = await read_fields(request, "payer", "amount_usd", "credits", "note", "idempotency_key")

    async def work(creator: str) -> None:
        await api_of(request).send("POST", f"/admin/creators/{creator}/adjustments", _sent(fields, *fields))

    return await _carried_out(request, "adjust", fields, work, "adjusted")


# Virtual keys


async def create_key(request: Request) -> Response:
    fields = await read_fields(request, "id", "name", "models", "expires_at", "overrides")
    creator = request.path_params["id"]
    try:
        models = [model for model in map(str.strip, _BETWEEN_MODELS.split(fields["models"])) if model]
        body = (
            _sent(fields, "id", "name") | _expiry(fields) | _overrides(fields) | ({"models": models} if models else {})
        )
        made = await api_of(request).send("POST", f"/admin/creators/{creator}/keys", body)
    except GatewayError as error:
        if was_made_before(error):
            return _key_shown_before(request, creator, fields["id"])
        return await show_creator_page(request, creator, status=error.status, problem=_problem("key", error, fields))
    return _key_made(request, "The key is made", made)


async def rotate_key(request: Request) -> Response:
    fields = await read_fields(request, "id", "grace_s")
    creator, key_id = request.path_params["id"], request.path_params["key"]
    try:
        grace = {"grace_s": _whole("grace_s", fields["grace_s"])} if fields["grace_s"] else {}
        made = await api_of(request).send("POST", f"/admin/keys/{key_id}/rotate", _sent(fields, "id") | grace)
    except GatewayError as error:
        if was_made_before(error):
            return _key_shown_before(request, creator, fields["id"])
        wrong = _problem("keys", error, fields)
        return await show_creator_page(request, creator, status=error.status, problem=wrong)
    return _key_made(request, "The key is rotated", made)


async def pause_key(request: Request) -> Response:
    return await _key_changed(request, "POST", "/pause", "key_paused")


async def resume_key(request: Request) -> Response:
    return await _key_changed(request, "POST", "/resume", "key_resumed")


async def confirm_revoke(request: Request) -> Response:
    require_role(request, "owner", "support")
    creator, key_id = request.path_params["id"], request.path_params["key"]
    return render(
        request,
        "confirm.html",
        title="Revoke a key",
        sentence=f"Calls with the key {key_id} of {creator} will be refused from the next one on. This cannot be undone.",
        action=f"{_ROOT}/{creator}/keys/{key_id}/revoke",
        button="Revoke the key",
        back=creator_path(creator),
    )


async def revoke_key(request: Request) -> Response:
    return await _key_changed(request, "DELETE", "", "key_revoked")


async def _key_changed(request: Request, method: str, what: str, word: Done) -> Response:
    await read_fields(request)

    async def work(creator: str) -> None:
        await api_of(request).send(method, f"/admin/keys/{request.path_params['key']}{what}")

    return await _carried_out(request, "keys", {}, work, word)


def _key_made(request: Request, title: str, key: Mapping[str, Any]) -> Response:
    """The one page that has the key's text: the answer to a POST, which no browser keeps."""
    return render(request, "key_made.html", title=title, status=201, key=key, back=creator_path(key["creator"]))


def _key_shown_before(request: Request, creator: str, key_id: str) -> Response:
    back = creator_path(creator)
    return render(
        request,
        "key_shown.html",
        title="This key was made before",
        status=409,
        key_id=key_id,
        back=back,
        place="creator",
    )


# Forms


async def _carried_out(
    request: Request, form: str, fields: Fields, work: Callable[[str], Awaitable[None]], word: Done
) -> Response:
    """Back to the creator's page once `work` is done, which says so; or the page with what the API has against it."""
    creator = request.path_params["id"]
    try:
        await work(creator)
    except GatewayError as error:
        return await show_creator_page(request, creator, status=error.status, problem=_problem(form, error, fields))
    return done(request, creator_path(creator), word)


def _problem(form: str, error: GatewayError, fields: Fields) -> Problem:
    """Raises `error` itself where filling the form in otherwise would not help: no right to it, or trouble of ours."""
    if error.status in (401, 403) or error.status >= 500:
        raise error
    return Problem(form, error.message, fields)


def _sent(fields: Fields, *names: str) -> dict[str, Any]:
    """What was filled in: an empty field is one that is left out."""
    return {name: fields[name] for name in names if fields[name]}


def _expiry(fields: Fields) -> dict[str, str]:
    """A browser's field for date and time names no zone; the form says that it means UTC."""
    text = fields["expires_at"]
    if not text:
        return {}
    return {"expires_at": f"{text}Z" if _NAIVE_INSTANT.fullmatch(text) else text}


def _overrides(fields: Fields) -> dict[str, Any]:
    """Raises `RequestError` for what is no JSON; what it may hold is for the API to say."""
    if not fields["overrides"]:
        return {}
    try:
        return {"overrides": orjson.loads(fields["overrides"])}
    except orjson.JSONDecodeError:
        raise RequestError("`overrides` is not valid JSON.", param="overrides", code="invalid_json") from None


def _creator_fields(fields: Fields, prefix: str) -> dict[str, Any]:
    named = {name: fields[f"{prefix}{name}"] for name in _CHANGED}
    overrides = _overrides(named) or {"overrides": {}}
    return {**named, "is_active": _yes_or_no(named["is_active"]), **overrides}


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise RequestError("`is_active` takes yes or no.", param="is_active", code="invalid_value")
    return text == "yes"


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise RequestError(f"`{name}` takes a whole number.", param=name, code="invalid_value")
    return int(text)


_ONE = f"{_ROOT}/{{id}}"
_KEY = f"{_ONE}/keys/{{key}}"
routes = [
    Route(f"{_ROOT}/new", create, methods=["POST"]),
    Route(f"{_ONE}/change", change, methods=["POST"]),
    Route(f"{_ONE}/delete", delete, methods=["POST"]),
    Route(f"{_ONE}/grant", grant, methods=["POST"]),
    Route(f"{_ONE}/adjust", adjust, methods=["POST"]),
    Route(f"{_ONE}/keys", create_key, methods=["POST"]),
    Route(f"{_KEY}/rotate", rotate_key, methods=["POST"]),
    Route(f"{_KEY}/pause", pause_key, methods=["POST"]),
    Route(f"{_KEY}/resume", resume_key, methods=["POST"]),
    Route(f"{_KEY}/revoke", confirm_revoke, methods=["GET"]),
    Route(f"{_KEY}/revoke", revoke_key, methods=["POST"]),
]
