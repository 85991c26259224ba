"""What a call consumed and what it costs, by the provider's report or by the written rule. Pure.

The rule for a call nobody reports on: output = max(non-empty delta events, ceil(UTF-8 bytes of what was said / 4)),
input = ceil(UTF-8 bytes of the text parts / 4) if the request was fully sent. Nothing sent, or refused by the provider:
nothing. A report that cannot be true (negative, not a number, above the model's caps) is no report.
"""

from typing import NamedTuple

from gateway.catalog import Price
from gateway.errors import GatewayError
from gateway.ledger.records import Outcome, UsageSource
from gateway.pricing import UnpricedUsage, cost_nano_usd
from gateway.usage import NO_USAGE, Usage


class Metered(NamedTuple):
    usage: Usage
    source: UsageSource
    cost_nano_usd: int
    flags: tuple[str, ...] = ()


class Ending(NamedTuple):
    """How an admitted call ended: what is booked, and what the client is still told."""

    metered: Metered
    outcome: Outcome
    error: GatewayError | None = None


NOTHING = Metered(NO_USAGE, "none", 0)


def reported(usage: Usage, price: Price, source: UsageSource = "provider") -> Metered:
    """By the provider's own, already judged, report."""
    try:
        return Metered(usage, source, cost_nano_usd(usage, price))
    except UnpricedUsage:
        # The provider billed a kind of token the row has no rate for: never free, so it counts at the text rate.
        as_text = Usage(
            uncached_input=usage.uncached_input + usage.audio_input + usage.image_input,
            cached_input=usage.cached_input,
            cache_write=usage.cache_write,
            text_output=usage.text_output + usage.audio_output + usage.image_output,
            reasoning=usage.reasoning,
        )
        return Metered(as_text, source, cost_nano_usd(as_text, price), ("unpriced_usage",))


def estimated(input_tokens: int, output_tokens: int, price: Price, *flags: str) -> Metered:
    """By the written rule."""
    usage = Usage(uncached_input=input_tokens, text_output=output_tokens)
    return Metered(usage, "estimated", cost_nano_usd(usage, price), flags)
