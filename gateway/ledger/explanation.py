"""One call explained from what the ledger kept: how it was decided, at which prices it was booked, what corrected it since."""

from typing import Any

from sqlalchemy import select

from gateway.decision import decision_json
from gateway.ledger.creator_queries import corrections_of, price_of_version
from gateway.ledger.database import Database
from gateway.ledger.entry_json import entry_json, explained_json
from gateway.ledger.periods import rfc3339
from gateway.ledger.queries import entries_of_request
from gateway.ledger.schema import holds
from gateway.ledger.statements import Row
from gateway.pricing import price_shown, usd
from gateway.usage import Usage

__all__ = ["explain_request"]


async def explain_request(database: Database, request_id: str) -> dict[str, Any] | None:
    """Every attempt with its decision, price row and corrections, and the hold of a call that is still open.

    None for a request the ledger knows nothing of.
    """
    rows = await entries_of_request(database, request_id)
    hold = await database.fetch_one(select(holds).where(holds.c.id == request_id))
    if not rows and hold is None:
        return None
    return {
        "data": [await _explained(database, row) for row in rows],
        "open_hold": None if hold is None else _hold_json(hold),
    }


async def _explained(database: Database, row: Row) -> dict[str, Any]:
    return {
        **explained_json(row),
        "price": await _price_shown(database, row, row["price_version"]),
        "charge_price": await _price_shown(database, row, row["charge_price_version"]),
        "corrections": [entry_json(correction) for correction in await corrections_of(database, row["id"])],
    }


async def _price_shown(database: Database, row: Row, version: str) -> dict[str, str | int] | None:
    """The rates that held, as they stood: US dollars per million tokens or per image; None where none were kept."""
    price = await price_of_version(database, row["served_model"], version) if version else None
    if price is None:
        return None
    input_tokens = Usage(*(row[name] for name in Usage._fields)).input_tokens
    return price_shown(price, row["variant"], input_tokens)


def _hold_json(row: Row) -> dict[str, Any]:
    return {
        "creator": row["creator"],
        "key_id": row["key_id"],
        "requested_model": row["requested_model"],
        "served_model": row["served_model"],
        "provider": row["provider"],
        "payer": row["payer"],
        "amount_nano_usd": row["amount_nano_usd"],
        "amount_usd": usd(row["amount_nano_usd"]),
        "downgrade_reason": row["downgrade_reason"],
        "decision": decision_json(row["decision"]),
        "admitted_at": rfc3339(row["admitted_at"]),
    }
