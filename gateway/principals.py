"""Rows of the database -> whom a call is made for: plan, overrides, throttle and grants put together.

Everything here reads and computes; what is remembered, and for how long, is `gateway.auth`'s to know. What cannot be put
together (a plan that left the file, overrides that mean nothing any more) is refused for that key alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
import structlog
from sqlalchemy import Select, func, select

from gateway.errors import DO_NOT_RETRY, GatewayError, PolicyDenied, RequestError, Unauthenticated
from gateway.ledger.database import Database
from gateway.ledger.schema import creators, credit_grants, throttles, virtual_keys
from gateway.plans import key_limits, with_key_overrides, with_overrides
from policies.types import Account, Plan, PromoGrant

__all__ = [
    "CHALLENGE",
    "CREATOR_COLUMNS",
    "KEY_COLUMNS",
    "NO_KEY",
    "NO_THROTTLE",
    "Principal",
    "account_from",
    "denied",
    "newcomer",
    "paused",
    "plan_unknown",
    "read_acting",
    "read_creator",
    "read_principal",
    "refused",
]

Plans = Mapping[str, Plan]
Row = Mapping[str, Any]

CHALLENGE = {"www-authenticate": "Bearer"}
_NEVER = float("inf")
_WITHIN_S = 3.0
"""A call that waits to be let in is told sooner than a report that the database does not answer."""
_log = structlog.get_logger()


class Principal(NamedTuple):
    """Whom a call is made for, and for how long that stands if nobody writes. Instants are Unix times."""

    account: Account
    expires_at_s: float = _NEVER
    """Infinite for keys without an end."""
    reload_at_s: float = _NEVER
    """When the account must be read anew, because a throttle on it ends; infinite where none does."""
    is_paused: bool = False
    """The key is known, and its calls are refused."""


async def read_principal(database: Database, plans: Plans, digest: str, now_s: float) -> Principal | None:
    """Whose key has this digest; None if nobody's, or if key or creator may not be used. Raises `PolicyDenied`."""
    row = await database.fetch_one(_KEYS.where(virtual_keys.c.digest == digest), timeout_s=_WITHIN_S)
    if row is None:
        return None
    return Principal(
        await _account(database, plans, row, now_s),
        expires_at_s=_NEVER if row["expires_at"] is None else row["expires_at"] / 1000,
        reload_at_s=_throttle_ends(row, now_s),
        is_paused=row["paused_at"] is not None,
    )


async def read_acting(database: Database, plans: Plans, key_id: str, creator: str, now_s: float) -> Principal | None:
    """`creator` as the key `key_id` acts for it; None if there never was such a creator.

    Raises `Unauthenticated` when the key was revoked meanwhile, `PolicyDenied` when it was paused, and for a creator that
    is deleted or inactive.
    """
    key = await _read_key(database, key_id)
    row = await database.fetch_one(_CREATOR.where(creators.c.id == creator), timeout_s=_WITHIN_S)
    if row is None:
        return None
    if row["deleted_at"] is not None or not row["is_active"]:
        raise denied("The creator this call names is deleted or not active.", "creator_inactive")
    account = await _account(database, plans, {**key, **row}, now_s)
    return Principal(account, reload_at_s=_throttle_ends(row, now_s))


async def newcomer(database: Database, plans: Plans, key_id: str, creator: str) -> Account | None:
    """The account `creator` will have once the key `key_id` brings it; None if the key brings nobody. Writes nothing.

    Raises `Unauthenticated` when the key was revoked meanwhile, `PolicyDenied` when it was paused or its default plan is
    gone.
    """
    key = await _read_key(database, key_id)
    if key["default_plan"] is None:
        return None
    made = {"creator_id": creator, "account_id": creator, "plan": key["default_plan"], "creator_overrides": "{}"}
    return await _account(database, plans, {**key, **made, **NO_THROTTLE}, 0.0)


async def _read_key(database: Database, key_id: str) -> Row:
    key = await database.fetch_one(_KEY.where(virtual_keys.c.id == key_id), timeout_s=_WITHIN_S)
    if key is None:
        raise refused()
    if key["paused_at"] is not None:
        raise paused()
    return key


async def read_creator(database: Database, plans: Plans, creator: str, now_s: float) -> Account | None:
    """The account of `creator` as a key without restrictions of its own has it; None if there is no such creator."""
    row = await database.fetch_one(
        _CREATOR.where(creators.c.id == creator, creators.c.deleted_at.is_(None)), timeout_s=_WITHIN_S
    )
    return None if row is None else await _account(database, plans, {**NO_KEY, **row}, now_s)


async def _account(database: Database, plans: Plans, row: Row, now_s: float) -> Account:
    grants = await database.fetch_all(_GRANTS.where(credit_grants.c.creator == row["creator_id"]), timeout_s=_WITHIN_S)
    return account_from(plans, row, grants, now_s)


def account_from(plans: Plans, row: Row, grants: Sequence[Row], now_s: float) -> Account:
    """The account of a creator's row and a key's, with the creator's grants. Raises `PolicyDenied`."""
    plan, key_plan = _plans(plans, row)
    models = row["models"]
    return Account(
        creator=row["creator_id"],
        account_id=row["account_id"],
        key_id=row["id"],
        plan=_throttled(plan, row, now_s),
        models=None if models is None else frozenset(orjson.loads(models)),
        key_plan=key_plan,
        credits_granted=sum(grant["credits"] for grant in grants if grant["payer"] == "credits"),
        promo_grants=_promo_grants(grants),
        scopes=frozenset(orjson.loads(row["scopes"])),
        default_plan=row["default_plan"],
        limits_id=row["limits_id"] or "",
    )


def _throttle_ends(row: Row, now_s: float) -> float:
    """When the creator's throttle stops counting; infinite where none counts now."""
    until_at = row["throttled_until"]
    return _NEVER if until_at is None or until_at / 1000 <= now_s else float(until_at / 1000)


def _throttled(plan: Plan, row: Row, now_s: float) -> Plan:
    """`plan`, slowed down while a throttle lasts. A window that is set is counted, whatever `plan.counted` says."""
    if _throttle_ends(row, now_s) == _NEVER:
        return plan
    allowed = [row["throttled_to"], plan.requests_per_minute]
    slowed = min(requests for requests in allowed if requests is not None)
    return replace(plan, requests_per_minute=slowed, is_overridden=True)


def _plans(plans: Plans, row: Row) -> tuple[Plan, Plan | None]:
    """The creator's plan with all that is overridden, and the key's own limits."""
    plan = plans.get(row["plan"])
    if plan is None:
        _log.warning("plan_unknown", creator=row["creator_id"], plan=row["plan"])
        raise plan_unknown(row["plan"])
    whose = "creator"
    try:
        plan = with_overrides(plan, orjson.loads(row["creator_overrides"]))
        whose = "virtual key"
        key_overrides = orjson.loads(row["key_overrides"])
        return with_key_overrides(plan, key_overrides), key_limits(key_overrides)
    except (RequestError, ValueError, TypeError) as exc:
        # Checked when they came, but by another version, or beside another file: which limit was meant, nobody can tell.
        reason = exc.message if isinstance(exc, RequestError) else "they are not the JSON they should be"
        _log_once(row["creator_id"], row["id"], whose, reason)
        raise denied(
            f"The overrides of this {whose} cannot be applied any more ({reason}): the gateway's admin must set them anew.",
            "overrides_unusable",
        ) from exc


@lru_cache(maxsize=1_024)
def _log_once(creator: str, key_id: str, whose: str, reason: str) -> None:
    """Every call of such a key comes here; the log need hear of it once."""
    _log.error("overrides_unusable", creator=creator, key_id=key_id, whose=whose, reason=reason)


def _promo_grants(grants: Sequence[Row]) -> tuple[PromoGrant, ...]:
    return tuple(
        PromoGrant(grant["credits"], None if grant["expires_at"] is None else grant["expires_at"] / 1000)
        for grant in grants
        if grant["payer"] == "promo_credits"
    )


KEY_COLUMNS = (
    virtual_keys.c.id,
    virtual_keys.c.models,
    virtual_keys.c.expires_at,
    virtual_keys.c.paused_at,
    virtual_keys.c.overrides.label("key_overrides"),
    virtual_keys.c.scopes,
    virtual_keys.c.default_plan,
    virtual_keys.c.limits_id,
)
_KEY = select(*KEY_COLUMNS).where(virtual_keys.c.revoked_at.is_(None))

NO_KEY = {"id": "", "models": None, "key_overrides": "{}", "scopes": "[]", "default_plan": None, "limits_id": None}

CREATOR_COLUMNS = (
    creators.c.id.label("creator_id"),
    creators.c.account_id,
    creators.c.plan,
    creators.c.overrides.label("creator_overrides"),
    creators.c.is_active,
    creators.c.deleted_at,
)
_CREATOR_COLUMNS = (
    *CREATOR_COLUMNS,
    throttles.c.requests_per_minute.label("throttled_to"),
    throttles.c.until_at.label("throttled_until"),
)
NO_THROTTLE = {"throttled_to": None, "throttled_until": None}

_CREATOR: Select[Any] = (
    select(*_CREATOR_COLUMNS).select_from(creators).outerjoin(throttles, throttles.c.creator == creators.c.id)
)

_KEYS: Select[Any] = (
    _KEY.add_columns(*_CREATOR_COLUMNS)
    .select_from(virtual_keys)
    .join(creators, creators.c.id == virtual_keys.c.creator_id)
    .outerjoin(throttles, throttles.c.creator == creators.c.id)
    .where(creators.c.is_active, creators.c.deleted_at.is_(None))
)

# Grants that end together are one: what is left of them is gone at the same instant.
_GRANTS = (
    select(credit_grants.c.payer, credit_grants.c.expires_at, func.sum(credit_grants.c.credits).label("credits"))
    .group_by(credit_grants.c.payer, credit_grants.c.expires_at)
    .order_by(credit_grants.c.expires_at)
)


def refused() -> GatewayError:
    """The one answer for unknown, expired and revoked keys."""
    return Unauthenticated(
        "The API key is not valid: it is unknown, expired or revoked. Ask the gateway's admin for one.",
        headers=CHALLENGE,
    )


def paused() -> GatewayError:
    return PolicyDenied(
        "This key is paused, for unusual use or by an admin: an admin of the gateway can resume it.",
        status=403,
        type="invalid_request_error",
        code="key_paused",
        headers=DO_NOT_RETRY,
    )


def denied(message: str, code: str, *, param: str | None = None) -> GatewayError:
    return PolicyDenied(message, status=403, type="invalid_request_error", code=code, param=param)


def plan_unknown(plan: str) -> GatewayError:
    return denied(
        f"The plan `{plan}` of this creator is not in the gateway's plans file: its admin must add it or move the creator.",
        "plan_unknown",
    )
