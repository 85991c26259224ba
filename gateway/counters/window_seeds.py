"""Rolling windows filled from the ledger: all of them after a start, and new ones in a gateway that runs.

A window that nobody counted until now (a plan or a creator's overrides begin to limit it) would let everybody start
afresh. So it is filled before it begins to count: with what has ended, and with the calls that are open. A call that is
admitted between the reading and the change is in neither.

A unit counts as if admitted at the end of its second or minute: it may leave a window a little late, never early.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from gateway.counters.base import CounterSeeds
from gateway.errors import RequestError
from gateway.ledger.counted import WindowUse, own_limits, throttled_creators, window_use
from gateway.ledger.database import Database
from gateway.plans import key_limits, with_overrides
from policies import rate_limit, token_rate
from policies.owners import Owner, creator_owner, is_key, key_owner
from policies.types import Plan
from policies.windows import WINDOWS, optional_fields

__all__ = ["THROTTLED", "own_windows", "owners_in", "seed_new_windows", "seed_windows", "windows_added"]

THROTTLED = frozenset({"requests_per_minute"})
"""The window that a throttle on a creator lowers, named as in `Plan.counted`."""

_HOUR_S, _DAY_S = 3_600, 86_400
_STEPS_S = {_HOUR_S: 1, _DAY_S: 60}
"""How long a stretch is looked at -> how finely."""
_OWNERS_AT_ONCE = 200
_NO_PLAN = Plan("")
_NO_SPANS: frozenset["_Span"] = frozenset()


async def seed_windows(counters: CounterSeeds, database: Database, *, plans: Mapping[str, Plan], now: datetime) -> None:
    """Fill every window that is counted, by `plans`, by overrides of creators and keys, or by throttles. Nothing may be in
    flight."""
    spans = await _read_spans(database, plans, now.timestamp())

    def read(providers: Collection[str], since_s: float, step_s: int) -> AsyncIterator[list[WindowUse]]:
        return window_use(database, since_s=since_s, step_s=step_s, providers=providers)

    await _sow(counters, spans, read, now.timestamp())


async def seed_new_windows(
    counters: CounterSeeds,
    database: Database,
    *,
    fields: Collection[str],
    creators: Collection[str] | None = None,
    now: datetime,
) -> None:
    """Fill windows of `creators`, or of all (None), that nobody has counted yet and that begin to count right after this.

    `fields` are named as in `Plan.counted` (see `windows_added` and `own_windows`). Of all creators those are left out whose own
    overrides count a field already. Open calls count with the tokens they were expected to use. Doing it twice is
    harmless. Raises `StoreError`.
    """
    added = frozenset(_spans(fields))
    if not added:
        return
    await database.run(_nothing)  # what was on its way to the ledger has arrived there
    if creators is None:
        own = {creator_owner(creator): spans for creator, spans in _own_spans((await own_limits(database))[0])}
        spans = _Spans(added, {}, without=own)
    else:
        spans = _Spans(_NO_SPANS, {creator_owner(creator): added for creator in creators})

    def read(providers: Collection[str], since_s: float, step_s: int) -> AsyncIterator[list[WindowUse]]:
        return window_use(
            database, since_s=since_s, step_s=step_s, providers=providers, creators_only=creators, with_open=True
        )

    await _sow(counters, spans, read, now.timestamp())


def windows_added(before: Iterable[Plan], after: Iterable[Plan]) -> frozenset[str]:
    """The optional windows, named as in `Plan.counted`, that count on plans `after` a change and on none `before` it."""
    old, new = (
        frozenset[str]().union(*(plan.counted | optional_fields(plan) for plan in plans)) for plans in (before, after)
    )
    return new - old


def own_windows(overrides: str) -> frozenset[str]:
    """The optional windows that a creator's overrides (JSON) set, named as in `Plan.counted`."""
    return optional_fields(_own_plan(overrides, lambda read: with_overrides(_NO_PLAN, read)))


def owners_in(creator: str, key_id: str) -> Iterator[Owner]:
    """On whose counters a call counts; `key_id` is empty for a key without limits of its own."""
    yield creator_owner(creator)
    if key_id:
        yield key_owner(key_id)


def _nothing(_: object) -> None:
    """A task for the writer that only waits for its turn."""


class _Span(NamedTuple):
    """A rolling window that is counted for somebody."""

    unit: str
    window_s: int
    provider: str | None


class _Spans(NamedTuple):
    """Which windows are filled."""

    common: frozenset[_Span]
    """Of every creator."""
    own: Mapping[Owner, frozenset[_Span]]
    """Beside those: what overrides of creators set, and all there is of keys."""
    without: Mapping[Owner, frozenset[_Span]] = MappingProxyType({})
    """What is left out of those of every creator."""

    def of(self, owner: Owner) -> frozenset[_Span]:
        own = self.own.get(owner, _NO_SPANS)
        return own if is_key(owner) else (self.common | own) - self.without.get(owner, _NO_SPANS)

    def all(self) -> frozenset[_Span]:
        return self.common.union(*self.own.values())


class _Seed:
    """A window being filled: (age in seconds, units)."""

    __slots__ = ("admitted", "key", "span")

    def __init__(self, owner: Owner, span: _Span) -> None:
        counter_key = rate_limit.counter_key if span.unit == "request" else token_rate.counter_key
        self.key = counter_key(owner, span.window_s, span.provider)
        self.span = span
        self.admitted: list[tuple[float, int]] = []


async def _read_spans(database: Database, plans: Mapping[str, Plan], now_s: float) -> _Spans:
    by_creator, by_key = await own_limits(database)
    core = {window.field for window in WINDOWS.values() if window.is_core}
    common = core.union(*(plan.counted | optional_fields(plan) for plan in plans.values()))
    own = {creator_owner(creator): spans for creator, spans in _own_spans(by_creator)}
    for creator in await throttled_creators(database, now_s):
        owner = creator_owner(creator)
        own[owner] = own.get(owner, _NO_SPANS) | frozenset(_spans(THROTTLED))
    for key_id, overrides in by_key.items():
        plan = _own_plan(overrides, key_limits)
        fields = optional_fields(plan) | {field for field in core if getattr(plan, field) is not None}
        own[key_owner(key_id)] = frozenset(_spans(fields))
    return _Spans(frozenset(_spans(common)), own)


def _own_spans(overrides_of: Mapping[str, str]) -> Iterator[tuple[str, frozenset[_Span]]]:
    """Creators with the windows that their own overrides set."""
    for creator, overrides in overrides_of.items():
        yield creator, frozenset(_spans(own_windows(overrides)))


def _own_plan(overrides: str, limits_of: Callable[[Any], Plan | None]) -> Plan:
    """A plan of nothing but the limits that overrides set."""
    try:
        return limits_of(orjson.loads(overrides)) or _NO_PLAN
    except (RequestError, orjson.JSONDecodeError):
        # Accepted by an earlier version. Its calls are refused, and told why, until an admin mends it.
        return _NO_PLAN


def _spans(fields: Iterable[str]) -> Iterator[_Span]:
    """The windows among `fields`, which are named as in `Plan.counted`; gauges have nothing to seed."""
    for name in fields:
        provider, _, field = name.rpartition("/")
        window = WINDOWS[field]
        if window.window_s:
            yield _Span(window.unit, window.window_s, provider or None)


_Read = Callable[[Collection[str], float, int], AsyncIterator[list[WindowUse]]]
"""Providers to be told apart, since when (Unix time) and in how long steps -> calls."""


async def _sow(counters: CounterSeeds, spans: _Spans, read: _Read, now_s: float) -> None:
    counted = spans.all()
    providers = {span.provider for span in counted if span.provider is not None}
    shorter_than = 0
    for stretch_s, step_s in _STEPS_S.items():
        if any(shorter_than < span.window_s <= stretch_s for span in counted):
            seeds = _Seeds(spans, range(shorter_than + 1, stretch_s + 1))
            since_s = now_s - stretch_s - step_s
            async for uses in read(providers, since_s, step_s):
                for use in uses:
                    age_s = max(0.0, now_s - use.starts_at - step_s)
                    for owner in owners_in(use.creator, use.key_id):
                        seeds.add(owner, use.provider, age_s, use.calls, use.tokens)
            await seeds.sow(counters)
        shorter_than = stretch_s


class _Seeds:
    """The windows of every owner seen, as long as `lengths` says."""

    def __init__(self, spans: _Spans, lengths: range) -> None:
        self._spans = spans
        self._lengths = lengths
        self._seeds: dict[Owner, list[_Seed]] = {}

    def add(self, owner: Owner, provider: str, age_s: float, calls: int, tokens: int) -> None:
        for seed in self._of(owner):
            unit, window_s, towards = seed.span
            units = calls if unit == "request" else tokens
            if units and age_s < window_s and towards in (None, provider):
                seed.admitted.append((age_s, units))

    async def sow(self, counters: CounterSeeds) -> None:
        for number, seeds in enumerate(self._seeds.values()):
            if number % _OWNERS_AT_ONCE == 0:
                await asyncio.sleep(0)  # calls may be in flight
            for key, span, admitted in ((seed.key, seed.span, seed.admitted) for seed in seeds):
                if admitted:
                    # As if the limit were what was used: up to the bound of exact windows each step stays apart, above
                    # it the store folds them, so that a busy creator takes no more memory here than afterwards.
                    used = sum(units for _, units in admitted)
                    await counters.seed_rolling(key, span.window_s, used, admitted, unit=span.unit)

    def _of(self, owner: Owner) -> list[_Seed]:
        seeds = self._seeds.get(owner)
        if seeds is None:
            spans = self._spans.of(owner)
            seeds = self._seeds[owner] = [_Seed(owner, span) for span in spans if span.window_s in self._lengths]
        return seeds
