"""Public price lists beside the catalog: where do they say something else? Offline, and exact.

Two lists are known: litellm's map, a JSON file that is read by its path, because importing litellm takes seconds; and
genai-prices, a package with a dated snapshot, imported only here and only on demand. Neither is asked for updates.
A list that leaves a figure out says nothing about it; what we leave out, and they have, is a difference.

Figures go by the keys of pricing.toml, those of a table below a model's with its path: `long_prompt.input_usd_per_mtok`,
`service_tiers.flex.long_prompt.output_usd_per_mtok`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from gateway.catalog import PRICE_FIELDS, Catalog, Model, Price, ProviderRow
from gateway.errors import ConfigError

MAP_BYTES_MAX = 64 * 2**20
_MAP_NAME = "model_prices_and_context_window_backup.json"
_PICO_DIGITS_PER_MTOK = 6
_PICO_DIGITS = 12
_REASONING = "reasoning_usd_per_mtok"
_ABOVE = "above_input_tokens"
_LONG = "long_prompt."


Figures = Mapping[str, Decimal]
"""US dollars, or tokens, by key."""


class Difference(NamedTuple):
    model: str
    key: str
    ours: Decimal | None
    """None where our file has no figure."""
    theirs: Decimal
    reference: str


class Comparison(NamedTuple):
    differences: list[Difference]
    unlisted: list[str]
    """Models the reference does not have."""
    equal: int
    """Models listed and without a difference."""


class Reference(Protocol):
    @property
    def name(self) -> str: ...

    def look_up(self, model: Model, provider: ProviderRow) -> Figures | None:
        """What the list says of `model`; None if it does not have it."""
        ...


def compare(catalog: Catalog, reference: Reference) -> Comparison:
    """Every figure that both have, and every one that only the reference has. Models of the mock are left out."""
    result = Comparison([], [], 0)
    equal = 0
    for model in catalog.models.values():
        provider = catalog.providers[model.provider]
        if provider.dialect == "mock":
            continue
        stated = reference.look_up(model, provider)
        if stated is None:
            result.unlisted.append(model.name)
            continue
        found = list(_differences(model, stated, reference.name))
        result.differences.extend(found)
        equal += not found
    return result._replace(equal=equal)


def _differences(model: Model, stated: Figures, reference: str) -> Iterator[Difference]:
    ours = our_figures(model)
    for key, theirs in stated.items():
        mine = ours.get(key)
        if mine is None and key.endswith(_REASONING):
            mine = ours.get(f"{key.removesuffix(_REASONING)}output_usd_per_mtok")
        if mine is None and theirs == 0:
            continue  # An embedding's output, say: a rate for what does not exist.
        if mine != theirs:
            yield Difference(model.name, key, mine, theirs, reference)


def our_figures(model: Model) -> dict[str, Decimal]:
    """The prices and caps of a catalog row, those of the tables below it too."""
    figures = dict(_price_figures(model.price))
    figures |= {f"image_usd {key}": _scaled(pico, _PICO_DIGITS) for key, pico in (model.price.images or {}).items()}
    for name in ("context_tokens_max", "output_tokens_max"):
        if (tokens := getattr(model, name)) is not None:
            figures[name] = Decimal(tokens)
    return figures


def _price_figures(price: Price, path: str = "") -> Iterator[tuple[str, Decimal]]:
    for name in PRICE_FIELDS:
        if (pico := getattr(price, name)) is not None:
            yield f"{path}{name}_usd_per_mtok", _scaled(pico, _PICO_DIGITS_PER_MTOK)
    if price.above_input_tokens is not None:
        yield f"{path}{_ABOVE}", Decimal(price.above_input_tokens)
    if price.long_prompt is not None:
        yield from _price_figures(price.long_prompt, f"{path}{_LONG}")
    for name, tier in (price.service_tiers or {}).items():
        yield from _price_figures(tier, f"{path}service_tiers.{name}.")


def _scaled(amount: int, digits: int) -> Decimal:
    return Decimal(amount).scaleb(-digits)


class LitellmMap:
    """litellm's price map. A rate's key says by what follows it that it holds above so many thousand tokens of prompt, or
    for a service tier, or both: `input_cost_per_token_above_272k_tokens_flex`."""

    _TOKEN_PRICES: Mapping[str, str] = {
        "input_cost_per_token": "input_usd_per_mtok",
        "cache_read_input_token_cost": "cached_input_usd_per_mtok",
        "cache_creation_input_token_cost": "cache_write_usd_per_mtok",
        "output_cost_per_token": "output_usd_per_mtok",
        "output_cost_per_reasoning_token": "reasoning_usd_per_mtok",
        "input_cost_per_audio_token": "audio_input_usd_per_mtok",
        "output_cost_per_audio_token": "audio_output_usd_per_mtok",
        "input_cost_per_image_token": "image_input_usd_per_mtok",
        "output_cost_per_image_token": "image_output_usd_per_mtok",
    }
    _KEY = re.compile(rf"({'|'.join(_TOKEN_PRICES)})(?:_above_([0-9]+)k_tokens)?(?:_(flex|priority|fast|ultrafast))?")
    _CAPS: Mapping[str, str] = {"max_input_tokens": "context_tokens_max", "max_output_tokens": "output_tokens_max"}
    _NAMES_BY_HOST: Mapping[str, str] = {
        "api.openai.com": "openai",
        "api.anthropic.com": "anthropic",
        "generativelanguage.googleapis.com": "gemini",
        "fal.run": "fal_ai",
    }

    def __init__(self, path: Path, name: str = "litellm") -> None:
        """Reads the map. Raises `ConfigError` if it is no such file."""
        self.name = name
        try:
            with path.open("rb") as file:
                raw = file.read(MAP_BYTES_MAX + 1)
            rows = json.loads(raw, parse_float=Decimal, parse_int=Decimal) if len(raw) <= MAP_BYTES_MAX else None
        except OSError as exc:
            raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
        except (ValueError, ArithmeticError, RecursionError):
            rows = None
        if not isinstance(rows, dict):
            raise ConfigError(f"{path}: is not a price map of litellm")
        self._rows: dict[str, Any] = rows

    @classmethod
    def installed(cls) -> "LitellmMap | None":
        """The map of the litellm in this environment, which is not imported; None if there is none."""
        spec = util.find_spec("litellm")
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).with_name(_MAP_NAME)
        return cls(path, f"litellm {metadata.version('litellm')}") if path.exists() else None

    def look_up(self, model: Model, provider: ProviderRow) -> Figures | None:
        company = self._NAMES_BY_HOST.get(urlsplit(provider.base_url).hostname or "", provider.name)
        found = self._row(company, model.upstream_model)
        row: Mapping[str, Any] = found or {}
        images = dict(self._image_prices(model, company, row))
        if found is None and not images:
            return None
        figures = dict(self._token_prices(row))
        figures |= {ours: row[theirs] for theirs, ours in self._CAPS.items() if isinstance(row.get(theirs), Decimal)}
        return figures | images

    def _token_prices(self, row: Mapping[str, Any]) -> Iterator[tuple[str, Decimal]]:
        for theirs, value in row.items():
            found = self._KEY.fullmatch(theirs)
            if found is None or not isinstance(value, Decimal):
                continue
            name, thousands, tier = found.groups()
            path = f"service_tiers.{tier}." if tier else ""
            if thousands:
                path += _LONG
                yield f"{path}{_ABOVE}", Decimal(thousands) * 1000
            yield path + self._TOKEN_PRICES[name], value.scaleb(_PICO_DIGITS_PER_MTOK)

    def _row(self, company: str, upstream_model: str) -> dict[str, Any] | None:
        for key in (f"{company}/{upstream_model}", upstream_model):
            row = self._rows.get(key)
            if isinstance(row, dict) and row.get("litellm_provider") == company:
                return row
        return None

    def _image_prices(self, model: Model, company: str, row: Mapping[str, Any]) -> Iterator[tuple[str, Decimal]]:
        for key in model.price.images or {}:
            size, quality = key.split("/")
            place = size.replace("x", "-x-")
            name = f"{place}/{model.upstream_model}" if quality == "*" else f"{quality}/{place}/{model.upstream_model}"
            priced = row if key == "*/*" else self._row(company, name) or {}
            price = priced.get("output_cost_per_image", priced.get("input_cost_per_image"))
            if isinstance(price, Decimal):
                yield f"image_usd {key}", price


class GenaiPrices:
    """genai-prices' snapshot, as it stands on one day: its rows have dates from which they hold."""

    _TOKEN_PRICES: Mapping[str, str] = {
        "input_mtok": "input_usd_per_mtok",
        "cache_read_mtok": "cached_input_usd_per_mtok",
        "cache_write_mtok": "cache_write_usd_per_mtok",
        "output_mtok": "output_usd_per_mtok",
        "input_audio_mtok": "audio_input_usd_per_mtok",
        "output_audio_mtok": "audio_output_usd_per_mtok",
        "input_image_mtok": "image_input_usd_per_mtok",
        "output_image_mtok": "image_output_usd_per_mtok",
    }

    def __init__(self, snapshot: Any, name: str, on: datetime) -> None:
        self.name = name
        self._snapshot = snapshot
        self._on = on

    @classmethod
    def installed(cls, on: datetime) -> "GenaiPrices | None":
        """The bundled snapshot of the package in this environment at the instant `on`; None if there is none."""
        if util.find_spec("genai_prices") is None:
            return None
        from genai_prices import data_snapshot

        return cls(data_snapshot.get_snapshot(), f"genai-prices {metadata.version('genai-prices')}", on)

    def look_up(self, model: Model, provider: ProviderRow) -> Figures | None:
        try:
            company = self._snapshot.find_provider(None, None, provider.base_url)
            _, row = self._snapshot.find_provider_model(model.upstream_model, company, None, None)
        except LookupError:
            return None
        figures = dict(self._token_prices(row.get_prices(self._on)))
        for tier in self._service_tiers(row):
            prices = row.get_prices(self._on, {"service_tier": tier})
            figures |= self._token_prices(prices, f"service_tiers.{tier}.")
        if model.endpoints <= {"images", "image_edits"} and "image_output_usd_per_mtok" not in figures:
            # Of a model that only makes images, this list calls the rate of an image plain output.
            _rename(figures, "output_usd_per_mtok", "image_output_usd_per_mtok")
        if model.endpoints == {"speech"}:
            _rename(figures, "output_usd_per_mtok", "audio_output_usd_per_mtok")  # likewise of what only speaks
        return figures

    def _service_tiers(self, row: Any) -> list[str]:
        """Those with rates of their own on the day. Other variants (batches, a faster machine) are no service tiers."""
        return [
            variant.when["service_tier"]
            for variant in row.price_variants or ()
            if variant.when.keys() == {"service_tier"}
            and (variant.constraint is None or variant.constraint.active(self._on))
            and any(getattr(variant.prices, name, None) is not None for name in self._TOKEN_PRICES)
        ]

    def _token_prices(self, prices: Any, path: str = "") -> Iterator[tuple[str, Decimal]]:
        rates = {
            ours: value
            for theirs, ours in self._TOKEN_PRICES.items()
            if (value := getattr(prices, theirs, None)) is not None
        }
        steps = sorted({step.start for rate in rates.values() for step in getattr(rate, "tiers", ())})
        for ours, rate in rates.items():
            yield path + ours, _up_to(rate, 0)
        for number, start in enumerate(steps):
            # Our file has room for one step; a second one shows as a difference.
            long = f"{path}{_LONG}" if number == 0 else f"{path}long_prompt above {start}."
            yield f"{long}{_ABOVE}", Decimal(start)
            for ours, rate in rates.items():
                yield long + ours, _up_to(rate, start)


def _up_to(rate: Any, start: int) -> Decimal:
    """What a rate is above `start` tokens. One without steps is a number."""
    if isinstance(rate, Decimal):
        return rate
    reached = [step.price for step in rate.tiers if step.start <= start]
    price: Decimal = reached[-1] if start and reached else rate.base
    return price


def _rename(figures: dict[str, Decimal], old: str, new: str) -> None:
    if old in figures:
        figures[new] = figures.pop(old)


def shown(figure: Decimal | None) -> str:
    """Exact, without an exponent, `-` for none."""
    return "-" if figure is None else format(figure.normalize(), "f")


def aligned(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """The rows as lines of text, their columns under each other."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
