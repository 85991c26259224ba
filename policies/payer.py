"""Payer: one for the whole call, the first that can pay it. A new payer is one function and one line in `PAYERS`."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from policies import credits as credit_payers
from policies import free_images, quota
from policies.types import Account, Call, Deny, Limit, LimitGroup, Payer

__all__ = ["NAME", "PAYERS", "decide", "overview", "payer_of"]

NAME = "payer"
"""The policy, in refusals that no limit of it has made."""

PAYERS: Mapping[Payer, Callable[[Call, Account, datetime], Limit]] = {
    "free_images": free_images.alternative,
    "promo_credits": credit_payers.promo_alternative,
    "credits": credit_payers.alternative,
    "quota": quota.alternative,
}

_NOTHING = Call("", "", "", "", "", 0, 0)
_PAID_BY: Mapping[str, tuple[Payer, str]] = {
    free_images.NAME: ("free_images", "image"),
    credit_payers.PROMO_NAME: ("promo_credits", "credit"),
    credit_payers.NAME: ("credits", "credit"),
    quota.NAME: ("quota", "nano_usd"),
}


def payer_of(limit: Limit) -> tuple[Payer, str] | None:
    """The payer whose limit this is and the unit it pays in (`nano_usd`, `image`, `credit`); None for any other limit.

    A virtual key's own quota is no payer.
    """
    return _PAID_BY.get(limit.name)


def decide(call: Call, account: Account, now: datetime) -> Sequence[LimitGroup] | Deny:
    """One group of alternatives: for a model with a price in credits the plan's payers in their order, else the quota.

    A payer that has nothing at all stays among them, so that a refusal can speak of it. Where the quota may pay, the
    virtual key's own quota is a second group. `insufficient_quota` where nothing may pay.
    """
    if call.credits is None:
        return ((quota.alternative(call, account, now),), *quota.key_groups(call, account, now))
    payers = [payer for payer in account.plan.payers if call.images or payer != "free_images"]
    if not payers:
        return _no_payer(call, account)
    group = tuple(PAYERS[payer](call, account, now) for payer in payers)
    return (group, *quota.key_groups(call, account, now)) if "quota" in payers else (group,)


def overview(account: Account, now: datetime) -> Sequence[Limit]:
    """The plan's payers in their order, the quota, which pays for all other models, and the virtual key's own quota."""
    payers = dict.fromkeys((*account.plan.payers, "quota"))
    alternatives = [PAYERS[payer](_NOTHING, account, now) for payer in payers]
    return [*alternatives, *(limit for (limit,) in quota.key_groups(_NOTHING, account, now))]


def _no_payer(call: Call, account: Account) -> Deny:
    message = (
        f"Nothing on plan '{account.plan.name}' can pay for a request of this kind to the model '{call.model}'. Ask "
        "the gateway's admin for a plan that can."
    )
    return Deny("insufficient_quota", message, NAME)
