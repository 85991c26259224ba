"""What an audited request is done to: what its route's braces stand for, whose key that is, and what it made.

`id=acme` is found by `acme`, and so is all that is done to the keys of `acme`: `id=AbC,creator=acme`. What a request makes
has its id from the body where one is sent there, and is known for certain when it was answered.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import select
from starlette.types import Scope

from gateway.endpoints.admin.audited_fields import ReadBody, target_of
from gateway.ledger.database import Database
from gateway.ledger.schema import virtual_keys

__all__ = ["MAKES", "target_asked", "target_made"]

MAKES: Mapping[tuple[str, str], str] = {
    ("POST", "/admin/creators"): "id",
    ("POST", "/admin/admin-keys"): "id",
    ("POST", "/admin/creators/{id}/keys"): "key",
    ("POST", "/admin/keys/{id}/rotate"): "key",
}
"""Routes that make something -> what the target calls its id."""
_KEYS = "/admin/keys/{id}"


async def target_asked(scope: Scope, route: tuple[str, str], body: ReadBody) -> str:
    """What is known before it is done. Raises `StoreError`."""
    found = dict(scope["path_params"])
    if route[1].startswith(_KEYS) and (creator := await _creator_of(scope["app"].state.database, found["id"])):
        found["creator"] = creator
    if route in MAKES and isinstance(made := body.fields.get("id"), str):
        found[MAKES[route]] = made
    return target_of(found)


def target_made(target: str, route: tuple[str, str], answer: bytes) -> str:
    """`target` with the id that the answer tells, and nothing else of it: there are keys in such answers."""
    fields: Any = orjson.loads(answer)
    made = target_of({MAKES[route]: fields["id"]})
    return target if made in target.split(",") else ",".join(filter(None, (target, made)))


async def _creator_of(database: Database, key_id: str) -> str | None:
    row = await database.fetch_one(select(virtual_keys.c.creator_id).where(virtual_keys.c.id == key_id))
    return None if row is None else str(row["creator_id"])
