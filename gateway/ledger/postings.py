"""Entries that no call stands for: grants, refunds, adjustments and expiries, each posted once.

Whoever asks names a key of their own: asking again with the same content is answered with the entry that is there,
asking with other content is refused. Everything here runs inside a transaction of the writer, and what is about one creator
one after the other, whichever process it is in, so that two who ask at once post once.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Executable, Select, insert, select

from gateway.calls import new_request_id
from gateway.errors import RequestError
from gateway.ledger.records import Attribution, Entry, Kind, Route, entry_without_call
from gateway.ledger.schema import entries, postings
from gateway.ledger.statements import Row
from gateway.ledger.transactions import Transactions

__all__ = ["Booking", "Posting", "booking_entry", "digest_of", "entry_by_id", "json_text", "rows_of"]

Content = Mapping[str, Any]


class Posting(NamedTuple):
    """What was asked for, and under which key; without a key every asking is a new one."""

    key: str | None
    digest: str

    def once(self, transactions: Transactions, creator: str, post: Callable[[], str]) -> tuple[str, bool]:
        """The id of the entry that `post` made, or made before for the same key; and whether it is new.

        What `post` reads of the creator's credits and refunds stays as it is until all of this is committed. Raises
        `RequestError` 409 when the key stands for something else, and whatever `post` raises.
        """
        transactions.lock_credits(creator)
        standing = self.standing_among(rows_of(transactions, self.query(creator))) if self.key is not None else None
        if standing is not None:
            return standing, False
        entry_id = post()
        if self.key is not None:
            row = {"idempotency_key": self.key, "digest": self.digest, "entry_id": entry_id}
            created_at = transactions.now_ms()
            rows_of(transactions, insert(postings).values(creator=creator, created_at=created_at, **row))
        return entry_id, True

    def query(self, creator: str) -> Select[Any]:
        return select(postings).where(postings.c.creator == creator, postings.c.idempotency_key == self.key)

    def standing_among(self, rows: Sequence[Row]) -> str | None:
        """The id of the entry posted before, out of the rows of `query`. Raises `RequestError` 409 for other content."""
        if not rows:
            return None
        if rows[0]["digest"] != self.digest:
            raise RequestError(
                "This idempotency key was used before for something else: send the same content again, or take a new key.",
                status=409,
                code="idempotency_conflict",
                param="idempotency_key",
            )
        return str(rows[0]["entry_id"])


class Booking(NamedTuple):
    """What an entry without a call says. Amounts in nano-dollars and in units of the payer; negative gives."""

    kind: Kind
    creator: str
    account_id: str
    payer: str
    payer_amount: int
    at: datetime
    """Its period is this instant's, whatever it corrects."""
    metadata: Content = MappingProxyType({})


def booking_entry(booking: Booking, corrected: Row | None = None) -> Entry:
    """An entry that cost nobody anything. Of the call it corrects it takes key, feature, model and the like, so that sums
    by any of these come out right; never its words."""
    by_quota = booking.payer == "quota"
    of_call: Mapping[str, Any] = corrected or {}
    attribution = Attribution(
        request_id=new_request_id(),
        account_id=booking.account_id,
        creator=booking.creator,
        key_id=of_call.get("key_id", ""),
        feature=of_call.get("feature", ""),
        agent=of_call.get("agent", ""),
        tags="",
        metadata=json_text(booking.metadata) if booking.metadata else "",
        endpoint=of_call.get("endpoint", ""),
        requested_model=of_call.get("requested_model", ""),
        client_request_id="",
        admitted_at=booking.at,
    )
    route = Route(
        served_model=of_call.get("served_model", ""),
        provider=of_call.get("provider", ""),
        price_version="",
        payer=booking.payer,
        payer_unit="nano_usd" if by_quota else "credit",
    )
    return entry_without_call(
        attribution,
        route,
        booking.kind,
        charge_nano_usd=booking.payer_amount if by_quota else 0,
        payer_amount=booking.payer_amount,
    )


def json_text(content: Content) -> str:
    return orjson.dumps(dict(content)).decode()


def digest_of(operation: str, content: Content) -> str:
    """The same for the same content, in whatever order it came."""
    text = orjson.dumps({"operation": operation, **content}, option=orjson.OPT_SORT_KEYS)
    return sha256(text).hexdigest()


def entry_by_id(transactions: Transactions, entry_id: str) -> Row:
    return rows_of(transactions, select(entries).where(entries.c.id == entry_id))[0]


def rows_of(transactions: Transactions, statement: Executable) -> list[Row]:
    """Execute inside the transaction that is open; the rows, where there are any."""
    return transactions.rows(statement)
