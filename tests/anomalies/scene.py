"""A detector over a real database, half past an hour that a test can make unusual."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gateway.anomalies.actions import Actions, Brakes
from gateway.anomalies.detector import Detector
from gateway.config import Settings
from gateway.ledger.hourly import HOUR_MS, hour_of
from tests.account_world import World, open_world
from tests.anomalies.hours import Book, FakeBrakes, Told
from tests.ledger.books import rows

LOW_FLOORS = {"anomaly_requests_min": 5, "anomaly_cost_usd_min": "0.005"}
_ANOMALIES = """
    SELECT creator, feature, metric, hour, value, median, deviation, often, threshold, hours, action, details FROM anomalies ORDER BY id
"""
_NAMES = (
    "creator",
    "feature",
    "metric",
    "hour",
    "value",
    "median",
    "deviation",
    "often",
    "threshold",
    "hours",
    "action",
    "details",
)


@dataclass
class Scene:
    world: World
    book: Book
    told: Told
    brakes: Any

    @property
    def now_ms(self) -> int:
        """The first instant of the current hour."""
        now_ms = int(self.world.clock.now_s * 1000)
        return now_ms - now_ms % HOUR_MS

    @property
    def hour(self) -> str:
        return hour_of(self.now_ms)

    def go_on(self, hours: int = 1) -> None:
        self.world.clock.now_s += hours * HOUR_MS / 1000

    def detector(self, *, told: Any = None, **settings: Any) -> Detector:
        """A new one, as after a restart. Its floors are low unless the test says otherwise."""
        chosen = Settings(**{**LOW_FLOORS, **settings})
        parts: dict[str, Any] = {
            "database": self.world.database,
            "settings": chosen,
            "book": told or self.told,
            "wall_clock": self.world.clock,
        }
        actions = Actions(brakes=self.brakes, **parts)
        return Detector(actions=actions, account_of=self.world.authenticator.account_of, **parts)

    async def creator(self, creator: str = "acme", when_unusual: str = "notify") -> None:
        await self.world.accounts.create_creator(creator, overrides={"when_unusual": when_unusual})

    async def key(self, creator: str = "acme", **fields: Any) -> dict[str, Any]:
        return await self.world.accounts.create_key(creator, **fields)

    def anomalies(self) -> list[dict[str, Any]]:
        found = [dict(zip(_NAMES, row, strict=True)) for row in rows(self.world.path, _ANOMALIES)]
        return [{**row, "details": orjson.loads(row["details"])} for row in found]

    def found(self) -> list[tuple[str, str, str, str]]:
        return [(row["creator"], row["feature"], row["metric"], row["hour"]) for row in self.anomalies()]

    def throttles(self) -> list[tuple[Any, ...]]:
        return rows(self.world.path, "SELECT creator, requests_per_minute, until_at FROM throttles ORDER BY creator")


@asynccontextmanager
async def open_scene(folder: Path, brakes: Brakes | None = None) -> AsyncIterator[Scene]:
    async with open_world(folder) as world:
        world.clock.now_s += HOUR_MS / 2_000
        yield Scene(world, Book(world.database), Told(), brakes or FakeBrakes(world.database))
