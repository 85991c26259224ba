"""What admins did: rows that are written before and after, and never changed.

A request has one row of the phase `asked` before anything is done, and one of the phase `done` with the status of its
answer. Where the second is missing the process died in between, and what was asked for may or may not have been done.
What is not carried out at all has only the second. Names people gave, notes, metadata and keys never get in.
"""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import orjson
from sqlalchemy import ColumnElement, Select, and_, case, func, insert, null, or_, select

from gateway.errors import StoreError
from gateway.ledger.database import Conflict, Database
from gateway.ledger.ids import EntryIds, id_floor
from gateway.ledger.postings import rows_of
from gateway.ledger.schema import audit_log
from gateway.ledger.statements import Row
from gateway.ledger.transactions import Transactions
from gateway.roles import Admin

__all__ = ["AuditFilter", "AuditLog", "Phase", "audit_newest_first", "audit_page"]

Phase = Literal["asked", "done"]

_DETAILS_BYTES_MAX = 4_096
_TEXT_CHARS_MAX = 512
_LOCK = "audit"
_PIECE_ROWS = 500
_LAST_ID = select(func.max(audit_log.c.id).label("id"))


class AuditLog:
    """Writes the table `audit_log`. Lifetime: the process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(
        self,
        *,
        request_id: str,
        admin: Admin,
        action: str,
        target: str,
        details: Mapping[str, Any],
        address: str,
        phase: Phase = "done",
        status: int,
    ) -> None:
        """One row, durably, and also if the caller is cancelled meanwhile. Raises `StoreError`.

        `request_id` is one that the gateway made, for it joins the two rows of a request; `action` is a method and a route,
        `target` what it is done to, such as `id=acme`, and in the second row also what it made; `details` is what may be kept of what was sent, which
        above 4 kB of JSON is left out. `status` is that of the answer, 0 where there is none yet.
        """
        row = {
            "request_id": request_id,
            "phase": phase,
            "admin_key_id": admin.key_id,
            "admin_name": admin.name,
            "role": admin.role,
            "action": action[:_TEXT_CHARS_MAX],
            "target": target[:_TEXT_CHARS_MAX],
            "details": _details_text(details),
            "address": address,
            "status": status,
        }
        ledger = self._database.ledger
        try:
            await ledger.to_its_end(ledger.run(partial(_insert, row=row), is_patient=True), "record_audit")
        except Conflict as exc:
            raise StoreError("The audit log cannot be written.") from exc


class AuditFilter(NamedTuple):
    """What of the log is asked for; None asks for all."""

    from_ms: int | None = None
    """Milliseconds since 1970, inclusive."""
    to_ms: int | None = None
    """Exclusive."""
    admin: str | None = None
    """The public id of an admin key, or `settings` or `local`."""
    action: str | None = None
    """All of it, or a part such as `DELETE ` or `/admin/keys`."""
    target: str | None = None
    """All of it, or what stands behind one of its equals signs."""


async def audit_page(database: Database, wanted: AuditFilter, *, limit: int, before: str | None = None) -> list[Row]:
    """Up to `limit` requests whose first row came before the one with the id `before`, the newest first.

    Each is its first row, with `status` None where there was no answer.
    """
    return await database.fetch_all(_query(wanted, before).limit(limit))


async def audit_newest_first(database: Database, wanted: AuditFilter) -> AsyncIterator[list[Row]]:
    """All that fits and was there at the beginning, in lists that are never empty. Page by page: nothing in the store
    waits for whoever reads slowly."""
    before: str | None = None
    while rows := await audit_page(database, wanted, limit=_PIECE_ROWS, before=before):
        yield rows
        before = rows[-1]["id"]


def _insert(transactions: Transactions, row: Mapping[str, Any]) -> None:
    # One after the other, whichever process it is in: so ids grow, and a page that was read stays as it was.
    transactions.lock(_LOCK)
    last: str | None = rows_of(transactions, _LAST_ID)[0]["id"]
    audit_id, created_at = EntryIds(last).next(transactions.now_ms())
    rows_of(transactions, insert(audit_log).values(id=audit_id, created_at=created_at, **row))


def _query(wanted: AuditFilter, before: str | None) -> Select[Any]:
    first, done, asked = audit_log.c, audit_log.alias("done"), audit_log.alias("asked")
    is_answered = and_(done.c.request_id == first.request_id, done.c.phase == "done")
    was_asked = select(asked.c.id).where(asked.c.request_id == first.request_id, asked.c.phase == "asked").exists()
    status = case((first.phase == "done", first.status), (done.c.id.is_not(None), done.c.status), else_=null())
    # What a request made is known when it was done, and no sooner.
    target = func.coalesce(done.c.target, first.target)
    columns = [column for column in first if column.name not in {"phase", "target", "status"}]
    query = select(*columns, target.label("target"), status.label("status")).select_from(
        audit_log.outerjoin(done, is_answered)
    )
    query = query.where(*_conditions(wanted), or_(first.phase == "asked", ~was_asked))
    if before is not None:
        query = query.where(first.id < before)
    return query.order_by(first.id.desc())


def _conditions(wanted: AuditFilter) -> list[ColumnElement[bool]]:
    first, found = audit_log.c, []
    if wanted.from_ms is not None:
        found.append(first.id >= id_floor(wanted.from_ms))
    if wanted.to_ms is not None:
        found.append(first.id < id_floor(wanted.to_ms))
    if wanted.admin is not None:
        found.append(first.admin_key_id == wanted.admin)
    if wanted.action:
        found.append(_has(first.action, wanted.action))
    if wanted.target is not None:
        found.append(first.request_id.in_(_requests_about(wanted.target)))
    return found


def _requests_about(target: str) -> Select[Any]:
    """Ids of requests, out of an index that has nothing else in it: a tenth of the log is read."""
    either = audit_log.alias("either").c
    # The first of both says no to nearly all rows, and takes a tenth of the time of the second.
    named = and_(_has(either.target, f"={target}"), _has("," + either.target + ",", f"={target},"))
    return select(either.request_id).where(or_(either.target == target, named))


def _has(text: ColumnElement[str], part: str) -> ColumnElement[bool]:
    """Upper and lower case are different, on every store; LIKE would have it so on some only."""
    return func.replace(text, part, "") != text


def _details_text(details: Mapping[str, Any]) -> str:
    text = orjson.dumps(details)
    return (text if len(text) <= _DETAILS_BYTES_MAX else orjson.dumps({"omitted_bytes": len(text)})).decode()
