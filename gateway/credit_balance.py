"""What a creator has of credits: granted by the grants, consumed by the ledger's sums, held by the counters."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Select, func, select

from gateway.ledger.periods import ms_of, rfc3339
from gateway.ledger.schema import IS_CREDITS, credit_grants, entries, usage_daily
from gateway.ledger.statements import Row
from policies import credits as credit_policy
from policies.types import Account, Call, Limit, Plan, PromoGrant

__all__ = [
    "account_of",
    "balances",
    "consumed",
    "grant_json",
    "grants_newest_first",
    "limit_of",
    "select_consumed",
    "select_granted",
    "used_of",
]

Consumed = Mapping[tuple[str, str], int]
"""(payer, kind of entry) -> credits taken, below 0: given."""


def select_granted(creator: str) -> Select[Any]:
    """All the creator was ever given, by payer and expiry."""
    given = func.sum(credit_grants.c.credits).label("credits")
    groups = (credit_grants.c.payer, credit_grants.c.expires_at)
    return select(*groups, given).where(credit_grants.c.creator == creator).group_by(*groups)


def select_consumed(creator: str) -> Select[Any]:
    """All that entries took, by payer and kind."""
    taken = func.sum(usage_daily.c.payer_amount).label("credits")
    groups = (usage_daily.c.payer, usage_daily.c.kind)
    return select(*groups, taken).where(usage_daily.c.creator == creator, IS_CREDITS).group_by(*groups)


def consumed(rows: Iterable[Row]) -> Consumed:
    """Out of the rows of `select_consumed`."""
    return {(row["payer"], row["kind"]): row["credits"] for row in rows}


def account_of(creator: str, granted: Sequence[Row]) -> Account:
    """Enough of an account for the policy of credits, out of the rows of `select_granted`."""
    promo = [row for row in granted if row["payer"] == credit_policy.PROMO_NAME]
    return Account(
        creator,
        creator,
        "",
        Plan(""),
        credits_granted=sum(row["credits"] for row in granted if row["payer"] == credit_policy.NAME),
        promo_grants=tuple(
            PromoGrant(row["credits"], None if row["expires_at"] is None else row["expires_at"] / 1000)
            for row in sorted(promo, key=lambda row: (row["expires_at"] is None, row["expires_at"] or 0))
        ),
    )


def limit_of(account: Account, payer: str, units: int, now: datetime) -> Limit:
    """The limit that a call for `units` credits of `payer` would have to fit into."""
    call = Call("", "", "", "", "", 0, 0, credits=units)
    is_promo = payer == credit_policy.PROMO_NAME
    return (credit_policy.promo_alternative if is_promo else credit_policy.alternative)(call, account, now)


def used_of(limit: Limit, taken: Consumed, *, settled: int = 0, held: int = 0) -> int:
    """Credits that are spent, gone or held. What the ledger does not know yet, the counter may: `settled`."""
    posted = sum(units for (payer, kind), units in taken.items() if payer == limit.name and kind != "grant")
    return max(max(posted, settled) + held, limit.lapsed)


def balances(
    account: Account, taken: Consumed, counted: Sequence[tuple[Limit, int, int]], now: datetime
) -> dict[str, Any]:
    """`credits` and `promo_credits`: `left` is `granted` without `spent`, `expired` and `held`.

    `counted`: each limit with what its counter has settled and held. Refunds and adjustments are part of `spent`; credits
    whose time is over are `expired` before they are booked as such.
    """
    found: dict[str, Any] = {}
    for limit, settled, held in counted:
        used = used_of(limit, taken, settled=settled, held=held)
        spent = sum(taken.get((limit.name, kind), 0) for kind in ("usage", "refund", "adjustment"))
        left = max(0, limit.capacity - used)
        found[limit.name] = {"granted": limit.capacity, "spent": spent, "held": held, "left": left}
        if limit.name == credit_policy.PROMO_NAME:
            found[limit.name]["expired"] = used - spent - held
            found[limit.name]["next_expiry"] = _next_expiry(account.promo_grants, used, now)
    return found


def _next_expiry(grants: Sequence[PromoGrant], used: int, now: datetime) -> dict[str, Any] | None:
    """The instant at which credits are lost next, and how many if none is spent until then. `grants` by their expiry."""
    granted = 0
    found: tuple[float, int] | None = None
    for given, expires_at in grants:
        granted += given
        if expires_at is None or (found is not None and found[0] != expires_at):
            break
        if granted > used and expires_at > now.timestamp():
            found = expires_at, granted - used
    return None if found is None else {"at": rfc3339(round(found[0] * 1000)), "credits": found[1]}


def grants_newest_first(creator: str, *, before: str | None, limit: int) -> Select[Any]:
    """Rows for `grant_json`. `before`: id of the entry of the last grant that was shown."""
    query = (
        select(credit_grants, entries.c.request_id, entries.c.metadata)
        .join(entries, entries.c.id == credit_grants.c.entry_id)
        .where(credit_grants.c.creator == creator)
    )
    if before is not None:
        query = query.where(credit_grants.c.entry_id < before)
    return query.order_by(credit_grants.c.entry_id.desc()).limit(limit)


def grant_json(row: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    expires_at = row["expires_at"]
    said = orjson.loads(row["metadata"] or "{}")
    return {
        "entry_id": row["entry_id"],
        "request_id": row["request_id"],
        "payer": row["payer"],
        "credits": row["credits"],
        "package": said.get("package"),
        "price_usd": said.get("price_usd"),
        "note": said.get("note", ""),
        "expires_at": None if expires_at is None else rfc3339(expires_at),
        "is_expired": expires_at is not None and expires_at <= ms_of(now),
        "created_at": rfc3339(row["created_at"]),
    }
