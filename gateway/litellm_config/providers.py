"""Which provider row a deployment of LiteLLM's becomes: `azure/my-deployment` and its address, key and version.

Addresses, environment variables and prefixes as in litellm 1.106.2 (`litellm_core_utils/get_llm_provider_logic.py`,
`types/utils.py`), read on 2026-11-21. What the gateway speaks itself becomes such a row, OpenAI's dialect where a provider
has it without quirks; all others go through that library, which knows their quirks.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.litellm_config.source import At

__all__ = ["Provider", "Providers", "Target", "split_model"]

_ENV_PREFIX = "os.environ/"
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_FIELD = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{1,200}")
_NO_KEY = frozenset("none null empty dummy fake anything fake-key fake_key not-needed no-key ollama sk-fake".split())
"""What people write where a server wants no key."""


class _Known(NamedTuple):
    """How a prefix of LiteLLM's is spoken to."""

    dialect: str
    base_url: str = ""
    """Empty: the file has to say."""
    key_env: str = ""
    """Where LiteLLM looks for the key if the file names none."""
    extras: Mapping[str, object] = {}
    """More keys of the provider row."""


_MAX_TOKENS = {"max_tokens_field": "max_tokens"}
_KNOWN: Mapping[str, _Known] = {
    "openai": _Known("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    "text-completion-openai": _Known("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    "azure": _Known("openai", "", "AZURE_API_KEY", {"auth_header": "api-key"}),
    "azure_text": _Known("openai", "", "AZURE_API_KEY", {"auth_header": "api-key"}),
    "anthropic": _Known(
        "anthropic",
        "https://api.anthropic.com/v1",
        "ANTHROPIC_API_KEY",
        {"auth_header": "x-api-key", "headers": {"anthropic-version": "2023-06-01"}},
    ),
    "gemini": _Known(
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta",
        "GEMINI_API_KEY",
        {"auth_header": "x-goog-api-key"},
    ),
    "fal_ai": _Known("fal", "https://fal.run", "FAL_AI_API_KEY", {"auth_scheme": "Key"}),
    "ollama": _Known("openai", "http://127.0.0.1:11434/v1", "", _MAX_TOKENS),
    "ollama_chat": _Known("openai", "http://127.0.0.1:11434/v1", "", _MAX_TOKENS),
    "groq": _Known("openai", "https://api.groq.com/openai/v1", "GROQ_API_KEY", {"drop_fields": ["store", "metadata"]}),
    "openrouter": _Known("openai", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "deepseek": _Known("openai", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", _MAX_TOKENS),
    "xai": _Known("openai", "https://api.x.ai/v1", "XAI_API_KEY"),
    "together_ai": _Known("openai", "https://api.together.ai/v1", "TOGETHERAI_API_KEY", _MAX_TOKENS),
    "cerebras": _Known("openai", "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "nvidia_nim": _Known("openai", "https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY", _MAX_TOKENS),
    "sambanova": _Known("openai", "https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY", _MAX_TOKENS),
    "hosted_vllm": _Known("openai", "", "", _MAX_TOKENS),
    "vllm": _Known("openai", "", "", _MAX_TOKENS),
    "openai_like": _Known("openai", "", "", _MAX_TOKENS),
    "custom_openai": _Known("openai", "", "", _MAX_TOKENS),
    "lm_studio": _Known("openai", "", "", _MAX_TOKENS),
    "llamafile": _Known("openai", "http://127.0.0.1:8080/v1", "", _MAX_TOKENS),
    "litellm_proxy": _Known("openai", "", ""),
}
"""Hosts are those that LiteLLM itself sends to, which a test asks of it; read of version 1.106.2."""
_BY_LIBRARY = frozenset(
    """
    ai21 ai21_chat aiml amazon_nova anyscale azure_ai baseten bedrock bytez chutes clarifai cloudflare codestral cohere
    cohere_chat cometapi compactifai dashscope databricks datarobot deepinfra docker_model_runner featherless_ai
    fireworks_ai friendliai galadriel gigachat github github_copilot gradient_ai heroku huggingface hyperbolic inception
    infinity jina_ai lambda_ai lemonade maritalk meta_llama minimax mistral modelscope moonshot morph nebius nlp_cloud
    novita nscale oci oobabooga ovhcloud perplexity petals poe predibase publicai qwencloud recraft replicate sagemaker
    sagemaker_chat sap scaleway snowflake stability synthetic tencent topaz triton v0 vercel_ai_gateway vertex_ai
    vertex_ai_beta volcengine voyage wandb watsonx watsonx_text xinference zai
    """.split()
)
"""Other providers of that library, spoken to through it. It looks for their keys where its own proxy does."""
_BARE = (
    (re.compile(r"(gpt-|chatgpt-|o[1-9]|text-embedding-|dall-e|gpt-image|whisper|tts-|omni-moderation)"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"gemini-"), "vertex_ai"),
    (re.compile(r"command-"), "cohere"),
)
"""Names that LiteLLM knows without a prefix."""


class Target(NamedTuple):
    """`azure/responses/my-deployment`, taken apart."""

    prefix: str
    model: str
    by_responses: bool = False


@dataclass(frozen=True)
class Provider:
    """`[providers.NAME]` to be written; the name is given later, so that equal ones are one."""

    prefix: str
    dialect: str
    base_url: str
    api_key_env: str
    query: str = ""
    extras: Mapping[str, object] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, object]:
        """The keys of the row, in the order of the documentation."""
        row: dict[str, object] = {"dialect": self.dialect}
        if self.dialect == "litellm":
            row["litellm_provider"] = self.prefix
        row["base_url"] = self.base_url
        optional = {"api_key_env": self.api_key_env, "query": self.query}
        return row | {key: value for key, value in optional.items() if value} | dict(self.extras)


def split_model(model: str, custom: str = "") -> Target | None:
    """The provider's prefix and its own name for the model; None where LiteLLM could not tell either."""
    prefix, slash, rest = model.partition("/")
    if custom and (custom in _KNOWN or custom in _BY_LIBRARY):
        rest = rest if slash and prefix == custom else model
        return _responses(Target(custom, rest))
    if slash and (prefix in _KNOWN or prefix in _BY_LIBRARY) and rest:
        return _responses(Target(prefix, rest))
    found = next((provider for pattern, provider in _BARE if pattern.match(model)), None)
    return Target(found, model) if found and not slash else None


def _responses(target: Target) -> Target:
    if target.prefix in ("openai", "azure") and target.model.startswith("responses/"):
        return Target(target.prefix, target.model.removeprefix("responses/"), by_responses=True)
    return target


class Providers:
    """Names provider rows and the environment variables of their keys."""

    def __init__(self, variables: Mapping[str, str], referred: Collection[str]) -> None:
        """`variables`: what the file sets in `environment_variables`; `referred`: all that it refers to."""
        self._variables = variables
        self._referred = referred
        self.rows: dict[str, Provider] = {}
        self.secrets: dict[str, str] = {}
        """Environment variable -> what it is for."""
        self._literal_keys: dict[tuple[str, str], str] = {}

    def name_of(self, provider: Provider) -> str:
        """The row's name; equal rows have one."""
        for name, known in self.rows.items():
            if known == provider:
                return name
        name, number = provider.prefix, 1
        while name in self.rows:
            number += 1
            name = f"{provider.prefix}-{number}"
        self.rows[name] = provider
        if provider.api_key_env:
            self.secrets.setdefault(provider.api_key_env, f"provider key of [providers.{name}]")
        return name

    def read(self, params: At, target: Target) -> "Provider | str":
        """The provider of a deployment's `litellm_params`, or why there can be none. Speaks of the keys it looks at."""
        known = _KNOWN.get(target.prefix) or _Known("litellm")
        base = self._base_url(params, known, target)
        if isinstance(base, _Refused):
            return base.why
        key_env = self._key(params, known, target.prefix)
        extras = dict(known.extras)
        self._organization(params, known, extras)
        _drop_fields(params, known, extras)
        query = ""
        if target.prefix in ("azure", "azure_text"):
            base, query = _azure(params, base, target.model)
        elif (version := params.get("api_version")) is not None:
            version.not_taken("only Azure has one")
        return Provider(target.prefix, known.dialect, base, key_env, query, extras)

    def _base_url(self, params: At, known: _Known, target: Target) -> "str | _Refused":
        at = params.get("api_base") or params.get("base_url")
        if at is None:
            if not known.base_url and known.dialect != "litellm":
                return _Refused(
                    f"{target.prefix} needs an api_base in the file: the gateway reads no address elsewhere"
                )
            return known.base_url
        url = at.value if isinstance(at.value, str) else ""
        if url.startswith(_ENV_PREFIX):
            variable = url.removeprefix(_ENV_PREFIX)
            url = self._variables.get(variable, "")
            if not url:
                why = (
                    f"an address stands in the catalog, not in the environment: write what {_variable(variable)} holds"
                )
                at.not_taken(why)
                return _Refused(f"its api_base is in the environment: {why}")
        if not _is_address(url):
            why = "must be http:// or https:// with a host, without user, query and fragment"
            at.not_taken(why)
            return _Refused(f"its api_base {why}")
        base, note = _adapted(url.rstrip("/"), known.dialect, target.prefix)
        if note:
            at.differently(note)
        else:
            at.taken("base_url")
        return base

    def _key(self, params: At, known: _Known, prefix: str) -> str:
        at = params.get("api_key")
        if at is None:
            return known.key_env
        if not isinstance(at.value, str):
            at.not_taken("is no text")
            return known.key_env
        if at.value.startswith(_ENV_PREFIX):
            name = at.value.removeprefix(_ENV_PREFIX)
            if _ENV_NAME.fullmatch(name):
                at.taken(f"api_key_env, {name}")
                return name
            at.not_taken("names no usable environment variable")
            return known.key_env
        if at.value.lower() in _NO_KEY:
            at.differently("looks like a placeholder: no key is sent")
            return ""
        name = self._variable_of(prefix, at.value, known.key_env)
        at.differently(f"a key does not belong into a file: put it into the environment variable {name}")
        return name

    def _variable_of(self, prefix: str, secret: str, usual: str) -> str:
        """A variable for a key that stands in the file; the same key has the same one."""
        if (prefix, secret) not in self._literal_keys:
            stem = usual or re.sub(r"[^A-Z0-9]", "_", prefix.upper()) + "_API_KEY"
            taken = {*self._literal_keys.values(), *self._referred}
            name, number = stem, 1
            while name in taken:
                number += 1
                name = f"{stem}_{number}"
            self._literal_keys[prefix, secret] = name
        return self._literal_keys[prefix, secret]

    def _organization(self, params: At, known: _Known, extras: dict[str, object]) -> None:
        at = params.get("organization")
        if at is None:
            return
        is_literal = isinstance(at.value, str) and not at.value.startswith(_ENV_PREFIX)
        if known.dialect == "openai" and is_literal and _HEADER_VALUE.fullmatch(at.value):
            extras["headers"] = {"openai-organization": at.value}
            at.taken("header openai-organization of the provider")
        else:
            at.not_taken("write it yourself: headers = { openai-organization = ... } of the provider")


class _Refused(NamedTuple):
    why: str


def _variable(name: str) -> str:
    return name if _ENV_NAME.fullmatch(name) else "the variable"


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = url.isprintable() and not set(" ?#@\\") & set(url) and len(url) <= 1_000
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port_ok and plain


def _adapted(url: str, dialect: str, prefix: str) -> tuple[str, str]:
    """The address as this gateway wants it, and what was changed."""
    if dialect == "litellm" or prefix in ("azure", "azure_text"):
        return url, ""
    for tail in ("/chat/completions", "/completions", "/embeddings", "/messages"):
        if url.endswith(tail):
            return url.removesuffix(tail), f"base_url without {tail}"
    if dialect == "anthropic" and not url.endswith("/v1"):
        return f"{url}/v1", "base_url with /v1 at its end, which LiteLLM adds by itself"
    if prefix in ("ollama", "ollama_chat") and not url.endswith("/v1"):
        return f"{url}/v1", "base_url with /v1 at its end: Ollama's OpenAI-compatible side"
    if dialect == "gemini" and not re.search(r"/v1(alpha|beta)?$", url):
        return f"{url}/v1beta", "base_url with /v1beta at its end"
    return url, ""


def _azure(params: At, base: str, deployment: str) -> tuple[str, str]:
    """Base URL and query: the endpoint that has a version, where the file names one, else the newer one without."""
    root = re.sub(r"/openai(/v1|/deployments/[^/]*)?$", "", base)
    version = params.get("api_version")
    if version is not None and isinstance(version.value, str) and _VERSION.fullmatch(version.value):
        version.taken("query api-version")
        return f"{root}/openai/deployments/{deployment}", f"api-version={version.value}"
    if version is not None:
        version.differently("Azure's v1 endpoint, which needs no version")
    return f"{root}/openai/v1", ""


def _drop_fields(params: At, known: _Known, extras: dict[str, object]) -> None:
    at = params.get("additional_drop_params")
    if at is None:
        return
    fields = at.words()
    if known.dialect != "openai" or not fields or not all(_FIELD.fullmatch(each) for each in fields):
        at.not_taken("drop_fields of a provider of OpenAI's dialect holds plain names of fields, and nothing else")
        return
    standing = extras.get("drop_fields", [])
    extras["drop_fields"] = sorted({*fields, *(standing if isinstance(standing, list) else [])})
    at.taken("drop_fields of the provider")
