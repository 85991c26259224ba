"""Credits over a real database, with counters in memory, calls paid in credits, and a clock that the test turns.

The clock begins in the past: nothing is posted before it was admitted.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from gateway.counters.base import Taken
from gateway.counters.memory import MemoryCounters
from gateway.credit_balance import limit_of
from gateway.credits import Credits
from gateway.ledger.database import Database
from gateway.ledger.schema import credit_grants, entries, postings, usage_daily
from gateway.ledger.verify import verify
from gateway.plans import CreditPackage
from policies import quota
from policies.owners import creator_owner
from policies.types import Account, Limit, Plan, PromoGrant
from tests.account_world import World, open_world
from tests.ledger.books import MODEL, NOON, PRICE, ROUTE, entry, hold

PACKAGES = {"small": CreditPackage("small", 500, 4_990_000_000)}


@dataclass
class CreditWorld:
    world: World
    counters: MemoryCounters
    credits: Credits
    _numbers: Any = field(default_factory=lambda: count(1))

    @property
    def database(self) -> Database:
        return self.world.database

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.world.clock.now_s, UTC)

    def turn_to(self, at: datetime) -> None:
        self.world.clock.now_s = at.timestamp()

    def advance(self, seconds: float) -> None:
        self.world.clock.now_s += seconds

    def in_s(self, seconds: float) -> datetime:
        return self.now + timedelta(seconds=seconds)

    async def call(self, units: int, payer: str = "credits", *, creator: str = "acme", **changes: Any) -> str:
        """A finished call that took `units` from `payer`, in the ledger only. Returns its request id."""
        request_id = changes.pop("request_id", None) or f"req_{next(self._numbers)}"
        by_quota = payer == "quota"
        unit = "nano_usd" if by_quota else "image" if payer == "free_images" else "credit"
        posted = entry(
            request_id,
            creator=creator,
            at=changes.pop("at", self.now),
            changes={
                "route": ROUTE._replace(payer=payer, payer_unit=unit),
                "charge_nano_usd": units if by_quota else 0,
                "payer_amount": units,
                **changes,
            },
        )
        await self.database.ledger.post([posted])
        return request_id

    async def spend(self, units: int, payer: str = "promo_credits", creator: str = "acme") -> bool:
        """A whole call as the pipeline makes it: taken from the counter, booked, settled. False if it was refused."""
        request_id = f"req_{next(self._numbers)}"
        limit = limit_of(await self.account(creator), payer, units, self.now)
        if not isinstance(await self.counters.take(request_id, [(limit,)]), Taken):
            return False
        await self.call(units, payer, creator=creator, request_id=request_id)
        await self.counters.settle(request_id, {"credit": units})
        return True

    async def hold(self, units: int, payer: str = "promo_credits", creator: str = "acme") -> str:
        """An open call: in the counter and among the holds."""
        request_id = f"req_{next(self._numbers)}"
        limit = limit_of(await self.account(creator), payer, units, self.now)
        assert isinstance(await self.counters.take(request_id, [(limit,)]), Taken)
        made = hold(request_id, creator=creator, at=self.now)
        route = ROUTE._replace(payer=payer, payer_unit="credit")
        await self.database.ledger.hold(made._replace(route=route))
        return request_id

    async def end(self, request_id: str, units: int, *, payer: str = "promo_credits", at: datetime) -> None:
        """An open call, admitted at `at`, ends having taken `units`."""
        changes = {
            "route": ROUTE._replace(payer=payer, payer_unit="credit"),
            "charge_nano_usd": 0,
            "payer_amount": units,
        }
        await self.database.ledger.settle(request_id, [entry(request_id, at=at, changes=changes)])
        await self.counters.settle(request_id, {"credit": units})

    async def account(self, creator: str = "acme") -> Account:
        rows = await self.database.fetch_all(select(credit_grants).where(credit_grants.c.creator == creator))
        promo = [
            PromoGrant(row["credits"], None if row["expires_at"] is None else row["expires_at"] / 1000)
            for row in rows
            if row["payer"] == "promo_credits"
        ]
        granted = sum(row["credits"] for row in rows if row["payer"] == "credits")
        return Account(creator, creator, "k" * 12, Plan("free"), credits_granted=granted, promo_grants=tuple(promo))

    async def settled(self, payer: str = "promo_credits", creator: str = "acme") -> int:
        """What the counter would answer a call now."""
        (state,) = await self.counters.read([limit_of(await self.account(creator), payer, 0, self.now)])
        return state.settled

    async def quota_used(self, month: datetime, creator: str = "acme") -> int:
        key = quota.counter_key(creator_owner(creator), quota.month_of(month))
        limit = limit_of(await self.account(creator), "credits", 0, self.now)
        return (await self.counters.read([Limit(**{**limit._asdict(), "key": key, "kind": "calendar"})]))[0].settled

    async def consumed(self, payer: str = "promo_credits", creator: str = "acme") -> int:
        """What the ledger says is gone."""
        total = func.coalesce(func.sum(usage_daily.c.payer_amount), 0).label("units")
        of_creator = (usage_daily.c.creator == creator, usage_daily.c.payer == payer, usage_daily.c.kind != "grant")
        (row,) = await self.database.fetch_all(select(total).where(*of_creator))
        return int(row["units"])

    async def entries(self, kind: str) -> list[dict[str, Any]]:
        query = select(entries).where(entries.c.kind == kind).order_by(entries.c.id)
        return [dict(row) for row in await self.database.fetch_all(query)]

    async def postings(self) -> int:
        return len(await self.database.fetch_all(select(postings)))

    def differences(self) -> list[Any]:
        return verify(self.world.path).differences


@asynccontextmanager
async def open_credit_world(folder: Path, *, at: datetime = NOON) -> AsyncIterator[CreditWorld]:
    async with open_world(folder) as world:
        world.clock.now_s = at.timestamp()
        await world.database.record_prices({MODEL: PRICE})
        await world.accounts.create_creator("acme")
        counters = MemoryCounters(world.clock, world.clock)
        books = Credits(world.database, lambda: PACKAGES, counters, world.authenticator, wall_clock=world.clock)
        yield CreditWorld(world, counters, books)
