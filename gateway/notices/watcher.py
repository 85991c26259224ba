"""Finds out what is to be told. One round of `look`:

1. take what calls left behind (`Signals`); at the first round also who called shortly before the start, because what a
   crash swallowed would else be told only at that creator's next call;
2. limits that refused calls, and those that sent them to cheaper models;
3. how far quotas and budgets of those who called are used up;
4. virtual keys that expire soon;
5. the cost of the day;
6. the share of failed calls.

Nothing here is on a call's way: a round yields to the calls now and then, and where the store fails it stops and keeps
what it heard for the next one. Whether something was told before is the book's to know (`Notice.once`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from sqlalchemy import Select, Text, cast, exists, func, literal, select

from gateway.counters.base import CounterStore
from gateway.errors import GatewayError, StoreError
from gateway.ledger.database import Database
from gateway.ledger.ids import id_floor
from gateway.ledger.periods import ms_of
from gateway.ledger.schema import creators, entries, notices, usage_daily, virtual_keys
from gateway.notices import words
from gateway.notices.base import NoticeBook
from gateway.notices.signals import Downgrade, ErrorRate, Heard, Signals
from gateway.pricing import NANO_DIGITS
from policies import budget, payer
from policies.periods import day_of, month_of
from policies.types import UNLIMITED, Account, Limit

if TYPE_CHECKING:
    from gateway.config import Settings

__all__ = ["Watcher"]

AccountOf = Callable[[str], Awaitable[Account | None]]
Refusal = tuple[Account, Mapping[str, Any]]
Key = TypeVar("Key")
Value = TypeVar("Value")

_STEPS: tuple[tuple[int, words.Step], ...] = ((100, "exhausted"), (95, "95_percent"), (80, "80_percent"))
_RECALLED = timedelta(minutes=10)
_RECALLED_MAX = 1_000
_KEYS_EVERY_S = 60.0
_KEYS_MAX = 500
"""Told in one round; of more, the rest has its turn a minute later."""
_COSTS_EVERY_S = 30.0
_LATE = timedelta(minutes=20)
"""So long after midnight the day before is still looked at: calls are booked on the day they were admitted."""
_CALLS_MIN = 20
"""Below so many calls a share of failed ones says nothing."""
_WAITING_MAX = 100_000
_AT_ONCE = 20
"""Creators looked at before the calls have their turn again."""
_log = structlog.get_logger()


class Watcher:
    """Lifetime: the process. One `look` at a time."""

    def __init__(
        self,
        *,
        database: Database,
        counters: CounterStore,
        signals: Signals,
        book: NoticeBook,
        settings: "Settings",
        wall_clock: Callable[[], float],
        account_of: AccountOf,
        is_leader: Callable[[], bool] = lambda: True,
    ) -> None:
        """`wall_clock` is Unix time in seconds; `account_of` is `Authenticator.account_of`. Of several processes each tells
        what it heard of its own calls, and the leader what is looked up in the database."""
        self._database = database
        self._counters = counters
        self._signals = signals
        self._book = book
        self._settings = settings
        self._wall_clock = wall_clock
        self._account_of = account_of
        self._is_leader = is_leader
        self._recall_from: datetime | None = None
        self._is_recalled = False
        self._accounts: dict[tuple[str, str], Account] = {}
        self._downgrades: dict[tuple[str, str, str], Downgrade] = {}
        self._refusals: dict[tuple[str, str, str], Refusal] = {}
        self._keys_pace = _Pace(_KEYS_EVERY_S)
        self._costs_pace = _Pace(_COSTS_EVERY_S)

    async def look(self) -> None:
        """One round. Never raises: a part that fails is logged (`notices_failed`), and the others go on."""
        now = datetime.fromtimestamp(self._wall_clock(), UTC)
        self._keep(self._signals.drain())
        parts: dict[str, Callable[[datetime], Awaitable[None]]] = {
            "recall": self._recall,
            "refusals": self._tell_refusals,
            "downgrades": self._tell_downgrades,
            "limits": self._tell_limits,
            "keys": self._tell_keys,
            "day_cost": self._tell_day_cost,
            "errors": self._tell_error_rates,
        }
        for name, part in parts.items():
            try:
                await part(now)
            except Exception as exc:
                is_known = isinstance(exc, GatewayError)
                _log.error("notices_failed", part=name, error=repr(exc), exc_info=None if is_known else exc)

    # 1

    def _keep(self, heard: Heard) -> None:
        _add(self._accounts, heard.accounts)
        _add(self._downgrades, heard.downgrades)
        _add(self._refusals, heard.exhausted)

    async def _recall(self, now: datetime) -> None:
        """Who called in the ten minutes before the first round; repeated until it succeeded once."""
        if self._is_recalled:
            return
        self._recall_from = self._recall_from or now - _RECALLED
        first = id_floor(ms_of(self._recall_from))
        query = select(entries.c.creator).where(entries.c.id >= first).distinct().limit(_RECALLED_MAX)
        for row in await self._database.fetch_all(query):
            try:
                account = await self._account_of(row["creator"])
            except StoreError:
                raise
            except GatewayError:
                continue  # its plan is gone: it has no limits that could be looked at
            if account is not None:
                _add(self._accounts, {(account.creator, account.key_id): account})
        self._is_recalled = True

    # 2

    async def _tell_refusals(self, now: datetime) -> None:
        await _each(self._refusals, lambda refusal: self._tell_refusal(*refusal, now))

    async def _tell_refusal(self, account: Account, said: Mapping[str, Any], now: datetime) -> None:
        """`said` is the refusal's `metadata`. What was never given cannot be used up: a limit of 0 is not told of.

        Nor are free images, which come back every day, and plans on which nothing can pay.
        """
        policy = said.get("policy")
        if policy == "credits" and (account.credits_granted or account.promo_grants):
            figures = {"used": said["settled"], "granted": said["limit"]}
            await self._book.record(words.credits_exhausted(account, name=said["name"], **figures, day=day_of(now)))
        elif policy in ("quota", "budget"):
            at = _refused_in(said, now)
            limit = _find_limit(account, said["name"], at)
            if limit is not None and 0 < limit.capacity < UNLIMITED:
                used, period = said["settled"], month_of(at)
                await self._book.record(words.limit_reached(account, limit, "exhausted", used=used, period=period))

    async def _tell_downgrades(self, now: datetime) -> None:
        await _each(self._downgrades, self._tell_downgrade)

    async def _tell_downgrade(self, downgrade: Downgrade) -> None:
        limit = _find_limit(downgrade.account, downgrade.limit_name, downgrade.admitted_at)
        if limit is None:
            return
        (state,) = await self._counters.read((limit,))
        await self._book.record(
            words.downgraded(downgrade, limit, used=state.settled, period=month_of(downgrade.admitted_at))
        )

    # 3

    async def _tell_limits(self, now: datetime) -> None:
        await _each(self._accounts, lambda account: self._tell_steps(account, now))

    async def _tell_steps(self, account: Account, now: datetime) -> None:
        """Of each limit the highest step that was reached, unless it or a higher one was told."""
        limits = [limit for limit in _money_limits(account, now) if 0 < limit.capacity < UNLIMITED]
        for state in await self._counters.read(limits):
            limit, used = state.limit, state.settled
            higher: list[str] = []
            for percent, step in _STEPS:
                if used * 100 >= limit.capacity * percent and (step != "exhausted" or words.is_hard(limit)):
                    notice = words.limit_reached(account, limit, step, used=used, period=month_of(now))
                    await self._book.record(notice, unless=higher)
                    break
                higher.append(words.limit_once(limit, step))

    # 4

    async def _tell_keys(self, now: datetime) -> None:
        if not self._keys_pace.is_due(now) or not self._is_leader():
            return
        until = now + timedelta(days=self._settings.notice_key_expiry_days)
        for row in await self._database.fetch_all(_keys_expiring(ms_of(now), ms_of(until))):
            await self._book.record(
                words.key_expiring(key_id=row["id"], creator=row["creator_id"], expires_at_ms=row["expires_at"])
            )
        self._keys_pace.done(now)

    # 5

    async def _tell_day_cost(self, now: datetime) -> None:
        amount = self._settings.notice_day_cost_usd
        if amount is None or not self._costs_pace.is_due(now) or not self._is_leader():
            return
        amount_nano_usd = int(amount.scaleb(NANO_DIGITS))
        day = usage_daily.c.period_day
        query = (
            select(day, func.sum(usage_daily.c.cost_nano_usd).label("cost_nano_usd"))
            .where(day.between(day_of(now - _LATE), day_of(now)))
            .group_by(day)
        )
        for row in await self._database.fetch_all(query):
            if row["cost_nano_usd"] > amount_nano_usd:
                await self._book.record(
                    words.day_cost_above(
                        day=row["period_day"], cost_nano_usd=row["cost_nano_usd"], amount_nano_usd=amount_nano_usd
                    )
                )
        self._costs_pace.done(now)

    # 6

    async def _tell_error_rates(self, now: datetime) -> None:
        limit = self._settings.notice_error_percent
        if limit is None:
            return
        rates = self._signals.error_rates()
        overall = ErrorRate(sum(rate.calls for rate in rates.values()), sum(rate.errors for rate in rates.values()))
        for provider, rate in [(None, overall), *rates.items()]:
            if rate.calls >= _CALLS_MIN and rate.errors * 100 > limit * rate.calls:
                await self._book.record(
                    words.error_rate_above(provider=provider, rate=rate, limit_percent=limit, at=now)
                )


class _Pace:
    """Not more often than every so many seconds; a clock that steps back makes it due."""

    def __init__(self, every_s: float) -> None:
        self._every = timedelta(seconds=every_s)
        self._last: datetime | None = None

    def is_due(self, now: datetime) -> bool:
        return self._last is None or not self._last <= now < self._last + self._every

    def done(self, now: datetime) -> None:
        self._last = now


def _add(waiting: dict[Key, Value], heard: Mapping[Key, Value]) -> None:
    for key, value in heard.items():
        if len(waiting) < _WAITING_MAX or key in waiting:
            waiting[key] = value


async def _each(waiting: dict[Key, Value], tell: Callable[[Value], Awaitable[None]]) -> None:
    """Tell of everything that waits. What fails waits on, behind all others, so that it never stands in their way."""
    for number, key in enumerate(list(waiting), start=1):
        value = waiting.pop(key)
        try:
            await tell(value)
        except BaseException:
            waiting[key] = value
            raise
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)


def _refused_in(said: Mapping[str, Any], now: datetime) -> datetime:
    """An instant of the period a limit refused in: the refusal may be heard only after that has ended."""
    if (reset_at := said.get("reset_at")) is None:
        return now
    return min(now, datetime.fromisoformat(reset_at) - timedelta(milliseconds=1))


def _find_limit(account: Account, name: str, at: datetime) -> Limit | None:
    return next((limit for limit in _money_limits(account, at) if limit.name == name), None)


def _money_limits(account: Account, at: datetime) -> list[Limit]:
    """Quotas and budgets, the creator's and the virtual key's own. Only their policies are asked: it is done often."""
    limits = [*payer.overview(account, at), *budget.overview(account, at)]
    return [limit for limit in limits if words.subject_of(limit) is not None]


def _keys_expiring(from_ms: int, until_ms: int) -> Select[Any]:
    """Live keys of active creators that expire after `from_ms`, up to `until_ms`, and were not told of; soonest first."""
    key = virtual_keys.c
    once = literal(f"{words.KEY_EXPIRING}/") + key.id + "/" + cast(key.expires_at, Text)
    return (
        select(key.id, key.creator_id, key.expires_at)
        .join(creators, creators.c.id == key.creator_id)
        .where(
            key.expires_at > from_ms,
            key.expires_at <= until_ms,
            key.revoked_at.is_(None),
            key.replaced_by.is_(None),
            creators.c.is_active,
            creators.c.deleted_at.is_(None),
            ~exists().where(notices.c.once == once),
        )
        .order_by(key.expires_at, key.id)
        .limit(_KEYS_MAX)
    )
