"""A month's charges, written once and for all when the month is over."""

import orjson
from sqlalchemy import func, insert, select

from gateway.errors import RequestError
from gateway.ledger.database import Database
from gateway.ledger.periods import month_bounds_ms, now_ms
from gateway.ledger.queries import closed_key, month_sums, sums_of_month
from gateway.ledger.schema import holds, meta, month_charges
from gateway.ledger.transactions import Transactions

__all__ = ["LATE_HOLDS_MS", "bounds_of", "close_month", "closed_at"]

LATE_HOLDS_MS = 60_000
"""How long after the month's last instant the hold of a call admitted in it may still be on its way to the ledger."""


async def close_month(database: Database, month: str) -> tuple[int, bool]:
    """Writes the charge of each creator with usage in `YYYY-MM`. Returns how many there are, and whether they are new.

    A closed month stays as it is: closing it again changes nothing. Raises `RequestError` for what is no month, for one
    that is not over for a minute, and while a call admitted in it is still open.
    """
    start_ms, end_ms = bounds_of(month)
    if now_ms() < end_ms + LATE_HOLDS_MS:
        raise RequestError(f"{month} is not over yet.", status=409, code="month_not_over", param="month")
    return await database.run(lambda transactions: _close(transactions, month, start_ms, end_ms))


async def closed_at(database: Database, month: str) -> int | None:
    """When `YYYY-MM` was closed, in milliseconds; None if it was not."""
    row = await database.fetch_one(select(meta.c.value).where(meta.c.key == closed_key(month)))
    return None if row is None else int(row["value"])


def bounds_of(month: str) -> tuple[int, int]:
    """First instant of the month and the first after it. Raises `RequestError`."""
    try:
        return month_bounds_ms(month)
    except (ValueError, OverflowError):
        raise RequestError("`month` takes a month such as 2026-05.", code="invalid_value", param="month") from None


def _close(transactions: Transactions, month: str, start_ms: int, end_ms: int) -> tuple[int, bool]:
    transactions.lock("close")
    rows_of = transactions.rows
    if rows_of(select(meta.c.value).where(meta.c.key == closed_key(month))):
        written = (
            select(func.count().label("creators")).select_from(month_charges).where(month_charges.c.month == month)
        )
        return rows_of(written)[0]["creators"], False
    open_holds = rows_of(
        select(func.count().label("open")).where(holds.c.admitted_at >= start_ms, holds.c.admitted_at < end_ms)
    )[0]["open"]
    if open_holds:
        raise RequestError(
            f"{open_holds} calls of {month} are still open: close it when they have ended.",
            status=409,
            code="calls_open",
            param="month",
        )
    at_ms = now_ms()
    charges = month_sums(month, rows_of(sums_of_month(month)))
    for charge in charges:
        units = orjson.dumps(charge["units"], option=orjson.OPT_SORT_KEYS).decode()
        rows_of(insert(month_charges).values({**charge, "units": units, "closed_at": at_ms}))
    rows_of(insert(meta).values(key=closed_key(month), value=str(at_ms)))
    return len(charges), True
