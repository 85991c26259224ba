"""A price row: what the tokens and images of one model cost, as pricing.toml writes it and as `gateway.pricing` reads it.

Prices are integers of pico-dollars (1e-12 USD). A row may hold further rows: dearer rates for long prompts, and rates for
each service tier a provider sells. Each of them stands for itself: what it leaves out costs its own input or output rate.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, NamedTuple

import orjson

from gateway.toml_file import Table

PRICE_FIELDS = (
    "input",
    "cached_input",
    "cache_write",
    "output",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
    "image_output",
)
"""Prices per token; each is `<name>_usd_per_mtok` in the file."""
RATES_WITHOUT_FALLBACK = tuple(
    name for name in PRICE_FIELDS if name not in ("cached_input", "cache_write", "reasoning")
)
"""Where one of these is missing, that kind of token has no price at all."""
PICO_PER_NANO = 1_000
TOKENS_MAX = 100_000_000
"""The largest number of tokens the file may name."""

RATE_DIGITS = 6
"""A dollar per million tokens is 10^6 pico-dollars a token."""
USD_PER_MTOK_MAX = 1_000_000
RATE_MAX: int = USD_PER_MTOK_MAX * 10**RATE_DIGITS
"""Pico-dollars a token."""
IMAGE_DIGITS = 12
"""A dollar per image is 10^12 pico-dollars."""
USD_PER_IMAGE_MAX = 10_000


class PieceKey(NamedTuple):
    """How the file writes the price of something that is neither token nor image."""

    key: str
    digits: int
    """A dollar of it is 10^digits pico-dollars a piece."""
    at_most: int
    """In dollars."""


PIECE_PRICES: Mapping[str, PieceKey] = {
    "audio_second": PieceKey("audio_usd_per_second", 12, 1_000),
    "character": PieceKey("speech_usd_per_mchar", 6, USD_PER_MTOK_MAX),
}
"""Prices per piece: a second of audio that is listened to, a character of text that is spoken."""
SECONDS = "seconds"
CHARACTERS = "characters"
PIECE_OF_VARIANT: Mapping[str, str] = {SECONDS: "audio_second", CHARACTERS: "character"}
"""What a call's variant says its pieces are. Any other has a slash, for images, or no pieces at all."""
CREDITS_MAX = 10**9
"""The most that one price, package, grant or adjustment in credits may be."""

_IMAGE_PRICES_MAX = 200
_SERVICE_TIERS_MAX = 20
_NEVER = 2**62
IN_ORDER_OF_USAGE = (
    "input",
    "cached_input",
    "cache_write",
    "audio_input",
    "image_input",
    "output",
    "reasoning",
    "audio_output",
    "image_output",
)
"""`PRICE_FIELDS` in the order of the buckets of a `Usage`, as `Price.rates` has them."""
_RATE_KEYS = frozenset(f"{name}_usd_per_mtok" for name in PRICE_FIELDS)
_PIECE_KEYS = frozenset(piece.key for piece in PIECE_PRICES.values())
PRICE_KEYS = _RATE_KEYS | _PIECE_KEYS | {"image_usd", "long_prompt", "service_tiers"}
"""What a model's table may say about prices."""

_TIER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_WORD = r"[A-Za-z0-9._-]{1,32}"
IMAGE_WORD = re.compile(_WORD)
"""A size or a quality."""
IMAGE_VARIANT = re.compile(f"{_WORD}/{_WORD}")
"""What one image is: size and quality."""
_IMAGE_KEY = re.compile(rf"(\*|{_WORD})(?:/(\*|{_WORD}))?")

Row = Mapping[str, Any]
"""A price row as plain data: pico-dollars by field and piece, `images`, and below `long_prompt` and `service_tiers` more
rows."""


@dataclass(frozen=True, slots=True)
class Price:
    """Pico-dollars (1e-12 USD) per token; None means there is no price, and that kind of token is refused."""

    version: str
    """`<file version>.<digest of the row>`: it changes whenever any number of the row does."""
    input: int | None = None
    cached_input: int | None = None
    """None: the `input` rate; so for `cache_write`."""
    cache_write: int | None = None
    output: int | None = None
    reasoning: int | None = None
    """None: the `output` rate."""
    audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_output: int | None = None
    images: Mapping[str, int] | None = None
    """Pico-dollars per image, by `size/quality` (`1024x1024/hd`); a `*` stands for any. Always with the slash."""
    audio_second: int | None = None
    """Pico-dollars per second of audio that is transcribed or translated."""
    character: int | None = None
    """Pico-dollars per Unicode character that is spoken."""
    long_prompt: "Price | None" = None
    """What all of a call costs that has more input tokens than this row's `above_input_tokens`."""
    service_tiers: "Mapping[str, Price] | None" = None
    """What calls of a service tier cost, by the provider's word for it: `flex`, `priority`."""
    above_input_tokens: int | None = None
    """Only in a `long_prompt`: input tokens of all kinds together."""

    rates: tuple[int | None, ...] = field(init=False, repr=False, compare=False)
    """What each bucket of tokens in a `Usage` costs, in its order. This and the rest is made once, so that calls only
    multiply."""
    text_rates: tuple[int, int, int, int, int] | None = field(init=False, repr=False, compare=False)
    """The text buckets of `rates`; None if one has no rate."""
    dearest: tuple[int | None, int | None] = field(init=False, repr=False, compare=False)
    """The most an input and an output token can cost; None where none has a rate."""
    dearest_text: tuple[int | None, int | None] = field(init=False, repr=False, compare=False)
    """The same without audio and images."""
    long_above: int = field(init=False, repr=False, compare=False)
    """`long_prompt` holds for more input tokens than this."""
    tiers: "Mapping[str, Price]" = field(init=False, repr=False, compare=False)
    """`service_tiers`, each with the rates it has for long prompts."""

    def __post_init__(self) -> None:
        text_in = (self.input, _or(self.cached_input, self.input), _or(self.cache_write, self.input))
        text_out = (self.output, _or(self.reasoning, self.output))
        media_in, media_out = (self.audio_input, self.image_input), (self.audio_output, self.image_output)
        text = (*text_in, *text_out)
        long_prompt = self.long_prompt
        tiers = self.service_tiers or {}
        put = object.__setattr__
        put(self, "rates", (*text_in, *media_in, *text_out, *media_out))
        put(self, "text_rates", None if None in text else text)
        put(self, "dearest", (_max(text_in + media_in), _max(text_out + media_out)))
        put(self, "dearest_text", (_max(text_in), _max(text_out)))
        put(self, "long_above", _NEVER if long_prompt is None else _above(long_prompt))
        put(self, "tiers", {name: _with_long_prompt(tier, long_prompt) for name, tier in tiers.items()})

    def knows_tier(self, tier: str) -> bool:
        """Whether the row has rates of its own for this service tier."""
        return tier in self.tiers

    def at(self, input_tokens: int, service_tier: str = "") -> "Price":
        """The row that prices a call of this prompt length and service tier; a tier without rates is the row itself."""
        row = self.tiers.get(service_tier, self)
        if row.long_prompt is not None and input_tokens > row.long_above:
            return row.long_prompt
        return row

    def alternatives(self, input_tokens: int, service_tier: str = "") -> "list[Price]":
        """The other rows that may price a call of this tier with at most so many input tokens. A tier's own rates for
        long prompts are among the alternatives of the tier."""
        found = [self.tiers[service_tier]] if service_tier in self.tiers else []
        if self.long_prompt is not None and input_tokens > self.long_above:
            found.append(self.long_prompt)
        return found

    def piece_pico_usd(self, variant: str) -> int | None:
        """One of what calls of this variant count by the piece; None where that has no price."""
        if (name := PIECE_OF_VARIANT.get(variant)) is None:
            return self.image_pico_usd(variant)
        price: int | None = getattr(self, name)
        return price

    def image_pico_usd(self, variant: str) -> int | None:
        """One image of this `size/quality`: the exact pair's price, else the size's, the quality's, that of any image."""
        table = self.images or {}
        size, _, quality = variant.partition("/")
        for key in (variant, f"{size}/*", f"*/{quality}", "*/*"):
            if key in table:
                return table[key]
        return None


def _with_long_prompt(tier: Price, long_prompt: Price | None) -> Price:
    """A tier without rates for long prompts, in a row that has some, costs the dearer of both, token kind by kind."""
    if long_prompt is None or tier.long_prompt is not None:
        return tier
    dearer: dict[str, Any] = {
        name: _max(rates) for name, *rates in zip(IN_ORDER_OF_USAGE, tier.rates, long_prompt.rates, strict=True)
    }
    return replace(tier, long_prompt=replace(long_prompt, **dearer))


def _above(long_prompt: Price) -> int:
    if long_prompt.above_input_tokens is None:
        raise ValueError("a row for long prompts must say above how many tokens it holds")
    return long_prompt.above_input_tokens


def _or(rate: int | None, fallback: int | None) -> int | None:
    return fallback if rate is None else rate


def _max(rates: Iterable[int | None]) -> int | None:
    return max((rate for rate in rates if rate is not None), default=None)


def price_of(row: Row, version: str) -> Price:
    """The price that `row` describes; rows below it bear the same version."""
    below = row.get("long_prompt")
    tiers = row.get("service_tiers")
    return Price(
        version,
        **{name: row.get(name) for name in PRICE_FIELDS},
        **{name: row.get(name) for name in PIECE_PRICES},
        images=row.get("images"),
        long_prompt=None if below is None else price_of(below, version),
        service_tiers=None if tiers is None else {name: price_of(tier, version) for name, tier in tiers.items()},
        above_input_tokens=row.get("above_input_tokens"),
    )


def row_of(price: Price) -> dict[str, Any]:
    """`price` as plain data, without its version and without what has no price."""
    names = (*PRICE_FIELDS, *PIECE_PRICES)
    row: dict[str, Any] = {name: value for name in names if (value := getattr(price, name)) is not None}
    if price.images is not None:
        row["images"] = dict(price.images)
    if price.above_input_tokens is not None:
        row["above_input_tokens"] = price.above_input_tokens
    if price.long_prompt is not None:
        row["long_prompt"] = row_of(price.long_prompt)
    if price.service_tiers is not None:
        row["service_tiers"] = {name: row_of(tier) for name, tier in price.service_tiers.items()}
    return row


def read_price(name: str, table: Table, version: str) -> Price:
    """The price in a model's table. `version` is the file's; faults are noted at the table."""
    rates, images = _rates(table), _image_prices(table)
    below, pieces = _rows_below(table, rates), _piece_prices(table)
    # The name is part of the digest: equal prices of two models are two rows, and a version names one of them.
    numbers = [name, rates | pieces, images, below] if below else [name, rates | pieces, images]
    digest = sha256(orjson.dumps(numbers, option=orjson.OPT_SORT_KEYS)).hexdigest()[:10]
    return price_of({**rates, **pieces, "images": images, **below}, f"{version}.{digest}")


def _rates(table: Table) -> dict[str, int | None]:
    return {
        rate: table.decimal(f"{rate}_usd_per_mtok", scale=RATE_DIGITS, at_most=USD_PER_MTOK_MAX)
        for rate in PRICE_FIELDS
    }


def _piece_prices(table: Table) -> dict[str, int]:
    """Those the table has."""
    found = {
        name: table.decimal(piece.key, scale=piece.digits, at_most=piece.at_most)
        for name, piece in PIECE_PRICES.items()
    }
    return {name: price for name, price in found.items() if price is not None}


def _rows_below(table: Table, rates: Row) -> dict[str, Any]:
    below: dict[str, Any] = {}
    if (long_prompt := _long_prompt(table, rates)) is not None:
        below["long_prompt"] = long_prompt
    if tiers := _service_tiers(table, rates):
        below["service_tiers"] = tiers
    return below


def _long_prompt(table: Table, above: Row) -> dict[str, int | None] | None:
    data = table.data.get("long_prompt")
    if data is None:
        return None
    if not isinstance(data, dict):
        table.fault("must be a table", "long_prompt")
        return None
    below = Table(table.file, (*table.where, "long_prompt"), data)
    below.refuse_unknown(_RATE_KEYS | {"above_input_tokens"})
    if "above_input_tokens" not in data:
        below.fault("above_input_tokens is missing")
    tokens = below.count("above_input_tokens", at_least=1, at_most=TOKENS_MAX)
    return {**_own_rates(below, above), "above_input_tokens": tokens or TOKENS_MAX}


def _service_tiers(table: Table, above: Row) -> dict[str, Any]:
    data = table.data.get("service_tiers")
    if data is None:
        return {}
    if not isinstance(data, dict) or not 1 <= len(data) <= _SERVICE_TIERS_MAX:
        table.fault(f"must be a table of 1 to {_SERVICE_TIERS_MAX} service tiers", "service_tiers")
        return {}
    tiers = Table(table.file, (*table.where, "service_tiers"), data)
    found: dict[str, Any] = {}
    for name, value in data.items():
        if not _TIER.fullmatch(name):
            tiers.fault(f"a service tier must match {_TIER.pattern}", name)
        elif isinstance(value, dict):
            found[name] = _service_tier(Table(table.file, (*tiers.where, name), value), above)
        elif not isinstance(value, str) or not isinstance(data.get(value), dict):
            tiers.fault("must be a table, or the name of another service tier of this model", name)
    same = {name: found[value] for name, value in data.items() if isinstance(value, str) and value in found}
    return found | same


def _service_tier(table: Table, above: Row) -> dict[str, Any]:
    table.refuse_unknown(_RATE_KEYS | {"long_prompt"})
    rates = _own_rates(table, above)
    long_prompt = _long_prompt(table, rates)
    return rates if long_prompt is None else {**rates, "long_prompt": long_prompt}


def _own_rates(table: Table, above: Row) -> dict[str, int | None]:
    """The rates of a row below another one. What has no fallback there must be named here as well, or a call would turn
    out to be unpriced after it was made."""
    for name in RATES_WITHOUT_FALLBACK:
        if above[name] is not None and f"{name}_usd_per_mtok" not in table.data:
            table.fault(f"{name}_usd_per_mtok is missing: the table above this one has it")
    return _rates(table)


def _image_prices(table: Table) -> dict[str, int] | None:
    if table.data.get("image_usd") is None:
        return None
    found = {
        whole: prices.decimal(key, scale=IMAGE_DIGITS, at_most=USD_PER_IMAGE_MAX) or 0
        for prices, key, whole in image_keys(table)
    }
    return found or None


def image_keys(table: Table) -> Iterator[tuple[Table, str, str]]:
    """The sound keys of `image_usd` in `table`, which has one: the table below, the key as written there, and with both
    its parts. Faults are noted."""
    data = table.data["image_usd"]
    if not isinstance(data, dict) or not 1 <= len(data) <= _IMAGE_PRICES_MAX:
        table.fault(f"must be a table of 1 to {_IMAGE_PRICES_MAX} prices by size/quality", "image_usd")
        return
    prices = Table(table.file, (*table.where, "image_usd"), data)
    seen: set[str] = set()
    for key in data:
        whole = whole_image_key(key)
        if whole is None:
            prices.fault("must be size/quality such as 1024x1024/hd, * for any", key)
            continue
        if whole in seen:
            prices.fault(f"is a second price for {whole}", key)
        seen.add(whole)
        yield prices, key, whole


def whole_image_key(key: str) -> str | None:
    """`size/quality`, a `*` for what `key` leaves to any; None if no table could have it."""
    parts = _IMAGE_KEY.fullmatch(key)
    return f"{parts[1]}/{parts[2] or '*'}" if parts else None


def covers(pattern: str, key: str) -> bool:
    """Whether every image that `key` stands for is one that `pattern` stands for; both are `size/quality`."""
    pairs = zip(pattern.split("/"), key.split("/"), strict=True)
    return all(wanted in ("*", found) for wanted, found in pairs)
