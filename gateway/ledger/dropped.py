"""What is left of entries that were dropped: which may be, the sums that take their place, and a checksum of the rollups.

Dropped are calls of closed months that the quota or free images paid. The ledger keeps, for ever:
- every entry that is no call: grants, refunds, adjustments, expiries;
- every call that some entry corrects;
- every call paid in credits, so that a balance can always be computed from its history.

Rollups and charges stay. A closed month's rollups never change again, so a checksum of them stands for the entries that
made them; the sums of what was dropped, by creator and payer, added to those of the entries that are left, are the sums
of the rollups.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import ColumnElement, Select, exists, select

from gateway.ledger.ids import id_floor
from gateway.ledger.periods import month_bounds_ms
from gateway.ledger.schema import USAGE_DAILY_KEY, USAGE_DAILY_SUMS, entries, usage_daily

__all__ = [
    "CREDIT_PAYERS",
    "DROPPED_KEY",
    "DROPPED_SUMS",
    "DroppedSums",
    "RollupsChecksum",
    "droppable",
    "is_droppable",
    "posted_in",
    "rollups_in_order",
    "row_of",
    "sums_in",
]

CREDIT_PAYERS: Final = ("credits", "promo_credits")
DROPPED_KEY = ("month", "creator", "payer")
DROPPED_SUMS = ("entries", "calls", "cost_nano_usd", "charge_nano_usd", "payer_amount")
_OF_ROLLUP = ("attempts", *DROPPED_SUMS[1:])
"""The same sums by their names in the rollups."""
_DAY, _CREATOR, _KIND, _PAYER = map(USAGE_DAILY_KEY.index, ("period_day", "creator", "kind", "payer"))
_SUMS = tuple(len(USAGE_DAILY_KEY) + USAGE_DAILY_SUMS.index(name) for name in _OF_ROLLUP)


class DroppedSums(NamedTuple):
    """Of entries, or of the rollups they went into; money in nano-dollars, `payer_amount` in units of the payer."""

    entries: int = 0
    calls: int = 0
    cost_nano_usd: int = 0
    charge_nano_usd: int = 0
    payer_amount: int = 0

    def plus(self, other: Sequence[int]) -> "DroppedSums":
        return DroppedSums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def minus(self, other: Sequence[int]) -> "DroppedSums":
        return DroppedSums(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


def posted_in(month: str) -> list[ColumnElement[bool]]:
    """Conditions on `entries`: posted in `YYYY-MM`, which is a range of ids. Raises `ValueError` for no month."""
    first, after = (id_floor(at_ms) for at_ms in month_bounds_ms(month))
    return [entries.c.id >= first, entries.c.id < after]


def droppable() -> list[ColumnElement[bool]]:
    """Conditions on `entries`, but for the month: this may be dropped once its month is closed and old enough."""
    correction = entries.alias("correction")
    return [
        entries.c.kind == "usage",
        *(entries.c.payer != payer for payer in CREDIT_PAYERS),
        ~exists(select(correction.c.id).where(correction.c.corrects == entries.c.id)),
    ]


def is_droppable(row: Sequence[Any]) -> bool:
    """Whether entries of this row of `usage_daily` (its key is enough) may be dropped."""
    return row[_KIND] == "usage" and row[_PAYER] not in CREDIT_PAYERS


def sums_in(row: Sequence[Any]) -> tuple[tuple[str, str, str], Sequence[int]]:
    """(month, creator, payer) of a row of `usage_daily`, and what it adds to their sums."""
    return (row[_DAY][:7], row[_CREATOR], row[_PAYER]), [row[index] for index in _SUMS]


def rollups_in_order(month: str) -> Select[Any]:
    """The rows that `RollupsChecksum` wants."""
    key = (usage_daily.c[name] for name in USAGE_DAILY_KEY)
    return select(usage_daily).where(usage_daily.c.period_day.between(f"{month}-01", f"{month}-31")).order_by(*key)


class RollupsChecksum:
    """SHA-256 over rows of `usage_daily` in the order of their key, the same on every store.

    Each row is a JSON list of its values in the order of the table's columns, booleans as 0 and 1, and a line feed.
    """

    def __init__(self) -> None:
        self._sha256 = sha256()

    def add(self, row: Iterable[Any]) -> None:
        values = [int(value) if isinstance(value, bool) else value for value in row]
        self._sha256.update(orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE))

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def row_of(rollup: Mapping[str, Any]) -> tuple[Any, ...]:
    """A rollup read by name, in the order of the table's columns."""
    return tuple(rollup[name] for name in (*USAGE_DAILY_KEY, *USAGE_DAILY_SUMS))
