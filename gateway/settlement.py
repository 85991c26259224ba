"""What an ended call takes from whom: cost, charge and the payer's units, and the figures the counters are corrected by.

Cost is what the provider costs at the catalog's price, whoever pays. A charge in money is owed only where the quota pays;
credits and free images are taken for what was delivered, and only when the call succeeded. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gateway.admission import Admitted
from gateway.metering import Ending
from gateway.pricing import UnpricedUsage, cost_nano_usd

_SUCCEEDED = frozenset({"ok", "client_gone"})


class Settlement(NamedTuple):
    cost_nano_usd: int
    charge_nano_usd: int
    payer_amount: int
    flags: tuple[str, ...]
    actuals: Mapping[str, int]
    """By unit, for the counters."""
    input_tokens: int
    """OpenAI's inclusive totals."""
    output_tokens: int


def settle(admitted: Admitted, ending: Ending, *, has_begun: bool = True) -> Settlement:
    """The call's amounts, in nano-dollars and the payer's unit. `has_begun`: something of the answer was there to be sent."""
    hold, metered = admitted.hold, ending.metered
    usage = metered.usage
    cost, flags = metered.cost_nano_usd, metered.flags
    if cost > hold.amount_nano_usd:
        flags = (*flags, "over_hold")
    input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
    tokens = input_tokens + output_tokens
    if hold.route.payer == "quota":
        charge = cost if admitted.charge_price is admitted.model.price else _charge(admitted, ending)
        actuals = {"nano_usd": charge, "cost_nano_usd": cost, "token": tokens}
        return Settlement(cost, charge, charge, flags, actuals, input_tokens, output_tokens)
    units = _units(admitted, ending) if has_begun else 0
    actuals = {hold.route.payer_unit: units, "nano_usd": 0, "cost_nano_usd": cost, "token": tokens}
    return Settlement(cost, 0, units, flags, actuals, input_tokens, output_tokens)


def total_actuals(settlements: Sequence[Settlement]) -> Mapping[str, int]:
    """What all attempts of a call took together, by unit."""
    total: dict[str, int] = {}
    for settlement in settlements:
        for unit, amount in settlement.actuals.items():
            total[unit] = total.get(unit, 0) + amount
    return total


def _charge(admitted: Admitted, ending: Ending) -> int:
    """By the creator's own price. A kind of token it has no rate for is owed at cost: never free."""
    metered = ending.metered
    if not metered.cost_nano_usd and not any(metered.usage):
        return 0
    try:
        return cost_nano_usd(metered.usage, admitted.charge_price, metered.variant)
    except UnpricedUsage:
        return metered.cost_nano_usd


def _units(admitted: Admitted, ending: Ending) -> int:
    """Images or credits for what was delivered; nothing for a call that failed."""
    if ending.outcome not in _SUCCEEDED:
        return 0
    if admitted.request.images:
        # More than was asked for is the provider's doing: it costs, but nobody's credits pay for it.
        delivered = min(ending.metered.images, admitted.request.images)
    else:
        delivered = int(any(ending.metered.usage))
    if admitted.hold.route.payer_unit == "image":
        return delivered
    return delivered * (admitted.credits_each or 0)
