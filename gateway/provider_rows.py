"""A provider row: where a provider is, how it wants to be spoken to, and the quirks of its dialect, as pricing.toml has it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args
from urllib.parse import urlsplit

from gateway.toml_file import Table

__all__ = ["DIALECTS", "MaxTokensField", "ProviderRow", "StreamUsage", "read_provider"]

StreamUsage = Literal["inject", "always", "never"]
MaxTokensField = Literal["max_completion_tokens", "max_tokens"]

DIALECTS = frozenset({"openai", "anthropic", "gemini", "fal", "litellm", "mock"})
"""What the gateway can speak to a provider."""
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADER = re.compile(r"[a-z][a-z0-9-]{0,63}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{1,500}")
_QUERY = re.compile(r"[A-Za-z0-9._~-]+=[A-Za-z0-9._~%-]*(?:&[A-Za-z0-9._~-]+=[A-Za-z0-9._~%-]*)*")
_FIXED_HEADERS_MAX = 20
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HEADERS_TAKEN = frozenset(
    "host connection content-length content-type transfer-encoding te upgrade expect accept accept-encoding user-agent".split()
)


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """`[providers.NAME]`."""

    name: str
    dialect: str
    base_url: str = ""
    """Without a slash at its end."""
    api_key_env: str = ""
    """Environment variable that holds the provider key; empty for providers that need none."""
    auth_header: str = "authorization"
    """`authorization` sends `Bearer KEY`; any other header name carries the bare key (Azure: `api-key`)."""
    auth_scheme: str = ""
    """The word before the key where it is not that: fal wants `Key`."""
    query: str = ""
    """Added to every path: `api-version=2024-10-21` for Azure's older endpoints."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every call, e.g. `anthropic-version`. Never secrets."""
    drop_fields: frozenset[str] = frozenset()
    """Fields of OpenAI's request that this provider refuses and that are left out for it (`store`, `metadata`)."""
    stream_usage: StreamUsage = "inject"
    """How streams report usage: `inject` asks with `stream_options.include_usage`, `always` needs no asking, `never` has none."""
    retry_unanswered: bool = False
    """A request on a reused connection that closed before any answer byte may be sent once more."""
    gone_grace_s: float | None = None
    unlisted_is_reasoning: bool = False
    """Tokens in `total_tokens` that neither the prompt nor the completion accounts for are reasoning (Gemini)."""
    max_tokens_field: MaxTokensField = "max_completion_tokens"
    """Where the gateway writes a bound of the output that the caller did not set (Ollama only knows `max_tokens`)."""
    litellm_provider: str = ""
    """Of the dialect `litellm`: which of that library's providers it is (`bedrock`, `cohere`)."""


def read_provider(name: str, table: Table) -> ProviderRow:
    """The row in the table of the provider `name`. Faults are noted."""
    table.refuse_unknown(ProviderRow.__dataclass_fields__.keys() - {"name"})
    if not _WORD.fullmatch(name):
        table.fault(f"a provider's name must match {_WORD.pattern}")
    dialect = table.text("dialect", default=None)
    if dialect and dialect not in DIALECTS:
        table.fault(f"unknown dialect; known are {', '.join(sorted(DIALECTS))}", "dialect")
    stream_usage = table.text("stream_usage") or "inject"
    if stream_usage not in get_args(StreamUsage):
        table.fault(f"must be one of {', '.join(get_args(StreamUsage))}", "stream_usage")
    max_tokens_field = table.text("max_tokens_field") or "max_completion_tokens"
    if max_tokens_field not in get_args(MaxTokensField):
        table.fault(f"must be one of {', '.join(get_args(MaxTokensField))}", "max_tokens_field")
    api_key_env = table.text("api_key_env")
    if api_key_env and not _ENV_NAME.fullmatch(api_key_env):
        # The value is not repeated: it may be a key, pasted where its variable's name belongs.
        table.fault("must be the name of an environment variable, never the key itself", "api_key_env")
    grace_ms = table.decimal("gone_grace_s", scale=3, at_most=600)
    return ProviderRow(
        name=name,
        dialect=dialect,
        base_url=_base_url(table, dialect),
        api_key_env=api_key_env,
        auth_header=_auth_header(table),
        auth_scheme=_auth_scheme(table),
        query=_query(table),
        headers=_fixed_headers(table),
        drop_fields=table.words("drop_fields", allowed=_WORD),
        stream_usage=cast(StreamUsage, stream_usage),
        retry_unanswered=table.flag("retry_unanswered", default=False),
        gone_grace_s=None if grace_ms is None else grace_ms / 1000,
        unlisted_is_reasoning=table.flag("unlisted_is_reasoning", default=False),
        max_tokens_field=cast(MaxTokensField, max_tokens_field),
        litellm_provider=_litellm_provider(table, dialect),
    )


def _litellm_provider(table: Table, dialect: str) -> str:
    name = table.text("litellm_provider")
    if bool(name) != (dialect == "litellm") or (name and not _WORD.fullmatch(name)):
        table.fault("is what a provider of the dialect litellm, and no other, has to name", "litellm_provider")
    return name


def _base_url(table: Table, dialect: str) -> str:
    url = table.text("base_url", chars_max=2000)
    if not url:
        if dialect != "mock" and "base_url" not in table.data:
            table.fault("base_url is missing")
        return ""
    try:
        parts = urlsplit(url)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        table.fault("is not a URL", "base_url")
        return ""
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_ok or " " in url:
        table.fault("must be http:// or https:// with a host", "base_url")
    elif "@" in parts.netloc:
        table.fault("must not hold a user or password: keys belong into api_key_env", "base_url")
    elif "?" in url or "#" in url:
        table.fault("must not have a query or a fragment", "base_url")
    return url.rstrip("/")


def _auth_header(table: Table) -> str:
    name = (table.text("auth_header") or "authorization").lower()
    if not _HEADER.fullmatch(name) or name in _HEADERS_TAKEN:
        table.fault("must be a header name that the request does not need otherwise", "auth_header")
    return name


def _auth_scheme(table: Table) -> str:
    scheme = table.text("auth_scheme")
    if scheme and not _WORD.fullmatch(scheme):
        table.fault(f"must match {_WORD.pattern}", "auth_scheme")
    return scheme


def _query(table: Table) -> str:
    query = table.text("query", chars_max=500)
    if query and not _QUERY.fullmatch(query):
        table.fault("must be name=value pairs joined by &, without a question mark", "query")
    return query


def _fixed_headers(table: Table) -> dict[str, str]:
    data = table.data.get("headers", {})
    if not isinstance(data, dict) or len(data) > _FIXED_HEADERS_MAX:
        table.fault(f"must be a table of at most {_FIXED_HEADERS_MAX} headers", "headers")
        return {}
    for name, value in data.items():
        if not _HEADER.fullmatch(name) or name in _HEADERS_TAKEN or name in ("authorization", "cookie"):
            table.fault(
                f"{name} must be a header name in lower case that the request does not need otherwise", "headers"
            )
        elif not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            table.fault(f"the value of {name} must be text of one line", "headers")
    return {name: value for name, value in data.items() if isinstance(value, str)}
