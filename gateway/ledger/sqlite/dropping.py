"""Entries of a month leave a file in small slices, each a transaction in which the sums that take their place grow.

What is free in the file afterwards is used for new entries; the file itself does not shrink.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, delete, exists, insert, select

from gateway.ledger.dropped import DROPPED_KEY, DROPPED_SUMS, DroppedSums, droppable, posted_in
from gateway.ledger.periods import now_ms
from gateway.ledger.schema import dropped_months, dropped_sums, entries, meta
from gateway.ledger.statements import Prepared, upsert_adding
from gateway.ledger.transactions import Transactions

if TYPE_CHECKING:
    from gateway.ledger.database import Database

__all__ = ["drop_posted"]

_SLICE_ROWS = 200
"""Calls that settle meanwhile wait for one slice: some milliseconds."""
_REST = 2
"""After each slice the writer is left to others for so many times as long."""
_DROPPING = "dropping"
"""A row of `meta` without which no entry can be deleted. It is there inside a slice's transaction only."""
_RANGE = entries.c.id.between(bindparam("first"), bindparam("last"))
_SUMMED = ("period_month", "creator", "payer", "final", "cost_nano_usd", "charge_nano_usd", "payer_amount")
_HAS_ROW = exists(select(dropped_months.c.month).where(dropped_months.c.month == entries.c.period_month))
# Looked at again in the transaction: a call may have been corrected meanwhile.
_DELETE = Prepared(delete(entries).where(_RANGE, _HAS_ROW, *droppable()).returning(*(entries.c[n] for n in _SUMMED)))
_ALLOW = Prepared(insert(meta).values(key=_DROPPING, value=bindparam("at")))
_FORBID = Prepared(delete(meta).where(meta.c.key == _DROPPING))
_ADD = upsert_adding(dropped_sums, DROPPED_KEY, DROPPED_SUMS)


async def drop_posted(database: "Database", month: str) -> int:
    """What `Database.drop_posted` promises."""
    dropped, after = 0, ""
    while True:
        query = (
            select(entries.c.id)
            .where(*posted_in(month), *droppable(), entries.c.period_month <= month, _HAS_ROW, entries.c.id > after)
            .order_by(entries.c.id)
            .limit(_SLICE_ROWS)
        )
        ids = [row["id"] for row in await database.fetch_all(query)]
        if not ids:
            return dropped
        begun_at = time.monotonic()
        dropped += await database.ledger.run(partial(_drop_slice, ids[0], ids[-1], month), is_durable=False)
        after = ids[-1]
        await asyncio.sleep(_REST * (time.monotonic() - begun_at))


def _drop_slice(first: str, last: str, month: str, transactions: Transactions) -> int:
    transactions.count(_ALLOW, at=str(now_ms()))
    deleted = transactions.rows(_DELETE, first=first, last=last)
    transactions.count(_FORBID)
    sums: dict[tuple[str, str, str], DroppedSums] = defaultdict(DroppedSums)
    for row in deleted:
        key = row["period_month"], row["creator"], row["payer"]
        money: Sequence[int] = row["cost_nano_usd"], row["charge_nano_usd"], row["payer_amount"]
        sums[key] = sums[key].plus((1, int(row["final"]), *money))
    transactions.insert(_ADD, [(*key, *total) for key, total in sums.items()])
    return len(deleted)
