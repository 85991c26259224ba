"""What of a call can be given back: which attempt, and how much of it. Asked inside the transaction that posts the refund,
under the lock of its creator's credits, so that two refunds at once see each other."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select

from gateway.credit_amounts import refusal
from gateway.errors import NotFound, RequestError
from gateway.ledger.postings import rows_of
from gateway.ledger.schema import entries, virtual_keys
from gateway.ledger.statements import Row
from gateway.ledger.transactions import Transactions
from gateway.pricing import usd

__all__ = ["Asked", "amount_refunded", "calls_of", "limits_id_of", "refundable"]


class Asked(NamedTuple):
    """The amount a refund names; neither: all there is left."""

    nano_usd: int | None
    credits: int | None


def calls_of(transactions: Transactions, request_id: str) -> Sequence[Row]:
    """Every attempt of one call, in their order; at least one. Raises `NotFound`."""
    query = select(entries).where(entries.c.request_id == request_id).order_by(entries.c.attempt)
    rows = rows_of(transactions, query)
    if not rows:
        raise NotFound("The ledger has no entry for this request id.")
    return rows


def refundable(calls: Sequence[Row], attempt: int | None) -> Row:
    """The one attempt that took something, or the one that was named. Raises `RequestError`."""
    if calls[0]["kind"] != "usage":
        raise refusal("request_id", "names no call: only what a call took can be given back", code="not_refundable")
    named = [call for call in calls if attempt in (None, call["attempt"])]
    if not named:
        raise refusal("attempt", "names no attempt of this call")
    charged = [call for call in named if call["payer"] != "free_images" and _taken_by(call) > 0]
    if not charged:
        raise RequestError(
            "There is nothing to give back: the call took neither money nor credits.", code="not_refundable"
        )
    if len(charged) > 1:
        attempts = ", ".join(str(call["attempt"]) for call in charged)
        raise refusal("attempt", f"is needed, for several were charged: {attempts}")
    return charged[0]


def amount_refunded(transactions: Transactions, call: Row, asked: Asked) -> int:
    """Nano-dollars or credits, never more than what earlier refunds have left of the call. Raises `RequestError`."""
    by_quota = call["payer"] == "quota"
    if asked.credits is not None and by_quota:
        raise refusal("credits", "is not what this call was paid in: send `amount_usd`")
    if asked.nano_usd is not None and not by_quota:
        raise refusal("amount_usd", "is not what this call was paid in: send `credits`")
    left = _taken_by(call) - _given_back(transactions, call)
    named = asked.nano_usd if by_quota else asked.credits
    amount = left if named is None else named
    if amount > left or left == 0:
        shown = f"{usd(left)} USD" if by_quota else f"{left} {call['payer']}"
        raise RequestError(
            f"Of what this call took, {shown} can still be given back.", status=409, code="refund_exceeds_charge"
        )
    return amount


def limits_id_of(transactions: Transactions, key_id: str) -> str:
    """The key on whose counters calls of `key_id` count (`Account.limits_id`)."""
    rows = rows_of(transactions, select(virtual_keys.c.limits_id).where(virtual_keys.c.id == key_id))
    return str((rows and rows[0]["limits_id"]) or key_id)


def _taken_by(call: Row) -> int:
    return int(call["charge_nano_usd"] if call["payer"] == "quota" else call["payer_amount"])


def _given_back(transactions: Transactions, call: Row) -> int:
    """By refunds, and by the correction of what was booked for it while it was taken for dead."""
    query = select(func.coalesce(func.sum(-entries.c.payer_amount), 0).label("units")).where(
        entries.c.corrects == call["id"], entries.c.kind.in_(("refund", "adjustment")), entries.c.payer_amount < 0
    )
    return int(rows_of(transactions, query)[0]["units"])
