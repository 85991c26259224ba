"""One call's bill: what was counted, times its price, and how the sum becomes what is booked. Pure.

Out of the JSON of the ledger alone, so that a reader can do the sum again with pencil and paper. Prices are in US dollars per
million tokens or characters, per image or per second; amounts are exact, in pico-dollars (1e-12 USD), and their sum is
rounded up once, to a whole nano-dollar.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from gateway.pricing import usd

__all__ = ["Bill", "BillLine", "bill_of"]

_PICO_PER_NANO = 1_000
_PICO_DIGITS = 12
_MILLIONTH_DIGITS = 6
"""A dollar per million is so many digits of pico-dollars each."""


class BillLine(NamedTuple):
    what: str
    number: int
    rate: str
    """US dollars, as the price row has them; empty where it has none."""
    per: str
    pico_usd: int

    @property
    def amount_usd(self) -> str:
        return usd(self.pico_usd, _PICO_DIGITS)


class Bill(NamedTuple):
    version: str
    lines: tuple[BillLine, ...]
    sum_usd: str
    """Exact."""
    sum_nano_usd: int
    """Rounded up to a whole nano-dollar."""
    booked_nano_usd: int
    unpriced: tuple[str, ...]
    """What was counted and has no rate in the row."""
    long_above: int | None = None
    """The rates are those for prompts of more tokens than this; None: those for all."""

    @property
    def agrees(self) -> bool:
        return self.sum_nano_usd == self.booked_nano_usd


class _Bucket(NamedTuple):
    what: str
    number: int
    rates: tuple[str, ...]
    """The price's own name first, then the one that counts where there is none."""


def bill_of(entry: Mapping[str, Any], price: Mapping[str, Any] | None, booked_nano_usd: int | None) -> Bill | None:
    """None where there is no price to show, or no amount."""
    if price is None or booked_nano_usd is None:
        return None
    lines = tuple(_piece_lines(entry, price)) or tuple(_token_lines(entry, price))
    pico_usd = sum(line.pico_usd for line in lines)
    return Bill(
        price["version"],
        lines,
        usd(pico_usd, _PICO_DIGITS),
        -(-pico_usd // _PICO_PER_NANO),
        booked_nano_usd,
        tuple(line.what for line in lines if not line.rate),
        price.get("long_prompt_above_input_tokens"),
    )


_PIECES = (
    ("images", "images", "image_usd", "image", _PICO_DIGITS),
    ("audio_seconds", "seconds of audio", "audio_usd_per_second", "second", _PICO_DIGITS),
    ("characters", "characters", "speech_usd_per_mchar", "million", _MILLIONTH_DIGITS),
)


def _piece_lines(entry: Mapping[str, Any], price: Mapping[str, Any]) -> Iterator[BillLine]:
    """A call with a price by the piece costs that, and nothing beside it."""
    for name, what, key, per, digits in _PIECES:
        if key in price:
            yield BillLine(what, entry[name], price[key], per, entry[name] * _scaled(price[key], digits))


def _token_lines(entry: Mapping[str, Any], price: Mapping[str, Any]) -> Iterator[BillLine]:
    for bucket in _buckets(entry):
        if bucket.number:
            keys = (f"{name}_usd_per_mtok" for name in bucket.rates)
            rate = next((price[key] for key in keys if key in price), "")
            pico_usd = bucket.number * _scaled(rate or "0", _MILLIONTH_DIGITS)
            yield BillLine(f"{bucket.what} tokens", bucket.number, rate, "million", pico_usd)


def _buckets(entry: Mapping[str, Any]) -> Iterator[_Bucket]:
    """Disjoint again, out of the totals that include their parts."""
    cached, written = entry["cached_input_tokens"], entry["cache_write_tokens"]
    audio_in, image_in = entry["audio_input_tokens"], entry["image_input_tokens"]
    reasoning, audio_out, image_out = (
        entry["reasoning_tokens"],
        entry["audio_output_tokens"],
        entry["image_output_tokens"],
    )
    yield _Bucket("uncached input", entry["input_tokens"] - cached - written - audio_in - image_in, ("input",))
    yield _Bucket("cached input", cached, ("cached_input", "input"))
    yield _Bucket("cache write", written, ("cache_write", "input"))
    yield _Bucket("audio input", audio_in, ("audio_input",))
    yield _Bucket("image input", image_in, ("image_input",))
    yield _Bucket("text output", entry["output_tokens"] - reasoning - audio_out - image_out, ("output",))
    yield _Bucket("reasoning", reasoning, ("reasoning", "output"))
    yield _Bucket("audio output", audio_out, ("audio_output",))
    yield _Bucket("image output", image_out, ("image_output",))


def _scaled(rate: str, digits: int) -> int:
    return int(Decimal(rate).scaleb(digits))
