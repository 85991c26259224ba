"""The name a database gave itself, so that what belongs to it elsewhere is never taken for another's."""

import uuid

from sqlalchemy import select

from gateway.ledger.database import Database
from gateway.ledger.schema import meta
from gateway.ledger.statements import upsert

__all__ = ["database_id"]

_KEY = "database_id"


async def database_id(database: Database) -> str:
    """32 hexadecimal digits; made the first time, the same for all processes and in every copy. Raises `StoreError`."""
    query = select(meta.c.value).where(meta.c.key == _KEY)
    row = await database.fetch_one(query)
    if row is None:
        await database.write(upsert(meta).values(key=_KEY, value=uuid.uuid4().hex).on_conflict_do_nothing())
        row = await database.fetch_one(query)
    assert row is not None  # noqa: S101 -- it was there, was just written, or another process was faster
    return str(row["value"])
