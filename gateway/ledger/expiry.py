"""Promotional credits whose time is over: what was left of each grant is booked as gone.

Consumption counts against the credits that expire first. So of a grant there is left, at the instant it expires, what all
grants up to it, in the order of their expiry, gave above what was consumed before that instant; what earlier grants lost
is consumed too. A refund that comes later may give back credits of a grant that is gone: they are gone as well, and
booked on the last grant that had expired by then.

A grant is looked at when everything admitted before it expired is known: no hold of that time is open, and holds that were
still on their way had time to arrive. Who uses credits meanwhile is stopped by the limit's `lapsed`, which counts expired
grants as used; so nothing here tells the counters.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from sqlalchemy import and_, func, select, update

from gateway.ledger.database import Database
from gateway.ledger.ids import id_floor
from gateway.ledger.periods import DAY_MS, ms_of, period_of
from gateway.ledger.postings import Booking, booking_entry, rows_of
from gateway.ledger.schema import IS_CREDITS, creators, credit_grants, entries, holds, usage_daily
from gateway.ledger.statements import Row
from gateway.ledger.transactions import Transactions

__all__ = ["LATE_HOLDS_S", "Expiring", "Lapse", "expire_credits", "lapses", "look_again"]

LATE_HOLDS_S = 60.0
"""How long after an instant the hold of a call admitted before it may still be on its way to the ledger."""
_SLICE = 50
"""Creators looked at in one transaction; calls that settle meanwhile wait for it."""
_PROMO = "promo_credits"
_NOTHING_LEFT = ""
"""In place of an expiry's id, where there was nothing to book."""
_NEVER = 2**62


class Expiring(NamedTuple):
    """One grant that has expired. `is_booked`: its expiry was booked, and nothing was given back since."""

    grant_id: str
    credits: int
    expires_at: int
    is_booked: bool


class Lapse(NamedTuple):
    """What is gone of one grant and not booked yet; 0 when nothing was left, or all of it is booked."""

    grant_id: str
    credits: int
    is_final: bool
    """False: a later refund has to wait for calls that are still open."""


def lapses(
    grants: Sequence[Expiring],
    *,
    spent_before: Callable[[int], int],
    refunded_at: Sequence[int],
    booked: int,
    known_until: int,
) -> Iterator[Lapse]:
    """What of `grants`, all that a creator had expire, in the order of their expiry, is still to be booked. Pure.

    `spent_before`: credits consumed before an instant, without expiries, less what was given back before it; it is asked
    for instants up to `known_until` only. `refunded_at`: when something was given back. `booked`: credits of all expiries
    booked so far. Instants are milliseconds.
    """
    granted = 0
    is_new = False
    for grant, following in pairwise((*grants, _END)):
        granted += grant.credits
        is_new = is_new or not grant.is_booked
        if not is_new:
            continue
        if grant.expires_at > known_until:
            return
        # What was given back at an instant is part of what counts right after it.
        given_back = (at + 1 for at in refunded_at if grant.expires_at <= at < following.expires_at)
        gone, is_final = 0, True
        for at in (grant.expires_at, *given_back):
            if at > known_until:
                is_final = False
                break
            gone += max(0, granted - spent_before(at) - booked - gone)
        booked += gone
        yield Lapse(grant.grant_id, gone, is_final)


_END = Expiring("", 0, _NEVER, is_booked=True)


async def expire_credits(
    database: Database, now: datetime, *, late_holds_s: float = LATE_HOLDS_S
) -> list[dict[str, Any]]:
    """Book what is gone of every grant that has expired. Returns creator, grant_id, entry_id and credits of each entry.

    Doing it again books nothing. `late_holds_s` may be 0 where no call can be on its way: before the port opens.
    """
    known_until = ms_of(now) - int(late_holds_s * 1000)
    due = (
        select(credit_grants.c.creator)
        .where(
            credit_grants.c.payer == _PROMO,
            credit_grants.c.expired_entry_id.is_(None),
            credit_grants.c.expires_at <= known_until,
        )
        .distinct()
        .order_by(credit_grants.c.creator)
    )
    names = [row["creator"] for row in await database.fetch_all(due)]
    booked: list[dict[str, Any]] = []
    for start in range(0, len(names), _SLICE):
        booked += await database.run(partial(_expire, names[start : start + _SLICE], now, known_until))
    return booked


def look_again(transactions: Transactions, creator: str, now_ms: int) -> None:
    """Promotional credits were given back: what is gone of the last grant that has expired is to be counted anew."""
    last = (
        select(credit_grants.c.entry_id)
        .where(
            credit_grants.c.creator == creator, credit_grants.c.payer == _PROMO, credit_grants.c.expires_at <= now_ms
        )
        .order_by(credit_grants.c.expires_at.desc(), credit_grants.c.entry_id.desc())
        .limit(1)
        .scalar_subquery()
    )
    rows_of(transactions, update(credit_grants).where(credit_grants.c.entry_id == last).values(expired_entry_id=None))


def _expire(names: Iterable[str], now: datetime, known_until: int, transactions: Transactions) -> list[dict[str, Any]]:
    oldest = select(holds.c.creator, func.min(holds.c.admitted_at).label("at")).where(holds.c.payer == _PROMO)
    open_since = {row["creator"]: row["at"] for row in rows_of(transactions, oldest.group_by(holds.c.creator))}
    return [
        booked
        for creator in sorted(names)  # the order in which all take these locks
        for booked in _expire_creator(
            transactions, creator, now, min(known_until, open_since.get(creator, known_until))
        )
    ]


def _expire_creator(
    transactions: Transactions, creator: str, now: datetime, known_until: int
) -> Iterator[dict[str, Any]]:
    transactions.lock_credits(creator)
    spending = _Spending(transactions, creator)
    grants = _expired_grants(transactions, creator, ms_of(now))
    found = lapses(
        grants,
        spent_before=spending.before,
        refunded_at=spending.refunded_at(grants),
        booked=spending.booked,
        known_until=known_until,
    )
    for lapse in list(found):
        entry_id = _post(transactions, creator, lapse, now) if lapse.credits else None
        if lapse.is_final:
            mark = entry_id or _entry_of(transactions, lapse.grant_id) or _NOTHING_LEFT
            is_marked = update(credit_grants).where(credit_grants.c.entry_id == lapse.grant_id)
            rows_of(transactions, is_marked.values(expired_entry_id=mark))
        if entry_id is not None:
            yield {"creator": creator, "grant_id": lapse.grant_id, "entry_id": entry_id, "credits": lapse.credits}


def _post(transactions: Transactions, creator: str, lapse: Lapse, now: datetime) -> str:
    row = rows_of(transactions, select(creators.c.account_id).where(creators.c.id == creator))[0]
    booking = Booking("expiry", creator, row["account_id"], _PROMO, lapse.credits, now)
    return transactions.post([booking_entry(booking)], corrects=lapse.grant_id)[0]


def _entry_of(transactions: Transactions, grant_id: str) -> str | None:
    query = select(func.max(entries.c.id).label("id")).where(entries.c.corrects == grant_id, entries.c.kind == "expiry")
    entry_id: str | None = rows_of(transactions, query)[0]["id"]
    return entry_id


def _expired_grants(transactions: Transactions, creator: str, now_ms: int) -> list[Expiring]:
    query = (
        select(credit_grants)
        .where(
            credit_grants.c.creator == creator, credit_grants.c.payer == _PROMO, credit_grants.c.expires_at <= now_ms
        )
        .order_by(credit_grants.c.expires_at, credit_grants.c.entry_id)
    )
    return [
        Expiring(row["entry_id"], row["credits"], row["expires_at"], row["expired_entry_id"] is not None)
        for row in rows_of(transactions, query)
    ]


class _Spending:
    """What a creator did with promotional credits, read from the daily sums, and within a day from the entries."""

    def __init__(self, transactions: Transactions, creator: str) -> None:
        self._transactions = transactions
        self._of_creator = and_(usage_daily.c.creator == creator, usage_daily.c.payer == _PROMO, IS_CREDITS)
        self._entries_of_creator = and_(entries.c.creator == creator, entries.c.payer == _PROMO, IS_CREDITS)

    @property
    def booked(self) -> int:
        return self._sum(usage_daily.c.kind == "expiry")

    def before(self, at_ms: int) -> int:
        day_ms = at_ms - at_ms % DAY_MS
        day, _ = period_of(at_ms)
        consumed = ("usage", "refund", "adjustment")
        earlier_days = self._sum(usage_daily.c.kind.in_(consumed), usage_daily.c.period_day < day)
        query = select(func.coalesce(func.sum(entries.c.payer_amount), 0).label("credits")).where(
            self._entries_of_creator,
            # Nothing is posted before it was admitted, so earlier ids need not be looked at.
            entries.c.id >= id_floor(day_ms),
            entries.c.kind.in_(consumed),
            entries.c.admitted_at >= day_ms,
            entries.c.admitted_at < at_ms,
        )
        return earlier_days + int(self._rows(query)[0]["credits"])

    def refunded_at(self, grants: Sequence[Expiring]) -> list[int]:
        """Instants of refunds since the first of `grants` that is not booked; hardly ever are there any."""
        since = next((grant.expires_at for grant in grants if not grant.is_booked), _NEVER)
        if since == _NEVER:
            return []
        day, _ = period_of(since)
        if not self._sum(usage_daily.c.kind == "refund", usage_daily.c.period_day >= day):
            return []
        query = (
            select(entries.c.admitted_at)
            .where(
                self._entries_of_creator,
                entries.c.id >= id_floor(since - since % DAY_MS),
                entries.c.kind == "refund",
                entries.c.admitted_at >= since,
            )
            .order_by(entries.c.admitted_at)
        )
        return [row["admitted_at"] for row in self._rows(query)]

    def _sum(self, *conditions: Any) -> int:
        total = func.coalesce(func.sum(usage_daily.c.payer_amount), 0).label("credits")
        return int(self._rows(select(total).where(self._of_creator, *conditions))[0]["credits"])

    def _rows(self, query: Any) -> list[Row]:
        return rows_of(self._transactions, query)
