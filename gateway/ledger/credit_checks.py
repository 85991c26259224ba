"""What must hold between entries: grants and their rows, what was given back of an entry, balances, what was asked once.

Part of `verify`. Each check yields (table, key, column, stored, expected) where something does not fit; all of them read
partial indexes or small tables, not the entries from end to end.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import Integer, and_, case, cast, func, or_, select

from gateway.ledger.schema import IS_CREDITS_ENTRY, credit_grants, entries, postings
from gateway.ledger.statements import Rows

__all__ = ["Finding", "findings"]

Finding = tuple[str, str, str, Any, Any]


def findings(rows: Rows) -> Iterator[Finding]:
    """Everything that does not fit."""
    yield from _grants(rows)
    yield from _expiries(rows)
    yield from _refunds(rows)
    yield from _balances(rows)
    yield from _postings(rows)


def _grants(rows: Rows) -> Iterator[Finding]:
    """A row of `credit_grants` for each entry that grants credits, and they say the same."""
    grant = entries.c.kind == "grant"
    columns = ("creator", "payer", "credits")
    query = select(
        credit_grants.c.entry_id, *(credit_grants.c[name] for name in columns), *_granted(), entries.c.kind
    ).join_from(credit_grants, entries, entries.c.id == credit_grants.c.entry_id, isouter=True)
    for entry_id, *values in rows(query):
        *both, kind = values
        stored, expected = both[: len(columns)], both[len(columns) :]
        if kind != "grant":
            yield "credit_grants", entry_id, "entry_id", entry_id, "an entry of kind grant"
            continue
        for name, found, wanted in zip(columns, stored, expected, strict=True):
            if found != wanted:
                yield "credit_grants", entry_id, name, found, wanted
    without_row = (
        select(entries.c.id, -entries.c.payer_amount)
        .join_from(entries, credit_grants, credit_grants.c.entry_id == entries.c.id, isouter=True)
        .where(grant, IS_CREDITS_ENTRY, credit_grants.c.entry_id.is_(None))
    )
    for entry_id, credits_given in rows(without_row):
        yield "credit_grants", entry_id, "credits", None, credits_given


def _granted() -> tuple[Any, ...]:
    return entries.c.creator, entries.c.payer, -entries.c.payer_amount


def _expiries(rows: Rows) -> Iterator[Finding]:
    """The expiry a grant names is there, and about this grant. An empty name says that nothing was left."""
    query = (
        select(credit_grants.c.entry_id, credit_grants.c.expired_entry_id)
        .join_from(credit_grants, entries, entries.c.id == credit_grants.c.expired_entry_id, isouter=True)
        .where(
            credit_grants.c.expired_entry_id != "",
            or_(
                entries.c.id.is_(None),
                entries.c.kind != "expiry",
                entries.c.corrects.is_distinct_from(credit_grants.c.entry_id),
                entries.c.creator != credit_grants.c.creator,
                entries.c.payer != credit_grants.c.payer,
            ),
        )
    )
    for entry_id, expired_entry_id in rows(query):
        yield "credit_grants", entry_id, "expired_entry_id", expired_entry_id, "the expiry of this grant"


class _GivenBack(NamedTuple):
    """All refunds of one entry, and that entry; None where there is no such entry."""

    corrects: str
    charge: int
    units: int
    charge_max: int
    units_max: int
    payer_first: str
    payer_last: str
    creator_first: str
    creator_last: str
    kind: str | None
    charge_taken: int
    units_taken: int
    payer: str
    creator: str


def _refunds(rows: Rows) -> Iterator[Finding]:
    """What was given back of an entry is no more than it took, in money and in units, and from the same payer."""
    refund, corrected = entries.alias("refund"), entries.alias("corrected")
    given = (
        select(
            refund.c.corrects,
            func.sum(refund.c.charge_nano_usd).label("charge"),
            func.sum(refund.c.payer_amount).label("units"),
            func.max(refund.c.charge_nano_usd).label("charge_max"),
            func.max(refund.c.payer_amount).label("units_max"),
            *(
                bound(refund.c[name]).label(f"{name}_{which}")
                for name in ("payer", "creator")
                for which, bound in (("first", func.min), ("last", func.max))
            ),
        )
        .where(refund.c.corrects.is_not(None), refund.c.kind == "refund")
        .group_by(refund.c.corrects)
        .subquery()
    )
    taken = [corrected.c[name] for name in ("kind", "charge_nano_usd", "payer_amount", "payer", "creator")]
    query = select(given, *taken).join_from(given, corrected, corrected.c.id == given.c.corrects, isouter=True)
    for row in rows(query):
        yield from _too_much(_GivenBack._make(row))


def _too_much(given: _GivenBack) -> Iterator[Finding]:
    if given.kind != "usage":
        yield "entries", given.corrects, "refunded", given.kind, "only calls are"
        return
    if given.charge_max > 0 or -given.charge > given.charge_taken:
        yield "entries", given.corrects, "charge_nano_usd refunded", -given.charge, f"0 to {given.charge_taken}"
    if given.units_max > 0 or -given.units > given.units_taken:
        yield "entries", given.corrects, "payer_amount refunded", -given.units, f"0 to {given.units_taken}"
    for payer in dict.fromkeys((given.payer_first, given.payer_last)):
        if payer != given.payer:
            yield "entries", given.corrects, "payer refunded", payer, given.payer
    for creator in dict.fromkeys((given.creator_first, given.creator_last)):
        if creator != given.creator:
            yield "entries", given.corrects, "creator refunded", creator, given.creator


def _balances(rows: Rows) -> Iterator[Finding]:
    """No more credits are gone than were granted, but for what adjustments took, and calls that cost more than was held."""
    taken_back = and_(entries.c.kind == "adjustment", entries.c.payer_amount > 0)
    query = (
        select(
            entries.c.creator,
            entries.c.payer,
            func.sum(entries.c.payer_amount),
            func.sum(case((taken_back, entries.c.payer_amount), else_=0)),
            func.max(cast(entries.c.flags.contains("over_hold"), Integer)),
        )
        .where(IS_CREDITS_ENTRY)
        .group_by(entries.c.creator, entries.c.payer)
    )
    for creator, payer, owed, adjusted, is_over_hold in rows(query):
        if owed > adjusted and not is_over_hold:
            yield "entries", f"{creator} {payer}", "balance", -owed, "0 or more"


def _postings(rows: Rows) -> Iterator[Finding]:
    """What was posted once stands in the ledger."""
    query = (
        select(postings.c.creator, postings.c.idempotency_key, postings.c.entry_id)
        .join_from(postings, entries, entries.c.id == postings.c.entry_id, isouter=True)
        .where(or_(entries.c.id.is_(None), entries.c.creator != postings.c.creator))
    )
    for creator, key, entry_id in rows(query):
        yield "postings", f"{creator} {key}", "entry_id", entry_id, "an entry of this creator"
