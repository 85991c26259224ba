"""Prices of LiteLLM's, US dollars per token, as prices of the catalog, US dollars per million tokens, digit by digit."""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, localcontext

from gateway.litellm_config.source import At
from gateway.price_rows import IMAGE_DIGITS, RATE_DIGITS, USD_PER_IMAGE_MAX, USD_PER_MTOK_MAX

__all__ = ["is_price", "read_prices"]

_PER_TOKEN: Mapping[str, str] = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "input_cost_per_image_token": "image_input",
    "output_cost_per_image_token": "image_output",
}
_PER_PIECE: Mapping[str, tuple[str, str, int, int, int]] = {
    # key of LiteLLM: endpoint, our key, power of ten, bound in dollars, digits
    "output_cost_per_image": ("images", "image_usd", 0, USD_PER_IMAGE_MAX, IMAGE_DIGITS),
    "input_cost_per_image": ("images", "image_usd", 0, USD_PER_IMAGE_MAX, IMAGE_DIGITS),
    "input_cost_per_second": ("transcriptions", "audio_usd_per_second", 0, 1_000, 12),
    "input_cost_per_character": ("speech", "speech_usd_per_mchar", 6, USD_PER_MTOK_MAX, RATE_DIGITS),
}
_ABOVE = re.compile(r"(.+)_above_([0-9]{1,5})k_tokens")
_PRICE = re.compile(
    r"(input|output|cache_read|cache_creation|cost|search_context|code_interpreter|file_search|ocr)_.*cost.*|.*_cost_per_.*|.*_cost"
)


def is_price(key: str) -> bool:
    """Whether a key of `litellm_params` or `model_info` says what something costs."""
    return bool(_PRICE.fullmatch(key))


def read_prices(places: Iterable[At | None], endpoints: Iterable[str]) -> dict[str, object]:
    """The price keys of a model's row; the first place that names a price counts. Every price key is spoken of."""
    found: dict[str, object] = {}
    long_prompt: dict[str, object] = {}
    seen: dict[str, Decimal | None] = {}
    for place in places:
        if place is None or not isinstance(place.value, dict):
            continue
        for at in place.below():
            if not is_price(str(at.path[-1])):
                continue
            key = str(at.path[-1])
            if key in seen:
                if seen[key] == at.number():
                    at.taken("the same as above")
                else:
                    at.not_taken("litellm_params says another price for it, which counts")
                continue
            seen[key] = at.number()
            _read(at, key, frozenset(endpoints), found, long_prompt)
    if long_prompt:
        _finish_long_prompt(found, long_prompt)
    return found


def _read(
    at: At, key: str, endpoints: frozenset[str], found: dict[str, object], long_prompt: dict[str, object]
) -> None:
    if (name := _PER_TOKEN.get(key)) is not None:
        _put(at, found, f"{name}_usd_per_mtok", _scaled(at, 6, USD_PER_MTOK_MAX, RATE_DIGITS))
    elif (piece := _PER_PIECE.get(key)) is not None and piece[0] in endpoints:
        amount = _scaled(at, *piece[2:])
        _put(at, found, piece[1], {"*": amount} if piece[1] == "image_usd" and amount is not None else amount)
    elif (step := _ABOVE.fullmatch(key)) is not None and step[1] in _PER_TOKEN:
        above = int(step[2]) * 1_000
        if long_prompt.setdefault("above_input_tokens", above) != above:
            at.not_taken("a row has one step of prompt length")
        else:
            rate = f"{_PER_TOKEN[step[1]]}_usd_per_mtok"
            _put(at, long_prompt, rate, _scaled(at, 6, USD_PER_MTOK_MAX, RATE_DIGITS), f"long_prompt.{rate}")
    elif key.endswith(("_batches", "_batch")):
        at.not_taken("there are no batch rates")
    elif key.endswith(("_priority", "_flex")):
        tier = key.rpartition("_")[2]
        at.not_taken(f"write it yourself, as a table service_tiers.{tier} of the model")
    else:
        at.not_taken("the catalog has no price of this kind for such a model")


def _put(at: At, found: dict[str, object], key: str, amount: object, told: str = "") -> None:
    if amount is None:
        at.not_taken("is no price from 0 that can be told exactly, in pico-dollars a token")
    elif key in found and found[key] != amount:
        at.not_taken(f"{key} is already said otherwise")
    else:
        found[key] = amount
        at.taken(told or key)


def _scaled(at: At, power: int, at_most: int, digits: int) -> Decimal | None:
    """The number times ten to this power, exactly; None where it is none, out of bounds, or too fine for the catalog."""
    number = at.number()
    if number is None:
        return None
    with localcontext() as context:
        context.prec = 200
        scaled = number.scaleb(power)
        if not 0 <= scaled <= at_most or scaled != scaled.quantize(Decimal(1).scaleb(-digits)):
            return None
        return scaled.normalize() if scaled else Decimal(0)


def _finish_long_prompt(found: dict[str, object], long_prompt: dict[str, object]) -> None:
    """A table stands for itself: what the row has and it leaves out is the row's own rate."""
    for key in (
        "input_usd_per_mtok",
        "output_usd_per_mtok",
        *(key for key in found if key.startswith(("audio", "image"))),
    ):
        if key in found and key.endswith("_per_mtok"):
            long_prompt.setdefault(key, found[key])
    for key in ("cached_input_usd_per_mtok", "cache_write_usd_per_mtok", "reasoning_usd_per_mtok"):
        if key in found:
            long_prompt.setdefault(key, found[key])
    if len(long_prompt) > 1:
        found["long_prompt"] = long_prompt
