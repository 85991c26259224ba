"""Amounts as an admin writes them: integers or decimal strings, exact, bounded, or refused with the field's name. Pure."""

import re
from typing import Any

from gateway.errors import RequestError
from gateway.ledger.postings import json_text
from gateway.price_rows import CREDITS_MAX

__all__ = [
    "METADATA_BYTES_MAX",
    "USD_MAX",
    "Amount",
    "adjustment",
    "credit_units",
    "metadata",
    "refusal",
    "usd_units",
]

USD_MAX = 10**6
METADATA_BYTES_MAX = 1_024

Amount = int | str
"""A JSON float is none: it has lost digits before anybody could look at them."""

_DECIMAL = re.compile(r"(-?)([0-9]{1,15})(?:\.([0-9]{1,18}))?")
_NANO_DIGITS = 9


def credit_units(value: object, param: str = "credits") -> int:
    """From 1 to `CREDITS_MAX`. Raises `RequestError` naming `param`."""
    units = _units(value, param, digits=0)
    if not 1 <= units <= CREDITS_MAX:
        raise refusal(param, f"takes from 1 to {CREDITS_MAX} credits")
    return units


def usd_units(value: object, param: str = "amount_usd") -> int:
    """Nano-dollars above 0, of at most `USD_MAX` dollars. Raises `RequestError` naming `param`."""
    nano_usd = _units(value, param, digits=_NANO_DIGITS)
    if not 1 <= nano_usd <= USD_MAX * 10**_NANO_DIGITS:
        raise refusal(param, f"takes more than 0 and at most {USD_MAX} USD")
    return nano_usd


def adjustment(payer: str, amount_usd: object, credits: object) -> int:
    """What an adjustment takes from its payer: nano-dollars owed more (or less, below 0), or credits taken away.

    Raises `RequestError`.
    """
    if payer == "quota":
        if amount_usd is None or credits is not None:
            raise refusal("amount_usd", "says what is owed more or, below 0, less: the quota takes no `credits`")
        nano_usd = _units(amount_usd, "amount_usd", digits=_NANO_DIGITS)
        if not 1 <= abs(nano_usd) <= USD_MAX * 10**_NANO_DIGITS:
            raise refusal("amount_usd", f"takes an amount other than 0 of at most {USD_MAX} USD either way")
        return nano_usd
    if credits is None or amount_usd is not None:
        raise refusal("credits", "says how many are taken away, below 0: credits take no `amount_usd`")
    taken = -_units(credits, "credits", digits=0)
    if not 1 <= taken <= CREDITS_MAX:
        raise refusal("credits", f"takes from -1 to -{CREDITS_MAX}: credits are given by a grant")
    return taken


def metadata(**facts: Any) -> dict[str, Any]:
    """What an entry says about itself, without what is empty. Raises `RequestError` for a note that is too long."""
    found = {name: value for name, value in facts.items() if value}
    if len(json_text(found).encode()) > METADATA_BYTES_MAX:
        raise refusal("note", f"makes more than {METADATA_BYTES_MAX} bytes of JSON")
    return found


def refusal(param: str, reason: str, *, status: int = 400, code: str = "invalid_value") -> RequestError:
    return RequestError(f"`{param}` {reason}.", status=status, code=code, param=param)


def _units(value: object, param: str, *, digits: int) -> int:
    """The exact amount as a whole count of 10^-`digits`, by the digits as they were written."""
    if type(value) is int:
        return int(value) * int(10**digits)
    parts = _DECIMAL.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        raise refusal(param, 'takes an integer or a decimal string such as "2.5", never a JSON float')
    sign, whole, fraction = parts[1], parts[2], (parts[3] or "").rstrip("0")
    if len(fraction) > digits:
        raise refusal(param, "takes whole credits" if digits == 0 else "is finer than a nano-dollar (0.000000001)")
    units = int(whole + fraction.ljust(digits, "0"))
    return -units if sign else units
