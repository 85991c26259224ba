"""Public price lists beside the catalog: where do they say something else? Offline, and exact.

Two lists are known: litellm's map, a JSON file that is read by its path, because importing litellm takes seconds; and
genai-prices, a package with a dated snapshot, imported only here and only on demand. Neither is asked for updates.
A list that leaves a figure out says nothing about it; what we leave out, and they have, is a difference.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from gateway.catalog import PRICE_FIELDS, Catalog, Model, ProviderRow
from gateway.errors import ConfigError

MAP_BYTES_MAX = 64 * 2**20
_MAP_NAME = "model_prices_and_context_window_backup.json"
_PICO_DIGITS_PER_MTOK = 6
_PICO_DIGITS = 12


class Stated(NamedTuple):
    """What a list says of one model: US dollars (or tokens) by our keys, and what our file has no room for."""

    figures: Mapping[str, Decimal]
    has_long_prompt_rates: bool


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
    long_prompt_rates: list[str]
    """Models for which the reference has dearer rates above some prompt size."""
    equal: int
    """Models listed and without a difference."""


class Reference(Protocol):
    @property
    def name(self) -> str: ...

    def look_up(self, model: Model, provider: ProviderRow) -> Stated | None:
        """What the list says of `model`; None if it does not have it."""
        ...


def compare(catalog: Catalog, reference: Reference) -> Comparison:
    """Every figure that both have, and every one that only the reference has. Models of the mock are left out."""
    result = Comparison([], [], [], 0)
    equal = 0
    for model in catalog.models.values():
        provider = catalog.providers[model.provider]
        if provider.dialect == "mock":
            continue
        stated = reference.look_up(model, provider)
        if stated is None:
            result.unlisted.append(model.name)
            continue
        if stated.has_long_prompt_rates:
            result.long_prompt_rates.append(model.name)
        found = list(_differences(model, stated, reference.name))
        result.differences.extend(found)
        equal += not found
    return result._replace(equal=equal)


def _differences(model: Model, stated: Stated, reference: str) -> Iterator[Difference]:
    ours = our_figures(model)
    for key, theirs in stated.figures.items():
        mine = ours.get(key)
        if mine is None and key == "reasoning_usd_per_mtok":
            mine = ours.get("output_usd_per_mtok")
        if mine is None and theirs == 0:
            continue  # An embedding's output, say: a rate for what does not exist.
        if mine != theirs:
            yield Difference(model.name, key, mine, theirs, reference)


def our_figures(model: Model) -> dict[str, Decimal]:
    """The prices and caps of a catalog row, by the keys of pricing.toml."""
    figures = {
        f"{name}_usd_per_mtok": _scaled(pico, _PICO_DIGITS_PER_MTOK)
        for name in PRICE_FIELDS
        if (pico := getattr(model.price, name)) is not None
    }
    figures |= {f"image_usd {key}": _scaled(pico, _PICO_DIGITS) for key, pico in (model.price.images or {}).items()}
    for name in ("context_tokens_max", "output_tokens_max"):
        if (tokens := getattr(model, name)) is not None:
            figures[name] = Decimal(tokens)
    return figures


def _scaled(amount: int, digits: int) -> Decimal:
    return Decimal(amount).scaleb(-digits)


class LitellmMap:
    """litellm's price map."""

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

    def look_up(self, model: Model, provider: ProviderRow) -> Stated | None:
        company = self._NAMES_BY_HOST.get(urlsplit(provider.base_url).hostname or "", provider.name)
        found = self._row(company, model.upstream_model)
        row: Mapping[str, Any] = found or {}
        images = dict(self._image_prices(model, company, row))
        if found is None and not images:
            return None
        figures = {
            ours: value.scaleb(_PICO_DIGITS_PER_MTOK)
            for theirs, ours in self._TOKEN_PRICES.items()
            if isinstance(value := row.get(theirs), Decimal)
        }
        figures |= {ours: row[theirs] for theirs, ours in self._CAPS.items() if isinstance(row.get(theirs), Decimal)}
        return Stated(figures | images, any("_above_" in key and key.endswith("k_tokens") for key in row))

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

    def look_up(self, model: Model, provider: ProviderRow) -> Stated | None:
        try:
            company = self._snapshot.find_provider(None, None, provider.base_url)
            _, row = self._snapshot.find_provider_model(model.upstream_model, company, None, None)
        except LookupError:
            return None
        prices = row.get_prices(self._on)
        figures: dict[str, Decimal] = {}
        has_tiers = False
        for theirs, ours in self._TOKEN_PRICES.items():
            value = getattr(prices, theirs, None)
            if value is None:
                continue
            # A rate with tiers is an object: its base holds up to the first of them.
            has_tiers = has_tiers or not isinstance(value, Decimal)
            figures[ours] = value if isinstance(value, Decimal) else value.base
        if model.endpoints <= {"images", "image_edits"} and "image_output_usd_per_mtok" not in figures:
            # Of a model that only makes images, this list calls the rate of an image plain output.
            _rename(figures, "output_usd_per_mtok", "image_output_usd_per_mtok")
        return Stated(figures, has_tiers)


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
