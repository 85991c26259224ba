"""What operations of the admin API have in common: an admin key, the roles that are enforced, forms out of their classes."""

from pydantic import BaseModel

from gateway.endpoints.admin.permissions import PERMISSIONS
from gateway.openapi import errors
from gateway.openapi.shapes import Answer, Body, Operation, Schema, choice, integer, listing, query
from gateway.roles import ROLES

__all__ = ["CSV", "CURSOR", "FORMAT", "OBJECT", "OBJECTS", "YES_OR_NO", "admin_operation", "form_schema", "page_limit"]

OBJECT: Schema = {"type": "object"}
OBJECTS = listing(OBJECT)
CSV = ("application/json", "text/csv")
YES_OR_NO = choice(["true", "false"])
FORMAT = query("format", "A file with all that fits.", choice(["json", "csv"], default="json"))
CURSOR = query("cursor", "The `next_cursor` of an answer.")


def form_schema(form: type[BaseModel]) -> Schema:
    """What the form takes, with no references out of it. Raises nothing: amounts, read by hand, are said here."""
    made = form.model_json_schema()
    made.pop("title", None)
    made.pop("description", None)
    for name, schema in made.get("properties", {}).items():
        schema.pop("title", None)
        if name in ("credits", "amount_usd"):
            schema["type"] = ["integer", "string", "null"]
            schema["description"] = 'An integer, or a decimal string such as "2.5".'
    return made


def page_limit(most: int, default: int) -> Schema:
    return query("limit", "How many.", integer(minimum=1, maximum=most, default=default))


def admin_operation(
    method: str,
    path: str,
    tag: str,
    summary: str,
    description: str,
    answer: Answer,
    codes: tuple[errors.Code, ...] = (),
    parameters: tuple[Schema, ...] = (),
    *,
    form: type[BaseModel] | None = None,
    example: object = None,
) -> Operation:
    if form is not None:
        codes = (*codes, *errors.FORM)
    body = None
    if form is not None:
        schema = form_schema(form)
        body = Body(schema, is_required=bool(schema.get("required")))
    return Operation(
        method,
        path,
        tag,
        summary,
        description,
        answer,
        (*errors.ADMIN, *codes),
        ("adminKey",),
        parameters,
        body,
        _roles(method, path),
        example,
    )


def _roles(method: str, path: str) -> tuple[str, ...]:
    """Who may: what the table does not name is the owner's alone."""
    plain = {(known, route.replace(":path}", "}")): roles for (known, route), roles in PERMISSIONS.items()}
    allowed = plain.get((method, path), frozenset({"owner"}))
    return tuple(role for role in ROLES if role == "owner" or role in allowed)
