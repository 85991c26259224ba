"""`model_list` -> rows of the catalog: equal names become deployments of one model, aliases and fallbacks follow.

1. Each entry is a place: a provider row, what the provider calls the model, what it costs.
2. Places of one name are one row; several are its deployments, with shares as LiteLLM's default strategy draws them.
3. Fallbacks are deployments of weight 0, tried when the others fail; an alias is a row of its own.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from math import lcm

from gateway.deployment_rows import DEPLOYMENTS_MAX
from gateway.litellm_config.prices import is_price, read_prices
from gateway.litellm_config.providers import Providers, Target, split_model
from gateway.litellm_config.source import UNKNOWN, At
from gateway.price_rows import PRICE_KEYS, TOKENS_MAX

__all__ = ["Draft", "Place", "alias", "fall_back", "read_models", "unpriced"]

Packaged = Mapping[str, Mapping[str, object]]
"""Rows of the packaged catalog, as its file has them."""

_WEIGHT_MAX = 1_000_000
_OF_MODE = {
    "chat": ("chat",),
    "completion": ("completions",),
    "embedding": ("embeddings",),
    "image_generation": ("images",),
    "image_edit": ("image_edits",),
    "audio_speech": ("speech",),
    "audio_transcription": ("transcriptions",),
    "moderation": ("moderations",),
    "responses": ("responses",),
}
_BY_NAME = (
    (("embed",), "embedding"),
    (("dall-e", "gpt-image", "imagen", "flux", "stable-diffusion", "recraft"), "image_generation"),
    (("whisper", "transcribe"), "audio_transcription"),
    (("tts",), "audio_speech"),
    (("moderation",), "moderation"),
)
_OF_DIALECT = {
    "anthropic": {"chat"},
    "gemini": {"chat", "embeddings", "images"},
    "fal": {"images", "image_edits"},
    "litellm": {"chat", "embeddings", "images"},
}
_CAPABILITIES = {
    "supports_function_calling": "tools",
    "supports_vision": "vision",
    "supports_response_schema": "json_schema",
    "supports_reasoning": "reasoning",
    "supports_audio_input": "audio",
}
_LIMITS = "a limit of its provider can stand in a plan: [plans.NAME.providers.PROVIDER], for each creator"
_OTHERS: Mapping[str, str] = {
    "aws_access_key_id": "litellm looks for it in AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "litellm looks for it in AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "litellm looks for it in AWS_SESSION_TOKEN",
    "aws_region_name": "litellm looks for it in AWS_REGION_NAME, one for all",
    "aws_profile_name": "litellm looks for it in AWS_PROFILE",
    "vertex_project": "litellm looks for it in VERTEXAI_PROJECT, one for all",
    "vertex_location": "litellm looks for it in VERTEXAI_LOCATION, one for all",
    "vertex_ai_project": "litellm looks for it in VERTEXAI_PROJECT, one for all",
    "vertex_ai_location": "litellm looks for it in VERTEXAI_LOCATION, one for all",
    "vertex_credentials": "litellm looks for it in GOOGLE_APPLICATION_CREDENTIALS, the path of a file",
    "timeout": "deadlines are the same for all models: GATEWAY_TOTAL_TIMEOUT_S",
    "stream_timeout": "deadlines are the same for all models: GATEWAY_FIRST_BYTE_TIMEOUT_S",
    "max_retries": "retries go by model, and come from num_retries of router_settings",
    "num_retries": "retries go by model, and come from num_retries of router_settings",
    "cooldown_time": "the same for all: GATEWAY_CIRCUIT_OPEN_S",
    "max_parallel_requests": "write it yourself: concurrent_calls in [plans.NAME.providers.PROVIDER], for each creator",
    "max_budget": "no budget of a deployment: plans and creators have them",
    "budget_duration": "no budget of a deployment: plans and creators have them",
    "tags": "no routing by tags: give the deployment a model name of its own",
    "drop_params": "what a dialect does not have is left out where it is harmless, else refused by name (docs/providers.md)",
    "extra_headers": "write it yourself: headers of the provider, never secrets",
    "headers": "write it yourself: headers of the provider, never secrets",
    "extra_body": "bodies are the caller's",
    "mock_response": 'the dialect mock answers by itself: [models."mock-1"] of the packaged catalog',
    "litellm_credential_name": "credentials of LiteLLM's database are not in the file: give the deployment an api_key",
    "use_in_pass_through": "there are no pass-through endpoints",
    "azure_ad_token": "Azure is called with an api-key only",
    "tenant_id": "Azure is called with an api-key only",
    "client_id": "Azure is called with an api-key only",
    "client_secret": "Azure is called with an api-key only",
    "configurable_clientside_auth_params": "callers never choose provider keys",
}
_DEFAULTS = frozenset(
    """
    temperature top_p top_k max_tokens max_completion_tokens n stop presence_penalty frequency_penalty seed user thinking
    reasoning_effort response_format stream tools tool_choice parallel_tool_calls logit_bias metadata store service_tier
    """.split()
)
_INFO: Mapping[str, str] = {
    "id": "deployments have no ids: health is told by provider and name",
    "access_groups": "write it yourself: models in a plan, or in overrides of a creator or key",
    "team_id": "write it yourself: models in a plan, or in overrides of a creator or key",
    "team_public_model_name": "write it yourself: models in a plan, or in overrides of a creator or key",
    "health_check_model": "health follows from the calls themselves",
    "litellm_provider": "the provider follows from litellm_params",
}


@dataclass(frozen=True)
class Place:
    """One deployment."""

    provider: str
    upstream_model: str
    prices: Mapping[str, object]
    weight: int = 1
    model: str = ""
    """Another row instead, of which the rest is then empty."""

    @property
    def where(self) -> tuple[str, str, str]:
        return self.model, self.provider, self.upstream_model


@dataclass
class Draft:
    """A row of the catalog to be written."""

    name: str
    endpoints: list[str]
    places: list[Place]
    row: dict[str, object] = field(default_factory=dict)
    """Everything else: caps, capabilities, source, images."""
    retries: int = 0


@dataclass(frozen=True)
class _Entry:
    """An entry of the list that can be taken."""

    at: At
    name: str
    endpoints: list[str]
    place: Place
    row: Mapping[str, object]
    share: tuple[Decimal | None, Decimal | None, Decimal | None]
    """weight, rpm and tpm."""
    order: Decimal | None


def read_models(entries: Iterable[At], providers: Providers, packaged: Packaged) -> dict[str, Draft]:
    """The rows of all entries that can be taken, by name; every key is spoken of."""
    by_name: dict[str, list[_Entry]] = {}
    for at in entries:
        entry = _entry(at, providers, packaged)
        if isinstance(entry, str):
            at.not_taken(entry)
        else:
            by_name.setdefault(entry.name, []).append(entry)
    return {name: _draft(name, found) for name, found in by_name.items()}


def unpriced(draft: Draft) -> bool:
    """Whether calls of the model would be refused for want of a price."""
    own = [place for place in draft.places if not place.model]
    return bool(own) and not any(place.prices for place in own)


# One entry


def _entry(at: At, providers: Providers, packaged: Packaged) -> _Entry | str:
    """The entry, or why it cannot be taken."""
    params, info = at.get("litellm_params"), at.get("model_info")
    name_at = at.get("model_name")
    name = at.text("model_name")
    model_at = params.get("model") if params is not None else None
    model = params.text("model") if params is not None else ""
    if name_at is None or params is None or model_at is None or not name or not model:
        return "an entry needs model_name and litellm_params.model"
    if "*" in name or "*" in model:
        return "the catalog holds exact names, no wildcards: write an entry for each model"
    if not name.isprintable() or len(name) > 200 or name != name.strip():
        return "a name is 1 to 200 printable characters"
    custom = params.get("custom_llm_provider")
    target = split_model(model, params.text("custom_llm_provider"))
    if target is None or not target.model.isprintable() or len(target.model) > 200:
        return "its provider is none that is known here: write a row yourself (docs/providers.md)"
    provider = providers.read(params, target)
    if isinstance(provider, str):
        return provider
    known = _packaged_row(target, info, packaged)
    endpoints = _endpoints(info, target, known, provider.dialect)
    if isinstance(endpoints, str):
        return endpoints
    for taken in (name_at, custom):
        if taken is not None:
            taken.taken()
    note = f"upstream_model, at provider {target.prefix}"
    if provider.query:
        note += "; the deployment stands in base_url"
        endpoints = [each for each in endpoints if each != "responses"] or endpoints
    prices = read_prices((params, info, at), endpoints)
    row = ({key: known[1][key] for key in _COPIED if key in known[1]} if known is not None else {}) | _caps(info)
    if not prices and known is not None:
        prices = {key: value for key, value in known[1].items() if key in PRICE_KEYS}
        row["source"] = f'the packaged catalog, models."{known[0]}"'
        note += f"; prices and bounds of the packaged catalog's {known[0]}"
    elif prices:
        row["source"] = "the LiteLLM configuration"
        note += f"; bounds of the packaged catalog's {known[0]}" if known is not None else ""
    if "image_usd" in prices and "image_default" not in row:
        row["image_default"] = "1024x1024/standard"
    _speak_of_rest(at, params, info)
    place = Place(providers.name_of(provider), target.model, prices)
    model_at.taken(note)
    return _Entry(at, name, endpoints, place, row, _share(at, params), _number(params, "order"))


_COPIED = ("context_tokens_max", "output_tokens_max", "capabilities", "image_default", "image_output_tokens_max")


def _packaged_row(target: Target, info: At | None, packaged: Packaged) -> tuple[str, Mapping[str, object]] | None:
    """The row of the packaged catalog for this very model, under the same provider (Azure's prices are OpenAI's)."""
    provider = {"azure": "openai", "fal_ai": "fal"}.get(target.prefix, target.prefix)
    names = [target.model]
    base = info.get("base_model") if info is not None else None
    if base is not None and isinstance(base.value, str):
        base.taken("looked up in the packaged catalog, for prices")
        names.insert(0, base.value.rpartition("/")[2])
    for wanted in names:
        for name, row in packaged.items():
            if row.get("provider") == provider and row.get("upstream_model", name) == wanted:
                return name, row
    return None


def _endpoints(
    info: At | None, target: Target, known: tuple[str, Mapping[str, object]] | None, dialect: str
) -> list[str] | str:
    mode = info.get("mode") if info is not None else None
    if mode is not None:
        found = _OF_MODE.get(mode.value) if isinstance(mode.value, str) else None
        if found is None:
            return "no endpoint serves its mode"
        mode.taken(f"endpoints: {', '.join(found)}")
        wanted = set(found)
    elif known is not None:
        endpoints = known[1].get("endpoints")
        wanted = {str(each) for each in endpoints} if isinstance(endpoints, list) else {"chat"}
    elif target.prefix.startswith("text-completion"):
        wanted = {"completions"}
    else:
        guessed = next(
            (mode for parts, mode in _BY_NAME if any(part in target.model.lower() for part in parts)), "chat"
        )
        wanted = {"images"} if dialect == "fal" else set(_OF_MODE[guessed])
    if wanted == {"chat"} and target.prefix == "openai":
        wanted = {"chat", "responses"}
    if target.by_responses:
        wanted = {"responses"}
    served = sorted(wanted & _OF_DIALECT.get(dialect, wanted))
    return served or f"the dialect {dialect} does not serve {', '.join(sorted(wanted))}"


def _caps(info: At | None) -> dict[str, object]:
    """Bounds and capabilities; a lone `max_tokens` is LiteLLM's older word for the longest answer."""
    row: dict[str, object] = {}
    if info is None:
        return row
    keys = {"max_input_tokens": "context_tokens_max", "max_output_tokens": "output_tokens_max"}
    if info.get("max_output_tokens") is None:
        keys["max_tokens"] = "output_tokens_max"
    elif (older := info.get("max_tokens")) is not None:
        older.not_taken("max_output_tokens says it")
    for key, ours in keys.items():
        if (at := info.get(key)) is not None:
            number = at.number()
            if number is not None and number == int(number) and 1 <= number <= TOKENS_MAX:
                row[ours] = int(number)
                at.taken(ours)
            else:
                at.not_taken(f"is no whole number from 1 to {TOKENS_MAX}")
    capabilities = []
    for key, word in _CAPABILITIES.items():
        if (at := info.get(key)) is not None:
            at.taken(f"capabilities: {'with' if at.value is True else 'without'} {word}")
            capabilities += [word] if at.value is True else []
    if capabilities:
        row["capabilities"] = capabilities
    return row


def _number(params: At, key: str) -> Decimal | None:
    at = params.get(key)
    return None if at is None else at.number()


def _share(entry: At, params: At) -> tuple[Decimal | None, Decimal | None, Decimal | None]:
    """What LiteLLM's simple-shuffle goes by; rpm and tpm once stood beside `litellm_params`."""
    found = []
    for key in ("weight", "rpm", "tpm"):
        at = params.get(key) or entry.get(key)
        number = None if at is None else at.number()
        found.append(number if number is not None and 0 <= number <= 10**12 else None)
    return found[0], found[1], found[2]


def _speak_of_rest(entry: At, params: At, info: At | None) -> None:
    for at in params.below():
        key = str(at.path[-1])
        if key in ("api_key", "api_base", "base_url", "api_version", "organization", "model", "custom_llm_provider"):
            continue
        if key in ("weight", "rpm", "tpm", "order", "additional_drop_params") or is_price(key):
            continue
        if key in _OTHERS:
            at.not_taken(_OTHERS[key])
        elif key in _DEFAULTS:
            at.not_taken("requests are sent as callers wrote them: there are no defaults for their fields")
    for at in info.below() if info is not None else ():
        key = str(at.path[-1])
        if key in _INFO:
            at.not_taken(_INFO[key])
        elif key.startswith("supports_") and key not in _CAPABILITIES:
            at.not_taken("a call that cannot be done is the provider's to refuse")
    for at in entry.below():
        if str(at.path[-1]) not in ("model_name", "litellm_params", "model_info", "rpm", "tpm"):
            at.not_taken(UNKNOWN)


# Several entries


def _draft(name: str, entries: Sequence[_Entry]) -> Draft:
    first = entries[0]
    fitting = []
    has_price = any(entry.place.prices for entry in entries)
    endpoints = list(first.endpoints)
    for entry in entries:
        if not (common := [each for each in endpoints if each in entry.endpoints]):
            entry.at.not_taken("an entry of the same name before it serves other endpoints: give it a name of its own")
        elif has_price and not entry.place.prices:
            entry.at.not_taken("has no price, and others of its name have: give it input_cost_per_token and so on")
        else:
            endpoints = common
            fitting.append(entry)
    places: dict[tuple[str, str, str], Place] = {}
    for entry, weight in zip(fitting, _weights(fitting), strict=True):
        place = entry.place
        standing = places.get(place.where)
        if standing is not None:
            weight += standing.weight
            entry.at.differently("the same place as an entry before it: one deployment, with the weight of both")
        elif len(places) == DEPLOYMENTS_MAX:
            entry.at.not_taken(f"a model has at most {DEPLOYMENTS_MAX} deployments")
            continue
        places[place.where] = replace(standing or place, weight=min(weight, _WEIGHT_MAX))
    return Draft(name, endpoints, list(places.values()), dict(fitting[0].row))


def _weights(entries: Sequence[_Entry]) -> list[int]:
    """Whole numbers in the proportion in which LiteLLM's default strategy draws: weight, else rpm, else tpm, else equal."""
    column = next((n for n in range(3) if any(entry.share[n] for entry in entries)), None)
    _speak_of_shares(entries, column)
    if column is None or len(entries) == 1:
        weights = [1] * len(entries)
    else:
        shares = [Fraction(entry.share[column] or 0) for entry in entries]
        scale = lcm(*(share.denominator for share in shares))
        whole = [int(share * scale) for share in shares]
        largest = max(whole)
        weights = [each if largest <= _WEIGHT_MAX else -(-each * _WEIGHT_MAX // largest) for each in whole]
    return _by_order(entries, weights if any(weights) else [1] * len(entries))


def _by_order(entries: Sequence[_Entry], weights: list[int]) -> list[int]:
    orders = [entry.order for entry in entries if entry.order is not None]
    if not orders:
        return weights
    found = []
    for entry, weight in zip(entries, weights, strict=True):
        is_first = entry.order == min(orders)
        found.append(weight if is_first else 0)
        if (params := entry.at.get("litellm_params")) is not None and (at := params.get("order")) is not None:
            at.differently("weight as told" if is_first else "weight 0: only when the others fail")
    return found if any(found) else [1 if entry.order == min(orders) else 0 for entry in entries]


def _speak_of_shares(entries: Sequence[_Entry], column: int | None) -> None:
    for entry in entries:
        params = entry.at.get("litellm_params")
        for number, key in enumerate(("weight", "rpm", "tpm")):
            at = (params.get(key) if params is not None else None) or entry.at.get(key)
            if at is None:
                continue
            if number == column and len(entries) > 1:
                if key == "weight":
                    at.taken("weight of the deployment")
                else:
                    at.differently(f"its share of the calls; {_LIMITS}")
            elif key == "weight":
                at.taken("the only deployment of its name")
            else:
                at.not_taken(f"tells no share of the calls here; {_LIMITS}")


# Aliases and fallbacks


def alias(drafts: dict[str, Draft], plain: Container[str], name: str, target: str) -> str:
    """Adds a row `name` that is served as `target` is. Why not, or nothing. `plain`: rows that have no deployments."""
    if name in drafts:
        return "a model of this name is there already"
    if target not in drafts:
        return "leads to no model that was taken"
    if not name.isprintable() or not 1 <= len(name) <= 200 or name != name.strip() or "*" in name:
        return "a name is 1 to 200 printable characters, and no wildcard"
    there = drafts[target]
    if target in plain:
        drafts[name] = Draft(name, there.endpoints, [Place("", "", {}, 1, target)])
    else:
        drafts[name] = replace(there, name=name, places=list(there.places))
    return ""


def fall_back(
    drafts: Mapping[str, Draft], originals: Mapping[str, Draft], plain: Container[str], name: str, target: str
) -> str:
    """Adds the places of `target` to `name`, of weight 0. Why not, or nothing. `originals`: before any fallback."""
    if name not in originals or target not in originals:
        return "names a model that was not taken"
    draft, other = drafts[name], originals[target]
    if name == target:
        return "leads to itself"
    if not set(draft.endpoints) <= set(other.endpoints):
        return f"{target} does not serve all endpoints of {name}"
    if unpriced(draft) != unpriced(other):
        return "one of the two has no price"
    by_name = [Place("", "", {}, 0, target)]
    places = by_name if target in plain else [replace(place, weight=0) for place in other.places]
    standing = {place.where for place in draft.places}
    new = [place for place in places if place.where not in standing]
    if len(draft.places) + len(new) > DEPLOYMENTS_MAX:
        return f"a model has at most {DEPLOYMENTS_MAX} deployments"
    draft.places += new
    return ""
