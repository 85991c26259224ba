"""A whole price row as people read it: exact US dollars as decimal strings, under the names pricing.toml uses. Pure."""

from typing import Any

from gateway.price_rows import IMAGE_DIGITS, PIECE_PRICES, PRICE_FIELDS, RATE_DIGITS, Price
from gateway.pricing import usd

__all__ = ["price_table"]


def price_table(price: Price) -> dict[str, Any]:
    """Every rate of the row and of the rows below it; nothing where there is no price."""
    shown: dict[str, Any] = {
        f"{name}_usd_per_mtok": usd(rate, RATE_DIGITS)
        for name in PRICE_FIELDS
        if (rate := getattr(price, name)) is not None
    }
    for name, piece in PIECE_PRICES.items():
        if (rate := getattr(price, name)) is not None:
            shown[piece.key] = usd(rate, piece.digits)
    if price.above_input_tokens is not None:
        shown["above_input_tokens"] = price.above_input_tokens
    if price.images:
        shown["image_usd"] = {variant: usd(each, IMAGE_DIGITS) for variant, each in price.images.items()}
    if price.long_prompt is not None:
        shown["long_prompt"] = price_table(price.long_prompt)
    if price.service_tiers:
        shown["service_tiers"] = {name: price_table(tier) for name, tier in price.service_tiers.items()}
    return shown
