"""One call explained from what the ledger kept: how it was decided, at which prices it was booked, what corrected it since."""

from typing import Any

import orjson
from sqlalchemy import select

from gateway.decision import decision_json
from gateway.ledger.creator_queries import corrections_of, price_of_version
from gateway.ledger.database import Database
from gateway.ledger.entry_json import entry_json, explained_json
from gateway.ledger.periods import rfc3339
from gateway.ledger.queries import entries_of_request
from gateway.ledger.schema import holds
from gateway.ledger.statements import Row
from gateway.pricing import price_to_json, usd

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
    model = row["served_model"]
    return {
        **explained_json(row),
        "price": await _price_shown(database, model, row["price_version"]),
        "charge_price": await _price_shown(database, model, row["charge_price_version"]),
        "corrections": [entry_json(correction) for correction in await corrections_of(database, row["id"])],
    }


async def _price_shown(database: Database, model: str, version: str) -> Any:
    """The row as it stood: pico-dollars (1e-12 USD) a token or image; None where none was kept."""
    price = await price_of_version(database, model, version) if version else None
    return None if price is None else orjson.loads(price_to_json(price))


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
