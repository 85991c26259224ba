"""Finds hours out of the usual. One look, again and again:

1. sum up what was posted since the last look;
2. judge the current hour, and the one before it until its last entry is summed, for every creator and feature with more
   calls or cost than is never unusual; and for all features of a creator together, or else new names for features, which
   have no history, would hide whatever is done under them;
3. record what is new, once for each creator, feature, metric and hour;
4. tell it and act upon it, then note that this was done: what is recorded and not noted is told and acted upon again;
5. lift throttles that have ended, and delete hours that nobody will look at any more.

Only hours with calls are compared: who calls on weekdays is not out of the usual on Monday.
"""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from gateway.anomalies.actions import Actions
from gateway.anomalies.words import anomaly_found
from gateway.errors import PolicyDenied, RequestError, StoreError
from gateway.ledger import hourly
from gateway.ledger.anomalies import (
    OPEN_AT_ONCE,
    Anomaly,
    Finding,
    Metric,
    is_recorded,
    note_done,
    open_anomalies,
    record,
)
from gateway.ledger.database import Database
from gateway.ledger.hourly import HOUR_MS, HourSums, hour_of
from gateway.ledger.ids import ms_in
from gateway.ledger.periods import DAY_MS
from gateway.notices.base import NoticeBook
from policies.anomaly import Judgement, Usual, beyond, usual
from policies.types import Account, AnomalyAction

if TYPE_CHECKING:
    from gateway.config import Settings

__all__ = ["Detector"]

_PAGE_ROWS = 500
_USUALS_MAX = 10_000
_NANO_USD_A_USD = 10**9
_log = structlog.get_logger()

AccountOf = Callable[[str], Awaitable[Account | None]]
"""Creator -> its account as a key without restrictions of its own has it; None if there is no such creator."""


class Detector:
    """Lifetime: the process. One `look` at a time."""

    def __init__(
        self,
        *,
        database: Database,
        settings: "Settings",
        book: NoticeBook,
        actions: Actions,
        account_of: AccountOf,
        wall_clock: Callable[[], float] = time.time,
        behind_ms: int = 0,
    ) -> None:
        """`behind_ms`: how much the youngest entries are left to the next look, where several writers post."""
        self._database = database
        self._book = book
        self._actions = actions
        self._account_of = account_of
        self._wall_clock = wall_clock
        self._behind_ms = behind_ms
        self._history_ms = settings.anomaly_history_days * DAY_MS
        self._hours_min = settings.anomaly_hours_min
        self._factor_hundredths = int(settings.anomaly_factor * 100)
        self._floors: dict[Metric, int] = {
            "calls": settings.anomaly_requests_min,
            "cost_nano_usd": int(settings.anomaly_cost_usd_min * _NANO_USD_A_USD),
        }
        self._seen: tuple[int, str] | None = None
        """The hour and the cursor of the last time everything was judged: as long as both stay, nothing is new."""
        self._whole_before_ms = 0
        """Hours that begin before this instant were judged when their last entry had been summed."""
        self._usuals: dict[tuple[str, str, str], dict[Metric, Usual]] = {}
        """(hour, creator, feature) -> what is usual. It stays so: an hour has rows only when all earlier ones are whole."""
        self._has_open = True
        """There may be anomalies that were not acted upon; at the start those that a crash left."""
        self._purged_ms = 0

    async def look(self) -> None:
        """Raises nothing but cancellation; what went wrong is logged, and done at the next look."""
        for step in (self._find, self._act, self._actions.lift_ended, self._purge):
            try:
                await step()
            except StoreError as exc:  # the other steps would fail as well
                _log.error("anomalies_failed", step=step.__name__.strip("_"), error=exc.message)
                return
            except Exception:
                _log.exception("anomalies_failed", step=step.__name__.strip("_"))

    # Finding

    async def _find(self) -> None:
        hour_ms = self._hour_ms()
        first_ms = hour_ms - HOUR_MS - self._history_ms
        await hourly.fill(self._database, first_ms=first_ms, behind_ms=self._behind_ms)
        cursor = await hourly.cursor(self._database)
        if not cursor or self._seen == (hour_ms, cursor):
            return
        for start_ms in (hour_ms - HOUR_MS, hour_ms):
            if start_ms >= self._whole_before_ms:
                await self._judge_hour(start_ms)
        if ms_in(cursor) >= hour_ms:
            self._whole_before_ms = hour_ms
        self._seen = (hour_ms, cursor)

    async def _judge_hour(self, start_ms: int) -> None:
        hour = hour_of(start_ms)
        floors = {"calls_above": self._floors["calls"], "cost_above_nano_usd": self._floors["cost_nano_usd"]}
        page: list[HourSums] | None = None
        after = ("", "")
        while page is None or len(page) == _PAGE_ROWS:
            page = await hourly.busy(self._database, hour, **floors, after=after, limit=_PAGE_ROWS)
            for sums in page:
                await self._judge(sums, start_ms)
                after = (sums.creator, sums.feature)
        page, creator = None, ""
        while page is None or len(page) == _PAGE_ROWS:
            page = await hourly.busy_in_all(self._database, hour, **floors, after=creator, limit=_PAGE_ROWS)
            for sums in page:
                await self._judge(sums, start_ms)
                creator = sums.creator

    async def _judge(self, sums: HourSums, start_ms: int) -> None:
        usuals = await self._usuals_of(sums, start_ms)
        values: dict[Metric, int] = {"calls": sums.calls, "cost_nano_usd": sums.cost_nano_usd}
        for metric, value in values.items():
            judgement = beyond(
                value,
                usuals[metric],
                factor_hundredths=self._factor_hundredths,
                floor=self._floors[metric],
                hours_min=self._hours_min,
            )
            if judgement is not None:
                await self._record(sums, metric, hour_of(start_ms), judgement)

    async def _usuals_of(self, sums: HourSums, start_ms: int) -> dict[Metric, Usual]:
        key = (hour_of(start_ms), sums.creator, sums.feature)
        known = self._usuals.get(key)
        if known is None:
            hours = await hourly.history(
                self._database,
                sums.creator,
                sums.feature,
                from_hour=hour_of(start_ms - self._history_ms),
                before_hour=hour_of(start_ms),
            )
            known = {"calls": usual([calls for calls, _ in hours]), "cost_nano_usd": usual([cost for _, cost in hours])}
            if len(self._usuals) >= _USUALS_MAX:
                self._usuals.clear()
            self._usuals[key] = known
        return known

    async def _record(self, sums: HourSums, metric: Metric, hour: str, judgement: Judgement) -> None:
        creator, feature = sums.creator, sums.feature
        # A feature that is one by itself says more than all together, which then need not be told.
        told = None if feature == hourly.ALL_FEATURES else feature
        if await is_recorded(self._database, creator=creator, feature=told, metric=metric, hour=hour):
            return
        action = await self._action_of(creator)
        value, of, threshold = judgement
        figures = (value, of.median, of.deviation, of.often, threshold)
        finding = Finding(creator, feature, metric, hour, *figures, of.hours, action)
        self._has_open = True  # also if the record is only told to have failed
        if await record(self._database, finding, self._now_ms()) is not None:
            _log.warning("anomaly_found", **finding._asdict())

    async def _action_of(self, creator: str) -> AnomalyAction:
        """What the creator's plan says; only a notice where the creator is deleted, or its plan is not there any more."""
        try:
            account = await self._account_of(creator)
        except (PolicyDenied, RequestError):
            return "notify"
        return "notify" if account is None else account.plan.when_unusual

    # Acting

    async def _act(self) -> None:
        if not self._has_open:
            return
        found = await open_anomalies(self._database)
        failed = 0
        for anomaly in found:
            try:
                await self._tell_and_act(anomaly)
            except StoreError:
                raise
            except Exception:  # the others are not to wait for it
                _log.exception("anomaly_action_failed", anomaly=anomaly.id, action=anomaly.finding.action)
                failed += 1
        self._has_open = failed > 0 or len(found) == OPEN_AT_ONCE

    async def _tell_and_act(self, anomaly: Anomaly) -> None:
        await self._book.record(anomaly_found(anomaly))
        details = await self._actions.act(anomaly)
        await note_done(self._database, anomaly.id, details, self._now_ms())

    # Tidying up

    async def _purge(self) -> None:
        """Once an hour, and again with each look until nothing is left."""
        hour_ms = self._hour_ms()
        if self._purged_ms == hour_ms:
            return
        # Two hours more than are looked at: the one before the current hour has a history too.
        if not await hourly.purge(self._database, hour_of(hour_ms - self._history_ms - 2 * HOUR_MS)):
            self._purged_ms = hour_ms
            self._usuals = {key: usuals for key, usuals in self._usuals.items() if key[0] >= hour_of(hour_ms - HOUR_MS)}

    def _hour_ms(self) -> int:
        now_ms = self._now_ms()
        return now_ms - now_ms % HOUR_MS

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)
