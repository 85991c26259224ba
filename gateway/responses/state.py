"""What the gateway keeps of responses, so that a later call may ask for one, continue it, or refer to its items.

A response is kept by its provider (native), or by the gateway (bridged over chat). Of the former the row holds whose it is,
how many tokens its context has, and the ids of its output items; of the latter the response itself and the items it was
asked with. Only the items of its own call: what came before is found along `previous_id`.

Everything is asked for by creator and account. Instants are milliseconds since 1970, sizes bytes of JSON.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
import structlog
from sqlalchemy import Select, and_, case, cast, delete, func, literal, select, true

from gateway.errors import NotFound, RequestError, StoreError
from gateway.ledger.database import Database
from gateway.ledger.functions import bytes_of, json_items, json_text
from gateway.ledger.schema import BigInt, conversations, responses
from gateway.ledger.statements import Row, upsert
from gateway.ledger.transactions import Transactions
from gateway.responses.conversations import Conversations, append_items, is_erased
from gateway.responses.kept_bytes import CREATOR_BYTES_MAX, KeptBytes
from policies.types import Account

__all__ = ["NOTHING_BEFORE", "Before", "KeptResponse", "Referred", "ResponseStore"]

_log = structlog.get_logger()

CONTEXT_BYTES_MAX = 32 * 2**20
"""What earlier items may take in memory when a call continues them: as much as its own body may."""
_CHAIN_MAX = 1_000
"""Responses that continue one another."""
_SEARCHED_MAX = 500
"""Responses of a creator, the newest first, in which an item referred to is looked for."""
_FOUND_MAX = 2_000
"""Items found, where ids are not unique: the latest of each counts."""


class KeptResponse(NamedTuple):
    """A response to be kept."""

    id: str
    model: str
    provider: str
    """That keeps it; empty where the gateway does."""
    status: str
    previous_id: str
    conversation_id: str
    context_tokens: int
    """Input and output together: what a follow-up begins with."""
    body: Mapping[str, Any]
    """The response; where the provider keeps it only `{"output": [{"id": ...}], "reasoning_tokens": ...}`."""
    input: Sequence[Mapping[str, Any]] = ()
    """The items of its own call; none where the provider keeps them."""


class Before(NamedTuple):
    """What a call continues: items that the gateway has, or a response that a provider keeps."""

    items: Sequence[dict[str, Any]] = ()
    provider: str = ""
    """That keeps the context; empty: all of it is in `items`."""
    context_tokens: int = 0
    """Of what the provider keeps."""


NOTHING_BEFORE = Before()


class Referred(NamedTuple):
    """An earlier output item that a call names by its id."""

    item: dict[str, Any] | None
    """None where the provider keeps it."""
    provider: str
    response_id: str
    context_tokens: int
    reasoning_tokens: int = 0
    """Of the whole response; 0 where the gateway keeps it."""


class ResponseStore:
    """Lifetime: the process. `conversations` are its other half."""

    def __init__(
        self,
        database: Database,
        *,
        context_bytes_max: int = CONTEXT_BYTES_MAX,
        creator_bytes_max: int = CREATOR_BYTES_MAX,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`creator_bytes_max`: what is kept of a creator's responses and conversations together."""
        self._database = database
        self._context_bytes_max = context_bytes_max
        self._wall_clock = wall_clock
        self._kept = KeptBytes(database, creator_bytes_max=creator_bytes_max)
        self.conversations = Conversations(
            database, self._kept, context_bytes_max=context_bytes_max, wall_clock=wall_clock
        )

    async def response(self, account: Account, id: str) -> Row:
        """The row of `responses`. Raises `NotFound` for an unknown id and for somebody else's alike."""
        row = await self._database.fetch_one(select(responses).where(_is_theirs(account, id)))
        if row is None:
            raise _no_response(id)
        return row

    async def delete(self, account: Account, id: str) -> None:
        """Raises `NotFound`. A response that continued it cannot be continued any more."""
        size = (bytes_of(responses.c.body) + bytes_of(responses.c.input)).label("bytes")
        (rows,) = await self._database.write(delete(responses).where(_is_theirs(account, id)).returning(size))
        if not rows:
            raise _no_response(id)
        self._kept.changed(account.creator, -rows[0]["bytes"])

    async def forget(self, creator: str) -> None:
        """Erase everything that is kept for a creator, for good. Doing it again changes nothing."""
        await self._database.write(
            delete(responses).where(responses.c.creator == creator),
            delete(conversations).where(conversations.c.creator == creator),  # items go with them
        )
        self._kept.forget(creator)

    # What a call continues

    async def before(self, account: Account, previous_id: str) -> Before:
        """What the call that names `previous_id` continues.

        Raises `RequestError` 400, in OpenAI's words, where it or a response it continues is not there; where the whole is
        too long; and where what came before is a conversation, which its items here would leave out.
        """
        links = await self._database.fetch_all(_chain(account, previous_id))
        if not links:
            raise _no_previous(previous_id)
        if links[0]["provider"]:
            return Before((), links[0]["provider"], links[0]["context_tokens"])
        if len(links) > _CHAIN_MAX or sum(link["bytes"] for link in links) > self._context_bytes_max:
            raise RequestError(
                "The responses before this one are too long to be continued; send what still matters as `input`.",
                code="context_length_exceeded",
                param="previous_response_id",
            )
        if missing := links[-1]["previous_id"]:
            raise _no_previous(missing)
        if any(link["conversation_id"] for link in links):
            raise RequestError(
                "This response is part of a conversation: continue it by naming that as `conversation`.",
                code="invalid_value",
                param="previous_response_id",
            )
        return Before(await self._items_of([link["id"] for link in reversed(links)]))

    async def referred(self, account: Account, ids: Sequence[str]) -> Mapping[str, Referred]:
        """Output items of the creator's latest responses by their ids; those that are not among them are missing."""
        latest = (
            select(responses.c.id)
            .where(responses.c.creator == account.creator, responses.c.account_id == account.account_id)
            .order_by(responses.c.created_at.desc())
            .limit(_SEARCHED_MAX)
        )
        # Each body is gone through once, however many items are named: whoever asks chose how large it is.
        output = json_items(responses.c.body, "output").table_valued("value", "type")
        item_id = json_text(output.c.value, "id")
        query = (
            select(
                responses.c.id,
                responses.c.provider,
                responses.c.context_tokens,
                func.coalesce(cast(json_text(responses.c.body, "reasoning_tokens"), BigInt), 0).label(
                    "reasoning_tokens"
                ),
                item_id.label("item_id"),
                case((responses.c.provider == "", output.c.value), else_="").label("item"),
            )
            .select_from(responses)
            .join(output, true())
            .where(responses.c.id.in_(latest), output.c.type == "object", item_id.in_(list(ids)))
            .order_by(responses.c.created_at)
            .limit(_FOUND_MAX)
        )
        found = await self._database.fetch_all(query)
        if sum(len(row["item"]) for row in found) > self._context_bytes_max:
            raise RequestError(
                "The items that `input` refers to are too long to be continued; send what still matters.",
                code="context_length_exceeded",
                param="input",
            )
        return {row["item_id"]: _referred(row) for row in found}

    # What a call leaves

    async def keep(
        self,
        account: Account,
        response: KeptResponse | None,
        conversation_id: str = "",
        items: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Write the response, if there is one to keep, and `items` at the end of the conversation, if that is still
        there: both or neither, durably. Nothing is kept for a creator that has been deleted meanwhile."""
        row = None if response is None else self._row(account, response)

        def task(transactions: Transactions) -> None:
            if is_erased(transactions, account.creator):
                return
            if row is not None:
                _put(transactions, row)
            if conversation_id and _has_conversation(transactions, account, conversation_id):
                append_items(transactions, conversation_id, items)

        await self._database.run(task)
        written = 0 if row is None else len(row["body"].encode()) + len(row["input"].encode())
        try:
            await self._kept.added(account.creator, written + sum(len(orjson.dumps(item)) for item in items))
        except StoreError:
            self._kept.forget(account.creator)  # what matters is written; the figure is read again

    def _row(self, account: Account, response: KeptResponse) -> Row:
        return {
            **response._asdict(),
            "account_id": account.account_id,
            "creator": account.creator,
            "created_at": int(self._wall_clock() * 1000),
            "body": orjson.dumps(response.body).decode(),
            "input": orjson.dumps(response.input).decode(),
        }

    async def _items_of(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """What was asked and answered by these responses, in their order."""
        query = select(responses.c.id, responses.c.body, responses.c.input).where(responses.c.id.in_(ids))
        rows = {row["id"]: row for row in await self._database.fetch_all(query)}
        items: list[dict[str, Any]] = []
        for each in ids:
            if each not in rows:  # deleted in between
                raise _no_previous(each)
            items += orjson.loads(rows[each]["input"])
            items += orjson.loads(rows[each]["body"]).get("output") or []
        return items


def _no_response(id: str) -> NotFound:
    return NotFound(f"Response with id '{id}' not found.", code="response_not_found")


def _chain(account: Account, id: str) -> Select[Any]:
    """The response and those it continues, the newest first, as far as the gateway keeps them itself."""
    facts = (
        responses.c.id,
        responses.c.previous_id,
        responses.c.conversation_id,
        responses.c.provider,
        responses.c.context_tokens,
        (bytes_of(responses.c.body) + bytes_of(responses.c.input)).label("bytes"),
    )
    chain = select(*facts, literal(1).label("depth")).where(_is_theirs(account, id)).cte("chain", recursive=True)
    further = select(*facts, chain.c.depth + 1).where(
        responses.c.id == chain.c.previous_id,
        responses.c.creator == account.creator,
        responses.c.account_id == account.account_id,
        responses.c.provider == "",
        chain.c.provider == "",
        chain.c.depth <= _CHAIN_MAX,
    )
    whole = chain.union_all(further)
    return select(whole).order_by(whole.c.depth)


def _is_theirs(account: Account, id: str) -> Any:
    return and_(
        responses.c.id == id,
        responses.c.creator == account.creator,
        responses.c.account_id == account.account_id,
    )


def _put(transactions: Transactions, row: Row) -> None:
    """Insert, or replace the creator's own; a provider that gives an id twice gives nobody a look at another's."""
    new = upsert(responses).values(row)
    changed = {name: new.excluded[name] for name in row if name != "id"}
    is_own = and_(responses.c.creator == row["creator"], responses.c.account_id == row["account_id"])
    statement = new.on_conflict_do_update(index_elements=["id"], set_=changed, where=is_own).returning(responses.c.id)
    if not transactions.rows(statement):
        _log.warning("response_id_taken", provider=row["provider"], response_id=row["id"])


def _has_conversation(transactions: Transactions, account: Account, id: str) -> bool:
    query = select(conversations.c.id).where(
        conversations.c.id == id,
        conversations.c.creator == account.creator,
        conversations.c.account_id == account.account_id,
    )
    return bool(transactions.rows(query))


def _referred(row: Row) -> Referred:
    item = orjson.loads(row["item"]) if row["item"] else None
    return Referred(item, row["provider"], row["id"], row["context_tokens"], row["reasoning_tokens"])


def _no_previous(id: str) -> RequestError:
    return RequestError(
        f"Previous response with id '{id}' not found.",
        code="previous_response_not_found",
        param="previous_response_id",
    )
