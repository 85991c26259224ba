"""An entry of the ledger that is no call, in words: what was granted, given back, mended or has expired. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.dashboard.figures import number, usd_text

__all__ = ["BOOKINGS", "Booking", "booked_amount", "booking_title"]


class Booking(NamedTuple):
    """How a kind of entry is told."""

    name: str
    words: str
    amount_label: str
    all_words: str
    """Of the link to all of them."""
    is_given: bool
    """Whether the creator has more afterwards when the payer's amount is below zero, and that is what is told."""


BOOKINGS: Mapping[str, Booking] = {
    "grant": Booking("Grant", "An admin gave the creator credits.", "Granted", "All grants of this creator", True),
    "refund": Booking(
        "Refund", "An admin gave back what a call had taken.", "Given back", "All refunds of this creator", True
    ),
    "adjustment": Booking(
        "Adjustment",
        "An admin mended what was charged; below zero the creator owes less, or has fewer credits.",
        "Amount",
        "All adjustments of this creator",
        False,
    ),
    "expiry": Booking(
        "Expiry", "Credits that nobody spent in time ended.", "Ended", "All expiries of this creator", False
    ),
}
"""By the entry's kind."""


def booking_title(entry: Mapping[str, Any], *, sees_money: bool) -> str:
    """`Grant of 5 credits`; without the amount for whoever must not see it."""
    title = BOOKINGS[entry["kind"]].name
    return f"{title} of {booked_amount(entry)}" if sees_money else title


def booked_amount(entry: Mapping[str, Any]) -> str:
    """In the payer's own unit."""
    amount: int = entry["payer_amount"]
    # Of credits an adjustment says how many there are more, which is what the payer had to give less.
    is_turned = BOOKINGS[entry["kind"]].is_given or (entry["kind"] == "adjustment" and entry["payer_unit"] == "credit")
    shown = -amount if is_turned else amount
    unit = entry["payer_unit"]
    if unit.endswith("nano_usd"):
        return usd_text(shown)
    return f"{number(shown)} {unit}{'' if abs(shown) == 1 else 's'}"
