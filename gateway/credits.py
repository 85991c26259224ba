"""Credits given, taken away and given back, and amounts mended: whatever an admin books without a call.

Each is one entry of the ledger, posted in one transaction with what belongs to it; none is ever changed. Afterwards the
counters are told, and the authenticator forgets the creator whose grants it had read: both also when the caller has left
meanwhile, or was told that the ledger is late. Amounts come as they were written (`gateway.credit_amounts`). What expires is booked by `gateway.ledger.expiry`.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

import structlog
from sqlalchemy import Select, insert, select

from gateway.account_json import Page, page_json
from gateway.accounts import LIFETIME_S_MAX, PAGE_ROWS_DEFAULT
from gateway.auth import Authenticator
from gateway.calls import new_request_id
from gateway.counters.base import CounterStore, Refused
from gateway.credit_amounts import Amount, adjustment, credit_units, metadata, refusal, usd_units
from gateway.credit_balance import (
    account_of,
    balances,
    consumed,
    grant_json,
    grants_newest_first,
    limit_of,
    select_consumed,
    select_granted,
    used_of,
)
from gateway.errors import NotFound, RequestError, StoreError
from gateway.instances.news import changed
from gateway.ledger.database import Database
from gateway.ledger.entry_json import entry_json
from gateway.ledger.expiry import LATE_HOLDS_S, expire_credits, look_again
from gateway.ledger.periods import instant, ms_of, period_of, rfc3339
from gateway.ledger.postings import Booking, Posting, booking_entry, digest_of, entry_by_id, rows_of
from gateway.ledger.schema import creators, credit_grants
from gateway.ledger.statements import Row
from gateway.ledger.transactions import Transactions
from gateway.plans import CreditPackage
from gateway.pricing import usd
from gateway.refunds import Asked, amount_refunded, calls_of, limits_id_of, refundable
from policies import credits as credit_policy
from policies import quota
from policies.owners import Owner, creator_owner, key_owner

__all__ = ["CreditPayer", "Credits", "MoneyPayer"]

CreditPayer = Literal["credits", "promo_credits"]
MoneyPayer = Literal["quota", "credits", "promo_credits"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = structlog.get_logger()


class _Posted(NamedTuple):
    row: Row
    """Of `entries`."""
    is_new: bool


class _GivenBack(NamedTuple):
    call: Row
    key: Owner
    """Whose own quota the call counted on, if its virtual key had one."""
    units: int


class Credits:
    """Every write of the ledger that no call stands for. Answers are JSON-ready."""

    def __init__(
        self,
        database: Database,
        packages: Callable[[], Mapping[str, CreditPackage]],
        counters: CounterStore,
        authenticator: Authenticator,
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`packages` is asked each time: the file may have been read again."""
        self._database = database
        self._packages = packages
        self._counters = counters
        self._authenticator = authenticator
        self._wall_clock = wall_clock
        # What is taken away is taken from the counter first; who asks twice at once must find the first one's entry.
        self._taking = asyncio.Lock()

    # Grants

    async def grant(
        self,
        creator: str,
        payer: CreditPayer = "credits",
        *,
        credits: Amount | None = None,
        package: str | None = None,
        expires_at: datetime | None = None,
        note: str = "",
        idempotency_key: str | None = None,
    ) -> Row:
        """The entry by which the creator was given credits, or those of a package; the next call can spend them.

        Only promotional credits may expire. Raises `RequestError`: 404 for the creator, 409 for an idempotency key that
        stands for something else, 400 for anything else.
        """
        if (credits is None) == (package is None):
            raise refusal("credits", "or `package` says what is given: send one of the two")
        if expires_at is not None and payer != "promo_credits":
            raise refusal("expires_at", "is for `promo_credits`; other credits do not expire")
        units = None if credits is None else credit_units(credits)
        expires_ms = None if expires_at is None else ms_of(expires_at)
        content = {"payer": payer, "credits": units, "package": package, "expires_at": expires_ms, "note": note}
        posting = Posting(idempotency_key, digest_of("grant", content))

        def task(transactions: Transactions) -> _Posted:
            account_id = _account_id(transactions, creator)

            def post() -> str:
                given, said = self._given(units, package, note)
                self._check_expiry(expires_ms)
                booking = Booking("grant", creator, account_id, payer, -given, self._now(), said)
                (entry_id,) = transactions.post([booking_entry(booking)])
                row = {"payer": payer, "credits": given, "expires_at": expires_ms, "created_at": ms_of(booking.at)}
                rows_of(transactions, insert(credit_grants).values(entry_id=entry_id, creator=creator, **row))
                for news in changed(creator=creator):
                    transactions.announce(news)
                return entry_id

            return _post_once(transactions, posting, creator, post)

        ledger = self._database.ledger

        async def work() -> _Posted:
            try:
                return await ledger.run(task, is_patient=True)
            finally:
                self._authenticator.invalidate(creator=creator)

        posted = await ledger.to_its_end(work(), "grant_credits")
        return {**entry_json(posted.row), "expires_at": None if expires_ms is None else rfc3339(expires_ms)}

    def _given(self, units: int | None, package: str | None, note: str) -> tuple[int, dict[str, Any]]:
        """How many credits, and what the entry says about them."""
        if package is None:
            return credit_units(units), metadata(note=note)
        found = self._packages().get(package)
        if found is None:
            raise refusal("package", "names no credit package of this gateway", code="package_unknown")
        said = metadata(note=note, package=package, price_usd=usd(found.price_nano_usd))
        return credit_units(found.credits, "package"), said

    def _check_expiry(self, expires_ms: int | None) -> None:
        now = ms_of(self._now())
        if expires_ms is not None and expires_ms <= now:
            raise refusal("expires_at", "has passed already")
        if expires_ms is not None and expires_ms > now + LIFETIME_S_MAX * 1000:
            raise refusal("expires_at", "is more than 100 years away")

    # Refunds

    async def refund(
        self,
        request_id: str,
        *,
        attempt: int | None = None,
        amount_usd: Amount | None = None,
        credits: Amount | None = None,
        note: str = "",
        idempotency_key: str | None = None,
    ) -> Row:
        """The entry by which what a call took was given back: all that is left of it, or the amount named.

        It is booked now, whenever the call was. `attempt` may be left out where one attempt alone was charged. All
        refunds of an attempt together never exceed what it took. Raises `RequestError`.
        """
        if amount_usd is not None and credits is not None:
            raise refusal("credits", "and `amount_usd` exclude each other: send what the call was paid in")
        asked = Asked(
            None if amount_usd is None else usd_units(amount_usd), None if credits is None else credit_units(credits)
        )
        said = metadata(note=note)
        content = {"request_id": request_id, "attempt": attempt, **asked._asdict(), "note": note}
        posting = Posting(idempotency_key, digest_of("refund", content))

        def task(transactions: Transactions) -> tuple[_Posted, _GivenBack | None]:
            """What was posted, and whom the counters give it back to if it is new."""
            calls = calls_of(transactions, request_id)
            corrected: list[Row] = []

            def post() -> str:
                call = refundable(calls, attempt)
                corrected.append(call)
                amount = amount_refunded(transactions, call, asked)
                now = self._now()
                booking = Booking("refund", call["creator"], call["account_id"], call["payer"], -amount, now, said)
                (entry_id,) = transactions.post([booking_entry(booking, call)], corrects=call["id"])
                if call["payer"] == credit_policy.PROMO_NAME:
                    look_again(transactions, call["creator"], ms_of(now))
                return entry_id

            posted = _post_once(transactions, posting, calls[0]["creator"], post)
            if not corrected:
                return posted, None
            key = key_owner(limits_id_of(transactions, corrected[0]["key_id"]))
            return posted, _GivenBack(corrected[0], key, -posted.row["payer_amount"])

        ledger = self._database.ledger

        async def work() -> _Posted:
            posted, given_back = await ledger.run(task, is_patient=True)
            if given_back is not None:
                await self._give_back(*given_back)
            return posted

        return entry_json((await ledger.to_its_end(work(), "refund")).row)

    async def _give_back(self, call: Row, key: Owner, units: int) -> None:
        """Tell the counters. A quota's counter is of one month: a call of an earlier one makes no room in this one."""
        creator = creator_owner(call["creator"])
        month = call["period_month"]
        try:
            if call["payer"] == credit_policy.NAME:
                await self._counters.adjust(credit_policy.counter_key(creator), -units)
            elif call["payer"] == credit_policy.PROMO_NAME:
                await self._counters.adjust(credit_policy.promo_counter_key(creator), -units)
            elif month == period_of(ms_of(self._now()))[1]:
                admitted_at = instant(call["admitted_at"])
                resets_at = quota.month_ends_at(admitted_at.year, admitted_at.month)
                for owner in (creator, key):
                    await self._counters.adjust(quota.counter_key(owner, month), -units, resets_at=resets_at)
        except StoreError as exc:
            # It is booked, and that is what counts: the counters hear of it when they are made from the ledger again.
            _log.warning("counters_not_adjusted", request_id=call["request_id"], error=exc.message)

    # Adjustments

    async def adjust(
        self,
        creator: str,
        payer: MoneyPayer,
        *,
        amount_usd: Amount | None = None,
        credits: Amount | None = None,
        note: str = "",
        idempotency_key: str | None = None,
    ) -> Row:
        """The entry by which the month's charge was mended (`quota`, either way) or credits were taken away (negative).

        What is owed for this month changes, not what may still be spent of the month's quota. Of credits never more is
        taken than there is left, calls in flight counted. Raises `RequestError`.
        """
        amount = adjustment(payer, amount_usd, credits)
        said = metadata(note=note)
        posting = Posting(idempotency_key, digest_of("adjust", {"payer": payer, "amount": amount, "note": note}))

        def task(transactions: Transactions) -> _Posted:
            account_id = _account_id(transactions, creator)

            def post() -> str:
                now = self._now()
                if payer != "quota":
                    _check_left(transactions, creator, payer, amount, now)
                booking = Booking("adjustment", creator, account_id, payer, amount, now, said)
                return transactions.post([booking_entry(booking)])[0]

            return _post_once(transactions, posting, creator, post)

        if payer == "quota":
            return entry_json((await self._database.run(task)).row)
        work = self._take_away(creator, payer, amount, posting, task)
        return entry_json((await self._database.ledger.to_its_end(work, "take_credits_away")).row)

    async def _take_away(
        self, creator: str, payer: str, units: int, posting: Posting, task: Callable[[Transactions], _Posted]
    ) -> _Posted:
        """Taken from the counter as by a call, so that no call takes the same credits meanwhile; then booked.

        They stay held until it is known whether they were.
        """
        ledger = self._database.ledger
        async with self._taking:
            if posting.key is not None and await self._database.fetch_one(posting.query(creator)) is not None:
                return await ledger.run(task, is_patient=True)
            await self._require(creator)
            account = account_of(creator, await self._database.fetch_all(select_granted(creator)))
            hold_id = new_request_id()
            answer = await self._counters.take(hold_id, [(limit_of(account, payer, units, self._now()),)])
            if isinstance(answer, Refused):
                raise _too_few(payer, answer.state.remaining, answer.state.held)
            try:
                posted = await ledger.run(task, is_patient=True)
            except BaseException:
                await self._counters.release(hold_id)
                raise
            await self._counters.settle(hold_id, {} if posted.is_new else {"credit": 0})
            return posted

    # Expiry

    async def expire_due(
        self, now: datetime | None = None, *, late_holds_s: float = LATE_HOLDS_S
    ) -> list[dict[str, Any]]:
        """Book promotional credits whose time is over: creator, grant_id, entry_id and credits of each new entry.

        Doing it again books nothing. A grant waits for open calls that were admitted before it expired, and for
        `late_holds_s` because of those that are on their way to the ledger: 0 at the start, where there are none.
        """
        return await expire_credits(self._database, now or self._now(), late_holds_s=late_holds_s)

    # Reading

    async def balance(self, creator: str, now: datetime | None = None) -> dict[str, Any]:
        """What the creator has, by payer, as `gateway.credit_balance.balances` explains it. Raises `NotFound`."""
        await self._require(creator)
        now = now or self._now()
        account = account_of(creator, await self._database.fetch_all(select_granted(creator)))
        taken = consumed(await self._database.fetch_all(select_consumed(creator)))
        limits = [limit_of(account, payer, 0, now) for payer in (credit_policy.NAME, credit_policy.PROMO_NAME)]
        states = await self._counters.read(limits)
        counted = [(state.limit, state.settled, state.held) for state in states]
        return balances(account, taken, counted, now)

    async def grants(self, creator: str, *, limit: int = PAGE_ROWS_DEFAULT, cursor: str | None = None) -> Page:
        """What the creator was given, the newest first. `cursor` is the last page's `next_cursor`. Raises `NotFound`."""
        await self._require(creator)
        now = self._now()
        rows = await self._database.fetch_all(grants_newest_first(creator, before=cursor, limit=limit + 1))
        return page_json(rows, limit, lambda row: grant_json(row, now), lambda row: str(row["entry_id"]))

    async def _require(self, creator: str) -> None:
        if await self._database.fetch_one(_select_live(creator)) is None:
            raise _no_creator()

    def _now(self) -> datetime:
        return _EPOCH + timedelta(seconds=self._wall_clock())


# Inside a transaction


def _post_once(transactions: Transactions, posting: Posting, creator: str, post: Callable[[], str]) -> _Posted:
    entry_id, is_new = posting.once(transactions, creator, post)
    return _Posted(entry_by_id(transactions, entry_id), is_new)


def _account_id(transactions: Transactions, creator: str) -> str:
    rows = rows_of(transactions, _select_live(creator))
    if not rows:
        raise _no_creator()
    return str(rows[0]["account_id"])


def _select_live(creator: str) -> Select[Any]:
    return select(creators.c.account_id).where(creators.c.id == creator, creators.c.deleted_at.is_(None))


def _check_left(transactions: Transactions, creator: str, payer: str, units: int, now: datetime) -> None:
    """By the ledger alone; what open calls hold, the counter has seen to."""
    account = account_of(creator, rows_of(transactions, select_granted(creator)))
    limit = limit_of(account, payer, units, now)
    left = limit.capacity - used_of(limit, consumed(rows_of(transactions, select_consumed(creator))))
    if units > left:
        raise _too_few(payer, max(0, left), 0)


def _too_few(payer: str, left: int, held: int) -> RequestError:
    by_calls = f", {held} more are held by open calls" if held else ""
    return RequestError(
        f"The creator has {left} {payer} left{by_calls}: no more than that can be taken away.",
        status=409,
        code="credits_insufficient",
        param="credits",
    )


def _no_creator() -> NotFound:
    return NotFound("There is no creator with this id.", code="creator_not_found")
