"""Amounts as people read them."""

from math import ceil

_NANO_USD = 1_000_000_000
_MONEY = frozenset({"nano_usd", "cost_nano_usd"})


def usd_text(nano_usd: int) -> str:
    """Nano-dollars (1e-9 USD) as an exact decimal number of dollars, without trailing zeros: `0.5`, `12`, `0.000000001`."""
    sign = "-" if nano_usd < 0 else ""
    dollars, rest = divmod(abs(nano_usd), _NANO_USD)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{sign}{dollars}{fraction}"


def amount_text(amount: int, unit: str) -> str:
    """`3 requests`, `1 image`, `2 credits`; money, whether owed or spent, as `0.25 USD`."""
    if unit in _MONEY:
        return f"{usd_text(amount)} USD"
    return f"{amount} {unit}" if amount == 1 else f"{amount} {unit}s"


def wait_text(wait_s: float) -> str:
    """A wait, rounded up to what a person would say: `1 s`, `61 min`, `30 h`."""
    if wait_s <= 119:
        return f"{max(1, ceil(wait_s))} s"
    if wait_s <= 119 * 60:
        return f"{ceil(wait_s / 60)} min"
    return f"{ceil(wait_s / 3600)} h"
