"""What is done about an anomaly, as the creator's plan says: `notify` nothing more, `throttle`, or `pause`.

Each may be done twice: whoever died between doing it and noting that it was done does it again at the next look, and
nothing comes of it but the same throttle, the same pause, and no second notice.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from gateway.anomalies.words import creator_throttled, key_paused
from gateway.errors import RequestError
from gateway.ledger.anomalies import Anomaly, Finding, ended_throttles, owners_of_keys, throttle_of
from gateway.ledger.database import Database
from gateway.ledger.hourly import HOUR_MS, calls_by_hour, history_by_key, hour_of, hour_start_ms
from gateway.ledger.periods import DAY_MS, rfc3339
from gateway.notices.base import NoticeBook
from policies.anomaly import Part, culprits, usual

if TYPE_CHECKING:
    from gateway.config import Settings

__all__ = ["Actions", "Brakes"]

_MINUTES_AN_HOUR = 60
_log = structlog.get_logger()


class Brakes(Protocol):
    """Slows creators down and stops virtual keys, from their next call on. Every method may be asked twice."""

    async def pause_key(self, id: str) -> Any:
        """Raises `RequestError` where there is no such key, or it is revoked."""
        ...

    async def resume_key(self, id: str) -> Any:
        """Raises as `pause_key` does."""
        ...

    async def throttle(self, creator: str, requests_per_minute: int, until_ms: int, anomaly_id: str) -> Any:
        """Where one lasts already, the lower number and the later end stand. Raises `NotFound` for an unknown creator."""
        ...

    async def lift_throttle(self, creator: str) -> bool:
        """Whether there was one that still lasted."""
        ...


class Actions:
    """Lifetime: the process."""

    def __init__(
        self,
        *,
        database: Database,
        settings: "Settings",
        book: NoticeBook,
        brakes: Brakes,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._history_ms = settings.anomaly_history_days * DAY_MS
        self._book = book
        self._brakes = brakes
        self._wall_clock = wall_clock

    async def act(self, anomaly: Anomaly) -> dict[str, Any]:
        """What was done, for the anomaly's `details`; empty where its plan asks for no more than the notice.

        Raises `StoreError`: then some of it may be done, and it is to be asked for again.
        """
        match anomaly.finding.action:
            case "throttle":
                return await self._throttle(anomaly)
            case "pause":
                return await self._pause(anomaly)
            case "notify":
                return {}

    async def lift_ended(self) -> None:
        """Takes away throttles that have come to their end, so that nobody finds old ones."""
        for creator in await ended_throttles(self._database, self._now_ms()):
            await self._brakes.lift_throttle(creator)
            _log.info("throttle_ended", creator=creator)

    # Slowing down

    async def _throttle(self, anomaly: Anomaly) -> dict[str, Any]:
        """Until the end of the hour after the anomaly's, to what the creator usually does in a minute, at least 1."""
        finding = anomaly.finding
        until_ms = hour_start_ms(finding.hour) + 2 * HOUR_MS
        if until_ms <= self._now_ms():  # found by a gateway that was down meanwhile
            return {"skipped": "throttle_over"}
        requests = await self._usual_requests_per_minute(finding)
        done = {"requests_per_minute": requests, "until_at": rfc3339(until_ms)}
        standing = await throttle_of(self._database, finding.creator)
        if (
            standing is not None
            and standing.anomaly_id != anomaly.id
            and standing.until_at >= until_ms
            and standing.requests_per_minute <= requests
        ):
            return {**done, "skipped": "throttled_already"}
        try:
            await self._brakes.throttle(finding.creator, requests, until_ms, anomaly.id)
        except RequestError:
            return {"skipped": "creator_gone"}
        await self._book.record(creator_throttled(anomaly, requests, until_ms))
        _log.warning(
            "creator_throttled", creator=finding.creator, requests_per_minute=requests, until_at=done["until_at"]
        )
        return done

    async def _usual_requests_per_minute(self, finding: Finding) -> int:
        hours = await calls_by_hour(
            self._database, finding.creator, from_hour=self._first_hour(finding), before_hour=finding.hour
        )
        return max(1, -(-usual(hours).median // _MINUTES_AN_HOUR))

    # Pausing

    async def _pause(self, anomaly: Anomaly) -> dict[str, Any]:
        """Pauses the creator's keys that make up the excess. A key of somebody else that acts for this creator is a whole
        application's: it goes on, and the creator is slowed down instead."""
        finding = anomaly.finding
        chosen = await self._keys_of_the_excess(finding)
        owners = await owners_of_keys(self._database, chosen)
        own = [key_id for key_id in chosen if owners.get(key_id) == finding.creator]
        foreign = [key_id for key_id in chosen if owners.get(key_id, finding.creator) != finding.creator]
        paused = await self._pause_all(own)
        done: dict[str, Any] = {"paused_keys": paused}
        if paused:
            await self._book.record(key_paused(anomaly, paused))
            _log.warning("keys_paused", creator=finding.creator, key_ids=paused)
        if foreign:
            done |= {"spared_keys": foreign, **await self._throttle(anomaly)}
        return done

    async def _pause_all(self, key_ids: Sequence[str]) -> list[str]:
        paused = []
        for key_id in key_ids:
            try:
                await self._brakes.pause_key(key_id)
            except RequestError:  # revoked meanwhile: nobody uses it any more
                continue
            paused.append(key_id)
        return paused

    async def _keys_of_the_excess(self, finding: Finding) -> list[str]:
        """As the hour stands now, which is the value that was found or more."""
        rows = await history_by_key(
            self._database,
            finding.creator,
            finding.feature,
            from_hour=self._first_hour(finding),
            to_hour=finding.hour,
        )
        now: dict[str, int] = {}
        before: dict[str, list[int]] = {}
        for row in rows:
            if row.hour == finding.hour:
                now[row.key_id] = getattr(row, finding.metric)
            else:
                before.setdefault(row.key_id, []).append(getattr(row, finding.metric))
        hours = len({row.hour for row in rows if row.hour != finding.hour})
        parts = [Part(key_id, value, _usual_of_key(before.get(key_id, []), hours)) for key_id, value in now.items()]
        return culprits(parts, finding.threshold)

    def _first_hour(self, finding: Finding) -> str:
        return hour_of(hour_start_ms(finding.hour) - self._history_ms)

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)


def _usual_of_key(values: Sequence[int], hours: int) -> int:
    """Its median over all hours of the feature: in those it has no value of, other keys made the calls."""
    return usual([*values, *[0] * (hours - len(values))]).median
