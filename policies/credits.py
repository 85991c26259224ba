"""Credits: units bought or given, for models with a price in credits. Two of the payers: promotional ones, which may
expire, and all others, which do not.

How many were ever given is the account's to say, how many were spent the counter's.
"""

from bisect import bisect_right
from datetime import datetime
from itertools import accumulate
from typing import NamedTuple

from policies.owners import Owner, creator_owner
from policies.periods import in_utc
from policies.types import Account, Call, Deny, Limit

__all__ = ["NAME", "PROMO_NAME", "alternative", "counter_key", "promo_alternative", "promo_counter_key"]

NAME = "credits"
PROMO_NAME = "promo_credits"

_REFUSAL = Deny("insufficient_quota", "Your credits do not cover this request.", "credits")
_PROMO_REFUSAL = Deny("insufficient_quota", "Your promotional credits do not cover this request.", "credits")


def counter_key(owner: Owner) -> str:
    """The counter of the credits a creator has spent, promotional ones apart."""
    return f"credits:{owner}"


def promo_counter_key(owner: Owner) -> str:
    """The counter of the promotional credits a creator has spent."""
    return f"promo_credits:{owner}"


def alternative(call: Call, account: Account, now: datetime) -> Limit:
    """The call's whole price in credits from those that do not expire."""
    key = counter_key(creator_owner(account.creator))
    return Limit(
        NAME,
        key,
        "balance",
        account.credits_granted,
        call.credits or 0,
        "credit",
        _REFUSAL,
        on_store_error=account.plan.without_store("credits"),
    )


def promo_alternative(call: Call, account: Account, now: datetime) -> Limit:
    """The call's whole price in credits from promotional ones; a grant is gone from the instant it expires."""
    given: _Given | None = account.memo.get(_MEMO)
    if given is None:
        given = account.memo[_MEMO] = _given(account)
    lapsed = given.lapsed[bisect_right(given.expiries, in_utc(now).timestamp())]
    key = promo_counter_key(creator_owner(account.creator))
    return Limit(
        PROMO_NAME,
        key,
        "balance",
        given.granted,
        call.credits or 0,
        "credit",
        _PROMO_REFUSAL,
        lapsed=lapsed,
        on_store_error=account.plan.without_store("promo_credits"),
    )


_MEMO = "credits"


class _Given(NamedTuple):
    """All promotional grants of an account, summed up: those of years ago stay among them, and every call asks."""

    granted: int
    expiries: tuple[float, ...]
    """In ascending order."""
    lapsed: tuple[int, ...]
    """How many credits have lapsed after so many of the expiries; one more than these."""


def _given(account: Account) -> _Given:
    ending = sorted((grant.expires_at, grant.credits) for grant in account.promo_grants if grant.expires_at is not None)
    return _Given(
        sum(grant.credits for grant in account.promo_grants),
        tuple(expires_at for expires_at, _ in ending),
        tuple(accumulate((credits_given for _, credits_given in ending), initial=0)),
    )
