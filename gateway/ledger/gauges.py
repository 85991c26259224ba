"""Figures of the ledger for whoever watches the gateway: money of the day and the month, and calls that are not settled.

Read when somebody scrapes, and believed for a moment. They are the ledger's own: a restart does not begin them anew, and of
several processes all tell the same.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, case, func, select

from gateway.errors import StoreError
from gateway.ledger.database import Database
from gateway.ledger.schema import holds, usage_daily
from policies.periods import day_of, month_of

__all__ = ["Figures", "LedgerGauges"]

_BELIEVED_S = 5.0
_HELD: tuple[Any, ...] = func.count().label("count"), func.min(holds.c.created_at).label("first")
_HOLDS: Select[Any] = select(*_HELD)
_WITHIN_S = 2.0
"""A scrape does not wait longer for a database in trouble."""


class Figures(NamedTuple):
    """Days and months are those of calls' admission, UTC; refunds and adjustments count where they were booked."""

    day_cost_nano_usd: int
    month_cost_nano_usd: int
    month_charge_nano_usd: int
    """What is owed by calls that the quota paid, corrections included."""
    open_holds: int
    oldest_hold_seconds: float
    """Age of the oldest one; 0 where there is none. A name as metrics have it."""


class LedgerGauges:
    """Lifetime: the process."""

    def __init__(
        self,
        database: Database,
        *,
        wall_clock: Callable[[], float] = time.time,
        monotonic_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._wall_clock = wall_clock
        self._monotonic_clock = monotonic_clock
        self._figures: Figures | None = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def read(self) -> Figures | None:
        """The figures as of the last few seconds; None where the database does not tell."""
        async with self._reading:
            if self._monotonic_clock() - self._read_at > _BELIEVED_S:
                self._figures = await self._read()
                self._read_at = self._monotonic_clock()
            return self._figures

    async def _read(self) -> Figures | None:
        now_s = self._wall_clock()
        now = datetime.fromtimestamp(now_s, UTC)
        day, month = day_of(now), month_of(now)
        column = usage_daily.c
        # Grants and what expired are of other payers.
        is_owed = column.payer == "quota"
        sums = (
            func.coalesce(func.sum(case((column.period_day == day, column.cost_nano_usd), else_=0)), 0).label("day"),
            func.coalesce(func.sum(column.cost_nano_usd), 0).label("month"),
            func.coalesce(func.sum(case((is_owed, column.charge_nano_usd), else_=0)), 0).label("charge"),
        )
        of_money = select(*sums).where(column.period_day.between(f"{month}-01", f"{month}-31"))
        try:
            (money,) = await self._database.fetch_all(of_money, timeout_s=_WITHIN_S)
            (held,) = await self._database.fetch_all(_HOLDS, timeout_s=_WITHIN_S)
        except StoreError:
            return None
        age_s = 0.0 if held["first"] is None else max(0.0, now_s - held["first"] / 1000)
        return Figures(int(money["day"]), int(money["month"]), int(money["charge"]), int(held["count"]), age_s)
