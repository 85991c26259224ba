"""How figures are written on pages. Nothing is a float.

Money has two forms: to its last digit where one thing is explained, and rounded where amounts are compared, with as many
digits in a whole column. Whatever is rounded stands beside its exact value (`data-value`, `title`) in the page.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, NamedTuple

__all__ = [
    "FILTERS",
    "Shares",
    "decimals",
    "instant",
    "moment",
    "number",
    "percent",
    "places_of",
    "plain",
    "shares",
    "short_id",
    "usd_at",
    "usd_round",
    "usd_text",
]

_NANO_DIGITS = 9
_CENT_DIGITS = 2
_THIN_SPACE = "\u202f"
_NOTHING = "–"
_SHORT_CHARS = 8
_FIGURES = 2
_PLAIN_DIGITS_MAX = 18
_COLUMN_MOST = 4
_ROUNDING = Context(prec=100, rounding=ROUND_HALF_UP)
_DATE_CHARS = 10
_MINUTE_CHARS = 16
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


def usd_at(value: int | str | Decimal | None, places: int) -> str:
    """`$1,234.50` of the same, rounded half up to `places` digits (two at least); `<$0.01` of what would be nothing so."""
    if value is None or isinstance(value, float):
        return usd_text(value)
    step = Decimal(1).scaleb(-max(places, _CENT_DIGITS))
    exact = Decimal(value).scaleb(-_NANO_DIGITS, _ROUNDING) if isinstance(value, int) else _decimal(value)
    rounded = exact.quantize(step, context=_ROUNDING)
    if exact and not rounded:
        return f"{'-' if exact < 0 else ''}<${step:f}"
    return f"{'-' if rounded < 0 else ''}${abs(rounded):,f}"


def usd_round(value: int | str | Decimal | None) -> str:
    """`$1,234.57`: cents, and of less than a dime two figures."""
    return usd_at(value, decimals([value], _NANO_DIGITS))


def decimals(values: Iterable[int | str | Decimal | None], most: int = _COLUMN_MOST) -> int:
    """How many digits after the point a column of these amounts has: cents, or as many as its smallest amount needs for two
    figures; none that would be a nought in every line, and beyond `most` only those that its largest needs."""
    amounts = [abs(value) if isinstance(value, int) else _nano_of(value) for value in values if value]
    needed = [_digits_of(amount) for amount in amounts if amount]
    return max(_CENT_DIGITS, min(max(needed), most), min(needed)) if needed else _CENT_DIGITS


def _digits_of(nano: int) -> int:
    """For two figures, or fewer where that says all."""
    text = str(nano)
    return min(_NANO_DIGITS + _FIGURES - len(text), _NANO_DIGITS - (len(text) - len(text.rstrip("0"))))


def _nano_of(value: str | Decimal) -> int:
    return abs(int(_decimal(value).scaleb(_NANO_DIGITS, _ROUNDING)))


def places_of(rows: Iterable[Mapping[str, Any]], *names: str, most: int = _COLUMN_MOST) -> int:
    """The `decimals` of these fields of all rows; those that whoever looks must not see are in none."""
    return decimals((row.get(name) for row in rows for name in names), most)


def plain(text: str) -> str:
    """`1 000 000` of what people typed or a plan says, if it is a whole number; anything else as it is."""
    return number(int(text)) if text.isascii() and text.isdigit() and len(text) <= _PLAIN_DIGITS_MAX else text


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
    """`2026-05-31 12:00` of an RFC 3339 instant, in UTC; a date stays one."""
    return moment(text)[:_MINUTE_CHARS]


def moment(text: str | None) -> str:
    """The same to the second."""
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
    "usd_at": usd_at,
    "usd_round": usd_round,
    "number": number,
    "percent": percent,
    "plain": plain,
    "instant": instant,
    "moment": moment,
    "short_id": short_id,
}
"""What templates call them; `{{ part | percent(whole) }}`."""
