"""Counters after a start: a cache of the ledger, filled from it before the port opens.

What was held when the process died has been booked before, so it is among what was used. Nothing is in flight yet, so
gauges start at 0. In this order:
1. what the month's calls cost and owe: quota and budgets, per creator and per virtual key with limits of its own;
2. the day's free images;
3. credits spent, expired and given back, ever;
4. requests and tokens of the last hour by the second, and of the last day by the minute where some window is that long
   (window_seeds.py).
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple

from gateway.counters.base import CounterSeeds
from gateway.counters.window_seeds import owners_in, seed_windows
from gateway.decision import decision_json
from gateway.ledger.counted import (
    MonthUse,
    NewestDecision,
    credits_used,
    free_images_of_day,
    month_use,
    newest_decisions,
)
from gateway.ledger.database import Database
from policies import budget, free_images, periods, quota
from policies.credits import counter_key as credits_key
from policies.credits import promo_counter_key as promo_credits_key
from policies.owners import Owner, creator_owner, limit_name
from policies.types import Plan

__all__ = ["rebuild_counters"]


async def rebuild_counters(
    counters: CounterSeeds, database: Database, *, plans: Mapping[str, Plan], now: datetime
) -> None:
    """Seed `counters` with what the ledger says was used up to `now`, an aware instant.

    `plans` and the overrides of creators and keys say which windows are counted. Doing it twice is harmless.
    """
    await _seed_month(counters, database, now)
    await _seed_free_images(counters, database, now)
    await _seed_credits(counters, database)
    await seed_windows(counters, database, plans=plans, now=now)


class _Spent(NamedTuple):
    charge_nano_usd: int = 0
    cost_nano_usd: int = 0

    def with_more(self, use: MonthUse) -> "_Spent":
        return _Spent(self.charge_nano_usd + use.charge_nano_usd, self.cost_nano_usd + use.cost_nano_usd)


async def _seed_month(counters: CounterSeeds, database: Database, now: datetime) -> None:
    now = periods.in_utc(now)
    month, ends_at = periods.month_of(now), periods.month_ends_at(now.year, now.month)
    spent: dict[Owner, _Spent] = defaultdict(_Spent)
    downgraded: dict[str, set[str]] = defaultdict(set)
    for use in await month_use(database, month):
        for owner in owners_in(use.creator, use.key_id):
            spent[owner] = spent[owner].with_more(use)
        if use.was_downgraded:
            downgraded[use.creator].add(use.key_id)
    refused = await _refused_budgets(database, downgraded, month)
    for owner, (charge, cost) in spent.items():
        await counters.seed_settled(quota.counter_key(owner, month), charge, resets_at=ends_at)
        soft, hard = budget.counter_key(owner, month), budget.hard_counter_key(owner, month)
        await counters.seed_settled(soft, cost, resets_at=ends_at, is_refused=owner in refused)
        await counters.seed_settled(hard, cost, resets_at=ends_at)


async def _refused_budgets(database: Database, downgraded: Mapping[str, Collection[str]], month: str) -> set[Owner]:
    """Whose soft budget refused the last time that it was asked, as far as a creator's newest calls tell.

    `downgraded`: creators of whom some call was served by another model than it asked for, with the keys it came by.
    """
    newest: dict[Owner, tuple[str, bool]] = {}
    for creator, key_ids in downgraded.items():
        for call in await newest_decisions(database, creator, month):
            for owner in owners_in(creator, call.key_id if call.key_id in key_ids else ""):
                is_refused = _has_refused(call, limit_name(owner, budget.NAME))
                if is_refused is not None and call.entry_id > newest.get(owner, ("",))[0]:
                    newest[owner] = call.entry_id, is_refused
    return {owner for owner, (_, is_refused) in newest.items() if is_refused}


def _has_refused(call: NewestDecision, name: str) -> bool | None:
    """Whether the soft budget `name` had no room for what was asked; None where the call says nothing about it."""
    decision = decision_json(call.decision)
    limits = () if decision is None else decision["limits"]
    if any(limit["name"] == name and limit["taken"] and limit["limit"] is not None for limit in limits):
        return False  # it had room in the end, for a call that a cheaper model could have served
    return True if call.downgrade_reason == name else None


async def _seed_free_images(counters: CounterSeeds, database: Database, now: datetime) -> None:
    now = periods.in_utc(now)
    day, ends_at = periods.day_of(now), periods.day_ends_at(now.year, now.month, now.day)
    for creator, images in (await free_images_of_day(database, day)).items():
        key = free_images.counter_key(creator_owner(creator), day)
        await counters.seed_settled(key, images, resets_at=ends_at)


async def _seed_credits(counters: CounterSeeds, database: Database) -> None:
    for payer, creator, units in await credits_used(database):
        counter_key = credits_key if payer == "credits" else promo_credits_key
        # An adjustment may have given more than was ever spent; a counter knows nothing below 0.
        await counters.seed_settled(counter_key(creator_owner(creator)), max(0, units))
