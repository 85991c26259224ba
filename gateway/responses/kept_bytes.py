"""How much the gateway keeps for each creator: responses and conversations together, in bytes of JSON.

What a call leaves behind was paid for, so there the oldest responses make room. Conversations cost nothing to write: one
that would pass the bound is refused. The figure is read once for a creator and kept up to date from then on.
"""

from collections import OrderedDict

from sqlalchemy import delete, func, select

from gateway.errors import RequestError
from gateway.ledger.database import Database
from gateway.ledger.functions import bytes_of
from gateway.ledger.schema import conversation_items, conversations, responses

__all__ = ["CREATOR_BYTES_MAX", "KeptBytes"]

CREATOR_BYTES_MAX = 2**30
_CREATORS_KNOWN = 10_000
_REMOVED_AT_ONCE = 100


_RESPONSE_BYTES = bytes_of(responses.c.body) + bytes_of(responses.c.input)


class KeptBytes:
    """Lifetime: the process, which is the only one that writes."""

    def __init__(self, database: Database, *, creator_bytes_max: int = CREATOR_BYTES_MAX) -> None:
        self._database = database
        self._most = creator_bytes_max
        self._known: OrderedDict[str, int] = OrderedDict()

    async def require_room(self, creator: str, size_bytes: int) -> None:
        """Raises `RequestError` 400 where so much more would be too much."""
        if await self._of(creator) + size_bytes > self._most:
            raise RequestError(
                "Too much is kept for you: delete conversations or responses before you add to them.",
                code="too_much_kept",
            )

    async def added(self, creator: str, size_bytes: int) -> None:
        """Something was written that has been paid for; the oldest responses go if it was too much."""
        self.changed(creator, size_bytes)
        kept = await self._of(creator)  # read for the first time it has these in it already
        while kept > self._most and (freed := await self._remove_oldest(creator, kept - self._most)):
            self.changed(creator, -freed)
            kept -= freed

    def changed(self, creator: str, size_bytes: int) -> None:
        """So much more is kept, or less where it is negative."""
        if creator in self._known:
            self._known[creator] = max(0, self._known[creator] + size_bytes)

    def forget(self, creator: str) -> None:
        self._known.pop(creator, None)

    async def _of(self, creator: str) -> int:
        if (known := self._known.get(creator)) is not None:
            self._known.move_to_end(creator)
            return known
        of_responses = select(func.coalesce(func.sum(_RESPONSE_BYTES), 0).label("bytes"))
        of_items = select(func.coalesce(func.sum(bytes_of(conversation_items.c.body)), 0).label("bytes")).join(
            conversations, conversations.c.id == conversation_items.c.conversation_id
        )
        total = 0
        for query in (
            of_responses.where(responses.c.creator == creator),
            of_items.where(conversations.c.creator == creator),
        ):
            row = await self._database.fetch_one(query)
            total += int(row["bytes"]) if row is not None else 0
        self._known[creator] = total
        while len(self._known) > _CREATORS_KNOWN:
            self._known.popitem(last=False)
        return total

    async def _remove_oldest(self, creator: str, size_bytes: int) -> int:
        """Remove the oldest responses, of at least so many bytes where there are so many. Returns of how many bytes."""
        oldest = (
            select(responses.c.id, _RESPONSE_BYTES.label("bytes"))
            .where(responses.c.creator == creator)
            .order_by(responses.c.created_at, responses.c.id)
            .limit(_REMOVED_AT_ONCE)
        )
        going, freed = [], 0
        for row in await self._database.fetch_all(oldest):
            if freed >= size_bytes:
                break
            going.append(row["id"])
            freed += int(row["bytes"])
        if going:
            await self._database.write(delete(responses).where(responses.c.id.in_(going)))
        return freed
