"""How figures are written on pages. Money is shown to its last nano-dollar: nothing is rounded away."""

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

__all__ = ["FILTERS", "number", "percent", "usd_text"]

_NANO = 1_000_000_000
_THIN_SPACE = "\u202f"


def usd_text(value: int | str | Decimal | None) -> str:
    """`$1,234.56` of nano-dollars, or of a decimal text in dollars; at least cents, and as many figures as there are."""
    if value is None:
        return "–"
    nano = value if isinstance(value, int) else int(Decimal(value) * _NANO)
    dollars, rest = divmod(abs(nano), _NANO)
    places = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nano < 0 else ''}${dollars:,}.{places}"


def number(value: int | None) -> str:
    """`1 234 567`, with thin spaces."""
    return "–" if value is None else f"{value:,}".replace(",", _THIN_SPACE)


def percent(part: int, whole: int) -> str:
    """`12.3 %` of two counts, rounded half up to a tenth; a dash of nothing."""
    if not whole:
        return "–"
    tenths = (2000 * part + whole) // (2 * whole)
    return f"{tenths // 10}.{tenths % 10} %"


def instant(text: str | None) -> str:
    """`2026-05-31 12:00:07` of an RFC 3339 instant, UTC."""
    return "–" if not text else datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S")


def short_id(text: str) -> str:
    """The last eight characters, which is where ids differ."""
    return text if len(text) <= 8 else f"…{text[-8:]}"


FILTERS: Mapping[str, Callable[..., Any]] = {
    "usd": usd_text,
    "number": number,
    "instant": instant,
    "short_id": short_id,
}
"""What templates call them."""
