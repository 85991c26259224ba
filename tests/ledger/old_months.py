"""A ledger of four months gone by, the first three of them closed."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from gateway.ledger.closing import close_month
from gateway.ledger.database import Database
from gateway.ledger.ids import EntryIds
from gateway.ledger.periods import ms_of
from gateway.ledger.postgres.link import connect
from gateway.ledger.postgres.partitions import make_partitions
from gateway.ledger.records import Entry, Route
from gateway.ledger.rollups import NameBook, Rollups
from gateway.ledger.rows import entry_row
from gateway.ledger.schema import USAGE_DAILY_KEY, USAGE_DAILY_SUMS, credit_grants, entries, usage_daily
from gateway.ledger.statements import many_rows, upsert_adding
from gateway.ledger.transactions import Transactions
from gateway.usage import NO_USAGE
from tests.ledger.books import MODEL, PRICE, Place, entry, rows, verify

MONTHS = ("2026-03", "2026-04", "2026-05", "2026-06")
EVERY_CALL = ["0", "1", "2", "back", "credits", "free", "late", "zeta"]
KEPT = ["back", "credits"]
JULY = datetime(2026, 7, 10, tzinfo=UTC)
NOTHING_TAKEN = {"usage": NO_USAGE, "usage_source": "none", "cost_nano_usd": 0, "charge_nano_usd": 0, "payer_amount": 0}


async def post_at(
    database: Database, at: datetime, posted: Sequence[Entry], *, corrects: str | None = None
) -> list[str]:
    """As the writer would have posted them then."""
    ids = EntryIds()

    def post(transactions: Transactions) -> list[str]:
        rollups = Rollups(NameBook(lambda day: ()))
        made = [entry_row(one, *ids.next(ms_of(at)), corrects) for one in posted]
        for row in made:
            rollups.add(row)
        transactions.insert(many_rows(entries), made)
        transactions.insert(upsert_adding(usage_daily, USAGE_DAILY_KEY, USAGE_DAILY_SUMS), rollups.rows())
        return [row[0] for row in made]

    return await database.run(post)


def paid_by(payer: str, request_id: str, at: datetime, amount: int = 3, **fields: Any) -> Entry:
    return entry(
        request_id,
        at=at,
        changes={
            "route": Route(MODEL, "openai", PRICE.version, payer, "credit"),
            "charge_nano_usd": 0,
            "payer_amount": amount,
            **fields,
        },
    )


async def make_months(path: Place) -> None:
    """Where each month has a table of its own."""
    if isinstance(path, Path):
        return
    link = await connect(path, name="test", statement_timeout_s=10)
    await make_partitions(link, list(MONTHS))
    await link.close()


async def book_months(database: Database, path: Place) -> None:
    """March to June: calls of two creators, everything that is no call, calls that end in another month than they began."""
    await make_months(path)
    for number, month in enumerate(MONTHS):
        at = datetime.fromisoformat(f"{month}-14T12:00:00+00:00")
        await post_at(
            database,
            at,
            [entry(f"{month} {n}", at=at + timedelta(days=n), feature=f"f{n}") for n in range(3)]
            + [entry(f"{month} zeta", creator="zeta", at=at), paid_by("free_images", f"{month} free", at)],
        )
        grant = paid_by("credits", f"{month} grant", at, -10, **{**NOTHING_TAKEN, "kind": "grant", "payer_amount": -10})
        (grant_id,) = await post_at(database, at, [grant])
        row = {"entry_id": grant_id, "creator": "acme", "payer": "credits", "credits": 10, "created_at": ms_of(at)}
        await database.write(insert(credit_grants).values(**row))
        (corrected, _) = await post_at(
            database, at, [entry(f"{month} back", at=at), paid_by("credits", f"{month} credits", at)]
        )
        back = entry(
            f"{month} refund",
            at=at + timedelta(days=31),
            changes={**NOTHING_TAKEN, "kind": "refund", "charge_nano_usd": -5, "payer_amount": -5},
        )
        await post_at(database, at + timedelta(days=31), [back], corrects=corrected)
        last = datetime.fromisoformat(f"{MONTHS[number]}-30T23:59:59+00:00")
        await post_at(database, last + timedelta(days=2), [entry(f"{month} late", at=last)])
    for month in MONTHS[:3]:
        await close_month(database, month)
    assert verify(path).differences == []


def calls_left(path: Place) -> list[tuple[str, str]]:
    return [
        (month, request_id.removeprefix(f"{month} "))
        for month, request_id in rows(
            path, "SELECT period_month, request_id FROM entries WHERE kind = 'usage' ORDER BY period_month, request_id"
        )
    ]
