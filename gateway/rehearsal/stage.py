"""Where past calls are played again: the policies, a set of plans, counters of its own, and a clock that follows the calls."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from heapq import heappop, heappush
from typing import NamedTuple, cast

from gateway.admission import Admission, Course
from gateway.catalog import Catalog, Model, Price
from gateway.counters.base import Refused, Taken
from gateway.counters.memory import MemoryCounters
from gateway.errors import GatewayError, PolicyDenied, RequestError, StoreError
from gateway.ledger.records import Entry, Hold
from gateway.metrics import Metrics
from gateway.model_request import ModelRequest
from gateway.rehearsal.callers import Callers
from gateway.rehearsal.history import MonthBefore
from gateway.rehearsal.pace import Pace
from gateway.rehearsal.past_call import PastCall
from gateway.routing import Deployments
from gateway.schema_checker import SchemaChecker
from policies import budget, periods, quota, rate_limit, token_rate
from policies.credits import counter_key as credits_key
from policies.credits import promo_counter_key as promo_credits_key
from policies.owners import creator_owner, owners_of
from policies.refusals import explain
from policies.types import Account, Call, Plan

__all__ = ["Fate", "Stage"]

_NO_PROVIDER = Call("", "", "", "", "", 0, 0)
_NOTHING_DELIVERED = {"image": 0, "credit": 0}
_SWEEP_EVERY_S = 3_600.0
"""A day passes in a moment here: each second of it is no time to look for what is over."""
_AS_TAKEN: Mapping[str, int] = {}


class Fate(NamedTuple):
    """What became of a call."""

    cost_nano_usd: int
    """0 for a refused one."""
    model: str
    """Which serves it; empty for a refused one."""
    limit: str = ""
    """The name of the limit that refuses or downgrades it; empty where no limit has a say."""
    policy: str = ""
    """The policy that refuses it."""
    code: str = ""
    """What the caller would be told; empty where the call is not refused."""

    @property
    def is_refused(self) -> bool:
        return bool(self.code)

    @property
    def is_downgraded(self) -> bool:
        return bool(self.limit) and not self.code


class _Seeds(NamedTuple):
    window_s: int
    unit: str
    admitted: list[tuple[float, int]]


class Stage:
    """One set of plans."""

    def __init__(self, callers: Callers, plans: Mapping[str, Plan], catalog: Catalog, pace: Pace) -> None:
        self._pace = pace
        self._callers = callers
        self._plans = plans
        self._catalog = catalog
        self._now_s = 0.0
        self._counters = MemoryCounters(self._clock, self._clock, sweep_every_s=_SWEEP_EVERY_S)
        self._admission = _admission(self._counters, catalog)
        self._accounts: dict[tuple[str, str], Account | GatewayError] = {}
        self._in_flight: list[tuple[int, int, str, Mapping[str, int]]] = []
        self._played = 0
        self._windows: dict[str, _Seeds] = {}
        self._refusals: dict[tuple[str, bool, bool, bool], Fate] = {}

    def _clock(self) -> float:
        return self._now_s

    async def begin_month(self, spent: Iterable[MonthBefore], now: datetime) -> None:
        """Quotas and budgets as they stood at `now`."""
        month, ends_at = periods.month_of(now), periods.month_ends_at(now.year, now.month)
        used: dict[str, int] = {}
        for use in spent:
            for key, units in await self._month_keys(use, month):
                used[key] = used.get(key, 0) + units
            await self._pace.breathe()
        for key, units in used.items():
            await self._counters.seed_settled(key, max(0, units), resets_at=ends_at)
            await self._pace.breathe()

    async def _month_keys(self, use: MonthBefore, month: str) -> list[tuple[str, int]]:
        account = await self._account(use.creator, use.key_id)
        if isinstance(account, GatewayError):
            return []
        found: list[tuple[str, int]] = []
        for owner, _ in owners_of(account):
            found.append((quota.counter_key(owner, month), use.charge_nano_usd))
            found += ((key(owner, month), use.cost_nano_usd) for key in (budget.counter_key, budget.hard_counter_key))
        return found

    async def begin_credits(self, used: Iterable[tuple[str, str, int]]) -> None:
        """Credits that were gone when it begins."""
        for payer, creator, units in used:
            counter_key = credits_key if payer == "credits" else promo_credits_key
            await self._counters.seed_settled(counter_key(creator_owner(creator)), max(0, units))
            await self._pace.breathe()

    async def recall(self, call: PastCall, begins_at: int) -> None:
        """A call from before the beginning: it is only counted, in the windows that reach back to it."""
        account = await self._account(call.creator, call.key_id)
        if isinstance(account, GatewayError):
            return
        age_s = (begins_at - call.admitted_at) / 1000
        now = call.at
        if call.cached:
            groups = list(rate_limit.decide(_NO_PROVIDER, account, now))
        else:
            towards = _NO_PROVIDER._replace(provider=call.provider, tokens=call.tokens)
            groups = [*rate_limit.decide(towards, account, now), *token_rate.decide(towards, account, now)]
        for (limit,) in groups:
            if age_s < limit.window_s and limit.amount:
                seeds = self._windows.setdefault(limit.key, _Seeds(limit.window_s, limit.unit, []))
                seeds.admitted.append((age_s, limit.amount))

    async def begin(self, begins_at: int) -> None:
        """The windows are filled with what was recalled; the first call may come."""
        self._now_s = begins_at / 1000
        for key, (window_s, unit, admitted) in self._windows.items():
            used = sum(units for _, units in admitted)
            await self._counters.seed_rolling(key, window_s, used, admitted, unit=unit)
            await self._pace.breathe()
        self._windows.clear()

    async def play(self, call: PastCall) -> Fate:
        """What becomes of the call now; what it takes stays taken until it ends."""
        await self._go_to(call.admitted_at)
        account = await self._account(call.creator, call.key_id)
        if isinstance(account, GatewayError):
            return _refused(account)
        self._played += 1
        call_id, now = str(self._played), call.at
        if call.cached:
            taken = await self._counters.take(call_id, rate_limit.decide(_NO_PROVIDER, account, now))
            if isinstance(taken, Refused):
                return self._without_room(taken)
            self._will_end(call_id, call)
            return Fate(0, call.served_model)
        try:
            course, taken = await self._admit(call_id, call, account, now)
        except PolicyDenied as error:
            return _refused(error)
        if isinstance(taken, Refused):
            return self._without_room(taken)
        self._will_end(call_id, call)
        asked = course.offer.call
        limit = course.steps[-1].limit_name if course.steps else ""
        return Fate(asked.cost_nano_usd, course.offer.call.model, limit)

    async def _admit(
        self, call_id: str, call: PastCall, account: Account, now: datetime
    ) -> tuple[Course, Taken | Refused]:
        # It is asked what it can cost and what it fits, and no more than that.
        request = cast(ModelRequest, call)
        try:
            return await self._admission.rehearse(call_id, account, request, self._model(call), now)
        except RequestError:
            # The requested model has no price any more for what the served one was paid for.
            account = replace(account, plan=replace(account.plan, prices={}))
            return await self._admission.rehearse(call_id, account, request, self._as_it_was(call), now)

    def _model(self, call: PastCall) -> Model:
        """The requested model; where the catalog no longer has it, one that can do nothing but this call."""
        return self._catalog.models.get(call.model) or self._as_it_was(call)

    def _as_it_was(self, call: PastCall) -> Model:
        """The served model for this call alone, at what it cost."""
        known = self._catalog.models.get(call.served_model)
        tier = "standard" if known is None else known.tier
        return Model(call.served_model, call.provider, "", frozenset({call.endpoint}), Price(""), tier=tier)

    def _will_end(self, call_id: str, call: PastCall) -> None:
        actuals = _AS_TAKEN if call.is_delivered else _NOTHING_DELIVERED
        heappush(self._in_flight, (call.admitted_at + call.latency_ms, self._played, call_id, actuals))

    def _without_room(self, refused: Refused) -> Fate:
        """Explained once for all refusals of a counter that are alike: the words take longer than the decision."""
        limit = refused.state.limit
        kind = limit.key, refused.held_by_others, refused.retry_after_s is None, limit.amount > limit.capacity
        fate = self._refusals.get(kind)
        if fate is None:
            fate = self._refusals[kind] = _explained(refused)
        return fate

    async def _go_to(self, at_ms: int) -> None:
        """Let the calls end that had ended by then."""
        while self._in_flight and self._in_flight[0][0] <= at_ms:
            ended_at, _, call_id, actuals = heappop(self._in_flight)
            self._now_s = max(self._now_s, ended_at / 1000)
            await self._counters.settle(call_id, actuals)
        self._now_s = max(self._now_s, at_ms / 1000)

    async def _account(self, creator: str, key_id: str) -> Account | GatewayError:
        found = self._accounts.get((creator, key_id))
        if found is None:
            await self._callers.know_key(key_id)
            found = self._callers.account(creator, key_id, self._plans, self._now_s)
            self._accounts[creator, key_id] = found
        return found


class _NoLedger:
    """Nothing of a rehearsal is written down."""

    def begin_hold(self, hold: Hold) -> "asyncio.Future[None]":
        raise StoreError("A rehearsal has no ledger.")

    async def settle(self, hold_id: str, entries: Sequence[Entry], *, frees: str = "") -> None:
        raise StoreError("A rehearsal has no ledger.")

    def count_refusal(self, creator: str, reason: str) -> None:
        """Nobody was refused."""


async def _keep_no_price(model: str, price: Price) -> None:
    """No entry will name it."""


def _admission(counters: MemoryCounters, catalog: Catalog) -> Admission:
    """As the gateway's own, but for what it counts on; always enforcing. Each model has its best deployment only."""
    return Admission(
        catalog=lambda: catalog,
        providers={},
        deployments=Deployments(failures_max=0, open_s=0, clock=lambda: 0.0, draw=lambda: 0.5),
        counters=counters,
        ledger=_NoLedger(),
        metrics=Metrics(calls_in_flight=lambda: 0, is_ready=lambda: True),
        record_price=_keep_no_price,
        schema_checker=SchemaChecker(),
    )


def _refused(error: GatewayError) -> Fate:
    policy = (error.metadata or {}).get("policy", "account")
    return Fate(0, "", "", str(policy), error.code or "refused")


def _explained(refused: Refused) -> Fate:
    limit, settled, held, _, _ = refused.state
    said = explain(
        limit,
        settled=settled,
        held=held,
        retry_after_s=refused.retry_after_s,
        held_by_others=refused.held_by_others,
    )
    return Fate(0, "", limit.name, said.deny.policy, said.deny.code)
