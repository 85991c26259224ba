"""How creators stand this month beside their limits: the list that people pick one from.

1. Who is asked for: every creator, or those of a plan, a name, a state.
2. What each spent, in one walk through the month's rollups, beside the caps of its plan and overrides.
3. Sorted in memory, and one page cut out, by a cursor that holds the place and not the number of rows before it.
4. Only for that page: the days, the last day with a call, and the counters, which know who is downgraded.

Steps 2 and 3 run in a thread: ten thousand creators are some milliseconds of work.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

import orjson

from gateway.counters.base import CounterStore, Refused
from gateway.creator_view import forecast_nano_usd
from gateway.errors import RequestError
from gateway.ledger.database import Database
from gateway.ledger.standings import CreatorSums, creators_listed, daily_costs, last_days, sums_by_creator
from gateway.ledger.statements import Row
from gateway.plans import with_overrides
from gateway.pricing import usd
from policies import budget
from policies.quota import month_of
from policies.types import UNLIMITED, Account, Plan

__all__ = ["SORTS", "STATES", "Sort", "Standings", "State", "Wanted"]

Sort = Literal["spend", "forecast", "used", "name"]
State = Literal["downgraded", "near_limit", "inactive"]
SORTS: tuple[Sort, ...] = get_args(Sort)
STATES: tuple[State, ...] = get_args(State)
NEAR_PERMILLE = 800
"""Whoever used so much of the budget or the quota is near the limit."""
_ABOUT_CAPS = ("budget", "quota")
"""One of these is in the name of every field of a plan that has a say in its caps."""
_LOOKED_AT_MAX = 1_000
"""Counters read for one page of downgraded creators; the next page goes on from there."""

Place = tuple[Any, str]
"""What a row is sorted by, and its creator: no two rows have the same."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which page of which list."""

    sort: Sort = "spend"
    plan: str | None = None
    text: str = ""
    """Part of the id or the name, in upper or lower case."""
    state: State | None = None
    limit: int = 50
    after: Place | None = None


class _Standing(NamedTuple):
    creator: str
    name: str
    plan: str
    is_active: bool
    sums: CreatorSums
    caps: Plan | None
    """The plan with what the creator's overrides say of caps; None where there is no such plan, or that cannot be read."""
    used_permille: int | None


class Standings:
    """The list as it stands at `now`, an aware instant."""

    def __init__(self, database: Database, counters: CounterStore, plans: Mapping[str, Plan], now: datetime) -> None:
        self._database = database
        self._counters = counters
        self._plans = plans
        self._now = now
        self._month = month_of(now)

    async def page(self, wanted: Wanted) -> tuple[list[Row], Place | None]:
        """The rows, and the place that the next page begins after; None on the last one. Raises `StoreError`."""
        found = await self._found(wanted)
        if wanted.state == "downgraded":
            shown, after = await self._downgraded_among(found, wanted)
        else:
            shown = found[: wanted.limit]
            after = _place(shown[-1], wanted.sort) if len(found) > wanted.limit else None
        return await self._shown(shown), after

    async def every(self, wanted: Wanted) -> AsyncIterator[list[Row]]:
        """The rows of all that fit, in lists of up to `wanted.limit` that are never empty. Raises `StoreError`.

        Sorted once: whoever spends meanwhile would be missed by pages, or be on two of them.
        """
        found = await self._found(wanted)
        for start in range(0, len(found), wanted.limit):
            piece: Sequence[_Standing] = found[start : start + wanted.limit]
            if wanted.state == "downgraded":
                piece = [standing for standing in piece if await self._is_downgraded(standing)]
            if piece:
                yield await self._shown(piece)

    async def _found(self, wanted: Wanted) -> list[_Standing]:
        rows = await creators_listed(self._database, wanted.plan)
        sums = await sums_by_creator(self._database, self._month)
        return await asyncio.to_thread(self._sorted, rows, sums, wanted)

    def _sorted(self, rows: Sequence[Row], sums: Mapping[str, CreatorSums], wanted: Wanted) -> list[_Standing]:
        """All that fit and come after the place, in their order."""
        text, known = wanted.text.casefold(), dict[tuple[str, str], Plan | None]()
        meant = [row for row in rows if text in row["id"].casefold() or text in row["name"].casefold()]
        standings = [self._standing(row, sums, known) for row in meant]
        placed = sorted(
            ((_place(standing, wanted.sort), standing) for standing in standings if _may_be(standing, wanted.state)),
            key=lambda found: found[0],
        )
        return [standing for place, standing in placed if wanted.after is None or place > wanted.after]

    def _standing(
        self, row: Row, sums: Mapping[str, CreatorSums], known: dict[tuple[str, str], Plan | None]
    ) -> _Standing:
        named = row["plan"], row["overrides"]
        if named not in known:
            known[named] = _effective(self._plans.get(row["plan"]), row["overrides"])
        own, caps = sums.get(row["id"], CreatorSums()), known[named]
        used = None if caps is None else _used_permille(own, caps)
        return _Standing(row["id"], row["name"], row["plan"], row["is_active"], own, caps, used)

    async def _downgraded_among(
        self, found: Sequence[_Standing], wanted: Wanted
    ) -> tuple[list[_Standing], Place | None]:
        """Whoever the counters say is downgraded, looking no further than the page needs."""
        shown: list[_Standing] = []
        for index, standing in enumerate(found):
            if len(shown) == wanted.limit or index == _LOOKED_AT_MAX:
                return shown, _place(found[index - 1], wanted.sort)
            if await self._is_downgraded(standing):
                shown.append(standing)
        return shown, None

    async def _is_downgraded(self, standing: _Standing) -> bool:
        """Whether even the smallest call for a model that can be downgraded would be, as `/v1/me` tells the creator."""
        if standing.caps is None:
            return False
        account = Account(standing.creator, standing.creator, "", standing.caps)
        soft = [
            limit._replace(amount=1)
            for limit in budget.overview(account, self._now)
            if limit.downgrades and limit.capacity < UNLIMITED
        ]
        return bool(soft) and isinstance(await self._counters.preview([(limit,) for limit in soft]), Refused)

    async def _shown(self, standings: Sequence[_Standing]) -> list[Row]:
        if not standings:
            return []
        named = [standing.creator for standing in standings]
        days = await daily_costs(self._database, named, self._month)
        last = await last_days(self._database, named)
        return [
            {
                **_row(standing, self._now),
                "is_downgraded": await self._is_downgraded(standing),
                "last_day": last.get(standing.creator),
                "daily_cost_nano_usd": self._by_day(days.get(standing.creator, {})),
            }
            for standing in standings
        ]

    def _by_day(self, costs: Mapping[str, int]) -> list[int]:
        return [costs.get(f"{self._month}-{day:02d}", 0) for day in range(1, self._now.day + 1)]


def _row(standing: _Standing, now: datetime) -> Row:
    sums, caps = standing.sums, standing.caps
    return {
        "creator": standing.creator,
        "name": standing.name,
        "plan": standing.plan,
        "is_active": standing.is_active,
        "calls": sums.calls,
        **_money("cost", sums.cost_nano_usd),
        **_money("charge", sums.charge_nano_usd),
        **_money("forecast_cost", forecast_nano_usd(sums.cost_nano_usd, now)),
        **_money("budget", None if caps is None else caps.budget_nano_usd_per_month),
        **_money("quota", None if caps is None else caps.quota_nano_usd_per_month),
        "used_permille": standing.used_permille,
    }


def _money(name: str, nano_usd: int | None) -> dict[str, Any]:
    return {f"{name}_nano_usd": nano_usd, f"{name}_usd": None if nano_usd is None else usd(nano_usd)}


def _place(standing: _Standing, sort: Sort) -> Place:
    if sort == "name":
        return (standing.name or standing.creator).casefold(), standing.creator
    if sort == "used":
        return 1 if standing.used_permille is None else -standing.used_permille, standing.creator
    # By the forecast as by the spending: the month is as long for everybody.
    return -standing.sums.cost_nano_usd, standing.creator


def _may_be(standing: _Standing, state: State | None) -> bool:
    """Whether the ledger rules `state` out; who is downgraded, the counters must be asked."""
    if state == "inactive":
        return not standing.is_active
    if state == "near_limit":
        return standing.used_permille is not None and standing.used_permille >= NEAR_PERMILLE
    if state == "downgraded":
        # Below nine tenths of the cap nobody stays downgraded, whom holds of calls in flight did not put there.
        cap = None if standing.caps is None else standing.caps.budget_nano_usd_per_month
        return cap is not None and standing.sums.cost_nano_usd * 10 >= cap * 9
    return True


def _used_permille(sums: CreatorSums, caps: Plan) -> int | None:
    """The part used of the budget (by cost) or the quota (by charge), whichever is more used; rounded down."""
    pairs = (
        (sums.cost_nano_usd, caps.budget_nano_usd_per_month),
        (sums.charge_nano_usd, caps.quota_nano_usd_per_month),
    )
    shares = [max(0, used) * 1000 // cap if cap else 1000 for used, cap in pairs if cap is not None]
    return max(shares, default=None)


def _effective(plan: Plan | None, overrides: str) -> Plan | None:
    # Only caps are shown here, and reading what overrides say of other limits takes longer than all the rest.
    if plan is None or not any(word in overrides for word in _ABOUT_CAPS):
        return plan
    try:
        return with_overrides(plan, orjson.loads(overrides))
    except (RequestError, orjson.JSONDecodeError):
        return None
