"""Creators and keys as the admin API shows them. Instants are RFC 3339; a digest is never shown."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from gateway.errors import RequestError
from gateway.json_depth import is_too_deep
from gateway.plans import plan_to_json, with_overrides
from policies.types import Plan

Row = Mapping[str, Any]
Page = dict[str, Any]
"""`{"data": [...], "next_cursor": str | None}`."""


def creator_json(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "plan": row["plan"],
        "overrides": _stored(row["overrides"]),
        "metadata": orjson.loads(row["metadata"]),
        "is_active": row["is_active"],
        "created_at": instant_text(row["created_at"]),
    }


def effective_plan_json(row: Row, plans: Mapping[str, Plan]) -> dict[str, Any] | None:
    """The creator's plan with its overrides, as it counts now; None where its calls are refused for want of one."""
    plan = plans.get(row["plan"])
    try:
        return None if plan is None else plan_to_json(with_overrides(plan, orjson.loads(row["overrides"])))
    except (RequestError, orjson.JSONDecodeError):
        return None


def throttle_json(row: Row) -> dict[str, Any]:
    return {
        "requests_per_minute": row["requests_per_minute"],
        "until_at": instant_text(row["until_at"]),
        "anomaly_id": row["anomaly_id"] or None,
    }


def key_json(row: Row, now_ms: int) -> dict[str, Any]:
    return {
        "id": row["id"],
        "creator": row["creator_id"],
        "name": row["name"],
        "last4": row["last4"],
        "status": _key_status(row, now_ms),
        "models": None if row["models"] is None else orjson.loads(row["models"]),
        "overrides": _stored(row["overrides"]),
        "scopes": orjson.loads(row["scopes"]),
        "default_plan": row["default_plan"],
        "created_at": instant_text(row["created_at"]),
        "expires_at": instant_text(row["expires_at"]),
        "revoked_at": instant_text(row["revoked_at"]),
        "paused_at": instant_text(row["paused_at"]),
        "replaced_by": row["replaced_by"],
    }


def admin_key_json(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "role": row["role"],
        "status": "active" if row["revoked_at"] is None else "revoked",
        "created_at": instant_text(row["created_at"]),
        "revoked_at": instant_text(row["revoked_at"]),
    }


def page_json(
    rows: Sequence[Row], limit: int, to_json: Callable[[Row], dict[str, Any]], cursor_of: Callable[[Row], str]
) -> Page:
    """One page of a list. `rows` holds one more than `limit` when there is another page."""
    shown = rows[:limit]
    next_cursor = cursor_of(shown[-1]) if len(rows) > limit else None
    return {"data": [to_json(row) for row in shown], "next_cursor": next_cursor}


def key_cursor(row: Row) -> str:
    return f"{row['created_at']}-{row['id']}"


def parse_key_cursor(cursor: str) -> tuple[int, str]:
    """`created_at` in milliseconds and id of the last key shown. Raises `RequestError`."""
    created_at, _, key_id = cursor.partition("-")
    if not key_id or not (created_at.isascii() and created_at.isdigit() and len(created_at) < 18):
        raise RequestError("`cursor` is not one that a list gave out.", param="cursor", code="invalid_value")
    return int(created_at), key_id


def instant_text(at_ms: int | None) -> str | None:
    """RFC 3339, UTC, milliseconds."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def bounded_json(value: Mapping[str, Any], param: str, bytes_max: int) -> str:
    """As it is stored. Raises `RequestError` (400) naming `param` for what is too long or nested too deep."""
    try:
        text = json_text(value)
    except orjson.JSONEncodeError as exc:
        raise _too_deep(param) from exc
    if is_too_deep(text):
        raise _too_deep(param)
    if len(text.encode()) > bytes_max:
        raise RequestError(f"`{param}` is longer than {bytes_max} bytes as JSON.", param=param, code="invalid_value")
    return text


def _too_deep(param: str) -> RequestError:
    return RequestError(f"`{param}` is nested too deep.", param=param, code="invalid_value")


def json_text(value: Any) -> str:
    return orjson.dumps(value).decode()


def _stored(overrides: str) -> Any:
    """None for what is no JSON: an admin must be able to see, and mend, the creators whose keys are refused for it."""
    try:
        return orjson.loads(overrides)
    except orjson.JSONDecodeError:
        return None


def _key_status(row: Row, now_ms: int) -> str:
    if row["revoked_at"] is not None:
        return "revoked"
    if row["expires_at"] is not None and row["expires_at"] <= now_ms:
        return "expired"
    if row["paused_at"] is not None:
        return "paused"
    return "active" if row["replaced_by"] is None else "replaced"
