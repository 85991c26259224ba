"""Counters after a start: a cache of the ledger, filled from it before the port opens.

Money counters hold the month's charges per creator; request windows hold every call of the last hour, for a request
unit is never given back. What was held when the process died has been booked before, so it is among the charges.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime

from gateway.counters.base import CounterSeeds
from gateway.ledger.database import Database
from policies import quota, rate_limit
from policies.types import Plan


async def rebuild_counters(counters: CounterSeeds, database: Database, plans: Mapping[str, Plan]) -> None:
    """Seed `counters` with what the ledger says was used, as of now."""
    now = datetime.now(UTC)
    month = quota.month_of(now)
    ends_at = quota.month_ends_at(now.year, now.month)
    for creator, charge_nano_usd in (await database.month_charges(month)).items():
        await counters.seed_settled(quota.counter_key(creator, month), charge_nano_usd, resets_at=ends_at)
    admitted: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for creator, second, calls in await database.admitted_since(now.timestamp() - rate_limit.WINDOW_S):
        # Counted as if at the end of their second: a unit may leave a second late, never early.
        admitted[creator].append((now.timestamp() - second - 1, calls))
    for creator, ages in admitted.items():
        # A capacity of 0 keeps each second apart, which is exact enough for any limit the creator turns out to have.
        await counters.seed_rolling(rate_limit.counter_key(creator), rate_limit.WINDOW_S, 0, ages)
