"""How figures are written on pages. Money is shown to its last digit: nothing is rounded away, and nothing is a float."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

__all__ = ["FILTERS", "Shares", "instant", "number", "percent", "shares", "short_id", "usd_text"]

_NANO_DIGITS = 9
_CENT_DIGITS = 2
_THIN_SPACE = "\u202f"
_NOTHING = "–"
_SHORT_CHARS = 8
_DATE_CHARS = 10
_PERMILLE = 1_000
_HIGH = 750
_FULL = 950


def usd_text(value: int | str | Decimal | None) -> str:
    """`$1,234.56` of nano-dollars, or of a decimal text in dollars; at least cents, and as many figures as there are.

    Raises `TypeError` for a float, which is no money, and `ValueError` for a text that is no finite number.
    """
    if value is None:
        return _NOTHING
    if isinstance(value, float):
        raise TypeError("money is never a float")
    if isinstance(value, int):
        whole, places = f"{abs(value):0{_NANO_DIGITS + 1}d}"[:-_NANO_DIGITS], f"{abs(value):09d}"[-_NANO_DIGITS:]
        is_negative = value < 0
    else:
        amount = _decimal(value)
        # `abs` and `-` round to the context's precision; a copy does not.
        whole, _, places = f"{amount.copy_abs():f}".partition(".")
        is_negative = amount < 0
    shown = places.rstrip("0").ljust(_CENT_DIGITS, "0")
    return f"{'-' if is_negative else ''}${int(whole):,}.{shown}"


def number(value: int | None) -> str:
    """`1 234 567`, with thin spaces."""
    return _NOTHING if value is None else f"{value:,}".replace(",", _THIN_SPACE)


def percent(part: int, whole: int) -> str:
    """`12.3 %` of two counts, rounded half up to a tenth; a dash of nothing."""
    if not whole:
        return _NOTHING
    tenths = (2 * _PERMILLE * part + whole) // (2 * whole)
    return f"{'-' if tenths < 0 else ''}{abs(tenths) // 10}.{abs(tenths) % 10} %"


def instant(text: str | None) -> str:
    """`2026-05-31 12:00:07` of an RFC 3339 instant, in UTC; a date stays one."""
    if not text or len(text) <= _DATE_CHARS:
        return text or _NOTHING
    read = datetime.fromisoformat(text)
    return (read if read.tzinfo is None else read.astimezone(UTC)).strftime("%Y-%m-%d %H:%M:%S")


def short_id(text: str) -> str:
    """The last eight characters, which is where ids differ."""
    return text if len(text) <= _SHORT_CHARS else f"…{text[-_SHORT_CHARS:]}"


class Shares(NamedTuple):
    """Of a capacity, in tenths of a percent; together never more than all of it."""

    used: int
    held: int

    @property
    def level(self) -> str:
        """`high` from three quarters on, `full` from nineteen twentieths."""
        taken = self.used + self.held
        return "full" if taken >= _FULL else "high" if taken >= _HIGH else "low"


def shares(used: int, held: int, capacity: int | None) -> Shares | None:
    """How much of `capacity` is used and held; None where there is no bound, or nothing of nothing."""
    if capacity is None or (capacity <= 0 and used + held <= 0):
        return None
    if capacity <= 0:
        return Shares(_PERMILLE, 0)
    first = min(max(_PERMILLE * used // capacity, 0), _PERMILLE)
    return Shares(first, min(max(_PERMILLE * held // capacity, 0), _PERMILLE - first))


def _decimal(value: str | Decimal) -> Decimal:
    try:
        amount = Decimal(value)
    except ArithmeticError as exc:
        raise ValueError("no amount of money") from exc
    if not amount.is_finite():
        raise ValueError("no amount of money")
    return amount


FILTERS: Mapping[str, Callable[..., Any]] = {
    "usd": usd_text,
    "number": number,
    "percent": percent,
    "instant": instant,
    "short_id": short_id,
}
"""What templates call them; `{{ part | percent(whole) }}`."""
