"""What must hold for months of which entries were dropped (`gateway.ledger.dropped`). Part of `verify`.

Of these months, rollups whose entries may have been dropped cannot be made again. They are right if nothing in the month's
rollups was changed since there was a checksum of them, and if they have the sums of what was dropped and what is left.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import select

from gateway.ledger.credit_checks import Finding
from gateway.ledger.dropped import DROPPED_KEY, DroppedSums, RollupsChecksum, is_droppable, sums_in
from gateway.ledger.schema import USAGE_DAILY_KEY, dropped_months, dropped_sums
from gateway.ledger.statements import Rows

__all__ = ["DroppedMonths"]

_DAY = USAGE_DAILY_KEY.index("period_day")
_KEY_COLUMNS = len(USAGE_DAILY_KEY)
_Key = tuple[str, str, str]


class DroppedMonths:
    """Lifetime: one verification. It is given every stored rollup once, in the order of their key."""

    def __init__(self, rows: Rows) -> None:
        query = select(dropped_months.c.month, dropped_months.c.rollups_sha256)
        self._checksums: dict[str, str] = {row[0]: row[1] for row in rows(query)}
        self._found = {month: RollupsChecksum() for month in self._checksums}
        columns = len(DROPPED_KEY)
        self._dropped: dict[_Key, DroppedSums] = {
            (row[0], row[1], row[2]): DroppedSums(*row[columns:]) for row in rows(select(dropped_sums))
        }
        self._rolled_up: dict[_Key, DroppedSums] = defaultdict(DroppedSums)
        self._stored: dict[tuple[Any, ...], tuple[int, ...]] = {}

    def take(self, row: tuple[Any, ...]) -> bool:
        """Whether this row of `usage_daily` is looked at here, and by nobody else."""
        checksum = self._found.get(row[_DAY][:7])
        if checksum is None:
            return False
        checksum.add(row)
        if not is_droppable(row):
            return False
        key, sums = sums_in(row)
        self._rolled_up[key] = self._rolled_up[key].plus(sums)
        self._stored[row[:_KEY_COLUMNS]] = row[_KEY_COLUMNS:]
        return True

    def concern(self, key: Sequence[Any]) -> bool:
        """Whether rollups with this key are looked at here."""
        return key[_DAY][:7] in self._checksums and is_droppable(key)

    def in_place(self, computed: Mapping[tuple[Any, ...], tuple[int, ...]]) -> dict[tuple[Any, ...], tuple[int, ...]]:
        """Rollups computed from all entries there are, with those that can no longer be computed as they are stored."""
        return {key: sums for key, sums in computed.items() if not self.concern(key)} | self._stored

    def findings(self, computed: Mapping[tuple[Any, ...], tuple[int, ...]], closed: set[str]) -> Iterator[Finding]:
        """What does not fit. `computed`: the rollups of the entries that are left; `closed`: the closed months."""
        for month, stored in self._checksums.items():
            if month not in closed:
                yield "dropped_months", month, "month", month, "a closed month"
            found = self._found[month].hexdigest()
            if found != stored:
                yield "dropped_months", month, "rollups_sha256", stored, found
        left: dict[_Key, DroppedSums] = defaultdict(DroppedSums)
        for rollup, sums in computed.items():
            if self.concern(rollup):
                key, values = sums_in((*rollup, *sums))
                left[key] = left[key].plus(values)
        for key in sorted({*self._rolled_up, *self._dropped, *left}):
            dropped = self._dropped.get(key, DroppedSums())
            missing = self._rolled_up.get(key, DroppedSums()).minus(left.get(key, DroppedSums()))
            for column, value, expected in zip(DroppedSums._fields, dropped, missing, strict=True):
                if value != expected:
                    yield "dropped_sums", " ".join(key), column, value, expected
