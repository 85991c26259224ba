"""The writes behind creators and keys. A condition that must hold is part of the statement that relies on it.

Instants are milliseconds since 1970. Every statement returns the rows it wrote; none means the condition did not hold.
"""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Executable, case, delete, func, insert, literal, null, or_, select, update

from gateway.errors import RequestError
from gateway.ledger.postings import rows_of
from gateway.ledger.schema import admin_keys, creators, meta, throttles, virtual_keys
from gateway.ledger.statements import Row, upsert
from gateway.ledger.transactions import Transactions
from gateway.roles import Role
from gateway.secrets import NewKey

_NEW_KEY_COLUMNS = (
    "id",
    "creator_id",
    "account_id",
    "name",
    "digest",
    "last4",
    "models",
    "overrides",
    "scopes",
    "created_at",
    "expires_at",
    "default_plan",
)
_ADMIN_KEYS_LOCK = "admin-keys"
_AN_OWNER = select(admin_keys.c.id).where(admin_keys.c.role == "owner", admin_keys.c.revoked_at.is_(None)).limit(1)
_CREATOR_ID = re.compile(r"(?!\.+$)[A-Za-z0-9._:@-]{1,128}")


def check_creator_id(id: str, param: str) -> None:
    """Raises `RequestError` (400) naming `param` for what no creator's id may be."""
    if _CREATOR_ID.fullmatch(id) is None:
        raise RequestError(
            f"`{param}` takes 1 to 128 characters of A-Z a-z 0-9 . _ : @ -", param=param, code="invalid_value"
        )


def insert_creator(
    id: str, *, plan: str, now: int, name: str = "", overrides: str = "{}", metadata: str = "{}"
) -> Executable:
    """An id that was ever used is a conflict: deleted creators keep their row."""
    row = {"id": id, "account_id": id, "name": name, "plan": plan, "overrides": overrides, "metadata": metadata}
    return insert(creators).values(row | {"is_active": True, "created_at": now}).returning(*creators.c)


def update_creator(id: str, changes: dict[str, Any]) -> Executable:
    return (
        update(creators)
        .where(creators.c.id == id, creators.c.deleted_at.is_(None))
        .values(changes)
        .returning(*creators.c)
    )


def erase_creator(id: str, now: int) -> tuple[Executable, ...]:
    """The creator's row and its keys': what people may recognise goes, ids stay, the first instant of it too. Its throttle
    goes."""
    creator = (
        update(creators)
        .where(creators.c.id == id)
        .values(deleted_at=_first_set(creators.c.deleted_at, now), is_active=False, name="", metadata="{}")
        .returning(creators.c.id)
    )
    keys = (
        update(virtual_keys)
        .where(virtual_keys.c.creator_id == id)
        .values(revoked_at=_first_set(virtual_keys.c.revoked_at, now), name="")
    )
    return creator, keys, delete_throttle(id)


def throttle_creator(
    creator: str, requests_per_minute: int, until_at: int, anomaly_id: str, now: int
) -> tuple[Executable, Executable, Executable]:
    """The creator is slowed down to so many requests until then, or more and for longer where it is already.

    Writes nothing when the creator is not there. One of the three statements returns the row.
    """
    there = throttles.c
    ended = delete(throttles).where(there.creator == creator, there.until_at <= now)
    is_stricter, is_longer = there.requests_per_minute > requests_per_minute, there.until_at < until_at
    tightened = (
        update(throttles)
        .where(there.creator == creator)
        .values(
            requests_per_minute=case((is_stricter, requests_per_minute), else_=there.requests_per_minute),
            until_at=case((is_longer, until_at), else_=there.until_at),
            anomaly_id=case((or_(is_stricter, is_longer), anomaly_id), else_=there.anomaly_id),
        )
        .returning(*there)
    )
    source = select(
        creators.c.id,
        literal(requests_per_minute, there.requests_per_minute.type),
        literal(until_at, there.until_at.type),
        literal(anomaly_id, there.anomaly_id.type),
    ).where(
        creators.c.id == creator,
        creators.c.deleted_at.is_(None),
        ~select(there.creator).where(there.creator == creator).exists(),
    )
    columns = [column.name for column in there]
    return ended, tightened, insert(throttles).from_select(columns, source).returning(*there)


def delete_throttle(creator: str) -> Executable:
    return delete(throttles).where(throttles.c.creator == creator).returning(*throttles.c)


def insert_key(
    key: NewKey,
    digest: str,
    creator: str,
    *,
    now: int,
    name: str = "",
    models: str | None = None,
    overrides: str = "{}",
    scopes: str = "[]",
    expires_at: int | None = None,
    default_plan: str | None = None,
) -> Executable:
    """Inserts nothing when the creator is not there, so that a deletion cannot slip in between."""
    source = select(
        _value(key.id, "id"),
        creators.c.id,
        creators.c.account_id,
        _value(name, "name"),
        _value(digest, "digest"),
        _value(key.last4, "last4"),
        _value(models, "models"),
        _value(overrides, "overrides"),
        _value(scopes, "scopes"),
        _value(now, "created_at"),
        _value(expires_at, "expires_at"),
        _value(default_plan, "default_plan"),
    ).where(creators.c.id == creator, creators.c.deleted_at.is_(None))
    return insert(virtual_keys).from_select(_NEW_KEY_COLUMNS, source).returning(*virtual_keys.c)


def insert_successor(key: NewKey, digest: str, replaced: str, now: int) -> Executable:
    """A key like `replaced`, which goes on with its counters: what was used of the key's own limits stays used. Nor does
    it end a pause.

    Inserts nothing when that one is not live, or has a successor already.
    """
    old = virtual_keys.alias("old").c
    source = select(
        _value(key.id, "id"),
        old.creator_id,
        old.account_id,
        old.name,
        _value(digest, "digest"),
        _value(key.last4, "last4"),
        old.models,
        old.overrides,
        old.scopes,
        _value(now, "created_at"),
        old.expires_at,
        old.default_plan,
        func.coalesce(old.limits_id, old.id),
        old.paused_at,
    ).where(
        old.id == replaced,
        old.revoked_at.is_(None),
        old.replaced_by.is_(None),
        or_(old.expires_at.is_(None), old.expires_at > now),
    )
    columns = (*_NEW_KEY_COLUMNS, "limits_id", "paused_at")
    return insert(virtual_keys).from_select(columns, source).returning(*virtual_keys.c)


def end_replaced(replaced: str, successor: str, ends_at: int) -> Executable:
    """The old key ends at `ends_at`, or before if it would anyway. Only if the successor was made."""
    keys = virtual_keys.c
    made = virtual_keys.alias("made").c
    is_made = select(made.id).where(made.id == successor).exists()
    return (
        update(virtual_keys)
        .where(keys.id == replaced, is_made)
        .values(replaced_by=successor, expires_at=case((keys.expires_at < ends_at, keys.expires_at), else_=ends_at))
        .returning(*keys)
    )


def revoke_key(id: str, now: int) -> Executable:
    return (
        update(virtual_keys)
        .where(virtual_keys.c.id == id)
        .values(revoked_at=_first_set(virtual_keys.c.revoked_at, now))
        .returning(*virtual_keys.c)
    )


def pause_key(id: str, now: int) -> Executable:
    """Writes nothing to a revoked key: its pause could not be ended."""
    return _set_pause(id, _first_set(virtual_keys.c.paused_at, now))


def resume_key(id: str) -> Executable:
    return _set_pause(id, null())


def _set_pause(id: str, paused_at: ColumnElement[Any]) -> Executable:
    return (
        update(virtual_keys)
        .where(virtual_keys.c.id == id, virtual_keys.c.revoked_at.is_(None))
        .values(paused_at=paused_at)
        .returning(*virtual_keys.c)
    )


def insert_admin_key(key: NewKey, digest: str, now: int, *, name: str = "", role: Role = "owner") -> Executable:
    row = {"id": key.id, "digest": digest, "created_at": now, "name": name, "role": role}
    return insert(admin_keys).values(row).returning(*admin_keys.c)


def change_admin_key(
    transactions: Transactions, id: str, changes: Mapping[str, Any], *, needs_owner: bool
) -> Row | None:
    """The admin key with `changes` among `name`, `role` and `revoked_at`, or None where there is none with this id. A key
    that is revoked stays as it is.

    Where `needs_owner`, some key that is not revoked has the role `owner` afterwards, whoever else changes keys meanwhile.
    Raises `RequestError` 409: `last_owner`, and `key_not_live` for what a revoked key cannot become.
    """
    transactions.lock(_ADMIN_KEYS_LOCK)
    rows = rows_of(transactions, select(admin_keys).where(admin_keys.c.id == id))
    if not rows or not changes:
        return rows[0] if rows else None
    if rows[0]["revoked_at"] is not None:
        if "revoked_at" in changes:
            return rows[0]
        raise RequestError("This admin key is revoked: it cannot be changed.", status=409, code="key_not_live")
    (row,) = rows_of(
        transactions, update(admin_keys).where(admin_keys.c.id == id).values(dict(changes)).returning(*admin_keys.c)
    )
    if needs_owner and rows[0]["role"] == "owner" and not rows_of(transactions, _AN_OWNER):
        # What was written is rolled back with the transaction.
        raise RequestError(
            "This is the last admin key with the role `owner`, and no GATEWAY_ADMIN_KEY is set: make another one first.",
            status=409,
            code="last_owner",
        )
    return row


def put_first_meta(key: str, value: str) -> Executable:
    """Leaves a value alone that is there."""
    return upsert(meta).values(key=key, value=value).on_conflict_do_nothing(index_elements=["key"])


def put_meta(key: str, value: str) -> tuple[Executable, Executable]:
    return delete(meta).where(meta.c.key == key), insert(meta).values(key=key, value=value)


def _value(value: Any, column: str) -> ColumnElement[Any]:
    return literal(value, virtual_keys.c[column].type)


def _first_set(column: ColumnElement[Any], now: int) -> ColumnElement[Any]:
    """The instant that stands already, else `now`."""
    return case((column.is_(None), now), else_=column)
