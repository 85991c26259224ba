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
    variant: str = ""
    """What the price also depended on: an image's size and quality, the service tier the provider reported."""
    images: int = 0
    """Images that came back; credits and free images are taken for these."""
    is_answer: bool = True
    """False: something was consumed, but no client could make anything of what came."""


class Ending(NamedTuple):
    """How an admitted call ended: what is booked, and what the client is still told."""

    metered: Metered
    outcome: Outcome
    error: GatewayError | None = None


NOTHING = Metered(NO_USAGE, "none", 0)
_BASE_TIERS = frozenset({"auto", "default", "standard"})
"""What providers call the ordinary service."""


def reported(
    usage: Usage, price: Price, source: UsageSource = "provider", *, tier: object = None, asked: str = ""
) -> Metered:
    """By the provider's own, already judged, report.

    `tier` is the service tier it says it served; `asked` the one with rates of its own that the caller asked for.
    """
    variant, flags = _variant(usage, price, tier, asked)
    try:
        return Metered(usage, source, cost_nano_usd(usage, price, variant), flags, variant)
    except UnpricedUsage:
        # The provider billed a kind of token the row has no rate for: never free, so it counts at the text rate.
        as_text = Usage(
            uncached_input=usage.uncached_input + usage.audio_input + usage.image_input,
            cached_input=usage.cached_input,
            cache_write=usage.cache_write,
            text_output=usage.text_output + usage.audio_output + usage.image_output,
            reasoning=usage.reasoning,
        )
        return Metered(as_text, source, cost_nano_usd(as_text, price, variant), (*flags, "unpriced_usage"), variant)


def _variant(usage: Usage, price: Price, tier: object, asked: str) -> tuple[str, tuple[str, ...]]:
    """The tier whose rates hold, and a flag where the provider served one that the row does not know.

    Where it does not say, the one asked for; where it names an unknown one, the dearer of that and the ordinary one,
    which the hold has covered.
    """
    if not tier or not isinstance(tier, str):
        return asked, ()
    if tier in _BASE_TIERS:
        return "", ()
    if price.knows_tier(tier):
        return tier, ()
    try:
        is_dearer = bool(asked) and cost_nano_usd(usage, price, asked) > cost_nano_usd(usage, price)
    except UnpricedUsage:
        is_dearer = bool(asked)
    return asked if is_dearer else "", ("unpriced_tier",)


def estimated(
    input_tokens: int, output_tokens: int, price: Price, *flags: str, tier: object = None, asked: str = ""
) -> Metered:
    """By the written rule. `tier` and `asked` as in `reported`."""
    usage = Usage(uncached_input=input_tokens, text_output=output_tokens)
    variant, more_flags = _variant(usage, price, tier, asked)
    return Metered(usage, "estimated", cost_nano_usd(usage, price, variant), (*flags, *more_flags), variant)
