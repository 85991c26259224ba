"""What is read of the ledger for a rehearsal: the calls in the order of their admission, and what was used before them."""

from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Select, case, func, select, true

from gateway.ledger.database import Database
from gateway.ledger.ids import id_floor
from gateway.ledger.periods import instant
from gateway.ledger.schema import IS_CREDITS, creators, entries, refusals_daily, usage_daily
from gateway.ledger.statements import Row
from gateway.rehearsal.past_call import PastCall
from gateway.usage import Usage

__all__ = ["Whose", "calls_between", "credits_before", "entries_by_day", "month_before", "really_refused"]

_CHUNK_ROWS = 200
"""Turned into Python's values at once, while calls wait: a millisecond."""
_made: Callable[..., PastCall] = PastCall
_COLUMNS = (
    entries.c.request_id,
    entries.c.creator,
    entries.c.key_id,
    entries.c.endpoint,
    entries.c.requested_model,
    entries.c.served_model,
    entries.c.provider,
    entries.c.admitted_at,
    entries.c.cost_nano_usd,
    entries.c.latency_ms,
    entries.c.outcome,
    *(entries.c[name] for name in Usage._fields),
    entries.c.variant,
    case((entries.c.cached.is_(true()), 1), else_=0).label("cached"),  # a flag would be converted row by row
    entries.c.payer_unit,
    entries.c.payer_amount,
)


class Whose(NamedTuple):
    """Creators of these plans, deleted ones too; with `creators` only those among them."""

    plans: Collection[str]
    creators: Collection[str] | None = None

    @property
    def ids(self) -> Select[Any]:
        found = select(creators.c.id).where(creators.c.plan.in_(sorted(self.plans)))
        return found if self.creators is None else found.where(creators.c.id.in_(sorted(self.creators)))


class MonthBefore(NamedTuple):
    """What calls of a month cost and owe before a day of it."""

    creator: str
    key_id: str
    charge_nano_usd: int
    cost_nano_usd: int


async def calls_between(
    database: Database, whose: Whose, from_ms: int, to_ms: int
) -> AsyncGenerator[Sequence[PastCall], None]:
    """The calls admitted from `from_ms` until before `to_ms`, in that order, in lists; all attempts of one call as one."""
    query = (
        select(*_COLUMNS)
        .where(
            # Nothing is posted before it was admitted, so earlier ids need not be looked at.
            entries.c.id >= id_floor(from_ms),
            entries.c.admitted_at >= from_ms,
            entries.c.admitted_at < to_ms,
            entries.c.kind == "usage",
            entries.c.creator.in_(whose.ids),
        )
        .order_by(entries.c.admitted_at, entries.c.request_id, entries.c.attempt)
    )
    open_call: PastCall | None = None
    async for rows in database.stream(query, chunk_rows=_CHUNK_ROWS):
        found = []
        for row in rows:
            attempt = _past_call(row)
            if open_call is not None and open_call.request_id == attempt.request_id:
                attempt = open_call.followed_by(attempt)
            elif open_call is not None:
                found.append(open_call)
            open_call = attempt
        yield found
    if open_call is not None:
        yield [open_call]


def _past_call(row: Row) -> PastCall:
    # In the order of the columns: a million rows are read so.
    values: Any = tuple(row.values())
    return _made(*values[:11], Usage(*values[11:-4]), *values[-4:], instant(values[7]))


async def entries_by_day(database: Database, whose: Whose, first_day: str) -> dict[str, int]:
    """How many entries calls have that were admitted on each day from `first_day` on."""
    there = usage_daily.c
    query = (
        select(there.period_day, func.sum(there.attempts).label("entries"))
        .where(there.period_day >= first_day, there.kind == "usage", there.creator.in_(whose.ids))
        .group_by(there.period_day)
    )
    return {row["period_day"]: int(row["entries"]) for row in await database.fetch_all(query)}


async def month_before(database: Database, whose: Whose, day: date) -> list[MonthBefore]:
    """What was used in the month of `day` up to the day before, by creator and key; without refunds."""
    there = usage_daily.c
    charge = func.sum(case((there.payer == "quota", there.charge_nano_usd), else_=0))
    query = (
        select(there.creator, there.key_id, charge.label("charge"), func.sum(there.cost_nano_usd).label("cost"))
        .where(
            there.period_day.between(day.replace(day=1).isoformat(), (day - timedelta(days=1)).isoformat()),
            there.kind == "usage",
            there.creator.in_(whose.ids),
        )
        .group_by(there.creator, there.key_id)
    )
    rows = await database.fetch_all(query)
    # A sum of whole numbers is a decimal to PostgreSQL.
    return [MonthBefore(row["creator"], row["key_id"], int(row["charge"]), int(row["cost"])) for row in rows]


async def credits_before(database: Database, whose: Whose, day: date) -> list[tuple[str, str, int]]:
    """Payer, creator, and the credits that were gone when `day` began."""
    there = usage_daily.c
    query = (
        select(there.payer, there.creator, func.sum(there.payer_amount).label("units"))
        .where(IS_CREDITS, there.kind != "grant", there.period_day < day.isoformat(), there.creator.in_(whose.ids))
        .group_by(there.payer, there.creator)
    )
    return [(row["payer"], row["creator"], int(row["units"])) for row in await database.fetch_all(query)]


async def really_refused(database: Database, whose: Whose, first_day: str) -> Mapping[str, Mapping[str, int]]:
    """What was refused in truth from `first_day` on: creator -> code -> times."""
    there = refusals_daily.c
    query = (
        select(there.creator, there.reason, func.sum(there.count).label("times"))
        .where(there.day >= first_day, there.creator.in_(whose.ids))
        .group_by(there.creator, there.reason)
        .order_by(there.creator, there.reason)
    )
    found: dict[str, dict[str, int]] = {}
    for row in await database.fetch_all(query):
        found.setdefault(row["creator"], {})[row["reason"]] = int(row["times"])
    return found
