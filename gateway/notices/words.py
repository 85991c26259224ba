"""The notices about money, keys and errors: what each says, the figures beside it, and the words it is told once under.

Pure. A sentence names its creator by id, which holds nothing but letters, digits and `._:@-`; whatever else a person may
have chosen freely (names of creators and keys) is left out. Money is an integer of nano-dollars (1e-9 USD) and the same
as a decimal string; percentages of limits are integers, rounded down.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from gateway.ledger.periods import rfc3339
from gateway.notices.base import Kind, Notice
from gateway.notices.signals import Downgrade, ErrorRate
from gateway.pricing import usd
from policies import budget, quota
from policies.amounts import amount_text
from policies.credits import PROMO_NAME
from policies.types import Account, Limit

__all__ = [
    "KEY_EXPIRING",
    "Step",
    "credits_exhausted",
    "day_cost_above",
    "downgraded",
    "error_rate_above",
    "is_hard",
    "key_expiring",
    "limit_once",
    "limit_reached",
    "subject_of",
]

Step = Literal["80_percent", "95_percent", "exhausted"]
Subject = Literal["quota", "budget"]

KEY_EXPIRING: Kind = "key.expiring"

_OF_KEY = "key_"
_KINDS: Mapping[tuple[Subject, Step], Kind] = {
    ("quota", "80_percent"): "quota.80_percent",
    ("quota", "95_percent"): "quota.95_percent",
    ("quota", "exhausted"): "quota.exhausted",
    ("budget", "80_percent"): "budget.80_percent",
    ("budget", "95_percent"): "budget.95_percent",
    ("budget", "exhausted"): "budget.exhausted",
}
_SUBJECTS: Mapping[str, tuple[Subject, str]] = {
    quota.NAME: ("quota", "monthly quota"),
    budget.NAME: ("budget", "monthly budget"),
    budget.HARD_NAME: ("budget", "monthly hard budget"),
}
"""Name of a limit, as a creator's -> what notices call it, and what people do."""


def subject_of(limit: Limit) -> Subject | None:
    """Whether it is a quota or a budget, a creator's or a virtual key's own; None for any other limit."""
    found = _SUBJECTS.get(limit.name.removeprefix(_OF_KEY))
    return None if found is None else found[0]


def is_hard(limit: Limit) -> bool:
    """Whether calls are refused once it is used up: a soft budget sends them to cheaper models instead."""
    return limit.name.removeprefix(_OF_KEY) != budget.NAME


def limit_once(limit: Limit, step: Step) -> str:
    """The counter's key names owner and month; a capacity that was changed is a new thing to tell of."""
    return f"{_kind(limit, step)}/{limit.key}/{limit.capacity}"


def limit_reached(account: Account, limit: Limit, step: Step, *, used: int, period: str) -> Notice:
    """A quota or a budget of the month `period` (`YYYY-MM`) of which so much is settled, in nano-dollars.

    `exhausted` may be told below the capacity: then what is left did not cover a call, which was refused.
    """
    percent = used * 100 // limit.capacity
    spent, cap = amount_text(used, limit.unit), amount_text(limit.capacity, limit.unit)
    if step == "exhausted":
        message = (
            f"The {_called(limit)} of {_whose(account, limit)}, {cap}, is used up: {spent}, {percent} %, are spent, and "
            f"calls that the rest does not cover are refused{_until(limit)}."
        )
    else:
        message = f"{spent}, {percent} %, of the {_called(limit)} of {_whose(account, limit)}, {cap}, are spent{_until(limit)}."
    data = {**_limit_data(account, limit, used, period), "percent": percent}
    return Notice(_kind(limit, step), limit_once(limit, step), message, data, account.creator)


def downgraded(downgrade: Downgrade, limit: Limit, *, used: int, period: str) -> Notice:
    """The first call of the month `period` that `limit` sent to a cheaper model, and what was settled when it was seen."""
    account = downgrade.account
    spent, cap = amount_text(used, limit.unit), amount_text(limit.capacity, limit.unit)
    message = (
        f"Calls of {_whose(account, limit)} for the model {downgrade.requested_model} are served by "
        f"{downgrade.served_model}: {spent} of the {_called(limit)} of {cap} are spent{_until(limit)}."
    )
    data = {
        "requested_model": downgrade.requested_model,
        "served_model": downgrade.served_model,
        **_limit_data(account, limit, used, period),
        "percent": used * 100 // limit.capacity if limit.capacity else 100,
    }
    return Notice("budget.downgraded", f"budget.downgraded/{limit.key}", message, data, account.creator)


def credits_exhausted(account: Account, *, name: str, used: int, granted: int, day: str) -> Notice:
    """A call was refused on `day` (`YYYY-MM-DD`) because the credits left do not cover it, and no other payer does.

    `used` and `granted` are those of the limit `name`: credits, or promotional ones.
    """
    promotional = "promotional " if name == PROMO_NAME else ""
    figures = f": {used} of {amount_text(granted, 'credit')} are used" if granted else ""
    message = (
        f"The {promotional}credits of creator '{account.creator}' do not cover its calls any more, which are refused"
        f"{figures}."
    )
    data = {
        "limit_name": name,
        "used_credits": used,
        "limit_credits": granted,
        "left_credits": max(0, granted - used),
        "period": day,
    }
    once = f"credits.exhausted/{account.creator}/{name}/{day}"
    return Notice("credits.exhausted", once, message, data, account.creator)


def key_expiring(*, key_id: str, creator: str, expires_at_ms: int) -> Notice:
    """`key_id` is the public id of a virtual key."""
    expires_at = rfc3339(expires_at_ms)
    message = (
        f"The virtual key {key_id} of creator '{creator}' expires at {expires_at}: its calls are refused from then on."
    )
    data = {"key_id": key_id, "expires_at": expires_at}
    return Notice(KEY_EXPIRING, f"{KEY_EXPIRING}/{key_id}/{expires_at_ms}", message, data, creator)


def day_cost_above(*, day: str, cost_nano_usd: int, amount_nano_usd: int) -> Notice:
    """What all calls of `day` (`YYYY-MM-DD`, UTC) cost at the providers is above the amount of the settings."""
    cost, amount = amount_text(cost_nano_usd, "cost_nano_usd"), amount_text(amount_nano_usd, "cost_nano_usd")
    message = f"The calls of {day} have cost {cost} so far, above the set amount of {amount}."
    data = {"period": day, **_money("cost", cost_nano_usd), **_money("limit", amount_nano_usd)}
    return Notice("day_cost.above", f"day_cost.above/{day}/{amount_nano_usd}", message, data)


def error_rate_above(*, provider: str | None, rate: ErrorRate, limit_percent: Decimal, at: datetime) -> Notice:
    """Of the last ten minutes' calls to `provider` (None: to all of them) too many failed. Once in the hour of `at`."""
    hour = at.astimezone(UTC).strftime("%Y-%m-%dT%H")
    percent = _plain(Decimal(rate.errors * 10_000 // rate.calls) / 100)
    whom = "all providers" if provider is None else f"provider '{provider}'"
    message = (
        f"{rate.errors} of the last ten minutes' {rate.calls} calls to {whom} failed: {percent} %, more than "
        f"{_plain(limit_percent)} %."
    )
    data = {
        "provider": provider,
        "calls": rate.calls,
        "errors": rate.errors,
        "percent": percent,
        "limit_percent": _plain(limit_percent),
        "period": hour,
    }
    subject = "all" if provider is None else f"provider/{provider}"
    return Notice("error_rate.above", f"error_rate.above/{subject}/{hour}", message, data)


def _kind(limit: Limit, step: Step) -> Kind:
    subject, _ = _SUBJECTS[limit.name.removeprefix(_OF_KEY)]
    return _KINDS[subject, step]


def _called(limit: Limit) -> str:
    return _SUBJECTS[limit.name.removeprefix(_OF_KEY)][1]


def _is_own(limit: Limit) -> bool:
    return limit.name.startswith(_OF_KEY)


def _whose(account: Account, limit: Limit) -> str:
    creator = f"creator '{account.creator}'"
    return f"the virtual key {account.key_id} of {creator}" if _is_own(limit) else creator


def _limit_data(account: Account, limit: Limit, used: int, period: str) -> dict[str, Any]:
    own = {"key_id": account.key_id} if _is_own(limit) else {}
    return {
        "limit_name": limit.name,
        **own,
        **_money("used", used),
        **_money("limit", limit.capacity),
        "period": period,
        "resets_at": None if limit.resets_at is None else _instant(limit.resets_at),
    }


def _money(name: str, nano_usd: int) -> dict[str, Any]:
    return {f"{name}_nano_usd": nano_usd, f"{name}_usd": usd(nano_usd)}


def _until(limit: Limit) -> str:
    return "" if limit.resets_at is None else f"; it starts afresh at {_instant(limit.resets_at)}"


def _instant(unix_time: float) -> str:
    return datetime.fromtimestamp(unix_time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(number: Decimal) -> str:
    """Without an exponent, and without zeros at the end."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
