"""Conversations: lists of items that the gateway keeps for a creator, whichever models they were said to.

Everything is asked for by creator and account; what belongs to somebody else is not there. An item is JSON in the shape
the Responses API lists it. Positions only rise, so that the order of a conversation never changes. Sizes are bytes of JSON.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, select, update

from gateway.errors import NotFound, RequestError
from gateway.ledger.database import Database
from gateway.ledger.functions import bytes_of
from gateway.ledger.schema import conversation_items, conversations, creators
from gateway.ledger.statements import Row, many_rows
from gateway.ledger.transactions import Transactions
from gateway.responses.ids import is_id, new_id
from gateway.responses.kept_bytes import KeptBytes
from policies.types import Account

__all__ = ["ITEMS_AT_ONCE_MAX", "Conversations", "Page", "append_items", "is_erased"]

ITEMS_AT_ONCE_MAX = 20
"""OpenAI's bound on one request that adds items."""
_ITEMS_MAX = 10_000
"""Of one conversation, for a request that adds some."""
_CONVERSATIONS_MAX = 100_000
"""Of one creator."""
_IDS_AT_ONCE = 500

_ID_KIND = re.compile(r"[a-z]{1,16}")

_INSERT_ITEMS = many_rows(conversation_items)


class Page(NamedTuple):
    """Part of a list of items. `has_more`: the list goes on behind the last one."""

    items: Sequence[dict[str, Any]]
    has_more: bool

    def to_json(self) -> dict[str, Any]:
        items = self.items
        return {
            "object": "list",
            "data": list(items),
            "first_id": items[0].get("id") if items else None,
            "last_id": items[-1].get("id") if items else None,
            "has_more": self.has_more,
        }


class Conversations:
    """Lifetime: the process. `context_bytes_max` bounds what one conversation may hold when it is read as a whole."""

    def __init__(
        self,
        database: Database,
        kept: KeptBytes,
        *,
        context_bytes_max: int,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._kept = kept
        self._context_bytes_max = context_bytes_max
        self._wall_clock = wall_clock

    async def create(
        self, account: Account, items: Sequence[dict[str, Any]], metadata: Mapping[str, str]
    ) -> dict[str, Any]:
        """A new conversation that begins with `items`. Raises `RequestError` at the creator's bound and its own."""
        more = _bytes_of(items)
        if more > self._context_bytes_max:
            raise _too_long("conversation")
        await self._kept.require_room(account.creator, more)
        created_at = int(self._wall_clock() * 1000)
        row = {
            "id": new_id("conv"),
            "account_id": account.account_id,
            "creator": account.creator,
            "metadata": _text(metadata),
            "created_at": created_at,
        }

        def task(transactions: Transactions) -> bool:
            if is_erased(transactions, account.creator) or _count_of(transactions, account) >= _CONVERSATIONS_MAX:
                return False
            transactions.rows(insert(conversations).values(row))
            append_items(transactions, str(row["id"]), items)
            return True

        if not await self._database.run(task):
            raise RequestError(
                "There are too many conversations; delete some before you create another.",
                code="too_many_conversations",
            )
        self._kept.changed(account.creator, more)
        return _conversation(row)

    async def get(self, account: Account, id: str) -> dict[str, Any]:
        """Raises `NotFound`, as all the others do."""
        row = await self._database.fetch_one(select(conversations).where(_is_theirs(account, id)))
        if row is None:
            raise _no_conversation(id)
        return _conversation(row)

    async def set_metadata(self, account: Account, id: str, metadata: Mapping[str, str]) -> dict[str, Any]:
        """Replaced as a whole."""
        statement = (
            update(conversations)
            .where(_is_theirs(account, id))
            .values(metadata=_text(metadata))
            .returning(*conversations.c)
        )
        (rows,) = await self._database.write(statement)
        if not rows:
            raise _no_conversation(id)
        return _conversation(rows[0])

    async def delete(self, account: Account, id: str) -> None:
        """The conversation and its items. Responses that were part of it stay."""
        statement = delete(conversations).where(_is_theirs(account, id)).returning(conversations.c.id)
        (size,) = await self._database.fetch_all(_size_of(id))
        (rows,) = await self._database.write(statement)
        if not rows:
            raise _no_conversation(id)
        self._kept.changed(account.creator, -size["bytes"])

    # Items

    async def add(self, account: Account, id: str, items: Sequence[dict[str, Any]]) -> Page:
        """The items as they were kept, behind all others. Raises `RequestError` where the conversation would outgrow its
        bounds, or too much is kept already."""
        more = _bytes_of(items)
        await self._kept.require_room(account.creator, more)

        def task(transactions: Transactions) -> Sequence[dict[str, Any]]:
            if not _exists(transactions, account, id):
                raise _no_conversation(id)
            (size,) = transactions.rows(_size_of(id))
            if size["items"] + len(items) > _ITEMS_MAX or size["bytes"] + more > self._context_bytes_max:
                raise _too_long("conversation")
            return append_items(transactions, id, items)

        added = await self._database.run(task)
        self._kept.changed(account.creator, more)
        return Page(added, has_more=False)

    async def items(self, account: Account, id: str, *, after: str | None, limit: int, is_descending: bool) -> Page:
        """Up to `limit` items behind the one with the id `after`, in their order or from the newest back."""
        await self.get(account, id)
        position = conversation_items.c.position
        query: Select[Any] = select(position, conversation_items.c.body).where(
            conversation_items.c.conversation_id == id
        )
        if after is not None:
            start = await self._position(id, after)
            query = query.where(position < start if is_descending else position > start)
        query = query.order_by(position.desc() if is_descending else position).limit(limit + 1)
        rows = await self._database.fetch_all(query)
        return Page([orjson.loads(row["body"]) for row in rows[:limit]], len(rows) > limit)

    async def item(self, account: Account, id: str, item_id: str) -> dict[str, Any]:
        await self.get(account, id)
        query = select(conversation_items.c.body).where(_is_item(id, item_id))
        row = await self._database.fetch_one(query)
        if row is None:
            raise _no_item(item_id)
        item: dict[str, Any] = orjson.loads(row["body"])
        return item

    async def delete_item(self, account: Account, id: str, item_id: str) -> dict[str, Any]:
        """The conversation without the item."""
        conversation = await self.get(account, id)
        size = bytes_of(conversation_items.c.body).label("bytes")
        statement = delete(conversation_items).where(_is_item(id, item_id)).returning(size)
        (rows,) = await self._database.write(statement)
        if not rows:
            raise _no_item(item_id)
        self._kept.changed(account.creator, -rows[0]["bytes"])
        return conversation

    async def context(self, account: Account, id: str) -> list[dict[str, Any]]:
        """Every item, the oldest first: what a response in this conversation begins with. Raises `NotFound`, and
        `RequestError` 400 for one too long to be read."""
        await self.get(account, id)
        (size,) = await self._database.fetch_all(_size_of(id))
        if size["items"] > 2 * _ITEMS_MAX or size["bytes"] > self._context_bytes_max:
            raise _too_long("conversation")
        query = (
            select(conversation_items.c.body)
            .where(conversation_items.c.conversation_id == id)
            .order_by(conversation_items.c.position)
        )
        return [orjson.loads(row["body"]) for row in await self._database.fetch_all(query)]

    async def _position(self, id: str, item_id: str) -> int:
        row = await self._database.fetch_one(select(conversation_items.c.position).where(_is_item(id, item_id)))
        if row is None:
            raise RequestError("`after` names no item of this list.", code="invalid_value", param="after")
        return int(row["position"])


def append_items(transactions: Transactions, id: str, items: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Write `items` behind the others of a conversation that is there, inside the open transaction; as they were kept.

    An id that is taken in this conversation, or fit for no path, gives way to a new one.
    """
    if not items:
        return items
    transactions.lock(f"conversation:{id}")
    query = select(func.coalesce(func.max(conversation_items.c.position), 0).label("last")).where(
        conversation_items.c.conversation_id == id
    )
    (found,) = transactions.rows(query)
    taken = _taken(transactions, id, [str(item["id"]) for item in items])
    kept = []
    for item in items:
        item_id = str(item["id"])
        if item_id in taken or not is_id(item_id):
            kind = item_id.partition("_")[0]
            item_id = new_id(kind if _ID_KIND.fullmatch(kind) else "item")
            item = {**item, "id": item_id}
        taken.add(item_id)
        kept.append(item)
    first = found["last"] + 1
    rows = [(id, first + offset, item["id"], _text(item)) for offset, item in enumerate(kept)]
    transactions.insert(_INSERT_ITEMS, rows)
    return kept


def is_erased(transactions: Transactions, creator: str) -> bool:
    """Whether the creator has been deleted: nothing of it may be kept any more. If not, it stays until the open transaction
    has ended: what that writes is there when everything of the creator is erased."""
    query = select(creators.c.deleted_at).where(creators.c.id == creator).with_for_update(read=True)
    return any(row["deleted_at"] is not None for row in transactions.rows(query))


def _taken(transactions: Transactions, id: str, ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(ids), _IDS_AT_ONCE):
        query = select(conversation_items.c.id).where(
            conversation_items.c.conversation_id == id, conversation_items.c.id.in_(ids[start : start + _IDS_AT_ONCE])
        )
        found.update(row["id"] for row in transactions.rows(query))
    return found


def _exists(transactions: Transactions, account: Account, id: str) -> bool:
    return bool(transactions.rows(select(conversations.c.id).where(_is_theirs(account, id))))


def _count_of(transactions: Transactions, account: Account) -> int:
    query = select(func.count().label("count")).where(conversations.c.creator == account.creator)
    (row,) = transactions.rows(query.select_from(conversations))
    return int(row["count"])


def _size_of(id: str) -> Select[Any]:
    columns: list[ColumnElement[Any]] = [
        func.count().label("items"),
        func.coalesce(func.sum(bytes_of(conversation_items.c.body)), 0).label("bytes"),
    ]
    return select(*columns).where(conversation_items.c.conversation_id == id)


def _bytes_of(items: Sequence[dict[str, Any]]) -> int:
    return sum(len(orjson.dumps(item)) for item in items)


def _is_theirs(account: Account, id: str) -> Any:
    return and_(
        conversations.c.id == id,
        conversations.c.creator == account.creator,
        conversations.c.account_id == account.account_id,
    )


def _is_item(id: str, item_id: str) -> Any:
    return and_(conversation_items.c.conversation_id == id, conversation_items.c.id == item_id)


def _conversation(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "object": "conversation",
        "created_at": row["created_at"] // 1000,
        "metadata": orjson.loads(row["metadata"]),
    }


def _text(value: object) -> str:
    return orjson.dumps(value).decode()


def _too_long(what: str) -> RequestError:
    return RequestError(
        f"The {what} is too long to be continued; begin another one with what still matters.",
        code="context_length_exceeded",
        param=what,
    )


def _no_conversation(id: str) -> NotFound:
    return NotFound(f"Conversation with id '{id}' not found.", code="conversation_not_found")


def _no_item(item_id: str) -> NotFound:
    return NotFound(f"Item with id '{item_id}' not found.", code="item_not_found")
