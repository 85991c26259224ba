"""Pages of entries for people, who would rather go on looking than wait: of each page it is bounded how much is read for it.

Most filters have no index: they walk entries from the newest, and one that hardly anything fits would walk all there are.
Here a walk goes by steps of so many entries, each ten times the one before, and ends with the page or at the bound.
"""

from typing import NamedTuple

from sqlalchemy import select

from gateway.ledger.database import Database
from gateway.ledger.queries import EntryFilter, entry_page
from gateway.ledger.schema import entries
from gateway.ledger.statements import Row

__all__ = ["BoundedPage", "bounded_page"]

_FIRST_STEP = 2_000
_STEP_GROWS = 10
_INDEXED = ("creator", "request_id")
"""What an index finds without a walk: only entries with these values count as looked at."""


class BoundedPage(NamedTuple):
    rows: list[Row]
    """The newest first, one more than `limit` where the page is full and there is another."""
    stopped_at: str | None
    """The id of the last entry that was looked at, where the bound came before the page was full. Else None."""


async def bounded_page(
    database: Database, wanted: EntryFilter, *, limit: int, before: str | None, scan_max: int
) -> BoundedPage:
    """Up to `limit` + 1 entries that fit, out of the newest `scan_max` before the one with the id `before`."""
    if wanted.model is None and wanted.equal.keys() <= set(_INDEXED):
        return BoundedPage(await entry_page(database, wanted, limit=limit + 1, before=before), None)
    rows: list[Row] = []
    step, left = _FIRST_STEP, scan_max
    while True:
        step = min(step, left)
        floor = await _nth_before(database, wanted, before, step)
        rows += await entry_page(database, wanted, limit=limit + 1 - len(rows), before=before, least=floor)
        if floor is None or len(rows) > limit:
            return BoundedPage(rows, None)
        before, left, step = floor, left - step, step * _STEP_GROWS
        if not left:
            return BoundedPage(rows, floor)


async def _nth_before(database: Database, wanted: EntryFilter, before: str | None, nth: int) -> str | None:
    """The id of the `nth` entry to be looked at; None where there are fewer."""
    indexed = {name: value for name, value in wanted.equal.items() if name in _INDEXED}
    walked = EntryFilter(wanted.from_ms, wanted.to_ms, equal=indexed).conditions(before=before)
    query = select(entries.c.id).where(*walked).order_by(entries.c.id.desc()).limit(1).offset(nth - 1)
    row = await database.fetch_one(query)
    return None if row is None else str(row["id"])
