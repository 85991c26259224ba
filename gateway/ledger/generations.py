"""The tables `generations` and `assets`: what a creator had made, and what of it the gateway keeps.

Every question about generations names the creator first. Ids grow with time (`gateway.ledger.ids`), so a page is a range
of ids and the oldest asset is the one with the smallest.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Executable, Select, delete, func, insert, select, update

from gateway.ledger.database import Database
from gateway.ledger.ids import is_entry_id
from gateway.ledger.postings import rows_of
from gateway.ledger.schema import assets, generations
from gateway.ledger.statements import Row
from gateway.ledger.transactions import Transactions

__all__ = [
    "GENERATION_PREFIX",
    "AssetRow",
    "asset_by_id",
    "asset_bytes",
    "forget_creator",
    "generation_of_creator",
    "generations_of_creator",
    "insert_images",
    "is_generation_id",
    "oldest_assets",
    "remove_assets",
    "select_generation",
]

GENERATION_PREFIX = "gen_"


class AssetRow(NamedTuple):
    """A row of `assets` but for whose it is and when it was made."""

    id: str
    content_type: str
    size_bytes: int
    sha256: str


def is_generation_id(text: str) -> bool:
    return text.startswith(GENERATION_PREFIX) and is_entry_id(text.removeprefix(GENERATION_PREFIX))


async def insert_images(
    database: Database, *, made: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]
) -> None:
    """The rows of one call's images, `made` of `generations` and `kept` of `assets`: all or none. Raises `StoreError`."""
    statements: list[Executable] = [
        insert(table).values(list(rows)) for table, rows in ((assets, kept), (generations, made)) if rows
    ]
    if statements:
        await database.write(*statements)


# What a creator asks


async def generations_of_creator(
    database: Database, creator: str, *, limit: int, before: str | None = None, request_id: str | None = None
) -> list[Row]:
    """Up to `limit` images made before the one with the id `before`, the newest first.

    Each with `content_type` and `size_bytes` of its asset; None where the gateway keeps none, or no longer.
    """
    query = _select_shown().where(generations.c.creator == creator)
    if request_id is not None:
        query = query.where(generations.c.request_id == request_id)
    if before is not None:
        query = query.where(generations.c.id < before)
    return await database.fetch_all(query.order_by(generations.c.id.desc()).limit(limit))


async def generation_of_creator(database: Database, creator: str, id: str) -> Row | None:
    """One image as above; None if there is none or it is somebody else's."""
    return await database.fetch_one(_select_shown().where(generations.c.id == id, generations.c.creator == creator))


async def select_generation(database: Database, creator: str, id: str) -> bool:
    """Make it the one that is selected among the images of its request. False if the creator has no such image."""

    def choose(transactions: Transactions) -> bool:
        of_id = select(generations.c.request_id).where(generations.c.id == id, generations.c.creator == creator)
        rows = rows_of(transactions, of_id)
        if not rows:
            return False
        # One statement, so that there is no instant with two, or with none once one was chosen.
        chosen = (
            update(generations)
            .where(generations.c.request_id == rows[0]["request_id"], generations.c.creator == creator)
            .values(is_selected=generations.c.id == id)
        )
        rows_of(transactions, chosen)
        return True

    return await database.run(choose)


# Assets


async def asset_by_id(database: Database, id: str) -> AssetRow | None:
    query = select(*(assets.c[name] for name in AssetRow._fields)).where(assets.c.id == id)
    row = await database.fetch_one(query)
    return None if row is None else AssetRow(**row)


async def asset_bytes(database: Database, creator: str | None = None) -> int:
    """The size of all assets, or of one creator's."""
    query = select(func.coalesce(func.sum(assets.c.size_bytes), 0).label("bytes"))
    if creator is not None:
        query = query.where(assets.c.creator == creator)
    (row,) = await database.fetch_all(query)
    return int(row["bytes"])


async def oldest_assets(database: Database, creator: str | None, limit: int) -> list[Row]:
    """`id` and `size_bytes` of the first `limit`, of everybody or of one creator."""
    query = select(assets.c.id, assets.c.size_bytes)
    if creator is not None:
        query = query.where(assets.c.creator == creator)
    return await database.fetch_all(query.order_by(assets.c.id).limit(limit))


async def remove_assets(database: Database, ids: Collection[str]) -> None:
    """The rows alone. The images' place in the history stays, without a picture."""
    await database.write(delete(assets).where(assets.c.id.in_(ids)))


async def forget_creator(database: Database, creator: str) -> list[str]:
    """Remove a creator's history and the rows of its assets. Returns the ids of the assets, whose files are to follow."""
    removed, _ = await database.write(
        delete(assets).where(assets.c.creator == creator).returning(assets.c.id),
        delete(generations).where(generations.c.creator == creator),
    )
    return [str(row["id"]) for row in removed]


def _select_shown() -> Select[Any]:
    return select(*generations.c, assets.c.content_type, assets.c.size_bytes).join_from(
        generations, assets, assets.c.id == generations.c.asset_id, isouter=True
    )
