"""Usage x price -> nano-dollars: the worst case before a call, the cost after it. Pure.

Prices are pico-dollars (1e-12 USD) per token, amounts nano-dollars (1e-9 USD), both integers. A call's buckets are summed
exactly in pico-dollars and rounded once, upward, so an entry is at most one nano-dollar above the provider's figure.

A bucket without a rate of its own is never free (`Price` resolves this once, when it is made):
- `cached_input` and `cache_write` cost the `input` rate, `reasoning` the `output` rate;
- audio, images and whatever else has no rate are unpriced, and refused.

Which row of a price holds depends on the length of the prompt and on the service tier (`Price.at`); what an image costs,
on its size and quality. The latter two reach these functions as one word, the call's `variant`; only that of images has
a slash. Calls that hear or speak have `seconds` or `characters` for theirs, which says what their pieces are. A call with
a price by the piece costs that and nothing beside it.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any

import orjson

from gateway.catalog import Model
from gateway.price_rows import (
    IMAGE_DIGITS,
    IMAGE_VARIANT,
    IN_ORDER_OF_USAGE,
    PICO_PER_NANO,
    PIECE_OF_VARIANT,
    PIECE_PRICES,
    PRICE_FIELDS,
    RATE_DIGITS,
    RATE_MAX,
    Price,
    covers,
    price_of,
    row_of,
    whole_image_key,
)
from gateway.usage import Usage

IMAGE_PREFIX = "image:"
"""Before size and quality, where the price of an image stands among those of tokens (`Plan.prices`)."""
NANO_DIGITS = 9
"""A dollar is 10^9 nano-dollars."""


class UnpricedUsage(Exception):
    """`bucket` holds tokens for which the price row has no rate; for `pieces`, `variant` says what they are: of images size
    and quality."""

    def __init__(self, bucket: str, price_version: str, variant: str = "") -> None:
        super().__init__(f"no price for {bucket}{f' of {variant}' * bool(variant)} in price row {price_version}")
        self.bucket = bucket
        self.price_version = price_version
        self.variant = variant


def cost_nano_usd(usage: Usage, price: Price, variant: str = "") -> int:
    """What the call cost, in nano-dollars, rounded up once.

    `variant` is the service tier the provider reported, the size and quality of its images (`1024x1792/hd`), or what else
    is counted by the piece (`seconds`, `characters`). A tier for which `price` has no table costs the ordinary rates: ask
    `price.knows_tier`. Pieces are paid once: by the piece where `price` has a price for that, whatever tokens are reported
    beside them, else by their tokens.

    Raises: UnpricedUsage, when `usage` has tokens or images `price` has no rate for. For words already delivered the
    caller then books `worst_case_nano_usd` of the two totals, and flags it.
    """
    uncached, cached, written, audio_in, image_in, text, reasoning, audio_out, image_out, pieces = usage
    row = price
    if variant or price.long_prompt is not None:
        row = price.at(uncached + cached + written + audio_in + image_in, variant)
    if pieces or (variant and ("/" in variant or variant in PIECE_OF_VARIANT)):
        if (piece_pico_usd := price.piece_pico_usd(variant)) is not None:
            return -(-pieces * piece_pico_usd // PICO_PER_NANO)
        is_in_tokens = image_out or (variant in PIECE_OF_VARIANT and any(usage[:-1]))
        if pieces and not is_in_tokens:
            raise UnpricedUsage("pieces", price.version, variant)
    if row.text_rates is None or audio_in or image_in or audio_out or image_out:
        return -(-_tokens_pico_usd(usage, row) // PICO_PER_NANO)
    # Nearly every call is text at known rates, and this runs once for each of them.
    uncached_rate, cached_rate, written_rate, text_rate, reasoning_rate = row.text_rates
    pico_usd = (
        uncached * uncached_rate
        + cached * cached_rate
        + written * written_rate
        + text * text_rate
        + reasoning * reasoning_rate
    )
    return -(-pico_usd // PICO_PER_NANO)


def _tokens_pico_usd(usage: Usage, row: Price) -> int:
    pico_usd = 0
    for bucket, tokens, rate in zip(Usage._fields[:-1], usage[:-1], row.rates, strict=True):
        if tokens and rate is None:
            raise UnpricedUsage(bucket, row.version)
        pico_usd += tokens * (rate or 0)
    return pico_usd


def worst_case_nano_usd(
    price: Price, *, input_tokens: int, output_tokens: int, text_only: bool = False, service_tier: str = ""
) -> int:
    """The most a call within these bounds can cost, in nano-dollars: `cost_nano_usd` of no usage inside them is above it.

    Every token is taken at the dearest rate it could get, also that for long prompts where `input_tokens` allows one.
    `service_tier` is the tier that is asked for; as a provider may serve its ordinary one all the same, the dearer of
    both counts. `text_only` leaves audio and image rates aside, for a caller who has seen that neither goes in or comes
    out.

    Raises: UnpricedUsage, when there are input (or output) tokens and no rate at all for them.
    """
    input_rate, output_rate = price.dearest_text if text_only else price.dearest
    if input_tokens and input_rate is None:
        raise UnpricedUsage("uncached_input", price.version)
    if output_tokens and output_rate is None:
        raise UnpricedUsage("text_output", price.version)
    most = -(-(input_tokens * (input_rate or 0) + output_tokens * (output_rate or 0)) // PICO_PER_NANO)
    if service_tier or price.long_prompt is not None:
        for row in price.alternatives(input_tokens, service_tier):
            other = worst_case_nano_usd(
                row, input_tokens=input_tokens, output_tokens=output_tokens, text_only=text_only
            )
            most = max(most, other)
    return most


def resolve_image_variant(price: Price, model: Model, size: str | None, quality: str | None) -> str:
    """The `size/quality` that a request for images of `model` means, priced by `price`.

    What is not said, or left to the provider by `auto`, is the model's default. Where images are priced by tokens any
    size and quality will do, and `auto` stands for what nobody named.

    Raises: UnpricedUsage, when `price` has no price for such an image, or no table could name it.
    """
    default_size, _, default_quality = (model.image_default or "").partition("/")
    variant = f"{_said(size) or default_size or 'auto'}/{_said(quality) or default_quality or 'auto'}"
    in_tokens = price.images is None and price.image_output is not None
    if not IMAGE_VARIANT.fullmatch(variant) or not (in_tokens or price.image_pico_usd(variant) is not None):
        raise UnpricedUsage("pieces", price.version, variant)
    return variant


def _said(part: str | None) -> str:
    return "" if part is None or part == "auto" else part


def charged_price(model: Model, overrides: Mapping[str, int]) -> Price:
    """The model's price with some numbers replaced, for an account that owes other prices than the catalog's.

    Keys are names of `PRICE_FIELDS` and `PIECE_PRICES`, and `image:size/quality` (`*` for any); values pico-dollars per
    token or piece. `credits` is no price and left out. Nothing a caller can choose gets around them: rates for long prompts and service
    tiers keep their proportion to the row's own, rounded up, and a price for any image takes the place of all that the
    catalog has for such images. The version is that of the model's price, `+`, and a digest of what is replaced.

    Raises: ValueError, for a key or value that is none of these.
    """
    changed = {key: pico_usd for key, pico_usd in overrides.items() if key != "credits"}
    if not changed:
        return model.price
    rates: dict[str, int] = {}
    pieces: dict[str, int] = {}
    images: dict[str, int] = {}
    for key, pico_usd in changed.items():
        if type(pico_usd) is not int or pico_usd < 0:
            raise ValueError(f"{key} is no whole number of pico-dollars")
        image = key.removeprefix(IMAGE_PREFIX)
        if key in PRICE_FIELDS:
            rates[key] = pico_usd
        elif key in PIECE_PRICES:
            pieces[key] = pico_usd
        elif key != image and whole_image_key(image) == image:
            images[image] = pico_usd
        else:
            raise ValueError(f"{key} is no price")
    row = row_of(model.price) | pieces
    if rates:
        _charge_rates(row, rates)
    if images:
        row["images"] = _charged_images(row.get("images", {}), images)
    digest = sha256(orjson.dumps(changed, option=orjson.OPT_SORT_KEYS)).hexdigest()[:10]
    return price_of(row, f"{model.price.version}+{digest}")


def _charge_rates(row: dict[str, Any], rates: Mapping[str, int]) -> None:
    """Put `rates` into the row, and all rates of the rows below into the same proportion to it as before."""
    before = price_of(row, "").rates
    row.update(rates)
    after = price_of(row, "").rates
    for below in _rows_below(row):
        scaled = map(_in_proportion, price_of(below, "").rates, before, after)
        below.update((name, rate) for name, rate in zip(IN_ORDER_OF_USAGE, scaled, strict=True) if rate is not None)


def _in_proportion(rate: int | None, before: int | None, after: int | None) -> int | None:
    """`rate` x `after` / `before`, rounded up. Where there is nothing to be in proportion to, `after`."""
    if after == before:
        return rate
    if rate is None or after is None or before is None:
        return after
    if before == 0:
        return max(rate, after)
    scaled = -(-rate * after // before)
    return min(scaled, RATE_MAX)


def _rows_below(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for below in (row.get("long_prompt"), *row.get("service_tiers", {}).values()):
        if below is not None:
            yield below
            yield from _rows_below(below)


def _charged_images(catalog: Mapping[str, int], own: Mapping[str, int]) -> dict[str, int]:
    """The table that has the price of every image `own` knows from there, and of the others from `catalog`."""
    left = {key: pico_usd for key, pico_usd in catalog.items() if not any(covers(pattern, key) for pattern in own)}
    # A size is looked up before a quality, so an own price of a quality is told for each size that is left.
    crossed = {
        f"{key.partition('/')[0]}/{pattern.partition('/')[2]}": pico_usd
        for key in left
        if key.endswith("/*")
        for pattern, pico_usd in own.items()
        if pattern.startswith("*/")
    }
    return {**left, **crossed, **own}


# Calls of one kind cost the same again and again.
@lru_cache(maxsize=8_192)
def usd(amount: int, digits: int = NANO_DIGITS) -> str:
    """The exact amount in dollars as a decimal string, without trailing zeros: `1_500` -> `0.0000015`.

    `amount` is in nano-dollars, or in units of 10^-`digits` dollars.
    """
    sign = "-" if amount < 0 else ""
    whole, fraction = divmod(abs(amount), 10**digits)
    return f"{sign}{whole}.{fraction:0{digits}d}".rstrip("0").rstrip(".")


def price_shown(price: Price, variant: str, input_tokens: int = 0) -> dict[str, str | int]:
    """The rates of a call with so long a prompt, of this service tier or for pieces of this kind, as people read them:
    exact US dollars per million tokens or characters, per image and per second. Rates for long prompts come with the number
    of tokens above which they count, `long_prompt_above_input_tokens`."""
    row = price.at(input_tokens, variant)
    rates = {
        f"{name}_usd_per_mtok": usd(rate, RATE_DIGITS)
        for name in PRICE_FIELDS
        if (rate := getattr(row, name)) is not None
    }
    is_long = {} if row.above_input_tokens is None else {"long_prompt_above_input_tokens": row.above_input_tokens}
    return {"version": price.version, "variant": variant, **rates, **is_long, **_piece_shown(price, variant)}


def _piece_shown(price: Price, variant: str) -> dict[str, str]:
    each = price.piece_pico_usd(variant)
    if each is None:
        return {}
    if (name := PIECE_OF_VARIANT.get(variant)) is None:
        return {"image_usd": usd(each, IMAGE_DIGITS)}
    piece = PIECE_PRICES[name]
    return {piece.key: usd(each, piece.digits)}


def price_to_json(price: Price) -> str:
    """The row as canonical JSON: keys sorted, integers of pico-dollars, nothing where there is no price."""
    return orjson.dumps({**row_of(price), "version": price.version}, option=orjson.OPT_SORT_KEYS).decode()


def price_from_json(text: str | bytes) -> Price:
    """The row that `price_to_json` wrote. Raises `ValueError` for anything else."""
    row = orjson.loads(text)
    version = row.pop("version", None) if isinstance(row, dict) else None
    if not isinstance(version, str) or not _is_row(row, {*_BELOW, *PIECE_PRICES}):
        raise ValueError("not a price row")
    return price_of(row, version)


def _is_row(row: Any, more: set[str]) -> bool:
    """Whether `row` is prices per token, and beside them at most the keys of `more`."""
    if not isinstance(row, dict) or not row.keys() <= {*PRICE_FIELDS, *more}:
        return False
    numbers = {key: value for key, value in row.items() if key not in _BELOW}
    return _are_numbers(numbers) and all(is_sound(row[key]) for key, is_sound in _BELOW.items() if key in row)


def _is_long_prompt(row: Any) -> bool:
    return _is_row(row, {"above_input_tokens"}) and "above_input_tokens" in row


def _are_tiers(rows: Any) -> bool:
    return isinstance(rows, dict) and all(_is_row(row, {"long_prompt"}) for row in rows.values())


def _are_numbers(row: Any) -> bool:
    return isinstance(row, dict) and all(type(number) is int and number >= 0 for number in row.values())


_BELOW: Mapping[str, Callable[[Any], bool]] = {
    "images": _are_numbers,
    "long_prompt": _is_long_prompt,
    "service_tiers": _are_tiers,
}
