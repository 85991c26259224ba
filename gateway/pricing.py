"""Usage x price -> nano-dollars: the worst case before a call, the cost after it. Pure.

Prices are pico-dollars (1e-12 USD) per token, amounts nano-dollars (1e-9 USD), both integers. A call's buckets are summed
exactly in pico-dollars and rounded once, upward, so an entry is at most one nano-dollar above the provider's figure.

A bucket without a rate of its own is never free (`Price` resolves this once, when it is made):
- `cached_input` and `cache_write` cost the `input` rate, `reasoning` the `output` rate;
- audio, images and whatever else has no rate are unpriced, and refused.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.catalog import PICO_PER_NANO, PRICE_FIELDS, Price
from gateway.usage import Usage


class UnpricedUsage(Exception):
    """`bucket` holds tokens for which the price row has no rate."""

    def __init__(self, bucket: str, price_version: str) -> None:
        super().__init__(f"no price for {bucket} in price row {price_version}")
        self.bucket = bucket
        self.price_version = price_version


def cost_nano_usd(usage: Usage, price: Price) -> int:
    """What the call cost, in nano-dollars, rounded up once.

    Raises: UnpricedUsage, when `usage` has tokens `price` has no rate for. For words already delivered the caller then
    books `worst_case_nano_usd` of the two totals, and flags it.
    """
    uncached, cached, written, audio_in, image_in, text, reasoning, audio_out, image_out, images = usage
    if price.text_rates is None or audio_in or image_in or audio_out or image_out or images:
        return _cost_of_any(usage, price)
    # Nearly every call is text at known rates, and this runs once for each of them.
    uncached_rate, cached_rate, written_rate, text_rate, reasoning_rate = price.text_rates
    pico_usd = (
        uncached * uncached_rate
        + cached * cached_rate
        + written * written_rate
        + text * text_rate
        + reasoning * reasoning_rate
    )
    return -(-pico_usd // PICO_PER_NANO)


def _cost_of_any(usage: Usage, price: Price) -> int:
    pico_usd = 0
    for bucket, units, rate in zip(Usage._fields, usage, price.rates, strict=True):
        if units and rate is None:
            raise UnpricedUsage(bucket, price.version)
        pico_usd += units * (rate or 0)
    return -(-pico_usd // PICO_PER_NANO)


def worst_case_nano_usd(price: Price, *, input_tokens: int, output_tokens: int, text_only: bool = False) -> int:
    """The most a call within these bounds can cost, in nano-dollars: `cost_nano_usd` of no usage inside them is above it.

    Every token is taken at the dearest rate it could get. `text_only` leaves audio and image rates aside, for a caller
    who has seen that neither goes in or comes out.

    Raises: UnpricedUsage, when there are input (or output) tokens and no rate at all for them.
    """
    input_rate, output_rate = price.dearest_text if text_only else price.dearest
    if input_tokens and input_rate is None:
        raise UnpricedUsage("uncached_input", price.version)
    if output_tokens and output_rate is None:
        raise UnpricedUsage("text_output", price.version)
    return -(-(input_tokens * (input_rate or 0) + output_tokens * (output_rate or 0)) // PICO_PER_NANO)


def image_nano_usd(price: Price, *, size: str, quality: str, images: int) -> int:
    """What `images` of one size and quality cost, in nano-dollars, rounded up once; a `*` in the table stands for any.

    Raises: UnpricedUsage, when the table has no such size and quality.
    """
    table = price.images or {}
    for key in (f"{size}/{quality}", f"{size}/*", f"*/{quality}", "*/*"):
        if key in table:
            return -(-table[key] * images // PICO_PER_NANO)
    raise UnpricedUsage("image_units", price.version)


def usd(nano_usd: int) -> str:
    """The exact amount in dollars as a decimal string, without trailing zeros: `1_500` -> `0.0000015`."""
    sign = "-" if nano_usd < 0 else ""
    whole, fraction = divmod(abs(nano_usd), 10**9)
    return f"{sign}{whole}.{fraction:09d}".rstrip("0").rstrip(".")


def price_to_json(price: Price) -> str:
    """The row as canonical JSON: keys sorted, integers of pico-dollars, nothing where there is no price."""
    row: dict[str, Any] = {name: value for name in PRICE_FIELDS if (value := getattr(price, name)) is not None}
    if price.images is not None:
        row["images"] = dict(price.images)
    row["version"] = price.version
    return orjson.dumps(row, option=orjson.OPT_SORT_KEYS).decode()


def price_from_json(text: str | bytes) -> Price:
    """The row that `price_to_json` wrote. Raises `ValueError` for anything else."""
    row = orjson.loads(text)
    if not isinstance(row, dict) or not row.keys() <= {*PRICE_FIELDS, "images", "version"}:
        raise ValueError("not a price row")
    version, images = row.pop("version", None), row.pop("images", None)
    numbers = [*row.values(), *(images.values() if isinstance(images, Mapping) else ())]
    if not isinstance(version, str) or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("not a price row")
    if images is not None and not isinstance(images, Mapping):
        raise ValueError("not a price row")
    return Price(version, images=images, **row)
