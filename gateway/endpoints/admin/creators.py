"""`/admin/creators`: whom the gateway serves and charges; `/admin/plans`: under which limits; `/admin/credit-packages`: the
sizes in which credits are granted."""

from typing import Annotated, Any, cast

from pydantic import AfterValidator, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.accounts import PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX, Accounts
from gateway.endpoints import Form, json_response, read_form
from gateway.errors import RequestError
from gateway.plans import credit_package_to_json


def _without_control_characters(text: str) -> str:
    if not text.isprintable():
        raise ValueError("takes printable characters only")
    return text


Name = Annotated[str, Field(max_length=200), AfterValidator(_without_control_characters)]
JsonObject = dict[str, Any]


class CreatorForm(Form):
    id: str | None = None
    plan: str | None = None
    name: Name = ""
    overrides: JsonObject = Field(default_factory=dict)
    metadata: JsonObject = Field(default_factory=dict)


class CreatorChanges(Form):
    plan: str = ""
    name: Name = ""
    overrides: JsonObject = Field(default_factory=dict)
    metadata: JsonObject = Field(default_factory=dict)
    is_active: bool = True


def accounts_of(request: Request) -> Accounts:
    return cast(Accounts, request.app.state.accounts)


def page_of(request: Request, *filters: str) -> dict[str, Any]:
    """`limit`, `cursor` and the named filters of a list's query string. Raises `RequestError` for any other."""
    query = request.query_params
    for name in query:
        if name not in {"limit", "cursor", *filters}:
            raise RequestError(
                "This list does not take one of the query's parameters.", status=422, code="unknown_field"
            )
    found: dict[str, Any] = {name: query[name] for name in ("cursor", *filters) if name in query}
    return {"limit": _limit(query.get("limit")), **found}


async def create_creator(request: Request) -> Response:
    form = await read_form(request, CreatorForm)
    return json_response(await accounts_of(request).create_creator(**dict(form)), 201)


async def list_creators(request: Request) -> Response:
    query = page_of(request, "plan", "ids")
    if "ids" in query:
        query["ids"] = query["ids"].split(",")
        if len(query["ids"]) > PAGE_ROWS_MAX:
            raise RequestError(f"`ids` takes at most {PAGE_ROWS_MAX} of them.", param="ids", code="invalid_value")
    return json_response(await accounts_of(request).list_creators(**query))


async def show_creator(request: Request) -> Response:
    return json_response(await accounts_of(request).get_creator(request.path_params["id"]))


async def update_creator(request: Request) -> Response:
    changes = await read_form(request, CreatorChanges)
    named = changes.model_dump(include=changes.model_fields_set)
    return json_response(await accounts_of(request).update_creator(request.path_params["id"], named))


async def delete_creator(request: Request) -> Response:
    return json_response(await accounts_of(request).delete_creator(request.path_params["id"]))


async def list_plans(request: Request) -> Response:
    return json_response(accounts_of(request).list_plans())


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE_ROWS_DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= PAGE_ROWS_MAX):
        raise RequestError(f"`limit` takes 1 to {PAGE_ROWS_MAX}.", param="limit", code="invalid_value")
    return int(text)


async def list_credit_packages(request: Request) -> Response:
    packages = request.app.state.live.credit_packages.values()
    return json_response({"data": [credit_package_to_json(package) for package in packages], "next_cursor": None})


routes = [
    Route("/admin/plans", list_plans, methods=["GET"]),
    Route("/admin/credit-packages", list_credit_packages, methods=["GET"]),
    Route("/admin/creators", create_creator, methods=["POST"]),
    Route("/admin/creators", list_creators, methods=["GET"]),
    Route("/admin/creators/{id}", show_creator, methods=["GET"]),
    Route("/admin/creators/{id}", update_creator, methods=["PATCH"]),
    Route("/admin/creators/{id}", delete_creator, methods=["DELETE"]),
]
