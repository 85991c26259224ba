"""pricing.toml -> providers, models, prices: the one truth about models.

Loading is strict: every fault of the file is reported with its line, and a file with any fault is refused whole. What is
allowed but deserves a look (a model without a price or a cap) is told by `lint_catalog`.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from gateway.deployment_rows import DeploymentRow, read_deployments
from gateway.price_rows import (
    CREDITS_MAX,
    IMAGE_VARIANT,
    PICO_PER_NANO,
    PRICE_FIELDS,
    PRICE_KEYS,
    TOKENS_MAX,
    Price,
    read_price,
    row_of,
)
from gateway.provider_rows import DIALECTS, MaxTokensField, ProviderRow, StreamUsage, read_provider
from gateway.toml_file import Table, TomlFile

__all__ = [
    "DIALECTS",
    "ENDPOINTS",
    "PICO_PER_NANO",
    "PRICE_FIELDS",
    "Catalog",
    "Deployment",
    "MaxTokensField",
    "Model",
    "Price",
    "ProviderRow",
    "StreamUsage",
    "lint_catalog",
    "load_catalog",
    "packaged_catalog",
]

ENDPOINTS = frozenset(
    """
    chat completions embeddings images image_edits image_variations speech transcriptions translations moderations
    responses messages
    """.split()
)
_MODELS_MAX = 10_000
_RETRIES_MAX = 5
_PROVIDERS_MAX = 1_000

_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Model:
    """`[models."NAME"]`."""

    name: str
    provider: str
    upstream_model: str
    endpoints: frozenset[str]
    price: Price
    display_name: str = ""
    description: str = ""
    active: bool = True
    tier: str = "standard"
    context_tokens_max: int | None = None
    output_tokens_max: int | None = None
    capabilities: frozenset[str] = frozenset()
    credits: int | None = None
    downgrade_to: str | None = None
    source: str = ""
    image_default: str | None = None
    """`size/quality` of an image where a request names none."""
    image_output_tokens_max: int | None = None
    """The most tokens one image is, of a model whose images are priced by tokens."""
    deployments: "tuple[Deployment, ...]" = ()
    """Where its calls go; empty: to `provider` alone."""
    sticky: bool = False
    """Calls of one creator go to the same deployment as long as it is well."""
    retries: int = 0
    """How often the gateway itself asks again where all deployments refused; SDKs do so, too."""
    route: str = ""
    """Of a deployment with a name and prices of its own: the model whose deployment it is."""

    @property
    def asked_as(self) -> str:
        """The name a request has for it: its own, or that of the model whose deployment it is."""
        return self.route or self.name

    def missing_prices(self, endpoint: str) -> tuple[str, ...]:
        """Keys of the prices without which a call of `endpoint` is refused as unpriced; empty when all are there."""
        if endpoint in _IMAGE_ENDPOINTS and self.price.images:
            return ()
        if getattr(self.price, _PIECE_NEEDED.get(endpoint, ""), None) is not None:
            return ()
        missing = [f"{name}_usd_per_mtok" for name in _PRICES_NEEDED[endpoint] if getattr(self.price, name) is None]
        if endpoint in _IMAGE_ENDPOINTS and self.image_output_tokens_max is None:
            missing.append("image_output_tokens_max")
        return tuple(missing)


class Deployment(NamedTuple):
    """One of the places that serve a model."""

    model: Model
    """With the provider, the provider's model and the price of this place. Its name is what is booked as served: that of
    the model itself, or of another one."""
    weight: int = 1
    """Its share of the calls; 0: only when the others fail."""


_IMAGE_ENDPOINTS = frozenset({"images", "image_edits", "image_variations"})
_PRICES_NEEDED: Mapping[str, tuple[str, ...]] = {
    "chat": ("input", "output"),
    "completions": ("input", "output"),
    "responses": ("input", "output"),
    "messages": ("input", "output"),
    "embeddings": ("input",),
    "moderations": ("input",),
    "images": ("input", "image_output"),
    "image_edits": ("input", "image_input", "image_output"),
    "image_variations": ("input", "image_input", "image_output"),
    "speech": ("input", "audio_output"),
    "transcriptions": ("input", "audio_input", "output"),
    "translations": ("input", "audio_input", "output"),
}
_PIECE_NEEDED: Mapping[str, str] = {
    "speech": "character",
    "transcriptions": "audio_second",
    "translations": "audio_second",
}
"""The one price that will do instead."""


@dataclass(frozen=True, slots=True)
class Catalog:
    version: str
    providers: Mapping[str, ProviderRow]
    models: Mapping[str, Model]

    def with_keys(self, lookup: Callable[[str], str | None]) -> "Catalog":
        """The catalog in which a model is inactive if its provider names an `api_key_env` that `lookup` finds unset."""
        keyless = {row.name for row in self.providers.values() if row.api_key_env and not lookup(row.api_key_env)}
        models = {name: _without(model, keyless) for name, model in self.models.items()}
        return Catalog(self.version, self.providers, models)

    def prices(self) -> Iterable[tuple[str, Price]]:
        """Every price an entry may name, with the name of the model served; some more than once."""
        for model in self.models.values():
            yield model.name, model.price
            yield from ((each.model.name, each.model.price) for each in model.deployments)


def _without(model: Model, keyless: Collection[str]) -> Model:
    """The model without the deployments that have no key; inactive when none is left."""
    if not model.deployments:
        return replace(model, active=False) if model.active and model.provider in keyless else model
    left = tuple(each for each in model.deployments if each.model.provider not in keyless and each.model.active)
    return replace(model, deployments=left) if left else replace(model, active=False)


def load_catalog(path: Path | None = None) -> Catalog:
    """The catalog of `path`, or the packaged one. Raises `ConfigError` naming file, line and reason."""
    file = TomlFile(path or packaged_catalog())
    root = Table(file, (), file.data)
    root.refuse_unknown(("version", "providers", "models"))
    version = _version(root)
    providers = {
        name: read_provider(name, table) for name, table in root.tables("providers", count_max=_PROVIDERS_MAX).items()
    }
    rows = root.tables("models", count_max=_MODELS_MAX)
    models = {name: _model(name, table, version, providers) for name, table in rows.items()}
    deployments = {name: read_deployments(table) for name, table in rows.items()}
    models = {name: _with_deployments(model, deployments, models, providers) for name, model in models.items()}
    _check_downgrades(rows, models)
    file.finish()
    return Catalog(version, providers, models)


def packaged_catalog() -> Path:
    """Where the catalog that ships with the gateway is: inside the package, or beside it in a checkout."""
    inside = Path(__file__).with_name("pricing.toml")
    return inside if inside.exists() else Path(__file__).parents[1] / "pricing.toml"


def lint_catalog(catalog: Catalog) -> list[str]:
    """What a loadable catalog should still explain: one warning a line, naming the model. For `gateway check`."""
    return [f'models."{model.name}": {text}' for model in catalog.models.values() for text in _doubts(model, catalog)]


def _doubts(model: Model, catalog: Catalog) -> Iterable[str]:
    for endpoint in sorted(model.endpoints):
        if missing := model.missing_prices(endpoint):
            yield f"no {' and '.join(missing)}: {endpoint} calls are refused as unpriced"
    if model.endpoints & {"chat", "completions", "responses", "messages"}:
        if model.context_tokens_max is None:
            yield "no context_tokens_max: holds go by the size of the request alone"
        if model.output_tokens_max is None:
            yield "no output_tokens_max: a call without max_tokens has no worst case of its own"
    if not model.source:
        yield "no source: say where and when its prices were read"
    yield from _price_doubts(model)
    if target := catalog.models.get(model.downgrade_to or ""):
        yield from _downgrade_doubts(model, target)


def _price_doubts(model: Model) -> Iterable[str]:
    price = model.price
    if price.images and model.image_default is None and "*/*" not in price.images:
        yield "no image_default: calls that name no size or quality are refused as unpriced"
    if model.context_tokens_max is not None and price.long_prompt and price.long_above >= model.context_tokens_max:
        yield "long_prompt begins above context_tokens_max: no call gets there"


def _downgrade_doubts(model: Model, target: Model) -> Iterable[str]:
    if lost := sorted(model.endpoints - target.endpoints):
        yield f"downgrade_to {target.name} does not serve {', '.join(lost)}: such calls are not downgraded"
    if lost := sorted(model.capabilities - target.capabilities):
        yield f"downgrade_to {target.name} lacks {', '.join(lost)}: calls that need it are not downgraded"
    variants = (model.price.images or {}) if target.price.images else {}
    if lost := sorted(key for key in variants if target.price.image_pico_usd(key) is None):
        yield f"downgrade_to {target.name} has no price for {', '.join(lost)}: such calls are not downgraded"
    if _is_dearer(target.price, model.price):
        yield f"downgrade_to {target.name} costs more"


def _is_dearer(one: Price, other: Price) -> bool:
    """Whether anything costs more at `one`: a token of a short or long prompt, an image, a second, a character."""
    longest = TOKENS_MAX + 1
    long, other_long = one.at(longest), other.at(longest)
    pairs = [
        (one.input, other.input),
        (one.output, other.output),
        (long.input, other_long.input),
        (long.output, other_long.output),
        (one.audio_second, other.audio_second),
        (one.character, other.character),
        *((one.image_pico_usd(variant), pico_usd) for variant, pico_usd in (other.images or {}).items()),
    ]
    return any(theirs is not None and ours is not None and theirs > ours for theirs, ours in pairs)


def _version(root: Table) -> str:
    number = root.data.get("version")
    if number == "":
        root.fault("must not be empty", "version")
    return str(number) if type(number) is int else root.text("version", default=None, chars_max=64)


_MODEL_KEYS = frozenset(Model.__dataclass_fields__.keys() - {"name", "price", "route"} | PRICE_KEYS)


def _model(name: str, table: Table, version: str, providers: Mapping[str, ProviderRow]) -> Model:
    table.refuse_unknown(_MODEL_KEYS)
    if not name.isprintable() or not 1 <= len(name) <= 200 or name != name.strip():
        table.fault("a model's name must be 1 to 200 printable characters without spaces around them")
    # What deployments say need not be said twice.
    provider = table.text("provider", default="" if table.data.get("deployments") else None)
    if provider and provider not in providers:
        table.fault(f"there is no [providers.{provider}]", "provider")
    tier = table.text("tier") or "standard"
    if not _WORD.fullmatch(tier):
        table.fault(f"must match {_WORD.pattern}", "tier")
    price = read_price(name, table, version)
    return Model(
        name=name,
        provider=provider,
        upstream_model=table.text("upstream_model", default=name) or name,
        endpoints=_endpoints(table),
        price=price,
        display_name=table.text("display_name"),
        description=table.text("description", chars_max=2000),
        active=table.flag("active", default=True),
        tier=tier,
        context_tokens_max=table.count("context_tokens_max", at_least=1, at_most=TOKENS_MAX),
        output_tokens_max=table.count("output_tokens_max", at_least=1, at_most=TOKENS_MAX),
        capabilities=table.words("capabilities", allowed=_WORD),
        credits=table.count("credits", at_least=0, at_most=CREDITS_MAX),
        downgrade_to=table.text("downgrade_to") or None,
        source=table.text("source", chars_max=1000),
        image_default=_image_default(table, price),
        image_output_tokens_max=table.count("image_output_tokens_max", at_least=1, at_most=TOKENS_MAX),
        sticky=table.flag("sticky", default=False),
        retries=table.count("retries", at_least=0, at_most=_RETRIES_MAX) or 0,
    )


def _with_deployments(
    model: Model,
    rows: Mapping[str, Sequence[DeploymentRow]],
    models: Mapping[str, Model],
    providers: Mapping[str, ProviderRow],
) -> Model:
    """`model` with its deployments; what its own row leaves out is what the first of them says."""
    found: list[Deployment] = []
    for row in rows[model.name]:
        if row.model:
            if row.model not in models or row.model == model.name:
                row.table.fault(f'there is no other [models."{row.model}"]', "model")
            elif rows[row.model]:
                row.table.fault(f'[models."{row.model}"] has deployments itself: name those', "model")
            elif lacking := sorted(model.endpoints - models[row.model].endpoints):
                row.table.fault(f'[models."{row.model}"] does not serve {", ".join(lacking)}', "model")
            else:
                found.append(Deployment(replace(models[row.model], route=model.name), row.weight))
        elif row.provider not in providers:
            row.table.fault(f"there is no [providers.{row.provider}]", "provider")
        else:
            place = replace(
                model,
                provider=row.provider,
                upstream_model=row.upstream_model or model.upstream_model,
                price=_price_of(model, row),
            )
            found.append(Deployment(place, row.weight))
    if not found:
        return model
    first = found[0].model
    caps = [each.model.output_tokens_max for each in found]
    rooms = [each.model.context_tokens_max for each in found]
    return replace(
        model,
        deployments=tuple(found),
        provider=model.provider or first.provider,
        price=model.price if row_of(model.price) else first.price,
        # What all of them can do.
        capabilities=model.capabilities or frozenset.intersection(*(each.model.capabilities for each in found)),
        output_tokens_max=model.output_tokens_max or (None if None in caps else min(filter(None, caps))),
        context_tokens_max=model.context_tokens_max or (None if None in rooms else min(filter(None, rooms))),
    )


def _price_of(model: Model, row: DeploymentRow) -> Price:
    if not row.has_price:
        return model.price
    return read_price(model.name, row.table, model.price.version.rpartition(".")[0])


def _image_default(table: Table, price: Price) -> str | None:
    variant = table.text("image_default") or None
    if variant is not None and not IMAGE_VARIANT.fullmatch(variant):
        table.fault("must be size/quality such as 1024x1024/standard", "image_default")
    elif variant is not None and price.images is not None and price.image_pico_usd(variant) is None:
        table.fault("has no price in image_usd", "image_default")
    return variant


def _endpoints(table: Table) -> frozenset[str]:
    if not table.data.get("endpoints"):
        table.fault("endpoints is missing or empty")
        return frozenset()
    endpoints = table.words("endpoints", allowed=_WORD)
    if unknown := endpoints - ENDPOINTS:
        table.fault(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(sorted(ENDPOINTS))}", "endpoints")
    return endpoints & ENDPOINTS


def _check_downgrades(rows: Mapping[str, Table], models: Mapping[str, Model]) -> None:
    for name, model in models.items():
        if model.downgrade_to is None:
            continue
        target = models.get(model.downgrade_to)
        if target is None:
            rows[name].fault("names a model that is not in this file", "downgrade_to")
        elif _leads_back(name, models):
            rows[name].fault(f"the downgrades from {name} lead back to it", "downgrade_to")
        elif model.endpoints and not model.endpoints & target.endpoints:
            rows[name].fault(f"{target.name} serves none of this model's endpoints", "downgrade_to")


def _leads_back(start: str, models: Mapping[str, Model]) -> bool:
    seen: set[str] = set()
    name: str | None = models[start].downgrade_to
    while name is not None and name in models and name not in seen:
        if name == start:
            return True
        seen.add(name)
        name = models[name].downgrade_to
    return False
