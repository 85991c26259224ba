"""How often plans and prices were read again, by any process: the others see the number grow, and read them too."""

from sqlalchemy import select

from gateway.ledger.schema import meta
from gateway.ledger.statements import upsert
from gateway.ledger.transactions import Transactions

__all__ = ["RELOADS_KEY", "count_reload"]

RELOADS_KEY = "reloads"


def count_reload(transactions: Transactions) -> int:
    """The number, one higher; inside a transaction."""
    transactions.lock(RELOADS_KEY)
    rows = transactions.rows(select(meta.c.value).where(meta.c.key == RELOADS_KEY))
    number = 1 + (int(rows[0]["value"]) if rows else 0)
    row = upsert(meta).values(key=RELOADS_KEY, value=str(number))
    transactions.count(row.on_conflict_do_update(index_elements=["key"], set_={"value": str(number)}))
    return number
