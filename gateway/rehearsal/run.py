"""One rehearsal from the question to the answer, beside calls in flight and within bounds."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from gateway.catalog import Catalog
from gateway.errors import RequestError
from gateway.ledger.database import Database
from gateway.ledger.periods import ms_of
from gateway.rehearsal.callers import read_callers
from gateway.rehearsal.history import (
    Whose,
    calls_between,
    credits_before,
    entries_by_day,
    month_before,
    really_refused,
)
from gateway.rehearsal.pace import Pace
from gateway.rehearsal.past_call import PastCall
from gateway.rehearsal.report import Asked, report
from gateway.rehearsal.stage import Stage
from gateway.rehearsal.tallies import Tallies
from policies.types import Plan

__all__ = ["DAYS_MAX", "RehearsalWish", "Rehearsals"]

DAYS_MAX = 90
ENTRIES_MAX = 1_000_000
TIME_MAX_S = 60.0
_RECALLED = timedelta(days=1)
"""The longest rolling window."""


class RehearsalWish(NamedTuple):
    """What is to be rehearsed."""

    changed: Mapping[str, Plan]
    """Plans that would be others, by name."""
    days: int
    """Whole days in UTC, the current one among them; 1 to `DAYS_MAX`."""
    creators: Sequence[str] | None = None
    """None: all on these plans."""


class Rehearsals:
    """One at a time: a rehearsal takes what the processor has to spare. Lifetime: the process."""

    def __init__(
        self,
        *,
        entries_max: int = ENTRIES_MAX,
        time_max_s: float = TIME_MAX_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._entries_max = entries_max
        self._time_max_s = time_max_s
        self._clock = clock
        self._is_running = False

    async def rehearse(
        self, database: Database, plans: Mapping[str, Plan], catalog: Catalog, wish: RehearsalWish, now: datetime
    ) -> dict[str, Any]:
        """The report as JSON. Raises `RequestError` 409 while another one runs, `StoreError`."""
        if self._is_running:
            raise RequestError(
                "A rehearsal is running in this process: ask again when it has answered.",
                status=409,
                code="rehearsal_running",
                headers={"retry-after": "5"},
            )
        self._is_running = True
        try:
            return await self._rehearse(database, plans, catalog, wish, now)
        finally:
            self._is_running = False

    async def _rehearse(
        self, database: Database, plans: Mapping[str, Plan], catalog: Catalog, wish: RehearsalWish, now: datetime
    ) -> dict[str, Any]:
        began_at = self._clock()
        whose = Whose(wish.changed.keys(), wish.creators)
        last_day = now.astimezone(UTC).date()
        first_day = await self._first_day(database, whose, last_day, wish.days)
        from_at = datetime.combine(first_day, datetime.min.time(), UTC)
        callers = await read_callers(database, whose)
        pace = Pace(self._clock, began_at + self._time_max_s)
        tallies = Tallies()
        since_ms, from_ms, to_ms = ms_of(from_at - _RECALLED), ms_of(from_at), ms_of(now) + 1
        is_complete = False
        # What ends the reading early is no fault: what has been played by then is the answer.
        with suppress(TimeoutError):
            async with asyncio.timeout(pace.left_s), aclosing(calls_between(database, whose, since_ms, to_ms)) as calls:
                stages = [
                    Stage(callers, plans, catalog, pace),
                    Stage(callers, {**plans, **wish.changed}, catalog, pace),
                ]
                spent = await month_before(database, whose, first_day)
                used = await credits_before(database, whose, first_day)
                for stage in stages:
                    await stage.begin_month(spent, from_at)
                    await stage.begin_credits(used)
                is_complete = await self._play(calls, stages, tallies, pace, from_ms)
        asked = Asked(
            before={name: plans[name] for name in wish.changed},
            after=wish.changed,
            days=wish.days,
            first_day=first_day,
            days_left_out=wish.days - ((last_day - first_day).days + 1),
            to=now,
            plan_of=callers.plan_of,
            refused=await really_refused(database, whose, first_day.isoformat()),
        )
        took_ms = int((self._clock() - began_at) * 1000)
        return await asyncio.to_thread(report, asked, tallies, is_complete=is_complete, took_ms=took_ms)

    async def _first_day(self, database: Database, whose: Whose, last_day: date, days: int) -> date:
        """The first of the newest whole days whose entries are not too many; the last one at least."""
        first_day = last_day - timedelta(days=days - 1)
        entries = await entries_by_day(database, whose, first_day.isoformat())
        found, counted = last_day, entries.get(last_day.isoformat(), 0)
        while found > first_day:
            before = found - timedelta(days=1)
            counted += entries.get(before.isoformat(), 0)
            if counted > self._entries_max:
                break
            found = before
        return found

    async def _play(
        self,
        calls: AsyncGenerator[Sequence[PastCall], None],
        stages: Sequence[Stage],
        tallies: Tallies,
        pace: Pace,
        from_ms: int,
    ) -> bool:
        """Play every call on all stages. False where the bound of entries ended it before. Raises `TimeoutError`."""
        has_begun = False
        async for some in calls:
            for call in some:
                if call.admitted_at < from_ms:
                    for stage in stages:
                        await stage.recall(call, from_ms)
                    await pace.breathe()
                    continue
                if not has_begun:
                    has_begun = True
                    for stage in stages:
                        await stage.begin(from_ms)
                elif tallies.calls >= self._entries_max:
                    return False
                before, after = [await stage.play(call) for stage in stages]
                tallies.add(call, before, after)
                await pace.breathe()
        return True
