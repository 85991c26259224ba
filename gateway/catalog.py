"""pricing.toml -> providers, models, prices: the one truth about models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

StreamUsage = Literal["inject", "always", "never"]


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """`[providers.NAME]`."""

    name: str
    dialect: str
    base_url: str = ""
    api_key_env: str = ""
    """Environment variable that holds the provider key; empty for providers that need none."""
    auth_header: str = "authorization"
    """`authorization` sends `Bearer KEY`; any other header name carries the bare key (Azure: `api-key`)."""
    stream_usage: StreamUsage = "inject"
    """How streams report usage: `inject` asks with `stream_options.include_usage`, `always` needs no asking, `never` has none."""
    retry_unanswered: bool = False
    """A request on a reused connection that closed before any answer byte may be sent once more."""
    gone_grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """Pico-dollars (1e-12 USD) per token; None means there is no price, and that kind of token is refused."""

    version: str
    """`<file version>.<digest of the row>`: it changes whenever any number of the row does."""
    input: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    output: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_output: int | None = None
    images: Mapping[str, int] | None = None
    """Pico-dollars per image, by `size/quality` (`1024x1024/hd`); a `*` stands for any."""


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


@dataclass(frozen=True, slots=True)
class Catalog:
    version: str
    providers: Mapping[str, ProviderRow]
    models: Mapping[str, Model]


def load_catalog(path: Path | None = None) -> Catalog:
    """The catalog of `path`, or the packaged one. Raises `ConfigError` naming file, line and reason."""
    raise NotImplementedError
